//! What clients ask for, and what they may be told: one that expects too little of an answer finds nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

use super::random::Random;
use super::site::{ABSENT_GENERATION, BRIEF, SITE, TOKENS};
use crate::clock::Wall;
use crate::holdings::Holdings;

/// Heads and limits: more fields than any configuration takes.
const FLOOD_FIELDS: usize = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Head,
    /// If-None-Match with the object's tag.
    Known,
    /// If-Match with another's.
    OtherMatch,
    BehindEnd,
    Options,
    Post,
    NotHeld,
    NoToken,
    /// With one of `TOKENS.refused`.
    BadToken,
    /// The last of its connection, because it says so or is of HTTP/1.0.
    Last,
    OldLast,
    /// The last of its connection, because the stream cannot be trusted behind it.
    Content,
    NewVersion,
    Malformed,
    ManyFields,
    LongHead,
}

impl Kind {
    const ODD: [Self; 16] = [
        Self::Head,
        Self::Known,
        Self::OtherMatch,
        Self::BehindEnd,
        Self::Options,
        Self::Post,
        Self::NotHeld,
        Self::NoToken,
        Self::BadToken,
        Self::Last,
        Self::OldLast,
        Self::Content,
        Self::NewVersion,
        Self::Malformed,
        Self::ManyFields,
        Self::LongHead,
    ];

    /// Nothing behind it is answered.
    pub fn closes(self) -> bool {
        match self {
            Self::Last
            | Self::OldLast
            | Self::Content
            | Self::NewVersion
            | Self::Malformed
            | Self::ManyFields
            | Self::LongHead => true,
            Self::Get
            | Self::Head
            | Self::Known
            | Self::OtherMatch
            | Self::BehindEnd
            | Self::Options
            | Self::Post
            | Self::NotHeld
            | Self::NoToken
            | Self::BadToken => false,
        }
    }

    fn looks_up(self) -> bool {
        matches!(
            self,
            Self::Get
                | Self::Head
                | Self::Known
                | Self::OtherMatch
                | Self::BehindEnd
                | Self::Last
                | Self::OldLast
        )
    }
}

pub struct Request {
    pub kind: Kind,
    pub object: usize,
    /// In the order asked for; None overlaps or nearly touches another.
    ranges: Vec<Range<usize>>,
    brief: bool,
    token: usize,
    /// It may say how fast it wants its answer (CMCD).
    paced: bool,
    asked: Option<Asked>,
}

/// What was the case when it was asked.
#[derive(Clone, Copy)]
struct Asked {
    generation: u64,
    withdrawn: bool,
    wall: Wall,
}

/// What follows a head.
pub enum Content {
    Expected {
        bytes: Cow<'static, [u8]>,
        sent: usize,
    },
    /// A refusal's words: only their number is checked.
    Words {
        left: usize,
    },
}

impl Request {
    pub fn random(random: &mut Random, odd: bool) -> Self {
        let object = random.below(SITE.objects.len());
        let size = SITE.objects[object].bytes;
        let kind = if odd && random.chance(1, 4) {
            *random.pick(&Kind::ODD)
        } else if random.chance(1, 10) {
            Kind::Head
        } else {
            Kind::Get
        };
        // RFC 9110 14.2: a range means something for GET only.
        let ranged = matches!(kind, Kind::Get | Kind::Last) && random.chance(1, 2);
        let ranges = if ranged { random_ranges(random, size) } else { Vec::new() };
        let brief = odd && random.chance(1, 6);
        Self {
            kind,
            object,
            ranges,
            brief,
            token: random.below(TOKENS.refused.len()),
            paced: false,
            asked: None,
        }
    }

    pub fn paced(self, paced: bool) -> Self {
        Self { paced, ..self }
    }

    /// What it says of itself: in fields, in the query; and how many bytes a second it is to get then.
    fn cmcd(&self) -> (&'static str, &'static str, u64) {
        let sent = matches!(self.kind, Kind::Get | Kind::Last);
        match self.object % 4 {
            0 if self.paced && sent => ("CMCD-Status: rtp=4000\r\n", "", 500_000),
            1 if self.paced && sent => ("", "?CMCD=br%3D900%2Crtp%3D8000", 1_000_000),
            2 if self.paced && sent => ("CMCD-Status: bs,rtp=4000\r\n", "", u64::MAX),
            _ => ("", "", u64::MAX),
        }
    }

