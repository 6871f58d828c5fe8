//! The verification tree of an object (`<blake3>.obao`): checks any 256 KiB piece by itself (DESIGN §3, §5).
//!
//! The format is Bao's outboard encoding with chunk groups of 2⁸ chunks (github.com/oconnor663/bao,
//! docs/spec.md; the groups are iroh's extension): the object's length as 8 bytes little-endian, then the parent
//! nodes in pre-order, each the chaining values of its two children. The root is the object's name, so a
//! tree needs no trust. The last piece may be short; an object of one piece has no parent at all.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::checksum::{PIECE_BYTES, piece_count};
use crate::id::ObjectId;
use crate::volume::DATA_BYTES_MAX;

const LENGTH_BYTES: usize = 8;
const PARENT_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("the verification tree is cut off, too long, or is none")]
    NotATree,
    #[error("the verification tree does not belong to the object it is named after")]
    Foreign,
}

/// How long the tree of an object is.
pub fn tree_bytes(object_bytes: u64) -> u64 {
    let parents = piece_count(object_bytes).max(1).saturating_sub(1);
    parents.saturating_mul(64).saturating_add(8)
}

/// Takes an object's bytes in any pieces, in order; gives its name and its tree.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    leaves: Vec<ChainingValue>,
    piece: blake3::Hasher,
    bytes: u64,
}

impl TreeBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.piece.count() == PIECE_BYTES {
                self.seal_piece();
            }
            let room = usize::try_from(PIECE_BYTES.saturating_sub(self.piece.count())).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.update(now);
            self.bytes = self.bytes.saturating_add(now.len().try_into().unwrap_or(u64::MAX));
            bytes = later;
        }
    }

    /// The object's name and the bytes of its `.obao`.
    pub fn finish(mut self) -> (ObjectId, Vec<u8>) {
        let mut out = self.bytes.to_le_bytes().to_vec();
        if self.leaves.is_empty() {
            return (ObjectId::from_bytes(*self.piece.finalize().as_bytes()), out);
        }
        self.leaves.push(self.piece.finalize_non_root());
        let (left, right) = write_parent(&self.leaves, self.bytes, &mut out);
        (ObjectId::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()), out)
    }

    /// A piece is sealed only when more follows: the last one must stay open, it may be the root.
    fn seal_piece(&mut self) {
        self.leaves.push(self.piece.finalize_non_root());
        self.piece = blake3::Hasher::new();
        self.piece.set_input_offset(self.bytes);
    }
}

/// Writes the parent over `leaves`, then what is below it, left before right; gives its two children.
fn write_parent(leaves: &[ChainingValue], bytes: u64, out: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    let place = out.len();
    out.resize(place.saturating_add(PARENT_BYTES), 0);
    let left_bytes = left_subtree_len(bytes);
    let (left, right) = leaves.split_at(pieces(left_bytes).min(leaves.len()));
    let left = write_subtree(left, left_bytes, out);
    let right = write_subtree(right, bytes.saturating_sub(left_bytes), out);
    let parent = out.iter_mut().skip(place);
    parent.zip(left.iter().chain(&right)).for_each(|(to, from)| *to = *from);
    (left, right)
}

fn write_subtree(leaves: &[ChainingValue], bytes: u64, out: &mut Vec<u8>) -> ChainingValue {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = write_parent(leaves, bytes, out);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

fn pieces(bytes: u64) -> usize {
    usize::try_from(piece_count(bytes)).unwrap_or(usize::MAX)
}

/// A tree that was checked against its object's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    object: ObjectId,
    bytes: u64,
    /// Empty for an object of one piece.
    leaves: Vec<ChainingValue>,
}

impl Tree {
    /// Checks every parent up to the root. Work and memory are bounded by the length of `encoded`.
    pub fn parse(object: ObjectId, encoded: &[u8]) -> Result<Self, TreeError> {
        let (length, parents) = encoded.split_first_chunk::<LENGTH_BYTES>().ok_or(TreeError::NotATree)?;
        let bytes = u64::from_le_bytes(*length);
        if bytes > DATA_BYTES_MAX || u64::try_from(encoded.len()) != Ok(tree_bytes(bytes)) {
            return Err(TreeError::NotATree);
        }
        let mut reader = Reader { rest: parents, leaves: Vec::with_capacity(pieces(bytes)) };
        if piece_count(bytes) > 1 {
            reader.read_root(object, bytes)?;
        }
        Ok(Self { object, bytes, leaves: reader.leaves })
    }

    /// How long the object is. Not proven for an object of one piece: the piece itself does.
    pub fn object_bytes(&self) -> u64 {
        self.bytes
    }

    /// At least 1: an empty object has one empty piece.
    pub fn piece_count(&self) -> u64 {
        piece_count(self.bytes).max(1)
    }

