//! Volumes as folders: opens or creates them, looks at how they are, finds what lies on them, unlinks. Impure.
//!
//! A volume that is not there is no reason to stop: what is said here is a state and a reason, in words.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use content::control_socket::FileName;
use content::id::ObjectId;
use content::lock_holder;
use content::pack::{self, Member};
use content::rot::RotPlace;
use content::volume::{
    FILES_FOLDER, FileKind, INCOMING_FOLDER, MARKER_NAME, Marker, TRAILER_BYTES, Trailer, VolumeId,
    file_bytes, file_name, file_number,
};
use nix::fcntl::Flock;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::{Deserialize, Serialize};

use crate::incoming::{self, Partial};
use crate::packing;
use crate::rot;
use crate::state_folder::hold_alone;

/// A volume that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    pub uuid: VolumeId,
    pub bytes_total: u64,
    pub bytes_free: u64,
    /// What it holds can be read and nothing written: so mounted, or made so by the kernel after a fault of the disk.
    pub read_only: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeFault {
    /// The disk is not there.
    #[error("{0}")]
    Missing(String),
    /// It is there and is no good.
    #[error("{0}")]
    Failed(String),
    /// Another agent fills it.
    #[error(
        "{}: another oca-fill fills it: {holder} holds {MARKER_NAME}; name the volume in one configuration only",
        .path.display()
    )]
    InUse { path: PathBuf, holder: String },
}

/// One agent fills a volume: a lock on its marker. Let go when the volume goes, so that its disk can be taken off.
#[derive(Debug)]
pub struct VolumeLock {
    _file: Flock<File>,
    /// Device and inode of the marker.
    id: (u64, u64),
}

/// What was known of a path at an earlier start: tells a new disk from one that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub uuid: VolumeId,
    /// Its folder was the root of a filesystem of its own.
    pub mounted: bool,
}

/// Reads the marker; an empty folder becomes a new volume, unless it is a disk's that is not mounted. It is that if a disk
/// was mounted there earlier, or `must_be`.
pub fn open(path: &Path, remembered: Option<&Remembered>, must_be: bool) -> Result<Probed, VolumeFault> {
    let not_mounted = || Err(VolumeFault::Missing(format!("nothing is mounted on it: {}", path.display())));
    if must_be && !is_mount_point(path) {
        return not_mounted();
    }
    match probe(path) {
        Err(VolumeFault::Missing(_)) if is_empty_folder(path) => {
            if remembered.is_some_and(|old| old.mounted) && !is_mount_point(path) {
                return not_mounted();
            }
            create(path).map_err(|cause| failed(path, "cannot be made a volume", &cause))?;
        }
        Err(VolumeFault::Failed(_)) if remembered.is_some_and(|old| mend_marker(path, old.uuid)) => {}
        Err(other) => return Err(other),
        Ok(_) => {}
    }
    for folder in [FILES_FOLDER, INCOMING_FOLDER].map(|name| path.join(name)) {
        // Asked first: mkdir waits for a frozen filesystem even if there is nothing to make. Not its parents: a disk that
        // went since its marker was read must not be made anew on the disk below.
        if !folder.is_dir() {
            fs::create_dir(&folder).map_err(|cause| failed(path, "cannot be written to", &cause))?;
        }
    }
    probe(path)
}

/// Takes the volume's lock, or keeps it if it is of the marker that is there now.
pub fn hold(path: &Path, held: &mut Option<VolumeLock>) -> Result<(), VolumeFault> {
    let unreadable = |cause: io::Error| failed(path, "its marker cannot be locked", &cause);
    let file = File::open(path.join(MARKER_NAME)).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let id = (meta.dev(), meta.ino());
    if held.as_ref().is_some_and(|lock| lock.id == id) {
        return Ok(());
    }
    *held = None;
    match hold_alone(file).map_err(unreadable)? {
        Ok(file) => *held = Some(VolumeLock { _file: file, id }),
        // The same disk under two paths of one configuration: the core tells which is left out.
        Err(Some(holder)) if holder == std::process::id() => {}
        Err(holder) => {
            let holder = lock_holder::in_words(holder);
            return Err(VolumeFault::InUse { path: path.to_owned(), holder });
        }
    }
    Ok(())
}

/// Reads the marker and the free space; changes nothing.
pub fn probe(path: &Path) -> Result<Probed, VolumeFault> {
    let missing = |what: String| VolumeFault::Missing(format!("{}: {what}", path.display()));
    let bytes = match fs::read(path.join(MARKER_NAME)) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(missing(format!("there is no {MARKER_NAME}")));
        }
        Err(cause) => return Err(failed(path, "its marker cannot be read", &cause)),
    };
    let damaged = |cause| {
        let path = path.display();
        VolumeFault::Failed(format!(
            "{path}: {cause}; if nothing else helps, empty the folder: it is filled again"
        ))
    };
    let marker = Marker::parse(&bytes).map_err(damaged)?;
    space_of(path, marker.uuid).map_err(|cause| failed(path, "its free space cannot be read", &cause))
}

