//! HTTP for people and monitoring: health, metrics, where the time goes.

pub mod http;
pub mod metrics;
pub mod profile;
