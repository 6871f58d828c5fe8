//! What a publish will make: the streams of a title and the encodings they consist of. Pure.

use content::id::{ObjectId, StreamId, Tier};

use crate::ladder::{self, Rung};
use crate::language;
use crate::plan::{self, ChunkSpan};
use crate::probe::Micros;
use crate::recipe::{self, Encoding, RecipeStream, VideoRecipe};
use crate::source::Source;

/// A stream to be made.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    pub id: StreamId,
    pub tier: Tier,
    pub kind: PlanKind,
}

#[derive(Debug, Clone)]
pub enum PlanKind {
    Video {
        rung: Rung,
    },
    Audio {
        language: String,
        track: u32,
    },
    /// From the source: extracted at the end, in one go.
    EmbeddedSubtitles {
        language: String,
        encoding: Encoding,
    },
    /// From the operator: WebVTT, checked.
    Subtitles {
        language: String,
        text: String,
    },
}

/// One run of the encoder; its result goes into the chunk cache.
#[derive(Debug, Clone)]
pub struct Job {
    /// Index into the streams.
    pub stream: usize,
    /// For people: `540p chunk 2 of 4`.
    pub doing: String,
    pub key: ObjectId,
    pub encoding: Encoding,
    /// Of its output.
    pub duration: Micros,
    /// None: whatever comes (audio).
    pub frames: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub streams: Vec<StreamPlan>,
    /// Longest first where it matters: audio, which cannot be cut, then video chunk by chunk over all rungs.
    pub jobs: Vec<Job>,
    pub recipe: ObjectId,
    /// What of the source is left out, in words.
    pub notes: Vec<String>,
}

/// A subtitle file of the operator's: WebVTT, checked.
#[derive(Debug, Clone)]
pub struct SubtitleText {
    pub language: String,
    pub text: String,
}

impl Plan {
    pub fn of(source: &Source, subtitles: Vec<SubtitleText>, label_rungs: bool, encoder: &str) -> Self {
        let mut notes = Vec::new();
        let rate = source.rate;
        let rungs = ladder::rungs(source.info.video.display, rate.per_second());
        let mut names = Names::default();
        let mut streams: Vec<_> = rungs.into_iter().map(|rung| video_stream(rung, &mut names)).collect();
        streams.extend(audio_streams(source, &mut names, &mut notes));
        streams.extend(subtitle_streams(source, subtitles, &mut names, &mut notes));
        if source.info.video.high_dynamic_range {
            notes.push(
                "the picture has a high dynamic range, which is not mapped: colours may look pale".to_owned(),
            );
        }
        let video = VideoRecipe { source: &source.info, rate, zero: source.zero(), label_rungs };
        let chunks = plan::chunks(source.frames, rate);
        let maker = JobMaker { source, encoder, video: &video, chunks: &chunks, streams: &streams };
        let recipe = recipe::digest(encoder, &chunks, &maker.recipe_streams());
        let jobs = maker.jobs();
        Self { streams, jobs, recipe, notes }
    }
}

/// Gives out stream ids that are unique in their title: the second `audio-aac-en` is `audio-aac-en-2`.
#[derive(Debug, Default)]
struct Names(Vec<String>);

impl Names {
    fn take(&mut self, wanted: &str) -> StreamId {
        let wanted = wanted.to_ascii_lowercase();
        let numbered = (2_u32..).map(|number| format!("{wanted}-{number}"));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|name| !self.0.contains(name));
        let name = free.unwrap_or(wanted);
        let id = name
            .parse()
            .expect("a language tag has at most 35 letters, digits and dashes, so this is a slug");
        self.0.push(name);
        id
    }
}

fn video_stream(rung: Rung, names: &mut Names) -> StreamPlan {
    let id = names.take(&rung.stream_name());
    StreamPlan { id, tier: Tier::of_height(rung.lines), kind: PlanKind::Video { rung } }
}

fn audio_streams(source: &Source, names: &mut Names, notes: &mut Vec<String>) -> Vec<StreamPlan> {
    let mut streams = Vec::new();
    for audio in &source.info.audio {
        let Some(packets) = source.packets.tracks.get(&audio.index) else {
            notes.push(format!("audio track {} is empty and left out", audio.index));
            continue;
        };
        let longer = packets.end - source.zero() - source.duration();
        if longer > 1_000_000 {
            let seconds = longer / 1_000_000;
            notes.push(format!(
                "audio track {} goes on {seconds} s after the picture and is cut there",
                audio.index
            ));
        }
        let id = names.take(&format!("audio-aac-{}", audio.language));
        let kind = PlanKind::Audio { language: audio.language.clone(), track: audio.index };
        streams.push(StreamPlan { id, tier: Tier::Base, kind });
    }
    streams
}

