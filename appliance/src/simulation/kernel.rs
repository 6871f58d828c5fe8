//! The fake kernel: connections between clients and workers, and a [`Ring`] on them that completes operations in any
//! order, in any part, or not yet.
//!
//! What a SEND sends is read from the arena when it *completes*, as the real one may: a block that was given away
//! meanwhile shows as wrong bytes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::random::Random;
use super::site::MADE;
use crate::clock::{Now, Wall};
use crate::ring::{
    Completion, Direction, Listener, OperationId, ReceiveBuffer, ReceiveEnd, Ring, SendFault, Socket,
};
use crate::sys::Wake;
use crate::sys::arena::{Arena, BlockSpan};

const RECEIVE_BYTES_MAX: usize = 2048;
/// `resize` is slow in a debug build.
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// What all parts of a run share.
pub struct Shared {
    pub now: Cell<Now>,
    pub random: RefCell<Random>,
    /// Counts everything that happens: if it stands still, time may pass.
    pub activity: Cell<u64>,
    pub network: RefCell<Network>,
}

impl Shared {
    pub fn happened(&self) {
        self.activity.set(self.activity.get() + 1);
    }

    pub fn chance(&self, count: usize, of: usize) -> bool {
        self.random.borrow_mut().chance(count, of)
    }
}

#[derive(Default)]
pub struct Network {
    pub wires: Vec<Wire>,
    /// By worker: connections that wait to be accepted.
    pub backlogs: Vec<Vec<usize>>,
}

/// One TCP connection, both ways.
#[derive(Default)]
pub struct Wire {
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
    /// How much `to_client` holds before a SEND has to wait.
    pub capacity: usize,
    pub client_finished: bool,
    pub client_reset: bool,
    pub server_finished: bool,
    pub server_shut: bool,
    pub server_closed: bool,
}

#[derive(Default)]
pub struct FakeWaker(AtomicBool);

impl Wake for FakeWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

enum Source {
    Bytes(Vec<u8>),
    Block(BlockSpan),
}

struct PendingReceive {
    id: OperationId,
    wire: usize,
    pausing: bool,
}

struct PendingSend {
    id: OperationId,
    wire: usize,
    source: Source,
}

pub struct FakeRing {
    shared: Rc<Shared>,
    arena: Arc<Arena>,
    waker: Arc<FakeWaker>,
    worker: usize,
    accepting: bool,
    receives: Vec<PendingReceive>,
    sends: Vec<PendingSend>,
    buffers: BTreeMap<u16, Vec<u8>>,
    next_buffer: u16,
    /// When the worker wants to be called again.
    pub until: Option<Now>,
}

impl FakeRing {
    pub fn new(shared: Rc<Shared>, arena: Arc<Arena>, waker: Arc<FakeWaker>, worker: usize) -> Self {
        Self {
            shared,
            arena,
            waker,
            worker,
            accepting: true,
            receives: Vec::new(),
            sends: Vec::new(),
            buffers: BTreeMap::new(),
            next_buffer: 0,
            until: None,
        }
    }

    /// What was not ended or given back.
    pub fn leaks(&self) -> Result<(), String> {
        let counts = [self.receives.len(), self.sends.len(), self.buffers.len()];
        if counts == [0; 3] { Ok(()) } else { Err(format!("receives, sends, buffers left over: {counts:?}")) }
    }

    fn progress_accept(&mut self, completions: &mut Vec<Completion>) {
        let mut network = self.shared.network.borrow_mut();
        let backlog = &mut network.backlogs[self.worker];
        if !self.accepting || backlog.is_empty() {
            return;
        }
        let listener = Listener(0);
        if self.shared.chance(1, 20) {
            self.accepting = false;
            let exhausted = self.shared.chance(1, 2);
            completions.push(Completion::AcceptEnded { listener, exhausted });
            return;
        }
        let wire = backlog.remove(0);
        completions.push(Completion::Accepted { listener, socket: Socket(u32::try_from(wire).unwrap()) });
    }

    fn progress_receive(&mut self, place: usize, completions: &mut Vec<Completion>) {
        let PendingReceive { id, wire, pausing } = self.receives[place];
        let mut network = self.shared.network.borrow_mut();
        let wire = &mut network.wires[wire];
        let mut random = self.shared.random.borrow_mut();
        let end = if wire.client_reset {
            Some(ReceiveEnd::PeerLost)
        } else if !(wire.to_server.is_empty() || wire.server_shut || pausing && random.chance(1, 2)) {
            let count = random.between(1, wire.to_server.len().min(RECEIVE_BYTES_MAX));
            let count = if random.chance(1, 2) { wire.to_server.len().min(RECEIVE_BYTES_MAX) } else { count };
            let bytes = wire.to_server[..count].to_vec();
            wire.to_server.drain(..count);
            self.next_buffer = self.next_buffer.wrapping_add(1);
            self.buffers.insert(self.next_buffer, bytes);
            let buffer = ReceiveBuffer { index: self.next_buffer, bytes: count };
            completions.push(Completion::Received { id, buffer });
            random.chance(1, 10).then_some(ReceiveEnd::Paused)
        } else if pausing {
            Some(ReceiveEnd::Paused)
        } else if wire.client_finished || wire.server_shut {
            Some(ReceiveEnd::PeerFinished)
        } else {
            None
        };
        if let Some(end) = end {
            completions.push(Completion::ReceiveEnded { id, end });
            self.receives.swap_remove(place);
        }
    }

