//! What a worker's ring needs of the system, and nothing that decides: the thin layer below [`super::sockets`].
//!
//! Implemented on io_uring ([`super::uring`]) and by the simulation's fake kernel, so that all above it is tested from
//! seeds: which operation is armed again, what an errno means, who has a buffer, what a full queue does.

use std::net::{IpAddr, TcpListener};

use nix::errno::Errno;

use super::{Direction, OperationId};
use crate::clock::{Now, Wall};
use crate::sys::arena::BlockSpan;

/// What is asked of the kernel, with what it is about.
pub enum Operation<'a, D> {
    /// Completes for each connection, until a completion without `more`.
    Accept { listener: &'a D },
    /// Completes for each buffer of received bytes, until a completion without `more`.
    Receive { socket: &'a D },
    /// At most [`super::buffers::HEAD_BYTES`], and of a block what follows them. All is copied; the span is read until the
    /// completion. Like every send it does not wait: EAGAIN if the socket takes nothing now.
    SendBytes { socket: &'a D, bytes: &'a [u8], block: Option<BlockSpan>, more: bool },
    /// Copied; the span is read until the completion.
    SendBlock { socket: &'a D, span: BlockSpan },
    /// SEND_ZC: the span is lent (`Arena::lend`), which begins before the completion and ends nobody knows when.
    SendBlockZeroCopy { socket: &'a D, span: BlockSpan },
    /// Completes once, when the socket takes bytes again, or never will.
    Writable { socket: &'a D },
    /// Completes when somebody wakes this ring, until a completion without `more`.
    Wakes,
    /// Ends the operation of that tag, if there is one; that one's own completion says how it ended.
    Cancel { tag: Tag },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Accept,
    Receive,
    Send,
    Wake,
    Cancel,
    Writable,
}

/// What an operation's completion is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    /// Of an accept: the listener's number; of a wake: nothing.
    pub id: OperationId,
}

impl Tag {
    /// Generation (24 bits) │ kind (8) │ slot (32).
    pub fn to_bits(self) -> u64 {
        let kind: u64 = match self.kind {
            Kind::Accept => 1,
            Kind::Receive => 2,
            Kind::Send => 3,
            Kind::Wake => 4,
            Kind::Cancel => 5,
            Kind::Writable => 6,
        };
        u64::from(self.id.generation) << 40 | kind << 32 | u64::from(self.id.slot)
    }

    pub fn from_bits(bits: u64) -> Self {
        let kind = match (bits >> 32) & 0xff {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Wake,
            5 => Kind::Cancel,
            6 => Kind::Writable,
            other => unreachable!("no operation is of kind {other}"),
        };
        let low = |number: u64| u32::try_from(number & 0xffff_ffff).expect("32 bits");
        Self { kind, id: OperationId { slot: low(bits), generation: low(bits >> 40) } }
    }
}

/// One completion.
#[derive(Debug)]
pub struct Entry<D> {
    pub tag: Tag,
    pub result: Result<usize, Errno>,
    /// The operation goes on: more completions of this tag come.
    pub more: bool,
    /// The receive buffer that it used; whoever got the entry gives it back.
    pub buffer: Option<u16>,
    /// Of an accept that went well.
    pub socket: Option<D>,
}

pub trait Kernel {
    /// An open socket; dropping it closes it. No operation on it may be in flight then.
    type Descriptor;

    fn now(&self) -> Now;
    fn wall(&self) -> Wall;

    fn adopt(&mut self, listener: TcpListener) -> Self::Descriptor;

    /// Whether the submission queue takes one more.
    fn has_room(&mut self) -> bool;

    /// Into the submission queue, which has room.
    fn push(&mut self, tag: Tag, operation: Operation<'_, Self::Descriptor>);

    /// Hands the queue over without waiting.
    fn submit(&mut self) -> Result<(), Errno>;

    /// Hands the queue over and waits for a completion or `until` (ETIME).
    fn wait(&mut self, until: Option<Now>) -> Result<(), Errno>;

    /// Copies out what has completed.
    fn reap(&mut self, entries: &mut Vec<Entry<Self::Descriptor>>);

    /// Takes the wake-ups that came until now.
    fn take_wakes(&mut self);

    /// sendfile(2) from the arena, at once and without waiting. The span is lent (`Arena::lend`). There is no such
    /// operation of io_uring (as of Linux 7.3), and IORING_OP_SPLICE always costs a kernel worker.
    fn send_file(&mut self, socket: &Self::Descriptor, span: BlockSpan) -> Result<usize, Errno>;

    /// send(2), at once and without waiting.
    fn send_now(&mut self, socket: &Self::Descriptor, bytes: &[u8]) -> Result<usize, Errno>;

    /// What every accepted socket is told: `sys::prepare`.
    fn prepare(&mut self, socket: &Self::Descriptor) -> Result<(), Errno>;
    fn peer(&self, socket: &Self::Descriptor) -> Result<IpAddr, Errno>;
    /// SO_MAX_PACING_RATE, in bytes a second.
    fn pace(&mut self, socket: &Self::Descriptor, bytes_per_s: u64) -> Result<(), Errno>;
    fn shut_down(&mut self, socket: &Self::Descriptor, direction: Direction) -> Result<(), Errno>;

    /// Of a buffer that an entry named and that was not given back.
    fn received(&self, buffer: u16, bytes: usize) -> &[u8];

    /// Gives a receive buffer back to the kernel.
    fn give(&mut self, buffer: u16);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_known_again_by_its_bits() {
        let id = OperationId { slot: 4_031, generation: 0xff_ffff };
        for kind in [Kind::Accept, Kind::Receive, Kind::Send, Kind::Wake, Kind::Cancel, Kind::Writable] {
            assert_eq!(Tag::from_bits(Tag { kind, id }.to_bits()), Tag { kind, id });
        }
    }
}
