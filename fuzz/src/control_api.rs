//! The control plane's API: requests through the real router, with a real origin and a real state folder behind it.
//!
//! Input: requests, one after the other, divided by a line `===`. Each is a line `METHOD target`, before it `!` for a request
//! without the agents' key or `?` for one without a content type; then its body. Each input meets the same world: one
//! title, one appliance that is well; what an input changed in the fleet is undone by making the world anew.

mod world;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use content::fill::{FillAnswer, FillRequest};
use content::play::{PlayAnswer, PlayRequest, Problem};
use content::report::{Orders, Registered};
use playback_client::offer::Offer;
use playback_client::playlist::Multivariant;

use world::World;
pub use world::film;

const REQUESTS_MAX: usize = 8;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub fn run(data: &[u8]) {
    World::with(|world| {
        for request in split(data).into_iter().take(REQUESTS_MAX) {
            if let Some((method, target, body, request)) = parse(request) {
                let answer = world.ask(request);
                check(world, &method, &target, &body, &answer);
            }
        }
        for target in ["/v1/fleet", "/v1/health", "/v1/titles", "/v1/agent/clusters/lab/manifest"] {
            let answer = world.get(target);
            assert_eq!(answer.status, StatusCode::OK, "{target} after all that");
        }
    });
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(5).position(|window| window == b"\n===\n") {
        parts.push(&rest[..at]);
        rest = &rest[at + 5..];
    }
    parts.push(rest);
    parts
}

/// None: no client could send it.
fn parse(text: &[u8]) -> Option<(Method, String, Vec<u8>, Request<Body>)> {
    let line = text.split(|byte| *byte == b'\n').next()?;
    let body = text.get(line.len() + 1..).unwrap_or_default().to_vec();
    let line = std::str::from_utf8(line).ok()?;
    let (flag, line) = match line.as_bytes().first()? {
        b'!' | b'?' => line.split_at(1),
        _ => ("", line),
    };
    let (method, target) = line.split_once(' ')?;
    let method: Method = method.parse().ok()?;
    let mut request = Request::builder().method(method.clone()).uri(target);
    if flag != "!" {
        request = request.header(header::AUTHORIZATION, world::bearer());
    }
    if flag != "?" {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Body::from(body.clone())).ok()?;
    let path = request.uri().path().to_owned();
    Some((method, path, body, request))
}

fn check(world: &World, method: &Method, path: &str, asked: &[u8], answer: &Answer) {
    let status = answer.status;
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
    assert!(answer.headers.contains_key("x-request-id"));
    if method == Method::HEAD {
        return;
    }
    if status.is_client_error() || status.is_server_error() {
        let problem: Problem =
            serde_json::from_slice(&answer.body).expect("a refusal is a problem (RFC 9457)");
        assert_eq!(problem.status, status.as_u16());
        assert!(problem.kind.starts_with("/problems/") && !problem.title.is_empty());
        return;
    }
    match (method.as_str(), path) {
        ("POST", "/v1/plays") => check_play(world, asked, &answer.body),
        ("GET", "/v1/plays/multivariant.m3u8") => {
            Multivariant::parse(&answer.body).expect("our own player reads it");
        }
        ("GET", "/v1/plays/manifest.mpd") => check_dash(&answer.body),
        ("POST", "/v1/agent/register") => {
            let told: Registered = serde_json::from_slice(&answer.body).expect("as the agent reads it");
            assert!(told.report_every_ms > 0);
        }
        ("POST", "/v1/agent/reports") => {
            let _: Orders = serde_json::from_slice(&answer.body).expect("as the agent reads it");
        }
        ("POST", "/v1/agent/fill-sources") => check_sources(asked, &answer.body),
        _ => {}
    }
}

fn check_play(world: &World, asked: &[u8], told: &[u8]) {
    let request: PlayRequest = serde_json::from_slice(asked).expect("it was read");
    let answer: PlayAnswer = serde_json::from_slice(told).expect("as a player reads it");
    assert_eq!((&answer.session, &answer.title), (&request.session, &request.title));
    assert!(request.explain || answer.passed_over.is_empty());
    let claims = world.keys().verify(&answer.token).expect("the boxes take it");
    assert_eq!((&claims.session, &claims.title), (&request.session, &request.title));
    // The log and the boxes agree on what is open: nothing above the plan.
    assert!(claims.tiers.iter().all(|tier| *tier <= request.plan));
    assert!(answer.streams.iter().all(|stream| claims.tiers.contains(&stream.tier)));
    Offer::check(answer, 1, world::now()).expect("our own player takes it");
}

fn check_dash(told: &[u8]) {
    let text = std::str::from_utf8(told).expect("XML is text");
    let manifest = roxmltree::Document::parse(text).expect("a manifest is well-formed");
    let named = |name: &'static str| manifest.descendants().filter(move |node| node.has_tag_name(name));
    let places: Vec<_> = named("BaseURL").filter_map(|node| node.text()).collect();
    assert!(places.iter().any(|place| place.starts_with("http://")) && named("AdaptationSet").count() > 0);
}

fn check_sources(asked: &[u8], told: &[u8]) {
    let request: FillRequest = serde_json::from_slice(asked).expect("it was read");
    let answer: FillAnswer = serde_json::from_slice(told).expect("as the agent reads it");
    let paths: Vec<_> = answer.objects.iter().map(|object| &object.path).collect();
    assert_eq!(paths, request.objects.iter().collect::<Vec<_>>(), "in the order asked for");
    for source in answer.objects.iter().flat_map(|object| &object.sources) {
        assert!(source.url.starts_with("http://") && source.headers.contains_key("authorization"));
    }
}
