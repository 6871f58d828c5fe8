//! What ffprobe says of a source, read into types: tracks, and where the packets are. Pure; the asking is in
//! [`crate::source`].

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::language;

/// Microseconds: ffprobe prints no more digits.
pub type Micros = i64;
pub const MICROS_PER_SECOND: i64 = 1_000_000;

/// The containers that hold films. Others that ffprobe knows (pictures, playlists that name other files, text that
/// it would play as a terminal's output) are not sources.
const FILM_FORMATS: &[&str] = &[
    "mov", "mp4", "matroska", "webm", "mpegts", "mpeg", "avi", "asf", "flv", "mxf", "ogg", "nut", "gxf",
    "wtv",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// ffprobe's names of the container, separated by commas.
    pub format: String,
    /// As the container's head says; None if it does not.
    pub duration: Option<Micros>,
    /// The first real video track.
    pub video: VideoTrack,
    pub audio: Vec<AudioTrack>,
    pub subtitles: Vec<SubtitleTrack>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoTrack {
    /// ffprobe's stream index, as all of these.
    pub index: u32,
    /// As shown: rotated, with square pixels.
    pub display: (u32, u32),
    pub interlaced: bool,
    /// The transfer function is one of high dynamic range.
    pub high_dynamic_range: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTrack {
    pub index: u32,
    pub language: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtitleTrack {
    pub index: u32,
    pub language: String,
    pub codec: String,
}

impl SubtitleTrack {
    /// Whether its cues are text, which can become WebVTT, or pictures, which cannot.
    pub fn is_text(&self) -> bool {
        matches!(self.codec.as_str(), "subrip" | "srt" | "ass" | "ssa" | "webvtt" | "mov_text" | "text")
    }
}

/// Why a probe's answer makes no source. The caller adds the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeRefusal {
    NotMedia(String),
    NoVideo(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<RawStream>,
    #[serde(default)]
    format: RawFormat,
}

#[derive(Deserialize, Default)]
struct RawFormat {
    #[serde(default)]
    format_name: String,
    duration: Option<String>,
}

#[derive(Deserialize)]
struct RawStream {
    index: u32,
    codec_type: Option<String>,
    codec_name: Option<String>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    sample_aspect_ratio: Option<String>,
    field_order: Option<String>,
    color_transfer: Option<String>,
    #[serde(default)]
    disposition: BTreeMap<String, i64>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    side_data_list: Vec<RawSideData>,
}

#[derive(Deserialize)]
struct RawSideData {
    rotation: Option<serde_json::Number>,
}

/// Reads the JSON of `ffprobe -show_format -show_streams`.
pub fn parse(json: &[u8]) -> Result<SourceInfo, ProbeRefusal> {
    let answer: Answer =
        serde_json::from_slice(json).map_err(|cause| ProbeRefusal::NotMedia(format!("ffprobe: {cause}")))?;
    let format = answer.format.format_name;
    if !format.split(',').any(|name| FILM_FORMATS.contains(&name)) {
        let what = if format.is_empty() { "nothing known" } else { &format };
        return Err(ProbeRefusal::NotMedia(format!("its format is {what}, not a film's")));
    }
    let of_type = |kind: &str| {
        let kind = kind.to_owned();
        answer.streams.iter().filter(move |s| s.codec_type.as_deref() == Some(&kind))
    };
    let pictures = |s: &&RawStream| s.disposition.get("attached_pic").is_none_or(|&on| on == 0);
    let Some(video) = of_type("video").find(pictures) else {
        let kinds: Vec<_> = answer.streams.iter().filter_map(|s| s.codec_type.as_deref()).collect();
        let has = if kinds.is_empty() {
            "it has no tracks".to_owned()
        } else {
            format!("it has {}", kinds.join(", "))
        };
        return Err(ProbeRefusal::NoVideo(has));
    };
    if video.width == 0 || video.height == 0 {
        return Err(ProbeRefusal::NoVideo("its video track has no size".to_owned()));
    }
    Ok(SourceInfo {
        duration: answer.format.duration.as_deref().and_then(parse_seconds),
        video: video.as_video(),
        audio: of_type("audio").map(|s| AudioTrack { index: s.index, language: s.language() }).collect(),
        subtitles: of_type("subtitle").map(RawStream::as_subtitles).collect(),
        format,
    })
}

impl RawStream {
    fn language(&self) -> String {
        language::tag(self.tags.get("language").map(String::as_str))
    }

    fn as_subtitles(&self) -> SubtitleTrack {
        let codec = self.codec_name.clone().unwrap_or_default();
        SubtitleTrack { index: self.index, language: self.language(), codec }
    }

    fn as_video(&self) -> VideoTrack {
        let transfer = self.color_transfer.as_deref();
        VideoTrack {
            index: self.index,
            display: self.display(),
            interlaced: matches!(self.field_order.as_deref(), Some("tt" | "bb" | "tb" | "bt")),
            high_dynamic_range: matches!(transfer, Some("smpte2084" | "arib-std-b67")),
        }
    }

    /// Wide pixels make the picture wider, and a quarter turn swaps its sides.
    fn display(&self) -> (u32, u32) {
        let ratio = self.sample_aspect_ratio.as_deref().and_then(parse_ratio).unwrap_or((1, 1));
        let width = u64::from(self.width) * u64::from(ratio.0) / u64::from(ratio.1);
        let width = u32::try_from(width).unwrap_or(self.width).max(1);
        let degrees = self.side_data_list.iter().find_map(|data| data.rotation.as_ref()?.as_f64());
        let quarter_turns = degrees.map_or(0.0, |degrees| (degrees / 90.0).round().abs());
        if quarter_turns % 2.0 == 1.0 { (self.height, width) } else { (width, self.height) }
    }
}

/// `4:3`; a side of zero means unknown.
fn parse_ratio(text: &str) -> Option<(u32, u32)> {
    let (a, b) = text.split_once(':')?;
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (a > 0 && b > 0).then_some((a, b))
}

/// `-12.345678` seconds, exactly.
pub fn parse_seconds(text: &str) -> Option<Micros> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let numeric = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !numeric(whole) || !numeric(fraction) {
        return None;
    }
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let value =
        whole.parse::<i64>().ok()?.checked_mul(MICROS_PER_SECOND)?.checked_add(micros.parse().ok()?)?;
    Some(if negative { -value } else { value })
}

/// Seconds with six digits, as ffmpeg takes them.
pub fn seconds(micros: Micros) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, part) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    format!("{sign}{whole}.{part:06}")
}

