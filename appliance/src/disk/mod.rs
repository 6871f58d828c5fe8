//! One volume's disk: reads whole blocks, checks them, and says what is wrong with the disk (DESIGN §4).
//!
//! A thread and a ring per volume ([`uring`]), so that a dying disk holds up nobody else; what it does with an order is
//! [`reader`], which runs on a fake disk in the simulation. Orders come by a queue that holds as many as there are
//! blocks, so it is never full; answers go out by `memory`.

mod files;
pub mod reader;
pub mod uring;
pub mod verdict;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use nix::errno::Errno;

use crate::clock::Now;
use crate::memory::ReadOrder;
use crate::sys::Wake;
use crate::sys::arena::Block;

/// Reads of one volume in flight: a hard disk sorts this many, a solid-state one is kept busy by it.
pub const READS_MAX: usize = 8;

/// How a worker reaches a volume's disk thread.
#[derive(Clone)]
pub struct DiskHandle {
    orders: Arc<ArrayQueue<(ReadOrder, Now)>>,
    stop: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

impl DiskHandle {
    /// `orders_max`: see `Memory::orders_max`.
    pub fn new(orders_max: usize, waker: Arc<dyn Wake>) -> Self {
        Self { orders: Arc::new(ArrayQueue::new(orders_max)), stop: Arc::default(), waker }
    }

    /// `now`: the time that the order waits in the queue counts as the disk's.
    pub fn submit(&self, order: ReadOrder, now: Now) {
        let queued = self.orders.push((order, now));
        assert!(queued.is_ok(), "more read orders than there are blocks");
        self.waker.wake();
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn next(&self) -> Option<(ReadOrder, Now)> {
        self.orders.pop()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A file that was opened, with what stands behind its data.
pub struct Opened<F> {
    pub file: F,
    /// The bytes from `volume::footer_offset` on, as many as `volume::footer_bytes` or fewer.
    pub footer: Vec<u8>,
}

/// Where to read, and into what part of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPlace {
    pub file_offset: u64,
    pub block_offset: usize,
    pub bytes: usize,
}

/// A read that has ended, well or not.
pub struct ReadDone {
    pub slot: usize,
    pub block: Block,
    pub result: Result<usize, Errno>,
}

/// What the reader asks of the system. Implemented on io_uring, and by the simulation's fake disk.
pub trait DiskIo {
    type File;

    fn now(&self) -> Now;

    /// Whether the volume's marker can be read. Blocks.
    fn marker_present(&mut self) -> bool;

    /// Opens `files/<number>` and reads its footer. Blocks.
    fn open(&mut self, number: u64, data_bytes: u64) -> Result<Opened<Self::File>, Errno>;

    /// Starts a read; the block comes back with the [`ReadDone`] of this slot. One read per slot at a time.
    fn read(&mut self, slot: usize, file: &Rc<Self::File>, place: ReadPlace, block: Block);

    /// Submits, waits for a read's end, a wake-up or `until`, and copies out what has ended.
    fn turn(&mut self, until: Option<Now>, done: &mut Vec<ReadDone>);
}
