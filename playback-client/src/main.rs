//! `oca-play`: reads the command line, plays or verifies, prints, and says by its exit status how it went.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use playback_client::arguments::{self, Command, PlayCommand};
use playback_client::clock::Clock;
use playback_client::network::Tcp;
use playback_client::{play, verify};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

const FAILED: u8 = 1;
const BAD_ARGUMENTS: u8 = 2;
const STALLED: u8 = 3;

fn main() -> ExitCode {
    start_logging();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(FAILED, &format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        let clock = Clock::start();
        let command = match arguments::parse(std::env::args_os().skip(1), &clock.session_name()) {
            Ok(command) => command,
            Err(error) => return complain(BAD_ARGUMENTS, &error.to_string()),
        };
        let ended = match command {
            Command::Help => print(arguments::HELP).map(|()| ExitCode::SUCCESS),
            Command::Play(command) => run_play(*command, clock).await,
            Command::Verify { origin, fragments, complete } => {
                run_verify(&origin, &fragments, complete.as_deref())
            }
        };
        ended.unwrap_or_else(|error| complain(FAILED, &format!("{error:#}")))
    })
}

fn start_logging() {
    let filter = EnvFilter::try_from_env("OCA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

async fn run_play(command: PlayCommand, clock: Clock) -> Result<ExitCode> {
    let PlayCommand { control, request, settings, stall_max, json, fragments } = command;
    let outcome = play::play(control, request, settings, Box::new(Tcp), clock).await;
    if let Some(path) = json {
        write_json(&path, &outcome.summary)?;
    }
    if let Some(path) = fragments {
        write_json(&path, &outcome.ledger.fragments)?;
    }
    print(&outcome.summary.table())?;
    let stalled = stall_max.is_some_and(|limit| u128::from(outcome.summary.stall_ms_max) > limit.as_millis());
    Ok(match outcome.error {
        Some(error) => complain(FAILED, &error.to_string()),
        None if stalled => {
            let what = format!("the picture froze for {} ms at a time", outcome.summary.stall_ms_max);
            complain(STALLED, &what)
        }
        None => ExitCode::SUCCESS,
    })
}

fn run_verify(origin: &Path, fragments: &Path, complete: Option<&Path>) -> Result<ExitCode> {
    let verdict = verify::verify(origin, fragments, complete)?;
    for difference in &verdict.differences {
        print(&format!("{difference}\n"))?;
    }
    let verify::Verdict { fragments, bytes, difference_count, .. } = verdict;
    if difference_count > 0 {
        let what = format!("{difference_count} differences among {fragments} fragments");
        return Ok(complain(FAILED, &what));
    }
    let complete = if complete.is_some() { ", nothing is missing" } else { "" };
    print(&format!("{fragments} fragments, {bytes} bytes, all as in the origin{complete}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn complain(status: u8, what: &str) -> ExitCode {
    eprintln!("oca-play: {what}");
    ExitCode::from(status)
}
