//! Clients, well-behaved and not, and the oracle: every byte that comes must be the next byte of what was asked for.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::faults::Fault;
use super::network::Wire;
use super::request::{Content, Request};
use super::run::is_proxied;
use super::secure::Secure;
use super::shared::Shared;
use crate::clock::Now;
use crate::holdings::Holdings;

/// Connections that wait for a worker to accept them.
const BACKLOG_MAX: usize = 4;

/// PROXY protocol version 2, from 192.0.2.7:8080.
const HEADER: [u8; 28] = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x1f\x90\0\x50";

/// How a client treats its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    Good,
    Slow,
    Stalls,
    Resets,
    Trickles,
    HalfCloses,
    Babbles,
    Floods,
    Idles,
}

impl Manners {
    const BAD: [Self; 8] = [
        Self::Slow,
        Self::Stalls,
        Self::Resets,
        Self::Trickles,
        Self::HalfCloses,
        Self::Babbles,
        Self::Floods,
        Self::Idles,
    ];
}

/// The answer that is arriving.
struct Arriving {
    request: Request,
    /// None while the head is not complete.
    content: Option<Content>,
}

impl Arriving {
    fn is_complete(&self) -> bool {
        match &self.content {
            None => false,
            Some(Content::Expected { bytes, sent }) => *sent == bytes.len(),
            Some(Content::Words { left }) => *left == 0,
        }
    }

    /// Its head promised a body of which nothing came.
    fn is_bodiless(&self) -> bool {
        matches!(self.content, Some(Content::Expected { sent: 0, .. })) && !self.is_complete()
    }
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub answered: u64,
    /// Of these, with all bytes of what was asked for.
    pub served: u64,
    pub refused: u64,
    pub cut: u64,
    pub received_bytes: u64,
}

/// What all clients of a seed do alike.
#[derive(Clone, Copy)]
pub struct Habits {
    harmless: bool,
    /// All is said over TLS.
    secure: bool,
    /// Some say how fast they want their answers.
    paced: bool,
    /// A balancer announces them.
    proxied: bool,
}

impl Habits {
    pub fn of(seed: u64, harmless: bool, secure: bool) -> Self {
        Self { harmless, secure, paced: seed % 8 == 2, proxied: is_proxied(seed) }
    }
}

pub struct Client {
    shared: Rc<Shared>,
    holdings: Arc<Holdings>,
    pub manners: Manners,
    workers: usize,
    requests: VecDeque<Request>,
    ahead: usize,
    wire: Option<usize>,
    habits: Habits,
    tls: Option<Secure>,
    /// Content, not sealed.
    unsent: Vec<u8>,
    waiting: VecDeque<Arriving>,
    /// A request was sent behind which nothing is answered.
    closing: bool,
    input: Vec<u8>,
    /// After so many received bytes, bad manners show.
    patience: usize,
    received: usize,
    /// Of this connection.
    taken: usize,
    pub pause_until: Option<Now>,
    pub tally: Tally,
    connects: usize,
    pub done: bool,
}

