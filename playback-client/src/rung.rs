//! Which rung of the ladder to fetch next: by throughput while the buffer first fills, by buffer from then on.
//!
//! Pure. The class of algorithm is BBA (Huang et al., SIGCOMM 2014): between a reservoir and an upper mark the buffer
//! maps onto the ladder, and a rung is left only when the map has passed the next one. Measured throughput only caps
//! the way up, so that the choice does not swing about a link that lies between two rungs.

use std::time::Duration;

/// Below this much buffer only the lowest rung is fetched.
const RESERVOIR: Duration = Duration::from_secs(4);
/// With this part of the buffer target any rung is allowed, in percent.
const UPPER_PERCENT: u32 = 75;
/// What part of the measured throughput a rung may need during start-up, in percent.
const STARTUP_PERCENT: u64 = 70;
/// The first fragment, before anything is measured: the best rung that needs no more than this.
const FIRST_BPS_MAX: u64 = 1_500_000;
/// Weight of the newest sample in the running mean of throughput: one in this many.
const SMOOTHING: u64 = 3;

/// A fragment is not given up before it has been arriving for this long: the rate is not known sooner.
const JUDGED_AFTER: Duration = Duration::from_secs(1);

/// How a fragment of video that is under way stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub received: u64,
    /// Of the fragment; `received <= count`.
    pub count: u64,
    /// In which `received` arrived: silences are not counted, they are the time-out's matter.
    pub arriving: Duration,
    /// Until the playhead is at the fragment.
    pub left: Duration,
}

impl Progress {
    /// Whether to throw it away and fetch the lowest rung's fragment, of `lowest` bytes, instead: it will be late, and
    /// the other, at the same rate, will be there sooner.
    pub fn is_hopeless(self, lowest: u64) -> bool {
        let (received, missing) =
            (u128::from(self.received), u128::from(self.count.saturating_sub(self.received)));
        if self.arriving < JUDGED_AFTER || received == 0 {
            return false;
        }
        let missing_us = missing * self.arriving.as_micros() / received;
        missing_us > self.left.as_micros() && u128::from(lowest) < missing
    }
}

#[derive(Clone, Debug)]
pub struct RungChooser {
    /// Average rates, lowest first; not empty.
    rates_bps: Vec<u64>,
    /// The buffer at which any rung is allowed.
    upper: Duration,
    throughput_bps: Option<u64>,
    /// None until the first choice.
    current: Option<usize>,
    buffer_before: Duration,
    starting: bool,
}

impl RungChooser {
    /// `rates_bps`: lowest first. None if there are none.
    pub fn new(rates_bps: Vec<u64>, buffer_target: Duration) -> Option<Self> {
        if rates_bps.is_empty() || !rates_bps.is_sorted() {
            return None;
        }
        Some(Self {
            rates_bps,
            upper: (buffer_target * UPPER_PERCENT / 100).max(RESERVOIR + Duration::from_secs(1)),
            throughput_bps: None,
            current: None,
            buffer_before: Duration::ZERO,
            starting: true,
        })
    }

    /// A fragment of video arrived: `bytes` in `took`.
    pub fn downloaded(&mut self, bytes: u64, took: Duration) {
        let micros = took.as_micros().max(1);
        let sample = u64::try_from(u128::from(bytes) * 8_000_000 / micros).unwrap_or(u64::MAX);
        self.throughput_bps = Some(match self.throughput_bps {
            None => sample,
            Some(mean) => mean - mean / SMOOTHING + sample / SMOOTHING,
        });
    }

    /// A fragment was given up for the lowest rung: go on from there, by buffer.
    pub fn fell(&mut self) {
        (self.current, self.starting) = (Some(0), false);
    }

    /// The rung for the next fragment, with `buffer` of video ahead of the playhead.
    pub fn choose(&mut self, buffer: Duration) -> usize {
        let chosen = match self.current {
            None => self.best_within(FIRST_BPS_MAX),
            Some(current) if self.throughput_bps.is_none() => current,
            Some(current) if self.starting => self.choose_at_start(current, buffer),
            Some(current) => self.choose_by_buffer(current, buffer),
        };
        self.buffer_before = buffer;
        self.current = Some(chosen);
        chosen
    }

    /// Start-up ends when the buffer shrinks, or when it alone would allow as much.
    fn choose_at_start(&mut self, current: usize, buffer: Duration) -> usize {
        let by_buffer = self.choose_by_buffer(current, buffer);
        let spare = self.throughput_bps.map_or(0, |bps| bps / 100 * STARTUP_PERCENT);
        let by_throughput = self.best_within(spare);
        self.starting = buffer >= self.buffer_before && by_buffer < by_throughput;
        if self.starting { by_throughput } else { by_buffer }
    }

    fn choose_by_buffer(&self, current: usize, buffer: Duration) -> usize {
        let allowed = self.rate_allowed(buffer);
        let highest = self.best_within(allowed);
        if highest > current {
            let cap = self.throughput_bps.map_or(current, |bps| self.best_within(bps));
            return highest.min(cap).max(current);
        }
        // Down only when the map has fallen to the rung below.
        match current.checked_sub(1) {
            Some(below) if allowed <= self.rates_bps[below] => highest,
            _ => current,
        }
    }

    /// The map from buffer to rate, linear between the reservoir and the upper mark.
    fn rate_allowed(&self, buffer: Duration) -> u64 {
        let (lowest, highest) = (self.rates_bps[0], self.rates_bps[self.rates_bps.len() - 1]);
        let above = buffer.saturating_sub(RESERVOIR).as_millis();
        let whole = (self.upper - RESERVOIR).as_millis();
        let part = u128::from(highest - lowest) * above.min(whole) / whole;
        lowest + u64::try_from(part).unwrap_or(u64::MAX - lowest)
    }

