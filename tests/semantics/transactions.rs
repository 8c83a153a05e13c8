//! Transactions (KIP-98, 360, 664, 890): what producers are told, what readers of committed records see.

#[path = "transactions/offsets.rs"]
mod offsets;

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::PartitionResponse;
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::write_txn_markers_request::{
    WritableTxnMarker, WritableTxnMarkerTopic,
};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, BrokerId, DescribeProducersRequest, DescribeTransactionsRequest,
    EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, InitProducerIdResponse,
    ListOffsetsRequest, ListTransactionsRequest, ProducerId as WireProducerId, TransactionalId,
    WriteTxnMarkersRequest,
};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use ringspun::base::{ProducerEpoch, ProducerId, Timestamp};
use ringspun::records::BatchBuilder;

use crate::broker::{Broker, packages};
use crate::wire::*;

/// A producer, as its client knows it.
struct Producer {
    id: String,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
}

fn init_request(id: &str) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(id))))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(WireProducerId(-1))
        .with_producer_epoch(-1)
}

/// Asks until the answer is none of those that say "again".
fn patiently<T>(mut ask: impl FnMut() -> T, error: impl Fn(&T) -> i16) -> T {
    for _ in 0..1_000 {
        let answer = ask();
        let again = [
            code::COORDINATOR_LOAD_IN_PROGRESS,
            code::COORDINATOR_NOT_AVAILABLE,
            code::NOT_COORDINATOR,
            code::CONCURRENT_TRANSACTIONS,
        ];
        if !again.contains(&error(&answer)) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never ready");
}

/// Has the topic of transaction state made.
fn find(wire: &mut Wire, id: &str) {
    find_coordinator(wire, 1, id);
}

/// Apache Kafka makes the topics of coordinators when somebody looks for one.
fn find_coordinator(wire: &mut Wire, key_type: i8, id: &str) {
    if !is_kafka() {
        return;
    }
    let request = FindCoordinatorRequest::default()
        .with_key_type(key_type)
        .with_coordinator_keys(vec![text(id)]);
    patiently(
        || wire.ask(4, &request).coordinators.remove(0),
        |coordinator| coordinator.error_code,
    );
}

fn init_as(wire: &mut Wire, id: &str, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    find(wire, id);
    patiently(|| wire.ask(4, request), |response| response.error_code)
}

fn init(wire: &mut Wire, id: &str) -> Producer {
    let response = init_as(wire, id, &init_request(id));
    assert_eq!(response.error_code, 0);
    Producer {
        id: id.to_owned(),
        producer_id: response.producer_id.0,
        epoch: response.producer_epoch,
        sequence: 0,
    }
}

impl Producer {
    fn batch(&self, sequence: i32, count: usize) -> Vec<u8> {
        let id = ProducerId(self.producer_id);
        let mut batch = BatchBuilder::uncompressed()
            .producer(id, ProducerEpoch(self.epoch), sequence)
            .transactional();
        for _ in 0..count {
            batch.append(Timestamp(now()), None, Some(b"value"), &[]);
        }
        batch.build()
    }

    fn produce(
        &mut self,
        wire: &mut Wire,
        version: i16,
        topic: &str,
        partition: i32,
        count: usize,
    ) -> PartitionProduceResponse {
        let records = self.batch(self.sequence, count);
        let request = produce_request(-1, topic, partition, Some(records.into()))
            .with_transactional_id(Some(TransactionalId(text(&self.id))));
        let mut response = wire.ask(version, &request);
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Sends by transaction version 2: the produce adds the partition.
    fn send(&mut self, wire: &mut Wire, topic: &str, partition: i32, count: usize) -> i64 {
        let response = patiently(
            || self.produce(wire, 12, topic, partition, count),
            |response| response.error_code,
        );
        assert_eq!(response.error_code, 0, "{:?}", response.error_message);
        response.base_offset
    }

    fn end_once(&self, wire: &mut Wire, version: i16, commit: bool) -> (i16, i64, i16) {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_producer_id(WireProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        let response = wire.ask(version, &request);
        let producer_id = response.producer_id.0;
        (response.error_code, producer_id, response.producer_epoch)
    }

    fn end(&mut self, wire: &mut Wire, commit: bool) {
        let (error, producer_id, epoch) =
            patiently(|| self.end_once(wire, 5, commit), |(error, ..)| *error);
        assert_eq!(error, 0);
        assert_eq!((producer_id, epoch), (self.producer_id, self.epoch + 1));
        self.epoch = epoch;
        self.sequence = 0;
    }

    fn add(&self, wire: &mut Wire, version: i16, topic: &str, partitions: &[i32]) -> Vec<i16> {
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(&self.id)))
            .with_v3_and_below_producer_id(WireProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![added(topic, partitions)]);
        let response = wire.ask(version, &request);
        let topics = response.results_by_topic_v3_and_below;
        let results = topics.into_iter().flat_map(|t| t.results_by_partition);
        results.map(|p| p.partition_error_code).collect()
    }
}

fn added(topic: &str, partitions: &[i32]) -> AddPartitionsToTxnTopic {
    AddPartitionsToTxnTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.to_vec())
}

