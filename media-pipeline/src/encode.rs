//! Runs the encodings of a plan, several at once, each from the cache if it is there.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};

use crate::error::Error;
use crate::ffmpeg::{self, Progress};
use crate::mp4::assemble::ChunkLayout;
use crate::mp4::{Mp4Error, ensure};
use crate::progress::{Board, percent};
use crate::source::Source;
use crate::store::Origin;
use crate::streams::{Job, Plan};

/// All chunks of a plan, in the order of its jobs.
#[derive(Debug)]
pub struct Encoded {
    pub layouts: Vec<ChunkLayout>,
    pub encoded: usize,
    pub from_cache: usize,
}

pub async fn all(
    source: &Source,
    plan: &Plan,
    origin: &Origin,
    jobs: usize,
    board: &Board,
) -> Result<Encoded, Error> {
    let meter = Meter::new(&plan.jobs);
    let one = |(index, job)| {
        let meter = &meter;
        async move {
            let result =
                encode_or_reuse(source, job, origin, |micros| meter.advance(index, micros, board)).await?;
            meter.finish(index, job, board);
            Ok::<_, Error>((index, result))
        }
    };
    let mut done: Vec<_> = futures::stream::iter(plan.jobs.iter().enumerate().map(one))
        .buffer_unordered(jobs)
        .try_collect()
        .await?;
    done.sort_by_key(|(index, _)| *index);
    let encoded = done.iter().filter(|(_, (_, fresh))| *fresh).count();
    let from_cache = done.len() - encoded;
    Ok(Encoded { layouts: done.into_iter().map(|(_, (layout, _))| layout).collect(), encoded, from_cache })
}

/// The chunk's layout, and whether it had to be encoded.
async fn encode_or_reuse(
    source: &Source,
    job: &Job,
    origin: &Origin,
    mut advance: impl FnMut(u64),
) -> Result<(ChunkLayout, bool), Error> {
    if let Some(bytes) = origin.chunk(job.key).await? {
        // Checked against its digest: what does not read now never did.
        return Ok((layout(job, source, &bytes)?, false));
    }
    let bytes = ffmpeg::encode(&source.path, &job.encoding, &format!("encoding {}", job.doing), |step| {
        let micros = match step {
            Progress::Frames(frames) if job.frames.is_some() => source.rate.time_of(frames),
            Progress::Time(micros) if job.frames.is_none() => micros,
            Progress::Frames(_) | Progress::Time(_) => return,
        };
        advance(u64::try_from(micros).unwrap_or(0));
    })
    .await?;
    let layout = layout(job, source, &bytes)?;
    origin.put_chunk(job.key, &bytes).await?;
    Ok((layout, true))
}

fn layout(job: &Job, source: &Source, bytes: &[u8]) -> Result<ChunkLayout, Error> {
    let checked = || -> Result<ChunkLayout, Mp4Error> {
        let layout = ChunkLayout::parse(bytes)?;
        if let Some(frames) = job.frames {
            let (timescale, per_frame) = source.rate.timescale();
            let (samples, duration) = (layout.samples(), layout.duration());
            ensure(samples == frames, "chunk", || format!("has {samples} frames, not {frames}"))?;
            ensure(layout.init.timescale == timescale, "chunk", || "has another timescale".to_owned())?;
            ensure(Some(duration) == frames.checked_mul(u64::from(per_frame)), "chunk", || {
                format!("lasts {duration}/{timescale} s, not {frames} frames")
            })?;
        }
        Ok(layout)
    };
    checked().map_err(|cause| Error::Nonconforming { stream: job.doing.clone(), cause })
}

/// How far all jobs are, by the length of what they make.
#[derive(Debug)]
struct Meter {
    done: Vec<AtomicU64>,
    finished: AtomicU64,
    total: u64,
}

impl Meter {
    fn new(jobs: &[Job]) -> Self {
        let total = jobs.iter().map(|job| u64::try_from(job.duration).unwrap_or(0)).sum();
        Self { done: jobs.iter().map(|_| AtomicU64::new(0)).collect(), finished: AtomicU64::new(0), total }
    }

    fn advance(&self, index: usize, micros: u64, board: &Board) {
        self.done[index].store(micros, Ordering::Relaxed);
        self.show(board, None);
    }

    fn finish(&self, index: usize, job: &Job, board: &Board) {
        self.done[index].store(u64::try_from(job.duration).unwrap_or(0), Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.show(board, Some(&job.doing));
    }

    fn show(&self, board: &Board, last: Option<&str>) {
        board.step(|| {
            let done = self.done.iter().map(|micros| micros.load(Ordering::Relaxed)).sum();
            let finished = self.finished.load(Ordering::Relaxed);
            let last = last.map_or_else(String::new, |doing| format!(", last: {doing}"));
            format!("encoding: {} ({finished} of {} done{last})", percent(done, self.total), self.done.len())
        });
    }
}
