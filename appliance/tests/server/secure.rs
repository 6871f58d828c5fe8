//! Serving over TLS, on real sockets, to rustls, openssl and curl.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::fixture::{Disks, Item, Site, Wire, connect, item, secure_text, target, wait_until};

const MIB: usize = 1 << 20;
const NAME: &str = "appliance.test";

/// A key on P-256 as most have, under a root of its own.
pub fn certify(folder: &Path) {
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 2 -subj /CN=root",
    );
    renew(folder);
}

/// Another certificate with another key under the same root.
fn renew(folder: &Path) {
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout new.key -out new.csr -subj /CN=box",
    );
    fs::write(folder.join("names"), format!("subjectAltName=DNS:{NAME},IP:127.0.0.1\n")).unwrap();
    openssl(
        folder,
        "x509 -req -in new.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile names -out new.pem",
    );
    fs::rename(folder.join("new.key"), folder.join("key.pem")).unwrap();
    fs::rename(folder.join("new.pem"), folder.join("certificate.pem")).unwrap();
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is installed (Debian: openssl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn items() -> Vec<Item> {
    let sizes = [1, 4_095, 262_145, 2 * MIB, 5 * MIB + 17];
    sizes.into_iter().zip(1..).map(|(size, seed)| item(size, seed)).collect()
}

fn secure_site(limits: &str, items: &[Item]) -> Site {
    let disks = Disks::new();
    disks.write(1, items);
    certify(disks.folder.path());
    let text = secure_text(&disks, limits);
    disks.start_as(&text)
}

fn address(site: &Site) -> SocketAddr {
    site.server.listen_tls[0]
}

fn client_rules(site: &Site, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.disks.folder.path().join("root.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

fn secure(site: &Site, rules: &Arc<ClientConfig>) -> Secure {
    let client = ClientConnection::new(Arc::clone(rules), NAME.try_into().unwrap()).unwrap();
    StreamOwned::new(client, connect(address(site)))
}

fn curl(site: &Site, target: &str, more: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]);
    curl.arg(site.disks.folder.path().join("root.pem")).args(more);
    curl.arg(format!("https://{}{target}", address(site)));
    curl.output().expect("curl is installed (Debian: curl)")
}

#[test]
fn every_byte_comes_over_tls_1_2_and_1_3_to_rustls_and_to_curl() {
    let items = items();
    let site = secure_site("", &items);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut wire = Wire::over(secure(&site, &client_rules(&site, version)));
        for item in &items {
            let answer = wire.get(&target(item), "");
            assert!((answer.status, answer.content == item.bytes) == (200, true), "{}", item.bytes.len());
            let last = item.bytes.len() - 1;
            let part = wire.get(&target(item), &format!("Range: bytes={}-{last}\r\n", last / 2));
            assert!((part.status, part.content == item.bytes[last / 2..]) == (206, true));
        }
        // Sent ahead, all in one record.
        let asks = items.iter().map(|item| format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", target(item)));
        wire.send(asks.collect::<String>().as_bytes());
        assert!(items.iter().all(|item| wire.read(false).content == item.bytes));
        let closing = wire.get(&target(&items[2]), "Connection: close\r\n");
        assert!(closing.content == items[2].bytes);
        assert!(wire.ended(), "with close_notify: else rustls calls it an unexpected end");
    }
    for version in ["1.2", "1.3"] {
        let exactly = ["--tls-max", version, "--tlsv1.2"];
        for item in &items {
            let output = curl(&site, &target(item), &exactly);
            assert!(output.stdout == item.bytes, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    // The same server without TLS.
    assert!(site.wire().get(&target(&items[3]), "").content == items[3].bytes);
    assert!(site.metric("oca_tls_handshakes_total") >= 12.0);
    site.server.stop();
}

#[test]
fn a_session_is_taken_up_again_by_any_worker_and_by_openssl() {
    let items = items();
    let site = secure_site("", &items);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (rules, before) = (client_rules(&site, version), site.metric("oca_tls_resumptions_total"));
        // With two workers, eight connections come to both.
        for _ in 0..8 {
            let mut wire = Wire::over(secure(&site, &rules));
            assert_eq!(wire.get(&target(&items[0]), "").status, 200);
        }
        assert_eq!(site.metric("oca_tls_resumptions_total") - before, 7.0);
    }
    for version in ["-tls1_3", "-tls1_2"] {
        let session = site.disks.folder.path().join("session");
        let ask = |option: &str| {
            let to = address(&site).to_string();
            let session = session.to_str().unwrap();
            let mut client = Command::new("openssl");
            client.args(["s_client", "-ign_eof", "-connect", &to, version, option, session]);
            let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let mut client = client.unwrap();
            let request =
                format!("GET {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", target(&items[0]));
            client.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
            String::from_utf8_lossy(&client.wait_with_output().unwrap().stdout).into_owned()
        };
        assert!(ask("-sess_out").contains("\nNew, TLSv1"));
        let again = ask("-sess_in");
        assert!(again.contains("\nReused, TLSv1") && again.contains("200 OK"), "{again}");
    }
    site.server.stop();
}

#[test]
fn keys_change_in_the_middle_of_a_body_when_the_client_says_so() {
    let items = items();
    let site = secure_site("", &items);
    let mut stream = secure(&site, &client_rules(&site, &rustls::version::TLS13));
    let film = &items[4];
    for _ in 0..3 {
        let request = format!("GET {} HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", target(film));
        stream.write_all(request.as_bytes()).unwrap();
        let mut start = [0; 9];
        stream.read_exact(&mut start).unwrap();
        stream.conn.refresh_traffic_keys().unwrap();
        stream.flush().unwrap();
        let mut rest = vec![0; 2_000_000];
        stream.read_exact(&mut rest).unwrap();
        let head = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let had = rest.len() - head;
        assert!(rest[head..] == film.bytes[..had]);
        let mut last = vec![0; film.bytes.len() - had];
        stream.read_exact(&mut last).unwrap();
        assert!(last == film.bytes[had..]);
    }
    site.server.stop();
}

#[test]
fn who_reads_late_gets_every_byte_and_keeps_no_block() {
    let items = items();
    let site = secure_site("", &items);
    let rules = client_rules(&site, &rustls::version::TLS13);
    // More viewers than the 8 blocks of memory, none of whom reads at first.
    let mut late: Vec<_> = (0..24).map(|_| secure(&site, &rules)).collect();
    for stream in &mut late {
        let request = format!("GET {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", target(&items[4]));
        stream.write_all(request.as_bytes()).unwrap();
    }
    let mut wire = Wire::over(secure(&site, &rules));
    for item in &items {
        assert!(wire.get(&target(item), "").content == item.bytes, "others are served meanwhile");
    }
    for stream in &mut late {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all.ends_with(&items[4].bytes));
    }
    site.server.stop();
}

#[test]
fn a_new_certificate_is_served_with_and_a_wrong_one_is_not() {
    let items = items();
    let site = secure_site("", &items);
    let folder = site.disks.folder.path();
    let shown = || {
        let rules = client_rules(&site, &rustls::version::TLS13);
        let mut stream = secure(&site, &rules);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone()
    };
    let first = shown();
    let mut kept = Wire::over(secure(&site, &client_rules(&site, &rustls::version::TLS13)));
    assert_eq!(kept.get(&target(&items[0]), "").status, 200);
    renew(folder);
    wait_until("the new certificate is served with", || shown() != first);
    assert_eq!(kept.get(&target(&items[0]), "").status, 200, "who is connected stays so");
    let second = shown();
    let health = || String::from_utf8(site.manage("GET", "/health").content).unwrap();
    for (file, wrong, said) in [
        ("certificate.pem", &b"nonsense"[..], "no certificate is in it"),
        ("key.pem", b"nonsense", "no private key in PEM"),
    ] {
        let right = fs::read(folder.join(file)).unwrap();
        fs::write(folder.join(file), wrong).unwrap();
        wait_until("it is said what is wrong", || health().contains(said));
        assert!(shown() == second && health().contains("degraded"));
        fs::write(folder.join(file), right).unwrap();
        wait_until("it is well again", || !health().contains("certificate is not used"));
    }
    let key = fs::read(folder.join("root.key")).unwrap();
    fs::write(folder.join("key.pem"), key).unwrap();
    wait_until("the key of another is refused", || health().contains("is not that of the first certificate"));
    assert!(shown() == second);
    site.server.stop();
}

#[test]
fn what_is_no_tls_or_hangs_is_counted_and_harms_nobody() {
    let items = items();
    let site = secure_site("handshake_ms_max = 700\nhandshakes_max = 2\n", &items);
    let closed = |why: &str| site.metric(&format!("oca_connections_closed_total{{ending=\"{why}\"}}"));
    // Plain HTTP, and TLS 1.1 as openssl speaks it.
    let mut plain = Wire::open(address(&site));
    plain.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(plain.try_read(false).is_none());
    wait_until("it is counted", || closed("handshake_failed") == 1.0);
    let old = curl(&site, "/", &["--tls-max", "1.1", "--tlsv1.0"]);
    assert!(!old.status.success());
    // Silence: two a worker may wait, and the rest is turned away at once.
    let mut silent: Vec<_> = (0..12).map(|_| connect(address(&site))).collect();
    // However the kernel spreads them over the two workers.
    wait_until("the others are turned away", || closed("too_many_handshakes") >= 8.0);
    let ended = || closed("too_many_handshakes") + closed("handshake_too_slow");
    wait_until("and those that wait are not waited for", || ended() == 12.0);
    assert!(closed("handshake_too_slow") >= 2.0);
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut rest = Vec::new();
        // Reset or closed: it is over.
        let _over = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    let mut wire = Wire::over(secure(&site, &client_rules(&site, &rustls::version::TLS13)));
    assert!(wire.get(&target(&items[3]), "").content == items[3].bytes);
    site.server.stop();
}
