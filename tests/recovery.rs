//! What a broker makes of its disks: folders of deleted topics, torn and damaged logs, disks that are full
//! or cannot be read, and what the clock does to segments. The broker is a process; the client librdkafka.

mod broker;

use std::cell::OnceCell;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind, packages};

/// What the clock does is looked for at once, and deleted folders go at once.
const IMPATIENT: [(&str, &str); 3] = [
    ("log.initial.task.delay.ms", "0"),
    ("log.retention.check.interval.ms", "50"),
    ("log.segment.delete.delay.ms", "0"),
];

fn start(folder: &Path, settings: &[(&str, &str)]) -> Broker {
    let mut all = vec![
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
    ];
    all.extend(settings);
    Broker::start(Kind::Ringspun, folder, &all).unwrap()
}

/// A client of a broker: each of its calls is one request, or a few.
struct Client {
    config: ClientConfig,
    runtime: tokio::runtime::Runtime,
    /// Made with the first record.
    producer: OnceCell<OneByOne>,
}

/// A producer whose records are waited for one by one. Its own thread polls: `flush` of the crate, and
/// `poll`, look again only after a tenth of a second, which is what a record took.
struct OneByOne {
    producer: ThreadedProducer<Context>,
    outcomes: mpsc::Receiver<Outcome>,
}

/// What became of a record: its offset, or why not.
type Outcome = Result<i64, RDKafkaErrorCode>;

struct Context(mpsc::Sender<Outcome>);

impl rdkafka::ClientContext for Context {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: rdkafka::error::KafkaError, _: &str) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap()),
        };
        // Nobody waits at the end of a test.
        let _ = self.0.send(outcome);
    }
}

impl Client {
    fn of(broker: &Broker) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", broker.bootstrap())
            .set("reconnect.backoff.ms", "5")
            .set("reconnect.backoff.max.ms", "50");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            config,
            runtime,
            producer: OnceCell::new(),
        }
    }

    fn producer(&self) -> &OneByOne {
        self.producer.get_or_init(|| {
            let (sender, outcomes) = mpsc::channel();
            let producer = self
                .config
                .clone()
                .set("acks", "all")
                .set("linger.ms", "0")
                .set("retries", "0")
                .create_with_context(Context(sender))
                .unwrap();
            OneByOne { producer, outcomes }
        })
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config.create().unwrap()
    }

    fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        // It answers only while it lives.
        let admin = self.admin();
        let done = admin.create_topics([&new], &AdminOptions::new());
        self.runtime.block_on(done).unwrap().remove(0).unwrap();
    }

    fn delete(&self, topic: &str) {
        // It answers only while it lives.
        let admin = self.admin();
        let done = admin.delete_topics(&[topic], &AdminOptions::new());
        self.runtime.block_on(done).unwrap().remove(0).unwrap();
    }

    fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        // -1 is the high watermark.
        let before = match before {
            -1 => Offset::End,
            before => Offset::Offset(before),
        };
        list.add_partition_offset(topic, partition, before).unwrap();
        // It answers only while it lives.
        let admin = self.admin();
        let done = admin.delete_records(&list, &AdminOptions::new());
        self.runtime.block_on(done).unwrap();
    }

    /// Sends one record at a time, so that each is a batch; stops at the first that is refused.
    fn send(
        &self,
        topic: &str,
        partition: i32,
        values: &[Vec<u8>],
    ) -> Result<(), RDKafkaErrorCode> {
        let OneByOne { producer, outcomes } = self.producer();
        for value in values {
            let record = BaseRecord::<(), [u8]>::to(topic)
                .partition(partition)
                .payload(value);
            producer.send(record).map_err(|(e, _)| e).unwrap();
            outcomes.recv().unwrap()?;
        }
        Ok(())
    }

    /// The same, of one key.
    fn send_keyed(&self, topic: &str, key: &str, values: &[Vec<u8>]) {
        let OneByOne { producer, outcomes } = self.producer();
        for value in values {
            let record = BaseRecord::<str, [u8]>::to(topic).partition(0).key(key);
            let sent = producer.send(record.payload(value));
            sent.map_err(|(e, _)| e).unwrap();
            outcomes.recv().unwrap().unwrap();
        }
    }

    fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let consumer: BaseConsumer = self.config.create().unwrap();
        consumer
            .fetch_watermarks(topic, partition, Duration::from_secs(20))
            .unwrap()
    }

    /// The values of a partition from `from` to its end.
    fn read(&self, topic: &str, partition: i32, from: i64) -> Vec<Vec<u8>> {
        let records = self.records(topic, partition, from);
        let in_order = records.iter().map(|(offset, _)| *offset);
        assert!(in_order.eq(from..from + records.len() as i64));
        assert_eq!(
            self.watermarks(topic, partition).1,
            from + records.len() as i64
        );
        records.into_iter().map(|(_, value)| value).collect()
    }

    /// What there is of a partition from `from` to its last record: offsets and values.
    fn records(&self, topic: &str, partition: i32, from: i64) -> Vec<(i64, Vec<u8>)> {
        let consumer: BaseConsumer = self
            .config
            .clone()
            .set("group.id", "none")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .create()
            .unwrap();
        let end = self.watermarks(topic, partition).1;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))
            .unwrap();
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let mut next = from;
        while next < end {
            let message = consumer.poll(Duration::from_secs(20)).unwrap().unwrap();
            records.push((message.offset(), message.payload().unwrap().to_vec()));
            next = message.offset() + 1;
        }
        records
    }
}

