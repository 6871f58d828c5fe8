//! What is written reads back; what is damaged or inconsistent is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::build::to_bytes;
use super::file::Catalogue;
use super::*;
use crate::checksum::crc32c;

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
fn a_file_reads_like_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(generation_name(9));
    std::fs::write(&path, to_bytes(contents(100)).unwrap()).unwrap();
    let mut prepared = 0;
    let catalogue = Catalogue::open_into(&path, |memory| prepared = memory.len()).unwrap();
    assert_eq!(prepared, catalogue.bytes().len());
    assert_eq!(catalogue.bytes(), std::fs::read(&path).unwrap());
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
    let breakers: [fn(&mut Contents); 7] = [
        |c| c.entries[0].offset = 4095,
        |c| c.entries[0].offset = 1 << 44,
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

/// Offset of each section, from the header.
fn sections(bytes: &[u8]) -> [usize; 4] {
    std::array::from_fn(|section| {
        let at = 72 + 8 * section;
        usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    })
}

/// Gives changed bytes sums that fit them, as a writer with a defect would.
fn seal(bytes: &mut [u8]) {
    let [.., sums] = sections(bytes);
    let table: Vec<u8> = bytes[PAGE..sums].chunks(PAGE).flat_map(|page| crc32c(page).to_le_bytes()).collect();
    bytes[sums..sums + table.len()].copy_from_slice(&table);
    let sum = crc32c(&bytes[sums..]);
    bytes[104..108].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32c(&bytes[..108]);
    bytes[108..112].copy_from_slice(&sum.to_le_bytes());
}

/// Refused with these words.
fn refused(bytes: Vec<u8>) -> String {
    let checked = Catalogue::from_bytes(bytes).and_then(|catalogue| catalogue.verify());
    checked.err().map(|cause| cause.to_string()).unwrap_or_default()
}

#[test]
fn every_planted_inconsistency_is_refused_though_its_sums_fit() {
    let good = to_bytes(contents(50)).unwrap();
    let [_, files, slots, sums] = sections(&good);
    let taken: Vec<_> = (slots..sums).step_by(SLOT_BYTES).filter(|at| good[at + 54] != EMPTY).collect();
    assert_eq!(taken.len(), 50);
    let put = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        seal(&mut bytes);
        bytes
    };
    assert_eq!(refused(put(0, b"OCA")), "", "the same bytes");
    let pair = taken.windows(2).find(|pair| pair[1] - pair[0] == SLOT_BYTES).unwrap();
    let slot = |at: usize| &good[at..at + SLOT_BYTES];
    let swapped = [slot(pair[1]), slot(pair[0])].concat();
    let empty =
        (slots..sums).step_by(SLOT_BYTES).find(|at| good[at + 54] == EMPTY && *at > taken[0]).unwrap();
    let before_it = empty - SLOT_BYTES;
    let late = [&[0; SLOT_BYTES], slot(before_it)].concat();
    let last = *taken.last().unwrap();
    let cases = [
        ("unknown volume", put(files + 16, &2u32.to_le_bytes())),
        ("past the next one", put(files, &3u64.to_le_bytes())),
        ("larger than any volume", put(files + 8, &u64::MAX.to_le_bytes())),
        ("unknown type", put(last + 54, &[9])),
        ("outside its file", put(taken[3] + 56, &3u32.to_le_bytes())),
        ("outside its file", put(taken[3] + 48, &(1u64 << 41).to_le_bytes()[..6])),
        ("outside its file", put(taken[3] + 60, &u32::MAX.to_le_bytes())),
        ("does not follow", put(pair[1], slot(pair[0]))),
        ("does not follow", put(pair[1], &slot(pair[0])[..16])),
        ("does not lead to", put(pair[0], &swapped)),
        ("does not lead to", put(taken[0], &[0x7f; 16])),
        ("does not lead to", put(before_it, &late)),
        ("not all zeros", put(empty, &[1])),
        ("another number of entries", put(last, &[0; SLOT_BYTES])),
    ];
    for (words, bytes) in cases {
        let said = refused(bytes);
        assert!(said.contains(words), "{words}: {said:?}");
    }
}

/// The slowest obvious reading: every entry is found under its key.
fn findable(catalogue: &Catalogue) -> bool {
    catalogue.entries().count() == catalogue.entry_count()
        && (0..catalogue.slot_count()).filter_map(|slot| catalogue.entry(slot)).eq(catalogue.entries())
        && catalogue.entries().all(|entry| catalogue.find(&entry.key) == Some(entry))
}

proptest! {
    #[test]
    fn what_verifies_is_findable(count in 0u32..60, changes in proptest::collection::vec((0usize..4000, 0u8..4), 0..4)) {
        let mut bytes = to_bytes(contents(count)).unwrap();
        let [_, _, slots, sums] = sections(&bytes);
        for (place, value) in changes {
            let at = slots + place % (sums - slots);
            bytes[at] = value;
        }
        seal(&mut bytes);
        let catalogue = Catalogue::from_bytes(bytes).unwrap();
        prop_assert!(catalogue.verify().is_err() || findable(&catalogue));
    }
}

#[test]
fn what_is_written_does_not_depend_on_the_order_of_the_entries() {
    let (forward, mut backward) = (contents(5000), contents(5000));
    backward.entries.reverse();
    assert_eq!(to_bytes(forward).unwrap(), to_bytes(backward).unwrap());
}

fn sorted(count: u32) -> Contents {
    let mut contents = contents(count);
    contents.entries.sort_unstable_by_key(|entry| entry.key);
    contents
}

#[test]
fn entries_in_another_order_are_refused() {
    let mut contents = sorted(3);
    contents.entries.swap(1, 2);
    assert!(build::write(&contents, std::io::Cursor::new(Vec::new())).is_err());
}

#[test]
fn a_disk_that_takes_no_more_is_told_as_such() {
    struct Full(std::io::Cursor<Vec<u8>>);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.position() > 8192 {
                Err(std::io::ErrorKind::StorageFull.into())
            } else {
                self.0.write(bytes)
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl std::io::Seek for Full {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let error = build::write(&sorted(5000), Full(std::io::Cursor::default())).unwrap_err();
    assert!(matches!(error, CatalogueError::Unwritable(_)), "{error}");
}
