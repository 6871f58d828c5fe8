//! The initialisation segment: `ftyp` and `moov` of one AVC or AAC track, and what they say about it.

use super::boxes::{Mp4Box, Reader, boxes, name, only};
use super::{Mp4Error, ensure};

/// What an initialisation segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitSegment {
    pub track: u32,
    /// Units per second of all times in the fragments.
    pub timescale: u32,
    /// RFC 6381.
    pub codecs: String,
    pub media: Media,
    /// `trex`: what a fragment's samples have when it does not say.
    pub defaults: SampleDefaults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Video { width: u32, height: u32 },
    Audio { channels: u16, sample_rate_hz: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleDefaults {
    pub duration: u32,
    pub size: u32,
    pub flags: u32,
}

/// Reads `ftyp` and `moov` and nothing else.
pub fn parse(bytes: &[u8]) -> Result<InitSegment, Mp4Error> {
    let list = boxes(bytes)?;
    let kinds: Vec<_> = list.iter().map(|b| b.kind).collect();
    ensure(kinds == [*b"ftyp", *b"moov"], "init", || {
        format!("should be ftyp, moov and is {:?}", kinds.iter().copied().map(name).collect::<Vec<_>>())
    })?;
    check_brands(&only(&list, b"ftyp", "file")?)?;
    let moov = only(&list, b"moov", "file")?.children()?;
    let trak = only(&moov, b"trak", "moov")?.children()?;
    // An edit list would shift one track against the others; players of byte ranges differ in how they read it.
    ensure(!trak.iter().any(|b| b.kind == *b"edts"), "trak", || "has an edit list".to_owned())?;
    let mdia = only(&trak, b"mdia", "trak")?.children()?;
    let stbl = only(&only(&mdia, b"minf", "mdia")?.children()?, b"stbl", "minf")?.children()?;
    let handler = handler(&only(&mdia, b"hdlr", "mdia")?)?;
    let (codecs, media) = sample_entry(&only(&stbl, b"stsd", "stbl")?, &handler)?;
    let trex = only(&only(&moov, b"mvex", "moov")?.children()?, b"trex", "mvex")?;
    let (track, defaults) = track_extends(&trex)?;
    Ok(InitSegment { track, timescale: timescale(&only(&mdia, b"mdhd", "mdia")?)?, codecs, media, defaults })
}

/// ISO/IEC 23000-19 7.2: a CMAF track file carries the brand `cmfc` (or a later one).
fn check_brands(ftyp: &Mp4Box<'_>) -> Result<(), Mp4Error> {
    let cmaf = ftyp.body.chunks_exact(4).any(|brand| brand == b"cmfc" || brand == b"cmf2");
    ensure(cmaf, "ftyp", || "has no CMAF brand".to_owned())
}

fn handler(hdlr: &Mp4Box<'_>) -> Result<[u8; 4], Mp4Error> {
    let (_, _, mut reader) = hdlr.full("hdlr")?;
    reader.take(4)?;
    reader.array()
}

fn timescale(mdhd: &Mp4Box<'_>) -> Result<u32, Mp4Error> {
    let (version, _, mut reader) = mdhd.full("mdhd")?;
    reader.take(if version == 1 { 16 } else { 8 })?;
    let timescale = reader.u32()?;
    ensure(timescale > 0, "mdhd", || "has a timescale of zero".to_owned())?;
    Ok(timescale)
}

fn track_extends(trex: &Mp4Box<'_>) -> Result<(u32, SampleDefaults), Mp4Error> {
    let (_, _, mut reader) = trex.full("trex")?;
    let track = reader.u32()?;
    reader.u32()?;
    Ok((track, SampleDefaults { duration: reader.u32()?, size: reader.u32()?, flags: reader.u32()? }))
}

fn sample_entry(stsd: &Mp4Box<'_>, handler: &[u8; 4]) -> Result<(String, Media), Mp4Error> {
    let (_, _, mut reader) = stsd.full("stsd")?;
    let count = reader.u32()?;
    let entries = boxes(reader.rest())?;
    ensure(count == 1 && entries.len() == 1, "stsd", || format!("should have one entry and has {count}"))?;
    match (handler, entries.first().map(|e| (e.kind, e.body))) {
        (b"vide", Some((kind, body))) if kind == *b"avc1" => avc(body),
        (b"soun", Some((kind, body))) if kind == *b"mp4a" => aac(body),
        (handler, entry) => {
            let entry = entry.map(|(kind, _)| name(kind));
            Err(Mp4Error::refused("stsd", format!("unknown track {} of {entry:?}", name(*handler))))
        }
    }
}

/// ISO/IEC 14496-15 5.4.2: `avc1` with its `avcC`.
fn avc(body: &[u8]) -> Result<(String, Media), Mp4Error> {
    let mut reader = Reader::new(body, "avc1");
    reader.take(24)?;
    let (width, height) = (u32::from(reader.u16()?), u32::from(reader.u16()?));
    reader.take(50)?;
    let config = only(&boxes(reader.rest())?, b"avcC", "avc1")?;
    let mut config = Reader::new(config.body, "avcC");
    let [_version, profile, constraints, level, length_size] = config.array::<5>()?;
    ensure(length_size & 3 == 3, "avcC", || "NAL unit lengths are not of four bytes".to_owned())?;
    Ok((format!("avc1.{profile:02x}{constraints:02x}{level:02x}"), Media::Video { width, height }))
}

/// ISO/IEC 14496-14 5.6: `mp4a` with its `esds`.
fn aac(body: &[u8]) -> Result<(String, Media), Mp4Error> {
    let mut reader = Reader::new(body, "mp4a");
    reader.take(16)?;
    let channels = reader.u16()?;
    reader.take(6)?;
    let sample_rate_hz = reader.u32()? >> 16;
    let esds = only(&boxes(reader.rest())?, b"esds", "mp4a")?;
    let (_, _, descriptors) = esds.full("esds")?;
    let codecs = elementary_stream(descriptors.rest())?;
    Ok((codecs, Media::Audio { channels, sample_rate_hz }))
}

/// ISO/IEC 14496-1 7.2.6.5: ES descriptor, in it the decoder configuration, in it the AudioSpecificConfig.
fn elementary_stream(bytes: &[u8]) -> Result<String, Mp4Error> {
    let mut stream = descriptor(bytes, 3)?;
    stream.take(2)?;
    let flags = stream.u8()?;
    ensure(flags & 0xe0 == 0, "esds", || "depends on another stream".to_owned())?;
    let mut decoder = descriptor(stream.rest(), 4)?;
    let object_type = decoder.u8()?;
    ensure(object_type == 0x40, "esds", || format!("object type {object_type:#x} is not MPEG-4 audio"))?;
    decoder.take(12)?;
    let audio = descriptor(decoder.rest(), 5)?.u8()? >> 3;
    // 31 escapes to a longer form; AAC-LC is 2.
    ensure(audio == 2, "esds", || format!("audio object type {audio} is not AAC-LC"))?;
    Ok(format!("mp4a.{object_type:02x}.{audio}"))
}

/// The body of a descriptor that must have this tag. Its length is in groups of seven bits.
fn descriptor(bytes: &[u8], tag: u8) -> Result<Reader<'_>, Mp4Error> {
    let mut reader = Reader::new(bytes, "esds");
    let found = reader.u8()?;
    ensure(found == tag, "esds", || format!("descriptor {found} where {tag} should be"))?;
    let mut length = 0_usize;
    for _ in 0..4 {
        let byte = reader.u8()?;
        length = length << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(Reader::new(reader.take(length)?, "esds"))
}
