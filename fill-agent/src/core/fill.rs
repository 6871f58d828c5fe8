//! What is pulled next, where to, and from whom: the delta in order of worth, so many at a time.
//!
//! ```text
//!   queued ──sources known, a volume has room──> active ──stored──> held; small: ready (`pack`)
//!     ^  └─ a spare file has it: checked instead of pulled              │
//!     └───────────── no source, disk full, volume failed (later) ──────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use content::control_socket::FileName;
use content::fill::{FILL_REQUEST_OBJECTS_MAX, FillAnswer, FillSource};
use content::id::ObjectId;
use content::pack::SMALL_BELOW_BYTES;
use content::volume::VolumeId;

use super::reasons::Numberless;
use super::{Action, Core, Retry};
use crate::clock::Now;
use crate::control::ControlError;
use crate::download::{Job, Outcome, Work};
use crate::incoming::Partial;
use crate::plan::{Held, choose, room_to_pull};
use crate::sources::until_open_ms;
use crate::volumes::Found;

/// So far ahead of the downloads sources are asked for.
const SOURCES_AHEAD: usize = 64;
/// What a source wants in its headers may expire.
const SOURCES_KEPT_MS: u64 = 5 * 60_000;
/// Sources that all open later than this are worth a word: the wait is planned, or a clock is wrong.
const CLOSED_MS: u64 = 10_000;
/// An object that could not be pulled is tried again after this long, doubling up to [`TROUBLE_MS_MAX`].
const TROUBLE_MS: u64 = 1_000;
const TROUBLE_MS_MAX: u64 = 60_000;
/// From so many failures on, an operator should look.
const TROUBLE_SERIOUS: u32 = 3;
const NO_ROOM: &str = "free space on a volume, add one, or ask less of this box; `oca-fill plan` lists what does not fit. \
                       What is held is served on, and the rest follows when there is room";
/// So many of the queue are looked at in one step; the rest is worth less and comes later.
const LOOK_AHEAD: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct State {
    /// By rank: manifest minus what is held minus what is active.
    queue: BTreeMap<u32, ObjectId>,
    active: BTreeMap<ObjectId, Active>,
    sources: BTreeMap<ObjectId, KnownSources>,
    ask: Retry,
    trouble: BTreeMap<ObjectId, Trouble>,
    /// How often it was said that no source may be used yet; 0 again when one may.
    closed_said: u32,
    /// Unfinished downloads that can go on, on usable volumes.
    partials: BTreeMap<ObjectId, (VolumeId, Partial)>,
    /// None: the usual.
    pub numberless: Option<Numberless>,
    /// That there is no room was said; until something is stored, it is not said again.
    room_said: bool,
    /// Found to have no room at the last look.
    unplaced: BTreeSet<ObjectId>,
    /// Manifest, volumes or holdings changed: the queue is to be made anew.
    pub stale: bool,
    /// Downloads given up for another volume: their files are to be removed.
    dead: Vec<FileName>,
    pub room_grew: bool,
}

#[derive(Debug)]
struct Active {
    at: FileName,
    bytes: u64,
    adopts: bool,
    cancelled: bool,
}

#[derive(Debug)]
struct KnownSources {
    sources: Vec<FillSource>,
    asked_ms: u64,
    /// None of them opened within [`CLOSED_MS`].
    closed: bool,
}

#[derive(Debug)]
struct Trouble {
    /// The last one's.
    reason: String,
    failures: u32,
    not_before_ms: u64,
}

impl State {
    /// Bytes that active downloads may still take up on a volume, at most.
    pub fn reserved(&self, uuid: VolumeId) -> u64 {
        let here = self.active.values().filter(|active| active.at.uuid == uuid && !active.adopts);
        here.map(|active| room_to_pull(active.bytes)).sum()
    }

    pub fn forget_volume(&mut self, uuid: VolumeId) {
        self.partials.retain(|_, (on, _)| *on != uuid);
        self.stale = true;
    }

    /// Of two, the one that was there first goes on.
    pub fn resume(&mut self, uuid: VolumeId, partial: Partial) {
        let (object, file) = (partial.object, FileName { uuid, file: partial.number });
        match self.active.get(&object) {
            Some(active) if active.at == file => return,
            Some(_) => return self.dead.push(file),
            None if self.partials.contains_key(&object) => return self.dead.push(file),
            None => {}
        }
        self.partials.insert(object, (uuid, partial));
    }

    /// What lies in `incoming/` under this number is of no use any more.
    pub fn discard_later(&mut self, file: FileName) {
        self.dead.push(file);
    }

    pub fn is_active_file(&self, file: &FileName) -> bool {
        self.active.values().any(|active| active.at == *file)
    }

