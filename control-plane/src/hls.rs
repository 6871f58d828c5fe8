//! The HLS multivariant playlist of one play (draft-pantos-hls-rfc8216bis §4.4.6).
//!
//! Absolute URLs of media playlists on one appliance, the best of those that [`pathways`] finds. What is inside a media
//! playlist is the pipeline's: its URIs are relative, so they inherit appliance and token.

use std::fmt::Write as _;

use content::title::{Stream, StreamKind};

use crate::pathways::{self, of_class};
use crate::playback::Offer;
use crate::refusal::Refusal;
use crate::streams::{Class, wish_rank};

pub const MEDIA_TYPE: &str = "application/vnd.apple.mpegurl";

const SUBTITLES_GROUP: &str = "subtitles";

/// Refused as [`pathways::choose`] is.
pub fn multivariant(offer: &Offer<'_>, token: &str, wishes: &[String]) -> Result<String, Refusal> {
    let whole = pathways::choose(offer)?;
    let (appliance, listed) = (whole.best(), whole.streams);
    let url = |stream: &Stream| offer.url(appliance, stream.tier, stream.playlist, token);
    let groups = audio_groups(&listed);
    let subtitles: Vec<_> = of_class(&listed, Class::Subtitles).collect();
    // Version 7 is what the byte-range media playlists of CMAF tracks need; this one needs less.
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    for group in &groups {
        media_tags(&mut text, "AUDIO", &group.id, &group.members, wishes, &url);
    }
    media_tags(&mut text, "SUBTITLES", SUBTITLES_GROUP, &subtitles, wishes, &url);
    for video in of_class(&listed, Class::Video) {
        if groups.is_empty() {
            variant(&mut text, video, None, &subtitles, &url(video));
        }
        for group in &groups {
            variant(&mut text, video, Some(group), &subtitles, &url(video));
        }
    }
    Ok(text)
}

struct AudioGroup<'a> {
    id: String,
    members: Vec<&'a Stream>,
}

/// A group per way of encoding. §4.4.6.1.1: all groups have the same members, so an encoding that lacks a language of the
/// others is left out; if all lack some, there is one group with the first stream of each language.
fn audio_groups<'a>(listed: &[&'a Stream]) -> Vec<AudioGroup<'a>> {
    let first_of_each = |streams: &mut dyn Iterator<Item = &'a Stream>| {
        let mut members: Vec<&'a Stream> = Vec::new();
        for stream in streams {
            if !members.iter().any(|member| member.kind.language() == stream.kind.language()) {
                members.push(stream);
            }
        }
        members
    };
    let every = first_of_each(&mut of_class(listed, Class::Audio));
    let mut encodings: Vec<_> = of_class(listed, Class::Audio).map(encoding).collect();
    encodings.sort_unstable();
    encodings.dedup();
    let mut groups = Vec::new();
    for wanted in encodings {
        let mut mine = of_class(listed, Class::Audio).filter(|stream| encoding(stream) == wanted);
        let mut members = first_of_each(&mut mine);
        if members.len() == every.len() {
            // The same order in each, whatever the order of rates was.
            members.sort_by_key(|stream| {
                every.iter().position(|other| other.kind.language() == stream.kind.language())
            });
            groups.push(AudioGroup { id: format!("audio-{}", groups.len()), members });
        }
    }
    if groups.is_empty() && !every.is_empty() {
        groups.push(AudioGroup { id: "audio-0".to_owned(), members: every });
    }
    groups
}

fn encoding(stream: &Stream) -> (&str, u16) {
    let channels = match stream.kind {
        StreamKind::Audio { channels, .. } => channels,
        StreamKind::Video { .. } | StreamKind::Subtitles { .. } => 0,
    };
    (&stream.codecs, channels)
}

fn media_tags(
    text: &mut String,
    kind: &str,
    group: &str,
    members: &[&Stream],
    wishes: &[String],
    url: &dyn Fn(&Stream) -> String,
) {
    for (index, stream) in members.iter().enumerate() {
        let language = stream.kind.language().unwrap_or("und");
        // The members stand in the order of the wishes. Subtitles are chosen by the viewer, never by default.
        let default = yes_or_no(kind == "AUDIO" && index == 0);
        let wished = kind == "AUDIO" || wish_rank(language, wishes) < wishes.len() || wishes.is_empty();
        let more = match stream.kind {
            StreamKind::Audio { channels, .. } => format!(",CHANNELS=\"{channels}\""),
            StreamKind::Subtitles { .. } => ",FORCED=NO".to_owned(),
            StreamKind::Video { .. } => String::new(),
        };
        // Writing to a string cannot fail.
        writeln!(
            text,
            "#EXT-X-MEDIA:TYPE={kind},GROUP-ID=\"{group}\",NAME=\"{}\",LANGUAGE=\"{language}\",DEFAULT={default},\
             AUTOSELECT={}{more},URI=\"{}\"",
            name_of(language),
            yes_or_no(wished),
            url(stream)
        )
        .unwrap_or_default();
    }
}

