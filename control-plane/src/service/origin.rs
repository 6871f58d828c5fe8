//! The origin store: titles are read from it, manifests are written to it, objects pass through it to the agents.
//!
//! Any backend of `object_store`; a folder here. A folder has no conditional replacement, and needs none: a manifest's
//! version is taken by creating its file, which two writers cannot both do, and only then does `current` follow.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use content::id::{ClusterId, TitleId};
use content::manifest::Manifest;
use content::origin::{TITLES_FOLDER, current_manifest_path, manifest_path};
use content::rot::RotPlace;
use content::seal::{from_sealed, to_sealed};
use content::title::{StreamKind, Title, TitleError};
use futures::TryStreamExt as _;
use object_store::path::Path as StorePath;
use object_store::{
    Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion,
};
use serde::{Deserialize, Serialize};

use super::rot;
use crate::placement;
use crate::snapshot::{KnownManifest, KnownTitle, MANIFESTS_KEPT};

/// A `title.json` of a title with a thousand streams is smaller.
const TITLE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A film of thirty days is a mistake.
const DURATION_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// How many versions are tried when others take them.
const VERSIONS_TRIED_MAX: usize = 16;

#[derive(Clone)]
pub struct Origin {
    pub store: Arc<dyn ObjectStore>,
}

/// What asks for an operator; `/v1/health` names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Trouble {
    /// `title film`, `origin`, `manifest of lab`.
    pub what: String,
    pub reason: String,
}

/// What is known of the titles in the origin; a title is read again when its file has changed, and one at each turn
/// though it has not: rot changes no time of modification.
#[derive(Default)]
pub struct TitleCache {
    titles: BTreeMap<TitleId, CachedTitle>,
    /// The one that was read again last.
    again: Option<TitleId>,
}

type Stamp = (Option<String>, u64, i64);

struct CachedTitle {
    /// Of the file when it was read; None: reading failed, so it is read again at the next turn.
    stamp: Option<Stamp>,
    /// The last that could be read; None: never yet.
    good: Option<Arc<KnownTitle>>,
    /// Why the newest cannot be used.
    bad: Option<String>,
}

/// Why the titles could not be read again.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder that is not mounted lists as empty, not as an error.
    #[error(
        "it lists no title and {known} were known: they stay until it lists one; mount it or put back its folder `titles`"
    )]
    Vanished { known: usize },
}

#[derive(Serialize, Deserialize)]
struct Current {
    version: u64,
}

impl TitleCache {
    pub fn titles(&self) -> BTreeMap<TitleId, Arc<KnownTitle>> {
        let good = self.titles.iter().filter_map(|(id, cached)| Some((id.clone(), cached.good.clone()?)));
        good.collect()
    }

    pub fn unreadable(&self) -> impl Iterator<Item = &TitleId> {
        self.titles.iter().filter(|(_, cached)| cached.bad.is_some()).map(|(id, _)| id)
    }

    pub fn troubles(&self) -> Vec<Trouble> {
        let bad = self.titles.iter().filter_map(|(id, cached)| Some((id, cached.bad.clone()?)));
        bad.map(|(id, reason)| Trouble { what: format!("title {id}"), reason }).collect()
    }
}

impl Origin {
    /// A folder that exists and can be read. What a killed control plane left half-written in it goes.
    pub fn open(folder: &Path) -> Result<Self, String> {
        std::fs::read_dir(folder).map_err(|cause| cause.to_string())?;
        // Nobody else writes below it: one control plane per origin.
        if let Err(cause) = remove_unfinished(&folder.join("clusters")) {
            tracing::warn!(%cause, "what a kill left half-written in the origin cannot be removed");
        }
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .map_err(|cause| cause.to_string())?;
        Ok(Self { store: Arc::new(store.with_fsync(true)) })
    }

    /// Lists the titles and reads those that changed. If listing fails, or finds none where some were, nothing is forgotten.
    pub async fn refresh(&self, cache: &mut TitleCache) -> Result<(), RefreshError> {
        let listed: Vec<ObjectMeta> =
            self.store.list(Some(&StorePath::from(TITLES_FOLDER))).try_collect().await?;
        let named: Vec<_> =
            listed.into_iter().filter_map(|meta| Some((title_of(&meta.location)?, meta))).collect();
        if named.is_empty() && !cache.titles.is_empty() {
            return Err(RefreshError::Vanished { known: cache.titles.len() });
        }
        let after = |id: &&TitleId| cache.again.as_ref().is_none_or(|again| *id > again);
        let ids = || named.iter().map(|(id, _)| id);
        cache.again = ids().filter(after).min().or(ids().min()).cloned();
        let mut next = BTreeMap::new();
        for (id, meta) in named {
            let stamp = (meta.e_tag.clone(), meta.size, meta.last_modified.timestamp_micros());
            let previous = cache.titles.remove(&id);
            let again = cache.again.as_ref() == Some(&id);
            let cached = match previous {
                Some(previous) if previous.stamp.as_ref() == Some(&stamp) => {
                    if again {
                        self.look_again(&id, &meta, previous).await
                    } else {
                        previous
                    }
                }
                previous => self.read_title(&id, &meta, stamp, previous.and_then(|cached| cached.good)).await,
            };
            next.insert(id, cached);
        }
        cache.titles = next;
        Ok(())
    }

