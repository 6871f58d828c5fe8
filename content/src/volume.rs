//! A volume: one disk, one filesystem, no RAID (DESIGN §3). Names and the footer that every file ends with.
//!
//! ```text
//! OCA-VOLUME        {"format":1,"uuid":"…"}, sealed (`seal`)
//! incoming/         unfinished downloads with their resume records, and small objects that wait for their pack
//! files/<16 hex>    complete, verified, immutable:
//!                   data │ zeros to 4 KiB │ crc32c of each 256 KiB of data │ zeros │ trailer, 64 bytes
//!                   data: one object, or the members of a pack and their index (`pack`)
//! ```
//!
//! A file's number is unique on its appliance and never used again: a refill is a new file. Does no IO.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::checksum::{PIECE_BYTES, crc32c, piece_count};
use crate::id::ObjectId;
use crate::seal::{SealError, from_sealed, to_sealed};

pub const MARKER_NAME: &str = "OCA-VOLUME";
pub const FILES_FOLDER: &str = "files";
pub const INCOMING_FOLDER: &str = "incoming";
pub const VOLUME_FORMAT: u32 = 1;
/// Every offset and length of an O_DIRECT read or write is a multiple of this.
pub const ALIGNMENT_BYTES: u64 = 4096;
/// Not larger than a file of this many bytes of data: 2⁴⁸, far above any XFS file of ours; keeps sums in range.
pub const DATA_BYTES_MAX: u64 = 1 << 48;
pub const TRAILER_BYTES: usize = 64;

/// More than that is no rot but another text.
const ROTTEN_BITS_MAX: u32 = 16;

const MAGIC: [u8; 8] = *b"OCAFILE1";

/// The name of a file below `files/`: its number as 16 hexadecimal digits.
pub fn file_name(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that a name below `files/` stands for.
pub fn file_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// Random, made once when the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub [u8; 16]);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for VolumeId {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let number = u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes()));
        match number {
            Ok(id) if id.to_string() == text => Ok(id),
            _ => Err(VolumeError::NotAUuid),
        }
    }
}

impl Serialize for VolumeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the file `OCA-VOLUME` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    pub format: u32,
    pub uuid: VolumeId,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("not a volume's uuid: 32 lowercase hexadecimal digits")]
    NotAUuid,
    #[error("{MARKER_NAME} is not valid: {0}")]
    Rotten(SealError),
    #[error("the volume has format {0}; this program knows format {VOLUME_FORMAT}")]
    Format(u32),
}

impl Marker {
    pub fn new(uuid: VolumeId) -> Self {
        Self { format: VOLUME_FORMAT, uuid }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, VolumeError> {
        let marker: Self = from_sealed(bytes).map_err(VolumeError::Rotten)?;
        if marker.format == VOLUME_FORMAT { Ok(marker) } else { Err(VolumeError::Format(marker.format)) }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        to_sealed(self)
    }

    /// Whether `bytes` are this marker with a few bits flipped: rot, and proof that it is this very disk. Of two volumes
    /// the seals alone differ in about half of their bits.
    pub fn is_rotten_in(&self, bytes: &[u8]) -> bool {
        let whole = self.to_bytes();
        let flipped = whole.iter().zip(bytes).map(|(a, b)| (a ^ b).count_ones()).fold(0, u32::saturating_add);
        whole.len() == bytes.len() && (1..=ROTTEN_BITS_MAX).contains(&flipped)
    }
}

/// Whether a file is one object or many small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Object,
    /// Objects under 1 MiB, each starting at a 4 KiB boundary.
    Pack,
}

/// What stands behind a file's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    pub kind: FileKind,
    pub data_bytes: u64,
    /// BLAKE3 of the data: of an object file, the object's name; of a pack, `pack::identity`.
    pub digest: ObjectId,
    /// One per 256 KiB of data, the last perhaps of less.
    pub checksums: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    #[error("the footer is cut off or is none")]
    NotAFooter,
    #[error("the footer's bytes do not match its checksum")]
    Damaged,
    #[error("the footer is of a file with {found} bytes of data, not {expected}")]
    OtherSize { found: u64, expected: u64 },
    #[error("the footer is of version {0}, or of an unknown kind of file")]
    Unknown(u32),
}

