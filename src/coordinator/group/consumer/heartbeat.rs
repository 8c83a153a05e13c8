//! ConsumerGroupHeartbeat: how members join, stay, and leave.
//!
//! A heartbeat goes through three stages, each of which may add records:
//! 1. The member is made or changed. If its subscription, or the topics, have changed, the group epoch
//!    is raised.
//! 2. If the target is behind the group epoch, and old enough, an assignor makes a new one.
//! 3. The member is led a step toward its target ([`super::reconcile`]).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::assignor::{Assignor, GroupSpec, MemberSpec, Subscriptions};
use super::group::{ConsumerGroup, current_record, metadata_record, text, without_epochs};
use super::member::{
    LEAVE_GROUP_EPOCH, LEAVE_GROUP_STATIC_EPOCH, Member, MemberState, Owned, Text,
};
use super::reconcile::Reconciliation;
use super::record::{Body, ConsumerRecord, GroupMetadata, Partitions, TargetMetadata};
use super::regex::{self, Resolution, ResolvedRegex};
use super::soft::Timer;
use super::{Env, Refusal};
use crate::base::{Timestamp, TopicId};
use crate::coordinator::CoordinatorRecord;
use crate::metadata::ConfigResource;
use crate::protocol::messages::consumer_group_heartbeat_response as response;
use crate::protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use crate::protocol::{ErrorCode, topic_id, uuid};

/// Least time between two evaluations of a group's expressions.
const REGEX_MIN_INTERVAL_MS: i64 = 10_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub id: &'a str,
    /// As Java writes an address: `/127.0.0.1`.
    pub host: &'a str,
}

/// What became of a group that members were taken out of.
pub enum Fenced {
    /// It goes on without them.
    Goes(Vec<CoordinatorRecord>),
    /// All that are left speak the classic protocol, and the group is to become a classic one
    /// ([`super::convert`]).
    Downgrades { leaving: BTreeMap<Text, Rc<Member>> },
}

fn refuse<T>(error: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(error, message))
}

/// What can be said of a request without looking at the group.
pub fn validate(
    request: &ConsumerGroupHeartbeatRequest,
    version: i16,
    assignors: &[Assignor],
) -> Result<(), Refusal> {
    let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
    let blank = |text: &str| text.trim().is_empty();
    let epoch = request.member_epoch;
    if (version >= 1 || epoch > 0 || epoch == LEAVE_GROUP_EPOCH) && blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    if blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if request.instance_id.as_deref().is_some_and(blank) {
        return invalid("InstanceId can't be empty.");
    }
    if request.rack_id.as_deref().is_some_and(blank) {
        return invalid("RackId can't be empty.");
    }
    if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request
            .topic_partitions
            .as_ref()
            .is_none_or(|p| !p.is_empty())
        {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
            );
        }
    } else if epoch == LEAVE_GROUP_STATIC_EPOCH {
        if request.instance_id.is_none() {
            return invalid("InstanceId can't be null.");
        }
    } else if epoch < LEAVE_GROUP_STATIC_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    if let Some(name) = &request.server_assignor
        && !assignors.iter().any(|assignor| assignor.name() == &**name)
    {
        let names: Vec<_> = assignors.iter().map(|assignor| assignor.name()).collect();
        return refuse(
            ErrorCode::UnsupportedAssignor,
            format!(
                "ServerAssignor {name} is not supported. Supported assignors: {}.",
                names.join(", ")
            ),
        );
    }
    Ok(())
}

/// The assignors of the settings, the first being the default.
pub fn assignors(names: &[String]) -> Vec<Assignor> {
    names
        .iter()
        .filter_map(|name| Assignor::find(name))
        .collect()
}

