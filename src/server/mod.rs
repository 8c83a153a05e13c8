//! Starting and stopping the node; accepting connections and serving them.

pub mod cores;
pub mod data_dir;
pub mod logging;
pub mod memory;
pub mod meta_properties;
pub mod probes;
pub mod signals;
pub mod startup;
