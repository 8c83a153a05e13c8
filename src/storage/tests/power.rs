//! What power cuts took, or brought back, until a seed of `tools/faults` showed it.

use super::cleaner::{compacted, end_txn, put, records, stable, try_clean};
use super::cleaner_cuts::put_until_rolled;
use super::memory::Crash;
use super::*;
use crate::records::Scratch;
use crate::records::control::TxnOutcome;

/// The logs that are opened, by `options`, from what power cuts leave of a disk.
pub(super) fn after_power_cuts(
    disk: &MemoryDisk,
    data: &Path,
    settings: &LogSettings,
    options: &OpenOptions,
    check: impl Fn(&Log<MemoryDisk>, &OpenReport, u64),
) {
    for seed in 0..60 {
        let image = disk.crash(Crash::Power { seed });
        let (log, report) = open(&image, data, settings, options.clone());
        check(&log, &report, seed);
    }
}

pub(super) fn from_checkpoint(log: &Log<MemoryDisk>) -> OpenOptions {
    OpenOptions {
        recovery_point: log.recovery_checkpoint(),
        ..options(false)
    }
}

/// A batch of the transaction of a producer that has written `sequence` records.
fn in_txn(log: &Log<MemoryDisk>, producer: i64, sequence: i32) -> Offset {
    let builder = BatchBuilder::uncompressed().transactional();
    let builder = builder.producer(ProducerId(producer), ProducerEpoch(0), sequence);
    append(log, batch_of(builder, 7, 2, NOW.0))
}

pub(super) fn append_until_rolled(log: &Log<MemoryDisk>) {
    let segments = log.segment_count();
    let mut tag = 0;
    while log.segment_count() == segments {
        append(log, batch(tag, 3, NOW.0 + tag as i64 * 10));
        tag += 1;
    }
}

fn aborted(log: &Log<MemoryDisk>) -> usize {
    run(log.aborted_transactions(Offset(0), log.log_end_offset()))
        .unwrap()
        .len()
}

#[test]
fn a_truncation_keeps_the_aborted_transactions_before_it() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    in_txn(&log, 1, 0);
    end_txn(&log, 1, TxnOutcome::Abort);
    let end = log.log_end_offset();
    append(&log, batch(0, 3, NOW.0));
    run(log.truncate_to(log.lower_recovery_point(end), NOW)).unwrap();
    assert_eq!(aborted(&log), 1);
}

#[test]
fn what_a_truncation_cut_does_not_come_back_after_a_flush() {
    for kept in [0, 3] {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        for tag in 0..8 {
            append(&log, batch(tag, 3, NOW.0));
        }
        run(log.flush()).unwrap();
        run(log.truncate_to(log.lower_recovery_point(Offset(kept)), NOW)).unwrap();
        assert_eq!(run(log.flush()).unwrap(), Offset(kept));
        let options = from_checkpoint(&log);
        after_power_cuts(&disk, &data, &settings(), &options, |log, _, seed| {
            assert_eq!(log.log_end_offset(), Offset(kept), "{seed}");
        });
    }
}

#[test]
fn a_clean_stop_after_a_truncation_leaves_indexes_that_fit() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..12 {
        append(&log, batch(tag, 3, NOW.0));
    }
    run(log.close(NOW)).unwrap();
    let (log, _) = open(&disk, &data, &settings(), options(true));
    run(log.truncate_to(log.lower_recovery_point(Offset(15)), NOW)).unwrap();
    run(log.close(NOW)).unwrap();
    after_power_cuts(
        &disk,
        &data,
        &settings(),
        &options(true),
        |_, report, seed| {
            assert_eq!(*report, OpenReport::default(), "{seed}");
        },
    );
}

#[test]
fn indexes_are_made_anew_of_a_segment_that_was_flushed_to_its_end_and_closed_later() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let mut tags = 0;
    while log.size_bytes() < 1850 {
        append(&log, batch(tags, 3, NOW.0 + tags as i64 * 10));
        tags += 1;
    }
    let end = run(log.flush()).unwrap();
    let options = from_checkpoint(&log);
    let records = read_all(&log, end, 700);
    append(&log, batch(tags, 8, NOW.0 + 1000));
    assert_eq!(log.segment_count(), 2);
    // Also when the checkpoint is written now.
    assert_eq!(from_checkpoint(&log).recovery_point, options.recovery_point);
    after_power_cuts(&disk, &data, &settings(), &options, |log, _, seed| {
        assert_eq!(read_all(log, end, 150), records, "{seed}");
        for tag in 0..tags as i64 {
            let wanted = Timestamp(NOW.0 + tag * 10);
            let found = run(log.offset_for_timestamp(wanted, &mut Scratch::new())).unwrap();
            assert_eq!(found.map(|f| f.offset), Some(Offset(tag * 3)), "{seed}");
        }
    });
    run(log.flush_closed()).unwrap();
    assert_eq!(from_checkpoint(&log).recovery_point, end);
}

