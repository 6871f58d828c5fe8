//! Reads what lies on a box's disks: catalogue, generations, files, unfinished downloads. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use content::catalogue::file::Catalogue;
use content::catalogue::{
    CATALOGUE_FOLDER, CURRENT_NAME, Contents, FileRecord, generation_name, generation_of_current,
    generation_of_name,
};
use content::checksum::crc32c;
use content::id::ObjectId;
use content::pack;
use content::seal::from_sealed;
use content::tree::Tree;
use content::volume::{
    FILES_FOLDER, FileKind, Footer, INCOMING_FOLDER, MARKER_NAME, Marker, VolumeId, file_bytes, file_name,
    file_number, footer_offset,
};
use serde_json::Value;

/// A box's folders.
#[derive(Clone, Debug)]
pub struct Disks {
    pub name: String,
    pub state: PathBuf,
    pub volumes: Vec<PathBuf>,
}

impl Disks {
    /// The generation that `current` names.
    pub fn current(&self) -> Result<u64> {
        let file = self.state.join(CATALOGUE_FOLDER).join(CURRENT_NAME);
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        let named = generation_of_current(&bytes).with_context(|| format!("{}", file.display()))?;
        named.with_context(|| format!("{} names nothing", file.display()))
    }

    /// Checked page by page.
    pub fn generation(&self, generation: u64) -> Result<Contents> {
        let file = self.state.join(CATALOGUE_FOLDER).join(generation_name(generation));
        let read = || {
            let catalogue = Catalogue::open(&file)?;
            catalogue.verify()?;
            Ok::<_, content::catalogue::CatalogueError>(catalogue.contents())
        };
        let contents = read().with_context(|| format!("{}", file.display()))?;
        ensure!(
            contents.generation == generation,
            "{} is generation {}",
            file.display(),
            contents.generation
        );
        Ok(contents)
    }

    pub fn generations(&self) -> BTreeSet<u64> {
        names(&self.state.join(CATALOGUE_FOLDER)).iter().filter_map(|name| generation_of_name(name)).collect()
    }

    /// The folder of the volume of that name.
    pub fn volume(&self, uuid: VolumeId) -> Option<&PathBuf> {
        self.volumes.iter().find(|volume| {
            let marker = fs::read(volume.join(MARKER_NAME)).ok();
            marker.and_then(|bytes| Marker::parse(&bytes).ok()).is_some_and(|marker| marker.uuid == uuid)
        })
    }

    /// The files that a generation names, each with its data bytes.
    pub fn named(&self, contents: &Contents) -> Result<BTreeMap<PathBuf, u64>> {
        let path = |file: &FileRecord| Ok((self.path_of(contents, file)?, file.data_bytes));
        contents.files.iter().map(path).collect()
    }

    pub fn path_of(&self, contents: &Contents, file: &FileRecord) -> Result<PathBuf> {
        let uuid = contents.volumes.get(usize::try_from(file.volume)?).context("a file on no volume")?;
        let volume = self.volume(*uuid).with_context(|| format!("there is no volume {uuid}"))?;
        Ok(volume.join(FILES_FOLDER).join(file_name(file.number)))
    }

    /// Everything below `files/` of all volumes.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.volumes.iter().flat_map(|volume| paths(&volume.join(FILES_FOLDER))).collect()
    }

    pub fn incoming(&self) -> BTreeSet<PathBuf> {
        self.volumes.iter().flat_map(|volume| paths(&volume.join(INCOMING_FOLDER))).collect()
    }

    /// Unfinished names of writers, anywhere but in `incoming/`.
    pub fn temporary(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for root in self.volumes.iter().chain([&self.state]) {
            found.extend(walk(root).into_iter().filter(|path| is_temporary(path)));
        }
        found.retain(|path| !path.parent().is_some_and(|folder| folder.ends_with(INCOMING_FOLDER)));
        found
    }

    /// Downloads that were begun: object, how much of it is there and right, how much it has.
    pub fn partials(&self) -> Vec<Partial> {
        self.incoming().iter().filter_map(|path| Partial::read(path)).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    pub object: ObjectId,
    pub verified: u64,
    pub bytes: u64,
    /// Behind the data stands the footer.
    pub has_footer: bool,
    /// Complete and small: it waits for its pack.
    pub ready: bool,
}

