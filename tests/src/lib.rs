//! Fixtures for what crosses parts: real binaries, real sockets, real media.
//!
//! [`shelf`] is one server with hand-made files, for everything about requests. [`world`] is a published title and a
//! whole fleet, for everything that needs more than one program. [`site`] is one box whose disks ([`disk`]) and clocks a
//! test may break. [`wire`] is HTTP on a bare socket. [`filler`] makes catalogues large, [`pulse`] feels a pause.

pub mod disk;
pub mod filler;
pub mod pulse;
pub mod shelf;
pub mod site;
pub mod wire;
pub mod world;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use content::catalogue::file::Catalogue;
use content::catalogue::{CATALOGUE_FOLDER, CURRENT_NAME, Contents, generation_name, generation_of_current};

/// What the generation says that `current` names in a box's state folder. An old one is removed while the next becomes
/// current: then this fails, and may be tried again.
pub fn current_contents(state: &Path) -> Result<Contents> {
    let folder = state.join(CATALOGUE_FOLDER);
    let current =
        generation_of_current(&fs::read(folder.join(CURRENT_NAME))?)?.context("`current` names nothing")?;
    Ok(Catalogue::open(&folder.join(generation_name(current)))?.contents())
}

/// The folder of the binaries under test: where Cargo put this test program's own.
///
/// # Panics
/// If they have not been built: `cargo test --package fleet-tests` alone builds no other package's.
pub fn binaries() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let deps = program.parent().expect("a program is in a folder");
    let folder = deps.parent().expect("Cargo puts test programs into deps/").to_owned();
    if let Err(cause) = xtask::workspace::check_binaries(&folder) {
        panic!("{cause}: cargo build --workspace --bins");
    }
    folder
}
