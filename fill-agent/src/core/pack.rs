//! When small objects are sealed into packs, and when packs are written anew.
//!
//! ```text
//!   pulled ──> ready ──seal──> member ──dropped──> dead in its pack ──over half are──> rewritten without it
//!                 │               └──the pack is withdrawn──> rescued: the good to a new pack, the bad pulled again
//!                 └ not wanted any more: discarded
//! ```
//!
//! A pack is sealed when [`Settings::pack_bytes`] are ready on a volume, or when a publication is due and anything is
//! ready. A volume has one pack in work at a time.
//!
//! **Small packs.** Each publication would leave one. So whoever writes a pack takes packs of the volume along: of those
//! under half a pack, the smallest first, while the pack's *class* (the binary logarithm of its live pages) is not above
//! that of what was gathered so far. Then no class is left twice: a volume has at most 14 packs under half of 64 MiB.
//! Each time a member is copied so, its pack's class rises, so that it is copied at most 13 times, however many
//! publications there are. Rewriting a half-dead pack copies less than it frees.

use std::collections::{BTreeMap, BTreeSet};

use content::control_socket::FileName;
use content::id::ObjectId;
use content::pack::{Member, span_bytes};
use content::volume::VolumeId;

use super::{Action, Core, Retry};
use crate::clock::Now;
use crate::download::{PackCheck, PackFault};
use crate::incoming::Partial;
use crate::packing::{Checked, PackJob, Packed, Source, SourceAt};
use crate::plan::{Held, pack_share};
use crate::shelf::Pack;
use crate::volumes::Found;

#[derive(Debug, Default)]
pub(super) struct State {
    /// Pulled, whole, not in a pack yet.
    ready: BTreeMap<ObjectId, (VolumeId, Partial)>,
    /// By volume: the pack that is being written or read.
    work: BTreeMap<VolumeId, Work>,
    retry: BTreeMap<VolumeId, Retry>,
    /// Sealed since the last publication.
    flushed: BTreeSet<VolumeId>,
    /// It was said that there is no room to write a half-dead pack anew.
    no_room: BTreeSet<VolumeId>,
    /// Found, and not to be served as they are: their good members are to be copied.
    unsound: BTreeSet<FileName>,
}

#[derive(Debug)]
enum Work {
    Write { to: FileName, sources: Vec<Source>, why: Why },
    Check { at: FileName, data_bytes: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Objects are ready.
    Seal,
    /// More than half of it is dead.
    Rewrite,
    /// It was withdrawn, or found unsound.
    Rescue,
}

impl State {
    pub fn is_ready(&self, object: &ObjectId) -> bool {
        self.ready.contains_key(object)
    }

    /// Bytes of the packs that the ready objects of a volume will be in.
    pub fn reserved(&self, uuid: VolumeId) -> u64 {
        let here = self.ready.values().filter(|(on, _)| *on == uuid);
        here.map(|(_, partial)| pack_share(partial.bytes)).sum()
    }

    pub fn forget_volume(&mut self, uuid: VolumeId) {
        self.ready.retain(|_, (on, _)| *on != uuid);
        self.unsound.retain(|file| file.uuid != uuid);
    }

    /// The file is written, read or copied from.
    pub fn is_in_work(&self, file: &FileName) -> bool {
        self.work.get(&file.uuid).is_some_and(|work| match work {
            Work::Write { to, sources, .. } => {
                let from = |source: &Source| matches!(source.at, SourceAt::Pack { number, .. } if number == file.file);
                to == file || sources.iter().any(from)
            }
            Work::Check { at, .. } => at == file,
        })
    }

    /// Nothing is ready that a publication should wait for, and nothing is being sealed.
    fn is_flushed(&self, waits_for: impl Fn(VolumeId) -> bool) -> bool {
        let waiting = self.ready.values().any(|(uuid, _)| waits_for(*uuid) && !self.flushed.contains(uuid));
        let seals = |work: &Work| matches!(work, Work::Write { why: Why::Seal, .. });
        !waiting && !self.work.values().any(seals)
    }

    /// Packs that were found are being read: more will be held soon.
    pub fn is_checking(&self) -> bool {
        self.work.values().any(|work| matches!(work, Work::Check { .. }))
    }

