//! What a player says about itself (CTA-5004, Common Media Client Data): in four header fields or in the query. Read with
//! tolerance: what is not understood is not there. Not what is done about it: see [`super::pacing`].

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use super::head::Head;

/// A player puts its keys into these by how often they change; which key is in which is not held against it.
const FIELDS: [&str; 4] = ["cmcd-request", "cmcd-object", "cmcd-status", "cmcd-session"];
/// Longer data in a query are not read.
const QUERY_BYTES_MAX: usize = 1024;
/// More digits are no bitrate.
const DIGITS_MAX: usize = 9;

/// The keys that a server acts upon. Rates are in kbit/s, as they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmcd {
    /// `rtp`, requested maximum throughput: more is of no use to the player.
    pub throughput: Option<u64>,
    /// `br`, encoded bitrate of what is asked for.
    pub bitrate: Option<u64>,
    /// `su`, startup: it starts, seeks or recovers, and wants its object at once.
    pub startup: bool,
    /// `bs`, buffer starvation: it had to stop.
    pub starved: bool,
}

/// Of both forms the fields come first; what is said twice counts as said last.
pub fn read(head: &Head<'_, '_>) -> Cmcd {
    let mut cmcd = Cmcd::default();
    if let Some(data) = head.query.and_then(parameter) {
        let mut room = [0; QUERY_BYTES_MAX];
        cmcd.take(decoded(data, &mut room));
    }
    for field in FIELDS {
        head.values(field).for_each(|value| cmcd.take(value));
    }
    cmcd
}

/// The value of `CMCD` in a query, still encoded.
fn parameter(query: &str) -> Option<&[u8]> {
    query.split('&').find_map(|pair| pair.strip_prefix("CMCD=")).map(str::as_bytes)
}

/// RFC 3986 §2.1; a `%` without two digits stands for itself. What does not fit is cut off.
fn decoded<'a>(encoded: &[u8], room: &'a mut [u8; QUERY_BYTES_MAX]) -> &'a [u8] {
    let mut rest = encoded;
    let mut count = 0usize;
    for place in room.iter_mut() {
        let (byte, left) = match rest {
            [b'%', high, low, left @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), left)
            }
            [byte, left @ ..] => (*byte, left),
            [] => break,
        };
        *place = byte;
        rest = left;
        count = count.saturating_add(1);
    }
    room.get(..count).unwrap_or_default()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit.wrapping_sub(b'0'),
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

impl Cmcd {
    /// `key`, `key=value`, with commas between; a comma within quotes is none.
    fn take(&mut self, data: &[u8]) {
        let mut quoted = false;
        let between = |byte: &u8| {
            quoted ^= *byte == b'"';
            *byte == b',' && !quoted
        };
        for item in data.split(between) {
            let mut halves = item.splitn(2, |byte| *byte == b'=');
            let key = halves.next().unwrap_or_default().trim_ascii();
            self.set(key, halves.next().map(<[u8]>::trim_ascii));
        }
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        match (key, value) {
            (b"rtp", Some(digits)) => self.throughput = number(digits),
            (b"br", Some(digits)) => self.bitrate = number(digits),
            // RFC 8941 §3.3.6: true may be left out, or written `?1`.
            (b"su", value) => self.startup = value.is_none_or(|value| value == b"?1"),
            (b"bs", value) => self.starved = value.is_none_or(|value| value == b"?1"),
            _ => {}
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let value =
        |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')));
    plain.then(|| digits.iter().fold(0, value)).filter(|number| *number > 0)
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "tests may panic")]
mod tests {
    use content::box_config::Limits;

    use super::*;
    use crate::http::head::FIELD_ROOM;

    fn said(target: &str, fields: &str) -> Cmcd {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let mut room = FIELD_ROOM;
        let head = Head::parse(text.as_bytes(), &Limits::default(), &mut room);
        read(&head.expect("a head").expect("a whole one"))
    }

    #[test]
    fn keys_are_read_from_fields_and_from_the_query() {
        // The examples of CTA-5004 §3.
        let all = Cmcd { throughput: Some(15_000), bitrate: Some(3_200), startup: true, starved: true };
        let fields = "CMCD-Request: bl=21300,dl=18500,mtp=48100,nor=\"..%2F300kbps%2Ftrack.m4v\",su\r\n\
                      CMCD-Object: br=3200,d=4004,ot=v,tb=6000\r\nCMCD-Status: bs,rtp=15000\r\n\
                      CMCD-Session: cid=\"faec5fc2\",pr=1.08,sf=d,sid=\"6e2fb550-c457\",st=v\r\n";
        assert_eq!(said("/x", fields), all);
        let query = "/x?a=1&CMCD=bl%3D21300%2Cbr%3D3200%2Cbs%2Cnor%3D%22a%252Cb%22%2Crtp%3D15000%2Csu&b=2";
        assert_eq!(said(query, ""), all);
        assert_eq!(said("/x?CMCD=rtp%3d900", "CMCD-Status: rtp=800\r\n").throughput, Some(800));
    }

    #[test]
    fn what_is_not_understood_is_not_there() {
        let nothing = Cmcd::default();
        for field in
            ["rtp", "rtp=", "rtp=x", "rtp=-1", "rtp=0", "rtp=9999999999", "RTP=5", "rtp=1.5", ",,=,="]
        {
            assert_eq!(said("/x", &format!("CMCD-Status: {field}\r\n")), nothing, "{field}");
        }
        for target in
            ["/x?cmcd=rtp=5", "/x?CMCD", "/x?CMCD=", "/x?xCMCD=rtp%3D5", "/x?CMCD=%", "/x?CMCD=%zz%2"]
        {
            assert_eq!(said(target, ""), nothing, "{target}");
        }
        assert_eq!(said("/x", "CMCD-Request: su=?0, sid=\"a,bs,b\"\r\n"), nothing);
        assert_eq!(said("/x", "CMCD-Request: br=(5000;v 300;a)\r\n"), nothing, "a list of CMCD 2");
        assert!(said("/x", "CMCD-Request: su=?1\r\n").startup);
        let long = format!("/x?CMCD={}%2Crtp%3D5", "x".repeat(QUERY_BYTES_MAX));
        assert_eq!(said(&long, ""), nothing);
    }
}
