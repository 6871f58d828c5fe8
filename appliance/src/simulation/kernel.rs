//! The fake kernel below a worker's ring: queues with bounds, operations that complete in any order, in any part, or not
//! yet, receive buffers that run out.
//!
//! What a SEND sends is read from the arena when it *completes*, as the real one may; what sendfile or SEND_ZC sends, when
//! the client reads it. A block that was given away meanwhile shows as wrong bytes.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::faults::Fault;
use super::network::Queue;
use super::shared::Shared;
use crate::clock::{Now, Wall};
use crate::ring::Direction;
use crate::ring::buffers::HEAD_BYTES;
use crate::ring::kernel::{Entry, Kernel, Kind, Operation, Tag};
use crate::sys::Wake;
use crate::sys::arena::{Arena, BlockSpan};

const RECEIVE_BYTES_MAX: usize = 2048;
/// `resize` is slow in a debug build.
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

#[derive(Default)]
pub struct FakeWaker(AtomicBool);

impl Wake for FakeWaker {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A socket, or the listener (None).
pub struct FakeSocket {
    shared: Rc<Shared>,
    wire: Option<usize>,
}

impl FakeSocket {
    fn wire(&self) -> usize {
        self.wire.expect("it is not the listener")
    }
}

impl Drop for FakeSocket {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.filter(|_| !std::thread::panicking()) {
            self.shared.network.borrow_mut().wires[wire].close_server(&self.shared);
        }
    }
}

#[derive(Clone)]
enum Task {
    Accept,
    Receive { wire: usize },
    SendBytes { wire: usize, bytes: Vec<u8>, block: Option<BlockSpan> },
    SendBlock { wire: usize, span: BlockSpan, lent: bool },
    Writable { wire: usize },
    Wakes,
    Cancel { tag: Tag },
}

impl Task {
    fn wire(&self) -> Option<usize> {
        match self {
            Self::Receive { wire }
            | Self::SendBytes { wire, .. }
            | Self::SendBlock { wire, .. }
            | Self::Writable { wire } => Some(*wire),
            Self::Accept | Self::Wakes | Self::Cancel { .. } => None,
        }
    }
}

struct Flight {
    /// As it crosses the real border.
    bits: u64,
    task: Task,
    cancelled: bool,
}

pub struct FakeKernel {
    shared: Rc<Shared>,
    arena: Arc<Arena>,
    waker: Arc<FakeWaker>,
    worker: usize,
    queue: Vec<(Tag, Task)>,
    queue_max: usize,
    in_flight: Vec<Flight>,
    completed: VecDeque<Entry<FakeSocket>>,
    completed_max: usize,
    refusals: usize,
    /// None: the kernel's. Else what the worker was given.
    buffers: Vec<Option<Vec<u8>>>,
    /// What the wait that is under way ends with.
    outcome: Result<(), Errno>,
}

impl FakeKernel {
    pub fn new(shared: Rc<Shared>, arena: Arc<Arena>, waker: Arc<FakeWaker>, worker: usize) -> Self {
        let mut random = shared.random.borrow_mut();
        let (queue_max, completed_max) = (random.between(1, 24), random.between(1, 16));
        let buffers = vec![None; random.between(1, 8)];
        drop(random);
        Self {
            shared,
            arena,
            waker,
            worker,
            queue: Vec::new(),
            queue_max,
            in_flight: Vec::new(),
            completed: VecDeque::new(),
            completed_max,
            refusals: 0,
            buffers,
            outcome: Ok(()),
        }
    }

    pub fn listener(&self) -> FakeSocket {
        FakeSocket { shared: self.shared.clone(), wire: None }
    }

    /// What was not ended or given back.
    pub fn leaks(&self) -> Result<(), String> {
        let ended = |flight: &&Flight| !matches!(flight.task, Task::Accept | Task::Wakes);
        let left = [
            self.queue.iter().filter(|(_, task)| !matches!(task, Task::Accept | Task::Wakes)).count(),
            self.in_flight.iter().filter(ended).count(),
            self.completed.len(),
            self.buffers.iter().flatten().count(),
        ];
        if left == [0; 4] {
            Ok(())
        } else {
            Err(format!("submissions, operations, completions, buffers left over: {left:?}"))
        }
    }

