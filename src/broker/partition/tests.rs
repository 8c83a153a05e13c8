//! A partition over a disk in memory whose syncs the test holds open.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::*;
use crate::base::profile::Timeline;
use crate::base::settings::NodeSettings;
use crate::base::{BrokerId, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use crate::broker::messages::{Answer, Fetch, Reply};
use crate::broker::offload::{ShardDisk, ShardLog};
use crate::broker::reply::{self, LocalPending, ReplyTo};
use crate::records::BatchBuilder;
use crate::storage::memory::{Call, Fault};
use crate::storage::{MemoryDisk, OpenOptions};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const ACKS_ALL: i16 = -1;
const ACKS_LEADER: i16 = 1;

/// One poll of a future that wakes nobody.
fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Runs what does not wait.
fn run<F: Future>(future: F) -> F::Output {
    poll(&mut Box::pin(future)).expect("waits for nothing")
}

fn partition(
    disk: &MemoryDisk,
    isr: &[BrokerId],
    change: impl FnOnce(&mut LogSettings),
) -> Partition<MemoryDisk> {
    let mut settings = NodeSettings::defaults().log_defaults.clone();
    change(&mut settings);
    let settings = Arc::new(settings);
    run(disk.create_dir(Path::new("/data"))).unwrap();
    let options = OpenOptions {
        is_clean: false,
        recovery_point: Offset(0),
        log_start_offset: None,
        cleaned_to: None,
        has_checkpoint: true,
        producer_expiration_ms: 86_400_000,
        allocation: None,
        now: NOW,
    };
    let topic_id = TopicId(7);
    let log = run(Log::create(
        disk.clone(),
        Arc::from(Path::new("/data/t-0")),
        settings.clone(),
        topic_id,
        Offset(0),
        options,
    ))
    .unwrap();
    let leader = LeaderState::new(isr[0], LeaderEpoch(3), isr, isr, Offset(0), Offset(0), NOW);
    let key = TopicPartition::new(topic_id, PartitionIndex(0));
    Partition::new(key, "t".into(), 0, Rc::new(log), settings, leader)
}

/// A produce on its way.
struct Sent {
    op: Rc<ProduceOp>,
    reply: Pin<Box<LocalPending>>,
}

impl Sent {
    /// The base offset or the error, if it was answered by now.
    fn answer(&mut self) -> Option<Result<i64, String>> {
        let reply = poll(&mut self.reply)?.expect("answered, not dropped");
        let Reply::Produce(mut answers, _) = reply else {
            panic!("a produce is answered as one");
        };
        assert_eq!(answers.len(), 1);
        let Answer { result, .. } = answers.remove(0);
        let offset = result.map(|produced| produced.base_offset.0);
        Some(offset.map_err(|error| error.to_string()))
    }
}

/// Stages one record and registers who waits for it; to be written by [`Partition::write`].
fn send(partition: &Partition<MemoryDisk>, acks: i16, now: Timestamp) -> Sent {
    let mut builder = BatchBuilder::uncompressed();
    builder.append(now, None, Some(b"value"), &[]);
    let records = BytesMut::from(&builder.build()[..]);
    let (sender, receiver) = reply::local();
    let op = ProduceOp::new(1, ReplyTo::Local(sender), Timeline::OFF);
    let appended = partition
        .append(
            ProduceBatch {
                records,
                verified: None,
            },
            acks,
            true,
            now,
            &mut Scratch::default(),
        )
        .unwrap();
    partition.wait(appended, acks, 0, &op);
    Sent {
        op,
        reply: Box::pin(receiver),
    }
}

fn ask(offset: i64) -> FetchPartition {
    FetchPartition {
        fetch_offset: Offset(offset),
        max_bytes: 1 << 20,
        current_leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
    }
}

/// What a client sees: the high watermark, what ListOffsets calls the latest and the newest timestamp, and
/// the bytes of a fetch from the start.
fn visible(partition: &Partition<MemoryDisk>) -> (i64, i64, i64, u32) {
    let latest = run(partition.list_offset(LATEST, LeaderEpoch::NONE, false)).unwrap();
    let committed = run(partition.list_offset(LATEST, LeaderEpoch::NONE, true)).unwrap();
    assert_eq!(latest.offset, committed.offset);
    let newest = run(partition.list_offset(MAX_TIMESTAMP, LeaderEpoch::NONE, false)).unwrap();
    let fetched = run(partition.fetch(ask(0), 1 << 20, true, false)).unwrap();
    assert_eq!(fetched.high_watermark, partition.high_watermark());
    assert_eq!(fetched.last_stable_offset, partition.high_watermark());
    (
        fetched.high_watermark.0,
        latest.offset.0,
        newest.offset.0,
        fetched.records_len,
    )
}

#[test]
fn with_flush_messages_1_a_record_is_invisible_until_its_fsync_has_ended() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |s| s.flush_messages = 1);
    disk.hold_syncs();
    let (sender, receiver) = reply::local();
    let mut fetch_reply = Box::pin(receiver);
    let fetch = Rc::new(Fetch {
        id: 0,
        timeline: Timeline::OFF,
        partitions: Vec::new(),
        min_bytes: 1,
        max_bytes: 1 << 20,
        deadline: Some(Instant::now()),
        read_committed: false,
    });
    let fetch = FetchOp::new(0, fetch, 0, Timeline::OFF, ReplyTo::Local(sender));
    partition.watch(&fetch);
    let mut leader = send(&partition, ACKS_LEADER, NOW);
    let mut all = send(&partition, ACKS_ALL, NOW);
    // Written, and no flush has begun.
    let moved = run(partition.write(NOW));
    assert!(moved.fetches.is_empty());
    assert_eq!(partition.log.log_end_offset(), Offset(2));
    assert_eq!(visible(&partition), (0, 0, -1, 0));
    assert!(leader.answer().is_none() && all.answer().is_none());
    assert!(partition.wants_flush_now());
    // It has begun.
    let mut flush = Box::pin(partition.flush());
    assert!(poll(&mut flush).is_none());
    let mut late = send(&partition, ACKS_LEADER, NOW);
    assert!(run(partition.write(NOW)).fetches.is_empty());
    assert!(poll(&mut flush).is_none());
    assert_eq!(visible(&partition), (0, 0, -1, 0));
    assert!(leader.answer().is_none() && all.answer().is_none());
    // It ends: whoever waited is told, and what was written after it had begun is as invisible as before.
    disk.release_syncs();
    let moved = poll(&mut flush).unwrap().unwrap();
    assert!(moved.fetches.iter().any(|op| Rc::ptr_eq(op, &fetch)));
    assert!(poll(&mut fetch_reply).is_none(), "the shard reads again");
    assert_eq!(leader.answer(), Some(Ok(0)));
    assert_eq!(all.answer(), Some(Ok(1)));
    assert!(leader.op.is_done());
    assert!(late.answer().is_none());
    let (high_watermark, latest, newest, bytes) = visible(&partition);
    assert_eq!((high_watermark, latest), (2, 2));
    assert!(newest < 2 && bytes > 0);
    let one = bytes / 2;
    drop(flush);
    assert!(partition.wants_flush_now());
    run(partition.flush()).unwrap();
    assert_eq!(late.answer(), Some(Ok(2)));
    let (high_watermark, latest, _, bytes) = visible(&partition);
    assert_eq!((high_watermark, latest, bytes), (3, 3, 3 * one));
}

