//! `torture [--points N] [--seed S]`: kills the programs of a whole fleet with SIGKILL at N points that the seed draws, in
//! the middle of a fill, a publish, a plan, a swap and a deletion, and looks after each whether every promise holds:
//! never a wrong byte, consistent after the restart, a download goes on, no orphan outlives the next start, the
//! origin never names what it lacks.
//!
//! ```text
//! points (seed -> what, whom, when) ──> run ──begin──> acts        (titles come, go, change; oca-media publishes)
//!                                        │──wait───> trigger     (a time, or a name made, moved, removed)
//!                                        │──kill───> stage       (the programs) ──> phase (where did it land?)
//!                                        └──settle─> quiet       (audit: boxes, origin; plays; every byte)
//! all the time: readers (every byte), watchman (what holds at any instant), toll -> ledger (what is pulled twice)
//! ```
//! Read `run` first. `cargo xtask torture` builds and starts this.

mod acts;
mod audit;
mod ledger;
mod library;
mod phase;
mod points;
mod quiet;
mod readers;
mod report;
mod run;
mod shelves;
mod stage;
mod toll;
mod trigger;
mod verdict;
mod watchman;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lexopt::prelude::*;
use run::Run;
use xtask::stop::{Interrupted, Stop};

/// From so many points on, the middle of every operation must have been met.
const SPREAD_POINTS: u32 = 300;

struct Options {
    points: u32,
    seed: u64,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(cause) => {
            eprintln!("{cause:#}\ntorture [--points N] [--seed S]");
            return ExitCode::from(2);
        }
    };
    let Options { points, seed } = options;
    println!(
        "torture: seed {seed}, {points} points; again: cargo xtask torture --points {points} --seed {seed}"
    );
    match torture(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) if cause.is::<Interrupted>() => ExitCode::from(130),
        Err(cause) => {
            eprintln!("\ntorture: {cause:#}\nagain: cargo xtask torture --points {points} --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Options> {
    let mut parser = lexopt::Parser::from_env();
    let mut options = Options { points: 1000, seed: random()? };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("points") => options.points = parser.value()?.parse()?,
            Long("seed") => options.seed = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn random() -> Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes).into())
}

fn torture(options: &Options) -> Result<()> {
    let stop = Stop::on_signals()?;
    let program = std::env::current_exe()?;
    let binaries = program.parent().context("a program is in a folder")?;
    xtask::workspace::check_binaries(binaries)?;
    let mut run = Run::set_up(stop, binaries, options.seed)?;
    for point in points::of_seed(options.seed, options.points) {
        if let Err(cause) = run.point(&point) {
            let kept = if cause.is::<Interrupted>() { String::new() } else { run.stage.keep() };
            return Err(cause.context(format!("{point} failed; {kept}")));
        }
    }
    run.end();
    if options.points >= SPREAD_POINTS {
        run.report.check_spread()?;
    }
    Ok(())
}
