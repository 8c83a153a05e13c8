//! The group coordinator: members, and the offsets they committed.
//!
//! A [`GroupMachine`] holds the groups whose ids fall on one partition of `__consumer_offsets`. A group
//! is of one kind at a time: [`classic`] groups are led by one of their members, which assigns the
//! partitions (JoinGroup, SyncGroup); in [`consumer`] groups the coordinator does (KIP-848). Offsets ([`offsets`]) are kept beside, whatever the kind.
//!
//! A classic group is ahead of its record: members, generations and waiting requests are the group's
//! own until the leader has assigned; then the record is written with everything in it, and only after
//! a restart the group is made from it. So [`Machine::apply`] passes over the record of a classic group
//! that is alive.

mod ask;
pub mod classic;
pub mod consumer;
mod consumers;
mod description;
#[cfg(test)]
mod mixed;
#[cfg(test)]
mod model;
pub mod offsets;
mod rebalance;
pub mod record;
#[cfg(test)]
mod scenarios;
mod timers;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::GroupId;
use kafka_protocol::protocol::StrBytes;

pub use ask::{Answer, Ask, ConsumerHeartbeat, Join};
pub use consumers::not_described as consumer_group_not_described;
pub use description::not_described;
pub use offsets::{commit_response, transactional_response};
pub use rebalance::{join_error, sync_error};

