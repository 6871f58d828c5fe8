//! From an order to a verified block, or to the reason why there is none: the logic of a disk thread, on any
//! [`DiskIo`].
//!
//! What is wrong is put down to the file, the volume or the host, once, here:
//!
//! | seen | fault of | consequence |
//! |---|---|---|
//! | wrong checksum, footer that does not fit, another object, cut off, missing | the file | withdrawn: only a refill lifts that |
//! | EIO and its like, marker missing | the volume | the 5th in a row takes it out ([`super::verdict`]) |
//! | one read in a hundred takes over 2 s, for half a minute | the volume | it is taken out |
//! | out of descriptors or memory | the host | this read only |
//! | no generation in use names the file any more | nobody | a late read, which nobody waits for |
//!
//! A volume that is out is tested by this thread, at growing intervals, with what it failed at: only then requests come
//! again. A read that hangs keeps its block, and keeps the volume out.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use content::checksum::{PIECE_BYTES, crc32c};
use content::pack;
use content::rot::RotPlace;
use content::volume::{ALIGNMENT_BYTES, FileKind, Footer, file_name, footer_offset};
use nix::errno::Errno;

use super::files::{Files, OpenFile};
use super::verdict::{SLOW_NS, Verdict};
use super::{DiskHandle, DiskIo, READS_MAX, ReadDone, ReadPlace};
use crate::clock::Now;
use crate::holdings::{FileRef, Holdings, VolumeIndex};
use crate::memory::{BlockKey, Failure, Memory, ReadOrder};
use crate::metrics::VolumeCounters;
use crate::rot;
use crate::sys::arena::Block;
use crate::tuning::{Plant, Tuning};

/// So many files are tried before a volume is read from again.
const TESTED_MAX: usize = 5;
/// From one test to the next, at most so many times the first interval.
const RETRY_FACTOR_MAX: u64 = 64;

/// What a reader belongs to.
pub struct ReaderSetup {
    pub volume: VolumeIndex,
    pub handle: DiskHandle,
    pub memory: Arc<Memory>,
    pub holdings: Arc<Holdings>,
    pub counters: Arc<VolumeCounters>,
    pub tuning: Tuning,
}

pub struct Reader<D: DiskIo> {
    setup: ReaderSetup,
    io: D,
    files: Files<D::File>,
    /// The generation that `files` was last compared with.
    generation: u64,
    reads: [Option<Read<D::File>>; READS_MAX],
    done: Vec<ReadDone>,
    verdict: Verdict,
    /// What was asked for last.
    recent: VecDeque<FileRef>,
    out: Option<Out>,
    /// How long it was out last, in units of `tuning.volume_retry_ms`, and when it came back.
    last_out: (u64, Now),
}

/// The volume is not read from.
struct Out {
    /// It is tested then.
    test_at: Now,
    /// By so much the interval has grown.
    factor: u64,
}

struct Read<F> {
    key: BlockKey,
    open: OpenFile<F>,
    /// Into the queue: what a request waits for, and what shows that the disk is busy.
    submitted: Now,
    /// To the disk.
    started: Now,
    place: ReadPlace,
}

/// Whose fault a read's end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    File(&'static str),
    Volume(Errno),
    Host(Errno),
    /// Nobody's: the file is not held any more.
    Late,
}

impl<D: DiskIo> Reader<D> {
    pub fn new(setup: ReaderSetup, io: D) -> Self {
        let reads = std::array::from_fn(|_| None);
        let done = Vec::with_capacity(READS_MAX);
        Self {
            setup,
            io,
            files: Files::new(),
            generation: 0,
            reads,
            done,
            verdict: Verdict::default(),
            recent: VecDeque::with_capacity(TESTED_MAX),
            out: None,
            last_out: (0, Now(0)),
        }
    }

    /// Until the handle says stop.
    pub fn run(&mut self) {
        while !self.setup.handle.stopped() {
            self.turn(None);
        }
    }

    /// Starts what may start, waits, and ends what has ended. `until`: no later, whatever happens.
    pub fn turn(&mut self, until: Option<Now>) {
        self.close_unnamed();
        while let Some(slot) = self.reads.iter().position(Option::is_none) {
            let Some((order, submitted)) = self.setup.handle.next() else { break };
            self.start(slot, order, submitted);
        }
        let test_at = self.out.as_ref().map(|out| out.test_at);
        let look_at = self.verdict.next().filter(|_| self.out.is_none() && self.in_flight() > 0);
        let until = until.into_iter().chain(test_at).chain(look_at).min();
        let mut done = std::mem::take(&mut self.done);
        self.io.turn(until, &mut done);
        for end in done.drain(..) {
            self.read_ended(end);
        }
        self.done = done;
        let (now, hanging) = (self.io.now(), self.hanging());
        if self.out.is_none() && self.verdict.look(now, hanging) {
            self.take_out("its reads take longer than 2 s, for half a minute");
        }
        self.test_volume();
    }

    /// Reads that the disk has had for too long.
    fn hanging(&self) -> usize {
        let now = self.io.now().0;
        let hangs = |read: &&Read<D::File>| now.saturating_sub(read.started.0) > SLOW_NS;
        self.reads.iter().flatten().filter(hangs).count()
    }

