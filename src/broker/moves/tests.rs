//! Whole moves over disks in memory that fail at one call after the other, while records are written and read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::future::{poll_once, yield_now};

use super::mover::{Host, Mover, Place};
use super::{Ended, Move};
use crate::base::profile::Timeline;
use crate::base::settings::{CleanupPolicy, LogIo, LogSettings, NodeSettings};
use crate::base::{
    BrokerId, LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId, TopicPartition,
};
use crate::broker::error::PartitionError;
use crate::broker::messages::{FetchPartition, ProduceBatch, Reply};
use crate::broker::offload::bytes_of;
use crate::broker::partition::{Moved, Partition};
use crate::broker::purgatory::ProduceOp;
use crate::broker::reply::{self, ReplyTo};
use crate::records::{BatchBuilder, BatchHeader, RecordIter, Scratch, verify_crc};
use crate::replication::LeaderState;
use crate::server::data;
use crate::server::data_dir::DataDir;
use crate::server::meta_properties::DirectoryId;
use crate::storage::checkpoint::REPLICA_MOVED;
use crate::storage::memory::{Call, Crash, Fault};
use crate::storage::names::PARTITION_METADATA;
use crate::storage::{
    AllocationBudget, DirectLimits, Disk as _, Log, LogDisk, MemoryDisk, OpenMode, OpenOptions,
};

type TestDisk = LogDisk<MemoryDisk>;
type TestPartition = Rc<Partition<TestDisk>>;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// The directories of the node, each on a disk of its own.
const DIRS: [&str; 3] = ["/a", "/b", "/c"];
const FOLDER: &str = "t-0";
const NODE: BrokerId = BrokerId(1);
/// Records that are sent during one move, at most.
const SENT: u64 = 12;
/// With every other seed all before is deleted when so many were sent.
const DELETED_AFTER: u64 = 4;

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

fn memory_disk(dir: &str) -> MemoryDisk {
    let disk = MemoryDisk::new();
    run(disk.create_dir(Path::new(dir))).unwrap();
    run(disk.sync_dir(Path::new(dir))).unwrap();
    disk
}

fn options() -> OpenOptions {
    OpenOptions {
        is_clean: false,
        recovery_point: Offset(0),
        log_start_offset: None,
        cleaned_to: None,
        has_checkpoint: true,
        producer_expiration_ms: 86_400_000,
        allocation: None,
        now: NOW,
    }
}

/// How the log of a run is written.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// An fsync before each acknowledgement.
    is_durable: bool,
    io: LogIo,
}

impl Kind {
    fn settings(self) -> LogSettings {
        let mut settings = NodeSettings::defaults().log_defaults.clone();
        settings.log_io = self.io;
        settings.flush_messages = if self.is_durable { 1 } else { u64::MAX };
        settings.segment_bytes = 700;
        settings.index_interval_bytes = 150;
        settings.retention_ms = -1;
        settings.cleanup_policy = CleanupPolicy {
            compact: false,
            delete: true,
        };
        settings
    }
}

/// What is sent while a log moves.
#[derive(Clone, Copy, Debug)]
enum Load {
    Nothing,
    /// A few records.
    Some,
    MoreThanIsCopied,
}

/// What one call to a disk does.
#[derive(Clone, Copy, Debug)]
struct Failing {
    disk: usize,
    call: Call,
    fault: Fault,
}

/// A node with one partition.
struct World {
    disks: [MemoryDisk; 3],
    seed: u64,
    failing: Cell<Option<Failing>>,
    allocation: Arc<AllocationBudget>,
    settings: Arc<LogSettings>,
    partition: RefCell<TestPartition>,
    /// Values of acknowledged records, by their offsets.
    acknowledged: RefCell<BTreeMap<i64, String>>,
    sent: Cell<u64>,
    /// What is sent while the log moves.
    load: Cell<Load>,
    /// The directory in which a log failed on its way.
    suspected: Cell<usize>,
    /// Folders that are to be removed.
    left: RefCell<Vec<PathBuf>>,
}