use crate::base::{PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::coordinator::{
    Context, CoordinatorRecord, Machine, Outcome, Position, Token, Unreadable,
};
use crate::metadata::Delta;
use classic::ClassicGroup;
use consumer::ConsumerGroup;
use offsets::Offsets;
use rebalance::PendingIds;
use record::key_type;
use timers::{Timer, Timers};

/// A group of one kind or another.
pub enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

/// The groups of one partition of `__consumer_offsets`.
pub struct GroupMachine {
    partition: PartitionIndex,
    groups: BTreeMap<Arc<str>, Group>,
    offsets: Offsets,
    timers: Timers,
    /// What is known of consumer groups beside their records.
    consumers: consumer::Soft,
    /// Consumer groups that are classic ones from their next record on.
    downgraded: BTreeMap<Arc<str>, ClassicGroup>,
    /// Member ids that were given out and not yet joined with, oldest first.
    pending_ids: PendingIds,
    /// Whether the log has been read: from then on classic groups are ahead of their records.
    loaded: bool,
    /// Where the round of the expiration that is under way goes on.
    expiration_next: Option<Arc<str>>,
}

/// What a group coordinator asks its host to do: nothing yet.
#[derive(Debug)]
pub enum Effect {}

/// The partition of `__consumer_offsets` that a group belongs to: the absolute value of Java's `hashCode`
/// of its id. As in Kafka the least integer, which has none, counts as 0.
pub fn partition_of(group_id: &str, partitions: i32) -> PartitionIndex {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    PartitionIndex(hash.checked_abs().unwrap_or(0) % partitions.max(1))
}

impl Machine for GroupMachine {
    type Ask = Ask;
    type Answer = Answer;
    type Effect = Effect;

    fn new(partition: PartitionIndex) -> Self {
        Self {
            partition,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
            consumers: consumer::Soft::default(),
            downgraded: BTreeMap::new(),
            pending_ids: PendingIds::default(),
            loaded: false,
            expiration_next: None,
        }
    }

    fn apply(&mut self, record: &CoordinatorRecord, at: Position) -> Result<(), Unreadable> {
        let Some(key_type) = record::type_of(&record.key) else {
            return Err(Unreadable("a key without a type".into()));
        };
        match key_type {
            key_type::OFFSET_COMMIT_0 | key_type::OFFSET_COMMIT => self.apply_offset(record, at),
            key_type::GROUP_METADATA => self.apply_group(record),
            kind if consumer::record::is_consumer_key(kind) => self.apply_consumer(record),
            // By their numbers in Kafka's group coordinator.
            9..=15 => Err(Unreadable("of a share group, which is not served".into())),
            17..=23 => Err(Unreadable("of a streams group, which is not served".into())),
            other => Err(Unreadable(format!("a key of unknown type {other}"))),
        }
    }

    fn apply_marker(&mut self, producer_id: ProducerId, _: ProducerEpoch, committed: bool) {
        self.offsets.end_transaction(producer_id, committed);
    }

    fn loaded(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        self.begin(context);
        self.start_consumer_groups(context);
        self.start_sessions(context)
    }

    fn ask(&mut self, context: &mut Context<'_>, token: Token, ask: Ask) -> Outcome<Self> {
        self.begin(context);
        match ask {
            Ask::Join(join) => self.join(context, token, join),
            Ask::Sync(request) => self.sync(context, token, &request),
            Ask::Heartbeat(request) => self.heartbeat(context, token, &request),
            Ask::Leave(request) => self.leave(context, token, request),
            Ask::Commit { version, request } => self.commit(context, token, version, request),
            Ask::CommitInTransaction {
                version,
                request,
                guard,
            } => {
                let mut outcome = self.commit_in_transaction(context, token, version, request);
                outcome.guard = guard;
                outcome
            }
            Ask::Fetch {
                group,
                require_stable,
            } => self.fetch(token, group, require_stable),
            Ask::DeleteOffsets(request) => self.delete_offsets(token, request),
            Ask::List { states, types } => self.list(token, &states, &types),
            Ask::Describe(ids) => self.describe(token, ids),
            Ask::ConsumerHeartbeat(ask) => self.consumer_heartbeat(context, token, &ask),
            Ask::ConsumerDescribe(ids) => self.describe_consumer_groups(context, token, &ids),
            Ask::DeleteGroups(ids) => self.delete_groups(token, ids),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let consumers = self.consumers_deadline();
        let classic = self.timers.next_deadline();
        classic.into_iter().chain(consumers).min()
    }

    fn expire(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        if let Some(outcome) = self.expire_consumers(context) {
            return outcome;
        }
        match self.timers.pop(context.now) {
            Some(Timer::Session { group, member }) => {
                self.session_expired(context, &group, &member)
            }
            Some(Timer::Join { group }) => self.join_phase_expired(context, &group),
            Some(Timer::Sync { group }) => self.sync_phase_expired(context, &group),
            Some(Timer::Expiration) => self.expire_offsets(context),
            None => Outcome::default(),
        }
    }

    fn image_changed(&mut self, context: &mut Context<'_>, delta: &Delta) -> Outcome<Self> {
        consumer::image_changed(&mut self.consumers, context.image, delta);
        self.topics_deleted(context, &delta.topics_deleted)
    }
}

impl GroupMachine {
    /// The partition of `__consumer_offsets` that this is.
    pub fn partition(&self) -> PartitionIndex {
        self.partition
    }

    /// The log has been read, or was empty. One that is never asked anything has no timer either.
    fn begin(&mut self, context: &Context<'_>) {
        if !self.loaded {
            self.loaded = true;
            self.schedule_expiration(context);
        }
    }

    /// The group with this id, made as an empty classic group if there is none.
    fn classic_or_new(&mut self, group_id: &str, now: Timestamp) -> &mut Group {
        if !self.groups.contains_key(group_id) {
            let id: Arc<str> = group_id.into();
            let group = Group::Classic(ClassicGroup::new(id.clone(), now));
            self.groups.insert(id, group);
        }
        self.groups.get_mut(group_id).expect("it was put there")
    }

    fn remove_group(&mut self, group_id: &str) {
        match self.groups.remove(group_id) {
            Some(Group::Classic(group)) => group.cancel_timers(&mut self.timers),
            Some(Group::Consumer(_)) | None => {}
        }
    }

    fn apply_group(&mut self, record: &CoordinatorRecord) -> Result<(), Unreadable> {
        let group_id = record::read_group_key(&record.key)?;
        let Some(value) = &record.value else {
            self.remove_group(group_id);
            return Ok(());
        };
        if let Some(group) = self.take_downgraded(group_id) {
            self.groups.insert(group_id.into(), Group::Classic(group));
            return Ok(());
        }
        let alive = self.loaded && matches!(self.groups.get(group_id), Some(Group::Classic(_)));
        if !alive {
            let metadata = record::GroupMetadata::read(value)?;
            let group = ClassicGroup::from_record(group_id, &metadata)?;
            self.groups.insert(group_id.into(), Group::Classic(group));
        }
        Ok(())
    }
}

impl Group {
    /// Whether nobody is in it, so that it may be deleted, or become a group of another kind.
    pub fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.is_empty(),
            Group::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether its members are known to read the topic, or may.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(text: &StrBytes) -> GroupId {
    GroupId(text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_falls_on_the_partition_that_javas_hash_code_says() {
        // From a JVM: "abc".hashCode() is 96354, "" is 0, "polygenelubricants" is the least integer.
        assert_eq!(partition_of("abc", 50), PartitionIndex(96354 % 50));
        assert_eq!(partition_of("", 50), PartitionIndex(0));
        assert_eq!(partition_of("polygenelubricants", 50), PartitionIndex(0));
        // "orders" is -1008770331: its absolute value counts, not what is left without the sign bit (17).
        assert_eq!(partition_of("orders", 50), PartitionIndex(31));
    }
}
