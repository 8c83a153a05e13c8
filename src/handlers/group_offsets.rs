//! Committed offsets of groups: OffsetCommit, OffsetFetch, OffsetDelete.

use std::collections::HashMap;

use bytes::Bytes;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    GroupId, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchResponse,
    TopicName,
};

use crate::base::PartitionIndex;
use crate::broker::coordinators::CoordinatorError;
use crate::coordinator::group::{Answer, Ask, commit_response};
use crate::handlers::coordinators::{answer, ask_group, code};
use crate::handlers::{Begun, Call, Close};
use crate::metadata::Image;
use crate::protocol::topic_ids::{TOPIC_IDS_SINCE, decode_offset_commit, decode_offset_fetch};
use crate::protocol::{ErrorCode, StrBytes, topic_id, uuid};

/// The first version of OffsetFetch that asks for many groups.
const GROUPS_SINCE: i16 = 8;

pub async fn offset_commit(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request = call.decode_with(body, decode_offset_commit).await?;
    let image = call.peer.image();
    let mut known = Vec::with_capacity(request.topics.len());
    let mut response = OffsetCommitResponse::default();
    for topic in std::mem::take(&mut request.topics) {
        match named(&image, call.version, &topic) {
            Ok((name, id)) => {
                let found = image.topic_by_name(&name);
                let (there, gone): (Vec<_>, Vec<_>) = topic.partitions.into_iter().partition(|p| {
                    let index = PartitionIndex(p.partition_index);
                    found.is_some_and(|topic| topic.partition(index).is_some())
                });
                if !gone.is_empty() {
                    let gone = gone.iter().map(|p| p.partition_index);
                    let code = ErrorCode::UnknownTopicOrPartition;
                    response.topics.push(not_committed(&name, id, gone, code));
                }
                if !there.is_empty() {
                    known.push(
                        OffsetCommitRequestTopic::default()
                            .with_name(name)
                            .with_topic_id(id)
                            .with_partitions(there),
                    );
                }
            }
            Err(code) => {
                let partitions = topic.partitions.iter().map(|p| p.partition_index);
                let refused = not_committed(&topic.name, topic.topic_id, partitions, code);
                response.topics.push(refused);
            }
        }
    }
    if known.is_empty() {
        count_commit(&call, &response);
        return Ok(Begun::Done(call.encode(&response)?));
    }
    request.topics = known;
    let group_id = request.group_id.clone();
    let ask = Ask::Commit {
        version: call.version,
        request: request.clone(),
    };
    let asked = ask_group(call.peer.shard(), &group_id, ask).await?;
    Ok(Begun::later(async move {
        let committed = match answer(asked).await? {
            Ok(Answer::Commit(committed)) => committed,
            Err(error) => commit_response(&request, |_, _, _| code(error)),
            Ok(_) => commit_response(&request, |_, _, _| ErrorCode::UnknownServerError),
        };
        merge_commits(&mut response, committed);
        count_commit(&call, &response);
        call.encode(&response)
    }))
}

fn count_commit(call: &Call, response: &OffsetCommitResponse) {
    for topic in &response.topics {
        for partition in &topic.partitions {
            call.count(partition.error_code);
        }
    }
}

/// Partitions of one topic are answered together, whoever answered them.
fn merge_commits(response: &mut OffsetCommitResponse, committed: OffsetCommitResponse) {
    let places: HashMap<TopicName, usize> = response
        .topics
        .iter()
        .enumerate()
        .map(|(place, topic)| (topic.name.clone(), place))
        .collect();
    for topic in committed.topics {
        match places.get(&topic.name) {
            Some(&place) => response.topics[place].partitions.extend(topic.partitions),
            None => response.topics.push(topic),
        }
    }
}

/// The topic's name and id, of which the request has one.
fn named(
    image: &Image,
    version: i16,
    topic: &OffsetCommitRequestTopic,
) -> Result<(TopicName, uuid::Uuid), ErrorCode> {
    if version >= TOPIC_IDS_SINCE {
        let found = image.topic(topic_id(topic.topic_id));
        let found = found.ok_or(ErrorCode::UnknownTopicId)?;
        return Ok((topic_name(&found.name), topic.topic_id));
    }
    let id = image.topic_id(&topic.name);
    let id = id.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    Ok((topic.name.clone(), uuid(id)))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn not_committed(
    name: &TopicName,
    id: uuid::Uuid,
    partitions: impl Iterator<Item = i32>,
    code: ErrorCode,
) -> OffsetCommitResponseTopic {
    let partitions = partitions.map(|partition| {
        OffsetCommitResponsePartition::default()
            .with_partition_index(partition)
            .with_error_code(code.code())
    });
    OffsetCommitResponseTopic::default()
        .with_name(name.clone())
        .with_topic_id(id)
        .with_partitions(partitions.collect())
}

pub async fn offset_fetch(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request = call.decode_with(body, decode_offset_fetch).await?;
    if call.version < GROUPS_SINCE {
        let topics = request.topics.take().map(|topics| {
            let topics = topics.into_iter().map(|topic| {
                OffsetFetchRequestTopics::default()
                    .with_name(topic.name)
                    .with_partition_indexes(topic.partition_indexes)
            });
            topics.collect()
        });
        request.groups = vec![
            OffsetFetchRequestGroup::default()
                .with_group_id(request.group_id.clone())
                .with_member_epoch(-1)
                .with_topics(topics),
        ];
    }
    let image = call.peer.image();
    let mut asked = Vec::with_capacity(request.groups.len());
    for mut group in request.groups {
        let unknown = name_topics(&image, call.version, &mut group);
        let ask = Ask::Fetch {
            group: group.clone(),
            require_stable: request.require_stable,
        };
        let id = group.group_id.clone();
        asked.push((
            group,
            unknown,
            ask_group(call.peer.shard(), &id, ask).await?,
        ));
    }
    Ok(Begun::later(async move {
        let mut groups = Vec::with_capacity(asked.len());
        for (group, unknown, asked) in asked {
            let mut fetched = match answer(asked).await? {
                Ok(Answer::Fetch(fetched)) => fetched,
                Err(error) => not_fetched(&group, call.version, fetch_code(error)),
                Ok(_) => not_fetched(&group, call.version, ErrorCode::UnknownServerError),
            };
            if fetched.error_code == 0 {
                fetched.topics.extend(unknown);
            }
            if call.version >= TOPIC_IDS_SINCE {
                identify(&call.peer.image(), &mut fetched);
            }
            call.count(fetched.error_code);
            groups.push(fetched);
        }
        let response = if call.version >= GROUPS_SINCE {
            OffsetFetchResponse::default().with_groups(groups)
        } else {
            single(call.version, groups.pop().unwrap_or_default())
        };
        call.encode(&response)
    }))
}

/// Gives topics that were asked for by id their names. Those that are not there are taken out, and
/// returned as they will be answered.
fn name_topics(
    image: &Image,
    version: i16,
    group: &mut OffsetFetchRequestGroup,
) -> Vec<OffsetFetchResponseTopics> {
    let mut unknown = Vec::new();
    let Some(topics) = group.topics.as_mut().filter(|_| version >= TOPIC_IDS_SINCE) else {
        return unknown;
    };
    topics.retain_mut(|topic| match image.topic(topic_id(topic.topic_id)) {
        Some(found) => {
            topic.name = topic_name(&found.name);
            true
        }
        None => {
            unknown.push(refused_topic(topic, ErrorCode::UnknownTopicId));
            false
        }
    });
    unknown
}

fn refused_topic(topic: &OffsetFetchRequestTopics, code: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter().map(|&partition| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(partition)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default()))
            .with_error_code(code.code())
    });
    OffsetFetchResponseTopics::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic.topic_id)
        .with_partitions(partitions.collect())
}

