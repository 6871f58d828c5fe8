//! How a request or a connection ends: one table, from which the variants, the metric's labels and the operations
//! guide come (STYLE §3).
//!
//! A request that its connection takes with it is counted under the connection's ending too, so that the requests'
//! endings add up to the requests.

/// What a row of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Ends a request; the connection may go on.
    Request,
    /// Ends the connection, and the request in it if there is one.
    Connection,
}

/// Whose doing it is: who must act if there is too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody: this is how it should be.
    Nobody,
    Peer,
    Host,
    Operator,
}

macro_rules! endings {
    ($($variant:ident, $scope:ident, $who:ident, $label:literal, $meaning:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Ending {
            $(#[doc = $meaning] $variant,)+
        }

        impl Ending {
            pub const ALL: [Self; endings!(@count $($variant)+)] = [$(Self::$variant,)+];

            /// The metric's label: never changes once published.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            pub const fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)+ }
            }

            pub const fn who(self) -> Who {
                match self { $(Self::$variant => Who::$who,)+ }
            }

            /// Its place in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
    (@count $($variant:ident)+) => { [$(endings!(@one $variant),)+].len() };
    (@one $variant:ident) => { () };
}

endings! {
    Complete, Request, Nobody, "complete", "The whole object was sent, or its head (200).";
    Partial, Request, Nobody, "partial", "A range of the object was sent (206).";
    NotModified, Request, Nobody, "not_modified", "The client holds this very object already (304).";
    Preflight, Request, Nobody, "preflight", "A browser or a tool asked what is allowed (204).";
    PreconditionFailed, Request, Peer, "precondition_failed", "If-Match named another object (412).";
    RangeUnsatisfiable, Request, Peer, "range_unsatisfiable", "The range starts behind the object's end (416).";
    HeadMalformed, Request, Peer, "head_malformed", "The request's head breaks RFC 9112 (400).";
    HeadTooLong, Request, Peer, "head_too_long", "The request's head is longer than `server.limits.head_bytes_max` (431).";
    TooManyHeaders, Request, Peer, "too_many_headers", "More header fields than `server.limits.header_count_max` (431).";
    BodyRefused, Request, Peer, "body_refused", "The request announces content; nothing here takes any (413).";
    MethodRefused, Request, Peer, "method_refused", "Not GET, HEAD or OPTIONS (405).";
    VersionRefused, Request, Peer, "version_refused", "Not HTTP/1.0 or HTTP/1.1 (505).";
    TokenMissing, Request, Peer, "token_missing", "The path carries no token (403).";
    TokenMalformed, Request, Peer, "token_malformed", "The token is none (403).";
    TokenUnknownKey, Request, Operator, "token_unknown_key", "The token is signed with a key not known here (403).";
    TokenBadSignature, Request, Peer, "token_bad_signature", "The token's signature is wrong (403).";
    TokenUnknownClaim, Request, Operator, "token_unknown_claim", "The token carries a claim not known here (403).";
    TokenNotYetValid, Request, Operator, "token_not_yet_valid", "The token is from the future: clocks differ (403).";
    TokenExpired, Request, Peer, "token_expired", "The token has expired (403).";
    TokenOtherContent, Request, Peer, "token_other_content", "The token does not open this path (403).";
    NotHeld, Request, Nobody, "not_held", "The path is not in the catalogue (404).";
    Withdrawn, Request, Host, "withdrawn", "The object's file has a bad block and waits for its refill (503).";
    VolumeLost, Request, Host, "volume_lost", "The object's volume is gone or fails (503).";
    Draining, Request, Operator, "draining", "The server takes no new requests (503).";
    Overloaded, Request, Host, "overloaded", "No memory block or no place in a disk's queue in time (503).";
    DiskFailed, Request, Host, "disk_failed", "A read failed or its checksum did: 503 before the first byte of the body, else the connection closes.";
    PeerClosed, Connection, Nobody, "peer_closed", "The client closed between two requests.";
    PeerClosedEarly, Connection, Peer, "peer_closed_early", "The client closed within a head or before its answer was sent.";
    PeerReset, Connection, Peer, "peer_reset", "The client reset the connection, or its network failed.";
    CloseAsked, Connection, Nobody, "close_asked", "The client asked to close after the answer, or speaks HTTP/1.0.";
    RefusalClosed, Connection, Peer, "refusal_closed", "Closed after an answer behind which the stream cannot be trusted.";
    RequestLimit, Connection, Nobody, "request_limit", "As many requests as `server.limits.requests_per_connection_max`.";
    IdleTooLong, Connection, Nobody, "idle_too_long", "No request for `server.limits.idle_ms_max`.";
    PipelineTooLong, Connection, Peer, "pipeline_too_long", "More was sent ahead of the answers than this server keeps.";
    HeadTooSlow, Connection, Peer, "head_too_slow", "A head took longer than `server.limits.head_ms_max` (408).";
    HandshakeTooSlow, Connection, Peer, "handshake_too_slow", "A handshake of TLS took longer than `server.limits.handshake_ms_max`.";
    HandshakeFailed, Connection, Peer, "handshake_failed", "A handshake of TLS failed: no version, cipher or protocol in common, or no TLS at all.";
    ProxyMalformed, Connection, Operator, "proxy_malformed", "What came from an address in `server.proxy_from` did not begin with a PROXY header (version 2).";
    TooManyHandshakes, Connection, Host, "too_many_handshakes", "More handshakes of TLS at a time than `server.limits.handshakes_max`.";
    TlsBroken, Connection, Peer, "tls_broken", "A record of TLS was wrong, or no more may be sealed under its key.";
    SendStalled, Connection, Peer, "send_stalled", "No byte left for `server.limits.send_stall_ms_max`.";
    RequestTooLong, Connection, Peer, "request_too_long", "A request took longer than `server.limits.request_ms_max`.";
    TooManyConnections, Connection, Host, "too_many_connections", "More connections than `server.limits.connections_max` (503).";
    BodyFailed, Connection, Host, "body_failed", "Closed within a body because a block of it could not be read and verified.";
    Drained, Connection, Operator, "drained", "Closed because the server drains.";
    Stopped, Connection, Operator, "stopped", "Closed because the server stops.";
    HostFailed, Connection, Host, "host_failed", "The kernel refused an operation on the socket.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_label_is_its_own_and_every_index_its_place() {
        let labels: HashSet<_> = Ending::ALL.iter().map(|ending| ending.label()).collect();
        assert_eq!(labels.len(), Ending::ALL.len());
        for (place, ending) in Ending::ALL.iter().enumerate() {
            assert_eq!(ending.index(), place);
        }
    }
}
