//! Room that is filled with zeros ahead of what is flushed before its acknowledgement.

use super::memory::{Call, Crash, Fault};
use super::*;

fn durable_mib() -> LogSettings {
    let mut settings = durable_settings();
    settings.segment_bytes = 1 << 20;
    settings
}

fn path(data: &Path, base_offset: Offset) -> PathBuf {
    let name = names::file_name(base_offset, names::FileKind::Log);
    data.join("topic-0").join(name)
}

fn file_len<D: Disk>(disk: &D, data: &Path, base_offset: Offset) -> u64 {
    let file = run(disk.open(&path(data, base_offset), OpenMode::Read)).unwrap();
    file.len().unwrap()
}

/// Stages a batch, begins `write_staged`, and says whether it had to wait.
fn waits<F: Future>(future: &mut std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    future.as_mut().poll(&mut context).is_pending()
}

fn does_it_on<D: Disk>(disk: &D, data: &Path) {
    let log = create(disk, data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    assert_eq!(file_len(disk, data, Offset(0)), log.size_bytes());
    run(log.prepare()).unwrap();
    let filled = file_len(disk, data, Offset(0));
    assert!(filled > 300_000, "{filled}");
    // What is written and flushed into it leaves the file as long as it was.
    let mut made = vec![(0, 3)];
    for tag in 1..50 {
        append(&log, batch(tag, 10, NOW.0));
        run(log.flush()).unwrap();
        made.push((tag, 10));
    }
    assert_eq!(file_len(disk, data, Offset(0)), filled);
    assert_eq!(read_all(&log, log.log_end_offset(), 700), expected(&made));
    // A log whose process was killed ends where its batches do, and reports neither damage nor a torn write.
    {
        let (again, report) = open(disk, data, &durable_mib(), options(false));
        assert_eq!((report.truncated_bytes, report.damage), (0, None));
        assert_eq!(again.log_end_offset(), log.log_end_offset());
        assert_eq!(file_len(disk, data, Offset(0)), again.size_bytes());
        assert_eq!(append(&again, batch(50, 1, NOW.0)), log.log_end_offset());
        made.push((50, 1));
        run(again.prepare()).unwrap();
        assert!(file_len(disk, data, Offset(0)) > again.size_bytes());
        // A clean stop leaves the batches alone.
        run(again.close(NOW)).unwrap();
        assert_eq!(file_len(disk, data, Offset(0)), again.size_bytes());
    }
    let (log, report) = open(disk, data, &durable_mib(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(read_all(&log, log.log_end_offset(), 700), expected(&made));
}

#[test]
fn flushes_into_filled_room_leave_the_length_of_the_file() {
    let (disk, data) = memory();
    does_it_on(&disk, &data);
    let dir = tempfile::tempdir().unwrap();
    does_it_on(&PageCache::new(Inline), dir.path());
}

#[test]
fn zeros_come_a_piece_at_a_time_until_there_are_as_many_as_records() {
    const PIECE: u64 = 256 * 1024;
    let (disk, data) = memory();
    let mut settings = durable_settings();
    settings.segment_bytes = 16 << 20;
    let log = create(&disk, &data, &settings);
    let prepare = || {
        let before = file_len(&disk, &data, Offset(0)).max(log.size_bytes());
        run(log.prepare()).unwrap();
        file_len(&disk, &data, Offset(0)) - before
    };
    append(&log, batch(0, 3, NOW.0));
    assert_eq!(prepare(), PIECE + 64 * 1024);
    assert_eq!(prepare(), 0);
    let mut tag = 0;
    while log.size_bytes() <= 1 << 20 {
        tag = (tag + 1) % 100;
        append(&log, batch(tag, 300, NOW.0));
        assert!(prepare() <= PIECE);
    }
    while prepare() > 0 {}
    let ahead = file_len(&disk, &data, Offset(0)) - log.size_bytes();
    assert!(ahead > (2 << 20) - PIECE && ahead <= 2 << 20, "{ahead}");
}

#[test]
fn nothing_is_filled_where_no_acknowledgement_waits_or_flushes_are_large() {
    let (disk, data) = memory();
    let mut settings = durable_mib();
    settings.flush_messages = 2;
    let log = create(&disk, &data, &settings);
    append(&log, batch(0, 3, NOW.0));
    run(log.prepare()).unwrap();
    assert_eq!(file_len(&disk, &data, Offset(0)), log.size_bytes());
    // Large flushes.
    log.set_settings(Arc::new(durable_mib()));
    log.state.borrow_mut().flush_bytes = 16 * 1024;
    run(log.prepare()).unwrap();
    assert_eq!(file_len(&disk, &data, Offset(0)), log.size_bytes());
    for _ in 0..3 {
        append(&log, batch(1, 2, NOW.0));
        run(log.flush()).unwrap();
    }
    run(log.prepare()).unwrap();
    assert!(file_len(&disk, &data, Offset(0)) > log.size_bytes());
}

#[test]
fn a_write_that_meets_the_zeros_waits_for_them_and_others_do_not() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    disk.hold_syncs();
    let mut prepare = std::pin::pin!(log.prepare());
    // Epochs go first, by a sync of their own.
    log.state.borrow_mut().epochs_dirty = false;
    assert!(waits(&mut prepare));
    assert!(log.state.borrow().filling_from.is_some());
    // There is room before them.
    let mut made = vec![(0, 3)];
    for tag in 1..3 {
        assert!(!log.write_waits());
        append(&log, batch(tag, 100, NOW.0));
        made.push((tag, 100));
    }
    stage(&log, batch(3, 3000, NOW.0)).unwrap();
    made.push((3, 3000));
    assert!(log.write_waits());
    let mut write = std::pin::pin!(log.write_staged(NOW));
    assert!(waits(&mut write));
    assert_eq!(log.log_end_offset(), Offset(203));
    disk.release_syncs();
    run(prepare).unwrap();
    run(write).unwrap();
    assert_eq!(
        read_all(&log, log.log_end_offset(), 70_000),
        expected(&made)
    );
}

#[test]
fn a_roll_waits_for_the_zeros_and_they_are_cut_before_the_recovery_point_passes() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    disk.hold_syncs();
    log.state.borrow_mut().epochs_dirty = false;
    let mut prepare = std::pin::pin!(log.prepare());
    assert!(waits(&mut prepare));
    // Of an age at which a new segment begins.
    let later = Timestamp(NOW.0 + settings().segment_ms as i64 + 10);
    stage_at(&log, batch(1, 2, later.0), LeaderEpoch(0), later).unwrap();
    let mut write = std::pin::pin!(log.write_staged(later));
    assert!(waits(&mut write));
    disk.release_syncs();
    run(prepare).unwrap();
    run(write).unwrap();
    assert_eq!(log.segment_count(), 2);
    assert!(file_len(&disk, &data, Offset(0)) > 300_000);
    assert_eq!(run(log.flush_closed()).unwrap(), Offset(3));
    for seed in 0..20 {
        let image = disk.crash(Crash::Power { seed });
        let mut from = options(false);
        from.recovery_point = Offset(3);
        let (after, report) = open(&image, &data, &durable_mib(), from);
        assert_eq!(report.damage, None);
        let read = read_all(&after, after.log_end_offset(), 1000);
        assert_eq!(read[..3], expected(&[(0, 3)]), "{seed}");
    }
}

#[test]
fn a_crash_between_a_roll_and_its_flush_is_no_damage() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    run(log.prepare()).unwrap();
    let later = Timestamp(NOW.0 + settings().segment_ms as i64 + 10);
    stage_at(&log, batch(1, 2, later.0), LeaderEpoch(0), later).unwrap();
    run(log.write_staged(later)).unwrap();
    let (again, report) = open(&disk, &data, &durable_mib(), options(false));
    assert_eq!((report.truncated_bytes, report.damage), (0, None));
    assert_eq!(again.segment_count(), 2);
    let read = read_all(&again, again.log_end_offset(), 1000);
    assert_eq!(read, expected(&[(0, 3), (1, 2)]));
}

