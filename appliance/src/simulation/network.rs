//! TCP connections between clients and workers, as far as both can tell them apart from real ones.

use super::faults::Fault;
use super::shared::Shared;

#[derive(Default)]
pub struct Network {
    pub wires: Vec<Wire>,
    /// By worker: connections that wait to be accepted.
    pub backlogs: Vec<Vec<usize>>,
    /// By the server.
    pub accepted: u64,
    pub sent_bytes: u64,
}

/// One TCP connection, both ways.
#[derive(Default)]
pub struct Wire {
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
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
    /// The server's operations in flight.
    pub operations: usize,
}

impl Network {
    pub fn new(workers: usize) -> Self {
        Self { backlogs: vec![Vec::new(); workers], ..Self::default() }
    }
}

impl Wire {
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
