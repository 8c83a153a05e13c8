//! Several disks, full disks, disks that fail: what is refused, what goes on, and what comes back by itself.

mod broker;
#[path = "broker/direct_io.rs"]
mod direct_io;
#[path = "disks/directories.rs"]
mod directories;
mod hostile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DeleteTopicsRequest,
    DescribeLogDirsRequest, DescribeLogDirsResponse, FetchResponse, IncrementalAlterConfigsRequest,
    ProduceResponse, delete_topics_request,
};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::packages;
use direct_io::{is_direct_here, log_pages};
use hostile::{
    FetchLimits, Node, PATIENCE, Peer, answer, batch, fetch, produce, request, text, topic,
};

const MIB: usize = 1 << 20;
const STORAGE_ERROR: i16 = 56;

/// A file system of its own in memory; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, size: &str) -> Result<Mount, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at);
        let done = mount.output().map_err(|e| e.to_string())?;
        match done.status.success() {
            true => Ok(Mount(at.into())),
            false => Err(String::from_utf8_lossy(&done.stderr).trim().to_string()),
        }
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The code and the message that a batch is answered with.
fn send(peer: &mut Peer, name: &str, partition: i32, batch: Bytes) -> (i16, String) {
    peer.send(&produce(name, partition, -1, batch, 1));
    let frame = peer.receive().unwrap().unwrap();
    let response: ProduceResponse = answer(frame, 1, 9);
    let partition = &response.responses[0].partition_responses[0];
    let message = partition.error_message.as_ref();
    (
        partition.error_code,
        message.map_or(String::new(), |m| m.to_string()),
    )
}

/// Bytes of records that can be read from the start, at most a few MiB.
fn read(peer: &mut Peer, name: &str, partition: i32) -> usize {
    let limits = FetchLimits {
        max_wait_ms: 0,
        min_bytes: 0,
        max_bytes: 4 << 20,
    };
    peer.send(&fetch(12, name, partition, limits, 2));
    let frame = peer.receive().unwrap().unwrap();
    let response: FetchResponse = answer(frame, 1, 12);
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    partition.records.as_ref().map_or(0, Bytes::len)
}

fn describe(peer: &mut Peer) -> DescribeLogDirsResponse {
    let all = DescribeLogDirsRequest::default().with_topics(None);
    peer.send(&request(4, 3, &all));
    answer(peer.receive().unwrap().unwrap(), 1, 4)
}

fn delete_topic(peer: &mut Peer, name: &str) {
    let state = delete_topics_request::DeleteTopicState::default().with_name(Some(topic(name)));
    let body = DeleteTopicsRequest::default()
        .with_topics(vec![state])
        .with_timeout_ms(30_000);
    peer.send(&request(6, 4, &body));
    peer.receive().unwrap().unwrap();
}

/// Sends until the answer is `wanted`.
fn send_until(peer: &mut Peer, name: &str, partition: i32, wanted: i16) {
    let patience = Instant::now() + PATIENCE;
    while send(peer, name, partition, batch(1, 1000)).0 != wanted {
        assert!(
            Instant::now() < patience,
            "{name}-{partition} never answers {wanted}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn before_a_disk_is_full_records_are_refused_and_taken_again_when_there_is_room() {
    let at = tempfile::tempdir().unwrap();
    let small = match Mount::new(&at.path().join("small"), "64m") {
        Ok(mount) => mount,
        // Not even root may everywhere; the next test shows the rule without.
        Err(reason) => return println!("skipped: no file system can be mounted: {reason}"),
    };
    let reserve = 16 * MIB as u64;
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &small.0.display().to_string()),
        ("ringspun.log.min.free.bytes", &reserve.to_string()),
        ("log.segment.bytes", "2097152"),
        ("log.retention.ms", "-1"),
        ("log.segment.delete.delay.ms", "0"),
    ]);
    let mut peer = node.connect();
    node.create_topic("kept", 1);
    node.create_topic("filled", 4);
    assert_eq!(send(&mut peer, "kept", 0, batch(1, 1000)).0, 0);
    let kept = read(&mut peer, "kept", 0);
    let mut sent = 0;
    let (refused, why) = (0..)
        .map(|i| send(&mut peer, "filled", i % 4, batch(1, MIB / 2)))
        .inspect(|(code, _)| sent += usize::from(*code == 0))
        .find(|(code, _)| *code != 0)
        .unwrap();
    assert_eq!(refused, STORAGE_ERROR);
    assert!(why.contains("ringspun.log.min.free.bytes"), "{why}");
    assert!(sent > 40, "{sent} half MiB of 48 MiB");
    // Between two looks at the disk a shard may take what its share was.
    assert!(
        small.free_bytes() > reserve / 2,
        "{} are free",
        small.free_bytes()
    );
    // All is read, nothing is offline, and it is counted and said.
    assert_eq!(read(&mut peer, "kept", 0), kept);
    assert!(node.metric("ringspun_disk_full_refusals_total") > 0.0);
    assert_eq!(node.metric("ringspun_offline_partitions"), 0.0);
    node.await_that("it is said", |node| {
        node.log().contains("records of clients are refused")
    });
    // A deletion makes room.
    delete_topic(&mut peer, "filled");
    send_until(&mut peer, "kept", 0, 0);
    node.stop();
}

