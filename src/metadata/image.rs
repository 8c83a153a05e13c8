//! The state of the cluster as of one version of the metadata log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::record::{
    BrokerRegistration, ConfigResource, Configs, DirectoryId, Endpoint, LeaderChange,
    MetadataRecord, PartitionChange, PartitionRegistration,
};
use super::shared_map::SharedMap;
use crate::base::{
    BrokerId, ClusterId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, TopicPartition,
};

/// Everything all nodes agree on, at one version. Immutable and shared, read-only; a clone is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The place in the metadata log up to which this image holds everything; -1 is the empty image.
    version: i64,
    cluster_id: Option<ClusterId>,
    controller_id: Option<BrokerId>,
    topics: SharedMap<TopicId, Arc<TopicImage>>,
    topics_by_name: SharedMap<Arc<str>, TopicId>,
    /// `name.replace('.', "_")` to the topics it may be confused with, for names with `.` or `_`.
    topics_by_folded_name: SharedMap<Arc<str>, BTreeSet<Arc<str>>>,
    configs: SharedMap<ConfigResource, Arc<Configs>>,
    no_configs: Arc<Configs>,
    brokers: SharedMap<BrokerId, Arc<BrokerImage>>,
    features: Arc<BTreeMap<String, i16>>,
    next_producer_id: ProducerId,
    partition_count: usize,
    /// Replicas placed on each broker.
    replica_counts: Arc<BTreeMap<BrokerId, usize>>,
}

/// A topic. Its configs are in [`Image::topic_configs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    pub id: TopicId,
    pub name: Arc<str>,
    /// By number, without gaps.
    pub partitions: Vec<Arc<PartitionImage>>,
}

/// A partition as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// The first is preferred as leader.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    /// Raised with every change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Raised with every change.
    pub partition_epoch: i32,
    /// The data directory of each replica, in their order; empty when not assigned.
    pub directories: Vec<DirectoryId>,
}

/// A broker as it registered itself.
pub type BrokerImage = BrokerRegistration;

/// What differs between two images; each list in the order of the records that caused it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// [`Image::version`] before.
    pub from_version: i64,
    /// [`Image::version`] after.
    pub version: i64,
    /// As they are now. A topic that was created and deleted in one batch is in neither list.
    pub topics_created: Vec<Arc<TopicImage>>,
    /// As they were.
    pub topics_deleted: Vec<Arc<TopicImage>>,
    /// New partitions of topics that were there before.
    pub partitions_added: Vec<TopicPartition>,
    /// Partitions with another leader, ISR, replicas or epoch.
    pub partitions_changed: Vec<TopicPartition>,
    /// Resources with other configs; without topics that were created or deleted.
    pub configs_changed: BTreeSet<ConfigResource>,
    /// Registered anew, changed, or gone.
    pub brokers_changed: BTreeSet<BrokerId>,
    pub features_changed: bool,
}

/// A record that contradicts the image it is to be applied to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("version {version} follows {current}")]
    Version { current: i64, version: i64 },
    #[error("cluster id {found} in a log of cluster {expected}")]
    ClusterId { expected: String, found: String },
    #[error("topic {name:?} ({topic_id}) is there already")]
    TopicExists { name: String, topic_id: TopicId },
    #[error("no topic {0}")]
    NoTopic(TopicId),
    #[error("topic {topic_id} has {partitions} partitions, a record adds number {partition}")]
    PartitionOrder {
        topic_id: TopicId,
        partitions: usize,
        partition: PartitionIndex,
    },
    #[error("no partition {0:?}")]
    NoPartition(TopicPartition),
    #[error("partition {0:?} is led by, or in sync on, a broker that holds no replica of it")]
    NotAReplica(TopicPartition),
    #[error("partition {0:?} has no replicas, or one twice")]
    Replicas(TopicPartition),
    #[error("no topic {0:?} to configure")]
    NoTopicToConfigure(String),
    #[error("no broker {0}")]
    NoBroker(BrokerId),
    #[error("producer ids go back from {current} to {next}")]
    ProducerIds {
        current: ProducerId,
        next: ProducerId,
    },
}

impl Default for Image {
    fn default() -> Self {
        Self {
            version: -1,
            cluster_id: None,
            controller_id: None,
            topics: SharedMap::default(),
            topics_by_name: SharedMap::default(),
            topics_by_folded_name: SharedMap::default(),
            configs: SharedMap::default(),
            no_configs: Arc::default(),
            brokers: SharedMap::default(),
            features: Arc::default(),
            next_producer_id: ProducerId(0),
            partition_count: 0,
            replica_counts: Arc::default(),
        }
    }
}