#[test]
fn indexes_are_made_anew_of_a_segment_that_retention_took_and_a_power_cut_brings_back() {
    let (disk, data) = memory();
    let mut settings = settings();
    let log = create(&disk, &data, &settings);
    for tag in 0..8 {
        append(&log, batch(tag, 3, NOW.0 + tag as i64 * 10));
    }
    let end = run(log.flush()).unwrap();
    settings.retention_ms = 0;
    log.set_settings(Arc::new(settings.clone()));
    run(log.delete_old_segments(Timestamp(NOW.0 + 10_000), end)).unwrap();
    assert_eq!(log.log_start_offset(), end);
    let options = from_checkpoint(&log);
    after_power_cuts(&disk, &data, &settings, &options, |log, _, seed| {
        if log.log_start_offset() == end {
            return;
        }
        for tag in 0..8 {
            let wanted = Timestamp(NOW.0 + tag * 10);
            let found = run(log.offset_for_timestamp(wanted, &mut Scratch::new())).unwrap();
            assert_eq!(found.map(|f| f.offset), Some(Offset(tag * 3)), "{seed}");
        }
    });
    run(log.flush()).unwrap();
    assert_eq!(from_checkpoint(&log).recovery_point, end);
}

#[test]
fn aborted_transactions_survive_with_the_segment_that_was_flushed() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    in_txn(&log, 1, 0);
    end_txn(&log, 1, TxnOutcome::Abort);
    append_until_rolled(&log);
    run(log.flush_closed()).unwrap();
    let options = from_checkpoint(&log);
    after_power_cuts(&disk, &data, &settings(), &options, |log, _, seed| {
        assert_eq!(aborted(log), 1, "{seed}");
    });
}

#[test]
fn aborted_transactions_survive_after_a_clean_stop() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    in_txn(&log, 1, 0);
    end_txn(&log, 1, TxnOutcome::Abort);
    run(log.close(NOW)).unwrap();
    after_power_cuts(&disk, &data, &settings(), &options(true), |log, _, seed| {
        assert_eq!(aborted(log), 1, "{seed}");
    });
}

#[test]
fn a_producer_snapshot_does_not_outlive_the_batches_that_it_is_of() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    in_txn(&log, 1, 0);
    append_until_rolled(&log);
    let base = log.state.borrow().active().base_offset;
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(base), names::FileKind::Snapshot));
    let is_there = || run(disk.read_file(&path, 1000)).is_ok();
    run(log.prepare()).unwrap();
    assert!(!is_there());
    run(log.flush_closed()).unwrap();
    run(log.prepare()).unwrap();
    assert!(is_there());
}

#[test]
fn a_transaction_index_that_is_left_from_before_a_crash_is_not_added_to() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::TxnIndex));
    let file = run(disk.open(&path, OpenMode::Create)).unwrap();
    run(file.write_at(0, vec![Bytes::from_static(&[7; 50])])).unwrap();
    in_txn(&log, 1, 0);
    end_txn(&log, 1, TxnOutcome::Abort);
    in_txn(&log, 1, 2);
    end_txn(&log, 1, TxnOutcome::Abort);
    assert_eq!(aborted(&log), 2);
}

#[test]
fn the_cleaner_does_not_rely_on_a_marker_that_a_power_cut_may_take() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    append(&log, batch(0, 3, NOW.0));
    let first = in_txn(&log, 1, 0);
    append_until_rolled(&log);
    append_until_rolled(&log);
    run(log.flush()).unwrap();
    end_txn(&log, 1, TxnOutcome::Commit);
    let uncleanable = |log: &Log<MemoryDisk>| {
        let range = run(log.cleanable(stable(log), NOW)).unwrap();
        range.first_uncleanable
    };
    assert!(uncleanable(&log) <= first);
    run(log.flush()).unwrap();
    assert!(uncleanable(&log) > first);
}

