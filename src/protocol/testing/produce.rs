//! Produce against the crate.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;

use kafka_protocol::protocol::Decodable;

use super::{generate, request_fields, response_fields};
use crate::base::ids::TopicId;
use crate::protocol::api::key;
use crate::protocol::fuzz::Rng;
use crate::protocol::produce::*;
use crate::protocol::response::encode_response;

#[test]
fn requests_are_read_as_the_crate_reads_them_and_records_stay_where_they_are() {
    let mut rng = Rng::new(21);
    for version in 3..=13 {
        for _ in 0..200 {
            let fields = request_fields(key::PRODUCE);
            let bytes = generate(&mut rng, fields, version, version >= 9, true);
            let theirs = m::ProduceRequest::decode(&mut Bytes::from(bytes.clone()), version);
            let theirs = theirs.unwrap();
            let frame = BytesMut::from(&bytes[..]);
            let place = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
            let ours = decode_produce_request(version, frame).unwrap();

            let id = theirs.transactional_id.map(|id| id.0);
            assert_eq!(ours.transactional_id, id);
            assert_eq!(ours.acks, theirs.acks);
            assert_eq!(ours.timeout_ms, theirs.timeout_ms);
            assert_eq!(ours.topics.len(), theirs.topic_data.len());
            for (a, b) in ours.topics.iter().zip(&theirs.topic_data) {
                assert_eq!(a.name, b.name.0);
                assert_eq!(a.topic_id, TopicId(b.topic_id.as_u128()));
                assert_eq!(a.partitions.len(), b.partition_data.len());
                for (a, b) in a.partitions.iter().zip(&b.partition_data) {
                    assert_eq!(a.index, b.index);
                    assert_eq!(a.records.as_deref(), b.records.as_deref());
                    if let Some(records) = a.records.as_ref().filter(|r| !r.is_empty()) {
                        assert!(place.contains(&(records.as_ptr() as usize)));
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_written_into_one_partitions_records_is_in_no_others() {
    let mut rng = Rng::new(22);
    let fields = request_fields(key::PRODUCE);
    let bytes = loop {
        let bytes = generate(&mut rng, fields, 9, true, false);
        if bytes.len() > 300 {
            break bytes;
        }
    };
    let mut request = decode_produce_request(9, BytesMut::from(&bytes[..])).unwrap();
    let mut before = Vec::new();
    let mut number = 0;
    for partition in request.topics.iter_mut().flat_map(|t| &mut t.partitions) {
        if let Some(records) = &mut partition.records {
            records.fill(number);
            before.push((number, records.len()));
            number += 1;
        }
    }
    let after: Vec<(u8, usize)> = request
        .topics
        .iter()
        .flat_map(|t| &t.partitions)
        .filter_map(|p| p.records.as_ref())
        .enumerate()
        .map(|(i, r)| {
            assert!(r.iter().all(|&b| usize::from(b) == i));
            (i as u8, r.len())
        })
        .collect();
    assert_eq!(before, after);
    assert!(before.len() > 1);
}

fn endpoints(theirs: &[m::produce_response::NodeEndpoint]) -> Vec<NodeEndpoint> {
    theirs
        .iter()
        .map(|e| NodeEndpoint {
            node_id: e.node_id.0,
            host: e.host.to_string(),
            port: e.port,
            rack: e.rack.as_ref().map(|r| r.to_string()),
        })
        .collect()
}

fn partition(p: &m::produce_response::PartitionProduceResponse) -> ProducePartitionResponse {
    ProducePartitionResponse {
        index: p.index,
        error_code: p.error_code,
        base_offset: p.base_offset,
        log_append_time_ms: p.log_append_time_ms,
        log_start_offset: p.log_start_offset,
        record_errors: p
            .record_errors
            .iter()
            .map(|e| RecordError {
                batch_index: e.batch_index,
                message: e
                    .batch_index_error_message
                    .as_ref()
                    .map(|m| m.to_string().into()),
            })
            .collect(),
        error_message: p.error_message.as_ref().map(|m| m.to_string().into()),
        current_leader: LeaderIdAndEpoch {
            leader_id: p.current_leader.leader_id.0,
            leader_epoch: p.current_leader.leader_epoch,
        },
    }
}

#[test]
fn responses_are_the_crates_byte_for_byte() {
    let mut rng = Rng::new(23);
    for version in 3..=13 {
        for _ in 0..300 {
            let fields = response_fields(key::PRODUCE);
            let bytes = generate(&mut rng, fields, version, version >= 9, false);
            let theirs = m::ProduceResponse::decode(&mut Bytes::from(bytes), version).unwrap();
            let ours = ProduceResponse {
                topics: theirs
                    .responses
                    .iter()
                    .map(|t| ProduceTopicResponse {
                        name: t.name.0.clone(),
                        topic_id: TopicId(t.topic_id.as_u128()),
                        partitions: t.partition_responses.iter().map(partition).collect(),
                    })
                    .collect(),
                throttle_time_ms: theirs.throttle_time_ms,
                node_endpoints: endpoints(&theirs.node_endpoints),
            };
            let theirs = encode_response(key::PRODUCE, version, -7, &theirs).unwrap();
            let ours = encode_produce_response(version, -7, &ours).unwrap();
            assert_eq!(ours, theirs, "version {version}");
        }
    }
}

#[test]
fn a_request_with_bytes_behind_it_is_accepted_as_kafka_does() {
    let mut body = BytesMut::from(&[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 1, 2, 3][..]);
    let request = decode_produce_request(3, body.split()).unwrap();
    assert_eq!((request.acks, request.timeout_ms), (1, 9));
    assert!(request.topics.is_empty() && request.transactional_id.is_none());
}
