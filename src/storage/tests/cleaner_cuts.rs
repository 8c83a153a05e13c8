//! What power cuts and kills made of the cleaner's work, until a seed of `tools/faults` showed it.

use super::cleaner::{AtOnce, Record, compacted, limits, put, records, stable, try_clean};
use super::memory::{Call, Crash, Fault};
use super::power::{after_power_cuts, append_until_rolled, from_checkpoint};
use super::*;
use crate::storage::cleaner::Cleaner;

/// A batch of a producer that has written `sequence` records.
fn idempotent(log: &Log<MemoryDisk>, producer: i64, sequence: i32) -> Offset {
    let builder = BatchBuilder::uncompressed();
    let builder = builder.producer(ProducerId(producer), ProducerEpoch(0), sequence);
    append(log, batch_of(builder, 7, 2, NOW.0))
}

/// Puts values of a key until a segment ends.
pub(super) fn put_until_rolled(log: &Log<MemoryDisk>, key: u8) {
    let segments = log.segment_count();
    while log.segment_count() == segments {
        put(log, &[(key, Some(1))]);
    }
}

/// Cleans what `prepare` gives, where the power goes at each call in turn; `check` gets what was left, with what was
/// to be the options of the next start when the pass began.
fn cut_at_every_call(
    prepare: impl Fn() -> (MemoryDisk, PathBuf, Log<MemoryDisk>),
    check: impl Fn(&MemoryDisk, &Path, &OpenOptions, u64),
) {
    let clean = |disk: &MemoryDisk, log: &Log<MemoryDisk>, at: Option<u64>| {
        let range = run(log.cleanable(stable(log), NOW)).unwrap();
        assert!(range.cleanable_bytes > 0);
        let before = disk.calls(Call::Any);
        if let Some(at) = at {
            disk.set_fault(Call::Any, before + at, Fault::PowerOff);
        }
        let mut cleaner = Cleaner::default();
        let cleaned = run(log.clean(&mut cleaner, limits(50), &range, NOW, &AtOnce));
        assert_eq!(cleaned.is_ok(), at.is_none());
        disk.calls(Call::Any) - before
    };
    let (disk, _, log) = prepare();
    let calls = clean(&disk, &log, None);
    for at in 1..=calls {
        let (disk, data, log) = prepare();
        let options = from_checkpoint(&log);
        clean(&disk, &log, Some(at));
        check(&disk, &data, &options, at);
    }
}

#[test]
fn the_last_batch_of_a_producer_goes_only_when_a_snapshot_tells_of_it() {
    let prepare = || {
        let (disk, data) = memory();
        let log = create(&disk, &data, &compacted());
        idempotent(&log, 1, 0);
        append_until_rolled(&log);
        run(log.flush()).unwrap();
        // By this the one before is not the last, but the power takes it.
        idempotent(&log, 1, 2);
        (disk, data, log)
    };
    cut_at_every_call(prepare, |disk, data, options, at| {
        after_power_cuts(disk, data, &compacted(), options, |log, _, seed| {
            let producers = log.producers();
            let producer = producers.get(ProducerId(1));
            let sequence = producer.map(|producer| producer.last_sequence());
            assert!(sequence >= Some(1), "{at} {seed}: {sequence:?}");
        });
    });
}

#[test]
fn a_producer_is_known_after_cleaning_where_the_snapshot_of_a_roll_was_lost() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    idempotent(&log, 1, 0);
    append_until_rolled(&log);
    idempotent(&log, 1, 2);
    append_until_rolled(&log);
    append(&log, batch(1, 1, NOW.0));
    run(log.flush()).unwrap();
    let options = from_checkpoint(&log);
    // The names of snapshots are no flush's business.
    let snapshots = |disk: &MemoryDisk| -> Vec<PathBuf> {
        let files = disk.files().into_iter().map(|(path, _)| path);
        let is_snapshot = |path: &PathBuf| path.to_string_lossy().ends_with(".snapshot");
        files.filter(is_snapshot).collect()
    };
    let disk = disk.crash(Crash::Kill);
    for path in snapshots(&disk) {
        run(disk.remove_file(&path)).unwrap();
    }
    let (log, _) = open(&disk, &data, &compacted(), options);
    run(log.flush()).unwrap();
    // Of the producer nothing is left in the cleaned segments.
    idempotent(&log, 1, 4);
    run(log.flush()).unwrap();
    try_clean(&log, 50, NOW.0).unwrap();
    assert!(!snapshots(&disk).is_empty());
    let options = from_checkpoint(&log);
    let image = disk.crash(Crash::Power { seed: 1 });
    let (log, _) = open(&image, &data, &compacted(), options);
    run(log.truncate_to(
        log.lower_recovery_point(Offset(log.log_end_offset().0 - 2)),
        NOW,
    ))
    .unwrap();
    let producers = log.producers();
    let producer = producers.get(ProducerId(1));
    assert_eq!(producer.map(|producer| producer.last_sequence()), Some(3));
}

#[test]
fn a_log_of_which_the_cleaner_left_an_empty_segment_goes_on_after_a_kill_in_the_swap() {
    let prepare = || {
        let (disk, data) = memory();
        let log = create(&disk, &data, &compacted());
        append_until_rolled(&log);
        append_until_rolled(&log);
        append_until_rolled(&log);
        append(&log, batch(1, 1, NOW.0));
        run(log.flush()).unwrap();
        (disk, data, log)
    };
    cut_at_every_call(prepare, |disk, data, options, at| {
        let image = disk.crash(Crash::Kill);
        let (log, _) = open(&image, data, &compacted(), options.clone());
        append(&log, batch(2, 1, NOW.0));
        run(log.flush()).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(log.failure().is_none(), "{at}");
    });
}

#[test]
fn a_tombstone_below_a_log_start_without_a_checkpoint_does_not_go_before_what_it_deletes() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    let (old, tombstone): (Record, Record) = ((1, Some(7)), (1, None));
    put(&log, &[old]);
    put(&log, &[tombstone]);
    let start = put(&log, &[(2, Some(1))]);
    put_until_rolled(&log, 2);
    run(log.flush()).unwrap();
    let options = from_checkpoint(&log);
    log.delete_records(Offset(start), log.log_end_offset())
        .unwrap();
    // The first pass dates the tombstone, the second finds that its time has passed.
    for now in [NOW.0, NOW.0 + 1_000_000] {
        try_clean(&log, 50, now).unwrap();
        put_until_rolled(&log, 3);
        run(log.flush()).unwrap();
    }
    after_power_cuts(&disk, &data, &compacted(), &options, |log, _, seed| {
        assert_eq!(log.log_start_offset(), Offset(0));
        let found: Vec<Record> = records(log).into_iter().map(|(_, record)| record).collect();
        let is_right = !found.contains(&old) || found.contains(&tombstone);
        assert!(is_right, "{seed}: {found:?}");
    });
}
