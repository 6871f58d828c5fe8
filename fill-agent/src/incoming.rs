//! A download on its volume: allocated, written piece by piece, ended with its footer, moved to `files/`. Impure.
//!
//! ```text
//! incoming/<number>.json   the resume record: which object this is, of how many bytes; sealed (`content::seal`)
//! incoming/<number>.obao   its verification tree
//! incoming/<number>.part   the file itself, allocated in full
//! incoming/<number>.ready  the same of a small object, once it is complete: it waits for its pack (`packing`)
//! incoming/<number>.pack   a pack that is being written
//! ```
//!
//! The record holds no progress: a start reads the pieces and checks them against the tree, up to the first
//! that is wrong. So a kill costs the piece that was on its way and nothing else, and a power cut what the disk had not got.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use content::checksum::PIECE_BYTES;
use content::id::ObjectId;
use content::rot::RotPlace;
use content::seal::{from_sealed, to_sealed};
use content::tree::Tree;
use content::volume::{
    Checksums, FILES_FOLDER, FileKind, Footer, INCOMING_FOLDER, VolumeId, file_bytes, file_name, file_number,
    footer_offset,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use serde::{Deserialize, Serialize};

use crate::aligned::PieceBuffer;
use crate::rot;
use crate::volumes::{file_path, sync_folder, write_whole};

/// Data are made to last this often, so that a power cut costs no more.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// The resume record: what `incoming/<number>.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    object: ObjectId,
    bytes: u64,
}

/// A download that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    pub number: u64,
    pub object: ObjectId,
    pub bytes: u64,
    /// Complete: a small object that waits for its pack.
    pub ready: bool,
}

/// Whose fault it is, and so what to do.
#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    #[error("the volume is full")]
    Full,
    #[error("the volume cannot be written to")]
    ReadOnly,
    #[error("the volume failed: {0}")]
    Failed(io::Error),
    /// Bytes that were verified once are not the same any more, or a file is not what it says.
    #[error("{0}")]
    Damaged(String),
}

impl From<io::Error> for DiskFault {
    fn from(cause: io::Error) -> Self {
        match cause.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Self::Full,
            Some(Errno::EROFS) => Self::ReadOnly,
            _ => Self::Failed(cause),
        }
    }
}

/// An unfinished file. What is in it up to `verified` pieces is the object's.
#[derive(Debug)]
pub struct IncomingFile {
    volume: PathBuf,
    number: u64,
    object: ObjectId,
    tree: Tree,
    file: File,
    checksums: Checksums,
    verified: u64,
    unsynced: u64,
}

const TREE_CURE: &str =
    "none needed: a source gives the tree again, and the pieces that came are checked against it";

/// The tree that an earlier attempt left, if it is whole.
pub fn stored_tree(volume: &Path, number: u64, object: ObjectId) -> Option<Tree> {
    let path = incoming_path(volume, number, "obao");
    match Tree::parse(object, &fs::read(&path).ok()?) {
        Ok(tree) => Some(tree),
        Err(cause) => {
            let cure =
                "none needed: a source gives the tree again, and the pieces that came are checked against it";
            rot::found(RotPlace::ResumeTree, path.display(), cause, cure);
            None
        }
    }
}

/// A file that is allocated, and perhaps holds what an earlier attempt wrote.
#[derive(Debug)]
pub struct Begun {
    incoming: IncomingFile,
    fresh: bool,
}

impl Begun {
    /// Goes on from what is there already: reads all of it.
    pub fn recover(mut self) -> Result<IncomingFile, DiskFault> {
        if !self.fresh {
            self.incoming.recover()?;
        }
        Ok(self.incoming)
    }
}

/// Writes record and tree, allocates the file.
pub fn begin(
    volume: &Path,
    number: u64,
    object: ObjectId,
    tree: Tree,
    encoded: Option<&[u8]>,
) -> Result<Begun, DiskFault> {
    let folder = volume.join(INCOMING_FOLDER);
    if let Some(encoded) = encoded {
        let record = Record { object, bytes: tree.object_bytes() };
        write_whole(&folder, &format!("{}.obao", file_name(number)), encoded)?;
        write_whole(&folder, &format!("{}.json", file_name(number)), &to_sealed(&record))?;
    }
    let path = incoming_path(volume, number, "part");
    let fresh = !path.exists();
    let file = open_direct(&path, OpenOptions::new().read(true).write(true).create(true))?;
    allocate(&file, file_bytes(tree.object_bytes()))?;
    let incoming = IncomingFile {
        volume: volume.to_owned(),
        number,
        object,
        tree,
        file,
        checksums: Checksums::default(),
        verified: 0,
        unsynced: 0,
    };
    Ok(Begun { incoming, fresh })
}

