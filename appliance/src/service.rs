//! The server as its agent and its operator see it: what it is told, and what it says about itself.
//!
//! Shared by the agent's socket and the management port. Publishing reads a disk: call [`Service::answer`] on a helper
//! thread.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use content::box_config::BoxConfig;
use content::catalogue::file::Catalogue;
use content::control_socket::{
    FileName, PublicKey, ServedVolume, ServerAnswer, ServerRequest, ServerStatus, WITHDRAWN_MAX,
};
use content::report::ServerFigures;
use content::token::KeyRing;
use serde::Serialize;

use crate::clock::Now;
use crate::disk::READS_MAX;
use crate::holdings::{Holdings, VolumeIndex};
use crate::metrics::{Gauges, Metrics, Totals, VolumeTotals};
use crate::tls::certificates::Certificates;
use crate::volume_watch::{self, Read};
use crate::ways::{Capacity, Carried};
use crate::{generations, keys, rot};

/// So often a publication starts over because `current` moved on while a generation was loaded.
const LOADS_MAX: usize = 3;
/// A resource that is used less than this does not limit anything.
const LIMITING_FROM: f64 = 0.8;

pub struct Service {
    pub config: BoxConfig,
    pub holdings: Arc<Holdings>,
    pub metrics: Metrics,
    started: Now,
    carried: Carried,
    /// Of TLS, if it is served.
    certificates: Option<Arc<Certificates>>,
    /// The program ends: no agent lifts the drain any more.
    stopping: Mutex<bool>,
    pace: Mutex<Pace>,
    /// One publication at a time, with the volumes that hung when one looked at them.
    publishing: Mutex<BTreeSet<VolumeIndex>>,
    /// What could not be saved yet, and why.
    unsaved_keys: Mutex<Option<(Vec<PublicKey>, String)>>,
    /// Tells workers and disk threads to look at the holdings again.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What went on in the last interval between two samples.
#[derive(Default)]
struct Pace {
    at: Now,
    totals: Totals,
    volumes: Vec<VolumeTotals>,
    rate_bps: u64,
    /// By volume: median time of a read in µs, and mean number of reads that wait or are in flight.
    disks: Vec<(u64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    Ok,
    /// Serves, but something asks for an operator.
    Degraded,
    Draining,
    /// Offer it to nobody.
    Failed,
}

/// What `GET /health` says.
#[derive(Debug, Serialize)]
pub struct Health {
    pub status: Condition,
    pub generation: u64,
    pub oldest_in_use: u64,
    pub draining: bool,
    pub token_keys: usize,
    pub volumes: Vec<VolumeHealth>,
    /// What the box can carry.
    pub capacity: Capacity,
    /// How blocks leave memory, and why so.
    pub way: &'static str,
    pub way_reason: String,
    /// Why the status is not `ok`.
    pub reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct VolumeHealth {
    pub path: String,
    pub uuid: Option<String>,
    pub usable: bool,
    pub read_errors: u64,
}

impl Service {
    pub fn new(
        config: BoxConfig,
        holdings: Arc<Holdings>,
        metrics: Metrics,
        started: Now,
        carried: Carried,
        certificates: Option<Arc<Certificates>>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let pace = Mutex::new(Pace { at: started, ..Pace::default() });
        let (stopping, publishing) = (Mutex::default(), Mutex::default());
        let unsaved_keys = Mutex::default();
        Self {
            config,
            holdings,
            metrics,
            started,
            carried,
            certificates,
            stopping,
            pace,
            publishing,
            unsaved_keys,
            wake,
        }
    }

