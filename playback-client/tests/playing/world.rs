//! A small world to play in: a title of opaque bytes, a control plane, and appliances that misbehave as told.
//!
//! The same service runs in memory ([`World::dial`], under a paused clock: whole plays in milliseconds, the same each
//! time) and on real sockets ([`World::listen`]).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use content::id::{ByteSpan, Extension, ObjectId, Tier};
use content::play::{PlayAnswer, PlayObject, PlayRequest, PlayStream, RankedAppliance};
use content::title::{ObjectRef, Stream, StreamKind, TITLE_FORMAT, Title};
use futures::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use playback_client::clock::Clock;
use playback_client::network::{Connection, Dial, Dialling};
use playback_client::play::{Outcome, Settings, play};
use tokio::io::{AsyncRead, AsyncWrite};

pub const SEGMENTS: u64 = 15;
pub const SEGMENT: Duration = Duration::from_secs(4);
const PIECE: usize = 16 << 10;

/// What an appliance does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    Serve,
    Status(u16, &'static str),
    /// Takes the request and never answers.
    Hang,
    /// Ends the connection after so many bytes of body.
    DieAfter(usize),
    /// Stops sending after so many bytes, and keeps the connection.
    StopAfter(usize),
    WrongBytes,
    /// Sends the right bytes under another `Content-Range`.
    WrongRange,
    /// Ignores the range.
    WholeTrack,
    /// Sends other bytes under another object's ETag.
    WrongObject,
}

/// One request, as an appliance's script sees it.
pub struct Asked {
    pub box_name: &'static str,
    /// Since the world began.
    pub at: Duration,
    pub token: String,
    pub extension: Extension,
    pub span: Option<ByteSpan>,
}

type Script = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

