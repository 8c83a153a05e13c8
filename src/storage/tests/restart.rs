//! Starts after a process was killed: what they sync and check, and what power cuts leave of it afterwards.

use super::cleaner::end_txn_at;
use super::memory::{Call, Crash, Fault};
use super::power::assert_whole;
use super::*;
use crate::records::control::TxnOutcome;

fn from_checkpoint(log: &Log<MemoryDisk>, is_clean: bool) -> OpenOptions {
    OpenOptions {
        recovery_point: log.recovery_checkpoint(),
        ..options(is_clean)
    }
}

/// Opens the log of a process that was killed: what it did not sync is there, and not on the device.
fn restart(
    disk: &MemoryDisk,
    data: &Path,
    options: &OpenOptions,
) -> (Log<MemoryDisk>, OpenReport, u64) {
    let before = disk.calls(Call::Sync);
    let (log, report) = open(disk, data, &settings(), options.clone());
    (log, report, disk.calls(Call::Sync) - before)
}

fn append_until_rolled(log: &Log<MemoryDisk>) {
    let segments = log.segment_count();
    while log.segment_count() == segments {
        append(log, batch(1, 3, NOW.0));
    }
}

#[test]
fn a_recovery_syncs_what_no_flush_has_covered_and_nothing_else() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append_until_rolled(&log);
    append(&log, batch(2, 3, NOW.0));
    run(log.flush()).unwrap();
    let flushed = OpenOptions {
        recovery_point: log.recovery_point(),
        ..options(false)
    };
    drop(log);
    let (log, report, syncs) = restart(&disk, &data, &flushed);
    assert_eq!((report.recovered_segments, report.recovered_bytes), (1, 0));
    assert_eq!(syncs, 0);
    let size = log.size_bytes();
    append(&log, batch(3, 3, NOW.0));
    let appended = log.size_bytes() - size;
    drop(log);
    // The end of the active segment; and the names, which a start that was killed before may have changed.
    let (log, report, syncs) = restart(&disk, &data, &flushed);
    assert_eq!(report.recovered_bytes, appended);
    assert_eq!(syncs, 2);
    append_until_rolled(&log);
    append_until_rolled(&log);
    drop(log);
    // Three segments, and the names of two of them.
    let (log, report, syncs) = restart(&disk, &data, &flushed);
    assert_eq!(report.recovered_segments, 3);
    assert_eq!(syncs, 3 + 1);
    // What the next start may rely on stays where it was until the indexes are on the device.
    assert!(log.recovery_point() == log.log_end_offset());
    assert_eq!(log.recovery_checkpoint(), flushed.recovery_point);
    run(log.flush()).unwrap();
    assert!(log.recovery_checkpoint() > flushed.recovery_point);
}

#[test]
fn a_recovery_of_a_log_without_batches_syncs_nothing() {
    let (disk, data) = memory();
    drop(create(&disk, &data, &settings()));
    let (_, _, syncs) = restart(&disk, &data, &options(false));
    assert_eq!(syncs, 0);
}

#[test]
fn headers_are_all_that_is_read_of_large_batches_that_were_flushed() {
    let mut settings = settings();
    settings.segment_bytes = 100_000_000;
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings);
    let large = |n: i64| {
        let mut builder = BatchBuilder::uncompressed();
        builder.append(Timestamp(NOW.0 + n), None, Some(&[7; 40_000]), &[]);
        BytesMut::from(&builder.build()[..])
    };
    for n in 0..100 {
        append(&log, large(n));
    }
    run(log.flush()).unwrap();
    let size = log.size_bytes();
    append(&log, large(100));
    let appended = log.size_bytes() - size;
    let options = from_checkpoint(&log, false);
    drop(log);
    let before = disk.read_bytes();
    let (log, report) = open(&disk, &data, &settings, options);
    // Where the last flush ended, the checkpoint is one less.
    assert!(report.recovered_bytes <= 2 * appended);
    let read = disk.read_bytes() - before;
    assert!(
        read < 256 * 1024 + 102 * 2 * 4096 + 3 * appended,
        "{read} of {size}"
    );
    assert_eq!(log.log_end_offset(), Offset(101));
}

