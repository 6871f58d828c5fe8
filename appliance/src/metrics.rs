//! What the server counts: one table of names, counters that a worker writes without contention, figures for people
//! and programs.
//!
//! Each worker and each volume has counters of its own; they are added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::endings::Ending;

/// Buckets of read latency: bucket `i` counts reads of less than 2^(i+1) µs, and the last all slower ones.
pub const LATENCY_BUCKETS: usize = 24;

macro_rules! worker_counters {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)+) => {
        /// The counters of one worker; 128 bytes apart from any other's, so that no two cores share a cache line
        /// (and no pair of lines that the prefetcher takes together).
        #[repr(align(128))]
        #[derive(Debug)]
        pub struct WorkerCounters {
            $(#[doc = $help] pub $field: AtomicU64,)+
            requests: [AtomicU64; Ending::ALL.len()],
            closed: [AtomicU64; Ending::ALL.len()],
        }

        impl Default for WorkerCounters {
            fn default() -> Self {
                Self {
                    $($field: AtomicU64::new(0),)+
                    requests: [const { AtomicU64::new(0) }; Ending::ALL.len()],
                    closed: [const { AtomicU64::new(0) }; Ending::ALL.len()],
                }
            }
        }
    };
}

worker_counters! {
    connections, Gauge, "oca_connections", "Open connections.";
    accepted, Counter, "oca_connections_accepted_total", "Connections accepted.";
    body_bytes, Counter, "oca_body_bytes_total", "Bytes of bodies that were sent.";
    sent_bytes, Counter, "oca_sent_bytes_total", "Bytes sent, heads and bodies.";
    memory_hits, Counter, "oca_memory_hits_total", "Blocks that were in memory when a request wanted them.";
    memory_misses, Counter, "oca_memory_misses_total", "Blocks that had to be read, or were being read.";
}

impl WorkerCounters {
    pub fn request_ended(&self, ending: Ending) {
        if let Some(count) = self.requests.get(ending.index()) {
            add(count, 1);
        }
    }

    pub fn connection_opened(&self) {
        add(&self.accepted, 1);
        add(&self.connections, 1);
    }

    /// Of a connection that was opened.
    pub fn connection_ended(&self, ending: Ending) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(count) = self.closed.get(ending.index()) {
            add(count, 1);
        }
    }

    /// `bytes` left, `body` of them of bodies.
    pub fn sent(&self, bytes: u64, body: u64) {
        add(&self.sent_bytes, bytes);
        add(&self.body_bytes, body);
    }

    pub fn memory_hit(&self) {
        add(&self.memory_hits, 1);
    }

    pub fn memory_miss(&self) {
        add(&self.memory_misses, 1);
    }
}

/// The counters of one volume, written by its disk thread.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct VolumeCounters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    read_errors: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
    latency_us: AtomicU64,
}

impl VolumeCounters {
    pub fn read_done(&self, bytes: u64, latency_us: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
        add(&self.latency_us, latency_us);
        if let Some(bucket) = self.latency.get(latency_bucket(latency_us)) {
            add(bucket, 1);
        }
    }

    /// A read that the kernel failed, or whose bytes did not match their checksum.
    pub fn read_failed(&self) {
        add(&self.read_errors, 1);
    }
}

fn latency_bucket(latency_us: u64) -> usize {
    let octave = latency_us.max(1).ilog2();
    usize::try_from(octave).map_or(LATENCY_BUCKETS - 1, |octave| octave.min(LATENCY_BUCKETS - 1))
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}
