//! Consumer groups of the new protocol (KIP-848): ConsumerGroupHeartbeat and ConsumerGroupDescribe.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
};

use crate::base::PartitionIndex;
use crate::coordinator::group::{Answer, Ask, ConsumerHeartbeat, consumer_group_not_described};
use crate::handlers::coordinators::{answer, ask_group, code, group_partition};
use crate::handlers::{Begun, Call, Close};
use crate::protocol::{ErrorCode, StrBytes};

/// Every operation on a group: read, delete, describe, configs.
const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

pub async fn heartbeat(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ConsumerGroupHeartbeatRequest = call.decode(body).await?;
    if !call.peer.settings().groups.consumer_protocol {
        let response = failed(ErrorCode::UnsupportedVersion);
        call.count(response.error_code);
        return Ok(Begun::Done(call.encode(&response)?));
    }
    let group_id = request.group_id.clone();
    let ask = Ask::ConsumerHeartbeat(ConsumerHeartbeat {
        version: call.version,
        client_id: call.client_id(),
        client_host: call.client_host(),
        request,
    });
    let asked = ask_group(call.peer.shard(), &group_id, ask).await?;
    Ok(Begun::later(async move {
        let response = match answer(asked).await? {
            Ok(Answer::ConsumerHeartbeat(response)) => response,
            Ok(_) => failed(ErrorCode::UnknownServerError),
            Err(error) => failed(code(error)),
        };
        call.count(response.error_code);
        call.encode(&response)
    }))
}

fn failed(code: ErrorCode) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(code.code())
        .with_error_message(code.message().map(StrBytes::from_static_str))
}

pub async fn describe(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ConsumerGroupDescribeRequest = call.decode(body).await?;
    if !call.peer.settings().groups.consumer_protocol {
        let code = ErrorCode::UnsupportedVersion;
        let groups = request.group_ids.iter();
        let groups = groups.map(|id| consumer_group_not_described(id, code));
        let response = ConsumerGroupDescribeResponse::default().with_groups(groups.collect());
        return Ok(Begun::Done(call.encode(&response)?));
    }
    let image = call.peer.image();
    let mut parts: BTreeMap<PartitionIndex, Vec<StrBytes>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut invalid = Vec::new();
    for id in &request.group_ids {
        if !seen.insert(id.as_str()) {
            continue;
        }
        if id.trim().is_empty() {
            invalid.push(consumer_group_not_described(
                &id.0,
                ErrorCode::InvalidGroupId,
            ));
            continue;
        }
        let partition = group_partition(&image, id).map_or(PartitionIndex(0), |(_, p)| p);
        parts.entry(partition).or_default().push(id.0.clone());
    }
    let mut asked = Vec::new();
    for ids in parts.into_values() {
        let ask = Ask::ConsumerDescribe(ids.clone());
        if let Some(first) = ids.first() {
            let pending = ask_group(call.peer.shard(), first, ask).await?;
            asked.push((ids, pending));
        }
    }
    Ok(Begun::later(async move {
        let mut response = ConsumerGroupDescribeResponse::default().with_groups(invalid);
        for (ids, asked) in asked {
            let code = match answer(asked).await? {
                Ok(Answer::ConsumerDescribe(groups)) => {
                    response.groups.extend(groups);
                    continue;
                }
                Ok(_) => ErrorCode::UnknownServerError,
                Err(error) => code(error),
            };
            let groups = ids.iter().map(|id| consumer_group_not_described(id, code));
            response.groups.extend(groups);
        }
        for group in &mut response.groups {
            call.count(group.error_code);
            if request.include_authorized_operations && group.error_code == 0 {
                group.authorized_operations = GROUP_OPERATIONS;
            }
        }
        call.encode(&response)
    }))
}
