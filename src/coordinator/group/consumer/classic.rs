//! Members of the classic protocol in a consumer group: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.
//!
//! To such a member its epoch is its generation. It gives up partitions by joining again without them in
//! its subscription, and learns what it owns by SyncGroup. It is told to join again
//! (REBALANCE_IN_PROGRESS) when there is a new target, when it has to give something up, and when what
//! it waits for has become free.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use super::embedded;
use super::group::{ConsumerGroup, without_epochs};
use super::heartbeat::{
    Asked, Client, Fenced, fence, reconcile, refresh, refuse_if_fenced, refuse_if_full,
    take_in_member, update_target,
};
use super::member::{ClassicMetadata, ClassicProtocol, Member, MemberState, Text};
use super::soft::Timer;
use super::{Env, Refusal};
use crate::coordinator::CoordinatorRecord;
use crate::protocol::messages::leave_group_response::MemberResponse;
use crate::protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use crate::protocol::{ErrorCode, StrBytes};

/// The protocol type of consumers.
pub const PROTOCOL_TYPE: &str = "consumer";

/// What a JoinGroup came to.
pub struct Joined {
    pub records: Vec<CoordinatorRecord>,
    pub response: JoinGroupResponse,
    /// The member took the place of the last that spoke the new protocol: the group is to become a
    /// classic one, with this member, after these records.
    pub downgrade: Option<Downgrade>,
}

pub struct Downgrade {
    pub joining: Member,
    /// Whether its members have to join again.
    pub rebalance: bool,
}

