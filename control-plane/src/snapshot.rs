//! The world as the control plane sees it at one instant: immutable, shared, replaced whole.
//!
//! Not a store: what must last lives with [`crate::service`]; what is live is the last value that an appliance reported.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use content::id::{ApplianceId, CatalogueKey, ClusterId, Extension, MediaPath, ObjectId, Tier, TitleId};
use content::manifest::Manifest;
use content::report::{Registration, Report};
use content::title::{Stream, Title};
use jiff::{SignedDuration, Timestamp};

use crate::licence::TermsTable;

/// An appliance that still reports against an older manifest than these has only its unlisted objects believed.
pub const MANIFESTS_KEPT: usize = 8;

#[derive(Clone, Default)]
pub struct Snapshot {
    pub titles: Arc<BTreeMap<TitleId, Arc<KnownTitle>>>,
    pub terms: Arc<TermsTable>,
    pub clusters: Arc<BTreeMap<ClusterId, Cluster>>,
    /// Newest first, not more than [`MANIFESTS_KEPT`].
    pub manifests: BTreeMap<ClusterId, Vec<Arc<KnownManifest>>>,
    pub fleet: BTreeMap<ApplianceId, Arc<Appliance>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Where its viewers are; None: anywhere. Others are served from it only after those of their own territory.
    pub territory: Option<String>,
}

/// A title with the catalogue keys of its streams, so that a play hashes no path.
pub struct KnownTitle {
    pub title: Title,
    /// Of `title.streams`, in that order.
    pub keys: Vec<StreamKeys>,
}

#[derive(Clone, Copy)]
pub struct StreamKeys {
    pub track: CatalogueKey,
    pub playlist: CatalogueKey,
}

/// A manifest, its bytes, and the way from a key to its ordinal.
pub struct KnownManifest {
    pub manifest: Manifest,
    pub bytes: Arc<[u8]>,
    /// A strong ETag: the version and a digest of the bytes, because an origin that was replaced counts its versions from
    /// the start again.
    pub tag: String,
    ordinals: HashMap<CatalogueKey, u32>,
}

#[derive(Clone)]
pub struct Appliance {
    pub registration: Registration,
    /// An operator asked for it; lasts until the operator takes it back.
    pub drain_ordered: bool,
    /// None: registered, and silent since the control plane's start.
    pub live: Option<Arc<Live>>,
}

/// The last report.
#[derive(Clone)]
pub struct Live {
    pub report: Report,
    /// Moves with the control plane's clock when that jumps: it is for its age only.
    pub received: Timestamp,
    /// What the control plane's clock said when it came.
    pub clock: Timestamp,
    /// Of `report.holds.unlisted`, sorted.
    unlisted: Vec<CatalogueKey>,
}

impl KnownTitle {
    pub fn new(title: Title) -> Self {
        let keys = title.streams.iter().map(|stream| StreamKeys {
            track: path(&title.title, stream.tier, stream.track.object, stream.track.extension).key(),
            playlist: path(&title.title, stream.tier, stream.playlist.object, stream.playlist.extension)
                .key(),
        });
        let keys = keys.collect();
        Self { title, keys }
    }

    pub fn stream(&self, index: usize) -> Option<(&Stream, StreamKeys)> {
        Some((self.title.streams.get(index)?, *self.keys.get(index)?))
    }
}

fn path(title: &TitleId, tier: Tier, object: ObjectId, extension: Extension) -> MediaPath {
    MediaPath { title: title.clone(), tier, object, extension }
}

impl KnownManifest {
    pub fn new(manifest: Manifest) -> Self {
        let bytes: Arc<[u8]> = manifest.to_bytes().into();
        let tag = format!("\"{}-{}\"", manifest.version, &blake3::hash(&bytes).to_hex()[..32]);
        let ordinals = manifest.entries.iter().map(|entry| entry.path.key()).zip(0..).collect();
        Self { manifest, bytes, tag, ordinals }
    }

    pub fn ordinal(&self, key: CatalogueKey) -> Option<u32> {
        self.ordinals.get(&key).copied()
    }
}

impl Live {
    pub fn new(report: Report, received: Timestamp) -> Self {
        let mut unlisted: Vec<_> = report.holds.unlisted.iter().map(MediaPath::key).collect();
        unlisted.sort_unstable();
        Self { report, received, clock: received, unlisted }
    }
}

/// What one appliance holds, as far as its last report can be understood.
pub struct Residency<'a> {
    live: &'a Live,
    /// The manifest that its report counts in, and its index there.
    manifest: Option<(&'a KnownManifest, u16)>,
}

impl Residency<'_> {
    pub fn holds(&self, key: CatalogueKey) -> bool {
        // Without a catalogue it serves nothing, whatever its exceptions say.
        self.live.report.generation > 0
            && (self.listed(key) || self.live.unlisted.binary_search(&key).is_ok())
    }

    fn listed(&self, key: CatalogueKey) -> bool {
        let Some((known, index)) = self.manifest else { return false };
        let Some(ordinal) = known.ordinal(key) else { return false };
        let entry = usize::try_from(ordinal).ok().and_then(|ordinal| known.manifest.entries.get(ordinal));
        let asked = entry.is_some_and(|entry| entry.on.binary_search(&index).is_ok());
        asked && !self.live.report.holds.missing.0.contains(ordinal)
    }
}

