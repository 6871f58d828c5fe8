//! What this server may serve now: the catalogue's generation, the token keys, the volumes, what was withdrawn.
//!
//! Shared by all threads and never locked on a request's way: a request loads the current generation and keeps it
//! until its last byte is sent, which is what keeps a generation "in use" (DESIGN §3). Opens no file: `generations`
//! loads them, `agent_socket` asks for it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use content::catalogue::file::Catalogue;
use content::catalogue::{Contents, Entry, FileRecord, build};
use content::id::{CatalogueKey, ObjectId};
use content::token::KeyRing;
use content::volume::VolumeId;

/// A volume of this server: its place in the configuration. `u16::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeIndex(pub u16);

const NO_VOLUME: u16 = u16::MAX;

/// A file on a volume of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileRef {
    pub volume: VolumeIndex,
    /// See `volume::file_name`.
    pub number: u64,
    pub data_bytes: u64,
}

/// What a look-up gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    At {
        entry: Entry,
        file: FileRef,
    },
    /// In the catalogue, but on a volume that this server does not have.
    VolumeAbsent,
    NotHeld,
}

/// One state of the catalogue, whole and verified.
pub struct Generation {
    pub catalogue: Catalogue,
    /// The catalogue's volume → this server's. A volume that was away at the start may come later.
    volumes: Box<[AtomicU16]>,
    /// Ascending by number.
    files: Box<[NamedFile]>,
}

/// A file's number, its place in the catalogue, and the place of the last entry in it; `NO_ENTRY`: there is none.
struct NamedFile {
    number: u64,
    place: u32,
    entry: u32,
}

const NO_ENTRY: u32 = u32::MAX;

impl Generation {
    fn new(catalogue: Catalogue, volumes: &[Volume]) -> Self {
        let count = catalogue.volume_count();
        let files = named_files(&catalogue);
        let volumes_here = (0..count).map(|_| AtomicU16::new(NO_VOLUME)).collect();
        let generation = Self { catalogue, volumes: volumes_here, files };
        generation.map_volumes(volumes);
        generation
    }

    fn map_volumes(&self, volumes: &[Volume]) {
        for (slot, uuid) in self.volumes.iter().zip(self.catalogue.volumes()) {
            let place = volumes.iter().position(|volume| volume.uuid.get() == Some(&uuid));
            let place = place.and_then(|place| u16::try_from(place).ok()).unwrap_or(NO_VOLUME);
            slot.store(place, Relaxed);
        }
    }

    pub fn number(&self) -> u64 {
        self.catalogue.generation()
    }

    /// Looks a path up; allocates nothing.
    pub fn find(&self, key: &CatalogueKey) -> Found {
        let Some(entry) = self.catalogue.find(key) else { return Found::NotHeld };
        let Some(record) = self.catalogue.file(entry.file) else { return Found::NotHeld };
        match self.volume(record.volume) {
            Some(volume) => {
                let file = FileRef { volume, number: record.number, data_bytes: record.data_bytes };
                Found::At { entry, file }
            }
            None => Found::VolumeAbsent,
        }
    }

    fn volume(&self, catalogue_volume: u32) -> Option<VolumeIndex> {
        let slot = self.volumes.get(usize::try_from(catalogue_volume).ok()?)?;
        let place = slot.load(Relaxed);
        (place != NO_VOLUME).then_some(VolumeIndex(place))
    }

    /// Whether that file on that volume is in the catalogue.
    pub fn names(&self, volume: VolumeIndex, number: u64) -> bool {
        self.named(volume, number).is_some()
    }

    /// An object in that file: in a file of one object, that one.
    fn object_in(&self, file: FileRef) -> Option<ObjectId> {
        let named = self.named(file.volume, file.number)?;
        self.catalogue.entry(usize::try_from(named.entry).ok()?).map(|entry| entry.object)
    }

    fn named(&self, volume: VolumeIndex, number: u64) -> Option<&NamedFile> {
        let first = self.files.partition_point(|file| file.number < number);
        let same = self.files.iter().skip(first).take_while(|file| file.number == number);
        let on = |file: &NamedFile| self.catalogue.file(file.place).and_then(|file| self.volume(file.volume));
        same.into_iter().find(|file| on(file) == Some(volume))
    }
}

