//! Memory that the kernel may not evict.

#![expect(unsafe_code, reason = "a system call on a range of memory (STYLE §5)")]

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Each page of the slice stays in memory once it was touched (mlock2, Linux 4.4). Touches none. Ends when the memory is
/// unmapped. Raises the soft limit on locked memory as far as the hard one goes.
pub fn lock_as_faulted(bytes: &[u8]) -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    }
    // SAFETY: mlock2 asks for a mapped range; `bytes` is one as long as it is borrowed, and locking changes no byte of it.
    let locked = unsafe { libc::mlock2(bytes.as_ptr().cast(), bytes.len(), libc::MLOCK_ONFAULT) };
    Errno::result(locked)?;
    Ok(())
}