    fn is_source(&self, object: &ObjectId) -> bool {
        self.work.values().any(|work| match work {
            Work::Write { sources, .. } => sources.iter().any(|source| source.object == *object),
            Work::Check { .. } => false,
        })
    }
}

impl Core {
    /// `flush`: a publication is due.
    pub(super) fn drive_packs(&mut self, flush: bool, now: Now, actions: &mut Vec<Action>) {
        if !self.volumes.ready || self.control.desired.is_none() {
            return;
        }
        for uuid in self.volumes.writable() {
            let waits = self.pack.retry.get(&uuid).is_some_and(|retry| !retry.ready(now));
            if waits || self.pack.work.contains_key(&uuid) {
                continue;
            }
            if let Some(action) = self.next_pack(uuid, flush) {
                actions.push(action);
            }
        }
    }

    /// Whether what is ready is in packs, as far as can be: then the next generation may be made.
    pub(super) fn packs_are_flushed(&self, now: Now) -> bool {
        let able = |uuid: VolumeId| {
            let waits = self.pack.retry.get(&uuid).is_some_and(|retry| !retry.ready(now));
            !waits && self.volumes.slot_of(uuid).is_some()
        };
        self.pack.is_flushed(able)
    }

    /// A second one, from a volume that came back, is of no use.
    pub(super) fn put_ready(&mut self, uuid: VolumeId, partial: Partial) {
        if self.pack.is_ready(&partial.object) {
            return self.fill.discard_later(FileName { uuid, file: partial.number });
        }
        self.pack.ready.insert(partial.object, (uuid, partial));
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.pack.ready.is_empty()
    }

    pub(super) fn published_packs(&mut self) {
        self.pack.flushed.clear();
    }

    /// What serves viewers soonest comes first.
    fn next_pack(&mut self, uuid: VolumeId, flush: bool) -> Option<Action> {
        if let Some(sources) = self.rescue_sources(uuid) {
            return self.begin_pack(uuid, sources, Why::Rescue);
        }
        let flush = flush && !self.pack.flushed.contains(&uuid);
        if flush {
            self.pack.flushed.insert(uuid);
            let ready = self.ready_sources(uuid);
            if !ready.is_empty() {
                let sources = self.with_small_packs(uuid, ready, &[]);
                return self.begin_pack(uuid, sources, Why::Seal);
            }
        }
        if let Some(check) = self.next_check(uuid) {
            return self.begin_check(uuid, check);
        }
        let ready = self.ready_sources(uuid);
        if bytes_of(&ready) >= self.settings.pack_bytes {
            let sources = self.with_small_packs(uuid, ready, &[]);
            return self.begin_pack(uuid, sources, Why::Seal);
        }
        let dead = self.half_dead(uuid)?;
        let sources = self.members_of(&FileName { uuid, file: dead });
        let sources = self.with_small_packs(uuid, sources, &[dead]);
        self.begin_pack(uuid, sources, Why::Rewrite)
    }

    fn begin_pack(&mut self, uuid: VolumeId, sources: Vec<Source>, why: Why) -> Option<Action> {
        let volume = self.volume_path(uuid)?;
        let to = FileName { uuid, file: self.shelf.take_number() };
        let job = PackJob { volume, to: to.clone(), sources: sources.clone() };
        self.pack.work.insert(uuid, Work::Write { to, sources, why });
        Some(Action::Pack(job))
    }

    fn begin_check(&mut self, uuid: VolumeId, at: FileName) -> Option<Action> {
        let volume = self.volume_path(uuid)?;
        let spare = self.shelf.spare().get(&at)?;
        let Found::Pack(members) = spare.found.clone() else { return None };
        let data_bytes = spare.data_bytes;
        self.pack.work.insert(uuid, Work::Check { at: at.clone(), data_bytes });
        Some(Action::CheckPack(PackCheck { volume, at, data_bytes, members }))
    }

    /// A pack that was found and has what is wanted.
    fn next_check(&self, uuid: VolumeId) -> Option<FileName> {
        let desired = self.control.desired.as_ref()?;
        let awaited = self.shelf.spare().iter().find(|(file, spare)| {
            file.uuid == uuid
                && matches!(spare.found, Found::Pack(_))
                && !self.pack.unsound.contains(file)
                && self.shelf.is_awaited(spare, desired)
        });
        awaited.map(|(at, _)| at.clone())
    }

