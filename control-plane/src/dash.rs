//! The DASH manifest (MPD) of one play: ISO/IEC 23009-1, the ISO base media file format On-Demand profile (§8.3).
//!
//! ```text
//! MPD             static, as long as the title
//!   BaseURL       one per appliance that holds every listed stream, the best first: `…/~<token>/<title>/` (§5.6)
//!   Period
//!     AdaptationSet   pictures that a player may switch between; a language's sound in one encoding; a language's subtitles
//!       Representation    BaseURL `<tier>/<blake3>.mp4`, SegmentBase: where init and `sidx` lie; WebVTT is one whole file
//! ```
//!
//! A player that loses an appliance goes on at the next BaseURL: the same bytes, so no segment has to be asked for anew.

use std::io;

use content::title::{Stream, StreamKind};
use quick_xml::Writer;

use crate::pathways::{self, Pathways, of_class};
use crate::playback::Offer;
use crate::refusal::Refusal;
use crate::streams::Class;

pub const MEDIA_TYPE: &str = "application/dash+xml";

const PROFILE: &str = "urn:mpeg:dash:profile:isoff-on-demand:2011";
/// §5.8.5.5; what a player does with each is its own affair.
const ROLES: &str = "urn:mpeg:dash:role:2011";
/// ISO/IEC 23091-3 (CICP) `ChannelConfiguration`.
const CHANNELS: &str = "urn:mpeg:mpegB:cicp:ChannelConfiguration";
/// §5.3.1.2 @minBufferTime: a player that has buffered so much and fetches at @bandwidth never runs dry. Our peak rates
/// are those of the largest segment, so one segment is enough; none is longer than 6 s (DESIGN §1).
const MIN_BUFFER: &str = "PT6S";

type Xml = Writer<Vec<u8>>;

/// Refused as [`pathways::choose`] is.
pub fn manifest(offer: &Offer<'_>, token: &str) -> Result<String, Refusal> {
    let whole = pathways::choose(offer)?;
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    write_mpd(&mut xml, offer, &whole, token).expect("writing to memory does not fail");
    let text = String::from_utf8(xml.into_inner()).expect("what was written is UTF-8");
    Ok(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}\n"))
}

fn write_mpd(xml: &mut Xml, offer: &Offer<'_>, whole: &Pathways<'_>, token: &str) -> io::Result<()> {
    let duration = duration(offer.known.title.duration_ms);
    let mpd = xml.create_element("MPD").with_attributes([
        ("xmlns", "urn:mpeg:dash:schema:mpd:2011"),
        ("type", "static"),
        ("profiles", PROFILE),
        ("minBufferTime", MIN_BUFFER),
        ("mediaPresentationDuration", duration.as_str()),
    ]);
    let written = mpd.write_inner_content(|xml| {
        for &appliance in &whole.appliances {
            let location = offer.appliance(appliance).appliance.as_str();
            let base = xml.create_element("BaseURL").with_attribute(("serviceLocation", location));
            text(base, &offer.title_url(appliance, token))?;
        }
        let period = xml.create_element("Period").with_attributes([("id", "0"), ("start", "PT0S")]);
        period.write_inner_content(|xml| write_sets(xml, &whole.streams)).map(drop)
    });
    written.map(drop)
}

/// An adaptation set for each group of streams that a player may switch between without anybody noticing.
fn write_sets(xml: &mut Xml, streams: &[&Stream]) -> io::Result<()> {
    for class in [Class::Video, Class::Audio, Class::Subtitles] {
        for (index, set) in grouped(of_class(streams, class)).into_iter().enumerate() {
            write_set(xml, class, index == 0, &set)?;
        }
    }
    Ok(())
}

/// In the order of each group's first: the languages asked for come first, and so do they here.
fn grouped<'a>(streams: impl Iterator<Item = &'a Stream>) -> Vec<Vec<&'a Stream>> {
    let mut sets: Vec<Vec<&Stream>> = Vec::new();
    for stream in streams {
        match sets.iter_mut().find(|set| likeness(set[0]) == likeness(stream)) {
            Some(set) => set.push(stream),
            None => sets.push(vec![stream]),
        }
    }
    sets
}

/// Language, sample entry, channels: what must be the same within a set.
fn likeness(stream: &Stream) -> (Option<&str>, &str, u16) {
    let sample_entry = stream.codecs.split('.').next().unwrap_or_default();
    let channels = match stream.kind {
        StreamKind::Audio { channels, .. } => channels,
        StreamKind::Video { .. } | StreamKind::Subtitles { .. } => 0,
    };
    (stream.kind.language(), sample_entry, channels)
}

