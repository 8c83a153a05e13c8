//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords (KIP-79, 101, 107, 320, 734).

use bytes::Bytes;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use crate::base::{LeaderEpoch, Offset, PartitionIndex, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::messages::{DeleteRecords, EpochEnd, ListOffset, Reply, Request};
use crate::handlers::scatter::{gather, scatter};
use crate::handlers::{Begun, Call, Close, errors};
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::protocol::response::decode_request;

/// The partition of a topic by its name.
fn find(image: &Image, topic: &str, partition: i32) -> Option<TopicPartition> {
    let topic = image.topic_by_name(topic)?;
    let partition = PartitionIndex(partition);
    topic.partition(partition)?;
    Some(TopicPartition::new(topic.id, partition))
}

/// Where slot numbers lie in a response of topics and partitions.
fn places(partitions: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    for (topic, count) in partitions.enumerate() {
        places.extend((0..count).map(|partition| (topic, partition)));
    }
    places
}

pub async fn list_offsets(call: Call, body: Bytes) -> Result<Begun, Close> {
    /// Kafka's marks go down to -5, and to -6 from version 11 on (KIP-1023); nothing is tiered here,
    /// so both of the last say "none".
    const EARLIEST_PENDING_UPLOAD: i64 = -6;
    let request: ListOffsetsRequest = decode_request(call.version, body)?;
    let image = call.peer.image();
    let read_committed = request.isolation_level == 1;
    let mut items = Vec::new();
    let mut slot = 0;
    let mut response = ListOffsetsResponse::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        let mut seen = std::collections::HashSet::new();
        let mut repeated = std::collections::HashSet::new();
        for partition in &topic.partitions {
            if !seen.insert(partition.partition_index) {
                repeated.insert(partition.partition_index);
            }
        }
        for partition in &topic.partitions {
            let mut answer = ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_timestamp(-1)
                .with_offset(-1)
                .with_leader_epoch(-1);
            let place = find(&image, &topic.name, partition.partition_index);
            let lowest = match call.version {
                ..7 => -2,
                7 => -3,
                8 => -4,
                9 | 10 => -5,
                _ => EARLIEST_PENDING_UPLOAD,
            };
            answer.error_code = if repeated.contains(&partition.partition_index) {
                ErrorCode::InvalidRequest.code()
            } else if place.is_none() {
                ErrorCode::UnknownTopicOrPartition.code()
            } else if partition.timestamp < lowest {
                ErrorCode::UnsupportedVersion.code()
            } else {
                0
            };
            if let (0, Some(place)) = (answer.error_code, place) {
                items.push(ListOffset {
                    slot,
                    partition: place,
                    // The new mark means what the one before means where nothing is tiered.
                    timestamp: partition.timestamp.max(-5),
                    current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                    read_committed,
                });
            }
            partitions.push(answer);
            slot += 1;
        }
        response.topics.push(
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    let shard = call.peer.shard();
    let pending = scatter(shard, items, |item| item.partition, Request::ListOffsets).await?;
    Ok(Begun::later(async move {
        let places = places(response.topics.iter().map(|t| t.partitions.len()));
        let unpack = |reply| match reply {
            Reply::ListOffsets(answers) => Some(answers),
            _ => None,
        };
        gather(pending, unpack, |slot, result| {
            let Some(&(t, p)) = places.get(slot as usize) else {
                return;
            };
            let answer = &mut response.topics[t].partitions[p];
            match result {
                Ok(found) => {
                    answer.offset = found.offset.0;
                    answer.timestamp = found.timestamp.0;
                    if call.version >= 4 {
                        answer.leader_epoch = found.leader_epoch.0;
                    }
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            }
        })
        .await?;
        call.encode(&response)
    }))
}

pub async fn offset_for_leader_epoch(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: OffsetForLeaderEpochRequest = decode_request(call.version, body)?;
    let image = call.peer.image();
    let mut items = Vec::new();
    let mut slot = 0;
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let mut answer = EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match find(&image, &topic.topic, partition.partition) {
                Some(place) => items.push(EpochEnd {
                    slot,
                    partition: place,
                    current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                    leader_epoch: LeaderEpoch(partition.leader_epoch),
                }),
                None => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
            }
            partitions.push(answer);
            slot += 1;
        }
        response.topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(partitions),
        );
    }
    let shard = call.peer.shard();
    let pending = scatter(shard, items, |item| item.partition, Request::EpochEnds).await?;
    Ok(Begun::later(async move {
        let places = places(response.topics.iter().map(|t| t.partitions.len()));
        let unpack = |reply| match reply {
            Reply::EpochEnds(answers) => Some(answers),
            _ => None,
        };
        gather(pending, unpack, |slot, result| {
            let Some(&(t, p)) = places.get(slot as usize) else {
                return;
            };
            let answer = &mut response.topics[t].partitions[p];
            match result {
                Ok(found) => {
                    answer.leader_epoch = found.leader_epoch.0;
                    answer.end_offset = found.end_offset.0;
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            }
        })
        .await?;
        call.encode(&response)
    }))
}

pub async fn delete_records(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DeleteRecordsRequest = decode_request(call.version, body)?;
    let image = call.peer.image();
    let mut items = Vec::new();
    let mut slot = 0;
    let mut response = DeleteRecordsResponse::default();
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let mut answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(-1);
            match find(&image, &topic.name, partition.partition_index) {
                Some(place) => items.push(DeleteRecords {
                    slot,
                    partition: place,
                    before: Offset(partition.offset),
                }),
                None => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
            }
            partitions.push(answer);
            slot += 1;
        }
        response.topics.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    let shard = call.peer.shard();
    let pending = scatter(shard, items, |item| item.partition, Request::DeleteRecords).await?;
    Ok(Begun::later(async move {
        let places = places(response.topics.iter().map(|t| t.partitions.len()));
        let unpack = |reply| match reply {
            Reply::DeleteRecords(answers) => Some(answers),
            _ => None,
        };
        gather(pending, unpack, |slot, result| {
            let Some(&(t, p)) = places.get(slot as usize) else {
                return;
            };
            let answer = &mut response.topics[t].partitions[p];
            match result {
                Ok(low_watermark) => answer.low_watermark = low_watermark.0,
                Err(PartitionError::OffsetOutOfRange { .. }) => {
                    answer.error_code = ErrorCode::OffsetOutOfRange.code();
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            }
        })
        .await?;
        call.encode(&response)
    }))
}
