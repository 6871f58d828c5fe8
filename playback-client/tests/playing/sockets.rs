//! The same world on real sockets, and the real `oca-play` in it.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::world::{Act, SEGMENTS, World, request};
use playback_client::clock::Clock;
use playback_client::network::Tcp;
use playback_client::play::{Settings, play};
use playback_client::schedule::Pace;
use playback_client::summary::Summary;

/// Without a pause between pieces.
const AS_FAST_AS_IT_GOES: u64 = u64::MAX;

async fn oca_play(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_oca-play"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(60), command.output()).await.expect("oca-play hangs").unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_server_that_dies_in_mid_body_is_left_and_nothing_is_lost() {
    let mut world = World::new(|asked| match (asked.box_name, asked.span.map(|span| span.first())) {
        ("box-a", Some(first)) if first > 1_000_000 => Act::DieAfter(70_000),
        _ => Act::Serve,
    });
    world.rate = AS_FAST_AS_IT_GOES;
    let world = Arc::new(world);
    let control = world.listen().await;
    let settings = Settings { pace: Pace::FlatOut, ..Settings::default() };
    let outcome = play(control.parse().unwrap(), request(), settings, Box::new(Tcp), Clock::start()).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(outcome.summary.wasted_bytes, 0);
    assert!(outcome.summary.appliance_switches.iter().any(|switch| switch.to.as_str() == "box-b"));
}

#[tokio::test]
async fn what_oca_play_fetched_is_what_oca_play_verify_finds_in_the_origin() {
    let mut world = World::new(|_| Act::Serve);
    world.rate = AS_FAST_AS_IT_GOES;
    let world = Arc::new(world);
    let control = world.listen().await;
    let folder = tempfile::tempdir().unwrap();
    let title = world.write_origin(folder.path());
    let (report, list) = (folder.path().join("report.json"), folder.path().join("fragments.json"));
    let arguments = ["play", "--control", &control, "--title", "night-train", "--flat-out"];
    let files = ["--json", path(&report), "--fragments", path(&list)];
    let played = oca_play(&[&arguments[..], &files].concat()).await;
    assert!(played.status.success(), "{played:?}");
    let table = String::from_utf8(played.stdout).unwrap();
    assert!(table.contains("everything arrived") && table.contains("box-a"), "{table}");
    let summary: Summary = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert!(summary.complete && summary.fragments > 2 * SEGMENTS);

    let verify =
        ["verify", "--origin", path(folder.path()), "--fragments", path(&list), "--complete", path(&title)];
    let verified = oca_play(&verify).await;
    assert!(verified.status.success(), "{verified:?}");

    let track = world.stream("audio-en").track;
    let object = folder.path().join("objects").join(&track.object.to_string()[..2]);
    let object = object.join(format!("{}.mp4", track.object));
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let verified = oca_play(&verify).await;
    assert_eq!(verified.status.code(), Some(1));
    assert!(
        String::from_utf8(verified.stderr).unwrap().contains("1 differences"),
        "one fragment has the byte"
    );
}

#[tokio::test]
async fn each_way_to_fail_has_its_exit_status() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = oca_play(&["play", "--control", &format!("http://{free}"), "--title", "x"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("is oca-control running there"));
    assert_eq!(oca_play(&["play", "--title", "x"]).await.status.code(), Some(2));

    // The first fragment plays for 4 s; the next comes late by more than is allowed, though fetched flat out.
    let mut world = World::new(|asked| match asked.span {
        Some(span) if span.first() > 100_000 => Act::Status(503, ""),
        _ => Act::Serve,
    });
    world.script_until = Some(Duration::from_secs(5));
    let control = Arc::new(world).listen().await;
    let arguments = ["play", "--control", &control, "--title", "night-train", "--limit-s", "5", "--flat-out"];
    let stalled = oca_play(&[&arguments[..], &["--stall-max-ms", "50"]].concat()).await;
    assert_eq!(stalled.status.code(), Some(3), "{stalled:?}");
}
