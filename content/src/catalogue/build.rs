//! Writes a catalogue, section after section, with no second copy of what it says. The input is ours: a wrong one is a
//! defect of the caller and is named as such.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use super::*;
use crate::checksum::crc32c;
use crate::volume::{ALIGNMENT_BYTES, DATA_BYTES_MAX};

/// What is handed to the file at a time: large enough that calls cost nothing, small enough to stay in a core's cache.
const BATCH_BYTES: usize = 1 << 18;

/// Writes the file into `out`, which is empty and at its start. The entries ascend by key; equal contents give equal bytes.
///
/// The header is written last. Beside `contents` it needs [`BATCH_BYTES`] and four bytes a page. Syncing is the caller's.
pub fn write(contents: &Contents, out: impl Write + Seek) -> Result<(), CatalogueError> {
    check(contents)?;
    write_sections(contents, out).map_err(CatalogueError::Unwritable)
}

/// The bytes of the file, whatever the order of the entries: for small ones.
pub fn to_bytes(mut contents: Contents) -> Result<Vec<u8>, CatalogueError> {
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    let mut out = Cursor::new(Vec::new());
    write(&contents, &mut out)?;
    Ok(out.into_inner())
}

fn write_sections(contents: &Contents, out: impl Write + Seek) -> io::Result<()> {
    let homes = homes_for(contents.entries.len());
    let slot_count = homes.max(places(&contents.entries, homes).last().map_or(0, |last| last + 1));
    let mut pages = Pages::after_the_header(out)?;
    let volumes = pages.section(contents.volumes.iter().map(|id| id.0))?;
    let files = pages.section(contents.files.iter().map(encode_file))?;
    let slots = pages.section(slots_of(&contents.entries, homes, slot_count))?;
    let table = sums_table(&pages.sums);
    pages.out.write_all(&table)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(CATALOGUE_FORMAT.to_le_bytes());
    header.extend([0; 4]);
    let counts = [&contents.volumes.len(), &contents.files.len(), &contents.entries.len(), &slot_count];
    let counts = counts.map(|count| wide(*count));
    let offsets = [volumes, files, slots, pages.written].map(wide);
    let numbers = [contents.generation, contents.next_file, wide(pages.written + table.len())];
    numbers.iter().chain(&counts).chain(&offsets).for_each(|number| header.extend(number.to_le_bytes()));
    header.extend(crc32c(&table).to_le_bytes());
    let sum = crc32c(&header);
    header.extend(sum.to_le_bytes());
    pages.out.seek(SeekFrom::Start(0))?;
    pages.out.write_all(&header)?;
    pages.out.flush()
}

/// The slot of each entry. They are sorted.
fn places(entries: &[Entry], homes: usize) -> impl Iterator<Item = usize> {
    let mut next = 0;
    entries.iter().map(move |entry| {
        let place = home_of(&entry.key, homes).max(next);
        next = place + 1;
        place
    })
}

/// Every slot in order, empty ones too.
fn slots_of(entries: &[Entry], homes: usize, count: usize) -> impl Iterator<Item = [u8; SLOT_BYTES]> {
    let mut placed = places(entries, homes).zip(entries).peekable();
    (0..count).map(move |slot| match placed.next_if(|(place, _)| *place == slot) {
        Some((_, entry)) => encode_entry(entry),
        None => [0; SLOT_BYTES],
    })
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

fn encode_entry(entry: &Entry) -> [u8; SLOT_BYTES] {
    let pages = u32::try_from(entry.offset / ALIGNMENT_BYTES).expect("`check` refuses a greater one");
    let mut slot = [0; SLOT_BYTES];
    slot[..16].copy_from_slice(&entry.key.0);
    slot[16..48].copy_from_slice(entry.object.as_bytes());
    slot[48..54].copy_from_slice(&entry.bytes.to_le_bytes()[..6]);
    slot[54] = extension_code(entry.extension);
    slot[56..60].copy_from_slice(&entry.file.to_le_bytes());
    slot[60..64].copy_from_slice(&pages.to_le_bytes());
    slot
}

fn check(contents: &Contents) -> Result<(), CatalogueError> {
    let refuse = |what| Err(CatalogueError::Inconsistent(what));
    if contents.entries.windows(2).any(|pair| pair[0].key >= pair[1].key) {
        return refuse("two entries have the same key, or are not in its order");
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
    // A slot has 48 bits for the length, which `DATA_BYTES_MAX` bounds, and 32 for the offset's pages.
    let aligned = |entry: &Entry| {
        entry.offset.is_multiple_of(ALIGNMENT_BYTES) && u32::try_from(entry.offset / ALIGNMENT_BYTES).is_ok()
    };
    if !contents.entries.iter().all(aligned) {
        return refuse("an entry that starts at no page, or past 16 TiB");
    }
    let fits = |entry: &Entry| {
        let file = usize::try_from(entry.file).ok().and_then(|index| contents.files.get(index));
        let end = entry.offset.checked_add(entry.bytes);
        file.zip(end).is_some_and(|(file, end)| end <= file.data_bytes && entry.bytes < DATA_BYTES_MAX)
    };
    if contents.entries.iter().all(fits) { Ok(()) } else { refuse("an entry outside its file") }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).expect("usize is at most 64 bits")
}
