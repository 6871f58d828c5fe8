//! A control plane in this process: a title in a folder, an appliance that is well.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use content::control_socket::PublicKey;
use content::id::{ApplianceId, ByteSpan, Extension, ObjectId, Tier};
use content::origin::{object_path, title_path};
use content::report::{Ordinals, Registration};
use content::title::{ObjectRef, Stream, StreamKind, TITLE_FORMAT, Term, Title};
use content::token::KeyRing;
use control_plane::service::config::Config;
use control_plane::service::{Running, router, start};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

use super::Answer;

const AGENT_KEY: &str = "agents-speak-friend-and-enter";
const BOX: &str = "box-a";

pub struct World {
    // The order in which they are dropped: what uses the folder first.
    router: Router,
    running: Running,
    runtime: Runtime,
    _folder: tempfile::TempDir,
    fleet: BTreeMap<ApplianceId, (Registration, bool)>,
    keys: KeyRing,
    manifest_version: u64,
    starts: u64,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    /// The same world for every input, but for its clock.
    pub fn with(run: impl FnOnce(&World)) {
        WORLD.with_borrow_mut(|place| {
            let world = place.get_or_insert_with(World::new);
            world.report();
            run(world);
            if world.registered() != world.fleet {
                *place = None;
            }
        });
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the run");
        write_files(folder.path());
        let config = Config::read(&folder.path().join("control.toml")).expect("it was just written");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let running = runtime.block_on(start(config)).expect("it starts");
        let router = router(running.control.clone());
        let mut world = Self {
            router,
            running,
            runtime,
            _folder: folder,
            fleet: BTreeMap::new(),
            keys: KeyRing::default(),
            manifest_version: 0,
            starts: 0,
        };
        let told: Value =
            serde_json::from_slice(&world.get("/v1/agent/token-keys").body).expect("it is JSON");
        let keys: Vec<PublicKey> = serde_json::from_value(told["keys"].clone()).expect("a list of keys");
        world.keys = KeyRing::new(&keys).expect("its own keys");
        let registration =
            json!({"appliance": BOX, "cluster": "lab", "base_url": "http://127.0.0.2:8080", "version": "1"});
        let registered = world.post("/v1/agent/register", &registration);
        assert_eq!(registered.status, StatusCode::OK);
        world.await_manifest();
        world.fleet = world.registered();
        world
    }

    /// Until the planner has named the box: it is woken by the registration.
    fn await_manifest(&mut self) {
        for _ in 0..10_000 {
            self.runtime.block_on(tokio::task::yield_now());
            let orders: Value = serde_json::from_slice(&self.report().body).expect("it is JSON");
            self.manifest_version = orders["manifest_version"].as_u64().unwrap_or(0);
            if self.manifest_version > 0 {
                return;
            }
        }
        panic!("no manifest names the appliance");
    }

    /// That the box is well and holds all; a new start of it each time, so that no earlier report is the later one.
    fn report(&mut self) -> Answer {
        self.starts += 1;
        let report = json!({
            "appliance": BOX, "boot": format!("start-{}", self.starts), "sequence": 0, "health": "ok",
            "limited_by": "none", "headroom": 0.9, "draining": false, "generation": 1,
            "holds": {"manifest_version": self.manifest_version, "missing": Ordinals::default(), "unlisted": []},
            "volumes": [],
            "server": {"uptime_ms": 1, "connections": 0, "requests": 0, "bytes_sent": 0, "memory_hits": 0,
                       "memory_misses": 0, "rate_bps": 0},
        });
        self.post("/v1/agent/reports", &report)
    }

    fn registered(&self) -> BTreeMap<ApplianceId, (Registration, bool)> {
        let snapshot = self.running.control.snapshot();
        let fleet = snapshot.fleet.iter();
        let known =
            fleet.map(|(name, known)| (name.clone(), (known.registration.clone(), known.drain_ordered)));
        known.collect()
    }

    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub fn get(&self, target: &str) -> Answer {
        let request = Request::get(target).header(header::AUTHORIZATION, bearer());
        self.ask(request.body(Body::empty()).expect("a request"))
    }

