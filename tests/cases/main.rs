//! Promises, looked at from outside. A file for each kind.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails the test; helpers are no test functions to clippy"
)]

mod configuration;
mod dash;
mod hostile_requests;
mod interruptions;
mod packs;
mod playback;
mod requests;
mod tokens;