fn topic(wire: &mut Wire, partitions: i32) -> String {
    let topic = name("transactional");
    wire.create(&topic, partitions, &[]);
    topic
}

fn read_committed(wire: &mut Wire, topic: &str, partition: i32, offset: i64) -> PartitionData {
    let asked = fetch_partition(partition, offset);
    let request =
        fetch_request(0, 1, vec![fetch_topic(topic, vec![asked])]).with_isolation_level(1);
    only(wire.ask(12, &request))
}

/// Waits until readers of committed records may see everything below `offset`.
fn until_stable(wire: &mut Wire, topic: &str, partition: i32, offset: i64) {
    for _ in 0..1_000 {
        if stable_end(wire, topic, partition) >= offset {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{topic}-{partition} is not stable up to {offset}");
}

/// ListOffsets, latest, for readers of committed records.
fn stable_end(wire: &mut Wire, topic: &str, partition: i32) -> i64 {
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(1)
        .with_topics(vec![
            ListOffsetsTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(vec![
                    ListOffsetsPartition::default()
                        .with_partition_index(partition)
                        .with_current_leader_epoch(-1)
                        .with_timestamp(-1),
                ]),
        ]);
    let response = wire.ask(7, &request);
    let partition = &response.topics[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    partition.offset
}

fn describe(wire: &mut Wire, id: &str) -> TransactionState {
    let request = DescribeTransactionsRequest::default()
        .with_transactional_ids(vec![TransactionalId(text(id))]);
    wire.ask(0, &request).transaction_states.remove(0)
}

fn producers(wire: &mut Wire, topic: &str, partition: i32) -> PartitionResponse {
    let request = DescribeProducersRequest::default().with_topics(vec![
        TopicRequest::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(vec![partition]),
    ]);
    wire.ask(0, &request).topics.remove(0).partitions.remove(0)
}

#[test]
fn nothing_is_committed_before_its_end_and_all_is_after() {
    let mut wire = Wire::shared();
    let (one, two) = (topic(&mut wire, 2), topic(&mut wire, 1));
    let mut producer = init(&mut wire, &name("tx"));
    assert_eq!(producer.send(&mut wire, &one, 0, 3), 0);
    assert_eq!(producer.send(&mut wire, &two, 0, 2), 0);
    for (topic, end) in [(&one, 3), (&two, 2)] {
        assert_eq!(wire.list_offset(7, topic, 0, -1).offset, end);
        assert_eq!(stable_end(&mut wire, topic, 0), 0);
        let fetched = read_committed(&mut wire, topic, 0, 0);
        assert_eq!(fetched.last_stable_offset, 0);
        assert!(fetched.records.unwrap_or_default().is_empty());
        assert_eq!(bases(&wire.fetch(topic, 0, 0)), [0]);
    }
    producer.end(&mut wire, true);
    for (topic, end) in [(&one, 4), (&two, 3)] {
        until_stable(&mut wire, topic, 0, end);
        let fetched = read_committed(&mut wire, topic, 0, 0);
        assert_eq!(fetched.last_stable_offset, end);
        assert_eq!(fetched.aborted_transactions, Some(vec![]));
        assert_eq!(bases(&fetched), [0, end - 1]);
    }
    // The second partition of the first topic was never part of it.
    assert_eq!(wire.list_offset(7, &one, 1, -1).offset, 0);
}

#[test]
fn a_marker_is_a_control_batch_as_kafka_writes_it() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let mut producer = init(&mut wire, &name("tx"));
    producer.send(&mut wire, &topic, 0, 1);
    producer.end(&mut wire, true);
    until_stable(&mut wire, &topic, 0, 2);
    let fetched = wire.fetch(&topic, 0, 1);
    let marker = fetched.records.unwrap();
    // Length, magic, attributes (transactional, control), last offset delta.
    assert_eq!(&marker[8..12], 66i32.to_be_bytes());
    assert_eq!(marker[16], 2);
    assert_eq!(&marker[21..23], [0, 0x30]);
    assert_eq!(&marker[23..27], [0; 4]);
    // The epoch after the end's; no sequence; one record of commit.
    assert_eq!(&marker[43..51], producer.producer_id.to_be_bytes());
    assert_eq!(&marker[51..53], producer.epoch.to_be_bytes());
    assert_eq!(&marker[53..57], [0xff; 4]);
    assert_eq!(&marker[57..61], 1i32.to_be_bytes());
    let record = &marker[61..];
    assert_eq!(record[4..9], [8, 0, 0, 0, 1]);
    assert_eq!(record[9..12], [12, 0, 0]);
    assert_eq!(marker.len(), 78);
}

#[test]
fn what_was_aborted_is_named_to_readers_of_committed_records() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let mut producer = init(&mut wire, &name("tx"));
    producer.send(&mut wire, &topic, 0, 2); // 0..2
    producer.end(&mut wire, false); // 2
    until_stable(&mut wire, &topic, 0, 3);
    producer.send(&mut wire, &topic, 0, 2); // 3..5
    producer.end(&mut wire, true); // 5
    until_stable(&mut wire, &topic, 0, 6);
    let aborted = |data: &PartitionData| -> Vec<(i64, i64)> {
        let aborted = data.aborted_transactions.as_deref().unwrap_or_default();
        aborted
            .iter()
            .map(|a| (a.producer_id.0, a.first_offset))
            .collect()
    };
    let fetched = read_committed(&mut wire, &topic, 0, 0);
    assert_eq!(bases(&fetched), [0, 2, 3, 5]);
    assert_eq!(aborted(&fetched), [(producer.producer_id, 0)]);
    assert_eq!(aborted(&read_committed(&mut wire, &topic, 0, 3)), []);
    // Readers of everything are told nothing.
    assert!(aborted(&wire.fetch(&topic, 0, 0)).is_empty());
}

#[test]
fn the_oldest_open_transaction_holds_readers_back() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let mut first = init(&mut wire, &name("tx"));
    let mut second = init(&mut wire, &name("tx"));
    wire.append(&topic, 0, batch(1)); // 0
    first.send(&mut wire, &topic, 0, 1); // 1
    second.send(&mut wire, &topic, 0, 1); // 2
    second.end(&mut wire, true); // 3
    wire.append(&topic, 0, batch(1)); // 4, or 3
    assert_eq!(stable_end(&mut wire, &topic, 0), 1);
    first.end(&mut wire, true); // 5
    until_stable(&mut wire, &topic, 0, 6);
}

