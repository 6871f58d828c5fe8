//! Decisions on whole requests, against the slowest obvious reading of RFC 9110.

use content::box_config::Limits;
use content::catalogue::{Contents, Entry, FileRecord, build, file::Catalogue};
use content::id::{CatalogueKey, Extension, ObjectId, Tier};
use content::token::{Claims, KeyRing, Signer};
use content::volume::VolumeId;
use proptest::prelude::*;

use super::decide::{ConnectionMemory, Context, Decision, HeadOutcome, Refusal, decide, refuse_after};
use crate::clock::Wall;
use crate::endings::Ending;
use crate::holdings::{FileRef, Holdings, Volume, VolumeIndex};
use crate::tuning::Planted;

const NOW: Wall = Wall(1_795_435_200);
const OFFSET: u64 = 4096;
const FILE: FileRef = FileRef { volume: VolumeIndex(1), number: 5, data_bytes: 10_000 };

struct Site {
    holdings: Holdings,
    limits: Limits,
    token: String,
}

fn object() -> ObjectId {
    ObjectId::of(b"x")
}

fn media_path(size: u64) -> String {
    format!("/night/sd/{}{size:02}.mp4", &object().to_string()[..62])
}

fn signer() -> Signer {
    Signer::from_seed("k", &[7; 32]).unwrap()
}

fn token(lifetime_s: i64) -> String {
    signer().sign(&Claims {
        issuer: "c".to_owned(),
        session: "s".parse().unwrap(),
        title: "night".parse().unwrap(),
        tiers: vec![Tier::Sd],
        not_before: NOW.timestamp(),
        expires: Wall(NOW.0 + lifetime_s).timestamp(),
    })
}

/// Objects of 0, 1 and 20 bytes in one file of the second volume, and one on a volume that is not there.
fn site() -> Site {
    let uuids = [VolumeId([1; 16]), VolumeId([2; 16]), VolumeId([3; 16])];
    let holdings = Holdings::new(vec![Volume::new(Some(uuids[0])), Volume::new(Some(uuids[1]))]);
    let entry = |path: String, file, bytes| Entry {
        key: CatalogueKey::of_path(path.as_bytes()),
        object: object(),
        file,
        offset: OFFSET,
        bytes,
        extension: Extension::Mp4,
    };
    let mut entries: Vec<_> = [0, 1, 20].map(|size| entry(media_path(size), 0, size)).into();
    entries.push(entry(media_path(99), 1, 20));
    let record = |number, volume| FileRecord { number, data_bytes: 10_000, volume };
    let contents = Contents {
        generation: 3,
        next_file: 9,
        volumes: vec![uuids[1], uuids[2]],
        files: vec![record(5, 0), record(6, 1)],
        entries,
    };
    holdings.publish(Catalogue::from_bytes(build::to_bytes(contents).unwrap()).unwrap());
    holdings.set_keys(KeyRing::new(&[signer().public_key()]).unwrap());
    Site { holdings, limits: Limits::default(), token: token(3600) }
}

struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    content: String,
    decision: Decision,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }
}

impl Site {
    fn context(&self) -> Context<'_> {
        Context { limits: &self.limits, holdings: &self.holdings, planted: Planted::default() }
    }

    fn ask_with(&self, memory: &mut ConnectionMemory, request: &str) -> Answer {
        let mut out = b"before".to_vec();
        match decide(request.as_bytes(), &self.context(), memory, NOW, &mut out) {
            HeadOutcome::Decided(decision) => read(&out[6..], decision),
            HeadOutcome::Incomplete => panic!("incomplete: {request:?}"),
        }
    }

    fn ask(&self, request: &str) -> Answer {
        self.ask_with(&mut ConnectionMemory::default(), request)
    }

    fn get(&self, path: &str, fields: &str) -> Answer {
        self.ask(&format!("GET /~{}{path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n", self.token))
    }
}

