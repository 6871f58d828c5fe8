//! Every way in which an appliance declines a request, in one table. Whatever the way, the answer is the same: the
//! next appliance is asked ([`crate::hosts`]); the label says in the report what a person should look at.

use std::time::Duration;

use content::id::ByteSpan;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Decline {
    /// It does not hold the object (any more).
    #[error("answered 404: it does not hold the object")]
    NotHeld,
    /// The token does not open this path there; its own words.
    #[error("answered 403: {0}")]
    Forbidden(String),
    #[error("answered 429: too many requests")]
    TooMany,
    /// Draining, a lost volume, overload.
    #[error("answered 503: unavailable")]
    Unavailable,
    /// Any other status than the one asked for, redirects among them.
    #[error("answered {0}")]
    Status(u16),
    /// Nobody listens at its address, or no route leads there.
    #[error("could not be connected to: {0}")]
    Unreachable(String),
    /// The connection ended before the head of an answer.
    #[error("closed the connection before it answered: {0}")]
    Reset(String),
    /// The body ended before its last byte.
    #[error("ended the body after {got} of {wanted} bytes")]
    ShortBody { got: u64, wanted: u64 },
    #[error("sent more than the {wanted} bytes asked for")]
    LongBody { wanted: u64 },
    /// No connection, head or next byte within the time allowed.
    #[error("sent nothing for {} ms while waiting for {waiting_for}", limit.as_millis())]
    TimedOut { waiting_for: &'static str, limit: Duration },
    /// It does send, but a fragment took too long.
    #[error("did not finish a request within {} ms", limit.as_millis())]
    TooSlow { limit: Duration },
    /// A `Content-Range` that is missing or not what was asked for.
    #[error("answered range {wanted} with Content-Range {got:?}")]
    WrongRange { wanted: ByteSpan, got: String },
    /// Its ETag names another object.
    #[error("answered with object {0}")]
    WrongObject(String),
    /// The whole object was fetched and is not the one that its name says.
    #[error("sent bytes whose BLAKE3 is not their name")]
    WrongDigest,
}

impl Decline {
    /// For reports: stable, and few.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotHeld => "404",
            Self::Forbidden(_) => "403",
            Self::TooMany => "429",
            Self::Unavailable => "503",
            Self::Status(_) => "other-status",
            Self::Unreachable(_) => "unreachable",
            Self::Reset(_) => "reset",
            Self::ShortBody { .. } => "short-body",
            Self::LongBody { .. } => "long-body",
            Self::TimedOut { .. } => "time-out",
            Self::TooSlow { .. } => "too-slow",
            Self::WrongRange { .. } => "wrong-range",
            Self::WrongObject(_) => "wrong-object",
            Self::WrongDigest => "wrong-digest",
        }
    }

    /// What a status other than success means; `words` is the answer's text.
    pub fn of_status(status: u16, words: &str) -> Self {
        match status {
            403 => Self::Forbidden(words.to_owned()),
            404 => Self::NotHeld,
            429 => Self::TooMany,
            503 => Self::Unavailable,
            other => Self::Status(other),
        }
    }
}
