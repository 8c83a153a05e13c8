//! Committed offsets: what is kept for each group and partition, and how it comes and goes.
//!
//! An offset committed in a transaction is kept apart, by producer, until the transaction's marker
//! comes: then it counts, or is forgotten. Of an offset committed outside and one in a transaction
//! that ends, the one whose record stands later in the log counts, so that compaction cannot change
//! the outcome.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::classic::{ClassicGroup, State};
use super::consumer::group::CommitCheck;
use super::record::{self, OffsetCommit, OffsetKey, offset_tombstone};
use super::timers::Timer;
use super::{Answer, Group, GroupMachine, text};
use crate::base::{Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};
use crate::coordinator::{Context, CoordinatorRecord, Outcome, Position, Token, Unreadable};
use crate::metadata::TopicImage;
use crate::protocol::ErrorCode;

/// Tombstones written at once. The rest waits for the next turn.
const MAX_TOMBSTONES: usize = 1_000;

/// What is kept of a committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: Offset,
    /// -1 is none.
    pub leader_epoch: i32,
    pub metadata: Box<str>,
    pub committed_at: Timestamp,
    /// -1: as long as the retention says.
    pub expires_at: Timestamp,
    /// Zero if it was not known.
    pub topic_id: TopicId,
    /// Where its record stands.
    pub record_offset: Offset,
}

/// Something for each partition of each topic of each group.
struct ByPartition<T> {
    groups: BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeMap<i32, T>>>,
}

impl<T> Default for ByPartition<T> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
        }
    }
}

fn entry<'a, V: Default>(map: &'a mut BTreeMap<Arc<str>, V>, key: &str) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.into(), V::default());
    }
    map.get_mut(key).expect("it was put there")
}

impl<T> ByPartition<T> {
    fn group(&self, group_id: &str) -> Option<&BTreeMap<Arc<str>, BTreeMap<i32, T>>> {
        self.groups.get(group_id)
    }

    fn get(&self, key: OffsetKey<'_>) -> Option<&T> {
        self.group(key.group_id)?
            .get(key.topic)?
            .get(&key.partition)
    }

    fn insert(&mut self, key: OffsetKey<'_>, value: T) -> Option<T> {
        let topics = entry(&mut self.groups, key.group_id);
        entry(topics, key.topic).insert(key.partition, value)
    }

    fn or_default(&mut self, key: OffsetKey<'_>) -> &mut T
    where
        T: Default,
    {
        let topics = entry(&mut self.groups, key.group_id);
        entry(topics, key.topic).entry(key.partition).or_default()
    }

    fn remove(&mut self, key: OffsetKey<'_>) -> Option<T> {
        let topics = self.groups.get_mut(key.group_id)?;
        let partitions = topics.get_mut(key.topic)?;
        let removed = partitions.remove(&key.partition);
        if partitions.is_empty() {
            topics.remove(key.topic);
        }
        if topics.is_empty() {
            self.groups.remove(key.group_id);
        }
        removed
    }

    fn iter(&self) -> impl Iterator<Item = (OffsetKey<'_>, &T)> {
        self.groups.iter().flat_map(|(group_id, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(&partition, value)| {
                    let key = OffsetKey {
                        group_id,
                        topic,
                        partition,
                    };
                    (key, value)
                })
            })
        })
    }
}

/// The offsets of one partition of `__consumer_offsets`.
#[derive(Default)]
pub struct Offsets {
    committed: ByPartition<CommittedOffset>,
    /// By the producer whose transaction they are in.
    pending: BTreeMap<ProducerId, ByPartition<CommittedOffset>>,
    /// The producers of `pending`, by partition.
    open: ByPartition<BTreeSet<ProducerId>>,
    /// Offsets of deleted topics, still to be written off. By record: a later commit stays.
    condemned: VecDeque<(Arc<str>, Arc<str>, i32, Offset)>,
    count: usize,
}

impl Offsets {
    /// How many offsets are committed.
    pub fn count(&self) -> usize {
        self.count
    }

    fn put(&mut self, key: OffsetKey<'_>, offset: CommittedOffset) {
        if self.committed.insert(key, offset).is_none() {
            self.count += 1;
        }
    }

    fn put_pending(
        &mut self,
        key: OffsetKey<'_>,
        producer_id: ProducerId,
        offset: CommittedOffset,
    ) {
        self.pending
            .entry(producer_id)
            .or_default()
            .insert(key, offset);
        self.open.or_default(key).insert(producer_id);
    }

