//! `cargo xtask demo`: from source media to a picture in the browser, through every part.
//!
//! ```text
//! packages -> build -> samples, publish -> fleet, filled -> page, buttons, until a signal   (or: check)
//! ```
//! What stays: in the data folder `sources/`, `origin/` (a cache: encoding is the slow part), `logs/` and `check/`. The fleet's own
//! files (`run/`) and the control plane's part of the origin go at the end, unless `--keep`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::demo_switch::{self, SharedFleet};
use crate::fleet::{Fleet, Plan};
use crate::packages;
use crate::progress::{Line, Steps};
use crate::samples::{self, Work};
use crate::stop::Stop;
use crate::workspace::Profile;
use crate::{check, clock, process, workspace};

const FILL: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub yes: bool,
    pub check: bool,
    pub keep: bool,
    pub profile: Profile,
    pub port: u16,
    pub data: Option<PathBuf>,
    pub sources: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            yes: false,
            check: false,
            keep: false,
            profile: Profile::Release,
            port: 8000,
            data: None,
            sources: Vec::new(),
        }
    }
}

pub fn run(stop: &Stop, options: &Options) -> Result<()> {
    let target = workspace::target()?;
    let data = options.data.clone().unwrap_or_else(|| target.join("demo"));
    fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    // Absolute: the fleet's processes need not share our working folder.
    let data = data.canonicalize()?;
    let sources = options.sources.iter().map(|source| find_source(source)).collect::<Result<Vec<_>>>()?;
    let _lock = lock(&data)?;
    process::adopt_orphans()?;
    let result = steps(stop, options, &target.join(options.profile.folder()), &data, &sources);
    process::end_orphans();
    if !options.keep {
        remove_run(&data)?;
    }
    if result.is_err() {
        eprintln!("      logs: {}", data.join("logs").display());
    }
    result
}

fn find_source(source: &Path) -> Result<PathBuf> {
    source.canonicalize().with_context(|| format!("--source {}", source.display()))
}

/// Two demos in one folder would pull each other's files away.
fn lock(data: &Path) -> Result<Flock<File>> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!("another demo uses {}: stop it, or give --data another folder", data.display())
    })
}

fn steps(stop: &Stop, options: &Options, binaries: &Path, data: &Path, sources: &[PathBuf]) -> Result<()> {
    let mut steps = Steps::new(5);
    steps.begin("Debian packages");
    let browser = if options.check { &packages::BROWSER[..] } else { &[] };
    packages::ensure(&[&packages::ENCODING[..], browser].concat(), options.yes)?;
    stop.check()?;

    steps.begin(&format!("Build ({})", options.profile.folder()));
    workspace::build_programs(stop, options.profile)?;
    workspace::check_binaries(binaries)?;

    steps.begin("Titles");
    let plan = Plan::of_two(binaries, data, options.port)?;
    let works = samples::list(sources, data)?;
    for work in &works {
        samples::publish(stop, binaries, &plan.origin, work)?;
    }

    steps.begin("Fleet");
    if !options.keep {
        remove_run(data)?;
    }
    let fleet = start_fleet(stop, plan)?;

    if options.check {
        steps.begin("Check: play to the end, kill the serving appliance in the middle");
        return check::run(stop, fleet, &works, data);
    }
    steps.begin("Watch");
    let result = watch(stop, Arc::new(Mutex::new(fleet)), &works);
    eprintln!("      everything is stopped");
    result
}

fn start_fleet(stop: &Stop, plan: Plan) -> Result<Fleet> {
    let mut line = Line::new();
    line.show("starting oca-control");
    let mut fleet = Fleet::start(plan, stop)?;
    fleet.wait_until_filled(stop, FILL, |text| line.show(text))?;
    line.end(&format!("{} hold everything", fleet.names().join(" and ")));
    Ok(fleet)
}

/// The fleet's own files, and what the control plane keeps in the origin. Not what the pipeline published there.
fn remove_run(data: &Path) -> Result<()> {
    for folder in ["run", "origin/control", "origin/clusters"].map(|name| data.join(name)) {
        match fs::remove_dir_all(&folder) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                return Err(cause).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Until a signal.
fn watch(stop: &Stop, fleet: SharedFleet, works: &[Work]) -> Result<()> {
    let control = lock_fleet(&fleet).plan.control;
    let (buttons, thread) = demo_switch::listen(Arc::clone(&fleet), control.port(), stop.clone())?;
    let names: Vec<_> = works.iter().map(|work| work.name.as_str()).collect();
    eprintln!("      on offer: {}", names.join(", "));
    println!("\n  Open  http://{control}/?demo=http://{buttons}\n\n  Ctrl-C stops everything.\n");
    let mut result = Ok(());
    while !stop.raised() && result.is_ok() {
        clock::pause(Duration::from_millis(100));
        for ended in lock_fleet(&fleet).take_ended() {
            eprintln!(
                "      {} ended by itself; it is not started again\n{}",
                ended.name(),
                ended.log_tail()
            );
            if ended.name() == "oca-control" {
                result = Err(anyhow::anyhow!("without oca-control there is no page"));
            }
        }
    }
    eprintln!("\n      stopping");
    lock_fleet(&fleet).stop();
    stop.raise();
    drop(thread.join());
    result
}

fn lock_fleet(fleet: &SharedFleet) -> std::sync::MutexGuard<'_, Fleet> {
    fleet.lock().unwrap_or_else(PoisonError::into_inner)
}
