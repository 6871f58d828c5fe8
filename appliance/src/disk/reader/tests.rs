//! What a reader puts down to whom, on a fake disk.

use content::catalogue::{Contents, build, file::Catalogue};
use crossbeam_queue::ArrayQueue;

use super::*;
use crate::disk::verdict::FAILURES_MAX;
use crate::memory::{Acquired, Answer, Mailbox, Waiter};
use crate::simulation::disk::{FakeDisk, Faults, SITE};
use crate::simulation::kernel::FakeWaker;
use crate::simulation::random::Random;
use crate::simulation::shared::Shared;
use crate::sys::arena::Arena;
use crate::tuning::Planted;

const FILE: FileRef = FileRef { volume: VolumeIndex(0), number: 6, data_bytes: 1_310_720 };

struct Bench {
    shared: Rc<Shared>,
    reader: Reader<FakeDisk>,
    memory: Arc<Memory>,
    holdings: Arc<Holdings>,
    answers: Arc<ArrayQueue<Answer>>,
}

fn bench(faults: Faults) -> Bench {
    let shared = Rc::new(Shared::quiet(Random::new(1), 0));
    let tuning = Tuning { block_bytes: 256 * 1024, ..Tuning::default() };
    let (arena, blocks) = Arena::new(tuning.block_bytes, 32).unwrap();
    let answers = Arc::new(ArrayQueue::new(64));
    let mailbox = Mailbox { answers: answers.clone(), waker: Arc::new(FakeWaker::default()) };
    let memory = Memory::new(arena, blocks, 1, vec![mailbox], Planted::default());
    let holdings = SITE.holdings();
    let setup = ReaderSetup {
        volume: VolumeIndex(0),
        handle: DiskHandle::new(32, Arc::new(FakeWaker::default())),
        memory: memory.clone(),
        holdings: holdings.clone(),
        counters: Arc::default(),
        tuning,
    };
    let reader = Reader::new(setup, FakeDisk::new(shared.clone(), 0, faults));
    Bench { shared, reader, memory, holdings, answers }
}

impl Bench {
    /// Reads a block of the file and gives whether it came.
    fn read(&mut self, index: u64) -> bool {
        self.order(index);
        for _ in 0..100 {
            self.reader.turn(None);
            if let Some(answer) = self.answers.pop() {
                return answer.outcome.is_ok();
            }
            self.pass(30_000);
        }
        panic!("no answer came");
    }

    fn order(&self, index: u64) {
        let waiter = Waiter { worker: 0, slot: 0, wait: 0 };
        let Acquired::Waiting(Some(order)) = self.memory.acquire(BlockKey { file: FILE, index }, waiter)
        else {
            panic!("it is there, or full")
        };
        self.reader.setup.handle.submit(order, self.shared.now.get());
    }

    /// A generation that names nothing.
    fn publish(&self, generation: u64) {
        let contents = Contents { generation, ..Contents::default() };
        self.holdings.publish(Catalogue::from_bytes(build::to_bytes(contents).unwrap()).unwrap());
    }

    fn pass(&self, ms: u64) {
        self.shared.now.set(Now(self.shared.now.get().0 + ms * 1_000_000));
    }
}

#[test]
fn short_reads_are_continued_until_the_block_is_whole() {
    let mut bench = bench(Faults { short: 1000, ..Faults::default() });
    assert!((0..5).all(|index| bench.read(index)));
    assert!(bench.holdings.withdrawn().is_empty());
}

#[test]
fn a_wrong_checksum_withdraws_the_file_and_not_the_volume() {
    let mut bench = bench(Faults::default());
    assert!(bench.read(0));
    bench.reader.io().set_faults(Faults { wrong: 1000, ..Faults::default() });
    assert!(!bench.read(1));
    assert_eq!(bench.holdings.withdrawn().len(), 1);
    assert!(bench.holdings.volume_usable(VolumeIndex(0)));
}

