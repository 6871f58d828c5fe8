//! A film for trying things out: a moving picture with its name and a running time code, a sound of its own for each language,
//! and subtitles in each.
//!
//! The work is done in a folder beside the result, `FILE.work`; one that a killed run left is emptied at the next start.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::ffmpeg::{self, Progress, Tool};
use crate::progress::{Board, percent};
use crate::recipe::escape;
use crate::webvtt;

const SIZE: (u32, u32) = (960, 540);
const FRAMES_PER_SECOND: u32 = 24;
const CUE_EVERY_S: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub out: PathBuf,
    pub name: String,
    pub seconds: u32,
    /// BCP 47; each gets a sound and subtitles.
    pub languages: Vec<String>,
}

pub async fn make(sample: &Sample, board: &Board) -> Result<(), Error> {
    let mut work = sample.out.clone().into_os_string();
    work.push(".work");
    let work = PathBuf::from(work);
    let io = |path: &Path, doing| {
        let path = path.to_owned();
        move |cause| Error::Io { path, doing, cause }
    };
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(io(&work, "emptied"))?;
    }
    std::fs::create_dir_all(&work).map_err(io(&work, "created"))?;
    let made = make_in(&work, sample, board).await;
    let placed = made.and_then(|film| std::fs::rename(film, &sample.out).map_err(io(&sample.out, "written")));
    std::fs::remove_dir_all(&work).map_err(io(&work, "removed"))?;
    placed
}

async fn make_in(work: &Path, sample: &Sample, board: &Board) -> Result<PathBuf, Error> {
    let mut subtitles = Vec::new();
    for (index, language) in sample.languages.iter().enumerate() {
        let path = work.join(format!("{index}.vtt"));
        let text = cues(sample, language);
        std::fs::write(&path, text).map_err(|cause| Error::Io {
            path: path.clone(),
            doing: "written",
            cause,
        })?;
        subtitles.push(path);
    }
    let film = work.join("film.mkv");
    let arguments = arguments(sample, &subtitles, &film);
    let all = u64::from(sample.seconds) * u64::from(FRAMES_PER_SECOND);
    let doing = "making a sample";
    let finished = ffmpeg::run(Tool::Ffmpeg, &arguments, doing, |step| {
        if let Progress::Frames(frames) = step {
            board.step(|| format!("making {}: {}", sample.name, percent(frames, all)));
        }
    })
    .await?;
    finished.into_result(doing).map(|_| film)
}

fn arguments(sample: &Sample, subtitles: &[PathBuf], film: &Path) -> Vec<OsString> {
    let mut list: Vec<OsString> = ffmpeg::PROGRESS.map(OsString::from).to_vec();
    let mut add = |words: &[&str]| list.extend(words.iter().map(OsString::from));
    add(&["-f", "lavfi", "-i", &picture(sample)]);
    for index in 0..sample.languages.len() {
        add(&["-f", "lavfi", "-i", &sound(sample, index)]);
    }
    for path in subtitles {
        list.extend(["-f", "webvtt", "-i"].map(OsString::from));
        list.push(path.into());
    }
    let mut add = |words: &[&str]| list.extend(words.iter().map(OsString::from));
    for input in 0..=sample.languages.len() + subtitles.len() {
        add(&["-map", &input.to_string()]);
    }
    for (index, language) in sample.languages.iter().enumerate() {
        for kind in ["a", "s"] {
            add(&[&format!("-metadata:s:{kind}:{index}"), &format!("language={language}")]);
        }
    }
    add(&["-c:v", "libx264", "-preset", "ultrafast", "-crf", "14", "-g", "48", "-pix_fmt", "yuv420p"]);
    add(&["-c:a", "flac", "-c:s", "srt", "-fflags", "+bitexact", "-flags", "+bitexact", "-f", "matroska"]);
    list.push(film.into());
    list
}

/// A test pattern in colours of the name's own, the name, and the time.
fn picture(sample: &Sample) -> String {
    let hue = sample.name.bytes().fold(0_u32, |hue, byte| (hue * 31 + u32::from(byte)) % 360);
    let (width, height) = SIZE;
    let letters = u32::try_from(sample.name.chars().count()).unwrap_or(200).max(1);
    let size = (width * 3 / 2 / letters).clamp(16, 88);
    let style = "font=Sans:fontcolor=white:box=1:boxcolor=black@0.55";
    format!(
        "testsrc2=size={width}x{height}:rate={FRAMES_PER_SECOND}:duration={seconds},hue=h={hue},\
         drawtext={style}:boxborderw=14:fontsize={size}:x=(w-tw)/2:y=h/3-th/2:expansion=none:text={name},\
         drawtext={style}:boxborderw=10:fontsize=56:x=(w-tw)/2:y=h*2/3:text={time}",
        seconds = sample.seconds,
        name = escape(&sample.name),
        time = escape("%{pts:hms}"),
    )
}

/// Each language another pitch, another beat: told apart at once.
fn sound(sample: &Sample, index: usize) -> String {
    let index = u32::try_from(index).unwrap_or(0);
    let (pitch, beat) = (220 + 165 * index, 1 + 2 * index);
    let seconds = sample.seconds;
    format!(
        "sine=frequency={pitch}:beep_factor=3:sample_rate=48000:duration={seconds},tremolo=f={beat}:d=0.8"
    )
}

fn cues(sample: &Sample, language: &str) -> String {
    let word = match language.split('-').next().unwrap_or_default() {
        "en" => "second",
        "sv" => "sekund",
        "de" => "Sekunde",
        "fr" => "seconde",
        "es" => "segundo",
        "nl" => "seconde",
        _ => "s",
    };
    let name = sample.name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let end = u64::from(sample.seconds);
    let starts = (0..end).step_by(usize::try_from(CUE_EVERY_S).unwrap_or(2));
    let cue = |start: u64| {
        let until = (start + CUE_EVERY_S).min(end) * 1_000 - 100;
        format!(
            "\n{} --> {}\n[{language}] {name}: {word} {start}\n",
            webvtt::time(start * 1_000),
            webvtt::time(until)
        )
    };
    std::iter::once("WEBVTT\n".to_owned()).chain(starts.map(cue)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cues_reach_from_the_first_second_to_the_last() {
        let sample =
            Sample { out: "x.mkv".into(), name: "A <b>".to_owned(), seconds: 5, languages: Vec::new() };
        let text = webvtt::normalise(cues(&sample, "sv").as_bytes(), webvtt::Format::WebVtt).unwrap();
        assert!(text.contains("00:00:00.000 --> 00:00:01.900\n[sv] A &lt;b&gt;: sekund 0\n"), "{text}");
        assert!(text.ends_with("00:00:04.000 --> 00:00:04.900\n[sv] A &lt;b&gt;: sekund 4\n"), "{text}");
    }
}
