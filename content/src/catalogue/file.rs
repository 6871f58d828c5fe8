//! Reads a catalogue in place. The bytes may be rotten: nothing here can panic on them, and a look-up in a
//! file that was opened but not verified gives None or a wrong entry, never a fault of memory safety.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::*;
use crate::checksum::crc32c;

/// An open catalogue. Immutable; share it by `Arc`.
pub struct Catalogue {
    bytes: Bytes,
    pub(super) header: Header,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) bucket_bits: u32,
    generation: u64,
    next_file: u64,
    total: u64,
    volumes: Section,
    files: Section,
    buckets: Section,
    entries: Section,
    sums: Section,
    pub(super) sums_sum: u32,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    offset: usize,
    count: usize,
}

impl Catalogue {
    /// Maps the file; checks the header and the length and no more.
    ///
    /// The file must not change while it is mapped. Ours never does: it is written under another name, synced,
    /// renamed, and only ever unlinked, which leaves a mapping whole. It lies on the state volume, not on a media disk.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        let file = File::open(path)?;
        let map = map(&file)?;
        Self::with(Bytes::Mapped(map))
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, CatalogueError> {
        Self::with(Bytes::Owned(bytes))
    }

    fn with(bytes: Bytes) -> Result<Self, CatalogueError> {
        let header = Header::parse(bytes.all())?;
        Ok(Self { bytes, header })
    }

    pub fn generation(&self) -> u64 {
        self.header.generation
    }

    /// No file on any volume has this number or a greater one.
    pub fn next_file(&self) -> u64 {
        self.header.next_file
    }

    pub fn entry_count(&self) -> usize {
        self.header.entries.count
    }

    pub fn volume_count(&self) -> usize {
        self.header.volumes.count
    }

    pub fn file_count(&self) -> usize {
        self.header.files.count
    }

    /// All of it, to be locked in memory or faulted in. Whole pages, if it is mapped.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.all()
    }

    /// The entry of a path. Reads one bucket and the few entries in it; allocates nothing.
    pub fn find(&self, key: &CatalogueKey) -> Option<Entry> {
        let bucket = bucket_of(key, self.header.bucket_bits);
        let start = usize::try_from(self.bucket(bucket)?).ok()?;
        let end = usize::try_from(self.bucket(bucket.checked_add(1)?)?).ok()?;
        let records = self.records::<ENTRY_BYTES>(self.header.entries, start, end)?;
        let at = records.binary_search_by(|record| record.first_chunk::<16>().cmp(&Some(&key.0))).ok()?;
        decode_entry(records.get(at)?)
    }

    pub fn entry(&self, index: usize) -> Option<Entry> {
        decode_entry(self.record(self.header.entries, index)?)
    }

    pub fn file(&self, index: u32) -> Option<FileRecord> {
        let record: &[u8; FILE_BYTES] = self.record(self.header.files, usize::try_from(index).ok()?)?;
        let (number, rest) = record.split_first_chunk::<8>()?;
        let (data_bytes, rest) = rest.split_first_chunk::<8>()?;
        let volume = u32::from_le_bytes(*rest.first_chunk()?);
        Some(FileRecord {
            number: u64::from_le_bytes(*number),
            data_bytes: u64::from_le_bytes(*data_bytes),
            volume,
        })
    }

    pub fn volume(&self, index: u32) -> Option<VolumeId> {
        self.record(self.header.volumes, usize::try_from(index).ok()?).copied().map(VolumeId)
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.entry_count()).filter_map(|index| self.entry(index))
    }

    pub fn files(&self) -> impl Iterator<Item = FileRecord> + '_ {
        let count = u32::try_from(self.file_count()).unwrap_or(u32::MAX);
        (0..count).filter_map(|index| self.file(index))
    }

    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        let count = u32::try_from(self.volume_count()).unwrap_or(u32::MAX);
        (0..count).filter_map(|index| self.volume(index))
    }

    /// A copy of all that it says, to make the next generation from.
    pub fn contents(&self) -> Contents {
        Contents {
            generation: self.generation(),
            next_file: self.next_file(),
            volumes: self.volumes().collect(),
            files: self.files().collect(),
            entries: self.entries().collect(),
        }
    }

    /// The pages that have a sum, the table of sums, and the page at which that starts.
    pub(super) fn summed(&self) -> (&[u8], &[u8], u64) {
        let sums = self.header.sums.offset;
        let bytes = self.bytes.all();
        (bytes.get(PAGE..sums).unwrap_or_default(), bytes.get(sums..).unwrap_or_default(), page_of(sums))
    }

    pub(super) fn bucket_table(&self) -> &[[u8; 4]] {
        self.records(self.header.buckets, 0, self.header.buckets.count).unwrap_or_default()
    }

    fn bucket(&self, index: usize) -> Option<u32> {
        self.record(self.header.buckets, index).map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn record<const N: usize>(&self, section: Section, index: usize) -> Option<&[u8; N]> {
        self.records(section, index, index.checked_add(1)?)?.first()
    }

    fn records<const N: usize>(&self, section: Section, start: usize, end: usize) -> Option<&[[u8; N]]> {
        if start > end || end > section.count {
            return None;
        }
        let from = section.offset.checked_add(start.checked_mul(N)?)?;
        let to = section.offset.checked_add(end.checked_mul(N)?)?;
        let (records, _) = self.bytes.all().get(from..to)?.as_chunks::<N>();
        Some(records)
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "the one memory-mapped reader of this library (STYLE §5)")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: `Mmap::map` asks that the file is not changed while mapped; `Catalogue::open` states why ours is not.
    unsafe { Mmap::map(file) }
}

