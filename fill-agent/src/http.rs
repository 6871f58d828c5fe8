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

/// What a source is given before a transfer is given up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub connect: Duration,
    /// From the request to the last byte of the answer's head.
    pub head: Duration,
    /// Between two parts of a body.
    pub body: Duration,
    /// A body that comes slower than this, after `body`, is given up: it may come for ever.
    pub bytes_per_s_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), head: seconds(15), body: seconds(15), bytes_per_s_min: 8 * 1024 }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    Unreachable(String),
    #[error("nothing came for {} ms", .0.as_millis())]
    Stalled(Duration),
    #[error("{bytes} bytes came in {} ms, less than {bytes_per_s_min} bytes/s", .waited.as_millis())]
    TooSlow { bytes: u64, waited: Duration, bytes_per_s_min: u64 },
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
    pub async fn next(&self, body: &mut Transfer) -> Result<Option<Bytes>, HttpError> {
        loop {
            let limit = body.time_left(self.patience)?;
            let start = tokio::time::Instant::now();
            let frame = timeout(limit, body.incoming.frame()).await;
            body.waited = body.waited.saturating_add(start.elapsed());
            match frame {
                Err(_) if limit == self.patience.body => return Err(HttpError::Stalled(limit)),
                Err(_) => return Err(body.too_slow(self.patience)),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(HttpError::Cut(chain(&error))),
                // Trailers are no data.
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        body.bytes = body.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body, of at most `limit` bytes.
    pub async fn whole(&self, body: Incoming, limit: usize) -> Result<Bytes, HttpError> {
        let mut whole = BytesMut::new();
        let mut body = Transfer::new(body);
        let announced = usize::try_from(body.incoming.size_hint().lower()).unwrap_or(usize::MAX);
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

/// A body that is being read, and how long was waited for it: time in which nobody waited is not the source's.
pub struct Transfer {
    incoming: Incoming,
    waited: Duration,
    bytes: u64,
}

impl Transfer {
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming, waited: Duration::ZERO, bytes: 0 }
    }

    /// The length that the answer's head announced. None: it is to be seen.
    pub fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Counts anew: what came fast earlier is no excuse for what comes slowly now.
    pub fn start_piece(&mut self) {
        (self.waited, self.bytes) = (Duration::ZERO, 0);
    }

    /// Until the next part must be there.
    fn time_left(&self, patience: Patience) -> Result<Duration, HttpError> {
        let paid_ms = self.bytes.saturating_mul(1_000) / patience.bytes_per_s_min.max(1);
        let due = patience.body.saturating_add(Duration::from_millis(paid_ms));
        match due.checked_sub(self.waited) {
            Some(left) if !left.is_zero() => Ok(left.min(patience.body)),
            _ => Err(self.too_slow(patience)),
        }
    }

    fn too_slow(&self, patience: Patience) -> HttpError {
        let bytes_per_s_min = patience.bytes_per_s_min;
        HttpError::TooSlow { bytes: self.bytes, waited: self.waited, bytes_per_s_min }
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