impl TopicImage {
    /// `None` if there is no such partition.
    pub fn partition(&self, partition: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    /// Whether clients may not write to it by default (KIP-98, KIP-932).
    pub fn is_internal(&self) -> bool {
        is_internal_topic(&self.name)
    }

    /// Replicas of its first partition; 0 if it has none.
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, |p| p.replicas.len())
    }
}

/// Whether `name` is one of the topics in which Kafka's own coordinators keep their state.
pub fn is_internal_topic(name: &str) -> bool {
    matches!(
        name,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state"
    )
}

impl Image {
    /// The place in the metadata log up to which this image holds everything; -1 is the empty image.
    pub fn version(&self) -> i64 {
        self.version
    }

    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster_id.as_ref()
    }

    /// The node whose controller is active, if there is one.
    pub fn controller_id(&self) -> Option<BrokerId> {
        self.controller_id
    }

    /// The same image with another active controller: it is not part of the log but of its quorum.
    #[must_use]
    pub fn with_controller(&self, controller_id: Option<BrokerId>) -> Image {
        Image {
            controller_id,
            ..self.clone()
        }
    }

    /// The same image at a later place of the log, where nothing of ours was written.
    #[must_use]
    pub fn at_version(&self, version: i64) -> Image {
        Image {
            version: version.max(self.version),
            ..self.clone()
        }
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics_by_name.get(name).copied()
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topics_by_name.get(name)?)
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// All partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// Replicas placed on `broker`.
    pub fn replica_count(&self, broker: BrokerId) -> usize {
        self.replica_counts.get(&broker).copied().unwrap_or(0)
    }

    /// In the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics_by_name
            .values()
            .filter_map(|id| self.topics.get(id))
    }

    /// In the order of their names, from the first name not below `name`.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics_by_name
            .iter_from(name)
            .filter_map(|(_, id)| self.topics.get(id))
    }

    /// Topics other than `name` whose names differ from it in `.` and `_` only: metric names would
    /// be the same.
    pub fn colliding_topics(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.topics_by_folded_name
            .get(fold(name).as_str())
            .into_iter()
            .flatten()
            .filter(move |other| &***other != name)
    }

    pub fn partition(&self, partition: TopicPartition) -> Option<&Arc<PartitionImage>> {
        self.topic(partition.topic_id)?
            .partition(partition.partition)
    }

    /// What is set for `resource` itself, without defaults; empty if nothing is.
    pub fn configs(&self, resource: &ConfigResource) -> &Arc<Configs> {
        self.configs.get(resource).unwrap_or(&self.no_configs)
    }

    /// Every resource with configs, in order.
    pub fn configured_resources(&self) -> impl Iterator<Item = (&ConfigResource, &Arc<Configs>)> {
        self.configs.iter()
    }

    pub fn topic_configs(&self, name: &str) -> &Arc<Configs> {
        self.configs(&ConfigResource::Topic(name.to_owned()))
    }

    /// Dynamic settings of one broker.
    pub fn broker_configs(&self, broker: BrokerId) -> &Arc<Configs> {
        self.configs(&ConfigResource::Broker(broker))
    }

    /// Dynamic settings of all brokers, below those of one.
    pub fn broker_default_configs(&self) -> &Arc<Configs> {
        self.configs(&ConfigResource::BrokerDefault)
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerImage>> {
        self.brokers.get(&id)
    }

    /// In the order of their ids.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<BrokerImage>> {
        self.brokers.values()
    }

    /// Brokers on which leaders and new replicas may be placed, in the order of their ids.
    pub fn alive_brokers(&self) -> impl Iterator<Item = &Arc<BrokerImage>> {
        self.brokers.values().filter(|b| !b.fenced)
    }

    /// What a client that asked through `listener` is told of `broker`.
    pub fn endpoint(&self, broker: BrokerId, listener: &str) -> Option<&Endpoint> {
        self.brokers.get(&broker)?.listeners.get(listener)
    }

    /// Finalized features and their levels.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// The first producer id that was never handed out.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The next image: `records`, which end at `version` of the log, applied in order.
    ///
    /// On an error nothing is applied; the record that caused it does not fit this image, which on a
    /// committed log means damage or a bug.
    pub fn apply(
        &self,
        version: i64,
        records: &[MetadataRecord],
    ) -> Result<(Image, Delta), ApplyError> {
        if version < self.version {
            return Err(ApplyError::Version {
                current: self.version,
                version,
            });
        }
        let mut next = self.clone();
        let mut changes = Changes::default();
        for record in records {
            next.apply_one(record, &mut changes)?;
        }
        next.version = version;
        let delta = changes.into_delta(self, &next);
        Ok((next, delta))
    }

    /// Records that make this image out of an empty one: a snapshot.
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::with_capacity(
            16 + self.topics.len() + self.partition_count + self.configs.len() * 2,
        );
        if let Some(cluster_id) = &self.cluster_id {
            records.push(MetadataRecord::ClusterId {
                cluster_id: cluster_id.to_string(),
            });
        }
        for (name, &level) in self.features.iter() {
            records.push(MetadataRecord::FeatureLevel {
                name: name.clone(),
                level,
            });
        }
        for broker in self.brokers.values() {
            records.push(MetadataRecord::RegisterBroker((**broker).clone()));
        }
        for topic in self.topics() {
            records.push(MetadataRecord::Topic {
                name: topic.name.to_string(),
                topic_id: topic.id,
            });
            for (partition, index) in topic.partitions.iter().zip(0..) {
                records.push(MetadataRecord::Partition(PartitionRegistration {
                    topic_id: topic.id,
                    partition: PartitionIndex(index),
                    replicas: partition.replicas.clone(),
                    isr: partition.isr.clone(),
                    leader: partition.leader,
                    leader_epoch: partition.leader_epoch,
                    partition_epoch: partition.partition_epoch,
                    directories: partition.directories.clone(),
                }));
            }
        }
        for (resource, configs) in self.configs.iter() {
            for (key, value) in configs.iter() {
                records.push(MetadataRecord::Config {
                    resource: resource.clone(),
                    key: key.clone(),
                    value: Some(value.clone()),
                });
            }
        }
        if self.next_producer_id > ProducerId(0) {
            records.push(MetadataRecord::ProducerIds {
                next_producer_id: self.next_producer_id,
            });
        }
        records
    }

    fn apply_one(
        &mut self,
        record: &MetadataRecord,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        match record {
            MetadataRecord::ClusterId { cluster_id } => match &self.cluster_id {
                Some(expected) if **expected != **cluster_id => Err(ApplyError::ClusterId {
                    expected: expected.to_string(),
                    found: cluster_id.clone(),
                }),
                _ => {
                    self.cluster_id = Some(cluster_id.as_str().into());
                    Ok(())
                }
            },
            MetadataRecord::FeatureLevel { name, level } => {
                let features = Arc::make_mut(&mut self.features);
                if *level == 0 {
                    features.remove(name);
                } else {
                    features.insert(name.clone(), *level);
                }
                changes.features = true;
                Ok(())
            }
            MetadataRecord::RegisterBroker(broker) => {
                self.brokers
                    .insert(broker.broker_id, Arc::new(broker.clone()));
                changes.brokers.insert(broker.broker_id);
                Ok(())
            }
            MetadataRecord::UnregisterBroker { broker_id } => {
                self.brokers
                    .remove(broker_id)
                    .ok_or(ApplyError::NoBroker(*broker_id))?;
                changes.brokers.insert(*broker_id);
                Ok(())
            }
            MetadataRecord::Topic { name, topic_id } => self.add_topic(name, *topic_id, changes),
            MetadataRecord::Partition(partition) => self.add_partition(partition, changes),
            MetadataRecord::PartitionChange(change) => self.change_partition(change, changes),
            MetadataRecord::RemoveTopic { topic_id } => self.remove_topic(*topic_id, changes),
            MetadataRecord::Config {
                resource,
                key,
                value,
            } => self.set_config(resource, key, value.as_deref(), changes),
            MetadataRecord::ProducerIds { next_producer_id } => {
                if *next_producer_id < self.next_producer_id {
                    return Err(ApplyError::ProducerIds {
                        current: self.next_producer_id,
                        next: *next_producer_id,
                    });
                }
                self.next_producer_id = *next_producer_id;
                Ok(())
            }
        }
    }

    fn add_topic(
        &mut self,
        name: &str,
        topic_id: TopicId,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        if self.topics_by_name.contains_key(name) || self.topics.contains_key(&topic_id) {
            return Err(ApplyError::TopicExists {
                name: name.to_owned(),
                topic_id,
            });
        }
        let name: Arc<str> = name.into();
        if has_folding_chars(&name) {
            let folded: Arc<str> = fold(&name).into();
            let mut names = self
                .topics_by_folded_name
                .get(&folded)
                .cloned()
                .unwrap_or_default();
            names.insert(name.clone());
            self.topics_by_folded_name.insert(folded, names);
        }
        self.topics_by_name.insert(name.clone(), topic_id);
        self.topics.insert(
            topic_id,
            Arc::new(TopicImage {
                id: topic_id,
                name,
                partitions: Vec::new(),
            }),
        );
        changes.created.push(topic_id);
        changes.created_set.insert(topic_id);
        Ok(())
    }

    fn add_partition(
        &mut self,
        new: &PartitionRegistration,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        let at = TopicPartition::new(new.topic_id, new.partition);
        let partition = PartitionImage {
            replicas: new.replicas.clone(),
            isr: new.isr.clone(),
            leader: new.leader,
            leader_epoch: new.leader_epoch,
            partition_epoch: new.partition_epoch,
            directories: new.directories.clone(),
        };
        check(at, &partition)?;
        // A topic created in this batch is ours alone, so this copies no partition list.
        let topic = Arc::make_mut(
            self.topics
                .get_mut(&new.topic_id)
                .ok_or(ApplyError::NoTopic(new.topic_id))?,
        );
        if usize::try_from(new.partition.0) != Ok(topic.partitions.len()) {
            return Err(ApplyError::PartitionOrder {
                topic_id: new.topic_id,
                partitions: topic.partitions.len(),
                partition: new.partition,
            });
        }
        let counts = Arc::make_mut(&mut self.replica_counts);
        for &replica in &partition.replicas {
            *counts.entry(replica).or_default() += 1;
        }
        topic.partitions.push(Arc::new(partition));
        self.partition_count += 1;
        if !changes.created_set.contains(&new.topic_id) {
            changes.added.push(at);
            changes.added_set.insert(at);
        }
        Ok(())
    }

    fn change_partition(
        &mut self,
        change: &PartitionChange,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        let at = TopicPartition::new(change.topic_id, change.partition);
        let old = self
            .partition(at)
            .ok_or(ApplyError::NoPartition(at))?
            .clone();
        let mut partition = (*old).clone();
        if let Some(replicas) = &change.replicas {
            partition.replicas.clone_from(replicas);
        }
        if let Some(isr) = &change.isr {
            partition.isr.clone_from(isr);
        }
        if let Some(directories) = &change.directories {
            partition.directories.clone_from(directories);
        }
        if let Some(leader) = change.leader {
            partition.leader = match leader {
                LeaderChange::None => None,
                LeaderChange::Broker(id) => Some(id),
            };
            partition.leader_epoch = LeaderEpoch(partition.leader_epoch.0.saturating_add(1));
        }
        partition.partition_epoch = partition.partition_epoch.saturating_add(1);
        check(at, &partition)?;
        let counts = Arc::make_mut(&mut self.replica_counts);
        for replica in &old.replicas {
            uncount(counts, *replica);
        }
        for &replica in &partition.replicas {
            *counts.entry(replica).or_default() += 1;
        }
        let index = usize::try_from(at.partition.0).map_err(|_| ApplyError::NoPartition(at))?;
        let slot = self
            .topics
            .get_mut(&at.topic_id)
            .and_then(|topic| Arc::make_mut(topic).partitions.get_mut(index))
            .ok_or(ApplyError::NoPartition(at))?;
        *slot = Arc::new(partition);
        if !changes.created_set.contains(&at.topic_id)
            && !changes.added_set.contains(&at)
            && changes.changed_set.insert(at)
        {
            changes.changed.push(at);
        }
        Ok(())
    }

    fn remove_topic(&mut self, topic_id: TopicId, changes: &mut Changes) -> Result<(), ApplyError> {
        let topic = self
            .topics
            .remove(&topic_id)
            .ok_or(ApplyError::NoTopic(topic_id))?;
        self.topics_by_name.remove(&topic.name);
        if has_folding_chars(&topic.name) {
            let folded = fold(&topic.name);
            let mut names = self
                .topics_by_folded_name
                .remove(folded.as_str())
                .unwrap_or_default();
            names.remove(&topic.name);
            if !names.is_empty() {
                self.topics_by_folded_name.insert(folded.into(), names);
            }
        }
        self.configs
            .remove(&ConfigResource::Topic(topic.name.to_string()));
        self.partition_count = self.partition_count.saturating_sub(topic.partitions.len());
        let counts = Arc::make_mut(&mut self.replica_counts);
        for replica in topic.partitions.iter().flat_map(|p| &p.replicas) {
            uncount(counts, *replica);
        }
        if changes.created_set.remove(&topic_id) {
            changes.created.retain(|id| *id != topic_id);
        } else {
            changes.deleted.push(topic_id);
        }
        Ok(())
    }

    fn set_config(
        &mut self,
        resource: &ConfigResource,
        key: &str,
        value: Option<&str>,
        changes: &mut Changes,
    ) -> Result<(), ApplyError> {
        if let ConfigResource::Topic(name) = resource
            && !self.topics_by_name.contains_key(name.as_str())
        {
            return Err(ApplyError::NoTopicToConfigure(name.clone()));
        }
        match (self.configs.get_mut(resource), value) {
            (Some(configs), Some(value)) => {
                Arc::make_mut(configs).insert(key.to_owned(), value.to_owned());
            }
            (None, Some(value)) => {
                let configs = Configs::from([(key.to_owned(), value.to_owned())]);
                self.configs.insert(resource.clone(), Arc::new(configs));
            }
            (Some(configs), None) => {
                let configs = Arc::make_mut(configs);
                configs.remove(key);
                if configs.is_empty() {
                    self.configs.remove(resource);
                }
            }
            (None, None) => {}
        }
        changes.configs.insert(resource.clone());
        Ok(())
    }
}

