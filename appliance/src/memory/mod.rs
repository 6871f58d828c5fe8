//! Which blocks of files are in memory, who uses them, and who waits for them (DESIGN §4).
//!
//! **One memory for all workers, under one lock.** The lock is taken twice per block of up to 2 MiB that is sent (lease
//! and release) and never across a system call; at 100 Gb/s in pieces of 256 KiB that is 100,000 short sections a second,
//! a few per cent of one core. A memory per worker would hold a popular block once per core, and shards by key would
//! each evict with a part of the picture. What is not: it reads no disk and sends nothing.
//!
//! ```text
//!            acquire: a free or evicted frame, one ReadOrder            complete(ok)
//!   Empty ───────────────────────────────────────────────► Filling ───────────────────► Ready ──┐ acquire: a Lease
//!     ▲                                                     │  ▲ │ overdue: a waiter     ▲  │   │ more; drop: one less
//!     │                       complete(failed)              │  └─┘ gave up; new ones     └──┼───┘
//!     └─────────────────────────────────────────────────────┘     are refused               │
//!     └────────────────────────────────────────────────────────── evicted, without a lease ─┘
//! ```
//!
//! While a frame is Filling its `Block` is away with the read order: nobody else can touch the bytes, and a read that
//! hangs keeps its block, and only that, until it ends. Read `disk` next.

pub mod eviction;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::ArrayQueue;

use crate::holdings::FileRef;
use crate::sys::Wake;
use crate::sys::arena::{Arena, Block, BlockId, BlockSpan};
use crate::tuning::{Plant, Planted};
use eviction::{Frame, S3Fifo, Viewer};

/// A block's worth of a file: bytes from `index * block_bytes` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    pub file: FileRef,
    pub index: u64,
}

/// Who waits for a block: one request of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pub worker: u16,
    pub slot: u32,
    /// Tells this wait from any other in the same slot.
    pub wait: u32,
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It could not be read, or not verified, or not in time.
    Disk,
    /// Every block is in use, or as many as one volume may fill.
    Busy,
}

/// What a waiter gets, once.
pub struct Answer {
    pub waiter: Waiter,
    pub outcome: Result<Lease, Failure>,
}

/// Where a worker's answers arrive.
pub struct Mailbox {
    /// At most two answers a slot: one that is waited for, one that was given up after it had been sent.
    pub answers: Arc<ArrayQueue<Answer>>,
    pub waker: Arc<dyn Wake>,
}

/// One read to do, with the block to do it into, which is to be detached first. Ends with [`Memory::complete`].
pub struct ReadOrder {
    pub key: BlockKey,
    pub block: Block,
}

pub enum Acquired {
    Hit(Lease),
    /// An answer will come. With an order if the caller is the first: it must go to the disk, or back by `complete`.
    Waiting(Option<ReadOrder>),
    Refused(Failure),
}

pub struct Memory {
    arena: Arc<Arena>,
    table: Mutex<Table>,
    mailboxes: Vec<Mailbox>,
    /// So that no disk that hangs takes the memory of all.
    fills_per_volume_max: usize,
    planted: Planted,
}

struct Table {
    frames: Vec<FrameState>,
    by_key: HashMap<BlockKey, Frame>,
    empty: Vec<Frame>,
    policy: S3Fifo,
    /// Frames being filled, by volume.
    fills: Vec<usize>,
}

enum FrameState {
    Empty {
        block: Block,
    },
    Filling {
        waiters: Vec<Waiter>,
        overdue: bool,
    },
    Ready {
        key: BlockKey,
        block: Block,
        leases: usize,
    },
    /// For a moment, while the state changes under the lock.
    Changing,
}

/// The right to send from a block; while it lives the block's bytes stay what they are.
pub struct Lease {
    memory: Arc<Memory>,
    frame: Frame,
    block: BlockId,
}

