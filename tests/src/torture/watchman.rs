//! Looks all the time, also in the middle of things, at what must hold at any instant: no file goes while a generation
//! that is in use names it, `current` names a whole catalogue and never goes back, the origin never names what it lacks.

use std::path::PathBuf;
use std::time::Duration;

use content::control_socket::ServerStatus;
use xtask::clock;

use crate::audit;
use crate::shelves::Disks;
use crate::stage::ask_status;
use crate::verdict::Verdict;

const LOOK_EVERY: Duration = Duration::from_millis(10);

pub struct Watchman {
    pub boxes: Vec<(Disks, PathBuf)>,
    pub origin: PathBuf,
    pub verdict: Verdict,
}

impl Watchman {
    /// Until the process ends.
    pub fn start(self) {
        std::thread::spawn(move || {
            let mut currents = vec![0; self.boxes.len()];
            loop {
                for ((disks, socket), seen) in self.boxes.iter().zip(&mut currents) {
                    self.look(disks, || ask_status(socket), seen);
                }
                for complaint in audit::named_is_there(&self.origin) {
                    self.verdict.broken(complaint.text);
                }
                clock::pause(LOOK_EVERY);
            }
        });
    }

    /// The order matters: what is gone is seen first, then the server is asked what it uses, which only ever rises.
    fn look(&self, disks: &Disks, ask: impl FnOnce() -> Option<ServerStatus>, seen: &mut u64) {
        if let Ok(current) = disks.current() {
            if current < *seen {
                self.verdict.broken(format!("{}: `current` went back from {seen} to {current}", disks.name));
            }
            *seen = current;
        }
        let mut gone = Vec::new();
        for generation in disks.generations() {
            // It may be removed under our eyes; the current one is read in whole by `audit`.
            let Ok(contents) = disks.generation(generation) else { continue };
            let named = disks.named(&contents).unwrap_or_default();
            gone.extend(named.into_keys().filter(|path| !path.exists()).map(|path| (generation, path)));
        }
        if gone.is_empty() {
            return;
        }
        let Some(status) = ask().filter(|status| status.generation != 0) else { return };
        for (generation, path) in
            gone.into_iter().filter(|(generation, _)| *generation >= status.oldest_in_use)
        {
            self.verdict.broken(format!(
                "{}: {} is gone, generation {generation} names it, and the server still uses generation {} (its newest is {})",
                disks.name,
                path.display(),
                status.oldest_in_use,
                status.generation
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use content::catalogue::{CATALOGUE_FOLDER, CURRENT_NAME, build, current_bytes, generation_name};

    use super::*;
    use crate::audit::tests::{contents_of, status};

    #[test]
    fn a_file_that_goes_while_its_generation_is_in_use_is_noticed() {
        for (oldest_in_use, fits) in [(1, false), (2, true)] {
            let folder = tempfile::tempdir().unwrap();
            let (disks, first) = contents_of(folder.path(), &[b"one", b"two"]);
            let catalogue = disks.state.join(CATALOGUE_FOLDER);
            let mut second = first.clone();
            second.generation = 2;
            let dropped = disks.path_of(&first, &second.files.pop().unwrap()).unwrap();
            second.entries.retain(|entry| entry.file == 0);
            fs::write(catalogue.join(generation_name(2)), build::to_bytes(second).unwrap()).unwrap();
            fs::write(catalogue.join(CURRENT_NAME), current_bytes(2)).unwrap();
            fs::remove_file(dropped).unwrap();
            let verdict = Verdict::default();
            let watchman = Watchman {
                boxes: Vec::new(),
                origin: folder.path().join("origin"),
                verdict: verdict.clone(),
            };
            let mut seen = 0;
            watchman.look(&disks, || Some(status(2, oldest_in_use)), &mut seen);
            assert_eq!((verdict.check().is_ok(), seen), (fits, 2));
        }
    }
}
