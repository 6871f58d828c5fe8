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

/// The package of the smoke boot's first program.
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

/// How the programs of a demo or a boot are built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As they ship.
    #[default]
    Release,
    /// As the tests have them: after those, there is nothing left to build.
    Dev,
}

impl Profile {
    /// Its part of the target folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// Builds the programs that people and tests run; static, if for release. All at once, and for development the tests too:
/// what is asked for together decides the dependencies' features, and another set would compile them again.
pub fn build_programs(stop: &Stop, profile: Profile) -> Result<()> {
    match profile {
        Profile::Release => {
            let packages = BINARIES.iter().map(|(package, _)| *package).chain([SMOKE_INIT]);
            let packages: Vec<_> = packages.flat_map(|package| ["--package", package]).collect();
            build(stop, &[&["--release", "--bins"], &packages[..]].concat(), true)
        }
        Profile::Dev => build(stop, &["--workspace", "--lib", "--bins", "--tests"], false),
    }
}

/// The same, and what a box runs is static, whatever the profile.
pub fn build_for_a_box(stop: &Stop, profile: Profile) -> Result<()> {
    build_programs(stop, profile)?;
    if profile == Profile::Release {
        return Ok(());
    }
    // In the place of the others. The test is small, and brings in the features that the tests' dependencies have.
    let programs = ["--bin", "oca-appliance", "--bin", "oca-fill", "--bin", SMOKE_INIT];
    build(stop, &[&["--workspace", "--test", "command_line"], &programs[..]].concat(), true)
}

fn build(stop: &Stop, arguments: &[&str], is_static: bool) -> Result<()> {
    let mut command = process::command(Path::new("cargo"), ["build"]);
    command.args(arguments).current_dir(root());
    if is_static {
        command.env("RUSTC_WORKSPACE_WRAPPER", root().join(".cargo/static.sh"));
    }
    let status = process::run(stop, &mut command)?;
    if !status.success() {
        bail!("the build failed ({status}); cargo's reason is above");
    }
    Ok(())
}
