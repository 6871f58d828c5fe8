//! The whole server on real sockets, files and rings: what comes over the wire is what is on the disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use appliance::clock::Now;
use appliance::server::Server;
use content::box_config::BoxConfig;

use crate::fixture::{Disks, Item, Wire, item, pack_of, wait_until};
use content::catalogue::{CATALOGUE_FOLDER, generation_name};
use content::control_socket::ServerRequest;

const MIB: usize = 1 << 20;

fn items() -> Vec<Item> {
    let sizes = [0, 1, 4_095, 262_144, 262_145, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 17];
    sizes.into_iter().zip(1..).map(|(size, seed)| item(size, seed)).collect()
}

#[test]
fn every_object_and_every_kind_of_range_is_byte_exact_on_one_connection() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    let mut wire = site.wire();
    for item in &items {
        let target = site.target(item);
        let size = item.bytes.len();
        let whole = wire.get(&target, "");
        assert_eq!((whole.status, whole.content == item.bytes), (200, true), "{size}");
        let head = wire.ask(&format!("HEAD {target} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-0\r\n\r\n"));
        assert_eq!((head.status, head.field("content-length")), (200, Some(size.to_string().as_str())));
        let past = wire.get(&target, &format!("Range: bytes={size}-\r\n"));
        assert_eq!(
            (past.status, past.field("content-range")),
            (416, Some(format!("bytes */{size}").as_str()))
        );
        let tag = whole.field("etag").unwrap();
        assert_eq!(wire.get(&target, &format!("If-None-Match: {tag}\r\n")).status, 304);
        let spans = [(0, 0), (size / 2, size / 2 + 300_000), (2 * MIB - 3, 2 * MIB + 3), (1, size)];
        for (first, last) in spans.into_iter().filter(|(first, _)| *first < size) {
            let part = wire.get(&target, &format!("Range: bytes={first}-{last}\r\n"));
            let end = last.min(size - 1);
            assert_eq!((part.status, part.content == item.bytes[first..=end]), (206, true), "{first}-{last}");
            assert_eq!(part.field("content-range"), Some(format!("bytes {first}-{end}/{size}").as_str()));
        }
    }
    site.server.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order_and_byte_exact() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    let mut wire = site.wire();
    let order: Vec<&Item> = items.iter().cycle().take(18).collect();
    let request = |item: &&Item| format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", site.target(item));
    wire.send(order.iter().map(request).collect::<String>().as_bytes());
    for item in order {
        let answer = wire.read(false);
        assert_eq!((answer.status, answer.content == item.bytes), (200, true), "{}", item.bytes.len());
    }
    site.server.stop();
}

#[test]
fn a_head_may_come_byte_by_byte_and_a_bad_one_ends_only_its_own_connection() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("head_ms_max = 1500");
    let mut good = site.wire();
    let target = site.target(&items[3]);
    for byte in format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes() {
        good.send(&[*byte]);
    }
    assert!(good.read(false).content == items[3].bytes);
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(9_000));
    let smuggled =
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x";
    for (request, status) in [
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        (smuggled, 400),
        (long.as_str(), 431),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET / HTT", 413),
        ("GET / HT", 408),
    ] {
        let mut bad = site.wire();
        let answer = bad.ask(request);
        assert_eq!((answer.status, answer.field("connection")), (status, Some("close")), "{request:?}");
        assert!(bad.ended(), "{request:?}");
    }
    assert_eq!(good.get(&target, "Range: bytes=1-2\r\n").content, items[3].bytes[1..=2]);
    site.server.stop();
}