fn leader(end: Offset, high_watermark: Offset) -> LeaderState {
    let replicas = [NODE];
    let epoch = LeaderEpoch(3);
    LeaderState::new(NODE, epoch, &replicas, &replicas, end, high_watermark, NOW)
}

impl World {
    /// The log lies in the first directory and has a few segments; what was first in it is deleted.
    fn new(kind: Kind, seed: u64) -> Self {
        let disks = DIRS.map(memory_disk);
        let settings = Arc::new(kind.settings());
        let log = run(Log::create(
            LogDisk::new(disks[0].clone(), DirectLimits::default()),
            Path::new(DIRS[0]).join(FOLDER).into(),
            settings.clone(),
            TopicId(7),
            Offset(0),
            options(),
        ));
        let key = TopicPartition::new(TopicId(7), PartitionIndex(0));
        let leader = leader(Offset(0), Offset(0));
        let log = Rc::new(log.unwrap());
        let partition = Partition::new(key, "t".into(), 0, log, settings.clone(), leader);
        let world = Self {
            disks,
            seed,
            failing: Cell::new(None),
            allocation: Arc::new(AllocationBudget::new(1 << 30)),
            settings,
            partition: RefCell::new(Rc::new(partition)),
            acknowledged: RefCell::default(),
            sent: Cell::new(0),
            load: Cell::new(Load::Some),
            suspected: Cell::new(SOURCE),
            left: RefCell::default(),
        };
        for _ in 0..24 {
            assert!(run(world.send()));
        }
        let partition = world.partition();
        assert!(partition.log.segment_count() > 2);
        partition.delete_records(Offset(2)).unwrap();
        world
            .acknowledged
            .borrow_mut()
            .retain(|offset, _| *offset >= 2);
        world
    }

    /// Opens the log anew, after it was closed in order.
    fn open(&self) {
        let old = self.partition();
        let (log, _) = run(Log::open(
            LogDisk::new(self.disks[SOURCE].clone(), DirectLimits::default()),
            Path::new(DIRS[SOURCE]).join(FOLDER).into(),
            self.settings.clone(),
            OpenOptions {
                is_clean: true,
                recovery_point: old.log.recovery_point(),
                ..options()
            },
        ))
        .unwrap();
        let (end, topic) = (log.log_end_offset(), old.topic.clone());
        let (log, settings) = (Rc::new(log), self.settings.clone());
        let leader = leader(end, end);
        let partition = Partition::new(old.key, topic, SOURCE, log, settings, leader);
        *self.partition.borrow_mut() = Rc::new(partition);
    }

    fn partition(&self) -> TestPartition {
        self.partition.borrow().clone()
    }

    /// Sends a record, and does what the writer and the flusher of a shard do. Returns whether it is acknowledged.
    async fn send(&self) -> bool {
        let partition = self.partition();
        let value = format!("value-{:050}", self.sent.get());
        self.sent.set(self.sent.get() + 1);
        let mut builder = BatchBuilder::uncompressed();
        builder.append(NOW, None, Some(value.as_bytes()), &[]);
        let batch = ProduceBatch {
            records: BytesMut::from(&builder.build()[..]),
            verified: None,
        };
        let (sender, receiver) = reply::local();
        let op = ProduceOp::new(1, ReplyTo::Local(sender), Timeline::OFF);
        match partition.append(batch, -1, true, NOW, &mut Scratch::default()) {
            Ok(appended) => {
                partition.wait(appended, -1, 0, &op);
            }
            Err(PartitionError::Moving | PartitionError::Storage | PartitionError::Unknown) => {
                return false;
            }
            Err(error) => panic!("{error}"),
        }
        partition.write(NOW).await;
        if partition.wants_flush_now()
            && let Err(error) = partition.flush().await
        {
            partition.fail(&error);
        }
        if partition.begin_prepare() {
            partition.prepare().await;
        }
        let Some(Ok(Reply::Produce(mut answers, _))) = poll_once(receiver).await else {
            panic!("not answered");
        };
        match answers.remove(0).result {
            Ok(produced) => {
                let mut acknowledged = self.acknowledged.borrow_mut();
                let before = acknowledged.insert(produced.base_offset.0, value);
                assert_eq!(before, None, "an offset twice");
                true
            }
            Err(_) => false,
        }
    }

