//! Names: what a thing is called wherever it crosses from one part to another (DESIGN §1, §3).
//!
//! Every name here is parsed once, at the edge, and is valid from then on. Nothing here reads a file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a name may fail to be. One variant per remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("not 64 lowercase hexadecimal digits: {0:?}")]
    NotADigest(String),
    #[error("not a slug (1 to 64 of a-z, 0-9 and '-', starting with a letter or digit): {0:?}")]
    NotASlug(String),
    #[error("unknown tier {0:?}; the tiers are base, sd, hd and uhd")]
    UnknownTier(String),
    #[error("unknown object extension {0:?}; the extensions are mp4, m3u8 and vtt")]
    UnknownExtension(String),
    #[error("not a media path of the form /title/tier/blake3.ext: {0:?}")]
    NotAMediaPath(String),
}

/// The BLAKE3 digest that names an immutable object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 32]);

impl ObjectId {
    /// The name of these very bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let lowercase = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let refuse = || NameError::NotADigest(text.chars().take(80).collect());
        if !lowercase {
            return Err(refuse());
        }
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| refuse())
    }
}

/// What kind of file an object is; the last part of its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extension {
    /// A CMAF track file (ISO/IEC 23000-19).
    Mp4,
    /// An HLS media playlist (RFC 8216).
    M3u8,
    /// A WebVTT subtitle file.
    Vtt,
}

impl Extension {
    pub const ALL: [Self; 3] = [Self::Mp4, Self::M3u8, Self::Vtt];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::M3u8 => "m3u8",
            Self::Vtt => "vtt",
        }
    }

    /// The `Content-Type` of an answer that carries the object.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Mp4 => "video/mp4",
            Self::M3u8 => "application/vnd.apple.mpegurl",
            Self::Vtt => "text/vtt",
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Extension {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|extension| extension.as_str() == text);
        found.ok_or_else(|| NameError::UnknownExtension(text.chars().take(16).collect()))
    }
}

/// What a plan may watch. A part of the URL, so a token can open or close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Audio and subtitles: every plan has them.
    Base,
    Sd,
    Hd,
    Uhd,
}

impl Tier {
    pub const ALL: [Self; 4] = [Self::Base, Self::Sd, Self::Hd, Self::Uhd];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Sd => "sd",
            Self::Hd => "hd",
            Self::Uhd => "uhd",
        }
    }

    /// The tier of a picture of this many lines: `sd` to 576, `hd` to 1080, `uhd` above.
    pub const fn of_height(lines: u32) -> Self {
        match lines {
            0..=576 => Self::Sd,
            577..=1080 => Self::Hd,
            _ => Self::Uhd,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|tier| tier.as_str() == text);
        found.ok_or_else(|| NameError::UnknownTier(text.chars().take(16).collect()))
    }
}

fn parse_slug(text: &str) -> Result<String, NameError> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let valid = (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-');
    valid.then(|| text.to_owned()).ok_or_else(|| NameError::NotASlug(text.chars().take(80).collect()))
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                parse_slug(text).map(Self)
            }
        }
    };
}

slug!(
    /// A film or an episode.
    TitleId
);
slug!(
    /// One stream of a title, unique within it: `video-avc-540p-1200k`, `audio-aac-en`.
    StreamId
);
slug!(
    /// One box.
    ApplianceId
);
slug!(
    /// Appliances of one site that share what they hold.
    ClusterId
);

/// A video service's own name for one play: opaque, 1 to 64 of `A-Z a-z 0-9 - _`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(String);

impl SessionId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SessionId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let valid = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| NameError::NotASlug(text.chars().take(80).collect()))
    }
}

/// Where an object of a title is, behind the token: `/<title>/<tier>/<blake3>.<ext>` (DESIGN §3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaPath {
    pub title: TitleId,
    pub tier: Tier,
    pub object: ObjectId,
    pub extension: Extension,
}

impl MediaPath {
    pub fn key(&self) -> CatalogueKey {
        CatalogueKey::of_path(self.to_string().as_bytes())
    }
}

impl fmt::Display for MediaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}/{}.{}", self.title, self.tier, self.object, self.extension)
    }
}

impl FromStr for MediaPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::NotAMediaPath(text.chars().take(200).collect());
        let mut parts = text.strip_prefix('/').ok_or_else(refuse)?.split('/');
        let (Some(title), Some(tier), Some(file), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        let (object, extension) = file.split_once('.').ok_or_else(refuse)?;
        Ok(Self {
            title: title.parse()?,
            tier: tier.parse()?,
            object: object.parse()?,
            extension: extension.parse()?,
        })
    }
}

/// The catalogue's key: the first 16 bytes of the BLAKE3 digest of the path behind the token.
///
/// 128 bits: among 10 million paths two keys are equal with a chance below 10⁻²⁴, and only the operator mints paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CatalogueKey(pub [u8; 16]);

impl CatalogueKey {
    /// `path` is the path of the request's target behind the token, without the query.
    pub fn of_path(path: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
        Self(key)
    }
}

/// An inclusive range of bytes that is not empty: `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSpan {
    first: u64,
    last: u64,
}

impl ByteSpan {
    /// None if the span would be empty or end past the end of `u64`.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last && last < u64::MAX).then_some(Self { first, last })
    }

    /// `count` bytes from `offset`.
    pub fn from_offset(offset: u64, count: u64) -> Option<Self> {
        Self::new(offset, offset.checked_add(count.checked_sub(1)?)?)
    }

    pub const fn first(self) -> u64 {
        self.first
    }

    /// Inclusive.
    pub const fn last(self) -> u64 {
        self.last
    }

    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

impl fmt::Display for ByteSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for ByteSpan {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::NotAMediaPath(text.chars().take(80).collect());
        let (first, last) = text.split_once('-').ok_or_else(refuse)?;
        let parsed = first.parse().ok().zip(last.parse().ok());
        parsed.and_then(|(first, last)| Self::new(first, last)).ok_or_else(refuse)
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(
    ObjectId,
    Extension,
    TitleId,
    StreamId,
    ApplianceId,
    ClusterId,
    SessionId,
    MediaPath,
    ByteSpan
);

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> String {
        format!("/night-train/sd/{}.mp4", ObjectId::of(b"x"))
    }

    #[test]
    fn a_media_path_reads_back_as_it_was_written() {
        let parsed: MediaPath = path().parse().unwrap();
        assert_eq!(parsed.to_string(), path());
        assert_eq!(parsed.key(), CatalogueKey::of_path(path().as_bytes()));
    }

    #[test]
    fn a_media_path_that_is_not_canonical_is_refused() {
        let good = path();
        let upper =
            good.replace(&ObjectId::of(b"x").to_string(), &ObjectId::of(b"x").to_string().to_uppercase());
        for bad in [
            "",
            "/",
            "//sd/x.mp4",
            &good[1..],
            &format!("{good}/"),
            &format!("/{good}"),
            &good.replace("/sd/", "/4k/"),
            &good.replace(".mp4", ".exe"),
            &good.replace("night-train", "Night"),
            &good.replace("night-train", ".."),
            &upper,
        ] {
            assert!(bad.parse::<MediaPath>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_byte_span_is_never_empty() {
        assert_eq!(ByteSpan::new(3, 2), None);
        assert_eq!(ByteSpan::from_offset(0, 0), None);
        assert_eq!(ByteSpan::from_offset(u64::MAX, 2), None);
        assert_eq!(ByteSpan::from_offset(5, 3).unwrap().to_string(), "5-7");
        assert_eq!("5-7".parse::<ByteSpan>().unwrap().count(), 3);
    }
}
