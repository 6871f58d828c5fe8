//! Request heads, alone and pipelined, through the parser and through the decision that writes an answer.
//!
//! Input: what a client sends, with the marks of [`Site::expand`]. Four oracles: a head that arrives in pieces is read as
//! it is at once; tighter limits refuse and never read otherwise; what is accepted can be read in one way only
//! (the slow reading below, RFC 9112 line by line); an answer is well formed and its body lies in its file.

use std::cell::RefCell;

use appliance::http::decide::{ConnectionMemory, Context, Decision, HeadOutcome, decide};
use appliance::http::head::{FIELD_ROOM, Head, HeadError, Method, Version};
use appliance::tuning::Planted;
use content::box_config::Limits;

use crate::site::{DATA_BYTES, NOW, OFFSET, Site};

thread_local! {
    static SITE: RefCell<Site> = RefCell::default();
}

pub fn run(data: &[u8]) {
    SITE.with_borrow(|site| {
        let text = site.expand(data);
        pieces_are_read_as_the_whole(&text, &site.limits);
        tighter_limits_only_refuse(&text, &site.limits);
        if let Ok(Some(said)) = read(&text, &site.limits) {
            assert_eq!(Some(&said), slow(&text[..said.bytes], &site.limits).as_ref());
        }
        answer_all(&text, site);
    });
}

/// What the parser says of a head.
#[derive(Debug, PartialEq)]
struct Said {
    bytes: usize,
    method: Method,
    version: Version,
    path: String,
    keep_open: bool,
    content: bool,
}

fn read(text: &[u8], limits: &Limits) -> Result<Option<Said>, HeadError> {
    let mut room = FIELD_ROOM;
    let head = Head::parse(text, limits, &mut room)?;
    Ok(head.map(|head| Said {
        bytes: head.bytes,
        method: head.method,
        version: head.version,
        path: head.path.to_owned(),
        keep_open: head.keep_open,
        content: head.content,
    }))
}

fn pieces_are_read_as_the_whole(text: &[u8], limits: &Limits) {
    let whole = read(text, limits);
    let cuts = [text.len() / 3, text.len() / 2, text.len().saturating_sub(2), text.len().saturating_sub(1)];
    for cut in cuts {
        match read(&text[..cut], limits) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "after {cut} bytes it was clear, and then it was not"),
        }
    }
    if let Ok(Some(said)) = &whole {
        assert_eq!(read(&text[..said.bytes], limits), whole);
        assert_eq!(read(&text[..said.bytes - 1], limits), Ok(None));
    }
}

fn tighter_limits_only_refuse(text: &[u8], limits: &Limits) {
    let tight = Limits { head_bytes_max: 300, header_count_max: 3, ..limits.clone() };
    match read(text, &tight) {
        Ok(Some(said)) => {
            assert!(said.bytes <= tight.head_bytes_max);
            assert_eq!(read(text, limits), Ok(Some(said)));
        }
        Ok(None) => assert!(text.len() < tight.head_bytes_max),
        Err(HeadError::TooLong) => assert!(text.len() >= tight.head_bytes_max),
        Err(HeadError::TooManyFields) => assert!(text.iter().filter(|byte| **byte == b':').count() > 3),
        Err(HeadError::Malformed(_) | HeadError::Version) => assert!(read(text, limits).is_err()),
    }
}

/// RFC 9112 §2 to §7 and §9.3, read line by line. None: it is no head that may be accepted.
fn slow(text: &[u8], limits: &Limits) -> Option<Said> {
    let mut lines = text;
    while let Some(rest) = lines.strip_prefix(b"\r\n") {
        lines = rest;
    }
    // Latin-1, as RFC 9110 §5.5 has it: every byte is a character.
    let head: String = lines.iter().map(|byte| char::from(*byte)).collect();
    let head = head.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else { return None };
    let version = match version {
        "HTTP/1.1" => Version::Http11,
        "HTTP/1.0" => Version::Http10,
        _ => return None,
    };
    let fields: Vec<(String, &str)> = lines.map(slow_field).collect::<Option<_>>()?;
    let values = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    };
    let lengths = values("content-length");
    let chunked = values("transfer-encoding").last().map(|value| value.rsplit(',').next().map(str::trim));
    let options: Vec<String> = values("connection").join(",").split(',').map(trimmed).collect();
    let says = |option: &str| options.iter().any(|found| found == option);
    let sound = fields.len() <= limits.header_count_max
        && text.len() <= limits.head_bytes_max
        && !method.is_empty()
        && method.chars().all(is_token)
        && values("host").len() == 1 - usize::from(version == Version::Http10 && values("host").is_empty())
        && lengths.len() + usize::from(chunked.is_some()) <= 1
        && lengths.iter().all(|text| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        && chunked.is_none_or(|last| last.is_some_and(|last| last.eq_ignore_ascii_case("chunked")))
        && !(chunked.is_some() && version == Version::Http10);
    let content = chunked.is_some() || lengths.iter().any(|text| text.bytes().any(|digit| digit != b'0'));
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    };
    let keep_open = !says("close") && (version == Version::Http11 || says("keep-alive")) && !content;
    let path = slow_path(target, method)?;
    sound.then_some(Said { bytes: text.len(), method, version, path, keep_open, content })
}