fn values(numbers: std::ops::Range<u32>, bytes: usize) -> Vec<Vec<u8>> {
    numbers
        .map(|number| {
            let mut value = number.to_be_bytes().to_vec();
            value.resize(bytes.max(4), number as u8);
            value
        })
        .collect()
}

/// Names in a folder that end so.
fn names(folder: &Path, suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(suffix))
        .collect();
    names.sort();
    names
}

/// The broker does something by itself, soon.
#[track_caller]
fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn log_of(broker: &Broker, folder: &str) -> PathBuf {
    let folder = broker.log_dir().join(folder);
    folder.join(names(&folder, ".log").pop().unwrap())
}

#[test]
fn a_deleted_topics_folder_goes_and_its_name_is_free_at_once() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    for round in 0..5 {
        client.create("t", 2, &[("file.delete.delay.ms", "600000")]);
        assert_eq!(client.watermarks("t", 1), (0, 0), "round {round}");
        client.send("t", 1, &values(0..10, 10)).unwrap();
        assert_eq!(client.watermarks("t", 1), (0, 10));
        client.delete("t");
    }
    assert_eq!(names(&broker.log_dir(), "-delete").len(), 10);
    assert!(!broker.log_dir().join("t-1").exists());
    client.create("soon", 1, &[("file.delete.delay.ms", "0")]);
    client.delete("soon");
    eventually("the folder goes after its delay", || {
        !names(&broker.log_dir(), "-delete")
            .iter()
            .any(|n| n.starts_with("soon"))
    });
    // What a stop left is removed by the next start; what another broker left is not.
    let theirs = "t-0.9b2cf2f0a3a14d2d8c1f1be5e1c1f5aa-delete";
    fs::create_dir(broker.log_dir().join(theirs)).unwrap();
    broker.kill();
    broker.start_again().unwrap();
    eventually("what the stop left goes", || {
        names(&broker.log_dir(), "-delete") == [theirs]
    });
    assert!(broker.stop().unwrap().success());
}

