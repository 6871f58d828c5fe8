//! Packs on a volume: written from small objects, and read whole to see what is right in one. Impure.
//!
//! ```text
//!   incoming/<n>.ready ─┐ each read whole, compared     incoming/<m>.pack ──fsync, rename──> files/<m>
//!   files/<old> ────────┴── with its object's name ───>  members, index, footer                 │
//!                                                        the .ready ones are removed <──────────┘
//! ```
//!
//! Killed at any instant, an object is in its old place or in both; the next start removes what is there twice. A member
//! that is not its object's is left out and named in the result.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use content::checksum::PIECE_BYTES;
use content::control_socket::FileName;
use content::id::ObjectId;
use content::pack::{self, Member, TAIL_BYTES};
use content::rot::RotPlace;
use content::volume::{
    ALIGNMENT_BYTES, Checksums, FILES_FOLDER, FileKind, Footer, INCOMING_FOLDER, file_bytes, file_name,
    footer_offset,
};

use crate::aligned::PieceBuffer;
use crate::incoming::{self, DiskFault};
use crate::rot;
use crate::volumes::{file_path, sync_folder};

/// One object that goes into a pack, and where it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub object: ObjectId,
    pub bytes: u64,
    pub at: SourceAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceAt {
    /// `incoming/<number>.ready`.
    Ready(u64),
    Pack {
        number: u64,
        offset: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackJob {
    /// Of the volume; sources and pack are on the same one.
    pub volume: PathBuf,
    pub to: FileName,
    pub sources: Vec<Source>,
}

/// What came of it: what is in the new pack, and which sources were not what they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// 0: every source was bad, there is no pack.
    pub data_bytes: u64,
    pub members: Vec<Member>,
    pub lost: Vec<Source>,
    /// From other packs.
    pub copied_bytes: u64,
}

/// What a pack that was found holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Each compared with its object's name.
    pub good: Vec<Member>,
    /// Index, checksums and footer are right too: it can be served from as it is.
    pub whole: bool,
}

/// Writes the pack, makes it last, and only then removes the sources in `incoming/`.
pub fn write(job: &PackJob) -> Result<Packed, DiskFault> {
    let staged = job.volume.join(INCOMING_FOLDER).join(format!("{}.pack", file_name(job.to.file)));
    let done = write_staged(job, &staged);
    match &done {
        Ok(packed) if packed.data_bytes > 0 => {}
        // The next start would remove it too.
        _ => {
            fs::remove_file(&staged).ok();
        }
    }
    let packed = done?;
    for source in &job.sources {
        if let SourceAt::Ready(number) = source.at {
            incoming::discard(&job.volume, number)?;
        }
    }
    Ok(packed)
}

fn write_staged(job: &PackJob, staged: &Path) -> Result<Packed, DiskFault> {
    let members_end: u64 = job.sources.iter().map(|source| pack::span_bytes(source.bytes)).sum();
    let count = u64::try_from(job.sources.len()).unwrap_or(u64::MAX);
    let file =
        incoming::open_direct(staged, OpenOptions::new().read(true).write(true).create(true).truncate(true))?;
    incoming::allocate(&file, file_bytes(pack::data_bytes(members_end, count)))?;
    let mut writer = Writer::new(file);
    let mut reader = Reader::new(&job.volume);
    let mut packed = Packed::default();
    for source in &job.sources {
        match reader.read(source)? {
            Some(bytes) => {
                let offset = u32::try_from(writer.at).expect("a job is far smaller than 4 GiB");
                let bytes_u32 = u32::try_from(bytes.len()).expect("a member is small");
                writer.member(bytes)?;
                packed.members.push(Member { object: source.object, offset, bytes: bytes_u32 });
                if matches!(source.at, SourceAt::Pack { .. }) {
                    packed.copied_bytes += source.bytes;
                }
            }
            None => packed.lost.push(*source),
        }
    }
    if packed.members.is_empty() {
        return Ok(packed);
    }
    packed.data_bytes = writer.seal(job.to.file, &packed.members)?;
    fs::rename(staged, file_path(&job.volume, job.to.file))?;
    sync_folder(&job.volume.join(FILES_FOLDER))?;
    Ok(packed)
}

/// Data in order, in pieces of 256 KiB; counts and sums as it goes.
struct Writer {
    file: File,
    /// Data bytes so far.
    at: u64,
    buffer: PieceBuffer,
    checksums: Checksums,
    digest: blake3::Hasher,
}

impl Writer {
    fn new(file: File) -> Self {
        let (buffer, checksums) = (PieceBuffer::default(), Checksums::default());
        Self { file, at: 0, buffer, checksums, digest: blake3::Hasher::new() }
    }

