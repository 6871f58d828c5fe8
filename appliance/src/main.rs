//! The segment server of an appliance: `oca-appliance --config FILE`.
//!
//! Arguments, log, signals and the exit code; everything else is in the library. Exit code 0: was told to stop; 1: the host
//! failed; 2: the arguments or the configuration are wrong, and the last line says what to change.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use appliance::config::{self, StartError};
use appliance::server::Server;
use appliance::sys;
use lexopt::prelude::Long;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const USAGE: &str = "usage: oca-appliance --config FILE

Serves the segments that the box's catalogue names. FILE is the box's configuration, which oca-fill reads too.
The environment variable OCA_LOG sets what is logged (default: info).";

/// Sessions have this long to finish after SIGTERM or SIGINT; a second signal ends the wait.
const DRAIN_MS_MAX: u64 = 3_000;
const DRAIN_LOOK_MS: u16 = 20;

fn main() -> ExitCode {
    let filter =
        EnvFilter::builder().with_env_var("OCA_LOG").with_default_directive(LevelFilter::INFO.into());
    let coloured = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_ansi(coloured);
    log.with_writer(std::io::stderr).init();
    let file = match arguments(std::env::args_os().skip(1)) {
        Ok(Some(file)) => file,
        Ok(None) => return ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("oca-appliance: {cause}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("oca-appliance: {cause:#}");
            let host = matches!(cause.downcast_ref(), None | Some(StartError::Host(_)));
            ExitCode::from(if host { 1 } else { 2 })
        }
    }
}

/// None: only help or the version was asked for, and given.
fn arguments(arguments: impl Iterator<Item = OsString>) -> Result<Option<PathBuf>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut file = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") => file = Some(PathBuf::from(parser.value()?)),
            Long("help") => {
                println!("{USAGE}");
                return Ok(None);
            }
            Long("version") => {
                println!("oca-appliance {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            other => return Err(other.unexpected()),
        }
    }
    file.map(Some).ok_or_else(|| "--config FILE is missing".into())
}

fn run(file: PathBuf) -> anyhow::Result<()> {
    let config = config::load(&file)?;
    // Before any thread starts: threads inherit what is blocked.
    let signals = block_signals().context("signals cannot be taken")?;
    let inherited = sys::inherited::listeners().transpose().context("LISTEN_FDS")?;
    let server = Server::start(config, inherited)?;
    let generation = server.service.holdings.current().number();
    for address in &server.listen {
        tracing::info!(%address, management = %server.management, generation, "ready");
    }
    for address in &server.listen_tls {
        tracing::info!(%address, "ready, over TLS");
    }
    wait_for_signal(&signals, PollTimeout::NONE)?;
    tracing::info!("told to stop: finishing what runs");
    server.drain();
    let deadline = sys::now().0.saturating_add(DRAIN_MS_MAX * 1_000_000);
    while server.connections() > 0 && sys::now().0 < deadline {
        if wait_for_signal(&signals, PollTimeout::from(DRAIN_LOOK_MS))? {
            break;
        }
    }
    tracing::info!(connections = server.connections(), "stopping");
    server.stop();
    Ok(())
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Whether one came in time.
fn wait_for_signal(signals: &SignalFd, limit: PollTimeout) -> anyhow::Result<bool> {
    let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wait, limit) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(signals.read_signal()?.is_some()),
        Err(cause) => Err(cause).context("waiting for a signal"),
    }
}
