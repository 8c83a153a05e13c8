use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Topics by number, with so many partitions.
struct World {
    partitions: Vec<usize>,
}

impl World {
    fn of(&self, topic: TopicId) -> usize {
        self.partitions[topic.0 as usize]
    }

    fn run(&self, assignor: Assignor, members: &[MemberSpec]) -> Vec<Rc<Partitions>> {
        let alike = members.iter().all(|m| m.topics == members[0].topics);
        let partitions = |topic| self.of(topic);
        let spec = GroupSpec {
            members: members.to_vec(),
            subscriptions: match alike {
                true => Subscriptions::Homogeneous,
                false => Subscriptions::Heterogeneous,
            },
            partitions: &partitions,
        };
        assignor.assign(&spec)
    }

    /// Every partition that somebody is subscribed to has one owner, who is.
    fn check(&self, members: &[MemberSpec], targets: &[Rc<Partitions>]) {
        assert_eq!(members.len(), targets.len());
        let mut owned = BTreeSet::new();
        for (member, target) in members.iter().zip(targets) {
            for (topic, partitions) in target.iter() {
                assert!(member.topics.contains(topic));
                assert!(!partitions.is_empty());
                for partition in partitions {
                    assert!(owned.insert((*topic, *partition)), "two owners");
                }
            }
        }
        let topics: BTreeSet<_> = members.iter().flat_map(|m| m.topics.iter()).collect();
        let all: usize = topics.iter().map(|topic| self.of(**topic)).sum();
        assert_eq!(owned.len(), all);
    }
}

fn size(target: &Partitions) -> usize {
    target.values().map(BTreeSet::len).sum()
}

fn spec(id: usize, topics: impl IntoIterator<Item = usize>) -> MemberSpec {
    MemberSpec {
        id: format!("m{id:04}").into(),
        instance_id: None,
        topics: Rc::new(topics.into_iter().map(|t| TopicId(t as u128)).collect()),
        target: Rc::default(),
    }
}

fn with_targets(members: &mut [MemberSpec], targets: &[Rc<Partitions>]) {
    for (member, target) in members.iter_mut().zip(targets) {
        member.target = target.clone();
    }
}

/// Partitions that a member has now and had not before, of those that were somebody's who is still there.
fn moves(before: &[MemberSpec], after: &[Rc<Partitions>]) -> usize {
    let mut owner = BTreeMap::new();
    for (index, member) in before.iter().enumerate() {
        for (topic, partitions) in member.target.iter() {
            for partition in partitions {
                owner.insert((*topic, *partition), index);
            }
        }
    }
    let mut moves = 0;
    for (index, target) in after.iter().enumerate() {
        for (topic, partitions) in target.iter() {
            for partition in partitions {
                let before = owner.get(&(*topic, *partition));
                moves += usize::from(before.is_some_and(|before| *before != index));
            }
        }
    }
    moves
}

#[test]
fn range_gives_each_member_the_same_positions_of_each_topic() {
    let world = World {
        partitions: vec![7, 3],
    };
    let mut members: Vec<_> = (0..3).map(|m| spec(m, [0, 1])).collect();
    members[2].instance_id = Some("a".into());
    let targets = world.run(Assignor::Range, &members);
    world.check(&members, &targets);
    let of = |index: usize, topic| targets[index][&TopicId(topic)].iter().copied();
    // The static member comes first.
    assert_eq!(of(2, 0).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(of(0, 0).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(of(1, 0).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(of(1, 1).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_thousand_members_one_after_another_move_what_each_new_one_needs_and_no_more() {
    let world = World {
        partitions: vec![2_000],
    };
    let mut members: Vec<MemberSpec> = Vec::new();
    for id in 0..1_000 {
        members.push(spec(id, [0]));
        // As after 1 s: the assignor does not run for each.
        if id % 100 == 99 {
            let targets = world.run(Assignor::Uniform, &members);
            world.check(&members, &targets);
            let least = 2_000 / members.len();
            assert!(moves(&members, &targets) <= 100 * (least + 1));
            with_targets(&mut members, &targets);
        }
    }
}

#[test]
fn a_topic_that_is_gone_or_shrunk_does_no_harm() {
    let world = World {
        partitions: vec![2, 0],
    };
    let mut members = vec![spec(0, [0]), spec(1, [0, 1])];
    members[0].target = Rc::new(BTreeMap::from([
        (TopicId(0), BTreeSet::from([1, 5, -1])),
        (TopicId(1), BTreeSet::from([0])),
    ]));
    for assignor in Assignor::ALL {
        let targets = world.run(assignor, &members);
        world.check(&members, &targets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Members come, go and change their subscriptions; after each step all rules hold.
    #[test]
    fn assignments_are_complete_balanced_and_stable(
        partitions in prop::collection::vec(0usize..40, 1..8),
        alike in any::<bool>(),
        steps in prop::collection::vec((0usize..60, any::<u8>(), 0u8..10), 1..30),
    ) {
        let world = World { partitions };
        let all = world.partitions.len();
        let topics = |bits: u8| {
            let all = 0..all;
            all.filter(move |t| alike || bits & (1 << t) != 0).collect::<Vec<_>>()
        };
        for assignor in Assignor::ALL {
            let mut members: BTreeMap<usize, MemberSpec> = BTreeMap::new();
            for (id, bits, action) in &steps {
                let before = members.get(id).map(|m| m.target.clone());
                match action {
                    0..=2 => { members.remove(id); }
                    _ => {
                        let mut member = spec(*id, topics(*bits));
                        member.target = before.unwrap_or_default();
                        members.insert(*id, member);
                    }
                }
                if members.is_empty() { continue; }
                let mut specs: Vec<MemberSpec> = members.values().cloned().collect();
                let targets = world.run(assignor, &specs);
                world.check(&specs, &targets);
                let homogeneous = specs.iter().all(|m| m.topics == specs[0].topics);
                if assignor == Assignor::Uniform {
                    let sizes: Vec<usize> = targets.iter().map(|t| size(t)).collect();
                    let (least, most) = (*sizes.iter().min().unwrap(), *sizes.iter().max().unwrap());
                    if homogeneous {
                        prop_assert!(most - least <= 1, "{sizes:?}");
                        // Nothing moves but what the balance asks for.
                        let needed: usize = specs.iter().zip(&sizes)
                            .map(|(m, size)| {
                                let kept: usize = m.target.iter()
                                    .filter(|(t, _)| m.topics.contains(t)).map(|(_, p)| p.len()).sum();
                                kept.saturating_sub(*size)
                            }).sum();
                        prop_assert!(moves(&specs, &targets) <= needed);
                    } else {
                        // Nobody could give a partition to someone who has two less.
                        for (a, target) in targets.iter().enumerate() {
                            for topic in target.keys() {
                                for (b, member) in specs.iter().enumerate() {
                                    if member.topics.contains(topic) {
                                        prop_assert!(sizes[a] <= sizes[b] + 1, "{sizes:?}");
                                    }
                                }
                            }
                        }
                    }
                }
                // Asked again, it says the same.
                with_targets(&mut specs, &targets);
                let again = world.run(assignor, &specs);
                prop_assert_eq!(&again, &targets);
                for (member, target) in members.values_mut().zip(&targets) {
                    member.target = target.clone();
                }
            }
        }
    }
}
