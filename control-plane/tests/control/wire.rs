//! Bytes that no client library sends: malformed, oversized, pipelined, slow.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::support::World;

fn connect(world: &World) -> TcpStream {
    let stream = TcpStream::connect(world.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

/// Everything that comes back until the other side closes.
fn exchange(world: &World, bytes: &[u8]) -> String {
    let mut stream = connect(world);
    // What is refused early may be refused while we still write.
    stream.write_all(bytes).unwrap_or_default();
    stream.shutdown(Shutdown::Write).unwrap_or_default();
    read_all(&mut stream)
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    stream.read_to_end(&mut answer).map(drop).unwrap_or_default();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn malformed_and_oversized_heads_are_refused_and_harm_nobody() {
    let world = World::with(&[]);
    for (bytes, status) in [
        ("rubbish\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(1_000_000)), "431"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100)), "431"),
        (
            "POST /v1/plays HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let answer = exchange(&world, bytes.as_bytes());
        let start: String = answer.chars().take(40).collect();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{start:?} to {:?}",
            &bytes[..20.min(bytes.len())]
        );
    }
    assert_eq!(world.get("/v1/health", &[]).status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = World::with(&[]);
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let last = "GET /v3 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut stream = connect(&world);
    stream.write_all(format!("{}{}{last}", one("/v1/health"), one("/v2")).as_bytes()).unwrap();
    // Not half-closed: hyper takes a client that ends its side for gone, and may leave the last answers out.
    let answer = read_all(&mut stream);
    let places = ["\"status\":\"ok\"", "nothing at /v2", "nothing at /v3"].map(|text| answer.find(text));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {answer}");
}

#[test]
fn a_body_that_does_not_arrive_is_answered_408_and_holds_up_nobody() {
    let world = World::with(&[]);
    let mut slow = connect(&world);
    let head = "POST /v1/plays HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).unwrap();
    let _half_a_head = connect(&world).write_all(b"GET / HT");
    assert_eq!(world.get("/v1/health", &[]).status, 200);
    let answer = read_all(&mut slow);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let problem: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(problem["type"], "/problems/timeout");
}
