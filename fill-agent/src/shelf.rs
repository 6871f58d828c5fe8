//! What this appliance holds: the files, the names that lead to them, and the files that nothing names any more. Pure.
//!
//! An object has a file of its own or, if it is small, a place in a pack. A file is in one of two places:
//!
//! ```text
//!   held   complete, verified, the catalogue's (or about to be); a pack: as long as one of its members is held
//!     │ the manifest drops it, the server withdraws it, its volume is lost
//!     v
//!   spare  complete; `last_generation` is the newest generation known to name it (0: none)
//!     │ wanted again and not condemned: checked in full, then held again
//!     └ else unlinked, as soon as the server uses only newer generations
//! ```
//!
//! A pack that the server withdraws stays held, condemned: what is good of it is copied to another (`core::pack`).
//!
//! A generation that cannot be read may name any file: until the server uses only newer ones, none is unlinked.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use content::catalogue::{Contents, Entry, FileRecord};
use content::control_socket::FileName;
use content::id::{CatalogueKey, Extension, ObjectId};
use content::pack::{Member, span_bytes};
use content::volume::VolumeId;

use crate::desired::Desired;
use crate::generations::Named;
use crate::plan::Held;
use crate::volumes::{Found, Stranger};

const FIRST: ObjectId = ObjectId::from_bytes([0; 32]);
const LAST: ObjectId = ObjectId::from_bytes([0xff; 32]);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    pub found: Found,
    pub data_bytes: u64,
    pub last_generation: u64,
    /// Never to be held again: the server found a bad block in it.
    pub condemned: bool,
}

