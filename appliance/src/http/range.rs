//! The Range field (RFC 9110 §14): which bytes of an object an answer carries.
//!
//! One range is served. A set of several is ignored, which RFC 9110 §14.2 allows: the whole is sent. So is one that breaks
//! the grammar.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use content::id::ByteSpan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    Part(ByteSpan),
    /// 416.
    Unsatisfiable,
}

/// What the value of a Range field selects of an object of `size` bytes.
pub fn select(field: &[u8], size: u64) -> Selection {
    match parse(field) {
        Some(Spec::From(first)) => from(first, u64::MAX, size),
        Some(Spec::Between(first, last)) => from(first, last, size),
        Some(Spec::Suffix(count)) => suffix(count, size),
        None => Selection::Whole,
    }
}

/// Numbers past the end of `u64` are `u64::MAX`: no object reaches there, so they mean the same.
#[derive(Clone, Copy)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Suffix(u64),
}

/// None: not `bytes`, not valid, or several.
fn parse(field: &[u8]) -> Option<Spec> {
    let at = field.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = field.split_at_checked(at)?;
    // RFC 9110 §14.1: range units are case-insensitive.
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    // RFC 9110 §5.6.1.2: empty elements of a list are ignored.
    let elements = set.get(1..)?.split(|byte| *byte == b',').map(trim);
    let mut specs = elements.filter(|element| !element.is_empty());
    let only = specs.next()?;
    if specs.next().is_some() {
        return None;
    }
    parse_spec(only)
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

    #[test]
    fn the_examples_of_the_rfc_select_what_it_says() {
        // RFC 9110 §14.1.2, of an object of 10000 bytes.
        for (field, expected) in [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(9500, 9999)),
            ("bytes=9500-", part(9500, 9999)),
            ("bytes=0-0,-1", Selection::Whole),
            ("bytes= 0-999, 4500-5499, -1000", Selection::Whole),
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
        let [spec] = specs[..] else { return None };
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
            "[0-9]{0,2}",
            "[0-9]{0,2}",
            Just("18446744073709551615".to_owned()),
            Just("18446744073709551616".to_owned()),
            Just("0007".to_owned())
        ];
        let spec = (number.clone(), number, prop_oneof![8 => Just("-"), 1 => Just("--"), 1 => Just(" - ")])
            .prop_map(|(first, last, dash)| format!("{first}{dash}{last}"));
        let set = proptest::collection::vec(prop_oneof![5 => spec, 1 => Just(String::new())], 1..3);
        let unit = prop_oneof![6 => Just("bytes="), 1 => Just("Bytes="), 1 => Just("bytes ="), 1 => Just("lines="), 1 => Just("")];
        let joint = prop_oneof![Just(","), Just(" ,\t")];
        (unit, set, joint).prop_map(|(unit, set, joint)| format!("{unit}{}", set.join(joint)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn a_selection_is_the_bytes_that_the_slowest_reading_selects(field in fields(), size in 0u64..40) {
            let found = match select(field.as_bytes(), size) {
                Selection::Whole => None,
                Selection::Unsatisfiable => Some(vec![]),
                Selection::Part(span) => Some((span.first()..=span.last()).collect()),
            };
            prop_assert_eq!(found, oracle(&field, size), "{} of {}", field, size);
        }

        #[test]
        fn rubbish_never_panics(field in proptest::collection::vec(any::<u8>(), 0..40), size: u64) {
            if let Selection::Part(span) = select(&field, size) {
                prop_assert!(span.last() < size);
            }
        }
    }
}
