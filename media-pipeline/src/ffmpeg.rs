//! Runs ffmpeg and ffprobe. The only module that starts processes.
//!
//! A run writes its result to our end of a pipe and its complaints and progress to another. So nothing is left when
//! we are gone: dropped, a run is killed (`kill_on_drop`); killed ourselves, the pipe has no reader and the next write ends
//! it. Sources may be files only, never what a crafted file names elsewhere (`-protocol_whitelist`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::error::Error;
use crate::probe::{Micros, without_address};
use crate::recipe::Encoding;

/// Complaints kept of one run.
const COMPLAINTS_MAX: usize = 50;
const COMPLAINT_BYTES_MAX: usize = 400;
/// More than any chunk or audio track of ours.
const OUTPUT_BYTES_MAX: u64 = 2 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Ffmpeg,
    Ffprobe,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Ffmpeg => "ffmpeg",
            Self::Ffprobe => "ffprobe",
        }
    }
}

/// What ffmpeg says while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Frames encoded so far.
    Frames(u64),
    /// Output time reached.
    Time(Micros),
}

#[derive(Debug)]
pub struct Finished {
    pub success: bool,
    pub output: Vec<u8>,
    pub complaints: Vec<String>,
}

/// Makes ffmpeg tell how far it is, among its complaints.
pub const PROGRESS: [&str; 5] = ["-nostats", "-progress", "pipe:2", "-stats_period", "0.5"];

impl Finished {
    /// The output of a run of ffmpeg that succeeded.
    pub fn into_result(self, doing: &str) -> Result<Vec<u8>, Error> {
        if self.success {
            for complaint in &self.complaints {
                tracing::debug!(doing, "ffmpeg: {}", without_address(complaint));
            }
            return Ok(self.output);
        }
        if self.complaints.iter().any(|line| line.contains("Cannot find a valid font")) {
            return Err(Error::FontMissing);
        }
        Err(Error::ToolFailed { tool: "ffmpeg", doing: doing.to_owned(), detail: self.detail() })
    }

    /// The last complaints in one line.
    pub fn detail(&self) -> String {
        let from = self.complaints.len().saturating_sub(3);
        let tail: Vec<_> = self.complaints[from..].iter().map(|line| without_address(line)).collect();
        if tail.is_empty() { "it gave no reason".to_owned() } else { tail.join("; ") }
    }
}

/// ffmpeg with the output in memory. `doing` is for the error.
pub async fn encode(
    source: &Path,
    encoding: &Encoding,
    doing: &str,
    progress: impl FnMut(Progress),
) -> Result<Vec<u8>, Error> {
    let mut arguments: Vec<OsString> = PROGRESS.map(OsString::from).to_vec();
    arguments.extend(encoding.input.iter().map(OsString::from));
    arguments.extend(input(source));
    arguments.extend(encoding.output.iter().map(OsString::from));
    let finished = run(Tool::Ffmpeg, &arguments, doing, progress).await?;
    finished.into_result(doing)
}

/// `-i` and the source: a file and nothing else, whatever its name looks like.
pub fn input(source: &Path) -> [OsString; 4] {
    let mut url = OsString::from("file:");
    url.push(source);
    ["-protocol_whitelist".into(), "file,pipe".into(), "-i".into(), url]
}

/// Runs to the end, whatever the exit status.
pub async fn run(
    tool: Tool,
    arguments: &[OsString],
    doing: &str,
    progress: impl FnMut(Progress),
) -> Result<Finished, Error> {
    let mut child = start(tool, arguments)?;
    let failed = |cause| tool_failed(tool, doing, &cause);
    let stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let stderr = child.stderr.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let read_output = async {
        let mut output = Vec::new();
        let mut limited = stdout.take(OUTPUT_BYTES_MAX);
        limited.read_to_end(&mut output).await.map(|_| output)
    };
    let (output, complaints) = tokio::join!(read_output, read_messages(stderr, progress));
    let status = child.wait().await.map_err(failed)?;
    Ok(Finished { success: status.success(), output: output.map_err(failed)?, complaints })
}

/// Runs to the end and hands out each line of the output as it comes.
pub async fn run_lines(
    tool: Tool,
    arguments: &[OsString],
    doing: &str,
    mut on_line: impl FnMut(&str),
) -> Result<(ExitStatus, Vec<String>), Error> {
    let mut child = start(tool, arguments)?;
    let failed = |cause| tool_failed(tool, doing, &cause);
    let stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let stderr = child.stderr.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let read_lines = async {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).await? {
            on_line(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    };
    let (lines, complaints) = tokio::join!(read_lines, read_messages(stderr, |_| {}));
    lines.map_err(failed)?;
    Ok((child.wait().await.map_err(failed)?, complaints))
}

fn start(tool: Tool, arguments: &[OsString]) -> Result<Child, Error> {
    let mut command = Command::new(tool.name());
    command.args(["-v", "error", "-hide_banner"].map(OsStr::new));
    if tool == Tool::Ffmpeg {
        command.args(["-nostdin", "-y"]);
    }
    // A group of its own: Ctrl-C reaches us alone, and we end it.
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::ToolMissing { tool: tool.name(), package: "ffmpeg" },
        _ => tool_failed(tool, "being started", &cause),
    })
}

