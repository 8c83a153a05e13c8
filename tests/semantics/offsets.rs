//! ListOffsets, DeleteRecords, OffsetForLeaderEpoch, and that they agree with Fetch.

use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
};

use crate::wire::*;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Offset and timestamp.
fn find(wire: &mut Wire, topic: &str, timestamp: i64) -> (i64, i64) {
    let answer = wire.list_offset(10, topic, 0, timestamp);
    assert_eq!(answer.error_code, 0);
    (answer.offset, answer.timestamp)
}

fn delete_before(wire: &mut Wire, topic: &str, offset: i64) -> (i16, i64) {
    let request = DeleteRecordsRequest::default()
        .with_timeout_ms(10_000)
        .with_topics(vec![
            DeleteRecordsTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(vec![
                    DeleteRecordsPartition::default()
                        .with_partition_index(0)
                        .with_offset(offset),
                ]),
        ]);
    let response = wire.ask(2, &request);
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.low_watermark)
}

#[test]
fn an_empty_log_begins_and_ends_at_zero() {
    let mut wire = Wire::shared();
    let topic = name("empty");
    wire.create(&topic, 1, &[]);
    assert_eq!(find(&mut wire, &topic, LATEST), (0, -1));
    assert_eq!(find(&mut wire, &topic, EARLIEST), (0, -1));
    assert_eq!(find(&mut wire, &topic, EARLIEST_LOCAL), (0, -1));
    assert_eq!(find(&mut wire, &topic, LATEST_TIERED), (-1, -1));
    assert_eq!(find(&mut wire, &topic, MAX_TIMESTAMP), (-1, -1));
    assert_eq!(find(&mut wire, &topic, 0), (-1, -1));
}

#[test]
fn a_timestamp_finds_the_first_record_not_older() {
    let mut wire = Wire::shared();
    let topic = name("by-time");
    wire.create(&topic, 1, &[]);
    let t = now() - 100_000;
    wire.append(
        &topic,
        0,
        batch_at(&[(t, b"0"), (t + 10, b"1"), (t + 20, b"2")]),
    );
    // Out of order: the time of the batch before is not reached again.
    wire.append(
        &topic,
        0,
        batch_at(&[(t + 5, b"3"), (t + 50, b"4"), (t + 40, b"5")]),
    );
    wire.append(&topic, 0, batch_at(&[(t + 30, b"6"), (t + 60, b"7")]));
    assert_eq!(find(&mut wire, &topic, 0), (0, t));
    assert_eq!(find(&mut wire, &topic, t + 1), (1, t + 10));
    assert_eq!(find(&mut wire, &topic, t + 20), (2, t + 20));
    assert_eq!(find(&mut wire, &topic, t + 21), (4, t + 50));
    assert_eq!(find(&mut wire, &topic, t + 51), (7, t + 60));
    assert_eq!(find(&mut wire, &topic, t + 61), (-1, -1));
    assert_eq!(find(&mut wire, &topic, MAX_TIMESTAMP), (7, t + 60));
    assert_eq!(find(&mut wire, &topic, LATEST), (8, -1));
}

#[test]
fn the_largest_timestamp_is_that_of_its_first_record() {
    let mut wire = Wire::shared();
    let topic = name("max-time");
    wire.create(&topic, 1, &[]);
    let t = now() - 100_000;
    wire.append(
        &topic,
        0,
        batch_at(&[(t, b"0"), (t + 90, b"1"), (t + 90, b"2")]),
    );
    wire.append(&topic, 0, batch_at(&[(t + 90, b"3"), (t + 20, b"4")]));
    assert_eq!(find(&mut wire, &topic, MAX_TIMESTAMP), (1, t + 90));
}

#[test]
fn marks_newer_than_the_version_are_refused() {
    let mut wire = Wire::shared();
    let topic = name("marks");
    wire.create(&topic, 1, &[]);
    for (version, mark, expected) in [
        (6, MAX_TIMESTAMP, code::UNSUPPORTED_VERSION),
        (7, MAX_TIMESTAMP, 0),
        (7, EARLIEST_LOCAL, code::UNSUPPORTED_VERSION),
        (8, EARLIEST_LOCAL, 0),
        (8, LATEST_TIERED, code::UNSUPPORTED_VERSION),
        (9, LATEST_TIERED, 0),
    ] {
        let answer = wire.list_offset(version, &topic, 0, mark);
        assert_eq!(answer.error_code, expected, "{version} {mark}");
    }
}