#[test]
fn a_new_generation_is_served_without_a_break_while_requests_run() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items[..6]);
    let site = disks.start("");
    let stop = AtomicBool::new(false);
    let (first, last) = (site.target(&items[5]), site.target(&items[8]));
    assert_eq!(site.wire().get(&last, "").status, 404);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut wire = site.wire();
                while !stop.load(Ordering::Relaxed) {
                    let answer = wire.get(&first, "");
                    assert!(answer.status == 200 && answer.content == items[5].bytes);
                }
            });
        }
        for generation in 2..12 {
            site.disks.write(generation, &items);
            let status = site.tell(&ServerRequest::Publish { generation }).unwrap();
            assert_eq!(status.generation, generation);
            assert!(site.wire().get(&last, "").content == items[8].bytes);
        }
        stop.store(true, Ordering::Relaxed);
    });
    wait_until("no request uses an old generation", || {
        site.tell(&ServerRequest::Status).unwrap().oldest_in_use == 11
    });
    site.server.stop();
}

#[test]
fn a_file_that_is_held_no_more_is_closed_so_that_its_space_comes_back() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    items.iter().for_each(|item| assert_eq!(site.wire().get(&site.target(item), "").status, 200));
    let last = items.len() - 1;
    let (kept, gone) = (site.disks.file(2), site.disks.file(last));
    let open = |path: &Path| {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        links.flatten().filter_map(|link| fs::read_link(link.path()).ok()).any(|file| file.starts_with(path))
    };
    assert!(open(&kept) && open(&gone));
    site.disks.write(2, &items[..last]);
    site.tell(&ServerRequest::Publish { generation: 2 }).unwrap();
    wait_until("it is closed", || !open(&gone));
    assert!(open(&kept));
    site.server.stop();
}

#[test]
fn a_damaged_generation_is_refused_and_the_old_one_served_on() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    site.disks.write(2, &items);
    let path = site.disks.folder.path().join("state").join(CATALOGUE_FOLDER).join(generation_name(2));
    let mut bytes = fs::read(&path).unwrap();
    bytes[9_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refused = site.tell(&ServerRequest::Publish { generation: 2 }).unwrap_err();
    assert!(refused.contains("generation 2"), "{refused}");
    assert!(site.tell(&ServerRequest::Publish { generation: 9 }).is_err());
    assert!(site.tell_line("{\"ask\":\"publish\"").contains("refused"));
    assert_eq!(site.tell(&ServerRequest::Status).unwrap().generation, 1);
    assert!(site.wire().get(&site.target(&items[4]), "").content == items[4].bytes);
    site.server.stop();
}

#[test]
fn a_corrupt_block_is_never_sent_and_its_file_is_withdrawn() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let big = items.len() - 1;
    // In the second of the object's three blocks.
    let at = 3 * MIB;
    let file = OpenOptions::new().write(true).open(disks.file(big)).unwrap();
    file.write_all_at(&[!items[big].bytes[at]], u64::try_from(at).unwrap()).unwrap();
    let site = disks.start("");
    let target = site.target(&items[big]);
    let broken = site.wire().get(&target, &format!("Range: bytes={}-\r\n", 2 * MIB));
    assert_eq!(broken.status, 503);
    let mut wire = site.wire();
    let whole = wire.get(&target, "");
    assert!(whole.status == 503 || items[big].bytes.starts_with(&whole.content));
    assert!(whole.content.len() <= 2 * MIB);
    wait_until("the file is withdrawn", || site.wire().get(&target, "").status == 503);
    let status = site.tell(&ServerRequest::Status).unwrap();
    assert_eq!(status.withdrawn.iter().map(|file| file.file).collect::<Vec<_>>(), vec![9]);
    assert!(status.volumes[0].read_errors > 0);
    assert!(site.wire().get(&site.target(&items[4]), "").content == items[4].bytes);
    site.server.stop();
}

#[test]
fn a_file_with_another_objects_bytes_is_never_sent_and_is_withdrawn() {
    let (disks, items) = (Disks::new(), [item(70_000, 1), item(70_000, 2), item(70_000, 3)]);
    disks.write(1, &items);
    // Whole and with a footer that fits it.
    fs::copy(disks.file(1), disks.file(0)).unwrap();
    let site = disks.start("");
    let mut wire = site.wire();
    assert_eq!(wire.get(&site.target(&items[0]), "").status, 503);
    assert!(wire.get(&site.target(&items[2]), "").content == items[2].bytes);
    let withdrawn = site.tell(&ServerRequest::Status).unwrap().withdrawn;
    assert_eq!(withdrawn.iter().map(|file| file.file).collect::<Vec<_>>(), [1]);
    site.server.stop();
}

