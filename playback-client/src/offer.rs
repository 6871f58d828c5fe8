//! A play answer, checked: what may be fetched, and where. Pure.
//!
//! The control plane is trusted to rank, not to be free of faults: every URL must be on an appliance that the answer
//! lists and must name the object that it stands beside.

use content::id::{ApplianceId, Extension, ObjectId, StreamId};
use content::play::{PassedOver, PlayAnswer, PlayObject, PlayStream, RANKED_MAX, RankedAppliance};
use content::title::StreamKind;
use jiff::Timestamp;

use crate::address::{Address, MediaAddress};

/// More streams than this are no title.
const STREAMS_MAX: usize = 500;
/// More appliances than this are no ranking.
const APPLIANCES_MAX: usize = STREAMS_MAX * RANKED_MAX;

#[derive(Clone, Debug)]
pub struct Offer {
    /// Counts the answers of this session, from 1.
    pub generation: u64,
    pub name: String,
    pub received: Timestamp,
    pub expires: Timestamp,
    pub multivariant: Address,
    pub streams: Vec<OfferedStream>,
    pub passed_over: Vec<PassedOver>,
}

#[derive(Clone, Debug)]
pub struct OfferedStream {
    pub id: StreamId,
    pub kind: StreamKind,
    pub average_bandwidth_bps: u64,
    pub track: OfferedObject,
    pub playlist: OfferedObject,
}

#[derive(Clone, Debug)]
pub struct OfferedObject {
    pub object: ObjectId,
    pub extension: Extension,
    pub bytes: u64,
    /// The best first; may be empty.
    pub places: Vec<Place>,
}

#[derive(Clone, Debug)]
pub struct Place {
    pub appliance: ApplianceId,
    pub address: Address,
}

/// Which of a stream's two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Track,
    Playlist,
}

impl Offer {
    /// The reason in words if the answer is not one to rely on.
    pub fn check(answer: PlayAnswer, generation: u64, received: Timestamp) -> Result<Self, String> {
        if answer.streams.len() > STREAMS_MAX || answer.appliances.len() > APPLIANCES_MAX {
            return Err(format!("{} streams, {} appliances", answer.streams.len(), answer.appliances.len()));
        }
        let multivariant = answer.hls.parse().map_err(|error| format!("hls: {error}"))?;
        let appliances = appliance_addresses(&answer.appliances)?;
        let check = |stream: PlayStream| check_stream(stream, &appliances);
        let streams = answer.streams.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            generation,
            name: answer.name,
            received,
            expires: answer.expires,
            multivariant,
            streams,
            passed_over: answer.passed_over,
        })
    }

    /// With the streams of an older offer that this one lacks: nobody is offered for them at the moment, but they are
    /// being played, and where they were they may be again.
    pub fn keeping_streams_of(mut self, older: &Self) -> Self {
        let lost: Vec<_> =
            older.streams.iter().filter(|stream| self.stream(&stream.id).is_none()).cloned().collect();
        self.streams.extend(lost);
        self
    }

    pub fn stream(&self, id: &StreamId) -> Option<&OfferedStream> {
        self.streams.iter().find(|stream| stream.id == *id)
    }

    /// Whether the token should be renewed before it is used again: less than 30 s or a quarter of its life is left.
    pub fn is_near_expiry(&self, now: Timestamp) -> bool {
        let life = self.expires.as_second().saturating_sub(self.received.as_second());
        let left = self.expires.as_second().saturating_sub(now.as_second());
        // A token that had ended when it came: our clock is ahead of the control plane's and says nothing. The
        // appliance's 403 will.
        life > 0 && left < 30.min(life / 4)
    }

    /// Why appliances were passed over for a stream, in a few words for people.
    pub fn reasons(&self, stream: &StreamId) -> String {
        let concerned = |passed: &&PassedOver| passed.stream.as_ref().is_none_or(|id| id == stream);
        let reasons: Vec<_> = self
            .passed_over
            .iter()
            .filter(concerned)
            .take(RANKED_MAX)
            .map(|passed| format!("{} {}", passed.appliance, passed.reason))
            .collect();
        match reasons.is_empty() {
            true => "the control plane gives no reason; look at its GET /v1/fleet".to_owned(),
            false => format!("passed over: {}", reasons.join(", ")),
        }
    }
}

impl OfferedStream {
    pub fn part(&self, part: Part) -> &OfferedObject {
        match part {
            Part::Track => &self.track,
            Part::Playlist => &self.playlist,
        }
    }
}

fn appliance_addresses(ranked: &[RankedAppliance]) -> Result<Vec<(String, ApplianceId)>, String> {
    let parse = |ranked: &RankedAppliance| {
        let address: Address = ranked.base_url.parse().map_err(|error| format!("base_url: {error}"))?;
        Ok((address.authority, ranked.appliance.clone()))
    };
    ranked.iter().map(parse).collect()
}

fn check_stream(stream: PlayStream, appliances: &[(String, ApplianceId)]) -> Result<OfferedStream, String> {
    let track = match stream.kind {
        StreamKind::Subtitles { .. } => Extension::Vtt,
        StreamKind::Video { .. } | StreamKind::Audio { .. } => Extension::Mp4,
    };
    let refuse = |what| format!("stream {}: {what}", stream.id);
    Ok(OfferedStream {
        track: check_object(stream.track, track, appliances).map_err(refuse)?,
        playlist: check_object(stream.playlist, Extension::M3u8, appliances).map_err(refuse)?,
        id: stream.id,
        kind: stream.kind,
        average_bandwidth_bps: stream.average_bandwidth_bps,
    })
}