/// A heartbeat that does not leave. `group` may be a new one, or one made from a classic group, in which
/// case `records` make it.
pub fn heartbeat(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    mut records: Vec<CoordinatorRecord>,
    request: &ConsumerGroupHeartbeatRequest,
    client: Client<'_>,
) -> Result<(Vec<CoordinatorRecord>, ConsumerGroupHeartbeatResponse), Refusal> {
    let joining = request.member_epoch == 0;
    let timing = env.timing(&group.id);
    refuse_if_full(env, group, &request.member_id)?;
    let id: Text = match request.member_id.is_empty() {
        true => env.new_id().into(),
        false => (&*request.member_id).into(),
    };
    let owned = request.topic_partitions.as_ref().map(|topics| {
        let mut owned = Partitions::new();
        for topic in topics {
            let partitions = owned.entry(topic_id(topic.topic_id)).or_default();
            partitions.extend(&topic.partitions);
        }
        owned
    });
    let asked = Asked {
        id: &id,
        epoch: request.member_epoch,
        owned: owned.as_ref(),
        creates: joining,
        classic: false,
    };
    let member = match request.instance_id.as_deref() {
        None => asked.dynamic_member(group)?,
        Some(instance) => asked.static_member(group, instance, &mut records)?,
    };

    let shared = |before: &Option<Text>, now: Option<&str>| match now {
        Some(now) if before.as_deref() != Some(now) => Some(now.into()),
        _ => before.clone(),
    };
    let mut updated = Member {
        instance_id: shared(&member.instance_id, request.instance_id.as_deref()),
        rack_id: shared(&member.rack_id, request.rack_id.as_deref()),
        server_assignor: shared(&member.server_assignor, request.server_assignor.as_deref()),
        subscribed_regex: shared(
            &member.subscribed_regex,
            request.subscribed_topic_regex.as_deref(),
        ),
        classic: None,
        ..Member::clone(&member)
    };
    if request.rebalance_timeout_ms != -1 {
        updated.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(names) = &request.subscribed_topic_names {
        let names: BTreeSet<Text> = names.iter().map(|name| (&*name.0).into()).collect();
        if names != *updated.subscribed_topics {
            updated.subscribed_topics = Rc::new(names);
        }
    }
    updated.said_by(client);

    let changed = take_in_member(env, group, &member, &updated, &mut records)?;
    let (epoch, subscriptions) = refresh(
        env,
        group,
        changed.raises_epoch,
        &member,
        &updated,
        &mut records,
    );
    let (target_epoch, target) = update_target(
        env,
        group,
        epoch,
        &member,
        &updated,
        subscriptions,
        timing.assignment_interval_ms,
        &mut records,
    );
    let updated = reconcile(
        env,
        group,
        updated,
        target_epoch,
        &target,
        changed.subscription,
        owned.as_ref(),
        &mut records,
    )?;
    env.set_timer(&group.id, &id, Timer::Session, timing.session_timeout_ms, 0);

    let full = request.rebalance_timeout_ms != -1
        && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
        && request.topic_partitions.is_some();
    let tell = joining || full || updated.assigned != member.assigned;
    let response = ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(text(&updated.id)))
        .with_member_epoch(updated.epoch)
        .with_heartbeat_interval_ms(timing.heartbeat_interval_ms)
        .with_assignment(tell.then(|| assignment(&updated.assigned)));
    Ok((records, response))
}

fn assignment(owned: &Owned) -> response::Assignment {
    let topics = without_epochs(owned)
        .into_iter()
        .map(|(topic, partitions)| {
            response::TopicPartitions::default()
                .with_topic_id(uuid(topic))
                .with_partitions(partitions.into_iter().collect())
        });
    response::Assignment::default().with_topic_partitions(topics.collect())
}

/// A heartbeat that leaves, with epoch -1 for good, with -2 (a static member) to come back.
pub fn leave(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    request: &ConsumerGroupHeartbeatRequest,
) -> Result<(Fenced, ConsumerGroupHeartbeatResponse), Refusal> {
    let member = match request.instance_id.as_deref() {
        None => group.member(&request.member_id)?.clone(),
        Some(instance) => {
            let member = known_static_member(group, instance)?.clone();
            refuse_if_fenced(&member, &request.member_id, instance)?;
            if request.member_epoch == LEAVE_GROUP_STATIC_EPOCH {
                let mut away = Member::clone(&member);
                away.epoch = LEAVE_GROUP_STATIC_EPOCH;
                away.revoking = Rc::default();
                let mut assigned = Owned::clone(&away.assigned);
                for epoch in assigned.values_mut().flat_map(BTreeMap::values_mut) {
                    *epoch = 0;
                }
                away.assigned = Rc::new(assigned);
                let records = vec![current_record(&group.id, &away)];
                let response = ConsumerGroupHeartbeatResponse::default()
                    .with_member_id(Some(text(&away.id)))
                    .with_member_epoch(LEAVE_GROUP_STATIC_EPOCH);
                return Ok((Fenced::Goes(records), response));
            }
            member
        }
    };
    let response = ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(request.member_id.clone()))
        .with_member_epoch(request.member_epoch);
    let leaving = BTreeMap::from([(member.id.clone(), member)]);
    Ok((fence(env, group, leaving), response))
}

