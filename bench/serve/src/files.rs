//! The media files that both servers read: made once in a folder, and used again by the next run.
//!
//! ```text
//! FOLDER/shelf.json          what is there, written last
//!        volume/             a volume as the fill agent makes one (DESIGN §3): what oca-appliance serves
//!        www/hot/hd/*.mp4    the same files by another name (hard links): what nginx serves
//!        www/cold/hd/*.mp4   and fio reads
//! ```
//!
//! All of one size, of bytes that no disk can make less of. Not media: no server looks into a segment.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use content::catalogue::{
    self, CATALOGUE_FOLDER, CURRENT_NAME, Contents, Entry, FileRecord, generation_name,
};
use content::id::{Extension, MediaPath, ObjectId, Tier};
use content::volume::{self, Checksums, FileKind, Footer, Marker, VolumeId};
use fleet_tests::filler::{self, mix};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use serde::{Deserialize, Serialize};
use xtask::progress::Line;

const UUID: VolumeId = VolumeId([0xbe; 16]);
const GENERATION: u64 = 1;

/// Which files: those that fit in memory, or those that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Hot,
    Cold,
}

impl Set {
    pub const ALL: [Self; 2] = [Self::Hot, Self::Cold];

    /// The title that its files belong to.
    pub fn title(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shelf {
    #[serde(skip)]
    folder: PathBuf,
    /// Of each.
    pub file_bytes: u64,
    hot: Vec<Held>,
    cold: Vec<Held>,
}

/// A file's number on the volume, and the digest of what is in it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Held {
    number: u64,
    object: ObjectId,
}

impl Shelf {
    /// What an earlier run left is used if there is enough of it, and no more of it than asked for. `file_bytes`: a multiple
    /// of 4 KiB, and of what is asked for at a time.
    pub fn make(folder: &Path, file_bytes: u64, hot_bytes: u64, cold_bytes: u64) -> Result<Self> {
        let [hot, cold] = [hot_bytes, cold_bytes].map(|bytes| usize::try_from(bytes.div_ceil(file_bytes)));
        let (hot, cold) = (hot?, cold?);
        let list = folder.join("shelf.json");
        if let Some(mut shelf) =
            fs::read(&list).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            && shelf.file_bytes == file_bytes
            && shelf.hot.len() >= hot
            && shelf.cold.len() >= cold
        {
            shelf.folder = folder.to_owned();
            shelf.hot.truncate(hot);
            shelf.cold.truncate(cold);
            return Ok(shelf);
        }
        for name in ["volume", "www"] {
            remove(&folder.join(name))?;
        }
        let mut shelf = Self { folder: folder.to_owned(), file_bytes, hot: Vec::new(), cold: Vec::new() };
        shelf.write(hot, cold)?;
        fs::write(&list, serde_json::to_vec_pretty(&shelf)?)?;
        Ok(shelf)
    }

    fn write(&mut self, hot: usize, cold: usize) -> Result<()> {
        fs::create_dir_all(self.volume().join(volume::FILES_FOLDER))?;
        fs::create_dir_all(self.volume().join(volume::INCOMING_FOLDER))?;
        fs::write(self.volume().join(volume::MARKER_NAME), Marker::new(UUID).to_bytes())?;
        let mut line = Line::new();
        let all = hot + cold;
        for index in 0..all {
            let set = if index < hot { Set::Hot } else { Set::Cold };
            let number = u64::try_from(index)? + 1;
            let path = self.volume().join(volume::FILES_FOLDER).join(volume::file_name(number));
            let object =
                write_file(&path, number, self.file_bytes).with_context(|| format!("{}", path.display()))?;
            let link = self.www().join(&media_path(set, object).to_string()[1..]);
            fs::create_dir_all(link.parent().context("a file is in a folder")?)?;
            fs::hard_link(&path, link)?;
            match set {
                Set::Hot => self.hot.push(Held { number, object }),
                Set::Cold => self.cold.push(Held { number, object }),
            }
            line.show(&format!("file {number} of {all}"));
        }
        line.end(&format!("{all} files of {} MiB", self.file_bytes >> 20));
        Ok(())
    }

