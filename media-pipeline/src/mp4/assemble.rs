//! One track file from chunks that ffmpeg encoded one by one: the same fragments, renumbered and moved in time, behind
//! one initialisation segment and one index.

use std::ops::Range;

use super::boxes::boxes;
use super::fragment::Fragment;
use super::index::{Reference, SegmentIndex};
use super::init::{self, InitSegment};
use super::{Mp4Error, ensure};

/// What ffmpeg wrote for one chunk: `ftyp moov (moof mdat)+ [mfra]`.
#[derive(Debug, Clone)]
pub struct ChunkLayout {
    pub init: InitSegment,
    pub init_bytes: Vec<u8>,
    /// Where each fragment stands in the chunk's bytes.
    pub fragments: Vec<(Range<usize>, Fragment)>,
}

impl ChunkLayout {
    pub fn parse(bytes: &[u8]) -> Result<Self, Mp4Error> {
        let list = boxes(bytes)?;
        let count = list.iter().take_while(|b| matches!(&b.kind, b"ftyp" | b"moov")).count();
        let (head, body) = list.split_at_checked(count).ok_or(Mp4Error::Short("a chunk"))?;
        let head_bytes = head.iter().map(super::boxes::Mp4Box::size).fold(0, usize::saturating_add);
        let init_bytes = bytes.get(..head_bytes).ok_or(Mp4Error::Short("a chunk"))?;
        let init = init::parse(init_bytes)?;
        let mut fragments = Vec::new();
        // `mfra` is an index for seeking in files; `sidx` takes its place.
        let body: Vec<_> = body.iter().filter(|b| b.kind != *b"mfra").collect();
        for pair in body.chunks(2) {
            let start = pair.first().map_or(0, |b| b.offset);
            let size = pair.iter().map(|b| b.size()).fold(0, usize::saturating_add);
            let range = start..start.saturating_add(size);
            let fragment = Fragment::parse(bytes.get(range.clone()).unwrap_or_default(), &init)?;
            fragments.push((range, fragment));
        }
        ensure(!fragments.is_empty(), "chunk", || "has no fragments".to_owned())?;
        Ok(Self { init, init_bytes: init_bytes.to_vec(), fragments })
    }

    /// In the track's timescale.
    pub fn duration(&self) -> u64 {
        self.fragments.iter().map(|(_, fragment)| fragment.duration).fold(0, u64::saturating_add)
    }

    pub fn samples(&self) -> u64 {
        self.fragments.iter().map(|(_, fragment)| u64::from(fragment.samples)).fold(0, u64::saturating_add)
    }

    fn references(&self) -> Result<Vec<Reference>, Mp4Error> {
        let reference = |fragment: &Fragment| {
            let bytes = u32::try_from(fragment.bytes).map_err(|_| Mp4Error::Overflow("a fragment's size"))?;
            let duration =
                u32::try_from(fragment.duration).map_err(|_| Mp4Error::Overflow("a fragment's duration"))?;
            Ok(Reference { bytes, duration })
        };
        self.fragments.iter().map(|(_, fragment)| reference(fragment)).collect()
    }
}

/// Everything before the first fragment: initialisation segment and index.
pub fn head<'a>(chunks: impl Iterator<Item = &'a ChunkLayout> + Clone) -> Result<Vec<u8>, Mp4Error> {
    let first = chunks.clone().next().ok_or(Mp4Error::Short("a track without chunks"))?;
    let mut references = Vec::new();
    for (index, chunk) in chunks.enumerate() {
        ensure(chunk.init_bytes == first.init_bytes, "chunk", || {
            format!("{index} was encoded with other parameters than the first")
        })?;
        references.extend(chunk.references()?);
    }
    let index = SegmentIndex { track: first.init.track, timescale: first.init.timescale, references };
    let mut bytes = first.init_bytes.clone();
    bytes.extend(index.to_bytes()?);
    Ok(bytes)
}

/// Numbers fragments from 1 and times them from 0, chunk after chunk.
#[derive(Debug, Default)]
pub struct Placement {
    fragments: u32,
    decode_time: u64,
}

impl Placement {
    /// The next fragment, in its place.
    pub fn place(&mut self, fragment: &Fragment, bytes: &mut [u8]) -> Result<(), Mp4Error> {
        self.fragments = self.fragments.checked_add(1).ok_or(Mp4Error::Overflow("mfhd"))?;
        fragment.restamp(bytes, self.fragments, self.decode_time)?;
        let next = self.decode_time.checked_add(fragment.duration);
        self.decode_time = next.ok_or(Mp4Error::Overflow("tfdt"))?;
        Ok(())
    }
}