    /// What is wanted of a pack that was withdrawn, or was found and is not sound.
    fn rescue_sources(&mut self, uuid: VolumeId) -> Option<Vec<Source>> {
        let condemned = self.packs_on(uuid).find(|(_, pack)| pack.condemned).map(|(number, _)| *number);
        match condemned {
            Some(number) => Some(self.members_of(&FileName { uuid, file: number })),
            None => self.unsound_sources(uuid),
        }
    }

    fn packs_on(&self, uuid: VolumeId) -> impl Iterator<Item = (&u64, &Pack)> {
        self.shelf.packs().iter().filter(move |(_, pack)| pack.uuid == uuid)
    }

    fn members_of(&self, file: &FileName) -> Vec<Source> {
        let source = |(object, held): (ObjectId, Held)| {
            let at = SourceAt::Pack { number: held.file, offset: held.packed_at? };
            Some(Source { object, bytes: held.bytes, at })
        };
        let mut sources: Vec<_> = self.shelf.holders(file).filter_map(source).collect();
        sources.sort_unstable_by_key(|source| source.at);
        sources
    }

    /// What is awaited of a pack that was found and is not sound.
    fn unsound_sources(&mut self, uuid: VolumeId) -> Option<Vec<Source>> {
        let desired = self.control.desired.as_ref()?;
        let shelf = &self.shelf;
        let awaited =
            |file: &FileName| shelf.spare().get(file).is_some_and(|spare| shelf.is_awaited(spare, desired));
        self.pack.unsound.retain(awaited);
        let file = self.pack.unsound.iter().find(|file| file.uuid == uuid)?;
        let Found::Pack(members) = &shelf.spare().get(file)?.found else { return None };
        let wanted =
            members.iter().filter(|member| desired.wants(&member.object) && !shelf.holds(&member.object));
        let source = |member: &Member| Source {
            object: member.object,
            bytes: u64::from(member.bytes),
            at: SourceAt::Pack { number: file.file, offset: member.offset },
        };
        Some(wanted.map(source).collect())
    }

    /// Ready objects of a volume, in the order of their download, up to a pack.
    fn ready_sources(&self, uuid: VolumeId) -> Vec<Source> {
        let here = self.pack.ready.values().filter(|(on, _)| *on == uuid).map(|(_, partial)| partial);
        // After a kill a pack may be there that has it: that is looked at first.
        let elsewhere =
            |object| self.shelf.holds(object) || self.shelf.adoptable(object, |on| on == uuid).is_some();
        let mut here: Vec<_> = here.filter(|partial| !elsewhere(&partial.object)).collect();
        here.sort_unstable_by_key(|partial| partial.number);
        let mut bytes = 0u64;
        let fits = |partial: &&Partial| {
            let before = bytes;
            bytes = bytes.saturating_add(span_bytes(partial.bytes));
            before < self.settings.pack_bytes
        };
        let source = |partial: &Partial| {
            let at = SourceAt::Ready(partial.number);
            Source { object: partial.object, bytes: partial.bytes, at }
        };
        here.into_iter().take_while(fits).map(source).collect()
    }

    /// See the module's head: the rule that bounds the number of small packs.
    fn with_small_packs(&self, uuid: VolumeId, mut sources: Vec<Source>, taken: &[u64]) -> Vec<Source> {
        let mut bytes = bytes_of(&sources);
        let half = self.settings.pack_bytes / 2;
        let small = |(number, pack): &(&u64, &Pack)| pack.live_bytes < half && !taken.contains(number);
        let mut small: Vec<_> = self.packs_on(uuid).filter(small).collect();
        small.sort_by_key(|(_, pack)| pack.live_bytes);
        for (number, pack) in small {
            let sum = bytes.saturating_add(pack.live_bytes);
            if class(pack.live_bytes) > class(bytes) || sum > self.settings.pack_bytes {
                break;
            }
            bytes = sum;
            sources.extend(self.members_of(&FileName { uuid, file: *number }));
        }
        sources
    }

