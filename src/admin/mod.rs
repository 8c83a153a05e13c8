//! HTTP for people and monitoring: health, metrics.

pub mod http;
pub mod metrics;
