//! The whole core on a fake kernel and fake disks, driven by a seed (STYLE §7). Only in tests.
//!
//! [`run`] plays one seed: workers, connections, memory, disk readers and `http::decide` are the real ones; [`kernel`]
//! is the network with its clients' sockets, [`disk`] the disks, [`client`] the clients and the oracle. Time passes only
//! when nothing else happens, so a seed takes milliseconds whatever it waits for.

mod client;
pub mod disk;
pub mod kernel;
pub mod random;
mod run;
pub mod site;
mod tests;