/// Where the packets of each track are, from one pass over the whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketTable {
    pub tracks: BTreeMap<u32, PacketTrack>,
    /// Packets that the demuxer itself calls corrupt.
    pub corrupt: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketTrack {
    pub packets: u64,
    /// Presentation time of the earliest packet.
    pub first: Micros,
    /// Presentation time of the latest packet.
    pub last: Micros,
    /// The largest presentation time plus duration.
    pub end: Micros,
    /// Of packets that decoding can start at, ascending; kept only where asked for.
    pub keys: Vec<Micros>,
}

impl PacketTable {
    /// One line of `ffprobe -show_entries packet=stream_index,pts_time,duration_time,flags -of compact=p=0`.
    /// Other lines are passed over. Gives the time that the pass has reached.
    pub fn line(&mut self, line: &str, keep_keys_of: u32) -> Option<Micros> {
        let field = |name: &str| line.split('|').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let track = field("stream_index")?.parse().ok()?;
        let flags = field("flags").unwrap_or_default();
        if flags.contains('C') {
            self.corrupt += 1;
        }
        let at = parse_seconds(field("pts_time")?)?;
        let lasts = field("duration_time").and_then(parse_seconds).unwrap_or(0);
        let fresh = PacketTrack { packets: 0, first: at, last: at, end: at, keys: Vec::new() };
        let entry = self.tracks.entry(track).or_insert(fresh);
        // Closed by leading pictures, keys come in order; where they do not, the later one is no place to seek to.
        if track == keep_keys_of && flags.contains('K') && entry.keys.last().is_none_or(|&last| last < at) {
            entry.keys.push(at);
        }
        // Decoded and never shown: what an edit list cuts off the front.
        if flags.contains('D') {
            return Some(at);
        }
        if entry.packets == 0 {
            (entry.first, entry.last, entry.end) = (at, at, at);
        }
        entry.packets += 1;
        entry.first = entry.first.min(at);
        entry.last = entry.last.max(at);
        entry.end = entry.end.max(at.saturating_add(lasts));
        Some(at)
    }