    fn take_queue(&mut self) {
        for (tag, task) in std::mem::take(&mut self.queue) {
            if let Task::Cancel { tag: target } = task {
                let target = self.in_flight.iter_mut().find(|flight| flight.bits == target.to_bits());
                let result = if let Some(flight) = target {
                    flight.cancelled = true;
                    Ok(0)
                } else {
                    self.shared.saw(Fault::CancelMissed);
                    Err(Errno::ENOENT)
                };
                self.complete(tag, result, false, None, None);
                continue;
            }
            let again = self.in_flight.iter().any(|flight| flight.bits == tag.to_bits());
            if again {
                self.shared.violate(&format!("{tag:?} is armed twice"));
            }
            if let Some(wire) = task.wire() {
                self.shared.network.borrow_mut().wires[wire].operations += 1;
            }
            self.in_flight.push(Flight { bits: tag.to_bits(), task, cancelled: false });
        }
    }

    fn complete(
        &mut self,
        tag: Tag,
        result: Result<usize, Errno>,
        more: bool,
        buffer: Option<u16>,
        socket: Option<FakeSocket>,
    ) {
        let word = result.map_or(0xffff, |count| u64::try_from(count).unwrap());
        self.shared.note(tag.to_bits() ^ (word << 16) ^ u64::from(more));
        self.completed.push_back(Entry { tag, result, more, buffer, socket });
        self.shared.happened();
    }

    /// Takes the operation at `place` a step further, if it can go one.
    fn progress_one(&mut self, place: usize) {
        let flight = &self.in_flight[place];
        let (tag, task, cancelled) = (Tag::from_bits(flight.bits), flight.task.clone(), flight.cancelled);
        let wire = task.wire();
        let goes_on = match task {
            Task::Accept => self.progress_accept(tag),
            Task::Receive { wire } => self.progress_receive(tag, wire, cancelled),
            Task::SendBytes { wire, bytes, block } => {
                let count = bytes.len() + block.map_or(0, |span| span.bytes);
                self.progress_send(tag, wire, count, |arena, queue, count| {
                    let into = queue.extend(&ZEROS[..count]);
                    let (head, body) = into.split_at_mut(count.min(bytes.len()));
                    head.copy_from_slice(&bytes[..head.len()]);
                    copy_block(arena, block, body);
                })
            }
            Task::SendBlock { wire, span, lent: false } => {
                self.progress_send(tag, wire, span.bytes, |arena, queue, count| {
                    copy_block(arena, Some(span), queue.extend(&ZEROS[..count]));
                })
            }
            Task::SendBlock { wire, span, lent: true } => {
                self.progress_send(tag, wire, span.bytes, |arena, queue, count| {
                    lend(arena, span, queue, count)
                })
            }
            Task::Writable { wire } => self.progress_writable(tag, wire),
            Task::Wakes => self.progress_wakes(tag),
            Task::Cancel { .. } => unreachable!("a cancel completes at once"),
        };
        if !goes_on {
            self.in_flight.swap_remove(place);
            if let Some(wire) = wire {
                self.shared.network.borrow_mut().wires[wire].operations -= 1;
            }
        }
    }

    fn progress_wakes(&mut self, tag: Tag) -> bool {
        if !self.waker.0.load(Ordering::Relaxed) {
            return true;
        }
        let more = !self.shared.strikes(Fault::WakeUnarmed);
        self.complete(tag, Ok(1), more, None, None);
        more
    }

