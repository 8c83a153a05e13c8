//! Metadata, DescribeCluster, DescribeTopicPartitions (KIP-516, 700, 966).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId as WireBroker, CreateTopicsRequest, DescribeClusterRequest, DescribeClusterResponse,
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, MetadataRequest,
    MetadataResponse, TopicName,
};
use uuid::Uuid;

use crate::base::{BrokerId, PartitionIndex, TopicId};
use crate::broker::control::{ControlReply, ControlRequest};
use crate::controller::check_topic_name;
use crate::handlers::{Begun, Call, Close, advertise, topics};
use crate::metadata::{Image, PartitionImage, TopicImage, is_internal_topic};
use crate::protocol::response::decode_request;
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

/// Every operation on a topic as a bit set (KIP-430): read, write, create, delete, alter, describe,
/// describe and alter configs. Nobody is refused anything yet.
pub const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// Every operation on the cluster: create, alter, describe, cluster action, configs, idempotent write.
pub const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// What stands where no operations were asked for.
const NOT_ASKED: i32 = i32::MIN;

fn operations(asked: bool, operations: i32) -> i32 {
    if asked { operations } else { NOT_ASKED }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn ids(brokers: &[BrokerId]) -> Vec<WireBroker> {
    brokers
        .iter()
        .map(|&id| WireBroker(advertise::node_id(id)))
        .collect()
}

pub async fn metadata(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: MetadataRequest = call.decode(body).await?;
    let image = call.peer.image();
    let missing = missing_topics(&call, &request, &image).await;
    if missing.is_empty() {
        let (response, elements) = describe(&call, &request, &image).await;
        return Ok(Begun::Done(
            call.encode_all(request, response, elements).await?,
        ));
    }
    Ok(Begun::later(async move {
        let topics = missing.into_iter().map(|name| {
            CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_string(name)))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
        });
        let create = CreateTopicsRequest::default()
            .with_timeout_ms(30_000)
            .with_topics(YieldBudget::of_elements().collect(topics).await);
        let reply = topics::control(&call, ControlRequest::CreateTopics(create)).await?;
        if let ControlReply::Unavailable(why) = reply {
            tracing::warn!("topics could not be created: {why}");
        }
        // Every shard serves the new topics by now.
        let image = call.peer.image();
        let (response, elements) = describe(&call, &request, &image).await;
        call.encode_all(request, response, elements).await
    }))
}

/// Topics that are named, unknown, and to be created by that.
async fn missing_topics(call: &Call, request: &MetadataRequest, image: &Image) -> BTreeSet<String> {
    let allowed = call.version < 4 || request.allow_auto_topic_creation;
    let mut missing = BTreeSet::new();
    if !allowed || !call.peer.settings().auto_create_topics_enable {
        return missing;
    }
    let mut pace = YieldBudget::of_elements();
    for topic in request.topics.iter().flatten() {
        pace.step().await;
        let Some(name) = &topic.name else { continue };
        if image.topic_id(name).is_none()
            && check_topic_name(name).is_ok()
            && !is_internal_topic(name)
        {
            missing.insert(name.to_string());
        }
    }
    missing
}

/// The answer, and how many topics and partitions are in it.
async fn describe(
    call: &Call,
    request: &MetadataRequest,
    image: &Image,
) -> (MetadataResponse, usize) {
    let listener = &call.peer.listener;
    let brokers = advertise::brokers(image, listener)
        .into_iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| {
            MetadataResponseBroker::default()
                .with_node_id(WireBroker(broker.node_id))
                .with_host(StrBytes::from_string(broker.host))
                .with_port(broker.port.into())
                .with_rack(broker.rack.map(StrBytes::from_string))
        })
        .collect();
    let bits = operations(
        request.include_topic_authorized_operations,
        TOPIC_OPERATIONS,
    );
    let all = match &request.topics {
        None => true,
        // Version 0 has no null: an empty list means all.
        Some(topics) => call.version == 0 && topics.is_empty(),
    };
    let mut pace = YieldBudget::of_elements();
    let mut topics = Vec::new();
    let mut elements = 0;
    let mut add = |topic: MetadataResponseTopic| {
        let more = 1 + topic.partitions.len();
        topics.push(topic);
        elements += more;
        more
    };
    if all {
        for topic in image.topics() {
            pace.spend(add(found(topic, bits))).await;
        }
    } else {
        for asked in request.topics.iter().flatten() {
            pace.spend(add(one(image, asked, bits))).await;
        }
    }
    let response = MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(image.cluster_id().map(|id| text(id)))
        .with_controller_id(WireBroker(advertise::controller_id(image, listener)))
        .with_topics(topics)
        .with_cluster_authorized_operations(operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ));
    (response, elements)
}

fn one(image: &Image, asked: &MetadataRequestTopic, bits: i32) -> MetadataResponseTopic {
    let id = TopicId(asked.topic_id.as_u128());
    // Who asks by id may put an empty name beside it, as the Java client does: it does not count.
    let name = asked.name.as_ref().filter(|_| id == TopicId::ZERO);
    let (topic, missing) = match name {
        Some(name) => {
            let missing = if check_topic_name(name).is_err() {
                ErrorCode::InvalidTopicException
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            (image.topic_by_name(name), missing)
        }
        None => (image.topic(id), ErrorCode::UnknownTopicId),
    };
    match topic {
        Some(topic) => found(topic, bits),
        None => MetadataResponseTopic::default()
            .with_error_code(missing.code())
            .with_name(name.map(|name| TopicName(text(name))))
            .with_topic_id(asked.topic_id)
            .with_is_internal(name.is_some_and(|name| is_internal_topic(name)))
            .with_topic_authorized_operations(NOT_ASKED),
    }
}

fn found(topic: &TopicImage, bits: i32) -> MetadataResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| {
            MetadataResponsePartition::default()
                .with_error_code(leader_error(partition))
                .with_partition_index(index as i32)
                .with_leader_id(leader(partition))
                .with_leader_epoch(partition.leader_epoch.0)
                .with_replica_nodes(ids(&partition.replicas))
                .with_isr_nodes(ids(&partition.isr))
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(Uuid::from_u128(topic.id.0))
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions)
        .with_topic_authorized_operations(bits)
}