/// Takes members out of the group.
pub fn fence(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    leaving: BTreeMap<Text, Rc<Member>>,
) -> Fenced {
    let mut records = Vec::new();
    if leaving.is_empty() {
        return Fenced::Goes(records);
    }
    let left = group.members.len().saturating_sub(leaving.len());
    let settings = &env.settings.consumer_groups;
    if group.only_classic_without(&leaving)
        && settings.migration_policy.allows_downgrade()
        && left <= env.settings.groups.max_size as usize
    {
        return Fenced::Downgrades { leaving };
    }
    for member in leaving.keys() {
        remove_member(group, member, &mut records);
    }
    let mut regexes: BTreeMap<&Text, usize> = BTreeMap::new();
    for regex in leaving.values().filter_map(|member| member.regex()) {
        *regexes.entry(regex).or_default() += 1;
    }
    regexes.retain(|regex, count| group.regexes.get(*regex) == Some(count));
    for regex in regexes.keys() {
        let body = Body::RegularExpression((*regex).clone(), None);
        records.push(ConsumerRecord::new(&group.id, body).encode());
    }
    let topics = group.topics_after(
        leaving.values().map(|member| &**member),
        None,
        regexes.keys().copied(),
    );
    let metadata_hash = env.soft.hashes.of_group(topics.keys(), env.image);
    records.push(epoch_record(
        group,
        group.epoch.saturating_add(1),
        metadata_hash,
    ));
    for member in leaving.keys() {
        env.soft.cancel_timers(&group.id, member);
    }
    Fenced::Goes(records)
}

/// A deadline of a member has passed. `None`: it is not what it was about any more.
pub fn expire(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    member: &Text,
    timer: Timer,
    epoch: i32,
) -> Option<Fenced> {
    let member = group.members.get(member)?.clone();
    if timer == Timer::Rebalance && member.epoch != epoch {
        return None;
    }
    let leaving = BTreeMap::from([(member.id.clone(), member)]);
    Some(fence(env, group, leaving))
}

/// Starts the deadlines of a group that was loaded, or that was made from a classic group.
pub fn start_timers(env: &mut Env<'_>, group: &ConsumerGroup) {
    let timing = env.timing(&group.id);
    for member in group.members.values() {
        let session = match &member.classic {
            Some(classic) => classic.session_timeout_ms,
            None => timing.session_timeout_ms,
        };
        env.set_timer(&group.id, &member.id, Timer::Session, session, 0);
        if member.state == MemberState::UnrevokedPartitions {
            let timeout = member.rebalance_timeout_ms;
            env.set_timer(
                &group.id,
                &member.id,
                Timer::Rebalance,
                timeout,
                member.epoch,
            );
        }
    }
}

/// What a group's expressions came to.
pub fn resolved(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    resolved: Vec<(Text, ResolvedRegex)>,
) -> Vec<CoordinatorRecord> {
    let mut records = Vec::new();
    let mut raise = false;
    let mut topics: BTreeSet<Text> = BTreeSet::new();
    let mut by_regex: BTreeMap<&Text, Rc<BTreeSet<Text>>> = group
        .resolved
        .iter()
        .map(|(regex, resolved)| (regex, resolved.topics.clone()))
        .collect();
    for (regex, new) in &resolved {
        if !group.regexes.contains_key(regex) {
            continue;
        }
        let old = group.resolved.get(regex).map(|old| old.topics.clone());
        raise |= old.unwrap_or_default() != new.topics;
        by_regex.insert(regex, new.topics.clone());
        let body = Body::RegularExpression(regex.clone(), Some(new.clone()));
        records.push(ConsumerRecord::new(&group.id, body).encode());
    }
    let by_name = group.topics.iter().filter(|(_, s)| s.by_name > 0);
    topics.extend(by_name.map(|(topic, _)| topic.clone()));
    topics.extend(by_regex.values().flat_map(|topics| topics.iter().cloned()));
    let metadata_hash = env.soft.hashes.of_group(topics.iter(), env.image);
    if raise || metadata_hash != group.metadata_hash {
        records.push(epoch_record(
            group,
            group.epoch.saturating_add(1),
            metadata_hash,
        ));
        env.soft.fresh.insert(group.id.clone());
    }
    records
}

