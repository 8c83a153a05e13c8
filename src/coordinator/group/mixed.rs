//! Random members of both protocols in one group, which changes its kind under them: consumers are upgraded
//! and taken back one by one, static or not, leave, crash and are started again, the clock jumps and the
//! broker is restarted. After every step:
//! 1. no two members own a partition, by what they were told and what is on record;
//! 2. the group's epoch on record does not fall while it has members;
//! 3. what was committed is there, also after a restart.
//!
//! Left in peace, all members come to rest, every partition has an owner, and the group is of the new
//! protocol if, and only if, one of its members is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, SyncGroupRequest, TopicName,
};
use proptest::prelude::*;

use super::consumer::{GroupState, embedded};
use super::scenarios::World;
use super::*;
use crate::base::{BrokerId, LeaderEpoch, TopicId};
use crate::metadata::{MetadataRecord, PartitionRegistration};
use crate::protocol::{ErrorCode, uuid};

const TOPIC: &str = "t1";
const TOPIC_ID: TopicId = TopicId(77);
const PARTITIONS: i32 = 12;
const CLASSIC_SESSION_MS: i32 = 10_000;

/// What a member of the classic protocol does next.
#[derive(Clone, Debug, PartialEq)]
enum Does {
    Joining,
    AwaitsJoin(Token),
    Syncing {
        /// Of the leader: whom it assigns to.
        members: Vec<JoinGroupResponseMember>,
    },
    AwaitsSync(Token),
    Working,
}

#[derive(Clone, Debug)]
struct Client {
    instance: Option<StrBytes>,
    /// Speaks the new protocol.
    consumer: bool,
    up: bool,
    member_id: StrBytes,
    /// Or generation.
    epoch: i32,
    /// Of the classic protocol alone.
    does: Does,
    owned: BTreeSet<i32>,
}

struct Model {
    world: World,
    clients: Vec<Client>,
    /// Classic members keep what they own while they join again.
    cooperative: bool,
    next_id: usize,
    committed: BTreeMap<i32, i64>,
    next_offset: i64,
    /// The greatest epoch of the group since it was empty.
    epoch: i32,
    conversions: usize,
    /// A static member ended that owed the others a rebalance: it had given something up. The process that
    /// takes its place does not know of it, and no protocol tells the broker.
    owed: bool,
    was_consumer: bool,
}

fn group() -> GroupId {
    group_id(&text("g"))
}

/// A consumer's subscription, version 1: the topic, and what is owned.
fn subscription(owned: &BTreeSet<i32>) -> Bytes {
    let mut out = vec![0, 1, 0, 0, 0, 1, 0, 2];
    out.extend(TOPIC.as_bytes());
    out.extend((-1i32).to_be_bytes());
    let topics = i32::from(!owned.is_empty());
    out.extend(topics.to_be_bytes());
    if topics == 1 {
        out.extend([0, 2]);
        out.extend(TOPIC.as_bytes());
        out.extend((owned.len() as i32).to_be_bytes());
        out.extend(owned.iter().flat_map(|partition| partition.to_be_bytes()));
    }
    out.into()
}

fn partitions_of(topics: &[(String, Vec<i32>)]) -> BTreeSet<i32> {
    topics.iter().flat_map(|(_, p)| p.iter().copied()).collect()
}

