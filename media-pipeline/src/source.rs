//! Looks at a source from every side before anything is written: the file itself, ffprobe's description, every packet, the
//! first picture; and takes its digest. A source that passes can be published; one that does not is refused with the reason.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use content::id::ObjectId;

use crate::error::Error;
use crate::ffmpeg::{self, Tool};
use crate::plan::FrameRate;
use crate::probe::{self, Micros, PacketTable, PacketTrack, ProbeRefusal, SourceInfo, without_address};
use crate::progress::{Board, percent};

/// A source that was found whole.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    pub digest: ObjectId,
    pub info: SourceInfo,
    pub packets: PacketTable,
    pub video: PacketTrack,
    pub rate: FrameRate,
    /// Of the title, at its constant rate.
    pub frames: u64,
    state: FileState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileState {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Source {
    /// Checks everything. Reads the whole file twice, both at once.
    pub async fn open(path: &Path, board: &Board) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|cause| classify(path, cause))?;
        let state = check_file(&path)?;
        let info = describe(&path).await?;
        let read = Arc::new(AtomicU64::new(0));
        let hashing = tokio::task::spawn_blocking({
            let (path, read) = (path.clone(), Arc::clone(&read));
            move || digest(&path, &read)
        });
        let packets = read_packets(&path, &info, board).await?;
        let digest =
            finish_digest(&path, hashing, || percent(read.load(Ordering::Relaxed), state.bytes), board)
                .await?;
        let video = packets.tracks.get(&info.video.index).filter(|track| track.packets > 0).cloned();
        let Some(video) = video else {
            let detail = "its video track has no pictures".to_owned();
            return Err(Error::SourceWithoutVideo { path, detail });
        };
        decode_first_picture(&path, &info).await?;
        let rate = FrameRate::of(&video);
        let last_shown = rate.frames_in(video.last - video.first) + 1;
        let frames = rate.frames_in(video.end - video.first).max(last_shown);
        Ok(Self { path, digest, info, packets, video, rate, frames, state })
    }

    /// The presentation time of the first picture: the title's time 0.
    pub fn zero(&self) -> Micros {
        self.video.first
    }

    pub fn duration(&self) -> Micros {
        self.rate.time_of(self.frames)
    }

    /// Whether the container can be sought in exactly, by an index of keys.
    pub fn seeks_exactly(&self) -> bool {
        self.info.format.split(',').any(|name| name == "mov" || name == "matroska")
    }

    /// Refuses a file that was written to since it was checked.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        let now = std::fs::metadata(&self.path).map_err(|cause| classify(&self.path, cause))?;
        if FileState::of(&now) == self.state {
            Ok(())
        } else {
            Err(Error::SourceChanged { path: self.path.clone() })
        }
    }
}

fn check_file(path: &Path) -> Result<FileState, Error> {
    let metadata = std::fs::metadata(path).map_err(|cause| classify(path, cause))?;
    if metadata.is_dir() {
        return Err(Error::SourceIsDirectory { path: path.to_owned() });
    }
    if !metadata.is_file() {
        return Err(Error::SourceIsNoFile { path: path.to_owned() });
    }
    // Permission to look is not permission to read.
    File::open(path).map_err(|cause| classify(path, cause))?;
    if metadata.len() == 0 {
        return Err(Error::SourceEmpty { path: path.to_owned() });
    }
    Ok(FileState::of(&metadata))
}

/// What the host's answer to opening a source means.
fn classify(path: &Path, cause: io::Error) -> Error {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::SourceMissing { path },
        io::ErrorKind::PermissionDenied => Error::SourceForbidden { path },
        _ => Error::SourceUnreadable { path, cause },
    }
}

fn unreadable(path: &Path, cause: io::Error) -> Error {
    Error::SourceUnreadable { path: path.to_owned(), cause }
}

/// Waits for the digest, which may take longer than all the other checks.
async fn finish_digest(
    path: &Path,
    mut hashing: tokio::task::JoinHandle<Result<ObjectId, Error>>,
    done: impl Fn() -> String,
    board: &Board,
) -> Result<ObjectId, Error> {
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            finished = &mut hashing => return finished.map_err(|cause| unreadable(path, io::Error::other(cause)))?,
            _ = ticks.tick() => board.step(|| format!("taking the source's digest: {}", done())),
        }
    }
}

