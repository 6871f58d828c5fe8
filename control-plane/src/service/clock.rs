//! The one place of the control plane that reads the time.
//!
//! The wall's clock may be set at any moment, by years. What the control plane knows does not grow older by it: whoever
//! asks for the time is told when the clock has jumped since somebody last asked.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// Less is a clock being steered by NTP.
const JUMP_MS: i64 = 1_000;

pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Compares the wall's clock with the monotonic one.
pub struct JumpWatch {
    start: Instant,
    /// What the wall's clock said at the start, if it had gone as it goes now; ms.
    origin_ms: AtomicI64,
}

impl JumpWatch {
    #[expect(clippy::disallowed_methods, reason = "this is the impure module that reads the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now(), origin_ms: AtomicI64::new(now().as_millisecond()) }
    }

    /// By how much the wall's clock was set since the last call, if it was.
    pub fn jumped(&self, now: Timestamp) -> Option<SignedDuration> {
        self.after(now, i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    fn after(&self, now: Timestamp, elapsed_ms: i64) -> Option<SignedDuration> {
        let origin_ms = now.as_millisecond().saturating_sub(elapsed_ms);
        let before_ms = self.origin_ms.load(Ordering::Acquire);
        let by_ms = origin_ms.saturating_sub(before_ms);
        if by_ms.abs() < JUMP_MS {
            return None;
        }
        // Of two who see it at once, one tells it.
        let first =
            self.origin_ms.compare_exchange(before_ms, origin_ms, Ordering::AcqRel, Ordering::Acquire);
        first.is_ok().then(|| SignedDuration::from_millis(by_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_told_once_and_time_that_passes_is_none() {
        let watch = JumpWatch::start();
        let start = Timestamp::from_millisecond(watch.origin_ms.load(Ordering::Relaxed)).unwrap();
        let year = SignedDuration::from_hours(365 * 24);
        let at = |ms: i64| start + SignedDuration::from_millis(ms);
        assert_eq!(watch.after(at(5_000), 5_000), None);
        assert_eq!(watch.after(at(6_900), 6_000), None, "steered");
        assert_eq!(watch.after(at(7_000) + year, 7_000), Some(year));
        assert_eq!(watch.after(at(8_000) + year, 8_000), None);
        assert_eq!(watch.after(at(9_000), 9_000), Some(-year));
    }
}
