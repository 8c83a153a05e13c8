//! How a member comes from what it owns to what it should own, revocation first.
//!
//! At a heartbeat, what the member owns is held against its target:
//! 1. What it owns beyond the target it has to give up. Until it no longer reports any of that, it stays
//!    in its epoch ([`MemberState::UnrevokedPartitions`]).
//! 2. Then it comes into the target's epoch, and is given what nobody else holds. If something is held
//!    by others still, it waits ([`MemberState::UnreleasedPartitions`]) and is given that later.
//! 3. When it has all, it is [`MemberState::Stable`].
//!
//! A topic that it is not subscribed to any more is no part of its target.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Refusal;
use super::group::ConsumerGroup;
use super::member::{Member, MemberState, Owned};
use super::record::Partitions;
use crate::base::TopicId;
use crate::metadata::Image;
use crate::protocol::ErrorCode;

/// What a member is led to, and what it says of itself.
pub struct Reconciliation<'a> {
    pub group: &'a ConsumerGroup,
    pub image: &'a Image,
    pub target_epoch: i32,
    pub target: &'a Partitions,
    /// In this very request: what it is not subscribed to any more has to go, even in a stable member.
    pub subscription_changed: bool,
    /// What the member says it owns; `None` if it does not say.
    pub owned: Option<&'a Partitions>,
}

impl Reconciliation<'_> {
    /// The member's next state, which may be the one it is in.
    pub fn next(&self, member: &Member) -> Result<Member, Refusal> {
        Ok(match member.state {
            MemberState::Stable if member.epoch != self.target_epoch => self.toward_target(member),
            MemberState::Stable if self.subscription_changed => self.drop_unsubscribed(member),
            MemberState::Stable => member.clone(),
            MemberState::UnrevokedPartitions if self.owns_any_of(&member.revoking) => {
                match self.subscription_changed {
                    true => self.drop_unsubscribed(member),
                    false => member.clone(),
                }
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.toward_target(member)
            }
            MemberState::Unknown => {
                if self.owned.is_none_or(|owned| !owned.is_empty()) {
                    return Err(Refusal::new(
                        ErrorCode::FencedMemberEpoch,
                        "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
                    ));
                }
                let member = Member {
                    epoch: self.target_epoch,
                    ..member.clone()
                };
                self.toward_target(&member)
            }
        })
    }

    /// Whether the member says that it owns some of these, or does not say.
    fn owns_any_of(&self, revoking: &Owned) -> bool {
        let Some(owned) = self.owned else {
            return true;
        };
        owned.iter().any(|(topic, partitions)| {
            let revoking = revoking.get(topic);
            revoking.is_some_and(|revoking| partitions.iter().any(|p| revoking.contains_key(p)))
        })
    }

    fn subscribed(&self, member: &Member) -> BTreeSet<TopicId> {
        self.group.subscribed_ids(member, self.image)
    }

    /// Gives up topics it is not subscribed to, and changes nothing else.
    fn drop_unsubscribed(&self, member: &Member) -> Member {
        let subscribed = self.subscribed(member);
        if member
            .assigned
            .keys()
            .all(|topic| subscribed.contains(topic))
        {
            return member.clone();
        }
        let mut assigned = Owned::clone(&member.assigned);
        let mut revoking = Owned::clone(&member.revoking);
        assigned.retain(|topic, partitions| {
            let stays = subscribed.contains(topic);
            if !stays {
                revoking.entry(*topic).or_default().append(partitions);
            }
            stays
        });
        let mut next = member.at_epoch(member.epoch);
        next.assigned = Rc::new(assigned);
        if !revoking.is_empty() && self.owns_any_of(&revoking) {
            next.state = MemberState::UnrevokedPartitions;
            next.revoking = Rc::new(revoking);
        }
        next
    }

    fn toward_target(&self, member: &Member) -> Member {
        let subscribed = self.subscribed(member);
        let empty = BTreeSet::new();
        let mut unreleased = false;
        let mut assigned = Owned::new();
        let mut revoking = Owned::new();
        let mut coming = Partitions::new();
        let topics: BTreeSet<_> = self.target.keys().chain(member.assigned.keys()).collect();
        for topic in topics {
            let target = match subscribed.contains(topic) {
                true => self.target.get(topic).unwrap_or(&empty),
                false => &empty,
            };
            let own = member.assigned.get(topic);
            for (partition, epoch) in own.into_iter().flatten() {
                let side = match target.contains(partition) {
                    true => &mut assigned,
                    false => &mut revoking,
                };
                side.entry(*topic).or_default().insert(*partition, *epoch);
            }
            for partition in target {
                if own.is_some_and(|own| own.contains_key(partition)) {
                    continue;
                }
                // What it is giving up itself is free for it to keep.
                let own = member.revoking.get(topic);
                let own = own.is_some_and(|own| own.contains_key(partition));
                if !own && self.group.partition_epoch(*topic, *partition).is_some() {
                    unreleased = true;
                } else {
                    coming.entry(*topic).or_default().insert(*partition);
                }
            }
        }
        if !revoking.is_empty() && self.owns_any_of(&revoking) {
            let mut next = member.at_epoch(member.epoch);
            next.state = MemberState::UnrevokedPartitions;
            next.assigned = Rc::new(assigned);
            next.revoking = Rc::new(revoking);
            return next;
        }
        for (topic, partitions) in coming {
            let since = partitions.into_iter().map(|p| (p, self.target_epoch));
            assigned.entry(topic).or_default().extend(since);
        }
        let mut next = member.at_epoch(self.target_epoch);
        next.state = match unreleased {
            true => MemberState::UnreleasedPartitions,
            false => MemberState::Stable,
        };
        next.assigned = Rc::new(assigned);
        next.revoking = Rc::default();
        next
    }
}
