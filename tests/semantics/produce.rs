//! Produce: what is refused, with which code; what is written.

use std::time::Instant;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiVersionsRequest, ProduceRequest};
use ringspun::base::Timestamp;
use ringspun::records::{BatchBuilder, Compression, CompressionType};
use uuid::Uuid;

use crate::wire::*;

fn refused(records: Vec<u8>, expected: i16) {
    let mut wire = Wire::shared();
    let topic = name("refused");
    wire.create(&topic, 1, &[]);
    let answer = wire.produce(9, -1, &topic, 0, records);
    assert_eq!(answer.error_code, expected, "{:?}", answer.error_message);
    assert_eq!(answer.base_offset, -1);
    assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, 0);
}

#[test]
fn a_wrong_crc_is_corrupt() {
    let mut records = batch(1);
    records[17] ^= 1;
    refused(records, code::CORRUPT_MESSAGE);
}

#[test]
fn older_magic_is_an_invalid_record() {
    let mut records = batch(1);
    records[16] = 1;
    refused(records, code::INVALID_RECORD);
}

#[test]
fn two_batches_are_an_invalid_record() {
    refused([batch(1), batch(2)].concat(), code::INVALID_RECORD);
}

#[test]
fn no_batch_is_an_invalid_record() {
    refused(Vec::new(), code::INVALID_RECORD);
}

#[test]
fn a_control_batch_of_a_client_is_an_invalid_record() {
    let mut records = batch(1);
    records[22] |= 1 << 5;
    refused(with_crc(records), code::INVALID_RECORD);
}

#[test]
fn a_count_that_is_not_that_of_the_records_is_an_invalid_record() {
    let mut records = batch(2);
    records[60] = 3;
    records[26] = 2;
    refused(with_crc(records), code::INVALID_RECORD);
}

#[test]
fn a_last_offset_delta_that_is_not_the_counts_is_an_invalid_record() {
    let mut records = batch(2);
    records[26] = 5;
    refused(with_crc(records), code::INVALID_RECORD);
}

#[test]
fn a_base_offset_other_than_zero_is_an_invalid_record() {
    let mut records = batch(1);
    records[7] = 4;
    refused(records, code::INVALID_RECORD);
}

#[test]
fn a_batch_over_max_message_bytes_is_too_large() {
    let mut wire = Wire::shared();
    let topic = name("large");
    wire.create(&topic, 1, &[("max.message.bytes", "1000")]);
    let answer = wire.produce(9, -1, &topic, 0, batch_of_bytes(1000));
    assert_eq!(answer.error_code, code::MESSAGE_TOO_LARGE);
    assert_eq!(wire.append(&topic, 0, batch_of_bytes(900)), 0);
}

#[test]
fn a_batch_over_segment_bytes_is_a_record_list_too_large() {
    let mut wire = Wire::shared();
    let topic = name("segment");
    wire.create(
        &topic,
        1,
        &[
            ("segment.bytes", "1048576"),
            ("max.message.bytes", "3000000"),
        ],
    );
    let answer = wire.produce(9, -1, &topic, 0, batch_of_bytes(1_500_000));
    assert_eq!(answer.error_code, code::RECORD_LIST_TOO_LARGE);
}

#[test]
fn acks_other_than_0_1_and_all_are_refused_and_nothing_is_written() {
    let mut wire = Wire::shared();
    let topic = name("acks");
    wire.create(&topic, 1, &[]);
    for acks in [-2, 2, 100] {
        let answer = wire.produce(9, acks, &topic, 0, batch(1));
        assert_eq!(answer.error_code, code::INVALID_REQUIRED_ACKS);
    }
    assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, 0);
    assert_eq!(wire.produce(9, 1, &topic, 0, batch(1)).base_offset, 0);
}

#[test]
fn acks_0_gets_no_reply_and_is_written_before_what_follows() {
    let mut wire = Wire::shared();
    let topic = name("acks0");
    wire.create(&topic, 1, &[]);
    wire.send(9, &produce_request(0, &topic, 0, Some(batch(3).into())));
    assert_eq!(wire.append(&topic, 0, batch(1)), 3);
}

#[test]
fn acks_0_that_fails_closes_the_connection() {
    let mut wire = Wire::shared();
    let topic = name("acks0");
    wire.create(&topic, 1, &[]);
    wire.send(9, &produce_request(0, &topic, 7, Some(batch(1).into())));
    assert!(wire.is_closed());
}

