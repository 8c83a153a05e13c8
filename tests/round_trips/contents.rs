//! What is sent to a broker, and all that it then serves.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::broker::Broker;

pub(super) const WAIT: Duration = Duration::from_secs(30);
pub(super) const TIME: i64 = 1_700_000_000_000;
pub(super) const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
pub(super) const GROUP: &str = "readers";
pub(super) const OPEN_ID: &str = "left-open";

/// Topic, partitions, settings.
pub(super) const TOPICS: [(&str, i32, &[(&str, &str)]); 5] = [
    // A partition for each codec.
    (
        "codecs",
        5,
        &[("segment.bytes", "1048576"), ("retention.ms", "-1")],
    ),
    ("transactions", 2, &[("segment.bytes", "1048576")]),
    (
        "compacted",
        2,
        &[
            ("cleanup.policy", "compact"),
            ("segment.bytes", "1048576"),
            ("min.cleanable.dirty.ratio", "0.01"),
        ],
    ),
    ("trimmed", 1, &[("retention.ms", "-1")]),
    ("empty", 3, &[("max.message.bytes", "2000000")]),
];

pub(super) const SETTINGS: [(&str, &str); 6] = [
    ("log.flush.start.offset.checkpoint.interval.ms", "1000"),
    ("offsets.topic.num.partitions", "3"),
    ("transaction.state.log.num.partitions", "3"),
    ("log.cleaner.backoff.ms", "100"),
    ("ringspun.cores", "1"),
    ("ringspun.memory.bytes", "300000000"),
];

pub(super) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A record, as a consumer is given it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) offset: i64,
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// All that a broker serves of [`TOPICS`]: by topic, partition and whether only what is committed.
pub(super) type Contents = BTreeMap<(&'static str, i32, bool), (i64, i64, Vec<Record>)>;

pub(super) fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

pub(super) fn admin(broker: &Broker) -> Result<AdminClient<DefaultClientContext>> {
    Ok(client(broker).create()?)
}

/// Makes the topics, with more settings for some.
pub(super) fn create_topics(broker: &Broker, more: &[(&str, &str, &str)]) -> Result<()> {
    let admin = admin(broker)?;
    for (name, partitions, settings) in TOPICS {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            let other = more.iter().find(|(of, k, _)| of == &name && k == key);
            topic = topic.set(key, other.map_or(value, |(_, _, value)| value));
        }
        for result in block_on(admin.create_topics([&topic], &AdminOptions::new()))? {
            result.map_err(|(name, error)| format!("{name}: {error}"))?;
        }
    }
    for (name, partitions, _) in TOPICS {
        for partition in 0..partitions {
            watermarks(broker, name, partition)?;
        }
    }
    Ok(())
}

