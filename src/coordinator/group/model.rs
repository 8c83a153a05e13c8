//! Random members against the machine: they join, assign, commit, leave, crash and are restarted, the
//! clock jumps and the broker is restarted, and after every step what must hold is looked at:
//! 1. a partition has at most one owner in a generation;
//! 2. generations on record only grow;
//! 3. what was committed is there, also after a restart;
//! 4. when everybody is left in peace the group becomes stable, and every partition has an owner.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, SyncGroupRequest,
    TopicName,
};
use proptest::prelude::*;

use super::record::{GroupMetadata, key_type, type_of};
use super::scenarios::{Logged, World, subscription};
use super::*;
use crate::protocol::ErrorCode;

const PARTITIONS: u8 = 16;
const SESSION_MS: i32 = 10_000;

#[derive(Clone, Debug, PartialEq)]
enum Does {
    /// Will join, with the id it has.
    Joining,
    AwaitsJoin(Token),
    /// Will ask for its assignment.
    Syncing {
        generation: i32,
        /// Of the leader: whom it assigns to.
        assigns_to: Vec<StrBytes>,
    },
    AwaitsSync(Token, i32),
    Working {
        generation: i32,
    },
}

#[derive(Clone, Debug)]
struct Client {
    /// Static members have a name.
    instance: Option<StrBytes>,
    member_id: StrBytes,
    version: i16,
    does: Does,
    /// Not running: does nothing until it is started again.
    down: bool,
}

struct Model {
    world: World,
    clients: Vec<Client>,
    /// Who was given a partition in a generation.
    owners: BTreeMap<(i32, u8), StrBytes>,
    committed: BTreeMap<i32, i64>,
    next_offset: i64,
    last_generation: i32,
    seen_records: usize,
}

fn group() -> GroupId {
    group_id(&text("g"))
}

impl Model {
    fn new(clients: usize) -> Self {
        let mut world = World::default();
        world.settings.groups.initial_rebalance_delay_ms = 500;
        let clients = (0..clients).map(|i| Client {
            instance: (i % 5 == 0).then(|| text(&format!("i{i}"))),
            member_id: StrBytes::default(),
            version: if i % 3 == 0 { 3 } else { 9 },
            does: Does::Joining,
            down: true,
        });
        Self {
            clients: clients.collect(),
            world,
            owners: BTreeMap::new(),
            committed: BTreeMap::new(),
            next_offset: 0,
            last_generation: 0,
            seen_records: 0,
        }
    }

    /// The next thing that a well-behaved client does.
    fn act(&mut self, index: usize) {
        let client = self.clients[index].clone();
        match client.does {
            Does::AwaitsJoin(_) | Does::AwaitsSync(..) => {}
            Does::Joining => {
                let instance = client.instance.clone().filter(|_| client.version >= 5);
                let protocol = JoinGroupRequestProtocol::default()
                    .with_name(text("range"))
                    .with_metadata(subscription("t1"));
                let request = JoinGroupRequest::default()
                    .with_group_id(group())
                    .with_session_timeout_ms(SESSION_MS)
                    .with_rebalance_timeout_ms(20_000)
                    .with_member_id(client.member_id)
                    .with_group_instance_id(instance)
                    .with_protocol_type(text("consumer"))
                    .with_protocols(vec![protocol]);
                let ask = Ask::Join(Join {
                    version: client.version,
                    client_id: text("c"),
                    client_host: text("/127.0.0.1"),
                    request,
                });
                let (token, answers) = self.world.ask(ask);
                self.clients[index].does = Does::AwaitsJoin(token);
                self.take(answers);
            }
            Does::Syncing {
                generation,
                assigns_to,
            } => {
                let members = assigns_to.len().max(1);
                let assignments = assigns_to.iter().enumerate().map(|(place, id)| {
                    let own = (0..PARTITIONS).filter(|p| usize::from(*p) % members == place);
                    SyncGroupRequestAssignment::default()
                        .with_member_id(id.clone())
                        .with_assignment(Bytes::from(own.collect::<Vec<u8>>()))
                });
                let request = SyncGroupRequest::default()
                    .with_group_id(group())
                    .with_generation_id(generation)
                    .with_member_id(client.member_id)
                    .with_group_instance_id(client.instance.filter(|_| client.version >= 5))
                    .with_assignments(assignments.collect());
                let (token, answers) = self.world.ask(Ask::Sync(request));
                self.clients[index].does = Does::AwaitsSync(token, generation);
                self.take(answers);
            }
            Does::Working { generation } => {
                let request = HeartbeatRequest::default()
                    .with_group_id(group())
                    .with_generation_id(generation)
                    .with_member_id(client.member_id);
                let (token, answers) = self.world.ask(Ask::Heartbeat(request));
                for (answered, answer) in &answers {
                    if let (true, Answer::Heartbeat(answer)) = (*answered == token, answer) {
                        self.react(index, answer.error_code);
                    }
                }
                self.take(answers);
            }
        }
    }

