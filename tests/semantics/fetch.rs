//! Fetch: waiting, limits, offsets, epochs, topic ids.

use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::FetchTopic;
use kafka_protocol::messages::{BrokerId, DeleteTopicsRequest, FetchRequest};
use uuid::Uuid;

use crate::wire::*;

#[test]
fn offsets_outside_the_log_are_out_of_range_and_its_ends_are_told() {
    let mut wire = Wire::shared();
    let topic = name("range");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(3));
    for offset in [-1, 4, i64::MAX] {
        let data = wire.fetch(&topic, 0, offset);
        assert_eq!(data.error_code, code::OFFSET_OUT_OF_RANGE, "{offset}");
        // Kafka tells -1 for all of them with this error.
        assert_eq!(data.records.map_or(0, |r| r.len()), 0);
    }
    let data = wire.fetch(&topic, 0, 3);
    assert_eq!(
        (data.error_code, data.high_watermark, data.log_start_offset),
        (0, 3, 0)
    );
    assert_eq!(data.last_stable_offset, 3);
}

#[test]
fn an_offset_inside_a_batch_gets_the_whole_batch() {
    let mut wire = Wire::shared();
    let topic = name("inside");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(10));
    wire.append(&topic, 0, batch(10));
    assert_eq!(bases(&wire.fetch(&topic, 0, 7)), [0, 10]);
    assert_eq!(bases(&wire.fetch(&topic, 0, 10)), [10]);
    assert_eq!(bases(&wire.fetch(&topic, 0, 19)), [10]);
}

