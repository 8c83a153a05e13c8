//! Settings that Kafka does not have.

use super::row::{boolean, int, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    string("ringspun.cores").default("").high()
        .doc("CPUs to run shards on: how many (2), or which (0,2-3; one alone is 5,); empty for every CPU this process may run on."),
    int("ringspun.shards").default("0").between(0, 1024).low()
        .doc("Shards to run; 0 for one a core. More than the cores is for tests."),
    int("ringspun.idle.poll.us").default("0").between(0, 1_000_000)
        .doc("Microseconds for which a shard that has nothing to do goes on looking before it sleeps: shorter times to an answer, for CPU that nobody else wanted. 0 sleeps at once."),
    long("ringspun.memory.bytes").default("0").at_least(0).bytes().high()
        .doc("Memory budget of the whole process; 0 for a quarter of the smaller of RAM and cgroup limit."),
    long("ringspun.request.stall.timeout.ms").default("10000").at_least(1).ms().low()
        .doc("Time after which a request that has arrived in part and no longer grows is given up while others wait for memory."),
    string("ringspun.http.listener").default("127.0.0.1:9644").high()
        .doc("Address of health checks, metrics and profile, host:port; empty for none."),
    string("ringspun.logging.level").default("info").non_empty()
        .doc("What is logged: error, warn, info, debug or trace, also by module (info,ringspun::storage=debug)."),
    string("ringspun.logging.format").default("text").one_of(&["text", "json"])
        .doc("How log lines look."),
    boolean("ringspun.metrics.partitions").default("false")
        .doc("Whether /metrics has series for each partition."),
    boolean("ringspun.profile.enable").default("true").low()
        .doc("Whether the times of requests and tasks are measured; off is for measuring what that costs."),
    string("ringspun.log.io").default("auto").one_of(&["auto", "page-cache", "direct"]).high().cluster_wide()
        .doc("How log files are written and read: through the page cache, or past it (direct, with O_DIRECT); auto is page-cache. A change counts for segments made from then on, and for older ones when they are opened again."),
    long("ringspun.log.min.free.bytes").default("268435456").at_least(0).bytes().high().cluster_wide()
        .doc("Bytes of each data directory's file system that stay free: with less, records are refused (KAFKA_STORAGE_ERROR, which clients retry) until there is more. 0 for no reserve."),
    int("ringspun.max.partitions").default("100000").at_least(1).high()
        .doc("Partitions this node may hold; topics beyond it are refused."),
];
