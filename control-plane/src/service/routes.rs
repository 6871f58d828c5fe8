//! Every address that the control plane answers, in one table; and what surrounds each answer: request id, time limit,
//! body limit, problem details, a line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};

use super::problem::{self, ApiProblem, of_status};
use super::{Control, agents, api_doc, metrics, objects, operator, page, plays};

/// From the head of a request to the head of its answer. Bodies that stream take what they take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const SMALL_BODY: usize = 64 * 1024;
/// A thousand paths of 200 bytes.
const WISHES_BODY: usize = 512 * 1024;
/// A bitmap of a million exceptions and a thousand unlisted objects.
const REPORT_BODY: usize = 4 * 1024 * 1024;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One method at one address.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    /// Part of the published API; the page is not.
    pub published: bool,
    body_bytes_max: usize,
    handler: fn() -> MethodRouter<Arc<Control>>,
}

const fn api(
    method: &'static str,
    path: &'static str,
    body_bytes_max: usize,
    handler: fn() -> MethodRouter<Arc<Control>>,
) -> Route {
    Route { method, path, published: true, body_bytes_max, handler }
}

const fn page(path: &'static str, handler: fn() -> MethodRouter<Arc<Control>>) -> Route {
    Route { method: "get", path, published: false, body_bytes_max: 0, handler }
}

/// `get` answers HEAD as well.
pub const fn routes() -> [Route; 19] {
    [
        api("post", "/v1/plays", SMALL_BODY, || post(plays::play)),
        api("get", "/v1/plays/multivariant.m3u8", 0, || get(plays::multivariant)),
        api("get", "/v1/plays/manifest.mpd", 0, || get(plays::dash_manifest)),
        api("get", "/v1/titles", 0, || get(plays::titles)),
        api("get", "/v1/fleet", 0, || get(operator::fleet)),
        api("get", "/v1/health", 0, || get(operator::health)),
        api("get", "/v1/openapi.json", 0, || get(api_doc::openapi)),
        api("delete", "/v1/appliances/{appliance}", SMALL_BODY, || delete(operator::deregister)),
        api("post", "/v1/appliances/{appliance}/drain", SMALL_BODY, || post(operator::drain)),
        api("delete", "/v1/appliances/{appliance}/drain", SMALL_BODY, || delete(operator::enable)),
        api("post", "/v1/agent/register", SMALL_BODY, || post(agents::register)),
        api("post", "/v1/agent/reports", REPORT_BODY, || post(agents::report)),
        api("get", "/v1/agent/clusters/{cluster}/manifest", 0, || get(agents::manifest)),
        api("post", "/v1/agent/fill-sources", WISHES_BODY, || post(agents::sources)),
        api("get", "/v1/agent/token-keys", 0, || get(agents::token_keys)),
        api("get", "/v1/origin/objects/{first2}/{name}", 0, || get(objects::object)),
        page("/metrics", || get(metrics::metrics)),
        page("/", || get(page::index)),
        page("/assets/{name}", || get(page::asset)),
    ]
}

/// The whole service on one router.
pub fn router(control: Arc<Control>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let handler = (route.handler)().layer(DefaultBodyLimit::max(route.body_bytes_max));
        router = router.route(route.path, handler);
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::new(RequestIds::new()), surround))
        .with_state(control)
}

async fn unknown_path(uri: Uri) -> ApiProblem {
    ApiProblem::not_found(format!(
        "there is nothing at {}; GET /v1/openapi.json lists what there is",
        uri.path()
    ))
}

async fn wrong_method() -> ApiProblem {
    let detail = "this address answers other methods; see the Allow header".to_owned();
    of_status(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Names requests: of this start of the process, and in order.
struct RequestIds {
    start: String,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let start = super::clock::now().as_nanosecond().to_le_bytes();
        Self { start: blake3::hash(&start).to_hex()[..8].to_owned(), next: AtomicU64::new(1) }
    }

    /// A caller's own id is kept, so that its log and ours can be joined; if it is fit to be logged.
    fn of(&self, request: &Request) -> HeaderValue {
        let fit = |value: &&HeaderValue| {
            let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            (1..=64).contains(&value.len()) && value.as_bytes().iter().all(allowed)
        };
        request.headers().get(&REQUEST_ID).filter(fit).cloned().unwrap_or_else(|| {
            let text = format!("{}-{}", self.start, self.next.fetch_add(1, Ordering::Relaxed));
            HeaderValue::from_str(&text).expect("hexadecimal digits and a dash are a header value")
        })
    }
}

async fn surround(State(ids): State<Arc<RequestIds>>, request: Request, next: Next) -> Response {
    let id = ids.of(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answered = tokio::time::timeout(ANSWER_LIMIT, next.run(request)).await;
    let too_slow = |_| {
        let detail = "the request did not arrive, or was not answered, in 15 seconds".to_owned();
        let close = HeaderValue::from_static("close");
        of_status(StatusCode::REQUEST_TIMEOUT, detail).with(header::CONNECTION, close).into_response()
    };
    let mut response = as_problem(answered.unwrap_or_else(too_slow));
    let status = response.status().as_u16();
    tracing::debug!(id = id.to_str().unwrap_or_default(), %method, path, status, "answered");
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID.clone(), id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whatever a layer refused in its own words becomes a problem; its headers (`Allow`) stay.
fn as_problem(response: Response) -> Response {
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let told = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == problem::MEDIA_TYPE);
    if !refused || told {
        return response;
    }
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or("refused").to_owned();
    let mut problem = of_status(status, reason).into_response();
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            problem.headers_mut().insert(name, value.clone());
        }
    }
    problem
}