    /// Nothing is under way: all that could be pulled has been, or waits for something.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && !self.ask.in_flight && !self.stale
    }

    #[cfg(test)]
    pub fn closed_said(&self) -> u32 {
        self.closed_said
    }

    #[cfg(test)]
    pub fn active_count(&self) -> usize {
        self.active.len()
    }

    /// What an operator should look at.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.unplaced.is_empty() {
            let count = self.unplaced.len();
            reasons.push(format!("{count} of the objects that are asked for fit on no volume: {NO_ROOM}"));
        }
        // Once may be a plan; to be asked again and still be closed is none.
        if self.closed_said > 1 {
            let what = "no source may be used yet, asked twice: the clock of the control plane may be wrong";
            reasons.push(what.to_owned());
        }
        let serious = |trouble: &&Trouble| trouble.failures >= TROUBLE_SERIOUS;
        let count = self.trouble.values().filter(serious).count();
        if let Some(trouble) = self.trouble.values().find(serious) {
            reasons.push(format!(
                "{count} objects cannot be pulled, again and again; one of them: {}. It goes on trying: see that the \
                 origin and the control plane are well, and that this box reaches them",
                trouble.reason
            ));
        }
        reasons
    }
}

impl Core {
    pub(super) fn drive_fill(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.control.desired.is_none() {
            return;
        }
        if std::mem::take(&mut self.fill.stale) {
            self.make_queue(actions);
        }
        if std::mem::take(&mut self.fill.room_grew) {
            self.fill.unplaced.clear();
        }
        for file in std::mem::take(&mut self.fill.dead) {
            if let Some(volume) = self.volume_path(file.uuid) {
                actions.push(Action::Discard { volume, number: file.file });
            }
        }
        self.take_numbers(now, actions);
        self.start_jobs(now, actions);
        self.ask_sources(now, actions);
    }

    fn take_numbers(&mut self, now: Now, actions: &mut Vec<Action>) {
        let least = self.shelf.next_file();
        if let Some(numberless) = self.fill.numberless.as_mut().filter(|without| without.retry.ready(now)) {
            numberless.retry.begin();
            actions.push(Action::TakeNumbers { least });
        }
    }

    pub(super) fn on_numbers(&mut self, answer: Result<u64, String>, now: Now) {
        match (answer, &mut self.fill.numberless) {
            (Ok(first), _) => {
                tracing::info!("the state folder can be written to again: pulling goes on");
                self.shelf.numbers_above(first.saturating_sub(1));
                self.fill.numberless = None;
            }
            (Err(reason), Some(numberless)) => {
                numberless.reason = reason;
                numberless.retry.fail(now);
            }
            (Err(_), None) => {}
        }
    }

    /// The queue from the delta; cancels and discards what is not wanted any more.
    fn make_queue(&mut self, actions: &mut Vec<Action>) {
        let Some(desired) = &self.control.desired else { return };
        let (fill, pack) = (&mut self.fill, &self.pack);
        let there = |object: &ObjectId| self.shelf.holds(object) || pack.is_ready(object);
        fill.queue = desired
            .objects
            .iter()
            .filter(|(object, _)| !there(object) && !fill.active.contains_key(object))
            .map(|(object, wanted)| (wanted.rank, *object))
            .collect();
        fill.unplaced.clear();
        // An object may have come another way: in a pack that a volume brought back.
        fill.trouble.retain(|object, _| desired.wants(object) && !there(object));
        fill.sources.retain(|object, _| desired.wants(object));
        for (object, active) in &mut fill.active {
            if !desired.wants(object) && !active.cancelled {
                active.cancelled = true;
                actions.push(Action::Cancel(*object));
            }
        }
        let useless: Vec<_> = fill
            .partials
            .iter()
            .filter(|(object, (_, partial))| {
                let wanted = desired.objects.get(object).is_some_and(|wanted| wanted.bytes == partial.bytes);
                (!wanted || self.shelf.holds(object)) && !fill.active.contains_key(object)
            })
            .map(|(object, _)| *object)
            .collect();
        useless.iter().for_each(|object| self.discard_partial(object, actions));
        self.discard_ready(actions);
    }

    fn discard_partial(&mut self, object: &ObjectId, actions: &mut Vec<Action>) {
        let Some((uuid, partial)) = self.fill.partials.remove(object) else { return };
        if let Some(volume) = self.volume_path(uuid) {
            actions.push(Action::Discard { volume, number: partial.number });
        }
    }

