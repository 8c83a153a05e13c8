//! Groups that change their kind, in the whole machine.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest,
    TopicName,
};

use super::super::Ask;
use super::super::consumer::embedded;
use super::super::consumer::record::Partitions;
use super::*;
use crate::base::settings::{MigrationPolicy, NodeSettings};
use crate::base::{BrokerId, LeaderEpoch, Offset, PartitionIndex, TopicId};
use crate::coordinator::{Machine, Position};
use crate::metadata::{Image, MetadataRecord, PartitionRegistration};

const ORDERS: TopicId = TopicId(7);

struct World {
    machine: GroupMachine,
    image: Image,
    settings: NodeSettings,
    now: Timestamp,
    ids: u128,
    tokens: u64,
    log: Vec<CoordinatorRecord>,
    /// Answers to requests that waited.
    late: Vec<(Token, Answer)>,
}

impl World {
    fn new() -> Self {
        let mut records = vec![MetadataRecord::Topic {
            name: "orders".into(),
            topic_id: ORDERS,
        }];
        records.extend((0..4).map(|partition| {
            MetadataRecord::Partition(PartitionRegistration {
                topic_id: ORDERS,
                partition: PartitionIndex(partition),
                replicas: vec![BrokerId(1)],
                isr: vec![BrokerId(1)],
                leader: Some(BrokerId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                directories: Vec::new(),
            })
        }));
        let (image, _) = Image::default().apply(0, &records).unwrap();
        let mut world = Self {
            machine: GroupMachine::new(PartitionIndex(0)),
            image,
            settings: NodeSettings::defaults(),
            now: Timestamp(1_000_000),
            ids: 0,
            tokens: 0,
            log: Vec::new(),
            late: Vec::new(),
        };
        world.step(|machine, context| machine.loaded(context));
        world
    }

    fn step(
        &mut self,
        step: impl FnOnce(&mut GroupMachine, &mut Context<'_>) -> Outcome<GroupMachine>,
    ) -> Vec<(Token, Answer)> {
        let mut random = || {
            self.ids += 1;
            self.ids
        };
        let mut context = Context {
            now: self.now,
            image: &self.image,
            settings: &self.settings,
            random: &mut random,
        };
        let outcome = step(&mut self.machine, &mut context);
        for record in &outcome.records {
            let at = Position {
                offset: Offset(self.log.len() as i64),
                timestamp: self.now,
                producer: None,
            };
            self.machine.apply(record, at).unwrap();
            self.log.push(record.clone());
        }
        outcome.answers
    }

    /// The answer, if it comes at once. Others that come with it are `late`.
    fn ask(&mut self, ask: Ask) -> Option<Answer> {
        self.tokens += 1;
        let token = Token(self.tokens);
        let answers = self.step(|machine, context| machine.ask(context, token, ask));
        let mut own = None;
        for (to, answer) in answers {
            match to == token {
                true => own = Some(answer),
                false => self.late.push((to, answer)),
            }
        }
        own
    }

    fn tick(&mut self, ms: i64) {
        self.now.0 += ms;
        while self
            .machine
            .next_deadline()
            .is_some_and(|at| at <= self.now)
        {
            let answers = self.step(|machine, context| machine.expire(context));
            self.late.extend(answers);
        }
    }

    fn heartbeat(&mut self, member: &str, epoch: i32, owned: &[i32]) -> (i32, Option<Vec<i32>>) {
        match self.try_heartbeat(member, epoch, None, owned) {
            Ok(found) => found,
            Err(message) => panic!("{message}"),
        }
    }

    fn try_heartbeat(
        &mut self,
        member: &str,
        epoch: i32,
        instance: Option<&str>,
        owned: &[i32],
    ) -> Result<(i32, Option<Vec<i32>>), String> {
        use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
        let owns = TopicPartitions::default()
            .with_topic_id(crate::protocol::uuid(ORDERS))
            .with_partitions(owned.to_vec());
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_member_epoch(epoch)
            .with_instance_id(instance.map(text))
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text("orders"))]))
            .with_topic_partitions(Some(if owned.is_empty() { vec![] } else { vec![owns] }));
        let ask = Ask::ConsumerHeartbeat(ConsumerHeartbeat {
            version: 1,
            client_id: text("new"),
            client_host: text("/127.0.0.1"),
            request,
        });
        let Some(Answer::ConsumerHeartbeat(answer)) = self.ask(ask) else {
            panic!("no answer");
        };
        if answer.error_code != 0 {
            return Err(answer.error_message.unwrap().to_string());
        }
        let assigned = answer.assignment.map(|assignment| {
            let topics = assignment.topic_partitions.into_iter();
            topics.flat_map(|topic| topic.partitions).collect()
        });
        Ok((answer.member_epoch, assigned))
    }

    fn join(&mut self, member: &str, instance: Option<&str>) -> Option<JoinGroupResponse> {
        // Version 0: topics, no user data.
        let mut metadata = vec![0, 0, 0, 0, 0, 1, 0, 6];
        metadata.extend_from_slice(b"orders\xff\xff\xff\xff");
        let protocols = ["range", "roundrobin"].map(|name| {
            JoinGroupRequestProtocol::default()
                .with_name(text(name))
                .with_metadata(Bytes::from(metadata.clone()))
        });
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(60_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(protocols.to_vec());
        let ask = Ask::Join(Join {
            version: if instance.is_some() { 9 } else { 3 },
            client_id: text("old"),
            client_host: text("/127.0.0.1"),
            request,
        });
        match self.ask(ask) {
            Some(Answer::Join(response)) => Some(response),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn sync(
        &mut self,
        member: &str,
        generation: i32,
        given: &[(&str, &[i32])],
    ) -> Option<Vec<i32>> {
        let given = given.iter().map(|(member, partitions)| {
            let partitions = Partitions::from([(ORDERS, partitions.iter().copied().collect())]);
            let bytes = embedded::encode_assignment(0, &partitions, &self.image);
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(bytes.into())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_generation_id(generation)
            .with_assignments(given.collect());
        match self.ask(Ask::Sync(request)) {
            Some(Answer::Sync(response)) => {
                assert_eq!(response.error_code, 0);
                let (partitions, _) = embedded::assignment(&response.assignment).unwrap();
                Some(partitions.into_iter().flat_map(|(_, p)| p).collect())
            }
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn beat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_generation_id(generation);
        match self.ask(Ask::Heartbeat(request)) {
            Some(Answer::Heartbeat(response)) => ErrorCode::from_code(response.error_code).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, epoch: i32, partition: i32) -> ErrorCode {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(5);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text("g")))
            .with_member_id(text(member))
            .with_generation_id_or_member_epoch(epoch)
            .with_retention_time_ms(-1)
            .with_topics(vec![topic]);
        match self.ask(Ask::Commit {
            version: 9,
            request,
        }) {
            Some(Answer::Commit(response)) => {
                let code = response.topics[0].partitions[0].error_code;
                ErrorCode::from_code(code).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    fn listed(&mut self) -> String {
        let ask = Ask::List {
            states: Vec::new(),
            types: Vec::new(),
        };
        match self.ask(ask) {
            Some(Answer::List(groups)) => groups
                .iter()
                .map(|g| format!("{} {} {}", g.group_id.as_str(), g.group_type, g.group_state))
                .collect::<Vec<_>>()
                .join(", "),
            other => panic!("{other:?}"),
        }
    }

    /// A restart.
    fn reload(&mut self) {
        self.machine = GroupMachine::new(PartitionIndex(0));
        for (offset, record) in self.log.iter().enumerate() {
            let at = Position {
                offset: Offset(offset as i64),
                timestamp: self.now,
                producer: None,
            };
            self.machine.apply(record, at).unwrap();
        }
        self.step(|machine, context| machine.loaded(context));
    }

    /// A classic group of two, each with two partitions. Their ids.
    fn classic_pair(&mut self) -> (String, String) {
        self.settings.groups.initial_rebalance_delay_ms = 0;
        assert!(self.join("", None).is_none());
        self.tick(0);
        let Some((_, Answer::Join(first))) = self.late.pop() else {
            panic!("the first did not join");
        };
        let a = first.member_id.to_string();
        assert!(
            self.sync(&a, first.generation_id, &[(&a, &[0, 1, 2, 3])])
                .is_some()
        );
        assert!(self.join("", None).is_none());
        assert!(self.join(&a, None).is_some());
        let Some((_, Answer::Join(second))) = self.late.pop() else {
            panic!("the second did not join");
        };
        let b = second.member_id.to_string();
        let generation = second.generation_id;
        assert!(
            self.sync(&a, generation, &[(&a, &[0, 1]), (&b, &[2, 3])])
                .is_some()
        );
        assert_eq!(self.sync(&b, generation, &[]).unwrap(), [2, 3]);
        assert_eq!(self.listed(), "g Classic Stable");
        (a, b)
    }
}

#[test]
fn a_classic_group_becomes_a_consumer_group_and_a_classic_one_again() {
    let mut world = World::new();
    let (a, b) = world.classic_pair();
    assert_eq!(world.commit(&a, 2, 0), ErrorCode::None);

    // The first member of the new protocol.
    assert_eq!(world.heartbeat("n", 0, &[]), (3, Some(vec![])));
    assert_eq!(world.listed(), "g Consumer Reconciling");
    // Nobody gives up anything before being asked to.
    assert_eq!(world.commit(&a, 2, 0), ErrorCode::None);
    assert_eq!(world.commit("n", 3, 0), ErrorCode::None);
    assert_eq!(world.beat(&a, 2), ErrorCode::RebalanceInProgress);
    let rejoined = world.join(&a, None).unwrap();
    let generation = rejoined.generation_id;
    let of_a = world.sync(&a, generation, &[]).unwrap();
    let rejoined = world.join(&b, None).unwrap();
    let of_b = world.sync(&b, rejoined.generation_id, &[]).unwrap();
    // One of them gives one to the new member.
    assert_eq!(of_a.len() + of_b.len(), 3, "{of_a:?} {of_b:?}");
    let (_, of_n) = world.heartbeat("n", 3, &[]);
    assert_eq!(of_n.unwrap().len(), 1);
    assert_eq!(world.listed(), "g Consumer Stable");
    world.reload();
    assert_eq!(world.listed(), "g Consumer Stable");

    // It leaves: all that are left speak the classic protocol.
    let left = world.try_heartbeat("n", -1, None, &[]).unwrap();
    assert_eq!(left.0, -1);
    assert_eq!(world.listed(), "g Classic PreparingRebalance");
    assert_eq!(world.beat(&a, 3), ErrorCode::RebalanceInProgress);
    assert!(world.join(&a, None).is_none());
    let of_b = world.join(&b, None).unwrap();
    assert_eq!(of_b.generation_id, 4);
    let late: Vec<_> = std::mem::take(&mut world.late);
    assert_eq!(late.len(), 1);
    world.sync(&a, 4, &[(&a, &[0, 1]), (&b, &[2, 3])]);
    world.sync(&b, 4, &[(&a, &[0, 1]), (&b, &[2, 3])]);
    assert_eq!(world.listed(), "g Classic Stable");
    assert_eq!(world.commit(&b, 4, 2), ErrorCode::None);
    world.reload();
    assert_eq!(world.listed(), "g Classic Stable");
    // The sessions of all of them run.
    world.tick(10_000);
    world.tick(60_000);
    assert_eq!(world.listed(), "g Classic Empty");
}

#[test]
fn a_group_of_one_new_and_one_old_member_is_downgraded_when_the_new_one_is_lost() {
    let mut world = World::new();
    assert_eq!(world.heartbeat("n", 0, &[]), (2, Some(vec![0, 1, 2, 3])));
    world.tick(1_000);
    let old = world.join("", None).unwrap();
    assert_eq!(old.generation_id, 3);
    let id = old.member_id.to_string();
    assert_eq!(world.sync(&id, 3, &[]).unwrap(), [0; 0]);
    // The old one lives, the new one is silent.
    for _ in 0..10 {
        world.tick(5_000);
        world.beat(&id, 3);
    }
    assert_eq!(world.listed(), "g Classic PreparingRebalance");
    let again = world.join(&id, None).unwrap();
    assert_eq!(again.leader.as_str(), id);
    assert_eq!(again.members.len(), 1);
}

#[test]
fn a_static_member_that_comes_back_as_a_classic_one_downgrades_its_group() {
    let mut world = World::new();
    let first = world.try_heartbeat("n", 0, Some("i"), &[]).unwrap();
    assert_eq!(first, (2, Some(vec![0, 1, 2, 3])));
    let joined = world.join("", Some("i")).unwrap();
    assert_eq!(joined.generation_id, 2);
    let id = joined.member_id.to_string();
    assert_eq!(world.listed(), "g Classic Stable");
    assert_eq!(world.beat(&id, 2), ErrorCode::None);
    assert_eq!(world.sync(&id, 2, &[]).unwrap(), [0, 1, 2, 3]);
    world.reload();
    assert_eq!(world.sync(&id, 2, &[]).unwrap(), [0, 1, 2, 3]);
}

#[test]
fn an_empty_group_takes_the_kind_of_whoever_joins() {
    let mut world = World::new();
    world.heartbeat("n", 0, &[]);
    world.try_heartbeat("n", -1, None, &[]).unwrap();
    assert_eq!(world.listed(), "g Consumer Empty");
    // Only a new member makes it another.
    assert_eq!(world.join("x", None).unwrap().error_code, 25);
    assert_eq!(world.listed(), "g Consumer Empty");
    let (a, _) = world.classic_pair();
    world.reload();
    assert_eq!(world.listed(), "g Classic Stable");
    world.tick(10_000);
    world.tick(60_000);
    assert_eq!(world.listed(), "g Classic Empty");
    assert_eq!(world.heartbeat("n", 0, &[]).0, 2);
    assert_eq!(world.listed(), "g Consumer Stable");
    assert_eq!(world.beat(&a, 2), ErrorCode::UnknownMemberId);
    world.reload();
    assert_eq!(world.listed(), "g Consumer Stable");
}

#[test]
fn a_group_whose_policy_forbids_it_stays_what_it_is() {
    let mut world = World::new();
    world.settings.consumer_groups.migration_policy = MigrationPolicy::Downgrade;
    world.classic_pair();
    let refused = world.try_heartbeat("n", 0, None, &[]).unwrap_err();
    assert_eq!(
        refused,
        "Cannot upgrade classic group g to consumer group because online upgrade is disabled."
    );
    assert_eq!(world.listed(), "g Classic Stable");
}

#[test]
fn those_who_wait_are_told_to_join_the_group_it_becomes() {
    let mut world = World::new();
    let (a, _) = world.classic_pair();
    // The rebalance is under way.
    assert!(world.join(&a, None).is_none() || world.join("", None).is_none());
    assert!(world.join("", None).is_none());
    world.late.clear();
    world.heartbeat("n", 0, &[]);
    let told = world.late.iter().map(|(_, answer)| match answer {
        Answer::Join(response) => response.error_code,
        other => panic!("{other:?}"),
    });
    let told: Vec<i16> = told.collect();
    assert!(!told.is_empty());
    assert!(
        told.iter()
            .all(|code| *code == ErrorCode::RebalanceInProgress.code())
    );
}

#[test]
fn offsets_committed_before_the_group_do_not_stand_in_its_way() {
    let mut world = World::new();
    assert_eq!(world.commit("", -1, 0), ErrorCode::None);
    assert_eq!(world.heartbeat("n", 0, &[]).0, 2);
    world.reload();
    assert_eq!(world.listed(), "g Consumer Stable");
    let leave = LeaveGroupRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_members(vec![MemberIdentity::default().with_member_id(text("n"))]);
    let Some(Answer::Leave(left)) = world.ask(Ask::Leave(leave)) else {
        panic!("no answer");
    };
    assert_eq!(left.members[0].error_code, 0);
    // The last offset takes the group along when its time has come.
    for _ in 0..3 {
        world.tick(8 * 24 * 3_600_000);
    }
    assert_eq!(world.listed(), "");
    world.reload();
    assert_eq!(world.listed(), "");
}
