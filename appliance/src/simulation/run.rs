//! One seed: a server put together on fakes, clients let loose on it, and the accounts at the end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use content::box_config::Limits;
use content::network::Network;
use crossbeam_queue::ArrayQueue;

use super::accounts;
use super::client::{Client, Habits, Tally};
use super::disk::{FakeDisk, Faults};
use super::faults::Fault;
use super::interference::{Action, Schedule};
use super::kernel::{FakeKernel, FakeWaker};
use super::random::Random;
use super::secure::TLS;
use super::shared::Shared;
use super::site::SITE;
use crate::clock::Now;
use crate::disk::DiskHandle;
use crate::disk::reader::{Reader, ReaderSetup};
use crate::endings::Ending;
use crate::holdings::{Holdings, VolumeIndex};
use crate::memory::{Answer, Mailbox, Memory};
use crate::metrics::WorkerCounters;
use crate::ring::sockets::SocketRing;
use crate::ring::{Ring as _, Way};
use crate::sys::Wake;
use crate::sys::arena::Arena;
use crate::tuning::{Plant, Planted, Tuning};
use crate::worker::{Worker, WorkerSetup, mailbox_size};

const ROUNDS_MAX: usize = 60_000;
/// Nothing here waits for longer: a request takes 10 minutes at most, a client connects 20 times, the clock jumps by 15
/// minutes a few times.
const SIMULATED_S_MAX: u64 = 40_000;
/// Without any fault that takes time, all is answered within.
const HARMLESS_S_MAX: u64 = 60;

/// What a seed did: for a summary, and so that a run that tests nothing is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub tally: Tally,
    pub seen: [u64; Fault::ALL.len()],
    /// Of requests and of connections.
    pub endings: [u64; Ending::ALL.len()],
    /// Of all that happened, in its order.
    pub trace: u64,
}

pub struct Run {
    pub shared: Rc<Shared>,
    /// No fault that a client could notice is on.
    pub harmless: bool,
    /// All is said over TLS.
    pub secure: bool,
    pub workers: Vec<Worker<SocketRing<FakeKernel>>>,
    pub disks: Vec<Reader<FakeDisk>>,
    pub clients: Vec<Client>,
    pub memory: Arc<Memory>,
    pub counters: Vec<Arc<WorkerCounters>>,
    pub wakers: Vec<Arc<FakeWaker>>,
    pub holdings: Arc<Holdings>,
    pub stop: Arc<AtomicBool>,
    /// The workers' mailboxes.
    answers: Vec<Arc<ArrayQueue<Answer>>>,
    schedule: Schedule,
    /// As the agent knows it.
    oldest: u64,
}

/// Plays one seed. Err: what went wrong.
pub fn run(seed: u64, planted: Planted) -> Result<Summary, String> {
    Run::new(seed, planted).play()
}

/// Not drawn, so that the other seeds stay what they were.
fn is_secure(seed: u64, planted: Planted) -> bool {
    seed % 8 == 6 && !planted.has(Plant::LeaseEndsAtSubmit)
}

/// Whether all that connect are announced by a balancer. Some of these seeds are over TLS.
pub fn is_proxied(seed: u64) -> bool {
    matches!(seed % 16, 10 | 14)
}

fn proxy_from(seed: u64) -> Vec<Network> {
    let all = || Network::try_from("127.0.0.0/8".to_owned()).expect("a network");
    is_proxied(seed).then(all).into_iter().collect()
}

fn random_limits(seed: u64, random: &mut Random, harmless: bool) -> Limits {
    let mut limits = Limits {
        handshakes_max: if !harmless && seed % 16 == 6 { 1 } else { 64 },
        connections_max: if harmless { 64 } else { random.between(1, 6) },
        head_bytes_max: 4096,
        ..Limits::default()
    };
    if !harmless && random.chance(1, 2) {
        limits.requests_per_connection_max = u64::try_from(random.between(1, 4)).unwrap();
    }
    if !harmless && random.chance(1, 3) {
        limits.request_ms_max = u64::try_from(random.between(1_000, 60_000)).unwrap();
    }
    limits
}

fn random_tuning(random: &mut Random, harmless: bool, planted: Planted) -> Tuning {
    let tuning = Tuning { planted, ..Tuning::default() };
    Tuning {
        block_bytes: 256 * 1024,
        send_quantum_bytes: random.between(1_000, 100_000),
        first_piece_bytes: random.between(1, 20_000),
        receive_slack_bytes: if harmless { tuning.receive_slack_bytes } else { random.between(1, 8_000) },
        ..tuning
    }
}

