//! Random members against the coordinator. They behave as clients do: they own what they were told, give
//! up before they say so, begin anew when fenced, and sometimes an answer is lost, or they are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::member::MemberState;
use super::record::{Body, Partitions};
use super::testing::World;
use super::{ConsumerRecord, GroupState};
use crate::base::TopicId;
use crate::protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use crate::protocol::messages::{ConsumerGroupHeartbeatRequest, GroupId, TopicName};
use crate::protocol::{ErrorCode, StrBytes, topic_id, uuid};

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[derive(Default)]
struct Client {
    epoch: i32,
    topics: BTreeSet<&'static str>,
    regex: Option<&'static str>,
    instance: Option<String>,
    owned: Partitions,
}

#[derive(Default)]
struct Model {
    world: World,
    clients: BTreeMap<String, Client>,
    next: usize,
    /// The greatest group and target epochs there were.
    epochs: (i32, i32),
}

#[derive(Clone, Debug)]
enum Step {
    Join {
        topics: u8,
        regex: bool,
        fixed: bool,
    },
    /// Of the member with this number, modulo those there are.
    Leave(usize),
    LeaveForAWhile(usize),
    Crash(usize),
    Heartbeat {
        member: usize,
        lost: bool,
    },
    Subscribe {
        member: usize,
        topics: u8,
    },
    Grow(usize),
    Tick(u16),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..8, any::<bool>(), any::<bool>())
            .prop_map(|(topics, regex, fixed)| Step::Join { topics, regex, fixed }),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::LeaveForAWhile),
        1 => any::<usize>().prop_map(Step::Crash),
        20 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(member, lost)| Step::Heartbeat { member, lost }),
        1 => (any::<usize>(), 0u8..8).prop_map(|(member, topics)| Step::Subscribe { member, topics }),
        1 => (0..TOPICS.len()).prop_map(Step::Grow),
        5 => (1u16..3_000).prop_map(Step::Tick),
        1 => Just(Step::Reload),
    ]
}