    async fn read_title(
        &self,
        id: &TitleId,
        meta: &ObjectMeta,
        stamp: Stamp,
        last_good: Option<Arc<KnownTitle>>,
    ) -> CachedTitle {
        let (stamp, parsed) = match self.title_bytes(meta).await {
            Ok(bytes) => (Some(stamp), parse_title(id, meta, &bytes)),
            Err(cause) => (None, Err(cause.to_string())),
        };
        match parsed {
            Ok(title) => {
                tracing::info!(title = %id, streams = title.streams.len(), "title read");
                CachedTitle { stamp, good: Some(Arc::new(KnownTitle::new(title))), bad: None }
            }
            Err(reason) => {
                tracing::warn!(title = %id, reason, "title skipped: its title.json cannot be used");
                CachedTitle { stamp, good: last_good, bad: Some(reason) }
            }
        }
    }

    /// A title whose file says that it has not changed. What is known of it is served on, whatever is there now.
    async fn look_again(&self, id: &TitleId, meta: &ObjectMeta, known: CachedTitle) -> CachedTitle {
        let Ok(bytes) = self.title_bytes(meta).await else { return known };
        CachedTitle { bad: parse_title(id, meta, &bytes).err(), ..known }
    }

    /// One byte more than is accepted is enough to refuse it.
    async fn title_bytes(&self, meta: &ObjectMeta) -> Result<bytes::Bytes, StoreError> {
        let range = 0..meta.size.min(TITLE_BYTES_MAX.saturating_add(1));
        if range.is_empty() {
            Ok(bytes::Bytes::new())
        } else {
            self.store.get_range(&meta.location, range).await
        }
    }

    /// The newest manifests of a cluster, newest first. A damaged one is skipped: a later version replaces it.
    pub async fn manifests(&self, cluster: &ClusterId) -> Result<Vec<Arc<KnownManifest>>, StoreError> {
        let folder = manifest_path(cluster, 0);
        let folder = StorePath::from(folder.rsplit_once('/').map_or("", |(folder, _)| folder));
        let listed: Vec<ObjectMeta> = self.store.list(Some(&folder)).try_collect().await?;
        let mut versions: Vec<u64> = listed.iter().filter_map(|meta| version_of(&meta.location)).collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        let mut manifests = Vec::new();
        for version in versions.into_iter().take(MANIFESTS_KEPT) {
            let bytes =
                self.store.get(&StorePath::from(manifest_path(cluster, version))).await?.bytes().await?;
            match Manifest::parse(&bytes) {
                Ok(manifest) if manifest.version == version && manifest.cluster == *cluster => {
                    manifests.push(Arc::new(KnownManifest::new(manifest)));
                }
                Ok(_) => {
                    tracing::warn!(%cluster, version, "manifest skipped: it names another cluster or version")
                }
                Err(cause) => {
                    let cure =
                        "none needed: the manifest is planned anew from the titles, under a later version";
                    rot::found(RotPlace::OriginManifest, manifest_path(cluster, version), cause, cure);
                }
            }
        }
        Ok(manifests)
    }

    /// Stores a manifest under the first version from its own that nobody has taken, then makes it current.
    pub async fn publish(&self, mut manifest: Manifest) -> Result<Arc<KnownManifest>, StoreError> {
        for _ in 0..VERSIONS_TRIED_MAX {
            let known = KnownManifest::new(manifest);
            let path = StorePath::from(manifest_path(&known.manifest.cluster, known.manifest.version));
            let bytes = known.bytes.to_vec();
            match self.store.put_opts(&path, bytes.into(), PutOptions::from(PutMode::Create)).await {
                Ok(_) => {
                    self.make_current(&known.manifest).await?;
                    return Ok(Arc::new(known));
                }
                Err(StoreError::AlreadyExists { .. }) => {
                    let next = known.manifest.version.saturating_add(1);
                    manifest = placement::renumbered(known.manifest, next);
                }
                Err(other) => return Err(other),
            }
        }
        let source = "another process takes every version: run one control plane per origin".into();
        Err(StoreError::Generic { store: "origin", source })
    }

