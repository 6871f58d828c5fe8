//! A whole title through the whole fleet: every answer compared with the origin, byte for byte.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use content::id::{MediaPath, ObjectId};
use content::origin;
use content::play::{PlayAnswer, PlayObject};
use content::token::split_target;
use fleet_tests::wire::Wire;
use fleet_tests::world::{SLUG, World};

/// `http://ADDRESS/path` in its two parts.
fn split_url(url: &str) -> (SocketAddr, &str) {
    let rest = url.strip_prefix("http://").unwrap();
    let at = rest.find('/').unwrap();
    (rest[..at].parse().unwrap(), &rest[at..])
}

fn in_origin(root: &Path, path: &MediaPath) -> Vec<u8> {
    let bytes = fs::read(root.join(origin::object_path(path.object, path.extension))).unwrap();
    assert_eq!(ObjectId::of(&bytes), path.object, "the origin holds something else under this name");
    bytes
}

/// `(first, last)` of each segment of a media playlist, its initialisation section among them.
fn byte_ranges(playlist: &str) -> Vec<(usize, usize)> {
    let mut next = 0;
    let mut ranges = Vec::new();
    for line in playlist.lines() {
        let range = line.strip_prefix("#EXT-X-BYTERANGE:");
        let map = line.strip_prefix("#EXT-X-MAP:").and_then(|rest| rest.split_once("BYTERANGE=\""));
        let Some(text) = range.or(map.and_then(|(_, rest)| rest.split_once('"')).map(|(text, _)| text))
        else {
            continue;
        };
        // RFC 8216 4.3.2.2: without an offset, right after the one before.
        let (count, first) =
            text.split_once('@').map_or((text, next), |(count, at)| (count, at.parse().unwrap()));
        let count: usize = count.parse().unwrap();
        ranges.push((first, first + count - 1));
        next = first + count;
    }
    ranges
}

/// Every object of the play from every appliance that was offered for it: whole, and in a player's ranges.
fn compare_object(root: &Path, object: &PlayObject, ranges: &[(usize, usize)]) -> usize {
    let mut compared = 0;
    assert_eq!(object.urls.len(), 2, "both boxes hold everything: {:?}", object.urls);
    for url in &object.urls {
        let (address, target) = split_url(url);
        let (_, path) = split_target(target).expect("a URL with a token");
        let expected = in_origin(root, &path.parse().unwrap());
        let mut wire = Wire::open(address).unwrap();
        let whole = wire.ask("GET", target, &[]).unwrap();
        assert!(whole.status == 200 && whole.body == expected, "{url} differs from the origin");
        compared += 1;
        for &(first, last) in ranges {
            let part = wire.ask("GET", target, &[&format!("Range: bytes={first}-{last}")]).unwrap();
            assert_eq!(part.status, 206, "{url} {first}-{last}");
            assert!(part.body == expected[first..=last], "{url} {first}-{last} differs from the origin");
            compared += 1;
        }
    }
    compared
}

fn compare_play(world: &World, play: &PlayAnswer) -> usize {
    let root = &world.fleet.plan.origin;
    let mut compared = 0;
    for stream in &play.streams {
        let (address, target) = split_url(&stream.playlist.urls[0]);
        let playlist = Wire::open(address).unwrap().ask("GET", target, &[]).unwrap().text();
        assert!(playlist.starts_with("#EXTM3U"), "{playlist}");
        let ranges = byte_ranges(&playlist);
        assert_eq!(ranges.is_empty(), stream.init.is_none(), "{}: {playlist}", stream.id);
        compared += compare_object(root, &stream.playlist, &[]);
        compared += compare_object(root, &stream.track, &ranges);
    }
    compared
}

#[test]
fn every_answer_of_a_whole_title_is_the_origins_bytes() {
    let world = World::filled().unwrap();
    let play = world.play().unwrap();
    let title = world.title().unwrap();
    assert_eq!(play.streams.len(), title.streams.len(), "a stream is not offered");
    let compared = compare_play(&world, &play);
    // Two boxes, every stream, at least its playlist and its track.
    assert!(compared >= 4 * title.streams.len(), "only {compared} answers were compared");
}

#[test]
fn a_player_without_a_screen_gets_a_title_whole_and_byte_exact() {
    let world = World::filled().unwrap();
    let plan = &world.fleet.plan;
    let fragments = world.folder.path().join("fragments.json");
    let play = plan.binaries.join("oca-play");
    let mut command = Command::new(&play);
    command.args([
        "play",
        "--control",
        &plan.control_url(),
        "--title",
        SLUG,
        "--flat-out",
        "--limit-s",
        "60",
    ]);
    let output = command.arg("--fragments").arg(&fragments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verify = |fragments: &Path| {
        let mut command = Command::new(&play);
        command
            .args(["verify", "--origin"])
            .arg(&plan.origin)
            .arg("--fragments")
            .arg(fragments)
            .arg("--complete");
        let title = plan.origin.join(origin::title_path(&SLUG.parse().unwrap()));
        command.arg(title).stdin(Stdio::null()).output().unwrap()
    };
    let verdict = verify(&fragments);
    assert!(verdict.status.success(), "{}", String::from_utf8_lossy(&verdict.stderr));

    // The judge must be able to fail: a list with a fragment less, and one with a wrong digest.
    let text = fs::read_to_string(&fragments).unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let wrong = world.folder.path().join("wrong.json");
    let mut shorter = list.clone();
    shorter.pop();
    fs::write(&wrong, serde_json::to_string(&shorter).unwrap()).unwrap();
    assert!(!verify(&wrong).status.success(), "a missing fragment went unnoticed");
    let mut other = list;
    other[0]["sha256"] = "0".repeat(64).into();
    fs::write(&wrong, serde_json::to_string(&other).unwrap()).unwrap();
    assert!(!verify(&wrong).status.success(), "a wrong digest went unnoticed");
}
