//! Clients, well-behaved and not, and the oracle: every byte that comes must be the next byte of what was asked for.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::rc::Rc;

use super::disk::SITE;
use super::kernel::{Shared, Wire};
use super::random::Random;
use crate::clock::Now;

/// How a client treats its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    Good,
    /// Reads little, and seldom.
    Slow,
    /// Stops reading for ever at some point.
    Stalls,
    /// Resets at some point.
    Resets,
    /// Sends half a head and waits.
    Trickles,
    /// Closes its side behind its last request.
    HalfCloses,
    /// Sends what is no HTTP.
    Babbles,
}

impl Manners {
    const BAD: [Self; 6] =
        [Self::Slow, Self::Stalls, Self::Resets, Self::Trickles, Self::HalfCloses, Self::Babbles];
}

struct Request {
    object: usize,
    head_only: bool,
    range: Option<Range<usize>>,
}

impl Request {
    fn random(random: &mut Random) -> Self {
        let object = random.below(SITE.objects.len());
        let size = SITE.objects[object].bytes;
        let head_only = random.chance(1, 10);
        // RFC 9110 14.2: a range means something for GET only.
        let range = (!head_only && random.chance(1, 2)).then(|| {
            let first = random.below(size);
            first..random.between(first, size - 1) + 1
        });
        Self { object, head_only, range }
    }

    fn text(&self) -> String {
        let method = if self.head_only { "HEAD" } else { "GET" };
        let mut text = format!("{method} {} HTTP/1.1\r\nHost: x\r\n", SITE.objects[self.object].target);
        if let Some(range) = &self.range {
            write!(text, "Range: bytes={}-{}\r\n", range.start, range.end - 1).unwrap();
        }
        text + "\r\n"
    }

    fn status(&self) -> u16 {
        if self.range.is_some() { 206 } else { 200 }
    }

    fn content(&self) -> &'static [u8] {
        let all = SITE.object_bytes(&SITE.objects[self.object]);
        self.range.clone().map_or(all, |range| &all[range])
    }
}

/// The answer that is arriving.
struct Arriving {
    request: Request,
    /// None while the head is not complete.
    content: Option<Content>,
}

enum Content {
    Expected {
        sent: usize,
    },
    /// A refusal's words: only their number is checked.
    Words {
        left: usize,
    },
}

pub struct Client {
    shared: Rc<Shared>,
    pub manners: Manners,
    workers: usize,
    requests: VecDeque<Request>,
    ahead: usize,
    wire: Option<usize>,
    unsent: Vec<u8>,
    waiting: VecDeque<Arriving>,
    input: Vec<u8>,
    /// After so many received bytes, bad manners show.
    patience: usize,
    received: usize,
    pub pause_until: Option<Now>,
    pub answered: usize,
    pub refused: usize,
    pub cut: usize,
    connects: usize,
    pub done: bool,
}

impl Client {
    pub fn new(shared: Rc<Shared>, workers: usize, good: bool) -> Self {
        let mut random = shared.random.borrow_mut();
        let manners = if good { Manners::Good } else { *random.pick(&Manners::BAD) };
        let count = random.between(1, 8);
        let requests = (0..count).map(|_| Request::random(&mut random)).collect();
        let (ahead, patience) = (random.between(1, 4), random.below(600_000));
        drop(random);
        Self {
            shared,
            manners,
            workers,
            requests,
            ahead,
            wire: None,
            unsent: Vec::new(),
            waiting: VecDeque::new(),
            input: Vec::new(),
            patience,
            received: 0,
            pause_until: None,
            answered: 0,
            refused: 0,
            cut: 0,
            connects: 0,
            done: false,
        }
    }

    /// Does one thing, if there is one to do. Err: what the server did wrong.
    pub fn act(&mut self) -> Result<(), String> {
        let now = self.shared.now.get();
        if self.done || self.pause_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.pause_until = None;
        let Some(number) = self.wire else {
            self.connect();
            return Ok(());
        };
        let shared = self.shared.clone();
        let mut network = shared.network.borrow_mut();
        let wire = &mut network.wires[number];
        self.ask(wire);
        self.send(wire);
        self.receive(wire)?;
        self.misbehave(wire);
        self.finish(wire)
    }

    fn connect(&mut self) {
        let mut network = self.shared.network.borrow_mut();
        let mut random = self.shared.random.borrow_mut();
        let capacity = random.between(2_000, 200_000);
        network.wires.push(Wire { capacity, ..Wire::default() });
        let number = network.wires.len() - 1;
        let worker = random.below(self.workers);
        network.backlogs[worker].push(number);
        self.wire = Some(number);
        self.connects += 1;
        self.shared.happened();
    }

    fn ask(&mut self, wire: &Wire) {
        if wire.client_finished {
            return;
        }
        while self.waiting.len() < self.ahead {
            let Some(request) = self.requests.pop_front() else { break };
            self.unsent.extend(request.text().bytes());
            self.waiting.push_back(Arriving { request, content: None });
        }
    }

    fn send(&mut self, wire: &mut Wire) {
        // A server's socket takes only so much.
        let room = 16_384usize.saturating_sub(wire.to_server.len());
        if self.unsent.is_empty()
            || room == 0
            || self.manners == Manners::Trickles && self.received >= self.patience
        {
            return;
        }
        let mut random = self.shared.random.borrow_mut();
        let count = random.between(1, self.unsent.len()).min(room);
        wire.to_server.extend_from_slice(&self.unsent[..count]);
        self.unsent.drain(..count);
        self.shared.happened();
    }

