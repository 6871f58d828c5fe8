//! What the agent asks the control plane: one function per call of its API. Impure.

use bytes::Bytes;
use content::fill::{FillAnswer, FillRequest};
use content::id::ClusterId;
use content::manifest::Manifest;
use content::play::Problem;
use content::report::{Orders, Registered, Registration, Report};
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::Http;
use crate::state_folder::TokenKeys;

/// Bound on any answer but the manifest.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// About a million objects.
const MANIFEST_BYTES_MAX: usize = 512 << 20;

#[derive(Clone, Debug, thiserror::Error)]
#[error("{call}: {what}")]
pub struct ControlError {
    pub call: &'static str,
    /// None: there was no answer.
    pub status: Option<u16>,
    pub what: String,
}

impl ControlError {
    /// The control plane has forgotten this appliance, or never knew it.
    pub fn asks_to_register(&self) -> bool {
        self.status == Some(404)
    }
}

#[derive(Clone, Debug)]
pub enum ManifestAnswer {
    /// The cluster has none.
    None,
    Unchanged,
    New {
        etag: String,
        manifest: Box<Manifest>,
        /// What it was read from: to be kept.
        bytes: Bytes,
    },
}

#[derive(Clone, Debug)]
pub struct Control {
    http: Http,
    base: String,
    authorization: String,
}

struct Answer {
    status: StatusCode,
    etag: Option<String>,
    body: Bytes,
}

impl Control {
    pub fn new(http: Http, base: &str, key: &str) -> Self {
        Self { http, base: base.to_owned(), authorization: format!("Bearer {key}") }
    }

    pub async fn register(&self, registration: &Registration) -> Result<Registered, ControlError> {
        self.post("register", "/v1/agent/register", registration).await
    }

    pub async fn report(&self, report: &Report) -> Result<Orders, ControlError> {
        self.post("report", "/v1/agent/reports", report).await
    }

    pub async fn fill_sources(&self, request: &FillRequest) -> Result<FillAnswer, ControlError> {
        self.post("fill-sources", "/v1/agent/fill-sources", request).await
    }

    pub async fn token_keys(&self) -> Result<TokenKeys, ControlError> {
        let request = self.request(Method::GET, "/v1/agent/token-keys");
        let call = "token-keys";
        let answer = self.send(call, request.body(Full::default()), ANSWER_BYTES_MAX).await?;
        accepted(call, &answer)?;
        parse(call, &answer)
    }

    pub async fn manifest(
        &self,
        cluster: &ClusterId,
        etag: Option<&str>,
    ) -> Result<ManifestAnswer, ControlError> {
        let call = "manifest";
        let mut request = self.request(Method::GET, &format!("/v1/agent/clusters/{cluster}/manifest"));
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let answer = self.send(call, request.body(Full::default()), MANIFEST_BYTES_MAX).await?;
        match answer.status {
            StatusCode::NOT_MODIFIED => return Ok(ManifestAnswer::Unchanged),
            StatusCode::NOT_FOUND => return Ok(ManifestAnswer::None),
            _ => accepted(call, &answer)?,
        }
        let refuse = |what: String| ControlError { call, status: Some(200), what };
        let manifest = Manifest::parse(&answer.body).map_err(|cause| refuse(cause.to_string()))?;
        if manifest.cluster != *cluster {
            return Err(refuse(format!("it is cluster {}'s, not {cluster}'s", manifest.cluster)));
        }
        let etag = answer.etag.unwrap_or_default();
        Ok(ManifestAnswer::New { etag, manifest: Box::new(manifest), bytes: answer.body })
    }

    async fn post<T: DeserializeOwned>(
        &self,
        call: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ControlError> {
        let body = serde_json::to_vec(body).map_err(|cause| unsent(call, &cause))?;
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body)));
        let answer = self.send(call, request, ANSWER_BYTES_MAX).await?;
        accepted(call, &answer)?;
        parse(call, &answer)
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, &self.authorization)
            .header(ACCEPT, "application/json, application/problem+json, */*")
    }

    async fn send(
        &self,
        call: &'static str,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
        limit: usize,
    ) -> Result<Answer, ControlError> {
        let request = request.map_err(|cause| unsent(call, &cause))?;
        let answer = self.http.send(request).await.map_err(|cause| unsent(call, &cause))?;
        let (head, body) = answer.into_parts();
        let etag = head.headers.get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = self.http.whole(body, limit).await.map_err(|cause| unsent(call, &cause))?;
        Ok(Answer { status: head.status, etag, body })
    }
}

fn unsent(call: &'static str, cause: &dyn std::fmt::Display) -> ControlError {
    ControlError { call, status: None, what: cause.to_string() }
}

fn accepted(call: &'static str, answer: &Answer) -> Result<(), ControlError> {
    if answer.status.is_success() {
        return Ok(());
    }
    let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
    let what = problem.map_or_else(
        || format!("answered {}", answer.status),
        |problem| format!("answered {}: {} ({})", answer.status, problem.title, problem.detail),
    );
    Err(ControlError { call, status: Some(answer.status.as_u16()), what })
}

fn parse<T: DeserializeOwned>(call: &'static str, answer: &Answer) -> Result<T, ControlError> {
    serde_json::from_slice(&answer.body).map_err(|cause| ControlError {
        call,
        status: Some(answer.status.as_u16()),
        what: format!("its answer cannot be read: {cause}"),
    })
}
