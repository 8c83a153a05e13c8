//! The bottom layer: ids, numbers that must not be mixed, time, settings and counters.
//!
//! Uses nothing of ours. No clock is read here: [`Timestamp`] is handed in by whoever has one.

pub mod counters;
pub mod cpu_list;
pub mod histogram;
pub mod ids;
pub mod log_limit;

pub use ids::{
    BrokerId, ClusterId, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, ShardId,
    Timestamp, TopicId, TopicPartition,
};

pub mod file_slice;
pub use file_slice::FileSlice;

pub mod listeners;
pub mod profile;
pub mod properties;
pub mod settings;
pub use log_limit::LogLimit;
