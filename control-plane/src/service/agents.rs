//! What the agents of the appliances ask, each with the agents' key.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use content::fill::{FillAnswer, FillRequest};
use content::id::ClusterId;
use content::report::{Orders, Registered, Registration, Report};

use super::config::is_base_url;
use super::problem::{ApiProblem, JsonBody, PathOf};
use super::{Control, api_doc};
use crate::fill_sources::fill_sources;
use crate::refusal::Refusal;

const REPORT_EVERY_MS: u64 = 2_000;

/// Proof that the request carries the agents' key.
pub(super) struct Agent;

impl FromRequestParts<Arc<Control>> for Agent {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, ApiProblem> {
        let presented = bearer(&parts.headers).is_some_and(|key| control.agent_key.is(key));
        let refuse =
            || ApiProblem::unauthorized("send Authorization: Bearer with the agents' key (agent_key_file)");
        presented.then_some(Self).ok_or_else(refuse)
    }
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// At the agent's start. Registering again replaces what was said.
#[utoipa::path(
    post, path = "/v1/agent/register", tag = "agents", security(("agent" = [])),
    request_body = api_doc::Registration,
    responses(
        (status = 200, description = "Registered", body = api_doc::Registered),
        (status = 404, description = "The cluster is not configured", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register(
    _: Agent,
    State(control): State<Arc<Control>>,
    JsonBody(registration): JsonBody<Registration>,
) -> Result<Json<Registered>, ApiProblem> {
    if !control.snapshot().clusters.contains_key(&registration.cluster) {
        return Err(Refusal::UnknownCluster(registration.cluster.to_string()).into());
    }
    if !is_base_url(&registration.base_url) || registration.version.len() > 64 {
        let why = "base_url must be http://HOST:PORT (not https yet) without a slash at the end, version at most 64 bytes";
        return Err(Refusal::Malformed(why.to_owned()).into());
    }
    let (appliance, cluster) = (registration.appliance.clone(), registration.cluster.clone());
    let writing = control.clone();
    on_disk(move || writing.register(registration)).await?;
    tracing::info!(%appliance, %cluster, "registered");
    // The agent asks for the manifest next, and one that does not name it would empty a box that comes back.
    control.until_named(&appliance, &cluster).await;
    Ok(Json(Registered { report_every_ms: REPORT_EVERY_MS }))
}

/// Runs what waits for a disk away from the threads that answer.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, super::lasting::StateError> + Send + 'static,
) -> Result<T, ApiProblem> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| ApiProblem::internal("writing its state was broken off"))??)
}

/// Every two seconds. Only the last is kept.
#[utoipa::path(
    post, path = "/v1/agent/reports", tag = "agents", security(("agent" = [])),
    request_body = api_doc::Report,
    responses(
        (status = 200, description = "What to do", body = api_doc::Orders),
        (status = 404, description = "Not registered: register again", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn report(
    _: Agent,
    State(control): State<Arc<Control>>,
    JsonBody(report): JsonBody<Report>,
) -> Result<Json<Orders>, ApiProblem> {
    Ok(Json(control.accept(report, control.now())?))
}

/// The newest manifest of a cluster: lines of JSON, with a seal. Its ETag changes with its version and with its content.
#[utoipa::path(
    get, path = "/v1/agent/clusters/{cluster}/manifest", tag = "agents", security(("agent" = [])),
    params(("cluster" = String, Path), ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "The manifest", body = String, content_type = "application/x-ndjson"),
        (status = 304, description = "It is the one that If-None-Match names"),
        (status = 404, description = "No such cluster, or none yet", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn manifest(
    _: Agent,
    State(control): State<Arc<Control>>,
    PathOf(cluster): PathOf<ClusterId>,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    let snapshot = control.snapshot();
    if !snapshot.clusters.contains_key(&cluster) {
        return Err(Refusal::UnknownCluster(cluster.to_string()).into());
    }
    let known = snapshot.manifest(&cluster).ok_or_else(|| Refusal::NoManifest(cluster.to_string()))?;
    let same = matches_tag(&headers, &known.tag);
    let tag = HeaderValue::from_str(&known.tag).expect("digits and letters in quotes are a header value");
    if same {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let media_type = HeaderValue::from_static("application/x-ndjson");
    let body = bytes::Bytes::from_owner(known.bytes.clone());
    Ok(([(header::ETAG, tag), (header::CONTENT_TYPE, media_type)], body).into_response())
}

/// RFC 9110 §13.1.2: weak comparison with each of a list, or `*`.
pub(super) fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut listed = values.flat_map(|value| value.split(',')).map(str::trim);
    listed.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// Where to pull objects from, the best first.
#[utoipa::path(
    post, path = "/v1/agent/fill-sources", tag = "agents", security(("agent" = [])),
    request_body = api_doc::FillRequest,
    responses(
        (status = 200, description = "In the order asked for", body = api_doc::FillAnswer),
        (status = 404, description = "Not registered", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn sources(
    _: Agent,
    State(control): State<Arc<Control>>,
    JsonBody(request): JsonBody<FillRequest>,
) -> Result<Json<FillAnswer>, ApiProblem> {
    let (origin, secret) = (&control.issuer.public_url, &control.fill_secret);
    let now = control.now();
    Ok(Json(fill_sources(&control.snapshot(), origin, secret, &request, now)?))
}

/// The public keys that tokens are verified with.
#[utoipa::path(
    get, path = "/v1/agent/token-keys", tag = "agents", security(("agent" = [])),
    responses(
        (status = 200, description = "All keys, and a text that changes with them", body = api_doc::TokenKeys),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn token_keys(_: Agent, State(control): State<Arc<Control>>) -> Json<api_doc::TokenKeys> {
    let keys = control
        .public_keys
        .iter()
        .map(|key| api_doc::PublicKey { key_id: key.key_id.clone(), x: key.x.clone() });
    Json(api_doc::TokenKeys { version: control.keys_version.clone(), keys: keys.collect() })
}