/// Begins to evaluate the expressions of a group.
fn start_resolution(env: &mut Env<'_>, group: &Text, regexes: BTreeMap<Text, usize>) {
    let resolution = Resolution::new(regexes.into_keys(), env.image, env.now);
    env.soft.resolutions.insert(group.clone(), resolution);
}

pub(super) fn refuse_if_full(
    env: &Env<'_>,
    group: &ConsumerGroup,
    member_id: &str,
) -> Result<(), Refusal> {
    let limit = env.settings.consumer_groups.max_size as usize;
    if group.members.len() >= limit && !group.members.contains_key(member_id) {
        return refuse(
            ErrorCode::GroupMaxSizeReached,
            format!("The consumer group has reached its maximum capacity of {limit} members."),
        );
    }
    Ok(())
}

fn known_static_member<'a>(
    group: &'a ConsumerGroup,
    instance: &str,
) -> Result<&'a Rc<Member>, Refusal> {
    group.static_member(instance).ok_or_else(|| {
        let message = format!("Instance id {instance} is unknown.");
        Refusal::new(ErrorCode::UnknownMemberId, message)
    })
}

pub(super) fn refuse_if_fenced(member: &Member, id: &str, instance: &str) -> Result<(), Refusal> {
    if *member.id != *id {
        return refuse(
            ErrorCode::FencedInstanceId,
            format!(
                "Static member {id} with instance id {instance} was fenced by member {}.",
                member.id
            ),
        );
    }
    Ok(())
}

/// Who a request says it comes from.
pub(super) struct Asked<'a> {
    pub id: &'a Text,
    pub epoch: i32,
    pub owned: Option<&'a Partitions>,
    /// Whether a member that is not there is made.
    pub creates: bool,
    /// Whether the request is one of the classic protocol.
    pub classic: bool,
}

impl Asked<'_> {
    pub fn dynamic_member(&self, group: &ConsumerGroup) -> Result<Rc<Member>, Refusal> {
        let member = match group.members.get(self.id) {
            None if self.creates => Rc::new(Member::new(self.id.clone())),
            _ => group.member(self.id)?.clone(),
        };
        if !self.classic {
            self.check_epoch(&member)?;
        }
        Ok(member)
    }

    /// A static member that comes back under another id takes the place of the one that was there.
    pub fn static_member(
        &self,
        group: &ConsumerGroup,
        instance: &str,
        records: &mut Vec<CoordinatorRecord>,
    ) -> Result<Rc<Member>, Refusal> {
        let before = group.static_member(instance);
        if !self.creates {
            let before = known_static_member(group, instance)?;
            refuse_if_fenced(before, self.id, instance)?;
            if !self.classic {
                self.check_epoch(before)?;
            }
            return Ok(before.clone());
        }
        let Some(before) = before else {
            let known = group.members.get(self.id).cloned();
            return Ok(known.unwrap_or_else(|| Rc::new(Member::new(self.id.clone()))));
        };
        if !self.classic && before.classic.is_none() && before.epoch != LEAVE_GROUP_STATIC_EPOCH {
            return refuse(
                ErrorCode::UnreleasedInstanceId,
                format!(
                    "Static member {} with instance id {instance} cannot join the group because the instance id is owned by {} member.",
                    self.id, before.id
                ),
            );
        }
        let member = Member {
            id: self.id.clone(),
            epoch: 0,
            previous_epoch: 0,
            ..Member::clone(before)
        };
        remove_member(group, &before.id, records);
        records.push(metadata_record(&group.id, &member));
        let target = group.target.get(&before.id).map(|t| Partitions::clone(t));
        let body = Body::TargetMember(self.id.clone(), Some(target.unwrap_or_default()));
        records.push(ConsumerRecord::new(&group.id, body).encode());
        records.push(current_record(&group.id, &member));
        Ok(Rc::new(member))
    }

    /// A member may be behind by one epoch, whose answer was lost, unless it owns what that answer took.
    fn check_epoch(&self, member: &Member) -> Result<(), Refusal> {
        let (asked, known) = (self.epoch, member.epoch);
        if asked == 0 || asked == known {
            return Ok(());
        }
        let owns_no_more = || {
            self.owned.is_some_and(|owned| {
                owned.iter().all(|(topic, partitions)| {
                    let assigned = member.assigned.get(topic);
                    partitions
                        .iter()
                        .all(|p| assigned.is_some_and(|assigned| assigned.contains_key(p)))
                })
            })
        };
        if asked < known && asked == member.previous_epoch && owns_no_more() {
            return Ok(());
        }
        let which = if asked > known { "greater" } else { "smaller" };
        refuse(
            ErrorCode::FencedMemberEpoch,
            format!(
                "The consumer group member has a {which} member epoch ({asked}) than the one known by the group coordinator ({known}). The member must abandon all its partitions and rejoin."
            ),
        )
    }
}

