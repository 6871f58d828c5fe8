//! What to fetch next, and when: video and audio side by side, each kept a buffer ahead of the playhead.
//!
//! Pure: `(state, event, now) -> action`. One fragment of each is on its way at a time.

use std::time::Duration;

use crate::ledger::Track;
use crate::playhead::Playhead;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin to fetch this segment; `buffered` of its track is ahead of the playhead. Answered by
    /// [`Schedule::arrived`].
    Fetch { track: Track, segment: usize, buffered: Duration },
    /// Nothing to do before this instant, or, if None, before something arrives.
    Wait(Option<Duration>),
    /// All is there and, at playing speed, has been played.
    Finished,
}

/// How far ahead to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Not more than this ahead of the playhead; the play ends when the playhead is at the end.
    Playing { buffer_target: Duration },
    /// As fast as it comes; the play ends with the last byte.
    FlatOut,
}

#[derive(Clone, Debug)]
pub struct Schedule {
    pace: Pace,
    lanes: Vec<Lane>,
    playhead: Playhead,
}

/// One track's segments.
#[derive(Clone, Debug)]
struct Lane {
    track: Track,
    /// Where each segment ends; rising, not empty.
    ends: Vec<Duration>,
    /// How many have arrived.
    arrived: usize,
    /// One more is on its way.
    busy: bool,
}

impl Lane {
    fn is_complete(&self) -> bool {
        self.arrived == self.ends.len()
    }

    fn buffered_until(&self) -> Duration {
        self.arrived.checked_sub(1).map_or(Duration::ZERO, |last| self.ends[last])
    }
}

impl Schedule {
    /// `lanes`: the end of each segment of each track, rising; none of them empty.
    pub fn new(pace: Pace, lanes: Vec<(Track, Vec<Duration>)>) -> Self {
        let end = lanes.iter().filter_map(|(_, ends)| ends.last().copied()).max().unwrap_or_default();
        let lane = |(track, ends)| Lane { track, ends, arrived: 0, busy: false };
        Self { pace, lanes: lanes.into_iter().map(lane).collect(), playhead: Playhead::new(end) }
    }

    pub fn playhead(&self) -> &Playhead {
        &self.playhead
    }

