//! What a power cut leaves of a disk, and what a real broker makes of it.
//!
//! The cut is one of the disk in memory ([`ringspun::storage::memory`]): by seed it loses, keeps or tears every
//! write that was not synced, and takes back names apart from contents. A shim beneath a real file system was
//! not taken: it wants rights that tests seldom have (FUSE, device mapper), and forgets only what its own kernel had
//! sent in that order, while the worst orders are what is looked for. So logs are appended to, flushed, cleaned and
//! trimmed on disks in memory until the power goes; the files that are left are put into the data directory of a
//! broker, in the place of those of empty topics; and the broker, a process on a real file system, has to serve all that
//! was flushed, nothing that was not appended, and to go on from there, through a `kill -9` as well.
//!
//! `RINGSPUN_SEED` is the seed of the first log.

mod broker;
mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use hostile::log_reader::{Record, bounds, read};
use hostile::{Node, Peer, answer, environment, produce};
use ringspun::base::settings::{CleanupPolicy, LogIo, LogSettings, NodeSettings};
use ringspun::base::{
    LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, Timestamp, TopicId,
};
use ringspun::records::{BatchBuilder, BatchHeader};
use ringspun::storage::checkpoint::{
    CLEANER_OFFSET_CHECKPOINT, LOG_START_OFFSET_CHECKPOINT, Offsets, RECOVERY_POINT_CHECKPOINT,
    decode_offsets, decode_partition_metadata, encode_offsets,
};
use ringspun::storage::cleaner::{Cleaner, Limits, Pace};
use ringspun::storage::log_dir::write_offsets;
use ringspun::storage::memory::{Call, Crash, Fault};
use ringspun::storage::names::PARTITION_METADATA;
use ringspun::storage::{
    AppendOrigin, DirectLimits, Disk, Log, LogDisk, LogError, MemoryDisk, OpenOptions,
};

const DATA: &str = "/data";
const TIME: i64 = 1_700_000_000_000;
const KEYS: u8 = 8;
/// Each is a partition's log; more of them cost little.
const LOGS: u64 = 60;

/// The topics, with what is peculiar to each.
const TOPICS: [(&str, &[(&str, &str)]); 3] = [
    ("plain", &[("retention.ms", "-1")]),
    (
        "compacted",
        &[
            ("cleanup.policy", "compact"),
            ("delete.retention.ms", "86400000000"),
        ],
    ),
    (
        "direct",
        &[("retention.ms", "-1"), ("ringspun.log.io", "direct")],
    ),
];

fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("waits for something that does not come");
}

/// Never gives way.
struct Hasty;

impl Pace for Hasty {
    async fn moved(&self, _: usize) {}
    async fn worked(&self, _: usize) {}
    fn is_stopped(&self) -> bool {
        false
    }
}

/// What was told to the clients of one log.
#[derive(Default)]
struct Told {
    /// Every record that was ever on its way, by offset.
    appended: BTreeMap<i64, Record>,
    /// All below survives a power cut.
    flushed: i64,
    /// The log starts here at least, by the checkpoint; and here at most.
    start: (i64, i64),
    /// What a broker has served since, and has to serve for ever.
    served: Option<Vec<Record>>,
}

/// One log on a disk of its own.
struct Side<D: Disk> {
    topic: &'static str,
    partition: i32,
    disk: D,
    log: Log<D>,
    random: fastrand::Rng,
    told: Told,
    now: i64,
    sequence: i32,
}

fn log_settings(topic: &str) -> LogSettings {
    let mut settings = NodeSettings::defaults().log_defaults.clone();
    settings.segment_bytes = 1500;
    settings.index_interval_bytes = 150;
    settings.segment_jitter_ms = 0;
    settings.retention_ms = -1;
    settings.min_cleanable_dirty_ratio = 0.0;
    settings.delete_retention_ms = 86_400_000_000;
    settings.cleanup_policy = CleanupPolicy {
        compact: topic == "compacted",
        delete: topic != "compacted",
    };
    if topic == "direct" {
        settings.log_io = LogIo::Direct;
    }
    settings
}

