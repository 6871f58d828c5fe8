//! The `Range` of a request for an object (RFC 9110 §14): one range of bytes. Pure.

use content::id::ByteSpan;

#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    Part(ByteSpan),
    Unsatisfiable,
}

/// What a `Range` header selects of `size` bytes. One that is not understood, or that has several ranges, is ignored:
/// a server may (§14.2).
pub fn select(header: Option<&str>, size: u64) -> Selection {
    let spec = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else {
        return Selection::Whole;
    };
    if first.is_empty() {
        return match digits(last) {
            // §14.1.2: a suffix longer than the representation selects all of it; an empty one nothing.
            Some(suffix) => part(size.saturating_sub(suffix), size.saturating_sub(1), suffix > 0 && size > 0),
            None => Selection::Whole,
        };
    }
    let Some(first) = digits(first) else { return Selection::Whole };
    let last = if last.is_empty() { Some(u64::MAX) } else { digits(last) };
    match last {
        // §14.1.1: a last position before the first makes the range invalid, which is then ignored.
        Some(last) if last >= first => part(first, last.min(size.saturating_sub(1)), first < size),
        Some(_) | None => Selection::Whole,
    }
}

fn part(first: u64, last: u64, satisfiable: bool) -> Selection {
    let span = ByteSpan::new(first, last).filter(|_| satisfiable);
    span.map_or(Selection::Unsatisfiable, Selection::Part)
}

/// 1*DIGIT; a number too large to hold selects what the largest would.
fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_one_range_of_bytes_selects_the_whole() {
        let ignored = [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=+1-2",
        ];
        for header in ignored {
            assert_eq!(select(Some(header), 10), Selection::Whole, "{header:?}");
        }
        assert_eq!(select(None, 10), Selection::Whole);
    }

    #[test]
    fn nothing_of_an_empty_object_can_be_selected() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"] {
            assert_eq!(select(Some(header), 0), Selection::Unsatisfiable, "{header:?}");
        }
    }

    #[test]
    fn numbers_larger_than_any_object_are_not_refused() {
        let huge = "99999999999999999999999";
        assert_eq!(
            select(Some(&format!("bytes=3-{huge}")), 10),
            Selection::Part(ByteSpan::new(3, 9).unwrap())
        );
        assert_eq!(
            select(Some(&format!("bytes=-{huge}")), 10),
            Selection::Part(ByteSpan::new(0, 9).unwrap())
        );
        assert_eq!(select(Some(&format!("bytes={huge}-")), 10), Selection::Unsatisfiable);
    }

    proptest! {
        /// Against the slowest reading: which of the positions 0 to size does the range name?
        #[test]
        fn the_selection_is_the_positions_that_the_range_names(
            first in prop::option::of(0u64..12), last in prop::option::of(0u64..12), size in 1u64..10,
        ) {
            prop_assume!(first.is_some() || last.is_some());
            prop_assume!(first.zip(last).is_none_or(|(first, last)| first <= last));
            let text = |side: Option<u64>| side.map_or(String::new(), |number| number.to_string());
            let header = format!("bytes={}-{}", text(first), text(last));
            let names = |position: &u64| match (first, last) {
                (None, Some(suffix)) => position + suffix >= size,
                (Some(first), last) => *position >= first && last.is_none_or(|last| *position <= last),
                (None, None) => false,
            };
            let named: Vec<u64> = (0..size).filter(names).collect();
            let expected = match (named.first(), named.last()) {
                (Some(&first), Some(&last)) => Selection::Part(ByteSpan::new(first, last).unwrap()),
                _ => Selection::Unsatisfiable,
            };
            prop_assert_eq!(select(Some(&header), size), expected);
        }
    }
}
