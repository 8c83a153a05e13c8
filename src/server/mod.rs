//! Starting and stopping the node; accepting connections and serving them.

pub mod acceptor;
pub mod connection;
pub mod cores;
pub mod data;
pub mod data_dir;
pub mod error;
pub mod kraft_log;
pub mod logging;
pub mod memory;
pub mod meta_properties;
pub mod node;
pub mod probes;
pub mod shard_main;
pub mod signals;
pub mod startup;
pub mod takeover;
