//! HTTP/1.1 for GET, HEAD and OPTIONS, as pure functions of bytes (RFC 9110, RFC 9112).
//!
//! Opens nothing, waits for nothing, reads no clock: [`decide::decide`] takes what a connection has received and
//! appends an answer's head to what it will send. Read [`decide`] first, then [`head`], [`conditional`], [`range`];
//! [`answer`] writes what they decided.

pub mod answer;
pub mod cmcd;
pub mod conditional;
pub mod decide;
pub mod head;
pub mod multipart;
pub mod pacing;
pub mod range;

#[cfg(test)]
mod tests;
