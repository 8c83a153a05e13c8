//! Moves classic groups through their states: what JoinGroup, SyncGroup, Heartbeat and LeaveGroup do,
//! and what happens when a time has passed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, Member, State, protocols};
use super::timers::{Timer, Timers};
use super::{Answer, Group, GroupMachine, Join, text};
use crate::base::Timestamp;
use crate::base::settings::GroupSettings;
use crate::coordinator::{Context, Outcome, Token};
use crate::protocol::ErrorCode;

/// The first version of JoinGroup in which a new member is first given an id and told to come back
/// with it (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;

/// The first version of JoinGroup that can tell a leader to leave the assignment as it is (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

/// How long a new member's JoinGroup may wait: it has no id yet, so nothing else tells that its client
/// is gone, and a client that is not joins again.
const NEW_MEMBER_TIMEOUT_MS: i64 = 5 * 60 * 1000;

/// Ids that are given out and not joined with, in one partition. Each costs some hundred bytes; when
/// there are more the oldest is forgotten, and who comes back with it is given a new one.
const MAX_PENDING_IDS: usize = 10_000;

/// Of a client id in a member id: longer ones are cut, so that ids stay within what can be written.
const MAX_CLIENT_ID_BYTES: usize = 255;

/// More than a batch of one record is larger than the record's key and value.
const BATCH_OVERHEAD_BYTES: usize = 128;

/// Ids that were given out, oldest first; some of them are joined with or expired by now.
#[derive(Default)]
pub(super) struct PendingIds {
    given: VecDeque<(Arc<str>, Arc<str>)>,
}

/// What a step on one group needs beside the group.
pub(super) struct Step<'a> {
    pub now: Timestamp,
    pub settings: &'a GroupSettings,
    /// Largest record that the log takes.
    pub max_record_bytes: usize,
    pub timers: &'a mut Timers,
    pub outcome: &'a mut Outcome<GroupMachine>,
}

impl Step<'_> {
    fn after(&self, ms: i64) -> Timestamp {
        Timestamp(self.now.0.saturating_add(ms.max(0)))
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        self.outcome.answers.push((token, answer));
    }

    fn refuse_join(&mut self, token: Token, member_id: &str, error: ErrorCode) {
        self.answer(token, Answer::Join(join_error(member_id, error)));
    }

    fn refuse_sync(&mut self, token: Token, error: ErrorCode) {
        self.answer(token, Answer::Sync(sync_error(error)));
    }

    /// A member has shown that it lives.
    pub(super) fn heard_of(&mut self, group: &ClassicGroup, member: &Member) {
        let at = self.after(member.session_timeout_ms.into());
        self.timers.schedule(group.session_timer(&member.id), at);
    }
}

/// A JoinGroup that failed.
pub fn join_error(member_id: &str, error: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_member_id(text(member_id))
        .with_error_code(error.code())
        .with_generation_id(-1)
}

/// A SyncGroup that failed.
pub fn sync_error(error: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

/// The answer to a member that is in the group's generation. `leader`: who is said to lead.
fn joined(group: &ClassicGroup, member_id: &str, with_members: bool) -> JoinGroupResponse {
    let members = if with_members {
        group.members_for_leader()
    } else {
        Vec::new()
    };
    JoinGroupResponse::default()
        .with_generation_id(group.generation())
        .with_protocol_type(group.protocol_type().map(|name| text(name)))
        .with_protocol_name(group.protocol().map(|name| text(name)))
        .with_leader(group.leader().map(|id| text(id)).unwrap_or_default())
        .with_member_id(text(member_id))
        .with_members(members)
}

fn synced(group: &ClassicGroup, member: &Member) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_protocol_type(group.protocol_type().map(|name| text(name)))
        .with_protocol_name(group.protocol().map(|name| text(name)))
        .with_assignment(member.assignment.clone())
}

/// A member id: the client's or the instance's name and something nobody else has.
fn new_member_id(prefix: &str, random: u128) -> Arc<str> {
    let mut end = prefix.len().min(MAX_CLIENT_ID_BYTES);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let unique = uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid();
    format!("{}-{unique}", &prefix[..end]).into()
}

