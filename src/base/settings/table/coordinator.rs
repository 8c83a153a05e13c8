//! Coordinators: committed offsets, consumer, share and streams groups.

use super::row::{int, list, long, short, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    list("group.coordinator.rebalance.protocols").default("classic,consumer,streams").list_of_some(&["consumer", "classic", "share", "streams"])
        .doc("Kinds of groups that are served: without consumer, those of the new protocol are not; classic must be among them."),
    int("group.coordinator.threads").default("4").at_least(1).high().meaningless()
        .doc("Threads of Kafka's group coordinator."),
    int("group.coordinator.background.threads").default("2").at_least(1).high().meaningless()
        .doc("Background threads of Kafka's group coordinator."),
    int("group.coordinator.append.linger.ms").default("-1").at_least(-1).ms()
        .doc("How long the group coordinator gathers requests whose writes share a batch; -1 and 0 wait for nothing, and gather what has arrived."),
    int("offsets.commit.timeout.ms").default("5000").at_least(1).ms().high()
        .doc("How long an offset commit waits to be replicated."),
    int("offsets.load.buffer.size").default("1048576").instead_of("5242880").at_least(1).bytes().high()
        .doc("Bytes read at once when committed offsets are loaded, at most 64 MiB; all partitions of the topic load side by side."),
    short("offsets.topic.replication.factor").default("1").instead_of("3").at_least(1).high()
        .doc("Replicas of the topic of committed offsets; here 3, or the number of nodes if that is less."),
    int("offsets.topic.num.partitions").default("50").at_least(1).high()
        .doc("Partitions of the topic of committed offsets."),
    int("offsets.topic.segment.bytes").default("104857600").at_least(1).bytes().high()
        .doc("Segment size of the topic of committed offsets."),
    int("offsets.topic.compression.codec").default("0").high()
        .doc("Compression of the topic of committed offsets: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    int("group.coordinator.cached.buffer.max.bytes").default("1048588").at_least(524_288).bytes().cluster_wide().meaningless()
        .doc("Largest write buffer that Kafka's group coordinator keeps for reuse; here none is kept."),
    int("offset.metadata.max.bytes").default("4096").bytes().high()
        .doc("Largest text that may accompany a committed offset."),
    int("offsets.retention.minutes").default("10080").at_least(1).minutes().high()
        .doc("How long committed offsets outlive their group."),
    long("offsets.retention.check.interval.ms").default("600000").at_least(1).ms().high()
        .doc("Time between two looks for expired offsets."),
    int("group.min.session.timeout.ms").default("6000").ms()
        .doc("Shortest session timeout a classic group's member may ask for."),
    int("group.max.session.timeout.ms").default("1800000").ms()
        .doc("Longest session timeout a classic group's member may ask for."),
    int("group.initial.rebalance.delay.ms").default("3000").ms()
        .doc("How long an empty classic group waits for more members before its first rebalance."),
    int("group.max.size").default("2147483647").at_least(1)
        .doc("Members a classic group may have."),
    int("group.consumer.session.timeout.ms").default("45000").at_least(1).ms()
        .doc("Time without a heartbeat after which a member of a consumer group is removed."),
    int("group.consumer.min.session.timeout.ms").default("45000").at_least(1).ms()
        .doc("Least session timeout a consumer group may be given."),
    int("group.consumer.max.session.timeout.ms").default("60000").at_least(1).ms()
        .doc("Greatest session timeout a consumer group may be given."),
    int("group.consumer.heartbeat.interval.ms").default("5000").at_least(1).ms()
        .doc("Time between heartbeats of a consumer group's members."),
    int("group.consumer.min.heartbeat.interval.ms").default("5000").at_least(1).ms()
        .doc("Least heartbeat interval a consumer group may be given."),
    int("group.consumer.max.heartbeat.interval.ms").default("15000").at_least(1).ms()
        .doc("Greatest heartbeat interval a consumer group may be given."),
    int("group.consumer.max.size").default("2147483647").at_least(1)
        .doc("Members a consumer group may have."),
    list("group.consumer.assignors").default("uniform,range").list_of_some(&[])
        .doc("Assignors of consumer groups, the first one being the default."),
    string("group.consumer.migration.policy").default("bidirectional").one_of_ignore_case(&["DISABLED", "DOWNGRADE", "UPGRADE", "BIDIRECTIONAL"])
        .doc("Between which kinds a group may change while it has members."),
    int("group.consumer.assignment.interval.ms").default("1000").at_least(0).ms().cluster_wide()
        .doc("Least time between two assignments of a consumer group."),
    int("group.consumer.min.assignment.interval.ms").default("0").at_least(0).ms()
        .doc("Least assignment interval a consumer group may be given."),
    int("group.consumer.max.assignment.interval.ms").default("15000").at_least(0).ms()
        .doc("Greatest assignment interval a consumer group may be given."),
    int("group.consumer.regex.refresh.interval.ms").default("600000").at_least(10_000).ms().internal()
        .doc("Time between two evaluations of subscriptions by pattern."),
    int("group.share.session.timeout.ms").default("45000").at_least(1).ms().not_yet()
        .doc("Time without a heartbeat after which a member of a share group is removed."),
    int("group.share.min.session.timeout.ms").default("45000").at_least(1).ms().not_yet()
        .doc("Least session timeout a share group may be given."),
    int("group.share.max.session.timeout.ms").default("60000").at_least(1).ms().not_yet()
        .doc("Greatest session timeout a share group may be given."),
    int("group.share.heartbeat.interval.ms").default("5000").at_least(1).ms().not_yet()
        .doc("Time between heartbeats of a share group's members."),
    int("group.share.min.heartbeat.interval.ms").default("5000").at_least(1).ms().not_yet()
        .doc("Least heartbeat interval a share group may be given."),
    int("group.share.max.heartbeat.interval.ms").default("15000").at_least(1).ms().not_yet()
        .doc("Greatest heartbeat interval a share group may be given."),
    int("group.share.max.size").default("200").between(1, 1_000).not_yet()
        .doc("Members a share group may have."),
    list("group.share.assignors").default("simple").list_of_some(&[]).not_yet()
        .doc("Assignors of share groups."),
    int("group.share.assignment.interval.ms").default("1000").at_least(0).ms().cluster_wide().not_yet()
        .doc("Least time between two assignments of a share group."),
    int("group.share.min.assignment.interval.ms").default("0").at_least(0).ms().not_yet()
        .doc("Least assignment interval a share group may be given."),
    int("group.share.max.assignment.interval.ms").default("15000").at_least(0).ms().not_yet()
        .doc("Greatest assignment interval a share group may be given."),
    int("group.share.initialize.retry.interval.ms").default("30000").at_least(1).ms().low().not_yet().internal()
        .doc("Pause before the state of a share partition is initialised once more."),
    int("group.streams.session.timeout.ms").default("45000").at_least(1).ms().not_yet()
        .doc("Time without a heartbeat after which a member of a streams group is removed."),
    int("group.streams.min.session.timeout.ms").default("45000").at_least(1).ms().not_yet()
        .doc("Least session timeout a streams group may be given."),
    int("group.streams.max.session.timeout.ms").default("60000").at_least(1).ms().not_yet()
        .doc("Greatest session timeout a streams group may be given."),
    int("group.streams.heartbeat.interval.ms").default("5000").at_least(1).ms().not_yet()
        .doc("Time between heartbeats of a streams group's members."),
    int("group.streams.min.heartbeat.interval.ms").default("5000").at_least(1).ms().not_yet()
        .doc("Least heartbeat interval a streams group may be given."),
    int("group.streams.max.heartbeat.interval.ms").default("15000").at_least(1).ms().not_yet()
        .doc("Greatest heartbeat interval a streams group may be given."),
    int("group.streams.max.size").default("2147483647").at_least(1).not_yet()
        .doc("Members a streams group may have."),
    int("group.streams.num.standby.replicas").default("0").at_least(0).not_yet()
        .doc("Standby copies of each task of a streams group."),
    int("group.streams.max.standby.replicas").default("2").at_least(0).not_yet()
        .doc("Greatest number of standby copies a streams group may be given."),
    int("group.streams.initial.rebalance.delay.ms").default("3000").at_least(0).ms().not_yet()
        .doc("How long an empty streams group waits for more members before its first assignment."),
    int("group.streams.assignment.interval.ms").default("1000").at_least(0).ms().cluster_wide().not_yet()
        .doc("Least time between two assignments of a streams group."),
    int("group.streams.min.assignment.interval.ms").default("0").at_least(0).ms().not_yet()
        .doc("Least assignment interval a streams group may be given."),
    int("group.streams.max.assignment.interval.ms").default("15000").at_least(0).ms().not_yet()
        .doc("Greatest assignment interval a streams group may be given."),
    int("group.share.delivery.count.limit").default("5").between(2, 10).not_yet()
        .doc("Times a record is delivered to a share group before it is given up."),
    int("group.share.max.delivery.count.limit").default("10").between(5, 25).not_yet()
        .doc("Greatest delivery count limit a share group may be given."),
    int("group.share.min.delivery.count.limit").default("2").between(2, 5).not_yet()
        .doc("Least delivery count limit a share group may be given."),
    int("group.share.record.lock.duration.ms").default("30000").between(1_000, 3_600_000).ms().not_yet()
        .doc("How long a share group's member may hold a record."),
    int("group.share.min.record.lock.duration.ms").default("15000").between(1_000, 30_000).ms().not_yet()
        .doc("Least lock duration a share group may be given."),
    int("group.share.max.record.lock.duration.ms").default("60000").between(30_000, 3_600_000).ms().not_yet()
        .doc("Greatest lock duration a share group may be given."),
    int("group.share.partition.max.record.locks").default("2000").between(100, 10_000).not_yet()
        .doc("Records of a partition that a share group's members may hold at once."),
    int("group.share.max.partition.max.record.locks").default("4000").between(2_000, 10_000).not_yet()
        .doc("Greatest limit of held records a share group may be given."),
    int("group.share.min.partition.max.record.locks").default("100").between(100, 2_000).not_yet()
        .doc("Least limit of held records a share group may be given."),
    int("share.fetch.purgatory.purge.interval.requests").default("1000").meaningless()
        .doc("Finished share fetches that Kafka leaves in its waiting list before it cleans up."),
    int("group.share.max.share.sessions").default("2000").at_least(1).not_yet()
        .doc("Share sessions a node keeps."),
    string("group.share.persister.class.name").default("org.apache.kafka.server.share.persister.DefaultStatePersister").meaningless().internal()
        .doc("Java class that stores the state of share groups."),
    int("share.coordinator.state.topic.num.partitions").default("50").at_least(1).high().not_yet()
        .doc("Partitions of the topic of share group state."),
    short("share.coordinator.state.topic.replication.factor").default("1").instead_of("3").at_least(1).high().not_yet()
        .doc("Replicas of the topic of share group state; here 3, or the number of nodes if that is less."),
    short("share.coordinator.state.topic.min.isr").default("2").at_least(1).high().not_yet()
        .doc("In-sync replicas that writes to the topic of share group state ask for."),
    int("share.coordinator.state.topic.segment.bytes").default("104857600").at_least(1).bytes().high().not_yet()
        .doc("Segment size of the topic of share group state."),
    int("share.coordinator.threads").default("1").at_least(1).meaningless()
        .doc("Threads of Kafka's share coordinator."),
    int("share.coordinator.snapshot.update.records.per.snapshot").default("500").between(0, 500).not_yet()
        .doc("Updates of share group state between two snapshots."),
    int("share.coordinator.load.buffer.size").default("5242880").at_least(1).bytes().high().not_yet()
        .doc("Bytes read at once when share group state is loaded."),
    int("share.coordinator.state.topic.compression.codec").default("0").high().not_yet()
        .doc("Compression of the topic of share group state: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    int("share.coordinator.append.linger.ms").default("-1").at_least(-1).ms().not_yet()
        .doc("How long the share coordinator gathers writes; -1 to adapt to the load."),
    int("share.coordinator.write.timeout.ms").default("5000").at_least(1).ms().high().not_yet()
        .doc("How long a write of share group state waits to be replicated."),
    int("share.coordinator.state.topic.prune.interval.ms").default("300000").at_least(1).ms().low().not_yet().internal()
        .doc("Time between two removals of outdated share group state."),
    int("share.coordinator.cold.partition.snapshot.interval.ms").default("300000").at_least(1).ms().low().not_yet().internal()
        .doc("Time between two looks for share partitions in need of a snapshot."),
    int("share.coordinator.cached.buffer.max.bytes").default("1048588").at_least(524_288).bytes().cluster_wide().not_yet()
        .doc("Largest write buffer the share coordinator keeps for reuse."),
];
