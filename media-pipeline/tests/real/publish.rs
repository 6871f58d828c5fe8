//! A title is published whole, once, by whoever gets there, however often somebody is killed on the way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use content::id::{ByteSpan, ObjectId};
use content::title::{Stream, StreamKind};
use content::tree::TreeBuilder;
use media_pipeline::mp4::conformance::Conformance;

use crate::films::{BINARY, Origin, ffmpeg};

/// 24 s in three tracks of sound (English twice, one without a name) and two of text.
fn film(folder: &Path) -> PathBuf {
    let subtitles = folder.join("in.srt");
    std::fs::write(
        &subtitles,
        "1\n00:00:01,000 --> 00:00:02,000\nHej & hå\n\n2\n00:00:20,000 --> 00:00:23,000\nb\n",
    )
    .unwrap();
    let film = folder.join("film.mkv");
    let words = format!(
        "-f lavfi -i testsrc2=size=192x108:rate=12:duration=24 -f lavfi -i sine=f=300:duration=24 \
         -f lavfi -i sine=f=500:duration=20 -i {} -map 0 -map 1 -map 1 -map 2 -map 3 -map 3 -c:v libx264 -preset ultrafast \
         -c:a flac -c:s srt -metadata:s:a:0 language=eng -metadata:s:a:1 language=eng -metadata:s:s:0 language=swe \
         -metadata:s:s:1 language=swe",
        subtitles.display()
    );
    ffmpeg(&words, &film);
    film
}

#[test]
fn a_published_title_is_whole_and_publishing_again_changes_nothing() {
    let origin = Origin::new();
    let film = film(origin.folder.path());
    let first = origin.publish(&film, "--label-rungs");
    assert_eq!((first["outcome"].as_str(), first["chunks_encoded"].as_u64()), (Some("published"), Some(7)));
    let title = origin.title();
    let ids: Vec<_> = title.streams.iter().map(|stream| stream.id.to_string()).collect();
    assert_eq!(
        ids,
        [
            "video-avc-108p-100k",
            "video-avc-72p-50k",
            "audio-aac-en",
            "audio-aac-en-2",
            "audio-aac-und",
            "subtitles-sv",
            "subtitles-sv-2"
        ]
    );
    assert_eq!(title.duration_ms, 24_000);
    for stream in &title.streams {
        assert_stored(&origin, stream);
        assert_plays(&origin, stream);
    }
    let before = origin.files("");
    let again = origin.publish(&film, "--label-rungs");
    assert_eq!((again["outcome"].as_str(), again["chunks_encoded"].as_u64()), (Some("unchanged"), Some(0)));
    assert_eq!(origin.files(""), before);
    // Another name is another title.json over the same objects.
    let renamed = origin.publish(&film, "--label-rungs --name Renamed");
    assert_eq!(
        (renamed["outcome"].as_str(), renamed["chunks_encoded"].as_u64()),
        (Some("published"), Some(0))
    );
    assert_eq!(
        (origin.title().name.as_str(), origin.files("objects").len()),
        ("Renamed", title.objects().map(|(path, _)| path.object).collect::<BTreeSet<_>>().len() * 2)
    );
}

/// What the log of the control plane and of the agents calls the cure must be one.
#[test]
fn a_rotten_title_or_object_is_cured_by_publishing_again() {
    let origin = Origin::new();
    let film = film(origin.folder.path());
    origin.publish(&film, "");
    let (whole, title) = (origin.title_bytes(), origin.title());
    let path = origin.path().join("titles/film/title.json");
    let terms = origin.folder.path().join("terms.toml");
    std::fs::write(&terms, "[[term]]\nterritories = [\"SE\"]\nfrom = \"2026-01-01T00:00:00Z\"\n").unwrap();
    for byte in [10, whole.len() / 2, whole.len() - 20] {
        let mut rotten = whole.clone();
        rotten[byte] ^= 1;
        std::fs::write(&path, rotten).unwrap();
        let refused = origin.run(&film, "");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("--terms"), "byte {byte}: {said}");
        let again = origin.publish(&film, &format!("--terms {}", terms.display()));
        assert_eq!(
            (again["outcome"].as_str(), again["chunks_encoded"].as_u64()),
            (Some("published"), Some(0))
        );
        assert_eq!((origin.title().terms.len(), origin.title().streams == title.streams), (1, true));
    }
    // From before there were seals: believed once, and sealed.
    let bare = content::seal::unseal(&whole).unwrap();
    std::fs::write(&path, bare).unwrap();
    assert_eq!(origin.publish(&film, "")["outcome"].as_str(), Some("published"));
    assert_eq!(origin.title_bytes(), whole);
    // The cure of a rotten object: move it away, publish again.
    let object = origin.object(&title.streams[0].track);
    let good = std::fs::read(&object).unwrap();
    std::fs::remove_file(&object).unwrap();
    origin.publish(&film, "");
    assert_eq!(std::fs::read(&object).unwrap(), good);
}

