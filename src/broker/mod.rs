//! What one shard owns, and the shells that drive the machines below.
//!
//! [`shard::Shard`] holds the partitions of one shard and answers [`messages`]; [`partition`] is one of
//! them; [`purgatory`] is where requests wait; [`lifecycle`] opens, creates and deletes partitions as
//! the image says; [`keeper`] does what comes round by the clock; [`cleaner`] compacts logs; [`control`] is the host of the
//! controller, on the control thread; [`coordinators`] hosts the coordinators whose partitions are here.

pub mod checkpoint_files;
pub mod cleaner;
pub mod config_rules;
pub mod control;
pub mod coordinators;
pub mod error;
pub mod event;
pub mod internal_topics;
pub mod keeper;
pub mod lifecycle;
pub mod loggers;
pub mod messages;
mod moves;
pub mod offload;
pub mod open_files;
pub mod partition;
pub mod purgatory;
pub mod reply;
pub mod room;
pub mod shard;
pub mod transactions;
