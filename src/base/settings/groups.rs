//! What group coordinators run with.

use super::node::Layers;

/// The settings of group coordinators. Fields have Kafka's names without their `group.` and `offsets.`
/// beginnings where the rest says enough.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Shortest session timeout that a classic group's member may ask for.
    pub min_session_timeout_ms: i32,
    /// Longest session timeout that a classic group's member may ask for.
    pub max_session_timeout_ms: i32,
    /// How long an empty classic group waits for more members before its first rebalance.
    pub initial_rebalance_delay_ms: i32,
    /// Members a classic group may have.
    pub max_size: i32,
    /// Largest text beside a committed offset, in UTF-16 units.
    pub offset_metadata_max_bytes: i32,
    /// How long a committed offset outlives its group. From `offsets.retention.minutes`.
    pub offsets_retention_ms: i64,
    /// Time between two looks for offsets to forget.
    pub offsets_retention_check_interval_ms: i64,
}

impl GroupSettings {
    pub(super) fn of_node(layers: &Layers) -> Self {
        Self {
            min_session_timeout_ms: layers.i32("group.min.session.timeout.ms"),
            max_session_timeout_ms: layers.i32("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: layers.i32("group.initial.rebalance.delay.ms").max(0),
            max_size: layers.i32("group.max.size"),
            offset_metadata_max_bytes: layers.i32("offset.metadata.max.bytes"),
            offsets_retention_ms: i64::from(layers.i32("offsets.retention.minutes")) * 60_000,
            offsets_retention_check_interval_ms: layers
                .number("offsets.retention.check.interval.ms")
                .unwrap_or(600_000),
        }
    }
}
