//! Several disks, full disks, disks that fail: what is refused, what goes on, and what comes back by itself.

mod broker;
#[path = "broker/direct_io.rs"]
mod direct_io;
#[path = "disks/directories.rs"]
mod directories;
mod hostile;
#[path = "disks/moves.rs"]
mod moves;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    DeleteTopicsRequest, FetchResponse, IncrementalAlterConfigsRequest, ProduceResponse,
    delete_topics_request,
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
use hostile::log_dirs::{alter, await_place, describe, dirs, join, names, places};
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

fn delete_topic(peer: &mut Peer, name: &str) {
    let state = delete_topics_request::DeleteTopicState::default().with_name(Some(topic(name)));
    let body = DeleteTopicsRequest::default()
        .with_topics(vec![state])
        .with_timeout_ms(30_000);
    peer.send(&request(6, 4, &body));
    peer.receive().unwrap().unwrap();
}

/// Sets one of a topic's settings.
fn set_config(peer: &mut Peer, name: &str, setting: &str, value: &str) {
    let config = AlterableConfig::default()
        .with_name(text(setting))
        .with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(name))
        .with_configs(vec![config]);
    let wanted = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    peer.send(&request(1, 5, &wanted));
    peer.receive().unwrap().expect("an answer");
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

/// Two directories that exist, as the broker names them.
fn two_dirs(at: &Path) -> [PathBuf; 2] {
    dirs(at, ["a", "b"])
}
