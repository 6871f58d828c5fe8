//! `cargo xtask bench NAME`: builds for release, measures, writes `bench/results/NAME.json`. Wants a quiet machine.

use anyhow::{Result, bail};

use crate::stop::Stop;
use crate::suite;

pub fn run(stop: &Stop, name: &str) -> Result<()> {
    if name != "catalogue" {
        bail!("there is no bench {name:?}: catalogue");
    }
    suite::cargo(stop, &["build", "--release", "--package", "appliance", "--package", "bench"])?;
    suite::cargo(stop, &["bench", "--package", "bench", "--bench", name])?;
    suite::cargo(stop, &["run", "--release", "--package", "bench", "--", name])
}
