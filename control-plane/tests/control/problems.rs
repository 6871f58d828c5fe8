//! Every refusal is an RFC 9457 problem that names its kind, whoever is at fault and whichever layer refused.

use serde_json::{Value, json};

use crate::support::{World, bearer, film, play_request, report};

/// What is asked, and the status and kind of the refusal.
struct Case {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    status: u16,
    kind: &'static str,
}

fn case(method: &'static str, path: &'static str, status: u16, kind: &'static str) -> Case {
    Case { method, path, headers: Vec::new(), body: None, status, kind }
}

impl Case {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn body(mut self, body: impl ToString) -> Self {
        self.body = Some(body.to_string().into_bytes());
        self
    }

    fn check(self, world: &World) {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = world.ask(self.method, self.path, &headers, self.body);
        let what =
            format!("{} {} {}: {}", self.method, self.path, self.kind, String::from_utf8_lossy(&answer.body));
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (self.status, "application/problem+json"),
            "{what}"
        );
        let problem: content::play::Problem = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (problem.kind, problem.status),
            (format!("/problems/{}", self.kind), self.status),
            "{what}"
        );
        assert!(!problem.detail.is_empty() && !answer.header("x-request-id").is_empty(), "{what}");
    }
}

fn check_all(cases: Vec<Case>) {
    let world = World::with(&[film("film")]);
    world.bring_up("box-a");
    for case in cases {
        case.check(&world);
    }
    let play = world.post("/v1/plays", &play_request("s-1"));
    assert_eq!(play.status, 200, "bad requests harm nothing");
}

const MPD_OF_NO_FILM: &str =
    "/v1/plays/manifest.mpd?session=s-1&plan=hd&height_max=1080&codecs=avc1,mp4a&title=no-film&territory=SE";
const MPD_IN_THE_US: &str =
    "/v1/plays/manifest.mpd?session=s-1&plan=hd&height_max=1080&codecs=avc1,mp4a&title=film&territory=US";
const MPD_WITH_RUBBISH: &str = "/v1/plays/manifest.mpd?session=s-1&plan=hd&height_max=1080&codecs=avc1,mp4a&title=film&territory=SE&token=rubbish";

#[test]
fn a_player_is_told_what_is_wrong_with_its_request() {
    let play = |status, kind| case("POST", "/v1/plays", status, kind);
    let changed = |field: &str, value: Value| {
        let mut request = play_request("s-1");
        request[field] = value;
        request
    };
    let av1 = json!({"height_max": 1080, "codecs": ["av01", "mp4a"]});
    check_all(vec![
        play(400, "malformed-request").body("{"),
        play(422, "malformed-request").body("{}"),
        play(422, "malformed-request").body(changed("speed", json!(1))),
        play(422, "malformed-request").body(changed("title", json!("../etc"))),
        play(400, "malformed-request").body(changed("territory", json!("se"))),
        play(415, "unsupported-media-type").body("{}").with("content-type", "text/plain"),
        play(413, "body-too-large").body(" ".repeat(70_000)),
        play(404, "unknown-title").body(changed("title", json!("no-film"))),
        play(403, "territory").body(changed("territory", json!("US"))),
        play(403, "plan").body(changed("plan", json!("base"))),
        play(422, "device").body(changed("device", av1)),
        case("GET", "/v1/plays", 405, "method-not-allowed"),
        case("DELETE", "/", 405, "method-not-allowed"),
        case("GET", "/v2", 404, "not-found"),
        case("GET", "/assets/none.js", 404, "not-found"),
        case("GET", "/v1/plays/multivariant.m3u8?title=film", 400, "malformed-request"),
        case("GET", "/v1/plays/manifest.mpd?title=film", 400, "malformed-request"),
        case("GET", MPD_OF_NO_FILM, 404, "unknown-title"),
        case("GET", MPD_IN_THE_US, 403, "territory"),
        case("GET", MPD_WITH_RUBBISH, 403, "token"),
    ]);
}

#[test]
fn an_agent_and_an_operator_are_told_what_is_wrong_with_theirs() {
    let registration = |cluster: &str, url: &str| json!({"appliance": "box-z", "cluster": cluster, "base_url": url, "version": "1"});
    let register =
        |status, kind| case("POST", "/v1/agent/register", status, kind).with("authorization", &bearer());
    let reports =
        |status, kind| case("POST", "/v1/agent/reports", status, kind).with("authorization", &bearer());
    let keys = || case("GET", "/v1/agent/token-keys", 401, "key");
    let mut loud = report("box-a", 1);
    loud["headroom"] = json!(7.5);
    let mut crowded = report("box-a", 1);
    let path = film("film").objects().next().unwrap().0;
    crowded["holds"]["unlisted"] = json!(vec![path; 1_001]);
    let manifest = "/v1/agent/clusters/moon/manifest";
    check_all(vec![
        case("POST", "/v1/agent/register", 401, "key").body(registration("lab", "http://x:1")),
        register(404, "unknown-cluster").body(registration("moon", "http://x:1")),
        register(400, "malformed-request").body(registration("lab", "http://x:1/")),
        register(400, "malformed-request").body(registration("lab", "https://x:1")),
        register(400, "malformed-request").body(registration("lab", "http://x\"y")),
        reports(404, "unknown-appliance").body(report("stranger", 1)),
        reports(400, "malformed-request").body(loud),
        reports(400, "malformed-request").body(crowded),
        case("GET", manifest, 404, "unknown-cluster").with("authorization", &bearer()),
        keys(),
        keys().with("authorization", "Bearer nonsense"),
        keys().with("authorization", "Basic eDp5"),
        case("POST", "/v1/appliances/stranger/drain", 404, "unknown-appliance"),
        case("DELETE", "/v1/appliances/stranger", 404, "unknown-appliance"),
        case("DELETE", "/v1/appliances/box-a", 409, "still-reporting"),
        case("DELETE", "/v1/appliances/box-a", 403, "foreign-page").with("origin", "http://evil.test"),
        case("POST", "/v1/appliances/box-a/drain", 403, "foreign-page").with("origin", "http://evil.test"),
    ]);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let world = World::with(&[]);
    assert_eq!(world.get("/v1/plays", &[]).header("allow"), "POST");
}
