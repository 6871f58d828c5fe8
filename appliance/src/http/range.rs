//! The Range field (RFC 9110 §14): which bytes of an object an answer carries.
//!
//! A set of several ranges is served in the order in which it is asked, but that those which overlap or nearly touch become
//! one, where the first of them stands. More than [`PARTS_MAX`] after that are an attack or a mistake (§17.15): the field
//! is ignored, as is one that breaks the grammar, and the whole is sent.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use content::id::ByteSpan;

/// Parts of one answer.
pub const PARTS_MAX: usize = 16;
/// RFC 9110 §15.3.7.2: about what a part's own head takes. Ranges with a gap of fewer bytes between them are one.
pub const GAP_BYTES: u64 = 80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is on the stack for one decision, and a box would be an allocation"
)]
pub enum Selection {
    Whole,
    Part(ByteSpan),
    /// Two or more.
    Parts(Parts),
    /// 416.
    Unsatisfiable,
}

/// Spans of one object that neither overlap nor nearly touch, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Behind the last one: nothing.
    spans: [Option<ByteSpan>; PARTS_MAX],
}

impl Parts {
    const NONE: Self = Self { spans: [None; PARTS_MAX] };

    pub fn spans(&self) -> impl Iterator<Item = ByteSpan> + '_ {
        self.spans.iter().map_while(|span| *span)
    }

    pub fn at(&self, index: usize) -> Option<ByteSpan> {
        self.spans.get(index).copied().flatten()
    }

    /// None: there are too many.
    fn add(mut self, mut span: ByteSpan) -> Option<Self> {
        let mut place = None;
        // One that grew may now touch another that was passed over.
        loop {
            let touching = self.spans().position(|other| are_one(other, span));
            let Some(other) = touching else { break };
            span = joined(self.at(other)?, span)?;
            place = Some(place.map_or(other, |place: usize| place.min(other)));
            self.remove(other);
        }
        let end = self.spans().count();
        self.insert(place.unwrap_or(end), span)
    }

    fn remove(&mut self, index: usize) {
        if let Some(rest) = self.spans.get_mut(index..) {
            rest.rotate_left(1);
            rest.last_mut().into_iter().for_each(|last| *last = None);
        }
    }

    fn insert(mut self, index: usize, span: ByteSpan) -> Option<Self> {
        let free = self.spans.last().is_some_and(Option::is_none);
        let rest = self.spans.get_mut(index..).filter(|_| free)?;
        rest.rotate_right(1);
        *rest.first_mut()? = Some(span);
        Some(self)
    }
}

fn are_one(one: ByteSpan, other: ByteSpan) -> bool {
    let (left, right) = if one.first() <= other.first() { (one, other) } else { (other, one) };
    right.first() <= left.last().saturating_add(GAP_BYTES)
}

fn joined(one: ByteSpan, other: ByteSpan) -> Option<ByteSpan> {
    ByteSpan::new(one.first().min(other.first()), one.last().max(other.last()))
}

/// What the value of a Range field selects of an object of `size` bytes.
pub fn select(field: &[u8], size: u64) -> Selection {
    select_parts(field, size).unwrap_or(Selection::Whole)
}

/// None: the field is to be ignored.
fn select_parts(field: &[u8], size: u64) -> Option<Selection> {
    let mut parts = Parts::NONE;
    let mut any = false;
    for spec in specs(field)? {
        any = true;
        match satisfy(parse_spec(spec)?, size) {
            Selection::Part(span) => parts = parts.add(span)?,
            // RFC 9110 §14.1.1: a set is satisfiable if one of its ranges is.
            Selection::Unsatisfiable => {}
            Selection::Whole | Selection::Parts(_) => return None,
        }
    }
    if !any {
        return None;
    }
    Some(match (parts.at(0), parts.at(1)) {
        (None, _) => Selection::Unsatisfiable,
        (Some(span), None) => Selection::Part(span),
        (Some(_), Some(_)) => Selection::Parts(parts),
    })
}

