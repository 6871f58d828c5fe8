//! One job on one object: pull it piece by piece, or check a complete file that is there already. Impure.
//!
//! ```text
//!   job ── pull ──> tree (stored, or from a source) ──> allocate, recover ──> ranges of pieces ──> footer, rename; small: wait for a pack
//!      └── adopt ─> read and check the whole file
//! ```
//!
//! A range asks for one piece at first and for twice as many after each that came right, up to
//! [`PIECES_PER_REQUEST_MAX`]. Each piece is verified, then written, before the next is taken from the socket. A job
//! ends by itself: every wait has a limit, and so has the number of faults (`sources`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use content::checksum::PIECE_BYTES;
use content::control_socket::FileName;
use content::fill::FillSource;
use content::id::ObjectId;
use content::pack::{Member, SMALL_BELOW_BYTES};
use content::rot::RotPlace;
use content::tree::{Tree, tree_bytes};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_RANGE, RANGE};
use hyper::{Request, Response, StatusCode};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::aligned::PieceBuffer;
use crate::clock::Clock;
use crate::http::{Http, HttpError, Transfer};
use crate::incoming::{self, DiskFault, IncomingFile};
use crate::packing::{self, Checked, PackJob, Packed, SourceAt};
use crate::rot;
use crate::sources::{Attempt, Fault, Hosts, Next};
use crate::volumes::file_path;

/// 8 MiB: a request costs a round trip, and a lost connection at most the rest of it.
const PIECES_PER_REQUEST_MAX: u64 = 32;
/// A disk that takes longer for one step has failed.
const DISK_WAIT: Duration = Duration::from_secs(60);
/// Checking what is there reads whole files.
const CHECK_WAIT: Duration = Duration::from_secs(3600);
/// A pack is written or read in one go.
const PACK_WAIT: Duration = Duration::from_secs(120);
/// Between two looks whether the job is still wanted, while it waits for a source.
const WAIT_STEP: Duration = Duration::from_millis(250);
/// A job does not occupy its place for longer than this without a source that may be used.
const WAIT_MS_MAX: u64 = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub object: ObjectId,
    /// As the manifest says.
    pub bytes: u64,
    pub at: FileName,
    /// Of the volume.
    pub volume: PathBuf,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Pull(Vec<FillSource>),
    /// A complete file that no generation names: read it whole, hold it if it is right.
    Adopt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is under `files/`, whole; a small one waits in `incoming/` for its pack.
    Stored,
    /// No source gave it; what came so far is kept.
    NoSource(String),
    DiskFull,
    /// The volume can be read and not written to.
    ReadOnly,
    VolumeFailed(String),
    /// The file that was to be adopted is not what it says.
    Damaged(String),
    Cancelled,
}

/// A pack that was found on a volume and is to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct PackCheck {
    /// Of the volume.
    pub volume: PathBuf,
    pub at: FileName,
    pub data_bytes: u64,
    pub members: Box<[Member]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackFault {
    DiskFull,
    VolumeFailed(String),
}

impl From<Stop> for PackFault {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Disk(DiskFault::Full) => Self::DiskFull,
            Stop::Disk(fault) => Self::VolumeFailed(fault.to_string()),
            Stop::Hung => Self::VolumeFailed("the volume does not answer".to_owned()),
            Stop::Source(what) => Self::VolumeFailed(what),
            Stop::Cancelled => Self::VolumeFailed("cancelled".to_owned()),
        }
    }
}

/// Counted since the agent's start.
#[derive(Debug, Default)]
pub struct Counters {
    pub bytes_stored: AtomicU64,
    pub bad_pieces: AtomicU64,
    pub faults: AtomicU64,
    /// With small objects that were just pulled.
    pub packs_sealed: AtomicU64,
    /// From other packs alone: half dead, or with a bad block.
    pub packs_rewritten: AtomicU64,
    /// From pack to pack.
    pub pack_bytes_copied: AtomicU64,
    /// Members that were not their object's any more.
    pub pack_members_lost: AtomicU64,
}

/// What jobs share.
#[derive(Clone)]
pub struct Workshop {
    pub http: Http,
    pub clock: Clock,
    pub hosts: Arc<Mutex<Hosts>>,
    pub counters: Arc<Counters>,
}

/// Why a job stops before its end.
enum Stop {
    Source(String),
    Disk(DiskFault),
    Hung,
    Cancelled,
}

impl From<DiskFault> for Stop {
    fn from(fault: DiskFault) -> Self {
        Self::Disk(fault)
    }
}

