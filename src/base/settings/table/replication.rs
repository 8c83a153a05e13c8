//! Replication between brokers.

use super::row::{boolean, int, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("num.replica.alter.log.dirs.threads").high().meaningless()
        .doc("Threads that move replicas between data directories."),
    long("replica.lag.time.max.ms").default("30000").ms().high().not_yet()
        .doc("Time a follower may lag before it leaves the in-sync replicas."),
    int("replica.socket.timeout.ms").default("30000").ms().high().not_yet()
        .doc("How long a follower waits for its leader."),
    int("replica.socket.receive.buffer.bytes").default("65536").bytes().high().not_yet()
        .doc("Receive buffer of a follower's connection."),
    int("replica.fetch.max.bytes").default("1048576").at_least(0).bytes().not_yet()
        .doc("Bytes of one partition that a follower asks for at once."),
    int("replica.fetch.wait.max.ms").default("500").ms().high().not_yet()
        .doc("Longest wait of a follower's fetch."),
    int("replica.fetch.backoff.ms").default("1000").at_least(0).ms().not_yet()
        .doc("Pause of a follower after an error of a partition."),
    int("replica.fetch.min.bytes").default("1").bytes().high().not_yet()
        .doc("Bytes a follower's fetch waits for."),
    int("replica.fetch.response.max.bytes").default("10485760").at_least(0).bytes().not_yet()
        .doc("Bytes a follower asks for in one fetch."),
    int("num.replica.fetchers").default("1").at_least(1).high().cluster_wide().meaningless()
        .doc("Threads a follower fetches with from each leader."),
    long("replica.high.watermark.checkpoint.interval.ms").default("5000").ms().high().not_yet()
        .doc("Time between two writes of the high watermarks to disk."),
    boolean("auto.leader.rebalance.enable").default("true").high().not_yet()
        .doc("Whether leadership returns to the preferred replica by itself."),
    long("leader.imbalance.check.interval.seconds").default("300").at_least(1).seconds().high().not_yet()
        .doc("Time between two looks for leaders that are not the preferred replica."),
    long("unclean.leader.election.interval.ms").default("300000").at_least(1).ms().not_yet().internal()
        .doc("Time between two attempts to elect an out-of-sync leader where that is allowed."),
    boolean("unclean.leader.election.enable").default("false").high().cluster_wide().not_yet()
        .doc("Whether a replica that is not in sync may lead, at the price of lost records."),
    string("replica.selector.class").not_yet()
        .doc("Java class that picks the replica a consumer reads from."),
    int("replication.quota.window.num").default("11").at_least(1).low().not_yet()
        .doc("Samples over which the replication rate is measured."),
    int("alter.log.dirs.replication.quota.window.num").default("11").at_least(1).low().not_yet()
        .doc("Samples over which the rate of moves between data directories is measured."),
    int("replication.quota.window.size.seconds").default("1").at_least(1).seconds().low().not_yet()
        .doc("Length of one sample of the replication rate."),
    int("alter.log.dirs.replication.quota.window.size.seconds").default("1").at_least(1).seconds().low().not_yet()
        .doc("Length of one sample of the rate of moves between data directories."),
    long("leader.replication.throttled.rate").default("9223372036854775807").at_least(0).bytes_per_second().cluster_wide().not_yet().internal()
        .doc("Limit of what a leader sends to throttled replicas."),
    long("follower.replication.throttled.rate").default("9223372036854775807").at_least(0).bytes_per_second().cluster_wide().not_yet().internal()
        .doc("Limit of what a follower fetches for throttled replicas."),
    long("replica.alter.log.dirs.io.max.bytes.per.second").default("9223372036854775807").at_least(0).bytes_per_second().cluster_wide().internal()
        .doc("Limit of the rate of moves between data directories, over all shards."),
];
