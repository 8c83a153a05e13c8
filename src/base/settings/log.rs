//! What one topic's partitions run with: its own settings over the node's.

use std::collections::BTreeMap;

use super::SettingError;
use super::layers::Layers;
use super::node::NodeSettings;
use super::table::topic_setting;
use super::value::Value;

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

/// `ringspun.log.io`: how the `.log` files of a topic are written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogIo {
    /// What [`AUTO`](Self::AUTO) says.
    Auto,
    /// Through the kernel's page cache.
    PageCache,
    /// Past it (O_DIRECT).
    Direct,
}

impl LogIo {
    /// What `auto` chooses. The page cache, as it always was: the two have not been measured beside each other
    /// on all workloads of the benchmark yet.
    pub const AUTO: LogIo = LogIo::PageCache;

    pub fn is_direct(self) -> bool {
        match self {
            LogIo::Auto => matches!(Self::AUTO, LogIo::Direct),
            LogIo::PageCache => false,
            LogIo::Direct => true,
        }
    }

    fn of(value: &Value) -> LogIo {
        match value.render().as_str() {
            "page-cache" => LogIo::PageCache,
            "direct" => LogIo::Direct,
            _ => LogIo::Auto,
        }
    }
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
    /// Counts for files that are opened from then on.
    pub log_io: LogIo,
}

impl LogSettings {
    /// The settings of a topic that sets `overrides` itself, on this node.
    ///
    /// Refuses names that are no topic setting, values that do not parse or are out of range, values that
    /// contradict each other (in one topic, or between it and the node), and `remote.storage.enable`, which
    /// would promise a copy that nobody makes. The text of the error is Kafka's; its code is INVALID_CONFIG.
    pub fn resolve(
        node: &NodeSettings,
        overrides: &BTreeMap<String, String>,
    ) -> Result<LogSettings, SettingError> {
        let mut log = node.log_defaults.clone();
        let mut internal_segment_bytes = None;
        for name in overrides.keys() {
            if topic_setting(name).is_none() {
                return Err(SettingError::UnknownTopicConfig { name: name.clone() });
            }
        }
        for (name, text) in overrides {
            let Some(setting) = topic_setting(name) else {
                continue;
            };
            match (name.as_str(), setting.parse(text)?) {
                ("internal.segment.bytes", value) => {
                    internal_segment_bytes = Some(clamp(&value));
                }
                ("remote.storage.enable", Value::Boolean(true)) => {
                    return Err(SettingError::EmptyPromise("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with \
                         remote log storage."
                            .into(),
                    ));
                }
                (name, value) => log.set(name, &value),
            }
        }
        if let Some(bytes) = internal_segment_bytes {
            log.segment_bytes = bytes;
        }
        log.check_together("")?;
        Ok(log)
    }

    /// Age at which a segment is closed, before jitter: a compacted log closes it early enough to compact it
    /// in time.
    pub fn roll_ms(&self) -> u64 {
        if self.cleanup_policy.compact && self.max_compaction_lag_ms > 0 {
            self.segment_ms.min(self.max_compaction_lag_ms)
        } else {
            self.segment_ms
        }
    }

    fn set(&mut self, name: &str, value: &Value) {
        match name {
            "segment.bytes" => self.segment_bytes = clamp(value),
            "segment.ms" => self.segment_ms = positive(value),
            "segment.jitter.ms" => self.segment_jitter_ms = positive(value),
            "segment.index.bytes" => self.segment_index_bytes = clamp(value),
            "index.interval.bytes" => self.index_interval_bytes = clamp(value),
            "retention.ms" => self.retention_ms = value.integer(),
            // Any negative number of bytes is no limit, as in Kafka.
            "retention.bytes" => self.retention_bytes = value.integer().max(-1),
            "flush.messages" => self.flush_messages = positive(value),
            "flush.ms" => self.flush_ms = positive(value),
            "max.message.bytes" => self.max_message_bytes = clamp(value),
            "min.insync.replicas" => self.min_insync_replicas = clamp(value),
            "cleanup.policy" => self.cleanup_policy = CleanupPolicy::of(value),
            "compression.type" => self.compression_type = CompressionType::of(value),
            "compression.gzip.level" => self.compression_gzip_level = level(value),
            "compression.lz4.level" => self.compression_lz4_level = level(value),
            "compression.zstd.level" => self.compression_zstd_level = level(value),
            "message.timestamp.type" => self.message_timestamp_type = TimestampType::of(value),
            "message.timestamp.before.max.ms" => {
                self.message_timestamp_before_max_ms = positive(value);
            }
            "message.timestamp.after.max.ms" => {
                self.message_timestamp_after_max_ms = positive(value);
            }
            "file.delete.delay.ms" => self.file_delete_delay_ms = positive(value),
            "preallocate" => self.preallocate = *value == Value::Boolean(true),
            "unclean.leader.election.enable" => {
                self.unclean_leader_election_enable = *value == Value::Boolean(true);
            }
            "delete.retention.ms" => self.delete_retention_ms = positive(value),
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = positive(value),
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = positive(value),
            "min.cleanable.dirty.ratio" => {
                if let Value::Double(ratio) = value {
                    self.min_cleanable_dirty_ratio = *ratio;
                }
            }
            "ringspun.log.io" => self.log_io = LogIo::of(value),
            // Replication throttles and remote storage: stored and returned, without effect yet.
            _ => {}
        }
    }

