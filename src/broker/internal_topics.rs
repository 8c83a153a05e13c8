//! The topics in which the coordinators keep their records: made when they are first needed.

use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use crate::base::settings::{InternalTopicSettings, NodeSettings};
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::messages::{Reply, Request};
use crate::broker::shard::Shard;
use crate::metadata::TopicImage;

/// Groups and committed offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// Transactional ids.
pub const TRANSACTION_STATE: &str = "__transaction_state";

/// The topic, made if it is not there. When this returns it, every shard serves it. `None` if it cannot
/// be made now; the reason was logged.
pub async fn ensure(shard: &Rc<Shard>, name: &'static str) -> Option<Arc<TopicImage>> {
    if let Some(topic) = shard.image().topic_by_name(name) {
        return Some(topic.clone());
    }
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(30_000)
        .with_topics(vec![creation(name, &shard.settings())]);
    let request = Request::Control(ControlRequest::CreateTopics(request));
    match shard.ask_control(request).await {
        Ok(Reply::Control(ControlReply::CreateTopics(response))) => {
            // Another shard may have been first.
            let topic = shard.image().topic_by_name(name).cloned();
            if topic.is_none() {
                let why = response
                    .topics
                    .first()
                    .and_then(|t| t.error_message.clone());
                tracing::error!("topic {name} could not be created: {why:?}");
            }
            topic
        }
        Ok(Reply::Control(ControlReply::Unavailable(why))) => {
            tracing::error!("topic {name} could not be created: {why}");
            None
        }
        Ok(_) | Err(_) => None,
    }
}

/// What Kafka creates the topic with.
fn creation(name: &str, settings: &NodeSettings) -> CreatableTopic {
    let InternalTopicSettings {
        num_partitions,
        replication_factor,
        segment_bytes,
        min_insync_replicas,
    } = match name {
        TRANSACTION_STATE => settings.transaction_state_log,
        _ => settings.offsets_topic,
    };
    let mut configs = vec![
        ("cleanup.policy", "compact".to_owned()),
        ("segment.bytes", segment_bytes.to_string()),
    ];
    if name == CONSUMER_OFFSETS {
        configs.push(("compression.type", "producer".to_owned()));
    } else {
        configs.push(("compression.type", "uncompressed".to_owned()));
        configs.push(("unclean.leader.election.enable", "false".to_owned()));
    }
    if let Some(min) = min_insync_replicas {
        configs.push(("min.insync.replicas", min.to_string()));
    }
    let configs = configs.into_iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
    });
    CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(name.to_owned())))
        .with_num_partitions(num_partitions)
        .with_replication_factor(replication_factor)
        .with_configs(configs.collect())
}
