//! What an appliance says about itself, every two seconds, through its fill agent (DESIGN §5), and what it is told.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{ApplianceId, ClusterId, MediaPath};
use crate::volume::VolumeId;

/// Once at the agent's start: `POST /v1/agent/register`. Registering again with the same name replaces what was said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    pub appliance: ApplianceId,
    pub cluster: ClusterId,
    /// Where players reach its server, without a trailing slash: `http://127.0.0.2:8080`.
    pub base_url: String,
    /// Software version of the agent.
    pub version: String,
}

/// What registering gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// How often to report.
    pub report_every_ms: u64,
}

/// The worst component decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// Serves, but something asks for an operator: a volume lost, a fill that fails.
    Degraded,
    /// Offer it to nobody.
    Failed,
}

/// `POST /v1/agent/reports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub appliance: ApplianceId,
    /// Random, new at each start of the agent; with `sequence` it orders reports.
    pub boot: String,
    pub sequence: u64,
    pub health: Health,
    /// The one resource that limits it now: `none`, `connections`, `disk`, `server-down`; `network` and `memory` once
    /// the server measures them.
    pub limited_by: String,
    /// From 0 (full) to 1 (idle): the part of its capacity that is left.
    pub headroom: f64,
    pub draining: bool,
    /// The catalogue generation that its server serves; 0: none.
    pub generation: u64,
    pub holds: Holdings,
    pub volumes: Vec<VolumeReport>,
    /// What asks for an operator, in words: each names the thing and the cure. Not more than [`REASONS_MAX`], each of at
    /// most [`REASON_BYTES_MAX`].
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The wall clock of the box when it sent this. None: it does not say.
    #[serde(default)]
    pub clock: Option<Timestamp>,
    /// None while the server does not answer on its socket.
    pub server: Option<ServerFigures>,
    /// How often the agent found rot since its start, by place (`rot::RotPlace`); the server tells its own in its metrics.
    #[serde(default)]
    pub rot: BTreeMap<String, u64>,
}

/// A box whose clock is further than this from the control plane's is not offered: tokens bear twice as much
/// (`token::CLOCK_LEEWAY_S`), and a report's way to the control plane is part of what is measured.
pub const CLOCK_OFF_MAX_S: i64 = 30;
pub const REASONS_MAX: usize = 32;
pub const REASON_BYTES_MAX: usize = 500;

/// What an appliance holds, as exceptions to a manifest version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    /// The version that the ordinals count in; 0: it has seen none.
    pub manifest_version: u64,
    /// Ordinals that the manifest asks of this appliance and that it does not serve.
    pub missing: Ordinals,
    /// What it serves that this version does not ask of it; not more than [`UNLISTED_MAX`].
    pub unlisted: Vec<MediaPath>,
}

pub const UNLISTED_MAX: usize = 1_000;

/// A set of manifest ordinals: a roaring bitmap, on the wire in its portable serialisation, base64.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ordinals(pub RoaringBitmap);

impl Serialize for Ordinals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.serialized_size());
        self.0.serialize_into(&mut bytes).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Ordinals {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        RoaringBitmap::deserialize_from(&bytes[..]).map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// From `OCA-VOLUME`.
    pub uuid: VolumeId,
    pub path: String,
    pub state: VolumeState,
    pub bytes_total: u64,
    pub bytes_free: u64,
    /// Reads that failed or did not match their checksum since the server's start.
    pub read_errors: u64,
    /// Median time of a read over the last reporting interval, µs; 0: no reads.
    pub read_latency_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    Ok,
    /// What it holds is served; nothing can be put on it.
    ReadOnly,
    Failed,
    Missing,
}

/// Counters since the server's start; gauges where said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFigures {
    pub uptime_ms: u64,
    /// Gauge.
    pub connections: u64,
    pub requests: u64,
    /// Of bodies.
    pub bytes_sent: u64,
    pub memory_hits: u64,
    pub memory_misses: u64,
    /// Bits sent over the last second.
    pub rate_bps: u64,
    /// What the box can carry, as it measured itself; 0: it has not.
    #[serde(default)]
    pub capacity_bps: u64,
}

/// The answer to a report: the desired state that is not the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// The manifest version to be at; 0: the cluster has none yet.
    pub manifest_version: u64,
    /// Finish sessions, take no new ones.
    pub drain: bool,
    /// Changes whenever the set of token keys does; fetch them again.
    pub token_keys_version: String,
    /// The wall clock of the control plane: what the instants in its answers are of.
    #[serde(default)]
    pub clock: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_read_back_and_rubbish_is_refused() {
        let ordinals = Ordinals((0..1000).chain([5_000_000]).collect());
        let text = serde_json::to_string(&ordinals).unwrap();
        assert_eq!(serde_json::from_str::<Ordinals>(&text).unwrap(), ordinals);
        assert!(serde_json::from_str::<Ordinals>("\"AAAA\"").is_err());
    }
}