#[test]
fn retention_takes_nothing_before_the_name_of_what_follows_is_on_the_device() {
    for by_size in [false, true] {
        let (disk, data) = memory();
        let mut settings = settings();
        let log = create(&disk, &data, &settings);
        for tag in 0..5 {
            append(&log, batch(tag, 3, NOW.0));
        }
        let end = run(log.flush()).unwrap();
        if by_size {
            append_until_rolled(&log);
            settings.retention_bytes = 0;
        } else {
            settings.retention_ms = 0;
        }
        log.set_settings(Arc::new(settings.clone()));
        let high_watermark = log.log_end_offset();
        let deleted = run(log.delete_old_segments(Timestamp(NOW.0 + 10_000), high_watermark));
        assert!(deleted.unwrap().segments > 0);
        after_power_cuts(&disk, &data, &settings, &options(false), |log, _, seed| {
            assert!(
                log.log_end_offset() >= end,
                "{seed}: {}",
                log.log_end_offset()
            );
        });
    }
}

#[test]
fn room_that_was_filled_does_not_come_back_behind_a_closed_segment() {
    for prepares in [false, true] {
        let (disk, data) = memory();
        let settings = durable_settings();
        let log = create(&disk, &data, &settings);
        while log.size_bytes() < 1500 {
            append(&log, batch(0, 3, NOW.0));
        }
        run(log.close(NOW)).unwrap();
        let (log, _) = open(&disk, &data, &settings, options(true));
        append(&log, batch(1, 1, NOW.0));
        run(log.flush()).unwrap();
        run(log.prepare()).unwrap();
        let records = read_all(&log, log.log_end_offset(), 700);
        append(&log, batch(2, 20, NOW.0));
        assert_eq!(log.segment_count(), 2);
        if prepares {
            run(log.prepare()).unwrap();
        }
        run(log.flush_closed()).unwrap();
        append(&log, batch(3, 1, NOW.0));
        run(log.flush()).unwrap();
        let options = from_checkpoint(&log);
        after_power_cuts(&disk, &data, &settings, &options, |log, _, seed| {
            let read = read_all(log, log.log_end_offset(), 5000);
            assert_eq!(read[..records.len()], records, "{seed}");
        });
    }
}

#[test]
fn room_that_was_filled_does_not_come_back_after_a_clean_stop() {
    let (disk, data) = memory();
    let settings = durable_settings();
    let log = create(&disk, &data, &settings);
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    run(log.prepare()).unwrap();
    run(log.close(NOW)).unwrap();
    after_power_cuts(
        &disk,
        &data,
        &settings,
        &options(true),
        |_, report, seed| {
            assert_eq!(*report, OpenReport::default(), "{seed}");
        },
    );
}

#[test]
fn what_was_cut_off_does_not_come_back_behind_a_batch_of_a_newer_leader() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..5 {
        append(&log, batch(tag, 3, NOW.0));
    }
    run(log.flush()).unwrap();
    run(log.truncate_to(log.lower_recovery_point(Offset(6)), NOW)).unwrap();
    // As long as the one that was there.
    stage_at(&log, batch(9, 3, NOW.0), LeaderEpoch(1), NOW).unwrap();
    run(log.write_staged(NOW)).unwrap();
    after_power_cuts(
        &disk,
        &data,
        &settings(),
        &options(false),
        |log, _, seed| {
            let end = log.log_end_offset();
            let out = run(log.read(Offset(0), 5000, end, true)).unwrap();
            let batches = batches_of(&bytes_of(&out.slice.unwrap()));
            assert_eq!(batches[batches.len() - 1].0.next_offset(), end, "{seed}");
            let epochs = batches
                .iter()
                .map(|(header, _)| header.partition_leader_epoch);
            assert!(epochs.is_sorted(), "{seed}");
        },
    );
}

#[test]
fn what_was_removed_when_a_log_began_anew_does_not_come_back() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append_until_rolled(&log);
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    drop(log);
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::Log));
    disk.flip(&path, 70);
    let mut options = options(false);
    options.log_start_offset = Some(Offset(5));
    let (log, report) = open(&disk, &data, &settings(), options.clone());
    assert!(report.damage.is_some());
    assert_eq!(log.log_end_offset(), Offset(5));
    after_power_cuts(&disk, &data, &settings(), &options, |log, _, seed| {
        assert_eq!(log.log_end_offset(), Offset(5), "{seed}");
    });
}