#[test]
fn an_older_client_adds_partitions_before_it_produces() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 2);
    let mut producer = init(&mut wire, &name("tx"));
    let response = producer.produce(&mut wire, 9, &topic, 0, 1);
    assert_eq!(response.error_code, code::INVALID_TXN_STATE);
    let response = producer.produce(&mut wire, 11, &topic, 0, 1);
    assert_eq!(response.error_code, code::TRANSACTION_ABORTABLE);
    for version in 0..=3 {
        let errors = producer.add(&mut wire, version, &topic, &[0]);
        assert_eq!(errors, [0]);
    }
    let response = producer.produce(&mut wire, 9, &topic, 0, 1);
    assert_eq!((response.error_code, response.base_offset), (0, 0));
    let response = producer.produce(&mut wire, 9, &topic, 1, 1);
    assert_eq!(response.error_code, code::INVALID_TXN_STATE);
    let (error, ..) = producer.end_once(&mut wire, 3, true);
    assert_eq!(error, 0);
    until_stable(&mut wire, &topic, 0, 2);
    // The epoch stays, and a retry is told the same.
    let retry = patiently(|| producer.end_once(&mut wire, 3, true), |(e, ..)| *e);
    assert_eq!(retry.0, 0);
    producer.sequence = 1;
    assert_eq!(producer.add(&mut wire, 3, &topic, &[0]), [0]);
    let response = producer.produce(&mut wire, 9, &topic, 0, 1);
    assert_eq!((response.error_code, response.base_offset), (0, 2));
    assert_eq!(producer.end_once(&mut wire, 3, false).0, 0);
    until_stable(&mut wire, &topic, 0, 4);
    let (error, ..) = patiently(|| producer.end_once(&mut wire, 3, true), |(e, ..)| *e);
    assert_eq!(error, code::INVALID_TXN_STATE);
}

