//! What operators ask: the fleet, the control plane's own health, drain, the end of a registration.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use content::id::ApplianceId;

use super::agents::{bearer, on_disk};
use super::control::Deregistered;
use super::problem::{ApiProblem, PathOf};
use super::{Control, api_doc};
use crate::refusal::Refusal;
use crate::snapshot::Appliance;
use crate::steering;

/// Proof that an operator asks: by key where one is configured; else not from a stranger's web page.
pub(super) struct Operator;

impl FromRequestParts<Arc<Control>> for Operator {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, control: &Arc<Control>) -> Result<Self, ApiProblem> {
        if let Some(key) = &control.operator_key {
            let presented = bearer(&parts.headers).is_some_and(|presented| key.is(presented));
            let refuse = || {
                ApiProblem::unauthorized(
                    "send Authorization: Bearer with the operators' key (operator_key_file)",
                )
            };
            return presented.then_some(Self).ok_or_else(refuse);
        }
        // A browser tells where a script comes from: no page but our own may drain a box through somebody's browser.
        let origin = parts.headers.get(header::ORIGIN);
        if origin.is_none_or(|origin| origin == control.issuer.public_url.as_str()) {
            return Ok(Self);
        }
        Err(ApiProblem::new(
            StatusCode::FORBIDDEN,
            "foreign-page",
            "Not from this page",
            "asked by the page of another origin",
        ))
    }
}

/// Every appliance, its last report, and whether it is offered.
#[utoipa::path(
    get, path = "/v1/fleet", tag = "operators",
    responses((status = 200, description = "In order of name", body = [api_doc::FleetEntry]))
)]
pub(super) async fn fleet(State(control): State<Arc<Control>>) -> Json<Vec<api_doc::FleetEntry>> {
    let now = control.now();
    let entry = |appliance: &Arc<Appliance>| {
        let live = appliance.live.as_ref();
        let fitness = steering::fitness(appliance, now);
        let registration = &appliance.registration;
        api_doc::FleetEntry {
            appliance: registration.appliance.to_string(),
            cluster: registration.cluster.to_string(),
            base_url: registration.base_url.clone(),
            version: registration.version.clone(),
            offered: fitness.is_ok(),
            reason: fitness.err().map(|reason| reason.as_str().to_owned()),
            drain_ordered: appliance.drain_ordered,
            age_ms: live
                .map(|live| now.duration_since(live.received).as_millis().clamp(0, i128::from(u32::MAX))),
            report: live.map(|live| serde_json::to_value(&live.report).unwrap_or_default()),
        }
    };
    Json(control.snapshot().fleet.values().map(entry).collect())
}

/// Whether the control plane itself is well; 200 in either case, because it answers.
#[utoipa::path(
    get, path = "/v1/health", tag = "operators",
    responses((status = 200, description = "`ok`, or `degraded` with what asks for an operator", body = api_doc::Health))
)]
pub(super) async fn health(State(control): State<Arc<Control>>) -> Json<api_doc::Health> {
    let now = control.now();
    let snapshot = control.snapshot();
    let troubles = control.troubles();
    let degraded =
        troubles.iter().map(|t| api_doc::Trouble { what: t.what.clone(), reason: t.reason.clone() });
    Json(api_doc::Health {
        status: if troubles.is_empty() { "ok" } else { "degraded" }.to_owned(),
        titles: snapshot.titles.len(),
        appliances: snapshot.fleet.len(),
        offered: snapshot
            .fleet
            .values()
            .filter(|appliance| steering::fitness(appliance, now).is_ok())
            .count(),
        degraded: degraded.collect(),
    })
}

/// Offer an appliance to nobody; what it serves now it finishes. Lasts until it is taken back.
#[utoipa::path(
    post, path = "/v1/appliances/{appliance}/drain", tag = "operators", params(("appliance" = String, Path)),
    responses(
        (status = 204, description = "It is not offered any more"),
        (status = 404, description = "Not registered", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn drain(
    _: Operator,
    State(control): State<Arc<Control>>,
    PathOf(appliance): PathOf<ApplianceId>,
) -> Result<StatusCode, ApiProblem> {
    order(control, appliance, true).await
}

/// Offer it again.
#[utoipa::path(
    delete, path = "/v1/appliances/{appliance}/drain", tag = "operators", params(("appliance" = String, Path)),
    responses(
        (status = 204, description = "It is offered again once it reports that it does not drain"),
        (status = 404, description = "Not registered", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn enable(
    _: Operator,
    State(control): State<Arc<Control>>,
    PathOf(appliance): PathOf<ApplianceId>,
) -> Result<StatusCode, ApiProblem> {
    order(control, appliance, false).await
}

/// Forget an appliance that is gone for good. The next manifest of its cluster leaves it out; if it ever comes back, it
/// registers as a new one.
#[utoipa::path(
    delete, path = "/v1/appliances/{appliance}", tag = "operators", params(("appliance" = String, Path)),
    responses(
        (status = 204, description = "It is forgotten"),
        (status = 404, description = "Not registered", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = 409, description = "It still reports: stop its agent first", body = api_doc::Problem, content_type = "application/problem+json"),
        (status = "default", description = "Refused", body = api_doc::Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn deregister(
    _: Operator,
    State(control): State<Arc<Control>>,
    PathOf(appliance): PathOf<ApplianceId>,
) -> Result<StatusCode, ApiProblem> {
    let name = appliance.clone();
    match on_disk(move || control.deregister(&name, control.now())).await? {
        Deregistered::Done => {}
        Deregistered::Unknown => return Err(Refusal::UnknownAppliance(appliance.to_string()).into()),
        Deregistered::StillReports => {
            let seconds = steering::SILENT_AFTER.as_secs();
            let detail = format!(
                "{appliance} still reports and would register again: stop its agent, wait {seconds} s, ask again"
            );
            return Err(ApiProblem::new(StatusCode::CONFLICT, "still-reporting", "It still reports", detail));
        }
    }
    tracing::info!(%appliance, "an operator's order: forgotten");
    Ok(StatusCode::NO_CONTENT)
}

async fn order(control: Arc<Control>, appliance: ApplianceId, on: bool) -> Result<StatusCode, ApiProblem> {
    let name = appliance.clone();
    if !on_disk(move || control.order_drain(&name, on)).await? {
        return Err(Refusal::UnknownAppliance(appliance.to_string()).into());
    }
    tracing::info!(%appliance, drain = on, "an operator's order");
    Ok(StatusCode::NO_CONTENT)
}
