//! Real disks that a test may break: a filesystem on a loop device over a sparse file, mounted by the test. They are
//! unmounted and detached when dropped, also when the test fails.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};

#[derive(Clone, Copy, Debug)]
pub enum Filesystem {
    Xfs,
    Ext4,
}

impl Filesystem {
    /// mkfs.xfs makes none under 300 MB.
    fn bytes(self) -> u64 {
        match self {
            Self::Xfs => 320 << 20,
            Self::Ext4 => 48 << 20,
        }
    }

    fn make(self, device: &str) -> Result<()> {
        match self {
            Self::Xfs => tool("mkfs.xfs", ["-q", "-f", device]),
            Self::Ext4 => tool("mkfs.ext4", ["-q", "-F", "-m", "0", device]),
        }
    }
}

/// Whether this user may mount disks here; if not, says why the test does nothing.
pub fn can_mount() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: only root may mount a loop device");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        println!("SKIP: there are no loop devices here");
        return false;
    }
    true
}

#[derive(Debug)]
pub struct Disk {
    device: String,
    pub mount_point: PathBuf,
    mounted: bool,
}

impl Disk {
    /// A new filesystem, mounted.
    pub fn new(image: &Path, filesystem: Filesystem, mount_point: &Path) -> Result<Self> {
        File::create(image)?.set_len(filesystem.bytes())?;
        let arguments = [OsStr::new("--find"), OsStr::new("--show"), image.as_os_str()];
        let device = run("losetup", arguments)?.trim().to_owned();
        let mut disk = Self { device, mount_point: mount_point.to_owned(), mounted: false };
        filesystem.make(&disk.device)?;
        fs::create_dir_all(mount_point)?;
        disk.mount()?;
        Ok(disk)
    }

    pub fn mount(&mut self) -> Result<()> {
        tool("mount", [OsStr::new(&self.device), self.mount_point.as_os_str()])?;
        self.mounted = true;
        Ok(())
    }

    /// Gone from its folder at once, whoever still uses it.
    pub fn unmount(&mut self) -> Result<()> {
        self.mounted = false;
        umount2(&self.mount_point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", self.mount_point.display()))
    }

    pub fn remount(&self, how: &str) -> Result<()> {
        tool("mount", ["-o".as_ref(), format!("remount,{how}").as_ref(), self.mount_point.as_os_str()])
    }

    /// XFS stops as it does when its log cannot be written: from now on everything ends with EIO.
    pub fn shut_down(&self) -> Result<()> {
        tool("xfs_io", ["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), self.mount_point.as_os_str()])
    }

    /// Somebody else's data, to the last block; gives them, to be removed.
    pub fn fill_up(&self) -> Result<PathBuf> {
        let path = self.mount_point.join("holiday.mkv");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        // Large first, without writing it; at the end block by block, so that no small file finds a place.
        let (mut at, mut bytes) = (0, 1 << 28);
        while bytes >= 1 << 12 {
            match fallocate(&file, FallocateFlags::empty(), at, bytes) {
                Ok(()) => at += bytes,
                Err(_) => bytes /= 2,
            }
        }
        for bytes in [4096, 512] {
            let block = vec![7; bytes];
            while file.write_all(&block).is_ok() && file.sync_data().is_ok() {}
        }
        Ok(path)
    }

    /// `major:minor`, as cgroups name it.
    pub fn number(&self) -> Result<String> {
        let name = self.device.rsplit('/').next().unwrap_or_default();
        Ok(fs::read_to_string(format!("/sys/class/block/{name}/dev"))?.trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            umount2(&self.mount_point, MntFlags::MNT_DETACH).ok();
        }
        // Detached when its last user goes.
        Command::new("losetup").args(["--detach", &self.device]).output().ok();
    }
}

/// Reads of one disk, slowed down for one process: a cgroup of its own that goes when it is dropped.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    key: &'static str,
    limit: String,
    none: String,
}

impl Throttle {
    /// None, and why: the kernel here has no such control.
    pub fn new(disk: &Disk, bytes_per_s: u64) -> Result<Option<Self>> {
        let number = disk.number()?;
        let name = format!("oca-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/blkio");
        let v2 = Path::new("/sys/fs/cgroup");
        let throttle = if v1.join("blkio.throttle.read_bps_device").exists() {
            let (limit, none) = (format!("{number} {bytes_per_s}"), format!("{number} 0"));
            Self { group: v1.join(name), key: "blkio.throttle.read_bps_device", limit, none }
        } else if fs::read_to_string(v2.join("cgroup.controllers")).is_ok_and(|list| list.contains("io")) {
            fs::write(v2.join("cgroup.subtree_control"), "+io")?;
            let (limit, none) = (format!("{number} rbps={bytes_per_s}"), format!("{number} rbps=max"));
            Self { group: v2.join(name), key: "io.max", limit, none }
        } else {
            println!("SKIP: no cgroup here slows down a disk (blkio or io)");
            return Ok(None);
        };
        fs::create_dir_all(&throttle.group)?;
        Ok(Some(throttle))
    }

    pub fn slow_down(&self, process: u32) -> Result<()> {
        fs::write(self.group.join("cgroup.procs"), process.to_string())?;
        Ok(fs::write(self.group.join(self.key), &self.limit)?)
    }

    pub fn let_go(&self) -> Result<()> {
        Ok(fs::write(self.group.join(self.key), &self.none)?)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.let_go().ok();
        let root = self.group.with_file_name("cgroup.procs");
        for process in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            fs::write(&root, process).ok();
        }
        fs::remove_dir(&self.group).ok();
    }
}

fn tool<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<()> {
    run(program, arguments).map(drop)
}

fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
