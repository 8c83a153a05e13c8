//! One record of Apache Kafka's metadata log.
//!
//! The value of a record is
//!
//! ```text
//! varint   frame version, 1
//! varint   kind: `apiKey` of the message definitions in Kafka's `metadata` module
//! varint   version of the kind
//! …        its fields, in the flexible encoding (KIP-482)
//! ```
//! All varints are unsigned. Kinds and versions are those of 4.3 (metadata version 30); a later one is an
//! error, since what it says cannot be guessed. Of kinds that are only counted, the fields that tell one
//! from another are read, and what follows them is not.

use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use crate::metadata::DirectoryId;
use crate::protocol::reader::Reader;
use crate::protocol::{Malformed, Reason};

/// The only framing there has been since KRaft's preview.
const FRAME_VERSION: u32 = 1;

/// Why a value is no record that can be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("it is framed as version {0}, and {FRAME_VERSION} is known")]
    Frame(u32),
    #[error("it is of kind {kind}, which Apache Kafka 4.3 does not have")]
    Kind { kind: u32 },
    #[error("it is a {kind} of version {version}, and versions up to {known} are known")]
    Version {
        kind: &'static str,
        version: u32,
        known: u32,
    },
    #[error("{kind}: {error}")]
    Malformed {
        kind: &'static str,
        error: Malformed,
    },
    #[error("{kind}: {left} bytes are left behind its last field")]
    Trailing { kind: &'static str, left: usize },
}

/// A partition as it was created, or as a snapshot has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    /// The data directory of each replica; empty before metadata version 3.7.
    pub directories: Vec<DirectoryId>,
}

/// What became different of a partition; `None` is unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionChange {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub isr: Option<Vec<BrokerId>>,
    /// -1 is none.
    pub leader: Option<i32>,
    pub replicas: Option<Vec<BrokerId>>,
    pub directories: Option<Vec<DirectoryId>>,
}

/// What cannot be taken over, and is counted so that it can be said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftBehind {
    /// By its id.
    Acl(u128),
    /// Entity and key, as one text.
    Quota(String),
    /// User and mechanism (1 is SCRAM-SHA-256, 2 is SCRAM-SHA-512).
    Scram(String, i8),
    DelegationToken(String),
}

/// A record, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Topic {
        name: String,
        topic_id: TopicId,
    },
    RemoveTopic(TopicId),
    Partition(Partition),
    PartitionChange(PartitionChange),
    /// `kind` is the number of the resource on the wire; no value removes.
    Config {
        kind: i8,
        resource: String,
        key: String,
        value: Option<String>,
    },
    ProducerIds {
        next_producer_id: ProducerId,
    },
    FeatureLevel {
        name: String,
        level: i16,
    },
    RegisterBroker(BrokerId),
    UnregisterBroker(BrokerId),
    /// What follows counts once [`Record::EndTransaction`] comes (KIP-868).
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
    /// `whose` names the principal or entity, for the message.
    Keep {
        what: LeftBehind,
        whose: String,
    },
    Drop(LeftBehind),
    /// Brokers' comings and goings, eligible leaders, and other things without a meaning for one node.
    Nothing,
}

/// The kinds by their number: name and last version.
fn kind_of(kind: u32) -> Option<(&'static str, u32)> {
    Some(match kind {
        0 => ("RegisterBrokerRecord", 4),
        1 => ("UnregisterBrokerRecord", 0),
        2 => ("TopicRecord", 0),
        3 => ("PartitionRecord", 2),
        4 => ("ConfigRecord", 0),
        5 => ("PartitionChangeRecord", 2),
        7 => ("FenceBrokerRecord", 0),
        8 => ("UnfenceBrokerRecord", 0),
        9 => ("RemoveTopicRecord", 0),
        10 => ("DelegationTokenRecord", 0),
        11 => ("UserScramCredentialRecord", 0),
        12 => ("FeatureLevelRecord", 0),
        14 => ("ClientQuotaRecord", 0),
        15 => ("ProducerIdsRecord", 0),
        17 => ("BrokerRegistrationChangeRecord", 3),
        18 => ("AccessControlEntryRecord", 0),
        19 => ("RemoveAccessControlEntryRecord", 0),
        20 => ("NoOpRecord", 0),
        21 => ("ZkMigrationStateRecord", 0),
        22 => ("RemoveUserScramCredentialRecord", 0),
        23 => ("BeginTransactionRecord", 0),
        24 => ("EndTransactionRecord", 0),
        25 => ("AbortTransactionRecord", 0),
        26 => ("RemoveDelegationTokenRecord", 0),
        27 => ("RegisterControllerRecord", 0),
        28 => ("ClearElrRecord", 0),
        _ => return None,
    })
}