fn satisfy(spec: Spec, size: u64) -> Selection {
    match spec {
        Spec::From(first) => from(first, u64::MAX, size),
        Spec::Between(first, last) => from(first, last, size),
        Spec::Suffix(count) => suffix(count, size),
    }
}

/// Numbers past the end of `u64` are `u64::MAX`: no object reaches there, so they mean the same.
#[derive(Clone, Copy)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Suffix(u64),
}

/// The elements of the set. None: it is not one of bytes.
fn specs(field: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let at = field.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = field.split_at_checked(at)?;
    // RFC 9110 §14.1: range units are case-insensitive.
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    // RFC 9110 §5.6.1.2: empty elements of a list are ignored.
    let elements = set.get(1..)?.split(|byte| *byte == b',').map(trim);
    Some(elements.filter(|element| !element.is_empty()))
}

fn parse_spec(spec: &[u8]) -> Option<Spec> {
    let at = spec.iter().position(|byte| *byte == b'-')?;
    let (first, rest) = spec.split_at_checked(at)?;
    let last = rest.get(1..)?;
    match (first.is_empty(), last.is_empty()) {
        (true, _) => Some(Spec::Suffix(number(last)?)),
        (false, true) => Some(Spec::From(number(first)?)),
        (false, false) => {
            let spec = Spec::Between(number(first)?, number(last)?);
            // RFC 9110 §14.1.1: a range whose end is below its start is invalid.
            (!less(last, first)).then_some(spec)
        }
    }
}

fn from(first: u64, last: u64, size: u64) -> Selection {
    // RFC 9110 §14.1.2: satisfiable if it starts within the object; an end behind the object's end is its end.
    let end = size.checked_sub(1).map(|end| end.min(last));
    let span = end.and_then(|end| ByteSpan::new(first, end));
    span.map_or(Selection::Unsatisfiable, Selection::Part)
}

fn suffix(count: u64, size: u64) -> Selection {
    if count == 0 {
        return Selection::Unsatisfiable;
    }
    // RFC 9110 §14.1.2: a suffix longer than the object selects all of it; of an empty object that is no
    // range that Content-Range could state, so the answer is the whole.
    let first = size.saturating_sub(count);
    ByteSpan::from_offset(first, size.saturating_sub(first)).map_or(Selection::Whole, Selection::Part)
}

/// RFC 9110 §5.6.3: optional whitespace is spaces and tabs.
fn trim(element: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = element.iter().position(|byte| !blank(byte)).unwrap_or(element.len());
    let end = element.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last.saturating_add(1));
    element.get(start..end).unwrap_or_default()
}

/// `1*DIGIT`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let next =
        |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0')));
    Some(digits.iter().fold(0, next))
}

