//! Outside-in: whole plays against appliances that misbehave, and what `verify` makes of them.
#![expect(clippy::unwrap_used, reason = "tests and their world: a failure here is a failed test")]

mod memory;
mod sockets;
mod verify;
mod world;
