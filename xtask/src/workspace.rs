//! Where things are: the repository, its target folder, programs on PATH.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::stop::Stop;

/// The packages whose binaries make a fleet, and those binaries.
pub const BINARIES: [(&str, &str); 5] = [
    ("appliance", "oca-appliance"),
    ("fill-agent", "oca-fill"),
    ("control-plane", "oca-control"),
    ("playback-client", "oca-play"),
    ("media-pipeline", "oca-media"),
];

/// The first program of the smoke boot: package and binary.
const SMOKE_INIT: &str = "smoke-init";

/// The repository's root: this package is the folder `xtask` in it.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is a folder in the repository").to_owned()
}

/// Cargo's target folder, wherever configuration puts it.
pub fn target() -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(folder.into())
}

/// The first file of that name on PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = search_path()?;
    let candidates =
        path.split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join(name));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

#[expect(clippy::disallowed_methods, reason = "PATH is how the system says where programs are")]
fn search_path() -> Option<String> {
    std::env::var("PATH").ok()
}

/// The five binaries in `folder`; an error names those that are not there.
pub fn check_binaries(folder: &Path) -> Result<()> {
    let missing: Vec<_> =
        BINARIES.iter().map(|(_, name)| *name).filter(|name| !folder.join(name).is_file()).collect();
    if !missing.is_empty() {
        bail!("{} has no {}: build them first", folder.display(), missing.join(", "));
    }
    Ok(())
}

/// Builds the programs that people and boots run, into the folder `release` of the target folder. One build for all: what is asked
/// for together decides the dependencies' features, and another set of programs would compile them again.
pub fn build_release(stop: &Stop) -> Result<()> {
    let status = process::run(stop, &mut release_build("0"))?;
    if !status.success() {
        bail!("the build failed ({status}); cargo's reason is above");
    }
    Ok(())
}

/// The same without a word, and only while nothing else wants the processor. What fails is said by the next who builds.
pub fn build_release_ahead(stop: &Stop) -> Result<()> {
    let mut command = release_build(process::LAST);
    process::run(stop, command.stdout(Stdio::null()).stderr(Stdio::null())).map(drop)
}

fn release_build(niceness: &str) -> Command {
    let mut command = process::command(Path::new("nice"), ["-n", niceness, "cargo", "build", "--release"]);
    for (package, binary) in BINARIES.into_iter().chain([(SMOKE_INIT, SMOKE_INIT)]) {
        command.args(["--package", package, "--bin", binary]);
    }
    command.env("RUSTC_WORKSPACE_WRAPPER", root().join(".cargo/static.sh")).current_dir(root());
    command
}