impl Partial {
    /// None: no record with a tree and a begun file.
    fn read(record: &Path) -> Option<Self> {
        if record.extension()? != "json" {
            return None;
        }
        let value: Value = from_sealed(&fs::read(record).ok()?).ok()?;
        let object: ObjectId = value["object"].as_str()?.parse().ok()?;
        let tree = Tree::parse(object, &fs::read(record.with_extension("obao")).ok()?).ok()?;
        let ready = record.with_extension("ready");
        let data = fs::read(&ready).or_else(|_| fs::read(record.with_extension("part"))).ok()?;
        let mut verified = 0;
        for index in 0..tree.piece_count() {
            let at = usize::try_from(verified).ok()?;
            let count = usize::try_from(tree.piece_bytes(index)).ok()?;
            if !data.get(at..at + count).is_some_and(|piece| tree.verifies(index, piece)) {
                break;
            }
            verified += tree.piece_bytes(index);
        }
        let bytes = tree.object_bytes();
        let footer = usize::try_from(footer_offset(bytes)).ok().and_then(|at| data.get(at..));
        let has_footer = footer.is_some_and(|footer| Footer::parse(footer, bytes).is_ok());
        Some(Self { object, verified, bytes, has_footer, ready: ready.exists() })
    }
}

/// Reads a complete file whole, against its footer: each block, and all of it.
pub fn check_file(path: &Path, data_bytes: u64) -> Result<(FileKind, Vec<u8>, ObjectId)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    ensure!(length == file_bytes(data_bytes), "it is {length} bytes long, not {}", file_bytes(data_bytes));
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut bytes, 0)?;
    let footer = bytes.split_off(usize::try_from(footer_offset(data_bytes))?);
    bytes.truncate(usize::try_from(data_bytes)?);
    let footer = Footer::parse(&footer, data_bytes)?;
    let piece = usize::try_from(content::checksum::PIECE_BYTES)?;
    let sums: Vec<_> = bytes.chunks(piece).map(crc32c).collect();
    let digest = match footer.kind {
        FileKind::Object => ObjectId::of(&bytes),
        FileKind::Pack => pack::identity(ObjectId::of(&bytes), number_of(path).context("no file's number")?),
    };
    if sums != footer.checksums || digest != footer.digest {
        bail!("its bytes are not those of its footer");
    }
    Ok((footer.kind, bytes, footer.digest))
}

/// What a whole file holds: one object, or the members of a pack.
pub fn objects_in(path: &Path, data_bytes: u64) -> Result<Vec<(ObjectId, u64)>> {
    let (kind, bytes, digest) = check_file(path, data_bytes)?;
    if kind == FileKind::Object {
        return Ok(vec![(digest, data_bytes)]);
    }
    let tail = bytes.len().saturating_sub(usize::try_from(pack::TAIL_BYTES)?);
    let offset = pack::index_offset(data_bytes, &bytes[tail..])?;
    let members = pack::parse_index(&bytes[usize::try_from(offset)?..], offset)?;
    Ok(members.into_iter().map(|member| (member.object, u64::from(member.bytes))).collect())
}

/// What writers call a file before it has its name.
pub fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.ends_with(".tmp") || name.ends_with(".new") || name.contains('#')
}

/// The number of a file on a volume, by its name.
pub fn number_of(path: &Path) -> Option<u64> {
    path.file_name().and_then(|name| name.to_str()).and_then(file_number)
}

fn names(folder: &Path) -> Vec<String> {
    paths(folder).iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Every file below, at any depth.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in paths(&folder) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}
