//! What a running broker answers, held against Kafka's rules: a small client that speaks the protocol
//! itself, so that also what no real client would send is asked, and librdkafka for the whole way.
//!
//! The same tests pass on Apache Kafka 4.3.1 (`RINGSPUN_TEST_BROKER=kafka`) but for those that say why
//! not.

mod broker;
#[path = "semantics/configs.rs"]
mod configs;
#[path = "semantics/fetch.rs"]
mod fetch;
#[path = "semantics/groups.rs"]
mod groups;
#[path = "semantics/idempotence.rs"]
mod idempotence;
#[path = "semantics/librdkafka.rs"]
mod librdkafka;
#[path = "semantics/node.rs"]
mod node;
#[path = "semantics/offsets.rs"]
mod offsets;
#[path = "semantics/produce.rs"]
mod produce;
#[path = "semantics/sessions.rs"]
mod sessions;
#[path = "semantics/topics.rs"]
mod topics;
#[path = "semantics/transactions.rs"]
mod transactions;
#[path = "semantics/wire.rs"]
mod wire;