    /// Does what the agent asks. May read the state volume for seconds.
    pub fn answer(&self, request: ServerRequest, now: Now) -> ServerAnswer {
        let done = match request {
            ServerRequest::Status => {
                self.save_keys();
                Ok(())
            }
            ServerRequest::Publish { generation } => self.publish(generation),
            ServerRequest::Drain { on } => {
                self.drain(on);
                Ok(())
            }
            ServerRequest::TokenKeys { keys } => self.take_keys(&keys),
        };
        match done {
            Ok(()) => ServerAnswer::Status(self.status(now)),
            Err(reason) => {
                tracing::warn!(%reason, "refused the agent");
                ServerAnswer::Refused { reason }
            }
        }
    }

    fn publish(&self, generation: u64) -> Result<(), String> {
        let mut hung = lock(&self.publishing);
        let Some(catalogue) = self.load_from(generation)? else { return Ok(()) };
        // An agent makes its volumes shortly before it first publishes.
        self.find_new_volumes(&mut hung);
        let (generation, entries) = (catalogue.generation(), catalogue.entry_count());
        self.holdings.publish(catalogue);
        (self.wake)();
        tracing::info!(generation, entries, "serving a new generation");
        Ok(())
    }

    /// What `current` names: the generation asked for, or a later one that the agent has published meanwhile. None: it
    /// is served already.
    fn load_from(&self, asked: u64) -> Result<Option<Catalogue>, String> {
        let state = &self.config.state;
        let mut reason = String::new();
        for _ in 0..LOADS_MAX {
            let Some(named) = generations::current(state).filter(|named| *named >= asked) else {
                return Err(format!("`current` does not name generation {asked}"));
            };
            if self.holdings.current().number() == named {
                return Ok(None);
            }
            match generations::load(state, named) {
                Ok(catalogue) => return Ok(Some(catalogue)),
                Err(cause) => reason = format!("generation {named}: {cause}"),
            }
            if generations::current(state) == Some(named) {
                break;
            }
        }
        Err(reason)
    }

    /// Only volumes that were never seen are looked at: one that is gone may hang. One that did hang is left to its
    /// watch, so that publications go on.
    fn find_new_volumes(&self, hung: &mut BTreeSet<VolumeIndex>) {
        let unseen = |index: &VolumeIndex| self.holdings.volume_id(*index).is_none() && !hung.contains(index);
        let unseen: Vec<_> = self.indexed_volumes().filter(|(index, _)| unseen(index)).collect();
        let read = volume_watch::read_all(unseen.iter().map(|(_, volume)| volume.path.as_path()));
        for ((index, _), read) in unseen.into_iter().zip(read) {
            match read {
                Read::Marker(uuid) => self.holdings.set_volume_present(index, Some(uuid)),
                Read::Failed(_) => {}
                Read::Hangs => {
                    hung.insert(index);
                }
            }
        }
    }

    fn indexed_volumes(&self) -> impl Iterator<Item = (VolumeIndex, &content::box_config::VolumeConfig)> {
        (0..u16::MAX).map(VolumeIndex).zip(&self.config.volumes)
    }

    /// The program ends: drains, and stays so whatever the agent says.
    pub fn drain_for_good(&self) {
        *lock(&self.stopping) = true;
        self.drain(true);
    }

    pub fn drain(&self, on: bool) {
        let stopping = lock(&self.stopping);
        let on = on || *stopping;
        if self.holdings.draining() != on {
            tracing::info!(on, "draining");
        }
        self.holdings.set_draining(on);
        (self.wake)();
    }

    fn take_keys(&self, told: &[PublicKey]) -> Result<(), String> {
        let ring = KeyRing::new(told).ok_or("a token key is not 32 bytes of base64url")?;
        // Setting equal keys would make every connection verify its token again.
        if *self.holdings.keys() == ring {
            return Ok(());
        }
        tracing::info!(keys = ring.len(), "new token keys");
        self.holdings.set_keys(ring);
        *lock(&self.unsaved_keys) = Some((told.to_vec(), String::new()));
        self.save_keys();
        Ok(())
    }