impl Record {
    /// Reads the value of a record.
    pub fn decode(value: &[u8]) -> Result<Record, RecordError> {
        let mut reader = Reader::new(value, true);
        let framing = |error| RecordError::Malformed {
            kind: "framing",
            error,
        };
        let frame = reader.varint("frame version").map_err(framing)?;
        if frame != FRAME_VERSION {
            return Err(RecordError::Frame(frame));
        }
        let number = reader.varint("kind").map_err(framing)?;
        let version = reader.varint("version").map_err(framing)?;
        let (kind, known) = kind_of(number).ok_or(RecordError::Kind { kind: number })?;
        if version > known {
            return Err(RecordError::Version {
                kind,
                version,
                known,
            });
        }
        let read = fields(number, version, &mut reader);
        let (record, is_whole) = read.map_err(|error| RecordError::Malformed { kind, error })?;
        if is_whole && reader.remaining() > 0 {
            return Err(RecordError::Trailing {
                kind,
                left: reader.remaining(),
            });
        }
        Ok(record)
    }
}

/// The fields of a kind, and whether all were read.
fn fields(kind: u32, version: u32, r: &mut Reader<'_>) -> Result<(Record, bool), Malformed> {
    let record = match kind {
        0 => return Ok((Record::RegisterBroker(broker(r)?), false)),
        1 => {
            let id = broker(r)?;
            r.i64("broker epoch")?;
            r.skip_tags()?;
            Record::UnregisterBroker(id)
        }
        2 => {
            let (name, topic_id) = (text(r, "name")?, topic_id(r)?);
            r.skip_tags()?;
            Record::Topic { name, topic_id }
        }
        3 => Record::Partition(partition(version, r)?),
        4 => {
            let kind = r.i8("resource type")?;
            let (resource, key) = (text(r, "resource name")?, text(r, "name")?);
            let value = r.string(true, "value")?.map(str::to_owned);
            r.skip_tags()?;
            Record::Config {
                kind,
                resource,
                key,
                value,
            }
        }
        5 => Record::PartitionChange(partition_change(r)?),
        9 => {
            let topic_id = topic_id(r)?;
            r.skip_tags()?;
            Record::RemoveTopic(topic_id)
        }
        10 => {
            let owner = text(r, "owner")?;
            r.text("requester")?;
            for _ in 0..r.elements(1, "renewers")? {
                r.text("renewer")?;
            }
            for field in ["issued", "max timestamp", "expires"] {
                r.i64(field)?;
            }
            let token = text(r, "token id")?;
            r.skip_tags()?;
            Record::Keep {
                what: LeftBehind::DelegationToken(token),
                whose: owner,
            }
        }
        11 => {
            let user = text(r, "user name")?;
            let what = LeftBehind::Scram(user.clone(), r.i8("mechanism")?);
            return Ok((Record::Keep { what, whose: user }, false));
        }
        12 => {
            let (name, level) = (text(r, "name")?, r.i16("feature level")?);
            r.skip_tags()?;
            Record::FeatureLevel { name, level }
        }
        14 => quota(r)?,
        15 => {
            broker(r)?;
            r.i64("broker epoch")?;
            let next = r.i64("next producer id")?;
            r.skip_tags()?;
            Record::ProducerIds {
                next_producer_id: ProducerId(next),
            }
        }
        18 => {
            let id = u128::from_be_bytes(r.uuid("id")?);
            r.i8("resource type")?;
            r.text("resource name")?;
            r.i8("pattern type")?;
            let whose = text(r, "principal")?;
            let what = LeftBehind::Acl(id);
            return Ok((Record::Keep { what, whose }, false));
        }
        19 => {
            let id = u128::from_be_bytes(r.uuid("id")?);
            r.skip_tags()?;
            Record::Drop(LeftBehind::Acl(id))
        }
        22 => {
            let (user, mechanism) = (text(r, "user name")?, r.i8("mechanism")?);
            r.skip_tags()?;
            Record::Drop(LeftBehind::Scram(user, mechanism))
        }
        23 => return Ok((Record::BeginTransaction, false)),
        24 => return Ok((Record::EndTransaction, false)),
        25 => return Ok((Record::AbortTransaction, false)),
        26 => {
            let token = text(r, "token id")?;
            r.skip_tags()?;
            Record::Drop(LeftBehind::DelegationToken(token))
        }
        _ => return Ok((Record::Nothing, false)),
    };
    Ok((record, true))
}

