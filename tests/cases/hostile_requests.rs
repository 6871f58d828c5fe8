//! What an ill-behaved client gets: a clear refusal, and nobody else suffers.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use content::control_socket::ServerRequest;
use content::id::{Extension, Tier};
use fleet_tests::shelf::{Item, Shelf};
use fleet_tests::wire::{Answer, is_end, request};
use xtask::clock;

const MIB: usize = 1 << 20;

fn shelf_with(limits: &str) -> (Shelf, Item) {
    let item = Item::new(Tier::Sd, Extension::Mp4, 50_000, 1);
    (Shelf::start(std::slice::from_ref(&item), limits).unwrap(), item)
}

/// A well-behaved client next door is served.
#[track_caller]
fn still_serves(shelf: &mut Shelf, item: &Item) {
    shelf.expect_running().unwrap();
    let answer = shelf.wire().unwrap().ask("GET", &shelf.target(item), &[]).unwrap();
    assert!(answer.status == 200 && answer.body == item.bytes, "the next client got {}", answer.status);
}

/// Sends bytes; gives the answer, None if the connection just ended.
fn answer_to(shelf: &Shelf, bytes: &[u8]) -> Option<Answer> {
    let mut wire = shelf.wire().unwrap();
    // It may close before it has read all: then writing fails, and the answer is there to read.
    drop(wire.send(bytes));
    match wire.answer("GET") {
        Ok(answer) => Some(answer),
        Err(cause) if is_end(&cause) => None,
        Err(cause) => panic!("neither an answer nor an end: {cause}"),
    }
}

