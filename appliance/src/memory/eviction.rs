//! Which block gives way: S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), counted by
//! viewers.
//!
//! ```text
//!  inserted ──► small ── nobody else wanted it ──► out, its name into the ghosts
//!      │          └───── another viewer did ─────► main ── used since: once more round ─┐
//!      └─ its name is among the ghosts ──────────►  ▲ │                                 │
//!                                                   └─┼─────────────────────────────────┘
//!                                                     └─ not used since ──► out
//! ```
//!
//! A new block is on probation in a tenth of the memory: a reader of the whole disk flushes that and no more. A reader asks for a
//! block in several ranges, one after the other; were each a use, one viewer would make a block popular. So a use counts
//! if it is another viewer's than the last one, or if half of the small queue has changed since (the correlated
//! references of O'Neil et al., LRU-K, SIGMOD 1993; time is counted in insertions: no clock is here).

/// A place in the table of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub u32);

impl Frame {
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("a frame's number fits a usize")
    }
}

/// Who uses a block: tells one connection from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Viewer(pub u64);

/// A block that was used more often is no more worth keeping.
const USES_MAX: u8 = 3;
/// The small queue's share of the memory: one in so many.
const SMALL_SHARE: usize = 10;

/// Called under the memory's lock: short, and without allocation.
pub struct S3Fifo {
    frames: Vec<State>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// How long `small` is to be.
    small_target: usize,
    /// Insertions so far.
    now: u64,
}

#[derive(Clone, Copy)]
struct State {
    /// The next newer one of the same queue.
    newer: u32,
    uses: u8,
    last: Option<Viewer>,
    /// When a use last counted.
    counted_at: u64,
    name: u64,
}

const NONE: u32 = u32::MAX;

/// The ends of a list that runs through the frames; they mean nothing while it is empty.
#[derive(Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
    count: usize,
}

impl S3Fifo {
    pub fn new(frames: usize) -> Self {
        let state = State { newer: NONE, uses: 0, last: None, counted_at: 0, name: 0 };
        let small_target = (frames / SMALL_SHARE).max(1);
        Self {
            frames: vec![state; frames],
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::new(frames.saturating_sub(small_target)),
            small_target,
            now: 0,
        }
    }

    /// A block was filled and may be used from now on. `name`: a hash of what it holds.
    pub fn inserted(&mut self, frame: Frame, name: u64) {
        self.now += 1;
        let known = self.ghosts.take(name);
        let state = &mut self.frames[frame.index()];
        *state = State { uses: 0, last: None, counted_at: self.now, name, ..*state };
        let queue = if known { &mut self.main } else { &mut self.small };
        queue.push(&mut self.frames, frame);
    }

    /// It is used, the first time too.
    pub fn used(&mut self, frame: Frame, viewer: Viewer) {
        let now = self.now;
        let later = u64::try_from(self.small_target / 2).expect("a count fits 64 bits").max(1);
        let state = &mut self.frames[frame.index()];
        let Some(last) = state.last.replace(viewer) else {
            // Whom it was read for, or read ahead for.
            state.counted_at = now;
            return;
        };
        if last != viewer || now - state.counted_at >= later {
            state.uses = (state.uses + 1).min(USES_MAX);
            state.counted_at = now;
        }
    }

    /// The block to give up, among those that `evictable` allows; None if it allows none. It is the policy's no more.
    pub fn victim(&mut self, evictable: impl Fn(Frame) -> bool) -> Option<Frame> {
        let mut in_use = 0;
        let all = self.small.count + self.main.count;
        // Each block gives up its uses one by one, is moved once, and is met in use once: so many steps at most.
        for _ in 0..all * (usize::from(USES_MAX) + 3) {
            let from_small = self.small.count > self.small_target || self.main.count == 0;
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let frame = queue.pop(&mut self.frames)?;
            if !evictable(frame) {
                queue.push(&mut self.frames, frame);
                in_use += 1;
                // The other queue may have one that is not in use.
                if in_use > all {
                    return self.any(evictable);
                }
                continue;
            }
            let state = &mut self.frames[frame.index()];
            match (from_small, state.uses) {
                (true, 0) => {
                    self.ghosts.add(state.name);
                    return Some(frame);
                }
                (false, 0) => return Some(frame),
                (true, _) => {
                    state.uses = 0;
                    self.main.push(&mut self.frames, frame);
                }
                (false, _) => {
                    state.uses -= 1;
                    self.main.push(&mut self.frames, frame);
                }
            }
        }
        self.any(evictable)
    }

