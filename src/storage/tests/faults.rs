//! Disks that fail.

use super::memory::{Call, Fault};
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
