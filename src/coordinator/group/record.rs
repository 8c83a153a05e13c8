//! Records of `__consumer_offsets` that classic groups and committed offsets are made of, byte for byte
//! as Kafka 4.3 writes them.
//!
//! A key begins with its type, a value with its version (both i16). What is not named here belongs to
//! other kinds of groups.
//!
//! | key | fields | value |
//! |---|---|---|
//! | 0, 1 | group, topic, partition | [`OffsetCommit`] |
//! | 2 | group | [`GroupMetadata`] |

use bytes::Bytes;

use crate::base::TopicId;
use crate::coordinator::fields::{FieldReader, FieldWriter};
use crate::coordinator::{CoordinatorRecord, Unreadable};

/// The types of keys of `__consumer_offsets`.
pub mod key_type {
    /// A committed offset; 0 is an older form with the same fields.
    pub const OFFSET_COMMIT_0: i16 = 0;
    pub const OFFSET_COMMIT: i16 = 1;
    pub const GROUP_METADATA: i16 = 2;
}

/// The version of [`GroupMetadata`] that is written: the last one before tagged fields, which any broker
/// since 2.3 reads.
const GROUP_METADATA_VERSION: i16 = 3;

/// A key's type. `None`: too short to have one.
pub fn type_of(key: &[u8]) -> Option<i16> {
    key.first_chunk().map(|bytes| i16::from_be_bytes(*bytes))
}

/// The partition that an offset was committed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetKey<'a> {
    pub group_id: &'a str,
    pub topic: &'a str,
    pub partition: i32,
}

impl<'a> OffsetKey<'a> {
    /// From a whole key, of type 0 or 1.
    pub fn read(key: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = FieldReader::new(key);
        reader.i16("type")?;
        Ok(Self {
            group_id: reader.string("group")?,
            topic: reader.string("topic")?,
            partition: reader.i32("partition")?,
        })
    }

    fn encode(self) -> Bytes {
        let mut key = FieldWriter::new(key_type::OFFSET_COMMIT, false);
        key.string(self.group_id);
        key.string(self.topic);
        key.i32(self.partition);
        key.finish()
    }
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit<'a> {
    pub offset: i64,
    /// Of the last record before the offset; -1 is none.
    pub leader_epoch: i32,
    /// What the application wanted to keep beside it.
    pub metadata: &'a str,
    /// Milliseconds since the epoch.
    pub commit_timestamp: i64,
    /// When it is forgotten whatever the retention says, asked for by commits up to version 4; -1 is none.
    pub expire_timestamp: i64,
    /// The topic's identity if it was known; zero is none.
    pub topic_id: TopicId,
}

impl<'a> OffsetCommit<'a> {
    pub fn read(value: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = FieldReader::new(value);
        let version = reader.i16("version")?;
        if !(0..=4).contains(&version) {
            return Err(Unreadable(format!("offset commit of version {version}")));
        }
        reader.set_flexible(version >= 4);
        let mut commit = Self {
            offset: reader.i64("offset")?,
            leader_epoch: if version >= 3 {
                reader.i32("leaderEpoch")?
            } else {
                -1
            },
            metadata: reader.string("metadata")?,
            commit_timestamp: reader.i64("commitTimestamp")?,
            expire_timestamp: if version == 1 {
                reader.i64("expireTimestamp")?
            } else {
                -1
            },
            topic_id: TopicId::ZERO,
        };
        reader.tags(|tag, content| {
            if tag == 0 {
                commit.topic_id = content.topic_id("topicId")?;
            }
            Ok(())
        })?;
        Ok(commit)
    }

    /// Version 4, or 1 if it carries a time to expire.
    fn encode(&self) -> Bytes {
        let version = if self.expire_timestamp == -1 { 4 } else { 1 };
        let mut value = FieldWriter::new(version, version >= 4);
        value.i64(self.offset);
        if version >= 3 {
            value.i32(self.leader_epoch);
        }
        value.string(self.metadata);
        value.i64(self.commit_timestamp);
        if version == 1 {
            value.i64(self.expire_timestamp);
        } else if self.topic_id == TopicId::ZERO {
            value.varint(0);
        } else {
            value.varint(1);
            value.varint(0);
            value.varint(16);
            value.topic_id(self.topic_id);
        }
        value.finish()
    }

