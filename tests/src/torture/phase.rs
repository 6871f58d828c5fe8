//! Where a kill landed, by what lay on the disks right after it (and, for a server, by what it said right before).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use content::control_socket::ServerStatus;
use content::origin;
use content::volume::FileKind;

use crate::shelves::{Disks, check_file, is_temporary, walk};

pub type Phases = BTreeSet<&'static str>;

/// What an agent was in the middle of.
pub fn of_agent(disks: &Disks) -> Phases {
    let mut phases = Phases::new();
    let incoming = disks.incoming();
    if incoming.iter().any(|path| is_temporary(path)) {
        phases.insert("a record or tree half-written");
    }
    let has = |path: &Path, extension| incoming.contains(&path.with_extension(extension));
    let of_download = |path: &Path| !is_temporary(path) && path.extension().is_none_or(|name| name != "pack");
    let bare = incoming.iter().any(|path| of_download(path) && !has(path, "part") && !has(path, "ready"));
    if bare {
        phases.insert("a record or tree without its file");
    }
    if incoming.iter().any(|path| path.extension().is_some_and(|name| name == "pack")) {
        phases.insert("a pack half-written");
    }
    for partial in disks.partials() {
        if partial.ready {
            phases.insert("a small object waits for its pack");
            continue;
        }
        phases.insert(match (partial.verified, partial.has_footer) {
            (0, _) => "allocated, no piece yet",
            (verified, _) if verified < partial.bytes => "between two pieces",
            (_, false) => "all pieces, no footer",
            (_, true) => "footer written, not moved",
        });
    }
    phases.extend(of_catalogue(disks));
    settled(phases)
}

fn of_catalogue(disks: &Disks) -> Phases {
    let mut phases = Phases::new();
    let Ok(current) = disks.current() else { return phases };
    if disks.temporary().iter().any(|path| path.starts_with(&disks.state)) {
        phases.insert("a generation, `current` or state half-written");
    }
    let generations = disks.generations();
    if generations.last().is_some_and(|newest| *newest > current) {
        phases.insert("a generation written, not current");
    }
    let named = |generation: u64| {
        let contents = disks.generation(generation).ok()?;
        Some(disks.named(&contents).ok()?.into_keys().collect::<BTreeSet<_>>())
    };
    let by_current = named(current).unwrap_or_default();
    let by_others: BTreeSet<PathBuf> = generations
        .iter()
        .filter(|other| **other != current)
        .filter_map(|other| named(*other))
        .flatten()
        .collect();
    for path in disks.files().difference(&by_current) {
        phases.insert(match (by_others.contains(path), is_pack(path)) {
            (true, _) => "dropped, not unlinked yet",
            (false, true) => "a pack sealed, not published",
            (false, false) => "a file moved, not published",
        });
    }
    if !by_others.is_subset(&disks.files()) {
        phases.insert("unlinked, old generation still there");
    }
    phases
}

fn is_pack(path: &Path) -> bool {
    let trailer = std::fs::read(path).ok().and_then(|bytes| content::volume::Trailer::parse(&bytes).ok());
    trailer
        .is_some_and(|trailer| trailer.kind == FileKind::Pack && check_file(path, trailer.data_bytes).is_ok())
}

/// What a server was in the middle of. `in_flight`: requests that readers had begun, on either box.
pub fn of_server(disks: &Disks, before: Option<&ServerStatus>, in_flight: u64) -> Phases {
    let mut phases = Phases::new();
    match (before, disks.current()) {
        (None, _) => {
            phases.insert("starting");
        }
        (Some(status), Ok(current)) if status.generation < current => {
            phases.insert("a new generation current, the old one served");
        }
        (Some(status), _) if status.oldest_in_use < status.generation => {
            phases.insert("swapped, requests on the old generation");
        }
        (Some(_), _) => {}
    }
    if in_flight > 0 {
        phases.insert("in the middle of an answer");
    }
    settled(phases)
}

/// What the control plane was in the middle of. `wanted`: whether the current manifest says what it should.
pub fn of_control(folder: &Path, state: &Path, current: u64, planned: bool) -> Phases {
    let mut phases = Phases::new();
    let clusters = walk(&folder.join("clusters"));
    if clusters.iter().any(|path| is_temporary(path)) {
        phases.insert("a manifest or `current` half-written");
    }
    let version = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".ndjson")?.parse::<u64>().ok();
    if clusters.iter().filter_map(version).any(|version| version > current) {
        phases.insert("a manifest written, not current");
    }
    if walk(state).iter().any(|path| is_temporary(path)) {
        phases.insert("its state half-written");
    }
    if !planned {
        phases.insert("a change seen by nobody yet");
    }
    settled(phases)
}

/// What the origin had before a publish, by which its progress is told.
pub struct Before {
    chunks: usize,
    objects: BTreeSet<PathBuf>,
    title: Option<Vec<u8>>,
}

impl Before {
    pub fn of(folder: &Path) -> Self {
        Self {
            chunks: walk(&folder.join("chunks")).len(),
            objects: walk(&folder.join("objects")).into_iter().collect(),
            title: film(folder),
        }
    }

    pub fn phases(&self, folder: &Path) -> Phases {
        let mut phases = Phases::new();
        let chunks = walk(&folder.join("chunks"));
        let objects: BTreeSet<_> = walk(&folder.join("objects")).into_iter().collect();
        if chunks.iter().any(|path| is_temporary(path)) {
            phases.insert("a chunk half-written");
        }
        if objects.iter().any(|path| is_temporary(path)) {
            phases.insert("an object or tree half-written");
        }
        if walk(&folder.join(origin::TITLES_FOLDER)).iter().any(|path| is_temporary(path)) {
            phases.insert("title.json half-written");
        }
        let fresh = objects.difference(&self.objects).count();
        phases.insert(if film(folder) != self.title {
            "committed"
        } else if fresh > 0 {
            "objects put, no commit"
        } else if chunks.len() > self.chunks {
            "encoding, chunks cached"
        } else {
            "nothing written yet"
        });
        phases
    }
}

fn film(folder: &Path) -> Option<Vec<u8>> {
    std::fs::read(folder.join("titles/film/title.json")).ok()
}

fn settled(mut phases: Phases) -> Phases {
    if phases.is_empty() {
        phases.insert("nothing under way");
    }
    phases
}
