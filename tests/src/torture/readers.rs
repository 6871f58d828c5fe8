//! Viewers: they fetch whole objects and ranges from both boxes all the time, fast and slowly, and compare every byte that
//! comes, also of answers that are cut off, with the good copy.
//!
//! A refusal or a cut is no fault while programs are being killed. That they can get what they ask for at all is
//! checked at quiet times (`quiet`), or they would see nothing.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use content::id::MediaPath;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use xtask::clock;

use crate::library::{Bytes, Library};
use crate::points::Draw;
use crate::verdict::Verdict;

const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of one reader: two cores are shared with what is tested.
const PAUSE: Duration = Duration::from_millis(15);
/// A slow reader takes this much, then pauses.
const SIP_BYTES: usize = 64 * 1024;
/// ... through a small window of small segments: on loopback the kernel would else take a whole answer off the server's
/// hands at once, and no reader would ever hold a generation.
const SIP_WINDOW_BYTES: usize = 16 * 1024;
const SIP_SEGMENT_BYTES: u32 = 1400;
const SIP_PAUSE: Duration = Duration::from_millis(25);
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Something to ask for: where, and the path with its token.
#[derive(Clone, Debug)]
pub struct Wish {
    pub at: SocketAddr,
    pub target: String,
    pub path: MediaPath,
}

/// How an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// All of it came and was right; so many bytes.
    Right(u64),
    /// Refused by status; nothing wrong came.
    Status(u16),
    /// It ended early or never began; what came was right.
    Cut,
    /// A byte was not the object's: where.
    Wrong(u64),
}

#[derive(Default)]
pub struct Counts {
    right: AtomicU64,
    bytes: AtomicU64,
    cut: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
    in_flight: AtomicU64,
}

impl Counts {
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn right(&self) -> u64 {
        self.right.load(Ordering::Relaxed)
    }

    pub fn text(&self) -> String {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let refused: Vec<_> = statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
        format!(
            "{} right answers ({} MiB), refused {}, {} cut or not taken up, 0 wrong bytes",
            self.right(),
            self.bytes.load(Ordering::Relaxed) >> 20,
            if refused.is_empty() { "none".to_owned() } else { refused.join(", ") },
            self.cut.load(Ordering::Relaxed)
        )
    }