impl GroupMachine {
    /// Does `step` to the classic group of this id.
    fn with_classic<T>(
        &mut self,
        context: &Context<'_>,
        outcome: &mut Outcome<Self>,
        group_id: &str,
        step: impl FnOnce(&mut ClassicGroup, &mut Step<'_>) -> T,
    ) -> Option<T> {
        let Some(Group::Classic(group)) = self.groups.get_mut(group_id) else {
            return None;
        };
        let mut with = Step {
            now: context.now,
            settings: &context.settings.groups,
            max_record_bytes: context.settings.log_defaults.max_message_bytes as usize,
            timers: &mut self.timers,
            outcome,
        };
        Some(step(group, &mut with))
    }

    pub(super) fn join(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        join: Join,
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        let settings = &context.settings.groups;
        let request = &join.request;
        let group_id = request.group_id.as_str();
        let member_id = request.member_id.as_str();
        let is_new_member = member_id.is_empty();
        let session = request.session_timeout_ms;
        if !(settings.min_session_timeout_ms..=settings.max_session_timeout_ms).contains(&session) {
            let answer = join_error(member_id, ErrorCode::InvalidSessionTimeout);
            return Outcome::answer(token, Answer::Join(answer));
        }
        if let Some(outcome) = self.join_consumer_group(context, token, &join) {
            return outcome;
        }
        let cleared = match is_new_member {
            true => self.clear_empty_consumer_group(group_id),
            false => Vec::new(),
        };
        let is_new_group = !matches!(self.groups.get(group_id), Some(Group::Classic(_)));
        if is_new_group && !is_new_member {
            let answer = join_error(member_id, ErrorCode::UnknownMemberId);
            return Outcome::answer(token, Answer::Join(answer));
        }
        self.classic_or_new(group_id, context.now);
        let random = (context.random)();
        let given = self.with_classic(context, &mut outcome, group_id, |group, step| {
            group.join(step, token, &join, random)
        });
        if let Some(Some(id)) = given {
            self.remember_pending(group_id, id);
        }
        if is_new_group && outcome.records.is_empty() {
            // A group is on record from its first member on, also if that one was refused.
            let empty = ClassicGroup::new(group_id.into(), context.now);
            outcome.records.push(empty.record());
        }
        outcome.records.splice(0..0, cleared);
        outcome
    }

    /// Forgets the oldest of the ids that were given out when there are too many.
    fn remember_pending(&mut self, group_id: &str, member_id: Arc<str>) {
        let Some((group_id, _)) = self.groups.get_key_value(group_id) else {
            return;
        };
        self.pending_ids
            .given
            .push_back((group_id.clone(), member_id));
        if self.pending_ids.given.len() <= MAX_PENDING_IDS {
            return;
        }
        if let Some((group_id, member_id)) = self.pending_ids.given.pop_front()
            && let Some(Group::Classic(group)) = self.groups.get_mut(&group_id)
            && group.is_pending(&member_id)
        {
            group.remove(&member_id);
            self.timers.cancel(&group.session_timer(&member_id));
        }
    }

    pub(super) fn sync(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: &SyncGroupRequest,
    ) -> Outcome<Self> {
        if let Some(outcome) = self.sync_consumer_group(context, token, request) {
            return outcome;
        }
        let mut outcome = Outcome::default();
        let group_id = request.group_id.as_str();
        self.with_classic(context, &mut outcome, group_id, |group, step| {
            group.sync(step, token, request);
        })
        .unwrap_or_else(|| {
            let answer = Answer::Sync(sync_error(ErrorCode::UnknownMemberId));
            outcome.answers.push((token, answer));
        });
        outcome
    }

    pub(super) fn heartbeat(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: &HeartbeatRequest,
    ) -> Outcome<Self> {
        if let Some(outcome) = self.heartbeat_consumer_group(context, token, request) {
            return outcome;
        }
        let mut outcome = Outcome::default();
        let group_id = request.group_id.as_str();
        let code = self
            .with_classic(context, &mut outcome, group_id, |group, step| {
                group.heartbeat(step, request)
            })
            .unwrap_or(ErrorCode::UnknownMemberId);
        let answer = HeartbeatResponse::default().with_error_code(code.code());
        outcome.answers.push((token, Answer::Heartbeat(answer)));
        outcome
    }

    pub(super) fn leave(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: LeaveGroupRequest,
    ) -> Outcome<Self> {
        if let Some(outcome) = self.leave_consumer_group(context, token, &request) {
            return outcome;
        }
        let mut outcome = Outcome::default();
        let group_id = request.group_id.as_str();
        let members = self
            .with_classic(context, &mut outcome, group_id, |group, step| {
                group.leave(step, &request)
            })
            .unwrap_or_else(|| vec![ErrorCode::UnknownMemberId; request.members.len()]);
        let members = request.members.iter().zip(members).map(|(member, code)| {
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(code.code())
        });
        let answer = LeaveGroupResponse::default().with_members(members.collect());
        outcome.answers.push((token, Answer::Leave(answer)));
        outcome
    }

    pub(super) fn session_expired(
        &mut self,
        context: &mut Context<'_>,
        group_id: &Arc<str>,
        member_id: &Arc<str>,
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        self.with_classic(context, &mut outcome, group_id, |group, step| {
            group.session_expired(step, member_id);
        });
        outcome
    }

    pub(super) fn join_phase_expired(
        &mut self,
        context: &mut Context<'_>,
        group_id: &Arc<str>,
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        self.with_classic(context, &mut outcome, group_id, |group, step| {
            group.join_phase_expired(step);
        });
        outcome
    }

    pub(super) fn sync_phase_expired(
        &mut self,
        context: &mut Context<'_>,
        group_id: &Arc<str>,
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        self.with_classic(context, &mut outcome, group_id, |group, step| {
            group.sync_phase_expired(step);
        });
        outcome
    }

    /// The groups are there from the log: their members have a session's time to be heard of.
    pub(super) fn start_sessions(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        let max_size = context.settings.groups.max_size as usize;
        for group in self.groups.values_mut() {
            match group {
                Group::Classic(group) => {
                    let mut step = Step {
                        now: context.now,
                        settings: &context.settings.groups,
                        max_record_bytes: context.settings.log_defaults.max_message_bytes as usize,
                        timers: &mut self.timers,
                        outcome: &mut outcome,
                    };
                    for member in group.members() {
                        step.heard_of(group, member);
                    }
                    // The limit may have been lowered while the broker was down.
                    if group.member_count() > max_size {
                        group.prepare_rebalance(&mut step);
                    }
                }
                Group::Consumer(_) => {}
            }
        }
        outcome
    }
}

impl ClassicGroup {
    /// Returns the id that was given out, if the member is to come back with it.
    fn join(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        join: &Join,
        random: u128,
    ) -> Option<Arc<str>> {
        let request = &join.request;
        let member_id = request.member_id.as_str();
        let names = request.protocols.iter().map(|p| p.name.as_str());
        if !self.has_room_for(member_id, step.settings.max_size as usize) {
            self.remove(member_id);
            step.refuse_join(token, "", ErrorCode::GroupMaxSizeReached);
        } else if !self.supports(&request.protocol_type, names) {
            step.refuse_join(token, member_id, ErrorCode::InconsistentGroupProtocol);
        } else if member_id.is_empty() {
            return self.join_as_new(step, token, join, random);
        } else {
            self.join_as_known(step, token, join);
        }
        None
    }

