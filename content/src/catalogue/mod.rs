//! The catalogue: what one appliance does hold. One immutable file that its fill agent publishes and its server
//! maps and reads in place (DESIGN §3).
//!
//! Little-endian; every section starts at a 4 KiB page:
//!
//! ```text
//! header    magic, version, generation, counts, offsets, checksum of the checksum table, checksum of itself
//! volumes   16 bytes each: uuid
//! files     24 bytes each: number u64, data bytes u64, volume u32, zero u32
//! buckets   u32 each, 2^bits + 1 of them: entries whose key starts with b are [bucket b, bucket b+1)
//! entries   72 bytes each, ascending by key: key 16, object 32, offset u64, bytes u64, file u32, extension u32
//! sums      crc32c of each page from page 1 up to here, u32 each
//! ```
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

pub const CATALOGUE_FORMAT: u32 = 1;
/// The folder on the state volume that holds generations, and the file in it that names the current one.
pub const CATALOGUE_FOLDER: &str = "catalogue";
pub const CURRENT_NAME: &str = "current";

const MAGIC: [u8; 8] = *b"OCACATAL";
const PAGE: usize = 4096;
const VOLUME_BYTES: usize = 16;
const FILE_BYTES: usize = 24;
const ENTRY_BYTES: usize = 72;
const HEADER_BYTES: usize = 112;
/// 2²⁴ buckets at most: one entry in each at 16 million entries.
const BUCKET_BITS_MAX: u32 = 24;

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
    /// Into the file's data.
    pub offset: u64,
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

fn extension_code(extension: Extension) -> u32 {
    match extension {
        Extension::Mp4 => 1,
        Extension::M3u8 => 2,
        Extension::Vtt => 3,
    }
}

fn extension_of_code(code: u32) -> Option<Extension> {
    Extension::ALL.into_iter().find(|extension| extension_code(*extension) == code)
}

/// Which bucket a key is in: its first `bits` bits, read big-endian, so that buckets follow the order of keys.
fn bucket_of(key: &CatalogueKey, bits: u32) -> usize {
    let [a, b, c, d, ..] = key.0;
    let first = u32::from_be_bytes([a, b, c, d]);
    let bucket = u64::from(first) >> 32u32.saturating_sub(bits);
    usize::try_from(bucket).unwrap_or(0)
}
