//! Which source of an object to use next: by rank, by `not_before`, and by how its host behaved. Pure.
//!
//! A source that has not got the object is out for this attempt at the object; a host that hangs, refuses or sends
//! wrong bytes is penalised for a while, for all objects.

use std::collections::BTreeMap;

use content::fill::FillSource;

use crate::clock::Now;

/// After the first fault of a host; doubles with each further one, up to [`PENALTY_MS_MAX`].
pub const PENALTY_MS: u64 = 250;
pub const PENALTY_MS_MAX: u64 = 60_000;
/// An attempt at an object ends at this many faults without a piece in between.
pub const FAULTS_IN_A_ROW_MAX: u32 = 6;
/// ... or at this many in all.
pub const FAULTS_MAX: u32 = 40;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it sent nothing for {0} ms")]
    Stalled(u64),
    #[error("it is too slow: {0}")]
    TooSlow(String),
    #[error("it answered {0}")]
    Status(u16),
    #[error("it answered with another range than asked for ({0})")]
    WrongRange(String),
    #[error("its body ended early")]
    ShortBody,
    #[error("piece {0} is wrong")]
    BadPiece(u64),
    #[error("the verification tree is wrong: {0}")]
    BadTree(String),
    #[error("this agent cannot use it: {0}")]
    Unusable(String),
}

impl Fault {
    /// Whether it is about this object only, so that trying the same source again is no use.
    fn is_final(&self) -> bool {
        match self {
            // RFC 9110 15.5: the request is at fault; 408 and 429 ask for patience instead.
            Self::Status(status) => (400..500).contains(status) && *status != 408 && *status != 429,
            Self::Unusable(_) | Self::BadTree(_) => true,
            Self::Unreachable(_)
            | Self::Stalled(_)
            | Self::TooSlow(_)
            | Self::WrongRange(_)
            | Self::ShortBody
            | Self::BadPiece(_) => false,
        }
    }
}

/// How hosts behaved, over all objects. Bounded: a host is forgotten when its penalty has long passed.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    penalties: BTreeMap<String, Penalty>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    strikes: u32,
    until_ms: u64,
}

impl Hosts {
    pub fn penalise(&mut self, url: &str, now: Now) {
        self.penalties.retain(|_, penalty| penalty.until_ms.saturating_add(PENALTY_MS_MAX) > now.ms);
        let penalty =
            self.penalties.entry(host(url).to_owned()).or_insert(Penalty { strikes: 0, until_ms: 0 });
        let wait = PENALTY_MS.saturating_mul(1 << penalty.strikes.min(16)).min(PENALTY_MS_MAX);
        penalty.strikes = penalty.strikes.saturating_add(1);
        penalty.until_ms = now.ms.saturating_add(wait);
    }

    pub fn praise(&mut self, url: &str) {
        self.penalties.remove(host(url));
    }

    fn until_ms(&self, url: &str) -> u64 {
        self.penalties.get(host(url)).map_or(0, |penalty| penalty.until_ms)
    }
}

/// The authority of a URL: what a penalty is for.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Use(usize),
    /// None may be used before so many milliseconds have passed.
    Wait(u64),
    GiveUp,
}

/// One attempt at one object.
#[derive(Clone, Debug)]
pub struct Attempt {
    sources: Vec<FillSource>,
    out: Vec<bool>,
    faults: u32,
    faults_in_a_row: u32,
}

impl Attempt {
    pub fn new(sources: Vec<FillSource>) -> Self {
        let out = vec![false; sources.len()];
        Self { sources, out, faults: 0, faults_in_a_row: 0 }
    }

    pub fn source(&self, index: usize) -> Option<&FillSource> {
        self.sources.get(index)
    }

    /// The best that may be used now, among those that `fits`.
    pub fn next(&self, hosts: &Hosts, now: Now, fits: impl Fn(&FillSource) -> bool) -> Next {
        if self.faults >= FAULTS_MAX || self.faults_in_a_row >= FAULTS_IN_A_ROW_MAX {
            return Next::GiveUp;
        }
        let usable = || {
            let all = self.sources.iter().zip(&self.out).enumerate();
            all.filter(|(_, (source, out))| !**out && fits(source))
        };
        let wait_ms = |source: &FillSource| {
            hosts.until_ms(&source.url).saturating_sub(now.ms).max(until_open_ms(source, now))
        };
        if let Some((index, _)) = usable().find(|(_, (source, _))| wait_ms(source) == 0) {
            return Next::Use(index);
        }
        usable().map(|(_, (source, _))| wait_ms(source)).min().map_or(Next::GiveUp, Next::Wait)
    }