impl IncomingFile {
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// How many pieces, from the first, are there and right.
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// Checks the next piece and writes it. `false`: these are not its bytes; nothing was written.
    pub fn push(&mut self, buffer: &mut PieceBuffer) -> Result<bool, DiskFault> {
        if !self.tree.verifies(self.verified, buffer.bytes()) {
            return Ok(false);
        }
        self.checksums.update(buffer.bytes());
        let at = self.verified.saturating_mul(PIECE_BYTES);
        write_at(&self.file, buffer.padded(), at)?;
        self.verified += 1;
        self.unsynced = self.unsynced.saturating_add(PIECE_BYTES);
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.sync_data()?;
        }
        Ok(true)
    }

    /// Ends the file and moves it to `files/`. It is complete there or not there at all.
    pub fn finish(mut self) -> Result<(), DiskFault> {
        assert_eq!(self.verified, self.tree.piece_count(), "a file is finished before its last piece");
        let data_bytes = self.tree.object_bytes();
        let checksums = std::mem::take(&mut self.checksums).finish();
        let footer = Footer { kind: FileKind::Object, data_bytes, digest: self.object, checksums };
        write_footer(&self.file, &footer.to_bytes(), footer_offset(data_bytes))?;
        self.file.sync_all()?;
        self.sync_data()?;
        let number = self.number;
        fs::rename(incoming_path(&self.volume, number, "part"), file_path(&self.volume, number))?;
        sync_folder(&self.volume.join(FILES_FOLDER))?;
        discard(&self.volume, number)?;
        Ok(())
    }

    /// A small object is complete and waits for its pack. Not made to last: whoever packs it compares it with its name.
    pub fn wait_for_pack(self) -> Result<(), DiskFault> {
        assert_eq!(self.verified, self.tree.piece_count(), "an object is packed after its last piece");
        let path = |extension| incoming_path(&self.volume, self.number, extension);
        fs::rename(path("part"), path("ready"))?;
        Ok(())
    }

    /// Reads what an earlier attempt wrote, up to the first piece that is not right.
    fn recover(&mut self) -> Result<(), DiskFault> {
        let mut buffer = PieceBuffer::default();
        while self.verified < self.tree.piece_count() {
            let count = usize::try_from(self.tree.piece_bytes(self.verified)).unwrap_or(0);
            let at = self.verified.saturating_mul(PIECE_BYTES);
            self.file.read_exact_at(buffer.room(count), at)?;
            if !self.tree.verifies(self.verified, buffer.bytes()) {
                break;
            }
            self.checksums.update(buffer.bytes());
            self.verified += 1;
        }
        Ok(())
    }

    fn sync_data(&mut self) -> Result<(), DiskFault> {
        self.file.sync_data()?;
        self.unsynced = 0;
        forget_pages(&self.file);
        Ok(())
    }
}

pub(crate) fn write_footer(file: &File, footer: &[u8], offset: u64) -> io::Result<()> {
    let mut buffer = PieceBuffer::default();
    let mut at = offset;
    for part in footer.chunks(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
        buffer.clear();
        buffer.fill(part, part.len());
        write_at(file, buffer.padded(), at)?;
        at = at.saturating_add(u64::try_from(part.len()).unwrap_or(0));
    }
    Ok(())
}

/// Reads a complete file whole and checks it against its object's name, its size and its own footer.
pub fn check_complete(path: &Path, object: ObjectId, bytes: u64) -> Result<(), DiskFault> {
    let damaged = |what: &str| Err(DiskFault::Damaged(format!("{}: {what}", path.display())));
    let file = open_direct(path, OpenOptions::new().read(true))?;
    if file.metadata()?.len() != file_bytes(bytes) {
        return damaged("its length is wrong");
    }
    let (mut buffer, mut digest, mut checksums) =
        (PieceBuffer::default(), blake3::Hasher::new(), Checksums::default());
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(PIECE_BYTES);
        file.read_exact_at(buffer.room(usize::try_from(count).unwrap_or(0)), at)?;
        digest.update(buffer.bytes());
        checksums.update(buffer.bytes());
        at += count;
    }
    let footer = read_footer(&file, bytes)?;
    forget_pages(&file);
    if ObjectId::from_bytes(*digest.finalize().as_bytes()) != object {
        return damaged("its bytes are not its object's");
    }
    match Footer::parse(&footer, bytes) {
        Ok(footer) if footer.digest == object && footer.checksums == checksums.finish() => Ok(()),
        _ => damaged("its footer is wrong"),
    }
}

