//! Which of the offered streams are played: the variants as rungs, one audio language, the subtitles. Pure.
//!
//! The multivariant playlist says what is offered, as for any HLS player; the play's streams say how large each is
//! and who has it. Where the two disagree the play is refused: one of the control plane's two outputs is wrong.

use content::id::{MediaPath, StreamId};
use content::title::StreamKind;

use crate::error::PlayError;
use crate::offer::{Offer, OfferedStream};
use crate::playlist::{Multivariant, Rendition};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// By average rate, lowest first; not empty.
    pub rungs: Vec<Rung>,
    /// None if the title is silent.
    pub audio: Option<StreamId>,
    pub subtitles: Vec<StreamId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    pub stream: StreamId,
    pub average_bps: u64,
}

/// Which subtitles to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subtitles {
    All,
    None,
    Language(String),
}

impl Selection {
    /// `language` is a wish: without it, or if the title does not have it, the playlist's default is played.
    pub fn choose(
        offer: &Offer,
        multivariant: &Multivariant,
        language: Option<&str>,
        subtitles: &Subtitles,
    ) -> Result<Self, PlayError> {
        let rungs = rungs(offer, multivariant)?;
        let offered: Vec<_> = multivariant
            .audio
            .iter()
            .filter(|rendition| of_playlist(offer, &rendition.playlist).is_some())
            .collect();
        let audio = match choose_audio(&offered, language) {
            Some(rendition) => named(offer, &rendition.playlist, "audio")?.map(|stream| stream.id.clone()),
            None => None,
        };
        if let (None, Some(silent)) = (&audio, audio_stream(offer)) {
            return Err(PlayError::Disagreement(format!("stream {silent} is in no audio rendition")));
        }
        let is_chosen = |rendition: &&Rendition| match subtitles {
            Subtitles::All => true,
            Subtitles::None => false,
            Subtitles::Language(wanted) => {
                rendition.language.as_deref().is_some_and(|it| is_language(it, wanted))
            }
        };
        let chosen = multivariant.subtitles.iter().filter(is_chosen);
        let mut subtitles = Vec::new();
        for rendition in chosen {
            let stream = named(offer, &rendition.playlist, "subtitles")?;
            subtitles.extend(stream.map(|stream| stream.id.clone()));
        }
        subtitles.sort();
        subtitles.dedup();
        Ok(Self { rungs, audio, subtitles })
    }
}

fn rungs(offer: &Offer, multivariant: &Multivariant) -> Result<Vec<Rung>, PlayError> {
    let mut rungs = Vec::new();
    for variant in &multivariant.variants {
        let stream = named(offer, variant, "video")?;
        rungs.extend(
            stream
                .map(|stream| Rung { stream: stream.id.clone(), average_bps: stream.average_bandwidth_bps }),
        );
    }
    if rungs.is_empty() {
        return Err(PlayError::Disagreement("no variant is a stream of the play".to_owned()));
    }
    // A rung is named once for each group of audio that it is paired with.
    rungs.sort_by(|one, other| (one.average_bps, &one.stream).cmp(&(other.average_bps, &other.stream)));
    rungs.dedup();
    Ok(rungs)
}

fn of_playlist<'a>(offer: &'a Offer, playlist: &MediaPath) -> Option<&'a OfferedStream> {
    offer.streams.iter().find(|stream| stream.playlist.object == playlist.object)
}

/// The stream of a playlist, if the play has it; an error if it is of another kind than the playlist says.
fn named<'a>(
    offer: &'a Offer,
    playlist: &MediaPath,
    kind: &str,
) -> Result<Option<&'a OfferedStream>, PlayError> {
    let Some(stream) = of_playlist(offer, playlist) else { return Ok(None) };
    let found = match stream.kind {
        StreamKind::Video { .. } => "video",
        StreamKind::Audio { .. } => "audio",
        StreamKind::Subtitles { .. } => "subtitles",
    };
    if found != kind {
        return Err(PlayError::Disagreement(format!("{} is {found} and offered as {kind}", stream.id)));
    }
    Ok(Some(stream))
}

fn audio_stream(offer: &Offer) -> Option<&StreamId> {
    let audio = offer.streams.iter().find(|stream| matches!(stream.kind, StreamKind::Audio { .. }));
    audio.map(|stream| &stream.id)
}