/// First and last offset, once the partition is served.
pub(super) fn watermarks(broker: &Broker, topic: &str, partition: i32) -> Result<(i64, i64)> {
    let consumer: BaseConsumer = client(broker).create()?;
    let deadline = Instant::now() + WAIT;
    let mut before = None;
    loop {
        match consumer.fetch_watermarks(topic, partition, Duration::from_secs(5)) {
            // Asked while Kafka loads the partition, librdkafka may take the answer to one of its two questions
            // for that to both.
            Ok(found) if before == Some(found) => return Ok(found),
            Ok(found) => before = Some(found),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

pub(super) fn value(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let length = random.usize(0..most);
    (0..length).map(|_| random.u8(..)).collect()
}

pub(super) fn producer(
    broker: &Broker,
    settings: &[(&str, &str)],
) -> Result<BaseProducer<DefaultProducerContext>> {
    let mut config = client(broker);
    config.set("queue.buffering.max.messages", "200000");
    config.set("enable.idempotence", "true");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    Ok(config.create()?)
}

pub(super) fn send_codecs(broker: &Broker) -> Result<()> {
    for (partition, codec) in (0..).zip(CODECS) {
        let producer = producer(broker, &[("compression.type", codec)])?;
        let mut random = fastrand::Rng::with_seed(partition as u64);
        for n in 0..2_500i64 {
            let (key, value) = (n.to_be_bytes(), value(&mut random, 1_500));
            let mut headers = OwnedHeaders::new();
            for key in ["a", "a", "empty", "null"].iter().take(random.usize(0..5)) {
                let value = (*key != "null").then_some(if *key == "a" { codec } else { "" });
                headers = headers.insert(Header { key, value });
            }
            let mut record = BaseRecord::<[u8], [u8]>::to("codecs")
                .partition(partition)
                .timestamp(TIME + (n * 7919) % 100_000)
                .headers(headers);
            if n % 3 > 0 {
                record = record.key(&key);
            }
            if n % 5 > 0 {
                record = record.payload(&value);
            }
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(WAIT)?;
    }
    Ok(())
}

/// Transactions that end either way, and one that does not end.
pub(super) fn send_transactions(broker: &Broker) -> Result<()> {
    let settings = [
        ("transactional.id", "ends"),
        ("compression.type", "lz4"),
        ("transaction.timeout.ms", "600000"),
    ];
    let send = |producer: &BaseProducer<_>, name: &str| -> Result<()> {
        for n in 0..200 {
            let (key, value) = (format!("{name}-{n}"), "x".repeat(n * 7 % 900));
            let record = BaseRecord::to("transactions").partition(n as i32 % 2);
            let record = record.key(key.as_bytes()).payload(value.as_bytes());
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(WAIT)?)
    };
    let ends = producer(broker, &settings)?;
    ends.init_transactions(WAIT)?;
    for n in 0..15 {
        ends.begin_transaction()?;
        send(&ends, &format!("txn-{n}"))?;
        match n % 3 {
            1 => ends.abort_transaction(WAIT)?,
            _ => ends.commit_transaction(WAIT)?,
        }
    }
    let open = producer(
        broker,
        &[
            ("transactional.id", OPEN_ID),
            ("transaction.timeout.ms", "600000"),
        ],
    )?;
    open.init_transactions(WAIT)?;
    open.begin_transaction()?;
    send(&open, "open")?;
    // Committed, and behind the open one.
    ends.begin_transaction()?;
    send(&ends, "behind")?;
    ends.commit_transaction(WAIT)?;
    // Its end would wait for the broker to be there.
    std::mem::forget(open);
    Ok(())
}

pub(super) fn send_compacted(broker: &Broker) -> Result<()> {
    let producer = producer(broker, &[("compression.type", "zstd")])?;
    let mut random = fastrand::Rng::with_seed(9);
    for n in 0..20_000 {
        let (key, value) = (
            format!("key-{}", random.u32(0..500)),
            value(&mut random, 600),
        );
        let mut record = BaseRecord::<[u8], [u8]>::to("compacted")
            .partition(n % 2)
            .key(key.as_bytes());
        if n % 11 > 0 {
            record = record.payload(&value);
        }
        while let Err((error, again)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(rdkafka::types::RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(WAIT)?;
    let deadline = Instant::now() + WAIT;
    let (mut count, mut since) = (usize::MAX, Instant::now());
    loop {
        let now: usize = (0..2)
            .map(|p| read(broker, "compacted", p, false).map(|records| records.len()))
            .sum::<Result<usize>>()?;
        if now != count {
            (count, since) = (now, Instant::now());
        }
        // Until nothing more is cleaned.
        if count < 16_000 && since.elapsed() > Duration::from_secs(2) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{count} records are left of 20,000").into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub(super) fn send_trimmed(broker: &Broker) -> Result<()> {
    let producer = producer(broker, &[])?;
    for n in 0..500 {
        let record = BaseRecord::<str, str>::to("trimmed").partition(0);
        let value = n.to_string();
        producer
            .send(record.payload(&value))
            .map_err(|(error, _)| error)?;
        if n % 100 == 99 {
            producer.flush(WAIT)?;
        }
    }
    let mut to = TopicPartitionList::new();
    to.add_partition_offset("trimmed", 0, Offset::Offset(123))?;
    let deleted = block_on(admin(broker)?.delete_records(&to, &AdminOptions::new()))?;
    for element in deleted.elements() {
        element.error()?;
    }
    // What is deleted stays so after a kill once it is in the checkpoint, as in Kafka.
    let checkpoint = broker.log_dir().join("log-start-offset-checkpoint");
    let deadline = Instant::now() + WAIT;
    while !fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("trimmed 0 123")) {
        if Instant::now() > deadline {
            return Err("the log start offset is in no checkpoint".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

pub(super) fn places() -> TopicPartitionList {
    let mut places = TopicPartitionList::new();
    for (topic, partitions, _) in TOPICS {
        for partition in 0..partitions {
            let offset = i64::from(partition) * 10 + topic.len() as i64;
            let offset = Offset::Offset(offset);
            let added = places.add_partition_offset(topic, partition, offset);
            added.expect("an offset");
        }
    }
    places
}

pub(super) fn commit(broker: &Broker) -> Result<()> {
    let consumer: BaseConsumer = client(broker).set("group.id", GROUP).create()?;
    Ok(consumer.commit(&places(), CommitMode::Sync)?)
}

/// The committed offsets are those that were.
pub(super) fn check_committed(broker: &Broker) -> Result<()> {
    let consumer: BaseConsumer = client(broker).set("group.id", GROUP).create()?;
    let found = consumer.committed_offsets(places(), WAIT)?;
    let offsets = |list: &TopicPartitionList| -> Vec<(String, i32, Offset)> {
        let elements = list.elements();
        let of = elements.iter();
        of.map(|e| (e.topic().to_owned(), e.partition(), e.offset()))
            .collect()
    };
    match offsets(&found) == offsets(&places()) {
        true => Ok(()),
        false => Err(format!("committed offsets: {found:?}").into()),
    }
}

/// Everything that the tests send.
pub(super) fn fill(broker: &Broker) -> Result<()> {
    send_codecs(broker)?;
    send_transactions(broker)?;
    send_trimmed(broker)?;
    commit(broker)?;
    send_compacted(broker)
}

pub(super) fn read(
    broker: &Broker,
    topic: &str,
    partition: i32,
    committed: bool,
) -> Result<Vec<Record>> {
    let isolation = if committed {
        "read_committed"
    } else {
        "read_uncommitted"
    };
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "nobody")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        // Where it ends is told by a fetch that finds nothing.
        .set("fetch.wait.max.ms", "5")
        .set("isolation.level", isolation)
        .create()?;
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Beginning)?;
    consumer.assign(&place)?;
    let mut records = Vec::new();
    loop {
        let message = match consumer.poll(WAIT) {
            None => {
                return Err(format!("{topic}-{partition}: nothing after {}", records.len()).into());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(records),
            Some(message) => message?,
        };
        let headers = message.headers().map_or(Vec::new(), |headers| {
            let headers = headers.iter();
            headers
                .map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec)))
                .collect()
        });
        records.push(Record {
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        });
    }
}

pub(super) fn contents(broker: &Broker) -> Result<Contents> {
    let mut contents = Contents::new();
    for (topic, partitions, _) in TOPICS {
        for partition in 0..partitions {
            let (low, high) = watermarks(broker, topic, partition)?;
            for committed in [false, true] {
                let records = read(broker, topic, partition, committed)?;
                contents.insert((topic, partition, committed), (low, high, records));
            }
        }
    }
    Ok(contents)
}

/// That what was read here is what was read there, or the first difference.
pub(super) fn same(before: &Contents, after: &Contents) -> Result<()> {
    for (place, (low, high, records)) in before {
        let (now_low, now_high, now) = &after[place];
        if (low, high) != (now_low, now_high) {
            return Err(format!("{place:?}: {low}..{high} is now {now_low}..{now_high}").into());
        }
        if let Some((was, is)) = records.iter().zip(now).find(|(was, is)| was != is) {
            return Err(format!("{place:?}: {was:?} is now {is:?}").into());
        }
        if records.len() != now.len() {
            return Err(format!("{place:?}: {} records, now {}", records.len(), now.len()).into());
        }
    }
    Ok(())
}

/// What was sent is there at all, and is hidden where it is to be.
pub(super) fn check_sense(contents: &Contents) {
    let count = |topic, partition, committed| contents[&(topic, partition, committed)].2.len();
    for partition in 0..5 {
        assert_eq!(count("codecs", partition, true), 2_500);
    }
    for partition in 0..2 {
        // 15 transactions that ended, an open one, and one behind it that is not visible yet.
        assert_eq!(count("transactions", partition, false), 17 * 100);
        assert_eq!(count("transactions", partition, true), 10 * 100);
    }
    assert_eq!(count("trimmed", 0, false), 500 - 123);
    assert_eq!(count("empty", 2, false), 0);
}