    /// Whether a member may join: those who are in may come back as long as the group is not over its
    /// size, or was in time for it.
    fn has_room_for(&self, member_id: &str, max_size: usize) -> bool {
        let member = self.member(member_id);
        match self.state() {
            State::Empty => true,
            // Counted are those whose JoinGroup waits: the group may be above its size already, and
            // then whoever rejoins last has to go.
            State::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join() < max_size
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.member_count() < max_size
            }
        }
    }

    fn join_as_new(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        join: &Join,
        random: u128,
    ) -> Option<Arc<str>> {
        let request = &join.request;
        if let Some(instance_id) = &request.group_instance_id {
            let new_id = new_member_id(instance_id, random);
            match self.static_member(instance_id).cloned() {
                Some(old_id) => self.rejoin_static(step, token, join, &old_id, new_id),
                None => self.add_and_rebalance(step, token, join, new_id),
            }
            return None;
        }
        let new_id = new_member_id(&join.client_id, random);
        if join.version < MEMBER_ID_REQUIRED_SINCE {
            self.add_and_rebalance(step, token, join, new_id);
            return None;
        }
        self.pending_mut().insert(new_id.clone());
        let at = step.after(request.session_timeout_ms.into());
        step.timers.schedule(self.session_timer(&new_id), at);
        step.refuse_join(token, &new_id, ErrorCode::MemberIdRequired);
        Some(new_id)
    }