fn partition(version: u32, r: &mut Reader<'_>) -> Result<Partition, Malformed> {
    let partition = PartitionIndex(r.i32("partition id")?);
    let topic_id = topic_id(r)?;
    let (replicas, isr) = (brokers(r, "replicas")?, brokers(r, "isr")?);
    brokers(r, "removing replicas")?;
    brokers(r, "adding replicas")?;
    r.i32("leader")?;
    let leader_epoch = LeaderEpoch(r.i32("leader epoch")?);
    let partition_epoch = r.i32("partition epoch")?;
    let directories = match version {
        0 => Vec::new(),
        _ => directories(r)?,
    };
    // A leader that was elected out of sync, and who else may lead: neither is asked of one broker.
    r.skip_tags()?;
    Ok(Partition {
        topic_id,
        partition,
        replicas,
        isr,
        leader_epoch,
        partition_epoch,
        directories,
    })
}

fn partition_change(r: &mut Reader<'_>) -> Result<PartitionChange, Malformed> {
    let mut change = PartitionChange {
        partition: PartitionIndex(r.i32("partition id")?),
        topic_id: topic_id(r)?,
        ..PartitionChange::default()
    };
    for _ in 0..r.tag_count()? {
        let (tag, end) = r.tag()?;
        match tag {
            0 => change.isr = nullable_brokers(r, "isr")?,
            1 => change.leader = Some(r.i32("leader")?).filter(|leader| *leader != -2),
            2 => change.replicas = nullable_brokers(r, "replicas")?,
            8 => {
                change.directories = match r.count(true, 16, "directories")? {
                    Some(count) => Some(some_directories(r, count)?),
                    None => None,
                }
            }
            _ => r.skip_to(end)?,
        }
        r.tag_ends(end, "tagged field")?;
    }
    Ok(change)
}

fn quota(r: &mut Reader<'_>) -> Result<Record, Malformed> {
    let mut entity = Vec::new();
    for _ in 0..r.elements(3, "entity")? {
        let kind = r.text("entity type")?;
        let name = r.string(true, "entity name")?.unwrap_or("<default>");
        entity.push(format!("{kind} {name}"));
        r.skip_tags()?;
    }
    entity.sort();
    let whose = entity.join(", ");
    let key = r.text("key")?;
    r.i64("value")?;
    let is_removed = r.i8("remove")? != 0;
    r.skip_tags()?;
    let what = LeftBehind::Quota(format!("{whose}: {key}"));
    Ok(match is_removed {
        true => Record::Drop(what),
        false => Record::Keep { what, whose },
    })
}

fn broker(r: &mut Reader<'_>) -> Result<BrokerId, Malformed> {
    r.i32("broker id").map(BrokerId)
}

fn topic_id(r: &mut Reader<'_>) -> Result<TopicId, Malformed> {
    let bytes = r.uuid("topic id")?;
    Ok(TopicId(u128::from_be_bytes(bytes)))
}

fn text(r: &mut Reader<'_>, field: &'static str) -> Result<String, Malformed> {
    r.text(field).map(str::to_owned)
}

fn brokers(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<BrokerId>, Malformed> {
    let list = nullable_brokers(r, field)?;
    list.map_or_else(|| r.err(field, Reason::UnexpectedNull), Ok)
}

fn nullable_brokers(
    r: &mut Reader<'_>,
    field: &'static str,
) -> Result<Option<Vec<BrokerId>>, Malformed> {
    let Some(count) = r.count(true, 4, field)? else {
        return Ok(None);
    };
    (0..count)
        .map(|_| r.i32(field).map(BrokerId))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn directories(r: &mut Reader<'_>) -> Result<Vec<DirectoryId>, Malformed> {
    let count = r.elements(16, "directories")?;
    some_directories(r, count)
}

fn some_directories(r: &mut Reader<'_>, count: usize) -> Result<Vec<DirectoryId>, Malformed> {
    let id = |bytes| DirectoryId(u128::from_be_bytes(bytes));
    (0..count).map(|_| r.uuid("directory").map(id)).collect()
}
