//! Consumer groups of the new protocol (KIP-848): the coordinator assigns, members follow.
//!
//! Three epochs chase each other:
//! 1. The **group epoch** grows when what the assignment rests on has changed: members, their
//!    subscriptions, the topics.
//! 2. The **target epoch** follows it when an assignor has computed what every member should own, at
//!    most once in `group.consumer.assignment.interval.ms`.
//! 3. A **member's epoch** follows the target, each member by its own heartbeats ([`reconcile`]): it
//!    gives up first what is no longer its own, and is given what nobody else holds any more.
//!
//! At no time do two members own a partition. What is on record is a [`ConsumerGroup`], which changes by
//! [`ConsumerGroup::apply`] alone. Operations ([`heartbeat`], [`classic`]) read it and return records and
//! an answer; what is not on record, the deadlines of members and the like, is in [`Soft`].
//!
//! Members of the classic protocol may be in such a group ([`classic`]), and a group may change from one
//! kind into the other while it has members ([`convert`]).

pub mod assignor;
pub mod classic;
pub mod convert;
pub mod embedded;
pub mod group;
pub mod hash;
pub mod heartbeat;
pub mod member;
pub mod reconcile;
pub mod record;
pub mod regex;
pub mod soft;

pub use group::{ConsumerGroup, GroupState};
pub use member::Text;
pub use record::ConsumerRecord;
pub use soft::{Soft, Timer};

use crate::base::Timestamp;
use crate::base::settings::NodeSettings;
use crate::metadata::{Delta, Image};
use crate::protocol::ErrorCode;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }
}

/// What an operation may look at beside the group.
pub struct Env<'a> {
    pub now: Timestamp,
    pub image: &'a Image,
    pub settings: &'a NodeSettings,
    /// Random bits, for ids.
    pub random: &'a mut dyn FnMut() -> u128,
    pub soft: &'a mut Soft,
}

/// No consumer group has this id.
pub fn not_found(group: &str) -> Refusal {
    let message = format!("Consumer group {group} not found.");
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

/// Topics have changed: groups that are subscribed to them look at them when they are next heard of.
pub fn image_changed(soft: &mut Soft, image: &Image, delta: &Delta) {
    if !delta.topics_created.is_empty() {
        soft.topics_created_version = image.version();
    }
    if !delta.brokers_changed.is_empty() {
        // Racks count, and where they have changed is not said.
        soft.hashes.clear();
        soft.fresh.clear();
    }
    for topic in delta.topics_created.iter().chain(&delta.topics_deleted) {
        soft.topic_changed(&topic.name);
    }
    for partition in delta
        .partitions_added
        .iter()
        .chain(&delta.partitions_changed)
    {
        if let Some(topic) = image.topic(partition.topic_id) {
            soft.topic_changed(&topic.name);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod testing;
