//! The control plane of the lab and its origin: answers as the real one, and lies where it is told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use content::fill::{FillAnswer, FillObject, FillRequest, FillSource, SourceKind};
use content::id::ObjectId;
use content::report::{Orders, Registered};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Lie, PIECE, Shared, World};

const CHUNK: usize = 16 * 1024;
/// Far more often than the agent's patience ends.
const TRICKLE: Duration = Duration::from_millis(50);

/// A body that a task feeds.
pub struct Feed(mpsc::Receiver<Bytes>);

impl Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

type Answer = Response<Feed>;

pub async fn serve(shared: Shared) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).unwrap();
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(answer(request, shared, address).await) }
                });
                // Cut connections are part of the game.
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

async fn answer(request: Request<Incoming>, shared: Shared, address: SocketAddr) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if let Some(name) = path.strip_prefix("/objects/") {
        let range = head.headers.get(RANGE).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(head.headers.get("x-fill").unwrap(), "opens", "the source's headers are sent");
        return object(name, range, &shared).await;
    }
    assert_eq!(head.headers.get(AUTHORIZATION).unwrap(), "Bearer secret");
    let body = body.collect().await.unwrap().to_bytes();
    let if_none_match = head.headers.get(IF_NONE_MATCH).map(|value| value.to_str().unwrap().to_owned());
    let answer = control(&path, &body, if_none_match.as_deref(), &mut shared.0.lock().unwrap(), address);
    shared.1.notify_all();
    answer
}