#[test]
fn a_pack_that_was_sealed_under_another_number_is_never_sent_and_is_withdrawn() {
    let (disks, items) = (Disks::new(), [item(70_000, 1), item(70_000, 2), item(70_000, 3)]);
    disks.write(1, &items);
    fs::write(disks.file(0), pack_of(&items[2].bytes, 3)).unwrap();
    fs::write(disks.file(2), pack_of(&items[2].bytes, 3)).unwrap();
    let site = disks.start("");
    let mut wire = site.wire();
    assert_eq!(wire.get(&site.target(&items[0]), "").status, 503);
    assert!(wire.get(&site.target(&items[2]), "").content == items[2].bytes);
    let withdrawn = site.tell(&ServerRequest::Status).unwrap().withdrawn;
    assert_eq!(withdrawn.iter().map(|file| file.file).collect::<Vec<_>>(), [1]);
    site.server.stop();
}

#[test]
fn a_volume_that_goes_away_takes_only_its_own_objects_along() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    fs::remove_dir_all(site.disks.volume(1)).unwrap();
    let lost = site.target(&items[7]);
    wait_until("the volume is noticed to be gone", || {
        let answer = site.wire().get(&lost, "");
        assert!(answer.status == 503 || answer.content == items[7].bytes);
        answer.field("cache-status") == Some("oca; fwd=miss; detail=volume_lost")
    });
    let status = site.tell(&ServerRequest::Status).unwrap();
    assert_eq!(status.volumes.iter().map(|volume| volume.usable).collect::<Vec<_>>(), vec![true, false]);
    assert!(site.wire().get(&site.target(&items[8]), "").content == items[8].bytes);
    let health = site.manage("GET", "/health");
    let text = String::from_utf8(health.content).unwrap();
    assert!(health.status == 200 && text.contains("\"degraded\"") && text.contains("volume-1"), "{text}");
    fs::remove_dir_all(site.disks.volume(0)).unwrap();
    wait_until("the health is 503", || site.manage("GET", "/health").status == 503);
    site.server.stop();
}

#[test]
fn a_draining_server_refuses_new_requests_and_closes() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    let target = site.target(&items[2]);
    let mut idle = site.wire();
    assert_eq!(idle.get(&target, "").status, 200);
    assert!(site.tell(&ServerRequest::Drain { on: true }).unwrap().draining);
    assert!(idle.ended());
    let answer = site.wire().get(&target, "");
    assert_eq!((answer.status, answer.field("connection")), (503, Some("close")));
    assert_eq!(site.manage("GET", "/health").status, 503);
    assert!(!site.tell(&ServerRequest::Drain { on: false }).unwrap().draining);
    assert_eq!(site.wire().get(&target, "").status, 200);
    // When the program ends, the agent still says what the control plane told it last.
    site.server.drain();
    assert!(site.tell(&ServerRequest::Drain { on: false }).unwrap().draining);
    site.server.stop();
}

