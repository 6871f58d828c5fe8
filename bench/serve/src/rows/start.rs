//! From the start of the process to the first byte of a segment, with a catalogue of a million entries that no cache holds.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use content::control_socket::ServerRequest;
use fleet_tests::shelf::tell;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use xtask::{clock, http};

use super::Report;
use crate::files::Set;
use crate::lab::Lab;
use crate::results::{Comparison, Reach};
use crate::servers::{Peer, Server, Setup};

const ENTRIES: u32 = 1_000_000;
const FILES: u32 = 100_000;
/// As it ships.
const MEMORY_MIB: u64 = 256;
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);
const ASK: Duration = Duration::from_secs(10);

pub fn run(lab: &Lab) -> Result<Report> {
    let [mut first, mut later] = [Vec::new(), Vec::new()];
    for _ in 0..lab.options.pairs {
        let setup = Setup { memory_mib: MEMORY_MIB, ..lab.setup("start") };
        if setup.folder.exists() {
            fs::remove_dir_all(&setup.folder)?;
        }
        lab.shelf.write_state(&setup.folder.join("state"), ENTRIES, FILES)?;
        first.push(measure(lab, &setup, true)?);
        later.push(measure(lab, &setup, false)?);
        eprintln!(
            "      first byte after {:.3} s the first time, {:.3} s later",
            first[first.len() - 1],
            later[later.len() - 1]
        );
    }
    let comparison = |what: &str, ours, reach| Comparison {
        work: format!("start with a catalogue of 1 million entries, first byte{what}"),
        unit: "s".to_owned(),
        ours,
        peer: None,
        reach,
    };
    let comparisons = vec![
        comparison("", later, Some(Reach::AtMost(1.0))),
        comparison(", the first start on a machine, which measures the ways out", first, None),
    ];
    Ok(Report { comparisons, facts: vec!["start: memory_mib = 256, which is the default".to_owned()] })
}

/// Seconds. `new`: the server has no token key yet, and gets it as soon as it takes one.
fn measure(lab: &Lab, setup: &Setup<'_>, new: bool) -> Result<f64> {
    forget(setup)?;
    Set::ALL.into_iter().try_for_each(|set| lab.shelf.drop_from_page_cache(set))?;
    let path = lab.shelf.paths(Set::Hot).next().context("there is a hot file")?;
    let start = clock::now();
    let mut server = setup.launch(Peer::Ours)?;
    if new {
        until(&mut server, start, |server| {
            let keys = vec![server.public_key()];
            tell(&setup.folder.join("server.sock"), &ServerRequest::TokenKeys { keys }).is_ok()
        })?;
    }
    let url = format!("http://{}{}", server.address, server.target(&path));
    until(&mut server, start, |_| {
        http::get(&url, &[("Range", "bytes=0-16383")], ASK).is_ok_and(|answer| answer.status == 206)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn until(server: &mut Server, start: Instant, mut so: impl FnMut(&Server) -> bool) -> Result<()> {
    while !so(server) {
        server.expect_running()?;
        ensure!(start.elapsed() < LIMIT, "no answer in {} s", LIMIT.as_secs());
        clock::pause(LOOK_EVERY);
    }
    Ok(())
}

/// The state comes from the disk.
fn forget(setup: &Setup<'_>) -> Result<()> {
    let folder = setup.folder.join("state").join(content::catalogue::CATALOGUE_FOLDER);
    for entry in fs::read_dir(folder)? {
        let file = fs::File::open(entry?.path())?;
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}
