//! Behind a balancer that announces its connections, and over IPv6.

use std::io::{Read as _, Write as _};

use crate::fixture::{Disks, Item, Site, connect, item, target, wait_until};

/// Version 2, PROXY, TCP over IPv4, from 192.0.2.7:8080.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x1f\x90\0\x50";
/// LOCAL: the balancer itself asks.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn site(items: &[Item], proxy_from: &str, listen: &str) -> Site {
    let disks = Disks::new();
    disks.write(1, items);
    let text = disks.config_text("head_ms_max = 700\nhandshake_ms_max = 700\n");
    let server = format!("[server]\nproxy_from = [{proxy_from}]\n");
    let text = text.replace("[server]\n", &server).replace("listen = ['127.0.0.1:0']", listen);
    disks.start_as(&text)
}

fn request(item: &Item) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", target(item)).into_bytes()
}

#[test]
fn a_trusted_balancer_says_for_whom_it_connects_in_pieces_of_any_size() {
    let items = [item(300_000, 1)];
    let site = site(&items, "'127.0.0.0/8'", "listen = ['127.0.0.1:0']");
    for header in [HEADER, LOCAL] {
        let all = [header, &request(&items[0])].concat();
        for piece in [1, 5, header.len(), all.len()] {
            let mut stream = connect(site.address());
            stream.set_nodelay(true).unwrap();
            all.chunks(piece).for_each(|part| stream.write_all(part).unwrap());
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(
                answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&items[0].bytes),
                "{piece}"
            );
        }
    }
    assert_eq!(site.metric("oca_proxied_connections_total"), 8.0);
    site.server.stop();
}

#[test]
fn who_is_trusted_must_announce_and_who_is_not_must_not() {
    let items = [item(1_000, 1)];
    let closed =
        |site: &Site, why: &str| site.metric(&format!("oca_connections_closed_total{{ending=\"{why}\"}}"));
    let trusting = site(&items, "'127.0.0.1', '10.0.0.0/8'", "listen = ['127.0.0.1:0']");
    let version_1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 80\r\n";
    for wrong in [&request(&items[0])[..], version_1] {
        let mut stream = connect(trusting.address());
        stream.write_all(wrong).unwrap();
        let mut answer = Vec::new();
        // Closed or reset.
        let _over = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    wait_until("both are counted", || closed(&trusting, "proxy_malformed") == 2.0);
    let mut silent = connect(trusting.address());
    silent.write_all(&HEADER[..9]).unwrap();
    assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
    wait_until("who says half of it is not waited for", || closed(&trusting, "handshake_too_slow") == 1.0);
    trusting.server.stop();
    let distrusting = site(&items, "'10.0.0.0/8', '2001:db8::/32'", "listen = ['127.0.0.1:0']");
    let mut stream = connect(distrusting.address());
    stream.write_all(&[HEADER, &request(&items[0])].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "it is taken for a request, and is none");
    distrusting.server.stop();
}

#[test]
fn several_addresses_are_served_ipv6_among_them() {
    let items = [item(300_000, 1)];
    let site = site(&items, "'::1'", "listen = ['127.0.0.1:0', '127.0.0.2:0', '[::1]:0']");
    assert_eq!(site.server.listen.len(), 3);
    for (address, header) in site.server.listen.iter().zip([&b""[..], b"", HEADER]) {
        let mut stream = connect(*address);
        stream.write_all(&[header, &request(&items[0])].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&items[0].bytes), "{address}");
    }
    site.server.stop();
}
