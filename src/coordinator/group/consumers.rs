//! Consumer groups of the new protocol within the machine: requests find their group, which may have to
//! change its kind first; [`super::consumer`] has the rules.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::ask::{ConsumerHeartbeat, Join};
use super::classic::ClassicGroup;
use super::consumer::heartbeat::{self, Client, Fenced};
use super::consumer::member::Member;
use super::consumer::{self, ConsumerGroup, ConsumerRecord, Env, Refusal, Soft, classic, convert};
use super::rebalance::{Step, join_error, sync_error};
use super::record;
use super::{Answer, Group, GroupMachine, text};
use crate::base::Timestamp;
use crate::coordinator::{Context, CoordinatorRecord, Outcome, Token, Unreadable};
use crate::protocol::ErrorCode;

/// What a step reads beside the groups.
fn env<'a>(context: &'a mut Context<'_>, soft: &'a mut Soft) -> Env<'a> {
    Env {
        now: context.now,
        image: context.image,
        settings: context.settings,
        random: &mut *context.random,
        soft,
    }
}

fn not_a_consumer_group<T>(id: &str) -> Result<T, Refusal> {
    Err(Refusal::new(
        ErrorCode::GroupIdNotFound,
        format!("Group {id} is not a consumer group."),
    ))
}

fn consumer_group<'a>(
    groups: &'a BTreeMap<Arc<str>, Group>,
    id: &str,
) -> Result<&'a ConsumerGroup, Refusal> {
    match groups.get(id) {
        None => Err(consumer::not_found(id)),
        Some(Group::Consumer(group)) => Ok(group),
        Some(Group::Classic(_)) => not_a_consumer_group(id),
    }
}

fn heartbeat_error(refusal: Refusal) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(refusal.error.code())
        .with_error_message(Some(text(&refusal.message)))
}

impl GroupMachine {
    /// A record of a consumer group.
    pub(super) fn apply_consumer(&mut self, record: &CoordinatorRecord) -> Result<(), Unreadable> {
        let record = ConsumerRecord::decode(&record.key, record.value.as_deref())?;
        let id = record.group_id.clone();
        let there = match self.groups.get(&id) {
            Some(Group::Consumer(_)) => true,
            Some(Group::Classic(group)) if group.only_keeps_offsets() => false,
            Some(Group::Classic(_)) if record.is_tombstone() => return Ok(()),
            Some(Group::Classic(_)) => {
                return Err(Unreadable(format!("group {id} is a classic group")));
            }
            None => false,
        };
        if !there {
            if record.is_tombstone() {
                return Ok(());
            }
            // A group that only kept offsets is not on record itself.
            self.remove_group(&id);
            let group = ConsumerGroup::new(id.clone());
            self.groups.insert(id.clone(), Group::Consumer(group));
        }
        let Some(Group::Consumer(group)) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        if !group.apply(record, &mut self.consumers)? {
            self.groups.remove(&id);
        }
        Ok(())
    }

    pub(super) fn consumer_heartbeat(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        ask: &ConsumerHeartbeat,
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        let answer = self.try_heartbeat(context, ask, &mut outcome);
        let answer = answer.unwrap_or_else(|refusal| {
            // Nothing that was prepared counts, and the topics have yet to be looked at.
            outcome = Outcome::default();
            self.consumers.fresh.remove(ask.request.group_id.as_str());
            heartbeat_error(refusal)
        });
        let answer = Answer::ConsumerHeartbeat(answer);
        outcome.answers.push((token, answer));
        outcome
    }

    fn try_heartbeat(
        &mut self,
        context: &mut Context<'_>,
        ask: &ConsumerHeartbeat,
        outcome: &mut Outcome<Self>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let request = &ask.request;
        let id: Arc<str> = request.group_id.as_str().into();
        let client = Client {
            id: &ask.client_id,
            host: &ask.client_host,
        };
        let assignors = heartbeat::assignors(&context.settings.consumer_groups.assignors);
        heartbeat::validate(request, ask.version, &assignors)?;
        if request.member_epoch < 0 {
            let group = consumer_group(&self.groups, &id)?;
            let env = &mut env(context, &mut self.consumers);
            let (fenced, answer) = heartbeat::leave(env, group, request)?;
            self.finish_fencing(context, &id, fenced, outcome);
            return Ok(answer);
        }
        let joins = request.member_epoch == 0;
        let made;
        let mut records = Vec::new();
        let env = &mut env(context, &mut self.consumers);
        let group = match self.groups.get(&id) {
            Some(Group::Consumer(group)) => group,
            None if !joins => return Err(consumer::not_found(&id)),
            None => {
                made = ConsumerGroup::new(id.clone());
                &made
            }
            Some(Group::Classic(_)) if !joins => return not_a_consumer_group(&id),
            Some(Group::Classic(group)) if group.is_empty() => {
                records.push(record::group_tombstone(&id));
                made = ConsumerGroup::new(id.clone());
                &made
            }
            Some(Group::Classic(group)) => {
                convert::check_upgrade(env, group)?;
                made = convert::from_classic(group, env.image, &mut env.soft.hashes)?;
                records.push(record::group_tombstone(&id));
                made.to_records(&mut records);
                heartbeat::start_timers(env, &made);
                // Whoever waits in it is to join the group that it becomes.
                let error = ErrorCode::RebalanceInProgress;
                for member in group.members() {
                    if let Some(token) = member.awaiting_join {
                        let answer = Answer::Join(join_error(&member.id, error));
                        outcome.answers.push((token, answer));
                    }
                    if let Some(token) = member.awaiting_sync {
                        let answer = Answer::Sync(sync_error(error));
                        outcome.answers.push((token, answer));
                    }
                }
                &made
            }
        };
        let (records, answer) = heartbeat::heartbeat(env, group, records, request, client)?;
        outcome.records = records;
        Ok(answer)
    }

