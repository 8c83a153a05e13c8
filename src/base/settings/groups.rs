//! What group coordinators run with.

use super::layers::Layers;

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
    /// How long requests are gathered before their records are written; 0 for what arrives in one turn.
    pub coordinator_append_linger_ms: u64,
    /// Bytes of a log that are read at once when it is loaded.
    pub offsets_load_buffer_size: u32,
    /// Whether groups of the new protocol are served: `consumer` in `group.coordinator.rebalance.protocols`.
    pub consumer_protocol: bool,
}

/// More than this is read at once of no log: a read is memory that nothing else accounts for.
pub(super) const LOAD_BUFFER_BYTES_MAX: u32 = 64 << 20;

/// The kinds of groups in `group.coordinator.rebalance.protocols`.
pub(super) fn rebalance_protocols(layers: &Layers) -> impl Iterator<Item = &str> {
    let text = layers.effective("group.coordinator.rebalance.protocols");
    text.map_or("", |(text, _)| text).split(',').map(str::trim)
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
            coordinator_append_linger_ms: layers.u64("group.coordinator.append.linger.ms"),
            offsets_load_buffer_size: layers
                .u32("offsets.load.buffer.size")
                .min(LOAD_BUFFER_BYTES_MAX),
            consumer_protocol: rebalance_protocols(layers).any(|kind| kind == "consumer"),
        }
    }
}
