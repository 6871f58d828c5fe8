//! `cargo xtask boot --smoke`: a whole box from a stock kernel, our static programs and one XFS disk, under QEMU.
//!
//! ```text
//! packages -> programs -> kernel, title, initramfs, disk -> boot, fill from this host -> every byte -> power cut, again
//! ```
//! It says that server and agent can live on an appliance: without a library, a shell, a resolver or a locale, on a real
//! XFS with O_DIRECT, on the kernel that Debian ships. It says nothing about speed: nearly always the processor is emulated.
//!
//! - [`kernel`] gets Debian's kernel and its modules, once; [`initramfs`] packs them with our programs.
//! - [`machine`] is QEMU; [`origin`] the control plane on this host; [`visit`] compares what the box sends.
//!
//! What the guest's first program expects is in `image-build/smoke-init`.

mod initramfs;
mod kernel;
mod machine;
mod origin;
mod visit;

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::progress::{Line, Steps};
use crate::stop::Stop;
use crate::workspace::Profile;
use crate::{clock, packages, ports, process, samples, workspace};
use machine::Machine;
use origin::Origin;

/// Of the emulated machine, from power to the server's first word. Generous: the host may be busy.
const BOOT: Duration = Duration::from_secs(120);
const FILL: Duration = Duration::from_secs(120);
/// What the boots should take on a quiet machine; said, not enforced.
const WHOLE_S: u64 = 60;
/// Sparse; XFS wants 300 MB at least.
const DISK_BYTES: u64 = 512 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub yes: bool,
    /// Leave disk, initramfs and configuration behind.
    pub keep: bool,
    pub profile: Profile,
}

/// Where everything of one run lies.
struct Places {
    /// Goes at the end.
    run: PathBuf,
    logs: PathBuf,
    /// Kept between runs, and between target folders.
    cache: PathBuf,
    /// Our programs.
    binaries: PathBuf,
}

pub fn run(stop: &Stop, options: &Options) -> Result<()> {
    let target = workspace::target()?;
    let data = target.join("boot");
    let places = Places {
        run: data.join("run"),
        logs: data.join("logs"),
        cache: workspace::root().join(".cache/boot"),
        binaries: target.join(options.profile.folder()),
    };
    for folder in [&places.logs, &places.cache] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let _lock = lock(&data)?;
    remove(&places.run)?;
    remove(&places.logs)?;
    let result = steps(stop, options, &places, &target);
    if options.keep {
        eprintln!("      kept: {}", places.run.display());
    } else {
        remove(&places.run)?;
    }
    if result.is_err() {
        eprintln!("      logs: {}", places.logs.display());
    }
    result
}

fn lock(data: &Path) -> Result<Flock<File>> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow::anyhow!("another smoke boot uses {}: wait for it", data.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn steps(stop: &Stop, options: &Options, places: &Places, target: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the smoke boot runs this machine's own programs on Debian's amd64 kernel: it needs an x86-64 machine"
        );
    }
    let mut steps = Steps::new(6);
    steps.begin("Debian packages");
    packages::ensure(&[&packages::ENCODING[..], &packages::BOOT].concat(), options.yes)?;
    stop.check()?;

    steps.begin(&format!("Build ({}, static)", options.profile.folder()));
    workspace::build_for_a_box(stop, options.profile)?;

    steps.begin("Kernel, title, initramfs, disk");
    let kernel = kernel::ready(stop, &places.cache)?;
    eprintln!("      Linux {}", kernel.version);
    let site = Site::prepare(stop, places, target, &kernel)?;

    steps.begin("Boot, and fill from this host");
    let mut rows = Rows { begin: clock::now(), last: clock::now(), list: Vec::new() };
    let mut control = Origin::start(stop, places, &site)?;
    let mut guest = site.power_on(stop, &mut rows, "first")?;
    fill(stop, &mut control, &mut guest, &mut rows)?;

    steps.begin("Every byte, as a player asks for it");
    let play = visit::play(&control)?;
    rows.add(&visit::every_byte(&play, &site.origin)?);
    rows.add(&visit::refusals(&play)?);

    steps.begin("Power cut; boot again, alone");
    guest.power_cut()?;
    drop(control);
    let mut guest = site.power_on(stop, &mut rows, "second")?;
    visit::wait_until_served(stop, &play, &mut guest, BOOT)?;
    rows.add(&format!("served again, no control plane: {}", visit::every_byte(&play, &site.origin)?));
    guest.expect_running()?;
    guest.power_cut()?;
    rows.conclude(site.accelerator);
    Ok(())
}

/// Times, each since the one before.
struct Rows {
    begin: Instant,
    last: Instant,
    list: Vec<(String, Duration)>,
}

impl Rows {
    fn add(&mut self, what: &str) {
        let now = clock::now();
        let time = now.duration_since(self.last);
        eprintln!("      {what} ({:.1} s)", time.as_secs_f64());
        self.list.push((what.to_owned(), time));
        self.last = now;
    }