    /// The best rung that needs no more than `bps`; the lowest if none does.
    fn best_within(&self, bps: u64) -> usize {
        self.rates_bps.iter().rposition(|&rate| rate <= bps).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: Duration = Duration::from_secs(20);

    fn ladder() -> Vec<u64> {
        vec![400_000, 1_200_000, 2_500_000, 5_800_000]
    }

    fn chooser() -> RungChooser {
        RungChooser::new(ladder(), TARGET).unwrap()
    }

    /// Plays 4 s fragments over a link of constant rate; gives the rungs chosen and the time stalled.
    fn simulate(link_bps: u64, rates: Vec<u64>, fragments: usize) -> (Vec<usize>, Duration) {
        let length = Duration::from_secs(4);
        let mut chooser = RungChooser::new(rates.clone(), TARGET).unwrap();
        let (mut buffer, mut stalled, mut chosen) = (Duration::ZERO, Duration::ZERO, Vec::new());
        for index in 0..fragments {
            let rung = chooser.choose(buffer);
            let took = Duration::from_micros(rates[rung] * 4 * 1_000_000 / link_bps);
            chooser.downloaded(rates[rung] * 4 / 8, took);
            if index > 0 {
                stalled += took.saturating_sub(buffer);
            }
            buffer = buffer.saturating_sub(took) + length;
            buffer = buffer.min(TARGET);
            chosen.push(rung);
        }
        (chosen, stalled)
    }

    #[test]
    fn a_fast_link_reaches_the_top_with_the_second_fragment() {
        assert_eq!(simulate(50_000_000, ladder(), 6).0, [1, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn a_choice_asked_for_again_before_anything_is_measured_stays() {
        let mut chooser = chooser();
        assert_eq!([0, 4].map(|buffer| chooser.choose(Duration::from_secs(buffer))), [1, 1]);
        chooser.downloaded(1_000_000, Duration::from_millis(100));
        assert_eq!(chooser.choose(Duration::from_secs(4)), 3);
    }

    #[test]
    fn an_empty_buffer_means_the_lowest_rung() {
        let mut chooser = chooser();
        chooser.choose(Duration::ZERO);
        chooser.downloaded(1_000_000, Duration::from_millis(100));
        assert_eq!(chooser.choose(Duration::from_secs(4)), 3);
        assert_eq!(chooser.choose(Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_link_between_two_rungs_settles_on_the_lower() {
        let (chosen, stalled) = simulate(3_500_000, ladder(), 60);
        assert_eq!(stalled, Duration::ZERO);
        assert!(chosen[20..].iter().all(|&rung| rung == 2), "{chosen:?}");
    }

    #[test]
    fn a_fragment_is_given_up_only_if_it_is_late_and_the_lowest_rung_is_sooner() {
        let second = Duration::from_secs;
        let late = Progress { received: 100_000, count: 900_000, arriving: second(2), left: second(10) };
        assert!(late.is_hopeless(200_000));
        assert!(!late.is_hopeless(800_000));
        assert!(!Progress { left: second(16), ..late }.is_hopeless(200_000));
        assert!(!Progress { received: 800_000, left: second(0), ..late }.is_hopeless(200_000));
        assert!(!Progress { arriving: Duration::from_millis(900), ..late }.is_hopeless(200_000));
        assert!(!Progress { received: 0, ..late }.is_hopeless(200_000));
    }

    #[test]
    fn an_empty_or_unsorted_ladder_is_refused() {
        assert!(RungChooser::new(vec![], TARGET).is_none());
        assert!(RungChooser::new(vec![2, 1], TARGET).is_none());
    }

    proptest! {
        #[test]
        fn more_buffer_never_means_a_lower_rung(
            current in 0_usize..4, throughput in 0_u64..20_000_000, less_ms in 0_u64..25_000, more_ms in 0_u64..9_000
        ) {
            let mut chooser = chooser();
            (chooser.starting, chooser.throughput_bps) = (false, Some(throughput));
            let less = chooser.choose_by_buffer(current, Duration::from_millis(less_ms));
            let more = chooser.choose_by_buffer(current, Duration::from_millis(less_ms + more_ms));
            prop_assert!(less <= more);
            prop_assert!(more < 4);
        }

        #[test]
        fn a_link_half_again_as_fast_as_the_lowest_rung_never_stalls_once_started(
            mut rates in prop::collection::vec(100_000_u64..20_000_000, 1..8), spare_percent in 150_u64..2_000
        ) {
            rates.sort_unstable();
            let link = rates[0] * spare_percent / 100;
            // The first choice is made before anything is measured: it may be too much for the link.
            prop_assume!(link >= FIRST_BPS_MAX);
            prop_assert_eq!(simulate(link, rates, 80).1, Duration::ZERO);
        }

        #[test]
        fn no_figures_make_it_panic_or_leave_the_ladder(
            rates in prop::collection::vec(any::<u64>(), 1..6),
            steps in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 1..40)
        ) {
            let mut rates = rates;
            rates.sort_unstable();
            let mut chooser = RungChooser::new(rates.clone(), TARGET).unwrap();
            for (bytes, micros, buffer_ms) in steps {
                prop_assert!(chooser.choose(Duration::from_millis(u64::from(buffer_ms))) < rates.len());
                chooser.downloaded(bytes, Duration::from_micros(micros));
            }
        }
    }
}
