//! A data directory without metadata of ours is another broker's, and is taken over: identity, topics,
//! records. Here it is one of ours whose metadata was taken away; tests/takeover.rs has Apache Kafka's.

mod broker;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use broker::{Broker, Kind};

/// Whatever may be deleted is deleted at once.
const GREEDY: [(&str, &str); 5] = [
    ("ringspun.cores", "1"),
    ("ringspun.memory.bytes", "300000000"),
    ("log.retention.ms", "1000"),
    ("log.retention.check.interval.ms", "50"),
    ("log.initial.task.delay.ms", "0"),
];

const TOPICS: [&str; 2] = ["__consumer_offsets", "orders"];

/// What Kafka leaves beside partitions.
const LEFT_ALONE: [&str; 4] = [
    "__cluster_metadata-0",
    "orders-7.9b2cf2f0a3a14d2d8c1f1be5e1c1f5aa-delete",
    "orders-8.9b2cf2f0a3a14d2d8c1f1be5e1c1f5ab-stray",
    "orders-9.9b2cf2f0a3a14d2d8c1f1be5e1c1f5ac-future",
];

fn config(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    config(broker).create().unwrap()
}

fn end(broker: &Broker, topic: &str, partition: i32) -> (i64, i64) {
    let consumer: BaseConsumer = config(broker).create().unwrap();
    consumer
        .fetch_watermarks(topic, partition, Duration::from_secs(20))
        .unwrap()
}

/// Ten records in a partition of each topic, of long ago, from a new idempotent producer.
fn send(broker: &Broker) {
    let producer: BaseProducer<DefaultProducerContext> = config(broker)
        .set("enable.idempotence", "true")
        // Only a client of this name may write to an internal topic.
        .set("client.id", "__admin_client")
        .create()
        .unwrap();
    for topic in TOPICS {
        for _ in 0..10 {
            // In a coordinator's topic one that it can read: the offset of group g in t-0 is deleted.
            let key: &[u8] = match topic {
                "__consumer_offsets" => b"\x00\x01\x00\x01g\x00\x01t\x00\x00\x00\x00",
                _ => b"key",
            };
            let mut record: BaseRecord<'_, [u8], str> = BaseRecord::to(topic)
                .partition(1)
                .timestamp(1_000_000_000_000)
                .key(key);
            if topic == "orders" {
                record = record.payload("value");
            }
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
    }
    producer.flush(Duration::from_secs(20)).unwrap();
}

fn setting(broker: &Broker, topic: &str, name: &str) -> Option<String> {
    let wanted = [ResourceSpecifier::Topic(topic)];
    let described = block_on(admin(broker).describe_configs(&wanted, &AdminOptions::new()));
    let resource = described.unwrap().remove(0).unwrap();
    resource.get(name)?.value.clone()
}

fn identity(broker: &Broker) -> String {
    fs::read_to_string(broker.log_dir().join("meta.properties")).unwrap()
}

fn take_metadata_away(dir: &Path) {
    fs::remove_file(dir.join("ringspun-metadata.redb")).unwrap();
}

#[test]
fn topics_of_another_broker_are_taken_over_whole_and_kept_whole() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(Kind::Ringspun, at.path(), &[("node.id", "6")]).unwrap();
    for topic in TOPICS {
        let new = NewTopic::new(topic, 3, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        block_on(admin(&broker).create_topics([&new], &AdminOptions::new()))
            .unwrap()
            .remove(0)
            .unwrap();
    }
    send(&broker);
    let before = identity(&broker);
    for unclean in [false, true] {
        match unclean {
            true => broker.kill(),
            false => assert!(broker.stop().unwrap().success()),
        }
        take_metadata_away(&broker.log_dir());
        if !unclean {
            for name in LEFT_ALONE {
                fs::create_dir(broker.log_dir().join(name)).unwrap();
                fs::write(broker.log_dir().join(name).join("file"), name).unwrap();
            }
            // Its leader was elected a few times.
            let epochs = broker.log_dir().join("orders-1/leader-epoch-checkpoint");
            fs::write(epochs, "0\n1\n4 0\n").unwrap();
            // The node id comes from the directory from now on.
            broker = restart(broker, at.path());
        } else {
            broker.start_again().unwrap();
        }
        assert_eq!(identity(&broker), before);
        let line = broker.last_words();
        assert!(
            line.contains("2 topics of another broker were taken over"),
            "{line}"
        );
        let records = if unclean { 20 } else { 10 };
        for topic in TOPICS {
            // Long past the broker's own retention, which has looked several times by now.
            std::thread::sleep(Duration::from_millis(600));
            assert_eq!(end(&broker, topic, 1), (0, records), "{topic}");
            assert_eq!(end(&broker, topic, 2), (0, 0), "{topic}");
            assert_eq!(
                setting(&broker, topic, "retention.ms").as_deref(),
                Some("-1")
            );
            assert_eq!(
                setting(&broker, topic, "retention.bytes").as_deref(),
                Some("-1")
            );
        }
        for name in LEFT_ALONE {
            let file = broker.log_dir().join(name).join("file");
            assert_eq!(fs::read_to_string(file).unwrap(), name);
        }
        // Producers that the logs remember are not taken for new ones, nor new ones for them.
        send(&broker);
        for topic in TOPICS {
            assert_eq!(end(&broker, topic, 1), (0, records + 10), "{topic}");
        }
    }
    assert!(broker.stop().unwrap().success());
    let epochs = broker.log_dir().join("orders-1/leader-epoch-checkpoint");
    // Led in epochs of its own, after those of the broker before: 5, and 6 after the second time. (The
    // recovery in between found that the first batches were in fact of epoch 0.)
    let epochs = fs::read_to_string(epochs).unwrap();
    assert!(epochs.ends_with("0 0\n5 10\n6 20\n"), "{epochs}");
}

fn restart(before: Broker, at: &Path) -> Broker {
    drop(before);
    Broker::start(Kind::Ringspun, at, &GREEDY).unwrap()
}
