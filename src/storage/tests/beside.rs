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

/// Polls both by turns until both are done.
fn beside<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if of_a.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(&mut context)
        {
            of_a = Some(output);
        }
        if of_b.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(&mut context)
        {
            of_b = Some(output);
        }
        if of_a.is_some() && of_b.is_some() {
            break;
        }
    }
    (of_a.unwrap(), of_b.unwrap())
}

/// A log of 40 batches of one record, in several segments.
fn log_of_forty(disk: &MemoryDisk, data: &Path) -> Log<MemoryDisk> {
    let log = create(disk, data, &settings());
    for tag in 0..40 {
        append(&log, batch(tag, 1, NOW.0 + tag as i64));
    }
    assert!(log.segment_count() > 1);
    run(log.flush()).unwrap();
    log
}

#[test]
fn nobody_reads_behind_the_upper_offset_while_the_log_is_cut_to_that() {
    for seed in 0..200 {
        let (disk, data) = memory();
        let log = log_of_forty(&disk, &data);
        disk.pause(Some(seed));
        let read = async {
            let mut scratch = crate::records::Scratch::new();
            for from in [20, 0, 10, 19, 5] {
                // The high watermark.
                let read = log.read(Offset(from), 100_000, Offset(20), true).await?;
                assert!(read.next_offset <= Offset(20), "seed {seed}");
                let slice = read.slice.as_ref().map(bytes_of).unwrap_or_default();
                let last = batches_of(&slice)
                    .last()
                    .map(|(header, _)| header.last_offset());
                assert!(
                    last.is_none_or(|last| last < Offset(20)),
                    "seed {seed}: {last:?}"
                );
                let wanted = Timestamp(NOW.0 + from);
                log.offset_for_timestamp(wanted, &mut scratch).await?;
                log.max_timestamp(&mut scratch).await?;
            }
            Ok::<(), LogError>(())
        };
        let (cut, read) = beside(
            log.truncate_to(log.lower_recovery_point(Offset(20)), NOW),
            read,
        );
        cut.unwrap();
        read.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(log.log_end_offset(), Offset(20));
    }
}

#[test]
fn a_log_is_cut_below_what_retention_takes_meanwhile() {
    for seed in 0..60 {
        let (disk, data) = memory();
        let log = log_of_forty(&disk, &data);
        log.delete_records(Offset(39), Offset(40)).unwrap();
        disk.pause(Some(seed));
        let retention = log.delete_old_segments(NOW, Offset(40));
        let (deleted, cut) = beside(
            retention,
            log.truncate_to(log.lower_recovery_point(Offset(2)), NOW),
        );
        assert!(deleted.unwrap().segments > 0);
        cut.unwrap();
        let ends = (log.log_start_offset(), log.log_end_offset());
        assert_eq!(ends, (Offset(2), Offset(2)), "seed {seed}");
        disk.pause(None);
        assert_eq!(append(&log, batch(2, 1, NOW.0)), Offset(2));
        assert_eq!(read_all(&log, Offset(3), 1000).len(), 1);
    }
}

#[test]
fn a_log_whose_truncation_is_dropped_half_way_is_offline() {
    let (disk, data) = memory();
    let log = log_of_forty(&disk, &data);
    disk.pause(Some(0));
    let mut polls = 0;
    loop {
        let mut cut = Box::pin(log.truncate_to(log.lower_recovery_point(Offset(30)), NOW));
        let mut context = Context::from_waker(Waker::noop());
        let began = (0..=polls).find(|_| cut.as_mut().poll(&mut context).is_ready());
        assert_eq!(began, None, "it was done before it had begun");
        if log.log_end_offset() < Offset(40) {
            break;
        }
        polls += 1;
    }
    assert!(log.failure().is_some());
    let read = run(log.read(Offset(0), 100, Offset(10), true));
    assert!(matches!(read, Err(LogError::Offline(_))), "{read:?}");
}

#[test]
fn what_is_appended_to_a_log_that_was_emptied_beside_readers_is_in_its_files() {
    for seed in 0..60 {
        let (disk, data) = memory();
        let log = log_of_forty(&disk, &data);
        run(log.flush()).unwrap();
        run(log.close_files());
        disk.pause(Some(seed));
        // They begin when the log is being emptied, and may open what is about to go.
        let read = async {
            for _ in 0..30 {
                let _ = log.read(Offset(0), 300, Offset(40), true).await;
                futures_lite::future::yield_now().await;
            }
        };
        let lowered = log.lower_recovery_point(Offset(0));
        let (emptied, ()) = beside(log.truncate_fully_and_start_at(lowered, NOW), read);
        emptied.unwrap();
        disk.pause(None);
        append(&log, batch(2, 1, NOW.0));
        let image = disk.crash(Crash::Kill);
        let (log, _) = open(&image, &data, &settings(), options(false));
        assert_eq!(log.log_end_offset(), Offset(1), "seed {seed}");
    }
}

#[test]
fn who_reads_a_log_whose_folder_gets_another_name_finds_its_files() {
    for seed in 0..60 {
        let (disk, data) = memory();
        let log = log_of_forty(&disk, &data);
        run(log.flush()).unwrap();
        run(log.close_files());
        disk.pause(Some(seed));
        let read = async {
            for from in 0..30 {
                log.close_files().await;
                log.read(Offset(from), 300, Offset(40), true).await?;
            }
            Ok::<(), LogError>(())
        };
        let to = data.join("other-0");
        let (renamed, read) = beside(log.rename_folder(&to), read);
        renamed.unwrap();
        read.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_power_cut_leaves_a_folder_with_all_that_is_in_it_by_one_of_its_names() {
    for seed in 0..40 {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        append(&log, batch(0, 1, NOW.0));
        run(log.flush()).unwrap();
        let (from, to) = (data.join("topic-0"), data.join("other-0"));
        let names = |disk: &MemoryDisk| {
            let files = disk.files().into_iter();
            let dirs = files.filter_map(|(path, _)| path.parent().map(Path::to_path_buf));
            let of = |dir: &Path| dirs.clone().filter(|is| *is == *dir).count();
            (of(&from), of(&to))
        };
        let (all, _) = names(&disk);
        run(disk.rename(&from, &to)).unwrap();
        let found = names(&disk.crash(Crash::Power { seed }));
        assert!([(all, 0), (0, all)].contains(&found), "{found:?}");
        run(disk.sync_dir(&data)).unwrap();
        let found = names(&disk.crash(Crash::Power { seed }));
        assert_eq!(found, (0, all));
    }
}
