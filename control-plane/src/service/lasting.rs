//! What must outlive the process, in the embedded set-up: files in the state folder, each sealed (`content::seal`) and
//! replaced whole by rename. Each lies twice, as NAME and as NAME.copy: nobody else could say again what is in them, so
//! if one rots the other is believed and written over it.
//!
//! ```text
//! lock                 held while a control plane uses the folder
//! signing-keys.json    0600: made at the first start, never leaves; a list, so that keys can overlap at a change
//! appliances.json      registrations, and which of them an operator drains
//! ```
//! Reports are not here: appliances say them again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::control_socket::PublicKey;
use content::id::ApplianceId;
use content::lock_holder;
use content::report::Registration;
use content::rot::RotPlace;
use content::seal::{to_sealed, unseal};
use content::token::Signer;
use serde::{Deserialize, Serialize};

use super::rot;

const FORMAT: u32 = 1;
const KEYS_FILE: &str = "signing-keys.json";
const APPLIANCES_FILE: &str = "appliances.json";

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the state folder {folder} (key `state`) cannot be used: {cause}; give a folder that this user may write"
    )]
    Folder { folder: String, cause: io::Error },
    #[error(
        "the state folder {folder} (key `state`) is in use by another control plane: {holder} holds {folder}/lock; stop \
         that, or give another folder"
    )]
    InUse { folder: String, holder: String },
    #[error("the state file {file} cannot be read or written: {cause}; check the disk and who owns the file")]
    File { file: String, cause: io::Error },
    #[error(
        "the state file {file} is damaged and so is {file}.copy, or there is none: {what}; put back a backup, or move both away to start afresh: then boxes register again, tokens that were given are refused, and drains must be ordered again"
    )]
    Damaged { file: String, what: String },
    #[error("the state file {file} can be read by others (mode {mode:o}); take that away: chmod 600 {file}")]
    Exposed { file: String, mode: u32 },
}

/// The state folder, locked.
pub struct Lasting {
    folder: PathBuf,
    // Held until the process ends; the kernel frees it however that happens.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    format: u32,
    /// The `key_id` of the one that signs; the others are still verified with.
    active: String,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    key_id: String,
    /// 32 bytes, base64url.
    seed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliancesFile {
    format: u32,
    appliances: Vec<StoredAppliance>,
}

/// A registration and the operator's word on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredAppliance {
    pub registration: Registration,
    pub drain: bool,
}

/// The keys of the control plane.
pub struct SigningKeys {
    pub active: Signer,
    /// Of the active key; other secrets are derived from it.
    pub active_seed: [u8; 32],
    /// Of all, for the appliances.
    pub public: Vec<PublicKey>,
}