fn named_files(catalogue: &Catalogue) -> Box<[NamedFile]> {
    let named = |(file, place): (FileRecord, u32)| NamedFile { number: file.number, place, entry: NO_ENTRY };
    let mut files: Vec<_> = catalogue.files().zip(0..).map(named).collect();
    for (slot, place) in (0..catalogue.slot_count()).zip(0..) {
        let Some(entry) = catalogue.entry(slot) else { continue };
        if let Some(file) = usize::try_from(entry.file).ok().and_then(|file| files.get_mut(file)) {
            file.entry = place;
        }
    }
    files.sort_unstable_by_key(|file| file.number);
    files.into_boxed_slice()
}

/// Whether anybody but the list uses the generation at this place. It cannot come into use again: only `current` is
/// given out, and that is the last.
fn in_use(published: &[Arc<Generation>], place: usize) -> bool {
    let last = place.saturating_add(1) == published.len();
    last || published.get(place).is_some_and(|generation| Arc::strong_count(generation) > 1)
}

/// A volume as the server sees it.
#[derive(Debug, Default)]
pub struct Volume {
    /// Unset until its `OCA-VOLUME` could be read.
    uuid: OnceLock<VolumeId>,
    /// Its folder and marker are there: `volume_watch` says so.
    absent: AtomicBool,
    /// Reads fail too often: its disk thread says so.
    failing: AtomicBool,
}

impl Volume {
    /// None: it was not there at the start.
    pub fn new(uuid: Option<VolumeId>) -> Self {
        let volume = Self::default();
        volume.absent.store(uuid.is_none(), Relaxed);
        if let Some(uuid) = uuid {
            volume.uuid.get_or_init(|| uuid);
        }
        volume
    }
}

pub struct Holdings {
    current: ArcSwap<Generation>,
    /// Every generation that may still be used, in the order of publication; the last is `current`. Each is held here
    /// too, so that no request's end is what unmaps hundreds of megabytes: [`Holdings::take_unused`] is for that.
    published: Mutex<Vec<Arc<Generation>>>,
    keys: ArcSwap<KeyRing>,
    draining: AtomicBool,
    volumes: Vec<Volume>,
    withdrawn: ArcSwap<BTreeSet<(VolumeIndex, u64)>>,
}

impl Holdings {
    /// Without a catalogue: generation 0, which holds nothing.
    pub fn new(volumes: Vec<Volume>) -> Self {
        let empty = build::to_bytes(Contents::default()).and_then(Catalogue::from_bytes);
        let empty = empty.expect("a catalogue of nothing is built and read by the same library");
        let current = Arc::new(Generation::new(empty, &volumes));
        Self {
            published: Mutex::new(vec![Arc::clone(&current)]),
            current: ArcSwap::new(current),
            keys: ArcSwap::default(),
            draining: AtomicBool::new(false),
            volumes,
            withdrawn: ArcSwap::default(),
        }
    }

    /// What new requests see. Hold it as long as the request lives, and no longer.
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    pub fn keys(&self) -> Arc<KeyRing> {
        self.keys.load_full()
    }

    pub fn set_keys(&self, keys: KeyRing) {
        self.keys.store(Arc::new(keys));
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub fn set_draining(&self, on: bool) {
        self.draining.store(on, Relaxed);
    }

    /// Serves a verified catalogue from now on.
    pub fn publish(&self, catalogue: Catalogue) {
        let generation = Arc::new(Generation::new(catalogue, &self.volumes));
        let mut published = self.published();
        published.push(Arc::clone(&generation));
        self.forget_refilled(&generation);
        self.current.store(generation);
    }

    /// What only older generations name may be unlinked.
    pub fn oldest_in_use(&self) -> u64 {
        let published = self.published();
        let used = published.iter().enumerate().filter(|(place, _)| in_use(&published, *place));
        used.map(|(_, generation)| generation.number()).min().unwrap_or_else(|| self.current().number())
    }

    /// Generations that nobody uses any more. Dropping them takes long: not for a worker.
    pub fn take_unused(&self) -> Vec<Arc<Generation>> {
        let mut published = self.published();
        let used: Vec<_> = (0..published.len()).map(|place| in_use(&published, place)).collect();
        let (used, unused) = published.drain(..).zip(used).partition::<Vec<_>, _>(|(_, used)| *used);
        published.extend(used.into_iter().map(|(generation, _)| generation));
        unused.into_iter().map(|(generation, _)| generation).collect()
    }

    /// An object in the file (of one that holds one object: that one), as the newest generation in use that names the
    /// file says. None: nobody can want it any more. Takes a lock: not for a request's way.
    pub fn object_in(&self, file: FileRef) -> Option<ObjectId> {
        let published = self.published();
        let mut used = (0..published.len()).rev().filter(|place| in_use(&published, *place));
        used.find_map(|place| published.get(place)?.object_in(file))
    }

    /// Has a bad block: not served again. A refill is a new file (DESIGN §3). One that is not held any more may have
    /// been unlinked in the middle of a late read: it is nobody's to refill.
    pub fn withdraw(&self, file: FileRef) {
        // So that no publication comes between the look and the entry, which then would stay.
        let _published = self.published();
        if self.current().names(file.volume, file.number) {
            self.change_withdrawn(|set| {
                set.insert((file.volume, file.number));
            });
        }
    }

    fn published(&self) -> MutexGuard<'_, Vec<Arc<Generation>>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_withdrawn(&self, file: FileRef) -> bool {
        self.withdrawn.load().contains(&(file.volume, file.number))
    }

