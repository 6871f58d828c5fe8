//! Small scenes, step by step, where the made-up box of `tests` leaves too much to chance: what the core does next.

use content::catalogue::{Entry, FileRecord};
use content::control_socket::{PublicKey, ServedVolume};
use content::id::Extension;
use content::manifest::ManifestEntry;
use content::report::{Health, ServerFigures, VolumeState};
use jiff::{SignedDuration, Timestamp};

use super::*;

const A: VolumeId = VolumeId([1; 16]);
const B: VolumeId = VolumeId([2; 16]);
const MIB: u64 = 1 << 20;

struct Scene {
    core: Core,
    ms: u64,
    clock_off_ms: i64,
    status: ServerStatus,
    volumes: Vec<VolumeId>,
}

fn object(seed: u8) -> ObjectId {
    ObjectId::of(&[seed])
}

fn path(title: &str, seed: u8) -> MediaPath {
    format!("/{title}/sd/{}.mp4", object(seed)).parse().unwrap()
}

/// Paths and sizes, all on this box.
fn manifest(version: u64, entries: &[(MediaPath, u64)]) -> Manifest {
    let entry = |(path, bytes): &(MediaPath, u64)| ManifestEntry {
        path: path.clone(),
        bytes: *bytes,
        worth: 1.0,
        on: vec![0],
    };
    Manifest {
        cluster: "lab".parse().unwrap(),
        version,
        appliances: vec!["box-a".parse().unwrap()],
        entries: entries.iter().map(entry).collect(),
    }
}

/// Generation 1: `/film/sd/<object 1>.mp4` of a MiB as file 1 of `volume`.
fn one_film_on(volume: VolumeId) -> Contents {
    let entry = Entry {
        key: path("film", 1).key(),
        object: object(1),
        file: 0,
        offset: 0,
        bytes: MIB,
        extension: Extension::Mp4,
    };
    let files = vec![FileRecord { number: 1, data_bytes: MIB, volume: 0 }];
    Contents { generation: 1, next_file: 2, volumes: vec![volume], files, entries: vec![entry] }
}

impl Scene {
    /// A box with these volumes whose server serves `contents`.
    fn new(volumes: &[VolumeId], contents: Contents, manifest: &Manifest) -> Self {
        let settings = Settings {
            appliance: "box-a".parse().unwrap(),
            boot: "boot".to_owned(),
            downloads_max: 3,
            volumes: (0..volumes.len()).map(|slot| (PathBuf::from(format!("v{slot}")), None)).collect(),
            publish_every_ms: 60_000,
            pack_bytes: 64 << 20,
        };
        let serves =
            |uuid: &VolumeId| ServedVolume { uuid: *uuid, usable: true, read_errors: 0, read_latency_us: 0 };
        let status = ServerStatus {
            generation: contents.generation,
            oldest_in_use: contents.generation,
            draining: false,
            token_keys: 0,
            withdrawn: vec![],
            volumes: volumes.iter().map(serves).collect(),
            limited_by: "none".to_owned(),
            headroom: 1.0,
            figures: ServerFigures { uptime_ms: 1_000, ..ServerFigures::default() },
        };
        let loaded = Loaded { contents, is_current: true, others: vec![] };
        let core = Core::new(settings, loaded, std::slice::from_ref(manifest), None);
        Self { core, ms: 0, clock_off_ms: 0, status, volumes: volumes.to_vec() }
    }

    fn now(&self) -> Now {
        let since = SignedDuration::from_millis(i64::try_from(self.ms).unwrap());
        Now { ms: self.ms, wall: Timestamp::UNIX_EPOCH + since, clock_off_ms: self.clock_off_ms }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.core.step(event, self.now())
    }

    /// After so long, server and volumes answer as `self` says.
    fn gather_after(&mut self, ms: u64) -> Vec<Action> {
        self.ms += ms;
        let probed = |uuid: &VolumeId| {
            Ok(Probed { uuid: *uuid, bytes_total: 1 << 40, bytes_free: 1 << 39, read_only: false })
        };
        let volumes = self.volumes.iter().map(probed).collect();
        self.step(Event::Gathered { server: Some(Box::new(self.status.clone())), volumes })
    }

    fn scan_found_all(&mut self, slot: usize) -> Vec<Action> {
        self.step(Event::Scanned { slot, scan: Ok(Scan::default()) })
    }

    fn missing(&mut self) -> Vec<u32> {
        self.core.next_report().holds.missing.0.into_iter().collect()
    }
}

#[test]
fn the_newest_generation_under_a_rotten_current_is_written_again_though_nothing_changed() {
    let asked = manifest(1, &[(path("film", 1), MIB)]);
    for is_current in [true, false] {
        let mut scene = Scene::new(&[A], one_film_on(A), &asked);
        scene.core.publish =
            publish::State::new(Loaded { contents: one_film_on(A), is_current, others: vec![] });
        scene.gather_after(10);
        let mut actions = scene.scan_found_all(0);
        actions.extend(scene.gather_after(2_000));
        let written = actions.iter().any(|action| matches!(action, Action::Write(_)));
        assert_eq!(written, !is_current);
    }
}

