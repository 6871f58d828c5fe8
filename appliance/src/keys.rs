//! Token keys on the state volume: a server that starts while its agent is away goes on checking tokens (DESIGN §6).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use content::control_socket::PublicKey;
use content::token::KeyRing;

pub const FILE_NAME: &str = "token-keys.json";

/// The keys that were told last. A file that is absent or damaged gives none: the agent brings them again.
/// What a kill left half-written beside it goes.
pub fn load(state: &Path) -> KeyRing {
    if let Err(cause) = fs::remove_file(aside(state))
        && cause.kind() != ErrorKind::NotFound
    {
        tracing::warn!(file = %aside(state).display(), %cause, "a half-written file cannot be removed");
    }
    match read(state) {
        Ok(keys) => keys,
        Err(cause) if cause.kind() == ErrorKind::NotFound => KeyRing::default(),
        Err(cause) => {
            tracing::warn!(file = FILE_NAME, %cause, "the token keys are not readable; waiting for the agent's");
            KeyRing::default()
        }
    }
}

fn read(state: &Path) -> io::Result<KeyRing> {
    let keys: Vec<PublicKey> = serde_json::from_slice(&fs::read(state.join(FILE_NAME))?)?;
    KeyRing::new(&keys).ok_or_else(|| io::Error::other("a key is not 32 bytes of base64url"))
}

/// Whole or not at all: written aside, synced, renamed.
pub fn save(state: &Path, keys: &[PublicKey]) -> io::Result<()> {
    let aside = aside(state);
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec(keys)?)?;
    file.sync_all()?;
    fs::rename(&aside, state.join(FILE_NAME))?;
    File::open(state)?.sync_all()
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
        fs::write(folder.path().join(FILE_NAME), b"[{").unwrap();
        assert!(load(folder.path()).is_empty());
    }
}
