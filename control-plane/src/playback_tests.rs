use content::play::Device;
use proptest::prelude::*;

use super::*;
use crate::snapshot::tests::{Box, film, noon, world};

pub(crate) fn issuer() -> Issuer {
    let signer = Signer::from_seed("k1", &[7; 32]).unwrap();
    let keys = [signer.public_key()];
    Issuer::new("oca", signer, &keys, "http://control.test/", SignedDuration::from_hours(6)).unwrap()
}

pub(crate) fn request(session: &str) -> PlayRequest {
    PlayRequest {
        title: "film".parse().unwrap(),
        session: session.parse().unwrap(),
        member: "m".to_owned(),
        plan: Tier::Hd,
        territory: "SE".to_owned(),
        device: Device { height_max: 1080, codecs: vec!["avc1".to_owned(), "mp4a".to_owned()] },
        languages: vec!["sv".to_owned()],
        address: None,
        explain: true,
    }
}

fn reasons(answer: &PlayAnswer) -> Vec<(&str, Option<&str>, &str)> {
    let passed = answer.passed_over.iter();
    passed.map(|p| (p.appliance.as_str(), p.stream.as_ref().map(|s| s.as_str()), p.reason.as_str())).collect()
}

#[test]
fn two_appliances_and_four_streams() {
    let mut title = film("film");
    title.streams.retain(|stream| stream.id.as_str() != "subtitles-en");
    let snapshot = world(&[title.clone()], &[Box::well("box-a"), Box::well("box-b")]);
    let answer = play(&snapshot, &issuer(), &request("s-1"), noon()).unwrap();
    assert_eq!(answer.appliances.len(), 2);
    let ids: Vec<_> = answer.streams.iter().map(|stream| stream.id.as_str()).collect();
    assert_eq!(ids, ["video-360p", "video-720p", "audio-sv", "audio-en"]);
    for stream in &answer.streams {
        let of_title = title.streams.iter().find(|other| other.id == stream.id).unwrap();
        for (object, of_title) in [(&stream.track, of_title.track), (&stream.playlist, of_title.playlist)] {
            let expected: Vec<_> = answer
                .appliances
                .iter()
                .map(|ranked| {
                    let (base, token) = (&ranked.base_url, &answer.token);
                    format!("{base}/~{token}/film/{}/{}.{}", stream.tier, of_title.object, of_title.extension)
                })
                .collect();
            assert_eq!(object.urls, expected);
        }
    }
    assert!(answer.passed_over.is_empty());
}

#[test]
fn one_token_opens_the_plan_and_lives_twice_the_title() {
    let mut title = film("film");
    let snapshot = world(&[title.clone()], &[Box::well("box-a")]);
    let answer = play(&snapshot, &issuer(), &request("s-1"), noon()).unwrap();
    let claims = issuer().keys.verify(&answer.token).unwrap();
    assert_eq!(claims.tiers, [Tier::Base, Tier::Sd, Tier::Hd]);
    assert_eq!((claims.session.as_str(), claims.title.as_str()), ("s-1", "film"));
    assert_eq!(claims.expires, answer.expires);
    assert_eq!(answer.expires.duration_since(noon()), SignedDuration::from_secs(6 * 3600 + 1));
    title.duration_ms = 4 * 3600 * 1000;
    let long = play(&world(&[title], &[Box::well("box-a")]), &issuer(), &request("s-1"), noon()).unwrap();
    assert!(long.expires.duration_since(noon()) >= SignedDuration::from_hours(8));
    for stream in &answer.streams {
        for url in stream.track.urls.iter().chain(&stream.playlist.urls) {
            let path = &url["http://box-a.test:8080".len()..];
            let (token, path) = content::token::split_target(path).unwrap();
            assert_eq!(token, answer.token);
            assert_eq!(claims.opens(path, noon()), Ok(()));
        }
    }
}

