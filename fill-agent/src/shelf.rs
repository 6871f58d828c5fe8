//! What this appliance holds: the files, the names that lead to them, and the files that nothing names any more. Pure.
//!
//! A file is in one of two places:
//!
//! ```text
//!   held   complete, verified, the catalogue's (or about to be)
//!     │ the manifest drops it, the server withdraws it, its volume is lost
//!     v
//!   spare  complete; `last_generation` is the newest generation known to name it (0: none)
//!     │ wanted again and not condemned: checked in full, then held again
//!     └ else unlinked, as soon as the server uses only newer generations
//! ```
//!
//! A generation that cannot be read may name any file: until the server uses only newer ones, none is unlinked.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use content::catalogue::{Contents, Entry, FileRecord};
use content::control_socket::FileName;
use content::id::{CatalogueKey, Extension, ObjectId};
use content::volume::VolumeId;

use crate::desired::Desired;
use crate::generations::Named;
use crate::plan::Held;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// None: its trailer cannot be read, it is of no use.
    pub object: Option<ObjectId>,
    pub bytes: u64,
    pub last_generation: u64,
    /// Never to be held again: the server found a bad block in it.
    pub condemned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    object: ObjectId,
    extension: Extension,
}

#[derive(Clone, Debug, Default)]
pub struct Shelf {
    held: BTreeMap<ObjectId, Held>,
    /// The same, by the file's number, which is unique on an appliance.
    numbers: BTreeMap<u64, (VolumeId, ObjectId)>,
    names: BTreeMap<CatalogueKey, Name>,
    spare: BTreeMap<FileName, Spare>,
    /// The newest generation that exists, readable or not.
    generation: u64,
    /// Generations of earlier starts whose files are known; those of this start are all above `first`.
    readable: BTreeSet<u64>,
    first: u64,
    /// The newest generation of which it is not known what it names; 0: none.
    unreadable: u64,
    next_file: u64,
    changed: bool,
}

impl Shelf {
    /// From the catalogue that is served, and which files each other generation on the disk names.
    pub fn new(current: &Contents, others: &[(u64, Named)]) -> Self {
        let mut shelf = Self { next_file: current.next_file.max(1), ..Self::default() };
        shelf.generation =
            others.iter().map(|(generation, _)| *generation).fold(current.generation, u64::max);
        shelf.first = shelf.generation;
        shelf.readable.insert(current.generation);
        current.entries.iter().for_each(|entry| shelf.take_entry(current, entry));
        for (generation, files) in others {
            match files {
                Some(files) => {
                    shelf.readable.insert(*generation);
                    files.iter().for_each(|file| shelf.take_old(*generation, file));
                }
                None => shelf.unreadable = shelf.unreadable.max(*generation),
            }
        }
        let named: Vec<_> = current.files.iter().filter_map(|file| name_of(current, file)).collect();
        named.iter().for_each(|file| shelf.take_old(current.generation, file));
        shelf
    }

    fn take_entry(&mut self, contents: &Contents, entry: &Entry) {
        let file = usize::try_from(entry.file).ok().and_then(|index| contents.files.get(index));
        let Some((file, name)) = file.and_then(|file| Some((file, name_of(contents, file)?))) else { return };
        // Packs are not written yet; an entry inside one is pulled again as a file of its own.
        if entry.offset != 0 || entry.bytes != file.data_bytes {
            self.changed = true;
            return;
        }
        let held = Held { uuid: name.uuid, file: name.file, bytes: entry.bytes };
        if let MapEntry::Vacant(place) = self.held.entry(entry.object) {
            place.insert(held);
            self.numbers.insert(held.file, (held.uuid, entry.object));
        }
        self.names.insert(entry.key, Name { object: entry.object, extension: entry.extension });
    }

    /// A file that some generation names is spare if nothing holds it.
    fn take_old(&mut self, generation: u64, file: &FileName) {
        self.next_file = self.next_file.max(file.file.saturating_add(1));
        if self.is_held(file) {
            return;
        }
        let new = Spare { object: None, bytes: 0, last_generation: generation, condemned: false };
        let spare = self.spare.entry(file.clone()).or_insert(new);
        spare.last_generation = spare.last_generation.max(generation);
    }

    pub fn held(&self) -> &BTreeMap<ObjectId, Held> {
        &self.held
    }

