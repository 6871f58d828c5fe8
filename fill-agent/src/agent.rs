//! The shell around `core`: runs each action as a task of its own and feeds its end back as an event. Impure; decides
//! nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use content::box_config::VolumeConfig;
use content::control_socket::ServerRequest;
use content::fill::FillRequest;
use content::id::{MediaPath, ObjectId};
use content::pack::PACK_BYTES;
use content::report::Registration;
use content::volume::{MARKER_NAME, VolumeId};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock::Clock;
use crate::config::{AgentSetup, OperatorError};
use crate::control::{Control, ControlError, ManifestAnswer};
use crate::core::{Action, Core, Event, Settings, Tell};
use crate::download::{Counters, Job, Workshop};
use crate::generations;
use crate::http::{Http, Patience};
use crate::incoming;
use crate::rot;
use crate::savings::Savings;
use crate::server_link::ServerLink;
use crate::sources::Hosts;
use crate::state_folder::StateFolder;
use crate::volumes::{self, Probed, Remembered, VolumeFault, VolumeLock};

/// A volume that does not answer a look at it within this time has failed.
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// Reading the folders of a volume with a million files.
const SCAN_WAIT: Duration = Duration::from_secs(600);
/// No more events than this wait; tasks with one more wait themselves.
const EVENTS_MAX: usize = 1024;

/// What tests set otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    pub publish_every: Duration,
    pub patience: Patience,
    pub tick: Duration,
    pub pack_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            publish_every: Duration::from_secs(60),
            patience: Patience::default(),
            tick: Duration::from_millis(100),
            pack_bytes: PACK_BYTES,
        }
    }
}

/// Runs until `stop` is ready. What is under way then is left as a kill would leave it: the next start goes on.
pub async fn run(
    setup: AgentSetup,
    tuning: Tuning,
    stop: impl Future<Output = ()>,
) -> Result<(), OperatorError> {
    let state = StateFolder::open(&setup.config.state)?;
    let _lock = state.lock()?;
    state.remove_temporary()?;
    let looks = hold_volumes(&setup).await?;
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let (mut shell, mut core) = begin(setup, tuning, state, looks, events)?;
    let mut ticks = interval(tuning.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(stop);
    loop {
        let event = tokio::select! {
            () = &mut stop => return Ok(()),
            event = inbox.recv() => event.unwrap_or(Event::Tick),
            _ = ticks.tick() => Event::Tick,
        };
        shell.notice(&event);
        for action in core.step(event, shell.shop.clock.now()) {
            shell.perform(action);
        }
    }
}

fn begin(
    setup: AgentSetup,
    tuning: Tuning,
    state: StateFolder,
    looks: Vec<Arc<Look>>,
    events: mpsc::Sender<Event>,
) -> Result<(Shell, Core), OperatorError> {
    let folder = setup.config.state.clone();
    let unusable = |cause| OperatorError::StateUnusable { folder: folder.clone(), cause };
    if let Err(cause) = generations::remove_temporary(&folder) {
        tracing::error!("what a kill left half-written in {} stays: {cause}", folder.display());
    }
    let mut loaded = generations::load(&folder).map_err(unusable)?;
    // A state folder that is full or cannot be written to is no reason to fall silent: what is held is served and
    // reported on.
    let numbers = state.take_numbers(loaded.contents.next_file).map_err(|cause| unwritable(&folder, &cause));
    match &numbers {
        Ok(first) => loaded.contents.next_file = *first,
        Err(reason) => tracing::error!("{reason}: what is held is served on, and nothing new is pulled"),
    }
    let boot = volumes::random().map_err(unusable)?;
    let remembered = state.volumes();
    let paths = setup.config.volumes.iter().map(|volume| volume.path.clone());
    let agent = &setup.config.agent;
    let settings = Settings {
        appliance: agent.appliance.clone(),
        boot: VolumeId(boot).to_string(),
        downloads_max: agent.downloads_max,
        volumes: paths.map(|path| (path.clone(), remembered.get(&path).map(|old| old.uuid))).collect(),
        publish_every_ms: u64::try_from(tuning.publish_every.as_millis()).unwrap_or(u64::MAX),
        pack_bytes: tuning.pack_bytes,
    };
    let mut core = Core::new(settings, loaded, &StateFolder::manifests(&folder), state.keys());
    if let Err(reason) = numbers {
        core = core.without_numbers(reason);
    }
    let http = Http::new(tuning.patience, agent.downloads_max);
    let shop = Workshop {
        http: http.clone(),
        clock: Clock::start(),
        hosts: Arc::new(Mutex::new(Hosts::default())),
        counters: Arc::new(Counters::default()),
    };
    let control = Control::new(http, &agent.control, &setup.key);
    let link = ServerLink::new(&setup.config.socket);
    let cancels = HashMap::new();
    let savings = Savings::default();
    let shell = Shell { setup, state, events, control, link, shop, remembered, looks, cancels, savings };
    Ok((shell, core))
}

fn unwritable(state: &Path, cause: &std::io::Error) -> String {
    format!("the state folder {} cannot be written to: {cause}", state.display())
}

/// How one volume is looked at.
#[derive(Default)]
struct Look {
    /// One is under way, and may hang on its disk.
    busy: AtomicBool,
    lock: Mutex<Option<VolumeLock>>,
}

/// That a volume is somebody else's is the configuration's fault, and said at the start. One that is not there, or hangs,
/// is looked at later.
async fn hold_volumes(setup: &AgentSetup) -> Result<Vec<Arc<Look>>, OperatorError> {
    let hold = |path: PathBuf| async move {
        let look = Arc::new(Look::default());
        let looked = Arc::clone(&look);
        let held = spawn_blocking(move || look_at(&looked, || volumes::hold(&path, &mut lock(&looked.lock))));
        (look, timeout(PROBE_WAIT, held).await)
    };
    let paths = setup.config.volumes.iter().map(|volume| volume.path.clone());
    let tasks: Vec<_> = paths.map(|path| tokio::spawn(hold(path))).collect();
    let mut looks = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (look, held) = task.await.expect("a look at a volume does not panic: see `volumes`");
        if let Ok(Ok(Err(VolumeFault::InUse { path, holder }))) = held {
            let marker = path.join(MARKER_NAME);
            return Err(OperatorError::VolumeInUse { volume: path, marker, holder });
        }
        looks.push(look);
    }
    Ok(looks)
}

