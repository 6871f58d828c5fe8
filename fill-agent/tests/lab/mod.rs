//! A small world for the agent: a control plane with its origin (hyper, on 127.0.0.1), and a stand-in for the segment
//! server's end of the UNIX socket. The stand-in opens and verifies each generation as the server would, but serves
//! nobody; the real server is tested together with the agent in the fleet tests.

#![expect(dead_code, reason = "each test file uses another part of it")]

mod appliance;
mod origin;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use content::catalogue::file::Catalogue;
use content::catalogue::{CATALOGUE_FOLDER, CURRENT_NAME, generation_name, generation_of_current};
use content::control_socket::{FileName, PublicKey};
use content::id::{MediaPath, ObjectId};
use content::manifest::{Manifest, ManifestEntry};
use content::pack::{Member, SMALL_BELOW_BYTES, span_bytes};
use content::report::{Report, ServerFigures};
use content::tree::TreeBuilder;
use content::volume::{FILES_FOLDER, INCOMING_FOLDER, VolumeId, file_name, file_number};
use fill_agent::agent::{self, Tuning};
use fill_agent::config;
use fill_agent::http::Patience;
use fill_agent::incoming::check_complete;
use fill_agent::packing;

pub const PIECE: usize = 262_144;
/// How long is waited at most: three times what the longest wait, after a refused generation, takes with both
/// processors busy elsewhere.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// How the origin answers one request for an object instead of properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The first byte of the piece with this index, if the range holds it, is wrong.
    WrongByte(usize),
    ShortBody,
    WrongRange,
    NotFound,
    Broken,
    /// Accepts the request and says nothing.
    Silent,
    /// Sends half of it and then nothing more.
    Stalls,
    /// Ignores the range and sends all.
    Everything,
    /// A 206 for the range that was asked for, of an object of another size.
    WrongTotal,
    /// A 206 that does not say which range it is.
    NoRange,
    /// The right range, said to be longer than it is.
    LengthTooLong,
    /// The right range, said and sent shorter than it is.
    LengthTooShort,
    /// The right range, of no said length, and then rubbish without end.
    Endless,
    /// A byte now and then, without end.
    Trickle,
    /// A 302 to itself.
    Redirect,
    /// The tree, and then rubbish without end.
    EndlessTree,
    TrickledTree,
    WrongTree,
}

#[derive(Default)]
pub struct World {
    pub manifest: Option<Manifest>,
    pub objects: BTreeMap<ObjectId, (Vec<u8>, Vec<u8>)>,
    pub lies: BTreeMap<ObjectId, VecDeque<Lie>>,
    /// Not more than this many bytes of an object are sent, over all requests; then the origin falls silent.
    pub hold: BTreeMap<ObjectId, usize>,
    /// Bytes of bodies sent, by object.
    pub sent: BTreeMap<ObjectId, usize>,
    /// First and last byte of every range asked for.
    pub asked: Vec<(ObjectId, usize, usize)>,
    /// By object: what had been sent of it when its last range was asked for.
    pub sent_before_last: BTreeMap<ObjectId, usize>,
    /// A better source than the origin: its address. It is nowhere else in this lab.
    pub better_source: Option<std::net::SocketAddr>,
    pub control_down: bool,
    pub drain: bool,
    pub keys: Vec<PublicKey>,
    pub keys_version: u32,
    pub registered: u32,
    pub forgotten: bool,
    /// What the control plane says that the time is.
    pub clock: Option<jiff::Timestamp>,
    /// Before this instant no source may be used.
    pub not_before: jiff::Timestamp,
    pub reports: Vec<Report>,
    pub not_modified: u32,
    pub server: FakeServer,
}

#[derive(Default)]
pub struct FakeServer {
    pub down: bool,
    pub generation: u64,
    /// A request still uses this one.
    pub pinned: Option<u64>,
    pub token_keys: Vec<PublicKey>,
    pub draining: bool,
    pub withdrawn: Vec<FileName>,
    /// By path: the volume that was there first, and whether it is there now.
    pub volumes: BTreeMap<PathBuf, (VolumeId, bool)>,
    pub unusable: BTreeSet<VolumeId>,
    /// There, though not to be seen from this process.
    pub unseen: BTreeSet<VolumeId>,
    /// Publish is answered only when this is lifted.
    pub hold_publish: bool,
    pub publishes: Vec<u64>,
    pub refuse_next: bool,
    pub figures: ServerFigures,
}

pub type Shared = Arc<(Mutex<World>, Condvar)>;

pub struct Lab {
    pub folder: tempfile::TempDir,
    pub shared: Shared,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    pub fn new(volumes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Shared::default();
        shared.0.lock().unwrap().keys = vec![PublicKey { key_id: "one".to_owned(), x: "A".repeat(43) }];
        let address = runtime.block_on(origin::serve(Arc::clone(&shared)));
        let lab = Self { folder, shared, runtime };
        lab.runtime.block_on(appliance::serve(
            lab.path("server.sock"),
            lab.path("state"),
            Arc::clone(&lab.shared),
        ));
        fs::create_dir(lab.path("state")).unwrap();
        fs::write(lab.path("key"), "secret\n").unwrap();
        (0..volumes).for_each(|index| fs::create_dir(lab.volume(index)).unwrap());
        lab.write_config(volumes, &format!("http://{address}"));
        lab
    }