#[test]
fn neither_a_start_nor_a_stop_waits_for_the_removal_of_what_deleted_topics_left() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("t", 1, &[]);
    broker.kill();
    // A file of a TiB goes in pieces, in more than two minutes.
    let left = broker
        .log_dir()
        .join("old-0.00000000000080000000000000000abc-delete");
    fs::create_dir(&left).unwrap();
    let large = fs::File::create(left.join("00000000000000000000.log")).unwrap();
    large.set_len(1 << 40).unwrap();
    drop(large);
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    client.send("t", 0, &values(0..10, 10)).unwrap();
    eventually("the removal is under way", || {
        names(&left, ".log").is_empty()
    });
    assert!(left.exists());
    assert!(broker.stop().unwrap().success());
    assert!(left.exists());
    broker.start_again().unwrap();
    assert_eq!(Client::of(&broker).watermarks("t", 0), (0, 10));
    eventually("the folder goes", || !left.exists());
}

#[test]
fn a_folder_that_a_deletion_did_not_reach_neither_comes_back_nor_stands_in_the_way() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("gone", 1, &[]);
    client.create("again", 1, &[]);
    client.send("gone", 0, &values(0..10, 10)).unwrap();
    client.send("again", 0, &values(0..10, 10)).unwrap();
    for topic in ["gone", "again"] {
        client.delete(topic);
    }
    client.create("again", 1, &[]);
    broker.kill();
    // As if the crash had come between the commit of the metadata and the renaming of the folders.
    let dir = broker.log_dir();
    fs::remove_dir_all(dir.join("again-0")).unwrap();
    for folder in names(&dir, "-delete") {
        let name = folder.split('.').next().unwrap();
        fs::rename(dir.join(&folder), dir.join(name)).unwrap();
    }
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    assert_eq!(client.watermarks("again", 0), (0, 0));
    client.create("gone", 1, &[]);
    assert_eq!(client.watermarks("gone", 0), (0, 0));
    let strays = names(&dir, "-stray");
    assert_eq!(strays.len(), 2, "{strays:?}");
    // They are kept as they are.
    broker.kill();
    broker.start_again().unwrap();
    assert_eq!(names(&dir, "-stray"), strays);
}

#[test]
fn a_torn_tail_is_cut_and_damage_is_kept_beside_the_log() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("torn", 1, &[]);
    client.create("damaged", 1, &[]);
    let sent = values(0..100, 1000);
    client.send("torn", 0, &sent).unwrap();
    client.send("damaged", 0, &sent).unwrap();
    broker.kill();
    let mut torn = OpenOptions::new()
        .read(true)
        .append(true)
        .open(log_of(&broker, "torn-0"))
        .unwrap();
    // Half of a batch that follows well.
    let mut batch = vec![0; 500];
    torn.read_exact(&mut batch).unwrap();
    batch[..8].copy_from_slice(&100i64.to_be_bytes());
    torn.write_all(&batch).unwrap();
    let damaged = log_of(&broker, "damaged-0");
    let mut file = OpenOptions::new().write(true).open(&damaged).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(b"not what was written").unwrap();
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    assert_eq!(client.read("torn", 0, 0), sent);
    let left = client.read("damaged", 0, 0);
    assert!((45..55).contains(&left.len()), "{}", left.len());
    assert_eq!(left, sent[..left.len()]);
    let kept = fs::read_dir(damaged.parent().unwrap())
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains(".log.cut-")
        })
        .count();
    assert_eq!(kept, 1);
    let words = broker.last_words();
    let line = words
        .lines()
        .find(|l| l.contains("damage"))
        .unwrap_or_else(|| panic!("{words}"));
    for part in ["damaged", "partition", &left.len().to_string()] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    // Both go on.
    client.send("torn", 0, &values(100..110, 10)).unwrap();
    client.send("damaged", 0, &values(0..10, 10)).unwrap();
    assert_eq!(client.watermarks("torn", 0), (0, 110));
}

