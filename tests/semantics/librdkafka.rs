//! The whole way with librdkafka: what it produced it reads back, in order and equal.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::wire::{name, shared};

fn create(topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", shared())
        .create()
        .expect("a client");
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let results = runtime
        .block_on(admin.create_topics([&new], &AdminOptions::new()))
        .expect("answered");
    results.into_iter().for_each(|result| {
        result.expect("created");
    });
}

fn value(partition: i32, index: i32) -> String {
    format!(
        "value {partition} {index} {}",
        "x".repeat(index as usize % 300)
    )
}

fn round_trip(settings: &[(&str, &str)]) {
    const PARTITIONS: i32 = 6;
    const RECORDS: i32 = 500;
    let topic = name("librdkafka");
    create(&topic, PARTITIONS);
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", shared())
        .set("linger.ms", "2");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a client");
    for index in 0..RECORDS {
        for partition in 0..PARTITIONS {
            let (key, value) = (index.to_string(), value(partition, index));
            let headers = OwnedHeaders::new().insert(Header {
                key: "h",
                value: Some(&key),
            });
            let record = BaseRecord::to(&topic)
                .partition(partition)
                .key(&key)
                .payload(&value)
                .headers(headers);
            producer
                .send(record)
                .map_err(|(error, _)| error)
                .expect("queued");
        }
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", shared())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a client");
    let mut assigned = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assigned
            .add_partition_offset(&topic, partition, Offset::Beginning)
            .expect("valid");
    }
    consumer.assign(&assigned).expect("assigned");
    let mut next = [0; PARTITIONS as usize];
    let deadline = Instant::now() + Duration::from_secs(30);
    while next.iter().any(|&n| n < RECORDS) {
        assert!(Instant::now() < deadline, "read {next:?}");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let message = message.expect("a record");
        let partition = message.partition();
        let index = &mut next[partition as usize];
        assert_eq!(message.offset(), i64::from(*index));
        assert_eq!(message.payload(), Some(value(partition, *index).as_bytes()));
        let key = index.to_string();
        assert_eq!(message.key(), Some(key.as_bytes()));
        let header = message.headers().expect("headers").get(0);
        assert_eq!((header.key, header.value), ("h", Some(key.as_bytes())));
        *index += 1;
    }
    let timeout = Duration::from_secs(10);
    let (low, high) = consumer.fetch_watermarks(&topic, 0, timeout).expect("told");
    assert_eq!((low, high), (0, i64::from(RECORDS)));
}

#[test]
fn with_acks_of_all() {
    round_trip(&[("acks", "all")]);
}

#[test]
fn with_acks_of_the_leader_and_of_nobody() {
    round_trip(&[("acks", "1")]);
    round_trip(&[("acks", "0")]);
}

#[test]
fn idempotent() {
    round_trip(&[("enable.idempotence", "true")]);
}

#[test]
fn compressed() {
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        round_trip(&[("compression.type", codec)]);
    }
}
