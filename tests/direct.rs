//! Topics whose log files go past the page cache, on a real node: old and new records, through stops and kills,
//! with clients that do not know; file systems that refuse; memory.

mod broker;
#[path = "broker/direct_io.rs"]
mod direct_io;
mod hostile;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{FetchResponse, IncrementalAlterConfigsRequest};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind};
use direct_io::{is_direct_here, log_pages};
use hostile::{FetchLimits, Node, PATIENCE, answer, fetch, request, text};

const TOPIC: &str = "direct";
const PARTITIONS: i32 = 3;
const MIB: usize = 1 << 20;

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

fn create_topic(broker: &Broker, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(broker).create().unwrap();
    let mut topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let created = runtime
        .block_on(admin.create_topics([&topic], &AdminOptions::new()))
        .unwrap();
    created.into_iter().for_each(|one| drop(one.unwrap()));
}

/// The bytes of record `offset` of a partition, from which its length follows: mostly small.
fn value(partition: i32, offset: i64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((partition as u64) << 40 | offset as u64);
    let len = match random.u8(..) {
        0..3 => random.usize(100_000..900_000),
        3..20 => random.usize(4_000..40_000),
        _ => random.usize(0..2_000),
    };
    let mut value = vec![0; len];
    random.fill(&mut value);
    value
}

fn producer(broker: &Broker) -> ThreadedProducer<DefaultProducerContext> {
    client(broker)
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .create()
        .unwrap()
}

