//! Segments are removed while the log is written to.

use super::*;

fn is_pending<F: Future>(future: &mut std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    future.as_mut().poll(&mut context).is_pending()
}

#[test]
fn appends_and_rolls_go_on_while_segments_are_removed() {
    let (disk, data) = memory();
    let mut short = settings();
    short.retention_bytes = 2000;
    let log = create(&disk, &data, &short);
    let mut made = Vec::new();
    let mut put = |count: u64| {
        for tag in made.len() as u64..made.len() as u64 + count {
            append(&log, batch(tag, 12, NOW.0));
            made.push((tag, 12));
        }
    };
    put(60);
    run(log.flush()).unwrap();
    let (segments, end) = (log.segment_count(), log.log_end_offset());
    assert!(segments > 5);
    disk.hold_removals();
    let mut retention = std::pin::pin!(log.delete_old_segments(NOW, end));
    assert!(is_pending(&mut retention));
    // They are gone for readers.
    let start = log.log_start_offset();
    assert!(start > Offset(0) && log.segment_count() < 4);
    put(60);
    assert!(log.segment_count() > 5, "it rolled");
    // What a flush syncs meanwhile says nothing of the removals that are still to come.
    run(log.flush()).unwrap();
    disk.release_removals();
    let deleted = run(retention).unwrap();
    assert!(deleted.segments > 2 && deleted.log_start_moved);
    assert!(log.state.borrow().dir_dirty);
    let end = log.log_end_offset();
    let from_start = expected(&made).split_off(start.0 as usize);
    assert_eq!(read_all(&log, end, 700), from_start);
    let (again, report) = open(&disk, &data, &short, options(false));
    assert_eq!(report.damage, None);
    assert_eq!(again.log_start_offset(), start);
    assert_eq!(read_all(&again, end, 700), from_start);
}

#[test]
fn a_flush_waits_until_segments_that_were_not_on_the_device_are_gone() {
    for seed in 0..40 {
        let (disk, data) = memory();
        let mut short = settings();
        short.retention_bytes = 2000;
        let log = create(&disk, &data, &short);
        for tag in 0..60 {
            append(&log, batch(tag, 12, NOW.0));
        }
        let end = log.log_end_offset();
        disk.hold_removals();
        let mut retention = std::pin::pin!(log.delete_old_segments(NOW, end));
        assert!(is_pending(&mut retention));
        let mut flush = std::pin::pin!(log.flush());
        // Their names may come back, and the next start goes no further than what is whole.
        assert!(is_pending(&mut flush));
        assert_eq!(log.recovery_point(), Offset(0));
        disk.release_removals();
        run(retention).unwrap();
        assert_eq!(run(flush).unwrap(), end);
        let disk = disk.crash(crate::storage::memory::Crash::Power { seed });
        let (log, _) = open(&disk, &data, &short, options(false));
        assert_eq!(log.log_end_offset(), end, "seed {seed}");
    }
}

#[test]
fn appends_go_on_while_a_log_whose_records_have_all_expired_is_emptied() {
    let (disk, data) = memory();
    let mut short = settings();
    short.retention_ms = 1000;
    let log = create(&disk, &data, &short);
    for tag in 0..30 {
        append(&log, batch(tag, 3, NOW.0));
    }
    let end = log.log_end_offset();
    disk.hold_removals();
    let later = Timestamp(NOW.0 + 100_000);
    let mut retention = std::pin::pin!(log.delete_old_segments(later, end));
    assert!(is_pending(&mut retention));
    assert_eq!((log.log_start_offset(), log.segment_count()), (end, 1));
    assert_eq!(append(&log, batch(30, 3, later.0)), end);
    disk.release_removals();
    run(retention).unwrap();
    assert_eq!(read_all(&log, log.log_end_offset(), 700).len(), 3);
}

#[test]
fn what_is_kept_of_a_log_that_is_about_to_be_cut_is_at_most_what_will_be_left() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..40 {
        append(&log, batch(tag, 1, NOW.0));
    }
    run(log.flush()).unwrap();
    let before = log.recovery_checkpoint();
    let (first, second) = (
        log.lower_recovery_point(Offset(30)),
        log.lower_recovery_point(Offset(20)),
    );
    append(&log, batch(40, 1, NOW.0));
    run(log.flush()).unwrap();
    assert!(log.recovery_checkpoint() <= Offset(20));
    // Nobody cuts the log there after all.
    drop(second);
    assert!(log.recovery_checkpoint() <= Offset(30));
    drop(first);
    assert!(log.recovery_checkpoint() >= before);
    run(log.truncate_to(log.lower_recovery_point(Offset(20)), NOW)).unwrap();
    assert!(log.recovery_checkpoint() <= Offset(20));
    assert_eq!(log.log_end_offset(), Offset(20));
}