    fn write_config(&self, volumes: usize, control: &str) {
        let path = |name: &str| self.path(name).display().to_string();
        let mut text = format!("state = {:?}\nsocket = {:?}\n", path("state"), path("server.sock"));
        for index in 0..volumes {
            text.push_str(&format!("[[volume]]\npath = {:?}\n", path(&format!("v{index}"))));
        }
        text.push_str(&format!(
            "[server]\nlisten = [\"127.0.0.2:8080\"]\nmanagement = \"127.0.0.2:9080\"\n[agent]\nappliance = \"box-a\"\n\
             cluster = \"lab\"\ncontrol = {control:?}\nbase_url = \"http://127.0.0.2:8080\"\nkey_file = {:?}\n\
             downloads_max = 2\n",
            path("key")
        ));
        fs::write(self.config(), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("box.toml")
    }

    pub fn volume(&self, index: usize) -> PathBuf {
        self.path(&format!("v{index}"))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().unwrap()
    }

    /// Waits until it is so; panics after `PATIENCE`.
    pub fn wait(&self, what: &str, mut so: impl FnMut(&mut World) -> bool) {
        let mut world = self.world();
        let start = now();
        // By the clock: each answer of the fake server wakes us too, and a count of looks would run out sooner.
        while start.elapsed() < PATIENCE {
            if so(&mut world) {
                return;
            }
            world = self.shared.1.wait_timeout(world, LOOK).unwrap().0;
        }
        panic!("waited in vain until {what}; last report {:?}", world.reports.last());
    }

    /// A new manifest: titles and objects, all on this box.
    pub fn ask_for(&self, objects: &[(&str, &Object)]) {
        let mut world = self.world();
        let version = world.manifest.as_ref().map_or(1, |manifest| manifest.version + 1);
        for (_, object) in objects {
            world.objects.insert(object.id, (object.data.clone(), object.tree.clone()));
        }
        let entries = objects.iter().map(|(title, object)| ManifestEntry {
            path: object.path(title),
            bytes: u64::try_from(object.data.len()).unwrap(),
            worth: 1.0,
            on: vec![0],
        });
        world.manifest = Some(Manifest {
            cluster: "lab".parse().unwrap(),
            version,
            appliances: vec!["box-a".parse().unwrap()],
            entries: entries.collect(),
        });
    }

    pub fn start(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oca-fill"));
        command.arg("run").arg("--config").arg(self.config()).stderr(Stdio::inherit());
        Process(command.spawn().unwrap())
    }

    /// The library in this process, less patient than the program. Stops when dropped.
    pub fn start_impatient(&self) -> Impatient {
        let setup = config::load(&self.config()).unwrap();
        let wait = Duration::from_millis(400);
        let tuning = Tuning {
            patience: Patience { connect: wait, head: wait, body: wait, bytes_per_s_min: 1 << 20 },
            tick: Duration::from_millis(20),
            ..Tuning::default()
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = self.runtime.spawn(async move {
            agent::run(setup, tuning, async {
                stopped.await.ok();
            })
            .await
            .unwrap();
        });
        Impatient { stop: Some(stop), task, handle: self.runtime.handle().clone() }
    }

    /// The file of the current generation.
    pub fn current(&self) -> PathBuf {
        let folder = self.path("state").join(CATALOGUE_FOLDER);
        let current = fs::read(folder.join(CURRENT_NAME)).unwrap();
        folder.join(generation_name(generation_of_current(&current).unwrap().unwrap()))
    }

    /// What the current generation says: path of the file and size, by the entry's object; checked in full.
    pub fn catalogue(&self) -> Vec<(ObjectId, u64, PathBuf)> {
        self.places().into_iter().map(|place| (place.object, place.bytes, place.path)).collect()
    }

    /// The same, with the place in the file.
    pub fn places(&self) -> Vec<Place> {
        // An old one is removed while the next becomes current.
        let catalogue = (0..100).find_map(|_| Catalogue::open(&self.current()).ok()).unwrap();
        catalogue.verify().unwrap();
        let volumes = self.volumes_by_uuid();
        let contents = catalogue.contents();
        let file = |index: u32| contents.files[usize::try_from(index).unwrap()];
        let uuid = |index: u32| contents.volumes[usize::try_from(index).unwrap()];
        let entries = contents.entries.iter().map(|entry| {
            let file = file(entry.file);
            let volume = volumes.get(&uuid(file.volume)).cloned().unwrap_or_else(|| self.path("gone"));
            Place {
                object: entry.object,
                bytes: entry.bytes,
                path: volume.join(FILES_FOLDER).join(file_name(file.number)),
                offset: entry.offset,
                data_bytes: file.data_bytes,
            }
        });
        entries.collect()
    }

    pub fn volumes_by_uuid(&self) -> BTreeMap<VolumeId, PathBuf> {
        let volumes = (0..9).map(|index| self.volume(index)).filter(|path| path.exists());
        volumes.filter_map(|path| Some((fill_agent::volumes::probe(&path).ok()?.uuid, path))).collect()
    }

    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.listing(FILES_FOLDER)
    }

    pub fn unfinished(&self) -> BTreeSet<PathBuf> {
        self.listing(INCOMING_FOLDER)
    }

    fn listing(&self, folder: &str) -> BTreeSet<PathBuf> {
        let folders = (0..9).map(|index| self.volume(index).join(folder));
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until exactly these objects are served, then checks every byte, and that nothing else lies on the disks.
    pub fn expect_exactly(&self, objects: &[&Object]) {
        let wanted: BTreeSet<_> = objects.iter().map(|object| object.id).collect();
        self.wait("the catalogue holds what it should and nothing else lies on the volumes", |world| {
            if world.server.generation == 0 {
                return false;
            }
            let held = self.catalogue();
            let ids: BTreeSet<_> = held.iter().map(|(object, ..)| *object).collect();
            let paths: BTreeSet<_> = held.into_iter().map(|(_, _, path)| path).collect();
            let all = ids == wanted && paths == self.files() && self.unfinished().is_empty();
            all && !self.is_half_dead()
        });
        self.places().iter().for_each(Place::check);
        let folder = self.path("state").join(CATALOGUE_FOLDER);
        let temporary = |name: &str| name.ends_with(".tmp");
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!names.into_iter().any(|name| temporary(name.to_str().unwrap())));
    }

    /// Whether a pack is that will be written anew.
    fn is_half_dead(&self) -> bool {
        let mut live: BTreeMap<PathBuf, (u64, BTreeMap<u64, u64>)> = BTreeMap::new();
        for place in self.places().into_iter().filter(Place::is_packed) {
            let (_, spans) = live.entry(place.path).or_insert((place.data_bytes, BTreeMap::new()));
            spans.insert(place.offset, span_bytes(place.bytes));
        }
        live.values().any(|(data_bytes, spans)| spans.values().sum::<u64>() * 2 < *data_bytes)
    }

    /// The unfinished file of an object, if there is one.
    pub fn part_of(&self, object: &Object) -> Option<PathBuf> {
        let records =
            self.unfinished().into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"));
        let of =
            |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(&object.id.to_string()));
        records.into_iter().find(of).map(|path| path.with_extension("part"))
    }
}