    fn member(&mut self, bytes: &[u8]) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let padding = pack::span_bytes(count).saturating_sub(count);
        self.data(bytes)?;
        self.data(ZEROS.get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default())
    }

    fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.checksums.update(bytes);
        self.digest.update(bytes);
        self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        let piece = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            bytes = self.buffer.fill(bytes, piece);
            if self.buffer.count() == piece {
                let end = self.at.saturating_sub(u64::try_from(bytes.len()).unwrap_or(0));
                self.flush(end)?;
            }
        }
        Ok(())
    }

    /// `end`: where in the data the buffer ends.
    fn flush(&mut self, end: u64) -> io::Result<()> {
        let start = end.saturating_sub(u64::try_from(self.buffer.count()).unwrap_or(0));
        incoming::write_at(&self.file, self.buffer.padded(), start)?;
        self.buffer.clear();
        Ok(())
    }

    fn seal(mut self, number: u64, members: &[Member]) -> Result<u64, DiskFault> {
        self.data(&pack::index_to_bytes(members))?;
        self.flush(self.at)?;
        let data_bytes = self.at;
        let digest = ObjectId::from_bytes(*self.digest.finalize().as_bytes());
        let digest = pack::identity(digest, number);
        let footer = Footer { kind: FileKind::Pack, data_bytes, digest, checksums: self.checksums.finish() };
        incoming::write_footer(&self.file, &footer.to_bytes(), footer_offset(data_bytes))?;
        // Shorter than allocated if a source was left out.
        self.file.set_len(file_bytes(data_bytes))?;
        self.file.sync_all()?;
        incoming::forget_pages(&self.file);
        Ok(data_bytes)
    }
}

/// Reads objects from packs and from `incoming/`; keeps the pack open that it read from last.
struct Reader<'a> {
    volume: &'a Path,
    open: Option<(u64, File)>,
    buffer: PieceBuffer,
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(volume: &'a Path) -> Self {
        Self { volume, open: None, buffer: PieceBuffer::default(), bytes: Vec::new() }
    }

    /// None: it is not there, or it is not the object.
    fn read(&mut self, source: &Source) -> Result<Option<&[u8]>, DiskFault> {
        let read = match source.at {
            SourceAt::Ready(number) => self.read_ready(number, source.bytes),
            SourceAt::Pack { number, offset } => self.read_packed(number, u64::from(offset), source.bytes),
        };
        match read {
            Err(cause) if !is_rot(&cause) => Err(cause.into()),
            Ok(()) if ObjectId::of(&self.bytes) == source.object => Ok(Some(&self.bytes)),
            Ok(()) => {
                self.say_spoilt(source, "its bytes are not its own any more");
                Ok(None)
            }
            Err(cause) => {
                self.say_spoilt(source, &cause.to_string());
                Ok(None)
            }
        }
    }

    fn say_spoilt(&self, source: &Source, what: &str) {
        let file = match source.at {
            SourceAt::Ready(number) => incoming::incoming_path(self.volume, number, "ready"),
            SourceAt::Pack { number, .. } => file_path(self.volume, number),
        };
        let what = format!("object {}: {what}", source.object);
        rot::found(RotPlace::File, file.display(), what, "none needed: the object is pulled again");
    }

    fn read_ready(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        let file = incoming::open_direct(
            &incoming::incoming_path(self.volume, number, "ready"),
            OpenOptions::new().read(true),
        )?;
        read_span(&file, 0, bytes, &mut self.buffer, &mut self.bytes)
    }

    fn read_packed(&mut self, number: u64, offset: u64, bytes: u64) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let path = file_path(self.volume, number);
            self.open = Some((number, incoming::open_direct(&path, OpenOptions::new().read(true))?));
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        read_span(file, offset, bytes, &mut self.buffer, &mut self.bytes)
    }
}

/// The object is spoilt, the volume need not be: gone, cut off, or a sector that cannot be read.
fn is_rot(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        || cause.raw_os_error() == Some(nix::libc::EIO)
}

fn read_span(
    file: &File,
    offset: u64,
    bytes: u64,
    buffer: &mut PieceBuffer,
    into: &mut Vec<u8>,
) -> io::Result<()> {
    into.clear();
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(PIECE_BYTES);
        file.read_exact_at(buffer.room(usize::try_from(count).unwrap_or(0)), offset.saturating_add(at))?;
        into.extend_from_slice(buffer.bytes());
        at += count;
    }
    Ok(())
}

/// The members of a pack as its index says, unchecked. None: the index is no good.
pub fn read_index(path: &Path, data_bytes: u64) -> io::Result<Option<Vec<Member>>> {
    let mut file = File::open(path)?;
    let mut tail = [0; 16];
    let Some(at) = data_bytes.checked_sub(TAIL_BYTES) else { return Ok(None) };
    file.read_exact_at(&mut tail, at)?;
    let Ok(start) = pack::index_offset(data_bytes, &tail) else { return Ok(None) };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(data_bytes.saturating_sub(start)).read_to_end(&mut bytes)?;
    Ok(pack::parse_index(&bytes, start).ok())
}

