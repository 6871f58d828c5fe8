//! What all parts of a run share: time, chance, the network, what has happened, what went wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::faults::Fault;
use super::network::Network;
use super::random::Random;
use super::site::MADE;
use crate::clock::{Now, Wall};

pub struct Shared {
    pub now: Cell<Now>,
    /// The time of day is ahead by so much.
    pub wall_ahead_s: Cell<i64>,
    pub random: RefCell<Random>,
    /// Counts everything that happens: if it stands still, time may pass.
    pub activity: Cell<u64>,
    pub network: RefCell<Network>,
    /// By fault: how often in a thousand. Swarm testing (Groce 2012): each seed has some of them.
    rates: [usize; Fault::ALL.len()],
    seen: RefCell<[u64; Fault::ALL.len()]>,
    trace: Cell<u64>,
    violation: RefCell<Option<String>>,
    /// Files that the agent has unlinked: volume and number.
    pub unlinked: RefCell<BTreeSet<(u16, u64)>>,
}

impl Shared {
    /// `harmful`: faults that a client notices may be among them.
    pub fn new(mut random: Random, workers: usize, harmful: bool) -> Self {
        let rates = Fault::ALL.map(|fault| {
            let on = random.chance(1, 2) && (harmful || fault.harmless());
            if on { random.below(fault.rate_max() + 1) } else { 0 }
        });
        Self { rates, ..Self::quiet(random, workers) }
    }

    /// Without any fault.
    pub fn quiet(random: Random, workers: usize) -> Self {
        Self {
            now: Cell::new(Now(1_000_000_000)),
            wall_ahead_s: Cell::new(0),
            random: RefCell::new(random),
            activity: Cell::new(0),
            network: RefCell::new(Network::new(workers)),
            rates: [0; Fault::ALL.len()],
            seen: RefCell::new([0; Fault::ALL.len()]),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
            violation: RefCell::new(None),
            unlinked: RefCell::default(),
        }
    }

    pub fn wall(&self) -> Wall {
        let seconds = i64::try_from(self.now.get().0 / 1_000_000_000).unwrap();
        Wall(MADE.0 + seconds + self.wall_ahead_s.get())
    }

    pub fn happened(&self) {
        self.activity.set(self.activity.get() + 1);
    }

    pub fn chance(&self, count: usize, of: usize) -> bool {
        self.random.borrow_mut().chance(count, of)
    }

    pub fn below(&self, end: usize) -> usize {
        self.random.borrow_mut().below(end)
    }

    /// Whether the fault strikes now; if so, it is counted.
    pub fn strikes(&self, fault: Fault) -> bool {
        let rate = self.rates[fault.index()];
        let strikes = rate > 0 && self.chance(rate, 1000);
        if strikes {
            self.saw(fault);
        }
        strikes
    }

    /// Whether the network will reset the next connection. Counted when it does.
    pub fn strikes_wire(&self) -> bool {
        let rate = self.rates[Fault::NetworkReset.index()];
        rate > 0 && self.chance(rate, 1000)
    }

    pub fn saw(&self, fault: Fault) {
        self.seen.borrow_mut()[fault.index()] += 1;
    }

    pub fn seen(&self) -> [u64; Fault::ALL.len()] {
        *self.seen.borrow()
    }

    pub fn has_seen(&self, fault: Fault) -> bool {
        self.seen.borrow()[fault.index()] > 0
    }

    /// Into the trace that two runs of one seed must share (FNV-1a, by words).
    pub fn note(&self, word: u64) {
        self.trace.set((self.trace.get() ^ word).wrapping_mul(0x0100_0000_01b3));
    }

    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Something that no correct server does; the first one is told.
    pub fn violate(&self, what: &str) {
        self.violation.borrow_mut().get_or_insert_with(|| what.to_owned());
    }

    pub fn violation(&self) -> Result<(), String> {
        self.violation.borrow().clone().map_or(Ok(()), Err)
    }
}
