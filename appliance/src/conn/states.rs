//! The states of a connection: each a struct of what is valid then. The steps between them are in the parent.

use std::sync::Arc;

use content::id::ByteSpan;

use super::Context;
use crate::clock::Now;
use crate::endings::Ending;
use crate::holdings::{FileRef, Generation};
use crate::http::decide::{Body, Decision};
use crate::http::multipart::Multipart;
use crate::memory::{BlockKey, Lease};
use crate::tuning::{Plant, Tuning};

pub enum State {
    /// Something has to come before HTTP, until then: see [`super::Event::Secured`].
    Handshaking(Now),
    Heading(Heading),
    Fetching(Fetching),
    Sending(Sending),
    Blocked(Blocked),
    Lingering(Lingering),
    /// The lease is what a send in flight reads from.
    Closed(Option<Lease>),
}

/// Between requests, or within a head.
pub struct Heading {
    /// Idle too long, or, once `begun`, head too slow.
    pub deadline: Now,
    begun: bool,
}

/// Waiting for the block with the next byte.
pub struct Fetching {
    pub response: Box<Response>,
    pub deadline: Now,
    /// There was no room for the block: ask again then.
    pub retry_at: Option<Now>,
}

/// One send is in flight.
pub struct Sending {
    pub response: Box<Response>,
    /// On the block with the next byte of the body, if there is a body.
    pub lease: Option<Lease>,
    /// Of head and body.
    pub asked_bytes: usize,
}

/// The client's side is full. No lease is held: whoever reads slowly keeps no block from the others.
pub struct Blocked {
    pub response: Box<Response>,
    /// The socket said that it takes bytes and took none: ask it again then.
    pub retry_at: Option<Now>,
}

/// Our side is closed, the client's not yet.
pub struct Lingering {
    pub deadline: Now,
    pub ending: Ending,
}

/// What is left to answer of one request. Boxed in the states: connections without a request keep no room for it.
pub struct Response {
    /// What has not left yet. Empty bodies are None.
    body: Option<Body>,
    /// What of several parts is left behind `body`.
    parts: Option<Parts>,
    /// Something of the answer has left: it cannot be taken back.
    pub begun: bool,
    pub keep_open: bool,
    pub ending: Ending,
    pub close_ending: Ending,
    /// Of the whole request.
    pub deadline: Now,
    /// By then something must leave. None: nothing is being sent, or something has just left.
    pub stalled_at: Option<Now>,
    /// Sends since then that found the socket full.
    pub fulls: u32,
    /// So many bytes a second at most; None: as fast as it goes.
    pub pace: Option<u64>,
    /// Where in the head the wait for the first block is written, and since when it is waited for.
    pub wait: Option<(usize, Now)>,
    /// The block that was asked for last: asking again is no second request.
    asked: Option<BlockKey>,
    /// While it is held, what it names is not unlinked (DESIGN §3).
    _generation: Option<Arc<Generation>>,
}

/// Parts of one object, of which one has been begun.
struct Parts {
    left: Box<Multipart>,
    file: FileRef,
    /// Where the object begins in the file.
    base: u64,
}

impl Parts {
    fn new(left: Box<Multipart>, first: Body) -> Self {
        let before = left.first().map_or(0, ByteSpan::first);
        Self { left, file: first.file, base: first.offset - before }
    }

    fn next(&mut self, head: &mut Vec<u8>) -> Option<Body> {
        let span = self.left.next(head)?;
        Some(Body { file: self.file, offset: self.base + span.first(), bytes: span.count() })
    }
}

impl Heading {
    pub fn idle(now: Now, context: &Context<'_>) -> Self {
        Self { deadline: after_ms(now, context.decide.limits.idle_ms_max), begun: false }
    }

    /// Part of a head is there. The time for it runs from its first byte, whatever trickles in.
    pub fn begun(self, now: Now, context: &Context<'_>) -> Self {
        if self.begun {
            return self;
        }
        Self { deadline: after_ms(now, context.decide.limits.head_ms_max), begun: true }
    }
}