/// A pack of which something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pack {
    pub uuid: VolumeId,
    pub data_bytes: u64,
    /// What the members that are held take up of it.
    pub live_bytes: u64,
    /// The server withdrew it.
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
    by_file: BTreeSet<(u64, ObjectId)>,
    /// By number.
    packs: BTreeMap<u64, Pack>,
    names: BTreeMap<CatalogueKey, Name>,
    spare: BTreeMap<FileName, Spare>,
    /// Which spare files say that they have an object, condemned ones left out.
    offers: BTreeSet<(ObjectId, FileName)>,
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
        // A pack's data end with its index: no member is as long as they are.
        let packed = entry.bytes != file.data_bytes;
        let packed_at = if packed { u32::try_from(entry.offset).ok() } else { None };
        if packed && packed_at.is_none() {
            self.changed = true;
            return;
        }
        let held = Held { uuid: name.uuid, file: name.file, bytes: entry.bytes, packed_at };
        if let MapEntry::Vacant(place) = self.held.entry(entry.object) {
            place.insert(held);
            self.by_file.insert((held.file, entry.object));
            if packed {
                self.open_pack(&name, file.data_bytes).live_bytes += span_bytes(entry.bytes);
            }
        }
        self.names.insert(entry.key, Name { object: entry.object, extension: entry.extension });
    }

    /// A file that some generation names is spare if nothing holds it.
    fn take_old(&mut self, generation: u64, file: &FileName) {
        self.next_file = self.next_file.max(file.file.saturating_add(1));
        if self.is_held(file) {
            return;
        }
        let new =
            Spare { found: Found::Unknown, data_bytes: 0, last_generation: generation, condemned: false };
        let spare = self.spare.entry(file.clone()).or_insert(new);
        spare.last_generation = spare.last_generation.max(generation);
    }

    pub fn held(&self) -> &BTreeMap<ObjectId, Held> {
        &self.held
    }

    pub fn packs(&self) -> &BTreeMap<u64, Pack> {
        &self.packs
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
        self.holders(file).next().is_some()
    }

    /// What is held in that file.
    pub fn holders(&self, file: &FileName) -> impl Iterator<Item = (ObjectId, Held)> {
        let uuid = file.uuid;
        let objects = self.by_file.range((file.file, FIRST)..=(file.file, LAST)).map(|(_, object)| *object);
        let held = objects.filter_map(|object| Some((object, *self.held.get(&object)?)));
        held.filter(move |(_, held)| held.uuid == uuid)
    }

    /// The files of a volume of which something is held: number and data bytes.
    pub fn files_on(&self, uuid: VolumeId) -> BTreeMap<u64, u64> {
        let here = self.held.values().filter(|held| held.uuid == uuid);
        let size = |held: &Held| self.packs.get(&held.file).map_or(held.bytes, |pack| pack.data_bytes);
        here.map(|held| (held.file, size(held))).collect()
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

    /// A file of its own came to be held: pulled, or a spare that was checked.
    pub fn hold(&mut self, object: ObjectId, held: Held) {
        self.forget_spare(&held.name());
        self.put(object, held);
    }

    /// Members of a pack came to be held: it was written, or is a spare that was checked. Without any, it is spare.
    pub fn hold_in_pack(&mut self, file: &FileName, data_bytes: u64, members: &[Member]) {
        let last_generation = self.spare.get(file).map_or(0, |spare| spare.last_generation);
        self.forget_spare(file);
        if members.is_empty() {
            let found = Found::Unknown;
            return self
                .add_spare(file.clone(), Spare { found, data_bytes, last_generation, condemned: false });
        }
        self.open_pack(file, data_bytes);
        for member in members {
            let (bytes, packed_at) = (u64::from(member.bytes), Some(member.offset));
            self.put(member.object, Held { uuid: file.uuid, file: file.file, bytes, packed_at });
        }
    }

    fn open_pack(&mut self, file: &FileName, data_bytes: u64) -> &mut Pack {
        let new = Pack { uuid: file.uuid, data_bytes, live_bytes: 0, condemned: false };
        self.packs.entry(file.file).or_insert(new)
    }

    fn put(&mut self, object: ObjectId, held: Held) {
        if self.held.get(&object) == Some(&held) {
            return;
        }
        if let Some(old) = self.held.insert(object, held) {
            self.by_file.remove(&(old.file, object));
            self.retire(object, old, false);
        }
        self.by_file.insert((held.file, object));
        if let Some(pack) = self.packs.get_mut(&held.file) {
            pack.live_bytes = pack.live_bytes.saturating_add(span_bytes(held.bytes));
        }
        self.changed = true;
    }

    pub fn release(&mut self, object: &ObjectId, condemned: bool) {
        if let Some(held) = self.held.remove(object) {
            self.by_file.remove(&(held.file, *object));
            self.retire(*object, held, condemned);
            self.changed = true;
        }
    }

    /// What was in `held.file` is not held there any more.
    fn retire(&mut self, object: ObjectId, held: Held, condemned: bool) {
        let last_generation = self.generation;
        let pack = self.packs.get_mut(&held.file).filter(|_| held.packed_at.is_some());
        let Some(pack) = pack else {
            let found = Found::Object(object);
            let spare = Spare { found, data_bytes: held.bytes, last_generation, condemned };
            return self.add_spare(held.name(), spare);
        };
        pack.live_bytes = pack.live_bytes.saturating_sub(span_bytes(held.bytes));
        let (data_bytes, condemned) = (pack.data_bytes, pack.condemned);
        if !self.is_held(&held.name()) {
            self.packs.remove(&held.file);
            let found = Found::Unknown;
            self.add_spare(held.name(), Spare { found, data_bytes, last_generation, condemned });
        }
    }

    /// The files that the server withdrew: an object's own is not held any more, a pack is to be rescued. Gives how many
    /// objects that concerns which it did not before.
    pub fn withdraw(&mut self, files: &[FileName]) -> usize {
        files.iter().map(|file| self.withdraw_one(file)).sum()
    }

    fn withdraw_one(&mut self, file: &FileName) -> usize {
        if let Some(pack) = self.packs.get_mut(&file.file).filter(|pack| pack.uuid == file.uuid) {
            let news = !std::mem::replace(&mut pack.condemned, true);
            return if news { self.holders(file).count() } else { 0 };
        }
        let objects: Vec<_> = self.holders(file).map(|(object, _)| object).collect();
        objects.iter().for_each(|object| self.release(object, true));
        self.condemn(file);
        objects.len()
    }

    /// A spare file that is never to be held again.
    pub fn condemn(&mut self, file: &FileName) {
        if let Some(mut spare) = self.forget_spare(file) {
            spare.condemned = true;
            self.add_spare(file.clone(), spare);
        }
    }

    /// Nothing in it is held any more, and never again.
    pub fn give_up(&mut self, file: &FileName) -> usize {
        if let Some(pack) = self.packs.get_mut(&file.file).filter(|pack| pack.uuid == file.uuid) {
            pack.condemned = true;
        }
        let objects: Vec<_> = self.holders(file).map(|(object, _)| object).collect();
        objects.iter().for_each(|object| self.release(object, true));
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
    pub fn found(&mut self, uuid: VolumeId, stranger: Stranger) {
        let file = FileName { uuid, file: stranger.number };
        self.numbers_above(file.file);
        if self.is_held(&file) {
            return;
        }
        // The same number on two volumes: a volume came back after its number was given away. Never hold the second.
        let twin = self.by_file.range((file.file, FIRST)..=(file.file, LAST)).next().is_some();
        let old = self.forget_spare(&file);
        let (last_generation, condemned) =
            old.map_or((0, twin), |old| (old.last_generation, old.condemned || twin));
        let Stranger { data_bytes, found, .. } = stranger;
        self.add_spare(file, Spare { found, data_bytes, last_generation, condemned });
    }

    /// A held file is not on its volume, or is not as long as it should be.
    pub fn missing(&mut self, file: &FileName) {
        self.give_up(file);
    }

    fn add_spare(&mut self, file: FileName, spare: Spare) {
        if !spare.condemned {
            self.offers.extend(spare.objects().map(|object| (object, file.clone())));
        }
        self.spare.insert(file, spare);
    }

    /// Drops what is spare of a volume from memory: it is gone, or held again.
    pub fn forget_spare(&mut self, file: &FileName) -> Option<Spare> {
        let spare = self.spare.remove(file)?;
        for object in spare.objects() {
            self.offers.remove(&(object, file.clone()));
        }
        Some(spare)
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
    pub fn adoptable(
        &self,
        object: &ObjectId,
        usable: impl Fn(VolumeId) -> bool,
    ) -> Option<(&FileName, &Spare)> {
        let first = FileName { uuid: VolumeId([0; 16]), file: 0 };
        let last = FileName { uuid: VolumeId([0xff; 16]), file: u64::MAX };
        let offers = self.offers.range((*object, first)..=(*object, last)).map(|(_, file)| file);
        let mut usable = offers.filter(|file| usable(file.uuid));
        usable.next().and_then(|file| Some((file, self.spare.get(file)?)))
    }

    /// What may be unlinked: spare, not waiting to be held again, and named only by generations older than the oldest
    /// that a request of the server still uses. `oldest_in_use` is None while the server does not answer or uses none.
    pub fn unlinkable(&self, oldest_in_use: Option<u64>, desired: &Desired) -> Vec<FileName> {
        let unused = |spare: &Spare| {
            let last = spare.last_generation.max(self.unreadable);
            last == 0 || oldest_in_use.is_some_and(|oldest| last < oldest)
        };
        let all = self.spare.iter().filter(|(_, spare)| unused(spare) && !self.is_awaited(spare, desired));
        all.map(|(file, _)| file.clone()).collect()
    }

    /// It may have what is wanted and not held.
    pub fn is_awaited(&self, spare: &Spare, desired: &Desired) -> bool {
        let awaited = |object: &ObjectId| desired.wants(object) && !self.holds(object);
        !spare.condemned && spare.objects().any(|object| awaited(&object))
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
        let held = || self.held.iter().filter(|(object, _)| named.contains(*object)).map(|(_, held)| held);
        let uuids: BTreeSet<_> = held().map(|held| held.uuid).collect();
        let volumes: Vec<_> = uuids.into_iter().collect();
        let volume_of = |uuid| volumes.binary_search(&uuid).ok().and_then(|index| u32::try_from(index).ok());
        let size = |held: &Held| self.packs.get(&held.file).map_or(held.bytes, |pack| pack.data_bytes);
        let files: BTreeMap<_, _> = held()
            .filter_map(|held| Some((held, volume_of(held.uuid)?)))
            .map(|(held, volume)| {
                (held.file, FileRecord { number: held.file, data_bytes: size(held), volume })
            })
            .collect();
        let index: BTreeMap<_, _> =
            (0u32..).zip(files.keys()).map(|(index, number)| (*number, index)).collect();
        let entry = |(key, name): (&CatalogueKey, &Name)| {
            let held = self.held.get(&name.object)?;
            let (object, extension, bytes) = (name.object, name.extension, held.bytes);
            let (file, offset) = (*index.get(&held.file)?, held.packed_at.map_or(0, u64::from));
            Some(Entry { key: *key, object, file, offset, bytes, extension })
        };
        let entries = self.names.iter().filter_map(entry).collect();
        let files = files.into_values().collect();
        Contents { generation: self.generation, next_file: self.next_file, volumes, files, entries }
    }
}

impl Spare {
    /// What it says that it has.
    fn objects(&self) -> impl Iterator<Item = ObjectId> {
        let (own, members) = match &self.found {
            Found::Object(object) => (Some(*object), &[][..]),
            Found::Pack(members) => (None, &members[..]),
            Found::Unknown => (None, &[][..]),
        };
        own.into_iter().chain(members.iter().map(|member| member.object))
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

    fn stranger(found: Found) -> Stranger {
        Stranger { number: STRANGER.file, data_bytes: 10_000, found }
    }

    fn member(seed: u8, offset: u32) -> Member {
        Member { object: ObjectId::of(&[seed]), offset, bytes: 5 }
    }

    fn names() -> (Desired, [ObjectId; 2]) {
        use crate::desired::Wanted;
        let objects = [member(1, 0).object, member(2, 0).object];
        let wanted = |object: &ObjectId| {
            let path = format!("/film/sd/{object}.vtt").parse().unwrap();
            (*object, Wanted { rank: 0, bytes: 5, paths: vec![(0, path)] })
        };
        (Desired { objects: objects.iter().map(wanted).collect(), ..Desired::default() }, objects)
    }

    #[test]
    fn members_are_named_by_their_place_and_a_catalogue_brings_them_back() {
        let (desired, objects) = names();
        let mut shelf = Shelf::default();
        shelf.align(&desired);
        shelf.hold_in_pack(&STRANGER, 9000, &[member(1, 0), member(2, 4096)]);
        let contents = shelf.next_generation(&Contents::default()).unwrap();
        assert_eq!(contents.files, [FileRecord { number: 4, data_bytes: 9000, volume: 0 }]);
        let mut offsets: Vec<_> = contents.entries.iter().map(|entry| entry.offset).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 4096]);
        let mut again = Shelf::new(&Contents { next_file: 9, ..contents }, &[]);
        assert_eq!((again.held(), again.packs()), (shelf.held(), shelf.packs()));
        assert_eq!(again.packs()[&4].live_bytes, 8192);
        assert_eq!(again.files_on(STRANGER.uuid), BTreeMap::from([(4, 9000)]));
        again.release(&objects[0], false);
        assert_eq!((again.packs()[&4].live_bytes, again.spare().len()), (4096, 0));
        again.release(&objects[1], false);
        assert!(again.packs().is_empty() && again.spare().contains_key(&STRANGER));
    }

    #[test]
    fn a_withdrawn_pack_is_condemned_once_and_keeps_its_members_until_it_is_given_up() {
        let (desired, objects) = names();
        let mut shelf = Shelf::default();
        shelf.align(&desired);
        shelf.hold_in_pack(&STRANGER, 9000, &[member(1, 0), member(2, 4096)]);
        assert_eq!([2, 0], [(), ()].map(|()| shelf.withdraw(&[STRANGER])));
        assert!(shelf.packs()[&4].condemned && objects.iter().all(|object| shelf.holds(object)));
        assert_eq!(shelf.give_up(&STRANGER), 2);
        assert!(shelf.spare()[&STRANGER].condemned && shelf.held().is_empty());
        shelf.found(STRANGER.uuid, stranger(Found::Pack([member(1, 0)].into())));
        assert!(shelf.adoptable(&objects[0], |_| true).is_none(), "condemned once is condemned for ever");
    }

    #[test]
    fn a_pack_that_was_found_stays_as_long_as_one_member_of_it_is_awaited() {
        let (desired, objects) = names();
        let mut shelf = Shelf::default();
        shelf.found(STRANGER.uuid, stranger(Found::Pack([member(9, 0), member(2, 4096)].into())));
        assert_eq!(shelf.adoptable(&objects[1], |_| true).map(|(file, _)| file), Some(&STRANGER));
        assert!(shelf.adoptable(&objects[1], |_| false).is_none());
        assert!(shelf.unlinkable(Some(9), &desired).is_empty());
        shelf.hold(objects[1], Held { uuid: STRANGER.uuid, file: 8, bytes: 5, packed_at: None });
        assert_eq!(shelf.unlinkable(Some(9), &desired), [STRANGER]);
    }

    /// Whether a file that nothing is known to name may be unlinked.
    fn goes(shelf: &Shelf, oldest_in_use: Option<u64>) -> bool {
        shelf.unlinkable(oldest_in_use, &Desired::default()) == [STRANGER]
    }

    #[test]
    fn a_stranger_stays_while_a_generation_that_cannot_be_read_may_name_it() {
        let mut shelf = Shelf::new(&Contents::default(), &[(2, Some(vec![])), (3, None)]);
        shelf.found(STRANGER.uuid, stranger(Found::Unknown));
        assert_eq!(
            [None, Some(2), Some(3), Some(4)].map(|oldest| goes(&shelf, oldest)),
            [false, false, false, true]
        );
    }

    #[test]
    fn a_stranger_stays_while_the_server_uses_a_generation_that_the_state_folder_lost() {
        let mut shelf = Shelf::new(&Contents::default(), &[(2, Some(vec![]))]);
        shelf.found(STRANGER.uuid, stranger(Found::Unknown));
        shelf.in_use(2);
        assert!(goes(&shelf, Some(2)), "it is known not to name it");
        shelf.in_use(7);
        assert!(!goes(&shelf, Some(7)));
        let next = shelf.next_generation(&Contents::default()).unwrap().generation;
        shelf.in_use(next);
        assert!(goes(&shelf, Some(next)));
    }
}
