//! The only module that speaks HTTP: requests over kept-alive HTTP/1.1 connections, each wait with a limit.
//!
//! It knows nothing of appliances: it answers with a head and pieces of a body, or with a [`Fault`], and what that
//! means for the play is decided by who asked. How a connection comes about is behind [`Dial`], so that tests can run
//! whole plays in memory under a paused clock.
//!
//! ```text
//! send: an idle connection? --yes--> request --it had been closed meanwhile--> dial
//!                           --no---> dial --> request --> head --> piece, piece, ... end --> idle again
//! ```
//! An [`Answer`] that is dropped before its end closes its connection.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, RANGE, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::address::Address;
use content::id::ByteSpan;

/// Idle connections kept for each host.
const IDLE_MAX: usize = 4;
/// The largest head that is read, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub head: Duration,
    /// Between two pieces of a body.
    pub piece: Duration,
}

/// What went wrong below HTTP's meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("could not connect: {0}")]
    Connect(String),
    #[error("the connection ended before an answer: {0}")]
    NoAnswer(String),
    #[error("the body ended early: {0}")]
    BodyEnded(String),
    #[error("no {waiting_for} within {} ms", limit.as_millis())]
    TimedOut { waiting_for: &'static str, limit: Duration },
}

pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

pub type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send>>;

pub trait Dial: Send + Sync {
    /// `authority` is `host:port`.
    fn dial(&self, authority: &str) -> Dialling;
}

/// TCP, as in the world.
pub struct Tcp;

impl Dial for Tcp {
    fn dial(&self, authority: &str) -> Dialling {
        let authority = authority.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

type Sender = SendRequest<Full<Bytes>>;
type Pool = Arc<Mutex<HashMap<String, Vec<Sender>>>>;

pub struct Network {
    dial: Box<dyn Dial>,
    limits: Limits,
    idle: Pool,
}

impl Network {
    pub fn new(dial: Box<dyn Dial>, limits: Limits) -> Self {
        Self { dial, limits, idle: Pool::default() }
    }

    pub async fn get(&self, address: &Address, span: Option<ByteSpan>) -> Result<Answer, Fault> {
        let range = span.map(|span| (RANGE, format!("bytes={span}")));
        self.send(&Method::GET, address, range, Bytes::new()).await
    }

    pub async fn post_json(&self, address: &Address, body: Vec<u8>) -> Result<Answer, Fault> {
        let content_type = Some((CONTENT_TYPE, "application/json".to_owned()));
        self.send(&Method::POST, address, content_type, body.into()).await
    }

    async fn send(
        &self,
        method: &Method,
        address: &Address,
        header: Option<(HeaderName, String)>,
        body: Bytes,
    ) -> Result<Answer, Fault> {
        let request = || {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(&address.target)
                .header(HOST, &address.authority)
                .header(USER_AGENT, concat!("oca-play/", env!("CARGO_PKG_VERSION")));
            if let Some((name, value)) = &header {
                request = request.header(name, value);
            }
            request.body(Full::new(body.clone())).map_err(|error| Fault::NoAnswer(error.to_string()))
        };
        // RFC 9112 §9.3.1: a server may close an idle connection at any time, and a request that met such a close is
        // sent again. A POST too: ours may be repeated, a play is named by its session.
        while let Some(sender) = self.take_idle(&address.authority) {
            match self.ask(sender, request()?, &address.authority).await {
                Err(Fault::NoAnswer(_)) => {}
                answered_or_timed_out => return answered_or_timed_out,
            }
        }
        let sender = self.connect(&address.authority).await?;
        self.ask(sender, request()?, &address.authority).await
    }

    async fn ask(
        &self,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
        to: &str,
    ) -> Result<Answer, Fault> {
        let limit = self.limits.head;
        let answer = timeout(limit, sender.send_request(request)).await;
        let answer = answer.map_err(|_| Fault::TimedOut { waiting_for: "head of an answer", limit })?;
        let (head, body) = answer.map_err(|error| Fault::NoAnswer(cause(&error)))?.into_parts();
        let home = Some(Home { authority: to.to_owned(), sender, pool: Arc::clone(&self.idle) });
        Ok(Answer { status: head.status, headers: head.headers, body, piece_limit: self.limits.piece, home })
    }

    async fn connect(&self, authority: &str) -> Result<Sender, Fault> {
        let limit = self.limits.connect;
        let connecting = async {
            let stream =
                self.dial.dial(authority).await.map_err(|error| Fault::Connect(error.to_string()))?;
            let handshake =
                http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream));
            handshake.await.map_err(|error| Fault::Connect(cause(&error)))
        };
        let connected = timeout(limit, connecting).await;
        let (sender, connection) =
            connected.map_err(|_| Fault::TimedOut { waiting_for: "connection", limit })??;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(sender)
    }

    fn take_idle(&self, authority: &str) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(authority)?;
        senders.retain(SendRequest::is_ready);
        senders.pop()
    }
}

/// The head of an answer, and its body piece by piece.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    piece_limit: Duration,
    /// Where its connection goes when the body has ended.
    home: Option<Home>,
}

struct Home {
    authority: String,
    sender: Sender,
    pool: Pool,
}

impl Answer {
    /// The text of a header, if it is there and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The next piece of the body; None at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let limit = self.piece_limit;
            let frame = timeout(limit, self.body.frame()).await;
            let frame = frame.map_err(|_| Fault::TimedOut { waiting_for: "next bytes", limit })?;
            match frame {
                None => {
                    self.go_home().await;
                    return Ok(None);
                }
                Some(Err(error)) => return Err(Fault::BodyEnded(cause(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body, if it is not longer than `max` bytes; None if it is.
    pub async fn whole(&mut self, max: u64) -> Result<Option<Vec<u8>>, Fault> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            if u64::try_from(whole.len()).map_or(true, |bytes| bytes > max) {
                return Ok(None);
            }
        }
        Ok(Some(whole))
    }

    /// Hands the connection back. It is ready as soon as its task has seen the body's end; if it is to be closed
    /// instead, that fails.
    async fn go_home(&mut self) {
        let Some(mut home) = self.home.take() else { return };
        if !matches!(timeout(self.piece_limit, home.sender.ready()).await, Ok(Ok(()))) {
            return;
        }
        let mut pool = home.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool.entry(home.authority).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(home.sender);
        }
    }
}

/// hyper's own message says only what it was doing; the cause is behind it.
fn cause(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
