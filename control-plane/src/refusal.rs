//! Every reason for which the library refuses a request: one table (RFC 9457 kinds, statuses, who must act).

use content::play::Problem;
use jiff::Timestamp;

/// A refusal that its receiver can understand and, where a cure exists, cure.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no title {0}")]
    UnknownTitle(String),
    #[error("{title} is not licensed for the territory {territory}")]
    Territory { title: String, territory: String },
    #[error("{title} may be watched in {territory} from {from} on")]
    NotYet { title: String, territory: String, from: Timestamp },
    #[error("{title} could be watched in {territory} until {until}")]
    Over { title: String, territory: String, until: Timestamp },
    #[error("the plan {plan} opens no picture of {title}; the lowest tier it has is {lowest}")]
    Plan { title: String, plan: String, lowest: String },
    #[error("no {kind} stream of {title} fits the device: {why}")]
    Device { title: String, kind: &'static str, why: String },
    #[error("no appliance can serve {title} now: {why}")]
    NoAppliance { title: String, why: String },
    #[error("the request is not valid: {0}")]
    Malformed(String),
    #[error("the token is not one of this play: {0}")]
    Token(String),
    #[error(
        "the cluster {0} is not configured here; add it as [[cluster]] to the control plane's configuration"
    )]
    UnknownCluster(String),
    #[error("the appliance {0} is not registered; register it again")]
    UnknownAppliance(String),
    #[error("the cluster {0} has no manifest yet: no appliance is registered in it, or there is no title")]
    NoManifest(String),
}

impl Refusal {
    /// Type, title and HTTP status of its kind.
    const fn kind(&self) -> (&'static str, &'static str, u16) {
        match self {
            Self::UnknownTitle(_) => ("/problems/unknown-title", "Unknown title", 404),
            Self::Territory { .. } => ("/problems/territory", "Not licensed here", 403),
            Self::NotYet { .. } => ("/problems/not-yet", "Not licensed yet", 403),
            Self::Over { .. } => ("/problems/licence-over", "No longer licensed", 403),
            Self::Plan { .. } => ("/problems/plan", "Not in this plan", 403),
            Self::Device { .. } => ("/problems/device", "Nothing the device can show", 422),
            Self::NoAppliance { .. } => ("/problems/no-appliance", "Nobody can serve it now", 503),
            Self::Malformed(_) => ("/problems/malformed-request", "Malformed request", 400),
            Self::Token(_) => ("/problems/token", "Not a token of this play", 403),
            Self::UnknownCluster(_) => ("/problems/unknown-cluster", "Unknown cluster", 404),
            Self::UnknownAppliance(_) => ("/problems/unknown-appliance", "Unknown appliance", 404),
            Self::NoManifest(_) => ("/problems/no-manifest", "No manifest yet", 404),
        }
    }

    pub fn problem(&self) -> Problem {
        let (kind, title, status) = self.kind();
        Problem { kind: kind.to_owned(), title: title.to_owned(), status, detail: self.to_string() }
    }
}