#[test]
fn a_flushed_batch_that_rotted_is_left_to_its_readers_unless_its_header_leads_nowhere() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..5 {
        append(&log, batch(tag, 3, NOW.0));
    }
    run(log.flush()).unwrap();
    append(&log, batch(5, 3, NOW.0));
    let options = from_checkpoint(&log, false);
    drop(log);
    let size = batch(0, 3, NOW.0).len() as u64;
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::Log));
    let opened = |position| {
        let image = disk.crash(Crash::Kill);
        image.flip(&path, position);
        open(&image, &data, &settings(), options.clone())
    };
    let (log, report) = opened(size + 70);
    assert_eq!((log.log_end_offset(), report.damage), (Offset(18), None));
    // Its length.
    let (log, report) = opened(size + 8);
    assert_eq!(log.log_end_offset(), Offset(3));
    assert!(report.damage.is_some());
    // Behind the recovery point.
    let (log, _) = opened(5 * size + 70);
    assert_eq!(log.log_end_offset(), Offset(15));
}

/// What a client may have seen of a log.
#[derive(Debug, PartialEq)]
struct Seen {
    records: Vec<(i64, String)>,
    aborted: usize,
    last_sequence: Option<i32>,
    epochs: Vec<Option<(LeaderEpoch, Offset)>>,
}

fn see(log: &Log<MemoryDisk>) -> Seen {
    let end = log.log_end_offset();
    let aborted = run(log.aborted_transactions(Offset(0), end)).unwrap();
    let producer = log
        .producers()
        .get(ProducerId(1))
        .map(|p| p.last_sequence());
    Seen {
        records: read_all(log, end, 700),
        aborted: aborted.len(),
        last_sequence: producer,
        epochs: (0..4)
            .map(|epoch| log.end_offset_for_epoch(LeaderEpoch(epoch)))
            .collect(),
    }
}

/// Does the `n`th thing to a log, of a leader whose epoch goes up now and then.
fn step(log: &Log<MemoryDisk>, n: u64, sequence: &mut i32) {
    let epoch = LeaderEpoch(n as i32 / 9);
    stage_at(log, batch(n, 2, NOW.0 + n as i64), epoch, NOW).unwrap();
    run(log.write_staged(NOW)).unwrap();
    if n % 7 == 3 {
        let builder = BatchBuilder::uncompressed().transactional();
        let builder = builder.producer(ProducerId(1), ProducerEpoch(0), *sequence);
        stage_at(log, batch_of(builder, n, 2, NOW.0), epoch, NOW).unwrap();
        run(log.write_staged(NOW)).unwrap();
        *sequence += 2;
        if n % 2 == 1 {
            end_txn_at(log, 1, TxnOutcome::Abort, epoch);
        }
    }
    match n % 6 {
        2 => drop(run(log.flush_closed()).unwrap()),
        5 => run(log.prepare()).unwrap(),
        _ => {}
    }
    if n % 10 == 8 {
        run(log.flush()).unwrap();
    }
}

