//! Fetch (key 1), versions 4 to 18: the request read without the crate, the response written around
//! records that never pass through memory of ours.
//!
//! A response is encoded as pieces: the bytes before the first record set, those between each two, and
//! those after the last. The sender puts the record sets, slices of segment files, in between. The
//! lengths of the sets are known beforehand, so the frame's length is right from its first byte.

use bytes::{BufMut, Bytes};

use super::StrBytes;
use super::api::{self, Lookup, key};
use super::produce::write_node_endpoints;
pub use super::produce::{LeaderIdAndEpoch, NodeEndpoint};
use super::reader::{Malformed, Reader, Reason};
use super::response::EncodeError;
use super::writer::Writer;
use crate::base::ids::TopicId;

#[derive(Debug, Clone, PartialEq)]
pub struct FetchRequest {
    /// Which cluster the sender believes to be in, if it says so (v12+).
    pub cluster_id: Option<StrBytes>,
    /// The follower that asks, -1 for a consumer. From version 15 on it came in the tagged ReplicaState
    /// (KIP-903).
    pub replica_id: i32,
    /// The follower's broker epoch, -1 if it does not say (v15+).
    pub replica_epoch: i64,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// 0 read_uncommitted, 1 read_committed.
    pub isolation_level: i8,
    /// 0 for none (KIP-227, v7+).
    pub session_id: i32,
    /// -1 for no session, 0 for a new one (v7+).
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    /// What to take out of the session (v7+).
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// Empty if the consumer is in no rack (KIP-392, v11+).
    pub rack_id: StrBytes,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FetchTopic {
    /// Empty from version 13 on.
    pub topic: StrBytes,
    /// Zero up to version 12.
    pub topic_id: TopicId,
    pub partitions: Vec<FetchPartition>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FetchPartition {
    pub partition: i32,
    /// -1 if the sender does not know it (KIP-320, v9+).
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    /// -1 if the sender does not want truncation to be detected (v12+).
    pub last_fetched_epoch: i32,
    /// A follower's own log start offset, -1 from a consumer (v5+).
    pub log_start_offset: i64,
    pub partition_max_bytes: i32,
    /// The follower's data directory, zero if it does not say (KIP-853, v17+).
    pub replica_directory_id: u128,
    /// The high watermark the follower knows; `i64::MAX` if it does not say (KIP-1166, v18+).
    pub high_watermark: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ForgottenTopic {
    /// Empty from version 13 on.
    pub topic: StrBytes,
    /// Zero up to version 12.
    pub topic_id: TopicId,
    pub partitions: Vec<i32>,
}

/// Reads the body of a Fetch request. Bytes behind the request are ignored, as Kafka does; a tagged
/// field of a later version is skipped.
///
/// A hostile body can make it take up to 27 times its own size; who reserves memory first asks
/// [`super::walker::walk`] how much.
pub fn decode_fetch_request(version: i16, body: &[u8]) -> Result<FetchRequest, Malformed> {
    let Lookup::Served(api) = api::lookup(key::FETCH, version) else {
        return Reader::new(body, false).err("version", Reason::NotServed);
    };
    let flexible = api.flexible(version);
    let mut r = Reader::new(body, flexible);
    let mut request = FetchRequest {
        cluster_id: None,
        replica_id: if version <= 14 {
            r.i32("ReplicaId")?
        } else {
            -1
        },
        replica_epoch: -1,
        max_wait_ms: r.i32("MaxWaitMs")?,
        min_bytes: r.i32("MinBytes")?,
        max_bytes: r.i32("MaxBytes")?,
        isolation_level: r.i8("IsolationLevel")?,
        session_id: 0,
        session_epoch: -1,
        topics: Vec::new(),
        forgotten_topics: Vec::new(),
        rack_id: StrBytes::new(),
    };
    if version >= 7 {
        request.session_id = r.i32("SessionId")?;
        request.session_epoch = r.i32("SessionEpoch")?;
    }
    let least_topic = match (flexible, version >= 13) {
        (true, true) => 18,
        (true, false) => 3,
        (false, _) => 6,
    };
    let topic_count = r.elements(least_topic, "Topics")?;
    request.topics.reserve_exact(topic_count);
    for _ in 0..topic_count {
        let (topic, topic_id) = read_topic(&mut r, version)?;
        let partition_count = r.elements(16, "Partitions")?;
        let mut partitions = Vec::with_capacity(partition_count);
        for _ in 0..partition_count {
            partitions.push(read_partition(&mut r, version)?);
        }
        r.skip_tags()?;
        request.topics.push(FetchTopic {
            topic,
            topic_id,
            partitions,
        });
    }
    if version >= 7 {
        let forgotten_count = r.elements(least_topic, "ForgottenTopicsData")?;
        request.forgotten_topics.reserve_exact(forgotten_count);
        for _ in 0..forgotten_count {
            let (topic, topic_id) = read_topic(&mut r, version)?;
            let partition_count = r.elements(4, "Partitions")?;
            let mut partitions = Vec::with_capacity(partition_count);
            for _ in 0..partition_count {
                partitions.push(r.i32("Partitions")?);
            }
            r.skip_tags()?;
            request.forgotten_topics.push(ForgottenTopic {
                topic,
                topic_id,
                partitions,
            });
        }
    }
    if version >= 11 {
        request.rack_id = copied(r.text("RackId")?);
    }
    for _ in 0..r.tag_count()? {
        let (tag, end) = r.tag()?;
        match tag {
            0 => {
                request.cluster_id = r.string(true, "ClusterId")?.map(copied);
                r.tag_ends(end, "ClusterId")?;
            }
            1 if version >= 15 => {
                request.replica_id = r.i32("ReplicaId")?;
                request.replica_epoch = r.i64("ReplicaEpoch")?;
                r.skip_tags()?;
                r.tag_ends(end, "ReplicaState")?;
            }
            _ => r.skip_to(end)?,
        }
    }
    Ok(request)
}

fn copied(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn read_topic(r: &mut Reader<'_>, version: i16) -> Result<(StrBytes, TopicId), Malformed> {
    if version >= 13 {
        Ok((StrBytes::new(), TopicId::from_bytes(r.uuid("TopicId")?)))
    } else {
        Ok((copied(r.text("Topic")?), TopicId::ZERO))
    }
}

fn read_partition(r: &mut Reader<'_>, version: i16) -> Result<FetchPartition, Malformed> {
    let mut partition = FetchPartition {
        partition: r.i32("Partition")?,
        current_leader_epoch: if version >= 9 {
            r.i32("CurrentLeaderEpoch")?
        } else {
            -1
        },
        fetch_offset: r.i64("FetchOffset")?,
        last_fetched_epoch: if version >= 12 {
            r.i32("LastFetchedEpoch")?
        } else {
            -1
        },
        log_start_offset: if version >= 5 {
            r.i64("LogStartOffset")?
        } else {
            -1
        },
        partition_max_bytes: r.i32("PartitionMaxBytes")?,
        replica_directory_id: 0,
        high_watermark: i64::MAX,
    };
    for _ in 0..r.tag_count()? {
        let (tag, end) = r.tag()?;
        match tag {
            0 if version >= 17 => {
                partition.replica_directory_id = u128::from_be_bytes(r.uuid("ReplicaDirectoryId")?);
                r.tag_ends(end, "ReplicaDirectoryId")?;
            }
            1 if version >= 18 => {
                partition.high_watermark = r.i64("HighWatermark")?;
                r.tag_ends(end, "HighWatermark")?;
            }
            _ => r.skip_to(end)?,
        }
    }
    Ok(partition)
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchResponse {
    pub throttle_time_ms: i32,
    /// v7+; below, an error of the whole request must be put on every partition.
    pub error_code: i16,
    /// 0 for no session (v7+).
    pub session_id: i32,
    pub topics: Vec<FetchTopicResponse>,
    /// Where the leaders named in [`FetchPartitionResponse::current_leader`] are (KIP-951, v16+).
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchTopicResponse {
    /// Sent up to version 12.
    pub topic: StrBytes,
    /// Sent from version 13 on.
    pub topic_id: TopicId,
    pub partitions: Vec<FetchPartitionResponse>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FetchPartitionResponse {
    pub partition_index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    /// v5+.
    pub log_start_offset: i64,
    /// Where the follower's log parts from ours (v12+).
    pub diverging_epoch: EpochEndOffset,
    /// Who leads, if it is not this broker (v12+).
    pub current_leader: LeaderIdAndEpoch,
    /// The snapshot to fetch instead (KIP-630, v12+).
    pub snapshot_id: SnapshotId,
    /// `None` for read_uncommitted.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica the consumer should rather read from, -1 for this one (KIP-392, v11+).
    pub preferred_read_replica: i32,
    /// Bytes of the record set that the sender puts in; `None` is null. 0 takes no slot.
    pub records_len: Option<u32>,
}

impl Default for FetchPartitionResponse {
    fn default() -> Self {
        Self {
            partition_index: 0,
            error_code: 0,
            high_watermark: 0,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: EpochEndOffset::default(),
            current_leader: LeaderIdAndEpoch::default(),
            snapshot_id: SnapshotId::default(),
            aborted_transactions: None,
            preferred_read_replica: -1,
            records_len: None,
        }
    }
}

/// The last epoch both logs have and where ours ends; -1 and -1, the default, is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    pub epoch: i32,
    pub end_offset: i64,
}

impl Default for EpochEndOffset {
    fn default() -> Self {
        Self {
            epoch: -1,
            end_offset: -1,
        }
    }
}

/// A snapshot by its end; -1 and -1, the default, is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    pub end_offset: i64,
    pub epoch: i32,
}

impl Default for SnapshotId {
    fn default() -> Self {
        Self {
            end_offset: -1,
            epoch: -1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

/// Encodes a Fetch response as n + 1 pieces, where n is the number of partitions whose `records_len` is
/// above 0: piece, records, piece, records, …, piece. The first begins with the 4-byte length of the
/// whole, records included.
pub fn encode_fetch_response(
    version: i16,
    correlation_id: i32,
    response: &FetchResponse,
) -> Result<Vec<Bytes>, EncodeError> {
    let Lookup::Served(api) = api::lookup(key::FETCH, version) else {
        return Err(EncodeError::NotServed);
    };
    let partitions: usize = response.topics.iter().map(|t| t.partitions.len()).sum();
    let names: usize = response.topics.iter().map(|t| t.topic.len() + 32).sum();
    let mut w = Writer::response(
        correlation_id,
        api.flexible(version),
        48 + names + 64 * partitions,
    );
    // Where each piece but the last ends, and how much goes in between.
    let mut cuts = Vec::with_capacity(partitions);
    let mut records_bytes: u64 = 0;

    w.out.put_i32(response.throttle_time_ms);
    if version >= 7 {
        w.out.put_i16(response.error_code);
        w.out.put_i32(response.session_id);
    }
    w.count(response.topics.len());
    for topic in &response.topics {
        if version >= 13 {
            w.out.put_slice(&topic.topic_id.to_bytes());
        } else {
            w.string(Some(&topic.topic));
        }
        w.count(topic.partitions.len());
        for partition in &topic.partitions {
            write_partition_head(&mut w, version, partition)?;
            if let Some(length @ 1..) = partition.records_len {
                cuts.push(w.out.len());
                records_bytes += u64::from(length);
            }
            write_partition_tags(&mut w, version, partition);
        }
        w.no_tags();
    }
    if version >= 16 {
        write_node_endpoints(&mut w, &response.node_endpoints);
    } else {
        w.no_tags();
    }
    w.finish_length(records_bytes)
        .ok_or(EncodeError::TooLarge)?;

    let mut rest = w.out.freeze();
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    let mut position = 0;
    for cut in cuts {
        pieces.push(rest.split_to(cut - position));
        position = cut;
    }
    pieces.push(rest);
    Ok(pieces)
}

/// Everything of a partition up to its records, their length included.
fn write_partition_head(
    w: &mut Writer,
    version: i16,
    partition: &FetchPartitionResponse,
) -> Result<(), EncodeError> {
    w.out.put_i32(partition.partition_index);
    w.out.put_i16(partition.error_code);
    w.out.put_i64(partition.high_watermark);
    w.out.put_i64(partition.last_stable_offset);
    if version >= 5 {
        w.out.put_i64(partition.log_start_offset);
    }
    match &partition.aborted_transactions {
        None => w.length(None),
        Some(aborted) => {
            w.count(aborted.len());
            for transaction in aborted {
                w.out.put_i64(transaction.producer_id);
                w.out.put_i64(transaction.first_offset);
                w.no_tags();
            }
        }
    }
    if version >= 11 {
        w.out.put_i32(partition.preferred_read_replica);
    }
    if partition.records_len.is_some_and(|n| n >= i32::MAX as u32) {
        return Err(EncodeError::TooLarge);
    }
    w.length(partition.records_len);
    Ok(())
}

fn write_partition_tags(w: &mut Writer, version: i16, partition: &FetchPartitionResponse) {
    if version < 12 {
        return;
    }
    let diverging = partition.diverging_epoch != EpochEndOffset::default();
    let leader = partition.current_leader != LeaderIdAndEpoch::default();
    let snapshot = partition.snapshot_id != SnapshotId::default();
    w.varint(u32::from(diverging) + u32::from(leader) + u32::from(snapshot));
    if diverging {
        let mut content = [0; 13];
        content[..4].copy_from_slice(&partition.diverging_epoch.epoch.to_be_bytes());
        content[4..12].copy_from_slice(&partition.diverging_epoch.end_offset.to_be_bytes());
        w.tag(0, content);
    }
    if leader {
        partition.current_leader.write(w, 1);
    }
    if snapshot {
        let mut content = [0; 13];
        content[..8].copy_from_slice(&partition.snapshot_id.end_offset.to_be_bytes());
        content[8..12].copy_from_slice(&partition.snapshot_id.epoch.to_be_bytes());
        w.tag(2, content);
    }
}
