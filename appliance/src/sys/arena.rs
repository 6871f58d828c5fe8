//! The memory that blocks of files are kept in: one memfd, mapped once, cut into blocks of one size (DESIGN §4).
//!
//! **Contract.** For each block there is exactly one [`Block`], made with the arena and never cloned. Who has the
//! `Block` owns the bytes:
//!
//! - a Rust reference to the bytes borrows the `Block` ([`Block::bytes`], [`Block::bytes_mut`]);
//! - a ring that lets the kernel *write* a block takes the `Block` by value and gives it back with the completion, so
//!   that no reference can exist meanwhile; a ring that goes away earlier forgets it, and with it the mapping stays;
//! - a lease of `memory` lends out a shared reference ([`Arena::leased`]): `memory` keeps the `Block` of a block that is
//!   leased, and gives it to nobody who could write it;
//! - a ring that lets the kernel *read* a block (a SEND) names it by [`BlockSpan`]. That needs no ownership to
//!   be sound, since no reference is made and the kernel copies whatever is there; that the bytes are the right ones is the
//!   promise of `memory`, which never gives a block away for filling while a lease on it exists.
//!
//! **Detach, never reuse in place** (DESIGN §4). What was *lent* to sendfile or SEND_ZC ([`Arena::lend`]) may sit in a
//! socket's queue, or on loopback and veth in the receiver's, long after the call, the acknowledgement and even the close:
//! no lease can last that long. So before such a block is filled again, [`Block::detached`] punches a hole where it lies:
//! the kernel's own references keep the old pages for whoever has them, and the block gets fresh ones at the next touch.
//!
//! memfd and not anonymous memory: sendfile can send from it, and a successor process can inherit it. Never hugetlbfs,
//! which has no `splice_read`; huge pages are asked for by madvise and their absence only costs speed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::tuning::{Plant, Planted};

/// A block is one huge page, one disk read, one unit of admission and of eviction.
pub const BLOCK_BYTES: usize = 2 * 1024 * 1024;

pub struct Arena {
    memfd: OwnedFd,
    map: MmapRaw,
    block_bytes: usize,
    count: usize,
    /// By block: since it was last detached, something of it was lent.
    lent: Vec<AtomicBool>,
    #[cfg(test)]
    pub past: past::Past,
}

/// The one right to write a block. See the module's contract.
pub struct Block {
    arena: Arc<Arena>,
    index: usize,
}

/// A block's place in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockId(pub u32);

/// Bytes within one block, to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSpan {
    pub block: BlockId,
    /// `offset + bytes <= block_bytes`.
    pub offset: usize,
    pub bytes: usize,
}

impl Arena {
    /// All memory is allocated here, so that a box that has too little says so before it is ready.
    pub fn new(block_bytes: usize, count: usize) -> io::Result<(Arc<Self>, Vec<Block>)> {
        let length = block_bytes.checked_mul(count).ok_or(io::ErrorKind::OutOfMemory)?;
        let memfd = memfd_create("oca-blocks", MFdFlags::MFD_CLOEXEC)?;
        let size = i64::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        nix::unistd::ftruncate(&memfd, size)?;
        let map = MmapOptions::new().len(length).map_raw(&memfd)?;
        // Best effort: shmem_enabled may be "never"; then plain SEND is the only way out that is fast.
        let huge = map.advise(Advice::HugePage).is_ok();
        map.advise(Advice::PopulateWrite)?;
        tracing::debug!(blocks = count, block_bytes, huge_pages_asked = huge, "memory for blocks");
        let arena = Arc::new(Self {
            memfd,
            map,
            block_bytes,
            count,
            lent: (0..count).map(|_| AtomicBool::new(false)).collect(),
            #[cfg(test)]
            past: past::Past::default(),
        });
        let blocks = (0..count).map(|index| Block { arena: arena.clone(), index }).collect();
        Ok((arena, blocks))
    }

    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub fn block_count(&self) -> usize {
        self.count
    }