    pub fn failed(&mut self, index: usize, fault: &Fault, hosts: &mut Hosts, now: Now) {
        self.faults = self.faults.saturating_add(1);
        self.faults_in_a_row = self.faults_in_a_row.saturating_add(1);
        let Some(source) = self.sources.get(index) else { return };
        if fault.is_final() {
            self.out[index] = true;
        } else {
            hosts.penalise(&source.url, now);
        }
    }

    pub fn progressed(&mut self, index: usize, hosts: &mut Hosts) {
        self.faults_in_a_row = 0;
        if let Some(source) = self.sources.get(index) {
            hosts.praise(&source.url);
        }
    }
}

/// Milliseconds until a source may be used.
pub fn until_open_ms(source: &FillSource, now: Now) -> u64 {
    let wait = source.not_before.as_millisecond().saturating_sub(now.wall.as_millisecond());
    u64::try_from(wait).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use content::fill::SourceKind;
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn at(ms: u64) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::from_millis(i64::try_from(ms).unwrap());
        Now { ms, wall, clock_off_ms: 0 }
    }

    fn source(url: &str, open_at_ms: u64) -> FillSource {
        FillSource {
            kind: SourceKind::Origin,
            url: url.to_owned(),
            tree_url: None,
            headers: BTreeMap::new(),
            not_before: at(open_at_ms).wall,
        }
    }

    fn three() -> Attempt {
        let urls = [("http://peer:1/x", 0), ("http://tier:1/x", 500), ("http://origin/x", 900)];
        Attempt::new(urls.map(|(url, open)| source(url, open)).to_vec())
    }

    #[test]
    fn a_later_source_is_used_only_from_its_instant_and_only_when_better_ones_are_out() {
        let (mut attempt, mut hosts) = (three(), Hosts::default());
        assert_eq!(attempt.next(&hosts, at(0), |_| true), Next::Use(0));
        attempt.failed(0, &Fault::Status(404), &mut hosts, at(0));
        assert_eq!(attempt.next(&hosts, at(0), |_| true), Next::Wait(500));
        assert_eq!(attempt.next(&hosts, at(500), |_| true), Next::Use(1));
        attempt.failed(1, &Fault::Status(410), &mut hosts, at(500));
        attempt.failed(2, &Fault::Status(403), &mut hosts, at(900));
        assert_eq!(attempt.next(&hosts, at(900), |_| true), Next::GiveUp);
    }

    #[test]
    fn a_lying_host_is_passed_over_and_comes_back_when_its_penalty_has_passed() {
        let (mut attempt, mut hosts) = (three(), Hosts::default());
        attempt.failed(0, &Fault::BadPiece(3), &mut hosts, at(1000));
        assert_eq!(attempt.next(&hosts, at(1000), |_| true), Next::Use(1));
        assert_eq!(attempt.next(&hosts, at(1000 + PENALTY_MS), |_| true), Next::Use(0));
        let other_object = Attempt::new(vec![source("http://peer:1/y", 0)]);
        assert_eq!(other_object.next(&hosts, at(1000), |_| true), Next::Wait(PENALTY_MS));
    }

    #[test]
    fn an_attempt_ends_after_so_many_faults_and_progress_resets_the_row_but_not_the_sum() {
        let mut hosts = Hosts::default();
        let mut attempt = three();
        for _ in 0..FAULTS_IN_A_ROW_MAX {
            assert_ne!(attempt.next(&hosts, at(1000), |_| true), Next::GiveUp);
            attempt.failed(0, &Fault::ShortBody, &mut hosts, at(0));
        }
        assert_eq!(attempt.next(&hosts, at(1000), |_| true), Next::GiveUp);
        let mut attempt = three();
        for _ in 0..FAULTS_MAX {
            assert_ne!(attempt.next(&hosts, at(1_000_000), |_| true), Next::GiveUp);
            attempt.failed(0, &Fault::ShortBody, &mut hosts, at(0));
            attempt.progressed(0, &mut hosts);
        }
        assert_eq!(attempt.next(&hosts, at(1_000_000), |_| true), Next::GiveUp);
    }

    #[test]
    fn penalties_double_up_to_a_minute_and_are_forgotten() {
        let mut hosts = Hosts::default();
        for _ in 0..40 {
            hosts.penalise("http://a/x", at(0));
        }
        assert_eq!(hosts.until_ms("http://a/other"), PENALTY_MS_MAX);
        hosts.penalise("http://b/x", at(10 * PENALTY_MS_MAX));
        assert_eq!(hosts.penalties.len(), 1);
    }
}
