//! Every bad source is refused with its own words, and leaves nothing in the origin.

use std::path::Path;
use std::process::Command;

use crate::films::{BINARY, Origin, ffmpeg};

const FILM: &str = "-f lavfi -i testsrc2=size=160x90:rate=12:duration=8 -f lavfi -i sine=duration=8 -c:v libx264 \
                    -preset ultrafast -g 24 -c:a aac";

fn assert_refused(origin: &Origin, source: &Path, words: &str) {
    let output = origin.run(source, "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{}: {stderr}", source.display());
    assert!(stderr.contains(words), "{}: {stderr:?} does not say {words:?}", source.display());
    assert!(stderr.contains(source.to_str().unwrap()), "{stderr:?} does not name the file");
    assert!(output.stdout.is_empty());
    assert!(!origin.path().exists(), "{} left something behind", source.display());
}

fn cut(from: &Path, to: &Path, percent: usize) {
    let bytes = std::fs::read(from).unwrap();
    std::fs::write(to, &bytes[..bytes.len() * percent / 100]).unwrap();
}

#[test]
fn what_is_no_file_of_media_is_refused() {
    let origin = Origin::new();
    let folder = origin.folder.path();
    let at = |name: &str| folder.join(name);
    assert_refused(&origin, &at("nowhere.mkv"), "does not exist");
    assert_refused(&origin, folder, "is a directory");
    std::fs::write(at("empty.mkv"), b"").unwrap();
    assert_refused(&origin, &at("empty.mkv"), "is empty");
    std::fs::write(at("letter.mkv"), "Dear reader,\nthis is no film.\n".repeat(500)).unwrap();
    assert_refused(&origin, &at("letter.mkv"), "no film file");
    ffmpeg("-f lavfi -i testsrc2=size=64x36 -frames:v 1", &at("picture.png"));
    assert_refused(&origin, &at("picture.png"), "not a film's");
    // A playlist could make ffmpeg read any file of the machine.
    std::fs::write(at("list.m3u8"), "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n/etc/hostname\n").unwrap();
    assert_refused(&origin, &at("list.m3u8"), "no film file");
    assert!(Command::new("mkfifo").arg(at("pipe.mkv")).status().unwrap().success());
    assert_refused(&origin, &at("pipe.mkv"), "neither a file");
}

#[test]
fn a_file_without_a_picture_is_refused() {
    let origin = Origin::new();
    let sound = origin.folder.path().join("sound.mka");
    ffmpeg("-f lavfi -i sine=duration=2 -c:a flac -f matroska", &sound);
    assert_refused(&origin, &sound, "no video track: it has audio");
    let cover = origin.folder.path().join("cover.mp4");
    let words = "-f lavfi -i sine=duration=2 -f lavfi -i testsrc2=size=64x36 -frames:v 1 -c:a aac -c:v png \
                 -disposition:v attached_pic";
    ffmpeg(words, &cover);
    assert_refused(&origin, &cover, "no video track");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_is_cut() {
    let origin = Origin::new();
    let at = |name: &str| origin.folder.path().join(name);
    ffmpeg(FILM, &at("whole.mkv"));
    let whole = at("whole.mkv");
    for (name, options) in [("end.mp4", ""), ("front.mp4", "-movflags +faststart")] {
        ffmpeg(&format!("-i {} -c copy {options}", whole.display()), &at(name));
    }
    for percent in [40, 98] {
        for name in ["whole.mkv", "end.mp4", "front.mp4"] {
            cut(&at(name), &at(&format!("cut-{percent}-{name}")), percent);
            assert_refused(&origin, &at(&format!("cut-{percent}-{name}")), "is truncated");
        }
    }
    // The very same files, whole, are taken.
    for name in ["whole.mkv", "end.mp4", "front.mp4"] {
        origin.publish(at(name), "");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    let origin = Origin::new();
    let folder = origin.folder.path();
    let source = folder.join("secret.mkv");
    std::fs::write(&source, b"x").unwrap();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&source, 0o000);
    // Root may read anything: the test then runs the binary as nobody, who must reach a copy of it.
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let binary = folder.join("oca-media");
    std::fs::copy(BINARY, &binary).unwrap();
    mode(folder, 0o755);
    let mut command = if root { Command::new("setpriv") } else { Command::new(&binary) };
    if root {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    }
    command
        .args(["publish", "--title", "film", "--name", "Film", "--origin"])
        .arg(origin.path())
        .arg(&source);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("may not be read by this user"), "{stderr}");
    assert!(!origin.path().exists());
}

#[test]
fn bad_terms_and_subtitles_are_refused_by_name() {
    let origin = Origin::new();
    let at = |name: &str| origin.folder.path().join(name);
    ffmpeg("-f lavfi -i testsrc2=size=64x36:rate=5:duration=1 -c:v libx264", &at("film.mkv"));
    std::fs::write(
        at("terms.toml"),
        "[[term]]\nterritories = [\"Sweden\"]\nfrom = \"2026-01-01T00:00:00Z\"\n",
    )
    .unwrap();
    std::fs::write(at("bad.srt"), "1\n00:00:09,000 --> 00:00:01,000\nx\n").unwrap();
    for (words, named) in [
        (format!("--terms {}", at("terms.toml").display()), "terms.toml"),
        (format!("--terms {}", at("none.toml").display()), "none.toml"),
        (format!("--subtitles en={}", at("bad.srt").display()), "line 2"),
        (format!("--subtitles en={}", at("none.srt").display()), "none.srt"),
    ] {
        let output = origin.run(at("film.mkv"), &words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(named), "{stderr}");
        assert!(!origin.path().exists());
    }
}
