//! How: what ffmpeg is told for each chunk, each audio track and each subtitle track, and the names of the results in the
//! chunk cache. Pure: equal inputs give equal arguments, and equal arguments equal bytes.

use content::id::ObjectId;
use serde::Serialize;

use crate::ladder::Rung;
use crate::plan::{ChunkSpan, FrameRate};
use crate::probe::{Micros, SourceInfo, seconds};

/// Counts up when the pipeline itself makes other bytes from equal chunks or wants other chunks.
const PIPELINE_FORMAT: u32 = 1;

pub const AUDIO_RATE_HZ: u32 = 48_000;
const AUDIO_KBPS: u32 = 128;
/// What ffmpeg's AAC encoder puts before the first sample: one frame. There is no edit list to hide it (CMAF players
/// differ in reading them), so as much is cut from the front and every later sound is where it was.
const AAC_PRIMING_SAMPLES: u32 = 1_024;

/// The encoder's arguments before and behind `-i SOURCE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Encoding {
    pub input: Vec<String>,
    pub output: Vec<String>,
}

/// What all video chunks of a title share.
#[derive(Debug, Clone)]
pub struct VideoRecipe<'a> {
    pub source: &'a SourceInfo,
    pub rate: FrameRate,
    /// The presentation time of the first picture: the title's time 0.
    pub zero: Micros,
    pub label_rungs: bool,
}

impl VideoRecipe<'_> {
    pub fn chunk(&self, rung: &Rung, chunk: ChunkSpan, seek: Option<Micros>) -> Encoding {
        let mut input = words("-copyts -seek_timestamp 1 -noaccurate_seek");
        if let Some(at) = seek {
            input.extend(["-ss".to_owned(), seconds(at)]);
        }
        let (timescale, _) = self.rate.timescale();
        let group = self.rate.frames_per_group();
        let peak = rung.peak_kbps;
        let mut output = vec!["-map".to_owned(), format!("0:{}", self.source.video.index)];
        output.extend(["-vf".to_owned(), self.filters(rung, chunk)]);
        output.extend(words(&format!(
            "-fps_mode cfr -r {} -frames:v {} -c:v libx264 -preset fast -profile:v high -threads 1 \
             -crf 21 -maxrate {peak}k -bufsize {}k -g {group} -keyint_min {group} -sc_threshold 0 -flags +cgop+bitexact \
             -video_track_timescale {timescale}",
            self.rate.text(),
            chunk.frames,
            peak * 2,
        )));
        output.extend(fragmented("+cmaf+empty_moov+default_base_moof+frag_keyframe"));
        Encoding { input, output }
    }

    /// The constant rate comes first: it takes for each instant the frame that is shown then, whichever was decoded
    /// before it, so a chunk needs no accurate seek; and frames that nobody will see are never scaled. `-r` states the rate
    /// once more: without it ffmpeg 7 gives the only frame of a last group no duration.
    fn filters(&self, rung: &Rung, chunk: ChunkSpan) -> String {
        let start = seconds(self.zero + self.rate.time_of(chunk.first_frame));
        let mut filters = Vec::new();
        if self.source.video.interlaced {
            filters.push("bwdif=mode=send_frame".to_owned());
        }
        filters.push(format!("fps=fps={}:round=near:start_time={start}", self.rate.text()));
        // The last frame of a source may have no duration.
        filters.push("tpad=stop_mode=clone:stop=2".to_owned());
        filters.push(format!("scale={}:{}:flags=bicubic+accurate_rnd", rung.width, rung.height));
        filters.push("setsar=1,format=yuv420p".to_owned());
        if self.label_rungs {
            let size = (rung.height / 14).max(8);
            filters.push(format!(
                "drawtext=font=Sans:text={}:fontsize={size}:fontcolor=white:box=1:boxcolor=black@0.6:\
                 boxborderw={}:x=w-tw-{size}:y=h-th-{size}",
                escape(&rung.label()),
                size / 4,
            ));
        }
        filters.push("setpts=N".to_owned());
        filters.join(",")
    }
}

/// One audio track, whole: chunks of audio drift. Exactly as long as the picture.
pub fn audio(track: u32, zero: Micros, duration: Micros) -> Encoding {
    let zero = if zero < 0 { format!("+{}", seconds(-zero)) } else { format!("-{}", seconds(zero)) };
    let end = seconds(duration);
    let filters = format!(
        "asetpts=PTS{zero}/TB,aresample={AUDIO_RATE_HZ}:async=1:first_pts=0,apad=whole_dur={end},\
         atrim=start_sample={AAC_PRIMING_SAMPLES}:end={end},asetpts=N"
    );
    let mut output = vec!["-map".to_owned(), format!("0:{track}"), "-af".to_owned(), filters];
    output.extend(words(&format!(
        "-c:a aac -b:a {AUDIO_KBPS}k -ac 2 -ar {AUDIO_RATE_HZ} -threads 1 -flags +bitexact -frag_duration 2000000"
    )));
    output.extend(fragmented("+cmaf+empty_moov+default_base_moof"));
    Encoding { input: words("-copyts"), output }
}

