//! `oca-play verify`: were the fragments that a player received byte for byte those of the origin?
//!
//! Reads the origin's folder only (`objects/<first 2 hex>/<blake3>.<ext>`), writes nothing, asks nobody.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use content::id::{ByteSpan, Extension, ObjectId, StreamId};
use content::title::{ObjectRef, Stream, StreamKind, Title, TitleError};
use sha2::{Digest, Sha256};

use crate::ledger::Fragment;
use crate::playlist::{PLAYLIST_BYTES_MAX, PlaylistError, Timeline};
use crate::session::hex;

/// The largest list or `title.json` that is read.
const JSON_BYTES_MAX: u64 = 256 << 20;
const READ_BYTES: usize = 1 << 20;
/// So many differences are listed.
const DIFFERENCES_MAX: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: larger than {JSON_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: not a list of fragments as `oca-play play --fragments` writes it: {error}", path.display())]
    NotAList { path: PathBuf, error: serde_json::Error },
    #[error("{}: the list is empty: nothing was played", path.display())]
    Empty { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Title { path: PathBuf, error: TitleError },
    #[error("media playlist {object} of stream {stream} in the origin: {error}")]
    Playlist { stream: StreamId, object: ObjectId, error: PlaylistError },
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub fragments: usize,
    pub bytes: u64,
    /// In words; the first few. Empty: all equal, and complete if that was asked.
    pub differences: Vec<String>,
    pub difference_count: usize,
}

impl Verdict {
    fn differ(&mut self, what: String) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(what);
        }
    }
}

/// Compares each fragment with the origin; with `complete`, a `title.json`, also asks that nothing is missing: that
/// each segment time of the video, and of each audio stream that was played at all, is covered by the fragments
/// (of any rung).
pub fn verify(origin: &Path, fragments: &Path, complete: Option<&Path>) -> Result<Verdict, VerifyError> {
    let list: Vec<Fragment> = serde_json::from_slice(&read_bounded(fragments, JSON_BYTES_MAX)?)
        .map_err(|error| VerifyError::NotAList { path: fragments.to_owned(), error })?;
    if list.is_empty() {
        return Err(VerifyError::Empty { path: fragments.to_owned() });
    }
    let mut verdict = Verdict { fragments: list.len(), ..Verdict::default() };
    for fragment in &list {
        match compare(origin, fragment) {
            Ok(bytes) => verdict.bytes += bytes,
            Err(what) => verdict.differ(format!(
                "{}.{} bytes {}-{} from {}: {what}",
                fragment.object, fragment.extension, fragment.first, fragment.last, fragment.appliance
            )),
        }
    }
    if let Some(path) = complete {
        let title = Title::parse(&read_bounded(path, JSON_BYTES_MAX)?);
        let title = title.map_err(|error| VerifyError::Title { path: path.to_owned(), error })?;
        check_complete(origin, &title, &list, &mut verdict)?;
    }
    Ok(verdict)
}

fn object_path(origin: &Path, object: ObjectId, extension: Extension) -> PathBuf {
    let name = object.to_string();
    origin.join("objects").join(&name[..2]).join(format!("{name}.{extension}"))
}

/// The number of bytes compared, or how they differ.
fn compare(origin: &Path, fragment: &Fragment) -> Result<u64, String> {
    let span = fragment.span().ok_or("no such range")?;
    let path = object_path(origin, fragment.object, fragment.extension);
    let expected = digest_of(&path, span).map_err(|error| format!("origin: {error}"))?;
    match expected == fragment.sha256 {
        true => Ok(span.count()),
        false => Err(format!("SHA-256 {:.64}, the origin's bytes have {expected}", fragment.sha256)),
    }
}

fn digest_of(path: &Path, span: ByteSpan) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(span.first()))?;
    let (mut digest, mut left) = (Sha256::new(), span.count());
    let mut buffer = vec![0; READ_BYTES];
    while left > 0 {
        let most = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let count = file.read(&mut buffer[..most])?;
        if count == 0 {
            let what = format!("the object ends {left} bytes before the range does");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        digest.update(&buffer[..count]);
        left -= u64::try_from(count).unwrap_or(left);
    }
    Ok(hex(&digest.finalize()))
}

