//! ringspun starts on the data directory of a single Apache Kafka broker that was stopped cleanly, serves
//! what is in it under the same identity, and goes on writing where Kafka left off; and Kafka takes it back.

mod broker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind, dump, packages};

const TOPIC: &str = "taken-over";
/// A partition for each codec.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// More than a segment's worth in each partition.
const RECORDS: i64 = 2_500;
/// The files of a segment that has no place yet.
const PREPARED: [&str; 3] = [
    "next.log.deleted",
    "next.index.deleted",
    "next.timeindex.deleted",
];
const TIME: i64 = 1_700_000_000_000;

#[test]
fn a_data_directory_of_apache_kafka_is_served_and_written_on() {
    take_over_with(&[]);
}

/// Kafka's segments end anywhere in a block, and are gone on with from there.
#[test]
fn and_past_the_page_cache() {
    take_over_with(&[("ringspun.log.io", "direct")]);
}

fn take_over_with(settings: &[(&str, &str)]) {
    match packages::jars() {
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => println!("skipped: {reason}"),
        Ok(_) => take_over(settings).unwrap_or_else(|problem| panic!("{problem}")),
    }
}

fn take_over(settings: &[(&str, &str)]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut kafka = Broker::start(Kind::Kafka, folder.path(), &[])?;
    create_topic(&kafka).map_err(|error| error.to_string())?;
    send(&kafka, 0..RECORDS).map_err(|error| format!("to Kafka: {error}"))?;
    let identity = cluster_id(&kafka)?;
    read(&kafka, RECORDS)?;
    kafka.stop()?;

    let mut ours = Broker::start(Kind::from_environment(), folder.path(), settings)?;
    let served = cluster_id(&ours)?;
    if served != identity {
        return Err(format!("the cluster was {identity} and is now {served}"));
    }
    read(&ours, RECORDS)?;
    send(&ours, RECORDS..2 * RECORDS).map_err(|error| format!("after the change: {error}"))?;
    read(&ours, 2 * RECORDS)?;
    ours.stop()?;
    dump::run(&ours.log_dir(), TOPIC)?;

    // And back. A segment that was prepared and left behind by a crash means nothing to Kafka.
    let folders = (0..CODECS.len()).map(|n| ours.log_dir().join(format!("{TOPIC}-{n}")));
    let left: Vec<PathBuf> = folders
        .flat_map(|folder| PREPARED.map(|name| folder.join(name)))
        .collect();
    for path in &left {
        std::fs::write(path, b"").map_err(|error| error.to_string())?;
    }
    let kafka = Broker::start(Kind::Kafka, folder.path(), &[])?;
    read(&kafka, 2 * RECORDS)?;
    match left.iter().find(|path| path.exists()) {
        Some(path) => Err(format!("Kafka has left {}", path.display())),
        None => Ok(()),
    }
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

fn create_topic(broker: &Broker) -> Result<(), Box<dyn std::error::Error>> {
    let admin: AdminClient<DefaultClientContext> = client(broker).create()?;
    let topic = NewTopic::new(TOPIC, CODECS.len() as i32, TopicReplication::Fixed(1))
        .set("segment.bytes", "1048576")
        .set("retention.ms", "-1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for result in runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))? {
        result.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    // Kafka answers before the topic can be written to.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn value(partition: i32, offset: i64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((partition as u64) << 32 | offset as u64);
    let length = random.usize(0..1_500);
    (0..length).map(|_| random.u8(..)).collect()
}

fn send(broker: &Broker, offsets: std::ops::Range<i64>) -> Result<(), KafkaError> {
    for (partition, codec) in (0..).zip(CODECS) {
        let producer: BaseProducer<DefaultProducerContext> = client(broker)
            .set("enable.idempotence", "true")
            .set("compression.type", codec)
            .set("queue.buffering.max.messages", "100000")
            .create()?;
        for offset in offsets.clone() {
            let (key, value) = (offset.to_be_bytes(), value(partition, offset));
            let header = Header {
                key: "codec",
                value: Some(codec),
            };
            let record = BaseRecord::<[u8], [u8]>::to(TOPIC)
                .partition(partition)
                .timestamp(TIME + offset)
                .headers(OwnedHeaders::new().insert(header))
                .key(&key)
                .payload(&value);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(30))?;
    }
    Ok(())
}

fn cluster_id(broker: &Broker) -> Result<String, String> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .create()
        .map_err(|error| error.to_string())?;
    consumer
        .client()
        .fetch_cluster_id(Duration::from_secs(20))
        .ok_or_else(|| "no cluster id".to_string())
}

/// Every partition has exactly the offsets from 0 to `end`, and in them what was sent.
fn read(broker: &Broker, end: i64) -> Result<(), String> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .create()
        .map_err(|error| error.to_string())?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..CODECS.len() as i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        let (low, high) = loop {
            match consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(20)) {
                // Kafka listens before its partitions are loaded; while they are, librdkafka may take the
                // answer to one of its two questions for that to both.
                Err(_) if broker.kind() == Kind::Kafka && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(found) if found == (0, end) || Instant::now() > deadline => break found,
                Ok(_) => std::thread::sleep(Duration::from_millis(100)),
                Err(error) => return Err(error.to_string()),
            }
        };
        if (low, high) != (0, end) {
            return Err(format!(
                "partition {partition} has {low} to {high}, not 0 to {end}"
            ));
        }
        assignment
            .add_partition_offset(TOPIC, partition, Offset::Offset(0))
            .map_err(|error| error.to_string())?;
    }
    consumer
        .assign(&assignment)
        .map_err(|error| error.to_string())?;
    let mut next = [0; CODECS.len()];
    while next.iter().any(|next| *next < end) {
        let message = consumer
            .poll(Duration::from_secs(20))
            .ok_or_else(|| format!("nothing comes after {next:?}"))?
            .map_err(|error| error.to_string())?;
        let (partition, offset) = (message.partition(), message.offset());
        let next = &mut next[partition as usize];
        let codec = message
            .headers()
            .map(|headers| headers.get(0).value.map(<[u8]>::to_vec));
        let same = offset == *next
            && message.key() == Some(&offset.to_be_bytes()[..])
            && message.payload() == Some(&value(partition, offset)[..])
            && message.timestamp().to_millis() == Some(TIME + offset)
            && codec.flatten().as_deref() == Some(CODECS[partition as usize].as_bytes());
        if !same {
            return Err(format!(
                "partition {partition}: offset {next} is not what was sent: {message:?}"
            ));
        }
        *next += 1;
    }
    Ok(())
}
