//! Classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and what administrators ask of groups:
//! ListGroups, DescribeGroups, DeleteGroups.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest,
    SyncGroupResponse,
};

use crate::base::PartitionIndex;
use crate::broker::coordinators::CoordinatorError;
use crate::coordinator::group::{Answer, Ask, Join, join_error, not_described, sync_error};
use crate::handlers::coordinators::{answer, ask_group, ask_partition, code, group_partition};
use crate::handlers::{Begun, Call, Close};
use crate::protocol::{ErrorCode, StrBytes};

pub async fn join_group(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request: JoinGroupRequest = call.decode(body).await?;
    let member_id = request.member_id.clone();
    if request.group_id.is_empty() {
        let response = join_error(&member_id, ErrorCode::InvalidGroupId);
        return Ok(Begun::Done(joined(&call, response)?));
    }
    if call.version == 0 {
        // There was one timeout for both.
        request.rebalance_timeout_ms = request.session_timeout_ms;
    }
    let group_id = request.group_id.clone();
    let ask = Ask::Join(Join {
        version: call.version,
        client_id: call.client_id(),
        client_host: call.client_host(),
        request,
    });
    let asked = ask_group(call.peer.shard(), &group_id, ask).await?;
    Ok(Begun::later(async move {
        let response = match answer(asked).await? {
            Ok(Answer::Join(response)) => response,
            other => join_error("", refused(other)),
        };
        joined(&call, response)
    }))
}

fn joined(
    call: &Call,
    mut response: JoinGroupResponse,
) -> Result<crate::transport::Outgoing, Close> {
    if call.version < 7 {
        // The name could not be null before.
        response.protocol_name.get_or_insert_default();
    }
    call.count(response.error_code);
    call.encode(&response)
}

/// The code for an answer that is none, or one of another question.
fn refused(answer: Result<Answer, CoordinatorError>) -> ErrorCode {
    match answer {
        Err(error) => code(error),
        Ok(_) => ErrorCode::UnknownServerError,
    }
}

pub async fn sync_group(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: SyncGroupRequest = call.decode(body).await?;
    let incomplete = request.protocol_type.is_none() || request.protocol_name.is_none();
    let wrong = if call.version >= 5 && incomplete {
        Some(ErrorCode::InconsistentGroupProtocol)
    } else if request.group_id.is_empty() {
        Some(ErrorCode::InvalidGroupId)
    } else {
        None
    };
    if let Some(code) = wrong {
        call.count(code.code());
        return Ok(Begun::Done(call.encode(&sync_error(code))?));
    }
    let group_id = request.group_id.clone();
    let asked = ask_group(call.peer.shard(), &group_id, Ask::Sync(request)).await?;
    Ok(Begun::later(async move {
        let response: SyncGroupResponse = match answer(asked).await? {
            Ok(Answer::Sync(response)) => response,
            other => sync_error(refused(other)),
        };
        call.count(response.error_code);
        call.encode(&response)
    }))
}

pub async fn heartbeat(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: HeartbeatRequest = call.decode(body).await?;
    let failed = |code: ErrorCode| HeartbeatResponse::default().with_error_code(code.code());
    if request.group_id.is_empty() {
        call.count(ErrorCode::InvalidGroupId.code());
        return Ok(Begun::Done(
            call.encode(&failed(ErrorCode::InvalidGroupId))?,
        ));
    }
    let group_id = request.group_id.clone();
    let asked = ask_group(call.peer.shard(), &group_id, Ask::Heartbeat(request)).await?;
    Ok(Begun::later(async move {
        let response = match answer(asked).await? {
            Ok(Answer::Heartbeat(response)) => response,
            // What is not known yet cannot be refused: sessions start when the log has been read.
            Err(CoordinatorError::Loading) => HeartbeatResponse::default(),
            other => failed(refused(other)),
        };
        call.count(response.error_code);
        call.encode(&response)
    }))
}

pub async fn leave_group(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request: LeaveGroupRequest = call.decode(body).await?;
    let failed = |code: ErrorCode| LeaveGroupResponse::default().with_error_code(code.code());
    if request.group_id.is_empty() {
        call.count(ErrorCode::InvalidGroupId.code());
        return Ok(Begun::Done(
            call.encode(&failed(ErrorCode::InvalidGroupId))?,
        ));
    }
    if call.version < 3 {
        let leaving = MemberIdentity::default().with_member_id(request.member_id.clone());
        request.members = vec![leaving];
    }
    let group_id = request.group_id.clone();
    let asked = ask_group(call.peer.shard(), &group_id, Ask::Leave(request)).await?;
    Ok(Begun::later(async move {
        let mut response = match answer(asked).await? {
            Ok(Answer::Leave(response)) => response,
            other => failed(refused(other)),
        };
        if call.version < 3 {
            // One member, and its code was the response's.
            if let Some(member) = response.members.pop() {
                response.error_code = member.error_code;
            }
        }
        call.count(response.error_code);
        call.encode(&response)
    }))
}

