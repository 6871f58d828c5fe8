//! What a viewer would have felt, as a report: JSON for programs (`--json`, format 1), a table for people.
//!
//! Times are milliseconds since the play was asked for; positions are milliseconds in the title.

use std::fmt::Write as _;
use std::time::Duration;

use content::id::{ApplianceId, ObjectId, SessionId, StreamId, TitleId};
use content::play::PlayRequest;
use serde::{Deserialize, Serialize};

use crate::error::PlayError;
use crate::ledger::{Ledger, Track};
use crate::play::Settings;
use crate::playhead::Playhead;
use crate::schedule::Pace;

/// The version of the JSON report.
pub const SUMMARY_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_FORMAT`].
    pub format: u32,
    pub title: TitleId,
    pub name: String,
    pub session: SessionId,
    /// Fetched as fast as it came: stalls are those of a viewer who began at the first fragment.
    pub flat_out: bool,
    /// Everything that was to be fetched arrived.
    pub complete: bool,
    /// Why not.
    pub error: Option<String>,
    /// From the request for the play to the first picture and sound; null: it did not come to that.
    pub start_ms: Option<u64>,
    /// Where the playhead was at the end of the session.
    pub position_ms: u64,
    /// When the session ended.
    pub ended_ms: u64,
    pub stalls: Vec<StallReport>,
    pub stall_ms_total: u64,
    pub stall_ms_max: u64,
    pub appliance_switches: Vec<ApplianceSwitchReport>,
    pub rung_switches: Vec<RungSwitchReport>,
    /// Of the video that arrived, bit/s; 0: none did.
    pub mean_video_bps: u64,
    pub rungs: Vec<RungReport>,
    pub appliances: Vec<ApplianceReport>,
    pub declines: Vec<DeclineReport>,
    pub fragments: u64,
    /// Of all bodies, wasted ones among them.
    pub bytes: u64,
    /// Bytes that arrived and were thrown away.
    pub wasted_bytes: u64,
    /// Requests that an appliance declined or broke off.
    pub wasted_requests: u64,
    /// How often the token was renewed.
    pub renewals: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StallReport {
    pub at_ms: u64,
    pub length_ms: u64,
    pub position_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplianceSwitchReport {
    pub at_ms: u64,
    pub track: Track,
    pub from: ApplianceId,
    pub to: ApplianceId,
    /// The label of the decline for which `from` was left; null: `to` was better and had returned.
    pub cause: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungSwitchReport {
    pub at_ms: u64,
    pub position_ms: u64,
    pub from: StreamId,
    pub to: StreamId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RungReport {
    pub stream: StreamId,
    pub bytes: u64,
    /// How much of the title was played from it.
    pub media_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplianceReport {
    pub appliance: ApplianceId,
    pub bytes: u64,
    pub requests: u64,
    pub declines: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeclineReport {
    pub at_ms: u64,
    pub track: Track,
    pub appliance: ApplianceId,
    pub object: ObjectId,
    /// One of few: `503`, `404`, `unreachable`, `time-out`, `short-body`, ...
    pub cause: String,
    pub detail: String,
}

impl Summary {
    /// Of a play that has not begun.
    pub fn new(request: &PlayRequest, settings: &Settings) -> Self {
        Self {
            format: SUMMARY_FORMAT,
            title: request.title.clone(),
            name: String::new(),
            session: request.session.clone(),
            flat_out: settings.pace == Pace::FlatOut,
            complete: true,
            error: None,
            start_ms: None,
            position_ms: 0,
            ended_ms: 0,
            stalls: Vec::new(),
            stall_ms_total: 0,
            stall_ms_max: 0,
            appliance_switches: Vec::new(),
            rung_switches: Vec::new(),
            mean_video_bps: 0,
            rungs: Vec::new(),
            appliances: Vec::new(),
            declines: Vec::new(),
            fragments: 0,
            bytes: 0,
            wasted_bytes: 0,
            wasted_requests: 0,
            renewals: 0,
        }
    }

    pub fn set_error(&mut self, error: &PlayError) {
        self.complete = false;
        self.error = Some(error.to_string());
    }

    pub fn set_playhead(&mut self, playhead: &Playhead, now: Duration) {
        self.start_ms = playhead.started().map(ms);
        self.position_ms = ms(playhead.position(now));
        self.ended_ms = ms(now);
        let stalls = playhead.stalls(now);
        self.stall_ms_total = ms(stalls.iter().map(|stall| stall.length).sum());
        self.stall_ms_max = stalls.iter().map(|stall| ms(stall.length)).max().unwrap_or(0);
        let report = |stall: &crate::playhead::Stall| StallReport {
            at_ms: ms(stall.at),
            length_ms: ms(stall.length),
            position_ms: ms(stall.position),
        };
        self.stalls = stalls.iter().map(report).collect();
    }

    pub fn set_ledger(&mut self, ledger: &Ledger) {
        self.appliance_switches = ledger.appliance_switches.iter().map(Into::into).collect();
        self.rung_switches = ledger.rung_switches.iter().map(Into::into).collect();
        self.declines = ledger.declines.iter().map(Into::into).collect();
        let rung = |(stream, &(bytes, length)): (&StreamId, &(u64, Duration))| RungReport {
            stream: stream.clone(),
            bytes,
            media_ms: ms(length),
        };
        self.rungs = ledger.rungs.iter().map(rung).collect();
        let (bytes, media) =
            self.rungs.iter().fold((0_u64, 0_u64), |sum, rung| (sum.0 + rung.bytes, sum.1 + rung.media_ms));
        self.mean_video_bps = bytes.saturating_mul(8_000).checked_div(media).unwrap_or(0);
        self.appliances = ledger
            .traffic
            .iter()
            .map(|(appliance, traffic)| ApplianceReport {
                appliance: appliance.clone(),
                bytes: traffic.bytes,
                requests: traffic.requests,
                declines: traffic.declines,
            })
            .collect();
        self.fragments = u64::try_from(ledger.fragments.len()).unwrap_or(u64::MAX);
        self.bytes = ledger.bytes();
        self.wasted_bytes = ledger.wasted_bytes;
        self.wasted_requests = ledger.wasted_requests();
        self.renewals = ledger.renewals;
    }

    /// For people: one screen.
    pub fn table(&self) -> String {
        let mut table = String::new();
        let mut line = |name: &str, text: String| {
            // Writing to a string cannot fail.
            writeln!(table, "{name:<12} {text}").unwrap_or_default();
        };
        let shown = if self.name.is_empty() { self.title.to_string() } else { self.name.clone() };
        line("title", format!("{shown} ({}), session {}", self.title, self.session));
        line(
            "result",
            self.error.clone().map_or("everything arrived".to_owned(), |error| format!("FAILED: {error}")),
        );
        line("start", self.start_ms.map_or("never".to_owned(), |start| format!("{start} ms")));
        let pace = if self.flat_out { ", flat out" } else { "" };
        line("played", format!("{} of title in {}{pace}", seconds(self.position_ms), seconds(self.ended_ms)));
        line("stalls", self.stalls_in_words());
        for switch in &self.appliance_switches {
            let ApplianceSwitchReport { at_ms, track, from, to, cause } = switch;
            let cause = cause.as_deref().unwrap_or("returned");
            line("switch", format!("{} {from} -> {to} ({}, {cause})", seconds(*at_ms), track_name(*track)));
        }
        for switch in &self.rung_switches {
            line("rung", format!("{} {} -> {}", seconds(switch.at_ms), switch.from, switch.to));
        }
        for rung in &self.rungs {
            line("played from", format!("{} for {}", rung.stream, seconds(rung.media_ms)));
        }
        line("video", format!("{} kb/s in the mean", self.mean_video_bps / 1_000));
        for appliance in &self.appliances {
            let ApplianceReport { appliance, bytes, requests, declines } = appliance;
            line(
                "appliance",
                format!("{appliance}: {}, {requests} requests, {declines} declined", kib(*bytes)),
            );
        }
        line("fragments", format!("{} in {}", self.fragments, kib(self.bytes)));
        line("wasted", format!("{} in {} requests", kib(self.wasted_bytes), self.wasted_requests));
        if self.renewals > 0 {
            line("token", format!("renewed {} times", self.renewals));
        }
        table
    }

    fn stalls_in_words(&self) -> String {
        if self.stalls.is_empty() {
            return "none".to_owned();
        }
        let each: Vec<_> = self
            .stalls
            .iter()
            .take(5)
            .map(|stall| format!("{} ms at {}", stall.length_ms, seconds(stall.position_ms)))
            .collect();
        let more = if self.stalls.len() > each.len() { ", ..." } else { "" };
        format!("{} of {} ms in all: {}{more}", self.stalls.len(), self.stall_ms_total, each.join(", "))
    }
}

impl From<&crate::ledger::ApplianceSwitch> for ApplianceSwitchReport {
    fn from(switch: &crate::ledger::ApplianceSwitch) -> Self {
        Self {
            at_ms: ms(switch.at),
            track: switch.track,
            from: switch.from.clone(),
            to: switch.to.clone(),
            cause: switch.cause.map(str::to_owned),
        }
    }
}

impl From<&crate::ledger::RungSwitch> for RungSwitchReport {
    fn from(switch: &crate::ledger::RungSwitch) -> Self {
        let (from, to) = (switch.from.clone(), switch.to.clone());
        Self { at_ms: ms(switch.at), position_ms: ms(switch.position), from, to }
    }
}

impl From<&crate::ledger::DeclineRecord> for DeclineReport {
    fn from(record: &crate::ledger::DeclineRecord) -> Self {
        Self {
            at_ms: ms(record.at),
            track: record.track,
            appliance: record.appliance.clone(),
            object: record.object,
            cause: record.decline.label().to_owned(),
            detail: record.decline.to_string(),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

fn kib(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes.div_ceil(1 << 10)) } else { format!("{} MiB", bytes >> 20) }
}

fn track_name(track: Track) -> &'static str {
    match track {
        Track::Video => "video",
        Track::Audio => "audio",
        Track::Subtitles => "subtitles",
    }
}
