//! The command line of the bench.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lexopt::prelude::*;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where the media files are made, and kept for the next run. None: in cargo's target folder.
    pub folder: Option<PathBuf>,
    /// Only the group of rows with this name, or those whose names have this in them.
    pub rows: String,
    /// How often each is measured beside each other.
    pub pairs: usize,
    /// Of one measurement.
    pub window: Duration,
    pub hot_mib: u64,
    pub cold_mib: u64,
    pub memory_mib: u64,
    /// Too short to be believed: figures go to another folder than `bench/results`.
    pub quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            folder: None,
            rows: String::new(),
            pairs: 5,
            window: Duration::from_secs(5),
            hot_mib: 512,
            cold_mib: 16 << 10,
            memory_mib: 1024,
            quick: false,
        }
    }
}

impl Options {
    fn quick() -> Self {
        Self { pairs: 1, window: Duration::from_secs(1), cold_mib: 2 << 10, quick: true, ..Self::default() }
    }

    pub fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let words: Vec<_> = parser.raw_args()?.collect();
        let quick = words.iter().any(|word| word == "--quick");
        let mut options = if quick { Self::quick() } else { Self::default() };
        let mut parser = lexopt::Parser::from_args(words);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("quick") => {}
                Long("folder") => options.folder = Some(PathBuf::from(parser.value()?)),
                Long("rows") => options.rows = parser.value()?.string()?,
                Long("pairs") => options.pairs = parser.value()?.parse()?,
                Long("seconds") => options.window = seconds(parser.value()?.parse()?)?,
                Long("hot-mib") => options.hot_mib = parser.value()?.parse()?,
                Long("cold-mib") => options.cold_mib = parser.value()?.parse()?,
                Long("memory-mib") => options.memory_mib = parser.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        options.check()
    }

    fn check(self) -> Result<Self> {
        ensure!(self.pairs > 0, "--pairs 0 measures nothing");
        ensure!(self.hot_mib > 0 && self.cold_mib > 0, "a set of files is not empty");
        // A tenth of the memory is on probation (S3-FIFO), where one look of a cold request pushes things out.
        ensure!(
            self.hot_mib * 5 <= self.memory_mib * 4,
            "--hot-mib does not fit in --memory-mib with room to spare"
        );
        Ok(self)
    }
}

fn seconds(seconds: f64) -> Result<Duration> {
    if (0.1..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        bail!("--seconds: 0.1 to 600")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Options> {
        Options::parse(lexopt::Parser::from_args(words))
    }

    #[test]
    fn what_is_said_goes_before_what_quick_means_wherever_it_stands() {
        let options = parsed(&["--pairs", "3", "--quick", "--rows", "cold", "--seconds", "0.5"]).unwrap();
        let window = Duration::from_millis(500);
        assert_eq!(options, Options { pairs: 3, rows: "cold".to_owned(), window, ..Options::quick() });
        assert_eq!(parsed(&[]).unwrap(), Options::default());
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for wrong in
            [&["--pairs", "0"][..], &["--seconds", "-1"], &["--fast"], &["--hot-mib", "1000"], &["x"]]
        {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
