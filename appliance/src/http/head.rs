//! A request's head: found, parsed and checked (RFC 9112 §2 to §7). Strict: what two programs on the way might read in
//! two ways is refused, so that nobody smuggles a second request behind a first one.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use std::mem::MaybeUninit;

use content::box_config::Limits;

/// No head has more fields than this, whatever the configuration says.
pub const HEADER_COUNT_MAX: usize = 128;

/// Room for the fields of one head, on the stack of whoever parses. Not filled: that would cost more than most heads.
pub type FieldRoom<'b> = [MaybeUninit<httparse::Header<'b>>; HEADER_COUNT_MAX];

pub const FIELD_ROOM: FieldRoom<'static> = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Options,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// A head that may be answered.
#[derive(Debug)]
pub struct Head<'b, 'h> {
    /// Of the buffer, with empty lines before it and the one behind it.
    pub bytes: usize,
    pub method: Method,
    pub version: Version,
    /// Without query. `*` for a request about the server itself, and then the method is OPTIONS.
    pub path: &'b str,
    /// Behind the first `?`.
    pub query: Option<&'b str>,
    /// Whether the connection may be used again, as far as the peer is concerned.
    pub keep_open: bool,
    /// Whether content follows.
    pub content: bool,
    fields: &'h [httparse::Header<'b>],
}

/// Each is answered and then the connection is closed: where the next request starts is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    Malformed(&'static str),
    TooLong,
    TooManyFields,
    Version,
}

impl<'b, 'h> Head<'b, 'h> {
    /// None: more bytes are needed.
    pub fn parse(
        buffer: &'b [u8],
        limits: &Limits,
        room: &'h mut FieldRoom<'b>,
    ) -> Result<Option<Self>, HeadError> {
        let Some((start, end)) = find(buffer, limits.head_bytes_max)? else { return Ok(None) };
        let bytes = buffer.get(start..end).unwrap_or_default();
        let room = room.get_mut(..limits.header_count_max.min(HEADER_COUNT_MAX)).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, room) {
            Ok(httparse::Status::Complete(count)) if count == bytes.len() => {}
            Ok(_) => return Err(HeadError::Malformed("an empty line is misplaced")),
            Err(error) => return Err(classify(error, bytes)),
        }
        let httparse::Request { method, path, version, headers } = request;
        let version = if version == Some(0) { Version::Http10 } else { Version::Http11 };
        let method = method_of(method.unwrap_or_default());
        let fields: &'h [httparse::Header<'b>] = headers;
        let head = Self {
            bytes: end,
            method,
            version,
            path: "",
            query: None,
            keep_open: false,
            content: false,
            fields,
        };
        head.check(path.unwrap_or_default()).map(Some)
    }

    fn check(self, target: &'b str) -> Result<Self, HeadError> {
        self.check_host()?;
        let content = self.framing()?;
        let (path, query) = path_of(target, self.method)?;
        // Content that nobody reads would be taken for the next request.
        let keep_open = self.reusable() && !content;
        Ok(Self { content, path, query, keep_open, ..self })
    }

    /// The values of a field, trimmed, in order.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + '_ {
        let named = move |field: &&httparse::Header<'b>| field.name.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|field| field.value.trim_ascii())
    }

    /// The value of a field that may be there once; None if it is absent, or there more than once.
    pub fn single(&self, name: &'static str) -> Option<&'b [u8]> {
        let mut values = self.values(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    // RFC 9112 §3.2: 400 to any request of HTTP/1.1 without Host, and to any with two or an invalid one.
    fn check_host(&self) -> Result<(), HeadError> {
        let mut values = self.values("host");
        match (values.next(), values.next()) {
            (None, None) if self.version == Version::Http10 => Ok(()),
            (Some(host), None) if valid_authority(host) => Ok(()),
            (None, _) => Err(HeadError::Malformed("the Host field is missing")),
            (Some(_), None) => Err(HeadError::Malformed("the Host field is not valid")),
            (Some(_), Some(_)) => Err(HeadError::Malformed("there are two Host fields")),
        }
    }

    /// Whether content follows. RFC 9112 §6.1, §6.3: whatever leaves its length open to opinion is refused.
    fn framing(&self) -> Result<bool, HeadError> {
        let mut lengths = self.values("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(HeadError::Malformed("there are two Content-Length fields"));
        }
        if let Some(coding) = self.values("transfer-encoding").last() {
            if length.is_some() {
                return Err(HeadError::Malformed(
                    "Content-Length and Transfer-Encoding contradict each other",
                ));
            }
            if self.version == Version::Http10 {
                return Err(HeadError::Malformed("HTTP/1.0 has no Transfer-Encoding"));
            }
            let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            let chunked = last.eq_ignore_ascii_case(b"chunked");
            return if chunked {
                Ok(true)
            } else {
                Err(HeadError::Malformed("the last transfer coding is not chunked"))
            };
        }
        match length {
            None => Ok(false),
            Some(digits) if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) => {
                Err(HeadError::Malformed("Content-Length is no number"))
            }
            Some(digits) => Ok(digits.iter().any(|digit| *digit != b'0')),
        }
    }

    // RFC 9112 §9.3: close wins; HTTP/1.1 persists by default, HTTP/1.0 if asked for it.
    fn reusable(&self) -> bool {
        let says = |option: &[u8]| {
            let mut options = self.values("connection").flat_map(|value| value.split(|byte| *byte == b','));
            options.any(|found| found.trim_ascii().eq_ignore_ascii_case(option))
        };
        !says(b"close") && (self.version == Version::Http11 || says(b"keep-alive"))
    }
}

/// Where the head starts and ends: it is preceded by empty lines (RFC 9112 §2.2: ignore at least one) and ends with one.
/// Lines end with CR LF and nothing else; a NUL is refused before anything else reads it.
fn find(buffer: &[u8], head_bytes_max: usize) -> Result<Option<(usize, usize)>, HeadError> {
    let window = buffer.get(..head_bytes_max).unwrap_or(buffer);
    let (mut start, mut line) = (0, 0);
    // Of a line's end, the line feed.
    let mut expected = None;
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, window) {
        let behind = at.saturating_add(1);
        match (window.get(at), window.get(behind)) {
            (Some(b'\n'), _) if expected == Some(at) => {
                let empty = line == at.saturating_sub(1);
                if empty && start < line {
                    return Ok(Some((start, behind)));
                }
                line = behind;
                start = if empty { behind } else { start };
            }
            (Some(b'\n'), _) => return Err(HeadError::Malformed("a line ends without a carriage return")),
            (Some(b'\r'), None) => break,
            (Some(b'\r'), Some(b'\n')) => expected = Some(behind),
            (Some(b'\r'), Some(_)) => return Err(HeadError::Malformed("a carriage return stands alone")),
            _ => return Err(HeadError::Malformed("a NUL")),
        }
    }
    if buffer.len() >= head_bytes_max { Err(HeadError::TooLong) } else { Ok(None) }
}

