//! Several parts in one answer (RFC 9110 §14.6, multipart/byteranges): what stands before each part and behind the last.
//!
//! The boundary is made of the object's own digest: content that holds it would have to hold its own BLAKE3.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use content::id::{ByteSpan, ObjectId};

use super::answer::put;
use super::range::Parts;

/// What is left to send of an answer in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipart {
    object: ObjectId,
    bytes: u64,
    media_type: &'static str,
    parts: Parts,
    /// Parts whose head was written.
    begun: usize,
}

impl Multipart {
    pub fn new(object: ObjectId, bytes: u64, media_type: &'static str, parts: Parts) -> Self {
        Self { object, bytes, media_type, parts, begun: 0 }
    }

    pub fn first(&self) -> Option<ByteSpan> {
        self.parts.at(0)
    }

    /// Appends what comes before the next part, and gives the part; behind the last one the end, and None.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<ByteSpan> {
        let Self { object: boundary, bytes, media_type, .. } = *self;
        if self.begun > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let Some(span) = self.parts.at(self.begun) else {
            put(out, format_args!("--{boundary}--\r\n"));
            return None;
        };
        self.begun = self.begun.saturating_add(1);
        put(out, format_args!("--{boundary}\r\nContent-Type: {media_type}\r\n"));
        put(out, format_args!("Content-Range: bytes {span}/{bytes}\r\n\r\n"));
        Some(span)
    }

    /// The length of all of it. `room` is written to and left as it was.
    pub fn count(mut self, room: &mut Vec<u8>) -> u64 {
        let before = room.len();
        let mut sum = 0u64;
        while let Some(span) = self.next(room) {
            sum = sum.saturating_add(span.count());
        }
        let heads = room.len().saturating_sub(before);
        room.truncate(before);
        sum.saturating_add(u64::try_from(heads).unwrap_or(u64::MAX))
    }

    /// Its 64 characters are within the 70 of RFC 2046 §5.1.1.
    pub fn boundary(&self) -> ObjectId {
        self.object
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::{Selection, select};
    use super::*;

    #[test]
    fn the_parts_are_framed_as_the_rfc_shows_it_and_their_length_is_known_before() {
        let Selection::Parts(parts) = select(b"bytes=0-3,500-501", 1000) else { panic!("not parts") };
        let object = ObjectId::of(b"x");
        let multipart = Multipart::new(object, 1000, "video/mp4", parts);
        let mut out = b"head".to_vec();
        let count = multipart.count(&mut out);
        assert_eq!(out, b"head", "it is left as it was");
        let mut left = multipart;
        out.clear();
        while let Some(span) = left.next(&mut out) {
            out.extend(vec![b'#'; usize::try_from(span.count()).unwrap()]);
        }
        let expected = format!(
            "--{object}\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-3/1000\r\n\r\n####\r\n\
             --{object}\r\nContent-Type: video/mp4\r\nContent-Range: bytes 500-501/1000\r\n\r\n##\r\n--{object}--\r\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(count, u64::try_from(expected.len()).unwrap());
    }
}
