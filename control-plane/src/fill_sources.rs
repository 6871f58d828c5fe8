//! Where an agent may pull an object from: a ranked list in its final shape, with one kind of source for now, the origin
//! through the control plane's own proxy (DESIGN §5).
//!
//! The proxy asks for a key of its own per appliance and object, which ends: an appliance never holds a credential that
//! opens more than what it was told to pull. The key is a keyed BLAKE3 hash, so nobody has to remember it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::fill::{FillAnswer, FillObject, FillRequest, FillSource, SourceKind};
use content::id::{ApplianceId, MediaPath, ObjectId};
use jiff::{SignedDuration, Timestamp};

use crate::refusal::Refusal;
use crate::snapshot::{Appliance, Snapshot};

/// A night's fill of a large box is over by then; an agent whose key ended asks again.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// `not_before` is read against the box's own clock, and a box whose clock is behind would wait for nothing: the best
/// source is open from this long ago. Sources that must wait for a better one count from the real time.
pub const CLOCK_BEHIND_MAX: SignedDuration = SignedDuration::from_hours(1);

/// What the origin proxy's keys are made with: never leaves the control plane.
#[derive(Clone)]
pub struct FillSecret([u8; 32]);

impl FillSecret {
    /// From another secret of the control plane, which it does not give away.
    pub fn derived_from(secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key("oca control-plane origin proxy keys v1", secret))
    }

    /// `<appliance>.<end, seconds since 1970>.<base64url>`
    fn key(&self, appliance: &ApplianceId, object: &ObjectId, ends: Timestamp) -> String {
        let ends = ends.as_second();
        format!(
            "{appliance}.{ends}.{}",
            URL_SAFE_NO_PAD.encode(self.mac(appliance.as_str(), object, ends).as_bytes())
        )
    }

    fn mac(&self, appliance: &str, object: &ObjectId, ends: i64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(object.as_bytes()).update(&ends.to_le_bytes()).update(appliance.as_bytes());
        hasher.finalize()
    }

    /// Whether a key opens this object now. The comparison takes the same time wherever two differ.
    pub fn opens(&self, key: &str, object: &ObjectId, now: Timestamp) -> bool {
        let mut parts = key.splitn(3, '.');
        let (Some(appliance), Some(ends), Some(mac)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let Ok(ends) = ends.parse::<i64>() else { return false };
        let Ok(Ok(mac)) = URL_SAFE_NO_PAD.decode(mac).map(<[u8; 32]>::try_from) else { return false };
        // `blake3::Hash` compares in constant time.
        self.mac(appliance, object, ends) == blake3::Hash::from_bytes(mac) && now.as_second() < ends
    }
}

/// The answer to `POST /v1/agent/fill-sources`. `origin` is the public address of the control plane, without a
/// trailing slash.
pub fn fill_sources(
    snapshot: &Snapshot,
    origin: &str,
    secret: &FillSecret,
    request: &FillRequest,
    now: Timestamp,
) -> Result<FillAnswer, Refusal> {
    if request.objects.len() > content::fill::FILL_REQUEST_OBJECTS_MAX {
        let limit = content::fill::FILL_REQUEST_OBJECTS_MAX;
        return Err(Refusal::Malformed(format!("more than {limit} objects in one request")));
    }
    let appliance = snapshot.fleet.get(&request.appliance);
    let appliance = appliance.ok_or_else(|| Refusal::UnknownAppliance(request.appliance.to_string()))?;
    let objects = request.objects.iter().map(|path| {
        let known = exists(snapshot, appliance, path);
        let sources = known.then(|| from_origin(origin, secret, &request.appliance, path, now));
        FillObject { path: path.clone(), sources: sources.into_iter().collect() }
    });
    Ok(FillAnswer { objects: objects.collect() })
}

/// A title has it, or the cluster's manifest still asks for it.
fn exists(snapshot: &Snapshot, appliance: &Appliance, path: &MediaPath) -> bool {
    let key = path.key();
    let title = snapshot.titles.get(&path.title);
    let in_title =
        title.is_some_and(|known| known.keys.iter().any(|keys| keys.track == key || keys.playlist == key));
    let manifest = snapshot.manifest(&appliance.registration.cluster);
    in_title || manifest.is_some_and(|known| known.ordinal(key).is_some())
}

