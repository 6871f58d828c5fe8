//! Sources of every shape: each frame lands where it should, sizes and rates come out as planned.

use std::path::Path;

use content::title::{StreamKind, Title};

use crate::films::{GREYS, Origin, assert_frames, ffmpeg};

fn video(title: &Title) -> Vec<(u32, u32, (u32, u32))> {
    let of = |kind: &StreamKind| match kind {
        StreamKind::Video { width, height, frame_rate } => Some((*width, *height, *frame_rate)),
        StreamKind::Audio { .. } | StreamKind::Subtitles { .. } => None,
    };
    title.streams.iter().filter_map(|stream| of(&stream.kind)).collect()
}

fn published(origin: &Origin, source: &Path) -> Title {
    origin.publish(source, "");
    origin.title()
}

/// Chunks are cut on frame numbers: with a rate that no second divides, long groups of pictures in the source and a
/// first picture that is not at zero.
#[test]
fn every_frame_is_in_its_place_across_chunks() {
    for (name, rate, frames) in
        [("a.mkv", "24000/1001", 547), ("b.mp4", "30000/1001", 661), ("c.ts", "25", 512)]
    {
        let origin = Origin::new();
        let source = origin.folder.path().join(name);
        let words = format!(
            "-f lavfi -i nullsrc=size=96x54:rate={rate},{GREYS} -frames:v {frames} -c:v libx264 -preset veryfast -bf 3 -g 97 \
             -qp 8 -pix_fmt yuv420p -output_ts_offset 1.7"
        );
        ffmpeg(&words, &source);
        let summary = origin.publish(&source, "");
        assert!(summary["chunks_encoded"].as_u64().unwrap() >= 4, "{name}: {summary}");
        let title = origin.title();
        for stream in &title.streams {
            assert_frames(&origin.object(&stream.track), 0..frames);
        }
    }
}

/// An MP4 file cut without encoding starts at a key before the cut, which its edit list hides.
#[test]
fn frames_that_an_edit_list_hides_are_not_published() {
    let origin = Origin::new();
    let (whole, cut) = (origin.folder.path().join("whole.mp4"), origin.folder.path().join("cut.mp4"));
    let words = format!(
        "-f lavfi -i nullsrc=size=96x54:rate=24,{GREYS} -frames:v 600 -c:v libx264 -preset veryfast -bf 3 -g 100 -qp 8 \
         -pix_fmt yuv420p"
    );
    ffmpeg(&words, &whole);
    ffmpeg(&format!("-ss 2.5 -i {} -c copy", whole.display()), &cut);
    let title = published(&origin, &cut);
    assert_frames(&origin.object(&title.streams[0].track), 60..600);
}

#[test]
fn a_varying_rate_becomes_a_constant_one() {
    let origin = Origin::new();
    let source = origin.folder.path().join("varying.mkv");
    // Frames 0 to 119 last 1/24 s, 120 to 239 twice as long.
    let words = format!(
        "-f lavfi -i nullsrc=size=96x54:rate=24,{GREYS},setpts=if(lt(N\\,120)\\,N\\,2*N-120)/24/TB -frames:v 240 \
         -fps_mode passthrough -enc_time_base 1:48 -c:v libx264 -preset veryfast -qp 8 -pix_fmt yuv420p"
    );
    ffmpeg(&words, &source);
    let title = published(&origin, &source);
    // 239 intervals in 14.92 s are 16 a second: the next usual rate is 20. 359 steps and the last frame's own.
    assert_eq!(video(&title)[0].2, (20, 1));
    assert!((14_950..=15_050).contains(&title.duration_ms), "{}", title.duration_ms);
}

#[test]
fn odd_sides_turned_pictures_and_wide_pixels_come_out_right() {
    let of = |name: &str, words: &str| {
        let origin = Origin::new();
        let source = origin.folder.path().join(name);
        ffmpeg(words, &source);
        video(&published(&origin, &source))[0]
    };
    let pattern = |size: &str| format!("-f lavfi -i testsrc2=size={size}:rate=10:duration=1");
    let odd = of("odd.mkv", &format!("{} -c:v ffv1", pattern("163x91")));
    assert_eq!((odd.0, odd.1), (162, 90));
    let wide = of("wide.mkv", &format!("{} -vf setsar=64/45 -c:v libx264", pattern("180x144")));
    assert_eq!((wide.0, wide.1), (256, 144));

    let origin = Origin::new();
    let flat = origin.folder.path().join("flat.mp4");
    ffmpeg(&format!("{} -c:v libx264", pattern("160x90")), &flat);
    let turned = origin.folder.path().join("turned.mp4");
    ffmpeg(&format!("-i {} -c copy -metadata:s:v rotate=90", flat.display()), &turned);
    let probe =
        std::process::Command::new("ffprobe").args(["-v", "error", "-show_streams"]).arg(&turned).output();
    if !String::from_utf8_lossy(&probe.unwrap().stdout).contains("rotation=") {
        // ffmpeg 6 and later take the turn as an option of the input.
        ffmpeg(&format!("-display_rotation 90 -i {} -c copy", flat.display()), &turned);
    }
    let turned = video(&published(&origin, &turned))[0];
    assert_eq!((turned.0, turned.1), (90, 160));
}

#[test]
fn a_single_frame_is_a_title() {
    let origin = Origin::new();
    let source = origin.folder.path().join("one.mkv");
    ffmpeg("-f lavfi -i testsrc2=size=64x36:rate=25 -frames:v 1 -c:v libx264", &source);
    let title = published(&origin, &source);
    assert_eq!(title.duration_ms, 40);
    assert!(title.streams.iter().all(|stream| matches!(stream.kind, StreamKind::Video { .. })));
}

/// The encoder's priming is cut off again, and a picture that starts late takes its sound with it.
#[test]
fn a_sound_stays_with_its_picture() {
    let origin = Origin::new();
    let source = origin.folder.path().join("clap.mkv");
    // The picture starts at 0.5 s; a tone at 5.5 s, so 5 s into the title.
    let words = "-f lavfi -itsoffset 0.5 -i testsrc2=size=64x36:rate=10:duration=8 \
                 -f lavfi -i aevalsrc=0.5*sin(6283*t)*gte(t\\,5.5):s=44100:d=8.5 -c:v libx264 -c:a flac";
    ffmpeg(words, &source);
    let title = published(&origin, &source);
    let audio = title.streams.iter().find(|stream| matches!(stream.kind, StreamKind::Audio { .. })).unwrap();
    let mut decode = std::process::Command::new("ffmpeg");
    // What a player hears: every sample of every frame, the first at time 0.
    decode.args(["-v", "error", "-flags2", "+skip_manual", "-i"]).arg(origin.object(&audio.track));
    decode.args(["-ac", "1", "-f", "s16le", "pipe:1"]);
    let samples = decode.output().unwrap().stdout;
    let loud = |pair: &[u8]| i16::from_le_bytes([pair[0], pair[1]]).unsigned_abs() > 4_000;
    let onset = samples.chunks_exact(2).position(loud).unwrap();
    // 240,000 samples are 5 s; a frame of AAC is 1,024.
    assert!(onset.abs_diff(240_000) < 200, "the tone starts at sample {onset}");
    let length = samples.len() / 2;
    assert!(length.abs_diff(8 * 48_000) <= 1_024, "{length} samples");
}
