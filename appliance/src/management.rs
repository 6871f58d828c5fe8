//! The management port: `GET /metrics` for Prometheus, `GET /health` for people and probes. Changes nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::service::{Condition, Service};
use crate::sys;

const CONNECTIONS_MAX: usize = 32;
const HEAD_MAX: Duration = Duration::from_secs(5);
/// A connection is closed after this long: scrapers open a new one.
const CONNECTION_MAX: Duration = Duration::from_secs(120);
const BUFFER_BYTES: usize = 16 * 1024;
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Before accepting: who is one too many waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    converse(stream, service).await;
                    drop(place);
                });
            }
            Err(cause) => {
                tracing::warn!(%cause, "the management port does not accept");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, service: Arc<Service>) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &service);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(BUFFER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), respond);
    // Whatever a scraper does wrong ends its own connection only.
    if let Ok(Err(cause)) = timeout(CONNECTION_MAX, connection).await {
        tracing::debug!(%cause, "a management connection ended");
    }
}

fn answer(method: &Method, path: &str, service: &Service) -> Response<Full<Bytes>> {
    let readable = method == Method::GET || method == Method::HEAD;
    match path {
        "/metrics" | "/health" if !readable => {
            let mut refused =
                text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".to_owned());
            refused
                .headers_mut()
                .insert(ALLOW, "GET, HEAD".parse().expect("a list of methods is a field value"));
            refused
        }
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", service.exposition(sys::now())),
        "/health" => health(service),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /health\n".to_owned()),
    }
}

/// 200 while players may be sent here, 503 otherwise.
fn health(service: &Service) -> Response<Full<Bytes>> {
    let health = service.health();
    let status = match health.status {
        Condition::Ok | Condition::Degraded => StatusCode::OK,
        Condition::Draining | Condition::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_string_pretty(&health).expect("health has only string keys");
    text(status, "application/json", body)
}

fn text(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let fields = [(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-store")];
    for (name, value) in fields {
        response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}
