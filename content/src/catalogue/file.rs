//! Reads a catalogue. The bytes may be rotten: nothing here can panic on them, and a look-up in a file that was
//! opened but not verified gives None or a wrong entry, never a fault of memory safety.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use memmap2::{Advice, MmapMut};

use super::*;
use crate::checksum::crc32c;
use crate::volume::ALIGNMENT_BYTES;

/// An open catalogue. Immutable; share it by `Arc`.
pub struct Catalogue {
    bytes: Bytes,
    pub(super) header: Header,
}

enum Bytes {
    /// Memory of its own, in huge pages where the system has them.
    Read(MmapMut),
    Owned(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    generation: u64,
    next_file: u64,
    total: u64,
    entry_count: usize,
    pub(super) homes: usize,
    volumes: Section,
    files: Section,
    slots: Section,
    sums: Section,
    pub(super) sums_sum: u32,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    offset: usize,
    count: usize,
}

impl Catalogue {
    /// Reads the file; checks the header and the length and no more.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        Self::open_into(path, |_| {})
    }

    /// The same; `prepare` is given the memory, whole pages, before the first of it is touched.
    ///
    /// Read, not mapped: a look-up in 4 KiB pages waits for the page table as long as for the entry, a disk that fails
    /// is an error here and not a SIGBUS, and nobody can change what was checked.
    pub fn open_into(path: &Path, prepare: impl FnOnce(&[u8])) -> Result<Self, CatalogueError> {
        let mut file = File::open(path)?;
        let mut start = Vec::new();
        (&mut file).take(wide(HEADER_BYTES)).read_to_end(&mut start)?;
        let header = Header::parse(&start)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| CatalogueError::BadHeader)?;
        header.check_layout(length)?;
        let mut memory = MmapMut::map_anon(length)?;
        // A kernel without them has 4 KiB pages, which are slower and not wrong.
        memory.advise(Advice::HugePage).ok();
        prepare(&memory);
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut memory)?;
        Self::with(Bytes::Read(memory))
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, CatalogueError> {
        Self::with(Bytes::Owned(bytes))
    }

    fn with(bytes: Bytes) -> Result<Self, CatalogueError> {
        let header = Header::parse(bytes.all())?;
        header.check_layout(bytes.all().len())?;
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
        self.header.entry_count
    }

    pub fn slot_count(&self) -> usize {
        self.header.slots.count
    }

    pub fn volume_count(&self) -> usize {
        self.header.volumes.count
    }

    pub fn file_count(&self) -> usize {
        self.header.files.count
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.all()
    }

    /// The entry of a path. Reads a few slots that follow one another; allocates nothing.
    pub fn find(&self, key: &CatalogueKey) -> Option<Entry> {
        let home = home_of(key, self.header.homes);
        let wanted = u128::from_be_bytes(key.0);
        for slot in self.slots(home) {
            let found = slot.first_chunk::<16>().map_or(0, |key| u128::from_be_bytes(*key));
            if found == wanted {
                return decode_entry(slot);
            }
            if found > wanted || is_empty(slot) {
                return None;
            }
        }
        None
    }

    /// None: an empty slot, or none.
    pub fn entry(&self, slot: usize) -> Option<Entry> {
        decode_entry(self.record(self.header.slots, slot)?)
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

    /// Ascending by key.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.slots(0).iter().filter_map(decode_entry)
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

    /// From this one on.
    pub(super) fn slots(&self, first: usize) -> &[[u8; SLOT_BYTES]] {
        self.records(self.header.slots, first, self.header.slots.count).unwrap_or_default()
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
            Self::Read(memory) => memory,
            Self::Owned(bytes) => bytes,
        }
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn page_of(offset: usize) -> u64 {
    wide(offset.checked_div(PAGE).unwrap_or(0))
}

pub(super) fn is_empty(slot: &[u8; SLOT_BYTES]) -> bool {
    slot.get(54).is_none_or(|code| *code == EMPTY)
}

fn decode_entry(slot: &[u8; SLOT_BYTES]) -> Option<Entry> {
    let (key, rest) = slot.split_first_chunk::<16>()?;
    let (object, rest) = rest.split_first_chunk::<32>()?;
    let ([b0, b1, b2, b3, b4, b5, extension, _zero], rest) = rest.split_first_chunk::<8>()?;
    let (file, rest) = rest.split_first_chunk::<4>()?;
    let pages = u32::from_le_bytes(*rest.first_chunk()?);
    Some(Entry {
        key: CatalogueKey(*key),
        object: ObjectId::from_bytes(*object),
        file: u32::from_le_bytes(*file),
        offset: u64::from(pages).saturating_mul(ALIGNMENT_BYTES),
        bytes: u64::from_le_bytes([*b0, *b1, *b2, *b3, *b4, *b5, 0, 0]),
        extension: extension_of_code(*extension)?,
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
        Ok(parsed)
    }

    fn parse_fields(fields: &mut Fields<'_>) -> Result<Self, CatalogueError> {
        let _zero = fields.u32()?;
        let [generation, next_file, total] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let [volumes, files, entry_count] = [fields.size()?, fields.size()?, fields.size()?];
        let slots = fields.size()?;
        let homes = homes_for(entry_count);
        if slots < homes {
            return Err(CatalogueError::BadHeader);
        }
        let mut section = |count| Ok::<_, CatalogueError>(Section { offset: fields.size()?, count });
        Ok(Self {
            generation,
            next_file,
            total,
            entry_count,
            homes,
            volumes: section(volumes)?,
            files: section(files)?,
            slots: section(slots)?,
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
        let sections =
            [(self.volumes, VOLUME_BYTES), (self.files, FILE_BYTES), (self.slots, SLOT_BYTES), (sums, 4)];
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