    fn progress_accept(&mut self, tag: Tag) -> bool {
        let shared = self.shared.clone();
        let mut network = shared.network.borrow_mut();
        if network.backlogs[self.worker].is_empty() {
            return true;
        }
        for (fault, errno) in
            [(Fault::AcceptAborted, Errno::ECONNABORTED), (Fault::AcceptExhausted, Errno::EMFILE)]
        {
            if shared.strikes(fault) {
                self.complete(tag, Err(errno), false, None, None);
                return false;
            }
        }
        let wire = network.backlogs[self.worker].remove(0);
        network.accepted += 1;
        let more = !shared.strikes(Fault::AcceptUnarmed);
        let socket = FakeSocket { shared: shared.clone(), wire: Some(wire) };
        self.complete(tag, Ok(wire + 3), more, None, Some(socket));
        more
    }

    fn progress_receive(&mut self, tag: Tag, number: usize, cancelled: bool) -> bool {
        let shared = self.shared.clone();
        let mut network = shared.network.borrow_mut();
        let wire = &mut network.wires[number];
        let ready = !wire.to_server.is_empty() && !wire.server_shut;
        if shared.strikes(Fault::ReceiveInterrupted) {
            self.complete(tag, Err(Errno::EINTR), false, None, None);
            return false;
        }
        if wire.reset && !(ready && shared.chance(1, 2)) {
            let errno = if shared.chance(1, 4) { Errno::ETIMEDOUT } else { Errno::ECONNRESET };
            self.complete(tag, Err(errno), false, None, None);
            return false;
        }
        if cancelled && !(ready && shared.strikes(Fault::CancelRaced)) {
            self.complete(tag, Err(Errno::ECANCELED), false, None, None);
            return false;
        }
        if !ready && !wire.client_finished && !wire.server_shut {
            return true;
        }
        let free: Vec<_> = (0..self.buffers.len()).filter(|index| self.buffers[*index].is_none()).collect();
        if ready && free.is_empty() {
            shared.saw(Fault::NoBuffers);
            self.complete(tag, Err(Errno::ENOBUFS), false, None, None);
            return false;
        }
        let pick = |shared: &Shared| free[shared.below(free.len())];
        if ready {
            let count = wire.to_server.len().min(RECEIVE_BYTES_MAX);
            let count = if shared.chance(1, 2) { count } else { shared.below(count) + 1 };
            let index = pick(&shared);
            self.buffers[index] = Some(wire.to_server.drain(..count).collect());
            let more = !shared.strikes(Fault::ReceiveUnarmed);
            self.complete(tag, Ok(count), more, Some(u16::try_from(index).unwrap()), None);
            return more;
        }
        let with_buffer = !free.is_empty() && shared.strikes(Fault::EndWithBuffer);
        let buffer = with_buffer.then(|| {
            let index = pick(&shared);
            self.buffers[index] = Some(Vec::new());
            u16::try_from(index).unwrap()
        });
        self.complete(tag, Ok(0), false, buffer, None);
        false
    }

    fn progress_send(
        &mut self,
        tag: Tag,
        number: usize,
        length: usize,
        put: impl FnOnce(&Arc<Arena>, &mut Queue, usize),
    ) -> bool {
        let result = self.put_now(number, length, put);
        self.complete(tag, result, false, None, None);
        false
    }

    /// No send waits: what the wire does not take now, it does not take.
    fn put_now(
        &self,
        number: usize,
        length: usize,
        put: impl FnOnce(&Arc<Arena>, &mut Queue, usize),
    ) -> Result<usize, Errno> {
        let shared = &self.shared;
        let mut network = shared.network.borrow_mut();
        let wire = &mut network.wires[number];
        if wire.server_finished {
            return Err(Errno::EPIPE);
        } else if wire.reset {
            return Err(if shared.chance(1, 2) { Errno::ECONNRESET } else { Errno::EPIPE });
        } else if shared.strikes(Fault::SendInterrupted) {
            return Err(Errno::EINTR);
        } else if shared.strikes(Fault::SendNoMemory) {
            return Err(Errno::ENOBUFS);
        }
        let room = wire.room().min(length).min(ZEROS.len());
        if room == 0 {
            shared.saw(Fault::SendFull);
            return Err(Errno::EAGAIN);
        }
        let count = if shared.chance(1, 2) { room } else { shared.below(room) + 1 };
        if count < length {
            shared.saw(Fault::SendShort);
        }
        put(&self.arena, &mut wire.to_client, count);
        if wire.to_client.is_lent() {
            shared.saw(Fault::PagesLent);
        }
        wire.sent(count, shared);
        network.sent_bytes += u64::try_from(count).unwrap();
        Ok(count)
    }