#[test]
fn five_failures_in_a_row_take_the_volume_out_until_it_passes_a_test_of_its_own() {
    let mut bench = bench(Faults { error: 1000, ..Faults::default() });
    let usable = |bench: &Bench| bench.holdings.volume_usable(VolumeIndex(0));
    for _ in 0..FAILURES_MAX - 1 {
        assert!(!bench.read(0));
    }
    assert!(usable(&bench));
    assert!(!bench.read(0));
    assert!(!usable(&bench) && bench.holdings.withdrawn().is_empty());

    let interval = bench.reader.setup.tuning.volume_retry_ms;
    bench.pass(interval);
    bench.reader.turn(None);
    assert!(!usable(&bench), "still bad, and no request was needed to find out");

    bench.reader.io().set_faults(Faults::default());
    bench.pass(interval);
    bench.reader.turn(None);
    assert!(!usable(&bench), "it is tested more seldom now");
    bench.pass(interval);
    bench.reader.turn(None);
    assert!(usable(&bench));

    // Its files open, and its data do not read: out at the first failure, for longer.
    bench.reader.io().set_faults(Faults { error: 1000, ..Faults::default() });
    assert!(!bench.read(0));
    assert!(!usable(&bench));
    bench.reader.io().set_faults(Faults::default());
    bench.pass(3 * interval);
    bench.reader.turn(None);
    assert!(!usable(&bench));
    bench.pass(interval);
    bench.reader.turn(None);
    assert!(usable(&bench) && bench.read(0));
}

#[test]
fn reads_that_hang_for_half_a_minute_take_the_volume_out_and_keep_it_out_until_they_end() {
    let mut bench = bench(Faults { never: 1000, ..Faults::default() });
    bench.order(0);
    let mut out_after = None;
    for second in 0..60 {
        bench.reader.turn(None);
        if out_after.is_none() && !bench.holdings.volume_usable(VolumeIndex(0)) {
            out_after = Some(second);
        }
        bench.pass(1_000);
    }
    assert!(out_after.is_some_and(|second| (30..40).contains(&second)), "{out_after:?}");
    bench.reader.io().set_faults(Faults::default());
    bench.pass(1_000_000);
    bench.reader.turn(None);
    assert!(!bench.holdings.volume_usable(VolumeIndex(0)), "one still hangs");
    bench.reader.io().end_hanging();
    for _ in 0..3 {
        bench.reader.turn(None);
        bench.pass(1_000_000);
    }
    assert!(bench.holdings.volume_usable(VolumeIndex(0)) && bench.read(1));
}

#[test]
fn a_volume_that_is_away_withdraws_none_of_its_files() {
    let mut bench = bench(Faults { away: true, ..Faults::default() });
    assert!(!bench.read(0));
    assert!(bench.holdings.withdrawn().is_empty());
}

#[test]
fn a_file_that_is_missing_from_a_volume_that_is_there_is_withdrawn() {
    let mut bench = bench(Faults { missing: 1000, ..Faults::default() });
    assert!(!bench.read(0));
    assert_eq!(bench.holdings.withdrawn().len(), 1);
}

#[test]
fn a_file_that_the_new_generation_does_not_name_is_closed_and_opened_again_only_to_be_read() {
    let mut bench = bench(Faults::default());
    let request = bench.holdings.current();
    assert!(bench.read(0) && bench.reader.files.find(6).is_some());
    bench.publish(2);
    bench.reader.turn(None);
    assert!(bench.reader.files.find(6).is_none());
    assert!(bench.read(1) && bench.reader.files.find(6).is_none());
    drop(request);
}

#[test]
fn a_late_read_of_a_file_that_was_unlinked_is_nobodys_fault() {
    let mut bench = bench(Faults { missing: 1000, ..Faults::default() });
    bench.publish(2);
    assert!(!bench.read(0));
    assert_eq!(bench.reader.setup.counters.totals().read_errors, 0);
    assert!(bench.holdings.withdrawn().is_empty());
}

#[test]
fn a_file_that_only_an_older_generation_names_is_not_withdrawn() {
    let mut bench = bench(Faults { missing: 1000, ..Faults::default() });
    let request = bench.holdings.current();
    bench.publish(2);
    assert!(!bench.read(0));
    assert_eq!(bench.reader.setup.counters.totals().read_errors, 1);
    assert!(bench.holdings.withdrawn().is_empty());
    drop(request);
}

#[test]
fn time_in_the_queue_counts_as_the_disks() {
    let mut bench = bench(Faults::default());
    bench.order(0);
    bench.pass(700);
    while bench.answers.pop().is_none() {
        bench.reader.turn(None);
        bench.pass(10);
    }
    let totals = bench.reader.setup.counters.totals();
    assert!(totals.reads == 1 && totals.latency_us >= 700_000, "{totals:?}");
}
