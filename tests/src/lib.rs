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

use std::path::PathBuf;

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
