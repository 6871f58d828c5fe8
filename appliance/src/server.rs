//! Wires the whole server together: what is held, the sockets, the core's threads, the agent's socket, the management port.
//!
//! ```text
//! main ── Server ─┬─ Engine: workers and disk threads (the core)
//!                 ├─ "shell": one tokio thread: agent_socket, management, a sample a second
//!                 └─ "watch-N": one per volume
//! ```

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use content::box_config::BoxConfig;
use content::lock_holder;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::oneshot;

use crate::clock::Now;
use crate::config::StartError;
use crate::engine::{Engine, EngineSetup, WaySetup};
use crate::holdings::{Holdings, Volume, VolumeIndex};
use crate::metrics::Metrics;
use crate::service::Service;
use crate::sys::inherited::Inherited;
use crate::tls::certificates::Certificates;
use crate::tuning::Tuning;
use crate::volume_watch::Read;
use crate::ways::{self, Carried};
use crate::worker::Secure;
use crate::{agent_socket, generations, keys, management, sys, volume_watch};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

pub struct Server {
    pub service: Arc<Service>,
    /// Where media are served: as configured, with the real port where 0 was asked for.
    pub listen: Vec<SocketAddr>,
    /// The same over TLS.
    pub listen_tls: Vec<SocketAddr>,
    pub management: SocketAddr,
    engine: Arc<Mutex<Option<Engine>>>,
    shell: Shell,
    _state_lock: Flock<File>,
    /// Dropping them ends the watches.
    _watches: Vec<Sender<()>>,
}

struct Shell {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The sockets, all open before anything serves: what cannot be had is said at once.
struct Sockets {
    media: Vec<TcpListener>,
    secure: Vec<TcpListener>,
    agent: UnixListener,
    management: TcpListener,
}

impl Server {
    /// Serves once it returns. `inherited` listeners take the place of `server.listen`, and of `server.tls.listen`.
    pub fn start(config: BoxConfig, inherited: Option<Inherited>) -> Result<Self, StartError> {
        let started = sys::now();
        let workers = config.server.workers.unwrap_or_else(cores);
        let state_lock = lock_state(&config.state)?;
        let holdings = Arc::new(hold(&config)?);
        let certificates = config.server.tls.as_ref().map(Certificates::load).transpose()?;
        let sockets = open(&config, workers, inherited)?;
        let metrics = Metrics::new(workers, config.volumes.len());
        let (listen, listen_tls) = (addresses(&sockets.media), addresses(&sockets.secure));
        let management =
            sockets.management.local_addr().map_err(|cause| host("the management port", &cause))?;
        let secure = secure(certificates.as_ref(), sockets.secure)?;
        let engine = Engine::start(engine_setup(&config, sockets.media, secure, &metrics, &holdings));
        let engine = engine.map_err(|cause| StartError::Host(cause.to_string()))?;
        let link = sys::machine::link_bits_per_second();
        let capacity = ways::capacity(engine.way().cost, workers, link);
        tracing::info!(?capacity, "what this box can carry");
        let carried = Carried { way: engine.way().clone(), capacity };
        let engine = Arc::new(Mutex::new(Some(engine)));
        let service = Arc::new(make_service(
            config,
            Arc::clone(&holdings),
            metrics,
            started,
            carried,
            certificates,
            &engine,
        ));
        let shell = Shell::start(sockets.agent, sockets.management, Arc::clone(&service))?;
        let watches = watch_volumes(&service.config, &holdings)?;
        let _state_lock = state_lock;
        let _watches = watches;
        Ok(Self { service, listen, listen_tls, management, engine, shell, _state_lock, _watches })
    }

    /// Finish what runs, take nothing new.
    pub fn drain(&self) {
        self.service.drain_for_good();
    }

    pub fn connections(&self) -> u64 {
        self.service.metrics.totals().connections
    }

