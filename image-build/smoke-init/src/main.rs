//! The first program of the smoke boot: `/init` of an initramfs that holds nothing but our own static programs.
//!
//! ```text
//! mounts -> modules -> network -> disk -> oca-appliance, oca-fill -> until one ends, SIGTERM or the limit -> power off
//! ```
//! What the initramfs must hold, and what is told on the console, is agreed with `xtask/src/boot`. With the argument
//! `probe` it only says that it runs: that is how an accelerator is tried. Not a service manager: the image has systemd.

mod network;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Loaded in the order of their names.
const MODULES: &str = "/modules";
const CONFIG: &str = "/etc/box.toml";
const DISK: &str = "/dev/vda";
const DATA: &str = "/data";
/// The state and the one volume that the configuration names.
const FOLDERS: [&str; 2] = ["/data/state", "/data/volume"];
const DISK_MS_MAX: u16 = 5_000;
const LOOK_MS: u16 = 50;
/// Whoever started the machine ends it long before; one that was forgotten ends itself.
const IDLE_MS_MAX: i32 = 600_000;

/// QEMU's user networking gives its first guest this address, and answers for the host at 10.0.2.2.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const PREFIX_BITS: u8 = 24;

fn main() {
    let outcome = if std::env::args().any(|word| word == "probe") { Ok("probed".to_owned()) } else { run() };
    match outcome {
        Ok(why) => say(&why),
        Err(cause) => say(&format!("failed: {cause:#}")),
    }
    nix::unistd::sync();
    // The first program must not return: the kernel panics, which ends the machine as well, with more noise.
    let Err(cause) = reboot(RebootMode::RB_POWER_OFF);
    say(&format!("cannot power off: {cause}"));
}

fn say(text: &str) {
    println!("smoke-init: {text}");
}

/// Why it ended.
fn run() -> Result<String> {
    mount_kernel_folders()?;
    load_modules()?;
    network::bring_up("lo", None).context("lo")?;
    network::bring_up("eth0", Some((ADDRESS, PREFIX_BITS))).context("eth0")?;
    mount_disk()?;
    say("network and disk are up");
    let mut services = [
        Service::start("/bin/oca-appliance", &["--config", CONFIG])?,
        Service::start("/bin/oca-fill", &["run", "--config", CONFIG])?,
    ];
    let why = wait(&services);
    for service in &mut services {
        service.stop();
    }
    why
}

fn mount_kernel_folders() -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let all = [
        ("proc", "/proc", plain),
        ("sysfs", "/sys", plain),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC),
        ("tmpfs", "/run", plain),
        ("tmpfs", "/tmp", plain),
    ];
    for (kind, folder, flags) in all {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
        let mounted = mount(Some(kind), folder, Some(kind), flags, None::<&str>);
        mounted.with_context(|| format!("cannot mount {kind} on {folder}"))?;
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let entries = fs::read_dir(MODULES).with_context(|| format!("cannot read {MODULES}"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in &paths {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(cause) => bail!("the kernel does not take {}: {cause}", path.display()),
        }
    }
    say(&format!("{} modules", paths.len()));
    Ok(())
}

fn mount_disk() -> Result<()> {
    wait_for(Path::new(DISK))?;
    fs::create_dir_all(DATA)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let mounted = mount(Some(DISK), DATA, Some("xfs"), flags, None::<&str>);
    mounted.with_context(|| format!("cannot mount {DISK} as XFS"))?;
    for folder in FOLDERS {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    }
    Ok(())
}

/// A driver may find its device a moment after it was loaded.
fn wait_for(device: &Path) -> Result<()> {
    for _ in 0..DISK_MS_MAX / LOOK_MS {
        if device.exists() {
            return Ok(());
        }
        poll(&mut [], PollTimeout::from(LOOK_MS))?;
    }
    bail!("{} is not there after {DISK_MS_MAX} ms", device.display())
}

struct Service {
    program: &'static str,
    child: Child,
}

impl Service {
    /// Its log goes where ours goes: to the console.
    fn start(program: &'static str, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program).args(arguments).spawn();
        Ok(Self { program, child: child.with_context(|| format!("cannot start {program}"))? })
    }

    fn stop(&mut self) {
        // One that ended by itself was reaped already; both answers are fine here.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Until a service ends, SIGTERM, or nothing happened for too long. Orphans are reaped on the way.
fn wait(services: &[Service]) -> Result<String> {
    // Only now: what was started before must not inherit it.
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        // Before the wait: one may have ended before SIGCHLD was blocked.
        if let Some(why) = reap(services) {
            return Ok(why);
        }
        let limit = PollTimeout::try_from(IDLE_MS_MAX).context("the limit")?;
        if poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], limit)? == 0 {
            return Ok("nothing happened for ten minutes".to_owned());
        }
        while let Some(signal) = signals.read_signal()? {
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                return Ok("told to stop".to_owned());
            }
        }
    }
}

fn reap(services: &[Service]) -> Option<String> {
    loop {
        let ended = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(status) => status,
        };
        let id = ended.pid().and_then(|id| u32::try_from(id.as_raw()).ok());
        if let Some(service) = services.iter().find(|service| Some(service.child.id()) == id) {
            return Some(format!("{} ended: {ended:?}", service.program));
        }
    }
}
