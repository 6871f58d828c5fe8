//! Writes a catalogue. The input is ours: a wrong one is a defect of the caller and is named as such.

use super::*;
use crate::checksum::crc32c;
use crate::volume::DATA_BYTES_MAX;

/// The bytes of the file. Sorts the entries; equal contents give equal bytes.
pub fn to_bytes(mut contents: Contents) -> Result<Vec<u8>, CatalogueError> {
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    check(&contents)?;
    let bits = bucket_bits(contents.entries.len());
    let mut out = vec![0; PAGE];
    let volumes = section(&mut out, contents.volumes.iter().map(|id| id.0));
    let files = section(&mut out, contents.files.iter().map(encode_file));
    let buckets = section(&mut out, bucket_table(&contents.entries, bits).into_iter().map(u32::to_le_bytes));
    let entries = section(&mut out, contents.entries.iter().map(encode_entry));
    let table = page_sums(&out);
    let sums = section(&mut out, table.into_iter().map(u32::to_le_bytes));
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC);
    header.extend(CATALOGUE_FORMAT.to_le_bytes());
    header.extend(bits.to_le_bytes());
    let counts = [contents.volumes.len(), contents.files.len(), contents.entries.len()].map(wide);
    let offsets = [volumes, files, buckets, entries, sums].map(wide);
    let numbers = [contents.generation, contents.next_file, wide(out.len())];
    numbers.iter().chain(&counts).chain(&offsets).for_each(|number| header.extend(number.to_le_bytes()));
    header.extend(crc32c(&out[sums..]).to_le_bytes());
    let sum = crc32c(&header);
    header.extend(sum.to_le_bytes());
    out[..header.len()].copy_from_slice(&header);
    Ok(out)
}

/// Appends records and zeros to the next page; gives where the section starts.
fn section<const N: usize>(out: &mut Vec<u8>, records: impl ExactSizeIterator<Item = [u8; N]>) -> usize {
    let start = out.len();
    out.reserve((records.len() * N).next_multiple_of(PAGE));
    records.for_each(|record| out.extend(record));
    out.resize(out.len().next_multiple_of(PAGE), 0);
    start
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

fn bucket_table(entries: &[Entry], bits: u32) -> Vec<u32> {
    let mut starts = vec![0u32; (1usize << bits) + 1];
    entries.iter().for_each(|entry| starts[bucket_of(&entry.key, bits) + 1] += 1);
    for bucket in 1..starts.len() {
        starts[bucket] += starts[bucket - 1];
    }
    starts
}

fn page_sums(out: &[u8]) -> Vec<u32> {
    out[PAGE..].chunks(PAGE).map(crc32c).collect()
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