    /// Withdrawn files, as the agent knows them.
    pub fn withdrawn(&self) -> Vec<(VolumeId, u64)> {
        let set = self.withdrawn.load();
        set.iter().filter_map(|(volume, number)| Some((self.volume_id(*volume)?, *number))).collect()
    }

    /// A file that the new generation does not name any more need not be remembered: numbers are never used again.
    fn forget_refilled(&self, generation: &Generation) {
        if !self.withdrawn.load().is_empty() {
            self.change_withdrawn(|set| set.retain(|(volume, number)| generation.names(*volume, *number)));
        }
    }

    fn change_withdrawn(&self, change: impl Fn(&mut BTreeSet<(VolumeIndex, u64)>)) {
        self.withdrawn.rcu(|set| {
            let mut set = BTreeSet::clone(set);
            change(&mut set);
            set
        });
    }

    pub fn volume_count(&self) -> usize {
        self.volumes.len()
    }

    pub fn volume_id(&self, volume: VolumeIndex) -> Option<VolumeId> {
        self.volume(volume)?.uuid.get().copied()
    }

    /// Whether it may be read from.
    pub fn volume_usable(&self, volume: VolumeIndex) -> bool {
        let usable = |volume: &Volume| !volume.absent.load(Relaxed) && !volume.failing.load(Relaxed);
        self.volume(volume).is_some_and(usable)
    }

    /// Whether its marker was there when last looked at.
    pub fn volume_present(&self, volume: VolumeIndex) -> bool {
        self.volume(volume).is_some_and(|volume| !volume.absent.load(Relaxed))
    }

    /// The disk thread's word: reads fail too often, or work again.
    pub fn set_volume_usable(&self, volume: VolumeIndex, usable: bool) {
        if let Some(volume) = self.volume(volume) {
            volume.failing.store(!usable, Relaxed);
        }
    }

    /// The watch's word: what its marker says, or that there is none. A volume that is there with another uuid
    /// than before is not the one that the catalogue means.
    pub fn set_volume_present(&self, index: VolumeIndex, uuid: Option<VolumeId>) {
        let Some(volume) = self.volume(index) else { return };
        let known = uuid.map(|uuid| (*volume.uuid.get_or_init(|| uuid), uuid));
        volume.absent.store(known.is_none_or(|(before, now)| before != now), Relaxed);
        if known.is_some() {
            self.current().map_volumes(&self.volumes);
        }
    }

    fn volume(&self, volume: VolumeIndex) -> Option<&Volume> {
        self.volumes.get(usize::from(volume.0))
    }
}

#[cfg(test)]
mod tests {
    use content::id::Extension;

    use super::*;

    const KEY: CatalogueKey = CatalogueKey([1; 16]);

    /// Holds one object in the file of that number.
    fn catalogue(generation: u64, number: u64) -> Catalogue {
        let object = ObjectId::of(b"x");
        let entry = Entry { key: KEY, object, file: 0, offset: 0, bytes: 1, extension: Extension::Mp4 };
        let contents = Contents {
            generation,
            next_file: 100,
            volumes: vec![VolumeId([9; 16])],
            files: vec![FileRecord { number, data_bytes: 1, volume: 0 }],
            entries: vec![entry],
        };
        Catalogue::from_bytes(build::to_bytes(contents).unwrap()).unwrap()
    }