impl<D: Disk> Side<D> {
    fn new(
        topic: &'static str,
        partition: i32,
        topic_id: TopicId,
        disk: D,
        seed: u64,
    ) -> Result<Self, LogError> {
        run(disk.create_dir(Path::new(DATA))).unwrap();
        run(disk.sync_dir(Path::new(DATA))).unwrap();
        let options = OpenOptions {
            is_clean: false,
            recovery_point: Offset(0),
            log_start_offset: None,
            cleaned_to: None,
            has_checkpoint: true,
            producer_expiration_ms: i64::MAX,
            allocation: None,
            now: Timestamp(TIME),
        };
        let log = run(Log::create(
            disk.clone(),
            Arc::from(Path::new(DATA).join(format!("{topic}-{partition}"))),
            Arc::new(log_settings(topic)),
            topic_id,
            Offset(0),
            options,
        ))?;
        Ok(Self {
            topic,
            partition,
            disk,
            log,
            random: fastrand::Rng::with_seed(seed),
            told: Told::default(),
            now: TIME,
            sequence: 0,
        })
    }

    /// Does one thing. The first error is the power's.
    fn step(&mut self) -> Result<(), LogError> {
        self.now += 10;
        match self.random.u8(0..16) {
            0..7 => self.append()?,
            7..10 => self.told.flushed = run(self.log.flush())?.0,
            10 => self.told.flushed = run(self.log.flush_closed())?.0,
            11 => run(self.log.prepare())?,
            12 => self.checkpoint()?,
            _ if self.log.settings().cleanup_policy.compact => self.clean()?,
            13 => self.delete()?,
            _ => self.append()?,
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), LogError> {
        for _ in 0..self.random.u8(1..4) {
            let count = self.random.i32(1..5);
            let producer = ProducerId(7_000);
            let mut builder = BatchBuilder::uncompressed();
            builder = builder.producer(producer, ProducerEpoch(0), self.sequence);
            let first = self.log.staged_end_offset().0;
            for offset in first..first + i64::from(count) {
                let key = format!("k{}", self.random.u8(0..KEYS));
                let value = (self.random.u8(0..6) > 0).then(|| format!("v{offset}"));
                let value = value.as_ref().map(String::as_bytes);
                builder.append(Timestamp(self.now), Some(key.as_bytes()), value, &[]);
                let record = Record {
                    offset,
                    key: Some(key.into()),
                    value: value.map(|value| value.to_vec().into()),
                };
                self.told.appended.insert(offset, record);
            }
            let bytes = BytesMut::from(&builder.build()[..]);
            let header = BatchHeader::parse(&bytes).unwrap();
            let staged = self.log.stage(
                bytes,
                &header,
                AppendOrigin::Client,
                None,
                LeaderEpoch(0),
                None,
                Timestamp(self.now),
            );
            assert_eq!(staged.unwrap().base_offset.0, first);
            self.sequence += count;
        }
        run(self.log.write_staged(Timestamp(self.now)))?;
        self.log.on_high_watermark(self.log.log_end_offset());
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), LogError> {
        type Value<D> = fn(&Log<D>) -> Option<Offset>;
        let files: [(&str, Value<D>); 3] = [
            (RECOVERY_POINT_CHECKPOINT, |log| {
                Some(log.recovery_checkpoint())
            }),
            (LOG_START_OFFSET_CHECKPOINT, |log| {
                Some(log.log_start_offset())
            }),
            (CLEANER_OFFSET_CHECKPOINT, |log| log.cleaned_to()),
        ];
        for (name, value) in files {
            let entry = value(&self.log).map(|offset| {
                let partition = PartitionIndex(self.partition);
                (self.topic, partition, offset)
            });
            run(write_offsets(&self.disk, Path::new(DATA), name, entry))?;
        }
        self.told.start.0 = self.log.log_start_offset().0;
        Ok(())
    }

    fn clean(&mut self) -> Result<(), LogError> {
        self.told.flushed = run(self.log.flush_closed())?.0;
        let end = self.log.log_end_offset();
        let now = Timestamp(self.now);
        let range = run(self.log.cleanable(end, now))?;
        let limits = Limits {
            map_bytes: 24 * 100,
            load_factor: 0.9,
            io_bytes: 4096,
        };
        let mut cleaner = Cleaner::default();
        let cleaned = run(self.log.clean(&mut cleaner, limits, &range, now, &Hasty));
        match cleaned {
            Ok(_) => Ok(()),
            Err(ringspun::storage::cleaner::CleanError::Log(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    /// Deletes some of what was flushed, and the segments below.
    fn delete(&mut self) -> Result<(), LogError> {
        let start = self.log.log_start_offset().0;
        if self.told.flushed <= start {
            return Ok(());
        }
        let before = start + (self.told.flushed - start) / 4;
        let high_watermark = self.log.log_end_offset();
        self.told.start.1 = before;
        self.log.delete_records(Offset(before), high_watermark)?;
        run(self
            .log
            .delete_old_segments(Timestamp(self.now), high_watermark))?;
        Ok(())
    }
}

/// What was told of a log, and the disk that a power cut at some moment left of it.
fn cut_off(
    topic: &'static str,
    partition: i32,
    topic_id: TopicId,
    seed: u64,
) -> (Told, MemoryDisk) {
    fn work<D: Disk>(
        topic: &'static str,
        partition: i32,
        topic_id: TopicId,
        disk: D,
        memory: &MemoryDisk,
        seed: u64,
    ) -> Told {
        let mut random = fastrand::Rng::with_seed(!seed);
        let Ok(mut side) = Side::new(topic, partition, topic_id, disk, seed) else {
            return Told::default();
        };
        let at = memory.calls(Call::Any) + random.u64(10..400);
        memory.set_fault(Call::Any, at, Fault::PowerOff);
        while let Ok(()) = side.step() {}
        assert!(memory.is_off());
        side.told
    }
    let memory = MemoryDisk::new();
    let told = match topic {
        "direct" => {
            let disk = LogDisk::new(memory.clone(), DirectLimits::default());
            work(topic, partition, topic_id, disk, &memory, seed)
        }
        _ => work(topic, partition, topic_id, memory.clone(), &memory, seed),
    };
    (told, memory.crash(Crash::Power { seed }))
}

/// Puts the files of a disk in memory below `data`, and its checkpoints among `checkpoints`.
fn write_out(
    disk: &MemoryDisk,
    data: &Path,
    folder: &str,
    checkpoints: &mut BTreeMap<String, Offsets>,
) {
    let to = data.join(folder);
    fs::remove_dir_all(&to).unwrap();
    for (path, bytes) in disk.files() {
        let inside = path.strip_prefix(DATA).unwrap();
        let name = inside.file_name().unwrap().to_str().unwrap();
        if inside.parent() == Some(Path::new("")) {
            if name.ends_with("-checkpoint") {
                let offsets = decode_offsets(&bytes).unwrap();
                checkpoints.entry(name.into()).or_default().extend(offsets);
            }
            continue;
        }
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// Holds what a partition serves against what was told; where it ends.
fn check(peer: &mut Peer, topic: &str, partition: i32, told: &mut Told) -> Result<i64, String> {
    let bounds = bounds(peer, topic, partition);
    let (Offset(start), Offset(end)) = bounds.map_err(|code| format!("code {code}"))?;
    let (least, most) = told.start;
    // Of records that were never flushed the first may be gone with their segment.
    let most = if told.flushed > most { most } else { i64::MAX };
    if start < least || start > most || end < told.flushed {
        let flushed = told.flushed;
        return Err(format!(
            "{start}..{end}, flushed to {flushed}, starts from {least} to {most}"
        ));
    }
    let served = read(peer, topic, partition, start, false);
    if let Some(problem) = served.problem {
        return Err(format!("{problem:?} in {start}..{end}"));
    }
    let mut records = served.records();
    records.retain(|record| record.offset >= start);
    match &told.served {
        Some(before) if *before != records => return Err(format!("{before:?} is now {records:?}")),
        Some(_) => {}
        None => check_first(topic, start..end, &records, told)?,
    }
    told.served = Some(records);
    Ok(end)
}

/// The same for what the first start after the power cut serves.
fn check_first(
    topic: &str,
    offsets: std::ops::Range<i64>,
    records: &[Record],
    told: &Told,
) -> Result<(), String> {
    for record in records {
        if told.appended.get(&record.offset) != Some(record) {
            return Err(format!("{record:?} was not appended"));
        }
    }
    let is_there = |offset: i64| records.binary_search_by_key(&offset, |r| r.offset).is_ok();
    if topic != "compacted" {
        return match offsets.clone().find(|offset| !is_there(*offset)) {
            None => Ok(()),
            Some(offset) => Err(format!("{offset} of {offsets:?} is missing")),
        };
    }
    let mut last = BTreeMap::new();
    for record in told.appended.range(..told.flushed).map(|(_, r)| r) {
        last.insert(&record.key, record.offset);
    }
    match last.iter().find(|(_, offset)| !is_there(**offset)) {
        None => Ok(()),
        Some((key, offset)) => Err(format!("{offset}, the last of {key:?}, is missing")),
    }
}

/// Appends one more record to each partition, at the end of what was found.
fn go_on(
    peer: &mut Peer,
    topic: &str,
    partition: i32,
    end: i64,
    told: &mut Told,
) -> Result<(), String> {
    let mut builder = BatchBuilder::uncompressed();
    let value = format!("more at {end}");
    builder.append(Timestamp(TIME), Some(b"more"), Some(value.as_bytes()), &[]);
    peer.send(&produce(topic, partition, -1, builder.build().into(), 3));
    let frame = peer.receive().unwrap().expect("an answer");
    let response: kafka_protocol::messages::ProduceResponse = answer(frame, 1, 9);
    let answered = &response.responses[0].partition_responses[0];
    if (answered.error_code, answered.base_offset) != (0, end) {
        return Err(format!("appended at {end}: {answered:?}"));
    }
    let record = Record {
        offset: end,
        key: Some("more".into()),
        value: Some(value.into()),
    };
    told.served.get_or_insert_default().push(record);
    Ok(())
}

fn create_topics(node: &Node, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .create()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (name, settings) in TOPICS {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
        created.unwrap().remove(0).unwrap();
    }
}

#[test]
fn a_broker_serves_what_was_flushed_before_a_power_cut_and_nothing_that_was_not_appended() {
    let first = environment("RINGSPUN_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let partitions = (LOGS / TOPICS.len() as u64) as i32;
    let mut node = Node::start(&[
        ("ringspun.shards", "2"),
        ("ringspun.memory.bytes", "300000000"),
        ("log.cleaner.enable", "false"),
    ]);
    create_topics(&node, partitions);
    assert!(node.broker.stop().unwrap().success());
    let data = node.broker.log_dir();
    let mut checkpoints = BTreeMap::new();
    let mut logs = Vec::new();
    for (n, (topic, _)) in TOPICS.iter().enumerate() {
        for partition in 0..partitions {
            let folder = format!("{topic}-{partition}");
            let metadata = fs::read(data.join(&folder).join(PARTITION_METADATA)).unwrap();
            let topic_id = decode_partition_metadata(&metadata).unwrap().unwrap();
            let seed = first + n as u64 * partitions as u64 + partition as u64;
            let (told, disk) = cut_off(topic, partition, topic_id, seed);
            write_out(&disk, &data, &folder, &mut checkpoints);
            logs.push((*topic, partition, seed, told));
        }
    }
    fs::remove_file(data.join(".kafka_cleanshutdown")).unwrap();
    for (name, offsets) in &checkpoints {
        let entries = offsets.iter().map(|((t, p), o)| (t.as_str(), *p, *o));
        fs::write(data.join(name), encode_offsets(entries)).unwrap();
    }
    // As they are found, and once more after kill -9.
    for round in 0..2 {
        node.broker.start_again().unwrap();
        let mut peer = node.connect();
        for (topic, partition, seed, told) in &mut logs {
            let checked = check(&mut peer, topic, *partition, told);
            let went_on = checked.and_then(|end| go_on(&mut peer, topic, *partition, end, told));
            if let Err(problem) = went_on {
                panic!(
                    "round {round}, {topic}-{partition} of seed {seed} (RINGSPUN_SEED={first}): {problem}\n{}",
                    node.log()
                );
            }
        }
        node.broker.kill();
    }
    let flushed = logs.iter().filter(|(.., told)| told.flushed > 10).count();
    assert!(flushed * 2 > logs.len(), "{flushed} had anything to lose");
}
