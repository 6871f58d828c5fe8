//! HLS playlists (RFC 8216), read as bytes from a stranger: bounded size, bounded counts, checked ranges.
//!
//! Pure. What comes out is what this player needs and no more: for a media playlist the initialisation section and
//! the segments as spans of one known object; for a multivariant playlist the objects that it names.
//! `m3u8-rs` does the grammar; what it lets pass is refused here, before ([`screen`]) or after.

use std::time::Duration;

use content::id::{ByteSpan, Extension, MediaPath, ObjectId};
use m3u8_rs::{AlternativeMediaType, ByteRange, MediaPlaylist, MediaSegment};

use crate::address::MediaAddress;

/// The largest playlist read, bytes. A title of four hours in segments of 2 s needs under 1 MiB.
pub const PLAYLIST_BYTES_MAX: u64 = 2 << 20;
const LINES_MAX: usize = 100_000;
const LINE_BYTES_MAX: usize = 4_096;
/// The longest segment that is believed, and the longest whole object: subtitles are one segment as long as the title.
const SEGMENT_MAX: Duration = Duration::from_secs(60);
const WHOLE_MAX: Duration = Duration::from_secs(48 * 3_600);
const SEGMENTS_MAX: usize = 20_000;
const RENDITIONS_MAX: usize = 200;

/// Tags that this player reads, or may overlook without playing anything wrong. Others are not shown to the grammar:
/// some of its attribute lists look for their end through the whole text, once for each line.
const TAGS_READ: [&str; 12] = [
    "#EXTM3U",
    "#EXTINF:",
    "#EXT-X-BYTERANGE:",
    "#EXT-X-MAP:",
    "#EXT-X-TARGETDURATION:",
    "#EXT-X-VERSION:",
    "#EXT-X-MEDIA-SEQUENCE:",
    "#EXT-X-PLAYLIST-TYPE:",
    "#EXT-X-ENDLIST",
    "#EXT-X-STREAM-INF:",
    "#EXT-X-MEDIA:",
    "#EXT-X-INDEPENDENT-SEGMENTS",
];

