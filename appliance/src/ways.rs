//! Which way out of memory this box takes, and what it can carry: from the figures of `ring::measure`, kept in the state
//! folder until the kernel or the hardware is another one (DESIGN §4: never by belief).
//!
//! It measures nothing and sends nothing. The file is a note: lost or damaged it is made again.

use std::fs;
use std::path::{Path, PathBuf};

use content::box_config::WayOut;
use content::seal::{from_sealed, to_sealed};
use serde::{Deserialize, Serialize};

use crate::ring::Way;
use crate::ring::measure::Measured;

const FILE_NAME: &str = "ways.json";
/// Of what is sent, so much is taken to have come from a disk just before: it is what a block's detaching is charged for.
/// A box sends 10 to 20 % from memory at its busiest and nearly all of it when few titles are asked for; half is between.
const COLD_SHARE: f64 = 0.5;
/// Two ways whose costs are this close cost the same: the measure is no better.
const LEVEL: f64 = 0.05;

/// The way, why, and what it costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    pub way: Way,
    /// In words, for log and health.
    pub why: String,
    /// Processor seconds per 10⁹ bytes sent, detaching included; None: not measured.
    pub cost: Option<f64>,
}

/// What is kept.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    machine: String,
    /// By way.
    send: Vec<(String, f64)>,
    detach: f64,
}

/// What the operator says, or what was measured here before. None: it is to be measured.
pub fn known(way: WayOut, state: &Path, machine: &str) -> Option<Chosen> {
    let fixed = match way {
        WayOut::Auto => {
            return recall(state, machine).map(|measured| choose(&measured, "kept from an earlier start"));
        }
        WayOut::Sendfile => Way::Sendfile,
        WayOut::SendZc => Way::SendZeroCopy,
        WayOut::Send => Way::Send,
    };
    let why = format!("the configuration says server.way = \"{}\"", fixed.name());
    Some(Chosen { way: fixed, why, cost: None })
}

/// Makes a choice of what was just measured, and keeps the figures for the next start.
pub fn conclude(measured: std::io::Result<Measured>, state: &Path, machine: &str) -> Chosen {
    match measured {
        Ok(measured) => {
            keep(&measured, state, machine);
            choose(&measured, "measured at this start")
        }
        Err(cause) => {
            let why = format!("the ways out could not be measured ({cause}); plain SEND is right everywhere");
            Chosen { way: Way::Send, why, cost: None }
        }
    }
}

/// The cheapest. Of those that are level with it the first in the order of [`Way::ALL`]: what copies least gains most from
/// a real network card, which loopback does not show.
fn choose(measured: &Measured, when: &str) -> Chosen {
    let costs: Vec<_> =
        measured.send.iter().map(|(way, send)| (*way, cost(*way, *send, measured.detach))).collect();
    let least = costs.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
    let best = costs.iter().find(|(_, cost)| *cost <= least * (1.0 + LEVEL));
    let (way, cost) = best.copied().unwrap_or((Way::Send, least));
    let figures: Vec<_> = costs.iter().map(|(way, cost)| format!("{} {cost:.3}", way.name())).collect();
    let why = format!(
        "{when}, in processor seconds per GB: {} (of which detaching, for what is not copied: {:.3})",
        figures.join(", "),
        measured.detach * COLD_SHARE
    );
    Chosen { way, why, cost: Some(cost) }
}

fn cost(way: Way, send: f64, detach: f64) -> f64 {
    match way {
        Way::Sendfile | Way::SendZeroCopy => send + COLD_SHARE * detach,
        Way::Send => send,
    }
}

fn path(state: &Path) -> PathBuf {
    state.join(FILE_NAME)
}

fn recall(state: &Path, machine: &str) -> Option<Measured> {
    let note: Note = from_sealed(&fs::read(path(state)).ok()?).ok()?;
    let way =
        |(name, cost): &(String, f64)| Some((Way::ALL.into_iter().find(|way| way.name() == name)?, *cost));
    let send: Option<Vec<_>> = note.send.iter().map(way).collect();
    (note.machine == machine).then_some(Measured { send: send?, detach: note.detach })
}

