//! Reads the box's configuration file and the agent's key. What is wrong is the operator's to mend: each error names
//! the file, the key and the cure.

use std::io;
use std::path::{Path, PathBuf};

use content::box_config::{BoxConfig, ConfigError};

/// A longer secret is no bearer key: it would not fit a header.
const KEY_BYTES_MAX: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("{}: the configuration cannot be read ({cause}); name an existing file with --config", .file.display())]
    ConfigUnreadable { file: PathBuf, cause: io::Error },
    #[error("{}: {cause}", .file.display())]
    ConfigInvalid { file: PathBuf, cause: ConfigError },
    #[error(
        "{}: key `agent.key_file`: {} cannot be read ({cause}); put the secret there that the control plane knows \
         agents by", .config.display(), .file.display()
    )]
    KeyUnreadable { config: PathBuf, file: PathBuf, cause: io::Error },
    #[error(
        "{}: key `agent.key_file`: {} holds no secret of printable ASCII, at most {KEY_BYTES_MAX} bytes; put the \
         secret there that the control plane knows agents by", .config.display(), .file.display()
    )]
    KeyInvalid { config: PathBuf, file: PathBuf },
    #[error(
        "{}: key `agent.downloads_max`: 0 would never fill anything; give at least 1", .file.display()
    )]
    NoDownloads { file: PathBuf },
    #[error(
        "the state folder {} cannot be used ({cause}); give key `state` a folder on a disk that is not a media \
         volume and that this user may write to", .folder.display()
    )]
    StateUnusable { folder: PathBuf, cause: io::Error },
    #[error(
        "another oca-fill runs on the state folder {}: {holder} holds {}; stop it, or give this one its own `state`",
        .folder.display(), .lock.display()
    )]
    AlreadyRunning { folder: PathBuf, lock: PathBuf, holder: String },
    #[error(
        "another oca-fill fills the volume {}: {holder} holds {}; stop it, or name the volume in one configuration \
         only (key `volume.path`)", .volume.display(), .marker.display()
    )]
    VolumeInUse { volume: PathBuf, marker: PathBuf, holder: String },
}

/// The configuration and the secret it points to.
#[derive(Clone, Debug)]
pub struct AgentSetup {
    pub config: BoxConfig,
    pub key: String,
}

pub fn load(file: &Path) -> Result<AgentSetup, OperatorError> {
    let named = || file.to_owned();
    let text = std::fs::read_to_string(file)
        .map_err(|cause| OperatorError::ConfigUnreadable { file: named(), cause })?;
    let config =
        BoxConfig::parse(&text).map_err(|cause| OperatorError::ConfigInvalid { file: named(), cause })?;
    if config.agent.downloads_max == 0 {
        return Err(OperatorError::NoDownloads { file: named() });
    }
    let key = load_key(file, &config.agent.key_file)?;
    Ok(AgentSetup { config, key })
}

fn load_key(config: &Path, file: &Path) -> Result<String, OperatorError> {
    let text = std::fs::read_to_string(file).map_err(|cause| OperatorError::KeyUnreadable {
        config: config.to_owned(),
        file: file.to_owned(),
        cause,
    })?;
    let key = text.trim();
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(OperatorError::KeyInvalid { config: config.to_owned(), file: file.to_owned() });
    }
    Ok(key.to_owned())
}
