//! What a stranger says to a server of TLS before there is a key, against what must hold: no content comes of it, it never opens,
//! what is answered is whole records, what is kept is bounded, and after a fault nothing more is said.
//!
//! The same bytes as a balancer's header (PROXY protocol), against what must hold: it is as long as it says, every beginning of it
//! wants more, and what follows it changes nothing.
//!
//! Input: a byte, how long the pieces are that the rest comes in; the rest.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use appliance::proxy;
use appliance::tls::Session;
use appliance::tls::certificates::Certificates;
use content::box_config::TlsConfig;
use rustls::ServerConfig;

static RULES: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let file =
        |name| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../appliance/tests/tls")).join(name);
    let files = TlsConfig { listen: vec![], certificate: file("certificate.pem"), key: file("key.pem") };
    let certificates = Certificates::load(&files).expect("the tests' certificate");
    certificates.server_config().expect("rules that rustls takes")
});

/// RFC 8446 4: a handshake message of 64 KiB, in records that may hold a byte of it each, is more than anyone sends.
const KEPT_BYTES_MAX: usize = 1 << 20;

pub fn run(mut data: &[u8]) {
    let piece = usize::from(u8::from_le_bytes(crate::take(&mut data))) + 1;
    header(data);
    header(&[&SIGNATURE[..], data].concat());
    let mut session = Session::new(&RULES).expect("a session");
    let (mut plain, mut broken) = (Vec::new(), false);
    for part in data.chunks(piece) {
        session.push(part);
        let fault = session.advance(&mut plain).is_err();
        assert!(fault || !broken, "what is broken stays so");
        broken = fault;
        assert!(plain.is_empty() && !session.is_open(), "there is no key");
        assert!(session.seal(b"x", &mut [0; 20_000]).is_err());
        let out = session.outgoing();
        whole_records(out);
        let count = out.len();
        assert!(!broken || count < KEPT_BYTES_MAX);
        session.left(count);
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

fn header(bytes: &[u8]) {
    let Ok(Some(header)) = proxy::parse(bytes) else { return };
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    assert_eq!(header.bytes, length + 16);
    assert_eq!(proxy::parse(&bytes[..header.bytes]), Ok(Some(header)));
    for count in 0..header.bytes.min(64) {
        assert_eq!(proxy::parse(&bytes[..count]), Ok(None), "{count}");
    }
    let local = bytes[12] == 0x20 || bytes[13] == 0;
    assert_eq!(header.source.is_none(), local);
    match header.source {
        Some(source) if bytes[13] == 0x11 => {
            assert_eq!(source.to_string().parse(), Ok(source));
            assert_eq!(source.port().to_be_bytes(), bytes[24..26]);
        }
        Some(source) => assert_eq!(source.port().to_be_bytes(), bytes[48..50]),
        None => {}
    }
}

fn whole_records(mut out: &[u8]) {
    while let Some((head, rest)) = out.split_at_checked(5) {
        assert!(matches!(head[0], 20..=23) && head[1] == 3, "no record: {head:?}");
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        out = rest.get(length..).expect("a record is whole");
    }
    assert!(out.is_empty(), "half a head of a record");
}
