//! Transactions.

use super::row::{boolean, int, short};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("transaction.state.log.min.isr").default("1").instead_of("2").at_least(1).high()
        .doc("In-sync replicas that writes to the topic of transaction state ask for; here 2, or its number of replicas if that is less."),
    int("transaction.state.log.load.buffer.size").default("1048576").instead_of("5242880").at_least(1).bytes().high()
        .doc("Bytes read at once when transaction state is loaded, at most 64 MiB; all partitions of the topic load side by side."),
    short("transaction.state.log.replication.factor").default("1").instead_of("3").at_least(1).high()
        .doc("Replicas of the topic of transaction state; here 3, or the number of nodes if that is less."),
    int("transaction.state.log.num.partitions").default("50").at_least(1).high()
        .doc("Partitions of the topic of transaction state."),
    int("transaction.state.log.segment.bytes").default("104857600").at_least(1).bytes().high()
        .doc("Segment size of the topic of transaction state."),
    boolean("transaction.partition.verification.enable").default("true").low().cluster_wide()
        .doc("Whether a partition checks that a transaction really includes it before it appends."),
    int("transactional.id.expiration.ms").default("604800000").at_least(1).ms().high()
        .doc("How long an unused transactional id is remembered."),
    int("transaction.max.timeout.ms").default("900000").at_least(1).ms().high()
        .doc("Longest timeout a transaction may ask for."),
    int("transaction.abort.timed.out.transaction.cleanup.interval.ms").default("10000").at_least(1).ms().low()
        .doc("Time between two looks for transactions that timed out."),
    int("transaction.remove.expired.transaction.cleanup.interval.ms").default("3600000").at_least(1).ms().low()
        .doc("Time between two looks for transactional ids that expired."),
    boolean("transaction.two.phase.commit.enable").default("false").low().not_yet()
        .doc("Whether transactions may take part in a two-phase commit led from outside: only InitProducerId 6 can ask for it, which is not served (KIP-939)."),
    int("add.partitions.to.txn.retry.backoff.max.ms").default("100").at_least(0).ms().high()
        .doc("How long a produce waits for the transaction before its own to complete."),
    int("add.partitions.to.txn.retry.backoff.ms").default("20").at_least(1).ms().high().meaningless()
        .doc("First pause before a partition is added to a transaction once more."),
];
