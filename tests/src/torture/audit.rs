//! What must hold of a box and of the origin. A complaint is grave if it must hold at any instant, also in the middle of
//! things; else it must hold once everything is quiet again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use content::catalogue::Contents;
use content::control_socket::ServerStatus;
use content::id::{ClusterId, MediaPath, ObjectId};
use content::manifest::Manifest;
use content::origin;
use content::seal::from_sealed;
use content::title::Title;
use content::tree::Tree;
use content::volume::FileKind;
use serde_json::Value;
use xtask::fleet::CLUSTER;

use crate::shelves::{Disks, check_file, is_temporary, number_of, walk};

/// The newest, one to fall back to, and one that a last request may use.
const GENERATIONS_MAX: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub grave: bool,
    pub text: String,
}

fn grave(text: impl std::fmt::Display) -> Complaint {
    Complaint { grave: true, text: text.to_string() }
}

fn not_yet(text: impl std::fmt::Display) -> Complaint {
    Complaint { grave: false, text: text.to_string() }
}

/// Looks at one box. `wanted`: every path that it should serve, with sizes. `status`: what its server says.
/// With `whole` every byte of every file is read.
pub fn of_box(
    disks: &Disks,
    wanted: &BTreeMap<MediaPath, u64>,
    status: Option<&ServerStatus>,
    whole: bool,
) -> Vec<Complaint> {
    let name = &disks.name;
    let current = match disks.current().and_then(|current| disks.generation(current)) {
        Ok(current) => current,
        // Before the first one is published there is none.
        Err(cause) if disks.generations().is_empty() => return vec![not_yet(format!("{name}: {cause:#}"))],
        Err(cause) => return vec![grave(format!("{name}: the current catalogue: {cause:#}"))],
    };
    let mut complaints = Vec::new();
    complaints.extend(wants(name, &current, wanted));
    complaints.extend(server(name, &current, status));
    complaints.extend(leftovers(disks, &current, status));
    if whole && let Err(cause) = contents(disks, &current) {
        complaints.push(grave(format!("{name}: {cause:#}")));
    }
    complaints
}

/// Its entries are what is wanted, no more and no less.
fn wants(name: &str, current: &Contents, wanted: &BTreeMap<MediaPath, u64>) -> Option<Complaint> {
    let held: BTreeMap<_, _> =
        current.entries.iter().map(|entry| (entry.key, (entry.object, entry.bytes))).collect();
    let wanted: BTreeMap<_, _> =
        wanted.iter().map(|(path, bytes)| (path.key(), (path.object, *bytes))).collect();
    let lacking = wanted.iter().filter(|(key, what)| held.get(key) != Some(what)).count();
    let surplus = held.keys().filter(|key| !wanted.contains_key(key)).count();
    (lacking + surplus > 0).then(|| {
        not_yet(format!(
            "{name}: its catalogue lacks {lacking} of {} paths and has {surplus} others",
            wanted.len()
        ))
    })
}

fn server(name: &str, current: &Contents, status: Option<&ServerStatus>) -> Vec<Complaint> {
    let Some(status) = status else { return vec![not_yet(format!("{name}: its server does not answer"))] };
    let mut complaints = Vec::new();
    if status.generation != current.generation || status.oldest_in_use != current.generation {
        complaints.push(not_yet(format!(
            "{name}: generation {} is current, {} is served, {} is the oldest in use",
            current.generation, status.generation, status.oldest_in_use
        )));
    }
    if status.draining || status.token_keys == 0 {
        let (draining, keys) = (status.draining, status.token_keys);
        complaints.push(not_yet(format!("{name}: its server drains: {draining}; it has {keys} token keys")));
    }
    if !status.withdrawn.is_empty() {
        complaints.push(grave(format!("{name}: a bad block was met in {:?}", status.withdrawn)));
    }
    complaints
}

