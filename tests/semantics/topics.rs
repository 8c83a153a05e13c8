//! Topics: creating, deleting, describing, growing.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest,
    MetadataRequest, MetadataResponse,
};
use uuid::Uuid;

use crate::wire::*;

fn create(
    wire: &mut Wire,
    validate_only: bool,
    topics: Vec<CreatableTopic>,
) -> Vec<CreatableTopicResult> {
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(10_000)
        .with_validate_only(validate_only)
        .with_topics(topics);
    wire.ask(7, &request).topics
}

fn create_one(wire: &mut Wire, topic: CreatableTopic) -> i16 {
    let result = create(wire, false, vec![topic]).remove(0);
    assert_eq!(result.error_code != 0, result.error_message.is_some());
    result.error_code
}

fn delete(wire: &mut Wire, name: &str) -> i16 {
    let request = DeleteTopicsRequest::default()
        .with_timeout_ms(10_000)
        .with_topic_names(vec![topic_name(name)]);
    wire.ask(5, &request).responses[0].error_code
}

fn metadata(wire: &mut Wire, version: i16, name: &str, create: bool) -> MetadataResponse {
    let asked = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(create);
    wire.ask(version, &request)
}

fn topic_error(response: &MetadataResponse) -> i16 {
    response.topics[0].error_code
}

#[test]
fn wrong_names_counts_and_configs_have_their_codes() {
    let mut wire = Wire::shared();
    let wire = &mut wire;
    let long = "x".repeat(250);
    for wrong in ["", ".", "..", "a b", "a/b", "ä", &long] {
        let error = create_one(wire, creatable(wrong, 1, &[]));
        assert_eq!(error, code::INVALID_TOPIC_EXCEPTION, "{wrong:?}");
    }
    let fresh = name("wrong");
    for partitions in [0, -2] {
        let error = create_one(wire, creatable(&fresh, partitions, &[]));
        assert_eq!(error, code::INVALID_PARTITIONS);
    }
    let error = create_one(wire, creatable(&fresh, 10_001, &[]));
    assert_eq!(error, code::POLICY_VIOLATION);
    for factor in [0, 2] {
        let topic = creatable(&fresh, 1, &[]).with_replication_factor(factor);
        assert_eq!(create_one(wire, topic), code::INVALID_REPLICATION_FACTOR);
    }
    for config in [
        ("no.such.config", "1"),
        ("retention.ms", "soon"),
        ("retention.ms", "-2"),
        ("cleanup.policy", "shred"),
        ("remote.storage.enable", "true"),
        ("min.insync.replicas", "0"),
    ] {
        let result = create(wire, false, vec![creatable(&fresh, 1, &[config])]).remove(0);
        assert_eq!(result.error_code, code::INVALID_CONFIG, "{config:?}");
        if config.0 != "remote.storage.enable" {
            let message = result.error_message.expect("a message");
            assert!(message.contains(config.0), "{message}");
        }
    }
    assert_eq!(create_one(wire, creatable(&fresh, 1, &[])), 0);
    assert_eq!(
        create_one(wire, creatable(&fresh, 1, &[])),
        code::TOPIC_ALREADY_EXISTS
    );
}

#[test]
fn assignments_are_checked() {
    let mut wire = Wire::shared();
    let assign = |rows: &[(i32, &[i32])]| {
        let rows = rows.iter().map(|(partition, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*partition)
                .with_broker_ids(brokers.iter().map(|&id| BrokerId(id)).collect())
        });
        creatable(&name("assigned"), -1, &[]).with_assignments(rows.collect())
    };
    assert_eq!(create_one(&mut wire, assign(&[(0, &[1]), (1, &[1])])), 0);
    for wrong in [
        assign(&[(0, &[9])]),
        assign(&[(0, &[1, 1])]),
        assign(&[(0, &[])]),
        assign(&[(1, &[1])]),
    ] {
        assert_eq!(
            create_one(&mut wire, wrong),
            code::INVALID_REPLICA_ASSIGNMENT
        );
    }
    let both = assign(&[(0, &[1])]).with_num_partitions(1);
    assert_eq!(create_one(&mut wire, both), code::INVALID_REQUEST);
}

