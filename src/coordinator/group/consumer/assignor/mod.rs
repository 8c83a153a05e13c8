//! Server-side assignors: who should own what.
//!
//! An assignor sees members, what they are subscribed to and what they should own up to now, and says
//! what they should own. None looks at racks: Apache Kafka's do not either, since 4.0.

mod range;
mod uniform;

use std::collections::BTreeSet;
use std::rc::Rc;

use super::member::Text;
use super::record::Partitions;
use crate::base::TopicId;

/// Whether all members have the same subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscriptions {
    Homogeneous,
    Heterogeneous,
}

/// What an assignor knows of a member.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    pub id: Text,
    pub instance_id: Option<Text>,
    /// Topics that exist.
    pub topics: Rc<BTreeSet<TopicId>>,
    /// What it should own up to now.
    pub target: Rc<Partitions>,
}

/// What an assignor knows of a group.
pub struct GroupSpec<'a> {
    /// By id.
    pub members: Vec<MemberSpec>,
    pub subscriptions: Subscriptions,
    /// How many partitions a topic has.
    pub partitions: &'a dyn Fn(TopicId) -> usize,
}

/// The assignors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// As many partitions for each as can be, while as few as can be move.
    Uniform,
    /// Of each topic a range for each, the same positions in all topics, so that topics with as many
    /// partitions can be joined.
    Range,
}

impl Assignor {
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// By its name, or by the name of Kafka's class.
    pub fn find(name: &str) -> Option<Self> {
        let name = name
            .strip_prefix("org.apache.kafka.coordinator.group.assignor.")
            .map_or(name, |class| match class {
                "UniformAssignor" => "uniform",
                "RangeAssignor" => "range",
                other => other,
            });
        Self::ALL
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// What each member should own, in the order of the members. Every partition that somebody is
    /// subscribed to has one owner, who is.
    pub fn assign(self, group: &GroupSpec<'_>) -> Vec<Rc<Partitions>> {
        match (self, group.subscriptions) {
            (Assignor::Range, _) => range::assign(group),
            (Assignor::Uniform, Subscriptions::Homogeneous) => uniform::assign_alike(group),
            (Assignor::Uniform, Subscriptions::Heterogeneous) => uniform::assign_any(group),
        }
    }
}

#[cfg(test)]
mod tests;
