//! Puts the core together on real rings: memory, a disk thread per volume, a worker per core; and takes it apart.

#[cfg(test)]
mod tests;

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use content::box_config::Limits;
use content::network::Network;
use crossbeam_queue::ArrayQueue;

use crate::disk::DiskHandle;
use crate::disk::reader::{Reader, ReaderSetup};
use crate::disk::uring::UringDisk;
use crate::holdings::{Holdings, VolumeIndex};
use crate::memory::{Mailbox, Memory};
use crate::metrics::{VolumeCounters, WorkerCounters};
use crate::ring::measure::measure;
use crate::ring::uring::{RingError, UringKernel, UringRing};
use crate::sys::arena::{Arena, Block};
use crate::sys::{EventWaker, Wake};
use crate::tuning::Tuning;
use crate::ways::{self, Chosen};
use crate::worker::{Secure, TURNED_AWAY_MAX, Worker, WorkerSetup, mailbox_size};

/// How long a worker that stops waits for what is in flight.
const STOP_MS_MAX: u64 = 1_000;

pub struct EngineSetup {
    /// Listening. Listener `i` is for worker `i mod workers`; there should be one per worker and address.
    pub listeners: Vec<TcpListener>,
    /// Those of TLS, spread likewise, and its rules.
    pub secure: Option<Secure>,
    /// Balancers, which say for whom they connect.
    pub proxy_from: Vec<Network>,
    /// One worker each.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// By `VolumeIndex`: the folder, and what its disk thread counts. A folder need not be there yet.
    pub volumes: Vec<(PathBuf, Arc<VolumeCounters>)>,
    pub memory_bytes: u64,
    pub limits: Limits,
    pub holdings: Arc<Holdings>,
    pub way: WaySetup,
    pub tuning: Tuning,
}

/// How blocks leave.
pub enum WaySetup {
    Known(Chosen),
    /// It is to be measured, and the figures are to be kept in this folder as this machine's.
    Measure {
        state: PathBuf,
        machine: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "key `server.memory_mib`: the memory for blocks cannot be had: {0}; give less, or more to the process"
    )]
    Memory(io::Error),
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("the ring of a disk cannot be made: {0}")]
    DiskRing(io::Error),
    #[error("a thread cannot be started: {0}; look at the limit on tasks (systemd: TasksMax)")]
    Thread(io::Error),
}

/// The running core.
pub struct Engine {
    workers: Vec<Thread>,
    disks: Vec<(Thread, DiskHandle)>,
    stop: Arc<AtomicBool>,
    memory: Arc<Memory>,
    way: Chosen,
}

struct Thread {
    handle: JoinHandle<()>,
    waker: Arc<EventWaker>,
}

