//! Free ports: the wished-for one, or the next that is free, and that is said.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// How many ports after the wished-for one are tried.
const TRIES: u16 = 100;

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

/// Any port that is free now.
pub fn any_free(address: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind(SocketAddr::new(address, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_port_in_use_is_passed_over() {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 1));
        let taken = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
        let wish = taken.local_addr().unwrap().port();
        assert!(free_from(address, wish).unwrap() > wish);
    }
}
