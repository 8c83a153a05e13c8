//! Compaction: against a model, beside everything else that changes a log, and cut off at every call.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::memory::{Call, Crash, Fault};
use super::*;
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{BATCH_HEADER_SIZE, decompress};
use crate::storage::cleaner::{CleanError, Cleaner, Limits, Pace, Pass};

/// Runs on without a pause.
pub(super) struct AtOnce;

impl Pace for AtOnce {
    async fn moved(&self, _: usize) {}
    async fn worked(&self, _: usize) {}
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Pauses at every opportunity.
#[derive(Default)]
struct Halting {
    stopped: Cell<bool>,
}

impl Pace for Halting {
    async fn moved(&self, _: usize) {
        futures_lite::future::yield_now().await;
    }
    async fn worked(&self, _: usize) {
        futures_lite::future::yield_now().await;
    }
    fn is_stopped(&self) -> bool {
        self.stopped.get()
    }
}

const RETENTION_MS: u64 = 1000;

pub(super) fn compacted() -> LogSettings {
    let mut settings = settings();
    settings.cleanup_policy = CleanupPolicy {
        compact: true,
        delete: false,
    };
    settings.segment_bytes = 600;
    settings.delete_retention_ms = RETENTION_MS;
    settings.min_cleanable_dirty_ratio = 0.0;
    settings
}

/// As if segments had been small before.
pub(super) fn merging(log: &Log<impl Disk>) {
    let mut settings = (*log.settings()).clone();
    settings.segment_bytes = 100_000;
    log.set_settings(Arc::new(settings));
}

pub(super) fn limits(keys: u64) -> Limits {
    Limits {
        map_bytes: (keys + 1) * 24,
        load_factor: 0.95,
        io_bytes: 4096,
    }
}

/// What readers of committed records may see.
pub(super) fn stable(log: &Log<impl Disk>) -> Offset {
    let end = log.log_end_offset();
    log.on_high_watermark(end);
    let unstable = log.producers().first_unstable_offset();
    unstable.map_or(end, |first| first.min(end))
}

pub(super) fn try_clean(log: &Log<impl Disk>, keys: u64, now: i64) -> Result<Pass, CleanError> {
    run(log.flush_closed())?;
    let range = run(log.cleanable(stable(log), Timestamp(now)))?;
    let mut cleaner = Cleaner::default();
    run(log.clean(&mut cleaner, limits(keys), &range, Timestamp(now), &AtOnce))
}

/// A key and a value; a tombstone has none.
pub(super) type Record = (u8, Option<u32>);

pub(super) fn batch_with(mut builder: BatchBuilder, records: &[Record], now: i64) -> BytesMut {
    for (key, value) in records {
        let value = value.map(|value| format!("value-{value}"));
        let key = format!("key-{key}");
        builder.append(
            Timestamp(now),
            Some(key.as_bytes()),
            value.as_ref().map(String::as_bytes),
            &[(b"header", Some(b"x"))],
        );
    }
    BytesMut::from(&builder.build()[..])
}

pub(super) fn put(log: &Log<impl Disk>, records: &[Record]) -> i64 {
    append(
        log,
        batch_with(BatchBuilder::uncompressed(), records, NOW.0),
    )
    .0
}

pub(super) fn end_txn(log: &Log<impl Disk>, producer: i64, outcome: TxnOutcome) {
    end_txn_at(log, producer, outcome, LeaderEpoch(0));
}

pub(super) fn end_txn_at(
    log: &Log<impl Disk>,
    producer: i64,
    outcome: TxnOutcome,
    epoch: LeaderEpoch,
) {
    let marker = EndTxnMarker {
        outcome,
        coordinator_epoch: 0,
    };
    let batch = BatchBuilder::end_txn(ProducerId(producer), ProducerEpoch(0), &marker, NOW);
    let header = BatchHeader::parse(&batch).unwrap();
    let batch = BytesMut::from(&batch[..]);
    let origin = AppendOrigin::Coordinator;
    log.stage(batch, &header, origin, Some(&marker), epoch, None, NOW)
        .unwrap();
    run(log.write_staged(NOW)).unwrap();
}

/// Everything that can be read from `from` on: batches with their records.
fn batches(log: &Log<impl Disk>, from: Offset) -> Vec<(BatchHeader, Vec<(i64, Record)>)> {
    let mut found = Vec::new();
    let end = log.log_end_offset();
    let mut next = from;
    while next < end {
        let out = run(log.read(next, 500, end, true)).unwrap();
        let Some(slice) = &out.slice else { break };
        for (header, batch) in batches_of(&bytes_of(slice)) {
            let records = decompress(
                header.compression(),
                &batch[BATCH_HEADER_SIZE..],
                &mut crate::records::Scratch::new(),
                1 << 20,
            );
            let records = match header.records_count {
                0 => Vec::new(),
                _ => records.unwrap(),
            };
            let mut of_batch = Vec::new();
            for record in RecordIter::new(&header, &records) {
                let record = record.unwrap();
                if header.is_control() || record.offset < from {
                    continue;
                }
                assert_eq!(record.headers().count(), 1);
                let number = |bytes: &[u8], prefix: &str| {
                    let text = std::str::from_utf8(bytes).unwrap();
                    text.strip_prefix(prefix).unwrap().parse::<u32>().unwrap()
                };
                let key = number(record.key.unwrap(), "key-") as u8;
                let value = record.value.map(|value| number(value, "value-"));
                of_batch.push((record.offset.0, (key, value)));
            }
            found.push((header, of_batch));
        }
        assert!(out.next_offset > next);
        next = out.next_offset;
    }
    found
}

pub(super) fn records(log: &Log<impl Disk>) -> Vec<(i64, Record)> {
    let batches = batches(log, log.log_start_offset());
    batches
        .into_iter()
        .flat_map(|(_, records)| records)
        .collect()
}

fn names(disk: &impl Disk) -> Vec<String> {
    run(disk.list(Path::new("/data/topic-0")))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

fn assert_no_staging(disk: &impl Disk) {
    let names = names(disk);
    let left = names
        .iter()
        .find(|name| name.ends_with(".cleaned") || name.ends_with(".swap"));
    assert_eq!(left, None, "{names:?}");
}

#[test]
fn the_last_record_of_each_key_stays_where_it_was_and_small_segments_are_merged() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for n in 0..60 {
        put(&log, &[((n % 4) as u8, Some(n)), (9, Some(n))]);
    }
    let before = log.segment_count();
    assert!(before > 8);
    merging(&log);
    let pass = try_clean(&log, 100, NOW.0).unwrap();
    assert_eq!(pass.keys, 5);
    assert!(!pass.map_was_full);
    assert_eq!(pass.segments_before, before - 1);
    assert_eq!(log.segment_count(), 2);
    let cleaned_to = log.cleaned_to().unwrap().0;
    let (clean, dirty): (Vec<_>, Vec<_>) = records(&log)
        .into_iter()
        .partition(|(offset, _)| *offset < cleaned_to);
    assert_eq!(clean.len(), 5);
    for (offset, (key, value)) in clean {
        let n = (offset / 2) as u32;
        assert_eq!(value, Some(n));
        assert_eq!(key, if offset % 2 == 0 { n as u8 % 4 } else { 9 });
    }
    assert_eq!(dirty.len() as i64, 120 - cleaned_to);
    assert_no_staging(&disk);
    // Nothing is dirty now, and nothing changes any more.
    run(log.flush_closed()).unwrap();
    let range = run(log.cleanable(stable(&log), NOW)).unwrap();
    assert_eq!(range.cleanable_bytes, 0);
    assert!(!range.is_due(&compacted()));
}

#[test]
fn keys_that_do_not_fit_the_map_take_several_passes() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for n in 0..100u32 {
        put(&log, &[((n % 50) as u8, Some(n))]);
    }
    run(log.flush_closed()).unwrap();
    let mut passes = 0;
    while run(log.cleanable(stable(&log), NOW))
        .unwrap()
        .cleanable_bytes
        > 0
    {
        try_clean(&log, 7, NOW.0).unwrap();
        passes += 1;
    }
    assert!(passes > 7, "{passes}");
    let keys: Vec<u8> = records(&log).iter().map(|(_, (key, _))| *key).collect();
    let cleaned_to = log.cleaned_to().unwrap().0 as u32;
    let expected: BTreeSet<u8> = (0..cleaned_to).map(|n| (n % 50) as u8).collect();
    let dirty = 100 - cleaned_to as usize;
    assert_eq!(keys.len() - dirty, expected.len());
}