    /// Deletes all records but the last, if they may be deleted now.
    fn delete_records(&self) {
        let mut acknowledged = self.acknowledged.borrow_mut();
        let (last, _) = acknowledged.last_key_value().unwrap();
        let before = Offset(*last);
        if self.partition().delete_records(before).is_ok() {
            acknowledged.retain(|offset, _| *offset >= before.0);
        }
    }

    /// Reads an acknowledged record as a client does.
    async fn read(&self, offset: i64) {
        let ask = FetchPartition {
            fetch_offset: Offset(offset),
            max_bytes: 1 << 20,
            current_leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
        };
        for _ in 0..3 {
            let partition = self.partition();
            let fetched = match partition.fetch(ask, 1 << 20, true, false).await {
                Ok(fetched) => fetched,
                // It has just moved.
                Err(PartitionError::Unknown) if partition.deleted.get() => continue,
                Err(_) if partition.log.failure().is_some() => return,
                // The one read that fails.
                Err(_) if self.failing.get().is_some_and(|f| f.call == Call::Read) => continue,
                Err(error) => panic!("offset {offset}: {error}"),
            };
            let mut found = Vec::new();
            for slice in fetched.records {
                values_of(&bytes_of(slice).await.unwrap(), &mut found);
            }
            let value = &self.acknowledged.borrow()[&offset];
            assert_eq!(found.first(), Some(&(offset, value.clone())));
            return;
        }
        panic!("offset {offset} cannot be read");
    }

    /// Sends and reads until a move is done.
    async fn use_beside(&self, is_done: &Cell<bool>) {
        let mut sent = 0;
        while !is_done.get() {
            let sends = match self.load.get() {
                Load::Nothing => 0,
                Load::Some => u64::from(sent < SENT),
                Load::MoreThanIsCopied => 20,
            };
            for _ in 0..sends {
                sent += 1;
                self.send().await;
            }
            if sent == DELETED_AFTER && self.seed % 2 == 1 {
                self.delete_records();
            }
            let (first, last) = {
                let acknowledged = self.acknowledged.borrow();
                let first = acknowledged.first_key_value();
                let last = acknowledged.last_key_value();
                (*first.unwrap().0, *last.unwrap().0)
            };
            self.read(last).await;
            self.read(first).await;
            yield_now().await;
        }
    }

    /// Moves the log to the directory of this place, while it is written and read.
    fn move_to(&self, to: usize) -> Result<(), Ended> {
        let partition = self.partition();
        let running = Move::new(to);
        let host = TestHost { world: self, to };
        let disk = |of: usize| LogDisk::new(self.disks[of].clone(), DirectLimits::default());
        let mover = Mover {
            host: &host,
            partition: &partition,
            running: &running,
            place: Place {
                directory: to,
                path: Path::new(DIRS[to]),
                disk: disk(to),
                allocation: &self.allocation,
            },
            source_disk: disk(partition.directory),
            last_bytes: 300,
        };
        let is_done = Cell::new(false);
        let moving = async {
            let ended = async {
                mover.check()?;
                let future = mover.make_future().await?;
                *running.log.borrow_mut() = Some(future.clone());
                mover.fill_and_swap(&future).await
            };
            let ended = ended.await;
            if let Some(log) = running.log.take() {
                mover.discard(&log).await;
            }
            for folder in self.left.take() {
                self.remove(&folder).await;
            }
            is_done.set(true);
            ended
        };
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut context = Context::from_waker(Waker::noop());
        let (mut moving, mut using) = (pin!(moving), pin!(self.use_beside(&is_done)));
        let (mut ended, mut used) = (None, false);
        for _ in 0..200_000 {
            if random.bool()
                && ended.is_none()
                && let Poll::Ready(result) = moving.as_mut().poll(&mut context)
            {
                ended = Some(result);
            }
            if random.bool() && !used {
                used = using.as_mut().poll(&mut context).is_ready();
            }
            if used && let Some(ended) = ended.take() {
                return ended;
            }
        }
        panic!("the move does not end");
    }

