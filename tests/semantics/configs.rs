//! Settings over the wire: described, altered, and in effect at once.

use std::time::{Duration, Instant};

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource, AlterableConfig as WholeConfig,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource as IncrementalResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    ListConfigResourcesRequest,
};

use crate::broker::Broker;
use crate::wire::*;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Sources of a value.
const DYNAMIC_TOPIC: i8 = 1;
const DYNAMIC_BROKER: i8 = 2;
const DYNAMIC_DEFAULT: i8 = 3;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

fn describe(wire: &mut Wire, kind: i8, name: &str) -> Vec<DescribeConfigsResourceResult> {
    let request = DescribeConfigsRequest::default()
        .with_include_synonyms(true)
        .with_resources(vec![
            DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configuration_keys(None),
        ]);
    let mut response = wire.ask(4, &request);
    let result = response.results.remove(0);
    assert_eq!(result.error_code, 0, "{:?}", result.error_message);
    result.configs
}

/// Value and source.
fn value(wire: &mut Wire, kind: i8, name: &str, key: &str) -> (String, i8) {
    let configs = describe(wire, kind, name);
    let found = configs
        .iter()
        .find(|c| c.name.as_str() == key)
        .expect("told");
    let value = found.value.as_ref().map(|v| v.to_string());
    (value.unwrap_or_default(), found.config_source)
}

fn alter(wire: &mut Wire, kind: i8, name: &str, changes: &[(i8, &str, Option<&str>)]) -> i16 {
    alter_with(wire, kind, name, changes, false)
}