#[test]
fn a_tombstone_goes_when_it_was_cleaned_once_and_its_horizon_has_passed() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    put(&log, &[(1, Some(1)), (2, Some(2))]);
    put(&log, &[(1, None), (3, Some(3))]);
    let fill = |log: &Log<MemoryDisk>| {
        for n in 0..8 {
            put(log, &[(100, Some(n)), (101, Some(n))]);
        }
    };
    fill(&log);
    try_clean(&log, 100, NOW.0).unwrap();
    let horizon = batches(&log, Offset(2))[0].0.delete_horizon();
    assert_eq!(horizon, Some(Timestamp(NOW.0 + RETENTION_MS as i64)));
    let of_key_1 = |log: &Log<MemoryDisk>| {
        let all = records(log).into_iter();
        all.filter(|(_, (key, _))| *key == 1).collect::<Vec<_>>()
    };
    assert_eq!(of_key_1(&log), [(2, (1, None))]);
    fill(&log);
    let later = NOW.0 + RETENTION_MS as i64;
    try_clean(&log, 100, later - 1).unwrap();
    assert_eq!(of_key_1(&log), [(2, (1, None))]);
    // The records keep their own timestamps, whatever the base of their batch is.
    let mut scratch = crate::records::Scratch::new();
    let found = run(log.max_timestamp(&mut scratch)).unwrap().unwrap();
    assert_eq!(found.timestamp, NOW);
    fill(&log);
    try_clean(&log, 100, later).unwrap();
    assert_eq!(of_key_1(&log), []);
    assert!(records(&log).contains(&(3, (3, Some(3)))));
}

