//! Footers of files on a volume.
//!
//! Input: a byte of flags (1: the trailer's checksum is made right; 2: the table's too), eight bytes, the size that the file
//! should have, two bytes of how long the table's part of the input is; then the table, then the trailer. Between them
//! are zeros to where the trailer belongs. Flag 4: what follows the size is the footer as it is.

use content::checksum::{crc32c, piece_count};
use content::volume::{Footer, TRAILER_BYTES, Trailer, file_bytes, footer_bytes, footer_offset};

/// A larger footer is not built here: 16 KiB stand for a file of a GiB.
const FOOTER_BYTES_MAX: u64 = 16 << 10;

pub fn run(mut data: &[u8]) {
    let [flags] = crate::take(&mut data);
    let size = u64::from_le_bytes(crate::take(&mut data));
    check_sizes(size);
    let bytes = if flags & 4 == 4 { data.to_vec() } else { build(flags, size, data) };
    let parsed = Footer::parse(&bytes, size);
    if let Ok(trailer) = Trailer::parse(&bytes) {
        assert!(trailer.data_bytes == size || parsed.is_err());
    } else {
        assert!(parsed.is_err(), "a footer without a trailer");
    }
    let Ok(footer) = parsed else { return };
    assert_eq!(footer.data_bytes, size);
    assert_eq!(u64::try_from(footer.checksums.len()), Ok(piece_count(size)));
    let written = footer.to_bytes();
    assert_eq!(Footer::parse(&written, size).as_ref(), Ok(&footer));
    assert!(Footer::parse(&written, size ^ 1).is_err() && Footer::parse(&written[1..], size).is_err());
    // Nothing that is read was lost: the table and the trailer are what they were.
    let table = footer.checksums.len() * 4;
    assert_eq!(written[..table], bytes[..table]);
    assert_eq!(written.last_chunk::<TRAILER_BYTES>(), bytes.last_chunk::<TRAILER_BYTES>());
}

fn check_sizes(size: u64) {
    assert!(footer_offset(size) >= size && file_bytes(size) >= footer_offset(size));
    assert!(footer_bytes(size) >= 64 && footer_bytes(size).is_multiple_of(4096));
}

fn build(flags: u8, size: u64, mut data: &[u8]) -> Vec<u8> {
    let length = usize::try_from(footer_bytes(size).min(FOOTER_BYTES_MAX)).expect("16 KiB fit a usize");
    let cut = usize::from(u16::from_le_bytes(crate::take(&mut data))).min(data.len());
    let (table, trailer) = data.split_at(cut);
    let mut bytes = vec![0; length];
    let place = length - TRAILER_BYTES;
    bytes[..place].iter_mut().zip(table).for_each(|(to, from)| *to = *from);
    bytes[place..].iter_mut().zip(trailer).for_each(|(to, from)| *to = *from);
    if flags & 2 == 2 {
        let table = usize::try_from(piece_count(size).saturating_mul(4)).unwrap_or(usize::MAX).min(place);
        let sum = crc32c(&bytes[..table]).to_le_bytes();
        bytes[length - 8..length - 4].copy_from_slice(&sum);
    }
    if flags & 1 == 1 {
        let sum = crc32c(&bytes[place..length - 4]).to_le_bytes();
        bytes[length - 4..].copy_from_slice(&sum);
    }
    bytes
}
