//! Sizes and times of the core that no operator sets. The simulation runs with smaller ones, so that more happens in
//! fewer bytes; [`Tuning::default`] is what serves.

use crate::sys::arena::BLOCK_BYTES;

#[derive(Clone, Debug)]
pub struct Tuning {
    /// A multiple of `content::checksum::PIECE_BYTES`.
    pub block_bytes: usize,
    /// At most this much of a body in one SEND, so that small answers are not kept waiting behind large ones.
    pub send_quantum_bytes: usize,
    /// How long a request waits for a block before it is answered 503.
    pub read_ms_max: u64,
    /// How soon a request asks again for a block for which there was no room.
    pub busy_retry_ms: u64,
    /// How long the client may take to close after us, before its last requests are reset.
    pub linger_ms_max: u64,
    /// How far a client may run ahead of `limits.head_bytes_max` until receiving has stopped.
    pub receive_slack_bytes: usize,
    /// After this long a volume that failed is tried again.
    pub volume_retry_ms: u64,
    pub planted: Planted,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            block_bytes: BLOCK_BYTES,
            send_quantum_bytes: 256 * 1024,
            read_ms_max: 3_000,
            busy_retry_ms: 50,
            linger_ms_max: 2_000,
            receive_slack_bytes: 256 * 1024,
            volume_retry_ms: 10_000,
            planted: Planted::default(),
        }
    }
}

/// A defect that a test switches on to show that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A lease does not keep its block from being filled with other bytes.
    LeaseNotKept,
    /// A block is published without its checksums having been compared.
    ChecksumSkipped,
    /// A short send counts as a whole one.
    ShortSendMiscounted,
}

/// None outside of tests, whatever is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted(pub Option<Plant>);

impl Planted {
    pub fn has(self, plant: Plant) -> bool {
        cfg!(test) && self.0 == Some(plant)
    }
}
