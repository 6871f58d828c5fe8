//! The published description of the API (OpenAPI 3.1): `GET /v1/openapi.json`, `oca-control openapi`.
//!
//! The messages' own types live in `content`, which knows nothing of OpenAPI. Those here have the same shape and exist for
//! their schemas; a test sends samples of the real ones through them and compares, so they cannot drift apart unseen.

use std::collections::BTreeMap;

use axum::http::header;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use super::{agents, objects, operator, plays};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "oca-control",
        description = "The control plane: plays for players, manifests and fill sources for agents. Every refusal is an RFC 9457 problem."
    ),
    paths(
        plays::play, plays::multivariant, plays::dash_manifest, plays::titles,
        operator::fleet, operator::health, operator::drain, operator::enable, operator::deregister, openapi,
        agents::register, agents::report, agents::manifest, agents::sources, agents::token_keys,
        objects::object
    ),
    modifiers(&Keys)
)]
struct Description;

struct Keys;

impl Modify for Keys {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = |text: &str| {
            SecurityScheme::Http(
                HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(text)).build(),
            )
        };
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("agent", bearer("the agents' key"));
        components.add_security_scheme("fill", bearer("the key in a fill source's headers"));
    }
}

/// The description as indented JSON.
pub fn json() -> String {
    Description::openapi().to_pretty_json().expect("the description has only string keys")
}

/// This description.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "operators",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], json())
}

/// `content::play::PlayRequest`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PlayRequest {
    pub title: String,
    /// 1 to 64 of `A-Z a-z 0-9 - _`: the same session, request and state of the fleet give the same ranking.
    pub session: String,
    pub member: String,
    pub plan: Tier,
    /// ISO 3166-1 alpha-2, upper case.
    #[schema(example = "SE", min_length = 2, max_length = 2)]
    pub territory: String,
    pub device: Device,
    /// BCP 47; the first that the title has becomes the default audio.
    #[serde(default)]
    pub languages: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Also say why each other appliance was passed over.
    #[serde(default)]
    pub explain: bool,
}

/// `content::id::Tier`
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Base,
    Sd,
    Hd,
    Uhd,
}

/// `content::play::Device`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Device {
    pub height_max: u32,
    #[schema(example = json!(["avc1", "mp4a"]))]
    pub codecs: Vec<String>,
}

/// `content::play::PlayAnswer`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PlayAnswer {
    pub session: String,
    pub title: String,
    pub name: String,
    pub duration_ms: u64,
    pub token: String,
    #[schema(format = DateTime)]
    pub expires: String,
    pub hls: String,
    pub dash: String,
    pub appliances: Vec<RankedAppliance>,
    pub streams: Vec<PlayStream>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
}

/// `content::play::RankedAppliance`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct RankedAppliance {
    pub appliance: String,
    pub cluster: String,
    pub base_url: String,
}

/// `content::play::PlayStream`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PlayStream {
    pub id: String,
    pub tier: Tier,
    #[serde(flatten)]
    pub kind: StreamKind,
    pub codecs: String,
    pub bandwidth_bps: u64,
    pub average_bandwidth_bps: u64,
    pub track: PlayObject,
    pub playlist: PlayObject,
    /// Inclusive byte range: `0-799`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

/// `content::title::StreamKind`
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum StreamKind {
    Video { width: u32, height: u32, frame_rate: [u32; 2] },
    Audio { language: String, channels: u16, sample_rate_hz: u32 },
    Subtitles { language: String },
}

/// `content::play::PlayObject`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PlayObject {
    pub object: String,
    pub bytes: u64,
    /// The best first, up to ten.
    pub urls: Vec<String>,
}

/// `content::play::PassedOver`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PassedOver {
    pub appliance: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// `silent`, `health`, `draining`, `full`, `content`, `rank`
    pub reason: String,
}

/// `content::play::TitleSummary`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct TitleSummary {
    pub title: String,
    pub name: String,
    pub duration_ms: u64,
}

