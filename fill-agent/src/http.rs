//! HTTP/1.1 as the agent speaks it: a client with kept connections where every wait has an end and every body a limit.
//! Impure.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

/// Without any byte for this long, a transfer is given up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub connect: Duration,
    /// From the request to the last byte of the answer's head.
    pub head: Duration,
    /// Between two parts of a body.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), head: seconds(15), body: seconds(15) }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    Unreachable(String),
    #[error("nothing came for {} ms", .0.as_millis())]
    Stalled(Duration),
    #[error("the body ended early: {0}")]
    Cut(String),
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
}

#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    patience: Patience,
}

impl Http {
    pub fn new(patience: Patience, connections_per_host: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(patience.connect));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(connections_per_host)
            .build(connector);
        Self { client, patience }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// The head of the answer; its body is still to be read.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        let wait = self.patience.connect.saturating_add(self.patience.head);
        let answer = timeout(wait, self.client.request(request)).await;
        answer.map_err(|_| HttpError::Stalled(wait))?.map_err(|error| HttpError::Unreachable(chain(&error)))
    }

    /// The next bytes of a body; None at its end.
    pub async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout(self.patience.body, body.frame()).await;
            match frame.map_err(|_| HttpError::Stalled(self.patience.body))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Cut(chain(&error))),
                // Trailers are no data.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body, of at most `limit` bytes.
    pub async fn whole(&self, mut body: Incoming, limit: usize) -> Result<Bytes, HttpError> {
        let mut whole = BytesMut::new();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(HttpError::TooLong(limit));
        }
        while let Some(part) = self.next(&mut body).await? {
            if whole.len().saturating_add(part.len()) > limit {
                return Err(HttpError::TooLong(limit));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