#[test]
fn the_reserve_is_changed_while_the_broker_runs() {
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("ringspun.log.min.free.bytes", "9223372036854775807"),
    ]);
    let mut peer = node.connect();
    node.create_topic("t", 2);
    for partition in 0..2 {
        send_until(&mut peer, "t", partition, STORAGE_ERROR);
    }
    let (_, why) = send(&mut peer, "t", 0, batch(1, 1000));
    assert!(why.contains("ringspun.log.min.free.bytes"), "{why}");
    assert!(node.metric("ringspun_disk_full_refusals_total") > 0.0);
    let off = AlterableConfig::default()
        .with_name(text("ringspun.log.min.free.bytes"))
        .with_value(Some(text("0")));
    let of_all_brokers = AlterConfigsResource::default()
        .with_resource_type(4)
        .with_configs(vec![off]);
    let body = IncrementalAlterConfigsRequest::default().with_resources(vec![of_all_brokers]);
    peer.send(&request(1, 7, &body));
    peer.receive().unwrap().unwrap();
    for partition in 0..2 {
        send_until(&mut peer, "t", partition, 0);
    }
    node.stop();
}

#[test]
fn a_disk_that_fails_takes_its_partitions_offline_and_no_others() {
    let at = tempfile::tempdir().unwrap();
    let [good, bad, gone] = ["good", "bad", "gone"].map(|name| at.path().join(name));
    let dirs = format!("{},{}", good.display(), bad.display());
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &dirs),
        ("log.segment.bytes", "1048576"),
        ("log.retention.ms", "-1"),
    ]);
    let mut peer = node.connect();
    node.create_topic("t", 4);
    let is_in = |dir: &Path, partition: i32| dir.join(format!("t-{partition}")).exists();
    let (there, here): (Vec<i32>, Vec<i32>) = (0..4).partition(|p| is_in(&bad, *p));
    assert_eq!((there.len(), here.len()), (2, 2), "spread over log.dirs");
    for partition in 0..4 {
        assert_eq!(send(&mut peer, "t", partition, batch(1, 1000)).0, 0);
    }
    // Files that are open are written still; what is made anew cannot be.
    fs::rename(&bad, &gone).unwrap();
    fs::write(&bad, "in the way").unwrap();
    let refused = (0..20).map(|_| send(&mut peer, "t", there[0], batch(1, MIB / 2)).0);
    assert_eq!(
        refused.into_iter().find(|code| *code != 0),
        Some(STORAGE_ERROR)
    );
    // The other one there had nothing to do with it, and goes with its disk.
    node.await_that("the disk is given up", |node| {
        node.log().contains("its partitions are offline")
    });
    send_until(&mut peer, "t", there[1], STORAGE_ERROR);
    for &partition in &here {
        assert_eq!(send(&mut peer, "t", partition, batch(1, MIB / 2)).0, 0);
        assert!(read(&mut peer, "t", partition) > MIB / 2);
    }
    let described = describe(&mut peer);
    let [of_good, of_bad] = &described.results[..] else {
        panic!("{described:?}");
    };
    assert_eq!((of_good.error_code, of_bad.error_code), (0, STORAGE_ERROR));
    assert!(of_good.total_bytes > of_good.usable_bytes && of_good.usable_bytes > 0);
    assert_eq!(of_good.topics[0].partitions.len(), 2);
    assert!(of_bad.topics.is_empty());
    // What is new lies where it can be written.
    node.create_topic("later", 4);
    for partition in 0..4 {
        assert_eq!(send(&mut peer, "later", partition, batch(1, 1000)).0, 0);
    }
    node.stop();
    assert!(good.join(".kafka_cleanshutdown").exists());
    assert!(!gone.join(".kafka_cleanshutdown").exists());
}

