//! Offsets that are committed as part of a transaction (KIP-447).

use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, GroupId, OffsetFetchRequest, TxnOffsetCommitRequest,
};

use super::*;

#[test]
fn offsets_can_be_added_by_older_clients() {
    let mut wire = Wire::shared();
    let producer = init(&mut wire, &name("tx"));
    for version in 0..=4 {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(TransactionalId(text(&producer.id)))
            .with_producer_id(WireProducerId(producer.producer_id))
            .with_producer_epoch(producer.epoch)
            .with_group_id(GroupId(text("a-group")));
        let response = patiently(|| wire.ask(version, &request), |r| r.error_code);
        assert_eq!(response.error_code, 0);
    }
    let state = describe(&mut wire, &producer.id);
    assert_eq!(state.transaction_state.as_str(), "Ongoing");
    assert_eq!(state.topics[0].topic.as_str(), "__consumer_offsets");
}

/// The group's offset in partition 0 as a consumer of exactly once asks for it: the error, and the offset.
fn committed_offset(wire: &mut Wire, group: &str, topic: &str) -> (i16, i64) {
    let topics = OffsetFetchRequestTopics::default()
        .with_name(topic_name(topic))
        .with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(Some(vec![topics]));
    let request = OffsetFetchRequest::default()
        .with_groups(vec![group])
        .with_require_stable(true);
    let response = patiently(
        || wire.ask(8, &request).groups.remove(0),
        |group| group.error_code,
    );
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.committed_offset)
}

/// As [`committed_offset`], once the transaction that wrote it has ended.
fn settled_offset(wire: &mut Wire, group: &str, topic: &str) -> (i16, i64) {
    patiently(
        || committed_offset(wire, group, topic),
        |(error, _)| match *error {
            code::UNSTABLE_OFFSET_COMMIT => code::CONCURRENT_TRANSACTIONS,
            other => other,
        },
    )
}

impl Producer {
    fn commit_offset(&self, wire: &mut Wire, version: i16, at: (&str, &str, i64)) -> i16 {
        let (group, topic, offset) = at;
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text(&self.id)))
            .with_group_id(GroupId(text(group)))
            .with_producer_id(WireProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_topics(vec![topic]);
        let error =
            |wire: &mut Wire| wire.ask(version, &request).topics[0].partitions[0].error_code;
        patiently(|| error(wire), |error| *error)
    }
}

#[test]
fn offsets_of_a_transaction_count_when_it_is_committed() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let group = name("group");
    find_coordinator(&mut wire, 0, &group);
    let mut producer = init(&mut wire, &name("tx"));
    let commit = |wire: &mut Wire, producer: &Producer, offset| {
        producer.commit_offset(wire, 5, (&group, &topic, offset))
    };
    assert_eq!(commit(&mut wire, &producer, 7), 0);
    let unstable = (code::UNSTABLE_OFFSET_COMMIT, -1);
    assert_eq!(committed_offset(&mut wire, &group, &topic), unstable);
    producer.end(&mut wire, true);
    let settled = |wire: &mut Wire| settled_offset(wire, &group, &topic);
    assert_eq!(settled(&mut wire), (0, 7));
    assert_eq!(commit(&mut wire, &producer, 9), 0);
    let late = Producer {
        id: producer.id.clone(),
        ..producer
    };
    producer.end(&mut wire, false);
    assert_eq!(settled(&mut wire), (0, 7));
    // One that comes after the end begins no transaction.
    assert_eq!(commit(&mut wire, &late, 11), code::INVALID_PRODUCER_EPOCH);
    assert_eq!(settled(&mut wire), (0, 7));
}

#[test]
fn an_older_client_adds_the_offsets_before_it_commits_them() {
    let mut wire = Wire::shared();
    let topic = topic(&mut wire, 1);
    let group = name("group");
    find_coordinator(&mut wire, 0, &group);
    let producer = init(&mut wire, &name("tx"));
    let commit =
        |wire: &mut Wire, offset| producer.commit_offset(wire, 3, (&group, &topic, offset));
    assert_eq!(commit(&mut wire, 5), code::INVALID_TXN_STATE);
    let add = AddOffsetsToTxnRequest::default()
        .with_transactional_id(TransactionalId(text(&producer.id)))
        .with_producer_id(WireProducerId(producer.producer_id))
        .with_producer_epoch(producer.epoch)
        .with_group_id(GroupId(text(&group)));
    for round in 0..2i64 {
        let response = patiently(|| wire.ask(3, &add), |r| r.error_code);
        assert_eq!(response.error_code, 0);
        assert_eq!(commit(&mut wire, round), 0);
        assert_eq!(commit(&mut wire, round + 10), 0);
        let (error, ..) = patiently(|| producer.end_once(&mut wire, 3, true), |(e, ..)| *e);
        assert_eq!(error, 0);
        let found = settled_offset(&mut wire, &group, &topic);
        assert_eq!(found, (0, round + 10));
        // The transaction is over, though its epoch stays.
        assert_eq!(commit(&mut wire, 99), code::INVALID_TXN_STATE);
    }
}
