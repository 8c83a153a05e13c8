//! Files that are not what was written, given to a real broker: of every kind a bit is flipped and the last byte
//! cut off, while the broker is down, after a clean stop and after others, and of a `.log` while it runs. What is
//! then served is what was written, or an error, and the broker says what it found. Every byte of every file is
//! flipped in the tests of `storage`, on one log; here a few are, end to end.
//!
//! What Kafka's formats cannot tell: text files, `.txnindex` and `.timeindex` have no CRC, so a number in them that
//! is another number is taken for it. Bits are flipped there where that is noticed.
//!
//! The CRC of records that are fetched is the client's to check, whom they reach without a copy, as in Kafka: here
//! as there a client's error is an error.

mod broker;
mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use hostile::log_reader::{Problem, Record, bounds, read};
use hostile::{Node, PATIENCE, Peer};

const TOPIC: &str = "rotten";
const STORAGE_ERROR: i16 = 56;
const CORRUPT_MESSAGE: i16 = 2;
/// Deleted from the beginning of the last partition.
const DELETED: i64 = 5;

/// What is spoiled in the folder of a partition of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Within a record of a segment that is closed, or of the last one.
    ClosedRecord,
    LastRecord,
    /// The magic in the header of a batch.
    Header,
    Index,
    TimeIndex,
    TxnIndex,
    Snapshot,
    Epochs,
    Metadata,
    /// Nothing; the last one, with a log start offset.
    Nothing,
}

const KINDS: [Kind; 10] = [
    Kind::ClosedRecord,
    Kind::LastRecord,
    Kind::Header,
    Kind::Index,
    Kind::TimeIndex,
    Kind::TxnIndex,
    Kind::Snapshot,
    Kind::Epochs,
    Kind::Metadata,
    Kind::Nothing,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip,
    Cut,
}

/// How the broker was stopped before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Clean,
    /// The mark of a clean stop is gone; the checkpoints are there.
    Unclean,
    /// They are gone, too: all is looked at.
    Unknown,
}

const CHECKPOINTS: [&str; 4] = [
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
];

fn start(settings: &[(&str, &str)]) -> Node {
    let mut all = vec![
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
        ("transaction.state.log.num.partitions", "1"),
        ("log.cleaner.enable", "false"),
    ];
    all.extend(settings);
    Node::start(&all)
}

fn config(node: &Node) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", node.broker.bootstrap());
    config
}

/// Four transactions over all partitions, the second and the last of them aborted, in batches of one record.
fn write(node: &Node, partitions: i32, index_interval_bytes: &str) {
    let admin: AdminClient<DefaultClientContext> = config(node).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let topic = NewTopic::new(TOPIC, partitions, TopicReplication::Fixed(1))
        .set("segment.bytes", "1048576")
        .set("index.interval.bytes", index_interval_bytes)
        .set("retention.ms", "-1");
    let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
    created.unwrap().remove(0).unwrap();
    let producer: ThreadedProducer<DefaultProducerContext> = config(node)
        .set("transactional.id", "one")
        .set("batch.num.messages", "1")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for txn in 0..4 {
        producer.begin_transaction().unwrap();
        for record in 0..6 {
            for partition in 0..partitions {
                let value = vec![b'a' + txn * 6 + record; 100_000];
                let key = [txn, record];
                let record = BaseRecord::to(TOPIC).partition(partition);
                let record = record.key(&key[..]).payload(&value[..]);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
        }
        producer.flush(PATIENCE).unwrap();
        match txn % 2 {
            0 => producer.commit_transaction(PATIENCE).unwrap(),
            _ => producer.abort_transaction(PATIENCE).unwrap(),
        }
    }
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(TOPIC, partitions - 1, Offset::Offset(DELETED))
        .unwrap();
    let deleted = admin.delete_records(&before, &AdminOptions::new());
    runtime.block_on(deleted).unwrap();
}

/// What a partition serves to readers of all and of committed records.
#[derive(Debug, PartialEq)]
struct Content {
    start: i64,
    end: i64,
    records: Vec<Record>,
    aborted: Vec<(i64, i64)>,
}

/// All of it, or what went wrong and what came before.
fn content(peer: &mut Peer, partition: i32) -> (Content, Option<Problem>) {
    let mut content = Content {
        start: 0,
        end: 0,
        records: Vec::new(),
        aborted: Vec::new(),
    };
    match bounds(peer, TOPIC, partition) {
        Ok((start, end)) => (content.start, content.end) = (start.0, end.0),
        Err(code) => return (content, Some(Problem::Code(code))),
    }
    let all = read(peer, TOPIC, partition, content.start, false);
    content.records = all.records();
    content.records.retain(|r| r.offset >= content.start);
    let committed = read(peer, TOPIC, partition, content.start, true);
    content.aborted = committed.aborted;
    (content, all.problem.or(committed.problem))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &place),
            false => drop(fs::copy(&path, &place).unwrap()),
        }
    }
}

