//! Steering: which appliances may serve this play, in which order, and why not the others (DESIGN §6, steps 3 and 4).
//!
//! ```text
//! fleet -> silent? unwell? draining? full? -> own territory before others -> weighted rendezvous of the session
//!       -> per object: the first ten that hold it
//! ```
//!
//! Routes learned from the providers will stand before the territory; nothing else here changes for it.
//! Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): an appliance scores `headroom / -ln u`, where `u` is
//! uniform and depends on the session and its own name alone. So a lost box moves only the sessions that it had, and each
//! box gets sessions in proportion to its headroom.

use std::cmp::Ordering;

use content::id::{CatalogueKey, SessionId};
use content::play::RANKED_MAX;
use content::report::{CLOCK_OFF_MAX_S, Health};
use jiff::{SignedDuration, Timestamp};

use crate::snapshot::{Appliance, Residency, Snapshot};

/// Three reports missed.
pub const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(6);
/// At this headroom or less a box gets no new session.
pub const FULL_HEADROOM: f64 = 0.02;

/// Why an appliance is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has not reported for [`SILENT_AFTER`], or nobody can tell because the clock was set back.
    Silent,
    /// Its clock is further than `CLOCK_OFF_MAX_S` from the control plane's: it would refuse the play's token, or let it
    /// live too long.
    Clock,
    /// It says that it must be offered to nobody.
    Health,
    Draining,
    Full,
    /// It does not hold the object.
    Content,
    /// Ten better ones do.
    Rank,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Clock => "clock",
            Self::Health => "health",
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Content => "content",
            Self::Rank => "rank",
        }
    }
}

/// An appliance that may be offered, if it holds what is asked for.
pub struct Candidate<'a> {
    pub appliance: &'a Appliance,
    residency: Residency<'a>,
    /// Its cluster is for another territory.
    elsewhere: bool,
    score: f64,
}

impl Candidate<'_> {
    pub fn holds(&self, key: CatalogueKey) -> bool {
        self.residency.holds(key)
    }
}

pub struct Ranking<'a> {
    /// The best first.
    pub candidates: Vec<Candidate<'a>>,
    pub passed_over: Vec<(&'a Appliance, Reason)>,
}

/// Whether an appliance may be offered at all; `Ok` carries its headroom, above [`FULL_HEADROOM`].
pub fn fitness(appliance: &Appliance, now: Timestamp) -> Result<f64, Reason> {
    let live = appliance.live.as_ref().ok_or(Reason::Silent)?;
    // An old report proves nothing, so silence is judged before all that the report says. One from the future is as old
    // as it can be: the wall's clock was set back since, and its age is not known any more.
    if now.duration_since(live.received).abs() > SILENT_AFTER {
        return Err(Reason::Silent);
    }
    let off = live.report.clock.map(|clock| clock.duration_since(live.clock).abs());
    if off.is_some_and(|off| off.as_secs() > CLOCK_OFF_MAX_S) {
        return Err(Reason::Clock);
    }
    // `server` is none while the segment server does not answer its own agent.
    if live.report.health == Health::Failed || live.report.server.is_none() {
        return Err(Reason::Health);
    }
    if live.report.draining || appliance.drain_ordered {
        return Err(Reason::Draining);
    }
    // Not `<=`: what is not a number is full too.
    if live.report.headroom > FULL_HEADROOM { Ok(live.report.headroom) } else { Err(Reason::Full) }
}

/// Orders the whole fleet for one session.
pub fn rank<'a>(snapshot: &'a Snapshot, session: &SessionId, territory: &str, now: Timestamp) -> Ranking<'a> {
    let mut ranking =
        Ranking { candidates: Vec::with_capacity(snapshot.fleet.len()), passed_over: Vec::new() };
    for appliance in snapshot.fleet.values() {
        let judged = fitness(appliance, now);
        match judged.and_then(|headroom| Ok((headroom, snapshot.residency(appliance).ok_or(Reason::Silent)?)))
        {
            Ok((headroom, residency)) => ranking.candidates.push(Candidate {
                appliance,
                residency,
                elsewhere: is_elsewhere(snapshot, appliance, territory),
                score: score(session, appliance, headroom),
            }),
            Err(reason) => ranking.passed_over.push((appliance, reason)),
        }
    }
    ranking.candidates.sort_by(best_first);
    ranking
}

