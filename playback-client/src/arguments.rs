//! The command line, read into what to do. Pure: it is given the words and the clock's session name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use content::id::{SessionId, Tier};
use content::play::{Device, PlayRequest};

use crate::address::Address;
use crate::play::Settings;
use crate::schedule::Pace;
use crate::selection::Subtitles;

pub const HELP: &str = "\
oca-play: a player without a screen

  oca-play play --control URL --title SLUG [options]
      Plays a title to its end and says what a viewer would have felt.
      --control URL        the control plane, http://127.0.0.1:8000
      --title SLUG         what to play
      --member NAME        who plays (default: oca-play)
      --plan sd|hd|uhd     what the member's plan may watch (default: hd)
      --territory CC       where the member is, ISO 3166-1 alpha-2 (default: SE)
      --language TAG       audio, BCP 47 (default: the title's own default)
      --subtitles TAG      all, none, or a language (default: all)
      --height-max LINES   the largest picture the device shows (default: 1080)
      --session NAME       a name for the play (default: one that is new)
      --buffer-s N         how far ahead to fetch, s (default: 20)
      --flat-out           fetch as fast as it comes, ignore the clock
      --limit-s N          play only the first N seconds of the title
      --stall-max-ms N     exit 3 if the picture froze for longer than this
      --json FILE          write the report as JSON
      --fragments FILE     write the list of fragments with their SHA-256

  oca-play verify --origin DIR --fragments FILE [--complete TITLE_JSON]
      Compares each fragment of such a list with the origin's bytes; with --complete
      also asks that no segment of the video and of each played audio is missing.

exit: 0 all arrived (verify: all equal) · 1 it did not · 2 bad arguments · 3 stalled too long
";

#[derive(Debug)]
pub enum Command {
    Help,
    Play(Box<PlayCommand>),
    Verify { origin: PathBuf, fragments: PathBuf, complete: Option<PathBuf> },
}

#[derive(Debug)]
pub struct PlayCommand {
    pub control: Address,
    pub request: PlayRequest,
    pub settings: Settings,
    pub stall_max: Option<Duration>,
    pub json: Option<PathBuf>,
    pub fragments: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    #[error("say what to do: play or verify (oca-play --help)")]
    NoCommand,
    #[error("unknown command {0:?}; there are play and verify (oca-play --help)")]
    UnknownCommand(String),
    #[error("{command} needs {option} (oca-play --help)")]
    Missing { command: &'static str, option: &'static str },
    #[error("{option}: {reason}")]
    Invalid { option: &'static str, reason: String },
    #[error("{0} (oca-play --help)")]
    Syntax(#[from] lexopt::Error),
}

/// `session_name` is used when the line names none.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    session_name: &str,
) -> Result<Command, ArgumentError> {
    let mut parser = lexopt::Parser::from_args(words);
    match parser.next()? {
        Some(lexopt::Arg::Long("help") | lexopt::Arg::Short('h')) => Ok(Command::Help),
        Some(lexopt::Arg::Value(word)) if word == "play" => parse_play(parser, session_name),
        Some(lexopt::Arg::Value(word)) if word == "verify" => parse_verify(parser),
        Some(lexopt::Arg::Value(word)) => {
            Err(ArgumentError::UnknownCommand(word.to_string_lossy().into_owned()))
        }
        Some(other) => Err(other.unexpected().into()),
        None => Err(ArgumentError::NoCommand),
    }
}

/// The options of `play` as they stand on the line.
#[derive(Default)]
struct PlayWords {
    control: Option<String>,
    title: Option<String>,
    member: Option<String>,
    plan: Option<String>,
    territory: Option<String>,
    language: Option<String>,
    subtitles: Option<String>,
    height_max: Option<String>,
    session: Option<String>,
    buffer_s: Option<String>,
    flat_out: bool,
    limit_s: Option<String>,
    stall_max_ms: Option<String>,
    json: Option<PathBuf>,
    fragments: Option<PathBuf>,
}

fn parse_play(mut parser: lexopt::Parser, session_name: &str) -> Result<Command, ArgumentError> {
    let mut words = PlayWords::default();
    while let Some(argument) = parser.next()? {
        let slot = match argument {
            lexopt::Arg::Long("help") => return Ok(Command::Help),
            lexopt::Arg::Long("flat-out") => {
                words.flat_out = true;
                continue;
            }
            lexopt::Arg::Long("json") => {
                words.json = Some(parser.value()?.into());
                continue;
            }
            lexopt::Arg::Long("fragments") => {
                words.fragments = Some(parser.value()?.into());
                continue;
            }
            lexopt::Arg::Long("control") => &mut words.control,
            lexopt::Arg::Long("title") => &mut words.title,
            lexopt::Arg::Long("member") => &mut words.member,
            lexopt::Arg::Long("plan") => &mut words.plan,
            lexopt::Arg::Long("territory") => &mut words.territory,
            lexopt::Arg::Long("language") => &mut words.language,
            lexopt::Arg::Long("subtitles") => &mut words.subtitles,
            lexopt::Arg::Long("height-max") => &mut words.height_max,
            lexopt::Arg::Long("session") => &mut words.session,
            lexopt::Arg::Long("buffer-s") => &mut words.buffer_s,
            lexopt::Arg::Long("limit-s") => &mut words.limit_s,
            lexopt::Arg::Long("stall-max-ms") => &mut words.stall_max_ms,
            other => return Err(other.unexpected().into()),
        };
        *slot = Some(lexopt::ValueExt::string(parser.value()?)?);
    }
    words.command(session_name)
}

impl PlayWords {
    fn command(self, session_name: &str) -> Result<Command, ArgumentError> {
        let missing = |option| ArgumentError::Missing { command: "play", option };
        let control: String = self.control.ok_or_else(|| missing("--control URL"))?;
        let title = self.title.ok_or_else(|| missing("--title SLUG"))?;
        let session = self.session.unwrap_or_else(|| session_name.to_owned());
        let session: SessionId = session.parse().map_err(|_| ArgumentError::Invalid {
            option: "--session",
            reason: "1 to 64 of A-Z a-z 0-9 - _".to_owned(),
        })?;
        let request = PlayRequest {
            title: valid("--title", &title)?,
            session,
            member: self.member.unwrap_or_else(|| "oca-play".to_owned()),
            plan: self.plan.map_or(Ok(Tier::Hd), |plan| valid("--plan", &plan))?,
            territory: territory(self.territory)?,
            device: Device {
                height_max: self.height_max.map_or(Ok(1_080), |lines| valid("--height-max", &lines))?,
                codecs: ["avc1", "mp4a"].map(str::to_owned).to_vec(),
            },
            languages: self.language.clone().into_iter().collect(),
            address: None,
            explain: true,
        };
        let mut settings = Settings { language: self.language, ..Settings::default() };
        if let Some(buffer_target) = whole_seconds("--buffer-s", self.buffer_s)? {
            (settings.buffer_target, settings.pace) = (buffer_target, Pace::Playing { buffer_target });
        }
        if self.flat_out {
            settings.pace = Pace::FlatOut;
        }
        settings.media_limit = whole_seconds("--limit-s", self.limit_s)?;
        settings.subtitles = match self.subtitles.as_deref() {
            None | Some("all") => Subtitles::All,
            Some("none") => Subtitles::None,
            Some(language) => Subtitles::Language(language.to_owned()),
        };
        let stall_max = self.stall_max_ms.map(|limit| valid("--stall-max-ms", &limit)).transpose()?;
        Ok(Command::Play(Box::new(PlayCommand {
            control: valid("--control", &control)?,
            request,
            settings,
            stall_max: stall_max.map(Duration::from_millis),
            json: self.json,
            fragments: self.fragments,
        })))
    }
}

fn parse_verify(mut parser: lexopt::Parser) -> Result<Command, ArgumentError> {
    let (mut origin, mut fragments, mut complete) = (None, None, None);
    while let Some(argument) = parser.next()? {
        let slot = match argument {
            lexopt::Arg::Long("help") => return Ok(Command::Help),
            lexopt::Arg::Long("origin") => &mut origin,
            lexopt::Arg::Long("fragments") => &mut fragments,
            lexopt::Arg::Long("complete") => &mut complete,
            other => return Err(other.unexpected().into()),
        };
        *slot = Some(PathBuf::from(parser.value()?));
    }
    let missing = |option| ArgumentError::Missing { command: "verify", option };
    Ok(Command::Verify {
        origin: origin.ok_or_else(|| missing("--origin DIR"))?,
        fragments: fragments.ok_or_else(|| missing("--fragments FILE"))?,
        complete,
    })
}

fn valid<T: std::str::FromStr>(option: &'static str, text: &str) -> Result<T, ArgumentError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| ArgumentError::Invalid { option, reason: error.to_string() })
}

/// ISO 3166-1 alpha-2, in upper case as the terms are.
fn territory(text: Option<String>) -> Result<String, ArgumentError> {
    let text = text.unwrap_or_else(|| "SE".to_owned());
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Ok(text.to_ascii_uppercase());
    }
    Err(ArgumentError::Invalid { option: "--territory", reason: format!("{text:?} is not two letters") })
}

fn whole_seconds(option: &'static str, text: Option<String>) -> Result<Option<Duration>, ArgumentError> {
    let Some(text) = text else { return Ok(None) };
    match valid::<u64>(option, &text)? {
        count @ 1..=86_400 => Ok(Some(Duration::from_secs(count))),
        count => Err(ArgumentError::Invalid { option, reason: format!("{count} is not within 1 and 86400") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, ArgumentError> {
        parse(line.split_whitespace().map(OsString::from), "fresh")
    }

    #[test]
    fn a_play_line_is_read_with_its_defaults() {
        let Command::Play(play) =
            read("play --control http://127.0.0.1:8000 --title night-train --limit-s=9").unwrap()
        else {
            panic!("not a play")
        };
        assert_eq!((play.request.session.as_str(), play.request.plan), ("fresh", Tier::Hd));
        assert_eq!(play.settings.pace, Pace::Playing { buffer_target: Duration::from_secs(20) });
        assert_eq!(play.settings.media_limit, Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_bad_line_is_refused_with_the_option_that_is_wrong() {
        let good = "play --control http://127.0.0.1:8000 --title night-train";
        for (line, named) in [
            ("", "play or verify"),
            ("stop", "stop"),
            ("play --title x", "--control"),
            ("play --control http://127.0.0.1:8000", "--title"),
            (&format!("{good} --plan gold"), "--plan"),
            (&format!("{good} --plan"), "--plan"),
            (&format!("{good} --territory Sweden"), "--territory"),
            (&format!("{good} --limit-s 0"), "--limit-s"),
            (&format!("{good} --stall-max-ms -1"), "--stall-max-ms"),
            (&format!("{good} --session a/b"), "--session"),
            (&format!("{good} --louder"), "--louder"),
            ("play --control https://h --title x", "--control"),
            ("play --control http://h --title X", "--title"),
            ("verify --origin d", "--fragments"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line:?}: {error}");
        }
    }
}
