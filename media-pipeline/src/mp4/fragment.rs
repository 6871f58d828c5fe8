//! One fragment: `moof` and `mdat` of one track, and the numbers that place it in time.

use super::boxes::{HEADER_BYTES, Mp4Box, boxes, name, only};
use super::init::{InitSegment, Media, SampleDefaults};
use super::{Mp4Error, ensure};

/// What a fragment says about itself, all times in the track's timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// `moof` and `mdat`.
    pub bytes: usize,
    pub sequence: u32,
    /// `tfdt`: when its first sample is decoded.
    pub decode_time: u64,
    pub duration: u64,
    pub samples: u32,
    /// The first and the end of the last presentation time.
    pub presents: (i64, i64),
    /// Where the 4 bytes of the sequence number and the 8 bytes of the decode time stand.
    sequence_offset: usize,
    decode_time_offset: usize,
}

impl Fragment {
    /// Reads exactly one `moof` and its `mdat`; checks that the samples fill the `mdat` and that the first is a
    /// random access point.
    pub fn parse(bytes: &[u8], init: &InitSegment) -> Result<Self, Mp4Error> {
        let list = boxes(bytes)?;
        let [moof, mdat] = list.as_slice() else {
            return Err(Mp4Error::refused(
                "fragment",
                format!("should be moof, mdat and has {} boxes", list.len()),
            ));
        };
        ensure(moof.kind == *b"moof" && mdat.kind == *b"mdat", "fragment", || {
            format!("should be moof, mdat and is {}, {}", name(moof.kind), name(mdat.kind))
        })?;
        let children = moof.children()?;
        let mfhd = only(&children, b"mfhd", "moof")?;
        let traf = only(&children, b"traf", "moof")?;
        let parts = traf.children()?;
        let tfdt = only(&parts, b"tfdt", "traf")?;
        let defaults = track_header(&only(&parts, b"tfhd", "traf")?, init)?;
        let samples = Samples::parse(&only(&parts, b"trun", "traf")?, moof.size(), defaults)?;
        samples.check(mdat.body, init)?;
        let within = |b: &Mp4Box<'_>, skip: usize| b.offset.saturating_add(HEADER_BYTES).saturating_add(skip);
        let decode_time = decode_time(&tfdt)?;
        Ok(Self {
            bytes: bytes.len(),
            sequence: mfhd.full("mfhd")?.2.u32()?,
            decode_time,
            duration: samples.duration,
            samples: samples.count,
            presents: samples.presents(decode_time)?,
            sequence_offset: within(moof, within(&mfhd, 4)),
            decode_time_offset: within(moof, within(&traf, within(&tfdt, 4))),
        })
    }

    /// Gives the same fragment another place in its track.
    pub fn restamp(&self, bytes: &mut [u8], sequence: u32, decode_time: u64) -> Result<(), Mp4Error> {
        let mut write = |offset: usize, value: &[u8]| {
            let end = offset.checked_add(value.len())?;
            bytes.get_mut(offset..end).map(|place| place.copy_from_slice(value))
        };
        let written = write(self.sequence_offset, &sequence.to_be_bytes())
            .and_then(|()| write(self.decode_time_offset, &decode_time.to_be_bytes()));
        written.ok_or(Mp4Error::Short("a fragment to be placed"))
    }
}

fn decode_time(tfdt: &Mp4Box<'_>) -> Result<u64, Mp4Error> {
    let (version, _, mut reader) = tfdt.full("tfdt")?;
    ensure(version == 1, "tfdt", || "has a 32-bit time".to_owned())?;
    reader.u64()
}

/// ISO/IEC 14496-12 8.8.7. Offsets must count from the `moof` (CMAF asks for it), so that fragments can be moved.
fn track_header(tfhd: &Mp4Box<'_>, init: &InitSegment) -> Result<SampleDefaults, Mp4Error> {
    let (_, flags, mut reader) = tfhd.full("tfhd")?;
    let track = reader.u32()?;
    ensure(track == init.track, "tfhd", || format!("is of track {track}, not {}", init.track))?;
    ensure(flags & 0x2_0001 == 0x2_0000, "tfhd", || "does not count offsets from its moof".to_owned())?;
    let mut optional = |bit: u32, default: u32| if flags & bit == 0 { Ok(default) } else { reader.u32() };
    let description = optional(0x2, 1)?;
    ensure(description == 1, "tfhd", || format!("uses sample description {description}"))?;
    Ok(SampleDefaults {
        duration: optional(0x8, init.defaults.duration)?,
        size: optional(0x10, init.defaults.size)?,
        flags: optional(0x20, init.defaults.flags)?,
    })
}

