//! What the coordinator knows of consumer groups that is not on record.
//!
//! It is gone with the machine; [`Soft`] of a machine that was loaded is filled by its groups.

use std::collections::{BTreeMap, BTreeSet};

use super::hash::TopicHashes;
use super::member::Text;
use super::regex::Resolution;
use crate::base::Timestamp;

/// What a deadline of a member is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// It has to be heard of until then.
    Session,
    /// It has to have given up its partitions until then.
    Rebalance,
    /// A classic member has to join again until then.
    Join,
    /// A classic member has to sync until then.
    Sync,
}

/// Group, member, what for.
pub type TimerKey = (Text, Text, Timer);

/// Deadlines of members: one of each kind at a time.
#[derive(Default)]
pub struct Timers {
    /// The second is the member epoch it was set in, for [`Timer::Rebalance`].
    due: BTreeMap<TimerKey, (Timestamp, i32)>,
    queue: BTreeSet<(Timestamp, TimerKey)>,
}

impl Timers {
    /// Sets it, or sets it anew.
    pub fn set(&mut self, key: TimerKey, at: Timestamp, epoch: i32) {
        if let Some((before, _)) = self.due.insert(key.clone(), (at, epoch)) {
            self.queue.remove(&(before, key.clone()));
        }
        self.queue.insert((at, key));
    }

    pub fn is_set(&self, key: &TimerKey) -> bool {
        self.due.contains_key(key)
    }

    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some((at, _)) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    pub fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the first that is due, with the epoch it was set in.
    pub fn take_due(&mut self, now: Timestamp) -> Option<(TimerKey, i32)> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        let (_, epoch) = self.due.remove(&key)?;
        Some((key, epoch))
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }
}

/// One per machine.
#[derive(Default)]
pub struct Soft {
    pub timers: Timers,
    pub hashes: TopicHashes,
    /// Groups whose expressions are being evaluated.
    pub resolutions: BTreeMap<Text, Resolution>,
    /// Groups whose topics have been looked at since they last changed, and since the machine was loaded.
    pub fresh: BTreeSet<Text>,
    /// Groups by the topics they are subscribed to.
    pub groups_by_topic: BTreeMap<Text, BTreeSet<Text>>,
    /// Version of the last image that brought new topics.
    pub topics_created_version: i64,
}

impl Soft {
    /// Timers of a member that is gone.
    pub fn cancel_timers(&mut self, group: &Text, member: &Text) {
        for timer in [Timer::Session, Timer::Rebalance, Timer::Join, Timer::Sync] {
            self.timers.cancel(&(group.clone(), member.clone(), timer));
        }
    }

    /// Everything of a group that is gone, or is no consumer group any more. Its members' timers are
    /// cancelled one by one as they go.
    pub fn forget_group(&mut self, group: &Text) {
        self.resolutions.remove(group);
        self.fresh.remove(group);
    }

    pub(super) fn subscribe(&mut self, group: &Text, topic: &Text) {
        let groups = self.groups_by_topic.entry(topic.clone()).or_default();
        groups.insert(group.clone());
    }

    pub(super) fn unsubscribe(&mut self, group: &Text, topic: &Text) {
        if let Some(groups) = self.groups_by_topic.get_mut(topic) {
            groups.remove(group);
            if groups.is_empty() {
                self.groups_by_topic.remove(topic);
                self.hashes.forget(topic);
            }
        }
    }

    /// A topic has changed, came, or is gone: the groups subscribed to it look at it again.
    pub fn topic_changed(&mut self, topic: &str) {
        self.hashes.forget(topic);
        if let Some(groups) = self.groups_by_topic.get(topic) {
            for group in groups {
                self.fresh.remove(group);
            }
        }
    }
}
