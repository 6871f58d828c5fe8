//! Where an agent may pull an object from: `POST /v1/agent/fill-sources` (DESIGN §5).
//!
//! A ranked list per object, each source later than the one before, so that one copy crosses the costly link. The
//! agent speaks HTTP with ranges and nothing else; whatever a source wants of it stands in `headers`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ApplianceId, MediaPath};

/// Not more than this many objects are asked for at once.
pub const FILL_REQUEST_OBJECTS_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FillRequest {
    pub appliance: ApplianceId,
    pub objects: Vec<MediaPath>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillAnswer {
    /// In the order asked for. An object that nobody has (any more) has no sources.
    pub objects: Vec<FillObject>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillObject {
    pub path: MediaPath,
    /// The best first.
    pub sources: Vec<FillSource>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FillSource {
    pub kind: SourceKind,
    /// Of the object's bytes; answers ranges.
    pub url: String,
    /// Of its verification tree. An appliance serves none: then another source's is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_url: Option<String>,
    /// To be sent with each request to either.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Not to be used before this instant.
    pub not_before: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// An appliance of the same cluster.
    Peer,
    /// An appliance of another cluster.
    Tier,
    /// The origin, presigned or through the control plane.
    Origin,
}
