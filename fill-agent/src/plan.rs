//! What to pull, where to, what to let go, and what will not fit: manifest minus catalogue (DESIGN §5). Pure.

use std::collections::{BTreeMap, BTreeSet};

use content::control_socket::FileName;
use content::id::ObjectId;
use content::pack::{self, SMALL_BELOW_BYTES};
use content::volume::{VolumeId, file_bytes};

use crate::desired::Desired;

/// A volume that objects can be put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    pub uuid: VolumeId,
    pub bytes_total: u64,
    pub bytes_free: u64,
}

impl Space {
    /// Half a per cent stays free: filesystems slow down and fragment when they are full to the last block.
    fn usable(&self) -> u64 {
        self.bytes_free.saturating_sub(self.bytes_total / 200)
    }
}

/// An object on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub uuid: VolumeId,
    pub file: u64,
    /// Of the object.
    pub bytes: u64,
    /// Where in the pack; None: the file is the object's own.
    pub packed_at: Option<u32>,
}

impl Held {
    /// What it takes up: its file, or its share of a pack.
    fn room(&self) -> u64 {
        if self.packed_at.is_some() { pack_share(self.bytes) } else { file_bytes(self.bytes) }
    }

    pub fn name(&self) -> FileName {
        FileName { uuid: self.uuid, file: self.file }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they will be pulled.
    pub fetch: Vec<Fetch>,
    pub wont_fit: Vec<Refused>,
    /// Held, and not asked for any more.
    pub release: Vec<(ObjectId, Held)>,
    /// Held and asked for.
    pub keep: usize,
    /// On a volume already: pulled and not in a pack yet, or in a pack that the server withdrew.
    pub to_pack: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub object: ObjectId,
    pub bytes: u64,
    pub volume: VolumeId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub object: ObjectId,
    pub bytes: u64,
    /// The most that any volume has left at that point; None: there is no usable volume.
    pub largest_free: Option<u64>,
}

/// What a small object takes up in a pack: its place and its line of the index; the pack's footer is a thousandth more.
pub fn pack_share(bytes: u64) -> u64 {
    pack::span_bytes(bytes).saturating_add(pack::RECORD_BYTES)
}

/// What an object takes up once it is held.
pub fn room_of(bytes: u64) -> u64 {
    if bytes < SMALL_BELOW_BYTES { pack_share(bytes) } else { file_bytes(bytes) }
}

/// What must be free to pull it: a small object is there twice while its pack is written.
pub fn room_to_pull(bytes: u64) -> u64 {
    let twice = if bytes < SMALL_BELOW_BYTES { pack_share(bytes) } else { 0 };
    file_bytes(bytes).saturating_add(twice)
}

/// The volume with the most room that takes an object of `bytes`; the first of equals.
pub fn choose(volumes: &[Space], bytes: u64) -> Option<usize> {
    let needed = room_to_pull(bytes);
    let fitting = volumes.iter().enumerate().filter(|(_, space)| space.usable() >= needed);
    let by_room = |space: &Space| std::cmp::Reverse(space.usable());
    fitting.min_by_key(|(_, space)| by_room(space)).map(|(index, _)| index)
}

/// The whole delta. What is released makes room, what is withdrawn counts as not held and as bytes still taken up.
pub fn plan(
    desired: &Desired,
    held: &BTreeMap<ObjectId, Held>,
    volumes: &[Space],
    withdrawn: &BTreeSet<FileName>,
    waiting: &BTreeSet<ObjectId>,
) -> Plan {
    let mut plan = Plan::default();
    let mut room = volumes.to_vec();
    let there = |at: &Held| volumes.iter().any(|volume| volume.uuid == at.uuid);
    for (object, at) in held {
        if !desired.wants(object) {
            plan.release.push((*object, *at));
            give_back(&mut room, at);
        }
    }
    for (object, wanted) in desired.by_rank() {
        let here = held.get(&object).filter(|at| there(at) && !withdrawn.contains(&at.name()));
        if here.is_some() {
            plan.keep += 1;
            continue;
        }
        let in_pack = held.get(&object).is_some_and(|at| at.packed_at.is_some() && there(at));
        if in_pack || waiting.contains(&object) {
            plan.to_pack += 1;
            continue;
        }
        match choose(&room, wanted.bytes) {
            Some(index) => {
                let space = &mut room[index];
                space.bytes_free = space.bytes_free.saturating_sub(room_of(wanted.bytes));
                plan.fetch.push(Fetch { object, bytes: wanted.bytes, volume: space.uuid });
            }
            None => {
                let largest_free = room.iter().map(Space::usable).max();
                plan.wont_fit.push(Refused { object, bytes: wanted.bytes, largest_free });
            }
        }
    }
    plan
}

fn give_back(room: &mut [Space], at: &Held) {
    if let Some(space) = room.iter_mut().find(|space| space.uuid == at.uuid) {
        space.bytes_free = space.bytes_free.saturating_add(at.room());
    }
}

#[cfg(test)]
mod tests {
    use content::manifest::{Manifest, ManifestEntry};
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn object(seed: u32) -> ObjectId {
        ObjectId::of(&seed.to_le_bytes())
    }