#[test]
fn a_dot_and_an_underscore_collide() {
    let mut wire = Wire::shared();
    let base = name("collide");
    assert_eq!(
        create_one(&mut wire, creatable(&format!("{base}.x"), 1, &[])),
        0
    );
    let other = creatable(&format!("{base}_x"), 1, &[]);
    assert_eq!(create_one(&mut wire, other), code::INVALID_TOPIC_EXCEPTION);
}

#[test]
fn results_are_per_topic_and_a_name_given_twice_is_an_invalid_request() {
    let mut wire = Wire::shared();
    let (good, twice) = (name("good"), name("twice"));
    let topics = vec![
        creatable(&good, 2, &[]),
        creatable("a b", 1, &[]),
        creatable(&twice, 1, &[]),
        creatable(&twice, 1, &[]),
    ];
    let results = create(&mut wire, false, topics);
    let errors: BTreeMap<&str, i16> = results
        .iter()
        .map(|result| (result.name.as_str(), result.error_code))
        .collect();
    assert_eq!(errors[&*good], 0);
    assert_eq!(errors["a b"], code::INVALID_TOPIC_EXCEPTION);
    assert_eq!(errors[&*twice], code::INVALID_REQUEST);
}

#[test]
fn validate_only_creates_nothing_and_tells_the_configs() {
    let mut wire = Wire::shared();
    let topic = name("validated");
    let asked = creatable(&topic, 3, &[("retention.ms", "12345")]);
    let result = create(&mut wire, true, vec![asked]).remove(0);
    assert_eq!(
        (
            result.error_code,
            result.num_partitions,
            result.replication_factor
        ),
        (0, 3, 1)
    );
    let configs = result.configs.expect("configs");
    let retention = configs
        .iter()
        .find(|c| c.name.as_str() == "retention.ms")
        .expect("told");
    assert_eq!(retention.value.as_deref(), Some("12345"));
    assert_eq!(retention.config_source, 1);
    let response = metadata(&mut wire, 12, &topic, false);
    assert_eq!(topic_error(&response), code::UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_topic_serves_on_every_core_once_created_and_again_after_it_was_deleted() {
    if is_kafka() {
        return; // It answers a little before the leaders serve.
    }
    let topic = name("again");
    let mut wires: Vec<Wire> = (0..6).map(|_| Wire::shared()).collect();
    let mut last = Uuid::nil();
    for round in 0..10 {
        let wire = &mut wires[round % 6];
        let id = wire.create(&topic, 8, &[]);
        assert_ne!(id, last);
        for (index, wire) in wires.iter_mut().enumerate() {
            for partition in 0..8 {
                assert_eq!(wire.append(&topic, partition, batch(1)), index as i64);
            }
        }
        let wire = &mut wires[(round + 3) % 6];
        assert_eq!(delete(wire, &topic), 0);
        // Nothing answers to the name or the old id, on any core.
        for wire in &mut wires {
            let by_id = FetchTopic::default()
                .with_topic_id(id)
                .with_partitions(vec![fetch_partition(0, 0)]);
            let data = only(wire.ask(13, &fetch_request(0, 1, vec![by_id])));
            assert_eq!(data.error_code, code::UNKNOWN_TOPIC_ID);
            let answer = wire.produce(9, -1, &topic, 0, batch(1));
            assert_eq!(answer.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
        }
        last = id;
    }
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let mut wire = Wire::shared();
    let (by_name, by_id) = (name("delete"), name("delete"));
    wire.create(&by_name, 1, &[]);
    let id = wire.create(&by_id, 1, &[]);
    let state = |name: Option<&str>, id: Uuid| {
        DeleteTopicState::default()
            .with_name(name.map(topic_name))
            .with_topic_id(id)
    };
    let request = DeleteTopicsRequest::default()
        .with_timeout_ms(10_000)
        .with_topics(vec![
            state(Some(&by_name), Uuid::nil()),
            state(None, id),
            state(Some("no-such-topic"), Uuid::nil()),
            state(None, Uuid::from_u128(77)),
        ]);
    let response = wire.ask(6, &request);
    let mut errors: Vec<i16> = response.responses.iter().map(|r| r.error_code).collect();
    errors.sort();
    let expected = [
        0,
        0,
        code::UNKNOWN_TOPIC_OR_PARTITION,
        code::UNKNOWN_TOPIC_ID,
    ];
    assert_eq!(errors, expected);
    let deleted = response
        .responses
        .iter()
        .find(|r| r.topic_id == id)
        .expect("told");
    assert_eq!(deleted.name.as_ref().map(|n| n.as_str()), Some(&*by_id));
}

#[test]
fn metadata_creates_a_topic_if_it_may() {
    let mut wire = Wire::shared();
    let (never, asked, old) = (name("auto"), name("auto"), name("auto"));
    let response = metadata(&mut wire, 12, &never, false);
    assert_eq!(topic_error(&response), code::UNKNOWN_TOPIC_OR_PARTITION);
    let response = metadata(&mut wire, 12, &never, false);
    assert_eq!(topic_error(&response), code::UNKNOWN_TOPIC_OR_PARTITION);
    metadata(&mut wire, 12, &asked, true);
    // Before version 4 there was nothing to ask.
    metadata(&mut wire, 1, &old, true);
    if is_kafka() {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    for topic in [&asked, &old] {
        let response = metadata(&mut wire, 12, topic, false);
        assert_eq!(topic_error(&response), 0);
        assert_eq!(response.topics[0].partitions.len(), 1);
        assert_eq!(wire.append(topic, 0, batch(1)), 0);
    }
    for create in [true, false] {
        let response = metadata(&mut wire, 12, "a b", create);
        assert_eq!(topic_error(&response), code::INVALID_TOPIC_EXCEPTION);
    }
}

#[test]
fn metadata_finds_topics_by_id_and_all_of_them() {
    let mut wire = Wire::shared();
    let topic = name("by-id");
    let id = wire.create(&topic, 2, &[]);
    let asked = |id| {
        let topic = MetadataRequestTopic::default()
            .with_name(None)
            .with_topic_id(id);
        MetadataRequest::default().with_topics(Some(vec![topic]))
    };
    let response = wire.ask(12, &asked(id));
    assert_eq!(topic_error(&response), 0);
    assert_eq!(
        response.topics[0].name.as_ref().map(|n| n.as_str()),
        Some(&*topic)
    );
    assert_eq!(
        topic_error(&wire.ask(12, &asked(Uuid::from_u128(5)))),
        code::UNKNOWN_TOPIC_ID
    );
    for version in 0..=13 {
        let all =
            MetadataRequest::default().with_topics(if version == 0 { Some(vec![]) } else { None });
        let response = wire.ask(version, &all);
        let found = response
            .topics
            .iter()
            .find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == topic));
        assert_eq!(found.expect("listed").partitions.len(), 2);
        assert_eq!(response.brokers.len(), 1);
    }
    let none = MetadataRequest::default().with_topics(Some(vec![]));
    assert_eq!(wire.ask(12, &none).topics.len(), 0);
}

#[test]
fn partitions_are_added_and_serve_at_once() {
    let mut wire = Wire::shared();
    let topic = name("grow");
    wire.create(&topic, 2, &[]);
    let grow = |wire: &mut Wire, name: &str, count: i32, validate_only: bool| {
        let request = CreatePartitionsRequest::default()
            .with_timeout_ms(10_000)
            .with_validate_only(validate_only)
            .with_topics(vec![
                CreatePartitionsTopic::default()
                    .with_name(topic_name(name))
                    .with_count(count)
                    .with_assignments(None),
            ]);
        wire.ask(3, &request).results[0].error_code
    };
    assert_eq!(grow(&mut wire, &topic, 5, true), 0);
    for wrong in [2, 1, 0, -1] {
        assert_eq!(
            grow(&mut wire, &topic, wrong, false),
            code::INVALID_PARTITIONS,
            "{wrong}"
        );
    }
    assert_eq!(
        grow(&mut wire, "no-such-topic", 5, false),
        code::UNKNOWN_TOPIC_OR_PARTITION
    );
    assert_eq!(grow(&mut wire, &topic, 5, false), 0);
    if is_kafka() {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    assert_eq!(wire.append(&topic, 4, batch(1)), 0);
}

#[test]
fn describing_partitions_goes_on_at_the_cursor() {
    let mut wire = Wire::shared();
    let (first, second) = (name("a-paged"), name("b-paged"));
    wire.create(&first, 5, &[]);
    wire.create(&second, 2, &[]);
    let mut seen: Vec<(String, i32)> = Vec::new();
    let mut cursor = None;
    loop {
        let request = DescribeTopicPartitionsRequest::default()
            .with_topics(vec![
                TopicRequest::default().with_name(topic_name(&first)),
                TopicRequest::default().with_name(topic_name(&second)),
            ])
            .with_response_partition_limit(3)
            .with_cursor(cursor.take());
        let response = wire.ask(0, &request);
        for topic in &response.topics {
            assert_eq!(topic.error_code, 0);
            let name = topic.name.as_ref().expect("a name").to_string();
            seen.extend(
                topic
                    .partitions
                    .iter()
                    .map(|p| (name.clone(), p.partition_index)),
            );
        }
        let Some(next) = response.next_cursor else {
            break;
        };
        cursor = Some(
            Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    let mut expected: Vec<(String, i32)> = (0..5).map(|p| (first.clone(), p)).collect();
    expected.extend((0..2).map(|p| (second.clone(), p)));
    assert_eq!(seen, expected);
}

#[test]
fn leaders_that_stand_need_no_election() {
    let mut wire = Wire::shared();
    let topic = name("elect");
    wire.create(&topic, 1, &[]);
    let asked = TopicPartitions::default()
        .with_topic(topic_name(&topic))
        .with_partitions(vec![0, 3]);
    for election_type in [0, 1] {
        let request = ElectLeadersRequest::default()
            .with_election_type(election_type)
            .with_timeout_ms(5000)
            .with_topic_partitions(Some(vec![asked.clone()]));
        let response = wire.ask(2, &request);
        assert_eq!(response.error_code, 0);
        let results = &response.replica_election_results[0].partition_result;
        let error = |id| {
            results
                .iter()
                .find(|p| p.partition_id == id)
                .expect("told")
                .error_code
        };
        assert_eq!(error(0), code::ELECTION_NOT_NEEDED);
        assert_eq!(error(3), code::UNKNOWN_TOPIC_OR_PARTITION);
    }
}

#[test]
fn nothing_is_being_reassigned() {
    let mut wire = Wire::shared();
    let request = ListPartitionReassignmentsRequest::default()
        .with_timeout_ms(5000)
        .with_topics(None);
    let response = wire.ask(0, &request);
    assert_eq!((response.error_code, response.topics.len()), (0, 0));
}

#[test]
fn of_many_that_create_a_name_at_once_one_wins() {
    let topic = name("race");
    let codes: Vec<i16> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = Wire::shared();
                    create(&mut wire, false, vec![creatable(&topic, 4, &[])])[0].error_code
                })
            })
            .collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.map(|code| code.expect("answered")).collect()
    });
    assert_eq!(codes.iter().filter(|&&code| code == 0).count(), 1);
    let refused = code::TOPIC_ALREADY_EXISTS;
    assert!(codes.iter().all(|&code| code == 0 || code == refused));
}

