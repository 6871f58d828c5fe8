//! The segment server beside nginx and fio, on the same files, in the same run (`cargo xtask bench serve`).
//!
//! Not a test: it needs a quiet machine with two cores, the server on the first and the load generator on the second. Read
//! [`rows`] for what is measured, [`load`] for how, [`servers`] for against what.

pub mod bench;
pub mod files;
pub mod fio;
pub mod lab;
pub mod load;
pub mod options;
pub mod plot;
pub mod proc;
pub mod results;
pub mod rows;
pub mod servers;
pub mod setting;
