//! From a source to a title in the origin.
//!
//! ```text
//! check the source -> plan -> (same as published? done) -> encode chunks into the cache
//!     -> assemble and check every track -> put objects -> put title.json: published
//! ```
//! Nothing is written before the source is found whole; nothing but the chunk cache before every track conforms; nobody
//! sees anything before `title.json` names it. Killed anywhere, the next run goes on from the cache.

use std::path::PathBuf;

use content::id::{Extension, ObjectId, TitleId};
use content::title::{ObjectRef, Stream, StreamKind, TITLE_FORMAT, Term, Title, TitleError};
use content::tree::TreeBuilder;
use serde::Serialize;

use crate::encode;
use crate::error::Error;
use crate::ffmpeg::{self, Progress};
use crate::inputs;
use crate::mp4::Mp4Error;
use crate::mp4::assemble::{self, ChunkLayout, Placement};
use crate::mp4::conformance::{Conformance, TrackFacts};
use crate::mp4::init::Media;
use crate::playlist;
use crate::progress::{Board, percent};
use crate::source::Source;
use crate::store::{Commit, Origin};
use crate::streams::{Plan, PlanKind, StreamPlan};
use crate::webvtt;

/// What the operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub origin: PathBuf,
    pub title: TitleId,
    pub name: String,
    /// None: a title that is there keeps its terms, a new one has none.
    pub terms: Option<PathBuf>,
    /// Language and file.
    pub subtitles: Vec<(String, PathBuf)>,
    /// Encoders at once.
    pub jobs: usize,
    pub label_rungs: bool,
    pub source: PathBuf,
}

/// What was done: the one line on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub title: TitleId,
    pub outcome: Outcome,
    pub duration_ms: u64,
    pub streams: usize,
    /// Of all objects, without their trees.
    pub bytes: u64,
    pub chunks_encoded: usize,
    pub chunks_from_cache: usize,
    pub elapsed_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Published,
    /// The title in the origin was this one already.
    Unchanged,
}

pub async fn publish(request: &Request, board: &Board) -> Result<Summary, Error> {
    let terms = request.terms.as_deref().map(inputs::read_terms).transpose()?;
    let subtitles = inputs::read_subtitles(&request.subtitles)?;
    let encoder = ffmpeg::encoder_version().await?;
    let source = Source::open(&request.source, board).await?;
    let plan = Plan::of(&source, subtitles, request.label_rungs, &encoder);
    for note in &plan.notes {
        board.say(&format!("note: {note}"));
    }
    let origin = Origin::folder(&request.origin)?;
    let seen = origin.title(&request.title).await?;
    let existing = existing_title(request, seen.as_deref(), terms.is_some(), board)?;
    let terms = terms.or_else(|| existing.as_ref().map(|title| title.terms.clone())).unwrap_or_default();
    if let Some(existing) = existing
        && seen.as_deref() == Some(existing.to_bytes().as_slice())
        && is_this(&existing, request, &source, &plan, &terms)
        && holds_all(&origin, &existing).await?
    {
        return Ok(summary(&existing, Outcome::Unchanged, (0, plan.jobs.len()), board));
    }
    let encoded = encode::all(&source, &plan, &origin, request.jobs, board).await?;
    let streams =
        Assembly { source: &source, plan: &plan, origin: &origin, board }.streams(encoded.layouts).await?;
    let title = Title {
        format: TITLE_FORMAT,
        title: request.title.clone(),
        name: request.name.clone(),
        duration_ms: duration_ms(&source),
        streams,
        terms,
        source: source.digest,
        recipe: plan.recipe,
    };
    let outcome = match origin.commit(&request.title, seen.as_ref(), title.to_bytes()).await? {
        Commit::Written => Outcome::Published,
        Commit::AlreadyThere => Outcome::Unchanged,
    };
    if title.terms.is_empty() {
        board.say("note: the title has no terms: it may be watched only where the control plane's own table says so");
    }
    Ok(summary(&title, outcome, (encoded.encoded, encoded.from_cache), board))
}

