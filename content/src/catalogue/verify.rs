//! Proves a catalogue before it serves: every page by its checksum, every reference by one walk in the order of the file.
//!
//! A look-up of each key would prove the same and wait for memory ten million times. That every key is found follows from
//! what one walk sees: keys ascend strictly, and each entry is at its home or, behind that, right after the one before it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::file::{Catalogue, is_empty};
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
        let mut previous = None;
        let mut count = 0usize;
        // The first slot that the next entry may be at.
        let mut next = 0;
        for (place, slot) in self.slots(0).iter().enumerate() {
            if is_empty(slot) {
                if *slot != [0; SLOT_BYTES] {
                    return refuse("an empty slot that is not all zeros");
                }
                continue;
            }
            let Some(entry) = self.entry(place) else { return refuse("an entry of an unknown type") };
            let end = entry.offset.checked_add(entry.bytes);
            if self.file(entry.file).zip(end).is_none_or(|(file, end)| end > file.data_bytes) {
                return refuse("an entry outside its file");
            }
            let key = u128::from_be_bytes(entry.key.0);
            if previous.is_some_and(|previous| previous >= key) {
                return refuse("an entry whose key does not follow the one before it");
            }
            previous = Some(key);
            if place != home_of(&entry.key, self.header.homes).max(next) {
                return refuse("an entry that its key does not lead to");
            }
            next = place.saturating_add(1);
            count = count.saturating_add(1);
        }
        if count == self.entry_count() {
            Ok(())
        } else {
            refuse("another number of entries than its header says")
        }
    }
}

fn refuse(what: &'static str) -> Result<(), CatalogueError> {
    Err(CatalogueError::Inconsistent(what))
}