/// What a batch did so far, by id, so that the image being built is shared with nobody.
#[derive(Default)]
struct Changes {
    created: Vec<TopicId>,
    created_set: BTreeSet<TopicId>,
    deleted: Vec<TopicId>,
    added: Vec<TopicPartition>,
    added_set: BTreeSet<TopicPartition>,
    changed: Vec<TopicPartition>,
    changed_set: BTreeSet<TopicPartition>,
    configs: BTreeSet<ConfigResource>,
    brokers: BTreeSet<BrokerId>,
    features: bool,
}

impl Changes {
    fn into_delta(mut self, old: &Image, new: &Image) -> Delta {
        let created_names: BTreeSet<Arc<str>> = self
            .created
            .iter()
            .filter_map(|id| Some(new.topic(*id)?.name.clone()))
            .collect();
        self.configs.retain(|resource| match resource {
            ConfigResource::Topic(name) => {
                new.topic_id(name).is_some() && !created_names.contains(name.as_str())
            }
            _ => true,
        });
        let alive = |p: &TopicPartition| new.topics.contains_key(&p.topic_id);
        self.added.retain(alive);
        self.changed.retain(alive);
        Delta {
            from_version: old.version,
            version: new.version,
            topics_created: self
                .created
                .iter()
                .filter_map(|id| new.topic(*id).cloned())
                .collect(),
            topics_deleted: self
                .deleted
                .iter()
                .filter_map(|id| old.topic(*id).cloned())
                .collect(),
            partitions_added: self.added,
            partitions_changed: self.changed,
            configs_changed: self.configs,
            brokers_changed: self.brokers,
            features_changed: self.features,
        }
    }
}

/// Holds what every partition must be, whoever wrote the record.
fn check(at: TopicPartition, partition: &PartitionImage) -> Result<(), ApplyError> {
    let replicas: BTreeSet<BrokerId> = partition.replicas.iter().copied().collect();
    if replicas.is_empty() || replicas.len() != partition.replicas.len() {
        return Err(ApplyError::Replicas(at));
    }
    let outside = partition
        .isr
        .iter()
        .chain(partition.leader.iter())
        .any(|b| !replicas.contains(b));
    if outside {
        return Err(ApplyError::NotAReplica(at));
    }
    Ok(())
}

fn uncount(counts: &mut BTreeMap<BrokerId, usize>, broker: BrokerId) {
    if let Some(count) = counts.get_mut(&broker) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&broker);
        }
    }
}

fn has_folding_chars(name: &str) -> bool {
    name.contains(['.', '_'])
}

fn fold(name: &str) -> String {
    name.replace('.', "_")
}
