//! Free ports: the wished-for one, or the next that is free, and that is said.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// How many ports after the wished-for one are tried.
const TRIES: u16 = 100;
/// Linux takes the ports of outgoing connections, and those that nobody chose, from 32768 up (`ip_local_port_range`).
const QUIET: Range<u16> = 10_240..32_768;

/// `wish`, or the first free port after it on that address.
///
/// Between the answer and its use somebody else may take the port; the program that binds it then says so.
pub fn free_from(address: IpAddr, wish: u16) -> Result<u16> {
    let tried = wish..=wish.saturating_add(TRIES);
    for port in tried {
        if TcpListener::bind(SocketAddr::new(address, port)).is_ok() {
            if port != wish {
                eprintln!("      {address}:{wish} is in use, taking port {port}");
            }
            return Ok(port);
        }
    }
    bail!("no free port on {address} from {wish} to {}", wish.saturating_add(TRIES));
}

/// A port that is free now, and that this process gets no second time: a program that is killed finds it free when it is
/// started again.
pub fn any_free(address: IpAddr) -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = QUIET.end - QUIET.start;
    for _ in 0..TRIES {
        // Processes start far from one another.
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        let port = QUIET.start + u16::try_from(step % u32::from(count))?;
        if TcpListener::bind(SocketAddr::new(address, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on {address}: {TRIES} of {} to {} were tried", QUIET.start, QUIET.end - 1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_port_in_use_is_passed_over() {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 1));
        let taken = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
        let wish = taken.local_addr().unwrap().port();
        assert!(free_from(address, wish).unwrap() > wish);
    }

    #[test]
    fn a_port_of_any_is_not_given_twice_nor_taken_by_others_connections() {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 2));
        let ports: Vec<_> = (0..50).map(|_| any_free(address).unwrap()).collect();
        assert!(ports.iter().all(|port| QUIET.contains(port)));
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
    }
}