    /// When nearly everything is in use, whatever is not.
    fn any(&mut self, evictable: impl Fn(Frame) -> bool) -> Option<Frame> {
        for queue in [&mut self.small, &mut self.main] {
            for _ in 0..queue.count {
                let frame = queue.pop(&mut self.frames)?;
                if evictable(frame) {
                    return Some(frame);
                }
                queue.push(&mut self.frames, frame);
            }
        }
        None
    }
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, count: 0 };

    fn push(&mut self, frames: &mut [State], frame: Frame) {
        frames[frame.index()].newer = NONE;
        if self.count == 0 {
            self.oldest = frame.0;
        } else {
            frames[Frame(self.newest).index()].newer = frame.0;
        }
        self.newest = frame.0;
        self.count += 1;
    }

    fn pop(&mut self, frames: &mut [State]) -> Option<Frame> {
        if self.count == 0 {
            return None;
        }
        let frame = Frame(self.oldest);
        self.oldest = frames[frame.index()].newer;
        self.count -= 1;
        Some(frame)
    }
}

/// Names of blocks that went out of the small queue, as many as the main queue has places; then the oldest are forgotten.
/// A table of buckets instead of a queue and a map (§4.2 there): a full bucket forgets its oldest.
struct Ghosts {
    /// Name, and when it came; 0: none.
    places: Vec<(u64, u64)>,
    kept: u64,
    now: u64,
}

const BUCKET: usize = 8;

impl Ghosts {
    fn new(kept: usize) -> Self {
        let buckets = (4 * kept).div_ceil(BUCKET).next_power_of_two();
        let kept = u64::try_from(kept).expect("a count fits 64 bits");
        Self { places: vec![(0, 0); buckets * BUCKET], kept, now: 0 }
    }

    fn add(&mut self, name: u64) {
        self.now += 1;
        let now = self.now;
        let oldest = self.bucket(name).iter_mut().min_by_key(|place| place.1);
        *oldest.expect("a bucket has places") = (name, now);
    }

    /// Whether it is there; then it is there no more.
    fn take(&mut self, name: u64) -> bool {
        let since = self.now.saturating_sub(self.kept);
        let found = self.bucket(name).iter_mut().find(|place| place.0 == name && place.1 > since);
        found.map(|place| *place = (0, 0)).is_some()
    }

