//! AlterReplicaLogDirs and DescribeLogDirs (KIP-113, 827).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest, TopicName,
};

use crate::base::{PartitionIndex, ShardId, TopicPartition};
use crate::broker::messages::{Item, Reply, Request};
use crate::handlers::{Begun, Call, Close, errors};
use crate::protocol::newer::{DescribeLogDirsResponse, DescribeLogDirsResult};
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

/// Has logs move to other directories; what comes of it is seen in DescribeLogDirs.
pub async fn alter_replica_log_dirs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: AlterReplicaLogDirsRequest = call.decode(body).await?;
    let shard = call.peer.shard().clone();
    let image = call.peer.image();
    let mut pace = YieldBudget::of_elements();
    let mut results: Vec<AlterReplicaLogDirTopicResult> = Vec::new();
    // Where the answer to each slot stands in `results`.
    let mut places = Vec::new();
    let mut asks: BTreeMap<ShardId, Vec<Item<usize>>> = BTreeMap::new();
    for dir in &request.dirs {
        let paths = shard.directories.paths();
        let to = paths.iter().position(|path| path == Path::new(&*dir.path));
        for topic in &dir.topics {
            let found = image.topic_by_name(&topic.name);
            let mut answered =
                AlterReplicaLogDirTopicResult::default().with_topic_name(topic.name.clone());
            for &index in &topic.partitions {
                pace.step().await;
                let key = found.and_then(|found| {
                    found.partition(PartitionIndex(index))?;
                    Some(TopicPartition::new(found.id, PartitionIndex(index)))
                });
                let code = match (to, key) {
                    (None, _) => ErrorCode::LogDirNotFound,
                    (Some(_), None) => ErrorCode::UnknownTopicOrPartition,
                    (Some(to), Some(key)) => {
                        let slot = u32::try_from(places.len()).unwrap_or(u32::MAX);
                        places.push((results.len(), answered.partitions.len()));
                        asks.entry(shard.owner(key)).or_default().push(Item {
                            slot,
                            partition: key,
                            ask: to,
                        });
                        ErrorCode::UnknownServerError
                    }
                };
                answered.partitions.push(
                    AlterReplicaLogDirPartitionResult::default()
                        .with_partition_index(index)
                        .with_error_code(code.code()),
                );
            }
            results.push(answered);
        }
    }
    let mut pending = Vec::with_capacity(asks.len());
    for (owner, asks) in asks {
        pending.push(shard.post(owner, Request::MoveReplicas(asks)).await?);
    }
    Ok(Begun::later(async move {
        for pending in pending {
            let Reply::MoveReplicas(answers) = pending.await? else {
                continue;
            };
            for answer in answers {
                pace.step().await;
                let code = match &answer.result {
                    Ok(()) => ErrorCode::None,
                    Err(error) => errors::code(error),
                };
                let place = places.get(answer.slot as usize);
                if let Some(partition) = place.and_then(|&(topic, partition)| {
                    results.get_mut(topic)?.partitions.get_mut(partition)
                }) {
                    partition.error_code = code.code();
                }
            }
        }
        let response = AlterReplicaLogDirsResponse::default().with_results(results);
        call.encode_all((request, image), response, places.len())
            .await
    }))
}

pub async fn describe_log_dirs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request: DescribeLogDirsRequest = call.decode(body).await?;
    let shard = call.peer.shard().clone();
    let mut pace = YieldBudget::of_elements();
    let topics = request.topics.take();
    let mut wanted: Option<HashMap<String, HashSet<i32>>> = None;
    if let Some(topics) = &topics {
        let wanted = wanted.insert(HashMap::with_capacity(topics.len()));
        for topic in topics {
            // The last one counts where a topic is named twice.
            let mut partitions = HashSet::with_capacity(topic.partitions.len());
            for &partition in &topic.partitions {
                partitions.insert(partition);
                pace.step().await;
            }
            wanted.insert(topic.topic.to_string(), partitions);
            pace.step().await;
        }
    }
    let mut pending = Vec::new();
    for owner in 0..shard.shards {
        pending.push(shard.post(ShardId(owner), Request::LogDirs).await?);
    }
    Ok(Begun::later(async move {
        let directories = shard.directories.paths();
        let mut found: Vec<BTreeMap<String, Vec<DescribeLogDirsPartition>>> =
            vec![BTreeMap::new(); directories.len()];
        let mut partitions = 0;
        for pending in pending {
            let Reply::LogDirs(sizes) = pending.await? else {
                continue;
            };
            for size in sizes {
                pace.step().await;
                partitions += 1;
                let index = size.partition.partition.0;
                let is_wanted = wanted.as_ref().is_none_or(|wanted| {
                    wanted.get(&*size.topic).is_some_and(|p| p.contains(&index))
                });
                if let (true, Some(topics)) = (is_wanted, found.get_mut(size.directory)) {
                    let partition = DescribeLogDirsPartition::default()
                        .with_partition_index(index)
                        .with_partition_size(i64::try_from(size.size_bytes).unwrap_or(i64::MAX))
                        .with_is_future_key(size.future_lag.is_some())
                        .with_offset_lag(size.future_lag.unwrap_or(0));
                    topics
                        .entry(size.topic.to_string())
                        .or_default()
                        .push(partition);
                }
            }
        }
        let mut results = Vec::with_capacity(directories.len());
        for (index, (topics, path)) in found.into_iter().zip(directories).enumerate() {
            let log_dir = StrBytes::from_string(path.display().to_string());
            if shard.directories.all()[index].failure().is_some() {
                results.push(DescribeLogDirsResult {
                    error_code: ErrorCode::KafkaStorageError.code(),
                    log_dir,
                    ..DescribeLogDirsResult::default()
                });
                continue;
            }
            let space = shard.directories.measure(index).await;
            let topics = topics.into_iter().map(|(name, mut partitions)| {
                partitions.sort_by_key(|p| p.partition_index);
                DescribeLogDirsTopic::default()
                    .with_name(TopicName(StrBytes::from_string(name)))
                    .with_partitions(partitions)
            });
            results.push(DescribeLogDirsResult {
                log_dir,
                topics: topics.collect(),
                total_bytes: space.map_or(-1, |s| s.total_bytes),
                usable_bytes: space.map_or(-1, |s| s.usable_bytes),
                ..DescribeLogDirsResult::default()
            });
        }
        let response = DescribeLogDirsResponse {
            results,
            ..DescribeLogDirsResponse::default()
        };
        call.encode_all((topics, wanted), response, partitions)
            .await
    }))
}
