//! Tokens: nothing that was not signed passes, and what was signed means one thing.
//!
//! Input: a byte; even, the token as it is follows. Odd: four bytes of time, a header and a payload (lines, JSON or
//! not), which are signed here with the real key, and the path that is asked for.

use appliance::clock::Wall;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use content::token::{Claims, TokenError, split_target};
use regex_lite::Regex;

use crate::site::{KEY_SEED, NOW, claims, keys, signer};

pub fn run(mut data: &[u8]) {
    let [mode] = crate::take(&mut data);
    if mode % 2 == 0 {
        raw(data);
    } else {
        signed(data);
    }
}

fn raw(data: &[u8]) {
    let good = signer().sign(&claims());
    let text = crate::expand(data, &[(b"$T", good.as_bytes())]);
    let Ok(text) = std::str::from_utf8(&text) else { return };
    if let Some((token, path)) = split_target(text) {
        assert_eq!(format!("/~{token}{path}"), text);
        assert!(!token.contains('/') && path.starts_with('/'));
    }
    match keys().verify(text) {
        // Nobody here has signed another one, and the encoding of one is unique.
        Ok(found) => assert_eq!((&found, text), (&claims(), good.as_str())),
        Err(TokenError::NotYetValid | TokenError::Expired | TokenError::OtherContent) => {
            panic!("a check of the form knows no time and no path")
        }
        Err(_) => {}
    }
}

fn signed(mut data: &[u8]) {
    let now = Wall(NOW.0 - (1 << 30) + i64::from(u32::from_le_bytes(crate::take(&mut data))));
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (header, payload, path) = (line(), line(), line());
    let body = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let pair = Ed25519KeyPair::from_seed_unchecked(&KEY_SEED).expect("aws-lc takes any 32 bytes");
    let token = format!("{body}.{}", URL_SAFE_NO_PAD.encode(pair.sign(body.as_bytes()).as_ref()));
    let Ok(found) = keys().verify(&token) else { return };
    // Signed again it says the same, whatever order and spacing the first had.
    let again = signer().sign(&found);
    if again.len() <= content::token::TOKEN_BYTES_MAX {
        assert_eq!(keys().verify(&again).as_ref(), Ok(&found));
    }
    let stated: serde_json::Value = serde_json::from_slice(payload).expect("it was read");
    let container =
        stated["cdniuc"].as_str().and_then(|text| text.strip_prefix("regex:")).expect("it was read");
    let Ok(path) = std::str::from_utf8(path) else { return };
    if path.starts_with('/') {
        opens_what_the_container_matches(&found, container, path, now);
    }
}

/// RFC 9246 §2.1.10: other verifiers run the container as the regular expression that it is.
fn opens_what_the_container_matches(claims: &Claims, container: &str, path: &str, now: Wall) {
    let pattern = Regex::new(container).expect("a container of ours is a regular expression");
    let matches = pattern.is_match(&format!("https://box.example:8080{path}"));
    let at = now.timestamp();
    let expected = if at >= claims.expires {
        Err(TokenError::Expired)
    } else if at.as_second() + 60 < claims.not_before.as_second() {
        Err(TokenError::NotYetValid)
    } else if matches {
        Ok(())
    } else {
        Err(TokenError::OtherContent)
    };
    assert_eq!(claims.opens(path, at), expected, "{container} {path:?}");
}
