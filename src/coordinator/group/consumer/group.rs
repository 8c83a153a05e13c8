//! What is on record of a consumer group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use super::Refusal;
use super::assignor::Subscriptions;
use super::member::{LEAVE_GROUP_EPOCH, Member, Owned, Text};
use super::record::{
    Body, ConsumerRecord, CurrentMember, GroupMetadata, MemberMetadata, Partitions, TargetMetadata,
};
use super::regex::ResolvedRegex;
use super::soft::Soft;
use crate::base::{Timestamp, TopicId};
use crate::coordinator::{CoordinatorRecord, Unreadable};
use crate::metadata::Image;
use crate::protocol::messages::consumer_group_describe_response as describe;
use crate::protocol::messages::{GroupId, TopicName};
use crate::protocol::{ErrorCode, StrBytes, uuid};

/// Kafka's names of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    /// The target is older than the group.
    Assigning,
    /// Not every member has come to its target.
    Reconciling,
    Stable,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How many subscribe to a topic: members by its name, expressions by matching it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribers {
    pub by_name: usize,
    pub by_regex: usize,
}

/// A consumer group. Changes by [`Self::apply`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroup {
    pub id: Text,
    /// Raised when an assignment is due.
    pub epoch: i32,
    pub metadata_hash: i64,
    pub members: BTreeMap<Text, Rc<Member>>,
    /// Member ids by instance id.
    pub static_members: BTreeMap<Text, Text>,
    /// What members and expressions are subscribed to.
    pub topics: BTreeMap<Text, Subscribers>,
    /// Members by the assignor they want.
    pub server_assignors: BTreeMap<Text, usize>,
    /// The member epoch of a partition's owner.
    partition_epochs: BTreeMap<TopicId, BTreeMap<i32, i32>>,
    /// Members by expression.
    pub regexes: BTreeMap<Text, usize>,
    pub resolved: BTreeMap<Text, ResolvedRegex>,
    pub target: BTreeMap<Text, Rc<Partitions>>,
    /// -1 once its record was taken back.
    pub target_epoch: i32,
    /// When the target was computed; 0 if unknown.
    pub target_timestamp: Timestamp,
    pub classic_members: usize,
    /// Classic members by a protocol they support.
    pub classic_protocols: BTreeMap<Text, usize>,
    /// Whether a record of before Kafka 4.1 is to be taken back.
    pub has_partition_metadata: bool,
}

fn add<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K) {
    *counts.entry(key.clone()).or_default() += 1;
}

