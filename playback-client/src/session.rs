//! One play's dealings with the world: it asks the control plane, and fetches parts of objects from whichever
//! appliance will give them. What is fetched when is not its business ([`crate::play`]).
//!
//! A fetch, whose decisions are in [`crate::hosts`] and whose endings are in [`crate::decline`]:
//! ```text
//! choose an appliance --> ask for what is still missing --> all there --> done
//!    ^   ^                  |                 |
//!    |   \-- token expired: ask for the play again, same session
//!    \------ declined: write it down, pass it over; a range goes on where it stopped, a whole object begins anew
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use content::id::{ByteSpan, ObjectId, StreamId};
use content::play::{PlayAnswer, PlayRequest, Problem};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use sha2::{Digest, Sha256};

use crate::address::Address;
use crate::clock::Clock;
use crate::decline::Decline;
use crate::error::PlayError;
use crate::hosts::Hosts;
use crate::ledger::{DeclineRecord, Fragment, Ledger, Track};
use crate::network::{Answer, Fault, Network};
use crate::offer::{Offer, OfferedObject, Part, Place};
use crate::playlist::PLAYLIST_BYTES_MAX;

/// The largest play answer that is read.
const PLAY_ANSWER_BYTES_MAX: u64 = 8 << 20;
/// The largest object that is fetched whole and kept to be checked.
const WHOLE_BYTES_MAX: u64 = 32 << 20;
/// As much of a refusal's text is read, bytes.
const REFUSAL_BYTES_MAX: u64 = 4_096;
/// A control plane that did not answer a renewal is left alone so long.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// How patient a fetch is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// One request may take this long, or three times the fragment's length if that is more.
    pub attempt_min: Duration,
    /// A fetch that gets no byte from anybody for this long fails, and the play with it.
    pub give_up: Duration,
}

pub struct Session {
    pub clock: Clock,
    network: Network,
    control: Address,
    request: PlayRequest,
    patience: Patience,
    offer: tokio::sync::Mutex<Renewable>,
    hosts: Mutex<Hosts>,
    ledger: Mutex<Ledger>,
}

struct Renewable {
    offer: Arc<Offer>,
    /// No renewal is tried before this instant.
    not_before: Duration,
}

/// What to fetch: a span of one of a stream's objects, or all of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub track: Track,
    pub stream: StreamId,
    pub part: Part,
    /// None: the whole object, whose bytes are kept and whose digest is checked.
    pub span: Option<ByteSpan>,
    /// How much of the title it is; nothing for playlists and the like.
    pub length: Duration,
}

#[derive(Clone, Debug)]
pub struct Fetched {
    /// Empty unless it was a whole object.
    pub bytes: Vec<u8>,
    /// How much the last request brought, and in what time: a sample of the throughput.
    pub sample: (u64, Duration),
}

/// Why one request did not give all that it was asked for.
enum Setback {
    /// The token has ended: the appliance is well.
    Expired(String),
    Declined(Decline),
}

impl From<Decline> for Setback {
    fn from(decline: Decline) -> Self {
        Self::Declined(decline)
    }
}

