//! HTTP/1.1 on a bare socket: sends any bytes, and reads answers by their `Content-Length` and by nothing else.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

/// No answer takes longer on this machine, however busy it is.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Wire {
    stream: TcpStream,
    /// Read, not yet asked for.
    ahead: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The empty string if there is no such header.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Wire {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// An answer may take so long, other than usual.
    pub fn be_patient(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// A connection whose queues hold little: segments of a real network instead of loopback's 64 KiB, so that a body of
    /// a MiB is in its middle as long as nobody reads.
    pub fn open_narrow(address: SocketAddr) -> io::Result<Self> {
        let narrow = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&narrow, sockopt::TcpMaxSeg, &1_448)?;
        setsockopt(&narrow, sockopt::RcvBuf, &16_384)?;
        connect(narrow.as_raw_fd(), &SockaddrStorage::from(address))?;
        let stream = TcpStream::from(narrow);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// Takes more at a time from now on.
    pub fn widen(&self) -> io::Result<()> {
        Ok(setsockopt(&self.stream, sockopt::RcvBuf, &(1 << 20))?)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A request without a body, with the headers given as whole lines.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[&str]) -> io::Result<Answer> {
        self.send(request(method, target, headers))?;
        self.answer(method)
    }

    /// The next answer, which belongs to a request of this method.
    pub fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
        self.ahead.drain(..end);
        let mut answer = parse_head(&head).ok_or_else(|| io::Error::other(format!("no answer: {head:?}")))?;
        let bodiless = method == "HEAD" || matches!(answer.status, 204 | 304);
        let length = answer.header("content-length").parse().unwrap_or(0);
        let length = if bodiless { 0 } else { length };
        while self.ahead.len() < length {
            self.read_more()?;
        }
        answer.body = self.ahead.drain(..length).collect();
        Ok(answer)
    }

    /// Returns when an answer has begun to come; leaves it for [`Wire::answer`].
    pub fn wait_for_a_byte(&mut self) -> io::Result<()> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        self.ahead.extend(byte);
        Ok(())
    }

    /// Everything up to the end of the connection; an abortive end is an end.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.read_more() {
                Ok(()) => {}
                Err(cause) if is_end(&cause) => return Ok(std::mem::take(&mut self.ahead)),
                Err(cause) => return Err(cause),
            }
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.ahead.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

pub fn is_end(cause: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(cause.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The bytes of a request without a body.
pub fn request(method: &str, target: &str, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: appliance\r\n{lines}\r\n")
}

fn parse_head(head: &str) -> Option<Answer> {
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Some(Answer { status, headers: lines.filter_map(header).collect(), body: Vec::new() })
}