#[test]
fn of_an_aborted_transaction_nothing_stays_but_its_marker_until_the_horizon_has_passed() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    let transactional = |producer: i64, sequence| {
        let builder = BatchBuilder::uncompressed().transactional();
        builder.producer(ProducerId(producer), ProducerEpoch(0), sequence)
    };
    append(
        &log,
        batch_with(transactional(1, 0), &[(1, Some(1))], NOW.0),
    );
    append(
        &log,
        batch_with(transactional(2, 0), &[(1, Some(2))], NOW.0),
    );
    append(
        &log,
        batch_with(transactional(1, 1), &[(2, Some(3))], NOW.0),
    );
    end_txn(&log, 1, TxnOutcome::Abort);
    end_txn(&log, 2, TxnOutcome::Commit);
    let fill = |log: &Log<MemoryDisk>| {
        for n in 0..12 {
            put(log, &[(100, Some(n)), (101, Some(n))]);
        }
    };
    fill(&log);
    try_clean(&log, 100, NOW.0).unwrap();
    let controls = |log: &Log<MemoryDisk>| {
        let all = batches(log, Offset(0));
        let controls = all.iter().filter(|(header, _)| header.is_control());
        controls
            .map(|(header, _)| header.base_offset.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(controls(&log), [3, 4]);
    let values: Vec<_> = records(&log).into_iter().take(1).collect();
    assert_eq!(values, [(1, (1, Some(2)))]);
    // The last batch of a producer stays for its sequence, without records.
    let emptied = &batches(&log, Offset(0))[1].0;
    assert_eq!((emptied.base_offset.0, emptied.records_count), (2, 0));
    assert_eq!(emptied.last_sequence(), 1);
    let aborted = run(log.aborted_transactions(Offset(0), Offset(10))).unwrap();
    assert_eq!(aborted.len(), 1);
    // Others of the producers come later.
    append(
        &log,
        batch_with(transactional(1, 2), &[(5, Some(5))], NOW.0),
    );
    end_txn(&log, 1, TxnOutcome::Commit);
    append(
        &log,
        batch_with(transactional(2, 1), &[(1, Some(6))], NOW.0),
    );
    end_txn(&log, 2, TxnOutcome::Commit);
    fill(&log);
    // The transactions are seen to be empty, and get their horizon; then the markers go.
    for now in [NOW.0, NOW.0, NOW.0 + 1000, NOW.0 + 2000] {
        try_clean(&log, 100, now).unwrap();
        fill(&log);
    }
    assert!(!controls(&log).contains(&3), "{:?}", controls(&log));
    assert!(!controls(&log).contains(&4), "{:?}", controls(&log));
    let aborted = run(log.aborted_transactions(Offset(0), log.log_end_offset())).unwrap();
    assert_eq!(aborted, []);
}

#[test]
fn what_is_undecided_is_not_cleaned() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    let builder =
        BatchBuilder::uncompressed()
            .transactional()
            .producer(ProducerId(1), ProducerEpoch(0), 0);
    for n in 0..6 {
        put(&log, &[(1, Some(n))]);
    }
    append(&log, batch_with(builder, &[(1, Some(7))], NOW.0));
    for n in 0..60 {
        put(&log, &[(1, Some(n))]);
    }
    run(log.flush_closed()).unwrap();
    let range = run(log.cleanable(stable(&log), NOW)).unwrap();
    assert!(range.first_uncleanable.0 <= 6);
    end_txn(&log, 1, TxnOutcome::Commit);
    run(log.flush()).unwrap();
    let range = run(log.cleanable(stable(&log), NOW)).unwrap();
    assert!(range.first_uncleanable.0 > 40);
}