/// One text subtitle track, with the source's own times.
pub fn subtitles(track: u32) -> Encoding {
    let mut output = vec!["-map".to_owned(), format!("0:{track}")];
    output.extend(words("-c:s webvtt -flags +bitexact -fflags +bitexact -f webvtt pipe:1"));
    Encoding { input: words("-copyts"), output }
}

fn fragmented(flags: &str) -> Vec<String> {
    words(&format!("-fflags +bitexact -map_metadata -1 -map_chapters -1 -movflags {flags} -f mp4 pipe:1"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A value in a filter graph: escaped once for the filter's options and once for the graph (ffmpeg-filters, "Notes on
/// filtergraph escaping").
pub fn escape(value: &str) -> String {
    let with = |text: &str, special: &str| {
        text.chars()
            .flat_map(|c| special.contains(c).then_some('\\').into_iter().chain([c]))
            .collect::<String>()
    };
    with(&with(value, "\\':"), "\\'[],;")
}

/// Names one encoding in the chunk cache: by source, encoder and exact arguments, and for people's sake by stream and
/// chunk (DESIGN §3).
pub fn chunk_key(
    source: ObjectId,
    encoder: &str,
    stream: &str,
    chunk: usize,
    encoding: &Encoding,
) -> ObjectId {
    let key = serde_json::json!({
        "format": PIPELINE_FORMAT, "source": source, "encoder": encoder, "stream": stream, "chunk": chunk,
        "encoding": encoding,
    });
    ObjectId::of(key.to_string().as_bytes())
}

/// One stream of the recipe: its name and how its first chunk is encoded; for a subtitle file its digest.
#[derive(Debug, Clone, Serialize)]
pub struct RecipeStream {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<ObjectId>,
}

/// The digest that `title.json` carries: of everything beside the source that decides what the objects are.
pub fn digest(encoder: &str, chunks: &[ChunkSpan], streams: &[RecipeStream]) -> ObjectId {
    let cuts: Vec<_> = chunks.iter().map(|chunk| chunk.first_frame).collect();
    let recipe = serde_json::json!({
        "format": PIPELINE_FORMAT, "encoder": encoder, "chunks": cuts, "streams": streams,
    });
    ObjectId::of(recipe.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::VideoTrack;

    fn source() -> SourceInfo {
        let video =
            VideoTrack { index: 0, display: (960, 540), interlaced: false, high_dynamic_range: false };
        SourceInfo {
            format: "mov".to_owned(),
            duration: None,
            video,
            audio: Vec::new(),
            subtitles: Vec::new(),
        }
    }

    #[test]
    fn the_key_depends_on_everything_that_decides_the_bytes() {
        let info = source();
        let rate = FrameRate { frames: 24, seconds: 1 };
        let recipe = VideoRecipe { source: &info, rate, zero: 23_000, label_rungs: false };
        let labelled = VideoRecipe { label_rungs: true, ..recipe.clone() };
        let rungs = crate::ladder::rungs((960, 540), 24);
        let chunk = |index: u64| ChunkSpan { first_frame: index * 240, frames: 240 };
        let plain = recipe.chunk(&rungs[0], chunk(0), None);
        let digest = ObjectId::of(b"source");
        let keys = [
            chunk_key(digest, "x264 164", "v", 0, &plain),
            chunk_key(ObjectId::of(b"other"), "x264 164", "v", 0, &plain),
            chunk_key(digest, "x264 165", "v", 0, &plain),
            chunk_key(digest, "x264 164", "w", 0, &plain),
            chunk_key(digest, "x264 164", "v", 1, &plain),
            chunk_key(digest, "x264 164", "v", 0, &recipe.chunk(&rungs[1], chunk(0), None)),
            chunk_key(digest, "x264 164", "v", 0, &recipe.chunk(&rungs[0], chunk(1), None)),
            chunk_key(digest, "x264 164", "v", 0, &labelled.chunk(&rungs[0], chunk(0), None)),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "key {index} stands for two encodings");
        }
        assert_eq!(keys[0], chunk_key(digest, "x264 164", "v", 0, &recipe.chunk(&rungs[0], chunk(0), None)));
    }

    #[test]
    fn a_value_is_escaped_for_the_filter_and_for_the_graph() {
        assert_eq!(escape("540p 1200k"), "540p 1200k");
        assert_eq!(escape("a:b"), "a\\\\:b");
        assert_eq!(escape("it's, [x]"), "it\\\\\\'s\\, \\[x\\]");
    }

    #[test]
    fn a_source_that_starts_before_zero_is_moved_forward() {
        assert!(audio(1, -21_000, 1_000_000).output[3].starts_with("asetpts=PTS+0.021000/TB,"));
        assert!(audio(1, 21_000, 1_000_000).output[3].starts_with("asetpts=PTS-0.021000/TB,"));
    }
}