    /// The pack with the most dead bytes of those more than half dead, if there is room for what is alive of it.
    fn half_dead(&mut self, uuid: VolumeId) -> Option<u64> {
        let dead = |pack: &Pack| pack.data_bytes.saturating_sub(pack.live_bytes);
        let half_dead = self.packs_on(uuid).filter(|(_, pack)| dead(pack) > pack.live_bytes);
        let (number, pack) =
            half_dead.max_by_key(|(_, pack)| dead(pack)).map(|(number, pack)| (*number, *pack))?;
        let free = self.volumes.free_on(uuid);
        // What it takes along is less than it is itself.
        if free >= pack.live_bytes.saturating_mul(4) {
            self.pack.no_room.remove(&uuid);
            return Some(number);
        }
        if self.pack.no_room.insert(uuid) {
            tracing::warn!(
                volume = %uuid,
                pack = number,
                dead_bytes = dead(&pack),
                free_bytes = free,
                "no room to write a half-dead pack anew: its dead bytes stay until something else is deleted"
            );
        }
        None
    }

    pub(super) fn on_packed(&mut self, to: &FileName, result: Result<Packed, PackFault>, now: Now) {
        let Some(Work::Write { sources, why, .. }) = self.pack.work.remove(&to.uuid) else { return };
        match result {
            Ok(packed) => {
                self.pack.retry.entry(to.uuid).or_default().succeed(now);
                if self.volumes.slot_of(to.uuid).is_some() {
                    self.take_packed(to, &sources, packed, why);
                }
            }
            Err(PackFault::DiskFull) => self.no_room_for_pack(to.uuid, &sources, why, now),
            Err(PackFault::VolumeFailed(reason)) => self.fail_volume(to.uuid, &reason, now),
        }
    }

    fn take_packed(&mut self, to: &FileName, sources: &[Source], packed: Packed, why: Why) {
        let from: BTreeMap<_, _> = sources.iter().map(|source| (source.object, source.at)).collect();
        let alive = |member: &&Member| match from.get(&member.object) {
            Some(SourceAt::Pack { number, offset }) => {
                let there = self.shelf.held().get(&member.object);
                let is_it = |held: &Held| (held.file, held.packed_at) == (*number, Some(*offset));
                there.map_or(self.is_awaited(&member.object), is_it)
            }
            Some(SourceAt::Ready(_)) => self.is_awaited(&member.object),
            None => false,
        };
        let members: Vec<_> = packed.members.iter().filter(alive).copied().collect();
        tracing::info!(
            volume = %to.uuid,
            pack = to.file,
            ?why,
            members = members.len(),
            bytes = packed.data_bytes,
            copied_bytes = packed.copied_bytes,
            lost = packed.lost.len(),
            "pack written"
        );
        if packed.data_bytes > 0 {
            self.shelf.hold_in_pack(to, packed.data_bytes, &members);
        }
        for source in &packed.lost {
            tracing::error!(object = %source.object, "spoilt on the disk: it is pulled again");
            self.lose_member(source);
        }
        for source in sources.iter().filter(|source| matches!(source.at, SourceAt::Ready(_))) {
            self.pack.ready.remove(&source.object);
        }
        if let (Why::Rescue, Some(SourceAt::Pack { number, .. })) = (why, sources.first().map(|s| s.at)) {
            let file = FileName { uuid: to.uuid, file: number };
            self.pack.unsound.remove(&file);
            self.shelf.condemn(&file);
            self.publish.urgent = true;
        }
        self.fill.stale = true;
    }

    /// Its place is no good; unless it has another by now, it is pulled again.
    fn lose_member(&mut self, source: &Source) {
        if let SourceAt::Pack { number, offset } = source.at {
            let held = self.shelf.held().get(&source.object);
            if held.is_some_and(|held| (held.file, held.packed_at) == (number, Some(offset))) {
                self.shelf.release(&source.object, true);
            }
        }
    }

    fn is_awaited(&self, object: &ObjectId) -> bool {
        self.control.desired.as_ref().is_some_and(|desired| desired.wants(object))
            && !self.shelf.holds(object)
    }