    /// The span goes to a call that keeps the pages themselves and not a copy: gives where it lies in the memfd.
    pub fn lend(&self, span: BlockSpan) -> usize {
        let offset = self.file_offset(span);
        // Read by `Block::detached` of the same block only after the lease that covers this call has ended: the lock of
        // `memory` orders the two.
        self.lent[offset / self.block_bytes].store(true, Ordering::Relaxed);
        offset
    }

    /// For reads past the mapping: sendfile, and the fake kernel's.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Where a span lies in the memfd.
    pub fn file_offset(&self, span: BlockSpan) -> usize {
        let index = usize::try_from(span.block.0).expect("a block's index fits a usize");
        let end = span.offset.checked_add(span.bytes);
        assert!(
            index < self.count && end.is_some_and(|end| end <= self.block_bytes),
            "a span outside its block"
        );
        index * self.block_bytes + span.offset
    }

    /// The bytes of a block that is leased. Only `memory::Lease` asks, for as long as it exists.
    pub(crate) fn leased(&self, span: BlockSpan) -> &[u8] {
        let start = self.address(span);
        // SAFETY: `slice::from_raw_parts` asks for readable memory that nobody writes meanwhile: `address` has checked that
        // the span is inside the mapping, which lives as long as `self`; while its lease exists, the only `Block` of these
        // bytes lies in `memory`, which does not write it.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        unsafe {
            std::slice::from_raw_parts(start, span.bytes)
        }
    }

    /// Where a span lies in our address space. Only rings ask, to tell the kernel.
    pub(crate) fn address(&self, span: BlockSpan) -> *const u8 {
        // `wrapping_add` needs no proof; `file_offset` has checked that the span is inside the mapping.
        self.map.as_ptr().wrapping_add(self.file_offset(span))
    }
}

impl Block {
    pub fn id(&self) -> BlockId {
        BlockId(u32::try_from(self.index).expect("an arena has fewer than 2³² blocks"))
    }

    pub fn bytes(&self) -> &[u8] {
        let start = self.start();
        // SAFETY: `slice::from_raw_parts` asks for readable memory that nobody writes meanwhile: `Arena::new` mapped
        // it, `self.arena` keeps it mapped, and only who owns this `Block`, which `&self` borrows, may write it.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        unsafe {
            std::slice::from_raw_parts(start, self.arena.block_bytes)
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.start();
        // SAFETY: as in `bytes`, and `&mut self` is the only borrow of the only `Block` of these bytes.
        #[expect(unsafe_code, reason = "the contract is this module's")]
        unsafe {
            std::slice::from_raw_parts_mut(start, self.arena.block_bytes)
        }
    }

    /// Where the kernel may write `bytes` bytes at `offset`. Only rings ask, having taken the block.
    pub(crate) fn address(&mut self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.arena.block_bytes), "a read past its block");
        self.start().wrapping_add(offset)
    }

    /// Makes the block fit to be filled with other bytes: see the module's head. Costs a system call and fresh pages if
    /// the block was lent, nothing else (2 MiB in one huge page: 97 µs; in pages of 4 KiB: 1.7 ms).
    #[must_use]
    pub fn detached(self, planted: Planted) -> Self {
        let arena = &self.arena;
        if arena.lent[self.index].swap(false, Ordering::Relaxed) && !planted.has(Plant::DetachSkipped) {
            #[cfg(test)]
            arena.past.keep(&self);
            let count = |bytes: usize| i64::try_from(bytes).expect("the arena's length fits 64 bits");
            let (offset, length) = (count(self.index * arena.block_bytes), count(arena.block_bytes));
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // mm/shmem.c, shmem_fallocate: punching a hole in an unsealed memfd cannot fail.
            fallocate(&arena.memfd, hole, offset, length).expect("a hole is punched in a memfd of our own");
        }
        self
    }

    fn start(&self) -> *mut u8 {
        self.arena.map.as_mut_ptr().wrapping_add(self.index * self.arena.block_bytes)
    }
}