impl Session {
    /// Asks for the play.
    pub async fn open(
        clock: Clock,
        network: Network,
        control: Address,
        request: PlayRequest,
        patience: Patience,
    ) -> Result<Self, PlayError> {
        let offer = Arc::new(ask_play(&network, &control, &request, 1, &clock).await?);
        let offer = tokio::sync::Mutex::new(Renewable { offer, not_before: Duration::ZERO });
        let (hosts, ledger) = (Mutex::default(), Mutex::default());
        Ok(Self { clock, network, control, request, patience, offer, hosts, ledger })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offer in force; renewed first if its token is about to end.
    pub async fn offer(&self) -> Arc<Offer> {
        let mut renewable = self.offer.lock().await;
        if renewable.offer.is_near_expiry(self.clock.wall()) && self.clock.now() >= renewable.not_before {
            self.renew(&mut renewable).await;
        }
        Arc::clone(&renewable.offer)
    }

    /// Renews the offer unless somebody has since `seen`; says whether there is a newer one.
    async fn renew_after(&self, seen: u64) -> bool {
        let mut renewable = self.offer.lock().await;
        if renewable.offer.generation == seen && self.clock.now() >= renewable.not_before {
            self.renew(&mut renewable).await;
        }
        renewable.offer.generation > seen
    }

    /// On failure the old offer stays: appliances serve every token that is still valid without a control plane.
    async fn renew(&self, renewable: &mut Renewable) {
        let generation = renewable.offer.generation + 1;
        match ask_play(&self.network, &self.control, &self.request, generation, &self.clock).await {
            Ok(offer) => {
                renewable.offer = Arc::new(offer.keeping_streams_of(&renewable.offer));
                self.ledger().renewals += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "the token could not be renewed");
                renewable.not_before = self.clock.now() + RENEWAL_PAUSE;
            }
        }
    }

    /// The multivariant playlist's text.
    pub async fn multivariant(&self) -> Result<(Address, Vec<u8>), PlayError> {
        let address = self.offer().await.multivariant.clone();
        let unreachable = |fault| PlayError::ControlUnreachable { address: address.clone(), fault };
        let mut answer = self.network.get(&address, None).await.map_err(unreachable)?;
        if answer.status != StatusCode::OK {
            return Err(refused(&address, answer).await);
        }
        let what = || format!("a multivariant playlist of more than {PLAYLIST_BYTES_MAX} bytes");
        match answer.whole(PLAYLIST_BYTES_MAX).await.map_err(unreachable)? {
            Some(text) => Ok((address, text)),
            None => Err(PlayError::ControlAnswer { what: what(), address }),
        }
    }

