//! [`Kernel`] on io_uring: multishot accept and receive, SEND, SENDMSG and SEND_ZC, polls; and on sendfile(2). It decides
//! nothing: that is [`super::sockets`].
//!
//! Needs Linux 6.1 (`DEFER_TASKRUN`), found by trying, never by a version. Contract of its memory: see
//! [`super::buffers`] and `sys::arena`.

use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, Shutdown, shutdown};

use super::Direction;
use super::buffers::{HeadPlaces, RECEIVE_COUNT, ReceiveBuffers};
use super::kernel::{Entry, Kernel, Kind, Operation, Tag};
use super::sockets::SocketRing;
use crate::clock::{Now, Wall};
use crate::sys::arena::{Arena, BlockSpan};
use crate::sys::{self, EventWaker};

const ENTRIES: u32 = 1024;
/// A multishot operation completes many times.
const COMPLETIONS: u32 = 16 * ENTRIES;
const RECEIVE_GROUP: u16 = 0;
/// With MSG_DONTWAIT a send does not wait in the kernel for a slow reader, with the block that it sends from.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// The ring of a worker that serves.
pub type UringRing = SocketRing<UringKernel>;

/// What of io_uring is not to be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(
        "io_uring is switched off for this process: set sysctl kernel.io_uring_disabled to 0 (or 1 and run in the group \
         of kernel.io_uring_group), and allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp \
         filter (systemd: SystemCallFilter=@io-uring; containers: --security-opt seccomp)"
    )]
    Forbidden,
    #[error("this kernel has no io_uring, or a seccomp filter hides it: Linux 6.1 or later is needed")]
    Absent,
    #[error("this kernel's io_uring lacks {0}: Linux 6.1 or later is needed")]
    Lacks(&'static str),
    #[error(
        "there is not enough locked memory for a ring: raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity; \
         shell: ulimit -l)"
    )]
    LockedMemory,
    #[error("a ring cannot be made: {0}")]
    Other(io::Error),
}

/// Made on the thread that uses it: a ring of this kind takes orders from no other.
pub struct UringKernel {
    ring: ManuallyDrop<IoUring>,
    receive_buffers: ManuallyDrop<ReceiveBuffers>,
    heads: ManuallyDrop<HeadPlaces>,
    arena: ManuallyDrop<Arc<Arena>>,
    waker: Arc<EventWaker>,
    /// Operations that the kernel has not ended and that were lent memory: receives and sends.
    lent: usize,
}

impl UringKernel {
    /// `slots`: of the worker's table.
    pub fn new(arena: Arc<Arena>, waker: Arc<EventWaker>, slots: usize) -> Result<Self, RingError> {
        let ring = build().map_err(classify)?;
        probe(&ring)?;
        let receive_buffers = ReceiveBuffers::new().map_err(RingError::Other)?;
        let address = u64::try_from(receive_buffers.ring_address().addr()).expect("an address fits 64 bits");
        // SAFETY: `register_buf_ring_with_flags` asks that the ring of buffers at `address` is as long as said and
        // valid as long as the ring is: `ReceiveBuffers` says the first, and `Drop` frees it behind the ring.
        #[expect(unsafe_code, reason = "the contract is `buffers`'")]
        let registered = unsafe {
            ring.submitter().register_buf_ring_with_flags(address, RECEIVE_COUNT, RECEIVE_GROUP, 0)
        };
        registered.map_err(|cause| match cause.raw_os_error() {
            Some(libc::EINVAL) => RingError::Lacks("rings of provided buffers"),
            _ => classify(cause),
        })?;
        let heads = HeadPlaces::new(slots).map_err(RingError::Other)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            receive_buffers: ManuallyDrop::new(receive_buffers),
            heads: ManuallyDrop::new(heads),
            arena: ManuallyDrop::new(arena),
            waker,
            lent: 0,
        })
    }

    #[expect(unsafe_code, reason = "the submission queue is unsafe to push to")]
    fn push_entry(&mut self, entry: &squeue::Entry) {
        let mut queue = self.ring.submission();
        // SAFETY: `push` asks that what the entry points to is valid until its completion: heads, receive buffers
        // and the arena outlive the ring or are leaked with operations in flight (`Drop`).
        let pushed = unsafe { queue.push(entry) };
        assert!(pushed.is_ok(), "the ring above looks for room first");
    }

    /// None: a SEND_ZC that was told already has now ended in the kernel too. What it was lent needs no more than that:
    /// its block is detached, whenever that is.
    fn entry(&mut self, entry: &cqueue::Entry) -> Option<Entry<OwnedFd>> {
        if cqueue::notif(entry.flags()) {
            self.lent -= 1;
            return None;
        }
        let tag = Tag::from_bits(entry.user_data());
        // Of a SEND_ZC it says that a notification comes, whatever the result.
        let more = cqueue::more(entry.flags());
        if !more && matches!(tag.kind, Kind::Receive | Kind::Send) {
            self.lent -= 1;
        }
        if tag.kind == Kind::Send {
            self.heads.sent(index(tag.id.slot));
        }
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(index) = buffer {
            self.receive_buffers.take(index);
        }
        let socket = (tag.kind == Kind::Accept && entry.result() >= 0).then(|| {
            // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: accept has just made it.
            #[expect(unsafe_code, reason = "a completion carries a descriptor as a number")]
            unsafe {
                OwnedFd::from_raw_fd(entry.result())
            }
        });
        let result = usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
        Some(Entry { tag, result, more, buffer, socket })
    }

    /// Heads and a block's first bytes go in one message, so that a small answer is one operation and one packet.
    fn send_bytes(
        &mut self,
        tag: Tag,
        fd: types::Fd,
        bytes: &[u8],
        block: Option<BlockSpan>,
        flags: i32,
    ) -> squeue::Entry {
        let slot = index(tag.id.slot);
        let (start, count) = self.heads.fill(slot, bytes);
        let Some(span) = block else { return send(fd, start, count, flags) };
        let message = self.heads.message(slot, (start, count), (self.arena.address(span), span.bytes));
        let flags = u32::try_from(flags | SEND_FLAGS).expect("flags are positive");
        opcode::SendMsg::new(fd, message).flags(flags).build()
    }
}

