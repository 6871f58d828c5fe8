//! From a request's head to an answer's head, and to the bytes of a file that follow it.
//!
//! ```text
//! head -> method -> draining? -> token -> catalogue -> withdrawn? volume? -> preconditions -> range -> answer
//! ```
//!
//! The order is that of cost and of RFC 9110 §13.2.1: preconditions count only where the answer would else be 200.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use std::cell::RefCell;
use std::sync::Arc;

use content::box_config::Limits;
use content::catalogue::Entry;
use content::id::{CatalogueKey, ObjectId};
use content::token::{KeyRing, Opening, TokenError, split_target};
use jiff::fmt::rfc2822::DateTimePrinter;

use super::answer::{self, Extent, Object, Persistence, Refused};
use super::cmcd;
use super::conditional::{self, Verdict};
use super::head::{FIELD_ROOM, Head, HeadError, Method, Version};
use super::multipart::Multipart;
use super::pacing;
use super::range::{self, Selection};
use crate::clock::Wall;
use crate::endings::Ending;
use crate::holdings::{FileRef, Found, Generation, Holdings};
use crate::tuning::{Plant, Planted};

/// What a decision depends on besides the request. Borrowed from the worker.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub limits: &'a Limits,
    pub holdings: &'a Holdings,
    pub planted: Planted,
}

/// What a connection remembers from request to request: one token is verified once (about 50 µs).
#[derive(Default)]
pub struct ConnectionMemory {
    /// Requests decided on this connection.
    requests: u64,
    /// When the first of them was.
    first: Option<Wall>,
    /// Boxed, and without the token's text: most connections are idle, and there are many.
    verified: Option<Box<Verified>>,
}

struct Verified {
    /// The token's digest.
    token: ObjectId,
    opening: Opening,
    /// The keys it was verified with: others may not know it any more.
    keys: Arc<KeyRing>,
}

/// The bytes that follow the head. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    pub file: FileRef,
    /// Into the file's data; `offset + bytes <= file.data_bytes`.
    pub offset: u64,
    pub bytes: u64,
}

/// One request answered, but for its body.
pub struct Decision {
    /// How many bytes of the buffer were the head: drop them.
    pub consumed: usize,
    pub body: Option<Body>,
    /// The first part's head is written already, and `body` is the first part.
    pub parts: Option<Box<Multipart>>,
    /// Whether another request may follow. Once false, nothing behind `consumed` may be read as a request.
    pub keep_open: bool,
    /// How the request ends if its body is sent in full.
    pub ending: Ending,
    /// How the connection ends if `keep_open` is false and the answer is sent in full.
    pub close_ending: Ending,
    /// Held until the body is sent: what a request still uses is not unlinked.
    pub generation: Option<Arc<Generation>>,
    /// So many bytes a second at most; None: as fast as it goes.
    pub pace: Option<u64>,
    /// Where in the answer's head the time is written that its first block took, once that is known.
    pub wait_at: Option<usize>,
}

pub enum HeadOutcome {
    /// More bytes are needed; the buffer is below `limits.head_bytes_max`. Nothing was appended.
    Incomplete,
    Decided(Decision),
}

/// Decides the first request in `buffer` and appends its answer's head to `out`; a refusal brings its few words of
/// content along, so that it needs no body.
pub fn decide(
    buffer: &[u8],
    context: &Context<'_>,
    memory: &mut ConnectionMemory,
    now: Wall,
    out: &mut Vec<u8>,
) -> HeadOutcome {
    let mut room = FIELD_ROOM;
    let head = match Head::parse(buffer, context.limits, &mut room) {
        Ok(None) => return HeadOutcome::Incomplete,
        Ok(Some(head)) => head,
        Err(error) => return HeadOutcome::Decided(refuse_head(error, buffer.len(), now, out)),
    };
    memory.requests = memory.requests.saturating_add(1);
    let closing = closing(&head, context, memory);
    let first = *memory.first.get_or_insert(now);
    let mut reply = reply(&head, context, memory, now);
    let persistence = Persistence { version: head.version, keep_open: closing.is_none() };
    let wait_at = with_date(now, |date| reply.write(out, date, persistence, head.method));
    let ending = reply.ending();
    let body = reply.begin_body(out).filter(|_| head.method == Method::Get);
    HeadOutcome::Decided(Decision {
        consumed: head.bytes,
        body,
        parts: reply.take_parts(),
        keep_open: closing.is_none(),
        ending,
        close_ending: closing.unwrap_or(Ending::PeerClosed),
        pace: body.and_then(|_| pacing::pace(&cmcd::read(&head), &context.limits.pacing, first, now)),
        wait_at,
        generation: reply.generation(),
    })
}

