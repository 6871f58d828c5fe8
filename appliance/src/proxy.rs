//! The header that a load balancer puts before a connection: PROXY protocol version 2 (haproxy.org, proxy-protocol.txt
//! §2.2, of 2020-03-05). Pure. Asked of trusted peers only, and of them always: who may say it need not, is a way to lie.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Addresses take 36 bytes at most; the rest is for what balancers add of their own.
const HEADER_BYTES_MAX: usize = 4 * 1024;
/// PP2_TYPE_CRC32C.
const TYPE_CRC32C: u8 = 0x03;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of what was received: drop them.
    pub bytes: usize,
    /// Who is behind the balancer. None: the balancer itself (its health check), or one that it cannot name.
    pub source: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PROXY header: {0}")]
pub struct Malformed(&'static str);

/// None: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(Malformed("it does not begin with the signature of version 2"));
    }
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let [.., version, family, high, low] = fixed else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = length.saturating_add(FIXED_BYTES);
    if version >> 4 != 2 {
        return Err(Malformed("its version is not 2"));
    } else if whole > HEADER_BYTES_MAX {
        return Err(Malformed("it is longer than 4 KiB"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (source, extras) = match (version & 15, family) {
        // LOCAL: whatever else stands there is to be skipped, and so are families that name nobody.
        (0, _) | (1, 0x00) => (None, body),
        (1, 0x11) => addresses(body, ipv4)?,
        (1, 0x21) => addresses(body, ipv6)?,
        (1, _) => return Err(Malformed("its family is neither TCP over IPv4 nor over IPv6")),
        _ => return Err(Malformed("its command is neither LOCAL nor PROXY")),
    };
    if version & 15 == 1 {
        check(extras, bytes.get(..whole).unwrap_or_default())?;
    }
    Ok(Some(Header { bytes: whole, source }))
}

/// Source address, destination address, source port, destination port; then what is left.
fn addresses<const N: usize>(
    body: &[u8],
    address: fn([u8; N]) -> IpAddr,
) -> Result<(Option<SocketAddr>, &[u8]), Malformed> {
    const SHORT: Malformed = Malformed("it is too short for its addresses");
    let (source, rest) = body.split_first_chunk::<N>().ok_or(SHORT)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or(SHORT)?;
    let ([high, low, _, _], extras) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let port = u16::from_be_bytes([*high, *low]);
    Ok((Some(SocketAddr::new(address(*source), port)), extras))
}

fn ipv4(bytes: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(bytes).into()
}

fn ipv6(bytes: [u8; 16]) -> IpAddr {
    // An IPv4 address in IPv6's clothes is the same viewer.
    Ipv6Addr::from(bytes).to_canonical()
}

/// The extras are types, lengths and values up to the end; if a checksum is among them, it fits.
fn check(extras: &[u8], header: &[u8]) -> Result<(), Malformed> {
    let mut rest = extras;
    while let Some(([kind, high, low], tail)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, tail) = tail.split_at_checked(length).ok_or(Malformed("an extra is cut off"))?;
        if *kind == TYPE_CRC32C {
            let value =
                <[u8; 4]>::try_from(value).map_err(|_| Malformed("its checksum is not of 4 bytes"))?;
            let at = header.len().saturating_sub(tail.len()).saturating_sub(value.len());
            if u32::from_be_bytes(value) != checksum(header, at) {
                return Err(Malformed("its checksum is wrong"));
            }
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed("an extra is cut off")) }
}

/// CRC-32C of the header with zeros where the checksum stands.
fn checksum(header: &[u8], at: usize) -> u32 {
    let (before, rest) = header.split_at_checked(at).unwrap_or((header, &[]));
    let behind = rest.get(4..).unwrap_or_default();
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    [before, &[0; 4], behind].into_iter().for_each(|part| digest.update(part));
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap();
        [&SIGNATURE[..], &[version, family], &length.to_be_bytes(), body].concat()
    }

    fn over_ipv4(extras: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&[192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 0, 80][..], extras].concat())
    }

    #[test]
    fn the_source_is_read_and_every_beginning_of_a_header_wants_more() {
        let ipv6: [u8; 16] = "2001:db8::9".parse::<Ipv6Addr>().unwrap().octets();
        let mapped: [u8; 16] = "::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets();
        let over_ipv6 = |source: [u8; 16]| header(0x21, 0x21, &[&source[..], &ipv6, &[0, 5, 0, 80]].concat());
        let said = |text: &str| Some(text.parse().unwrap());
        for (bytes, source) in [
            (over_ipv4(&[]), said("192.0.2.7:8080")),
            (over_ipv4(&[4, 0, 2, 9, 9]), said("192.0.2.7:8080")),
            (over_ipv6(ipv6), said("[2001:db8::9]:5")),
            (over_ipv6(mapped), said("192.0.2.7:5")),
            (header(0x20, 0, &[]), None),
            (header(0x20, 0x11, &[1, 2, 3]), None),
            (header(0x21, 0, &[]), None),
        ] {
            let whole = [&bytes[..], b"GET /"].concat();
            assert_eq!(parse(&whole), Ok(Some(Header { bytes: bytes.len(), source })));
            (0..bytes.len()).for_each(|count| assert_eq!(parse(&bytes[..count]), Ok(None), "{count}"));
        }
    }

    #[test]
    fn a_checksum_is_compared_if_there_is_one() {
        let mut bytes = over_ipv4(&[TYPE_CRC32C, 0, 4, 0, 0, 0, 0, 4, 0, 1, 1]);
        let at = FIXED_BYTES + 12 + 3;
        let sum = checksum(&bytes, at);
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(parse(&bytes).is_ok());
        for place in FIXED_BYTES..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[place] ^= 1;
            assert!(parse(&wrong).is_err() || (place == at - 3), "{place}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 80\r\n".to_vec(),
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x11, &[0; 5_000]),
            over_ipv4(&[4, 0]),
            over_ipv4(&[4, 0, 2, 9]),
            over_ipv4(&[TYPE_CRC32C, 0, 3, 9, 9, 9]),
        ] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_that_are_not_there(body in proptest::collection::vec(any::<u8>(), 0..80), family: u8) {
            let bytes = header(0x21, family, &body);
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert_eq!(header.bytes, bytes.len());
            }
        }
    }
}
