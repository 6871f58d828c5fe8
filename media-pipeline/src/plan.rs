//! When: the constant frame rate of a title, its groups of pictures and its chunks, all counted in frames. Pure.
//!
//! Everything is cut on frame numbers, never on seconds, so that the chunks of every rung meet exactly and no frame is
//! lost or shown twice (23.976 frames a second have no boundary on any round second).

use crate::probe::{MICROS_PER_SECOND, Micros, PacketTrack};

/// Frames per second as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRate {
    pub frames: u32,
    pub seconds: u32,
}

/// What displays and cameras use, slowest first.
const RATES: [FrameRate; 13] = [
    FrameRate { frames: 5, seconds: 1 },
    FrameRate { frames: 10, seconds: 1 },
    FrameRate { frames: 12, seconds: 1 },
    FrameRate { frames: 15, seconds: 1 },
    FrameRate { frames: 20, seconds: 1 },
    FrameRate { frames: 24_000, seconds: 1_001 },
    FrameRate { frames: 24, seconds: 1 },
    FrameRate { frames: 25, seconds: 1 },
    FrameRate { frames: 30_000, seconds: 1_001 },
    FrameRate { frames: 30, seconds: 1 },
    FrameRate { frames: 50, seconds: 1 },
    FrameRate { frames: 60_000, seconds: 1_001 },
    FrameRate { frames: 60, seconds: 1 },
];

/// A group of pictures, and so a segment, lasts this long, to the nearest frame.
const GROUP_SECONDS: u64 = 2;
/// Rate control starts anew in each chunk, which costs bytes: not shorter than this, and longer for long films.
const CHUNK_SECONDS_MIN: u64 = 10;
const CHUNK_SECONDS_MAX: u64 = 60;
/// Enough chunks that every core has work, until a chunk has its full length.
const CHUNKS_WANTED: u64 = 20;

impl FrameRate {
    /// The rate to give a track: the usual one within a tenth of a percent of what it has on average, else (a varying
    /// rate, as telephones record) the next higher usual one, at most 60.
    pub fn of(track: &PacketTrack) -> Self {
        let span = u64::try_from(track.last - track.first).unwrap_or(0);
        let intervals = track.packets.saturating_sub(1);
        if span == 0 || intervals == 0 {
            return Self { frames: 25, seconds: 1 };
        }
        // Frames in a million seconds.
        let average = u128::from(intervals) * 1_000_000_000_000 / u128::from(span);
        let scaled = |rate: &Self| u128::from(rate.frames) * 1_000_000 / u128::from(rate.seconds);
        let close = |rate: &&Self| scaled(rate).abs_diff(average) * 2_500 <= average;
        let higher = |rate: &&Self| scaled(rate) * 1_001 >= average * 1_000;
        let nearest = RATES.iter().filter(close).min_by_key(|rate| scaled(rate).abs_diff(average));
        let chosen = nearest.or_else(|| RATES.iter().find(higher));
        *chosen.unwrap_or(&Self { frames: 60, seconds: 1 })
    }

    /// Units per second of the track file's times, and units per frame: at least 1,000 units a frame, so that any
    /// packager can split them.
    pub fn timescale(self) -> (u32, u32) {
        if self.seconds == 1 { (self.frames * 1_000, 1_000) } else { (self.frames, self.seconds) }
    }

    /// When this frame is shown, rounded to the nearest microsecond.
    pub fn time_of(self, frame: u64) -> Micros {
        let scaled = u128::from(frame) * u128::from(self.seconds) * 1_000_000;
        let rounded = (scaled + u128::from(self.frames) / 2) / u128::from(self.frames);
        Micros::try_from(rounded).unwrap_or(Micros::MAX)
    }

    /// How many frames fill this time, to the nearest.
    pub fn frames_in(self, span: Micros) -> u64 {
        let span = u128::try_from(span).unwrap_or(0);
        let unit = 1_000_000 * u128::from(self.seconds);
        let frames = (span * u128::from(self.frames) + unit / 2) / unit;
        u64::try_from(frames).unwrap_or(u64::MAX)
    }

    pub fn frames_per_group(self) -> u64 {
        self.frames_in(i64::try_from(GROUP_SECONDS).unwrap_or(2) * MICROS_PER_SECOND)
    }

    /// Rounded up.
    pub fn per_second(self) -> u32 {
        self.frames.div_ceil(self.seconds)
    }