    fn progress_writable(&mut self, tag: Tag, number: usize) -> bool {
        let shared = self.shared.clone();
        let network = shared.network.borrow();
        let wire = &network.wires[number];
        let over = wire.reset || wire.server_finished || wire.server_shut;
        let goes_on = !over && wire.room() == 0 && !shared.strikes(Fault::WritableInVain);
        if !goes_on {
            self.complete(tag, Ok(1), false, None, None);
        }
        goes_on
    }

    /// Goes through what is in flight in an order, and as far, as the seed says.
    fn progress(&mut self) {
        // Each once: one that could go on and is never looked at would pass for a standstill.
        let mut pending: Vec<_> = self.in_flight.iter().map(|flight| flight.bits).collect();
        while !pending.is_empty() {
            let bits = pending.swap_remove(self.shared.below(pending.len()));
            let sends = Tag::from_bits(bits).kind == Kind::Send;
            if sends && self.shared.chance(1, 3) {
                // It could have gone on, and does not yet: that is no standstill.
                self.shared.happened();
            } else if let Some(place) = self.in_flight.iter().position(|flight| flight.bits == bits) {
                self.progress_one(place);
            }
        }
    }

    /// The worker waits: what it has pushed is taken, and something may complete. True: the wait returns.
    pub fn sleep(&mut self) -> bool {
        self.outcome = self.submit();
        if self.outcome.is_err() {
            // It comes back by itself: no standstill.
            self.shared.happened();
            return true;
        }
        self.progress();
        !self.completed.is_empty()
    }

    fn overflowed(&self) -> bool {
        self.completed.len() > self.completed_max
    }
}

impl Kernel for FakeKernel {
    type Descriptor = FakeSocket;

    fn now(&self) -> Now {
        self.shared.now.get()
    }

    fn wall(&self) -> Wall {
        self.shared.wall()
    }

    fn adopt(&mut self, _listener: TcpListener) -> FakeSocket {
        self.listener()
    }

    fn has_room(&mut self) -> bool {
        let room = self.queue.len() < self.queue_max;
        if !room {
            self.shared.saw(Fault::QueueFull);
        }
        room
    }

    fn push(&mut self, tag: Tag, operation: Operation<'_, FakeSocket>) {
        assert!(self.queue.len() < self.queue_max, "the ring above looks for room first");
        let task = match operation {
            Operation::Accept { .. } => Task::Accept,
            Operation::Receive { socket } => Task::Receive { wire: socket.wire() },
            Operation::SendBytes { socket, bytes, block, more: _ } => {
                assert!(!bytes.is_empty() && bytes.len() <= HEAD_BYTES, "a place for a head has its size");
                assert!(block.is_none_or(|span| span.bytes > 0), "a send of nothing");
                Task::SendBytes { wire: socket.wire(), bytes: bytes.to_vec(), block }
            }
            Operation::SendBlock { socket, span } => {
                assert!(span.bytes > 0, "a send of nothing");
                Task::SendBlock { wire: socket.wire(), span, lent: false }
            }
            Operation::SendBlockZeroCopy { socket, span } => {
                assert!(span.bytes > 0, "a send of nothing");
                Task::SendBlock { wire: socket.wire(), span, lent: true }
            }
            Operation::Writable { socket } => Task::Writable { wire: socket.wire() },
            Operation::Wakes => Task::Wakes,
            Operation::Cancel { tag } => Task::Cancel { tag },
        };
        self.queue.push((tag, task));
        self.shared.happened();
    }

