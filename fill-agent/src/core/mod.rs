//! The agent's decisions: `(state, event, now) -> actions`. No clock, no file, no socket; everything that takes time is
//! an [`Action`] whose end comes back as an [`Event`].
//!
//! [`Core::step`] takes the event into the state and then looks what can be begun. Each concern has its module:
//! `control` (register, manifest, keys, orders), `volume` (which disks are there), `fill` (what is pulled, and where
//! to), `pack` (small objects into packs), `publish` (the next generation, what may be unlinked), `report`.

mod control;
mod fill;
mod pack;
mod publish;
mod reasons;
mod report;
mod volume;

#[cfg(test)]
mod scenes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use content::catalogue::Contents;
use content::control_socket::{FileName, ServerRequest, ServerStatus};
use content::fill::FillAnswer;
use content::id::{ApplianceId, MediaPath, ObjectId};
use content::manifest::Manifest;
use content::report::{Orders, Registered, Report};
use content::volume::VolumeId;

use crate::clock::Now;
use crate::control::ControlError;
use crate::download::{Job, Outcome, PackCheck, PackFault};
use crate::generations::Loaded;
use crate::packing::{Checked, PackJob, Packed};
use crate::server_link::ServerError;
use crate::shelf::Shelf;
use crate::state_folder::TokenKeys;
use crate::volumes::{Probed, Scan, VolumeFault};

/// What the agent knows from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub appliance: ApplianceId,
    /// Random, new at each start.
    pub boot: String,
    pub downloads_max: usize,
    /// Paths of the volumes, as configured, and which volume was there at an earlier start.
    pub volumes: Vec<(PathBuf, Option<VolumeId>)>,
    /// While filling, a generation is published at most this often.
    pub publish_every_ms: u64,
    /// A pack is sealed when its members have so many bytes.
    pub pack_bytes: u64,
}

#[derive(Debug)]
pub enum Event {
    Tick,
    Gathered {
        server: Option<Box<ServerStatus>>,
        volumes: Vec<Result<Probed, VolumeFault>>,
    },
    Scanned {
        slot: usize,
        scan: Result<Scan, String>,
    },
    Registered(Result<Registered, ControlError>),
    Reported(Result<Orders, ControlError>),
    /// None: unchanged, or there is none.
    Manifest(Result<Option<(String, Box<Manifest>)>, ControlError>),
    Keys(Result<TokenKeys, ControlError>),
    Sources {
        asked: Vec<ObjectId>,
        answer: Result<FillAnswer, ControlError>,
    },
    JobEnded {
        object: ObjectId,
        outcome: Outcome,
    },
    /// A block of file numbers of this start, or why there is none.
    Numbers(Result<u64, String>),
    /// What could not be saved in the state folder, a sentence each; empty: all could.
    Unsaved(Vec<String>),
    Packed {
        to: FileName,
        result: Result<Packed, PackFault>,
    },
    PackChecked {
        at: FileName,
        result: Result<Checked, PackFault>,
    },
    /// The generation is on the disk and current, or not.
    Written(Result<u64, String>),
    /// The server's answer to anything but a plain status.
    Told {
        told: Tell,
        answer: Result<Box<ServerStatus>, ServerError>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Publish,
    Keys,
    Drain,
}

#[derive(Debug, PartialEq)]
pub enum Action {
    /// Ask the server how it is and look at every volume.
    Gather,
    Scan {
        slot: usize,
        uuid: VolumeId,
        known: BTreeMap<u64, u64>,
    },
    /// Take a block of file numbers, from `least` on.
    TakeNumbers {
        least: u64,
    },
    Register,
    Report(Box<Report>),
    FetchManifest {
        etag: Option<String>,
    },
    FetchKeys,
    AskSources {
        objects: Vec<(ObjectId, MediaPath)>,
    },
    Start(Job),
    Cancel(ObjectId),
    Pack(PackJob),
    CheckPack(PackCheck),
    Write(Arc<Contents>),
    Tell(Tell, ServerRequest),
    Unlink {
        volume: PathBuf,
        number: u64,
    },
    /// A download that is not wanted any more.
    Discard {
        volume: PathBuf,
        number: u64,
    },
    RemoveGenerations {
        oldest_in_use: u64,
    },
}

pub struct Core {
    settings: Settings,
    shelf: Shelf,
    control: control::State,
    volumes: volume::State,
    fill: fill::State,
    pack: pack::State,
    publish: publish::State,
    report: report::State,
    reasons: reasons::State,
    server: Option<ServerStatus>,
    /// The server has answered something else since it was last asked how it is: what it says to that may be older.
    overtaken: bool,
}

impl Core {
    pub fn new(settings: Settings, loaded: Loaded, manifests: &[Manifest], keys: Option<TokenKeys>) -> Self {
        let shelf = Shelf::new(&loaded.contents, &loaded.others);
        let mut core = Self {
            control: control::State::new(keys),
            volumes: volume::State::new(settings.volumes.iter().map(|(_, uuid)| *uuid)),
            fill: fill::State::default(),
            pack: pack::State::default(),
            publish: publish::State::new(loaded),
            report: report::State::default(),
            reasons: reasons::State::default(),
            server: None,
            overtaken: false,
            settings,
            shelf,
        };
        core.report.remember(manifests);
        if let Some(manifest) = manifests.first() {
            core.take_manifest(manifest);
        }
        core
    }

