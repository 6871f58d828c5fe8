//! Reads a catalogue in place. The bytes may be rotten: nothing here can panic on them, and a look-up in a
//! file that was opened but not verified gives None or a wrong entry, never a fault of memory safety.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::*;
use crate::checksum::crc32c;
use crate::volume::DATA_BYTES_MAX;

/// An open catalogue. Immutable; share it by `Arc`.
pub struct Catalogue {
    bytes: Bytes,
    header: Header,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
struct Header {
    bucket_bits: u32,
    generation: u64,
    next_file: u64,
    total: u64,
    volumes: Section,
    files: Section,
    buckets: Section,
    entries: Section,
    sums: Section,
    sums_sum: u32,
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

    /// Keeps every page in memory from now on. Fails where the limit on locked memory is small: go on without, warn.
    pub fn lock(&self) -> std::io::Result<()> {
        match &self.bytes {
            Bytes::Mapped(map) => map.lock(),
            Bytes::Owned(_) => Ok(()),
        }
    }

    /// Reads every page, checks its checksum and every reference in it. Takes long for a large one: not for a worker.
    pub fn verify(&self) -> Result<(), CatalogueError> {
        self.verify_sums()?;
        self.verify_references()
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

    fn verify_sums(&self) -> Result<(), CatalogueError> {
        let bytes = self.bytes.all();
        let table = bytes.get(self.header.sums.offset..).unwrap_or_default();
        if crc32c(table) != self.header.sums_sum {
            return Err(CatalogueError::DamagedPage(page_of(self.header.sums.offset)));
        }
        let pages = bytes.get(PAGE..self.header.sums.offset).unwrap_or_default().chunks(PAGE);
        let (sums, _) = table.as_chunks::<4>();
        for ((page, sum), number) in pages.zip(sums).zip(1u64..) {
            if crc32c(page) != u32::from_le_bytes(*sum) {
                return Err(CatalogueError::DamagedPage(number));
            }
        }
        Ok(())
    }

    fn verify_references(&self) -> Result<(), CatalogueError> {
        let refuse = |what| Err(CatalogueError::Inconsistent(what));
        let volumes = u32::try_from(self.volume_count()).unwrap_or(u32::MAX);
        if self.files().any(|file| file.volume >= volumes || file.number >= self.next_file()) {
            return refuse("a file on an unknown volume or with a number past the next one");
        }
        if self.files().any(|file| file.data_bytes > DATA_BYTES_MAX) {
            return refuse("a file larger than any volume");
        }
        if self.entries().count() != self.entry_count() {
            return refuse("an entry of an unknown type");
        }
        let fits = |entry: Entry| {
            let end = entry.offset.checked_add(entry.bytes);
            self.file(entry.file).zip(end).is_some_and(|(file, end)| end <= file.data_bytes)
        };
        if !self.entries().all(fits) {
            return refuse("an entry outside its file");
        }
        let findable = self.entries().all(|entry| self.find(&entry.key) == Some(entry));
        if findable { Ok(()) } else { refuse("an entry that its bucket does not lead to") }
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

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::build::to_bytes;

    fn contents(count: u32) -> Contents {
        let entry = |index: u32| Entry {
            key: CatalogueKey::of_path(&index.to_le_bytes()),
            object: ObjectId::of(&index.to_be_bytes()),
            file: index % 3,
            offset: u64::from(index) * 4096,
            bytes: 4000,
            extension: Extension::ALL[usize::try_from(index % 3).unwrap()],
        };
        let file =
            |number| FileRecord { number, data_bytes: 1 << 40, volume: u32::try_from(number % 2).unwrap() };
        Contents {
            generation: 9,
            next_file: 3,
            volumes: vec![VolumeId([1; 16]), VolumeId([2; 16])],
            files: (0..3).map(file).collect(),
            entries: (0..count).map(entry).collect(),
        }
    }

    #[test]
    fn a_catalogue_reads_back_at_every_size() {
        for count in [0, 1, 2, 5, 100, 5000] {
            let expected = contents(count);
            let catalogue = Catalogue::from_bytes(to_bytes(expected.clone()).unwrap()).unwrap();
            catalogue.verify().unwrap();
            let oracle: BTreeMap<_, _> = expected.entries.iter().map(|entry| (entry.key, *entry)).collect();
            assert_eq!(catalogue.entry_count(), oracle.len());
            for (key, entry) in &oracle {
                assert_eq!(catalogue.find(key), Some(*entry));
            }
            assert_eq!(catalogue.find(&CatalogueKey::of_path(b"absent")), None);
            assert_eq!(catalogue.contents().files, expected.files);
        }
    }

    #[test]
    fn a_mapped_file_reads_like_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(generation_name(9));
        std::fs::write(&path, to_bytes(contents(100)).unwrap()).unwrap();
        let catalogue = Catalogue::open(&path).unwrap();
        catalogue.verify().unwrap();
        assert_eq!((catalogue.generation(), catalogue.entry_count()), (9, 100));
        assert_eq!(generation_of_name("0000000000000009"), Some(9));
        assert_eq!(generation_of_current(&current_bytes(9)).unwrap(), Some(9));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = to_bytes(contents(50)).unwrap();
        for index in (0..bytes.len()).filter(|index| *index < 200 || *index >= PAGE) {
            let mut wrong = bytes.clone();
            wrong[index] ^= 0x20;
            let noticed = Catalogue::from_bytes(wrong).and_then(|catalogue| catalogue.verify()).is_err();
            // Bytes of the header page behind the header are padding that nothing reads.
            assert!(noticed || (HEADER_BYTES..PAGE).contains(&index), "flip at {index}");
        }
    }

    #[test]
    fn a_wrong_catalogue_is_not_built() {
        let breakers: [fn(&mut Contents); 5] = [
            |c| c.entries[0].key = c.entries[1].key,
            |c| c.entries[0].file = 3,
            |c| c.entries[0].bytes = 1 << 41,
            |c| c.next_file = 2,
            |c| c.files[0].data_bytes = u64::MAX,
        ];
        for breaker in breakers {
            let mut contents = contents(5);
            breaker(&mut contents);
            assert!(to_bytes(contents).is_err());
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(mut header in proptest::collection::vec(any::<u8>(), 0..9000), count in 0u32..40) {
            let good = to_bytes(contents(count)).unwrap();
            for (to, from) in header.iter_mut().zip(&good).take(HEADER_BYTES) {
                *to = *from;
            }
            header.resize(good.len(), 7);
            if let Ok(catalogue) = Catalogue::from_bytes(header) {
                let verified = catalogue.verify();
                let found = catalogue.find(&CatalogueKey::of_path(b"x"));
                prop_assert!(verified.is_err() || found.is_none());
            }
        }
    }
}
