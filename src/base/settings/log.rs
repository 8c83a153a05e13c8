//! What one topic's partitions run with.

/// `cleanup.policy`. Both, one, or neither (then nothing is ever removed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub compact: bool,
    pub delete: bool,
}

/// `compression.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// Batches stay as the producer made them.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// `message.timestamp.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// A topic's settings, each from the topic itself or else from the node.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Bytes at which a segment is closed.
    pub segment_bytes: u32,
    /// Age at which a segment is closed, in milliseconds, before jitter.
    pub segment_ms: u64,
    /// At most this much is taken off `segment_ms`, at random for each segment.
    pub segment_jitter_ms: u64,
    /// Limit of each index file, in bytes.
    pub segment_index_bytes: u32,
    /// Bytes of records between two index entries.
    pub index_interval_bytes: u32,
    /// Age at which a segment may go, in milliseconds; -1 for never.
    pub retention_ms: i64,
    /// Bytes of a partition above which its oldest segments may go; -1 for no limit.
    pub retention_bytes: i64,
    /// Records appended before an fsync is due; `i64::MAX` for never.
    pub flush_messages: u64,
    /// Milliseconds a record may wait for an fsync; `i64::MAX` for ever.
    pub flush_ms: u64,
    /// Largest record batch taken, in bytes, as it is stored.
    pub max_message_bytes: u32,
    /// In-sync replicas that `acks=all` asks for, before it is capped at the replication factor.
    pub min_insync_replicas: u32,
    pub cleanup_policy: CleanupPolicy,
    pub compression_type: CompressionType,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_zstd_level: i32,
    pub message_timestamp_type: TimestampType,
    /// How far before the broker's clock a record's timestamp may lie, in milliseconds.
    pub message_timestamp_before_max_ms: u64,
    /// How far after the broker's clock a record's timestamp may lie, in milliseconds.
    pub message_timestamp_after_max_ms: u64,
    /// Milliseconds between the deletion of a file and the removal of its bytes.
    pub file_delete_delay_ms: u64,
    pub preallocate: bool,
    pub unclean_leader_election_enable: bool,
    /// Milliseconds a tombstone is kept after it was cleaned.
    pub delete_retention_ms: u64,
    /// Milliseconds a record stays uncompacted at least.
    pub min_compaction_lag_ms: u64,
    /// Milliseconds after which a record is due for compaction.
    pub max_compaction_lag_ms: u64,
    /// Share of a log that must be dirty before it is cleaned, 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
}
