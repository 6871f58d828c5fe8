//! A control plane on a real socket over a real origin folder, and an agent's and a player's half of the talk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use content::id::{ByteSpan, Extension, ObjectId, Tier};
use content::origin::{object_path, title_path, tree_path};
use content::title::{ObjectRef, Stream, StreamKind, TITLE_FORMAT, Term, Title};
use content::tree::TreeBuilder;
use control_plane::service::config::Config;
use control_plane::service::{Running, start};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub const AGENT_KEY: &str = "agents-speak-friend-and-enter";
pub const TRACK_BYTES: usize = 700_000;

pub struct World {
    pub folder: tempfile::TempDir,
    runtime: Runtime,
    running: Option<Running>,
    pub url: String,
    client: ureq::Agent,
}

pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    /// An origin with these titles, cluster `lab`, nobody registered.
    pub fn with(titles: &[Title]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path());
        for title in titles {
            publish(&folder.path().join("origin"), title);
        }
        let mut world = Self {
            folder,
            runtime: Runtime::new().unwrap(),
            running: None,
            url: String::new(),
            client: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(20)))
                .build()
                .into(),
        };
        world.start();
        world
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("control.toml")
    }

    pub fn origin(&self) -> PathBuf {
        self.folder.path().join("origin")
    }

    pub fn start(&mut self) {
        let config = Config::read(&self.config()).unwrap();
        let running = self.runtime.block_on(start(config)).unwrap();
        self.url = format!("http://{}", running.address);
        self.running = Some(running);
    }

    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], Some(body.to_string().into_bytes()))
    }

    pub fn agent_post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("authorization", &bearer())], Some(body.to_string().into_bytes()))
    }

    pub fn agent_get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[("authorization", &bearer())], None)
    }

    /// A body goes as JSON unless the headers say otherwise.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = self.client.run(request.body(body.unwrap_or_default()).unwrap()).unwrap();
        let body = if method == "HEAD" { Vec::new() } else { response.body_mut().read_to_vec().unwrap() };
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    /// Asks again until the answer is there; fails after 20 s.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        for _ in 0..400 {
            if let Some(found) = look(self) {
                return found;
            }
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        }
        panic!("waited in vain for {what}");
    }

    pub fn register(&self, name: &str) -> Answer {
        let base_url = format!("http://{name}.test:8080");
        let body = json!({"appliance": name, "cluster": "lab", "base_url": base_url, "version": "0.1.0"});
        self.agent_post("/v1/agent/register", &body)
    }

    /// Registers, waits for a manifest that asks something of it, and reports that it holds all of it.
    pub fn bring_up(&self, name: &str) {
        assert_eq!(self.register(name).status, 200);
        let version = self.wait_for("a manifest with the appliance", |world| {
            let answer = world.agent_get("/v1/agent/clusters/lab/manifest");
            let manifest = content::manifest::Manifest::parse(&answer.body).ok()?;
            manifest.index_of(&name.parse().unwrap()).map(|_| manifest.version)
        });
        assert_eq!(self.agent_post("/v1/agent/reports", &report(name, version)).status, 200);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn bearer() -> String {
    format!("Bearer {AGENT_KEY}")
}

pub fn report(name: &str, manifest_version: u64) -> Value {
    let none = content::report::Ordinals::default();
    json!({
        "appliance": name, "boot": "boot-1", "sequence": manifest_version, "health": "ok", "limited_by": "none",
        "headroom": 0.9, "draining": false, "generation": 1,
        "holds": {"manifest_version": manifest_version, "missing": none, "unlisted": []},
        "volumes": [],
        "server": {"uptime_ms": 1, "connections": 0, "requests": 0, "bytes_sent": 0, "memory_hits": 0,
                   "memory_misses": 0, "rate_bps": 0},
    })
}

pub fn play_request(session: &str) -> Value {
    json!({
        "title": "film", "session": session, "member": "m-1", "plan": "hd", "territory": "SE",
        "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}, "languages": ["sv"],
    })
}

fn write_files(folder: &Path) {
    fs::create_dir(folder.join("origin")).unwrap();
    fs::write(folder.join("agent.key"), format!("{AGENT_KEY}\n")).unwrap();
    let config = "listen = \"127.0.0.1:0\"\norigin = \"origin\"\nstate = \"state\"\nagent_key_file = \"agent.key\"\n\
                  refresh_ms = 100\n[[cluster]]\nname = \"lab\"\n";
    fs::write(folder.join("control.toml"), config).unwrap();
}

/// Writes every object with its tree, then `title.json`, as the pipeline does.
pub fn publish(origin: &Path, title: &Title) {
    for stream in &title.streams {
        for object in [stream.track, stream.playlist] {
            let bytes = bytes_of(title.title.as_str(), stream.id.as_str(), object.extension);
            let mut tree = TreeBuilder::new();
            tree.update(&bytes);
            let (id, tree) = tree.finish();
            assert_eq!(id, object.object);
            write(&origin.join(object_path(id, object.extension)), &bytes);
            write(&origin.join(tree_path(id)), &tree);
        }
    }
    write(&origin.join(title_path(&title.title)), &title.to_bytes());
}

/// Beside, then renamed: a reader never meets half of it.
pub fn write(file: &Path, bytes: &[u8]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let beside = file.with_extension("part#1");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, file).unwrap();
}

/// Different for each object, the same each time.
pub fn bytes_of(title: &str, stream: &str, extension: Extension) -> Vec<u8> {
    let size = if extension == Extension::Mp4 { TRACK_BYTES } else { 500 };
    let mut bytes = vec![0; size];
    let seed =
        blake3::Hasher::new().update(format!("{title} {stream} {extension}").as_bytes()).finalize_xof();
    let mut seed = seed;
    seed.fill(&mut bytes);
    bytes
}

/// 360p, 720p, two languages, subtitles.
pub fn film(name: &str) -> Title {
    let video = |height| StreamKind::Video { width: height * 16 / 9, height, frame_rate: (25, 1) };
    let audio = |language: &str| StreamKind::Audio {
        language: language.to_owned(),
        channels: 2,
        sample_rate_hz: 48_000,
    };
    let subtitles = StreamKind::Subtitles { language: "en".to_owned() };
    Title {
        format: TITLE_FORMAT,
        title: name.parse().unwrap(),
        name: format!("The {name}"),
        duration_ms: 48_000,
        streams: vec![
            stream(name, "video-360p", Tier::Sd, video(360), "avc1.4d401e"),
            stream(name, "video-720p", Tier::Hd, video(720), "avc1.64001f"),
            stream(name, "audio-en", Tier::Base, audio("en"), "mp4a.40.2"),
            stream(name, "audio-sv", Tier::Base, audio("sv"), "mp4a.40.2"),
            stream(name, "subtitles-en", Tier::Base, subtitles, ""),
        ],
        terms: vec![Term {
            territories: vec!["SE".to_owned()],
            from: "2020-01-01T00:00:00Z".parse().unwrap(),
            until: None,
        }],
        source: ObjectId::of(b"source"),
        recipe: ObjectId::of(b"recipe"),
    }
}

fn stream(title: &str, id: &str, tier: Tier, kind: StreamKind, codecs: &str) -> Stream {
    let subtitles = matches!(kind, StreamKind::Subtitles { .. });
    let object = |extension| {
        let bytes = bytes_of(title, id, extension);
        ObjectRef { object: ObjectId::of(&bytes), extension, bytes: u64::try_from(bytes.len()).unwrap() }
    };
    Stream {
        id: id.parse().unwrap(),
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
