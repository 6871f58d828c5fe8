//! The command line: `cargo xtask demo | boot | test | fuzz | simulate | torture | bench | ci`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use crate::stop::{Interrupted, Stop};
use crate::workspace::Profile;
use crate::{bench, boot, ci, demo, fuzz, simulate, suite, torture};

const HELP: &str = "\
cargo xtask demo [--yes] [--source FILE]... [--check] [--keep] [--dev] [--port N] [--data DIR]
    Source media to a picture in the browser, on this machine: encodes two sample titles (or the films you name),
    starts a control plane and two appliances, and prints the address of the player's page. Ctrl-C ends it all.
      --yes          install missing Debian packages without asking
      --source FILE  publish this film instead of the samples; may be repeated
      --check        play to the end without a person, with and without a browser, killing the serving appliance in
                     the middle; exit 0 only if every byte was right and nothing stalled
      --keep         keep the fleet's state, and go on from it next time
      --dev          programs as the tests build them: sooner built, slower
      --port N       of the page (default 8000; the next free one if it is in use)
      --data DIR     where encoded titles and logs stay (default: demo in cargo's target folder)

cargo xtask boot --smoke [--yes] [--keep] [--dev]
    A whole box under QEMU: Debian's kernel, our static programs, one XFS disk. Fills one title from this machine, compares
    every byte, cuts the power, boots again without a control plane and compares again. Fetches the kernel once.
      --keep         leave the disk, the initramfs and the configuration behind
      --dev          programs as the tests build them

cargo xtask test [--yes]
    The whole test suite; sets up what it needs, counts skips, fails on one that nobody expects.

cargo xtask fuzz [--yes] [--target NAME]... [--seconds N] [--jobs N]
    Feeds what reads bytes from outside with bytes that nobody should send: every target of fuzz/ (or those named) for N
    seconds (default 60), as many at a time as there are processors. Names each input that crashes and how to replay it.

cargo xtask simulate [--seeds N] [--from S] [--seed S]
    Plays seeds of the appliance's simulation on all cores: a million, or as many as you say, from S on. Stops at the first
    one that fails, says what was wrong with it and how to play it again (--seed S plays one).

cargo xtask torture [--yes] [--points N] [--seed S]
    Kills the programs of a whole fleet with SIGKILL at N points (default 1000) that the seed (default: drawn, and
    printed) draws in the middle of fills, publishes, plans, swaps and deletions, and looks after each whether every promise holds.

cargo xtask ci [--yes]
    Format, lints, licences, links, the player's bundle, the test suite, a minute of each fuzz target, twenty
    points of the torture, the demo's check and the smoke boot (--dev, both); each with its time.

cargo xtask bench catalogue
    Measures on this machine, in a release build, and writes bench/results/catalogue.json.

cargo xtask bench serve [--yes] [--quick] [--rows PATTERN] [--pairs N] [--seconds S] [--folder DIR]
                        [--hot-mib N] [--cold-mib N] [--memory-mib N]
    The segment server beside nginx and fio, on the same files and in turn; about half an hour, on a quiet machine with two
    cores. Writes bench/results/serve.json, its table and its plot.
      --quick         a minute or two: everything runs, no figure is to be believed, bench/results is left alone
      --rows PATTERN  only the groups with this in their name, into the same files: hot, ranges, cold, mixed, idle, start
      --pairs N       rounds (default 5)
      --seconds S     of each measurement (default 5)
      --folder DIR    where the media files are made and kept, on the filesystem to be measured (default: bench-serve in
                      cargo's target folder); 17 GiB unless --hot-mib and --cold-mib say otherwise
";

#[derive(Debug, PartialEq)]
enum Task {
    Help,
    Demo(demo::Options),
    Boot(boot::Options),
    Test { yes: bool },
    Fuzz(fuzz::Options),
    Simulate(simulate::Options),
    Ci { yes: bool },
    Bench(bench::Options),
    Torture(torture::Options),
}

/// Exit codes: 0 done, 1 failed, 2 a wrong command line, 130 stopped by a signal half-way.
pub fn main() -> ExitCode {
    let task = match parse(lexopt::Parser::from_env()) {
        Ok(task) => task,
        Err(cause) => {
            eprintln!("{cause:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) if cause.is::<Interrupted>() => {
            eprintln!("stopped by a signal");
            ExitCode::from(130)
        }
        Err(cause) => {
            eprintln!("\nfailed: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let stop = Stop::on_signals()?;
    match task {
        Task::Help => print!("{HELP}"),
        Task::Demo(options) => demo::run(&stop, &options)?,
        Task::Boot(options) => boot::run(&stop, &options)?,
        Task::Test { yes } => suite::run(&stop, yes)?,
        Task::Fuzz(options) => fuzz::run(&stop, &options)?,
        Task::Simulate(options) => simulate::run(&stop, options)?,
        Task::Ci { yes } => ci::run(&stop, yes)?,
        Task::Bench(options) => bench::run(&stop, options)?,
        Task::Torture(options) => torture::run(&stop, options)?,
    }
    Ok(())
}

fn parse(mut parser: lexopt::Parser) -> Result<Task> {
    let name = match parser.next()? {
        None | Some(Long("help") | Short('h')) => return Ok(Task::Help),
        Some(Value(name)) => name.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    let wants_help =
        |rest: lexopt::RawArgs<'_>| rest.as_slice().iter().any(|word| word == "--help" || word == "-h");
    if parser.try_raw_args().is_some_and(wants_help) {
        return Ok(Task::Help);
    }
    match name.as_str() {
        "demo" => parse_demo(parser).map(Task::Demo),
        "boot" => parse_boot(parser).map(Task::Boot),
        "test" => Ok(Task::Test { yes: parse_yes(parser)? }),
        "fuzz" => parse_fuzz(parser).map(Task::Fuzz),
        "simulate" => parse_simulate(parser).map(Task::Simulate),
        "bench" => parse_bench(parser).map(Task::Bench),
        "ci" => Ok(Task::Ci { yes: parse_yes(parser)? }),
        "torture" => parse_torture(parser).map(Task::Torture),
        other => bail!("there is no task {other:?}"),
    }
}

fn parse_yes(mut parser: lexopt::Parser) -> Result<bool> {
    let mut yes = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => yes = true,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(yes)
}

fn parse_bench(mut parser: lexopt::Parser) -> Result<bench::Options> {
    let name = parser.value()?.string()?;
    let mut rest: Vec<_> = parser.raw_args()?.collect();
    match name.as_str() {
        "catalogue" if rest.is_empty() => Ok(bench::Options::Catalogue),
        "catalogue" => bail!("bench catalogue takes no options"),
        "serve" => {
            let count = rest.len();
            rest.retain(|word| word != "--yes");
            Ok(bench::Options::Serve { yes: rest.len() < count, rest })
        }
        other => bail!("there is no bench {other:?}: catalogue, serve"),
    }
}

fn parse_simulate(mut parser: lexopt::Parser) -> Result<simulate::Options> {
    let mut options = simulate::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => options.seeds = parser.value()?.parse()?,
            Long("from") => options.from = parser.value()?.parse()?,
            Long("seed") => options = simulate::Options { from: parser.value()?.parse()?, seeds: 1 },
            other => return Err(other.unexpected().into()),
        }
    }
    if options.seeds == 0 {
        bail!("--seeds 0 plays nothing");
    }
    Ok(options)
}

fn parse_boot(mut parser: lexopt::Parser) -> Result<boot::Options> {
    let mut options = boot::Options::default();
    let mut smoke = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("smoke") => smoke = true,
            Long("yes") => options.yes = true,
            Long("keep") => options.keep = true,
            Long("dev") => options.profile = Profile::Dev,
            other => return Err(other.unexpected().into()),
        }
    }
    if !smoke {
        bail!("boot what? There is no image yet: --smoke boots our programs on Debian's kernel");
    }
    Ok(options)
}

fn parse_torture(mut parser: lexopt::Parser) -> Result<torture::Options> {
    let mut options = torture::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => options.yes = true,
            Long("points") => options.points = parser.value()?.parse()?,
            Long("seed") => options.seed = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn parse_demo(mut parser: lexopt::Parser) -> Result<demo::Options> {
    let mut options = demo::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => options.yes = true,
            Long("check") => options.check = true,
            Long("keep") => options.keep = true,
            Long("dev") => options.profile = Profile::Dev,
            Long("port") => options.port = parser.value()?.parse()?,
            Long("data") => options.data = Some(PathBuf::from(parser.value()?)),
            Long("source") => options.sources.push(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn parse_fuzz(mut parser: lexopt::Parser) -> Result<fuzz::Options> {
    let mut options = fuzz::Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("yes") => options.yes = true,
            Long("target") => options.targets.push(parser.value()?.string()?),
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("jobs") => options.jobs = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Task> {
        parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn every_option_of_the_demo_is_read() {
        let task = parsed(&[
            "demo", "--yes", "--check", "--keep", "--dev", "--port", "9000", "--data", "/d", "--source",
            "a.mkv", "--source", "b",
        ]);
        let expected = demo::Options {
            yes: true,
            check: true,
            keep: true,
            profile: Profile::Dev,
            port: 9000,
            data: Some("/d".into()),
            sources: vec!["a.mkv".into(), "b".into()],
        };
        assert_eq!(task.unwrap(), Task::Demo(expected));
    }

    #[test]
    fn every_option_of_the_fuzzing_is_read() {
        let task = parsed(&[
            "fuzz",
            "--yes",
            "--target",
            "range",
            "--target",
            "token",
            "--seconds",
            "9",
            "--jobs",
            "3",
        ]);
        let targets = vec!["range".to_owned(), "token".to_owned()];
        let expected = fuzz::Options { yes: true, targets, seconds: 9, jobs: Some(3) };
        assert_eq!(task.unwrap(), Task::Fuzz(expected));
    }

    #[test]
    fn seeds_are_a_million_or_what_was_asked_for() {
        let seeds = |arguments: &[&str]| match parsed(arguments).unwrap() {
            Task::Simulate(options) => (options.from, options.seeds),
            other => panic!("{other:?}"),
        };
        assert_eq!(seeds(&["simulate"]), (0, 1_000_000));
        assert_eq!(seeds(&["simulate", "--seeds", "7", "--from", "5"]), (5, 7));
        assert_eq!(seeds(&["simulate", "--seed", "42"]), (42, 1));
        assert!(parsed(&["simulate", "--seeds", "0"]).is_err());
    }

    #[test]
    fn the_smoke_boot_is_named() {
        let task = parsed(&["boot", "--smoke", "--keep"]).unwrap();
        let expected = boot::Options { yes: false, keep: true, profile: Profile::Release };
        assert_eq!(task, Task::Boot(expected));
    }

    #[test]
    fn the_serving_bench_reads_its_options_itself() {
        let task = parsed(&["bench", "serve", "--quick", "--yes", "--rows", "cold"]).unwrap();
        let rest = ["--quick", "--rows", "cold"].map(Into::into).to_vec();
        assert_eq!(task, Task::Bench(bench::Options::Serve { yes: true, rest }));
        assert_eq!(parsed(&["bench", "catalogue"]).unwrap(), Task::Bench(bench::Options::Catalogue));
    }

    #[test]
    fn torture_has_a_thousand_points_unless_told_otherwise() {
        let of = |points, seed| Task::Torture(torture::Options { points, seed, yes: false });
        assert_eq!(parsed(&["torture"]).unwrap(), of(1000, None));
        assert_eq!(parsed(&["torture", "--points", "20", "--seed", "7"]).unwrap(), of(20, Some(7)));
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for wrong in [
            &["boot"][..],
            &["demo", "--port", "x"],
            &["dance"],
            &["test", "--fast"],
            &["fuzz", "--jobs", "x"],
            &["demo", "stray"],
            &["torture", "--points", "-1"],
            &["bench"],
            &["bench", "speed"],
            &["bench", "catalogue", "--quick"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
