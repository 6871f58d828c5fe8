//! Boxes and the numbers in them, without a panic for any bytes.

use super::Mp4Error;

/// The four letters of a box.
pub type Kind = [u8; 4];

/// One box: where it starts in the bytes it was read from, and what is in it.
#[derive(Debug, Clone, Copy)]
pub struct Mp4Box<'a> {
    pub kind: Kind,
    /// Of the size field, within the bytes that the box was read from.
    pub offset: usize,
    pub body: &'a [u8],
}

/// A box header without the 64-bit size that nothing here needs.
pub const HEADER_BYTES: usize = 8;

impl<'a> Mp4Box<'a> {
    /// Header and body.
    pub fn size(&self) -> usize {
        self.body.len().saturating_add(HEADER_BYTES)
    }

    pub fn children(&self) -> Result<Vec<Mp4Box<'a>>, Mp4Error> {
        boxes(self.body)
    }

    /// A full box: version, flags and the rest.
    pub fn full(&self, place: &'static str) -> Result<(u8, u32, Reader<'a>), Mp4Error> {
        let mut reader = Reader::new(self.body, place);
        let word = reader.u32()?;
        let [version, flags @ ..] = word.to_be_bytes();
        let [a, b, c] = flags;
        Ok((version, u32::from_be_bytes([0, a, b, c]), reader))
    }
}

/// All boxes of these bytes, end to end without a gap.
pub fn boxes(bytes: &[u8]) -> Result<Vec<Mp4Box<'_>>, Mp4Error> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let offset = bytes.len().saturating_sub(rest.len());
        let mut reader = Reader::new(rest, "a box header");
        let size = reader.u32()?;
        let kind = reader.array::<4>()?;
        let refuse = || Mp4Error::BoxSize { kind: name(kind), size };
        // 0 (to the end of the file) and 1 (64-bit size) are legal in general and never written by us.
        let end = usize::try_from(size).ok().filter(|&size| size >= HEADER_BYTES).ok_or_else(refuse)?;
        let (whole, after) = rest.split_at_checked(end).ok_or_else(refuse)?;
        let body = whole.get(HEADER_BYTES..).ok_or_else(refuse)?;
        found.push(Mp4Box { kind, offset, body });
        rest = after;
    }
    Ok(found)
}

/// The one box of this kind; none or several are refused.
pub fn only<'a>(list: &[Mp4Box<'a>], kind: &Kind, parent: &'static str) -> Result<Mp4Box<'a>, Mp4Error> {
    let mut matching = list.iter().filter(|b| b.kind == *kind);
    match (matching.next(), matching.count()) {
        (Some(found), 0) => Ok(*found),
        (first, more) => {
            let count = more.saturating_add(usize::from(first.is_some()));
            Err(Mp4Error::Count { parent, child: name(*kind), count })
        }
    }
}

pub fn name(kind: Kind) -> String {
    kind.escape_ascii().to_string()
}

/// Takes big-endian numbers from the front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    place: &'static str,
}

impl<'a> Reader<'a> {
    /// `place` is named in the error when the bytes run out.
    pub fn new(rest: &'a [u8], place: &'static str) -> Self {
        Self { rest, place }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Mp4Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Mp4Error::Short(self.place))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Mp4Error> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Mp4Error::Short(self.place))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Mp4Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Mp4Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Mp4Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Mp4Error> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Mp4Error> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn boxes_stand_end_to_end() {
        let bytes = b"\0\0\0\x0aftypab\0\0\0\x08free";
        let list = boxes(bytes).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].body, list[0].offset, list[1].offset), (&b"ab"[..], 0, 10));
        assert!(only(&list, b"moov", "file").is_err());
        assert_eq!(only(&list, b"free", "file").unwrap().size(), 8);
    }

    #[test]
    fn a_box_longer_than_its_place_is_refused() {
        for bad in [&b"\0\0\0\x0bftypab"[..], b"\0\0\0\x01mdat", b"\0\0\0\0mdat", b"\0\0\0\x07free", b"\0\0"]
        {
            assert!(boxes(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(list) = boxes(&bytes) {
                let total: usize = list.iter().map(Mp4Box::size).sum();
                prop_assert_eq!(total, bytes.len());
            }
        }
    }
}