/// A state folder that cannot be written to costs another second at the next start.
fn keep(measured: &Measured, state: &Path, machine: &str) {
    let send = measured.send.iter().map(|(way, cost)| (way.name().to_owned(), *cost)).collect();
    let note = Note { machine: machine.to_owned(), send, detach: measured.detach };
    if let Err(cause) = fs::write(path(state), to_sealed(&note)) {
        tracing::warn!(%cause, "what was measured of the ways out cannot be kept; the next start measures again");
    }
}

/// What the box can carry, and the resource that limits it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Capacity {
    /// 0: not known.
    pub bits_per_second: u64,
    pub limited_by: &'static str,
    /// By resource: what it alone would carry.
    pub resources: Vec<(&'static str, u64)>,
}

/// How this box sends, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    pub way: Chosen,
    pub capacity: Capacity,
}

/// `cost`: processor seconds per 10⁹ bytes. `link`: the sum of the network cards' speeds.
pub fn capacity(cost: Option<f64>, workers: usize, link: Option<u64>) -> Capacity {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    let cpu = cost.filter(|cost| *cost > 0.0).map(|cost| ("cpu", whole(8e9 * f64::from(workers) / cost)));
    let network = link.map(|bits| ("network", bits));
    let resources: Vec<_> = cpu.into_iter().chain(network).collect();
    let least = resources.iter().min_by_key(|(_, bits)| *bits).copied();
    let (limited_by, bits_per_second) = least.unwrap_or(("unknown", 0));
    Capacity { bits_per_second, limited_by, resources }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive figure of bits per second, far below 2⁵³"
)]
fn whole(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sendfile: f64, zero_copy: f64, send: f64, detach: f64) -> Measured {
        let send = vec![(Way::Sendfile, sendfile), (Way::SendZeroCopy, zero_copy), (Way::Send, send)];
        Measured { send, detach }
    }

    #[test]
    fn the_cheapest_way_is_taken_and_detaching_counts() {
        let way = |measured| choose(&measured, "now").way;
        assert_eq!(way(measured(0.14, 0.3, 0.28, 0.05)), Way::Sendfile);
        assert_eq!(way(measured(0.3, 0.1, 0.28, 0.05)), Way::SendZeroCopy);
        // Without huge pages detaching costs more than a copy.
        assert_eq!(way(measured(0.3, 0.35, 0.28, 0.8)), Way::Send);
        // Level within the measure's noise.
        assert_eq!(way(measured(0.29, 0.35, 0.28, 0.0)), Way::Sendfile);
    }

    #[test]
    fn what_was_measured_is_kept_for_this_machine_and_no_other() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(known(WayOut::Auto, state.path(), "a"), None);
        let chosen = conclude(Ok(measured(0.14, 0.3, 0.28, 0.05)), state.path(), "a");
        let again = known(WayOut::Auto, state.path(), "a").unwrap();
        assert_eq!((again.way, again.cost), (chosen.way, chosen.cost));
        assert_eq!(known(WayOut::Auto, state.path(), "b"), None, "another kernel");
        fs::write(path(state.path()), b"{").unwrap();
        assert_eq!(known(WayOut::Auto, state.path(), "a"), None, "damaged");
    }

    #[test]
    fn an_operator_skips_the_measuring_and_a_failed_one_falls_back_to_copying() {
        let state = tempfile::tempdir().unwrap();
        let fixed = known(WayOut::SendZc, state.path(), "a").unwrap();
        assert_eq!((fixed.way, fixed.cost), (Way::SendZeroCopy, None));
        let failed = conclude(Err(std::io::ErrorKind::TimedOut.into()), state.path(), "a");
        assert_eq!(failed.way, Way::Send);
        assert_eq!(known(WayOut::Auto, state.path(), "a"), None, "and is tried again");
    }

    #[test]
    fn the_capacity_is_the_least_of_what_is_known() {
        let both = capacity(Some(0.2), 4, Some(100_000_000_000));
        assert_eq!((both.bits_per_second, both.limited_by), (100_000_000_000, "network"));
        let processors = capacity(Some(0.2), 2, None);
        assert_eq!((processors.bits_per_second, processors.limited_by), (80_000_000_000, "cpu"));
        assert_eq!(capacity(None, 2, None), Capacity { limited_by: "unknown", ..Capacity::default() });
    }
}
