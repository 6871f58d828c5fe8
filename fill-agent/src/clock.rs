//! The agent's one clock. Everything else takes [`Now`] as a value.

use std::time::Instant;

use jiff::Timestamp;

/// An instant, as the pure parts see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Since the agent's start; never goes back.
    pub ms: u64,
    /// The wall's clock; may jump. Only for what others stamped: `FillSource::not_before`.
    pub wall: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the impure module that reads the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { ms, wall: Timestamp::now() }
    }
}