fn alter_with(
    wire: &mut Wire,
    kind: i8,
    name: &str,
    changes: &[(i8, &str, Option<&str>)],
    validate_only: bool,
) -> i16 {
    let changes = changes.iter().map(|(operation, key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    let request = IncrementalAlterConfigsRequest::default()
        .with_validate_only(validate_only)
        .with_resources(vec![
            IncrementalResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(changes.collect()),
        ]);
    let code = wire.ask(1, &request).responses[0].error_code;
    if is_kafka() {
        // Its brokers learn of it a little later.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    code
}

#[test]
fn every_topic_setting_is_described_with_where_it_comes_from() {
    let mut wire = Wire::shared();
    let topic = name("described");
    wire.create(&topic, 1, &[("retention.ms", "777")]);
    let configs = describe(&mut wire, TOPIC, &topic);
    let find = |key: &str| configs.iter().find(|c| c.name.as_str() == key).expect(key);
    let retention = find("retention.ms");
    assert_eq!(
        (retention.value.as_deref(), retention.config_source),
        (Some("777"), DYNAMIC_TOPIC)
    );
    let synonyms: Vec<&str> = retention.synonyms.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(synonyms[0], "retention.ms");
    for key in ["segment.bytes", "cleanup.policy", "flush.messages"] {
        assert_eq!(find(key).config_source, DEFAULT, "{key}");
        assert!(!find(key).read_only);
    }
    assert_eq!(find("segment.bytes").value.as_deref(), Some("1073741824"));
}

#[test]
fn set_delete_append_and_subtract() {
    let mut wire = Wire::shared();
    let topic = name("altered");
    wire.create(&topic, 1, &[]);
    let wire = &mut wire;
    assert_eq!(
        alter(wire, TOPIC, &topic, &[(SET, "retention.ms", Some("5000"))]),
        0
    );
    assert_eq!(
        value(wire, TOPIC, &topic, "retention.ms"),
        ("5000".into(), DYNAMIC_TOPIC)
    );
    assert_eq!(
        alter(wire, TOPIC, &topic, &[(DELETE, "retention.ms", None)]),
        0
    );
    assert_eq!(
        value(wire, TOPIC, &topic, "retention.ms"),
        ("604800000".into(), DEFAULT)
    );
    let policy = "cleanup.policy";
    assert_eq!(
        alter(wire, TOPIC, &topic, &[(APPEND, policy, Some("compact"))]),
        0
    );
    assert_eq!(value(wire, TOPIC, &topic, policy).0, "delete,compact");
    assert_eq!(
        alter(wire, TOPIC, &topic, &[(SUBTRACT, policy, Some("delete"))]),
        0
    );
    assert_eq!(value(wire, TOPIC, &topic, policy).0, "compact");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut wire = Wire::shared();
    let topic = name("refused");
    wire.create(&topic, 1, &[]);
    let wire = &mut wire;
    for (change, expected) in [
        ((SET, "no.such", Some("1")), code::INVALID_CONFIG),
        ((SET, "retention.ms", Some("x")), code::INVALID_CONFIG),
        (
            (SET, "remote.storage.enable", Some("true")),
            code::INVALID_CONFIG,
        ),
        ((APPEND, "retention.ms", Some("1")), code::INVALID_CONFIG),
        ((SET, "retention.ms", None), code::INVALID_REQUEST),
    ] {
        let both = [(SET, "flush.ms", Some("5")), change];
        assert_eq!(alter(wire, TOPIC, &topic, &both), expected, "{change:?}");
    }
    let twice = [(SET, "flush.ms", Some("5")), (SET, "flush.ms", Some("6"))];
    assert_eq!(alter(wire, TOPIC, &topic, &twice), code::INVALID_REQUEST);
    let unknown = alter(
        wire,
        TOPIC,
        "no-such-topic",
        &[(SET, "flush.ms", Some("5"))],
    );
    assert_eq!(unknown, code::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(
        alter_with(wire, TOPIC, &topic, &[(SET, "flush.ms", Some("5"))], true),
        0
    );
    assert_eq!(value(wire, TOPIC, &topic, "flush.ms").1, DEFAULT);
}

#[test]
fn altering_the_old_way_replaces_everything() {
    let mut wire = Wire::shared();
    let topic = name("replaced");
    wire.create(&topic, 1, &[("retention.ms", "777"), ("flush.ms", "9")]);
    let request = AlterConfigsRequest::default().with_resources(vec![
        AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(&topic))
            .with_configs(vec![
                WholeConfig::default()
                    .with_name(text("flush.ms"))
                    .with_value(Some(text("11"))),
            ]),
    ]);
    assert_eq!(wire.ask(2, &request).responses[0].error_code, 0);
    if is_kafka() {
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert_eq!(value(&mut wire, TOPIC, &topic, "flush.ms").0, "11");
    assert_eq!(value(&mut wire, TOPIC, &topic, "retention.ms").1, DEFAULT);
}

#[test]
fn a_topics_settings_take_effect_at_run_time() {
    let mut wire = Wire::shared();
    let topic = name("live");
    wire.create(&topic, 1, &[]);
    let wire = &mut wire;
    assert_eq!(wire.append(&topic, 0, batch_of_bytes(2000)), 0);
    alter(
        wire,
        TOPIC,
        &topic,
        &[(SET, "max.message.bytes", Some("1000"))],
    );
    let answer = wire.produce(9, -1, &topic, 0, batch_of_bytes(2000));
    assert_eq!(answer.error_code, code::MESSAGE_TOO_LARGE);
    alter(wire, TOPIC, &topic, &[(DELETE, "max.message.bytes", None)]);
    assert_eq!(wire.append(&topic, 0, batch_of_bytes(2000)), 1);
    for value in [Some("1"), Some("3"), None, Some("1")] {
        let operation = if value.is_some() { SET } else { DELETE };
        alter(wire, TOPIC, &topic, &[(operation, "flush.messages", value)]);
        for acks in [1, -1, 1, -1, 1] {
            let answer = wire.produce(9, acks, &topic, 0, batch(1));
            assert_eq!(answer.error_code, 0);
            let end = answer.base_offset + 1;
            assert_eq!(wire.list_offset(7, &topic, 0, -1).offset, end);
        }
    }
    alter(
        wire,
        TOPIC,
        &topic,
        &[(SET, "message.timestamp.type", Some("LogAppendTime"))],
    );
    assert!(wire.produce(9, -1, &topic, 0, batch(1)).log_append_time_ms > 0);
}

fn broker() -> Broker {
    own_broker(&name("dynamic"), &[("ringspun.shards", "2")])
}

#[test]
fn cluster_wide_and_per_broker_settings_take_effect_and_are_told_in_order() {
    let broker = broker();
    let mut wire = Wire::connect(&broker.bootstrap());
    let wire = &mut wire;
    let topic = name("dynamic");
    wire.create(&topic, 4, &[]);
    let key = "message.max.bytes";
    assert_eq!(alter(wire, BROKER, "", &[(SET, key, Some("3000"))]), 0);
    assert_eq!(
        value(wire, BROKER, "1", key),
        ("3000".into(), DYNAMIC_DEFAULT)
    );
    let (told, source) = value(wire, TOPIC, &topic, "max.message.bytes");
    assert_eq!((told.as_str(), source), ("3000", DYNAMIC_DEFAULT));
    for partition in 0..4 {
        let answer = wire.produce(9, -1, &topic, partition, batch_of_bytes(4000));
        assert_eq!(answer.error_code, code::MESSAGE_TOO_LARGE);
    }
    assert_eq!(alter(wire, BROKER, "1", &[(SET, key, Some("5000"))]), 0);
    assert_eq!(
        value(wire, BROKER, "1", key),
        ("5000".into(), DYNAMIC_BROKER)
    );
    for partition in 0..4 {
        assert_eq!(wire.append(&topic, partition, batch_of_bytes(4000)), 0);
    }
    let configs = describe(wire, TOPIC, &topic);
    let found = configs
        .iter()
        .find(|c| c.name.as_str() == "max.message.bytes");
    let synonyms: Vec<(&str, Option<&str>, i8)> = found
        .expect("told")
        .synonyms
        .iter()
        .map(|s| (s.name.as_str(), s.value.as_deref(), s.source))
        .collect();
    let expected = [
        (key, Some("5000"), DYNAMIC_BROKER),
        (key, Some("3000"), DYNAMIC_DEFAULT),
        (key, Some("1048588"), DEFAULT),
    ];
    assert_eq!(synonyms, expected);
    assert_eq!(alter(wire, BROKER, "1", &[(DELETE, key, None)]), 0);
    assert_eq!(alter(wire, BROKER, "", &[(DELETE, key, None)]), 0);
    assert_eq!(value(wire, BROKER, "1", key).1, DEFAULT);
    // Retention of the whole cluster.
    assert_eq!(
        alter(wire, BROKER, "", &[(SET, "log.retention.ms", Some("4321"))]),
        0
    );
    let (told, source) = value(wire, TOPIC, &topic, "retention.ms");
    assert_eq!((told.as_str(), source), ("4321", DYNAMIC_DEFAULT));
}

/// KIP-966: the number is the cluster's, so that it is the same whoever leads.
#[test]
fn min_insync_replicas_is_a_default_of_the_cluster() {
    let broker = own_broker(&name("min-isr"), &[("min.insync.replicas", "3")]);
    let mut wire = Wire::connect(&broker.bootstrap());
    let wire = &mut wire;
    let topic = name("min-isr");
    wire.create(&topic, 1, &[]);
    let key = "min.insync.replicas";
    let cluster = |wire: &mut Wire| -> Vec<(String, String)> {
        let configs = describe(wire, BROKER, "").into_iter();
        configs
            .map(|c| (c.name.to_string(), c.value.unwrap_or_default().to_string()))
            .collect()
    };
    // What the node's file says when the cluster begins.
    assert_eq!(cluster(wire), [(key.to_owned(), "3".to_owned())]);
    assert_eq!(value(wire, BROKER, "1", key), ("3".into(), DYNAMIC_DEFAULT));
    assert_eq!(
        value(wire, TOPIC, &topic, key),
        ("3".into(), DYNAMIC_DEFAULT)
    );
    assert_eq!(alter(wire, BROKER, "", &[(SET, key, Some("2"))]), 0);
    let configs = describe(wire, TOPIC, &topic);
    let found = configs.iter().find(|c| c.name.as_str() == key);
    let synonyms: Vec<(&str, Option<&str>, i8)> = found
        .expect("told")
        .synonyms
        .iter()
        .map(|s| (s.name.as_str(), s.value.as_deref(), s.source))
        .collect();
    let expected = [
        (key, Some("2"), DYNAMIC_DEFAULT),
        (key, Some("3"), STATIC_BROKER),
        (key, Some("1"), DEFAULT),
    ];
    assert_eq!(synonyms, expected);
    // More than there are replicas: as many as there are.
    assert_eq!(wire.append(&topic, 0, batch(1)), 0);
    for (name, change) in [
        ("", (DELETE, key, None)),
        ("1", (SET, key, Some("2"))),
        ("1", (DELETE, key, None)),
    ] {
        let answer = alter(wire, BROKER, name, &[change]);
        assert_eq!(answer, code::INVALID_CONFIG, "{name:?} {change:?}");
    }
    let zero = alter(wire, BROKER, "", &[(SET, key, Some("0"))]);
    assert_eq!(zero, code::INVALID_REQUEST);
    assert_eq!(cluster(wire), [(key.to_owned(), "2".to_owned())]);
}

#[test]
fn broker_settings_that_cannot_change_are_refused() {
    let broker = broker();
    let mut wire = Wire::connect(&broker.bootstrap());
    let wire = &mut wire;
    for (name, key, value, expected) in [
        ("", "log.dirs", "/x", code::INVALID_REQUEST),
        ("1", "node.id", "5", code::INVALID_REQUEST),
        ("", "log.retention.ms", "x", code::INVALID_REQUEST),
        (
            "",
            "advertised.listeners",
            "PLAINTEXT://a:1",
            code::INVALID_REQUEST,
        ),
    ] {
        let answer = alter(wire, BROKER, name, &[(SET, key, Some(value))]);
        assert_eq!(answer, expected, "{key}");
    }
}

#[test]
fn resources_with_settings_are_listed() {
    let mut wire = Wire::shared();
    let topic = name("listed");
    wire.create(&topic, 1, &[]);
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![TOPIC]);
    let response = wire.ask(1, &request);
    assert_eq!(response.error_code, 0);
    let names = response.config_resources.iter();
    assert!(names.clone().any(|r| r.resource_name.as_str() == topic));
    assert!(names.clone().all(|r| r.resource_type == TOPIC));
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![3]);
    assert_eq!(wire.ask(1, &request).error_code, code::UNSUPPORTED_VERSION);
    let response = wire.ask(0, &ListConfigResourcesRequest::default());
    assert_eq!(
        (response.error_code, response.config_resources.len()),
        (0, 0)
    );
}

#[test]
fn retention_of_the_cluster_and_of_a_topic_take_effect_at_run_time() {
    let broker = own_broker(
        &name("retention"),
        &[
            ("ringspun.shards", "2"),
            ("log.retention.check.interval.ms", "100"),
            ("log.initial.task.delay.ms", "0"),
        ],
    );
    let mut wire = Wire::connect(&broker.bootstrap());
    let wire = &mut wire;
    let own = name("own");
    let kept = name("kept");
    let segments = ("segment.bytes", "1048576");
    wire.create(&own, 1, &[segments]);
    wire.create(&kept, 1, &[segments, ("retention.ms", "-1")]);
    for topic in [&own, &kept] {
        for _ in 0..4 {
            wire.append(topic, 0, batch_of_bytes(600_000));
        }
    }
    alter(wire, BROKER, "", &[(SET, "log.retention.ms", Some("1"))]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while wire.list_offset(7, &own, 0, -2).offset < 3 {
        assert!(Instant::now() < deadline, "nothing is deleted");
    }
    assert_eq!(wire.list_offset(7, &kept, 0, -2).offset, 0);
    let changes = [
        (SET, "retention.ms", Some("-1")),
        (SET, "retention.bytes", Some("1")),
    ];
    alter(wire, TOPIC, &kept, &changes);
    while wire.list_offset(7, &kept, 0, -2).offset == 0 {
        assert!(Instant::now() < deadline, "nothing is deleted");
    }
}
