//! A whole play, from the request to the last picture: the only place where fetching, schedule and rungs meet.
//!
//! ```text
//! open session -> multivariant playlist -> selection -> first rung's and audio's playlists
//!   -> { schedule says: fetch (rung chosen by buffer) | wait } until finished     subtitles beside it
//! ```
//! Read next: [`crate::session`] (how one fragment is fetched), [`crate::schedule`] (when), [`crate::rung`] (which).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use content::id::{ByteSpan, StreamId};
use content::play::PlayRequest;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::clock::Clock;
use crate::error::PlayError;
use crate::ledger::{Ledger, RungSwitch, Track};
use crate::network::{Dial, Limits, Network};
use crate::offer::Part;
use crate::playlist::{Multivariant, Segment, Timeline};
use crate::rung::{Progress, RungChooser};
use crate::schedule::{Action, Pace, Schedule};
use crate::selection::{Selection, Subtitles};
use crate::session::{Fetched, Patience, Session, Wanted};
use crate::summary::Summary;

/// Rungs may be cut at times that differ by this much: rounding in playlists, not another cut.
const CUT_TOLERANCE: Duration = Duration::from_millis(100);

/// How often a fetch of video is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How to play.
#[derive(Clone, Debug)]
pub struct Settings {
    pub pace: Pace,
    /// Rungs are chosen as if this much were the buffer's target.
    pub buffer_target: Duration,
    /// Play only segments that begin before this point of the title.
    pub media_limit: Option<Duration>,
    pub language: Option<String>,
    pub subtitles: Subtitles,
    pub limits: Limits,
    pub patience: Patience,
}

impl Default for Settings {
    fn default() -> Self {
        let buffer_target = Duration::from_secs(20);
        Self {
            pace: Pace::Playing { buffer_target },
            buffer_target,
            media_limit: None,
            language: None,
            subtitles: Subtitles::All,
            limits: Limits {
                connect: Duration::from_secs(1),
                head: Duration::from_secs(3),
                piece: Duration::from_secs(3),
            },
            patience: Patience { attempt_min: Duration::from_secs(10), give_up: Duration::from_secs(30) },
        }
    }
}

/// How a play went.
#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    pub ledger: Ledger,
    /// None: everything arrived.
    pub error: Option<PlayError>,
}

/// Plays. Never fails as a whole: what went wrong stands in the outcome, beside all that had gone right before.
pub async fn play(
    control: Address,
    request: PlayRequest,
    settings: Settings,
    dial: Box<dyn Dial>,
    clock: Clock,
) -> Outcome {
    let mut summary = Summary::new(&request, &settings);
    let network = Network::new(dial, settings.limits);
    let session = match Session::open(clock, network, control, request, settings.patience).await {
        Ok(session) => Arc::new(session),
        Err(error) => {
            summary.set_error(&error);
            return Outcome { summary, ledger: Ledger::default(), error: Some(error) };
        }
    };
    let error = run(&session, settings, &mut summary).await.err();
    if let Some(error) = &error {
        summary.set_error(error);
    }
    let ledger = session.ledger().clone();
    summary.set_ledger(&ledger);
    Outcome { summary, ledger, error }
}

async fn run(session: &Arc<Session>, settings: Settings, summary: &mut Summary) -> Result<(), PlayError> {
    let (address, text) = session.multivariant().await?;
    let multivariant =
        Multivariant::parse(&text).map_err(|error| PlayError::Multivariant { address, error })?;
    let offer = session.offer().await;
    summary.name.clone_from(&offer.name);
    let selection =
        Selection::choose(&offer, &multivariant, settings.language.as_deref(), &settings.subtitles)?;
    let mut player = Player::prepare(session, selection, &settings).await?;
    let played = player.play_on().await;
    summary.set_playhead(player.schedule.playhead(), session.clock.now());
    played
}

/// A stream whose playlist has been read, and its initialisation section fetched, at most once.
struct Lane {
    track: Track,
    stream: StreamId,
    timeline: OnceCell<Timeline>,
}

impl Lane {
    fn new(track: Track, stream: StreamId) -> Arc<Self> {
        Arc::new(Self { track, stream, timeline: OnceCell::new() })
    }

    async fn timeline(&self, session: &Session) -> Result<&Timeline, PlayError> {
        self.timeline.get_or_try_init(|| self.load(session)).await
    }

    async fn load(&self, session: &Session) -> Result<Timeline, PlayError> {
        let unread = AtomicU64::new(0);
        let playlist = session.fetch(&self.wanted(Part::Playlist, None, Duration::ZERO), &unread).await?;
        let offer = session.offer().await;
        let stream = offer.stream(&self.stream).ok_or_else(|| PlayError::Republished(self.stream.clone()))?;
        let (track, object) = (&stream.track, stream.playlist.object);
        let refuse = |error| PlayError::Playlist { stream: self.stream.clone(), object, error };
        let timeline =
            Timeline::parse(&playlist.bytes, track.object, track.extension, track.bytes).map_err(refuse)?;
        if timeline.init.is_some() {
            session.fetch(&self.wanted(Part::Track, timeline.init, Duration::ZERO), &unread).await?;
        }
        Ok(timeline)
    }