#[test]
fn a_checkpoint_above_the_end_of_a_log_is_written_anew_before_anything_is_appended() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("shrunk", 1, &[]);
    client.send("shrunk", 0, &values(0..100, 1000)).unwrap();
    broker.stop().unwrap();
    let point = |broker: &Broker| -> i64 {
        let path = broker.log_dir().join("recovery-point-offset-checkpoint");
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|l| l.starts_with("shrunk 0 ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(point(&broker) >= 99);
    // What a disk that lost a part of a file leaves.
    fs::remove_file(broker.log_dir().join(".kafka_cleanshutdown")).unwrap();
    let log = log_of(&broker, "shrunk-0");
    let file = OpenOptions::new().write(true).open(log).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    broker.start_again().unwrap();
    let end = Client::of(&broker).watermarks("shrunk", 0).1;
    assert!((40..60).contains(&end), "{end}");
    assert!(point(&broker) <= end);
}

#[test]
fn checkpoints_that_could_not_be_written_after_a_recovery_are_written_soon() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("t", 1, &[]);
    client.send("t", 0, &values(0..100, 1000)).unwrap();
    broker.kill();
    let path = broker.log_dir().join("recovery-point-offset-checkpoint");
    // In the way of the file under whose name the new one is made.
    let in_the_way = path.with_extension("tmp");
    fs::create_dir(&in_the_way).unwrap();
    let is_told = || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().any(|line| line.starts_with("t 0 "))
    };
    broker.start_again().unwrap();
    assert_eq!(Client::of(&broker).watermarks("t", 0), (0, 100));
    assert!(!is_told());
    fs::remove_dir(&in_the_way).unwrap();
    // Far sooner than the interval of a minute.
    eventually("the checkpoint is written", is_told);
}

#[test]
fn a_compacted_log_is_whole_where_the_checkpoints_and_snapshots_are_gone() {
    let at = tempfile::tempdir().unwrap();
    let cleaner = [("log.cleaner.backoff.ms", "100")];
    let mut broker = start(at.path(), &cleaner);
    let checkpoint = broker.log_dir().join("recovery-point-offset-checkpoint");
    let has_checkpoint = checkpoint.exists();
    let client = Client::of(&broker);
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.0"),
    ];
    client.create("gaps", 1, &settings);
    for key in 0..5 {
        client.send_keyed("gaps", &format!("{key}"), &values(key..key + 1, 10));
        client.send_keyed("gaps", "again and again", &values(10..21, 100_000));
    }
    let folder = broker.log_dir().join("gaps-0");
    let size = || -> u64 {
        let logs = names(&folder, ".log").into_iter();
        // The cleaner takes names away.
        logs.filter_map(|name| Some(fs::metadata(folder.join(name)).ok()?.len()))
            .sum()
    };
    // Two segments, the one that is written and what is left of the last one before.
    eventually("it is compacted", || size() < 2_500_000);
    let before = client.records("gaps", 0, 0);
    assert!(before.len() < 30, "{}", before.len());
    let keys = before.iter().filter(|(_, value)| value.len() == 10);
    assert_eq!(keys.count(), 5);
    broker.kill();
    for name in ["recovery-point", "cleaner"] {
        let _ = fs::remove_file(broker.log_dir().join(format!("{name}-offset-checkpoint")));
    }
    for snapshot in names(&folder, ".snapshot") {
        fs::remove_file(folder.join(snapshot)).unwrap();
    }
    // The second time there is a checkpoint again.
    for start in 0..2 {
        broker.start_again().unwrap();
        let records = Client::of(&broker).records("gaps", 0, 0);
        let (is, was) = (records.len(), before.len());
        assert!(records == before, "{start}: {is} of {was} records");
        let mut aside = names(&folder, "");
        aside.retain(|name| name.contains(".log.cut-"));
        assert!(aside.is_empty(), "{start}: {aside:?}");
        broker.kill();
    }
    // And from the first start on, or a hole that a power cut leaves would be taken for a gap.
    assert!(has_checkpoint);
}

