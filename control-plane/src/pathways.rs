//! Which appliances a manifest for other people's players may lead to, and with which streams.
//!
//! Such a player takes everything from the appliance that it is on, so an appliance counts only if it holds every stream
//! that is listed (DESIGN §6). While none holds all that is offered (a night's fill is under way), what the fullest holds is listed.

use content::play::RANKED_MAX;
use content::title::Stream;

use crate::playback::{Offer, OfferedStream};
use crate::refusal::Refusal;
use crate::streams::Class;

pub struct Pathways<'a> {
    /// Indexes into the ranking's candidates, the best first; never empty, at most [`RANKED_MAX`].
    pub appliances: Vec<usize>,
    /// Each is whole on each of `appliances`.
    pub streams: Vec<&'a Stream>,
}

impl Pathways<'_> {
    pub fn best(&self) -> usize {
        *self.appliances.first().expect("a play without an appliance was refused")
    }
}

/// Refused while no appliance holds a picture and, if the play has sound, a sound together.
pub fn choose<'a>(offer: &'a Offer<'_>) -> Result<Pathways<'a>, Refusal> {
    let candidates = 0..offer.ranking.candidates.len();
    let held = |index: usize| -> Vec<&OfferedStream<'_>> {
        offer.streams.iter().filter(|offered| offered.is_whole_on(index)).collect()
    };
    let sound = offer.streams.iter().any(|offered| Class::of(offered.stream) == Class::Audio);
    let playable = |held: &[&OfferedStream<'_>]| {
        let has = |class| held.iter().any(|offered| Class::of(offered.stream) == class);
        has(Class::Video) && (!sound || has(Class::Audio))
    };
    let mut fullest: Option<Vec<&OfferedStream<'_>>> = None;
    for held in candidates.clone().map(held) {
        // Only more of them displaces a better rank; so the first that holds all stays.
        if playable(&held) && fullest.as_ref().is_none_or(|most| held.len() > most.len()) {
            fullest = Some(held);
        }
    }
    let title = || offer.known.title.title.to_string();
    let why = "no appliance holds a picture and its sound together yet".to_owned();
    let listed = fullest.ok_or_else(|| Refusal::NoAppliance { title: title(), why })?;
    let has_all = |index: &usize| listed.iter().all(|offered| offered.is_whole_on(*index));
    let appliances = candidates.filter(has_all).take(RANKED_MAX).collect();
    Ok(Pathways { appliances, streams: listed.into_iter().map(|offered| offered.stream).collect() })
}

pub fn of_class<'a>(streams: &[&'a Stream], class: Class) -> impl Iterator<Item = &'a Stream> {
    streams.iter().copied().filter(move |stream| Class::of(stream) == class)
}