/// Reads a pack whole.
pub fn check(path: &Path, number: u64, data_bytes: u64, members: &[Member]) -> Result<Checked, DiskFault> {
    let file = incoming::open_direct(path, OpenOptions::new().read(true))?;
    let whole = is_whole(&file, number, data_bytes)?;
    let (mut buffer, mut bytes) = (PieceBuffer::default(), Vec::new());
    let mut checked = Checked { whole, ..Checked::default() };
    for member in members {
        let (offset, count) = (u64::from(member.offset), u64::from(member.bytes));
        let right = match read_span(&file, offset, count, &mut buffer, &mut bytes) {
            Ok(()) => ObjectId::of(&bytes) == member.object,
            Err(cause) if is_rot(&cause) => false,
            Err(cause) => return Err(cause.into()),
        };
        if right {
            checked.good.push(*member);
        } else {
            tracing::error!(object = %member.object, file = %path.display(), "a member of the pack is spoilt");
            checked.whole = false;
        }
    }
    incoming::forget_pages(&file);
    Ok(checked)
}

/// Checksums and footer, as the server will want them.
fn is_whole(file: &File, number: u64, data_bytes: u64) -> Result<bool, DiskFault> {
    let (mut buffer, mut checksums) = (PieceBuffer::default(), Checksums::default());
    let mut digest = blake3::Hasher::new();
    let mut at = 0;
    while at < data_bytes {
        let count = (data_bytes - at).min(PIECE_BYTES);
        match file.read_exact_at(buffer.room(usize::try_from(count).unwrap_or(0)), at) {
            Ok(()) => {}
            Err(cause) if is_rot(&cause) => return Ok(false),
            Err(cause) => return Err(cause.into()),
        }
        checksums.update(buffer.bytes());
        digest.update(buffer.bytes());
        at += count;
    }
    let footer = incoming::read_footer(file, data_bytes)?;
    let digest = pack::identity(ObjectId::from_bytes(*digest.finalize().as_bytes()), number);
    let right = |footer: Footer| {
        footer.kind == FileKind::Pack && footer.digest == digest && footer.checksums == checksums.finish()
    };
    Ok(Footer::parse(&footer, data_bytes).is_ok_and(right))
}

const _: () = assert!(ALIGNMENT_BYTES == 4096, "members are padded with zeros of one page at most");

#[cfg(test)]
mod tests {
    use content::volume::VolumeId;

    use super::*;
    use crate::volumes::{self, Found};

    struct Bench {
        volume: tempfile::TempDir,
        uuid: VolumeId,
    }

    /// An object of so many bytes.
    fn object(count: usize) -> (Vec<u8>, ObjectId) {
        let data: Vec<u8> = (0..=250u8).cycle().skip(count % 7).take(count).collect();
        let id = ObjectId::of(&data);
        (data, id)
    }

    impl Bench {
        fn new() -> Self {
            let volume = tempfile::tempdir().unwrap();
            let uuid = volumes::open(volume.path(), None, false).unwrap().uuid;
            Self { volume, uuid }
        }

        /// As a download leaves it.
        fn ready(&self, number: u64, count: usize) -> Source {
            let (mut data, object) = object(count);
            data.resize(count.next_multiple_of(4096), 0);
            fs::write(incoming::incoming_path(self.volume.path(), number, "ready"), data).unwrap();
            let bytes = u64::try_from(count).unwrap();
            Source { object, bytes, at: SourceAt::Ready(number) }
        }

        fn pack(&self, number: u64, sources: &[Source]) -> Packed {
            let to = FileName { uuid: self.uuid, file: number };
            let volume = self.volume.path().to_owned();
            write(&PackJob { volume, to, sources: sources.to_vec() }).unwrap()
        }

        fn check(&self, number: u64, packed: &Packed) -> Checked {
            let path = file_path(self.volume.path(), number);
            check(&path, number, packed.data_bytes, &packed.members).unwrap()
        }

        fn flip(&self, number: u64, at: u64) {
            let path = file_path(self.volume.path(), number);
            let mut bytes = fs::read(&path).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }

    fn in_pack(number: u64, member: &Member) -> Source {
        let at = SourceAt::Pack { number, offset: member.offset };
        Source { object: member.object, bytes: u64::from(member.bytes), at }
    }

