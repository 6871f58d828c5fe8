//! Reads a finished track file from its first byte to its last and refuses what a player could stumble over.
//!
//! ```text
//! [ftyp moov sidx] -> [moof mdat] -> ... -> finish
//! ```
//! Checked: the index names exactly the fragments that follow, by size and duration; decode times have no gap and start
//! at 0; sequence numbers count from 1; each fragment starts with a random access point (an IDR) and presents exactly its
//! own span of time; nothing else is in the file.

use content::id::ByteSpan;

use super::boxes::{boxes, only};
use super::fragment::Fragment;
use super::index::SegmentIndex;
use super::init::{self, InitSegment};
use super::{Mp4Error, ensure};

/// A track file that conforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackFacts {
    pub init: InitSegment,
    pub init_span: ByteSpan,
    pub index_span: ByteSpan,
    pub segments: Vec<Segment>,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub span: ByteSpan,
    /// In the track's timescale.
    pub start: u64,
    pub duration: u64,
}

impl TrackFacts {
    /// In the track's timescale.
    pub fn duration(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.start.saturating_add(last.duration))
    }

    /// The largest rate of any segment, and that of all of them, in bit/s.
    pub fn bandwidths(&self) -> (u64, u64) {
        let rate = |bytes: u64, duration: u64| {
            let bits = u128::from(bytes).saturating_mul(8).saturating_mul(u128::from(self.init.timescale));
            u64::try_from(bits.div_ceil(u128::from(duration.max(1)))).unwrap_or(u64::MAX)
        };
        let peak = self.segments.iter().map(|s| rate(s.span.count(), s.duration)).max().unwrap_or(0);
        let total = self.segments.iter().map(|s| s.span.count()).fold(0, u64::saturating_add);
        (peak, rate(total, self.duration()))
    }

    /// Two rungs of one picture switch only where both have a boundary: all of them must be the same instants.
    pub fn check_aligned_with(&self, other: &Self) -> Result<(), Mp4Error> {
        let instants = |facts: &Self, scale: u32| -> Vec<u128> {
            let ends = facts.segments.iter().map(|s| s.start.saturating_add(s.duration));
            ends.map(|end| u128::from(end).saturating_mul(u128::from(scale))).collect()
        };
        let same = instants(self, other.init.timescale) == instants(other, self.init.timescale);
        ensure(same, "rungs", || "have segment boundaries at different times".to_owned())
    }
}

/// The check in progress: made from the head, fed each fragment.
#[derive(Debug)]
pub struct Conformance {
    init: InitSegment,
    init_span: ByteSpan,
    index_span: ByteSpan,
    index: SegmentIndex,
    segments: Vec<Segment>,
    offset: u64,
    decode_time: u64,
}

impl Conformance {
    /// `head` is everything before the first `moof`.
    pub fn begin(head: &[u8]) -> Result<Self, Mp4Error> {
        let list = boxes(head)?;
        let sidx = only(&list, b"sidx", "file")?;
        let ends = sidx.offset.saturating_add(sidx.size()) == head.len();
        ensure(ends, "sidx", || "does not stand right before the fragments".to_owned())?;
        let init = init::parse(head.get(..sidx.offset).unwrap_or_default())?;
        let index = SegmentIndex::parse(&sidx)?;
        ensure(index.track == init.track && index.timescale == init.timescale, "sidx", || {
            "is of another track or timescale".to_owned()
        })?;
        Ok(Self {
            init,
            init_span: span(0, sidx.offset)?,
            index_span: span(sidx.offset, sidx.size())?,
            index,
            segments: Vec::new(),
            offset: u64::try_from(head.len()).map_err(|_| Mp4Error::Overflow("head"))?,
            decode_time: 0,
        })
    }

    /// The next `moof` with its `mdat`.
    pub fn fragment(&mut self, bytes: &[u8]) -> Result<(), Mp4Error> {
        let fragment = Fragment::parse(bytes, &self.init)?;
        let number = self.segments.len().saturating_add(1);
        ensure(usize::try_from(fragment.sequence) == Ok(number), "mfhd", || {
            format!("fragment {number} has sequence number {}", fragment.sequence)
        })?;
        ensure(fragment.decode_time == self.decode_time, "tfdt", || {
            format!(
                "fragment {number} starts at {}, the one before ends at {}",
                fragment.decode_time, self.decode_time
            )
        })?;
        let indexed = self.index.references.get(self.segments.len());
        let matches = indexed.is_some_and(|entry| {
            usize::try_from(entry.bytes) == Ok(fragment.bytes)
                && u64::from(entry.duration) == fragment.duration
        });
        ensure(matches, "sidx", || format!("does not fit fragment {number}: {indexed:?}"))?;
        let end = self.decode_time.checked_add(fragment.duration).ok_or(Mp4Error::Overflow("tfdt"))?;
        let own = (i64::try_from(self.decode_time).ok(), i64::try_from(end).ok());
        ensure(own == (Some(fragment.presents.0), Some(fragment.presents.1)), "trun", || {
            format!("fragment {number} presents {:?}, not {}..{end}", fragment.presents, self.decode_time)
        })?;
        let count = u64::try_from(fragment.bytes).map_err(|_| Mp4Error::Overflow("mdat"))?;
        let span = ByteSpan::from_offset(self.offset, count).ok_or(Mp4Error::Overflow("mdat"))?;
        self.segments.push(Segment { span, start: self.decode_time, duration: fragment.duration });
        self.offset = self.offset.checked_add(count).ok_or(Mp4Error::Overflow("mdat"))?;
        self.decode_time = end;
        Ok(())
    }

    pub fn finish(self) -> Result<TrackFacts, Mp4Error> {
        let (named, found) = (self.index.references.len(), self.segments.len());
        ensure(named == found, "sidx", || format!("names {named} fragments and {found} follow"))?;
        ensure(found > 0, "file", || "has no fragments".to_owned())?;
        Ok(TrackFacts {
            init: self.init,
            init_span: self.init_span,
            index_span: self.index_span,
            segments: self.segments,
            bytes: self.offset,
        })
    }
}

fn span(offset: usize, count: usize) -> Result<ByteSpan, Mp4Error> {
    let both = u64::try_from(offset).ok().zip(u64::try_from(count).ok());
    both.and_then(|(offset, count)| ByteSpan::from_offset(offset, count))
        .ok_or(Mp4Error::Overflow("a byte span"))
}