#[test]
fn a_recovered_log_that_nobody_writes_to_is_flushed_and_not_recovered_again() {
    let at = tempfile::tempdir().unwrap();
    let checkpoints = [("log.flush.offset.checkpoint.interval.ms", "1000")];
    let mut broker = start(at.path(), &checkpoints);
    let client = Client::of(&broker);
    client.create("idle", 1, &[]);
    client.send("idle", 0, &values(0..100, 1000)).unwrap();
    broker.kill();
    broker.start_again().unwrap();
    let path = broker.log_dir().join("recovery-point-offset-checkpoint");
    eventually("its recovery point is in the checkpoint", || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.contains("idle 0 99\n") || text.contains("idle 0 100\n")
    });
    assert_eq!(Client::of(&broker).watermarks("idle", 0), (0, 100));
}

#[test]
fn the_checkpoint_of_a_deleted_topic_goes_before_a_new_one_of_its_name_grows_old() {
    let at = tempfile::tempdir().unwrap();
    let mut broker = start(at.path(), &[]);
    let client = Client::of(&broker);
    client.create("again", 1, &[]);
    client.send("again", 0, &values(0..100, 10)).unwrap();
    broker.stop().unwrap();
    let is_told = |broker: &Broker| {
        let path = broker.log_dir().join("recovery-point-offset-checkpoint");
        let text = fs::read_to_string(path).unwrap();
        text.contains("again 0 99\n") || text.contains("again 0 100\n")
    };
    assert!(is_told(&broker));
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    client.delete("again");
    client.create("again", 1, &[]);
    client.send("again", 0, &values(0..200, 10)).unwrap();
    // Far sooner than the interval of a minute.
    eventually("the checkpoint of the deleted one is there", || {
        !is_told(&broker)
    });
}

#[test]
fn what_checkpoints_say_of_a_deleted_topic_is_never_taken_for_a_new_one_of_its_name() {
    let at = tempfile::tempdir().unwrap();
    let often = [
        ("log.flush.offset.checkpoint.interval.ms", "1000"),
        ("log.flush.start.offset.checkpoint.interval.ms", "1000"),
    ];
    let mut broker = start(at.path(), &often);
    let text = |broker: &Broker, name: &str| {
        let path = broker.log_dir().join(format!("{name}-offset-checkpoint"));
        fs::read_to_string(path).unwrap_or_default()
    };
    for round in 0..4 {
        let client = Client::of(&broker);
        client.create("again", 2, &[("flush.messages", "1")]);
        client.create("other", 1, &[("flush.messages", "1")]);
        client.send("again", 1, &values(0..100, 10)).unwrap();
        client.send("other", 0, &values(0..100, 10)).unwrap();
        for topic in ["again", "other"] {
            client.delete_records(topic, i32::from(topic == "again"), 60);
        }
        eventually("the checkpoints tell of them", || {
            let points = text(&broker, "recovery-point");
            let starts = text(&broker, "log-start");
            let are_there = |topic: &str| {
                let is_flushed = [99, 100].map(|at| points.contains(&format!("{topic} {at}\n")));
                is_flushed != [false; 2] && starts.contains(&format!("{topic} 60\n"))
            };
            are_there("again 1") && are_there("other 0")
        });
        client.delete("again");
        client.create("again", 2, &[]);
        for name in ["recovery-point", "log-start", "replication"] {
            let text = text(&broker, name);
            for at in [60, 99, 100] {
                let line = format!("again 1 {at}\n");
                assert!(!text.contains(&line), "round {round}, {name}: {text}");
            }
        }
        let sent = values(200..220, 10);
        client.send("again", 1, &sent).unwrap();
        broker.kill();
        broker.start_again().unwrap();
        let client = Client::of(&broker);
        assert_eq!(client.watermarks("again", 1), (0, 20), "round {round}");
        assert_eq!(client.read("again", 1, 0), sent, "round {round}");
        // The others are as they were.
        assert_eq!(client.watermarks("other", 0), (60, 100), "round {round}");
        client.delete("again");
        client.delete("other");
    }
}

