//! The agent's one clock. Everything else takes [`Now`] as a value.
//!
//! A box's wall clock may be wrong by years, and may jump. What the control plane stamped is read against the control
//! plane's own clock, which its answers tell; waits are of the monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// An instant, as the pure parts see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Since the agent's start; never goes back.
    pub ms: u64,
    /// The control plane's wall clock, as far as it is known. Only for what that stamped: `FillSource::not_before`.
    pub wall: Timestamp,
    /// How far this box's own wall clock was ahead of that when the control plane last answered.
    pub clock_off_ms: i64,
}

#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    off_ms: Arc<AtomicI64>,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the impure module that reads the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now(), off_ms: Arc::default() }
    }

    /// The control plane says that it is `theirs` just now.
    pub fn compare(&self, theirs: Timestamp) {
        let off = self.own().as_millisecond().saturating_sub(theirs.as_millisecond());
        self.off_ms.store(off, Ordering::Relaxed);
    }

    /// This box's wall clock.
    pub fn own(&self) -> Timestamp {
        Timestamp::now()
    }

    pub fn now(&self) -> Now {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let clock_off_ms = self.off_ms.load(Ordering::Relaxed);
        let own = self.own();
        let wall = own.checked_sub(SignedDuration::from_millis(clock_off_ms)).unwrap_or(own);
        Now { ms, wall, clock_off_ms }
    }
}
