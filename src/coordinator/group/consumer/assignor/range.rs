//! Members in order, static ones first by instance id, then the others by member id; of each topic the
//! first subscriber gets the first range, and so on.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::GroupSpec;
use crate::base::TopicId;
use crate::coordinator::group::consumer::record::Partitions;

#[derive(Default)]
struct Topic {
    partitions: usize,
    subscribers: usize,
    /// Subscribers served.
    served: usize,
    next: usize,
}

pub(super) fn assign(group: &GroupSpec<'_>) -> Vec<Rc<Partitions>> {
    let mut topics: BTreeMap<TopicId, Topic> = BTreeMap::new();
    for id in group.members.iter().flat_map(|m| m.topics.iter()) {
        let topic = topics.entry(*id).or_insert_with(|| Topic {
            partitions: (group.partitions)(*id),
            ..Topic::default()
        });
        topic.subscribers += 1;
    }
    let mut order: Vec<usize> = (0..group.members.len()).collect();
    order.sort_by_key(|index| {
        let member = &group.members[*index];
        (
            member.instance_id.is_none(),
            &member.instance_id,
            &member.id,
        )
    });
    let mut targets = vec![Rc::default(); group.members.len()];
    for index in order {
        let mut target = Partitions::new();
        for id in group.members[index].topics.iter() {
            let Some(topic) = topics.get_mut(id) else {
                continue;
            };
            // The first few get one more, so that nothing is left.
            let more = topic.served < topic.partitions % topic.subscribers;
            let end = topic.next + topic.partitions / topic.subscribers + usize::from(more);
            topic.served += 1;
            if topic.next < end {
                let range = topic.next as i32..end as i32;
                target.insert(*id, range.collect());
            }
            topic.next = end;
        }
        targets[index] = Rc::new(target);
    }
    targets
}
