//! What Apache Kafka's metadata log says, for a node that takes its data directory over.
//!
//! KRaft keeps the metadata of a cluster in the folder `__cluster_metadata-0`: segments of record batches
//! as any partition has them, and snapshots named `OFFSET-EPOCH.checkpoint`, which hold the state as of
//! that offset in batches of the same format, between a header and a footer that are control records.
//!
//! [`Cluster`] is that state, as far as it matters to one node that is the whole cluster. To read it:
//! 1. the batches of the latest snapshot, if there is one, go to [`Cluster::apply_snapshot_batch`], then
//!    [`Cluster::end_snapshot`] checks that it is whole;
//! 2. those of all segments go to [`Cluster::apply_log_batch`] in their order;
//! 3. [`Cluster::end`] gives what is left: an open transaction of the controller counts for nothing
//!    (KIP-868), as the next controller would abort it.
//!
//! A log without its first part and without a snapshot that stands for it, a batch whose checksum is
//! wrong, offsets that do not follow, a record that contradicts: each is an error, and none changes a
//! thing. Reading files is the caller's.

mod record;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BrokerId, LeaderEpoch, Offset, PartitionIndex, ProducerId, TopicId};
use crate::metadata::Configs;
use crate::records::{
    BatchError, BatchHeader, CompressionType, DecompressError, RecordIter, Scratch, decompress,
    verify_crc,
};

pub use record::{LeftBehind, Partition, PartitionChange, Record, RecordError};

/// Most bytes that a compressed batch may grow to; the controller writes batches of at most 8 MiB.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Control records of a snapshot, by their type.
const SNAPSHOT_HEADER: i16 = 3;
const SNAPSHOT_FOOTER: i16 = 4;

/// Why a metadata log or snapshot cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KraftError {
    #[error("a batch is damaged: {0}")]
    Batch(#[from] BatchError),
    #[error("the batch at offset {0} is cut short")]
    Short(Offset),
    #[error("the checksum of the batch at offset {0} is wrong")]
    Checksum(Offset),
    #[error("the batch at offset {offset} cannot be decompressed: {error}")]
    Compression {
        offset: Offset,
        error: DecompressError,
    },
    #[error("a record in the batch at offset {offset} is damaged: {error}")]
    RecordFormat {
        offset: Offset,
        error: crate::records::RecordError,
    },
    #[error("the record at offset {offset} cannot be understood: {error}")]
    Record { offset: Offset, error: RecordError },
    #[error("offset {found} follows {expected}, and nothing stands for what lies between")]
    Gap { expected: Offset, found: Offset },
    #[error("the snapshot has no {0}, so it is not whole")]
    Snapshot(&'static str),
    #[error("the record at offset {offset} contradicts those before it: {what}")]
    Contradiction { offset: Offset, what: String },
}

/// A topic with its partitions by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: BTreeMap<PartitionIndex, Partition>,
}

/// The state of a cluster of Apache Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    topics: BTreeMap<TopicId, Topic>,
    topics_by_name: BTreeMap<String, TopicId>,
    /// By number and name of the resource.
    configs: BTreeMap<(i8, String), Configs>,
    brokers: BTreeSet<BrokerId>,
    features: BTreeMap<String, i16>,
    next_producer_id: ProducerId,
    /// With the name of whom it is about.
    left_behind: BTreeMap<LeftBehind, String>,
    /// Records of the controller's open transaction.
    transaction: Option<Vec<(Offset, Record)>>,
    /// Everything below was applied.
    applied_to: Offset,
    /// Where the log goes on; `None` before its first batch.
    log_end: Option<Offset>,
    snapshot_begun: bool,
    snapshot_ended: bool,
}

impl Cluster {
    /// Applies a batch of a snapshot.
    pub fn apply_snapshot_batch(&mut self, batch: &[u8]) -> Result<(), KraftError> {
        let header = checked(batch)?;
        if header.is_control() {
            for key in control_types(&header, batch)? {
                self.snapshot_begun |= key == SNAPSHOT_HEADER;
                self.snapshot_ended |= key == SNAPSHOT_FOOTER;
            }
            return Ok(());
        }
        if !self.snapshot_begun {
            return Err(KraftError::Snapshot("header"));
        }
        self.records_of(&header, batch, Offset(0))
    }

    /// The snapshot, which stands for all below `end`, was read to its end.
    pub fn end_snapshot(&mut self, end: Offset) -> Result<(), KraftError> {
        if !self.snapshot_begun {
            return Err(KraftError::Snapshot("header"));
        }
        if !self.snapshot_ended {
            return Err(KraftError::Snapshot("footer"));
        }
        self.applied_to = end;
        Ok(())
    }

