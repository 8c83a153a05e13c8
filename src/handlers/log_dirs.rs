//! DescribeLogDirs (KIP-113, 827).

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, TopicName};

use crate::base::ShardId;
use crate::broker::messages::{Reply, Request};
use crate::handlers::{Begun, Call, Close};
use crate::protocol::StrBytes;
use crate::protocol::newer::{DescribeLogDirsResponse, DescribeLogDirsResult};
use crate::protocol::response::decode_request;

pub async fn describe_log_dirs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeLogDirsRequest = decode_request(call.version, body)?;
    let shard = call.peer.shard().clone();
    let wanted: Option<HashMap<String, HashSet<i32>>> = request.topics.map(|topics| {
        topics
            .iter()
            .map(|t| (t.topic.to_string(), t.partitions.iter().copied().collect()))
            .collect()
    });
    let mut pending = Vec::new();
    for owner in 0..shard.shards {
        pending.push(shard.post(ShardId(owner), Request::LogDirs).await?);
    }
    Ok(Begun::later(async move {
        let directories = shard.directories.paths();
        let mut found: Vec<BTreeMap<String, Vec<DescribeLogDirsPartition>>> =
            vec![BTreeMap::new(); directories.len()];
        for pending in pending {
            let Reply::LogDirs(sizes) = pending.await? else {
                continue;
            };
            for size in sizes {
                let index = size.partition.partition.0;
                let is_wanted = wanted.as_ref().is_none_or(|wanted| {
                    wanted.get(&*size.topic).is_some_and(|p| p.contains(&index))
                });
                if let (true, Some(topics)) = (is_wanted, found.get_mut(size.directory)) {
                    let partition = DescribeLogDirsPartition::default()
                        .with_partition_index(index)
                        .with_partition_size(i64::try_from(size.size_bytes).unwrap_or(i64::MAX));
                    topics
                        .entry(size.topic.to_string())
                        .or_default()
                        .push(partition);
                }
            }
        }
        let results = found
            .into_iter()
            .zip(directories)
            .map(|(topics, path)| {
                let space = shard.directories.space(path);
                DescribeLogDirsResult {
                    log_dir: StrBytes::from_string(path.display().to_string()),
                    topics: topics
                        .into_iter()
                        .map(|(name, mut partitions)| {
                            partitions.sort_by_key(|p| p.partition_index);
                            DescribeLogDirsTopic::default()
                                .with_name(TopicName(StrBytes::from_string(name)))
                                .with_partitions(partitions)
                        })
                        .collect(),
                    total_bytes: space.map_or(-1, |s| s.total_bytes),
                    usable_bytes: space.map_or(-1, |s| s.usable_bytes),
                    ..DescribeLogDirsResult::default()
                }
            })
            .collect();
        let response = DescribeLogDirsResponse {
            results,
            ..DescribeLogDirsResponse::default()
        };
        call.encode(&response)
    }))
}