impl Memory {
    pub fn new(
        arena: Arc<Arena>,
        blocks: Vec<Block>,
        volumes: usize,
        mailboxes: Vec<Mailbox>,
        planted: Planted,
    ) -> Arc<Self> {
        let count = blocks.len();
        let frames = blocks.into_iter().map(|block| FrameState::Empty { block }).collect();
        let last = u32::try_from(count).expect("an arena has fewer than 2³² blocks");
        let table = Table {
            frames,
            by_key: HashMap::with_capacity(count * 2),
            empty: (0..last).rev().map(Frame).collect(),
            policy: S3Fifo::new(count),
            fills: vec![0; volumes],
        };
        let fills_per_volume_max = (count / (volumes + 1)).max(1);
        Arc::new(Self { arena, table: Mutex::new(table), mailboxes, fills_per_volume_max, planted })
    }

    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// How many read orders there can be at a time: what a disk's queue must hold.
    pub fn orders_max(&self) -> usize {
        self.arena.block_count()
    }

    /// A lease on the block if it is in memory; else `waiter` will get an answer.
    pub fn acquire(self: &Arc<Self>, key: BlockKey, waiter: Waiter) -> Acquired {
        let mut table = self.lock();
        if let Some(frame) = table.by_key.get(&key).copied() {
            return match &mut table.frames[frame.index()] {
                FrameState::Ready { block, leases, .. } => {
                    *leases += 1;
                    let block = block.id();
                    table.policy.used(frame, waiter.viewer());
                    Acquired::Hit(Lease { memory: self.clone(), frame, block })
                }
                FrameState::Filling { overdue: true, .. } => Acquired::Refused(Failure::Disk),
                FrameState::Filling { waiters, .. } => {
                    waiters.push(waiter);
                    Acquired::Waiting(None)
                }
                FrameState::Empty { .. } | FrameState::Changing => {
                    unreachable!("a key leads to a frame that holds it")
                }
            };
        }
        match self.start_fill(&mut table, key, Some(waiter)) {
            Some(order) => Acquired::Waiting(Some(order)),
            None => Acquired::Refused(Failure::Busy),
        }
    }

    /// An order for a block that somebody will want soon, if it is not there and there is room.
    pub fn prefetch(&self, key: BlockKey) -> Option<ReadOrder> {
        let mut table = self.lock();
        let fills = *table.fills.get(usize::from(key.file.volume.0))?;
        // What is wanted now goes before what will be.
        let crowded = fills * 2 >= self.fills_per_volume_max;
        if crowded || table.by_key.contains_key(&key) { None } else { self.start_fill(&mut table, key, None) }
    }

    fn start_fill(&self, table: &mut Table, key: BlockKey, waiter: Option<Waiter>) -> Option<ReadOrder> {
        let volume = usize::from(key.file.volume.0);
        if *table.fills.get(volume)? >= self.fills_per_volume_max {
            return None;
        }
        let (frame, block) = table.take_empty(self.planted)?;
        table.fills[volume] += 1;
        let waiters = waiter.into_iter().collect();
        table.frames[frame.index()] = FrameState::Filling { waiters, overdue: false };
        table.by_key.insert(key, frame);
        Some(ReadOrder { key, block })
    }

    /// The end of an order. Publishes the block or frees it, and answers all who wait.
    pub fn complete(self: &Arc<Self>, order: ReadOrder, outcome: Result<(), Failure>) {
        let mut table = self.lock();
        let ReadOrder { key, block } = order;
        let frame = *table.by_key.get(&key).expect("an order's frame is kept until the order ends");
        table.fills[usize::from(key.file.volume.0)] -= 1;
        let state = std::mem::replace(&mut table.frames[frame.index()], FrameState::Changing);
        let FrameState::Filling { waiters, .. } = state else {
            unreachable!("an order's frame is being filled")
        };
        let id = block.id();
        if outcome.is_ok() {
            let leases = waiters.len();
            table.frames[frame.index()] = FrameState::Ready { key, block, leases };
            table.policy.inserted(frame, name_of(&key));
            waiters.iter().for_each(|waiter| table.policy.used(frame, waiter.viewer()));
        } else {
            table.by_key.remove(&key);
            table.frames[frame.index()] = FrameState::Empty { block };
            table.empty.push(frame);
        }
        // Under the lock, so that who gives up afterwards and is not on the list any more has its answer already.
        let forgotten = outcome.is_err() && self.planted.has(Plant::WaitersForgotten);
        for waiter in waiters.iter().take(if forgotten { 1 } else { usize::MAX }) {
            let lease = || Lease { memory: self.clone(), frame, block: id };
            self.post(Answer { waiter: *waiter, outcome: outcome.map(|()| lease()) });
        }
        drop(table);
        for waiter in waiters {
            self.mailbox(waiter.worker).waker.wake();
        }
    }