pub async fn list_groups(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ListGroupsRequest = call.decode(body).await?;
    let lower = |filter: &[StrBytes]| -> Vec<String> {
        filter
            .iter()
            .map(|text| text.trim().to_lowercase())
            .collect()
    };
    let (states, types) = (lower(&request.states_filter), lower(&request.types_filter));
    let image = call.peer.image();
    let mut asked = Vec::new();
    if let Some((topic, _)) = group_partition(&image, "") {
        for index in 0..topic.partitions.len() {
            let ask = Ask::List {
                states: states.clone(),
                types: types.clone(),
            };
            let partition = PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX));
            asked.push(Ok(
                ask_partition(call.peer.shard(), &topic, partition, ask).await?
            ));
        }
    }
    Ok(Begun::later(async move {
        let mut response = ListGroupsResponse::default();
        for asked in asked {
            match answer(asked).await? {
                Ok(Answer::List(groups)) => response.groups.extend(groups),
                // Another broker has them.
                Err(CoordinatorError::NotCoordinator) => {}
                other => response.error_code = refused(other).code(),
            }
        }
        if response.error_code != 0 {
            response.groups.clear();
        }
        if call.version < 4 {
            for group in &mut response.groups {
                group.group_state = StrBytes::default();
            }
        }
        if call.version < 5 {
            for group in &mut response.groups {
                group.group_type = StrBytes::default();
            }
        }
        call.count(response.error_code);
        call.encode(&response)
    }))
}

/// Parts group ids by their partitions, each id once.
fn by_partition(call: &Call, ids: &[GroupId]) -> BTreeMap<PartitionIndex, Vec<StrBytes>> {
    let image = call.peer.image();
    let mut parts: BTreeMap<PartitionIndex, Vec<StrBytes>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for id in ids {
        if seen.insert(id.as_str()) {
            let place = group_partition(&image, id).map_or(PartitionIndex(0), |(_, p)| p);
            parts.entry(place).or_default().push(id.0.clone());
        }
    }
    parts
}

pub async fn describe_groups(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeGroupsRequest = call.decode(body).await?;
    let mut asked = Vec::new();
    for ids in by_partition(&call, &request.groups).into_values() {
        let ask = Ask::Describe(ids.clone());
        asked.push((
            ids.clone(),
            ask_group(call.peer.shard(), &ids[0], ask).await?,
        ));
    }
    Ok(Begun::later(async move {
        let mut response = DescribeGroupsResponse::default();
        for (ids, asked) in asked {
            match answer(asked).await? {
                Ok(Answer::Describe(groups)) => response.groups.extend(groups),
                other => {
                    let code = refused(other);
                    response
                        .groups
                        .extend(ids.iter().map(|id| not_described(id, code)));
                }
            }
        }
        for group in &mut response.groups {
            if call.version < 6 {
                // A group that is not there was a dead one, and no error.
                if group.error_code == ErrorCode::GroupIdNotFound.code() {
                    group.error_code = 0;
                }
                group.error_message = None;
            }
            if call.version < 4 {
                for member in &mut group.members {
                    member.group_instance_id = None;
                }
            }
            call.count(group.error_code);
        }
        call.encode(&response)
    }))
}

pub async fn delete_groups(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DeleteGroupsRequest = call.decode(body).await?;
    let mut asked = Vec::new();
    for id in by_partition(&call, &request.groups_names)
        .into_values()
        .flatten()
    {
        // One at a time: tombstones of each are written as one batch, or not at all.
        let ask = Ask::DeleteGroups(vec![id.clone()]);
        asked.push((id.clone(), ask_group(call.peer.shard(), &id, ask).await?));
    }
    Ok(Begun::later(async move {
        let mut response = DeleteGroupsResponse::default();
        for (id, asked) in asked {
            let deleted = match answer(asked).await? {
                Ok(Answer::DeleteGroups(groups)) => groups,
                other => vec![(id, refused(other))],
            };
            for (id, code) in deleted {
                call.count(code.code());
                response.results.push(
                    DeletableGroupResult::default()
                        .with_group_id(GroupId(id))
                        .with_error_code(code.code()),
                );
            }
        }
        call.encode(&response)
    }))
}
