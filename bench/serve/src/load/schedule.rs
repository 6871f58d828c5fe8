//! When the next request is due, and which piece it asks for.
//!
//! An open loop sends at a fixed rate whatever the server does. A request that has to wait for a free connection
//! keeps the time at which it should have left, and its latency counts from there: a server that stalls is charged for
//! everybody who came in the meantime (no coordinated omission).

use std::time::{Duration, Instant};

use fleet_tests::filler::mix;

/// Arrivals, evenly spaced.
#[derive(Clone, Debug)]
pub struct Arrivals {
    start: Instant,
    interval: Duration,
    /// Arrived so far.
    count: u32,
}

impl Arrivals {
    /// `per_second` is positive.
    pub fn new(start: Instant, per_second: f64) -> Self {
        Self { start, interval: Duration::from_secs_f64(1.0 / per_second), count: 0 }
    }

    pub fn next(&self) -> Instant {
        self.start + self.interval * self.count
    }

    /// The intended time of the next arrival, if that has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next();
        (next <= now).then(|| {
            self.count += 1;
            next
        })
    }
}

/// Which of `count` pieces are asked for, in what order.
#[derive(Clone, Debug)]
pub enum Order {
    /// Each request any piece, again and again.
    Random { state: u64, count: u64 },
    /// Every piece `passes` times, in a different order each time; then none.
    Passes { rest: Vec<u32> },
}

impl Order {
    pub fn random(count: u64, seed: u64) -> Self {
        Self::Random { state: mix(seed), count }
    }

    pub fn passes(count: u32, passes: u32, seed: u64) -> Self {
        let orders = (0..passes).flat_map(|pass| shuffled(count, mix(seed ^ u64::from(pass))));
        Self::Passes { rest: orders.collect() }
    }
}

impl Iterator for Order {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Random { state, count } => {
                *state = state.wrapping_add(1);
                Some(mix(*state) % *count)
            }
            Self::Passes { rest } => rest.pop().map(u64::from),
        }
    }
}

/// Fisher and Yates.
fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..order.len()).rev() {
        let bound = u64::try_from(last).expect("a 64-bit machine") + 1;
        let other = mix(seed.wrapping_add(bound)) % bound;
        order.swap(last, usize::try_from(other).expect("below `last`"));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_intended_times_however_late_they_are_taken() {
        let start = xtask::clock::now();
        let mut arrivals = Arrivals::new(start, 1000.0);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(arrivals.take_due(start), Some(start));
        assert_eq!(arrivals.take_due(start), None);
        // The loop was held up for 3 ms: three are due, each at its own time.
        let late: Vec<_> = std::iter::from_fn(|| arrivals.take_due(at(3))).collect();
        assert_eq!(late, [at(1), at(2), at(3)]);
        assert_eq!(arrivals.next(), at(4));
    }

    #[test]
    fn passes_ask_for_every_piece_as_often_as_said_and_then_for_none() {
        let mut order = Order::passes(100, 3, 7);
        let mut seen: Vec<_> = order.by_ref().collect();
        let first: Vec<_> = seen[..100].to_vec();
        assert_ne!(first, seen[100..200]);
        seen.sort_unstable();
        assert_eq!(seen, (0..300).map(|index| index / 3).collect::<Vec<u64>>());
        assert_eq!(order.next(), None);
    }

    #[test]
    fn a_random_order_covers_all_evenly() {
        let mut order = Order::random(16, 1);
        let mut counts = [0; 16];
        for _ in 0..16_000 {
            counts[usize::try_from(order.next().unwrap()).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
