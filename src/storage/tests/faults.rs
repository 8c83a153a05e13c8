//! Disks that fail.

use super::memory::{Call, Crash, Fault};
use super::*;

fn is_offline<T>(result: Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Offline(_)))
}

#[test]
fn a_failed_write_takes_the_log_offline_and_loses_nothing_acknowledged() {
    for fault in [
        Fault::Io,
        Fault::DiskFull,
        Fault::Short(70),
        Fault::Short(0),
    ] {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        append(&log, batch(0, 3, NOW.0));
        disk.set_fault(Call::Write, 0, fault);
        stage(&log, batch(1, 3, NOW.0)).unwrap();
        let error = run(log.write_staged(NOW)).unwrap_err();
        let LogError::Offline(failure) = &error else {
            panic!("{error}");
        };
        assert_eq!(failure.operation, Operation::Write);
        assert_eq!(failure.is_disk_full(), fault != Fault::Io);
        // And stays so, though the disk works again.
        assert!(matches!(
            stage(&log, batch(1, 3, NOW.0)),
            Err(AppendError::Log(LogError::Offline(_)))
        ));
        assert!(is_offline(run(log.write_staged(NOW))));
        assert!(is_offline(run(log.flush())));
        assert!(is_offline(run(log.read(Offset(0), 10, Offset(3), true))));
        assert!(is_offline(run(log.close(NOW))));
        assert!(log.failure().is_some());
        drop(log);
        let (log, report) = open(&disk, &data, &settings(), options(false));
        assert_eq!(report.damage, None);
        assert_eq!(
            read_all(&log, log.log_end_offset(), 1000),
            expected(&[(0, 3)])
        );
        assert_eq!(append(&log, batch(1, 3, NOW.0)), Offset(3));
    }
}

#[test]
fn a_failed_sync_is_not_retried() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    assert_eq!(run(log.flush()).unwrap(), Offset(3));
    append(&log, batch(1, 3, NOW.0));
    disk.set_fault(Call::Sync, 0, Fault::Io);
    assert!(is_offline(run(log.flush())));
    let syncs = disk.calls(Call::Sync);
    assert!(is_offline(run(log.flush())));
    assert_eq!(disk.calls(Call::Sync), syncs);
    assert_eq!(log.recovery_point(), Offset(3));
}

#[test]
fn a_segment_that_cannot_be_begun_takes_the_log_offline() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    while log.size_bytes() < 1900 {
        append(&log, batch(0, 1, NOW.0));
    }
    stage(&log, batch(1, 5, NOW.0)).unwrap();
    let end = log.log_end_offset();
    // The index of the old segment is written first.
    disk.set_fault(Call::Any, disk.calls(Call::Any) + 3, Fault::DiskFull);
    assert!(is_offline(run(log.write_staged(NOW))));
    assert_eq!(log.log_end_offset(), end);
    drop(log);
    let (log, _) = open(&disk, &data, &settings(), options(false));
    assert_eq!(log.log_end_offset(), end);
}

#[test]
fn allocation_is_given_back() {
    let (disk, data) = memory();
    let mut options = options(false);
    let budget = Arc::new(AllocationBudget::new(100 * 1024));
    options.allocation = Some(budget.clone());
    let mut large = settings();
    large.segment_bytes = 1 << 20;
    let path = |topic: &str| data.join(topic);
    let log = |topic: &str| {
        run(Log::create(
            disk.clone(),
            Arc::from(path(topic)),
            Arc::new(large.clone()),
            TopicId(7),
            Offset(0),
            options.clone(),
        ))
        .unwrap()
    };
    let (a, b) = (log("a-0"), log("b-0"));
    let file = |topic: &str| path(topic).join("00000000000000000000.log");
    for log in [&a, &b] {
        stage(log, batch(0, 1, NOW.0)).unwrap();
        assert!(run(log.write_staged(NOW)).unwrap().prepare);
        run(log.prepare()).unwrap();
    }
    assert!(disk.tail_bytes(&file("a-0")).unwrap() > 60_000);
    // The budget has no room for a second one.
    assert_eq!(disk.tail_bytes(&file("b-0")), Some(0));
    run(a.close(NOW)).unwrap();
    assert_eq!(disk.tail_bytes(&file("a-0")), Some(0));
    run(b.prepare()).unwrap();
    assert!(disk.tail_bytes(&file("b-0")).unwrap() > 60_000);
    // Also when a segment ends, or the log is recovered.
    while b.segment_count() < 2 {
        append(&b, batch(0, 100, NOW.0));
    }
    run(b.prepare()).unwrap();
    assert_eq!(disk.tail_bytes(&file("b-0")), Some(0));
}

