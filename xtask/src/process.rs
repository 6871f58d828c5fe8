//! Processes that end when we do.
//!
//! Each is the leader of its own process group, so that a terminal's Ctrl-C reaches us alone and we end the whole group in
//! order. If we are killed outright, the kernel sends them SIGTERM: `setpriv --pdeathsig` (util-linux, essential on
//! Debian) asks for that, which the standard library cannot without `unsafe`. The kernel means our *thread* by it: start
//! long-lived processes on threads that live as long.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::clock;
use crate::stop::{Interrupted, Stop};

/// The niceness of what may only run while nobody else wants the processor.
pub const LAST: &str = "19";

/// From SIGTERM to SIGKILL.
const TERM_TO_KILL: Duration = Duration::from_secs(5);
const KILL_TO_GONE: Duration = Duration::from_secs(5);

/// `program` and its arguments, wrapped as the module says.
pub fn command(program: &Path, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command.args(arguments.into_iter().map(Into::into));
    command.process_group(0).stdin(Stdio::null());
    command
}

/// How to start a service, again if need be.
#[derive(Clone, Debug)]
pub struct Launch {
    /// For people.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Both outputs are appended to this file.
    pub log: PathBuf,
}

impl Launch {
    pub fn start(&self) -> Result<Service> {
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut command = command(&self.program, &self.arguments);
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {} (setpriv)", self.name))?;
        Ok(Service { launch: self.clone(), child })
    }
}

/// A running process; dropping it stops it.
#[derive(Debug)]
pub struct Service {
    launch: Launch,
    child: Child,
}

impl Service {
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask about {}", self.launch.name))
    }

    /// Fails, with the end of its log, if the process has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended: {status}\n{}", self.launch.name, self.log_tail());
        }
        Ok(())
    }

    /// As a power cut would end it.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        signal_group(&self.child, Signal::SIGKILL);
        self.child.wait().with_context(|| format!("cannot wait for {}", self.launch.name))?;
        Ok(())
    }

    /// Asks it to end without waiting; [`Service::stop`] waits.
    pub fn ask_to_stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal_group(&self.child, Signal::SIGTERM);
        }
    }

    /// SIGTERM, a bounded wait, SIGKILL. True if the process ended by itself when asked.
    pub fn stop(&mut self) -> bool {
        end_group(&mut self.child)
    }

    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// The last lines of its log, indented.
    pub fn log_tail(&self) -> String {
        let tail = read_tail(&self.launch.log).unwrap_or_default();
        let lines: Vec<_> = tail.lines().rev().take(12).collect();
        let text: String = lines.into_iter().rev().map(|line| format!("    {line}\n")).collect();
        format!("  the end of {}:\n{text}", self.launch.log.display())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_tail(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(4096)))?;
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a tool to its end with its output where ours goes. Stops it when a signal stops us.
pub fn run(stop: &Stop, command: &mut Command) -> Result<ExitStatus> {
    let name = format!("{command:?}");
    let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    wait(stop, child).with_context(|| name)
}

/// Waits for a process that [`command`] made; ends it when a signal stops us.
pub fn wait(stop: &Stop, mut child: Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.raised() {
            end_group(&mut child);
            return Err(Interrupted.into());
        }
        clock::pause(Duration::from_millis(30));
    }
}

/// False if it has ended already.
fn signal_group(child: &Child, signal: Signal) -> bool {
    i32::try_from(child.id()).is_ok_and(|id| killpg(Pid::from_raw(id), signal).is_ok())
}

fn end_group(child: &mut Child) -> bool {
    // Once it is reaped, its number may be another's.
    if !matches!(child.try_wait(), Ok(None)) {
        return true;
    }
    signal_group(child, Signal::SIGTERM);
    let gone = ends_within(child, TERM_TO_KILL);
    signal_group(child, Signal::SIGKILL);
    if !gone {
        ends_within(child, KILL_TO_GONE);
    }
    gone
}

fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let start = clock::now();
    loop {
        match child.try_wait() {
            Ok(None) if start.elapsed() < limit => clock::pause(Duration::from_millis(10)),
            ended => return !matches!(ended, Ok(None)),
        }
    }
}

/// From now on, orphans of what we start become our children, so that [`end_orphans`] finds them.
pub fn adopt_orphans() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")
}

/// Ends the processes that outlived those who started them (a browser has many). Only after everything was stopped.
pub fn end_orphans() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let start = clock::now();
        let mut asked = Vec::new();
        while start.elapsed() < Duration::from_secs(2) {
            let children = own_children();
            if children.is_empty() {
                return;
            }
            for child in children {
                if !asked.contains(&child) && kill(child, signal).is_ok() {
                    asked.push(child);
                }
                reap(child);
            }
            clock::pause(Duration::from_millis(20));
        }
    }
}

/// True if it had ended.
fn reap(child: Pid) -> bool {
    !matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

fn own_children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids: Vec<_> = lists
        .flat_map(|list| list.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<i32>>())
        .collect();
    ids.into_iter().map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, script: &str) -> Service {
        let launch = Launch {
            name: "sleeper".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: folder.join("sleeper.log"),
        };
        launch.start().unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-process-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn exists(id: u32) -> bool {
        kill(Pid::from_raw(i32::try_from(id).unwrap()), None).is_ok()
    }

    #[test]
    fn a_service_that_ignores_sigterm_is_killed_with_its_children() {
        let folder = folder("stubborn");
        let mut service = sleeper(&folder, "trap '' TERM; sleep 1000 & echo $!; wait; wait");
        let stop = Stop::default();
        let log = service.log().to_owned();
        let child: u32 = clock::wait_for(&stop, "the child's id", Duration::from_secs(5), || {
            Ok(fs::read_to_string(&log)?.trim().parse().ok())
        })
        .unwrap();
        service.stop();
        assert!(service.ended().unwrap().is_some());
        // Its child is init's (or a subreaper's) to reap: gone or a zombie.
        clock::wait_for(&stop, "the child's end", Duration::from_secs(5), || {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            Ok((!exists(child) || state.contains(") Z ")).then_some(()))
        })
        .unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_service_that_ended_is_reported_with_the_end_of_its_log() {
        let folder = folder("ended");
        let mut service = sleeper(&folder, "echo the reason; exit 3");
        let stop = Stop::default();
        clock::wait_for(&stop, "its end", Duration::from_secs(5), || service.ended()).unwrap();
        let complaint = service.expect_running().unwrap_err().to_string();
        assert!(complaint.contains("exit status: 3") && complaint.contains("the reason"), "{complaint}");
        fs::remove_dir_all(folder).unwrap();
    }
}
