//! Topics' own settings.

use super::row::{boolean, double, int, list, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("segment.bytes").default("1073741824").at_least(1_048_576).bytes().topic().synonyms(&["log.segment.bytes"])
        .doc("Size at which a segment is closed."),
    long("segment.ms").default("604800000").at_least(1).ms().topic().synonyms(&["log.roll.ms", "log.roll.hours"])
        .doc("Age at which a segment is closed, full or not."),
    long("segment.jitter.ms").default("0").at_least(0).ms().topic().synonyms(&["log.roll.jitter.ms", "log.roll.jitter.hours"])
        .doc("At most this much is taken off segment.ms, at random."),
    int("segment.index.bytes").default("10485760").at_least(4).bytes().topic().synonyms(&["log.index.size.max.bytes"])
        .doc("Largest index of a segment; a full one closes the segment."),
    long("flush.messages").default("9223372036854775807").at_least(1).topic().synonyms(&["log.flush.interval.messages"])
        .doc("Records after which a partition is synced to disk; 1 syncs before each acknowledgement."),
    long("flush.ms").default("9223372036854775807").at_least(0).ms().topic().synonyms(&["log.flush.interval.ms", "log.flush.scheduler.interval.ms"])
        .doc("Longest time a record stays unsynced."),
    long("retention.bytes").default("-1").bytes().topic().synonyms(&["log.retention.bytes"])
        .doc("Bytes of a partition that are kept; -1 for all."),
    long("retention.ms").default("604800000").at_least(-1).ms().topic().synonyms(&["log.retention.ms", "log.retention.minutes", "log.retention.hours"])
        .doc("How long records are kept; -1 for ever."),
    int("max.message.bytes").default("1048588").at_least(0).bytes().topic().synonyms(&["message.max.bytes"])
        .doc("Largest record batch, as it is stored."),
    int("index.interval.bytes").default("4096").at_least(0).bytes().topic().synonyms(&["log.index.interval.bytes"])
        .doc("Bytes of records between two entries of an index."),
    long("delete.retention.ms").default("86400000").at_least(0).ms().topic().synonyms(&["log.cleaner.delete.retention.ms"])
        .doc("How long a tombstone is kept after compaction reached it."),
    long("min.compaction.lag.ms").default("0").at_least(0).ms().topic().synonyms(&["log.cleaner.min.compaction.lag.ms"])
        .doc("Least age of a record before it may be compacted away."),
    long("max.compaction.lag.ms").default("9223372036854775807").at_least(1).ms().topic().synonyms(&["log.cleaner.max.compaction.lag.ms"])
        .doc("Greatest age of a record before its log is due for compaction."),
    long("file.delete.delay.ms").default("60000").at_least(0).ms().topic().synonyms(&["log.segment.delete.delay.ms"])
        .doc("Time between the deletion of a file and the removal of its bytes."),
    double("min.cleanable.dirty.ratio").default("0.5").double_between(0.0, 1.0).topic().synonyms(&["log.cleaner.min.cleanable.ratio"])
        .doc("Share of a log that must be dirty before it is compacted."),
    list("cleanup.policy").default("delete").list_of(&["compact", "delete"]).topic().synonyms(&["log.cleanup.policy"])
        .doc("What happens to old records: delete, compact, both, or nothing if empty."),
    boolean("unclean.leader.election.enable").default("false").topic().not_yet().synonyms(&["unclean.leader.election.enable"])
        .doc("Whether a replica that is not in sync may lead, at the price of lost records."),
    int("min.insync.replicas").default("1").at_least(1).topic().synonyms(&["min.insync.replicas"])
        .doc("In-sync replicas that acks=all asks for, at most as many as there are replicas."),
    string("compression.type").default("producer").one_of(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]).topic().synonyms(&["compression.type"])
        .doc("How records are compressed on disk; producer keeps what the producer chose."),
    int("compression.gzip.level").default("-1").between_or(1, 9, -1).topic().synonyms(&["compression.gzip.level"])
        .doc("Level of gzip when the broker compresses; -1 is gzip's own default."),
    int("compression.lz4.level").default("9").between(1, 17).topic().synonyms(&["compression.lz4.level"])
        .doc("Level of lz4 when the broker compresses; 9 is fast, the others are thorough."),
    int("compression.zstd.level").default("3").between(-131_072, 22).topic().synonyms(&["compression.zstd.level"])
        .doc("Level of zstd when the broker compresses."),
    boolean("preallocate").default("false").topic().meaningless().synonyms(&["log.preallocate"])
        .doc("Whether Kafka reserves a whole segment at once; here space is reserved in growing steps in any case."),
    string("message.timestamp.type").default("CreateTime").one_of(&["CreateTime", "LogAppendTime"]).topic().synonyms(&["log.message.timestamp.type"])
        .doc("Whether records carry the time of their making or of their append."),
    long("message.timestamp.before.max.ms").default("9223372036854775807").at_least(0).ms().topic().synonyms(&["log.message.timestamp.before.max.ms"])
        .doc("How far a record's timestamp may lie behind the broker's clock."),
    long("message.timestamp.after.max.ms").default("3600000").at_least(0).ms().topic().synonyms(&["log.message.timestamp.after.max.ms"])
        .doc("How far a record's timestamp may lie ahead of the broker's clock."),
    list("leader.replication.throttled.replicas").default("").throttled_replicas().topic().not_yet()
        .doc("Replicas that a leader sends to under leader.replication.throttled.rate: partition:broker, or * for all."),
    list("follower.replication.throttled.replicas").default("").throttled_replicas().topic().not_yet()
        .doc("Replicas that fetch under follower.replication.throttled.rate: partition:broker, or * for all."),
    boolean("remote.storage.enable").default("false").topic().not_yet()
        .doc("Whether closed segments move to remote storage; refused until they do."),
    long("local.retention.ms").default("-2").at_least(-2).ms().topic().not_yet().synonyms(&["log.local.retention.ms"])
        .doc("How long a segment that is stored remotely is also kept locally; -2 for as long as retention.ms."),
    long("local.retention.bytes").default("-2").at_least(-2).bytes().topic().not_yet().synonyms(&["log.local.retention.bytes"])
        .doc("How many bytes that are stored remotely are also kept locally; -2 for retention.bytes."),
    boolean("remote.log.copy.disable").default("false").topic().not_yet()
        .doc("Whether nothing more is copied to remote storage."),
    boolean("remote.log.delete.on.disable").default("false").topic().not_yet()
        .doc("Whether remote copies are deleted when remote storage is switched off."),
    string("ringspun.log.io").default("auto").one_of(&["auto", "page-cache", "direct"]).topic().synonyms(&["ringspun.log.io"])
        .doc("How log files are written and read: through the page cache, or past it (direct, with O_DIRECT); auto is page-cache. A change counts for segments made from then on, and for older ones when they are opened again."),
    int("internal.segment.bytes").bytes().topic().internal()
        .doc("Size at which a segment is closed, without the lower limit of segment.bytes; for tests."),
];
