//! One connection: `(state, event, now) -> action` (DESIGN §4). Sees no clock, no descriptor and no ring; the worker
//! carries out what it says and tells it what came of it.
//!
//! ```text
//!            a head, complete      a block is there          all is sent, keep open
//!   Heading ───────────────► Fetching ───────────► Sending ───────────────────────► Heading
//!      │        no body ───────────▲────────────────▲ │ │ next block ► Fetching
//!      │                           └─── Blocked ◄─────┤ └─ all is sent, close ► Lingering ──► Closed
//!      │ peer closed, idle, drain   writable     full │ stalled, reset, block failed
//!      └──────────────────────────────► Closed ◄──────┘
//! ```
//! Over TLS, and behind a balancer, it begins in Handshaking, and goes on from there to Heading; all else is the same, for it sees content only, and
//! the worker seals what it sends.
//!
//! The answer's head is sent only when its first block is there, so that a disk's failure is a 503 and not a cut.
//! Requests are answered one after the other; what a client sends ahead waits in `input`, and receiving stops while that
//! is full. Read `worker` next.

mod states;
#[cfg(test)]
mod tests;

use crate::clock::{Now, Wall};
use crate::endings::Ending;
use crate::http::answer;
use crate::http::decide::{self, ConnectionMemory, HeadOutcome, Refusal};
use crate::memory::{BlockKey, Failure, Lease};
use crate::sys::arena::BlockSpan;
use crate::tuning::{Plant, Tuning};
use states::{Blocked, Fetching, Heading, Lingering, Response, Sending, State, after_ms};

/// What happened.
pub enum Event<'a> {
    /// Bytes arrived.
    Received(&'a [u8]),
    /// What has to come before HTTP has come: a balancer's header, the handshake of TLS.
    Secured,
    /// What should have been a balancer's header is none.
    ProxyMalformed,
    /// The client broke TLS, or cannot speak it with us.
    TlsBroken,
    /// Of the last send something left, not yet all.
    Progressed,
    /// The client will send no more. It may still read.
    PeerFinished,
    /// Reset, or the network failed.
    PeerLost,
    /// This many bytes of the last send left, of the head first; 0: it was interrupted.
    Sent(usize),
    /// The last send found the socket full.
    Full,
    /// The socket takes bytes again, perhaps.
    Writable,
    /// The kernel refused a SEND for another reason than the peer's.
    SendRefused,
    /// The block that was asked for.
    Block(Lease),
    /// Or why there is none.
    NoBlock(Failure),
    /// The deadline has come, perhaps.
    Tick,
    /// There is no place for this connection: answer it so and close.
    TurnAway,
    /// Close if idle.
    Drain,
    Stop,
}

/// What to do next. At most one send of a connection is in flight at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until the next event.
    Wait,
    /// Get this block; `ahead` will be wanted next. `again`: it was asked for before, and had no room or was let go.
    Fetch {
        key: BlockKey,
        ahead: Option<BlockKey>,
        again: bool,
    },
    /// Send [`Connection::unsent_head`], and of a block what follows it. `more`: yet more follows at once.
    SendHead {
        block: Option<BlockSpan>,
        more: bool,
    },
    /// Say when the socket takes bytes again.
    AwaitWritable,
    SendBlock(BlockSpan),
    /// Say that no more comes, and wait for the client to close.
    FinishWriting,
    Close(Ending),
}

/// What a step may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub decide: decide::Context<'a>,
    pub tuning: &'a Tuning,
    pub wall: Wall,
}

/// An answer's head in most cases.
const HEAD_ROOM: usize = 1024;

/// Reused by the next connection of its slot.
pub struct Connection {
    state: State,
    /// Received, not yet decided: the rest of a head, and requests sent ahead.
    input: Vec<u8>,
    /// The answer's head, or the whole of a refusal.
    head: Vec<u8>,
    head_sent: usize,
    memory: ConnectionMemory,
    peer_finished: bool,
    /// How the requests ended since the worker last asked.
    ended: Option<Ending>,
}

impl Connection {
    pub fn new() -> Self {
        Self {
            state: State::Closed(None),
            input: Vec::new(),
            head: Vec::new(),
            head_sent: 0,
            memory: ConnectionMemory::default(),
            peer_finished: false,
            ended: None,
        }
    }

    /// A connection was accepted. `prefaced`: TLS has to be agreed on first, or a balancer says something first.
    pub fn open(&mut self, prefaced: bool, now: Now, context: &Context<'_>) {
        self.input.clear();
        self.head.clear();
        self.head_sent = 0;
        self.memory = ConnectionMemory::default();
        self.peer_finished = false;
        self.ended = None;
        self.state = if prefaced {
            State::Handshaking(after_ms(now, context.decide.limits.handshake_ms_max))
        } else {
            State::Heading(Heading::idle(now, context))
        };
    }

