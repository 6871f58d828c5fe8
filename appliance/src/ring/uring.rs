//! The worker's ring on io_uring: multishot accept and receive, plain SEND, a poll on the worker's eventfd.
//!
//! Needs Linux 6.1 (`DEFER_TASKRUN`), found by trying, never by a version. Contract of its memory: see
//! [`super::buffers`] and `sys::arena`. `user_data` is generation (24 bits) │ kind (8) │ slot (32).

use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::buffers::{HeadPlaces, RECEIVE_COUNT, ReceiveBuffers};
use super::{
    Completion, Direction, Listener, OperationId, ReceiveBuffer, ReceiveEnd, Ring, SendFault, Socket,
};
use crate::clock::{Now, Wall};
use crate::sys::arena::{Arena, BlockSpan};
use crate::sys::{self, EventWaker};

const ENTRIES: u32 = 1024;
/// A multishot operation completes many times.
const COMPLETIONS: u32 = 16 * ENTRIES;
const RECEIVE_GROUP: u16 = 0;

const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const WAKE: u64 = 4;
const CANCEL: u64 = 5;

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
pub struct UringRing {
    ring: ManuallyDrop<IoUring>,
    receive_buffers: ManuallyDrop<ReceiveBuffers>,
    heads: ManuallyDrop<HeadPlaces>,
    arena: ManuallyDrop<Arc<Arena>>,
    waker: Arc<EventWaker>,
    waker_armed: bool,
    listeners: Vec<TcpListener>,
    sockets: Vec<Option<OwnedFd>>,
    free_sockets: Vec<u32>,
    /// Operations that the kernel has not ended and that were lent memory: receives and sends.
    lent: usize,
}

impl UringRing {
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
            waker_armed: false,
            listeners: Vec::new(),
            sockets: Vec::new(),
            free_sockets: Vec::new(),
            lent: 0,
        })
    }

    #[expect(unsafe_code, reason = "the submission queue is unsafe to push to")]
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            let mut queue = self.ring.submission();
            // SAFETY: `push` asks that what the entry points to is valid until its completion: heads, receive buffers
            // and the arena outlive the ring or are leaked with operations in flight (`Drop`).
            let pushed = unsafe { queue.push(entry) };
            drop(queue);
            if pushed.is_ok() {
                return;
            }
            if let Err(cause) = self.ring.submitter().submit() {
                let errno = cause.raw_os_error().map(Errno::from_raw);
                let passing = matches!(errno, Some(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY));
                assert!(passing, "io_uring_enter failed: {cause}");
            }
        }
    }

    fn descriptor(&self, socket: Socket) -> &OwnedFd {
        self.sockets[index(socket.0)].as_ref().expect("operations are for sockets that are open")
    }

    fn send(&mut self, id: OperationId, socket: Socket, start: *const u8, count: usize, flags: i32) {
        let fd = types::Fd(self.descriptor(socket).as_raw_fd());
        let length = u32::try_from(count).expect("a send is shorter than 4 GiB");
        self.lent += 1;
        let send = opcode::Send::new(fd, start, length).flags(flags | libc::MSG_NOSIGNAL);
        self.push(&send.build().user_data(user_data(SEND, id)));
    }

    fn arm_waker(&mut self) {
        if !self.waker_armed {
            let readable = u32::try_from(libc::POLLIN).expect("a poll flag is positive");
            let fd = types::Fd(self.waker.descriptor().as_raw_fd());
            let poll = opcode::PollAdd::new(fd, readable).multi(true);
            self.push(&poll.build().user_data(WAKE << 32));
            self.waker_armed = true;
        }
    }

    fn completed(&mut self, entry: &cqueue::Entry, completions: &mut Vec<Completion>) {
        let more = cqueue::more(entry.flags());
        let data = entry.user_data();
        let low = |number: u64| u32::try_from(number & 0xffff_ffff).expect("32 bits");
        let id = OperationId { slot: low(data), generation: low(data >> 40) };
        let result = usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
        let kind = (data >> 32) & 0xff;
        if !more && matches!(kind, RECEIVE | SEND) {
            self.lent -= 1;
        }
        match kind {
            ACCEPT => self.accepted(Listener(id.slot), result, more, completions),
            RECEIVE => self.received_some(id, result, entry, completions),
            SEND => {
                self.heads.sent(index(id.slot));
                completions.push(Completion::Sent { id, outcome: result.map_err(send_fault) });
            }
            WAKE => {
                self.waker_armed &= more;
                self.waker.take();
                completions.push(Completion::Woken);
            }
            // The receive's own completion tells how it ended.
            CANCEL => {}
            other => unreachable!("no operation is of kind {other}"),
        }
    }

    fn accepted(
        &mut self,
        listener: Listener,
        result: Result<usize, Errno>,
        more: bool,
        completions: &mut Vec<Completion>,
    ) {
        let exhausted = matches!(result, Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS));
        if let Ok(number) = result {
            let raw = i32::try_from(number).expect("a descriptor is an int");
            // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: accept has just made it.
            #[expect(unsafe_code, reason = "a completion carries a descriptor as a number")]
            let socket = unsafe { OwnedFd::from_raw_fd(raw) };
            // Fails only for a socket that is gone already; the first receive will say so.
            if let Err(cause) = sys::set_no_delay(socket.as_fd()) {
                tracing::debug!(%cause, "TCP_NODELAY");
            }
            completions.push(Completion::Accepted { listener, socket: self.keep(socket) });
        }
        if !more {
            completions.push(Completion::AcceptEnded { listener, exhausted });
        }
    }

    fn keep(&mut self, socket: OwnedFd) -> Socket {
        let number = self.free_sockets.pop().unwrap_or_else(|| {
            self.sockets.push(None);
            u32::try_from(self.sockets.len() - 1).expect("fewer than 2³² sockets")
        });
        self.sockets[index(number)] = Some(socket);
        Socket(number)
    }

    fn received_some(
        &mut self,
        id: OperationId,
        result: Result<usize, Errno>,
        entry: &cqueue::Entry,
        completions: &mut Vec<Completion>,
    ) {
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(index) = buffer {
            self.receive_buffers.take(index);
        }
        let end = match (result, buffer) {
            (Ok(bytes @ 1..), Some(index)) => {
                completions.push(Completion::Received { id, buffer: ReceiveBuffer { index, bytes } });
                ReceiveEnd::Paused
            }
            (_, Some(index)) => {
                self.receive_buffers.give(index);
                ReceiveEnd::PeerFinished
            }
            (Ok(_), None) => ReceiveEnd::PeerFinished,
            (Err(Errno::ENOBUFS | Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), None) => {
                ReceiveEnd::Paused
            }
            (Err(_), None) => ReceiveEnd::PeerLost,
        };
        if !cqueue::more(entry.flags()) {
            completions.push(Completion::ReceiveEnded { id, end });
        }
    }
}