#[test]
fn the_first_batch_goes_out_whole_however_large() {
    let mut wire = Wire::shared();
    let topic = name("first");
    wire.create(&topic, 2, &[]);
    for partition in [0, 1] {
        wire.append(&topic, partition, batch_of_bytes(10_000));
        wire.append(&topic, partition, batch_of_bytes(10_000));
    }
    let asked = |max: i32| {
        let partitions = [0, 1].map(|p| fetch_partition(p, 0).with_partition_max_bytes(max));
        vec![fetch_topic(&topic, partitions.to_vec())]
    };
    // By the limit of a partition, and by that of the response.
    for (partition_max, max) in [(1, 1 << 20), (1 << 20, 1), (1, 1)] {
        let request = fetch_request(0, 1, asked(partition_max)).with_max_bytes(max);
        let response = wire.ask(12, &request);
        let partitions = &response.responses[0].partitions;
        let mut whole = 0;
        for data in partitions {
            let records = data.records.clone().unwrap_or_default();
            match batches(&records).as_slice() {
                [] => assert!(records.is_empty() || records.len() < 10_000),
                [(0, 0, len)] => {
                    if records.len() >= *len {
                        whole += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(whole, 1, "{partition_max} {max}");
    }
    let request = fetch_request(0, 1, asked(1 << 20)).with_max_bytes(25_000);
    let response = wire.ask(12, &request);
    let bytes: usize = response.responses[0]
        .partitions
        .iter()
        .map(|data| data.records.as_ref().map_or(0, |r| r.len()))
        .sum();
    assert!((20_000..=25_000).contains(&bytes), "{bytes}");
}

/// Sends a fetch that waits, appends to a partition from another connection, and returns how many
/// records came and how long it took.
fn wait_for(partitions: i32, min_bytes: i32, appends: &[i32]) -> (usize, Duration) {
    let mut wire = Wire::shared();
    let topic = name("wait");
    wire.create(&topic, partitions, &[]);
    let asked = (0..partitions).map(|p| fetch_partition(p, 0)).collect();
    let started = Instant::now();
    wire.send(
        12,
        &fetch_request(10_000, min_bytes, vec![fetch_topic(&topic, asked)]),
    );
    let mut other = Wire::shared();
    for &partition in appends {
        other.append(&topic, partition, batch_of_bytes(1000));
    }
    let response = wire.receive::<FetchRequest>(12);
    let found = response.responses.iter().flat_map(|t| &t.partitions);
    let count = found.map(|data| bases(data).len()).sum();
    (count, started.elapsed())
}

#[test]
fn a_fetch_waits_for_min_bytes_of_one_partition() {
    let (found, took) = wait_for(1, 1, &[0]);
    assert_eq!(found, 1);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (found, took) = wait_for(1, 2500, &[0, 0, 0]);
    assert_eq!(found, 3);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_fetch_waits_for_min_bytes_of_partitions_on_several_shards() {
    for appends in [vec![2], vec![5], vec![0]] {
        let (found, took) = wait_for(8, 1, &appends);
        assert_eq!(found, 1);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    for appends in [vec![0, 1, 2, 3], vec![3, 3, 3, 3], vec![0, 4, 1, 1]] {
        let (found, took) = wait_for(8, 3500, &appends);
        assert_eq!(found, 4);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_fetch_that_finds_too_little_answers_after_max_wait() {
    let mut wire = Wire::shared();
    let topic = name("max-wait");
    wire.create(&topic, 8, &[]);
    wire.append(&topic, 3, batch(1));
    for partitions in [1, 8] {
        let asked = (0..partitions).map(|p| fetch_partition(p, 0)).collect();
        let started = Instant::now();
        let request = fetch_request(300, 100_000, vec![fetch_topic(&topic, asked)]);
        let response = wire.ask(12, &request);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(290), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let found = response.responses[0].partitions.iter();
        let count: usize = found.map(|data| bases(data).len()).sum();
        assert_eq!(count, usize::from(partitions == 8));
    }
}

#[test]
fn an_offset_out_of_range_does_not_wait_and_an_unknown_partition_waits_with_the_others() {
    let mut wire = Wire::shared();
    let topic = name("no-wait");
    wire.create(&topic, 4, &[]);
    // A consumer of a topic that is gone would ask again at once, without end, if it were not held.
    for (wrong, waits) in [
        (fetch_partition(1, 99), false),
        (fetch_partition(44, 0), true),
    ] {
        let asked = vec![fetch_partition(0, 0), wrong, fetch_partition(2, 0)];
        let started = Instant::now();
        let request = fetch_request(1000, 1, vec![fetch_topic(&topic, asked)]);
        let response = wire.ask(12, &request);
        assert_eq!(started.elapsed() > Duration::from_millis(900), waits);
        let errors = response.responses[0].partitions.iter();
        assert_eq!(errors.filter(|p| p.error_code != 0).count(), 1);
        assert_eq!(response.responses[0].partitions.len(), 3);
    }
}

#[test]
fn deleting_a_topic_ends_the_fetches_that_wait() {
    let mut wire = Wire::shared();
    let topic = name("deleted");
    wire.create(&topic, 4, &[]);
    let started = Instant::now();
    let asked = (0..4).map(|p| fetch_partition(p, 0)).collect();
    wire.send(
        12,
        &fetch_request(8_000, 1, vec![fetch_topic(&topic, asked)]),
    );
    let request = DeleteTopicsRequest::default()
        .with_timeout_ms(10_000)
        .with_topic_names(vec![topic_name(&topic)]);
    let mut other = Wire::shared();
    assert_eq!(other.ask(5, &request).responses[0].error_code, 0);
    let response = wire.receive::<FetchRequest>(12);
    assert!(started.elapsed() < Duration::from_secs(7));
    let errors = response.responses.iter().flat_map(|t| &t.partitions);
    assert!(
        errors
            .clone()
            .any(|p| p.error_code == code::UNKNOWN_TOPIC_OR_PARTITION)
    );
}

#[test]
fn unknown_topics_names_and_ids() {
    let mut wire = Wire::shared();
    let topic = name("unknown");
    let id = wire.create(&topic, 1, &[]);
    let data = wire.fetch("no-such-topic", 0, 0);
    assert_eq!(data.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(data.high_watermark, -1);
    let by_id = |id: Uuid, partition: i32| {
        let topic = FetchTopic::default()
            .with_topic_id(id)
            .with_partitions(vec![fetch_partition(partition, 0)]);
        fetch_request(0, 1, vec![topic])
    };
    for version in 13..=17 {
        assert_eq!(only(wire.ask(version, &by_id(id, 0))).error_code, 0);
        let data = only(wire.ask(version, &by_id(Uuid::new_v4(), 0)));
        assert_eq!(data.error_code, code::UNKNOWN_TOPIC_ID);
        let data = only(wire.ask(version, &by_id(id, 5)));
        assert_eq!(data.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
    }
}

#[test]
fn leader_epochs_are_checked() {
    let mut wire = Wire::shared();
    let topic = name("epochs");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(2));
    let mut ask = |epoch: i32, last: i32| {
        let asked = fetch_partition(0, 2)
            .with_current_leader_epoch(epoch)
            .with_last_fetched_epoch(last);
        only(wire.ask(
            12,
            &fetch_request(0, 1, vec![fetch_topic(&topic, vec![asked])]),
        ))
    };
    assert_eq!(ask(0, -1).error_code, 0);
    assert_eq!(ask(0, 0).error_code, 0);
    assert_eq!(ask(1, -1).error_code, code::UNKNOWN_LEADER_EPOCH);
    assert_eq!(ask(0, 0).diverging_epoch.epoch, -1);
}

#[test]
fn a_follower_that_nobody_knows_gets_nothing() {
    let mut wire = Wire::shared();
    let topic = name("replica");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(1));
    let request = fetch_request(0, 1, vec![fetch_topic(&topic, vec![fetch_partition(0, 0)])])
        .with_replica_id(BrokerId(5));
    let response = wire.ask(12, &request);
    let refused = response.error_code != 0 || response.responses[0].partitions[0].error_code != 0;
    assert!(refused);
}

#[test]
fn read_committed_answers_an_empty_list_of_aborted_transactions() {
    let mut wire = Wire::shared();
    let topic = name("committed");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(2));
    let request = fetch_request(0, 1, vec![fetch_topic(&topic, vec![fetch_partition(0, 0)])]);
    let data = only(wire.ask(12, &request.clone().with_isolation_level(1)));
    assert_eq!(data.aborted_transactions.as_ref().map(Vec::len), Some(0));
    assert_eq!((data.last_stable_offset, bases(&data).len()), (2, 1));
    let data = only(wire.ask(12, &request));
    assert_eq!(data.aborted_transactions.as_ref().map_or(0, Vec::len), 0);
}

#[test]
fn every_version_reads_the_same_bytes() {
    let mut wire = Wire::shared();
    let topic = name("versions");
    wire.create(&topic, 1, &[]);
    wire.append(&topic, 0, batch(5));
    wire.append(&topic, 0, batch_of_bytes(300_000));
    let expected = wire.fetch(&topic, 0, 0).records.expect("records");
    assert_eq!(batches(&expected).len(), 2);
    for version in 4..=12 {
        let asked = vec![fetch_partition(0, 0)];
        let data = only(wire.ask(
            version,
            &fetch_request(0, 1, vec![fetch_topic(&topic, asked)]),
        ));
        assert_eq!(data.records, Some(expected.clone()), "{version}");
    }
}

#[test]
fn reads_across_segments_are_whole() {
    let mut wire = Wire::shared();
    let topic = name("rolled");
    wire.create(&topic, 1, &[("segment.bytes", "1048576")]);
    for _ in 0..50 {
        wire.append(&topic, 0, batch_of_bytes(100_000));
    }
    let mut offset = 0;
    while offset < 50 {
        let data = wire.fetch(&topic, 0, offset);
        assert_eq!(data.error_code, 0);
        let records = data.records.expect("records");
        let found = batches(&records);
        assert!(!found.is_empty());
        for (base, last, _) in found.iter().filter(|b| b.2 <= records.len()) {
            assert_eq!(*base, offset);
            offset = last + 1;
            if offset >= found.last().expect("one").0 {
                break;
            }
        }
    }
}
