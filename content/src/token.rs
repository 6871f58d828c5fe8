//! Play tokens: what a viewer may fetch, and until when. Signed by the control plane, verified on the appliance with
//! a public key only: a stolen box can mint nothing (DESIGN §6).
//!
//! A token is a compact JWS (RFC 7515) over Ed25519 (RFC 8037) with the claims of URI Signing for CDNI (RFC 9246):
//! `iss`, `nbf`, `exp`, `jti` (the play's session), `cdniv` = 1 and `cdniuc`. The URI container is always of
//! one form, which other verifiers of RFC 9246 can run as the regular expression it is and ours reads without one:
//!
//! ```text
//! regex:^https?://[^/]+/<title>/(base|sd|hd)/[^/]+$
//! ```
//!
//! It is matched against the URI without the token's path segment. A token with a claim that this
//! library does not know is refused: an unknown claim may be a restriction (RFC 9246 §2.1).

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control_socket::PublicKey;
use crate::id::{SessionId, Tier, TitleId};

/// A longer token is refused before it is looked at.
pub const TOKEN_BYTES_MAX: usize = 1024;
/// Clocks of control plane and appliance may differ by this much at `nbf`.
pub const CLOCK_LEEWAY_S: i64 = 60;

const CONTAINER_PREFIX: &str = "regex:^https?://[^/]+/";
const CONTAINER_SUFFIX: &str = "/[^/]+$";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub issuer: String,
    pub session: SessionId,
    pub title: TitleId,
    /// What it opens, each tier once, in order.
    pub tiers: Vec<Tier>,
    pub not_before: Timestamp,
    /// Exclusive. Whole seconds count.
    pub expires: Timestamp,
}

/// Why a token does not open what was asked for. Each is 403 to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed with a key that is not known here")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    BadSignature,
    #[error("the token carries a claim that is not known here")]
    UnknownClaim,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token has expired")]
    Expired,
    #[error("the token is for something else")]
    OtherContent,
}

/// What a token opens, and when: all that is asked of it again and again. Small, for every connection has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    title: TitleId,
    /// By [`Tier::ALL`].
    tiers: [bool; Tier::ALL.len()],
    not_before: Timestamp,
    /// Exclusive. Whole seconds count.
    pub expires: Timestamp,
}

impl Opening {
    /// Whether the path behind the token (`/<title>/<tier>/<file>`, no query) is opened at `now`. Allocates nothing.
    pub fn opens(&self, path: &str, now: Timestamp) -> Result<(), TokenError> {
        if now >= self.expires {
            return Err(TokenError::Expired);
        }
        if now.as_second().saturating_add(CLOCK_LEEWAY_S) < self.not_before.as_second() {
            return Err(TokenError::NotYetValid);
        }
        self.covers(path).ok_or(TokenError::OtherContent)
    }

    fn covers(&self, path: &str) -> Option<()> {
        let rest = path.strip_prefix('/')?.strip_prefix(self.title.as_str())?.strip_prefix('/')?;
        let (tier, file) = rest.split_once('/')?;
        let mut tiers = Tier::ALL.iter().zip(self.tiers);
        let open = tiers.any(|(named, open)| open && named.as_str() == tier);
        (open && !file.is_empty() && !file.contains('/')).then_some(())
    }
}

impl Claims {
    pub fn opening(&self) -> Opening {
        Opening {
            title: self.title.clone(),
            tiers: Tier::ALL.map(|tier| self.tiers.contains(&tier)),
            not_before: self.not_before,
            expires: self.expires,
        }
    }

    pub fn opens(&self, path: &str, now: Timestamp) -> Result<(), TokenError> {
        self.opening().opens(path, now)
    }

    fn container(&self) -> String {
        let tiers: Vec<_> = self.tiers.iter().map(|tier| tier.as_str()).collect();
        format!("{CONTAINER_PREFIX}{}/({}){CONTAINER_SUFFIX}", self.title, tiers.join("|"))
    }
}

