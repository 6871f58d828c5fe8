//! Which tokens open what: everything that is not wholly right is 403, with the cause in words.

use content::id::{Extension, Tier};
use content::token::{Claims, Signer};
use fleet_tests::shelf::{Item, Shelf, target_with};
use jiff::{SignedDuration, Timestamp};

fn item() -> Item {
    Item::new(Tier::Hd, Extension::Mp4, 100, 1)
}

#[track_caller]
fn refused(shelf: &Shelf, target: &str, cause: &str) {
    let answer = shelf.wire().unwrap().ask("GET", target, &[]).unwrap();
    assert_eq!(answer.status, 403, "for a token that {cause}");
    assert!(answer.text().contains(cause), "{:?} does not say {cause:?}", answer.text());
}

#[test]
fn a_token_that_is_late_early_or_for_something_else_is_refused() {
    let item = item();
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    let with = |change: fn(&mut Claims, Timestamp, SignedDuration)| {
        let mut claims = shelf.claims();
        change(&mut claims, now, hour);
        target_with(&shelf.signer.sign(&claims), &item)
    };
    refused(&shelf, &with(|claims, now, _| claims.expires = now - SignedDuration::from_secs(2)), "expired");
    refused(&shelf, &with(|claims, now, hour| claims.not_before = now + hour), "not valid yet");
    refused(&shelf, &with(|claims, _, _| claims.tiers = vec![Tier::Base, Tier::Sd]), "something else");
    refused(&shelf, &with(|claims, _, _| claims.title = "day-train".parse().unwrap()), "something else");
    assert_eq!(shelf.wire().unwrap().ask("GET", &with(|_, _, _| {}), &[]).unwrap().status, 200);
}

#[test]
fn a_foreign_or_tampered_token_is_refused() {
    let item = item();
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let claims = shelf.claims();
    let foreign_key = Signer::from_seed("other-key", &[8; 32]).unwrap().sign(&claims);
    refused(&shelf, &target_with(&foreign_key, &item), "key is not known");
    let forged = Signer::from_seed("test-key", &[8; 32]).unwrap().sign(&claims);
    refused(&shelf, &target_with(&forged, &item), "signature");

    let good = shelf.signer.sign(&claims);
    // The signature of one token under the claims of another.
    let more =
        shelf.signer.sign(&Claims { expires: claims.expires + SignedDuration::from_hours(24), ..claims });
    let (signed, _) = more.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    refused(&shelf, &target_with(&format!("{signed}.{signature}"), &item), "signature");
}

#[test]
fn no_single_changed_character_of_a_token_passes() {
    let item = item();
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let good = shelf.signer.sign(&shelf.claims());
    let mut wire = shelf.wire().unwrap();
    let mut tried = 0;
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        let status = wire.ask("GET", &target_with(&changed, &item), &[]).unwrap().status;
        assert_eq!(status, 403, "changing character {index} of {good} passed");
        tried += 1;
    }
    assert!(tried > 100);
}

#[test]
fn a_path_without_a_whole_token_opens_nothing() {
    let item = item();
    let shelf = Shelf::start(std::slice::from_ref(&item), "").unwrap();
    let good = shelf.signer.sign(&shelf.claims());
    let path = &item.path;
    for target in [
        format!("{path}"),
        format!("/~{path}"),
        format!("/~x{path}"),
        format!("/~..{path}"),
        format!("/~{}{path}", &good[..good.len() - 10]),
        format!("/~{good}{good}{path}"),
        format!("/~{}{path}", "A".repeat(2000)),
        format!("/~{good}/../~{good}{path}"),
        format!("/~{good}/%2e%2e{path}"),
    ] {
        let status = shelf.wire().unwrap().ask("GET", &target, &[]).unwrap().status;
        assert!(matches!(status, 400 | 403 | 404 | 414), "{target} got {status}");
    }
}
