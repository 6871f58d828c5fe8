//! The manifest: what a cluster should hold, in order of worth, and which of its appliances each object belongs to.
//! One immutable file per cluster and version; desired state, never a list of commands (DESIGN §1, §5).
//!
//! The file is lines of JSON: a head, an entry per object, and the seal of [`crate::seal`] over all that stands before
//! it. An entry's ordinal is its place, from 0; reports name objects by ordinal.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::id::{ApplianceId, ClusterId, MediaPath};
use crate::seal::{SealError, seal, unseal};
use crate::volume::DATA_BYTES_MAX;

pub const MANIFEST_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub cluster: ClusterId,
    /// Counts up by one with every change.
    pub version: u64,
    /// `ManifestEntry::on` indexes this list.
    pub appliances: Vec<ApplianceId>,
    /// The most worthwhile first.
    pub entries: Vec<ManifestEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    pub path: MediaPath,
    /// Of the object, not of what it takes on a disk.
    pub bytes: u64,
    /// Predicted bytes served tomorrow over bytes stored; finite, not negative.
    pub worth: f64,
    /// The appliances that should hold it: indexes into `Manifest::appliances`, ascending.
    pub on: Vec<u16>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    cluster: ClusterId,
    version: u64,
    appliances: Vec<ApplianceId>,
    entries: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest ends without its seal: it is cut off or is no manifest")]
    Unsealed,
    #[error("the manifest's bytes do not match its seal: it is damaged")]
    Damaged,
    #[error("line {line} of the manifest is not valid: {cause}")]
    Line { line: usize, cause: serde_json::Error },
    #[error("the manifest has format {0}; this program reads format {MANIFEST_FORMAT}")]
    Format(u32),
    #[error("line {line} of the manifest is inconsistent: {what}")]
    Inconsistent { line: usize, what: &'static str },
}

impl Manifest {
    /// The index of an appliance in this manifest; None if nothing is asked of it.
    pub fn index_of(&self, appliance: &ApplianceId) -> Option<u16> {
        let index = self.appliances.iter().position(|name| name == appliance)?;
        u16::try_from(index).ok()
    }

    /// What one appliance should hold: ordinal and entry, the most worthwhile first.
    pub fn entries_on(&self, index: u16) -> impl Iterator<Item = (u32, &ManifestEntry)> {
        (0u32..).zip(&self.entries).filter(move |(_, entry)| entry.on.binary_search(&index).is_ok())
    }

    /// The bytes to store; equal manifests give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 * (self.entries.len() + 2));
        self.write_body(&mut bytes).expect("writing to memory cannot fail, and every field has a JSON form");
        seal(bytes)
    }

    fn write_body(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let head = Head {
            format: MANIFEST_FORMAT,
            cluster: self.cluster.clone(),
            version: self.version,
            appliances: self.appliances.clone(),
            entries: u64::try_from(self.entries.len()).unwrap_or(u64::MAX),
        };
        write_line(out, &head)?;
        self.entries.iter().try_for_each(|entry| write_line(out, entry))
    }

    /// Reads and checks the seal first, then every line.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let body = unseal(bytes).map_err(|cause| match cause {
            SealError::Damaged => ManifestError::Damaged,
            SealError::Unsealed | SealError::Malformed(_) => ManifestError::Unsealed,
        })?;
        let mut lines = body.split(|&b| b == b'\n').zip(1..).filter(|(line, _)| !line.is_empty());
        let (first, line) = lines.next().ok_or(ManifestError::Unsealed)?;
        let head: Head =
            serde_json::from_slice(first).map_err(|cause| ManifestError::Line { line, cause })?;
        if head.format != MANIFEST_FORMAT {
            return Err(ManifestError::Format(head.format));
        }
        let entries = lines.map(|(text, line)| parse_entry(text, line, head.appliances.len()));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        if u64::try_from(entries.len()) != Ok(head.entries) || u32::try_from(entries.len()).is_err() {
            return Err(ManifestError::Inconsistent { line, what: "another number of entries than it says" });
        }
        Ok(Self { cluster: head.cluster, version: head.version, appliances: head.appliances, entries })
    }
}

fn write_line(out: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn parse_entry(text: &[u8], line: usize, appliances: usize) -> Result<ManifestEntry, ManifestError> {
    let entry: ManifestEntry =
        serde_json::from_slice(text).map_err(|cause| ManifestError::Line { line, cause })?;
    let refuse = |what| Err(ManifestError::Inconsistent { line, what });
    if !entry.worth.is_finite() || entry.worth < 0.0 {
        return refuse("a worth that is no finite number from zero up");
    }
    if entry.bytes > DATA_BYTES_MAX {
        return refuse("an object too large for any volume");
    }
    if !entry.on.is_sorted_by(|a, b| a < b) {
        return refuse("appliances not in ascending order");
    }
    if entry.on.last().is_some_and(|&index| usize::from(index) >= appliances) {
        return refuse("an appliance that the head does not name");
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::ObjectId;

    fn sample() -> Manifest {
        let entry = |seed: &str, on: &[u16]| ManifestEntry {
            path: format!("/night-train/sd/{}.mp4", ObjectId::of(seed.as_bytes())).parse().unwrap(),
            bytes: 10,
            worth: 1.5,
            on: on.to_vec(),
        };
        Manifest {
            cluster: "lab".parse().unwrap(),
            version: 7,
            appliances: vec!["box-a".parse().unwrap(), "box-b".parse().unwrap()],
            entries: vec![entry("1", &[0, 1]), entry("2", &[1])],
        }
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let manifest = sample();
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        let on_a: Vec<_> = manifest.entries_on(0).map(|(ordinal, _)| ordinal).collect();
        let on_b: Vec<_> = manifest.entries_on(1).map(|(ordinal, _)| ordinal).collect();
        assert_eq!((on_a, on_b), (vec![0], vec![0, 1]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample().to_bytes();
        for index in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1;
            assert!(Manifest::parse(&flipped).is_err(), "flip at {index}");
            assert!(Manifest::parse(&bytes[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn an_entry_larger_than_any_volume_is_refused() {
        let mut manifest = sample();
        manifest.entries[0].bytes = u64::MAX;
        assert!(matches!(
            Manifest::parse(&manifest.to_bytes()),
            Err(ManifestError::Inconsistent { line: 2, .. })
        ));
    }

    #[test]
    fn an_entry_on_an_unknown_appliance_is_refused() {
        let mut manifest = sample();
        manifest.entries[1].on = vec![2];
        assert!(matches!(
            Manifest::parse(&manifest.to_bytes()),
            Err(ManifestError::Inconsistent { line: 3, .. })
        ));
    }

    proptest! {
        /// serde_json reads some numbers one bit off unless it is told not to (`float_roundtrip`): a manifest that was
        /// stored and read again was then not the one that was planned.
        #[test]
        fn every_worth_reads_back_to_the_bit(bits in 0..f64::INFINITY.to_bits()) {
            let mut manifest = sample();
            manifest.entries[0].worth = f64::from_bits(bits);
            prop_assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        }
    }
}
