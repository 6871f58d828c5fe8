//! Memory that a worker's ring lends to the kernel: buffers to receive into, and a place per connection to send a
//! head from.
//!
//! **Contract.** Both are mappings of their own that live as long as the ring, and are leaked if operations are in flight
//! when it goes. A receive buffer belongs to the kernel from [`ReceiveBuffers::give`] until its completion names it, and to
//! [`crate::ring::ReceiveBuffer`]'s holder until it is given again; no Rust reference exists while it is the kernel's. A
//! head's place is written only while no send from it is in flight.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::{MmapOptions, MmapRaw};

/// One request's head in most cases; more buffers a request in few.
pub const RECEIVE_BYTES: usize = 2048;
/// A power of two.
pub const RECEIVE_COUNT: u16 = 512;
/// An answer's head in all cases; a longer one goes in parts.
pub const HEAD_BYTES: usize = 4096;

/// Anonymous memory, not part of any Rust object.
fn map(length: usize) -> io::Result<MmapRaw> {
    Ok(MmapRaw::from(MmapOptions::new().len(length).map_anon()?))
}

/// A ring of provided buffers (Linux 5.19), and the buffers.
pub struct ReceiveBuffers {
    entries: MmapRaw,
    bytes: MmapRaw,
    tail: u16,
    /// By buffer: whether Rust holds it.
    ours: Vec<bool>,
}

impl ReceiveBuffers {
    pub fn new() -> io::Result<Self> {
        let count = usize::from(RECEIVE_COUNT);
        let entries = map(count * size_of::<BufRingEntry>())?;
        let bytes = map(count * RECEIVE_BYTES)?;
        let mut buffers = Self { entries, bytes, tail: 0, ours: vec![true; count] };
        (0..RECEIVE_COUNT).for_each(|index| buffers.give(index));
        Ok(buffers)
    }

    /// For registering it with a ring.
    pub fn ring_address(&self) -> *const u8 {
        self.entries.as_ptr()
    }

    /// To the kernel.
    pub fn give(&mut self, index: u16) {
        let held = std::mem::replace(&mut self.ours[usize::from(index)], false);
        assert!(held, "a buffer is given to the kernel once");
        let address = self.bytes.as_ptr().wrapping_add(usize::from(index) * RECEIVE_BYTES);
        let place = usize::from(self.tail % RECEIVE_COUNT);
        let entry = self.entries.as_mut_ptr().cast::<BufRingEntry>().wrapping_add(place);
        // SAFETY: `&mut *entry` asks for an aligned, valid entry that nobody else uses: `place` is inside the mapping of
        // `RECEIVE_COUNT` page-aligned entries, zeros are a valid entry, and the kernel reads none before the tail says so.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        let entry = unsafe { &mut *entry };
        entry.set_addr(u64::try_from(address.addr()).expect("an address fits 64 bits"));
        entry.set_len(u32::try_from(RECEIVE_BYTES).expect("2048 fits 32 bits"));
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.publish();
    }

    fn publish(&self) {
        let first = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `BufRingEntry::tail` asks for the address of the first entry of an initialised ring: `first` is it.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: `AtomicU16::from_ptr` asks for an aligned, valid u16 that is accessed atomically only: `tail` lies in
        // the mapping, which is writable, and the kernel reads it atomically.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// A completion named this buffer: it is ours until it is given again.
    pub fn take(&mut self, index: u16) {
        let held = std::mem::replace(&mut self.ours[usize::from(index)], true);
        assert!(!held, "the kernel names a buffer that it was given");
    }

    pub fn bytes(&self, index: u16, count: usize) -> &[u8] {
        assert!(self.ours[usize::from(index)] && count <= RECEIVE_BYTES, "only received bytes are looked at");
        let start = self.bytes.as_ptr().wrapping_add(usize::from(index) * RECEIVE_BYTES);
        // SAFETY: `from_raw_parts` asks for readable bytes that nobody writes meanwhile: the mapping has `RECEIVE_COUNT`
        // buffers of `RECEIVE_BYTES`, and this one is `ours`, not the kernel's, as long as `&self` is borrowed.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        unsafe {
            std::slice::from_raw_parts(start, count)
        }
    }
}