fn write_set(xml: &mut Xml, class: Class, is_first: bool, set: &[&Stream]) -> io::Result<()> {
    let (content, mime) = match class {
        Class::Video => ("video", "video/mp4"),
        Class::Audio => ("audio", "audio/mp4"),
        Class::Subtitles => ("text", "text/vtt"),
    };
    let mut element =
        xml.create_element("AdaptationSet").with_attributes([("contentType", content), ("mimeType", mime)]);
    if class != Class::Subtitles {
        // §5.3.3.2: fragments of all rungs begin at the same instants, each with a picture that needs no other.
        element =
            element.with_attributes([("subsegmentAlignment", "true"), ("subsegmentStartsWithSAP", "1")]);
    }
    if let Some(language) = set[0].kind.language() {
        element = element.with_attribute(("lang", language));
    }
    let role = match class {
        Class::Subtitles => "subtitle",
        Class::Video | Class::Audio if is_first => "main",
        Class::Video | Class::Audio => "alternate",
    };
    let written = element.write_inner_content(|xml| {
        empty(xml, "Role", &[("schemeIdUri", ROLES), ("value", role)])?;
        set.iter().try_for_each(|stream| write_representation(xml, stream))
    });
    written.map(drop)
}

fn write_representation(xml: &mut Xml, stream: &Stream) -> io::Result<()> {
    let mut attributes =
        vec![("id", stream.id.as_str().to_owned()), ("bandwidth", stream.bandwidth_bps.to_string())];
    if !stream.codecs.is_empty() {
        attributes.push(("codecs", stream.codecs.clone()));
    }
    let channels = match &stream.kind {
        StreamKind::Video { width, height, frame_rate: (frames, seconds) } => {
            let rate = if *seconds == 1 { frames.to_string() } else { format!("{frames}/{seconds}") };
            let size =
                [("width", width.to_string()), ("height", height.to_string()), ("sar", "1:1".to_owned())];
            attributes.extend(size);
            attributes.push(("frameRate", rate));
            None
        }
        StreamKind::Audio { channels, sample_rate_hz, .. } => {
            attributes.push(("audioSamplingRate", sample_rate_hz.to_string()));
            channel_configuration(*channels)
        }
        StreamKind::Subtitles { .. } => None,
    };
    let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
    let element = xml.create_element("Representation").with_attributes(attributes);
    let written = element.write_inner_content(|xml| {
        if let Some(value) = channels {
            empty(xml, "AudioChannelConfiguration", &[("schemeIdUri", CHANNELS), ("value", value)])?;
        }
        let track = stream.track;
        let url = format!("{}/{}.{}", stream.tier, track.object, track.extension);
        text(xml.create_element("BaseURL"), &url)?;
        write_segment_base(xml, stream)
    });
    written.map(drop)
}

/// §5.3.9.2: both ranges are inclusive, as ours are. WebVTT has neither: it is one segment, the whole file.
fn write_segment_base(xml: &mut Xml, stream: &Stream) -> io::Result<()> {
    let (Some(init), Some(index)) = (stream.init, stream.index) else { return Ok(()) };
    let range = |span: content::id::ByteSpan| format!("{}-{}", span.first(), span.last());
    let element = xml.create_element("SegmentBase").with_attribute(("indexRange", range(index).as_str()));
    element.write_inner_content(|xml| empty(xml, "Initialization", &[("range", &range(init))])).map(drop)
}

fn empty(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_empty().map(drop)
}

fn text(element: quick_xml::writer::ElementWriter<'_, Vec<u8>>, text: &str) -> io::Result<()> {
    element.write_text_content(quick_xml::events::BytesText::new(text)).map(drop)
}

/// ISO/IEC 23091-3 table 1: 1 to 6 channels are configurations 1 to 6; the usual 7.1 is configuration 12.
fn channel_configuration(channels: u16) -> Option<&'static str> {
    match channels {
        1 => Some("1"),
        2 => Some("2"),
        3 => Some("3"),
        4 => Some("4"),
        5 => Some("5"),
        6 => Some("6"),
        8 => Some("12"),
        _ => None,
    }
}

