//! Conditional requests (RFC 9110 §13) on objects that have one strong entity tag and no date.
//!
//! If-Modified-Since and If-Unmodified-Since are ignored, as §13.1.3 and §13.1.4 demand where no modification date is
//! known: an object's name is the digest of its bytes, so its tag never changes and a date would say less.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use super::head::Head;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Send,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates a GET's or HEAD's preconditions in the order of RFC 9110 §13.2.2. `tag` is the object's opaque tag,
/// without quotes.
pub fn evaluate(head: &Head<'_, '_>, tag: &[u8]) -> Verdict {
    let mut match_fields = head.values("if-match").peekable();
    // §13.1.1: the strong comparison, which no weak tag passes.
    if match_fields.peek().is_some() && !matches(match_fields, tag, Comparison::Strong) {
        return Verdict::Failed;
    }
    // §13.1.2: the weak comparison; for GET and HEAD a match is 304.
    let none_match_fields = head.values("if-none-match");
    if matches(none_match_fields, tag, Comparison::Weak) { Verdict::NotModified } else { Verdict::Send }
}

/// Whether If-Range lets the Range field count (RFC 9110 §13.1.5): it is absent, or names this object strongly.
pub fn range_counts(head: &Head<'_, '_>, tag: &[u8]) -> bool {
    if head.values("if-range").next().is_none() {
        return true;
    }
    // A date never matches: there is none to compare with. Neither do two fields, as the field may be there once.
    let Some(field) = head.single("if-range") else { return false };
    match entity_tag(field) {
        Some((found, [])) => found.same(tag, Comparison::Strong),
        Some(_) | None => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

struct EntityTag<'b> {
    weak: bool,
    opaque: &'b [u8],
}

impl EntityTag<'_> {
    /// RFC 9110 §8.8.3.2; our own tags are strong.
    fn same(&self, tag: &[u8], comparison: Comparison) -> bool {
        self.opaque == tag && (comparison == Comparison::Weak || !self.weak)
    }
}

/// Whether the fields together are `*`, or a list with a tag that matches. A list that breaks the grammar matches
/// nothing, so that it neither spares a transfer nor lets one through that asked to be guarded.
fn matches<'b>(fields: impl Iterator<Item = &'b [u8]>, tag: &[u8], comparison: Comparison) -> bool {
    let mut count = 0usize;
    let mut any = false;
    let mut star = false;
    for field in fields {
        count = count.saturating_add(1);
        if field == b"*" {
            star = true;
            continue;
        }
        match list_matches(field, tag, comparison) {
            Some(found) => any |= found,
            None => return false,
        }
    }
    if star { count == 1 } else { any }
}

/// None: not `#entity-tag`.
fn list_matches(field: &[u8], tag: &[u8], comparison: Comparison) -> Option<bool> {
    let mut rest = field;
    let mut any = false;
    loop {
        rest = skip(rest, |byte| matches!(byte, b' ' | b'\t' | b','));
        if rest.is_empty() {
            return Some(any);
        }
        let (found, behind) = entity_tag(rest)?;
        any |= found.same(tag, comparison);
        let behind = skip(behind, |byte| matches!(byte, b' ' | b'\t'));
        match behind.first() {
            None | Some(b',') => rest = behind,
            Some(_) => return None,
        }
    }
}

/// `[ "W/" ] DQUOTE *etagc DQUOTE` and what is behind it (RFC 9110 §8.8.3). A tag may hold commas.
fn entity_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, text) = match text.strip_prefix(b"W/") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|byte| *byte == b'"')?;
    let (opaque, behind) = text.split_at_checked(end)?;
    let allowed = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    opaque.iter().all(allowed).then_some((EntityTag { weak, opaque }, behind.get(1..)?))
}

fn skip(text: &[u8], unwanted: impl Fn(&u8) -> bool) -> &[u8] {
    let start = text.iter().position(|byte| !unwanted(byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}
