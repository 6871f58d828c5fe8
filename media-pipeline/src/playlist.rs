//! HLS media playlists (RFC 8216, version 7): byte ranges of one object, relative URIs. Pure.

use std::fmt::Write as _;

use content::id::{Extension, ObjectId};

use crate::mp4::conformance::TrackFacts;

/// The playlist of a track file. The URI is the object's name alone: it stands beside its playlist under every
/// token, so it inherits the token (DESIGN §3).
pub fn of_track(object: ObjectId, facts: &TrackFacts) -> String {
    let uri = format!("{object}.{}", Extension::Mp4);
    let scale = u64::from(facts.init.timescale);
    let longest = facts.segments.iter().map(|segment| segment.duration).max().unwrap_or(0);
    let mut text = head(rounded_seconds(longest, scale));
    let init = facts.init_span;
    line(&mut text, format_args!("#EXT-X-MAP:URI=\"{uri}\",BYTERANGE=\"{}@{}\"", init.count(), init.first()));
    for segment in &facts.segments {
        line(&mut text, format_args!("#EXTINF:{},", decimal_seconds(segment.duration, scale)));
        line(&mut text, format_args!("#EXT-X-BYTERANGE:{}@{}", segment.span.count(), segment.span.first()));
        line(&mut text, format_args!("{uri}"));
    }
    line(&mut text, format_args!("#EXT-X-ENDLIST"));
    text
}

/// The playlist of a WebVTT file: one segment as long as the title.
pub fn of_subtitles(object: ObjectId, duration_ms: u64) -> String {
    let mut text = head(rounded_seconds(duration_ms, 1_000));
    line(&mut text, format_args!("#EXTINF:{},", decimal_seconds(duration_ms, 1_000)));
    line(&mut text, format_args!("{object}.{}", Extension::Vtt));
    line(&mut text, format_args!("#EXT-X-ENDLIST"));
    text
}

fn head(target_seconds: u64) -> String {
    format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{target_seconds}\n#EXT-X-MEDIA-SEQUENCE:0\n\
         #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n"
    )
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing to a String cannot fail");
}

/// RFC 8216 §4.3.3.1: each EXTINF, rounded to the nearest integer, is at most the target duration.
fn rounded_seconds(duration: u64, scale: u64) -> u64 {
    let (whole, rest) = (duration / scale, duration % scale);
    (whole + u64::from(rest * 2 >= scale)).max(1)
}

/// With six digits, rounded to the nearest.
fn decimal_seconds(duration: u64, scale: u64) -> String {
    let micros = (u128::from(duration) * 1_000_000 + u128::from(scale) / 2) / u128::from(scale);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use content::id::ByteSpan;

    use super::*;
    use crate::mp4::conformance::Segment;
    use crate::mp4::init::{InitSegment, Media, SampleDefaults};

    fn facts() -> TrackFacts {
        let init = InitSegment {
            track: 1,
            timescale: 24_000,
            codecs: "avc1.640015".to_owned(),
            media: Media::Video { width: 320, height: 180 },
            defaults: SampleDefaults { duration: 0, size: 0, flags: 0 },
        };
        let segment = |first, last, start, duration| Segment {
            span: ByteSpan::new(first, last).unwrap(),
            start,
            duration,
        };
        TrackFacts {
            init,
            init_span: ByteSpan::new(0, 761).unwrap(),
            index_span: ByteSpan::new(762, 825).unwrap(),
            segments: vec![segment(826, 1_825, 0, 48_048), segment(1_826, 2_000, 48_048, 10_010)],
            bytes: 2_001,
        }
    }

    #[test]
    fn a_track_playlist_names_each_fragment_by_its_bytes() {
        let object = ObjectId::of(b"x");
        let expected = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MAP:URI=\"{object}.mp4\",BYTERANGE=\"762@0\"\n\
             #EXTINF:2.002000,\n#EXT-X-BYTERANGE:1000@826\n{object}.mp4\n\
             #EXTINF:0.417083,\n#EXT-X-BYTERANGE:175@1826\n{object}.mp4\n#EXT-X-ENDLIST\n"
        );
        assert_eq!(of_track(object, &facts()), expected);
    }

    #[test]
    fn a_subtitle_playlist_has_one_segment_as_long_as_the_title() {
        let text = of_subtitles(ObjectId::of(b"x"), 40_960);
        assert!(text.contains("#EXT-X-TARGETDURATION:41\n#"));
        assert!(text.contains(&format!("#EXTINF:40.960000,\n{}.vtt\n#EXT-X-ENDLIST\n", ObjectId::of(b"x"))));
    }

    #[test]
    fn peak_and_average_rates_are_measured() {
        // 1,000 bytes in 2.002 s; 1,175 bytes in 2.419 s.
        assert_eq!(facts().bandwidths(), (3_997, 3_886));
    }
}
