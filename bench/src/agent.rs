//! What the fill agent needs for a manifest of 10 million entries on one box, part by part.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Result;
use content::id::{Extension, MediaPath, ObjectId, Tier};
use content::manifest::{Manifest, ManifestEntry};
use fill_agent::desired::Desired;
use fleet_tests::filler::mix;
use xtask::clock;

use crate::{ENTRIES, peak_bytes};

/// In a process of its own: writing one takes memory too.
pub fn write_manifest(path: &Path) -> Result<()> {
    let entry = |index: u32| {
        let mut object = [0; 32];
        object.chunks_exact_mut(8).zip(0..).for_each(|(part, seed)| {
            part.copy_from_slice(&mix(u64::from(index) << 8 | seed).to_le_bytes());
        });
        let title = format!("title-{}", index / 200).parse()?;
        let object = ObjectId::from_bytes(object);
        let path = MediaPath { title, tier: Tier::Hd, object, extension: Extension::Mp4 };
        Ok(ManifestEntry { path, bytes: 100_000, worth: 1.0, on: vec![0] })
    };
    let manifest = Manifest {
        cluster: "lab".parse()?,
        version: 1,
        appliances: vec!["box-a".parse()?],
        entries: (0..ENTRIES).map(entry).collect::<Result<_>>()?,
    };
    let mut file = BufWriter::new(fs::File::create(path)?);
    file.write_all(&manifest.to_bytes())?;
    Ok(file.flush()?)
}

pub fn run(path: &Path) -> Result<()> {
    let start = clock::now();
    let step = |name: &str| -> Result<()> {
        println!("{name}_bytes {} at {:.1} s", peak_bytes()?, start.elapsed().as_secs_f64());
        Ok(())
    };
    let bytes = fs::read(path)?;
    step("file")?;
    let manifest = Manifest::parse(&bytes)?;
    step("parsed")?;
    drop(bytes);
    let desired = Desired::of(&manifest, &"box-a".parse()?);
    step("desired")?;
    println!("objects {}", desired.objects.len());
    drop(manifest);
    let ranked = desired.by_rank().len();
    step("ranked")?;
    println!("ranked {ranked}");
    Ok(())
}
