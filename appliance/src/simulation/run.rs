//! One seed: a server put together on fakes, clients let loose on it, and the accounts at the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use content::box_config::Limits;
use crossbeam_queue::ArrayQueue;

use super::client::Client;
use super::disk::{FakeDisk, Faults, SITE};
use super::kernel::{FakeRing, FakeWaker, Network, Shared};
use super::random::Random;
use crate::clock::Now;
use crate::disk::DiskHandle;
use crate::disk::reader::{Reader, ReaderSetup};
use crate::holdings::{Holdings, VolumeIndex};
use crate::memory::{Mailbox, Memory};
use crate::metrics::WorkerCounters;
use crate::sys::Wake;
use crate::sys::arena::Arena;
use crate::tuning::{Planted, Tuning};
use crate::worker::{Worker, WorkerSetup, mailbox_size};

const ROUNDS_MAX: usize = 60_000;

/// What a seed did: for a summary, and so that a run that tests nothing is noticed.
#[derive(Debug, Default)]
pub struct Summary {
    pub answered: usize,
    pub refused: usize,
    pub cut: usize,
}

pub struct Run {
    shared: Rc<Shared>,
    /// No fault that a client could notice is on.
    harmless: bool,
    workers: Vec<Worker<FakeRing>>,
    disks: Vec<Reader<FakeDisk>>,
    clients: Vec<Client>,
    memory: Arc<Memory>,
    counters: Vec<Arc<WorkerCounters>>,
    wakers: Vec<Arc<FakeWaker>>,
    holdings: Arc<Holdings>,
    stop: Arc<AtomicBool>,
    /// Drain or stop in this round.
    drain_in: Option<usize>,
    stop_in: Option<usize>,
}

/// Plays one seed. Err: what went wrong.
pub fn run(seed: u64, planted: Planted) -> Result<Summary, String> {
    Run::new(seed, planted).play()
}

fn random_limits(random: &mut Random, harmless: bool) -> Limits {
    let mut limits = Limits {
        connections_max: if harmless { 64 } else { random.between(1, 6) },
        head_bytes_max: 4096,
        ..Limits::default()
    };
    if !harmless && random.chance(1, 2) {
        limits.requests_per_connection_max = u64::try_from(random.between(1, 4)).unwrap();
    }
    limits
}