    fn note(&self, heard: Heard) {
        match heard {
            Heard::Right(bytes) => {
                self.right.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Heard::Status(status) => {
                let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
                *statuses.entry(status).or_default() += 1;
            }
            Heard::Cut | Heard::Wrong(_) => {
                self.cut.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Clone, Default)]
pub struct Wishes(Arc<Mutex<Vec<Wish>>>);

impl Wishes {
    pub fn set(&self, wishes: Vec<Wish>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wishes;
    }

    fn one(&self, draw: &mut Draw) -> Option<Wish> {
        let wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.get(draw.index(wishes.len())).cloned()
    }
}

pub struct Readers {
    pub wishes: Wishes,
    pub counts: Arc<Counts>,
    /// While it is set, nobody reads slowly: generations are let go.
    pub hurry: Arc<AtomicBool>,
}

impl Readers {
    /// They read until the process ends.
    pub fn start(seed: u64, count: u64, library: &Library, verdict: &Verdict) -> Self {
        let readers = Self { wishes: Wishes::default(), counts: Arc::default(), hurry: Arc::default() };
        for index in 0..count {
            let reader = Reader {
                wishes: readers.wishes.clone(),
                counts: Arc::clone(&readers.counts),
                hurry: Arc::clone(&readers.hurry),
                library: library.clone(),
                verdict: verdict.clone(),
                draw: Draw::new(seed ^ (index + 1)),
                slow: index % 2 == 1,
            };
            std::thread::spawn(move || reader.run());
        }
        readers
    }
}

struct Reader {
    wishes: Wishes,
    counts: Arc<Counts>,
    hurry: Arc<AtomicBool>,
    library: Library,
    verdict: Verdict,
    draw: Draw,
    slow: bool,
}

impl Reader {
    fn run(mut self) {
        loop {
            let wish = self.wishes.one(&mut self.draw);
            let good = wish.as_ref().and_then(|wish| self.library.object(&wish.path.object));
            if let (Some(wish), Some(good)) = (wish, good) {
                let range = self.range(good.len());
                self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
                let hurry = Arc::clone(&self.hurry);
                let slow = self.slow;
                let slow = slow && !hurry.load(Ordering::Relaxed);
                let heard = fetch(&wish, &good, range, slow, || {
                    if slow && !hurry.load(Ordering::Relaxed) {
                        clock::pause(SIP_PAUSE);
                    }
                });
                self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
                self.counts.note(heard);
                if let Heard::Wrong(at) = heard {
                    let (path, from) = (&wish.path, wish.at);
                    self.verdict
                        .broken(format!("a wrong byte was served: {path} from {from}, {range:?}, byte {at}"));
                }
            }
            clock::pause(PAUSE);
        }
    }

    /// None: all of it.
    fn range(&mut self, size: usize) -> Option<(usize, usize)> {
        if size == 0 || self.draw.percent(30) {
            return None;
        }
        let first = self.draw.index(size);
        let count = 1 + self.draw.index((size - first).min(700_000));
        Some((first, first + count - 1))
    }
}

/// Asks once and compares what comes; `slow` as [`SIP_WINDOW_BYTES`] says. `sip` is called after each part of the body.
pub fn fetch(
    wish: &Wish,
    good: &Bytes,
    range: Option<(usize, usize)>,
    slow: bool,
    sip: impl FnMut(),
) -> Heard {
    let (first, last) = range.unwrap_or((0, good.len().saturating_sub(1)));
    let expected = good.get(first..=last).unwrap_or_default();
    let head = range.map_or_else(String::new, |(first, last)| format!("Range: bytes={first}-{last}\r\n"));
    let request = format!("GET {} HTTP/1.1\r\nHost: box\r\n{head}Connection: close\r\n\r\n", wish.target);
    let stream = if slow { connect_narrow(wish.at) } else { TcpStream::connect_timeout(&wish.at, PATIENCE) };
    stream.and_then(|stream| exchange(stream, &request, expected, sip)).unwrap_or(Heard::Cut)
}

fn connect_narrow(at: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    setsockopt(&socket, sockopt::RcvBuf, &SIP_WINDOW_BYTES)?;
    setsockopt(&socket, sockopt::TcpMaxSeg, &SIP_SEGMENT_BYTES)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(TcpStream::from(socket))
}

fn exchange(
    mut stream: TcpStream,
    request: &str,
    expected: &[u8],
    mut sip: impl FnMut(),
) -> io::Result<Heard> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut buffer = vec![0; SIP_BYTES];
    let mut ahead = Vec::new();
    let end = loop {
        let count = stream.read(&mut buffer)?;
        ahead.extend_from_slice(&buffer[..count]);
        if let Some(at) = ahead.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if count == 0 || ahead.len() > HEAD_BYTES_MAX {
            return Ok(Heard::Cut);
        }
    };
    let head = String::from_utf8_lossy(&ahead[..end]).into_owned();
    let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    if !matches!(status, 200 | 206) {
        return Ok(Heard::Status(status));
    }
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length != Some(expected.len()) {
        return Ok(Heard::Wrong(u64::MAX));
    }
    let mut at = 0;
    let mut part = ahead.split_off(end);
    loop {
        if let Some(wrong) = first_difference(&part, expected.get(at..).unwrap_or_default()) {
            return Ok(Heard::Wrong(u64::try_from(at + wrong).unwrap_or(u64::MAX)));
        }
        at += part.len();
        if at == expected.len() {
            return Ok(Heard::Right(u64::try_from(at).unwrap_or(u64::MAX)));
        }
        sip();
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(Heard::Cut);
        }
        part.clear();
        part.extend_from_slice(&buffer[..count]);
    }
}

/// Where `part` is not the begin of `expected`.
fn first_difference(part: &[u8], expected: &[u8]) -> Option<usize> {
    if expected.starts_with(part) {
        return None;
    }
    let same = part.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Some(same)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A box that answers with these bytes, once.
    fn heard(answer: Vec<u8>) -> Heard {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let slow = answer.len().is_multiple_of(2);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(&answer).unwrap();
        });
        let path: MediaPath = format!("/film/sd/{}.mp4", content::id::ObjectId::of(b"x")).parse().unwrap();
        let wish = Wish { at, target: path.to_string(), path };
        let heard = fetch(&wish, &Arc::new(b"0123456789".to_vec()), Some((2, 5)), slow, || {});
        server.join().unwrap();
        heard
    }

    fn answer(length: usize, body: &[u8]) -> Vec<u8> {
        let mut answer =
            format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        answer.extend_from_slice(body);
        answer
    }

    #[test]
    fn a_wrong_byte_is_noticed_even_in_an_answer_that_is_cut_off() {
        assert_eq!(heard(answer(4, b"2345")), Heard::Right(4));
        assert_eq!(heard(answer(4, b"23")), Heard::Cut);
        assert_eq!(heard(answer(4, b"24")), Heard::Wrong(1));
        assert_eq!(heard(answer(3, b"234")), Heard::Wrong(u64::MAX));
        assert_eq!(heard(b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec()), Heard::Status(404));
        assert_eq!(heard(Vec::new()), Heard::Cut);
    }
}