const fn yes_or_no(yes: bool) -> &'static str {
    if yes { "YES" } else { "NO" }
}

/// §4.4.6.2: rates are those of the largest playable combination, codecs those of all that it needs.
fn variant(
    text: &mut String,
    video: &Stream,
    group: Option<&AudioGroup<'_>>,
    subtitles: &[&Stream],
    url: &str,
) {
    let StreamKind::Video { width, height, frame_rate } = &video.kind else { return };
    let audio = group.map_or(&[][..], |group| &group.members);
    let largest = |streams: &[&Stream], rate: fn(&Stream) -> u64| {
        streams.iter().map(|&stream| rate(stream)).max().unwrap_or(0)
    };
    let sum = |rate: fn(&Stream) -> u64| {
        rate(video).saturating_add(largest(audio, rate)).saturating_add(largest(subtitles, rate))
    };
    let mut codecs = vec![video.codecs.as_str()];
    for member in audio {
        if !codecs.contains(&member.codecs.as_str()) {
            codecs.push(&member.codecs);
        }
    }
    let mut more = String::new();
    if let Some(group) = group {
        write!(more, ",AUDIO=\"{}\"", group.id).unwrap_or_default();
    }
    if !subtitles.is_empty() {
        write!(more, ",SUBTITLES=\"{SUBTITLES_GROUP}\"").unwrap_or_default();
    }
    let frames = f64::from(frame_rate.0) / f64::from(frame_rate.1.max(1));
    writeln!(
        text,
        "#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{}\",RESOLUTION={width}x{height},\
         FRAME-RATE={frames:.3}{more},CLOSED-CAPTIONS=NONE\n{url}",
        sum(|stream| stream.bandwidth_bps),
        sum(|stream| stream.average_bandwidth_bps),
        codecs.join(","),
    )
    .unwrap_or_default();
}

/// For people, in the language itself; unique within a group because the tag is added where it says more.
fn name_of(language: &str) -> String {
    let (primary, region) =
        language.split_once('-').map_or((language, None), |(head, tail)| (head, Some(tail)));
    let lower = primary.to_ascii_lowercase();
    let name = LANGUAGE_NAMES.iter().find(|(tag, _)| *tag == lower).map(|(_, name)| *name);
    match (name, region) {
        (Some(name), None) => name.to_owned(),
        (Some(name), Some(region)) => format!("{name} ({region})"),
        (None, _) => language.to_owned(),
    }
}

const LANGUAGE_NAMES: [(&str, &str); 24] = [
    ("ar", "العربية"),
    ("cs", "Čeština"),
    ("da", "Dansk"),
    ("de", "Deutsch"),
    ("el", "Ελληνικά"),
    ("en", "English"),
    ("es", "Español"),
    ("fi", "Suomi"),
    ("fr", "Français"),
    ("he", "עברית"),
    ("hi", "हिन्दी"),
    ("hu", "Magyar"),
    ("it", "Italiano"),
    ("ja", "日本語"),
    ("ko", "한국어"),
    ("nb", "Norsk bokmål"),
    ("nl", "Nederlands"),
    ("no", "Norsk"),
    ("pl", "Polski"),
    ("pt", "Português"),
    ("sv", "Svenska"),
    ("tr", "Türkçe"),
    ("uk", "Українська"),
    ("zh", "中文"),
];

#[cfg(test)]
mod tests {
    use content::id::Tier;
    use content::title::Title;
    use m3u8_rs::{AlternativeMediaType, MasterPlaylist};

    use super::*;
    use crate::playback::tests::{issuer, request};
    use crate::playback::{self};
    use crate::snapshot::tests::{Box, film, noon, world};

    fn playlist_of(title: Title, boxes: &[Box]) -> MasterPlaylist {
        let mut request = request("s-1");
        request.device.codecs.push("ac-3".to_owned());
        let text =
            playback::multivariant(&world(&[title], boxes), &issuer(), &request, None, noon()).unwrap();
        let (rest, parsed) = m3u8_rs::parse_master_playlist(text.as_bytes()).unwrap();
        assert!(rest.is_empty(), "left over: {}", String::from_utf8_lossy(rest));
        assert!(parsed.unknown_tags.is_empty());
        parsed
    }