impl Run {
    fn new(seed: u64, planted: Planted) -> Self {
        let mut random = Random::new(seed);
        let harmless = random.chance(1, 3);
        let count = random.between(1, 2);
        let limits = random_limits(&mut random, harmless);
        let clients = random.between(1, 8);
        // With fewer blocks than clients, all may be in use at a time.
        let blocks = if harmless { 3 * (clients + 2) } else { random.between(3, 10) };
        let tuning = Tuning {
            block_bytes: 256 * 1024,
            send_quantum_bytes: random.between(1_000, 100_000),
            planted,
            ..Tuning::default()
        };
        let faults: Vec<_> = (0..SITE.volumes)
            .map(|_| if harmless { short_only(&mut random) } else { Faults::random(&mut random) })
            .collect();
        let drain_in = (!harmless && random.chance(1, 8)).then(|| random.below(400));
        let stop_in = (!harmless && random.chance(1, 8)).then(|| random.below(400));
        let shared = Rc::new(Shared {
            now: Cell::new(Now(1_000_000_000)),
            random: RefCell::new(random),
            activity: Cell::new(0),
            network: RefCell::new(Network { backlogs: vec![Vec::new(); count], ..Network::default() }),
        });
        let (arena, blocks) = Arena::new(tuning.block_bytes, blocks).unwrap();
        let wakers: Vec<_> = (0..count).map(|_| Arc::new(FakeWaker::default())).collect();
        let mailboxes: Vec<_> = wakers.iter().map(|waker| mailbox(waker, &limits)).collect();
        let answers: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.answers.clone()).collect();
        let memory = Memory::new(arena, blocks, SITE.volumes, mailboxes, planted);
        let holdings = SITE.holdings();
        let (disks, handles) = make_disks(&shared, &memory, &holdings, &tuning, faults);
        let good = |shared: &Rc<Shared>| harmless || shared.chance(1, 2);
        let clients = (0..clients).map(|_| Client::new(shared.clone(), count, good(&shared))).collect();
        let counters: Vec<_> = (0..count).map(|_| Arc::new(WorkerCounters::default())).collect();
        let stop = Arc::<AtomicBool>::default();
        let worker = |(index, answers): (usize, Arc<ArrayQueue<_>>)| {
            let setup = WorkerSetup {
                index: u16::try_from(index).unwrap(),
                listeners: Vec::new(),
                limits: limits.clone(),
                holdings: holdings.clone(),
                counters: counters[index].clone(),
                memory: memory.clone(),
                disks: handles.clone(),
                answers,
                stop: stop.clone(),
                tuning: tuning.clone(),
            };
            let ring = FakeRing::new(shared.clone(), memory.arena().clone(), wakers[index].clone(), index);
            Worker::new(setup, ring)
        };
        let workers = answers.into_iter().enumerate().map(worker).collect();
        Self {
            shared,
            harmless,
            workers,
            disks,
            clients,
            memory,
            counters,
            wakers,
            holdings,
            stop,
            drain_in,
            stop_in,
        }
    }

    fn play(mut self) -> Result<Summary, String> {
        let mut quiet = 0;
        for round in 0..ROUNDS_MAX {
            self.interfere(round);
            let before = self.shared.activity.get();
            self.one_round()?;
            quiet = if self.shared.activity.get() == before { quiet + 1 } else { 0 };
            // A timer may have set another one, which the ring hears of in the next turn only.
            if quiet < 2 {
                continue;
            }
            if self.clients.iter().all(|client| client.done) && self.at_rest() {
                return self.close_accounts();
            }
            self.pass_time()?;
            quiet = 0;
        }
        Err("it does not come to an end".to_owned())
    }

    fn interfere(&mut self, round: usize) {
        if self.drain_in == Some(round) {
            self.holdings.set_draining(true);
            self.wakers.iter().for_each(|waker| waker.wake());
        }
        if self.stop_in == Some(round) {
            self.stop.store(true, Ordering::Relaxed);
            self.wakers.iter().for_each(|waker| waker.wake());
        }
    }

    /// Everybody's turn once, in any order.
    fn one_round(&mut self) -> Result<(), String> {
        let (workers, disks) = (self.workers.len(), self.disks.len());
        let all = workers + disks + self.clients.len();
        let start = self.shared.random.borrow_mut().below(all);
        for place in (0..all).map(|step| (start + step) % all) {
            if place < workers {
                self.workers[place].turn(None).map_err(|cause| cause.to_string())?;
            } else if place < workers + disks {
                self.disks[place - workers].turn(None);
            } else {
                self.clients[place - workers - disks].act()?;
            }
        }
        Ok(())
    }

    /// Nothing can happen now: on to the next moment at which something will.
    fn pass_time(&mut self) -> Result<(), String> {
        let now = self.shared.now.get();
        let mut next: Vec<_> = self
            .clients
            .iter()
            .filter(|client| !client.done)
            .filter_map(|client| client.pause_until)
            .collect();
        next.extend(self.workers.iter_mut().filter_map(|worker| worker.ring().until));
        next.extend(self.disks.iter_mut().filter_map(|disk| disk.io().next()));
        let Some(next) = next.into_iter().filter(|next| *next > now).min() else {
            let until: Vec<_> = self.workers.iter_mut().map(|worker| worker.ring().until).collect();
            let open: Vec<_> = self.workers.iter_mut().flat_map(Worker::describe).collect();
            let in_use = self.memory.in_use();
            return Err(format!("deadlock at {now:?}: memory {in_use:?}, {open:?}, workers until {until:?}"));
        };
        self.shared.now.set(next);
        self.shared.happened();
        Ok(())
    }

    fn connections(&self) -> usize {
        self.workers.iter().map(Worker::connections).sum()
    }

    fn at_rest(&self) -> bool {
        let reads: usize = self.disks.iter().map(Reader::in_flight).sum();
        self.connections() == 0 && reads == 0 && self.memory.in_use() == (0, 0)
    }

    /// Nothing may be left over, and whoever had a right to an answer must have had it.
    fn close_accounts(&mut self) -> Result<Summary, String> {
        for worker in &mut self.workers {
            worker.ring().leaks()?;
        }
        let open: u64 =
            self.counters.iter().map(|counters| counters.connections.load(Ordering::Relaxed)).sum();
        if open != 0 {
            return Err(format!("{open} connections are counted as open"));
        }
        let sum = |figure: fn(&Client) -> usize| self.clients.iter().map(figure).sum();
        let summary = Summary {
            answered: sum(|client| client.answered),
            refused: sum(|client| client.refused),
            cut: sum(|client| client.cut),
        };
        if self.harmless && (summary.refused, summary.cut) != (0, 0) {
            return Err(format!("without any fault, not all was answered: {summary:?} {:?}", self.counters));
        }
        Ok(summary)
    }
}

fn short_only(random: &mut Random) -> Faults {
    Faults { short: random.below(300), ..Faults::default() }
}

fn mailbox(waker: &Arc<FakeWaker>, limits: &Limits) -> Mailbox {
    Mailbox { answers: Arc::new(ArrayQueue::new(mailbox_size(limits))), waker: waker.clone() }
}

fn make_disks(
    shared: &Rc<Shared>,
    memory: &Arc<Memory>,
    holdings: &Arc<Holdings>,
    tuning: &Tuning,
    faults: Vec<Faults>,
) -> (Vec<Reader<FakeDisk>>, Vec<DiskHandle>) {
    let disks = (0u16..).zip(faults).map(|(volume, faults)| {
        let handle = DiskHandle::new(memory.orders_max(), Arc::new(FakeWaker::default()));
        let setup = ReaderSetup {
            volume: VolumeIndex(volume),
            handle: handle.clone(),
            memory: memory.clone(),
            holdings: holdings.clone(),
            counters: Arc::default(),
            tuning: tuning.clone(),
        };
        (Reader::new(setup, FakeDisk::new(shared.clone(), volume, faults)), handle)
    });
    disks.unzip()
}
