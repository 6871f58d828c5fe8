//! The server from outside: real sockets, real files, the real program.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod agent;
mod balancer;
mod fixture;
mod program;
mod secure;
mod serving;