pub struct World {
    pub title: Title,
    pub objects: HashMap<ObjectId, Bytes>,
    pub clock: Clock,
    pub script: Script,
    /// From then on appliances serve.
    pub script_until: Option<Duration>,
    /// Of each appliance, bytes a second.
    pub rate: u64,
    /// From then on every body is sent at this rate instead.
    pub slow_from: Option<(Duration, u64)>,
    /// How long tokens live.
    pub token_life: Duration,
    /// Idle connections are closed after this long.
    pub idle: Duration,
    /// What the control plane answers instead of a play.
    pub refusal: Option<(u16, &'static str)>,
    /// No connection can be made to these, from and until these instants.
    pub down: Vec<(&'static str, Duration, Duration)>,
    /// Instead of the media playlist addresses, for the multivariant playlist.
    pub authorities: Mutex<BTreeMap<&'static str, String>>,
    pub plays: Mutex<Vec<PlayRequest>>,
}

/// Made once for each process: the same for every world.
static CONTENT: LazyLock<(Title, HashMap<ObjectId, Bytes>)> = LazyLock::new(|| {
    let mut objects = HashMap::new();
    let mut streams = Vec::new();
    for (name, bps) in [("low", 400_000), ("high", 1_800_000)] {
        let kind = StreamKind::Video { width: 960, height: 540, frame_rate: (24, 1) };
        streams.push(stream(&format!("video-{name}"), Tier::Sd, kind, bps, &mut objects));
    }
    for language in ["en", "sv"] {
        let kind = StreamKind::Audio { language: language.to_owned(), channels: 2, sample_rate_hz: 48_000 };
        streams.push(stream(&format!("audio-{language}"), Tier::Base, kind, 128_000, &mut objects));
    }
    streams.push(subtitles(&mut objects));
    let title = Title {
        format: TITLE_FORMAT,
        title: "night-train".parse().unwrap(),
        name: "Night Train".to_owned(),
        duration_ms: 60_000,
        streams,
        terms: vec![],
        source: ObjectId::of(b"source"),
        recipe: ObjectId::of(b"recipe"),
    };
    (title, objects)
});

pub const BOXES: [&str; 2] = ["box-a", "box-b"];

impl World {
    pub fn new(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let (title, objects) = CONTENT.clone();
        let names = [("control", "control:8000"), ("box-a", "a:80"), ("box-b", "b:80")];
        Self {
            title,
            objects,
            clock: Clock::start(),
            script: Box::new(script),
            script_until: None,
            rate: 2_000_000,
            slow_from: None,
            token_life: Duration::from_secs(6 * 3_600),
            idle: Duration::from_secs(600),
            refusal: None,
            down: Vec::new(),
            authorities: Mutex::new(names.map(|(name, at)| (name, at.to_owned())).into()),
            plays: Mutex::default(),
        }
    }

    /// Plays in memory.
    pub async fn play(self: &Arc<Self>, settings: Settings) -> Outcome {
        let dial = Box::new(Memory(Arc::clone(self)));
        play("http://control:8000".parse().unwrap(), request(), settings, dial, self.clock).await
    }

    /// Listens on free ports of 127.0.0.1 from now on; gives the control plane's address.
    pub async fn listen(self: &Arc<Self>) -> String {
        for name in ["control", "box-a", "box-b"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let authority = listener.local_addr().unwrap().to_string();
            self.authorities.lock().unwrap().insert(name, authority);
            let world = Arc::clone(self);
            tokio::spawn(async move {
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    tokio::spawn(Arc::clone(&world).serve(name, socket));
                }
            });
        }
        format!("http://{}", self.authority("control"))
    }

    /// Writes the origin's folder and `title.json`.
    pub fn write_origin(&self, folder: &std::path::Path) -> std::path::PathBuf {
        let objects = self.title.streams.iter().flat_map(|stream| [stream.track, stream.playlist]);
        for object in objects {
            let name = object.object.to_string();
            let parent = folder.join("objects").join(&name[..2]);
            std::fs::create_dir_all(&parent).unwrap();
            let bytes = &self.objects[&object.object];
            std::fs::write(parent.join(format!("{name}.{}", object.extension)), bytes).unwrap();
        }
        let path = folder.join("title.json");
        std::fs::write(&path, self.title.to_bytes()).unwrap();
        path
    }

    pub fn stream(&self, id: &str) -> &Stream {
        self.title.streams.iter().find(|stream| stream.id.as_str() == id).unwrap()
    }

    pub fn authority(&self, name: &str) -> String {
        self.authorities.lock().unwrap()[name].clone()
    }

    async fn serve(
        self: Arc<Self>,
        name: &'static str,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) {
        let idle = self.idle;
        let service = service_fn(move |request| Arc::clone(&self).answer(name, request));
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(idle);
        // How a connection ends is the client's matter to judge.
        drop(server.serve_connection(TokioIo::new(io), service).await);
    }

    async fn answer(
        self: Arc<Self>,
        name: &'static str,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, std::io::Error>>, Infallible> {
        if name != "control" {
            return Ok(self.media(name, request).await);
        }
        if request.uri().path() == "/v1/plays/multivariant.m3u8" {
            return Ok(Response::new(self.paced(self.multivariant().into(), None)));
        }
        assert_eq!(request.uri().path(), "/v1/plays");
        if let Some((status, body)) = self.refusal {
            return Ok(Response::builder()
                .status(status)
                .body(self.paced(Bytes::from_static(body.as_bytes()), None))
                .unwrap());
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked: PlayRequest = serde_json::from_slice(&body).unwrap();
        let answer = serde_json::to_vec(&self.play_answer(asked)).unwrap();
        Ok(Response::new(self.paced(answer.into(), None)))
    }

    async fn media(
        self: Arc<Self>,
        box_name: &'static str,
        request: Request<Incoming>,
    ) -> Response<BoxBody<Bytes, std::io::Error>> {
        let (token, path) = request.uri().path().strip_prefix("/~").unwrap().split_once('/').unwrap();
        let path: content::id::MediaPath = format!("/{path}").parse().unwrap();
        let range = request.headers().get("range").map(|range| range.to_str().unwrap());
        let span = range.map(|range| range.strip_prefix("bytes=").unwrap().parse::<ByteSpan>().unwrap());
        let (object, extension) = (path.object, path.extension);
        let at = self.clock.now();
        let over = self.script_until.is_some_and(|until| at >= until);
        let asked = Asked { box_name, at, token: token.to_owned(), extension, span };
        let act = if over { Act::Serve } else { (self.script)(&asked) };
        let whole = self.objects[&object].clone();
        let size = whole.len();
        let body = match span {
            Some(span) => {
                whole.slice(usize::try_from(span.first()).unwrap()..usize::try_from(span.last() + 1).unwrap())
            }
            None => whole.clone(),
        };
        let mut shown = span;
        let mut body = (body, None);
        let mut tag = object;
        match act {
            Act::Serve => {}
            Act::Status(status, text) => {
                let body = self.paced(Bytes::from_static(text.as_bytes()), None);
                return Response::builder().status(status).body(body).unwrap();
            }
            Act::Hang => std::future::pending().await,
            Act::DieAfter(bytes) => body.1 = Some(Ending::Die(bytes)),
            Act::StopAfter(bytes) => body.1 = Some(Ending::Stop(bytes)),
            Act::WrongBytes => body.0 = body.0.iter().map(|byte| byte ^ 1).collect(),
            Act::WrongRange => shown = span.and_then(|span| ByteSpan::new(span.first() + 1, span.last() + 1)),
            Act::WholeTrack => (shown, body.0) = (None, whole),
            Act::WrongObject => tag = ObjectId::of(b"another"),
        }
        let length = body.0.len();
        let answer =
            Response::builder().header("etag", format!("\"{tag}\"")).header("content-length", length);
        let answer = match shown {
            Some(shown) => answer.status(206).header("content-range", format!("bytes {shown}/{size}")),
            None => answer.status(200),
        };
        answer.body(self.paced(body.0, body.1)).unwrap()
    }

    /// A body at the world's rate.
    fn paced(&self, body: Bytes, ending: Option<Ending>) -> BoxBody<Bytes, std::io::Error> {
        let slow = self.slow_from.filter(|&(from, _)| self.clock.now() >= from);
        let rate = slow.map_or(self.rate, |(_, rate)| rate);
        let pieces = stream::unfold((body, 0_usize, ending), move |(mut left, sent, ending)| async move {
            match ending {
                Some(Ending::Die(after)) if sent >= after => {
                    return Some((Err(std::io::Error::other("as told")), (Bytes::new(), 0, None)));
                }
                Some(Ending::Stop(after)) if sent >= after => std::future::pending().await,
                Some(Ending::Die(_) | Ending::Stop(_)) | None => {}
            }
            if left.is_empty() {
                return None;
            }
            let piece = left.split_to(left.len().min(PIECE));
            let micros = u64::try_from(piece.len()).unwrap() * 1_000_000 / rate;
            if micros > 0 {
                tokio::time::sleep(Duration::from_micros(micros)).await;
            }
            let sent = sent + piece.len();
            Some((Ok(Frame::data(piece)), (left, sent, ending)))
        });
        BodyExt::boxed(StreamBody::new(Box::pin(SyncStream(Mutex::new(Box::pin(pieces))))))
    }

    fn play_answer(&self, request: PlayRequest) -> PlayAnswer {
        let mut plays = self.plays.lock().unwrap();
        plays.push(request.clone());
        let token = format!("token-{}", plays.len());
        let object = |tier: Tier, of: ObjectRef| PlayObject {
            object: of.object,
            bytes: of.bytes,
            urls: BOXES
                .map(|name| {
                    let (at, title) = (self.authority(name), &self.title.title);
                    format!("http://{at}/~{token}/{title}/{tier}/{}.{}", of.object, of.extension)
                })
                .to_vec(),
        };
        let play_stream = |stream: &Stream| PlayStream {
            id: stream.id.clone(),
            tier: stream.tier,
            kind: stream.kind.clone(),
            codecs: stream.codecs.clone(),
            bandwidth_bps: stream.bandwidth_bps,
            average_bandwidth_bps: stream.average_bandwidth_bps,
            track: object(stream.tier, stream.track),
            playlist: object(stream.tier, stream.playlist),
            init: stream.init,
            index: stream.index,
        };
        let ranked = |name: &str| RankedAppliance {
            appliance: name.parse().unwrap(),
            cluster: "lab".parse().unwrap(),
            base_url: format!("http://{}", self.authority(name)),
        };
        PlayAnswer {
            session: request.session,
            title: request.title,
            name: self.title.name.clone(),
            duration_ms: self.title.duration_ms,
            expires: Timestamp::now() + self.clock.now() + self.token_life,
            dash: String::new(),
            hls: format!("http://{}/v1/plays/multivariant.m3u8?token={token}", self.authority("control")),
            appliances: BOXES.map(ranked).to_vec(),
            streams: self.title.streams.iter().map(play_stream).collect(),
            passed_over: vec![],
            token,
        }
    }

    fn multivariant(&self) -> String {
        let at = self.authority("box-a");
        let mut text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n".to_owned();
        for stream in &self.title.streams {
            let uri =
                format!("http://{at}/~token-1/night-train/{}/{}.m3u8", stream.tier, stream.playlist.object);
            text += &match &stream.kind {
                StreamKind::Video { .. } => format!(
                    "#EXT-X-STREAM-INF:BANDWIDTH={},CODECS=\"avc1.64001f,mp4a.40.2\",AUDIO=\"audio-0\",\
                     SUBTITLES=\"subtitles\"\n{uri}\n",
                    stream.bandwidth_bps
                ),
                StreamKind::Audio { language, .. } => format!(
                    "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio-0\",NAME=\"{language}\",LANGUAGE=\"{language}\",\
                     DEFAULT=NO,AUTOSELECT=YES,URI=\"{uri}\"\n"
                ),
                StreamKind::Subtitles { language } => format!(
                    "#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"subtitles\",NAME=\"{language}\",LANGUAGE=\"{language}\",\
                     URI=\"{uri}\"\n"
                ),
            };
        }
        text
    }
}

#[derive(Clone, Copy)]
enum Ending {
    Die(usize),
    Stop(usize),
}

/// `BoxBody` wants `Sync`, which a stream of futures is not by itself.
struct SyncStream<S: ?Sized>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream + ?Sized> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(context)
    }
}