/// Files that nobody names, downloads that nobody goes on with, half-written names, generations that nobody uses.
fn leftovers(disks: &Disks, current: &Contents, status: Option<&ServerStatus>) -> Vec<Complaint> {
    let name = &disks.name;
    let mut complaints = Vec::new();
    let mut named = BTreeMap::new();
    let in_use = |generation: &u64| status.is_none_or(|status| *generation >= status.oldest_in_use);
    let used = disks.generations().into_iter().filter(in_use).filter_map(|used| disks.generation(used).ok());
    for contents in std::iter::once(current.clone()).chain(used) {
        match disks.named(&contents) {
            Ok(files) => named.extend(files),
            Err(cause) => {
                complaints.push(grave(format!("{name}: generation {}: {cause:#}", contents.generation)))
            }
        }
    }
    let there = disks.files();
    let gone = named.keys().filter(|path| !there.contains(*path));
    complaints.extend(gone.map(|path| gone_complaint(disks, current, path)));
    let orphans = there.iter().filter(|path| !named.contains_key(*path));
    complaints.extend(orphans.map(|path| not_yet(format!("{name}: nothing names {}", path.display()))));
    let strays = there.iter().filter(|path| number_of(path).is_none());
    complaints
        .extend(strays.map(|path| not_yet(format!("{name}: {} is no file of a volume", path.display()))));
    let left = disks.incoming().into_iter().chain(disks.temporary());
    complaints.extend(left.map(|path| not_yet(format!("{name}: {} is left over", path.display()))));
    let generations = disks.generations();
    if generations.len() > GENERATIONS_MAX {
        complaints.push(not_yet(format!("{name}: {} generations are kept", generations.len())));
    }
    complaints
}

/// A file that the current generation names must be there; of one that only an older one names, only until that one
/// is not used any more, which may have come between our looks.
fn gone_complaint(disks: &Disks, current: &Contents, path: &Path) -> Complaint {
    let text = format!("{}: {} is named and is not there", disks.name, path.display());
    let still = disks.current().is_ok_and(|now| now == current.generation);
    let by_current = disks.named(current).is_ok_and(|named| named.contains_key(path));
    if by_current && still && !path.exists() { grave(text) } else { not_yet(text) }
}

/// Every file that the catalogue names is whole, and every entry's bytes are its object's.
fn contents(disks: &Disks, current: &Contents) -> Result<()> {
    let mut files = HashMap::new();
    for (index, file) in (0_u32..).zip(&current.files) {
        let path = disks.path_of(current, file)?;
        let (kind, bytes, digest) =
            check_file(&path, file.data_bytes).with_context(|| format!("{}", path.display()))?;
        files.insert(index, (kind, bytes, digest));
    }
    for entry in &current.entries {
        let (kind, bytes, digest) = files.get(&entry.file).context("an entry in no file")?;
        let (from, count) = (usize::try_from(entry.offset)?, usize::try_from(entry.bytes)?);
        let part =
            from.checked_add(count).and_then(|to| bytes.get(from..to)).context("an entry past its file")?;
        ensure!(ObjectId::of(part) == entry.object, "the bytes of {} are not its own", entry.object);
        ensure!(*kind == FileKind::Pack || *digest == entry.object, "a file's footer names another object");
    }
    Ok(())
}

/// What is remembered of the origin from look to look.
#[derive(Default)]
pub struct OriginMemory {
    /// Objects and trees whose bytes were read once and were right, by inode and time: another file of that name is
    /// read again.
    right: BTreeSet<(PathBuf, u64, i64)>,
    manifests: BTreeMap<u64, ObjectId>,
    current: u64,
}

impl OriginMemory {
    pub fn current(&self) -> u64 {
        self.current
    }

    /// Looks at the whole origin.
    pub fn look(&mut self, folder: &Path) -> Vec<Complaint> {
        let mut complaints = named_is_there(folder);
        for path in walk(&folder.join("objects")) {
            let Ok(data) = fs::metadata(&path) else { continue };
            let known = (path.clone(), data.ino(), data.mtime_nsec());
            if is_temporary(&path) || self.right.contains(&known) {
                continue;
            }
            match is_what_it_says(&path) {
                Ok(()) => {
                    self.right.insert(known);
                }
                Err(cause) => complaints.push(grave(format!("the origin's {}: {cause:#}", path.display()))),
            }
        }
        if let Err(cause) = self.manifests(folder) {
            complaints.push(grave(format!("the origin's manifests: {cause:#}")));
        }
        let left = walk(folder).into_iter().filter(|path| is_temporary(path));
        complaints.extend(left.map(|path| not_yet(format!("the origin: {} is left over", path.display()))));
        complaints
    }