impl Run {
    fn new(seed: u64, planted: Planted) -> Self {
        let secure = is_secure(seed, planted);
        let mut random = Random::new(seed);
        let harmless = random.chance(1, 3);
        let count = random.between(1, 2);
        let limits = random_limits(seed, &mut random, harmless);
        let clients = random.between(1, 8);
        // With fewer blocks than clients, all may be in use at a time.
        let blocks = if harmless { 3 * (clients + 2) } else { *random.pick(&[3, 3, 4, 5, 8]) };
        let tuning = random_tuning(&mut random, harmless, planted);
        let faults: Vec<_> = (0..SITE.volumes)
            .map(|_| if harmless { Faults::harmless(&mut random) } else { Faults::random(&mut random) })
            .collect();
        let way = *random.pick(&Way::ALL);
        let schedule = Schedule::random(&mut random, harmless);
        let shared = Rc::new(Shared::new(random, count, !harmless));
        let (arena, blocks) = Arena::new(tuning.block_bytes, blocks).unwrap();
        let wakers: Vec<_> = (0..count).map(|_| Arc::new(FakeWaker::default())).collect();
        let mailboxes: Vec<_> = wakers.iter().map(|waker| mailbox(waker, &limits)).collect();
        let answers: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.answers.clone()).collect();
        let memory = Memory::new(arena, blocks, SITE.volumes, mailboxes, planted);
        let holdings = SITE.holdings();
        let (disks, handles) = make_disks(&shared, &memory, &holdings, &tuning, faults);
        let client =
            |_| Client::new(shared.clone(), holdings.clone(), count, Habits::of(seed, harmless, secure));
        let clients = (0..clients).map(client).collect();
        let counters: Vec<_> = (0..count).map(|_| Arc::new(WorkerCounters::default())).collect();
        let stop = Arc::<AtomicBool>::default();
        let worker = |(index, answers): (usize, Arc<ArrayQueue<_>>)| {
            let setup = WorkerSetup {
                index: u16::try_from(index).unwrap(),
                listeners: Vec::new(),
                secure: None,
                proxy_from: proxy_from(seed),
                limits: limits.clone(),
                holdings: holdings.clone(),
                counters: counters[index].clone(),
                memory: memory.clone(),
                disks: handles.clone(),
                answers,
                stop: stop.clone(),
                tuning: tuning.clone(),
            };
            let kernel =
                FakeKernel::new(shared.clone(), memory.arena().clone(), wakers[index].clone(), index);
            let listener = kernel.listener();
            let mut ring = SocketRing::new(kernel, way, planted);
            let listener = ring.listen_on(listener);
            ring.accept(listener);
            let mut worker = Worker::new(setup, ring);
            if secure {
                worker.secure(TLS.server.clone());
            }
            worker
        };
        let workers = answers.iter().cloned().enumerate().map(worker).collect();
        Self {
            shared,
            harmless,
            secure,
            workers,
            disks,
            clients,
            memory,
            counters,
            wakers,
            holdings,
            stop,
            answers,
            schedule,
            oldest: 1,
        }
    }

    fn play(mut self) -> Result<Summary, String> {
        let mut quiet = 0;
        for round in 0..ROUNDS_MAX {
            self.interfere(round);
            let before = self.shared.activity.get();
            self.one_round()?;
            self.unlink();
            quiet = if self.shared.activity.get() == before { quiet + 1 } else { 0 };
            // A timer may have set another one, which the ring hears of in the next turn only.
            if quiet < 2 {
                continue;
            }
            quiet = 0;
            if self.clients.iter().all(|client| client.done) && self.connections() == 0 {
                if self.disks.iter().all(|disk| disk.in_flight() == 0) {
                    return accounts::close(&mut self);
                }
                self.disks.iter_mut().for_each(|disk| disk.io().end_hanging());
                continue;
            }
            self.pass_time()?;
        }
        Err("it does not come to an end".to_owned())
    }

    fn interfere(&mut self, round: usize) {
        while let Some(action) = self.schedule.next(round) {
            self.carry_out(action);
            self.shared.happened();
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Publish => self.publish(),
            Action::Drain(on) => {
                self.shared.saw(if on { Fault::Drain } else { Fault::Undrain });
                self.holdings.set_draining(on);
                self.wakers.iter().for_each(|waker| waker.wake());
            }
            Action::Stop => {
                self.shared.saw(Fault::Stop);
                self.stop.store(true, Ordering::Relaxed);
                self.wakers.iter().for_each(|waker| waker.wake());
            }
            Action::Volume { index, away } => {
                self.shared.saw(if away { Fault::VolumeAway } else { Fault::VolumeBack });
                self.disks[usize::from(index)].io().set_away(away);
                let id = (!away).then(|| SITE.volume_id(index));
                self.holdings.set_volume_present(VolumeIndex(index), id);
            }
            Action::Jump { ms } => {
                self.shared.saw(Fault::ClockJump);
                let now = self.shared.now.get();
                self.shared.now.set(Now(now.0 + ms * 1_000_000));
            }
            Action::WallJump { seconds } => {
                self.shared.saw(Fault::WallJump);
                self.shared.wall_ahead_s.set(seconds.max(self.shared.wall_ahead_s.get()));
            }
        }
    }

    fn publish(&mut self) {
        let mut next = self.holdings.current().number() + 1;
        if self.harmless && next == super::site::ABSENT_GENERATION {
            next += 1;
        }
        if next <= SITE.generations() {
            if self.counters.iter().any(|counters| counters.connections.load(Ordering::Relaxed) > 0) {
                self.shared.saw(Fault::Swap);
            }
            SITE.publish(&self.holdings, next);
        }
    }

    /// As the agent does: what only generations name that no request uses any more.
    fn unlink(&mut self) {
        let oldest = self.holdings.oldest_in_use();
        if oldest > self.oldest {
            self.oldest = oldest;
            self.shared.saw(Fault::Unlink);
            self.shared.unlinked.borrow_mut().extend(SITE.unnamed_since(oldest));
        }
    }

    /// Everybody's turn once, in any order.
    fn one_round(&mut self) -> Result<(), String> {
        let (workers, disks) = (self.workers.len(), self.disks.len());
        let all = workers + disks + self.clients.len();
        let start = self.shared.below(all);
        for place in (0..all).map(|step| (start + step) % all) {
            if place < workers {
                self.worker_turn(place)?;
            } else if place < workers + disks {
                self.disks[place - workers].turn(None);
            } else {
                self.clients[place - workers - disks].act()?;
            }
        }
        self.shared.violation()
    }

    /// Only if its wait returns, as the real one's would.
    fn worker_turn(&mut self, place: usize) -> Result<(), String> {
        let now = self.shared.now.get();
        let worker = &mut self.workers[place];
        let due = worker.deadline().is_some_and(|at| at <= now);
        let ring = worker.ring();
        let returns = ring.kernel().sleep();
        let at_once = ring.has_entries() || !ring.is_armed();
        if returns || due || at_once || worker.has_work() {
            worker.turn(None).map_err(|cause| cause.to_string())?;
        }
        Ok(())
    }

    /// Nothing can happen now: on to the next moment at which something will.
    fn pass_time(&mut self) -> Result<(), String> {
        if self.answers.iter().any(|mailbox| !mailbox.is_empty()) {
            return Err("an answer lies unread while its worker sleeps".to_owned());
        }
        let now = self.shared.now.get();
        let waiting = self.clients.iter().filter(|client| !client.done);
        let mut next: Vec<_> = waiting.filter_map(|client| client.pause_until).collect();
        next.extend(self.workers.iter().filter_map(Worker::deadline));
        next.extend(self.disks.iter_mut().filter_map(|disk| disk.io().next()));
        let Some(next) = next.into_iter().filter(|next| *next > now).min() else {
            let open: Vec<_> = self.workers.iter_mut().flat_map(Worker::describe).collect();
            return Err(format!("deadlock at {now:?}: memory {:?}, {open:?}", self.memory.in_use()));
        };
        if next.0 / 1_000_000_000 > self.seconds_max() {
            return Err(format!("it takes longer than {} simulated seconds", self.seconds_max()));
        }
        self.shared.now.set(next);
        self.shared.note(next.0);
        self.shared.happened();
        Ok(())
    }

    fn seconds_max(&self) -> u64 {
        if self.harmless && self.clients.iter().any(|client| !client.done) {
            HARMLESS_S_MAX
        } else {
            SIMULATED_S_MAX
        }
    }

    fn connections(&self) -> usize {
        self.workers.iter().map(Worker::connections).sum()
    }
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
