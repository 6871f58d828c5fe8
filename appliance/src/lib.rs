//! The segment server of an appliance (DESIGN §4).

pub mod clock;
pub mod endings;
pub mod holdings;
pub mod http;
pub mod metrics;