impl Snapshot {
    /// The manifest that a cluster should be at.
    pub fn manifest(&self, cluster: &ClusterId) -> Option<&Arc<KnownManifest>> {
        self.manifests.get(cluster)?.first()
    }

    /// None if the appliance has not reported.
    pub fn residency<'a>(&'a self, appliance: &'a Appliance) -> Option<Residency<'a>> {
        let live = appliance.live.as_deref()?;
        let kept = self.manifests.get(&appliance.registration.cluster);
        let version = live.report.holds.manifest_version;
        let known = kept.and_then(|kept| kept.iter().find(|known| known.manifest.version == version));
        let index = known.and_then(|known| known.manifest.index_of(&appliance.registration.appliance));
        Some(Residency { live, manifest: known.map(AsRef::as_ref).zip(index) })
    }

    /// Makes a manifest the newest of its cluster.
    pub fn with_manifest(&self, known: Arc<KnownManifest>) -> Self {
        let mut next = self.clone();
        let kept = next.manifests.entry(known.manifest.cluster.clone()).or_default();
        kept.insert(0, known);
        kept.truncate(MANIFESTS_KEPT);
        next
    }

    /// Copies one pointer per appliance: 0.1 ms at 20,000 of them. A larger fleet's reports are batched first.
    pub fn with_appliance(&self, appliance: Appliance) -> Self {
        let mut next = self.clone();
        next.fleet.insert(appliance.registration.appliance.clone(), Arc::new(appliance));
        next
    }

    /// The wall's clock was set by so much: what is known stays as old as it is.
    pub fn after_clock_jump(&self, by: SignedDuration) -> Self {
        let mut next = self.clone();
        for appliance in next.fleet.values_mut() {
            let Some(live) = &appliance.live else { continue };
            let received = live.received.checked_add(by).unwrap_or(live.received);
            let live = Live { received, ..live.as_ref().clone() };
            *appliance = Arc::new(Appliance { live: Some(Arc::new(live)), ..appliance.as_ref().clone() });
        }
        next
    }

