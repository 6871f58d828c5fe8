//! The operator's files beside the source: terms and subtitles, read and checked.

use std::path::{Path, PathBuf};

use content::title::Term;
use serde::Deserialize;

use crate::error::Error;
use crate::streams::SubtitleText;
use crate::webvtt::{self, Format};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsFile {
    #[serde(default)]
    term: Vec<Term>,
}

/// `[[term]]` tables: `territories = ["SE"]` or `["*"]`, `from`, and `until` if it ends.
pub fn read_terms(path: &Path) -> Result<Vec<Term>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Error::TermsUnreadable { path: path.to_owned(), cause })?;
    parse_terms(path, &text)
}

fn parse_terms(path: &Path, text: &str) -> Result<Vec<Term>, Error> {
    let file: TermsFile = toml::from_str(text)
        .map_err(|cause| Error::TermsInvalid { path: path.to_owned(), cause: Box::new(cause) })?;
    for (index, term) in file.term.iter().enumerate() {
        if let Some(what) = complaint(term) {
            return Err(Error::TermsInconsistent { path: path.to_owned(), index: index + 1, what });
        }
    }
    Ok(file.term)
}

fn complaint(term: &Term) -> Option<&'static str> {
    let is_territory = |code: &String| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    let world = term.territories == ["*"];
    if term.territories.is_empty() {
        Some("names no territory: [\"*\"] is the whole world")
    } else if !world && !term.territories.iter().all(is_territory) {
        Some("has a territory that is not two capital letters (ISO 3166-1), nor \"*\" alone")
    } else if term.until.is_some_and(|until| until <= term.from) {
        Some("ends before it begins")
    } else {
        None
    }
}

pub fn read_subtitles(files: &[(String, PathBuf)]) -> Result<Vec<SubtitleText>, Error> {
    files.iter().map(|(language, path)| read_one(language, path)).collect()
}

fn read_one(language: &str, path: &Path) -> Result<SubtitleText, Error> {
    let bytes =
        std::fs::read(path).map_err(|cause| Error::SubtitlesUnreadable { path: path.to_owned(), cause })?;
    // The signature tells, not the file's name: SubRip has none.
    let mark = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let named_vtt = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("vtt"));
    let format = if named_vtt || mark.starts_with(b"WEBVTT") { Format::WebVtt } else { Format::SubRip };
    let text = webvtt::normalise(&bytes, format)
        .map_err(|cause| Error::SubtitlesInvalid { path: path.to_owned(), cause })?;
    Ok(SubtitleText { language: language.to_owned(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_checked() {
        let of = |text: &str| parse_terms(Path::new("terms.toml"), text);
        let good = "[[term]]\nterritories = [\"SE\", \"NO\"]\nfrom = \"2026-01-01T00:00:00Z\"\n";
        assert_eq!(of(good).unwrap().len(), 1);
        assert_eq!(of("").unwrap().len(), 0);
        for bad in [
            good.replace("\"SE\"", "\"se\""),
            good.replace("\"SE\"", "\"*\""),
            good.replace("[\"SE\", \"NO\"]", "[]"),
            format!("{good}until = \"2025-01-01T00:00:00Z\"\n"),
        ] {
            assert!(matches!(of(&bad), Err(Error::TermsInconsistent { index: 1, .. })), "{bad}");
        }
        for bad in [format!("{good}till = 1\n"), good.replace("from", "form"), "[[term]".to_owned()] {
            let error = of(&bad).unwrap_err();
            assert!(error.to_string().contains("terms.toml"), "{error}");
            assert!(matches!(error, Error::TermsInvalid { .. }), "{bad}");
        }
    }
}