/// Reads an answer back, and checks what holds for every answer.
fn read(out: &[u8], decision: Decision) -> Answer {
    let text = std::str::from_utf8(out).unwrap();
    let (head, content) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
    let split =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
    let answer = Answer { status, fields: lines.map(split).collect(), content: content.to_owned(), decision };
    assert_eq!(answer.field("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(answer.field("Timing-Allow-Origin"), Some("*"));
    assert!(answer.field("Date").unwrap().ends_with(" GMT"));
    if status >= 400 {
        assert!(answer.decision.body.is_none());
        assert_eq!(answer.field("Cache-Control"), Some("no-store"));
        assert!(content.is_empty() || answer.field("Content-Length").unwrap() == content.len().to_string());
    } else {
        assert_eq!(content, "");
    }
    answer
}

#[test]
fn a_get_sends_the_object_and_names_its_tag() {
    let site = site();
    let answer = site.get(&media_path(20), "");
    assert_eq!((answer.status, answer.decision.ending), (200, Ending::Complete));
    assert_eq!(answer.field("Content-Length"), Some("20"));
    assert_eq!(answer.field("Content-Type"), Some("video/mp4"));
    assert_eq!(answer.field("ETag"), Some(format!("\"{}\"", object()).as_str()));
    assert_eq!(answer.field("Cache-Control"), Some("private, max-age=3600, immutable"));
    assert_eq!(answer.field("Cache-Status"), Some("oca; hit"));
    assert_eq!(answer.field("Accept-Ranges"), Some("bytes"));
    assert_eq!(answer.field("Date"), Some("Mon, 23 Nov 2026 12:00:00 GMT"));
    let body = answer.decision.body.unwrap();
    assert_eq!((body.file, body.offset, body.bytes), (FILE, OFFSET, 20));
    assert_eq!(answer.decision.generation.unwrap().number(), 3);
    assert!(answer.decision.keep_open);
}

#[test]
fn the_query_is_ignored_and_an_encoded_path_is_another_path() {
    let site = site();
    assert_eq!(site.get(&format!("{}?x=1", media_path(20)), "").status, 200);
    assert_eq!(site.get(&media_path(20).replace(".mp4", ".m%704"), "").status, 404);
    let absent = site.get("/night/sd/none.mp4", "");
    assert_eq!(absent.field("Cache-Status"), Some("oca; fwd=miss; detail=not_held"));
    assert_eq!((absent.status, absent.decision.keep_open), (404, true));
}

#[test]
fn every_bad_token_is_refused_by_its_name() {
    let mut site = site();
    let good = site.token.clone();
    for (token, ending) in [
        (String::new(), Ending::TokenMalformed),
        ("x.y.z".to_owned(), Ending::TokenMalformed),
        ("A".repeat(2000), Ending::TokenMalformed),
        (format!("{}AAAA", &good[..good.len() - 4]), Ending::TokenBadSignature),
        (token(0), Ending::TokenExpired),
    ] {
        site.token = token;
        let answer = site.get(&media_path(20), "");
        assert_eq!((answer.status, answer.decision.ending), (403, ending));
        assert!(answer.content.starts_with(ending.label()), "{}", answer.content);
        assert!(answer.decision.keep_open);
    }
    site.token = good;
    let other = site.get(&media_path(20).replace("/sd/", "/hd/"), "");
    assert_eq!(other.decision.ending, Ending::TokenOtherContent);
    let none = site.ask("GET /night/sd/x.mp4 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((none.status, none.decision.ending), (403, Ending::TokenMissing));
    site.holdings.set_keys(KeyRing::default());
    assert_eq!(site.get(&media_path(20), "").decision.ending, Ending::TokenUnknownKey);
}

#[test]
fn a_remembered_token_is_still_checked_for_path_and_keys() {
    let site = site();
    let mut memory = ConnectionMemory::default();
    let request = |path: &str| format!("GET /~{}{path} HTTP/1.1\r\nHost: h\r\n\r\n", site.token);
    assert_eq!(site.ask_with(&mut memory, &request(&media_path(20))).status, 200);
    assert_eq!(site.ask_with(&mut memory, &request("/other/sd/x")).status, 403);
    assert_eq!(site.ask_with(&mut memory, &request(&media_path(1))).status, 200);
    site.holdings.set_keys(KeyRing::default());
    assert_eq!(site.ask_with(&mut memory, &request(&media_path(20))).status, 403);
}

#[test]
fn what_is_withdrawn_lost_or_drained_is_503_with_the_reason() {
    let site = site();
    let asked = |path: &str| {
        let answer = site.get(path, "");
        assert!(answer.decision.body.is_none());
        (answer.status, answer.decision.ending, answer.field("Retry-After").is_some())
    };
    assert_eq!(asked(&media_path(99)), (503, Ending::VolumeLost, true));
    site.holdings.set_volume_usable(VolumeIndex(1), false);
    assert_eq!(asked(&media_path(20)), (503, Ending::VolumeLost, true));
    site.holdings.set_volume_usable(VolumeIndex(1), true);
    site.holdings.withdraw(FILE);
    assert_eq!(asked(&media_path(20)), (503, Ending::Withdrawn, true));
    site.holdings.set_draining(true);
    assert_eq!(asked(&media_path(20)), (503, Ending::Draining, true));
    let answer = site.get(&media_path(20), "");
    assert_eq!((answer.decision.keep_open, answer.decision.close_ending), (false, Ending::Drained));
}

#[test]
fn a_refused_method_content_or_version_says_so() {
    let site = site();
    let post = site.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        (post.status, post.field("Allow"), post.decision.keep_open),
        (405, Some("GET, HEAD, OPTIONS"), true)
    );
    let post = site.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((post.status, post.decision.keep_open), (405, false));
    assert_eq!(site.ask("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n").status, 405);
    let get = site.get(&media_path(20), "Transfer-Encoding: chunked\r\n");
    assert_eq!((get.status, get.decision.keep_open), (413, false));
    assert_eq!(get.field("Connection"), Some("close"));
    assert_eq!(site.ask("GET / HTTP/2.0\r\n\r\n").status, 505);
    assert_eq!(site.ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(site.ask(&"x".repeat(8192)).status, 431);
    assert_eq!(site.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a:b\r\n".repeat(64))).status, 431);
}

#[test]
fn options_are_answered_without_a_token() {
    let site = site();
    for target in ["*", "/", "/~bad/x"] {
        let answer = site.ask(&format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: h\r\nOrigin: http://p\r\nAccess-Control-Request-Method: GET\r\n\r\n"
        ));
        assert_eq!((answer.status, answer.decision.ending), (204, Ending::Preflight));
        assert_eq!(answer.field("Content-Length"), None);
        assert!(answer.field("Access-Control-Allow-Headers").unwrap().contains("Range"));
        assert!(answer.field("Access-Control-Allow-Methods").unwrap().contains("GET"));
    }
}

#[test]
fn a_connection_ends_as_version_field_and_limit_say() {
    let mut site = site();
    let target = format!("/~{}{}", site.token, media_path(1));
    let old = site.ask(&format!("GET {target} HTTP/1.0\r\n\r\n"));
    assert_eq!((old.status, old.decision.keep_open, old.field("Connection")), (200, false, Some("close")));
    let kept = site.ask(&format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    assert_eq!((kept.decision.keep_open, kept.field("Connection")), (true, Some("keep-alive")));
    site.limits.requests_per_connection_max = 2;
    let mut memory = ConnectionMemory::default();
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(site.ask_with(&mut memory, &request).decision.keep_open);
    let last = site.ask_with(&mut memory, &request);
    assert_eq!((last.status, last.field("Connection")), (200, Some("close")));
    assert_eq!(last.decision.close_ending, Ending::RequestLimit);
}

#[test]
fn pipelined_requests_are_decided_one_by_one() {
    let site = site();
    let one =
        format!("GET /~{}{} HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n", site.token, media_path(20));
    let two = format!("{one}{one}");
    let first = site.ask(&two);
    assert_eq!(first.decision.consumed, one.len());
    let second = site.ask(&two[first.decision.consumed..]);
    assert_eq!((second.status, second.decision.consumed), (206, one.len()));
}

#[test]
fn the_core_can_refuse_in_the_place_of_an_answer() {
    for (refusal, status, stays) in [
        (Refusal::DiskFailed, "503", true),
        (Refusal::Overloaded, "503", true),
        (Refusal::HeadTooSlow, "408", false),
        (Refusal::TooManyConnections, "503", false),
    ] {
        let mut out = Vec::new();
        assert_eq!(refuse_after(refusal, true, NOW, &mut out), stays);
        let text = String::from_utf8(out).unwrap();
        let persistence = if stays { "Connection: keep-alive\r\n" } else { "Connection: close\r\n" };
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains(persistence), "{text}");
        assert!(!refuse_after(refusal, false, NOW, &mut Vec::new()));
    }
}

/// One header field of a request as the oracle sees it: what it means, and what it looks like.
#[derive(Clone, Debug)]
struct Tags {
    /// Whether it is there, and whether `*`, and the tags: (weak, ours).
    tags: Option<(bool, Vec<(bool, bool)>)>,
    text: String,
}

fn tags(name: &'static str) -> impl Strategy<Value = Tags> {
    let tag = (any::<bool>(), any::<bool>());
    let list = proptest::collection::vec(tag, 1..4).prop_map(move |tags| {
        let write = |(weak, ours): &(bool, bool)| {
            let opaque = if *ours { object().to_string() } else { "a,b".to_owned() };
            format!("{}\"{opaque}\"", if *weak { "W/" } else { "" })
        };
        let text = tags.iter().map(write).collect::<Vec<_>>().join(" ,\t, ");
        Tags { tags: Some((false, tags)), text: format!("{name}: {text}\r\n") }
    });
    let ours = object();
    let broken = proptest::sample::select(vec![
        format!("\"{ours}"),
        format!("{ours}"),
        format!("\"{ours}\" \"{ours}\""),
        format!("\"{ours}\", *"),
        format!("w/\"{ours}\""),
        String::new(),
    ]);
    prop_oneof![
        4 => Just(Tags { tags: None, text: String::new() }),
        4 => list,
        1 => Just(Tags { tags: Some((true, vec![])), text: format!("{name}: *\r\n") }),
        1 => broken.prop_map(move |text| Tags { tags: Some((false, vec![])), text: format!("{name}: {text}\r\n") }),
    ]
}

fn if_range() -> impl Strategy<Value = (bool, String)> {
    let ours = object();
    proptest::sample::select(vec![
        (true, String::new()),
        (true, String::new()),
        (true, format!("If-Range: \"{ours}\"\r\n")),
        (false, format!("If-Range: W/\"{ours}\"\r\n")),
        (false, format!("If-Range: \"{ours}\", \"{ours}\"\r\n")),
        (false, "If-Range: \"other\"\r\n".to_owned()),
        (false, "If-Range: Mon, 23 Nov 2026 12:00:00 GMT\r\n".to_owned()),
        (false, format!("If-Range: \"{ours}\"\r\nIf-Range: \"{ours}\"\r\n")),
    ])
}

/// A Range field: its text, and what it asks of an object of so many bytes: None is nothing, an empty list 416.
type Asked = fn(u64) -> Option<Vec<u64>>;

fn ranges() -> impl Strategy<Value = (&'static str, Asked)> {
    const RANGES: [(&str, Asked); 13] = [
        ("", |_| None),
        ("Range: bytes=0-\r\n", |size| Some((0..size).collect())),
        ("Range: bytes=0-0\r\n", |size| Some((0..size.min(1)).collect())),
        ("Range: bytes=5-9\r\n", |size| Some((5..=9).filter(|at| *at < size).collect())),
        ("Range: BYTES=5-900\r\n", |size| Some((5..size.max(5)).collect())),
        ("Range: bytes=20-\r\n", |_| Some(vec![])),
        ("Range: bytes=-0\r\n", |_| Some(vec![])),
        ("Range: bytes=-1\r\n", |size| size.checked_sub(1).map(|last| vec![last])),
        ("Range: bytes=-7000\r\n", |size| (size > 0).then(|| (0..size).collect())),
        ("Range: bytes=9-5\r\n", |_| None),
        ("Range: bytes=0-0,2-3\r\n", |size| Some((0..size.min(4)).collect())),
        ("Range: seconds=0-0\r\n", |_| None),
        ("Range: bytes=0-0\r\nRange: bytes=0-0\r\n", |_| None),
    ];
    proptest::sample::select(&RANGES[..])
}

/// Status, and which of the object's bytes follow the head, by RFC 9110 §13.2.2 read top-down.
fn expected(
    get: bool,
    size: u64,
    if_match: &Tags,
    if_none_match: &Tags,
    if_range: bool,
    asked: Asked,
) -> (u16, Vec<u64>) {
    let ours_strong = |(weak, ours): &(bool, bool)| *ours && !*weak;
    if let Some((star, tags)) = &if_match.tags
        && !star
        && !tags.iter().any(ours_strong)
    {
        return (412, vec![]);
    }
    if let Some((star, tags)) = &if_none_match.tags
        && (*star || tags.iter().any(|(_, ours)| *ours))
    {
        return (304, vec![]);
    }
    match asked(size) {
        Some(bytes) if get && if_range && bytes.is_empty() => (416, vec![]),
        Some(bytes) if get && if_range => (206, bytes),
        _ if get => (200, (0..size).collect()),
        _ => (200, vec![]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_answer_is_what_the_slowest_reading_of_the_rfc_gives(
        get: bool,
        size in proptest::sample::select(vec![0u64, 1, 20]),
        if_match in tags("If-Match"),
        if_none_match in tags("if-none-match"),
        (if_range, if_range_text) in if_range(),
        (range_text, asked) in ranges(),
        dates: bool,
    ) {
        let site = site();
        let method = if get { "GET" } else { "HEAD" };
        let date = "Thu, 01 Jan 1970 00:00:00 GMT";
        let dates = if dates { format!("If-Modified-Since: {date}\r\nIf-Unmodified-Since: {date}\r\n") } else { String::new() };
        let request = format!(
            "{method} /~{}{} HTTP/1.1\r\nHost: h\r\n{}{}{if_range_text}{range_text}{dates}\r\n",
            site.token, media_path(size), if_match.text, if_none_match.text
        );
        let answer = site.ask(&request);
        let (status, bytes) = expected(get, size, &if_match, &if_none_match, if_range, asked);
        prop_assert_eq!(answer.status, status, "{}", request);
        let sent = answer.decision.body.map_or(vec![], |body| {
            (body.offset - OFFSET..body.offset - OFFSET + body.bytes).collect()
        });
        prop_assert_eq!(&sent, &bytes);
        let length = answer.field("Content-Length").map(str::to_owned);
        match status {
            200 => prop_assert_eq!(length, Some(size.to_string())),
            206 => {
                prop_assert_eq!(length, Some(bytes.len().to_string()));
                let range = format!("bytes {}-{}/{size}", bytes[0], bytes[bytes.len() - 1]);
                prop_assert_eq!(answer.field("Content-Range"), Some(range.as_str()));
            }
            416 => {
                let range = format!("bytes */{size}");
                prop_assert_eq!(answer.field("Content-Range"), Some(range.as_str()));
            }
            304 => prop_assert!(length.is_none() && answer.field("ETag").is_some()),
            _ => prop_assert!(get != answer.content.is_empty()),
        }
    }

    #[test]
    fn rubbish_is_refused_or_awaited_and_never_panics(
        text in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(&b"GET /~.HTP1\r\n: ab,\"=-"[..])], 0..300)
    ) {
        let site = site();
        let mut out = Vec::new();
        let outcome = decide(&text, &site.context(), &mut ConnectionMemory::default(), NOW, &mut out);
        match outcome {
            HeadOutcome::Incomplete => prop_assert!(out.is_empty()),
            HeadOutcome::Decided(decision) => {
                prop_assert!(decision.consumed <= text.len());
                prop_assert!(decision.body.is_none());
            }
        }
    }
}