impl Ring for UringRing {
    fn now(&self) -> Now {
        sys::now()
    }

    fn wall(&self) -> Wall {
        sys::wall()
    }

    fn listen(&mut self, listener: TcpListener) -> Listener {
        self.listeners.push(listener);
        Listener(u32::try_from(self.listeners.len() - 1).expect("fewer than 2³² listeners"))
    }

    fn accept(&mut self, listener: Listener) {
        let fd = types::Fd(self.listeners[index(listener.0)].as_raw_fd());
        let accept = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC);
        let id = OperationId { slot: listener.0, generation: 0 };
        self.push(&accept.build().user_data(user_data(ACCEPT, id)));
    }

    fn receive(&mut self, id: OperationId, socket: Socket) {
        let fd = types::Fd(self.descriptor(socket).as_raw_fd());
        self.lent += 1;
        let receive = opcode::RecvMulti::new(fd, RECEIVE_GROUP).build();
        self.push(&receive.user_data(user_data(RECEIVE, id)));
    }

    fn pause_receive(&mut self, id: OperationId) {
        let cancel = opcode::AsyncCancel::new(user_data(RECEIVE, id)).build();
        self.push(&cancel.user_data(user_data(CANCEL, id)));
    }

    fn send_bytes(&mut self, id: OperationId, socket: Socket, bytes: &[u8], more: bool) {
        let (start, count) = self.heads.fill(index(id.slot), bytes);
        let flags = if more || count < bytes.len() { libc::MSG_MORE } else { 0 };
        self.send(id, socket, start, count, flags);
    }

    fn send_block(&mut self, id: OperationId, socket: Socket, span: BlockSpan) {
        let start = self.arena.address(span);
        self.send(id, socket, start, span.bytes, 0);
    }

    fn shut_down(&mut self, socket: Socket, direction: Direction) {
        let how = match direction {
            Direction::Write => Shutdown::Write,
            Direction::Both => Shutdown::Both,
        };
        // Directly: as an operation it would always go to a kernel worker. ENOTCONN: the peer was faster.
        if let Err(cause) = shutdown(self.descriptor(socket).as_raw_fd(), how) {
            tracing::trace!(%cause, "shutdown");
        }
    }

    fn close(&mut self, socket: Socket) {
        // Dropping the descriptor is close(2).
        let closed = self.sockets[index(socket.0)].take();
        assert!(closed.is_some(), "a socket is closed once");
        self.free_sockets.push(socket.0);
    }

    fn received(&self, buffer: &ReceiveBuffer) -> &[u8] {
        self.receive_buffers.bytes(buffer.index, buffer.bytes)
    }

    fn recycle(&mut self, buffer: ReceiveBuffer) {
        self.receive_buffers.give(buffer.index);
    }

    fn turn(&mut self, until: Option<Now>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.arm_waker();
        let left = until.map(|until| Duration::from_nanos(until.0.saturating_sub(sys::now().0)));
        let timeout = left.map(types::Timespec::from);
        let arguments = types::SubmitArgs::new();
        let arguments = timeout.as_ref().map_or(arguments, |timeout| arguments.timespec(timeout));
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(cause) => match cause.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {}
                _ => return Err(cause),
            },
        }
        while let Some(entry) = { self.ring.completion().next() } {
            self.completed(&entry, completions);
        }
        Ok(())
    }
}

impl Drop for UringRing {
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
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ];
    let missing = needed.into_iter().find(|(code, _)| !probe.is_supported(*code));
    missing.map_or(Ok(()), |(_, name)| Err(RingError::Lacks(name)))
}

fn user_data(kind: u64, id: OperationId) -> u64 {
    u64::from(id.generation) << 40 | kind << 32 | u64::from(id.slot)
}

fn send_fault(errno: Errno) -> SendFault {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET | Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH => {
            SendFault::PeerLost
        }
        _ => SendFault::Host,
    }
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

    #[test]
    fn an_operation_is_known_again_by_its_user_data() {
        let id = OperationId { slot: 4_031, generation: 0xff_ffff };
        let data = user_data(SEND, id);
        assert_eq!((data >> 40, (data >> 32) & 0xff, data & 0xffff_ffff), (0xff_ffff, SEND, 4_031));
    }
}
