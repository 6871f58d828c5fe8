//! A player without a screen: fetches a play, downloads it at playing speed, moves from one appliance to the next when
//! one declines, and says what a viewer would have felt.
//!
//! Pure, `(state, event, now) -> action`: [`hosts`], [`schedule`], [`rung`], [`playhead`], [`playlist`], [`offer`],
//! [`selection`], [`ledger`], [`summary`]. Impure: [`network`] alone opens sockets, [`clock`] alone reads a clock,
//! [`verify`] reads files. Read [`play`] first, then [`session`].

pub mod address;
pub mod arguments;
pub mod clock;
pub mod decline;
pub mod error;
pub mod hosts;
pub mod ledger;
pub mod network;
pub mod offer;
pub mod play;
pub mod playhead;
pub mod playlist;
pub mod rung;
pub mod schedule;
pub mod selection;
pub mod session;
pub mod summary;
pub mod verify;
