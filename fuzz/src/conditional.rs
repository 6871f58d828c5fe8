//! Preconditions (RFC 9110 §13) and what players say of themselves (CTA-5004), against a reading of the fields that takes
//! them apart first and then compares.
//!
//! Input: header lines, as they would stand between Host and the empty line; before them, if the input begins with `?`, a
//! line that is the target's query. `$E` stands for the object's tag.

use appliance::http::cmcd::{self, Cmcd};
use appliance::http::conditional::{Verdict, evaluate, range_counts};
use appliance::http::head::{FIELD_ROOM, Head};
use content::box_config::Limits;

const TAG: &[u8] = b"0a1b";

pub fn run(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').filter(|_| data.starts_with(b"?"));
    let (query, data) = data.split_at(line.unwrap_or(0));
    let mut text = [b"GET /", query, b" HTTP/1.1\r\nHost: h\r\n"].concat();
    text.extend(crate::expand(data.strip_prefix(b"\n").unwrap_or(data), &[(b"$E", TAG)]));
    text.extend(b"\r\n\r\n");
    let limits = Limits::default();
    let mut room = FIELD_ROOM;
    let Ok(Some(head)) = Head::parse(&text, &limits, &mut room) else { return };
    let fields = Fields(&text[..head.bytes]);
    assert_eq!(evaluate(&head, TAG), fields.verdict());
    assert_eq!(range_counts(&head, TAG), fields.range_counts());
    assert_eq!(cmcd::read(&head), fields.cmcd(query));
}

/// RFC 3986 §2.1; the first KiB counts.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() && out.len() < 1024 {
        let digits =
            text.get(at + 1..at + 3).filter(|_| text[at] == b'%').and_then(|d| std::str::from_utf8(d).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.map(|digits| u8::from_str_radix(digits, 16)) {
            Some(Ok(byte)) => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

/// Keys, and values if there are any: between commas that are not within quotes.
fn pairs(data: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut items = vec![Vec::new()];
    let mut quotes = 0;
    for byte in data {
        quotes += usize::from(*byte == b'"');
        if *byte == b',' && quotes % 2 == 0 {
            items.push(Vec::new());
        } else {
            items.last_mut().expect("there is one").push(*byte);
        }
    }
    let pair = |item: &Vec<u8>| match item.iter().position(|byte| *byte == b'=') {
        Some(at) => (item[..at].trim_ascii().to_vec(), Some(item[at + 1..].trim_ascii().to_vec())),
        None => (item.trim_ascii().to_vec(), None),
    };
    items.iter().map(pair).collect()
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

    /// The query first, then the fields by name; of what is said twice the last counts.
    fn cmcd(&self, query: &[u8]) -> Cmcd {
        let query = query.strip_prefix(b"?").unwrap_or(query);
        let parameter = query.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"CMCD="));
        let mut said: Vec<Vec<u8>> = parameter.map(decoded).into_iter().collect();
        for name in ["cmcd-request", "cmcd-object", "cmcd-status", "cmcd-session"] {
            said.extend(self.values(name).into_iter().map(<[u8]>::to_vec));
        }
        let mut found = Cmcd::default();
        for (key, value) in said.iter().flat_map(|data| pairs(data)) {
            let text = value.as_deref().map(String::from_utf8_lossy);
            let flag = text.is_none() || text.as_deref() == Some("?1");
            let digits =
                text.filter(|text| text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = digits.and_then(|digits| digits.parse::<u64>().ok()).filter(|number| *number > 0);
            match (&key[..], value.is_some()) {
                (b"rtp", true) => found.throughput = number,
                (b"br", true) => found.bitrate = number,
                (b"su", _) => found.startup = flag,
                (b"bs", _) => found.starved = flag,
                _ => {}
            }
        }
        found
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
