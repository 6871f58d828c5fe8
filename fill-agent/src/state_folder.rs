//! The agent's own lasting state, in `agent/` of the state folder: a lock, the manifest it works to and the one before,
//! the token keys, and which volume was at which path. Impure.
//!
//! Every document is sealed (`content::seal`) and lies twice, as NAME and as NAME.copy: if one rots, the other is
//! believed and written over it. Manifests are sealed too and lie once: they are fetched again at every start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use content::control_socket::PublicKey;
use content::lock_holder;
use content::manifest::Manifest;
use content::rot::RotPlace;
use content::seal::{from_sealed, to_sealed};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::OperatorError;
use crate::rot;
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
/// When nobody knows any more which numbers were given away: beyond those of a million starts.
const NUMBERS_LOST: u64 = 1 << 40;

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

/// A lock that goes with this process, or who has it, if that can be told.
pub fn hold_alone(file: File) -> io::Result<Result<Flock<File>, Option<u32>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Ok(file)),
        Err((file, Errno::EWOULDBLOCK)) => {
            let meta = file.metadata()?;
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            Ok(Err(lock_holder::flock_holder(&locks, meta.dev(), meta.ino())))
        }
        Err((_, errno)) => Err(errno.into()),
    }
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
        // Only to read, so that it can be held on a folder that cannot be written to.
        let file = match File::open(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                File::options().create(true).truncate(false).write(true).open(&path)
            }
            other => other,
        };
        match hold_alone(file.map_err(unusable)?).map_err(unusable)? {
            Ok(file) => Ok(InstanceLock { _file: file }),
            Err(holder) => {
                let holder = lock_holder::in_words(holder);
                Err(OperatorError::AlreadyRunning { folder: self.folder.clone(), lock: path, holder })
            }
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

    /// The manifests that were saved, the newest first. None at all if the newest is rotten: to work to the one before
    /// would let go what the newest asks for. It is fetched again; until then nothing is pulled and nothing let go.
    pub fn manifests(state: &Path) -> Vec<Manifest> {
        let mut manifests = Vec::new();
        for name in [MANIFEST, MANIFEST_BEFORE] {
            let file = state.join(FOLDER).join(name);
            let Ok(bytes) = fs::read(&file) else { break };
            match Manifest::parse(&bytes) {
                Ok(manifest) => manifests.push(manifest),
                Err(cause) => {
                    let cure = "none needed: the control plane gives it again; until then nothing is let go";
                    rot::found(RotPlace::AgentManifest, file.display(), cause, cure);
                    break;
                }
            }
        }
        manifests
    }

    /// The one before is kept too: it has the names of what is being let go. The current one stays in its place until
    /// the new one takes it, so a kill at any point leaves it or the new one.
    pub fn save_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        match fs::read(self.folder.join(MANIFEST)) {
            Ok(saved) if saved == bytes => return Ok(()),
            Ok(saved) if Manifest::parse(&saved).is_ok() => {
                write_whole(&self.folder, MANIFEST_BEFORE, &saved)?;
            }
            // Rotten: the one before it is the better memory.
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        write_whole(&self.folder, MANIFEST, bytes)
    }

    /// The first file number of this start, at least `least`.
    pub fn take_numbers(&self, least: u64) -> io::Result<u64> {
        let first = match self.read::<u64>(NUMBERS) {
            Ok(saved) => saved.unwrap_or(0).max(least),
            Err(Rotten) => least.saturating_add(NUMBERS_LOST),
        };
        self.write(NUMBERS, &first.saturating_add(NUMBERS_PER_START))?;
        Ok(first)
    }

    pub fn keys(&self) -> Option<TokenKeys> {
        self.read(KEYS).ok().flatten()
    }

    pub fn save_keys(&self, keys: &TokenKeys) -> io::Result<()> {
        self.write(KEYS, keys)
    }

    /// By path of the volume.
    pub fn volumes(&self) -> BTreeMap<PathBuf, Remembered> {
        self.read(VOLUMES).ok().flatten().unwrap_or_default()
    }

    pub fn save_volumes(&self, volumes: &BTreeMap<PathBuf, Remembered>) -> io::Result<()> {
        self.write(VOLUMES, volumes)
    }

    /// Of the two copies, the first that is whole. None: there is neither.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Rotten> {
        let mut rotten = false;
        for name_here in [name.to_owned(), copy_of(name)] {
            let file = self.folder.join(name_here);
            let Ok(bytes) = fs::read(&file) else { continue };
            match from_sealed(&bytes) {
                Ok(value) => {
                    if rotten && let Err(cause) = write_whole(&self.folder, name, &bytes) {
                        tracing::error!("{name}: not written again from its copy: {cause}");
                    }
                    return Ok(Some(value));
                }
                Err(cause) => {
                    rotten = true;
                    let cure = "none needed: its other copy is used, or it is learned again";
                    rot::found(RotPlace::AgentState, file.display(), cause, cure);
                }
            }
        }
        if rotten { Err(Rotten) } else { Ok(None) }
    }

    /// The copy first: whoever reads the new one under its name has two of it.
    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let bytes = to_sealed(value);
        write_whole(&self.folder, &copy_of(name), &bytes)?;
        write_whole(&self.folder, name, &bytes)
    }
}

