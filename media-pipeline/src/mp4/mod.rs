//! The few MP4 boxes of a CMAF track file (ISO/IEC 14496-12, 23000-19), read strictly and written where ffmpeg does not.
//!
//! Not a general MP4 library: one track, one `traf`, one `trun`, 32-bit box sizes; anything else is refused. Pure:
//! bytes in, bytes out. ffmpeg writes the fragments of each chunk; [`assemble`] makes one track file of them;
//! [`conformance`] reads the finished bytes as a stranger would and refuses what does not hold.
//! Read [`boxes`] first, then `init`, `fragment`, `assemble`, `conformance`.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]
#![cfg_attr(test, expect(clippy::indexing_slicing, reason = "a test that reads past the end should fail"))]

pub mod assemble;
pub mod boxes;
pub mod conformance;
pub mod fragment;
pub mod index;
pub mod init;

/// Why bytes are not the track file that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mp4Error {
    #[error("it is cut off inside {0}")]
    Short(&'static str),
    #[error("a box {kind} of {size} bytes does not fit where it stands")]
    BoxSize { kind: String, size: u32 },
    #[error("{parent} should hold exactly one {child} and holds {count}")]
    Count { parent: &'static str, child: String, count: usize },
    #[error("{place}: {what}")]
    Refused { place: &'static str, what: String },
    #[error("a number in {0} overflows")]
    Overflow(&'static str),
}

impl Mp4Error {
    pub(crate) fn refused(place: &'static str, what: impl Into<String>) -> Self {
        Self::Refused { place, what: what.into() }
    }
}

/// `Err` with a sentence unless the condition holds.
pub(crate) fn ensure(
    holds: bool,
    place: &'static str,
    what: impl FnOnce() -> String,
) -> Result<(), Mp4Error> {
    if holds { Ok(()) } else { Err(Mp4Error::refused(place, what())) }
}