struct Memory(Arc<World>);

impl Dial for Memory {
    fn dial(&self, authority: &str) -> Dialling {
        let world = Arc::clone(&self.0);
        let name = ["control", "box-a", "box-b"].into_iter().find(|name| world.authority(name) == authority);
        let now = world.clock.now();
        let down =
            |name: &str| world.down.iter().any(|&(of, from, until)| of == name && from <= now && now < until);
        let Some(name) = name.filter(|name| !down(name)) else {
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            return Box::pin(async { Err(refused) });
        };
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(world.serve(name, far));
        Box::pin(async { Ok(Box::new(near) as Box<dyn Connection>) })
    }
}

pub fn request() -> PlayRequest {
    serde_json::from_value(serde_json::json!({
        "title": "night-train", "session": "session-1", "member": "m", "plan": "hd", "territory": "SE",
        "device": {"height_max": 1080, "codecs": ["avc1", "mp4a"]}
    }))
    .unwrap()
}

/// A track of `SEGMENTS` segments behind an initialisation section and an index.
fn stream(
    id: &str,
    tier: Tier,
    kind: StreamKind,
    bps: u64,
    objects: &mut HashMap<ObjectId, Bytes>,
) -> Stream {
    let (init, index) = (ByteSpan::new(0, 799).unwrap(), ByteSpan::new(800, 999).unwrap());
    let segment = bps / 8 * SEGMENT.as_secs();
    let bytes = 1_000 + segment * SEGMENTS;
    let track = store(opaque(id, bytes), Extension::Mp4, objects);
    let file = format!("{}.mp4", track.object);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-PLAYLIST-TYPE:VOD\n\
         #EXT-X-MAP:URI=\"{file}\",BYTERANGE=\"800@0\"\n"
    );
    for number in 0..SEGMENTS {
        text += &format!("#EXTINF:4.000,\n#EXT-X-BYTERANGE:{segment}@{}\n{file}\n", 1_000 + number * segment);
    }
    let playlist = store((text + "#EXT-X-ENDLIST\n").into(), Extension::M3u8, objects);
    Stream {
        id: id.parse().unwrap(),
        tier,
        kind,
        codecs: "avc1.64001f".to_owned(),
        bandwidth_bps: bps,
        average_bandwidth_bps: bps,
        track,
        playlist,
        init: Some(init),
        index: Some(index),
    }
}