/// Tags that change what has to be played and that this player does not know how to follow.
const TAGS_REFUSED: [&str; 4] =
    ["#EXT-X-KEY:", "#EXT-X-I-FRAMES-ONLY", "#EXT-X-DISCONTINUITY", "#EXT-X-SESSION-KEY:"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaylistError {
    #[error("it is larger than {PLAYLIST_BYTES_MAX} bytes, or has too many or too long lines")]
    TooLarge,
    #[error("it is not text in UTF-8")]
    NotText,
    #[error("it uses {0}, which this player does not play")]
    Unsupported(&'static str),
    #[error("it is not an HLS {0} playlist: the grammar ends at {1:?}")]
    Grammar(&'static str, String),
    #[error("it has no #EXT-X-ENDLIST: it is not finished")]
    NotFinished,
    #[error("it has no segments, or more than {SEGMENTS_MAX}")]
    SegmentCount,
    #[error("segment {index}: {what}")]
    Segment { index: usize, what: String },
    #[error("{0:?} is not the address of a media playlist on an appliance")]
    Address(String),
    #[error("it has no variants, or more than {RENDITIONS_MAX} variants and renditions")]
    RenditionCount,
}

/// A media playlist of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The initialisation section; None for WebVTT.
    pub init: Option<ByteSpan>,
    /// At least one, in the order of time.
    pub segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// None: the whole object.
    pub span: Option<ByteSpan>,
    /// In the title.
    pub start: Duration,
    pub end: Duration,
}

impl Timeline {
    pub fn end(&self) -> Duration {
        self.segments.last().map_or(Duration::ZERO, |segment| segment.end)
    }

    /// Reads a media playlist whose segments must all be spans of `track` (named by `file`, `bytes` long).
    pub fn parse(
        text: &[u8],
        track: ObjectId,
        extension: Extension,
        bytes: u64,
    ) -> Result<Self, PlaylistError> {
        let screened = screen(text)?;
        let (rest, playlist) =
            m3u8_rs::parse_media_playlist(screened.as_bytes()).map_err(|_| grammar("media", &screened))?;
        refuse_rest("media", rest)?;
        refuse_swallowed_segments(&screened, &playlist)?;
        if !playlist.end_list {
            return Err(PlaylistError::NotFinished);
        }
        if playlist.segments.is_empty() || playlist.segments.len() > SEGMENTS_MAX {
            return Err(PlaylistError::SegmentCount);
        }
        SpanReader { file: format!("{track}.{extension}"), bytes, next: None }.timeline(&playlist)
    }
}

/// Reads the segments of one playlist in order: a byte range without an offset goes on where the last one ended.
struct SpanReader {
    file: String,
    bytes: u64,
    next: Option<u64>,
}

impl SpanReader {
    fn timeline(mut self, playlist: &MediaPlaylist) -> Result<Timeline, PlaylistError> {
        let (mut init, mut start) = (None, Duration::ZERO);
        let mut segments = Vec::with_capacity(playlist.segments.len());
        for (index, segment) in playlist.segments.iter().enumerate() {
            let refuse = |what| PlaylistError::Segment { index, what };
            if let Some(map) = &segment.map {
                let found = self.init(&map.uri, map.byte_range.as_ref()).map_err(refuse)?;
                if init.is_some_and(|before| before != found) {
                    return Err(refuse("a second initialisation section".to_owned()));
                }
                init = Some(found);
            }
            let span = self.span(segment).map_err(refuse)?;
            let longest = if span.is_some() { SEGMENT_MAX } else { WHOLE_MAX };
            let end = start + duration(segment.duration, longest).map_err(refuse)?;
            segments.push(Segment { span, start, end });
            start = end;
        }
        let whole = segments.iter().any(|segment| segment.span.is_none());
        if whole && (segments.len() > 1 || init.is_some()) {
            return Err(PlaylistError::Segment {
                index: 0,
                what: "no byte range beside other parts".to_owned(),
            });
        }
        Ok(Timeline { init, segments })
    }

    fn init(&self, uri: &str, range: Option<&ByteRange>) -> Result<ByteSpan, String> {
        self.check_file(uri)?;
        // RFC 8216 §4.3.2.5: without BYTERANGE it is the entire resource, which a track file cannot be.
        let range = range.ok_or("an initialisation section without a byte range")?;
        self.checked(range.offset.unwrap_or(0), range.length)
    }

    fn span(&mut self, segment: &MediaSegment) -> Result<Option<ByteSpan>, String> {
        self.check_file(&segment.uri)?;
        let Some(range) = &segment.byte_range else { return Ok(None) };
        // RFC 8216 §4.3.2.2: without an offset it begins at the byte after the sub-range before it.
        let offset = range.offset.or(self.next).ok_or("a first byte range without an offset")?;
        let span = self.checked(offset, range.length)?;
        self.next = Some(span.last() + 1);
        Ok(Some(span))
    }

    /// URIs are relative and name the track: nothing in a playlist may lead this player elsewhere.
    fn check_file(&self, uri: &str) -> Result<(), String> {
        if uri == self.file {
            return Ok(());
        }
        let shown: String = uri.chars().take(120).collect();
        Err(format!("its URI is {shown:?}; the track is {}", self.file))
    }

    fn checked(&self, offset: u64, count: u64) -> Result<ByteSpan, String> {
        let span = ByteSpan::from_offset(offset, count).filter(|span| span.last() < self.bytes);
        span.ok_or_else(|| format!("{count} bytes at {offset} of a track of {} bytes", self.bytes))
    }
}

fn duration(seconds: f32, longest: Duration) -> Result<Duration, String> {
    let refuse = || format!("a duration of {seconds} s");
    let length = Duration::try_from_secs_f64(f64::from(seconds)).map_err(|_| refuse())?;
    if length.is_zero() || length > longest {
        return Err(refuse());
    }
    // To the microsecond: `f32` holds no more of 60 s.
    Ok(Duration::from_micros(u64::try_from(length.as_micros()).map_err(|_| refuse())?))
}

/// The objects that a multivariant playlist names: media playlists on appliances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multivariant {
    pub variants: Vec<MediaPath>,
    pub audio: Vec<Rendition>,
    pub subtitles: Vec<Rendition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendition {
    pub playlist: MediaPath,
    pub language: Option<String>,
    pub is_default: bool,
}

impl Multivariant {
    pub fn parse(text: &[u8]) -> Result<Self, PlaylistError> {
        let screened = screen(text)?;
        let (rest, playlist) = m3u8_rs::parse_master_playlist(screened.as_bytes())
            .map_err(|_| grammar("multivariant", &screened))?;
        refuse_rest("multivariant", rest)?;
        let read = [playlist.variants.len(), playlist.variants.len(), playlist.alternatives.len()];
        refuse_swallowed("multivariant", &screened, &["", "#EXT-X-STREAM-INF:", "#EXT-X-MEDIA:"], &read)?;
        let count = playlist.variants.len() + playlist.alternatives.len();
        if playlist.variants.is_empty() || count > RENDITIONS_MAX {
            return Err(PlaylistError::RenditionCount);
        }
        let renditions = |kind: AlternativeMediaType| {
            let of_kind = playlist.alternatives.iter().filter(move |media| media.media_type == kind);
            of_kind.map(|media| {
                // RFC 8216 §4.3.4.2.1: without a URI it is inside the variant; our tracks never are.
                let playlist = address(media.uri.as_deref().unwrap_or_default())?;
                Ok(Rendition { playlist, language: media.language.clone(), is_default: media.default })
            })
        };
        Ok(Self {
            variants: playlist.variants.iter().map(|v| address(&v.uri)).collect::<Result<_, _>>()?,
            audio: renditions(AlternativeMediaType::Audio).collect::<Result<_, _>>()?,
            subtitles: renditions(AlternativeMediaType::Subtitles).collect::<Result<_, _>>()?,
        })
    }
}

fn address(uri: &str) -> Result<MediaPath, PlaylistError> {
    let address: Option<MediaAddress> = uri.parse().ok();
    let playlist = address.map(|address| address.path).filter(|path| path.extension == Extension::M3u8);
    playlist.ok_or_else(|| PlaylistError::Address(uri.chars().take(200).collect()))
}

/// Bounds, and the lines that the grammar is to see.
fn screen(text: &[u8]) -> Result<String, PlaylistError> {
    if u64::try_from(text.len()).map_or(true, |bytes| bytes > PLAYLIST_BYTES_MAX) {
        return Err(PlaylistError::TooLarge);
    }
    let text = std::str::from_utf8(text).map_err(|_| PlaylistError::NotText)?;
    if text.lines().count() > LINES_MAX || text.lines().any(|line| line.len() > LINE_BYTES_MAX) {
        return Err(PlaylistError::TooLarge);
    }
    if let Some(tag) = TAGS_REFUSED.into_iter().find(|tag| text.lines().any(|line| line.starts_with(tag))) {
        return Err(PlaylistError::Unsupported(tag));
    }
    if let Some(line) = text.lines().find(|line| byte_range(line).is_some_and(|range| !is_byte_range(range)))
    {
        return Err(grammar("media", line));
    }
    let is_read = |line: &&str| !line.starts_with('#') || TAGS_READ.iter().any(|tag| line.starts_with(tag));
    let mut screened = String::with_capacity(text.len());
    for line in text.lines().filter(is_read).filter(|line| !line.trim().is_empty()) {
        screened.push_str(line);
        screened.push('\n');
    }
    Ok(screened)
}

/// The byte range that a line states, if it states one: RFC 8216 §4.3.2.2, and §4.3.2.5 as an attribute.
fn byte_range(line: &str) -> Option<&str> {
    if let Some(range) = line.strip_prefix("#EXT-X-BYTERANGE:") {
        return Some(range.trim_end());
    }
    let (_, range) = line.strip_prefix("#EXT-X-MAP:")?.split_once("BYTERANGE=")?;
    range.trim_start_matches('"').split(['"', ',']).next()
}

/// `n[@o]` and no more: `m3u8-rs` reads as far as it understands and overlooks the rest of the line, an offset of more than
/// 64 bits too.
fn is_byte_range(text: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok();
    text.split_once('@').map_or(is_number(text), |(count, offset)| is_number(count) && is_number(offset))
}

fn grammar(kind: &'static str, at: &str) -> PlaylistError {
    PlaylistError::Grammar(kind, at.chars().take(80).collect())
}

/// The grammar stops without a word at the first line that it cannot read.
fn refuse_rest(kind: &'static str, rest: &[u8]) -> Result<(), PlaylistError> {
    if rest.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    Err(grammar(kind, &String::from_utf8_lossy(rest)))
}

fn refuse_swallowed_segments(screened: &str, playlist: &MediaPlaylist) -> Result<(), PlaylistError> {
    let count =
        |has: fn(&MediaSegment) -> bool| playlist.segments.iter().filter(|segment| has(segment)).count();
    let ranges = count(|segment| segment.byte_range.is_some());
    let read =
        [playlist.segments.len(), playlist.segments.len(), ranges, count(|segment| segment.map.is_some())];
    refuse_swallowed("media", screened, &["", "#EXTINF:", "#EXT-X-BYTERANGE:", "#EXT-X-MAP:"], &read)
}

/// A broken attribute list takes the lines behind it for its own, and of two URIs behind one tag the first is forgotten:
/// a film with a hole. So as many of each were read as there are lines that begin so; `""` stands for URIs.
fn refuse_swallowed(
    kind: &'static str,
    text: &str,
    tags: &[&str],
    read: &[usize],
) -> Result<(), PlaylistError> {
    let is_one =
        |line: &str, tag: &str| if tag.is_empty() { !line.starts_with('#') } else { line.starts_with(tag) };
    for (tag, read) in tags.iter().zip(read) {
        let stated = text.lines().filter(|line| is_one(line, tag)).count();
        if stated != *read {
            return Err(PlaylistError::Grammar(
                kind,
                format!("{stated} lines of {tag:?}, {read} of them read"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn track() -> ObjectId {
        ObjectId::of(b"track")
    }

    fn parse(text: &str) -> Result<Timeline, PlaylistError> {
        let text = text.replace("FILE", &format!("{}.mp4", track()));
        Timeline::parse(text.as_bytes(), track(), Extension::Mp4, 10_000)
    }

    const GOOD: &str = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-PLAYLIST-TYPE:VOD\n\
        #EXT-X-MAP:URI=\"FILE\",BYTERANGE=\"800@0\"\n#EXTINF:4.004,\n#EXT-X-BYTERANGE:1000@900\nFILE\n\
        #EXTINF:2.0,\n#EXT-X-BYTERANGE:500\nFILE\n#EXT-X-ENDLIST\n";

    #[test]
    fn a_media_playlist_gives_its_spans_and_times() {
        for text in
            [GOOD.to_owned(), GOOD.replace('\n', "\r\n"), GOOD.replace("#EXTINF", "# a comment\n\n#EXTINF")]
        {
            let timeline = parse(&text).unwrap();
            assert_eq!(timeline.init, ByteSpan::new(0, 799));
            let spans: Vec<_> = timeline.segments.iter().map(|segment| segment.span).collect();
            assert_eq!(spans, [ByteSpan::new(900, 1899), ByteSpan::new(1900, 2399)]);
            assert_eq!(timeline.segments[1].start, Duration::from_millis(4_004));
            assert_eq!(timeline.end(), Duration::from_millis(6_004));
        }
    }

    #[test]
    fn a_subtitle_playlist_names_a_whole_file() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:7000\n#EXTINF:7000.0,\nFILE\n#EXT-X-ENDLIST\n";
        let timeline = parse(text).unwrap();
        assert_eq!((timeline.init, timeline.segments[0].span), (None, None));
    }

    #[test]
    fn a_hostile_media_playlist_is_refused() {
        let long_line = format!("#EXTM3U\n{}\n", "x".repeat(LINE_BYTES_MAX + 1));
        let many = format!("#EXTM3U\n{}#EXT-X-ENDLIST\n", "#EXTINF:4,\nFILE\n".repeat(SEGMENTS_MAX + 1));
        let cases = [
            String::new(),
            "<html>".to_owned(),
            "#EXTM3U\n#EXT-X-ENDLIST\n".to_owned(),
            long_line,
            many,
            GOOD.replace("#EXT-X-ENDLIST\n", ""),
            GOOD.replace("1000@900", "1000@9001"),
            GOOD.replace("1000@900", "0@900"),
            GOOD.replace("1000@900", "1000"),
            GOOD.replace("1000@900", "18446744073709551615@2"),
            GOOD.replace("1000@900", "99999999999999999999@2"),
            GOOD.replace("800@0", "800@9999"),
            GOOD.replace("EXTINF:4.004", "EXTINF:-4"),
            GOOD.replace("EXTINF:4.004", "EXTINF:0"),
            GOOD.replace("EXTINF:4.004", "EXTINF:x"),
            GOOD.replace("EXTINF:4.004", "EXTINF:99999999999999999999999999999999999999999999"),
            GOOD.replace("EXTINF:4.004", "EXTINF:61"),
            GOOD.replacen("\nFILE", "\nhttp://elsewhere.example/FILE", 1),
            GOOD.replacen("\nFILE", "\n../FILE", 1),
            GOOD.replacen("URI=\"FILE\"", "URI=\"/etc/passwd\"", 1),
            GOOD.replace("#EXTINF:2.0", "#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:2.0"),
            GOOD.replace("#EXTINF:2.0", "#EXT-X-DISCONTINUITY\n#EXTINF:2.0"),
            GOOD.replace("#EXT-X-BYTERANGE:500\n", ""),
        ];
        for (index, text) in cases.iter().enumerate() {
            assert!(parse(text).is_err(), "case {index} was accepted: {text:.200}");
        }
        assert!(Timeline::parse(&[b'#', 0xff], track(), Extension::Mp4, 1).is_err());
        let huge = vec![b'\n'; usize::try_from(PLAYLIST_BYTES_MAX).unwrap() + 1];
        assert_eq!(Timeline::parse(&huge, track(), Extension::Mp4, 1), Err(PlaylistError::TooLarge));
    }

    /// Found by fuzzing: `#EXT-X-BYTERANGE:1000@900#EXT-X-MEDIA:TYPE=AUDIO` was taken for `1000@900`.
    #[test]
    fn a_byte_range_with_more_behind_it_is_refused() {
        for more in ["#EXT-X-MEDIA:TYPE=AUDIO", " 1", "x", "-"] {
            for range in ["1000@900", "800@0", "BYTERANGE:500"] {
                let text = GOOD.replace(range, &format!("{range}{more}"));
                assert!(matches!(parse(&text), Err(PlaylistError::Grammar(..))), "{text}");
            }
        }
        assert!(parse(&GOOD.replace("1000@900", "1000@900 ")).is_ok());
    }

    /// Found by fuzzing: read as if no offset were there.
    #[test]
    fn a_byte_range_that_begins_beyond_64_bits_is_refused() {
        for (range, wide) in [("1000@900", "1000@"), ("800@0", "800@")] {
            let text = GOOD.replace(range, &format!("{wide}18446744073709551616"));
            assert!(matches!(parse(&text), Err(PlaylistError::Grammar(..))), "{text}");
        }
    }

    /// Found by fuzzing: a film with a hole, silently.
    #[test]
    fn a_playlist_of_which_the_grammar_swallows_a_segment_is_refused() {
        let broken_map = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MAP:URI=\"FILE\",BYXT-X-E:500\n#EXTINF:4.0,\n\
            #EXT-X-BYTERANGE:1000@900\nFILE\n#EXT-X-MAP:URI=\"FILE\",BYTERANGE=\"800@0\"\n#EXTINF:2.0,\n\
            #EXT-X-BYTERANGE:500@1900\nFILE\n#EXT-X-ENDLIST\n";
        for text in [
            broken_map.to_owned(),
            GOOD.replace("#EXTINF:2.0,\n", ""),
            GOOD.replacen("\nFILE", "\n,\nFILE", 1),
        ] {
            assert!(matches!(parse(&text), Err(PlaylistError::Grammar(..))), "{text}");
        }
        let master = multivariant();
        assert!(
            Multivariant::parse(master.replacen("\nhttp", "\nhttp://elsewhere/\nhttp", 1).as_bytes())
                .is_err()
        );
        assert!(
            Multivariant::parse(
                master.replacen("#EXT-X-STREAM-INF", "#EXT-X-MEDIA:A=\n#EXT-X-STREAM-INF", 1).as_bytes()
            )
            .is_err()
        );
    }

    fn multivariant() -> String {
        let url = |seed: &str, tier: &str| {
            format!("http://127.0.0.2:1/~a.b.c/night-train/{tier}/{}.m3u8", ObjectId::of(seed.as_bytes()))
        };
        let (v1, v2, a) = (url("v1", "sd"), url("v2", "hd"), url("a", "base"));
        format!(
            "#EXTM3U\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",LANGUAGE=\"en\",\
             NAME=\"Français\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"{a}\"\n\
             #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",LANGUAGE=\"sv\",NAME=\"Svenska\",DEFAULT=NO,\
             AUTOSELECT=NO,FORCED=NO,URI=\"{a}\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1400000,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=960x540,\
             FRAME-RATE=23.976,AUDIO=\"a\",SUBTITLES=\"s\",CLOSED-CAPTIONS=NONE\n\
             {v1}\n#EXT-X-STREAM-INF:BANDWIDTH=2800000,AUDIO=\"a\"\n{v2}\n"
        )
    }

    #[test]
    fn a_multivariant_playlist_gives_its_objects() {
        let parsed = Multivariant::parse(multivariant().as_bytes()).unwrap();
        let objects: Vec<_> = parsed.variants.iter().map(|path| path.object).collect();
        assert_eq!(objects, [ObjectId::of(b"v1"), ObjectId::of(b"v2")]);
        assert_eq!(parsed.audio[0].language.as_deref(), Some("en"));
        assert!(parsed.audio[0].is_default && !parsed.subtitles[0].is_default);
        assert_eq!((parsed.audio.len(), parsed.subtitles.len()), (1, 1));
    }

    #[test]
    fn a_hostile_multivariant_playlist_is_refused() {
        let good = multivariant();
        let none = "#EXTM3U\n".to_owned();
        let variant = "#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.2/x\n";
        let cases = [
            none.clone(),
            none + &variant.repeat(201),
            good.replace(".m3u8", ".mp4"),
            good.replace("/sd/", "/4k/"),
        ];
        for (index, text) in cases.iter().enumerate() {
            assert!(Multivariant::parse(text.as_bytes()).is_err(), "case {index} was accepted");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut text = b"#EXTM3U\n".to_vec();
            text.extend(bytes);
            prop_assert!(Timeline::parse(&text, track(), Extension::Mp4, 10_000).is_err());
            prop_assert!(Multivariant::parse(&text).is_err());
        }

        /// Every line broken in every way that is one character long.
        #[test]
        fn a_playlist_that_is_read_never_leaves_its_track(at in 0_usize..400, with in any::<char>()) {
            let mut text: Vec<char> = GOOD.replace("FILE", &format!("{}.mp4", track())).chars().collect();
            let at = at % text.len();
            text[at] = with;
            let text: String = text.into_iter().collect();
            if let Ok(timeline) = Timeline::parse(text.as_bytes(), track(), Extension::Mp4, 10_000) {
                let spans = timeline.segments.iter().filter_map(|segment| segment.span).chain(timeline.init);
                prop_assert!(spans.into_iter().all(|span| span.last() < 10_000));
                prop_assert!(timeline.segments.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
    }
}
