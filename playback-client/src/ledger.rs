//! What happened in a play, written down as it happens. Pure; [`crate::summary`] makes a report of it.

use std::collections::BTreeMap;
use std::time::Duration;

use content::id::{ApplianceId, ByteSpan, Extension, ObjectId, StreamId};
use serde::{Deserialize, Serialize};

use crate::decline::Decline;

/// What is fetched side by side, and switches appliances by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    Video,
    Audio,
    Subtitles,
}

/// One fragment that arrived: the format of `--fragments`, a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    pub object: ObjectId,
    pub extension: Extension,
    /// Inclusive, both.
    pub first: u64,
    pub last: u64,
    /// Of these bytes, 64 lowercase hexadecimal digits.
    pub sha256: String,
    /// Which appliance sent its last byte.
    pub appliance: ApplianceId,
}

impl Fragment {
    pub fn span(&self) -> Option<ByteSpan> {
        ByteSpan::new(self.first, self.last)
    }
}

#[derive(Clone, Debug)]
pub struct ApplianceSwitch {
    pub at: Duration,
    pub track: Track,
    pub from: ApplianceId,
    pub to: ApplianceId,
    /// Why `from` was left; None: nothing, `to` came back into the ranking.
    pub cause: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct RungSwitch {
    pub at: Duration,
    /// Where in the title.
    pub position: Duration,
    pub from: StreamId,
    pub to: StreamId,
}

#[derive(Clone, Debug)]
pub struct DeclineRecord {
    pub at: Duration,
    pub track: Track,
    pub appliance: ApplianceId,
    pub object: ObjectId,
    pub decline: Decline,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of bodies, wasted ones among them.
    pub bytes: u64,
    pub requests: u64,
    pub declines: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub fragments: Vec<Fragment>,
    pub appliance_switches: Vec<ApplianceSwitch>,
    pub rung_switches: Vec<RungSwitch>,
    pub declines: Vec<DeclineRecord>,
    pub traffic: BTreeMap<ApplianceId, Traffic>,
    pub wasted_bytes: u64,
    pub renewals: u64,
    /// Video per rung: bytes and time of title.
    pub rungs: BTreeMap<StreamId, (u64, Duration)>,
    serving: BTreeMap<Track, ApplianceId>,
}

impl Ledger {
    pub fn asked(&mut self, appliance: &ApplianceId) {
        self.traffic.entry(appliance.clone()).or_default().requests += 1;
    }

    pub fn received(&mut self, appliance: &ApplianceId, bytes: u64) {
        self.traffic.entry(appliance.clone()).or_default().bytes += bytes;
    }

    pub fn declined(&mut self, record: DeclineRecord) {
        self.traffic.entry(record.appliance.clone()).or_default().declines += 1;
        self.declines.push(record);
    }

    /// `appliance` finished a fragment of `track`. If another did so before, that is a switch.
    pub fn served(&mut self, track: Track, appliance: &ApplianceId, at: Duration) {
        let Some(from) = self.serving.insert(track, appliance.clone()) else { return };
        if from == *appliance {
            return;
        }
        let left = self.declines.iter().rev().find(|record| record.appliance == from);
        let cause =
            left.filter(|record| at < record.at + crate::hosts::BAN).map(|record| record.decline.label());
        self.appliance_switches.push(ApplianceSwitch { at, track, from, to: appliance.clone(), cause });
    }

    pub fn played(&mut self, rung: &StreamId, bytes: u64, length: Duration) {
        let entry = self.rungs.entry(rung.clone()).or_default();
        entry.0 += bytes;
        entry.1 += length;
    }

    pub fn bytes(&self) -> u64 {
        self.traffic.values().map(|traffic| traffic.bytes).sum()
    }

    /// Requests that brought nothing that was used in full: those that were declined.
    pub fn wasted_requests(&self) -> u64 {
        self.traffic.values().map(|traffic| traffic.declines).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ApplianceId {
        text.parse().unwrap()
    }

    #[test]
    fn a_switch_is_counted_once_for_each_track_and_names_its_cause() {
        let mut ledger = Ledger::default();
        let seconds = Duration::from_secs;
        ledger.served(Track::Video, &name("a"), seconds(1));
        ledger.served(Track::Audio, &name("b"), seconds(1));
        ledger.served(Track::Video, &name("a"), seconds(2));
        assert!(ledger.appliance_switches.is_empty());
        ledger.declined(DeclineRecord {
            at: seconds(3),
            track: Track::Video,
            appliance: name("a"),
            object: ObjectId::of(b""),
            decline: Decline::Unavailable,
        });
        ledger.served(Track::Video, &name("b"), seconds(4));
        ledger.served(Track::Video, &name("a"), seconds(40));
        let causes: Vec<_> = ledger.appliance_switches.iter().map(|switch| switch.cause).collect();
        assert_eq!(causes, [Some("503"), None]);
        assert_eq!(ledger.wasted_requests(), 1);
    }
}
