//! `cargo xtask bench NAME`: builds for release, measures, writes `bench/results/NAME.json`. Wants a quiet machine.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::stop::Stop;
use crate::{packages, process, suite, workspace};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Options {
    Catalogue,
    /// The bench's own program reads `rest`.
    Serve {
        yes: bool,
        rest: Vec<OsString>,
    },
}

pub fn run(stop: &Stop, options: Options) -> Result<()> {
    match options {
        Options::Catalogue => {
            suite::cargo(stop, &["build", "--release", "--package", "appliance", "--package", "bench"])?;
            suite::cargo(stop, &["bench", "--package", "bench", "--bench", "catalogue"])?;
            suite::cargo(stop, &["run", "--release", "--package", "bench", "--", "catalogue"])
        }
        Options::Serve { yes, rest } => serve(stop, yes, rest),
    }
}

fn serve(stop: &Stop, yes: bool, rest: Vec<OsString>) -> Result<()> {
    packages::ensure(&packages::SERVE_BENCH, yes)?;
    suite::cargo(stop, &["build", "--release", "--package", "appliance", "--package", "serve-bench"])?;
    let program = workspace::target()?.join("release/oca-bench-serve");
    let status = process::run(stop, &mut process::command(&program, rest))?;
    if !status.success() {
        bail!("the bench failed ({status}); its reason is above");
    }
    Ok(())
}