    fn submit(&mut self) -> Result<(), Errno> {
        if self.overflowed() {
            self.shared.saw(Fault::CompletionsWait);
            self.refusals += 1;
            assert!(self.refusals < 100, "completions wait and are not taken: the worker spins");
            return Err(Errno::EBUSY);
        }
        if self.shared.strikes(Fault::EnterInterrupted) {
            return Err(Errno::EINTR);
        }
        self.take_queue();
        Ok(())
    }

    /// The waiting itself is [`Self::sleep`], so that a worker that nothing wakes is not run.
    fn wait(&mut self, _until: Option<Now>) -> Result<(), Errno> {
        std::mem::replace(&mut self.outcome, Ok(()))
    }

    fn reap(&mut self, entries: &mut Vec<Entry<FakeSocket>>) {
        self.refusals = 0;
        let count = self.completed.len().min(self.completed_max);
        entries.extend(self.completed.drain(..count));
        if !self.completed.is_empty() {
            self.shared.happened();
        }
    }

    fn take_wakes(&mut self) {
        self.waker.0.store(false, Ordering::Relaxed);
    }

    fn send_file(&mut self, socket: &FakeSocket, span: BlockSpan) -> Result<usize, Errno> {
        assert!(span.bytes > 0, "a send of nothing");
        // Told in the next turn, for which nobody waits.
        self.shared.happened();
        self.put_now(socket.wire(), span.bytes, |arena, queue, count| lend(arena, span, queue, count))
    }

    fn send_now(&mut self, socket: &FakeSocket, bytes: &[u8]) -> Result<usize, Errno> {
        assert!(!bytes.is_empty(), "a send of nothing");
        self.shared.happened();
        self.put_now(socket.wire(), bytes.len(), |_, queue, count| {
            queue.extend(&ZEROS[..count]).copy_from_slice(&bytes[..count]);
        })
    }

    fn peer(&self, _socket: &FakeSocket) -> Result<std::net::IpAddr, Errno> {
        Ok(std::net::Ipv4Addr::LOCALHOST.into())
    }

    fn pace(&mut self, socket: &FakeSocket, bytes_per_s: u64) -> Result<(), Errno> {
        let wire = &mut self.shared.network.borrow_mut().wires[socket.wire()];
        wire.paces.push((wire.sent, bytes_per_s));
        if bytes_per_s < u64::MAX {
            self.shared.saw(Fault::Paced);
        }
        Ok(())
    }

    fn prepare(&mut self, _socket: &FakeSocket) -> Result<(), Errno> {
        if self.shared.strikes(Fault::NoDelayRefused) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn shut_down(&mut self, socket: &FakeSocket, direction: Direction) -> Result<(), Errno> {
        let wire = &mut self.shared.network.borrow_mut().wires[socket.wire()];
        wire.server_finished = true;
        wire.server_shut |= direction == Direction::Both;
        self.shared.happened();
        if self.shared.strikes(Fault::ShutDownRefused) { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    fn received(&self, buffer: u16, bytes: usize) -> &[u8] {
        let held = self.buffers[usize::from(buffer)].as_ref().expect("a buffer of the kernel is looked at");
        &held[..bytes]
    }

    fn give(&mut self, buffer: u16) {
        let held = self.buffers[usize::from(buffer)].take();
        assert!(held.is_some(), "a buffer is given to the kernel twice");
    }
}

fn copy_block(arena: &Arena, span: Option<BlockSpan>, into: &mut [u8]) {
    if into.is_empty() {
        return;
    }
    let offset = arena.file_offset(span.expect("more than the head is sent only with a block"));
    let read = nix::sys::uio::pread(arena.memfd(), into, i64::try_from(offset).unwrap());
    assert_eq!(read, Ok(into.len()));
}

fn lend(arena: &Arc<Arena>, span: BlockSpan, queue: &mut Queue, count: usize) {
    queue.extend(&ZEROS[..count]);
    queue.lend(count, arena.lend_pages(span), arena);
}
