//! Sizes and times of the core that no operator sets. The simulation runs with smaller ones, so that more happens in
//! fewer bytes; [`Tuning::default`] is what serves.

use crate::sys::arena::BLOCK_BYTES;

#[derive(Clone, Debug)]
pub struct Tuning {
    /// A multiple of `content::checksum::PIECE_BYTES`.
    pub block_bytes: usize,
    /// At most this much of a body in one send, so that small answers are not kept waiting behind large ones.
    pub send_quantum_bytes: usize,
    /// At most this much of a body goes in one message with the answer's head, copied: for so little a system call of its
    /// own costs more than the copy.
    pub first_piece_bytes: usize,
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
            first_piece_bytes: 64 * 1024,
            read_ms_max: 3_000,
            busy_retry_ms: 50,
            linger_ms_max: 2_000,
            receive_slack_bytes: 256 * 1024,
            volume_retry_ms: 10_000,
            planted: Planted::default(),
        }
    }
}

/// A defect that a test switches on to show that the simulation finds it: each a mistake that is easily made where it is
/// planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A lease does not keep its block from being filled with other bytes.
    LeaseNotKept,
    /// A lease ends when its SEND is submitted, not when it has completed.
    LeaseEndsAtSubmit,
    /// A block is filled again where it lies though the network may still read it.
    DetachSkipped,
    /// A block is published without its checksums having been compared.
    ChecksumSkipped,
    /// A short send counts as a whole one.
    ShortSendMiscounted,
    /// A body goes on in the old block behind the block's end.
    BlockEdgeMissed,
    /// The head leaves before its first block is there.
    HeadBeforeBlock,
    /// A request does not hold its generation until its last byte.
    GenerationDropped,
    /// A withdrawn file is served on, from memory.
    WithdrawnServed,
    /// A slot is free again while its receive is still in flight.
    SlotFreedEarly,
    /// The next connection of a slot inherits the alarm of the one before.
    AlarmKept,
    /// A read-ahead that was ordered is not handed to the disk if its request got a block from memory.
    OrderLost,
    /// Only the first of those who wait for a block that failed is told.
    WaitersForgotten,
    /// A receive that ended for want of buffers is not armed again.
    ReceiveNotArmedAgain,
    /// A buffer is given back where its receive ends, and again by who read it.
    BufferGivenTwice,
    /// The poll of the eventfd is taken to be armed for ever.
    WakerNotArmedAgain,
    /// The next answer leaves as fast as the one before was to.
    PaceKept,
    /// What a socket did not take of what was sealed is not sent later.
    SealedRestForgotten,
    /// A full submission queue is flushed again and again while completions wait to be taken.
    CompletionsNotTaken,
}

/// At most one of them. Outside of tests there is no field to set, and the assertions below say what is left of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(test)]
    plant: Option<Plant>,
}

#[cfg(test)]
impl Planted {
    pub fn of(plant: Plant) -> Self {
        Self { plant: Some(plant) }
    }

    pub fn has(self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }
}

#[cfg(not(test))]
impl Planted {
    pub const fn has(self, _plant: Plant) -> bool {
        false
    }
}

#[cfg(not(test))]
const _: () = {
    assert!(size_of::<Planted>() == 0, "what serves carries no plant");
    assert!(!Planted {}.has(Plant::LeaseNotKept), "and asks for none");
};
