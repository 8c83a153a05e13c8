//! What operations are given besides the image, and what they return.

use kafka_protocol::ResponseError;

use crate::base::{BrokerId, TopicId};
use crate::metadata::{ConfigResource, Configs, MetadataRecord};

/// What an operation decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<R> {
    /// To be committed together; none when nothing changes.
    pub records: Vec<MetadataRecord>,
    /// To be given once the records are committed.
    pub response: R,
}

/// Settings of the node that decide what an operation does. Kafka's names where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSettings {
    /// `num.partitions`: for a topic that does not say how many.
    pub num_partitions: i32,
    /// `default.replication.factor`: for a topic that does not say how many.
    pub default_replication_factor: i16,
    /// Most partitions that one request may create; Kafka has 10,000.
    pub max_partitions_per_request: usize,
    /// Most replicas that may be placed on one node.
    pub max_partitions_per_node: usize,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// The node that answers: dynamic settings of one broker are changed on that broker.
    pub node_id: BrokerId,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            num_partitions: 1,
            default_replication_factor: 1,
            max_partitions_per_request: 10_000,
            max_partitions_per_node: 100_000,
            delete_topic_enable: true,
            node_id: BrokerId(1),
        }
    }
}

/// What the table of settings knows about configs. The controller itself knows none.
pub trait ConfigRules: Send + Sync {
    /// Checks all overrides that `resource` would have after a change, `before` being what it has.
    ///
    /// Called for topics (new ones too), brokers, the cluster-wide default, groups and client
    /// metrics. `changed` are the keys which the request names; only they are to be held against
    /// "this cannot change at run time".
    fn check(
        &self,
        resource: &ConfigResource,
        before: &Configs,
        after: &Configs,
        changed: &[&str],
    ) -> Result<(), ConfigRefusal>;

    /// Whether APPEND and SUBTRACT make sense for `key`.
    fn is_list(&self, resource: &ConfigResource, key: &str) -> bool;

    /// What `key` of `resource` is without an override: the start of an APPEND to nothing.
    fn default_value(&self, resource: &ConfigResource, key: &str) -> Option<String>;
}

/// Refuses no setting, for what never fails for one: a take-over.
pub struct AnySetting;

impl ConfigRules for AnySetting {
    fn check(
        &self,
        _: &ConfigResource,
        _: &Configs,
        _: &Configs,
        _: &[&str],
    ) -> Result<(), ConfigRefusal> {
        Ok(())
    }

    fn is_list(&self, _: &ConfigResource, _: &str) -> bool {
        false
    }

    fn default_value(&self, _: &ConfigResource, _: &str) -> Option<String> {
        None
    }
}

/// Why a config cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRefusal {
    /// INVALID_CONFIG for a bad key or value; INVALID_REQUEST for a broker setting that is read-only.
    pub error: ResponseError,
    /// Names the key.
    pub message: String,
}

impl ConfigRefusal {
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self {
            error: ResponseError::InvalidConfig,
            message: message.into(),
        }
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self {
            error: ResponseError::InvalidRequest,
            message: message.into(),
        }
    }
}

/// Ids for topics that come to be: random, so the caller's affair. Kafka's reserved ids (0 and 1) are
/// skipped by the operation.
pub type NewTopicIds<'a> = dyn FnMut() -> TopicId + 'a;
