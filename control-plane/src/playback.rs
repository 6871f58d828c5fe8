//! Playback: a play request to its answer, by way of licence, streams and steering (DESIGN §6). Pure: the request's
//! time comes in as a value, so the same snapshot, request and `now` give the same answer byte for byte.

use std::fmt::Write as _;

use content::control_socket::PublicKey;
use content::id::{CatalogueKey, Extension, Tier};
use content::play::{PassedOver, PlayAnswer, PlayObject, PlayRequest, PlayStream, RankedAppliance};
use content::report::Registration;
use content::title::{ObjectRef, Stream, Title};
use content::token::{Claims, KeyRing, Signer};
use jiff::{SignedDuration, Timestamp};

use crate::refusal::Refusal;
use crate::snapshot::{KnownTitle, Snapshot};
use crate::steering::{self, Candidate, Ranking, Reason};
use crate::streams::{self, Class};
use crate::{dash, hls, licence};

/// Longest list of languages or codecs, and longest text of one, that a request may carry.
pub const LIST_MAX: usize = 32;
pub const TEXT_BYTES_MAX: usize = 64;

/// What an answer needs beside the snapshot: it does not change while the control plane runs.
pub struct Issuer {
    /// `iss` of every token.
    pub name: String,
    pub signer: Signer,
    /// What `signer` signs is among what this verifies.
    pub keys: KeyRing,
    /// Without a trailing slash.
    pub public_url: String,
    /// The least life of a token; a title of more than half of it makes it longer.
    pub token_lifetime: SignedDuration,
}

/// A play that is allowed: what is offered, and by whom.
pub struct Offer<'a> {
    pub known: &'a KnownTitle,
    pub ranking: Ranking<'a>,
    /// Each has at least one appliance for its track and one for its playlist.
    pub streams: Vec<OfferedStream<'a>>,
}

pub struct OfferedStream<'a> {
    pub stream: &'a Stream,
    /// Of the track and of the playlist: indexes into `ranking.candidates`, the best first.
    pub track: Vec<usize>,
    pub playlist: Vec<usize>,
}

impl OfferedStream<'_> {
    /// Whether one appliance serves all of it: a playlist's relative URIs lead to the box that it came from.
    pub fn is_whole_on(&self, candidate: usize) -> bool {
        self.track.contains(&candidate) && self.playlist.contains(&candidate)
    }
}

impl Issuer {
    /// None if a public key is malformed.
    pub fn new(
        name: &str,
        signer: Signer,
        keys: &[PublicKey],
        public_url: &str,
        token_lifetime: SignedDuration,
    ) -> Option<Self> {
        let public_url = public_url.trim_end_matches('/').to_owned();
        Some(Self { name: name.to_owned(), signer, keys: KeyRing::new(keys)?, public_url, token_lifetime })
    }

    fn claims(&self, request: &PlayRequest, title: &Title, now: Timestamp) -> Claims {
        let twice = title.duration_ms.saturating_mul(2).min(LIFETIME_MS_MAX);
        let twice = SignedDuration::from_millis(i64::try_from(twice).unwrap_or(i64::MAX));
        let lifetime = self.token_lifetime.max(twice);
        // Tokens count whole seconds; rounding down would let one end before its time.
        let end = now.as_second().saturating_add(lifetime.as_secs()).saturating_add(1);
        Claims {
            issuer: self.name.clone(),
            session: request.session.clone(),
            title: request.title.clone(),
            tiers: streams::tiers_of(request.plan),
            not_before: Timestamp::from_second(now.as_second()).unwrap_or(now),
            expires: Timestamp::from_second(end).unwrap_or(Timestamp::MAX),
        }
    }
}

/// Thirty days: no film is longer, and no token should be.
const LIFETIME_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// The answer to `POST /v1/plays`.
pub fn play(
    snapshot: &Snapshot,
    issuer: &Issuer,
    request: &PlayRequest,
    now: Timestamp,
) -> Result<PlayAnswer, Refusal> {
    let offer = offer(snapshot, request, now)?;
    let claims = issuer.claims(request, &offer.known.title, now);
    let token = issuer.signer.sign(&claims);
    let title = &offer.known.title;
    Ok(PlayAnswer {
        session: request.session.clone(),
        title: request.title.clone(),
        name: title.name.clone(),
        duration_ms: title.duration_ms,
        hls: manifest_url(issuer, "multivariant.m3u8", request, &token),
        dash: manifest_url(issuer, "manifest.mpd", request, &token),
        expires: claims.expires,
        appliances: offer.appliances(),
        streams: offer.streams.iter().map(|offered| offer.play_stream(offered, &token)).collect(),
        passed_over: if request.explain { offer.passed_over() } else { Vec::new() },
        token,
    })
}

/// The HLS multivariant playlist of a play. With the `token` of its answer, so that a play has one; a new one without.
pub fn multivariant(
    snapshot: &Snapshot,
    issuer: &Issuer,
    request: &PlayRequest,
    token: Option<&str>,
    now: Timestamp,
) -> Result<String, Refusal> {
    let (offer, token) = offer_with(snapshot, issuer, request, token, now)?;
    hls::multivariant(&offer, &token, &request.languages)
}

