//! QEMU: one machine with a disk and a network card, its serial console in a file, on KVM only if that works.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::clock;
use crate::process::{Launch, Service};
use crate::stop::{Interrupted, Stop};

const QEMU: &str = "qemu-system-x86_64";
const KVM: &str = "/dev/kvm";
/// With KVM a kernel is up in a second. Where it hangs, this is what finding out costs, once.
const PROBE: Duration = Duration::from_secs(6);
const PROBED: &str = "smoke-init: probed";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// QEMU's own translation: any machine can, ten to thirty times slower.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulated: its speed means nothing)",
        })
    }
}

pub struct Hardware<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub accelerator: Accelerator,
    pub disk: Option<&'a Path>,
    /// This address of ours leads to the guest's server.
    pub forward: Option<SocketAddr>,
}

impl Hardware<'_> {
    /// None of it is told to `smoke-init` but "probe".
    fn arguments(&self) -> Vec<OsString> {
        let accelerator = match self.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=multi",
        };
        let mut list: Vec<OsString> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-machine",
            "q35",
            "-accel",
            accelerator,
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "768",
        ]
        .map(Into::into)
        .to_vec();
        list.extend(["-kernel".into(), self.kernel.into(), "-initrd".into(), self.initramfs.into()]);
        // A panic ends the machine at once (-no-reboot); what the kernel says besides errors takes seconds on a serial line.
        let line = "console=ttyS0 quiet panic=-1";
        let probe = if self.disk.is_none() { " -- probe" } else { "" };
        list.extend(["-append".into(), format!("{line}{probe}").into()]);
        if let Some(disk) = self.disk {
            let mut drive = OsString::from("if=none,id=disk,format=raw,cache=writeback,file=");
            drive.push(disk);
            list.extend(["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=disk".into()]);
        }
        if let Some(address) = self.forward {
            let network = format!("user,id=net,hostfwd=tcp:{address}-{}", super::origin::GUEST_MEDIA);
            list.extend(
                ["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="].map(Into::into),
            );
        }
        list
    }

    pub fn power_on(&self, name: &str, logs: &Path) -> Result<Machine> {
        let launch = Launch {
            name: format!("the machine ({name})"),
            program: QEMU.into(),
            arguments: self.arguments(),
            log: logs.join(format!("{name}.log")),
        };
        Ok(Machine { service: launch.start()? })
    }
}

/// A running machine; dropping it ends it.
pub struct Machine {
    service: Service,
}

impl Machine {
    pub fn expect_running(&mut self) -> Result<()> {
        self.service.expect_running()
    }

    /// Waits for a line on the console that contains `mark`.
    pub fn wait_for_line(&mut self, stop: &Stop, mark: &str, limit: Duration) -> Result<()> {
        let found = clock::wait_for(stop, &format!("{mark:?} on the console"), limit, || {
            if !self.lines_with(&[mark])?.is_empty() {
                return Ok(Some(()));
            }
            self.service.expect_running().map(|()| None)
        });
        self.explained(found)
    }

    pub fn lines_with(&self, marks: &[&str]) -> Result<Vec<String>> {
        let bytes = fs::read(self.service.log()).context("the machine's console")?;
        let text = without_colours(&String::from_utf8_lossy(&bytes));
        let wanted = text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark)));
        Ok(wanted.map(|line| line.trim().to_owned()).collect())
    }

    /// A failure together with the console's last lines, which mostly say why.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|cause| {
            let text = format!("{cause:#}");
            let tail = self.service.log_tail();
            if cause.is::<Interrupted>() || text.contains(&tail) { cause } else { anyhow!("{text}\n{tail}") }
        })
    }

    /// Nothing in the guest hears of it. What the guest gave to the disk without a flush may be there or not.
    pub fn power_cut(mut self) -> Result<()> {
        self.service.kill()
    }
}

/// The console is a terminal to the programs in the guest, so they write in colour: ESC [ numbers m.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == ';');
        plain + rest.strip_prefix('m').unwrap_or(rest)
    })
}

/// KVM if a machine comes up with it. The answer is remembered for this kernel, QEMU and processor.
pub fn choose(stop: &Stop, cache: &Path, kernel: &Path, probe: &Path, logs: &Path) -> Result<Accelerator> {
    if !Path::new(KVM).exists() {
        return Ok(Accelerator::Tcg);
    }
    let path = cache.join("accelerator");
    let key = host_key()?;
    if let Some(known) = fs::read_to_string(&path).ok().and_then(|text| remembered(&text, &key)) {
        return Ok(known);
    }
    let hardware =
        Hardware { kernel, initramfs: probe, accelerator: Accelerator::Kvm, disk: None, forward: None };
    let mut machine = hardware.power_on("kvm-probe", logs)?;
    let works = machine.wait_for_line(stop, PROBED, PROBE).is_ok();
    stop.check()?;
    machine.power_cut()?;
    let found = if works { Accelerator::Kvm } else { Accelerator::Tcg };
    fs::write(&path, format!("{key}\n{}\n", if works { "kvm" } else { "tcg" }))?;
    Ok(found)
}

/// The file: the key's line, then the answer's.
fn remembered(text: &str, key: &str) -> Option<Accelerator> {
    let (known, answer) = text.split_once('\n')?;
    match answer.trim() {
        "kvm" if known == key => Some(Accelerator::Kvm),
        "tcg" if known == key => Some(Accelerator::Tcg),
        _ => None,
    }
}

fn host_key() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let processors = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let processor = processors.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let output =
        Command::new(QEMU).arg("--version").output().with_context(|| format!("cannot run {QEMU}"))?;
    let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    if version.is_empty() {
        bail!("{QEMU} --version says nothing");
    }
    Ok(format!("{} | {version} | {processor}", release.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_whatever_its_colours() {
        let line = "\x1b[2mnow\x1b[0m \x1b[1;32m INFO\x1b[0m ready \x1b[3maddress\x1b[0m=10.0.2.15";
        assert_eq!(without_colours(line), "now  INFO ready address=10.0.2.15");
    }

    #[test]
    fn a_probes_answer_holds_for_its_host_only() {
        assert_eq!(remembered("host a\nkvm\n", "host a"), Some(Accelerator::Kvm));
        assert_eq!(remembered("host a\ntcg\n", "host a"), Some(Accelerator::Tcg));
        for other in ["host a\nkvm\n", "", "host b", "host b\nmaybe\n"] {
            assert_eq!(remembered(other, "host b"), None, "{other:?}");
        }
    }
}