    /// Also what is pending for the partition is forgotten.
    fn remove(&mut self, key: OffsetKey<'_>) {
        if self.committed.remove(key).is_some() {
            self.count -= 1;
        }
        for producer_id in self.open.remove(key).unwrap_or_default() {
            if let Some(pending) = self.pending.get_mut(&producer_id) {
                pending.remove(key);
            }
        }
    }

    fn is_unstable(&self, key: OffsetKey<'_>) -> bool {
        self.open.get(key).is_some()
    }

    /// Whether a transaction is open in which offsets of this group were committed.
    pub fn has_open_transaction(&self, group_id: &str) -> bool {
        self.open.group(group_id).is_some()
    }

    pub fn end_transaction(&mut self, producer_id: ProducerId, committed: bool) {
        let Some(pending) = self.pending.remove(&producer_id) else {
            return;
        };
        for (key, offset) in pending.iter() {
            if let Some(open) = self.open.groups.get(key.group_id)
                && open.contains_key(key.topic)
            {
                let producers = self.open.or_default(key);
                producers.remove(&producer_id);
                if producers.is_empty() {
                    self.open.remove(key);
                }
            }
            let later = |now: &CommittedOffset| now.record_offset > offset.record_offset;
            if committed && !self.committed.get(key).is_some_and(later) {
                self.put(key, offset.clone());
            }
        }
    }

    /// Tombstones for all that a group has, committed or pending.
    fn tombstones_of(&self, group_id: &str, out: &mut Vec<CoordinatorRecord>) {
        let keys = |topic: &Arc<str>, partition: i32| (topic.clone(), partition);
        let mut of_group = BTreeSet::new();
        if let Some(topics) = self.committed.group(group_id) {
            for (topic, partitions) in topics {
                of_group.extend(partitions.keys().map(|&p| keys(topic, p)));
            }
        }
        if let Some(topics) = self.open.group(group_id) {
            for (topic, partitions) in topics {
                of_group.extend(partitions.keys().map(|&p| keys(topic, p)));
            }
        }
        out.extend(of_group.iter().map(|(topic, partition)| {
            offset_tombstone(OffsetKey {
                group_id,
                topic,
                partition: *partition,
            })
        }));
    }
}

/// Whether the member may commit (and, with a transaction, whether it is fenced).
fn check_commit(
    group: &ClassicGroup,
    member_id: &str,
    instance_id: Option<&str>,
    generation: i32,
    in_transaction: bool,
) -> Result<(), ErrorCode> {
    if generation < 0 && group.is_empty() {
        // An administrator, or a consumer that assigns its partitions itself.
        return Ok(());
    }
    if generation >= 0 || !member_id.is_empty() || instance_id.is_some() {
        group.check_member(member_id, instance_id)?;
        if generation != group.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
    } else if !in_transaction {
        return Err(ErrorCode::UnknownMemberId);
    }
    if !in_transaction && group.state() == State::CompletingRebalance {
        return Err(ErrorCode::RebalanceInProgress);
    }
    Ok(())
}

/// The code for members of the new protocol whose commit is part of a transaction: TxnOffsetCommit has no
/// code of its own for them.
fn in_transaction(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
        error => error,
    }
}

/// One partition of a commit.
struct Commit<'a> {
    key: OffsetKey<'a>,
    offset: i64,
    leader_epoch: i32,
    metadata: &'a str,
    expires_at: i64,
    topic_id: TopicId,
}

impl Commit<'_> {
    fn record(&self, now: Timestamp) -> CoordinatorRecord {
        OffsetCommit {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata,
            commit_timestamp: now.0,
            expire_timestamp: self.expires_at,
            topic_id: self.topic_id,
        }
        .record(self.key)
    }
}

/// Kafka counts UTF-16 units, as Java's strings do.
fn is_longer(metadata: &str, limit: i64) -> bool {
    let limit = usize::try_from(limit).unwrap_or(0);
    metadata.len() > limit && metadata.encode_utf16().count() > limit
}

