//! Preconditions (RFC 9110 §13), against a reading of the fields that takes them apart first and then compares.
//!
//! Input: header lines, as they would stand between Host and the empty line. `$E` stands for the object's tag.

use appliance::http::conditional::{Verdict, evaluate, range_counts};
use appliance::http::head::{FIELD_ROOM, Head};
use content::box_config::Limits;

const TAG: &[u8] = b"0a1b";

pub fn run(data: &[u8]) {
    let mut text = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
    text.extend(crate::expand(data, &[(b"$E", TAG)]));
    text.extend(b"\r\n\r\n");
    let limits = Limits::default();
    let mut room = FIELD_ROOM;
    let Ok(Some(head)) = Head::parse(&text, &limits, &mut room) else { return };
    let fields = Fields(&text[..head.bytes]);
    assert_eq!(evaluate(&head, TAG), fields.verdict());
    assert_eq!(range_counts(&head, TAG), fields.range_counts());
}

struct Fields<'a>(&'a [u8]);

/// Weak or not, and the opaque part.
type Tag<'a> = (bool, &'a [u8]);

impl<'a> Fields<'a> {
    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let lines = self.0.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let fields = lines.filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (found, value) = line.split_at(colon);
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value[1..].trim_ascii())
        });
        fields.collect()
    }

    fn verdict(&self) -> Verdict {
        // If-Match: present, and neither `*` nor a list with our tag, strong.
        let guards = self.values("if-match");
        if !guards.is_empty() && !any(&guards, |(weak, opaque)| !weak && opaque == TAG) {
            return Verdict::Failed;
        }
        // If-None-Match: weak tags count as well.
        let known = self.values("if-none-match");
        if any(&known, |(_, opaque)| opaque == TAG) { Verdict::NotModified } else { Verdict::Send }
    }

    fn range_counts(&self) -> bool {
        match self.values("if-range")[..] {
            [] => true,
            [only] => tag(only) == Some((false, TAG)),
            _ => false,
        }
    }
}

/// Whether the fields are one `*`, or lists that keep to the grammar and have such a tag.
fn any(fields: &[&[u8]], wanted: impl Fn(Tag<'_>) -> bool) -> bool {
    if fields == [b"*"] {
        return true;
    }
    if fields.contains(&&b"*"[..]) {
        return false;
    }
    let lists: Option<Vec<_>> = fields.iter().map(|field| list(field)).collect();
    lists.is_some_and(|lists| lists.into_iter().flatten().any(wanted))
}

/// Cuts at the commas outside quotes; None if an element is no tag.
fn list(field: &[u8]) -> Option<Vec<Tag<'_>>> {
    let (mut elements, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in field.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                elements.push(&field[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    elements.push(&field[start..]);
    let elements = elements.into_iter().map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty()).map(tag).collect()
}

fn tag(element: &[u8]) -> Option<Tag<'_>> {
    let (weak, quoted) = element.strip_prefix(b"W/").map_or((false, element), |quoted| (true, quoted));
    let opaque = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    // RFC 9110 §8.8.3: visible characters but the quote, and whatever is not ASCII.
    let valid = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
    opaque.iter().all(valid).then_some((weak, opaque))
}