fn digest(path: &Path, read: &AtomicU64) -> Result<ObjectId, Error> {
    let mut file = File::open(path).map_err(|cause| classify(path, cause))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(ObjectId::from_bytes(*hasher.finalize().as_bytes())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                read.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(unreadable(path, cause)),
        }
    }
}

fn arguments(path: &Path, words: &str) -> Vec<OsString> {
    words.split(' ').map(OsString::from).chain(ffmpeg::input(path)).collect()
}

async fn describe(path: &Path) -> Result<SourceInfo, Error> {
    let arguments = arguments(path, "-show_format -show_streams -of json");
    let finished = ffmpeg::run(Tool::Ffprobe, &arguments, "describing the source", |_| {}).await?;
    let path = path.to_owned();
    if !finished.success {
        // An MP4 file whose index stands at its end, cut: nothing of it can be read.
        if finished.complaints.iter().any(|line| line.contains("moov atom not found")) {
            let detail = "its index (moov) is missing, which an MP4 file usually has at its end".to_owned();
            return Err(Error::SourceTruncated { path, detail });
        }
        return Err(Error::SourceNotMedia { path, detail: finished.detail() });
    }
    probe::parse(&finished.output).map_err(|refusal| match refusal {
        ProbeRefusal::NotMedia(detail) => Error::SourceNotMedia { path, detail },
        ProbeRefusal::NoVideo(detail) => Error::SourceWithoutVideo { path, detail },
    })
}

async fn read_packets(path: &Path, info: &SourceInfo, board: &Board) -> Result<PacketTable, Error> {
    let entries = "-show_entries packet=stream_index,pts_time,duration_time,flags -of compact=p=0";
    let arguments = arguments(path, entries);
    let mut table = PacketTable::default();
    let all = info.duration.and_then(|duration| u64::try_from(duration).ok());
    let (status, complaints) = ffmpeg::run_lines(Tool::Ffprobe, &arguments, "reading every packet", |line| {
        let Some(at) = table.line(line, info.video.index) else { return };
        board.step(|| {
            let at = u64::try_from(at).unwrap_or(0);
            all.map_or_else(
                || "checking the source".to_owned(),
                |all| format!("checking the source: {}", percent(at, all)),
            )
        });
    })
    .await?;
    if let Some(detail) = probe::truncation(info, &table, &complaints) {
        return Err(Error::SourceTruncated { path: path.to_owned(), detail });
    }
    if !status.success() {
        let detail = complaints.last().map_or_else(|| status.to_string(), |line| without_address(line));
        return Err(Error::SourceUndecodable { path: path.to_owned(), detail });
    }
    if table.corrupt > 0 {
        tracing::warn!(
            "{} packets of the source are corrupt: its picture or sound may show it",
            table.corrupt
        );
    }
    for complaint in complaints.iter().take(3) {
        tracing::warn!("the source is not quite in order: {}", without_address(complaint));
    }
    Ok(table)
}

/// A packet may be there and no decoder for it, or the key to it missing.
async fn decode_first_picture(path: &Path, info: &SourceInfo) -> Result<(), Error> {
    let mut arguments = ffmpeg::input(path).to_vec();
    let map = format!("0:{}", info.video.index);
    arguments.extend(["-map", &map, "-frames:v", "1", "-f", "rawvideo", "pipe:1"].map(OsString::from));
    let finished = ffmpeg::run(Tool::Ffmpeg, &arguments, "decoding the first picture", |_| {}).await?;
    if finished.success && !finished.output.is_empty() {
        return Ok(());
    }
    Err(Error::SourceUndecodable { path: path.to_owned(), detail: finished.detail() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_says_of_a_source_is_told_apart() {
        let of = |kind: io::ErrorKind| classify(Path::new("/x"), kind.into());
        assert!(matches!(of(io::ErrorKind::NotFound), Error::SourceMissing { .. }));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), Error::SourceForbidden { .. }));
        assert!(matches!(of(io::ErrorKind::TimedOut), Error::SourceUnreadable { .. }));
    }
}
