//! The records of a consumer group in `__consumer_offsets`, byte for byte those of Apache Kafka 4.3.
//!
//! A key is an `i16` that names the type, then the group id and what else tells records of the type
//! apart, as strings with an `i16` length. A value is an `i16` version, always 0, then fields in the
//! compact encodings (KIP-482):
//!
//! | key | type | key's second part | value |
//! |---|---|---|---|
//! | 3 | group metadata | | epoch i32; tag 0: metadata hash i64 |
//! | 4 | partition metadata | | until Kafka 4.0; a tombstone since |
//! | 5 | member metadata | member id | instance?, rack?, client id, client host, topics, regex?, rebalance timeout i32, assignor?; tag 0: what a classic member said |
//! | 6 | target assignment metadata | | epoch i32; tag 0: timestamp i64 |
//! | 7 | target assignment of a member | member id | topics: id, partitions |
//! | 8 | current assignment of a member | member id | epoch i32, previous epoch i32, state i8, topics owned, topics being revoked: id, partitions; tag 0: an epoch for each |
//! | 16 | resolved regular expression | expression | topics, version i64, timestamp i64 |

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use super::member::{ClassicMetadata, ClassicProtocol, MemberState, Owned, Text};
use super::regex::ResolvedRegex;
use crate::base::{Timestamp, TopicId};
use crate::coordinator::{CoordinatorRecord, Unreadable};
use crate::protocol::reader::Reader;
use crate::protocol::{Malformed, Reason};

/// Partitions by topic.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

const GROUP_METADATA: i16 = 3;
const PARTITION_METADATA: i16 = 4;
const MEMBER_METADATA: i16 = 5;
const TARGET_ASSIGNMENT_METADATA: i16 = 6;
const TARGET_ASSIGNMENT_MEMBER: i16 = 7;
const CURRENT_MEMBER_ASSIGNMENT: i16 = 8;
const REGULAR_EXPRESSION: i16 = 16;

/// Whether records with this first number of the key are a consumer group's.
pub fn is_consumer_key(kind: i16) -> bool {
    matches!(
        kind,
        GROUP_METADATA..=CURRENT_MEMBER_ASSIGNMENT | REGULAR_EXPRESSION
    )
}

/// A record of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub group_id: Text,
    pub body: Body,
}