fn look_at<T>(look: &Look, work: impl FnOnce() -> T) -> T {
    look.busy.store(true, Ordering::Release);
    let done = work();
    look.busy.store(false, Ordering::Release);
    done
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shell {
    setup: AgentSetup,
    state: StateFolder,
    events: mpsc::Sender<Event>,
    control: Control,
    link: ServerLink,
    shop: Workshop,
    remembered: BTreeMap<PathBuf, Remembered>,
    /// By slot.
    looks: Vec<Arc<Look>>,
    cancels: HashMap<ObjectId, Arc<AtomicBool>>,
    savings: Savings,
}

impl Shell {
    fn perform(&mut self, action: Action) {
        match action {
            Action::Gather => self.gather(),
            Action::Scan { slot, uuid, known } => self.scan(slot, uuid, known),
            Action::Register => self.register(),
            Action::TakeNumbers { least } => self.take_numbers(least),
            Action::Report(mut report) => {
                report.rot = rot::counts();
                let control = self.control.clone();
                report.clock = Some(self.shop.clock.own());
                self.spawn(async move { Event::Reported(control.report(&report).await) });
            }
            Action::FetchManifest { etag } => self.fetch_manifest(etag),
            Action::FetchKeys => self.fetch_keys(),
            Action::AskSources { objects } => self.ask_sources(objects),
            Action::Start(job) => self.start(job),
            Action::Cancel(object) => {
                if let Some(cancelled) = self.cancels.get(&object) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Action::Pack(job) => {
                let (shop, to) = (self.shop.clone(), job.to.clone());
                self.spawn(async move { Event::Packed { to, result: shop.pack(job).await } });
            }
            Action::CheckPack(check) => {
                let (shop, at) = (self.shop.clone(), check.at.clone());
                self.spawn(async move { Event::PackChecked { at, result: shop.check_pack(check).await } });
            }
            Action::Write(contents) => {
                let (folder, generation) = (self.setup.config.state.clone(), contents.generation);
                self.spawn(async move {
                    let written = spawn_blocking(move || generations::publish(&folder, &contents)).await;
                    let written = written.unwrap_or_else(|panic| Err(panic.to_string()));
                    Event::Written(written.map(|()| generation))
                });
            }
            Action::Tell(told, request) => self.tell(told, request),
            Action::Unlink { volume, number } => {
                blocking("unlink", move || volumes::unlink(&volume, number));
            }
            Action::Discard { volume, number } => {
                blocking("discard", move || incoming::discard(&volume, number));
            }
            Action::RemoveGenerations { oldest_in_use } => {
                let folder = self.setup.config.state.clone();
                blocking("old generations", move || generations::remove_old(&folder, oldest_in_use));
            }
        }
    }

    fn spawn(&self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let event = work.await;
            if events.send(event).await.is_err() {
                tracing::debug!("an event came after the end");
            }
        });
    }

    /// Server and volumes at once; neither waits for the other, and neither for ever.
    fn gather(&self) {
        let savings = self.savings.clone();
        self.spawn(async move { Event::Unsaved(savings.try_again().await) });
        let link = self.link.clone();
        let volumes = self.setup.config.volumes.iter();
        let probes: Vec<_> = volumes
            .zip(&self.looks)
            .map(|(volume, look)| {
                let remembered = self.remembered.get(&volume.path).cloned();
                tokio::spawn(probe(volume.clone(), remembered, Arc::clone(look)))
            })
            .collect();
        self.spawn(async move {
            let server = link.ask(&ServerRequest::Status).await;
            if let Err(error) = &server {
                tracing::debug!("{error}");
            }
            let mut volumes = Vec::with_capacity(probes.len());
            for probe in probes {
                let panicked = |panic: tokio::task::JoinError| Err(VolumeFault::Failed(panic.to_string()));
                volumes.push(probe.await.unwrap_or_else(panicked));
            }
            Event::Gathered { server: server.ok().map(Box::new), volumes }
        });
    }

    fn scan(&self, slot: usize, uuid: VolumeId, known: BTreeMap<u64, u64>) {
        let Some(volume) = self.setup.config.volumes.get(slot) else { return };
        let path = volume.path.clone();
        self.spawn(async move {
            let work = spawn_blocking(move || volumes::scan(&path, uuid, &known));
            let scan = match timeout(SCAN_WAIT, work).await {
                Ok(Ok(scan)) => scan.map_err(|cause| cause.to_string()),
                Ok(Err(panic)) => Err(panic.to_string()),
                Err(_) => Err("reading its folders takes too long".to_owned()),
            };
            Event::Scanned { slot, scan }
        });
    }

    fn take_numbers(&self, least: u64) {
        let (state, folder) = (self.state.clone(), self.setup.config.state.clone());
        self.spawn(async move {
            let taken = spawn_blocking(move || state.take_numbers(least)).await;
            let taken = taken.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
            Event::Numbers(taken.map_err(|cause| unwritable(&folder, &cause)))
        });
    }

    fn register(&self) {
        let agent = &self.setup.config.agent;
        let registration = Registration {
            appliance: agent.appliance.clone(),
            cluster: agent.cluster.clone(),
            base_url: agent.base_url.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let control = self.control.clone();
        self.spawn(async move { Event::Registered(control.register(&registration).await) });
    }

    fn fetch_manifest(&self, etag: Option<String>) {
        let (control, cluster) = (self.control.clone(), self.setup.config.agent.cluster.clone());
        let (state, savings) = (self.state.clone(), self.savings.clone());
        self.spawn(async move {
            Event::Manifest(match control.manifest(&cluster, etag.as_deref()).await {
                Ok(ManifestAnswer::New { etag, manifest, bytes }) => {
                    savings.save("the manifest", move || state.save_manifest(&bytes)).await;
                    Ok(Some((etag, manifest)))
                }
                Ok(ManifestAnswer::Unchanged | ManifestAnswer::None) => Ok(None),
                Err(error) => Err(error),
            })
        });
    }

    fn fetch_keys(&self) {
        let (control, state) = (self.control.clone(), self.state.clone());
        let savings = self.savings.clone();
        self.spawn(async move {
            let keys = control.token_keys().await;
            if let Ok(keys) = &keys {
                let keys = keys.clone();
                savings.save("the token keys", move || state.save_keys(&keys)).await;
            }
            Event::Keys(keys)
        });
    }

    fn ask_sources(&self, objects: Vec<(ObjectId, MediaPath)>) {
        let (asked, objects) = objects.into_iter().unzip();
        let request = FillRequest { appliance: self.setup.config.agent.appliance.clone(), objects };
        let control = self.control.clone();
        self.spawn(async move { Event::Sources { asked, answer: control.fill_sources(&request).await } });
    }

    fn start(&mut self, job: Job) {
        let object = job.object;
        let cancelled = Arc::new(AtomicBool::new(false));
        self.cancels.insert(object, Arc::clone(&cancelled));
        let shop = self.shop.clone();
        self.spawn(async move {
            tracing::debug!(%object, file = incoming::describe(job.at.uuid, job.at.file), "job");
            Event::JobEnded { object, outcome: shop.run(job, cancelled).await }
        });
    }

    fn tell(&self, told: Tell, request: ServerRequest) {
        let link = self.link.clone();
        self.spawn(async move { Event::Told { told, answer: link.ask(&request).await.map(Box::new) } });
    }

    /// What the shell itself keeps of an event.
    fn notice(&mut self, event: &Event) {
        match event {
            Event::JobEnded { object, .. } => {
                self.cancels.remove(object);
            }
            Event::Gathered { volumes, .. } => self.remember_volumes(volumes),
            Event::Written(_) => self.log_counters(),
            Event::Reported(Ok(orders)) => {
                if let Some(theirs) = orders.clock {
                    self.shop.clock.compare(theirs);
                }
            }
            Event::Tick
            | Event::Scanned { .. }
            | Event::Registered(_)
            | Event::Reported(Err(_))
            | Event::Numbers(_)
            | Event::Unsaved(_)
            | Event::Manifest(_)
            | Event::Keys(_)
            | Event::Sources { .. }
            | Event::Packed { .. }
            | Event::PackChecked { .. }
            | Event::Told { .. } => {}
        }
    }

    fn log_counters(&self) {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shop.counters;
        tracing::info!(
            bytes_stored = count(&counters.bytes_stored),
            bad_pieces = count(&counters.bad_pieces),
            source_faults = count(&counters.faults),
            packs_sealed = count(&counters.packs_sealed),
            packs_rewritten = count(&counters.packs_rewritten),
            pack_bytes_copied = count(&counters.pack_bytes_copied),
            pack_members_lost = count(&counters.pack_members_lost),
            "since the start"
        );
    }

    fn remember_volumes(&mut self, probes: &[Result<Probed, VolumeFault>]) {
        let before = self.remembered.clone();
        for (volume, probe) in self.setup.config.volumes.iter().zip(probes) {
            let Ok(probed) = probe else { continue };
            let known = self.remembered.get(&volume.path).is_some_and(|old| old.uuid == probed.uuid);
            if !known {
                let mounted = volumes::is_mount_point(&volume.path);
                self.remembered.insert(volume.path.clone(), Remembered { uuid: probed.uuid, mounted });
            }
        }
        if self.remembered != before {
            let (state, volumes) = (self.state.clone(), self.remembered.clone());
            let savings = self.savings.clone();
            let save = move || state.save_volumes(&volumes);
            tokio::spawn(async move { savings.save("which volume is where", save).await });
        }
    }
}

async fn probe(
    volume: VolumeConfig,
    remembered: Option<Remembered>,
    look: Arc<Look>,
) -> Result<Probed, VolumeFault> {
    let VolumeConfig { path, must_be_mounted } = volume;
    let hangs = || VolumeFault::Failed(format!("{} does not answer", path.display()));
    if look.busy.swap(true, Ordering::AcqRel) {
        return Err(hangs());
    }
    let folder = path.clone();
    let work = move || {
        look_at(&look, || {
            let mut held = lock(&look.lock);
            let probed = volumes::open(&folder, remembered.as_ref(), must_be_mounted);
            let probed = probed.and_then(|probed| volumes::hold(&folder, &mut held).map(|()| probed));
            if probed.is_err() {
                *held = None;
            }
            probed
        })
    };
    match timeout(PROBE_WAIT, spawn_blocking(work)).await {
        Ok(Ok(probed)) => probed,
        Ok(Err(panic)) => Err(VolumeFault::Failed(panic.to_string())),
        Err(_) => Err(hangs()),
    }
}

fn blocking(what: &'static str, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    tokio::spawn(async move {
        match spawn_blocking(work).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => tracing::error!("{what}: {cause}"),
            Err(panic) => tracing::error!("{what}: {panic}"),
        }
    });
}

/// One question outside the loop: for `oca-fill plan`.
pub async fn fetch_manifest_once(
    setup: &AgentSetup,
    patience: Patience,
) -> Result<ManifestAnswer, ControlError> {
    let agent = &setup.config.agent;
    Control::new(Http::new(patience, 1), &agent.control, &setup.key).manifest(&agent.cluster, None).await
}