/// Where the catalogue says that an object is.
#[derive(Clone, Debug)]
pub struct Place {
    pub object: ObjectId,
    pub bytes: u64,
    pub path: PathBuf,
    pub offset: u64,
    pub data_bytes: u64,
}

impl Place {
    pub fn is_packed(&self) -> bool {
        self.data_bytes != self.bytes
    }

    /// Every byte of the file, as the server would, and the object's as its name says.
    fn check(&self) {
        assert_eq!(self.is_packed(), self.bytes < SMALL_BELOW_BYTES, "small objects are in packs: {self:?}");
        if !self.is_packed() {
            return check_complete(&self.path, self.object, self.bytes).unwrap();
        }
        let members = packing::read_index(&self.path, self.data_bytes).unwrap().unwrap();
        let checked = packing::check(&self.path, number_of(&self.path), self.data_bytes, &members).unwrap();
        assert!(checked.whole && checked.good == members, "{self:?}");
        let is_it = |member: &Member| {
            (member.object, u64::from(member.offset), u64::from(member.bytes))
                == (self.object, self.offset, self.bytes)
        };
        assert!(members.iter().any(is_it), "{self:?} is not in the pack's index");
    }
}

pub fn number_of(path: &Path) -> u64 {
    file_number(path.file_name().unwrap().to_str().unwrap()).unwrap()
}

pub struct Process(pub Child);

impl Process {
    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub struct Impatient {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    handle: tokio::runtime::Handle,
}

impl Impatient {
    pub fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.handle.block_on(&mut self.task).unwrap();
    }
}

pub struct Object {
    pub id: ObjectId,
    pub data: Vec<u8>,
    pub tree: Vec<u8>,
}

impl Object {
    /// Bytes that differ from piece to piece and from seed to seed.
    pub fn new(seed: u8, count: usize) -> Self {
        let mut data = vec![0; count];
        let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
        reader.fill(&mut data);
        let mut builder = TreeBuilder::new();
        builder.update(&data);
        let (id, tree) = builder.finish();
        Self { id, data, tree }
    }

    pub fn path(&self, title: &str) -> MediaPath {
        format!("/{title}/sd/{}.mp4", self.id).parse().unwrap()
    }
}

#[expect(clippy::disallowed_methods, reason = "the limit of a wait")]
fn now() -> Instant {
    Instant::now()
}
