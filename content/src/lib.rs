//! What the parts agree on: names, digests, titles, manifests, the catalogue file, tokens, messages (DESIGN §1, §3).
//!
//! Knows no other part, opens no socket, and does no IO but to read a catalogue (`catalogue::file`).
//! Read `id` first, then `title`, `manifest`, `catalogue`.

pub mod box_config;
pub mod catalogue;
pub mod checksum;
pub mod control_socket;
pub mod fill;
pub mod id;
pub mod lock_holder;
pub mod manifest;
pub mod network;
pub mod origin;
pub mod pack;
pub mod play;
pub mod report;
pub mod rot;
pub mod seal;
pub mod title;
pub mod token;
pub mod tree;
pub mod volume;