    /// They hold already; only a restart without the agent would miss them. So a disk that is full or cannot be written
    /// to is tried again, whenever the agent asks anything.
    fn save_keys(&self) {
        let mut unsaved = lock(&self.unsaved_keys);
        let Some((told, known)) = &mut *unsaved else { return };
        match keys::save(&self.config.state, told) {
            Ok(()) => *unsaved = None,
            Err(cause) => {
                let reason = unsaved_keys(&self.config.state, &cause);
                if *known != reason {
                    tracing::error!("{reason}");
                }
                *known = reason;
            }
        }
    }

    /// Compares the counters with those of the last call: once a second.
    pub fn sample(&self, now: Now) {
        let mut pace = lock(&self.pace);
        let elapsed_us = now.0.saturating_sub(pace.at.0) / 1_000;
        if elapsed_us == 0 {
            return;
        }
        let totals = self.metrics.totals();
        let bytes = totals.body_bytes.wrapping_sub(pace.totals.body_bytes);
        pace.rate_bps = bytes.saturating_mul(8).saturating_mul(1_000_000) / elapsed_us;
        let volumes: Vec<_> = self.metrics.volumes.iter().map(|volume| volume.totals()).collect();
        let none = VolumeTotals::default();
        let disk = |(now, place): (&VolumeTotals, usize)| {
            let since = now.since(pace.volumes.get(place).unwrap_or(&none));
            // Little's law: the mean number in flight is the time spent in reads over the time that passed.
            (since.latency_median_us(), ratio(since.latency_us, elapsed_us))
        };
        pace.disks = volumes.iter().zip(0..).map(disk).collect();
        (pace.at, pace.totals, pace.volumes) = (now, totals, volumes);
    }

    /// Whether a new certificate is there.
    pub fn look_at_certificates(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.look_again();
        }
    }

    pub fn status(&self, now: Now) -> ServerStatus {
        let (limited_by, headroom) = self.limit();
        let pace = lock(&self.pace);
        let volumes = self.indexed_volumes().zip(&self.metrics.volumes).zip(0..);
        let served = |(((index, _), counters), place): (
            ((VolumeIndex, _), &Arc<crate::metrics::VolumeCounters>),
            usize,
        )| {
            Some(ServedVolume {
                uuid: self.holdings.volume_id(index)?,
                usable: self.holdings.volume_usable(index),
                read_errors: counters.totals().read_errors,
                read_latency_us: pace.disks.get(place).map_or(0, |disk| disk.0),
            })
        };
        // In order, so that the rest is told once these are refilled.
        let withdrawn = self.holdings.withdrawn().into_iter().take(WITHDRAWN_MAX);
        let withdrawn = withdrawn.map(|(uuid, file)| FileName { uuid, file });
        ServerStatus {
            // First: a generation published in between makes this older, never the wrong way round.
            oldest_in_use: self.holdings.oldest_in_use(),
            generation: self.holdings.current().number(),
            draining: self.holdings.draining(),
            token_keys: count(self.holdings.keys().len()),
            withdrawn: withdrawn.collect(),
            volumes: volumes.filter_map(served).collect(),
            limited_by: limited_by.to_owned(),
            headroom,
            figures: self.figures(now, pace.rate_bps),
        }
    }

    fn figures(&self, now: Now, rate_bps: u64) -> ServerFigures {
        let totals = self.metrics.totals();
        ServerFigures {
            uptime_ms: self.uptime_ms(now),
            connections: totals.connections,
            requests: totals.requests,
            bytes_sent: totals.body_bytes,
            memory_hits: totals.memory_hits,
            memory_misses: totals.memory_misses,
            rate_bps,
            capacity_bps: self.carried.capacity.bits_per_second,
        }
    }

    fn uptime_ms(&self, now: Now) -> u64 {
        now.0.saturating_sub(self.started.0) / 1_000_000
    }