/// Writes a marker again that is, but for a few bits, that of the volume that was here before.
fn mend_marker(path: &Path, uuid: VolumeId) -> bool {
    let (file, marker) = (path.join(MARKER_NAME), Marker::new(uuid));
    if !fs::read(&file).is_ok_and(|bytes| marker.is_rotten_in(&bytes)) {
        return false;
    }
    let what = format!("its bits are those of volume {uuid}, but for a few");
    rot::found(RotPlace::Marker, file.display(), what, "none needed: it is written again");
    match write_whole(path, MARKER_NAME, &marker.to_bytes()) {
        Ok(()) => true,
        Err(cause) => {
            tracing::error!("{}: not written again: {cause}", file.display());
            false
        }
    }
}

fn space_of(path: &Path, uuid: VolumeId) -> io::Result<Probed> {
    let space = statvfs(path)?;
    let unit = space.fragment_size();
    Ok(Probed {
        uuid,
        bytes_total: unit.saturating_mul(space.blocks()),
        bytes_free: unit.saturating_mul(space.blocks_available()),
        read_only: space.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// What [`open`] would make of an empty folder, without making it. `uuid` stands in for the one it would get.
pub fn would_become(path: &Path, uuid: VolumeId) -> Option<Probed> {
    is_empty_folder(path).then(|| space_of(path, uuid).ok()).flatten()
}

fn failed(path: &Path, what: &str, cause: &io::Error) -> VolumeFault {
    VolumeFault::Failed(format!("{}: {what}: {cause}", path.display()))
}

fn is_empty_folder(path: &Path) -> bool {
    // A new filesystem of ext4 has a lost+found; an agent killed while it wrote the marker leaves that unfinished.
    let ours = |name: &std::ffi::OsStr| name != "lost+found" && name != staged_name(MARKER_NAME).as_str();
    fs::read_dir(path)
        .is_ok_and(|mut entries| !entries.any(|entry| entry.is_ok_and(|e| ours(&e.file_name()))))
}

pub fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    device(path).is_some() && device(path) != device(&path.join(".."))
}

fn create(path: &Path) -> io::Result<()> {
    let marker = Marker::new(VolumeId(random()?));
    write_whole(path, MARKER_NAME, &marker.to_bytes())
}

/// 16 random bytes from the kernel.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Writes a small file so that it is there whole or not at all, and lasts. What was begun is removed when it fails: on a
/// full disk it would take the room that the next try needs.
pub fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_staged(folder, name, |file| file.write_all(bytes))
}

/// The same for a file of any size, which `write` writes.
pub fn write_staged<E: From<io::Error>>(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let staged = folder.join(staged_name(name));
    let written = stage(&staged, write).and_then(|()| Ok(fs::rename(&staged, folder.join(name))?));
    if let Err(cause) = written {
        // On a disk that cannot be written to, nothing was begun.
        fs::remove_file(&staged).unwrap_or_default();
        return Err(cause);
    }
    Ok(sync_folder(folder)?)
}

fn stage<E: From<io::Error>>(path: &Path, write: impl FnOnce(&mut File) -> Result<(), E>) -> Result<(), E> {
    let mut file = File::create(path)?;
    write(&mut file)?;
    Ok(file.sync_all()?)
}

fn staged_name(name: &str) -> String {
    format!("{name}.tmp")
}

pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What lies on a volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Complete files that the agent did not know.
    pub strangers: Vec<Stranger>,
    /// Files that it thought were there and are not, or are of another length.
    pub missing: Vec<FileName>,
    /// Unfinished downloads that can go on.
    pub partials: Vec<Partial>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stranger {
    pub number: u64,
    pub data_bytes: u64,
    pub found: Found,
}

/// What a file says that it is; its bytes are not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Object(ObjectId),
    Pack(Box<[Member]>),
    /// Its trailer or its index cannot be read: it is of no use.
    Unknown,
}

/// Reads both folders. `known` is what the catalogue says of this volume: number and data bytes. Removes leftovers that
/// no download can go on from, and temporary files.
pub fn scan(path: &Path, uuid: VolumeId, known: &BTreeMap<u64, u64>) -> io::Result<Scan> {
    let mut scan = Scan { partials: incoming::leftovers(path)?, ..Scan::default() };
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(path.join(FILES_FOLDER))? {
        let entry = entry?;
        match entry.file_name().to_str().and_then(file_number) {
            Some(number) => {
                seen.insert(number, entry.metadata()?.len());
            }
            None => tracing::warn!("{} is none of ours: left alone", entry.path().display()),
        }
    }
    for (number, data_bytes) in known {
        if seen.remove(number) != Some(file_bytes(*data_bytes)) {
            scan.missing.push(FileName { uuid, file: *number });
        }
    }
    scan.strangers = seen.into_iter().map(|(number, length)| stranger(path, number, length)).collect();
    Ok(scan)
}

