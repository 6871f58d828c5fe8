//! Which program is killed, in the middle of what, and when: all from the seed. Pure.
//!
//! The seed fixes the order of operations, victims and moments; what a moment meets is up to the machine, and is told
//! by what lies on the disk (`phase`).

use std::fmt;
use std::time::Duration;

/// splitmix64 (Steele, Lea, Flood 2014): a seed and its neighbour have nothing in common.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// From 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(u64::try_from(count).unwrap_or(u64::MAX))).unwrap_or(0)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// As likely between 10 and 20 µs as between one and two seconds.
    pub fn spread(&mut self, least: Duration, most: Duration) -> Duration {
        let octaves = most.as_micros().max(1).ilog2().saturating_sub(least.as_micros().max(1).ilog2());
        let octave = least.saturating_mul(1 << self.below(u64::from(octaves).max(1)).min(30));
        let within = u64::try_from(octave.as_micros()).unwrap_or(u64::MAX);
        octave + Duration::from_micros(self.below(within))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A fresh title appears; both boxes pull it.
    Fill,
    /// `oca-media` publishes a film.
    Publish,
    /// Titles and drains change without a byte to pull: manifests and assignments are written.
    Plan,
    /// Small changes, generation after generation, while slow readers hold the old ones.
    Swap,
    /// A title goes, its files are unlinked; often it comes back.
    Deletion,
}

impl Operation {
    pub const ALL: [Self; 5] = [Self::Fill, Self::Publish, Self::Plan, Self::Swap, Self::Deletion];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Control,
    /// `oca-appliance` of the box of this index.
    Server(usize),
    /// `oca-fill` of the box of this index.
    Agent(usize),
    Media,
}

impl Program {
    /// The binary's name.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Control => "oca-control",
            Self::Server(_) => "oca-appliance",
            Self::Agent(_) => "oca-fill",
            Self::Media => "oca-media",
        }
    }

    pub fn of_box(self) -> Option<usize> {
        match self {
            Self::Server(index) | Self::Agent(index) => Some(index),
            Self::Control | Self::Media => None,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of_box() {
            Some(index) => write!(f, "{} of box {index}", self.binary()),
            None => f.write_str(self.binary()),
        }
    }
}

/// When the kill comes, counted from the operation's begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    After(Duration),
    /// After so many names were made, moved or removed in the victim's folders, and then so much later.
    AtName {
        count: u32,
        then: Duration,
    },
    /// After so many pieces were handed to the victim's box, and then so much later.
    AtPiece {
        count: u32,
        then: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// From 1.
    pub number: u32,
    pub operation: Operation,
    pub victim: Program,
    pub moment: Moment,
    /// Dies at the same instant.
    pub with: Option<Program>,
    /// So long after its restart the victim is killed again.
    pub again: Option<Duration>,
    /// How long the victim is away.
    pub away: Duration,
    /// For what the operation draws by itself.
    pub seed: u64,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "point {}: {:?}, {}", self.number, self.operation, self.victim)?;
        match self.moment {
            Moment::After(time) => write!(f, " after {time:?}")?,
            Moment::AtName { count, then } => write!(f, " at name {count} and {then:?}")?,
            Moment::AtPiece { count, then } => write!(f, " at piece {count} and {then:?}")?,
        }
        if let Some(with) = self.with {
            write!(f, ", with {with}")?;
        }
        if let Some(again) = self.again {
            write!(f, ", again {again:?} after its restart")?;
        }
        Ok(())
    }
}

/// The points of a run. A shorter run with the same seed is the begin of a longer one.
pub fn of_seed(seed: u64, count: u32) -> Vec<Point> {
    let mut draw = Draw::new(seed);
    let mut deck = Vec::new();
    let mut point = |number| {
        // Dealt like cards, so that even a short run has every operation.
        if deck.is_empty() {
            deck = Operation::ALL.to_vec();
        }
        let operation = deck.swap_remove(draw.index(deck.len()));
        one(number, operation, &mut draw)
    };
    (1..=count).map(&mut point).collect()
}