    fn no_room_for_pack(&mut self, uuid: VolumeId, sources: &[Source], why: Why, now: Now) {
        self.no_space(uuid);
        self.pack.retry.entry(uuid).or_default().fail(now);
        match why {
            Why::Seal => {
                tracing::warn!(volume = %uuid, "the volume is full, no pack can be written: its objects go to another");
                for source in sources {
                    if let Some((uuid, partial)) = self.pack.ready.remove(&source.object) {
                        self.fill.discard_later(FileName { uuid, file: partial.number });
                    }
                }
            }
            Why::Rewrite => {
                tracing::warn!(volume = %uuid, "the volume is full: a half-dead pack stays as it is for now");
            }
            Why::Rescue => {
                let Some(SourceAt::Pack { number, .. }) = sources.first().map(|source| source.at) else {
                    return;
                };
                let file = FileName { uuid, file: number };
                let objects = self.shelf.give_up(&file);
                self.pack.unsound.remove(&file);
                self.shelf.condemn(&file);
                tracing::warn!(
                    volume = %uuid, objects,
                    "the volume is full, what is good of a damaged pack cannot be copied: all of it is pulled again"
                );
                self.publish.urgent = true;
            }
        }
        self.fill.stale = true;
    }

    pub(super) fn on_pack_checked(&mut self, at: &FileName, result: Result<Checked, PackFault>, now: Now) {
        let Some(Work::Check { data_bytes, .. }) = self.pack.work.remove(&at.uuid) else { return };
        match result {
            Err(PackFault::DiskFull) => {}
            Err(PackFault::VolumeFailed(reason)) => self.fail_volume(at.uuid, &reason, now),
            Ok(_) if self.volumes.slot_of(at.uuid).is_none() => {}
            Ok(checked) if checked.whole => {
                // Also what is held elsewhere: this pack was written from there.
                let wants = |object: &ObjectId| {
                    self.control.desired.as_ref().is_some_and(|desired| desired.wants(object))
                };
                let own = |object: &ObjectId| {
                    self.shelf.held().get(object).is_some_and(|held| held.packed_at.is_none())
                };
                let wanted = checked.good.into_iter().filter(|m| wants(&m.object) && !own(&m.object));
                let members: Vec<_> = wanted.collect();
                tracing::info!(volume = %at.uuid, pack = at.file, members = members.len(), "pack found and checked");
                self.shelf.hold_in_pack(at, data_bytes, &members);
            }
            Ok(checked) => {
                tracing::error!(volume = %at.uuid, pack = at.file, good = checked.good.len(), "a damaged pack was found");
                self.pack.unsound.insert(at.clone());
            }
        }
        self.fill.stale = true;
    }

