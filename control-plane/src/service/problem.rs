//! Refusals on the wire: RFC 9457 problem details for everything, axum's own rejections included.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use content::play::Problem;
use serde::de::DeserializeOwned;

use super::lasting::StateError;
use crate::refusal::Refusal;

pub const MEDIA_TYPE: &str = "application/problem+json";
/// When a refused player may ask again: one report later.
const RETRY_AFTER_S: &str = "2";

#[derive(Debug)]
pub struct ApiProblem {
    problem: Problem,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiProblem {
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        let kind = format!("/problems/{kind}");
        let problem =
            Problem { kind, title: title.to_owned(), status: status.as_u16(), detail: detail.into() };
        Self { problem, header: None }
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub fn unauthorized(detail: &str) -> Self {
        let challenge = HeaderValue::from_static("Bearer");
        Self::new(StatusCode::UNAUTHORIZED, "key", "A key is needed", detail)
            .with(header::WWW_AUTHENTICATE, challenge)
    }

    /// The origin or the state folder failed: ours or the operator's to cure, the log has the cause.
    pub fn internal(what: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The control plane failed", what)
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self.problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

impl From<Refusal> for ApiProblem {
    fn from(refusal: Refusal) -> Self {
        Self { problem: refusal.problem(), header: None }
    }
}

impl From<StateError> for ApiProblem {
    fn from(error: StateError) -> Self {
        tracing::error!(%error, "state");
        Self::internal("its state cannot be written; see its log")
    }
}

/// A refusal of the framework, by its status.
pub fn of_status(status: StatusCode, detail: String) -> ApiProblem {
    let (kind, title) = match status {
        StatusCode::NOT_FOUND => ("not-found", "Not found"),
        StatusCode::METHOD_NOT_ALLOWED => ("method-not-allowed", "Method not allowed"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body-too-large", "Body too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported-media-type", "Unsupported media type"),
        StatusCode::REQUEST_TIMEOUT => ("timeout", "Too slow"),
        other if other.is_server_error() => ("internal", "The control plane failed"),
        _ => ("malformed-request", "Malformed request"),
    };
    ApiProblem::new(status, kind, title, detail)
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiProblem> {
        let body = Json::<T>::from_request(request, state).await;
        body.map(|Json(value)| Self(value))
            .map_err(|error: JsonRejection| of_status(error.status(), error.body_text()))
    }
}

/// Query parameters.
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|error: QueryRejection| of_status(error.status(), error.body_text()))
    }
}

/// The named parts of a path.
pub struct PathOf<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value))
            .map_err(|error: PathRejection| of_status(error.status(), error.body_text()))
    }
}