/// `content::play::Problem`: RFC 9457
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
}

/// `content::report::Registration`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Registration {
    pub appliance: String,
    pub cluster: String,
    #[schema(example = "http://127.0.0.2:8080")]
    pub base_url: String,
    pub version: String,
}

/// `content::report::Registered`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Registered {
    pub report_every_ms: u64,
}

/// `content::report::Report`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Report {
    pub appliance: String,
    pub boot: String,
    pub sequence: u64,
    pub health: Health3,
    pub limited_by: String,
    /// 0 (full) to 1 (idle).
    #[schema(minimum = 0, maximum = 1)]
    pub headroom: f64,
    pub draining: bool,
    pub generation: u64,
    pub holds: Holdings,
    pub volumes: Vec<VolumeReport>,
    /// What asks for an operator, in words.
    #[schema(max_items = 32)]
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The box's wall clock when it sent this (RFC 3339).
    #[serde(default)]
    pub clock: Option<String>,
    pub server: Option<ServerFigures>,
    /// How often the agent found rot, by place.
    #[serde(default)]
    pub rot: BTreeMap<String, u64>,
}

/// `content::report::Health`
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ApplianceHealth)]
pub enum Health3 {
    Ok,
    Degraded,
    Failed,
}

/// `content::report::Holdings`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Holdings {
    pub manifest_version: u64,
    /// Base64 of a roaring bitmap in its portable form: ordinals of the manifest.
    pub missing: String,
    #[schema(max_items = 1000)]
    pub unlisted: Vec<String>,
}

/// `content::report::VolumeReport`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct VolumeReport {
    pub uuid: String,
    pub path: String,
    /// `ok`, `readonly`, `failed`, `missing`
    pub state: String,
    pub bytes_total: u64,
    pub bytes_free: u64,
    pub read_errors: u64,
    pub read_latency_us: u64,
}

/// `content::report::ServerFigures`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct ServerFigures {
    pub uptime_ms: u64,
    pub connections: u64,
    pub requests: u64,
    pub bytes_sent: u64,
    pub memory_hits: u64,
    pub memory_misses: u64,
    pub rate_bps: u64,
    /// What the box can carry, as it measured itself, bits per second; 0: it has not.
    #[serde(default)]
    pub capacity_bps: u64,
}

/// `content::report::Orders`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct Orders {
    pub manifest_version: u64,
    pub drain: bool,
    pub token_keys_version: String,
    /// The control plane's wall clock (RFC 3339).
    #[serde(default)]
    pub clock: Option<String>,
}

/// `content::fill::FillRequest`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct FillRequest {
    pub appliance: String,
    /// `/<title>/<tier>/<blake3>.<ext>`
    #[schema(max_items = 1000)]
    pub objects: Vec<String>,
}

/// `content::fill::FillAnswer`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct FillAnswer {
    pub objects: Vec<FillObject>,
}

/// `content::fill::FillObject`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct FillObject {
    pub path: String,
    pub sources: Vec<FillSource>,
}

/// `content::fill::FillSource`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct FillSource {
    /// `peer`, `tier`, `origin`
    pub kind: String,
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_url: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[schema(format = DateTime)]
    pub not_before: String,
}

#[derive(Deserialize, Serialize, ToSchema)]
pub struct TokenKeys {
    pub version: String,
    pub keys: Vec<PublicKey>,
}

/// `content::control_socket::PublicKey`
#[derive(Deserialize, Serialize, ToSchema)]
pub struct PublicKey {
    pub key_id: String,
    /// Ed25519, base64url (the `x` of RFC 8037).
    pub x: String,
}

#[derive(Serialize, ToSchema)]
pub struct FleetEntry {
    pub appliance: String,
    pub cluster: String,
    pub base_url: String,
    pub version: String,
    /// Whether plays get it, if it holds what they ask for.
    pub offered: bool,
    /// Why not: `silent`, `health`, `draining`, `full`.
    pub reason: Option<String>,
    /// An operator asked for it.
    pub drain_ordered: bool,
    /// Of its last report; null: none since this control plane's start.
    #[schema(value_type = Option<u64>)]
    pub age_ms: Option<i128>,
    #[schema(value_type = Option<Report>)]
    pub report: Option<serde_json::Value>,
}