#[test]
fn the_append_that_reaches_flush_messages_waits_for_the_flush_and_those_before_do_not() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |s| s.flush_messages = 2);
    let mut first = send(&partition, ACKS_LEADER, NOW);
    run(partition.write(NOW));
    assert_eq!(first.answer(), Some(Ok(0)));
    assert!(!partition.wants_flush_now());
    let mut second = send(&partition, ACKS_LEADER, NOW);
    run(partition.write(NOW));
    assert!(second.answer().is_none());
    assert!(partition.wants_flush_now());
    run(partition.flush()).unwrap();
    assert_eq!(second.answer(), Some(Ok(1)));
}

#[test]
fn acks_1_does_not_wait_behind_acks_all() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1), BrokerId(2)], |_| {});
    let mut all = send(&partition, ACKS_ALL, NOW);
    let mut leader = send(&partition, ACKS_LEADER, NOW);
    run(partition.write(NOW));
    // The follower has not fetched.
    assert_eq!(leader.answer(), Some(Ok(1)));
    assert!(all.answer().is_none());
    let moved = partition
        .leader
        .borrow_mut()
        .follower_fetched(BrokerId(2), Offset(2), NOW);
    assert_eq!(moved, Some(Offset(2)));
    partition.moved();
    assert_eq!(all.answer(), Some(Ok(0)));
}