#[test]
fn a_malformed_request_is_refused_and_the_connection_closed() {
    let (mut shelf, item) = shelf_with("");
    let target = shelf.target(&item);
    let with = |headers: &str| format!("GET {target} HTTP/1.1\r\n{headers}\r\n").into_bytes();
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("rubbish", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("no target", b"GET\r\n\r\n".to_vec(), &[400]),
        ("no version", format!("GET {target}\r\n\r\n").into_bytes(), &[400, 505]),
        ("a version to come", format!("GET {target} HTTP/3.0\r\nHost: x\r\n\r\n").into_bytes(), &[400, 505]),
        ("no Host", with(""), &[400]),
        ("two Hosts", with("Host: a\r\nHost: b\r\n"), &[400]),
        ("a NUL in a header", with("Host: a\r\nX: \0\r\n"), &[400]),
        ("a space before the colon", with("Host : a\r\n"), &[400]),
        ("a folded header", with("Host: a\r\nX: b\r\n c\r\n"), &[400]),
        ("two lengths", with("Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n"), &[400]),
        ("a length that is none", with("Host: a\r\nContent-Length: -1\r\n"), &[400]),
        (
            "length and chunks",
            with("Host: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
            &[400, 411, 413, 501],
        ),
        (
            "a method that is none",
            format!("BREW {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
            &[405, 501],
        ),
        ("a write", format!("DELETE {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(), &[405, 501]),
    ];
    for (name, bytes, allowed) in cases {
        let answer = answer_to(&shelf, &bytes).unwrap_or_else(|| panic!("{name}: no answer"));
        assert!(allowed.contains(&answer.status), "{name}: {}", answer.status);
        still_serves(&mut shelf, &item);
    }
}

#[test]
fn an_oversized_head_is_refused() {
    let (mut shelf, item) = shelf_with("head_bytes_max = 4096\nheader_count_max = 32");
    let long = request("GET", &shelf.target(&item), &[&format!("X: {}", "a".repeat(8000))]);
    assert_eq!(answer_to(&shelf, long.as_bytes()).map(|answer| answer.status), Some(431));
    let lines: Vec<_> = (0..40).map(|index| format!("X-{index}: a")).collect();
    let many = request("GET", &shelf.target(&item), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(answer_to(&shelf, many.as_bytes()).map(|answer| answer.status), Some(431));
    // Without an end at all.
    let endless = format!("GET /{}", "a".repeat(100_000));
    let status = answer_to(&shelf, endless.as_bytes()).map(|answer| answer.status);
    assert!(matches!(status, Some(414 | 431) | None), "{status:?}");
    still_serves(&mut shelf, &item);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_answered() {
    let (shelf, item) = shelf_with("");
    let mut wire = shelf.wire().unwrap();
    for byte in request("GET", &shelf.target(&item), &["Range: bytes=0-9"]).into_bytes() {
        wire.send([byte]).unwrap();
    }
    let answer = wire.answer("GET").unwrap();
    assert!(answer.status == 206 && answer.body == item.bytes[..10]);
}

#[test]
fn a_head_that_never_ends_and_an_idle_connection_are_closed() {
    let (mut shelf, item) = shelf_with("head_ms_max = 700\nidle_ms_max = 700");
    let mut slow = shelf.wire().unwrap();
    slow.send("GET /").unwrap();
    let mut idle = shelf.wire().unwrap();
    let served = idle.ask("GET", &shelf.target(&item), &["Range: bytes=0-0"]).unwrap();
    assert_eq!(served.status, 206);
    // Both reads end only when the server closes; the socket's own limit (20 s) would fail them.
    let last_words = String::from_utf8(slow.rest().unwrap()).unwrap();
    assert!(last_words.is_empty() || last_words.starts_with("HTTP/1.1 408"), "{last_words}");
    idle.rest().unwrap();
    still_serves(&mut shelf, &item);
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    // Larger than what the kernel's buffers on both sides take.
    let item = Item::new(Tier::Sd, Extension::Mp4, 48 * MIB, 1);
    let mut shelf = Shelf::start(std::slice::from_ref(&item), "send_stall_ms_max = 700").unwrap();
    let mut wire = shelf.wire().unwrap();
    wire.send(request("GET", &shelf.target(&item), &[])).unwrap();
    let stop = xtask::stop::Stop::default();
    let connections = |shelf: &Shelf| shelf.tell(&ServerRequest::Status).unwrap().figures.connections;
    clock::wait_for(&stop, "the request to begin", Duration::from_secs(10), || {
        Ok((connections(&shelf) == 1).then_some(()))
    })
    .unwrap();
    clock::wait_for(&stop, "the stalled connection to be closed", Duration::from_secs(15), || {
        Ok((connections(&shelf) == 0).then_some(()))
    })
    .unwrap();
    let received = wire.rest().unwrap();
    assert!(received.len() < item.bytes.len(), "it got everything");
    still_serves(&mut shelf, &item);
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 9 * MIB, 1);
    let mut shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    for _ in 0..50 {
        let mut wire = shelf.wire().unwrap();
        wire.send(request("GET", &shelf.target(&item), &[])).unwrap();
    }
    still_serves(&mut shelf, &item);
}

#[test]
fn more_connections_than_the_limit_are_turned_away() {
    let (mut shelf, item) = shelf_with("connections_max = 8");
    let mut open: Vec<_> = (0..64).map(|_| shelf.wire().unwrap()).collect();
    let mut served = 0;
    let mut refused = 0;
    for wire in &mut open {
        match wire.ask("GET", &shelf.target(&item), &["Range: bytes=0-0"]) {
            Ok(answer) if answer.status == 206 => served += 1,
            Ok(answer) if answer.status == 503 => refused += 1,
            Err(cause) if is_end(&cause) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    // Two workers, eight each.
    assert!((1..=16).contains(&served), "{served} were served");
    assert_eq!(served + refused, 64);
    drop(open);
    let stop = xtask::stop::Stop::default();
    clock::wait_for(&stop, "room again", Duration::from_secs(10), || {
        let answer = shelf.wire()?.ask("GET", &shelf.target(&item), &[]);
        Ok(answer.ok().filter(|answer| answer.status == 200))
    })
    .unwrap();
    still_serves(&mut shelf, &item);
}

#[test]
fn a_bad_byte_on_the_disk_is_never_sent() {
    let items: Vec<_> = [1, 2].map(|seed| Item::new(Tier::Sd, Extension::Mp4, 3 * MIB, seed)).into();
    let mut shelf = Shelf::start(&items, "").unwrap();
    shelf.kill().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(shelf.volume_file(0)).unwrap();
    let bad = 2 * MIB + 300_000;
    file.seek(SeekFrom::Start(u64::try_from(bad).unwrap())).unwrap();
    file.write_all(&[!items[0].bytes[bad]]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    shelf.power_on().unwrap();

    let target = shelf.target(&items[0]);
    let mut wire = shelf.wire().unwrap();
    wire.send(request("GET", &target, &["Connection: close"])).unwrap();
    let received = wire.rest().unwrap();
    let body =
        received.windows(4).position(|four| four == b"\r\n\r\n").map_or(&[][..], |end| &received[end + 4..]);
    assert!(body.len() <= bad, "the bad byte was sent");
    if received.starts_with(b"HTTP/1.1 200") {
        assert!(body == &items[0].bytes[..body.len()], "a wrong byte was sent");
    }
    let status = shelf.tell(&ServerRequest::Status).unwrap();
    assert_eq!(status.withdrawn.len(), 1, "the damaged file is not withdrawn");
    let again = shelf.wire().unwrap().ask("GET", &target, &[]).unwrap();
    assert!(matches!(again.status, 404 | 503), "{}", again.status);
    still_serves(&mut shelf, &items[1]);
}
