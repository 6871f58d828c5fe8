//! Promises, looked at from outside. A file for each kind.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails the test; helpers are no test functions to clippy"
)]

mod clocks;
mod configuration;
mod dash;
mod disks;
mod generations;
mod hostile_requests;
mod interruptions;
mod origins;
mod packs;
mod playback;
mod requests;
mod rot;
mod tokens;
mod two_of_a_kind;