#[test]
fn appends_and_reads_go_on_at_every_pause_of_a_pass() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for n in 0..40u32 {
        put(&log, &[((n % 3) as u8, Some(n))]);
    }
    run(log.flush_closed()).unwrap();
    let range = run(log.cleanable(stable(&log), NOW)).unwrap();
    let mut cleaner = Cleaner::default();
    let pace = Halting::default();
    let mut pass = pin!(log.clean(&mut cleaner, limits(100), &range, NOW, &pace));
    let mut context = Context::from_waker(Waker::noop());
    let mut value = 40u32;
    loop {
        match pass.as_mut().poll(&mut context) {
            Poll::Ready(done) => {
                done.unwrap();
                break;
            }
            Poll::Pending => {
                if value < 120 {
                    let offset = put(&log, &[((value % 3) as u8, Some(value))]);
                    assert_eq!(offset, i64::from(value));
                    value += 1;
                }
                let last = records(&log).pop().unwrap();
                assert_eq!(last.1.1, Some(value - 1));
            }
        }
    }
    let last: BTreeMap<u8, Option<u32>> = records(&log)
        .into_iter()
        .map(|(_, record)| record)
        .collect();
    for key in 0..3u8 {
        let expected = (0..value).rev().find(|n| (n % 3) as u8 == key);
        assert_eq!(last[&key], expected);
    }
}

#[test]
fn a_pass_under_which_the_log_is_cut_gives_up_and_leaves_it_alone() {
    for pauses in 0..400 {
        for cut in 0..3 {
            let (disk, data) = memory();
            let log = create(&disk, &data, &compacted());
            for n in 0..40u32 {
                put(&log, &[((n % 3) as u8, Some(n))]);
            }
            run(log.flush_closed()).unwrap();
            let range = run(log.cleanable(stable(&log), NOW)).unwrap();
            let mut cleaner = Cleaner::default();
            let pace = Halting::default();
            let mut pass = pin!(log.clean(&mut cleaner, limits(100), &range, NOW, &pace));
            let mut context = Context::from_waker(Waker::noop());
            let mut done = None;
            for _ in 0..pauses {
                if let Poll::Ready(result) = pass.as_mut().poll(&mut context) {
                    done = Some(result);
                    break;
                }
            }
            if done.is_some() {
                return;
            }
            match cut {
                0 => {
                    run(log.truncate_to(log.lower_recovery_point(Offset(20)), NOW)).unwrap();
                    for n in 50..80u32 {
                        put(&log, &[((n % 3) as u8, Some(n))]);
                    }
                }
                1 => {
                    log.delete_records(Offset(25), log.log_end_offset())
                        .unwrap();
                    run(log.delete_old_segments(NOW, log.log_end_offset())).unwrap();
                }
                _ => pace.stopped.set(true),
            }
            let result = run(pass);
            let error = result.as_ref().err();
            match cut {
                1 | 2 if result.is_ok() => {}
                _ => assert!(matches!(error, Some(CleanError::Aborted)), "{error:?}"),
            }
            assert!(log.failure().is_none());
            assert_no_staging(&disk);
            let last: BTreeMap<u8, Option<u32>> = records(&log)
                .into_iter()
                .map(|(_, record)| record)
                .collect();
            let all: Vec<u32> = match cut {
                0 => (0..20).chain(50..80).collect(),
                _ => (0..40).collect(),
            };
            for key in 0..3u8 {
                let expected = all.iter().rev().find(|n| (**n % 3) as u8 == key);
                assert_eq!(last[&key].as_ref(), expected, "{pauses} {cut}");
            }
            try_clean(&log, 100, NOW.0).unwrap();
        }
    }
    panic!("a pass has more pauses");
}

