//! What the metadata log holds, and how it is written.
//!
//! A batch of records on disk is
//!
//! ```text
//! u8            version of the encoding, 1
//! bytes         a JSON array of records, each `{"<Kind>": {<field>: <value>, …}}`
//! ```
//!
//! JSON, because metadata is small and changes seldom, while its shape will change for years: an
//! absent field takes its default, an unknown field is skipped, and a human can read a broken file.
//! A kind this version does not know is an error, because skipping it would give a wrong image. Ids
//! of topics and directories are Kafka's base64 text. A field that is added is `#[serde(default)]`; a
//! field never changes its meaning; another layout takes another version byte.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};

/// Overrides of one resource: setting to value, both as text.
pub type Configs = BTreeMap<String, String>;

/// One change of the cluster's metadata. The names are those of Kafka's own metadata records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MetadataRecord {
    /// The identity of the cluster, written once.
    ClusterId { cluster_id: String },
    /// A finalized feature; level 0 removes it (KIP-584).
    FeatureLevel { name: String, level: i16 },
    /// A broker started, or changed what it says of itself.
    RegisterBroker(BrokerRegistration),
    /// A broker is gone for good.
    UnregisterBroker { broker_id: BrokerId },
    /// A topic; its partitions follow in the same batch.
    Topic {
        name: String,
        #[serde(with = "id_text")]
        topic_id: TopicId,
    },
    /// A partition that is new.
    Partition(PartitionRegistration),
    /// What changed of a partition.
    PartitionChange(PartitionChange),
    /// A topic, its partitions and its configs are gone.
    RemoveTopic {
        #[serde(with = "id_text")]
        topic_id: TopicId,
    },
    /// An override; no value removes it.
    Config {
        resource: ConfigResource,
        key: String,
        value: Option<String>,
    },
    /// Producer ids below `next_producer_id` were handed out in blocks and are never given again.
    ProducerIds { next_producer_id: ProducerId },
}

/// What a broker says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    pub broker_id: BrokerId,
    /// Larger with every start; tells requests of an earlier life apart.
    pub broker_epoch: i64,
    /// Listener name to what clients are told.
    #[serde(default)]
    pub listeners: BTreeMap<String, Endpoint>,
    #[serde(default)]
    pub rack: Option<String>,
    /// `directory.id` of each data directory.
    #[serde(default)]
    pub directories: Vec<DirectoryId>,
    /// No leader is placed on a fenced broker.
    #[serde(default)]
    pub fenced: bool,
}

/// Where a listener is reached, as advertised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    #[serde(default = "plaintext")]
    pub security_protocol: String,
}

fn plaintext() -> String {
    "PLAINTEXT".to_owned()
}

/// A new partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRegistration {
    #[serde(with = "id_text")]
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    /// The first is preferred as leader.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    #[serde(default)]
    pub leader_epoch: LeaderEpoch,
    #[serde(default)]
    pub partition_epoch: i32,
    /// The data directory of each replica, in their order; empty when not assigned (KIP-858).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<DirectoryId>,
}

/// What changed of a partition; absent is unchanged. Every change raises the partition epoch, and a
/// change of leader the leader epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    #[serde(with = "id_text")]
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isr: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directories: Option<Vec<DirectoryId>>,
}

/// The leader after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderChange {
    /// No replica can lead.
    None,
    Broker(BrokerId),
}

/// What configs belong to. The numbers on the wire are topic 2, broker 4 (an empty name is every
/// broker), client metrics 16, group 32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConfigResource {
    /// By name, as in Kafka: the overrides die with the topic.
    Topic(String),
    Broker(BrokerId),
    /// All brokers, below what is set for one.
    BrokerDefault,
    /// A telemetry subscription (KIP-714).
    ClientMetrics(String),
    Group(String),
}

/// `directory.id` of a data directory (KIP-858).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct DirectoryId(#[serde(with = "u128_text")] pub u128);