    fn bucket(&mut self, name: u64) -> &mut [(u64, u64)] {
        let buckets = u64::try_from(self.places.len() / BUCKET).expect("a count fits 64 bits");
        let first = usize::try_from(name % buckets).expect("a bucket's number") * BUCKET;
        &mut self.places[first..first + BUCKET]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const ANY: fn(Frame) -> bool = |_| true;

    /// A cache of names, as `memory` uses the policy.
    struct Cache {
        policy: S3Fifo,
        names: Vec<Option<u64>>,
    }

    impl Cache {
        fn new(frames: usize) -> Self {
            Self { policy: S3Fifo::new(frames), names: vec![None; frames] }
        }

        /// True: it was there.
        fn ask(&mut self, name: u64, viewer: u64) -> bool {
            let found = self.names.iter().position(|held| *held == Some(name));
            let place = found.unwrap_or_else(|| {
                let empty = self.names.iter().position(Option::is_none);
                empty.unwrap_or_else(|| self.policy.victim(ANY).expect("nothing is in use").index())
            });
            let frame = Frame(u32::try_from(place).unwrap());
            if found.is_none() {
                self.names[place] = Some(name);
                self.policy.inserted(frame, name);
            }
            self.policy.used(frame, Viewer(viewer));
            found.is_some()
        }
    }

    #[test]
    fn a_scan_of_the_whole_disk_does_not_flush_what_several_viewers_want() {
        let mut cache = Cache::new(100);
        for round in 0..3 {
            (0..80).for_each(|name| {
                cache.ask(name, round);
            });
        }
        // Each block of the disk in eight ranges, by one reader.
        for name in 1_000..11_000 {
            (0..8).for_each(|_| {
                cache.ask(name, 99);
            });
        }
        let kept = (0..80).filter(|name| cache.names.contains(&Some(*name))).count();
        assert_eq!(kept, 80);
    }

    #[test]
    fn one_viewers_ranges_are_no_popularity_and_another_viewer_is() {
        let mut cache = Cache::new(20);
        (0..5).for_each(|_| {
            cache.ask(1, 7);
        });
        (0..2).for_each(|viewer| {
            cache.ask(2, viewer);
        });
        (100..140).for_each(|name| {
            cache.ask(name, 9);
        });
        assert!(!cache.names.contains(&Some(1)) && cache.names.contains(&Some(2)));
    }

    #[test]
    fn what_comes_back_soon_after_it_went_is_kept_longer() {
        let mut cache = Cache::new(20);
        (0..25).for_each(|name| {
            cache.ask(name, 1);
        });
        let gone = (0..25).find(|name| !cache.names.contains(&Some(*name))).unwrap();
        assert!(!cache.ask(gone, 1));
        (100..140).for_each(|name| {
            cache.ask(name, 9);
        });
        assert!(cache.names.contains(&Some(gone)));
    }

    #[test]
    fn a_block_in_use_is_never_chosen() {
        let mut policy = S3Fifo::new(2);
        policy.inserted(Frame(0), 1);
        policy.inserted(Frame(1), 2);
        assert_eq!(policy.victim(|_| false), None);
        assert_eq!(policy.victim(|frame| frame == Frame(1)), Some(Frame(1)));
        assert_eq!(policy.victim(|frame| frame == Frame(1)), None);
        assert_eq!(policy.victim(ANY), Some(Frame(0)));
        assert_eq!(policy.victim(ANY), None);
    }

    /// The slowest obvious reading of the same rules.
    struct Model {
        small: VecDeque<(u64, u8, Option<u64>, u64)>,
        main: VecDeque<(u64, u8, Option<u64>, u64)>,
        frames: usize,
        now: u64,
        ghosts: Vec<u64>,
    }

    impl Model {
        fn ask(&mut self, name: u64, viewer: u64) -> bool {
            let (target, later) = ((self.frames / 10).max(1), (self.frames / 20).max(1) as u64);
            let now = self.now;
            let held = self.small.iter_mut().chain(&mut self.main).find(|block| block.0 == name);
            if let Some((_, uses, last, counted)) = held {
                if *last != Some(viewer) || now - *counted >= later {
                    (*uses, *counted) = ((*uses + 1).min(3), now);
                }
                *last = Some(viewer);
                return true;
            }
            while self.small.len() + self.main.len() == self.frames {
                if self.small.len() > target || self.main.is_empty() {
                    let block = self.small.pop_front().unwrap();
                    if block.1 > 0 {
                        self.main.push_back((block.0, 0, block.2, block.3))
                    } else {
                        self.ghosts.push(block.0)
                    }
                } else {
                    let block = self.main.pop_front().unwrap();
                    if block.1 > 0 {
                        self.main.push_back((block.0, block.1 - 1, block.2, block.3));
                    }
                }
            }
            self.now += 1;
            let recent = self.ghosts.len().saturating_sub(self.frames - target);
            let ghost = self.ghosts[recent..].iter().position(|ghost| *ghost == name);
            let block = (name, 0, Some(viewer), self.now);
            if let Some(ghost) = ghost {
                self.ghosts[recent + ghost] = u64::MAX;
                self.main.push_back(block);
            } else {
                self.small.push_back(block);
            }
            false
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn it_hits_and_misses_as_the_slowest_reading_does(
            frames in 2usize..30,
            asked in proptest::collection::vec((0u64..60, 0u64..4), 0..600),
        ) {
            let mut cache = Cache::new(frames);
            let (small, main, ghosts) = Default::default();
            let mut model = Model { small, main, frames, now: 0, ghosts };
            for (name, viewer) in asked {
                // So few names that no bucket of ghosts overflows, which the model knows nothing of.
                prop_assert_eq!(cache.ask(name, viewer), model.ask(name, viewer), "{}", name);
            }
        }
    }
}