/// The operator's files come first: they take the plain name of their language.
fn subtitle_streams(
    source: &Source,
    files: Vec<SubtitleText>,
    names: &mut Names,
    notes: &mut Vec<String>,
) -> Vec<StreamPlan> {
    let mut kinds: Vec<_> = files
        .into_iter()
        .map(|file| PlanKind::Subtitles { language: file.language, text: file.text })
        .collect();
    for track in &source.info.subtitles {
        let (index, language) = (track.index, track.language.clone());
        if !track.is_text() {
            notes.push(format!(
                "subtitle track {index} ({}) is of pictures, not text, and left out",
                track.codec
            ));
        } else if !source.packets.tracks.contains_key(&index) {
            notes.push(format!("subtitle track {index} is empty and left out"));
        } else {
            kinds.push(PlanKind::EmbeddedSubtitles { language, encoding: recipe::subtitles(index) });
        }
    }
    let stream = |kind: PlanKind| {
        let language = kind.language().unwrap_or(language::UNDETERMINED).to_owned();
        StreamPlan { id: names.take(&format!("subtitles-{language}")), tier: Tier::Base, kind }
    };
    kinds.into_iter().map(stream).collect()
}

impl PlanKind {
    pub fn language(&self) -> Option<&str> {
        match self {
            Self::Video { .. } => None,
            Self::Audio { language, .. }
            | Self::EmbeddedSubtitles { language, .. }
            | Self::Subtitles { language, .. } => Some(language),
        }
    }
}

struct JobMaker<'a> {
    source: &'a Source,
    encoder: &'a str,
    video: &'a VideoRecipe<'a>,
    chunks: &'a [ChunkSpan],
    streams: &'a [StreamPlan],
}

impl JobMaker<'_> {
    fn jobs(&self) -> Vec<Job> {
        let audio =
            self.streams.iter().enumerate().filter_map(|(index, stream)| self.audio_job(index, stream));
        let video = (0..self.chunks.len()).flat_map(|chunk| {
            let streams = self.streams.iter().enumerate();
            streams.filter_map(move |(index, stream)| self.video_job(index, stream, chunk))
        });
        audio.chain(video).collect()
    }

    fn audio_job(&self, index: usize, stream: &StreamPlan) -> Option<Job> {
        let PlanKind::Audio { language, track } = &stream.kind else { return None };
        let encoding = recipe::audio(*track, self.source.zero(), self.source.duration());
        let key = recipe::chunk_key(self.source.digest, self.encoder, stream.id.as_str(), 0, &encoding);
        let doing = format!("audio {language}");
        Some(Job { stream: index, doing, key, encoding, duration: self.source.duration(), frames: None })
    }

    fn video_job(&self, index: usize, stream: &StreamPlan, chunk: usize) -> Option<Job> {
        let PlanKind::Video { rung } = &stream.kind else { return None };
        let span = *self.chunks.get(chunk)?;
        let encoding = self.chunk_encoding(rung, span);
        let key = recipe::chunk_key(self.source.digest, self.encoder, stream.id.as_str(), chunk, &encoding);
        let doing = format!("{}p chunk {} of {}", rung.lines, chunk + 1, self.chunks.len());
        let duration = self.source.rate.time_of(span.frames);
        Some(Job { stream: index, doing, key, encoding, duration, frames: Some(span.frames) })
    }

    fn chunk_encoding(&self, rung: &Rung, span: ChunkSpan) -> Encoding {
        let start = self.source.zero() + self.source.rate.time_of(span.first_frame);
        let seek = plan::seek_point(&self.source.video.keys, start, self.source.seeks_exactly());
        self.video.chunk(rung, span, seek)
    }

    fn recipe_streams(&self) -> Vec<RecipeStream> {
        let first = self.chunks.first().copied().unwrap_or(ChunkSpan { first_frame: 0, frames: 0 });
        let of = |stream: &StreamPlan| {
            let (encoding, file) = match &stream.kind {
                PlanKind::Video { rung } => (Some(self.chunk_encoding(rung, first)), None),
                PlanKind::Audio { track, .. } => {
                    (Some(recipe::audio(*track, self.source.zero(), self.source.duration())), None)
                }
                PlanKind::EmbeddedSubtitles { encoding, .. } => (Some(encoding.clone()), None),
                PlanKind::Subtitles { text, .. } => (None, Some(ObjectId::of(text.as_bytes()))),
            };
            RecipeStream { id: stream.id.to_string(), encoding, file }
        };
        self.streams.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_track_of_a_language_gets_a_number() {
        let mut names = Names::default();
        let taken: Vec<_> = ["audio-aac-en", "audio-aac-en", "audio-aac-zh-Hant", "audio-aac-en"]
            .map(|wanted| names.take(wanted).to_string())
            .to_vec();
        assert_eq!(taken, ["audio-aac-en", "audio-aac-en-2", "audio-aac-zh-hant", "audio-aac-en-3"]);
    }

    #[test]
    fn the_longest_language_tag_still_makes_a_stream_id() {
        let tag =
            language::parse("abc-abcdefgh-abcdefgh-abcdefgh-abcdef").unwrap_or_else(|| "abc".to_owned());
        let mut names = Names::default();
        for _ in 0..20 {
            names.take(&format!("subtitles-{tag}"));
        }
        assert_eq!(names.0.len(), 20);
    }
}
