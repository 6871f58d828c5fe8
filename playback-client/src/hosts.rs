//! Which appliance to ask next: the server's ranking, less those that declined lately.
//!
//! Pure: `(state, event, now) -> choice`. The web player follows the same three rules:
//! 1. the order is the control plane's;
//! 2. an appliance that declines is passed over for [`BAN`], for every stream;
//! 3. when all are passed over, the one that declined longest ago is asked, but not sooner than [`RETRY_PAUSE`]
//!    after it declined, so that a whole site that is down is not hammered.
//!
//! `now` is the time since the session began. What counts as declining: [`crate::decline`].

use std::collections::BTreeMap;
use std::time::Duration;

use content::id::ApplianceId;

/// How long an appliance that declined is passed over.
pub const BAN: Duration = Duration::from_secs(30);

/// The shortest time between a decline and the next request to the same appliance.
pub const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// When each last declined.
    declined: BTreeMap<ApplianceId, Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Into the ranking that was asked about.
    pub index: usize,
    /// Not to be asked before this instant.
    pub not_before: Duration,
}

impl Hosts {
    /// The appliance to ask, out of `ranked`, best first. None only if `ranked` is empty.
    pub fn choose(&self, ranked: &[&ApplianceId], now: Duration) -> Option<Choice> {
        if let Some(index) = ranked.iter().position(|appliance| !self.is_banned(appliance, now)) {
            return Some(Choice { index, not_before: now });
        }
        let declined_at = |index: usize| self.declined.get(ranked[index]).copied().unwrap_or_default();
        let index = (0..ranked.len()).min_by_key(|&index| declined_at(index))?;
        Some(Choice { index, not_before: now.max(declined_at(index) + RETRY_PAUSE) })
    }

    pub fn is_banned(&self, appliance: &ApplianceId, now: Duration) -> bool {
        self.declined.get(appliance).is_some_and(|&at| now < at + BAN)
    }

    pub fn decline(&mut self, appliance: &ApplianceId, now: Duration) {
        self.declined.insert(appliance.clone(), now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Vec<ApplianceId> {
        ["box-a", "box-b", "box-c"].map(|name| name.parse().unwrap()).to_vec()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_best_that_has_not_declined_is_asked_at_once() {
        let names = names();
        let ranked: Vec<_> = names.iter().collect();
        let mut hosts = Hosts::default();
        assert_eq!(hosts.choose(&ranked, seconds(1)), Some(Choice { index: 0, not_before: seconds(1) }));
        hosts.decline(&names[0], seconds(1));
        assert_eq!(hosts.choose(&ranked, seconds(1)), Some(Choice { index: 1, not_before: seconds(1) }));
        assert_eq!(hosts.choose(&[], seconds(1)), None);
    }

    #[test]
    fn a_declined_appliance_returns_after_thirty_seconds() {
        let names = names();
        let ranked: Vec<_> = names.iter().collect();
        let mut hosts = Hosts::default();
        hosts.decline(&names[0], seconds(5));
        assert_eq!(hosts.choose(&ranked, Duration::from_millis(34_999)).unwrap().index, 1);
        assert_eq!(hosts.choose(&ranked, seconds(35)).unwrap().index, 0);
    }

    #[test]
    fn when_all_declined_the_longest_ago_is_asked_after_a_pause() {
        let names = names();
        let ranked: Vec<_> = names.iter().collect();
        let mut hosts = Hosts::default();
        for (index, at) in [(0, 300), (1, 100), (2, 200)] {
            hosts.decline(&names[index], Duration::from_millis(at));
        }
        let choice = hosts.choose(&ranked, Duration::from_millis(310)).unwrap();
        assert_eq!(choice, Choice { index: 1, not_before: Duration::from_millis(600) });
    }

    proptest! {
        /// Against the slowest reading: keep the whole history, and sort the whole ranking at each question.
        #[test]
        fn choice_agrees_with_a_sort_of_the_whole_history(
            steps in prop::collection::vec((0_usize..3, 0_u64..20_000, any::<bool>()), 1..60)
        ) {
            let names = names();
            let ranked: Vec<_> = names.iter().collect();
            let (mut hosts, mut history, mut now_ms) = (Hosts::default(), Vec::new(), 0);
            for (index, wait_ms, declines) in steps {
                now_ms += wait_ms;
                if declines {
                    hosts.decline(&names[index], Duration::from_millis(now_ms));
                    history.push((index, now_ms));
                }
                let last = |index: usize| history.iter().rev().find(|entry| entry.0 == index).map(|entry| entry.1);
                let mut order: Vec<usize> = (0..3).collect();
                order.sort_by_key(|&index| match last(index) {
                    Some(at) if now_ms < at + 30_000 => (1, at, index),
                    _ => (0, 0, index),
                });
                let chosen = hosts.choose(&ranked, Duration::from_millis(now_ms)).unwrap();
                prop_assert_eq!(chosen.index, order[0]);
                prop_assert!(chosen.not_before <= Duration::from_millis(now_ms) + RETRY_PAUSE);
            }
        }
    }
}