    /// `current` never goes back, what it names can be read, no version ever changes.
    fn manifests(&mut self, folder: &Path) -> Result<()> {
        let cluster: ClusterId = CLUSTER.parse()?;
        let Ok(text) = fs::read(folder.join(origin::current_manifest_path(&cluster))) else {
            ensure!(self.current == 0, "version {} was current and nothing is now", self.current);
            return Ok(());
        };
        let value: Value = from_sealed(&text).context("`current`")?;
        let current = value["version"].as_u64().context("`current` names no version")?;
        ensure!(current >= self.current, "they went back from version {} to {current}", self.current);
        self.current = current;
        manifest(folder, current)?;
        for path in walk(&folder.join(format!("clusters/{CLUSTER}/manifests"))) {
            let version =
                path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ndjson")?.parse().ok());
            let Some(version) = version else { continue };
            let digest = ObjectId::of(&fs::read(&path)?);
            if *self.manifests.entry(version).or_insert(digest) != digest {
                bail!("version {version} has changed");
            }
        }
        Ok(())
    }
}

/// The manifest of that version.
pub fn manifest(folder: &Path, version: u64) -> Result<Manifest> {
    let path = folder.join(origin::manifest_path(&CLUSTER.parse()?, version));
    let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let manifest = Manifest::parse(&bytes).with_context(|| format!("{}", path.display()))?;
    ensure!(manifest.version == version, "{} is of version {}", path.display(), manifest.version);
    Ok(manifest)
}

/// Every title's objects and trees are there, in full length.
pub fn named_is_there(folder: &Path) -> Vec<Complaint> {
    let titles = walk(&folder.join(origin::TITLES_FOLDER));
    let titles = titles.iter().filter(|path| path.ends_with("title.json"));
    titles.filter_map(|path| title_complaint(folder, path)).collect()
}

fn title_complaint(folder: &Path, path: &Path) -> Option<Complaint> {
    let bytes = fs::read(path).ok()?;
    let lacks = match Title::parse(&bytes) {
        Err(cause) => cause.to_string(),
        Ok(title) => lacks(folder, &title)?,
    };
    // Taken away by us in between: it names nothing any more.
    let same = fs::read(path).is_ok_and(|now| now == bytes);
    same.then(|| grave(format!("the origin names what it lacks: {}: {lacks}", path.display())))
}

fn lacks(folder: &Path, title: &Title) -> Option<String> {
    title.objects().find_map(|(path, bytes)| {
        let size = |name: String| fs::metadata(folder.join(name)).map(|data| data.len()).ok();
        let object = size(origin::object_path(path.object, path.extension));
        let tree = size(origin::tree_path(path.object));
        let right = object == Some(bytes) && tree == Some(content::tree::tree_bytes(bytes));
        (!right).then(|| format!("{path} of {bytes} bytes: there are {object:?}, and {tree:?} of its tree"))
    })
}

/// A final name in `objects/`: the object's bytes are its name, a tree is its object's.
fn is_what_it_says(path: &Path) -> Result<()> {
    if path.file_name().is_some_and(|name| name == ".harness") {
        return Ok(());
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).context("no name")?;
    let object: ObjectId = stem.parse().context("no object's name")?;
    let bytes = fs::read(path)?;
    if path.extension().is_some_and(|extension| extension == origin::TREE_EXTENSION) {
        Tree::parse(object, &bytes)?;
    } else {
        ensure!(ObjectId::of(&bytes) == object, "its bytes are not what it is named by");
    }
    Ok(())
}

/// The control plane's own state: readable, and without a half-written name.
pub fn of_control(folder: &Path) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for path in walk(folder) {
        if is_temporary(&path) {
            complaints.push(not_yet(format!("the control plane: {} is left over", path.display())));
        } else if path.extension().is_some_and(|extension| extension == "json") {
            let read = fs::read(&path).map_err(anyhow::Error::from);
            let value = read.and_then(|bytes| Ok(from_sealed::<Value>(&bytes)?));
            complaints.extend(value.err().map(|cause| grave(format!("{}: {cause:#}", path.display()))));
        }
    }
    complaints
}

