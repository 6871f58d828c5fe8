//! The whole core on a fake kernel and fake disks, driven by a seed (STYLE §7). Only in tests.
//!
//! [`run`] plays one seed: workers, connections, memory, disk readers, `http::decide` and all of the ring that decides
//! (`ring::sockets`) are the real ones; [`kernel`] is what lies below, [`network`] the connections, [`disk`] the disks,
//! [`interference`] the agent and the operator, [`client`] the clients and the oracle, [`accounts`] the end. What can go
//! wrong is a table, [`faults`]; which of it does, and how often, each seed draws anew. Time passes only when nothing else
//! happens, so a seed takes milliseconds whatever it waits for.

mod accounts;
mod client;
pub mod disk;
mod faults;
mod interference;
pub mod kernel;
mod network;
mod plants;
pub mod random;
mod request;
mod run;
mod secure;
pub mod shared;
pub mod site;
mod tests;