    pub fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }

    /// The root of nginx.
    pub fn www(&self) -> PathBuf {
        self.folder.join("www")
    }

    pub fn www_of(&self, set: Set) -> PathBuf {
        self.www().join(set.title())
    }

    fn held(&self, set: Set) -> &[Held] {
        match set {
            Set::Hot => &self.hot,
            Set::Cold => &self.cold,
        }
    }

    /// Paths behind the token.
    pub fn paths(&self, set: Set) -> impl Iterator<Item = MediaPath> + use<'_> {
        self.held(set).iter().map(move |held| media_path(set, held.object))
    }

    /// Where nginx finds what a path names.
    pub fn file(&self, path: &MediaPath) -> PathBuf {
        self.www().join(&path.to_string()[1..])
    }

    /// Writes what the set has and forgets it: the page cache holds nothing of it.
    pub fn drop_from_page_cache(&self, set: Set) -> Result<()> {
        for path in self.paths(set) {
            let file = File::open(self.file(&path))?;
            file.sync_data()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(())
    }

    /// A state folder whose catalogue names all files and `fillers` entries more, as the agent writes it.
    pub fn write_state(&self, state: &Path, fillers: u32, filler_files: u32) -> Result<()> {
        let mut contents =
            Contents { generation: GENERATION, next_file: 1, volumes: vec![UUID], ..Contents::default() };
        for set in Set::ALL {
            for Held { number, object } in self.held(set) {
                let file = u32::try_from(contents.files.len())?;
                contents.files.push(FileRecord { number: *number, data_bytes: self.file_bytes, volume: 0 });
                contents.next_file = contents.next_file.max(number + 1);
                let key = media_path(set, *object).key();
                let (object, extension) = (*object, Extension::Mp4);
                contents.entries.push(Entry {
                    key,
                    object,
                    file,
                    offset: 0,
                    bytes: self.file_bytes,
                    extension,
                });
            }
        }
        filler::fill(&mut contents, fillers, filler_files);
        let folder = state.join(CATALOGUE_FOLDER);
        fs::create_dir_all(&folder)?;
        contents.entries.sort_unstable_by_key(|entry| entry.key);
        catalogue::build::write(&contents, File::create(folder.join(generation_name(GENERATION)))?)?;
        fs::write(folder.join(CURRENT_NAME), catalogue::current_bytes(GENERATION))?;
        Ok(())
    }
}

fn media_path(set: Set, object: ObjectId) -> MediaPath {
    let title = set.title().parse().expect("a slug");
    MediaPath { title, tier: Tier::Hd, object, extension: Extension::Mp4 }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Preallocated, as the agent does: in one piece, if the filesystem has one.
fn write_file(path: &Path, number: u64, data_bytes: u64) -> Result<ObjectId> {
    let data = noise(number, data_bytes);
    let mut checksums = Checksums::default();
    checksums.update(&data);
    let digest = ObjectId::of(&data);
    let footer = Footer { kind: FileKind::Object, data_bytes, digest, checksums: checksums.finish() };
    let mut file = File::create(path)?;
    let whole = i64::try_from(volume::file_bytes(data_bytes))?;
    match fallocate(&file, FallocateFlags::empty(), 0, whole) {
        Ok(()) | Err(Errno::EOPNOTSUPP) => {}
        Err(cause) => return Err(cause).context("no room for the file"),
    }
    file.write_all(&data)?;
    // The data end at a boundary of 4 KiB: the footer follows at once.
    file.write_all(&footer.to_bytes())?;
    file.sync_all()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(digest)
}

/// Bytes that repeat nowhere and cannot be compressed.
fn noise(number: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count).expect("a 64-bit machine")];
    for (word, index) in bytes.chunks_exact_mut(8).zip(0u64..) {
        word.copy_from_slice(&mix(number << 32 | index).to_le_bytes());
    }
    bytes
}