    fn react(&mut self, index: usize, code: i16) {
        let client = &mut self.clients[index];
        match ErrorCode::from_code(code).unwrap() {
            ErrorCode::None => {}
            ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired => {
                client.does = Does::Joining;
            }
            ErrorCode::FencedInstanceId => {
                // Another process has its name.
                client.down = true;
                client.member_id = StrBytes::default();
                client.does = Does::Joining;
            }
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => {
                client.member_id = StrBytes::default();
                client.does = Does::Joining;
            }
            other => panic!("{other:?}"),
        }
    }

    fn take(&mut self, answers: Vec<(Token, Answer)>) {
        for (token, answer) in answers {
            let whose = |client: &Client| match client.does {
                Does::AwaitsJoin(waits) | Does::AwaitsSync(waits, _) => waits == token,
                _ => false,
            };
            let Some(index) = self.clients.iter().position(whose) else {
                continue;
            };
            match answer {
                Answer::Join(join) if join.error_code == 0 => {
                    let client = &mut self.clients[index];
                    client.member_id = join.member_id;
                    client.does = Does::Syncing {
                        generation: join.generation_id,
                        assigns_to: join.members.into_iter().map(|m| m.member_id).collect(),
                    };
                }
                Answer::Join(join) => {
                    if join.error_code == ErrorCode::MemberIdRequired.code() {
                        self.clients[index].member_id = join.member_id.clone();
                    }
                    self.react(index, join.error_code);
                }
                Answer::Sync(sync) if sync.error_code == 0 => {
                    let client = &mut self.clients[index];
                    let Does::AwaitsSync(_, generation) = client.does else {
                        continue;
                    };
                    client.does = Does::Working { generation };
                    let instance = client.instance.clone().filter(|_| client.version >= 5);
                    let owner = instance.unwrap_or_else(|| client.member_id.clone());
                    for &partition in &sync.assignment {
                        let place = (generation, partition);
                        let before = self.owners.insert(place, owner.clone());
                        assert!(before.is_none_or(|before| before == owner), "{place:?}");
                    }
                }
                Answer::Sync(sync) => self.react(index, sync.error_code),
                _ => {}
            }
        }
        self.look_at_the_log();
    }

    fn look_at_the_log(&mut self) {
        for logged in &self.world.log[self.seen_records..] {
            if let Logged::Record(record, _) = logged
                && type_of(&record.key) == Some(key_type::GROUP_METADATA)
                && let Some(value) = &record.value
            {
                let generation = GroupMetadata::read(value).unwrap().generation;
                assert!(generation >= self.last_generation, "a generation went back");
                self.last_generation = generation;
            }
        }
        self.seen_records = self.world.log.len();
    }