fn check_complete(
    origin: &Path,
    title: &Title,
    fragments: &[Fragment],
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let received = Coverage::of(fragments);
    let video: Vec<_> =
        title.streams.iter().filter(|stream| matches!(stream.kind, StreamKind::Video { .. })).collect();
    check_covered(origin, "video", &video, &received, verdict)?;
    let audio: Vec<_> =
        title.streams.iter().filter(|stream| matches!(stream.kind, StreamKind::Audio { .. })).collect();
    let played: Vec<_> =
        audio.iter().filter(|stream| received.has_media(&stream.track, stream.init)).copied().collect();
    if played.is_empty() && !audio.is_empty() {
        verdict.differ("no audio was played".to_owned());
    }
    for stream in played {
        check_covered(origin, stream.id.as_str(), &[stream], &received, verdict)?;
    }
    Ok(())
}

/// Asks that for each segment time at least one of `rungs` has arrived.
fn check_covered(
    origin: &Path,
    name: &str,
    rungs: &[&Stream],
    received: &Coverage,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let mut missing: Option<Vec<bool>> = None;
    for stream in rungs {
        let covered = covered_segments(origin, stream, received)?;
        let missing = missing.get_or_insert_with(|| vec![true; covered.len()]);
        if missing.len() != covered.len() {
            verdict.differ(format!(
                "{name}: the rungs have {} and {} segments",
                missing.len(),
                covered.len()
            ));
        }
        for (missing, covered) in missing.iter_mut().zip(covered) {
            *missing &= !covered;
        }
    }
    let missing = missing.unwrap_or_default();
    let indexes: Vec<_> = (0..missing.len()).filter(|&index| missing[index]).collect();
    if let Some(first) = indexes.first() {
        let (count, all) = (indexes.len(), missing.len());
        verdict
            .differ(format!("{name}: {count} of {all} segments never arrived, the first is number {first}"));
    }
    Ok(())
}

fn covered_segments(origin: &Path, stream: &Stream, received: &Coverage) -> Result<Vec<bool>, VerifyError> {
    let path = object_path(origin, stream.playlist.object, Extension::M3u8);
    let text = read_bounded(&path, PLAYLIST_BYTES_MAX)?;
    let ObjectRef { object, extension, bytes } = stream.track;
    let timeline = Timeline::parse(&text, object, extension, bytes).map_err(|error| {
        VerifyError::Playlist { stream: stream.id.clone(), object: stream.playlist.object, error }
    })?;
    let init = timeline.init.is_none_or(|init| received.covers(object, init));
    let whole = ByteSpan::from_offset(0, bytes);
    let covers = |span: Option<ByteSpan>| span.or(whole).is_some_and(|span| received.covers(object, span));
    Ok(timeline.segments.iter().map(|segment| init && covers(segment.span)).collect())
}

/// Which bytes of which objects arrived: for each object spans that neither touch nor overlap, by their first byte.
struct Coverage(HashMap<ObjectId, BTreeMap<u64, u64>>);

impl Coverage {
    fn of(fragments: &[Fragment]) -> Self {
        let mut spans: Vec<_> =
            fragments.iter().filter_map(|fragment| Some((fragment.object, fragment.span()?))).collect();
        spans.sort();
        let mut coverage: HashMap<ObjectId, BTreeMap<u64, u64>> = HashMap::new();
        for (object, span) in spans {
            let joined = coverage.entry(object).or_default();
            match joined.last_entry() {
                // `last` is below `u64::MAX`: ByteSpan says so.
                Some(mut before) if span.first() <= *before.get() + 1 => {
                    let last = span.last().max(*before.get());
                    before.insert(last);
                }
                Some(_) | None => {
                    joined.insert(span.first(), span.last());
                }
            }
        }
        Self(coverage)
    }

    fn covers(&self, object: ObjectId, span: ByteSpan) -> bool {
        let before = self.0.get(&object).and_then(|spans| spans.range(..=span.first()).next_back());
        before.is_some_and(|(_, &last)| last >= span.last())
    }

    /// Whether more of a track arrived than its initialisation section.
    fn has_media(&self, track: &ObjectRef, init: Option<ByteSpan>) -> bool {
        let init_last = init.map_or(0, ByteSpan::last);
        self.0.get(&track.object).is_some_and(|spans| spans.values().any(|&last| last > init_last))
    }
}

fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, VerifyError> {
    let unreadable = |error| VerifyError::Unreadable { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).map_or(true, |count| count > max) {
        return Err(VerifyError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
