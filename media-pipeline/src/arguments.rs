//! The command line. Pure: words in, a command out.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::error::Error;
use crate::language;
use crate::publish::Request;
use crate::sample::Sample;

pub const HELP: &str = "\
oca-media: from a film file to objects in an origin

oca-media publish --origin DIR --title SLUG --name NAME [options] SOURCE
  --origin DIR             the origin folder, made if missing
  --title SLUG             what the title is called in addresses: a-z, 0-9 and -
  --name NAME              what it is called for people
  --terms FILE.toml        where and when it may be watched:
                           [[term]] territories=[\"*\"] from=\"2026-01-01T00:00:00Z\" until=\"...\"
  --subtitles LANG=FILE    a WebVTT or SubRip file; may be given again
  --jobs N                 encoders at once (default: one per core)
  --label-rungs            draw each rung's name into its picture (test material)

oca-media sample --out FILE.mkv --name NAME [options]
  --seconds N              how long (default 40)
  --language LANG          a language to give sound and subtitles; may be given again (default en and sv)

Exit status: 0 done, 2 refused (the reason is on stderr), 1 a failure of this machine.
OCA_LOG=debug tells more.
";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Help,
    Publish(Request),
    Sample(Sample),
}

/// `words` are without the program's name; `cores` is the default number of encoders.
pub fn parse(words: impl IntoIterator<Item = OsString>, cores: usize) -> Result<Command, Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let parsed = match parser.next() {
        Ok(Some(Value(command))) if command == "publish" => publish(&mut parser, cores),
        Ok(Some(Value(command))) if command == "sample" => sample(&mut parser),
        Ok(Some(Long("help") | Short('h'))) => return Ok(Command::Help),
        Ok(Some(other)) => Err(other.unexpected()),
        Ok(None) => Err("a command is missing: publish or sample".into()),
        Err(error) => Err(error),
    };
    parsed.map_err(|error| Error::Arguments(error.to_string()))
}

fn publish(parser: &mut lexopt::Parser, cores: usize) -> Result<Command, lexopt::Error> {
    let (mut origin, mut title, mut name, mut source) = (None, None, None, None);
    let (mut terms, mut subtitles, mut jobs, mut label_rungs) = (None, Vec::new(), cores.max(1), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("origin") => origin = Some(PathBuf::from(parser.value()?)),
            Long("title") => title = Some(parser.value()?.parse()?),
            Long("name") => name = Some(name_of(parser.value()?.string()?)?),
            Long("terms") => terms = Some(PathBuf::from(parser.value()?)),
            Long("subtitles") => subtitles.push(subtitle(&parser.value()?.string()?)?),
            Long("jobs") => jobs = parser.value()?.parse::<std::num::NonZero<u16>>()?.get().into(),
            Long("label-rungs") => label_rungs = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Value(path) if source.is_none() => source = Some(PathBuf::from(path)),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Publish(Request {
        origin: origin.ok_or("publish needs --origin DIR")?,
        title: title.ok_or("publish needs --title SLUG")?,
        name: name.ok_or("publish needs --name NAME")?,
        source: source.ok_or("publish needs a SOURCE file")?,
        terms,
        subtitles,
        jobs,
        label_rungs,
    }))
}

fn sample(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut out, mut name, mut seconds, mut languages) = (None, None, 40_u32, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("out") => out = Some(PathBuf::from(parser.value()?)),
            Long("name") => name = Some(name_of(parser.value()?.string()?)?),
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("language") => languages.push(language_of(&parser.value()?.string()?)?),
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    let out: PathBuf = out.ok_or("sample needs --out FILE.mkv")?;
    if out.extension().is_none_or(|extension| extension != "mkv") {
        return Err("--out: the sample is a Matroska file, its name must end in .mkv".into());
    }
    if !(1..=3_600).contains(&seconds) {
        return Err("--seconds must be from 1 to 3600".into());
    }
    if languages.is_empty() {
        languages = vec!["en".to_owned(), "sv".to_owned()];
    }
    if languages.len() > 8 {
        return Err("--language may be given 8 times at most".into());
    }
    Ok(Command::Sample(Sample { out, name: name.ok_or("sample needs --name NAME")?, seconds, languages }))
}

fn name_of(text: String) -> Result<String, lexopt::Error> {
    let length = text.chars().count();
    if text.trim().is_empty() || length > 200 || text.chars().any(char::is_control) {
        return Err("--name must have 1 to 200 characters, none of them a control character".into());
    }
    Ok(text)
}

fn language_of(text: &str) -> Result<String, lexopt::Error> {
    language::parse(text).ok_or_else(|| format!("{text:?} is no language tag (BCP 47: en, sv, pt-BR)").into())
}

fn subtitle(text: &str) -> Result<(String, PathBuf), lexopt::Error> {
    let (language, path) = text.split_once('=').ok_or("--subtitles must be of the form LANG=FILE")?;
    Ok((language_of(language)?, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Command, Error> {
        parse(line.split_whitespace().map(OsString::from), 4)
    }

    #[test]
    fn a_whole_publish_line_is_understood() {
        let line = "publish --origin o --title night-train --name Night --subtitles swe=s.srt --jobs 3 --label-rungs x.mkv";
        let Command::Publish(request) = of(line).unwrap() else { panic!("not a publish") };
        assert_eq!(request.subtitles, [("sv".to_owned(), PathBuf::from("s.srt"))]);
        assert_eq!((request.jobs, request.label_rungs, request.source), (3, true, "x.mkv".into()));
    }

    #[test]
    fn a_sample_has_two_languages_unless_told_otherwise() {
        let Command::Sample(sample) = of("sample --out a.mkv --name A").unwrap() else {
            panic!("not a sample")
        };
        assert_eq!((sample.seconds, sample.languages), (40, vec!["en".to_owned(), "sv".to_owned()]));
    }

    #[test]
    fn a_wrong_line_is_refused_with_the_word_that_is_wrong() {
        for (line, word) in [
            ("", "command"),
            ("enrich", "enrich"),
            ("publish --origin o --title t --name n", "SOURCE"),
            ("publish --origin o --title Night --name n x", "slug"),
            ("publish --origin o --title t --name n --jobs 0 x", "0"),
            ("publish --origin o --title t --name n --subtitles x.vtt x", "LANG=FILE"),
            ("publish --origin o --title t --name n x y", "y"),
            ("publish --quality 3", "quality"),
            ("sample --out a.mp4 --name A", ".mkv"),
            ("sample --out a.mkv --name A --seconds 0", "seconds"),
        ] {
            let error = of(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
