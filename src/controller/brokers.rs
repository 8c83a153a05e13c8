//! What a broker asks of the controller for itself: to be registered, producer ids, topics it found.

use std::collections::BTreeMap;

use super::Outcome;
use super::topic_name::check_topic_name;
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use crate::metadata::{
    BrokerRegistration, ConfigResource, DirectoryId, Endpoint, Image, MetadataRecord,
    PartitionRegistration,
};

/// Producer ids in a block, as in Kafka (KIP-730).
pub const PRODUCER_IDS_PER_BLOCK: i64 = 1000;

/// What a broker says of itself when it starts; the controller adds the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerStart {
    pub broker_id: BrokerId,
    /// Of `meta.properties`.
    pub cluster_id: String,
    /// Listener name to what clients are told.
    pub listeners: BTreeMap<String, Endpoint>,
    pub rack: Option<String>,
    pub directories: Vec<DirectoryId>,
    /// Settings of all brokers that the cluster has always, name and value: what the broker's own file says
    /// counts until the cluster has one of that name.
    pub cluster_defaults: Vec<(&'static str, String)>,
}

/// Why a broker cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("the metadata belongs to cluster {expected}, this node to cluster {found}")]
    ClusterId { expected: String, found: String },
}

/// Registers a broker at its start; the response is its new epoch.
pub fn register_broker(image: &Image, start: &BrokerStart) -> Result<Outcome<i64>, RegisterError> {
    let mut records = Vec::new();
    match image.cluster_id() {
        None => records.push(MetadataRecord::ClusterId {
            cluster_id: start.cluster_id.clone(),
        }),
        Some(expected) if **expected != *start.cluster_id => {
            return Err(RegisterError::ClusterId {
                expected: expected.to_string(),
                found: start.cluster_id.clone(),
            });
        }
        Some(_) => {}
    }
    // In Kafka the epoch is the offset of the registration; what matters is that it grows.
    let last = image.broker(start.broker_id).map_or(-1, |b| b.broker_epoch);
    let broker_epoch = last.max(image.version()).saturating_add(1);
    records.push(MetadataRecord::RegisterBroker(BrokerRegistration {
        broker_id: start.broker_id,
        broker_epoch,
        listeners: start.listeners.clone(),
        rack: start.rack.clone(),
        directories: start.directories.clone(),
        fenced: false,
    }));
    let known = image.broker_default_configs();
    let missing = start.cluster_defaults.iter();
    let missing = missing.filter(|(key, _)| !known.contains_key(*key));
    records.extend(missing.map(|(key, value)| MetadataRecord::Config {
        resource: ConfigResource::BrokerDefault,
        key: (*key).to_owned(),
        value: Some(value.clone()),
    }));
    Ok(Outcome {
        records,
        response: broker_epoch,
    })
}

/// Producer ids that are the asker's alone, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub first: ProducerId,
    /// How many; 0 when the ids have run out.
    pub len: i32,
}

/// Hands out the next block of producer ids.
pub fn allocate_producer_ids(image: &Image) -> Outcome<ProducerIdBlock> {
    let first = image.next_producer_id();
    match first.0.checked_add(PRODUCER_IDS_PER_BLOCK) {
        Some(next) => Outcome {
            records: vec![MetadataRecord::ProducerIds {
                next_producer_id: ProducerId(next),
            }],
            response: ProducerIdBlock {
                first,
                len: PRODUCER_IDS_PER_BLOCK as i32,
            },
        },
        None => Outcome {
            records: Vec::new(),
            response: ProducerIdBlock { first, len: 0 },
        },
    }
}

/// A topic whose partitions were found in the data directories, but which the metadata does not know:
/// Apache Kafka wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTopic {
    pub name: String,
    pub topic_id: TopicId,
    /// The last leader epoch in the log of each partition, from 0 to the highest number found; none where
    /// the log has none. Numbers without a folder get empty logs, as a partition without a folder does in
    /// Kafka.
    pub last_epochs: Vec<Option<LeaderEpoch>>,
}

