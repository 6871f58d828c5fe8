//! Catalogues of any size: entries that lead to files which are not there, for everything that asks how large one may be.

use content::catalogue::{Contents, Entry, FileRecord};
use content::id::{CatalogueKey, Extension, ObjectId};

const OBJECT_BYTES: u64 = 4096;

/// Adds `entries` entries in `files` files on the first volume, in no order; the same each time.
pub fn fill(contents: &mut Contents, entries: u32, files: u32) {
    let base = u32::try_from(contents.files.len()).expect("a catalogue has fewer than 2³² files");
    let each = entries.div_ceil(files.max(1));
    let data_bytes = u64::from(each) * OBJECT_BYTES;
    for _ in 0..files {
        contents.files.push(FileRecord { number: contents.next_file, data_bytes, volume: 0 });
        contents.next_file += 1;
    }
    contents.entries.reserve_exact(usize::try_from(entries).expect("a 64-bit machine"));
    contents.entries.extend((0..entries).map(|index| Entry {
        key: key(index.into()),
        object: object(index),
        file: base + index / each,
        offset: u64::from(index % each) * OBJECT_BYTES,
        bytes: OBJECT_BYTES - 96,
        extension: Extension::Mp4,
    }));
}

/// The key of the filler's entry `index`; of a number that is no entry's, a key that is not held.
pub fn key(index: u64) -> CatalogueKey {
    let (high, low) = (mix(index), mix(!index));
    CatalogueKey((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

fn object(index: u32) -> ObjectId {
    let mut bytes = [0; 32];
    for (part, seed) in bytes.chunks_exact_mut(8).zip(1u64..) {
        part.copy_from_slice(&mix(u64::from(index) << 8 | seed).to_le_bytes());
    }
    ObjectId::from_bytes(bytes)
}

/// splitmix64: every number to another, as if by chance.
pub fn mix(number: u64) -> u64 {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}