    /// From the earliest to the latest instant of any track that has packets.
    pub fn span(&self) -> Option<(Micros, Micros)> {
        let first = self.tracks.values().map(|t| t.first).min()?;
        Some((first, self.tracks.values().map(|t| t.end).max()?))
    }
}

/// A container that says it is longer than its packets reach has lost its end. Half a second is more than any
/// rounding of a head and less than anybody would miss.
const MISSING_END: Micros = MICROS_PER_SECOND / 2;

/// Why the file is truncated, if it is: by what ffprobe complained of, or by its packets.
pub fn truncation(info: &SourceInfo, packets: &PacketTable, complaints: &[String]) -> Option<String> {
    let telling = ["partial file", "ended prematurely", "Truncated", "truncated"];
    if let Some(line) = complaints.iter().find(|line| telling.iter().any(|words| line.contains(words))) {
        return Some(without_address(line));
    }
    // Others estimate their duration from a bit rate.
    let exact = info.format.split(',').any(|name| name == "mov" || name == "matroska");
    let declared = info.duration.filter(|_| exact)?;
    let Some((first, end)) = packets.span() else {
        return Some(format!("its head says {} s, and no packet follows", seconds(declared)));
    };
    let found = end.saturating_sub(first.min(0));
    (found.saturating_add(MISSING_END) < declared)
        .then(|| format!("its head says {} s and its packets end at {} s", seconds(declared), seconds(found)))
}

