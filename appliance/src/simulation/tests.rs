//! Seeds. One that failed once goes into `seeds.txt` and is played for ever. `cargo xtask simulate` plays any others, by
//! the test of many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::faults::Fault;
use super::run::{Summary, run};
use crate::endings::Ending;
use crate::tuning::Planted;

const SEEDS: u64 = 10_000;
/// The first, and how many, if `cargo xtask simulate` plays: then nothing is said about what must have happened.
const SEEDS_VARIABLE: &str = "OCA_SIMULATION_SEEDS";

/// What went wrong with a seed, whether it was said or asserted.
pub fn play(seed: u64, planted: Planted) -> Result<Summary, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, planted))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

#[derive(Default)]
struct Sums {
    seeds: u64,
    answered: u64,
    refused: u64,
    cut: u64,
    seen: Vec<u64>,
    endings: Vec<u64>,
}

impl Sums {
    fn add(&mut self, summary: &Summary) {
        self.seeds += 1;
        self.answered += summary.tally.answered;
        self.refused += summary.tally.refused;
        self.cut += summary.tally.cut;
        for (sums, figures) in [(&mut self.seen, &summary.seen[..]), (&mut self.endings, &summary.endings)] {
            sums.resize(figures.len(), 0);
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        }
    }

    fn print(&self) {
        let Self { seeds, answered, refused, cut, .. } = self;
        println!("{seeds} seeds: {answered} answers, {refused} of them refusals, {cut} cut off");
        let faults = Fault::ALL.iter().map(|fault| format!("{fault:?}")).zip(&self.seen);
        let endings = Ending::ALL.iter().map(|ending| format!("{ending:?}")).zip(&self.endings);
        for (kind, rows) in [("faults", faults.collect::<Vec<_>>()), ("endings", endings.collect())] {
            let rows: Vec<_> = rows.iter().map(|(name, count)| format!("{name} {count}")).collect();
            println!("{kind}: {}", rows.join(", "));
        }
    }

    /// A fault that never strikes is not tested, nor is an ending that nothing comes to.
    fn never(&self) -> Vec<String> {
        let faults = Fault::ALL.iter().zip(&self.seen).filter(|(_, count)| **count == 0);
        let endings = Ending::ALL.iter().zip(&self.endings).filter(|(_, count)| **count == 0);
        let faults = faults.map(|(fault, _)| format!("{fault:?}"));
        faults.chain(endings.map(|(ending, _)| format!("{ending:?}"))).collect()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no command line of its own; cargo xtask simulate sets it"
)]
fn asked_for() -> Option<(u64, u64)> {
    let text = std::env::var(SEEDS_VARIABLE).ok()?;
    let (first, count) = text.split_once(' ').expect("the first seed, a space, how many");
    Some((first.parse().unwrap(), count.parse().unwrap()))
}

/// Plays them on all cores until one fails.
fn play_many(first: u64, count: u64) -> Result<Sums, (u64, String)> {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (sums, failed) = (Mutex::new(Sums::default()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    match play(seed, Planted::default()) {
                        Ok(summary) => sums.lock().unwrap().add(&summary),
                        Err(what) => {
                            failed.lock().unwrap().get_or_insert((seed, what));
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap() {
        Some(failed) => Err(failed),
        None => Ok(sums.into_inner().unwrap()),
    }
}

#[test]
fn simulation_of_many_seeds_sends_no_wrong_byte_leaks_nothing_and_comes_to_an_end() {
    let asked_for = asked_for();
    let (first, count) = asked_for.unwrap_or((0, SEEDS));
    let sums = play_many(first, count);
    let sums = sums.unwrap_or_else(|(seed, what)| {
        panic!("seed {seed}: {what}\n  again: cargo xtask simulate --seed {seed}")
    });
    sums.print();
    if asked_for.is_none() {
        assert_eq!(sums.never(), Vec::<String>::new(), "these never happened in {SEEDS} seeds");
    }
}

#[test]
fn simulation_of_the_seeds_that_once_failed() {
    let seeds =
        include_str!("seeds.txt").lines().filter_map(|line| line.split('#').next()?.trim().parse().ok());
    for seed in seeds {
        let summary = play(seed, Planted::default()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        println!("seed {seed}: {:?}", summary.tally);
    }
}

#[test]
fn simulation_of_one_seed_is_the_same_each_time() {
    for seed in 0..60 {
        let (first, second) = (play(seed, Planted::default()), play(seed, Planted::default()));
        assert_eq!(first, second, "seed {seed}");
    }
}