#[test]
fn an_idle_log_is_small() {
    assert!(std::mem::size_of::<Log<PageCache<Inline>>>() < 1600);
}

/// Appends until the log has a prepared segment, or its active one ends.
fn fill_until_prepared(log: &Log<MemoryDisk>) {
    let segments = log.segment_count();
    loop {
        stage(log, batch(0, 1, NOW.0)).unwrap();
        let prepare = run(log.write_staged(NOW)).unwrap().prepare;
        assert_eq!(log.segment_count(), segments);
        if prepare && log.state.borrow().active().size > 1500 {
            return run(log.prepare()).unwrap();
        }
    }
}

fn names_of(disk: &MemoryDisk, data: &Path, suffix: &str) -> Vec<String> {
    let entries = run(disk.list(&data.join("topic-0"))).unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(suffix)).collect()
}

#[test]
fn a_roll_takes_the_segment_that_was_prepared() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 1, NOW.0));
    run(log.prepare()).unwrap();
    assert!(names_of(&disk, &data, ".deleted").is_empty());
    for segments in 1..4 {
        fill_until_prepared(&log);
        assert_eq!(
            names_of(&disk, &data, ".deleted"),
            [
                "next.index.deleted",
                "next.log.deleted",
                "next.timeindex.deleted"
            ]
        );
        // Rename, rename, rename, and the writes: nothing is made.
        stage(&log, batch(0, 60, NOW.0)).unwrap();
        let before = disk.calls(Call::Any);
        let writes = disk.calls(Call::Write);
        assert!(log.write_waits());
        run(log.write_staged(NOW)).unwrap();
        let others = (disk.calls(Call::Any) - before) - (disk.calls(Call::Write) - writes);
        assert_eq!(others, 3);
        assert_eq!(log.segment_count(), segments + 1);
        assert!(names_of(&disk, &data, ".deleted").is_empty());
    }
    let end = log.log_end_offset();
    let read = read_all(&log, end, 700);
    run(log.prepare()).unwrap();
    run(log.close(NOW)).unwrap();
    let (log, report) = open(&disk, &data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(read_all(&log, end, 700), read);
}

#[test]
fn a_prepared_segment_goes_with_a_stop_a_crash_and_with_silence() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    fill_until_prepared(&log);
    let end = log.log_end_offset();
    // A crash.
    let image = disk.crash(Crash::Kill);
    assert_eq!(names_of(&image, &data, ".deleted").len(), 3);
    let (after, _) = open(&image, &data, &settings(), options(false));
    assert_eq!(after.log_end_offset(), end);
    assert!(names_of(&image, &data, ".deleted").is_empty());
    // A clean stop.
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    fill_until_prepared(&log);
    run(log.close(NOW)).unwrap();
    assert!(names_of(&disk, &data, ".deleted").is_empty());
    assert_eq!(names_of(&disk, &data, ".log").len(), 1);
    // Silence.
    let (disk, data) = memory();
    disk.set_time(NOW);
    let log = create(&disk, &data, &settings());
    fill_until_prepared(&log);
    let later = |ms: i64| Timestamp(NOW.0 + ms);
    run(log.delete_old_segments(later(59_999), end)).unwrap();
    assert_eq!(names_of(&disk, &data, ".deleted").len(), 3);
    run(log.delete_old_segments(later(60_000), end)).unwrap();
    assert!(names_of(&disk, &data, ".deleted").is_empty());
    // And there is another when it is busy again.
    append(&log, batch(0, 1, NOW.0));
    run(log.prepare()).unwrap();
    assert_eq!(names_of(&disk, &data, ".deleted").len(), 3);
}

#[test]
fn a_segment_that_cannot_be_prepared_is_made_by_the_roll() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    while log.state.borrow().active().size < 1600 {
        append(&log, batch(0, 1, NOW.0));
    }
    // Epochs, snapshots and room were seen to before.
    log.state.borrow_mut().epochs_dirty = false;
    log.state.borrow_mut().active_mut().held_mut().allocated = u32::MAX;
    disk.set_fault(Call::Any, 0, Fault::DiskFull);
    assert!(matches!(run(log.prepare()), Err(LogError::Io(_))));
    append(&log, batch(0, 60, NOW.0));
    assert_eq!(log.segment_count(), 2);
    assert!(log.failure().is_none());
}