/// Asks for a move; the code of the answer.
fn alter(peer: &mut Peer, name: &str, partition: i32, to: &Path) -> i16 {
    let moved = AlterReplicaLogDirTopic::default()
        .with_name(topic(name))
        .with_partitions(vec![partition]);
    let dir = AlterReplicaLogDir::default()
        .with_path(text(&to.display().to_string()))
        .with_topics(vec![moved]);
    let body = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
    peer.send(&request(2, 5, &body));
    let frame = peer.receive().unwrap().unwrap();
    let response: AlterReplicaLogDirsResponse = answer(frame, 1, 2);
    response.results[0].partitions[0].error_code
}

/// In which directories a partition lies, and whether as one on its way.
fn places(peer: &mut Peer, name: &str, partition: i32) -> Vec<(PathBuf, bool)> {
    let mut places = Vec::new();
    for dir in describe(peer).results {
        let topics = dir.topics.iter().filter(|topic| topic.name.0 == *name);
        let partitions = topics.flat_map(|topic| &topic.partitions);
        for found in partitions.filter(|found| found.partition_index == partition) {
            places.push((PathBuf::from(&*dir.log_dir), found.is_future_key));
        }
    }
    places
}

fn await_place(peer: &mut Peer, name: &str, partition: i32, dir: &Path) {
    let patience = Instant::now() + PATIENCE;
    while places(peer, name, partition) != [(dir.to_path_buf(), false)] {
        assert!(
            Instant::now() < patience,
            "{name}-{partition} never comes to {dir:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Two directories that exist, as the broker names them.
fn two_dirs(at: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|name| {
        let dir = at.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir.canonicalize().unwrap()
    })
}

fn join([a, b]: &[PathBuf; 2]) -> String {
    format!("{},{}", a.display(), b.display())
}

/// An idempotent producer of librdkafka.
fn producer(node: &Node) -> ThreadedProducer<DefaultProducerContext> {
    ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("retry.backoff.ms", "10")
        .create()
        .unwrap()
}

/// Reads offsets from 0 to `count`: each value is its own number.
fn assert_numbers(bootstrap: &str, name: &str, count: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, Offset::Offset(0))
        .unwrap();
    consumer.assign(&list).unwrap();
    for number in 0..count {
        let message = consumer.poll(PATIENCE).expect("a record").unwrap();
        let value: [u8; 8] = message.payload().unwrap()[..8].try_into().unwrap();
        assert_eq!(
            (message.offset(), u64::from_be_bytes(value)),
            (number as i64, number)
        );
    }
}

fn send_numbers(
    producer: &ThreadedProducer<DefaultProducerContext>,
    name: &str,
    numbers: std::ops::Range<u64>,
) {
    for number in numbers {
        let mut value = number.to_be_bytes().to_vec();
        value.resize(1000, number as u8);
        loop {
            let record = BaseRecord::<(), [u8]>::to(name)
                .partition(0)
                .payload(&value);
            match producer.send(record) {
                Ok(()) => break,
                // Its queue is full.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// A topic of one partition with settings of its own.
fn create_topic(node: &Node, name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .create()
        .unwrap();
    let mut topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
    created.unwrap().remove(0).unwrap();
}

/// Moves a topic with these settings to and fro while one producer writes and one consumer reads it.
fn move_while_written_and_read(name: &str, settings: &[(&str, &str)]) {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &join(&dirs)),
        ("log.segment.bytes", "1048576"),
        ("log.segment.delete.delay.ms", "0"),
    ]);
    create_topic(&node, name, settings);
    let mut peer = node.connect();
    let count = 30_000;
    let producer = producer(&node);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_numbers(&producer, name, 0..count));
        let bootstrap = node.broker.bootstrap();
        let reader = scope.spawn(move || assert_numbers(&bootstrap, name, count));
        let mut moves = 0;
        while moves < 4 || !reader.is_finished() && moves < 40 {
            let (from, _) = places(&mut peer, name, 0).remove(0);
            let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
            assert_eq!(alter(&mut peer, name, 0, to), 0);
            await_place(&mut peer, name, 0, to);
            moves += 1;
        }
        sender.join().unwrap();
        reader.join().unwrap();
    });
    producer.flush(PATIENCE).unwrap();
    assert_numbers(&node.broker.bootstrap(), name, count);
    // Nothing is left of the old ones.
    let (at_last, _) = places(&mut peer, name, 0).remove(0);
    let folder = format!("{name}-0");
    node.await_that("the old folders are gone", |_| {
        dirs.iter().all(|dir| {
            let here: Vec<_> = names(dir)
                .into_iter()
                .filter(|n| n.starts_with(name))
                .collect();
            here == if *dir == at_last {
                vec![folder.clone()]
            } else {
                vec![]
            }
        })
    });
    assert!(!at_last.join(&folder).join("replica-moved").exists());
    if settings.contains(&("ringspun.log.io", "direct")) {
        let (pages, cached) = log_pages(&at_last.join(&folder));
        assert!(pages > 5_000, "{pages}");
        assert!(cached * 20 < pages, "{cached} of {pages} are cached");
    }
    node.stop();
}