fn from_origin(
    origin: &str,
    secret: &FillSecret,
    appliance: &ApplianceId,
    path: &MediaPath,
    now: Timestamp,
) -> FillSource {
    let ends = now.checked_add(KEY_LIFETIME).unwrap_or(Timestamp::MAX);
    let name = path.object.to_string();
    let folder = format!("{origin}/v1/origin/objects/{}", &name[..2]);
    let bearer = format!("Bearer {}", secret.key(appliance, &path.object, ends));
    FillSource {
        kind: SourceKind::Origin,
        url: format!("{folder}/{name}.{}", path.extension),
        tree_url: Some(format!("{folder}/{name}.obao")),
        headers: BTreeMap::from([("authorization".to_owned(), bearer)]),
        // It is the first of its list.
        not_before: now.checked_sub(CLOCK_BEHIND_MAX).unwrap_or(Timestamp::MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{Box, film, noon, world};

    fn secret() -> FillSecret {
        FillSecret::derived_from(&[7; 32])
    }

    fn request(objects: Vec<MediaPath>) -> FillRequest {
        FillRequest { appliance: "box-a".parse().unwrap(), objects }
    }

    #[test]
    fn every_object_of_a_title_has_the_origin_and_a_stranger_has_none() {
        let snapshot = world(&[film("film")], &[Box::well("box-a")]);
        let mut paths: Vec<_> = film("film").objects().map(|(path, _)| path).collect();
        paths.push(format!("/film/sd/{}.mp4", ObjectId::of(b"stranger")).parse().unwrap());
        let answer = fill_sources(&snapshot, "http://c", &secret(), &request(paths.clone()), noon()).unwrap();
        let asked: Vec<_> = answer.objects.iter().map(|object| object.path.clone()).collect();
        assert_eq!(asked, paths);
        let (stranger, known) = answer.objects.split_last().unwrap();
        assert!(stranger.sources.is_empty());
        for object in known {
            let [source] = &object.sources[..] else { panic!("one source expected") };
            let name = object.path.object.to_string();
            let url = format!("http://c/v1/origin/objects/{}/{name}.{}", &name[..2], object.path.extension);
            assert_eq!((source.kind, &source.url), (SourceKind::Origin, &url));
            let behind = noon() - SignedDuration::from_mins(59);
            assert!(source.not_before < behind, "a box whose clock is behind may pull as well");
            let key = source.headers["authorization"].strip_prefix("Bearer ").unwrap();
            assert!(secret().opens(key, &object.path.object, noon()));
        }
    }

    #[test]
    fn a_key_opens_one_object_until_it_ends() {
        let object = ObjectId::of(b"x");
        let key = secret().key(&"box-a".parse().unwrap(), &object, noon());
        let before = noon() - SignedDuration::from_secs(1);
        assert!(secret().opens(&key, &object, before));
        assert!(!secret().opens(&key, &object, noon()));
        assert!(!secret().opens(&key, &ObjectId::of(b"y"), before));
        assert!(!FillSecret::derived_from(&[8; 32]).opens(&key, &object, before));
        for index in 0..key.len() {
            let mut wrong = key.clone().into_bytes();
            wrong[index] = if wrong[index] == b'1' { b'2' } else { b'1' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(!secret().opens(&wrong, &object, before), "byte {index} changed unnoticed");
        }
    }

    #[test]
    fn an_unregistered_appliance_and_too_many_objects_are_refused() {
        let snapshot = world(&[film("film")], &[]);
        let ask = |request: &FillRequest| {
            fill_sources(&snapshot, "http://c", &secret(), request, noon()).unwrap_err()
        };
        assert!(matches!(ask(&request(Vec::new())), Refusal::UnknownAppliance(_)));
        let path = film("film").objects().next().unwrap().0;
        assert!(matches!(ask(&request(vec![path; 1001])), Refusal::Malformed(_)));
    }
}
