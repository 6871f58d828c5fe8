//! What asks for an operator, in words: the report carries it, and the box is degraded as long as there is any.
//!
//! Each says which thing it is about and what cures it; docs/operations.md has them all.

use content::report::{CLOCK_OFF_MAX_S, REASON_BYTES_MAX, REASONS_MAX, VolumeState};

use super::volume::{READ_ONLY, Seen, Slot};
use super::{Core, Retry};

/// What the shell or the disk of the state folder cannot do, said by the shell.
#[derive(Debug, Default)]
pub(super) struct State {
    /// A sentence each.
    pub unsaved: Vec<String>,
    /// See `Now::clock_off_ms`.
    pub clock_off_ms: i64,
}

/// File numbers of this start: without them nothing new is pulled, and what is held is served on.
#[derive(Debug)]
pub(super) struct Numberless {
    pub retry: Retry,
    pub reason: String,
}

impl Core {
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.server.is_none() {
            reasons.push(
                "oca-appliance does not answer on its socket: start it, or read its log to see why it ended"
                    .to_owned(),
            );
        }
        self.clock_reason(&mut reasons);
        let paths = self.settings.volumes.iter().map(|(path, _)| path.display().to_string());
        reasons
            .extend(self.volumes.slots.iter().zip(paths).filter_map(|(slot, path)| of_volume(slot, &path)));
        self.state_reasons(&mut reasons);
        reasons.extend(self.fill.reasons());
        reasons.truncate(REASONS_MAX);
        for reason in &mut reasons {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        }
        reasons
    }

    fn clock_reason(&self, reasons: &mut Vec<String>) {
        let off_s = self.reasons.clock_off_ms / 1_000;
        if off_s.abs() > CLOCK_OFF_MAX_S {
            let way = if off_s > 0 { "ahead of" } else { "behind" };
            reasons.push(format!(
                "the clock of this box is {} s {way} the control plane's: it refuses good tokens, so that it is not \
                 offered. Set the wrong one of the two by NTP",
                off_s.abs()
            ));
        }
    }

    /// What lies in the state folder.
    fn state_reasons(&self, reasons: &mut Vec<String>) {
        const CURE: &str =
            "free space on the disk of the state folder, or make it writable; it is tried again";
        if let Some(reason) = &self.publish.write_failed {
            reasons.push(format!(
                "the catalogue cannot be written: {reason}. The generation before is served on; {CURE}"
            ));
        }
        if let Some(reason) = &self.publish.refused {
            reasons.push(format!(
                "the server refused the catalogue: {reason}. The generation before is served on; it is written again"
            ));
        }
        if let Some(numberless) = &self.fill.numberless {
            reasons.push(format!("nothing new is pulled: {}; {CURE}", numberless.reason));
        }
        reasons.extend(self.reasons.unsaved.iter().map(|what| format!("{what}; {CURE}")));
    }
}

fn of_volume(slot: &Slot, path: &str) -> Option<String> {
    let cure = match slot.seen {
        Seen::Is(VolumeState::Ok) => return None,
        Seen::Is(VolumeState::ReadOnly) => return Some(format!("volume {path} {READ_ONLY}")),
        Seen::Unknown => {
            return Some(format!("volume {path} was not looked at yet: it answers slowly, or hangs"));
        }
        Seen::Is(VolumeState::Missing) => "mount it, or replace its disk",
        Seen::Is(VolumeState::Failed) => "look at its disk (dmesg), then mount it again or replace it",
    };
    Some(format!("volume {path}: {}: {cure}; what it held is pulled again to the other volumes", slot.reason))
}
