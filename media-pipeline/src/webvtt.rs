//! Subtitles as text: WebVTT read and checked (W3C WebVTT §4), SubRip turned into it. Pure.
//!
//! Not a renderer: settings, styles and tags inside cues are passed through as they are.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VttError {
    #[error("it is not UTF-8: convert it (iconv -t UTF-8)")]
    NotUtf8,
    #[error("it does not start with the line WEBVTT")]
    NoSignature,
    #[error("line {line}: {what}")]
    Cue { line: usize, what: &'static str },
    #[error("it has no cues")]
    NoCues,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    WebVtt,
    SubRip,
}

const ARROW: &str = "-->";

/// The canonical form: UTF-8 without a mark, `\n` line ends, every cue's times checked.
pub fn normalise(bytes: &[u8], format: Format) -> Result<String, VttError> {
    let text = std::str::from_utf8(bytes).map_err(|_| VttError::NotUtf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    match format {
        Format::WebVtt => checked(&text),
        Format::SubRip => checked(&from_subrip(&text)?),
    }
}

/// Moves every cue by so many milliseconds; what then ends at or before zero is left out.
pub fn shifted(text: &str, by_ms: i64) -> Result<String, VttError> {
    let mut out = String::with_capacity(text.len());
    for block in text.split_inclusive("\n\n") {
        match block.lines().enumerate().find(|(_, line)| line.contains(ARROW)) {
            None => out.push_str(block),
            Some((line, timing)) => {
                let (start, end, settings) = parse_timing(timing, line + 1)?;
                let moved = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_add(by_ms);
                let (start, Ok(end)) = (u64::try_from(moved(start)).unwrap_or(0), u64::try_from(moved(end)))
                else {
                    continue;
                };
                if end > start {
                    out.push_str(&block.replacen(timing, &timing_line(start, end, settings), 1));
                }
            }
        }
    }
    Ok(out)
}

fn checked(text: &str) -> Result<String, VttError> {
    let first = text.lines().next().unwrap_or_default();
    let rest = first.strip_prefix("WEBVTT").ok_or(VttError::NoSignature)?;
    if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return Err(VttError::NoSignature);
    }
    let mut cues = 0_usize;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.contains(ARROW)) {
        parse_timing(line, index + 1)?;
        cues += 1;
    }
    if cues == 0 {
        return Err(VttError::NoCues);
    }
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    Ok(text)
}

fn from_subrip(text: &str) -> Result<String, VttError> {
    let mut out = String::from("WEBVTT\n");
    let lines: Vec<&str> = text.lines().collect();
    let mut index = 0;
    while index < lines.len() {
        if !lines[index].contains(ARROW) {
            // A counter, an empty line, or text of nobody.
            index += 1;
            continue;
        }
        let (start, end, _) = parse_timing(lines[index], index + 1)?;
        let body: Vec<_> = lines[index + 1..].iter().take_while(|line| !line.trim().is_empty()).collect();
        index += 1 + body.len();
        out.push('\n');
        out.push_str(&timing_line(start, end, ""));
        out.push('\n');
        for line in body {
            out.push_str(&subrip_text(line));
            out.push('\n');
        }
    }
    Ok(out)
}

/// Keeps `<i>`, `<b>`, `<u>`; drops other tags and the `{\an8}` of SSA; escapes what WebVTT would read as markup.
fn subrip_text(line: &str) -> String {
    const KEPT: [&str; 6] = ["<i>", "</i>", "<b>", "</b>", "<u>", "</u>"];
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let kept =
            KEPT.iter().find(|tag| rest.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag)));
        let closes = |start: &str, end: char| rest.starts_with(start).then(|| rest.find(end)).flatten();
        if let Some(tag) = kept {
            out.push_str(tag);
            rest = &rest[tag.len()..];
        } else if let Some(end) =
            closes("<font", '>').or_else(|| closes("</font", '>')).or_else(|| closes("{\\", '}'))
        {
            rest = &rest[end + 1..];
        } else {
            match next {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                other => out.push(other),
            }
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

/// Start and end in milliseconds, and the settings behind them.
fn parse_timing(line: &str, number: usize) -> Result<(u64, u64, &str), VttError> {
    let refuse = |what| VttError::Cue { line: number, what };
    let (start, rest) = line.split_once(ARROW).ok_or(refuse("no arrow"))?;
    let rest = rest.trim_start();
    let (end, settings) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let start = parse_time(start.trim()).ok_or(refuse("the start time is not of the form 00:00:00.000"))?;
    let end = parse_time(end.trim()).ok_or(refuse("the end time is not of the form 00:00:00.000"))?;
    if end <= start {
        return Err(refuse("the cue ends before it starts"));
    }
    Ok((start, end, settings.trim()))
}

/// `[hours:]minutes:seconds.millis`; a comma for the dot as SubRip has it.
fn parse_time(text: &str) -> Option<u64> {
    let (clock, millis) = text.split_once(['.', ','])?;
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let valid = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| text.parse::<u64>().ok()).flatten()
    };
    let mut parts = clock.rsplit(':');
    let seconds = number(parts.next()?, 2..=2).filter(|&s| s < 60)?;
    let minutes = number(parts.next()?, 2..=2).filter(|&m| m < 60)?;
    let hours = parts.next().map_or(Some(0), |hours| number(hours, 1..=4))?;
    if parts.next().is_some() {
        return None;
    }
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + number(millis, 3..=3)?)
}

