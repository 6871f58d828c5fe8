//! What an agent finds under `incoming/` when it starts: records, trees and files that a kill, or rot, left behind.
//!
//! Input: a byte of flags (1: the tree is patched; 2: no file; 4: the record's seal is not put right; 8: the file waits for
//! its pack), a byte that chooses the object's size, six that patch the tree; a line, the name of one more file; then the
//! record (`$O` is the object's name, `$N` its size).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use content::checksum::PIECE_BYTES;
use content::id::ObjectId;
use content::seal::{seal, unseal};
use content::tree::{Tree, TreeBuilder};
use content::volume::{INCOMING_FOLDER, file_name};
use fill_agent::incoming::{self, Begun, Partial};
use serde_json::Value;

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
    fill_agent::volumes::open(folder.path(), None, false).expect("an empty folder becomes a volume");
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
    let record = if flags & 4 == 0 { seal([&record[..], b"\n"].concat()) } else { record };
    put(&at("json"), &record);
    if flags & 2 == 0 {
        put(&at(if flags & 8 == 0 { "part" } else { "ready" }), b"");
    }
    let stray =
        std::str::from_utf8(name).ok().filter(|name| is_file_name(name)).map(|name| folder.join(name));
    if let Some(stray) = &stray {
        put(stray, b"stray");
    }

    let found = incoming::leftovers(volume).expect("the run's folder can be read");
    let [one] = &found[..] else {
        assert!(found.is_empty(), "one record, {} downloads", found.len());
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "what is of no use is removed");
        return;
    };
    let said: Value = serde_json::from_slice(unseal(&record).expect("a record that counts is sealed"))
        .expect("a record that counts is JSON");
    // serde takes a struct's fields in order, too, without their names.
    let (of_object, of_bytes) =
        if said.is_array() { (&said[0], &said[1]) } else { (&said["object"], &said["bytes"]) };
    assert_eq!((one.number, of_bytes.as_u64()), (NUMBER, Some(one.bytes)));
    assert_eq!(of_object.as_str(), Some(&*one.object.to_string()));
    assert_eq!(one.ready, at("ready").exists());
    let overwritten = stray.as_ref().is_some_and(|stray| {
        ["json", "obao", "part", "ready"].iter().any(|extension| at(extension) == *stray)
    });
    assert!(overwritten || stray.is_none_or(|stray| !stray.exists()), "a stray file stays");
    // Without one, a source gives it again.
    if let Some(tree) = incoming::stored_tree(volume, NUMBER, one.object) {
        assert_eq!(tree.object_bytes(), one.bytes, "a tree of another length stays");
        goes_on(volume, one, object, tree);
    } else {
        assert!(!at("obao").exists(), "a rotten tree stays");
    }
}

/// What can go on starts from what is right: the file is all zeros, so only objects of zeros have any.
fn goes_on(volume: &Path, found: &Partial, zeros: ObjectId, tree: Tree) {
    let pieces = tree.piece_count();
    let begun = incoming::begin(volume, NUMBER, found.object, tree, None);
    let file = begun.and_then(Begun::recover).expect("the run's folder can be written");
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
