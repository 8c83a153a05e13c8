//! Fetch against the crate.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as m;

use kafka_protocol::protocol::Decodable;

use super::{generate, request_fields, response_fields};
use crate::base::ids::TopicId;
use crate::protocol::api::key;
use crate::protocol::fetch::*;
use crate::protocol::fuzz::Rng;
use crate::protocol::response::encode_response;

#[test]
fn requests_are_read_as_the_crate_reads_them() {
    let mut rng = Rng::new(31);
    for version in 4..=18 {
        for _ in 0..200 {
            let fields = request_fields(key::FETCH);
            let bytes = generate(&mut rng, fields, version, version >= 12, true);
            let mut rest = Bytes::from(bytes.clone());
            let theirs = m::FetchRequest::decode(&mut rest, version).unwrap();
            let expected = FetchRequest {
                cluster_id: theirs.cluster_id.clone(),
                replica_id: if version >= 15 {
                    theirs.replica_state.replica_id.0
                } else {
                    theirs.replica_id.0
                },
                replica_epoch: theirs.replica_state.replica_epoch,
                max_wait_ms: theirs.max_wait_ms,
                min_bytes: theirs.min_bytes,
                max_bytes: theirs.max_bytes,
                isolation_level: theirs.isolation_level,
                session_id: theirs.session_id,
                session_epoch: theirs.session_epoch,
                topics: theirs
                    .topics
                    .iter()
                    .map(|t| FetchTopic {
                        topic: t.topic.0.clone(),
                        topic_id: TopicId(t.topic_id.as_u128()),
                        partitions: t.partitions.iter().map(partition).collect(),
                    })
                    .collect(),
                forgotten_topics: theirs
                    .forgotten_topics_data
                    .iter()
                    .map(|t| ForgottenTopic {
                        topic: t.topic.0.clone(),
                        topic_id: TopicId(t.topic_id.as_u128()),
                        partitions: t.partitions.clone(),
                    })
                    .collect(),
                rack_id: theirs.rack_id.clone(),
            };
            assert_eq!(decode_fetch_request(version, &bytes).unwrap(), expected);
        }
    }
}

fn partition(p: &m::fetch_request::FetchPartition) -> FetchPartition {
    FetchPartition {
        partition: p.partition,
        current_leader_epoch: p.current_leader_epoch,
        fetch_offset: p.fetch_offset,
        last_fetched_epoch: p.last_fetched_epoch,
        log_start_offset: p.log_start_offset,
        partition_max_bytes: p.partition_max_bytes,
        replica_directory_id: p.replica_directory_id.as_u128(),
        high_watermark: p.high_watermark,
    }
}

#[test]
fn a_tagged_field_of_a_later_version_is_skipped() {
    // Version 12 with the ReplicaState of version 15 in its last tag section.
    let mut rng = Rng::new(32);
    let mut bytes = generate(&mut rng, request_fields(key::FETCH), 12, true, false);
    while bytes.last() != Some(&0) {
        bytes = generate(&mut rng, request_fields(key::FETCH), 12, true, false);
    }
    let plain = decode_fetch_request(12, &bytes).unwrap();
    *bytes.last_mut().unwrap() = 1;
    bytes.extend_from_slice(&[1, 13, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0]);
    assert_eq!(decode_fetch_request(12, &bytes).unwrap(), plain);
}

fn response(theirs: &m::FetchResponse) -> FetchResponse {
    FetchResponse {
        throttle_time_ms: theirs.throttle_time_ms,
        error_code: theirs.error_code,
        session_id: theirs.session_id,
        topics: theirs
            .responses
            .iter()
            .map(|t| FetchTopicResponse {
                topic: t.topic.0.clone(),
                topic_id: TopicId(t.topic_id.as_u128()),
                partitions: t.partitions.iter().map(partition_response).collect(),
            })
            .collect(),
        node_endpoints: theirs
            .node_endpoints
            .iter()
            .map(|e| NodeEndpoint {
                node_id: e.node_id.0,
                host: e.host.to_string(),
                port: e.port,
                rack: e.rack.as_ref().map(|r| r.to_string()),
            })
            .collect(),
    }
}

fn partition_response(p: &m::fetch_response::PartitionData) -> FetchPartitionResponse {
    FetchPartitionResponse {
        partition_index: p.partition_index,
        error_code: p.error_code,
        high_watermark: p.high_watermark,
        last_stable_offset: p.last_stable_offset,
        log_start_offset: p.log_start_offset,
        diverging_epoch: EpochEndOffset {
            epoch: p.diverging_epoch.epoch,
            end_offset: p.diverging_epoch.end_offset,
        },
        current_leader: LeaderIdAndEpoch {
            leader_id: p.current_leader.leader_id.0,
            leader_epoch: p.current_leader.leader_epoch,
        },
        snapshot_id: SnapshotId {
            end_offset: p.snapshot_id.end_offset,
            epoch: p.snapshot_id.epoch,
        },
        aborted_transactions: p.aborted_transactions.as_ref().map(|list| {
            list.iter()
                .map(|t| AbortedTransaction {
                    producer_id: t.producer_id.0,
                    first_offset: t.first_offset,
                })
                .collect()
        }),
        preferred_read_replica: p.preferred_read_replica.0,
        records_len: p.records.as_ref().map(|r| r.len() as u32),
    }
}

#[test]
fn pieces_with_the_records_put_in_are_the_crates_bytes() {
    let mut rng = Rng::new(33);
    for version in 4..=18 {
        for _ in 0..300 {
            let fields = response_fields(key::FETCH);
            let bytes = generate(&mut rng, fields, version, version >= 12, false);
            let theirs = m::FetchResponse::decode(&mut Bytes::from(bytes), version).unwrap();
            let expected = encode_response(key::FETCH, version, 99, &theirs).unwrap();

            let records: Vec<&Bytes> = theirs
                .responses
                .iter()
                .flat_map(|t| &t.partitions)
                .filter_map(|p| p.records.as_ref())
                .filter(|r| !r.is_empty())
                .collect();
            let pieces = encode_fetch_response(version, 99, &response(&theirs)).unwrap();
            assert_eq!(pieces.len(), records.len() + 1);
            let mut whole = BytesMut::new();
            for (i, piece) in pieces.iter().enumerate() {
                whole.put_slice(piece);
                if let Some(records) = records.get(i) {
                    whole.put_slice(records);
                }
            }
            assert_eq!(whole, expected, "version {version}");
        }
    }
}

#[test]
fn a_response_longer_than_a_frame_is_refused() {
    let partition = FetchPartitionResponse {
        records_len: Some(1 << 30),
        ..Default::default()
    };
    let response = |partitions| FetchResponse {
        topics: vec![FetchTopicResponse {
            partitions: vec![partition.clone(); partitions],
            ..Default::default()
        }],
        ..Default::default()
    };
    assert!(encode_fetch_response(12, 1, &response(1)).is_ok());
    assert!(encode_fetch_response(12, 1, &response(2)).is_err());
}

#[test]
fn a_null_and_an_empty_record_set_take_no_slot() {
    let with = |records_len| FetchResponse {
        topics: vec![FetchTopicResponse {
            partitions: vec![FetchPartitionResponse {
                records_len,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for version in [4, 18] {
        let pieces = |len| encode_fetch_response(version, 1, &with(len)).unwrap();
        assert_eq!(pieces(None).len(), 1);
        assert_eq!(pieces(Some(0)).len(), 1);
        assert_eq!(pieces(Some(1)).len(), 2);
    }
}
