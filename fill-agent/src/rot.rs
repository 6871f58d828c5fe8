//! Rot that this agent finds: said in the log with the file and the cure, and counted for the report. Impure: its
//! counters are the process's, like its log.

use std::collections::BTreeMap;
use std::fmt::Display;

use content::rot::{RotCounters, RotPlace};

static FOUND: RotCounters = RotCounters::new();

/// What this program can find: the places that its report names, with 0 where all is well.
pub const PLACES: &[RotPlace] = &[
    RotPlace::File,
    RotPlace::Catalogue,
    RotPlace::Current,
    RotPlace::Marker,
    RotPlace::ResumeRecord,
    RotPlace::ResumeTree,
    RotPlace::AgentState,
    RotPlace::AgentManifest,
    RotPlace::SourcePiece,
    RotPlace::SourceTree,
];

/// `cure`: what happens by itself, and what an operator does if that is not enough.
pub fn found(place: RotPlace, file: impl Display, what: impl Display, cure: &str) {
    FOUND.found(place);
    tracing::error!(%place, %file, cure, "rot: {what}");
}

/// For the report.
pub fn counts() -> BTreeMap<String, u64> {
    FOUND.of(PLACES).into_iter().map(|(place, count)| (place.label().to_owned(), count)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A metric that nothing increments says 0 for ever and is believed (STYLE §4).
    #[test]
    fn every_place_is_found_somewhere_in_the_agent() {
        let source = production_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        for place in PLACES {
            let used = source.contains(&format!("RotPlace::{place:?}"));
            assert!(used, "{place} is reported and nothing finds it");
            found(*place, "a file", "a test", "none");
        }
        assert!(PLACES.iter().all(|place| counts()[place.label()] >= 1));
    }

    fn production_source(folder: &Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: std::path::PathBuf| match path.file_name().and_then(|name| name.to_str()) {
            Some("rot.rs" | "tests.rs" | "scenes.rs") | None => String::new(),
            Some(_) if path.is_dir() => production_source(&path),
            Some(_) => {
                let text = std::fs::read_to_string(path).unwrap();
                text.split("\nmod tests {").next().unwrap_or_default().to_owned()
            }
        };
        entries.map(text).collect()
    }
}