/// Why a topic that was found is not adopted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    #[error("topic {name:?}: {reason}")]
    Name { name: String, reason: String },
    #[error("topic {name:?} has id {found} on disk and {known} in the metadata")]
    OtherId {
        name: String,
        known: TopicId,
        found: TopicId,
    },
    #[error("topic id {topic_id} is {found:?} on disk and {known:?} in the metadata")]
    OtherName {
        topic_id: TopicId,
        known: String,
        found: String,
    },
}

/// What an adopted topic is set to: its own settings are not known, so nothing of it may be deleted.
const KEEP_EVERYTHING: [(&str, &str); 2] = [("retention.ms", "-1"), ("retention.bytes", "-1")];

/// Makes topics that were found on `broker`'s disks its own, with the ids they have, and sets them to keep
/// everything. Topics that are known, with as many partitions, change nothing; the response lists those
/// that contradict.
///
/// - `broker` need not be registered yet: it leads what it holds, in an epoch of its own after those in the
///   logs.
/// - Producer ids are handed out from `first_producer_id` on: the logs remember producers with ids of
///   another controller, and a new producer with one of those would have its records taken for repetitions.
pub fn adopt_topics(
    image: &Image,
    broker: BrokerId,
    found: &[FoundTopic],
    first_producer_id: ProducerId,
) -> Outcome<Vec<AdoptError>> {
    let mut records = Vec::new();
    let mut errors = Vec::new();
    let mut new_ids = BTreeMap::new();
    let mut new_names: BTreeMap<&str, TopicId> = BTreeMap::new();
    for topic in found {
        if let Err(reason) = check_topic_name(&topic.name) {
            errors.push(AdoptError::Name {
                name: topic.name.clone(),
                reason,
            });
            continue;
        }
        let known_id = image
            .topic_id(&topic.name)
            .or_else(|| new_names.get(topic.name.as_str()).copied());
        if let Some(known) = known_id.filter(|known| *known != topic.topic_id) {
            errors.push(AdoptError::OtherId {
                name: topic.name.clone(),
                known,
                found: topic.topic_id,
            });
            continue;
        }
        let known_name = image
            .topic(topic.topic_id)
            .map(|t| &*t.name)
            .or_else(|| new_ids.get(&topic.topic_id).copied());
        if let Some(known) = known_name.filter(|known| **known != *topic.name) {
            errors.push(AdoptError::OtherName {
                topic_id: topic.topic_id,
                known: known.to_owned(),
                found: topic.name.clone(),
            });
            continue;
        }
        if known_id.is_none() {
            records.push(MetadataRecord::Topic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
            });
            for (key, value) in KEEP_EVERYTHING {
                records.push(MetadataRecord::Config {
                    resource: ConfigResource::Topic(topic.name.clone()),
                    key: key.to_owned(),
                    value: Some(value.to_owned()),
                });
            }
        } else if new_names.contains_key(topic.name.as_str()) {
            continue;
        }
        new_ids.insert(topic.topic_id, topic.name.as_str());
        new_names.insert(&topic.name, topic.topic_id);
        let has = image
            .topic(topic.topic_id)
            .map_or(0, |t| t.partitions.len());
        for (index, last_epoch) in topic.last_epochs.iter().enumerate().skip(has) {
            records.push(MetadataRecord::Partition(PartitionRegistration {
                topic_id: topic.topic_id,
                partition: PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX)),
                replicas: vec![broker],
                isr: vec![broker],
                leader: Some(broker),
                leader_epoch: LeaderEpoch(last_epoch.map_or(0, |e| e.0.saturating_add(1))),
                partition_epoch: 0,
                directories: Vec::new(),
            }));
        }
    }
    if !records.is_empty() && image.next_producer_id() < first_producer_id {
        records.push(MetadataRecord::ProducerIds {
            next_producer_id: first_producer_id,
        });
    }
    Outcome {
        records,
        response: errors,
    }
}