    pub fn io(&mut self) -> &mut D {
        &mut self.io
    }

    /// Reads in flight.
    pub fn in_flight(&self) -> usize {
        self.reads.iter().flatten().count()
    }

    /// Files that only older generations name may be unlinked soon. Who still reads one opens it again.
    fn close_unnamed(&mut self) {
        let (volume, generation) = (self.setup.volume, self.setup.holdings.current());
        if generation.number() != self.generation {
            self.generation = generation.number();
            self.files.retain(|number| generation.names(volume, number));
        }
    }

    fn start(&mut self, slot: usize, order: ReadOrder, submitted: Now) {
        let ReadOrder { key, block } = order;
        self.remember(key.file);
        match self.open(key.file) {
            Ok(open) => {
                let (_, place) = self.extent(key);
                let file = open.file.clone();
                let started = self.io.now();
                self.reads[slot] = Some(Read { key, open, submitted, started, place });
                // Here and not in `memory`: a system call and fresh pages, which no worker should wait for.
                let block = block.detached(self.setup.tuning.planted);
                self.io.read(slot, &file, place, block);
            }
            Err(fault) => self.failed(ReadOrder { key, block }, fault),
        }
    }

    fn open(&mut self, file: FileRef) -> Result<OpenFile<D::File>, Fault> {
        if let Some(open) = self.files.find(file.number) {
            return Ok(open);
        }
        let Some(object) = self.setup.holdings.object_in(file) else { return Err(Fault::Late) };
        let opened = match self.io.open(file.number, file.data_bytes) {
            Ok(opened) => opened,
            // A volume that is not mounted has none of its files, and none of them is to be withdrawn for it.
            Err(Errno::ENOENT) if self.io.marker_present() => return Err(Fault::File("it is missing")),
            Err(errno) => return Err(fault_of(errno)),
        };
        let footer = Footer::parse(&opened.footer, file.data_bytes);
        let footer = footer.map_err(|_| Fault::File("its footer does not fit"))?;
        // The checksums say that the bytes are the file's; this, that the file is the one that the catalogue means.
        let is_it = match footer.kind {
            FileKind::Object => footer.digest == object,
            FileKind::Pack => pack::is_of(footer.digest, file.number),
        };
        if !is_it {
            return Err(Fault::File("it holds another object"));
        }
        let open = OpenFile { file: Rc::new(opened.file), checksums: footer.checksums.into() };
        // Else it would stay open until the next generation.
        if self.setup.holdings.current().names(file.volume, file.number) {
            self.files.insert(file.number, open.clone());
        }
        Ok(open)
    }

    /// The data that a block holds, and the read that brings them: up to the end of the file's padding.
    fn extent(&self, key: BlockKey) -> (Range<u64>, ReadPlace) {
        let block = u64::try_from(self.setup.tuning.block_bytes).expect("a block's size fits 64 bits");
        let start = key.index.saturating_mul(block);
        let end = start.saturating_add(block);
        let padded = end.min(footer_offset(key.file.data_bytes)).saturating_sub(start);
        let bytes = usize::try_from(padded).expect("not more than a block");
        (start..end.min(key.file.data_bytes), ReadPlace { file_offset: start, block_offset: 0, bytes })
    }

    fn read_ended(&mut self, end: ReadDone) {
        let Some(read) = self.reads[end.slot].take() else {
            unreachable!("a completion for a slot without a read")
        };
        let count = match end.result {
            Ok(count) => count,
            Err(errno) => return self.failed(ReadOrder { key: read.key, block: end.block }, fault_of(errno)),
        };
        if count < read.place.bytes {
            return self.read_rest(end, read, count);
        }
        let verified = self.setup.tuning.planted.has(Plant::ChecksumSkipped)
            || verify(&end.block, self.extent(read.key).0, &read.open.checksums);
        let order = ReadOrder { key: read.key, block: end.block };
        if verified {
            self.succeeded(order, &read)
        } else {
            self.failed(order, Fault::File("a checksum is wrong"))
        }
    }

    /// A short read is no error in itself: the rest is asked for, from the last aligned place on. At the file's
    /// end nothing more comes: it was cut off.
    fn read_rest(&mut self, end: ReadDone, mut read: Read<D::File>, count: usize) {
        let alignment = usize::try_from(ALIGNMENT_BYTES).expect("4096 fits a usize");
        let progress = count - count % alignment;
        if progress == 0 {
            return self.failed(ReadOrder { key: read.key, block: end.block }, Fault::File("it is cut off"));
        }
        let place = ReadPlace {
            file_offset: read.place.file_offset
                + u64::try_from(progress).expect("a block's size fits 64 bits"),
            block_offset: read.place.block_offset + progress,
            bytes: read.place.bytes - progress,
        };
        read.place = place;
        let file = read.open.file.clone();
        self.reads[end.slot] = Some(read);
        self.io.read(end.slot, &file, place, end.block);
    }

