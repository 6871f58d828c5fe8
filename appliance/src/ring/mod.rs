//! A worker's ring: what the server asks of the kernel for sockets, and what comes back (DESIGN §4).
//!
//! Everything that touches a socket goes through it, closing and shutting down too. No file is read here: see `disk`.
//!
//! ```text
//! Worker ─► Ring = SocketRing<K> (sockets: all that decides) ─► Kernel (kernel: submit, wait, reap)
//!                                                                 ├─ UringKernel (uring, with buffers: all unsafe)
//!                                                                 └─ the fake kernel that a seed drives (simulation)
//! ```
//!
//! An operation is named by [`OperationId`]: a slot of the worker's table and the slot's generation, so that a completion
//! that comes after its connection is known for what it is.

pub mod buffers;
pub mod kernel;
pub mod measure;
pub mod sockets;
pub mod uring;

use std::io;
use std::net::{IpAddr, TcpListener};

use crate::clock::{Now, Wall};
use crate::sys::arena::BlockSpan;

/// A connection's place in the worker's table, and which connection in that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    pub slot: u32,
    /// 24 bits.
    pub generation: u32,
}

/// An accepted socket; the ring owns the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket(pub u32);

/// One of the worker's listening sockets, in the order of [`Ring::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener(pub u32);

/// Received bytes, until they are given back by [`Ring::recycle`].
#[derive(Debug, PartialEq, Eq)]
pub struct ReceiveBuffer {
    pub index: u16,
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    PeerFinished,
    /// Reset, or the network failed.
    PeerLost,
    /// As asked, or for want of buffers: may be armed again.
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFault {
    PeerLost,
    Host,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    Accepted {
        listener: Listener,
        socket: Socket,
    },
    /// No more connections come until [`Ring::accept`] is called again. `exhausted`: no descriptor is left; wait a little.
    AcceptEnded {
        listener: Listener,
        exhausted: bool,
    },
    Received {
        id: OperationId,
        buffer: ReceiveBuffer,
    },
    /// Nothing more comes of this [`Ring::receive`].
    ReceiveEnded {
        id: OperationId,
        end: ReceiveEnd,
    },
    /// Perhaps fewer bytes than asked; 0: it was interrupted, ask again.
    Sent {
        id: OperationId,
        outcome: Result<usize, SendFault>,
    },
    /// The socket took nothing: its queue is full. [`Ring::await_writable`] tells when that has changed.
    Full {
        id: OperationId,
    },
    /// The socket takes bytes again, or the next send says why it never will.
    Writable {
        id: OperationId,
    },
    /// Somebody woke this ring.
    Woken,
}

/// How a block's bytes leave (DESIGN §4). Which is best is measured at the start, never believed: see `ways`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// sendfile(2): no copy, on any link. What it has sent must be detached before it is reused.
    Sendfile,
    /// SEND_ZC: no copy on a real network card; loopback and veth always copy. Must be detached too.
    SendZeroCopy,
    /// SEND: one copy. Correct everywhere, nothing to detach.
    Send,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Sendfile, Self::SendZeroCopy, Self::Send];

    /// As an operator writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sendfile => "sendfile",
            Self::SendZeroCopy => "send-zc",
            Self::Send => "send",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer sees the end of our bytes once it has read them.
    Write,
    /// Nothing goes either way; what is in flight ends.
    Both,
}

pub trait Ring {
    fn now(&self) -> Now;
    fn wall(&self) -> Wall;

    /// Takes a listening socket; [`Self::accept`] starts it.
    fn listen(&mut self, listener: TcpListener) -> Listener;

    /// Connections come as [`Completion::Accepted`] until [`Completion::AcceptEnded`].
    fn accept(&mut self, listener: Listener);

    /// Bytes come as [`Completion::Received`] until [`Completion::ReceiveEnded`]. Not twice at a time.
    fn receive(&mut self, id: OperationId, socket: Socket);

    /// Asks a receive to end: `ReceiveEnded` says when it has. More may arrive before.
    fn pause_receive(&mut self, id: OperationId);

    /// Sends a copy of `bytes` and of what follows them in a block, or of the first part of it all. The block must stay
    /// leased until `Sent` or `Full`. One send per slot at a time. `more`: do not push yet.
    fn send_bytes(
        &mut self,
        id: OperationId,
        socket: Socket,
        bytes: &[u8],
        block: Option<BlockSpan>,
        more: bool,
    );

    /// Sends from a block by the ring's [`Way`]. The block must stay leased until `Sent` or `Full`. One send per slot at a
    /// time.
    fn send_block(&mut self, id: OperationId, socket: Socket, span: BlockSpan);

    /// Sends a copy of `bytes` at once, or of their first part; 0: the socket is full. No other send of the socket is in
    /// flight. For what was sealed by TLS: it lies in memory that is used again at once, so that it stays in the cache.
    fn send_now(&mut self, socket: Socket, bytes: &[u8]) -> Result<usize, SendFault>;

    /// Ends with `Writable`. Not twice at a time.
    fn await_writable(&mut self, id: OperationId, socket: Socket);

    /// Who is at the other end; None: it is gone already.
    fn peer(&self, socket: Socket) -> Option<IpAddr>;

    /// No faster than so many bytes a second, from the next send on; None: as fast as it goes.
    fn pace(&mut self, socket: Socket, bytes_per_s: Option<u64>);

    fn shut_down(&mut self, socket: Socket, direction: Direction);

    /// Every operation on it must have ended.
    fn close(&mut self, socket: Socket);

    fn received(&self, buffer: &ReceiveBuffer) -> &[u8];
    fn recycle(&mut self, buffer: ReceiveBuffer);

    /// Submits, waits for a completion or `until`, and copies out what has completed.
    fn turn(&mut self, until: Option<Now>, completions: &mut Vec<Completion>) -> io::Result<()>;
}
