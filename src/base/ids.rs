//! Numbers and names that must not be mixed, each a type of its own.

use std::fmt;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Default,
            serde::Serialize,
            serde::Deserialize,
        )]
        pub struct $name(pub $inner);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// The position of a record in its partition, counted from 0. Not a position in a file.
    Offset(i64)
);
number!(
    /// The term of a partition's leader, stamped into every batch it appends (KIP-101). -1 is none.
    LeaderEpoch(i32)
);
number!(
    /// `node.id` of a broker.
    BrokerId(i32)
);
number!(
    /// The number of a partition within its topic, from 0.
    PartitionIndex(i32)
);
number!(
    /// Identity of an idempotent or transactional producer (KIP-98). -1 is none.
    ProducerId(i64)
);
number!(
    /// The term of a producer id; the lower one is fenced (KIP-98). -1 is none.
    ProducerEpoch(i16)
);
number!(
    /// Milliseconds since the Unix epoch, as in a record's timestamp. -1 is none.
    Timestamp(i64)
);
number!(
    /// The number of a shard of this node, from 0.
    ShardId(u16)
);

impl Offset {
    /// "No offset", as the wire says it.
    pub const NONE: Offset = Offset(-1);

    /// The offset `records` further on. Saturates, so that a hostile count cannot wrap.
    #[must_use]
    pub fn plus(self, records: i64) -> Offset {
        Offset(self.0.saturating_add(records))
    }
}

impl LeaderEpoch {
    /// "No epoch", as the wire says it.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

impl Timestamp {
    /// "No timestamp", as the wire says it.
    pub const NONE: Timestamp = Timestamp(-1);
}

impl ProducerId {
    /// A batch without a producer id.
    pub const NONE: ProducerId = ProducerId(-1);
}

impl ProducerEpoch {
    /// A batch without a producer epoch.
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl ShardId {
    /// As an index into per-shard arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A topic's identity: new for each creation, so that a topic created again under the same name is
/// told from the one that was deleted (KIP-516). Zero is "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub u128);

impl TopicId {
    /// "No topic id", as the wire says it.
    pub const ZERO: TopicId = TopicId(0);

    /// The 16 bytes as on the wire, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the 16 bytes of the wire.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Reads the 22 characters of URL-safe base64 without padding in which Kafka writes ids.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 22 {
            return None;
        }
        let mut value: u128 = 0;
        for (i, c) in text.bytes().enumerate() {
            let digit = BASE64_URL.iter().position(|&b| b == c)? as u128;
            if i < 21 {
                value = (value << 6) | digit;
            } else {
                // 22 digits carry 132 bits; the last four are padding and are zero.
                if digit & 0xf != 0 {
                    return None;
                }
                value = (value << 2) | (digit >> 4);
            }
        }
        Some(Self(value))
    }
}

const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    /// URL-safe base64 without padding, as Kafka prints ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(22);
        for i in 0..21 {
            let shift = 128 - 6 * (i + 1);
            text.push(char::from(BASE64_URL[((self.0 >> shift) & 0x3f) as usize]));
        }
        text.push(char::from(BASE64_URL[((self.0 & 0x3) << 4) as usize]));
        f.write_str(&text)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The identity of a cluster: 16 bytes in Kafka's base64, kept as text because Kafka treats it so.
pub type ClusterId = Arc<str>;

/// A partition by topic id: the key under which a shard finds what it owns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
}

impl TopicPartition {
    pub fn new(topic_id: TopicId, partition: PartitionIndex) -> Self {
        Self {
            topic_id,
            partition,
        }
    }

    /// The shard that owns this partition on a node of `shards` shards.
    ///
    /// Consecutive partitions of a topic fall on consecutive shards, from a start that depends on the
    /// topic, so that many small topics spread as well. Needs no table; a node started with another
    /// shard count simply computes another answer.
    ///
    /// Panics if `shards` is 0.
    pub fn shard(self, shards: u16) -> ShardId {
        assert!(shards > 0);
        // Ids are random except for their version bits: fold and mix, so that any of them will do.
        let folded = (self.topic_id.0 >> 64) as u64 ^ self.topic_id.0 as u64;
        let start = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = start + u64::from(self.partition.0.unsigned_abs());
        ShardId((place % u64::from(shards)) as u16)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_id_text_is_kafkas_base64() {
        // Printed by Kafka's own StorageTool random-uuid; the bytes by its Uuid class.
        let id = TopicId::parse("AAAAAAAAAAAAAAAAAAAAAQ").unwrap();
        assert_eq!(id, TopicId(1));
        assert_eq!(id.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let max = TopicId(u128::MAX);
        assert_eq!(max.to_string(), "_____________________w");
        assert_eq!(TopicId::parse(&max.to_string()), Some(max));
        assert_eq!(TopicId::parse("_____________________x"), None);
        assert_eq!(TopicId::parse("short"), None);
    }

    #[test]
    fn consecutive_partitions_fall_on_consecutive_shards() {
        for topic in 1..50u128 {
            let id = TopicId(topic << 70 | topic);
            for shards in 1..9u16 {
                let first = TopicPartition::new(id, PartitionIndex(0)).shard(shards);
                for p in 0..40 {
                    let shard = TopicPartition::new(id, PartitionIndex(p)).shard(shards);
                    assert_eq!(shard.0, (first.0 + p as u16) % shards);
                }
            }
        }
    }
}