#[test]
fn a_partition_that_is_not_there_keeps_out_the_others() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let producer = init(&mut wire, &name("tx"));
    let mut errors = producer.add(&mut wire, 3, &topic, &[0, 7]);
    // Apache Kafka answers in any order.
    errors.sort_unstable();
    let expected = [
        code::UNKNOWN_TOPIC_OR_PARTITION,
        code::OPERATION_NOT_ATTEMPTED,
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_newer_producer_fences_the_older_one() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let id = name("tx");
    let mut old = init(&mut wire, &id);
    old.send(&mut wire, &topic, 0, 1);
    // The open transaction is aborted first; the answer says to come again.
    let response = wire.ask(4, &init_request(&id));
    assert_eq!(response.error_code, code::CONCURRENT_TRANSACTIONS);
    let mut new = init(&mut wire, &id);
    assert_eq!(new.producer_id, old.producer_id);
    assert!(new.epoch > old.epoch + 1);
    until_stable(&mut wire, &topic, 0, 2);
    old.sequence = 1;
    let response = old.produce(&mut wire, 12, &topic, 0, 1);
    assert_eq!(response.error_code, code::INVALID_PRODUCER_EPOCH);
    assert_eq!(old.add(&mut wire, 3, &topic, &[0]), [code::PRODUCER_FENCED]);
    assert_eq!(
        old.add(&mut wire, 1, &topic, &[0]),
        [code::INVALID_PRODUCER_EPOCH]
    );
    assert_eq!(old.end_once(&mut wire, 5, true).0, code::PRODUCER_FENCED);
    assert_eq!(
        old.end_once(&mut wire, 1, true).0,
        code::INVALID_PRODUCER_EPOCH
    );
    new.send(&mut wire, &topic, 0, 1);
    new.end(&mut wire, true);
}

#[test]
fn a_late_batch_of_the_transaction_before_begins_none() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let mut producer = init(&mut wire, &name("tx"));
    producer.send(&mut wire, &topic, 0, 1);
    let mut late = Producer {
        id: producer.id.clone(),
        sequence: 1,
        ..producer
    };
    producer.end(&mut wire, false);
    until_stable(&mut wire, &topic, 0, 2);
    let response = late.produce(&mut wire, 12, &topic, 0, 1);
    assert_eq!(response.error_code, code::INVALID_PRODUCER_EPOCH);
    assert_eq!(stable_end(&mut wire, &topic, 0), 2);
}

#[test]
fn a_batch_of_a_transaction_needs_an_id_that_owns_it() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let producer = init(&mut wire, &name("tx"));
    let response = wire.produce(9, -1, &topic, 0, producer.batch(0, 1));
    assert_eq!(
        response.error_code,
        code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    );
    // Somebody else's id.
    let mut other = Producer {
        id: name("other"),
        ..producer
    };
    let response = other.produce(&mut wire, 12, &topic, 0, 1);
    assert_eq!(response.error_code, code::INVALID_PRODUCER_ID_MAPPING);
}

#[test]
fn a_producer_that_goes_on_gets_the_next_epoch() {
    let mut wire = Wire::shared();
    let id = name("tx");
    let producer = init(&mut wire, &id);
    let again = init_request(&id)
        .with_producer_id(WireProducerId(producer.producer_id))
        .with_producer_epoch(producer.epoch);
    for _ in 0..2 {
        let response = init_as(&mut wire, &id, &again);
        assert_eq!(response.error_code, 0);
        assert_eq!(response.producer_epoch, producer.epoch + 1);
    }
    let newer = init(&mut wire, &id);
    assert_eq!(newer.epoch, producer.epoch + 2);
    assert_eq!(wire.ask(4, &again).error_code, code::PRODUCER_FENCED);
    assert_eq!(wire.ask(3, &again).error_code, code::INVALID_PRODUCER_EPOCH);
    let half = init_request(&id).with_producer_id(WireProducerId(producer.producer_id));
    assert_eq!(wire.ask(4, &half).error_code, code::INVALID_REQUEST);
}