    /// The resource nearest to its limit, and what is left of it.
    fn limit(&self) -> (&'static str, f64) {
        let workers = count(self.metrics.workers.len());
        let most = count(self.config.server.limits.connections_max);
        let connections = ratio(self.metrics.totals().connections, most.saturating_mul(workers));
        let pace = lock(&self.pace);
        let busiest = pace.disks.iter().map(|disk| disk.1).fold(0.0, f64::max);
        // As many as the disk takes at a time: more wait in its queue.
        let disk = busiest / ratio(count(READS_MAX), 1);
        let carried = self.carried.capacity.resources.iter();
        let carried = carried.map(|(name, bits)| (*name, ratio(pace.rate_bps, *bits)));
        let all = [("connections", connections), ("disk", disk)].into_iter().chain(carried);
        let nearest = all.max_by(|one, other| one.1.total_cmp(&other.1));
        let (name, used) = nearest.unwrap_or(("none", 0.0));
        (if used >= LIMITING_FROM { name } else { "none" }, (1.0 - used).clamp(0.0, 1.0))
    }

    pub fn health(&self) -> Health {
        let volumes = self.indexed_volumes().map(|(index, volume)| VolumeHealth {
            path: volume.path.display().to_string(),
            uuid: self.holdings.volume_id(index).map(|uuid| uuid.to_string()),
            usable: self.holdings.volume_usable(index),
            read_errors: self.read_errors(index),
        });
        let volumes: Vec<_> = volumes.collect();
        let generation = self.holdings.current().number();
        let token_keys = self.holdings.keys().len();
        let mut reasons = reasons(&volumes, generation, token_keys);
        let withdrawn = self.holdings.withdrawn().len();
        if withdrawn > 0 {
            reasons.push(format!("{withdrawn} files are withdrawn for a bad block"));
        }
        reasons.extend(lock(&self.unsaved_keys).as_ref().map(|(_, reason)| reason.clone()));
        let refused = self.certificates.as_ref().and_then(|certificates| certificates.refused());
        reasons.extend(refused.map(|reason| format!("the new certificate is not used: {reason}")));
        let draining = self.holdings.draining();
        let status = match (volumes.iter().any(|volume| volume.usable), draining, reasons.is_empty()) {
            (false, _, _) => Condition::Failed,
            (true, true, _) => Condition::Draining,
            (true, false, true) => Condition::Ok,
            (true, false, false) => Condition::Degraded,
        };
        let oldest_in_use = self.holdings.oldest_in_use();
        let Carried { way, capacity } = self.carried.clone();
        let (way, way_reason) = (way.way.name(), way.why);
        Health {
            status,
            generation,
            oldest_in_use,
            draining,
            token_keys,
            volumes,
            capacity,
            way,
            way_reason,
            reasons,
        }
    }

    fn read_errors(&self, index: VolumeIndex) -> u64 {
        self.metrics.volumes.get(usize::from(index.0)).map_or(0, |volume| volume.totals().read_errors)
    }

    pub fn exposition(&self, now: Now) -> String {
        let usable = |(index, volume): (VolumeIndex, &content::box_config::VolumeConfig)| {
            (volume.path.display().to_string(), self.holdings.volume_usable(index))
        };
        self.metrics.exposition(&Gauges {
            uptime_ms: self.uptime_ms(now),
            generation: self.holdings.current().number(),
            oldest_in_use: self.holdings.oldest_in_use(),
            draining: self.holdings.draining(),
            token_keys: count(self.holdings.keys().len()),
            withdrawn: count(self.holdings.withdrawn().len()),
            volumes: self.indexed_volumes().map(usable).collect(),
            capacity: self.carried.capacity.resources.clone(),
            rot: rot::counts(),
        })
    }
}

fn unsaved_keys(state: &std::path::Path, cause: &std::io::Error) -> String {
    format!(
        "the token keys cannot be saved in {} ({cause}): they hold until a restart without oca-fill; free space there, \
         or make it writable",
        state.display()
    )
}

fn reasons(volumes: &[VolumeHealth], generation: u64, token_keys: usize) -> Vec<String> {
    let lost = volumes.iter().filter(|volume| !volume.usable);
    let mut reasons: Vec<_> = lost
        .map(|volume| {
            format!(
                "volume {} cannot be read: look at its disk (dmesg), then mount it again or replace it",
                volume.path
            )
        })
        .collect();
    if generation == 0 {
        reasons.push("there is no catalogue yet".to_owned());
    }
    if token_keys == 0 {
        reasons.push("there are no token keys yet".to_owned());
    }
    reasons
}

#[expect(clippy::cast_precision_loss, reason = "a share of what there is; the last digits do not matter")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use content::catalogue::{
        CATALOGUE_FOLDER, CURRENT_NAME, Contents, FileRecord, build, current_bytes, generation_name,
    };
    use content::volume::VolumeId;

