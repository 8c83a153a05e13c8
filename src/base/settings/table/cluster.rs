//! What a node is, and its part in the cluster and its metadata.

use super::row::{boolean, int, list, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("broker.id").default("-1").high()
        .doc("Another name of node.id."),
    int("background.threads").default("10").at_least(1).high().cluster_wide().meaningless()
        .doc("Threads for Kafka's background work."),
    list("config.providers").default("").low().cluster_wide().meaningless()
        .doc("Java classes that fetch values of settings from elsewhere."),
    string("broker.rack")
        .doc("Rack or zone of this node, told to clients and used to place replicas."),
    boolean("controlled.shutdown.enable").default("true").not_yet()
        .doc("Whether leadership is handed over before a stop."),
    boolean("unstable.api.versions.enable").default("false").high().not_yet().internal()
        .doc("Whether versions of APIs that are still changing are offered."),
    boolean("unstable.feature.versions.enable").default("false").high().not_yet().internal()
        .doc("Whether versions of features that are still changing are offered."),
    list("process.roles").default("broker,controller").instead_of_none().list_of_some(&["broker", "controller"]).high()
        .doc("What this process is: one node is broker and controller at once."),
    int("node.id").at_least(0).high()
        .doc("Number of this node in its cluster; by default what meta.properties says, else 1."),
    int("initial.broker.registration.timeout.ms").default("60000").ms().not_yet()
        .doc("How long a starting broker tries to register with the controller."),
    int("broker.heartbeat.interval.ms").default("2000").ms().not_yet()
        .doc("Time between two heartbeats of a broker to the controller."),
    int("broker.session.timeout.ms").default("9000").ms().not_yet()
        .doc("Time without a heartbeat after which a broker is fenced."),
    list("controller.listener.names").list_of_some(&[]).high()
        .doc("Listeners of the controller; one node neither opens nor advertises them."),
    long("controller.performance.sample.period.ms").default("60000").at_least(100).ms().meaningless().internal()
        .doc("Time between two performance reports of Kafka's controller."),
    long("controller.performance.always.log.threshold.ms").default("2000").at_least(0).ms().meaningless().internal()
        .doc("Duration above which Kafka's controller logs an event as slow."),
    long("server.max.startup.time.ms").default("9223372036854775807").at_least(0).ms().not_yet().internal()
        .doc("Time after which an unfinished start is given up."),
    long("metadata.log.max.record.bytes.between.snapshots").default("20971520").at_least(1).bytes().high().not_yet()
        .doc("Bytes of metadata log between two snapshots."),
    long("metadata.log.max.snapshot.interval.ms").default("3600000").at_least(0).ms().high().not_yet()
        .doc("Longest time between two snapshots of the metadata."),
    string("metadata.log.dir").high()
        .doc("Directory of the metadata; by default the first of log.dirs."),
    int("metadata.log.segment.bytes").default("1073741824").at_least(8_388_608).bytes().high().meaningless()
        .doc("Size of a segment of Kafka's metadata log; the metadata is one file here."),
    long("metadata.log.segment.ms").default("604800000").ms().high().meaningless()
        .doc("Age of a segment of Kafka's metadata log; the metadata is one file here."),
    long("metadata.max.retention.bytes").default("104857600").bytes().high().meaningless()
        .doc("Size above which Kafka drops old metadata segments."),
    long("metadata.max.retention.ms").default("604800000").ms().high().meaningless()
        .doc("Age above which Kafka drops old metadata segments."),
    int("metadata.max.idle.interval.ms").default("500").at_least(0).ms().low().meaningless()
        .doc("Time after which an idle Kafka controller writes an empty metadata record."),
    int("internal.metadata.log.segment.bytes").bytes().low().meaningless().internal()
        .doc("Size of a segment of Kafka's metadata log, for tests."),
    int("internal.metadata.max.batch.size.in.bytes").default("8388608").bytes().low().meaningless().internal()
        .doc("Largest batch of Kafka's metadata log, for tests."),
    long("internal.metadata.delete.delay.millis").default("60000").ms().low().meaningless().internal()
        .doc("Delay before Kafka removes a metadata segment, for tests."),
    int("controller.socket.timeout.ms").default("30000").ms().not_yet()
        .doc("How long the controller waits for a broker."),
    list("controller.quorum.voters").default("").high().meaningless()
        .doc("Voters of the metadata quorum: id@host:port; one node needs none."),
    list("controller.quorum.bootstrap.servers").default("").high().meaningless()
        .doc("Addresses at which the metadata quorum is found; one node needs none."),
    int("controller.quorum.election.timeout.ms").default("1000").at_least(0).ms().high().meaningless()
        .doc("Time without a leader after which a metadata election starts."),
    int("controller.quorum.fetch.timeout.ms").default("2000").at_least(0).ms().high().meaningless()
        .doc("Time without an answer after which a metadata follower looks for a leader."),
    int("controller.quorum.election.backoff.max.ms").default("1000").at_least(0).ms().high().meaningless()
        .doc("Longest pause between two metadata elections."),
    int("controller.quorum.append.linger.ms").default("25").at_least(0).ms().meaningless()
        .doc("How long the metadata leader gathers writes."),
    int("controller.quorum.request.timeout.ms").default("2000").at_least(0).ms().meaningless()
        .doc("How long the metadata quorum waits for an answer."),
    int("controller.quorum.retry.backoff.ms").default("20").at_least(0).ms().low().meaningless()
        .doc("Pause before a request of the metadata quorum is repeated."),
    boolean("controller.quorum.auto.join.enable").default("false").low().meaningless()
        .doc("Whether a new controller joins the metadata quorum by itself."),
    int("controller.quorum.fetch.snapshot.max.bytes").default("1048576").at_least(1).bytes().low().meaningless()
        .doc("Bytes of a metadata snapshot in one answer."),
    int("controller.quorum.fetch.max.bytes").default("1048576").at_least(1).bytes().low().meaningless()
        .doc("Bytes of the metadata log in one answer."),
    int("controller.quota.window.num").default("11").at_least(1).low().not_yet()
        .doc("Samples over which the rate of changes of topics is measured."),
    int("controller.quota.window.size.seconds").default("1").at_least(1).seconds().low().not_yet()
        .doc("Length of one sample of the rate of changes of topics."),
];