    fn desired(sizes: &[(u32, u64)]) -> Desired {
        let entries = sizes.iter().map(|(seed, bytes)| ManifestEntry {
            path: format!("/title/sd/{}.mp4", object(*seed)).parse().unwrap(),
            bytes: *bytes,
            worth: 1.0,
            on: vec![0],
        });
        let manifest = Manifest {
            cluster: "lab".parse().unwrap(),
            version: 1,
            appliances: vec!["box-a".parse().unwrap()],
            entries: entries.collect(),
        };
        Desired::of(&manifest, &"box-a".parse().unwrap())
    }

    fn space(id: u8, free: u64) -> Space {
        Space { uuid: VolumeId([id; 16]), bytes_total: free, bytes_free: free }
    }

    #[test]
    fn the_roomiest_volume_is_chosen_and_the_first_of_equals() {
        assert_eq!(choose(&[space(1, 5 * MIB), space(2, 9 * MIB)], MIB), Some(1));
        assert_eq!(choose(&[space(1, 9 * MIB), space(2, 9 * MIB)], MIB), Some(0));
        assert_eq!(choose(&[space(1, MIB)], MIB), None, "the footer and the reserve need room too");
        assert_eq!(choose(&[], 1), None);
    }

    #[test]
    fn the_most_worthwhile_is_pulled_first_and_what_does_not_fit_says_how_much_room_there_was() {
        let plan = plan(
            &desired(&[(1, 4 * MIB), (2, 40 * MIB), (3, MIB)]),
            &BTreeMap::new(),
            &[space(1, 10 * MIB)],
            &BTreeSet::new(),
            &BTreeSet::new(),
        );
        let fetched: Vec<_> = plan.fetch.iter().map(|fetch| fetch.object).collect();
        assert_eq!(fetched, [object(1), object(3)]);
        assert_eq!(plan.wont_fit[0].object, object(2));
        assert!(plan.wont_fit[0].largest_free.is_some_and(|free| free < 6 * MIB));
    }

    #[test]
    fn a_withdrawn_file_and_a_lost_volume_are_pulled_again() {
        let at = |id, file| Held { uuid: VolumeId([id; 16]), file, bytes: MIB, packed_at: None };
        let held = BTreeMap::from([(object(1), at(1, 1)), (object(2), at(2, 2)), (object(3), at(9, 3))]);
        let withdrawn = BTreeSet::from([at(2, 2).name()]);
        let wanted = desired(&[(1, MIB), (2, MIB), (3, MIB)]);
        let plan =
            plan(&wanted, &held, &[space(1, 10 * MIB), space(2, 10 * MIB)], &withdrawn, &BTreeSet::new());
        let fetched: Vec<_> = plan.fetch.iter().map(|fetch| fetch.object).collect();
        assert_eq!((plan.keep, fetched), (1, vec![object(2), object(3)]));
    }

    #[test]
    fn what_waits_for_its_pack_or_is_in_a_withdrawn_one_is_not_pulled_again() {
        let packed = |file| Held { uuid: VolumeId([1; 16]), file, bytes: 70, packed_at: Some(0) };
        let held = BTreeMap::from([(object(1), packed(4)), (object(2), packed(5))]);
        let withdrawn = BTreeSet::from([packed(5).name()]);
        let wanted = desired(&[(1, 70), (2, 70), (3, 70), (4, 70)]);
        let plan = plan(&wanted, &held, &[space(1, 10 * MIB)], &withdrawn, &BTreeSet::from([object(3)]));
        assert_eq!((plan.keep, plan.to_pack, plan.fetch.len()), (1, 2, 1));
        assert_eq!(room_of(70), 4096 + 40);
    }

    proptest! {
        #[test]
        fn a_plan_accounts_for_every_object_once_and_never_overfills(
            sizes in proptest::collection::vec((0u32..40, 0u64..9 * MIB), 0..40),
            free in proptest::collection::vec(0u64..30 * MIB, 0..4),
            held_seeds in proptest::collection::btree_set(0u32..50, 0..20),
        ) {
            let sizes: BTreeMap<u32, u64> = sizes.into_iter().collect();
            let sizes: Vec<_> = sizes.into_iter().collect();
            let volumes: Vec<_> = (0u8..).zip(free).map(|(id, free)| space(id, free)).collect();
            let at = |seed: u32| Held { uuid: VolumeId([0; 16]), file: u64::from(seed), bytes: MIB, packed_at: None };
            let held: BTreeMap<_, _> = held_seeds.iter().map(|seed| (object(*seed), at(*seed))).collect();
            let wanted = desired(&sizes);
            let plan = plan(&wanted, &held, &volumes, &BTreeSet::new(), &BTreeSet::new());
            prop_assert_eq!(plan.fetch.len() + plan.wont_fit.len() + plan.keep, wanted.objects.len());
            let unwanted = held.keys().filter(|object| !wanted.wants(object)).count();
            prop_assert_eq!(plan.release.len(), unwanted);
            for volume in &volumes {
                let put: u64 = plan.fetch.iter().filter(|f| f.volume == volume.uuid)
                    .map(|f| room_of(f.bytes)).sum();
                let freed: u64 = plan.release.iter().filter(|(_, at)| at.uuid == volume.uuid)
                    .map(|(_, at)| file_bytes(at.bytes)).sum();
                prop_assert!(put <= volume.bytes_free + freed);
            }
        }
    }
}