    fn post(&self, answer: Answer) {
        let posted = self.mailbox(answer.waiter.worker).answers.push(answer);
        assert!(posted.is_ok(), "more answers than a worker's slots can wait for");
    }

    fn mailbox(&self, worker: u16) -> &Mailbox {
        &self.mailboxes[usize::from(worker)]
    }

    /// The waiter does not want its answer any more. False: it is in the mailbox already. `overdue`: the read took too
    /// long, so that others need not begin to wait for it.
    pub fn give_up(&self, key: BlockKey, waiter: Waiter, overdue: bool) -> bool {
        let mut table = self.lock();
        let Some(frame) = table.by_key.get(&key).copied() else { return false };
        let FrameState::Filling { waiters, overdue: late, .. } = &mut table.frames[frame.index()] else {
            return false;
        };
        *late |= overdue;
        let place = waiters.iter().position(|other| *other == waiter);
        place.map(|place| waiters.swap_remove(place)).is_some()
    }

    /// What is not at rest: frames being filled, and leases.
    pub fn in_use(&self) -> (usize, usize) {
        let table = self.lock();
        table.frames.iter().fold((0, 0), |(fills, leased), state| match state {
            FrameState::Filling { .. } => (fills + 1, leased),
            FrameState::Ready { leases, .. } => (fills, leased + leases),
            FrameState::Empty { .. } | FrameState::Changing => (fills, leased),
        })
    }