#[test]
fn records_deleted_by_hand_stay_deleted_after_either_stop() {
    let at = tempfile::tempdir().unwrap();
    let checkpoints = [("log.flush.start.offset.checkpoint.interval.ms", "1000")];
    let mut broker = start(at.path(), &checkpoints);
    let client = Client::of(&broker);
    client.create("t", 1, &[]);
    let sent = values(0..20, 100);
    client.send("t", 0, &sent).unwrap();
    client.delete_records("t", 0, 7);
    assert_eq!(client.watermarks("t", 0), (7, 20));
    assert!(broker.stop().unwrap().success());
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    assert_eq!(client.watermarks("t", 0), (7, 20));
    assert_eq!(client.read("t", 0, 7), sent[7..]);
    client.delete_records("t", 0, 12);
    let checkpoint = broker.log_dir().join("log-start-offset-checkpoint");
    eventually("the checkpoint is written", || {
        fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("t 0 12"))
    });
    broker.kill();
    broker.start_again().unwrap();
    assert_eq!(Client::of(&broker).watermarks("t", 0), (12, 20));
    // All of it: the log goes on where it was.
    let client = Client::of(&broker);
    client.delete_records("t", 0, -1);
    assert_eq!(client.watermarks("t", 0), (20, 20));
    assert!(broker.stop().unwrap().success());
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    assert_eq!(client.watermarks("t", 0), (20, 20));
    client.send("t", 0, &sent[..1]).unwrap();
    assert_eq!(client.watermarks("t", 0), (20, 21));
}

#[test]
fn retention_by_size_and_by_time_takes_whole_segments() {
    let at = tempfile::tempdir().unwrap();
    let broker = start(at.path(), &IMPATIENT);
    let client = Client::of(&broker);
    let small = ("segment.bytes", "1048576");
    client.create("by-size", 1, &[small, ("retention.bytes", "3000000")]);
    client.create("by-time", 1, &[small, ("retention.ms", "1000")]);
    client.create(
        "kept",
        1,
        &[small, ("retention.ms", "-1"), ("retention.bytes", "-1")],
    );
    let sent = values(0..60, 100_000);
    for topic in ["by-size", "by-time", "kept"] {
        client.send(topic, 0, &sent).unwrap();
    }
    // What is over may go if what is left is still as much as is to be kept.
    eventually("segments go by size", || {
        client.watermarks("by-size", 0).0 > 0
    });
    let (start, end) = client.watermarks("by-size", 0);
    let left = (end - start) * 100_000;
    assert_eq!(end, 60);
    assert!((3_000_000..4_100_000).contains(&left), "{left}");
    assert_eq!(client.read("by-size", 0, start), sent[start as usize..]);
    // The last segment too, once it has passed: the log is empty and goes on where it was.
    eventually("all goes by time", || {
        client.watermarks("by-time", 0) == (60, 60)
    });
    client.send("by-time", 0, &sent[..1]).unwrap();
    assert_eq!(client.watermarks("by-time", 0).1, 61);
    assert_eq!(client.watermarks("kept", 0), (0, 60));
    eventually("the files go", || {
        names(&broker.log_dir().join("by-time-0"), ".log").len() == 1
    });
}

#[test]
fn a_segment_is_rolled_by_time_and_a_log_flushed_by_time() {
    let at = tempfile::tempdir().unwrap();
    let broker = start(
        at.path(),
        &[("log.flush.offset.checkpoint.interval.ms", "1000")],
    );
    let client = Client::of(&broker);
    client.create("rolled", 1, &[("segment.ms", "200")]);
    client.create("flushed", 1, &[("flush.ms", "100")]);
    client.send("flushed", 0, &values(0..5, 10)).unwrap();
    for number in 0..3 {
        client
            .send("rolled", 0, &values(number..number + 1, 10))
            .unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    let logs = names(&broker.log_dir().join("rolled-0"), ".log");
    assert_eq!(logs.len(), 3, "{logs:?}");
    // What is flushed need not be looked at by a recovery. One less, since the segment may come to end there before
    // its indexes are on the device.
    let checkpoint = broker.log_dir().join("recovery-point-offset-checkpoint");
    eventually("the recovery point follows the flush", || {
        fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("flushed 0 4"))
    });
}

