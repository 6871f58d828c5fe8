//! Some ask for what is in memory while others ask for what is not: how much those who could be served at once wait for the
//! disk of others. In a closed loop, then with the hot requests coming at 70 % of what the slowest did.

use anyhow::Result;

use super::{Report, compare, expect_cold, seventy_percent};
use crate::files::Set;
use crate::lab::{Lab, SEGMENT_BYTES};
use crate::load::{Outcome, as_f64};
use crate::results::{Comparison, Reach};
use crate::servers::{NGINX_THREADS, Peer};

const HOT: usize = 20;
const COLD: usize = 16;

/// Ours, then nginx in both its forms.
type Seen = [Vec<Outcome>; 3];

pub fn run(lab: &Lab, bytes: u64, size: &str) -> Result<Report> {
    let peers = [Peer::Ours, NGINX_THREADS[0], NGINX_THREADS[1]];
    let [mut closed, mut open] = [Seen::default(), Seen::default()];
    let mut facts = Vec::new();
    for seed in 0..u64::try_from(lab.options.pairs)? {
        for (peer, outcomes) in peers.into_iter().zip(&mut closed) {
            outcomes.push(measure(lab, peer, bytes, None, seed, &mut facts)?);
        }
        let last: Vec<_> = closed.iter().filter_map(|outcomes| outcomes.last()).collect();
        let rate = seventy_percent(&last, 0);
        for (peer, outcomes) in peers.into_iter().zip(&mut open) {
            outcomes.push(measure(lab, peer, bytes, Some(rate), seed, &mut facts)?);
        }
    }
    facts.dedup();
    let comparisons = (1..3).flat_map(|index| judge(size, peers[index].name(), &closed, &open, index));
    Ok(Report { comparisons: comparisons.collect(), facts })
}

/// A server that has just started, with the hot set in memory and nothing of the cold one.
fn measure(
    lab: &Lab,
    peer: Peer,
    bytes: u64,
    rate: Option<f64>,
    seed: u64,
    facts: &mut Vec<String>,
) -> Result<Outcome> {
    let mut server = lab.start_warm(peer)?;
    let mut hot = lab.group(&server, Set::Hot, bytes, HOT);
    hot.rate = rate;
    let mut cold = lab.group(&server, Set::Cold, SEGMENT_BYTES, COLD);
    cold.passes = Some(1);
    let outcome = lab.load(&mut server, vec![hot, cold], seed)?;
    expect_cold(&outcome, 1)?;
    let loop_kind = if rate.is_some() { "open" } else { "closed" };
    eprintln!(
        "      {}, {loop_kind}: hot {:.0} requests/s, p99 {:.2} ms; cold {:.0} MB/s; {:.1} s",
        peer.name(),
        hot_rate(&outcome),
        hot_p99(&outcome),
        cold_rate(&outcome),
        outcome.seconds
    );
    if peer == Peer::Ours {
        facts.push(server.way()?);
    }
    Ok(outcome)
}

fn judge(size: &str, name: &str, closed: &Seen, open: &Seen, index: usize) -> Vec<Comparison> {
    let row = |what: &str, unit, reach, seen: &Seen, figure: fn(&Outcome) -> f64| {
        let work = format!("hot, {size} on {HOT} connections, beside {COLD} cold: {what}");
        compare(&work, unit, Some(reach), &seen[0], (name, &seen[index]), figure)
    };
    let (third, no_less) = (Reach::AtMost(1.0 / 3.0), Reach::AtLeast(1.0));
    vec![
        row("p99 of the hot, closed loop", "ms", third, closed, hot_p99),
        row("hot throughput, closed loop", "requests/s", no_less, closed, hot_rate),
        row("cold throughput, closed loop", "MB/s", no_less, closed, cold_rate),
        row("p99 of the hot, open loop at 70 %", "ms", third, open, hot_p99),
        row("cold throughput, the hot in an open loop", "MB/s", no_less, open, cold_rate),
    ]
}

fn hot_p99(outcome: &Outcome) -> f64 {
    outcome.groups[0].p99_ms
}

fn hot_rate(outcome: &Outcome) -> f64 {
    as_f64(outcome.groups[0].requests) / outcome.seconds
}

fn cold_rate(outcome: &Outcome) -> f64 {
    as_f64(outcome.groups[1].bytes) / 1e6 / outcome.seconds
}