    /// What topics run with that set nothing themselves. The layers have been checked one by one.
    pub(super) fn of_node(layers: &Layers) -> Result<LogSettings, SettingError> {
        const MINUTE: i64 = 60_000;
        const HOUR: i64 = 60 * MINUTE;
        let scaled = |name: &str, factor: i64| Some(layers.number(name)?.saturating_mul(factor));
        let at_least = |name: &str, value: i64, least: i64| {
            if value >= least {
                return Ok(value as u64);
            }
            Err(SettingError::Conflict(format!(
                "{name} must be greater than or equal to {least}, but is {value}"
            )))
        };
        let segment_ms = layers
            .number("log.roll.ms")
            .or_else(|| scaled("log.roll.hours", HOUR));
        let jitter_ms = layers
            .number("log.roll.jitter.ms")
            .or_else(|| scaled("log.roll.jitter.hours", HOUR));
        let flush_ms = layers
            .number("log.flush.interval.ms")
            .or_else(|| layers.number("log.flush.scheduler.interval.ms"));
        let retention_ms = layers
            .number("log.retention.ms")
            .or_else(|| scaled("log.retention.minutes", MINUTE))
            .or_else(|| scaled("log.retention.hours", HOUR))
            .unwrap_or(-1)
            .max(-1);
        if retention_ms == 0 {
            return Err(SettingError::Conflict(
                "log.retention.ms must be unlimited (-1) or, greater than or equal to 1".into(),
            ));
        }
        let value = |broker: &str, topic: &str| {
            let text = layers.effective(broker).map_or("", |(text, _)| text);
            topic_setting(topic)
                .and_then(|setting| setting.parse(text).ok())
                .unwrap_or(Value::Integer(0))
        };
        let mut log = LogSettings {
            segment_bytes: 0,
            segment_ms: at_least("log.roll.ms", segment_ms.unwrap_or(0), 1)?,
            segment_jitter_ms: at_least("log.roll.jitter.ms", jitter_ms.unwrap_or(0), 0)?,
            segment_index_bytes: 0,
            index_interval_bytes: 0,
            retention_ms,
            retention_bytes: -1,
            flush_messages: u64::MAX,
            flush_ms: at_least("log.flush.interval.ms", flush_ms.unwrap_or(i64::MAX), 0)?,
            max_message_bytes: 0,
            min_insync_replicas: 1,
            cleanup_policy: CleanupPolicy {
                compact: false,
                delete: true,
            },
            compression_type: CompressionType::Producer,
            compression_gzip_level: -1,
            compression_lz4_level: 0,
            compression_zstd_level: 0,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: 0,
            message_timestamp_after_max_ms: 0,
            file_delete_delay_ms: 0,
            preallocate: false,
            unclean_leader_election_enable: false,
            delete_retention_ms: 0,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: 0,
            min_cleanable_dirty_ratio: 0.0,
            log_io: LogIo::Auto,
        };
        for setting in super::table::TOPIC_SETTINGS {
            // Those with several synonyms are above.
            if let [synonym] = setting.synonyms {
                log.set(setting.name, &value(synonym, setting.name));
            }
        }
        log.check_together("log.cleaner.")?;
        Ok(log)
    }

    fn check_together(&self, prefix: &str) -> Result<(), SettingError> {
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(SettingError::Conflict(format!(
                "conflict topic config setting {prefix}min.compaction.lag.ms ({}) > {prefix}max.compaction.lag.ms ({})",
                self.min_compaction_lag_ms, self.max_compaction_lag_ms
            )));
        }
        Ok(())
    }
}