    /// Bytes a second that its answer may leave with.
    pub fn pace(&self) -> u64 {
        self.cmcd().2
    }

    fn target(&self) -> String {
        let object = &SITE.objects[self.object];
        match self.kind {
            Kind::NoToken => object.path.clone(),
            Kind::BadToken => format!("/~{}{}", TOKENS.refused[self.token], object.path),
            Kind::NotHeld => object.target.replace(".mp4", ".vtt"),
            _ if self.brief => format!("/~{}{}", TOKENS.brief, object.path),
            _ => object.target.clone(),
        }
    }

    /// The head, asked now.
    pub fn ask(&mut self, holdings: &Holdings, wall: Wall) -> String {
        let generation = holdings.current().number();
        let file = SITE.file_of(self.object, generation);
        let withdrawn = file.is_some_and(|file| holdings.is_withdrawn(file));
        self.asked = Some(Asked { generation, withdrawn, wall });
        let (method, version) = match self.kind {
            Kind::Head => ("HEAD", "HTTP/1.1"),
            Kind::Options => ("OPTIONS", "HTTP/1.1"),
            Kind::Post => ("POST", "HTTP/1.1"),
            Kind::OldLast => ("GET", "HTTP/1.0"),
            Kind::NewVersion => ("GET", "HTTP/2.0"),
            _ => ("GET", "HTTP/1.1"),
        };
        let (fields, query, _) = self.cmcd();
        let mut text = format!("{method} {}{query} {version}\r\n{fields}", self.target());
        if self.kind != Kind::Malformed {
            text += "Host: x\r\n";
        }
        let object = &SITE.objects[self.object];
        match self.kind {
            Kind::Known => write!(text, "If-None-Match: \"{}\"\r\n", object.id).unwrap(),
            Kind::OtherMatch => text += "If-Match: \"other\"\r\n",
            Kind::BehindEnd => write!(text, "Range: bytes={}-\r\n", object.bytes).unwrap(),
            Kind::Last => text += "Connection: close\r\n",
            Kind::Content => text += "Content-Length: 3\r\n",
            Kind::ManyFields => text += &"a: b\r\n".repeat(FLOOD_FIELDS),
            Kind::LongHead => text += &format!("a: {}\r\n", "b".repeat(5_000)),
            _ => {}
        }
        if !self.ranges.is_empty() {
            let ranges = self.ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1));
            write!(text, "Range: bytes={}\r\n", ranges.collect::<Vec<_>>().join(", ")).unwrap();
        }
        text + "\r\n"
    }

    fn status(&self) -> u16 {
        match self.kind {
            Kind::Get | Kind::Last if !self.ranges.is_empty() => 206,
            Kind::Get | Kind::Last | Kind::OldLast | Kind::Head => 200,
            Kind::Known => 304,
            Kind::OtherMatch => 412,
            Kind::BehindEnd => 416,
            Kind::Options => 204,
            Kind::Post => 405,
            Kind::NotHeld => 404,
            Kind::NoToken | Kind::BadToken => 403,
            Kind::Content => 413,
            Kind::NewVersion => 505,
            Kind::Malformed => 400,
            Kind::ManyFields | Kind::LongHead => 431,
        }
    }

    /// What follows the head. `boundary`: what the head says that parts are framed by.
    fn content(&self, boundary: Option<&str>) -> Cow<'static, [u8]> {
        let all = SITE.object_bytes(&SITE.objects[self.object]);
        match &self.ranges[..] {
            _ if self.kind == Kind::Head => Cow::Borrowed(&[]),
            [] => Cow::Borrowed(all),
            [range] => Cow::Borrowed(&all[range.clone()]),
            ranges => {
                let boundary = boundary.unwrap_or("none");
                let mut body = Vec::new();
                for range in ranges {
                    let (first, last, size) = (range.start, range.end - 1, all.len());
                    // The first one has no line before it (RFC 2046 5.1.1).
                    body.extend_from_slice(if body.is_empty() { "" } else { "\r\n" }.as_bytes());
                    write!(body, "--{boundary}\r\nContent-Type: video/mp4\r\n").unwrap();
                    write!(body, "Content-Range: bytes {first}-{last}/{size}\r\n\r\n").unwrap();
                    body.extend_from_slice(&all[range.clone()]);
                }
                write!(body, "\r\n--{boundary}--\r\n").unwrap();
                Cow::Owned(body)
            }
        }
    }

    /// What an answer's head says, against what was asked. True: a refusal that was not asked for.
    pub fn read_head(&self, head: &[u8], holdings: &Holdings, wall: Wall) -> Result<(Content, bool), String> {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status: u16 = head.get(9..12).and_then(|text| text.parse().ok()).ok_or("no status line")?;
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        let length = field("content-length").and_then(|text| text.parse().ok());
        let words =
            Content::Words { left: if self.wordless(status, &head) { 0 } else { length.unwrap_or(0) } };
        if status != self.status() {
            self.excuse(status, holdings, wall)?;
            return Ok((words, true));
        }
        self.check_served(holdings)?;
        if !matches!(status, 200 | 206) {
            return Ok((words, false));
        }
        let all = SITE.objects[self.object].bytes;
        if let [range] = &self.ranges[..]
            && field("content-range") != Some(format!("bytes {}-{}/{all}", range.start, range.end - 1))
        {
            return Err("another range than was asked for".to_owned());
        }
        let media_type = field("content-type").unwrap_or_default();
        let boundary = media_type.strip_prefix("multipart/byteranges; boundary=");
        if boundary.is_some() != (self.ranges.len() > 1) {
            return Err(format!("{} ranges are answered as {media_type}", self.ranges.len()));
        }
        let content = self.content(boundary);
        let due = if self.kind == Kind::Head { all } else { content.len() };
        if length != Some(due) {
            return Err(format!("{length:?} bytes announced, {due} asked for"));
        }
        if field("etag") != Some(format!("\"{}\"", SITE.objects[self.object].id)) {
            return Err("another object's tag".to_owned());
        }
        Ok((Content::Expected { bytes: content, sent: 0 }, false))
    }

    /// RFC 9112 6.3: no content behind the answer to HEAD, nor behind 204 and 304. What refuses the connection and not
    /// the request is the answer to no HEAD, and looks like one that closes.
    fn wordless(&self, status: u16, head: &str) -> bool {
        matches!(status, 204 | 304)
            || self.kind == Kind::Head && !(matches!(status, 408 | 503) && head.contains("connection: close"))
    }

    /// Whether another status than the one that was due is in order.
    fn excuse(&self, status: u16, holdings: &Holdings, wall: Wall) -> Result<(), String> {
        let asked = self.asked.expect("it was asked");
        let lacking = (asked.generation..=holdings.current().number())
            .any(|generation| SITE.file_of(self.object, generation).is_none());
        let excused = match status {
            503 => true,
            408 => true,
            404 => lacking,
            403 => self.brief && wall >= BRIEF,
            _ => false,
        };
        let what = || format!("status {status} where {} was due to {:?}", self.status(), self.kind);
        if excused { Ok(()) } else { Err(what()) }
    }

    /// Whether what was due still was to be served.
    fn check_served(&self, holdings: &Holdings) -> Result<(), String> {
        let asked = self.asked.expect("it was asked");
        if !self.kind.looks_up() {
            return Ok(());
        }
        let now = holdings.current().number();
        if asked.withdrawn && asked.generation == now {
            return Err(format!("a withdrawn file is served: object {}", self.object));
        }
        if self.brief && asked.wall >= BRIEF {
            return Err("an expired token opens".to_owned());
        }
        let held = (asked.generation..=now).any(|generation| SITE.file_of(self.object, generation).is_some());
        if held { Ok(()) } else { Err(format!("an object of no generation is served ({ABSENT_GENERATION})")) }
    }

    pub fn was_asked_before(&self, generation: u64) -> bool {
        self.asked.is_some_and(|asked| asked.generation < generation)
    }

    pub fn expired(&self, wall: Wall) -> bool {
        self.brief && self.kind.looks_up() && wall >= BRIEF
    }
}

/// One in most cases; else several, in any order, of which none touches another.
fn random_ranges(random: &mut Random, size: usize) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for _ in 0..if random.chance(2, 3) { 1 } else { random.between(2, 5) } {
        let first = random.below(size);
        let most = first + random.between(0, 400_000);
        let last = random.between(first, most.min(size - 1));
        let far = |other: &Range<usize>| last + 200 < other.start || first > other.end + 200;
        if ranges.iter().all(far) {
            ranges.push(first..last + 1);
        }
    }
    ranges
}
