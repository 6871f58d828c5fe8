//! `oca-bench TASK`: what needs a process of its own, and the file of results. `cargo xtask bench` calls it.
//!
//! A task prints lines `NAME VALUE`; `catalogue` starts the others, reads what criterion measured, and writes the rows.

mod agent;
mod build;
mod results;
mod swap;

use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// What the design asks for.
const ENTRIES: u32 = 10_000_000;
const FILES: u32 = 1_000_000;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build", path] => build::run(Path::new(path)),
        ["swap"] => swap::run(),
        ["manifest", path] => agent::write_manifest(Path::new(path)),
        ["agent", path] => agent::run(Path::new(path)),
        ["catalogue"] => results::catalogue(),
        _ => bail!("oca-bench build FILE | swap | manifest FILE | agent FILE | catalogue"),
    }
}

/// The most memory that this process ever had, in bytes (VmHWM).
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
