//! A worker's ring on any [`Kernel`]: what is armed again and when, what an errno means and whose fault it is, who has
//! which buffer, what a full queue does. No system call and no `unsafe` is here, so that the simulation runs all of it.
//!
//! No send waits in the kernel: one that finds the socket full ends so, and its connection lets its block go meanwhile, so
//! that no slow reader keeps memory. What sendfile sent is told in the next turn, as if it were an operation: each
//! connection sends a piece a turn.
//!
//! A submission queue that is full is flushed; if the kernel will not take it because completions wait, they are copied
//! out first and dispatched in the next turn, which then does not wait.

use std::io;
use std::net::{IpAddr, TcpListener};

use nix::errno::Errno;

use super::buffers::HEAD_BYTES;
use super::kernel::{Entry, Kernel, Kind, Operation, Tag};
use super::{
    Completion, Direction, Listener, OperationId, ReceiveBuffer, ReceiveEnd, Ring, SendFault, Socket, Way,
};
use crate::clock::{Now, Wall};
use crate::sys::arena::BlockSpan;
use crate::tuning::{Plant, Planted};

pub struct SocketRing<K: Kernel> {
    kernel: K,
    way: Way,
    waker_armed: bool,
    listeners: Vec<K::Descriptor>,
    sockets: Vec<Option<K::Descriptor>>,
    free_sockets: Vec<u32>,
    /// Copied out and not yet dispatched.
    entries: Vec<Entry<K::Descriptor>>,
    planted: Planted,
}

impl<K: Kernel> SocketRing<K> {
    pub fn new(kernel: K, way: Way, planted: Planted) -> Self {
        Self {
            kernel,
            way,
            waker_armed: false,
            listeners: Vec::new(),
            sockets: Vec::new(),
            free_sockets: Vec::new(),
            entries: Vec::new(),
            planted,
        }
    }

    #[cfg(test)]
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// The way in that the fake network has.
    #[cfg(test)]
    pub fn listen_on(&mut self, listener: K::Descriptor) -> Listener {
        self.listeners.push(listener);
        Listener(u32::try_from(self.listeners.len() - 1).expect("fewer than 2³² listeners"))
    }

    /// Whether it hears when it is woken; not before its first turn.
    #[cfg(test)]
    pub fn is_armed(&self) -> bool {
        self.waker_armed
    }

    /// Sockets that are open.
    #[cfg(test)]
    pub fn open_sockets(&self) -> usize {
        self.sockets.iter().flatten().count()
    }

