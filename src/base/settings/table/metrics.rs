//! Metrics and telemetry.

use super::row::{int, list, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("metrics.num.samples").default("2").at_least(1).low().meaningless()
        .doc("Samples kept of each metric in Kafka."),
    long("metrics.sample.window.ms").default("30000").at_least(1).ms().low().meaningless()
        .doc("Length of one sample of a metric in Kafka."),
    list("metric.reporters").default("org.apache.kafka.common.metrics.JmxReporter").low().cluster_wide().meaningless()
        .doc("Java classes that report metrics; here /metrics does."),
    string("metrics.recording.level").default("INFO").low().meaningless()
        .doc("Level of detail of Kafka's metrics."),
    list("kafka.metrics.reporters").default("").low().meaningless()
        .doc("Java classes that report Kafka's older metrics."),
    int("kafka.metrics.polling.interval.secs").default("10").at_least(1).seconds().low().meaningless()
        .doc("Time between two reports of Kafka's older metrics."),
    int("telemetry.max.bytes").default("1048576").at_least(1).bytes().low().not_yet()
        .doc("Largest report of metrics that a client may push."),
];
