//! The service around the library: everything of the control plane that reads a clock, a file or a socket.
//!
//! ```text
//! planner: origin, registrations -> snapshot, manifests       (every few seconds, and when somebody registers)
//! reports ----------------------> snapshot                    (last value only)
//! requests: snapshot + now -> library -> answer               (no lock, no IO)
//! ```
//!
//! Read `routes` for what it answers, `planner` for what it does by itself, `lasting` for what survives it.

mod agents;
pub mod api_doc;
mod clock;
pub mod config;
mod control;
mod lasting;
mod metrics;
mod objects;
mod operator;
mod origin;
mod page;
mod planner;
mod plays;
mod problem;
mod range;
mod rot;
mod routes;
mod server;
mod trees;

pub use control::Control;
pub use routes::{Route, router, routes};
pub use server::{Running, run, start};

/// Why the service does not start, or ends: what the operator has to do (STYLE §3).
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    State(#[from] lasting::StateError),
    #[error(
        "the origin {origin} (key `origin` in {file}) cannot be used: {cause}; give a folder that exists and that this user may read and write"
    )]
    Origin { file: String, origin: String, cause: String },
    #[error(
        "the address {listen} (key `listen` in {file}) cannot be listened on: {cause}; choose a free port, or stop what uses it"
    )]
    Listen { file: String, listen: String, cause: std::io::Error },
}