fn page_of(offset: usize) -> u64 {
    u64::try_from(offset.checked_div(PAGE).unwrap_or(0)).unwrap_or(u64::MAX)
}

fn decode_entry(record: &[u8; ENTRY_BYTES]) -> Option<Entry> {
    let (key, rest) = record.split_first_chunk::<16>()?;
    let (object, rest) = rest.split_first_chunk::<32>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (bytes, rest) = rest.split_first_chunk::<8>()?;
    let (file, rest) = rest.split_first_chunk::<4>()?;
    Some(Entry {
        key: CatalogueKey(*key),
        object: ObjectId::from_bytes(*object),
        file: u32::from_le_bytes(*file),
        offset: u64::from_le_bytes(*offset),
        bytes: u64::from_le_bytes(*bytes),
        extension: extension_of_code(u32::from_le_bytes(*rest.first_chunk()?))?,
    })
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, CatalogueError> {
        let header = bytes.get(..HEADER_BYTES).ok_or(CatalogueError::BadHeader)?;
        let (magic, rest) = header.split_first_chunk::<8>().ok_or(CatalogueError::BadHeader)?;
        if *magic != MAGIC {
            return Err(CatalogueError::BadHeader);
        }
        let mut fields = Fields { rest };
        let format = fields.u32()?;
        if format != CATALOGUE_FORMAT {
            return Err(CatalogueError::Format(format));
        }
        let parsed = Self::parse_fields(&mut fields)?;
        let body = header.get(..header.len().saturating_sub(fields.rest.len())).unwrap_or_default();
        if crc32c(body) != fields.u32()? {
            return Err(CatalogueError::BadHeader);
        }
        parsed.check_layout(bytes.len())?;
        Ok(parsed)
    }

    fn parse_fields(fields: &mut Fields<'_>) -> Result<Self, CatalogueError> {
        let bucket_bits = fields.u32()?;
        let [generation, next_file, total] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let [volumes, files, entries] = [fields.size()?, fields.size()?, fields.size()?];
        if bucket_bits > BUCKET_BITS_MAX {
            return Err(CatalogueError::BadHeader);
        }
        let buckets = (1usize << bucket_bits).saturating_add(1);
        let mut section = |count| Ok::<_, CatalogueError>(Section { offset: fields.size()?, count });
        Ok(Self {
            bucket_bits,
            generation,
            next_file,
            total,
            volumes: section(volumes)?,
            files: section(files)?,
            buckets: section(buckets)?,
            entries: section(entries)?,
            sums: section(0)?,
            sums_sum: fields.u32()?,
        })
    }

    /// Sections follow one another, each from a page boundary, each long enough for what it counts.
    fn check_layout(&self, length: usize) -> Result<(), CatalogueError> {
        let found = u64::try_from(length).unwrap_or(u64::MAX);
        if found != self.total {
            return Err(CatalogueError::Length { found, expected: self.total });
        }
        let pages = page_of(self.sums.offset).saturating_sub(1);
        let sums = Section { offset: self.sums.offset, count: usize::try_from(pages).unwrap_or(usize::MAX) };
        let sections = [
            (self.volumes, VOLUME_BYTES),
            (self.files, FILE_BYTES),
            (self.buckets, 4),
            (self.entries, ENTRY_BYTES),
            (sums, 4),
        ];
        let mut expected = PAGE;
        for (section, size) in sections {
            if section.offset != expected {
                return Err(CatalogueError::BadHeader);
            }
            let bytes = section.count.checked_mul(size).ok_or(CatalogueError::BadHeader)?;
            let end = expected.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(PAGE));
            expected = end.ok_or(CatalogueError::BadHeader)?;
        }
        if expected == length { Ok(()) } else { Err(CatalogueError::BadHeader) }
    }
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn u32(&mut self) -> Result<u32, CatalogueError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(CatalogueError::BadHeader)?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*field))
    }

    fn u64(&mut self) -> Result<u64, CatalogueError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(CatalogueError::BadHeader)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*field))
    }

    fn size(&mut self) -> Result<usize, CatalogueError> {
        usize::try_from(self.u64()?).map_err(|_| CatalogueError::BadHeader)
    }
}