    /// Fetches from whoever gives it, and writes down what happened. Fails when nobody did for as long as
    /// [`Patience::give_up`].
    ///
    /// `meter` is kept at the number of bytes that are there. What a fetch that is dropped had received is wasted.
    pub async fn fetch(&self, wanted: &Wanted, meter: &AtomicU64) -> Result<Fetched, PlayError> {
        let mut hunt = Hunt { progress_at: self.clock.now(), declines: 0, last: None, renewed: false };
        let first_offer = self.offer().await;
        let object = object_of(&first_offer, wanted)?;
        let mut delivery = Delivery::new(object, wanted.span, Unfinished { ledger: &self.ledger, meter });
        loop {
            let offer = self.offer().await;
            let object = object_of(&offer, wanted)?;
            if object.object != delivery.object {
                return Err(PlayError::Republished(wanted.stream.clone()));
            }
            let Some(place) = self.next_place(object, &hunt, wanted).await? else { continue };
            let (begin, before) = (self.clock.now(), delivery.received);
            let limit = self.patience.attempt_min.max(wanted.length * 3);
            let attempt = self.attempt(place, object, &mut delivery);
            let setback = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(())) => {
                    let sample = (delivery.received - before, self.clock.now() - begin);
                    return Ok(self.finish(wanted, place, delivery, sample));
                }
                Ok(Err(setback)) => setback,
                Err(_) => Setback::Declined(Decline::TooSlow { limit }),
            };
            if delivery.received > before && wanted.span.is_some() {
                hunt.progress_at = self.clock.now();
            }
            self.set_back(setback, &offer, place, wanted, &mut hunt, &mut delivery).await;
        }
    }

    /// The appliance to ask now. None: it is not yet time to ask anybody, look again.
    async fn next_place<'a>(
        &self,
        object: &'a OfferedObject,
        hunt: &Hunt,
        wanted: &Wanted,
    ) -> Result<Option<&'a Place>, PlayError> {
        let now = self.clock.now();
        let waited = now.saturating_sub(hunt.progress_at);
        if let Some(last) = hunt.last.as_ref().filter(|_| waited >= self.patience.give_up) {
            return Err(PlayError::GaveUp {
                stream: wanted.stream.clone(),
                object: object.object,
                seconds: waited.as_secs(),
                declines: hunt.declines,
                last: last.clone(),
            });
        }
        let ranked: Vec<_> = object.places.iter().map(|place| &place.appliance).collect();
        let choice = self.hosts().choose(&ranked, now);
        // `object_of` has seen that there is at least one.
        let Some(choice) = choice else { return Ok(None) };
        if choice.not_before > now {
            self.clock.sleep_until(choice.not_before).await;
            return Ok(None);
        }
        Ok(Some(&object.places[choice.index]))
    }

    /// One request for what is still missing.
    async fn attempt(
        &self,
        place: &Place,
        object: &OfferedObject,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), Setback> {
        self.ledger().asked(&place.appliance);
        let missing = delivery.missing();
        let wanted = delivery.count - delivery.received;
        let answer = self.network.get(&place.address, missing).await;
        let mut answer = answer.map_err(|fault| decline_of(fault, 0, wanted))?;
        check_head(&mut answer, missing, object).await?;
        let mut got = 0_u64;
        while let Some(piece) = answer.piece().await.map_err(|fault| decline_of(fault, got, wanted))? {
            let bytes = u64::try_from(piece.len()).map_or(u64::MAX, |bytes| bytes);
            self.ledger().received(&place.appliance, bytes);
            got = got.saturating_add(bytes);
            if got > wanted {
                self.ledger().wasted_bytes += got - wanted;
                return Err(Decline::LongBody { wanted }.into());
            }
            delivery.take(&piece);
        }
        match got < wanted {
            true => Err(Decline::ShortBody { got, wanted }.into()),
            false if !delivery.is_what_its_name_says() => Err(Decline::WrongDigest.into()),
            false => Ok(()),
        }
    }

    async fn set_back(
        &self,
        setback: Setback,
        offer: &Offer,
        place: &Place,
        wanted: &Wanted,
        hunt: &mut Hunt,
        delivery: &mut Delivery<'_>,
    ) {
        let decline = match setback {
            // Once a fetch: an appliance that finds a fresh token expired has a wrong clock.
            Setback::Expired(_) if !hunt.renewed && self.renew_after(offer.generation).await => {
                hunt.renewed = true;
                return;
            }
            Setback::Expired(words) => Decline::Forbidden(words),
            Setback::Declined(decline) => decline,
        };
        let (at, appliance, object) = (self.clock.now(), place.appliance.clone(), delivery.object);
        tracing::info!(%appliance, track = ?wanted.track, "declined: {decline}");
        self.hosts().decline(&appliance, at);
        self.ledger().wasted_bytes += delivery.give_back();
        hunt.declines += 1;
        hunt.last = Some(decline.clone());
        self.ledger().declined(DeclineRecord { at, track: wanted.track, appliance, object, decline });
    }

    fn finish(
        &self,
        wanted: &Wanted,
        place: &Place,
        delivery: Delivery<'_>,
        sample: (u64, Duration),
    ) -> Fetched {
        let now = self.clock.now();
        // What is passed over may still finish what it had begun; that is no sign of a return.
        let passed_over = self.hosts().is_banned(&place.appliance, now);
        // Before the ledger is locked: a delivery that ends locks it too.
        let (fragment, bytes) = delivery.into_fragment(place);
        let mut ledger = self.ledger();
        if !passed_over {
            ledger.served(wanted.track, &place.appliance, now);
        }
        ledger.fragments.push(fragment);
        Fetched { bytes, sample }
    }
}

/// How the search for one fragment stands.
struct Hunt {
    /// When a byte last arrived, or the fetch began.
    progress_at: Duration,
    declines: u64,
    last: Option<Decline>,
    renewed: bool,
}