/// Why the connection ends with this request, if it does.
fn closing(head: &Head<'_, '_>, context: &Context<'_>, memory: &ConnectionMemory) -> Option<Ending> {
    if head.content {
        Some(Ending::RefusalClosed)
    } else if !head.keep_open {
        Some(Ending::CloseAsked)
    } else if memory.requests >= context.limits.requests_per_connection_max {
        Some(Ending::RequestLimit)
    } else {
        context.holdings.draining().then_some(Ending::Drained)
    }
}

enum Reply {
    Object { generation: Arc<Generation>, entry: Entry, file: FileRef, max_age_s: i64, extent: Extent },
    NotModified { entry: Entry, max_age_s: i64 },
    Options,
    Refused { ending: Ending, detail: &'static str, size: Option<u64> },
}

fn refused(ending: Ending, detail: &'static str) -> Reply {
    Reply::Refused { ending, detail, size: None }
}

fn reply(head: &Head<'_, '_>, context: &Context<'_>, memory: &mut ConnectionMemory, now: Wall) -> Reply {
    if head.method == Method::Other {
        return refused(Ending::MethodRefused, "only GET, HEAD and OPTIONS are answered here");
    }
    if head.content {
        return refused(Ending::BodyRefused, "a request's content is not taken here");
    }
    if head.method == Method::Options {
        return Reply::Options;
    }
    if context.holdings.draining() {
        return refused(Ending::Draining, "this server takes no new requests; ask another");
    }
    let Some((token, path)) = split_target(head.path) else {
        return refused(Ending::TokenMissing, "the path does not start with /~ and a token");
    };
    let opened = memory.open(token, path, context.holdings.keys(), now);
    match opened {
        Ok(max_age_s) => look_up(head, path, context, max_age_s),
        Err(error) => refuse_token(error),
    }
}

fn look_up(head: &Head<'_, '_>, path: &str, context: &Context<'_>, max_age_s: i64) -> Reply {
    let generation = context.holdings.current();
    let (entry, file) = match generation.find(&CatalogueKey::of_path(path.as_bytes())) {
        Found::At { entry, file } => (entry, file),
        Found::VolumeAbsent => return refused(Ending::VolumeLost, "the object's volume is not there"),
        Found::NotHeld => return refused(Ending::NotHeld, "this server does not hold it"),
    };
    if context.holdings.is_withdrawn(file) && !context.planted.has(Plant::WithdrawnServed) {
        return refused(Ending::Withdrawn, "the object's file has a bad block; its refill is on the way");
    }
    if !context.holdings.volume_usable(file.volume) {
        return refused(Ending::VolumeLost, "the object's volume is gone or fails");
    }
    let tag = tag_of(entry.object);
    match conditional::evaluate(head, &tag) {
        Verdict::NotModified => return Reply::NotModified { entry, max_age_s },
        Verdict::Failed => return refused(Ending::PreconditionFailed, "If-Match names another object"),
        Verdict::Send => {}
    }
    match selection(head, &tag, entry.bytes) {
        Selection::Whole => Reply::Object { generation, entry, file, max_age_s, extent: Extent::Whole },
        Selection::Part(span) => {
            Reply::Object { generation, entry, file, max_age_s, extent: Extent::Part(span) }
        }
        Selection::Parts(parts) => {
            let media_type = entry.extension.media_type();
            let parts = Multipart::new(entry.object, entry.bytes, media_type, parts);
            let extent = Extent::Parts(Box::new(parts));
            Reply::Object { generation, entry, file, max_age_s, extent }
        }
        Selection::Unsatisfiable => Reply::Refused {
            ending: Ending::RangeUnsatisfiable,
            detail: "the range starts behind the object's end",
            size: Some(entry.bytes),
        },
    }
}

fn selection(head: &Head<'_, '_>, tag: &[u8], size: u64) -> Selection {
    // RFC 9110 §14.2: range handling is defined for GET alone; HEAD answers as if there were no Range.
    let field = head.single("range").filter(|_| head.method == Method::Get);
    let field = field.filter(|_| conditional::range_counts(head, tag));
    field.map_or(Selection::Whole, |field| range::select(field, size))
}

/// The opaque tag: the object's name, as its `Display` writes it, without an allocation.
fn tag_of(object: ObjectId) -> [u8; 64] {
    let digit = |value: u8| if value < 10 { b'0'.wrapping_add(value) } else { b'W'.wrapping_add(value) };
    let mut tag = [0; 64];
    let (pairs, _) = tag.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(object.as_bytes()) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    tag
}

fn refuse_token(error: TokenError) -> Reply {
    let (ending, detail) = match error {
        TokenError::Malformed => (Ending::TokenMalformed, "the token is malformed"),
        TokenError::UnknownKey => (Ending::TokenUnknownKey, "the token's key is not known here"),
        TokenError::BadSignature => (Ending::TokenBadSignature, "the token's signature is wrong"),
        TokenError::UnknownClaim => (Ending::TokenUnknownClaim, "the token has a claim not known here"),
        TokenError::NotYetValid => (Ending::TokenNotYetValid, "the token is not valid yet"),
        TokenError::Expired => (Ending::TokenExpired, "the token has expired"),
        TokenError::OtherContent => (Ending::TokenOtherContent, "the token is for something else"),
    };
    refused(ending, detail)
}

impl ConnectionMemory {
    /// Whether the token opens the path; for how many seconds yet.
    fn open(&mut self, token: &str, path: &str, keys: Arc<KeyRing>, now: Wall) -> Result<i64, TokenError> {
        let digest = ObjectId::of(token.as_bytes());
        let known = |verified: &Verified| verified.token == digest && Arc::ptr_eq(&verified.keys, &keys);
        let verified = match self.verified.take().filter(|verified| known(verified)) {
            Some(verified) => verified,
            None => Box::new(Verified { token: digest, opening: keys.verify(token)?.opening(), keys }),
        };
        let verified = self.verified.insert(verified);
        verified.opening.opens(path, now.timestamp())?;
        Ok(verified.opening.expires.as_second().saturating_sub(now.0))
    }
}

/// The date as text. One second's is written once a thread.
fn with_date<T>(now: Wall, write: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<Option<(Wall, String)>> = const { RefCell::new(None) };
    }
    DATE.with_borrow_mut(|date| {
        let written = date.take().filter(|(second, _)| *second == now);
        write(&date.insert(written.unwrap_or_else(|| (now, date_text(now)))).1)
    })
}

