//! The real router on a real socket over a real origin folder: what players, agents and operators meet.

use std::fs;

use crate::support::{World, bearer, bytes_of, film, play_request, publish, report, write};
use content::id::{Extension, Tier};
use content::manifest::Manifest;
use content::play::PlayAnswer;
use content::token::KeyRing;
use serde_json::json;

const MANIFEST: &str = "/v1/agent/clusters/lab/manifest";

fn play(world: &World, session: &str) -> PlayAnswer {
    let answer = world.post("/v1/plays", &play_request(session));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn a_play_is_offered_from_the_boxes_that_hold_it_with_a_token_that_they_can_verify() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    world.bring_up("box-b");
    let version = world.wait_for("a manifest for both", |world| {
        let manifest = Manifest::parse(&world.agent_get(MANIFEST).body).ok()?;
        (manifest.appliances.len() == 2).then_some(manifest.version)
    });
    for name in ["box-a", "box-b"] {
        let orders = world.agent_post("/v1/agent/reports", &report(name, version)).json();
        assert_eq!(
            (orders["manifest_version"].as_u64(), orders["drain"].as_bool()),
            (Some(version), Some(false))
        );
    }
    let answer = play(&world, "s-1");
    assert_eq!(answer.appliances.len(), 2);
    assert_eq!(answer.streams.len(), 5);
    let keys: content_keys::TokenKeys =
        serde_json::from_value(world.agent_get("/v1/agent/token-keys").json()).unwrap();
    let claims = KeyRing::new(&keys.keys).unwrap().verify(&answer.token).unwrap();
    assert_eq!(claims.tiers, [Tier::Base, Tier::Sd, Tier::Hd]);
    for stream in &answer.streams {
        assert_eq!((stream.track.urls.len(), stream.playlist.urls.len()), (2, 2));
    }
    let hls = world.get(&answer.hls, &[]);
    assert_eq!((hls.status, hls.header("content-type")), (200, "application/vnd.apple.mpegurl"));
    let (_, playlist) = m3u8_rs::parse_master_playlist(&hls.body).unwrap();
    assert_eq!((playlist.variants.len(), playlist.alternatives.len()), (2, 3));
    let best = &answer.appliances[0].base_url;
    let prefix = format!("{best}/~{}/film/", answer.token);
    assert!(playlist.variants.iter().all(|variant| variant.uri.starts_with(&prefix)));
    let dash = world.get(&answer.dash, &[]);
    assert_eq!((dash.status, dash.header("content-type")), (200, "application/dash+xml"));
    assert_eq!((dash.header("access-control-allow-origin"), dash.header("cache-control")), ("*", "no-store"));
    let text = String::from_utf8(dash.body.clone()).unwrap();
    let bases: Vec<_> = text.split("serviceLocation=").skip(1).collect();
    assert_eq!(bases.len(), 2);
    assert!(bases[0].contains(&format!(">{prefix}<")), "the best first: {text}");
}

mod content_keys {
    #[derive(serde::Deserialize)]
    pub struct TokenKeys {
        pub keys: Vec<content::control_socket::PublicKey>,
    }
}

#[test]
fn an_agent_can_pull_every_object_of_its_manifest_by_range_and_verify_it() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let answer = world.agent_get(MANIFEST);
    let manifest = Manifest::parse(&answer.body).unwrap();
    assert!(answer.header("etag").starts_with(&format!("\"{}-", manifest.version)));
    assert_eq!(manifest.entries.len(), 10);
    let same = [("authorization", &*bearer()), ("if-none-match", answer.header("etag"))];
    assert_eq!(world.get(MANIFEST, &same).status, 304);
    let paths: Vec<_> = manifest.entries.iter().map(|entry| entry.path.to_string()).collect();
    let sources =
        world.agent_post("/v1/agent/fill-sources", &json!({"appliance": "box-a", "objects": paths})).json();
    for (entry, object) in manifest.entries.iter().zip(sources["objects"].as_array().unwrap()) {
        let source = &object["sources"][0];
        let key = source["headers"]["authorization"].as_str().unwrap();
        let mut bytes = Vec::new();
        let step = 300_000;
        for first in (0..entry.bytes).step_by(300_000) {
            let range = format!("bytes={first}-{}", first + step - 1);
            let part =
                world.get(source["url"].as_str().unwrap(), &[("authorization", key), ("range", &range)]);
            assert_eq!(part.status, 206);
            bytes.extend_from_slice(&part.body);
        }
        assert_eq!(content::id::ObjectId::of(&bytes), entry.path.object);
        let tree = world.get(source["tree_url"].as_str().unwrap(), &[("authorization", key)]);
        let tree = content::tree::Tree::parse(entry.path.object, &tree.body).unwrap();
        assert_eq!(tree.object_bytes(), entry.bytes);
    }
}