#[test]
fn an_unknown_topic_or_partition_says_so_and_the_others_are_written() {
    let mut wire = Wire::shared();
    let topic = name("known");
    wire.create(&topic, 4, &[]);
    let partition = |index| {
        PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(batch(1).into()))
    };
    let asked = |topic: &str, partitions: &[i32]| {
        TopicProduceData::default()
            .with_name(topic_name(topic))
            .with_partition_data(partitions.iter().map(|&p| partition(p)).collect())
    };
    let request = ProduceRequest::default()
        .with_acks(1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![
            asked(&topic, &[3, 9, 0]),
            asked("no-such-topic", &[0]),
        ]);
    let response = wire.ask(9, &request);
    for topic_response in &response.responses {
        for answer in &topic_response.partition_responses {
            let known = topic_response.name.as_str() == topic && answer.index < 4;
            let expected = if known {
                code::NONE
            } else {
                code::UNKNOWN_TOPIC_OR_PARTITION
            };
            assert_eq!(answer.error_code, expected);
        }
    }
    assert_eq!(wire.list_offset(7, &topic, 3, -1).offset, 1);
    assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, 1);
    assert_eq!(wire.list_offset(7, &topic, 1, -1).offset, 0);
}

#[test]
fn from_version_13_on_topics_are_ids() {
    let mut wire = Wire::shared();
    let topic = name("ids");
    let id = wire.create(&topic, 1, &[]);
    let mut request = produce_request(-1, "", 0, Some(batch(1).into()));
    request.topic_data[0].topic_id = id;
    let response = wire.ask(13, &request);
    assert_eq!(response.responses[0].topic_id, id);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    request.topic_data[0].topic_id = Uuid::new_v4();
    let response = wire.ask(13, &request);
    let answer = &response.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, code::UNKNOWN_TOPIC_ID);
}