fn keys_told(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Tell(Tell::Keys, _)))
}

#[test]
fn a_path_that_contradicts_another_on_its_size_is_reported_as_missing() {
    let asked = manifest(1, &[(path("film", 1), MIB), (path("other", 1), MIB + 1)]);
    let mut scene = Scene::new(&[A], one_film_on(A), &asked);
    assert_eq!(scene.missing(), [0, 1], "nothing is served yet");
    scene.gather_after(10);
    assert_eq!(scene.missing(), [1]);
}

#[test]
fn the_same_version_with_other_contents_is_taken_after_registering_anew() {
    let mut scene = Scene::new(&[A], Contents::default(), &manifest(1, &[(path("film", 1), MIB)]));
    let asks = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::FetchManifest { etag } => Some(etag.clone()),
            _ => None,
        })
    };
    let registered = || Event::Registered(Ok(Registered { report_every_ms: 2_000 }));
    scene.step(Event::Tick);
    assert_eq!(asks(&scene.step(registered())), Some(None));
    let first = manifest(1, &[(path("film", 1), MIB)]);
    scene.step(Event::Manifest(Ok(Some(("\"one\"".to_owned(), Box::new(first))))));
    scene.ms += 10_000;
    let orders = Orders { manifest_version: 1, drain: false, token_keys_version: String::new(), clock: None };
    assert_eq!(asks(&scene.step(Event::Reported(Ok(orders)))), None);
    let forgotten = ControlError { call: "report", status: Some(404), what: "unknown".to_owned() };
    let actions = scene.step(Event::Reported(Err(forgotten)));
    assert!(actions.contains(&Action::Register));
    assert_eq!(asks(&scene.step(registered())), Some(Some("\"one\"".to_owned())));
    let other = manifest(1, &[(path("film", 2), MIB)]);
    scene.step(Event::Manifest(Ok(Some(("\"two\"".to_owned(), Box::new(other))))));
    let desired = scene.core.control.desired.as_ref().unwrap();
    assert!(desired.wants(&object(2)) && !desired.wants(&object(1)));
}

#[test]
fn a_server_that_was_away_or_started_anew_is_handed_the_keys_again() {
    let mut scene = Scene::new(&[A], Contents::default(), &manifest(1, &[]));
    let key = PublicKey { key_id: "one".to_owned(), x: "A".repeat(43) };
    scene.step(Event::Keys(Ok(TokenKeys { version: "1".to_owned(), keys: vec![key] })));
    // It kept as many keys as it should have, of an earlier day.
    scene.status.token_keys = 1;
    let hand = |scene: &mut Scene| {
        scene.status.figures.uptime_ms += 1_000;
        let told = keys_told(&scene.gather_after(10_000));
        if told {
            let answer = Ok(Box::new(scene.status.clone()));
            scene.step(Event::Told { told: Tell::Keys, answer });
        }
        told
    };
    assert!(hand(&mut scene));
    assert!(!hand(&mut scene), "it has them");
    scene.status.figures.uptime_ms = 5;
    assert!(hand(&mut scene), "started anew");
    assert!(!hand(&mut scene), "it has them");
    scene.step(Event::Gathered { server: None, volumes: vec![] });
    assert!(hand(&mut scene), "was away");
    assert!(!hand(&mut scene), "it has them");
}

#[test]
fn what_lies_on_a_disk_that_the_server_does_not_know_is_missing_and_goes_elsewhere() {
    let asked = manifest(1, &[(path("film", 1), MIB)]);
    // B replaced the disk that the server knows, at the same path.
    let mut scene = Scene::new(&[A, B], one_film_on(B), &asked);
    scene.status.volumes.truncate(1);
    scene.gather_after(10);
    assert_eq!(scene.missing(), [0]);
    (0..2).for_each(|slot| drop(scene.scan_found_all(slot)));
    let states = |scene: &mut Scene| -> Vec<_> {
        scene.core.next_report().volumes.iter().map(|volume| volume.state).collect()
    };
    assert_eq!(states(&mut scene), [VolumeState::Ok, VolumeState::Ok], "it may be new to the server");
    (0..2).for_each(|_| drop(scene.gather_after(5_000)));
    assert_eq!(states(&mut scene), [VolumeState::Ok, VolumeState::Failed]);
    assert!(!scene.core.shelf.holds(&object(1)), "it is pulled again");
    // The server is started anew.
    scene.status.volumes.push(ServedVolume { uuid: B, ..scene.status.volumes[0].clone() });
    scene.gather_after(1_000);
    let actions = scene.gather_after(1_000);
    assert!(actions.iter().any(|action| matches!(action, Action::Scan { uuid: B, .. })), "{actions:?}");
    assert_eq!(scene.missing(), [0; 0]);
}

/// Tells where film 2 is to be had; gives what is begun, if anything.
fn offer_film_2(scene: &mut Scene) -> Option<Job> {
    let answer = Ok(FillAnswer { objects: vec![tests::offer(&path("film", 2))] });
    let actions = scene.step(Event::Sources { asked: vec![object(2)], answer });
    started(actions)
}