/// What has arrived of one fragment, from however many appliances.
struct Delivery<'a> {
    object: ObjectId,
    extension: content::id::Extension,
    span: Option<ByteSpan>,
    /// Bytes of the fragment; `received <= count`.
    count: u64,
    received: u64,
    digest: Sha256,
    /// Of a whole object.
    kept: Vec<u8>,
    unfinished: Unfinished<'a>,
}

/// Writes down what is lost if a delivery is dropped before its end.
struct Unfinished<'a> {
    ledger: &'a Mutex<Ledger>,
    /// What has arrived and is not yet a fragment.
    meter: &'a AtomicU64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let lost = self.meter.swap(0, Ordering::Relaxed);
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).wasted_bytes += lost;
    }
}

impl<'a> Delivery<'a> {
    fn new(object: &OfferedObject, span: Option<ByteSpan>, unfinished: Unfinished<'a>) -> Self {
        let count = span.map_or(object.bytes, ByteSpan::count);
        let (object, extension) = (object.object, object.extension);
        Self {
            object,
            extension,
            span,
            count,
            received: 0,
            digest: Sha256::new(),
            kept: Vec::new(),
            unfinished,
        }
    }

    fn missing(&self) -> Option<ByteSpan> {
        self.span.and_then(|span| ByteSpan::new(span.first() + self.received, span.last()))
    }

    /// The caller has seen that it fits.
    fn take(&mut self, piece: &[u8]) {
        self.received += u64::try_from(piece.len()).map_or(0, |bytes| bytes);
        self.unfinished.meter.store(self.received, Ordering::Relaxed);
        self.digest.update(piece);
        if self.span.is_none() {
            self.kept.extend_from_slice(piece);
        }
    }

    fn is_what_its_name_says(&self) -> bool {
        self.span.is_some() || ObjectId::of(&self.kept) == self.object
    }

    /// After a setback: a range keeps what it has; a whole object begins anew, for nobody can say which part of it
    /// is wrong. Gives the bytes that are lost.
    fn give_back(&mut self) -> u64 {
        if self.span.is_some() {
            return 0;
        }
        self.kept.clear();
        self.digest = Sha256::new();
        self.unfinished.meter.store(0, Ordering::Relaxed);
        std::mem::take(&mut self.received)
    }

    fn into_fragment(self, place: &Place) -> (Fragment, Vec<u8>) {
        self.unfinished.meter.store(0, Ordering::Relaxed);
        let first = self.span.map_or(0, ByteSpan::first);
        let fragment = Fragment {
            object: self.object,
            extension: self.extension,
            first,
            last: first + self.count.saturating_sub(1),
            sha256: hex(&self.digest.finalize()),
            appliance: place.appliance.clone(),
        };
        (fragment, self.kept)
    }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn object_of<'a>(offer: &'a Offer, wanted: &Wanted) -> Result<&'a OfferedObject, PlayError> {
    let stream = offer.stream(&wanted.stream).ok_or_else(|| PlayError::Republished(wanted.stream.clone()))?;
    let object = stream.part(wanted.part);
    let what = format!("stream {}", wanted.stream);
    if object.places.is_empty() {
        return Err(PlayError::NoAppliance { what, reasons: offer.reasons(&wanted.stream) });
    }
    let reasons = match wanted.span {
        None if object.bytes == 0 || object.bytes > WHOLE_BYTES_MAX => {
            format!("its {:?} of {} bytes cannot be fetched whole", wanted.part, object.bytes)
        }
        Some(span) if span.last() >= object.bytes => format!("bytes {span} of {}", object.bytes),
        None | Some(_) => return Ok(object),
    };
    Err(PlayError::NoAppliance { what, reasons })
}

