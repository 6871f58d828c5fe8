//! What a run met: where kills landed, by operation, program and phase; how long points took.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::phase::Phases;
use crate::points::{Operation, Program};

#[derive(Default)]
pub struct Report {
    phases: BTreeMap<(Operation, &'static str, &'static str), u32>,
    kills: BTreeMap<&'static str, u32>,
    /// Two at the same instant.
    pairs: u32,
    times: Vec<Duration>,
}

/// Of each of these lists a run of a thousand points must have hit one at least: the middle of the operation.
const MIDDLES: [(Operation, &str, &[&str]); 8] = [
    (Operation::Fill, "oca-fill", &["between two pieces"]),
    (Operation::Fill, "oca-fill", &["a file moved, not published", "footer written, not moved"]),
    (
        Operation::Fill,
        "oca-fill",
        &["a small object waits for its pack", "a pack half-written", "a pack sealed, not published"],
    ),
    (Operation::Publish, "oca-media", &["encoding, chunks cached", "a chunk half-written"]),
    (Operation::Publish, "oca-media", &["objects put, no commit", "an object or tree half-written"]),
    (
        Operation::Plan,
        "oca-control",
        &[
            "a manifest or `current` half-written",
            "a manifest written, not current",
            "its state half-written",
        ],
    ),
    (
        Operation::Swap,
        "oca-appliance",
        &["a new generation current, the old one served", "swapped, requests on the old generation"],
    ),
    (Operation::Deletion, "oca-fill", &["dropped, not unlinked yet"]),
];

impl Report {
    pub fn note(&mut self, operation: Operation, victim: Program, phases: &Phases) {
        for phase in phases {
            *self.phases.entry((operation, victim.binary(), phase)).or_default() += 1;
        }
    }

    /// `count` of these ran still.
    pub fn killed(&mut self, victims: &[Program], count: usize) {
        for victim in victims.iter().take(count) {
            *self.kills.entry(victim.binary()).or_default() += 1;
        }
        self.pairs += u32::from(count > 1);
    }

    pub fn took(&mut self, time: Duration) {
        self.times.push(time);
    }

    pub fn print(&self) {
        println!("\nwhere the kills landed (a kill can be in the middle of several things):");
        for ((operation, binary, phase), count) in &self.phases {
            println!("  {:<9} {binary:<14} {count:>5}  {phase}", format!("{operation:?}"));
        }
        let kills: Vec<_> = self.kills.iter().map(|(binary, count)| format!("{count} × {binary}")).collect();
        println!("kills: {}; {} times two at the same instant", kills.join(", "), self.pairs);
        let mut times = self.times.clone();
        times.sort_unstable();
        if let (Some(longest), Some(middle)) = (times.last(), times.get(times.len() / 2)) {
            let (middle, longest) = (middle.as_secs_f64(), longest.as_secs_f64());
            println!(
                "{} points; a point took {middle:.1} s (median), {longest:.1} s at the most",
                times.len()
            );
        }
    }

    /// The middle of every operation was met.
    pub fn check_spread(&self) -> Result<()> {
        for (operation, binary, phases) in MIDDLES {
            let met = phases.iter().any(|phase| self.phases.contains_key(&(operation, binary, phase)));
            if !met {
                bail!("no kill of {binary} landed in the middle of a {operation:?} ({})", phases.join(", "));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_was_never_hit_in_its_middle_fails_the_run() {
        let mut report = Report::default();
        for (operation, binary, phases) in MIDDLES {
            assert!(report.check_spread().is_err());
            *report.phases.entry((operation, binary, phases[0])).or_default() += 1;
        }
        assert!(report.check_spread().is_ok());
    }
}