fn started(actions: Vec<Action>) -> Option<Job> {
    actions.into_iter().find_map(|action| match action {
        Action::Start(job) => Some(job),
        _ => None,
    })
}

/// Pulls film 2 to volume A and publishes it, at once.
fn is_filled(scene: &mut Scene, job: Option<Job>) {
    let job = job.expect("film 2 is pulled");
    assert_eq!(job.at.uuid, A);
    scene.ms += 2_000;
    let actions = scene.step(Event::JobEnded { object: job.object, outcome: Outcome::Stored });
    let writes = |action: &Action| matches!(action, Action::Write(contents) if contents.entries.len() == 2);
    assert!(actions.iter().any(writes), "{actions:?}");
}

#[test]
fn a_volume_whose_reading_hangs_at_the_start_holds_the_box_up_for_half_a_minute_only() {
    let asked = manifest(1, &[(path("film", 1), MIB), (path("film", 2), MIB)]);
    let mut scene = Scene::new(&[A, B], one_film_on(A), &asked);
    scene.gather_after(0);
    scene.scan_found_all(0);
    assert_eq!(offer_film_2(&mut scene), None, "it may lie on the other volume");
    let before = started(scene.gather_after(29_000));
    assert_eq!(before, None);
    let job = started(scene.gather_after(1_000));
    is_filled(&mut scene, job);
}

#[test]
fn a_volume_that_comes_later_holds_nothing_up_while_it_is_read() {
    let asked = manifest(1, &[(path("film", 1), MIB), (path("film", 2), MIB)]);
    let mut scene = Scene::new(&[A, B], one_film_on(A), &asked);
    scene.gather_after(0);
    (0..2).for_each(|slot| drop(scene.scan_found_all(slot)));
    scene.ms += 1_000;
    let missing = || Err(VolumeFault::Missing("pulled out".to_owned()));
    let there = Ok(Probed { uuid: A, bytes_total: 1 << 40, bytes_free: 1 << 39, read_only: false });
    let server = Some(Box::new(scene.status.clone()));
    scene.step(Event::Gathered { server, volumes: vec![there, missing()] });
    let actions = scene.gather_after(1_000);
    assert!(actions.iter().any(|action| matches!(action, Action::Scan { uuid: B, .. })));
    let job = offer_film_2(&mut scene);
    is_filled(&mut scene, job);
}

#[test]
fn sources_that_all_open_later_are_said_once_and_again_when_they_still_do() {
    let asked = manifest(1, &[(path("film", 2), MIB)]);
    let mut scene = Scene::new(&[A], one_film_on(A), &asked);
    scene.gather_after(0);
    scene.scan_found_all(0);
    let answer = |scene: &mut Scene, ahead_ms: i64| {
        let mut offer = tests::offer(&path("film", 2));
        offer.sources[0].not_before = scene.now().wall + SignedDuration::from_millis(ahead_ms);
        let answer = Ok(FillAnswer { objects: vec![offer] });
        let job = started(scene.step(Event::Sources { asked: vec![object(2)], answer }));
        (job.is_some(), scene.core.fill.closed_said(), scene.core.next_report().health)
    };
    let hour_ms = 3_600_000;
    assert_eq!(answer(&mut scene, hour_ms), (false, 1, Health::Ok));
    let asks = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::AskSources { .. }));
    assert!(!asks(&scene.gather_after(60_000)));
    assert!(asks(&scene.gather_after(300_000)), "what it knows is too old");
    assert_eq!(answer(&mut scene, hour_ms), (false, 2, Health::Degraded));
    assert_eq!(answer(&mut scene, 0), (true, 0, Health::Ok));
}

#[test]
fn a_status_that_the_answer_to_a_publication_overtook_is_not_believed() {
    let asked = manifest(1, &[(path("film", 1), MIB)]);
    let mut scene = Scene::new(&[A], one_film_on(A), &asked);
    // Written, and not told yet.
    scene.core.publish = publish::State::new(Loaded {
        contents: Contents { generation: 2, ..one_film_on(A) },
        is_current: true,
        others: vec![],
    });
    let publishes =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Tell(Tell::Publish, _)));
    let before = scene.status.clone();
    let actions = scene.gather_after(10);
    assert!(publishes(&actions), "the server serves generation 1");
    assert!(actions.contains(&Action::Gather), "and is asked how it is");
    scene.status.generation = 2;
    let answer = Ok(Box::new(scene.status.clone()));
    scene.step(Event::Told { told: Tell::Publish, answer });
    scene.status = before;
    assert!(!publishes(&scene.gather_after(10)), "it was asked before it was told");
    assert!(scene.core.server.as_ref().is_some_and(|status| status.generation == 2));
    // Asked anew, it is believed again.
    scene.ms += 60_000;
    assert!(scene.step(Event::Tick).contains(&Action::Gather));
    assert!(publishes(&scene.gather_after(10)), "it serves an older one");
}
