//! Groups' own settings (KIP-848, KIP-932, KIP-1071).

use super::row::{boolean, int, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("consumer.session.timeout.ms").default("45000").at_least(1).ms().group()
        .doc("Time without a heartbeat after which a member of this consumer group is removed."),
    int("consumer.heartbeat.interval.ms").default("5000").at_least(1).ms().group()
        .doc("Time between heartbeats of this consumer group's members."),
    int("consumer.assignment.interval.ms").default("1000").at_least(0).ms().group()
        .doc("Least time between two assignments of this consumer group."),
    int("share.session.timeout.ms").default("45000").at_least(1).ms().group().not_yet()
        .doc("Time without a heartbeat after which a member of this share group is removed."),
    int("share.heartbeat.interval.ms").default("5000").at_least(1).ms().group().not_yet()
        .doc("Time between heartbeats of this share group's members."),
    int("share.record.lock.duration.ms").default("30000").at_least(1_000).ms().group().not_yet()
        .doc("How long a member of this share group may hold a record."),
    int("share.delivery.count.limit").default("5").at_least(2).group().not_yet()
        .doc("Times a record is delivered to this share group before it is given up."),
    int("share.partition.max.record.locks").default("2000").at_least(100).group().not_yet()
        .doc("Records of a partition that this share group's members may hold at once."),
    string("share.auto.offset.reset").default("latest").offset_reset(&["latest", "earliest"]).group().not_yet()
        .doc("Where this share group starts on a partition it has not read."),
    string("share.isolation.level").default("read_uncommitted").one_of(&["read_committed", "read_uncommitted"]).group().not_yet()
        .doc("Whether this share group sees records of open and aborted transactions."),
    boolean("share.renew.acknowledge.enable").default("true").group().not_yet()
        .doc("Whether members of this share group may extend the time they hold a record."),
    int("share.assignment.interval.ms").default("1000").at_least(0).ms().group().not_yet()
        .doc("Least time between two assignments of this share group."),
    int("streams.session.timeout.ms").default("45000").at_least(1).ms().group().not_yet()
        .doc("Time without a heartbeat after which a member of this streams group is removed."),
    int("streams.heartbeat.interval.ms").default("5000").at_least(1).ms().group().not_yet()
        .doc("Time between heartbeats of this streams group's members."),
    int("streams.num.standby.replicas").default("0").at_least(0).group().not_yet()
        .doc("Standby copies of each task of this streams group."),
    int("streams.initial.rebalance.delay.ms").default("3000").at_least(0).ms().group().not_yet()
        .doc("How long this streams group, when empty, waits for more members before its first assignment."),
    int("streams.assignment.interval.ms").default("1000").at_least(0).ms().group().not_yet()
        .doc("Least time between two assignments of this streams group."),
];
