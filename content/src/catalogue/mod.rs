//! The catalogue: what one appliance does hold. One immutable file that its fill agent publishes and its server
//! reads into memory once and looks up in (DESIGN §3).
//!
//! Little-endian; every section starts at a 4 KiB page:
//!
//! ```text
//! header    magic, version, generation, counts, offsets, checksum of the checksum table, checksum of itself
//! volumes   16 bytes each: uuid
//! files     24 bytes each: number u64, data bytes u64, volume u32, zero u32
//! slots     64 bytes each: key 16, object 32, bytes u48, extension u8, zero u8, file u32, offset in 4 KiB u32; or zeros
//! sums      crc32c of each page from page 1 up to here, u32 each
//! ```
//!
//! **Slots.** A key, the start of a BLAKE3, is uniform: read as a fraction of 2¹²⁸ it says at which slot to look, its
//! *home*. Entries ascend by key, each at its home or, where that is taken, right behind the one before it (linear
//! probing in order: Amble and Knuth, The Computer Journal 17:2, 1974). There are three homes for two entries, so a
//! look-up reads two slots on average (Knuth, The Art of Computer Programming 3, 6.4), which follow one another, and ends
//! at the entry, at a greater key or at an empty slot. A slot is one line of the processor's cache, and the next line
//! comes along: a look-up waits for memory once.
//!
//! [`build`] writes it, [`file`] reads it. Opening checks the header and the length; [`file::Catalogue::verify`]
//! (in [`verify`]) checks every page and every reference, and runs on a helper thread before a generation serves.

pub mod build;
pub mod file;
#[cfg(test)]
mod tests;
mod verify;

use serde::{Deserialize, Serialize};

use crate::id::{CatalogueKey, Extension, ObjectId};
use crate::seal::{SealError, from_sealed, to_sealed};
use crate::volume::VolumeId;

pub const CATALOGUE_FORMAT: u32 = 2;
/// The folder on the state volume that holds generations, and the file in it that names the current one.
pub const CATALOGUE_FOLDER: &str = "catalogue";
pub const CURRENT_NAME: &str = "current";

const MAGIC: [u8; 8] = *b"OCACATAL";
const PAGE: usize = 4096;
const VOLUME_BYTES: usize = 16;
const FILE_BYTES: usize = 24;
const SLOT_BYTES: usize = 64;
const HEADER_BYTES: usize = 112;
/// What a slot of zeros has in the place of an extension.
const EMPTY: u8 = 0;

/// The name of a generation's file: its number as 16 hexadecimal digits.
pub fn generation_name(generation: u64) -> String {
    format!("{generation:016x}")
}

/// What `current` says: the name of a generation, sealed, because the one before differs in one bit of its name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    generation: String,
}

/// The bytes of `current`.
pub fn current_bytes(generation: u64) -> Vec<u8> {
    to_sealed(&Current { generation: generation_name(generation) })
}

/// The generation that the bytes of `current` name. None: sealed, and no name.
pub fn generation_of_current(bytes: &[u8]) -> Result<Option<u64>, SealError> {
    Ok(generation_of_name(&from_sealed::<Current>(bytes)?.generation))
}

/// The generation that a file's name stands for.
pub fn generation_of_name(name: &str) -> Option<u64> {
    let generation = u64::from_str_radix(name, 16).ok()?;
    (generation_name(generation) == name).then_some(generation)
}

/// A file on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its name is `volume::file_name(number)`. Unique on the appliance.
    pub number: u64,
    pub data_bytes: u64,
    /// Index into the catalogue's volumes.
    pub volume: u32,
}

/// Where the bytes behind a path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: CatalogueKey,
    pub object: ObjectId,
    /// Index into the catalogue's files.
    pub file: u32,
    /// Into the file's data; a multiple of 4 KiB.
    pub offset: u64,
    /// Below 2⁴⁸.
    pub bytes: u64,
    pub extension: Extension,
}

/// All that a catalogue says, before it is a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// From 1 up; never used twice on an appliance.
    pub generation: u64,
    /// No file on any volume has this number or a greater one.
    pub next_file: u64,
    pub volumes: Vec<VolumeId>,
    pub files: Vec<FileRecord>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("the catalogue cannot be written: {0}")]
    Unwritable(std::io::Error),
    #[error("not a catalogue, or its header is damaged")]
    BadHeader,
    #[error("the catalogue has format {0}; this program reads format {CATALOGUE_FORMAT}")]
    Format(u32),
    #[error("the catalogue is {found} bytes long; its header says {expected}")]
    Length { found: u64, expected: u64 },
    #[error("page {0} of the catalogue does not match its checksum")]
    DamagedPage(u64),
    #[error("the catalogue is inconsistent: {0}")]
    Inconsistent(&'static str),
}

fn extension_code(extension: Extension) -> u8 {
    match extension {
        Extension::Mp4 => 1,
        Extension::M3u8 => 2,
        Extension::Vtt => 3,
    }
}

fn extension_of_code(code: u8) -> Option<Extension> {
    Extension::ALL.into_iter().find(|extension| extension_code(*extension) == code)
}

/// How many slots are some key's home: a third stays empty.
fn homes_for(entries: usize) -> usize {
    entries.saturating_add(entries.div_ceil(2)).max(1)
}

/// The slot that a key is at or shortly behind.
fn home_of(key: &CatalogueKey, homes: usize) -> usize {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    let first = u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let homes = u128::try_from(homes).unwrap_or(0);
    usize::try_from(first.wrapping_mul(homes) >> 64).unwrap_or(0)
}