/// What detached blocks held, for a fake kernel: a real one keeps the pages.
#[cfg(test)]
pub mod past {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::{Arena, Block, BlockId, BlockSpan};

    #[derive(Default)]
    pub struct Past(Mutex<HashMap<BlockId, Vec<Vec<u8>>>>);

    /// Bytes that were lent: of the block's pages as they were `age` detachments after its first.
    #[derive(Clone, Copy, Debug)]
    pub struct Lent {
        pub span: BlockSpan,
        age: usize,
    }

    impl Past {
        pub fn keep(&self, block: &Block) {
            self.0.lock().unwrap().entry(block.id()).or_default().push(block.bytes().to_vec());
        }

        fn age(&self, block: BlockId) -> usize {
            self.0.lock().unwrap().get(&block).map_or(0, Vec::len)
        }
    }

    impl Arena {
        /// [`Arena::lend`], as a fake kernel does it.
        pub fn lend_pages(&self, span: BlockSpan) -> Lent {
            self.lend(span);
            Lent { span, age: self.past.age(span.block) }
        }

        /// Whether its block was detached meanwhile.
        pub fn is_past(&self, lent: Lent) -> bool {
            self.past.age(lent.span.block) > lent.age
        }

        /// What who has the pages reads now, from `skip` on.
        pub fn read_lent(&self, lent: Lent, skip: usize, into: &mut [u8]) {
            let start = lent.span.offset + skip;
            if let Some(kept) =
                self.past.0.lock().unwrap().get(&lent.span.block).and_then(|ages| ages.get(lent.age))
            {
                return into.copy_from_slice(&kept[start..start + into.len()]);
            }
            let whole = BlockSpan { offset: start, bytes: into.len(), ..lent.span };
            let offset = i64::try_from(self.file_offset(whole)).unwrap();
            assert_eq!(nix::sys::uio::pread(self.memfd(), into, offset), Ok(into.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_a_block_is_in_the_memfd_at_its_place() {
        let (arena, mut blocks) = Arena::new(4096, 3).unwrap();
        blocks[1].bytes_mut().fill(7);
        assert!(blocks[0].bytes().iter().chain(blocks[2].bytes()).all(|byte| *byte == 0));
        let span = BlockSpan { block: blocks[1].id(), offset: 96, bytes: 4000 };
        let mut seen = vec![0; 4000];
        let offset = i64::try_from(arena.file_offset(span)).unwrap();
        nix::sys::uio::pread(arena.memfd(), &mut seen, offset).unwrap();
        assert_eq!(seen, vec![7; 4000]);
    }

    #[test]
    #[should_panic(expected = "a span outside its block")]
    fn a_span_past_its_block_is_refused() {
        let (arena, blocks) = Arena::new(4096, 3).unwrap();
        arena.file_offset(BlockSpan { block: blocks[1].id(), offset: 4000, bytes: 97 });
    }

    /// What a pipe holds of a block stands for what a socket's queue does: references to its pages.
    #[test]
    fn what_was_lent_stays_what_it_was_if_the_block_is_detached_and_only_then() {
        for (planted, kept) in [(Planted::default(), 7), (Planted::of(Plant::DetachSkipped), 8)] {
            let (arena, mut blocks) = Arena::new(4096, 2).unwrap();
            let mut block = blocks.remove(1);
            block.bytes_mut().fill(7);
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let mut offset =
                i64::try_from(arena.lend(BlockSpan { block: block.id(), offset: 0, bytes: 4096 })).unwrap();
            let flags = nix::fcntl::SpliceFFlags::empty();
            let spliced = nix::fcntl::splice(arena.memfd(), Some(&mut offset), &writer, None, 4096, flags);
            assert_eq!(spliced, Ok(4096));
            let mut block = block.detached(planted);
            block.bytes_mut().fill(8);
            let mut seen = [0; 4096];
            assert_eq!(nix::unistd::read(&reader, &mut seen), Ok(4096));
            assert_eq!(seen, [kept; 4096], "{planted:?}");
            assert!(block.bytes().iter().all(|byte| *byte == 8));
        }
    }
}