/// Where in a file the footer starts: behind the data, at the next 4 KiB boundary.
pub fn footer_offset(data_bytes: u64) -> u64 {
    aligned(data_bytes)
}

/// How long the footer is: a multiple of 4 KiB.
pub fn footer_bytes(data_bytes: u64) -> u64 {
    let table = piece_count(data_bytes).saturating_mul(4);
    aligned(table.saturating_add(64))
}

/// The whole length of a file with this much data.
pub fn file_bytes(data_bytes: u64) -> u64 {
    footer_offset(data_bytes).saturating_add(footer_bytes(data_bytes))
}

/// Up to the next 4 KiB boundary. Saturates: no size that a hostile file names may stop the program that reads it.
fn aligned(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(u64::MAX)
}

impl Footer {
    /// The bytes to write at [`footer_offset`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = usize::try_from(footer_bytes(self.data_bytes)).expect("a footer fits in memory");
        let mut bytes: Vec<u8> = self.checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let sum = crc32c(&bytes);
        bytes.resize(size.saturating_sub(TRAILER_BYTES), 0);
        bytes.extend(self.trailer(sum));
        bytes
    }

    fn trailer(&self, table_sum: u32) -> Vec<u8> {
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        let kind: u32 = match self.kind {
            FileKind::Object => 1,
            FileKind::Pack => 2,
        };
        trailer.extend(MAGIC);
        trailer.extend(VOLUME_FORMAT.to_le_bytes());
        trailer.extend(kind.to_le_bytes());
        trailer.extend(self.data_bytes.to_le_bytes());
        trailer.extend(self.digest.as_bytes());
        trailer.extend(table_sum.to_le_bytes());
        let sum = crc32c(&trailer);
        trailer.extend(sum.to_le_bytes());
        trailer
    }

    /// Reads the bytes from [`footer_offset`] to the end of a file that should have `data_bytes` of data.
    pub fn parse(bytes: &[u8], data_bytes: u64) -> Result<Self, FooterError> {
        let trailer = Trailer::parse(bytes)?;
        if trailer.data_bytes != data_bytes {
            return Err(FooterError::OtherSize { found: trailer.data_bytes, expected: data_bytes });
        }
        if u64::try_from(bytes.len()) != Ok(footer_bytes(data_bytes)) {
            return Err(FooterError::NotAFooter);
        }
        let table = usize::try_from(piece_count(data_bytes).saturating_mul(4)).ok();
        let table = table.and_then(|count| bytes.get(..count)).ok_or(FooterError::NotAFooter)?;
        if crc32c(table) != trailer.table_sum {
            return Err(FooterError::Damaged);
        }
        let checksums = table.chunks_exact(4).filter_map(u32_le).collect();
        Ok(Self { kind: trailer.kind, data_bytes, digest: trailer.digest, checksums })
    }
}

/// The last 64 bytes of a file: enough to know what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub kind: FileKind,
    pub data_bytes: u64,
    pub digest: ObjectId,
    table_sum: u32,
}

impl Trailer {
    /// `bytes` is any tail of a file that holds its last [`TRAILER_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FooterError> {
        let trailer = bytes.last_chunk::<TRAILER_BYTES>().ok_or(FooterError::NotAFooter)?;
        let (body, sum) = trailer.split_last_chunk::<4>().ok_or(FooterError::NotAFooter)?;
        let (magic, rest) = body.split_first_chunk::<8>().ok_or(FooterError::NotAFooter)?;
        if *magic != MAGIC {
            return Err(FooterError::NotAFooter);
        }
        if crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(FooterError::Damaged);
        }
        Self::parse_fields(rest).ok_or(FooterError::NotAFooter)?
    }

    fn parse_fields(rest: &[u8]) -> Option<Result<Self, FooterError>> {
        let (format, rest) = rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let (data_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let table_sum = u32_le(rest)?;
        let format = u32::from_le_bytes(*format);
        let kind = match (format, u32::from_le_bytes(*kind)) {
            (VOLUME_FORMAT, 1) => FileKind::Object,
            (VOLUME_FORMAT, 2) => FileKind::Pack,
            _ => return Some(Err(FooterError::Unknown(format))),
        };
        let data_bytes = u64::from_le_bytes(*data_bytes);
        if data_bytes > DATA_BYTES_MAX {
            return None;
        }
        Some(Ok(Self { kind, data_bytes, digest: ObjectId::from_bytes(*digest), table_sum }))
    }
}