impl Client {
    pub fn new(shared: Rc<Shared>, holdings: Arc<Holdings>, workers: usize, habits: Habits) -> Self {
        let Habits { harmless, paced, .. } = habits;
        let mut random = shared.random.borrow_mut();
        let good = harmless || random.chance(1, 2);
        let manners = if good { Manners::Good } else { *random.pick(&Manners::BAD) };
        let count = if manners == Manners::Floods { 60 } else { random.between(1, 8) };
        let odd = !harmless && random.chance(1, 2);
        let requests = (0..count).map(|_| Request::random(&mut random, odd).paced(paced)).collect();
        let ahead = if manners == Manners::Floods { 60 } else { random.between(1, 4) };
        let patience = if random.chance(1, 3) { 0 } else { random.below(600_000) };
        drop(random);
        Self {
            shared,
            holdings,
            manners,
            workers,
            requests,
            ahead,
            wire: None,
            habits,
            tls: None,
            unsent: Vec::new(),
            waiting: VecDeque::new(),
            closing: false,
            input: Vec::new(),
            patience,
            received: 0,
            taken: 0,
            pause_until: None,
            tally: Tally::default(),
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
        let worker = self.shared.below(self.workers);
        if network.backlogs[worker].len() >= BACKLOG_MAX {
            // SYN is sent again after a second.
            self.shared.saw(Fault::BacklogFull);
            self.pause_until = Some(Now(self.shared.now.get().0 + 1_000_000_000));
            return;
        }
        let capacity = self.shared.random.borrow_mut().between(2_000, 200_000);
        let resets = self.shared.strikes_wire();
        let reset_after = resets.then(|| 1 + self.shared.below(400_000));
        network.wires.push(Wire { capacity, reset_after, ..Wire::default() });
        let number = network.wires.len() - 1;
        network.backlogs[worker].push(number);
        self.wire = Some(number);
        self.tls = self.habits.secure.then(Secure::new);
        if self.habits.proxied {
            let first = self.tls.as_mut().map_or(&mut self.unsent, |tls| &mut tls.unsent);
            first.splice(0..0, HEADER);
            if self.manners == Manners::Babbles && self.patience == 0 {
                first[3] = b'x';
            }
        }
        self.taken = 0;
        self.connects += 1;
        self.shared.happened();
    }

    fn ask(&mut self, wire: &Wire) {
        while !(wire.client_finished || self.closing) && self.waiting.len() < self.ahead {
            let Some(mut request) = self.requests.pop_front() else { break };
            let wall = self.shared.wall();
            self.unsent.extend(request.ask(&self.holdings, wall).bytes());
            self.closing = request.kind.closes();
            if !self.waiting.is_empty() {
                self.shared.saw(Fault::Pipelined);
            }
            if request.expired(wall) && self.received > 0 {
                self.shared.saw(Fault::TokenExpired);
            }
            self.waiting.push_back(Arriving { request, content: None });
        }
        if self.manners == Manners::Floods && self.waiting.len() > 20 {
            self.shared.saw(Fault::Flood);
        }
    }

    fn send(&mut self, wire: &mut Wire) {
        // A server's socket takes only so much.
        let room = 16_384usize.saturating_sub(wire.to_server.len());
        let mut trickles = self.manners == Manners::Trickles && self.received >= self.patience;
        let mut unsent = &mut self.unsent;
        if let Some(tls) = &mut self.tls {
            // Nobody trickles within a record once it is sealed.
            trickles &= tls.is_handshaking();
            tls.seal(unsent);
            unsent = &mut tls.unsent;
        }
        if unsent.is_empty() || room == 0 || wire.reset {
            return;
        }
        let most = if trickles { unsent.len() - 1 } else { unsent.len() };
        if trickles {
            self.shared.saw(Fault::Trickle);
        }
        let count = (self.shared.below(most.max(1)) + 1).min(most).min(room);
        if count == 0 {
            return;
        }
        wire.to_server.extend_from_slice(&unsent[..count]);
        unsent.drain(..count);
        self.shared.happened();
        if wire.server_closed {
            wire.reset(&self.shared);
        }
    }

    fn receive(&mut self, wire: &mut Wire) -> Result<(), String> {
        if self.manners == Manners::Stalls && self.received >= self.patience {
            self.shared.saw(Fault::ZeroWindow);
            return Ok(());
        }
        if wire.to_client.is_empty() {
            return Ok(());
        }
        let count = if self.manners == Manners::Slow {
            self.shared.saw(Fault::SlowReader);
            let pause = u64::try_from(self.shared.below(3_000)).unwrap() * 1_000_000;
            self.pause_until = Some(Now(self.shared.now.get().0 + pause));
            1 + self.shared.below(wire.to_client.len().min(20_000))
        } else {
            wire.to_client.len()
        };
        match &mut self.tls {
            Some(tls) => {
                let mut sealed = Vec::new();
                wire.to_client.take(count, &mut sealed, &self.shared);
                if let Err(what) = tls.open(&sealed, &mut self.input)
                    && self.manners != Manners::Babbles
                {
                    return Err(what);
                }
            }
            None => wire.to_client.take(count, &mut self.input, &self.shared),
        }
        self.received += count;
        self.taken += count;
        self.tally.received_bytes += u64::try_from(count).unwrap();
        self.shared.note(u64::try_from(count).unwrap());
        self.shared.happened();
        self.check(wire)
    }

    /// The oracle.
    fn check(&mut self, wire: &Wire) -> Result<(), String> {
        let before = self.taken.saturating_sub(self.input.len());
        let mut used = 0;
        while used < self.input.len() {
            let input = &self.input[used..];
            let Some(arriving) = self.waiting.front_mut() else {
                used += self.unasked(input)?;
                break;
            };
            match &mut arriving.content {
                None => {
                    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { break };
                    let head = &input[..end + 4];
                    let (content, refused) =
                        arriving.request.read_head(head, &self.holdings, self.shared.wall())?;
                    let (pace, due) = (wire.pace_at(before + used), arriving.request.pace());
                    if matches!(content, Content::Expected { .. }) && pace != due {
                        return Err(format!("sent with {pace} bytes a second where {due} were asked for"));
                    }
                    self.tally.refused += u64::from(refused);
                    arriving.content = Some(content);
                    used += end + 4;
                }
                Some(Content::Expected { bytes, sent }) => {
                    let left = &bytes[*sent..];
                    let count = left.len().min(input.len());
                    if left[..count] != input[..count] {
                        let wrong = left.iter().zip(input).position(|(a, b)| a != b).unwrap_or(0);
                        let object = arriving.request.object;
                        return Err(format!("a wrong byte in object {object} at {}", *sent + wrong));
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
            self.count_complete();
        }
        self.input.drain(..used);
        Ok(())
    }

    fn count_complete(&mut self) {
        let Some(arriving) = self.waiting.pop_front_if(|arriving| arriving.is_complete()) else { return };
        self.tally.answered += 1;
        if matches!(arriving.content, Some(Content::Expected { .. })) {
            self.tally.served += 1;
            if arriving.request.was_asked_before(self.holdings.current().number()) {
                self.shared.saw(Fault::SwapInBody);
            }
        }
    }

    /// 408, 400 to rubbish, or 503 for want of a place, answer no request of ours.
    fn unasked(&self, input: &[u8]) -> Result<usize, String> {
        let known = [&b"HTTP/1.1 408"[..], b"HTTP/1.1 503", b"HTTP/1.1 400", b"HTTP/1.1 431"];
        if known.iter().any(|status| input.starts_with(&status[..status.len().min(input.len())])) {
            return Ok(input.len());
        }
        let start = String::from_utf8_lossy(&input[..input.len().min(60)]);
        Err(format!("{} bytes that nobody asked for: {start:?}", input.len()))
    }

    fn misbehave(&mut self, wire: &mut Wire) {
        let impatient = self.received >= self.patience;
        let sent = self.unsent.is_empty() && self.tls.as_ref().is_none_or(|tls| tls.unsent.is_empty());
        let handshaking = self.tls.as_ref().is_some_and(Secure::is_handshaking);
        let silent = (sent || handshaking) && !wire.client_finished;
        match self.manners {
            Manners::Resets if impatient => {
                self.shared.saw(Fault::ClientReset);
                wire.reset(&self.shared);
                self.leave();
            }
            // Every second one; the others wait.
            Manners::Trickles if impatient && self.patience % 2 == 1 && self.unsent.len() == 1 => {
                if !wire.client_finished {
                    self.shared.saw(Fault::HeadBrokenOff);
                    wire.client_finished = true;
                    self.shared.happened();
                }
            }
            Manners::HalfCloses if self.requests.is_empty() && silent => {
                self.shared.saw(Fault::HalfClose);
                wire.client_finished = true;
                self.shared.happened();
            }
            Manners::Babbles if impatient && silent => {
                self.shared.saw(Fault::Babble);
                let count = self.shared.below(40_000) + 1;
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
            | Manners::Babbles
            | Manners::Floods
            | Manners::Idles => {}
        }
    }

    /// The server's end of the stream, and our own.
    fn finish(&mut self, wire: &mut Wire) -> Result<(), String> {
        let ended = (wire.server_finished || wire.server_closed || wire.reset) && wire.to_client.is_empty();
        let stalled = self.manners == Manners::Stalls && (wire.server_closed || wire.reset);
        let sent = self.unsent.is_empty() && self.tls.as_ref().is_none_or(|tls| tls.unsent.is_empty());
        let satisfied = self.requests.is_empty() && self.waiting.is_empty() && sent;
        if ended || stalled {
            self.check_end(wire)?;
            self.tally.cut += u64::try_from(self.waiting.len()).unwrap();
            wire.client_finished = true;
            self.wire = None;
            self.waiting.clear();
            self.unsent.clear();
            self.input.clear();
            self.closing = false;
            self.shared.happened();
            // What was asked and not answered is not asked again; a server that always closes ends the client.
            self.done = self.requests.is_empty() || self.connects > 20 || self.manners != Manners::Good;
        } else if satisfied && self.manners == Manners::Idles {
            self.shared.saw(Fault::Idle);
        } else if satisfied && self.manners != Manners::HalfCloses {
            wire.client_finished = true;
            self.leave();
        }
        Ok(())
    }

    /// A block that fails before any byte of the body has left is answered 503, not with half an answer.
    fn check_end(&self, wire: &Wire) -> Result<(), String> {
        let excused = wire.reset
            || [Fault::Stop, Fault::ClockJump, Fault::SendNoMemory]
                .iter()
                .any(|fault| self.shared.has_seen(*fault));
        let bodiless = self.waiting.front().is_some_and(Arriving::is_bodiless);
        if self.manners == Manners::Good && bodiless && !excused {
            return Err("a head whose body never began".to_owned());
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.wire = None;
        self.done = true;
        self.shared.happened();
    }
}
