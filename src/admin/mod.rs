//! HTTP for people and monitoring: health, metrics, where the time goes, what is on which shard; and the
//! machine beneath.

pub mod http;
pub mod metrics;
pub mod profile;
pub mod shards;
pub mod tune;