#[cfg(test)]
pub mod tests {
    use content::catalogue::{
        CATALOGUE_FOLDER, CURRENT_NAME, Entry, FileRecord, build, current_bytes, generation_name,
    };
    use content::id::{Extension, Tier};
    use content::report::ServerFigures;
    use content::seal::to_sealed;
    use content::volume::{
        Checksums, FILES_FOLDER, Footer, INCOMING_FOLDER, MARKER_NAME, Marker, VolumeId, file_name,
        footer_offset,
    };

    use super::*;
    use crate::library::{self, Library};
    use crate::points::Draw;

    /// A box with one volume and these objects, each a file of its own, as generation 1.
    pub fn contents_of(folder: &Path, objects: &[&[u8]]) -> (Disks, Contents) {
        let (state, volume) = (folder.join("state"), folder.join("volume"));
        let uuid = VolumeId([9; 16]);
        for made in [state.join(CATALOGUE_FOLDER), volume.join(FILES_FOLDER), volume.join(INCOMING_FOLDER)] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(volume.join(MARKER_NAME), Marker::new(uuid).to_bytes()).unwrap();
        let mut contents =
            Contents { generation: 1, next_file: 1, volumes: vec![uuid], ..Contents::default() };
        for (number, bytes) in (1_u64..).zip(objects) {
            let path = path_of(bytes);
            let data_bytes = u64::try_from(bytes.len()).unwrap();
            contents.files.push(FileRecord { number, data_bytes, volume: 0 });
            let (object, extension) = (path.object, path.extension);
            let file = u32::try_from(number - 1).unwrap();
            contents.entries.push(Entry {
                key: path.key(),
                object,
                file,
                offset: 0,
                bytes: data_bytes,
                extension,
            });
            contents.next_file = number + 1;
            fs::write(volume.join(FILES_FOLDER).join(file_name(number)), file_of(bytes)).unwrap();
        }
        let name = generation_name(1);
        fs::write(state.join(CATALOGUE_FOLDER).join(&name), build::to_bytes(contents.clone()).unwrap())
            .unwrap();
        fs::write(state.join(CATALOGUE_FOLDER).join(CURRENT_NAME), current_bytes(1)).unwrap();
        (Disks { name: "box-a".to_owned(), state, volumes: vec![volume] }, contents)
    }

    fn path_of(bytes: &[u8]) -> MediaPath {
        MediaPath {
            title: "film".parse().unwrap(),
            tier: Tier::Sd,
            object: ObjectId::of(bytes),
            extension: Extension::Mp4,
        }
    }

    fn file_of(bytes: &[u8]) -> Vec<u8> {
        let mut checksums = Checksums::default();
        checksums.update(bytes);
        let data_bytes = u64::try_from(bytes.len()).unwrap();
        let digest = ObjectId::of(bytes);
        let footer = Footer { kind: FileKind::Object, data_bytes, digest, checksums: checksums.finish() };
        let mut file = bytes.to_vec();
        file.resize(usize::try_from(footer_offset(data_bytes)).unwrap(), 0);
        file.extend(footer.to_bytes());
        file
    }

    pub fn status(generation: u64, oldest_in_use: u64) -> ServerStatus {
        let figures = ServerFigures {
            uptime_ms: 1,
            connections: 0,
            requests: 0,
            bytes_sent: 0,
            memory_hits: 0,
            memory_misses: 0,
            rate_bps: 0,
            capacity_bps: 0,
        };
        ServerStatus {
            generation,
            oldest_in_use,
            draining: false,
            token_keys: 1,
            withdrawn: Vec::new(),
            volumes: Vec::new(),
            limited_by: "none".to_owned(),
            headroom: 1.0,
            figures,
        }
    }

    /// (grave, any) complaints of a box in which `damage` was done.
    fn complaints(damage: impl FnOnce(&Disks)) -> (usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let (disks, _) = contents_of(folder.path(), &[b"one", b"two"]);
        let wanted = [&b"one"[..], b"two"].map(|bytes| (path_of(bytes), 3)).into();
        damage(&disks);
        let found = of_box(&disks, &wanted, Some(&status(1, 1)), true);
        (found.iter().filter(|complaint| complaint.grave).count(), found.len())
    }