fn classify(error: httparse::Error, head: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version if names_a_version(head) => HeadError::Version,
        httparse::Error::Version => HeadError::Malformed("the request line ends without HTTP/1.1"),
        httparse::Error::HeaderName => HeadError::Malformed("a field's name"),
        httparse::Error::HeaderValue => HeadError::Malformed("a field's value"),
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            HeadError::Malformed("the request line")
        }
    }
}

/// Whether the first line ends with `HTTP/` digit `.` digit (RFC 9112 §2.3).
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let word = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn method_of(name: &str) -> Method {
    // RFC 9110 §9.1: the method's name is case-sensitive.
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => Method::Other,
    }
}

/// RFC 9112 §3.2: origin-form, absolute-form, and for OPTIONS the asterisk-form. The target of a method that is refused
/// anyway (CONNECT has another form) is not looked at.
fn path_of(target: &str, method: Method) -> Result<(&str, Option<&str>), HeadError> {
    if method == Method::Other || (target == "*" && method == Method::Options) {
        return Ok((target, None));
    }
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !target.bytes().all(allowed) {
        return Err(HeadError::Malformed("the target has a character that must be encoded"));
    }
    let path = if target.starts_with('/') { target } else { path_of_absolute(target)? };
    Ok(path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query))))
}

/// RFC 9112 §3.2.2: a server must accept the absolute form; its authority then stands for Host, which we do not use.
fn path_of_absolute(target: &str) -> Result<&str, HeadError> {
    const REFUSED: HeadError = HeadError::Malformed("the target is neither a path nor an http URI");
    let (scheme, rest) = target.split_once("://").ok_or(REFUSED)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(REFUSED);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(REFUSED)?;
    // RFC 9110 §4.2.1: an http URI with an empty host is invalid.
    if authority.is_empty() || !valid_authority(authority.as_bytes()) {
        return Err(REFUSED);
    }
    Ok(if path.starts_with('/') { path } else { "/" })
}

/// RFC 3986 §3.2.2 and §3.2.3, loosely: the characters of a host and a port. User information is refused (RFC 9110 §4.2.4).
fn valid_authority(host: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte);
    host.iter().all(allowed)
}

