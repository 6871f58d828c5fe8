//! `cargo xtask simulate`: any number of the simulation's seeds, on all cores, by the test that plays ten thousand of them
//! in the suite (`appliance/src/simulation/tests.rs`), so that what is run is what is tested.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::stop::Stop;
use crate::{clock, process, workspace};

const TEST: &str =
    "simulation::tests::simulation_of_many_seeds_sends_no_wrong_byte_leaks_nothing_and_comes_to_an_end";
/// That the test reads: the first seed and how many.
const SEEDS_VARIABLE: &str = "OCA_SIMULATION_SEEDS";
/// Between two lines of progress.
const BATCH: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub from: u64,
    pub seeds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { from: 0, seeds: 1_000_000 }
    }
}

pub fn run(stop: &Stop, options: Options) -> Result<()> {
    let end = options.from.checked_add(options.seeds).context("seeds are numbers of 64 bits")?;
    eprintln!("==> building (the appliance is optimised in the dev profile too)");
    let mut build = process::command(Path::new("cargo"), ["test", "-p", "appliance", "--lib", "--no-run"]);
    if !process::run(stop, build.current_dir(workspace::root()))?.success() {
        bail!("the simulation does not build");
    }
    eprintln!("==> seeds {} to {}", options.from, end.saturating_sub(1));
    let start = clock::now();
    let mut first = options.from;
    while first < end {
        let count = BATCH.min(end - first);
        play(stop, first, count)?;
        first += count;
        progress(first - options.from, options.seeds, start.elapsed());
    }
    println!("{} seeds, none failed, in {:.0} s", options.seeds, start.elapsed().as_secs_f64());
    Ok(())
}

/// Fails with what the test says: the seed, what was wrong with it, how to play it again.
fn play(stop: &Stop, first: u64, count: u64) -> Result<()> {
    let arguments = ["test", "--quiet", "-p", "appliance", "--lib", "--", "--exact", TEST, "--nocapture"];
    let mut command = process::command(Path::new("cargo"), arguments);
    command.current_dir(workspace::root()).env(SEEDS_VARIABLE, format!("{first} {count}"));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut output = child.stdout.take().context("the test's output was asked for")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let status = process::wait(stop, child)?;
    let text =
        reader.join().map_err(|_| anyhow::anyhow!("the thread that reads the test's output panicked"))??;
    if !status.success() {
        println!("{text}");
        bail!("a seed of {first} to {} failed; see above", first + count - 1);
    }
    if !text.contains(&format!("{count} seeds:")) {
        bail!("the test played other seeds than {first} and {} behind it:\n{text}", count - 1);
    }
    Ok(())
}

fn progress(done: u64, all: u64, time: Duration) {
    let in_a_second = done.saturating_mul(1_000) / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let left_s = (all - done) / in_a_second.max(1);
    eprintln!("      {done} of {all} seeds, {in_a_second} a second, {left_s} s to go");
}