    #[test]
    fn the_playlist_has_a_variant_per_rung_and_a_rendition_per_language() {
        let playlist = playlist_of(film("film"), &[Box::well("box-a")]);
        assert!(playlist.independent_segments);
        let rungs: Vec<_> = playlist.variants.iter().map(|v| v.resolution.unwrap().height).collect();
        assert_eq!(rungs, [360, 720]);
        let low = &playlist.variants[0];
        assert_eq!(low.bandwidth, 900_000 + 131_000 + 300);
        assert_eq!(low.average_bandwidth, Some(675_000 + 98_250 + 225));
        assert_eq!(low.codecs.as_deref(), Some("avc1.4d401e,mp4a.40.2"));
        assert_eq!(low.frame_rate, Some(23.976));
        let audio: Vec<_> =
            playlist.alternatives.iter().filter(|a| a.media_type == AlternativeMediaType::Audio).collect();
        assert_eq!(audio.len(), 2);
        assert!(audio.iter().all(|a| Some(&a.group_id) == low.audio.as_ref() && a.autoselect));
        assert_eq!(
            (audio[0].name.as_str(), audio[0].language.as_deref(), audio[0].default),
            ("Svenska", Some("sv"), true)
        );
        assert_eq!((audio[1].name.as_str(), audio[1].default), ("English", false));
        let subtitles = playlist.alternatives.last().unwrap();
        assert_eq!(subtitles.media_type, AlternativeMediaType::Subtitles);
        assert_eq!(Some(&subtitles.group_id), low.subtitles.as_ref());
        assert!(!subtitles.default && !subtitles.forced);
    }

    #[test]
    fn every_url_is_a_media_playlist_on_one_appliance() {
        let playlist = playlist_of(film("film"), &[Box::well("box-a"), Box::well("box-b")]);
        let alternatives = playlist.alternatives.iter().filter_map(|a| a.uri.clone());
        let urls: Vec<_> = playlist.variants.iter().map(|v| v.uri.clone()).chain(alternatives).collect();
        assert_eq!(urls.len(), 5);
        let host = |url: &str| url.split('/').nth(2).unwrap().to_owned();
        assert!(urls.iter().all(|url| url.ends_with(".m3u8") && host(url) == host(&urls[0])), "{urls:?}");
    }

    #[test]
    fn an_appliance_that_lacks_a_stream_is_not_used_while_another_has_all() {
        for lacking in ["box-a", "box-b"] {
            let boxes = ["box-a", "box-b"].map(|name| Box {
                missing: if name == lacking { vec![9] } else { Vec::new() },
                ..Box::well(name)
            });
            let playlist = playlist_of(film("film"), &boxes);
            assert_eq!(playlist.variants.len(), 2);
            assert!(playlist.variants.iter().all(|v| !v.uri.contains(lacking)));
        }
    }

    #[test]
    fn while_no_box_has_everything_the_fullest_is_used_with_what_it_has() {
        // Ordinal 9 is the track of 720p, 8 that of 360p, 5 that of the subtitles.
        let fullest = Box { missing: vec![9], ..Box::well("box-a") };
        let other = Box { missing: vec![5, 8], ..Box::well("box-b") };
        let playlist = playlist_of(film("film"), &[fullest, other]);
        assert_eq!(playlist.variants.len(), 1);
        assert!(playlist.variants[0].uri.contains("box-a"));
    }

    #[test]
    fn a_second_encoding_of_all_languages_is_a_second_group_and_a_partial_one_is_left_out() {
        let mut title = film("film");
        let mut surround = title.streams[2].clone();
        surround.id = "audio-en-ac3".parse().unwrap();
        surround.codecs = "ac-3".to_owned();
        surround.kind = StreamKind::Audio { language: "en".to_owned(), channels: 6, sample_rate_hz: 48_000 };
        title.streams.push(surround.clone());
        let partial = playlist_of(title.clone(), &[Box::well("box-a")]);
        assert_eq!(partial.variants.len(), 2);
        surround.id = "audio-sv-ac3".parse().unwrap();
        surround.kind = StreamKind::Audio { language: "sv".to_owned(), channels: 6, sample_rate_hz: 48_000 };
        title.streams.push(surround);
        let whole = playlist_of(title, &[Box::well("box-a")]);
        assert_eq!(whole.variants.len(), 4);
        assert!(whole.variants.iter().any(|v| v.codecs.as_deref() == Some("avc1.64001f,ac-3")));
    }

    #[test]
    fn a_title_without_sound_has_no_groups() {
        let mut title = film("film");
        title.streams.retain(|stream| stream.tier != Tier::Base);
        let playlist = playlist_of(title, &[Box::well("box-a")]);
        assert_eq!((playlist.variants.len(), playlist.alternatives.len()), (2, 0));
        assert_eq!(playlist.variants[0].audio, None);
    }

    #[test]
    fn languages_are_named_in_themselves_and_regions_kept_apart() {
        assert_eq!(name_of("sv"), "Svenska");
        assert_eq!(name_of("pt-BR"), "Português (BR)");
        assert_eq!(name_of("tlh"), "tlh");
    }
}
