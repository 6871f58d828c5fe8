//! Rot that the control plane finds: said in the log with the file and the cure, and counted for `/metrics`. Its counters are
//! the process's, like its log.

use std::collections::BTreeMap;
use std::fmt::Display;

use content::rot::{RotCounters, RotPlace};

static FOUND: RotCounters = RotCounters::new();

/// What this program can find.
pub const PLACES: &[RotPlace] = &[
    RotPlace::Title,
    RotPlace::OriginManifest,
    RotPlace::OriginCurrent,
    RotPlace::OriginTree,
    RotPlace::OriginObject,
    RotPlace::ControlState,
];

/// `cure`: what happens by itself, and what an operator does if that is not enough.
pub fn found(place: RotPlace, file: impl Display, what: impl Display, cure: &str) {
    FOUND.found(place);
    tracing::error!(%place, %file, cure, "rot: {what}");
}

pub fn counts() -> BTreeMap<RotPlace, u64> {
    FOUND.of(PLACES)
}
