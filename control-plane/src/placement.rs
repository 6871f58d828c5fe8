//! Placement: the manifest of each cluster. For now everything belongs on every box (DESIGN §5, §6): the shape is the
//! final one; forecast and budget will replace `worth` and `on`.

use std::collections::{BTreeMap, BTreeSet};

use content::id::{ApplianceId, ClusterId, MediaPath, TitleId};
use content::manifest::{Manifest, ManifestEntry};

use crate::snapshot::{KnownManifest, Snapshot};

/// Every object is thought to be streamed once a day until there is a forecast.
const WORTH: f64 = 1.0;

/// The manifest that should follow the cluster's newest; None if that says the same already, or if the cluster has
/// no appliance.
///
/// `unreadable` are titles that exist and cannot be read now: what the newest manifest says of them stays, so that a broken
/// `title.json` never makes a box delete a title.
pub fn next_manifest(
    snapshot: &Snapshot,
    cluster: &ClusterId,
    unreadable: &BTreeSet<TitleId>,
) -> Option<Manifest> {
    let appliances = appliances_of(snapshot, cluster);
    if appliances.is_empty() {
        return None;
    }
    let newest = snapshot.manifest(cluster).map(|known| &known.manifest);
    let mut objects = BTreeMap::new();
    if let Some(newest) = newest {
        let kept = newest.entries.iter().filter(|entry| unreadable.contains(&entry.path.title));
        objects.extend(kept.map(|entry| (entry.path.clone(), entry.bytes)));
    }
    objects.extend(snapshot.titles.values().flat_map(|known| known.title.objects()));
    let entries = in_order(objects, appliances.len());
    let same = newest.is_some_and(|newest| newest.appliances == appliances && newest.entries == entries);
    let version = newest.map_or(1, |newest| newest.version.saturating_add(1));
    (!same).then(|| Manifest { cluster: cluster.clone(), version, appliances, entries })
}

/// The same manifest under a later version, when another process has taken the one planned.
pub fn renumbered(manifest: Manifest, version: u64) -> Manifest {
    Manifest { version, ..manifest }
}

/// Whether two manifests say the same of the same boxes.
pub fn says_the_same(known: &KnownManifest, planned: &Manifest) -> bool {
    known.manifest.appliances == planned.appliances && known.manifest.entries == planned.entries
}

/// In order of name; `ManifestEntry::on` counts in 16 bits.
fn appliances_of(snapshot: &Snapshot, cluster: &ClusterId) -> Vec<ApplianceId> {
    let registrations = snapshot.fleet.values().map(|appliance| &appliance.registration);
    let mine = registrations.filter(|registration| registration.cluster == *cluster);
    mine.map(|registration| registration.appliance.clone()).take(usize::from(u16::MAX)).collect()
}

/// Title by title, and within one the small before the large: playlists, subtitles, sound, then rungs from the lowest up,
/// so that a title can be played as early as possible.
fn in_order(objects: BTreeMap<MediaPath, u64>, appliances: usize) -> Vec<ManifestEntry> {
    let on: Vec<u16> = (0..u16::try_from(appliances).unwrap_or(u16::MAX)).collect();
    let mut entries: Vec<_> = objects
        .into_iter()
        .map(|(path, bytes)| ManifestEntry { path, bytes, worth: WORTH, on: on.clone() })
        .collect();
    entries.sort_by(|a, b| (&a.path.title, a.bytes, &a.path).cmp(&(&b.path.title, b.bytes, &b.path)));
    entries
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use content::id::Extension;

    use super::*;
    use crate::snapshot::KnownTitle;
    use crate::snapshot::tests::{Box, film, world};

    fn lab() -> ClusterId {
        "lab".parse().unwrap()
    }

    fn nothing() -> BTreeSet<TitleId> {
        BTreeSet::new()
    }

    #[test]
    fn the_manifest_asks_everything_of_every_box_and_starts_with_what_is_small() {
        let snapshot = world(&[film("b"), film("a")], &[Box::well("box-b"), Box::well("box-a")]);
        let manifest = &snapshot.manifest(&lab()).unwrap().manifest;
        assert_eq!(manifest.version, 1);
        assert_eq!(manifest.entries.len(), 20);
        assert!(manifest.entries.iter().all(|entry| entry.on == [0, 1]));
        assert!(manifest.entries[..10].iter().all(|entry| entry.path.title.as_str() == "a"));
        assert_eq!(manifest.entries[9].bytes, 12_000_000);
        assert_eq!(manifest.entries[0].path.extension, Extension::M3u8);
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), *manifest);
    }

    #[test]
    fn a_version_follows_only_when_something_changed() {
        let mut snapshot = world(&[film("a")], &[Box::well("box-a")]);
        assert!(next_manifest(&snapshot, &lab(), &nothing()).is_none());
        let more = snapshot.with_appliance(Box::well("box-b").appliance());
        assert_eq!(next_manifest(&more, &lab(), &nothing()).unwrap().version, 2);
        let known = KnownTitle::new(film("b"));
        Arc::make_mut(&mut snapshot.titles).insert("b".parse().unwrap(), Arc::new(known));
        assert_eq!(next_manifest(&snapshot, &lab(), &nothing()).unwrap().entries.len(), 20);
    }

    #[test]
    fn an_unreadable_title_stays_and_a_deleted_one_goes() {
        let mut snapshot = world(&[film("a"), film("b")], &[Box::well("box-a")]);
        Arc::make_mut(&mut snapshot.titles).clear();
        let unreadable = [film("a").title].into();
        let manifest = next_manifest(&snapshot, &lab(), &unreadable).unwrap();
        assert_eq!(manifest.entries.len(), 10);
        assert!(manifest.entries.iter().all(|entry| entry.path.title.as_str() == "a"));
    }

    #[test]
    fn a_cluster_without_appliances_has_no_manifest() {
        let snapshot = world(&[film("a")], &[]);
        assert!(snapshot.manifest(&lab()).is_none());
    }
}