    /// Applies the next batch of the log, of which a snapshot may stand for some.
    pub fn apply_log_batch(&mut self, batch: &[u8]) -> Result<(), KraftError> {
        let header = checked(batch)?;
        // The first may lie below what the snapshot stands for; a later one follows the one before.
        let expected = self.log_end.unwrap_or(self.applied_to);
        let follows = match self.log_end {
            Some(end) => header.base_offset == end,
            None => header.base_offset <= self.applied_to,
        };
        if !follows {
            return Err(KraftError::Gap {
                expected,
                found: header.base_offset,
            });
        }
        self.log_end = Some(header.next_offset());
        if header.next_offset() <= self.applied_to {
            return Ok(());
        }
        if !header.is_control() {
            let from = self.applied_to;
            self.records_of(&header, batch, from)?;
        }
        self.applied_to = header.next_offset();
        Ok(())
    }

    /// What is in force after the last batch.
    pub fn end(mut self) -> Cluster {
        self.transaction = None;
        self
    }

    /// Everything below this offset of the log was applied.
    pub fn applied_to(&self) -> Offset {
        self.applied_to
    }

    /// One past the last batch of the log that was applied or stood for; 0 before the first.
    pub fn log_end(&self) -> Offset {
        self.log_end.unwrap_or_default()
    }

    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &Topic)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topics_by_name.get(name).copied()
    }

    /// Overrides by number (topic 2, broker 4, client metrics 16, group 32) and name of the resource; not
    /// those of topics that are gone.
    pub fn configs(&self) -> impl Iterator<Item = (i8, &str, &Configs)> {
        let configs = self.configs.iter();
        configs.map(|((kind, name), configs)| (*kind, name.as_str(), configs))
    }

    /// Brokers that registered and were not unregistered.
    pub fn brokers(&self) -> &BTreeSet<BrokerId> {
        &self.brokers
    }

    /// Finalized features and their levels.
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// The first producer id that was not handed out.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// What is not taken over, with the name of whom it is about.
    pub fn left_behind(&self) -> &BTreeMap<LeftBehind, String> {
        &self.left_behind
    }

    /// Applies the records of a batch from offset `from` on.
    fn records_of(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        from: Offset,
    ) -> Result<(), KraftError> {
        let offset = header.base_offset;
        let decompressed;
        let records = match header.compression() {
            CompressionType::None => RecordIter::of_batch(header, batch),
            codec => {
                let body = batch
                    .get(crate::records::BATCH_HEADER_SIZE..header.size_in_bytes())
                    .ok_or(KraftError::Short(offset))?;
                decompressed = decompress(codec, body, &mut Scratch::new(), BATCH_BYTES_MAX)
                    .map_err(|error| KraftError::Compression { offset, error })?;
                RecordIter::new(header, &decompressed)
            }
        };
        for record in records {
            let record = record.map_err(|error| KraftError::RecordFormat { offset, error })?;
            if record.offset < from {
                continue;
            }
            let offset = record.offset;
            let decoded = Record::decode(record.value.unwrap_or_default())
                .map_err(|error| KraftError::Record { offset, error })?;
            self.take(offset, decoded)?;
        }
        Ok(())
    }

    /// Applies a record, or keeps it until its transaction ends.
    fn take(&mut self, offset: Offset, record: Record) -> Result<(), KraftError> {
        let contradiction = |what: &str| KraftError::Contradiction {
            offset,
            what: what.to_owned(),
        };
        match (record, &mut self.transaction) {
            (Record::BeginTransaction, open @ None) => {
                *open = Some(Vec::new());
                Ok(())
            }
            (Record::BeginTransaction, Some(_)) => {
                Err(contradiction("a transaction begins within another"))
            }
            (Record::EndTransaction | Record::AbortTransaction, None) => {
                Err(contradiction("no transaction is open"))
            }
            (Record::AbortTransaction, open @ Some(_)) => {
                *open = None;
                Ok(())
            }
            (Record::EndTransaction, open @ Some(_)) => {
                let records = open.take().unwrap_or_default();
                let mut records = records.into_iter();
                records.try_for_each(|(offset, record)| self.apply(offset, record))
            }
            (record, Some(open)) => {
                open.push((offset, record));
                Ok(())
            }
            (record, None) => self.apply(offset, record),
        }
    }

    fn apply(&mut self, offset: Offset, record: Record) -> Result<(), KraftError> {
        let contradiction = |what: String| KraftError::Contradiction { offset, what };
        let no_topic = |id: TopicId| contradiction(format!("there is no topic {id}"));
        match record {
            Record::Topic { name, topic_id } => {
                if self.topics.contains_key(&topic_id) || self.topics_by_name.contains_key(&name) {
                    return Err(contradiction(format!("topic {name:?} is there already")));
                }
                self.topics_by_name.insert(name.clone(), topic_id);
                let partitions = BTreeMap::new();
                self.topics.insert(topic_id, Topic { name, partitions });
            }
            Record::RemoveTopic(id) => {
                let topic = self.topics.remove(&id).ok_or_else(|| no_topic(id))?;
                self.configs.remove(&(TOPIC, topic.name.clone()));
                self.topics_by_name.remove(&topic.name);
            }
            Record::Partition(partition) => {
                let id = partition.topic_id;
                let topic = self.topics.get_mut(&id).ok_or_else(|| no_topic(id))?;
                topic.partitions.insert(partition.partition, partition);
            }
            Record::PartitionChange(change) => {
                let id = change.topic_id;
                let topic = self.topics.get_mut(&id).ok_or_else(|| no_topic(id))?;
                let partition = topic.partitions.get_mut(&change.partition);
                let partition = partition.ok_or_else(|| {
                    contradiction(format!(
                        "topic {id} has no partition {}",
                        change.partition.0
                    ))
                })?;
                alter(partition, change);
            }
            Record::Config {
                kind,
                resource,
                key,
                value: Some(value),
            } => {
                let configs = self.configs.entry((kind, resource)).or_default();
                configs.insert(key, value);
            }
            Record::Config {
                kind,
                resource,
                key,
                value: None,
            } => {
                let at = (kind, resource);
                if let Some(configs) = self.configs.get_mut(&at) {
                    configs.remove(&key);
                    if configs.is_empty() {
                        self.configs.remove(&at);
                    }
                }
            }
            Record::ProducerIds { next_producer_id } => {
                if next_producer_id < self.next_producer_id {
                    return Err(contradiction(format!(
                        "producer ids go back from {} to {next_producer_id}",
                        self.next_producer_id
                    )));
                }
                self.next_producer_id = next_producer_id;
            }
            Record::FeatureLevel { name, level: 0 } => {
                self.features.remove(&name);
            }
            Record::FeatureLevel { name, level } => {
                self.features.insert(name, level);
            }
            Record::RegisterBroker(id) => {
                self.brokers.insert(id);
            }
            Record::UnregisterBroker(id) => {
                self.brokers.remove(&id);
            }
            Record::Keep { what, whose } => {
                self.left_behind.insert(what, whose);
            }
            Record::Drop(what) => {
                self.left_behind.remove(&what);
            }
            // Met in `take`.
            Record::BeginTransaction | Record::EndTransaction | Record::AbortTransaction => {}
            Record::Nothing => {}
        }
        Ok(())
    }
}

