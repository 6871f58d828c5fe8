//! Connections that have asked once and now wait: what each takes of the server's own memory.
//!
//! Own memory is anonymous memory. What the kernel keeps for a socket is the same for both.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Result, bail};
use xtask::process;

use super::Report;
use crate::files::Set;
use crate::lab::Lab;
use crate::load::as_f64;
use crate::proc;
use crate::results::{Comparison, Peer as Other, Reach};
use crate::servers::{CLIENT_CORE, NginxWay, Peer, on_core};

const CONNECTIONS: u32 = 10_000;
/// More than a worker takes unless told otherwise.
const LIMITS: &str = "connections_max = 10100";
const PEERS: [Peer; 2] = [Peer::Ours, Peer::Nginx(NginxWay::Sendfile)];

/// Bytes of a server's own memory.
#[derive(Clone, Copy)]
struct Seen {
    before: f64,
    with_all: f64,
}

pub fn run(lab: &Lab) -> Result<Report> {
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..lab.options.pairs {
        for (peer, list) in PEERS.into_iter().zip(&mut seen) {
            list.push(measure(lab, peer)?);
        }
    }
    let each =
        |list: &[Seen]| list.iter().map(|one| (one.with_all - one.before) / f64::from(CONNECTIONS)).collect();
    let all = |list: &[Seen]| list.iter().map(|one| one.with_all / 1e6).collect();
    let comparison = |what: &str, unit: &str, ours, peer, reach| Comparison {
        work: format!("{CONNECTIONS} idle keep-alive connections: {what}"),
        unit: unit.to_owned(),
        ours,
        peer,
        reach,
    };
    let name = PEERS[1].name().to_owned();
    let whole = Other { name, figures: all(&seen[1]) };
    let growth = "own memory that each adds";
    let comparisons = vec![
        comparison(growth, "B", each(&seen[0]), None, Some(Reach::AtMost(512.0))),
        comparison(
            "own memory of the whole server",
            "MB",
            all(&seen[0]),
            Some(whole),
            Some(Reach::AtMost(1.0)),
        ),
    ];
    let fact = "own memory is RssAnon: for oca-appliance without its memory for blocks, for nginx without the page cache";
    let fact = format!(
        "{fact}; nginx makes its connections when it starts, so what each adds there is not comparable"
    );
    Ok(Report { comparisons, facts: vec![fact, format!("idle: oca-appliance ran with {LIMITS}")] })
}

fn measure(lab: &Lab, peer: Peer) -> Result<Seen> {
    let mut setup = lab.setup(peer.slug());
    setup.limits = LIMITS;
    let mut server = lab.start_with(peer, &setup)?;
    let processes = server.processes()?;
    let before = proc::own_bytes(&processes)?;
    let path = lab.shelf.paths(Set::Hot).next().expect("the hot set is not empty");
    let arguments =
        ["hold".to_owned(), server.address.to_string(), server.target(&path), CONNECTIONS.to_string()];
    let arguments = arguments.into_iter().map(Into::into).collect();
    let (program, arguments) = on_core(Some(CLIENT_CORE), std::env::current_exe()?, arguments);
    let mut command = process::command(&program, arguments);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(output) = client.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let with_all = proc::own_bytes(&processes)?;
    // The end of its input lets it go.
    drop(client.stdin.take());
    let status = process::wait(&lab.stop, client)?;
    if line.trim() != "held" || !status.success() {
        bail!("{CONNECTIONS} connections to {} were not held ({status})", peer.name());
    }
    server.expect_running()?;
    eprintln!("      {}: {before} bytes, then {with_all}", peer.name());
    Ok(Seen { before: as_f64(before), with_all: as_f64(with_all) })
}