/// Places to send from, as many as slots of the worker's table. The one that came free last is taken first, so that no more of
/// them are ever touched than sends were in flight at a time.
pub struct HeadPlaces {
    bytes: MmapRaw,
    messages: MmapRaw,
    /// By slot: its place while a send of it is in flight.
    places: Vec<Option<u32>>,
    free: Vec<u32>,
}

/// What sendmsg(2) takes: a head, and what of a block follows it.
#[repr(C)]
struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; 2],
}

impl HeadPlaces {
    pub fn new(count: usize) -> io::Result<Self> {
        let messages = map(count * size_of::<Message>())?;
        let last = u32::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
        let free = (0..last).rev().collect();
        Ok(Self { bytes: map(count * HEAD_BYTES)?, messages, places: vec![None; count], free })
    }

    /// Copies what fits. Gives where it lies and how much it is, for one send.
    pub fn fill(&mut self, slot: usize, head: &[u8]) -> (*const u8, usize) {
        assert!(self.places[slot].is_none(), "one send per slot");
        let place = self.free.pop().expect("as many places as slots");
        self.places[slot] = Some(place);
        let count = head.len().min(HEAD_BYTES);
        let start = self.bytes.as_mut_ptr().wrapping_add(index(place) * HEAD_BYTES);
        // SAFETY: `copy_nonoverlapping` asks for `count` readable bytes, as many writable ones, and no overlap: `head` is
        // a slice of at least `count`; `start` begins a place of `HEAD_BYTES` in our own mapping, which was free.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        unsafe {
            std::ptr::copy_nonoverlapping(head.as_ptr(), start, count);
        }
        (start.cast_const(), count)
    }

    /// For a send of two parts, of which the first is what [`Self::fill`] has just given for this slot.
    pub fn message(
        &mut self,
        slot: usize,
        head: (*const u8, usize),
        block: (*const u8, usize),
    ) -> *const libc::msghdr {
        let place = self.places[slot].expect("a message is for a head that was filled in");
        let part = |(start, count): (*const u8, usize)| libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: count,
        };
        let message = self.messages.as_mut_ptr().cast::<Message>().wrapping_add(index(place));
        // SAFETY: `&mut *message` asks for an aligned, valid `Message` that nobody else uses: the mapping is page-aligned and
        // has one for each place, zeros are a valid one, and the place is this slot's until its send has ended.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        let message = unsafe { &mut *message };
        message.parts = [part(head), part(block)];
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = 2;
        &raw const message.header
    }

    /// The send has ended, wherever it was from.
    pub fn sent(&mut self, slot: usize) {
        self.free.extend(self.places[slot].take());
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).expect("a number of 32 bits fits a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "one send per slot")]
    fn a_head_in_flight_is_not_written() {
        let mut places = HeadPlaces::new(2).unwrap();
        places.fill(1, b"first");
        places.fill(1, b"second");
    }

    #[test]
    fn slots_that_send_one_after_the_other_share_a_place() {
        let mut places = HeadPlaces::new(3).unwrap();
        let (first, _) = places.fill(2, b"first");
        let (second, _) = places.fill(0, b"second");
        assert_ne!(first, second);
        places.sent(2);
        let (third, _) = places.fill(1, b"third");
        assert_eq!(first, third);
        [0, 1, 2].into_iter().for_each(|slot| places.sent(slot));
        assert_eq!(places.free.len(), 3);
    }

    #[test]
    #[should_panic(expected = "only received bytes are looked at")]
    fn a_buffer_of_the_kernel_is_not_looked_at() {
        ReceiveBuffers::new().unwrap().bytes(3, 1);
    }
}
