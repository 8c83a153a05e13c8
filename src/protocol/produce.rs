//! Produce (key 0), versions 3 to 13: the request is taken apart in place, the response written whole.
//!
//! The records of each partition are split off the frame as a [`BytesMut`] of their own: mutable, so
//! that offsets are written into the very bytes that arrived, disjoint, and without a copy. Each keeps
//! the whole frame's memory alive until it is dropped.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::StrBytes;
use super::api::{self, key};
use super::reader::{Malformed, Reader, Reason};
use super::response::EncodeError;
use super::writer::{Writer, varint_size};
use crate::base::ids::TopicId;

#[derive(Debug)]
pub struct ProduceRequest {
    pub transactional_id: Option<StrBytes>,
    /// 0 for no reply, 1 for the leader, -1 for all in-sync replicas; others are the sender's error.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<ProduceTopic>,
}

#[derive(Debug)]
pub struct ProduceTopic {
    /// Empty from version 13 on.
    pub name: StrBytes,
    /// Zero up to version 12.
    pub topic_id: TopicId,
    pub partitions: Vec<ProducePartition>,
}

#[derive(Debug)]
pub struct ProducePartition {
    pub index: i32,
    /// The record batches as they came, for this partition alone to change.
    pub records: Option<BytesMut>,
}

/// Takes the body of a Produce request apart. Bytes behind the request are ignored, as Kafka does.
///
/// Allocates once for the topics, once a topic for its name and once for its partitions; nothing a
/// record. Names are copied, so that who keeps one does not keep the frame. A hostile body can make it
/// take up to 27 times its own size; who reserves memory first asks [`super::walker::walk`] how much.
pub fn decode_produce_request(
    version: i16,
    mut body: BytesMut,
) -> Result<ProduceRequest, Malformed> {
    let (mut request, ranges) = read(version, &body)?;
    // The reader found each range inside the body and behind the one before, so what is split off here
    // is there. `position` is the front of what remains, counted in the whole.
    let mut ranges = ranges.into_iter();
    let mut position = 0;
    for topic in &mut request.topics {
        for partition in &mut topic.partitions {
            if let Some((start, length)) = ranges.next().flatten() {
                body.advance(start - position);
                partition.records = Some(body.split_to(length));
                position = start + length;
            }
        }
    }
    Ok(request)
}

/// Where the records of each partition lie in the body (start and length), in the order of the
/// request; null is `None`.
type RecordRanges = Vec<Option<(usize, usize)>>;

/// Reads everything but the records.
fn read(version: i16, body: &[u8]) -> Result<(ProduceRequest, RecordRanges), Malformed> {
    let api = match api::lookup(key::PRODUCE, version) {
        api::Lookup::Served(api) => api,
        _ => return Reader::new(body, false).err("version", Reason::NotServed),
    };
    let flexible = api.flexible(version);
    let mut reader = Reader::new(body, flexible);
    let transactional_id = owned(reader.string(true, "TransactionalId")?);
    let acks = reader.i16("Acks")?;
    let timeout_ms = reader.i32("TimeoutMs")?;
    let (least_topic, least_partition) = match (flexible, version >= 13) {
        (true, true) => (18, 6),
        (true, false) => (3, 6),
        (false, _) => (6, 8),
    };
    let topic_count = reader.elements(least_topic, "TopicData")?;
    let mut topics = Vec::with_capacity(topic_count);
    let mut ranges = Vec::new();
    for _ in 0..topic_count {
        let (name, topic_id) = if version >= 13 {
            let id = TopicId::from_bytes(reader.uuid("TopicId")?);
            (StrBytes::new(), id)
        } else {
            let name = StrBytes::from_string(reader.text("Name")?.to_owned());
            (name, TopicId::ZERO)
        };
        let partition_count = reader.elements(least_partition, "PartitionData")?;
        let mut partitions = Vec::with_capacity(partition_count);
        ranges.reserve(partition_count);
        for _ in 0..partition_count {
            let index = reader.i32("Index")?;
            let records = reader.bytes(true, "Records")?;
            ranges.push(records.map(|records| (reader.position() - records.len(), records.len())));
            partitions.push(ProducePartition {
                index,
                records: None,
            });
            reader.skip_tags()?;
        }
        reader.skip_tags()?;
        topics.push(ProduceTopic {
            name,
            topic_id,
            partitions,
        });
    }
    reader.skip_tags()?;
    let request = ProduceRequest {
        transactional_id,
        acks,
        timeout_ms,
        topics,
    };
    Ok((request, ranges))
}