/// What ffprobe says of a file without the address in its `[mov @ 0x55d…]`.
pub fn without_address(line: &str) -> String {
    match line.split_once(" @ 0x") {
        Some((start, rest)) => {
            let rest = rest.split_once(']').map_or("", |(_, rest)| rest);
            format!("{start}]{rest}")
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(streams: &str) -> Result<SourceInfo, ProbeRefusal> {
        let json = format!(
            r#"{{"streams":[{streams}],"format":{{"format_name":"matroska,webm","duration":"26.023000"}}}}"#
        );
        parse(json.as_bytes())
    }

    const VIDEO: &str = r#"{"index":0,"codec_type":"video","codec_name":"h264","width":720,"height":576,
        "sample_aspect_ratio":"64:45","field_order":"tt"}"#;

    #[test]
    fn tracks_are_read_with_their_languages() {
        let info = answer(&format!(
            r#"{VIDEO},{{"index":1,"codec_type":"audio","tags":{{"language":"swe"}}}},
               {{"index":2,"codec_type":"audio"}},
               {{"index":3,"codec_type":"subtitle","codec_name":"subrip","tags":{{"language":"eng"}}}},
               {{"index":4,"codec_type":"subtitle","codec_name":"hdmv_pgs_subtitle"}}"#
        ))
        .unwrap();
        assert_eq!(info.duration, Some(26_023_000));
        assert_eq!((info.video.display, info.video.interlaced), ((1024, 576), true));
        let languages: Vec<_> = info.audio.iter().map(|a| a.language.as_str()).collect();
        assert_eq!(languages, ["sv", "und"]);
        assert_eq!(info.subtitles.iter().map(SubtitleTrack::is_text).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_quarter_turn_swaps_the_sides() {
        for (rotation, display) in [("-90", (1080, 1920)), ("180", (1920, 1080)), ("90.0", (1080, 1920))] {
            let info = answer(&format!(
                r#"{{"index":0,"codec_type":"video","width":1920,"height":1080,"side_data_list":[{{}},{{"rotation":{rotation}}}]}}"#
            ));
            assert_eq!(info.unwrap().video.display, display, "{rotation}");
        }
    }

    #[test]
    fn a_cover_picture_is_no_video_track() {
        let cover =
            r#"{"index":0,"codec_type":"video","width":9,"height":9,"disposition":{"attached_pic":1}}"#;
        assert!(matches!(answer(cover), Err(ProbeRefusal::NoVideo(_))));
        assert!(matches!(answer(""), Err(ProbeRefusal::NoVideo(_))));
    }

    #[test]
    fn a_picture_or_a_playlist_is_no_film() {
        for format in ["png_pipe", "hls", "concat", "tty", "image2", ""] {
            let json = format!(r#"{{"streams":[{VIDEO}],"format":{{"format_name":"{format}"}}}}"#);
            assert!(matches!(parse(json.as_bytes()), Err(ProbeRefusal::NotMedia(_))), "{format}");
        }
    }

    #[test]
    fn seconds_are_read_exactly_and_written_back() {
        for text in ["0.000000", "26.023000", "-0.021333", "7200.041708"] {
            assert_eq!(seconds(parse_seconds(text).unwrap()), text);
        }
        assert_eq!(parse_seconds("3"), Some(3_000_000));
        for bad in ["N/A", "", "-", "1e3", "1.2.3", "99999999999999999"] {
            assert_eq!(parse_seconds(bad), None, "{bad}");
        }
    }

    fn packets(last: &str) -> PacketTable {
        let mut table = PacketTable::default();
        table.line("stream_index=0|pts_time=0.023000|duration_time=0.042000|flags=K__", 0);
        table.line("stream_index=0|pts_time=N/A|duration_time=N/A|flags=___", 0);
        table.line(&format!("stream_index=0|pts_time={last}|duration_time=0.042000|flags=K__"), 0);
        table.line("format_name=matroska", 0);
        table
    }

    #[test]
    fn packets_that_end_early_mean_a_truncated_file() {
        let info = answer(VIDEO).unwrap();
        assert_eq!(truncation(&info, &packets("25.981000"), &[]), None);
        assert_eq!(truncation(&info, &packets("25.600000"), &[]), None);
        assert!(truncation(&info, &packets("25.400000"), &[]).is_some());
        assert!(truncation(&info, &PacketTable::default(), &[]).is_some());
        let complaint = ["[matroska,webm @ 0x55ee17ff0c00] File ended prematurely".to_owned()];
        let reason = truncation(&info, &packets("25.981000"), &complaint).unwrap();
        assert_eq!(reason, "[matroska,webm] File ended prematurely");
    }

    #[test]
    fn packets_that_are_never_shown_do_not_set_the_start() {
        let mut table = PacketTable::default();
        for (at, flags) in
            [("-1.000000", "KD_"), ("-0.500000", "_D_"), ("0.040000", "___"), ("0.000000", "___")]
        {
            table.line(&format!("stream_index=0|pts_time={at}|duration_time=0.040000|flags={flags}"), 0);
        }
        let track = &table.tracks[&0];
        assert_eq!((track.packets, track.first, track.end), (2, 0, 80_000));
        assert_eq!(track.keys, [-1_000_000]);
    }

    #[test]
    fn the_packet_table_keeps_the_keys_of_the_track_asked_for() {
        let table = packets("25.981000");
        assert_eq!(table.tracks[&0].keys, [23_000, 25_981_000]);
        assert_eq!((table.tracks[&0].packets, table.tracks[&0].end), (2, 26_023_000));
    }
}
