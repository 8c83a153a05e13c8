//! A member of a consumer group, and what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{CurrentMember, MemberMetadata};
use crate::base::TopicId;

/// Ids and names that many records and members share.
pub type Text = Arc<str>;

/// The epoch with which a member leaves for good.
pub const LEAVE_GROUP_EPOCH: i32 = -1;

/// The epoch with which a static member leaves, to come back.
pub const LEAVE_GROUP_STATIC_EPOCH: i32 = -2;

/// Partitions a member holds, each with the member epoch since which it does (KIP-1251).
pub type Owned = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// How far a member has come on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberState {
    /// It owns what it should at its epoch.
    Stable = 0,
    /// It was told to give up partitions, and has not said yet that it did.
    UnrevokedPartitions = 1,
    /// Some of its partitions are with others still.
    UnreleasedPartitions = 2,
    /// Written by a later version.
    Unknown = 127,
}

impl MemberState {
    pub fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// What a member that speaks the classic protocol said when it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMetadata {
    pub session_timeout_ms: i32,
    /// In the member's order of preference, at least one.
    pub protocols: Vec<ClassicProtocol>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicProtocol {
    pub name: Text,
    /// Its subscription.
    pub metadata: Bytes,
}

/// A member; immutable, a change makes a new one. Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: Text,
    pub epoch: i32,
    /// The epoch before, in which the answer that raised it may not have been heard.
    pub previous_epoch: i32,
    pub state: MemberState,
    pub instance_id: Option<Text>,
    pub rack_id: Option<Text>,
    /// How long it may take to give up partitions; -1 if it never said.
    pub rebalance_timeout_ms: i32,
    pub client_id: Text,
    pub client_host: Text,
    pub subscribed_topics: Rc<BTreeSet<Text>>,
    /// Empty is none.
    pub subscribed_regex: Option<Text>,
    pub server_assignor: Option<Text>,
    pub assigned: Rc<Owned>,
    /// What it was told to give up, and may still hold.
    pub revoking: Rc<Owned>,
    /// `Some` while it speaks the classic protocol.
    pub classic: Option<Rc<ClassicMetadata>>,
}

impl Member {
    pub fn new(id: Text) -> Self {
        Self {
            id,
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: -1,
            client_id: "".into(),
            client_host: "".into(),
            subscribed_topics: Rc::default(),
            subscribed_regex: Some("".into()),
            server_assignor: None,
            assigned: Rc::default(),
            revoking: Rc::default(),
            classic: None,
        }
    }

    /// The same at another epoch.
    #[must_use]
    pub fn at_epoch(&self, epoch: i32) -> Self {
        Self {
            epoch,
            previous_epoch: self.epoch,
            ..self.clone()
        }
    }

    /// The regular expression it is subscribed to, if there is one.
    pub fn regex(&self) -> Option<&Text> {
        self.subscribed_regex.as_ref().filter(|r| !r.is_empty())
    }

    /// Whether it owns all of the target of this epoch, and nothing else.
    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    /// The epoch since which it holds a partition, given up or not.
    pub fn assignment_epoch(&self, topic: TopicId, partition: i32) -> Option<i32> {
        let of = |owned: &Owned| owned.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    pub(super) fn metadata(&self) -> MemberMetadata {
        MemberMetadata {
            instance_id: self.instance_id.clone(),
            rack_id: self.rack_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topics: self.subscribed_topics.clone(),
            subscribed_regex: self.subscribed_regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.server_assignor.clone(),
            classic: self.classic.clone(),
        }
    }

    pub(super) fn current(&self) -> CurrentMember {
        CurrentMember {
            epoch: self.epoch,
            previous_epoch: self.previous_epoch,
            state: self.state,
            assigned: self.assigned.clone(),
            revoking: self.revoking.clone(),
        }
    }

    #[must_use]
    pub(super) fn with_metadata(&self, value: MemberMetadata) -> Self {
        Self {
            instance_id: value.instance_id,
            rack_id: value.rack_id,
            client_id: value.client_id,
            client_host: value.client_host,
            subscribed_topics: value.subscribed_topics,
            subscribed_regex: value.subscribed_regex,
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            server_assignor: value.server_assignor,
            classic: value.classic,
            ..self.clone()
        }
    }

    #[must_use]
    pub(super) fn with_current(&self, value: CurrentMember) -> Self {
        Self {
            epoch: value.epoch,
            previous_epoch: value.previous_epoch,
            state: value.state,
            assigned: value.assigned,
            revoking: value.revoking,
            ..self.clone()
        }
    }
}
