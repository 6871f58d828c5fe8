//! What the box sends, against the origin's files: every track and playlist of a play whole, ranges, and what must be refused.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::machine::Machine;
use super::origin::Origin;
use crate::http::{self, Answer};
use crate::stop::Stop;
use crate::{clock, samples};

const ASK: Duration = Duration::from_secs(60);
/// One of many tries while the box comes up.
const TRY: Duration = Duration::from_secs(2);

/// The first URL of each object of a play, tracks first.
pub struct Play {
    urls: Vec<String>,
}

pub fn play(control: &Origin) -> Result<Play> {
    let request = json!({
        "title": samples::SHORT_FILM, "session": "smoke-boot-1", "member": "smoke", "plan": "hd", "territory": "SE",
        "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}, "languages": ["en"],
    });
    let answer = http::post_json(&format!("{}/v1/plays", control.url), &request, ASK)?;
    if answer.status != 200 {
        bail!("the play was refused: {} {}", answer.status, answer.text());
    }
    Play::of(&answer.json()?)
}

impl Play {
    fn of(answer: &Value) -> Result<Self> {
        let streams = answer["streams"].as_array().filter(|streams| !streams.is_empty());
        let streams = streams.with_context(|| format!("a play without streams: {answer}"))?;
        let first = |object: &Value| object["urls"][0].as_str().map(str::to_owned);
        let of_all = |what: &'static str| streams.iter().map(move |stream| first(&stream[what]));
        let urls = of_all("track").chain(of_all("playlist")).collect::<Option<Vec<_>>>();
        Ok(Self { urls: urls.context("a stream of the play has no URL")? })
    }

    fn first(&self) -> Result<&str> {
        self.urls.first().map(String::as_str).context("a play of nothing")
    }
}

/// The object's, which ends its URL.
fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// An object's file in the origin, by the name that ends its URL.
fn in_origin(url: &str, origin: &Path) -> Result<Vec<u8>> {
    let name = name(url);
    let folder = name.get(..2).with_context(|| format!("{url} names no object"))?;
    let path = origin.join("objects").join(folder).join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What was compared, in words.
pub fn every_byte(play: &Play, origin: &Path) -> Result<String> {
    let mut bytes = 0;
    for url in &play.urls {
        let whole = in_origin(url, origin)?;
        let answer = http::get(url, &[], ASK)?;
        expect(&answer, 200, &whole, name(url))?;
        bytes += whole.len();
        ranges(url, &whole)?;
        let head = http::head(url, &[], ASK)?;
        expect(&head, 200, &[], name(url))?;
        if head.header("content-length") != whole.len().to_string() {
            bail!("HEAD {} says {:?} for {} bytes", name(url), head.header("content-length"), whole.len());
        }
    }
    let mb = bytes / 1_000_000;
    Ok(format!("{} objects whole ({mb} MB) and in ranges, all as in the origin", play.urls.len()))
}

fn ranges(url: &str, whole: &[u8]) -> Result<()> {
    let size = whole.len();
    let middle = size / 2..(size / 2 + 70_001).min(size);
    let all = [
        ("bytes=0-0".to_owned(), 0..1),
        (format!("bytes={}-{}", middle.start, middle.end - 1), middle),
        ("bytes=-100".to_owned(), size.saturating_sub(100)..size),
        (format!("bytes={}-", size - 1), size - 1..size),
    ];
    for (range, span) in all {
        let answer = http::get(url, &[("range", &range)], ASK)?;
        expect(&answer, 206, &whole[span.clone()], &format!("{} ({range})", name(url)))?;
        let said = format!("bytes {}-{}/{size}", span.start, span.end - 1);
        if answer.header("content-range") != said {
            bail!("{} ({range}) says {:?}, not {said:?}", name(url), answer.header("content-range"));
        }
    }
    Ok(())
}

fn expect(answer: &Answer, status: u16, body: &[u8], what: &str) -> Result<()> {
    if answer.status != status {
        bail!("{what}: {} instead of {status}: {}", answer.status, answer.header("cache-status"));
    }
    if answer.body != body {
        let at = answer.body.iter().zip(body).position(|(got, right)| got != right);
        let (got, right) = (answer.body.len(), body.len());
        bail!("{what}: WRONG BYTES: {got} bytes for {right}, the first difference at {at:?}");
    }
    Ok(())
}

/// What must not be answered with bytes.
pub fn refusals(play: &Play) -> Result<String> {
    let url = play.first()?;
    let beyond = http::get(url, &[("range", "bytes=999999999999-")], ASK)?;
    if beyond.status != 416 {
        bail!("a range beyond the end of {url} got {}", beyond.status);
    }
    let forged = forged(url)?;
    let answer = http::get(&forged, &[], ASK)?;
    if answer.status != 403 {
        bail!("a token with one changed character got {}", answer.status);
    }
    Ok("a range beyond the end is 416, a changed token is 403".to_owned())
}

/// The same URL with one character of the token's signature changed.
fn forged(url: &str) -> Result<String> {
    let (before, after) = url.split_once("/~").with_context(|| format!("{url} has no token"))?;
    let (token, path) = after.split_once('/').with_context(|| format!("{url} ends with its token"))?;
    let at = token.rfind('.').with_context(|| format!("{token} has no signature"))? + 1;
    let other = if token[at..].starts_with('A') { "B" } else { "A" };
    Ok(format!("{before}/~{}{other}{}/{path}", &token[..at], &token[at + 1..]))
}

/// The server says that it is ready, and QEMU forwards, a moment apart.
pub fn wait_until_served(stop: &Stop, play: &Play, guest: &mut Machine, limit: Duration) -> Result<()> {
    let url = play.first()?;
    let served = clock::wait_for(stop, "the box to serve what it held", limit, || {
        guest.expect_running()?;
        Ok(http::head(url, &[], TRY).ok().filter(|answer| answer.status == 200).map(drop))
    });
    guest.explained(served)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_url_differs_in_one_character_of_the_signature() {
        assert_eq!(forged("http://h:1/~aa.bb.Acc/t/hd/x.mp4").unwrap(), "http://h:1/~aa.bb.Bcc/t/hd/x.mp4");
        assert_eq!(forged("http://h:1/~aa.bb.ccc/t/hd/x.mp4").unwrap(), "http://h:1/~aa.bb.Acc/t/hd/x.mp4");
        assert!(forged("http://h:1/t/hd/x.mp4").is_err());
    }

    #[test]
    fn one_wrong_byte_a_short_body_and_a_wrong_status_are_told_apart() {
        let answer = |status, body: &[u8]| Answer { status, headers: Vec::new(), body: body.to_vec() };
        let complaint = |answer| expect(&answer, 200, b"abc", "x").map_err(|cause| cause.to_string());
        assert_eq!(complaint(answer(200, b"abc")), Ok(()));
        assert!(complaint(answer(200, b"abd")).unwrap_err().contains("Some(2)"));
        assert!(complaint(answer(200, b"ab")).unwrap_err().contains("2 bytes for 3"));
        assert!(complaint(answer(503, b"abc")).unwrap_err().contains("503 instead of 200"));
    }

    #[test]
    fn a_play_whose_stream_has_no_url_is_no_play() {
        let object = |url: &str| json!({"urls": [url]});
        let good = json!({"streams": [{"track": object("t"), "playlist": object("p")}]});
        assert_eq!(Play::of(&good).unwrap().urls, ["t", "p"]);
        assert!(Play::of(&json!({"streams": [{"track": object("t"), "playlist": {"urls": []}}]})).is_err());
        assert!(Play::of(&json!({"streams": []})).is_err());
    }
}