impl Kernel for UringKernel {
    type Descriptor = OwnedFd;

    fn now(&self) -> Now {
        sys::now()
    }

    fn wall(&self) -> Wall {
        sys::wall()
    }

    fn adopt(&mut self, listener: TcpListener) -> OwnedFd {
        listener.into()
    }

    fn has_room(&mut self) -> bool {
        !self.ring.submission().is_full()
    }

    fn push(&mut self, tag: Tag, operation: Operation<'_, OwnedFd>) {
        let fd = |descriptor: &OwnedFd| types::Fd(descriptor.as_raw_fd());
        let entry = match operation {
            Operation::Accept { listener } => {
                // Non-blocking for sendfile; operations of io_uring wait as before unless they say otherwise.
                opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build()
            }
            Operation::Receive { socket } => {
                self.lent += 1;
                opcode::RecvMulti::new(fd(socket), RECEIVE_GROUP).build()
            }
            Operation::SendBytes { socket, bytes, block, more } => {
                self.lent += 1;
                let flags = if more { libc::MSG_MORE } else { 0 };
                self.send_bytes(tag, fd(socket), bytes, block, flags)
            }
            Operation::SendBlock { socket, span } => {
                self.lent += 1;
                send(fd(socket), self.arena.address(span), span.bytes, 0)
            }
            Operation::SendBlockZeroCopy { socket, span } => {
                self.lent += 1;
                self.arena.lend(span);
                let length = u32::try_from(span.bytes).expect("a send is shorter than 4 GiB");
                opcode::SendZc::new(fd(socket), self.arena.address(span), length).flags(SEND_FLAGS).build()
            }
            Operation::Writable { socket } => {
                let writable = u32::try_from(libc::POLLOUT).expect("a poll flag is positive");
                opcode::PollAdd::new(fd(socket), writable).build()
            }
            Operation::Wakes => {
                let readable = u32::try_from(libc::POLLIN).expect("a poll flag is positive");
                let fd = types::Fd(self.waker.descriptor().as_raw_fd());
                opcode::PollAdd::new(fd, readable).multi(true).build()
            }
            Operation::Cancel { tag } => opcode::AsyncCancel::new(tag.to_bits()).build(),
        };
        self.push_entry(&entry.user_data(tag.to_bits()));
    }

    fn submit(&mut self) -> Result<(), Errno> {
        entered(self.ring.submitter().submit())
    }

    fn wait(&mut self, until: Option<Now>) -> Result<(), Errno> {
        let left = until.map(|until| Duration::from_nanos(until.0.saturating_sub(sys::now().0)));
        let timeout = left.map(types::Timespec::from);
        let arguments = types::SubmitArgs::new();
        let arguments = timeout.as_ref().map_or(arguments, |timeout| arguments.timespec(timeout));
        entered(self.ring.submitter().submit_with_args(1, &arguments))
    }

