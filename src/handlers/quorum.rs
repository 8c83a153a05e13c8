//! DescribeQuorum (KIP-595, 836, 853).

use bytes::Bytes;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{
    BrokerId as WireBroker, DescribeQuorumRequest, DescribeQuorumResponse, TopicName,
};

use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::shard::wall_clock;
use crate::controller::CLUSTER_METADATA_TOPIC;
use crate::handlers::{Begun, Call, Close, advertise, topics};
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

pub async fn describe_quorum(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeQuorumRequest = call.decode(body).await?;
    let known = matches!(&request.topics[..], [topic]
        if topic.topic_name.as_str() == CLUSTER_METADATA_TOPIC
            && matches!(&topic.partitions[..], [p] if p.partition_index == 0));
    if !known {
        let mut response = DescribeQuorumResponse::default();
        let mut pace = YieldBudget::of_elements();
        for topic in &request.topics {
            pace.spend(1 + topic.partitions.len()).await;
            let partitions = topic.partitions.iter().map(|p| {
                PartitionData::default()
                    .with_partition_index(p.partition_index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            });
            response.topics.push(
                TopicData::default()
                    .with_topic_name(topic.topic_name.clone())
                    .with_partitions(partitions.collect()),
            );
        }
        return Ok(Begun::Done(call.encode_all(request, response, 0).await?));
    }
    Ok(Begun::later(async move {
        let state = match topics::control(&call, ControlRequest::Quorum).await? {
            ControlReply::Quorum(state) => state,
            other => {
                topics::unavailable(other);
                return Err(Close::Stopping);
            }
        };
        let image = call.peer.image();
        let now = wall_clock().0;
        let leader = image.controller_id().map_or(-1, advertise::node_id);
        let voter = ReplicaState::default()
            .with_replica_id(WireBroker(leader))
            .with_log_end_offset(state.log_end_offset)
            .with_last_fetch_timestamp(now)
            .with_last_caught_up_timestamp(now);
        let partition = PartitionData::default()
            .with_leader_id(WireBroker(leader))
            .with_leader_epoch(state.epoch)
            .with_high_watermark(state.high_watermark)
            .with_current_voters(vec![voter]);
        let name = TopicName(StrBytes::from_static_str(CLUSTER_METADATA_TOPIC));
        let mut response = DescribeQuorumResponse::default().with_topics(vec![
            TopicData::default()
                .with_topic_name(name)
                .with_partitions(vec![partition]),
        ]);
        if call.version >= 2 {
            response.nodes = image
                .brokers()
                .map(|broker| {
                    let listeners = broker.listeners.iter().map(|(name, endpoint)| {
                        Listener::default()
                            .with_name(StrBytes::from_string(name.clone()))
                            .with_host(StrBytes::from_string(endpoint.host.clone()))
                            .with_port(endpoint.port)
                    });
                    Node::default()
                        .with_node_id(WireBroker(advertise::node_id(broker.broker_id)))
                        .with_listeners(listeners.collect())
                })
                .collect();
        }
        call.encode(&response)
    }))
}