/// What the title's `title.json` says. One that rotted is published over, but its terms cannot be believed: they must be
/// given anew. One from before there were seals is believed once, and written again with its seal.
fn existing_title(
    request: &Request,
    seen: Option<&[u8]>,
    terms_given: bool,
    board: &Board,
) -> Result<Option<Title>, Error> {
    let Some(bytes) = seen else { return Ok(None) };
    match Title::parse(bytes).or_else(|cause| Title::parse_unsealed(bytes).map_err(|_| cause)) {
        Ok(title) => Ok(Some(title)),
        Err(TitleError::Rotten(cause)) if terms_given => {
            board
                .say(&format!("note: the title.json that was there is rotten ({cause}): it is written anew"));
            Ok(None)
        }
        Err(cause) => {
            Err(Error::TitleUnreadable { title: request.title.to_string(), detail: cause.to_string() })
        }
    }
}

fn is_this(existing: &Title, request: &Request, source: &Source, plan: &Plan, terms: &[Term]) -> bool {
    let Title { source: of_source, recipe, name, terms: of_terms, .. } = existing;
    *of_source == source.digest && *recipe == plan.recipe && *name == request.name && of_terms == terms
}

async fn holds_all(origin: &Origin, title: &Title) -> Result<bool, Error> {
    for (path, bytes) in title.objects() {
        if !origin.has_object(path.object, path.extension, bytes).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn summary(title: &Title, outcome: Outcome, chunks: (usize, usize), board: &Board) -> Summary {
    Summary {
        title: title.title.clone(),
        outcome,
        duration_ms: title.duration_ms,
        streams: title.streams.len(),
        bytes: title.objects().map(|(_, bytes)| bytes).sum(),
        chunks_encoded: chunks.0,
        chunks_from_cache: chunks.1,
        elapsed_ms: board.elapsed_ms(),
    }
}

fn duration_ms(source: &Source) -> u64 {
    u64::try_from((source.duration() + 500) / 1_000).unwrap_or(0)
}

struct Assembly<'a> {
    source: &'a Source,
    plan: &'a Plan,
    origin: &'a Origin,
    board: &'a Board,
}

/// A track that was found to conform, before it is put.
struct CheckedTrack {
    object: ObjectId,
    tree: Vec<u8>,
    facts: TrackFacts,
    chunks: Vec<(ObjectId, ChunkLayout)>,
}

/// A stream ready to be put.
enum Ready<'a> {
    Track(&'a StreamPlan, CheckedTrack),
    Text(&'a StreamPlan, String),
}

impl Assembly<'_> {
    /// Checks all streams, then puts them.
    async fn streams(&self, layouts: Vec<ChunkLayout>) -> Result<Vec<Stream>, Error> {
        let mut chunks: Vec<Vec<(ObjectId, ChunkLayout)>> =
            self.plan.streams.iter().map(|_| Vec::new()).collect();
        for (job, layout) in self.plan.jobs.iter().zip(layouts) {
            chunks[job.stream].push((job.key, layout));
        }
        let mut ready = Vec::new();
        for (stream, chunks) in self.plan.streams.iter().zip(chunks) {
            self.board.step(|| format!("checking: {} of {} streams", ready.len(), self.plan.streams.len()));
            if let Some(checked) = self.check(stream, chunks).await? {
                ready.push(checked);
            }
        }
        check_alignment(&ready)?;
        self.source.check_unchanged()?;
        let mut streams = Vec::new();
        for stream in ready {
            streams.push(self.put(stream).await?);
        }
        Ok(streams)
    }

    async fn check<'b>(
        &self,
        stream: &'b StreamPlan,
        chunks: Vec<(ObjectId, ChunkLayout)>,
    ) -> Result<Option<Ready<'b>>, Error> {
        match &stream.kind {
            PlanKind::Video { .. } | PlanKind::Audio { .. } => {
                self.check_track(stream, chunks).await.map(|track| Some(Ready::Track(stream, track)))
            }
            PlanKind::Subtitles { text, .. } => Ok(Some(Ready::Text(stream, text.clone()))),
            PlanKind::EmbeddedSubtitles { encoding, .. } => {
                let doing = format!("extracting {}", stream.id);
                let all = u64::try_from(self.source.duration()).unwrap_or(0);
                let bytes = ffmpeg::encode(&self.source.path, encoding, &doing, |step| {
                    if let Progress::Time(at) = step {
                        let at = u64::try_from(at).unwrap_or(0);
                        self.board.step(|| format!("{doing}: {}", percent(at, all)));
                    }
                })
                .await?;
                let zero_ms = self.source.zero() / 1_000;
                let text = webvtt::normalise(&bytes, webvtt::Format::WebVtt);
                match text.and_then(|text| webvtt::shifted(&text, -zero_ms)) {
                    Ok(text) => Ok(Some(Ready::Text(stream, text))),
                    Err(cause) => {
                        self.board.say(&format!("note: {} is left out: {cause}", stream.id));
                        Ok(None)
                    }
                }
            }
        }
    }

    async fn check_track(
        &self,
        stream: &StreamPlan,
        chunks: Vec<(ObjectId, ChunkLayout)>,
    ) -> Result<CheckedTrack, Error> {
        let refused = |cause| Error::Nonconforming { stream: stream.id.to_string(), cause };
        let mut pieces = Pieces::new(self.origin, &chunks).map_err(refused)?;
        let mut check = Conformance::begin(&pieces.head).map_err(refused)?;
        let mut tree = TreeBuilder::new();
        tree.update(&pieces.head);
        while let Some(piece) = pieces.next(stream).await? {
            check.fragment(&piece).map_err(refused)?;
            tree.update(&piece);
        }
        let facts = check.finish().map_err(refused)?;
        let (object, tree) = tree.finish();
        Ok(CheckedTrack { object, tree, facts, chunks })
    }

    async fn put(&self, ready: Ready<'_>) -> Result<Stream, Error> {
        match ready {
            Ready::Track(stream, track) => {
                self.put_track(stream, &track).await?;
                let text = playlist::of_track(track.object, &track.facts);
                let playlist = self.put_small(text.into_bytes(), Extension::M3u8).await?;
                Ok(self.track_stream(stream, &track, playlist))
            }
            Ready::Text(stream, text) => {
                let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
                let rate = (bytes.saturating_mul(8_000) / duration_ms(self.source).max(1)).max(1);
                let track = self.put_small(text.into_bytes(), Extension::Vtt).await?;
                let playlist = playlist::of_subtitles(track.object, duration_ms(self.source));
                let playlist = self.put_small(playlist.into_bytes(), Extension::M3u8).await?;
                let language = stream.kind.language().unwrap_or_default().to_owned();
                Ok(Stream {
                    id: stream.id.clone(),
                    tier: stream.tier,
                    kind: StreamKind::Subtitles { language },
                    codecs: String::new(),
                    bandwidth_bps: rate,
                    average_bandwidth_bps: rate,
                    track,
                    playlist,
                    init: None,
                    index: None,
                })
            }
        }
    }

    async fn put_track(&self, stream: &StreamPlan, track: &CheckedTrack) -> Result<(), Error> {
        let all = track.facts.bytes;
        if self.origin.has_object(track.object, Extension::Mp4, all).await? {
            return Ok(());
        }
        self.origin.put_tree(track.object, track.tree.clone()).await?;
        let refused = |cause| Error::Nonconforming { stream: stream.id.to_string(), cause };
        let mut pieces = Pieces::new(self.origin, &track.chunks).map_err(refused)?;
        let mut upload = self.origin.upload(track.object, Extension::Mp4).await?;
        upload.write(&pieces.head).await?;
        let mut done = 0_u64;
        while let Some(piece) = pieces.next(stream).await? {
            upload.write(&piece).await?;
            done = done.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
            self.board.step(|| format!("writing {}: {}", stream.id, percent(done, all)));
        }
        upload.finish().await
    }

    async fn put_small(&self, bytes: Vec<u8>, extension: Extension) -> Result<ObjectRef, Error> {
        let mut tree = TreeBuilder::new();
        tree.update(&bytes);
        let (object, tree) = tree.finish();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if !self.origin.has_object(object, extension, size).await? {
            self.origin.put_tree(object, tree).await?;
            self.origin.put_object(object, extension, bytes).await?;
        }
        Ok(ObjectRef { object, extension, bytes: size })
    }

    fn track_stream(&self, stream: &StreamPlan, track: &CheckedTrack, playlist: ObjectRef) -> Stream {
        let facts = &track.facts;
        let (bandwidth_bps, average_bandwidth_bps) = facts.bandwidths();
        let kind = match facts.init.media {
            Media::Video { width, height } => {
                let rate = self.source.rate;
                StreamKind::Video { width, height, frame_rate: (rate.frames, rate.seconds) }
            }
            Media::Audio { channels, sample_rate_hz } => {
                let language = stream.kind.language().unwrap_or_default().to_owned();
                StreamKind::Audio { language, channels, sample_rate_hz }
            }
        };
        Stream {
            id: stream.id.clone(),
            tier: stream.tier,
            kind,
            codecs: facts.init.codecs.clone(),
            bandwidth_bps,
            average_bandwidth_bps,
            track: ObjectRef { object: track.object, extension: Extension::Mp4, bytes: facts.bytes },
            playlist,
            init: Some(facts.init_span),
            index: Some(facts.index_span),
        }
    }
}

