//! `title.json`: what a title consists of. Mutable, and written last by a conditional put: the commit point of a
//! publish (DESIGN §3). Everything it names is an immutable object that was written before it. Sealed (`seal`): a
//! digit that rots into another is noticed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ByteSpan, Extension, MediaPath, ObjectId, StreamId, Tier, TitleId};
use crate::seal::{SealError, to_sealed, unseal};
use crate::volume::DATA_BYTES_MAX;

/// The version of the format that this library writes and the only one that it reads.
pub const TITLE_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Title {
    /// [`TITLE_FORMAT`].
    pub format: u32,
    pub title: TitleId,
    /// For people.
    pub name: String,
    pub duration_ms: u64,
    pub streams: Vec<Stream>,
    /// Where and when it may be watched. A table of the control plane may override it. Empty: nowhere.
    #[serde(default)]
    pub terms: Vec<Term>,
    /// BLAKE3 of the source file.
    pub source: ObjectId,
    /// BLAKE3 of the canonical recipe: ladder, encoder settings, encoder version.
    pub recipe: ObjectId,
}

/// One encoding of one track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub id: StreamId,
    pub tier: Tier,
    #[serde(flatten)]
    pub kind: StreamKind,
    /// RFC 6381 `codecs` parameter; `wvtt` never appears: subtitles are plain WebVTT.
    pub codecs: String,
    /// Peak rate in bit/s (RFC 8216 §4.3.4.2 BANDWIDTH): the largest rate of any segment.
    pub bandwidth_bps: u64,
    /// Bits of the whole track over its duration, bit/s.
    pub average_bandwidth_bps: u64,
    /// The track file: fragments addressed by byte range, or the whole `.vtt`.
    pub track: ObjectRef,
    /// The HLS media playlist, whose URIs are relative.
    pub playlist: ObjectRef,
    /// `ftyp` and `moov` (DASH `Initialization@range`). None for WebVTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ByteSpan>,
    /// `sidx` (DASH `SegmentBase@indexRange`). None for WebVTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<ByteSpan>,
}

// Flattened into its stream: serde cannot deny unknown fields there (its `flatten` buffers them).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum StreamKind {
    Video {
        width: u32,
        height: u32,
        /// Frames per second as a fraction.
        frame_rate: (u32, u32),
    },
    Audio {
        /// BCP 47.
        language: String,
        channels: u16,
        sample_rate_hz: u32,
    },
    Subtitles {
        /// BCP 47.
        language: String,
    },
}

impl StreamKind {
    pub fn language(&self) -> Option<&str> {
        match self {
            Self::Video { .. } => None,
            Self::Audio { language, .. } | Self::Subtitles { language } => Some(language),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub object: ObjectId,
    pub extension: Extension,
    pub bytes: u64,
}

/// One permission: these territories, from and until these instants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// ISO 3166-1 alpha-2, upper case; `*` alone for the whole world.
    pub territories: Vec<String>,
    /// Inclusive.
    pub from: Timestamp,
    /// Exclusive; None: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum TitleError {
    #[error("title.json: {0}")]
    Rotten(#[from] SealError),
    #[error("title.json is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("title.json has format {found}; this program reads format {TITLE_FORMAT}")]
    Format { found: u32 },
    #[error("title.json of {title} is inconsistent: {what}")]
    Inconsistent { title: TitleId, what: String },
}

impl Title {
    /// Checks the seal, then as [`Self::parse_unsealed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TitleError> {
        Self::parse_unsealed(unseal(bytes)?)
    }

    /// Reads the text without its seal and checks: the format, unique stream ids, at least one video stream, extensions that fit their kind.
    pub fn parse_unsealed(text: &[u8]) -> Result<Self, TitleError> {
        let title: Self = serde_json::from_slice(text)?;
        if title.format != TITLE_FORMAT {
            return Err(TitleError::Format { found: title.format });
        }
        match title.inconsistency() {
            Some(what) => Err(TitleError::Inconsistent { title: title.title, what }),
            None => Ok(title),
        }
    }

    /// The bytes to store; equal titles give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_sealed(self)
    }

