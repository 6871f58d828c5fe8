//! How fast an answer leaves at most. A player's buffer that is full enough needs no burst: paced, it fills as fast as it
//! asked for, and loses fewer packets on the way (DESIGN §4). Not how that is done: see `ring`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use content::box_config::Pacing;

use super::cmcd::Cmcd;
use crate::clock::Wall;

/// So long after its first request a connection counts as starting.
const START_S: i64 = 10;

/// Bytes a second; None: as fast as it goes.
pub fn pace(cmcd: &Cmcd, pacing: &Pacing, first: Wall, now: Wall) -> Option<u64> {
    if cmcd.startup || cmcd.starved {
        return None;
    }
    let starting = now.0.saturating_sub(first.0) < START_S;
    // In tenths: three times, then one and a half times.
    let share = if starting { 30 } else { 15 };
    let default = || Some(cmcd.bitrate.unwrap_or(pacing.bitrate_kbps?).saturating_mul(share) / 10);
    let kbps = cmcd.throughput.or_else(default)?;
    Some(kbps.max(pacing.floor_kbps).saturating_mul(1_000) / 8)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests may overflow")]
mod tests {
    use super::*;

    fn at(cmcd: Cmcd, bitrate_kbps: Option<u64>, since_s: i64) -> Option<u64> {
        let pacing = Pacing { floor_kbps: 800, bitrate_kbps };
        pace(&cmcd, &pacing, Wall(1_000), Wall(1_000 + since_s)).map(|bytes| bytes * 8 / 1_000)
    }

    #[test]
    fn the_player_says_how_fast_and_a_floor_holds() {
        let asks = |throughput| Cmcd { throughput: Some(throughput), ..Cmcd::default() };
        assert_eq!(at(asks(5_000), None, 0), Some(5_000));
        assert_eq!(at(asks(100), None, 0), Some(800));
        assert_eq!(at(asks(5_000), Some(2_000), 0), Some(5_000), "what the player says comes first");
        assert_eq!(at(Cmcd { startup: true, ..asks(5_000) }, Some(2_000), 0), None);
        assert_eq!(at(Cmcd { starved: true, ..asks(5_000) }, Some(2_000), 0), None);
    }

    #[test]
    fn without_a_word_of_it_the_operators_default_holds_and_none_is_none() {
        assert_eq!(at(Cmcd::default(), None, 0), None);
        assert_eq!(at(Cmcd::default(), Some(2_000), 9), Some(6_000));
        assert_eq!(at(Cmcd::default(), Some(2_000), 10), Some(3_000));
        assert_eq!(at(Cmcd::default(), Some(2_000), -5), Some(6_000), "the clock was set back");
        let bitrate = Cmcd { bitrate: Some(4_000), ..Cmcd::default() };
        assert_eq!(at(bitrate, Some(2_000), 20), Some(6_000), "its own bitrate is the better one");
        assert_eq!(at(bitrate, None, 20), None, "off unless asked for");
    }
}