fn u32_le(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// Takes a file's data in any pieces, in order, and gives its checksums.
#[derive(Debug, Default)]
pub struct Checksums {
    done: Vec<u32>,
    piece: Vec<u8>,
}

impl Checksums {
    pub fn update(&mut self, mut bytes: &[u8]) {
        let whole = usize::try_from(PIECE_BYTES).expect("256 KiB fits a usize");
        while !bytes.is_empty() {
            let room = whole.saturating_sub(self.piece.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == whole {
                self.seal_piece();
            }
        }
    }

    pub fn finish(mut self) -> Vec<u32> {
        if !self.piece.is_empty() {
            self.seal_piece();
        }
        self.done
    }

    fn seal_piece(&mut self) {
        self.done.push(crc32c(&self.piece));
        self.piece.clear();
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use super::*;

    fn sample(count: usize) -> (Vec<u8>, Footer) {
        let data: Vec<u8> = (0..=250u8).cycle().take(count).collect();
        let mut checksums = Checksums::default();
        data.chunks(70_001).for_each(|part| checksums.update(part));
        let data_bytes = u64::try_from(count).unwrap();
        let footer = Footer {
            kind: FileKind::Object,
            data_bytes,
            digest: ObjectId::of(&data),
            checksums: checksums.finish(),
        };
        (data, footer)
    }

    #[test]
    fn a_footer_reads_back_at_every_odd_size() {
        for count in [0, 1, 4095, 4096, 262_144, 262_145, 1_000_000] {
            let (data, footer) = sample(count);
            let bytes = footer.to_bytes();
            let data_bytes = u64::try_from(data.len()).unwrap();
            assert_eq!(u64::try_from(bytes.len()).unwrap(), footer_bytes(data_bytes));
            assert_eq!(file_bytes(data_bytes) % ALIGNMENT_BYTES, 0);
            assert_eq!(Footer::parse(&bytes, data_bytes).unwrap(), footer);
            let pieces: Vec<_> = data.chunks(262_144).map(crc32c).collect();
            assert_eq!(footer.checksums, pieces);
        }
    }

    #[test]
    fn a_flip_in_table_or_trailer_is_noticed() {
        let (_, footer) = sample(1_000_000);
        let bytes = footer.to_bytes();
        let table = 0..16;
        let trailer = bytes.len() - TRAILER_BYTES..bytes.len();
        for index in table.chain(trailer) {
            let mut flipped = bytes.clone();
            flipped[index] ^= 0x10;
            assert!(Footer::parse(&flipped, 1_000_000).is_err(), "flip at {index}");
        }
        assert!(Footer::parse(&bytes, 999_999).is_err());
        assert!(Footer::parse(&bytes[4096..], 1_000_000).is_err());
    }

    #[test]
    fn a_marker_with_a_flipped_bit_is_noticed_and_known_for_whose_it_is() {
        let [mine, other] = [7, 8].map(|byte| Marker::new(VolumeId([byte; 16])));
        let bytes = mine.to_bytes();
        assert_eq!(Marker::parse(&bytes).unwrap(), mine);
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Marker::parse(&rotten), Err(VolumeError::Rotten(_))), "bit {bit}");
            assert!(mine.is_rotten_in(&rotten) && !other.is_rotten_in(&rotten), "bit {bit}");
        }
        assert!(!mine.is_rotten_in(&bytes) && !mine.is_rotten_in(&bytes[1..]) && !mine.is_rotten_in(b""));
    }

    #[test]
    fn sizes_beyond_all_sense_saturate() {
        assert_eq!(footer_offset(u64::MAX), u64::MAX);
        assert_eq!(file_bytes(u64::MAX), u64::MAX);
        assert_eq!(footer_bytes(u64::MAX) % ALIGNMENT_BYTES, 0);
    }

    #[test]
    fn a_file_name_reads_back_and_others_are_no_numbers() {
        assert_eq!(file_number(&file_name(0x1a3)), Some(0x1a3));
        for bad in ["", "1a3", "00000000000001A3", "+0000000000001a3", "00000000000001a3.tmp"] {
            assert_eq!(file_number(bad), None, "{bad}");
        }
        let id = VolumeId([7; 16]);
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        assert!("7".parse::<VolumeId>().is_err());
    }
}
