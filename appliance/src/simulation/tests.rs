//! Seeds. One that failed once goes into `seeds.txt` and is played for ever; to play any other, put it there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::run::run;
use crate::tuning::{Plant, Planted};

const SEEDS: u64 = 1_000;

/// What went wrong with a seed, whether it was said or asserted.
fn play(seed: u64, planted: Planted) -> Result<super::run::Summary, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, planted))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

#[test]
fn simulation_of_many_seeds_sends_no_wrong_byte_leaks_nothing_and_comes_to_an_end() {
    let next = AtomicU64::new(0);
    let sums = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    let summary =
                        play(seed, Planted::default()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
                    for (sum, count) in sums.iter().zip([summary.answered, summary.refused, summary.cut]) {
                        sum.fetch_add(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let [answered, refused, cut] = sums.map(AtomicUsize::into_inner);
    println!("{SEEDS} seeds: {answered} answers, {refused} of them refusals, {cut} cut off");
    // Else the seeds try too little of something.
    assert!(answered > 5_000 && refused > 500 && cut > 500, "{answered} {refused} {cut}");
}

#[test]
fn simulation_of_the_seeds_that_once_failed() {
    let seeds =
        include_str!("seeds.txt").lines().filter_map(|line| line.split('#').next()?.trim().parse().ok());
    for seed in seeds {
        let summary = play(seed, Planted::default()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        println!("seed {seed}: {summary:?}");
    }
}

/// The first seed that finds a planted defect.
fn first_finder(plant: Plant) -> Option<(u64, String)> {
    (0..400).find_map(|seed| play(seed, Planted(Some(plant))).err().map(|what| (seed, what)))
}

#[test]
fn simulation_finds_a_block_that_is_filled_while_it_is_sent() {
    assert!(first_finder(Plant::LeaseNotKept).is_some());
}

#[test]
fn simulation_finds_that_checksums_are_skipped() {
    let (_, what) = first_finder(Plant::ChecksumSkipped).unwrap();
    assert!(what.contains("wrong byte"), "{what}");
}

#[test]
fn simulation_finds_that_a_short_send_is_miscounted() {
    assert!(first_finder(Plant::ShortSendMiscounted).is_some());
}
