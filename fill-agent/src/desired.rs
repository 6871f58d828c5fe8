//! What the manifest asks of this appliance, by object: an object that several paths name is stored once. Pure.

use std::collections::BTreeMap;

use content::id::{ApplianceId, MediaPath, ObjectId};
use content::manifest::Manifest;

/// An object that this appliance should hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Ordinal of its first path: the smaller, the more worthwhile.
    pub rank: u32,
    pub bytes: u64,
    /// Every path that leads to it, with its ordinal; ascending, never empty.
    pub paths: Vec<(u32, MediaPath)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub version: u64,
    pub objects: BTreeMap<ObjectId, Wanted>,
    /// Paths whose size differs from what an earlier line says of the same object, with their ordinals: they are not
    /// pulled and are reported as missing.
    pub contradictions: Vec<(u32, MediaPath)>,
}

impl Desired {
    /// A manifest that does not name the appliance asks nothing of it.
    pub fn of(manifest: &Manifest, appliance: &ApplianceId) -> Self {
        let mut desired = Self { version: manifest.version, ..Self::default() };
        let Some(index) = manifest.index_of(appliance) else { return desired };
        for (ordinal, entry) in manifest.entries_on(index) {
            let wanted = desired.objects.entry(entry.path.object).or_insert_with(|| Wanted {
                rank: ordinal,
                bytes: entry.bytes,
                paths: Vec::new(),
            });
            if wanted.bytes == entry.bytes {
                wanted.paths.push((ordinal, entry.path.clone()));
            } else {
                desired.contradictions.push((ordinal, entry.path.clone()));
            }
        }
        desired
    }

    pub fn wants(&self, object: &ObjectId) -> bool {
        self.objects.contains_key(object)
    }

    /// Every path that the manifest asks of this appliance and that may be served, with its ordinal.
    pub fn paths(&self) -> impl Iterator<Item = &(u32, MediaPath)> {
        self.objects.values().flat_map(|wanted| &wanted.paths)
    }

    /// The most worthwhile first.
    pub fn by_rank(&self) -> Vec<(ObjectId, &Wanted)> {
        let mut all: Vec<_> = self.objects.iter().map(|(object, wanted)| (*object, wanted)).collect();
        all.sort_by_key(|(_, wanted)| wanted.rank);
        all
    }
}

#[cfg(test)]
mod tests {
    use content::manifest::ManifestEntry;

    use super::*;

    fn entry(title: &str, object: ObjectId, bytes: u64, on: &[u16]) -> ManifestEntry {
        let path = format!("/{title}/sd/{object}.mp4").parse().unwrap();
        ManifestEntry { path, bytes, worth: 1.0, on: on.to_vec() }
    }

    #[test]
    fn two_paths_to_one_object_ask_for_it_once_and_a_contradiction_is_left_out() {
        let (x, y) = (ObjectId::of(b"x"), ObjectId::of(b"y"));
        let manifest = Manifest {
            cluster: "lab".parse().unwrap(),
            version: 3,
            appliances: vec!["box-a".parse().unwrap(), "box-b".parse().unwrap()],
            entries: vec![
                entry("one", y, 5, &[1]),
                entry("one", x, 7, &[0, 1]),
                entry("two", x, 7, &[0]),
                entry("three", x, 8, &[0]),
            ],
        };
        let desired = Desired::of(&manifest, &"box-a".parse().unwrap());
        assert_eq!(desired.objects.len(), 1);
        let ordinals: Vec<_> = desired.objects[&x].paths.iter().map(|(ordinal, _)| *ordinal).collect();
        assert_eq!((desired.objects[&x].rank, ordinals), (1, vec![1, 2]));
        let contradicting: Vec<_> = desired.contradictions.iter().map(|(ordinal, _)| *ordinal).collect();
        assert_eq!(contradicting, [3]);
        assert!(Desired::of(&manifest, &"box-c".parse().unwrap()).objects.is_empty());
    }
}
