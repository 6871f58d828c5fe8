//! Which volumes are there, and what follows when one goes or comes back.
//!
//! ```text
//!   Away (missing, failed, refused by the server) ──probe ok──> Scanning ──scan ok──> Usable
//!     ^──────────────── probe or write fails, uuid changes ─────────┴───────────────────┘
//! ```
//!
//! A volume that can be read and not written to is usable: what it holds stays, and nothing is put on it. It is scanned
//! anew when it can be written to again: what could not be removed meanwhile is found.
//!
//! What a volume held is withdrawn the moment it is away; when it is back its files are found by the scan and, if
//! still wanted, held again once they have been read in full.

use content::control_socket::ServerStatus;
use content::report::VolumeState;
use content::volume::VolumeId;

use super::{Action, Core};
use crate::clock::Now;
use crate::plan::{Space, room_to_pull};
use crate::volumes::{Probed, Scan, VolumeFault};

/// After a write failed, the volume is left alone for this long; twice as long each time, until something was stored
/// on it or its disk was taken away.
const FAILED_MS: u64 = 10_000;
const FAILED_MS_MAX: u64 = 5 * 60_000;
/// So long the server must refuse a volume before its objects are withdrawn from the catalogue: a volume that was
/// just made is unknown to it for a second. The report says at once that they are not served.
const UNUSABLE_MS: u64 = 3_000;

/// What an operator reads of a volume that can be read only.
pub(super) const READ_ONLY: &str = "cannot be written to: what it holds is served on and nothing is put on it. If nobody mounted it so, its disk has a \
     fault (dmesg): replace it, or mount it read-write again";

/// At the start, nothing is pulled, published or unlinked before every volume has been read, or for so long: what lies
/// on them need not be pulled. One that takes longer, or comes later, holds nothing up: it is left out while it is read.
const SETTLE_MS: u64 = 30_000;

#[derive(Debug)]
pub(super) struct State {
    pub slots: Vec<Slot>,
    /// The wait at the start is over.
    pub ready: bool,
    first_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// As last seen.
    pub uuid: Option<VolumeId>,
    pub stage: Stage,
    pub bytes_total: u64,
    pub bytes_free: u64,
    /// Why it is away.
    pub reason: String,
    pub seen: Seen,
    pub read_only: bool,
    /// A write was refused, whatever the filesystem says of itself.
    read_only_until_ms: u64,
    failed_until_ms: u64,
    /// In a row.
    failures: u32,
    unusable_since_ms: Option<u64>,
}

#[cfg(test)]
impl Slot {
    pub fn usable(uuid: VolumeId, bytes_free: u64) -> Self {
        Self { uuid: Some(uuid), stage: Stage::Usable, bytes_free, ..Self::default() }
    }
}

/// `content`'s state of a volume, plus the time before the first look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Seen {
    #[default]
    Unknown,
    Is(VolumeState),
}

impl Seen {
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Is(VolumeState::Ok | VolumeState::ReadOnly))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Away,
    ToScan,
    Scanning,
    Usable,
}

impl State {
    pub fn new(uuids: impl Iterator<Item = Option<VolumeId>>) -> Self {
        let slots = uuids.map(|uuid| Slot { uuid, ..Slot::default() }).collect();
        Self { slots, ready: false, first_ms: None }
    }

    pub fn slot_of(&self, uuid: VolumeId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.uuid == Some(uuid) && slot.stage == Stage::Usable)
    }

    pub fn is_writable(&self, uuid: VolumeId) -> bool {
        self.slot_of(uuid).is_some_and(|slot| !self.slots[slot].read_only)
    }

    pub fn writable(&self) -> Vec<VolumeId> {
        let writable = self.slots.iter().filter(|slot| slot.stage == Stage::Usable && !slot.read_only);
        writable.filter_map(|slot| slot.uuid).collect()
    }

    /// As last seen, less what is spoken for.
    pub fn free_on(&self, uuid: VolumeId) -> u64 {
        self.slots.iter().find(|slot| slot.uuid == Some(uuid)).map_or(0, |slot| slot.bytes_free)
    }

    pub fn any_usable(&self) -> bool {
        self.slots.iter().any(|slot| slot.stage == Stage::Usable)
    }

    /// Every volume has been looked at, and every one that is there has been read.
    pub fn settled(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| slot.seen != Seen::Unknown && !matches!(slot.stage, Stage::ToScan | Stage::Scanning))
    }

    fn wait_to_settle(&mut self, now: Now) {
        let since = now.ms.saturating_sub(*self.first_ms.get_or_insert(now.ms));
        if !self.ready && (self.settled() || since >= SETTLE_MS) {
            self.ready = true;
            if !self.settled() {
                tracing::warn!(
                    after_ms = since,
                    "a volume is still being read: the others are used without it"
                );
            }
        }
    }
}

