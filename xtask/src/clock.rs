//! The only place here that reads a clock or waits for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::stop::Stop;

/// How often a condition outside this process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[expect(clippy::disallowed_methods, reason = "this is the impure module that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "other processes give no event to wait for; every caller bounds it"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks again and again until `look` finds something, at most for `limit`. `what` completes "waited … for ".
pub fn wait_for<T>(
    stop: &Stop,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = now();
    loop {
        stop.check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        pause(LOOK_EVERY);
    }
}
