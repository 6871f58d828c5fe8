//! Clients that ask for a small range again and again, and remember how long they had to wait at most: what a viewer
//! would notice of anything that holds a worker up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::clock;
use xtask::stop::Stop;

use crate::shelf::{Item, Shelf};
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen between two looks.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    pub requests: u64,
    pub longest: Duration,
}

pub struct Pulse {
    clients: Vec<(JoinHandle<Result<()>>, Arc<Counters>)>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    longest_us: AtomicU64,
}

impl Pulse {
    /// One client a connection; each checks every byte.
    pub fn start(shelf: &Shelf, item: &Item, connections: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for _ in 0..connections {
            let (counters, stop) = (Arc::<Counters>::default(), Arc::clone(&stop));
            let (wire, target, item) = (shelf.wire()?, shelf.target(item), item.clone());
            let theirs = Arc::clone(&counters);
            clients.push((thread::spawn(move || beat(wire, &target, &item, &theirs, &stop)), counters));
        }
        Ok(Self { clients, stop })
    }

    /// What the clients saw while `work` ran, and what they were waiting for at its end.
    pub fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Beat)> {
        let counts = || self.clients.iter().map(|(_, counters)| counters.requests.load(SeqCst));
        self.clients.iter().for_each(|(_, counters)| counters.longest_us.store(0, SeqCst));
        let before: Vec<_> = counts().collect();
        let done = work()?;
        let after: Vec<_> = counts().collect();
        clock::wait_for(&Stop::default(), "every client's answer", PATIENCE, || {
            if self.clients.iter().any(|(client, _)| client.is_finished()) {
                bail!("a client ended early");
            }
            Ok(counts().zip(&after).all(|(now, then)| now > *then).then_some(()))
        })?;
        let requests = counts().sum::<u64>() - before.iter().sum::<u64>();
        let longest = self.clients.iter().map(|(_, counters)| counters.longest_us.load(SeqCst)).max();
        Ok((done, Beat { requests, longest: Duration::from_micros(longest.unwrap_or(0)) }))
    }

    /// Fails if any answer was wrong.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, SeqCst);
        for (client, _) in self.clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    }
}

fn beat(mut wire: Wire, target: &str, item: &Item, counters: &Counters, stop: &AtomicBool) -> Result<()> {
    let part = item.bytes.get(..512).context("an item of 512 bytes")?;
    while !stop.load(SeqCst) {
        let start = clock::now();
        let answer = wire.ask("GET", target, &["Range: bytes=0-511"])?;
        let waited = u64::try_from(start.elapsed().as_micros())?;
        if answer.status != 206 || answer.body != part {
            bail!("a wrong answer: {} and {} bytes", answer.status, answer.body.len());
        }
        counters.longest_us.fetch_max(waited, SeqCst);
        counters.requests.fetch_add(1, SeqCst);
    }
    Ok(())
}
