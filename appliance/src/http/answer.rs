//! Writes answers' heads, and the few words that a refusal says (RFC 9110 §6 to §15).
//!
//! Every answer lets any page read it: what may be fetched is decided by the token in the path, never by cookies or by
//! where a page comes from, so nothing is given away (Fetch standard §3.3).

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use std::fmt::{self, Arguments};
use std::io::Write as _;

use content::id::{ByteSpan, ObjectId};

use crate::endings::Ending;

use super::head::Version;
use super::multipart::Multipart;

const COMMON: &str = "Access-Control-Allow-Origin: *\r\n\
    Access-Control-Expose-Headers: Accept-Ranges, Cache-Status, Content-Length, Content-Range, Date, ETag, \
     Repr-Digest, Retry-After, Server-Timing\r\n\
    Cross-Origin-Resource-Policy: cross-origin\r\n\
    Timing-Allow-Origin: *\r\n";
const METHODS: &str = "GET, HEAD, OPTIONS";
/// What a player's requests may carry across origins. CMCD: CTA-5004 §2.
const REQUEST_FIELDS: &str =
    "CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status, If-Match, If-None-Match, If-Range, Range";

/// How an answer leaves the connection, which its head says where the version's default differs (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    pub version: Version,
    pub keep_open: bool,
}

/// How much of an object an answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    Part(ByteSpan),
    /// Boxed: few requests have it, and every connection would keep room for it.
    Parts(Box<Multipart>),
}

/// An answer without content of its own, or with content that a disk brings.
pub struct Object<'a> {
    pub object: ObjectId,
    pub bytes: u64,
    pub media_type: &'a str,
    pub extent: &'a Extent,
    /// Seconds that a copy of it may be used without asking.
    pub max_age_s: i64,
}

/// A wait in milliseconds, as `write_wait` writes it.
const WAIT_FORM: &str = "000000.0";

/// 200 or 206. Gives where [`write_wait`] is to write.
pub fn write_object(out: &mut Vec<u8>, date: &str, object: &Object<'_>, persistence: Persistence) -> usize {
    let status = if *object.extent == Extent::Whole { "200 OK" } else { "206 Partial Content" };
    start(out, status, date);
    match object.extent {
        Extent::Whole => typed(out, object.media_type, object.bytes),
        Extent::Part(span) => {
            typed(out, object.media_type, span.count());
            put(out, format_args!("Content-Range: bytes {span}/{}\r\n", object.bytes));
        }
        // RFC 9110 §15.3.7.2: no Content-Range here; each part has its own.
        Extent::Parts(parts) => {
            let count = parts.count(out);
            put(out, format_args!("Content-Type: multipart/byteranges; boundary={}\r\n", parts.boundary()));
            put(out, format_args!("Content-Length: {count}\r\n"));
        }
    }
    text(out, "Accept-Ranges: bytes\r\n");
    validators(out, object);
    // W3C Server Timing: how long the first block was waited for.
    text(out, "Server-Timing: block;dur=");
    let wait_at = out.len();
    put(out, format_args!("{WAIT_FORM}\r\n"));
    finish(out, persistence);
    wait_at
}

/// Overwrites the wait in a head that [`write_object`] wrote.
pub fn write_wait(head: &mut [u8], wait_at: usize, wait_us: u64) {
    let Some(mut place) = head.get_mut(wait_at..).and_then(|rest| rest.get_mut(..WAIT_FORM.len())) else {
        return;
    };
    let tenths = (wait_us / 100).min(9_999_999);
    let written = write!(place, "{:06}.{}", tenths / 10, tenths % 10);
    debug_assert!(written.is_ok(), "eight characters fit");
}

fn typed(out: &mut Vec<u8>, media_type: &str, count: u64) {
    put(out, format_args!("Content-Type: {media_type}\r\nContent-Length: {count}\r\n"));
}

/// 304: the fields that a cache may have to update, and no length (RFC 9110 §15.4.5).
pub fn write_not_modified(out: &mut Vec<u8>, date: &str, object: &Object<'_>, persistence: Persistence) {
    start(out, "304 Not Modified", date);
    validators(out, object);
    finish(out, persistence);
}

/// 204 to OPTIONS, be it a browser's preflight or not. No length: RFC 9110 §8.6 forbids it with 204.
pub fn write_options(out: &mut Vec<u8>, date: &str, persistence: Persistence) {
    start(out, "204 No Content", date);
    put(out, format_args!("Allow: {METHODS}\r\nAccess-Control-Allow-Methods: {METHODS}\r\n"));
    put(out, format_args!("Access-Control-Allow-Headers: {REQUEST_FIELDS}\r\n"));
    // Two hours: what Chromium caps it at.
    text(out, "Access-Control-Max-Age: 7200\r\n");
    finish(out, persistence);
}

/// What a refusal says, and whether its content goes along.
pub struct Refused<'a> {
    pub ending: Ending,
    /// A few words for a person.
    pub detail: &'a str,
    /// The object's size, for 416.
    pub size: Option<u64>,
    /// An answer to HEAD has no content, but says its length (RFC 9110 §9.3.2).
    pub head_only: bool,
}

