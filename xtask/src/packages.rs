//! Debian packages: what is missing, said first, installed when allowed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// A package, and what of it is used. Whoever has that from elsewhere does not need the package.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    pub name: &'static str,
    /// A program on PATH, or a file by its full path.
    pub provides: &'static str,
}

pub const ENCODING: [Package; 2] = [
    Package { name: "ffmpeg", provides: "ffmpeg" },
    // Burned into the sample titles' pictures.
    Package { name: "fonts-dejavu-core", provides: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf" },
];

pub const BROWSER: [Package; 2] = [
    Package { name: "chromium", provides: "chromium" },
    Package { name: "chromium-driver", provides: "chromedriver" },
];

pub const NODE: [Package; 2] =
    [Package { name: "nodejs", provides: "node" }, Package { name: "npm", provides: "npm" }];

/// Filesystems that tests break, and clocks that they set.
pub const BREAKING: [Package; 2] = [
    Package { name: "xfsprogs", provides: "/usr/sbin/mkfs.xfs" },
    Package { name: "faketime", provides: "faketime" },
];

/// QEMU, and what its kernel and disk are made with. Debian puts mkfs into a folder that only root has on PATH.
pub const BOOT: [Package; 4] = [
    Package { name: "qemu-system-x86", provides: "qemu-system-x86_64" },
    Package { name: "xfsprogs", provides: "/usr/sbin/mkfs.xfs" },
    Package { name: "xz-utils", provides: "xz" },
    Package { name: "binutils", provides: "strip" },
];

/// What TLS is tested with, beside the player's browser.
pub const PEERS: [Package; 2] =
    [Package { name: "openssl", provides: "openssl" }, Package { name: "curl", provides: "curl" }];

/// Reads our initramfs in a test.
pub const ARCHIVES: [Package; 1] = [Package { name: "cpio", provides: "cpio" }];

/// What the segment server is measured beside. nginx's package starts nginx where systemd runs; the bench has its own.
pub const SERVE_BENCH: [Package; 2] =
    [Package { name: "nginx-light", provides: "/usr/sbin/nginx" }, Package { name: "fio", provides: "fio" }];

impl Package {
    fn present(&self) -> bool {
        if self.provides.starts_with('/') {
            return Path::new(self.provides).exists();
        }
        workspace::find_program(self.provides).is_some()
    }
}

/// Makes sure that all of `wanted` are there. Asks, unless root or `yes`.
pub fn ensure(wanted: &[Package], yes: bool) -> Result<()> {
    let missing: Vec<_> =
        wanted.iter().filter(|package| !package.present()).map(|package| package.name).collect();
    if missing.is_empty() {
        let names: Vec<_> = wanted.iter().map(|package| package.name).collect();
        eprintln!("      all there: {}", names.join(", "));
        return Ok(());
    }
    eprintln!("      missing: {}", missing.join(", "));
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "this is no Debian system: install what Debian calls {} in your system's way, then run this again",
            missing.join(", ")
        );
    }
    install(&missing, yes)?;
    match wanted.iter().find(|package| !package.present()) {
        Some(package) => bail!("installed {}, but there is no {} still", package.name, package.provides),
        None => Ok(()),
    }
}

fn install(names: &[&str], yes: bool) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    let by_hand = format!(
        "{}apt-get install --no-install-recommends {}",
        if root { "" } else { "sudo " },
        names.join(" ")
    );
    if !root && workspace::find_program("sudo").is_none() {
        bail!("not root, and no sudo: run this as root, then again what you ran\n    {by_hand}");
    }
    if !root && !yes && !agreed(&by_hand)? {
        bail!("nothing installed; run this, then again what you ran\n    {by_hand}");
    }
    let install = ["install", "--yes", "--no-install-recommends"];
    let arguments: Vec<_> = install.iter().chain(names).copied().collect();
    // A fresh machine's package lists may be missing or old: fetch them and try again before giving up.
    if apt_get(root, &arguments)? || (apt_get(root, &["update"])? && apt_get(root, &arguments)?) {
        return Ok(());
    }
    bail!(
        "apt-get failed (its own words are above); run this by hand, then again what you ran\n    {by_hand}"
    );
}

fn agreed(by_hand: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("cannot ask without a terminal: give --yes, or run this first\n    {by_hand}");
    }
    eprint!("      install them now ({by_hand})? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// True if it went well. In our own process group: sudo may ask for a password.
fn apt_get(root: bool, arguments: &[&str]) -> Result<bool> {
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        command.arg("env");
    }
    command
        .arg("DEBIAN_FRONTEND=noninteractive")
        .args(["apt-get", "-q", "-o", "Dpkg::Use-Pty=0"])
        .args(arguments);
    command.stdin(Stdio::inherit()).stdout(io::stderr());
    Ok(command.status().context("cannot run apt-get")?.success())
}