    /// What taking out members came to.
    fn finish_fencing(
        &mut self,
        context: &Context<'_>,
        id: &Arc<str>,
        fenced: Fenced,
        outcome: &mut Outcome<Self>,
    ) {
        match fenced {
            Fenced::Goes(records) => outcome.records.extend(records),
            Fenced::Downgrades { leaving } => {
                self.downgrade(context, id, &leaving, None, true, outcome);
            }
        }
    }

    /// The group becomes a classic one, once the records are applied.
    fn downgrade(
        &mut self,
        context: &Context<'_>,
        id: &Arc<str>,
        leaving: &BTreeMap<Arc<str>, Rc<Member>>,
        joining: Option<&Member>,
        rebalance: bool,
        outcome: &mut Outcome<Self>,
    ) {
        let Some(Group::Consumer(group)) = self.groups.get(id) else {
            return;
        };
        let replaced = joining.and_then(|joining| {
            let replaced = group.static_member(joining.instance_id.as_deref()?)?;
            Some((&replaced.id, &joining.id))
        });
        group.tombstones(replaced, &mut outcome.records);
        let now = context.now;
        let mut made = convert::to_classic(group, leaving, joining, rebalance, now, context.image);
        outcome.records.push(match rebalance {
            false => made.record(),
            true => made.record_of_the_next_generation(),
        });
        for member in group.members.keys() {
            self.consumers.cancel_timers(id, member);
        }
        let mut step = Step {
            now: context.now,
            settings: &context.settings.groups,
            max_record_bytes: context.settings.log_defaults.max_message_bytes as usize,
            timers: &mut self.timers,
            outcome,
        };
        for member in made.members() {
            step.heard_of(&made, member);
        }
        if rebalance {
            made.prepare_rebalance(&mut step);
        }
        self.downgraded.insert(id.clone(), made);
    }

    /// The classic group that the record of one stands for, if it was a consumer group until now.
    pub(super) fn take_downgraded(&mut self, id: &str) -> Option<ClassicGroup> {
        self.downgraded.remove(id)
    }

    /// JoinGroup to a consumer group that has members. `None`: there is none.
    pub(super) fn join_consumer_group(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        join: &Join,
    ) -> Option<Outcome<Self>> {
        let request = &join.request;
        let id: Arc<str> = request.group_id.as_str().into();
        let group = match self.groups.get(&id) {
            Some(Group::Consumer(group)) if !group.is_empty() => group,
            _ => return None,
        };
        let client = Client {
            id: &join.client_id,
            host: &join.client_host,
        };
        let env = &mut env(context, &mut self.consumers);
        let mut outcome = Outcome::default();
        let answer = match classic::join(env, group, request, join.version, client) {
            Err(refusal) => {
                env.soft.fresh.remove(&id);
                join_error(&request.member_id, refusal.error)
            }
            Ok(joined) => {
                outcome.records = joined.records;
                if let Some(downgrade) = joined.downgrade {
                    let (joining, rebalance) = (downgrade.joining, downgrade.rebalance);
                    let none = BTreeMap::new();
                    self.downgrade(context, &id, &none, Some(&joining), rebalance, &mut outcome);
                }
                joined.response
            }
        };
        outcome.answers.push((token, Answer::Join(answer)));
        Some(outcome)
    }

    /// A consumer group without members makes place for a classic one. Gives the records that take it
    /// back.
    pub(super) fn clear_empty_consumer_group(&mut self, id: &str) -> Vec<CoordinatorRecord> {
        let mut records = Vec::new();
        if let Some(Group::Consumer(group)) = self.groups.get(id)
            && group.is_empty()
        {
            group.tombstones(None, &mut records);
            self.consumers.forget_group(&group.id);
            self.groups.remove(id);
        }
        records
    }