#[test]
fn another_manifest_under_the_same_version_is_not_taken_for_the_old_one() {
    let manifest_of = |name: &str| {
        let world = World::with(&[film(name)]);
        world.bring_up("box-a");
        let answer = world.agent_get(MANIFEST);
        (world, answer)
    };
    let (_old_world, old) = manifest_of("film");
    let (world, new) = manifest_of("other-film");
    let version = |body: &[u8]| Manifest::parse(body).unwrap().version;
    assert_eq!(version(&old.body), version(&new.body), "the origin was replaced, and counts from the start");
    let headers = [("authorization", &*bearer()), ("if-none-match", old.header("etag"))];
    assert_eq!(world.get(MANIFEST, &headers).status, 200);
}

#[test]
fn an_object_is_served_to_the_letter_and_only_to_its_key() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let title = film("film");
    let track = title.objects().find(|(path, _)| path.extension == Extension::Mp4).unwrap().0;
    let other = title.objects().nth(1).unwrap().0;
    let wish = json!({"appliance": "box-a", "objects": [track, other]});
    let sources = world.agent_post("/v1/agent/fill-sources", &wish).json();
    let url = sources["objects"][0]["sources"][0]["url"].as_str().unwrap().to_owned();
    let key =
        |index: usize| sources["objects"][index]["sources"][0]["headers"]["authorization"].as_str().unwrap();
    let whole = bytes_of("film", "video-360p", Extension::Mp4);
    let size = whole.len();
    let ask = |range: &str| world.get(&url, &[("authorization", key(0)), ("range", range)]);
    for (range, part) in
        [("bytes=0-0", &whole[..1]), ("bytes=-7", &whole[size - 7..]), ("bytes=699999-", &whole[size - 1..])]
    {
        let answer = ask(range);
        assert_eq!((answer.status, &answer.body[..]), (206, part), "{range}");
        assert!(answer.header("content-range").ends_with(&format!("/{size}")));
    }
    let beyond = ask("bytes=700000-");
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */700000"));
    assert_eq!(beyond.json()["type"], "/problems/range");
    let all = world.get(&url, &[("authorization", key(0))]);
    assert_eq!((all.status, all.body == whole, all.header("content-type")), (200, true, "video/mp4"));
    let tag = all.header("etag").to_owned();
    assert_eq!(world.get(&url, &[("authorization", key(0)), ("if-none-match", &tag)]).status, 304);
    let stale =
        world.get(&url, &[("authorization", key(0)), ("range", "bytes=0-0"), ("if-range", "\"other\"")]);
    assert_eq!((stale.status, stale.body.len()), (200, size));
    let head = world.ask("HEAD", &url, &[("authorization", key(0))], None);
    assert_eq!((head.status, head.header("content-length")), (200, "700000"));
    for wrong in ["", key(1), "Bearer x", &bearer()] {
        let refused = world.get(&url, &[("authorization", wrong)]);
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"), "{wrong}");
    }
    fs::remove_file(world.origin().join(content::origin::object_path(track.object, Extension::Mp4))).unwrap();
    assert_eq!(ask("bytes=0-0").status, 404);
    for escape in ["aa/..%2f..%2fagent.key", "..%2f/x.mp4", "aa/title.json"] {
        let answer = world.get(&format!("/v1/origin/objects/{escape}"), &[("authorization", key(0))]);
        assert_eq!(answer.status, 404, "{escape}");
    }
}