/// RFC 9110 §5.6.7, IMF-fixdate.
fn date_text(now: Wall) -> String {
    let printed = DateTimePrinter::new().timestamp_to_rfc9110_string(&now.timestamp());
    printed.unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

impl Reply {
    /// Gives where the wait for its first block is to be written.
    fn write(
        &self,
        out: &mut Vec<u8>,
        date: &str,
        persistence: Persistence,
        method: Method,
    ) -> Option<usize> {
        match self {
            Self::Object { entry, max_age_s, extent, .. } => {
                let object = object(entry, *max_age_s, extent);
                return Some(answer::write_object(out, date, &object, persistence));
            }
            Self::NotModified { entry, max_age_s } => {
                answer::write_not_modified(
                    out,
                    date,
                    &object(entry, *max_age_s, &Extent::Whole),
                    persistence,
                );
            }
            Self::Options => answer::write_options(out, date, persistence),
            Self::Refused { ending, detail, size } => {
                let head_only = method == Method::Head;
                let refused = Refused { ending: *ending, detail, size: *size, head_only };
                answer::write_refusal(out, date, &refused, persistence);
            }
        }
        None
    }

    /// The bytes that come first, behind the head. Writes what stands before the first of several parts.
    fn begin_body(&mut self, out: &mut Vec<u8>) -> Option<Body> {
        let Self::Object { entry, file, extent, .. } = self else { return None };
        let span = match extent {
            Extent::Whole => None,
            Extent::Part(span) => Some(*span),
            Extent::Parts(parts) => parts.next(out),
        };
        let (first, bytes) = span.map_or((0, entry.bytes), |span| (span.first(), span.count()));
        // In range: a generation is verified before it serves, and a selection lies within the entry.
        let offset = entry.offset.saturating_add(first);
        (bytes > 0).then_some(Body { file: *file, offset, bytes })
    }

    fn ending(&self) -> Ending {
        match self {
            Self::Object { extent: Extent::Part(_) | Extent::Parts(_), .. } => Ending::Partial,
            Self::Object { extent: Extent::Whole, .. } => Ending::Complete,
            Self::NotModified { .. } => Ending::NotModified,
            Self::Options => Ending::Preflight,
            Self::Refused { ending, .. } => *ending,
        }
    }

    /// What comes behind the first of several parts. Nothing else may be asked of the reply afterwards.
    fn take_parts(&mut self) -> Option<Box<Multipart>> {
        let Self::Object { extent, .. } = self else { return None };
        match std::mem::replace(extent, Extent::Whole) {
            Extent::Parts(parts) => Some(parts),
            Extent::Whole | Extent::Part(_) => None,
        }
    }

    fn generation(self) -> Option<Arc<Generation>> {
        match self {
            Self::Object { generation, .. } => Some(generation),
            Self::NotModified { .. } | Self::Options | Self::Refused { .. } => None,
        }
    }
}

fn object<'a>(entry: &Entry, max_age_s: i64, extent: &'a Extent) -> Object<'a> {
    let media_type = entry.extension.media_type();
    Object { object: entry.object, bytes: entry.bytes, media_type, extent, max_age_s }
}