#[test]
fn a_log_moves_between_disks_while_it_is_written_and_read() {
    move_while_written_and_read("cached", &[]);
    move_while_written_and_read("synced", &[("flush.messages", "1")]);
}

#[test]
fn a_log_past_the_page_cache_moves_between_disks_while_it_is_written_and_read() {
    let at = tempfile::tempdir().unwrap();
    if !is_direct_here(at.path()) {
        return;
    }
    let direct = ("ringspun.log.io", "direct");
    move_while_written_and_read("direct", &[direct]);
    move_while_written_and_read("direct-synced", &[direct, ("flush.messages", "1")]);
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[("ringspun.shards", "1"), ("log.dirs", &join(&dirs))]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    assert_eq!(alter(&mut peer, "t", 0, Path::new("/nowhere")), 57);
    assert_eq!(alter(&mut peer, "t", 1, &dirs[0]), 3);
    assert_eq!(alter(&mut peer, "none", 0, &dirs[0]), 3);
    let (here, _) = places(&mut peer, "t", 0).remove(0);
    assert_eq!(alter(&mut peer, "t", 0, &here), 0, "it is there");
    // An empty log moves, and goes with its topic.
    let there = if here == dirs[0] { &dirs[1] } else { &dirs[0] };
    assert_eq!(alter(&mut peer, "t", 0, there), 0);
    await_place(&mut peer, "t", 0, there);
    // It serves a moment before it takes appends.
    send_until(&mut peer, "t", 0, 0);
    delete_topic(&mut peer, "t");
    node.create_topic("t", 1);
    assert_eq!(send(&mut peer, "t", 0, batch(1, 10)).0, 0);
    node.stop();
}