#[test]
fn the_hls_url_carries_the_request_and_the_token_of_the_play() {
    let snapshot = world(&[film("film")], &[Box::well("box-a")]);
    let mut asked = request("s-1");
    asked.member = "märta & co".to_owned();
    let answer = play(&snapshot, &issuer(), &asked, noon()).unwrap();
    let expected = format!(
        "http://control.test/v1/plays/multivariant.m3u8?title=film&session=s-1&member=m%C3%A4rta%20%26%20co&plan=hd\
         &territory=SE&height_max=1080&codecs=avc1,mp4a&languages=sv&token={}",
        answer.token
    );
    assert_eq!(answer.hls, expected);
    let playlist = multivariant(&snapshot, &issuer(), &asked, Some(&answer.token), noon()).unwrap();
    assert!(playlist.matches(&answer.token).count() == 5, "{playlist}");
}

#[test]
fn a_foreign_token_of_another_play_or_of_yesterday_is_refused() {
    let snapshot = world(&[film("film")], &[Box::well("box-a")]);
    let ask = |request: &PlayRequest, token: &str, now| {
        multivariant(&snapshot, &issuer(), request, Some(token), now).unwrap_err()
    };
    let token = play(&snapshot, &issuer(), &request("s-1"), noon()).unwrap().token;
    let other = Signer::from_seed("k1", &[8; 32]).unwrap();
    let foreign = other.sign(&issuer().claims(&request("s-1"), &film("film"), noon()));
    assert!(matches!(ask(&request("s-1"), &foreign, noon()), Refusal::Token(_)));
    assert!(matches!(ask(&request("s-2"), &token, noon()), Refusal::Token(_)));
    assert!(matches!(
        ask(&PlayRequest { plan: Tier::Uhd, ..request("s-1") }, &token, noon()),
        Refusal::Token(_)
    ));
    // Tomorrow the box is silent too, so the token is judged on a world of tomorrow.
    let tomorrow = noon() + SignedDuration::from_hours(24);
    let wanted = issuer().claims(&request("s-1"), &film("film"), tomorrow);
    assert!(matches!(own_token(&issuer(), &wanted, &token, tomorrow), Err(Refusal::Token(_))));
}

#[test]
fn explain_names_every_appliance_that_is_not_offered() {
    let mut boxes: Vec<_> = (0..12).map(|index| Box::well(&format!("box-{index:02}"))).collect();
    boxes[0].draining = true;
    // Ordinal 9 is the track of 720p.
    boxes[1].missing = vec![9];
    let snapshot = world(&[film("film")], &boxes);
    let answer = play(&snapshot, &issuer(), &request("s-1"), noon()).unwrap();
    let reasons = reasons(&answer);
    assert!(reasons.contains(&("box-00", None, "draining")), "{reasons:?}");
    assert!(reasons.contains(&("box-01", Some("video-720p"), "content")), "{reasons:?}");
    assert!(reasons.iter().any(|(_, _, reason)| *reason == "rank"), "{reasons:?}");
    let video = answer.streams.iter().find(|stream| stream.id.as_str() == "video-360p").unwrap();
    assert_eq!(video.track.urls.len(), content::play::RANKED_MAX);
    let quiet =
        play(&snapshot, &issuer(), &PlayRequest { explain: false, ..request("s-1") }, noon()).unwrap();
    assert!(quiet.passed_over.is_empty());
}

#[test]
fn a_play_that_nobody_can_serve_says_why() {
    let refuse = |boxes: &[Box]| {
        play(&world(&[film("film")], boxes), &issuer(), &request("s-1"), noon()).unwrap_err().to_string()
    };
    assert!(refuse(&[]).contains("no appliance is registered"));
    let silent = Box { age_s: Some(60), ..Box::well("box-a") };
    let empty = Box { generation: 0, ..Box::well("box-b") };
    let why = refuse(&[silent, empty]);
    assert!(why.contains("1 silent, 1 without the content"), "{why}");
}

