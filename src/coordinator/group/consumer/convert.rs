//! A group becomes one of the other kind while it has members.
//!
//! A classic group becomes a consumer group when the first member of the new protocol joins it: its
//! generation becomes the epochs, what its leader assigned becomes what its members own, and should own.
//! A consumer group becomes a classic one when the last member of the new protocol leaves it, or is
//! replaced: what members should own becomes their assignment. Then they join anew.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::classic::PROTOCOL_TYPE;
use super::embedded;
use super::group::{ConsumerGroup, without_epochs};
use super::hash::TopicHashes;
use super::member::{ClassicMetadata, ClassicProtocol, Member, MemberState, Owned, Text};
use super::record::{Body, ConsumerRecord, Partitions, TargetMetadata};
use super::soft::Soft;
use super::{Env, Refusal};
use crate::base::Timestamp;
use crate::coordinator::group::classic::{self, ClassicGroup};
use crate::metadata::Image;
use crate::protocol::ErrorCode;

fn cannot<T>(group: &str, why: &str) -> Result<T, Refusal> {
    Err(Refusal::new(
        ErrorCode::GroupIdNotFound,
        format!("Cannot upgrade classic group {group} to consumer group because {why}."),
    ))
}

/// Whether a classic group with members may become a consumer group.
pub fn check_upgrade(env: &Env<'_>, group: &ClassicGroup) -> Result<(), Refusal> {
    let settings = &env.settings.consumer_groups;
    if !settings.migration_policy.allows_upgrade() {
        return cannot(group.id(), "online upgrade is disabled");
    }
    if !group.is_of_consumers() {
        let why = "the group does not use the consumer embedded protocol";
        return cannot(group.id(), why);
    }
    if group.member_count() > settings.max_size as usize {
        let why = "the group size exceeds the consumer group maximum size";
        return cannot(group.id(), why);
    }
    Ok(())
}

/// The consumer group that a classic one becomes.
///
/// Of a group that has not settled in its generation, the last assignment is not the target of its members: the
/// epoch is ahead, so that one is computed even if nothing else has changed. (A static member that takes
/// its place over with the same subscription changes nothing; Kafka 4.3 leaves members that never were
/// assigned anything without partitions then.)
pub fn from_classic(
    group: &ClassicGroup,
    image: &Image,
    hashes: &mut TopicHashes,
) -> Result<ConsumerGroup, Refusal> {
    let generation = group.generation();
    let mut made = ConsumerGroup::new(group.id().clone());
    let mut is_settled = group.state() == classic::State::Stable;
    let mut bodies = vec![Body::TargetMetadata(Some(TargetMetadata {
        epoch: generation,
        timestamp: Timestamp(0),
    }))];
    let malformed = "the embedded consumer protocol is malformed";
    for member in group.members() {
        let first = member.protocols.first();
        let metadata = match group.protocol() {
            Some(_) => group.metadata(member),
            // It never came to a generation.
            None => first.map(|p| p.metadata.clone()).unwrap_or_default(),
        };
        let Ok(subscription) = embedded::subscription(&metadata) else {
            return cannot(group.id(), malformed);
        };
        let mut target = Partitions::new();
        if !member.assignment.is_empty() {
            match embedded::assignment(&member.assignment) {
                Err(_) => return cannot(group.id(), malformed),
                // What a custom assignor put there would be lost.
                Ok((_, true)) => {
                    let why = "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade";
                    return cannot(group.id(), why);
                }
                Ok((partitions, false)) => target = embedded::by_id(&partitions, image),
            }
        }
        // What it had when it joined and was not assigned again it has until it has heard of that, and
        // has joined once more. Kafka 4.3 takes it for free.
        let mut has = target.clone();
        for (topic, partitions) in embedded::by_id(&subscription.owned, image) {
            has.entry(topic).or_default().extend(partitions);
        }
        is_settled &= has == target;
        let owned: Owned = has
            .iter()
            .map(|(topic, partitions)| {
                let since = partitions.iter().map(|p| (*p, generation));
                (*topic, since.collect())
            })
            .collect();
        let protocols = member.protocols.iter().map(|protocol| ClassicProtocol {
            name: protocol.name.clone(),
            metadata: protocol.metadata.clone(),
        });
        let topics = subscription
            .topics
            .iter()
            .map(|topic| topic.as_str().into());
        let member = Member {
            epoch: generation,
            previous_epoch: generation,
            state: MemberState::Stable,
            instance_id: member.instance_id.clone(),
            rack_id: subscription
                .rack_id
                .filter(|rack| !rack.is_empty())
                .map(Text::from),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            client_id: (&*member.client_id).into(),
            client_host: (&*member.client_host).into(),
            subscribed_topics: Rc::new(topics.collect()),
            assigned: Rc::new(owned),
            classic: Some(Rc::new(ClassicMetadata {
                session_timeout_ms: member.session_timeout_ms,
                protocols: protocols.collect(),
            })),
            ..Member::new(member.id.clone())
        };
        let id = &member.id;
        bodies.push(Body::MemberMetadata(id.clone(), Some(member.metadata())));
        bodies.push(Body::TargetMember(id.clone(), Some(target)));
        bodies.push(Body::CurrentMember(id.clone(), Some(member.current())));
    }
    // What is on record is another matter: nothing of this group is yet.
    let mut scratch = Soft::default();
    for body in bodies {
        let record = ConsumerRecord::new(group.id(), body);
        let applied = made.apply(record, &mut scratch);
        assert_eq!(applied, Ok(true), "none of these takes the group back");
    }
    made.epoch = match is_settled {
        true => generation,
        false => generation.saturating_add(1),
    };
    made.metadata_hash = hashes.of_group(made.topics.keys(), image);
    Ok(made)
}