#[test]
fn nonsense_is_answered_with_kafkas_code() {
    let mut wire = Wire::shared();
    let id = name("tx");
    find(&mut wire, &id);
    let mut request = init_request("");
    assert_eq!(wire.ask(4, &request).error_code, code::INVALID_REQUEST);
    for timeout in [i32::MIN, -1, 0, 900_001, i32::MAX] {
        request = init_request(&id).with_transaction_timeout_ms(timeout);
        let response = patiently(|| wire.ask(4, &request), |r| r.error_code);
        assert_eq!(response.error_code, code::INVALID_TRANSACTION_TIMEOUT);
    }
    let producer = Producer {
        id: name("nobody"),
        producer_id: 5,
        epoch: 0,
        sequence: 0,
    };
    let topic = topic(&mut wire, 1);
    let mapping = code::INVALID_PRODUCER_ID_MAPPING;
    assert_eq!(producer.add(&mut wire, 3, &topic, &[0]), [mapping]);
    assert_eq!(producer.end_once(&mut wire, 5, true).0, mapping);
    let empty = Producer {
        id: String::new(),
        ..producer
    };
    assert_eq!(
        empty.add(&mut wire, 3, &topic, &[0]),
        [code::INVALID_REQUEST]
    );
    assert_eq!(empty.end_once(&mut wire, 5, true).0, code::INVALID_REQUEST);
    // An id of the largest size a string can have.
    let long = "x".repeat(32_767 - 20);
    let response = wire.ask(1, &init_request(&long));
    assert!([0, code::COORDINATOR_LOAD_IN_PROGRESS].contains(&response.error_code));
}

#[test]
fn a_transaction_that_lasts_too_long_is_aborted() {
    if is_kafka() {
        return; // Its broker of the tests looks every ten seconds only.
    }
    let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let broker = own_broker("txn-timeout", &[(interval, "50")]);
    let mut wire = Wire::connect(&broker.bootstrap());
    let topic = topic(&mut wire, 1);
    let id = name("tx");
    let request = init_request(&id).with_transaction_timeout_ms(100);
    let response = init_as(&mut wire, &id, &request);
    let mut producer = Producer {
        id,
        producer_id: response.producer_id.0,
        epoch: response.producer_epoch,
        sequence: 0,
    };
    producer.send(&mut wire, &topic, 0, 1);
    until_stable(&mut wire, &topic, 0, 2);
    let state = describe(&mut wire, &producer.id);
    assert_eq!(state.transaction_state.as_str(), "CompleteAbort");
    producer.sequence = 1;
    let response = producer.produce(&mut wire, 12, &topic, 0, 1);
    assert_eq!(response.error_code, code::INVALID_PRODUCER_EPOCH);
    assert_eq!(
        producer.end_once(&mut wire, 5, true).0,
        code::INVALID_TXN_STATE
    );
}