fn subtract<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl ConsumerGroup {
    pub fn new(id: Text) -> Self {
        Self {
            id,
            epoch: 1,
            metadata_hash: 0,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            topics: BTreeMap::new(),
            server_assignors: BTreeMap::new(),
            partition_epochs: BTreeMap::new(),
            regexes: BTreeMap::new(),
            resolved: BTreeMap::new(),
            target: BTreeMap::new(),
            target_epoch: 1,
            target_timestamp: Timestamp(0),
            classic_members: 0,
            classic_protocols: BTreeMap::new(),
            has_partition_metadata: false,
        }
    }

    /// Counts the members, so it takes time in their number.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.target_epoch {
            GroupState::Assigning
        } else if self
            .members
            .values()
            .all(|member| member.is_reconciled_to(self.target_epoch))
        {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    pub fn member(&self, id: &str) -> Result<&Rc<Member>, Refusal> {
        self.members.get(id).ok_or_else(|| {
            let message = format!("Member {id} is not a member of group {}.", self.id);
            Refusal::new(ErrorCode::UnknownMemberId, message)
        })
    }

    pub fn static_member(&self, instance_id: &str) -> Option<&Rc<Member>> {
        self.members.get(self.static_members.get(instance_id)?)
    }

    /// What a member should own. A static member takes over from the one it replaces.
    pub fn target_of(&self, member: &Member) -> Rc<Partitions> {
        let id = match &member.instance_id {
            Some(instance) => self.static_members.get(instance),
            None => Some(&member.id),
        };
        id.and_then(|id| self.target.get(id))
            .cloned()
            .unwrap_or_default()
    }

    /// The member epoch of a partition's owner. `None`: nobody holds it.
    pub fn partition_epoch(&self, topic: TopicId, partition: i32) -> Option<i32> {
        self.partition_epochs.get(&topic)?.get(&partition).copied()
    }

    /// The assignor that most members want, if any wants one.
    pub fn preferred_assignor(
        &self,
        before: Option<&Member>,
        after: Option<&Member>,
    ) -> Option<Text> {
        let mut counts = self.server_assignors.clone();
        if let Some(name) = before.and_then(|m| m.server_assignor.as_ref()) {
            subtract(&mut counts, name);
        }
        if let Some(name) = after.and_then(|m| m.server_assignor.as_ref()) {
            add(&mut counts, name);
        }
        // Of those that as many want, the last by name.
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name)
    }

    /// Members by expression, with `after` in place of `before`.
    pub fn regexes_after(
        &self,
        before: Option<&Member>,
        after: Option<&Member>,
    ) -> BTreeMap<Text, usize> {
        let mut counts = self.regexes.clone();
        if let Some(regex) = before.and_then(Member::regex) {
            subtract(&mut counts, regex);
        }
        if let Some(regex) = after.and_then(Member::regex) {
            add(&mut counts, regex);
        }
        counts
    }

    /// Subscribers by topic, without the members of `before`, which are members of this group, and
    /// without `regexes`, which nobody uses any more, but with `after`.
    pub fn topics_after<'a>(
        &self,
        before: impl Iterator<Item = &'a Member>,
        after: Option<&Member>,
        regexes: impl Iterator<Item = &'a Text>,
    ) -> BTreeMap<Text, Subscribers> {
        let mut topics = self.topics.clone();
        for member in before {
            for topic in member.subscribed_topics.iter() {
                change(&mut topics, topic, |s| {
                    s.by_name = s.by_name.saturating_sub(1)
                });
            }
        }
        for topic in after.iter().flat_map(|m| m.subscribed_topics.iter()) {
            change(&mut topics, topic, |s| s.by_name += 1);
        }
        for resolved in regexes.filter_map(|regex| self.resolved.get(regex)) {
            for topic in resolved.topics.iter() {
                change(&mut topics, topic, |s| {
                    s.by_regex = s.by_regex.saturating_sub(1)
                });
            }
        }
        topics
    }

    /// Whether all members have the same subscription.
    pub fn subscriptions(
        regexes: &BTreeMap<Text, usize>,
        topics: &BTreeMap<Text, Subscribers>,
        members: usize,
    ) -> Subscriptions {
        let alike = match regexes.values().next() {
            None => topics.values().all(|s| s.by_name == members),
            Some(count) if *count == members => {
                topics.values().all(|s| s.by_regex == 1 && s.by_name == 0)
            }
            Some(_) => false,
        };
        match alike {
            true => Subscriptions::Homogeneous,
            false => Subscriptions::Heterogeneous,
        }
    }

    /// Topics a member is subscribed to, by name and by expression. An expression that was not evaluated
    /// yet matches nothing.
    pub fn subscribed_ids(&self, member: &Member, image: &Image) -> BTreeSet<TopicId> {
        let by_regex = member.regex().and_then(|regex| self.resolved.get(regex));
        let by_regex = by_regex.into_iter().flat_map(|r| r.topics.iter());
        let names = member.subscribed_topics.iter().chain(by_regex);
        names.filter_map(|name| image.topic_id(name)).collect()
    }

    /// Whether a classic member with these protocols could be in the group.
    pub fn supports_classic_protocols(
        &self,
        protocol_type: &str,
        protocols: &BTreeSet<&str>,
    ) -> bool {
        if protocol_type != super::classic::PROTOCOL_TYPE {
            return false;
        }
        if self.is_empty() {
            return !protocols.is_empty();
        }
        protocols.iter().any(|name| {
            let supporting = self.classic_protocols.get(*name).copied().unwrap_or(0);
            supporting == self.classic_members
        })
    }

    /// Whether only classic members are left without those in `leaving`, at least one.
    pub fn only_classic_without(&self, leaving: &BTreeMap<Text, Rc<Member>>) -> bool {
        let classic_leaving = leaving.values().filter(|m| m.classic.is_some()).count();
        let left = self.members.len().saturating_sub(leaving.len());
        left > 0 && self.classic_members.saturating_sub(classic_leaving) == left
    }

    /// Whether a partition that a member should own is held by another.
    pub fn is_waiting_for_others(&self, member: &Member) -> bool {
        let target = self.target.get(&member.id);
        let mut missing = target.iter().flat_map(|target| {
            target.iter().flat_map(|(topic, partitions)| {
                let owned = member.assigned.get(topic);
                let missing = partitions
                    .iter()
                    .filter(move |p| owned.is_none_or(|owned| !owned.contains_key(p)));
                missing.map(move |p| (*topic, *p))
            })
        });
        member.state == super::member::MemberState::UnreleasedPartitions
            && missing.any(|(topic, partition)| self.partition_epoch(topic, partition).is_some())
    }

    /// Whether a member may commit offsets, or who commits without being one. What it gives says of a
    /// partition whether it may, if its epoch is an older one (KIP-1251).
    pub fn validate_offset_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        member_epoch: i32,
        transactional: bool,
        version: i16,
    ) -> Result<CommitCheck, Refusal> {
        if member_epoch < 0 && self.members.is_empty() {
            return Ok(CommitCheck::All);
        }
        if transactional && member_epoch == -1 && member_id.is_empty() && instance_id.is_none() {
            return Ok(CommitCheck::All);
        }
        let member = self.member(member_id)?;
        if !transactional && member.classic.is_none() && version < 9 {
            return Err(Refusal::new(
                ErrorCode::UnsupportedVersion,
                "OffsetCommit version 9 or above must be used by members using the consumer group protocol",
            ));
        }
        match member_epoch.cmp(&member.epoch) {
            std::cmp::Ordering::Equal => Ok(CommitCheck::All),
            std::cmp::Ordering::Less => Ok(CommitCheck::HeldSince {
                member: member.clone(),
                epoch: member_epoch,
            }),
            std::cmp::Ordering::Greater => Err(stale(
                member,
                format!(
                    "Received member epoch {member_epoch} is newer than current member epoch {}.",
                    member.epoch
                ),
            )),
        }
    }

    /// Whether a member may fetch offsets, or who fetches without being one.
    pub fn validate_offset_fetch(
        &self,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), Refusal> {
        let id = match member_id {
            None if member_epoch < 0 => return Ok(()),
            id => id.unwrap_or(""),
        };
        let member = self.member(id)?;
        if member.epoch != member_epoch {
            return Err(stale(
                member,
                format!(
                    "The received member epoch {member_epoch} does not match the expected member epoch {}.",
                    member.epoch
                ),
            ));
        }
        Ok(())
    }

    /// Takes all of the group back. `renamed` is written under another id in the same batch, before.
    pub fn tombstones(
        &self,
        renamed: Option<(&Text, &Text)>,
        records: &mut Vec<CoordinatorRecord>,
    ) {
        let id = |member: &Text| match renamed {
            Some((from, to)) if from == member => to.clone(),
            _ => member.clone(),
        };
        let mut push = |body| records.push(ConsumerRecord::new(&self.id, body).encode());
        for member in self.members.keys() {
            push(Body::CurrentMember(id(member), None));
        }
        for member in self.members.keys() {
            push(Body::TargetMember(id(member), None));
        }
        push(Body::TargetMetadata(None));
        for member in self.members.keys() {
            push(Body::MemberMetadata(id(member), None));
        }
        for regex in self.resolved.keys() {
            push(Body::RegularExpression(regex.clone(), None));
        }
        push(Body::PartitionMetadata(false));
        push(Body::GroupMetadata(None));
    }

    /// The records that make this group.
    pub fn to_records(&self, records: &mut Vec<CoordinatorRecord>) {
        let mut push = |body| records.push(ConsumerRecord::new(&self.id, body).encode());
        for member in self.members.values() {
            push(Body::MemberMetadata(
                member.id.clone(),
                Some(member.metadata()),
            ));
        }
        push(Body::GroupMetadata(Some(GroupMetadata {
            epoch: self.epoch,
            metadata_hash: self.metadata_hash,
        })));
        for member in self.members.keys() {
            let target = self.target.get(member).map(|t| Partitions::clone(t));
            push(Body::TargetMember(
                member.clone(),
                Some(target.unwrap_or_default()),
            ));
        }
        push(Body::TargetMetadata(Some(TargetMetadata {
            epoch: self.target_epoch,
            timestamp: self.target_timestamp,
        })));
        for member in self.members.values() {
            push(Body::CurrentMember(
                member.id.clone(),
                Some(member.current()),
            ));
        }
    }

    /// Takes in a record of this group. Whether the group is there still.
    pub fn apply(&mut self, record: ConsumerRecord, soft: &mut Soft) -> Result<bool, Unreadable> {
        match record.body {
            Body::GroupMetadata(Some(value)) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            Body::GroupMetadata(None) => {
                if !self.members.is_empty() || !self.target.is_empty() {
                    return Err(Unreadable(format!(
                        "group {} is taken back with {} members and the targets of {}",
                        self.id,
                        self.members.len(),
                        self.target.len()
                    )));
                }
                for topic in std::mem::take(&mut self.topics).keys() {
                    soft.unsubscribe(&self.id, topic);
                }
                soft.forget_group(&self.id);
                return Ok(false);
            }
            Body::PartitionMetadata(there) => self.has_partition_metadata = there,
            Body::MemberMetadata(id, Some(value)) => {
                let before = self.members.get(&id).cloned();
                let base = before.clone().unwrap_or_else(|| Rc::new(Member::new(id)));
                self.put_metadata(before, base.with_metadata(value), soft);
            }
            Body::MemberMetadata(id, None) => self.remove_member(&id, soft),
            Body::TargetMetadata(value) => {
                let none = TargetMetadata {
                    epoch: -1,
                    timestamp: Timestamp(0),
                };
                let value = value.unwrap_or(none);
                self.target_epoch = value.epoch;
                self.target_timestamp = value.timestamp;
            }
            Body::TargetMember(id, Some(value)) => {
                self.target.insert(id, Rc::new(value));
            }
            Body::TargetMember(id, None) => {
                self.target.remove(&id);
            }
            Body::CurrentMember(id, Some(value)) => {
                let before = self.members.get(&id).cloned();
                let base = before.clone().unwrap_or_else(|| Rc::new(Member::new(id)));
                self.put_current(before.as_deref(), base.with_current(value));
            }
            Body::CurrentMember(id, None) => {
                if let Some(before) = self.members.get(&id).cloned() {
                    let none = CurrentMember {
                        epoch: LEAVE_GROUP_EPOCH,
                        previous_epoch: LEAVE_GROUP_EPOCH,
                        assigned: Rc::default(),
                        revoking: Rc::default(),
                        state: before.state,
                    };
                    self.put_current(Some(&before), before.with_current(none));
                }
            }
            Body::RegularExpression(regex, value) => {
                if let Some(before) = self.resolved.remove(&regex) {
                    for topic in before.topics.iter() {
                        self.count(topic, soft, |s| s.by_regex = s.by_regex.saturating_sub(1));
                    }
                }
                if let Some(value) = value {
                    for topic in value.topics.iter() {
                        self.count(topic, soft, |s| s.by_regex += 1);
                    }
                    self.resolved.insert(regex, value);
                }
            }
        }
        Ok(true)
    }

    fn count(&mut self, topic: &Text, soft: &mut Soft, how: impl FnOnce(&mut Subscribers)) {
        match change(&mut self.topics, topic, how) {
            Changed::Came => soft.subscribe(&self.id, topic),
            Changed::Went => soft.unsubscribe(&self.id, topic),
            Changed::Stayed => {}
        }
    }

    fn put_metadata(&mut self, before: Option<Rc<Member>>, after: Member, soft: &mut Soft) {
        let id = after.id.clone();
        self.count_metadata(before.as_deref(), Some(&after), soft);
        if let Some(instance) = &after.instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        self.members.insert(id, Rc::new(after));
    }

    fn remove_member(&mut self, id: &Text, soft: &mut Soft) {
        let Some(before) = self.members.remove(id) else {
            return;
        };
        self.free(&before);
        self.count_metadata(Some(&before), None, soft);
        if let Some(instance) = &before.instance_id
            && self.static_members.get(instance) == Some(id)
        {
            self.static_members.remove(instance);
        }
    }

    fn count_metadata(&mut self, before: Option<&Member>, after: Option<&Member>, soft: &mut Soft) {
        let topics = |member: Option<&Member>| member.map(|m| m.subscribed_topics.clone());
        let (old, new) = (topics(before), topics(after));
        if old != new {
            // What comes first, so that a topic that stays does not go in between.
            for topic in new.iter().flat_map(|topics| topics.iter()) {
                self.count(topic, soft, |s| s.by_name += 1);
            }
            for topic in old.iter().flat_map(|topics| topics.iter()) {
                self.count(topic, soft, |s| s.by_name = s.by_name.saturating_sub(1));
            }
        }
        if let Some(member) = before {
            if let Some(name) = &member.server_assignor {
                subtract(&mut self.server_assignors, name);
            }
            if let Some(regex) = member.regex() {
                subtract(&mut self.regexes, regex);
            }
            if let Some(classic) = &member.classic {
                self.classic_members -= 1;
                for protocol in &classic.protocols {
                    subtract(&mut self.classic_protocols, &protocol.name);
                }
            }
        }
        if let Some(member) = after {
            if let Some(name) = &member.server_assignor {
                add(&mut self.server_assignors, name);
            }
            if let Some(regex) = member.regex() {
                add(&mut self.regexes, regex);
            }
            if let Some(classic) = &member.classic {
                self.classic_members += 1;
                for protocol in &classic.protocols {
                    add(&mut self.classic_protocols, &protocol.name);
                }
            }
        }
    }

    fn put_current(&mut self, before: Option<&Member>, after: Member) {
        if let Some(before) = before {
            self.free(before);
        }
        for owned in [&after.assigned, &after.revoking] {
            for (topic, partitions) in owned.iter() {
                let epochs = self.partition_epochs.entry(*topic).or_default();
                for partition in partitions.keys() {
                    let epoch = epochs.entry(*partition).or_insert(after.epoch);
                    // Where two records claim it, the later epoch has it.
                    *epoch = after.epoch.max(*epoch);
                }
                if epochs.is_empty() {
                    self.partition_epochs.remove(topic);
                }
            }
        }
        self.members.insert(after.id.clone(), Rc::new(after));
    }

    /// Takes its partitions from a member.
    fn free(&mut self, member: &Member) {
        for owned in [&member.assigned, &member.revoking] {
            for (topic, partitions) in owned.iter() {
                let Some(epochs) = self.partition_epochs.get_mut(topic) else {
                    continue;
                };
                for partition in partitions.keys() {
                    // One that is another's by now stays there.
                    if epochs.get(partition) == Some(&member.epoch) {
                        epochs.remove(partition);
                    }
                }
                if epochs.is_empty() {
                    self.partition_epochs.remove(topic);
                }
            }
        }
    }

    /// What ConsumerGroupDescribe says of it. Topics that are gone are left out.
    pub fn describe(&self, default_assignor: &str, image: &Image) -> describe::DescribedGroup {
        let members = self.members.values().map(|member| {
            let mut held = Partitions::new();
            for owned in [&member.assigned, &member.revoking] {
                for (topic, partitions) in owned.iter() {
                    held.entry(*topic)
                        .or_default()
                        .extend(partitions.keys().copied());
                }
            }
            let target = self.target.get(&member.id).cloned().unwrap_or_default();
            let topics = member.subscribed_topics.iter();
            describe::Member::default()
                .with_member_id(text(&member.id))
                .with_member_epoch(member.epoch)
                .with_instance_id(member.instance_id.as_deref().map(text))
                .with_rack_id(member.rack_id.as_deref().map(text))
                .with_client_id(text(&member.client_id))
                .with_client_host(text(&member.client_host))
                .with_subscribed_topic_names(topics.map(|t| TopicName(text(t))).collect())
                .with_subscribed_topic_regex(member.subscribed_regex.as_deref().map(text))
                .with_assignment(described(&held, image))
                .with_target_assignment(described(&target, image))
                .with_member_type(i8::from(member.classic.is_none()))
        });
        let assignor = self.preferred_assignor(None, None);
        describe::DescribedGroup::default()
            .with_group_id(GroupId(text(&self.id)))
            .with_group_state(text(&self.state().to_string()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.target_epoch)
            .with_assignor_name(text(assignor.as_deref().unwrap_or(default_assignor)))
            .with_members(members.collect())
    }
}

