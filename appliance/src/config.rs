//! The configuration file as the server uses it, and what an operator is told when it cannot start.
//!
//! Every variant of [`StartError`] has one remedy and names the file, the key and the cure (STYLE §3).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use content::box_config::{BoxConfig, ConfigError};
use content::volume::{MARKER_NAME, Marker, VolumeId};

use crate::http::head::HEADER_COUNT_MAX;
use crate::tls::certificates::CertificateError;

const CERTIFICATE_CURE: &str = "give a chain in PEM with the box's own certificate first, its key in PEM, and let this \
                                user read both";

/// An operator's mistake, or a host that lacks something. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}: cannot be read: {cause}; name the box's configuration file with --config", .file.display())]
    ConfigUnreadable { file: PathBuf, cause: std::io::Error },
    #[error("{}: {cause}", .file.display())]
    ConfigWrong { file: PathBuf, cause: ConfigError },
    #[error("key `{key}`: {what}; {cure}")]
    Value { key: &'static str, what: String, cure: &'static str },
    #[error("key `state`: {} cannot be used: {cause}; give a folder that this user may write", .folder.display())]
    State { folder: PathBuf, cause: std::io::Error },
    #[error(
        "key `state`: {} is in use by another oca-appliance: {holder} holds its lock, on the folder itself; stop that \
         one, or give this one its own `state`", .folder.display()
    )]
    StateInUse { folder: PathBuf, holder: String },
    #[error(
        "key `{key}`: {address} cannot be listened on: {cause}; give an address of this machine and a free port"
    )]
    Address { key: &'static str, address: SocketAddr, cause: std::io::Error },
    #[error("keys `server.tls.certificate` and `server.tls.key`: {0}; {CERTIFICATE_CURE}")]
    Certificate(#[from] CertificateError),
    #[error("key `socket`: {}: {what}; {cure}", .path.display())]
    Socket { path: PathBuf, what: String, cure: &'static str },
    #[error("the host lacks something: {0}")]
    Host(String),
}

pub fn load(file: &Path) -> Result<BoxConfig, StartError> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|cause| StartError::ConfigUnreadable { file: file.to_owned(), cause })?;
    let config = BoxConfig::parse(&text);
    let config = config.map_err(|cause| StartError::ConfigWrong { file: file.to_owned(), cause })?;
    check(&config).map(|()| config)
}

/// What only the server knows to be wrong.
pub fn check(config: &BoxConfig) -> Result<(), StartError> {
    let limits = &config.server.limits;
    let refuse = |key, what: String, cure| Err(StartError::Value { key, what, cure });
    if limits.header_count_max > HEADER_COUNT_MAX {
        let what =
            format!("{} is above what a head may have here, {HEADER_COUNT_MAX}", limits.header_count_max);
        return refuse("server.limits.header_count_max", what, "give at most that");
    }
    // A head is received into one buffer.
    if !(256..=65_536).contains(&limits.head_bytes_max) {
        let what = format!("{} bytes", limits.head_bytes_max);
        return refuse("server.limits.head_bytes_max", what, "give 256 to 65536");
    }
    let positive = [
        ("server.limits.connections_max", u64::try_from(limits.connections_max).unwrap_or(u64::MAX)),
        ("server.limits.handshakes_max", u64::try_from(limits.handshakes_max).unwrap_or(u64::MAX)),
        ("server.limits.handshake_ms_max", limits.handshake_ms_max),
        ("server.limits.requests_per_connection_max", limits.requests_per_connection_max),
        ("server.limits.head_ms_max", limits.head_ms_max),
        ("server.limits.idle_ms_max", limits.idle_ms_max),
        ("server.limits.send_stall_ms_max", limits.send_stall_ms_max),
        ("server.limits.request_ms_max", limits.request_ms_max),
    ];
    match positive.into_iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => refuse(key, "0 lets nothing through".to_owned(), "give at least 1"),
        None => Ok(()),
    }
}

/// What a volume's marker says. The reason is for the log.
pub fn read_marker(volume: &Path) -> Result<VolumeId, String> {
    let path = volume.join(MARKER_NAME);
    let bytes = std::fs::read(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Marker::parse(&bytes).map(|marker| marker.uuid).map_err(|cause| format!("{}: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(limits: &str) -> Result<BoxConfig, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("box.toml");
        let text = format!(
            "state = '/s'\nsocket = '/s/k'\n[[volume]]\npath = '/v'\n[server]\nlisten = ['127.0.0.1:0']\n\
             management = '127.0.0.1:0'\n[server.limits]\n{limits}\n[agent]\nappliance = 'a'\ncluster = 'c'\n\
             control = 'http://c:1'\nbase_url = 'http://b:1'\nkey_file = '/k'\n"
        );
        std::fs::write(&file, text).unwrap();
        load(&file)
    }

    #[test]
    fn a_wrong_file_is_refused_with_file_key_and_cure() {
        assert!(with("").is_ok());
        for (limits, named) in [
            ("header_count_max = 1000", "header_count_max"),
            ("head_bytes_max = 10", "head_bytes_max"),
            ("idle_ms_max = 0", "idle_ms_max"),
            ("idle = 1", "box.toml"),
        ] {
            let error = with(limits).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let error = load(Path::new("/nonexistent/box.toml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/box.toml") && error.contains("--config"), "{error}");
    }

    #[test]
    fn a_marker_is_read_or_the_reason_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_marker(folder.path()).unwrap_err().contains(MARKER_NAME));
        let uuid = VolumeId([3; 16]);
        std::fs::write(folder.path().join(MARKER_NAME), Marker::new(uuid).to_bytes()).unwrap();
        assert_eq!(read_marker(folder.path()), Ok(uuid));
    }
}
