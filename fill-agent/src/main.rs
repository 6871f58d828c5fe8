//! `oca-fill`: reads arguments and configuration, starts the library, says how it ended. Nothing else.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use fill_agent::agent::{self, Tuning};
use fill_agent::config;
use fill_agent::show_plan;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const USAGE: &str = "\
usage: oca-fill run --config FILE    fill this box and report, until SIGTERM or SIGINT
       oca-fill plan --config FILE   print what would be pulled and deleted; changes nothing
exit: 0 done, 1 a failure of host or network, 2 wrong arguments or configuration";

enum Command {
    Run(PathBuf),
    Plan(PathBuf),
    Help,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("OCA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let coloured = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(coloured).with_writer(std::io::stderr).init();
    let command = match parse(lexopt::Parser::from_env()) {
        Ok(command) => command,
        Err(cause) => {
            eprintln!("oca-fill: {cause}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Run(file) => with_runtime(|runtime| run(runtime, &file)),
        Command::Plan(file) => with_runtime(|runtime| plan(runtime, &file)),
        Command::Help => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oca-fill: {error:#}");
            let operator = error.downcast_ref::<config::OperatorError>().is_some();
            ExitCode::from(if operator { 2 } else { 1 })
        }
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Command, lexopt::Error> {
    use lexopt::prelude::*;
    let mut command = None;
    let mut file = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) if command.is_none() => command = Some(word.string()?),
            Long("config") => file = Some(PathBuf::from(arguments.value()?)),
            Long("help") | Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    let command = command.ok_or("a command is missing")?;
    let file = file.ok_or("--config FILE is missing");
    match command.as_str() {
        "run" => Ok(Command::Run(file?)),
        "plan" => Ok(Command::Plan(file?)),
        _ => Err(format!("unknown command {command:?}").into()),
    }
}

fn with_runtime(work: impl FnOnce(&tokio::runtime::Runtime) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting threads")?;
    let done = work(&runtime);
    // A thread that hangs in a dead disk must not keep the process.
    runtime.shutdown_background();
    done
}

fn run(runtime: &tokio::runtime::Runtime, file: &Path) -> anyhow::Result<()> {
    let setup = config::load(file)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        agent::run(setup, Tuning::default(), stop).await?;
        tracing::info!("stopped");
        Ok(())
    })
}

fn plan(runtime: &tokio::runtime::Runtime, file: &Path) -> anyhow::Result<()> {
    let setup = config::load(file)?;
    let text = runtime.block_on(show_plan::show(&setup))?;
    print!("{text}");
    Ok(())
}