    /// Volumes are read first, for a while: what lies on them need not be pulled.
    fn start_jobs(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.volumes.ready {
            return;
        }
        let candidates: Vec<_> =
            self.fill.queue.iter().take(LOOK_AHEAD).map(|(rank, id)| (*rank, *id)).collect();
        for (rank, object) in candidates {
            if self.fill.active.len() >= self.settings.downloads_max {
                return;
            }
            if let Some(job) = self.next_job(object, now) {
                let adopts = job.work == Work::Adopt;
                let active = Active { at: job.at.clone(), bytes: job.bytes, adopts, cancelled: false };
                self.fill.queue.remove(&rank);
                self.fill.active.insert(object, active);
                actions.push(Action::Start(job));
            }
        }
    }

    /// None: not now.
    fn next_job(&mut self, object: ObjectId, now: Now) -> Option<Job> {
        let bytes = self.control.desired.as_ref()?.objects.get(&object)?.bytes;
        let waits = self.fill.trouble.get(&object).is_some_and(|trouble| now.ms < trouble.not_before_ms);
        if waits || self.fill.unplaced.contains(&object) {
            return None;
        }
        let usable = |uuid| self.volumes.slot_of(uuid).is_some();
        if let Some((file, spare)) = self.shelf.adoptable(&object, usable) {
            match &spare.found {
                Found::Object(_) if spare.data_bytes == bytes => {
                    let volume = self.volume_path(file.uuid)?;
                    return Some(Job { object, bytes, at: file.clone(), volume, work: Work::Adopt });
                }
                // `pack` has it checked; then it is held, or not to be had from there.
                Found::Pack(_) => return None,
                Found::Object(_) | Found::Unknown => {}
            }
        }
        let known = self.fill.sources.get(&object)?;
        let open = known.sources.iter().any(|source| until_open_ms(source, now) == 0);
        if !open || now.ms >= known.asked_ms.saturating_add(SOURCES_KEPT_MS) {
            return None;
        }
        if self.fill.numberless.is_some() {
            return None;
        }
        let sources = known.sources.clone();
        let at = self.place(object, bytes)?;
        let volume = self.volume_path(at.uuid)?;
        Some(Job { object, bytes, at, volume, work: Work::Pull(sources) })
    }

    /// Where an earlier attempt began, or on the volume with the most room, under a new number.
    fn place(&mut self, object: ObjectId, bytes: u64) -> Option<FileName> {
        let begun = self.fill.partials.get(&object);
        if let Some((uuid, partial)) = begun.filter(|(uuid, _)| self.volumes.is_writable(*uuid)) {
            return Some(FileName { uuid: *uuid, file: partial.number });
        }
        let spaces = self.spaces();
        let Some(space) = choose(&spaces, bytes).and_then(|index| spaces.get(index)) else {
            tracing::debug!(%object, bytes, "no volume has room for it");
            if !std::mem::replace(&mut self.fill.room_said, true) {
                tracing::error!(%object, bytes, "no volume has room for what is asked for: {NO_ROOM}");
            }
            self.fill.unplaced.insert(object);
            return None;
        };
        let file = self.shelf.take_number();
        self.take_space(space.uuid, bytes);
        Some(FileName { uuid: space.uuid, file })
    }

    fn ask_sources(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.fill.ask.ready(now) {
            return;
        }
        let Some(desired) = &self.control.desired else { return };
        let fill = &self.fill;
        let lacks = |object: &ObjectId| {
            let waits = fill.trouble.get(object).is_some_and(|trouble| now.ms < trouble.not_before_ms);
            let known = fill.sources.get(object);
            let old = known.is_none_or(|known| now.ms >= known.asked_ms.saturating_add(SOURCES_KEPT_MS));
            old && !waits && !fill.unplaced.contains(object)
        };
        let objects: Vec<_> = fill
            .queue
            .values()
            .take(SOURCES_AHEAD.min(FILL_REQUEST_OBJECTS_MAX))
            .filter(|object| lacks(object))
            .filter_map(|object| Some((*object, desired.objects.get(object)?.paths.first()?.1.clone())))
            .collect();
        if !objects.is_empty() {
            self.fill.ask.begin();
            actions.push(Action::AskSources { objects });
        }
    }

    pub(super) fn on_sources(
        &mut self,
        asked: &[ObjectId],
        answer: Result<FillAnswer, ControlError>,
        now: Now,
    ) {
        match answer {
            Ok(answer) => {
                self.fill.ask.succeed(now);
                self.take_sources(asked, answer, now);
            }
            Err(error) => {
                self.fill.ask.fail(now);
                tracing::warn!("{error}");
            }
        }
    }