/// The DASH manifest of a play; its token as in [`multivariant`].
pub fn dash_manifest(
    snapshot: &Snapshot,
    issuer: &Issuer,
    request: &PlayRequest,
    token: Option<&str>,
    now: Timestamp,
) -> Result<String, Refusal> {
    let (offer, token) = offer_with(snapshot, issuer, request, token, now)?;
    dash::manifest(&offer, &token)
}

fn offer_with<'a>(
    snapshot: &'a Snapshot,
    issuer: &Issuer,
    request: &PlayRequest,
    token: Option<&str>,
    now: Timestamp,
) -> Result<(Offer<'a>, String), Refusal> {
    let offer = offer(snapshot, request, now)?;
    let claims = issuer.claims(request, &offer.known.title, now);
    let token = match token {
        Some(token) => own_token(issuer, &claims, token, now)?.to_owned(),
        None => issuer.signer.sign(&claims),
    };
    Ok((offer, token))
}

/// A token that came back from a player is used only if it is ours, of this play, and not over.
fn own_token<'t>(
    issuer: &Issuer,
    wanted: &Claims,
    token: &'t str,
    now: Timestamp,
) -> Result<&'t str, Refusal> {
    let claims = issuer.keys.verify(token).map_err(|error| Refusal::Token(error.to_string()))?;
    let same =
        claims.session == wanted.session && claims.title == wanted.title && claims.tiers == wanted.tiers;
    if !same {
        return Err(Refusal::Token("it is of another session, title or plan".to_owned()));
    }
    if claims.expires <= now {
        return Err(Refusal::Token("it has expired; ask for the play again".to_owned()));
    }
    Ok(token)
}

/// Licence, streams, steering: everything but the words.
pub fn offer<'a>(
    snapshot: &'a Snapshot,
    request: &PlayRequest,
    now: Timestamp,
) -> Result<Offer<'a>, Refusal> {
    check_form(request)?;
    let known = snapshot.titles.get(&request.title);
    let known = known.ok_or_else(|| Refusal::UnknownTitle(request.title.to_string()))?;
    let title = &known.title;
    licence::check(snapshot.terms.terms_of(title), &title.title, &request.territory, now)?;
    let fitting = streams::fitting(title, request.plan, &request.device, &request.languages)?;
    let ranking = steering::rank(snapshot, &request.session, &request.territory, now);
    let offered = |index: usize| {
        let (stream, keys) = known.stream(index)?;
        let holders = |key: CatalogueKey| steering::holders(&ranking.candidates, key);
        let offered = OfferedStream { stream, track: holders(keys.track), playlist: holders(keys.playlist) };
        (!offered.track.is_empty() && !offered.playlist.is_empty()).then_some(offered)
    };
    let streams: Vec<_> = fitting.iter().filter_map(|&index| offered(index)).collect();
    let has = |class| streams.iter().any(|offered: &OfferedStream<'_>| Class::of(offered.stream) == class);
    let wants_sound = fitting.iter().any(|&index| Class::of(&title.streams[index]) == Class::Audio);
    if !has(Class::Video) || (wants_sound && !has(Class::Audio)) {
        return Err(Refusal::NoAppliance { title: title.title.to_string(), why: why_nobody(&ranking) });
    }
    Ok(Offer { known, ranking, streams })
}

/// What no type can say of a request: its texts are short, plain, and of the form that they should have.
fn check_form(request: &PlayRequest) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::Malformed(what.to_owned()));
    let territory = request.territory.as_bytes();
    if territory.len() != 2 || !territory.iter().all(u8::is_ascii_uppercase) {
        return refuse("territory must be two upper-case letters (ISO 3166-1 alpha-2)");
    }
    if request.member.len() > 2 * TEXT_BYTES_MAX || request.member.chars().any(char::is_control) {
        return refuse("member must be at most 128 bytes without control characters");
    }
    let plain = |text: &String| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
    };
    let lists = [("languages", &request.languages), ("device.codecs", &request.device.codecs)];
    for (name, list) in lists {
        if list.len() > LIST_MAX || !list.iter().all(plain) {
            return refuse(&format!("{name} must be at most 32 texts of 1 to 64 of A-Z a-z 0-9 - _ ."));
        }
    }
    Ok(())
}

fn why_nobody(ranking: &Ranking<'_>) -> String {
    if ranking.candidates.is_empty() && ranking.passed_over.is_empty() {
        return "no appliance is registered".to_owned();
    }
    let mut why = String::new();
    for reason in [Reason::Silent, Reason::Clock, Reason::Health, Reason::Draining, Reason::Full] {
        let count = ranking.passed_over.iter().filter(|(_, other)| *other == reason).count();
        if count > 0 {
            // Writing to a string cannot fail.
            write!(why, "{count} {}, ", reason.as_str()).unwrap_or_default();
        }
    }
    write!(why, "{} without the content", ranking.candidates.len()).unwrap_or_default();
    why
}

