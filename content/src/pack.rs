//! A pack: many objects under 1 MiB in one file of a volume (DESIGN §3). Written once, sealed, never changed. Does no IO.
//!
//! ```text
//! member │ zeros to 4 KiB │ member │ zeros … │ index: 40 bytes a member │ tail, 16 bytes        = the file's data
//!                                              object 32, offset u32, bytes u32   magic 8, count u32, crc32c u32
//! ```
//!
//! Behind the data comes the footer as behind any file ([`crate::volume`]), of kind `Pack`. The catalogue names members
//! by file, offset and bytes and needs no index; the index is for a scan without a catalogue. The footer's digest is
//! [`identity`]: two packs of the same length cannot change places unnoticed.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::checksum::crc32c;
use crate::id::ObjectId;
use crate::volume::ALIGNMENT_BYTES;

/// Objects of fewer bytes than this live in packs.
pub const SMALL_BELOW_BYTES: u64 = 1 << 20;
/// A pack is sealed at about this size of its members.
pub const PACK_BYTES: u64 = 64 << 20;
/// Offsets are 32 bits wide.
pub const PACK_DATA_BYTES_MAX: u64 = u32::MAX as u64;
pub const TAIL_BYTES: u64 = 16;
pub const RECORD_BYTES: u64 = 40;

const MAGIC: [u8; 8] = *b"OCAPACK1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub object: ObjectId,
    /// Into the file's data; a multiple of 4 KiB.
    pub offset: u32,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pack's index is damaged or is none")]
pub struct BadIndex;

/// What a member takes up of a pack's members: up to the next 4 KiB; an empty one has a place of its own too.
pub fn span_bytes(bytes: u64) -> u64 {
    bytes.max(1).checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(u64::MAX)
}

/// The data's length of a pack whose members end at `members_end` (a multiple of 4 KiB).
pub fn data_bytes(members_end: u64, count: u64) -> u64 {
    members_end.saturating_add(count.saturating_mul(RECORD_BYTES)).saturating_add(TAIL_BYTES)
}

/// The footer's digest of a pack: the BLAKE3 of its data, its last 8 bytes replaced by the file's number.
pub fn identity(data: ObjectId, number: u64) -> ObjectId {
    let mut bytes = *data.as_bytes();
    if let Some(last) = bytes.last_chunk_mut::<8>() {
        *last = number.to_le_bytes();
    }
    ObjectId::from_bytes(bytes)
}

/// Whether a pack with this digest in its footer was sealed as the file of that number.
pub fn is_of(digest: ObjectId, number: u64) -> bool {
    digest.as_bytes().last_chunk::<8>() == Some(&number.to_le_bytes())
}

/// Index and tail: the end of a pack's data.
pub fn index_to_bytes(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        bytes.extend(member.object.as_bytes());
        bytes.extend(member.offset.to_le_bytes());
        bytes.extend(member.bytes.to_le_bytes());
    }
    bytes.extend(MAGIC);
    bytes.extend(u32::try_from(members.len()).unwrap_or(u32::MAX).to_le_bytes());
    let sum = crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// Where the index starts in data of `data_bytes` whose last [`TAIL_BYTES`] are `tail`.
pub fn index_offset(data_bytes: u64, tail: &[u8]) -> Result<u64, BadIndex> {
    let (magic, rest) = tail.split_first_chunk::<8>().ok_or(BadIndex)?;
    let count = rest.first_chunk::<4>().map(|count| u32::from_le_bytes(*count)).ok_or(BadIndex)?;
    let index = u64::from(count).saturating_mul(RECORD_BYTES).saturating_add(TAIL_BYTES);
    let start = data_bytes.checked_sub(index).ok_or(BadIndex)?;
    let right = *magic == MAGIC && data_bytes <= PACK_DATA_BYTES_MAX && start.is_multiple_of(ALIGNMENT_BYTES);
    if right { Ok(start) } else { Err(BadIndex) }
}

/// The members, from the bytes between [`index_offset`] and the end of the data.
pub fn parse_index(bytes: &[u8], offset: u64) -> Result<Vec<Member>, BadIndex> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(BadIndex)?;
    if crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(BadIndex);
    }
    let tail = usize::try_from(TAIL_BYTES.saturating_sub(4)).map_err(|_| BadIndex)?;
    let records = body.len().checked_sub(tail).and_then(|end| body.get(..end)).ok_or(BadIndex)?;
    let size = usize::try_from(RECORD_BYTES).map_err(|_| BadIndex)?;
    let members = records.chunks(size).map(member).collect::<Option<Vec<_>>>().ok_or(BadIndex)?;
    let mut end = 0;
    for member in &members {
        let at = u64::from(member.offset);
        let small = u64::from(member.bytes) < SMALL_BELOW_BYTES;
        if at < end || !at.is_multiple_of(ALIGNMENT_BYTES) || !small {
            return Err(BadIndex);
        }
        end = at.saturating_add(span_bytes(u64::from(member.bytes)));
    }
    if end <= offset { Ok(members) } else { Err(BadIndex) }
}

fn member(record: &[u8]) -> Option<Member> {
    let (object, rest) = record.split_first_chunk::<32>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let bytes = rest.first_chunk::<4>()?;
    Some(Member {
        object: ObjectId::from_bytes(*object),
        offset: u32::from_le_bytes(*offset),
        bytes: u32::from_le_bytes(*bytes),
    })
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;

    fn members() -> Vec<Member> {
        let object = |seed: u8| ObjectId::of(&[seed]);
        vec![
            Member { object: object(1), offset: 0, bytes: 0 },
            Member { object: object(2), offset: 4096, bytes: 4097 },
            Member { object: object(3), offset: 12_288, bytes: 5 },
        ]
    }

    #[test]
    fn an_index_reads_back_and_every_flipped_byte_of_it_is_noticed() {
        let bytes = index_to_bytes(&members());
        let data = data_bytes(16_384, 3);
        let read = |bytes: &[u8]| {
            let start = index_offset(data, &bytes[bytes.len() - 16..])?;
            parse_index(bytes, start)
        };
        assert_eq!(read(&bytes), Ok(members()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert_eq!(read(&flipped), Err(BadIndex), "flip at {at}");
        }
    }

    #[test]
    fn members_that_overlap_lie_askew_or_reach_into_the_index_are_refused() {
        for (offset, bytes) in [(4096, 5), (12_289, 5), (16_384, 5), (12_288, 1 << 20)] {
            let mut wrong = members();
            wrong[2] = Member { offset, bytes, ..wrong[2] };
            assert_eq!(parse_index(&index_to_bytes(&wrong), 16_384), Err(BadIndex), "{offset} {bytes}");
        }
        assert_eq!(index_offset(3, b"OCAPACK1\xff\xff\xff\xff\0\0\0\0"), Err(BadIndex));
        assert_eq!(parse_index(b"", 0), Err(BadIndex));
    }

    #[test]
    fn a_pack_under_another_number_is_another_file() {
        let digest = identity(ObjectId::of(b"data"), 7);
        assert!(is_of(digest, 7) && !is_of(digest, 8));
        assert_ne!(digest, identity(ObjectId::of(b"other"), 7));
    }
}