    async fn remove(&self, folder: &Path) {
        let of = DIRS.iter().position(|dir| folder.starts_with(dir));
        // As in a shard, what cannot be removed is left for the next start.
        let _ = self.disks[of.unwrap()].remove_dir_all(folder).await;
    }

    fn pause(&self, seed: Option<u64>) {
        self.disks.iter().for_each(|disk| disk.pause(seed));
    }

    /// What a start finds after a crash: one log, which has all that was acknowledged.
    fn assert_start(&self, crash: Crash, what: &str) {
        let images = self.disks.each_ref().map(|disk| disk.crash(crash));
        // In memory, where there is that: the syncs of a start would take most of the time.
        let memory = Path::new("/dev/shm");
        let root = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let root = root.unwrap();
        let dirs = DIRS.map(|dir| root.path().join(&dir[1..]));
        for ((image, from), to) in images.iter().zip(DIRS).zip(&dirs) {
            copy_names(image, Path::new(from), to);
        }
        let of_node = dirs.each_ref().map(|dir| DataDir {
            path: dir.clone(),
            directory_id: DirectoryId(1),
            clean_stop: None,
            offline: None,
        });
        let mut found = data::scan(&of_node, true).unwrap();
        found.settle_moves().unwrap();
        assert_eq!(found.folders().collect::<Vec<_>>(), [FOLDER], "{what}");
        let mut kept = Vec::new();
        for (at, dir) in dirs.iter().enumerate() {
            for entry in fs::read_dir(dir).unwrap() {
                match entry.unwrap().file_name().to_str().unwrap() {
                    FOLDER => kept.push(at),
                    name => assert!(name.ends_with("-delete"), "{what}: {name}"),
                }
            }
        }
        let [kept] = kept[..] else {
            panic!("{what}: it lies in {kept:?}");
        };
        assert!(!dirs[kept].join(FOLDER).join(REPLICA_MOVED).exists());
        let (log, report) = run(Log::open(
            LogDisk::new(images[kept].clone(), DirectLimits::default()),
            Path::new(DIRS[kept]).join(FOLDER).into(),
            self.settings.clone(),
            options(),
        ))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(report.damage, None, "{what}");
        let found = all_of(&log);
        for (offset, value) in self.acknowledged.borrow().iter() {
            let of = found.get(offset);
            assert_eq!(of, Some(value), "{what}: offset {offset} of {}", DIRS[kept]);
        }
    }
}

/// The folders of a disk, with the files that tell a start what they are.
fn copy_names(disk: &MemoryDisk, from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for folder in run(disk.list(from)).unwrap() {
        if !folder.is_dir {
            continue;
        }
        fs::create_dir(to.join(&folder.name)).unwrap();
        for file in run(disk.list(&from.join(&folder.name))).unwrap() {
            if [REPLICA_MOVED, PARTITION_METADATA].contains(&&*file.name) {
                let path = Path::new(&folder.name).join(&file.name);
                let content = run(disk.read_file(&from.join(&path), 1000)).unwrap();
                fs::write(to.join(&path), content).unwrap();
            }
        }
    }
}

fn values_of(bytes: &Bytes, into: &mut Vec<(i64, String)>) {
    let mut at = 0;
    while at < bytes.len() {
        let header = BatchHeader::parse(&bytes[at..]).unwrap();
        let batch = bytes.slice(at..at + header.size_in_bytes());
        at += batch.len();
        assert!(verify_crc(&batch));
        for record in RecordIter::of_batch(&header, &batch) {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            into.push((record.offset.0, value));
        }
    }
}