/// Consumers before 3.9 do not try again after what means "not in time"; after this they look for
/// their coordinator again.
fn fetch_code(error: CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::TimedOut => ErrorCode::NotCoordinator,
        other => code(other),
    }
}

/// A group whose offsets cannot be told. Version 1 has no place for the code but the partitions.
fn not_fetched(
    group: &OffsetFetchRequestGroup,
    version: i16,
    code: ErrorCode,
) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default()
        .with_group_id(group.group_id.clone())
        .with_error_code(code.code());
    if version >= 2 {
        return response;
    }
    let topics = group.topics.iter().flatten();
    let topics = topics.map(|topic| refused_topic(topic, code));
    response.with_topics(topics.collect())
}

/// Topics are answered by id, and those that have none are left out.
fn identify(image: &Image, fetched: &mut OffsetFetchResponseGroup) {
    fetched.topics.retain_mut(|topic| {
        if topic.topic_id.is_nil()
            && let Some(id) = image.topic_id(&topic.name)
        {
            topic.topic_id = uuid(id);
        }
        // An id that nobody knows is answered as it was asked.
        !topic.topic_id.is_nil() || topic.name.is_empty()
    });
}

/// As before there could be many groups.
fn single(version: i16, group: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|p| {
            let partition = OffsetFetchResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_committed_offset(p.committed_offset)
                .with_metadata(p.metadata)
                .with_error_code(p.error_code);
            if version >= 5 {
                partition.with_committed_leader_epoch(p.committed_leader_epoch)
            } else {
                partition
            }
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(partitions.collect())
    });
    let response = OffsetFetchResponse::default().with_topics(topics.collect());
    if version >= 2 {
        response.with_error_code(group.error_code)
    } else {
        response
    }
}

pub async fn offset_delete(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request: OffsetDeleteRequest = call.decode(body).await?;
    if request.group_id.is_empty() {
        return Ok(Begun::Done(not_deleted(&call, ErrorCode::InvalidGroupId)?));
    }
    let image = call.peer.image();
    let mut gone = Vec::new();
    for topic in &mut request.topics {
        let found = image.topic_by_name(&topic.name);
        let unknown: Vec<_> = topic
            .partitions
            .extract_if(.., |partition| {
                let index = PartitionIndex(partition.partition_index);
                found.is_none_or(|topic| topic.partition(index).is_none())
            })
            .map(|partition| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            })
            .collect();
        gone.push(unknown);
    }
    let names: Vec<TopicName> = request.topics.iter().map(|t| t.name.clone()).collect();
    let group_id: GroupId = request.group_id.clone();
    let ask = Ask::DeleteOffsets(request);
    let asked = ask_group(call.peer.shard(), &group_id, ask).await?;
    Ok(Begun::later(async move {
        let mut response = match answer(asked).await? {
            Ok(Answer::DeleteOffsets(response)) => response,
            Err(error) => return not_deleted(&call, code(error)),
            Ok(_) => return not_deleted(&call, ErrorCode::UnknownServerError),
        };
        if response.error_code == 0 {
            // One answer for each topic of the request, in its order.
            for (place, (name, gone)) in names.into_iter().zip(gone).enumerate() {
                match response.topics.get_mut(place) {
                    Some(topic) => topic.partitions.extend(gone),
                    None => response.topics.push(
                        OffsetDeleteResponseTopic::default()
                            .with_name(name)
                            .with_partitions(gone),
                    ),
                }
            }
        }
        call.count(response.error_code);
        call.encode(&response)
    }))
}

fn not_deleted(call: &Call, code: ErrorCode) -> Result<crate::transport::Outgoing, Close> {
    call.count(code.code());
    call.encode(&OffsetDeleteResponse::default().with_error_code(code.code()))
}