#[test]
fn a_partition_asked_twice_is_an_invalid_request() {
    let mut wire = Wire::shared();
    let topic = name("twice");
    wire.create(&topic, 2, &[]);
    let partition = |index| {
        ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_current_leader_epoch(-1)
            .with_timestamp(LATEST)
    };
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![
            ListOffsetsTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(vec![partition(0), partition(1), partition(0)]),
        ]);
    let response = wire.ask(7, &request);
    for answer in &response.topics[0].partitions {
        let expected = if answer.partition_index == 0 {
            code::INVALID_REQUEST
        } else {
            0
        };
        assert_eq!(answer.error_code, expected);
    }
}

#[test]
fn the_leader_epoch_is_checked_and_told() {
    let mut wire = Wire::shared();
    let topic = name("epoch");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(1));
    assert_eq!(wire.list_offset(7, &topic, 0, LATEST).leader_epoch, 0);
    assert_eq!(wire.list_offset(7, &topic, 0, EARLIEST).leader_epoch, 0);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![
            ListOffsetsTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(vec![
                    ListOffsetsPartition::default()
                        .with_partition_index(0)
                        .with_current_leader_epoch(3)
                        .with_timestamp(LATEST),
                ]),
        ]);
    let response = wire.ask(7, &request);
    assert_eq!(
        response.topics[0].partitions[0].error_code,
        code::UNKNOWN_LEADER_EPOCH
    );
}

#[test]
fn deleted_records_are_gone_for_fetch_and_list_offsets_alike() {
    let mut wire = Wire::shared();
    let topic = name("deleted");
    wire.create(&topic, 1, &[]);
    for _ in 0..5 {
        wire.append(&topic, 0, batch(2));
    }
    assert_eq!(
        delete_before(&mut wire, &topic, 11),
        (code::OFFSET_OUT_OF_RANGE, -1)
    );
    assert_eq!(
        delete_before(&mut wire, &topic, -2),
        (code::OFFSET_OUT_OF_RANGE, -1)
    );
    assert_eq!(delete_before(&mut wire, &topic, 5), (0, 5));
    assert_eq!(find(&mut wire, &topic, EARLIEST), (5, -1));
    let data = wire.fetch(&topic, 0, 5);
    assert_eq!((data.log_start_offset, data.high_watermark), (5, 10));
    assert_eq!(bases(&data), [4, 6, 8]);
    assert_eq!(
        wire.fetch(&topic, 0, 4).error_code,
        code::OFFSET_OUT_OF_RANGE
    );
    // It does not go back.
    assert_eq!(delete_before(&mut wire, &topic, 3), (0, 5));
    assert_eq!(delete_before(&mut wire, &topic, -1), (0, 10));
    assert_eq!(find(&mut wire, &topic, EARLIEST), (10, -1));
    assert_eq!(find(&mut wire, &topic, 0).0, -1);
    assert_eq!(wire.append(&topic, 0, batch(1)), 10);
    assert_eq!(bases(&wire.fetch(&topic, 0, 10)), [10]);
}

#[test]
fn records_of_a_compacted_topic_are_not_deleted() {
    let mut wire = Wire::shared();
    let topic = name("kept");
    wire.create(&topic, 1, &[("cleanup.policy", "compact")]);
    assert_eq!(
        delete_before(&mut wire, &topic, 0).0,
        code::POLICY_VIOLATION
    );
    let answer = delete_before(&mut wire, "no-such-topic", 0);
    assert_eq!(answer.0, code::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn the_end_of_an_epoch_is_told() {
    let mut wire = Wire::shared();
    let topic = name("epoch-end");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(3));
    let mut ask = |current: i32, epoch: i32, partition: i32| {
        let asked = OffsetForLeaderPartition::default()
            .with_partition(partition)
            .with_current_leader_epoch(current)
            .with_leader_epoch(epoch);
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![
                OffsetForLeaderTopic::default()
                    .with_topic(topic_name(&topic))
                    .with_partitions(vec![asked]),
            ]);
        let response = wire.ask(4, &request);
        let answer = &response.topics[0].partitions[0];
        (answer.error_code, answer.leader_epoch, answer.end_offset)
    };
    assert_eq!(ask(-1, 0, 0), (0, 0, 3));
    assert_eq!(ask(0, 0, 0), (0, 0, 3));
    assert_eq!(ask(-1, 5, 0), (0, -1, -1));
    assert_eq!(ask(4, 0, 0), (code::UNKNOWN_LEADER_EPOCH, -1, -1));
    assert_eq!(ask(-1, 0, 9), (code::UNKNOWN_TOPIC_OR_PARTITION, -1, -1));
}