#[test]
fn indexes_of_a_flushed_segment_are_whole_in_the_middle_of_a_truncation() {
    let calls = |disk: &MemoryDisk| disk.calls(memory::Call::Any);
    let flushed = || {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        append_until_rolled(&log);
        append(&log, batch(0, 3, NOW.0));
        run(log.flush()).unwrap();
        (disk, log)
    };
    let (disk, log) = flushed();
    let (to, before) = (Offset(6), calls(&disk));
    run(log.truncate_to(log.lower_recovery_point(to), NOW)).unwrap();
    for at in before + 1..=calls(&disk) {
        let (disk, log) = flushed();
        disk.set_fault(memory::Call::Any, at, memory::Fault::PowerOff);
        assert!(run(log.truncate_to(log.lower_recovery_point(to), NOW)).is_err());
        for seed in 0..20 {
            let image = disk.crash(Crash::Power { seed });
            let indexes = image.files().into_iter().filter(|(path, _)| {
                let name = path.to_string_lossy();
                name.ends_with(".timeindex") && !name.contains("next")
            });
            for (path, bytes) in indexes {
                let entries = bytes.as_chunks::<12>().0.iter();
                let times = entries.map(|e| i64::from_be_bytes(*e.first_chunk().unwrap()));
                assert!(times.is_sorted(), "{at} {seed} {}", path.display());
            }
        }
    }
}

#[test]
fn a_truncation_that_a_power_cut_ends_leaves_no_hole() {
    let calls = |disk: &MemoryDisk| disk.calls(memory::Call::Any);
    let flushed = || {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        append_until_rolled(&log);
        append_until_rolled(&log);
        let end = run(log.flush()).unwrap();
        (disk, data, log, end)
    };
    let (disk, _, log, _) = flushed();
    let (to, before) = (Offset(6), calls(&disk));
    run(log.truncate_to(log.lower_recovery_point(to), NOW)).unwrap();
    for at in before + 1..=calls(&disk) {
        let (disk, data, log, end) = flushed();
        let options = from_checkpoint(&log);
        disk.set_fault(memory::Call::Any, at, memory::Fault::PowerOff);
        assert!(run(log.truncate_to(log.lower_recovery_point(to), NOW)).is_err());
        after_power_cuts(&disk, &data, &settings(), &options, |log, _, seed| {
            assert_whole(log, &format!("{at} {seed}"));
            let is_between = (to..=end).contains(&log.log_end_offset());
            assert!(is_between, "{at} {seed}: {}", log.log_end_offset());
        });
    }
}

#[test]
fn where_a_power_cut_took_the_end_of_a_segment_the_log_ends_and_the_next_one_is_kept_aside() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    let checkpoint = from_checkpoint(&log);
    append_until_rolled(&log);
    let second = log.state.borrow().active().base_offset;
    for tag in 0..3 {
        append(&log, batch(tag, 3, NOW.0));
    }
    let end = log.log_end_offset();
    let gaps = Cell::new(0);
    let options = &checkpoint;
    after_power_cuts(&disk, &data, &settings(), options, |log, report, seed| {
        assert_whole(log, &format!("{seed}"));
        assert!(log.log_end_offset() <= end, "{seed}");
        let is_cut = log.log_end_offset().0 < second;
        if let Some(damage) = report.damage.as_ref().filter(|_| is_cut) {
            assert_eq!(damage.offset, log.log_end_offset(), "{seed}");
            assert!(damage.length > 0 && !damage.kept.is_empty(), "{seed}");
            gaps.set(gaps.get() + 1);
        }
        // It goes on where it ends.
        let at = append(log, batch(9, 1, NOW.0));
        run(log.flush()).unwrap();
        assert_eq!(log.recovery_point().0, at.0 + 1, "{seed}");
    });
    assert!(gaps.get() > 3, "{}", gaps.get());
}

#[test]
fn gaps_that_the_cleaner_left_are_kept_whatever_the_checkpoints_say() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for key in [0, 1, 0, 1, 0, 1] {
        put_until_rolled(&log, key);
    }
    run(log.flush()).unwrap();
    try_clean(&log, 10, NOW.0).unwrap();
    let before = records(&log);
    assert!(before.len() < 20, "{}", before.len());
    put_until_rolled(&log, 2);
    let (next, end) = (log.recovery_point(), log.log_end_offset());
    assert!(next < end);
    // None was written yet; and the topic is no more compacted.
    let mut settings = settings();
    settings.segment_bytes = 600;
    after_power_cuts(&disk, &data, &settings, &options(false), |log, _, seed| {
        let found = records(log);
        assert!(found.starts_with(&before), "{seed}: {found:?}");
    });
}

