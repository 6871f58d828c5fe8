//! The one place of the control plane that reads the time.

use jiff::Timestamp;

pub fn now() -> Timestamp {
    Timestamp::now()
}