impl Workshop {
    pub async fn run(&self, job: Job, cancelled: Arc<AtomicBool>) -> Outcome {
        let done = match &job.work {
            Work::Adopt => adopt(&job).await,
            Work::Pull(sources) => {
                let attempt = Attempt::new(sources.clone());
                Pull { shop: self, job: &job, attempt, cancelled }.run().await
            }
        };
        match done {
            Ok(()) => Outcome::Stored,
            Err(Stop::Source(reason)) => Outcome::NoSource(reason),
            Err(Stop::Disk(DiskFault::Full)) => Outcome::DiskFull,
            Err(Stop::Disk(DiskFault::ReadOnly)) => Outcome::ReadOnly,
            Err(Stop::Disk(DiskFault::Damaged(what))) => Outcome::Damaged(what),
            Err(Stop::Disk(fault @ DiskFault::Failed(_))) => Outcome::VolumeFailed(fault.to_string()),
            Err(Stop::Hung) => Outcome::VolumeFailed("the volume does not answer".to_owned()),
            Err(Stop::Cancelled) => Outcome::Cancelled,
        }
    }
}

impl Workshop {
    /// Writes a pack.
    pub async fn pack(&self, job: PackJob) -> Result<Packed, PackFault> {
        let fresh = job.sources.iter().any(|source| matches!(source.at, SourceAt::Ready(_)));
        let packed = on_disk(PACK_WAIT, move || packing::write(&job)).await.map_err(PackFault::from)?;
        let counters = &self.counters;
        let kind = if fresh { &counters.packs_sealed } else { &counters.packs_rewritten };
        kind.fetch_add(1, Ordering::Relaxed);
        counters.pack_bytes_copied.fetch_add(packed.copied_bytes, Ordering::Relaxed);
        let lost = u64::try_from(packed.lost.len()).unwrap_or(u64::MAX);
        counters.pack_members_lost.fetch_add(lost, Ordering::Relaxed);
        Ok(packed)
    }

    /// Reads a pack that was found, whole.
    pub async fn check_pack(&self, check: PackCheck) -> Result<Checked, PackFault> {
        let PackCheck { volume, at, data_bytes, members } = check;
        let path = file_path(&volume, at.file);
        let file = path.clone();
        let done = on_disk(PACK_WAIT, move || packing::check(&path, at.file, data_bytes, &members)).await;
        if done.as_ref().is_ok_and(|checked| !checked.whole) {
            let cure = "none needed: what is good of it is copied, the rest is pulled again";
            rot::found(RotPlace::File, file.display(), "a pack whose members or checksums do not fit", cure);
        }
        done.map_err(PackFault::from)
    }
}

async fn adopt(job: &Job) -> Result<(), Stop> {
    let (path, object, bytes) = (file_path(&job.volume, job.at.file), job.object, job.bytes);
    let checked = on_disk(CHECK_WAIT, move || incoming::check_complete(&path, object, bytes)).await;
    if let Err(Stop::Disk(DiskFault::Damaged(what))) = &checked {
        let file = file_path(&job.volume, job.at.file);
        rot::found(RotPlace::File, file.display(), what, "none needed: the object is pulled again");
    }
    checked
}

/// Runs file operations off the loop's threads; a disk that hangs holds one thread and this job, and no more.
async fn on_disk<T: Send + 'static>(
    wait: Duration,
    work: impl FnOnce() -> Result<T, DiskFault> + Send + 'static,
) -> Result<T, Stop> {
    let done = timeout(wait, spawn_blocking(work)).await.map_err(|_| Stop::Hung)?;
    Ok(done.expect("a file operation does not panic: see `incoming`")?)
}

struct Pull<'a> {
    shop: &'a Workshop,
    job: &'a Job,
    attempt: Attempt,
    cancelled: Arc<AtomicBool>,
}

