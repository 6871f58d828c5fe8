//! Listening sockets that systemd opened for us (sd_listen_fds(3)): descriptors 3 and up, counted by `LISTEN_FDS`, meant
//! for the process that `LISTEN_PID` names. Those that `LISTEN_FDNAMES` calls `tls` (systemd: `FileDescriptorName=tls`) are for
//! TLS.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

const FIRST: RawFd = 3;
/// More than any unit has addresses times workers.
const COUNT_MAX: RawFd = 1_024;

const NAME_OF_TLS: &str = "tls";

/// What was inherited, in order.
#[derive(Debug, Default)]
pub struct Inherited {
    pub media: Vec<TcpListener>,
    pub secure: Vec<TcpListener>,
}

/// None: nothing was inherited. Gives each descriptor out once: a second call gives None.
pub fn listeners() -> Option<io::Result<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = count()?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    Some(take_all(count))
}

fn take_all(count: RawFd) -> io::Result<Inherited> {
    let names = names();
    let mut names = names.split(':');
    let mut inherited = Inherited::default();
    for descriptor in FIRST..FIRST.saturating_add(count) {
        let secure = names.next() == Some(NAME_OF_TLS);
        let listener = take(descriptor)?;
        if secure { &mut inherited.secure } else { &mut inherited.media }.push(listener);
    }
    Ok(inherited)
}

#[expect(clippy::disallowed_methods, reason = "the protocol passes the names by the environment")]
fn names() -> String {
    std::env::var("LISTEN_FDNAMES").unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the protocol passes both numbers by the environment")]
fn count() -> Option<RawFd> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let count = number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id()))?;
    RawFd::try_from(count).ok().filter(|count| (1..=COUNT_MAX).contains(count))
}

fn take(descriptor: RawFd) -> io::Result<TcpListener> {
    let refuse = |what| Err(io::Error::other(format!("inherited descriptor {descriptor} {what}")));
    if std::fs::symlink_metadata(format!("/proc/self/fd/{descriptor}")).is_err() {
        return refuse("is not open");
    }
    let descriptor_owned = own(descriptor);
    if !getsockopt(&descriptor_owned, sockopt::AcceptConn).unwrap_or(false) {
        return refuse("is no listening socket");
    }
    fcntl(&descriptor_owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(TcpListener::from(descriptor_owned))
}

#[expect(unsafe_code, reason = "a number becomes a descriptor: the protocol hands it over so")]
fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: `OwnedFd::from_raw_fd` asks for an open descriptor that nobody else closes: `take` saw it open, sd_listen_fds(3)
    // hands it to this process alone, and `listeners` gives each out once (`TAKEN`).
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