    /// How long piece `index` is; 0 past the end.
    pub fn piece_bytes(&self, index: u64) -> u64 {
        let start = index.saturating_mul(PIECE_BYTES);
        self.bytes.saturating_sub(start).min(PIECE_BYTES)
    }

    /// Whether these are the bytes of piece `index`.
    pub fn verifies(&self, index: u64, piece: &[u8]) -> bool {
        if index >= self.piece_count() || u64::try_from(piece.len()) != Ok(self.piece_bytes(index)) {
            return false;
        }
        if self.leaves.is_empty() {
            return ObjectId::of(piece) == self.object;
        }
        let leaf = usize::try_from(index).ok().and_then(|index| self.leaves.get(index));
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(index.saturating_mul(PIECE_BYTES));
        hasher.update(piece);
        leaf.is_some_and(|leaf| *leaf == hasher.finalize_non_root())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    leaves: Vec<ChainingValue>,
}

impl Reader<'_> {
    fn read_root(&mut self, object: ObjectId, bytes: u64) -> Result<(), TreeError> {
        let (left, right) = self.take_parent()?;
        if merge_subtrees_root(&left, &right, Mode::Hash).as_bytes() != object.as_bytes() {
            return Err(TreeError::Foreign);
        }
        self.read_children(left, right, bytes)
    }

    fn read_children(
        &mut self,
        left: ChainingValue,
        right: ChainingValue,
        bytes: u64,
    ) -> Result<(), TreeError> {
        let left_bytes = left_subtree_len(bytes);
        self.read_subtree(left, left_bytes)?;
        self.read_subtree(right, bytes.saturating_sub(left_bytes))
    }

    // Depth: log2 of the number of pieces, 30 at most (`DATA_BYTES_MAX`).
    fn read_subtree(&mut self, expected: ChainingValue, bytes: u64) -> Result<(), TreeError> {
        if bytes <= PIECE_BYTES {
            self.leaves.push(expected);
            return Ok(());
        }
        let (left, right) = self.take_parent()?;
        if merge_subtrees_non_root(&left, &right, Mode::Hash) != expected {
            return Err(TreeError::Foreign);
        }
        self.read_children(left, right, bytes)
    }

    fn take_parent(&mut self) -> Result<(ChainingValue, ChainingValue), TreeError> {
        let (left, rest) = self.rest.split_first_chunk::<32>().ok_or(TreeError::NotATree)?;
        let (right, rest) = rest.split_first_chunk::<32>().ok_or(TreeError::NotATree)?;
        self.rest = rest;
        Ok((*left, *right))
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;

    const PIECE: usize = 262_144;

    fn sample(count: usize) -> (Vec<u8>, ObjectId, Vec<u8>) {
        let data: Vec<u8> = (0..=250u8).cycle().take(count).collect();
        let mut builder = TreeBuilder::new();
        data.chunks(99_991).for_each(|part| builder.update(part));
        let (object, encoded) = builder.finish();
        (data, object, encoded)
    }

    #[test]
    fn the_root_is_the_plain_blake3_digest_at_every_odd_size() {
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 5, 7 * PIECE, 9 * PIECE + 1] {
            let (data, object, encoded) = sample(count);
            assert_eq!(object, ObjectId::of(&data), "{count} bytes");
            let tree = Tree::parse(object, &encoded).unwrap();
            for (index, piece) in (0..).zip(data.chunks(PIECE)) {
                assert!(tree.verifies(index, piece), "piece {index} of {count} bytes");
            }
            assert!(!tree.verifies(tree.piece_count(), b""));
        }
    }

    #[test]
    fn a_wrong_bit_in_a_piece_is_noticed_and_so_is_a_swap_of_pieces() {
        let (mut data, object, encoded) = sample(3 * PIECE);
        let tree = Tree::parse(object, &encoded).unwrap();
        data[PIECE] ^= 1;
        assert!(tree.verifies(0, &data[..PIECE]));
        assert!(!tree.verifies(1, &data[PIECE..2 * PIECE]));
        assert!(!tree.verifies(1, &data[..PIECE]));
        assert!(!tree.verifies(2, &data[2 * PIECE..3 * PIECE - 1]));
    }

    #[test]
    fn a_tree_with_any_wrong_byte_or_cut_is_refused() {
        let (_, object, encoded) = sample(5 * PIECE);
        for index in 0..encoded.len() {
            let mut wrong = encoded.clone();
            wrong[index] ^= 4;
            assert!(Tree::parse(object, &wrong).is_err(), "flip at {index}");
            assert!(Tree::parse(object, &encoded[..index]).is_err(), "cut at {index}");
        }
    }
}