/// A process writes `steps` and is killed; the next one serves what is there, and `then` does something to it
/// before the power goes. What the last one finds must be all that was served.
fn served_before_a_power_cut(steps: u64, then: impl Fn(&Log<MemoryDisk>)) {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let (mut sequence, mut checkpoint) = (0, options(false));
    for n in 0..steps {
        step(&log, n, &mut sequence);
        if n % 4 == 1 {
            checkpoint = from_checkpoint(&log, false);
        }
    }
    drop(log);
    let (log, report, _) = restart(&disk, &data, &checkpoint);
    assert_eq!(report.damage, None);
    let (seen, end) = (see(&log), log.log_end_offset());
    then(&log);
    // The checkpoint may have been written since, or not.
    for options in [checkpoint, from_checkpoint(&log, false)] {
        for seed in 0..25 {
            let image = disk.crash(Crash::Power { seed });
            let (log, report) = open(&image, &data, &settings(), options.clone());
            let what = format!("{steps} steps, {seed}, from {:?}", options.recovery_point);
            // What was written since may have gaps.
            assert!(report.damage.is_none_or(|d| d.offset >= end), "{what}");
            assert_eq!(report.rebuilt_indexes, 0, "{what}");
            let mut found = see(&log);
            found.records.truncate(seen.records.len());
            assert_eq!(found.records, seen.records, "{what}");
            if log.log_end_offset() == end {
                assert_eq!(found, seen, "{what}");
            }
        }
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_served_after_a_recovery() {
    for steps in 1..60 {
        served_before_a_power_cut(steps, |_| {});
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_served_after_a_recovery_and_written_on() {
    for steps in 1..40 {
        served_before_a_power_cut(steps, |log| {
            let segments = log.segment_count();
            while log.segment_count() == segments {
                stage_at(log, batch(1, 3, NOW.0), LeaderEpoch(9), NOW).unwrap();
                run(log.write_staged(NOW)).unwrap();
            }
            run(log.flush_closed()).unwrap();
            stage_at(log, batch(1, 3, NOW.0), LeaderEpoch(9), NOW).unwrap();
            run(log.write_staged(NOW)).unwrap();
        });
    }
}

#[test]
fn a_clean_stop_after_a_recovery_leaves_all_of_it_on_the_device() {
    for steps in 1..40 {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        let (mut sequence, mut checkpoint) = (0, options(false));
        for n in 0..steps {
            step(&log, n, &mut sequence);
            if n % 4 == 1 {
                checkpoint = from_checkpoint(&log, false);
            }
        }
        drop(log);
        let (log, _, _) = restart(&disk, &data, &checkpoint);
        let seen = see(&log);
        run(log.close(NOW)).unwrap();
        for seed in 0..25 {
            let image = disk.crash(Crash::Power { seed });
            let (log, report) = open(&image, &data, &settings(), options(true));
            assert_eq!(report, OpenReport::default(), "{steps} {seed}");
            assert_eq!(see(&log), seen, "{steps} {seed}");
        }
    }
}

#[test]
fn what_a_log_had_before_it_was_emptied_does_not_vouch_for_what_comes_after() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for _ in 0..100 {
        append(&log, batch(0, 3, NOW.0));
    }
    // Leaves a snapshot of producers at its end.
    run(log.close(NOW)).unwrap();
    let (log, _) = open(&disk, &data, &settings(), options(true));
    run(log.truncate_fully_and_start_at(log.lower_recovery_point(Offset(0)), NOW)).unwrap();
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    while log.segment_count() < 3 {
        append(&log, batch(0, 3, NOW.0));
    }
    let options = from_checkpoint(&log, false);
    for seed in 0..60 {
        let image = disk.crash(Crash::Power { seed });
        let (log, _) = open(&image, &data, &settings(), options.clone());
        assert_whole(&log, &format!("{seed}"));
    }
}

#[test]
fn a_truncation_forgets_no_producer_that_a_snapshot_yet_to_be_written_knows() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let builder = BatchBuilder::uncompressed();
    let builder = builder.producer(ProducerId(1), ProducerEpoch(0), 0);
    append(&log, batch_of(builder, 7, 2, NOW.0));
    let segments = log.segment_count();
    while log.segment_count() == segments {
        append(&log, batch(0, 3, NOW.0));
    }
    append(&log, batch(0, 3, NOW.0));
    let end = log.log_end_offset();
    append(&log, batch(0, 3, NOW.0));
    // Nothing of the producer is left but what the snapshot of the roll says.
    log.delete_records(Offset(3), end).unwrap();
    run(log.truncate_to(log.lower_recovery_point(end), NOW)).unwrap();
    let known = |log: &Log<MemoryDisk>| log.producers().get(ProducerId(1)).is_some();
    let is_known = known(&log);
    run(log.flush()).unwrap();
    run(log.prepare()).unwrap();
    let mut options = from_checkpoint(&log, false);
    options.log_start_offset = Some(log.log_start_offset());
    drop(log);
    let (log, _) = open(&disk, &data, &settings(), options);
    assert_eq!(known(&log), is_known);
}

#[test]
fn a_kill_takes_nothing_of_a_follower_whose_leader_had_cleaned_what_it_gave() {
    let (disk, data) = memory();
    let mut settings = settings();
    settings.cleanup_policy.compact = true;
    let log = create(&disk, &data, &settings);
    let mut offset = 0;
    while log.segment_count() < 4 {
        offset += 10;
        let builder = BatchBuilder::uncompressed().base_offset(Offset(offset));
        let builder = builder.leader_epoch(LeaderEpoch(0));
        let bytes = batch_of(builder, 0, 3, NOW.0).freeze();
        let header = BatchHeader::parse(&bytes).unwrap();
        log.stage_as_follower(bytes, &header, None, NOW).unwrap();
        run(log.write_staged(NOW)).unwrap();
    }
    let records = read_all(&log, log.log_end_offset(), 5000);
    let image = disk.crash(Crash::Kill);
    let (log, report) = open(&image, &data, &settings, options(false));
    assert_eq!(report.damage, None);
    assert_eq!(read_all(&log, log.log_end_offset(), 5000), records);
}

#[test]
fn a_batch_at_an_offset_that_does_not_follow_is_none_that_was_appended() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..2 {
        append(&log, batch(tag, 3, NOW.0));
    }
    let position = log.size_bytes();
    append(&log, batch(2, 3, NOW.0));
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::Log));
    // Of the base offset, which is no part of what the CRC is of.
    disk.flip(&path, position + 6);
    let (log, _) = open(&disk, &data, &settings(), options(false));
    assert_eq!(log.log_end_offset(), Offset(6));
    let records = read_all(&log, Offset(6), 5000);
    assert_eq!(records, expected(&[(0, 3), (1, 3)]));
}