fn leader(partition: &PartitionImage) -> WireBroker {
    WireBroker(partition.leader.map_or(-1, advertise::node_id))
}

fn leader_error(partition: &PartitionImage) -> i16 {
    match partition.leader {
        Some(_) => ErrorCode::None.code(),
        None => ErrorCode::LeaderNotAvailable.code(),
    }
}

pub fn describe_cluster(call: Call, body: Bytes) -> Result<Begun, Close> {
    /// Clients ask for brokers; 2 would be controllers, which have no listener here.
    const BROKERS: i8 = 1;
    let request: DescribeClusterRequest = decode_request(call.version, body)?;
    let endpoint_type = if call.version >= 1 {
        request.endpoint_type
    } else {
        BROKERS
    };
    if endpoint_type != BROKERS {
        let error = match endpoint_type {
            2 => ErrorCode::MismatchedEndpointType,
            _ => ErrorCode::UnsupportedEndpointType,
        };
        let response = DescribeClusterResponse::default()
            .with_error_code(error.code())
            .with_error_message(error.message().map(text))
            .with_endpoint_type(BROKERS);
        return Ok(Begun::Done(call.encode(&response)?));
    }
    let image = call.peer.image();
    let listener = &call.peer.listener;
    let brokers = advertise::brokers(&image, listener)
        .into_iter()
        .filter(|broker| !broker.fenced || request.include_fenced_brokers)
        .map(|broker| {
            DescribeClusterBroker::default()
                .with_broker_id(WireBroker(broker.node_id))
                .with_host(StrBytes::from_string(broker.host))
                .with_port(broker.port.into())
                .with_rack(broker.rack.map(StrBytes::from_string))
                .with_is_fenced(call.version >= 2 && broker.fenced)
        })
        .collect();
    let response = DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(
            image
                .cluster_id()
                .map_or_else(StrBytes::default, |id| text(id)),
        )
        .with_controller_id(WireBroker(advertise::controller_id(&image, listener)))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(operations(
            request.include_cluster_authorized_operations,
            CLUSTER_OPERATIONS,
        ));
    Ok(Begun::Done(call.encode(&response)?))
}

pub async fn describe_topic_partitions(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeTopicPartitionsRequest = call.decode(body).await?;
    let image = call.peer.image();
    let limit = call.peer.settings().max_request_partition_size_limit;
    let asked = u32::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = asked.min(limit).max(1) as usize;
    let (from_topic, from_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index),
        None => (String::new(), 0),
    };
    // In the order of names, so that a cursor says where to go on. No names means all topics.
    let all = request.topics.is_empty();
    let mut pace = YieldBudget::of_elements();
    let mut names: BTreeSet<String> = BTreeSet::new();
    if all {
        for topic in image.topics() {
            names.insert(topic.name.to_string());
            pace.step().await;
        }
    } else {
        for topic in &request.topics {
            names.insert(topic.name.to_string());
            pace.step().await;
        }
    }
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.range(from_topic.clone()..) {
        pace.step().await;
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = image.topic_by_name(name) else {
            let error = if check_topic_name(name).is_err() {
                ErrorCode::InvalidTopicException
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            response.topics.push(
                DescribeTopicPartitionsResponseTopic::default()
                    .with_error_code(error.code())
                    .with_name(Some(TopicName(text(name))))
                    .with_topic_authorized_operations(NOT_ASKED),
            );
            continue;
        };
        let first = if *name == from_topic {
            from_partition
        } else {
            0
        };
        let first = usize::try_from(first)
            .unwrap_or(0)
            .min(topic.partitions.len());
        let last = topic.partitions.len().min(first + left);
        left -= last - first;
        response.topics.push(partitions(topic, first, last));
        if last < topic.partitions.len() {
            response.next_cursor = Some(cursor(name, last as i32));
            break;
        }
    }
    let elements = names.len();
    Ok(Begun::Done(
        call.encode_all((request, names), response, elements)
            .await?,
    ))
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(text(name)))
        .with_partition_index(partition)
}

fn partitions(
    topic: &Arc<TopicImage>,
    first: usize,
    last: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = (first..last)
        .filter_map(|index| {
            let partition = topic.partition(PartitionIndex(index as i32))?;
            let described = DescribeTopicPartitionsResponsePartition::default()
                .with_error_code(leader_error(partition))
                .with_partition_index(index as i32)
                .with_leader_id(leader(partition))
                .with_leader_epoch(partition.leader_epoch.0)
                .with_replica_nodes(ids(&partition.replicas))
                .with_isr_nodes(ids(&partition.isr))
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()));
            Some(described)
        })
        .collect();
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(Uuid::from_u128(topic.id.0))
        .with_is_internal(topic.is_internal())
        .with_partitions(partitions)
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}