fn all_of(log: &Log<TestDisk>) -> BTreeMap<i64, String> {
    let (mut next, end) = (log.log_start_offset(), log.log_end_offset());
    let mut found = Vec::new();
    while next < end {
        let out = run(log.read(next, 10_000, end, true)).unwrap();
        let Some(slice) = out.slice else { break };
        values_of(&run(bytes_of(slice)).unwrap(), &mut found);
        next = out.next_offset;
    }
    assert!(found.is_sorted_by_key(|(offset, _)| *offset));
    found.into_iter().collect()
}

struct TestHost<'a> {
    world: &'a World,
    to: usize,
}

impl Host<TestDisk> for TestHost<'_> {
    fn is_stopping(&self) -> bool {
        false
    }

    fn place_failure(&self) -> Option<&str> {
        None
    }

    fn now(&self) -> Timestamp {
        NOW
    }

    fn producer_expiration_ms(&self) -> i64 {
        86_400_000
    }

    fn one_more(&self) {}

    fn take_room(&self, _bytes: usize) -> bool {
        true
    }

    fn is_limited(&self) -> bool {
        false
    }

    async fn copied(&self, _bytes: usize, _took: Duration) {
        yield_now().await;
    }

    async fn written(&self) {
        yield_now().await;
    }

    async fn flushed(&self) {
        yield_now().await;
    }

    fn close_coordinators(&self) {}

    fn open_coordinators(&self, partition: &TestPartition) {
        assert!(!partition.moving.get());
    }

    fn leader(&self, end: Offset, high_watermark: Offset) -> LeaderState {
        leader(end, high_watermark)
    }

    fn serve(&self, moved: &TestPartition) {
        assert_eq!(moved.directory, self.to);
        *self.world.partition.borrow_mut() = moved.clone();
    }

    fn settle(&self, _moved: Moved) {}

    fn suspect_place(&self) {
        self.world.suspected.set(self.to);
    }

    async fn remove_folder(&self, folder: PathBuf) {
        self.world.remove(&folder).await;
    }

    fn remove_later(&self, folder: PathBuf) {
        self.world.left.borrow_mut().push(folder);
    }
}

/// Lets the `nth` call of a move fail. Returns whether there is one.
fn fail_at(kind: Kind, failing: Failing, nth: u64, seed: u64) -> bool {
    let what = format!("{kind:?}, {failing:?} at {nth}, seed {seed}");
    let world = World::new(kind, seed);
    if failing.call == Call::Read {
        // What was just written need not be read.
        run(world.partition().log.close(NOW)).unwrap();
        world.open();
    }
    world.pause(Some(seed));
    let disk = &world.disks[failing.disk];
    let begun = disk.calls(failing.call);
    disk.set_fault(failing.call, begun + nth, failing.fault);
    world.failing.set(Some(failing));
    let ended = world.move_to(1);
    let has_failed = disk.calls(failing.call) >= begun + nth || disk.is_off();
    if !has_failed {
        assert!(ended.is_ok(), "{what}: {ended:?}");
        return false;
    }
    disk.clear_fault();
    world.failing.set(None);
    world.pause(None);
    let partition = world.partition();
    let place = usize::from(ended.is_ok());
    assert_eq!(partition.directory, place, "{what}: {ended:?}");
    let failure = partition.log.failure();
    if failing.disk != place {
        assert!(failure.is_none(), "{what}: {ended:?}, {failure:?}");
    }
    if failing.disk == TARGET && failing.fault == Fault::PowerOff && ended.is_err() {
        assert_eq!(world.suspected.get(), TARGET, "{what}: {ended:?}");
    }
    world.assert_start(Crash::Kill, &what);
    if kind.is_durable {
        for seed in 0..3 {
            world.assert_start(Crash::Power { seed }, &what);
        }
    }
    if failure.is_some() || world.disks[place].is_off() {
        return true;
    }
    // It goes on, and can be moved: back, or anew, or to a disk that is well.
    assert!(run(world.send()), "{what}");
    let to = [1 - place, 2].into_iter();
    let to = to.into_iter().find(|to| !world.disks[*to].is_off());
    let again = world.move_to(to.unwrap());
    assert!(again.is_ok(), "{what}: {again:?} after {ended:?}");
    assert!(run(world.send()), "{what}");
    world.assert_start(Crash::Kill, &format!("{what}, moved again"));
    true
}

