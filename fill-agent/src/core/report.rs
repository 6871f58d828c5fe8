//! What the box says of itself: health, figures, and what it holds as exceptions to the manifest (DESIGN §5, §6).

use std::collections::{BTreeMap, BTreeSet};

use content::catalogue::Contents;
use content::control_socket::{FileName, ServerStatus};
use content::id::{CatalogueKey, MediaPath};
use content::manifest::Manifest;
use content::report::{Health, Holdings, Ordinals, Report, UNLISTED_MAX, VolumeReport, VolumeState};
use content::volume::VolumeId;

use super::publish::find;
use super::volume::{Seen, Slot};
use super::{Core, volume};
use crate::desired::Desired;
use crate::shelf::name_of;

#[derive(Debug, Default)]
pub(super) struct State {
    pub due: bool,
    sequence: u64,
    /// Which path a key stands for, of the last two manifests: a catalogue knows only keys.
    names: Vec<BTreeMap<CatalogueKey, MediaPath>>,
}

impl State {
    /// The newest first.
    pub fn remember(&mut self, manifests: &[impl std::borrow::Borrow<Manifest>]) {
        let names = |manifest: &Manifest| {
            manifest.entries.iter().map(|entry| (entry.path.key(), entry.path.clone())).collect()
        };
        let new: Vec<_> = manifests.iter().map(|manifest| names(manifest.borrow())).collect();
        self.names.splice(0..0, new);
        self.names.truncate(2);
    }

    fn path_of(&self, key: &CatalogueKey) -> Option<&MediaPath> {
        self.names.iter().find_map(|names| names.get(key))
    }
}

impl Core {
    pub(super) fn next_report(&mut self) -> Report {
        self.report.sequence = self.report.sequence.saturating_add(1);
        let status = self.server.as_ref();
        let limited_by = status.map_or("server-down", |status| status.limited_by.as_str());
        Report {
            appliance: self.settings.appliance.clone(),
            boot: self.settings.boot.clone(),
            sequence: self.report.sequence,
            health: self.health(),
            limited_by: limited_by.to_owned(),
            headroom: status.map_or(0.0, |status| status.headroom).clamp(0.0, 1.0),
            draining: status.is_some_and(|status| status.draining),
            generation: status.map_or(0, |status| status.generation),
            holds: self.holdings(),
            volumes: self.volume_reports(),
            reasons: self.reasons(),
            // Read when it is sent.
            clock: None,
            server: status.map(|status| status.figures.clone()),
            // The shell adds what it found.
            rot: BTreeMap::new(),
        }
    }

    /// The worst component decides.
    fn health(&self) -> Health {
        if self.server.is_none() || (self.volumes.settled() && !self.volumes.any_usable()) {
            return Health::Failed;
        }
        if self.reasons().is_empty() { Health::Ok } else { Health::Degraded }
    }

    /// Of what the server serves now, not of what lies on the disks.
    fn holdings(&self) -> Holdings {
        let served = self.server.as_ref().and_then(|status| Some((status, self.publish.served(status)?)));
        let Some(desired) = &self.control.desired else { return Holdings::default() };
        let Some((status, contents)) = served else { return nothing_of(desired) };
        let dead = self.unserved(status, contents);
        let serves = |key: &CatalogueKey| {
            let file = find(contents, key).and_then(|entry| file_of(contents, entry.file));
            file.is_some_and(|file| !dead.files.contains(&file) && !dead.volumes.contains(&file.uuid))
        };
        let mut holdings = Holdings { manifest_version: desired.version, ..Holdings::default() };
        let mut asked = BTreeSet::new();
        for (ordinal, path) in &desired.contradictions {
            holdings.missing.0.insert(*ordinal);
            asked.insert(path.key());
        }
        for (ordinal, path) in desired.paths() {
            let key = path.key();
            if !serves(&key) {
                holdings.missing.0.insert(*ordinal);
            }
            asked.insert(key);
        }
        let unlisted =
            contents.entries.iter().filter(|entry| !asked.contains(&entry.key) && serves(&entry.key));
        let paths = unlisted.filter_map(|entry| self.report.path_of(&entry.key)).cloned();
        holdings.unlisted = paths.take(UNLISTED_MAX).collect();
        holdings
    }

    /// What the served generation names and the server cannot send all the same.
    fn unserved(&self, status: &ServerStatus, contents: &Contents) -> Unserved {
        let away = self.volumes.slots.iter().filter(|slot| !slot.seen.is_readable());
        let refused = contents.volumes.iter().filter(|uuid| volume::refuses(status, **uuid)).copied();
        let volumes = away.filter_map(|slot| slot.uuid).chain(refused).collect();
        Unserved { files: status.withdrawn.iter().cloned().collect(), volumes }
    }

    fn volume_reports(&self) -> Vec<VolumeReport> {
        let paths = self.settings.volumes.iter();
        let all = self.volumes.slots.iter().zip(paths);
        all.map(|(slot, (path, _))| self.volume_report(slot, &path.display().to_string())).collect()
    }

    fn volume_report(&self, slot: &Slot, path: &str) -> VolumeReport {
        let served = self
            .server
            .as_ref()
            .and_then(|status| status.volumes.iter().find(|served| Some(served.uuid) == slot.uuid));
        let state = match slot.seen {
            Seen::Is(state) => state,
            Seen::Unknown => VolumeState::Missing,
        };
        VolumeReport {
            // Zeros: never seen.
            uuid: slot.uuid.unwrap_or(VolumeId([0; 16])),
            path: path.to_owned(),
            state,
            bytes_total: slot.bytes_total,
            bytes_free: slot.bytes_free,
            read_errors: served.map_or(0, |served| served.read_errors),
            read_latency_us: served.map_or(0, |served| served.read_latency_us),
        }
    }
}

struct Unserved {
    files: BTreeSet<FileName>,
    volumes: BTreeSet<VolumeId>,
}

fn file_of(contents: &Contents, index: u32) -> Option<FileName> {
    let file = usize::try_from(index).ok().and_then(|index| contents.files.get(index))?;
    name_of(contents, file)
}

fn nothing_of(desired: &Desired) -> Holdings {
    let ordinals = desired.paths().chain(&desired.contradictions).map(|(ordinal, _)| *ordinal);
    let missing = Ordinals(ordinals.collect());
    Holdings { manifest_version: desired.version, missing, unlisted: Vec::new() }
}
