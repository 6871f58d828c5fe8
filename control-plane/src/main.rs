//! `oca-control`: the control plane's service. See the library for what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use control_plane::service::{ServiceError, api_doc, config::Config, run};
use lexopt::prelude::*;

const USAGE: &str = "\
usage: oca-control serve --config FILE   run the control plane until SIGTERM or SIGINT
       oca-control openapi               print the description of its HTTP API
       oca-control --version

OCA_LOG sets what is logged, to standard error: error, warn, info (default), debug.";

/// Wrong arguments and broken configuration: nothing was started.
const REFUSED: u8 = 2;

enum Command {
    Serve { config: PathBuf },
    OpenApi,
    Print(String),
}

fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()) {
        Ok(Command::Serve { config }) => serve(&config),
        Ok(Command::OpenApi) => print(&api_doc::json()),
        Ok(Command::Print(text)) => print(&text),
        Err(error) => {
            eprintln!("oca-control: {error}\n{USAGE}");
            ExitCode::from(REFUSED)
        }
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut command = None;
    let mut config = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("config") => config = Some(PathBuf::from(arguments.value()?)),
            Long("help") | Short('h') => return Ok(Command::Print(USAGE.to_owned())),
            Long("version") => {
                return Ok(Command::Print(format!("oca-control {}", env!("CARGO_PKG_VERSION"))));
            }
            Value(word) if command.is_none() => command = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    match command.as_deref() {
        Some("serve") => {
            config.map(|config| Command::Serve { config }).ok_or_else(|| "serve needs --config FILE".into())
        }
        Some("openapi") => Ok(Command::OpenApi),
        Some(other) => Err(format!("unknown command {other:?}").into()),
        None => Err("a command is missing".into()),
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write as _;
    // A closed pipe (`| head`) is no failure of ours to report.
    ExitCode::from(u8::from(writeln!(std::io::stdout(), "{text}").is_err()))
}

fn serve(config: &std::path::Path) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("OCA_LOG")
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .from_env_lossy();
    // Colours are for people; a log file gets none.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    match serve_until_told(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oca-control: {error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

fn serve_until_told(config: &std::path::Path) -> anyhow::Result<()> {
    let config = Config::read(config).map_err(ServiceError::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(run(config))?)
}
