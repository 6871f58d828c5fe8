//! The segment server of an appliance (DESIGN §4).

pub mod agent_socket;
pub mod clock;
pub mod config;
pub mod conn;
pub mod disk;
pub mod endings;
pub mod engine;
pub mod generations;
pub mod holdings;
pub mod http;
pub mod keys;
pub mod management;
pub mod memory;
pub mod metrics;
pub mod proxy;
pub mod ring;
pub mod rot;
pub mod server;
pub mod service;
#[cfg(test)]
mod simulation;
pub mod sys;
pub mod tls;
pub mod tuning;
pub mod volume_watch;
pub mod ways;
pub mod wheel;
pub mod worker;
