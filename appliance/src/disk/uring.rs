//! A disk thread's ring: reads of blocks on io_uring, O_DIRECT where the filesystem takes it.
//!
//! No file operation of the server runs anywhere else. A read that has been submitted to a disk cannot be cancelled: its
//! block stays here until the completion (see `sys::arena` for the contract).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use content::volume::{ALIGNMENT_BYTES, FILES_FOLDER, MARKER_NAME, file_name, footer_bytes, footer_offset};
use io_uring::{IoUring, cqueue, opcode, types};
use nix::errno::Errno;

use super::{DiskIo, Opened, READS_MAX, ReadDone, ReadPlace};
use crate::clock::Now;
use crate::sys::arena::Block;
use crate::sys::{self, EventWaker};

const WAKE: u64 = u64::MAX;

pub struct UringDisk {
    folder: PathBuf,
    ring: IoUring,
    waker: Arc<EventWaker>,
    waker_armed: bool,
    /// What the kernel writes into, by slot, and the file that it reads.
    in_flight: [Option<(Block, Rc<File>)>; READS_MAX],
}

impl UringDisk {
    /// On the thread that will use it: the ring takes orders from no other.
    pub fn new(folder: PathBuf, waker: Arc<EventWaker>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .dontfork()
            .build(32)?;
        let in_flight = std::array::from_fn(|_| None);
        Ok(Self { folder, ring, waker, waker_armed: false, in_flight })
    }

    #[expect(
        unsafe_code,
        reason = "the submission queue is unsafe to push to; each caller says why its entry is sound"
    )]
    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        let mut queue = self.ring.submission();
        // SAFETY: `push` asks that what the entry points to stays valid until its completion. A read's block and file
        // are in `in_flight` until then and are leaked if the ring goes first (`Drop`); a poll points to nothing.
        let pushed = unsafe { queue.push(entry) };
        assert!(pushed.is_ok(), "8 reads and a poll fit a queue of 32");
    }

    fn arm_waker(&mut self) {
        if !self.waker_armed {
            let readable = u32::try_from(libc::POLLIN).expect("a poll flag is positive");
            let poll = opcode::PollAdd::new(types::Fd(self.waker.descriptor().as_raw_fd()), readable);
            self.push(&poll.build().user_data(WAKE));
            self.waker_armed = true;
        }
    }

    fn wait(&mut self, until: Option<Now>) {
        let left = until.map(|until| Duration::from_nanos(until.0.saturating_sub(sys::now().0)));
        let timeout = left.map(types::Timespec::from);
        let arguments = types::SubmitArgs::new();
        let arguments = timeout.as_ref().map_or(arguments, |timeout| arguments.timespec(timeout));
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(cause) => match cause.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => {}
                _ => panic!("io_uring_enter of a disk's ring failed: {cause}"),
            },
        }
    }

    fn completed(&mut self, entry: &cqueue::Entry) -> Option<ReadDone> {
        if entry.user_data() == WAKE {
            self.waker_armed = false;
            self.waker.take();
            return None;
        }
        let slot = usize::try_from(entry.user_data()).expect("a slot fits a usize");
        let (block, _) = self.in_flight[slot].take().expect("a completion is of a read in flight");
        let result = usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
        Some(ReadDone { slot, block, result })
    }
}

impl DiskIo for UringDisk {
    type File = File;

    fn now(&self) -> Now {
        sys::now()
    }

    fn marker_present(&mut self) -> bool {
        std::fs::read(self.folder.join(MARKER_NAME)).is_ok()
    }

    fn open(&mut self, number: u64, data_bytes: u64) -> Result<Opened<File>, Errno> {
        let path = self.folder.join(FILES_FOLDER).join(file_name(number));
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
        let direct =
            opened.and_then(|file| read_footer(&file, data_bytes).map(|footer| Opened { file, footer }));
        // EINVAL: no O_DIRECT on this filesystem, at opening or at reading.
        let opened = match direct {
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => File::open(&path)
                .and_then(|file| read_footer(&file, data_bytes).map(|footer| Opened { file, footer })),
            other => other,
        };
        opened.map_err(|cause| cause.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    fn read(&mut self, slot: usize, file: &Rc<File>, place: ReadPlace, mut block: Block) {
        let length = u32::try_from(place.bytes).expect("a block is shorter than 4 GiB");
        let address = block.address(place.block_offset, place.bytes);
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), address, length).offset(place.file_offset);
        let before = self.in_flight[slot].replace((block, file.clone()));
        assert!(before.is_none(), "one read per slot");
        self.push(&entry.build().user_data(u64::try_from(slot).expect("a slot fits 64 bits")));
    }

    fn turn(&mut self, until: Option<Now>, done: &mut Vec<ReadDone>) {
        self.arm_waker();
        self.wait(until);
        while let Some(entry) = { self.ring.completion().next() } {
            done.extend(self.completed(&entry));
        }
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        // The kernel may write to these blocks for as long as it likes: they, and the mapping with them, stay for ever.
        self.in_flight.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }
}

/// The footer, read at an address as O_DIRECT wants it. A file that ends early gives fewer bytes.
fn read_footer(file: &File, data_bytes: u64) -> io::Result<Vec<u8>> {
    let alignment = usize::try_from(ALIGNMENT_BYTES).map_err(io::Error::other)?;
    let length = usize::try_from(footer_bytes(data_bytes)).map_err(io::Error::other)?;
    let mut buffer = vec![0; length + alignment];
    let start = buffer.as_ptr().align_offset(alignment);
    let mut read = 0;
    while read < length {
        let offset = footer_offset(data_bytes) + u64::try_from(read).map_err(io::Error::other)?;
        match file.read_at(&mut buffer[start + read..start + length], offset) {
            Ok(0) => break,
            Ok(count) if count % alignment == 0 => read += count,
            Ok(count) => {
                read += count;
                break;
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(buffer[start..start + read].to_vec())
}
