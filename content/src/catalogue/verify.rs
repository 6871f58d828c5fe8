//! Proves a catalogue before it serves: every page by its checksum, every reference by one walk in the order of the file.
//!
//! A look-up of each key would prove the same and wait for memory 30 million times. That every key is found follows from
//! what one walk sees: keys ascend strictly, and each bucket starts at the first entry that is not below it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::file::Catalogue;
use super::*;
use crate::checksum::crc32c;
use crate::volume::DATA_BYTES_MAX;

impl Catalogue {
    /// Reads every page, checks its checksum and every reference in it. Takes long for a large one: not for a worker.
    pub fn verify(&self) -> Result<(), CatalogueError> {
        self.verify_sums()?;
        self.verify_files()?;
        self.verify_entries()
    }

    fn verify_sums(&self) -> Result<(), CatalogueError> {
        let (pages, table, first_page) = self.summed();
        if crc32c(table) != self.header.sums_sum {
            return Err(CatalogueError::DamagedPage(first_page));
        }
        let (sums, _) = table.as_chunks::<4>();
        for ((page, sum), number) in pages.chunks(PAGE).zip(sums).zip(1u64..) {
            if crc32c(page) != u32::from_le_bytes(*sum) {
                return Err(CatalogueError::DamagedPage(number));
            }
        }
        Ok(())
    }

    fn verify_files(&self) -> Result<(), CatalogueError> {
        let volumes = u32::try_from(self.volume_count()).unwrap_or(u32::MAX);
        for file in self.files() {
            if file.volume >= volumes || file.number >= self.next_file() {
                return refuse("a file on an unknown volume or with a number past the next one");
            }
            if file.data_bytes > DATA_BYTES_MAX {
                return refuse("a file larger than any volume");
            }
        }
        Ok(())
    }

    fn verify_entries(&self) -> Result<(), CatalogueError> {
        let mut starts = Starts { rest: self.bucket_table(), seen: 0 };
        let mut previous = None;
        for index in 0..self.entry_count() {
            let Some(entry) = self.entry(index) else { return refuse("an entry of an unknown type") };
            let end = entry.offset.checked_add(entry.bytes);
            if self.file(entry.file).zip(end).is_none_or(|(file, end)| end > file.data_bytes) {
                return refuse("an entry outside its file");
            }
            let key = u128::from_be_bytes(entry.key.0);
            if previous.is_some_and(|previous| previous >= key) {
                return refuse("an entry whose key does not follow the one before it");
            }
            previous = Some(key);
            if !starts.are(index, bucket_of(&entry.key, self.header.bucket_bits)) {
                return refuse("an entry that its bucket does not lead to");
            }
        }
        // Those past the last entry's, and the one that ends the table.
        let past_all = starts.rest.len().saturating_add(starts.seen);
        if starts.are(self.entry_count(), past_all) { Ok(()) } else { refuse("a bucket past the entries") }
    }
}

/// The part of the bucket table that the walk has not come to.
struct Starts<'a> {
    rest: &'a [[u8; 4]],
    /// Buckets before `rest`.
    seen: usize,
}

impl Starts<'_> {
    /// Whether all buckets up to this one that the walk has not come to start at this entry.
    fn are(&mut self, index: usize, bucket: usize) -> bool {
        while self.seen <= bucket {
            let Some((start, rest)) = self.rest.split_first() else { break };
            if usize::try_from(u32::from_le_bytes(*start)) != Ok(index) {
                return false;
            }
            self.rest = rest;
            self.seen = self.seen.saturating_add(1);
        }
        true
    }
}

fn refuse(what: &'static str) -> Result<(), CatalogueError> {
    Err(CatalogueError::Inconsistent(what))
}
