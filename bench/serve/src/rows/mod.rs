//! What is measured, group by group: a group can be run alone (`--rows`), and its rows replace what it said before.
//!
//! Within a group the servers take turns, A B A B, on the same files; what is judged is the median of the ratios of
//! neighbours, so that a machine that gets slower meanwhile makes both slower.

mod cold;
mod hot;
mod idle;
mod mixed;
mod start;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::{Lab, SEGMENT_BYTES};
use crate::load::{Outcome, as_f64};
use crate::results::{Comparison, Peer, Reach};

const RANGE_BYTES: u64 = 16 << 10;

/// What a group came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub comparisons: Vec<Comparison>,
    /// What must be known to read them.
    pub facts: Vec<String>,
}

type Measure = fn(&Lab) -> Result<Report>;

pub const GROUPS: [(&str, Measure); 11] = [
    ("hot-1", |lab| hot::segments(lab, 1)),
    ("hot-20", |lab| hot::segments(lab, 20)),
    ("hot-100", |lab| hot::segments(lab, 100)),
    ("hot-1000", |lab| hot::segments(lab, 1000)),
    ("ranges-100", |lab| hot::ranges(lab, 100)),
    ("ranges-1000", |lab| hot::ranges(lab, 1000)),
    ("cold", cold::run),
    ("mixed-16k", |lab| mixed::run(lab, RANGE_BYTES, "16 KiB")),
    ("mixed-2m", |lab| mixed::run(lab, SEGMENT_BYTES, "2 MiB")),
    ("idle", idle::run),
    ("start", start::run),
];

/// Groups that have a place here and cannot be measured yet, and why.
pub const LATER: [(&str, &str); 1] = [(
    "tls",
    "TLS 1.3, hot, 2 MiB on 100 connections, against nginx with OpenSSL: not measured yet: the load generator speaks no TLS",
)];

/// Both did the same, one after the other; the figures of each round are compared.
fn compare(
    work: &str,
    unit: &str,
    reach: Option<Reach>,
    ours: &[Outcome],
    (peer, theirs): (&str, &[Outcome]),
    figure: impl Fn(&Outcome) -> f64,
) -> Comparison {
    let figures = |outcomes: &[Outcome]| outcomes.iter().map(&figure).collect();
    Comparison {
        work: work.to_owned(),
        unit: unit.to_owned(),
        ours: figures(ours),
        peer: Some(Peer { name: peer.to_owned(), figures: figures(theirs) }),
        reach,
    }
}

fn mb_per_cpu_second(outcome: &Outcome) -> f64 {
    outcome.bytes() / 1e6 / outcome.server_cpu_s
}

fn mb_per_second(outcome: &Outcome) -> f64 {
    outcome.bytes() / 1e6 / outcome.seconds
}

/// What was to come from memory did.
fn expect_hot(outcome: &Outcome) -> Result<()> {
    let (read, sent) = (as_f64(outcome.server_read_bytes), outcome.bytes());
    ensure!(read <= sent * 0.01, "{read} bytes came from the disk: the hot set is not in memory");
    Ok(())
}

/// What was to come from the disk did: no cache had it.
fn expect_cold(outcome: &Outcome, group: usize) -> Result<()> {
    let (read, sent) = (as_f64(outcome.server_read_bytes), as_f64(outcome.groups[group].bytes));
    ensure!(
        read >= sent * 0.9,
        "only {read} of {sent} bytes came from the disk: the cold set was in a cache"
    );
    Ok(())
}

/// Of the slowest: so many a second that none is beyond its capacity. The same for all, since a viewer does not come more
/// often to a faster server.
fn seventy_percent(outcomes: &[&Outcome], group: usize) -> f64 {
    let rates = outcomes.iter().map(|one| as_f64(one.groups[group].requests) / one.seconds);
    (rates.fold(f64::INFINITY, f64::min) * 0.7).max(1.0)
}
