//! A play's DASH manifest in other people's programs: ffprobe and ffmpeg, dash.js and Shaka in a real Chromium.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use content::play::PlayAnswer;
use content::title::{StreamKind, Title};
use fleet_tests::world::World;
use serde_json::Value;
use xtask::http;
use xtask::workspace::{find_program, root};

const PLAYERS: [&str; 2] = ["dashjs", "shaka"];
const ASK: Duration = Duration::from_secs(20);
/// The sample's.
const FRAMES_PER_SECOND: u64 = 24;

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    assert_eq!(errors.trim(), "", "{program} complains");
    String::from_utf8(output.stdout).unwrap()
}

/// What ffprobe calls the kinds of streams, sorted.
fn kinds(title: &Title) -> Vec<&'static str> {
    let kind = |stream: &content::title::Stream| match stream.kind {
        StreamKind::Video { .. } => "video",
        StreamKind::Audio { .. } => "audio",
        StreamKind::Subtitles { .. } => "subtitle",
    };
    let mut kinds: Vec<_> = title.streams.iter().map(kind).collect();
    kinds.sort_unstable();
    kinds
}

fn languages(title: &Title, of: fn(&StreamKind) -> bool) -> Vec<&str> {
    let of_kind = title.streams.iter().filter(|stream| of(&stream.kind));
    let mut languages: Vec<_> = of_kind.filter_map(|stream| stream.kind.language()).collect();
    languages.sort_unstable();
    languages.dedup();
    languages
}

#[test]
fn ffprobe_finds_every_stream_of_the_manifest_and_ffmpeg_decodes_each_without_a_complaint() {
    let world = World::filled().unwrap();
    let (play, title) = (world.play().unwrap(), world.title().unwrap());
    let manifest = http::get(&play.dash, &[], ASK).unwrap();
    assert_eq!((manifest.status, manifest.header("content-type")), (200, "application/dash+xml"));
    let probed =
        output("ffprobe", &["-v", "warning", "-show_streams", "-show_format", "-of", "json", &play.dash]);
    let probed: Value = serde_json::from_str(&probed).unwrap();
    let streams = probed["streams"].as_array().unwrap();
    let mut found: Vec<_> = streams.iter().map(|stream| stream["codec_type"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, kinds(&title));
    let seconds: f64 = probed["format"]["duration"].as_str().unwrap().parse().unwrap();
    assert!(
        (seconds * 1000.0 - f64::from(u32::try_from(title.duration_ms).unwrap())).abs() < 1.0,
        "{seconds}"
    );
    for (index, stream) in streams.iter().enumerate() {
        let map = format!("0:{index}");
        let format = if stream["codec_type"] == "subtitle" { "webvtt" } else { "null" };
        output("ffmpeg", &["-v", "warning", "-i", &play.dash, "-map", &map, "-f", format, "-"]);
    }
}

/// The two players, each in a browser; ends with the test.
struct Browser {
    node: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Browser {
    fn open(manifest: &str) -> Self {
        let script = root().join("tests/browser/dash.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(manifest).args(PLAYERS).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut node = command.spawn().unwrap();
        let lines = BufReader::new(node.stdout.take().unwrap()).lines();
        Self { node, lines }
    }

    /// The script bounds its own time.
    fn line(&mut self) -> String {
        self.lines.next().expect("the script says why it ended").unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        drop(self.node.kill());
        drop(self.node.wait());
    }
}

fn what_is_missing() -> Option<&'static str> {
    let modules = root().join("player/node_modules/shaka-player");
    let present: [(&str, bool); 3] = [
        ("chromium", Path::new("/usr/bin/chromium").exists()),
        ("node", find_program("node").is_some()),
        ("the player's packages (npm ci in player/)", modules.exists()),
    ];
    present.into_iter().find(|(_, there)| !there).map(|(name, _)| name)
}

/// Its name.
fn appliance_at<'a>(play: &'a PlayAnswer, address: &str) -> &'a str {
    let at = |base_url: &str| {
        base_url.strip_prefix("http://").is_some_and(|at| at.trim_end_matches('/') == address)
    };
    play.appliances.iter().find(|ranked| at(&ranked.base_url)).expect("it is offered").appliance.as_str()
}

#[test]
fn dash_js_and_shaka_play_to_the_end_also_when_the_best_appliance_is_killed() {
    if let Some(missing) = what_is_missing() {
        println!("SKIP: DASH in a browser needs {missing}");
        return;
    }
    let mut world = World::filled().unwrap();
    let (play, title) = (world.play().unwrap(), world.title().unwrap());
    let mut browser = Browser::open(&play.dash);
    let best = browser.line();
    let address = best.split(' ').next().unwrap();
    assert_eq!(best, PLAYERS.map(|_| address).join(" "), "they asked at once");
    world.fleet.power_off(appliance_at(&play, address)).unwrap();
    let results: Value = serde_json::from_str(&browser.line()).unwrap();
    for player in PLAYERS {
        let result = &results[player];
        assert_eq!(result["state"], "ended", "{player}: {result}");
        let hosts: Vec<_> = result["hosts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(hosts.first(), Some(&address), "{player} begins at the best: {result}");
        assert_ne!(hosts.last(), Some(&address), "{player} ends at the other: {result}");
        let frames = title.duration_ms * FRAMES_PER_SECOND / 1000;
        let decoded = result["frames"].as_u64().unwrap();
        assert!(decoded * 10 >= frames * 9, "{player}: {decoded} of {frames} frames: {result}");
        assert_eq!(
            sorted(&result["audio"]),
            languages(&title, |kind| matches!(kind, StreamKind::Audio { .. }))
        );
        assert_eq!(
            sorted(&result["text"]),
            languages(&title, |kind| matches!(kind, StreamKind::Subtitles { .. }))
        );
    }
}

fn sorted(list: &Value) -> Vec<&str> {
    let mut texts: Vec<_> = list.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    texts.sort_unstable();
    texts
}