    /// `24000/1001`.
    pub fn text(self) -> String {
        format!("{}/{}", self.frames, self.seconds)
    }
}

/// A run of frames that is encoded by itself; both ends but the last on a group's boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    pub first_frame: u64,
    pub frames: u64,
}

/// Cuts a title of this many frames. At least one chunk; a short rest joins the last one.
pub fn chunks(frames: u64, rate: FrameRate) -> Vec<ChunkSpan> {
    let group = rate.frames_per_group().max(1);
    let seconds = frames * u64::from(rate.seconds) / u64::from(rate.frames);
    let length = (seconds / CHUNKS_WANTED).clamp(CHUNK_SECONDS_MIN, CHUNK_SECONDS_MAX);
    let per_chunk = length / GROUP_SECONDS * group;
    let whole = (frames / per_chunk).max(1);
    let rest = frames.saturating_sub(whole * per_chunk);
    let extra = rest * 2 >= per_chunk && frames > per_chunk;
    let count = whole + u64::from(extra);
    let end = |index: u64| if index + 1 == count { frames } else { (index + 1) * per_chunk };
    (0..count)
        .map(|index| ChunkSpan { first_frame: index * per_chunk, frames: end(index) - index * per_chunk })
        .collect()
}

/// Where to start reading for a chunk that starts at this time: a key at or before it, a step further back for containers
/// whose seeking only comes near.
pub fn seek_point(keys: &[Micros], start: Micros, exact_seeking: bool) -> Option<Micros> {
    let at_or_before = keys.partition_point(|&key| key <= start);
    let back = if exact_seeking { 1 } else { 3 };
    let index = at_or_before.checked_sub(back)?;
    // Before the very first key there is nothing to seek to: read from the start.
    keys.get(index).copied().filter(|_| index > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn track(packets: u64, last: Micros) -> PacketTrack {
        PacketTrack { packets, first: 0, last, end: last, keys: Vec::new() }
    }

    #[test]
    fn a_steady_rate_is_recognised_through_millisecond_times() {
        for rate in RATES {
            let frames = 240;
            let last = rate.time_of(frames - 1) / 1000 * 1000;
            assert_eq!(FrameRate::of(&track(frames, last)), rate);
        }
    }

    #[test]
    fn a_varying_rate_takes_the_next_usual_one() {
        assert_eq!(FrameRate::of(&track(281, 10_000_000)), FrameRate { frames: 30_000, seconds: 1_001 });
        assert_eq!(FrameRate::of(&track(2, 10_000_000)), FrameRate { frames: 5, seconds: 1 });
        assert_eq!(FrameRate::of(&track(1_201, 10_000_000)), FrameRate { frames: 60, seconds: 1 });
        assert_eq!(FrameRate::of(&track(1, 0)), FrameRate { frames: 25, seconds: 1 });
    }

    #[test]
    fn forty_seconds_are_four_chunks_and_a_film_has_chunks_of_a_minute() {
        let rate = FrameRate { frames: 24, seconds: 1 };
        assert_eq!(chunks(960, rate).len(), 4);
        assert_eq!(chunks(24 * 7200, rate)[0].frames, 24 * 60);
        assert_eq!(chunks(1, rate), [ChunkSpan { first_frame: 0, frames: 1 }]);
    }

    #[test]
    fn reading_starts_at_a_key_not_after_the_chunk() {
        let keys = [0, 5, 10, 15, 20];
        assert_eq!(seek_point(&keys, 12, true), Some(10));
        assert_eq!(seek_point(&keys, 10, true), Some(10));
        assert_eq!(seek_point(&keys, 19, false), Some(5));
        assert_eq!(seek_point(&keys, 4, true), None);
        assert_eq!(seek_point(&[], 4, true), None);
    }

    proptest! {
        #[test]
        fn chunks_meet_on_group_boundaries_and_cover_every_frame(frames in 1..2_000_000_u64, index in 0..RATES.len()) {
            let rate = RATES[index];
            let list = chunks(frames, rate);
            let mut next = 0;
            for chunk in &list {
                prop_assert_eq!(chunk.first_frame, next);
                prop_assert_eq!(chunk.first_frame % rate.frames_per_group(), 0);
                prop_assert!(chunk.frames > 0);
                next += chunk.frames;
            }
            prop_assert_eq!(next, frames);
            for chunk in list.iter().skip(1) {
                // Half of the least length, for the last one.
                prop_assert!(chunk.frames >= rate.frames_per_group() * 5 / 2);
            }
        }
    }
}