    fn reap(&mut self, entries: &mut Vec<Entry<OwnedFd>>) {
        while let Some(entry) = { self.ring.completion().next() } {
            entries.extend(self.entry(&entry));
        }
    }

    fn take_wakes(&mut self) {
        self.waker.take();
    }

    fn send_file(&mut self, socket: &OwnedFd, span: BlockSpan) -> Result<usize, Errno> {
        let offset = i64::try_from(self.arena.lend(span)).expect("the arena's length fits 64 bits");
        sendfile(socket, self.arena.memfd(), Some(&mut { offset }), span.bytes)
    }

    fn send_now(&mut self, socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
        nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::from_bits_retain(SEND_FLAGS))
    }

    fn prepare(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        sys::prepare(socket.as_fd())
    }

    fn peer(&self, socket: &OwnedFd) -> Result<IpAddr, Errno> {
        sys::peer(socket.as_fd())
    }

    fn pace(&mut self, socket: &OwnedFd, bytes_per_s: u64) -> Result<(), Errno> {
        sys::pace(socket.as_fd(), bytes_per_s)
    }

    fn shut_down(&mut self, socket: &OwnedFd, direction: Direction) -> Result<(), Errno> {
        // Directly: as an operation it would always go to a kernel worker.
        let how = match direction {
            Direction::Write => Shutdown::Write,
            Direction::Both => Shutdown::Both,
        };
        shutdown(socket.as_raw_fd(), how)
    }

    fn received(&self, buffer: u16, bytes: usize) -> &[u8] {
        self.receive_buffers.bytes(buffer, bytes)
    }

    fn give(&mut self, buffer: u16) {
        self.receive_buffers.give(buffer);
    }
}

fn send(fd: types::Fd, start: *const u8, count: usize, flags: i32) -> squeue::Entry {
    let length = u32::try_from(count).expect("a send is shorter than 4 GiB");
    opcode::Send::new(fd, start, length).flags(flags | SEND_FLAGS).build()
}

fn entered(outcome: io::Result<usize>) -> Result<(), Errno> {
    match outcome {
        Ok(_) => Ok(()),
        Err(cause) => Err(cause.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

impl Drop for UringKernel {
    fn drop(&mut self) {
        // Closing the ring cancels what is in flight, but nobody says when that is done: what the kernel may still write to
        // or read from then stays for the process's life.
        let idle = self.lent == 0;
        // SAFETY: `ManuallyDrop::drop` asks that the value is not used again: this is the drop of its owner.
        #[expect(unsafe_code, reason = "the order of these drops is the contract")]
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
        }
        if idle {
            // SAFETY: as above; no operation is in flight that could use it.
            #[expect(unsafe_code, reason = "the order of these drops is the contract")]
            unsafe {
                ManuallyDrop::drop(&mut self.receive_buffers);
            }
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "the order of these drops is the contract")]
            unsafe {
                ManuallyDrop::drop(&mut self.heads);
            }
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "the order of these drops is the contract")]
            unsafe {
                ManuallyDrop::drop(&mut self.arena);
            }
        }
    }
}

fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .setup_clamp()
        .dontfork()
        .build(ENTRIES)
}

fn classify(cause: io::Error) -> RingError {
    match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => RingError::Forbidden,
        Some(Errno::ENOSYS) => RingError::Absent,
        Some(Errno::ENOMEM) => RingError::LockedMemory,
        Some(Errno::EINVAL) => RingError::Lacks("SINGLE_ISSUER, DEFER_TASKRUN or SUBMIT_ALL"),
        _ => RingError::Other(cause),
    }
}

fn probe(ring: &IoUring) -> Result<(), RingError> {
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(classify)?;
    let needed = [
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::RecvMulti::CODE, "receive"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::SendZc::CODE, "zero-copy send"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ];
    let missing = needed.into_iter().find(|(code, _)| !probe.is_supported(*code));
    missing.map_or(Ok(()), |(_, name)| Err(RingError::Lacks(name)))
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a number of 32 bits fits a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_of_a_ring_is_named() {
        let message = |errno| classify(io::Error::from_raw_os_error(errno)).to_string();
        assert!(
            message(libc::EPERM).contains("kernel.io_uring_disabled")
                && message(libc::EPERM).contains("seccomp")
        );
        assert!(message(libc::ENOMEM).contains("LimitMEMLOCK"));
        assert!(message(libc::EINVAL).contains("DEFER_TASKRUN"));
        assert!(message(libc::ENOSYS).contains("6.1"));
    }
}