/// The classic group that a consumer group becomes without the members that leave it, or with `joining`
/// in the place of the static member of its name.
///
/// If its members have to join again (`rebalance`), each is assigned what it owns: should the group change
/// back before they have, it would be given what another owns, were it what it should own one day. (Kafka
/// 4.3 says the latter.)
pub fn to_classic(
    group: &ConsumerGroup,
    leaving: &BTreeMap<Text, Rc<Member>>,
    joining: Option<&Member>,
    rebalance: bool,
    now: Timestamp,
    image: &Image,
) -> ClassicGroup {
    let replaced = joining
        .and_then(|joining| group.static_member(joining.instance_id.as_deref()?))
        .map(|member| member.id.clone());
    let staying = group.members.values().filter(|member| {
        !leaving.contains_key(&member.id) && Some(&member.id) != replaced.as_ref()
    });
    let members = staying.map(|member| &**member).chain(joining);
    let members = members.filter_map(|member| {
        let classic = member.classic.as_ref()?;
        let protocols = classic.protocols.iter().map(|protocol| classic::Protocol {
            name: protocol.name.clone(),
            metadata: protocol.metadata.clone(),
        });
        Some(classic::Member {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: (&*member.client_id).into(),
            client_host: (&*member.client_host).into(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: classic.session_timeout_ms,
            protocols: protocols.collect(),
            assignment: bytes::Bytes::new(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
        })
    });
    let id: Arc<str> = group.id.clone();
    let members = members.collect();
    let mut made = ClassicGroup::stable(id, group.epoch, PROTOCOL_TYPE, members, now);
    let versions: BTreeMap<Text, i16> = made
        .members()
        .map(|member| {
            let version = embedded::version(&made.metadata(member));
            (member.id.clone(), version.unwrap_or(0))
        })
        .collect();
    for member in made.members_mut() {
        let of = match joining {
            Some(joining) if joining.id == member.id => replaced.as_ref().unwrap_or(&joining.id),
            _ => &member.id,
        };
        let assignment = match rebalance {
            false => group.target.get(of).cloned().unwrap_or_default(),
            true => {
                let owner = group.members.get(of);
                Rc::new(owner.map(|owner| owned(owner)).unwrap_or_default())
            }
        };
        let version = versions.get(&member.id).copied().unwrap_or(0);
        member.assignment = embedded::encode_assignment(version, &assignment, image).into();
    }
    made
}

/// What a member has, and has not said to have given up.
fn owned(member: &Member) -> Partitions {
    let mut owned = without_epochs(&member.assigned);
    for (topic, partitions) in without_epochs(&member.revoking) {
        owned.entry(topic).or_default().extend(partitions);
    }
    owned
}
