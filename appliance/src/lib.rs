//! The segment server of an appliance (DESIGN §4).

pub mod clock;
pub mod conn;
pub mod disk;
pub mod endings;
pub mod engine;
pub mod holdings;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod ring;
pub mod sys;
pub mod tuning;
pub mod wheel;
pub mod worker;