    fn receive(&mut self, wire: &mut Wire) -> Result<(), String> {
        if wire.to_client.is_empty() || self.manners == Manners::Stalls && self.received >= self.patience {
            return Ok(());
        }
        let count = if self.manners == Manners::Slow {
            let mut random = self.shared.random.borrow_mut();
            let pause = u64::try_from(random.below(3_000)).unwrap() * 1_000_000;
            self.pause_until = Some(Now(self.shared.now.get().0 + pause));
            random.between(1, wire.to_client.len().min(20_000))
        } else {
            wire.to_client.len()
        };
        self.input.extend_from_slice(&wire.to_client[..count]);
        wire.to_client.drain(..count);
        self.received += count;
        self.shared.happened();
        self.check()
    }

    /// The oracle.
    fn check(&mut self) -> Result<(), String> {
        let mut used = 0;
        loop {
            let input = &self.input[used..];
            if input.is_empty() {
                break;
            }
            let Some(arriving) = self.waiting.front_mut() else {
                // 408, or 503 for want of a place, answer no request of ours.
                if input.starts_with(b"HTTP/1.1 408")
                    || input.starts_with(b"HTTP/1.1 503")
                    || input.starts_with(b"HTTP/1.1 400")
                {
                    used = self.input.len();
                    break;
                }
                return Err(format!("{} bytes that nobody asked for", input.len()));
            };
            match &mut arriving.content {
                None => {
                    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { break };
                    let (content, refused) = read_head(&input[..end + 4], &arriving.request)?;
                    self.refused += usize::from(refused);
                    arriving.content = Some(content);
                    used += end + 4;
                }
                Some(Content::Expected { sent }) => {
                    let left = &arriving.request.content()[*sent..];
                    let count = left.len().min(input.len());
                    if left[..count] != input[..count] {
                        let wrong = left.iter().zip(input).position(|(a, b)| a != b).unwrap_or(0);
                        return Err(format!(
                            "a wrong byte in object {} at {}",
                            arriving.request.object,
                            *sent + wrong
                        ));
                    }
                    *sent += count;
                    used += count;
                }
                Some(Content::Words { left }) => {
                    let count = input.len().min(*left);
                    *left -= count;
                    used += count;
                }
            }
            let complete = match &arriving.content {
                None => false,
                Some(Content::Expected { sent }) => *sent == arriving.request.content().len(),
                Some(Content::Words { left }) => *left == 0,
            };
            if complete {
                self.waiting.pop_front();
                self.answered += 1;
            }
        }
        self.input.drain(..used);
        Ok(())
    }

    fn misbehave(&mut self, wire: &mut Wire) {
        let impatient = self.received >= self.patience;
        match self.manners {
            Manners::Resets if impatient => {
                wire.client_reset = true;
                self.leave();
            }
            Manners::HalfCloses
                if self.requests.is_empty() && self.unsent.is_empty() && !wire.client_finished =>
            {
                wire.client_finished = true;
                self.shared.happened();
            }
            Manners::Babbles if impatient && self.unsent.is_empty() && !wire.client_finished => {
                let mut random = self.shared.random.borrow_mut();
                let count = random.between(1, 40_000);
                wire.to_server.extend((0..count).map(|index| if index % 7 == 0 { b'\n' } else { b'%' }));
                wire.client_finished = true;
                self.requests.clear();
                self.shared.happened();
            }
            Manners::Good
            | Manners::Slow
            | Manners::Stalls
            | Manners::Resets
            | Manners::Trickles
            | Manners::HalfCloses
            | Manners::Babbles => {}
        }
    }

    /// The server's end of the stream, and our own.
    fn finish(&mut self, wire: &mut Wire) -> Result<(), String> {
        let ended = (wire.server_finished || wire.server_closed) && wire.to_client.is_empty();
        let stalled = self.manners == Manners::Stalls && wire.server_closed;
        let satisfied = self.requests.is_empty() && self.waiting.is_empty() && self.unsent.is_empty();
        if ended || stalled {
            self.cut += self.waiting.len();
            wire.client_finished = true;
            self.wire = None;
            self.waiting.clear();
            self.unsent.clear();
            self.input.clear();
            self.shared.happened();
            // What was asked and not answered is not asked again; a server that always closes ends the client.
            self.done = self.requests.is_empty() || self.connects > 20 || self.manners != Manners::Good;
        } else if satisfied && self.manners != Manners::HalfCloses {
            wire.client_finished = true;
            self.leave();
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.wire = None;
        self.done = true;
        self.shared.happened();
    }
}

/// What an answer's head says, against what was asked. True: a refusal.
fn read_head(head: &[u8], request: &Request) -> Result<(Content, bool), String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status: u16 = head.get(9..12).and_then(|text| text.parse().ok()).ok_or("no status line")?;
    let field = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let length: usize = field("content-length").and_then(|text| text.parse().ok()).ok_or("no length")?;
    if status == request.status() {
        let all = SITE.objects[request.object].bytes;
        if let Some(range) = &request.range
            && field("content-range") != Some(format!("bytes {}-{}/{all}", range.start, range.end - 1))
        {
            return Err("another range than was asked for".to_owned());
        }
        if length != request.content().len() {
            return Err(format!("{length} bytes announced, {} asked for", request.content().len()));
        }
        let sent = if request.head_only { length } else { 0 };
        return Ok((Content::Expected { sent }, false));
    }
    match status {
        503 | 408 | 400 | 431 => {
            let left = if request.head_only && status == 503 && !head.contains("connection: close") {
                0
            } else {
                length
            };
            Ok((Content::Words { left }, true))
        }
        _ => Err(format!("status {status} where {} was due", request.status())),
    }
}