    pub fn without_appliance(&self, appliance: &ApplianceId) -> Self {
        let mut next = self.clone();
        next.fleet.remove(appliance);
        next
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! A small world for the tests of every module.

    use content::id::ByteSpan;
    use content::report::{Health, Holdings, Ordinals, ServerFigures};
    use content::title::{ObjectRef, StreamKind, Term};
    use jiff::ToSpan as _;

    use super::*;
    use crate::placement;

    pub(crate) fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    /// 360p (sd), 720p (hd), AAC en and sv, subtitles en; licensed in SE and NO.
    pub(crate) fn film(name: &str) -> Title {
        let video = |height| StreamKind::Video { width: height * 16 / 9, height, frame_rate: (24_000, 1001) };
        let audio = |language: &str| StreamKind::Audio {
            language: language.to_owned(),
            channels: 2,
            sample_rate_hz: 48_000,
        };
        let subtitles = StreamKind::Subtitles { language: "en".to_owned() };
        let streams = vec![
            stream(name, "video-360p", Tier::Sd, video(360), "avc1.4d401e", 900_000),
            stream(name, "video-720p", Tier::Hd, video(720), "avc1.64001f", 3_000_000),
            stream(name, "audio-en", Tier::Base, audio("en"), "mp4a.40.2", 130_000),
            stream(name, "audio-sv", Tier::Base, audio("sv"), "mp4a.40.2", 131_000),
            stream(name, "subtitles-en", Tier::Base, subtitles, "", 300),
        ];
        Title {
            format: content::title::TITLE_FORMAT,
            title: name.parse().unwrap(),
            name: name.to_owned(),
            duration_ms: 48_000,
            streams,
            terms: vec![Term {
                territories: vec!["SE".to_owned(), "NO".to_owned()],
                from: "2026-01-01T00:00:00Z".parse().unwrap(),
                until: None,
            }],
            source: ObjectId::of(b"source"),
            recipe: ObjectId::of(b"recipe"),
        }
    }

    fn stream(
        title: &str,
        id: &str,
        tier: Tier,
        kind: StreamKind,
        codecs: &str,
        bandwidth_bps: u64,
    ) -> Stream {
        let subtitles = matches!(kind, StreamKind::Subtitles { .. });
        let object = |what: &str, extension, bytes| ObjectRef {
            object: ObjectId::of(format!("{title} {id} {what}").as_bytes()),
            extension,
            bytes,
        };
        Stream {
            id: id.parse().unwrap(),
            tier,
            kind,
            codecs: codecs.to_owned(),
            bandwidth_bps,
            average_bandwidth_bps: bandwidth_bps * 3 / 4,
            track: object(
                "track",
                if subtitles { Extension::Vtt } else { Extension::Mp4 },
                bandwidth_bps * 4,
            ),
            playlist: object("playlist", Extension::M3u8, 900),
            init: ByteSpan::new(0, 99).filter(|_| !subtitles),
            index: ByteSpan::new(100, 199).filter(|_| !subtitles),
        }
    }

    /// An appliance as a test wants it.
    #[derive(Clone, Debug)]
    pub(crate) struct Box {
        pub name: String,
        pub cluster: &'static str,
        pub headroom: f64,
        pub health: Health,
        pub draining: bool,
        pub drain_ordered: bool,
        pub server_down: bool,
        pub generation: u64,
        /// None: it has never reported.
        pub age_s: Option<i64>,
        pub manifest_version: u64,
        pub missing: Vec<u32>,
        pub unlisted: Vec<MediaPath>,
        /// How far its clock is ahead when it reports.
        pub clock_off_s: i64,
    }

    impl Box {
        pub(crate) fn well(name: &str) -> Self {
            Self {
                name: name.to_owned(),
                cluster: "lab",
                headroom: 0.9,
                health: Health::Ok,
                draining: false,
                drain_ordered: false,
                server_down: false,
                generation: 1,
                age_s: Some(1),
                manifest_version: 1,
                missing: Vec::new(),
                unlisted: Vec::new(),
                clock_off_s: 0,
            }
        }

        pub(crate) fn appliance(&self) -> Appliance {
            let registration = Registration {
                appliance: self.name.parse().unwrap(),
                cluster: self.cluster.parse().unwrap(),
                base_url: format!("http://{}.test:8080", self.name),
                version: "0.1.0".to_owned(),
            };
            let live = self.age_s.map(|age_s| Arc::new(Live::new(self.report(), noon() - age_s.seconds())));
            Appliance { registration, drain_ordered: self.drain_ordered, live }
        }

        fn report(&self) -> Report {
            Report {
                appliance: self.name.parse().unwrap(),
                boot: "b".to_owned(),
                sequence: 1,
                health: self.health,
                limited_by: "none".to_owned(),
                headroom: self.headroom,
                draining: self.draining,
                generation: self.generation,
                holds: Holdings {
                    manifest_version: self.manifest_version,
                    missing: Ordinals(self.missing.iter().copied().collect()),
                    unlisted: self.unlisted.clone(),
                },
                volumes: Vec::new(),
                reasons: Vec::new(),
                clock: self.age_s.map(|age_s| noon() - age_s.seconds() + self.clock_off_s.seconds()),
                server: (!self.server_down).then(ServerFigures::default),
                rot: [("file".to_owned(), 1)].into(),
            }
        }
    }

    /// One cluster, `lab`, with everything of the titles in manifest 1 for every box.
    pub(crate) fn world(titles: &[Title], boxes: &[Box]) -> Snapshot {
        let cluster: ClusterId = "lab".parse().unwrap();
        let known =
            titles.iter().map(|title| (title.title.clone(), Arc::new(KnownTitle::new(title.clone()))));
        let fleet = boxes.iter().map(|one| (one.name.parse().unwrap(), Arc::new(one.appliance())));
        let mut snapshot = Snapshot {
            titles: Arc::new(known.collect()),
            clusters: Arc::new([(cluster.clone(), Cluster { territory: None })].into()),
            fleet: fleet.collect(),
            ..Snapshot::default()
        };
        if let Ok(Some(manifest)) = placement::next_manifest(&snapshot, &cluster, &Default::default()) {
            snapshot = snapshot.with_manifest(Arc::new(KnownManifest::new(manifest)));
        }
        snapshot
    }

    #[test]
    fn holdings_are_the_manifest_less_the_missing_and_the_unlisted_beside() {
        let film = KnownTitle::new(film("film"));
        let key = film.keys[0].track;
        let path = film.title.objects().next().unwrap().0;
        let holds = |change: &dyn Fn(&mut Box, u32)| {
            let snapshot = world(std::slice::from_ref(&film.title), &[Box::well("box-a")]);
            let ordinal = snapshot.manifest(&"lab".parse().unwrap()).unwrap().ordinal(key).unwrap();
            let mut one = Box::well("box-a");
            change(&mut one, ordinal);
            let appliance = one.appliance();
            snapshot.residency(&appliance).is_some_and(|residency| residency.holds(key))
        };
        assert!(holds(&|_, _| ()));
        assert!(!holds(&|one, ordinal| one.missing = vec![ordinal]));
        assert!(holds(&|one, ordinal| one.missing = vec![ordinal + 1]));
        assert!(!holds(&|one, _| one.manifest_version = 2), "an unknown version says nothing");
        assert!(holds(&|one, _| (one.manifest_version, one.unlisted) = (2, vec![path.clone()])));
        assert!(!holds(&|one, _| one.generation = 0), "without a catalogue it serves nothing");
        assert!(!holds(&|one, _| one.age_s = None));
        assert!(!holds(&|one, _| one.name = "box-b".to_owned()), "the manifest asks nothing of a stranger");
    }
}