/// Compares two numbers of any length by their digits.
fn less(left: &[u8], right: &[u8]) -> bool {
    let significant = |digits: &[u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let left = left.get(significant(left)..).unwrap_or_default();
    let right = right.get(significant(right)..).unwrap_or_default();
    (left.len(), left) < (right.len(), right)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(first: u64, last: u64) -> Selection {
        Selection::Part(ByteSpan::new(first, last).unwrap())
    }

    fn parts(spans: &[(u64, u64)]) -> Selection {
        let span = |(first, last): &(u64, u64)| ByteSpan::new(*first, *last).unwrap();
        Selection::Parts(spans.iter().map(span).try_fold(Parts::NONE, Parts::add).unwrap())
    }

    #[test]
    fn parts_stand_in_the_order_asked_for_and_those_that_touch_stand_where_the_first_of_them_does() {
        let at = |field: &str| select(field.as_bytes(), 10_000);
        assert_eq!(at("bytes=5000-5009,0-9"), parts(&[(5000, 5009), (0, 9)]));
        assert_eq!(at("bytes=5000-5009,0-9,5050-5059"), parts(&[(5000, 5059), (0, 9)]));
        // The last one joins the two before it.
        assert_eq!(at("bytes=9000-9009,0-9,300-309,10-299"), parts(&[(9000, 9009), (0, 309)]));
        assert_eq!(at("bytes=0-9,89-99"), part(0, 99), "a gap of 79");
        assert_eq!(at("bytes=0-9,90-99"), parts(&[(0, 9), (90, 99)]), "a gap of 80");
        assert_eq!(at("bytes=20000-,7-8,-0"), part(7, 8), "what cannot be satisfied is left out");
        assert_eq!(at("bytes=20000-,-0"), Selection::Unsatisfiable);
        assert_eq!(at("bytes=7-8,8-7"), Selection::Whole, "one that is invalid spoils the set");
    }

    #[test]
    fn as_many_parts_as_there_may_be_are_served_and_with_more_the_field_is_ignored() {
        let field = |count: u64| {
            let ranges: Vec<_> = (0..count).map(|at| format!("{}-{}", at * 200, at * 200 + 9)).collect();
            format!("bytes={}", ranges.join(","))
        };
        let most = u64::try_from(PARTS_MAX).unwrap();
        let Selection::Parts(found) = select(field(most).as_bytes(), 10_000) else { panic!("not parts") };
        assert_eq!(found.spans().count(), PARTS_MAX);
        assert_eq!(select(field(most + 1).as_bytes(), 10_000), Selection::Whole);
        // A thousand that overlap are one.
        let overlapping = format!("bytes={}", vec!["0-"; 1000].join(","));
        assert_eq!(select(overlapping.as_bytes(), 10_000), part(0, 9_999));
    }

    #[test]
    fn the_examples_of_the_rfc_select_what_it_says() {
        // RFC 9110 §14.1.2, of an object of 10000 bytes.
        for (field, expected) in [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(9500, 9999)),
            ("bytes=9500-", part(9500, 9999)),
            ("bytes=0-0,-1", parts(&[(0, 0), (9999, 9999)])),
            ("bytes= 0-999, 4500-5499, -1000", parts(&[(0, 999), (4500, 5499), (9000, 9999)])),
            ("bytes=500-600,601-999", part(500, 999)),
            ("bytes=500-700,601-999", part(500, 999)),
        ] {
            assert_eq!(select(field.as_bytes(), 10_000), expected, "{field}");
        }
    }

    #[test]
    fn numbers_of_any_length_are_compared_exactly() {
        let nines = "9".repeat(40);
        let above = format!("1{}", "0".repeat(40));
        let at = |field: String| select(field.as_bytes(), 10);
        assert_eq!(at(format!("bytes=3-{nines}")), part(3, 9));
        assert_eq!(at(format!("bytes={nines}-{above}")), Selection::Unsatisfiable);
        assert_eq!(at(format!("bytes={above}-{nines}")), Selection::Whole);
        assert_eq!(at(format!("bytes=-{nines}")), part(0, 9));
        assert_eq!(at("bytes=00000000000000000000000000003-004".to_owned()), part(3, 4));
        assert_eq!(select(b"bytes=0-18446744073709551615", u64::MAX), part(0, u64::MAX - 1));
    }

    /// The slowest obvious reading: asks of every byte whether the field selects it. None: the field says nothing.
    fn oracle(field: &str, size: u64) -> Option<Vec<u64>> {
        let (unit, set) = field.split_once('=')?;
        if unit.to_lowercase() != "bytes" {
            return None;
        }
        let specs: Vec<&str> =
            set.split(',').map(|s| s.trim_matches([' ', '\t'])).filter(|s| !s.is_empty()).collect();
        let chosen: Vec<Vec<u64>> =
            specs.iter().map(|spec| oracle_of_one(spec, size)).collect::<Option<_>>()?;
        (!chosen.is_empty()).then(|| {
            let mut bytes: Vec<u64> = chosen.concat();
            bytes.sort_unstable();
            bytes.dedup();
            bytes
        })
    }

    fn oracle_of_one(spec: &str, size: u64) -> Option<Vec<u64>> {
        let pieces: Vec<&str> = spec.split('-').collect();
        let [first, last] = pieces[..] else { return None };
        let value = |text: &str| -> Option<u128> {
            (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).then(|| text.parse().unwrap())
        };
        let chosen: Box<dyn Fn(u128) -> bool> = if first.is_empty() {
            let count = value(last)?;
            Box::new(move |at| at + count >= u128::from(size))
        } else {
            let first = value(first)?;
            let last = if last.is_empty() { u128::MAX } else { value(last)? };
            if last < first {
                return None;
            }
            Box::new(move |at| first <= at && at <= last)
        };
        // "At least the last byte of none" is how a suffix of an empty object is satisfiable.
        if size == 0 && first.is_empty() && value(last)? > 0 {
            return None;
        }
        Some((0..size).filter(|at| chosen(u128::from(*at))).collect())
    }

    fn fields() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            "[0-9]{0,3}",
            "[0-9]{0,2}",
            Just("18446744073709551615".to_owned()),
            Just("18446744073709551616".to_owned()),
            Just("0007".to_owned())
        ];
        let spec = (number.clone(), number, prop_oneof![8 => Just("-"), 1 => Just("--"), 1 => Just(" - ")])
            .prop_map(|(first, last, dash)| format!("{first}{dash}{last}"));
        let set = proptest::collection::vec(prop_oneof![5 => spec, 1 => Just(String::new())], 1..6);
        let unit = prop_oneof![6 => Just("bytes="), 1 => Just("Bytes="), 1 => Just("bytes ="), 1 => Just("lines="), 1 => Just("")];
        let joint = prop_oneof![Just(","), Just(" ,\t")];
        (unit, set, joint).prop_map(|(unit, set, joint)| format!("{unit}{}", set.join(joint)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn a_selection_is_the_bytes_that_the_slowest_reading_selects(field in fields(), size in 0u64..1000) {
            let found = match select(field.as_bytes(), size) {
                Selection::Whole => None,
                Selection::Unsatisfiable => Some(vec![]),
                Selection::Part(span) => Some(vec![span]),
                Selection::Parts(parts) => Some(parts.spans().collect::<Vec<_>>()),
            };
            let asked = oracle(&field, size);
            let (Some(found), Some(asked)) = (&found, &asked) else {
                prop_assert_eq!(found.is_some(), asked.is_some(), "{} of {}", field, size);
                return Ok(());
            };
            let sent: Vec<u64> = found.iter().flat_map(|span| span.first()..=span.last()).collect();
            prop_assert!(asked.iter().all(|at| sent.contains(at)), "{} of {}: {:?}", field, size, found);
            // What is sent unasked lies in a gap between two that were asked.
            for span in found {
                prop_assert!(asked.contains(&span.first()) && asked.contains(&span.last()));
                let gap = (span.first()..=span.last()).try_fold(0, |gap, at| {
                    let gap = if asked.contains(&at) { 0 } else { gap + 1 };
                    (gap < GAP_BYTES).then_some(gap)
                });
                prop_assert!(gap.is_some(), "{} of {}: {:?}", field, size, span);
            }
            // No two of them could have been one.
            for (index, span) in found.iter().enumerate() {
                for other in found.iter().skip(index + 1) {
                    let apart = |low: &ByteSpan, high: &ByteSpan| high.first() > low.last() + GAP_BYTES;
                    prop_assert!(apart(span, other) || apart(other, span), "{} of {}", field, size);
                }
            }
        }

        #[test]
        fn rubbish_never_panics(field in proptest::collection::vec(any::<u8>(), 0..40), size: u64) {
            match select(&field, size) {
                Selection::Part(span) => prop_assert!(span.last() < size),
                Selection::Parts(parts) => prop_assert!(parts.spans().all(|span| span.last() < size)),
                Selection::Whole | Selection::Unsatisfiable => {}
            }
        }
    }
}