#[test]
fn records_that_come_during_a_flush_wait_for_flush_ms_of_their_own() {
    let at = |ms: i64| Timestamp(NOW.0 + ms);
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |s| s.flush_ms = 100);
    assert!(!partition.has_unflushed());
    send(&partition, ACKS_LEADER, at(0));
    run(partition.write(at(0)));
    assert!(!partition.flush_is_due_by_age(at(99)));
    assert!(partition.flush_is_due_by_age(at(100)));
    disk.hold_syncs();
    let mut flush = Box::pin(partition.flush());
    assert!(poll(&mut flush).is_none());
    // It is under way: nothing more is due.
    assert!(!partition.flush_is_due_by_age(at(110)));
    send(&partition, ACKS_LEADER, at(120));
    run(partition.write(at(120)));
    disk.release_syncs();
    poll(&mut flush).unwrap().unwrap();
    assert_eq!(partition.log.recovery_point(), Offset(1));
    assert!(!partition.flush_is_due_by_age(at(219)));
    assert!(partition.flush_is_due_by_age(at(220)));
    run(partition.flush()).unwrap();
    assert!(!partition.has_unflushed());
}

#[test]
fn after_a_roll_only_what_was_written_since_then_has_an_age() {
    let at = |ms: i64| Timestamp(NOW.0 + ms);
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |s| {
        s.flush_ms = 100;
        s.segment_bytes = 100;
    });
    send(&partition, ACKS_LEADER, at(0));
    run(partition.write(at(0)));
    send(&partition, ACKS_LEADER, at(50));
    run(partition.write(at(50)));
    assert!(partition.rolled.take());
    run(partition.flush_closed()).unwrap();
    assert_eq!(partition.log.recovery_point(), Offset(1));
    assert!(!partition.flush_is_due_by_age(at(149)));
    assert!(partition.flush_is_due_by_age(at(150)));
}

#[test]
fn one_call_at_a_time_prepares_a_log_and_what_is_wanted_meanwhile_comes_next() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |s| s.flush_messages = 1);
    assert!(!partition.begin_prepare(), "nothing was written");
    let write = || {
        send(&partition, ACKS_LEADER, NOW);
        run(partition.write(NOW));
    };
    write();
    assert!(partition.begin_prepare());
    disk.hold_syncs();
    let mut prepare = Box::pin(partition.prepare());
    assert!(poll(&mut prepare).is_none());
    for _ in 0..10 {
        write();
        assert!(!partition.begin_prepare(), "it is being done");
    }
    disk.release_syncs();
    assert!(poll(&mut prepare).is_some());
    assert!(partition.begin_prepare(), "room was wanted meanwhile");
    run(partition.prepare());
    assert!(!partition.begin_prepare());
}

#[test]
fn a_log_that_goes_offline_says_so_once_and_tells_all_who_wait() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |_| {});
    let mut waiting = [ACKS_LEADER, ACKS_ALL].map(|acks| send(&partition, acks, NOW));
    disk.set_fault(Call::Write, 0, Fault::Io);
    assert!(run(partition.write(NOW)).failed);
    for sent in &mut waiting {
        assert_eq!(
            sent.answer(),
            Some(Err(PartitionError::Storage.to_string()))
        );
    }
    assert!(!run(partition.write(NOW)).failed);
    let error = run(partition.flush()).err().expect("the log is offline");
    assert!(!partition.fail(&error).failed);
}