fn owned(text: Option<&str>) -> Option<StrBytes> {
    text.map(|text| StrBytes::from_string(text.to_owned()))
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceResponse {
    pub topics: Vec<ProduceTopicResponse>,
    pub throttle_time_ms: i32,
    /// Where the leaders named in [`ProducePartitionResponse::current_leader`] are (KIP-951, v10+).
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceTopicResponse {
    /// Sent up to version 12.
    pub name: StrBytes,
    /// Sent from version 13 on.
    pub topic_id: TopicId,
    pub partitions: Vec<ProducePartitionResponse>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProducePartitionResponse {
    pub index: i32,
    pub error_code: i16,
    pub base_offset: i64,
    /// -1 unless the topic's timestamps are LogAppendTime.
    pub log_append_time_ms: i64,
    /// v5+.
    pub log_start_offset: i64,
    /// The records that made the batch be refused (KIP-467, v8+).
    pub record_errors: Vec<RecordError>,
    /// v8+.
    pub error_message: Option<Cow<'static, str>>,
    /// Who leads, if it is not this broker (KIP-951, v10+).
    pub current_leader: LeaderIdAndEpoch,
}

impl Default for ProducePartitionResponse {
    fn default() -> Self {
        Self {
            index: 0,
            error_code: 0,
            base_offset: 0,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: LeaderIdAndEpoch::default(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordError {
    /// The record's place in the batch, from 0.
    pub batch_index: i32,
    pub message: Option<Cow<'static, str>>,
}

/// A leader and its epoch; -1 and -1, the default, say nothing and are not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

impl Default for LeaderIdAndEpoch {
    fn default() -> Self {
        Self {
            leader_id: -1,
            leader_epoch: -1,
        }
    }
}

impl LeaderIdAndEpoch {
    pub(super) fn write(&self, writer: &mut Writer, tag: u32) {
        let mut content = [0; 9];
        content[..4].copy_from_slice(&self.leader_id.to_be_bytes());
        content[4..8].copy_from_slice(&self.leader_epoch.to_be_bytes());
        writer.tag(tag, content);
    }
}

/// Where a broker listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// Writes `endpoints` as the tagged field that ends a Produce or Fetch response, or an empty tag section
/// if there are none.
pub(super) fn write_node_endpoints(writer: &mut Writer, endpoints: &[NodeEndpoint]) {
    if endpoints.is_empty() {
        writer.no_tags();
        return;
    }
    let string_size = |s: &str| {
        let length = s.len().min(i16::MAX as usize);
        varint_size(length as u32 + 1) + length
    };
    let size = varint_size(endpoints.len() as u32 + 1)
        + endpoints
            .iter()
            .map(|e| 9 + string_size(&e.host) + e.rack.as_deref().map_or(1, string_size))
            .sum::<usize>();
    writer.varint(1);
    writer.varint(0);
    writer.varint(size as u32);
    let start = writer.out.len();
    writer.count(endpoints.len());
    for endpoint in endpoints {
        writer.out.put_i32(endpoint.node_id);
        writer.string(Some(&endpoint.host));
        writer.out.put_i32(endpoint.port);
        writer.string(endpoint.rack.as_deref());
        writer.no_tags();
    }
    assert_eq!(writer.out.len() - start, size);
}

/// The whole frame of a Produce response, length prefix and header included.
pub fn encode_produce_response(
    version: i16,
    correlation_id: i32,
    response: &ProduceResponse,
) -> Result<Bytes, EncodeError> {
    let api = match api::lookup(key::PRODUCE, version) {
        api::Lookup::Served(api) => api,
        _ => return Err(EncodeError::NotServed),
    };
    let capacity = 32
        + response
            .topics
            .iter()
            .map(|topic| 32 + topic.name.len() + 48 * topic.partitions.len())
            .sum::<usize>();
    let mut w = Writer::response(correlation_id, api.flexible(version), capacity);
    w.count(response.topics.len());
    for topic in &response.topics {
        if version >= 13 {
            w.out.put_slice(&topic.topic_id.to_bytes());
        } else {
            w.string(Some(&topic.name));
        }
        w.count(topic.partitions.len());
        for partition in &topic.partitions {
            write_partition(&mut w, version, partition);
        }
        w.no_tags();
    }
    w.out.put_i32(response.throttle_time_ms);
    if version >= 10 {
        write_node_endpoints(&mut w, &response.node_endpoints);
    } else {
        w.no_tags();
    }
    w.finish_length(0).ok_or(EncodeError::TooLarge)?;
    Ok(w.out.freeze())
}

fn write_partition(w: &mut Writer, version: i16, partition: &ProducePartitionResponse) {
    w.out.put_i32(partition.index);
    w.out.put_i16(partition.error_code);
    w.out.put_i64(partition.base_offset);
    w.out.put_i64(partition.log_append_time_ms);
    if version >= 5 {
        w.out.put_i64(partition.log_start_offset);
    }
    if version >= 8 {
        w.count(partition.record_errors.len());
        for error in &partition.record_errors {
            w.out.put_i32(error.batch_index);
            w.string(error.message.as_deref());
            w.no_tags();
        }
        w.string(partition.error_message.as_deref());
    }
    if version >= 10 && partition.current_leader != LeaderIdAndEpoch::default() {
        w.varint(1);
        partition.current_leader.write(w, 0);
    } else {
        w.no_tags();
    }
}