fn subtitles(objects: &mut HashMap<ObjectId, Bytes>) -> Stream {
    let track = store("WEBVTT\n\n00:00.000 --> 01:00.000\nHello\n".into(), Extension::Vtt, objects);
    let text =
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:60\n#EXTINF:60.0,\n{}.vtt\n#EXT-X-ENDLIST\n", track.object);
    Stream {
        id: "subtitles-en".parse().unwrap(),
        tier: Tier::Base,
        kind: StreamKind::Subtitles { language: "en".to_owned() },
        codecs: String::new(),
        bandwidth_bps: 200,
        average_bandwidth_bps: 100,
        track,
        playlist: store(text.into(), Extension::M3u8, objects),
        init: None,
        index: None,
    }
}

fn store(bytes: Bytes, extension: Extension, objects: &mut HashMap<ObjectId, Bytes>) -> ObjectRef {
    let object = ObjectId::of(&bytes);
    let count = u64::try_from(bytes.len()).unwrap();
    objects.insert(object, bytes);
    ObjectRef { object, extension, bytes: count }
}

/// Bytes that repeat nowhere: eight at a time from a mixed counter.
fn opaque(seed: &str, count: u64) -> Bytes {
    let mut state = u64::from_le_bytes(ObjectId::of(seed.as_bytes()).as_bytes()[..8].try_into().unwrap());
    let count = usize::try_from(count).unwrap();
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&(state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    bytes.truncate(count);
    bytes.into()
}