/// JoinGroup to a group that has members.
pub fn join(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    request: &JoinGroupRequest,
    version: i16,
    client: Client<'_>,
) -> Result<Joined, Refusal> {
    let settings = &env.settings.consumer_groups;
    if settings.migration_policy.is_disabled() {
        return Err(Refusal::new(
            ErrorCode::InconsistentGroupProtocol,
            format!(
                "Cannot join the consumer group {} with the classic protocol because the group migration is disabled.",
                group.id
            ),
        ));
    }
    let instance_id = request.group_instance_id.as_deref();
    let is_new = request.member_id.is_empty();
    let id: Text = match is_new {
        true => env.new_id().into(),
        false => (&*request.member_id).into(),
    };
    refuse_if_full(env, group, &id)?;
    let names: BTreeSet<&str> = request.protocols.iter().map(|p| &*p.name).collect();
    let first = request.protocols.first();
    let (Some(first), true) = (
        first,
        group.supports_classic_protocols(&request.protocol_type, &names),
    ) else {
        return Err(Refusal::new(
            ErrorCode::InconsistentGroupProtocol,
            format!("Member {id}'s protocols are not supported."),
        ));
    };
    if version >= 4 && instance_id.is_none() && is_new {
        let response = JoinGroupResponse::default()
            .with_member_id(super::group::text(&id))
            .with_error_code(ErrorCode::MemberIdRequired as i16);
        return Ok(Joined {
            records: Vec::new(),
            response,
            downgrade: None,
        });
    }

    let mut records = Vec::new();
    let asked = Asked {
        id: &id,
        epoch: -1,
        owned: None,
        creates: instance_id.is_none() || is_new,
        classic: true,
    };
    let member = match instance_id {
        None => asked.dynamic_member(group)?,
        Some(instance) => asked.static_member(group, instance, &mut records)?,
    };
    let subscription = embedded::subscription(&first.metadata).map_err(|error| {
        Refusal::new(
            ErrorCode::UnknownServerError,
            format!("Malformed embedded consumer protocol: {error}."),
        )
    })?;
    let owned = embedded::by_id(&subscription.owned, env.image);

    let mut updated = Member::clone(&member);
    if let Some(instance) = instance_id {
        updated.instance_id = Some(instance.into());
    }
    if let Some(rack) = subscription.rack_id.filter(|rack| !rack.is_empty()) {
        updated.rack_id = Some(rack.into());
    }
    if request.rebalance_timeout_ms != -1 {
        updated.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    updated.subscribed_topics = Rc::new(subscription.topics.into_iter().map(Text::from).collect());
    updated.subscribed_regex = Some("".into());
    updated.said_by(client);
    let protocols = request.protocols.iter().map(|protocol| ClassicProtocol {
        name: (&*protocol.name).into(),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    updated.classic = Some(Rc::new(ClassicMetadata {
        session_timeout_ms: request.session_timeout_ms,
        protocols: protocols.collect(),
    }));

    let changed = take_in_member(env, group, &member, &updated, &mut records)?;
    let raise = changed.subscription;
    let (epoch, subscriptions) = refresh(env, group, raise, &member, &updated, &mut records);

    let replaced = instance_id.and_then(|instance| group.static_member(instance));
    let downgrades = replaced.is_some_and(|replaced| {
        replaced.classic.is_none() && {
            let leaving = BTreeMap::from([(replaced.id.clone(), replaced.clone())]);
            let settings = &env.settings.consumer_groups;
            (group.members.len() == 1 || group.only_classic_without(&leaving))
                && settings.migration_policy.allows_downgrade()
                && group.members.len() <= env.settings.groups.max_size as usize
        }
    });
    let mut downgrade = None;
    if downgrades {
        let others = group.members.values();
        let mut others = others.filter(|other| replaced.is_none_or(|r| r.id != other.id));
        let rebalance = group.target_epoch < epoch
            || !others.all(|other| other.is_reconciled_to(group.target_epoch));
        if !rebalance {
            let target = group.target_of(&updated);
            updated = reconcile(
                env,
                group,
                updated,
                group.target_epoch,
                &target,
                raise,
                Some(&owned),
                &mut records,
            )?;
        }
        downgrade = Some(Downgrade {
            joining: updated.clone(),
            rebalance,
        });
    } else {
        let interval = env.timing(&group.id).assignment_interval_ms;
        let (target_epoch, target) = update_target(
            env,
            group,
            epoch,
            &member,
            &updated,
            subscriptions,
            interval,
            &mut records,
        );
        updated = reconcile(
            env,
            group,
            updated,
            target_epoch,
            &target,
            raise,
            Some(&owned),
            &mut records,
        )?;
        let join = (group.id.clone(), id.clone(), Timer::Join);
        env.soft.timers.cancel(&join);
        env.set_timer(
            &group.id,
            &id,
            Timer::Session,
            request.session_timeout_ms,
            0,
        );
        env.set_timer(&group.id, &id, Timer::Sync, request.rebalance_timeout_ms, 0);
    }
    let response = JoinGroupResponse::default()
        .with_member_id(super::group::text(&updated.id))
        .with_generation_id(updated.epoch)
        .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
        .with_protocol_name(Some(first.name.clone()));
    Ok(Joined {
        records,
        response,
        downgrade,
    })
}

/// The member that a request of the classic protocol comes from.
fn classic_member<'a>(
    group: &'a ConsumerGroup,
    id: &str,
    instance_id: Option<&str>,
    generation: i32,
) -> Result<(&'a Rc<Member>, &'a Rc<ClassicMetadata>), Refusal> {
    let member = match instance_id {
        None => group.member(id)?,
        Some(instance) => {
            let member = group.static_member(instance).ok_or_else(|| {
                let message = format!(
                    "Member with instance id {instance} is not a member of group {}.",
                    group.id
                );
                Refusal::new(ErrorCode::UnknownMemberId, message)
            })?;
            refuse_if_fenced(member, id, instance)?;
            member
        }
    };
    let Some(classic) = &member.classic else {
        return Err(Refusal::new(
            ErrorCode::UnknownMemberId,
            format!("Member {} does not use the classic protocol.", member.id),
        ));
    };
    if member.epoch != generation {
        return Err(Refusal::new(
            ErrorCode::IllegalGeneration,
            format!(
                "The request generation id {generation} is not equal to the member epoch {} of member {}.",
                member.epoch, member.id
            ),
        ));
    }
    Ok((member, classic))
}

/// Starts the wait for a member to join again, if it has not begun.
fn wait_for_join(env: &mut Env<'_>, group: &ConsumerGroup, member: &Member) {
    let key = (group.id.clone(), member.id.clone(), Timer::Join);
    if !env.soft.timers.is_set(&key) {
        let timeout = member.rebalance_timeout_ms;
        env.set_timer(&group.id, &member.id, Timer::Join, timeout, 0);
    }
}

/// SyncGroup: what the member owns.
pub fn sync(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    request: &SyncGroupRequest,
) -> Result<SyncGroupResponse, Refusal> {
    let instance_id = request.group_instance_id.as_deref();
    let (member, classic) = classic_member(
        group,
        &request.member_id,
        instance_id,
        request.generation_id,
    )?;
    let protocol = classic.protocols.first();
    let inconsistent =
        |message: String| Err(Refusal::new(ErrorCode::InconsistentGroupProtocol, message));
    if let Some(asked) = request.protocol_type.as_deref()
        && asked != PROTOCOL_TYPE
    {
        return inconsistent(format!(
            "The protocol type {asked} from member {} request is not equal to the group protocol type {PROTOCOL_TYPE}.",
            member.id
        ));
    }
    if let Some(asked) = request.protocol_name.as_deref()
        && protocol.is_none_or(|protocol| *protocol.name != *asked)
    {
        return inconsistent(format!(
            "The protocol name {asked} from member {} request is not the one returned in the join response.",
            member.id
        ));
    }
    if group.target_epoch > member.epoch && member.state != MemberState::UnrevokedPartitions {
        wait_for_join(env, group, member);
        return Err(Refusal::new(
            ErrorCode::RebalanceInProgress,
            format!(
                "A new rebalance is triggered in group {} and member {} should rejoin to catch up.",
                group.id, member.id
            ),
        ));
    }
    let version = protocol.map_or(Ok(0), |protocol| embedded::version(&protocol.metadata));
    let version = version.map_err(|error| {
        Refusal::new(
            ErrorCode::UnknownServerError,
            format!("Malformed embedded consumer protocol: {error}."),
        )
    })?;
    env.soft
        .timers
        .cancel(&(group.id.clone(), member.id.clone(), Timer::Sync));
    let session = classic.session_timeout_ms;
    env.set_timer(&group.id, &member.id, Timer::Session, session, 0);
    let owned = without_epochs(&member.assigned);
    let assignment = embedded::encode_assignment(version, &owned, env.image);
    Ok(SyncGroupResponse::default()
        .with_protocol_type(request.protocol_type.clone())
        .with_protocol_name(request.protocol_name.clone())
        .with_assignment(assignment.into()))
}

/// Heartbeat: [`ErrorCode::RebalanceInProgress`] if the member is to join again.
pub fn heartbeat(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    request: &HeartbeatRequest,
) -> Result<ErrorCode, Refusal> {
    let instance_id = request.group_instance_id.as_deref();
    let (member, classic) = classic_member(
        group,
        &request.member_id,
        instance_id,
        request.generation_id,
    )?;
    let session = classic.session_timeout_ms;
    env.set_timer(&group.id, &member.id, Timer::Session, session, 0);
    let joins_again = member.epoch < group.target_epoch
        || match member.state {
            MemberState::UnrevokedPartitions => true,
            MemberState::UnreleasedPartitions => !group.is_waiting_for_others(member),
            MemberState::Stable | MemberState::Unknown => false,
        };
    if !joins_again {
        return Ok(ErrorCode::None);
    }
    wait_for_join(env, group, member);
    Ok(ErrorCode::RebalanceInProgress)
}

/// LeaveGroup, of members of either protocol. `members` are set in every version.
pub fn leave(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    request: &LeaveGroupRequest,
) -> (Fenced, LeaveGroupResponse) {
    let mut leaving = BTreeMap::new();
    let members = request.members.iter().map(|identity| {
        let found = match identity.group_instance_id.as_deref() {
            None => group.member(&identity.member_id),
            Some(instance) => match group.static_member(instance) {
                None => Err(Refusal::new(
                    ErrorCode::UnknownMemberId,
                    format!("Instance id {instance} is unknown."),
                )),
                // Without a member id it is an operator's.
                Some(member) if identity.member_id.is_empty() => Ok(member),
                Some(member) => {
                    refuse_if_fenced(member, &identity.member_id, instance).map(|()| member)
                }
            },
        };
        let error = match found {
            Ok(member) => {
                leaving.insert(member.id.clone(), member.clone());
                ErrorCode::None
            }
            Err(refusal) => refusal.error,
        };
        MemberResponse::default()
            .with_member_id(identity.member_id.clone())
            .with_group_instance_id(identity.group_instance_id.clone())
            .with_error_code(error as i16)
    });
    let response = LeaveGroupResponse::default().with_members(members.collect());
    (fence(env, group, leaving), response)
}