#[test]
fn a_request_keeps_the_id_that_it_came_with_if_it_is_fit_to_be_logged() {
    let world = World::with(&[]);
    assert_eq!(world.get("/v1/health", &[("x-request-id", "trace-7")]).header("x-request-id"), "trace-7");
    assert_ne!(world.get("/v1/health", &[("x-request-id", "a b")]).header("x-request-id"), "a b");
}

#[test]
fn a_restart_keeps_keys_registrations_drains_and_manifests() {
    let mut world = World::with(&[film("film")]);
    world.bring_up("box-a");
    world.bring_up("box-b");
    let manifest = world.wait_for("both in the manifest", |world| {
        let body = world.agent_get(MANIFEST).body;
        Manifest::parse(&body).ok().filter(|manifest| manifest.appliances.len() == 2)
    });
    assert_eq!(world.ask("POST", "/v1/appliances/box-b/drain", &[], None).status, 204);
    let keys = world.agent_get("/v1/agent/token-keys").json();
    let token = play(&world, "s-1").token;
    world.stop();
    world.start();
    assert_eq!(world.agent_get("/v1/agent/token-keys").json(), keys);
    let keys: content_keys::TokenKeys = serde_json::from_value(keys).unwrap();
    assert!(KeyRing::new(&keys.keys).unwrap().verify(&token).is_ok());
    let after = Manifest::parse(&world.agent_get(MANIFEST).body).unwrap();
    assert_eq!(after, manifest, "nothing changed, so there is no new version");
    let silent = world.post("/v1/plays", &play_request("s-2"));
    assert_eq!((silent.status, silent.header("retry-after")), (503, "2"), "reports are live, and gone");
    for name in ["box-a", "box-b"] {
        let orders = world.agent_post("/v1/agent/reports", &report(name, manifest.version)).json();
        assert_eq!(orders["drain"], json!(name == "box-b"));
    }
    let names: Vec<_> =
        play(&world, "s-3").appliances.iter().map(|ranked| ranked.appliance.to_string()).collect();
    assert_eq!(names, ["box-a"]);
}

#[test]
fn a_drained_box_is_offered_to_nobody_until_it_is_enabled() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    assert_eq!(world.ask("POST", "/v1/appliances/box-a/drain", &[("origin", &world.url)], None).status, 204);
    let refused = world.post("/v1/plays", &play_request("s-1"));
    assert_eq!(refused.status, 503);
    assert!(refused.json()["detail"].as_str().unwrap().contains("1 draining"));
    let fleet = world.get("/v1/fleet", &[]).json();
    assert_eq!((&fleet[0]["offered"], &fleet[0]["reason"]), (&json!(false), &json!("draining")));
    assert_eq!(world.ask("DELETE", "/v1/appliances/box-a/drain", &[], None).status, 204);
    assert_eq!(play(&world, "s-1").appliances.len(), 1);
    assert_eq!(world.get("/v1/fleet", &[]).json()[0]["offered"], json!(true));
}

#[test]
fn where_operators_have_a_key_drain_asks_for_it() {
    let mut world = World::with(&[film("film")]);
    world.bring_up("box-a");
    world.stop();
    fs::write(world.folder.path().join("operator.key"), "operators-have-another-one").unwrap();
    let config = fs::read_to_string(world.config()).unwrap();
    fs::write(world.config(), format!("operator_key_file = \"operator.key\"\n{config}")).unwrap();
    world.start();
    let drain =
        |key: &str| world.ask("POST", "/v1/appliances/box-a/drain", &[("authorization", key)], None).status;
    assert_eq!((drain(""), drain(&bearer())), (401, 401));
    assert_eq!(world.get("/v1/fleet", &[]).json()[0]["drain_ordered"], json!(false));
    assert_eq!(drain("Bearer operators-have-another-one"), 204);
    assert_eq!(world.get("/v1/fleet", &[]).json()[0]["drain_ordered"], json!(true));
}

