//! Waits for a point's moment: a time, or the n-th name that is made, moved or removed in some folders.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use xtask::clock;
use xtask::stop::Stop;

use crate::points::Moment;

/// Shorter waits are spun through: the scheduler would make them longer.
const SPIN: Duration = Duration::from_millis(1);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// Must be made before the operation begins, or its first names are missed.
pub struct Trigger {
    inotify: Inotify,
    folders: Vec<(WatchDescriptor, PathBuf)>,
    seen: u32,
}

impl Trigger {
    pub fn on(folders: &[PathBuf]) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("inotify")?;
        let mut trigger = Self { inotify, folders: Vec::new(), seen: 0 };
        for folder in folders {
            std::fs::create_dir_all(folder)?;
            trigger.watch(folder)?;
        }
        Ok(trigger)
    }

    /// The folder and all below it.
    fn watch(&mut self, folder: &Path) -> Result<()> {
        let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        let number = self.inotify.add_watch(folder, names | AddWatchFlags::IN_ONLYDIR);
        let number = number
            .with_context(|| format!("cannot watch {} (fs.inotify.max_user_watches)", folder.display()))?;
        self.folders.push((number, folder.to_owned()));
        for entry in std::fs::read_dir(folder)?.flatten() {
            if entry.file_type()?.is_dir() {
                self.watch(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns at the moment, or at `limit`. True: the moment came.
    /// `pieces` have been handed out since the operation began.
    pub fn wait(
        &mut self,
        stop: &Stop,
        moment: Moment,
        limit: Duration,
        pieces: impl Fn() -> u64,
    ) -> Result<bool> {
        let start = clock::now();
        match moment {
            Moment::After(time) => {
                wait_until(stop, start, time.min(limit))?;
                Ok(true)
            }
            Moment::AtPiece { count, then } => {
                while pieces() < u64::from(count) {
                    stop.check()?;
                    if start.elapsed() >= limit {
                        return Ok(false);
                    }
                    clock::pause(LOOK_EVERY);
                }
                wait_until(stop, clock::now(), then)?;
                Ok(true)
            }
            Moment::AtName { count, then } => {
                while self.seen < count {
                    stop.check()?;
                    if start.elapsed() >= limit {
                        return Ok(false);
                    }
                    self.look(count)?;
                }
                wait_until(stop, clock::now(), then)?;
                Ok(true)
            }
        }
    }

    fn look(&mut self, enough: u32) -> Result<()> {
        let mut ready = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(50_u8)) {
            // Any signal, SIGCONT among them: looked at by whoever waits.
            Err(Errno::EINTR) => return Ok(()),
            other => other?,
        };
        let events = match self.inotify.read_events() {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            other => other?,
        };
        for event in events {
            self.seen += 1;
            if self.seen >= enough {
                return Ok(());
            }
            if event.mask.contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR) {
                let of = self.folders.iter().find(|(number, _)| *number == event.wd);
                let made = of.and_then(|(_, folder)| Some(folder.join(event.name?)));
                if let Some(made) = made.filter(|made| made.is_dir()) {
                    self.watch(&made)?;
                }
            }
        }
        Ok(())
    }
}

fn wait_until(stop: &Stop, start: Instant, time: Duration) -> Result<()> {
    loop {
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        stop.check()?;
        if left > SPIN {
            clock::pause((left - SPIN).min(Duration::from_millis(50)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_name_is_waited_for_even_in_a_folder_that_is_made_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        let mut trigger = Trigger::on(std::slice::from_ref(&root)).unwrap();
        let (told, go) = std::sync::mpsc::channel::<()>();
        let maker = std::thread::spawn(move || {
            std::fs::create_dir(root.join("made")).unwrap();
            go.recv().unwrap();
            std::fs::write(root.join("made/one"), b"").unwrap();
            std::fs::rename(root.join("made/one"), root.join("made/two")).unwrap();
        });
        let stop = Stop::default();
        let at = |count| Moment::AtName { count, then: Duration::ZERO };
        assert!(trigger.wait(&stop, at(1), Duration::from_secs(10), || 0).unwrap());
        // The folder is watched once its event has been read as one of several.
        trigger.watch(&folder.path().join("made")).unwrap();
        told.send(()).unwrap();
        assert!(trigger.wait(&stop, at(3), Duration::from_secs(10), || 0).unwrap());
        maker.join().unwrap();
        let piece = Moment::AtPiece { count: 2, then: Duration::ZERO };
        assert!(trigger.wait(&stop, piece, Duration::from_secs(10), || 2).unwrap());
        assert!(!trigger.wait(&stop, piece, Duration::from_millis(20), || 1).unwrap());
        assert!(!trigger.wait(&stop, at(9), Duration::from_millis(60), || 0).unwrap());
    }
}
