//! Where a stored byte can rot, and how often it was found to have: one table of labels, the same in the log and in
//! the metrics of every program. Pure but for its counters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

macro_rules! places {
    ($($variant:ident, $label:literal, $what:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum RotPlace {
            $(#[doc = $what] #[serde(rename = $label)] $variant,)+
        }

        impl RotPlace {
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// In logs and metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

places! {
    File, "file", "A finished file of a volume, an object's own or a pack: its data, its index or its footer.";
    Catalogue, "catalogue", "A generation of the catalogue.";
    Current, "current", "The name of the current generation.";
    Marker, "marker", "`OCA-VOLUME`.";
    ResumeRecord, "resume-record", "The record of an unfinished download.";
    ResumeTree, "resume-tree", "The verification tree beside an unfinished download.";
    AgentState, "agent-state", "The agent's token keys, volumes or file numbers.";
    AgentManifest, "agent-manifest", "A manifest in the agent's state.";
    ServerKeys, "server-keys", "The server's token keys.";
    SourcePiece, "source-piece", "A piece of an object that a fill source sent.";
    SourceTree, "source-tree", "A verification tree that a fill source sent.";
    Title, "title", "A `title.json`.";
    OriginManifest, "origin-manifest", "A manifest in the origin.";
    OriginCurrent, "origin-current", "The number of a cluster's current manifest in the origin.";
    OriginTree, "origin-tree", "A verification tree in the origin.";
    OriginObject, "origin-object", "An object in the origin, read because its tree was rotten.";
    ControlState, "control-state", "Signing keys, registrations or drains of the control plane.";
}

impl fmt::Display for RotPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// How often rot was found since the start of this program.
#[derive(Debug)]
pub struct RotCounters([AtomicU64; RotPlace::ALL.len()]);

impl RotCounters {
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; RotPlace::ALL.len()])
    }

    pub fn found(&self, place: RotPlace) {
        let count = RotPlace::ALL.iter().zip(&self.0).find(|(known, _)| **known == place);
        if let Some((_, count)) = count {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Of these places, those that never were included.
    pub fn of(&self, places: &[RotPlace]) -> BTreeMap<RotPlace, u64> {
        let all = RotPlace::ALL.iter().zip(&self.0).map(|(place, count)| (*place, count.load(Relaxed)));
        all.filter(|(place, _)| places.contains(place)).collect()
    }
}

impl Default for RotCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_counted_by_itself_under_the_label_that_it_travels_with() {
        let counters = RotCounters::new();
        counters.found(RotPlace::Marker);
        counters.found(RotPlace::Marker);
        let all = counters.of(RotPlace::ALL);
        assert_eq!(
            (all.len(), all[&RotPlace::Marker], all.values().sum::<u64>()),
            (RotPlace::ALL.len(), 2, 2)
        );
        for place in RotPlace::ALL {
            assert_eq!(serde_json::to_value(place).unwrap(), place.label());
        }
    }
}
