//! The memory that blocks of files are kept in: one memfd, mapped once, cut into blocks of one size (DESIGN §4).
//!
//! **Contract.** For each block there is exactly one [`Block`], made with the arena and never cloned. Who has the
//! `Block` owns the bytes:
//!
//! - a Rust reference to the bytes borrows the `Block` ([`Block::bytes`], [`Block::bytes_mut`]);
//! - a ring that lets the kernel *write* a block takes the `Block` by value and gives it back with the completion, so
//!   that no reference can exist meanwhile; a ring that goes away earlier forgets it, and with it the mapping stays;
//! - a ring that lets the kernel *read* a block (a SEND) names it by [`BlockSpan`]. That needs no ownership to
//!   be sound, since no reference is made and the kernel copies whatever is there; that the bytes are the right ones is the
//!   promise of `memory`, which never gives a block away for filling while a lease on it exists.
//!
//! memfd and not anonymous memory: sendfile can send from it, and a successor process can inherit it. Never hugetlbfs,
//! which has no `splice_read`; huge pages are asked for by madvise and their absence only costs speed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A block is one huge page, one disk read, one unit of admission and of eviction.
pub const BLOCK_BYTES: usize = 2 * 1024 * 1024;

pub struct Arena {
    memfd: OwnedFd,
    map: MmapRaw,
    block_bytes: usize,
    count: usize,
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
        let arena = Arc::new(Self { memfd, map, block_bytes, count });
        let blocks = (0..count).map(|index| Block { arena: arena.clone(), index }).collect();
        Ok((arena, blocks))
    }

    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub fn block_count(&self) -> usize {
        self.count
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

    /// Makes the block fit to be filled with other bytes. With plain SEND nothing is left to do: the kernel copied what
    /// it sent before the completion came. A block that was lent to sendfile or SEND_ZC must be detached here, by
    /// punching a hole in the memfd, before anything else is written to it (DESIGN §4).
    #[must_use]
    pub fn detached(self) -> Self {
        self
    }

    fn start(&self) -> *mut u8 {
        self.arena.map.as_mut_ptr().wrapping_add(self.index * self.arena.block_bytes)
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
}
