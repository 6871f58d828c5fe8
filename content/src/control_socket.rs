//! What the fill agent and the segment server of one box say to each other over a UNIX stream socket (DESIGN §3, §5).
//!
//! The agent connects and asks; the server answers. A message is one line of JSON ended by `\n`, at most
//! [`LINE_BYTES_MAX`] long; one answer per request, in order. Either side may close at any time; nothing is lost by it.

use serde::{Deserialize, Serialize};

use crate::report::ServerFigures;
use crate::volume::VolumeId;

pub const LINE_BYTES_MAX: usize = 1 << 20;
/// At most so many withdrawn files are named in one answer, each in about 70 bytes: it must fit a line.
pub const WITHDRAWN_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum ServerRequest {
    /// `catalogue/current` names a new generation: check it and serve it. Answered by `Status` once it serves, by
    /// `Refused` if it is damaged; the old one is served on.
    Publish { generation: u64 },
    /// Answered by `Status`.
    Status,
    /// Finish what runs, close idle connections, answer new media requests with 503. Answered by `Status`.
    Drain { on: bool },
    /// The public keys that tokens are checked with, all of them. Answered by `Status`.
    TokenKeys { keys: Vec<PublicKey> },
}

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// The `kid` of the tokens that it checks.
    pub key_id: String,
    /// 32 bytes, base64url without padding (the `x` of RFC 8037 §2).
    pub x: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ServerAnswer {
    Status(ServerStatus),
    Refused { reason: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The generation that new requests see; 0: none.
    pub generation: u64,
    /// The oldest generation that a request still uses: what only older ones name may be unlinked.
    pub oldest_in_use: u64,
    pub draining: bool,
    /// How many token keys it has.
    pub token_keys: u64,
    /// Files withdrawn for a bad block: refill them under a new name. The first [`WITHDRAWN_MAX`] in order; the others
    /// follow once these are gone.
    pub withdrawn: Vec<FileName>,
    pub volumes: Vec<ServedVolume>,
    /// The resource nearest to its limit: see `Report::limited_by`.
    pub limited_by: String,
    /// 0 to 1.
    pub headroom: f64,
    pub figures: ServerFigures,
}

/// A file on a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileName {
    /// Of the volume.
    pub uuid: VolumeId,
    /// See `volume::file_name`.
    pub file: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedVolume {
    pub uuid: VolumeId,
    /// False: gone, or failing too often; its objects are answered 503 until it is back.
    pub usable: bool,
    pub read_errors: u64,
    /// Median over the last second, µs.
    pub read_latency_us: u64,
}