fn tool_failed(tool: Tool, doing: &str, cause: &io::Error) -> Error {
    Error::ToolFailed { tool: tool.name(), doing: doing.to_owned(), detail: cause.to_string() }
}

/// False at the end. A line is kept up to a limit.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let count = reader.read_until(b'\n', line).await?;
    line.truncate(COMPLAINT_BYTES_MAX);
    Ok(count > 0)
}

async fn read_messages(
    stderr: impl tokio::io::AsyncRead + Unpin,
    mut progress: impl FnMut(Progress),
) -> Vec<String> {
    let mut reader = BufReader::new(stderr);
    let mut complaints: Vec<String> = Vec::new();
    let mut line = Vec::new();
    // A pipe that cannot be read ends like one that is closed: the exit status tells the rest.
    while matches!(read_line(&mut reader, &mut line).await, Ok(true)) {
        let text = String::from_utf8_lossy(&line);
        match message(text.trim_end()) {
            Message::Progress(step) => progress(step),
            Message::Chatter => {}
            Message::Complaint(text) => {
                // The first say what is wrong, the last what came of it.
                if complaints.len() == COMPLAINTS_MAX {
                    complaints.remove(COMPLAINTS_MAX / 2);
                }
                complaints.push(text.to_owned());
            }
        }
    }
    complaints
}

#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    Progress(Progress),
    /// The other lines of a progress block.
    Chatter,
    Complaint(&'a str),
}

fn message(line: &str) -> Message<'_> {
    const CHATTER: [&str; 12] = [
        "fps",
        "bitrate",
        "total_size",
        "out_time",
        "out_time_ms",
        "dup_frames",
        "drop_frames",
        "speed",
        "progress",
        "frame",
        "out_time_us",
        "elapsed",
    ];
    let Some((key, value)) = line.split_once('=') else {
        return if line.is_empty() { Message::Chatter } else { Message::Complaint(line) };
    };
    match (key, value.trim().parse::<u64>()) {
        ("frame", Ok(frames)) => Message::Progress(Progress::Frames(frames)),
        ("out_time_us", Ok(micros)) => {
            Message::Progress(Progress::Time(i64::try_from(micros).unwrap_or(i64::MAX)))
        }
        _ if CHATTER.contains(&key) || key.starts_with("stream_") => Message::Chatter,
        _ => Message::Complaint(line),
    }
}

/// What decides the bytes beside the arguments: ffmpeg's own version and that of x264, which is a library apart.
pub async fn encoder_version() -> Result<String, Error> {
    let version = run(Tool::Ffmpeg, &["-version".into()], "being asked for its version", |_| {}).await?;
    let text = String::from_utf8_lossy(&version.output).into_owned();
    let words = text.lines().next().unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ");
    let probe =
        "-f lavfi -i color=black:size=32x32:rate=1:duration=1 -frames:v 1 -c:v libx264 -f h264 pipe:1";
    let arguments: Vec<_> = probe.split(' ').map(OsString::from).collect();
    let doing = "trying libx264";
    let sample = run(Tool::Ffmpeg, &arguments, doing, |_| {}).await?;
    let x264 = x264_version(&sample.output).ok_or_else(|| Error::ToolFailed {
        tool: "ffmpeg",
        doing: doing.to_owned(),
        detail: sample.detail(),
    })?;
    Ok(format!("{words}, {x264}"))
}

/// From the note that x264 leaves in its first picture: `x264 - core 164 r3095 baee400`.
fn x264_version(stream: &[u8]) -> Option<String> {
    let mark = b"x264 - core ";
    let start = stream.windows(mark.len()).position(|window| window == mark)?;
    let note = stream.get(start..)?;
    let end = note.windows(3).position(|window| window == b" - ").and_then(|first| {
        let after = note.get(first + 3..)?;
        after.windows(3).position(|window| window == b" - ").map(|second| first + 3 + second)
    })?;
    std::str::from_utf8(note.get(..end)?).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_complaints_are_told_apart() {
        assert_eq!(message("frame=  120"), Message::Progress(Progress::Frames(120)));
        assert_eq!(message("out_time_us=2000000"), Message::Progress(Progress::Time(2_000_000)));
        assert_eq!(message("out_time_us=N/A"), Message::Chatter);
        assert_eq!(message("stream_0_0_q=26.0"), Message::Chatter);
        assert_eq!(message("[mov] a=b"), Message::Complaint("[mov] a=b"));
    }

    #[test]
    fn the_encoder_is_named_by_the_note_it_leaves() {
        let stream = b"\0\0\0\x01\x06\x05xx264 - core 164 r3095 baee400 - H.264/MPEG-4 AVC codec - Copy";
        assert_eq!(x264_version(stream).as_deref(), Some("x264 - core 164 r3095 baee400"));
        assert_eq!(x264_version(b"nothing"), None);
    }
}