#[cfg(test)]
#[expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Method, version, path, keep-open, content; what `parse` says otherwise.
    type Said = Result<Option<(Method, Version, String, bool, bool)>, HeadError>;

    fn said(text: &str) -> Said {
        let limits = Limits { header_count_max: 8, head_bytes_max: 400, ..Limits::default() };
        let mut room = FIELD_ROOM;
        let head = Head::parse(text.as_bytes(), &limits, &mut room)?;
        Ok(head.map(|head| (head.method, head.version, head.path.to_owned(), head.keep_open, head.content)))
    }

    fn path(text: &str) -> String {
        said(text).expect("it is well formed").expect("it is whole").2
    }

    #[test]
    fn a_plain_head_is_read() {
        let head = said("GET /~t/a/sd/x.mp4?q=1 HTTP/1.1\r\nHost: box\r\n\r\nGET /next").unwrap().unwrap();
        assert_eq!(head, (Method::Get, Version::Http11, "/~t/a/sd/x.mp4".to_owned(), true, false));
        assert_eq!(said("\r\n\r\nHEAD / HTTP/1.0\r\n\r\n").unwrap().unwrap().0, Method::Head);
    }

    #[test]
    fn every_cut_head_is_incomplete() {
        let whole = "\r\nOPTIONS * HTTP/1.1\r\nHost: box\r\nRange: bytes=0-1\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(said(&whole[..end]), Ok(None), "{:?}", &whole[..end]);
        }
        assert!(said(whole).unwrap().is_some());
    }

    #[test]
    fn every_form_of_target_gives_its_path() {
        let at = |target: &str| path(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        for (target, expected) in [
            ("/", "/"),
            ("/a?b/c", "/a"),
            ("http://h/a/b?c", "/a/b"),
            ("HTTPS://[::1]:80/x", "/x"),
            ("http://h", "/"),
            ("http://h?q", "/"),
            ("//h/x", "//h/x"),
        ] {
            assert_eq!(at(target), expected, "{target}");
        }
    }

    #[test]
    fn what_two_programs_may_read_in_two_ways_is_malformed() {
        let line = "GET / HTTP/1.1\r\nHost: h\r\n";
        let mut bad = vec![
            "GET / HTTP/1.1\nHost: h\n\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: h\r\n\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "GET / HTTP/1.1 \r\nHost: h\r\n\r\n".to_owned(),
            "GET /\r\n\r\n".to_owned(),
            "GET / http/1.1\r\nHost: h\r\n\r\n".to_owned(),
            " GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "G@T / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        ];
        for field in [
            "Host: h",
            "Range : bytes=0-1",
            "X: a\r\n b",
            " X: a",
            "X",
            ": a",
            "X: a\0b",
            "X: a\x01b",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -0",
            "Content-Length:",
            "Content-Length: 0x0",
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
        ] {
            bad.push(format!("{line}{field}\r\n\r\n"));
        }
        for target in
            ["*", "a", "h:80", "http:///x", "http://u@h/", "ftp://h/", "/a#b", "/a\u{e9}", "/a\"\x7f"]
        {
            bad.push(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        }
        for host in ["a b", "a/b", "u@h", "h,i", "h?"] {
            bad.push(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
        for text in bad {
            assert!(matches!(said(&text), Err(HeadError::Malformed(_))), "{text:?}: {:?}", said(&text));
        }
    }

    #[test]
    fn another_version_is_told_from_a_malformed_one() {
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"] {
            assert_eq!(
                said(&format!("GET / {version}\r\nHost: h\r\n\r\n")),
                Err(HeadError::Version),
                "{version}"
            );
        }
        assert_eq!(said("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(HeadError::Version));
    }

    #[test]
    fn limits_hold_to_the_byte_and_the_field() {
        let with = |bytes: usize| {
            let line = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
            format!("{line}{}\r\n\r\n", "a".repeat(bytes - line.len() - 4))
        };
        assert!(said(&with(400)).unwrap().is_some());
        assert_eq!(said(&with(401)), Err(HeadError::TooLong));
        assert_eq!(said(&"a".repeat(400)), Err(HeadError::TooLong));
        assert_eq!(said(&"\r\n".repeat(200)), Err(HeadError::TooLong));
        assert_eq!(said(&"a".repeat(399)), Ok(None));
        let fields =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert!(said(&fields(8)).unwrap().is_some());
        assert_eq!(said(&fields(9)), Err(HeadError::TooManyFields));
    }

    #[test]
    fn the_connection_persists_as_the_version_and_the_field_say() {
        let keep = |version: &str, field: &str| {
            said(&format!("GET / HTTP/{version}\r\nHost: h\r\n{field}\r\n")).unwrap().unwrap().3
        };
        assert!(keep("1.1", ""));
        assert!(!keep("1.0", ""));
        assert!(keep("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!keep("1.1", "Connection: x , CLOSE\r\n"));
        assert!(!keep("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
        assert!(!keep("1.1", "Content-Length: 1\r\n"));
        assert!(!keep("1.1", "Transfer-Encoding: gzip, chunked\r\n"));
        assert!(keep("1.1", "Content-Length: 000\r\n"));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics_and_a_head_never_passes_the_buffer(
            text in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(&b"GET /HTP1.\r\n: ab,"[..])], 0..300)
        ) {
            let mut room = FIELD_ROOM;
            if let Ok(Some(head)) = Head::parse(&text, &Limits::default(), &mut room) {
                prop_assert!(head.bytes <= text.len());
                prop_assert!(text[..head.bytes].ends_with(b"\r\n\r\n"));
            }
        }
    }
}
