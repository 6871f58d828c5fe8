//! The control plane from outside: [`service`] on a real socket, [`binary`] as a process.

#![expect(clippy::unwrap_used, reason = "a test may panic, and so may what it is made of")]

mod binary;
mod problems;
mod service;
mod support;
mod wire;
