//! How often each time was seen: buckets that are a 64th of their value wide, so a percentile is right to 1.6 %.

use std::time::Duration;

/// Buckets in each doubling of the value.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let bucket = bucket(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.longest = self.longest.max(time);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The least time that at least `thousandths` of a thousand did not exceed, rounded up to its bucket's end. Zero if
    /// nothing was recorded.
    pub fn percentile(&self, thousandths: u64) -> Duration {
        let rank = self.count.saturating_mul(thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(end(bucket)).min(self.longest);
            }
        }
        self.longest
    }
}

fn bucket(value: u64) -> usize {
    let doublings = value.max(1).ilog2().saturating_sub(STEP_BITS);
    let index = u64::from(doublings) * STEPS + (value >> doublings);
    usize::try_from(index).expect("64 doublings of 64 buckets")
}

/// The greatest value of the bucket.
fn end(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).expect("a 64-bit machine");
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = u128::from(bucket - doublings * STEPS) + 1;
    u64::try_from((step << doublings) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_ends_at_most_a_64th_above_it() {
        for shift in 0..64u32 {
            for near in [0, 1, 7] {
                let value = (1u64 << shift).saturating_add(near << shift.saturating_sub(4));
                let end = end(bucket(value));
                assert!(end >= value && end - value <= value / 64, "{value} {end}");
                assert!(value == u64::MAX || bucket(value + 1) >= bucket(value), "{value}");
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(500), Duration::ZERO);
        // 1 to 1000 µs, in no order.
        for index in 0..1000u64 {
            histogram.record(Duration::from_micros(index * 617 % 1000 + 1));
        }
        for (thousandths, micros) in [(1, 1), (500, 500), (990, 990), (999, 999), (1000, 1000)] {
            let found = histogram.percentile(thousandths).as_secs_f64();
            let right = Duration::from_micros(micros).as_secs_f64();
            assert!((right..=right * 1.016).contains(&found), "{thousandths}: {found}");
        }
        assert_eq!(histogram.longest(), Duration::from_millis(1));
        assert_eq!(histogram.count(), 1000);
    }
}
