//! A JSON document with a checksum: what our programs write in one run and believe in another.
//!
//! ```text
//! {                        the document, for people and programs; any JSON
//!   "version": 7
//! }
//! {"blake3":"…"}           the seal: BLAKE3 of every byte before this line
//! ```
//!
//! Parsing alone does not notice a digit that became another. Still text: `jq` reads both values, `diff` shows both
//! lines. What an operator writes by hand (configuration, terms, keys) has no seal: nobody could write one. Does no IO.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::ObjectId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    blake3: ObjectId,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("it ends without its seal: it is cut off, or something else wrote it")]
    Unsealed,
    #[error("its bytes do not match its seal: it is damaged")]
    Damaged,
    #[error("it is sealed and not valid: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Adds the seal to a text that ends with a newline.
pub fn seal(mut text: Vec<u8>) -> Vec<u8> {
    let seal = Seal { blake3: ObjectId::of(&text) };
    serde_json::to_writer(&mut text, &seal).expect("writing to memory cannot fail");
    text.push(b'\n');
    text
}

/// The text before the seal, if the seal fits it.
pub fn unseal(bytes: &[u8]) -> Result<&[u8], SealError> {
    let lines = bytes.strip_suffix(b"\n").ok_or(SealError::Unsealed)?;
    let end = lines.iter().rposition(|&b| b == b'\n').ok_or(SealError::Unsealed)?;
    let (text, seal) = lines.split_at(end.saturating_add(1));
    let seal: Seal = serde_json::from_slice(seal).map_err(|_| SealError::Unsealed)?;
    if seal.blake3 == ObjectId::of(text) { Ok(text) } else { Err(SealError::Damaged) }
}

/// The bytes to store; equal values give equal bytes.
pub fn to_sealed(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("what we store has only string keys");
    text.push(b'\n');
    seal(text)
}

/// Checks the seal before a byte is parsed.
pub fn from_sealed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SealError> {
    Ok(serde_json::from_slice(unseal(bytes)?)?)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sample() -> BTreeMap<String, u64> {
        [("version".to_owned(), 7), ("bytes".to_owned(), 1 << 40)].into()
    }

    #[test]
    fn a_document_reads_back_and_people_can_read_it() {
        let bytes = to_sealed(&sample());
        assert_eq!(from_sealed::<BTreeMap<String, u64>>(&bytes).unwrap(), sample());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\n  \"version\": 7\n"), "{text}");
        assert_eq!(serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>().count(), 2);
    }

    #[test]
    fn every_single_flipped_bit_and_every_cut_is_noticed() {
        let bytes = to_sealed(&sample());
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(from_sealed::<BTreeMap<String, u64>>(&rotten).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(from_sealed::<BTreeMap<String, u64>>(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_document_without_a_seal_is_none() {
        let bare = serde_json::to_vec(&sample()).unwrap();
        assert!(matches!(from_sealed::<BTreeMap<String, u64>>(&bare), Err(SealError::Unsealed)));
        assert!(matches!(from_sealed::<u64>(&to_sealed(&sample())), Err(SealError::Malformed(_))));
    }
}
