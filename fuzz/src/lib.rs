//! What each fuzz target does with its bytes: gives them to the parser as they are, and, where a checksum stands in the
//! way, once more with the checksum put right; then holds what came out against a reading of its own.
//!
//! A panic is how an oracle speaks. Each target's input format is in its module's head. `fuzz_targets` are one line
//! each, so that `tests/corpus.rs` replays the kept corpus without libFuzzer, and `examples/seed.rs` makes it.

pub mod catalogue;
pub mod conditional;
pub mod control_api;
pub mod footer;
pub mod hls_playlist;
pub mod manifest;
pub mod range;
pub mod request_head;
pub mod resume_record;
pub mod site;
pub mod title;
pub mod tls_feed;
pub mod token;

/// Takes one number off the front of the input; zero when it is used up.
pub fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let count = N.min(data.len());
    let (front, rest) = data.split_at(count);
    taken[..count].copy_from_slice(front);
    *data = rest;
    taken
}

/// Each `from` in the text becomes `to`: short marks stand for what a mutation would never hit by itself.
pub fn expand(text: &[u8], marks: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        match marks.iter().find(|(from, _)| rest.starts_with(from)) {
            Some((from, to)) => {
                out.extend_from_slice(to);
                rest = &rest[from.len()..];
            }
            None => {
                out.push(*first);
                rest = &rest[1..];
            }
        }
    }
    out
}

/// Overwrites places in `bytes` as the input says: two bytes of place, one of count, then so many bytes.
pub fn patch(bytes: &mut [u8], mut patches: &[u8]) {
    while !patches.is_empty() && !bytes.is_empty() {
        let place = usize::from(u16::from_le_bytes(take(&mut patches))) % bytes.len();
        let count = usize::from(u8::from_le_bytes(take(&mut patches)) % 17);
        let (new, rest) = patches.split_at(count.min(patches.len()));
        patches = rest;
        bytes[place..].iter_mut().zip(new).for_each(|(old, new)| *old = *new);
    }
}
