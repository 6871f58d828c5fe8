//! Looks every second whether a volume is still there, by its marker.
//!
//! One thread per volume, because a dying disk may hold whoever looks at it; nothing waits for these threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::config::read_marker;
use crate::holdings::{Holdings, VolumeIndex};

const EVERY: Duration = Duration::from_secs(1);

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

/// Says what changed, once.
pub fn look(index: VolumeIndex, path: &Path, holdings: &Holdings) {
    let before = holdings.volume_present(index);
    let found = read_marker(path);
    holdings.set_volume_present(index, found.as_ref().ok().copied());
    match (before, holdings.volume_present(index), found) {
        (true, false, Err(reason)) => tracing::error!(volume = %path.display(), %reason, "a volume is lost"),
        (true, false, Ok(uuid)) => {
            tracing::error!(volume = %path.display(), %uuid, "another volume is in its place; restart to use it");
        }
        (false, true, _) => tracing::info!(volume = %path.display(), "a volume is there"),
        (true, true, _) | (false, false, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use content::volume::{MARKER_NAME, Marker, VolumeId};

    use super::*;
    use crate::holdings::Volume;

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