    pub fn spare(&self) -> &BTreeMap<FileName, Spare> {
        &self.spare
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn holds(&self, object: &ObjectId) -> bool {
        self.held.contains_key(object)
    }

    pub fn is_held(&self, file: &FileName) -> bool {
        self.holder(file).is_some()
    }

    fn holder(&self, file: &FileName) -> Option<ObjectId> {
        self.numbers.get(&file.file).filter(|(uuid, _)| *uuid == file.uuid).map(|(_, object)| *object)
    }

    /// A number that no file has or had.
    pub fn take_number(&mut self) -> u64 {
        let number = self.next_file.max(1);
        self.next_file = number.saturating_add(1);
        number
    }

    /// What [`Shelf::take_number`] would give.
    pub fn next_file(&self) -> u64 {
        self.next_file.max(1)
    }

    pub fn numbers_above(&mut self, number: u64) {
        self.next_file = self.next_file.max(number.saturating_add(1));
    }

    /// A generation that the server says it uses; ours is never below. The state folder may have lost it.
    pub fn in_use(&mut self, generation: u64) {
        let ours = self.first < generation && generation <= self.generation;
        if generation != 0 && !ours && !self.readable.contains(&generation) {
            self.unreadable = self.unreadable.max(generation);
        }
        self.generation = self.generation.max(generation);
    }

    /// A file came to be held: pulled, or a spare that was checked.
    pub fn hold(&mut self, object: ObjectId, held: Held) {
        self.spare.remove(&held.name());
        if let Some(old) = self.held.insert(object, held).filter(|old| old.name() != held.name()) {
            self.retire(object, old, false);
        }
        self.numbers.insert(held.file, (held.uuid, object));
        self.changed = true;
    }

    pub fn release(&mut self, object: &ObjectId, condemned: bool) {
        if let Some(held) = self.held.remove(object) {
            self.retire(*object, held, condemned);
            self.changed = true;
        }
    }

    fn retire(&mut self, object: ObjectId, held: Held, condemned: bool) {
        self.numbers.remove(&held.file);
        let last_generation = self.generation;
        let spare = Spare { object: Some(object), bytes: held.bytes, last_generation, condemned };
        self.spare.insert(held.name(), spare);
    }

    /// The files that the server withdrew are not held any more. Gives how many were.
    pub fn withdraw(&mut self, files: &[FileName]) -> usize {
        let objects: Vec<_> = files.iter().filter_map(|file| self.holder(file)).collect();
        objects.iter().for_each(|object| self.release(object, true));
        for file in files {
            if let Some(spare) = self.spare.get_mut(file) {
                spare.condemned = true;
            }
        }
        objects.len()
    }

    /// Nothing on this volume is held any more. Gives how many objects were.
    pub fn lose_volume(&mut self, uuid: VolumeId) -> usize {
        let lost: Vec<_> =
            self.held.iter().filter(|(_, held)| held.uuid == uuid).map(|(id, _)| *id).collect();
        lost.iter().for_each(|object| self.release(object, false));
        lost.len()
    }

    /// A complete file was seen on a volume.
    pub fn found(&mut self, file: FileName, object: Option<ObjectId>, bytes: u64) {
        self.numbers_above(file.file);
        if self.is_held(&file) {
            return;
        }
        // The same number on two volumes: a volume came back after its number was given away. Never hold the second.
        let twin = self.numbers.contains_key(&file.file);
        let new = Spare { object, bytes, last_generation: 0, condemned: twin };
        let spare = self.spare.entry(file).or_insert(new);
        (spare.object, spare.bytes) = (object, bytes);
    }

    /// A held file is not on its volume, or is not as long as it should be.
    pub fn missing(&mut self, file: &FileName) {
        if let Some(object) = self.holder(file) {
            self.release(&object, true);
        }
    }

    /// Drops what is spare of a volume from memory: it is gone, or will be scanned anew.
    pub fn forget_spare(&mut self, file: &FileName) {
        self.spare.remove(file);
    }

    /// Names what the manifest asks for, and nothing else; lets go what it does not ask for.
    pub fn align(&mut self, desired: &Desired) {
        let names: BTreeMap<_, _> = desired
            .paths()
            .map(|(_, path)| (path.key(), Name { object: path.object, extension: path.extension }))
            .collect();
        if names != self.names {
            self.names = names;
            self.changed = true;
        }
        let unwanted: Vec<_> = self.held.keys().filter(|object| !desired.wants(object)).copied().collect();
        unwanted.iter().for_each(|object| self.release(object, false));
    }

    /// A spare file that may stand in for a download of this object, once it has been read and checked in full.
    pub fn adoptable(&self, object: &ObjectId, usable: impl Fn(VolumeId) -> bool) -> Option<Held> {
        let fits = |spare: &Spare| spare.object == Some(*object) && !spare.condemned;
        let mut found = self.spare.iter().filter(|(file, spare)| fits(spare) && usable(file.uuid));
        found.next().map(|(file, spare)| Held { uuid: file.uuid, file: file.file, bytes: spare.bytes })
    }

    /// What may be unlinked: spare, not waiting to be held again, and named only by generations older than the oldest
    /// that a request of the server still uses. `oldest_in_use` is None while the server does not answer or uses none.
    pub fn unlinkable(&self, oldest_in_use: Option<u64>, desired: &Desired) -> Vec<FileName> {
        let unused = |spare: &Spare| {
            let last = spare.last_generation.max(self.unreadable);
            last == 0 || oldest_in_use.is_some_and(|oldest| last < oldest)
        };
        let useless = |spare: &Spare| {
            let awaited = |object: &ObjectId| desired.wants(object) && !self.holds(object);
            spare.condemned || !spare.object.is_some_and(|object| awaited(&object))
        };
        let all = self.spare.iter().filter(|(_, spare)| unused(spare) && useless(spare));
        all.map(|(file, _)| file.clone()).collect()
    }

    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The next generation, if it would say anything else than `last`; counts it as published.
    pub fn next_generation(&mut self, last: &Contents) -> Option<Contents> {
        self.changed = false;
        let mut contents = self.contents();
        contents.entries.sort_unstable_by_key(|entry| entry.key);
        let same = contents.files == last.files
            && contents.volumes == last.volumes
            && contents.entries == last.entries
            && last.generation != 0;
        if same {
            return None;
        }
        self.generation = self.generation.saturating_add(1);
        contents.generation = self.generation;
        Some(contents)
    }

    /// The generation could not be written: try again.
    pub fn not_published(&mut self) {
        self.changed = true;
    }

    fn contents(&self) -> Contents {
        let named: BTreeSet<_> = self.names.values().map(|name| name.object).collect();
        let held = || self.held.iter().filter(|(object, _)| named.contains(*object));
        let uuids: BTreeSet<_> = held().map(|(_, held)| held.uuid).collect();
        let volumes: Vec<_> = uuids.into_iter().collect();
        let volume_of = |uuid| volumes.binary_search(&uuid).ok().and_then(|index| u32::try_from(index).ok());
        let mut files: Vec<_> = held()
            .filter_map(|(object, held)| Some((held, *object, volume_of(held.uuid)?)))
            .map(|(held, object, volume)| {
                (FileRecord { number: held.file, data_bytes: held.bytes, volume }, object)
            })
            .collect();
        files.sort_by_key(|(file, _)| file.number);
        let index: BTreeMap<_, _> =
            (0u32..).zip(&files).map(|(i, (file, object))| (*object, (i, file))).collect();
        let entry = |(key, name): (&CatalogueKey, &Name)| {
            let (file, record) = index.get(&name.object)?;
            let (object, extension, bytes) = (name.object, name.extension, record.data_bytes);
            Some(Entry { key: *key, object, file: *file, offset: 0, bytes, extension })
        };
        let entries = self.names.iter().filter_map(entry).collect();
        let files = files.iter().map(|(file, _)| *file).collect();
        Contents { generation: self.generation, next_file: self.next_file, volumes, files, entries }
    }
}

pub fn name_of(contents: &Contents, file: &FileRecord) -> Option<FileName> {
    let uuid = usize::try_from(file.volume).ok().and_then(|index| contents.volumes.get(index))?;
    Some(FileName { uuid: *uuid, file: file.number })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: FileName = FileName { uuid: VolumeId([1; 16]), file: 4 };

    /// Whether a file that nothing is known to name may be unlinked.
    fn goes(shelf: &Shelf, oldest_in_use: Option<u64>) -> bool {
        shelf.unlinkable(oldest_in_use, &Desired::default()) == [STRANGER]
    }

    #[test]
    fn a_stranger_stays_while_a_generation_that_cannot_be_read_may_name_it() {
        let mut shelf = Shelf::new(&Contents::default(), &[(2, Some(vec![])), (3, None)]);
        shelf.found(STRANGER, None, 10);
        assert_eq!(
            [None, Some(2), Some(3), Some(4)].map(|oldest| goes(&shelf, oldest)),
            [false, false, false, true]
        );
    }

    #[test]
    fn a_stranger_stays_while_the_server_uses_a_generation_that_the_state_folder_lost() {
        let mut shelf = Shelf::new(&Contents::default(), &[(2, Some(vec![]))]);
        shelf.found(STRANGER, None, 10);
        shelf.in_use(2);
        assert!(goes(&shelf, Some(2)), "it is known not to name it");
        shelf.in_use(7);
        assert!(!goes(&shelf, Some(7)));
        let next = shelf.next_generation(&Contents::default()).unwrap().generation;
        shelf.in_use(next);
        assert!(goes(&shelf, Some(next)));
    }
}