    fn conclude(&self, accelerator: machine::Accelerator) {
        println!("\n  smoke boot, {accelerator}");
        for (what, time) in &self.list {
            println!("  {what:<76} {:>6.1} s", time.as_secs_f64());
        }
        let whole = self.begin.elapsed();
        println!("  {:<76} {:>6.1} s", "both boots, from the programs being ready", whole.as_secs_f64());
        if whole > Duration::from_secs(WHOLE_S) {
            println!("  !!  more than {WHOLE_S} s: this machine is busy, or something became slow");
        }
    }
}

/// What a boot is made of.
struct Site {
    kernel: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
    logs: PathBuf,
    accelerator: machine::Accelerator,
    /// Published for this run.
    origin: PathBuf,
    control: SocketAddr,
    /// Leads to the guest's server.
    media: SocketAddr,
}

impl Site {
    fn prepare(stop: &Stop, places: &Places, target: &Path, kernel: &kernel::Kernel) -> Result<Self> {
        fs::create_dir_all(&places.run).with_context(|| format!("cannot make {}", places.run.display()))?;
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let free = || Ok::<_, anyhow::Error>(SocketAddr::new(local, ports::any_free(local)?));
        let (control, media) = (free()?, free()?);
        let origin = places.run.join("origin");
        samples::link_short_film(stop, &places.binaries, &target.join("tmp/fleet-tests"), &origin)?;

        let line = Line::new();
        let probe = places.run.join("probe.cpio");
        let init = stripped(places, "smoke-init")?;
        fs::write(&probe, initramfs::probe(&init))?;
        let accelerator = machine::choose(stop, &places.cache, &kernel.image, &probe, &places.logs)?;
        line.end(&format!("accelerator: {accelerator}"));

        let contents = initramfs::Contents {
            init,
            programs: vec![
                ("oca-appliance", stripped(places, "oca-appliance")?),
                ("oca-fill", stripped(places, "oca-fill")?),
            ],
            modules: kernel.read_modules()?,
            box_toml: origin::box_toml(control, media),
            agent_key: origin::AGENT_KEY.to_owned(),
        };
        let packed = contents.pack();
        let initramfs = places.run.join("initramfs.cpio");
        fs::write(&initramfs, &packed)?;
        eprintln!("      initramfs: {} MB, {} modules", packed.len() / 1_000_000, contents.modules.len());
        let disk = places.run.join("disk.raw");
        make_disk(stop, &disk)?;
        let (kernel, logs) = (kernel.image.clone(), places.logs.clone());
        Ok(Self { kernel, initramfs, disk, logs, accelerator, origin, control, media })
    }

    /// Until server and agent run.
    fn power_on(&self, stop: &Stop, rows: &mut Rows, name: &str) -> Result<Machine> {
        let hardware = machine::Hardware {
            kernel: &self.kernel,
            initramfs: &self.initramfs,
            accelerator: self.accelerator,
            disk: Some(&self.disk),
            forward: Some(self.media),
        };
        let mut guest = hardware.power_on(&format!("{name}-boot"), &self.logs)?;
        for (mark, what) in
            [("network and disk are up", "kernel, modules, XFS"), ("ready address=", "server ready")]
        {
            guest.wait_for_line(stop, mark, BOOT)?;
            rows.add(&format!("{name} boot: {what}"));
        }
        for line in guest.lines_with(&["WARN", "ERROR", "huge"])? {
            eprintln!("      guest: {line}");
        }
        Ok(guest)
    }
}

/// Debug information is for hosts with a debugger; the guest would unpack it into its memory.
fn stripped(places: &Places, name: &str) -> Result<Vec<u8>> {
    let out = places.run.join(name);
    let mut command = Command::new("strip");
    command.arg("-o").arg(&out).arg(places.binaries.join(name));
    let status = command.stdin(Stdio::null()).status().context("cannot run strip (package binutils)")?;
    if !status.success() {
        bail!("strip failed for {name} ({status})");
    }
    let bytes = fs::read(&out).with_context(|| format!("cannot read {}", out.display()))?;
    initramfs::expect_static(name, &bytes)?;
    Ok(bytes)
}

fn make_disk(stop: &Stop, disk: &Path) -> Result<()> {
    let file = File::create(disk).with_context(|| format!("cannot make {}", disk.display()))?;
    file.set_len(DISK_BYTES).with_context(|| format!("cannot size {}", disk.display()))?;
    let mut command = process::command(Path::new("/usr/sbin/mkfs.xfs"), ["-q", "-L", "oca-volume"]);
    let status = process::run(stop, command.arg(disk))?;
    if !status.success() {
        bail!("mkfs.xfs failed on {} ({status})", disk.display());
    }
    Ok(())
}

fn fill(stop: &Stop, control: &mut Origin, guest: &mut Machine, rows: &mut Rows) -> Result<()> {
    let mut line = Line::new();
    let what = "the box to report that it holds the whole manifest";
    let waited = clock::wait_for(stop, what, FILL, || {
        guest.expect_running()?;
        control.expect_running()?;
        let view = control.view()?;
        line.show(&view.as_ref().map_or("the box has not registered yet".to_owned(), |view| view.progress()));
        Ok(view.filter(|view| view.ready()).map(drop))
    });
    guest.explained(waited)?;
    rows.add("the box holds the whole manifest and is offered");
    Ok(())
}