fn fail_at_each(kind: Kind, failing: Failing) {
    for seed in 0..2 {
        let calls = (1..).take_while(|nth| fail_at(kind, failing, *nth, seed));
        let calls = calls.count();
        assert!(calls > 10, "{kind:?}, {failing:?}: {calls} calls");
    }
}

const CACHED: Kind = Kind {
    is_durable: false,
    io: LogIo::PageCache,
};
const DURABLE: Kind = Kind {
    is_durable: true,
    io: LogIo::PageCache,
};
const DIRECT: Kind = Kind {
    is_durable: true,
    io: LogIo::Direct,
};

/// Where a log comes from, and where it goes.
const SOURCE: usize = 0;
const TARGET: usize = 1;

fn fail_on(disk: usize, kinds: &[Kind]) {
    for &kind in kinds {
        for (call, fault) in [
            (Call::Any, Fault::Io),
            (Call::Any, Fault::DiskFull),
            (Call::Any, Fault::PowerOff),
            (Call::Write, Fault::Short(10)),
        ] {
            let failing = Failing { disk, call, fault };
            fail_at_each(kind, failing);
        }
    }
}

#[test]
fn a_disk_that_fails_under_a_move_to_it_leaves_the_log_where_it_is() {
    fail_on(TARGET, &[CACHED, DURABLE]);
}

#[test]
fn a_disk_that_fails_under_a_move_past_the_page_cache_leaves_the_log_where_it_is() {
    fail_on(TARGET, &[DIRECT]);
}

#[test]
fn a_disk_that_fails_under_a_move_away_from_it_loses_nothing() {
    fail_on(SOURCE, &[CACHED, DURABLE]);
}

#[test]
fn a_disk_that_fails_under_a_move_away_from_it_past_the_page_cache_loses_nothing() {
    fail_on(SOURCE, &[DIRECT]);
}

#[test]
fn a_read_that_fails_during_a_move_ends_it_and_nothing_else() {
    let (call, fault) = (Call::Read, Fault::Io);
    let mut reads = [0, 0];
    for (disk, kind) in [(SOURCE, CACHED), (SOURCE, DIRECT), (TARGET, DIRECT)] {
        for seed in 0..3 {
            let failing = Failing { disk, call, fault };
            let calls = (1..).take_while(|nth| fail_at(kind, failing, *nth, seed));
            reads[disk] += calls.count();
        }
    }
    assert!(reads[SOURCE] > 20, "{reads:?}");
}

#[test]
fn a_log_whose_last_records_were_compacted_away_moves_and_goes_on_at_its_end() {
    for seed in 0..20 {
        let world = World::new(CACHED, seed);
        run(world.partition().log.close(NOW)).unwrap();
        let end = world.partition().log.log_end_offset().plus(40);
        let active = Path::new(DIRS[SOURCE]).join(FOLDER);
        let active = active.join(format!("{:020}.log", end.0));
        run(world.disks[SOURCE].open(&active, OpenMode::Create)).unwrap();
        world.open();
        assert_eq!(world.partition().log.log_end_offset(), end);
        // Nobody writes.
        world.load.set(Load::Nothing);
        world.move_to(TARGET).unwrap();
        assert_eq!(world.partition().log.log_end_offset(), end);
        assert!(run(world.send()));
        assert!(world.acknowledged.borrow().contains_key(&end.0));
        world.assert_start(Crash::Kill, "moved");
    }
}

#[test]
fn a_move_ends_though_more_is_written_than_is_copied() {
    for seed in 0..20 {
        let world = World::new(CACHED, seed);
        world.load.set(Load::MoreThanIsCopied);
        world.move_to(TARGET).unwrap();
        assert!(world.sent.get() > 100);
        assert!(run(world.send()));
        world.assert_start(Crash::Kill, "moved");
    }
}