impl Slot {
    fn next_wait_ms(&mut self) -> u64 {
        let wait = FAILED_MS.saturating_mul(1 << self.failures.min(16)).min(FAILED_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

impl Core {
    pub(super) fn drive_volumes(&mut self, now: Now, actions: &mut Vec<Action>) {
        for (slot, volume) in self.volumes.slots.iter_mut().enumerate() {
            let Some(uuid) = volume.uuid.filter(|_| volume.stage == Stage::ToScan) else { continue };
            volume.stage = Stage::Scanning;
            let known = self.shelf.files_on(uuid);
            actions.push(Action::Scan { slot, uuid, known });
        }
        self.volumes.wait_to_settle(now);
    }

    pub(super) fn on_probed(&mut self, volumes: Vec<Result<Probed, VolumeFault>>, now: Now) {
        for (slot, probe) in volumes.into_iter().enumerate() {
            let twin = probe.as_ref().is_ok_and(|probed| self.is_twin(slot, probed.uuid));
            match probe {
                Ok(probed) if twin => {
                    let what = format!("uuid {} is at another path too: one of them is a copy", probed.uuid);
                    self.lose_slot(slot, VolumeState::Failed, &what);
                }
                Ok(probed) => self.on_volume_there(slot, &probed, now),
                Err(VolumeFault::Missing(what)) => self.lose_slot(slot, VolumeState::Missing, &what),
                Err(VolumeFault::Failed(what)) => self.lose_slot(slot, VolumeState::Failed, &what),
                Err(fault @ VolumeFault::InUse { .. }) => {
                    self.lose_slot(slot, VolumeState::Failed, &fault.to_string());
                }
            }
        }
        self.drop_vanished();
    }

    fn is_twin(&self, slot: usize, uuid: VolumeId) -> bool {
        let earlier = self.volumes.slots.iter().take(slot);
        let mut there = earlier.filter(|other| other.stage != Stage::Away);
        there.any(|other| other.uuid == Some(uuid))
    }

    fn on_volume_there(&mut self, slot: usize, probed: &Probed, now: Now) {
        let changed = self.volumes.slots[slot].uuid.is_some_and(|old| old != probed.uuid);
        if changed {
            self.lose_slot(slot, VolumeState::Missing, "another volume is at its path now");
            self.volumes.slots[slot].unusable_since_ms = None;
        }
        let reserved = self.fill.reserved(probed.uuid).saturating_add(self.pack.reserved(probed.uuid));
        let unusable = self.server.as_ref().is_some_and(|status| refuses(status, probed.uuid));
        let volume = &mut self.volumes.slots[slot];
        volume.uuid = Some(probed.uuid);
        volume.bytes_total = probed.bytes_total;
        let free = probed.bytes_free.saturating_sub(reserved);
        if free > volume.bytes_free {
            self.fill.room_grew = true;
        }
        volume.bytes_free = free;
        if volume.unusable_since_ms.is_some() && !unusable {
            self.fill.room_grew = true;
        }
        volume.unusable_since_ms = unusable.then(|| volume.unusable_since_ms.unwrap_or(now.ms));
        if volume.unusable_since_ms.is_some_and(|since| now.ms >= since.saturating_add(UNUSABLE_MS)) {
            let why = why_refused(self.server.as_ref(), probed.uuid);
            return self.lose_slot(slot, VolumeState::Failed, why);
        }
        if now.ms < volume.failed_until_ms {
            return;
        }
        if volume.stage == Stage::Away {
            volume.stage = Stage::ToScan;
            volume.reason.clear();
        }
        let read_only = probed.read_only || now.ms < volume.read_only_until_ms;
        self.set_read_only(slot, read_only);
    }

    fn set_read_only(&mut self, slot: usize, read_only: bool) {
        let volume = &mut self.volumes.slots[slot];
        volume.seen = Seen::Is(if read_only { VolumeState::ReadOnly } else { VolumeState::Ok });
        if volume.read_only == read_only {
            return;
        }
        volume.read_only = read_only;
        let path = self.settings.volumes.get(slot).map(|(path, _)| path.display().to_string());
        if read_only {
            tracing::error!(volume = path, "{READ_ONLY}");
        } else {
            tracing::info!(volume = path, "the volume can be written to again");
            self.fill.room_grew = true;
            if volume.stage == Stage::Usable {
                volume.stage = Stage::ToScan;
            }
        }
    }

    /// A write was refused: as if the filesystem had said so itself, for a while.
    pub(super) fn refuse_writes(&mut self, uuid: VolumeId, now: Now) {
        if let Some(slot) = self.volumes.slot_of(uuid) {
            let volume = &mut self.volumes.slots[slot];
            volume.read_only_until_ms = now.ms.saturating_add(volume.next_wait_ms());
            self.set_read_only(slot, true);
        }
    }

    /// Something was stored on it.
    pub(super) fn volume_worked(&mut self, uuid: VolumeId) {
        if let Some(slot) = self.volumes.slot_of(uuid) {
            self.volumes.slots[slot].failures = 0;
        }
    }

    /// What the catalogue names on volumes that no configured path leads to is withdrawn, once all have been looked at.
    fn drop_vanished(&mut self) {
        let there: Vec<_> = self
            .volumes
            .slots
            .iter()
            .filter(|slot| slot.stage != Stage::Away)
            .filter_map(|slot| slot.uuid)
            .collect();
        let mut gone: Vec<_> = self.shelf.held().values().map(|held| held.uuid).collect();
        gone.sort_unstable();
        gone.dedup();
        for uuid in gone.into_iter().filter(|uuid| !there.contains(uuid)) {
            let objects = self.shelf.lose_volume(uuid);
            tracing::error!(volume = %uuid, objects, "a volume is gone: its objects are withdrawn and pulled again");
            self.publish.urgent = true;
            self.fill.stale = true;
        }
    }

    fn lose_slot(&mut self, slot: usize, state: VolumeState, reason: &str) {
        let volume = &mut self.volumes.slots[slot];
        let news = volume.seen != Seen::Is(state) || volume.reason != reason;
        volume.seen = Seen::Is(state);
        volume.stage = Stage::Away;
        reason.clone_into(&mut volume.reason);
        if state == VolumeState::Missing {
            // Somebody took it away: what comes back is not what failed.
            (volume.failures, volume.failed_until_ms, volume.read_only_until_ms) = (0, 0, 0);
        }
        if news {
            let path = self.settings.volumes.get(slot).map(|(path, _)| path.display().to_string());
            tracing::error!(volume = path, "volume lost: {reason}");
        }
        let Some(uuid) = volume.uuid else { return };
        if self.shelf.lose_volume(uuid) > 0 {
            self.publish.urgent = true;
        }
        self.fill.forget_volume(uuid);
        self.pack.forget_volume(uuid);
    }

    /// A write or a look at the volume went wrong.
    pub(super) fn fail_volume(&mut self, uuid: VolumeId, reason: &str, now: Now) {
        let slot = self.volumes.slots.iter().position(|slot| slot.uuid == Some(uuid));
        let Some(slot) = slot else { return };
        let volume = &mut self.volumes.slots[slot];
        volume.failed_until_ms = now.ms.saturating_add(volume.next_wait_ms());
        self.lose_slot(slot, VolumeState::Failed, reason);
    }

    pub(super) fn on_scanned(&mut self, slot: usize, scan: Result<Scan, String>, now: Now) {
        let volume = &mut self.volumes.slots[slot];
        let Some(uuid) = volume.uuid.filter(|_| volume.stage == Stage::Scanning) else { return };
        match scan {
            Err(reason) => self.fail_volume(uuid, &reason, now),
            Ok(scan) => {
                volume.stage = Stage::Usable;
                self.take_scan(uuid, scan);
            }
        }
    }

    fn take_scan(&mut self, uuid: VolumeId, scan: Scan) {
        tracing::info!(
            volume = %uuid,
            strangers = scan.strangers.len(),
            missing = scan.missing.len(),
            unfinished = scan.partials.len(),
            "volume is usable"
        );
        for file in &scan.missing {
            tracing::error!(volume = %file.uuid, file = file.file, "a file that the catalogue names is not there whole");
            self.shelf.missing(file);
            self.publish.urgent = true;
        }
        for stranger in scan.strangers {
            self.shelf.found(uuid, stranger);
        }
        for partial in scan.partials {
            self.shelf.numbers_above(partial.number);
            if partial.ready {
                self.put_ready(uuid, partial);
            } else {
                self.fill.resume(uuid, partial);
            }
        }
        self.fill.stale = true;
    }

    /// The volumes that objects may be put on, and would be served from.
    pub(super) fn spaces(&self) -> Vec<Space> {
        let slots = self.volumes.slots.iter();
        let usable = slots.filter(|slot| {
            slot.stage == Stage::Usable && slot.unusable_since_ms.is_none() && !slot.read_only
        });
        usable
            .filter_map(|slot| {
                let uuid = slot.uuid?;
                Some(Space { uuid, bytes_total: slot.bytes_total, bytes_free: slot.bytes_free })
            })
            .collect()
    }

    pub(super) fn take_space(&mut self, uuid: VolumeId, bytes: u64) {
        if let Some(slot) = self.volumes.slots.iter_mut().find(|slot| slot.uuid == Some(uuid)) {
            slot.bytes_free = slot.bytes_free.saturating_sub(room_to_pull(bytes));
        }
    }

    /// The disk said that it is full, whatever we believed.
    pub(super) fn no_space(&mut self, uuid: VolumeId) {
        if let Some(slot) = self.volumes.slots.iter_mut().find(|slot| slot.uuid == Some(uuid)) {
            slot.bytes_free = 0;
        }
    }
}

/// What lies on the volume is not served: the server cannot read from it, or does not know it (it takes a disk that
/// replaced another only when it is started anew). A server that serves nothing yet has not looked.
pub(super) fn refuses(status: &ServerStatus, uuid: VolumeId) -> bool {
    status.generation > 0 && !status.volumes.iter().any(|volume| volume.uuid == uuid && volume.usable)
}

fn why_refused(status: Option<&ServerStatus>, uuid: VolumeId) -> &'static str {
    let knows = |status: &ServerStatus| status.volumes.iter().any(|volume| volume.uuid == uuid);
    if status.is_some_and(knows) {
        "the server cannot read from it"
    } else {
        "the server does not know it: if this disk replaced another, restart the server"
    }
}