fn topics(bits: u8) -> BTreeSet<&'static str> {
    let topics = TOPICS.iter().enumerate();
    topics
        .filter(|(i, _)| bits & (1 << i) != 0)
        .map(|(_, t)| *t)
        .collect()
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        for (i, topic) in TOPICS.iter().enumerate() {
            model.world.topic(topic, 3 + 4 * i as i32);
        }
        model
    }

    fn id(&self, member: usize) -> Option<String> {
        let index = member.checked_rem(self.clients.len())?;
        self.clients.keys().nth(index).cloned()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Join {
                topics: bits,
                regex,
                fixed,
            } => {
                let id = format!("m{:03}", self.next);
                let client = Client {
                    topics: if regex { BTreeSet::new() } else { topics(bits) },
                    regex: regex.then_some(if bits < 4 { "[ab]" } else { "c" }),
                    instance: fixed.then(|| format!("i{}", self.next % 5)),
                    ..Client::default()
                };
                self.next += 1;
                self.clients.insert(id.clone(), client);
                self.heartbeat(&id, false);
            }
            Step::Leave(member) => self.leave(member, -1),
            Step::LeaveForAWhile(member) => self.leave(member, -2),
            Step::Crash(member) => {
                if let Some(id) = self.id(member) {
                    self.clients.remove(&id);
                }
            }
            Step::Heartbeat { member, lost } => {
                if let Some(id) = self.id(member) {
                    self.heartbeat(&id, lost);
                }
            }
            Step::Subscribe {
                member,
                topics: bits,
            } => {
                if let Some(id) = self.id(member) {
                    let client = self.clients.get_mut(&id).unwrap();
                    client.topics = topics(bits);
                    client.regex = None;
                    self.heartbeat(&id, false);
                }
            }
            Step::Grow(topic) => {
                let name = TOPICS[topic];
                let partitions = self
                    .world
                    .image
                    .topic_by_name(name)
                    .unwrap()
                    .partitions
                    .len();
                self.world.topic(name, partitions as i32 + 1);
            }
            Step::Tick(ms) => self.tick(i64::from(ms)),
            Step::Reload => self.world.reload(),
        }
        self.check();
    }

    fn tick(&mut self, ms: i64) {
        self.world.tick(ms);
        // Who was fenced by the clock has by then let go itself.
        let group = self.world.groups.get("g");
        for (id, client) in &mut self.clients {
            if group.is_none_or(|group| !group.members.contains_key(&**id)) {
                client.epoch = 0;
                client.owned.clear();
            }
        }
    }

    fn leave(&mut self, member: usize, epoch: i32) {
        let Some(id) = self.id(member) else { return };
        let client = self.clients.remove(&id).unwrap();
        if epoch == -2 && client.instance.is_none() {
            return;
        }
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(&id))
            .with_instance_id(client.instance.as_deref().map(text))
            .with_member_epoch(epoch);
        // It may have been fenced without having noticed.
        let _ = self.world.heartbeat(1, &request);
    }

    fn heartbeat(&mut self, id: &str, lost: bool) {
        let client = &self.clients[id];
        let owned = client.owned.iter().map(|(topic, partitions)| {
            TopicPartitions::default()
                .with_topic_id(uuid(*topic))
                .with_partitions(partitions.iter().copied().collect())
        });
        let topics = client.topics.iter().map(|topic| TopicName(text(topic)));
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(id))
            .with_member_epoch(client.epoch)
            .with_instance_id(client.instance.as_deref().map(text))
            .with_rebalance_timeout_ms(30_000)
            .with_subscribed_topic_names(Some(topics.collect()))
            .with_subscribed_topic_regex(Some(text(client.regex.unwrap_or(""))))
            .with_topic_partitions(Some(owned.collect()));
        let answer = self.world.heartbeat(1, &request);
        let client = self.clients.get_mut(id).unwrap();
        match answer {
            Ok(_) if lost => {}
            Ok(response) => {
                assert!(
                    response.member_epoch >= client.epoch,
                    "a member's epoch fell"
                );
                client.epoch = response.member_epoch;
                let assignment = response.assignment.expect("a full request, a full answer");
                let topics = assignment.topic_partitions.into_iter();
                let assigned = topics.map(|topic| {
                    (
                        topic_id(topic.topic_id),
                        topic.partitions.into_iter().collect(),
                    )
                });
                // It gives up what is not among it, then takes what is new.
                client.owned = assigned.collect();
            }
            Err(refusal) => match refusal.error {
                ErrorCode::FencedMemberEpoch
                | ErrorCode::UnknownMemberId
                | ErrorCode::GroupIdNotFound => {
                    client.epoch = 0;
                    client.owned.clear();
                }
                // Another has its name.
                ErrorCode::UnreleasedInstanceId | ErrorCode::FencedInstanceId => {
                    self.clients.remove(id);
                }
                error => panic!("{error:?} {}", refusal.message),
            },
        }
    }

    fn check(&mut self) {
        let mut held = BTreeSet::new();
        for client in self.clients.values() {
            for (topic, partitions) in &client.owned {
                for partition in partitions {
                    assert!(held.insert((*topic, *partition)), "two own a partition");
                }
            }
        }
        let Some(group) = self.world.groups.get("g") else {
            return;
        };
        assert!(group.epoch >= self.epochs.0 && group.target_epoch >= self.epochs.1);
        assert!(group.target_epoch <= group.epoch);
        self.epochs = (group.epoch, group.target_epoch);
        let mut owners = BTreeSet::new();
        for member in group.members.values() {
            assert!(member.epoch <= group.target_epoch);
            for owned in [&member.assigned, &member.revoking] {
                for (topic, partitions) in owned.iter() {
                    for partition in partitions.keys() {
                        assert!(
                            owners.insert((*topic, *partition)),
                            "two are given a partition"
                        );
                        assert_eq!(
                            group.partition_epoch(*topic, *partition),
                            Some(member.epoch)
                        );
                    }
                }
            }
            assert_ne!(member.state, MemberState::Unknown);
        }
    }

    /// Nothing happens any more but heartbeats: everybody comes to rest, and all is owned.
    fn come_to_rest(&mut self) {
        // Who is silent is fenced meanwhile.
        for round in 0..200 {
            let ids: Vec<String> = self.clients.keys().cloned().collect();
            for id in ids {
                self.heartbeat(&id, false);
                self.check();
            }
            self.tick(1_000);
            let group = self.world.groups.get("g");
            let group = group.map_or(GroupState::Empty, |group| group.state());
            let alone = self.world.groups.get("g").map_or(0, |g| g.members.len());
            if round > 25 && alone == self.clients.len() && group == GroupState::Stable {
                break;
            }
        }
        let Some(group) = self.world.groups.get("g") else {
            return;
        };
        if self.clients.is_empty() {
            assert_eq!(group.state(), GroupState::Empty);
            return;
        }
        assert_eq!(group.state(), GroupState::Stable);
        let mut wanted: BTreeSet<(TopicId, i32)> = BTreeSet::new();
        for client in self.clients.values() {
            for topic in TOPICS {
                let regex = client.regex.is_some_and(|regex| regex.contains(topic));
                if regex || client.topics.contains(topic) {
                    let topic = self.world.image.topic_by_name(topic).unwrap();
                    let partitions = 0..topic.partitions.len() as i32;
                    wanted.extend(partitions.map(|p| (topic.id, p)));
                }
            }
        }
        let owned = self.clients.values().flat_map(|client| {
            client
                .owned
                .iter()
                .flat_map(|(topic, partitions)| partitions.iter().map(move |p| (*topic, *p)))
        });
        assert_eq!(owned.collect::<BTreeSet<_>>(), wanted);
        self.world.reload();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_two_own_a_partition_and_all_come_to_rest(steps in prop::collection::vec(step(), 1..400)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
        }
        model.come_to_rest();
    }
}

#[test]
fn a_thousand_that_join_at_once_are_assigned_a_few_times_and_come_to_rest() {
    let mut model = Model::new();
    model.world.topic("a", 2_000);
    let ids: Vec<String> = (0..1_000).map(|id| format!("m{id:04}")).collect();
    for id in &ids {
        let client = Client {
            topics: BTreeSet::from(["a"]),
            ..Client::default()
        };
        model.clients.insert(id.clone(), client);
        model.heartbeat(id, false);
        model.tick(2);
    }
    let mut rounds = 0;
    while model.world.groups["g"].state() != GroupState::Stable {
        rounds += 1;
        assert!(rounds < 10);
        for id in &ids {
            model.heartbeat(id, false);
        }
        model.tick(1_000);
    }
    model.check();
    let mut counts = [0; 3];
    for record in &model.world.log {
        let record = ConsumerRecord::decode(&record.key, record.value.as_deref()).unwrap();
        match record.body {
            Body::TargetMetadata(_) => counts[0] += 1,
            Body::TargetMember(..) => counts[1] += 1,
            Body::CurrentMember(..) => counts[2] += 1,
            _ => {}
        }
    }
    // Joining took 2 s; after that it was computed once more at most.
    assert!(counts[0] <= 4, "{counts:?}");
    assert!(counts[1] <= 4 * 1_000, "{counts:?}");
    assert!(counts[2] <= 8 * 1_000, "{counts:?}");
    // What is due by the clock is one session for each.
    assert_eq!(model.world.soft.timers.len(), 1_000);
}