#[test]
fn a_failed_fsync_is_answered_with_an_error_and_not_tried_again_while_other_logs_go_on() {
    let disk = MemoryDisk::new();
    let durable = |s: &mut LogSettings| s.flush_messages = 1;
    let broken = partition(&disk, &[BrokerId(1)], durable);
    let other_disk = MemoryDisk::new();
    let sound = partition(&other_disk, &[BrokerId(1)], durable);
    let mut lost = send(&broken, ACKS_ALL, NOW);
    run(broken.write(NOW));
    disk.set_fault(Call::Sync, 0, Fault::Io);
    let error = run(broken.flush()).err().expect("the sync fails");
    assert!(broken.fail(&error).failed);
    let refused = PartitionError::Storage.to_string();
    assert_eq!(lost.answer(), Some(Err(refused)));
    assert_eq!(broken.high_watermark(), Offset(0));
    let syncs = disk.calls(Call::Sync);
    assert!(run(broken.flush()).is_err());
    assert_eq!(disk.calls(Call::Sync), syncs);
    let mut kept = send(&sound, ACKS_ALL, NOW);
    run(sound.write(NOW));
    run(sound.flush()).unwrap();
    assert_eq!(kept.answer(), Some(Ok(0)));
}

/// A batch of a transaction that the coordinator agreed to after the partition said `verified`.
fn begin(
    partition: &Partition<MemoryDisk>,
    epoch: i16,
    verified: Option<Guard>,
) -> Result<(), PartitionError> {
    let mut builder = BatchBuilder::uncompressed()
        .producer(ProducerId(7), ProducerEpoch(epoch), 0)
        .transactional();
    builder.append(NOW, None, Some(b"value"), &[]);
    let batch = ProduceBatch {
        records: BytesMut::from(&builder.build()[..]),
        verified,
    };
    let scratch = &mut Scratch::default();
    partition.append(batch, -1, true, NOW, scratch).map(drop)
}

fn end(partition: &Partition<MemoryDisk>, epoch: i16, transaction_version: i16) {
    let marker = Marker {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(epoch),
        commit: true,
        coordinator_epoch: 0,
        transaction_version,
    };
    partition.append_marker(marker, NOW).unwrap();
}

fn guard(partition: &Partition<MemoryDisk>, epoch: i16) -> Option<Guard> {
    let batch = TransactionBatch {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: 0,
        epoch_bump: true,
    };
    match partition.verification(batch).unwrap() {
        Verification::Needed(guard) => Some(guard),
        Verification::NotNeeded => None,
    }
}

#[test]
fn a_transaction_does_not_begin_after_a_marker_that_came_while_the_coordinator_was_asked() {
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |_| {});
    let refused = |result| matches!(result, Err(PartitionError::NotInTransaction));
    assert!(refused(begin(&partition, 0, None)));
    // Also where the marker is the first that the partition hears of the producer.
    for _ in 0..2 {
        let before = guard(&partition, 0);
        end(&partition, 0, 0);
        assert!(refused(begin(&partition, 0, before)));
        let after = guard(&partition, 0);
        assert!(after.is_some());
    }
    begin(&partition, 0, guard(&partition, 0)).unwrap();
    assert_eq!(guard(&partition, 0), None);
}

#[test]
fn the_next_transaction_begins_though_the_marker_of_the_last_came_while_the_coordinator_was_asked()
{
    let disk = MemoryDisk::new();
    let partition = partition(&disk, &[BrokerId(1)], |_| {});
    // A producer of transaction version 2, whose epoch is raised by each end, is not held up by markers.
    for epoch in 1..4 {
        let before = guard(&partition, epoch);
        assert!(before.is_some());
        end(&partition, epoch, 2);
        begin(&partition, epoch, before).unwrap();
        // And what is late is told by its epoch.
        let late = begin(&partition, epoch - 1, before);
        assert!(matches!(late, Err(PartitionError::Sequence(_))));
    }
}

/// Classes of the allocator: one byte more of either is 128, or 64, bytes more a partition.
#[test]
fn an_idle_partition_is_small() {
    let counts = 2 * size_of::<usize>();
    assert!(size_of::<ShardLog>() + counts <= 768);
    assert!(size_of::<Partition<ShardDisk>>() + counts <= 320);
}