/// The path of a URL's target without its token: `(token, path behind it)` of `/~<token>/<title>/…`.
pub fn split_target(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/~")?;
    let end = rest.find('/')?;
    rest.split_at_checked(end)
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    // RFC 7515 §4.1.11: extensions that must be understood; we know none, so its presence refuses the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    iss: String,
    jti: SessionId,
    nbf: i64,
    exp: i64,
    cdniv: u32,
    cdniuc: String,
}

/// The control plane's half of a key.
pub struct Signer {
    key_id: String,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// None if aws-lc does not take the seed; it takes any 32 bytes.
    pub fn from_seed(key_id: &str, seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        Some(Self { key_id: key_id.to_owned(), pair })
    }

    pub fn public_key(&self) -> PublicKey {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        PublicKey { key_id: self.key_id.clone(), x }
    }

    /// Ed25519 is deterministic: equal claims give equal tokens.
    pub fn sign(&self, claims: &Claims) -> String {
        let header = Header {
            alg: "EdDSA".to_owned(),
            kid: self.key_id.clone(),
            typ: Some("JWT".to_owned()),
            crit: None,
        };
        let payload = Payload {
            iss: claims.issuer.clone(),
            jti: claims.session.clone(),
            nbf: claims.not_before.as_second(),
            exp: claims.expires.as_second(),
            cdniv: 1,
            cdniuc: claims.container(),
        };
        let signed = format!("{}.{}", encode_json(&header), encode_json(&payload));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn encode_json(value: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("header and payload have only string keys"))
}

/// The public keys that an appliance checks with: the one in use, and others around a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing(Vec<(String, [u8; 32])>);

impl KeyRing {
    /// None if a key is not 32 bytes of base64url.
    pub fn new(keys: &[PublicKey]) -> Option<Self> {
        let decode = |key: &PublicKey| {
            let bytes = URL_SAFE_NO_PAD.decode(&key.x).ok()?;
            Some((key.key_id.clone(), bytes.try_into().ok()?))
        };
        keys.iter().map(decode).collect::<Option<_>>().map(Self)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks form and signature; whether it opens a path at some time is [`Claims::opens`]. About 50 µs: remember
    /// the answer for the connection.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = decode_json(header).map_err(|_| TokenError::Malformed)?;
        if header.alg != "EdDSA" || header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.0.iter().find(|(key_id, _)| *key_id == header.kid).ok_or(TokenError::UnknownKey)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        let checked = UnparsedPublicKey::new(&ED25519, key.1).verify(signed.as_bytes(), &signature);
        checked.map_err(|_| TokenError::BadSignature)?;
        // Only what was signed by us gets here: what does not parse has claims of a newer control plane.
        let payload: Payload = decode_json(payload).map_err(|_| TokenError::UnknownClaim)?;
        payload.into_claims().ok_or(TokenError::UnknownClaim)
    }
}

fn decode_json<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

impl Payload {
    fn into_claims(self) -> Option<Claims> {
        let container = self.cdniuc.strip_prefix(CONTAINER_PREFIX)?.strip_suffix(CONTAINER_SUFFIX)?;
        let (title, tiers) = container.split_once('/')?;
        let tiers = tiers.strip_prefix('(')?.strip_suffix(')')?.split('|');
        let claims = Claims {
            issuer: self.iss,
            session: self.jti,
            title: title.parse().ok()?,
            tiers: tiers.map(|tier| tier.parse().ok()).collect::<Option<_>>()?,
            not_before: Timestamp::from_second(self.nbf).ok()?,
            expires: Timestamp::from_second(self.exp).ok()?,
        };
        (self.cdniv == 1).then_some(claims)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn signer() -> Signer {
        Signer::from_seed("k1", &[7; 32]).unwrap()
    }

    fn ring() -> KeyRing {
        KeyRing::new(&[signer().public_key()]).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            issuer: "control".to_owned(),
            session: "s-1".parse().unwrap(),
            title: "night-train".parse().unwrap(),
            tiers: vec![Tier::Base, Tier::Sd],
            not_before: noon(),
            expires: noon() + 1.hour(),
        }
    }