impl Engine {
    /// Serves once it returns: all memory is there, every ring was made.
    pub fn start(setup: EngineSetup) -> Result<Self, EngineError> {
        let tuning = setup.tuning.clone();
        let count = usize::try_from(setup.memory_bytes).unwrap_or(usize::MAX) / tuning.block_bytes;
        let (arena, blocks) = Arena::new(tuning.block_bytes, count).map_err(EngineError::Memory)?;
        let (way, blocks) = find_way(&setup.way, &arena, blocks, &tuning);
        tracing::info!(way = way.way.name(), why = way.why, "how blocks leave memory");
        let wakers = (0..setup.workers.len()).map(|_| EventWaker::new()).collect::<Result<Vec<_>, _>>();
        let wakers = wakers.map_err(EngineError::Thread)?;
        let mailbox = |waker: &Arc<EventWaker>| Mailbox {
            answers: Arc::new(ArrayQueue::new(mailbox_size(&setup.limits))),
            waker: waker.clone(),
        };
        let mailboxes: Vec<_> = wakers.iter().map(mailbox).collect();
        let answers: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.answers.clone()).collect();
        let memory = Memory::new(arena, blocks, setup.volumes.len(), mailboxes, tuning.planted);
        let mut engine = Self { workers: Vec::new(), disks: Vec::new(), stop: Arc::default(), memory, way };
        engine.start_disks(&setup, &tuning)?;
        engine.start_workers(setup, &tuning, wakers, answers)?;
        Ok(engine)
    }

    fn start_disks(&mut self, setup: &EngineSetup, tuning: &Tuning) -> Result<(), EngineError> {
        for (index, (folder, counters)) in (0u16..).zip(&setup.volumes) {
            let waker = EventWaker::new().map_err(EngineError::Thread)?;
            let handle = DiskHandle::new(self.memory.orders_max(), waker.clone());
            let reader = ReaderSetup {
                volume: VolumeIndex(index),
                handle: handle.clone(),
                memory: self.memory.clone(),
                holdings: setup.holdings.clone(),
                counters: counters.clone(),
                tuning: tuning.clone(),
            };
            let (folder, ring_waker) = (folder.clone(), waker.clone());
            let thread = start_thread(format!("disk-{index}"), move |ready| {
                let made = UringDisk::new(folder, ring_waker).map_err(EngineError::DiskRing);
                if let Some(io) = tell(&ready, made) {
                    Reader::new(reader, io).run();
                }
            })?;
            self.disks.push((Thread { handle: thread, waker }, handle));
        }
        Ok(())
    }

    fn start_workers(
        &mut self,
        setup: EngineSetup,
        tuning: &Tuning,
        wakers: Vec<Arc<EventWaker>>,
        answers: Vec<Arc<ArrayQueue<crate::memory::Answer>>>,
    ) -> Result<(), EngineError> {
        let listeners = spread(setup.listeners, wakers.len());
        let secure: Vec<Option<Secure>> = match setup.secure {
            Some(Secure { listeners, rules }) => {
                let of_each = spread(listeners, wakers.len()).into_iter();
                of_each.map(|listeners| Some(Secure { listeners, rules: Arc::clone(&rules) })).collect()
            }
            None => wakers.iter().map(|_| None).collect(),
        };
        let disks: Vec<_> = self.disks.iter().map(|(_, handle)| handle.clone()).collect();
        let ears = listeners.into_iter().zip(secure);
        let parts = setup.workers.into_iter().zip(ears).zip(wakers.into_iter().zip(answers));
        for (index, ((counters, (listeners, secure)), (waker, answers))) in (0u16..).zip(parts) {
            let worker = WorkerSetup {
                index,
                listeners,
                secure,
                proxy_from: setup.proxy_from.clone(),
                limits: setup.limits.clone(),
                holdings: setup.holdings.clone(),
                counters,
                memory: self.memory.clone(),
                disks: disks.clone(),
                answers,
                stop: self.stop.clone(),
                tuning: tuning.clone(),
            };
            let (arena, ring_waker) = (self.memory.arena().clone(), waker.clone());
            let way = self.way.way;
            let slots = setup.limits.connections_max + TURNED_AWAY_MAX;
            let handle = start_thread(format!("worker-{index}"), move |ready| {
                let made = UringKernel::new(arena, ring_waker, slots).map_err(EngineError::Ring);
                if let Some(kernel) = tell(&ready, made) {
                    let ring = UringRing::new(kernel, way, worker.tuning.planted);
                    let ended = Worker::new(worker, ring).run(STOP_MS_MAX);
                    // A ring that the kernel refuses is nothing that serving can go on without.
                    ended.expect("io_uring_enter of a worker's ring failed");
                }
            })?;
            self.workers.push(Thread { handle, waker });
        }
        Ok(())
    }

    pub fn way(&self) -> &Chosen {
        &self.way
    }

    /// Makes every worker and every disk thread look again at what `Holdings` says.
    pub fn wake(&self) {
        self.disks.iter().for_each(|(disk, _)| disk.waker.wake());
        self.workers.iter().for_each(|worker| worker.waker.wake());
    }

    /// Closes every connection and ends the threads. One that hangs in a dying disk is left behind.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        for worker in self.workers {
            if worker.handle.join().is_err() {
                tracing::error!("a worker had died");
            }
        }
        // Not joined: a disk that hangs would hold us up, and they own nothing that has to be put in order.
        self.disks.iter().for_each(|(_, handle)| handle.stop());
    }
}

/// Listener `i` to worker `i mod workers`, so that none is left without an ear.
fn spread(listeners: Vec<TcpListener>, workers: usize) -> Vec<Vec<TcpListener>> {
    let mut of_each: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, listener) in listeners.into_iter().enumerate() {
        of_each[number % workers.max(1)].push(listener);
    }
    of_each
}

fn find_way(
    setup: &WaySetup,
    arena: &Arc<Arena>,
    blocks: Vec<Block>,
    tuning: &Tuning,
) -> (Chosen, Vec<Block>) {
    match setup {
        WaySetup::Known(chosen) => (chosen.clone(), blocks),
        WaySetup::Measure { state, machine } => {
            let (measured, blocks) = measure(arena, blocks, tuning);
            (ways::conclude(measured, state, machine), blocks)
        }
    }
}

/// Starts a thread and waits for what it says about its ring.
fn start_thread(
    name: String,
    body: impl FnOnce(mpsc::Sender<Result<(), EngineError>>) + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    let (ready, made) = mpsc::channel();
    let thread = Builder::new().name(name).spawn(move || body(ready)).map_err(EngineError::Thread)?;
    match made.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(cause)) => Err(cause),
        Err(mpsc::RecvError) => Err(EngineError::Thread(io::Error::other("it ended before it was ready"))),
    }
}

fn tell<T>(ready: &mpsc::Sender<Result<(), EngineError>>, made: Result<T, EngineError>) -> Option<T> {
    let (value, outcome) = match made {
        Ok(value) => (Some(value), Ok(())),
        Err(cause) => (None, Err(cause)),
    };
    // Nobody listening means that the start was given up.
    ready.send(outcome).ok().and(value)
}