fn check_object(
    offered: PlayObject,
    extension: Extension,
    appliances: &[(String, ApplianceId)],
) -> Result<OfferedObject, String> {
    let place = |url: &String| {
        let MediaAddress { address, path } = url.parse().map_err(|error| format!("{error}"))?;
        if path.object != offered.object || path.extension != extension {
            return Err(format!("{url} is not of object {}.{extension}", offered.object));
        }
        let known = appliances.iter().find(|(authority, _)| *authority == address.authority);
        let (_, appliance) = known.ok_or_else(|| format!("{url} is on no appliance of the answer"))?;
        Ok(Place { appliance: appliance.clone(), address })
    };
    let places = offered.urls.iter().take(RANKED_MAX).map(place).collect::<Result<Vec<_>, String>>()?;
    Ok(OfferedObject { object: offered.object, extension, bytes: offered.bytes, places })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// One video stream on two appliances.
    pub(crate) fn answer() -> PlayAnswer {
        let (track, playlist) = (ObjectId::of(b"track"), ObjectId::of(b"playlist"));
        let urls = |object: &ObjectId, extension: &str| {
            [2, 3].map(|host| format!("http://127.0.0.{host}:8080/~t/film/sd/{object}.{extension}"))
        };
        serde_json::from_value(json!({
            "session": "s", "title": "film", "name": "Film", "duration_ms": 8000, "token": "t",
            "expires": "2026-11-24T00:00:00Z", "hls": "http://127.0.0.1:8000/v1/plays/multivariant.m3u8?title=film",
            "dash": "http://127.0.0.1:8000/v1/plays/manifest.mpd?title=film",
            "appliances": [
                {"appliance": "box-a", "cluster": "lab", "base_url": "http://127.0.0.2:8080"},
                {"appliance": "box-b", "cluster": "lab", "base_url": "http://127.0.0.3:8080"}
            ],
            "streams": [{
                "id": "video-1", "tier": "sd", "kind": "video", "width": 960, "height": 540, "frame_rate": [24, 1],
                "codecs": "avc1.64001f", "bandwidth_bps": 1400000, "average_bandwidth_bps": 1100000,
                "track": {"object": track, "bytes": 10000, "urls": urls(&track, "mp4")},
                "playlist": {"object": playlist, "bytes": 300, "urls": urls(&playlist, "m3u8")}
            }]
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn every_url_is_given_to_its_appliance_in_order() {
        let offer = Offer::check(answer(), 1, at("2026-11-23T18:00:00Z")).unwrap();
        let places: Vec<_> =
            offer.streams[0].track.places.iter().map(|place| place.appliance.as_str()).collect();
        assert_eq!(places, ["box-a", "box-b"]);
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_refused() {
        let breakers: [fn(&mut PlayAnswer); 6] = [
            |a| a.hls = "https://127.0.0.1/x".to_owned(),
            |a| a.appliances.truncate(1),
            |a| a.appliances[0].base_url = "box-a".to_owned(),
            |a| a.streams[0].track.object = ObjectId::of(b"other"),
            |a| a.streams[0].track.urls[0] = a.streams[0].playlist.urls[0].clone(),
            |a| a.streams = vec![a.streams[0].clone(); STREAMS_MAX + 1],
        ];
        for (index, breaker) in breakers.into_iter().enumerate() {
            let mut answer = answer();
            breaker(&mut answer);
            assert!(
                Offer::check(answer, 1, Timestamp::UNIX_EPOCH).is_err(),
                "breaker {index} went unnoticed"
            );
        }
    }

    #[test]
    fn a_stream_that_a_renewal_lacks_keeps_its_places() {
        let older = Offer::check(answer(), 1, Timestamp::UNIX_EPOCH).unwrap();
        let mut newer = answer();
        newer.streams[0].id = "video-2".parse().unwrap();
        let newer = Offer::check(newer, 2, Timestamp::UNIX_EPOCH).unwrap().keeping_streams_of(&older);
        assert_eq!(newer.streams.len(), 2);
        assert_eq!(newer.stream(&older.streams[0].id).unwrap().track.places.len(), 2);
        assert_eq!(newer.clone().keeping_streams_of(&older).streams.len(), 2);
    }

    #[test]
    fn a_token_is_renewed_in_its_last_half_minute_or_quarter() {
        let mut offer = Offer::check(answer(), 1, at("2026-11-23T18:00:00Z")).unwrap();
        assert!(!offer.is_near_expiry(at("2026-11-23T23:59:29Z")));
        assert!(offer.is_near_expiry(at("2026-11-23T23:59:31Z")));
        offer.received = at("2026-11-23T23:59:20Z");
        assert!(!offer.is_near_expiry(at("2026-11-23T23:59:45Z")));
        assert!(offer.is_near_expiry(at("2026-11-23T23:59:51Z")));
    }

    #[test]
    fn a_clock_that_is_ahead_renews_nothing_by_itself() {
        let offer = Offer::check(answer(), 1, at("2026-11-25T00:00:00Z")).unwrap();
        assert!(!offer.is_near_expiry(at("2026-11-25T00:00:01Z")));
        assert!(!offer.is_near_expiry(at("2026-11-26T00:00:00Z")));
    }
}
