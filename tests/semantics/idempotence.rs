//! Idempotent producers (KIP-98, 360): duplicates, gaps, epochs.

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{DescribeProducersRequest, InitProducerIdRequest, ProducerId};

use crate::wire::*;

fn producer_id(wire: &mut Wire) -> i64 {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let mut response = wire.ask(4, &request);
    while is_kafka() && response.error_code == code::COORDINATOR_LOAD_IN_PROGRESS {
        response = wire.ask(4, &request);
    }
    assert_eq!((response.error_code, response.producer_epoch), (0, 0));
    response.producer_id.0
}

fn topic(wire: &mut Wire) -> String {
    let topic = name("idempotent");
    wire.create(&topic, 1, &[]);
    topic
}

/// Code and base offset.
fn produce(wire: &mut Wire, topic: &str, records: Vec<u8>) -> (i16, i64) {
    let answer = wire.produce(9, -1, topic, 0, records);
    (answer.error_code, answer.base_offset)
}

#[test]
fn ids_are_unique_over_connections() {
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        let mut wire = Wire::shared();
        for _ in 0..50 {
            assert!(seen.insert(producer_id(&mut wire)));
        }
    }
}

#[test]
fn a_duplicate_of_the_last_five_batches_gets_its_first_offset() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    for sequence in 0..6 {
        let records = batch_by(id, 0, sequence * 2, 2);
        assert_eq!(
            produce(&mut wire, &topic, records),
            (0, i64::from(sequence) * 2)
        );
    }
    for sequence in 1..6 {
        let records = batch_by(id, 0, sequence * 2, 2);
        assert_eq!(
            produce(&mut wire, &topic, records),
            (0, i64::from(sequence) * 2)
        );
    }
    assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, 12);
    // Older than those: a sequence that is not the next.
    let (error, _) = produce(&mut wire, &topic, batch_by(id, 0, 0, 2));
    assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
}

#[test]
fn a_gap_is_out_of_order() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 0, 0, 2)), (0, 0));
    let (error, _) = produce(&mut wire, &topic, batch_by(id, 0, 3, 1));
    assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 0, 2, 1)), (0, 2));
}

#[test]
fn a_new_epoch_begins_at_zero_and_the_old_one_is_refused() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 3, 0, 1)), (0, 0));
    let (error, _) = produce(&mut wire, &topic, batch_by(id, 4, 1, 1));
    assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 4, 0, 1)), (0, 1));
    let (error, _) = produce(&mut wire, &topic, batch_by(id, 3, 1, 1));
    assert_eq!(error, code::INVALID_PRODUCER_EPOCH);
}

#[test]
fn a_producer_without_state_is_accepted_at_any_sequence() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 0, 77, 1)), (0, 0));
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 0, 78, 1)), (0, 1));
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    let largest = i32::MAX;
    assert_eq!(
        produce(&mut wire, &topic, batch_by(id, 0, largest - 1, 4)),
        (0, 0)
    );
    assert_eq!(
        produce(&mut wire, &topic, batch_by(id, 0, largest - 1, 4)),
        (0, 0)
    );
    assert_eq!(produce(&mut wire, &topic, batch_by(id, 0, 2, 1)), (0, 4));
}

#[test]
fn what_one_producer_pipelines_is_written_once_and_in_order() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    for sequence in [0, 1, 2, 2, 1, 3] {
        let records = batch_by(id, 0, sequence, 1).into();
        wire.send(9, &produce_request(-1, &topic, 0, Some(records)));
    }
    for expected in [0, 1, 2, 2, 1, 3] {
        let response = wire.receive::<kafka_protocol::messages::ProduceRequest>(9);
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!((answer.error_code, answer.base_offset), (0, expected));
    }
}

#[test]
fn describe_producers_tells_epoch_and_last_sequence() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire);
    let id = producer_id(&mut wire);
    produce(&mut wire, &topic, batch_by(id, 1, 0, 5));
    let request = DescribeProducersRequest::default().with_topics(vec![
        TopicRequest::default()
            .with_name(topic_name(&topic))
            .with_partition_indexes(vec![0, 1]),
    ]);
    let response = wire.ask(0, &request);
    let find = |index| {
        let partitions = &response.topics[0].partitions;
        partitions
            .iter()
            .find(|p| p.partition_index == index)
            .expect("told")
    };
    let known = find(0);
    assert_eq!(known.error_code, 0);
    let producer = &known.active_producers[0];
    assert_eq!(producer.producer_id.0, id);
    assert_eq!((producer.producer_epoch, producer.last_sequence), (1, 4));
    assert_eq!(
        (
            producer.coordinator_epoch,
            producer.current_txn_start_offset
        ),
        (-1, -1)
    );
    assert_eq!(find(1).error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
}