impl Model {
    fn new(clients: usize, cooperative: bool) -> Self {
        let mut world = World::default();
        world.settings.groups.initial_rebalance_delay_ms = 500;
        let mut records = vec![MetadataRecord::Topic {
            name: TOPIC.to_owned(),
            topic_id: TOPIC_ID,
        }];
        records.extend((0..PARTITIONS).map(|partition| {
            MetadataRecord::Partition(PartitionRegistration {
                topic_id: TOPIC_ID,
                partition: PartitionIndex(partition),
                replicas: vec![BrokerId(1)],
                isr: vec![BrokerId(1)],
                leader: Some(BrokerId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                directories: Vec::new(),
            })
        }));
        world.metadata(records);
        let clients = (0..clients).map(|i| Client {
            instance: (i % 3 == 0).then(|| text(&format!("i{i}"))),
            consumer: i % 4 == 3,
            up: false,
            member_id: StrBytes::default(),
            epoch: 0,
            does: Does::Joining,
            owned: BTreeSet::new(),
        });
        Self {
            clients: clients.collect(),
            world,
            cooperative,
            next_id: 0,
            committed: BTreeMap::new(),
            next_offset: 0,
            epoch: 0,
            conversions: 0,
            owed: false,
            was_consumer: false,
        }
    }

    /// A new process: it knows nothing.
    fn start(&mut self, index: usize) {
        let id = self.next_id;
        let client = &mut self.clients[index];
        if client.up {
            return;
        }
        self.next_id += 1;
        client.up = true;
        client.member_id = match client.consumer {
            true => text(&format!("m{id}")),
            false => StrBytes::default(),
        };
        client.epoch = 0;
        client.does = Does::Joining;
    }

    fn crash(&mut self, index: usize) {
        let client = &mut self.clients[index];
        self.owed |= client.up && client.instance.is_some() && client.does == Does::Joining;
        client.up = false;
        client.owned.clear();
        client.does = Does::Joining;
    }

    /// The next thing that a well-behaved client does.
    fn act(&mut self, index: usize) {
        if !self.clients[index].up {
            return;
        }
        if self.clients[index].consumer {
            return self.consumer_heartbeat(index);
        }
        match self.clients[index].does.clone() {
            Does::AwaitsJoin(_) | Does::AwaitsSync(_) => {}
            Does::Joining => self.join(index),
            Does::Syncing { members } => self.sync(index, members),
            Does::Working => {
                let client = &self.clients[index];
                let request = HeartbeatRequest::default()
                    .with_group_id(group())
                    .with_generation_id(client.epoch)
                    .with_member_id(client.member_id.clone())
                    .with_group_instance_id(client.instance.clone());
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

    fn join(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if !self.cooperative {
            client.owned.clear();
        }
        let name = ["range", "cooperative-sticky"][usize::from(self.cooperative)];
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(subscription(&client.owned));
        let request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(CLASSIC_SESSION_MS)
            .with_rebalance_timeout_ms(20_000)
            .with_member_id(client.member_id.clone())
            .with_group_instance_id(client.instance.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let ask = Ask::Join(Join {
            version: 9,
            client_id: text("c"),
            client_host: text("/127.0.0.1"),
            request,
        });
        let (token, answers) = self.world.ask(ask);
        self.clients[index].does = Does::AwaitsJoin(token);
        self.take(answers);
    }

    fn sync(&mut self, index: usize, members: Vec<JoinGroupResponseMember>) {
        let held: Vec<(StrBytes, BTreeSet<i32>)> = members
            .into_iter()
            .map(|member| {
                let subscription = embedded::subscription(&member.metadata).unwrap();
                (member.member_id, partitions_of(&subscription.owned))
            })
            .collect();
        let assignments = held.iter().enumerate().map(|(place, (id, own))| {
            let mine = |partition: &i32| *partition as usize % held.len() == place;
            // What another has not given up yet is assigned the next time.
            let free = |partition: &i32| {
                own.contains(partition) || !held.iter().any(|(_, held)| held.contains(partition))
            };
            let assigned = (0..PARTITIONS).filter(mine).filter(free);
            let assigned = BTreeMap::from([(TOPIC_ID, assigned.collect())]);
            let bytes = embedded::encode_assignment(1, &assigned, &self.world.image);
            SyncGroupRequestAssignment::default()
                .with_member_id(id.clone())
                .with_assignment(bytes.into())
        });
        let client = &self.clients[index];
        let request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(client.epoch)
            .with_member_id(client.member_id.clone())
            .with_group_instance_id(client.instance.clone())
            .with_assignments(assignments.collect());
        let (token, answers) = self.world.ask(Ask::Sync(request));
        self.clients[index].does = Does::AwaitsSync(token);
        self.take(answers);
    }

    /// What a member of the classic protocol does about an error.
    fn react(&mut self, index: usize, code: i16) {
        let client = &mut self.clients[index];
        match ErrorCode::from_code(code).unwrap() {
            ErrorCode::None => return,
            ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired => {}
            ErrorCode::UnknownMemberId => {
                client.member_id = StrBytes::default();
                client.owned.clear();
            }
            ErrorCode::IllegalGeneration | ErrorCode::StaleMemberEpoch => client.owned.clear(),
            // The broker knows the process before it alone: there was a rebalance, and then a restart.
            ErrorCode::FencedInstanceId => return self.crash(index),
            other => panic!("{other:?} {client:?}"),
        }
        client.does = Does::Joining;
    }

    fn take(&mut self, answers: Vec<(Token, Answer)>) {
        for (token, answer) in answers {
            let whose = |client: &Client| match client.does {
                Does::AwaitsJoin(waits) | Does::AwaitsSync(waits) => client.up && waits == token,
                _ => false,
            };
            let Some(index) = self.clients.iter().position(whose) else {
                continue;
            };
            let cooperative = self.cooperative;
            let client = &mut self.clients[index];
            match answer {
                Answer::Join(join) if join.error_code == 0 => {
                    client.member_id = join.member_id;
                    client.epoch = join.generation_id;
                    client.does = Does::Syncing {
                        members: join.members,
                    };
                }
                Answer::Join(join) => {
                    if join.error_code == ErrorCode::MemberIdRequired.code() {
                        client.member_id = join.member_id.clone();
                    }
                    self.react(index, join.error_code);
                }
                Answer::Sync(sync) if sync.error_code == 0 => {
                    let assigned = match sync.assignment.is_empty() {
                        true => BTreeSet::new(),
                        false => partitions_of(&embedded::assignment(&sync.assignment).unwrap().0),
                    };
                    // Whoever gave something up joins again, so that another gets it.
                    let gave_up = cooperative && !client.owned.is_subset(&assigned);
                    client.owned = assigned;
                    client.does = match gave_up {
                        true => Does::Joining,
                        false => Does::Working,
                    };
                }
                Answer::Sync(sync) => self.react(index, sync.error_code),
                _ => {}
            }
        }
    }

    fn consumer_heartbeat(&mut self, index: usize) {
        let client = &self.clients[index];
        let owned = TopicPartitions::default()
            .with_topic_id(uuid(TOPIC_ID))
            .with_partitions(client.owned.iter().copied().collect());
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(client.member_id.clone())
            .with_member_epoch(client.epoch)
            .with_instance_id(client.instance.clone())
            .with_rebalance_timeout_ms(20_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text(TOPIC))]))
            .with_topic_partitions(Some(match client.owned.is_empty() {
                true => Vec::new(),
                false => vec![owned],
            }));
        let response = self.ask_consumer(request);
        let client = &mut self.clients[index];
        match ErrorCode::from_code(response.error_code).unwrap() {
            ErrorCode::None => {
                assert!(response.member_epoch >= client.epoch, "an epoch fell");
                client.epoch = response.member_epoch;
                let assignment = response.assignment.expect("a full request, a full answer");
                let assigned = assignment.topic_partitions.into_iter();
                client.owned = assigned.flat_map(|topic| topic.partitions).collect();
            }
            ErrorCode::FencedMemberEpoch
            | ErrorCode::UnknownMemberId
            | ErrorCode::GroupIdNotFound => {
                client.epoch = 0;
                client.owned.clear();
            }
            // The process before it has its name until its session ends.
            ErrorCode::UnreleasedInstanceId => {}
            other => panic!("{other:?} {:?} {client:?}", response.error_message),
        }
    }

    fn ask_consumer(
        &mut self,
        request: ConsumerGroupHeartbeatRequest,
    ) -> kafka_protocol::messages::ConsumerGroupHeartbeatResponse {
        let (token, answers) = self.world.ask(Ask::ConsumerHeartbeat(ConsumerHeartbeat {
            version: 1,
            client_id: text("c"),
            client_host: text("/127.0.0.1"),
            request,
        }));
        let mut own = None;
        let mut others = Vec::new();
        for (answered, answer) in answers {
            match answer {
                Answer::ConsumerHeartbeat(answer) if answered == token => own = Some(answer),
                answer => others.push((answered, answer)),
            }
        }
        self.take(others);
        own.expect("an answer at once")
    }

    /// The process ends in order. Static members of the classic protocol say nothing, those of the new one
    /// that they will be back.
    fn stop(&mut self, index: usize) {
        let client = self.clients[index].clone();
        if !client.up {
            return;
        }
        self.crash(index);
        match (client.consumer, client.instance) {
            (true, instance) => {
                if client.epoch == 0 {
                    return;
                }
                let request = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(group())
                    .with_member_id(client.member_id)
                    .with_member_epoch(if instance.is_some() { -2 } else { -1 })
                    .with_instance_id(instance);
                // It may have been fenced without having noticed.
                self.ask_consumer(request);
            }
            (false, Some(_)) => {}
            (false, None) => {
                let leaving = MemberIdentity::default().with_member_id(client.member_id);
                let request = LeaveGroupRequest::default()
                    .with_group_id(group())
                    .with_members(vec![leaving]);
                let (_, answers) = self.world.ask(Ask::Leave(request));
                self.take(answers);
            }
        }
    }

    /// Stopped, and started again with the other protocol.
    fn switch(&mut self, index: usize) {
        self.stop(index);
        // Nobody may be left, for a moment: the group that is made then begins anew.
        self.check();
        self.clients[index].consumer = !self.clients[index].consumer;
        self.start(index);
        self.act(index);
    }

    fn advance(&mut self, ms: i64) {
        let answers = self.world.advance(ms);
        self.take(answers);
        self.let_go();
    }

    /// Whoever was taken out by the clock has by then noticed itself: its own clock says so.
    fn let_go(&mut self) {
        let members: BTreeSet<String> = match self.world.machine.groups.get("g") {
            Some(Group::Classic(group)) => group.members().map(|m| m.id.to_string()).collect(),
            Some(Group::Consumer(group)) => group.members.keys().map(ToString::to_string).collect(),
            None => BTreeSet::new(),
        };
        for client in &mut self.clients {
            if !members.contains(client.member_id.as_str()) {
                client.owned.clear();
            }
        }
    }

    fn restart_broker(&mut self) {
        let answers = self.world.restart();
        // Whoever waited has lost its connection, and asks again.
        for client in &mut self.clients {
            if let Does::AwaitsJoin(_) | Does::AwaitsSync(_) = client.does {
                client.does = Does::Joining;
            }
        }
        // A generation that nobody was assigned anything in is not on record.
        if let Some(Group::Classic(group)) = self.world.machine.groups.get("g") {
            self.epoch = group.generation();
        }
        self.take(answers);
        self.let_go();
        self.look_at_commits();
    }

    fn commit(&mut self, index: usize, partition: i32) {
        let client = &self.clients[index];
        let works = client.consumer || client.does == Does::Working;
        if !client.up || !works || !client.owned.contains(&partition) {
            return;
        }
        self.next_offset += 1;
        let offset = self.next_offset;
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(TOPIC)))
            .with_partitions(vec![
                OffsetCommitRequestPartition::default()
                    .with_partition_index(partition)
                    .with_committed_offset(offset),
            ]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(client.epoch)
            .with_member_id(client.member_id.clone())
            .with_group_instance_id(client.instance.clone())
            .with_topics(vec![topic]);
        let version = 9;
        let (_, answers) = self.world.ask(Ask::Commit { version, request });
        for (_, answer) in &answers {
            if let Answer::Commit(answer) = answer
                && answer.topics[0].partitions[0].error_code == 0
            {
                self.committed.insert(partition, offset);
            }
        }
        self.take(answers);
    }

    fn look_at_commits(&mut self) {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_topics(None);
        let require_stable = true;
        let ask = Ask::Fetch {
            group,
            require_stable,
        };
        let (_, answers) = self.world.ask(ask);
        let Some((_, Answer::Fetch(fetched))) = answers.last() else {
            panic!("no answer");
        };
        let partitions = fetched.topics.iter().flat_map(|topic| &topic.partitions);
        let found = partitions.map(|p| (p.partition_index, p.committed_offset));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), self.committed);
    }

    /// What must hold at any time.
    fn check(&mut self) {
        let mut held = BTreeMap::new();
        for (index, client) in self.clients.iter().enumerate() {
            for partition in &client.owned {
                if let Some(other) = held.insert(*partition, index) {
                    let (one, two) = (&self.clients[other], client);
                    panic!("two own partition {partition}: {one:?} and {two:?}");
                }
            }
        }
        let (is_empty, epoch, is_consumer) = match self.world.machine.groups.get("g") {
            None => (true, 0, false),
            Some(Group::Classic(group)) => (group.is_empty(), group.generation(), false),
            Some(Group::Consumer(group)) => {
                let mut owners = BTreeSet::new();
                for member in group.members.values() {
                    assert!(member.epoch <= group.target_epoch.max(group.epoch));
                    let owned = [&member.assigned, &member.revoking];
                    for partition in owned.iter().flat_map(|owned| owned.values()) {
                        for partition in partition.keys() {
                            assert!(owners.insert(*partition), "two are given a partition");
                        }
                    }
                }
                (group.is_empty(), group.epoch, true)
            }
        };
        if self.was_consumer != is_consumer {
            self.conversions += usize::from(!is_empty);
            self.was_consumer = is_consumer;
        }
        if is_empty {
            self.epoch = 0;
        } else {
            assert!(epoch >= self.epoch, "the group's epoch fell");
            self.epoch = epoch;
        }
    }

    /// Everybody who is up does what it has to, with nothing in between.
    fn settle(&mut self) {
        if std::mem::take(&mut self.owed) {
            for client in &mut self.clients {
                if client.does == Does::Working {
                    client.does = Does::Joining;
                }
            }
        }
        for _ in 0..150 {
            for index in 0..self.clients.len() {
                self.act(index);
                self.check();
            }
            self.advance(1_000);
            self.check();
        }
        let up: Vec<&Client> = self.clients.iter().filter(|client| client.up).collect();
        for client in &up {
            assert!(
                client.consumer || client.does == Does::Working,
                "{client:?}"
            );
        }
        let owned: BTreeSet<i32> = up.iter().flat_map(|c| &c.owned).copied().collect();
        let found = self.world.machine.groups.get("g");
        if !up.is_empty() {
            assert_eq!(owned, (0..PARTITIONS).collect(), "{up:?}");
            let speaks = up.iter().any(|client| client.consumer);
            match found.expect("a group") {
                Group::Classic(group) => {
                    assert!(!speaks);
                    assert_eq!(group.members().count(), up.len());
                }
                Group::Consumer(group) => {
                    assert!(speaks);
                    assert_eq!(group.state(), GroupState::Stable);
                    assert_eq!(group.members.len(), up.len());
                }
            }
        }
        self.restart_broker();
        self.check();
    }

    fn step(&mut self, what: u8, index: usize, amount: u16) {
        let index = index % self.clients.len();
        match what {
            0..=9 => self.start(index),
            10..=74 => self.act(index),
            75..=81 => self.commit(index, i32::from(amount) % PARTITIONS),
            82..=86 => self.switch(index),
            87..=88 => self.stop(index),
            89..=91 => self.crash(index),
            92..=98 => self.advance(i64::from(amount % 4_000)),
            _ => self.restart_broker(),
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn members_of_both_protocols_share_the_partitions_while_the_group_changes_its_kind(
        clients in prop_oneof![1usize..6, 6usize..30],
        cooperative in any::<bool>(),
        steps in prop::collection::vec((0u8..100, 0usize..300, any::<u16>()), 1..1000),
    ) {
        let mut model = Model::new(clients, cooperative);
        for (what, index, amount) in steps {
            model.step(what, index, amount);
        }
        model.settle();
    }
}

#[test]
fn a_group_is_upgraded_and_taken_back_member_by_member() {
    for cooperative in [false, true] {
        let mut model = Model::new(12, cooperative);
        for index in 0..12 {
            model.clients[index].consumer = false;
            model.start(index);
        }
        model.settle();
        for _ in 0..2 {
            for index in 0..12 {
                model.switch(index);
                model.check();
                model.settle();
            }
        }
        assert_eq!(model.conversions, 2);
    }
}

/// That its members have to join again is not on record of a classic group.
#[test]
fn a_rebalance_that_a_change_of_kind_began_outlives_a_restart() {
    for cooperative in [false, true] {
        let mut model = Model::new(4, cooperative);
        model.clients[3].instance = None;
        for index in 0..4 {
            model.start(index);
        }
        model.settle();
        assert!(model.was_consumer && model.clients[3].consumer);
        model.stop(3);
        model.check();
        assert!(!model.was_consumer);
        model.restart_broker();
        model.settle();
    }
}

#[test]
fn ten_thousand_groups_of_the_new_protocol_cost_some_records_each_and_go_when_nobody_is_left() {
    const GROUPS: usize = 10_000;
    let mut model = Model::new(0, false);
    let join = |model: &mut Model, group: usize, epoch: i32| {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(&text(&format!("g{group}"))))
            .with_member_id(text("m"))
            .with_member_epoch(epoch)
            .with_rebalance_timeout_ms(20_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text(TOPIC))]))
            .with_topic_partitions(Some(Vec::new()));
        let response = model.ask_consumer(request);
        assert_eq!(response.error_code, 0, "{:?}", response.error_message);
        response.member_epoch
    };
    let epochs: Vec<i32> = (0..GROUPS).map(|g| join(&mut model, g, 0)).collect();
    assert_eq!(model.world.machine.groups.len(), GROUPS);
    let records = model.world.log.len();
    assert!(records <= 6 * GROUPS, "{records}");
    // A topic grows: every group hears of it once, with its next heartbeat.
    model
        .world
        .metadata(vec![MetadataRecord::Partition(PartitionRegistration {
            topic_id: TOPIC_ID,
            partition: PartitionIndex(PARTITIONS),
            replicas: vec![BrokerId(1)],
            isr: vec![BrokerId(1)],
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
            directories: Vec::new(),
        })]);
    assert_eq!(model.world.log.len(), records);
    model.world.advance(2_000);
    for (group, epoch) in epochs.iter().enumerate() {
        assert!(join(&mut model, group, *epoch) > *epoch);
    }
    let more = model.world.log.len() - records;
    assert!(more <= 5 * GROUPS, "{more}");
    model.world.restart();
    assert_eq!(model.world.machine.groups.len(), GROUPS);
    // Nobody is heard of any more, and with the next look the empty groups are forgotten.
    model.world.advance(60_000);
    model.world.advance(1_200_000);
    assert_eq!(model.world.machine.groups.len(), 0);
    assert_eq!(model.world.machine.timers.len(), 1);
    assert_eq!(model.world.machine.consumers.timers.len(), 0);
}
