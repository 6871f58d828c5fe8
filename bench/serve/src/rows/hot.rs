//! Everything is in memory: what a byte and a request cost.

use anyhow::Result;

use super::{RANGE_BYTES, Report, compare, expect_hot, mb_per_cpu_second, mb_per_second, seventy_percent};
use crate::files::Set;
use crate::lab::{Lab, SEGMENT_BYTES};
use crate::load::Outcome;
use crate::results::Reach;
use crate::servers::{NginxWay, Peer, Server};

const PEERS: [Peer; 2] = [Peer::Ours, Peer::Nginx(NginxWay::Sendfile)];

/// Whole segments: closed loop, then an open one at 70 % of what the slower of both did.
pub fn segments(lab: &Lab, connections: usize) -> Result<Report> {
    let [mut ours, mut nginx] = start(lab)?;
    let [mut closed, mut open] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for seed in 0..u64::try_from(lab.options.pairs)? {
        for (server, outcomes) in [&mut ours, &mut nginx].into_iter().zip(&mut closed) {
            outcomes.push(run(lab, server, SEGMENT_BYTES, connections, None, seed)?);
        }
        let last: Vec<_> = closed.iter().filter_map(|outcomes: &Vec<Outcome>| outcomes.last()).collect();
        let rate = seventy_percent(&last, 0);
        for (server, outcomes) in [&mut ours, &mut nginx].into_iter().zip(&mut open) {
            outcomes.push(run(lab, server, SEGMENT_BYTES, connections, Some(rate), seed)?);
        }
    }
    let work = |what: &str| format!("hot, 2 MiB segments on {connections} connections: {what}");
    let row = |what: &str, unit, reach, outcomes: &[Vec<Outcome>; 2], figure: fn(&Outcome) -> f64| {
        compare(&work(what), unit, reach, &outcomes[0], (PEERS[1].name(), &outcomes[1][..]), figure)
    };
    let longest = Some(Reach::AtMost(0.3));
    let comparisons = vec![
        row("bytes per CPU second", "MB", Some(Reach::AtLeast(1.15)), &closed, mb_per_cpu_second),
        row("throughput", "MB/s", Some(Reach::AtLeast(1.0)), &closed, mb_per_second),
        row("p99.9 of a segment, closed loop", "ms", longest, &closed, |one| one.groups[0].p999_ms),
        row("p99.9 of a segment, open loop at 70 %", "ms", longest, &open, |one| one.groups[0].p999_ms),
        row("bytes per CPU second, open loop at 70 %", "MB", None, &open, mb_per_cpu_second),
    ];
    Ok(Report { comparisons, facts: ways(&ours)? })
}

/// Small ranges anywhere, closed loop.
pub fn ranges(lab: &Lab, connections: usize) -> Result<Report> {
    let [mut ours, mut nginx] = start(lab)?;
    let mut closed = [Vec::new(), Vec::new()];
    for seed in 0..u64::try_from(lab.options.pairs)? {
        for (server, outcomes) in [&mut ours, &mut nginx].into_iter().zip(&mut closed) {
            outcomes.push(run(lab, server, RANGE_BYTES, connections, None, seed)?);
        }
    }
    let work = |what: &str| format!("hot, 16 KiB ranges on {connections} connections: {what}");
    let row = |what: &str, unit, reach, figure: fn(&Outcome) -> f64| {
        compare(&work(what), unit, reach, &closed[0], (PEERS[1].name(), &closed[1][..]), figure)
    };
    let comparisons = vec![
        row("requests per CPU second", "requests", Some(Reach::AtLeast(1.5)), |one| {
            one.requests() / one.server_cpu_s
        }),
        row("throughput", "requests/s", None, |one| one.requests() / one.seconds),
        row("p99.9 of a range, closed loop", "ms", None, |one| one.groups[0].p999_ms),
    ];
    Ok(Report { comparisons, facts: ways(&ours)? })
}

fn start(lab: &Lab) -> Result<[Server; 2]> {
    Ok([lab.start_warm(PEERS[0])?, lab.start_warm(PEERS[1])?])
}

fn run(
    lab: &Lab,
    server: &mut Server,
    bytes: u64,
    connections: usize,
    rate: Option<f64>,
    seed: u64,
) -> Result<Outcome> {
    let mut group = lab.group(server, Set::Hot, bytes, connections);
    group.rate = rate;
    let outcome = lab.load(server, vec![group], seed)?;
    expect_hot(&outcome)?;
    let (name, loop_kind) = (server.peer.name(), if rate.is_some() { "open" } else { "closed" });
    eprintln!(
        "      {name}, {connections} connections, {loop_kind}: {:.0} MB/s, {:.0} MB per CPU second, p99.9 {:.2} ms",
        mb_per_second(&outcome),
        mb_per_cpu_second(&outcome),
        outcome.groups[0].p999_ms
    );
    Ok(outcome)
}

fn ways(ours: &Server) -> Result<Vec<String>> {
    Ok(vec![ours.way()?])
}
