//! Saves in the state folder what a start without the control plane needs. What cannot be saved is kept here and tried
//! again: a full disk that gets room costs nothing. Impure.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

type Save = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

#[derive(Clone, Default)]
pub struct Savings {
    /// By what it is: the newest that could not be saved, and why.
    waiting: Arc<Mutex<BTreeMap<&'static str, (Save, String)>>>,
    /// One at a time, so that nothing is saved over something newer.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Savings {
    pub async fn save(&self, what: &'static str, save: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        let _turn = self.turn.lock().await;
        self.attempt(what, Arc::new(save)).await;
    }

    /// Gives what is still not saved, a sentence each.
    pub async fn try_again(&self) -> Vec<String> {
        // Else the disk hangs, or something newer is being saved.
        if let Ok(_turn) = self.turn.try_lock() {
            let waiting: Vec<_> =
                self.waiting().iter().map(|(what, (save, _))| (*what, Arc::clone(save))).collect();
            for (what, save) in waiting {
                self.attempt(what, save).await;
            }
        }
        self.waiting().iter().map(|(what, (_, reason))| sentence(what, reason)).collect()
    }

    async fn attempt(&self, what: &'static str, save: Save) {
        let work = Arc::clone(&save);
        let done = spawn_blocking(move || work()).await;
        let reason = match done.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => {
                if self.waiting().remove(what).is_some() {
                    tracing::info!("{what}: saved at last");
                }
                return;
            }
            Err(cause) => cause.to_string(),
        };
        let before = self.waiting().insert(what, (save, reason.clone()));
        if before.is_none_or(|(_, known)| known != reason) {
            tracing::error!(
                "{}: free space on the disk of the state folder, or make it writable; it is tried again",
                sentence(what, &reason)
            );
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<&'static str, (Save, String)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sentence(what: &str, reason: &str) -> String {
    format!("{what} cannot be saved ({reason}), and would be missing at a start without the control plane")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_saved_is_named_until_it_can_and_then_saved() {
        let (savings, full) = (Savings::default(), Arc::new(AtomicBool::new(true)));
        let disk = Arc::clone(&full);
        let save = move || match disk.load(Ordering::Relaxed) {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        };
        savings.save("the manifest", save).await;
        savings.save("the keys", || Ok(())).await;
        let waiting = savings.try_again().await;
        assert!(waiting.len() == 1 && waiting[0].starts_with("the manifest cannot be saved"), "{waiting:?}");
        full.store(false, Ordering::Relaxed);
        assert_eq!(savings.try_again().await, [""; 0]);
    }
}