    /// Completions that the next turn will not wait for.
    #[cfg(test)]
    pub fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    fn make_room(&mut self) {
        while !self.kernel.has_room() {
            match self.kernel.submit() {
                // io_uring_enter(2): EBUSY and EAGAIN may last until completions have been taken.
                Ok(()) | Err(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {}
                Err(cause) => panic!("io_uring_enter failed: {cause}"),
            }
            if !self.planted.has(Plant::CompletionsNotTaken) {
                self.kernel.reap(&mut self.entries);
            }
        }
    }

    fn arm_waker(&mut self) {
        if !self.waker_armed {
            self.make_room();
            let id = OperationId { slot: 0, generation: 0 };
            self.kernel.push(Tag { kind: Kind::Wake, id }, Operation::Wakes);
            self.waker_armed = true;
        }
    }

    fn completed(&mut self, entry: Entry<K::Descriptor>, completions: &mut Vec<Completion>) {
        let Entry { tag: Tag { kind, id }, result, more, .. } = entry;
        match kind {
            Kind::Accept => self.accepted(Listener(id.slot), entry, completions),
            Kind::Receive => self.received_some(entry, completions),
            Kind::Send if result == Err(Errno::EAGAIN) => completions.push(Completion::Full { id }),
            Kind::Send => completions.push(Completion::Sent { id, outcome: send_outcome(result) }),
            // However it ended: the next send tells.
            Kind::Writable => completions.push(Completion::Writable { id }),
            Kind::Wake => {
                self.waker_armed &= more || self.planted.has(Plant::WakerNotArmedAgain);
                self.kernel.take_wakes();
                completions.push(Completion::Woken);
            }
            // The receive's own completion tells how it ended.
            Kind::Cancel => {}
        }
    }

    fn accepted(
        &mut self,
        listener: Listener,
        entry: Entry<K::Descriptor>,
        completions: &mut Vec<Completion>,
    ) {
        if let Some(socket) = entry.socket {
            // Fails only for a socket that is gone already; the first receive will say so.
            if let Err(cause) = self.kernel.prepare(&socket) {
                tracing::debug!(%cause, "options of a socket");
            }
            completions.push(Completion::Accepted { listener, socket: self.keep(socket) });
        }
        if !entry.more {
            // accept(2): these are of the one connection or of the moment. What else there is (no descriptors, no memory, a
            // listener that is broken) would come again at once.
            let passing = matches!(
                entry.result,
                Ok(_) | Err(Errno::ECONNABORTED | Errno::EINTR | Errno::EAGAIN | Errno::ECANCELED)
            );
            completions.push(Completion::AcceptEnded { listener, exhausted: !passing });
        }
    }

    fn keep(&mut self, socket: K::Descriptor) -> Socket {
        let number = self.free_sockets.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            u32::try_from(self.sockets.len() - 1).expect("fewer than 2³² sockets")
        });
        self.sockets[index(number)] = Some(socket);
        Socket(number)
    }

    fn received_some(&mut self, entry: Entry<K::Descriptor>, completions: &mut Vec<Completion>) {
        let id = entry.tag.id;
        let end = match (entry.result, entry.buffer) {
            (Ok(bytes @ 1..), Some(index)) => {
                completions.push(Completion::Received { id, buffer: ReceiveBuffer { index, bytes } });
                if !entry.more && self.planted.has(Plant::BufferGivenTwice) {
                    self.kernel.give(index);
                }
                ReceiveEnd::Paused
            }
            (_, Some(index)) => {
                self.kernel.give(index);
                ReceiveEnd::PeerFinished
            }
            (Ok(_), None) => ReceiveEnd::PeerFinished,
            (Err(Errno::ENOBUFS), None) if self.planted.has(Plant::ReceiveNotArmedAgain) => return,
            (Err(Errno::ENOBUFS | Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), None) => {
                ReceiveEnd::Paused
            }
            (Err(_), None) => ReceiveEnd::PeerLost,
        };
        if !entry.more {
            completions.push(Completion::ReceiveEnded { id, end });
        }
    }
}

impl<K: Kernel> Ring for SocketRing<K> {
    fn now(&self) -> Now {
        self.kernel.now()
    }

    fn wall(&self) -> Wall {
        self.kernel.wall()
    }

    fn listen(&mut self, listener: TcpListener) -> Listener {
        let listener = self.kernel.adopt(listener);
        self.listeners.push(listener);
        Listener(u32::try_from(self.listeners.len() - 1).expect("fewer than 2³² listeners"))
    }

    fn accept(&mut self, listener: Listener) {
        self.make_room();
        let id = OperationId { slot: listener.0, generation: 0 };
        let operation = Operation::Accept { listener: &self.listeners[index(listener.0)] };
        self.kernel.push(Tag { kind: Kind::Accept, id }, operation);
    }

    fn receive(&mut self, id: OperationId, socket: Socket) {
        self.make_room();
        let operation = Operation::Receive { socket: open(&self.sockets, socket) };
        self.kernel.push(Tag { kind: Kind::Receive, id }, operation);
    }

    fn pause_receive(&mut self, id: OperationId) {
        self.make_room();
        let tag = Tag { kind: Kind::Receive, id };
        self.kernel.push(Tag { kind: Kind::Cancel, id }, Operation::Cancel { tag });
    }

