//! The Range field, against the slowest obvious reading of RFC 9110 §14.
//!
//! Input: eight bytes, the object's size; then the field's value.

use appliance::http::range::{GAP_BYTES, PARTS_MAX, Selection, select};
use content::id::ByteSpan;

pub fn run(mut data: &[u8]) {
    let size = u64::from_le_bytes(crate::take(&mut data));
    // A longer number would not fit `Decimal`.
    let data = &data[..data.len().min(128)];
    check(data, size);
    check(data, size % 48);
}

fn check(field: &[u8], size: u64) {
    let found = select(field, size);
    let Some(selects) = slow(field, size) else {
        assert_eq!(found, Selection::Whole, "{size}: nothing is asked for");
        return;
    };
    let spans: Vec<_> = match found {
        // Only for being too many; each one takes two characters and a comma.
        Selection::Whole => return assert!(field.len() > 3 * PARTS_MAX, "{size}: a range is overlooked"),
        Selection::Unsatisfiable => Vec::new(),
        Selection::Part(span) => vec![span],
        Selection::Parts(parts) => parts.spans().collect(),
    };
    assert!(spans.len() <= PARTS_MAX && (spans.len() != 1) == !matches!(found, Selection::Part(_)));
    let sent = |at: u64| spans.iter().any(|span| (span.first()..=span.last()).contains(&at));
    for span in &spans {
        assert!(span.last() < size && selects(span.first()) && selects(span.last()));
        assert!(span.first() == 0 || !selects(span.first() - 1));
        assert!(span.last() == size - 1 || !selects(span.last() + 1));
    }
    for (index, span) in spans.iter().enumerate() {
        let apart = |other: &ByteSpan| {
            span.first().saturating_sub(other.last()) > GAP_BYTES
                || other.first().saturating_sub(span.last()) > GAP_BYTES
        };
        assert!(spans[index + 1..].iter().all(apart), "two parts could be one");
    }
    assert!(probes(size).all(|at| sent(at) || !selects(at)), "{size}: a byte that is asked for is not sent");
    if size < 48 {
        // So small an object has no gap that is worth a part.
        assert!(spans.len() <= 1);
    }
}

/// Every byte of a small object; the ends and the middle of a large one.
fn probes(size: u64) -> impl Iterator<Item = u64> {
    let ends = [0, 1, size / 2, size.saturating_sub(2), size.saturating_sub(1)];
    (0..size.min(48)).chain(ends).filter(move |at| *at < size)
}

type Selects = Box<dyn Fn(u64) -> bool>;

/// Whether a byte is asked for. None: the field asks for nothing that an answer could be a part for.
fn slow(field: &[u8], size: u64) -> Option<Selects> {
    let at = field.iter().position(|byte| *byte == b'=')?;
    if !field[..at].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let mut specs = Vec::new();
    for element in field[at + 1..].split(|byte| *byte == b',') {
        let mut element = element.to_vec();
        while element.first().is_some_and(blank) {
            element.remove(0);
        }
        while element.last().is_some_and(blank) {
            element.pop();
        }
        if !element.is_empty() {
            specs.push(element);
        }
    }
    let each: Vec<Selects> = specs.iter().map(|spec| slow_one(spec, size)).collect::<Option<_>>()?;
    (!each.is_empty()).then(|| Box::new(move |at| each.iter().any(|selects| selects(at))) as Selects)
}

fn slow_one(spec: &[u8], size: u64) -> Option<Selects> {
    let ends: Vec<&[u8]> = spec.split(|byte| *byte == b'-').collect();
    let [first, last] = ends[..] else { return None };
    if first.is_empty() {
        let count = Decimal::read(last)?;
        // No part of an empty object can be stated: the whole is the answer, unless nothing is asked for at all.
        if size == 0 && count != Decimal::of(0) {
            return None;
        }
        return Some(Box::new(move |at| Decimal::of(size - at) <= count));
    }
    let first = Decimal::read(first)?;
    if last.is_empty() {
        return Some(Box::new(move |at| first <= Decimal::of(at)));
    }
    let last = Decimal::read(last)?;
    (first <= last).then(|| Box::new(move |at| first <= Decimal::of(at) && Decimal::of(at) <= last) as Box<_>)
}

/// A number of any length: its digits with zeros before them, so that text order is the order of numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Decimal(String);

impl Decimal {
    fn read(digits: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(digits).ok()?;
        (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).then(|| Self(format!("{text:0>130}")))
    }

    fn of(number: u64) -> Self {
        Self(format!("{number:0>130}"))
    }
}