#[test]
fn transactions_are_listed_and_described() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 2);
    let mut producer = init(&mut wire, &name("listed"));
    let missing = describe(&mut wire, &name("nobody"));
    assert_eq!(missing.error_code, code::TRANSACTIONAL_ID_NOT_FOUND);
    assert_eq!(describe(&mut wire, "").error_code, code::INVALID_REQUEST);
    let state = describe(&mut wire, &producer.id);
    assert_eq!(state.transaction_state.as_str(), "Empty");
    assert_eq!(state.transaction_start_time_ms, -1);
    producer.send(&mut wire, &topic, 0, 1);
    producer.send(&mut wire, &topic, 1, 1);
    let state = describe(&mut wire, &producer.id);
    assert_eq!(state.error_code, 0);
    assert_eq!(state.transaction_state.as_str(), "Ongoing");
    assert_eq!(state.transaction_timeout_ms, 60_000);
    assert!((now() - state.transaction_start_time_ms).abs() < 60_000);
    let of = (state.producer_id.0, state.producer_epoch);
    assert_eq!(of, (producer.producer_id, producer.epoch));
    let found: Vec<_> = state
        .topics
        .iter()
        .map(|t| {
            let partitions: BTreeSet<i32> = t.partitions.iter().copied().collect();
            (t.topic.as_str(), partitions)
        })
        .collect();
    assert_eq!(found, [(&topic[..], BTreeSet::from([0, 1]))]);

    let list = |wire: &mut Wire, version: i16, request: ListTransactionsRequest| {
        let response = patiently(|| wire.ask(version, &request), |r| r.error_code);
        assert_eq!(response.error_code, 0);
        let states = response.transaction_states.into_iter();
        let ids: BTreeSet<String> = states
            .map(|s| s.transactional_id.as_str().to_owned())
            .collect();
        (ids, response.unknown_state_filters)
    };
    let states = |names: &[&str]| {
        let filters = names.iter().map(|name| text(name)).collect();
        ListTransactionsRequest::default().with_state_filters(filters)
    };
    let (ids, _) = list(&mut wire, 0, states(&[]));
    assert!(ids.contains(&producer.id));
    let (ids, unknown) = list(&mut wire, 0, states(&["Ongoing", "Nonsense"]));
    assert!(ids.contains(&producer.id));
    assert_eq!(unknown, [text("Nonsense")]);
    let (ids, _) = list(&mut wire, 0, states(&["Empty", "CompleteCommit"]));
    assert!(!ids.contains(&producer.id));
    let by_producer = ListTransactionsRequest::default()
        .with_producer_id_filters(vec![WireProducerId(producer.producer_id)]);
    let (ids, _) = list(&mut wire, 0, by_producer);
    assert_eq!(ids, BTreeSet::from([producer.id.clone()]));
    let long = ListTransactionsRequest::default().with_duration_filter(3_600_000);
    let (ids, _) = list(&mut wire, 1, long);
    assert!(!ids.contains(&producer.id));
    let pattern = format!("{}.*", &producer.id[..producer.id.len() - 1]);
    let like =
        |p: &str| ListTransactionsRequest::default().with_transactional_id_pattern(Some(text(p)));
    let (ids, _) = list(&mut wire, 2, like(&pattern));
    assert!(ids.contains(&producer.id));
    let (ids, _) = list(&mut wire, 2, like("listed"));
    assert!(ids.is_empty(), "the whole id has to match");
    let response = wire.ask(2, &like("("));
    assert_eq!(response.error_code, code::INVALID_REGULAR_EXPRESSION);

    // What the partitions know.
    let described = producers(&mut wire, &topic, 0);
    assert_eq!(described.active_producers.len(), 1);
    assert_eq!(described.active_producers[0].current_txn_start_offset, 0);
    producer.end(&mut wire, true);
    until_stable(&mut wire, &topic, 0, 2);
    let described = producers(&mut wire, &topic, 0);
    let active = &described.active_producers[0];
    assert_eq!(active.current_txn_start_offset, -1);
    assert_eq!(active.producer_epoch, i32::from(producer.epoch));
}

#[test]
fn partitions_are_verified_for_other_nodes() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 2);
    let mut producer = init(&mut wire, &name("tx"));
    producer.send(&mut wire, &topic, 0, 1);
    let asked = |id: &str, producer: &Producer| {
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(TransactionalId(text(id)))
            .with_producer_id(WireProducerId(producer.producer_id))
            .with_producer_epoch(producer.epoch)
            .with_verify_only(true)
            .with_topics(vec![added(&topic, &[0, 1])])
    };
    for version in 4..=5 {
        let request = AddPartitionsToTxnRequest::default().with_transactions(vec![
            asked(&producer.id, &producer),
            asked("nobody", &producer),
        ]);
        let response = wire.ask(version, &request);
        assert_eq!(response.error_code, 0);
        let mut codes = Vec::new();
        for result in &response.results_by_transaction {
            let topics = result.topic_results.iter();
            let mut partitions: Vec<_> = topics.flat_map(|t| &t.results_by_partition).collect();
            partitions.sort_by_key(|p| p.partition_index);
            let mine: Vec<i16> = partitions.iter().map(|p| p.partition_error_code).collect();
            codes.push((result.transactional_id.as_str().to_owned(), mine));
        }
        codes.sort();
        let mut expected = vec![
            (producer.id.clone(), vec![0, code::TRANSACTION_ABORTABLE]),
            (
                "nobody".to_owned(),
                vec![code::INVALID_PRODUCER_ID_MAPPING; 2],
            ),
        ];
        expected.sort();
        assert_eq!(codes, expected);
    }
}