#[test]
fn a_forgotten_box_leaves_the_fleet_and_the_next_manifest_for_good() {
    let mut world = World::with(&[film("film")]);
    world.bring_up("box-a");
    world.bring_up("box-b");
    let forget = |world: &World| world.ask("DELETE", "/v1/appliances/box-b", &[], None).status;
    assert_eq!(forget(&world), 409, "it reports");
    // After a start nobody has reported.
    world.stop();
    world.start();
    assert_eq!(forget(&world), 204);
    assert_eq!(forget(&world), 404);
    let names = |world: &World| Manifest::parse(&world.agent_get(MANIFEST).body).unwrap().appliances;
    world.wait_for("a manifest without it", |world| (names(world).len() == 1).then_some(()));
    assert_eq!(names(&world)[0].as_str(), "box-a");
    world.stop();
    world.start();
    assert_eq!(world.get("/v1/fleet", &[]).json().as_array().unwrap().len(), 1, "a restart does not know it");
    assert_eq!(world.agent_post("/v1/agent/reports", &report("box-b", 3)).status, 404);
    for _ in 0..2 {
        assert_eq!(world.register("box-b").status, 200);
        assert_eq!(names(&world).len(), 2, "the manifest that a registered box meets names it");
    }
}

#[test]
fn a_box_is_ordered_to_no_manifest_that_does_not_name_it() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let away = world.folder.path().join("away");
    fs::rename(world.origin().join("titles"), away).unwrap();
    world.wait_for("the trouble", |world| (troubles(world) == ["origin"]).then_some(()));
    assert_eq!(world.register("box-b").status, 200, "in no manifest, because none is planned now");
    let ordered = |name: &str| {
        world.agent_post("/v1/agent/reports", &report(name, 2)).json()["manifest_version"].as_u64()
    };
    assert_eq!((ordered("box-a"), ordered("box-b")), (Some(1), Some(0)));
}

#[test]
fn a_report_that_comes_late_changes_nothing() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let mut newer = report("box-a", 1);
    newer["sequence"] = json!(100);
    newer["headroom"] = json!(0.5);
    let mut late = report("box-a", 1);
    late["sequence"] = json!(99);
    late["health"] = json!("failed");
    for body in [&newer, &late] {
        assert_eq!(world.agent_post("/v1/agent/reports", body).status, 200);
    }
    assert_eq!(world.get("/v1/fleet", &[]).json()[0]["report"]["headroom"], json!(0.5));
    late["boot"] = json!("boot-2");
    assert_eq!(world.agent_post("/v1/agent/reports", &late).status, 200);
    assert_eq!(world.get("/v1/fleet", &[]).json()[0]["reason"], json!("health"));
}

#[test]
fn a_new_title_reaches_list_and_manifest_and_a_broken_one_is_named() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    write(&world.origin().join("titles/broken/title.json"), b"{\"format\": 1");
    publish(&world.origin(), &film("second"));
    let titles = world.wait_for("the second title", |world| {
        let titles = world.get("/v1/titles", &[]).json();
        (titles.as_array().unwrap().len() == 2).then_some(titles)
    });
    assert_eq!(titles[1], json!({"title": "second", "name": "The second", "duration_ms": 48_000}));
    world.wait_for("a manifest with it", |world| {
        let manifest = Manifest::parse(&world.agent_get(MANIFEST).body).unwrap();
        (manifest.entries.len() == 20).then_some(())
    });
    let health = world.wait_for("the trouble in health", |world| {
        Some(world.get("/v1/health", &[]).json()).filter(|health| health["status"] == "degraded")
    });
    assert_eq!(health["degraded"][0]["what"], "title broken");
    assert_eq!(health["degraded"].as_array().unwrap().len(), 1);
}