#[test]
fn what_a_failed_sync_left_in_memory_only_is_written_again_by_the_next_start() {
    for failing in 1..=4 {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        for tag in 0..4 {
            append(&log, batch(tag, 3, NOW.0));
        }
        let records = expected(&[(0, 3), (1, 3), (2, 3), (3, 3)]);
        // The kernel tells of it once, and takes the bytes for written from then on.
        let at = disk.calls(Call::Sync) + failing;
        disk.set_fault(Call::Sync, at, Fault::Io);
        assert!(run(log.flush()).is_err());
        let options = from_checkpoint(&log, false);
        drop(log);
        let image = disk.crash(Crash::Kill);
        let (log, report) = open(&image, &data, &settings(), options.clone());
        assert_eq!(report.damage, None);
        assert_eq!(read_all(&log, Offset(12), 5000), records);
        // What it serves survives a power cut, and so does what it flushes.
        power::after_power_cuts(&image, &data, &settings(), &options, |log, _, seed| {
            let end = log.log_end_offset();
            assert_eq!(end, Offset(12), "sync {failing}, seed {seed}");
            assert_eq!(
                read_all(log, end, 5000),
                expected(&[(0, 3), (1, 3), (2, 3), (3, 3)])
            );
        });
        run(log.flush()).unwrap();
        let path = data.join("topic-0").join(names::PARTITION_METADATA);
        let whole = run(image.read_file(&path, 1000)).unwrap();
        for seed in 0..20 {
            let cut = image.crash(Crash::Power { seed });
            assert_eq!(run(cut.read_file(&path, 1000)).unwrap(), whole);
        }
    }
}