pub(crate) fn read_footer(file: &File, bytes: u64) -> Result<Vec<u8>, DiskFault> {
    let mut footer = Vec::new();
    let mut buffer = PieceBuffer::default();
    let (mut at, end) = (footer_offset(bytes), file_bytes(bytes));
    while at < end {
        let count = (end - at).min(PIECE_BYTES);
        file.read_exact_at(buffer.room(usize::try_from(count).unwrap_or(0)), at)?;
        footer.extend_from_slice(buffer.bytes());
        at += count;
    }
    Ok(footer)
}

/// Removes a download and its record; the record goes last, so that what is left of it is still known for what it is.
pub fn discard(volume: &Path, number: u64) -> io::Result<()> {
    for extension in ["part", "ready", "obao", "json"] {
        match fs::remove_file(incoming_path(volume, number, extension)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

/// What belongs to a download.
const KEPT: [&str; 4] = ["json", "obao", "part", "ready"];

/// The downloads that can go on. Removes what belongs to none: no valid record, a temporary file; and a rotten tree,
/// which a source gives again.
pub fn leftovers(volume: &Path) -> io::Result<Vec<Partial>> {
    let folder = volume.join(INCOMING_FOLDER);
    let mut partials = Vec::new();
    let names = fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = names.collect::<io::Result<Vec<_>>>()?;
    let numbered = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).and_then(file_number);
    let of = |path: &Path, wanted: &str| path.extension().is_some_and(|extension| extension == wanted);
    for path in paths.iter().filter(|path| of(path, "json")) {
        let partial = numbered(path).and_then(|number| valid_partial(volume, number));
        partials.extend(partial);
    }
    let numbers: BTreeSet<_> = partials.iter().map(|partial: &Partial| partial.number).collect();
    for path in paths {
        let number = numbered(&path).filter(|_| KEPT.iter().any(|e| of(&path, e)));
        let valid = number.is_some_and(|number| numbers.contains(&number));
        if !valid {
            remove_leftover(&path)?;
        }
    }
    Ok(partials)
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // Another start finds it again, once the volume can be written to.
        Err(cause) if cause.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        // A tree that does not fit its record went with the record's check.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause),
        Ok(()) => {
            tracing::info!("{} was left over and of no use: removed", path.display());
            Ok(())
        }
    }
}

fn valid_partial(volume: &Path, number: u64) -> Option<Partial> {
    let path = incoming_path(volume, number, "json");
    let record: Record = match from_sealed(&fs::read(&path).ok()?) {
        Ok(record) => record,
        Err(cause) => {
            let cure = "none needed: what came of this download is removed, and it starts over";
            rot::found(RotPlace::ResumeRecord, path.display(), cause, cure);
            return None;
        }
    };
    let tree = stored_tree(volume, number, record.object);
    let fits = tree.as_ref().is_some_and(|tree| tree.object_bytes() == record.bytes);
    if let Some(tree) = tree.filter(|_| !fits) {
        // Its length stands beside the hashes, not under them.
        let what = format!("it is of {} bytes, not {}", tree.object_bytes(), record.bytes);
        let path = incoming_path(volume, number, "obao");
        rot::found(RotPlace::ResumeTree, path.display(), what, TREE_CURE);
    }
    if !fits && let Err(cause) = fs::remove_file(incoming_path(volume, number, "obao")) {
        tracing::debug!(number, "no tree to remove: {cause}");
    }
    let there = |extension| incoming_path(volume, number, extension).exists();
    let (begun, ready) = (there("part"), there("ready"));
    let Record { object, bytes } = record;
    (begun || ready).then_some(Partial { number, object, bytes, ready })
}

pub(crate) fn incoming_path(volume: &Path, number: u64, extension: &str) -> PathBuf {
    volume.join(INCOMING_FOLDER).join(format!("{}.{extension}", file_name(number)))
}

/// Past the page cache where the filesystem can: serving's memory is left alone (DESIGN §5).
pub(crate) fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match options.clone().custom_flags(OFlag::O_DIRECT.bits()).open(path) {
        Err(cause) if cause.raw_os_error() == Some(nix::libc::EINVAL) => options.open(path),
        other => other,
    }
}

pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    match file.write_all_at(bytes, offset) {
        // A disk whose logical block is larger than ours: go on through the page cache.
        Err(cause) if cause.raw_os_error() == Some(nix::libc::EINVAL) => {
            let flags = fcntl(file.as_fd(), FcntlArg::F_GETFL)?;
            let flags = OFlag::from_bits_truncate(flags).difference(OFlag::O_DIRECT);
            fcntl(file.as_fd(), FcntlArg::F_SETFL(flags))?;
            file.write_all_at(bytes, offset)
        }
        other => other,
    }
}

pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP) => file.set_len(bytes),
        other => Ok(other?),
    }
}

/// Nothing depends on it: a hint, for where O_DIRECT was not to be had.
pub(crate) fn forget_pages(file: &File) {
    if let Err(errno) = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
        tracing::debug!("posix_fadvise: {errno}");
    }
}

/// The small objects that wait on a volume for their pack; changes nothing.
pub fn waiting(volume: &Path) -> Vec<ObjectId> {
    let entries = fs::read_dir(volume.join(INCOMING_FOLDER)).into_iter().flatten().flatten();
    let ready = |path: &Path| path.extension().is_some_and(|extension| extension == "ready");
    let numbers = entries.map(|entry| entry.path()).filter(|path| ready(path));
    let numbers = numbers.filter_map(|path| path.file_stem()?.to_str().and_then(file_number));
    numbers.filter_map(|number| valid_partial(volume, number)).map(|partial| partial.object).collect()
}

/// Where a finished file is, for those who know only its name.
pub fn describe(uuid: VolumeId, number: u64) -> String {
    format!("{}/{}", uuid, file_name(number))
}

#[cfg(test)]
mod tests {
    use content::tree::TreeBuilder;

    use super::*;

    fn object(count: usize) -> (Vec<u8>, ObjectId, Vec<u8>) {
        let data: Vec<u8> = (0..=250u8).cycle().take(count).collect();
        let mut builder = TreeBuilder::new();
        builder.update(&data);
        let (object, encoded) = builder.finish();
        (data, object, encoded)
    }