#[test]
fn the_management_port_tells_what_happened() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    let mut wire = site.wire();
    let size = items[8].bytes.len();
    wire.get(&site.target(&items[8]), "");
    wire.get(&site.target(&items[8]), "Range: bytes=0-9\r\n");
    wire.get("/none", "");
    let expected: u32 = (size + 10).try_into().unwrap();
    wait_until("the bytes are counted", || site.metric("oca_body_bytes_total") == f64::from(expected));
    wait_until("the requests are counted", || {
        let count = |ending: &str| site.metric(&format!("oca_requests_total{{ending=\"{ending}\"}}"));
        (count("complete"), count("partial"), count("token_missing")) == (1.0, 1.0, 1.0)
    });
    // Three blocks, one of them twice; a block that was read ahead of its turn counts as a hit.
    let (hits, misses) = (site.metric("oca_memory_hits_total"), site.metric("oca_memory_misses_total"));
    assert!(misses >= 1.0 && hits >= 1.0 && hits + misses == 4.0, "{hits} hits, {misses} misses");
    assert!(site.metric("oca_sent_bytes_total") > f64::from(expected));
    assert_eq!(site.metric("oca_connections"), 1.0);
    let health = site.manage("GET", "/health");
    assert!(
        health.status == 200 && String::from_utf8(health.content).unwrap().contains("\"status\": \"ok\"")
    );
    assert_eq!(site.manage("GET", "/other").status, 404);
    let post = site.manage("POST", "/health");
    assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD")));
    drop(wire);
    wait_until("the connection ended", || {
        site.metric("oca_connections_closed_total{ending=\"peer_closed\"}") == 1.0
    });
    let figures = site.tell(&ServerRequest::Status).unwrap().figures;
    assert_eq!((figures.requests, figures.connections, figures.bytes_sent), (3, 0, u64::from(expected)));
    site.server.stop();
}

#[test]
fn a_server_without_a_catalogue_serves_404_and_takes_the_first_one() {
    let (disks, items) = (Disks::new(), items());
    let site = disks.start("");
    assert_eq!(site.tell(&ServerRequest::Status).unwrap().generation, 0);
    let mut wire: Wire = site.wire();
    assert_eq!(wire.get(&site.target(&items[1]), "").status, 404);
    site.disks.write(1, &items);
    site.tell(&ServerRequest::Publish { generation: 1 }).unwrap();
    assert_eq!(wire.get(&site.target(&items[1]), "").content, items[1].bytes);
    site.server.stop();
}

/// The figures are kept: the next start takes the same way for the same reason, and measures nothing.
#[test]
fn a_first_start_measures_the_ways_out_and_the_next_one_knows_them() {
    let disks = Disks::new();
    disks.write(1, &[item(1_000, 1)]);
    let text = disks.config_text("").replace("way = 'sendfile'\n", "");
    let note = disks.folder.path().join("state/ways.json");
    let mut known = Vec::new();
    for (when, other) in [("measured at this start", false), ("kept from an earlier start", true)] {
        assert_eq!(note.exists(), other);
        let server = Server::start(BoxConfig::parse(&text).unwrap(), None).unwrap();
        let health = server.service.health();
        assert!(health.way_reason.starts_with(when), "{}", health.way_reason);
        assert!(health.capacity.bits_per_second > 0, "{:?}", health.capacity);
        let metrics = server.service.exposition(Now(1));
        let bits = "oca_capacity_bits_per_second{resource=\"cpu\"}";
        assert!(metrics.contains(bits), "{metrics}");
        known.push((health.way, health.capacity));
        server.stop();
    }
    assert_eq!(known[0], known[1]);
}

