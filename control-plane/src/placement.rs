//! Placement: the manifest of each cluster. For now everything belongs on every box (DESIGN §5, §6): the shape is the
//! final one; forecast and budget will replace `worth` and `on`.

use std::collections::{BTreeMap, BTreeSet};

use content::id::{ApplianceId, ClusterId, MediaPath, TitleId};
use content::manifest::{Manifest, ManifestEntry};

use crate::snapshot::{KnownManifest, Snapshot};

/// Every object is thought to be streamed once a day until there is a forecast.
const WORTH: f64 = 1.0;

/// A plan that asks for nothing is not followed. An origin that was emptied, lost or not mounted looks exactly like one whose
/// last title was removed, and the boxes would delete all that they hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    #[error("the origin has no title: publish one, or mount the origin if it has")]
    NothingYet,
    #[error(
        "no title is left, and manifest {version} asks for {objects} objects: it stays, and the boxes keep them; mount the origin or put back its folder `titles`, or publish a title that replaces the others"
    )]
    NothingLeft { version: u64, objects: usize },
}

/// The manifest that should follow the cluster's newest; None if that says the same already, or if the cluster has
/// no appliance. Never one without objects.
///
/// `unreadable` are titles that exist and cannot be read now: what the newest manifest says of them stays, so that a broken
/// `title.json` never makes a box delete a title.
pub fn next_manifest(
    snapshot: &Snapshot,
    cluster: &ClusterId,
    unreadable: &BTreeSet<TitleId>,
) -> Result<Option<Manifest>, Withheld> {
    let newest = snapshot.manifest(cluster).map(|known| &known.manifest);
    let mut objects = BTreeMap::new();
    if let Some(newest) = newest {
        let kept = newest.entries.iter().filter(|entry| unreadable.contains(&entry.path.title));
        objects.extend(kept.map(|entry| (entry.path.clone(), entry.bytes)));
    }
    objects.extend(snapshot.titles.values().flat_map(|known| known.title.objects()));
    if objects.is_empty()
        && let Some(newest) = newest.filter(|newest| !newest.entries.is_empty())
    {
        return Err(Withheld::NothingLeft { version: newest.version, objects: newest.entries.len() });
    }
    let appliances = appliances_of(snapshot, cluster);
    if appliances.is_empty() {
        return Ok(None);
    }
    if objects.is_empty() {
        return Err(Withheld::NothingYet);
    }
    let entries = in_order(objects, appliances.len());
    let same = newest.is_some_and(|newest| newest.appliances == appliances && newest.entries == entries);
    let version = newest.map_or(1, |newest| newest.version.saturating_add(1));
    Ok((!same).then(|| Manifest { cluster: cluster.clone(), version, appliances, entries }))
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
        assert_eq!(next_manifest(&snapshot, &lab(), &nothing()), Ok(None));
        let more = snapshot.with_appliance(Box::well("box-b").appliance());
        assert_eq!(next_manifest(&more, &lab(), &nothing()).unwrap().unwrap().version, 2);
        let known = KnownTitle::new(film("b"));
        Arc::make_mut(&mut snapshot.titles).insert("b".parse().unwrap(), Arc::new(known));
        assert_eq!(next_manifest(&snapshot, &lab(), &nothing()).unwrap().unwrap().entries.len(), 20);
    }

    #[test]
    fn an_unreadable_title_stays_and_a_deleted_one_goes() {
        let mut snapshot = world(&[film("a"), film("b")], &[Box::well("box-a")]);
        Arc::make_mut(&mut snapshot.titles).clear();
        let unreadable = [film("a").title].into();
        let manifest = next_manifest(&snapshot, &lab(), &unreadable).unwrap().unwrap();
        assert_eq!(manifest.entries.len(), 10);
        assert!(manifest.entries.iter().all(|entry| entry.path.title.as_str() == "a"));
    }

    #[test]
    fn a_plan_without_objects_replaces_nothing_and_is_no_first_manifest() {
        let mut snapshot = world(&[film("a")], &[Box::well("box-a")]);
        Arc::make_mut(&mut snapshot.titles).clear();
        let left = Withheld::NothingLeft { version: 1, objects: 10 };
        assert_eq!(next_manifest(&snapshot, &lab(), &nothing()), Err(left.clone()));
        let more = snapshot.with_appliance(Box::well("box-b").appliance());
        assert_eq!(next_manifest(&more, &lab(), &nothing()), Err(left), "nor for another box");
        let never = world(&[], &[Box::well("box-a")]);
        assert!(never.manifest(&lab()).is_none());
        assert_eq!(next_manifest(&never, &lab(), &nothing()), Err(Withheld::NothingYet));
    }

    #[test]
    fn a_cluster_without_appliances_has_no_manifest() {
        let snapshot = world(&[film("a")], &[]);
        assert!(snapshot.manifest(&lab()).is_none());
    }
}