fn decline_of(fault: Fault, got: u64, wanted: u64) -> Decline {
    match fault {
        Fault::Connect(reason) => Decline::Unreachable(reason),
        Fault::NoAnswer(reason) => Decline::Reset(reason),
        Fault::BodyEnded(_) => Decline::ShortBody { got, wanted },
        Fault::TimedOut { waiting_for, limit } => Decline::TimedOut { waiting_for, limit },
    }
}

/// RFC 9110 §15.3.7: a 206 to a request for one range carries that range in its Content-Range. A server may also
/// ignore Range and answer 200 (§14.2); for us that is a decline, since it would send the whole track.
async fn check_head(
    answer: &mut Answer,
    span: Option<ByteSpan>,
    object: &OfferedObject,
) -> Result<(), Setback> {
    let expected = if span.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    if answer.status != expected {
        return Err(setback_of_status(answer).await);
    }
    if let Some(tag) = answer.header(ETAG).map(|tag| tag.trim_matches('"'))
        && tag.parse::<ObjectId>().is_ok_and(|named| named != object.object)
    {
        return Err(Decline::WrongObject(tag.to_owned()).into());
    }
    let Some(wanted) = span else {
        let length = answer.header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        return match length.filter(|&length| length != object.bytes) {
            Some(got) if got < object.bytes => Err(Decline::ShortBody { got, wanted: object.bytes }.into()),
            Some(_) => Err(Decline::LongBody { wanted: object.bytes }.into()),
            None => Ok(()),
        };
    };
    let got = answer.header(CONTENT_RANGE).unwrap_or_default();
    if got != format!("bytes {wanted}/{}", object.bytes) {
        let got = got.chars().take(80).collect();
        return Err(Decline::WrongRange { wanted, got }.into());
    }
    Ok(())
}

async fn setback_of_status(answer: &mut Answer) -> Setback {
    let status = answer.status.as_u16();
    if status != StatusCode::FORBIDDEN.as_u16() {
        return Decline::of_status(status, "").into();
    }
    let words = answer.whole(REFUSAL_BYTES_MAX).await.ok().flatten().unwrap_or_default();
    let words: String = String::from_utf8_lossy(&words).trim().chars().take(200).collect();
    if words.contains("expired") {
        Setback::Expired(words)
    } else {
        Decline::of_status(status, &words).into()
    }
}

async fn ask_play(
    network: &Network,
    control: &Address,
    request: &PlayRequest,
    generation: u64,
    clock: &Clock,
) -> Result<Offer, PlayError> {
    let address = control.with_target(&format!("{}/v1/plays", control.target.trim_end_matches('/')));
    let unreachable = |fault| PlayError::ControlUnreachable { address: address.clone(), fault };
    let answered = |what: String| PlayError::ControlAnswer { address: address.clone(), what };
    let body = serde_json::to_vec(request).map_err(|error| answered(error.to_string()))?;
    let mut answer = network.post_json(&address, body).await.map_err(unreachable)?;
    if !answer.status.is_success() {
        return Err(refused(&address, answer).await);
    }
    let body = answer.whole(PLAY_ANSWER_BYTES_MAX).await.map_err(unreachable)?;
    let body = body.ok_or_else(|| answered(format!("more than {PLAY_ANSWER_BYTES_MAX} bytes")))?;
    let play: PlayAnswer = serde_json::from_slice(&body).map_err(|error| answered(error.to_string()))?;
    if play.title != request.title || play.session != request.session {
        return Err(answered(format!("title {} in session {}", play.title, play.session)));
    }
    Offer::check(play, generation, clock.wall()).map_err(answered)
}

/// RFC 9457, or whatever stands there instead.
async fn refused(address: &Address, mut answer: Answer) -> PlayError {
    let status = answer.status.as_u16();
    let body = answer.whole(PLAY_ANSWER_BYTES_MAX).await.ok().flatten().unwrap_or_default();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => PlayError::Refused { status, title: problem.title, detail: problem.detail },
        Err(_) => PlayError::ControlAnswer { address: address.clone(), what: format!("status {status}") },
    }
}