    fn join_as_known(&mut self, step: &mut Step<'_>, token: Token, join: &Join) {
        let request = &join.request;
        let member_id = request.member_id.as_str();
        let instance_id = request.group_instance_id.as_deref();
        if self.is_pending(member_id) {
            // Ids are only given to members that are not static.
            if instance_id.is_some() {
                return step.refuse_join(token, member_id, ErrorCode::UnknownServerError);
            }
            return self.add_and_rebalance(step, token, join, member_id.into());
        }
        let member = match self.check_member(member_id, instance_id) {
            Ok(member) => member,
            Err(code) => {
                let answer = join_error(member_id, code).with_protocol_name(None);
                return step.answer(token, Answer::Join(answer));
            }
        };
        let unchanged = member.protocols == protocols(&request.protocols);
        let is_leader = self.is_leader(member_id);
        match self.state() {
            State::PreparingRebalance => self.update_and_rebalance(step, token, join),
            // The answer to its first JoinGroup may have been lost: the generation is still the same.
            State::CompletingRebalance if unchanged => {
                let answer = joined(self, member_id, is_leader);
                step.answer(token, Answer::Join(answer));
            }
            // A leader that joins again wants to assign anew: something else than members changed.
            State::Stable if unchanged && !is_leader => {
                let answer = joined(self, member_id, false);
                step.answer(token, Answer::Join(answer));
            }
            State::CompletingRebalance | State::Stable => {
                self.update_and_rebalance(step, token, join);
            }
            State::Empty => step.refuse_join(token, member_id, ErrorCode::UnknownMemberId),
        }
    }

