//! The control plane: who may watch what, from which appliance, and what each appliance should hold (DESIGN §5, §6).
//!
//! A library of pure functions over an immutable [`snapshot::Snapshot`], so that an answer is a replayable computation:
//! the same snapshot, request and `now` give the same bytes. Nothing outside [`service`] reads a clock, a file or a
//! socket. `oca-control` is a thin program around [`service`].
//!
//! ```text
//! request -> licence -> streams -> steering -> playback -> JSON answer
//!                                                     |--> hls      -> multivariant playlist
//!                                                     `--> dash     -> MPD
//! titles, registrations -> placement -> manifest;   wish list -> fill_sources -> where to pull it from
//! ```
//!
//! Read `playback` first; then `steering`, `placement`, and `service`.

pub mod dash;
pub mod fill_sources;
pub mod hls;
pub mod licence;
pub mod pathways;
pub mod placement;
pub mod playback;
pub mod refusal;
pub mod service;
pub mod snapshot;
pub mod steering;
pub mod streams;