/// The files of a folder whose names end so, which have something in them, in order.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .filter(|path| path.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let opened = fs::OpenOptions::new().write(true).open(file).unwrap();
    let len = opened.metadata().unwrap().len();
    opened.set_len(len - 1).unwrap();
}

/// Spoils one file of a partition's folder; which one.
fn spoil(folder: &Path, kind: Kind, damage: Damage) -> Option<PathBuf> {
    let logs = files(folder, ".log");
    assert!(logs.len() >= 2, "{logs:?}");
    let first_of = |suffix: &str| files(folder, suffix).remove(0);
    let last_of = |suffix: &str| files(folder, suffix).pop().unwrap();
    // The second batch of the first segment: behind 100,000 bytes and something.
    let (file, at) = match kind {
        Kind::ClosedRecord => (logs[0].clone(), 150_000),
        Kind::LastRecord => {
            let last = last_of(".log");
            // The last batch but one ends before the marker of the transaction.
            let at = last.metadata().unwrap().len() as usize - 5_000;
            (last, at)
        }
        Kind::Header => {
            let log = logs[0].clone();
            let bytes = fs::read(&log).unwrap();
            let length = i32::from_be_bytes(bytes[8..12].try_into().unwrap());
            (log, 12 + length as usize + 16)
        }
        // Of an entry between others.
        Kind::Index => (first_of(".index"), 8),
        Kind::TimeIndex => (first_of(".timeindex"), 12),
        // The version of an entry.
        Kind::TxnIndex => (first_of(".txnindex"), 1),
        Kind::Snapshot => (last_of(".snapshot"), 20),
        // The version.
        Kind::Epochs => (folder.join("leader-epoch-checkpoint"), 0),
        Kind::Metadata => (folder.join("partition.metadata"), 9),
        Kind::Nothing => return None,
    };
    match damage {
        Damage::Flip => flip(&file, at),
        Damage::Cut => cut(&file),
    }
    Some(file)
}

/// What is served of a partition is as it was, or ends with an error before what was spoiled.
fn check_partition(
    peer: &mut Peer,
    partition: i32,
    kind: Kind,
    before: &Content,
    words: &str,
) -> Result<(), String> {
    let (is, problem) = content(peer, partition);
    let is_error = match problem {
        None => false,
        Some(Problem::Code(STORAGE_ERROR | CORRUPT_MESSAGE) | Problem::BadBatch) => true,
        Some(other) => return Err(format!("{other:?}")),
    };
    let is_same = |(was, is): (&Record, &Record)| was == is;
    let is_beginning = is.records.len() <= before.records.len()
        && before.records.iter().zip(&is.records).all(is_same);
    if is.start != before.start || !is_beginning {
        return Err(format!("{}..{} is served", is.start, is.end));
    }
    let folder = format!("{TOPIC}-{partition}");
    let is_told = words.contains(&folder) || words.contains(&format!("partition={partition}"));
    match kind {
        // Recovery cuts the log there and says so, or whoever reads it is told.
        Kind::ClosedRecord | Kind::LastRecord | Kind::Header => {
            let is_whole = is.records.len() == before.records.len() && is.end == before.end;
            match is_error || is_whole || is_told {
                true => Ok(()),
                false => Err(format!("{} records, and no word of it", is.records.len())),
            }
        }
        _ if is_error && !is_told => Err("an error, and no word of it".into()),
        _ if is_error => Ok(()),
        _ if is == *before => Ok(()),
        _ => Err(format!(
            "{:?} are aborted, not {:?}, of {} records",
            is.aborted,
            before.aborted,
            is.records.len()
        )),
    }
}

/// A broker that has written, was stopped in order, and starts again on what is made of its files.
struct Written {
    node: Node,
    kept: tempfile::TempDir,
    before: Vec<Content>,
}

