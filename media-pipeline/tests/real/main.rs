//! The real binary on real media: little films made by ffmpeg, published into folders, read back.
//!
//! Needs ffmpeg and a font (Debian: ffmpeg, fonts-dejavu-core).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod films;
mod publish;
mod refusals;
mod shapes;
