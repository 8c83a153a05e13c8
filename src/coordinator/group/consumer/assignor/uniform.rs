//! As many partitions for each member as can be, while as few as can be move.
//!
//! When all have the same subscription ([`assign_alike`]), everybody's share is known: the number of
//! partitions by the number of members, and one more for as many as are left over.
//! 1. A member keeps what it has, up to its share. One more it may keep while there are any left over.
//! 2. What nobody has goes to those below their share.
//!
//! When subscriptions differ ([`assign_any`]):
//! 1. A member keeps what it is subscribed to.
//! 2. What nobody has goes to the subscriber with the least, the topics with the most partitions a
//!    subscriber first.
//! 3. Topic by topic, partitions go from the subscriber with the most to the one with the least while
//!    they differ by more than one, until a whole round moves nothing, or after 16 rounds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{GroupSpec, MemberSpec};
use crate::base::TopicId;
use crate::coordinator::group::consumer::record::Partitions;

const MAX_ROUNDS: usize = 16;

/// Nobody.
const NONE: usize = usize::MAX;

/// Owners of the partitions of topics.
type Owners = BTreeMap<TopicId, Vec<usize>>;

/// What members have of what they are subscribed to; where two have it, the first.
fn present_owners(group: &GroupSpec<'_>, topics: impl Iterator<Item = TopicId>) -> Owners {
    let mut owners: Owners = topics
        .map(|topic| (topic, vec![NONE; (group.partitions)(topic)]))
        .collect();
    for (index, member) in group.members.iter().enumerate() {
        for (topic, partitions) in member.target.iter() {
            if !member.topics.contains(topic) {
                continue;
            }
            let Some(owners) = owners.get_mut(topic) else {
                continue;
            };
            for partition in partitions {
                let owner = usize::try_from(*partition)
                    .ok()
                    .and_then(|p| owners.get_mut(p));
                if let Some(owner) = owner
                    && *owner == NONE
                {
                    *owner = index;
                }
            }
        }
    }
    owners
}

/// What follows for each member. A member for whom nothing changes keeps its very target.
fn targets(group: &GroupSpec<'_>, owners: &Owners) -> Vec<Rc<Partitions>> {
    let mut targets = vec![Partitions::new(); group.members.len()];
    for (topic, owners) in owners {
        for (partition, owner) in owners.iter().enumerate() {
            if let Some(target) = targets.get_mut(*owner) {
                let partitions = target.entry(*topic).or_default();
                partitions.insert(partition as i32);
            }
        }
    }
    let pairs = targets.into_iter().zip(&group.members);
    pairs
        .map(|(target, member)| match target == *member.target {
            true => member.target.clone(),
            false => Rc::new(target),
        })
        .collect()
}

pub(super) fn assign_alike(group: &GroupSpec<'_>) -> Vec<Rc<Partitions>> {
    let Some(MemberSpec { topics, .. }) = group.members.first() else {
        return Vec::new();
    };
    let mut owners = present_owners(group, topics.iter().copied());
    let members = group.members.len();
    let total: usize = owners.values().map(Vec::len).sum();
    let share = total / members;
    let mut left_over = total % members;

    let mut counts = vec![0; members];
    for owner in owners.values().flatten() {
        if let Some(count) = counts.get_mut(*owner) {
            *count += 1;
        }
    }
    // Who has more than its share keeps one of those left over, while there are any. If there are fewer
    // such members, the first of the others get one.
    let mut limits = vec![share; members];
    for (limit, count) in limits.iter_mut().zip(&counts) {
        if left_over > 0 && *count > share {
            *limit += 1;
            left_over -= 1;
        }
    }
    for limit in limits.iter_mut().filter(|limit| **limit == share) {
        if left_over == 0 {
            break;
        }
        *limit += 1;
        left_over -= 1;
    }
    let mut kept = vec![0; members];
    for owner in owners.values_mut().flatten() {
        let index = *owner;
        if index == NONE {
            continue;
        }
        match kept[index] < limits[index] {
            true => kept[index] += 1,
            false => *owner = NONE,
        }
    }
    let mut next = 0;
    for owner in owners.values_mut().flatten().filter(|o| **o == NONE) {
        while next < members && kept[next] >= limits[next] {
            next += 1;
        }
        // The limits sum up to the total.
        assert!(next < members, "partitions are left unassigned");
        *owner = next;
        kept[next] += 1;
    }
    targets(group, &owners)
}

pub(super) fn assign_any(group: &GroupSpec<'_>) -> Vec<Rc<Partitions>> {
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (index, member) in group.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(index);
        }
    }
    let mut owners = present_owners(group, subscribers.keys().copied());
    let mut loads = vec![0usize; group.members.len()];
    for owner in owners.values().flatten() {
        if let Some(load) = loads.get_mut(*owner) {
            *load += 1;
        }
    }
    let mut order: Vec<TopicId> = subscribers.keys().copied().collect();
    order.sort_by_key(|topic| {
        let subscribers = subscribers[topic].len();
        // Partitions a subscriber in units of 2^-32, which fits: there are fewer than 2^31 partitions.
        let ratio = ((owners[topic].len() as u64) << 32) / subscribers as u64;
        (Reverse(ratio), subscribers, *topic)
    });

    for topic in &order {
        let owners = owners.get_mut(topic).expect("a topic of the order");
        if !owners.contains(&NONE) {
            continue;
        }
        let mut least: BTreeSet<(usize, usize)> =
            subscribers[topic].iter().map(|m| (loads[*m], *m)).collect();
        for owner in owners.iter_mut().filter(|owner| **owner == NONE) {
            let Some((load, member)) = least.pop_first() else {
                break;
            };
            *owner = member;
            loads[member] = load + 1;
            least.insert((load + 1, member));
        }
    }

    for _ in 0..MAX_ROUNDS {
        let mut moved = false;
        for topic in &order {
            let owners = owners.get_mut(topic).expect("a topic of the order");
            moved |= balance(owners, &subscribers[topic], &mut loads);
        }
        if !moved {
            break;
        }
    }
    targets(group, &owners)
}

/// Balances one topic. Whether anything moved.
fn balance(owners: &mut [usize], subscribers: &[usize], loads: &mut [usize]) -> bool {
    let range = subscribers.iter().map(|m| loads[*m]);
    let (least, most) = range.fold((usize::MAX, 0), |(a, b), load| (a.min(load), b.max(load)));
    if most.saturating_sub(least) <= 1 {
        return false;
    }
    let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (partition, owner) in owners.iter().enumerate() {
        owned.entry(*owner).or_default().push(partition);
    }
    let mut takers: BTreeSet<(usize, usize)> =
        subscribers.iter().map(|m| (loads[*m], *m)).collect();
    let mut givers: BTreeSet<(usize, usize)> = owned.keys().map(|m| (loads[*m], *m)).collect();
    let mut moved = false;
    while let (Some((most, giver)), Some((least, taker))) =
        (givers.last().copied(), takers.first().copied())
    {
        if most.saturating_sub(least) <= 1 {
            break;
        }
        givers.remove(&(most, giver));
        let Some(partition) = owned.get_mut(&giver).and_then(Vec::pop) else {
            continue;
        };
        owners[partition] = taker;
        owned.entry(taker).or_default().push(partition);
        takers.remove(&(most, giver));
        takers.remove(&(least, taker));
        givers.remove(&(least, taker));
        for (load, member) in [(most - 1, giver), (least + 1, taker)] {
            loads[member] = load;
            takers.insert((load, member));
            givers.insert((load, member));
        }
        moved = true;
    }
    moved
}