/// What is to be asked of each partition of a commit.
#[derive(Clone, Debug)]
pub enum CommitCheck {
    /// Nothing.
    All,
    /// Whether the member has held it since no later than the epoch it commits in.
    HeldSince { member: Rc<Member>, epoch: i32 },
}

impl CommitCheck {
    /// Whether offsets of this partition may be committed.
    pub fn partition(&self, topic: TopicId, partition: i32) -> Result<(), Refusal> {
        let CommitCheck::HeldSince { member, epoch } = self else {
            return Ok(());
        };
        match member.assignment_epoch(topic, partition) {
            Some(since) if since <= *epoch => Ok(()),
            Some(since) => Err(stale(
                member,
                format!("Received member epoch {epoch} is older than assignment epoch {since}."),
            )),
            None => Err(stale(
                member,
                "The partition is not assigned or pending revocation for member.".to_owned(),
            )),
        }
    }
}

fn stale(member: &Member, message: String) -> Refusal {
    let error = match member.classic {
        Some(_) => ErrorCode::IllegalGeneration,
        None => ErrorCode::StaleMemberEpoch,
    };
    Refusal::new(error, message)
}

enum Changed {
    Came,
    Went,
    Stayed,
}

/// Changes the subscribers of a topic; without any, it has no entry.
fn change(
    topics: &mut BTreeMap<Text, Subscribers>,
    topic: &Text,
    how: impl FnOnce(&mut Subscribers),
) -> Changed {
    let before = topics.get(topic).copied();
    let mut after = before.unwrap_or_default();
    how(&mut after);
    if after == Subscribers::default() {
        topics.remove(topic);
    } else {
        topics.insert(topic.clone(), after);
    }
    match (before, after == Subscribers::default()) {
        (None, false) => Changed::Came,
        (Some(_), true) => Changed::Went,
        _ => Changed::Stayed,
    }
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn described(partitions: &Partitions, image: &Image) -> describe::Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topic(*id)?;
        let described = describe::TopicPartitions::default()
            .with_topic_id(uuid(*id))
            .with_topic_name(TopicName(text(&topic.name)))
            .with_partitions(partitions.iter().copied().collect());
        Some(described)
    });
    describe::Assignment::default().with_topic_partitions(topics.collect())
}

/// What of `owned` is for each topic, without the epochs.
pub(super) fn without_epochs(owned: &Owned) -> Partitions {
    let topics = owned.iter();
    topics
        .map(|(topic, partitions)| (*topic, partitions.keys().copied().collect()))
        .collect()
}

/// A member's metadata as a record.
pub(super) fn metadata_record(group: &Text, member: &Member) -> CoordinatorRecord {
    let metadata: MemberMetadata = member.metadata();
    ConsumerRecord::new(
        group,
        Body::MemberMetadata(member.id.clone(), Some(metadata)),
    )
    .encode()
}

/// A member's epochs and partitions as a record.
pub(super) fn current_record(group: &Text, member: &Member) -> CoordinatorRecord {
    let current = member.current();
    ConsumerRecord::new(group, Body::CurrentMember(member.id.clone(), Some(current))).encode()
}
