//! Token keys on the state volume, sealed (`content::seal`): a server that starts while its agent is away goes on
//! checking tokens (DESIGN §6).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use content::control_socket::PublicKey;
use content::rot::RotPlace;
use content::seal::{SealError, from_sealed, to_sealed};
use content::token::KeyRing;

use crate::rot;

pub const FILE_NAME: &str = "token-keys.json";

/// The keys that were told last. A file that is absent or damaged gives none: the agent brings them again.
/// What a kill left half-written beside it goes.
pub fn load(state: &Path) -> KeyRing {
    if let Err(cause) = fs::remove_file(aside(state))
        && cause.kind() != ErrorKind::NotFound
    {
        tracing::warn!(file = %aside(state).display(), %cause, "a half-written file cannot be removed");
    }
    let file = state.join(FILE_NAME);
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(cause) => {
            if cause.kind() != ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %cause, "the token keys are not readable; waiting for the agent's");
            }
            return KeyRing::default();
        }
    };
    parse(&bytes).unwrap_or_else(|cause| {
        let cure = "none needed: the agent brings them again; until then every token is refused";
        rot::found(RotPlace::ServerKeys, file.display(), cause, cure);
        KeyRing::default()
    })
}

fn parse(bytes: &[u8]) -> Result<KeyRing, SealError> {
    KeyRing::new(&from_sealed::<Vec<PublicKey>>(bytes)?).ok_or(SealError::Damaged)
}

/// Whole or not at all: written aside, synced, renamed. What was begun is removed when it fails: on a full disk it would
/// take the room of the next try.
pub fn save(state: &Path, keys: &[PublicKey]) -> io::Result<()> {
    let aside = aside(state);
    let written = write(&aside, keys).and_then(|()| fs::rename(&aside, state.join(FILE_NAME)));
    if let Err(cause) = written {
        fs::remove_file(&aside).unwrap_or_default();
        return Err(cause);
    }
    File::open(state)?.sync_all()
}

fn write(aside: &Path, keys: &[PublicKey]) -> io::Result<()> {
    let mut file = File::create(aside)?;
    file.write_all(&to_sealed(&keys))?;
    file.sync_all()
}

fn aside(state: &Path) -> PathBuf {
    state.join(format!("{FILE_NAME}.new"))
}

#[cfg(test)]
mod tests {
    use content::token::Signer;

    use super::*;

    #[test]
    fn keys_read_back_and_a_damaged_file_gives_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).is_empty());
        let key = Signer::from_seed("k", &[1; 32]).unwrap().public_key();
        save(folder.path(), std::slice::from_ref(&key)).unwrap();
        fs::write(aside(folder.path()), b"[{").unwrap();
        assert_eq!(load(folder.path()), KeyRing::new(&[key]).unwrap());
        assert!(!aside(folder.path()).exists(), "what a kill left half-written is gone");
        let path = folder.path().join(FILE_NAME);
        let good = fs::read(&path).unwrap();
        let before = rot::counts()[&RotPlace::ServerKeys];
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert!(load(folder.path()).is_empty(), "bit {bit}");
        }
        assert!(rot::counts()[&RotPlace::ServerKeys] > before);
    }
}