    fn take_sources(&mut self, asked: &[ObjectId], answer: FillAnswer, now: Now) {
        let mut given: BTreeMap<_, _> =
            answer.objects.into_iter().map(|given| (given.path.object, given.sources)).collect();
        let (mut closed, mut again) = (Vec::new(), false);
        for object in asked {
            let sources = given.remove(object).unwrap_or_default();
            let Some(opens_ms) = sources.iter().map(|source| until_open_ms(source, now)).min() else {
                self.trouble(*object, "no source has it", now);
                continue;
            };
            let is_closed = opens_ms > CLOSED_MS;
            let known = KnownSources { sources, asked_ms: now.ms, closed: is_closed };
            let before = self.fill.sources.insert(*object, known);
            if is_closed {
                closed.push(opens_ms);
                again |= before.is_some_and(|before| before.closed);
            } else {
                self.fill.closed_said = 0;
            }
        }
        if let Some(opens_ms) = closed.iter().min()
            && (self.fill.closed_said == 0 || again)
        {
            self.fill.closed_said = self.fill.closed_said.saturating_add(1);
            tracing::warn!(
                objects = closed.len(),
                opens_in_s = opens_ms / 1_000,
                clock_of_this_box = %now.wall,
                "no source may be used yet: the not_before of each lies in the future. If that is not planned, the \
                 clock of this box or of the control plane is wrong: set it by NTP"
            );
        }
    }

    fn trouble(&mut self, object: ObjectId, reason: &str, now: Now) {
        let new = Trouble { reason: String::new(), failures: 0, not_before_ms: 0 };
        let trouble = self.fill.trouble.entry(object).or_insert(new);
        reason.clone_into(&mut trouble.reason);
        let wait = TROUBLE_MS.saturating_mul(1 << trouble.failures.min(16)).min(TROUBLE_MS_MAX);
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.not_before_ms = now.ms.saturating_add(wait);
        tracing::warn!(%object, again_in_ms = wait, "not pulled: {reason}");
    }

    pub(super) fn on_job_ended(&mut self, object: ObjectId, outcome: Outcome, now: Now) {
        let Some(active) = self.fill.active.remove(&object) else { return };
        let at = Held { uuid: active.at.uuid, file: active.at.file, bytes: active.bytes, packed_at: None };
        self.fill.sources.remove(&object);
        match outcome {
            Outcome::Stored => self.on_stored(object, at, active.adopts),
            Outcome::NoSource(reason) => {
                self.keep_partial(object, &active);
                self.trouble(object, &reason, now);
            }
            Outcome::DiskFull => {
                tracing::warn!(volume = %at.uuid, "the volume is full: another one is tried");
                self.fill.partials.remove(&object);
                self.fill.dead.push(active.at.clone());
                self.no_space(at.uuid);
            }
            Outcome::ReadOnly => {
                // What was begun there stays until the volume can be written to, and is found by its scan.
                self.fill.partials.remove(&object);
                self.refuse_writes(at.uuid, now);
            }
            Outcome::VolumeFailed(reason) => self.fail_volume(at.uuid, &reason, now),
            Outcome::Damaged(reason) => self.on_damaged(object, &active, &reason, now),
            Outcome::Cancelled => self.keep_partial(object, &active),
        }
        self.requeue(object);
    }

    fn on_stored(&mut self, object: ObjectId, at: Held, adopted: bool) {
        self.fill.partials.remove(&object);
        self.fill.trouble.remove(&object);
        if self.volumes.slot_of(at.uuid).is_none() {
            // Its volume went in the meantime; should it come back, the scan finds the file.
            return;
        }
        self.volume_worked(at.uuid);
        self.fill.room_said = false;
        if at.bytes < SMALL_BELOW_BYTES && !adopted {
            let partial = Partial { number: at.file, object, bytes: at.bytes, ready: true };
            self.put_ready(at.uuid, partial);
            return;
        }
        self.shelf.hold(object, at);
        if !self.control.desired.as_ref().is_some_and(|desired| desired.wants(&object)) {
            self.shelf.release(&object, false);
        }
    }

    fn on_damaged(&mut self, object: ObjectId, active: &Active, reason: &str, now: Now) {
        if active.adopts {
            tracing::error!("not adopted: {reason}");
            self.shelf.withdraw(std::slice::from_ref(&active.at));
        } else {
            self.trouble(object, reason, now);
        }
    }

    /// What came so far stays on its volume, for the next attempt.
    fn keep_partial(&mut self, object: ObjectId, active: &Active) {
        if !active.adopts {
            let partial = Partial { number: active.at.file, object, bytes: active.bytes, ready: false };
            self.fill.partials.insert(object, (active.at.uuid, partial));
        }
    }

    fn requeue(&mut self, object: ObjectId) {
        let wanted = self.control.desired.as_ref().and_then(|desired| desired.objects.get(&object));
        match wanted {
            Some(wanted) if !self.shelf.holds(&object) && !self.pack.is_ready(&object) => {
                self.fill.queue.insert(wanted.rank, object);
            }
            // Its leftovers are discarded when the queue is made anew.
            None => self.fill.stale = true,
            Some(_) => {}
        }
    }
}
