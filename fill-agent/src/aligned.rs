//! A buffer for one piece at an address that O_DIRECT accepts. Safe code only: it allocates a page more and starts
//! at the first aligned byte.

use content::checksum::PIECE_BYTES;
use content::volume::ALIGNMENT_BYTES;

/// One piece: at most [`PIECE_BYTES`], at a multiple of [`ALIGNMENT_BYTES`] in memory.
#[derive(Debug)]
pub struct PieceBuffer {
    /// Never grows: growing would move it off its alignment.
    memory: Vec<u8>,
    start: usize,
    count: usize,
}

impl Default for PieceBuffer {
    fn default() -> Self {
        let alignment = narrow(ALIGNMENT_BYTES);
        let memory = vec![0; narrow(PIECE_BYTES).saturating_add(alignment)];
        let start = memory.as_ptr().align_offset(alignment).min(alignment);
        Self { memory, start, count: 0 }
    }
}

impl PieceBuffer {
    pub fn clear(&mut self) {
        self.count = 0;
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.count]
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes what still fits and gives back the rest.
    pub fn fill<'a>(&mut self, bytes: &'a [u8], limit: usize) -> &'a [u8] {
        let room = limit.min(narrow(PIECE_BYTES)).saturating_sub(self.count);
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        let at = self.start + self.count;
        self.memory[at..at + now.len()].copy_from_slice(now);
        self.count += now.len();
        later
    }

    /// The piece with zeros up to the next multiple of [`ALIGNMENT_BYTES`]: what is written to a file.
    pub fn padded(&mut self) -> &[u8] {
        let end = self.count.next_multiple_of(narrow(ALIGNMENT_BYTES));
        self.memory[self.start + self.count..self.start + end].fill(0);
        &self.memory[self.start..self.start + end]
    }

    /// Room for a piece of `count` bytes and the padding behind it, to be read into; sets the count.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        self.count = count.min(narrow(PIECE_BYTES));
        let end = self.count.next_multiple_of(narrow(ALIGNMENT_BYTES));
        &mut self.memory[self.start..self.start + end]
    }
}

fn narrow(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a piece fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_lies_at_an_aligned_address_and_is_padded_with_zeros() {
        let mut buffer = PieceBuffer::default();
        assert!(buffer.fill(&[7; 5000], 5000).is_empty());
        buffer.clear();
        let rest = buffer.fill(&[9; 5000], 4097);
        assert_eq!(rest.len(), 903);
        assert_eq!(buffer.bytes(), [9; 4097]);
        let padded = buffer.padded();
        assert_eq!(padded.as_ptr().align_offset(4096), 0);
        assert_eq!(padded.len(), 8192);
        assert!(padded[4097..].iter().all(|byte| *byte == 0));
    }
}
