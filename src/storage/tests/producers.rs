//! What a log knows of its producers after it was cut, and what a start finds of that. A producer of which a log knows
//! less than it wrote is refused when it goes on; one that is not known at all goes on anywhere.

use super::cleaner::{compacted, end_txn, try_clean};
use super::memory::{Call, Crash, Fault};
use super::power::{append_until_rolled, from_checkpoint};
use super::*;
use crate::records::control::TxnOutcome;

const PRODUCER: ProducerId = ProducerId(1);

/// A batch of two records of the producer, which has written `sequence` records.
fn idempotent(log: &Log<MemoryDisk>, sequence: i32) -> Offset {
    let builder = BatchBuilder::uncompressed();
    let builder = builder.producer(PRODUCER, ProducerEpoch(0), sequence);
    append(log, batch_of(builder, 7, 2, NOW.0))
}

/// The last sequence that is known of the producer.
fn known(log: &Log<MemoryDisk>) -> Option<i32> {
    let producers = log.producers();
    producers.get(PRODUCER).map(|entry| entry.last_sequence())
}

#[test]
fn a_truncation_forgets_no_producer_whose_deleted_records_a_kill_brings_back() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    idempotent(&log, 0);
    append(&log, batch(0, 3, NOW.0));
    let end = log.log_end_offset();
    append(&log, batch(0, 3, NOW.0));
    // No checkpoint says so before the kill.
    log.delete_records(Offset(2), end).unwrap();
    run(log.truncate_to(log.lower_recovery_point(end), NOW)).unwrap();
    assert_eq!(log.log_start_offset(), Offset(2));
    assert_eq!(known(&log), Some(1));
    append_until_rolled(&log);
    run(log.flush()).unwrap();
    run(log.prepare()).unwrap();
    let options = from_checkpoint(&log);
    let (log, _) = open(&disk.crash(Crash::Kill), &data, &settings(), options);
    assert_eq!(log.log_start_offset(), Offset(0));
    assert_eq!(known(&log), Some(1));
}

#[test]
fn a_truncation_forgets_no_aborted_transaction_whose_records_a_kill_brings_back() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let builder = BatchBuilder::uncompressed().transactional();
    let builder = builder.producer(PRODUCER, ProducerEpoch(0), 0);
    append(&log, batch_of(builder, 7, 2, NOW.0));
    end_txn(&log, PRODUCER.0, TxnOutcome::Abort);
    let start = log.log_end_offset();
    append(&log, batch(0, 3, NOW.0));
    let end = log.log_end_offset();
    append(&log, batch(0, 3, NOW.0));
    log.delete_records(start, end).unwrap();
    run(log.truncate_to(log.lower_recovery_point(end), NOW)).unwrap();
    append_until_rolled(&log);
    run(log.flush()).unwrap();
    let options = from_checkpoint(&log);
    let (log, _) = open(&disk.crash(Crash::Kill), &data, &settings(), options);
    assert_eq!(log.log_start_offset(), Offset(0));
    let aborted = run(log.aborted_transactions(Offset(0), end)).unwrap();
    assert_eq!(aborted.len(), 1);
}

#[test]
fn a_clean_stop_forgets_no_producer_though_all_records_are_deleted() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    idempotent(&log, 0);
    let end = run(log.flush()).unwrap();
    log.delete_records(end, end).unwrap();
    run(log.close(NOW)).unwrap();
    let options = OpenOptions {
        log_start_offset: Some(end),
        ..options(true)
    };
    let (log, _) = open(&disk, &data, &settings(), options);
    assert_eq!(log.log_start_offset(), end);
    assert_eq!(known(&log), Some(1));
}

#[test]
fn a_log_that_is_moved_after_all_its_records_are_deleted_knows_its_producers_after_a_stop() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    idempotent(&log, 0);
    let end = run(log.flush()).unwrap();
    log.delete_records(end, end).unwrap();
    let (disk, data) = memory();
    let moved = create(&disk, &data, &settings());
    let lowered = moved.lower_recovery_point(end);
    run(moved.truncate_fully_and_start_at(lowered, NOW)).unwrap();
    moved.take_producers_of(&log);
    run(moved.close(NOW)).unwrap();
    let options = OpenOptions {
        log_start_offset: Some(end),
        ..options(true)
    };
    let (moved, _) = open(&disk, &data, &settings(), options);
    assert_eq!(known(&moved), Some(1));
}

#[test]
fn a_cut_where_a_segment_begins_forgets_no_batch_that_the_cleaner_has_taken_before_it() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &compacted());
    append_until_rolled(&log);
    idempotent(&log, 0);
    append_until_rolled(&log);
    let base = log.state.borrow().active().base_offset;
    run(log.flush()).unwrap();
    // By this the one before is not the last, and goes.
    idempotent(&log, 2);
    run(log.flush()).unwrap();
    try_clean(&log, 50, NOW.0).unwrap();
    run(log.truncate_to(log.lower_recovery_point(Offset(base)), NOW)).unwrap();
    assert_eq!(log.log_end_offset(), Offset(base));
    assert_eq!(known(&log), Some(1));
    let options = from_checkpoint(&log);
    for seed in 0..20 {
        let image = disk.crash(Crash::Power { seed });
        let (log, _) = open(&image, &data, &compacted(), options.clone());
        assert_eq!(log.log_end_offset(), Offset(base), "{seed}");
        assert_eq!(known(&log), Some(1), "{seed}");
    }
}

#[test]
fn a_log_that_is_emptied_by_half_knows_of_a_producer_all_or_nothing() {
    let empty = |at: Option<u64>| {
        let (disk, data) = memory();
        let log = create(&disk, &data, &compacted());
        for sequence in [0, 2, 4, 6] {
            idempotent(&log, sequence);
            append_until_rolled(&log);
        }
        idempotent(&log, 8);
        run(log.flush()).unwrap();
        // But for the last batch all of the producer's go.
        try_clean(&log, 50, NOW.0).unwrap();
        let lowered = log.lower_recovery_point(Offset(100));
        let options = from_checkpoint(&log);
        let before = disk.calls(Call::Any);
        if let Some(at) = at {
            disk.set_fault(Call::Any, before + at, Fault::PowerOff);
        }
        let emptied = run(log.truncate_fully_and_start_at(lowered, NOW));
        assert_eq!(emptied.is_ok(), at.is_none());
        (disk.calls(Call::Any) - before, disk, data, options)
    };
    let (calls, ..) = empty(None);
    let mut halves = 0;
    for at in 1..=calls {
        let (_, disk, data, options) = empty(Some(at));
        let kill = std::iter::once(Crash::Kill);
        for crash in kill.chain((0..10).map(|seed| Crash::Power { seed })) {
            let (log, _) = open(&disk.crash(crash), &data, &compacted(), options.clone());
            let known = known(&log);
            assert!(known.is_none() || known == Some(9), "{at}: {known:?}");
            halves += u32::from(known.is_some());
        }
    }
    assert!(halves > 10, "{halves}");
}
