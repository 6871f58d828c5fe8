//! Looks every second whether a volume is still there, by its marker.
//!
//! One thread per volume, because a dying disk may hold whoever looks at it; nothing waits for these threads. At the
//! start and for a publication, [`read_all`] waits, but not for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use content::rot::RotPlace;
use content::volume::{MARKER_NAME, Marker, VolumeError, VolumeId};

use crate::config::read_marker;
use crate::holdings::{Holdings, VolumeIndex};
use crate::{rot, sys};

const EVERY: Duration = Duration::from_secs(1);
/// So long a healthy disk may take to wake up and give its marker.
const MARKER_MAX: Duration = Duration::from_secs(5);

/// Watches until the other end of `stop` is dropped.
pub fn start(
    index: VolumeIndex,
    path: PathBuf,
    holdings: Arc<Holdings>,
    stop: Receiver<()>,
) -> std::io::Result<()> {
    let watch = move || {
        while stop.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            look(index, &path, &holdings);
        }
    };
    // Not joined: it may hang on its disk.
    std::thread::Builder::new().name(format!("watch-{}", index.0)).spawn(watch).map(drop)
}

/// What a volume's marker says, or why it says nothing.
pub enum Read {
    Marker(VolumeId),
    Failed(String),
    /// The disk hangs, and a thread with it.
    Hangs,
}

/// Reads all markers at once, each on a thread that may hang on its disk.
pub fn read_all<'a>(volumes: impl Iterator<Item = &'a Path>) -> Vec<Read> {
    read_within(volumes, MARKER_MAX)
}

fn read_within<'a>(volumes: impl Iterator<Item = &'a Path>, limit: Duration) -> Vec<Read> {
    let start = |volume: &Path| {
        let (told, result) = mpsc::channel();
        let volume = volume.to_owned();
        // Nobody listens any more: it came too late.
        let read = move || told.send(read_marker(&volume)).unwrap_or_default();
        // Not joined. A thread that cannot be started drops its end, which is seen below.
        let thread = std::thread::Builder::new().name("marker".to_owned()).spawn(read);
        (thread.err(), result)
    };
    let started: Vec<_> = volumes.map(start).collect();
    let deadline = sys::now().0.saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let end = |(failed, result): (Option<std::io::Error>, Receiver<Result<VolumeId, String>>)| {
        let left = Duration::from_nanos(deadline.saturating_sub(sys::now().0));
        match (failed, result.recv_timeout(left)) {
            (Some(cause), _) => Read::Failed(format!("a thread cannot be started: {cause}")),
            (None, Ok(Ok(uuid))) => Read::Marker(uuid),
            (None, Ok(Err(reason))) => Read::Failed(reason),
            (None, Err(_)) => Read::Hangs,
        }
    };
    started.into_iter().map(end).collect()
}

/// Says what changed, once.
pub fn look(index: VolumeIndex, path: &Path, holdings: &Holdings) {
    let before = holdings.volume_present(index);
    let found = read_marker(path);
    holdings.set_volume_present(index, found.as_ref().ok().copied());
    match (before, holdings.volume_present(index), found) {
        (true, false, Err(reason)) => {
            tracing::error!(volume = %path.display(), %reason, "a volume is lost");
            note_rot(path);
        }
        (true, false, Ok(uuid)) => {
            tracing::error!(volume = %path.display(), %uuid, "another volume is in its place; restart to use it");
        }
        (false, true, _) => tracing::info!(volume = %path.display(), "a volume is there"),
        (true, true, _) | (false, false, _) => {}
    }
}

/// A marker that is there and cannot be believed is rot, not absence.
fn note_rot(volume: &Path) {
    let file = volume.join(MARKER_NAME);
    let parsed = std::fs::read(&file).ok().map(|bytes| Marker::parse(&bytes));
    if let Some(Err(cause @ VolumeError::Rotten(_))) = parsed {
        let cure =
            "none needed while the agent runs: it knows which volume this is and writes the marker again";
        rot::found(RotPlace::Marker, file.display(), cause, cure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holdings::Volume;

    #[test]
    fn a_marker_that_hangs_holds_up_neither_the_others_nor_the_reader() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = ["good", "hangs", "none", "late"].map(|name| folder.path().join(name));
        for volume in &volumes {
            std::fs::create_dir(volume).unwrap();
        }
        for volume in [&volumes[0], &volumes[3]] {
            std::fs::write(volume.join(MARKER_NAME), Marker::new(VolumeId([1; 16])).to_bytes()).unwrap();
        }
        // Opening it waits for a writer, who never comes.
        nix::unistd::mkfifo(&volumes[1].join(MARKER_NAME), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = read_within(volumes.iter().map(PathBuf::as_path), Duration::from_secs(2));
        let [Read::Marker(good), Read::Hangs, Read::Failed(none), Read::Marker(late)] = &read[..] else {
            panic!("{} are not as they should be", read.len())
        };
        assert!(good == late && none.contains(MARKER_NAME));
    }

    #[test]
    fn a_volume_comes_goes_and_is_not_another() {
        let folder = tempfile::tempdir().unwrap();
        let index = VolumeIndex(0);
        let holdings = Holdings::new(vec![Volume::new(None)]);
        let marker = folder.path().join(MARKER_NAME);
        let usable = || {
            look(index, folder.path(), &holdings);
            holdings.volume_usable(index)
        };
        assert!(!usable());
        std::fs::write(&marker, Marker::new(VolumeId([1; 16])).to_bytes()).unwrap();
        assert!(usable());
        std::fs::write(&marker, Marker::new(VolumeId([2; 16])).to_bytes()).unwrap();
        assert!(!usable());
        std::fs::write(&marker, Marker::new(VolumeId([1; 16])).to_bytes()).unwrap();
        assert!(usable());
        holdings.set_volume_usable(index, false);
        assert!(!usable());
        holdings.set_volume_usable(index, true);
        std::fs::remove_file(&marker).unwrap();
        assert!(!usable());
    }
}
