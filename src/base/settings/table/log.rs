//! Topics and logs: defaults of every topic, and the care of all logs.

use super::row::{boolean, class, double, int, list, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("message.max.bytes").default("1048588").at_least(0).bytes().high().cluster_wide()
        .doc("Largest record batch a topic takes unless it says otherwise, as it is stored."),
    boolean("delete.topic.enable").default("true").high()
        .doc("Whether topics may be deleted."),
    string("compression.type").default("producer").one_of(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]).high().cluster_wide()
        .doc("How records are compressed on disk; producer keeps what the producer chose."),
    int("compression.gzip.level").default("-1").between_or(1, 9, -1).cluster_wide()
        .doc("Level of gzip when the broker compresses; -1 is gzip's own default."),
    int("compression.lz4.level").default("9").between(1, 17).cluster_wide()
        .doc("Level of lz4 when the broker compresses; 9 is fast, the others are thorough."),
    int("compression.zstd.level").default("3").between(-131_072, 22).cluster_wide()
        .doc("Level of zstd when the broker compresses."),
    int("default.replication.factor").default("1")
        .doc("Replicas of a topic that does not say how many."),
    int("log.cleaner.threads").default("1").at_least(0).cluster_wide()
        .doc("0 pauses compaction; else each shard compacts one log at a time, whatever the number."),
    double("log.cleaner.io.max.bytes.per.second").default("1.7976931348623157E308").bytes_per_second().cluster_wide()
        .doc("Limit of what compaction reads and writes, over all shards."),
    long("log.cleaner.dedupe.buffer.size").default("134217728").bytes().cluster_wide()
        .doc("Memory for the keys of compaction, over all shards; at most an eighth of ringspun.memory.bytes."),
    int("log.cleaner.io.buffer.size").default("524288").at_least(0).bytes().cluster_wide()
        .doc("Memory for the reads and writes of compaction, over all shards."),
    double("log.cleaner.io.buffer.load.factor").default("0.9").cluster_wide()
        .doc("How full the key buffer of compaction may get."),
    long("log.cleaner.backoff.ms").default("15000").at_least(0).ms().cluster_wide()
        .doc("Pause when there is nothing to compact."),
    double("log.cleaner.min.cleanable.ratio").default("0.5").double_between(0.0, 1.0).cluster_wide()
        .doc("Share of a log that must be dirty before it is compacted."),
    boolean("log.cleaner.enable").default("true")
        .doc("Whether logs are compacted."),
    long("log.cleaner.delete.retention.ms").default("86400000").at_least(0).ms().cluster_wide()
        .doc("How long a tombstone is kept after compaction reached it."),
    long("log.cleaner.min.compaction.lag.ms").default("0").at_least(0).ms().cluster_wide()
        .doc("Least age of a record before it may be compacted away."),
    long("log.cleaner.max.compaction.lag.ms").default("9223372036854775807").at_least(1).ms().cluster_wide()
        .doc("Greatest age of a record before its log is due for compaction."),
    int("num.partitions").default("1").at_least(1)
        .doc("Partitions of a topic that does not say how many."),
    list("log.dir").default("./ringspun-data").instead_of("/tmp/kafka-logs").list_of_some(&[]).high()
        .doc("Data directory, where log.dirs is not set."),
    list("log.dirs").list_of_some(&[]).high()
        .doc("Data directories, comma separated."),
    list("cordoned.log.dirs").default("").per_broker().not_yet()
        .doc("Data directories that get no new partitions; * for all."),
    int("log.segment.bytes").default("1073741824").at_least(1_048_576).bytes().high().cluster_wide()
        .doc("Size at which a segment is closed."),
    long("log.roll.ms").ms().high().cluster_wide().synonyms(&["log.roll.ms", "log.roll.hours"])
        .doc("Age at which a segment is closed; before log.roll.hours."),
    int("log.roll.hours").default("168").at_least(1).hours().high().synonyms(&["log.roll.ms", "log.roll.hours"])
        .doc("Age at which a segment is closed, where log.roll.ms is not set."),
    long("log.roll.jitter.ms").ms().high().cluster_wide().synonyms(&["log.roll.jitter.ms", "log.roll.jitter.hours"])
        .doc("At most this much is taken off the age at which a segment is closed, at random; before log.roll.jitter.hours."),
    int("log.roll.jitter.hours").default("0").at_least(0).hours().high().synonyms(&["log.roll.jitter.ms", "log.roll.jitter.hours"])
        .doc("As log.roll.jitter.ms, where that is not set."),
    long("log.retention.ms").ms().high().cluster_wide().synonyms(&["log.retention.ms", "log.retention.minutes", "log.retention.hours"])
        .doc("How long records are kept; -1 for ever; before log.retention.minutes and log.retention.hours."),
    int("log.retention.minutes").minutes().high().synonyms(&["log.retention.ms", "log.retention.minutes", "log.retention.hours"])
        .doc("How long records are kept, where log.retention.ms is not set."),
    int("log.retention.hours").default("168").hours().high().synonyms(&["log.retention.ms", "log.retention.minutes", "log.retention.hours"])
        .doc("How long records are kept, where neither log.retention.ms nor log.retention.minutes is set."),
    long("log.retention.bytes").default("-1").bytes().high().cluster_wide()
        .doc("Bytes of a partition that are kept; -1 for all."),
    long("log.retention.check.interval.ms").default("300000").at_least(1).ms()
        .doc("Time between two looks for segments that may go."),
    list("log.cleanup.policy").default("delete").list_of(&["compact", "delete"]).cluster_wide()
        .doc("What happens to old records: delete, compact, both, or nothing if empty."),
    int("log.index.size.max.bytes").default("10485760").at_least(4).bytes().cluster_wide()
        .doc("Largest index of a segment; a full one closes the segment."),
    int("log.index.interval.bytes").default("4096").at_least(0).bytes().cluster_wide()
        .doc("Bytes of records between two entries of an index."),
    long("log.flush.interval.messages").default("9223372036854775807").at_least(1).high().cluster_wide()
        .doc("Records after which a partition is synced to disk; 1 syncs before each acknowledgement."),
    long("log.segment.delete.delay.ms").default("60000").at_least(0).ms().high().cluster_wide()
        .doc("Time between the deletion of a file and the removal of its bytes."),
    long("log.flush.scheduler.interval.ms").default("9223372036854775807").ms().high()
        .doc("Time between two looks for partitions whose log.flush.interval.ms has passed."),
    long("log.flush.interval.ms").ms().high().cluster_wide().synonyms(&["log.flush.interval.ms", "log.flush.scheduler.interval.ms"])
        .doc("Longest time a record stays unsynced; by default log.flush.scheduler.interval.ms."),
    int("log.flush.offset.checkpoint.interval.ms").default("60000").at_least(0).ms().high()
        .doc("Time between two writes of the recovery points."),
    int("log.flush.start.offset.checkpoint.interval.ms").default("60000").at_least(0).ms().high()
        .doc("Time between two writes of the log start offsets."),
    boolean("log.preallocate").default("false").cluster_wide().meaningless()
        .doc("Whether Kafka reserves a whole segment at once; here space is reserved in growing steps in any case."),
    int("num.recovery.threads.per.data.dir").default("2").at_least(1).high().cluster_wide().meaningless()
        .doc("Threads that recover logs in Kafka; here each core recovers its own partitions."),
    boolean("auto.create.topics.enable").default("true").high()
        .doc("Whether asking for an unknown topic creates it."),
    int("min.insync.replicas").default("1").at_least(1).high().cluster_wide()
        .doc("In-sync replicas that acks=all asks for, at most as many as there are replicas."),
    string("log.message.timestamp.type").default("CreateTime").one_of(&["CreateTime", "LogAppendTime"]).cluster_wide()
        .doc("Whether records carry the time of their making or of their append."),
    long("log.message.timestamp.before.max.ms").default("9223372036854775807").at_least(0).ms().cluster_wide()
        .doc("How far a record's timestamp may lie behind the broker's clock."),
    long("log.message.timestamp.after.max.ms").default("3600000").at_least(0).ms().cluster_wide()
        .doc("How far a record's timestamp may lie ahead of the broker's clock."),
    class("create.topic.policy.class.name").low().not_yet()
        .doc("Java class that may refuse new topics."),
    class("alter.config.policy.class.name").low().not_yet()
        .doc("Java class that may refuse changes of settings."),
    long("log.dir.failure.timeout.ms").default("30000").at_least(1).ms().low().not_yet()
        .doc("Time after which a broker stops if it cannot report a failed data directory."),
    long("log.initial.task.delay.ms").default("30000").at_least(0).ms().low().internal()
        .doc("Time from the start to the first retention check, flush check and checkpoint."),
    int("producer.id.expiration.ms").default("86400000").at_least(1).ms().low().cluster_wide()
        .doc("How long after its last batch an idempotent producer is remembered."),
    int("producer.id.expiration.check.interval.ms").default("600000").at_least(1).ms().low().internal()
        .doc("Time between two looks for producers to forget."),
];
