//! What a viewer would see: a playhead that moves with the clock over what has arrived.
//!
//! Pure: it is told `(what has arrived, now)` and never asks a clock, so a stall is found to the microsecond however
//! late it is looked for.
//!
//! ```text
//! Starting --first fragments--> Playing --playhead meets the end of what arrived--> Stalled
//!                                 |  ^------------------- the next arrived -----------/
//!                                 \--playhead meets the title's end--> Ended
//! ```

use std::time::Duration;

/// One time the picture froze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Since the session began.
    pub at: Duration,
    pub length: Duration,
    /// Where in the title.
    pub position: Duration,
}

#[derive(Clone, Debug)]
pub struct Playhead {
    /// The title's length.
    end: Duration,
    /// What has arrived without a gap, from the title's begin; `arrived <= end`.
    arrived: Duration,
    phase: Phase,
    started: Option<Duration>,
    stalls: Vec<Stall>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    /// At instant `since` the playhead was at `from`.
    Playing {
        since: Duration,
        from: Duration,
    },
    /// At the end of what has arrived, since then.
    Stalled {
        since: Duration,
    },
    Ended {
        at: Duration,
    },
}

impl Playhead {
    pub fn new(end: Duration) -> Self {
        Self { end, arrived: Duration::ZERO, phase: Phase::Starting, started: None, stalls: Vec::new() }
    }

    /// At `now` everything before `arrived` is there. `now` never goes back; neither does `arrived`.
    pub fn arrive(&mut self, arrived: Duration, now: Duration) {
        self.advance(now);
        let position = self.position(now);
        self.arrived = self.arrived.max(arrived.min(self.end));
        if self.arrived <= position {
            return;
        }
        match self.phase {
            Phase::Starting => self.started = Some(now),
            // What arrives in the instant in which it is needed is not late.
            Phase::Stalled { since } if since == now => {}
            Phase::Stalled { since } => {
                self.stalls.push(Stall { at: since, length: now.saturating_sub(since), position });
            }
            Phase::Playing { .. } | Phase::Ended { .. } => return,
        }
        self.phase = Phase::Playing { since: now, from: position };
    }

    /// Lets time pass up to `now` with nothing new.
    pub fn advance(&mut self, now: Duration) {
        let Phase::Playing { since, from } = self.phase else { return };
        let runs_dry = since + self.arrived.saturating_sub(from);
        if now < runs_dry {
            return;
        }
        self.phase = if self.arrived == self.end {
            Phase::Ended { at: runs_dry }
        } else {
            Phase::Stalled { since: runs_dry }
        };
    }

    /// Where in the title the playhead is. Right for instants not before the last that it was told.
    pub fn position(&self, now: Duration) -> Duration {
        match self.phase {
            Phase::Starting => Duration::ZERO,
            Phase::Playing { since, from } => (from + now.saturating_sub(since)).min(self.arrived),
            Phase::Stalled { .. } | Phase::Ended { .. } => self.arrived,
        }
    }

    /// When the playhead will be at `position` if it never stalls; None while it does not move.
    pub fn reaches(&self, position: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Playing { since, from } => Some(since + position.saturating_sub(from)),
            Phase::Starting | Phase::Stalled { .. } | Phase::Ended { .. } => None,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// When the first picture was there.
    pub fn started(&self) -> Option<Duration> {
        self.started
    }

    /// All stalls up to `now`, one that still lasts with the length that it has.
    pub fn stalls(&self, now: Duration) -> Vec<Stall> {
        let open = match self.phase {
            Phase::Stalled { since } if since < now => {
                Some(Stall { at: since, length: now.saturating_sub(since), position: self.arrived })
            }
            Phase::Stalled { .. } | Phase::Starting | Phase::Playing { .. } | Phase::Ended { .. } => None,
        };
        self.stalls.iter().copied().chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_play_that_is_always_ahead_of_the_clock_does_not_stall() {
        let mut playhead = Playhead::new(ms(8_000));
        playhead.arrive(ms(4_000), ms(300));
        playhead.arrive(ms(8_000), ms(4_299));
        assert_eq!(playhead.position(ms(5_300)), ms(5_000));
        playhead.advance(ms(8_299));
        assert!(!playhead.has_ended());
        playhead.advance(ms(8_300));
        assert!(playhead.has_ended());
        assert_eq!((playhead.started(), playhead.stalls(ms(9_000))), (Some(ms(300)), vec![]));
    }

    #[test]
    fn a_stall_begins_where_the_buffer_ends_and_lasts_until_more_arrives() {
        let mut playhead = Playhead::new(ms(8_000));
        playhead.arrive(ms(4_000), ms(100));
        let open = Stall { at: ms(4_100), length: ms(900), position: ms(4_000) };
        playhead.advance(ms(5_000));
        assert_eq!(playhead.stalls(ms(5_000)), [open]);
        playhead.arrive(ms(8_000), ms(6_100));
        assert_eq!(playhead.stalls(ms(9_000)), [Stall { length: ms(2_000), ..open }]);
        assert_eq!(playhead.reaches(ms(8_000)), Some(ms(10_100)));
    }

    #[test]
    fn nothing_new_does_not_end_a_stall() {
        let mut playhead = Playhead::new(ms(8_000));
        playhead.arrive(ms(4_000), ms(0));
        playhead.arrive(ms(4_000), ms(5_000));
        assert_eq!(
            playhead.stalls(ms(6_000)),
            [Stall { at: ms(4_000), length: ms(2_000), position: ms(4_000) }]
        );
    }

    proptest! {
        /// Against the slowest reading: a playhead that moves a millisecond at a time.
        #[test]
        fn stalls_agree_with_a_walk_of_every_millisecond(
            fragments in prop::collection::vec((1_u64..60, 1_u64..60), 1..12)
        ) {
            let end: u64 = fragments.iter().map(|fragment| fragment.1).sum();
            let mut playhead = Playhead::new(ms(end));
            let (mut now, mut arrived) = (0, 0);
            let mut events = Vec::new();
            for (wait, length) in fragments {
                now += wait;
                arrived += length;
                playhead.arrive(ms(arrived), ms(now));
                events.push((now, arrived));
            }
            let last = now + end + 1;
            playhead.advance(ms(last));
            prop_assert!(playhead.has_ended());

            let (mut position, mut stalls, mut started) = (0, Vec::<Stall>::new(), None);
            let mut stalled = false;
            for tick in 0..last {
                let there = events.iter().filter(|event| event.0 <= tick).map(|event| event.1).max().unwrap_or(0);
                if position < there {
                    started.get_or_insert(tick);
                    position += 1;
                    stalled = false;
                } else if started.is_some() && position < end {
                    if !stalled {
                        stalls.push(Stall { at: ms(tick), length: ms(0), position: ms(position) });
                    }
                    stalled = true;
                    stalls.last_mut().unwrap().length += ms(1);
                }
            }
            prop_assert_eq!(playhead.stalls(ms(last)), stalls);
            prop_assert_eq!(playhead.started(), started.map(ms));
        }
    }
}
