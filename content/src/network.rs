//! Addresses that share their first bits, as an operator writes them: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::net::IpAddr;

use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    /// Leading bits that count; at most those of the family.
    prefix: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("{0:?} is no address; write 192.0.2.0/24, 2001:db8::/32 or one address")]
    Address(String),
    #[error("/{0} is no prefix of it; give 0 to 32 for IPv4, 0 to 128 for IPv6")]
    Prefix(String),
    #[error("{0} has bits behind its prefix; clear them, or lengthen the prefix")]
    Bits(String),
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.prefix
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.prefix
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address(text.clone()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) => {
                let number = digits.parse().ok().filter(|number| *number <= most);
                number.ok_or_else(|| NetworkError::Prefix(digits.to_owned()))?
            }
        };
        let trailing = match address {
            IpAddr::V4(address) => address.to_bits().trailing_zeros(),
            IpAddr::V6(address) => address.to_bits().trailing_zeros(),
        };
        if trailing < most - prefix {
            return Err(NetworkError::Bits(text));
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<Network, NetworkError> {
        Network::try_from(text.to_owned())
    }

    #[test]
    fn a_network_has_the_addresses_that_share_its_prefix() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("127.0.0.0/8", "::ffff:127.0.0.9", "::ffff:128.0.0.9"),
        ] {
            let network = network(text).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_cure() {
        for (text, word) in [
            ("10.0.0/8", "is no address"),
            ("", "is no address"),
            ("10.0.0.0/33", "is no prefix"),
            ("10.0.0.0/", "is no prefix"),
            ("10.0.0.0/-1", "is no prefix"),
            ("::/129", "is no prefix"),
            ("10.0.0.1/8", "has bits behind"),
            ("2001:db8::1/32", "has bits behind"),
        ] {
            assert!(network(text).unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
