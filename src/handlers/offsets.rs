//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords (KIP-79, 101, 107, 320, 734).

use std::collections::HashSet;

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

use crate::base::{LeaderEpoch, Offset};
use crate::broker::error::PartitionError;
use crate::broker::messages::{DeleteRecords, EpochEnd, ListOffset, Reply, Request};
use crate::handlers::scatter::{gather_into, route, scatter};
use crate::handlers::{Begun, Call, Close, errors};
use crate::protocol::ErrorCode;
use crate::runtime::yield_budget::YieldBudget;

/// Partitions that one topic of a request names more than once, with the topic's place.
async fn repeated(request: &ListOffsetsRequest) -> HashSet<(usize, i32)> {
    let mut pace = YieldBudget::of_elements();
    let mut repeated = HashSet::new();
    for (number, topic) in request.topics.iter().enumerate() {
        pace.step().await;
        if topic.partitions.len() < 2 {
            continue;
        }
        let mut seen = HashSet::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            if !seen.insert(partition.partition_index) {
                repeated.insert((number, partition.partition_index));
            }
            pace.step().await;
        }
    }
    repeated
}

pub async fn list_offsets(call: Call, body: Bytes) -> Result<Begun, Close> {
    /// Kafka's marks go down to -5, and to -6 from version 11 on (KIP-1023); nothing is tiered here,
    /// so both of the last say "none".
    const EARLIEST_PENDING_UPLOAD: i64 = -6;
    let request: ListOffsetsRequest = call.decode(body).await?;
    let read_committed = request.isolation_level == 1;
    let repeated = repeated(&request).await;
    let lowest = match call.version {
        ..7 => -2,
        7 => -3,
        8 => -4,
        9 | 10 => -5,
        _ => EARLIEST_PENDING_UPLOAD,
    };
    let routed = route(
        &call.peer.image(),
        &request.topics,
        |topic| (topic.name.as_str(), topic.partitions.as_slice()),
        |partition| partition.partition_index,
        |named| {
            let partition = named.asked;
            let mut answer = ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_timestamp(-1)
                .with_offset(-1)
                .with_leader_epoch(-1);
            let refused = if repeated.contains(&(named.topic, partition.partition_index)) {
                Some(ErrorCode::InvalidRequest)
            } else if named.place.is_none() {
                Some(ErrorCode::UnknownTopicOrPartition)
            } else if partition.timestamp < lowest {
                Some(ErrorCode::UnsupportedVersion)
            } else {
                None
            };
            answer.error_code = refused.map_or(0, |code| code.code());
            let place = named.place.filter(|_| refused.is_none());
            let item = place.map(|place| ListOffset {
                slot: named.slot,
                partition: place,
                // The new mark means what the one before means where nothing is tiered.
                timestamp: partition.timestamp.max(-5),
                current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                read_committed,
            });
            (answer, item)
        },
    )
    .await;
    let shard = call.peer.shard();
    let name = |item: &ListOffset| item.partition;
    let pending = scatter(shard, routed.items, name, Request::ListOffsets).await?;
    let mut answers = routed.answers;
    Ok(Begun::later(async move {
        let unpack = |reply| match reply {
            Reply::ListOffsets(answers) => Some(answers),
            _ => None,
        };
        gather_into(
            pending,
            unpack,
            &mut answers,
            |answer, result| match result {
                Ok(found) => {
                    answer.offset = found.offset.0;
                    answer.timestamp = found.timestamp.0;
                    if call.version >= 4 {
                        answer.leader_epoch = found.leader_epoch.0;
                    }
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            },
        )
        .await?;
        let topics = request.topics.iter().zip(answers).map(|(topic, answers)| {
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(answers)
        });
        let topics = YieldBudget::of_elements().collect(topics).await;
        let response = ListOffsetsResponse::default().with_topics(topics);
        call.encode_all(request, response, routed.partitions).await
    }))
}

pub async fn offset_for_leader_epoch(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: OffsetForLeaderEpochRequest = call.decode(body).await?;
    let routed = route(
        &call.peer.image(),
        &request.topics,
        |topic| (topic.topic.as_str(), topic.partitions.as_slice()),
        |partition| partition.partition,
        |named| {
            let partition = named.asked;
            let mut answer = EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            if named.place.is_none() {
                answer.error_code = ErrorCode::UnknownTopicOrPartition.code();
            }
            let item = named.place.map(|place| EpochEnd {
                slot: named.slot,
                partition: place,
                current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                leader_epoch: LeaderEpoch(partition.leader_epoch),
            });
            (answer, item)
        },
    )
    .await;
    let shard = call.peer.shard();
    let name = |item: &EpochEnd| item.partition;
    let pending = scatter(shard, routed.items, name, Request::EpochEnds).await?;
    let mut answers = routed.answers;
    Ok(Begun::later(async move {
        let unpack = |reply| match reply {
            Reply::EpochEnds(answers) => Some(answers),
            _ => None,
        };
        gather_into(
            pending,
            unpack,
            &mut answers,
            |answer, result| match result {
                Ok(found) => {
                    answer.leader_epoch = found.leader_epoch.0;
                    answer.end_offset = found.end_offset.0;
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            },
        )
        .await?;
        let topics = request.topics.iter().zip(answers).map(|(topic, answers)| {
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(answers)
        });
        let topics = YieldBudget::of_elements().collect(topics).await;
        let response = OffsetForLeaderEpochResponse::default().with_topics(topics);
        call.encode_all(request, response, routed.partitions).await
    }))
}

pub async fn delete_records(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DeleteRecordsRequest = call.decode(body).await?;
    let routed = route(
        &call.peer.image(),
        &request.topics,
        |topic| (topic.name.as_str(), topic.partitions.as_slice()),
        |partition| partition.partition_index,
        |named| {
            let mut answer = DeleteRecordsPartitionResult::default()
                .with_partition_index(named.asked.partition_index)
                .with_low_watermark(-1);
            if named.place.is_none() {
                answer.error_code = ErrorCode::UnknownTopicOrPartition.code();
            }
            let item = named.place.map(|place| DeleteRecords {
                slot: named.slot,
                partition: place,
                before: Offset(named.asked.offset),
            });
            (answer, item)
        },
    )
    .await;
    let shard = call.peer.shard();
    let name = |item: &DeleteRecords| item.partition;
    let pending = scatter(shard, routed.items, name, Request::DeleteRecords).await?;
    let mut answers = routed.answers;
    Ok(Begun::later(async move {
        let unpack = |reply| match reply {
            Reply::DeleteRecords(answers) => Some(answers),
            _ => None,
        };
        gather_into(
            pending,
            unpack,
            &mut answers,
            |answer, result| match result {
                Ok(low_watermark) => answer.low_watermark = low_watermark.0,
                Err(PartitionError::OffsetOutOfRange { .. }) => {
                    answer.error_code = ErrorCode::OffsetOutOfRange.code();
                }
                Err(error) => answer.error_code = errors::code(&error).code(),
            },
        )
        .await?;
        let topics = request.topics.iter().zip(answers).map(|(topic, answers)| {
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(answers)
        });
        let topics = YieldBudget::of_elements().collect(topics).await;
        let response = DeleteRecordsResponse::default().with_topics(topics);
        call.encode_all(request, response, routed.partitions).await
    }))
}