fn timing_line(start: u64, end: u64, settings: &str) -> String {
    let line = format!("{} {ARROW} {}", time(start), time(end));
    if settings.is_empty() { line } else { format!("{line} {settings}") }
}

/// `00:00:04.000`.
pub fn time(ms: u64) -> String {
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subrip_file_becomes_webvtt() {
        let srt = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n{\\an8}<i>Hej</i> & <font color=\"red\">då</font> <3\r\n\r\n2\r\n0:00:03,000 --> 0:00:04,000\r\nZwei\r\nZeilen\r\n";
        let expected = "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\n<i>Hej</i> &amp; då &lt;3\n\n00:00:03.000 --> 00:00:04.000\nZwei\nZeilen\n";
        assert_eq!(normalise(srt.as_bytes(), Format::SubRip).unwrap(), expected);
    }

    #[test]
    fn a_webvtt_file_keeps_its_styles_and_settings() {
        let vtt = "WEBVTT - a\n\nSTYLE\n::cue { color: red }\n\nNOTE x\n\none\n00:01.000 --> 00:02.000 align:start\nHi\n";
        assert_eq!(normalise(vtt.as_bytes(), Format::WebVtt).unwrap(), vtt);
    }

    #[test]
    fn what_is_no_webvtt_is_refused_with_its_line() {
        let of = |text: &[u8]| normalise(text, Format::WebVtt).unwrap_err();
        assert_eq!(of(b"\xff"), VttError::NotUtf8);
        assert_eq!(of(b""), VttError::NoSignature);
        assert_eq!(of(b"WEBVTTX\n"), VttError::NoSignature);
        assert_eq!(of(b"WEBVTT\n\nhello\n"), VttError::NoCues);
        assert!(matches!(of(b"WEBVTT\n\n00:02.000 --> 00:01.000\nx\n"), VttError::Cue { line: 3, .. }));
        assert!(matches!(of(b"WEBVTT\n\n00:61.000 --> 01:01.000\nx\n"), VttError::Cue { line: 3, .. }));
        assert_eq!(normalise(b"1\nhello\n", Format::SubRip).unwrap_err(), VttError::NoCues);
    }

    #[test]
    fn shifting_moves_cues_and_drops_those_before_zero() {
        let vtt = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\na\n\n00:00:02.500 --> 00:00:04.000 line:0\nb\n";
        assert_eq!(shifted(vtt, -3_000).unwrap(), "WEBVTT\n\n00:00:00.000 --> 00:00:01.000 line:0\nb\n");
        assert_eq!(shifted(vtt, 0).unwrap(), vtt);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*|([0-9]{2}:[0-9]{2}[.,][0-9]{3} --> |\n|[<&{\\\\}>ifont/]|é)*") {
            if let Ok(vtt) = normalise(text.as_bytes(), Format::SubRip) {
                // What was accepted is WebVTT, and stays so when moved.
                prop_assert!(checked(&vtt).is_ok());
                prop_assert!(shifted(&vtt, -1_000).is_ok());
            }
        }

        #[test]
        fn times_read_back_as_they_were_written(ms in 0..360_000_000_u64) {
            prop_assert_eq!(parse_time(&time(ms)), Some(ms));
        }
    }
}
