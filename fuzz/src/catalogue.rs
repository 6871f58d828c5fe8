//! Catalogues: read unverified without a fault, and if verified then whole.
//!
//! Input: a byte of flags (1: the file follows as it is, else a small one is written and patched; 2: page sums and header
//! are made right again), three bytes that say what is written, then the file, or patches (`crate::patch`).

use content::catalogue::file::Catalogue;
use content::catalogue::{Contents, Entry, FileRecord, build};
use content::checksum::crc32c;
use content::id::{CatalogueKey, Extension, ObjectId};
use content::volume::VolumeId;

const PAGE: usize = 4096;

pub fn run(mut data: &[u8]) {
    let [flags, volumes, files, entries] = crate::take(&mut data);
    let mut bytes = if flags & 1 == 1 {
        data.to_vec()
    } else {
        let mut bytes =
            build::to_bytes(contents(volumes % 5, files % 40, entries)).expect("it is consistent");
        crate::patch(&mut bytes, data);
        bytes
    };
    if flags & 2 == 2 {
        reseal(&mut bytes);
    }
    let Ok(catalogue) = Catalogue::from_bytes(bytes) else { return };
    read_all(&catalogue, data);
    if catalogue.verify().is_ok() {
        check(&catalogue);
    }
}

/// The same for the same numbers; keys as spread as real ones, some close together.
pub fn contents(volumes: u8, files: u8, entries: u8) -> Contents {
    let volumes = volumes.max(1);
    let files = files.max(1);
    let record = |number: u8| FileRecord {
        number: u64::from(number),
        data_bytes: u64::from(number) * 5000 + 4096,
        volume: u32::from(number % volumes),
    };
    let entry = |number: u8| {
        let mut key = *CatalogueKey::of_path(&[number / 3]).0.first_chunk::<16>().expect("it has 16 bytes");
        key[15] = number;
        Entry {
            key: CatalogueKey(key),
            object: ObjectId::of(&[number]),
            file: u32::from(number % files),
            offset: u64::from(number % 2) * 4096,
            bytes: u64::from(number.is_multiple_of(2)),
            extension: Extension::ALL[usize::from(number % 3)],
        }
    };
    Contents {
        generation: 7,
        next_file: 300,
        volumes: (0..volumes).map(|number| VolumeId([number; 16])).collect(),
        files: (0..files).map(record).collect(),
        entries: (0..entries).map(entry).collect(),
    }
}

/// Makes every checksum right for what the header says is where, so that the checks behind them are reached.
fn reseal(bytes: &mut [u8]) {
    let Some(header) = bytes.first_chunk::<112>() else { return };
    let place = header[96..].first_chunk().expect("the header is longer");
    let sums = usize::try_from(u64::from_le_bytes(*place)).unwrap_or(usize::MAX);
    if sums <= bytes.len() {
        let table: Vec<u8> =
            bytes[..sums].chunks(PAGE).skip(1).flat_map(|page| crc32c(page).to_le_bytes()).collect();
        bytes[sums..].iter_mut().zip(table).for_each(|(old, new)| *old = new);
        let sum = crc32c(&bytes[sums..]).to_le_bytes();
        bytes[104..108].copy_from_slice(&sum);
    }
    let sum = crc32c(&bytes[..108]).to_le_bytes();
    bytes[108..112].copy_from_slice(&sum);
}

/// Whatever it says: this ends, and nothing panics.
fn read_all(catalogue: &Catalogue, data: &[u8]) {
    let mut key = [0; 16];
    key.iter_mut().zip(data.iter().rev()).for_each(|(to, from)| *to = *from);
    for first in 0..=255u8 {
        key[0] = first;
        if let Some(entry) = catalogue.find(&CatalogueKey(key)) {
            assert_eq!(entry.key.0, key);
        }
    }
    // How many of them the header counts, only the verified one has to say rightly: `check`.
    assert!(catalogue.entries().count() <= catalogue.slot_count());
    assert!(catalogue.files().count() <= catalogue.file_count());
    assert!(catalogue.volumes().count() <= catalogue.volume_count());
    for index in [u32::MAX, 1 << 20] {
        assert!(catalogue.file(index).is_none() && catalogue.volume(index).is_none());
    }
}

fn check(catalogue: &Catalogue) {
    for entry in catalogue.entries() {
        assert_eq!(catalogue.find(&entry.key), Some(entry));
        let file = catalogue.file(entry.file).expect("a verified entry's file is listed");
        assert!(entry.offset + entry.bytes <= file.data_bytes);
        assert!(catalogue.volume(file.volume).is_some());
    }
    // The next generation is made from it: it must be possible, and lose nothing.
    let contents = catalogue.contents();
    assert_eq!(
        (contents.entries.len(), contents.files.len()),
        (catalogue.entry_count(), catalogue.file_count())
    );
    let written = build::to_bytes(contents.clone()).expect("what is verified can be written");
    let again = Catalogue::from_bytes(written.clone()).expect("what is written can be read");
    again.verify().expect("and verified");
    assert_eq!(again.contents(), contents);
    assert_eq!(build::to_bytes(again.contents()).expect("it was"), written);
}