#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `degraded`
    pub status: String,
    pub titles: usize,
    pub appliances: usize,
    pub offered: usize,
    /// What asks for an operator.
    pub degraded: Vec<Trouble>,
}

#[derive(Serialize, ToSchema)]
pub struct Trouble {
    /// `origin`, `title <slug>`, `manifest of <cluster>`
    pub what: String,
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;
    use crate::fill_sources::{FillSecret, fill_sources};
    use crate::playback;
    use crate::playback::tests::{issuer, request};
    use crate::snapshot::tests::{Box, film, noon, world};

    /// A field that one of the two does not have, or calls otherwise, does not survive the passage.
    fn passes_through<Mirror: Serialize + DeserializeOwned>(real: &impl Serialize) {
        let before = serde_json::to_value(real).unwrap();
        let mirrored: Mirror = serde_json::from_value(before.clone()).unwrap();
        assert_eq!(serde_json::to_value(mirrored).unwrap(), before);
        for (name, value) in before.as_object().unwrap() {
            assert!(!value.is_null(), "the sample leaves {name} out, so it proves nothing of it");
        }
    }

    #[test]
    fn the_schemas_have_the_shape_of_the_messages() {
        let mut boxes = [Box::well("box-a"), Box::well("box-b")];
        boxes[0].missing = vec![9];
        boxes[0].unlisted = film("film").objects().map(|(path, _)| path).collect();
        boxes[1].draining = true;
        let snapshot = world(&[film("film")], &boxes);
        let mut asked = request("s-1");
        asked.address = Some("192.0.2.7".parse().unwrap());
        passes_through::<PlayRequest>(&asked);
        let answer = playback::play(&snapshot, &issuer(), &asked, noon()).unwrap();
        assert!(!answer.passed_over.is_empty());
        passes_through::<PlayAnswer>(&answer);
        for appliance in snapshot.fleet.values() {
            passes_through::<Registration>(&appliance.registration);
            let mut report = appliance.live.as_ref().unwrap().report.clone();
            report.volumes = vec![content::report::VolumeReport {
                uuid: content::volume::VolumeId([7; 16]),
                path: "/srv".to_owned(),
                state: content::report::VolumeState::Ok,
                bytes_total: 1,
                bytes_free: 1,
                read_errors: 0,
                read_latency_us: 5,
            }];
            passes_through::<Report>(&report);
        }
        let objects = film("film").objects().map(|(path, _)| path).collect();
        let wish = content::fill::FillRequest { appliance: "box-a".parse().unwrap(), objects };
        passes_through::<FillRequest>(&wish);
        let secret = FillSecret::derived_from(&[1; 32]);
        passes_through::<FillAnswer>(&fill_sources(&snapshot, "http://c", &secret, &wish, noon()).unwrap());
        passes_through::<Problem>(&crate::refusal::Refusal::UnknownTitle("x".to_owned()).problem());
        let orders = content::report::Orders {
            manifest_version: 1,
            drain: true,
            token_keys_version: "v".to_owned(),
            clock: Some(noon()),
        };
        passes_through::<Orders>(&orders);
        passes_through::<Registered>(&content::report::Registered { report_every_ms: 2000 });
        passes_through::<PublicKey>(&issuer().signer.public_key());
    }

    #[test]
    fn the_description_and_the_routes_name_the_same_addresses() {
        let description: Value = serde_json::from_str(&json()).unwrap();
        let mut described: Vec<String> = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            described.extend(methods.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
        }
        let routes = super::super::routes();
        let published = routes.iter().filter(|route| route.published);
        let mut served: Vec<_> = published.map(|route| format!("{} {}", route.method, route.path)).collect();
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
