//! `cargo xtask fuzz`: every fuzz target for a while, all built once, some at a time; what each did, and its crashes.
//!
//! ```text
//! fuzz/corpus/TARGET             read; kept in the repository
//! TARGET/fuzz/corpus/TARGET      new inputs that reach new code go here: cargo's target folder, ignored
//! TARGET/fuzz/artifacts/TARGET   inputs that crash, hang or take too much memory
//! ```
//! The binaries are libFuzzer's: its flags bound time, memory and length, and its last lines give the figures.

use std::collections::VecDeque;
use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::packages::{self, Package};
use crate::process::{Launch, Service};
use crate::stop::Stop;
use crate::{clock, process, suite, workspace};

/// libFuzzer is C++.
const COMPILER: [Package; 1] = [Package { name: "g++", provides: "c++" }];
/// An input that takes more than this, or longer, counts as a crash.
const MEMORY_MIB_MAX: u32 = 1024;
const INPUT_S_MAX: u32 = 30;
/// A target that does not end by itself when its time is over hangs.
const GRACE: Duration = Duration::from_secs(60);

struct Target {
    name: &'static str,
    dictionary: &'static str,
    input_bytes_max: u32,
}

const fn target(name: &'static str, dictionary: &'static str, input_bytes_max: u32) -> Target {
    Target { name, dictionary, input_bytes_max }
}

/// The longest inputs: two times what the format's limit or a real file has.
const TARGETS: [Target; 12] = [
    target("catalogue", "", 32 << 10),
    target("conditional", "head", 1 << 10),
    target("control_api", "json", 8 << 10),
    target("footer", "", 9 << 10),
    target("hls_playlist", "m3u8", 8 << 10),
    target("manifest", "json", 8 << 10),
    target("range", "head", 128),
    target("request_head", "head", 9 << 10),
    target("resume_record", "json", 512),
    target("title", "json", 12 << 10),
    target("tls_feed", "", 4 << 10),
    target("token", "json", 2 << 10),
];

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub yes: bool,
    /// Empty: all.
    pub targets: Vec<String>,
    /// For each target.
    pub seconds: u64,
    /// Targets at a time; None: one per processor.
    pub jobs: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { yes: false, targets: Vec::new(), seconds: 60, jobs: None }
    }
}

/// Where a run keeps what is not kept.
struct Folders {
    binaries: PathBuf,
    found: PathBuf,
    /// In memory: two targets write files at every input.
    scratch: PathBuf,
}

impl Drop for Folders {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(&self.scratch) {
            eprintln!("      cannot remove {}: {cause}", self.scratch.display());
        }
    }
}

/// What a target's run came to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    executions: u64,
    /// Edges of the control flow that some input reached.
    coverage: u64,
    found: u64,
    /// The input that ended the run.
    artefact: Option<String>,
}

struct Run {
    target: &'static Target,
    service: Service,
    start: Instant,
    cpu_s: f64,
}