    /// Ends all threads but those that a disk holds, and takes the agent's socket away.
    pub fn stop(self) {
        self.shell.stop();
        if let Some(engine) = take(&self.engine) {
            engine.stop();
        }
        let socket = &self.service.config.socket;
        if let Err(cause) = std::fs::remove_file(socket) {
            tracing::debug!(socket = %socket.display(), %cause, "the agent's socket was gone already");
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn host(what: &str, cause: &std::io::Error) -> StartError {
    StartError::Host(format!("{what}: {cause}"))
}

fn take(engine: &Mutex<Option<Engine>>) -> Option<Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One server per state folder. The lock is on the folder itself, so that it can be had on a disk that is full or cannot
/// be written to; the kernel lets go of it however the process ends.
fn lock_state(state: &Path) -> Result<Flock<File>, StartError> {
    let unusable = |cause| StartError::State { folder: state.to_owned(), cause };
    std::fs::create_dir_all(state).map_err(unusable)?;
    let folder = File::open(state).map_err(unusable)?;
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((folder, Errno::EWOULDBLOCK)) => {
            let meta = folder.metadata().map_err(unusable)?;
            let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
            let holder = lock_holder::in_words(lock_holder::flock_holder(&locks, meta.dev(), meta.ino()));
            Err(StartError::StateInUse { folder: state.to_owned(), holder })
        }
        Err((_, errno)) => Err(unusable(errno.into())),
    }
}

/// What was held when the server stopped last: volumes, token keys, catalogue.
fn hold(config: &BoxConfig) -> Result<Holdings, StartError> {
    let state = &config.state;
    let paths = || config.volumes.iter().map(|volume| volume.path.as_path());
    let volume = |(path, read): (&Path, Read)| {
        let reason = match read {
            Read::Marker(uuid) => return Volume::new(Some(uuid)),
            Read::Failed(reason) => reason,
            Read::Hangs => "its marker does not come".to_owned(),
        };
        // On a new box the agent makes its volumes; a lost one may come back. Neither keeps the others from serving.
        tracing::warn!(volume = %path.display(), %reason, "a volume is not there; going on without it");
        Volume::new(None)
    };
    let holdings = Holdings::new(paths().zip(volume_watch::read_all(paths())).map(volume).collect());
    holdings.set_keys(keys::load(state));
    if let Some(catalogue) = generations::load_newest(state) {
        holdings.publish(catalogue);
    }
    Ok(holdings)
}

fn open(config: &BoxConfig, workers: usize, inherited: Option<Inherited>) -> Result<Sockets, StartError> {
    let management = config.server.management;
    let address = |key, address, cause| StartError::Address { key, address, cause };
    let management =
        TcpListener::bind(management).map_err(|cause| address("server.management", management, cause))?;
    management.set_nonblocking(true).map_err(|cause| host("the management port", &cause))?;
    let Inherited { mut media, mut secure } = inherited.unwrap_or_default();
    if !secure.is_empty() && config.server.tls.is_none() {
        return Err(StartError::Value {
            key: "server.tls",
            what: "a socket named tls was inherited, and there is no certificate for it".to_owned(),
            cure: "name certificate and key, or give the socket another name",
        });
    }
    if media.is_empty() && secure.is_empty() {
        for listen in &config.server.listen {
            let opened = listen_for_all(*listen, workers);
            media.extend(opened.map_err(|cause| address("server.listen", *listen, cause))?);
        }
    }
    if secure.is_empty() {
        for listen in config.server.tls.iter().flat_map(|tls| &tls.listen) {
            let opened = listen_for_all(*listen, workers);
            secure.extend(opened.map_err(|cause| address("server.tls.listen", *listen, cause))?);
        }
    }
    Ok(Sockets { media, secure, agent: agent_socket::bind(&config.socket)?, management })
}

/// One socket per worker on one address: the first may be given a free port, the others take the same.
fn listen_for_all(address: SocketAddr, workers: usize) -> std::io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would let two servers of one user share the address in silence: first ask for it alone.
    drop(TcpListener::bind(address)?);
    let first = sys::listen(address)?;
    let address = first.local_addr()?;
    let others = (1..workers).map(|_| sys::listen(address));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    addresses.dedup();
    addresses
}

fn secure(
    certificates: Option<&Arc<Certificates>>,
    listeners: Vec<TcpListener>,
) -> Result<Option<Secure>, StartError> {
    let Some(certificates) = certificates else { return Ok(None) };
    let rules = certificates.server_config().map_err(|cause| StartError::Host(format!("TLS: {cause}")))?;
    Ok(Some(Secure { listeners, rules }))
}

fn engine_setup(
    config: &BoxConfig,
    listeners: Vec<TcpListener>,
    secure: Option<Secure>,
    metrics: &Metrics,
    holdings: &Arc<Holdings>,
) -> EngineSetup {
    let folders = config.volumes.iter().map(|volume| volume.path.clone());
    EngineSetup {
        listeners,
        secure,
        proxy_from: config.server.proxy_from.clone(),
        workers: metrics.workers.clone(),
        volumes: folders.zip(metrics.volumes.iter().cloned()).collect(),
        memory_bytes: config.server.memory_mib.saturating_mul(1 << 20),
        limits: config.server.limits.clone(),
        holdings: Arc::clone(holdings),
        way: way_setup(config),
        tuning: Tuning::default(),
    }
}

fn way_setup(config: &BoxConfig) -> WaySetup {
    let machine = sys::machine::name();
    let known = ways::known(config.server.way, &config.state, &machine);
    known.map_or_else(|| WaySetup::Measure { state: config.state.clone(), machine }, WaySetup::Known)
}

fn make_service(
    config: BoxConfig,
    holdings: Arc<Holdings>,
    metrics: Metrics,
    started: Now,
    carried: Carried,
    certificates: Option<Arc<Certificates>>,
    engine: &Arc<Mutex<Option<Engine>>>,
) -> Service {
    let engine = Arc::clone(engine);
    let wake = move || {
        if let Some(engine) = &*engine.lock().unwrap_or_else(PoisonError::into_inner) {
            engine.wake();
        }
    };
    Service::new(config, holdings, metrics, started, carried, certificates, Box::new(wake))
}

fn watch_volumes(config: &BoxConfig, holdings: &Arc<Holdings>) -> Result<Vec<Sender<()>>, StartError> {
    let watch = |(index, volume): (u16, &content::box_config::VolumeConfig)| {
        let (stop, stopped) = mpsc::channel();
        let started =
            volume_watch::start(VolumeIndex(index), volume.path.clone(), Arc::clone(holdings), stopped);
        started.map(|()| stop).map_err(|cause| host("a thread cannot be started", &cause))
    };
    (0..).zip(&config.volumes).map(watch).collect()
}

impl Shell {
    fn start(
        agent: UnixListener,
        management: TcpListener,
        service: Arc<Service>,
    ) -> Result<Self, StartError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
        let runtime = runtime.map_err(|cause| host("the management thread", &cause))?;
        let (stop, stopped) = oneshot::channel();
        // Made on this thread, so that a failure is told at the start.
        let (agent, management) = {
            let _entered = runtime.enter();
            let agent = tokio::net::UnixListener::from_std(agent);
            let management = tokio::net::TcpListener::from_std(management);
            let cannot = |cause| host("the management thread", &cause);
            (agent.map_err(cannot)?, management.map_err(cannot)?)
        };
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = agent_socket::serve(agent, Arc::clone(&service)) => {}
                    () = management::serve(management, Arc::clone(&service)) => {}
                    () = sample(&service) => {}
                    _ = stopped => {}
                }
            });
            // An answer that waits for a disk is not waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("shell".to_owned()).spawn(body);
        Ok(Self { stop, thread: thread.map_err(|cause| host("a thread cannot be started", &cause))? })
    }

    fn stop(self) {
        // An error says that it ended already.
        self.stop.send(()).unwrap_or_default();
        if self.thread.join().is_err() {
            tracing::error!("the management thread had died");
        }
    }
}

async fn sample(service: &Service) {
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    loop {
        every.tick().await;
        service.sample(sys::now());
        service.look_at_certificates();
        // Unmapping them takes long: nobody waits for it.
        let unused = service.holdings.take_unused();
        if !unused.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(unused)));
        }
    }
}