impl Lasting {
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let refuse = |cause| StateError::Folder { folder: folder.display().to_string(), cause };
        fs::create_dir_all(folder).map_err(refuse)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock = lock.map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {
                remove_unfinished(folder).map_err(refuse)?;
                Ok(Self { folder: folder.to_owned(), _lock: lock })
            }
            Err(fs::TryLockError::WouldBlock) => {
                let meta = lock.metadata().map_err(refuse)?;
                let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
                let holder = lock_holder::flock_holder(&locks, meta.dev(), meta.ino());
                let holder = lock_holder::in_words(holder);
                Err(StateError::InUse { folder: folder.display().to_string(), holder })
            }
            Err(fs::TryLockError::Error(cause)) => Err(refuse(cause)),
        }
    }

    /// The signing keys; at the first start, a new one.
    pub fn signing_keys(&self) -> Result<SigningKeys, StateError> {
        let file = self.folder.join(KEYS_FILE);
        let stored = match self.read::<KeysFile>(KEYS_FILE)? {
            Some(stored) => stored,
            None => self.make_keys()?,
        };
        let mode =
            fs::metadata(&file).map_err(|cause| file_error(&file, cause))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Exposed { file: file.display().to_string(), mode });
        }
        let damaged =
            |what: &str| StateError::Damaged { file: file.display().to_string(), what: what.to_owned() };
        let mut active = None;
        let mut public = Vec::with_capacity(stored.keys.len());
        for key in &stored.keys {
            let seed =
                URL_SAFE_NO_PAD.decode(&key.seed).ok().and_then(|seed| <[u8; 32]>::try_from(seed).ok());
            let seed = seed.ok_or_else(|| damaged("a seed is not 32 bytes of base64url"))?;
            let signer =
                Signer::from_seed(&key.key_id, &seed).ok_or_else(|| damaged("a seed is no Ed25519 seed"))?;
            public.push(signer.public_key());
            if key.key_id == stored.active {
                active = Some((signer, seed));
            }
        }
        let (active, active_seed) = active.ok_or_else(|| damaged("the active key is not in the list"))?;
        Ok(SigningKeys { active, active_seed, public })
    }

    fn make_keys(&self) -> Result<KeysFile, StateError> {
        let mut seed = [0; 32];
        let random = Path::new("/dev/urandom");
        File::open(random)
            .and_then(|mut file| file.read_exact(&mut seed))
            .map_err(|cause| file_error(random, cause))?;
        // A name that says nothing about the seed and is new with it.
        let key_id = blake3::derive_key("oca control-plane signing key id v1", &seed);
        let key_id = URL_SAFE_NO_PAD.encode(&key_id[..9]);
        let stored = StoredKey { key_id: key_id.clone(), seed: URL_SAFE_NO_PAD.encode(seed) };
        let keys = KeysFile { format: FORMAT, active: key_id, keys: vec![stored] };
        self.write(KEYS_FILE, &keys)?;
        Ok(keys)
    }

    pub fn appliances(&self) -> Result<BTreeMap<ApplianceId, StoredAppliance>, StateError> {
        let stored = self.read::<AppliancesFile>(APPLIANCES_FILE)?;
        let stored = stored.map_or_else(Vec::new, |file| file.appliances);
        Ok(stored.into_iter().map(|each| (each.registration.appliance.clone(), each)).collect())
    }

    pub fn store_appliances(
        &self,
        appliances: &BTreeMap<ApplianceId, StoredAppliance>,
    ) -> Result<(), StateError> {
        let appliances = appliances.values().cloned().collect();
        self.write(APPLIANCES_FILE, &AppliancesFile { format: FORMAT, appliances })
    }

    /// Of the two copies, the first that is whole. None: there is neither.
    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, StateError> {
        let mut damage = None;
        for name_here in [name.to_owned(), copy_of(name)] {
            let file = self.folder.join(name_here);
            let bytes = match fs::read(&file) {
                Ok(bytes) => bytes,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(file_error(&file, cause)),
            };
            let damaged = |what: String| StateError::Damaged { file: file.display().to_string(), what };
            match unseal(&bytes) {
                Ok(text) => {
                    let value = parse(text).map_err(damaged)?;
                    if damage.is_some() {
                        self.write_one(name, &bytes)?;
                    }
                    return Ok(Some(value));
                }
                Err(cause) => {
                    let cure = "none needed if its other copy is whole: it is written again from that";
                    rot::found(RotPlace::ControlState, file.display(), &cause, cure);
                    damage.get_or_insert(damaged(cause.to_string()));
                }
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// The copy first: whoever reads the new one under its name has two of it.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let bytes = to_sealed(value);
        self.write_one(&copy_of(name), &bytes)?;
        self.write_one(name, &bytes)
    }

    /// New bytes beside the old, made durable, then renamed over them: a crash leaves the one or the other.
    fn write_one(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let file = self.folder.join(name);
        let beside = beside(&self.folder, name);
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut out = options.create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            out.write_all(bytes)?;
            out.sync_all()?;
            fs::rename(&beside, &file)?;
            File::open(&self.folder)?.sync_all()
        })();
        written.map_err(|cause| {
            // On a full disk it would take the room of the next try.
            fs::remove_file(&beside).unwrap_or_default();
            file_error(&file, cause)
        })
    }
}

fn copy_of(name: &str) -> String {
    format!("{name}.copy")
}

/// Or what is wrong with it.
fn parse<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, String> {
    let format: FormatOnly = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    if format.format != FORMAT {
        return Err(format!("it has format {}; this program reads format {FORMAT}", format.format));
    }
    serde_json::from_slice(text).map_err(|cause| cause.to_string())
}

fn beside(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.new"))
}