fn choose_audio<'a>(renditions: &[&'a Rendition], language: Option<&str>) -> Option<&'a Rendition> {
    let spoken = |rendition: &&&Rendition| {
        language.is_some_and(|wanted| rendition.language.as_deref().is_some_and(|it| is_language(it, wanted)))
    };
    let default = || renditions.iter().find(|rendition| rendition.is_default);
    renditions.iter().find(spoken).or_else(default).or_else(|| renditions.first()).copied()
}

/// BCP 47 basic filtering (RFC 4647 §3.3.1): `en` takes `en` and `en-GB`.
fn is_language(tag: &str, range: &str) -> bool {
    let (tag, range) = (tag.to_ascii_lowercase(), range.to_ascii_lowercase());
    tag == range || tag.strip_prefix(&range).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use content::id::ObjectId;
    use jiff::Timestamp;

    use super::*;

    fn path(seed: &str) -> MediaPath {
        format!("/film/base/{}.m3u8", ObjectId::of(seed.as_bytes())).parse().unwrap()
    }

    fn offer() -> Offer {
        let mut offer = Offer::check(crate::offer::tests::answer(), 1, Timestamp::UNIX_EPOCH).unwrap();
        let model = offer.streams.remove(0);
        let mut add = |id: &str, average_bandwidth_bps, kind| {
            let mut stream =
                OfferedStream { id: id.parse().unwrap(), kind, average_bandwidth_bps, ..model.clone() };
            stream.playlist.object = ObjectId::of(id.as_bytes());
            offer.streams.push(stream);
        };
        add("v-high", 2_000_000, model.kind.clone());
        add("v-low", 500_000, model.kind.clone());
        for language in ["en", "sv"] {
            let language = language.to_owned();
            let kind = StreamKind::Audio { language: language.clone(), channels: 2, sample_rate_hz: 48_000 };
            add(&format!("a-{language}"), 128_000, kind);
            add(&format!("s-{language}"), 100, StreamKind::Subtitles { language });
        }
        offer
    }

    fn multivariant() -> Multivariant {
        let rendition = |id: &str, language: &str| Rendition {
            playlist: path(id),
            language: Some(language.to_owned()),
            is_default: language == "en",
        };
        Multivariant {
            variants: vec![path("v-high"), path("v-low"), path("v-high")],
            audio: vec![rendition("a-sv", "sv"), rendition("a-en", "en")],
            subtitles: vec![rendition("s-sv", "sv-SE"), rendition("s-en", "en")],
        }
    }

    #[test]
    fn rungs_are_in_order_and_languages_as_wished() {
        let choose =
            |language, subtitles| Selection::choose(&offer(), &multivariant(), language, &subtitles).unwrap();
        let selection = choose(Some("sv"), Subtitles::Language("SV".to_owned()));
        let rungs: Vec<_> = selection.rungs.iter().map(|rung| rung.stream.as_str()).collect();
        assert_eq!(rungs, ["v-low", "v-high"]);
        assert_eq!(selection.audio.unwrap().as_str(), "a-sv");
        assert_eq!(selection.subtitles, ["s-sv".parse().unwrap()]);
        assert_eq!(choose(Some("de"), Subtitles::None).audio.unwrap().as_str(), "a-en");
        assert_eq!(choose(None, Subtitles::All).subtitles.len(), 2);
    }

    #[test]
    fn a_variant_that_the_play_does_not_have_yet_is_left_out() {
        let mut multivariant = multivariant();
        multivariant.variants.push(path("v-tomorrow"));
        multivariant.subtitles.push(Rendition { playlist: path("s-de"), language: None, is_default: false });
        let selection = Selection::choose(&offer(), &multivariant, None, &Subtitles::All).unwrap();
        assert_eq!((selection.rungs.len(), selection.subtitles.len()), (2, 2));
    }

    #[test]
    fn a_playlist_that_contradicts_the_play_is_refused() {
        let breakers: [fn(&mut Multivariant); 3] =
            [|m| m.variants = vec![path("elsewhere")], |m| m.variants[0] = path("a-en"), |m| m.audio.clear()];
        for (index, breaker) in breakers.into_iter().enumerate() {
            let mut multivariant = multivariant();
            breaker(&mut multivariant);
            let chosen = Selection::choose(&offer(), &multivariant, None, &Subtitles::All);
            assert!(matches!(chosen, Err(PlayError::Disagreement(_))), "breaker {index} went unnoticed");
        }
    }
}