    pub fn record(&self, key: OffsetKey<'_>) -> CoordinatorRecord {
        CoordinatorRecord {
            key: key.encode(),
            value: Some(self.encode()),
        }
    }
}

/// The offset is gone.
pub fn offset_tombstone(key: OffsetKey<'_>) -> CoordinatorRecord {
    CoordinatorRecord {
        key: key.encode(),
        value: None,
    }
}

/// A classic group as it became stable, or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata<'a> {
    /// Empty for a group that nobody joined yet.
    pub protocol_type: &'a str,
    pub generation: i32,
    pub protocol: Option<&'a str>,
    /// Member id of the leader.
    pub leader: Option<&'a str>,
    /// When the group came into its state; -1 if unknown.
    pub current_state_timestamp: i64,
    pub members: Vec<MemberMetadata<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata<'a> {
    pub member_id: &'a str,
    pub group_instance_id: Option<&'a str>,
    pub client_id: &'a str,
    pub client_host: &'a str,
    /// -1: the session timeout, as before rebalances had one.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// What the member sent for the group's protocol.
    pub subscription: &'a [u8],
    pub assignment: &'a [u8],
}

/// The group id of a key of type 2.
pub fn read_group_key(key: &[u8]) -> Result<&str, Unreadable> {
    let mut reader = FieldReader::new(key);
    reader.i16("type")?;
    reader.string("group")
}

fn group_key(group_id: &str) -> Bytes {
    let mut key = FieldWriter::new(key_type::GROUP_METADATA, false);
    key.string(group_id);
    key.finish()
}

/// The group is gone.
pub fn group_tombstone(group_id: &str) -> CoordinatorRecord {
    CoordinatorRecord {
        key: group_key(group_id),
        value: None,
    }
}

impl<'a> GroupMetadata<'a> {
    pub fn read(value: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = FieldReader::new(value);
        let version = reader.i16("version")?;
        if !(0..=4).contains(&version) {
            return Err(Unreadable(format!("group metadata of version {version}")));
        }
        reader.set_flexible(version >= 4);
        let protocol_type = reader.string("protocolType")?;
        let generation = reader.i32("generation")?;
        let protocol = reader.nullable_string("protocol")?;
        let leader = reader.nullable_string("leader")?;
        let current_state_timestamp = if version >= 2 {
            reader.i64("currentStateTimestamp")?
        } else {
            -1
        };
        let mut members = Vec::new();
        for _ in 0..reader.count("members")? {
            members.push(MemberMetadata::read(&mut reader, version)?);
        }
        reader.skip_tags()?;
        Ok(Self {
            protocol_type,
            generation,
            protocol,
            leader,
            current_state_timestamp,
            members,
        })
    }

    pub fn record(&self, group_id: &str) -> CoordinatorRecord {
        let mut value = FieldWriter::new(GROUP_METADATA_VERSION, false);
        value.string(self.protocol_type);
        value.i32(self.generation);
        value.nullable_string(self.protocol);
        value.nullable_string(self.leader);
        value.i64(self.current_state_timestamp);
        value.count(self.members.len());
        for member in &self.members {
            value.string(member.member_id);
            value.nullable_string(member.group_instance_id);
            value.string(member.client_id);
            value.string(member.client_host);
            value.i32(member.rebalance_timeout_ms);
            value.i32(member.session_timeout_ms);
            value.bytes(member.subscription);
            value.bytes(member.assignment);
        }
        CoordinatorRecord {
            key: group_key(group_id),
            value: Some(value.finish()),
        }
    }
}

impl<'a> MemberMetadata<'a> {
    fn read(reader: &mut FieldReader<'a>, version: i16) -> Result<Self, Unreadable> {
        let member = Self {
            member_id: reader.string("memberId")?,
            group_instance_id: if version >= 3 {
                reader.nullable_string("groupInstanceId")?
            } else {
                None
            },
            client_id: reader.string("clientId")?,
            client_host: reader.string("clientHost")?,
            rebalance_timeout_ms: if version >= 1 {
                reader.i32("rebalanceTimeout")?
            } else {
                -1
            },
            session_timeout_ms: reader.i32("sessionTimeout")?,
            subscription: reader.bytes("subscription")?,
            assignment: reader.bytes("assignment")?,
        };
        reader.skip_tags()?;
        Ok(member)
    }
}
