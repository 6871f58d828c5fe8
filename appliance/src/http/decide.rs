//! From a request's head to an answer's head, and to the bytes of a file that follow it.

use std::sync::Arc;

use content::box_config::Limits;
use content::token::{Claims, KeyRing};

use crate::clock::Wall;
use crate::endings::Ending;
use crate::holdings::{FileRef, Generation, Holdings};

/// What a decision depends on besides the request. Borrowed from the worker.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub limits: &'a Limits,
    pub holdings: &'a Holdings,
}

/// What a connection remembers from request to request: one token is verified once (about 50 µs).
#[derive(Default)]
pub struct ConnectionMemory {
    /// Requests decided on this connection.
    requests: u64,
    verified: Option<Verified>,
}

struct Verified {
    token: String,
    claims: Claims,
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
    /// Whether another request may follow. Once false, nothing behind `consumed` may be read as a request.
    pub keep_open: bool,
    /// How the request ends if its body is sent in full.
    pub ending: Ending,
    /// How the connection ends if `keep_open` is false and the answer is sent in full.
    pub close_ending: Ending,
    /// Held until the body is sent: what a request still uses is not unlinked.
    pub generation: Option<Arc<Generation>>,
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
    let _ = (buffer, context, &memory.verified, now, out);
    memory.requests = memory.requests.saturating_add(1);
    HeadOutcome::Incomplete
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
    let _ = (refusal, now, out);
    keep_open
}
