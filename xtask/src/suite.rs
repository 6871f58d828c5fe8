//! `cargo xtask test`: the whole test suite, with all its set-up; counts what ran, what failed and what was skipped.
//!
//! A test that cannot run here prints `SKIP: reason` and returns. One whose reason is not in [`EXPECTED_SKIPS`] fails the
//! suite, and so does a test marked `#[ignore]`: nothing drops out silently.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::progress::Line;
use crate::stop::Stop;
use crate::workspace::Profile;
use crate::{packages, process, workspace};

/// How the reasons begin that are no defect on some machine.
const EXPECTED_SKIPS: [&str; 0] = [];

/// What the runners of a suite said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Reasons.
    pub skips: Vec<String>,
}

impl Tally {
    /// Reads one line of libtest's or node's runner.
    fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.ignored += number_before(result, " ignored");
        } else if let Some((_, reason)) = line.split_once("SKIP: ") {
            self.skips.push(reason.trim().to_owned());
        }
        // node --test: TAP says `# pass 3`, the spec reporter `ℹ pass 3`.
        let Some(figure) = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ ")) else { return };
        match figure.split_once(' ').map(|(word, count)| (word, count.trim().parse().unwrap_or(0))) {
            Some(("pass", count)) => self.passed += count,
            Some(("fail", count)) => self.failed += count,
            Some(("skipped" | "todo", count)) => self.ignored += count,
            _ => {}
        }
    }

    fn unexpected(&self) -> impl Iterator<Item = &String> {
        self.skips.iter().filter(|reason| !EXPECTED_SKIPS.iter().any(|expected| reason.starts_with(expected)))
    }
}

/// The digits right before `mark`.
fn number_before(text: &str, mark: &str) -> u64 {
    let Some((before, _)) = text.split_once(mark) else { return 0 };
    let digits = before.rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

pub fn run(stop: &Stop, yes: bool) -> Result<()> {
    let mut tally = Tally::default();
    let browser_and_node = [&packages::BROWSER[..], &packages::NODE[..]].concat();
    eprintln!("==> packages that the tests use");
    let others = [&packages::BREAKING[..], &packages::ARCHIVES, &packages::PEERS].concat();
    let wanted = [&packages::ENCODING[..], &browser_and_node, &others].concat();
    packages::ensure(&wanted, yes)?;

    eprintln!("==> the tests, and the programs that they run");
    workspace::build_programs(stop, Profile::Dev)?;
    // Before the tests: some of them play in other people's players, which come with the player's packages.
    prepare_player(stop)?;
    eprintln!("==> cargo test");
    let arguments = ["test", "--workspace", "--no-fail-fast", "--", "--show-output"];
    let rust_passed = tallied(stop, "cargo", &arguments, &workspace::root(), &mut tally)?;
    eprintln!("==> the player's tests");
    let player = workspace::root().join("player");
    let player_passed = tallied(stop, "npm", &["test", "--silent"], &player, &mut tally)?;
    conclude(&tally, rust_passed && player_passed)
}

/// Fetches what the player is built and tested with, as its lock file says.
pub fn prepare_player(stop: &Stop) -> Result<()> {
    let player = workspace::root().join("player");
    let changed = |name: &str| fs::metadata(player.join(name)).and_then(|data| data.modified()).ok();
    // npm writes this file last.
    let installed = changed("node_modules/.package-lock.json");
    if installed.is_some() && installed >= changed("package-lock.json") {
        return Ok(());
    }
    let mut command = process::command(Path::new("npm"), ["ci", "--no-audit", "--no-fund"]);
    let line = Line::new();
    let status = process::run(stop, command.current_dir(&player).stdout(Stdio::null()))?;
    if !status.success() {
        bail!("npm ci failed in {} ({status})", player.display());
    }
    line.end("npm ci");
    Ok(())
}

pub fn cargo(stop: &Stop, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(Path::new("cargo"), arguments);
    let status = process::run(stop, command.current_dir(workspace::root()))?;
    if !status.success() {
        bail!("cargo {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Runs a test runner, passes on what it prints, and counts. True if it exits with 0.
fn tallied(stop: &Stop, program: &str, arguments: &[&str], folder: &Path, tally: &mut Tally) -> Result<bool> {
    let mut command = process::command(Path::new(program), arguments);
    // Most tests wait more than they compute: for sockets, clocks and deadlines.
    let threads = std::thread::available_parallelism().map_or(1, usize::from) * 2;
    command.env("RUST_TEST_THREADS", threads.to_string());
    command.current_dir(folder).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    let output = child.stdout.take().context("the runner's output was asked for")?;
    // Ends the runner when a signal comes while its output is read.
    let waiter = {
        let stop = stop.clone();
        std::thread::spawn(move || process::wait(&stop, child))
    };
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        tally.read(text.trim_end());
        line.clear();
    }
    let status =
        waiter.join().map_err(|_| anyhow::anyhow!("the thread that waits for {program} panicked"))??;
    Ok(status.success())
}

fn conclude(tally: &Tally, runners_passed: bool) -> Result<()> {
    for reason in &tally.skips {
        println!("skipped: {reason}");
    }
    println!(
        "\ntest suite: {} passed; {} failed; {} skipped; {} ignored",
        tally.passed,
        tally.failed,
        tally.skips.len(),
        tally.ignored
    );
    let unexpected: Vec<_> = tally.unexpected().map(String::as_str).collect();
    if !runners_passed || tally.failed > 0 {
        bail!("tests failed; see above");
    }
    if !unexpected.is_empty() {
        bail!("skips that nobody expects: {}", unexpected.join("; "));
    }
    if tally.ignored > 0 {
        bail!("{} tests are marked as ignored; a test that cannot run says why with SKIP", tally.ignored);
    }
    if tally.passed == 0 {
        bail!("not one test ran");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn both_runners_are_counted() {
        let text = "test a ... ok\nSKIP: no kTLS here\n\
                    test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
                    test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    # tests 5\n# pass 4\n# fail 1\n# skipped 0\nℹ pass 7\n";
        let counted = tally(text);
        assert_eq!((counted.passed, counted.failed, counted.ignored), (26, 3, 1));
        assert_eq!(counted.skips, ["no kTLS here"]);
    }

    #[test]
    fn an_unexpected_skip_an_ignored_test_and_an_empty_run_fail() {
        let good = "test result: ok. 1 passed; 0 failed; 0 ignored;\n";
        assert!(conclude(&tally(good), true).is_ok());
        assert!(conclude(&tally(good), false).is_err());
        assert!(conclude(&tally(""), true).is_err());
        assert!(conclude(&tally(&format!("{good}SKIP: nobody expects this\n")), true).is_err());
        assert!(conclude(&tally("test result: ok. 1 passed; 0 failed; 1 ignored;\n"), true).is_err());
    }
}