pub fn run(stop: &Stop, options: &Options) -> Result<()> {
    let mut waiting = chosen(&options.targets)?;
    let folders = build(stop, options.yes)?;
    let jobs = options.jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let jobs = jobs.unwrap_or(1).max(1);
    let (mut running, mut failures) = (Vec::new(), Vec::new());
    println!("target           executions   edges  new inputs   CPU s");
    while !waiting.is_empty() || !running.is_empty() {
        stop.check()?;
        while running.len() < jobs
            && let Some(target) = waiting.pop_front()
        {
            running.push(start(target, &folders, options.seconds)?);
        }
        for index in (0..running.len()).rev() {
            if let Some(status) = look(&mut running[index], options.seconds)? {
                let run = running.swap_remove(index);
                failures.extend(conclude(&run, &folders, status)?);
            }
        }
        clock::pause(Duration::from_millis(100));
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

fn chosen(names: &[String]) -> Result<VecDeque<&'static Target>> {
    if let Some(unknown) = names.iter().find(|name| !TARGETS.iter().any(|target| target.name == **name)) {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no fuzz target {unknown:?}; there are {}", known.join(", "));
    }
    Ok(TARGETS.iter().filter(|target| names.is_empty() || names.iter().any(|n| n == target.name)).collect())
}

/// What the build needs beside Rust.
pub fn prepare(stop: &Stop, yes: bool) -> Result<()> {
    packages::ensure(&COMPILER, yes)?;
    if workspace::find_program("cargo-fuzz").is_none() {
        eprintln!("      installing cargo-fuzz (once)");
        suite::cargo(stop, &["install", "--locked", "cargo-fuzz"])?;
    }
    Ok(())
}

/// Builds all of them at once. No sanitizer: what they run is safe Rust, but for libraries that have their own fuzzing.
fn build(stop: &Stop, yes: bool) -> Result<Folders> {
    prepare(stop, yes)?;
    let target = folder()?;
    let status = process::run(stop, &mut build_command("0", &target))?;
    if !status.success() {
        bail!("cargo fuzz build failed ({status})");
    }
    let memory = Path::new("/dev/shm");
    let scratch = if memory.is_dir() { memory } else { &target };
    let scratch = scratch.join(format!("oca-fuzz-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let binaries = target.join(format!("{ARCH}-unknown-linux-gnu/release"));
    Ok(Folders { binaries, found: target, scratch })
}

/// After [`prepare`]: builds without a word, and only while nothing else wants the processor. What fails, the run says.
pub fn build_ahead(stop: &Stop) -> Result<()> {
    let mut command = build_command(process::LAST, &folder()?);
    process::run(stop, command.stdout(Stdio::null()).stderr(Stdio::null())).map(drop)
}

fn folder() -> Result<PathBuf> {
    Ok(workspace::target()?.join("fuzz"))
}

fn build_command(niceness: &str, target: &Path) -> Command {
    // One code generation unit, cargo-fuzz's default, takes twice as long.
    let words = ["-n", niceness, "cargo", "fuzz", "build", "--sanitizer", "none", "--codegen-units", "16"];
    let mut command = process::command(Path::new("nice"), words);
    command.arg("--target-dir").arg(target).current_dir(workspace::root());
    command
}

fn start(target: &'static Target, folders: &Folders, seconds: u64) -> Result<Run> {
    let found = folders.found.join("corpus").join(target.name);
    let artefacts = folders.found.join("artifacts").join(target.name);
    for folder in [&found, &artefacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let log = folders.found.join(format!("{}.log", target.name));
    fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let kept = workspace::root().join("fuzz");
    let flag = |name: &str, value: String| OsString::from(format!("-{name}={value}"));
    let mut arguments = vec![OsString::from(format!("TMPDIR={}", folders.scratch.display()))];
    arguments.extend([
        folders.binaries.join(target.name).into_os_string(),
        flag("max_total_time", seconds.to_string()),
        flag("max_len", target.input_bytes_max.to_string()),
        flag("rss_limit_mb", MEMORY_MIB_MAX.to_string()),
        flag("timeout", INPUT_S_MAX.to_string()),
        flag("artifact_prefix", format!("{}/", artefacts.display())),
        flag("print_final_stats", "1".to_owned()),
    ]);
    if !target.dictionary.is_empty() {
        let dictionary = kept.join("dictionaries").join(format!("{}.dict", target.dictionary));
        arguments.push(flag("dict", dictionary.display().to_string()));
    }
    // What is new goes to the first.
    arguments.extend([found.into_os_string(), kept.join("corpus").join(target.name).into_os_string()]);
    let launch = Launch { name: target.name.to_owned(), program: "/usr/bin/env".into(), arguments, log };
    Ok(Run { target, service: launch.start()?, start: clock::now(), cpu_s: 0.0 })
}

/// How it ended, if it has. One that outlives its time by far is killed.
fn look(run: &mut Run, seconds: u64) -> Result<Option<ExitStatus>> {
    // The process is gone, and its times with it, when its end is known.
    run.cpu_s = cpu_s(run.service.id()).unwrap_or(run.cpu_s).max(run.cpu_s);
    if run.start.elapsed() > Duration::from_secs(seconds).saturating_add(GRACE) {
        run.service.kill()?;
    }
    run.service.ended()
}

/// User and system time of a process, proc_pid_stat(5): fields 14 and 15, in hundredths of a second.
fn cpu_s(process: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().ok());
    ticks.sum::<Option<f64>>().map(|ticks| ticks / 100.0)
}

/// Prints its row; gives what is to be said of a failure.
fn conclude(run: &Run, folders: &Folders, status: ExitStatus) -> Result<Option<String>> {
    let log = fs::read(run.service.log())
        .with_context(|| format!("cannot read {}", run.service.log().display()))?;
    let outcome = read_log(&String::from_utf8_lossy(&log));
    let (name, cpu_s) = (run.target.name, run.cpu_s);
    println!(
        "{name:<14} {:>12} {:>7} {:>11} {cpu_s:>7.1}",
        outcome.executions, outcome.coverage, outcome.found
    );
    let binary = folders.binaries.join(name);
    Ok(match outcome.artefact {
        Some(artefact) => Some(format!(
            "{name} found {artefact}; it happens again with\n    {} {artefact}",
            binary.display()
        )),
        None if !status.success() => Some(format!("{name} ended: {status}\n{}", run.service.log_tail())),
        None if outcome.executions == 0 => Some(format!("{name} ran nothing\n{}", run.service.log_tail())),
        None => None,
    })
}

/// libFuzzer's own words: `#9 DONE cov: 12 ft: …`, `stat::number_of_executed_units: 9`, `Test unit written to …`.
fn read_log(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in text.lines() {
        let number = |mark: &str| -> Option<u64> {
            let (_, rest) = line.split_once(mark)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        outcome.coverage = number(" cov: ").unwrap_or(outcome.coverage);
        outcome.executions = number("stat::number_of_executed_units:").unwrap_or(outcome.executions);
        outcome.found = number("stat::new_units_added:").unwrap_or(outcome.found);
        if let Some((_, path)) = line.split_once("Test unit written to ")
            && !path.contains("/slow-unit-")
        {
            outcome.artefact = Some(path.trim().to_owned());
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let text = "INFO: Seed: 1\n#2\tINITED cov: 5 ft: 5 corp: 1/1b\n#900\tREDUCE cov: 77 ft: 80 corp: 9/1b lim: 4\n\
                    stat::number_of_executed_units: 901\nstat::new_units_added:         8\n";
        let expected = Outcome { executions: 901, coverage: 77, found: 8, artefact: None };
        assert_eq!(read_log(text), expected);
        let crash = format!(
            "{text}artifact_prefix='x'; Test unit written to /a/slow-unit-1\n\
                             artifact_prefix='x'; Test unit written to /a/crash-0f\n"
        );
        assert_eq!(read_log(&crash).artefact.as_deref(), Some("/a/crash-0f"));
        assert_eq!(read_log(""), Outcome::default());
    }

    #[test]
    fn every_target_has_its_source_its_corpus_and_its_dictionary() {
        let fuzz = workspace::root().join("fuzz");
        let list = |folder: &str| fs::read_dir(fuzz.join(folder)).unwrap().count();
        assert_eq!((list("fuzz_targets"), list("corpus")), (TARGETS.len(), TARGETS.len()));
        for target in TARGETS {
            assert!(fuzz.join(format!("fuzz_targets/{}.rs", target.name)).is_file(), "{}", target.name);
            assert!(list(&format!("corpus/{}", target.name)) > 0, "{}", target.name);
            let dictionary = fuzz.join(format!("dictionaries/{}.dict", target.dictionary));
            assert!(target.dictionary.is_empty() || dictionary.is_file(), "{}", target.name);
        }
        let named = |name: &str| chosen(&[name.to_owned()]);
        assert!(named("range").is_ok_and(|targets| targets.len() == 1) && named("rang").is_err());
    }

    #[test]
    fn our_own_processor_time_is_read() {
        assert!(cpu_s(std::process::id()).is_some_and(|seconds| (0.0..1e6).contains(&seconds)));
    }
}
