//! What a well-behaved client gets: every byte it asked for and no other.

use std::time::Duration;

use content::control_socket::ServerRequest;
use content::id::{Extension, Tier};
use fleet_tests::shelf::{Item, Shelf};
use fleet_tests::wire::{Answer, Wire, request};
use xtask::clock;
use xtask::stop::Stop;

const MIB: usize = 1 << 20;

/// Around every border there is: of a page, of a checksummed piece (256 KiB), of a block (2 MiB).
fn items() -> Vec<Item> {
    let sizes = [1, 700, 4096, 256 * 1024, 256 * 1024 + 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 3];
    (1..).zip(sizes).map(|(seed, size)| Item::new(Tier::Sd, Extension::Mp4, size, seed)).collect()
}

/// `(first, last)` inclusive, of an object of this size.
fn spans(size: usize) -> Vec<(usize, usize)> {
    let end = size - 1;
    let borders = [4096, 256 * 1024, MIB, 2 * MIB, 4 * MIB];
    let across = borders.into_iter().filter(|border| *border < size).flat_map(|border| {
        [(border - 1, border), (border, border), (border.saturating_sub(70_000), (border + 70_000).min(end))]
    });
    [(0, 0), (end, end), (0, end), (end / 3, end / 2)].into_iter().chain(across).collect()
}

#[test]
fn every_byte_range_is_those_bytes_and_no_others() {
    let items = items();
    let shelf = Shelf::start(&items, "").unwrap();
    let mut wire = shelf.wire().unwrap();
    for item in &items {
        let target = shelf.target(item);
        let size = item.bytes.len();
        let whole = wire.ask("GET", &target, &[]).unwrap();
        assert_eq!(whole.status, 200, "{}", whole.text());
        assert!(whole.body == item.bytes, "the whole of {size} bytes differs");
        for (first, last) in spans(size) {
            let range = format!("Range: bytes={first}-{last}");
            let part = wire.ask("GET", &target, &[&range]).unwrap();
            assert_eq!(part.status, 206, "{range} of {size}");
            assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/{size}"));
            assert!(part.body == item.bytes[first..=last], "{range} of {size}: other bytes");
        }
    }
}

#[test]
fn open_and_suffix_ranges_select_to_the_end() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 300_000, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let target = shelf.target(&item);
    let mut wire = shelf.wire().unwrap();
    // RFC 9110 14.1.2: a last position past the end, and a suffix longer than the object, are cut to it.
    for (range, first) in [("299990-", 299_990), ("-10", 299_990), ("-400000", 0), ("299000-999999", 299_000)]
    {
        let part = wire.ask("GET", &target, &[&format!("Range: bytes={range}")]).unwrap();
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-299999/300000"), "{range}");
        assert!(part.body == item.bytes[first..], "{range}: other bytes");
    }
}

#[test]
fn a_range_past_the_end_is_416_and_an_invalid_one_is_ignored() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 1000, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let target = shelf.target(&item);
    let mut wire = shelf.wire().unwrap();
    for range in ["1000-", "1000-2000", "-0", "18446744073709551615-"] {
        let answer = wire.ask("GET", &target, &[&format!("Range: bytes={range}")]).unwrap();
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), "bytes */1000", "{range}");
    }
    // RFC 9110 14.2: a recipient ignores a range unit it does not know and a field it cannot parse.
    for range in ["bytes=9-3", "bytes=x", "bytes=", "lines=1-2", "bytes=1-2,x", "bytes"] {
        let answer = wire.ask("GET", &target, &[&format!("Range: {range}")]).unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 1000), "{range}");
    }
}

#[test]
fn head_says_what_get_would_and_sends_no_body() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 70_000, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let target = shelf.target(&item);
    let mut wire = shelf.wire().unwrap();
    // RFC 9110 14.2: GET is the only method that ranges are defined for.
    for headers in [&[][..], &["Range: bytes=5-9"]] {
        let head = wire.ask("HEAD", &target, headers).unwrap();
        // On the same connection: a body after the HEAD would be taken for this answer.
        let get = wire.ask("GET", &target, &[]).unwrap();
        assert_eq!(head.status, get.status);
        for name in ["content-length", "content-type", "etag", "accept-ranges", "content-range"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
        assert_eq!(head.header("content-length"), "70000");
    }
    let get = wire.ask("GET", &target, &[]).unwrap();
    assert_eq!(get.header("content-type"), "video/mp4");
    assert_eq!(get.header("accept-ranges"), "bytes");
    assert_eq!(get.header("access-control-allow-origin"), "*");
}