/// What a kill left beside a state file; whoever held the lock then is gone.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for name in
        [KEYS_FILE, APPLIANCES_FILE].map(str::to_owned).into_iter().flat_map(|name| [copy_of(&name), name])
    {
        match fs::remove_file(beside(folder, &name)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn file_error(file: &Path, cause: io::Error) -> StateError {
    StateError::File { file: file.display().to_string(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signing_key_is_made_once_and_only_we_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lasting::open(folder.path()).unwrap().signing_keys().unwrap();
        let second = Lasting::open(folder.path()).unwrap().signing_keys().unwrap();
        assert_eq!(first.public, second.public);
        assert_eq!(first.active_seed, second.active_seed);
        let file = folder.path().join(KEYS_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = Lasting::open(folder.path()).unwrap().signing_keys();
        assert!(matches!(exposed, Err(StateError::Exposed { .. })));
    }

    #[test]
    fn while_keys_overlap_one_signs_and_both_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let lasting = Lasting::open(folder.path()).unwrap();
        let key = |key_id: &str, seed: u8| StoredKey {
            key_id: key_id.to_owned(),
            seed: URL_SAFE_NO_PAD.encode([seed; 32]),
        };
        let mut keys =
            KeysFile { format: FORMAT, active: "new".to_owned(), keys: vec![key("old", 1), key("new", 2)] };
        lasting.write(KEYS_FILE, &keys).unwrap();
        let read = lasting.signing_keys().unwrap();
        assert_eq!((read.active.public_key().key_id.as_str(), read.active_seed), ("new", [2; 32]));
        assert_eq!(read.public.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>(), ["old", "new"]);
        keys.active = "gone".to_owned();
        lasting.write(KEYS_FILE, &keys).unwrap();
        assert!(matches!(lasting.signing_keys(), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn one_flipped_bit_loses_neither_the_signing_key_nor_a_drain_and_two_name_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let lasting = Lasting::open(folder.path()).unwrap();
        let keys = lasting.signing_keys().unwrap().public;
        let registration = Registration {
            appliance: "box-a".parse().unwrap(),
            cluster: "lab".parse().unwrap(),
            base_url: "http://127.0.0.2:1".to_owned(),
            version: "1".to_owned(),
        };
        let drained =
            BTreeMap::from([(registration.appliance.clone(), StoredAppliance { registration, drain: true })]);
        lasting.store_appliances(&drained).unwrap();
        for name in [KEYS_FILE, APPLIANCES_FILE] {
            let path = folder.path().join(name);
            let good = fs::read(&path).unwrap();
            for bit in 0..good.len() * 8 {
                let mut bytes = good.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, bytes).unwrap();
                assert_eq!(lasting.appliances().unwrap(), drained, "bit {bit} of {name}");
                assert_eq!(lasting.signing_keys().unwrap().public, keys, "bit {bit} of {name}");
                assert!(fs::read(&path).unwrap() == good, "bit {bit} of {name} is not mended");
            }
        }
        for name in [KEYS_FILE, APPLIANCES_FILE] {
            for name in [name.to_owned(), copy_of(name)] {
                let good = fs::read(folder.path().join(&name)).unwrap();
                fs::write(folder.path().join(name), [&good[..good.len() - 9], b"x"].concat()).unwrap();
            }
        }
        for error in [lasting.appliances().unwrap_err(), lasting.signing_keys().err().unwrap()] {
            assert!(error.to_string().contains("put back a backup"), "{error}");
        }
    }

    #[test]
    fn a_second_control_plane_on_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Lasting::open(folder.path()).unwrap();
        let refused = Lasting::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {} holds", std::process::id())), "{refused}");
    }

    #[test]
    fn what_a_kill_left_half_written_is_gone_after_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let key = Lasting::open(folder.path()).unwrap().signing_keys().unwrap().public;
        for name in [KEYS_FILE, APPLIANCES_FILE] {
            fs::write(beside(folder.path(), name), "{\"for").unwrap();
        }
        assert_eq!(Lasting::open(folder.path()).unwrap().signing_keys().unwrap().public, key);
        for name in [KEYS_FILE, APPLIANCES_FILE] {
            assert!(!beside(folder.path(), name).exists());
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_a_half_written_one_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let lasting = Lasting::open(folder.path()).unwrap();
        fs::write(folder.path().join("appliances.json.new"), "{\"for").unwrap();
        assert!(lasting.appliances().unwrap().is_empty());
        fs::write(folder.path().join(APPLIANCES_FILE), "{\"for").unwrap();
        let error = lasting.appliances().unwrap_err().to_string();
        assert!(error.contains(APPLIANCES_FILE), "{error}");
        fs::write(folder.path().join(APPLIANCES_FILE), to_sealed(&serde_json::json!({"format": 2}))).unwrap();
        assert!(lasting.appliances().unwrap_err().to_string().contains("format 2"));
    }
}
