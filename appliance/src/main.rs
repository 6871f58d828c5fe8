//! The segment server of an appliance: `oca-appliance --config FILE`.

fn main() {}
