//! What players ask: plays, their playlists, the list of titles.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use content::id::{SessionId, Tier, TitleId};
use content::play::{Device, PlayAnswer, PlayRequest, TitleSummary};
use serde::Deserialize;

use super::problem::{ApiProblem, JsonBody, QueryOf};
use super::{Control, api_doc};
use crate::refusal::Refusal;
use crate::{dash, hls, playback};

/// The other end of the connection.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

type AtPeer = Option<Extension<Peer>>;

/// Ask for a play: who may serve it, the best first, or why not.
#[utoipa::path(
    post, path = "/v1/plays", tag = "players",
    request_body = api_doc::PlayRequest,
    responses(
        (status = 200, description = "Ranked URLs per stream, and a token", body = api_doc::PlayAnswer),
        (status = 403, description = "Territory, window or plan does not allow it", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such title", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 422, description = "Nothing that the device can show, or JSON of another shape", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nobody can serve it now", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn play(
    State(control): State<Arc<Control>>,
    peer: AtPeer,
    JsonBody(mut request): JsonBody<PlayRequest>,
) -> Result<impl IntoResponse, ApiProblem> {
    request.address = request.address.or(peer.map(|Extension(Peer(address))| address.ip()));
    // The log always says why; the player only if it asked.
    let explain = std::mem::replace(&mut request.explain, true);
    // The time first: a clock that was set moves the snapshot.
    let now = control.now();
    let answer = playback::play(&control.snapshot(), &control.issuer, &request, now);
    log_decision(&request, &answer);
    let mut answer = answer?;
    if !explain {
        answer.passed_over.clear();
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)))
}

/// A line is for reading: `explain` gives them all.
const PASSED_OVER_LOGGED_MAX: usize = 32;

/// One line per play, enough to replay the decision beside the snapshot.
fn log_decision(request: &PlayRequest, answer: &Result<PlayAnswer, Refusal>) {
    // Texts that nobody has checked yet are logged as values, so that they come out quoted and escaped.
    let (session, title, member) = (&request.session, &request.title, &request.member);
    let (territory, plan) = (&request.territory, request.plan);
    match answer {
        Ok(answer) => {
            let ranked: Vec<_> = answer.appliances.iter().map(|ranked| ranked.appliance.as_str()).collect();
            let passed =
                answer.passed_over.iter().map(|passed| format!("{}:{}", passed.appliance, passed.reason));
            let passed_over = passed.take(PASSED_OVER_LOGGED_MAX).collect::<Vec<_>>().join(",");
            let (ranked, streams) = (ranked.join(","), answer.streams.len());
            tracing::info!(%session, %title, member, territory, %plan, ranked, streams, passed_over, "play");
        }
        Err(reason) => tracing::info!(%session, %title, member, territory, %plan, %reason, "play refused"),
    }
}

/// The same request as query parameters.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlayQuery {
    #[param(value_type = String)]
    title: TitleId,
    #[param(value_type = String)]
    session: SessionId,
    #[serde(default)]
    member: String,
    #[param(value_type = String)]
    plan: Tier,
    territory: String,
    height_max: u32,
    /// Joined by commas.
    codecs: String,
    /// Joined by commas.
    #[serde(default)]
    languages: String,
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// That of the play's answer; without it the playlist carries a token of its own.
    token: Option<String>,
}

impl PlayQuery {
    fn into_request(self, peer: Option<IpAddr>) -> (PlayRequest, Option<String>) {
        let list = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let request = PlayRequest {
            title: self.title,
            session: self.session,
            member: self.member,
            plan: self.plan,
            territory: self.territory,
            device: Device { height_max: self.height_max, codecs: list(&self.codecs) },
            languages: list(&self.languages),
            address: self.address.or(peer),
            explain: false,
        };
        (request, self.token)
    }
}

/// The HLS multivariant playlist of a play, for players that take nothing else.
#[utoipa::path(
    get, path = "/v1/plays/multivariant.m3u8", tag = "players", params(PlayQuery),
    responses(
        (status = 200, description = "The playlist", body = String, content_type = "application/vnd.apple.mpegurl"),
        (status = "default", description = "Refused, as at POST /v1/plays", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn multivariant(
    State(control): State<Arc<Control>>,
    peer: AtPeer,
    QueryOf(query): QueryOf<PlayQuery>,
) -> Result<impl IntoResponse, ApiProblem> {
    let (request, token) = query.into_request(peer.map(|Extension(Peer(address))| address.ip()));
    let now = control.now();
    let snapshot = control.snapshot();
    let text = playback::multivariant(&snapshot, &control.issuer, &request, token.as_deref(), now)?;
    Ok(manifest_answer(hls::MEDIA_TYPE, text))
}

/// The DASH manifest of a play, for players that take nothing else.
#[utoipa::path(
    get, path = "/v1/plays/manifest.mpd", tag = "players", params(PlayQuery),
    responses(
        (status = 200, description = "The manifest", body = String, content_type = "application/dash+xml"),
        (status = "default", description = "Refused, as at POST /v1/plays", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn dash_manifest(
    State(control): State<Arc<Control>>,
    peer: AtPeer,
    QueryOf(query): QueryOf<PlayQuery>,
) -> Result<impl IntoResponse, ApiProblem> {
    let (request, token) = query.into_request(peer.map(|Extension(Peer(address))| address.ip()));
    let now = control.now();
    let snapshot = control.snapshot();
    let text = playback::dash_manifest(&snapshot, &control.issuer, &request, token.as_deref(), now)?;
    Ok(manifest_answer(dash::MEDIA_TYPE, text))
}

/// Of this play and moment only, and for a player on any page.
fn manifest_answer(media_type: &'static str, text: String) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (headers, text)
}

/// Every title that the origin has, whether or not it may be watched somewhere.
#[utoipa::path(
    get, path = "/v1/titles", tag = "players",
    responses((status = 200, description = "In order of name", body = [api_doc::TitleSummary]))
)]
pub(super) async fn titles(State(control): State<Arc<Control>>) -> impl IntoResponse {
    let snapshot = control.snapshot();
    let summary = |known: &Arc<crate::snapshot::KnownTitle>| TitleSummary {
        title: known.title.title.clone(),
        name: known.title.name.clone(),
        duration_ms: known.title.duration_ms,
    };
    let titles: Vec<_> = snapshot.titles.values().map(summary).collect();
    ([(header::CACHE_CONTROL, "no-store")], Json(titles))
}
