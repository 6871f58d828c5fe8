//! The load generator: `oca-bench-serve load SPEC OUTCOME`, a process of its own on a core of its own.
//!
//! One thread, one epoll, any number of connections. Bodies are received with MSG_TRUNC, which drops them in the kernel:
//! nothing is copied, so that the server and not its client is what is measured. It never checks a body; `check` does, before.
//!
//! ```text
//!            ┌── request sent ──┐            closed loop: the next request follows at once
//!   Idle ────┘                  ▼            open loop: when the next is due (`schedule`)
//!    ▲                         Head ── status and length as asked for, or the run fails
//!    └──── last byte ─────── Body
//! ```
//!
//! Time: a ramp that does not count, then the window, then what is in flight comes to its end. Bytes, requests and the server's
//! processor time are those of the window; latencies are those of the requests that began in it, whenever they end.

pub mod answer;
mod connection;
mod engine;
pub mod histogram;
pub mod hold;
pub mod schedule;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use engine::run;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// In 127.0.0.0/8.
    pub server: SocketAddr,
    /// Whose processor time is read.
    pub watch: Vec<u32>,
    pub groups: Vec<Group>,
    pub ramp_ms: u64,
    /// At most: the window ends sooner if a group with an end has asked for everything.
    pub window_ms: u64,
    /// Look for answers without sleeping: no wake-up is charged to the server. For a core that nobody else needs.
    pub spin: bool,
    pub seed: u64,
}

/// Connections that ask for the same things.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    pub targets: Vec<Target>,
    /// Of each request: a range that starts at a multiple of it.
    pub request_bytes: u64,
    pub connections: usize,
    /// How often every piece is asked for; None: any piece, without end.
    pub passes: Option<u32>,
    /// An open loop of so many requests a second; None: a closed loop.
    pub rate: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    pub path: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the window.
    pub seconds: f64,
    /// Processor time of the watched processes in the window.
    pub server_cpu_s: f64,
    /// What they had read from disks in the window.
    pub server_read_bytes: u64,
    /// Processor time of the load generator itself.
    pub client_cpu_s: f64,
    /// As in the spec.
    pub groups: Vec<GroupOutcome>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupOutcome {
    pub requests: u64,
    /// Of bodies.
    pub bytes: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub longest_ms: f64,
    /// Everything was asked for before the window's time was over.
    pub ran_out: bool,
}

impl Outcome {
    pub fn bytes(&self) -> f64 {
        self.groups.iter().map(|group| as_f64(group.bytes)).sum()
    }

    pub fn requests(&self) -> f64 {
        self.groups.iter().map(|group| as_f64(group.requests)).sum()
    }
}

/// Exact below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2⁵³")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

/// From file to file, since a process gives no more than a status.
pub fn main(spec: &Path, outcome: &Path) -> Result<()> {
    let text = fs::read(spec).with_context(|| format!("cannot read {}", spec.display()))?;
    let result = run(&serde_json::from_slice(&text)?)?;
    fs::write(outcome, serde_json::to_vec(&result)?)?;
    Ok(())
}