    fn commit(&mut self, index: usize, partition: i32) {
        let Does::Working { generation } = self.clients[index].does else {
            return;
        };
        self.next_offset += 1;
        let offset = self.next_offset;
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("t1")))
            .with_partitions(vec![
                OffsetCommitRequestPartition::default()
                    .with_partition_index(partition)
                    .with_committed_offset(offset),
            ]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(self.clients[index].member_id.clone())
            .with_topics(vec![topic]);
        let version = 9;
        let (token, answers) = self.world.ask(Ask::Commit { version, request });
        for (answered, answer) in &answers {
            if let (true, Answer::Commit(answer)) = (*answered == token, answer) {
                let code = answer.topics[0].partitions[0].error_code;
                if code == 0 {
                    self.committed.insert(partition, offset);
                } else {
                    self.react(index, code);
                }
            }
        }
        self.take(answers);
    }

    fn leave(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let leaving = MemberIdentity::default().with_member_id(client.member_id.clone());
        client.member_id = StrBytes::default();
        client.does = Does::Joining;
        client.down = true;
        let request = LeaveGroupRequest::default()
            .with_group_id(group())
            .with_members(vec![leaving]);
        let (_, answers) = self.world.ask(Ask::Leave(request));
        self.take(answers);
    }

    /// The process is killed: what it knew is gone, and its connections.
    fn crash(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.member_id = StrBytes::default();
        client.does = Does::Joining;
        client.down = true;
    }

    fn restart_broker(&mut self) {
        let answers = self.world.restart();
        // Whoever waited has lost its connection, and asks again.
        for client in &mut self.clients {
            match client.does.clone() {
                Does::AwaitsJoin(_) | Does::AwaitsSync(..) => client.does = Does::Joining,
                _ => {}
            }
        }
        self.take(answers);
        self.look_at_commits();
    }

    fn look_at_commits(&mut self) {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_topics(None);
        let (_, answers) = self.world.ask(Ask::Fetch {
            group,
            require_stable: true,
        });
        let Some((_, Answer::Fetch(fetched))) = answers.last() else {
            panic!("no answer");
        };
        let found: BTreeMap<i32, i64> = fetched
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.partition_index, partition.committed_offset))
            .collect();
        assert_eq!(found, self.committed);
    }

    /// Everybody who is up does what it has to, with nothing in between.
    fn settle(&mut self) {
        for _ in 0..200 {
            for index in 0..self.clients.len() {
                if !self.clients[index].down {
                    self.act(index);
                }
            }
            let answers = self.world.advance(1_000);
            self.take(answers);
        }
        let up = self.clients.iter().filter(|client| !client.down);
        let generations: Vec<i32> = up
            .map(|client| match client.does {
                Does::Working { generation } => generation,
                ref other => panic!("not at work: {other:?}"),
            })
            .collect();
        if let Some(&generation) = generations.first() {
            assert!(generations.iter().all(|&other| other == generation));
            for partition in 0..PARTITIONS {
                assert!(self.owners.contains_key(&(generation, partition)));
            }
        }
        self.look_at_commits();
    }

    fn step(&mut self, what: u8, index: usize, amount: u16) {
        let index = index % self.clients.len();
        match what {
            0..=9 => self.clients[index].down = false,
            10..=79 if !self.clients[index].down => self.act(index),
            80..=86 if !self.clients[index].down => {
                self.commit(index, i32::from(amount % u16::from(PARTITIONS)));
            }
            87..=88 if !self.clients[index].down => self.leave(index),
            89..=91 => self.crash(index),
            92..=98 => {
                let answers = self.world.advance(i64::from(amount % 4_000));
                self.take(answers);
            }
            99 => self.restart_broker(),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_must_hold_of_a_group_holds(
        clients in prop_oneof![1usize..6, 6usize..40, 100usize..300],
        steps in prop::collection::vec((0u8..100, 0usize..300, any::<u16>()), 1..1500),
    ) {
        let mut model = Model::new(clients);
        for (what, index, amount) in steps {
            model.step(what, index, amount);
        }
        model.settle();
    }
}

/// A crowd at once, and what it costs.
mod crowds {
    use super::*;

    fn join(member: &str, group: &str, client: &str, version: i16) -> Ask {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(subscription("t1"));
        let request = JoinGroupRequest::default()
            .with_group_id(group_id(&text(group)))
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(60_000)
            .with_member_id(text(member))
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        Ask::Join(Join {
            version,
            client_id: text(client),
            client_host: text("/127.0.0.1"),
            request,
        })
    }

    #[test]
    fn a_hundred_thousand_new_ids_leave_a_bounded_number_behind() {
        let mut world = World::default();
        let client = "c".repeat(30_000);
        for _ in 0..100_000 {
            let (_, answers) = world.ask(join("", "g", &client, 9));
            let Answer::Join(answer) = &answers[0].1 else {
                panic!("{answers:?}");
            };
            assert_eq!(answer.error_code, ErrorCode::MemberIdRequired.code());
            // Also the longest client id makes an id of some hundred bytes.
            assert!(answer.member_id.len() < 300);
        }
        let Some(Group::Classic(group)) = world.machine.groups.get_mut("g") else {
            panic!("no group");
        };
        assert_eq!(group.pending_mut().len(), 10_000);
        assert_eq!(world.log.len(), 1);
        // A session and a look at what may be forgotten.
        assert!(world.machine.timers.len() <= 10_001);
        world.advance(i64::from(SESSION_MS));
        assert_eq!(world.machine.timers.len(), 1);
    }

    #[test]
    fn ten_thousand_groups_cost_a_record_each() {
        let mut world = World::default();
        for i in 0..10_000 {
            world.ask(join("", &format!("g{i}"), "c", 9));
        }
        assert_eq!(world.machine.groups.len(), 10_000);
        assert_eq!(world.log.len(), 10_000);
        // Nobody came back: they are forgotten with the first look.
        world.advance(600_000);
        assert_eq!(world.machine.groups.len(), 0);
        assert_eq!(world.log.len(), 20_000);
        assert_eq!(world.machine.timers.len(), 1);
    }

    #[test]
    fn a_thousand_members_become_stable_with_one_record() {
        let mut world = World::default();
        let mut tokens = Vec::new();
        for _ in 0..1_000 {
            tokens.push(world.ask(join("", "g", "c", 3)).0);
        }
        // The delay is extended once, and no session has passed.
        let joined = world.advance(6_000);
        assert_eq!(joined.len(), 1_000);
        let sync = |id: &StrBytes| {
            Ask::Sync(
                SyncGroupRequest::default()
                    .with_group_id(group())
                    .with_generation_id(1)
                    .with_member_id(id.clone()),
            )
        };
        let ids: Vec<StrBytes> = joined
            .iter()
            .map(|(_, answer)| match answer {
                Answer::Join(answer) => answer.member_id.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        let leader = ids[0].clone();
        for id in &ids[1..] {
            assert!(world.ask(sync(id)).1.is_empty());
        }
        assert_eq!(world.ask(sync(&leader)).1.len(), 1_000);
        assert_eq!(world.log.len(), 2);
    }
}
