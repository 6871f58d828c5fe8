//! Which streams of a title fit a device and a plan, and in which order they are offered (DESIGN §6, step 2).

use content::id::Tier;
use content::play::Device;
use content::title::{Stream, StreamKind, Title};

use crate::refusal::Refusal;

/// What a plan opens: `base` and every tier up to its own.
pub fn tiers_of(plan: Tier) -> Vec<Tier> {
    Tier::ALL.into_iter().filter(|tier| *tier <= plan).collect()
}

/// The fitting streams as indexes into `title.streams`: video from the lowest rate up, so that a player which takes
/// the first starts at once; then audio and subtitles, the languages asked for first.
///
/// Refused if no picture is left, or no sound of a title that has sound.
pub fn fitting(
    title: &Title,
    plan: Tier,
    device: &Device,
    languages: &[String],
) -> Result<Vec<usize>, Refusal> {
    let mut fitting: Vec<(usize, &Stream)> = title.streams.iter().enumerate().collect();
    fitting.retain(|(_, stream)| stream.tier <= plan && suits(stream, device));
    for class in [Class::Video, Class::Audio] {
        if !fitting.iter().any(|(_, stream)| class == Class::of(stream)) {
            refuse_without(title, class, plan, device)?;
        }
    }
    fitting.sort_by(|(_, a), (_, b)| order(a, languages).cmp(&order(b, languages)));
    Ok(fitting.into_iter().map(|(index, _)| index).collect())
}

/// How well a language of a title answers a list of wishes: the place in the list; its end if it is not there.
pub fn wish_rank(language: &str, wishes: &[String]) -> usize {
    let exact = wishes.iter().position(|wish| wish.eq_ignore_ascii_case(language));
    let related = || wishes.iter().position(|wish| primary(wish).eq_ignore_ascii_case(primary(language)));
    exact.or_else(related).unwrap_or(wishes.len())
}

/// The first subtag of a BCP 47 tag.
fn primary(language: &str) -> &str {
    language.split('-').next().unwrap_or(language)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Video,
    Audio,
    Subtitles,
}

impl Class {
    pub const fn of(stream: &Stream) -> Self {
        match stream.kind {
            StreamKind::Video { .. } => Self::Video,
            StreamKind::Audio { .. } => Self::Audio,
            StreamKind::Subtitles { .. } => Self::Subtitles,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Subtitles => "subtitles",
        }
    }
}

/// RFC 6381 §3.3: what stands before the first dot names the sample entry.
fn family(codecs: &str) -> &str {
    codecs.split('.').next().unwrap_or(codecs)
}

fn suits(stream: &Stream, device: &Device) -> bool {
    let decodes = || device.codecs.iter().any(|codec| codec == family(&stream.codecs));
    match stream.kind {
        StreamKind::Video { height, .. } => height <= device.height_max && decodes(),
        StreamKind::Audio { .. } => decodes(),
        StreamKind::Subtitles { .. } => true,
    }
}

fn order<'a>(stream: &'a Stream, wishes: &[String]) -> (Class, usize, u64, &'a str) {
    let language = stream.kind.language().map_or(0, |language| wish_rank(language, wishes));
    (Class::of(stream), language, stream.bandwidth_bps, stream.id.as_str())
}

fn refuse_without(title: &Title, class: Class, plan: Tier, device: &Device) -> Result<(), Refusal> {
    let all = || title.streams.iter().filter(|stream| Class::of(stream) == class);
    let Some(lowest) = all().map(|stream| stream.tier).min() else { return Ok(()) };
    let name = title.title.to_string();
    if lowest > plan {
        return Err(Refusal::Plan { title: name, plan: plan.to_string(), lowest: lowest.to_string() });
    }
    let mut families: Vec<_> = all().map(|stream| family(&stream.codecs)).collect();
    families.sort_unstable();
    families.dedup();
    let heights = all().filter_map(|stream| match stream.kind {
        StreamKind::Video { height, .. } => Some(height),
        StreamKind::Audio { .. } | StreamKind::Subtitles { .. } => None,
    });
    let lines = heights.min().map_or(String::new(), |lines| {
        format!(", from {lines} lines up; the device shows {} lines", device.height_max)
    });
    let why = format!(
        "the plan {plan} has {} as {}{lines} and decodes {}",
        class.as_str(),
        families.join(", "),
        device.codecs.join(", ")
    );
    Err(Refusal::Device { title: name, kind: class.as_str(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::film;

    fn device(height_max: u32, codecs: &[&str]) -> Device {
        Device { height_max, codecs: codecs.iter().map(|&codec| codec.to_owned()).collect() }
    }

    fn names(plan: Tier, device: &Device, languages: &[&str]) -> Vec<String> {
        let title = film("film");
        let languages: Vec<_> = languages.iter().map(|&language| language.to_owned()).collect();
        let fitting = fitting(&title, plan, device, &languages).unwrap();
        fitting.into_iter().map(|index| title.streams[index].id.to_string()).collect()
    }

    #[test]
    fn plan_and_device_each_take_rungs_away() {
        let all = device(2160, &["avc1", "mp4a"]);
        assert_eq!(names(Tier::Uhd, &all, &[])[..2], ["video-360p", "video-720p"]);
        assert_eq!(names(Tier::Sd, &all, &[])[..2], ["video-360p", "audio-en"]);
        assert_eq!(names(Tier::Hd, &device(719, &["avc1", "mp4a"]), &[])[..2], ["video-360p", "audio-en"]);
    }

    #[test]
    fn the_wished_language_stands_first_and_a_regional_one_counts() {
        let all = device(2160, &["avc1", "mp4a"]);
        assert_eq!(names(Tier::Sd, &all, &["de", "sv-FI"])[1..3], ["audio-sv", "audio-en"]);
        assert_eq!(names(Tier::Sd, &all, &["EN"])[1..3], ["audio-en", "audio-sv"]);
        assert_eq!(wish_rank("sv", &["sv-FI".to_owned(), "sv".to_owned()]), 1);
    }

    #[test]
    fn a_request_that_leaves_no_picture_or_no_sound_is_refused_with_the_reason() {
        let title = film("film");
        let refuse = |plan, device: &Device| fitting(&title, plan, device, &[]).unwrap_err();
        assert!(matches!(refuse(Tier::Base, &device(2160, &["avc1", "mp4a"])), Refusal::Plan { .. }));
        assert!(matches!(
            refuse(Tier::Hd, &device(300, &["avc1", "mp4a"])),
            Refusal::Device { kind: "video", .. }
        ));
        assert!(matches!(
            refuse(Tier::Hd, &device(2160, &["hvc1", "mp4a"])),
            Refusal::Device { kind: "video", .. }
        ));
        let silent = refuse(Tier::Hd, &device(2160, &["avc1"]));
        assert!(matches!(silent, Refusal::Device { kind: "audio", .. }));
        assert!(silent.to_string().contains("mp4a"), "{silent}");
    }

    #[test]
    fn a_plan_opens_base_and_everything_up_to_itself() {
        assert_eq!(tiers_of(Tier::Hd), [Tier::Base, Tier::Sd, Tier::Hd]);
    }
}
