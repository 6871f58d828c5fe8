//! How long a request waits at most, with and without generations of 10 million entries coming and going under it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use content::control_socket::ServerRequest;
use content::id::{Extension, Tier};
use fleet_tests::pulse::Pulse;
use fleet_tests::shelf::{Item, Shelf};
use xtask::clock;

use crate::{ENTRIES, FILES};

const CONNECTIONS: usize = 4;
/// A sample a second frees what is not used any more; then one sees that, too.
const AFTER: Duration = Duration::from_millis(2_500);
const ROUNDS: u64 = 5;

pub fn run() -> Result<()> {
    let item = Item::new(Tier::Sd, Extension::Mp4, 1 << 20, 1);
    let limits = "requests_per_connection_max = 1000000000000";
    let shelf = Shelf::start_program(program()?, std::slice::from_ref(&item), limits)?;
    let pulse = Pulse::start(&shelf, &item, CONNECTIONS)?;
    for generation in 2..2 + ROUNDS {
        shelf.write_generation(generation, ENTRIES, FILES)?;
        let (time, quiet) = pulse.during(|| pause(Duration::from_secs(4)))?;
        println!("quiet_us {} in {time:?}, {} requests", quiet.longest.as_micros(), quiet.requests);
        let (time, swapped) = pulse.during(|| {
            let start = clock::now();
            shelf.tell(&ServerRequest::Publish { generation })?;
            let published = start.elapsed();
            pause(AFTER)?;
            Ok(published)
        })?;
        println!("publish_s {:.3}", time.as_secs_f64());
        println!("swap_us {} with {} requests", swapped.longest.as_micros(), swapped.requests);
        shelf.remove_generation(generation - 1)?;
    }
    pulse.finish()
}

fn pause(time: Duration) -> Result<Duration> {
    clock::pause(time);
    Ok(time)
}

fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program is in a folder")?.join("oca-appliance"))
}
