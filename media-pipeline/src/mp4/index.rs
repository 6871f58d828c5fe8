//! The segment index: `sidx` (ISO/IEC 14496-12 8.16.3), one entry per fragment, written and read.

use super::boxes::Mp4Box;
use super::{Mp4Error, ensure};

/// One entry: a fragment that starts with a random access point of type 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    pub bytes: u32,
    /// In the track's timescale.
    pub duration: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    pub track: u32,
    pub timescale: u32,
    pub references: Vec<Reference>,
}

/// starts_with_SAP, SAP_type 1, SAP_delta_time 0.
const STARTS_WITH_SAP_1: u32 = 0x9000_0000;

impl SegmentIndex {
    /// The whole box. The fragments follow it at once and start at time 0.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Mp4Error> {
        let count = u16::try_from(self.references.len());
        let count = count.map_err(|_| Mp4Error::refused("sidx", "has more than 65,535 fragments"))?;
        let size = u32::from(count).saturating_mul(12).saturating_add(40);
        let mut out = Vec::new();
        out.extend(size.to_be_bytes());
        out.extend(b"sidx");
        out.extend(0x0100_0000_u32.to_be_bytes());
        out.extend(self.track.to_be_bytes());
        out.extend(self.timescale.to_be_bytes());
        // earliest_presentation_time, first_offset, reserved.
        out.extend([0; 18]);
        out.extend(count.to_be_bytes());
        for reference in &self.references {
            // The top bit would say that the entry names another index.
            ensure(reference.bytes < 0x8000_0000, "sidx", || "a fragment has 2 GiB or more".to_owned())?;
            out.extend(reference.bytes.to_be_bytes());
            out.extend(reference.duration.to_be_bytes());
            out.extend(STARTS_WITH_SAP_1.to_be_bytes());
        }
        Ok(out)
    }

    pub fn parse(sidx: &Mp4Box<'_>) -> Result<Self, Mp4Error> {
        let (version, _, mut reader) = sidx.full("sidx")?;
        ensure(version == 1, "sidx", || format!("has version {version}"))?;
        let (track, timescale) = (reader.u32()?, reader.u32()?);
        let (earliest, first_offset) = (reader.u64()?, reader.u64()?);
        ensure(earliest == 0 && first_offset == 0, "sidx", || {
            format!("starts at time {earliest} and offset {first_offset}, not at 0")
        })?;
        reader.u16()?;
        let count = reader.u16()?;
        let mut references = Vec::new();
        for _ in 0..count {
            let (bytes, duration, access) = (reader.u32()?, reader.u32()?, reader.u32()?);
            ensure(bytes < 0x8000_0000, "sidx", || "names another index".to_owned())?;
            ensure(access == STARTS_WITH_SAP_1, "sidx", || {
                format!("access point {access:#x} is not of type 1")
            })?;
            references.push(Reference { bytes, duration });
        }
        ensure(reader.rest().is_empty(), "sidx", || "is longer than its entries".to_owned())?;
        Ok(Self { track, timescale, references })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::boxes::boxes;
    use super::*;

    proptest! {
        #[test]
        fn an_index_reads_back_as_it_was_written(
            track: u32, timescale: u32, list in proptest::collection::vec((0..0x8000_0000_u32, any::<u32>()), 0..40),
        ) {
            let references = list.into_iter().map(|(bytes, duration)| Reference { bytes, duration }).collect();
            let index = SegmentIndex { track, timescale, references };
            let bytes = index.to_bytes().unwrap();
            let list = boxes(&bytes).unwrap();
            prop_assert_eq!(SegmentIndex::parse(&list[0]).unwrap(), index);
            for end in 8..bytes.len() {
                let cut = Mp4Box { body: &bytes[8..end], ..list[0] };
                prop_assert!(SegmentIndex::parse(&cut).is_err());
            }
        }
    }
}