    /// The segment that [`Action::Fetch`] asked for is there.
    pub fn arrived(&mut self, track: Track, now: Duration) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track == track && lane.busy) {
            lane.arrived += 1;
            lane.busy = false;
        }
        // A track that is complete holds nobody up, though it may be a little shorter than the others.
        let unfinished = self.lanes.iter().filter(|lane| !lane.is_complete());
        let there = unfinished.map(Lane::buffered_until).min().unwrap_or(Duration::MAX);
        self.playhead.arrive(there, now);
    }

    pub fn next(&mut self, now: Duration) -> Action {
        self.playhead.advance(now);
        let position = self.playhead.position(now);
        let pace = self.pace;
        for lane in self.lanes.iter_mut().filter(|lane| !lane.busy && !lane.is_complete()) {
            let buffered = lane.buffered_until().saturating_sub(position);
            let wanted = match pace {
                Pace::Playing { buffer_target } => buffered <= buffer_target,
                Pace::FlatOut => true,
            };
            if wanted {
                lane.busy = true;
                return Action::Fetch { track: lane.track, segment: lane.arrived, buffered };
            }
        }
        self.rest()
    }

    /// What remains when nothing is to be fetched now.
    fn rest(&self) -> Action {
        let complete = self.lanes.iter().all(Lane::is_complete);
        match self.pace {
            Pace::FlatOut if complete => Action::Finished,
            Pace::FlatOut => Action::Wait(None),
            Pace::Playing { .. } if self.playhead.has_ended() => Action::Finished,
            Pace::Playing { .. } if complete => Action::Wait(self.playhead.reaches(self.end())),
            Pace::Playing { buffer_target } => {
                let idle = self.lanes.iter().filter(|lane| !lane.busy && !lane.is_complete());
                let due = idle.map(|lane| lane.buffered_until().saturating_sub(buffer_target)).min();
                Action::Wait(due.and_then(|position| self.playhead.reaches(position)))
            }
        }
    }

    fn end(&self) -> Duration {
        self.lanes.iter().filter_map(|lane| lane.ends.last().copied()).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn ends(count: u64, length: u64) -> Vec<Duration> {
        (1..=count).map(|index| seconds(index * length)).collect()
    }

    fn playing(lanes: Vec<(Track, Vec<Duration>)>) -> Schedule {
        Schedule::new(Pace::Playing { buffer_target: seconds(20) }, lanes)
    }

    #[test]
    fn both_tracks_are_fetched_side_by_side_and_one_fragment_of_each_at_a_time() {
        let mut schedule = playing(vec![(Track::Video, ends(3, 4)), (Track::Audio, ends(3, 4))]);
        let fetch = |track, segment| Action::Fetch { track, segment, buffered: Duration::ZERO };
        assert_eq!(schedule.next(seconds(0)), fetch(Track::Video, 0));
        assert_eq!(schedule.next(seconds(0)), fetch(Track::Audio, 0));
        assert_eq!(schedule.next(seconds(0)), Action::Wait(None));
        schedule.arrived(Track::Video, seconds(1));
        assert_eq!(schedule.playhead().started(), None);
        schedule.arrived(Track::Audio, seconds(2));
        assert_eq!(schedule.playhead().started(), Some(seconds(2)));
    }

    #[test]
    fn a_full_buffer_waits_until_it_is_at_its_target() {
        let mut schedule = playing(vec![(Track::Video, ends(10, 4))]);
        while let Action::Fetch { track, .. } = schedule.next(seconds(1)) {
            schedule.arrived(track, seconds(1));
        }
        // Six segments of 4 s are one more than the target: 4 s from now it is due.
        assert_eq!(schedule.next(seconds(1)), Action::Wait(Some(seconds(5))));
        let due = Action::Fetch { track: Track::Video, segment: 6, buffered: seconds(20) };
        assert_eq!(schedule.next(seconds(5)), due);
    }

    #[test]
    fn flat_out_ignores_the_clock_and_ends_with_the_last_byte() {
        let mut schedule = Schedule::new(Pace::FlatOut, vec![(Track::Video, ends(100, 4))]);
        for _ in 0..100 {
            assert!(matches!(schedule.next(seconds(1)), Action::Fetch { .. }));
            schedule.arrived(Track::Video, seconds(1));
        }
        assert_eq!(schedule.next(seconds(1)), Action::Finished);
    }

    #[test]
    fn a_shorter_audio_track_does_not_stall_the_end() {
        let mut schedule = playing(vec![(Track::Video, ends(1, 4)), (Track::Audio, vec![seconds(3)])]);
        schedule.next(seconds(0));
        schedule.next(seconds(0));
        schedule.arrived(Track::Video, seconds(0));
        schedule.arrived(Track::Audio, seconds(0));
        assert_eq!(schedule.next(seconds(0)), Action::Wait(Some(seconds(4))));
        assert_eq!(schedule.next(seconds(4)), Action::Finished);
        assert!(schedule.playhead().stalls(seconds(4)).is_empty());
    }

    proptest! {
        /// Whatever the fragments take, the play ends, each segment is fetched once and in order, and the buffer
        /// never holds more than its target and one segment.
        #[test]
        fn every_segment_is_fetched_once_and_in_order(
            lengths in prop::collection::vec(1_u64..8, 1..40), audio_length in 1_u64..9,
            takes in prop::collection::vec(0_u64..12, 1..40)
        ) {
            let video: Vec<_> = lengths.iter().scan(0, |end, length| { *end += length; Some(seconds(*end)) }).collect();
            let audio = ends(lengths.iter().sum::<u64>().div_ceil(audio_length), audio_length);
            let counts = [video.len(), audio.len()];
            let mut schedule = playing(vec![(Track::Video, video), (Track::Audio, audio)]);
            let (mut now, mut fetched, mut under_way) = (Duration::ZERO, [0, 0], Vec::<(Duration, Track)>::new());
            let mut takes = takes.into_iter().cycle();
            for _ in 0..2_000 {
                match schedule.next(now) {
                    Action::Fetch { track, segment, buffered } => {
                        let lane = usize::from(track == Track::Audio);
                        prop_assert_eq!(segment, fetched[lane]);
                        prop_assert!(buffered <= seconds(20));
                        fetched[lane] += 1;
                        under_way.push((now + seconds(takes.next().unwrap()), track));
                    }
                    Action::Wait(due) => {
                        under_way.sort();
                        let arrival = under_way.first().map(|entry| entry.0);
                        let next = due.into_iter().chain(arrival).min();
                        prop_assert!(next.is_some(), "it waits for nothing");
                        now = now.max(next.unwrap());
                        if arrival.is_some_and(|at| at <= now) {
                            schedule.arrived(under_way.remove(0).1, now);
                        }
                    }
                    Action::Finished => {
                        prop_assert_eq!(fetched, counts);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "it did not end");
        }
    }
}