impl Member {
    pub(super) fn said_by(&mut self, client: Client<'_>) {
        if *self.client_id != *client.id {
            self.client_id = client.id.into();
        }
        if *self.client_host != *client.host {
            self.client_host = client.host.into();
        }
    }
}

fn remove_member(group: &ConsumerGroup, member: &Text, records: &mut Vec<CoordinatorRecord>) {
    for body in [
        Body::CurrentMember(member.clone(), None),
        Body::TargetMember(member.clone(), None),
        Body::MemberMetadata(member.clone(), None),
    ] {
        records.push(ConsumerRecord::new(&group.id, body).encode());
    }
}

fn epoch_record(group: &ConsumerGroup, epoch: i32, metadata_hash: i64) -> CoordinatorRecord {
    let value = GroupMetadata {
        epoch,
        metadata_hash,
    };
    ConsumerRecord::new(&group.id, Body::GroupMetadata(Some(value))).encode()
}

/// What a request has changed about a member.
#[derive(Clone, Copy)]
pub(super) struct Change {
    /// Its subscription is another.
    pub subscription: bool,
    /// Topics, or an expression that was evaluated before: the assignment is due now.
    pub raises_epoch: bool,
}

/// Writes down a member that has changed, and looks after its expression.
pub(super) fn take_in_member(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    before: &Member,
    after: &Member,
    records: &mut Vec<CoordinatorRecord>,
) -> Result<Change, Refusal> {
    if before != after {
        records.push(metadata_record(&group.id, after));
    }
    let topics = before.subscribed_topics != after.subscribed_topics;
    let mut requires = false;
    let mut known = false;
    let regex = before.subscribed_regex != after.subscribed_regex;
    if regex {
        if let Some(old) = before.regex()
            && group.regexes.get(old) == Some(&1)
        {
            let body = Body::RegularExpression(old.clone(), None);
            records.push(ConsumerRecord::new(&group.id, body).encode());
        }
        match after.regex() {
            Some(new) if !group.regexes.contains_key(new) => {
                regex::compile(new)?;
                requires = true;
            }
            Some(new) => known = group.resolved.contains_key(new),
            None => known = before.regex().is_some(),
        }
    }
    let change = Change {
        subscription: topics || regex,
        raises_epoch: topics || known,
    };
    if (!requires && group.regexes.is_empty()) || env.soft.resolutions.contains_key(&group.id) {
        return Ok(change);
    }
    let last = group.resolved.values().next();
    let since_last = last.map(|last| env.now.0.saturating_sub(last.timestamp.0));
    if since_last.is_some_and(|ms| ms <= REGEX_MIN_INTERVAL_MS) {
        return Ok(change);
    }
    let regexes = group.regexes_after(Some(before), Some(after));
    let interval = i64::from(env.settings.consumer_groups.regex_refresh_interval_ms);
    let due = requires
        || regexes.len() != group.resolved.len()
        || last.map_or(0, |last| last.version) < env.soft.topics_created_version
        || since_last.is_none_or(|ms| ms > interval);
    if due && !regexes.is_empty() {
        start_resolution(env, &group.id, regexes);
    }
    Ok(change)
}