/// The first [`RANKED_MAX`] that hold an object, as indexes into `candidates`.
pub fn holders(candidates: &[Candidate<'_>], key: CatalogueKey) -> Vec<usize> {
    let holding = candidates.iter().enumerate().filter(|(_, candidate)| candidate.holds(key));
    holding.map(|(index, _)| index).take(RANKED_MAX).collect()
}

fn is_elsewhere(snapshot: &Snapshot, appliance: &Appliance, territory: &str) -> bool {
    let cluster = snapshot.clusters.get(&appliance.registration.cluster);
    let home = cluster.and_then(|cluster| cluster.territory.as_deref());
    home.is_some_and(|home| home != territory)
}

fn best_first(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let names = || [a, b].map(|candidate| &candidate.appliance.registration.appliance);
    let by_score = a.elsewhere.cmp(&b.elsewhere).then(b.score.total_cmp(&a.score));
    by_score.then_with(|| {
        let [a, b] = names();
        a.cmp(b)
    })
}

fn score(session: &SessionId, appliance: &Appliance, headroom: f64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(session.as_str().as_bytes());
    // Neither name can contain a zero byte, so two pairs never hash the same text.
    hasher.update(&[0]);
    hasher.update(appliance.registration.appliance.as_str().as_bytes());
    let mut word = [0; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    headroom / -uniform(u64::from_le_bytes(word)).ln()
}

/// In (0, 1), never at its ends: the 53 bits that a double has, and a half.
fn uniform(word: u64) -> f64 {
    const STEPS: f64 = 9_007_199_254_740_992.0;
    ((word >> 11) as f64 + 0.5) / STEPS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::tests::{Box, film, noon, world};

    fn order(snapshot: &Snapshot, session: &str) -> Vec<String> {
        let ranking = rank(snapshot, &session.parse().unwrap(), "SE", noon());
        let name = |candidate: &Candidate<'_>| candidate.appliance.registration.appliance.to_string();
        ranking.candidates.iter().map(name).collect()
    }

    fn boxes(headrooms: &[f64]) -> Vec<Box> {
        let named = headrooms.iter().enumerate();
        named.map(|(index, &headroom)| Box { headroom, ..Box::well(&format!("box-{index:02}")) }).collect()
    }

    #[test]
    fn each_kind_of_unfitness_is_named() {
        let reason = |change: fn(&mut Box)| {
            let mut one = Box::well("box-a");
            change(&mut one);
            let snapshot = world(&[film("film")], &[one]);
            let ranking = rank(&snapshot, &"s".parse().unwrap(), "SE", noon());
            ranking.passed_over.first().map(|(_, reason)| reason.as_str())
        };
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|one| one.age_s = Some(6)), None);
        assert_eq!(reason(|one| one.age_s = Some(7)), Some("silent"));
        assert_eq!(reason(|one| one.age_s = None), Some("silent"));
        assert_eq!(reason(|one| one.age_s = Some(-6)), None);
        assert_eq!(reason(|one| one.age_s = Some(-7)), Some("silent"), "the clock was set back since");
        assert_eq!(reason(|one| one.clock_off_s = 30), None);
        assert_eq!(reason(|one| one.clock_off_s = 31), Some("clock"));
        assert_eq!(reason(|one| one.clock_off_s = -31), Some("clock"));
        assert_eq!(reason(|one| one.health = Health::Degraded), None);
        assert_eq!(reason(|one| one.health = Health::Failed), Some("health"));
        assert_eq!(reason(|one| one.server_down = true), Some("health"));
        assert_eq!(reason(|one| one.draining = true), Some("draining"));
        assert_eq!(reason(|one| one.drain_ordered = true), Some("draining"));
        assert_eq!(reason(|one| one.headroom = 0.02), Some("full"));
        assert_eq!(reason(|one| one.headroom = f64::NAN), Some("full"));
    }

    #[test]
    fn a_clock_that_is_set_makes_no_box_older() {
        let snapshot = world(&[film("film")], &[Box::well("box-a")]);
        let judge =
            |snapshot: &Snapshot, now| fitness(&snapshot.fleet[&"box-a".parse().unwrap()], now).map(drop);
        for year in [SignedDuration::from_hours(365 * 24), SignedDuration::from_hours(-365 * 24)] {
            assert_eq!(judge(&snapshot, noon() + year), Err(Reason::Silent));
            let moved = snapshot.after_clock_jump(year);
            assert_eq!(judge(&moved, noon() + year), Ok(()));
            let later = noon() + year + SILENT_AFTER + SignedDuration::from_secs(1);
            assert_eq!(judge(&moved, later), Err(Reason::Silent));
        }
    }

    #[test]
    fn sessions_are_spread_by_headroom() {
        let snapshot = world(&[], &boxes(&[0.8, 0.2, 0.4]));
        let mut firsts = BTreeMap::new();
        for session in 0..14_000 {
            *firsts.entry(order(&snapshot, &format!("s-{session}"))[0].clone()).or_insert(0) += 1;
        }
        // Expected 8,000, 2,000 and 4,000; six standard deviations are below 360.
        for (name, expected) in [("box-00", 8000), ("box-01", 2000), ("box-02", 4000)] {
            let count: i32 = firsts[name];
            assert!((count - expected).abs() < 360, "{name} was first {count} times");
        }
    }

    #[test]
    fn a_cluster_of_another_territory_comes_after_its_own() {
        let mut snapshot = world(&[], &boxes(&[0.1, 0.9]));
        let mut far = snapshot.clusters.as_ref().clone();
        far.insert("far".parse().unwrap(), crate::snapshot::Cluster { territory: Some("NO".to_owned()) });
        snapshot.clusters = Arc::new(far);
        let moved = Box { cluster: "far", ..boxes(&[0.1, 0.9])[1].clone() };
        let snapshot = snapshot.with_appliance(moved.appliance());
        for session in 0..50 {
            assert_eq!(order(&snapshot, &format!("s-{session}")), ["box-00", "box-01"]);
        }
    }

    proptest! {
        #[test]
        fn losing_a_box_moves_only_its_own_share(
            headrooms in prop::collection::vec(0.03f64..1.0, 2..12),
            lost in any::<prop::sample::Index>(),
            session in "[a-z0-9]{1,16}",
        ) {
            let all = boxes(&headrooms);
            let lost = lost.index(all.len());
            let without: Vec<_> = all.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, b)| b.clone()).collect();
            let mut expected = order(&world(&[], &all), &session);
            expected.retain(|name| *name != all[lost].name);
            prop_assert_eq!(order(&world(&[], &without), &session), expected);
        }

        #[test]
        fn the_order_does_not_depend_on_the_order_of_arrival(
            headrooms in prop::collection::vec(0.0f64..1.0, 1..12),
            session in "[a-z0-9]{1,16}",
        ) {
            let forward = boxes(&headrooms);
            let mut backward = forward.clone();
            backward.reverse();
            prop_assert_eq!(order(&world(&[], &forward), &session), order(&world(&[], &backward), &session));
        }
    }
}
