//! Decides what may become metadata: pure machines, and one shell that keeps the quorum.
//!
//! An operation looks at the latest [`Image`](crate::metadata::Image), and returns an [`Outcome`]: the
//! records that would make it true and the answer to whoever asked. It changes nothing itself. The
//! shell runs operations one after the other, each on the image the last one left, has the records
//! committed by the quorum, and hands back the answer together with the new image, for the caller to
//! publish before it answers.
//!
//! Requests and responses are the wire's own types; which fields a client of which version sees is
//! the encoder's affair. Behaviour, codes and the sense of messages are Kafka's.

mod brokers;
mod configs;
mod partitions;
mod placement;
pub mod quorum;
mod refusal;
mod rules;
#[cfg(test)]
mod scenarios;
mod takeover;
mod topic_name;
mod topics;

pub use brokers::{
    AdoptError, BrokerStart, FoundTopic, PRODUCER_IDS_PER_BLOCK, ProducerIdBlock, RegisterError,
    adopt_topics, allocate_producer_ids, register_broker,
};
pub use configs::{alter_configs, incremental_alter_configs};
pub use partitions::{create_partitions, elect_leaders};
pub use rules::{AnySetting, ConfigRefusal, ConfigRules, ControllerSettings, NewTopicIds, Outcome};
pub use takeover::{TakeOverError, TakenOver, take_over};
pub use topic_name::{CLUSTER_METADATA_TOPIC, check_topic_name};
pub use topics::{create_topics, delete_topics};