/// Raises the group epoch if the member asks for it, or if topics have changed. Gives the epoch, and
/// whether all members have the same subscription now.
pub(super) fn refresh(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    mut raise: bool,
    before: &Member,
    after: &Member,
    records: &mut Vec<CoordinatorRecord>,
) -> (i32, Option<Subscriptions>) {
    if !raise && env.soft.fresh.contains(&group.id) {
        return (group.epoch, None);
    }
    // What the member is subscribed to counts once: as what it was, it is there only if it was there.
    let was_there = group.static_or_id(before);
    let regexes = group.regexes_after(was_there, Some(after));
    let unused = before
        .regex()
        .filter(|regex| after.regex() != Some(*regex) && group.regexes.get(*regex) == Some(&1));
    let topics = group.topics_after(was_there.into_iter(), Some(after), unused.into_iter());
    let metadata_hash = env.soft.hashes.of_group(topics.keys(), env.image);
    let members = group.members.len() + usize::from(was_there.is_none());
    raise |= metadata_hash != group.metadata_hash;
    let mut epoch = group.epoch;
    if raise {
        epoch = epoch.saturating_add(1);
        records.push(epoch_record(group, epoch, metadata_hash));
    }
    env.soft.fresh.insert(group.id.clone());
    if group.has_partition_metadata {
        let body = Body::PartitionMetadata(false);
        records.push(ConsumerRecord::new(&group.id, body).encode());
    }
    let subscriptions = ConsumerGroup::subscriptions(&regexes, &topics, members);
    (epoch, Some(subscriptions))
}

impl ConsumerGroup {
    /// The member as it is on record, if it is: under its id, or under the one it replaces.
    fn static_or_id<'a>(&'a self, member: &'a Member) -> Option<&'a Member> {
        let same = self.members.get(&member.id);
        let same = same.or_else(|| self.static_member(member.instance_id.as_deref()?));
        same.map(|member| &**member)
    }
}

/// Has a new target computed if one is due. Gives the target's epoch, and what the member should own.
pub(super) fn update_target(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    epoch: i32,
    before: &Member,
    after: &Member,
    subscriptions: Option<Subscriptions>,
    interval_ms: i32,
    records: &mut Vec<CoordinatorRecord>,
) -> (i32, Rc<Partitions>) {
    let last = group.target_timestamp.0;
    let waits =
        last != 0 && interval_ms != 0 && env.now.0 < last.saturating_add(i64::from(interval_ms));
    if group.target_epoch >= epoch || waits {
        return (group.target_epoch, group.target_of(after));
    }
    let replaced = group.static_or_id(before).map(|member| &member.id);
    let subscriptions = subscriptions.unwrap_or_else(|| {
        ConsumerGroup::subscriptions(&group.regexes, &group.topics, group.members.len())
    });
    let configured = assignors(&env.settings.consumer_groups.assignors);
    let preferred =
        group.preferred_assignor(Some(before).filter(|_| replaced.is_some()), Some(after));
    let assignor = preferred
        .and_then(|name| configured.iter().find(|a| a.name() == &*name))
        .or(configured.first())
        .copied()
        .unwrap_or(Assignor::Uniform);

    let others = group
        .members
        .values()
        .filter(|member| Some(&member.id) != replaced && member.id != after.id);
    let others = others.map(|member| (&**member, group.target.get(&member.id).cloned()));
    let itself = (after, Some(group.target_of(after)));
    let mut all: Vec<_> = others.chain([itself]).collect();
    all.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    let alike = (subscriptions == Subscriptions::Homogeneous)
        .then(|| Rc::new(group.subscribed_ids(after, env.image)));
    let members = all.iter().map(|(member, target)| MemberSpec {
        id: member.id.clone(),
        instance_id: member.instance_id.clone(),
        topics: alike
            .clone()
            .unwrap_or_else(|| Rc::new(group.subscribed_ids(member, env.image))),
        target: target.clone().unwrap_or_default(),
    });
    let image = env.image;
    let partitions = |topic: TopicId| image.topic(topic).map_or(0, |t| t.partitions.len());
    let spec = GroupSpec {
        members: members.collect(),
        subscriptions,
        partitions: &partitions,
    };
    let targets = assignor.assign(&spec);

    let mut of_member = Rc::default();
    for (member, target) in spec.members.iter().zip(targets) {
        if group.target.get(&member.id) != Some(&target) {
            let body = Body::TargetMember(member.id.clone(), Some(Partitions::clone(&target)));
            records.push(ConsumerRecord::new(&group.id, body).encode());
        }
        if member.id == after.id {
            of_member = target;
        }
    }
    let value = TargetMetadata {
        epoch,
        timestamp: env.now,
    };
    let body = Body::TargetMetadata(Some(value));
    records.push(ConsumerRecord::new(&group.id, body).encode());
    (epoch, of_member)
}

