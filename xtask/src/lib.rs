//! The one script language of this repository: `cargo xtask demo | boot | test | fuzz | simulate | torture | bench | ci`.
//!
//! Starts the real binaries and looks at them from outside, over their command lines, files and HTTP. It links no part
//! of the system, so that it compiles in seconds. `fleet` and `process` also carry the outside-in tests.
//! Read `command` first, then `demo`, `fleet`, `process`.

pub mod bench;
pub mod boot;
pub mod check;
pub mod ci;
pub mod clock;
pub mod command;
pub mod demo;
pub mod demo_switch;
pub mod fleet;
pub mod fuzz;
pub mod http;
pub mod packages;
pub mod ports;
pub mod process;
pub mod progress;
pub mod samples;
pub mod simulate;
pub mod stop;
pub mod suite;
pub mod torture;
pub mod webdriver;
pub mod workspace;
