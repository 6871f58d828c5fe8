//! Whether a volume's disk is still to be read from: a count of failures in a row, and how slow its reads are. Pure.
//!
//! A read's time runs from when the disk got it, not from when it was queued: a disk that is asked too much is busy, not
//! dying.

use crate::clock::Now;

/// Failures of a volume in a row until it is taken out.
pub const FAILURES_MAX: u32 = 5;
/// A read that takes longer is slow.
pub const SLOW_NS: u64 = 2_000_000_000;
const WINDOW_NS: u64 = 5_000_000_000;
/// Half a minute.
const SLOW_WINDOWS_MAX: u32 = 6;

#[derive(Debug, Default)]
pub struct Verdict {
    failures: u32,
    /// Of the window that runs: when it began, its reads, and the slow ones among them.
    began: Option<Now>,
    reads: u64,
    slow: u64,
    /// In a row.
    slow_windows: u32,
}

impl Verdict {
    /// One that is being tried again: the next failure takes it out.
    pub fn on_trial() -> Self {
        Self { failures: FAILURES_MAX - 1, ..Self::default() }
    }

    /// True: take it out.
    pub fn failed(&mut self) -> bool {
        self.failures += 1;
        self.failures >= FAILURES_MAX
    }

    pub fn read(&mut self, took_ns: u64) {
        self.failures = 0;
        self.reads += 1;
        self.slow += u64::from(took_ns > SLOW_NS);
    }

    /// When to [`Self::look`] again though nothing happens.
    pub fn next(&self) -> Option<Now> {
        self.began.map(|began| Now(began.0 + WINDOW_NS))
    }

    /// `hanging`: reads in flight that are slow already. True: the 99th percentile of its reads has been slow for half a
    /// minute; take it out.
    pub fn look(&mut self, now: Now, hanging: usize) -> bool {
        let began = *self.began.get_or_insert(now);
        let lasted = now.0.saturating_sub(began.0);
        if lasted < WINDOW_NS {
            return false;
        }
        let hanging = u64::try_from(hanging).unwrap_or(u64::MAX);
        let (slow, all) = (self.slow + hanging, self.reads + hanging);
        // More than one in a hundred. After a pause nothing is known of the time before.
        let counts = all > 0 && slow * 100 > all;
        let before = if lasted < 2 * WINDOW_NS { self.slow_windows } else { 0 };
        self.slow_windows = if counts { before + 1 } else { 0 };
        (self.began, self.reads, self.slow) = (Some(now), 0, 0);
        self.slow_windows >= SLOW_WINDOWS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// Reads of so long each, a hundred a second, for so many seconds; the second at which it is taken out.
    fn taken_out(seconds: u64, took_ns: impl Fn(u64, u64) -> u64) -> Option<u64> {
        let mut verdict = Verdict::default();
        (0..seconds).find(|second| {
            (0..100).for_each(|read| verdict.read(took_ns(*second, read)));
            verdict.look(Now(second * S), 0)
        })
    }

    #[test]
    fn five_failures_in_a_row_take_it_out_and_one_good_read_between_does_not() {
        let mut verdict = Verdict::default();
        for _ in 0..20 {
            assert!((1..FAILURES_MAX).all(|_| !verdict.failed()));
            verdict.read(1);
        }
        assert!((1..FAILURES_MAX).all(|_| !verdict.failed()) && verdict.failed());
        assert!(Verdict::on_trial().failed());
    }

    #[test]
    fn half_a_minute_of_slow_reads_takes_it_out() {
        assert_eq!(taken_out(100, |_, _| 3 * S), Some(30));
        // Two in a hundred are the 99th percentile, one is not.
        assert_eq!(taken_out(100, |_, read| if read < 2 { 3 * S } else { S }), Some(30));
        assert_eq!(taken_out(500, |_, read| if read < 1 { 9 * S } else { S }), None);
        assert_eq!(taken_out(500, |_, _| 2 * S), None);
        // It recovers for a window now and then.
        assert_eq!(taken_out(500, |second, _| if second % 25 < 6 { S } else { 3 * S }), None);
    }

    #[test]
    fn reads_that_never_end_count_and_a_pause_does_not() {
        let mut verdict = Verdict::default();
        let out = (0..60).find(|second| verdict.look(Now(second * S), usize::from(*second > 2)));
        assert_eq!(out, Some(30), "nothing ends, and something hangs");
        let mut verdict = Verdict::default();
        for minute in 0..60 {
            verdict.read(3 * S);
            assert!(!verdict.look(Now(minute * 60 * S), 0), "one slow read a minute");
        }
    }
}