    fn succeeded(&mut self, order: ReadOrder, read: &Read<D::File>) {
        let now = self.io.now().0;
        self.verdict.read(now.saturating_sub(read.started.0));
        let bytes = u64::try_from(self.extent(order.key).1.bytes).unwrap_or(0);
        let latency_us = now.saturating_sub(read.submitted.0) / 1000;
        self.setup.counters.read_done(bytes, latency_us);
        self.setup.memory.complete(order, Ok(()));
    }

    fn failed(&mut self, order: ReadOrder, fault: Fault) {
        let file = order.key.file;
        if fault == Fault::Late {
            return self.setup.memory.complete(order, Err(Failure::Disk));
        }
        tracing::warn!(
            volume = file.volume.0,
            file = file.number,
            block = order.key.index,
            ?fault,
            "a read failed"
        );
        self.setup.counters.read_failed();
        match fault {
            Fault::File(what) => {
                let name = format!("volume {} files/{}", file.volume.0, file_name(file.number));
                rot::found(RotPlace::File, name, what, CURE);
                self.files.remove(file.number);
                self.setup.holdings.withdraw(file);
            }
            Fault::Volume(_) => self.count_failure(),
            Fault::Host(_) | Fault::Late => {}
        }
        self.setup.memory.complete(order, Err(Failure::Disk));
    }

    fn count_failure(&mut self) {
        if self.verdict.failed() && self.out.is_none() {
            self.take_out("five reads in a row failed");
        }
    }

    /// All its objects are answered 503 from now on, in one step.
    fn take_out(&mut self, why: &str) {
        let now = self.io.now();
        let interval_ns = self.setup.tuning.volume_retry_ms * 1_000_000;
        // One that fails soon after it came back is tested more seldom.
        let (factor, back) = self.last_out;
        let soon = factor > 0 && now.0.saturating_sub(back.0) < RETRY_FACTOR_MAX * interval_ns;
        let factor = if soon { (factor * 2).min(RETRY_FACTOR_MAX) } else { 1 };
        tracing::error!(
            volume = self.setup.volume.0,
            why,
            "the volume is taken out: its objects are answered 503"
        );
        self.setup.holdings.set_volume_usable(self.setup.volume, false);
        self.files.clear();
        self.out = Some(Out { test_at: Now(now.0 + factor * interval_ns), factor });
    }

    /// Requests come again if it passes, and the next failure takes it out.
    fn test_volume(&mut self) {
        let Some(Out { test_at, factor }) = self.out else { return };
        if self.io.now() < test_at {
            return;
        }
        if !self.is_well() {
            let factor = (factor * 2).min(RETRY_FACTOR_MAX);
            let interval_ns = factor * self.setup.tuning.volume_retry_ms * 1_000_000;
            self.out = Some(Out { test_at: Now(self.io.now().0 + interval_ns), factor });
            return;
        }
        tracing::info!(volume = self.setup.volume.0, "the volume passed its test: it is read from again");
        self.out = None;
        self.last_out = (factor, self.io.now());
        self.verdict = Verdict::on_trial();
        self.setup.holdings.set_volume_usable(self.setup.volume, true);
    }

    /// Nothing hangs, its marker is there, and the files that were asked for last open, all within a slow read's time.
    fn is_well(&mut self) -> bool {
        let start = self.io.now();
        let io = &mut self.io;
        let opens = |file: &FileRef| match io.open(file.number, file.data_bytes) {
            // A file that is missing is its own fault.
            Ok(_) | Err(Errno::ENOENT) => true,
            Err(errno) => !matches!(fault_of(errno), Fault::Volume(_)),
        };
        let open = self.recent.iter().all(opens);
        let quick = self.io.now().0.saturating_sub(start.0) <= SLOW_NS;
        open && quick && self.io.marker_present() && self.hanging() == 0
    }

    fn remember(&mut self, file: FileRef) {
        if self.recent.contains(&file) {
            return;
        }
        if self.recent.len() == TESTED_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(file);
    }
}

const CURE: &str = "none needed: the file is withdrawn and the agent pulls what was in it again";

/// Whether each piece of the data that the block holds has the checksum that the file's footer says.
fn verify(block: &Block, data: Range<u64>, checksums: &[u32]) -> bool {
    let piece_bytes = usize::try_from(PIECE_BYTES).expect("256 KiB fits a usize");
    let bytes = usize::try_from(data.end.saturating_sub(data.start))
        .ok()
        .and_then(|count| block.bytes().get(..count));
    let first = usize::try_from(data.start / PIECE_BYTES).ok();
    let (Some(bytes), Some(sums)) = (bytes, first.and_then(|first| checksums.get(first..))) else {
        return false;
    };
    let pieces = bytes.chunks(piece_bytes);
    pieces.len() <= sums.len() && pieces.zip(sums).all(|(piece, sum)| crc32c(piece) == *sum)
}

fn fault_of(errno: Errno) -> Fault {
    match errno {
        // EFAULT: a detached block gets its fresh pages when it is read into, and there are none.
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR | Errno::EFAULT => {
            Fault::Host(errno)
        }
        // EIO, and whatever else a filesystem says when its disk is gone: EUCLEAN, ENXIO, ENODEV, EREMOTEIO, ESTALE…
        _ => Fault::Volume(errno),
    }
}