/// Both objects are what they are named, and so are their trees.
fn assert_stored(origin: &Origin, stream: &Stream) {
    for object in [&stream.track, &stream.playlist] {
        let path = origin.object(object);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((ObjectId::of(&bytes), bytes.len() as u64), (object.object, object.bytes));
        let mut tree = TreeBuilder::new();
        tree.update(&bytes);
        assert_eq!(std::fs::read(path.with_extension("obao")).unwrap(), tree.finish().1);
    }
}

/// The playlist's ranges are the file's fragments, without a gap; ffmpeg decodes each track without a complaint.
fn assert_plays(origin: &Origin, stream: &Stream) {
    let playlist = std::fs::read_to_string(origin.object(&stream.playlist)).unwrap();
    let uri = format!("{}.{}", stream.track.object, stream.track.extension);
    let named: BTreeSet<_> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(named, BTreeSet::from([uri.as_str()]));
    let seconds: f64 = playlist
        .lines()
        .filter_map(|line| line.strip_prefix("#EXTINF:")?.strip_suffix(',')?.parse::<f64>().ok())
        .sum();
    assert!((seconds - 24.0).abs() < 0.03, "{seconds} s of {}", stream.id);
    if matches!(stream.kind, StreamKind::Subtitles { .. }) {
        let text = std::fs::read_to_string(origin.object(&stream.track)).unwrap();
        assert!(text.starts_with("WEBVTT\n") && text.contains("00:01.000 --> 00:00:02.000"), "{text}");
        return;
    }
    let (init, index) = (stream.init.unwrap(), stream.index.unwrap());
    assert_eq!((init.first(), index.first()), (0, init.last() + 1));
    let mut next = index.last() + 1;
    for span in ranges(&playlist) {
        assert_eq!(span.first(), next);
        next = span.last() + 1;
    }
    assert_eq!(next, stream.track.bytes);
    let track = origin.object(&stream.track);
    let mut decode = Command::new("ffmpeg");
    decode.args(["-v", "warning", "-nostdin", "-i"]).arg(&track).args(["-f", "null", "-"]);
    let output = decode.output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn ranges(playlist: &str) -> Vec<ByteSpan> {
    let parse = |line: &str| {
        let (count, offset) = line.strip_prefix("#EXT-X-BYTERANGE:")?.split_once('@')?;
        ByteSpan::from_offset(offset.parse().ok()?, count.parse().ok()?)
    };
    playlist.lines().filter_map(parse).collect()
}

#[test]
fn a_publish_killed_half_way_goes_on_from_its_chunks() {
    let (killed, whole) = (Origin::new(), Origin::new());
    let film = film(killed.folder.path());
    let all = whole.publish(&film, "--jobs 1")["chunks_encoded"].as_u64().unwrap();
    let mut child =
        killed.command(&film, "--jobs 1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // By name: what is being written is renamed under our hands.
    let finished = || -> u64 {
        let names = std::fs::read_dir(killed.path().join("chunks")).into_iter().flatten();
        let whole =
            names.filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().contains('#'));
        whole.count().try_into().unwrap()
    };
    wait_until(|| finished() >= 4);
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = finished();
    assert!((4..all).contains(&kept), "killed too late to show anything: {kept} of {all}");
    assert!(!killed.path().join("titles").exists(), "a title before it was whole");
    // What object_store leaves of a put that was cut off.
    let litter = killed.path().join("chunks").join(format!("{}#1", ObjectId::of(b"x")));
    std::fs::write(&litter, b"half").unwrap();

    let summary = killed.publish(&film, "--jobs 1");
    assert_eq!(summary["chunks_from_cache"].as_u64(), Some(kept));
    assert_eq!(summary["chunks_encoded"].as_u64(), Some(all - kept));
    assert_eq!(killed.title_bytes(), whole.title_bytes());
    assert_eq!(killed.files("objects"), whole.files("objects"));
    assert_eq!(killed.files("chunks"), whole.files("chunks"));
}

/// Looks every few milliseconds, for a minute at most.
fn wait_until(condition: impl Fn() -> bool) {
    let (_keep, never) = mpsc::channel::<()>();
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        assert!(never.recv_timeout(Duration::from_millis(5)).is_err());
    }
    panic!("it did not come to it within a minute");
}