/// Checks one topic setting by itself.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), SettingError> {
    match topic_setting(name) {
        Some(setting) => setting.parse(value).map(|_| ()),
        None => Err(SettingError::UnknownTopicConfig {
            name: name.to_owned(),
        }),
    }
}

impl CleanupPolicy {
    fn of(value: &Value) -> CleanupPolicy {
        let has = |policy: &str| match value {
            Value::List(items) => items.iter().any(|item| item == policy),
            _ => false,
        };
        CleanupPolicy {
            compact: has("compact"),
            delete: has("delete"),
        }
    }
}

impl CompressionType {
    fn of(value: &Value) -> CompressionType {
        match value.render().as_str() {
            "uncompressed" => CompressionType::Uncompressed,
            "gzip" => CompressionType::Gzip,
            "snappy" => CompressionType::Snappy,
            "lz4" => CompressionType::Lz4,
            "zstd" => CompressionType::Zstd,
            _ => CompressionType::Producer,
        }
    }
}

impl TimestampType {
    fn of(value: &Value) -> TimestampType {
        match value.render().as_str() {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        }
    }
}

fn positive(value: &Value) -> u64 {
    value.integer().max(0) as u64
}

fn clamp(value: &Value) -> u32 {
    value.integer().clamp(0, u32::MAX.into()) as u32
}

