//! crc32c of each 256 KiB: how bytes are checked when they come from a disk into memory (DESIGN §3).

/// Checksummed unit of a file on a volume, and the group size of a verification tree.
pub const PIECE_BYTES: u64 = 256 * 1024;

/// CRC-32C (Castagnoli; RFC 3720 appendix B.4), with vector instructions where the processor has them.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(wide).expect("a 32-bit algorithm gives 32 bits")
}

/// How many pieces `bytes` has; the last may be short.
pub const fn piece_count(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_fits_the_published_vectors() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