#[test]
fn a_move_survives_kill_9_and_begins_anew() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let dirs_setting = join(&dirs);
    let mut node = Node::start(&[
        ("ringspun.shards", "1"),
        ("log.dirs", &dirs_setting),
        ("log.segment.bytes", "1048576"),
        // Slow enough to be met on its way.
        ("replica.alter.log.dirs.io.max.bytes.per.second", "4000000"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    let count = 8_000;
    let sender = producer(&node);
    send_numbers(&sender, "t", 0..count);
    sender.flush(PATIENCE).unwrap();
    let (from, _) = places(&mut peer, "t", 0).remove(0);
    let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    node.await_that("it is on its way", |_| {
        names(to).iter().any(|name| name.ends_with("-future"))
    });
    node.broker.kill();
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    assert_numbers(&node.broker.bootstrap(), "t", count);
    await_place(&mut peer, "t", 0, to);
    assert_numbers(&node.broker.bootstrap(), "t", count);
    // Between the two names: both are there, and one says that it is whole.
    node.broker.stop().unwrap();
    fs::create_dir(from.join("t-0")).unwrap();
    for name in names(&to.join("t-0")) {
        fs::copy(to.join("t-0").join(&name), from.join("t-0").join(&name)).unwrap();
    }
    fs::write(from.join("t-0/replica-moved"), "").unwrap();
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    await_place(&mut peer, "t", 0, &from);
    assert_numbers(&node.broker.bootstrap(), "t", count);
    assert!(!to.join("t-0").exists() && !from.join("t-0/replica-moved").exists());
    node.stop();
}

#[test]
fn kafkas_own_tool_moves_logs_between_disks() {
    let jars = match packages::jars() {
        Ok(jars) => jars,
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("log.dirs", &join(&dirs)),
        ("log.retention.ms", "-1"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    for _ in 0..20 {
        assert_eq!(send(&mut peer, "t", 0, batch(10, 1000)).0, 0);
    }
    let before = read(&mut peer, "t", 0);
    let (from, _) = places(&mut peer, "t", 0).remove(0);
    let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
    let plan = at.path().join("plan.json");
    let text = serde_json::json!({
        "version": 1,
        "partitions": [{
            "topic": "t", "partition": 0, "replicas": [1], "log_dirs": [to.display().to_string()],
        }],
    });
    fs::write(&plan, text.to_string()).unwrap();
    let tool = |step: &str| {
        let output = packages::java(&jars)
            .arg("org.apache.kafka.tools.reassign.ReassignPartitionsCommand")
            .args(["--bootstrap-server", &node.broker.bootstrap(), step])
            .arg("--reassignment-json-file")
            .arg(&plan)
            .output()
            .unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        said
    };
    let said = tool("--execute");
    assert!(
        said.contains("Successfully started moving log directory"),
        "{said}"
    );
    await_place(&mut peer, "t", 0, to);
    let said = tool("--verify");
    assert!(said.contains("completed successfully"), "{said}");
    assert!(said.contains("is complete"), "{said}");
    assert_eq!(read(&mut peer, "t", 0), before);
    node.stop();
}

/// The coordinator of a group reads its state anew from where its log lies now.
#[test]
fn a_transaction_and_committed_offsets_go_on_over_a_move() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &join(&dirs)),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.num.partitions", "1"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    let mut move_it = |name: &str| {
        let (from, _) = places(&mut peer, name, 0).remove(0);
        let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
        assert_eq!(alter(&mut peer, name, 0, to), 0);
        await_place(&mut peer, name, 0, to);
    };
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .set("transactional.id", "one")
        .set("retry.backoff.ms", "10")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send_numbers(&producer, "t", 0..100);
    producer.flush(PATIENCE).unwrap();
    for name in ["t", "__transaction_state", "t"] {
        move_it(name);
    }
    send_numbers(&producer, "t", 100..200);
    producer.commit_transaction(PATIENCE).unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 200);

    let consumer = || -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", node.broker.bootstrap())
            .set("group.id", "g")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    };
    let commit = |offset: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(offset))
            .unwrap();
        consumer()
            .commit(&list, rdkafka::consumer::CommitMode::Sync)
            .unwrap();
    };
    let committed = || {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0);
        let found = consumer().committed_offsets(list, PATIENCE).unwrap();
        found.elements()[0].offset()
    };
    commit(50);
    move_it("__consumer_offsets");
    assert_eq!(committed(), Offset::Offset(50));
    commit(60);
    move_it("__consumer_offsets");
    assert_eq!(committed(), Offset::Offset(60));
    node.stop();
}