/// `xs:duration`, XML Schema part 2 §3.2.6.
fn duration(milliseconds: u64) -> String {
    format!("PT{}.{:03}S", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node};

    use super::*;
    use crate::playback::tests::{issuer, request};
    use crate::playback::{self};
    use crate::snapshot::tests::{Box, film, noon, world};

    fn mpd_of(title: content::title::Title, boxes: &[Box]) -> String {
        let mut request = request("s-1");
        request.device.codecs.push("ac-3".to_owned());
        playback::dash_manifest(&world(&[title], boxes), &issuer(), &request, None, noon()).unwrap()
    }

    fn all<'a>(document: &'a Document<'_>, name: &str) -> Vec<Node<'a, 'a>> {
        document
            .descendants()
            .filter(|node| node.has_tag_name(("urn:mpeg:dash:schema:mpd:2011", name)))
            .collect()
    }

    fn values(nodes: &[Node<'_, '_>], attribute: &str) -> Vec<String> {
        nodes.iter().map(|node| node.attribute(attribute).unwrap_or("-").to_owned()).collect()
    }

    #[test]
    fn each_rung_language_and_subtitle_stands_in_its_set_with_the_ranges_of_the_title() {
        let title = film("film");
        let text = mpd_of(title.clone(), &[Box::well("box-a")]);
        let document = Document::parse(&text).unwrap();
        let mpd = document.root_element();
        assert_eq!(mpd.attribute("type"), Some("static"));
        let seconds = mpd.attribute("mediaPresentationDuration").unwrap();
        assert_eq!(seconds, format!("PT{}.{:03}S", title.duration_ms / 1000, title.duration_ms % 1000));
        let sets = all(&document, "AdaptationSet");
        assert_eq!(values(&sets, "contentType"), ["video", "audio", "audio", "text"]);
        assert_eq!(values(&sets, "lang"), ["-", "sv", "en", "en"]);
        assert_eq!(values(&all(&document, "Role"), "value"), ["main", "main", "alternate", "subtitle"]);
        let representations = all(&document, "Representation");
        assert_eq!(
            values(&representations, "id"),
            ["video-360p", "video-720p", "audio-sv", "audio-en", "subtitles-en"]
        );
        for (node, base) in representations.iter().zip(all(&document, "SegmentBase")) {
            let of_title = |stream: &&Stream| Some(stream.id.as_str()) == node.attribute("id");
            let stream = title.streams.iter().find(of_title).unwrap();
            let (init, index) = (stream.init.unwrap(), stream.index.unwrap());
            assert_eq!(
                base.attribute("indexRange"),
                Some(format!("{}-{}", index.first(), index.last()).as_str())
            );
            let range = base.first_element_child().unwrap().attribute("range").unwrap();
            assert_eq!(range, format!("{}-{}", init.first(), init.last()));
        }
        assert_eq!(all(&document, "SegmentBase").len(), 4, "WebVTT is one whole file");
        assert_eq!(values(&representations[..1], "frameRate"), ["24000/1001"]);
        assert_eq!(values(&all(&document, "AudioChannelConfiguration"), "value"), ["2", "2"]);
    }

    #[test]
    fn every_appliance_that_holds_all_is_a_base_url_and_no_other() {
        let lacking = Box { missing: vec![9], ..Box::well("box-c") };
        let boxes = [Box::well("box-a"), Box::well("box-b"), lacking];
        let answer =
            playback::play(&world(&[film("film")], &boxes), &issuer(), &request("s-1"), noon()).unwrap();
        let text = mpd_of(film("film"), &boxes);
        let document = Document::parse(&text).unwrap();
        let bases: Vec<_> =
            document.root_element().children().filter(|n| n.has_tag_name("BaseURL")).collect();
        let ranked = answer.appliances.iter().map(|ranked| ranked.appliance.as_str());
        let wanted: Vec<_> = ranked.filter(|name| *name != "box-c").map(str::to_owned).collect();
        assert_eq!(values(&bases, "serviceLocation"), wanted);
        for base in bases {
            let (host, rest) = base.text().unwrap().split_once("/~").unwrap();
            assert!(host.contains(base.attribute("serviceLocation").unwrap()));
            assert!(rest.ends_with("/film/"), "{rest}");
        }
    }

    #[test]
    fn base_url_and_representation_together_are_the_plays_url() {
        let snapshot = world(&[film("film")], &[Box::well("box-a")]);
        let answer = playback::play(&snapshot, &issuer(), &request("s-1"), noon()).unwrap();
        let text =
            playback::dash_manifest(&snapshot, &issuer(), &request("s-1"), Some(&answer.token), noon())
                .unwrap();
        let document = Document::parse(&text).unwrap();
        let bases = all(&document, "BaseURL");
        let (first, rest) = bases.split_first().unwrap();
        let urls: Vec<_> =
            rest.iter().map(|base| format!("{}{}", first.text().unwrap(), base.text().unwrap())).collect();
        let wanted: Vec<_> = answer.streams.iter().map(|stream| stream.track.urls[0].clone()).collect();
        assert_eq!(urls, wanted);
    }

    #[test]
    fn another_encoding_of_a_language_is_a_set_of_its_own() {
        let mut title = film("film");
        let mut surround = title.streams[2].clone();
        surround.id = "audio-en-ac3".parse().unwrap();
        surround.codecs = "ac-3".to_owned();
        surround.kind = StreamKind::Audio { language: "en".to_owned(), channels: 6, sample_rate_hz: 48_000 };
        title.streams.push(surround);
        let text = mpd_of(title, &[Box::well("box-a")]);
        let document = Document::parse(&text).unwrap();
        assert_eq!(all(&document, "AdaptationSet").len(), 5);
        assert!(values(&all(&document, "AudioChannelConfiguration"), "value").contains(&"6".to_owned()));
    }

    #[test]
    fn durations_and_channels_are_written_as_their_standards_ask() {
        assert_eq!([duration(0), duration(61_005)], ["PT0.000S", "PT61.005S"]);
        assert_eq!([1, 6, 8, 7].map(channel_configuration), [Some("1"), Some("6"), Some("12"), None]);
    }
}