/// A small file system of its own.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, size: &str) -> Result<Self, String> {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .output();
        match done {
            Ok(output) if output.status.success() => Ok(Self(at.into())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn resize(&self, size: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_its_partitions_and_a_restart_with_space_has_all_that_was_acknowledged() {
    let at = tempfile::tempdir().unwrap();
    // The mount must outlive nothing else in the folder.
    let small = match Mount::new(&at.path().join("small"), "6m") {
        Ok(mount) => mount,
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => return println!("skipped: no file system can be mounted: {reason}"),
    };
    let dirs = format!(
        "{},{}",
        at.path().join("large").display(),
        small.0.display()
    );
    let metadata = at.path().join("large").display().to_string();
    let settings = [
        ("log.dirs", dirs.as_str()),
        ("metadata.log.dir", &metadata),
        // Or it would not get full.
        ("ringspun.log.min.free.bytes", "0"),
    ];
    let mut broker = start(at.path(), &settings);
    let client = Client::of(&broker);
    client.create("t", 2, &[]);
    let in_small: i32 = if small.0.join("t-0").exists() { 0 } else { 1 };
    assert!(
        small.0.join(format!("t-{in_small}")).exists(),
        "partitions are spread over log.dirs"
    );
    let sent = values(0..200, 100_000);
    let mut acknowledged = 0;
    let refused = sent.iter().find_map(|value| {
        let outcome = client.send("t", in_small, std::slice::from_ref(value));
        acknowledged += usize::from(outcome.is_ok());
        outcome.err()
    });
    assert_eq!(refused, Some(RDKafkaErrorCode::KafkaStorageError));
    assert!((30..80).contains(&acknowledged), "{acknowledged}");
    // It stays so, and the other goes on.
    assert_eq!(
        client.send("t", in_small, &sent[..1]),
        Err(RDKafkaErrorCode::KafkaStorageError)
    );
    client.send("t", 1 - in_small, &sent[..20]).unwrap();
    assert_eq!(client.read("t", 1 - in_small, 0), sent[..20]);
    assert!(
        broker.last_words().contains("offline"),
        "{}",
        broker.last_words()
    );
    let _ = broker.stop().unwrap();
    assert!(at.path().join("large/.kafka_cleanshutdown").exists());
    assert!(!small.0.join(".kafka_cleanshutdown").exists());
    // Still full: it is a refusal in one line, or a start that serves what it can.
    small.resize("32m");
    broker.start_again().unwrap();
    let client = Client::of(&broker);
    let read = client.read("t", in_small, 0);
    assert_eq!(read[..acknowledged], sent[..acknowledged]);
    client.send("t", in_small, &sent[..3]).unwrap();
    assert_eq!(client.read("t", 1 - in_small, 0), sent[..20]);
    // The same after kill -9.
    broker.kill();
    broker.start_again().unwrap();
    assert_eq!(
        Client::of(&broker).read("t", in_small, 0).len(),
        read.len() + 3
    );
}

#[test]
fn a_directory_that_cannot_be_read_is_refused_in_one_line() {
    let at = tempfile::tempdir().unwrap();
    fs::set_permissions(at.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let closed = at.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let program = at.path().join("ringspun");
    fs::copy(env!("CARGO_BIN_EXE_ringspun"), &program).unwrap();
    let mut command = Command::new(&program);
    command
        .current_dir(at.path())
        .args(["-o", "listeners=PLAINTEXT://127.0.0.1:0"])
        .args(["-o", "ringspun.http.listener=", "-o", "ringspun.cores=1"])
        .args(["-o", &format!("log.dirs={}", closed.display())]);
    if rustix::process::geteuid().is_root() {
        // Nobody: root may read everything.
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().last().unwrap();
    assert!(line.contains("closed is not writable"), "{text}");
    assert!(
        line.contains("give the user that runs ringspun the right to write there"),
        "{text}"
    );
}