    /// Everything it holds is given back; its operations have ended.
    pub fn release(&mut self) {
        self.state = State::Closed(None);
        (self.input, self.head) = (Vec::new(), Vec::new());
        self.memory = ConnectionMemory::default();
    }

    pub fn unsent_head(&self) -> &[u8] {
        &self.head[self.head_sent..]
    }

    /// How fast what is being sent may leave, in bytes a second; None: as fast as it goes.
    pub fn pace(&self) -> Option<u64> {
        match &self.state {
            State::Sending(Sending { response, .. }) => response.pace,
            _ => None,
        }
    }

    /// What of a block the last [`Action`] asked to send: the lease lasts until that has ended, or until [`Self::let_go`].
    pub fn leased(&self, span: BlockSpan) -> &[u8] {
        match &self.state {
            State::Sending(Sending { lease: Some(lease), .. }) => lease.bytes(span),
            _ => unreachable!("only who sends of a block asks for its bytes"),
        }
    }

    /// The bytes that are being sent were copied: the block may go though they have not left.
    pub fn let_go(&mut self) {
        if let State::Sending(sending) = &mut self.state {
            sending.lease = None;
        }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::Heading(heading) => Some(heading.deadline),
            State::Fetching(Fetching { response, deadline, retry_at }) => {
                Some(retry_at.map_or(*deadline, |at| at.min(*deadline)).min(response.deadline))
            }
            State::Sending(Sending { response, .. }) => Some(response.send_deadline()),
            State::Blocked(Blocked { response, retry_at }) => {
                Some(retry_at.map_or(response.send_deadline(), |at| at.min(response.send_deadline())))
            }
            State::Lingering(lingering) => Some(lingering.deadline),
            State::Handshaking(deadline) => Some(*deadline),
            State::Closed(_) => None,
        }
    }

    /// Whether there is room for what the client sends.
    pub fn wants_input(&self, context: &Context<'_>) -> bool {
        let open = !matches!(self.state, State::Closed(_));
        open && !self.peer_finished && self.input.len() < context.decide.limits.head_bytes_max
    }

    /// Whether it waits for the block that its last [`Action::Fetch`] asked for.
    pub fn is_fetching(&self) -> bool {
        matches!(self.state, State::Fetching(_))
    }

    /// How a request ended in the last step, if one did.
    pub fn take_ended(&mut self) -> Option<Ending> {
        self.ended.take()
    }

    pub fn step(&mut self, event: Event<'_>, now: Now, context: &Context<'_>) -> Action {
        let state = std::mem::replace(&mut self.state, State::Closed(None));
        match event {
            Event::Received(bytes) => self.received(state, bytes, now, context),
            Event::Secured => self.secured(state, now, context),
            Event::ProxyMalformed => self.close(state, Ending::ProxyMalformed),
            Event::TlsBroken if matches!(state, State::Handshaking(_)) => {
                self.close(state, Ending::HandshakeFailed)
            }
            Event::TlsBroken => self.close(state, Ending::TlsBroken),
            Event::Progressed => self.progressed(state, now, context),
            Event::PeerFinished => self.peer_finished(state),
            Event::PeerLost => self.close(state, Ending::PeerReset),
            Event::Sent(count) => self.sent(state, count, now, context),
            Event::Full => self.full(state, now, context),
            Event::Writable => self.writable(state, now, context),
            Event::SendRefused => self.close(state, Ending::HostFailed),
            Event::Block(lease) => self.block_arrived(state, lease, now, context),
            Event::NoBlock(failure) => self.block_failed(state, failure, now, context),
            Event::Tick => self.tick(state, now, context),
            Event::TurnAway => {
                self.refuse(Refusal::TooManyConnections, Ending::TooManyConnections, now, context)
            }
            Event::Drain => self.drain(state),
            Event::Stop => self.close(state, Ending::Stopped),
        }
    }

    fn received(&mut self, state: State, bytes: &[u8], now: Now, context: &Context<'_>) -> Action {
        match state {
            State::Heading(heading) => {
                self.input.extend_from_slice(bytes);
                self.next_request(heading, now, context)
            }
            State::Fetching(_) | State::Sending(_) | State::Blocked(_) => {
                self.input.extend_from_slice(bytes);
                let most = context.decide.limits.head_bytes_max + context.tuning.receive_slack_bytes;
                if self.input.len() > most {
                    return self.close(state, Ending::PipelineTooLong);
                }
                self.stay(state)
            }
            // What comes behind the last request is read so that the kernel need not reset what was sent.
            State::Handshaking(_) | State::Lingering(_) | State::Closed(_) => self.stay(state),
        }
    }

    fn secured(&mut self, state: State, now: Now, context: &Context<'_>) -> Action {
        match state {
            State::Handshaking(_) => self.stay(State::Heading(Heading::idle(now, context))),
            _ => self.stay(state),
        }
    }

    fn progressed(&mut self, state: State, now: Now, context: &Context<'_>) -> Action {
        let State::Sending(mut sending) = state else { return self.stay(state) };
        sending.response.progressed();
        sending.response.stalled_at = Some(after_ms(now, context.decide.limits.send_stall_ms_max));
        self.stay(State::Sending(sending))
    }

    fn peer_finished(&mut self, state: State) -> Action {
        self.peer_finished = true;
        match state {
            State::Heading(_) if self.input.is_empty() => self.close(state, Ending::PeerClosed),
            State::Heading(_) | State::Handshaking(_) => self.close(state, Ending::PeerClosedEarly),
            // RFC 9112 9.6: a client may half-close behind its last request and still wants the answers.
            State::Fetching(_) | State::Sending(_) | State::Blocked(_) => self.stay(state),
            State::Lingering(Lingering { ending, .. }) => self.close(state, ending),
            State::Closed(_) => self.stay(state),
        }
    }

    /// Decides the next head in `input`, if it is all there.
    fn next_request(&mut self, heading: Heading, now: Now, context: &Context<'_>) -> Action {
        self.head.clear();
        self.head.reserve(HEAD_ROOM);
        self.head_sent = 0;
        if self.input.is_empty() && self.peer_finished {
            return self.close(State::Heading(heading), Ending::PeerClosed);
        }
        if self.input.is_empty() && context.decide.holdings.draining() {
            return self.close(State::Heading(heading), Ending::Drained);
        }
        let outcome =
            decide::decide(&self.input, &context.decide, &mut self.memory, context.wall, &mut self.head);
        let decision = match outcome {
            HeadOutcome::Decided(decision) => decision,
            HeadOutcome::Incomplete if self.input.is_empty() => {
                // Most connections are idle most of the time: they keep no buffers.
                (self.input, self.head) = (Vec::new(), Vec::new());
                return self.stay(State::Heading(heading));
            }
            HeadOutcome::Incomplete if self.peer_finished => {
                return self.close(State::Heading(heading), Ending::PeerClosedEarly);
            }
            HeadOutcome::Incomplete => return self.stay(State::Heading(heading.begun(now, context))),
        };
        self.input.drain(..decision.consumed);
        let response = Box::new(Response::new(decision, now, context));
        match response.next_block(context.tuning) {
            Some(_) if context.tuning.planted.has(Plant::HeadBeforeBlock) => {
                self.send_next(response, None, now, context)
            }
            Some(_) => self.fetch(response, now, context),
            None => self.send_next(response, None, now, context),
        }
    }

    fn fetch(&mut self, response: Box<Response>, now: Now, context: &Context<'_>) -> Action {
        let deadline = after_ms(now, context.tuning.read_ms_max);
        self.fetch_again(Fetching { response, deadline, retry_at: None }, context)
    }

    fn fetch_again(&mut self, mut fetching: Fetching, context: &Context<'_>) -> Action {
        let Some((key, ahead)) = fetching.response.next_block(context.tuning) else {
            unreachable!("only a response with bytes left fetches a block")
        };
        let again = !fetching.response.asks(key);
        self.state = State::Fetching(fetching);
        Action::Fetch { key, ahead, again }
    }

    fn block_arrived(&mut self, state: State, lease: Lease, now: Now, context: &Context<'_>) -> Action {
        match state {
            State::Fetching(Fetching { mut response, .. }) => {
                if let Some((at, since)) = response.wait.take() {
                    answer::write_wait(&mut self.head, at, now.0.saturating_sub(since.0) / 1_000);
                }
                self.send_next(response, Some(lease), now, context)
            }
            // Came too late: the lease is dropped.
            State::Heading(_)
            | State::Handshaking(_)
            | State::Sending(_)
            | State::Blocked(_)
            | State::Lingering(_)
            | State::Closed(_) => self.stay(state),
        }
    }

    fn block_failed(&mut self, state: State, failure: Failure, now: Now, context: &Context<'_>) -> Action {
        let State::Fetching(Fetching { mut response, deadline, .. }) = state else { return self.stay(state) };
        if failure == Failure::Busy && now < deadline {
            // Blocks come free as others are sent: worth waiting for, as for a read.
            let retry_at = Some(after_ms(now, context.tuning.busy_retry_ms));
            return self.stay(State::Fetching(Fetching { response, deadline, retry_at }));
        }
        let (refusal, ending) = match failure {
            Failure::Disk => (Refusal::DiskFailed, Ending::DiskFailed),
            Failure::Busy => (Refusal::Overloaded, Ending::Overloaded),
        };
        if response.begun {
            // Part of the answer has left. What is missing must be seen to be missing (RFC 9112 8).
            return self
                .close(State::Fetching(Fetching { response, deadline, retry_at: None }), Ending::BodyFailed);
        }
        self.head.clear();
        let keep_open = decide::refuse_after(refusal, response.keep_open, context.wall, &mut self.head);
        response.become_refusal(ending, keep_open);
        self.send_next(response, None, now, context)
    }

    /// What is to be sent next: the head with the body's first bytes, then the body piece by piece, from block after block.
    fn send_next(
        &mut self,
        response: Box<Response>,
        lease: Option<Lease>,
        now: Now,
        context: &Context<'_>,
    ) -> Action {
        let head_left = self.head.len() - self.head_sent;
        if head_left > 0 {
            let block = lease.as_ref().map(|lease| {
                let (offset, bytes) = response.piece(context.tuning.first_piece_bytes, context.tuning);
                lease.span(offset, bytes)
            });
            let bytes = block.map_or(0, |span| span.bytes);
            let more =
                response.bytes_left() > u64::try_from(bytes).expect("within a block") || response.has_parts();
            self.send(response, lease, head_left + bytes, now, context);
            return Action::SendHead { block, more };
        }
        let Some(lease) = lease.filter(|_| response.bytes_left() > 0) else {
            // Dropping the lease, if there is one, lets the block go.
            return self.go_on(response, now, context);
        };
        let (offset, bytes) = response.piece(context.tuning.send_quantum_bytes, context.tuning);
        let span = lease.span(offset, bytes);
        self.send(response, Some(lease), bytes, now, context);
        Action::SendBlock(span)
    }

    /// The head has left, and no block is there.
    fn go_on(&mut self, mut response: Box<Response>, now: Now, context: &Context<'_>) -> Action {
        if response.bytes_left() > 0 {
            return self.fetch(response, now, context);
        }
        self.head.clear();
        self.head_sent = 0;
        if response.next_part(&mut self.head) {
            self.resume(response, now, context)
        } else {
            self.finish(response, now, context)
        }
    }

    fn send(
        &mut self,
        mut response: Box<Response>,
        lease: Option<Lease>,
        asked_bytes: usize,
        now: Now,
        context: &Context<'_>,
    ) {
        response.stalled_at.get_or_insert(after_ms(now, context.decide.limits.send_stall_ms_max));
        let lease = lease.filter(|_| !context.tuning.planted.has(Plant::LeaseEndsAtSubmit));
        self.state = State::Sending(Sending { response, lease, asked_bytes });
    }

    fn sent(&mut self, state: State, count: usize, now: Now, context: &Context<'_>) -> Action {
        let State::Sending(Sending { mut response, mut lease, asked_bytes }) = state else {
            return self.stay(state);
        };
        // Of an interrupted send nothing left, which is no progress.
        if count > 0 {
            response.progressed();
            let miscounted = context.tuning.planted.has(Plant::ShortSendMiscounted);
            let counted = if miscounted { asked_bytes } else { count };
            let of_head = counted.min(self.head.len() - self.head_sent);
            self.head_sent += of_head;
            if counted > of_head && response.advance(counted - of_head, context.tuning) {
                lease = None;
            }
        }
        self.send_next(response, lease, now, context)
    }

    /// Dropping the lease lets the block go until the client has read on.
    fn full(&mut self, state: State, now: Now, context: &Context<'_>) -> Action {
        let State::Sending(Sending { mut response, lease, .. }) = state else { return self.stay(state) };
        drop(lease);
        response.fulls = response.fulls.saturating_add(1);
        // A socket that is called writable and takes nothing would be asked without end.
        let retry_at = (response.fulls > 1).then(|| after_ms(now, context.tuning.busy_retry_ms));
        self.state = State::Blocked(Blocked { response, retry_at });
        if retry_at.is_some() { Action::Wait } else { Action::AwaitWritable }
    }

    fn writable(&mut self, state: State, now: Now, context: &Context<'_>) -> Action {
        match state {
            State::Blocked(Blocked { response, retry_at: None }) => self.resume(response, now, context),
            State::Heading(_)
            | State::Handshaking(_)
            | State::Fetching(_)
            | State::Sending(_)
            | State::Blocked(_)
            | State::Lingering(_)
            | State::Closed(_) => self.stay(state),
        }
    }

    /// Goes on with what is next, be it of a block or not.
    fn resume(&mut self, response: Box<Response>, now: Now, context: &Context<'_>) -> Action {
        if response.bytes_left() > 0 {
            self.fetch(response, now, context)
        } else {
            self.send_next(response, None, now, context)
        }
    }

    /// The answer has left in full.
    fn finish(&mut self, response: Box<Response>, now: Now, context: &Context<'_>) -> Action {
        self.ended = Some(response.ending);
        if response.keep_open {
            return self.next_request(Heading::idle(now, context), now, context);
        }
        if self.peer_finished {
            self.state = State::Closed(None);
            return Action::Close(response.close_ending);
        }
        let deadline = after_ms(now, context.tuning.linger_ms_max);
        self.state = State::Lingering(Lingering { deadline, ending: response.close_ending });
        Action::FinishWriting
    }

    fn tick(&mut self, state: State, now: Now, context: &Context<'_>) -> Action {
        match state {
            State::Heading(heading) if now < heading.deadline => self.stay(State::Heading(heading)),
            State::Heading(_) if self.input.is_empty() => self.close(state, Ending::IdleTooLong),
            State::Heading(_) => self.refuse(Refusal::HeadTooSlow, Ending::HeadTooSlow, now, context),
            State::Fetching(Fetching { ref response, .. }) if now >= response.deadline => {
                self.close(state, Ending::RequestTooLong)
            }
            State::Fetching(Fetching { deadline, retry_at, .. }) if now >= deadline => {
                let failure = if retry_at.is_some() { Failure::Busy } else { Failure::Disk };
                self.block_failed(state, failure, now, context)
            }
            State::Fetching(Fetching { response, deadline, retry_at: Some(at) }) if now >= at => {
                self.fetch_again(Fetching { response, deadline, retry_at: None }, context)
            }
            State::Sending(Sending { ref response, .. }) | State::Blocked(Blocked { ref response, .. })
                if now >= response.send_deadline() =>
            {
                let late = now >= response.deadline;
                self.close(state, if late { Ending::RequestTooLong } else { Ending::SendStalled })
            }
            State::Blocked(Blocked { response, retry_at: Some(at) }) if now >= at => {
                self.resume(response, now, context)
            }
            State::Lingering(Lingering { deadline, ending }) if now >= deadline => self.close(state, ending),
            State::Handshaking(deadline) if now >= deadline => self.close(state, Ending::HandshakeTooSlow),
            State::Handshaking(_)
            | State::Fetching(_)
            | State::Sending(_)
            | State::Blocked(_)
            | State::Lingering(_)
            | State::Closed(_) => self.stay(state),
        }
    }

    /// An answer that belongs to no request, and the end.
    fn refuse(&mut self, refusal: Refusal, ending: Ending, now: Now, context: &Context<'_>) -> Action {
        self.head.clear();
        self.head_sent = 0;
        // Closes whatever is returned: these refusals say so in their answer.
        let _closes = decide::refuse_after(refusal, false, context.wall, &mut self.head);
        self.send_next(Box::new(Response::refusal(ending, now, context)), None, now, context)
    }

    fn drain(&mut self, state: State) -> Action {
        match state {
            State::Heading(_) if self.input.is_empty() => self.close(state, Ending::Drained),
            State::Handshaking(_) => self.close(state, Ending::Drained),
            State::Heading(_)
            | State::Fetching(_)
            | State::Sending(_)
            | State::Blocked(_)
            | State::Lingering(_)
            | State::Closed(_) => self.stay(state),
        }
    }

    fn stay(&mut self, state: State) -> Action {
        self.state = state;
        Action::Wait
    }

    /// The end. A block that a send in flight reads from stays leased until [`Self::release`].
    fn close(&mut self, state: State, ending: Ending) -> Action {
        let lease = match state {
            State::Sending(Sending { lease, .. }) => {
                self.ended = Some(ending);
                lease
            }
            State::Fetching(_) | State::Blocked(_) => {
                self.ended = Some(ending);
                None
            }
            State::Closed(lease) => {
                self.state = State::Closed(lease);
                return Action::Wait;
            }
            State::Heading(_) | State::Handshaking(_) | State::Lingering(_) => None,
        };
        self.state = State::Closed(lease);
        Action::Close(ending)
    }
}
