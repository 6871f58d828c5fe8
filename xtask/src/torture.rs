//! `cargo xtask torture`: builds the programs and the harness that kills them (`tests/src/torture`), and runs it.

use anyhow::{Result, bail};

use crate::stop::Stop;
use crate::workspace::Profile;
use crate::{packages, process, workspace};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub points: u32,
    /// None: the harness draws one, and prints it.
    pub seed: Option<u64>,
    /// Install missing packages without asking.
    pub yes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { points: 1000, seed: None, yes: false }
    }
}

pub fn run(stop: &Stop, options: Options) -> Result<()> {
    packages::ensure(&packages::ENCODING, options.yes)?;
    workspace::build_programs(stop, Profile::Dev)?;
    let mut arguments = vec!["--points".to_owned(), options.points.to_string()];
    arguments.extend(options.seed.map(|seed| format!("--seed={seed}")));
    let program = workspace::target()?.join("debug").join("torture");
    let status = process::run(stop, &mut process::command(&program, arguments))?;
    if !status.success() {
        bail!("torture failed ({status}); its reason and the command to repeat it are above");
    }
    Ok(())
}
