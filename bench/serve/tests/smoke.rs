//! The parts of the bench on a real server, for a moment: that they work, never how fast.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serve_bench::files::{Set, Shelf};
use serve_bench::load::{Group, Outcome, Spec, Target};
use serve_bench::servers::{Peer, Server, Setup};
use tempfile::TempDir;
use xtask::process;
use xtask::stop::Stop;

const REQUEST_BYTES: u64 = 16 << 10;
const FILE_BYTES: u64 = 4 << 20;

fn load(folder: &Path, server: &Server, group: Group, window: Duration) -> Result<Outcome> {
    let (watch, groups) = (server.processes()?, vec![group]);
    let window_ms = u64::try_from(window.as_millis())?;
    let spec = Spec { server: server.address, watch, groups, ramp_ms: 0, window_ms, spin: false, seed: 1 };
    let [asked, told] = ["spec", "outcome"].map(|name| folder.join(name));
    std::fs::write(&asked, serde_json::to_vec(&spec)?)?;
    let program = Path::new(env!("CARGO_BIN_EXE_oca-bench-serve"));
    let mut command = process::command(program, ["load".as_ref(), asked.as_os_str(), told.as_os_str()]);
    let status = process::run(&Stop::default(), &mut command)?;
    ensure!(status.success(), "the load ended with {status}");
    Ok(serde_json::from_slice(&std::fs::read(&told)?)?)
}

#[test]
fn both_loops_are_served_from_files_that_the_bench_made_and_a_wrong_answer_ends_the_load() {
    let folder = TempDir::with_prefix("oca-bench-").unwrap();
    let shelf = Shelf::make(folder.path(), FILE_BYTES, 1, 1).unwrap();
    assert_eq!(Shelf::make(folder.path(), FILE_BYTES, 1, 1).unwrap().www(), shelf.www());
    let state = folder.path().join("run/state");
    shelf.write_state(&state, 10, 1).unwrap();
    shelf.drop_from_page_cache(Set::Cold).unwrap();
    let setup = Setup {
        shelf: &shelf,
        folder: folder.path().join("run"),
        binaries: fleet_tests::binaries(),
        memory_mib: 96,
        limits: "requests_per_connection_max = 20",
        core: None,
    };
    let server = setup.start(Peer::Ours).unwrap();
    assert!(server.way().unwrap().starts_with("oca-appliance: way "));
    let target = |path| Target { path: server.target(&path), bytes: FILE_BYTES };
    let targets: Vec<_> = shelf.paths(Set::Hot).map(target).collect();
    let once = Group { targets, request_bytes: REQUEST_BYTES, connections: 3, passes: Some(1), rate: None };

    let outcome = load(folder.path(), &server, once.clone(), Duration::from_secs(60)).unwrap();
    // Far more than three connections may ask for here: the load opened others. Three may be under way at the end.
    let (seen, all) = (&outcome.groups[0], FILE_BYTES / REQUEST_BYTES);
    assert!(seen.ran_out && (all - 3..=all).contains(&seen.requests), "{outcome:?}");
    assert!(seen.bytes.abs_diff(seen.requests * REQUEST_BYTES) <= 3 * REQUEST_BYTES, "{outcome:?}");
    assert!(seen.p50_ms > 0.0 && seen.p50_ms <= seen.p99_ms && seen.p99_ms <= seen.longest_ms, "{outcome:?}");
    assert!(outcome.server_cpu_s > 0.0, "{outcome:?}");

    let open = Group { rate: Some(100.0), passes: None, ..once.clone() };
    let open = load(folder.path(), &server, open, Duration::from_millis(500)).unwrap();
    assert!(open.groups[0].requests <= 51 && open.groups[0].longest_ms > 0.0, "{open:?}");
    assert!(open.seconds >= 0.5, "{open:?}");

    let mut wrong = once;
    wrong.targets[0].path.push('x');
    assert!(load(folder.path(), &server, wrong, Duration::from_secs(60)).is_err());
}