    /// Every object of the title at its path: tracks and playlists.
    pub fn objects(&self) -> impl Iterator<Item = (MediaPath, u64)> + '_ {
        let of_stream = |stream: &Stream| [stream.track, stream.playlist].map(|object| (stream.tier, object));
        self.streams.iter().flat_map(of_stream).map(|(tier, object)| {
            let path = MediaPath {
                title: self.title.clone(),
                tier,
                object: object.object,
                extension: object.extension,
            };
            (path, object.bytes)
        })
    }

    fn inconsistency(&self) -> Option<String> {
        let mut ids: Vec<_> = self.streams.iter().map(|stream| &stream.id).collect();
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("two streams are called {}", pair[0]));
        }
        if !self.streams.iter().any(|stream| matches!(stream.kind, StreamKind::Video { .. })) {
            return Some("it has no video stream".to_owned());
        }
        self.streams.iter().find_map(Stream::inconsistency)
    }
}

impl Stream {
    fn inconsistency(&self) -> Option<String> {
        let subtitles = matches!(self.kind, StreamKind::Subtitles { .. });
        let track = if subtitles { Extension::Vtt } else { Extension::Mp4 };
        let video = matches!(self.kind, StreamKind::Video { .. });
        let complaint = if self.track.extension != track {
            "a track of the wrong file type"
        } else if self.playlist.extension != Extension::M3u8 {
            "a playlist that is no .m3u8"
        } else if [self.track, self.playlist].iter().any(|object| object.bytes > DATA_BYTES_MAX) {
            "an object too large for any volume"
        } else if !subtitles && (self.init.is_none() || self.index.is_none()) {
            "no init or index range"
        } else if !subtitles && [self.init, self.index].iter().flatten().any(|s| s.last() >= self.track.bytes)
        {
            "an init or index range past the end of its track"
        } else if video == (self.tier == Tier::Base) {
            "a tier that does not fit its kind"
        } else {
            return None;
        };
        Some(format!("stream {} has {complaint}", self.id))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Title {
        let object = |seed: &str, extension, bytes| ObjectRef {
            object: ObjectId::of(seed.as_bytes()),
            extension,
            bytes,
        };
        let video = Stream {
            id: "video-avc-540p".parse().unwrap(),
            tier: Tier::Sd,
            kind: StreamKind::Video { width: 960, height: 540, frame_rate: (24, 1) },
            codecs: "avc1.64001f".to_owned(),
            bandwidth_bps: 1_400_000,
            average_bandwidth_bps: 1_100_000,
            track: object("v", Extension::Mp4, 9_000_000),
            playlist: object("vp", Extension::M3u8, 900),
            init: ByteSpan::new(0, 799),
            index: ByteSpan::new(800, 1200),
        };
        let subtitles = Stream {
            id: "subtitles-en".parse().unwrap(),
            tier: Tier::Base,
            kind: StreamKind::Subtitles { language: "en".to_owned() },
            codecs: String::new(),
            bandwidth_bps: 200,
            average_bandwidth_bps: 100,
            track: object("s", Extension::Vtt, 700),
            playlist: object("sp", Extension::M3u8, 200),
            init: None,
            index: None,
        };
        Title {
            format: TITLE_FORMAT,
            title: "night-train".parse().unwrap(),
            name: "Night Train".to_owned(),
            duration_ms: 48_000,
            streams: vec![video, subtitles],
            terms: vec![Term {
                territories: vec!["*".to_owned()],
                from: "2026-01-01T00:00:00Z".parse().unwrap(),
                until: None,
            }],
            source: ObjectId::of(b"source"),
            recipe: ObjectId::of(b"recipe"),
        }
    }

    #[test]
    fn a_title_reads_back_as_it_was_written() {
        assert_eq!(Title::parse(&sample().to_bytes()).unwrap(), sample());
        assert_eq!(sample().objects().count(), 4);
    }

    #[test]
    fn every_single_flipped_bit_of_a_title_is_noticed() {
        let bytes = sample().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Title::parse(&rotten), Err(TitleError::Rotten(_))), "bit {bit}");
        }
    }

    #[test]
    fn an_inconsistent_title_is_refused() {
        let breakers: [fn(&mut Title); 7] = [
            |t| t.format = 2,
            |t| t.streams[1].id = t.streams[0].id.clone(),
            |t| drop(t.streams.remove(0)),
            |t| t.streams[0].tier = Tier::Base,
            |t| t.streams[0].index = ByteSpan::new(0, 9_000_000),
            |t| t.streams[1].track.extension = Extension::Mp4,
            |t| t.streams[1].track.bytes = u64::MAX,
        ];
        for (index, breaker) in breakers.into_iter().enumerate() {
            let mut title = sample();
            breaker(&mut title);
            assert!(Title::parse(&title.to_bytes()).is_err(), "breaker {index} went unnoticed");
        }
    }
}