fn slow_field(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.split_once(':')?;
    let clean = |c: char| c == '\t' || (c >= ' ' && c != '\u{7f}');
    let valid = !name.is_empty() && name.chars().all(is_token) && value.chars().all(clean);
    valid.then(|| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
}

fn trimmed(text: &str) -> String {
    text.trim_matches([' ', '\t']).to_ascii_lowercase()
}

/// RFC 9110 §5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn slow_path(target: &str, method: Method) -> Option<String> {
    if method == Method::Other || (method == Method::Options && target == "*") {
        // In UTF-8, as the parser keeps it.
        let bytes: Vec<u8> = target.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
        return String::from_utf8(bytes).ok();
    }
    if !target.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        return None;
    }
    let path = target.split('?').next().unwrap_or_default();
    if path.starts_with('/') {
        return Some(path.to_owned());
    }
    let lower = target.to_ascii_lowercase();
    let rest = ["http://", "https://"].iter().find(|scheme| lower.starts_with(**scheme))?;
    let rest = &target[rest.len()..];
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    (!authority.is_empty() && !authority.contains('@')).then(|| format!("/{path}"))
}

/// As a connection does: one request after the other, until one that nothing may follow.
fn answer_all(text: &[u8], site: &Site) {
    let context = Context { limits: &site.limits, holdings: &site.holdings, planted: Planted::default() };
    let mut memory = ConnectionMemory::default();
    let mut rest = text;
    for _ in 0..16 {
        let mut out = Vec::new();
        match decide(rest, &context, &mut memory, NOW, &mut out) {
            HeadOutcome::Incomplete => {
                assert!(out.is_empty() && rest.len() < site.limits.head_bytes_max);
                return;
            }
            HeadOutcome::Decided(decision) => {
                check_answer(&out, &decision, rest);
                if !decision.keep_open {
                    return;
                }
                rest = &rest[decision.consumed..];
            }
        }
    }
}

fn check_answer(out: &[u8], decision: &Decision, asked: &[u8]) {
    assert!((1..=asked.len()).contains(&decision.consumed));
    let text = std::str::from_utf8(out).expect("an answer is ASCII");
    let (head, content) = text.split_once("\r\n\r\n").expect("an answer's head ends");
    let mut lines = head.split("\r\n");
    let status: u16 =
        lines.next().and_then(|line| line.get(9..12)).and_then(|s| s.parse().ok()).expect("a status");
    let fields: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").expect("name: value")).collect();
    let field = |wanted: &str| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    for (index, (name, value)) in fields.iter().enumerate() {
        assert!(
            name.chars().all(is_token) && value.chars().all(|c| (' '..='~').contains(&c)),
            "{name}: {value}"
        );
        assert!(fields[..index].iter().all(|(other, _)| other != name), "{name} twice");
    }
    assert_eq!(field("Connection") == Some("close"), !decision.keep_open);
    let length = field("Content-Length").map(|length| length.parse::<u64>().expect("a number"));
    match decision.body {
        Some(body) => {
            let whole = decision.parts.is_some() || content.is_empty() && length == Some(body.bytes);
            assert!(matches!(status, 200 | 206) && whole);
            assert!(body.bytes > 0 && body.file.data_bytes == DATA_BYTES);
            assert!(body.offset >= OFFSET && body.offset + body.bytes <= OFFSET + 20);
            assert!(decision.generation.is_some());
            if let Some(range) = field("Content-Range") {
                let (first, last) = (body.offset - OFFSET, body.offset + body.bytes - 1 - OFFSET);
                assert!(status == 206 && range.starts_with(&format!("bytes {first}-{last}/")), "{range}");
            }
        }
        None if status >= 400 => {
            let told = length.expect("a refusal states its length");
            assert!(content.is_empty() || u64::try_from(content.len()) == Ok(told));
        }
        None => assert!(matches!(status, 200 | 206 | 204 | 304) && content.is_empty()),
    }
    if let Some(length) = length
        && status < 300
        && decision.body.is_none()
    {
        // HEAD, or an object of no bytes.
        assert!(length == 0 || asked[..decision.consumed].windows(5).any(|word| word == b"HEAD "));
    }
}