/// Neither copy of a document can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rotten;

fn copy_of(name: &str) -> String {
    format!("{name}.copy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_state_folder_is_refused_and_a_later_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let lock = state.lock().unwrap();
        let refused = state.lock().unwrap_err().to_string();
        let (ours, file) = (format!("process {} ", std::process::id()), folder.path().join("agent/lock"));
        assert!(refused.contains(&ours) && refused.contains(&file.display().to_string()), "{refused}");
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

    fn flip(path: &Path, bit: usize) {
        let mut bytes = fs::read(path).unwrap();
        let at = bit / 8 % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_flipped_bit_in_one_copy_of_a_document_changes_nothing_and_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let keys = TokenKeys {
            version: "1".to_owned(),
            keys: vec![PublicKey { key_id: "a".to_owned(), x: "A".repeat(43) }],
        };
        let uuid = content::volume::VolumeId([7; 16]);
        let volumes = BTreeMap::from([(PathBuf::from("/v"), Remembered { uuid, mounted: true })]);
        state.save_keys(&keys).unwrap();
        state.save_volumes(&volumes).unwrap();
        let before = rot::counts()[RotPlace::AgentState.label()];
        let size = fs::read(state.folder.join(KEYS)).unwrap().len();
        for bit in 0..size * 8 {
            flip(&state.folder.join(KEYS), bit);
            assert_eq!(state.keys(), Some(keys.clone()), "bit {bit}");
            let [whole, copy] =
                [KEYS.to_owned(), copy_of(KEYS)].map(|name| fs::read(state.folder.join(name)));
            assert!(whole.unwrap() == copy.unwrap(), "bit {bit} is not mended");
        }
        flip(&state.folder.join(copy_of(VOLUMES)), 99);
        assert_eq!(state.volumes(), volumes);
        assert!(rot::counts()[RotPlace::AgentState.label()] >= before + u64::try_from(size * 8).unwrap());
    }

    #[test]
    fn numbers_that_nobody_knows_any_more_are_stepped_over() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let given = state.take_numbers(5).unwrap() + NUMBERS_PER_START;
        flip(&state.folder.join(NUMBERS), 3);
        assert_eq!(state.take_numbers(5).unwrap(), given, "the copy knows");
        [NUMBERS.to_owned(), copy_of(NUMBERS)].iter().for_each(|name| flip(&state.folder.join(name), 8));
        assert!(state.take_numbers(5).unwrap() > 1000 * given);
    }

    #[test]
    fn a_rotten_manifest_is_none_its_predecessor_is_not_worked_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        let manifest = |version| {
            let cluster = "lab".parse().unwrap();
            Manifest { cluster, version, appliances: vec![], entries: vec![] }.to_bytes()
        };
        [1, 2].iter().for_each(|version| state.save_manifest(&manifest(*version)).unwrap());
        let versions = || -> Vec<_> {
            StateFolder::manifests(folder.path()).iter().map(|manifest| manifest.version).collect()
        };
        let good = fs::read(state.folder.join(MANIFEST)).unwrap();
        for bit in 0..good.len() * 8 {
            flip(&state.folder.join(MANIFEST), bit);
            assert!(versions().is_empty(), "bit {bit}");
            fs::write(state.folder.join(MANIFEST), &good).unwrap();
        }
        flip(&state.folder.join(MANIFEST), 77);
        state.save_manifest(&manifest(3)).unwrap();
        assert_eq!(versions(), [3, 1], "the rotten one took no place");
        flip(&state.folder.join(MANIFEST_BEFORE), 77);
        assert_eq!(versions(), [3]);
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
