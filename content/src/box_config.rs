//! The one configuration file of a box (DESIGN §7), read by its segment server and its fill agent alike.
//!
//! TOML; an unknown key is an error. Each program reads the whole and uses its part. Does no IO.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::id::{ApplianceId, ClusterId};
use crate::network::Network;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoxConfig {
    /// Catalogue, token keys, the agent's own state. Never on a media disk.
    pub state: PathBuf,
    /// The UNIX socket between agent and server.
    pub socket: PathBuf,
    #[serde(rename = "volume")]
    pub volumes: Vec<VolumeConfig>,
    pub server: ServerConfig,
    pub agent: AgentConfig,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// The folder that `OCA-VOLUME` is in.
    pub path: PathBuf,
    /// It is a disk's: while nothing is mounted there the volume is missing, and nothing is written to the folder below.
    /// Without this, that is known only once a disk was seen there.
    #[serde(default)]
    pub must_be_mounted: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where media are served.
    pub listen: Vec<SocketAddr>,
    /// Metrics and health.
    pub management: SocketAddr,
    /// Worker threads; default: one per core.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Memory for blocks, MiB; a multiple of 2, at least 16.
    #[serde(default = "memory_mib")]
    pub memory_mib: u64,
    /// How blocks leave memory; default: measured at the first start on a machine and kernel.
    #[serde(default)]
    pub way: WayOut,
    /// Balancers: who connects from there has to say first for whom, by version 2 of the PROXY protocol; nobody else may.
    #[serde(default)]
    pub proxy_from: Vec<Network>,
    /// Without it nothing is served over TLS.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    #[serde(default)]
    pub limits: Limits,
}

/// Both files are looked at every few seconds: a new certificate is served with from then on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Where media are served over TLS.
    pub listen: Vec<SocketAddr>,
    /// The chain in PEM, the box's own certificate first.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
}

/// `auto`, or the way itself, which skips the measuring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayOut {
    #[default]
    Auto,
    Sendfile,
    SendZc,
    Send,
}

/// Each limit has a named answer; see the server's table of endings.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Per worker.
    pub connections_max: usize,
    /// Of TLS, at a time, per worker.
    pub handshakes_max: usize,
    /// A handshake of TLS, from the connection on.
    pub handshake_ms_max: u64,
    pub head_bytes_max: usize,
    pub header_count_max: usize,
    pub requests_per_connection_max: u64,
    /// From a head's first byte to its last.
    pub head_ms_max: u64,
    /// Between requests.
    pub idle_ms_max: u64,
    /// Without any byte leaving while one waits.
    pub send_stall_ms_max: u64,
    /// A whole request: DESIGN §3 ends it at 10 minutes.
    pub request_ms_max: u64,
    pub pacing: Pacing,
}

/// How fast answers leave at most. A player that sends CMCD says so itself (`rtp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pacing {
    /// No answer is paced below this, whatever the player says.
    pub floor_kbps: u64,
    /// What a stream takes. If it is set, who does not say better gets three times this for ten seconds and half as much again
    /// later; and who says the bitrate of its stream (`br`), that of its own.
    pub bitrate_kbps: Option<u64>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { floor_kbps: 1_000, bitrate_kbps: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4_000,
            handshakes_max: 256,
            handshake_ms_max: 10_000,
            head_bytes_max: 8 * 1024,
            header_count_max: 64,
            requests_per_connection_max: 100_000,
            head_ms_max: 10_000,
            idle_ms_max: 60_000,
            send_stall_ms_max: 30_000,
            request_ms_max: 600_000,
            pacing: Pacing::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    pub appliance: ApplianceId,
    pub cluster: ClusterId,
    /// The control plane, without a trailing slash.
    pub control: String,
    /// Where players reach this box's server, without a trailing slash.
    pub base_url: String,
    /// A file that holds the secret which the control plane knows agents by.
    pub key_file: PathBuf,
    /// Downloads at a time.
    #[serde(default = "downloads")]
    pub downloads_max: usize,
}

fn memory_mib() -> u64 {
    256
}

fn downloads() -> usize {
    4
}

/// What is wrong with the text of a configuration file. The caller adds which file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Malformed(Box<toml::de::Error>),
    #[error("key `{key}`: {what}; {cure}")]
    Value { key: &'static str, what: String, cure: &'static str },
}

impl BoxConfig {
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|cause| ConfigError::Malformed(Box::new(cause)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, what: String, cure| Err(ConfigError::Value { key, what, cure });
        if self.volumes.is_empty() {
            return refuse("volume", "there is none".to_owned(), "add a [[volume]] with a path");
        }
        let mut paths: Vec<_> = self.volumes.iter().map(|volume| &volume.path).collect();
        paths.sort();
        if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(
                "volume.path",
                format!("{} is named twice", pair[0].display()),
                "name each volume once",
            );
        }
        if self.server.listen.is_empty() {
            return refuse("server.listen", "it is empty".to_owned(), "name an address and port");
        }
        if self.server.tls.as_ref().is_some_and(|tls| tls.listen.is_empty()) {
            let cure = "name an address and port, or take [server.tls] away";
            return refuse("server.tls.listen", "it is empty".to_owned(), cure);
        }
        if self.server.memory_mib < 16 || !self.server.memory_mib.is_multiple_of(2) {
            let what = format!("{} is too small or odd", self.server.memory_mib);
            return refuse("server.memory_mib", what, "give an even number from 16 up");
        }
        if self.server.workers == Some(0) {
            return refuse(
                "server.workers",
                "0".to_owned(),
                "give at least 1, or leave it out for one per core",
            );
        }
        for (key, url) in [("agent.control", &self.agent.control), ("agent.base_url", &self.agent.base_url)] {
            if !url.starts_with("http://") || url.ends_with('/') {
                let cure = "give http://HOST:PORT without a slash at the end";
                return refuse(key, format!("{url:?} is no address of that form"), cure);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
state = "/var/lib/oca"
socket = "/run/oca/server.sock"
[[volume]]
path = "/srv/v1"
[[volume]]
path = "/srv/v2"
[server]
listen = ["127.0.0.2:8080"]
management = "127.0.0.2:9080"
[server.limits]
idle_ms_max = 5000
[agent]
appliance = "box-a"
cluster = "lab"
control = "http://127.0.0.1:8000"
base_url = "http://127.0.0.2:8080"
key_file = "/etc/oca/agent.key"
"#;

    #[test]
    fn a_good_file_is_read_and_defaults_are_filled_in() {
        let config = BoxConfig::parse(GOOD).unwrap();
        assert_eq!(config.volumes.len(), 2);
        assert_eq!(config.server.limits.idle_ms_max, 5000);
        assert_eq!(config.server.limits.head_bytes_max, 8192);
        assert_eq!(config.server.memory_mib, 256);
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        for (from, to, key) in [
            ("idle_ms_max", "idle_max", "idle_max"),
            ("/srv/v2", "/srv/v1", "volume.path"),
            ("[\"127.0.0.2:8080\"]", "[]", "server.listen"),
            ("[server.limits]", "memory_mib = 7\n[server.limits]", "server.memory_mib"),
            ("[server.limits]", "way = \"splice\"\n[server.limits]", "send-zc"),
            ("[server.limits]", "workers = 0\n[server.limits]", "server.workers"),
            ("http://127.0.0.1:8000", "127.0.0.1", "agent.control"),
            ("127.0.0.2:9080", "nowhere", "management"),
        ] {
            let error = BoxConfig::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