    fn send_bytes(
        &mut self,
        id: OperationId,
        socket: Socket,
        bytes: &[u8],
        block: Option<BlockSpan>,
        more: bool,
    ) {
        self.make_room();
        let part = &bytes[..bytes.len().min(HEAD_BYTES)];
        let block = block.filter(|_| part.len() == bytes.len());
        let more = more || part.len() < bytes.len();
        let operation =
            Operation::SendBytes { socket: open(&self.sockets, socket), bytes: part, block, more };
        self.kernel.push(Tag { kind: Kind::Send, id }, operation);
    }

    fn send_block(&mut self, id: OperationId, socket: Socket, span: BlockSpan) {
        let tag = Tag { kind: Kind::Send, id };
        match self.way {
            Way::Sendfile => {
                let result = self.kernel.send_file(open(&self.sockets, socket), span);
                self.entries.push(Entry { tag, result, more: false, buffer: None, socket: None });
            }
            Way::SendZeroCopy => {
                self.make_room();
                let socket = open(&self.sockets, socket);
                self.kernel.push(tag, Operation::SendBlockZeroCopy { socket, span });
            }
            Way::Send => {
                self.make_room();
                self.kernel.push(tag, Operation::SendBlock { socket: open(&self.sockets, socket), span });
            }
        }
    }

    fn send_now(&mut self, socket: Socket, bytes: &[u8]) -> Result<usize, SendFault> {
        match self.kernel.send_now(open(&self.sockets, socket), bytes) {
            Err(Errno::EAGAIN) => Ok(0),
            result => send_outcome(result),
        }
    }

    fn await_writable(&mut self, id: OperationId, socket: Socket) {
        self.make_room();
        let operation = Operation::Writable { socket: open(&self.sockets, socket) };
        self.kernel.push(Tag { kind: Kind::Writable, id }, operation);
    }

    fn peer(&self, socket: Socket) -> Option<IpAddr> {
        self.kernel.peer(open(&self.sockets, socket)).ok()
    }

    fn pace(&mut self, socket: Socket, bytes_per_s: Option<u64>) {
        // Only a socket that is gone already refuses: the next send says so.
        let pace = bytes_per_s.unwrap_or(u64::MAX);
        if let Err(cause) = self.kernel.pace(open(&self.sockets, socket), pace) {
            tracing::debug!(%cause, "SO_MAX_PACING_RATE");
        }
    }

    fn shut_down(&mut self, socket: Socket, direction: Direction) {
        // ENOTCONN: the peer was faster.
        if let Err(cause) = self.kernel.shut_down(open(&self.sockets, socket), direction) {
            tracing::trace!(%cause, "shutdown");
        }
    }

    fn close(&mut self, socket: Socket) {
        let closed = self.sockets[index(socket.0)].take();
        assert!(closed.is_some(), "a socket is closed once");
        self.free_sockets.push(socket.0);
    }

    fn received(&self, buffer: &ReceiveBuffer) -> &[u8] {
        self.kernel.received(buffer.index, buffer.bytes)
    }

    fn recycle(&mut self, buffer: ReceiveBuffer) {
        self.kernel.give(buffer.index);
    }

    fn turn(&mut self, until: Option<Now>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.arm_waker();
        let until = if self.entries.is_empty() { until } else { Some(Now(0)) };
        match self.kernel.wait(until) {
            Ok(()) | Err(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {}
            Err(cause) => return Err(cause.into()),
        }
        let mut entries = std::mem::take(&mut self.entries);
        self.kernel.reap(&mut entries);
        for entry in entries.drain(..) {
            self.completed(entry, completions);
        }
        self.entries = entries;
        Ok(())
    }
}

fn open<D>(sockets: &[Option<D>], socket: Socket) -> &D {
    sockets[index(socket.0)].as_ref().expect("operations are for sockets that are open")
}

/// A send that was only interrupted has sent nothing, and is asked for again.
fn send_outcome(result: Result<usize, Errno>) -> Result<usize, SendFault> {
    match result {
        Ok(count) => Ok(count),
        Err(Errno::EINTR) => Ok(0),
        Err(
            Errno::EPIPE | Errno::ECONNRESET | Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH,
        ) => Err(SendFault::PeerLost),
        Err(_) => Err(SendFault::Host),
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a number of 32 bits fits a usize")
}
