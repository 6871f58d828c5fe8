//! TCP connections between clients and workers, as far as both can tell them apart from real ones.

use std::sync::Arc;

use super::faults::Fault;
use super::shared::Shared;
use crate::sys::arena::Arena;
use crate::sys::arena::past::Lent;

#[derive(Default)]
pub struct Network {
    pub wires: Vec<Wire>,
    /// By worker: connections that wait to be accepted.
    pub backlogs: Vec<Vec<usize>>,
    /// By the server.
    pub accepted: u64,
    pub sent_bytes: u64,
}

/// Bytes on their way. Some are not copied: they are read from their pages by who takes them out.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    lent: Vec<Borrowed>,
}

struct Borrowed {
    /// In the queue.
    start: usize,
    bytes: usize,
    /// Of the pages' bytes, so many have been taken out.
    taken: usize,
    pages: Lent,
    arena: Arc<Arena>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Room for so many more, to be written.
    pub fn extend(&mut self, zeros: &[u8]) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(zeros);
        &mut self.bytes[start..]
    }

    /// The room that was made last is of these pages.
    pub fn lend(&mut self, bytes: usize, pages: Lent, arena: &Arc<Arena>) {
        let start = self.bytes.len() - bytes;
        self.lent.push(Borrowed { start, bytes, taken: 0, pages, arena: arena.clone() });
    }

    pub fn is_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.lent.retain(|part| part.start < length);
        for part in &mut self.lent {
            part.bytes = part.bytes.min(length - part.start);
        }
    }

    pub fn take(&mut self, count: usize, into: &mut Vec<u8>, shared: &Shared) {
        for part in &mut self.lent {
            let end = (part.start + part.bytes).min(count);
            if part.start < end {
                if part.arena.is_past(part.pages) {
                    shared.saw(Fault::DetachedInFlight);
                }
                let bytes = &mut self.bytes[part.start..end];
                part.arena.read_lent(part.pages, part.taken, bytes);
                part.taken += bytes.len();
                part.bytes -= bytes.len();
                part.start = end;
            }
            part.start -= count.min(part.start);
        }
        self.lent.retain(|part| part.bytes > 0);
        into.extend(self.bytes.drain(..count));
    }
}

/// One TCP connection, both ways.
#[derive(Default)]
pub struct Wire {
    pub to_server: Vec<u8>,
    pub to_client: Queue,
    /// How much `to_client` holds before a SEND has to wait.
    pub capacity: usize,
    /// The network resets the connection when so many bytes more have gone to the client.
    pub reset_after: Option<usize>,
    pub client_finished: bool,
    /// By whomever: both ends are told.
    pub reset: bool,
    pub server_finished: bool,
    pub server_shut: bool,
    pub server_closed: bool,
    /// Bytes that the server has sent.
    pub sent: usize,
    /// What the server set, in bytes a second, and how many bytes it had sent before.
    pub paces: Vec<(usize, u64)>,
    /// The server's operations in flight.
    pub operations: usize,
}

impl Network {
    pub fn new(workers: usize) -> Self {
        Self { backlogs: vec![Vec::new(); workers], ..Self::default() }
    }
}

impl Wire {
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.to_client.len())
    }

    /// What held when so many bytes had been sent.
    pub fn pace_at(&self, sent: usize) -> u64 {
        let before = self.paces.iter().rev().find(|(at, _)| *at <= sent);
        before.map_or(u64::MAX, |(_, rate)| *rate)
    }

    /// Bytes that had arrived and were not read may be lost.
    pub fn reset(&mut self, shared: &Shared) {
        self.reset = true;
        let kept = shared.below(self.to_client.len() + 1);
        if kept < self.to_client.len() {
            shared.saw(Fault::ResetAte);
            self.to_client.truncate(kept);
        }
        let kept = shared.below(self.to_server.len() + 1);
        self.to_server.truncate(kept);
        shared.happened();
    }

    /// So many bytes have gone to the client.
    pub fn sent(&mut self, count: usize, shared: &Shared) {
        self.sent += count;
        let Some(left) = self.reset_after else { return };
        self.reset_after = left.checked_sub(count).filter(|left| *left > 0);
        if self.reset_after.is_none() {
            // Behind this very byte.
            let beyond = count.saturating_sub(left);
            self.to_client.truncate(self.to_client.len() - beyond);
            shared.saw(Fault::NetworkReset);
            self.reset(shared);
        }
    }

    /// close(2) by the server. RFC 2525 2.17: with unread bytes it resets.
    pub fn close_server(&mut self, shared: &Shared) {
        if self.operations > 0 {
            shared.violate("a socket is closed while something of it is in flight");
        }
        if self.server_closed {
            shared.violate("a socket is closed twice");
        }
        (self.server_closed, self.server_finished) = (true, true);
        if !self.to_server.is_empty() && !self.reset {
            shared.saw(Fault::UnreadReset);
            self.reset(shared);
        }
        shared.happened();
    }
}