impl Pull<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        let mut file = self.open().await?;
        let mut pieces_per_request = 1;
        while file.verified() < file.tree().piece_count() && self.job.bytes > 0 {
            let index = self.choose(|_| true).await?;
            let (back, fault) = self.pull_range(file, index, pieces_per_request).await?;
            file = back;
            match fault {
                None => pieces_per_request = (pieces_per_request * 2).min(PIECES_PER_REQUEST_MAX),
                Some(fault) => {
                    self.note(index, &fault);
                    pieces_per_request = 1;
                }
            }
        }
        if self.job.bytes == 0 && file.verified() == 0 {
            file = self.push(file, PieceBuffer::default()).await?.0;
        }
        let small = self.job.bytes < SMALL_BELOW_BYTES;
        on_disk(DISK_WAIT, move || if small { file.wait_for_pack() } else { file.finish() }).await
    }

    /// The file to write to: from the tree that lies beside it, or one that a source gives.
    async fn open(&mut self) -> Result<IncomingFile, Stop> {
        let (volume, number, object) = (self.job.volume.clone(), self.job.at.file, self.job.object);
        let bytes = self.job.bytes;
        let stored = {
            let volume = volume.clone();
            on_disk(DISK_WAIT, move || Ok(incoming::stored_tree(&volume, number, object))).await?
        };
        let (tree, encoded) = match stored.filter(|tree| tree.object_bytes() == bytes) {
            Some(tree) => (tree, None),
            None => {
                let (tree, encoded) = self.pull_tree().await?;
                (tree, Some(encoded))
            }
        };
        let begin = move || incoming::begin(&volume, number, object, tree, encoded.as_deref());
        let begun = on_disk(DISK_WAIT, begin).await?;
        on_disk(CHECK_WAIT, move || begun.recover()).await
    }

    async fn pull_tree(&mut self) -> Result<(Tree, Bytes), Stop> {
        loop {
            let index = self.choose(|source| source.tree_url.is_some()).await?;
            match self.tree_from(index).await {
                Ok(found) => return Ok(found),
                Err(fault) => self.note(index, &fault),
            }
        }
    }

    async fn tree_from(&self, index: usize) -> Result<(Tree, Bytes), Fault> {
        let source = self.attempt.source(index).ok_or_else(no_source)?;
        let url = source.tree_url.as_deref().ok_or_else(no_source)?;
        let answer = self.shop.http.send(request(url, source, None)?).await.map_err(fault_of)?;
        if answer.status() != StatusCode::OK {
            return Err(Fault::Status(answer.status().as_u16()));
        }
        let limit = usize::try_from(tree_bytes(self.job.bytes)).unwrap_or(usize::MAX);
        let encoded = self.shop.http.whole(answer.into_body(), limit).await.map_err(fault_of)?;
        let tree =
            Tree::parse(self.job.object, &encoded).map_err(|cause| Fault::BadTree(cause.to_string()))?;
        if tree.object_bytes() != self.job.bytes {
            let what = format!("of {} bytes, not {}", tree.object_bytes(), self.job.bytes);
            return Err(Fault::BadTree(what));
        }
        Ok((tree, encoded))
    }

    /// The best source that may be used now; waits for one, for a while.
    async fn choose(&self, fits: impl Fn(&FillSource) -> bool) -> Result<usize, Stop> {
        let mut waited_ms = 0u64;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Stop::Cancelled);
            }
            let next = self.attempt.next(&lock(&self.shop.hosts), self.shop.clock.now(), &fits);
            match next {
                Next::Use(index) => return Ok(index),
                Next::Wait(ms) if waited_ms.saturating_add(ms) <= WAIT_MS_MAX => {
                    let step = Duration::from_millis(ms).min(WAIT_STEP);
                    sleep(step).await;
                    waited_ms = waited_ms.saturating_add(u64::try_from(step.as_millis()).unwrap_or(0).max(1));
                }
                Next::Wait(_) => return Err(Stop::Source("no source may be used soon".to_owned())),
                Next::GiveUp => return Err(Stop::Source("every source failed".to_owned())),
            }
        }
    }

    /// One request; what comes beyond it is not read. Gives the file back with what came right, and what went wrong, if anything did.
    async fn pull_range(
        &mut self,
        mut file: IncomingFile,
        index: usize,
        pieces: u64,
    ) -> Result<(IncomingFile, Option<Fault>), Stop> {
        let first = file.verified() * PIECE_BYTES;
        let last = (first + pieces * PIECE_BYTES).min(self.job.bytes) - 1;
        let mut body = match self.start_range(index, first, last).await {
            Ok(body) => body,
            Err(fault) => return Ok((file, Some(fault))),
        };
        let mut rest = Bytes::new();
        let mut buffer = PieceBuffer::default();
        while file.verified() * PIECE_BYTES <= last {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Stop::Cancelled);
            }
            let count = usize::try_from(file.tree().piece_bytes(file.verified())).unwrap_or(usize::MAX);
            buffer.clear();
            body.start_piece();
            if let Err(fault) = self.fill(&mut body, &mut rest, &mut buffer, count).await {
                return Ok((file, Some(fault)));
            }
            let piece = file.verified();
            let right;
            (file, buffer, right) = self.push(file, buffer).await?;
            if !right {
                self.shop.counters.bad_pieces.fetch_add(1, Ordering::Relaxed);
                return Ok((file, Some(Fault::BadPiece(piece))));
            }
            self.attempt.progressed(index, &mut lock(&self.shop.hosts));
        }
        Ok((file, None))
    }

    async fn push(
        &self,
        mut file: IncomingFile,
        mut buffer: PieceBuffer,
    ) -> Result<(IncomingFile, PieceBuffer, bool), Stop> {
        let count = u64::try_from(buffer.count()).unwrap_or(0);
        let done = on_disk(DISK_WAIT, move || {
            let right = file.push(&mut buffer)?;
            Ok((file, buffer, right))
        });
        let done = done.await?;
        self.shop.counters.bytes_stored.fetch_add(count, Ordering::Relaxed);
        Ok(done)
    }

    /// Asks for a range and checks that it is what comes.
    async fn start_range(&self, index: usize, first: u64, last: u64) -> Result<Transfer, Fault> {
        let source = self.attempt.source(index).ok_or_else(no_source)?;
        let range = format!("bytes={first}-{last}");
        let request = request(&source.url, source, Some(&range))?;
        let answer = self.shop.http.send(request).await.map_err(fault_of)?;
        check_range(&answer, first, last, self.job.bytes)?;
        Ok(Transfer::new(answer.into_body()))
    }

    async fn fill(
        &self,
        body: &mut Transfer,
        rest: &mut Bytes,
        buffer: &mut PieceBuffer,
        count: usize,
    ) -> Result<(), Fault> {
        while buffer.count() < count {
            if rest.is_empty() {
                *rest = self.shop.http.next(body).await.map_err(fault_of)?.ok_or(Fault::ShortBody)?;
            }
            let left = buffer.fill(rest, count).len();
            *rest = rest.slice(rest.len() - left..);
        }
        Ok(())
    }

    fn note(&mut self, index: usize, fault: &Fault) {
        let url = self.attempt.source(index).map_or("", |source| source.url.as_str());
        match fault {
            Fault::BadPiece(_) => rot::found(RotPlace::SourcePiece, url, fault, CURE),
            Fault::BadTree(_) => rot::found(RotPlace::SourceTree, url, fault, CURE),
            _ => tracing::warn!(object = %self.job.object, url, "the source failed: {fault}"),
        }
        self.shop.counters.faults.fetch_add(1, Ordering::Relaxed);
        let now = self.shop.clock.now();
        self.attempt.failed(index, fault, &mut lock(&self.shop.hosts), now);
    }
}