/// The sums of a `trun`.
struct Samples {
    count: u32,
    duration: u64,
    bytes: u64,
    first_bytes: u32,
    first_flags: u32,
    /// From the fragment's decode time: earliest presentation, and latest end of one.
    earliest: i64,
    latest_end: i64,
}

impl Samples {
    /// ISO/IEC 14496-12 8.8.8.
    fn parse(trun: &Mp4Box<'_>, moof_bytes: usize, defaults: SampleDefaults) -> Result<Self, Mp4Error> {
        let (_, flags, mut reader) = trun.full("trun")?;
        let count = reader.u32()?;
        ensure(count > 0, "trun", || "has no samples".to_owned())?;
        ensure(flags & 1 == 1, "trun", || "has no data offset".to_owned())?;
        let offset = reader.i32()?;
        let data = moof_bytes.checked_add(HEADER_BYTES).and_then(|bytes| i32::try_from(bytes).ok());
        ensure(Some(offset) == data, "trun", || {
            format!("data offset {offset} is not the start of its mdat")
        })?;
        let first_flags = if flags & 0x4 == 0 { None } else { Some(reader.u32()?) };
        let mut sums = Self {
            count,
            duration: 0,
            bytes: 0,
            first_bytes: 0,
            first_flags: 0,
            earliest: i64::MAX,
            latest_end: i64::MIN,
        };
        for index in 0..count {
            let mut optional =
                |bit: u32, default: u32| if flags & bit == 0 { Ok(default) } else { reader.u32() };
            let duration = optional(0x100, defaults.duration)?;
            let size = optional(0x200, defaults.size)?;
            let sample_flags = optional(0x400, defaults.flags)?;
            let composition = if flags & 0x800 == 0 { 0 } else { reader.i32()? };
            if index == 0 {
                sums.first_bytes = size;
                sums.first_flags = first_flags.unwrap_or(sample_flags);
            }
            sums.add(duration, size, composition).ok_or(Mp4Error::Overflow("trun"))?;
        }
        ensure(reader.rest().is_empty(), "trun", || "is longer than its samples".to_owned())?;
        Ok(sums)
    }

    fn add(&mut self, duration: u32, size: u32, composition: i32) -> Option<()> {
        let start = i64::try_from(self.duration).ok()?.checked_add(i64::from(composition))?;
        self.earliest = self.earliest.min(start);
        self.latest_end = self.latest_end.max(start.checked_add(i64::from(duration))?);
        self.duration = self.duration.checked_add(u64::from(duration))?;
        self.bytes = self.bytes.checked_add(u64::from(size))?;
        Some(())
    }

    fn check(&self, mdat: &[u8], init: &InitSegment) -> Result<(), Mp4Error> {
        ensure(u64::try_from(mdat.len()) == Ok(self.bytes), "mdat", || {
            format!("has {} bytes and its samples {}", mdat.len(), self.bytes)
        })?;
        // 8.8.3.1: sample_is_non_sync_sample.
        ensure(self.first_flags & 0x1_0000 == 0, "trun", || "does not start with a sync sample".to_owned())?;
        match init.media {
            Media::Audio { .. } => Ok(()),
            Media::Video { .. } => {
                let first = usize::try_from(self.first_bytes).ok().and_then(|count| mdat.get(..count));
                check_idr(first.ok_or(Mp4Error::Short("the first sample"))?)
            }
        }
    }

    fn presents(&self, decode_time: u64) -> Result<(i64, i64), Mp4Error> {
        let base = i64::try_from(decode_time).map_err(|_| Mp4Error::Overflow("tfdt"))?;
        let both = base.checked_add(self.earliest).zip(base.checked_add(self.latest_end));
        both.ok_or(Mp4Error::Overflow("trun"))
    }
}

/// Every slice of the picture is of an IDR (ITU-T H.264 table 7-1: NAL unit type 5; 1 to 4 are other slices).
fn check_idr(sample: &[u8]) -> Result<(), Mp4Error> {
    let mut reader = super::boxes::Reader::new(sample, "a NAL unit");
    let mut slices = 0_usize;
    while !reader.rest().is_empty() {
        let length = usize::try_from(reader.u32()?).map_err(|_| Mp4Error::Overflow("a NAL unit"))?;
        let header = reader.take(length)?.first().copied().ok_or(Mp4Error::Short("a NAL unit"))?;
        match header & 0x1f {
            5 => slices = slices.saturating_add(1),
            kind @ 1..=4 => {
                return Err(Mp4Error::refused("mdat", format!("starts with a slice of type {kind}")));
            }
            _ => {}
        }
    }
    ensure(slices > 0, "mdat", || "its first picture is no IDR".to_owned())
}