impl Written {
    fn new() -> Self {
        let mut node = start(&[]);
        let partitions = KINDS.len() as i32;
        write(&node, partitions, "4096");
        let mut peer = node.connect();
        let before: Vec<Content> = (0..partitions)
            .map(|partition| {
                let (content, problem) = content(&mut peer, partition);
                assert_eq!(problem, None);
                let deleted = if partition == partitions - 1 {
                    DELETED
                } else {
                    0
                };
                assert_eq!(content.records.len(), 24 - deleted as usize);
                assert_eq!(content.aborted.len(), 2);
                content
            })
            .collect();
        assert!(node.broker.stop().unwrap().success());
        let kept = tempfile::tempdir().unwrap();
        copy(&node.broker.log_dir(), kept.path());
        Self { node, kept, before }
    }

    fn data(&self) -> PathBuf {
        self.node.broker.log_dir()
    }

    fn stderr(&self) -> PathBuf {
        self.data().parent().unwrap().join("stderr")
    }

    /// All that the broker has said since the last [`restore`](Self::restore).
    fn words(&self) -> String {
        fs::read_to_string(self.stderr()).unwrap()
    }

    /// The broker is gone, its files are as they were, as after such a stop.
    fn restore(&mut self, stop: Stop) {
        self.node.broker.kill();
        fs::remove_dir_all(self.data()).unwrap();
        copy(self.kept.path(), &self.data());
        fs::write(self.stderr(), "").unwrap();
        if stop != Stop::Clean {
            fs::remove_file(self.data().join(".kafka_cleanshutdown")).unwrap();
        }
        if stop == Stop::Unknown {
            fs::remove_file(self.data().join(CHECKPOINTS[0])).unwrap();
        }
    }

    fn start(&mut self) -> Peer {
        self.node.broker.start_again().unwrap();
        self.node.connect()
    }
}

/// What the start has to say of files in the folders of partitions.
fn told(stop: Stop, damage: Damage) -> &'static [&'static str] {
    match (stop, damage) {
        (Stop::Clean, Damage::Flip) => &[
            ".snapshot is not what was written",
            "leader-epoch-checkpoint is not what was written",
            "partition.metadata is left aside",
        ],
        (Stop::Clean, Damage::Cut) => &[
            ".snapshot is not what was written",
            "leader-epoch-checkpoint is not what was written",
            "partition.metadata is left aside",
            "indexes of 1 segments were missing or did not fit",
        ],
        _ => &["partition.metadata is left aside"],
    }
}