    fn volume() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        crate::volumes::open(folder.path(), None, false).unwrap();
        folder
    }

    fn open(
        volume: &Path,
        number: u64,
        object: ObjectId,
        tree: Tree,
        encoded: Option<&[u8]>,
    ) -> Result<IncomingFile, DiskFault> {
        begin(volume, number, object, tree, encoded)?.recover()
    }

    fn push(file: &mut IncomingFile, data: &[u8]) -> bool {
        let mut buffer = PieceBuffer::default();
        buffer.fill(data, data.len());
        file.push(&mut buffer).unwrap()
    }

    #[test]
    fn a_file_is_complete_after_any_number_of_interruptions_at_every_odd_size() {
        for count in [0, 1, 4096, 262_144, 262_145, 1_000_000] {
            let (volume, (data, id, encoded)) = (volume(), object(count));
            let tree = Tree::parse(id, &encoded).unwrap();
            let pieces: Vec<&[u8]> = if data.is_empty() { vec![&[]] } else { data.chunks(262_144).collect() };
            let mut stored = Some(encoded.as_slice());
            for (index, piece) in (0..).zip(&pieces) {
                let mut file = open(volume.path(), 9, id, tree.clone(), stored.take()).unwrap();
                if count > 0 {
                    assert_eq!(file.verified(), index, "{count} bytes");
                }
                if file.verified() == index {
                    assert!(push(&mut file, piece));
                }
            }
            open(volume.path(), 9, id, tree, None).unwrap().finish().unwrap();
            let path = file_path(volume.path(), 9);
            check_complete(&path, id, u64::try_from(count).unwrap()).unwrap();
            assert_eq!(fs::read(&path).unwrap()[..count], data);
            assert_eq!(fs::read_dir(volume.path().join(INCOMING_FOLDER)).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_wrong_piece_is_not_written_and_a_rotten_one_is_found_again() {
        let (volume, (data, id, encoded)) = (volume(), object(600_000));
        let tree = Tree::parse(id, &encoded).unwrap();
        let mut file = open(volume.path(), 3, id, tree.clone(), Some(&encoded)).unwrap();
        assert!(push(&mut file, &data[..262_144]));
        assert!(!push(&mut file, &data[..262_144]));
        assert!(push(&mut file, &data[262_144..524_288]));
        drop(file);
        let part = OpenOptions::new().write(true).open(incoming_path(volume.path(), 3, "part")).unwrap();
        part.write_all_at(&[0xff], 300_000).unwrap();
        assert_eq!(open(volume.path(), 3, id, tree, None).unwrap().verified(), 1);
    }

    #[test]
    fn every_flipped_byte_of_a_complete_file_that_matters_is_noticed() {
        let (volume, (data, id, encoded)) = (volume(), object(5000));
        let tree = Tree::parse(id, &encoded).unwrap();
        let mut file = open(volume.path(), 1, id, tree, Some(&encoded)).unwrap();
        assert!(push(&mut file, &data));
        file.finish().unwrap();
        let path = file_path(volume.path(), 1);
        for at in [0, 4999, 8192, 12_288 - 1] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(check_complete(&path, id, 5000), Err(DiskFault::Damaged(_))), "flip at {at}");
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
        check_complete(&path, id, 5000).unwrap();
    }

    #[test]
    fn leftovers_without_a_valid_record_are_removed_and_a_rotten_tree_costs_only_itself() {
        let (volume, (data, id, encoded)) = (volume(), object(600_000));
        let tree = Tree::parse(id, &encoded).unwrap();
        for number in [1, 2, 3] {
            let mut file = open(volume.path(), number, id, tree.clone(), Some(&encoded)).unwrap();
            assert!(push(&mut file, &data[..262_144]));
        }
        let folder = volume.path().join(INCOMING_FOLDER);
        fs::write(incoming_path(volume.path(), 2, "json"), b"{").unwrap();
        fs::write(incoming_path(volume.path(), 3, "obao"), b"rubbish").unwrap();
        fs::write(folder.join("0000000000000004.json.tmp"), b"x").unwrap();
        let mut found = leftovers(volume.path()).unwrap();
        found.sort_by_key(|partial| partial.number);
        assert_eq!(found, [1, 3].map(|number| Partial { number, object: id, bytes: 600_000, ready: false }));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 5);
        assert_eq!(open(volume.path(), 3, id, tree, Some(&encoded)).unwrap().verified(), 1, "it goes on");
    }

    #[test]
    fn a_record_without_a_file_and_with_a_tree_of_another_length_is_a_leftover_too() {
        let (volume, (_, id, encoded)) = (volume(), object(600_000));
        let put =
            |extension, bytes: &[u8]| fs::write(incoming_path(volume.path(), 1, extension), bytes).unwrap();
        put("json", &to_sealed(&Record { object: id, bytes: 1 }));
        put("obao", &encoded);
        assert_eq!(leftovers(volume.path()).unwrap(), []);
        assert_eq!(fs::read_dir(volume.path().join(INCOMING_FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn every_flipped_bit_of_a_resume_record_is_found_and_nothing_goes_on_from_it() {
        let (volume, (data, id, encoded)) = (volume(), object(600_000));
        let tree = Tree::parse(id, &encoded).unwrap();
        let record = incoming_path(volume.path(), 1, "json");
        let count = || rot::counts()[RotPlace::ResumeRecord.label()];
        let bits = 8 * to_sealed(&Record { object: id, bytes: 600_000 }).len();
        for bit in (0..bits).step_by(7) {
            let mut file = open(volume.path(), 1, id, tree.clone(), Some(&encoded)).unwrap();
            assert!(file.verified() > 0 || push(&mut file, &data[..262_144]));
            let mut bytes = fs::read(&record).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&record, bytes).unwrap();
            let before = count();
            assert_eq!(leftovers(volume.path()).unwrap(), [], "bit {bit}");
            assert!(count() > before);
            assert_eq!(fs::read_dir(volume.path().join(INCOMING_FOLDER)).unwrap().count(), 0);
        }
    }
}