    fn release(&self, frame: Frame) {
        match &mut self.lock().frames[frame.index()] {
            FrameState::Ready { leases, .. } if *leases > 0 => *leases -= 1,
            _ if self.planted.has(Plant::LeaseNotKept) => {}
            _ => unreachable!("a lease keeps its frame ready"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take_empty(&mut self, planted: Planted) -> Option<(Frame, Block)> {
        let frame = self.empty.pop().or_else(|| self.evict(planted))?;
        let state = std::mem::replace(&mut self.frames[frame.index()], FrameState::Changing);
        let FrameState::Empty { block } = state else { unreachable!("an empty frame is empty") };
        Some((frame, block))
    }

    fn evict(&mut self, planted: Planted) -> Option<Frame> {
        let frames = &self.frames;
        let frame = self.policy.victim(|frame| match &frames[frame.index()] {
            FrameState::Ready { leases, .. } => *leases == 0 || planted.has(Plant::LeaseNotKept),
            FrameState::Empty { .. } | FrameState::Filling { .. } | FrameState::Changing => false,
        })?;
        let state = std::mem::replace(&mut self.frames[frame.index()], FrameState::Changing);
        let FrameState::Ready { key, block, .. } = state else {
            unreachable!("only a ready frame is evicted")
        };
        self.by_key.remove(&key);
        self.frames[frame.index()] = FrameState::Empty { block };
        Some(frame)
    }
}

impl Waiter {
    /// The next connection in the same slot passes for the same viewer: a use that does not count, once.
    fn viewer(self) -> Viewer {
        Viewer(u64::from(self.worker) << 32 | u64::from(self.slot))
    }
}

/// For the policy, which keeps no keys.
fn name_of(key: &BlockKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Lease {
    /// What lies there; of this lease's block.
    pub fn bytes(&self, span: BlockSpan) -> &[u8] {
        assert!(span.block == self.block, "a lease opens its own block");
        self.memory.arena.leased(span)
    }

    pub fn span(&self, offset: usize, bytes: usize) -> BlockSpan {
        BlockSpan { block: self.block, offset, bytes }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.release(self.frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holdings::VolumeIndex;

    struct Silent;

    impl Wake for Silent {
        fn wake(&self) {}
    }

    fn memory(blocks: usize, volumes: usize) -> Arc<Memory> {
        let (arena, blocks) = Arena::new(4096, blocks).unwrap();
        let mailbox = Mailbox { answers: Arc::new(ArrayQueue::new(8)), waker: Arc::new(Silent) };
        Memory::new(arena, blocks, volumes, vec![mailbox], Planted::default())
    }

    fn key(number: u64) -> BlockKey {
        BlockKey { file: FileRef { volume: VolumeIndex(0), number, data_bytes: 9000 }, index: 0 }
    }

    fn waiter(wait: u32) -> Waiter {
        Waiter { worker: 0, slot: 3, wait }
    }

    fn order(acquired: Acquired) -> ReadOrder {
        let Acquired::Waiting(Some(order)) = acquired else { panic!("no order") };
        order
    }

    #[test]
    fn many_wait_for_one_read_and_all_are_answered() {
        let memory = memory(4, 1);
        let order = order(memory.acquire(key(1), waiter(1)));
        assert!(matches!(memory.acquire(key(1), waiter(2)), Acquired::Waiting(None)));
        memory.complete(order, Ok(()));
        let answers: Vec<_> = std::iter::from_fn(|| memory.mailboxes[0].answers.pop()).collect();
        assert_eq!(answers.iter().map(|answer| answer.waiter.wait).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(memory.in_use(), (0, 2));
        drop(answers);
        assert_eq!(memory.in_use(), (0, 0));
        assert!(matches!(memory.acquire(key(1), waiter(3)), Acquired::Hit(_)));
    }

    #[test]
    fn a_leased_block_is_not_evicted_and_a_full_memory_says_busy() {
        let memory = memory(2, 1);
        for number in [1, 2] {
            memory.complete(order(memory.acquire(key(number), waiter(1))), Ok(()));
        }
        let kept: Vec<_> = std::iter::from_fn(|| memory.mailboxes[0].answers.pop()).collect();
        assert!(matches!(memory.acquire(key(3), waiter(1)), Acquired::Refused(Failure::Busy)));
        drop(kept);
        assert!(matches!(memory.acquire(key(3), waiter(1)), Acquired::Waiting(Some(_))));
    }

    #[test]
    fn a_failed_read_answers_its_waiters_and_the_next_one_reads_again() {
        let memory = memory(2, 1);
        memory.complete(order(memory.acquire(key(1), waiter(1))), Err(Failure::Disk));
        let answer = memory.mailboxes[0].answers.pop().unwrap();
        assert!(matches!(answer.outcome, Err(Failure::Disk)));
        assert!(matches!(memory.acquire(key(1), waiter(1)), Acquired::Waiting(Some(_))));
    }

    #[test]
    fn an_overdue_block_is_refused_at_once_until_its_read_ends() {
        let memory = memory(4, 1);
        let order = order(memory.acquire(key(1), waiter(1)));
        assert!(memory.give_up(key(1), waiter(1), true));
        assert!(matches!(memory.acquire(key(1), waiter(2)), Acquired::Refused(Failure::Disk)));
        memory.complete(order, Ok(()));
        assert!(memory.mailboxes[0].answers.is_empty());
        assert!(matches!(memory.acquire(key(1), waiter(2)), Acquired::Hit(_)));
    }

    #[test]
    fn who_gives_up_too_late_has_an_answer() {
        let memory = memory(4, 1);
        let order = order(memory.acquire(key(1), waiter(1)));
        memory.complete(order, Ok(()));
        assert!(!memory.give_up(key(1), waiter(1), false));
        assert_eq!(memory.mailboxes[0].answers.len(), 1);
    }

    #[test]
    fn one_volume_does_not_take_the_memory_of_all() {
        let memory = memory(4, 1);
        let orders: Vec<_> = [1, 2].map(|number| order(memory.acquire(key(number), waiter(1)))).into();
        assert!(matches!(memory.acquire(key(3), waiter(1)), Acquired::Refused(Failure::Busy)));
        orders.into_iter().for_each(|order| memory.complete(order, Err(Failure::Disk)));
        assert!(memory.prefetch(key(3)).is_some());
    }
}