#[test]
fn a_damaged_chunk_is_encoded_again() {
    let origin = Origin::new();
    let source = origin.folder.path().join("film.mkv");
    ffmpeg("-f lavfi -i testsrc2=size=96x54:rate=10:duration=3 -c:v libx264", &source);
    origin.publish(&source, "");
    let (objects, chunks) = (origin.files("objects"), origin.files("chunks"));
    let victim = origin.path().join(chunks.keys().next().unwrap());
    let mut bytes = std::fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    std::fs::remove_dir_all(origin.path().join("objects")).unwrap();
    let summary = origin.publish(&source, "");
    assert_eq!(
        (summary["chunks_encoded"].as_u64(), summary["chunks_from_cache"].as_u64()),
        (Some(1), Some(1))
    );
    assert_eq!((origin.files("objects"), origin.files("chunks")), (objects, chunks));
}

#[test]
fn two_publishers_at_once_make_one_title() {
    let origin = Origin::new();
    let source = origin.folder.path().join("film.mkv");
    ffmpeg("-f lavfi -i testsrc2=size=96x54:rate=10:duration=12 -c:v libx264", &source);
    let spawn =
        || origin.command(&source, "--jobs 1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children = [spawn(), spawn()];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let title = origin.title();
    for stream in &title.streams {
        assert_stored(&origin, stream);
    }
    assert!(origin.files("").keys().all(|name| !name.to_string_lossy().contains('#')));
}

#[test]
fn a_sample_has_what_it_promises() {
    let origin = Origin::new();
    let sample = origin.folder.path().join("sample.mkv");
    std::fs::create_dir(origin.folder.path().join("sample.mkv.work")).unwrap();
    let name = "Night's: 50% [x], \\o/";
    let make = || {
        let words = ["sample", "--seconds", "3", "--name", name, "--out"];
        let output = Command::new(BINARY).args(words).arg(&sample).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(&sample).unwrap()
    };
    assert_eq!(make(), make(), "the same sample twice");
    assert!(!origin.folder.path().join("sample.mkv.work").exists());
    origin.publish(&sample, "");
    let ids: Vec<_> = origin.title().streams.iter().map(|stream| stream.id.to_string()).collect();
    assert_eq!(
        ids,
        [
            "video-avc-540p-1200k",
            "video-avc-360p-600k",
            "audio-aac-en",
            "audio-aac-sv",
            "subtitles-en",
            "subtitles-sv"
        ]
    );
}

/// The conformance check on a real track with one byte changed: it never panics, and in the numbers that place
/// fragments it notices every change.
#[test]
fn a_changed_byte_in_index_or_time_is_noticed() {
    let origin = Origin::new();
    let source = origin.folder.path().join("film.mkv");
    ffmpeg("-f lavfi -i testsrc2=size=96x54:rate=10:duration=5 -c:v libx264", &source);
    origin.publish(&source, "");
    let stream = &origin.title().streams[0];
    let bytes = std::fs::read(origin.object(&stream.track)).unwrap();
    let playlist = std::fs::read_to_string(origin.object(&stream.playlist)).unwrap();
    let head_end = usize::try_from(stream.index.unwrap().last()).unwrap() + 1;
    let ranges = ranges(&playlist);
    let check = |bytes: &[u8]| {
        let mut check = Conformance::begin(&bytes[..head_end])?;
        for span in &ranges {
            check.fragment(
                &bytes[usize::try_from(span.first()).unwrap()..=usize::try_from(span.last()).unwrap()],
            )?;
        }
        check.finish()
    };
    let facts = check(&bytes).unwrap();
    assert_eq!((Some(facts.init_span), Some(facts.index_span)), (stream.init, stream.index));
    let moof = usize::try_from(ranges[1].first()).unwrap();
    let mdat = moof + bytes[moof..].windows(4).position(|w| w == b"mdat").unwrap() - 4;
    for place in (0..head_end).chain(moof..mdat + 8) {
        let mut changed = bytes.clone();
        changed[place] ^= 0x5a;
        let verdict = check(&changed);
        // The flags of `sidx` and its reserved field mean nothing.
        let index = usize::try_from(stream.index.unwrap().first()).unwrap();
        let reserved = place == index + 36 || place == index + 37 || (index + 9..index + 12).contains(&place);
        if place >= index && place < head_end && !reserved {
            assert!(verdict.is_err(), "byte {place} of the index changed unnoticed");
        }
        let in_time = (moof + 20..moof + 24).contains(&place) || is_tfdt(&bytes, moof, place);
        if in_time {
            assert!(verdict.is_err(), "byte {place} of a fragment's place changed unnoticed");
        }
    }
}

/// Whether the byte is of the decode time in this `moof`.
fn is_tfdt(bytes: &[u8], moof: usize, place: usize) -> bool {
    let tfdt = moof + bytes[moof..].windows(4).position(|w| w == b"tfdt").unwrap();
    (tfdt + 8..tfdt + 16).contains(&place)
}
