//! What went wrong when several things were done at once, or one after a process that was killed in its middle, until
//! a seed of `tools/faults` showed it.

use super::log_dir;
use super::memory::{Call, Crash, Fault};
use super::power::after_power_cuts;
use super::*;

#[test]
fn a_write_that_ends_after_a_sync_has_failed_is_an_error() {
    let mut failed = 0;
    for seed in 0..60 {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        append(&log, batch(0, 1, NOW.0));
        stage(&log, batch(1, 1, NOW.0)).unwrap();
        disk.pause(Some(seed));
        disk.set_fault(Call::Sync, 1, Fault::Io);
        let mut flush = std::pin::pin!(log.flush());
        let mut write = std::pin::pin!(log.write_staged(NOW));
        let mut context = Context::from_waker(Waker::noop());
        let (mut flushed, mut written) = (None, None);
        while flushed.is_none() || written.is_none() {
            if flushed.is_none()
                && let Poll::Ready(done) = flush.as_mut().poll(&mut context)
            {
                flushed = Some(done);
            }
            if written.is_none()
                && let Poll::Ready(done) = write.as_mut().poll(&mut context)
            {
                written = Some(done);
            }
        }
        assert!(flushed.is_some_and(|flushed| flushed.is_err()));
        failed += u32::from(written.is_some_and(|written| written.is_err()));
        assert!(log.failure().is_some());
    }
    assert!((1..60).contains(&failed), "{failed} of 60");
}

#[test]
fn a_failed_sync_is_told_once_to_each_who_has_opened_the_file() {
    let (disk, data) = memory();
    let path = data.join("file");
    let one = run(disk.open(&path, OpenMode::Create)).unwrap();
    let (same, other) = (one.clone(), run(disk.open(&path, OpenMode::Write)).unwrap());
    run(one.write_at(0, vec![Bytes::from_static(b"lost")])).unwrap();
    disk.set_fault(Call::Sync, 1, Fault::Io);
    assert!(run(one.sync_data()).is_err());
    run(same.sync_data()).unwrap();
    assert!(run(other.sync_data()).is_err());
    run(other.sync_data()).unwrap();
    let later = run(disk.open(&path, OpenMode::Write)).unwrap();
    run(later.sync_data()).unwrap();
}

#[test]
fn the_name_of_a_file_that_is_made_after_a_flush_is_on_the_device_with_the_next() {
    let (disk, data) = memory();
    drop(create(&disk, &data, &settings()));
    let dir = data.join("topic-0");
    for kind in ["log", "index", "timeindex"] {
        run(disk.remove_file(&dir.join(format!("{:020}.{kind}", 0)))).unwrap();
    }
    let (log, _) = open(&disk, &data, &settings(), options(false));
    run(log.flush()).unwrap();
    append(&log, batch(0, 3, NOW.0));
    let flushed = run(log.flush()).unwrap();
    assert_eq!(flushed, Offset(3));
    after_power_cuts(
        &disk,
        &data,
        &settings(),
        &options(false),
        |log, _, seed| {
            assert_eq!(log.log_end_offset(), flushed, "seed {seed}");
        },
    );
}

#[test]
fn a_mark_of_a_clean_stop_that_a_killed_process_took_does_not_come_back() {
    let (disk, data) = memory();
    run(log_dir::write_clean_shutdown_mark(&disk, &data, -1)).unwrap();
    // As far as it came.
    run(disk.remove_file(&data.join(names::CLEAN_SHUTDOWN))).unwrap();
    let disk = disk.crash(Crash::Kill);
    assert!(!run(log_dir::take_clean_shutdown_mark(&disk, &data)).unwrap());
    for seed in 0..40 {
        let image = disk.crash(Crash::Power { seed });
        assert!(!run(log_dir::take_clean_shutdown_mark(&image, &data)).unwrap());
    }
}

#[test]
fn the_end_of_a_log_that_a_stop_cuts_beside_a_flush_is_on_the_device() {
    let (disk, data) = memory();
    let mut settings = durable_settings();
    settings.segment_bytes = 1 << 20;
    let log = create(&disk, &data, &settings);
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    run(log.prepare()).unwrap();
    append(&log, batch(1, 3, NOW.0));
    disk.hold_syncs();
    let mut flush = pin!(log.flush());
    let mut close = pin!(log.close(NOW));
    let mut context = Context::from_waker(Waker::noop());
    assert!(flush.as_mut().poll(&mut context).is_pending());
    // It cuts the file to what it holds, and waits.
    assert!(close.as_mut().poll(&mut context).is_pending());
    disk.release_syncs();
    let flushed = run(flush);
    run(close).unwrap();
    assert_eq!(flushed.unwrap(), Offset(6));
    for seed in 0..60 {
        let image = disk.crash(Crash::Power { seed });
        let mut files = image.files().into_iter();
        let (_, bytes) = files
            .find(|(path, _)| path.ends_with("00000000000000000000.log"))
            .unwrap();
        assert_eq!(bytes.len() as u64, log.size_bytes(), "seed {seed}");
    }
}