    /// `current` never goes back: it is replaced only if it is still what was read, and names an older version.
    pub async fn make_current(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = StorePath::from(current_manifest_path(&manifest.cluster));
        let bytes = to_sealed(&Current { version: manifest.version });
        let (found, mode) = match self.store.get(&path).await {
            Ok(found) => {
                let meta = found.meta.clone();
                let version = from_sealed::<Current>(&found.bytes().await?);
                if let Err(cause) = &version {
                    let cure = "none needed: it is written again from the newest manifest that is whole";
                    rot::found(RotPlace::OriginCurrent, &path, cause, cure);
                }
                (version.ok(), PutMode::Update(UpdateVersion { e_tag: meta.e_tag, version: meta.version }))
            }
            Err(StoreError::NotFound { .. }) => (None, PutMode::Create),
            Err(other) => return Err(other),
        };
        if found.is_some_and(|found| found.version >= manifest.version) {
            return Ok(());
        }
        match self.store.put_opts(&path, bytes.clone().into(), PutOptions::from(mode)).await {
            // A folder cannot compare and replace; it has one control plane, which holds the state folder's lock.
            Err(StoreError::NotImplemented { .. }) => self.store.put(&path, bytes.into()).await.map(drop),
            put => put.map(drop),
        }
    }
}

