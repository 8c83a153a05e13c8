//! Crash images: a workload is cut at every call it makes to the disk, in several ways, and the log that
//! is opened from what is left must have every record that was acknowledged.

use super::memory::{Call, Crash, Fault};
use super::*;

/// What a client was told before the crash.
#[derive(Default)]
struct Told {
    /// Tag and records of each batch, in order; written if the write was acknowledged.
    batches: Vec<(u64, usize)>,
    written: i64,
    flushed: i64,
    /// DeleteRecords was acknowledged up to here.
    log_start: i64,
}

/// Appends, flushes, rolls, deletes and closes, until the disk fails.
fn workload<D: Disk>(
    disk: &D,
    data: &Path,
    settings: &LogSettings,
    told: &mut Told,
) -> Result<(), LogError> {
    let log = run(Log::create(
        disk.clone(),
        Arc::from(data.join("topic-0")),
        Arc::new(settings.clone()),
        TopicId(7),
        Offset(0),
        options(false),
    ))?;
    let mut tag = 0;
    for turn in 0..24 {
        for _ in 0..1 + turn % 3 {
            let count = 1 + tag as usize % 4;
            let sequence = told.batches.iter().map(|(_, n)| *n as i32).sum();
            let builder =
                BatchBuilder::uncompressed().producer(ProducerId(1), ProducerEpoch(0), sequence);
            told.batches.push((tag, count));
            match stage(&log, batch_of(builder, tag, count, NOW.0)) {
                Ok(_) => {}
                Err(AppendError::Log(error)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            tag += 1;
        }
        let written = run(log.write_staged(NOW))?;
        told.written = written.log_end_offset.0;
        let is_durable = settings.flush_messages == 1;
        if turn % 4 == 3 || is_durable && turn % 4 == 1 {
            told.flushed = run(log.flush())?.0;
        }
        // As in the background after a roll: the recovery point passes it.
        if is_durable && written.rolled && turn % 4 == 0 {
            told.flushed = told.flushed.max(run(log.flush_closed())?.0);
        }
        if turn % 5 == 4 || is_durable && written.prepare && turn % 3 != 0 {
            run(log.prepare())?;
        }
        if turn == 17 {
            let before = Offset(log.log_end_offset().0 / 2);
            log.delete_records(before, log.log_end_offset())?;
            let start = [("topic", 0.into(), before)];
            run(log_dir::write_offsets(
                disk,
                data,
                checkpoint::LOG_START_OFFSET_CHECKPOINT,
                start,
            ))?;
            told.log_start = before.0;
            run(log.delete_old_segments(NOW, log.log_end_offset()))?;
        }
    }
    run(log.close(NOW))?;
    told.flushed = told.written;
    Ok(())
}

fn check<D: Disk>(
    disk: &D,
    data: &Path,
    settings: &LogSettings,
    told: &Told,
    acknowledged: i64,
    recovery_point: i64,
    what: &str,
) {
    let found = run(log_dir::scan(disk, data)).unwrap();
    if found.partitions.is_empty() {
        assert_eq!(acknowledged, 0, "{what}");
        return;
    }
    let mut options = options(false);
    options.log_start_offset =
        log_dir::DataDir::offset_of(&found.log_start_offsets, "topic", 0.into());
    // The checkpoint of recovery points may be as new as the last flush.
    options.recovery_point = Offset(recovery_point);
    // Opened twice: what recovery leaves must be as good as what it found.
    for _ in 0..2 {
        let (log, report) = open(disk, data, settings, options.clone());
        let (start, end) = (log.log_start_offset().0, log.log_end_offset().0);
        assert!(end >= acknowledged, "{what}: ends at {end}");
        assert!(start <= acknowledged.max(told.log_start), "{what}");
        // Past the page cache a write that the machine stopped in arrives as any of its sectors, and may look
        // like damage.
        let sure_to_be_whole = match settings.log_io.is_direct() {
            true => told.batches.iter().map(|(_, n)| *n as i64).sum(),
            false => told.written,
        };
        assert!(
            report.damage.is_none() || acknowledged < sure_to_be_whole,
            "{what}"
        );
        let all = expected(&told.batches);
        let read = read_all(&log, Offset(end), 700);
        let range = start as usize..;
        // Between what was acknowledged and the end there may be gaps after a power cut.
        let sure = acknowledged as usize;
        if start < acknowledged {
            assert_eq!(
                read[..sure - start as usize],
                all[range.start..sure],
                "{what}"
            );
        }
        for record in &read {
            assert_eq!(*record, all[record.0 as usize], "{what}");
        }
        let next = log.log_end_offset();
        if let Some(sequence) = log
            .producers()
            .get(ProducerId(1))
            .map(|producer| producer.last_sequence())
        {
            assert_eq!(i64::from(sequence), next.0 - 1, "{what}");
        }
        // It goes on.
        assert_eq!(append(&log, batch(9999, 1, NOW.0)), next, "{what}");
        run(log.truncate_to(log.lower_recovery_point(next), NOW)).unwrap();
    }
}

fn calls_of_the_workload<D: Disk>(on: fn(MemoryDisk) -> D, settings: &LogSettings) -> u64 {
    let (disk, data) = memory();
    let mut told = Told::default();
    workload(&on(disk.clone()), &data, settings, &mut told).unwrap();
    assert!(told.log_start > 0);
    disk.calls(Call::Any)
}

/// Cuts the workload at each call and opens what `crash` leaves of it: with the recovery point of before,
/// and with that of the last flush.
fn cut_everywhere<D: Disk>(
    on: fn(MemoryDisk) -> D,
    settings: &LogSettings,
    crash: Crash,
    acknowledged: impl Fn(&Told) -> i64,
) {
    for at in 2..=calls_of_the_workload(on, settings) {
        let (disk, data) = memory();
        disk.set_fault(Call::Any, at, Fault::PowerOff);
        let mut told = Told::default();
        assert!(workload(&on(disk.clone()), &data, settings, &mut told).is_err());
        for recovery_point in [0, told.flushed] {
            let image = on(disk.crash(crash));
            let what = format!("{crash:?} at {at}, from {recovery_point}");
            let sure = acknowledged(&told);
            check(&image, &data, settings, &told, sure, recovery_point, &what);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let on = std::convert::identity::<MemoryDisk>;
    cut_everywhere(on, &settings(), Crash::Kill, |told| told.written);
    cut_everywhere(on, &durable_settings(), Crash::Kill, |told| told.written);
}

#[test]
fn a_power_cut_loses_nothing_that_was_flushed() {
    for seed in 0..6 {
        let on = std::convert::identity::<MemoryDisk>;
        cut_everywhere(on, &settings(), Crash::Power { seed }, |told| told.flushed);
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_flushed_into_filled_room() {
    for seed in 0..6 {
        let on = std::convert::identity::<MemoryDisk>;
        cut_everywhere(on, &durable_settings(), Crash::Power { seed }, |told| {
            told.flushed
        });
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_written_past_the_page_cache() {
    go_direct();
    cut_everywhere(direct, &settings(), Crash::Kill, |told| told.written);
    cut_everywhere(direct, &durable_settings(), Crash::Kill, |told| {
        told.written
    });
}

#[test]
fn a_power_cut_loses_nothing_that_was_flushed_past_the_page_cache() {
    go_direct();
    for seed in 0..6 {
        let crash = Crash::Power { seed };
        cut_everywhere(direct, &settings(), crash, |told| told.flushed);
        cut_everywhere(direct, &durable_settings(), crash, |told| told.flushed);
    }
}