#[test]
fn a_request_of_the_wrong_form_is_refused() {
    let snapshot = world(&[film("film")], &[Box::well("box-a")]);
    let breakers: [fn(&mut PlayRequest); 6] = [
        |r| r.territory = "*".to_owned(),
        |r| r.territory = "se".to_owned(),
        |r| r.member = "a\nb".to_owned(),
        |r| r.languages = vec!["sv\"".to_owned()],
        |r| r.device.codecs = vec!["avc1".to_owned(); 33],
        |r| r.languages = vec![String::new()],
    ];
    for (index, breaker) in breakers.into_iter().enumerate() {
        let mut broken = request("s-1");
        breaker(&mut broken);
        let answer = play(&snapshot, &issuer(), &broken, noon());
        assert!(matches!(answer, Err(Refusal::Malformed(_))), "breaker {index} went unnoticed");
    }
}

#[test]
fn licence_and_title_are_judged_before_appliances() {
    let snapshot = world(&[film("film")], &[]);
    let ask = |request: &PlayRequest| play(&snapshot, &issuer(), request, noon()).unwrap_err();
    assert!(matches!(
        ask(&PlayRequest { territory: "US".to_owned(), ..request("s") }),
        Refusal::Territory { .. }
    ));
    assert!(matches!(
        ask(&PlayRequest { title: "x".parse().unwrap(), ..request("s") }),
        Refusal::UnknownTitle(_)
    ));
}

fn any_box() -> impl Strategy<Value = Box> {
    let missing = prop::collection::vec(0u32..10, 0..6);
    let flags = (any::<bool>(), 0u8..6, prop::option::weighted(0.9, 0i64..9));
    (flags, 0.0f64..1.0, missing, 0u64..3).prop_map(
        |((draining, sick, age_s), headroom, missing, version)| Box {
            draining: draining && sick == 1,
            health: if sick == 0 { content::report::Health::Failed } else { content::report::Health::Ok },
            age_s,
            headroom,
            missing,
            manifest_version: version,
            ..Box::well("box")
        },
    )
}

proptest! {
    /// Against the slowest obvious reading: every URL's box is well and holds the object.
    #[test]
    fn nobody_is_offered_who_is_unwell_or_lacks_the_object(
        mut boxes in prop::collection::vec(any_box(), 0..14),
        session in "[a-z0-9]{1,16}",
    ) {
        for (index, one) in boxes.iter_mut().enumerate() {
            one.name = format!("box-{index}");
        }
        let snapshot = world(&[film("film")], &boxes);
        let Ok(answer) = play(&snapshot, &issuer(), &request(&session), noon()) else { return Ok(()) };
        let manifest = &snapshot.manifest(&"lab".parse().unwrap()).unwrap().manifest;
        for stream in &answer.streams {
            for url in stream.track.urls.iter().chain(&stream.playlist.urls) {
                let one = boxes.iter().find(|one| url.starts_with(&format!("http://{}.test", one.name))).unwrap();
                prop_assert!(one.health == content::report::Health::Ok && !one.draining);
                prop_assert!(one.age_s.is_some_and(|age| age <= 6) && one.headroom > 0.02);
                let entry = manifest.entries.iter().position(|entry| url.ends_with(&entry.path.to_string())).unwrap();
                prop_assert_eq!(one.manifest_version, 1);
                prop_assert!(!one.missing.iter().any(|&ordinal| usize::try_from(ordinal).unwrap() == entry));
            }
            prop_assert!(stream.track.urls.len() <= 10 && !stream.track.urls.is_empty());
        }
    }

    #[test]
    fn the_same_request_gives_the_same_bytes_whatever_order_the_fleet_came_in(
        count in 1usize..12,
        session in "[a-z0-9]{1,16}",
    ) {
        let mut boxes: Vec<_> = (0..count).map(|index| Box::well(&format!("box-{index}"))).collect();
        let bytes = |boxes: &[Box]| {
            let snapshot = world(&[film("film"), film("other")], boxes);
            let answer = play(&snapshot, &issuer(), &request(&session), noon()).unwrap();
            let hls = multivariant(&snapshot, &issuer(), &request(&session), None, noon()).unwrap();
            (serde_json::to_vec(&answer).unwrap(), hls)
        };
        let first = bytes(&boxes);
        boxes.reverse();
        prop_assert_eq!(bytes(&boxes), first);
    }
}
