//! Writes a catalogue, section after section, with no second copy of what it says. The input is ours: a wrong one is a
//! defect of the caller and is named as such.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use super::*;
use crate::checksum::crc32c;
use crate::volume::DATA_BYTES_MAX;

/// What is handed to the file at a time: large enough that calls cost nothing, small enough to stay in a core's cache.
const BATCH_BYTES: usize = 1 << 18;

/// Writes the file into `out`, which is empty and at its start. Sorts the entries; equal contents give equal bytes.
///
/// The header is written last. Beside `contents` it needs [`BATCH_BYTES`] and four bytes a page. Syncing is the caller's.
pub fn write(contents: &mut Contents, out: impl Write + Seek) -> Result<(), CatalogueError> {
    // Sorted already, as the agent's are, this is one pass.
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    check(contents)?;
    write_sections(contents, out).map_err(CatalogueError::Unwritable)
}

/// The bytes of the file: for small ones.
pub fn to_bytes(mut contents: Contents) -> Result<Vec<u8>, CatalogueError> {
    let mut out = Cursor::new(Vec::new());
    write(&mut contents, &mut out)?;
    Ok(out.into_inner())
}

fn write_sections(contents: &Contents, out: impl Write + Seek) -> io::Result<()> {
    let bits = bucket_bits(contents.entries.len());
    let mut pages = Pages::after_the_header(out)?;
    let volumes = pages.section(contents.volumes.iter().map(|id| id.0))?;
    let files = pages.section(contents.files.iter().map(encode_file))?;
    let buckets = pages.section(bucket_starts(&contents.entries, bits).map(u32::to_le_bytes))?;
    let entries = pages.section(contents.entries.iter().map(encode_entry))?;
    let table = sums_table(&pages.sums);
    pages.out.write_all(&table)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(CATALOGUE_FORMAT.to_le_bytes());
    header.extend(bits.to_le_bytes());
    let counts = [contents.volumes.len(), contents.files.len(), contents.entries.len()].map(wide);
    let offsets = [volumes, files, buckets, entries, pages.written].map(wide);
    let numbers = [contents.generation, contents.next_file, wide(pages.written + table.len())];
    numbers.iter().chain(&counts).chain(&offsets).for_each(|number| header.extend(number.to_le_bytes()));
    header.extend(crc32c(&table).to_le_bytes());
    let sum = crc32c(&header);
    header.extend(sum.to_le_bytes());
    pages.out.seek(SeekFrom::Start(0))?;
    pages.out.write_all(&header)?;
    pages.out.flush()
}

/// Hands records over in batches of whole pages, and checks each page's sum on the way.
struct Pages<W> {
    out: W,
    /// Below [`BATCH_BYTES`] and one record; of whole pages between two sections.
    batch: Vec<u8>,
    /// Into `out`.
    written: usize,
    /// Of each page from page 1 on.
    sums: Vec<u32>,
}

impl<W: Write> Pages<W> {
    fn after_the_header(mut out: W) -> io::Result<Self> {
        out.write_all(&[0; PAGE])?;
        Ok(Self { out, batch: Vec::with_capacity(BATCH_BYTES + PAGE), written: PAGE, sums: Vec::new() })
    }

    /// Records, and zeros to the next page; gives where the section starts.
    fn section<const N: usize>(&mut self, records: impl Iterator<Item = [u8; N]>) -> io::Result<usize> {
        let start = self.written;
        for record in records {
            self.batch.extend_from_slice(&record);
            if self.batch.len() >= BATCH_BYTES {
                self.hand_over()?;
            }
        }
        self.batch.resize(self.batch.len().next_multiple_of(PAGE), 0);
        self.hand_over()?;
        Ok(start)
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let whole = self.batch.len() - self.batch.len() % PAGE;
        self.sums.extend(self.batch[..whole].chunks(PAGE).map(crc32c));
        self.out.write_all(&self.batch[..whole])?;
        self.batch.drain(..whole);
        self.written += whole;
        Ok(())
    }
}

fn sums_table(sums: &[u32]) -> Vec<u8> {
    let mut table: Vec<_> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    table.resize(table.len().next_multiple_of(PAGE), 0);
    table
}

fn encode_file(file: &FileRecord) -> [u8; FILE_BYTES] {
    let mut record = [0; FILE_BYTES];
    record[..8].copy_from_slice(&file.number.to_le_bytes());
    record[8..16].copy_from_slice(&file.data_bytes.to_le_bytes());
    record[16..20].copy_from_slice(&file.volume.to_le_bytes());
    record
}

fn encode_entry(entry: &Entry) -> [u8; ENTRY_BYTES] {
    let mut record = [0; ENTRY_BYTES];
    record[..16].copy_from_slice(&entry.key.0);
    record[16..48].copy_from_slice(entry.object.as_bytes());
    record[48..56].copy_from_slice(&entry.offset.to_le_bytes());
    record[56..64].copy_from_slice(&entry.bytes.to_le_bytes());
    record[64..68].copy_from_slice(&entry.file.to_le_bytes());
    record[68..72].copy_from_slice(&extension_code(entry.extension).to_le_bytes());
    record
}

/// About four entries a bucket: a look-up reads one bucket and one or two cache lines of entries.
fn bucket_bits(entries: usize) -> u32 {
    let buckets = (entries / 4).max(1).next_power_of_two();
    buckets.trailing_zeros().min(BUCKET_BITS_MAX)
}

/// For each bucket, and one past the last, how many entries are in buckets before it. The entries are sorted.
fn bucket_starts(entries: &[Entry], bits: u32) -> impl Iterator<Item = u32> {
    let mut before = 0;
    (0..=1usize << bits).map(move |bucket| {
        let here = |entry: &Entry| bucket_of(&entry.key, bits) < bucket;
        before += entries[before..].iter().take_while(|entry| here(entry)).count();
        u32::try_from(before).expect("`check` refuses more than 2³² entries")
    })
}

fn check(contents: &Contents) -> Result<(), CatalogueError> {
    let refuse = |what| Err(CatalogueError::Inconsistent(what));
    if contents.entries.windows(2).any(|pair| pair[0].key == pair[1].key) {
        return refuse("two entries have the same key");
    }
    if u32::try_from(contents.entries.len()).is_err() || u32::try_from(contents.files.len()).is_err() {
        return refuse("more than 2³² entries or files");
    }
    let volumes = contents.volumes.len();
    if contents.files.iter().any(|file| usize::try_from(file.volume).is_ok_and(|volume| volume >= volumes)) {
        return refuse("a file on a volume that is not listed");
    }
    if contents.files.iter().any(|file| file.number >= contents.next_file) {
        return refuse("a file number that is not below the next one");
    }
    if contents.files.iter().any(|file| file.data_bytes > DATA_BYTES_MAX) {
        return refuse("a file larger than any volume");
    }
    let fits = |entry: &Entry| {
        let file = usize::try_from(entry.file).ok().and_then(|index| contents.files.get(index));
        let end = entry.offset.checked_add(entry.bytes);
        file.zip(end).is_some_and(|(file, end)| end <= file.data_bytes)
    };
    if contents.entries.iter().all(fits) { Ok(()) } else { refuse("an entry outside its file") }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("usize is at most 64 bits")
}