    fn holdings() -> Holdings {
        Holdings::new(vec![Volume::new(Some(VolumeId([9; 16])))])
    }

    fn file(number: u64) -> FileRef {
        FileRef { volume: VolumeIndex(0), number, data_bytes: 1 }
    }

    #[test]
    fn a_generation_is_in_use_as_long_as_a_request_holds_it() {
        let holdings = holdings();
        assert_eq!((holdings.current().number(), holdings.oldest_in_use()), (0, 0));
        holdings.publish(catalogue(1, 1));
        let request = holdings.current();
        assert_eq!(holdings.oldest_in_use(), 1);
        holdings.publish(catalogue(2, 1));
        holdings.publish(catalogue(3, 1));
        assert_eq!((holdings.current().number(), holdings.oldest_in_use()), (3, 1));
        let later = holdings.current();
        drop(request);
        assert_eq!(holdings.oldest_in_use(), 3);
        drop(later);
        assert_eq!(holdings.oldest_in_use(), 3);
    }

    #[test]
    fn the_end_of_a_request_never_frees_a_generation() {
        let holdings = holdings();
        holdings.publish(catalogue(1, 1));
        let request = holdings.current();
        let freed = Arc::downgrade(&request);
        holdings.publish(catalogue(2, 1));
        let numbers =
            |unused: &[Arc<Generation>]| unused.iter().map(|unused| unused.number()).collect::<Vec<_>>();
        assert_eq!(numbers(&holdings.take_unused()), [0]);
        drop(request);
        assert!(freed.upgrade().is_some());
        assert_eq!(numbers(&holdings.take_unused()), [1]);
        assert!(freed.upgrade().is_none() && holdings.take_unused().is_empty());
    }

    #[test]
    fn a_withdrawn_file_stays_so_until_a_generation_no_longer_names_it() {
        let holdings = holdings();
        holdings.publish(catalogue(1, 7));
        holdings.withdraw(file(7));
        holdings.withdraw(file(7));
        assert_eq!(holdings.withdrawn(), vec![(VolumeId([9; 16]), 7)]);
        holdings.publish(catalogue(2, 7));
        assert!(holdings.is_withdrawn(file(7)) && !holdings.is_withdrawn(file(8)));
        holdings.publish(catalogue(3, 8));
        assert!(!holdings.is_withdrawn(file(7)));
        // A late read's word.
        holdings.withdraw(file(7));
        assert!(holdings.withdrawn().is_empty());
    }

    #[test]
    fn a_file_is_named_as_long_as_a_request_holds_a_generation_that_does() {
        let holdings = holdings();
        holdings.publish(catalogue(1, 7));
        let request = holdings.current();
        holdings.publish(catalogue(2, 8));
        let object = Some(ObjectId::of(b"x"));
        assert_eq!([7, 8, 9].map(|number| holdings.object_in(file(number))), [object, object, None]);
        drop(request);
        assert_eq!([7, 8, 9].map(|number| holdings.object_in(file(number))), [None, object, None]);
        assert_eq!(holdings.object_in(FileRef { volume: VolumeIndex(1), ..file(8) }), None);
    }

    #[test]
    fn a_volume_that_comes_later_is_found_without_a_new_generation() {
        let holdings = Holdings::new(vec![Volume::new(None)]);
        holdings.publish(catalogue(1, 7));
        assert_eq!(holdings.current().find(&KEY), Found::VolumeAbsent);
        assert_eq!(holdings.current().find(&CatalogueKey([2; 16])), Found::NotHeld);
        holdings.set_volume_present(VolumeIndex(0), Some(VolumeId([9; 16])));
        let Found::At { file: found, .. } = holdings.current().find(&KEY) else { panic!("not found") };
        assert_eq!(found, file(7));
        assert!(holdings.volume_usable(VolumeIndex(0)) && !holdings.volume_usable(VolumeIndex(1)));
    }

    #[test]
    fn generations_swap_while_requests_run_and_none_is_lost() {
        let holdings = holdings();
        holdings.publish(catalogue(1, 1));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let generation = holdings.current();
                        assert!(holdings.oldest_in_use() <= generation.number());
                        assert!(matches!(generation.find(&KEY), Found::At { .. }));
                    }
                });
            }
            (2..200).for_each(|number| {
                holdings.publish(catalogue(number, number.min(50)));
                drop(holdings.take_unused());
            });
        });
        assert_eq!(holdings.oldest_in_use(), 199);
    }
}