fn one(number: u32, operation: Operation, draw: &mut Draw) -> Point {
    let victim = victim(operation, draw);
    let others: Vec<_> = [Program::Control, Program::Server(0), Program::Agent(0), Program::Agent(1)]
        .into_iter()
        .filter(|other| *other != victim)
        .collect();
    let company = draw.below(100);
    let us = Duration::from_micros;
    let moment = moment(operation, victim, draw);
    Point {
        number,
        operation,
        victim,
        moment,
        with: (company < 15).then(|| others[draw.index(others.len())]),
        again: (15..35).contains(&company).then(|| draw.spread(us(200), us(500_000))),
        away: if draw.percent(70) { Duration::ZERO } else { draw.spread(us(1_000), us(400_000)) },
        seed: draw.next(),
    }
}

/// Much of an operation's time is before its first name and after its last, and what is between two names is short: so
/// most moments are counted in names and pieces, and some are drawn from the clock.
fn moment(operation: Operation, victim: Program, draw: &mut Draw) -> Moment {
    let us = Duration::from_micros;
    if operation == Operation::Fill && matches!(victim, Program::Agent(_)) && draw.percent(55) {
        let count = 1 + u32::try_from(draw.below(PIECES)).unwrap_or(0);
        return Moment::AtPiece { count, then: draw.spread(us(10), us(10_000)) };
    }
    let by_time = if victim == Program::Media { 15 } else { 35 };
    if draw.percent(by_time) {
        return Moment::After(draw.spread(us(10), us(2_000_000)));
    }
    let count = 1 + u32::try_from(draw.below(names(operation, victim))).unwrap_or(0);
    let then = if draw.percent(40) { Duration::ZERO } else { draw.spread(us(10), us(80_000)) };
    Moment::AtName { count, then }
}

/// About so many pieces has the smallest title of noise.
const PIECES: u64 = 8;

/// About how many names one operation makes, moves and removes in the victim's folders.
fn names(operation: Operation, victim: Program) -> u64 {
    match (operation, victim) {
        (_, Program::Media) => 22,
        (_, Program::Control) => 8,
        (_, Program::Server(_)) => 5,
        (Operation::Fill | Operation::Publish, _) => 60,
        (Operation::Plan | Operation::Swap, _) => 12,
        (Operation::Deletion, _) => 40,
    }
}

fn victim(operation: Operation, draw: &mut Draw) -> Program {
    use Program::{Agent, Control, Media, Server};
    let box_index = draw.index(2);
    let (agent, server) = (Agent(box_index), Server(box_index));
    let weights = match operation {
        Operation::Fill => [(agent, 70), (Control, 15), (server, 15)],
        Operation::Publish => [(Media, 80), (Control, 10), (agent, 10)],
        Operation::Plan => [(Control, 80), (agent, 15), (server, 5)],
        Operation::Swap => [(server, 55), (agent, 35), (Control, 10)],
        Operation::Deletion => [(agent, 65), (server, 20), (Control, 15)],
    };
    let mut left = draw.below(weights.iter().map(|(_, weight)| weight).sum());
    for (program, weight) in weights {
        if left < weight {
            return program;
        }
        left -= weight;
    }
    agent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_points_and_a_shorter_run_is_the_begin_of_a_longer() {
        let long = of_seed(7, 200);
        assert_eq!(of_seed(7, 20), long[..20]);
        assert_ne!(of_seed(8, 20), long[..20]);
    }

    #[test]
    fn twenty_points_have_every_operation_and_every_program() {
        for seed in 0..20 {
            let points = of_seed(seed, 20);
            for operation in Operation::ALL {
                assert_eq!(points.iter().filter(|point| point.operation == operation).count(), 4);
            }
        }
        let points = of_seed(1, 1000);
        for binary in ["oca-control", "oca-appliance", "oca-fill", "oca-media"] {
            let times = points.iter().filter(|point| point.victim.binary() == binary).count();
            assert!(times > 100, "{binary} is killed {times} times only");
        }
        assert!(points.iter().filter(|point| point.with.is_some()).count() > 100);
        assert!(points.iter().filter(|point| point.again.is_some()).count() > 100);
    }

    #[test]
    fn a_spread_draws_short_and_long_alike() {
        let mut draw = Draw::new(3);
        let times: Vec<_> =
            (0..2000).map(|_| draw.spread(Duration::from_micros(10), Duration::from_secs(2))).collect();
        assert!(times.iter().all(|time| (10..2_000_000).contains(&time.as_micros())));
        assert!(times.iter().filter(|time| time.as_millis() < 1).count() > 400);
        assert!(times.iter().filter(|time| time.as_millis() > 100).count() > 200);
    }
}