/// What asks for an operator, as `/v1/health` names it.
fn troubles(world: &World) -> Vec<String> {
    let health = world.get("/v1/health", &[]).json();
    let named = health["degraded"].as_array().unwrap().iter();
    named.map(|trouble| trouble["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_origin_that_loses_its_titles_takes_nothing_from_the_boxes() {
    let mut world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let manifest = |world: &World| Manifest::parse(&world.agent_get(MANIFEST).body).unwrap();
    let before = manifest(&world);
    assert_eq!(before.entries.len(), 10);
    let (titles, away) = (world.origin().join("titles"), world.folder.path().join("away"));
    fs::rename(&titles, &away).unwrap();
    world.wait_for("the trouble", |world| (troubles(world) == ["origin"]).then_some(()));
    assert_eq!(manifest(&world), before);
    assert_eq!(play(&world, "s-1").streams.len(), 5, "what is known stays");
    world.stop();
    world.start();
    assert_eq!(troubles(&world), ["manifest of lab"], "a start knows no title, and says so");
    assert_eq!(world.register("box-b").status, 200);
    assert_eq!(manifest(&world), before);
    fs::rename(&away, &titles).unwrap();
    world.wait_for("both boxes in a manifest", |world| {
        (manifest(world).appliances.len() == 2 && troubles(world).is_empty()).then_some(())
    });
    assert_eq!(manifest(&world).entries.len(), 10);
}

#[test]
fn an_origin_that_is_mounted_after_the_start_goes_on_with_its_versions() {
    let mut world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let before = world.agent_get(MANIFEST).body;
    world.stop();
    let away = world.folder.path().join("away");
    fs::rename(world.origin(), &away).unwrap();
    fs::create_dir(world.origin()).unwrap();
    world.start();
    assert_eq!(
        (world.agent_get(MANIFEST).status, troubles(&world)),
        (404, vec!["manifest of lab".to_owned()])
    );
    let orders = world.agent_post("/v1/agent/reports", &report("box-a", 1)).json();
    assert_eq!(orders["manifest_version"], 0);
    assert_eq!(
        fs::read_dir(world.origin()).unwrap().count(),
        0,
        "nothing is written where it is not mounted"
    );
    // As a mount does: the manifests are there before the titles are asked for.
    for folder in ["objects", "clusters", "titles"] {
        fs::rename(away.join(folder), world.origin().join(folder)).unwrap();
    }
    world.wait_for("its manifest", |world| (world.agent_get(MANIFEST).body == before).then_some(()));
    world.wait_for("the trouble's end", |world| troubles(world).is_empty().then_some(()));
}

#[test]
fn the_page_comes_with_a_strict_policy_and_is_cached_by_its_digest() {
    let world = World::with(&[]);
    let page = world.get("/", &[]);
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    for part in ["default-src 'self'", "connect-src *", "media-src 'self' blob:", "frame-ancestors 'none'"] {
        assert!(page.header("content-security-policy").contains(part), "{part}");
    }
    assert!(!page.header("content-security-policy").contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let text = String::from_utf8(page.body.clone()).unwrap();
    for (name, media_type) in [("player.js", "text/javascript"), ("player.css", "text/css")] {
        assert!(text.contains(&format!("/assets/{name}")), "the page uses {name}");
        let asset = world.get(&format!("/assets/{name}"), &[]);
        assert!(asset.status == 200 && asset.header("content-type").starts_with(media_type));
        let again = world.get(&format!("/assets/{name}"), &[("if-none-match", asset.header("etag"))]);
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
}

#[test]
fn every_described_operation_answers_as_described() {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    let description = world.get("/v1/openapi.json", &[]).json();
    assert_eq!(description["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    let mut walked = 0;
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let real =
                path.replace("{appliance}", "box-a").replace("{cluster}", "lab").replace("{first2}", "00");
            let real = real.replace("{name}", &format!("{}.mp4", "0".repeat(64)));
            let body = operation.get("requestBody").map(|_| b"{}".to_vec());
            let key = bearer();
            let secured = operation.get("security").is_some();
            let headers: Vec<_> = secured.then_some(("authorization", key.as_str())).into_iter().collect();
            let answer = world.ask(&method.to_uppercase(), &real, &headers, body);
            let what =
                format!("{method} {real}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
            assert!(!matches!(answer.status, 405 | 500..), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            let described = responses.get(&answer.status.to_string()).or(responses.get("default"));
            let content = described.unwrap_or_else(|| panic!("undescribed: {what}")).get("content");
            let media_type = answer.header("content-type").split(';').next().unwrap();
            assert!(
                content.is_none_or(|content| content.get(media_type).is_some()),
                "{media_type} for {what}"
            );
            if secured {
                assert_eq!(
                    world.ask(&method.to_uppercase(), &real, &[], Some(Vec::new())).status,
                    401,
                    "{what}"
                );
            }
            walked += 1;
        }
    }
    assert_eq!(walked, 16);
}