fn stranger(volume: &Path, number: u64, length: u64) -> Stranger {
    let path = file_path(volume, number);
    let trailer = read_trailer(&path, length).ok().filter(|trailer| file_bytes(trailer.data_bytes) == length);
    let data_bytes = trailer.as_ref().map_or(length, |trailer| trailer.data_bytes);
    let found = match trailer {
        Some(Trailer { kind: FileKind::Object, digest, .. }) => Found::Object(digest),
        Some(Trailer { kind: FileKind::Pack, digest, .. }) if pack::is_of(digest, number) => {
            let members = packing::read_index(&path, data_bytes).ok().flatten();
            members.map_or(Found::Unknown, |members| Found::Pack(members.into()))
        }
        Some(_) | None => Found::Unknown,
    };
    if found == Found::Unknown {
        // Files are moved here whole.
        let cure = "none needed: what is wanted of it is pulled again, then it is removed";
        rot::found(RotPlace::File, path.display(), "its footer or its index cannot be read", cure);
    }
    Stranger { number, data_bytes, found }
}

fn read_trailer(path: &Path, length: u64) -> io::Result<Trailer> {
    let mut bytes = [0; TRAILER_BYTES];
    let at = length.saturating_sub(u64::try_from(TRAILER_BYTES).unwrap_or(u64::MAX));
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Trailer::parse(&bytes).map_err(io::Error::other)
}

pub fn file_path(volume: &Path, number: u64) -> PathBuf {
    volume.join(FILES_FOLDER).join(file_name(number))
}

/// Removes a file that nothing names. That it is gone already is no fault.
pub fn unlink(volume: &Path, number: u64) -> io::Result<()> {
    match fs::remove_file(file_path(volume, number)) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_becomes_a_volume_once_and_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        // What a kill in the middle of making the marker leaves.
        fs::write(folder.path().join(staged_name(MARKER_NAME)), b"{\"form").unwrap();
        let first = open(folder.path(), None, false).unwrap();
        let second = open(folder.path(), None, false).unwrap();
        assert_eq!(first.uuid, second.uuid);
        assert!(folder.path().join(FILES_FOLDER).is_dir());
        assert!(first.bytes_total >= first.bytes_free);
    }

    #[test]
    fn a_rotten_marker_is_mended_only_for_the_volume_that_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let uuid = open(folder.path(), None, false).unwrap().uuid;
        let file = folder.path().join(MARKER_NAME);
        let whole = fs::read(&file).unwrap();
        for bit in (0..whole.len() * 8).step_by(5) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bytes).unwrap();
            assert!(matches!(open(folder.path(), None, false), Err(VolumeFault::Failed(_))), "bit {bit}");
            let other = Remembered { uuid: VolumeId([9; 16]), mounted: false };
            assert!(
                matches!(open(folder.path(), Some(&other), false), Err(VolumeFault::Failed(_))),
                "bit {bit}"
            );
            let known = Remembered { uuid, mounted: false };
            assert_eq!(open(folder.path(), Some(&known), false).unwrap().uuid, uuid, "bit {bit}");
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
    }

    #[test]
    fn a_missing_folder_a_strange_one_and_an_unmounted_one_are_no_volumes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(open(&folder.path().join("none"), None, false), Err(VolumeFault::Missing(_))));
        let old = Remembered { uuid: VolumeId([1; 16]), mounted: true };
        assert!(matches!(open(folder.path(), Some(&old), false), Err(VolumeFault::Missing(_))));
        assert!(matches!(open(folder.path(), None, true), Err(VolumeFault::Missing(_))));
        fs::write(folder.path().join("holiday.jpg"), b"x").unwrap();
        assert!(matches!(open(folder.path(), None, false), Err(VolumeFault::Missing(_))));
        assert!(!folder.path().join(MARKER_NAME).exists());
        fs::write(folder.path().join(MARKER_NAME), b"{}").unwrap();
        assert!(matches!(open(folder.path(), None, false), Err(VolumeFault::Failed(_))));
    }

    #[test]
    fn a_volume_has_one_filler_and_its_lock_goes_with_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), None, false).unwrap();
        let mut lock = None;
        hold(folder.path(), &mut lock).unwrap();
        let marker = folder.path().join(MARKER_NAME);
        // Another process, as far as the kernel's locks go: a description of its own.
        let stranger = || hold_alone(File::open(&marker).unwrap()).unwrap();
        assert_eq!(stranger().unwrap_err(), Some(std::process::id()));
        fs::write(folder.path().join("new"), fs::read(&marker).unwrap()).unwrap();
        fs::rename(folder.path().join("new"), &marker).unwrap();
        hold(folder.path(), &mut lock).unwrap();
        assert!(stranger().is_err(), "the marker that is there now is the one that is held");
        lock = None;
        assert!(lock.is_none() && stranger().is_ok());
    }

    #[test]
    fn a_scan_tells_strangers_from_files_that_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        let uuid = open(folder.path(), None, false).unwrap().uuid;
        fs::write(file_path(folder.path(), 4), vec![0; 100]).unwrap();
        fs::write(folder.path().join(FILES_FOLDER).join("notes"), b"x").unwrap();
        let known = BTreeMap::from([(2, 10)]);
        let scan = scan(folder.path(), uuid, &known).unwrap();
        assert_eq!(scan.strangers, [Stranger { number: 4, data_bytes: 100, found: Found::Unknown }]);
        assert_eq!(scan.missing, [FileName { uuid, file: 2 }]);
    }
}
