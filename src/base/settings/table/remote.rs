//! Remote (tiered) storage.

use super::row::{boolean, double, int, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    boolean("remote.log.storage.system.enable").default("false").not_yet()
        .doc("Whether closed segments may move to remote storage."),
    string("remote.log.storage.manager.impl.prefix").default("rsm.config.").non_empty().not_yet()
        .doc("Prefix of the settings that are handed to the remote storage plug-in."),
    string("remote.log.metadata.manager.impl.prefix").default("rlmm.config.").non_empty().not_yet()
        .doc("Prefix of the settings that are handed to the remote metadata plug-in."),
    string("remote.log.storage.manager.class.name").non_empty().meaningless()
        .doc("Java class that stores segments remotely."),
    string("remote.log.storage.manager.class.path").meaningless()
        .doc("Where the Java class for remote storage is found."),
    string("remote.log.metadata.manager.class.name").default("org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager").non_empty().meaningless()
        .doc("Java class that remembers what is stored remotely."),
    string("remote.log.metadata.manager.class.path").meaningless()
        .doc("Where the Java class for remote metadata is found."),
    string("remote.log.metadata.manager.listener.name").non_empty().not_yet()
        .doc("Listener through which remote metadata is read and written."),
    int("remote.log.metadata.custom.metadata.max.bytes").default("128").at_least(0).bytes().low().not_yet()
        .doc("Largest custom metadata of a remote segment."),
    long("remote.log.index.file.cache.total.size.bytes").default("1073741824").at_least(1).bytes().low().cluster_wide().not_yet()
        .doc("Disk space for indexes fetched from remote storage."),
    long("remote.log.index.file.cache.ttl.ms").default("900000").at_least(-1).ms().low().not_yet().internal()
        .doc("How long an index fetched from remote storage is kept unused."),
    int("remote.log.manager.thread.pool.size").default("2").at_least(1).meaningless()
        .doc("Threads of Kafka's remote storage scheduler."),
    int("remote.log.manager.copier.thread.pool.size").default("10").at_least(1).cluster_wide().meaningless()
        .doc("Threads that copy segments to remote storage."),
    int("remote.log.manager.expiration.thread.pool.size").default("10").at_least(1).cluster_wide().meaningless()
        .doc("Threads that delete expired segments in remote storage."),
    int("remote.log.manager.follower.thread.pool.size").default("2").at_least(1).cluster_wide().meaningless()
        .doc("Threads that follow remote storage for partitions led elsewhere."),
    long("remote.log.manager.task.interval.ms").default("30000").at_least(1).ms().low().not_yet()
        .doc("Time between two looks for segments to copy or delete remotely."),
    long("remote.log.manager.task.retry.backoff.ms").default("500").at_least(1).ms().low().not_yet().internal()
        .doc("First pause after a failed remote storage task."),
    long("remote.log.manager.task.retry.backoff.max.ms").default("30000").at_least(1).ms().low().not_yet().internal()
        .doc("Longest pause after a failed remote storage task."),
    double("remote.log.manager.task.retry.jitter").default("0.2").double_between(0.0, 0.5).low().not_yet().internal()
        .doc("Random share added to the pause after a failed remote storage task."),
    int("remote.log.reader.threads").default("10").at_least(1).cluster_wide().meaningless()
        .doc("Threads that read from remote storage."),
    int("remote.log.reader.max.pending.tasks").default("100").at_least(1).not_yet()
        .doc("Remote reads that may wait before further ones are refused."),
    long("log.local.retention.ms").default("-2").at_least(-2).ms().cluster_wide().not_yet()
        .doc("How long a segment that is stored remotely is also kept locally; -2 for as long as log.retention.ms."),
    long("log.local.retention.bytes").default("-2").at_least(-2).bytes().cluster_wide().not_yet()
        .doc("How many bytes of a partition that are stored remotely are also kept locally; -2 for log.retention.bytes."),
    long("remote.log.manager.copy.max.bytes.per.second").default("9223372036854775807").at_least(1).bytes_per_second().cluster_wide().not_yet()
        .doc("Limit of the rate of copying to remote storage."),
    int("remote.log.manager.copy.quota.window.num").default("11").at_least(1).not_yet()
        .doc("Samples over which the copy rate is measured."),
    int("remote.log.manager.copy.quota.window.size.seconds").default("1").at_least(1).seconds().not_yet()
        .doc("Length of one sample of the copy rate."),
    long("remote.log.manager.fetch.max.bytes.per.second").default("9223372036854775807").at_least(1).bytes_per_second().cluster_wide().not_yet()
        .doc("Limit of the rate of reading from remote storage."),
    int("remote.log.manager.fetch.quota.window.num").default("11").at_least(1).not_yet()
        .doc("Samples over which the remote read rate is measured."),
    int("remote.log.manager.fetch.quota.window.size.seconds").default("1").at_least(1).seconds().not_yet()
        .doc("Length of one sample of the remote read rate."),
    int("remote.fetch.max.wait.ms").default("500").at_least(1).ms().cluster_wide().not_yet()
        .doc("How long a fetch waits for remote storage."),
    long("remote.list.offsets.request.timeout.ms").default("30000").at_least(1).ms().cluster_wide().not_yet()
        .doc("How long ListOffsets waits for remote storage."),
    boolean("follower.fetch.last.tiered.offset.enable").default("false").cluster_wide().not_yet()
        .doc("Whether a new follower starts at the end of what is stored remotely."),
];
