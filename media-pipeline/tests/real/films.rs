//! What the tests of this package share: little films made by the real ffmpeg, and the real binary run on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use content::id::TitleId;
use content::title::Title;

pub const BINARY: &str = env!("CARGO_BIN_EXE_oca-media");

/// Runs ffmpeg with these words, then the paths; must succeed.
pub fn ffmpeg(words: &str, out: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(words.split_whitespace()).arg(out);
    let output = command.output().expect("ffmpeg is installed");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A film whose frame N has a grey of its own, so that a frame out of place is seen.
pub const GREYS: &str = "format=gray,geq=lum=32+mod(N*37\\,192)";

pub fn grey_of(frame: usize) -> f64 {
    f64::from(u32::try_from(32 + frame * 37 % 192).unwrap())
}

pub struct Origin {
    pub folder: tempfile::TempDir,
}

impl Origin {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// The origin itself: not there until something is published.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("origin")
    }

    pub fn command(&self, source: impl AsRef<OsStr>, words: &str) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["publish", "--title", "film", "--name", "Film", "--origin"]).arg(self.path());
        command.args(words.split_whitespace()).arg(source);
        command
    }

    pub fn run(&self, source: impl AsRef<OsStr>, words: &str) -> Output {
        self.command(source, words).output().unwrap()
    }

    /// Publishes; must succeed. The summary.
    pub fn publish(&self, source: impl AsRef<OsStr>, words: &str) -> serde_json::Value {
        let output = self.run(source, words);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn title_bytes(&self) -> Vec<u8> {
        std::fs::read(self.path().join("titles/film/title.json")).unwrap()
    }

    pub fn title(&self) -> Title {
        let title = Title::parse(&self.title_bytes()).unwrap();
        assert_eq!(title.title, "film".parse::<TitleId>().unwrap());
        title
    }

    pub fn object(&self, object: &content::title::ObjectRef) -> PathBuf {
        let name = object.object.to_string();
        self.path().join("objects").join(&name[..2]).join(format!("{name}.{}", object.extension))
    }

    /// Every file under a part of the origin, by name.
    pub fn files(&self, part: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path().join(part)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.path()).unwrap().to_owned();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        files
    }
}

/// The mean grey of each picture of a track file.
pub fn greys(track: &Path) -> Vec<f64> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(track);
    let filters = "scale=16:16:flags=area,format=gray";
    command.args(["-vf", filters, "-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
        .stdout
        .chunks(256)
        .map(|picture| picture.iter().map(|&p| f64::from(p)).sum::<f64>() / 256.0)
        .collect()
}

/// Fails unless each picture is the one of these source frames, in this order.
pub fn assert_frames(track: &Path, expected: impl ExactSizeIterator<Item = usize>) {
    let greys = greys(track);
    assert_eq!(greys.len(), expected.len(), "another number of frames");
    for (index, (grey, frame)) in greys.iter().zip(expected).enumerate() {
        let wanted = grey_of(frame);
        // Neighbours differ by 37; the codec by two or three.
        assert!(
            (grey - wanted).abs() < 10.0,
            "frame {index} shows {grey}, not {wanted} of source frame {frame}"
        );
    }
}
