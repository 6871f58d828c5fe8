//! A play request and its answer: `POST /v1/plays` (DESIGN §6). What the players and the control plane agree on.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ApplianceId, ByteSpan, ClusterId, ObjectId, SessionId, StreamId, Tier, TitleId};
use crate::title::StreamKind;

/// At most this many appliances are offered for a stream.
pub const RANKED_MAX: usize = 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlayRequest {
    pub title: TitleId,
    /// Part of the request, so that the same snapshot and request give the same answer.
    pub session: SessionId,
    /// The service's own name for the member; logged, never interpreted.
    pub member: String,
    /// What the member's plan may watch; `base` is in every plan.
    pub plan: Tier,
    /// ISO 3166-1 alpha-2, upper case: where the member is, as the service claims.
    pub territory: String,
    pub device: Device,
    /// BCP 47; the first that the title has becomes the default audio.
    #[serde(default)]
    pub languages: Vec<String>,
    /// The client's address, for ranking by route. None: that of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Also say why each other candidate was passed over.
    #[serde(default)]
    pub explain: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Largest picture height it can show, lines.
    pub height_max: u32,
    /// Codec families it decodes: the part of an RFC 6381 string before the first dot: `avc1`, `mp4a`, `hvc1`.
    pub codecs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayAnswer {
    pub session: SessionId,
    pub title: TitleId,
    pub name: String,
    pub duration_ms: u64,
    /// The second path segment of every URL below is `~` and this.
    pub token: String,
    /// When the token ends.
    pub expires: Timestamp,
    /// The HLS multivariant playlist of this play.
    pub hls: String,
    /// The DASH manifest of this play.
    pub dash: String,
    /// Every appliance that occurs below, the best first.
    pub appliances: Vec<RankedAppliance>,
    pub streams: Vec<PlayStream>,
    /// Only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedAppliance {
    pub appliance: ApplianceId,
    pub cluster: ClusterId,
    /// `http://127.0.0.2:8080`, without a trailing slash.
    pub base_url: String,
}

/// A stream that fits the device, the plan and the languages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayStream {
    pub id: StreamId,
    pub tier: Tier,
    #[serde(flatten)]
    pub kind: StreamKind,
    pub codecs: String,
    pub bandwidth_bps: u64,
    pub average_bandwidth_bps: u64,
    pub track: PlayObject,
    pub playlist: PlayObject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ByteSpan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<ByteSpan>,
}

/// Where to get one object, the best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlayObject {
    pub object: ObjectId,
    pub bytes: u64,
    /// Up to [`RANKED_MAX`].
    pub urls: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassedOver {
    pub appliance: ApplianceId,
    /// None: for every stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamId>,
    /// `health`, `silent`, `draining`, `full`, `content`, `rank`.
    pub reason: String,
}

/// `GET /v1/titles`: what the player's page offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TitleSummary {
    pub title: TitleId,
    pub name: String,
    pub duration_ms: u64,
}

/// RFC 9457: the body of every refusal of the control plane, `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI reference that names the kind of problem: `/problems/territory`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
}