impl fmt::Display for DirectoryId {
    /// Kafka's base64, as in `meta.properties`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

mod id_text {
    use super::TopicId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    pub fn serialize<S: Serializer>(id: &TopicId, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TopicId, D::Error> {
        let text = Cow::<str>::deserialize(d)?;
        TopicId::parse(&text).ok_or_else(|| D::Error::custom("not an id of 22 characters"))
    }
}

mod u128_text {
    use super::{TopicId, id_text};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &u128, s: S) -> Result<S::Ok, S::Error> {
        id_text::serialize(&TopicId(*id), s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u128, D::Error> {
        Ok(id_text::deserialize(d)?.0)
    }
}

/// The encoding that is written.
const ENCODING_VERSION: u8 = 1;

/// Why bytes are not records of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("metadata records are empty")]
    Empty,
    #[error("metadata records of encoding {0}, this version reads {ENCODING_VERSION}")]
    Version(u8),
    #[error("metadata records cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes a batch of records as this page's head says.
pub fn encode_records(records: &[MetadataRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 160);
    out.push(ENCODING_VERSION);
    serde_json::to_writer(&mut out, records)
        .expect("records have text keys only and a Vec takes all");
    out
}

/// Reads what [`encode_records`] wrote, or a later version that only added fields.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<MetadataRecord>, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&ENCODING_VERSION, json)) => Ok(serde_json::from_slice(json)?),
        Some((&version, _)) => Err(DecodeError::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on disks already. A line here is never changed, only added.
    const WRITTEN: &[(&str, fn() -> MetadataRecord)] = &[
        (r#"{"ClusterId":{"cluster_id":"c"}}"#, || {
            MetadataRecord::ClusterId {
                cluster_id: "c".to_owned(),
            }
        }),
        (
            r#"{"FeatureLevel":{"name":"metadata.version","level":29}}"#,
            || MetadataRecord::FeatureLevel {
                name: "metadata.version".to_owned(),
                level: 29,
            },
        ),
        (
            r#"{"RegisterBroker":{"broker_id":1,"broker_epoch":9,"listeners":{"PLAINTEXT":{"host":"h","port":9,"security_protocol":"PLAINTEXT"}},"rack":null,"directories":["AAAAAAAAAAAAAAAAAAAAAg"],"fenced":false}}"#,
            || {
                MetadataRecord::RegisterBroker(BrokerRegistration {
                    broker_id: BrokerId(1),
                    broker_epoch: 9,
                    listeners: BTreeMap::from([(
                        "PLAINTEXT".to_owned(),
                        Endpoint {
                            host: "h".to_owned(),
                            port: 9,
                            security_protocol: "PLAINTEXT".to_owned(),
                        },
                    )]),
                    rack: None,
                    directories: vec![DirectoryId(2)],
                    fenced: false,
                })
            },
        ),
        (r#"{"UnregisterBroker":{"broker_id":1}}"#, || {
            MetadataRecord::UnregisterBroker {
                broker_id: BrokerId(1),
            }
        }),
        (
            r#"{"Topic":{"name":"t","topic_id":"AAAAAAAAAAAAAAAAAAAABQ"}}"#,
            || MetadataRecord::Topic {
                name: "t".to_owned(),
                topic_id: TopicId(5),
            },
        ),
        (
            r#"{"Partition":{"topic_id":"AAAAAAAAAAAAAAAAAAAABQ","partition":0,"replicas":[1],"isr":[1],"leader":1,"leader_epoch":0,"partition_epoch":0}}"#,
            || {
                MetadataRecord::Partition(PartitionRegistration {
                    topic_id: TopicId(5),
                    partition: PartitionIndex(0),
                    replicas: vec![BrokerId(1)],
                    isr: vec![BrokerId(1)],
                    leader: Some(BrokerId(1)),
                    leader_epoch: LeaderEpoch(0),
                    partition_epoch: 0,
                    directories: Vec::new(),
                })
            },
        ),
        (
            r#"{"PartitionChange":{"topic_id":"AAAAAAAAAAAAAAAAAAAABQ","partition":0,"leader":"None"}}"#,
            || {
                MetadataRecord::PartitionChange(PartitionChange {
                    topic_id: TopicId(5),
                    partition: PartitionIndex(0),
                    replicas: None,
                    isr: None,
                    leader: Some(LeaderChange::None),
                    directories: None,
                })
            },
        ),
        (
            r#"{"RemoveTopic":{"topic_id":"AAAAAAAAAAAAAAAAAAAABQ"}}"#,
            || MetadataRecord::RemoveTopic {
                topic_id: TopicId(5),
            },
        ),
        (
            r#"{"Config":{"resource":{"Topic":"t"},"key":"k","value":"v"}}"#,
            || MetadataRecord::Config {
                resource: ConfigResource::Topic("t".to_owned()),
                key: "k".to_owned(),
                value: Some("v".to_owned()),
            },
        ),
        (
            r#"{"Config":{"resource":"BrokerDefault","key":"k","value":null}}"#,
            || MetadataRecord::Config {
                resource: ConfigResource::BrokerDefault,
                key: "k".to_owned(),
                value: None,
            },
        ),
        (r#"{"ProducerIds":{"next_producer_id":1000}}"#, || {
            MetadataRecord::ProducerIds {
                next_producer_id: ProducerId(1000),
            }
        }),
    ];

    #[test]
    fn the_encoding_is_the_one_that_is_on_disks() {
        for (json, record) in WRITTEN {
            let bytes = encode_records(&[record()]);
            assert_eq!(String::from_utf8_lossy(&bytes[1..]), format!("[{json}]"));
            assert_eq!(decode_records(&bytes).unwrap(), [record()]);
        }
    }

    #[test]
    fn a_later_version_may_add_fields_but_not_kinds() {
        let more = br#"[{"RemoveTopic":{"topic_id":"AAAAAAAAAAAAAAAAAAAABQ","why":"x"}}]"#;
        assert!(decode_records(&[&[1], &more[..]].concat()).is_ok());
        let other = br#"[{"Quota":{"user":"u"}}]"#;
        assert!(matches!(
            decode_records(&[&[1], &other[..]].concat()),
            Err(DecodeError::Json(_))
        ));
        assert!(matches!(
            decode_records(b"\x02[]"),
            Err(DecodeError::Version(2))
        ));
        assert!(matches!(decode_records(b""), Err(DecodeError::Empty)));
    }
}