#[test]
fn zstd_is_refused_below_version_7() {
    let mut wire = Wire::shared();
    let topic = name("zstd");
    wire.create(&topic, 1, &[]);
    let mut batch = BatchBuilder::new(Compression::of(CompressionType::Zstd));
    batch.append(Timestamp(now()), None, Some(b"value"), &[]);
    let records = Bytes::from(batch.build());
    let answer = wire.produce(6, -1, &topic, 0, records.clone());
    assert_eq!(answer.error_code, code::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(wire.produce(7, -1, &topic, 0, records).error_code, 0);
}

#[test]
fn every_version_and_codec_is_written_as_it_came() {
    let mut wire = Wire::shared();
    let topic = name("codecs");
    wire.create(&topic, 1, &[]);
    let codecs = [
        CompressionType::None,
        CompressionType::Gzip,
        CompressionType::Snappy,
        CompressionType::Lz4,
        CompressionType::Zstd,
    ];
    let mut sent = Vec::new();
    for codec in codecs {
        for version in 3..=12 {
            if codec == CompressionType::Zstd && version < 7 {
                continue;
            }
            let mut batch = BatchBuilder::new(Compression::of(codec));
            for _ in 0..10 {
                batch.append(Timestamp(now()), Some(b"key"), Some(&[b'v'; 100]), &[]);
            }
            let records = batch.build();
            let answer = wire.produce(version, 1, &topic, 0, records.clone());
            assert_eq!(answer.error_code, 0, "{codec:?} {version}");
            assert_eq!(answer.base_offset, sent.len() as i64 * 10);
            sent.push(records);
        }
    }
    let data = wire.fetch(&topic, 0, 0);
    let fetched = data.records.expect("records");
    let mut at = 0;
    for records in &sent {
        // Past base offset, length and leader epoch, which the broker sets.
        assert_eq!(fetched[at + 16..at + records.len()], records[16..]);
        at += records.len();
    }
    assert_eq!(at, fetched.len());
}

#[test]
fn a_compacted_topic_wants_keys_and_names_the_records_without() {
    let mut wire = Wire::shared();
    let topic = name("compacted");
    wire.create(&topic, 1, &[("cleanup.policy", "compact")]);
    let mut batch = BatchBuilder::uncompressed();
    batch.append(Timestamp(now()), Some(b"k"), Some(b"v"), &[]);
    batch.append(Timestamp(now()), None, Some(b"v"), &[]);
    batch.append(Timestamp(now()), None, Some(b"v"), &[]);
    let answer = wire.produce(8, -1, &topic, 0, batch.build());
    assert_eq!(answer.error_code, code::INVALID_RECORD);
    let indexes: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
    assert_eq!(indexes, [1, 2]);
    assert!(answer.error_message.is_some());
    assert!(answer.record_errors[0].batch_index_error_message.is_some());
}

#[test]
fn timestamps_beyond_the_limits_are_invalid() {
    let mut wire = Wire::shared();
    let topic = name("times");
    let limits = [
        ("message.timestamp.before.max.ms", "10000"),
        ("message.timestamp.after.max.ms", "10000"),
    ];
    wire.create(&topic, 1, &limits);
    for timestamp in [now() - 60_000, now() + 60_000] {
        let records = batch_at(&[(now(), b"good"), (timestamp, b"bad")]);
        let answer = wire.produce(9, -1, &topic, 0, records);
        assert_eq!(answer.error_code, code::INVALID_TIMESTAMP);
        assert_eq!(answer.record_errors.len(), 1);
        assert_eq!(answer.record_errors[0].batch_index, 1);
    }
    assert_eq!(wire.append(&topic, 0, batch(1)), 0);
}

#[test]
fn log_append_time_is_the_brokers_and_is_told() {
    let mut wire = Wire::shared();
    let topic = name("append-time");
    wire.create(&topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = now();
    let answer = wire.produce(9, -1, &topic, 0, batch_at(&[(5, b"a"), (6, b"b")]));
    assert_eq!(answer.error_code, 0);
    assert!((before..=now()).contains(&answer.log_append_time_ms));
    let records = wire.fetch(&topic, 0, 0).records.expect("records");
    let max = i64::from_be_bytes(records[35..43].try_into().expect("8"));
    assert_eq!(max, answer.log_append_time_ms);
    assert_eq!(records[22] & 8, 8, "the timestamp type bit");
    let crc = u32::from_be_bytes(records[17..21].try_into().expect("4"));
    assert_eq!(crc, crc32c::crc32c(&records[21..]));
}

#[test]
fn create_time_is_the_clients_and_no_append_time_is_told() {
    let mut wire = Wire::shared();
    let topic = name("create-time");
    wire.create(&topic, 1, &[]);
    let answer = wire.produce(9, -1, &topic, 0, batch(1));
    assert_eq!(answer.log_append_time_ms, -1);
    assert_eq!(answer.log_start_offset, 0);
}

#[test]
fn a_topics_compression_type_recompresses() {
    let mut wire = Wire::shared();
    for (value, id) in [
        ("gzip", 1),
        ("snappy", 2),
        ("lz4", 3),
        ("zstd", 4),
        ("uncompressed", 0),
    ] {
        let topic = name("recompressed");
        wire.create(&topic, 1, &[("compression.type", value)]);
        let from = if id == 0 {
            CompressionType::Zstd
        } else {
            CompressionType::None
        };
        let mut batch = BatchBuilder::new(Compression::of(from));
        for _ in 0..20 {
            batch.append(Timestamp(now()), Some(b"key"), Some(&[b'v'; 100]), &[]);
        }
        assert_eq!(wire.append(&topic, 0, batch.build()), 0);
        assert_eq!(wire.append(&topic, 0, batch.build()), 20);
        let records = wire.fetch(&topic, 0, 0).records.expect("records");
        let found = batches(&records);
        assert_eq!(found.len(), 2);
        for (index, (base, last, _)) in found.iter().enumerate() {
            assert_eq!((*base, *last), (index as i64 * 20, index as i64 * 20 + 19));
        }
        assert_eq!(records[22] & 7, id, "{value}");
    }
}

#[test]
fn requests_are_answered_in_order_and_pipelined_produces_keep_theirs() {
    let mut wire = Wire::shared();
    let topic = name("pipeline");
    wire.create(&topic, 4, &[]);
    for round in 0..50 {
        let request = produce_request(-1, &topic, round % 4, Some(batch(1).into()));
        wire.send(9, &request);
        wire.send(0, &ApiVersionsRequest::default());
    }
    for round in 0..50 {
        let response = wire.receive::<ProduceRequest>(9);
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (0, i64::from(round / 4))
        );
        wire.receive::<ApiVersionsRequest>(0);
    }
}

#[test]
fn with_flush_messages_1_a_record_is_acknowledged_and_visible_together() {
    let mut wire = Wire::shared();
    let topic = name("flushed");
    wire.create(&topic, 4, &[("flush.messages", "1")]);
    for round in 0..5 {
        for acks in [1, -1] {
            let answer = wire.produce(9, acks, &topic, 2, batch(1));
            assert_eq!(answer.error_code, 0);
            let end = answer.base_offset + 1;
            assert_eq!(end, round * 2 + i64::from(acks == -1) + 1);
            assert_eq!(wire.list_offset(7, &topic, 2, -1).offset, end);
            assert_eq!(wire.fetch(&topic, 2, end - 1).high_watermark, end);
        }
    }
}

#[test]
fn a_batch_of_a_transaction_that_does_not_exist_is_refused() {
    const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    let mut records = batch_by(4000, 0, 0, 1);
    records[22] |= 1 << 4;
    refused(with_crc(records), TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
}

#[test]
fn a_null_record_set_is_refused() {
    if is_kafka() {
        return; // It never answers.
    }
    let mut wire = Wire::shared();
    let topic = name("null");
    wire.create(&topic, 1, &[]);
    let started = Instant::now();
    let response = wire.ask(9, &produce_request(-1, &topic, 0, None));
    assert_ne!(response.responses[0].partition_responses[0].error_code, 0);
    assert!(started.elapsed().as_secs() < 5);
    assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, 0);
}
