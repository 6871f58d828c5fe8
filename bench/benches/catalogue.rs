//! Look-ups in a catalogue of 10 million entries, read from a real file, beside a hash map and a sorted array of the
//! same entries; and how long verifying takes. Three rounds, the peers in turn in each.
//!
//! Each look-up starts from what the one before it found, as it does in a server: none overlaps the next.

#![expect(clippy::unwrap_used, reason = "a failed step fails the bench")]

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use content::catalogue::build;
use content::catalogue::file::Catalogue;
use content::catalogue::{Contents, Entry};
use content::id::CatalogueKey;
use content::volume::VolumeId;
use criterion::{Criterion, criterion_group, criterion_main};
use fleet_tests::filler;

const ENTRIES: u32 = 10_000_000;
const FILES: u32 = 1_000_000;

fn contents() -> Contents {
    let mut contents =
        Contents { generation: 1, next_file: 1, volumes: vec![VolumeId([5; 16])], ..Contents::default() };
    filler::fill(&mut contents, ENTRIES, FILES);
    contents
}

/// `beyond`: 0 for keys that are held, more for keys that are not.
fn chain(criterion: &mut Criterion, name: &str, beyond: u64, find: impl Fn(&CatalogueKey) -> u64) {
    let mut state = 1;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            state = filler::mix(state);
            let found = find(&filler::key(beyond + state % u64::from(ENTRIES)));
            state ^= black_box(found);
        });
    });
}

/// One record from anywhere in the same file: what memory itself takes, below which no look-up can be.
fn floor(criterion: &mut Criterion, name: &str, catalogue: &Catalogue) {
    let mut state = 1;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            state = filler::mix(state);
            let place = usize::try_from(state).unwrap() % catalogue.slot_count();
            state ^= black_box(word(catalogue.entry(place)));
        });
    });
}

fn word(entry: Option<Entry>) -> u64 {
    entry.map_or(0, |entry| entry.offset ^ u64::from(entry.object.as_bytes()[0]))
}

fn catalogue(criterion: &mut Criterion) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("catalogue.bench");
    let mut contents = contents();
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    build::write(&contents, File::create(&path).unwrap()).unwrap();
    let catalogue = Catalogue::open(&path).unwrap();
    catalogue.verify().unwrap();
    let sorted: Vec<_> = contents.entries.iter().map(|entry| (entry.key, *entry)).collect();
    let map: HashMap<_, _> =
        std::mem::take(&mut contents.entries).into_iter().map(|entry| (entry.key.0, entry)).collect();
    let in_array = |key: &CatalogueKey| {
        let place = sorted.binary_search_by_key(key, |(key, _)| *key).ok()?;
        Some(sorted[place].1)
    };
    let with_file = |key: &CatalogueKey| {
        let entry = catalogue.find(key)?;
        Some(entry.offset ^ catalogue.file(entry.file)?.number)
    };
    let absent = u64::from(ENTRIES);
    for round in ["round 1", "round 2", "round 3"] {
        floor(criterion, &format!("one record/{round}"), &catalogue);
        chain(criterion, &format!("hit/{round}"), 0, |key| word(catalogue.find(key)));
        chain(criterion, &format!("hash map hit/{round}"), 0, |key| word(map.get(&key.0).copied()));
        chain(criterion, &format!("array hit/{round}"), 0, |key| word(in_array(key)));
        chain(criterion, &format!("hit and file/{round}"), 0, |key| with_file(key).unwrap_or(0));
        chain(criterion, &format!("miss/{round}"), absent, |key| word(catalogue.find(key)));
        chain(criterion, &format!("hash map miss/{round}"), absent, |key| word(map.get(&key.0).copied()));
        chain(criterion, &format!("array miss/{round}"), absent, |key| word(in_array(key)));
    }
    criterion.bench_function("verify", |bencher| bencher.iter(|| catalogue.verify().unwrap()));
    std::fs::remove_file(&path).unwrap();
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = catalogue
}
criterion_main!(all);
