//! The initramfs: a cpio archive of the form `newc` (kernel: Documentation/driver-api/early-userspace/buffer-format.rst),
//! with nothing in it but our programs, modules and configuration. The same contents give the same bytes.

use anyhow::{Result, bail};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const SECRET: u32 = 0o100_600;
/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;
/// It ends the archive.
const TRAILER: &str = "TRAILER!!!";

/// What `image-build/smoke-init` expects.
pub struct Contents {
    pub init: Vec<u8>,
    pub programs: Vec<(&'static str, Vec<u8>)>,
    /// File name, which begins with its place in the order, and bytes.
    pub modules: Vec<(String, Vec<u8>)>,
    pub box_toml: String,
    pub agent_key: String,
}

impl Contents {
    pub fn pack(&self) -> Vec<u8> {
        let mut archive = Archive::default();
        archive.entry("init", PROGRAM, &self.init);
        for folder in ["bin", "etc", "modules"] {
            archive.entry(folder, FOLDER, &[]);
        }
        for (name, bytes) in &self.programs {
            archive.entry(&format!("bin/{name}"), PROGRAM, bytes);
        }
        archive.entry("etc/box.toml", FILE, self.box_toml.as_bytes());
        archive.entry("etc/agent.key", SECRET, self.agent_key.as_bytes());
        for (name, bytes) in &self.modules {
            archive.entry(&format!("modules/{name}"), FILE, bytes);
        }
        archive.finish()
    }
}

/// Only the first program: enough to see whether an accelerator works.
pub fn probe(init: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.entry("init", PROGRAM, init);
    archive.finish()
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    /// The folder of `name` must be there already.
    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.count += 1;
        self.head(name, self.count, mode, contents.len());
        self.bytes.extend(contents);
        self.align();
    }

    fn finish(mut self) -> Vec<u8> {
        self.head(TRAILER, 0, 0, 0);
        self.bytes
    }

    fn head(&mut self, name: &str, index: u32, mode: u32, size: usize) {
        let links = if mode == FOLDER { 2 } else { 1 };
        let number = |value: usize| u32::try_from(value).expect("no program of ours has 4 GB");
        // Inode, mode, user, group, links, time, size, device and special device (major, minor each), name with its NUL, sum.
        let fields = [index, mode, 0, 0, links, 0, number(size), 0, 0, 0, 0, number(name.len() + 1), 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A program that wants an interpreter finds none in the guest, and the kernel's word for that is "No such file".
pub fn expect_static(name: &str, elf: &[u8]) -> Result<()> {
    /// ELF-64, little-endian: where the program headers are, how large one is, how many; and PT_INTERP.
    const INTERPRETER: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((start, size, count)) = headers().filter(|_| elf.starts_with(b"\x7fELF\x02\x01")) else {
        bail!("{name} is no 64-bit ELF program");
    };
    let kinds =
        (0..count).map(|index| number(usize::try_from(start + index * size).unwrap_or(usize::MAX - 8), 4));
    for kind in kinds {
        match kind {
            Some(INTERPRETER) => {
                bail!("{name} is not static: it asks for an interpreter; is .cargo/static.sh in use?")
            }
            Some(_) => {}
            None => bail!("{name} is cut off"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    fn contents() -> Contents {
        Contents {
            init: b"first".to_vec(),
            programs: vec![("oca-fill", vec![7; 4097])],
            modules: vec![("00-a.ko".to_owned(), b"abc".to_vec()), ("01-b.ko".to_owned(), Vec::new())],
            box_toml: "state = '/x'\n".to_owned(),
            agent_key: "secret\n".to_owned(),
        }
    }

    fn cpio(archive: &[u8], folder: &Path, arguments: &[&str]) -> String {
        let mut child = Command::new("cpio")
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn cpio_reads_what_was_packed_and_it_is_the_same_each_time() {
        let folder = std::env::temp_dir().join(format!("xtask-initramfs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let archive = contents().pack();
        assert_eq!(archive, contents().pack());
        let list = cpio(&archive, &folder, &["--list", "--quiet"]);
        let expected = "init\nbin\netc\nmodules\nbin/oca-fill\netc/box.toml\netc/agent.key\nmodules/00-a.ko\nmodules/01-b.ko\n";
        assert_eq!(list, expected);
        let long = cpio(&archive, &folder, &["--list", "--verbose", "--quiet"]);
        let starts: Vec<_> = long.lines().map(|line| &line[..10]).collect();
        assert_eq!(starts[..2], ["-rwxr-xr-x", "drwxr-xr-x"]);
        assert_eq!(starts[5..7], ["-rw-r--r--", "-rw-------"]);
        cpio(&archive, &folder, &["--extract", "--quiet"]);
        assert_eq!(fs::read(folder.join("init")).unwrap(), b"first");
        assert_eq!(fs::read(folder.join("bin/oca-fill")).unwrap(), vec![7; 4097]);
        assert_eq!(fs::read(folder.join("modules/00-a.ko")).unwrap(), b"abc");
        assert_eq!(fs::read(folder.join("modules/01-b.ko")).unwrap(), b"");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_program_with_an_interpreter_is_no_static_one() {
        // This test program is linked dynamically, as all are but those for the guest.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = expect_static("own", &own).unwrap_err().to_string();
        assert!(error.contains("own is not static"), "{error}");
        let mut patched = own;
        // Without that header's kind it would pass.
        let start = usize::try_from(u64::from_le_bytes(patched[32..40].try_into().unwrap())).unwrap();
        let count = usize::from(u16::from_le_bytes(patched[56..58].try_into().unwrap()));
        for index in 0..count {
            let at = start + index * 56;
            if patched[at] == 3 {
                patched[at] = 0;
            }
        }
        expect_static("patched", &patched).unwrap();
        assert!(expect_static("short", &patched[..80]).is_err());
        assert!(expect_static("script", b"#!/bin/sh").is_err());
    }
}
