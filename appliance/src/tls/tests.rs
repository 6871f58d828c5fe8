//! A session and a client of rustls talk through memory, in pieces of every size.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
};
use std::io::{Read as _, Write as _};
use std::path::Path;

use content::box_config::TlsConfig;

use super::certificates::Certificates;
use super::*;

/// Takes this very certificate and no other.
#[derive(Debug)]
struct Known;

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::pki_types::pem::PemObject as _;
        let known = CertificateDer::from_pem_file(data("certificate.pem")).unwrap();
        assert_eq!(&known, certificate);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// The rules of a server with the tests' certificate.
pub fn rules() -> Arc<ServerConfig> {
    let files = TlsConfig { listen: vec![], certificate: data("certificate.pem"), key: data("key.pem") };
    Certificates::load(&files).unwrap().server_config().unwrap()
}

/// The rules of a client that knows that certificate.
pub fn client_rules(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Known));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

struct Pair {
    client: ClientConnection,
    session: Session,
    /// What the session has received as content.
    plain: Vec<u8>,
    finished: bool,
}

impl Pair {
    fn new(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Self {
        let name = "appliance.test".try_into().unwrap();
        let client = ClientConnection::new(Arc::clone(client), name).unwrap();
        Self { client, session: Session::new(server).unwrap(), plain: Vec::new(), finished: false }
    }

    /// To the session, `piece` bytes at a time.
    fn up(&mut self, piece: usize) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        for part in bytes.chunks(piece) {
            self.session.push(part);
            self.finished |= self.session.advance(&mut self.plain)?.finished;
        }
        Ok(())
    }

    fn down(&mut self, piece: usize) {
        while !self.session.outgoing().is_empty() {
            let part = self.session.outgoing();
            let part = part[..part.len().min(piece)].to_vec();
            self.session.left(part.len());
            self.hears(&part);
        }
    }

    fn hears(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().unwrap();
        }
    }

    fn shake_hands(&mut self, piece: usize) {
        for _ in 0..4 {
            self.up(piece).unwrap();
            self.down(piece);
        }
        assert!(self.session.is_open() && !self.client.is_handshaking());
    }

    /// What the client reads of this content.
    fn send(&mut self, content: &[u8]) -> Vec<u8> {
        let mut place = vec![0; sealed_bytes_max(content.len())];
        let filled = self.session.seal(content, &mut place).unwrap();
        let mut read = Vec::new();
        // A client holds 16 KiB of content at a time.
        for part in place[..filled].chunks(4_096) {
            self.hears(part);
            let _full = self.client.reader().read_to_end(&mut read);
        }
        read
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn content_goes_both_ways_whatever_the_pieces() {
    let server = rules();
    let content: Vec<u8> = (0..100_000_u32).flat_map(|word| word.to_le_bytes()).collect();
    for version in VERSIONS {
        for piece in [1, 7, 1_000, 100_000] {
            let mut pair = Pair::new(&server, &client_rules(version));
            pair.shake_hands(piece);
            assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
            pair.client.writer().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            pair.up(piece).unwrap();
            assert_eq!(pair.plain, b"GET / HTTP/1.1\r\n\r\n");
            for count in [1, 16_384, 16_385, 65_536, 400_000] {
                assert!(pair.send(&content[..count]) == content[..count], "{count}");
            }
            pair.client.send_close_notify();
            pair.up(piece).unwrap();
            assert!(pair.finished, "the client has ended");
            assert_eq!(pair.send(b"and still hears"), b"and still hears");
            pair.session.close();
            pair.down(piece);
            let end = pair.client.process_new_packets().unwrap();
            assert!(end.peer_has_closed());
        }
    }
}

#[test]
fn the_same_ticket_key_serves_every_session_of_the_rules() {
    let server = rules();
    for version in VERSIONS {
        let client = client_rules(version);
        for resumed in [false, true, true] {
            let mut pair = Pair::new(&server, &client);
            pair.shake_hands(1_000);
            assert_eq!(pair.session.is_resumed(), resumed, "{version:?}");
            pair.send(b"x");
        }
        let mut pair = Pair::new(&rules(), &client);
        pair.shake_hands(1_000);
        assert!(!pair.session.is_resumed(), "another key's ticket is no use, and no harm");
    }
}

#[test]
fn a_key_update_in_the_middle_changes_no_byte() {
    let (server, content) = (rules(), [7; 50_000]);
    let mut pair = Pair::new(&server, &client_rules(&rustls::version::TLS13));
    pair.shake_hands(1_000);
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"ask").unwrap();
        pair.up(5).unwrap();
        assert!(pair.send(&content) == content);
    }
    assert_eq!(pair.plain, b"askaskask");
}

#[test]
fn what_is_no_tls_is_a_fault_with_an_alert_for_the_peer() {
    let server = rules();
    let mut session = Session::new(&server).unwrap();
    session.push(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(session.advance(&mut Vec::new()).is_err());
    let mut session = Session::new(&server).unwrap();
    // A record of a handshake that begins with no message there is.
    session.push(&[22, 3, 1, 0, 5, 99, 0, 0, 1, 0]);
    assert!(session.advance(&mut Vec::new()).is_err());
    assert_eq!(session.outgoing().first(), Some(&21), "an alert's record");
    assert!(session.seal(b"x", &mut [0; 20_000]).is_err(), "nothing is sealed before there is a key");
    // A flipped bit in content.
    let mut pair = Pair::new(&server, &client_rules(&rustls::version::TLS13));
    pair.shake_hands(1_000);
    pair.client.writer().write_all(b"ask").unwrap();
    let mut bytes = Vec::new();
    pair.client.write_tls(&mut bytes).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    pair.session.push(&bytes);
    assert!(pair.session.advance(&mut pair.plain).is_err());
    assert!(pair.plain.is_empty() && !pair.session.outgoing().is_empty());
}