    fn post(&self, target: &str, body: &Value) -> Answer {
        let request = Request::post(target).header(header::AUTHORIZATION, bearer());
        let request = request.header(header::CONTENT_TYPE, "application/json");
        self.ask(request.body(Body::from(body.to_string())).expect("a request"))
    }

    pub fn ask(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.expect("a router always answers");
            let (head, body) = response.into_parts();
            let body = to_bytes(body, 64 << 20).await.expect("an answer in memory is whole");
            Answer { status: head.status, headers: head.headers, body }
        })
    }
}

pub fn bearer() -> String {
    format!("Bearer {AGENT_KEY}")
}

pub fn now() -> Timestamp {
    Timestamp::now()
}

fn write_files(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the run's folder");
        fs::write(file, bytes).expect("the run's folder");
    };
    write("agent.key", AGENT_KEY.as_bytes());
    // Nothing changes the origin here: the planner turns when it is woken.
    let config = "listen = \"127.0.0.1:0\"\norigin = \"origin\"\nstate = \"state\"\nagent_key_file = \"agent.key\"\n\
                  refresh_ms = 3600000\n[[cluster]]\nname = \"lab\"\n";
    write("control.toml", config.as_bytes());
    let film = film();
    write(&format!("origin/{}", title_path(&film.title)), &film.to_bytes());
    for stream in &film.streams {
        for object in [stream.track, stream.playlist] {
            let path = object_path(object.object, object.extension);
            write(&format!("origin/{path}"), &bytes_of(stream.id.as_str(), object.extension));
        }
    }
}

fn bytes_of(stream: &str, extension: Extension) -> Vec<u8> {
    format!("{stream} {extension} ").into_bytes().repeat(20)
}

/// Two pictures, two sounds, subtitles.
pub fn film() -> Title {
    let video = |height| StreamKind::Video { width: height * 16 / 9, height, frame_rate: (25, 1) };
    let audio = |language: &str| StreamKind::Audio {
        language: language.to_owned(),
        channels: 2,
        sample_rate_hz: 48_000,
    };
    let subtitles = StreamKind::Subtitles { language: "en".to_owned() };
    Title {
        format: TITLE_FORMAT,
        title: "film".parse().expect("a slug"),
        name: "The film".to_owned(),
        duration_ms: 48_000,
        streams: vec![
            stream("video-360p", Tier::Sd, video(360), "avc1.4d401e"),
            stream("video-720p", Tier::Hd, video(720), "avc1.64001f"),
            stream("audio-en", Tier::Base, audio("en"), "mp4a.40.2"),
            stream("audio-sv", Tier::Base, audio("sv"), "mp4a.40.2"),
            stream("subtitles-en", Tier::Base, subtitles, ""),
        ],
        terms: vec![Term {
            territories: vec!["SE".to_owned()],
            from: "2020-01-01T00:00:00Z".parse().expect("an instant"),
            until: None,
        }],
        source: ObjectId::of(b"source"),
        recipe: ObjectId::of(b"recipe"),
    }
}

fn stream(id: &str, tier: Tier, kind: StreamKind, codecs: &str) -> Stream {
    let subtitles = matches!(kind, StreamKind::Subtitles { .. });
    let object = |extension| {
        let bytes = bytes_of(id, extension);
        let size = u64::try_from(bytes.len()).expect("a few hundred");
        ObjectRef { object: ObjectId::of(&bytes), extension, bytes: size }
    };
    Stream {
        id: id.parse().expect("a slug"),
        tier,
        kind,
        codecs: codecs.to_owned(),
        bandwidth_bps: 1_000_000,
        average_bandwidth_bps: 800_000,
        track: object(if subtitles { Extension::Vtt } else { Extension::Mp4 }),
        playlist: object(Extension::M3u8),
        init: ByteSpan::new(0, 99).filter(|_| !subtitles),
        index: ByteSpan::new(100, 199).filter(|_| !subtitles),
    }
}