#[test]
fn an_operator_can_end_a_hanging_transaction() {
    if is_kafka() {
        return; // Its broker of the tests verifies partitions, so that none can hang.
    }
    let verification = "transaction.partition.verification.enable";
    let broker = own_broker("txn-hanging", &[(verification, "false")]);
    let mut wire = Wire::connect(&broker.bootstrap());
    let topic = topic(&mut wire, 1);
    let mut producer = init(&mut wire, &name("tx"));
    // Never added, so that no coordinator will end it.
    let response = producer.produce(&mut wire, 9, &topic, 0, 1);
    assert_eq!(response.error_code, 0);
    assert_eq!(stable_end(&mut wire, &topic, 0), 0);
    let marker = |partition: i32, epoch: i16| {
        let topic = WritableTxnMarkerTopic::default()
            .with_name(topic_name(&topic))
            .with_partition_indexes(vec![partition]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(WireProducerId(producer.producer_id))
            .with_producer_epoch(epoch)
            .with_coordinator_epoch(0)
            .with_topics(vec![topic]);
        WriteTxnMarkersRequest::default().with_markers(vec![marker])
    };
    let mut ask = |request: &WriteTxnMarkersRequest| {
        let response = wire.ask(1, request);
        response.markers[0].topics[0].partitions[0].error_code
    };
    let unknown = code::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(ask(&marker(3, producer.epoch)), unknown);
    let fenced = code::INVALID_PRODUCER_EPOCH;
    assert_eq!(ask(&marker(0, producer.epoch - 1)), fenced);
    assert_eq!(ask(&marker(0, producer.epoch)), 0);
    until_stable(&mut wire, &topic, 0, 2);
    let fetched = read_committed(&mut wire, &topic, 0, 0);
    assert_eq!(fetched.aborted_transactions.unwrap().len(), 1);

    // With Kafka's own tool: found, ended, no longer found.
    producer.sequence = 1;
    let response = producer.produce(&mut wire, 9, &topic, 0, 1);
    assert_eq!((response.error_code, response.base_offset), (0, 2));
    let find = [
        "find-hanging",
        "--topic",
        &topic,
        "--max-transaction-timeout",
        "0",
    ];
    let Some(found) = transactions_tool(&broker, &find) else {
        return;
    };
    let row = found.lines().find(|line| line.starts_with(&topic));
    let row: Vec<&str> = row.expect(&found).split_whitespace().collect();
    let id = producer.producer_id.to_string();
    assert_eq!(row[1..6], ["0", &id, "0", "0", "2"], "{found}");
    let abort = [
        "abort",
        "--topic",
        &topic,
        "--partition",
        "0",
        "--start-offset",
        "2",
    ];
    transactions_tool(&broker, &abort);
    until_stable(&mut wire, &topic, 0, 4);
    let found = transactions_tool(&broker, &find).expect("it was there a moment ago");
    assert!(!found.contains(&topic), "{found}");
}

/// What `kafka-transactions` prints, if it is there.
fn transactions_tool(broker: &Broker, arguments: &[&str]) -> Option<String> {
    let jars = match packages::jars() {
        Ok(jars) => jars,
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(_) => return None,
    };
    let output = packages::java(&jars)
        .args([
            "org.apache.kafka.tools.TransactionsCommand",
            "--bootstrap-server",
        ])
        .arg(broker.bootstrap())
        .args(arguments)
        .output()
        .expect("java runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{problem}");
    Some(printed)
}

#[test]
fn clients_do_not_write_where_coordinators_keep_their_state() {
    let mut wire = Wire::shared();
    init(&mut wire, &name("tx"));
    let response = wire.produce(9, -1, "__transaction_state", 0, batch(1));
    assert_eq!(response.error_code, code::INVALID_TOPIC_EXCEPTION);
}

#[test]
fn a_record_that_no_coordinator_wrote_is_passed_over_loudly() {
    if is_kafka() {
        return; // It starts anew here.
    }
    let mut broker = own_broker("txn-garbage", &[]);
    let mut wire = Wire::connect(&broker.bootstrap());
    let producer = init(&mut wire, &name("tx"));
    let partitions = 50;
    let meddler: BaseProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("client.id", "__admin_client")
        .create()
        .unwrap();
    for partition in 0..partitions {
        // A key of no known type, and one that ends amid its id.
        for key in [&[0u8, 9, 0, 0][..], &[0, 0, 0, 99, b'x']] {
            let record = BaseRecord::to("__transaction_state")
                .partition(partition)
                .key(key)
                .payload(&b"garbage"[..]);
            meddler.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    meddler.flush(Duration::from_secs(30)).unwrap();
    broker.kill();
    broker.start_again().unwrap();
    let mut wire = Wire::connect(&broker.bootstrap());
    let state = patiently(|| describe(&mut wire, &producer.id), |s| s.error_code);
    assert_eq!(state.error_code, 0);
    assert_eq!(state.producer_id.0, producer.producer_id);
    let words = broker.last_words();
    let line = words
        .lines()
        .find(|line| line.contains("are skipped"))
        .expect(&words);
    for text in ["__transaction_state", "partition=", "offset="] {
        assert!(line.contains(text), "{line}");
    }
}

#[test]
fn a_half_done_end_is_finished_after_a_crash() {
    if is_kafka() {
        return; // The crash is of a broker of our own.
    }
    let mut broker = own_broker("txn-crash", &[]);
    let mut wire = Wire::connect(&broker.bootstrap());
    let topic = topic(&mut wire, 3);
    let id = name("tx");
    let mut producer = init(&mut wire, &id);
    let mut ends = [0i64; 3];
    for round in 0..6usize {
        for partition in 0..3 {
            producer.send(&mut wire, &topic, partition, 1);
        }
        let commit = round % 2 == 0;
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&id)))
            .with_producer_id(WireProducerId(producer.producer_id))
            .with_producer_epoch(producer.epoch)
            .with_committed(commit);
        // Without waiting for what comes of it.
        wire.send(5, &request);
        if round % 3 != 0 {
            let _ = wire.receive::<EndTxnRequest>(5);
        }
        broker.kill();
        broker.start_again().unwrap();
        wire = Wire::connect(&broker.bootstrap());
        // The retry tells how it ended; if it never arrived, it ends now.
        let (error, _, epoch) = patiently(|| producer.end_once(&mut wire, 5, commit), |(e, ..)| *e);
        assert_eq!(error, 0, "round {round}");
        producer.epoch = epoch;
        for (partition, end) in ends.iter_mut().enumerate() {
            *end += 2;
            until_stable(&mut wire, &topic, partition as i32, *end);
            let fetched = read_committed(&mut wire, &topic, partition as i32, 0);
            let aborted = fetched.aborted_transactions.as_ref().map_or(0, Vec::len);
            assert_eq!(aborted, round.div_ceil(2));
            assert_eq!(bases(&fetched).len(), (round + 1) * 2, "one marker each");
        }
    }
}

/// The record of the end is larger than that of the transaction. (Not tried on Apache Kafka.)
#[test]
fn a_transaction_that_has_as_many_partitions_as_fit_can_be_ended() {
    if is_kafka() {
        return;
    }
    let settings = [("message.max.bytes", "1500"), ("ringspun.shards", "1")];
    let broker = own_broker(&name("full"), &settings);
    let mut wire = Wire::connect(&broker.bootstrap());
    let wire = &mut wire;
    let topic = name("full");
    wire.create(&topic, 400, &[]);
    for commit in [true, false] {
        let mut producer = init(wire, &format!("full-{commit}"));
        let mut fits = 0;
        while fits < 400 {
            match producer.add(wire, 3, &topic, &[fits])[..] {
                [0] => fits += 1,
                [code::CONCURRENT_TRANSACTIONS] => {}
                [code::UNKNOWN_SERVER_ERROR] => break,
                ref other => panic!("{other:?}"),
            }
        }
        assert!((100..400).contains(&fits), "{fits}");
        producer.end(wire, commit);
        let added = patiently(|| producer.add(wire, 3, &topic, &[0]), |added| added[0]);
        assert_eq!(added, [0]);
    }
}