    /// The state folder gave no file numbers, because of `reason`: nothing new is pulled until it does.
    pub fn without_numbers(mut self, reason: String) -> Self {
        self.fill.numberless = Some(reasons::Numberless { retry: Retry::default(), reason });
        self
    }

    pub fn step(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.reasons.clock_off_ms = now.clock_off_ms;
        self.absorb(event, now);
        let mut actions = Vec::new();
        self.drive_control(now, &mut actions);
        self.drive_volumes(now, &mut actions);
        // After the fill: what it begins now is not the end of the delta.
        self.drive_fill(now, &mut actions);
        let due = self.publish_due(now);
        self.drive_packs(due, now, &mut actions);
        self.drive_publish(now, &mut actions);
        actions
    }

    fn absorb(&mut self, event: Event, now: Now) {
        match event {
            Event::Tick => {}
            Event::Gathered { server, volumes } => {
                self.on_gathered(server.map(|status| *status), volumes, now)
            }
            Event::Scanned { slot, scan } => self.on_scanned(slot, scan, now),
            Event::Registered(answer) => self.on_registered(answer, now),
            Event::Reported(answer) => self.on_reported(answer, now),
            Event::Manifest(answer) => self.on_manifest(answer, now),
            Event::Keys(answer) => self.on_keys(answer, now),
            Event::Sources { asked, answer } => self.on_sources(&asked, answer, now),
            Event::JobEnded { object, outcome } => self.on_job_ended(object, outcome, now),
            Event::Numbers(answer) => self.on_numbers(answer, now),
            Event::Unsaved(what) => self.reasons.unsaved = what,
            Event::Packed { to, result } => self.on_packed(&to, result, now),
            Event::PackChecked { at, result } => self.on_pack_checked(&at, result, now),
            Event::Written(result) => self.on_written(result, now),
            Event::Told { told, answer } => self.on_told(told, answer, now),
        }
    }

    fn on_gathered(
        &mut self,
        server: Option<ServerStatus>,
        volumes: Vec<Result<Probed, VolumeFault>>,
        now: Now,
    ) {
        self.report.due = true;
        self.control.gather.in_flight = false;
        self.on_probed(volumes, now);
        if !std::mem::take(&mut self.overtaken) {
            self.on_status(server);
        }
    }

    fn on_status(&mut self, server: Option<ServerStatus>) {
        if server.is_none() && self.server.is_some() {
            tracing::warn!("the server does not answer on its socket");
        }
        let uptime = |status: &ServerStatus| status.figures.uptime_ms;
        let started_anew = server.as_ref().map(uptime) < self.server.as_ref().map(uptime);
        if started_anew {
            self.forget_handed();
        }
        self.server = server;
        let Some(status) = &self.server else { return };
        self.publish.heard = true;
        self.shelf.in_use(status.oldest_in_use);
        self.shelf.in_use(status.generation);
        if status.generation > self.publish.current.generation {
            // The state folder is older than what is served: go on above it.
            self.publish.urgent = true;
        }
        let withdrawn = self.shelf.withdraw(&status.withdrawn);
        if withdrawn > 0 {
            tracing::warn!(
                objects = withdrawn,
                "the server withdrew files with bad blocks: they are pulled again, of a pack only what is spoilt"
            );
            self.publish.urgent = true;
            self.fill.stale = true;
        }
    }

    fn volume_path(&self, uuid: VolumeId) -> Option<PathBuf> {
        let slot = self.volumes.slot_of(uuid)?;
        self.settings.volumes.get(slot).map(|(path, _)| path.clone())
    }

    fn remove_file(&mut self, file: &FileName, actions: &mut Vec<Action>) {
        if let Some(volume) = self.volume_path(file.uuid) {
            self.shelf.forget_spare(file);
            actions.push(Action::Unlink { volume, number: file.file });
        }
    }
}

/// Something that is tried until it succeeds, one try at a time, each later than the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Retry {
    in_flight: bool,
    not_before_ms: u64,
    failures: u32,
}

/// Never longer than this between two tries.
const RETRY_MS_MAX: u64 = 5_000;
const RETRY_MS: u64 = 500;

impl Retry {
    fn ready(&self, now: Now) -> bool {
        !self.in_flight && now.ms >= self.not_before_ms
    }

    fn begin(&mut self) {
        self.in_flight = true;
    }

    fn succeed(&mut self, now: Now) {
        *self = Self { not_before_ms: now.ms, ..Self::default() };
    }

    fn fail(&mut self, now: Now) {
        let wait = RETRY_MS.saturating_mul(1 << self.failures.min(10)).min(RETRY_MS_MAX);
        let failures = self.failures.saturating_add(1);
        *self = Self { in_flight: false, not_before_ms: now.ms.saturating_add(wait), failures };
    }

    fn wait_until(&mut self, now: Now, ms: u64) {
        self.not_before_ms = now.ms.saturating_add(ms);
    }
}
