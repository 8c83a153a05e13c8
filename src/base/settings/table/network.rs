//! Listeners, connections, requests, fetches and quotas.

use super::row::{class, int, list, long, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    int("num.io.threads").default("8").at_least(1).high().cluster_wide().meaningless()
        .doc("Threads that handle requests in Kafka; here each core handles its own."),
    int("request.timeout.ms").default("30000").ms().high().not_yet()
        .doc("How long this broker waits for another's answer."),
    long("socket.connection.setup.timeout.ms").default("10000").ms().not_yet()
        .doc("How long this broker waits for a connection to another."),
    long("socket.connection.setup.timeout.max.ms").default("30000").ms().not_yet()
        .doc("Longest wait for a connection to another broker after failures."),
    list("early.start.listeners").high().not_yet()
        .doc("Listeners that open before authorisation is ready."),
    int("max.incremental.fetch.session.cache.slots").default("1000").at_least(0)
        .doc("Fetch sessions that the node keeps."),
    int("fetch.max.bytes").default("57671680").at_least(1_024).bytes()
        .doc("Largest answer to one fetch; the first batch is returned even if it is larger."),
    int("max.request.partition.size.limit").default("2000").at_least(1)
        .doc("Partitions one request may ask to have described."),
    list("listeners").default("PLAINTEXT://127.0.0.1:9092").instead_of("PLAINTEXT://:9092").list_of_some(&[]).high().per_broker()
        .doc("Where to listen: NAME://host:port, comma separated; no host is every interface."),
    list("advertised.listeners").list_of_some(&[]).high()
        .doc("The addresses clients are told; by default those of listeners."),
    string("listener.security.protocol.map").default("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT").low().per_broker()
        .doc("The protocol of each listener name."),
    int("socket.send.buffer.bytes").default("-1").instead_of("102400").between_or(1, 2_147_483_647, -1).bytes().high()
        .doc("Send buffer of a connection in the kernel; -1 leaves it to the kernel."),
    int("socket.receive.buffer.bytes").default("-1").instead_of("102400").between_or(1, 2_147_483_647, -1).bytes().high()
        .doc("Receive buffer of a connection in the kernel; -1 leaves it to the kernel."),
    int("socket.request.max.bytes").default("104857600").at_least(1).bytes().high()
        .doc("Largest request that is read."),
    int("socket.listen.backlog.size").default("1024").instead_of("50").at_least(1)
        .doc("Connections that may wait to be accepted."),
    int("max.connections.per.ip").default("2147483647").at_least(0).cluster_wide()
        .doc("Connections from one address."),
    string("max.connections.per.ip.overrides").default("").cluster_wide()
        .doc("Other limits for single addresses: host:count, comma separated."),
    int("max.connections").default("2147483647").at_least(0).cluster_wide()
        .doc("Connections to this node. Also for one listener: listener.name.NAME.max.connections."),
    int("max.connection.creation.rate").default("2147483647").at_least(0).cluster_wide()
        .doc("New connections a second; those beyond it wait to be accepted. Also for one listener: listener.name.NAME.max.connection.creation.rate."),
    long("connections.max.idle.ms").default("600000").ms()
        .doc("Time after which a connection without requests is closed; -1 for never."),
    int("queued.max.requests").default("500").at_least(1).high().meaningless()
        .doc("Requests that wait for a handler thread in Kafka; here the memory budget limits them."),
    long("queued.max.request.bytes").default("-1").bytes().meaningless()
        .doc("Bytes of waiting requests in Kafka; here ringspun.memory.bytes limits them."),
    int("num.network.threads").default("3").at_least(1).high().cluster_wide().meaningless()
        .doc("Threads that read and write sockets in Kafka; here each core has its own connections."),
    int("fetch.purgatory.purge.interval.requests").default("1000").meaningless()
        .doc("Finished fetches that Kafka leaves in its waiting list before it cleans up."),
    int("producer.purgatory.purge.interval.requests").default("1000").meaningless()
        .doc("Finished produces that Kafka leaves in its waiting list before it cleans up."),
    int("delete.records.purgatory.purge.interval.requests").default("1").meaningless()
        .doc("Finished deletions that Kafka leaves in its waiting list before it cleans up."),
    string("security.inter.broker.protocol").default("PLAINTEXT").one_of(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]).not_yet()
        .doc("Protocol between brokers, where inter.broker.listener.name is not set."),
    string("inter.broker.listener.name")
        .doc("Listener that brokers use among themselves."),
    int("quota.window.num").default("11").at_least(1).low().not_yet()
        .doc("Samples over which client quotas are measured."),
    int("quota.window.size.seconds").default("1").at_least(1).seconds().low().not_yet()
        .doc("Length of one sample of client quotas."),
    class("client.quota.callback.class").low().not_yet()
        .doc("Java class that decides client quotas."),
];
