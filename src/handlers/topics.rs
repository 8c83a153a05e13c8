//! CreateTopics, DeleteTopics, CreatePartitions, ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments: what the
//! controller decides, plus what depends on the version of the request.

use std::collections::HashMap;

use bytes::Bytes;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    BrokerId as WireBrokerId, CreatePartitionsRequest, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
};

use crate::base::PartitionIndex;
use crate::base::settings::describe_topic;
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::messages::{Reply, Request};
use crate::handlers::{self, Begun, Call, Close};
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

/// Asks the control thread.
pub async fn control(call: &Call, request: ControlRequest) -> Result<ControlReply, Close> {
    match call
        .peer
        .shard()
        .ask_control(Request::Control(request))
        .await?
    {
        Reply::Control(reply) => Ok(reply),
        _ => Ok(ControlReply::Unavailable("no answer".to_owned())),
    }
}

pub async fn create_topics(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: CreateTopicsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let both = move || (request.clone(), request);
        let (asked, request) = handlers::run(call.walked.elements, both).await;
        let mut response = match control(&call, ControlRequest::CreateTopics(request)).await? {
            ControlReply::CreateTopics(response) => response,
            other => {
                unavailable(other);
                let mut response = CreateTopicsResponse::default();
                for topic in &asked.topics {
                    response.topics.push(
                        kafka_protocol::messages::create_topics_response::CreatableTopicResult::default()
                            .with_name(topic.name.clone())
                            .with_error_code(ErrorCode::UnknownServerError.code()),
                    );
                }
                response
            }
        };
        if call.version >= 5 {
            add_configs(&call, &asked, &mut response).await;
        }
        let described = response
            .topics
            .iter()
            .filter(|topic| topic.configs.is_some());
        // Some thirty settings each.
        let elements = 30 * described.count();
        call.encode_all(asked, response, elements).await
    }))
}

/// Version 5 tells the settings of each topic that was, or would be, created (KIP-525).
async fn add_configs(
    call: &Call,
    asked: &CreateTopicsRequest,
    response: &mut CreateTopicsResponse,
) {
    let settings = call.peer.settings();
    let mut pace = YieldBudget::of_elements();
    let mut by_name = HashMap::with_capacity(asked.topics.len());
    for topic in &asked.topics {
        by_name.insert(topic.name.as_str(), topic);
        pace.step().await;
    }
    for result in response.topics.iter_mut().filter(|r| r.error_code == 0) {
        // An entry of each setting.
        pace.spend(50).await;
        let Some(topic) = by_name.get(result.name.as_str()) else {
            continue;
        };
        let overrides = topic
            .configs
            .iter()
            .filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())))
            .collect();
        let configs = describe_topic(&settings, &overrides)
            .into_iter()
            .map(|entry| {
                CreatableTopicConfigs::default()
                    .with_name(StrBytes::from_string(entry.name))
                    .with_value(entry.value.map(StrBytes::from_string))
                    .with_read_only(entry.read_only)
                    .with_config_source(entry.source as i8)
                    .with_is_sensitive(entry.is_sensitive)
            })
            .collect();
        result.configs = Some(configs);
    }
}

pub async fn delete_topics(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DeleteTopicsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let mut response = match control(&call, ControlRequest::DeleteTopics(request)).await? {
            ControlReply::DeleteTopics(response) => response,
            other => {
                unavailable(other);
                return Err(Close::Stopping);
            }
        };
        if call.version < 3 {
            let mut pace = YieldBudget::of_elements();
            for result in &mut response.responses {
                pace.step().await;
                if result.error_code == ErrorCode::TopicDeletionDisabled.code() {
                    result.error_code = ErrorCode::InvalidRequest.code();
                }
            }
        }
        call.encode_all((), response, 0).await
    }))
}

pub async fn create_partitions(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: CreatePartitionsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        match control(&call, ControlRequest::CreatePartitions(request)).await? {
            ControlReply::CreatePartitions(response) => call.encode_all((), response, 0).await,
            other => {
                unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

pub async fn elect_leaders(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ElectLeadersRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        match control(&call, ControlRequest::ElectLeaders(request)).await? {
            ControlReply::ElectLeaders(response) => call.encode_all((), response, 0).await,
            other => {
                unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

/// Nothing is ever being reassigned on a node that is alone.
/// One node holds every replica: whoever asks for that has it, and there is nothing else to be had.
pub async fn alter_partition_reassignments(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: AlterPartitionReassignmentsRequest = call.decode(body).await?;
    let image = call.peer.image();
    let mut pace = YieldBudget::of_elements();
    let mut response = AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_allow_replication_factor_change(request.allow_replication_factor_change);
    for topic in &request.topics {
        let mut answered = ReassignableTopicResponse::default().with_name(topic.name.clone());
        let found = image.topic_by_name(&topic.name);
        for partition in &topic.partitions {
            pace.step().await;
            let index = PartitionIndex(partition.partition_index);
            let known = found.and_then(|found| found.partition(index));
            let code = match (known, &partition.replicas) {
                (None, _) => ErrorCode::UnknownTopicOrPartition,
                (Some(_), None) => ErrorCode::NoReassignmentInProgress,
                (Some(known), Some(wanted)) => {
                    let has = known.replicas.iter().map(|id| WireBrokerId(id.0));
                    match has.eq(wanted.iter().copied()) {
                        true => ErrorCode::None,
                        false => ErrorCode::InvalidReplicaAssignment,
                    }
                }
            };
            answered.partitions.push(
                ReassignablePartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code.code())
                    .with_error_message(code.message().map(StrBytes::from_static_str)),
            );
        }
        response.responses.push(answered);
    }
    let elements = response.responses.iter().map(|t| t.partitions.len()).sum();
    Ok(Begun::Done(
        call.encode_all(request, response, elements).await?,
    ))
}

pub async fn list_partition_reassignments(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ListPartitionReassignmentsRequest = call.decode(body).await?;
    let response = ListPartitionReassignmentsResponse::default().with_error_message(None);
    Ok(Begun::Done(call.encode_all(request, response, 0).await?))
}

/// Logs why the quorum did not answer.
pub fn unavailable(reply: ControlReply) {
    if let ControlReply::Unavailable(why) = reply {
        tracing::error!("metadata cannot be changed: {why}");
    }
}