fn check_alignment(ready: &[Ready<'_>]) -> Result<(), Error> {
    let videos: Vec<_> = ready
        .iter()
        .filter_map(|ready| match ready {
            Ready::Track(stream, track) if matches!(stream.kind, PlanKind::Video { .. }) => {
                Some((stream, track))
            }
            Ready::Track(..) | Ready::Text(..) => None,
        })
        .collect();
    for pair in videos.windows(2) {
        let ((_, above), (stream, below)) = (pair[0], pair[1]);
        let aligned = above.facts.check_aligned_with(&below.facts);
        aligned.map_err(|cause| Error::Nonconforming { stream: stream.id.to_string(), cause })?;
    }
    Ok(())
}

/// A track file piece by piece: its head, then each fragment in its place. Holds one chunk in memory.
struct Pieces<'a> {
    origin: &'a Origin,
    chunks: &'a [(ObjectId, ChunkLayout)],
    head: Vec<u8>,
    placement: Placement,
    chunk: usize,
    fragment: usize,
    bytes: Option<bytes::Bytes>,
}

impl<'a> Pieces<'a> {
    fn new(origin: &'a Origin, chunks: &'a [(ObjectId, ChunkLayout)]) -> Result<Self, Mp4Error> {
        let head = assemble::head(chunks.iter().map(|(_, layout)| layout))?;
        Ok(Self { origin, chunks, head, placement: Placement::default(), chunk: 0, fragment: 0, bytes: None })
    }

    async fn next(&mut self, stream: &StreamPlan) -> Result<Option<Vec<u8>>, Error> {
        let refused = |cause| Error::Nonconforming { stream: stream.id.to_string(), cause };
        let Some((key, layout)) = self.chunks.get(self.chunk) else { return Ok(None) };
        if self.bytes.is_none() {
            let cached = self.origin.chunk(*key).await?;
            self.bytes = Some(cached.ok_or_else(|| refused(Mp4Error::Short("a chunk that left the cache")))?);
        }
        let place = layout.fragments.get(self.fragment);
        let found = place.zip(self.bytes.as_ref()).and_then(|((range, fragment), bytes)| {
            bytes.get(range.clone()).map(|piece| (fragment, piece.to_vec()))
        });
        let (fragment, mut piece) = found.ok_or_else(|| refused(Mp4Error::Short("a chunk")))?;
        self.placement.place(fragment, &mut piece).map_err(refused)?;
        self.fragment += 1;
        if self.fragment == layout.fragments.len() {
            (self.chunk, self.fragment, self.bytes) = (self.chunk + 1, 0, None);
        }
        Ok(Some(piece))
    }
}