fn refuse_head(error: HeadError, consumed: usize, now: Wall, out: &mut Vec<u8>) -> Decision {
    let (ending, detail) = match error {
        HeadError::Malformed(what) => (Ending::HeadMalformed, what),
        HeadError::TooLong => (Ending::HeadTooLong, "the request's head is too long"),
        HeadError::TooManyFields => (Ending::TooManyHeaders, "the request has too many header fields"),
        HeadError::Version => (Ending::VersionRefused, "HTTP/1.0 and HTTP/1.1 are spoken here"),
    };
    write_closing(ending, detail, false, now, out);
    let close_ending = Ending::RefusalClosed;
    Decision {
        consumed,
        body: None,
        parts: None,
        keep_open: false,
        ending,
        close_ending,
        generation: None,
        pace: None,
        wait_at: None,
    }
}

/// What the core may have to say by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A block could not be read or verified, and nothing of the answer has left yet: 503.
    DiskFailed,
    /// No memory or no place in a queue: 503.
    Overloaded,
    /// 408; closes.
    HeadTooSlow,
    /// 503; closes.
    TooManyConnections,
}

/// Appends a whole answer that takes the place of one whose head has not been sent: the caller first cuts that head
/// off `out`. `keep_open` is the decision's; what is returned replaces it.
pub fn refuse_after(refusal: Refusal, keep_open: bool, now: Wall, out: &mut Vec<u8>) -> bool {
    let (ending, detail, may_stay) = match refusal {
        Refusal::DiskFailed => (Ending::DiskFailed, "the object could not be read; ask another server", true),
        Refusal::Overloaded => (Ending::Overloaded, "this server is at its limit; ask another", true),
        Refusal::HeadTooSlow => (Ending::HeadTooSlow, "the request's head took too long", false),
        Refusal::TooManyConnections => (Ending::TooManyConnections, "too many connections", false),
    };
    let keep_open = keep_open && may_stay;
    write_closing(ending, detail, keep_open, now, out);
    keep_open
}

/// The request's version is not known here. `Connection: keep-alive` is what HTTP/1.0 needs to stay, and means
/// nothing new to HTTP/1.1.
fn write_closing(ending: Ending, detail: &str, keep_open: bool, now: Wall, out: &mut Vec<u8>) {
    let refused = Refused { ending, detail, size: None, head_only: false };
    let persistence = Persistence { version: Version::Http10, keep_open };
    answer::write_refusal(out, &date_text(now), &refused, persistence);
}