/// Kafka's number of a topic among config resources.
const TOPIC: i8 = 2;

/// Every change raises the partition epoch, and one that names a leader the leader epoch.
fn alter(partition: &mut Partition, change: PartitionChange) {
    if let Some(isr) = change.isr {
        partition.isr = isr;
    }
    if let Some(replicas) = change.replicas {
        partition.replicas = replicas;
    }
    if let Some(directories) = change.directories {
        partition.directories = directories;
    }
    if change.leader.is_some() {
        let epoch = partition.leader_epoch.0.saturating_add(1);
        partition.leader_epoch = LeaderEpoch(epoch);
    }
    partition.partition_epoch = partition.partition_epoch.saturating_add(1);
}

/// The header of a batch that is there to its end, with the right checksum.
fn checked(batch: &[u8]) -> Result<BatchHeader, KraftError> {
    let header = BatchHeader::parse(batch)?;
    let whole = batch.get(..header.size_in_bytes());
    let whole = whole.ok_or(KraftError::Short(header.base_offset))?;
    match verify_crc(whole) {
        true => Ok(header),
        false => Err(KraftError::Checksum(header.base_offset)),
    }
}

/// The types of the control records of a batch.
fn control_types(header: &BatchHeader, batch: &[u8]) -> Result<Vec<i16>, KraftError> {
    let offset = header.base_offset;
    RecordIter::of_batch(header, batch)
        .map(|record| {
            let record = record.map_err(|error| KraftError::RecordFormat { offset, error })?;
            let key = record
                .key
                .and_then(|key| key.get(2..4))
                .unwrap_or(&[0xff; 2]);
            let mut bytes = [0; 2];
            bytes.copy_from_slice(key);
            Ok(i16::from_be_bytes(bytes))
        })
        .collect()
}
