//! `oca-media`: reads the command line, runs the library, says how it ended.

use std::io::Write;
use std::process::ExitCode;

use media_pipeline::arguments::{self, Command};
use media_pipeline::error::Error;
use media_pipeline::progress::Board;
use media_pipeline::{publish, sample};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_env("OCA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let command = match arguments::parse(std::env::args_os().skip(1), cores) {
        Ok(command) => command,
        Err(error) => return Ok(report(&error)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            result = run(command) => Ok(result.map_or_else(|error| report(&error), |()| ExitCode::SUCCESS)),
            // Dropping the run kills its encoders.
            _ = interrupted.recv() => Ok(stopped()),
            _ = terminated.recv() => Ok(stopped()),
        }
    })
}

async fn run(command: Command) -> Result<(), Error> {
    let board = Board::new();
    match command {
        Command::Help => say(arguments::HELP),
        Command::Publish(request) => {
            let summary = publish::publish(&request, &board).await?;
            let line = serde_json::to_string(&summary).expect("a summary has only string keys");
            say(&format!("{line}\n"));
        }
        Command::Sample(sample) => sample::make(&sample, &board).await?,
    }
    Ok(())
}

/// To stdout; a reader that is gone does not undo what was done.
fn say(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn report(error: &Error) -> ExitCode {
    drop(writeln!(std::io::stderr(), "oca-media: {error}"));
    ExitCode::from(error.exit_code())
}

fn stopped() -> ExitCode {
    drop(writeln!(
        std::io::stderr(),
        "oca-media: stopped; what is encoded is kept, the same command goes on from there"
    ));
    ExitCode::from(1)
}
