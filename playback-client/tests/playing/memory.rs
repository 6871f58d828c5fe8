//! Whole plays in memory under a paused clock: what a viewer feels when appliances misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::world::{Act, Asked, SEGMENTS, World};
use content::id::Extension;
use playback_client::error::PlayError;
use playback_client::ledger::Track;
use playback_client::play::{Outcome, Settings};
use playback_client::schedule::Pace;
use playback_client::verify::verify;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn play(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> (Arc<World>, Outcome) {
    let world = Arc::new(World::new(script));
    let outcome = world.play(Settings::default()).await;
    (world, outcome)
}

/// Everything arrived, byte for byte, nothing is missing, and the picture never froze.
fn assert_perfect(world: &World, outcome: &Outcome) {
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(outcome.summary.stalls, []);
    assert_equal_to_origin(world, outcome);
}

fn assert_equal_to_origin(world: &World, outcome: &Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let title = world.write_origin(folder.path());
    let list = folder.path().join("fragments.json");
    std::fs::write(&list, serde_json::to_vec(&outcome.ledger.fragments).unwrap()).unwrap();
    let verdict = verify(folder.path(), &list, Some(&title)).unwrap();
    assert_eq!(verdict.differences, Vec::<String>::new());
}

fn switches(outcome: &Outcome, track: Track) -> Vec<(&str, &str, Option<&str>)> {
    let of_track = outcome.summary.appliance_switches.iter().filter(|switch| switch.track == track);
    of_track.map(|switch| (switch.from.as_str(), switch.to.as_str(), switch.cause.as_deref())).collect()
}

fn causes(outcome: &Outcome) -> Vec<&str> {
    outcome.summary.declines.iter().map(|decline| decline.cause.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_play_without_faults_lasts_as_long_as_the_title() {
    let (world, outcome) = play(|_| Act::Serve).await;
    assert_perfect(&world, &outcome);
    let summary = &outcome.summary;
    let start = summary.start_ms.unwrap();
    assert!(start < 1_000, "it started after {start} ms");
    assert_eq!((summary.position_ms, summary.ended_ms), (60_000, 60_000 + start));
    assert_eq!((summary.wasted_bytes, summary.wasted_requests, summary.renewals), (0, 0, 0));
    assert_eq!(summary.appliances.len(), 1);
    // Low first, high when the link has shown what it carries.
    assert_eq!(summary.rung_switches.len(), 1);
    assert!(summary.mean_video_bps > 1_600_000, "{}", summary.mean_video_bps);
    // Two rungs' and one audio's initialisation sections; four playlists; the subtitles.
    assert_eq!(summary.fragments, 2 * SEGMENTS + 3 + 4 + 1);
}

#[tokio::test(start_paused = true)]
async fn the_wished_language_is_played_and_a_limit_ends_the_play_there() {
    let world = Arc::new(World::new(|_| Act::Serve));
    let settings = Settings {
        language: Some("sv".to_owned()),
        media_limit: Some(seconds(10)),
        pace: Pace::FlatOut,
        ..Settings::default()
    };
    let outcome = world.play(settings).await;
    assert!(outcome.error.is_none());
    let objects: Vec<_> = outcome.ledger.fragments.iter().map(|fragment| fragment.object).collect();
    assert!(objects.contains(&world.stream("audio-sv").track.object));
    assert!(!objects.contains(&world.stream("audio-en").track.object));
    let played: u64 = outcome.summary.rungs.iter().map(|rung| rung.media_ms).sum();
    assert_eq!(played, 12_000);
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_dies_in_mid_body_costs_no_stall_and_no_byte() {
    let mut world = World::new(|asked| match (asked.box_name, asked.at >= seconds(20)) {
        ("box-a", true) => Act::DieAfter(40_000),
        _ => Act::Serve,
    });
    world.down = vec![("box-a", Duration::from_millis(20_001), seconds(600))];
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    assert_perfect(&world, &outcome);
    assert_eq!(switches(&outcome, Track::Video).len(), 1, "{:?}", outcome.summary.appliance_switches);
    assert_eq!(switches(&outcome, Track::Audio).len(), 1);
    assert_eq!(outcome.summary.wasted_bytes, 0);
    // The request that died of each track, and one knock after 30 s of each.
    assert!(outcome.summary.wasted_requests <= 4, "{:?}", causes(&outcome));
    assert!(causes(&outcome).contains(&"short-body"));
    // It went on where it stopped: no byte of the broken fragment was sent twice.
    let sent: u64 = outcome.summary.appliances.iter().map(|appliance| appliance.bytes).sum();
    let used: u64 = outcome.ledger.fragments.iter().map(|fragment| fragment.span().unwrap().count()).sum();
    assert_eq!(sent, used);
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_answers_503_is_left_and_returned_to_after_thirty_seconds() {
    let world = Arc::new(World::new(|asked| match (asked.box_name, asked.at.as_secs()) {
        ("box-a", 8..14) => Act::Status(503, ""),
        _ => Act::Serve,
    }));
    let buffer_target = seconds(8);
    let settings = Settings { buffer_target, pace: Pace::Playing { buffer_target }, ..Settings::default() };
    let outcome = world.play(settings).await;
    assert_perfect(&world, &outcome);
    let expected = [("box-a", "box-b", Some("503")), ("box-b", "box-a", None)];
    assert_eq!(switches(&outcome, Track::Video), expected);
    let away = &outcome.summary.appliance_switches;
    let video: Vec<_> = away.iter().filter(|switch| switch.track == Track::Video).map(|s| s.at_ms).collect();
    assert!(video[1] - video[0] >= 29_000, "{video:?}");
    assert_eq!(outcome.summary.wasted_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn each_refusal_of_one_appliance_moves_the_play_to_the_other() {
    for (status, label) in
        [(404, "404"), (403, "403"), (429, "429"), (500, "other-status"), (302, "other-status")]
    {
        let (world, outcome) = play(move |asked| match asked.box_name {
            "box-a" => Act::Status(status, "the token does not open this path"),
            _ => Act::Serve,
        })
        .await;
        assert_perfect(&world, &outcome);
        assert!(causes(&outcome).iter().all(|cause| *cause == label), "{:?}", causes(&outcome));
        assert!(outcome.summary.wasted_requests <= 6, "{status}: {}", outcome.summary.wasted_requests);
        assert!(outcome.ledger.fragments.iter().all(|fragment| fragment.appliance.as_str() == "box-b"));
        assert_eq!(outcome.summary.renewals, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_never_answers_is_left_within_the_time_limit() {
    let (world, outcome) = play(|asked| match (asked.box_name, asked.at > seconds(5)) {
        ("box-a", true) => Act::Hang,
        _ => Act::Serve,
    })
    .await;
    assert_perfect(&world, &outcome);
    assert!(causes(&outcome).iter().all(|cause| *cause == "time-out"));
    assert_eq!(switches(&outcome, Track::Video).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_stops_sending_is_left_and_its_bytes_are_kept() {
    let (world, outcome) = play(|asked| match (asked.box_name, asked.at > seconds(5)) {
        ("box-a", true) => Act::StopAfter(30_000),
        _ => Act::Serve,
    })
    .await;
    assert_perfect(&world, &outcome);
    assert!(causes(&outcome).iter().all(|cause| *cause == "time-out"));
    assert_eq!(outcome.summary.wasted_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_playlist_with_wrong_bytes_is_fetched_again_elsewhere() {
    let (world, outcome) = play(|asked| match (asked.box_name, asked.extension) {
        ("box-a", Extension::M3u8) => Act::WrongBytes,
        _ => Act::Serve,
    })
    .await;
    assert_perfect(&world, &outcome);
    assert!(causes(&outcome).contains(&"wrong-digest"));
    let first = world.stream("video-low").playlist.bytes;
    assert!(outcome.summary.wasted_bytes >= first);
    assert!(outcome.summary.wasted_bytes <= 4 * first, "{}", outcome.summary.wasted_bytes);
    let wasted_in_fragments = outcome.ledger.fragments.iter().filter(|f| f.extension == Extension::M3u8);
    assert!(wasted_in_fragments.into_iter().all(|fragment| fragment.appliance.as_str() == "box-b"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_the_range_asked_for_is_not_read() {
    for (act, label) in [
        (Act::WrongRange, "wrong-range"),
        (Act::WholeTrack, "other-status"),
        (Act::WrongObject, "wrong-object"),
    ] {
        let (world, outcome) = play(move |asked| match (asked.box_name, asked.span) {
            ("box-a", Some(_)) => act.clone(),
            _ => Act::Serve,
        })
        .await;
        assert_perfect(&world, &outcome);
        assert!(causes(&outcome).iter().all(|cause| *cause == label), "{:?}", causes(&outcome));
        assert_eq!(outcome.summary.wasted_bytes, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_renewed_and_no_appliance_is_blamed() {
    let (world, outcome) = play(|asked| match (asked.token.as_str(), asked.at > seconds(10)) {
        ("token-1", true) => Act::Status(403, "token expired"),
        _ => Act::Serve,
    })
    .await;
    assert_perfect(&world, &outcome);
    assert_eq!((outcome.summary.renewals, outcome.summary.wasted_requests), (1, 0));
    let plays = world.plays.lock().unwrap();
    assert_eq!(plays.len(), 2);
    assert_eq!(plays[0], plays[1], "a renewal is the same request, session and all");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    let mut world = World::new(|_| Act::Serve);
    world.token_life = seconds(24);
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    assert_perfect(&world, &outcome);
    assert!((1..=4).contains(&outcome.summary.renewals), "{}", outcome.summary.renewals);
    assert_eq!(outcome.summary.wasted_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn an_appliance_that_finds_a_fresh_token_expired_is_left() {
    let (world, outcome) = play(|asked| match asked.box_name {
        "box-a" => Act::Status(403, "token expired"),
        _ => Act::Serve,
    })
    .await;
    assert_perfect(&world, &outcome);
    assert!(causes(&outcome).iter().all(|cause| *cause == "403"));
    assert!((1..=6).contains(&outcome.summary.renewals), "{}", outcome.summary.renewals);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_gone_does_not_stop_a_play() {
    let mut world = World::new(|_| Act::Serve);
    world.token_life = seconds(80);
    world.down = vec![("control", seconds(5), seconds(600))];
    world.idle = seconds(1);
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    assert_perfect(&world, &outcome);
    assert_eq!(outcome.summary.renewals, 0);
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_the_server_closed_is_nobodys_fault() {
    let mut world = World::new(|_| Act::Serve);
    world.idle = seconds(1);
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    assert_perfect(&world, &outcome);
    assert_eq!(outcome.summary.wasted_requests, 0);
}

#[tokio::test(start_paused = true)]
async fn both_appliances_down_for_a_while_is_a_stall_and_not_the_end() {
    let world = Arc::new(World::new(|asked| match asked.at.as_secs() {
        20..45 => Act::Status(503, ""),
        _ => Act::Serve,
    }));
    let outcome = world.play(Settings::default()).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_equal_to_origin(&world, &outcome);
    assert_eq!(outcome.summary.stalls.len(), 1);
    let stalled = outcome.summary.stall_ms_max;
    // The buffer carries 20 s of the 25; the next request comes at most a second after they are back.
    assert!((4_000..=6_500).contains(&stalled), "{stalled}");
    // Not more than two requests a second of each of two tracks to each of two appliances.
    assert!(outcome.summary.wasted_requests <= 210, "{}", outcome.summary.wasted_requests);
}

#[tokio::test(start_paused = true)]
async fn a_play_that_nobody_serves_any_more_ends_with_the_reason() {
    let mut world = World::new(|_| Act::Serve);
    world.idle = seconds(1);
    world.down = vec![("box-a", seconds(20), seconds(900)), ("box-b", seconds(20), seconds(900))];
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    let Some(PlayError::GaveUp { seconds, .. }) = &outcome.error else { panic!("{:?}", outcome.error) };
    assert_eq!(*seconds, 30);
    assert!(!outcome.summary.complete);
    assert!(outcome.summary.error.as_ref().unwrap().contains("connect"), "{:?}", outcome.summary.error);
    assert!(outcome.summary.fragments > 0 && outcome.summary.position_ms >= 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_link_slower_than_the_top_rung_is_played_from_the_lower() {
    let mut world = World::new(|_| Act::Serve);
    // 1.2 Mb/s for each of the two requests that run side by side.
    world.rate = 150_000;
    let world = Arc::new(world);
    let outcome = world.play(Settings::default()).await;
    assert_perfect(&world, &outcome);
    let low = outcome.summary.rungs.iter().find(|rung| rung.stream.as_str() == "video-low").unwrap();
    assert!(low.media_ms >= 40_000, "{:?}", outcome.summary.rungs);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_collapses_costs_a_fragment_and_no_stall() {
    let mut world = World::new(|_| Act::Serve);
    // 0.56 Mb/s, where the top rung's fragment would take 13 s.
    world.slow_from = Some((seconds(20), 70_000));
    let world = Arc::new(world);
    let buffer_target = seconds(8);
    let settings = Settings { buffer_target, pace: Pace::Playing { buffer_target }, ..Settings::default() };
    let outcome = world.play(settings).await;
    assert_perfect(&world, &outcome);
    assert!((1..900_000).contains(&outcome.summary.wasted_bytes), "{}", outcome.summary.wasted_bytes);
    assert_eq!(outcome.summary.wasted_requests, 0, "no appliance is to blame for the link");
}

#[tokio::test(start_paused = true)]
async fn the_control_planes_refusal_is_given_in_its_own_words() {
    let mut world = World::new(|_| Act::Serve);
    let problem =
        r#"{"type":"/problems/territory","title":"Not licensed","status":403,"detail":"not in SE"}"#;
    world.refusal = Some((403, problem));
    let outcome = Arc::new(world).play(Settings::default()).await;
    let text = outcome.summary.error.unwrap();
    assert!(text.contains("Not licensed") && text.contains("not in SE"), "{text}");
    assert_eq!(outcome.summary.start_ms, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_control_plane_is_said_to_be_none() {
    for (refusal, down) in
        [(Some((200, "<html>")), vec![]), (None, vec![("control", seconds(0), seconds(9))])]
    {
        let mut world = World::new(|_| Act::Serve);
        (world.refusal, world.down) = (refusal, down);
        let outcome = Arc::new(world).play(Settings::default()).await;
        let is_named = matches!(
            outcome.error,
            Some(PlayError::ControlAnswer { .. } | PlayError::ControlUnreachable { .. })
        );
        assert!(is_named, "{:?}", outcome.error);
    }
}

/// Many short plays with faults drawn from a seed: whatever appliances do for a while, a play ends, and what it says
/// arrived is what the origin has.
#[tokio::test(start_paused = true)]
async fn whatever_appliances_do_the_play_ends_and_its_bytes_are_right() {
    for seed in 0..25_u64 {
        let drawn = AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let world = Arc::new(World::new(move |asked| {
            let state = drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let draw = (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40;
            match draw % 40 {
                0 => Act::Status(503, ""),
                1 => Act::DieAfter(usize::try_from(draw % 100_000).unwrap()),
                2 => Act::Hang,
                3 => Act::StopAfter(usize::try_from(draw % 50_000).unwrap()),
                4 if asked.span.is_none() => Act::WrongBytes,
                5 if asked.span.is_some() => Act::WrongRange,
                6 => Act::Status(403, "token expired"),
                _ => Act::Serve,
            }
        }));
        let settings = Settings { pace: Pace::FlatOut, ..Settings::default() };
        let outcome = world.play(settings).await;
        assert!(outcome.error.is_none(), "seed {seed}: {:?}", outcome.error);
        assert_equal_to_origin(&world, &outcome);
        let sent: u64 = outcome.summary.appliances.iter().map(|appliance| appliance.bytes).sum();
        let used: u64 =
            outcome.ledger.fragments.iter().map(|fragment| fragment.span().unwrap().count()).sum();
        assert_eq!(sent, used + outcome.summary.wasted_bytes, "seed {seed}");
    }
}
