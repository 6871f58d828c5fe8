//! What an agent finds under `incoming/` when it starts: records, trees and files that a kill, or rot, left behind.
//!
//! Input: a byte of flags (1: the tree is patched; 2: no file), a byte that chooses the object's size, six that patch the
//! tree; a line, the name of one more file; then the record (`$O` is the object's name, `$N` its size).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use content::checksum::PIECE_BYTES;
use content::id::ObjectId;
use content::tree::{Tree, TreeBuilder};
use content::volume::{INCOMING_FOLDER, file_name};
use fill_agent::incoming::{self, Partial};

const NUMBER: u64 = 9;
/// None, one and two pieces, and one byte more than a piece.
const SIZES: [usize; 5] = [0, 1, 5000, 262_145, 300_000];

thread_local! {
    /// By size: hashing the same zeros at every input would take most of the time.
    static OBJECTS: RefCell<BTreeMap<usize, (ObjectId, Vec<u8>)>> = RefCell::default();
    static VOLUME: RefCell<tempfile::TempDir> = RefCell::new(volume());
}

fn volume() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the run");
    fill_agent::volumes::open(folder.path(), None).expect("an empty folder becomes a volume");
    folder
}

pub fn run(data: &[u8]) {
    VOLUME.with_borrow(|volume| {
        check(volume.path(), data);
        incoming::discard(volume.path(), NUMBER).expect("the run's folder can be written");
    });
}

fn check(volume: &Path, mut data: &[u8]) {
    let [flags] = crate::take(&mut data);
    let size = SIZES[usize::from(u8::from_le_bytes(crate::take(&mut data))) % SIZES.len()];
    let patches: [u8; 6] = crate::take(&mut data);
    let (object, mut encoded) = object(size);
    if flags & 1 == 1 {
        crate::patch(&mut encoded, &patches);
    }
    let name = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let record = data.get(name.len() + 1..).unwrap_or_default();
    let numbers = [object.to_string(), size.to_string()];
    let record = crate::expand(record, &[(b"$O", numbers[0].as_bytes()), (b"$N", numbers[1].as_bytes())]);

    let folder = volume.join(INCOMING_FOLDER);
    let at = |extension: &str| folder.join(format!("{}.{extension}", file_name(NUMBER)));
    let put = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("the run's folder can be written");
    put(&at("obao"), &encoded);
    put(&at("json"), &record);
    if flags & 2 == 0 {
        put(&at("part"), b"");
    }
    let stray =
        std::str::from_utf8(name).ok().filter(|name| is_file_name(name)).map(|name| folder.join(name));
    if let Some(stray) = &stray {
        put(stray, b"stray");
    }

    let found = incoming::leftovers(volume).expect("the run's folder can be read");
    let expected = Partial { number: NUMBER, object, bytes: u64::try_from(size).expect("it is small") };
    match &found[..] {
        [] => {
            assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "what is of no use is removed")
        }
        // A record that counts leads to a tree that its object's name proves: only the real one can. An object of one piece
        // has no tree but its length: there the piece itself must prove it before it is kept.
        [one] if one.bytes <= PIECE_BYTES => assert_eq!(one.number, NUMBER),
        [one] => assert_eq!(one, &expected),
        _ => panic!("one record, {} downloads", found.len()),
    }
    let [one] = &found[..] else { return };
    let overwritten =
        stray.as_ref().is_some_and(|stray| [at("json"), at("obao"), at("part")].contains(stray));
    assert!(overwritten || stray.is_none_or(|stray| !stray.exists()), "a stray file stays");
    let tree = incoming::stored_tree(volume, NUMBER, one.object).expect("it was found");
    assert_eq!(tree.object_bytes(), one.bytes);
    goes_on(volume, one, object, tree);
}

/// What can go on starts from what is right: the file is all zeros, so only objects of zeros have any.
fn goes_on(volume: &Path, found: &Partial, zeros: ObjectId, tree: Tree) {
    let pieces = tree.piece_count();
    let file =
        incoming::open(volume, NUMBER, found.object, tree, None).expect("the run's folder can be written");
    assert!(file.verified() <= pieces);
    let whole = file.verified() == pieces && pieces > 0;
    assert!(
        !whole || found.object == self::object(usize::try_from(found.bytes).unwrap_or(0)).0,
        "a foreign object"
    );
    assert!(found.object == zeros || !whole || found.bytes <= PIECE_BYTES);
}

fn is_file_name(name: &str) -> bool {
    (1..=100).contains(&name.len()) && !name.contains(['/', '\0']) && name != "." && name != ".."
}

fn object(size: usize) -> (ObjectId, Vec<u8>) {
    OBJECTS.with_borrow_mut(|objects| {
        let made = objects.entry(size).or_insert_with(|| {
            let mut builder = TreeBuilder::new();
            builder.update(&vec![0; size]);
            builder.finish()
        });
        made.clone()
    })
}
