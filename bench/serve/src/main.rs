//! `oca-bench-serve [options]` measures (`cargo xtask bench serve` calls it); `load` and `hold` are the clients that it starts.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serve_bench::load;
use serve_bench::options::Options;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("      {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    serve_bench::bench::raise_open_files()?;
    match words.as_slice() {
        ["load", spec, outcome] => load::main(Path::new(spec), Path::new(outcome)),
        ["hold", address, target, count] => load::hold::main(address.parse()?, target, count.parse()?),
        _ => serve_bench::bench::run(Options::parse(lexopt::Parser::from_args(arguments))?),
    }
}
