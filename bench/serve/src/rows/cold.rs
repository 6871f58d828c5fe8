//! Nothing is in memory: what the disk gives through each server. Each segment is asked for once, in any order.
//!
//! A run ends when its time is over or everything was asked for. Who goes first changes from round to round: a disk may
//! have a cache that we cannot empty.

use anyhow::{Context as _, Result};

use super::{Report, compare, expect_cold, mb_per_cpu_second, mb_per_second};
use crate::files::Set;
use crate::fio::{Fio, SHAPES, Shape};
use crate::lab::{Lab, SEGMENT_BYTES};
use crate::load::Outcome;
use crate::results::{Comparison, Peer as Other, Reach, Spread, shown};
use crate::servers::{NGINX_THREADS, NginxWay, Peer};

const CONNECTIONS: usize = 32;
const SENDFILE: Peer = Peer::Nginx(NginxWay::Sendfile);

/// Who reads in a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Server(Peer),
    Fio(Shape),
}

#[derive(Default)]
struct Seen {
    servers: Vec<(Peer, Vec<Outcome>)>,
    /// Bytes a second.
    fio: Vec<(Shape, Vec<f64>)>,
}

pub fn run(lab: &Lab) -> Result<Report> {
    let servers = [Peer::Ours, SENDFILE].into_iter().chain(NGINX_THREADS);
    let mut readers: Vec<_> = servers.clone().map(Reader::Server).collect();
    readers.extend(SHAPES.map(Reader::Fio));
    let mut seen = Seen {
        servers: servers.map(|peer| (peer, Vec::new())).collect(),
        fio: SHAPES.map(|shape| (shape, Vec::new())).into(),
    };
    let fio = Fio::new();
    let mut facts = Vec::new();
    for round in 0..lab.options.pairs {
        let first = round % readers.len();
        for reader in readers[first..].iter().chain(&readers[..first]) {
            read(lab, &fio, *reader, u64::try_from(round)?, &mut seen, &mut facts)?;
        }
    }
    facts.dedup();
    facts.push(format!("fio: O_DIRECT, io_uring, any order, each block once, {}", fio.buffers()));
    facts.extend(seen.fio.iter().filter_map(|(shape, figures)| {
        let median = Spread::of(figures.iter().copied())?.median / 1e6;
        Some(format!("fio, blocks of {} MiB, depth {}: {} MB/s", shape.block_mib, shape.depth, shown(median)))
    }));
    Ok(Report { comparisons: judge(&seen)?, facts })
}

fn read(
    lab: &Lab,
    fio: &Fio,
    reader: Reader,
    seed: u64,
    seen: &mut Seen,
    facts: &mut Vec<String>,
) -> Result<()> {
    match reader {
        Reader::Server(peer) => {
            let mut server = lab.start(peer)?;
            let mut group = lab.group(&server, Set::Cold, SEGMENT_BYTES, CONNECTIONS);
            group.passes = Some(1);
            let outcome = lab.load(&mut server, vec![group], seed)?;
            expect_cold(&outcome, 0)?;
            let (rate, cost) = (mb_per_second(&outcome), mb_per_cpu_second(&outcome));
            eprintln!(
                "      {}, cold: {rate:.0} MB/s, {cost:.0} MB per CPU second, {:.1} s{}",
                peer.name(),
                outcome.seconds,
                if outcome.groups[0].ran_out { ", all files" } else { "" }
            );
            if peer == Peer::Ours {
                facts.push(server.way()?);
            }
            let known = seen.servers.iter_mut().find(|(known, _)| *known == peer);
            known.context("a server of the list")?.1.push(outcome);
        }
        Reader::Fio(shape) => {
            lab.shelf.drop_from_page_cache(Set::Cold)?;
            let (files, output) = (lab.shelf.www_of(Set::Cold), lab.folder.join("fio.json"));
            let rate = fio.run(&lab.stop, &files, shape, lab.options.window, seed, &output)?;
            eprintln!("      fio, {shape:?}: {:.0} MB/s", rate / 1e6);
            let known = seen.fio.iter_mut().find(|(known, _)| *known == shape);
            known.context("a shape of the list")?.1.push(rate);
        }
    }
    Ok(())
}

fn judge(seen: &Seen) -> Result<Vec<Comparison>> {
    let of =
        |peer| seen.servers.iter().find(|(known, _)| *known == peer).map(|(_, outcomes)| outcomes.as_slice());
    let ours = of(Peer::Ours).context("ours was measured")?;
    let work = |what: &str| format!("cold, 2 MiB segments on {CONNECTIONS} connections: {what}");
    // The best of each round: the disk is not the same in all.
    let best =
        (0..ours.len()).map(|round| seen.fio.iter().map(|(_, rates)| rates[round]).fold(0.0, f64::max) / 1e6);
    let mut comparisons = vec![Comparison {
        work: work("throughput"),
        unit: "MB/s".to_owned(),
        ours: ours.iter().map(mb_per_second).collect(),
        peer: Some(Other { name: "fio, the best of four shapes".to_owned(), figures: best.collect() }),
        reach: Some(Reach::AtLeast(0.9)),
    }];
    for (peer, theirs) in &seen.servers[1..] {
        let throughput = if *peer == SENDFILE { 2.5 } else { 1.4 };
        let cost = (*peer != SENDFILE).then_some(Reach::AtLeast(1.6));
        let row = |what: &str, unit, reach, figure: fn(&Outcome) -> f64| {
            compare(&work(what), unit, reach, ours, (peer.name(), theirs), figure)
        };
        comparisons.push(row("throughput", "MB/s", Some(Reach::AtLeast(throughput)), mb_per_second));
        comparisons.push(row("bytes per CPU second", "MB", cost, mb_per_cpu_second));
    }
    Ok(comparisons)
}