    /// Ready objects that are not wanted, or are held by now.
    pub(super) fn discard_ready(&mut self, actions: &mut Vec<Action>) {
        let useless = |object: &ObjectId, partial: &Partial| {
            let desired = self.control.desired.as_ref();
            let wanted = desired.and_then(|desired| desired.objects.get(object));
            let wanted = wanted.is_some_and(|wanted| wanted.bytes == partial.bytes);
            (!wanted || self.shelf.holds(object)) && !self.pack.is_source(object)
        };
        let ready = self.pack.ready.iter();
        let all: Vec<_> =
            ready.filter(|(object, (_, p))| useless(object, p)).map(|(object, _)| *object).collect();
        for object in all {
            let Some((uuid, partial)) = self.pack.ready.remove(&object) else { continue };
            if let Some(volume) = self.volume_path(uuid) {
                actions.push(Action::Discard { volume, number: partial.number });
            }
        }
    }
}

fn bytes_of(sources: &[Source]) -> u64 {
    sources.iter().map(|source| span_bytes(source.bytes)).sum()
}

/// The binary logarithm of its pages.
fn class(bytes: u64) -> u32 {
    (bytes / 4096).max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use content::catalogue::Contents;
    use proptest::prelude::*;

    use super::super::Settings;
    use super::super::volume::Slot;
    use super::*;
    use crate::generations::Loaded;

    const HERE: VolumeId = VolumeId([1; 16]);
    const PACK: u64 = 64 << 20;

    fn core() -> Core {
        let settings = Settings {
            appliance: "box-a".parse().unwrap(),
            boot: "boot".to_owned(),
            downloads_max: 3,
            volumes: vec![],
            publish_every_ms: 60_000,
            pack_bytes: PACK,
        };
        let loaded = Loaded { contents: Contents::default(), is_current: true, others: vec![] };
        Core::new(settings, loaded, &[], None)
    }

    /// An object of so many pages that never was before.
    fn fresh(seed: u64, pages: u64) -> Source {
        let bytes = pages * 4096;
        Source { object: ObjectId::of(&seed.to_le_bytes()), bytes, at: SourceAt::Ready(seed) }
    }

    /// As the disk would: every source is good.
    fn write(core: &mut Core, sources: &[Source]) {
        let number = core.shelf.take_number();
        let mut end = 0;
        let members: Vec<_> = sources
            .iter()
            .map(|source| {
                let offset = u32::try_from(end).unwrap();
                end += span_bytes(source.bytes);
                Member { object: source.object, offset, bytes: u32::try_from(source.bytes).unwrap() }
            })
            .collect();
        let count = u64::try_from(members.len()).unwrap();
        let data_bytes = content::pack::data_bytes(end, count);
        core.shelf.hold_in_pack(&FileName { uuid: HERE, file: number }, data_bytes, &members);
    }

    fn small_classes(core: &Core) -> Vec<u32> {
        let small = core.shelf.packs().values().filter(|pack| pack.live_bytes < PACK / 2);
        let mut classes: Vec<_> = small.map(|pack| class(pack.live_bytes)).collect();
        classes.sort_unstable();
        classes
    }

    /// Publications of so many pages each; gives how often the member copied most often was copied.
    fn seal_each(pages: &[u64]) -> u32 {
        let mut core = core();
        let mut copies: BTreeMap<ObjectId, u32> = BTreeMap::new();
        for (seed, pages) in (0..).zip(pages) {
            let sources = core.with_small_packs(HERE, vec![fresh(seed, *pages)], &[]);
            assert!(bytes_of(&sources) <= PACK);
            for source in sources.iter().filter(|source| matches!(source.at, SourceAt::Pack { .. })) {
                *copies.entry(source.object).or_default() += 1;
            }
            write(&mut core, &sources);
            let classes = small_classes(&core);
            assert!(classes.windows(2).all(|pair| pair[0] < pair[1]), "a class is there twice: {classes:?}");
            assert!(classes.len() <= 14, "{classes:?}");
        }
        assert_eq!(core.shelf.held().len(), pages.len());
        copies.into_values().max().unwrap_or(0)
    }

    #[test]
    fn publications_that_shrink_by_a_page_each_do_not_leave_a_pack_each() {
        let shrinking: Vec<_> = (1..200).rev().collect();
        assert!(seal_each(&shrinking) <= 13);
        assert_eq!(seal_each(&[1; 1024]), 10, "a binary counter");
    }

    #[test]
    fn a_half_dead_pack_waits_for_room_for_what_is_alive_of_it_and_that_is_said_once() {
        let mut core = core();
        core.volumes.slots.push(Slot::usable(HERE, 0));
        let sources: Vec<_> = (0..4).map(|seed| fresh(seed, 10)).collect();
        write(&mut core, &sources);
        let (number, live) =
            core.shelf.packs().iter().map(|(number, pack)| (*number, pack.live_bytes / 4)).next().unwrap();
        assert_eq!((core.half_dead(HERE), core.pack.no_room.len()), (None, 0), "all of it is alive");
        for source in &sources[..3] {
            core.shelf.release(&source.object, false);
        }
        assert_eq!((core.half_dead(HERE), core.pack.no_room.len()), (None, 1));
        core.volumes.slots[0].bytes_free = live * 4 - 1;
        assert_eq!((core.half_dead(HERE), core.pack.no_room.len()), (None, 1));
        core.volumes.slots[0].bytes_free = live * 4;
        assert_eq!((core.half_dead(HERE), core.pack.no_room.len()), (Some(number), 0));
    }

    proptest! {
        #[test]
        fn however_many_publications_there_are_small_packs_are_few_and_copies_too(
            pages in proptest::collection::vec(1u64..255, 1..300),
        ) {
            prop_assert!(seal_each(&pages) <= 13);
        }
    }
}