    #[test]
    fn a_token_opens_its_title_and_tiers_and_nothing_else() {
        let read = ring().verify(&signer().sign(&claims())).unwrap();
        assert_eq!(read, claims());
        for open in ["/night-train/sd/x.mp4", "/night-train/base/y.m3u8"] {
            assert_eq!(read.opens(open, noon()), Ok(()), "{open}");
        }
        for shut in [
            "/night-train/hd/x.mp4",
            "/night-trains/sd/x.mp4",
            "/night-train/sd/",
            "/night-train/sd/a/b",
            "/night-train/sd",
            "night-train/sd/x",
            "/other/night-train/sd/x",
            "",
        ] {
            assert_eq!(read.opens(shut, noon()), Err(TokenError::OtherContent), "{shut}");
        }
    }

    #[test]
    fn a_token_opens_only_in_its_time() {
        let read = ring().verify(&signer().sign(&claims())).unwrap();
        let path = "/night-train/sd/x.mp4";
        assert_eq!(read.opens(path, noon() - 60.seconds()), Ok(()));
        assert_eq!(read.opens(path, noon() - 61.seconds()), Err(TokenError::NotYetValid));
        assert_eq!(read.opens(path, noon() + 1.hour() - 1.second()), Ok(()));
        assert_eq!(read.opens(path, noon() + 1.hour()), Err(TokenError::Expired));
    }

    #[test]
    fn a_tampered_or_foreign_token_is_refused() {
        let token = signer().sign(&claims());
        for index in 0..token.len() {
            let mut wrong = token.clone().into_bytes();
            if let Some(byte) = wrong.get_mut(index) {
                *byte = if *byte == b'A' { b'B' } else { b'A' };
            }
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(ring().verify(&wrong).is_err(), "byte {index} changed unnoticed");
        }
        let foreign = Signer::from_seed("k1", &[8; 32]).unwrap().sign(&claims());
        assert_eq!(ring().verify(&foreign), Err(TokenError::BadSignature));
        let unknown = Signer::from_seed("k2", &[7; 32]).unwrap().sign(&claims());
        assert_eq!(ring().verify(&unknown), Err(TokenError::UnknownKey));
        for bad in ["", ".", "..", "a.b.c", &"A".repeat(5000)] {
            assert_eq!(ring().verify(bad), Err(TokenError::Malformed));
        }
    }

    #[test]
    fn an_unsigned_token_and_an_unknown_claim_are_refused() {
        let sign_raw = |header: &str, payload: &str| {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let signature = signer().pair.sign(signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        };
        let payload = r#"{"iss":"c","jti":"s","nbf":0,"exp":9,"cdniv":1,"cdniuc":"regex:^https?://[^/]+/t/(sd)/[^/]+$"}"#;
        let header = r#"{"alg":"EdDSA","kid":"k1"}"#;
        assert!(ring().verify(&sign_raw(header, payload)).is_ok());
        let none = r#"{"alg":"none","kid":"k1"}"#;
        assert_eq!(ring().verify(&sign_raw(none, payload)), Err(TokenError::Malformed));
        let critical = r#"{"alg":"EdDSA","kid":"k1","crit":["b64"]}"#;
        assert_eq!(ring().verify(&sign_raw(critical, payload)), Err(TokenError::Malformed));
        for unknown in [
            payload.replace("\"iss\"", "\"cdniip\":\"x\",\"iss\""),
            payload.replace("\"cdniv\":1", "\"cdniv\":2"),
            payload.replace("(sd)", "(sd|8k)"),
            payload.replace("/t/", "/.*/"),
        ] {
            assert_eq!(
                ring().verify(&sign_raw(header, &unknown)),
                Err(TokenError::UnknownClaim),
                "{unknown}"
            );
        }
    }

    #[test]
    fn a_target_splits_into_token_and_path() {
        assert_eq!(split_target("/~abc/t/sd/x.mp4"), Some(("abc", "/t/sd/x.mp4")));
        assert_eq!(split_target("/~abc"), None);
        assert_eq!(split_target("/t/sd/x"), None);
    }
}