impl GroupMachine {
    pub(super) fn apply_offset(
        &mut self,
        record: &CoordinatorRecord,
        at: Position,
    ) -> Result<(), Unreadable> {
        let key = OffsetKey::read(&record.key)?;
        let Some(value) = &record.value else {
            self.offsets.remove(key);
            return Ok(());
        };
        let commit = OffsetCommit::read(value)?;
        let offset = CommittedOffset {
            offset: Offset(commit.offset),
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.into(),
            committed_at: Timestamp(commit.commit_timestamp),
            expires_at: Timestamp(commit.expire_timestamp),
            topic_id: commit.topic_id,
            record_offset: at.offset,
        };
        // Who commits without ever joining makes a group that keeps offsets and nothing else.
        self.classic_or_new(key.group_id, at.timestamp);
        match at.producer {
            Some((producer_id, _)) => self.offsets.put_pending(key, producer_id, offset),
            None => self.offsets.put(key, offset),
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        version: i16,
        request: OffsetCommitRequest,
    ) -> Outcome<Self> {
        let group_id = request.group_id.as_str();
        let member_id = request.member_id.as_str();
        let generation = request.generation_id_or_member_epoch;
        let limit = context.settings.groups.offset_metadata_max_bytes.into();
        let checked = match self.groups.get(group_id) {
            None if generation < 0 => Ok(CommitCheck::All),
            // Version 9 came with a code of its own for this.
            None if version >= 9 => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
            Some(Group::Classic(group)) => {
                let instance_id = request.group_instance_id.as_deref();
                let checked = check_commit(group, member_id, instance_id, generation, false);
                if checked.is_ok() {
                    group.committed_by(&mut self.timers, context.now, member_id);
                }
                checked.map(|()| CommitCheck::All)
            }
            Some(Group::Consumer(group)) => group
                .validate_offset_commit(
                    member_id,
                    request.group_instance_id.as_deref(),
                    generation,
                    false,
                    version,
                )
                .map_err(|refusal| refusal.error),
        };
        let check = match checked {
            Ok(check) => check,
            Err(code) => {
                let answer = commit_response(&request, |_, _, _| code);
                return Outcome::answer(token, Answer::Commit(answer));
            }
        };
        let code = |topic: (&str, TopicId), partition: i32, metadata: &str| {
            if is_longer(metadata, limit) {
                return ErrorCode::OffsetMetadataTooLarge;
            }
            let id = Some(topic.1).filter(|id| *id != TopicId::ZERO);
            let id = id.or_else(|| context.image.topic_id(topic.0));
            let checked = check.partition(id.unwrap_or(TopicId::ZERO), partition);
            checked.map_or_else(|refusal| refusal.error, |()| ErrorCode::None)
        };
        let expires_at = match request.retention_time_ms {
            -1 => -1,
            retention => context.now.0.saturating_add(retention),
        };
        let mut records = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_deref().unwrap_or("");
                let index = partition.partition_index;
                let topic_id = crate::protocol::topic_id(topic.topic_id);
                if code((topic.name.as_str(), topic_id), index, metadata) != ErrorCode::None {
                    continue;
                }
                let commit = Commit {
                    key: OffsetKey {
                        group_id,
                        topic: topic.name.as_str(),
                        partition: partition.partition_index,
                    },
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch.max(-1),
                    metadata,
                    expires_at,
                    topic_id,
                };
                records.push(commit.record(context.now));
            }
        }
        let answer = commit_response(&request, code);
        Outcome {
            records,
            answers: vec![(token, Answer::Commit(answer))],
            ..Outcome::default()
        }
    }

    pub(super) fn commit_in_transaction(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        version: i16,
        request: TxnOffsetCommitRequest,
    ) -> Outcome<Self> {
        let group_id = request.group_id.as_str();
        let checked = match self.groups.get(group_id) {
            None if request.generation_id < 0 => Ok(CommitCheck::All),
            None => Err(ErrorCode::IllegalGeneration),
            Some(Group::Classic(group)) => check_commit(
                group,
                &request.member_id,
                request.group_instance_id.as_deref(),
                request.generation_id,
                true,
            )
            .map(|()| CommitCheck::All),
            Some(Group::Consumer(group)) => group
                .validate_offset_commit(
                    &request.member_id,
                    request.group_instance_id.as_deref(),
                    request.generation_id,
                    true,
                    version,
                )
                .map_err(|refusal| in_transaction(refusal.error)),
        };
        let check = match checked {
            Ok(check) => check,
            Err(code) => {
                let answer = transactional_response(&request, |_, _, _| code);
                return Outcome::answer(token, Answer::CommitInTransaction(answer));
            }
        };
        let limit = context.settings.groups.offset_metadata_max_bytes.into();
        let code = |topic: &str, partition: i32, metadata: &str| {
            if is_longer(metadata, limit) {
                return ErrorCode::OffsetMetadataTooLarge;
            }
            let id = context.image.topic_id(topic).unwrap_or(TopicId::ZERO);
            let checked = check.partition(id, partition);
            checked.map_or_else(
                |refusal| in_transaction(refusal.error),
                |()| ErrorCode::None,
            )
        };
        let mut records = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_deref().unwrap_or("");
                if code(&topic.name, partition.partition_index, metadata) != ErrorCode::None {
                    continue;
                }
                let commit = Commit {
                    key: OffsetKey {
                        group_id,
                        topic: topic.name.as_str(),
                        partition: partition.partition_index,
                    },
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch.max(-1),
                    metadata,
                    expires_at: -1,
                    topic_id: TopicId::ZERO,
                };
                records.push(commit.record(context.now));
            }
        }
        let answer = transactional_response(&request, code);
        let producer = (
            ProducerId(request.producer_id.0),
            ProducerEpoch(request.producer_epoch),
        );
        Outcome {
            producer: (!records.is_empty()).then_some(producer),
            records,
            answers: vec![(token, Answer::CommitInTransaction(answer))],
            ..Outcome::default()
        }
    }

    pub(super) fn fetch(
        &mut self,
        token: Token,
        request: OffsetFetchRequestGroup,
        require_stable: bool,
    ) -> Outcome<Self> {
        let group_id = request.group_id.as_str();
        if let Some(Group::Consumer(group)) = self.groups.get(group_id) {
            let member_id = request.member_id.as_deref();
            if let Err(refusal) = group.validate_offset_fetch(member_id, request.member_epoch) {
                let answer = OffsetFetchResponseGroup::default()
                    .with_group_id(request.group_id.clone())
                    .with_error_code(refusal.error.code());
                return Outcome::answer(token, Answer::Fetch(answer));
            }
        }
        let mut topics = Vec::new();
        match &request.topics {
            Some(asked) => {
                for topic in asked {
                    let partitions = topic.partition_indexes.iter().map(|&partition| {
                        let key = OffsetKey {
                            group_id,
                            topic: topic.name.as_str(),
                            partition,
                        };
                        let topic_id = crate::protocol::topic_id(topic.topic_id);
                        self.fetched(key, topic_id, require_stable)
                    });
                    topics.push(
                        OffsetFetchResponseTopics::default()
                            .with_name(topic.name.clone())
                            .with_topic_id(topic.topic_id)
                            .with_partitions(partitions.collect()),
                    );
                }
            }
            None => {
                let all = self.offsets.committed.group(group_id);
                for (topic, partitions) in all.into_iter().flatten() {
                    let partitions = partitions.keys().map(|&partition| {
                        let key = OffsetKey {
                            group_id,
                            topic,
                            partition,
                        };
                        self.fetched(key, TopicId::ZERO, require_stable)
                    });
                    topics.push(
                        OffsetFetchResponseTopics::default()
                            .with_name(TopicName(text(topic)))
                            .with_partitions(partitions.collect()),
                    );
                }
            }
        }
        let answer = OffsetFetchResponseGroup::default()
            .with_group_id(request.group_id.clone())
            .with_topics(topics);
        Outcome::answer(token, Answer::Fetch(answer))
    }

    fn fetched(
        &self,
        key: OffsetKey<'_>,
        topic_id: TopicId,
        require_stable: bool,
    ) -> OffsetFetchResponsePartitions {
        let none = OffsetFetchResponsePartitions::default()
            .with_partition_index(key.partition)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default()));
        if require_stable && self.offsets.is_unstable(key) {
            return none.with_error_code(ErrorCode::UnstableOffsetCommit.code());
        }
        // An offset of a topic that had this name before is not one of this topic.
        let same = |known: TopicId| {
            known == TopicId::ZERO || topic_id == TopicId::ZERO || known == topic_id
        };
        match self.offsets.committed.get(key) {
            Some(found) if same(found.topic_id) => none
                .with_committed_offset(found.offset.0)
                .with_committed_leader_epoch(found.leader_epoch)
                .with_metadata(Some(text(&found.metadata))),
            Some(_) | None => none,
        }
    }

    pub(super) fn delete_offsets(
        &mut self,
        token: Token,
        request: OffsetDeleteRequest,
    ) -> Outcome<Self> {
        let group_id = request.group_id.as_str();
        let refused = match self.groups.get(group_id) {
            None => Some(ErrorCode::GroupIdNotFound),
            Some(Group::Classic(group)) => {
                let busy = !group.is_empty() && !group.is_of_consumers();
                busy.then_some(ErrorCode::NonEmptyGroup)
            }
            Some(Group::Consumer(_)) => None,
        };
        if let Some(code) = refused {
            let answer = OffsetDeleteResponse::default().with_error_code(code.code());
            return Outcome::answer(token, Answer::DeleteOffsets(answer));
        }
        let mut outcome = Outcome::default();
        let mut answer = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let subscribed = match self.groups.get(group_id) {
                Some(Group::Classic(group)) => group.is_subscribed_to(&topic.name),
                Some(Group::Consumer(group)) => group.is_subscribed_to(&topic.name),
                None => false,
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let key = OffsetKey {
                    group_id,
                    topic: topic.name.as_str(),
                    partition: partition.partition_index,
                };
                let code = if subscribed {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    ErrorCode::None
                };
                let known =
                    self.offsets.committed.get(key).is_some() || self.offsets.is_unstable(key);
                if known && !subscribed {
                    outcome.records.push(offset_tombstone(key));
                }
                partitions.push(
                    OffsetDeleteResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code.code()),
                );
            }
            answer.topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        outcome.answers.push((token, Answer::DeleteOffsets(answer)));
        outcome
    }

    pub(super) fn delete_groups(&mut self, token: Token, ids: Vec<StrBytes>) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        let mut results = Vec::with_capacity(ids.len());
        let mut deleted = BTreeSet::new();
        for id in ids {
            let code = match self.groups.get(&*id) {
                None => ErrorCode::GroupIdNotFound,
                Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
                Some(Group::Classic(_)) => {
                    if deleted.insert(id.clone()) {
                        self.offsets.tombstones_of(&id, &mut outcome.records);
                        outcome.records.push(record::group_tombstone(&id));
                    }
                    ErrorCode::None
                }
                Some(Group::Consumer(group)) => {
                    if deleted.insert(id.clone()) {
                        self.offsets.tombstones_of(&id, &mut outcome.records);
                        group.tombstones(None, &mut outcome.records);
                    }
                    ErrorCode::None
                }
            };
            results.push((id, code));
        }
        outcome.answers.push((token, Answer::DeleteGroups(results)));
        outcome
    }

    pub(super) fn schedule_expiration(&mut self, context: &Context<'_>) {
        let interval = context.settings.groups.offsets_retention_check_interval_ms;
        let at = Timestamp(context.now.0.saturating_add(interval));
        self.timers.schedule(Timer::Expiration, at);
    }

    /// A turn of forgetting: first the offsets of deleted topics, then those that are old, group after
    /// group. What does not fit into this turn is due at once.
    pub(super) fn expire_offsets(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        self.write_off_condemned(&mut outcome.records);
        if !self.offsets.condemned.is_empty() {
            self.timers.schedule(Timer::Expiration, context.now);
            return outcome;
        }
        let from = self.expiration_next.take().unwrap_or_else(|| "".into());
        for (looked_at, (id, group)) in self.groups.range::<Arc<str>, _>(from..).enumerate() {
            if looked_at == MAX_TOMBSTONES {
                self.expiration_next = Some(id.clone());
                break;
            }
            let all_gone = self.expired_of(context, id, group, &mut outcome.records);
            if all_gone && group.is_empty() {
                match group {
                    Group::Classic(_) => outcome.records.push(record::group_tombstone(id)),
                    Group::Consumer(group) => group.tombstones(None, &mut outcome.records),
                }
            }
            if outcome.records.len() >= MAX_TOMBSTONES {
                // There may be more of this one.
                self.expiration_next = Some(id.clone());
                break;
            }
        }
        if self.expiration_next.is_some() {
            self.timers.schedule(Timer::Expiration, context.now);
        } else {
            self.schedule_expiration(context);
        }
        outcome
    }

    /// Tombstones for the offsets of a group that may be forgotten. True if nothing is left of them.
    fn expired_of(
        &self,
        context: &Context<'_>,
        id: &Arc<str>,
        group: &Group,
        out: &mut Vec<CoordinatorRecord>,
    ) -> bool {
        let Some(topics) = self.offsets.committed.group(id) else {
            return !self.offsets.has_open_transaction(id);
        };
        // Since when an offset counts as unused. Nothing is forgotten of a group that is at work, unless
        // its members are consumers that read other topics.
        let since_empty = match group {
            Group::Consumer(_) => None,
            Group::Classic(group) => match (group.protocol_type(), group.state()) {
                (None, _) => None,
                (Some(_), State::Empty) => group.state_since(),
                (Some(_), State::Stable)
                    if group.is_of_consumers() && group.knows_subscriptions() =>
                {
                    None
                }
                (Some(_), _) => return false,
            },
        };
        let retention = context.settings.groups.offsets_retention_ms;
        let mut all_gone = !self.offsets.has_open_transaction(id);
        for (topic, partitions) in topics {
            if group.is_subscribed_to(topic) {
                all_gone = false;
                continue;
            }
            for (&partition, offset) in partitions {
                let expired = if offset.expires_at != Timestamp::NONE {
                    context.now >= offset.expires_at
                } else {
                    let since = since_empty.unwrap_or(offset.committed_at);
                    context.now.0.saturating_sub(since.0) >= retention
                };
                let key = OffsetKey {
                    group_id: id,
                    topic,
                    partition,
                };
                if expired && !self.offsets.is_unstable(key) && out.len() < MAX_TOMBSTONES {
                    out.push(offset_tombstone(key));
                } else {
                    all_gone = false;
                }
            }
        }
        all_gone
    }

    /// Offsets of topics that are gone are of no use to anybody, and would be wrong for topics that get
    /// their names.
    pub(super) fn topics_deleted(
        &mut self,
        context: &mut Context<'_>,
        deleted: &[Arc<TopicImage>],
    ) -> Outcome<Self> {
        let mut condemned = VecDeque::new();
        for topic in deleted {
            let pending = self.offsets.pending.values();
            for offsets in std::iter::once(&self.offsets.committed).chain(pending) {
                for (group_id, topics) in &offsets.groups {
                    let Some((name, partitions)) = topics.get_key_value(&*topic.name) else {
                        continue;
                    };
                    for (&partition, offset) in partitions {
                        if offset.topic_id == TopicId::ZERO || offset.topic_id == topic.id {
                            let at = offset.record_offset;
                            condemned.push_back((group_id.clone(), name.clone(), partition, at));
                        }
                    }
                }
            }
        }
        let mut outcome = Outcome::default();
        self.offsets.condemned.append(&mut condemned);
        self.write_off_condemned(&mut outcome.records);
        if !self.offsets.condemned.is_empty() {
            self.timers.schedule(Timer::Expiration, context.now);
        }
        outcome
    }

    fn write_off_condemned(&mut self, out: &mut Vec<CoordinatorRecord>) {
        while out.len() < MAX_TOMBSTONES
            && let Some((group_id, topic, partition, at)) = self.offsets.condemned.pop_front()
        {
            let key = OffsetKey {
                group_id: &group_id,
                topic: &topic,
                partition,
            };
            let committed = self.offsets.committed.get(key);
            if committed.is_some_and(|offset| offset.record_offset == at)
                || self.offsets.is_unstable(key)
            {
                out.push(offset_tombstone(key));
            }
        }
    }
}

/// The answer to a commit, with a code for each partition.
pub fn commit_response(
    request: &OffsetCommitRequest,
    code: impl Fn((&str, TopicId), i32, &str) -> ErrorCode,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let metadata = partition.committed_metadata.as_deref().unwrap_or("");
            let topic = (
                topic.name.as_str(),
                crate::protocol::topic_id(topic.topic_id),
            );
            let code = code(topic, partition.partition_index, metadata);
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The answer to a commit in a transaction, with a code for each partition.
pub fn transactional_response(
    request: &TxnOffsetCommitRequest,
    code: impl Fn(&str, i32, &str) -> ErrorCode,
) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let metadata = partition.committed_metadata.as_deref().unwrap_or("");
            let code = code(&topic.name, partition.partition_index, metadata);
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code())
        });
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}
