//! The only module that asks what time it is. In tests the runtime's clock is paused, and this one with it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Counts from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begin: Instant,
    begin_wall: Timestamp,
}

impl Clock {
    pub fn start() -> Self {
        Self { begin: Instant::now(), begin_wall: Timestamp::now() }
    }

    /// Since the clock was started.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The time of day. It moves with the monotonic clock, so a clock that is set does not make a play stall.
    pub fn wall(&self) -> Timestamp {
        self.begin_wall.saturating_add(self.now()).unwrap_or(Timestamp::MAX)
    }

    pub async fn sleep_until(&self, instant: Duration) {
        tokio::time::sleep_until(self.begin + instant).await;
    }

    /// A name for a session that no other play of this machine has.
    pub fn session_name(&self) -> String {
        let seed = format!("{} {}", self.begin_wall.as_nanosecond(), std::process::id());
        let digest = content::id::ObjectId::of(seed.as_bytes()).to_string();
        format!("oca-play-{}", &digest[..16])
    }
}