#[test]
fn index_entries_of_a_log_that_lost_all_do_not_come_back_to_a_clean_start() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..4 {
        append(&log, batch(tag, 3, NOW.0));
    }
    run(log.close(NOW)).unwrap();
    // A power cut took the batches and left the entries.
    let dir = data.join("topic-0");
    let path = dir.join(names::file_name(Offset(0), names::FileKind::Log));
    let file = run(disk.open(&path, OpenMode::Write)).unwrap();
    run(file.truncate(0)).unwrap();
    run(file.sync_data()).unwrap();
    // Two processes are killed before the first flush, and the third one stops in order.
    for _ in 0..2 {
        drop(open(&disk, &data, &settings(), options(false)));
    }
    let (log, _) = open(&disk, &data, &settings(), options(false));
    run(log.close(NOW)).unwrap();
    let mut came_back = 0;
    for seed in 0..60 {
        let image = disk.crash(Crash::Power { seed });
        let (log, report) = open(&image, &data, &settings(), options(true));
        came_back += report.rebuilt_indexes;
        let (index, time_index) = {
            let state = log.state.borrow();
            (state.active().index_entries, state.active().time_entries)
        };
        assert_eq!((index, time_index), (0, 0), "seed {seed}");
        append(&log, batch(9, 1, NOW.0));
        assert_eq!(read_all(&log, Offset(1), 5000), expected(&[(9, 1)]));
    }
    assert!(came_back > 0);
}

#[test]
fn index_entries_of_a_log_that_rested_survive_a_power_cut_after_a_clean_stop() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..6 {
        append(&log, batch(tag, 3, NOW.0 + tag as i64 * 10));
    }
    run(log.flush()).unwrap();
    run(log.rest()).unwrap();
    assert_eq!(log.open_files(), 0);
    run(log.close(NOW)).unwrap();
    let ends = |log: &Log<MemoryDisk>| {
        let state = log.state.borrow();
        let active = state.active();
        (
            active.index_entries,
            active.time_entries,
            active.max_timestamp,
        )
    };
    let (log, _) = open(&disk.crash(Crash::Kill), &data, &settings(), options(true));
    let expected = ends(&log);
    assert!(expected.0 > 0 && expected.1 > 0);
    power::after_power_cuts(
        &disk,
        &data,
        &settings(),
        &options(true),
        |log, report, seed| {
            assert_eq!(report, &OpenReport::default(), "seed {seed}");
            assert_eq!(ends(log), expected, "seed {seed}");
        },
    );
}

#[test]
fn an_epoch_whose_first_batches_the_cleaner_took_is_known_after_a_segment_was_walked_over() {
    let (disk, data) = memory();
    let mut settings = settings();
    settings.cleanup_policy.compact = true;
    let log = create(&disk, &data, &settings);
    let mut offset = 0;
    let mut put = |epoch: i32| {
        offset += 10;
        let builder = BatchBuilder::uncompressed().base_offset(Offset(offset));
        let builder = builder.leader_epoch(LeaderEpoch(epoch));
        let bytes = batch_of(builder, 0, 3, NOW.0).freeze();
        let header = BatchHeader::parse(&bytes).unwrap();
        log.stage_as_follower(bytes, &header, None, NOW).unwrap();
        run(log.write_staged(NOW)).unwrap();
        offset
    };
    let mut batches = 0;
    while log.segment_count() < 2 {
        put(0);
        batches += 1;
    }
    // The last batch of the second segment is the first of another leader.
    for _ in 3..batches {
        put(0);
    }
    put(1);
    let first = put(1);
    let one = log.state.borrow().active().size;
    while log.segment_count() < 4 {
        put(1);
    }
    run(log.flush()).unwrap();
    let (base, position) = {
        let state = log.state.borrow();
        let (second, third) = (&state.segments[1], &state.segments[2]);
        assert_eq!(third.base_offset, first - 7);
        (second.base_offset, u64::from(second.size - one))
    };
    let options = from_checkpoint(&log, false);
    drop(log);
    let dir = data.join("topic-0");
    let path = |kind| dir.join(names::file_name(Offset(base), kind));
    let file = run(disk.open(&path(names::FileKind::Log), OpenMode::Write)).unwrap();
    run(file.truncate(position)).unwrap();
    run(disk.remove_file(&path(names::FileKind::Index))).unwrap();
    let (log, report) = open(&disk, &data, &settings, options);
    assert_eq!(report.rebuilt_indexes, 1);
    assert_eq!(log.epoch_for_offset(Offset(first)), Some(LeaderEpoch(1)));
}
