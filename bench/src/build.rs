//! How long the catalogue takes to be written, and in how much memory.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use content::catalogue::{Contents, build};
use content::volume::VolumeId;
use fleet_tests::filler;
use xtask::clock;

use crate::{ENTRIES, FILES, peak_bytes};

pub fn run(path: &Path) -> Result<()> {
    let volumes = vec![VolumeId([5; 16])];
    let mut contents = Contents { generation: 1, next_file: 1, volumes, ..Contents::default() };
    filler::fill(&mut contents, ENTRIES, FILES);
    println!("contents_bytes {}", peak_bytes()?);
    let start = clock::now();
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    println!("sort_s {:.3}", start.elapsed().as_secs_f64());
    let mut file = File::create(path)?;
    build::write(&contents, &mut file)?;
    println!("write_s {:.3}", start.elapsed().as_secs_f64());
    file.sync_all()?;
    println!("build_s {:.3}", start.elapsed().as_secs_f64());
    println!("peak_bytes {}", peak_bytes()?);
    Ok(())
}
