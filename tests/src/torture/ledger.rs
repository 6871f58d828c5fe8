//! What each box pulled of each object, as counted where the origin's bytes leave; and what it may pull.
//!
//! A kill may cost the piece on its way, of each object. What lay on the disk then, verified, must not be asked for again:
//! the ledger is told where the next range has to start at the least.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use content::checksum::PIECE_BYTES;
use content::id::ObjectId;

use crate::verdict::Verdict;

#[derive(Clone, Default)]
pub struct Ledger {
    accounts: Arc<Mutex<Accounts>>,
    verdict: Verdict,
}

#[derive(Default)]
struct Accounts {
    pulled: BTreeMap<(String, ObjectId), Account>,
    /// Titles went or came back since the last quiet time: what was begun of these may be given up and begun anew.
    disturbed: BTreeSet<ObjectId>,
    /// Pieces handed out to each box since the run's begin.
    pieces: BTreeMap<String, u64>,
    /// Of all that is closed.
    total: Total,
}

#[derive(Clone, Debug, Default)]
struct Account {
    bytes: u64,
    trees: u64,
    kills: u64,
    /// The next range starts here or later.
    least: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub objects: u64,
    /// Pulled at all, and of that more than once.
    pub bytes: u64,
    pub bytes_twice: u64,
    /// Downloads that went on behind what was on the disk.
    pub resumed: u64,
}

impl Ledger {
    pub fn new(verdict: Verdict) -> Self {
        Self { accounts: Arc::default(), verdict }
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `gone` says whether who asks has ended. It is asked while nobody can be told of a kill: what a killed agent still
    /// seems to ask is not held against the next one. True if it has.
    pub fn range_asked(&self, name: &str, object: ObjectId, first: u64, gone: impl FnOnce() -> bool) -> bool {
        let mut accounts = self.lock();
        if gone() {
            return true;
        }
        let account = accounts.pulled.entry((name.to_owned(), object)).or_default();
        let least = account.least;
        if first < least {
            self.verdict.broken(format!(
                "{name} starts over: it asks for {object} from byte {first}, and {least} bytes were on its disk, right, when \
                 it was killed"
            ));
        } else if least > 0 && first == least {
            accounts.total.resumed += 1;
        }
        false
    }

    /// Before it is sent.
    pub fn sent(&self, name: &str, object: ObjectId, bytes: u64, gone: impl FnOnce() -> bool) -> bool {
        let ended = self.count(name, object, gone, |account| account.bytes += bytes);
        *self.lock().pieces.entry(name.to_owned()).or_default() += u64::from(!ended);
        ended
    }

    /// So many were handed to the box since the run's begin.
    pub fn pieces(&self, name: &str) -> u64 {
        self.lock().pieces.get(name).copied().unwrap_or(0)
    }

    pub fn tree_sent(&self, name: &str, object: ObjectId, gone: impl FnOnce() -> bool) -> bool {
        self.count(name, object, gone, |account| account.trees += 1)
    }

    fn count(
        &self,
        name: &str,
        object: ObjectId,
        gone: impl FnOnce() -> bool,
        add: impl FnOnce(&mut Account),
    ) -> bool {
        let mut accounts = self.lock();
        let ended = gone();
        if !ended {
            add(accounts.pulled.entry((name.to_owned(), object)).or_default());
        }
        ended
    }

    /// A kill that may cost this box a piece of everything that is on its way: its own agent's, or the origin's.
    pub fn killed(&self, name: &str) {
        self.lock().pulled.iter_mut().filter(|((of, _), _)| of == name).for_each(|(_, a)| a.kills += 1);
    }

    /// So many bytes of the object lie on the box's disk, from the first on, and are right.
    pub fn on_disk(&self, name: &str, object: ObjectId, bytes: u64) {
        let mut accounts = self.lock();
        if !accounts.disturbed.contains(&object) {
            accounts.pulled.entry((name.to_owned(), object)).or_default().least = bytes;
        }
    }

    /// Its title goes or comes back: it may be pulled anew, from the start.
    pub fn disturb(&self, object: ObjectId) {
        let mut accounts = self.lock();
        accounts.disturbed.insert(object);
        accounts.pulled.retain(|(_, of), _| *of != object);
    }

    /// Everything is where it belongs: compares what was pulled with what that may have cost.
    pub fn settle(&self, sizes: &BTreeMap<ObjectId, u64>) {
        let mut accounts = self.lock();
        let accounts = &mut *accounts;
        for ((name, object), account) in &accounts.pulled {
            let Some(size) = sizes.get(object) else { continue };
            let twice = account.bytes.saturating_sub(*size);
            // An object that was complete is not pulled again: then `bytes` is nothing or what came since.
            if twice > account.kills * PIECE_BYTES || account.trees > 1 + account.kills {
                self.verdict.broken(format!(
                    "{name} pulled {} bytes and {} trees of {object}, which has {size} bytes, over {} kills",
                    account.bytes, account.trees, account.kills
                ));
            }
            accounts.total.objects += 1;
            accounts.total.bytes += account.bytes;
            accounts.total.bytes_twice += twice;
        }
        // What is held is not pulled again: every byte from here on would be one too many.
        for ((_, object), account) in &mut accounts.pulled {
            let held = sizes.get(object).copied().unwrap_or(0);
            *account = Account { bytes: held, trees: 1, kills: 0, least: held };
        }
        accounts.pulled.retain(|(_, object), _| sizes.contains_key(object));
        accounts.disturbed.clear();
    }

    pub fn total(&self) -> Total {
        self.lock().total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, Verdict, ObjectId) {
        let verdict = Verdict::default();
        (Ledger::new(verdict.clone()), verdict, ObjectId::of(b"x"))
    }

    #[test]
    fn a_piece_a_kill_is_allowed_and_not_a_byte_more() {
        for (more, fits) in [(0, true), (1, false)] {
            let (ledger, verdict, object) = ledger();
            assert!(!ledger.sent("box-a", object, 1_000_000, || false));
            ledger.killed("box-a");
            assert!(!ledger.sent("box-a", object, PIECE_BYTES + more, || false));
            ledger.settle(&BTreeMap::from([(object, 1_000_000)]));
            assert_eq!(verdict.check().is_ok(), fits);
        }
    }

    #[test]
    fn a_download_that_starts_before_what_was_on_the_disk_is_noticed() {
        let (ledger, verdict, object) = ledger();
        ledger.on_disk("box-a", object, 2 * PIECE_BYTES);
        assert!(!ledger.range_asked("box-b", object, 0, || false));
        assert!(!ledger.range_asked("box-a", object, 2 * PIECE_BYTES, || false));
        assert!(verdict.check().is_ok());
        assert_eq!(ledger.total().resumed, 1);
        assert!(ledger.range_asked("box-a", object, 0, || true), "what the killed one asked does not count");
        assert!(verdict.check().is_ok());
        assert!(!ledger.range_asked("box-a", object, PIECE_BYTES, || false));
        assert!(verdict.check().is_err());
    }

    #[test]
    fn what_is_held_is_not_pulled_again_unless_its_title_went() {
        for (gone, fits) in [(true, true), (false, false)] {
            let (ledger, verdict, object) = ledger();
            assert!(!ledger.sent("box-a", object, 500, || false));
            ledger.settle(&BTreeMap::from([(object, 500)]));
            if gone {
                ledger.disturb(object);
            }
            assert!(!ledger.range_asked("box-a", object, 0, || false));
            assert!(!ledger.sent("box-a", object, 500, || false));
            ledger.settle(&BTreeMap::from([(object, 500)]));
            assert_eq!(verdict.check().is_ok(), fits);
        }
    }
}