impl<'a> Offer<'a> {
    fn candidate(&self, index: usize) -> &Candidate<'a> {
        &self.ranking.candidates[index]
    }

    fn is_used(&self, index: usize) -> bool {
        self.streams.iter().any(|offered| offered.track.contains(&index) || offered.playlist.contains(&index))
    }

    /// Those that occur in some URL, the best first.
    fn appliances(&self) -> Vec<RankedAppliance> {
        let used = (0..self.ranking.candidates.len()).filter(|&index| self.is_used(index));
        let ranked = used.map(|index| {
            let registration = &self.candidate(index).appliance.registration;
            RankedAppliance {
                appliance: registration.appliance.clone(),
                cluster: registration.cluster.clone(),
                base_url: registration.base_url.clone(),
            }
        });
        ranked.collect()
    }

    fn play_stream(&self, offered: &OfferedStream<'_>, token: &str) -> PlayStream {
        let stream = offered.stream;
        let object = |of: ObjectRef, holders: &[usize]| PlayObject {
            object: of.object,
            bytes: of.bytes,
            urls: holders.iter().map(|&index| self.url(index, stream.tier, of, token)).collect(),
        };
        PlayStream {
            id: stream.id.clone(),
            tier: stream.tier,
            kind: stream.kind.clone(),
            codecs: stream.codecs.clone(),
            bandwidth_bps: stream.bandwidth_bps,
            average_bandwidth_bps: stream.average_bandwidth_bps,
            track: object(stream.track, &offered.track),
            playlist: object(stream.playlist, &offered.playlist),
            init: stream.init,
            index: stream.index,
        }
    }

    /// DESIGN §3: `/~<token>/<title>/<tier>/<blake3>.<ext>` on one appliance.
    pub fn url(&self, index: usize, tier: Tier, of: ObjectRef, token: &str) -> String {
        let extension: Extension = of.extension;
        format!("{}{tier}/{}.{extension}", self.title_url(index, token), of.object)
    }

    /// What the URLs of all objects of the title on one appliance begin with; ends in a slash.
    pub fn title_url(&self, index: usize, token: &str) -> String {
        format!("{}/~{token}/{}/", self.appliance(index).base_url, self.known.title.title)
    }

    pub fn appliance(&self, index: usize) -> &Registration {
        &self.candidate(index).appliance.registration
    }

    /// Why each other candidate was passed over: for the whole play, or for a stream.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        let whole = self.ranking.passed_over.iter().map(|(appliance, reason)| PassedOver {
            appliance: appliance.registration.appliance.clone(),
            stream: None,
            reason: reason.as_str().to_owned(),
        });
        let mut passed: Vec<_> = whole.collect();
        for index in 0..self.ranking.candidates.len() {
            let reasons: Vec<_> =
                self.streams.iter().map(|offered| self.stream_reason(index, offered)).collect();
            let same = reasons.windows(2).all(|pair| pair[0] == pair[1]);
            let name = &self.candidate(index).appliance.registration.appliance;
            let entry = |stream, reason: Reason| PassedOver {
                appliance: name.clone(),
                stream,
                reason: reason.as_str().to_owned(),
            };
            if same {
                passed.extend(reasons.first().copied().flatten().map(|reason| entry(None, reason)));
            } else {
                let each = self.streams.iter().zip(reasons);
                passed.extend(
                    each.filter_map(|(offered, reason)| {
                        Some(entry(Some(offered.stream.id.clone()), reason?))
                    }),
                );
            }
        }
        passed
    }

    fn stream_reason(&self, index: usize, offered: &OfferedStream<'_>) -> Option<Reason> {
        let candidate = self.candidate(index);
        let place = self.known.title.streams.iter().position(|stream| stream.id == offered.stream.id)?;
        let (_, keys) = self.known.stream(place)?;
        if !candidate.holds(keys.track) || !candidate.holds(keys.playlist) {
            Some(Reason::Content)
        } else if !offered.is_whole_on(index) {
            Some(Reason::Rank)
        } else {
            None
        }
    }
}

/// The same request as query parameters, with the play's token.
fn manifest_url(issuer: &Issuer, name: &str, request: &PlayRequest, token: &str) -> String {
    let mut url = format!("{}/v1/plays/{name}", issuer.public_url);
    let mut separator = '?';
    let mut push = |name: &str, value: &str| {
        url.push(separator);
        separator = '&';
        url.push_str(name);
        url.push('=');
        encode_into(&mut url, value);
    };
    push("title", request.title.as_str());
    push("session", request.session.as_str());
    push("member", &request.member);
    push("plan", request.plan.as_str());
    push("territory", &request.territory);
    push("height_max", &request.device.height_max.to_string());
    push("codecs", &request.device.codecs.join(","));
    if !request.languages.is_empty() {
        push("languages", &request.languages.join(","));
    }
    if let Some(address) = request.address {
        push("address", &address.to_string());
    }
    push("token", token);
    url
}

/// RFC 3986 §2.3: unreserved characters stand for themselves, and so may a comma in a query.
fn encode_into(out: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b',') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
}

#[cfg(test)]
#[path = "playback_tests.rs"]
pub(crate) mod tests;