const CURE: &str = "none needed here: another source is tried. If this is the origin, its copy is rotten: move the \
                    file away there and publish the title again";

/// A panic elsewhere leaves the penalties as they were; they are hints.
fn lock(hosts: &Mutex<Hosts>) -> std::sync::MutexGuard<'_, Hosts> {
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_source() -> Fault {
    Fault::Unusable("it has no such address".to_owned())
}

fn request(url: &str, source: &FillSource, range: Option<&str>) -> Result<Request<Full<Bytes>>, Fault> {
    if !url.starts_with("http://") {
        return Err(Fault::Unusable(format!("{url:?} is no http:// address")));
    }
    let mut request = Request::builder().uri(url);
    for (name, value) in &source.headers {
        request = request.header(name, value);
    }
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    request.body(Full::default()).map_err(|cause| Fault::Unusable(cause.to_string()))
}

fn fault_of(error: HttpError) -> Fault {
    match error {
        HttpError::Unreachable(what) => Fault::Unreachable(what),
        HttpError::Stalled(wait) => Fault::Stalled(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        slow @ HttpError::TooSlow { .. } => Fault::TooSlow(slow.to_string()),
        HttpError::Cut(_) => Fault::ShortBody,
        HttpError::TooLong(_) => Fault::BadTree("longer than the object's size allows".to_owned()),
    }
}

// RFC 9110 15.3.7: a 206 to one range says which it carries; 14.2: a server may ignore Range and answer 200, which
// is as good only if everything was asked for.
fn check_range(answer: &Response<Incoming>, first: u64, last: u64, size: u64) -> Result<(), Fault> {
    let status = answer.status();
    if status == StatusCode::OK && first == 0 && last.checked_add(1) == Some(size) {
        return Ok(());
    }
    if status.is_success() && status != StatusCode::PARTIAL_CONTENT {
        return Err(Fault::WrongRange(format!("status {status}")));
    }
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(Fault::Status(status.as_u16()));
    }
    let says = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let count = (last - first).saturating_add(1);
    let announced = answer.body().size_hint().exact();
    if says != format!("bytes {first}-{last}/{size}") {
        Err(Fault::WrongRange(format!("Content-Range {:?}", says.chars().take(80).collect::<String>())))
    } else if let Some(other) = announced.filter(|announced| *announced != count) {
        Err(Fault::WrongRange(format!("a body of {other} bytes for {count}")))
    } else {
        Ok(())
    }
}