impl Response {
    pub fn new(decision: Decision, now: Now, context: &Context<'_>) -> Self {
        let planted = context.tuning.planted;
        Self {
            body: decision.body,
            parts: decision.parts.zip(decision.body).map(|(left, first)| Parts::new(left, first)),
            begun: false,
            keep_open: decision.keep_open,
            ending: decision.ending,
            close_ending: decision.close_ending,
            deadline: after_ms(now, context.decide.limits.request_ms_max),
            stalled_at: None,
            fulls: 0,
            pace: decision.pace,
            wait: decision.wait_at.map(|at| (at, now)),
            asked: None,
            _generation: decision.generation.filter(|_| !planted.has(Plant::GenerationDropped)),
        }
    }

    /// An answer to no request.
    pub fn refusal(ending: Ending, now: Now, context: &Context<'_>) -> Self {
        let deadline = after_ms(now, context.decide.limits.request_ms_max);
        Self {
            body: None,
            parts: None,
            begun: false,
            keep_open: false,
            ending,
            close_ending: ending,
            deadline,
            stalled_at: None,
            fulls: 0,
            pace: None,
            wait: None,
            asked: None,
            _generation: None,
        }
    }

    pub fn become_refusal(&mut self, ending: Ending, keep_open: bool) {
        self.body = None;
        self.parts = None;
        self.wait = None;
        self.ending = ending;
        self.keep_open = keep_open;
    }

    pub fn bytes_left(&self) -> u64 {
        self.body.map_or(0, |body| body.bytes)
    }

    /// Whether something comes behind the body that is being sent.
    pub fn has_parts(&self) -> bool {
        self.parts.is_some()
    }

    /// Goes on to the next part: appends what stands before it, or what ends them all. False: there is nothing more.
    pub fn next_part(&mut self, head: &mut Vec<u8>) -> bool {
        let Some(parts) = &mut self.parts else { return false };
        self.body = parts.next(head);
        if self.body.is_none() {
            self.parts = None;
        }
        true
    }

    /// The block with the next byte, and the one behind it if the body reaches into it.
    pub fn next_block(&self, tuning: &Tuning) -> Option<(BlockKey, Option<BlockKey>)> {
        let body = self.body?;
        let block = block_bytes(tuning);
        let key = |index| BlockKey { file: body.file, index };
        let index = body.offset / block;
        let reaches = body.offset + body.bytes > (index + 1) * block;
        Some((key(index), reaches.then(|| key(index + 1))))
    }

    /// Whether it asks for this block for the first time since it asked for another.
    pub fn asks(&mut self, key: BlockKey) -> bool {
        self.asked.replace(key) != Some(key)
    }

    /// The next piece of the body, at most so long: where it is in its block, and how long.
    pub fn piece(&self, bytes_max: usize, tuning: &Tuning) -> (usize, usize) {
        let Some(body) = self.body else { return (0, 0) };
        let offset = body.offset % block_bytes(tuning);
        let quantum = u64::try_from(bytes_max).expect("a quantum fits 64 bits");
        let bytes = (block_bytes(tuning) - offset).min(body.bytes).min(quantum);
        let size = |number| usize::try_from(number).expect("within a block");
        (size(offset), size(bytes))
    }

    /// When a send must have got somewhere.
    pub fn send_deadline(&self) -> Now {
        self.stalled_at.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// Something has left.
    pub fn progressed(&mut self) {
        self.begun = true;
        self.stalled_at = None;
        self.fulls = 0;
    }

    /// So many bytes of the body left. True if the block is done with.
    pub fn advance(&mut self, count: usize, tuning: &Tuning) -> bool {
        let Some(body) = &mut self.body else { return true };
        let count = u64::try_from(count).expect("within a block");
        body.offset += count;
        body.bytes -= count;
        let at_boundary =
            body.offset.is_multiple_of(block_bytes(tuning)) && !tuning.planted.has(Plant::BlockEdgeMissed);
        if body.bytes == 0 {
            self.body = None;
        }
        at_boundary || self.body.is_none()
    }
}

fn block_bytes(tuning: &Tuning) -> u64 {
    u64::try_from(tuning.block_bytes).expect("a block's size fits 64 bits")
}

pub fn after_ms(now: Now, ms: u64) -> Now {
    Now(now.0.saturating_add(ms.saturating_mul(1_000_000)))
}