/// What a record says; `None` takes back what the record before it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    GroupMetadata(Option<GroupMetadata>),
    /// Whether there is one: its content is not used since Kafka 4.1.
    PartitionMetadata(bool),
    MemberMetadata(Text, Option<MemberMetadata>),
    TargetMetadata(Option<TargetMetadata>),
    TargetMember(Text, Option<Partitions>),
    CurrentMember(Text, Option<CurrentMember>),
    RegularExpression(Text, Option<ResolvedRegex>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    pub epoch: i32,
    /// Over the topics the group is subscribed to; 0 if unknown.
    pub metadata_hash: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    pub instance_id: Option<Text>,
    pub rack_id: Option<Text>,
    pub client_id: Text,
    pub client_host: Text,
    pub subscribed_topics: Rc<BTreeSet<Text>>,
    pub subscribed_regex: Option<Text>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<Text>,
    pub classic: Option<Rc<ClassicMetadata>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetMetadata {
    pub epoch: i32,
    /// When it was computed; 0 if unknown.
    pub timestamp: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentMember {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Rc<Owned>,
    pub revoking: Rc<Owned>,
}

impl ConsumerRecord {
    pub fn new(group_id: &Text, body: Body) -> Self {
        Self {
            group_id: group_id.clone(),
            body,
        }
    }

    /// Whether it only takes something back.
    pub fn is_tombstone(&self) -> bool {
        matches!(
            self.body,
            Body::GroupMetadata(None)
                | Body::PartitionMetadata(false)
                | Body::MemberMetadata(_, None)
                | Body::TargetMetadata(None)
                | Body::TargetMember(_, None)
                | Body::CurrentMember(_, None)
                | Body::RegularExpression(_, None)
        )
    }

    /// As it goes into the log.
    ///
    /// Panics if a string of the key is longer than the wire can say: requests are limited to less.
    pub fn encode(&self) -> CoordinatorRecord {
        let (kind, second): (i16, Option<&Text>) = match &self.body {
            Body::GroupMetadata(_) => (GROUP_METADATA, None),
            Body::PartitionMetadata(_) => (PARTITION_METADATA, None),
            Body::MemberMetadata(member, _) => (MEMBER_METADATA, Some(member)),
            Body::TargetMetadata(_) => (TARGET_ASSIGNMENT_METADATA, None),
            Body::TargetMember(member, _) => (TARGET_ASSIGNMENT_MEMBER, Some(member)),
            Body::CurrentMember(member, _) => (CURRENT_MEMBER_ASSIGNMENT, Some(member)),
            Body::RegularExpression(regex, _) => (REGULAR_EXPRESSION, Some(regex)),
        };
        let mut key = kind.to_be_bytes().to_vec();
        for text in [Some(&self.group_id), second].into_iter().flatten() {
            let length = i16::try_from(text.len()).expect("a string of a request fits");
            key.extend_from_slice(&length.to_be_bytes());
            key.extend_from_slice(text.as_bytes());
        }
        CoordinatorRecord {
            key: key.into(),
            value: self.body.encode(),
        }
    }

    /// Reads a record whose key begins with a number that [`is_consumer_key`] knows.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, Unreadable> {
        let unreadable = |what: &str, error: Malformed| Unreadable(format!("{what}: {error}"));
        let mut reader = Reader::new(key, false);
        let mut read_key = || {
            let kind = reader.i16("type")?;
            let group_id: Text = reader.text("GroupId")?.into();
            let second: Text = match kind {
                MEMBER_METADATA
                | TARGET_ASSIGNMENT_MEMBER
                | CURRENT_MEMBER_ASSIGNMENT
                | REGULAR_EXPRESSION => reader.text("second part")?.into(),
                _ => "".into(),
            };
            Ok((kind, group_id, second))
        };
        let (kind, group_id, second) = read_key().map_err(|error| unreadable("key", error))?;
        let mut reader = value.map(|value| Reader::new(value, true));
        if let Some(reader) = &mut reader {
            let version = reader.i16("version");
            match version.map_err(|error| unreadable("value", error))? {
                0 => {}
                version => {
                    return Err(Unreadable(format!(
                        "value version {version} of key type {kind}"
                    )));
                }
            }
        }
        let body = Body::decode(kind, second, reader.as_mut());
        let body = body.map_err(|error| unreadable("value", error))?;
        Ok(Self { group_id, body })
    }
}

impl Body {
    fn encode(&self) -> Option<Bytes> {
        let mut out = Writer::default();
        match self {
            Body::GroupMetadata(value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                out.tagged_i64(value.metadata_hash);
            }
            Body::PartitionMetadata(false) => return None,
            // Without topics; only tests write it.
            Body::PartitionMetadata(true) => {
                out.count(0);
                out.no_tags();
            }
            Body::MemberMetadata(_, value) => {
                let value = value.as_ref()?;
                out.nullable(value.instance_id.as_ref());
                out.nullable(value.rack_id.as_ref());
                out.text(&value.client_id);
                out.text(&value.client_host);
                out.count(value.subscribed_topics.len());
                // Sorted as Java sorts strings. Topic names are ASCII.
                for topic in value.subscribed_topics.iter() {
                    out.text(topic);
                }
                out.nullable(value.subscribed_regex.as_ref());
                out.i32(value.rebalance_timeout_ms);
                out.nullable(value.server_assignor.as_ref());
                match &value.classic {
                    // Kafka writes that there is none.
                    None => out.tag_0(&[0]),
                    Some(classic) => {
                        let mut tag = Writer::bare();
                        tag.varint(1);
                        tag.i32(classic.session_timeout_ms);
                        tag.count(classic.protocols.len());
                        for protocol in &classic.protocols {
                            tag.text(&protocol.name);
                            tag.count(protocol.metadata.len());
                            tag.0.extend_from_slice(&protocol.metadata);
                            tag.no_tags();
                        }
                        tag.no_tags();
                        out.tag_0(&tag.0);
                    }
                }
            }
            Body::TargetMetadata(value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                out.tagged_i64(value.timestamp.0);
            }
            Body::TargetMember(_, value) => {
                let value = value.as_ref()?;
                out.count(value.len());
                for (topic, partitions) in value {
                    out.topic(*topic, partitions.iter());
                    out.no_tags();
                }
                out.no_tags();
            }
            Body::CurrentMember(_, value) => {
                let value = value.as_ref()?;
                out.i32(value.epoch);
                out.i32(value.previous_epoch);
                out.0.push(value.state as u8);
                for owned in [&value.assigned, &value.revoking] {
                    out.count(owned.len());
                    for (topic, partitions) in owned.iter() {
                        out.topic(*topic, partitions.keys());
                        if partitions.is_empty() {
                            out.no_tags();
                            continue;
                        }
                        let mut tag = Writer::bare();
                        tag.count(partitions.len());
                        for epoch in partitions.values() {
                            tag.i32(*epoch);
                        }
                        out.tag_0(&tag.0);
                    }
                }
                out.no_tags();
            }
            Body::RegularExpression(_, value) => {
                let value = value.as_ref()?;
                out.count(value.topics.len());
                for topic in value.topics.iter() {
                    out.text(topic);
                }
                out.i64(value.version);
                out.i64(value.timestamp.0);
                out.no_tags();
            }
        }
        Some(out.0.into())
    }

    fn decode(kind: i16, second: Text, r: Option<&mut Reader<'_>>) -> Result<Self, Malformed> {
        Ok(match (kind, r) {
            (GROUP_METADATA, None) => Body::GroupMetadata(None),
            (GROUP_METADATA, Some(r)) => {
                let epoch = r.i32("Epoch")?;
                let metadata_hash = tagged_i64(r, "MetadataHash")?;
                Body::GroupMetadata(Some(GroupMetadata {
                    epoch,
                    metadata_hash,
                }))
            }
            (PARTITION_METADATA, r) => Body::PartitionMetadata(r.is_some()),
            (MEMBER_METADATA, None) => Body::MemberMetadata(second, None),
            (MEMBER_METADATA, Some(r)) => {
                Body::MemberMetadata(second, Some(decode_member_metadata(r)?))
            }
            (TARGET_ASSIGNMENT_METADATA, None) => Body::TargetMetadata(None),
            (TARGET_ASSIGNMENT_METADATA, Some(r)) => {
                let epoch = r.i32("AssignmentEpoch")?;
                let timestamp = Timestamp(tagged_i64(r, "AssignmentTimestamp")?);
                Body::TargetMetadata(Some(TargetMetadata { epoch, timestamp }))
            }
            (TARGET_ASSIGNMENT_MEMBER, None) => Body::TargetMember(second, None),
            (TARGET_ASSIGNMENT_MEMBER, Some(r)) => {
                let mut topics = Partitions::new();
                for _ in 0..r.elements(18, "TopicPartitions")? {
                    let (topic, partitions) = topic(r)?;
                    r.skip_tags()?;
                    topics.entry(topic).or_default().extend(partitions);
                }
                r.skip_tags()?;
                Body::TargetMember(second, Some(topics))
            }
            (CURRENT_MEMBER_ASSIGNMENT, None) => Body::CurrentMember(second, None),
            (CURRENT_MEMBER_ASSIGNMENT, Some(r)) => {
                let epoch = r.i32("MemberEpoch")?;
                let previous_epoch = r.i32("PreviousMemberEpoch")?;
                let state = MemberState::from_code(r.i8("State")?);
                let assigned = Rc::new(owned(r, epoch)?);
                let revoking = Rc::new(owned(r, epoch)?);
                r.skip_tags()?;
                Body::CurrentMember(
                    second,
                    Some(CurrentMember {
                        epoch,
                        previous_epoch,
                        state,
                        assigned,
                        revoking,
                    }),
                )
            }
            (REGULAR_EXPRESSION, None) => Body::RegularExpression(second, None),
            (REGULAR_EXPRESSION, Some(r)) => {
                let topics = Rc::new(texts(r, "Topics")?);
                let version = r.i64("Version")?;
                let timestamp = Timestamp(r.i64("Timestamp")?);
                r.skip_tags()?;
                Body::RegularExpression(
                    second,
                    Some(ResolvedRegex {
                        topics,
                        version,
                        timestamp,
                    }),
                )
            }
            (_, _) => {
                return Err(Malformed {
                    at: 0,
                    field: "type",
                    reason: Reason::NotServed,
                });
            }
        })
    }
}

fn nullable(r: &mut Reader<'_>, field: &'static str) -> Result<Option<Text>, Malformed> {
    Ok(r.string(true, field)?.map(Text::from))
}

fn texts(r: &mut Reader<'_>, field: &'static str) -> Result<BTreeSet<Text>, Malformed> {
    let count = r.elements(1, field)?;
    (0..count).map(|_| Ok(r.text(field)?.into())).collect()
}

fn topic(r: &mut Reader<'_>) -> Result<(TopicId, Vec<i32>), Malformed> {
    let topic = TopicId::from_bytes(r.uuid("TopicId")?);
    let count = r.elements(4, "Partitions")?;
    let partitions = (0..count).map(|_| r.i32("Partitions"));
    Ok((topic, partitions.collect::<Result<_, _>>()?))
}

/// Without epochs (as before Kafka 4.3), or with too few, `member_epoch` stands for all.
fn owned(r: &mut Reader<'_>, member_epoch: i32) -> Result<Owned, Malformed> {
    let mut topics = Owned::new();
    for _ in 0..r.elements(18, "TopicPartitions")? {
        let (topic, partitions) = topic(r)?;
        let mut epochs = Vec::new();
        for _ in 0..r.tag_count()? {
            let (tag, end) = r.tag()?;
            if tag != 0 {
                r.skip_to(end)?;
                continue;
            }
            let count = r.count(true, 4, "AssignmentEpochs")?.unwrap_or(0);
            epochs.clear();
            for _ in 0..count {
                epochs.push(r.i32("AssignmentEpochs")?);
            }
            r.tag_ends(end, "AssignmentEpochs")?;
        }
        if epochs.len() != partitions.len() {
            // A static member that is away has the epoch -2.
            epochs = vec![member_epoch.max(0); partitions.len()];
        }
        let owned = partitions.into_iter().zip(epochs);
        topics.entry(topic).or_default().extend(owned);
    }
    Ok(topics)
}

fn decode_member_metadata(r: &mut Reader<'_>) -> Result<MemberMetadata, Malformed> {
    let mut value = MemberMetadata {
        instance_id: nullable(r, "InstanceId")?,
        rack_id: nullable(r, "RackId")?,
        client_id: r.text("ClientId")?.into(),
        client_host: r.text("ClientHost")?.into(),
        subscribed_topics: Rc::new(texts(r, "SubscribedTopicNames")?),
        subscribed_regex: nullable(r, "SubscribedTopicRegex")?,
        rebalance_timeout_ms: r.i32("RebalanceTimeoutMs")?,
        server_assignor: nullable(r, "ServerAssignor")?,
        classic: None,
    };
    for _ in 0..r.tag_count()? {
        let (tag, end) = r.tag()?;
        if tag != 0 {
            r.skip_to(end)?;
            continue;
        }
        if r.varint("ClassicMemberMetadata")? != 0 {
            let session_timeout_ms = r.i32("SessionTimeoutMs")?;
            let mut protocols = Vec::new();
            for _ in 0..r.elements(3, "SupportedProtocols")? {
                let name = r.text("Name")?.into();
                let metadata = r.bytes(false, "Metadata")?.unwrap_or(&[]);
                r.skip_tags()?;
                protocols.push(ClassicProtocol {
                    name,
                    metadata: Bytes::copy_from_slice(metadata),
                });
            }
            r.skip_tags()?;
            value.classic = Some(Rc::new(ClassicMetadata {
                session_timeout_ms,
                protocols,
            }));
        }
        r.tag_ends(end, "ClassicMemberMetadata")?;
    }
    Ok(value)
}

/// The tag section of a value whose tag 0 is a number that is 0 when it is not there.
fn tagged_i64(r: &mut Reader<'_>, field: &'static str) -> Result<i64, Malformed> {
    let mut value = 0;
    for _ in 0..r.tag_count()? {
        let (tag, end) = r.tag()?;
        if tag == 0 {
            value = r.i64(field)?;
            r.tag_ends(end, field)?;
        } else {
            r.skip_to(end)?;
        }
    }
    Ok(value)
}

/// A value in the making; begins with version 0.
struct Writer(Vec<u8>);

impl Default for Writer {
    fn default() -> Self {
        Self(vec![0, 0])
    }
}

impl Writer {
    /// The content of a tag, without a version.
    fn bare() -> Self {
        Self(Vec::new())
    }

    fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn varint(&mut self, value: usize) {
        let mut value = value;
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// The length of an array, or of bytes.
    fn count(&mut self, count: usize) {
        self.varint(count + 1);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn nullable(&mut self, text: Option<&Text>) {
        match text {
            Some(text) => self.text(text),
            None => self.varint(0),
        }
    }

    fn topic<'a>(&mut self, topic: TopicId, partitions: impl ExactSizeIterator<Item = &'a i32>) {
        self.0.extend_from_slice(&topic.to_bytes());
        self.count(partitions.len());
        for partition in partitions {
            self.i32(*partition);
        }
    }

    fn no_tags(&mut self) {
        self.0.push(0);
    }

    fn tag_0(&mut self, content: &[u8]) {
        self.0.extend_from_slice(&[1, 0]);
        self.varint(content.len());
        self.0.extend_from_slice(content);
    }

    fn tagged_i64(&mut self, value: i64) {
        match value {
            0 => self.no_tags(),
            value => self.tag_0(&value.to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T1: TopicId = TopicId(0x0102030405060708090a0b0c0d0e0f10);
    const T2: TopicId = TopicId(0x1112131415161718191a1b1c1d1e1f20);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    fn member() -> MemberMetadata {
        MemberMetadata {
            instance_id: Some("i".into()),
            rack_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            subscribed_topics: Rc::new(["a".into(), "b".into()].into()),
            subscribed_regex: Some("r.*".into()),
            rebalance_timeout_ms: 300_000,
            server_assignor: Some("range".into()),
            classic: None,
        }
    }

    /// Keys and values as the serializer of Apache Kafka 4.3.1 writes them.
    #[test]
    fn records_are_kafkas_byte_for_byte() {
        let owned = |topic, partitions: &[(i32, i32)]| {
            Rc::new(Owned::from([(topic, partitions.iter().copied().collect())]))
        };
        let classic = MemberMetadata {
            instance_id: None,
            rack_id: Some("r".into()),
            subscribed_topics: Rc::default(),
            subscribed_regex: Some("".into()),
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: Some(Rc::new(ClassicMetadata {
                session_timeout_ms: 45_000,
                protocols: vec![ClassicProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(&[1, 2, 3]),
                }],
            })),
            ..member()
        };
        let group = |epoch, metadata_hash| {
            Body::GroupMetadata(Some(GroupMetadata {
                epoch,
                metadata_hash,
            }))
        };
        let target = Partitions::from([(T1, [0, 1, 200].into()), (T2, [3].into())]);
        let current = CurrentMember {
            epoch: 9,
            previous_epoch: 8,
            state: MemberState::UnrevokedPartitions,
            assigned: owned(T1, &[(0, 4), (1, 9)]),
            revoking: owned(T2, &[(3, 2)]),
        };
        let regex = ResolvedRegex {
            topics: Rc::new(["oa".into(), "ob".into()].into()),
            version: 11,
            timestamp: Timestamp(12),
        };
        let time = TargetMetadata {
            epoch: 5,
            timestamp: Timestamp(1_234_567_890_123),
        };
        let m = || Text::from("m");
        let rows = [
            (
                group(7, -2),
                "0003000167",
                "000000000007010008fffffffffffffffe",
            ),
            (group(7, 0), "0003000167", "00000000000700"),
            (Body::GroupMetadata(None), "0003000167", "-"),
            (Body::PartitionMetadata(false), "0004000167", "-"),
            (
                Body::MemberMetadata(m(), Some(member())),
                "000500016700016d",
                "00000269000263032f68030261026204722e2a000493e00672616e676501000100",
            ),
            (
                Body::MemberMetadata(m(), Some(classic)),
                "000500016700016d",
                "00000002720263032f680101ffffffff00010012010000afc8020672616e6765040102030000",
            ),
            (
                Body::TargetMetadata(Some(time)),
                "0006000167",
                "0000000000050100080000011f71fb04cb",
            ),
            (
                Body::TargetMember(m(), Some(target)),
                "000700016700016d",
                "0000030102030405060708090a0b0c0d0e0f10040000000000000001000000c8001112131415161718191a1b1c1d1e1f2002000000030000",
            ),
            (
                Body::CurrentMember(m(), Some(current)),
                "000800016700016d",
                "0000000000090000000801020102030405060708090a0b0c0d0e0f10030000000000000001010009030000000400000009021112131415161718191a1b1c1d1e1f200200000003010005020000000200",
            ),
            (
                Body::RegularExpression("o.*".into(), Some(regex)),
                "001000016700036f2e2a",
                "000003036f61036f62000000000000000b000000000000000c00",
            ),
        ];
        for (body, key, value) in rows {
            let record = ConsumerRecord::new(&"g".into(), body);
            let written = record.encode();
            assert_eq!(hex(&written.key), key);
            let written_value = written.value.as_deref().map_or("-".into(), hex);
            assert_eq!(written_value, value, "{record:?}");
            let read = ConsumerRecord::decode(&written.key, written.value.as_deref());
            assert_eq!(read, Ok(record));
        }
    }

    #[test]
    fn a_record_without_epochs_of_partitions_is_read_with_the_members() {
        let value = bytes(
            "0000fffffffe0000000800020102030405060708090a0b0c0d0e0f10030000000000000001000100",
        );
        let read = ConsumerRecord::decode(&bytes("000800016700016d"), Some(&value)).unwrap();
        let Body::CurrentMember(_, Some(current)) = read.body else {
            panic!("{read:?}");
        };
        assert_eq!(current.epoch, -2);
        assert_eq!(current.assigned[&T1], BTreeMap::from([(0, 0), (1, 0)]));
    }

    #[test]
    fn what_is_no_record_is_unreadable() {
        let key = bytes("000500016700016d");
        let value = ConsumerRecord::new(
            &"g".into(),
            Body::MemberMetadata("m".into(), Some(member())),
        );
        let value = value.encode().value.unwrap();
        for length in 0..value.len() {
            assert!(ConsumerRecord::decode(&key, value.get(..length)).is_err());
        }
        for length in 0..key.len() {
            assert!(ConsumerRecord::decode(&key[..length], Some(&value)).is_err());
        }
        let mut later = value.to_vec();
        later[1] = 1;
        let error = ConsumerRecord::decode(&key, Some(&later)).unwrap_err();
        assert_eq!(error.0, "value version 1 of key type 5");
        assert!(ConsumerRecord::decode(&bytes("0009000167"), None).is_err());
    }
}