/// Leads the member toward its target, if it is not there.
pub(super) fn reconcile(
    env: &mut Env<'_>,
    group: &ConsumerGroup,
    member: Member,
    target_epoch: i32,
    target: &Partitions,
    subscription_changed: bool,
    owned: Option<&Partitions>,
    records: &mut Vec<CoordinatorRecord>,
) -> Result<Member, Refusal> {
    if !subscription_changed && member.is_reconciled_to(target_epoch) {
        return Ok(member);
    }
    let reconciliation = Reconciliation {
        group,
        image: env.image,
        target_epoch,
        target,
        subscription_changed,
        owned,
    };
    let next = reconciliation.next(&member)?;
    if next != member {
        records.push(current_record(&group.id, &next));
        if next.classic.is_none() {
            let key = (group.id.clone(), next.id.clone(), Timer::Rebalance);
            match next.state {
                MemberState::UnrevokedPartitions => {
                    let at = env
                        .now
                        .0
                        .saturating_add(i64::from(next.rebalance_timeout_ms.max(0)));
                    env.soft.timers.set(key, Timestamp(at), next.epoch);
                }
                _ => env.soft.timers.cancel(&key),
            }
        }
    }
    Ok(next)
}

/// A group's own settings, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub session_timeout_ms: i32,
    pub heartbeat_interval_ms: i32,
    pub assignment_interval_ms: i32,
}

impl Env<'_> {
    /// The group's settings, which the node's limits hold.
    pub fn timing(&self, group: &Text) -> Timing {
        let settings = &self.settings.consumer_groups;
        let resource = ConfigResource::Group(group.to_string());
        let configs = self.image.configs(&resource);
        let own = |name: &str, limits: (i32, i32), otherwise: i32| {
            let own = configs.get(name).and_then(|text| text.trim().parse().ok());
            own.map_or(otherwise, |own: i32| own.min(limits.1).max(limits.0))
        };
        let session = own(
            "consumer.session.timeout.ms",
            settings.session_timeout_limits_ms,
            settings.session_timeout_ms,
        );
        let heartbeat = own(
            "consumer.heartbeat.interval.ms",
            settings.heartbeat_interval_limits_ms,
            settings.heartbeat_interval_ms,
        );
        let assignment = own(
            "consumer.assignment.interval.ms",
            settings.assignment_interval_limits_ms,
            settings.assignment_interval_ms,
        );
        Timing {
            session_timeout_ms: session,
            heartbeat_interval_ms: heartbeat,
            assignment_interval_ms: assignment,
        }
    }

    pub(super) fn set_timer(
        &mut self,
        group: &Text,
        member: &Text,
        timer: Timer,
        ms: i32,
        epoch: i32,
    ) {
        let at = self.now.0.saturating_add(i64::from(ms.max(0)));
        let key = (group.clone(), member.clone(), timer);
        self.soft.timers.set(key, Timestamp(at), epoch);
    }

    /// A random id as Kafka writes one: a version 4 UUID in base64, without a dash at its beginning.
    pub(super) fn new_id(&mut self) -> String {
        loop {
            let bits = (self.random)() & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
            let id = TopicId(bits).to_string();
            if !id.starts_with('-') {
                return id;
            }
        }
    }
}