    #[test]
    fn a_box_in_order_has_no_complaint_and_each_damage_has_one() {
        let file = |disks: &Disks, number| disks.volumes[0].join(FILES_FOLDER).join(file_name(number));
        let write = |path: PathBuf, bytes: &[u8]| fs::write(path, bytes).unwrap();
        assert_eq!(complaints(|_| {}), (0, 0));
        assert_eq!(complaints(|disks| write(file(disks, 3), &file_of(b"three"))), (0, 1), "an orphan");
        assert_eq!(complaints(|disks| write(disks.volumes[0].join("incoming/x.json.tmp"), b"{")), (0, 1));
        assert_eq!(complaints(|disks| write(disks.state.join("agent.json.tmp"), b"{")), (0, 1));
        assert_eq!(complaints(|disks| write(disks.state.join("token-keys.json.new"), b"{")), (0, 1));
        assert_eq!(complaints(|disks| fs::remove_file(file(disks, 2)).unwrap()).0, 2, "named and gone");
        assert_eq!(
            complaints(|disks| write(file(disks, 2), &file_of(b"owt"))).0,
            1,
            "another object's bytes"
        );
        let mut flipped = file_of(b"two");
        flipped[1] ^= 1;
        assert_eq!(complaints(|disks| write(file(disks, 2), &flipped)).0, 1, "a flipped bit");
        let current = |disks: &Disks| disks.state.join(CATALOGUE_FOLDER).join(CURRENT_NAME);
        assert_eq!(complaints(|disks| write(current(disks), b"half")).0, 1);
        let catalogue = |disks: &Disks| disks.state.join(CATALOGUE_FOLDER).join(generation_name(1));
        assert_eq!(complaints(|disks| write(catalogue(disks), b"half")).0, 1);
    }

    /// Grave complaints of an origin in which `damage` was done, after it was found in order.
    fn origin_complaints(damage: impl FnOnce(&Path, &Title)) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let library = Library::default();
        let title = library::invent(&library, "film", &mut Draw::new(1)).unwrap();
        library::put(&library, folder.path(), &title).unwrap();
        fs::create_dir_all(folder.path().join("clusters/lab")).unwrap();
        fs::write(folder.path().join("clusters/lab/current"), to_sealed(&serde_json::json!({"version": 0})))
            .unwrap();
        let manifest =
            Manifest { cluster: "lab".parse().unwrap(), version: 0, appliances: vec![], entries: vec![] };
        fs::create_dir_all(folder.path().join("clusters/lab/manifests")).unwrap();
        fs::write(folder.path().join("clusters/lab/manifests/0.ndjson"), manifest.to_bytes()).unwrap();
        let mut memory = OriginMemory::default();
        assert_eq!(memory.look(folder.path()), []);
        damage(folder.path(), &title);
        memory.look(folder.path()).iter().filter(|complaint| complaint.grave).count()
    }

    #[test]
    fn an_origin_that_names_what_it_lacks_or_holds_half_an_object_is_noticed() {
        let object = |folder: &Path, title: &Title| {
            let object = &title.streams[0].track;
            folder.join(origin::object_path(object.object, object.extension))
        };
        assert_eq!(origin_complaints(|_, _| {}), 0);
        assert_eq!(origin_complaints(|folder, title| fs::remove_file(object(folder, title)).unwrap()), 1);
        let tree = |folder: &Path, title: &Title| object(folder, title).with_extension("obao");
        assert_eq!(origin_complaints(|folder, title| fs::remove_file(tree(folder, title)).unwrap()), 1);
        // By the title that names it in another length, and by its own name.
        assert_eq!(origin_complaints(|folder, title| fs::write(object(folder, title), b"half").unwrap()), 2);
        let stray = |folder: &Path| folder.join(origin::object_path(ObjectId::of(b"stray"), Extension::Vtt));
        let write_stray = |folder: &Path, bytes: &[u8]| {
            fs::create_dir_all(stray(folder).parent().unwrap()).unwrap();
            fs::write(stray(folder), bytes).unwrap();
        };
        assert_eq!(origin_complaints(|folder, _| write_stray(folder, b"stray")), 0);
        assert_eq!(
            origin_complaints(|folder, _| write_stray(folder, b"str")),
            1,
            "half under its final name"
        );
        let manifest = |folder: &Path| folder.join("clusters/lab/manifests/0.ndjson");
        assert_eq!(origin_complaints(|folder, _| fs::write(manifest(folder), b"half").unwrap()), 1);
    }
}
