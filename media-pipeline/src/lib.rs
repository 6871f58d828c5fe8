//! From a film file to objects in an origin: validate, cut into chunks, encode in parallel, package, publish (DESIGN §3).
//!
//! ```text
//!  arguments -> publish -> source (is it whole?) -> streams (what to make) -> encode (chunks, in parallel)
//!                              |                        |                        |
//!                            probe            ladder, plan, recipe         ffmpeg, store
//!                                     -> mp4, playlist, webvtt (package and check) -> store (objects, then title.json)
//! ```
//! ffmpeg does the codecs, in processes of their own; this library decides, checks and writes. Impure are only `ffmpeg`
//! (processes), `store` (the origin), `source`, `inputs` and `sample` (files), `progress` (stderr and the clock) and what
//! strings them together, `encode` and `publish`. Read `publish` first.

pub mod arguments;
mod encode;
pub mod error;
mod ffmpeg;
mod inputs;
pub mod ladder;
pub mod language;
pub mod mp4;
pub mod plan;
pub mod playlist;
pub mod probe;
pub mod progress;
pub mod publish;
mod recipe;
pub mod sample;
mod source;
mod store;
mod streams;
pub mod webvtt;