    fn progress_send(&mut self, place: usize, completions: &mut Vec<Completion>) {
        let PendingSend { id, wire, source } = &self.sends[place];
        let id = *id;
        let mut network = self.shared.network.borrow_mut();
        let wire = &mut network.wires[*wire];
        let mut random = self.shared.random.borrow_mut();
        let outcome = if wire.client_reset || wire.server_shut || wire.server_finished {
            Err(SendFault::PeerLost)
        } else {
            let length = match source {
                Source::Bytes(bytes) => bytes.len(),
                Source::Block(span) => span.bytes,
            };
            let room = wire.capacity.saturating_sub(wire.to_client.len()).min(length);
            if room == 0 {
                return;
            }
            let count = if random.chance(1, 2) { room } else { random.between(1, room) };
            match source {
                Source::Bytes(bytes) => wire.to_client.extend_from_slice(&bytes[..count]),
                Source::Block(span) => {
                    let start = wire.to_client.len();
                    wire.to_client.extend_from_slice(&ZEROS[..count]);
                    let offset = i64::try_from(self.arena.file_offset(*span)).unwrap();
                    let into = &mut wire.to_client[start..];
                    assert_eq!(nix::sys::uio::pread(self.arena.memfd(), into, offset), Ok(count));
                }
            }
            Ok(count)
        };
        completions.push(Completion::Sent { id, outcome });
        self.sends.swap_remove(place);
    }

    /// Goes through what is pending in an order, and as far, as the seed says.
    fn progress(&mut self, completions: &mut Vec<Completion>) {
        if self.waker.0.swap(false, Ordering::Relaxed) {
            completions.push(Completion::Woken);
        }
        self.progress_accept(completions);
        // Each once: one that could go on and is never looked at would pass for a standstill.
        let receives = self.receives.iter().map(|receive| (receive.id, true));
        let mut pending: Vec<_> = receives.chain(self.sends.iter().map(|send| (send.id, false))).collect();
        while !pending.is_empty() {
            let pick = self.shared.random.borrow_mut().below(pending.len());
            let (id, receive) = pending.swap_remove(pick);
            if receive {
                let place = self.receives.iter().position(|receive| receive.id == id).expect("still pending");
                self.progress_receive(place, completions);
            } else if self.shared.chance(2, 3) {
                let place = self.sends.iter().position(|send| send.id == id).expect("still pending");
                self.progress_send(place, completions);
            } else {
                // It could have gone on, and does not yet: that is no standstill.
                self.shared.happened();
            }
        }
    }

    fn wire(&self, socket: Socket) -> usize {
        usize::try_from(socket.0).unwrap()
    }
}

impl Ring for FakeRing {
    fn now(&self) -> Now {
        self.shared.now.get()
    }

    fn wall(&self) -> Wall {
        Wall(MADE.0 + i64::try_from(self.shared.now.get().0 / 1_000_000_000).unwrap())
    }

    fn listen(&mut self, _listener: TcpListener) -> Listener {
        unreachable!("the fake network has its own way in")
    }

    fn accept(&mut self, _listener: Listener) {
        assert!(!self.accepting, "accept is armed once");
        self.accepting = true;
        self.shared.happened();
    }

    fn receive(&mut self, id: OperationId, socket: Socket) {
        let wire = self.wire(socket);
        assert!(self.receives.iter().all(|other| other.wire != wire), "one receive at a time");
        self.receives.push(PendingReceive { id, wire, pausing: false });
    }

    fn pause_receive(&mut self, id: OperationId) {
        self.receives
            .iter_mut()
            .filter(|receive| receive.id == id)
            .for_each(|receive| receive.pausing = true);
    }

    fn send_bytes(&mut self, id: OperationId, socket: Socket, bytes: &[u8], _more: bool) {
        assert!(!bytes.is_empty() && self.sends.iter().all(|other| other.id != id), "one send at a time");
        self.sends.push(PendingSend { id, wire: self.wire(socket), source: Source::Bytes(bytes.to_vec()) });
        self.shared.happened();
    }

    fn send_block(&mut self, id: OperationId, socket: Socket, span: BlockSpan) {
        assert!(span.bytes > 0 && self.sends.iter().all(|other| other.id != id), "one send at a time");
        self.sends.push(PendingSend { id, wire: self.wire(socket), source: Source::Block(span) });
        self.shared.happened();
    }

    fn shut_down(&mut self, socket: Socket, direction: Direction) {
        let wire = &mut self.shared.network.borrow_mut().wires[usize::try_from(socket.0).unwrap()];
        wire.server_finished = true;
        wire.server_shut |= direction == Direction::Both;
        self.shared.happened();
    }

    fn close(&mut self, socket: Socket) {
        let wire = self.wire(socket);
        let busy = self.receives.iter().any(|receive| receive.wire == wire)
            || self.sends.iter().any(|send| send.wire == wire);
        assert!(!busy, "a socket is closed when nothing of it is in flight");
        let wire = &mut self.shared.network.borrow_mut().wires[wire];
        assert!(!wire.server_closed, "a socket is closed once");
        wire.server_closed = true;
        self.shared.happened();
    }

    fn received(&self, buffer: &ReceiveBuffer) -> &[u8] {
        &self.buffers[&buffer.index]
    }

    fn recycle(&mut self, buffer: ReceiveBuffer) {
        assert!(self.buffers.remove(&buffer.index).is_some(), "a buffer is given back once");
    }

    fn turn(&mut self, until: Option<Now>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.until = until;
        self.progress(completions);
        completions.iter().for_each(|_| self.shared.happened());
        Ok(())
    }
}
