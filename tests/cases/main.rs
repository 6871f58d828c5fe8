//! Promises, looked at from outside. A file for each kind.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step fails the test; helpers are no test functions to clippy"
)]

mod configuration;
mod generations;
mod hostile_requests;
mod interruptions;
mod playback;
mod requests;
mod tokens;
