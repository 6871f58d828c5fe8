//! One connection of the load generator: sends a request, reads a head, drops a body. Knows no schedule and no clock.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::answer;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// One receive takes at most so much of a head, and of the body behind it.
const HEAD_STEP_BYTES: usize = 1024;

pub struct Connection {
    pub stream: TcpStream,
    pub group: usize,
    state: State,
    /// What has come of the present head.
    head: Vec<u8>,
}

enum State {
    Idle,
    /// The request, to send it again if the server closed the connection in the same moment.
    Head(Exchange, Vec<u8>),
    Body(Exchange, u64),
}

/// A request that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// When it should have left; in a closed loop, when it did.
    pub intended: Instant,
    pub body_bytes: u64,
}

/// What one look at a readable socket gave.
#[derive(Debug, Default)]
pub struct Progress {
    pub body_bytes: u64,
    pub done: Option<Exchange>,
    /// The server closed the connection between two requests: another was opened in its place.
    pub reopened: bool,
}

impl Connection {
    pub fn open(server: SocketAddr, group: usize) -> Result<Self> {
        Ok(Self { stream: connect(server)?, group, state: State::Idle, head: Vec::new() })
    }

    pub fn under_way(&self) -> Option<Exchange> {
        match &self.state {
            State::Idle => None,
            State::Head(exchange, _) | State::Body(exchange, _) => Some(*exchange),
        }
    }

    /// A request is shorter than any socket's buffer, and the buffer is empty.
    pub fn ask(&mut self, request: Vec<u8>, exchange: Exchange) -> Result<()> {
        self.stream.write_all(&request).or_else(closed_is_seen_later).context("sending a request")?;
        self.head.clear();
        self.state = State::Head(exchange, request);
        Ok(())
    }

    /// One receive, and a second for the body that has come with its head. `sink` is never read.
    pub fn receive(&mut self, server: SocketAddr, sink: &mut [u8]) -> Result<Progress> {
        let mut progress = Progress::default();
        if matches!(self.state, State::Idle | State::Head(..)) {
            self.receive_head(server, &mut progress)?;
        }
        if let State::Body(exchange, left) = &mut self.state {
            let taken = discard(&self.stream, *left, sink)?;
            progress.body_bytes += taken;
            *left -= taken;
            if *left == 0 {
                progress.done = Some(*exchange);
                self.state = State::Idle;
            }
        }
        Ok(progress)
    }

    fn receive_head(&mut self, server: SocketAddr, progress: &mut Progress) -> Result<()> {
        let mut step = [0; HEAD_STEP_BYTES];
        let count = match self.stream.read(&mut step) {
            Ok(count) => count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(cause) if cause.kind() == ErrorKind::ConnectionReset && self.head.is_empty() => 0,
            Err(cause) => return Err(cause).context("receiving a head"),
        };
        if count == 0 {
            return self.reopen(server, progress);
        }
        let State::Head(exchange, _) = &self.state else { bail!("bytes that nobody asked for") };
        self.head.extend_from_slice(&step[..count]);
        let Some(head) = answer::parse(&self.head)? else { return Ok(()) };
        if head.status != 206 || head.body_bytes != exchange.body_bytes {
            bail!("asked for {} bytes: {}", exchange.body_bytes, String::from_utf8_lossy(&self.head));
        }
        let early = u64::try_from(self.head.len() - head.head_bytes)?;
        progress.body_bytes += early;
        self.state = State::Body(*exchange, exchange.body_bytes.saturating_sub(early));
        Ok(())
    }

    fn reopen(&mut self, server: SocketAddr, progress: &mut Progress) -> Result<()> {
        if !self.head.is_empty() && !matches!(self.state, State::Idle) {
            bail!("the server closed a connection in the middle of a head");
        }
        self.stream = connect(server)?;
        progress.reopened = true;
        if let State::Head(_, request) = &self.state {
            self.stream.write_all(request).context("sending a request again")?;
        }
        Ok(())
    }
}

/// The next receive says it, too, and better.
fn closed_is_seen_later(cause: io::Error) -> io::Result<()> {
    match cause.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(()),
        _ => Err(cause),
    }
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, CONNECT_MAX).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// tcp(7): with MSG_TRUNC the bytes are discarded, none is copied to the buffer.
fn discard(stream: &TcpStream, left: u64, sink: &mut [u8]) -> Result<u64> {
    let most = sink.len().min(usize::try_from(left)?);
    if most == 0 {
        return Ok(0);
    }
    match recv(stream.as_raw_fd(), &mut sink[..most], MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => bail!("the server closed a connection with {left} bytes to come"),
        Ok(count) => Ok(u64::try_from(count)?),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(cause) => Err(cause).context("receiving a body"),
    }
}
