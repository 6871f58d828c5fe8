//! The fill agent of a box: manifest in, verified objects on volumes, catalogue out, one report every two seconds
//! (DESIGN §3, §5).
//!
//! It is the only process of a box that speaks to the outside on its own. It never serves a viewer, never holds the
//! origin's credentials, and the server goes on without it.
//!
//! ```text
//!              events                                    actions
//!   control ─┐         ┌───────────────────────────────┐        ┌─> control plane (`control`)
//!   server  ─┼───────> │ core: (state, event, now)     │ ─────> ┼─> server        (`server_link`)
//!   volumes ─┤         │   desired, plan, shelf: pure  │        ├─> volumes       (`volumes`, `incoming`)
//!   jobs    ─┘         └───────────────────────────────┘        └─> jobs          (`download`)
//! ```
//!
//! `agent` is the shell around `core`: it runs each action as a task and feeds what came of it back. Clock, files,
//! sockets and threads are in `clock`, `agent`, `state_folder`, `generations`, `volumes`, `incoming`, `packing`, `http`,
//! `control`, `server_link`, `rot`, `savings` and `download` only. Read `core` first, then `download` and `incoming`.

pub mod agent;
pub mod aligned;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod desired;
pub mod download;
pub mod generations;
pub mod http;
pub mod incoming;
pub mod packing;
pub mod plan;
pub mod rot;
pub mod savings;
pub mod server_link;
pub mod shelf;
pub mod show_plan;
pub mod sources;
pub mod state_folder;
pub mod volumes;