/// Sends records `from` to `to` of each partition, and waits for their acknowledgement.
fn send(broker: &Broker, from: i64, to: i64) {
    let producer = producer(broker);
    for offset in from..to {
        for partition in 0..PARTITIONS {
            let value = value(partition, offset);
            let key = offset.to_be_bytes();
            loop {
                let record = BaseRecord::to(TOPIC)
                    .partition(partition)
                    .key(&key[..])
                    .payload(&value[..]);
                match producer.send(record) {
                    Ok(()) => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Reads every partition from `from` until it has come to `to`, and checks each record.
fn read(broker: &Broker, from: i64, to: i64, settings: &[(&str, &str)]) {
    let mut config = client(broker);
    config
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment
            .add_partition_offset(TOPIC, partition, Offset::Offset(from))
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut next = [from; PARTITIONS as usize];
    let mut deadline = Instant::now() + PATIENCE;
    while next.iter().any(|next| *next < to) {
        assert!(Instant::now() < deadline, "only up to {next:?} of {to}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let message = message.unwrap();
        let (partition, offset) = (message.partition(), message.offset());
        assert_eq!(offset, next[partition as usize]);
        assert!(message.payload().unwrap_or_default() == value(partition, offset));
        next[partition as usize] += 1;
        deadline = Instant::now() + PATIENCE;
    }
}

/// Pages of the topic's log files, and how many of those are in the page cache.
fn resident(broker: &Broker) -> (usize, usize) {
    let mut all = (0, 0);
    for partition in 0..PARTITIONS {
        let of = log_pages(&broker.log_dir().join(format!("{TOPIC}-{partition}")));
        all = (all.0 + of.0, all.1 + of.1);
    }
    all
}

#[test]
fn old_and_new_records_are_read_through_stops_and_kills_and_leave_the_page_cache_alone() {
    let folder = tempfile::tempdir().unwrap();
    if !is_direct_here(folder.path()) {
        return;
    }
    let settings = [("ringspun.log.io", "direct"), ("ringspun.shards", "2")];
    let mut broker = Broker::start(Kind::Ringspun, folder.path(), &settings).unwrap();
    create_topic(&broker, &[("segment.bytes", "4194304")]);
    let whole = &[("fetch.message.max.bytes", "8388608")];
    std::thread::scope(|scope| {
        // One reads the tail, while it is written.
        scope.spawn(|| read(&broker, 0, 600, &[]));
        send(&broker, 0, 600);
    });
    let (blocks, cached) = resident(&broker);
    // More than a segment of each partition.
    assert!(blocks > PARTITIONS as usize * 1024, "{blocks}");
    assert!(cached * 20 < blocks, "{cached} of {blocks} are cached");
    read(&broker, 0, 600, whole);
    assert!(broker.stop().unwrap().success());
    broker.start_again().unwrap();
    read(&broker, 0, 600, &[]);
    send(&broker, 600, 800);
    broker.kill();
    broker.start_again().unwrap();
    read(&broker, 0, 800, whole);
    send(&broker, 800, 900);
    read(&broker, 500, 900, &[("fetch.message.max.bytes", "20000")]);
    let (blocks, cached) = resident(&broker);
    assert!(cached * 20 < blocks, "{cached} of {blocks} are cached");
    assert!(broker.stop().unwrap().success());
    // A node that goes through the page cache reads them as well.
    let broker = Broker::start(Kind::Ringspun, folder.path(), &[]).unwrap();
    read(&broker, 0, 900, &[]);
}

#[test]
fn a_topic_changes_its_way_while_it_is_written() {
    let node = Node::start(&[("ringspun.shards", "1")]);
    if !is_direct_here(&node.broker.log_dir()) {
        return;
    }
    create_topic(&node.broker, &[("segment.bytes", "1048576")]);
    send(&node.broker, 0, 100);
    let (blocks, cached) = resident(&node.broker);
    assert!(cached * 2 > blocks, "{cached} of {blocks} are cached");
    let setting = AlterableConfig::default()
        .with_name(text("ringspun.log.io"))
        .with_config_operation(0)
        .with_value(Some(text("direct")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(TOPIC))
        .with_configs(vec![setting]);
    let body = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let mut peer = node.connect();
    peer.send(&request(1, 7, &body));
    peer.receive().unwrap().unwrap();
    send(&node.broker, 100, 700);
    let (more, still) = resident(&node.broker);
    assert!(
        still < cached + (more - blocks) / 2,
        "{still} of {more} are cached"
    );
    read(&node.broker, 0, 700, &[]);
}

/// A file system that knows no O_DIRECT; unmounted when dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(at: &Path) -> Result<Mount, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ramfs", "none"]).arg(at);
        let done = mount.output().map_err(|e| e.to_string())?;
        match done.status.success() {
            true => Ok(Mount(at.into())),
            false => Err(String::from_utf8_lossy(&done.stderr).trim().to_string()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn where_o_direct_is_refused_so_is_the_start_and_a_topic_goes_through_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    // The data directory of the node.
    let refusing = match Mount::new(&folder.path().join("data")) {
        Ok(mount) => mount,
        Err(reason) => return println!("skipped: no file system can be mounted: {reason}"),
    };
    if ringspun::storage::probe_direct(&refusing.0).is_ok() {
        return println!("skipped: the kernel's ramfs takes O_DIRECT");
    }
    let reserve = ("ringspun.log.min.free.bytes", "0");
    let direct = [("ringspun.log.io", "direct"), reserve];
    let Err(refusal) = Broker::start(Kind::Ringspun, folder.path(), &direct) else {
        panic!("it starts");
    };
    assert!(
        refusal.contains("ringspun.log.io: it is direct"),
        "{refusal}"
    );
    assert!(refusal.contains("page-cache"), "{refusal}");
    let broker = Broker::start(Kind::Ringspun, folder.path(), &[reserve]).unwrap();
    create_topic(&broker, &[("ringspun.log.io", "direct")]);
    send(&broker, 0, 50);
    read(&broker, 0, 50, &[]);
    let words = broker.last_words();
    assert!(words.contains("refuses O_DIRECT"), "{words}");
}

#[test]
fn readers_that_do_not_read_hold_a_bounded_part_of_the_memory() {
    let node = Node::start(&[
        ("ringspun.log.io", "auto"),
        ("ringspun.shards", "1"),
        ("ringspun.memory.bytes", "268435456"),
        ("socket.request.max.bytes", "10485760"),
    ]);
    if !is_direct_here(&node.broker.log_dir()) {
        return;
    }
    create_topic(&node.broker, &[("ringspun.log.io", "direct")]);
    let producer: ThreadedProducer<DefaultProducerContext> = client(&node.broker)
        .set("batch.size", "16384")
        .create()
        .unwrap();
    let payload = vec![7; 4000];
    for _ in 0..4_000 {
        let record = BaseRecord::<[u8], [u8]>::to(TOPIC)
            .partition(0)
            .payload(&payload);
        producer.send(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let limits = || FetchLimits {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
    };
    let mut slow: Vec<_> = (0..300).map(|_| node.connect()).collect();
    let before = node.rss();
    for peer in &mut slow {
        for id in 0..3 {
            peer.send(&fetch(12, TOPIC, 0, limits(), id));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let held = node.rss().saturating_sub(before) as usize;
    // A sixteenth of the pool is lent, an eighth kept; each answer may be a batch beyond that. A mebibyte each
    // would be 900.
    assert!(held < 128 * MIB, "{} MiB are held", held / MIB);
    // They get on once they read.
    for peer in &mut slow {
        let frame = peer.receive().unwrap().unwrap();
        let response: FetchResponse = answer(frame, 1, 12);
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        assert!(
            partition
                .records
                .as_ref()
                .is_some_and(|records| records.len() > 4000)
        );
    }
}
