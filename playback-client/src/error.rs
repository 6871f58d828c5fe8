//! Why a play did not come to its end: one variant for each thing that somebody can do about it.

use content::id::{ObjectId, StreamId};

use crate::address::Address;
use crate::decline::Decline;
use crate::network::Fault;
use crate::playlist::PlaylistError;

#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error(
        "the control plane at {address} does not answer: {fault}; is oca-control running there (--control)?"
    )]
    ControlUnreachable { address: Address, fault: Fault },

    /// Title unknown, territory or window not licensed, plan too low: its own words.
    #[error("the control plane refused the play ({status}): {title}: {detail}")]
    Refused { status: u16, title: String, detail: String },

    #[error("the control plane at {address} answered something that is no play: {what}")]
    ControlAnswer { address: Address, what: String },

    #[error("no appliance is offered for {what}: {reasons}")]
    NoAppliance { what: String, reasons: String },

    #[error("the multivariant playlist {address} cannot be played: {error}")]
    Multivariant { address: Address, error: PlaylistError },

    #[error("the multivariant playlist and the play's streams disagree: {0}")]
    Disagreement(String),

    #[error(
        "the media playlist {object} of stream {stream} cannot be played: {error}; publish the title again"
    )]
    Playlist { stream: StreamId, object: ObjectId, error: PlaylistError },

    #[error("streams {one} and {other} are not cut at the same times; publish the title again")]
    NotAligned { one: StreamId, other: StreamId },

    #[error(
        "object {object} of stream {stream} could not be fetched: nothing arrived for {seconds} s; \
         the last of {declines} declines: {last}"
    )]
    GaveUp { stream: StreamId, object: ObjectId, seconds: u64, declines: u64, last: Decline },

    #[error("the title was published anew during the play, stream {0} has changed; play it again")]
    Republished(StreamId),
}
