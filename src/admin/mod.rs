//! HTTP for people and monitoring: health, metrics.