#[test]
fn a_pass_that_begins_after_the_log_was_cut_leaves_no_producers_behind_its_end() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for n in 0..40u32 {
        put(&log, &[((n % 3) as u8, Some(n))]);
    }
    run(log.flush_closed()).unwrap();
    let range = run(log.cleanable(stable(&log), NOW)).unwrap();
    assert!(range.first_uncleanable > Offset(20));
    run(log.truncate_to(log.lower_recovery_point(Offset(20)), NOW)).unwrap();
    let mut cleaner = Cleaner::default();
    let pass = run(log.clean(&mut cleaner, limits(100), &range, NOW, &AtOnce));
    assert!(matches!(pass, Err(CleanError::Aborted)), "{pass:?}");
    let snapshots = names(&disk)
        .into_iter()
        .filter(|name| name.ends_with(".snapshot"));
    let behind = snapshots.filter(|name| name.as_str() > "00000000000000000020.snapshot");
    assert_eq!(behind.collect::<Vec<_>>(), Vec::<String>::new());
}

/// What a client was told before the crash.
#[derive(Default)]
struct Told {
    records: Vec<Record>,
    written: i64,
    flushed: i64,
}

/// Appends, cleans and closes, until the disk fails. Tombstones go at once.
fn workload(disk: &impl Disk, data: &Path, told: &mut Told) -> Result<(), LogError> {
    let mut settings = compacted();
    settings.delete_retention_ms = 0;
    let log = run(Log::create(
        disk.clone(),
        Arc::from(data.join("topic-0")),
        Arc::new(settings),
        TopicId(7),
        Offset(0),
        options(false),
    ))?;
    for turn in 0..4u32 {
        for n in 0..14u32 {
            let key = (n * 7 + turn) % 9;
            let value = (key != turn + 1).then_some(turn * 100 + n);
            let batch = [(key as u8, value), (key as u8 + 20, Some(n))];
            told.records.extend(batch);
            match stage(
                &log,
                batch_with(BatchBuilder::uncompressed(), &batch, NOW.0),
            ) {
                Ok(_) => {}
                Err(AppendError::Log(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            told.written = run(log.write_staged(NOW))?.log_end_offset.0;
        }
        if turn % 2 == 1 {
            told.flushed = run(log.flush())?.0;
        }
        told.flushed = run(log.flush_closed())?.0;
        let small = log.settings();
        if turn > 0 {
            merging(&log);
        }
        // In one of them not all keys fit.
        let keys = if turn == 1 { 11 } else { 30 };
        let cleaned = try_clean(&log, keys, NOW.0 + i64::from(turn));
        log.set_settings(small);
        match cleaned {
            Ok(_) => {}
            Err(CleanError::Log(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        }
    }
    run(log.close(NOW))?;
    told.flushed = told.written;
    Ok(())
}

fn check(disk: &impl Disk, data: &Path, told: &Told, acknowledged: i64, what: &str) {
    if run(log_dir::scan(disk, data))
        .unwrap()
        .partitions
        .is_empty()
    {
        assert_eq!(acknowledged, 0, "{what}");
        return;
    }
    for _ in 0..2 {
        for recovery_point in [told.flushed, 0] {
            let mut options = options(false);
            options.recovery_point = Offset(recovery_point);
            let (log, report) = open(disk, data, &compacted(), options);
            // A power cut may take some of what was not flushed, and leave what came after.
            let may_be_damaged = acknowledged < told.written;
            assert!(report.damage.is_none() || may_be_damaged, "{what}");
            assert_no_staging(disk);
            assert!(log.log_end_offset().0 >= acknowledged, "{what}");
            let found = records(&log);
            for (offset, record) in &found {
                assert_eq!(told.records[*offset as usize], *record, "{what}");
            }
            let last: BTreeMap<u8, i64> = found
                .iter()
                .map(|(offset, (key, _))| (*key, *offset))
                .collect();
            for (offset, (key, value)) in told.records[..acknowledged as usize].iter().enumerate() {
                let offset = offset as i64;
                let later = last.get(key);
                if later.is_none_or(|later| *later < offset) {
                    // A tombstone may be gone, but then so is all that it removed.
                    assert_eq!(
                        (*value, later),
                        (None, None),
                        "{what}: key {key} at {offset}"
                    );
                }
            }
        }
    }
}

fn cut_everywhere<D: Disk>(on: fn(MemoryDisk) -> D) {
    let (disk, data) = memory();
    let mut told = Told::default();
    workload(&on(disk.clone()), &data, &mut told).unwrap();
    let calls = disk.calls(Call::Any);
    let (log, _) = open(&on(disk), &data, &compacted(), options(true));
    assert!(records(&log).len() < told.records.len() / 2);
    for at in 2..=calls {
        let (disk, data) = memory();
        disk.set_fault(Call::Any, at, Fault::PowerOff);
        let mut told = Told::default();
        assert!(workload(&on(disk.clone()), &data, &mut told).is_err());
        let image = on(disk.crash(Crash::Kill));
        check(
            &image,
            &data,
            &told,
            told.written,
            &format!("killed at {at}"),
        );
        for seed in 0..4 {
            let image = on(disk.crash(Crash::Power { seed }));
            let what = format!("power cut at {at}, seed {seed}");
            check(&image, &data, &told, told.flushed, &what);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_cleaning_loses_no_last_value_and_brings_no_old_one_back() {
    cut_everywhere(std::convert::identity::<MemoryDisk>);
}

#[test]
fn nor_does_one_past_the_page_cache() {
    go_direct();
    cut_everywhere(direct);
}

#[test]
fn a_disk_that_fails_a_pass_costs_the_log_nothing_or_takes_it_offline() {
    for (call, fault) in [
        (Call::Any, Fault::Io),
        (Call::Any, Fault::DiskFull),
        (Call::Write, Fault::Short(3)),
    ] {
        for nth in 1.. {
            let (disk, data) = memory();
            let log = create(&disk, &data, &compacted());
            for n in 0..40u32 {
                put(&log, &[((n % 3) as u8, Some(n))]);
            }
            run(log.flush()).unwrap();
            merging(&log);
            disk.set_fault(call, disk.calls(call) + nth, fault);
            let before = disk.calls(call);
            let result = try_clean(&log, 100, NOW.0);
            if result.is_ok() && disk.calls(call) < before + nth {
                break;
            }
            if log.failure().is_none() {
                assert_eq!(records(&log).last().unwrap().1, (0, Some(39)));
                try_clean(&log, 100, NOW.0).unwrap();
                assert_eq!(log.segment_count(), 2, "{call:?} {fault:?} {nth}");
            }
            drop(log);
            let (log, report) = open(&disk, &data, &compacted(), options(false));
            assert_eq!(report.damage, None);
            let last: BTreeMap<u8, Option<u32>> = records(&log)
                .into_iter()
                .map(|(_, record)| record)
                .collect();
            let expected = [(0, Some(39)), (1, Some(37)), (2, Some(38))];
            assert_eq!(last, BTreeMap::from(expected), "{call:?} {fault:?} {nth}");
        }
    }
}

#[test]
fn a_batch_that_is_not_what_was_appended_stops_the_cleaner() {
    // Of the first batch. Its leader epoch is nobody's business here.
    for position in (0..80).filter(|position| !(12..16).contains(position)) {
        let (disk, data) = memory();
        let log = create(&disk, &data, &compacted());
        for n in 0..40u32 {
            put(&log, &[((n % 3) as u8, Some(n))]);
        }
        run(log.flush()).unwrap();
        disk.flip(
            Path::new("/data/topic-0/00000000000000000000.log"),
            position,
        );
        let before = log.segment_count();
        let result = try_clean(&log, 100, NOW.0);
        let is_corrupt = matches!(result, Err(CleanError::Corrupt { .. }));
        assert!(is_corrupt, "{position} {result:?}");
        assert_eq!(log.segment_count(), before);
        assert_no_staging(&disk);
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Of a codec, by a producer or none, in a transaction or not.
    Append(u8, u8, bool, Vec<(u8, bool)>),
    /// The producer's transaction.
    End(u8, bool),
    /// With a map for so many keys, so much later.
    Clean(u8, i64),
    Flush,
    Reopen(bool),
    TruncateTo(u8),
    DeleteRecords(u8),
    Age(i64),
}

fn action() -> impl Strategy<Value = Action> {
    let records = prop::collection::vec((0..6u8, prop::bool::weighted(0.2)), 1..4);
    prop_oneof![
        12 => (0..5u8, 0..4u8, any::<bool>(), records)
            .prop_map(|(codec, producer, txn, records)| Action::Append(codec, producer, txn, records)),
        3 => (1..4u8, any::<bool>()).prop_map(|(producer, commit)| Action::End(producer, commit)),
        4 => (1..12u8, 0..800i64).prop_map(|(keys, later)| Action::Clean(keys, later)),
        1 => Just(Action::Flush),
        1 => any::<bool>().prop_map(Action::Reopen),
        1 => (70..=100u8).prop_map(Action::TruncateTo),
        1 => (0..40u8).prop_map(Action::DeleteRecords),
        1 => (0..600i64).prop_map(Action::Age),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    offset: i64,
    record: Record,
    /// Of an open transaction; decided otherwise.
    open: Option<i64>,
    aborted: bool,
}

/// What a log is to hold.
#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    start: i64,
    end: i64,
    sequences: BTreeMap<i64, i32>,
    open: BTreeSet<i64>,
    /// Records were deleted: producers of which nothing is left may be forgotten over a restart.
    cut: bool,
}

impl Model {
    fn check(&self, log: &Log<impl Disk>, cleaned: bool) {
        assert_eq!(log.log_end_offset().0, self.end);
        let found = records(log);
        let by_offset: BTreeMap<i64, &Entry> = self.entries.iter().map(|e| (e.offset, e)).collect();
        let cleaned_to = log.cleaned_to().map_or(0, |offset| offset.0);
        let mut there = BTreeSet::new();
        for (offset, record) in &found {
            let entry = by_offset[offset];
            assert_eq!(entry.record, *record);
            there.insert(*offset);
            if entry.aborted {
                let hidden = run(log.aborted_transactions(Offset(*offset), Offset(offset + 1)));
                assert!(!hidden.unwrap().is_empty(), "{offset} is not hidden");
            }
        }
        let decided = |entry: &&Entry| !entry.aborted && entry.open.is_none();
        // A reader from anywhere ends with the same values.
        let starts: Vec<i64> = (self.start..=self.end).step_by(5).collect();
        for from in starts {
            let mut expected: BTreeMap<u8, (i64, Option<u32>)> = BTreeMap::new();
            for entry in self.entries.iter().filter(decided) {
                if entry.offset >= from {
                    expected.insert(entry.record.0, (entry.offset, entry.record.1));
                }
            }
            let mut seen: BTreeMap<u8, Option<u32>> = BTreeMap::new();
            for (offset, (key, value)) in &found {
                if *offset >= from && decided(&by_offset[offset]) {
                    seen.insert(*key, *value);
                }
            }
            for (key, (offset, value)) in &expected {
                match value {
                    Some(_) => assert_eq!(seen.get(key), Some(value), "{key} from {from}"),
                    None => assert!(
                        seen.get(key).is_none_or(Option::is_none),
                        "{key} from {from} at {offset}"
                    ),
                }
            }
        }
        // What was not reached is whole.
        for entry in self.entries.iter().filter(decided) {
            if entry.offset >= cleaned_to.max(self.start) {
                assert!(there.contains(&entry.offset), "{}", entry.offset);
            }
        }
        if cleaned {
            // Of each key one record at most is left below.
            let mut keys = BTreeSet::new();
            for (offset, (key, _)) in found.iter().filter(|(offset, _)| *offset < cleaned_to) {
                if decided(&by_offset[offset]) {
                    assert!(keys.insert(*key), "{key} twice below {cleaned_to}");
                }
            }
        }
    }
}

fn codec(number: u8) -> CompressionType {
    CompressionType::from_id(number).unwrap()
}

fn play<D: Disk>(on: fn(MemoryDisk) -> D, actions: Vec<Action>) {
    let (disk, data) = memory();
    let disk = on(disk);
    let mut log = create(&disk, &data, &compacted());
    let mut model = Model::default();
    let mut clock = NOW.0;
    let mut value = 0;
    for action in actions {
        let mut cleaned = false;
        match action {
            Action::Append(kind, producer, transactional, keys) => {
                let id = i64::from(producer);
                let mut builder = BatchBuilder::new(Compression::of(codec(kind)));
                let in_txn = producer > 0 && (transactional || model.open.contains(&id));
                if producer > 0 {
                    let sequence = model.sequences.entry(id).or_insert(0);
                    builder = builder.producer(ProducerId(id), ProducerEpoch(0), *sequence);
                    *sequence += keys.len() as i32;
                }
                if in_txn {
                    builder = builder.transactional();
                    model.open.insert(id);
                }
                let mut of_batch = Vec::new();
                for (key, is_tombstone) in keys {
                    value += 1;
                    let record = (key, (!is_tombstone).then_some(value));
                    of_batch.push(record);
                    model.entries.push(Entry {
                        offset: model.end,
                        record,
                        open: in_txn.then_some(id),
                        aborted: false,
                    });
                    model.end += 1;
                }
                append(&log, batch_with(builder, &of_batch, clock));
            }
            Action::End(producer, commit) => {
                let id = i64::from(producer);
                if !model.open.remove(&id) {
                    continue;
                }
                let outcome = match commit {
                    true => TxnOutcome::Commit,
                    false => TxnOutcome::Abort,
                };
                end_txn(&log, id, outcome);
                model.end += 1;
                for entry in model.entries.iter_mut().filter(|e| e.open == Some(id)) {
                    entry.open = None;
                    entry.aborted = !commit;
                }
            }
            Action::Clean(keys, later) => {
                clock += later;
                let pass = try_clean(&log, keys.into(), clock).unwrap();
                cleaned = pass.segments_before > 0;
                assert_no_staging(&disk);
            }
            Action::Flush => {
                run(log.flush()).unwrap();
            }
            Action::Reopen(is_clean) => {
                let producers: Vec<_> = log
                    .producers()
                    .producers()
                    .map(|p| (p.producer_id, p.producer_epoch, p.last_sequence()))
                    .collect();
                let mut options = options(is_clean);
                options.log_start_offset = Some(log.log_start_offset());
                options.recovery_point = log.recovery_point();
                options.cleaned_to = log.cleaned_to();
                if is_clean {
                    run(log.close(NOW)).unwrap();
                }
                let (opened, report) = open(&disk, &data, &compacted(), options);
                assert_eq!(report.damage, None);
                assert_eq!(report.truncated_bytes, 0);
                assert_eq!(report.rebuilt_indexes, 0);
                let again: Vec<_> = opened
                    .producers()
                    .producers()
                    .map(|p| (p.producer_id, p.producer_epoch, p.last_sequence()))
                    .collect();
                if !model.cut {
                    assert_eq!(again, producers);
                }
                for (id, _, last_sequence) in again {
                    model.sequences.insert(id.0, last_sequence + 1);
                }
                log = opened;
            }
            Action::TruncateTo(percent) => {
                // Transactions that are cut open again would need a model of their own.
                let decided = stable(&log).0.max(model.end - 3);
                let to = model.start + (model.end - model.start) * i64::from(percent) / 100;
                let to = to.max(decided);
                if to == model.end || !model.open.is_empty() || !model.sequences.is_empty() {
                    continue;
                }
                run(log.truncate_to(log.lower_recovery_point(Offset(to)), NOW)).unwrap();
                model.end = log.log_end_offset().0;
                let end = model.end;
                model.entries.retain(|entry| entry.offset < end);
            }
            Action::DeleteRecords(percent) => {
                let to = model.start + (model.end - model.start) * i64::from(percent) / 100;
                let to = to.min(stable(&log).0);
                log.delete_records(Offset(to), log.log_end_offset())
                    .unwrap();
                run(log.delete_old_segments(NOW, log.log_end_offset())).unwrap();
                model.start = to;
                model.cut |= to > 0;
                model.entries.retain(|entry| entry.offset >= to);
            }
            Action::Age(ms) => clock += ms,
        }
        if cleaned || log.segment_count() > 3 {
            model.check(&log, cleaned);
        }
    }
    model.check(&log, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn and_so_is_one_past_the_page_cache(actions in prop::collection::vec(action(), 1..80)) {
        go_direct();
        play(direct, actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compacted_log_is_a_map_to_readers_from_anywhere(
        actions in prop::collection::vec(action(), 1..80)
    ) {
        play(std::convert::identity, actions);
    }
}