#[test]
fn a_client_that_has_the_object_gets_304_and_a_changed_one_gets_it_whole() {
    let item = Item::new(Tier::Base, Extension::M3u8, 5000, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let target = shelf.target(&item);
    let mut wire = shelf.wire().unwrap();
    let etag = wire.ask("GET", &target, &[]).unwrap().header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() > 20, "{etag:?} is no strong validator");
    let ask = |wire: &mut Wire, headers: &[&str]| wire.ask("GET", &target, headers).unwrap();

    for matching in [etag.clone(), format!("\"x\", {etag}"), "*".to_owned(), format!("W/{etag}")] {
        let answer = ask(&mut wire, &[&format!("If-None-Match: {matching}")]);
        assert_eq!((answer.status, answer.header("etag")), (304, etag.as_str()), "{matching}");
    }
    assert_eq!(ask(&mut wire, &["If-None-Match: \"other\""]).status, 200);
    let range = "Range: bytes=0-9";
    assert_eq!(ask(&mut wire, &[range, &format!("If-Range: {etag}")]).status, 206);
    let changed = ask(&mut wire, &[range, "If-Range: \"other\""]);
    assert_eq!((changed.status, changed.body.len()), (200, 5000));
    // RFC 9110 13.1.5: a weak validator never matches If-Range.
    assert_eq!(ask(&mut wire, &[range, &format!("If-Range: W/{etag}")]).status, 200);
    assert_eq!(ask(&mut wire, &["If-Match: \"other\""]).status, 412);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let items: Vec<_> = (1..=20).map(|seed| Item::new(Tier::Sd, Extension::Mp4, 3000 * 7, seed)).collect();
    let shelf = Shelf::start(&items, "").unwrap();
    let mut wire = shelf.wire().unwrap();
    let all: String = items.iter().map(|item| request("GET", &shelf.target(item), &[])).collect();
    wire.send(all).unwrap();
    for (index, item) in items.iter().enumerate() {
        let answer = wire.answer("GET").unwrap();
        assert!(answer.status == 200 && answer.body == item.bytes, "answer {index} is another's");
    }
}

#[test]
fn many_viewers_at_once_each_get_their_own_bytes() {
    let items: Vec<_> =
        (1..=12).map(|seed| Item::new(Tier::Sd, Extension::Mp4, 3 * MIB + 17, seed)).collect();
    // 64 MiB of memory hold 32 blocks; 12 objects of two blocks, many at once, keep it busy.
    let shelf = Shelf::start(&items, "").unwrap();
    std::thread::scope(|scope| {
        for viewer in 0..24 {
            let (shelf, items) = (&shelf, &items);
            scope.spawn(move || {
                let mut wire = shelf.wire().unwrap();
                for turn in 0..6 {
                    let item = &items[(viewer + turn) % items.len()];
                    let answer = ask_until_served(&mut wire, &shelf.target(item));
                    assert!(answer.body == item.bytes, "viewer {viewer}, turn {turn}: other bytes");
                }
            });
        }
    });
}

/// A server at its limit says so and when to come back; it never sends something else instead.
fn ask_until_served(wire: &mut Wire, target: &str) -> Answer {
    clock::wait_for(&Stop::default(), "a turn", Duration::from_secs(30), || {
        let answer = wire.ask("GET", target, &[])?;
        assert!(matches!(answer.status, 200 | 503), "{}: {}", answer.status, answer.text());
        assert!(
            answer.status == 200 || answer.header("retry-after").parse::<u32>().is_ok(),
            "503 without Retry-After"
        );
        Ok((answer.status == 200).then_some(answer))
    })
    .unwrap()
}

#[test]
fn an_object_that_is_not_held_is_404_and_says_why() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 10, 1);
    let absent = Item::new(Tier::Sd, Extension::Mp4, 10, 2);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let answer = shelf.wire().unwrap().ask("GET", &shelf.target(&absent), &[]).unwrap();
    assert_eq!(answer.status, 404);
    assert!(!answer.header("cache-status").is_empty(), "no Cache-Status");
}

#[test]
fn a_player_in_another_page_may_ask() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 10, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let headers = [
        "Origin: http://player.example",
        "Access-Control-Request-Method: GET",
        "Access-Control-Request-Headers: range",
    ];
    let answer = shelf.wire().unwrap().ask("OPTIONS", &shelf.target(&item), &headers).unwrap();
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-allow-headers").to_lowercase().contains("range"));
}

#[test]
fn a_draining_server_sends_new_viewers_elsewhere() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 10, 1);
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    assert!(shelf.tell(&ServerRequest::Drain { on: true }).unwrap().draining);
    let answer = shelf.wire().unwrap().ask("GET", &shelf.target(&item), &[]).unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "no Retry-After");
    assert!(!shelf.tell(&ServerRequest::Drain { on: false }).unwrap().draining);
    assert_eq!(shelf.wire().unwrap().ask("GET", &shelf.target(&item), &[]).unwrap().status, 200);
}

#[test]
fn what_is_sent_is_counted() {
    let item = Item::new(Tier::Sd, Extension::Mp4, 123_456, 1);
    let mut shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let figures = |shelf: &Shelf| shelf.tell(&ServerRequest::Status).unwrap().figures;
    let before = figures(&shelf);
    shelf.wire().unwrap().ask("GET", &shelf.target(&item), &[]).unwrap();
    // Workers publish what they counted now and then, not at each request.
    clock::wait_for(&Stop::default(), "the request to be counted", Duration::from_secs(10), || {
        let after = figures(&shelf);
        let counted = (after.requests - before.requests, after.bytes_sent - before.bytes_sent);
        assert!(counted.0 <= 1 && counted.1 <= 123_456, "{counted:?}");
        Ok((counted == (1, 123_456)).then_some(()))
    })
    .unwrap();
    assert!(!shelf.metrics().unwrap().is_empty());
    assert!(shelf.stop().unwrap(), "the server did not end when asked to");
}