    use super::*;
    use crate::holdings::{FileRef, Volume};
    use crate::ring::Way;
    use crate::ways::{self, Chosen};

    const SECOND: u64 = 1_000_000_000;

    fn service(state: &Path, wakes: &Arc<AtomicUsize>) -> Service {
        let text = format!(
            "state = '{}'\nsocket = '/s'\n[[volume]]\npath = '/v1'\n[[volume]]\npath = '/v2'\n[server]\n\
             listen = ['127.0.0.1:0']\nmanagement = '127.0.0.1:0'\n[server.limits]\nconnections_max = 10\n[agent]\n\
             appliance = 'a'\ncluster = 'c'\ncontrol = 'http://c:1'\nbase_url = 'http://b:1'\nkey_file = '/k'\n",
            state.display()
        );
        let volumes = vec![Volume::new(Some(VolumeId([1; 16]))), Volume::new(None)];
        let wakes = Arc::clone(wakes);
        let wake = move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        };
        let config = BoxConfig::parse(&text).unwrap();
        let way = Chosen { way: Way::Send, why: "a test says so".to_owned(), cost: None };
        let carried = Carried { way, capacity: ways::capacity(None, 2, Some(1_000_000_000)) };
        let holdings = Arc::new(Holdings::new(volumes));
        Service::new(config, holdings, Metrics::new(2, 2), Now(0), carried, None, Box::new(wake))
    }

    #[test]
    fn a_status_tells_rates_of_the_last_second_and_what_limits() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        let counters = &service.metrics.workers[1];
        counters.sent(1_000, 900);
        service.sample(Now(SECOND));
        counters.sent(3_000, 2_000);
        service.metrics.volumes[0].read_done(2 << 20, 500_000);
        service.sample(Now(3 * SECOND));
        let status = service.status(Now(4 * SECOND));
        assert_eq!((status.figures.rate_bps, status.figures.bytes_sent), (8_000, 2_900));
        assert_eq!(status.figures.uptime_ms, 4_000);
        assert_eq!((status.limited_by.as_str(), status.volumes.len()), ("none", 1));
        assert!((262_144..524_288).contains(&status.volumes[0].read_latency_us));
        for _ in 0..18 {
            counters.connection_opened();
        }
        let status = service.status(Now(4 * SECOND));
        assert!(status.limited_by == "connections" && status.headroom < 0.11, "{}", status.headroom);
        // As many reads in flight all second long as the disk takes.
        (0..READS_MAX).for_each(|_| service.metrics.volumes[0].read_done(2 << 20, 1_000_000));
        service.sample(Now(4 * SECOND));
        let status = service.status(Now(4 * SECOND));
        assert_eq!((status.limited_by.as_str(), status.headroom), ("disk", 0.0));
        // As much as the network card carries, and nothing from a disk.
        counters.sent(200_000_000, 125_000_000);
        service.sample(Now(5 * SECOND));
        let status = service.status(Now(5 * SECOND));
        assert_eq!((status.limited_by.as_str(), status.headroom), ("network", 0.0));
        assert_eq!(status.figures.capacity_bps, 1_000_000_000);
    }

    #[test]
    fn health_is_the_worst_that_holds_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        let health = service.health();
        assert_eq!(health.status, Condition::Degraded);
        let said = health.reasons.join("; ");
        assert!(
            said.contains("/v2") && said.contains("no catalogue") && said.contains("no token keys"),
            "{said}"
        );
        write(folder.path(), 1, 4);
        service.answer(ServerRequest::Publish { generation: 1 }, Now(0));
        service.holdings.withdraw(FileRef { volume: VolumeIndex(0), number: 3, data_bytes: 1 });
        assert!(service.health().reasons.iter().any(|reason| reason.contains("1 files")));
        service.drain(true);
        assert_eq!(service.health().status, Condition::Draining);
        service.holdings.set_volume_usable(VolumeIndex(0), false);
        assert_eq!(service.health().status, Condition::Failed);
    }

    #[test]
    fn workers_are_woken_by_what_concerns_them() {
        let folder = tempfile::tempdir().unwrap();
        let wakes = Arc::default();
        let service = service(folder.path(), &wakes);
        service.answer(ServerRequest::Status, Now(0));
        service.answer(ServerRequest::Publish { generation: 1 }, Now(0));
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
        service.answer(ServerRequest::Drain { on: true }, Now(0));
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_agent_does_not_lift_the_drain_of_a_server_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        let lift = || {
            service.answer(ServerRequest::Drain { on: false }, Now(0));
            service.holdings.draining()
        };
        service.drain(true);
        assert!(!lift());
        service.drain_for_good();
        assert!(lift());
    }

    fn write(state: &Path, generation: u64, files: u64) {
        let file = |number| FileRecord { number, data_bytes: 1, volume: 0 };
        let (volumes, files) = (vec![VolumeId([1; 16])], (0..files).map(file).collect());
        let contents = Contents { generation, next_file: 10_000, volumes, files, entries: vec![] };
        let folder = state.join(CATALOGUE_FOLDER);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(generation_name(generation)), build::to_bytes(contents).unwrap()).unwrap();
        std::fs::write(folder.join(CURRENT_NAME), current_bytes(generation)).unwrap();
    }

    #[test]
    fn a_publication_takes_what_current_names_when_that_is_later() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        [1, 2, 3].into_iter().for_each(|generation| write(folder.path(), generation, 1));
        let publish = |generation| service.answer(ServerRequest::Publish { generation }, Now(0));
        for generation in [1, 3, 2] {
            let ServerAnswer::Status(status) = publish(generation) else { panic!("{generation} is refused") };
            assert_eq!(status.generation, 3);
        }
        assert!(matches!(publish(4), ServerAnswer::Refused { .. }));
    }

    #[test]
    fn a_status_fits_its_line_however_many_files_are_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        write(folder.path(), 1, 1_500);
        service.answer(ServerRequest::Publish { generation: 1 }, Now(0));
        let file = |number| FileRef { volume: VolumeIndex(0), number, data_bytes: 1 };
        (0..1_500).for_each(|number| service.holdings.withdraw(file(number)));
        let told = service.status(Now(0)).withdrawn;
        assert_eq!((told.len(), told[0].file), (WITHDRAWN_MAX, 0));
        assert_eq!(service.holdings.withdrawn().len(), 1_500);
    }

    #[test]
    fn equal_keys_do_not_make_connections_verify_again() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(folder.path(), &Arc::default());
        let key = content::token::Signer::from_seed("k", &[1; 32]).unwrap().public_key();
        service.answer(ServerRequest::TokenKeys { keys: vec![key.clone()] }, Now(0));
        let before = service.holdings.keys();
        service.answer(ServerRequest::TokenKeys { keys: vec![key] }, Now(0));
        assert!(Arc::ptr_eq(&before, &service.holdings.keys()) && before.len() == 1);
    }
}
