//! What group coordinators do beyond what real clients show: settings that turn something off or slow it down.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DescribeConfigsRequest,
    FindCoordinatorRequest, GroupId, OffsetCommitRequest, OffsetCommitResponse,
};

use crate::wire::*;

fn commit(group: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_topics(vec![topic])
}

fn committed(response: &OffsetCommitResponse) -> i16 {
    response.topics[0].partitions[0].error_code
}

/// Has the topic of committed offsets made, and its coordinator loaded.
fn wait_for_coordinator(wire: &mut Wire, topic: &str) {
    let find = FindCoordinatorRequest::default()
        .with_coordinator_keys(vec![text("g")])
        .with_key_type(0);
    loop {
        if wire.ask(4, &find).coordinators[0].error_code == 0
            && committed(&wire.ask(8, &commit("g", topic, 1))) == 0
        {
            return;
        }
        if is_kafka() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[test]
fn commits_that_arrive_within_the_linger_time_share_a_batch() {
    let broker = own_broker(
        &name("linger"),
        &[
            ("offsets.topic.num.partitions", "1"),
            ("group.coordinator.append.linger.ms", "1500"),
        ],
    );
    let mut one = Wire::connect(&broker.bootstrap());
    let mut two = Wire::connect(&broker.bootstrap());
    let topic = name("lingering");
    one.create(&topic, 1, &[]);
    wait_for_coordinator(&mut one, &topic);
    let before = one.list_offset(7, "__consumer_offsets", 0, -1).offset;
    one.send(8, &commit("a", &topic, 5));
    // Enough time for a commit to be written, if it were not held.
    for _ in 0..50 {
        two.list_offset(7, &topic, 0, -1);
    }
    two.send(8, &commit("b", &topic, 6));
    assert_eq!(committed(&one.receive::<OffsetCommitRequest>(8)), 0);
    assert_eq!(committed(&two.receive::<OffsetCommitRequest>(8)), 0);
    let read = one.fetch("__consumer_offsets", 0, before);
    assert_eq!(bases(&read), [before]);
    let end = one.list_offset(7, "__consumer_offsets", 0, -1).offset;
    assert_eq!(end, before + 2);
}

#[test]
fn committed_offsets_load_with_a_buffer_smaller_than_a_batch() {
    let settings = [
        ("offsets.topic.num.partitions", "1"),
        ("offsets.load.buffer.size", "1"),
        ("transaction.state.log.load.buffer.size", "1"),
    ];
    let mut broker = own_broker(&name("small-buffer"), &settings);
    let mut wire = Wire::connect(&broker.bootstrap());
    let topic = name("loaded");
    wire.create(&topic, 1, &[]);
    wait_for_coordinator(&mut wire, &topic);
    for offset in 0..20 {
        let response = wire.ask(8, &commit("a", &topic, offset));
        assert_eq!(committed(&response), 0);
    }
    broker.kill();
    broker.start_again().unwrap();
    let mut wire = Wire::connect(&broker.bootstrap());
    wait_for_coordinator(&mut wire, &topic);
    let group = kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text("a")))
        .with_topics(None);
    let fetch = kafka_protocol::messages::OffsetFetchRequest::default().with_groups(vec![group]);
    let response = wire.ask(8, &fetch);
    let found = &response.groups[0].topics[0].partitions[0];
    assert_eq!((found.error_code, found.committed_offset), (0, 19));
}

#[test]
fn the_new_protocol_can_be_turned_off() {
    let settings = [("group.coordinator.rebalance.protocols", "classic")];
    let broker = own_broker(&name("classic-only"), &settings);
    let mut wire = Wire::connect(&broker.bootstrap());
    let topic = name("classic");
    wire.create(&topic, 1, &[]);
    wait_for_coordinator(&mut wire, &topic);
    let heartbeat = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("g2")))
        .with_member_id(text("m"))
        .with_rebalance_timeout_ms(1000)
        .with_subscribed_topic_names(Some(vec![topic_name(&topic)]))
        .with_topic_partitions(Some(vec![]));
    let response = wire.ask(0, &heartbeat);
    assert_eq!(response.error_code, code::UNSUPPORTED_VERSION);
    let describe =
        ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(text("g2"))]);
    let response = wire.ask(0, &describe);
    assert_eq!(response.groups[0].error_code, code::UNSUPPORTED_VERSION);
    let keys = Some(vec![text("group.coordinator.rebalance.protocols")]);
    let request = DescribeConfigsRequest::default().with_resources(vec![
        DescribeConfigsResource::default()
            .with_resource_type(4)
            .with_resource_name(text("1"))
            .with_configuration_keys(keys),
    ]);
    let response = wire.ask(4, &request);
    let value = response.results[0].configs[0].value.as_deref();
    assert_eq!(value, Some("classic"));
}