fn control(path: &str, body: &[u8], etag: Option<&str>, world: &mut World, address: SocketAddr) -> Answer {
    if world.control_down {
        return plain(StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
    }
    match path {
        "/v1/agent/register" => {
            world.registered += 1;
            world.forgotten = false;
            json(&Registered { report_every_ms: 200 })
        }
        "/v1/agent/reports" if world.forgotten || world.registered == 0 => {
            plain(StatusCode::NOT_FOUND, Bytes::from_static(b"{}"))
        }
        "/v1/agent/reports" => {
            world.reports.push(serde_json::from_slice(body).unwrap());
            json(&Orders {
                manifest_version: world.manifest.as_ref().map_or(0, |manifest| manifest.version),
                drain: world.drain,
                token_keys_version: world.keys_version.to_string(),
                clock: world.clock,
            })
        }
        "/v1/agent/token-keys" => {
            json(&serde_json::json!({"version": world.keys_version.to_string(), "keys": world.keys}))
        }
        "/v1/agent/clusters/lab/manifest" => manifest(etag, world),
        "/v1/agent/fill-sources" => {
            let request: FillRequest = serde_json::from_slice(body).unwrap();
            let objects = request.objects.into_iter().map(|path| {
                let addresses = world.better_source.into_iter().chain([address]);
                let sources = addresses.map(|from| source(path.object, from, world.not_before)).collect();
                FillObject { path, sources }
            });
            json(&FillAnswer { objects: objects.collect() })
        }
        other => panic!("the agent asked for {other}"),
    }
}

fn manifest(etag: Option<&str>, world: &mut World) -> Answer {
    let Some(manifest) = &world.manifest else { return plain(StatusCode::NOT_FOUND, Bytes::new()) };
    let version = format!("\"{}\"", manifest.version);
    if etag == Some(version.as_str()) {
        world.not_modified += 1;
        return plain(StatusCode::NOT_MODIFIED, Bytes::new());
    }
    let mut answer = plain(StatusCode::OK, Bytes::from(manifest.to_bytes()));
    answer.headers_mut().insert(ETAG, version.parse().unwrap());
    answer
}

fn source(object: ObjectId, address: SocketAddr, not_before: Timestamp) -> FillSource {
    FillSource {
        kind: SourceKind::Origin,
        url: format!("http://{address}/objects/{object}.mp4"),
        tree_url: Some(format!("http://{address}/objects/{object}.obao")),
        headers: [("x-fill".to_owned(), "opens".to_owned())].into(),
        not_before,
    }
}

async fn object(name: &str, range: Option<String>, shared: &Shared) -> Answer {
    let (id, extension) = name.split_once('.').unwrap();
    let id: ObjectId = id.parse().unwrap();
    let (mut data, mut tree, lie) = {
        let mut world = shared.0.lock().unwrap();
        let (data, tree) = world.objects[&id].clone();
        let lies = world.lies.entry(id).or_default();
        let of_tree = [Lie::WrongTree, Lie::EndlessTree, Lie::TrickledTree];
        let is_tree_lie = lies.front().is_some_and(|lie| of_tree.contains(lie));
        let lie = if is_tree_lie == (extension == "obao") { lies.pop_front() } else { None };
        (data, tree, lie)
    };
    if extension == "obao" {
        if lie == Some(Lie::WrongTree) {
            *tree.last_mut().unwrap() ^= 1;
        }
        return match lie {
            Some(Lie::EndlessTree) => endless(tree, StatusCode::OK, None, Duration::ZERO),
            Some(Lie::TrickledTree) => endless(vec![], StatusCode::OK, None, TRICKLE),
            _ => plain(StatusCode::OK, Bytes::from(tree)),
        };
    }
    let range = range.unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    {
        let mut world = shared.0.lock().unwrap();
        let sent = world.sent.get(&id).copied().unwrap_or_default();
        world.asked.push((id, first, last));
        world.sent_before_last.insert(id, sent);
    }
    shared.1.notify_all();
    match lie {
        Some(Lie::NotFound) => return plain(StatusCode::NOT_FOUND, Bytes::new()),
        Some(Lie::Broken) => return plain(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new()),
        Some(Lie::Silent) => std::future::pending::<()>().await,
        Some(Lie::WrongByte(piece)) => data[piece * PIECE] ^= 1,
        Some(Lie::Everything) => return plain(StatusCode::OK, Bytes::from(data)),
        Some(Lie::Redirect) => {
            let mut answer = plain(StatusCode::FOUND, Bytes::new());
            answer.headers_mut().insert("location", format!("/objects/{name}").parse().unwrap());
            return answer;
        }
        Some(Lie::Endless) => {
            let says = format!("bytes {first}-{last}/{}", data.len());
            let part = data[first..=last].to_vec();
            return endless(part, StatusCode::PARTIAL_CONTENT, Some(says), Duration::ZERO);
        }
        Some(Lie::Trickle) => {
            let says = format!("bytes {first}-{last}/{}", data.len());
            return endless(vec![], StatusCode::PARTIAL_CONTENT, Some(says), TRICKLE);
        }
        Some(_) | None => {}
    }
    partial(id, data, first..last + 1, lie, shared)
}

fn partial(
    id: ObjectId,
    data: Vec<u8>,
    range: std::ops::Range<usize>,
    lie: Option<Lie>,
    shared: &Shared,
) -> Answer {
    let shown = if lie == Some(Lie::WrongRange) { range.start + 1 } else { range.start };
    let total = if lie == Some(Lie::WrongTotal) { data.len() + 1 } else { data.len() };
    let says = format!("bytes {shown}-{}/{total}", range.end - 1);
    let half = range.start + range.len() / 2;
    let cut = matches!(lie, Some(Lie::ShortBody | Lie::Stalls | Lie::LengthTooShort));
    let end = if cut { half } else { range.end };
    let (sender, receiver) = mpsc::channel(1);
    let shared = Arc::clone(shared);
    let count = match lie {
        Some(Lie::LengthTooLong) => range.len() + 1,
        Some(Lie::LengthTooShort) => end - range.start,
        _ => range.len(),
    };
    tokio::spawn(async move {
        let mut at = range.start;
        while at < end {
            let chunk = {
                let mut world = shared.0.lock().unwrap();
                let sent = world.sent.get(&id).copied().unwrap_or_default();
                let room = world.hold.get(&id).map_or(usize::MAX, |hold| hold.saturating_sub(sent));
                let count = CHUNK.min(end - at).min(room);
                *world.sent.entry(id).or_default() += count;
                Bytes::copy_from_slice(&data[at..at + count])
            };
            shared.1.notify_all();
            if chunk.is_empty() {
                // Silent until the client goes.
                return sender.closed().await;
            }
            at += chunk.len();
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
        if lie == Some(Lie::Stalls) {
            sender.closed().await;
        }
    });
    let answer = Response::builder().status(StatusCode::PARTIAL_CONTENT);
    let answer = if lie == Some(Lie::NoRange) { answer } else { answer.header(CONTENT_RANGE, says) };
    answer.header(CONTENT_LENGTH, count).body(Feed(receiver)).unwrap()
}

/// These bytes and then rubbish until the client goes: as fast as it takes it, or a byte after each `pause`.
fn endless(first: Vec<u8>, status: StatusCode, says: Option<String>, pause: Duration) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut part = Bytes::from(first);
        while sender.send(part).await.is_ok() {
            tokio::time::sleep(pause).await;
            part = Bytes::from(vec![b'x'; if pause.is_zero() { CHUNK } else { 1 }]);
        }
    });
    let mut answer = Response::builder().status(status);
    if let Some(says) = says {
        answer = answer.header(CONTENT_RANGE, says);
    }
    answer.body(Feed(receiver)).unwrap()
}

fn json(value: &impl serde::Serialize) -> Answer {
    plain(StatusCode::OK, Bytes::from(serde_json::to_vec(value).unwrap()))
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    if !body.is_empty() {
        sender.try_send(body).unwrap();
    }
    Response::builder().status(status).body(Feed(receiver)).unwrap()
}
