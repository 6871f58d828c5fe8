//! HLS playlists as oca-play reads them, against a reader that goes from line to line.
//!
//! Input: a byte (odd: a media playlist; even: a multivariant one); for a media playlist four bytes, the track's size; then
//! the text, in which `$F` stands for the track's file and `$U` for the address of a playlist.

use std::time::Duration;

use content::id::{ByteSpan, Extension, ObjectId};
use playback_client::playlist::{Multivariant, Timeline};

pub fn run(mut data: &[u8]) {
    let [kind] = crate::take(&mut data);
    let track = ObjectId::of(b"track");
    let file = format!("{track}.mp4");
    let playlist = format!("http://127.0.0.2:1/~a.b.c/night-train/sd/{track}.m3u8");
    if kind % 2 == 1 {
        let bytes = u64::from(u32::from_le_bytes(crate::take(&mut data)));
        let text = crate::expand(data, &[(b"$F", file.as_bytes())]);
        if let Ok(timeline) = Timeline::parse(&text, track, Extension::Mp4, bytes) {
            check_media(&text, &timeline, &file, bytes);
        }
    } else {
        let text = crate::expand(data, &[(b"$U", playlist.as_bytes())]);
        if let Ok(found) = Multivariant::parse(&text) {
            check_multivariant(&text, &found);
        }
    }
}

fn check_media(text: &[u8], timeline: &Timeline, file: &str, bytes: u64) {
    let spans = timeline.segments.iter().filter_map(|segment| segment.span).chain(timeline.init);
    assert!(spans.into_iter().all(|span| span.last() < bytes), "a span leaves its track");
    assert!((1..=20_000).contains(&timeline.segments.len()));
    let mut end = Duration::ZERO;
    for segment in &timeline.segments {
        assert!(segment.start == end && segment.end > segment.start, "time has a gap or stands still");
        assert!(segment.span.is_none() || segment.end - segment.start <= Duration::from_secs(60));
        end = segment.end;
    }
    assert_eq!(timeline.end(), end);
    let text = std::str::from_utf8(text).expect("only text is read");
    if let Some(init) = timeline.init {
        // The last one stated; where there are more, they say the same.
        let stated =
            text.lines().rev().find_map(|line| line.strip_prefix("#EXT-X-MAP:")).expect("it was read");
        let (count, offset) = (init.count(), init.first());
        let forms = [format!("{count}@{offset}"), format!("{count}")];
        let range = stated.split("BYTERANGE=").nth(1).expect("it was read").trim_start_matches('"');
        let range = range.split(['"', ',']).next().unwrap_or_default();
        let plain = |text: &str| text.split('@').map(|n| n.parse().expect("a number")).collect::<Vec<u64>>();
        assert!(forms.iter().any(|form| plain(form) == plain(range)), "{init} from {range:?}");
    }
    let expected = slow_spans(text, file);
    let found: Vec<_> = timeline.segments.iter().map(|segment| segment.span).collect();
    assert_eq!(found, expected);
}

/// RFC 8216 §4.3.2.2, line by line: what each line that is no tag and no comment stands for.
fn slow_spans(text: &str, file: &str) -> Vec<Option<ByteSpan>> {
    let (mut spans, mut pending, mut next) = (Vec::new(), None, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(range) = line.strip_prefix("#EXT-X-BYTERANGE:") {
            let (count, offset) = range.split_once('@').map_or((range, None), |(n, o)| (n, Some(o)));
            let offset = offset.map_or(next, |offset| offset.trim().parse().expect("it was read"));
            pending = ByteSpan::from_offset(offset, count.trim().parse().expect("it was read"));
        } else if !line.starts_with('#') {
            assert_eq!(line, file, "a segment of another file");
            spans.push(pending);
            next = pending.map_or(next, |span| span.last() + 1);
            pending = None;
        }
    }
    spans
}

fn check_multivariant(text: &[u8], found: &Multivariant) {
    let text = std::str::from_utf8(text).expect("only text is read");
    let renditions = found.audio.iter().chain(&found.subtitles).map(|rendition| &rendition.playlist);
    let paths: Vec<_> = found.variants.iter().chain(renditions).collect();
    assert!(!found.variants.is_empty() && paths.len() <= 200);
    let stated = text.lines().filter(|line| line.starts_with("#EXT-X-STREAM-INF:")).count();
    assert_eq!(found.variants.len(), stated, "a variant is overlooked");
    for path in paths {
        assert_eq!(path.extension, Extension::M3u8);
        assert!(text.contains(&path.to_string()), "{path} is not in the playlist");
    }
}
