//! Deadlines: a hierarchical timer wheel, four levels of 64 slots of 8 ms, 37 hours deep. It drives the ring's wait.
//!
//! Late by up to one slot, never early. An entry is not taken out when its deadline moves: the owner ignores it when
//! it fires, by the deadline in it. Knows no clock.

use crate::clock::Now;

const TICK_NS: u64 = 8_000_000;
const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const TICKS_MAX: u64 = (1 << (SLOT_BITS * 4)) - 1;

/// Whose deadline. `slot` and `at` tell the owner whether it still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub slot: u32,
    /// As it was given to [`Wheel::insert`].
    pub at: Now,
}

pub struct Wheel {
    /// All ticks up to this one have been expired.
    current: u64,
    levels: [Level; LEVELS],
    cascade: Vec<Alarm>,
}

struct Level {
    /// Bit per slot: has entries.
    occupied: u64,
    slots: Vec<Vec<Alarm>>,
}

impl Wheel {
    pub fn new(now: Now) -> Self {
        let level = || Level { occupied: 0, slots: vec![Vec::new(); SLOTS] };
        Self { current: now.0 / TICK_NS, levels: std::array::from_fn(|_| level()), cascade: Vec::new() }
    }

    pub fn insert(&mut self, alarm: Alarm) {
        let tick = alarm.at.0.div_ceil(TICK_NS).max(self.current + 1);
        self.place(tick, alarm);
    }

    fn place(&mut self, tick: u64, alarm: Alarm) {
        let tick = tick.min(self.current + TICKS_MAX / 2);
        let (level, slot) = place_of(self.current, tick);
        self.levels[level].occupied |= 1 << slot;
        self.levels[level].slots[slot].push(alarm);
    }

    /// When to call [`Self::expire`] next; None: nothing is set.
    pub fn next(&self) -> Option<Now> {
        self.next_slot().map(|(tick, _, _)| Now(tick.saturating_mul(TICK_NS)))
    }

    /// Takes out all that is due at `now`.
    pub fn expire(&mut self, now: Now, due: &mut Vec<Alarm>) {
        let target = now.0 / TICK_NS;
        while let Some((tick, level, slot)) = self.next_slot().filter(|(tick, _, _)| *tick <= target) {
            self.current = self.current.max(tick);
            self.levels[level].occupied &= !(1 << slot);
            let mut entries = std::mem::take(&mut self.cascade);
            entries.append(&mut self.levels[level].slots[slot]);
            for alarm in entries.drain(..) {
                let at = alarm.at.0.div_ceil(TICK_NS);
                if at <= self.current { due.push(alarm) } else { self.place(at, alarm) }
            }
            self.cascade = entries;
        }
        self.current = self.current.max(target);
    }

    /// The earliest slot that holds something: the tick at which it begins, and where it is. Slots of a lower level
    /// begin before those of a higher one.
    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        let levels = self.levels.iter().enumerate();
        levels.filter_map(|(number, level)| level.next(number, self.current)).min_by_key(|(tick, _, _)| *tick)
    }
}

impl Level {
    fn next(&self, number: usize, current: u64) -> Option<(u64, usize, usize)> {
        if self.occupied == 0 {
            return None;
        }
        let shift = SLOT_BITS * u32::try_from(number).expect("there are four levels");
        let here = current >> shift;
        let turn = u32::try_from(here % 64).expect("less than 64");
        let ahead = u64::from(self.occupied.rotate_right(turn).trailing_zeros());
        let slot = usize::try_from((here + ahead) % 64).expect("less than 64");
        // A slot that began before now, on a higher level, holds what is still to come of it.
        let tick = ((here + ahead) << shift).max(current);
        Some((tick, number, slot))
    }
}

/// The level on which `tick` and `current` first differ, and the slot there.
fn place_of(current: u64, tick: u64) -> (usize, usize) {
    let differing = (current ^ tick) | 1;
    let level = (differing.ilog2() / SLOT_BITS).min(3);
    let slot = (tick >> (SLOT_BITS * level)) % 64;
    (usize::try_from(level).expect("at most 3"), usize::try_from(slot).expect("less than 64"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_alarm_comes_once_not_early_and_at_most_a_tick_late(
            delays in proptest::collection::vec((0u64..200_000, 0u64..50_000), 1..60),
        ) {
            let mut now = Now(123_456_789_000);
            let mut wheel = Wheel::new(now);
            let mut expected = Vec::new();
            let mut came = Vec::new();
            for (number, (delay_ms, step_ms)) in (0u32..).zip(&delays) {
                let at = Now(now.0 + delay_ms * 1_000_000 + 17);
                wheel.insert(Alarm { slot: number, at });
                expected.push(number);
                // Goes to each time that the wheel asks for, as a ring's wait does, then on to where it is going.
                let goal = Now(now.0 + step_ms * 1_000_000);
                while let Some(next) = wheel.next().filter(|next| *next <= goal) {
                    expire(&mut wheel, next, &mut came);
                }
                expire(&mut wheel, goal, &mut came);
                now = goal;
            }
            let mut turns = 0;
            while let Some(next) = wheel.next() {
                expire(&mut wheel, next, &mut came);
                turns += 1;
                prop_assert!(turns < 2000);
            }
            came.sort_unstable();
            prop_assert_eq!(came, expected);
        }
    }

    fn expire(wheel: &mut Wheel, now: Now, came: &mut Vec<u32>) {
        let mut due = Vec::new();
        wheel.expire(now, &mut due);
        for alarm in due {
            assert!(alarm.at <= now, "early");
            assert!(now.0 - alarm.at.0 < 2 * TICK_NS, "late");
            came.push(alarm.slot);
        }
    }
}