#[test]
fn after_a_roll_the_active_segment_is_not_flushed() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    let active = |log: &Log<MemoryDisk>| Offset(log.state.borrow().active().base_offset);
    while log.segment_count() < 3 {
        append(&log, batch(0, 10, NOW.0));
    }
    let base = active(&log);
    assert_eq!(run(log.flush_closed()).unwrap(), base);
    assert_eq!(log.recovery_point(), base);
    let image = disk.crash(Crash::Power { seed: 1 });
    let path = data
        .join("topic-0")
        .join(names::file_name(base, names::FileKind::Log));
    let synced = |disk: &MemoryDisk| {
        let file = run(disk.open(&path, OpenMode::Read)).unwrap();
        file.synced_bytes()
    };
    assert_eq!(synced(&disk), 0);
    let mut from = options(false);
    from.recovery_point = base;
    let (after, report) = open(&image, &data, &settings(), from);
    assert!(report.recovered_segments <= 1);
    assert!(after.log_end_offset() >= base);
    // Nothing to do: no call to the disk.
    let calls = disk.calls(Call::Any);
    assert_eq!(run(log.flush_closed()).unwrap(), base);
    assert_eq!(disk.calls(Call::Any), calls);
    // A flush of all takes the rest, and a later one of what is closed takes nothing back.
    let end = log.log_end_offset();
    assert_eq!(run(log.flush()).unwrap(), end);
    assert!(synced(&disk) > 0);
    assert_eq!(run(log.flush_closed()).unwrap(), end);
}

#[test]
fn what_a_flush_began_without_is_not_covered_by_it() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    append(&log, batch(1, 3, NOW.0));
    disk.hold_syncs();
    let mut flush = std::pin::pin!(log.flush());
    let mut context = Context::from_waker(Waker::noop());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    append(&log, batch(2, 3, NOW.0));
    disk.release_syncs();
    let Poll::Ready(flushed) = flush.as_mut().poll(&mut context) else {
        panic!("nothing holds it");
    };
    assert_eq!(flushed.unwrap(), Offset(6));
    for seed in 0..20 {
        let image = disk.crash(Crash::Power { seed });
        let (log, _) = open(&image, &data, &settings(), options(false));
        let end = log.log_end_offset();
        assert!(end >= Offset(6), "{seed}");
    }
}

#[test]
fn a_log_that_recovery_cut_to_nothing_stays_so_in_a_power_cut() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    drop(log);
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::Log));
    disk.flip(&path, 70);
    let (log, report) = open(&disk, &data, &settings(), options(false));
    assert_eq!(log.log_end_offset(), Offset(0));
    assert!(report.truncated_bytes > 0);
    for seed in 0..20 {
        let image = disk.crash(Crash::Power { seed });
        let file = run(image.open(&path, OpenMode::Read)).unwrap();
        assert_eq!(file.len().unwrap(), 0, "{seed}");
    }
}

#[test]
fn what_is_kept_of_damage_survives_a_power_cut() {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    append(&log, batch(1, 3, NOW.0));
    run(log.flush()).unwrap();
    drop(log);
    let path = data
        .join("topic-0")
        .join(names::file_name(Offset(0), names::FileKind::Log));
    let len = run(disk.open(&path, OpenMode::Read))
        .unwrap()
        .len()
        .unwrap();
    disk.flip(&path, 70);
    // Cut at each call of the recovery.
    let recovery = {
        let disk = disk.crash(Crash::Kill);
        let (_, report) = open(&disk, &data, &settings(), options(false));
        assert!(report.damage.is_some());
        disk.calls(Call::Any)
    };
    for at in 1..=recovery {
        for seed in 0..10 {
            let disk = disk.crash(Crash::Kill);
            disk.set_fault(Call::Any, at, Fault::PowerOff);
            let opened = run(Log::open(
                disk.clone(),
                Arc::from(data.join("topic-0")),
                Arc::new(settings()),
                options(false),
            ));
            assert!(opened.is_err());
            let image = disk.crash(Crash::Power { seed });
            let files = run(image.list(&data.join("topic-0"))).unwrap();
            let kept = files
                .iter()
                .filter(|f| f.name.contains(".log"))
                .map(|f| f.len);
            assert!(kept.max().unwrap() >= len, "{at} {seed}: {files:?}");
        }
    }
}
