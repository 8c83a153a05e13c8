//! CreateTopics, DeleteTopics, CreatePartitions, ElectLeaders, ListPartitionReassignments: what the
//! controller decides, plus what depends on the version of the request.

use std::collections::HashMap;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    ElectLeadersRequest, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use crate::base::settings::describe_topic;
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::messages::{Reply, Request};
use crate::handlers::{Begun, Call, Close};
use crate::protocol::response::decode_request;
use crate::protocol::{ErrorCode, StrBytes};

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

pub fn create_topics(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: CreateTopicsRequest = decode_request(call.version, body)?;
    Ok(Begun::later(async move {
        let asked = request.clone();
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
            add_configs(&call, &asked, &mut response);
        }
        call.encode(&response)
    }))
}

/// Version 5 tells the settings of each topic that was, or would be, created (KIP-525).
fn add_configs(call: &Call, asked: &CreateTopicsRequest, response: &mut CreateTopicsResponse) {
    let settings = call.peer.settings();
    let by_name: HashMap<&str, _> = asked.topics.iter().map(|t| (t.name.as_str(), t)).collect();
    for result in response.topics.iter_mut().filter(|r| r.error_code == 0) {
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

pub fn delete_topics(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DeleteTopicsRequest = decode_request(call.version, body)?;
    Ok(Begun::later(async move {
        let mut response = match control(&call, ControlRequest::DeleteTopics(request)).await? {
            ControlReply::DeleteTopics(response) => response,
            other => {
                unavailable(other);
                return Err(Close::Stopping);
            }
        };
        if call.version < 3 {
            for result in &mut response.responses {
                if result.error_code == ErrorCode::TopicDeletionDisabled.code() {
                    result.error_code = ErrorCode::InvalidRequest.code();
                }
            }
        }
        call.encode(&response)
    }))
}

pub fn create_partitions(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: CreatePartitionsRequest = decode_request(call.version, body)?;
    Ok(Begun::later(async move {
        match control(&call, ControlRequest::CreatePartitions(request)).await? {
            ControlReply::CreatePartitions(response) => call.encode(&response),
            other => {
                unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

pub fn elect_leaders(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ElectLeadersRequest = decode_request(call.version, body)?;
    Ok(Begun::later(async move {
        match control(&call, ControlRequest::ElectLeaders(request)).await? {
            ControlReply::ElectLeaders(response) => call.encode(&response),
            other => {
                unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

/// Nothing is ever being reassigned on a node that is alone.
pub fn list_partition_reassignments(call: Call, body: Bytes) -> Result<Begun, Close> {
    let _: ListPartitionReassignmentsRequest = decode_request(call.version, body)?;
    let response = ListPartitionReassignmentsResponse::default().with_error_message(None);
    Ok(Begun::Done(call.encode(&response)?))
}

/// Logs why the quorum did not answer.
pub fn unavailable(reply: ControlReply) {
    if let ControlReply::Unavailable(why) = reply {
        tracing::error!("metadata cannot be changed: {why}");
    }
}