    fn wanted(&self, part: Part, span: Option<ByteSpan>, length: Duration) -> Wanted {
        Wanted { track: self.track, stream: self.stream.clone(), part, span, length }
    }

    async fn fetch(
        &self,
        session: &Session,
        segment: &Segment,
        meter: &AtomicU64,
    ) -> Result<Fetched, PlayError> {
        session.fetch(&self.wanted(Part::Track, segment.span, segment.end - segment.start), meter).await
    }
}

/// Something that was under way has come to its end.
enum Arrival {
    /// `fell`: a higher rung's was given up for it.
    Segment {
        lane: Arc<Lane>,
        segment: Segment,
        sample: (u64, Duration),
        fell: bool,
    },
    Subtitles,
}

/// One segment to fetch, from a rung or, if that turns out to be too slow, from the lowest.
struct Job {
    session: Arc<Session>,
    segment: usize,
    /// When the playhead will be there.
    late_at: Duration,
    first: StreamId,
    cuts: Arc<[Segment]>,
}

impl Job {
    async fn run(&self, lane: Arc<Lane>, lowest: Option<Arc<Lane>>) -> Result<Arrival, PlayError> {
        let session = &*self.session;
        let segment = self.segment_of(&lane).await?;
        let meter = AtomicU64::new(0);
        let lower = lowest.filter(|lowest| lowest.stream != lane.stream);
        if let Some(lower) = lower {
            let instead = tokio::select! {
                fetched = lane.fetch(session, &segment, &meter) => {
                    let sample = fetched?.sample;
                    return Ok(Arrival::Segment { lane: Arc::clone(&lane), segment, sample, fell: false });
                }
                instead = self.hopeless(&lower, &segment, &meter) => instead?,
            };
            tracing::info!(from = %lane.stream, to = %lower.stream, "a segment would come too late");
            let sample = lower.fetch(session, &instead, &meter).await?.sample;
            return Ok(Arrival::Segment { lane: lower, segment: instead, sample, fell: true });
        }
        let sample = lane.fetch(session, &segment, &meter).await?.sample;
        Ok(Arrival::Segment { lane: Arc::clone(&lane), segment, sample, fell: false })
    }

    async fn segment_of(&self, lane: &Lane) -> Result<Segment, PlayError> {
        let timeline = lane.timeline(&self.session).await?;
        if lane.track == Track::Video && !is_cut_alike(&timeline.segments, &self.cuts) {
            return Err(PlayError::NotAligned { one: self.first.clone(), other: lane.stream.clone() });
        }
        Ok(timeline.segments[self.segment])
    }

    /// Ends only when the fetch that `meter` counts should be given up; with `lower`'s segment.
    async fn hopeless(
        &self,
        lower: &Lane,
        segment: &Segment,
        meter: &AtomicU64,
    ) -> Result<Segment, PlayError> {
        let clock = self.session.clock;
        let (mut before, mut arriving, mut looked) = (0, Duration::ZERO, clock.now());
        loop {
            clock.sleep_until(looked + LOOK_EVERY).await;
            let (now, received) = (clock.now(), meter.load(Ordering::Relaxed));
            if received != before {
                arriving += now - looked;
            }
            (before, looked) = (received, now);
            let count = segment.span.map_or(0, ByteSpan::count);
            let left = self.late_at.saturating_sub(now);
            let progress = Progress { received, count, arriving, left };
            // Cheap first: the lower rung's playlist is fetched only when it may be needed.
            if progress.is_hopeless(0) {
                let instead = self.segment_of(lower).await?;
                if progress.is_hopeless(instead.span.map_or(0, ByteSpan::count)) {
                    return Ok(instead);
                }
            }
        }
    }
}

struct Player<'a> {
    session: &'a Arc<Session>,
    schedule: Schedule,
    chooser: RungChooser,
    rungs: Vec<Arc<Lane>>,
    audio: Option<Arc<Lane>>,
    /// The first rung, and where it is cut: the other rungs must agree.
    first: StreamId,
    cuts: Arc<[Segment]>,
    /// The rung of the last video fragment that arrived.
    rung: Option<StreamId>,
    under_way: JoinSet<Result<Arrival, PlayError>>,
}