fn level(value: &Value) -> i32 {
    value.integer().clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn node(pairs: &[(&str, &str)]) -> NodeSettings {
        let mut layers = Layers::default();
        for (name, value) in pairs {
            let text = ((*value).to_owned(), Source::File);
            layers.fixed.insert((*name).to_owned(), text);
        }
        NodeSettings::assemble(layers, "machine").unwrap()
    }

    fn topic(node: &NodeSettings, pairs: &[(&str, &str)]) -> Result<LogSettings, String> {
        let overrides = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        LogSettings::resolve(node, &overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn a_topic_without_settings_runs_with_kafkas_defaults() {
        let log = topic(&node(&[]), &[]).unwrap();
        let hours = 3_600_000;
        let expected = LogSettings {
            segment_bytes: 1 << 30,
            segment_ms: 168 * hours,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 168 * hours as i64,
            retention_bytes: -1,
            flush_messages: i64::MAX as u64,
            flush_ms: i64::MAX as u64,
            max_message_bytes: 1_048_588,
            min_insync_replicas: 1,
            cleanup_policy: CleanupPolicy {
                compact: false,
                delete: true,
            },
            compression_type: CompressionType::Producer,
            compression_gzip_level: -1,
            compression_lz4_level: 9,
            compression_zstd_level: 3,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX as u64,
            message_timestamp_after_max_ms: hours,
            file_delete_delay_ms: 60_000,
            preallocate: false,
            unclean_leader_election_enable: false,
            delete_retention_ms: 24 * hours,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX as u64,
            min_cleanable_dirty_ratio: 0.5,
            log_io: LogIo::Auto,
        };
        assert_eq!(log, expected);
    }

    #[test]
    fn the_finer_unit_of_the_node_goes_before_the_coarser() {
        let retention = |pairs: &[_]| node(pairs).log_defaults.retention_ms;
        let hours = ("log.retention.hours", "1");
        let minutes = ("log.retention.minutes", "1");
        let ms = ("log.retention.ms", "1");
        assert_eq!(retention(&[hours]), 3_600_000);
        assert_eq!(retention(&[hours, minutes]), 60_000);
        assert_eq!(retention(&[ms, hours, minutes]), 1);
        assert_eq!(retention(&[("log.retention.hours", "-1")]), -1);
        assert_eq!(retention(&[("log.retention.ms", "-1"), hours]), -1);

        let roll = node(&[("log.roll.hours", "2"), ("log.roll.jitter.hours", "1")]).log_defaults;
        assert_eq!(
            (roll.segment_ms, roll.segment_jitter_ms),
            (7_200_000, 3_600_000)
        );
        let roll = node(&[("log.roll.hours", "2"), ("log.roll.ms", "5")]).log_defaults;
        assert_eq!(roll.segment_ms, 5);

        let flush = node(&[("log.flush.scheduler.interval.ms", "9")]).log_defaults;
        assert_eq!(flush.flush_ms, 9);
        let both = [
            ("log.flush.scheduler.interval.ms", "9"),
            ("log.flush.interval.ms", "4"),
        ];
        assert_eq!(node(&both).log_defaults.flush_ms, 4);
    }

    #[test]
    fn a_topics_own_setting_goes_before_the_nodes() {
        let node = node(&[
            ("log.retention.ms", "7"),
            ("log.cleanup.policy", "compact"),
            ("log.flush.interval.messages", "10"),
            ("message.max.bytes", "99"),
        ]);
        let log = topic(&node, &[]).unwrap();
        assert_eq!(
            (log.retention_ms, log.flush_messages, log.max_message_bytes),
            (7, 10, 99)
        );
        assert!(log.cleanup_policy.compact && !log.cleanup_policy.delete);
        let own = [
            ("retention.ms", "-1"),
            ("flush.messages", "1"),
            ("cleanup.policy", "delete, compact"),
            ("compression.type", "zstd"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.bytes", "-5"),
        ];
        let log = topic(&node, &own).unwrap();
        assert_eq!(
            (log.retention_ms, log.flush_messages, log.retention_bytes),
            (-1, 1, -1)
        );
        assert!(log.cleanup_policy.compact && log.cleanup_policy.delete);
        assert_eq!(log.compression_type, CompressionType::Zstd);
        assert_eq!(log.message_timestamp_type, TimestampType::LogAppendTime);
    }

    #[test]
    fn an_empty_cleanup_policy_removes_nothing() {
        let log = topic(&node(&[]), &[("cleanup.policy", "")]).unwrap();
        assert!(!log.cleanup_policy.compact && !log.cleanup_policy.delete);
    }

    #[test]
    fn a_segment_has_a_least_size_unless_a_test_asks_for_less() {
        let error = topic(&node(&[]), &[("segment.bytes", "1048575")]).unwrap_err();
        assert!(error.ends_with("Value must be at least 1048576"));
        let small = [
            ("internal.segment.bytes", "1000"),
            ("segment.bytes", "2000000"),
        ];
        assert_eq!(topic(&node(&[]), &small).unwrap().segment_bytes, 1000);
    }

    #[test]
    fn contradictions_are_refused_also_between_topic_and_node() {
        let both = [
            ("min.compaction.lag.ms", "10"),
            ("max.compaction.lag.ms", "5"),
        ];
        assert_eq!(
            topic(&node(&[]), &both).unwrap_err(),
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"
        );
        let short = node(&[("log.cleaner.max.compaction.lag.ms", "5")]);
        assert!(topic(&short, &both[..1]).is_err());
    }

    #[test]
    fn a_compacted_log_rolls_early_enough_to_be_compacted_in_time() {
        let lag = [
            ("max.compaction.lag.ms", "5"),
            ("cleanup.policy", "compact"),
        ];
        assert_eq!(topic(&node(&[]), &lag).unwrap().roll_ms(), 5);
        assert_eq!(topic(&node(&[]), &lag[..1]).unwrap().roll_ms(), 604_800_000);
    }

    #[test]
    fn promises_that_nobody_keeps_are_refused() {
        let error = topic(&node(&[]), &[("remote.storage.enable", "true")]).unwrap_err();
        assert!(error.starts_with("Tiered Storage functionality is disabled in the broker."));
        topic(&node(&[]), &[("remote.storage.enable", "false")]).unwrap();
    }

    #[test]
    fn unknown_names_are_refused_in_kafkas_words() {
        assert_eq!(
            topic(&node(&[]), &[("foo", "1")]).unwrap_err(),
            "Unknown topic config name: foo"
        );
        let error = validate_topic_config("message.format.version", "3.0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Unknown topic config name: message.format.version"
        );
        validate_topic_config("retention.ms", "-1").unwrap();
        validate_topic_config("retention.ms", "-2").unwrap_err();
    }

    #[test]
    fn impossible_node_values_are_refused_at_the_start() {
        let refused = |name: &str, value: &str| {
            let mut layers = Layers::default();
            layers
                .fixed
                .insert(name.to_owned(), (value.to_owned(), Source::File));
            NodeSettings::assemble(layers, "")
                .unwrap_err()
                .swap_remove(0)
                .to_string()
        };
        assert!(
            refused("log.roll.ms", "0").contains("log.roll.ms must be greater than or equal to 1")
        );
        assert!(refused("log.retention.ms", "0").contains("must be unlimited (-1)"));
        assert!(refused("log.roll.jitter.ms", "-1").contains("log.roll.jitter.ms"));
    }
}