#[test]
fn gaps_of_a_compacted_log_are_no_holes_where_the_directory_has_lost_its_checkpoints() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for key in 1..6 {
        put(&log, &[(key, Some(1))]);
        put_until_rolled(&log, 0);
    }
    run(log.flush()).unwrap();
    try_clean(&log, 10, NOW.0).unwrap();
    put(&log, &[(6, Some(1))]);
    run(log.flush()).unwrap();
    let (before, end) = (records(&log), log.log_end_offset());
    let mut segments: Vec<i64> = Vec::new();
    for segment in &log.state.borrow().segments {
        segments.push(segment.base_offset);
    }
    let is_gap = |pair: &&[i64]| !before.iter().any(|(at, _)| *at == pair[1] - 1);
    assert!(
        segments.windows(2).filter(is_gap).count() > 2,
        "{segments:?}"
    );
    let image = disk.crash(Crash::Kill);
    for (path, _) in image.files() {
        if path.to_string_lossy().ends_with(".snapshot") {
            run(image.remove_file(&path)).unwrap();
        }
    }
    let lost = OpenOptions {
        has_checkpoint: false,
        ..options(false)
    };
    // Where there is one that says nothing of the log, it may be a new one: what is missing is a hole.
    let copy = image.crash(Crash::Kill);
    let (_, report) = open(&copy, &data, &compacted(), options(false));
    assert!(report.damage.is_some());
    let copy = image.crash(Crash::Kill);
    let (log, report) = open(&copy, &data, &compacted(), lost.clone());
    assert_eq!(report.damage, None);
    assert_eq!((records(&log), log.log_end_offset()), (before.clone(), end));
    drop(log);
    // The node writes one then, and may be killed, or the power fail, before a record is written.
    let (log, _) = open(&image, &data, &compacted(), lost.clone());
    let options = from_checkpoint(&log);
    let check = |log: &Log<MemoryDisk>, report: &OpenReport, seed: u64| {
        assert_eq!(report.damage, None, "{seed}");
        assert_eq!(records(log), before, "{seed}");
        assert_eq!(log.log_end_offset(), end, "{seed}");
    };
    after_power_cuts(&image, &data, &compacted(), &options, check);
    let (log, report) = open(&image.crash(Crash::Kill), &data, &compacted(), options);
    check(&log, &report, 0);
}

#[test]
fn a_gap_is_a_hole_where_there_is_a_checkpoint_or_the_log_is_not_compacted() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    for key in 1..6 {
        put(&log, &[(key, Some(1))]);
        put_until_rolled(&log, 0);
    }
    run(log.flush()).unwrap();
    let second = log.state.borrow().segments[1].base_offset;
    let name = names::file_name(Offset(0), names::FileKind::Log);
    let path = data.join("topic-0").join(name);
    for (settings, has_checkpoint) in [(compacted(), true), (settings(), false), (settings(), true)]
    {
        let image = disk.crash(Crash::Kill);
        let file = run(image.open(&path, OpenMode::Write)).unwrap();
        // Its last batch is gone.
        let last = BatchBuilder::uncompressed();
        let last = super::cleaner::batch_with(last, &[(0, Some(1))], NOW.0).len() as u64;
        let len = run(image.read_file(&path, 10_000)).unwrap().len() as u64;
        run(file.truncate(len - last)).unwrap();
        let options = OpenOptions {
            has_checkpoint,
            ..options(false)
        };
        let (log, report) = open(&image, &data, &settings, options);
        assert!(report.damage.is_some_and(|damage| damage.kept.len() > 3));
        assert_eq!(log.log_end_offset(), Offset(second - 1));
    }
}

#[test]
fn a_marker_that_a_power_cut_took_with_the_end_of_its_segment_holds_no_reader_back() {
    let (disk, data) = memory();
    let mut settings = settings();
    settings.cleanup_policy.compact = true;
    let log = create(&disk, &data, &settings);
    in_txn(&log, 1, 0);
    let end = run(log.flush()).unwrap();
    append_until_rolled(&log);
    end_txn(&log, 1, TxnOutcome::Commit);
    let marker = log.log_end_offset();
    append_until_rolled(&log);
    let options = from_checkpoint(&log);
    after_power_cuts(&disk, &data, &settings, &options, |log, _, seed| {
        assert!(log.log_end_offset() >= end, "{seed}");
        let is_open = log.producers().first_undecided_offset().is_some();
        let ends_before = log.log_end_offset() < marker;
        assert_eq!(is_open, ends_before, "{seed}: {}", log.log_end_offset());
    });
}

/// Every offset of the log is there.
pub(super) fn assert_whole(log: &Log<MemoryDisk>, what: &str) {
    let (mut next, end) = (log.log_start_offset(), log.log_end_offset());
    while next < end {
        let out = run(log.read(next, 5000, end, true)).unwrap();
        let batches = batches_of(&bytes_of(&out.slice.unwrap()));
        for (header, _) in batches {
            assert_eq!(header.base_offset, next, "{what}");
            next = header.next_offset();
        }
    }
}
