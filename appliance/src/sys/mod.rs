//! Calls of the system that are neither of a ring nor of a disk: the clock, sockets, wake-ups, the arena's memory.
//!
//! One of the three places of `unsafe` (STYLE §5), all of it in [`arena`] and [`locked`]. Read [`arena`] next.

pub mod arena;
pub mod inherited;
pub mod locked;
pub mod machine;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getpeername, listen as listen_on,
    setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

use crate::clock::{Now, Wall};

/// Monotonic time since the first call.
#[expect(clippy::disallowed_methods, reason = "here the clock becomes a value")]
pub fn now() -> Now {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    // From one second on, so that "a second ago" is a time too.
    let since = Instant::now().duration_since(*FIRST.get_or_init(Instant::now)) + Duration::from_secs(1);
    Now(u64::try_from(since.as_nanos()).expect("584 years of nanoseconds fit 64 bits"))
}

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "here the clock becomes a value")]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A listening socket of its own beside others on the same address: the kernel spreads connections over them.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let listener = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&listener, sockopt::ReuseAddr, &true)?;
    setsockopt(&listener, sockopt::ReusePort, &true)?;
    bind(listener.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen_on(&listener, Backlog::new(1024).expect("1024 is a backlog that Linux takes"))?;
    Ok(listener.into())
}

sockopt_impl!(
    /// tcp(7): how much may wait unsent in the socket's queue before it is called full.
    NotSentLowWater, Both, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, u32);
sockopt_impl!(
    /// socket(7): in bytes a second.
    MaxPacingRate, Both, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, u64);

/// Unsent bytes that a socket's queue takes: enough to go on with while its worker is at others, and what a slow reader
/// costs at most besides what is on its way (without it, 4 MiB by the kernel's defaults).
const UNSENT_BYTES: u32 = 256 * 1024;
/// A peer that acknowledges nothing for so long is gone, also one that keeps a closed window open by answering its
/// probes: else what SEND_ZC lent would stay lent for ever.
const UNACKNOWLEDGED_MS_MAX: u32 = 30_000;

/// For every connection of a viewer.
pub fn prepare(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // Answers are whole and leave at once: nothing is gained by waiting to fill a packet.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(&socket, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX)?;
    setsockopt(&socket, NotSentLowWater, &UNSENT_BYTES)
}

pub fn peer(socket: BorrowedFd<'_>) -> Result<IpAddr, Errno> {
    let address: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
    v4.or_else(v6).ok_or(Errno::EAFNOSUPPORT)
}

pub fn pace(socket: BorrowedFd<'_>, bytes_per_s: u64) -> Result<(), Errno> {
    setsockopt(&socket, MaxPacingRate, &bytes_per_s)
}

/// Makes another thread's ring return from its wait. Cheap to clone; may be called from any thread.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// An eventfd that a ring polls.
pub struct EventWaker {
    event: EventFd,
}

impl EventWaker {
    pub fn new() -> io::Result<Arc<Self>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { event }))
    }

    /// Takes the wake-ups that came until now.
    pub fn take(&self) {
        match self.event.read() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(cause) => panic!("an eventfd of our own cannot be read: {cause}"),
        }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Wake for EventWaker {
    fn wake(&self) {
        // EAGAIN: 2⁶⁴ − 2 wake-ups that nobody took; one more says nothing new.
        match self.event.write(1) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(cause) => panic!("an eventfd of our own cannot be written: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn two_listeners_share_an_address() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = listen(first.local_addr().unwrap()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }

    #[test]
    fn a_viewers_socket_keeps_little_unsent_and_gives_up_a_silent_peer() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(socket.as_fd()).unwrap();
        assert!(getsockopt(&socket, sockopt::TcpNoDelay).unwrap());
        assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout), Ok(UNACKNOWLEDGED_MS_MAX));
        assert_eq!(getsockopt(&socket, NotSentLowWater), Ok(UNSENT_BYTES));
        for rate in [125_000, u64::MAX] {
            pace(socket.as_fd(), rate).unwrap();
            assert_eq!(getsockopt(&socket, MaxPacingRate), Ok(rate));
        }
    }

    #[test]
    fn the_clocks_go_forward() {
        let (before, wall) = (now(), super::wall());
        assert!(now() >= before);
        assert!(wall.0 > 1_700_000_000);
    }
}
