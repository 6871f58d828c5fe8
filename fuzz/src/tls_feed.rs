//! What a stranger says to a server of TLS before there is a key, against what must hold: no content comes of it, it never opens,
//! what is answered is whole records, what is kept is bounded, and after a fault nothing more is said.
//!
//! Input: a byte, how long the pieces are that the rest comes in; the rest.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

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

fn whole_records(mut out: &[u8]) {
    while let Some((head, rest)) = out.split_at_checked(5) {
        assert!(matches!(head[0], 20..=23) && head[1] == 3, "no record: {head:?}");
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        out = rest.get(length..).expect("a record is whole");
    }
    assert!(out.is_empty(), "half a head of a record");
}