#[test]
fn produces_and_fetches_of_a_topic_that_goes_are_all_answered() {
    let mut wire = Wire::shared();
    let topic = name("going");
    let gone = [code::UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER];
    for _ in 0..5 {
        wire.create(&topic, 8, &[]);
        std::thread::scope(|scope| {
            for partition in 0..4 {
                let topic = &topic;
                scope.spawn(move || {
                    let mut wire = Wire::shared();
                    let mut appended = 0;
                    loop {
                        let answer = wire.produce(9, -1, topic, partition, batch(1));
                        if answer.error_code != 0 {
                            assert!(gone.contains(&answer.error_code), "{}", answer.error_code);
                            break;
                        }
                        assert_eq!(answer.base_offset, appended);
                        appended += 1;
                    }
                });
                scope.spawn(move || {
                    let mut wire = Wire::shared();
                    let asked = (0..8).map(|p| fetch_partition(p, 0)).collect();
                    let request = fetch_request(5000, 1 << 30, vec![fetch_topic(topic, asked)]);
                    let response = wire.ask(12, &request);
                    assert_eq!(response.responses[0].partitions.len(), 8);
                });
            }
            while wire.list_offset(7, &topic, 0, -1).offset < 20 {}
            assert_eq!(delete(&mut wire, &topic), 0);
        });
        if is_kafka() {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

/// Kafka says so for a moment while a topic goes.
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