pub fn write_refusal(out: &mut Vec<u8>, date: &str, refused: &Refused<'_>, persistence: Persistence) {
    let form = form_of(refused.ending);
    let label = refused.ending.label();
    start(out, form.status, date);
    // `label: detail` and a newline.
    let length = label.len().saturating_add(refused.detail.len()).saturating_add(3);
    put(out, format_args!("Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n"));
    // What is refused now may be served a second later.
    text(out, "Cache-Control: no-store\r\n");
    if let Some(forward) = form.forward {
        put(out, format_args!("Cache-Status: oca; fwd={forward}; detail={label}\r\n"));
    }
    if let Some(seconds) = form.retry_after_s {
        put(out, format_args!("Retry-After: {seconds}\r\n"));
    }
    if refused.ending == Ending::MethodRefused {
        put(out, format_args!("Allow: {METHODS}\r\n"));
    }
    if let Some(size) = refused.size {
        put(out, format_args!("Content-Range: bytes */{size}\r\n"));
    }
    finish(out, persistence);
    if !refused.head_only {
        put(out, format_args!("{label}: {}\n", refused.detail));
    }
}

struct Form {
    status: &'static str,
    /// RFC 9211 §2.2: why this is no hit. Nothing is ever forwarded; it is the vocabulary for the reason.
    forward: Option<&'static str>,
    retry_after_s: Option<u32>,
}

fn form_of(ending: Ending) -> Form {
    let plain = |status| Form { status, forward: None, retry_after_s: None };
    let busy = |forward, seconds| Form {
        status: "503 Service Unavailable",
        forward: Some(forward),
        retry_after_s: Some(seconds),
    };
    match ending {
        Ending::HeadMalformed => plain("400 Bad Request"),
        Ending::TokenMissing
        | Ending::TokenMalformed
        | Ending::TokenUnknownKey
        | Ending::TokenBadSignature
        | Ending::TokenUnknownClaim
        | Ending::TokenNotYetValid
        | Ending::TokenExpired
        | Ending::TokenOtherContent => plain("403 Forbidden"),
        Ending::NotHeld => Form { status: "404 Not Found", forward: Some("miss"), retry_after_s: None },
        Ending::MethodRefused => plain("405 Method Not Allowed"),
        Ending::HeadTooSlow => plain("408 Request Timeout"),
        Ending::PreconditionFailed => plain("412 Precondition Failed"),
        Ending::BodyRefused => plain("413 Content Too Large"),
        Ending::RangeUnsatisfiable => plain("416 Range Not Satisfiable"),
        Ending::HeadTooLong | Ending::TooManyHeaders => plain("431 Request Header Fields Too Large"),
        Ending::VersionRefused => plain("505 HTTP Version Not Supported"),
        // A refill takes a while; a drained box does not come back soon; an overload passes.
        Ending::Withdrawn | Ending::VolumeLost => busy("miss", 60),
        Ending::DiskFailed => busy("miss", 5),
        Ending::Draining => busy("bypass", 60),
        Ending::Overloaded | Ending::TooManyConnections => busy("bypass", 2),
        Ending::Complete
        | Ending::Partial
        | Ending::NotModified
        | Ending::Preflight
        | Ending::PeerClosed
        | Ending::PeerClosedEarly
        | Ending::PeerReset
        | Ending::CloseAsked
        | Ending::RefusalClosed
        | Ending::RequestLimit
        | Ending::IdleTooLong
        | Ending::PipelineTooLong
        | Ending::HandshakeTooSlow
        | Ending::HandshakeFailed
        | Ending::TooManyHandshakes
        | Ending::ProxyMalformed
        | Ending::TlsBroken
        | Ending::SendStalled
        | Ending::RequestTooLong
        | Ending::BodyFailed
        | Ending::Drained
        | Ending::Stopped
        | Ending::HostFailed => plain("500 Internal Server Error"),
    }
}

fn validators(out: &mut Vec<u8>, object: &Object<'_>) {
    put(out, format_args!("ETag: \"{}\"\r\n", object.object));
    // Immutable (RFC 8246): the path holds the bytes' digest. Private, and no longer than the token lives: a shared cache
    // would go on answering for a token that this server refuses.
    put(out, format_args!("Cache-Control: private, max-age={}, immutable\r\n", object.max_age_s));
    // RFC 9530; the digest is the object's name. Its algorithm is not in IANA's table yet: who does not know it passes it by.
    put(out, format_args!("Repr-Digest: blake3=:{}:\r\n", Base64(object.object.as_bytes())));
    text(out, "Cache-Status: oca; hit\r\n");
}

/// RFC 4648 §4, without an allocation.
struct Base64<'a>(&'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |bits: u32| DIGITS.get(usize::try_from(bits & 63).unwrap_or_default()).copied();
        for group in self.0.chunks(3) {
            let byte = |place| u32::from(group.get(place).copied().unwrap_or_default());
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let digit = digit(bits >> shift).filter(|_| place <= group.len());
                fmt::Write::write_char(formatter, char::from(digit.unwrap_or(b'=')))?;
            }
        }
        Ok(())
    }
}

fn start(out: &mut Vec<u8>, status: &str, date: &str) {
    put(out, format_args!("HTTP/1.1 {status}\r\nDate: {date}\r\n"));
    text(out, COMMON);
}

fn finish(out: &mut Vec<u8>, persistence: Persistence) {
    match (persistence.version, persistence.keep_open) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => text(out, "Connection: keep-alive\r\n"),
        (Version::Http10 | Version::Http11, false) => text(out, "Connection: close\r\n"),
    }
    text(out, "\r\n");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put(out: &mut Vec<u8>, arguments: Arguments<'_>) {
    let written = out.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}
