//! Rules of images and deltas.

use super::*;
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId, TopicPartition};

fn topic(id: u128, name: &str) -> MetadataRecord {
    MetadataRecord::Topic {
        name: name.to_owned(),
        topic_id: TopicId(id),
    }
}

fn partition(id: u128, index: i32) -> MetadataRecord {
    MetadataRecord::Partition(PartitionRegistration {
        topic_id: TopicId(id),
        partition: PartitionIndex(index),
        replicas: vec![BrokerId(1), BrokerId(2)],
        isr: vec![BrokerId(1)],
        leader: Some(BrokerId(1)),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        directories: Vec::new(),
    })
}

fn change(id: u128, index: i32, isr: &[i32], leader: Option<LeaderChange>) -> MetadataRecord {
    MetadataRecord::PartitionChange(PartitionChange {
        topic_id: TopicId(id),
        partition: PartitionIndex(index),
        replicas: None,
        isr: Some(isr.iter().map(|&id| BrokerId(id)).collect()),
        leader,
        directories: None,
    })
}

fn config(name: &str, key: &str, value: Option<&str>) -> MetadataRecord {
    MetadataRecord::Config {
        resource: ConfigResource::Topic(name.to_owned()),
        key: key.to_owned(),
        value: value.map(str::to_owned),
    }
}

fn remove(id: u128) -> MetadataRecord {
    MetadataRecord::RemoveTopic {
        topic_id: TopicId(id),
    }
}

fn with_topic() -> Image {
    let records = [
        topic(5, "t"),
        partition(5, 0),
        partition(5, 1),
        config("t", "k", Some("v")),
    ];
    Image::default().apply(0, &records).unwrap().0
}

#[test]
fn the_delta_says_what_differs_and_the_old_image_stays() {
    let old = with_topic();
    let (new, delta) = old
        .apply(
            1,
            &[
                topic(6, "u"),
                partition(6, 0),
                config("u", "k", Some("w")),
                partition(5, 2),
                change(5, 0, &[1, 2], None),
                change(5, 0, &[2], Some(LeaderChange::Broker(BrokerId(2)))),
                config("t", "k", None),
            ],
        )
        .unwrap();
    let at = |id, p| TopicPartition::new(TopicId(id), PartitionIndex(p));
    assert_eq!((delta.from_version, delta.version), (0, 1));
    assert_eq!(delta.topics_created.len(), 1);
    assert_eq!(delta.topics_created[0].partitions.len(), 1);
    assert_eq!(delta.partitions_added, [at(5, 2)]);
    assert_eq!(delta.partitions_changed, [at(5, 0)]);
    // A topic that is new is not one whose configs changed.
    let changed: Vec<_> = delta.configs_changed.iter().collect();
    assert_eq!(changed, [&ConfigResource::Topic("t".to_owned())]);
    let changed = new.partition(at(5, 0)).unwrap();
    assert_eq!(
        (changed.leader_epoch, changed.partition_epoch),
        (LeaderEpoch(1), 2)
    );
    assert_eq!(changed.leader, Some(BrokerId(2)));
    assert_eq!(old, with_topic());
    assert_eq!(new.replica_count(BrokerId(2)), 4);
    assert_eq!(new.topic_configs("u")["k"], "w");
}

#[test]
fn a_topic_deleted_and_made_again_in_one_batch_is_both() {
    let old = with_topic();
    let records = [remove(5), topic(7, "t"), partition(7, 0)];
    let (new, delta) = old.apply(1, &records).unwrap();
    assert_eq!(delta.topics_deleted[0].id, TopicId(5));
    assert_eq!(delta.topics_created[0].id, TopicId(7));
    assert!(delta.configs_changed.is_empty());
    assert!(new.topic_configs("t").is_empty());
    assert!(new.topic(TopicId(5)).is_none());
    assert_eq!((new.topic_count(), new.partition_count()), (1, 1));
    // And one that comes and goes within a batch was never there.
    let (_, delta) = old
        .apply(1, &[topic(8, "x"), partition(8, 0), remove(8)])
        .unwrap();
    assert!(delta.topics_created.is_empty() && delta.topics_deleted.is_empty());
}

#[test]
fn a_record_that_contradicts_the_image_changes_nothing() {
    let image = with_topic();
    let wrong: &[&[MetadataRecord]] = &[
        &[topic(6, "t")],
        &[topic(5, "other")],
        &[partition(9, 0)],
        &[partition(5, 3)],
        &[partition(5, 0)],
        &[partition(5, -1)],
        &[change(5, 2, &[1], None)],
        &[change(5, -1, &[1], None)],
        &[change(9, 0, &[1], None)],
        &[change(5, 0, &[3], None)],
        &[change(5, 0, &[1], Some(LeaderChange::Broker(BrokerId(3))))],
        &[remove(9)],
        &[config("none", "k", Some("v"))],
        &[topic(6, "u"), remove(6), remove(6)],
        &[MetadataRecord::UnregisterBroker {
            broker_id: BrokerId(1),
        }],
        &[MetadataRecord::ProducerIds {
            next_producer_id: ProducerId(-1),
        }],
    ];
    for records in wrong {
        assert!(image.apply(1, records).is_err(), "{records:?}");
    }
    assert!(image.apply(-1, &[]).is_err());
    assert_eq!(image, with_topic());
}

#[test]
fn topics_are_in_the_order_of_their_names() {
    let mut records = Vec::new();
    for (id, name) in ["b", "a", "c.x", "c", "c_y"].iter().enumerate() {
        records.push(topic(id as u128 + 1, name));
    }
    let (image, _) = Image::default().apply(0, &records).unwrap();
    let names: Vec<&str> = image.topics().map(|t| &*t.name).collect();
    assert_eq!(names, ["a", "b", "c", "c.x", "c_y"]);
    let from: Vec<&str> = image.topics_from("bb").map(|t| &*t.name).collect();
    assert_eq!(from, ["c", "c.x", "c_y"]);
    let colliding: Vec<_> = image.colliding_topics("c_x").collect();
    assert_eq!(colliding, [&std::sync::Arc::from("c.x")]);
    assert_eq!(image.colliding_topics("c.x").count(), 0);
}

/// Figures, printed: `cargo test --release --lib metadata::image_tests::figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    let mut records = Vec::new();
    for id in 1..=10_000u128 {
        // Ids are random in real life.
        let id = id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        records.push(topic(id, &format!("some-topic-{}", id % 1_000_003)));
        records.push(partition(id, 0));
    }
    let time = |what: &str, work: &mut dyn FnMut()| {
        let mut times: Vec<f64> = (0..51)
            .map(|_| {
                let at = std::time::Instant::now();
                work();
                at.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{what}: median {:.1} us, max {:.1} us",
            times[25], times[50]
        );
    };
    let (image, _) = Image::default().apply(0, &records).unwrap();
    time("10,000 topics from nothing", &mut || {
        Image::default().apply(0, &records).unwrap();
    });
    let one = [
        topic(42, "one"),
        partition(42, 0),
        config("one", "k", Some("v")),
    ];
    time("one topic more", &mut || {
        image.apply(1, &one).unwrap();
    });
    let bytes = encode_records(&image.to_records());
    println!("snapshot of 10,000 topics: {} KB", bytes.len() >> 10);
    time("decode it", &mut || {
        decode_records(&bytes).unwrap();
    });
    time("encode it", &mut || {
        encode_records(&image.to_records());
    });
}