#[test]
fn what_is_served_of_a_partition_whose_files_are_spoiled_is_right_or_an_error() {
    let mut written = Written::new();
    let mut problems = Vec::new();
    for damage in [Damage::Flip, Damage::Cut] {
        for stop in [Stop::Clean, Stop::Unclean, Stop::Unknown] {
            written.restore(stop);
            let mut spoiled = BTreeMap::new();
            for (kind, partition) in KINDS.into_iter().zip(0..) {
                let folder = written.data().join(format!("{TOPIC}-{partition}"));
                spoiled.insert(partition, (kind, spoil(&folder, kind, damage)));
            }
            let mut peer = written.start();
            for (partition, (kind, file)) in &spoiled {
                // What is read is said, too.
                drop(content(&mut peer, *partition));
                let was = &written.before[*partition as usize];
                let checked = check_partition(&mut peer, *partition, *kind, was, &written.words());
                if let Err(problem) = checked {
                    problems.push(format!("{damage:?} {stop:?} {kind:?} {file:?}: {problem}"));
                }
            }
            let words = written.words();
            for part in told(stop, damage) {
                if !words.contains(part) {
                    problems.push(format!("{damage:?} {stop:?}: {part:?} is not in\n{words}"));
                }
            }
            if words.contains("panicked") {
                problems.push(format!("{damage:?} {stop:?}: {words}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn spoiled_checkpoints_of_a_data_directory_cost_no_record() {
    let mut written = Written::new();
    for damage in [Damage::Flip, Damage::Cut] {
        for stop in [Stop::Clean, Stop::Unclean] {
            written.restore(stop);
            for name in CHECKPOINTS {
                let file = written.data().join(name);
                match damage {
                    _ if !file.exists() || file.metadata().unwrap().len() == 0 => {
                        fs::write(&file, "0\n1\nrotten 0").unwrap();
                    }
                    // The version.
                    Damage::Flip => flip(&file, 0),
                    Damage::Cut => cut(&file),
                }
            }
            let mut peer = written.start();
            for (partition, was) in (0..).zip(&written.before) {
                let (is, problem) = content(&mut peer, partition);
                let what = format!("{damage:?} {stop:?} {partition}");
                assert_eq!(problem, None, "{what}");
                // Deleted records are there again where nothing says that they were deleted.
                let is_again = was.start == DELETED && is.start == 0;
                assert!(is_again || is.start == was.start, "{what}: {}", is.start);
                assert_eq!(is.end, was.end, "{what}");
                let records = is.records.into_iter().filter(|r| r.offset >= was.start);
                assert!(records.eq(was.records.iter().cloned()), "{what}");
            }
            let words = written.words();
            for name in CHECKPOINTS {
                assert!(words.contains(&format!("{name} is left aside")), "{words}");
            }
        }
    }
    // A log start that no log has that was stopped in order.
    written.restore(Stop::Clean);
    let partition = KINDS.len() as i32 - 1;
    let text = format!("0\n1\n{TOPIC} {partition} 99999\n");
    fs::write(written.data().join(CHECKPOINTS[1]), text).unwrap();
    let mut peer = written.start();
    let (is, problem) = content(&mut peer, partition);
    assert_eq!((is.start, is.records.len(), problem), (0, 24, None));
    let words = written.words();
    let line = "log-start-offset-checkpoint is not what was written";
    assert!(words.contains(line), "{words}");
}

#[test]
fn a_node_that_cannot_read_who_it_is_does_not_start() {
    let mut written = Written::new();
    for damage in [Damage::Flip, Damage::Cut] {
        written.restore(Stop::Clean);
        let file = written.data().join("meta.properties");
        let text = fs::read_to_string(&file).unwrap();
        match damage {
            // A letter of a name, and the last of a value.
            Damage::Flip => flip(&file, text.find("node.id").unwrap()),
            Damage::Cut => {
                fs::write(&file, &text[..text.trim_end().len() - 1]).unwrap();
            }
        }
        let refused = written.node.broker.start_again().unwrap_err();
        assert!(refused.contains("meta.properties"), "{damage:?}: {refused}");
        assert!(!refused.contains("panicked"), "{damage:?}: {refused}");
    }
    written.restore(Stop::Clean);
    let mut peer = written.start();
    assert_eq!(content(&mut peer, 0).0, written.before[0]);
}

#[test]
fn what_rots_while_the_broker_runs_is_an_error_and_what_lies_before_is_served() {
    let mut node = start(&[]);
    // Whoever looks for an offset passes the headers before it, unless it is known where it lies.
    write(&node, 3, "100000000");
    let mut peer = node.connect();
    let before: Vec<Content> = (0..2).map(|p| content(&mut peer, p).0).collect();
    for (partition, kind) in [(0, Kind::Header), (1, Kind::ClosedRecord)] {
        let folder = node.broker.log_dir().join(format!("{TOPIC}-{partition}"));
        spoil(&folder, kind, Damage::Flip);
        let (is, problem) = content(&mut peer, partition);
        let expected = [Problem::Code(CORRUPT_MESSAGE), Problem::BadBatch];
        assert!(
            problem.is_some_and(|problem| expected.contains(&problem)),
            "{kind:?}: {problem:?}"
        );
        let was = &before[partition as usize];
        assert_eq!((is.start, is.end), (was.start, was.end));
        assert!(is.records.len() < was.records.len());
        assert!(was.records.starts_with(&is.records), "{kind:?}");
        // Other segments are as they were.
        let last = was.records.last().unwrap().offset;
        let served = read(&mut peer, TOPIC, partition, last, false);
        assert_eq!(served.problem, None);
        assert_eq!(served.records().last(), was.records.last());
    }
    // After a stop in order nobody looks at closed segments until they are read.
    assert!(node.broker.stop().unwrap().success());
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    let behind = read(&mut peer, TOPIC, 0, 3, false);
    assert_eq!(behind.problem, Some(Problem::Code(CORRUPT_MESSAGE)));
    assert!(behind.batches.is_empty());
    let words = node.log();
    assert!(words.contains("read failed"), "{words}");
    node.stop();
}