    #[test]
    fn objects_of_every_odd_size_come_back_from_a_pack_and_its_index_names_them() {
        let bench = Bench::new();
        let sizes = [1, 0, 4095, 4096, 4097, 262_144, 262_145, 1_048_575, 7, 700_000];
        let sources: Vec<_> = (1..).zip(sizes).map(|(number, size)| bench.ready(number, size)).collect();
        let packed = bench.pack(90, &sources);
        assert_eq!((packed.members.len(), packed.lost.len(), packed.copied_bytes), (sizes.len(), 0, 0));
        assert_eq!(bench.check(90, &packed), Checked { good: packed.members.clone(), whole: true });
        let path = file_path(bench.volume.path(), 90);
        assert_eq!(read_index(&path, packed.data_bytes).unwrap().unwrap(), packed.members);
        assert_eq!(fs::metadata(&path).unwrap().len(), file_bytes(packed.data_bytes));
        assert_eq!(fs::read_dir(bench.volume.path().join(INCOMING_FOLDER)).unwrap().count(), 0);
        let data = fs::read(&path).unwrap();
        for (member, size) in packed.members.iter().zip(sizes) {
            let at = usize::try_from(member.offset).unwrap();
            assert!(data[at..at + size] == object(size).0);
        }
        // Another number, and it is another file.
        assert!(!check(&path, 91, packed.data_bytes, &packed.members).unwrap().whole);
    }

    #[test]
    fn a_flipped_bit_takes_along_the_object_that_it_spoils_and_no_other() {
        let bench = Bench::new();
        let sources = [bench.ready(1, 5000), bench.ready(2, 70_000), bench.ready(3, 9)];
        let packed = bench.pack(7, &sources);
        bench.flip(7, u64::from(packed.members[1].offset) + 69_999);
        let checked = bench.check(7, &packed);
        assert_eq!(checked, Checked { good: vec![packed.members[0], packed.members[2]], whole: false });
        let all: Vec<_> = packed.members.iter().map(|member| in_pack(7, member)).collect();
        let saved = bench.pack(8, &all);
        assert_eq!((saved.lost, saved.copied_bytes), (vec![all[1]], 5009));
        assert_eq!(
            saved.members.iter().map(|member| member.object).collect::<Vec<_>>(),
            [all[0].object, all[2].object]
        );
        // A bit in the padding, in the index, or in the footer spoils nothing.
        for at in [6000, packed.data_bytes - 3, file_bytes(packed.data_bytes) - 1] {
            let bench = Bench::new();
            let sources = [bench.ready(1, 5000), bench.ready(2, 70_000), bench.ready(3, 9)];
            let packed = bench.pack(7, &sources);
            bench.flip(7, at);
            let checked = bench.check(7, &packed);
            assert_eq!((checked.good.len(), checked.whole), (3, false), "flip at {at}");
            let all: Vec<_> = packed.members.iter().map(|member| in_pack(7, member)).collect();
            assert_eq!(bench.pack(8, &all).lost, []);
        }
    }

    #[test]
    fn what_is_gone_or_spoilt_is_left_out_and_a_pack_of_nothing_is_none() {
        let bench = Bench::new();
        let (good, spoilt) = (bench.ready(1, 100), bench.ready(2, 100_000));
        fs::write(incoming::incoming_path(bench.volume.path(), 2, "ready"), vec![0; 8192]).unwrap();
        let gone = Source { at: SourceAt::Pack { number: 77, offset: 0 }, ..bench.ready(3, 50) };
        let packed = bench.pack(4, &[spoilt, gone, good]);
        assert_eq!((packed.lost.clone(), packed.members.len()), (vec![spoilt, gone], 1));
        assert!(bench.check(4, &packed).whole);
        assert_eq!(bench.pack(5, &[gone]).data_bytes, 0);
        assert!(!file_path(bench.volume.path(), 5).exists());
    }

    #[test]
    fn a_scan_without_a_catalogue_finds_members_and_removes_what_a_kill_left() {
        let bench = Bench::new();
        let packed = bench.pack(6, &[bench.ready(1, 5000), bench.ready(2, 70)]);
        fs::write(bench.volume.path().join(INCOMING_FOLDER).join("0000000000000009.pack"), b"half").unwrap();
        let scan = volumes::scan(bench.volume.path(), bench.uuid, &Default::default()).unwrap();
        assert_eq!(scan.strangers.len(), 1);
        assert_eq!(scan.strangers[0].found, Found::Pack(packed.members.clone().into()));
        assert_eq!(fs::read_dir(bench.volume.path().join(INCOMING_FOLDER)).unwrap().count(), 0);
        // Under another number, it is no pack of ours.
        let path = file_path(bench.volume.path(), 6);
        fs::rename(&path, path.with_file_name("000000000000000b")).unwrap();
        let scan = volumes::scan(bench.volume.path(), bench.uuid, &Default::default()).unwrap();
        assert_eq!(scan.strangers[0].found, Found::Unknown);
    }
}