    pub(super) fn sync_consumer_group(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: &SyncGroupRequest,
    ) -> Option<Outcome<Self>> {
        let Some(Group::Consumer(group)) = self.groups.get(request.group_id.as_str()) else {
            return None;
        };
        let env = &mut env(context, &mut self.consumers);
        let answer = match group.is_empty() {
            true => sync_error(ErrorCode::UnknownMemberId),
            false => classic::sync(env, group, request)
                .unwrap_or_else(|refusal| sync_error(refusal.error)),
        };
        Some(Outcome::answer(token, Answer::Sync(answer)))
    }

    pub(super) fn heartbeat_consumer_group(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: &HeartbeatRequest,
    ) -> Option<Outcome<Self>> {
        let Some(Group::Consumer(group)) = self.groups.get(request.group_id.as_str()) else {
            return None;
        };
        let env = &mut env(context, &mut self.consumers);
        let code = classic::heartbeat(env, group, request).unwrap_or_else(|refusal| refusal.error);
        let answer = HeartbeatResponse::default().with_error_code(code.code());
        Some(Outcome::answer(token, Answer::Heartbeat(answer)))
    }

    pub(super) fn leave_consumer_group(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        request: &LeaveGroupRequest,
    ) -> Option<Outcome<Self>> {
        let id: Arc<str> = request.group_id.as_str().into();
        let Some(Group::Consumer(group)) = self.groups.get(&id) else {
            return None;
        };
        let env = &mut env(context, &mut self.consumers);
        let (fenced, answer) = classic::leave(env, group, request);
        let mut outcome = Outcome::answer(token, Answer::Leave(answer));
        self.finish_fencing(context, &id, fenced, &mut outcome);
        Some(outcome)
    }

    pub(super) fn describe_consumer_groups(
        &self,
        context: &Context<'_>,
        token: Token,
        ids: &[StrBytes],
    ) -> Outcome<Self> {
        let assignors = heartbeat::assignors(&context.settings.consumer_groups.assignors);
        let default = assignors
            .first()
            .map_or("uniform", |assignor| assignor.name());
        let described = ids.iter().map(|id| match consumer_group(&self.groups, id) {
            Ok(group) => group.describe(default, context.image),
            Err(refusal) => {
                not_described(id, refusal.error).with_error_message(Some(text(&refusal.message)))
            }
        });
        Outcome::answer(token, Answer::ConsumerDescribe(described.collect()))
    }

    /// Groups are there from the log: their members have a session's time to be heard of.
    pub(super) fn start_consumer_groups(&mut self, context: &mut Context<'_>) {
        let env = &mut env(context, &mut self.consumers);
        env.soft.topics_created_version = env.image.version();
        for group in self.groups.values() {
            if let Group::Consumer(group) = group {
                heartbeat::start_timers(env, group);
            }
        }
    }

    /// When [`Self::expire_consumers`] wants to be called next.
    pub(super) fn consumers_deadline(&self) -> Option<Timestamp> {
        match self.consumers.resolutions.is_empty() {
            // There is work to go on with.
            false => Some(Timestamp(0)),
            true => self.consumers.timers.next(),
        }
    }

    /// One step of what is due. `None`: nothing is.
    pub(super) fn expire_consumers(&mut self, context: &mut Context<'_>) -> Option<Outcome<Self>> {
        let mut outcome = Outcome::default();
        let now = context.now;
        if let Some(((id, member, timer), epoch)) = self.consumers.timers.take_due(now) {
            let env = &mut env(context, &mut self.consumers);
            if let Some(Group::Consumer(group)) = self.groups.get(&id)
                && let Some(fenced) = heartbeat::expire(env, group, &member, timer, epoch)
            {
                self.finish_fencing(context, &id, fenced, &mut outcome);
            }
            return Some(outcome);
        }
        let mut resolution = self.consumers.resolutions.first_entry()?;
        if !resolution.get_mut().step(context.image) {
            return Some(outcome);
        }
        let (id, resolution) = resolution.remove_entry();
        if let Some(Group::Consumer(group)) = self.groups.get(&id) {
            let env = &mut env(context, &mut self.consumers);
            outcome.records = heartbeat::resolved(env, group, resolution.finish());
        }
        Some(outcome)
    }
}

/// A group of which nothing can be told.
pub fn not_described(id: &StrBytes, code: ErrorCode) -> DescribedGroup {
    DescribedGroup::default()
        .with_group_id(GroupId(id.clone()))
        .with_error_code(code.code())
}

#[cfg(test)]
mod tests;
