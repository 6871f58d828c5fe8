//! `oca-bench-serve hold ADDRESS TARGET COUNT`: connections that have asked once and then wait until the input ends.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use fleet_tests::wire::Wire;

pub fn main(server: SocketAddr, target: &str, count: u32) -> Result<()> {
    ensure!(server.ip().is_loopback(), "{server} is not this machine");
    let mut held = Vec::new();
    for _ in 0..count {
        let mut wire = Wire::open(server)?;
        let answer = wire.ask("GET", target, &["Range: bytes=0-16383"])?;
        ensure!(answer.status == 206 && answer.body.len() == 16_384, "an answer of status {}", answer.status);
        held.push(wire);
    }
    println!("held");
    std::io::stdout().flush()?;
    // Nothing comes but the end.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}
