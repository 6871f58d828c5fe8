//! Times as values. What reads a clock is `sys` and nothing else; all below takes these.

use jiff::Timestamp;

/// Monotonic nanoseconds since some moment before the server's start. Deadlines are of this kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

/// Whole seconds since 1970, UTC: what tokens and the Date header are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Wall {
    /// The same moment; one outside what the calendar knows becomes 1970.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