#[test]
fn several_ranges_come_as_parts_in_the_order_asked_for_and_the_connection_goes_on() {
    let (disks, items) = (Disks::new(), items());
    disks.write(1, &items);
    let site = disks.start("");
    let mut wire = site.wire();
    let item = &items[8];
    let (target, size) = (site.target(item), item.bytes.len());
    // Across the edges of blocks, forth and back, and one byte at the end.
    let spans =
        [(2 * MIB - 5, 4 * MIB + 5), (0, 70_000), (5 * MIB - 500, 5 * MIB - 500), (size - 1, size - 1)];
    let asked: Vec<_> = spans.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    for _ in 0..2 {
        let answer = wire.get(&target, &format!("Range: bytes={}\r\n", asked.join(", ")));
        assert_eq!((answer.status, answer.field("content-range")), (206, None));
        let media_type = answer.field("content-type").unwrap();
        let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let mut expected = Vec::new();
        for (first, last) in spans {
            let lead = if expected.is_empty() { "" } else { "\r\n" };
            let head = format!(
                "--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes {first}-{last}/{size}"
            );
            expected.extend_from_slice(format!("{lead}{head}\r\n\r\n").as_bytes());
            expected.extend_from_slice(&item.bytes[first..=last]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(answer.content == expected, "{} bytes, {} expected", answer.content.len(), expected.len());
    }
    // RFC 9110 14.2: HEAD knows no ranges; 15.3.7.2: parts that touch are one, which is no multipart.
    let head = wire.ask(&format!("HEAD {target} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1,500-501\r\n\r\n"));
    assert_eq!((head.status, head.field("content-length")), (200, Some(size.to_string().as_str())));
    let one = wire.get(&target, "Range: bytes=0-9,5-40,60-99\r\n");
    assert_eq!((one.status, one.field("content-range")), (206, Some(format!("bytes 0-99/{size}").as_str())));
    assert!(one.content == item.bytes[..100]);
    let none = wire.get(&target, &format!("Range: bytes={size}-,-0\r\n"));
    assert_eq!(none.status, 416);
    let many: Vec<_> = (0..17).map(|at| format!("{}-{}", at * 1000, at * 1000)).collect();
    let whole = wire.get(&target, &format!("Range: bytes={}\r\n", many.join(",")));
    assert!(whole.status == 200 && whole.content == item.bytes);
    site.server.stop();
}

#[test]
fn a_player_that_says_how_fast_gets_its_answer_no_faster_and_the_next_one_at_once() {
    let disks = Disks::new();
    let film = item(2 * MIB, 1);
    disks.write(1, std::slice::from_ref(&film));
    let site = disks.start("");
    let mut wire = site.wire();
    let target = site.target(&film);
    let mut timed = |query: &str, fields: &str| {
        let start = appliance::sys::now();
        let answer = wire.get(&format!("{target}{query}"), fields);
        assert!(answer.content == film.bytes);
        appliance::sys::now().0 - start.0
    };
    timed("", "");
    // 2 MiB with 8 Mbit/s take 2.1 s, but for what leaves before the first pause.
    let paced = [timed("", "CMCD-Status: rtp=8000\r\n"), timed("?CMCD=rtp%3D8000%2Cbl%3D3000", "")];
    let free = [timed("", ""), timed("", "CMCD-Status: rtp=8000,bs\r\n"), timed("?CMCD=rtp%3D8000%2Csu", "")];
    assert!(paced.iter().all(|ns| *ns > 1_000_000_000), "{paced:?}");
    let longest = free.iter().max().unwrap();
    assert!(paced.iter().all(|ns| ns > longest), "{paced:?} {free:?}");
    site.server.stop();
}

#[test]
fn an_answer_says_its_digest_and_how_long_its_block_was_waited_for() {
    let disks = Disks::new();
    let film = item(300_000, 1);
    disks.write(1, std::slice::from_ref(&film));
    let site = disks.start("");
    let mut wire = site.wire();
    for fields in ["", "Range: bytes=5-9\r\n"] {
        let answer = wire.get(&site.target(&film), fields);
        let digest = content::id::ObjectId::of(&film.bytes);
        let encoded = openssl_base64(digest.as_bytes());
        assert_eq!(answer.field("repr-digest"), Some(format!("blake3=:{encoded}:").as_str()));
        let wait = answer.field("server-timing").unwrap().strip_prefix("block;dur=").unwrap();
        let wait: f64 = wait.parse().unwrap();
        assert!((0.0..20_000.0).contains(&wait), "{wait}");
        assert!(wait > 0.0 || !fields.is_empty(), "the first one waited for a disk");
    }
    site.server.stop();
}

/// By another's code.
fn openssl_base64(bytes: &[u8]) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl");
    openssl.args(["base64", "-A"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().expect("openssl is installed (Debian: openssl)");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}