    fn add_and_rebalance(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        join: &Join,
        member_id: Arc<str>,
    ) {
        let request = &join.request;
        if self.is_first_rebalance() {
            self.member_added = true;
        }
        let member = Member {
            id: member_id.clone(),
            instance_id: request.group_instance_id.as_deref().map(Arc::from),
            client_id: join.client_id.as_str().into(),
            client_host: join.client_host.as_str().into(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols(&request.protocols),
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
        };
        self.add(member, &request.protocol_type);
        let at = step.after(NEW_MEMBER_TIMEOUT_MS);
        step.timers.schedule(self.session_timer(&member_id), at);
        self.rebalance_or_complete(step);
    }

    fn update_and_rebalance(&mut self, step: &mut Step<'_>, token: Token, join: &Join) {
        self.take_in(step, token, join, &join.request.member_id);
        self.rebalance_or_complete(step);
    }

    /// A member's JoinGroup waits from here on. One that waited before will never be read: its client
    /// has given it up.
    fn take_in(&mut self, step: &mut Step<'_>, token: Token, join: &Join, member_id: &str) {
        let request = &join.request;
        let before = self.update(
            member_id,
            protocols(&request.protocols),
            request.rebalance_timeout_ms,
            request.session_timeout_ms,
            token,
        );
        if let Some(before) = before {
            step.refuse_join(before, member_id, ErrorCode::UnknownMemberId);
        }
    }

    /// A static member comes back without its id: another process, or the same one restarted.
    fn rejoin_static(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        join: &Join,
        old_id: &Arc<str>,
        new_id: Arc<str>,
    ) {
        let old_leader = self.leader().cloned();
        let Some(old) = self.replace_static(old_id, new_id.clone()) else {
            return step.refuse_join(token, "", ErrorCode::UnknownMemberId);
        };
        // Whoever still speaks under the old id is told that another one took its place.
        if let Some(token) = old.awaiting_join {
            let answer = join_error(old_id, ErrorCode::FencedInstanceId).with_protocol_name(None);
            step.answer(token, Answer::Join(answer));
        }
        if let Some(token) = old.awaiting_sync {
            step.refuse_sync(token, ErrorCode::FencedInstanceId);
        }
        step.timers.cancel(&self.session_timer(old_id));
        let was_awaited = self.pending_sync_mut().remove(old_id);
        if let Some(member) = self.member(&new_id) {
            step.heard_of(self, member);
        }
        self.take_in(step, token, join, &new_id);
        match self.state() {
            State::Stable if self.choose_protocol().as_ref() == self.protocol() => {
                // Nothing changes but the id: the others need not know.
                if was_awaited {
                    self.pending_sync_mut().insert(new_id.clone());
                }
                self.take_join(&new_id);
                step.outcome.records.push(self.record());
                let is_leader = self.is_leader(&new_id);
                let answer = if join.version >= SKIP_ASSIGNMENT_SINCE {
                    joined(self, &new_id, is_leader).with_skip_assignment(is_leader)
                } else {
                    // It could not be told to leave the assignment as it is, so it must not learn that
                    // it leads.
                    let leader = old_leader.map(|id| text(&id)).unwrap_or_default();
                    joined(self, &new_id, false).with_leader(leader)
                };
                step.answer(token, Answer::Join(answer));
            }
            State::Stable => self.rebalance_or_complete(step),
            // The leader may be assigning to the old id at this moment.
            State::CompletingRebalance => self.prepare_rebalance(step),
            State::PreparingRebalance | State::Empty => self.complete_if_all_joined(step),
        }
    }

    fn rebalance_or_complete(&mut self, step: &mut Step<'_>) {
        match self.state() {
            State::Empty | State::CompletingRebalance | State::Stable => {
                self.prepare_rebalance(step);
            }
            State::PreparingRebalance => self.complete_if_all_joined(step),
        }
    }

    fn complete_if_all_joined(&mut self, step: &mut Step<'_>) {
        let preparing = self.state() == State::PreparingRebalance;
        if preparing && !self.is_first_rebalance() && self.has_all_joined() {
            self.complete_join(step);
        }
    }

    /// Everybody is to join.
    pub(super) fn prepare_rebalance(&mut self, step: &mut Step<'_>) {
        if self.state() == State::CompletingRebalance {
            self.reset_assignments(step, ErrorCode::RebalanceInProgress);
        }
        self.pending_sync_mut().clear();
        step.timers.cancel(&self.sync_timer());
        let is_first = self.is_empty();
        self.enter(State::PreparingRebalance, step.now);
        if is_first {
            // A new group: others are likely to come in a moment.
            let delay = i64::from(step.settings.initial_rebalance_delay_ms);
            self.initial_delay_ms = delay;
            self.initial_delay_left_ms = (i64::from(self.rebalance_timeout_ms()) - delay).max(0);
            let at = step.after(delay);
            step.timers.schedule(self.join_timer(), at);
        } else if self.has_all_joined() {
            self.complete_join(step);
        } else {
            let at = step.after(self.rebalance_timeout_ms().into());
            step.timers.schedule(self.join_timer(), at);
        }
    }

    fn join_phase_expired(&mut self, step: &mut Step<'_>) {
        if self.state() != State::PreparingRebalance {
            return;
        }
        if self.is_first_rebalance() && self.member_added && self.initial_delay_left_ms != 0 {
            self.member_added = false;
            let left = self.initial_delay_left_ms;
            let delay = left.min(step.settings.initial_rebalance_delay_ms.into());
            self.initial_delay_left_ms = (left - self.initial_delay_ms).max(0);
            self.initial_delay_ms = delay;
            let at = step.after(delay);
            step.timers.schedule(self.join_timer(), at);
            return;
        }
        self.complete_join(step);
    }

    /// The join phase is over. Who did not join is out, unless it is a static member.
    fn complete_join(&mut self, step: &mut Step<'_>) {
        step.timers.cancel(&self.join_timer());
        self.member_added = false;
        let late: Vec<Arc<str>> = self
            .members()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in late {
            self.remove(&id);
            step.timers.cancel(&self.session_timer(&id));
        }
        if !self.elect_joined_leader() && self.member_count() > 0 {
            // Only static members are left, and none of them has joined: their sessions will end.
            let at = step.after(self.rebalance_timeout_ms().into());
            step.timers.schedule(self.join_timer(), at);
            return;
        }
        self.next_generation(step.now);
        if self.is_empty() {
            step.outcome.records.push(self.record());
            return;
        }
        let ids: Vec<Arc<str>> = self.members().map(|member| member.id.clone()).collect();
        for id in ids {
            if let Some(token) = self.take_join(&id) {
                let answer = joined(self, &id, self.is_leader(&id));
                step.answer(token, Answer::Join(answer));
            }
            if let Some(member) = self.member_mut(&id) {
                member.is_new = false;
            }
            if let Some(member) = self.member(&id) {
                step.heard_of(self, member);
            }
            self.pending_sync_mut().insert(id);
        }
        let at = step.after(self.rebalance_timeout_ms().into());
        step.timers.schedule(self.sync_timer(), at);
    }

    fn sync(&mut self, step: &mut Step<'_>, token: Token, request: &SyncGroupRequest) {
        let member_id = request.member_id.as_str();
        if self.is_empty() {
            return step.refuse_sync(token, ErrorCode::UnknownMemberId);
        }
        if let Err(code) = self.check_sync(request) {
            return step.refuse_sync(token, code);
        }
        match self.state() {
            State::Empty => step.refuse_sync(token, ErrorCode::UnknownMemberId),
            State::PreparingRebalance => step.refuse_sync(token, ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                self.synced_by(step, member_id);
                let before = self
                    .member_mut(member_id)
                    .and_then(|member| member.awaiting_sync.replace(token));
                if let Some(before) = before {
                    step.refuse_sync(before, ErrorCode::UnknownMemberId);
                }
                if self.is_leader(member_id) {
                    self.assign(step, request);
                }
            }
            State::Stable => {
                self.synced_by(step, member_id);
                if let Some(member) = self.member(member_id) {
                    let answer = synced(self, member);
                    step.answer(token, Answer::Sync(answer));
                }
            }
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |said: &Option<StrBytes>, is: Option<&Arc<str>>| {
            said.as_ref()
                .is_some_and(|said| is.is_none_or(|is| **is != **said))
        };
        if differs(&request.protocol_type, self.protocol_type())
            || differs(&request.protocol_name, self.protocol())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn synced_by(&mut self, step: &mut Step<'_>, member_id: &str) {
        self.pending_sync_mut().remove(member_id);
        if self.pending_sync().is_empty() {
            step.timers.cancel(&self.sync_timer());
        }
    }

    /// The leader has assigned: the group is stable, and on record.
    fn assign(&mut self, step: &mut Step<'_>, request: &SyncGroupRequest) {
        let given: BTreeMap<&str, &Bytes> = request
            .assignments
            .iter()
            .map(|assigned| (assigned.member_id.as_str(), &assigned.assignment))
            .collect();
        for member in self.members_mut() {
            let assignment = given.get(&*member.id);
            member.assignment = assignment.map_or_else(Bytes::new, |a| Bytes::copy_from_slice(a));
        }
        let record = self.record();
        let value_bytes = record.value.as_ref().map_or(0, Bytes::len);
        if record.key.len() + value_bytes + BATCH_OVERHEAD_BYTES > step.max_record_bytes {
            // It cannot be kept: everybody is told, and has to try again.
            self.reset_assignments(step, ErrorCode::UnknownServerError);
            return self.rebalance_or_complete(step);
        }
        step.outcome.records.push(record);
        self.enter(State::Stable, step.now);
        self.answer_syncs(step, ErrorCode::None);
    }

    fn reset_assignments(&mut self, step: &mut Step<'_>, error: ErrorCode) {
        for member in self.members_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(step, error);
    }

    /// Answers the SyncGroups that wait, each with its member's assignment or all with an error. The
    /// members' sessions start anew: they did not count while the requests waited.
    fn answer_syncs(&mut self, step: &mut Step<'_>, error: ErrorCode) {
        let waiting: Vec<(Arc<str>, Token)> = self
            .members_mut()
            .filter_map(|member| Some((member.id.clone(), member.awaiting_sync.take()?)))
            .collect();
        for (id, token) in waiting {
            let Some(member) = self.member(&id) else {
                continue;
            };
            let answer = if error.is_none() {
                synced(self, member)
            } else {
                sync_error(error)
            };
            step.answer(token, Answer::Sync(answer));
            step.heard_of(self, member);
        }
    }

    fn sync_phase_expired(&mut self, step: &mut Step<'_>) {
        let due = matches!(self.state(), State::CompletingRebalance | State::Stable);
        if !due || self.pending_sync().is_empty() {
            return;
        }
        let late: Vec<Arc<str>> = self.pending_sync().iter().cloned().collect();
        for id in late {
            self.remove(&id);
            step.timers.cancel(&self.session_timer(&id));
        }
        self.prepare_rebalance(step);
    }

    fn heartbeat(&mut self, step: &mut Step<'_>, request: &HeartbeatRequest) -> ErrorCode {
        let instance_id = request.group_instance_id.as_deref();
        let member = match self.check_member(&request.member_id, instance_id) {
            Ok(member) => member,
            Err(code) => return code,
        };
        if request.generation_id != self.generation() {
            return ErrorCode::IllegalGeneration;
        }
        step.heard_of(self, member);
        match self.state() {
            State::Empty => ErrorCode::UnknownMemberId,
            State::PreparingRebalance => ErrorCode::RebalanceInProgress,
            State::CompletingRebalance | State::Stable => ErrorCode::None,
        }
    }

    /// One code for each of the request's members.
    fn leave(&mut self, step: &mut Step<'_>, request: &LeaveGroupRequest) -> Vec<ErrorCode> {
        let mut codes = Vec::with_capacity(request.members.len());
        for leaving in &request.members {
            let instance_id = leaving.group_instance_id.as_deref();
            let id = leaving.member_id.as_str();
            let code = if id.is_empty() {
                // An administrator removes a static member by its instance id.
                let id = instance_id.and_then(|id| self.static_member(id)).cloned();
                match id {
                    Some(id) => {
                        self.dismiss(step, &id);
                        ErrorCode::None
                    }
                    None => ErrorCode::UnknownMemberId,
                }
            } else if self.is_pending(id) {
                self.dismiss(step, id);
                ErrorCode::None
            } else {
                match self.check_member(id, instance_id) {
                    Ok(_) => {
                        self.dismiss(step, id);
                        ErrorCode::None
                    }
                    Err(code) => code,
                }
            };
            codes.push(code);
        }
        if codes.contains(&ErrorCode::None) {
            match self.state() {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete(step),
                State::PreparingRebalance => self.complete_if_all_joined(step),
                State::Empty => {}
            }
        }
        codes
    }

    /// Takes a member out. If its JoinGroup waits it is told to begin again, in case it is still there.
    fn dismiss(&mut self, step: &mut Step<'_>, id: &str) {
        step.timers.cancel(&self.session_timer(&id.into()));
        if let Some(member) = self.remove(id) {
            if let Some(token) = member.awaiting_join {
                step.refuse_join(token, "", ErrorCode::UnknownMemberId);
            }
            if let Some(token) = member.awaiting_sync {
                step.refuse_sync(token, ErrorCode::UnknownMemberId);
            }
        }
    }

    fn session_expired(&mut self, step: &mut Step<'_>, member_id: &Arc<str>) {
        if self.is_pending(member_id) {
            self.remove(member_id);
            if self.state() == State::PreparingRebalance && self.has_all_joined() {
                self.complete_join(step);
            }
            return;
        }
        let lost = self
            .member(member_id)
            .is_some_and(|member| !member.is_alive_without_heartbeat());
        if !lost {
            return;
        }
        self.dismiss(step, member_id);
        match self.state() {
            State::Stable | State::CompletingRebalance => self.rebalance_or_complete(step),
            State::PreparingRebalance if self.has_all_joined() => self.complete_join(step),
            State::PreparingRebalance | State::Empty => {}
        }
    }

    /// What a commit shows: a member that commits is alive. Not while the group waits for its leader.
    pub(super) fn committed_by(&self, step_timers: &mut Timers, now: Timestamp, member_id: &str) {
        let counts = matches!(self.state(), State::Stable | State::PreparingRebalance);
        if let (true, Some(member)) = (counts, self.member(member_id)) {
            let session = i64::from(member.session_timeout_ms);
            let timer: Timer = self.session_timer(&member.id);
            step_timers.schedule(timer, Timestamp(now.0.saturating_add(session)));
        }
    }
}