#[test]
fn zeros_without_room_do_no_harm_and_zeros_that_cannot_be_synced_take_the_log_offline() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    log.state.borrow_mut().epochs_dirty = false;
    disk.set_fault(Call::Write, 0, Fault::Short(1000));
    run(log.prepare()).unwrap();
    let calls = disk.calls(Call::Any);
    run(log.prepare()).unwrap();
    assert_eq!(disk.calls(Call::Any), calls);
    append(&log, batch(1, 3, NOW.0));
    run(log.flush()).unwrap();
    run(log.close(NOW)).unwrap();
    assert_eq!(file_len(&disk, &data, Offset(0)), log.size_bytes());

    let (disk, data) = memory();
    let log = create(&disk, &data, &durable_mib());
    append(&log, batch(0, 3, NOW.0));
    log.state.borrow_mut().epochs_dirty = false;
    disk.set_fault(Call::Sync, 0, Fault::Io);
    assert!(matches!(run(log.prepare()), Err(LogError::Offline(_))));
    assert!(matches!(run(log.flush()), Err(LogError::Offline(_))));
    let (log, report) = open(&disk, &data, &durable_mib(), options(false));
    assert_eq!((report.truncated_bytes, report.damage), (0, None));
    assert_eq!(log.log_end_offset(), Offset(3));
}