impl<'a> Player<'a> {
    async fn prepare(
        session: &'a Arc<Session>,
        selection: Selection,
        settings: &Settings,
    ) -> Result<Self, PlayError> {
        let rates = selection.rungs.iter().map(|rung| rung.average_bps).collect();
        let no_rungs = || PlayError::Disagreement("the multivariant playlist has no variants".to_owned());
        let mut chooser = RungChooser::new(rates, settings.buffer_target).ok_or_else(no_rungs)?;
        let rungs: Vec<_> =
            selection.rungs.into_iter().map(|rung| Lane::new(Track::Video, rung.stream)).collect();
        let audio = selection.audio.map(|stream| Lane::new(Track::Audio, stream));
        let first = &rungs[chooser.choose(Duration::ZERO)];
        let audio_timeline = async {
            match &audio {
                Some(lane) => lane.timeline(session).await.map(Some),
                None => Ok(None),
            }
        };
        let (video_timeline, audio_timeline) = tokio::try_join!(first.timeline(session), audio_timeline)?;
        let cuts = Arc::from(&video_timeline.segments[..]);
        let mut lanes = vec![(Track::Video, ends(&cuts, settings.media_limit))];
        lanes.extend(
            audio_timeline.map(|timeline| (Track::Audio, ends(&timeline.segments, settings.media_limit))),
        );
        let schedule = Schedule::new(settings.pace, lanes);
        let (first, under_way) = (first.stream.clone(), JoinSet::new());
        let mut player =
            Self { session, schedule, chooser, rungs, audio, first, cuts, rung: None, under_way };
        player.begin_subtitles(selection.subtitles, settings.media_limit);
        Ok(player)
    }

    /// Runs until the schedule is finished and nothing is under way.
    async fn play_on(&mut self) -> Result<(), PlayError> {
        loop {
            let now = self.session.clock.now();
            let wake = match self.schedule.next(now) {
                Action::Fetch { track, segment, buffered } => {
                    self.begin(track, segment, buffered);
                    continue;
                }
                Action::Wait(wake) => wake,
                Action::Finished if self.under_way.is_empty() => return Ok(()),
                Action::Finished => None,
            };
            let clock = self.session.clock;
            tokio::select! {
                Some(arrival) = self.under_way.join_next() => {
                    // A task neither panics nor is aborted while the set lives.
                    let arrival = arrival.expect("a fetch ends by itself")?;
                    self.arrive(arrival);
                }
                () = clock.sleep_until(wake.unwrap_or_default()), if wake.is_some() => {}
            }
        }
    }

    fn begin(&mut self, track: Track, segment: usize, buffered: Duration) {
        let lane = match (track, &self.audio) {
            (Track::Audio, Some(audio)) => Arc::clone(audio),
            (Track::Video | Track::Audio | Track::Subtitles, _) => {
                Arc::clone(&self.rungs[self.chooser.choose(buffered)])
            }
        };
        let lowest = (track == Track::Video).then(|| Arc::clone(&self.rungs[0]));
        let job = Job {
            session: Arc::clone(self.session),
            segment,
            late_at: self.session.clock.now() + buffered,
            first: self.first.clone(),
            cuts: Arc::clone(&self.cuts),
        };
        self.under_way.spawn(async move { job.run(lane, lowest).await });
    }

    fn arrive(&mut self, arrival: Arrival) {
        let Arrival::Segment { lane, segment, sample, fell } = arrival else { return };
        let now = self.session.clock.now();
        self.schedule.arrived(lane.track, now);
        if lane.track != Track::Video {
            return;
        }
        self.chooser.downloaded(sample.0, sample.1);
        if fell {
            self.chooser.fell();
        }
        let mut ledger = self.session.ledger();
        let bytes = segment.span.map_or(0, ByteSpan::count);
        ledger.played(&lane.stream, bytes, segment.end - segment.start);
        let to = lane.stream.clone();
        if let Some(from) = self.rung.replace(to.clone()).filter(|from| *from != to) {
            ledger.rung_switches.push(RungSwitch { at: now, position: segment.start, from, to });
        }
    }

    /// Subtitles are small and hold nobody up: one after the other, beside the rest.
    fn begin_subtitles(&mut self, streams: Vec<StreamId>, limit: Option<Duration>) {
        let session = Arc::clone(self.session);
        self.under_way.spawn(async move {
            for stream in streams {
                let lane = Lane::new(Track::Subtitles, stream);
                let timeline = lane.timeline(&session).await?;
                let within = ends(&timeline.segments, limit).len();
                for segment in &timeline.segments[..within] {
                    lane.fetch(&session, segment, &AtomicU64::new(0)).await?;
                }
            }
            Ok(Arrival::Subtitles)
        });
    }
}

/// The ends of the segments that begin before `limit`; of the first at least.
fn ends(segments: &[Segment], limit: Option<Duration>) -> Vec<Duration> {
    let within =
        |segment: &&Segment| limit.is_none_or(|limit| segment.start < limit || segment.start.is_zero());
    segments.iter().take_while(within).map(|segment| segment.end).collect()
}

fn is_cut_alike(one: &[Segment], other: &[Segment]) -> bool {
    let near = |(one, other): (&Segment, &Segment)| one.end.abs_diff(other.end) <= CUT_TOLERANCE;
    one.len() == other.len() && one.iter().zip(other).all(near)
}
