//! The agent's own lasting state, in `agent/` of the state folder: a lock, the manifest it works to and the one before,
//! the token keys, and which volume was at which path. All of it can be fetched or found again. Impure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use content::control_socket::PublicKey;
use content::manifest::Manifest;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::OperatorError;
use crate::volumes::{Remembered, make_folder, write_whole};

const FOLDER: &str = "agent";
const MANIFEST: &str = "manifest.ndjson";
const MANIFEST_BEFORE: &str = "manifest-before.ndjson";
const KEYS: &str = "token-keys.json";
const VOLUMES: &str = "volumes.json";
const NUMBERS: &str = "next-file.json";

/// Every start takes a block of file numbers of its own, so that none is used twice even if the file that has it
/// lies on a volume that is away, or was named only by a catalogue that is damaged.
const NUMBERS_PER_START: u64 = 1 << 20;

/// `GET /v1/agent/token-keys`, and the copy of it that outlives a restart without the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeys {
    pub version: String,
    pub keys: Vec<PublicKey>,
}

#[derive(Clone, Debug)]
pub struct StateFolder {
    folder: PathBuf,
}

/// Held as long as the agent runs; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: Flock<File>,
}

impl StateFolder {
    pub fn open(state: &Path) -> Result<Self, OperatorError> {
        let folder = state.join(FOLDER);
        let unusable = |cause| OperatorError::StateUnusable { folder: state.to_owned(), cause };
        make_folder(&folder).map_err(unusable)?;
        Ok(Self { folder })
    }

    /// One agent per state folder.
    pub fn lock(&self) -> Result<InstanceLock, OperatorError> {
        let path = self.folder.join("lock");
        let unusable = |cause| OperatorError::StateUnusable { folder: self.folder.clone(), cause };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(InstanceLock { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(OperatorError::AlreadyRunning { folder: self.folder.clone(), lock: path })
            }
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }

    /// Removes what a kill left half-written; only whoever holds the lock may.
    pub fn remove_temporary(&self) -> Result<(), OperatorError> {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "tmp") {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        remove().map_err(|cause| OperatorError::StateUnusable { folder: self.folder.clone(), cause })
    }

    /// The manifests that were saved, the newest first. A damaged one is none.
    pub fn manifests(state: &Path) -> Vec<Manifest> {
        let read = |name| fs::read(state.join(FOLDER).join(name)).ok();
        let all = [MANIFEST, MANIFEST_BEFORE].into_iter().filter_map(read);
        all.filter_map(|bytes| Manifest::parse(&bytes).ok()).collect()
    }

    /// The one before is kept too: it has the names of what is being let go. The current one stays in its place until
    /// the new one takes it, so a kill at any point leaves it or the new one.
    pub fn save_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        match fs::read(self.folder.join(MANIFEST)) {
            Ok(saved) if saved == bytes => return Ok(()),
            Ok(saved) => write_whole(&self.folder, MANIFEST_BEFORE, &saved)?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        write_whole(&self.folder, MANIFEST, bytes)
    }

    /// The first file number of this start, at least `least`.
    pub fn take_numbers(&self, least: u64) -> io::Result<u64> {
        let first = self.read(NUMBERS).unwrap_or(0).max(least);
        self.write(NUMBERS, &first.saturating_add(NUMBERS_PER_START))?;
        Ok(first)
    }

    pub fn keys(&self) -> Option<TokenKeys> {
        self.read(KEYS)
    }

    pub fn save_keys(&self, keys: &TokenKeys) -> io::Result<()> {
        self.write(KEYS, keys)
    }

    /// By path of the volume.
    pub fn volumes(&self) -> BTreeMap<PathBuf, Remembered> {
        self.read(VOLUMES).unwrap_or_default()
    }

    pub fn save_volumes(&self, volumes: &BTreeMap<PathBuf, Remembered>) -> io::Result<()> {
        self.write(VOLUMES, volumes)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.folder.join(name)).ok()?).ok()
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        write_whole(&self.folder, name, &serde_json::to_vec(value).map_err(io::Error::other)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_state_folder_is_refused_and_a_later_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let lock = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(OperatorError::AlreadyRunning { .. })));
        drop(lock);
        state.lock().unwrap();
    }

    #[test]
    fn a_kill_between_the_two_files_of_a_manifest_leaves_the_current_one_current() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let manifest = |version| {
            let cluster = "lab".parse().unwrap();
            Manifest { cluster, version, appliances: vec![], entries: vec![] }.to_bytes()
        };
        state.save_manifest(&manifest(1)).unwrap();
        state.save_manifest(&manifest(2)).unwrap();
        // The last step cannot be done: the name that it writes under is taken.
        fs::create_dir(folder.path().join(FOLDER).join(format!("{MANIFEST}.tmp"))).unwrap();
        state.save_manifest(&manifest(3)).unwrap_err();
        assert_eq!(fs::read(folder.path().join(FOLDER).join(MANIFEST)).unwrap(), manifest(2));
        let versions = || -> Vec<_> {
            StateFolder::manifests(folder.path()).iter().map(|manifest| manifest.version).collect()
        };
        assert_eq!(versions()[0], 2);
        fs::remove_dir(folder.path().join(FOLDER).join(format!("{MANIFEST}.tmp"))).unwrap();
        state.save_manifest(&manifest(3)).unwrap();
        assert_eq!(versions(), [3, 2]);
    }

    #[test]
    fn what_a_kill_left_half_written_goes_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        state.save_keys(&TokenKeys::default()).unwrap();
        let half = folder.path().join(FOLDER).join(format!("{MANIFEST}.tmp"));
        fs::write(&half, b"{").unwrap();
        state.remove_temporary().unwrap();
        assert!(!half.exists());
        assert_eq!(state.keys(), Some(TokenKeys::default()));
    }

    #[test]
    fn each_start_has_numbers_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        assert_eq!(state.take_numbers(7).unwrap(), 7);
        assert_eq!(state.take_numbers(9).unwrap(), 7 + NUMBERS_PER_START);
        assert_eq!(state.take_numbers(u64::MAX - 1).unwrap(), u64::MAX - 1);
    }
}
