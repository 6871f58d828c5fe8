//! What can go wrong, in one table. Over ten thousand seeds each row must have happened: else it is not tested.

macro_rules! faults {
    ($($variant:ident, $harmless:literal, $rate_max:literal, $meaning:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $(#[doc = $meaning] $variant,)+
        }

        impl Fault {
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant,)+];

            /// No client may notice it.
            pub const fn harmless(self) -> bool {
                match self { $(Self::$variant => $harmless,)+ }
            }

            /// In a thousand; 0: it does not strike by chance, but when somebody does it.
            pub const fn rate_max(self) -> usize {
                match self { $(Self::$variant => $rate_max,)+ }
            }
        }
    };
}

faults! {
    AcceptUnarmed, true, 300, "A multishot accept ends with a connection.";
    AcceptAborted, true, 200, "ECONNABORTED from accept.";
    AcceptExhausted, true, 100, "EMFILE from accept.";
    BacklogFull, false, 0, "A client found the queue of those who wait to be accepted full.";
    NoDelayRefused, true, 300, "setsockopt fails.";
    ReceiveUnarmed, true, 200, "A multishot receive ends with data.";
    ReceiveInterrupted, true, 60, "EINTR from a receive.";
    NoBuffers, true, 0, "ENOBUFS: all receive buffers are with the worker.";
    EndWithBuffer, true, 300, "The end of the stream comes with a buffer of no bytes.";
    CancelMissed, true, 0, "A cancel finds nothing to cancel.";
    CancelRaced, true, 300, "Data arrive between a cancel and its effect.";
    SendShort, true, 0, "A send sends less than there was room for.";
    SendInterrupted, true, 100, "EINTR from a send.";
    SendFull, true, 0, "EAGAIN from a send: the socket is full.";
    WritableInVain, true, 200, "A socket is called writable and takes nothing.";
    PagesLent, true, 0, "Pages of a block wait in a queue, not copied.";
    DetachedInFlight, true, 0, "A block was detached while pages of it were waiting in a queue.";
    SendNoMemory, false, 10, "ENOBUFS from a send.";
    ShutDownRefused, true, 300, "ENOTCONN from shutdown.";
    QueueFull, true, 0, "The submission queue is full.";
    CompletionsWait, true, 0, "EBUSY: the completion queue is full.";
    EnterInterrupted, true, 100, "EINTR from io_uring_enter.";
    WakeUnarmed, true, 300, "The poll of the eventfd ends.";
    NetworkReset, false, 500, "The network resets a connection behind some byte.";
    ResetAte, false, 0, "A reset takes bytes along that had arrived and were not read.";
    ClientReset, false, 0, "The client resets.";
    UnreadReset, false, 0, "The server closes with unread bytes, which resets the connection.";
    SlowReader, false, 0, "A client reads little, and seldom.";
    ZeroWindow, false, 0, "A client does not read at all any more.";
    Trickle, false, 0, "A client sends half a head and waits.";
    HeadBrokenOff, false, 0, "A client closes its side within a head.";
    HalfClose, false, 0, "A client closes its side behind its last request.";
    Babble, false, 0, "A client sends what is no HTTP.";
    Flood, false, 0, "A client sends far ahead of its answers.";
    Idle, false, 0, "A client stays without a request.";
    Pipelined, true, 0, "A request is sent before the answer to the one before has come.";
    DiskShort, true, 0, "A read gives less than was asked for.";
    DiskTorn, false, 0, "A read gives new bytes in one part and old ones in the other.";
    DiskWrong, false, 0, "A read gives a wrong bit.";
    DiskError, false, 0, "EIO.";
    DiskHost, false, 0, "ENOMEM or EAGAIN from a read.";
    DiskLate, false, 0, "A read hangs and ends after up to twenty seconds.";
    DiskNever, false, 0, "A read hangs until all clients have gone.";
    FileMissing, false, 0, "A file is not there.";
    FooterTorn, false, 0, "A footer is cut off.";
    VolumeAway, false, 0, "A volume vanishes.";
    VolumeBack, false, 0, "It comes back.";
    ClockJump, false, 0, "Much time passes at once.";
    WallJump, false, 0, "The time of day jumps.";
    Swap, true, 0, "A generation is published while requests run.";
    SwapInBody, true, 0, "A body that began in one generation ended in a later one.";
    Unlink, true, 0, "The agent unlinks a file that no generation in use names.";
    PackRead, true, 0, "A block of a pack was read.";
    Drain, false, 0, "The server drains.";
    Undrain, false, 0, "It does not drain any more.";
    Stop, false, 0, "The server stops.";
    Paced, true, 0, "An answer is not to leave faster than its player said.";
    TokenExpired, false, 0, "A token expires between two requests of a connection.";
}

impl Fault {
    pub const fn index(self) -> usize {
        self as usize
    }
}
