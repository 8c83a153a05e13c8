//! The hash by which a group notices that topics it is subscribed to have changed (KIP-1101).
//!
//! A topic's is the XXH3 of a 0 byte, the id's halves, the name, the number of partitions, and for each
//! partition its number and the racks of its replicas, sorted, each behind its length. Numbers are
//! little-endian; a string is its UTF-16 units, then their number. A group's is the XXH3 of the hashes
//! of its topics in the order of their names, and 0 without topics.

use std::collections::BTreeMap;

use twox_hash::XxHash3_64;

use super::member::Text;
use crate::base::TopicId;
use crate::metadata::{Image, TopicImage};

/// Hashes of topics that do not change while the image does not change them. One per machine.
#[derive(Default)]
pub struct TopicHashes {
    known: BTreeMap<Text, (TopicId, u64)>,
}

impl TopicHashes {
    /// The topic has changed, or is gone.
    pub fn forget(&mut self, topic: &str) {
        self.known.remove(topic);
    }

    /// All of them: racks have changed.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    fn of(&mut self, name: &Text, image: &Image) -> Option<u64> {
        let topic = image.topic_by_name(name)?;
        if let Some((id, hash)) = self.known.get(name)
            && *id == topic.id
        {
            return Some(*hash);
        }
        let hash = topic_hash(topic, image);
        self.known.insert(name.clone(), (topic.id, hash));
        Some(hash)
    }

    /// The hash of a group that is subscribed to `topics`, which are in order. Those that do not exist
    /// do not count.
    pub fn of_group<'a>(&mut self, topics: impl Iterator<Item = &'a Text>, image: &Image) -> i64 {
        let mut bytes = Vec::new();
        for topic in topics {
            if let Some(hash) = self.of(topic, image) {
                bytes.extend_from_slice(&hash.to_le_bytes());
            }
        }
        match bytes.is_empty() {
            true => 0,
            false => XxHash3_64::oneshot(&bytes) as i64,
        }
    }
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    let mut units = 0i32;
    for unit in text.encode_utf16() {
        bytes.extend_from_slice(&unit.to_le_bytes());
        units += 1;
    }
    bytes.extend_from_slice(&units.to_le_bytes());
}

fn topic_hash(topic: &TopicImage, image: &Image) -> u64 {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&((topic.id.0 >> 64) as u64).to_le_bytes());
    bytes.extend_from_slice(&(topic.id.0 as u64).to_le_bytes());
    put_string(&mut bytes, &topic.name);
    bytes.extend_from_slice(&(topic.partitions.len() as i32).to_le_bytes());
    for (number, partition) in topic.partitions.iter().enumerate() {
        bytes.extend_from_slice(&(number as i32).to_le_bytes());
        let racks = partition.replicas.iter();
        let mut racks: Vec<&str> = racks
            .filter_map(|replica| image.broker(*replica)?.rack.as_deref())
            .collect();
        racks.sort_unstable();
        for rack in racks {
            let units = rack.encode_utf16().count() as i32;
            bytes.extend_from_slice(&units.to_le_bytes());
            put_string(&mut bytes, rack);
        }
    }
    XxHash3_64::oneshot(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BrokerId, LeaderEpoch, PartitionIndex};
    use crate::metadata::{BrokerRegistration, MetadataRecord, PartitionRegistration};

    #[test]
    fn hashes_are_kafkas() {
        let topic_id = TopicId(0x0102030405060708090a0b0c0d0e0f10);
        let mut records = vec![
            MetadataRecord::RegisterBroker(BrokerRegistration {
                broker_id: BrokerId(1),
                broker_epoch: 0,
                listeners: BTreeMap::new(),
                rack: Some("r1".into()),
                directories: Vec::new(),
                fenced: false,
            }),
            MetadataRecord::Topic {
                name: "orders".into(),
                topic_id,
            },
        ];
        records.extend((0..2).map(|partition| {
            MetadataRecord::Partition(PartitionRegistration {
                topic_id,
                partition: PartitionIndex(partition),
                replicas: vec![BrokerId(1)],
                isr: vec![BrokerId(1)],
                leader: Some(BrokerId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                directories: Vec::new(),
            })
        }));
        let (image, _) = Image::default().apply(0, &records).unwrap();
        let mut hashes = TopicHashes::default();
        let (orders, gone) = (Text::from("orders"), Text::from("gone"));
        // From the same calls of Kafka's library in a JVM.
        assert_eq!(
            hashes.of(&orders, &image),
            Some(-6_251_191_244_509_003_453i64 as u64)
        );
        let group = hashes.of_group([&gone, &orders].into_iter(), &image);
        assert_eq!(group, -5_739_012_734_661_348_395);
        assert_eq!(hashes.of_group([&gone].into_iter(), &image), 0);
    }
}
