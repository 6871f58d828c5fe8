//! Where things are: an `http://` address, and the address of a media object on an appliance (DESIGN §3).
//!
//! Parsed once, where it comes in; valid from then on. Pure.

use std::fmt;
use std::str::FromStr;

use content::id::MediaPath;
use hyper::Uri;

/// The longest address that is believed, bytes.
const ADDRESS_BYTES_MAX: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} is not an address of the form http://host:port/path")]
    NotAnAddress(String),
    #[error("{0:?} is not of http; this player speaks plain HTTP only")]
    NotHttp(String),
    #[error("{0:?} is not of the form http://host:port/~token/title/tier/blake3.ext")]
    NotMedia(String),
}

/// An absolute `http` address without a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `host:port`, the port always there.
    pub authority: String,
    /// Path and query, beginning with `/`.
    pub target: String,
}

impl Address {
    /// The address of another target on the same host.
    pub fn with_target(&self, target: &str) -> Self {
        Self { authority: self.authority.clone(), target: target.to_owned() }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let shown = || text.chars().take(200).collect();
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::NotAnAddress(shown()));
        }
        let uri: Uri = text.parse().map_err(|_| AddressError::NotAnAddress(shown()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(AddressError::NotHttp(shown())),
            None => return Err(AddressError::NotAnAddress(shown())),
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| AddressError::NotAnAddress(shown()))?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)), target })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.target)
    }
}

/// A media object at one appliance, behind a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaAddress {
    pub address: Address,
    pub path: MediaPath,
}

impl FromStr for MediaAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address: Address = text.parse()?;
        let behind_token =
            address.target.strip_prefix("/~").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let path = behind_token.and_then(|path| path.parse().ok());
        match path {
            Some(path) => Ok(Self { address, path }),
            None => Err(AddressError::NotMedia(text.chars().take(200).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_with_its_port() {
        let address: Address = "http://127.0.0.2/v1/plays?x=1".parse().unwrap();
        assert_eq!(address.to_string(), "http://127.0.0.2:80/v1/plays?x=1");
        assert_eq!("http://[::1]:8000".parse::<Address>().unwrap().to_string(), "http://[::1]:8000/");
    }

    #[test]
    fn what_is_no_plain_http_address_is_refused() {
        let long = format!("http://h/{}", "x".repeat(ADDRESS_BYTES_MAX));
        for bad in [
            "",
            "127.0.0.1:80",
            "https://h/",
            "ftp://h/",
            "http://",
            "http:///x",
            "/path",
            "http://a b/",
            &long,
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_media_address_needs_a_token_and_a_path_in_form() {
        let object = content::id::ObjectId::of(b"x");
        let good = format!("http://127.0.0.2:8080/~e30.x.y/night-train/sd/{object}.mp4");
        assert_eq!(good.parse::<MediaAddress>().unwrap().path.object, object);
        for bad in
            [good.replace('~', ""), good.replace("/sd/", "/"), good.replace(".mp4", ".exe"), good + "?q=1"]
        {
            assert!(bad.parse::<MediaAddress>().is_err(), "{bad:?} was accepted");
        }
    }
}