/// `object_store` writes `NAME#1` and gives it its name when it is whole; a kill in between leaves the former.
fn remove_unfinished(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.rsplit_once('#').map(|(_, number)| number);
        if entry.file_type()?.is_dir() {
            remove_unfinished(&entry.path())?;
        } else if number.is_some_and(|number| number.parse::<u64>().is_ok()) {
            tracing::info!("{} was left half-written by a kill: removed", entry.path().display());
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn parse_title(folder: &TitleId, meta: &ObjectMeta, bytes: &[u8]) -> Result<Title, String> {
    if u64::try_from(bytes.len()).is_ok_and(|size| size > TITLE_BYTES_MAX) {
        return Err(format!("title.json is larger than {TITLE_BYTES_MAX} bytes"));
    }
    let title = Title::parse(bytes).map_err(|cause| {
        if let TitleError::Rotten(rotten) = &cause {
            let cure = "publish the title again; until then what was read before is served on, and no box lets it go";
            rot::found(RotPlace::Title, &meta.location, rotten, cure);
        }
        format!("{cause}; publish the title again")
    })?;
    match defect(folder, &title) {
        Some(what) => Err(what),
        None => Ok(title),
    }
}

/// `titles/<title>/title.json`
fn title_of(location: &StorePath) -> Option<TitleId> {
    let rest = location.as_ref().strip_prefix(TITLES_FOLDER)?.strip_prefix('/')?;
    rest.strip_suffix("/title.json")?.parse().ok()
}

/// `…/<version>.ndjson`
fn version_of(location: &StorePath) -> Option<u64> {
    location.filename()?.strip_suffix(".ndjson")?.parse().ok()
}

/// What the format allows and an answer cannot carry: texts that would break out of a playlist's quotes, and numbers
/// without sense.
fn defect(folder: &TitleId, title: &Title) -> Option<String> {
    if title.title != *folder {
        return Some(format!("it says that it is {} and lies in the folder of {folder}", title.title));
    }
    if !(1..=DURATION_MS_MAX).contains(&title.duration_ms) {
        return Some(format!("a duration of {} ms", title.duration_ms));
    }
    let plain = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b','))
    };
    title.streams.iter().find_map(|stream| {
        let language = stream.kind.language();
        let complaint = if !plain(&stream.codecs) {
            "codecs that are no RFC 6381 string"
        } else if language.is_some_and(|language| language.is_empty() || !plain(language)) {
            "a language that is no BCP 47 tag"
        } else if matches!(stream.kind, StreamKind::Video { frame_rate: (_, 0) | (0, _), .. }) {
            "a frame rate of zero or over zero"
        } else {
            return None;
        };
        Some(format!("stream {} has {complaint}", stream.id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{Box, film, world};

    async fn put(origin: &Origin, path: &str, bytes: Vec<u8>) {
        origin.store.put(&StorePath::from(path), bytes.into()).await.unwrap();
    }

    fn origin() -> (tempfile::TempDir, Origin) {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::open(folder.path()).unwrap();
        (folder, origin)
    }

    #[tokio::test]
    async fn what_a_kill_left_half_written_is_gone_after_the_next_start() {
        let (folder, origin) = origin();
        for path in ["clusters/lab/manifests/7.ndjson", "clusters/lab/current"] {
            put(&origin, path, b"whole".to_vec()).await;
            std::fs::write(folder.path().join(format!("{path}#1")), b"half").unwrap();
        }
        Origin::open(folder.path()).unwrap();
        let left = |path: &str| std::fs::read_dir(folder.path().join(path)).unwrap().count();
        assert_eq!((left("clusters/lab/manifests"), left("clusters/lab")), (1, 2));
        assert_eq!(std::fs::read(folder.path().join("clusters/lab/current")).unwrap(), b"whole");
    }

    #[tokio::test]
    async fn a_broken_title_is_named_and_the_others_go_on() {
        let (_folder, origin) = origin();
        let mut cache = TitleCache::default();
        origin.refresh(&mut cache).await.unwrap();
        assert!(cache.titles().is_empty(), "an origin without titles is empty, not an error");
        put(&origin, "titles/good/title.json", film("good").to_bytes()).await;
        put(&origin, "titles/bad/title.json", b"{".to_vec()).await;
        put(&origin, "titles/empty/title.json", Vec::new()).await;
        put(&origin, "titles/huge/title.json", vec![b' '; 5_000_000]).await;
        put(&origin, "titles/moved/title.json", film("other").to_bytes()).await;
        let mut quoted = film("quoted");
        quoted.streams[0].codecs = "avc1\",URI=\"x".to_owned();
        put(&origin, "titles/quoted/title.json", quoted.to_bytes()).await;
        origin.refresh(&mut cache).await.unwrap();
        assert_eq!(cache.titles().into_keys().map(|id| id.to_string()).collect::<Vec<_>>(), ["good"]);
        let named: Vec<_> = cache.troubles().into_iter().map(|trouble| trouble.what).collect();
        assert_eq!(named, ["title bad", "title empty", "title huge", "title moved", "title quoted"]);
    }

    #[tokio::test]
    async fn a_title_that_breaks_is_served_on_as_it_was_and_one_that_goes_is_gone() {
        let (folder, origin) = origin();
        let mut cache = TitleCache::default();
        put(&origin, "titles/film/title.json", film("film").to_bytes()).await;
        origin.refresh(&mut cache).await.unwrap();
        put(&origin, "titles/film/title.json", b"rubbish".to_vec()).await;
        origin.refresh(&mut cache).await.unwrap();
        assert_eq!((cache.titles().len(), cache.troubles().len()), (1, 1));
        put(&origin, "titles/other/title.json", film("other").to_bytes()).await;
        std::fs::remove_dir_all(folder.path().join("titles/film")).unwrap();
        origin.refresh(&mut cache).await.unwrap();
        assert_eq!((cache.titles().len(), cache.troubles().len()), (1, 0));
        assert_eq!(cache.titles().into_keys().next().unwrap().as_str(), "other");
    }

    #[tokio::test]
    async fn titles_that_vanish_all_at_once_stay_known_until_one_is_listed() {
        let (folder, origin) = origin();
        let mut cache = TitleCache::default();
        put(&origin, "titles/film/title.json", film("film").to_bytes()).await;
        put(&origin, "titles/more/title.json", film("more").to_bytes()).await;
        origin.refresh(&mut cache).await.unwrap();
        let (titles, away) = (folder.path().join("titles"), folder.path().join("away"));
        std::fs::rename(&titles, &away).unwrap();
        let missing = origin.refresh(&mut cache).await;
        assert!(matches!(missing, Err(RefreshError::Vanished { known: 2 })), "the folder is missing");
        std::fs::create_dir(&titles).unwrap();
        let empty = origin.refresh(&mut cache).await;
        assert!(matches!(empty, Err(RefreshError::Vanished { known: 2 })), "the folder is empty");
        assert_eq!(cache.titles().len(), 2);
        put(&origin, "titles/film/title.json", film("film").to_bytes()).await;
        origin.refresh(&mut cache).await.unwrap();
        assert_eq!(cache.titles().len(), 1);
    }

    #[tokio::test]
    async fn a_manifest_takes_the_next_free_version_and_current_never_goes_back() {
        let (_folder, origin) = origin();
        let lab: ClusterId = "lab".parse().unwrap();
        let manifest = world(&[film("film")], &[Box::well("box-a")]).manifest(&lab).unwrap().manifest.clone();
        assert_eq!(origin.publish(manifest.clone()).await.unwrap().manifest.version, 1);
        assert_eq!(origin.publish(manifest.clone()).await.unwrap().manifest.version, 2);
        origin.make_current(&manifest).await.unwrap();
        let current =
            origin.store.get(&StorePath::from("clusters/lab/current")).await.unwrap().bytes().await.unwrap();
        assert_eq!(from_sealed::<Current>(&current).unwrap().version, 2);
        put(&origin, "clusters/lab/manifests/9.ndjson", b"damaged".to_vec()).await;
        let read = origin.manifests(&lab).await.unwrap();
        assert_eq!(read.iter().map(|known| known.manifest.version).collect::<Vec<_>>(), [2, 1]);
    }
}
