//! Files past the page cache: the same bytes as through it, nothing told before the device has it, and memory
//! that stays bounded.

use proptest::prelude::*;

use super::memory::{Call, Crash, Fault, MemoryFile};
use super::*;

fn log_path(data: &Path, base_offset: i64) -> PathBuf {
    let name = names::file_name(Offset(base_offset), names::FileKind::Log);
    data.join("topic-0").join(name)
}

fn is_pending<F: Future>(future: &mut std::pin::Pin<&mut F>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    future.as_mut().poll(&mut context).is_pending()
}

/// Bytes that tell their place.
fn pattern(seed: u64, len: usize) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

#[derive(Clone, Debug)]
enum Change {
    /// Behind the end, in so many buffers.
    Append {
        len: usize,
        buffers: usize,
        durable: bool,
    },
    /// Somewhere before the end, in thousandths of the length.
    Overwrite {
        at: u64,
        len: usize,
    },
    Fill {
        len: u64,
    },
    Allocate {
        len: u64,
    },
    Truncate {
        to: u64,
    },
    Reopen,
    Idle,
    Sync,
    Read {
        at: u64,
        len: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let small = prop_oneof![4 => 1..6000usize, 1 => 1..40_000usize, 1 => Just(4096usize)];
    let append = (
        prop_oneof![12 => small, 1 => 1_000_000..4_000_000usize],
        1..5usize,
        any::<bool>(),
    );
    prop_oneof![
        8 => append.prop_map(|(len, buffers, durable)| Change::Append { len, buffers, durable }),
        1 => (0..1000u64, 1..9000usize).prop_map(|(at, len)| Change::Overwrite { at, len }),
        1 => (1..300_000u64).prop_map(|len| Change::Fill { len }),
        1 => (1..300_000u64).prop_map(|len| Change::Allocate { len }),
        2 => (0..=1000u64).prop_map(|to| Change::Truncate { to }),
        2 => Just(Change::Reopen),
        1 => Just(Change::Idle),
        1 => Just(Change::Sync),
        6 => (0..1000u64, 1..700_000usize).prop_map(|(at, len)| Change::Read { at, len }),
    ]
}

fn read<F: LogFile>(file: &F, position: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let read = run(file.read_at(position, &mut bytes)).unwrap();
    bytes.truncate(read);
    bytes
}

/// Does the same to a file on `disk` past the page cache, to one through it, and to a vector.
fn same_bytes<D: Disk>(disk: &D, dir: &Path, changes: Vec<Change>) {
    let open = |io, name: &str| run(disk.open_log(&dir.join(name), OpenMode::Create, io)).unwrap();
    let mut files = [open(LogIo::Direct, "a"), open(LogIo::PageCache, "b")];
    let mut model: Vec<u8> = Vec::new();
    // What is written goes here: zeros may lie behind.
    let mut end = 0;
    for (i, change) in changes.into_iter().enumerate() {
        let part = |thousandths: u64, of: usize| (of as u64 * thousandths / 1000) as usize;
        match change {
            Change::Append {
                len,
                buffers,
                durable,
            } => {
                let bytes = pattern(i as u64, len);
                let parts: Vec<Bytes> = bytes
                    .chunks(len.div_ceil(buffers))
                    .map(Bytes::copy_from_slice)
                    .collect();
                for file in &files {
                    let written = match durable {
                        true => run(file.write_durable_at(end as u64, parts.clone())),
                        false => run(file.write_at(end as u64, parts.clone())),
                    };
                    assert_eq!(written.unwrap(), len as u64);
                }
                model.resize(model.len().max(end + len), 0);
                model[end..end + len].copy_from_slice(&bytes);
                end += len;
            }
            Change::Overwrite { at, len } => {
                let at = part(at, model.len());
                let bytes = pattern(i as u64, len);
                for file in &files {
                    run(file.write_at(at as u64, vec![bytes.clone()])).unwrap();
                }
                model.resize(model.len().max(at + len), 0);
                model[at..at + len].copy_from_slice(&bytes);
                end = end.max(at + len);
            }
            Change::Fill { len } => {
                for file in &files {
                    assert!(run(file.fill(model.len() as u64, len)).unwrap());
                }
                model.resize(model.len() + len as usize, 0);
            }
            Change::Allocate { len } => {
                for file in &files {
                    run(file.allocate(model.len() as u64, len)).unwrap();
                }
            }
            Change::Truncate { to } => {
                let to = part(to, model.len());
                for file in &files {
                    run(file.truncate(to as u64)).unwrap();
                    assert!(!file.is_padded(to as u64));
                }
                model.truncate(to);
                end = end.min(to);
            }
            Change::Reopen => {
                // As a stop does.
                for file in &files {
                    run(file.truncate(model.len() as u64)).unwrap();
                }
                let [a, b] = files;
                run(disk.discard(vec![a, b]));
                files = [open(LogIo::Direct, "a"), open(LogIo::PageCache, "b")];
            }
            Change::Idle => files.iter().for_each(LogFile::idle),
            Change::Sync => files.iter().for_each(|file| run(file.sync_data()).unwrap()),
            Change::Read { at, len } => {
                let at = part(at, model.len());
                let expected = &model[at..model.len().min(at + len)];
                for file in &files {
                    assert!(read(file, at as u64, len) == expected, "{at} {len}");
                }
                let whole = expected.len() as u32;
                let slice = run(files[0].slice(at as u64, whole, files[0].lend(whole))).unwrap();
                assert!(bytes_of(&slice) == expected);
            }
        }
        for file in &files {
            assert_eq!(file.len().unwrap(), model.len() as u64);
        }
    }
    for file in &files {
        run(file.truncate(model.len() as u64)).unwrap();
        assert!(read(file, 0, model.len() + 1) == model);
    }
    // Who looks at them from elsewhere sees the same.
    for name in ["a", "b"] {
        let file = run(disk.open(&dir.join(name), OpenMode::Read)).unwrap();
        assert!(read(&file, 0, model.len() + 1) == model);
    }
}

/// As little memory as there may be: everything is given back all the time.
fn scarce() -> DirectLimits {
    DirectLimits {
        cache_bytes: 0,
        lent_bytes: 1 << 20,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_direct_file_holds_the_bytes_that_a_plain_one_does(changes in prop::collection::vec(change(), 1..40)) {
        let (disk, data) = memory();
        same_bytes(&LogDisk::new(disk, scarce()), &data, changes.clone());
        let dir = tempfile::tempdir().unwrap();
        if direct_on(dir.path()).is_some() {
            let disk = LogDisk::new(PageCache::new(Inline), scarce());
            same_bytes(&disk, dir.path(), changes);
        }
    }
}

#[test]
fn a_record_is_not_acknowledged_before_the_device_has_it() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk.clone());
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    assert!(log.write_waits());
    memory_disk.hold_writes();
    stage(&log, batch(1, 2, NOW.0)).unwrap();
    let mut write = pin!(log.write_staged(NOW));
    assert!(is_pending(&mut write));
    assert_eq!(log.log_end_offset(), Offset(3));
    assert_eq!(read_all(&log, Offset(5), 1000), expected(&[(0, 3)]));
    // What comes meanwhile is not waited for by those that came before.
    stage(&log, batch(2, 4, NOW.0)).unwrap();
    memory_disk.release_writes();
    assert_eq!(run(write).unwrap().log_end_offset, Offset(5));
    assert_eq!(
        run(log.write_staged(NOW)).unwrap().log_end_offset,
        Offset(9)
    );
    assert_eq!(
        read_all(&log, Offset(9), 1000),
        expected(&[(0, 3), (1, 2), (2, 4)])
    );
}

#[test]
fn zeros_are_filled_behind_a_write_that_is_under_way() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk.clone());
    let mut durable = durable_settings();
    durable.segment_bytes = 4 << 20;
    let log = create(&disk, &data, &durable);
    append(&log, batch(0, 3, NOW.0));
    log.state.borrow_mut().epochs_dirty = false;
    memory_disk.hold_writes();
    // Longer than what is left free before zeros.
    stage(&log, batch(1, 20_000, NOW.0)).unwrap();
    let mut write = pin!(log.write_staged(NOW));
    assert!(is_pending(&mut write));
    let mut prepare = pin!(log.prepare());
    assert!(is_pending(&mut prepare));
    memory_disk.release_writes();
    run(write).unwrap();
    run(prepare).unwrap();
    // What the device has, not what is in memory.
    let file = log.state.borrow().active().file().cloned().unwrap();
    file.idle();
    assert_eq!(
        read_all(&log, Offset(20_003), 100),
        expected(&[(0, 3), (1, 20_000)])
    );
}

#[test]
fn a_roll_waits_for_room_that_makes_its_segment_longer() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk.clone());
    let mut large = settings();
    large.segment_bytes = 1 << 20;
    let log = create(&disk, &data, &large);
    append(&log, batch(0, 3, NOW.0));
    log.state.borrow_mut().epochs_dirty = false;
    memory_disk.hold_writes();
    let mut prepare = pin!(log.prepare());
    assert!(is_pending(&mut prepare));
    let later = Timestamp(NOW.0 + settings().segment_ms as i64 + 10);
    stage_at(&log, batch(1, 2, later.0), LeaderEpoch(0), later).unwrap();
    let mut write = pin!(log.write_staged(later));
    assert!(is_pending(&mut write));
    assert_eq!(log.segment_count(), 1);
    memory_disk.release_writes();
    run(prepare).unwrap();
    run(write).unwrap();
    assert_eq!(log.segment_count(), 2);
    assert_eq!(run(log.flush_closed()).unwrap(), Offset(3));
    let closed = run(disk.open(&log_path(&data, 0), OpenMode::Read)).unwrap();
    let sizes = log.size_bytes() - u64::from(log.state.borrow().active().size);
    assert_eq!(closed.len().unwrap(), sizes);
}

#[test]
fn the_pieces_of_a_large_write_are_in_flight_together() {
    let (memory_disk, data) = memory();
    let disk = LogDisk::new(memory_disk.clone(), DirectLimits::default());
    let file = run(disk.open_log(&data.join("a"), OpenMode::Create, LogIo::Direct)).unwrap();
    memory_disk.hold_writes();
    let bytes = pattern(1, 5_000_000);
    let calls = memory_disk.calls(Call::Write);
    let mut write = pin!(file.write_at(0, vec![bytes.clone()]));
    for _ in 0..20 {
        assert!(is_pending(&mut write));
    }
    assert_eq!(memory_disk.calls(Call::Write) - calls, 5);
    assert_eq!(file.len().unwrap(), 0);
    memory_disk.release_writes();
    assert_eq!(run(write).unwrap(), 5_000_000);
    assert!(read(&file, 0, 6_000_000) == bytes);
}

#[test]
fn what_is_written_over_is_not_read_from_what_was_read_before() {
    let (memory_disk, data) = memory();
    let disk = LogDisk::new(memory_disk, DirectLimits::default());
    let file = run(disk.open_log(&data.join("a"), OpenMode::Create, LogIo::Direct)).unwrap();
    run(file.write_at(0, vec![pattern(0, 20_000)])).unwrap();
    file.idle();
    assert!(read(&file, 0, 30_000) == pattern(0, 20_000));
    run(file.write_at(5_000, vec![pattern(1, 100)])).unwrap();
    run(file.write_at(20_000, vec![pattern(2, 100)])).unwrap();
    assert!(read(&file, 5_000, 100) == pattern(1, 100));
    assert!(read(&file, 20_000, 200) == pattern(2, 100));
    run(file.truncate(5_050)).unwrap();
    run(file.write_at(5_050, vec![pattern(3, 50)])).unwrap();
    file.idle();
    assert!(read(&file, 5_000, 1000) == [&pattern(1, 100)[..50], &pattern(3, 50)].concat());
}

#[test]
fn a_few_zeros_behind_the_end_are_in_the_file() {
    let (memory_disk, data) = memory();
    let disk = LogDisk::new(memory_disk, DirectLimits::default());
    let file = run(disk.open_log(&data.join("a"), OpenMode::Create, LogIo::Direct)).unwrap();
    run(file.write_at(0, vec![pattern(0, 10)])).unwrap();
    run(file.truncate(10)).unwrap();
    assert!(run(file.fill(10, 5)).unwrap());
    assert_eq!(file.len().unwrap(), 15);
    assert!(read(&file, 10, 10) == [0; 5]);
}

#[test]
fn a_write_that_is_dropped_ends_the_file_and_frees_its_memory() {
    let (memory_disk, data) = memory();
    let disk = LogDisk::new(memory_disk.clone(), DirectLimits::default());
    let file = run(disk.open_log(&data.join("a"), OpenMode::Create, LogIo::Direct)).unwrap();
    run(file.write_at(0, vec![pattern(0, 100)])).unwrap();
    memory_disk.hold_writes();
    {
        let mut write = pin!(file.write_at(100, vec![pattern(1, 100)]));
        assert!(is_pending(&mut write));
    }
    memory_disk.release_writes();
    assert_eq!(file.len().unwrap(), 100);
    assert!(read(&file, 0, 200) == pattern(0, 100));
    assert!(run(file.write_at(100, vec![pattern(1, 100)])).is_err());
    drop(file);
    assert_eq!(disk.memory_bytes(), 0);
}

#[test]
fn a_write_that_fails_or_falls_short_takes_the_log_offline() {
    for fault in [Fault::Io, Fault::DiskFull, Fault::Short(1000)] {
        let (memory_disk, data) = memory();
        let disk = direct(memory_disk.clone());
        let log = create(&disk, &data, &settings());
        append(&log, batch(0, 3, NOW.0));
        memory_disk.set_fault(Call::Write, 0, fault);
        stage(&log, batch(1, 20, NOW.0)).unwrap();
        let failed = run(log.write_staged(NOW));
        assert!(matches!(failed, Err(LogError::Offline(_))), "{failed:?}");
        assert!(log.failure().is_some());
        drop(log);
        let (log, report) = open(&disk, &data, &settings(), options(false));
        assert_eq!(report.damage, None);
        assert_eq!(log.log_end_offset(), Offset(3));
        assert_eq!(read_all(&log, Offset(3), 1000), expected(&[(0, 3)]));
    }
}

#[test]
fn with_an_fsync_before_the_acknowledgement_a_flush_has_nothing_left_to_do() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk.clone());
    let mut durable = durable_settings();
    durable.segment_bytes = 1 << 20;
    let log = create(&disk, &data, &durable);
    append(&log, batch(0, 3, NOW.0));
    run(log.flush()).unwrap();
    run(log.prepare()).unwrap();
    let syncs = memory_disk.calls(Call::Sync);
    for tag in 1..30 {
        append(&log, batch(tag, 3, NOW.0));
        assert_eq!(run(log.flush()).unwrap(), log.log_end_offset());
    }
    assert_eq!(memory_disk.calls(Call::Sync), syncs);
    // And all of it survives a power cut.
    for seed in 0..20 {
        let image = direct(memory_disk.crash(Crash::Power { seed }));
        let (after, _) = open(&image, &data, &durable, options(false));
        assert_eq!(after.log_end_offset(), log.log_end_offset(), "{seed}");
    }
    // Without, there is one sync for each.
    durable.flush_messages = 2;
    log.set_settings(Arc::new(durable));
    append(&log, batch(30, 3, NOW.0));
    run(log.flush()).unwrap();
    assert_eq!(memory_disk.calls(Call::Sync), syncs + 1);
}

/// Appends small batches that end everywhere in a block; the machine stops in the middle of each write, which
/// tears the block that is written again between any two sectors.
#[test]
fn a_torn_last_block_damages_no_acknowledged_record() {
    for at in 0..40 {
        let (memory_disk, data) = memory();
        let disk = direct(memory_disk.clone());
        let mut durable = durable_settings();
        durable.segment_bytes = 1 << 20;
        let log = create(&disk, &data, &durable);
        let mut made = Vec::new();
        for tag in 0..at {
            append(&log, batch(tag, 1 + tag as usize * 7 % 11, NOW.0));
            made.push((tag, 1 + tag as usize * 7 % 11));
        }
        run(log.flush()).unwrap();
        let end = log.log_end_offset();
        memory_disk.set_fault(Call::Write, 0, Fault::PowerOff);
        stage(&log, batch(99, 60, NOW.0)).unwrap();
        assert!(run(log.write_staged(NOW)).is_err());
        for seed in 0..24 {
            let image = direct(memory_disk.crash(Crash::Power { seed }));
            let (after, report) = open(&image, &data, &durable, options(false));
            assert_eq!(report.damage, None);
            assert!(after.log_end_offset() >= end, "{at} {seed}");
            let read = read_all(&after, end, 4000);
            assert_eq!(read, expected(&made), "{at} {seed}");
        }
    }
}

#[test]
fn a_log_that_kafka_wrote_is_gone_on_with() {
    fn on<D: Disk>(disk: &D, data: &Path) {
        // Through the page cache: as long as its batches, wherever that ends.
        let mut kafkas = settings();
        kafkas.log_io = LogIo::PageCache;
        let log = create(disk, data, &kafkas);
        for tag in 0..3 {
            append(&log, batch(tag, 3, NOW.0));
        }
        run(log.close(NOW)).unwrap();
        let (log, report) = open(disk, data, &settings(), options(true));
        assert_eq!(report, OpenReport::default());
        for tag in 3..6 {
            append(&log, batch(tag, 3, NOW.0));
        }
        let all = expected(&[(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3)]);
        assert_eq!(read_all(&log, Offset(18), 300), all);
        run(log.close(NOW)).unwrap();
        // And left as Kafka wants it.
        let file = run(disk.open(&log_path(data, 0), OpenMode::Read)).unwrap();
        assert_eq!(file.len().unwrap(), log.size_bytes());
        let (log, report) = open(disk, data, &kafkas, options(true));
        assert_eq!(report, OpenReport::default());
        assert_eq!(read_all(&log, Offset(18), 300), all);
    }
    let (disk, data) = memory();
    on(&direct(disk), &data);
    let dir = tempfile::tempdir().unwrap();
    if let Some(disk) = direct_on(dir.path()) {
        on(&disk, dir.path());
    }
}

#[test]
fn a_topic_may_go_back_and_forth() {
    fn on<D: Disk>(disk: &D, data: &Path) {
        let log = create(disk, data, &settings());
        let mut made = Vec::new();
        for tag in 0..120 {
            let mut settings = settings();
            settings.log_io = [LogIo::Direct, LogIo::PageCache][tag as usize / 10 % 2];
            log.set_settings(Arc::new(settings));
            append(&log, batch(tag, 3, NOW.0));
            made.push((tag, 3));
            if tag % 7 == 0 {
                run(log.prepare()).unwrap();
            }
        }
        assert!(log.segment_count() > 5);
        assert_eq!(read_all(&log, Offset(360), 500), expected(&made));
        run(log.truncate_to(log.lower_recovery_point(Offset(300)), NOW)).unwrap();
        assert_eq!(read_all(&log, Offset(300), 500), expected(&made[..100]));
        run(log.close(NOW)).unwrap();
        let (log, report) = open(disk, data, &settings(), options(true));
        assert_eq!(report, OpenReport::default());
        assert_eq!(read_all(&log, Offset(300), 500), expected(&made[..100]));
    }
    let (disk, data) = memory();
    on(&direct(disk), &data);
    let dir = tempfile::tempdir().unwrap();
    if let Some(disk) = direct_on(dir.path()) {
        on(&disk, dir.path());
    }
}

#[test]
fn closed_segments_are_cut_before_their_length_is_trusted() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk.clone());
    let log = create(&disk, &data, &settings());
    while log.segment_count() < 3 {
        append(&log, batch(0, 3, NOW.0));
    }
    let point = run(log.flush_closed()).unwrap();
    assert_eq!(point, Offset(log.state.borrow().active().base_offset));
    for seed in 0..20 {
        let image = direct(memory_disk.crash(Crash::Power { seed }));
        let mut from = options(false);
        from.recovery_point = point;
        let (after, report) = open(&image, &data, &settings(), from);
        assert_eq!(report.damage, None);
        let below = read_all(&after, point, 1000);
        assert_eq!(below.len() as i64, point.0, "{seed}");
    }
}

/// A segment that was recovered and flushed to its end, and has nothing new in its indexes when it is closed.
#[test]
fn a_closed_segment_with_nothing_to_sync_is_cut_all_the_same() {
    fn on<D: Disk>(on: fn(MemoryDisk) -> D, settings: &LogSettings) {
        let (memory_disk, data) = memory();
        let disk = on(memory_disk.clone());
        let log = create(&disk, &data, settings);
        append(&log, batch(0, 3, NOW.0));
        drop(log);
        let (log, _) = open(&disk, &data, settings, options(false));
        append(&log, batch(1, 3, NOW.0));
        run(log.prepare()).unwrap();
        run(log.flush()).unwrap();
        let later = Timestamp(NOW.0 + settings.segment_ms as i64 + 10);
        stage_at(&log, batch(2, 2, later.0), LeaderEpoch(0), later).unwrap();
        run(log.write_staged(later)).unwrap();
        assert_eq!(log.segment_count(), 2);
        let point = run(log.flush()).unwrap();
        assert_eq!(point, Offset(8));
        let image = on(memory_disk.crash(Crash::Kill));
        let mut from = options(false);
        from.recovery_point = point;
        let (after, report) = open(&image, &data, settings, from);
        assert_eq!(report.damage, None);
        let all = expected(&[(0, 3), (1, 3), (2, 2)]);
        assert_eq!(read_all(&after, point, 100), all);
    }
    on(std::convert::identity, &durable_settings());
    go_direct();
    on(direct, &settings());
    on(direct, &durable_settings());
}

#[test]
fn a_segment_behind_which_the_log_is_cut_is_cut_to_what_it_holds() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk);
    let log = create(&disk, &data, &settings());
    let mut made = Vec::new();
    while log.segment_count() < 2 {
        append(&log, batch(made.len() as u64, 3, NOW.0));
        made.push((made.len() as u64, 3));
    }
    made.pop();
    let end = Offset(log.state.borrow().active().base_offset);
    run(log.truncate_to(log.lower_recovery_point(end), NOW)).unwrap();
    assert_eq!((log.segment_count(), log.log_end_offset()), (2, end));
    append(&log, batch(made.len() as u64, 40, NOW.0));
    made.push((made.len() as u64, 40));
    assert_eq!(log.segment_count(), 2);
    let point = run(log.flush()).unwrap();
    drop(log);
    let mut from = options(false);
    from.recovery_point = point;
    let (log, report) = open(&disk, &data, &settings(), from);
    assert_eq!(report.damage, None);
    assert_eq!(read_all(&log, point, 100), expected(&made));
}

#[test]
fn files_that_were_closed_while_they_were_longer_are_cut_all_the_same() {
    fn on<D: Disk>(disk: &D, data: &Path, settings: &LogSettings) {
        let log = create(disk, data, settings);
        append(&log, batch(0, 3, NOW.0));
        run(log.prepare()).unwrap();
        run(log.flush()).unwrap();
        run(log.close_files());
        let later = Timestamp(NOW.0 + settings.segment_ms as i64 + 10);
        stage_at(&log, batch(1, 2, later.0), LeaderEpoch(0), later).unwrap();
        run(log.write_staged(later)).unwrap();
        assert_eq!(log.segment_count(), 2);
        let point = run(log.flush()).unwrap();
        run(log.close_files());
        drop(log);
        let mut from = options(false);
        from.recovery_point = point;
        let (log, report) = open(disk, data, settings, from);
        assert_eq!(report.damage, None);
        let all = expected(&[(0, 3), (1, 2)]);
        assert_eq!(read_all(&log, point, 100), all);
        append(&log, batch(2, 1, later.0));
        run(log.flush()).unwrap();
        run(log.close_files());
        run(log.close(later)).unwrap();
        let (log, report) = open(disk, data, settings, options(true));
        assert_eq!(report, OpenReport::default());
        let all = expected(&[(0, 3), (1, 2), (2, 1)]);
        assert_eq!(read_all(&log, Offset(6), 100), all);
    }
    let (disk, data) = memory();
    on(&disk, &data, &durable_settings());
    let (disk, data) = memory();
    on(&direct(disk), &data, &settings());
    let (disk, data) = memory();
    on(&direct(disk), &data, &durable_settings());
}

#[test]
fn memory_is_bounded_and_given_back_by_idle_logs() {
    let (memory_disk, data) = memory();
    let limits = DirectLimits {
        cache_bytes: 3 << 20,
        lent_bytes: 1 << 20,
    };
    let disk = LogDisk::new(memory_disk, limits);
    let open = |i: usize| {
        let path = data.join(format!("{i}"));
        run(disk.open_log(&path, OpenMode::Create, LogIo::Direct)).unwrap()
    };
    let files: Vec<_> = (0..40).map(open).collect();
    let mut ends = vec![0; files.len()];
    for round in 0..30 {
        for (i, file) in files.iter().enumerate() {
            let len = 1 + (i * 7919 + round * 104_729) % 90_000;
            run(file.write_at(ends[i], vec![pattern(i as u64, len)])).unwrap();
            ends[i] += len as u64;
            let at = ends[i] / 2;
            assert_eq!(read(file, at, 1000).len() as u64, 1000.min(ends[i] - at));
            assert!(disk.memory_bytes() <= 3 << 20);
        }
    }
    assert!(disk.memory_bytes() > 2 << 20);
    // What is lent is counted from when it was asked for: then there is one batch a fetch.
    assert_eq!(files[0].lend(u32::MAX).max_bytes, 1 << 20);
    let loan = files[0].lend(700_000);
    assert_eq!(files[1].lend(u32::MAX).max_bytes, (1 << 20) - 700_000);
    let lent = run(files[0].slice(0, 600_000, loan)).unwrap();
    assert_eq!(files[1].lend(u32::MAX).max_bytes, (1 << 20) - 600_000);
    let none = files[1].lend(0);
    let more = run(files[1].slice(0, 700_000, none)).unwrap();
    assert_eq!(files[1].lend(u32::MAX).max_bytes, 0);
    drop((lent, more));
    assert_eq!(files[1].lend(5).max_bytes, 5);
    files.iter().for_each(LogFile::idle);
    assert_eq!(disk.memory_bytes(), 0);
}

/// A file of `blocks` blocks that are not in memory.
fn file_of_blocks<D: Disk>(disk: &D, path: &Path, blocks: usize) -> D::File {
    let file = run(disk.open_log(path, OpenMode::Create, LogIo::Direct)).unwrap();
    for block in 0..blocks {
        let bytes = pattern(block as u64, BLOCK);
        run(file.write_at((block * BLOCK) as u64, vec![bytes])).unwrap();
    }
    file.idle();
    file
}

/// Bytes of a block that reads go through.
const BLOCK: usize = 256 * 1024;

#[test]
fn what_was_read_once_gives_its_memory_to_what_comes_next() {
    let (memory_disk, data) = memory();
    let limits = DirectLimits {
        cache_bytes: 16 << 20,
        lent_bytes: 1 << 20,
    };
    let disk = LogDisk::new(memory_disk.clone(), limits);
    let blocks = 60;
    let file = file_of_blocks(&disk, &data.join("a"), blocks);
    assert_eq!(disk.memory_bytes(), 0);
    let before = memory_disk.calls(Call::Read);
    let piece = 100_000;
    let pieces = (blocks * BLOCK).div_ceil(piece);
    for at in 0..pieces {
        read(&file, (at * piece) as u64, piece);
        // An eighth that was read, and an eighth ahead.
        assert!(disk.memory_bytes() <= 5 << 20, "{}", disk.memory_bytes());
    }
    assert_eq!(memory_disk.calls(Call::Read) - before, blocks as u64);
    // Who comes a little later finds it, and then it stays.
    let later = ((blocks - 4) * BLOCK) as u64;
    let again = read(&file, later, 4 * BLOCK);
    let other = file_of_blocks(&disk, &data.join("b"), blocks / 2);
    let before = memory_disk.calls(Call::Read);
    for at in 0..blocks / 2 {
        read(&other, (at * BLOCK) as u64, BLOCK);
    }
    assert_eq!(read(&file, later, 4 * BLOCK), again);
    let of_other = blocks as u64 / 2;
    assert_eq!(memory_disk.calls(Call::Read) - before, of_other);
}

#[test]
fn what_is_read_again_later_stays_in_memory() {
    let (memory_disk, data) = memory();
    let limits = DirectLimits {
        cache_bytes: 16 << 20,
        lent_bytes: 1 << 20,
    };
    let disk = LogDisk::new(memory_disk.clone(), limits);
    let blocks = 40;
    let file = file_of_blocks(&disk, &data.join("a"), blocks);
    let before = memory_disk.calls(Call::Read);
    for _ in 0..5 {
        for at in 0..blocks {
            read(&file, (at * BLOCK) as u64, BLOCK);
        }
    }
    let calls = memory_disk.calls(Call::Read) - before;
    let once = blocks as u64;
    assert!((once..=once * 2).contains(&calls), "{calls}");
}

#[test]
fn readers_read_less_ahead_where_it_would_be_gone_before_it_is_used() {
    let (memory_disk, data) = memory();
    let limits = DirectLimits {
        cache_bytes: 6 << 20,
        lent_bytes: 1 << 20,
    };
    let disk = LogDisk::new(memory_disk.clone(), limits);
    let (readers, blocks) = (10, 40);
    let open = |i: usize| file_of_blocks(&disk, &data.join(format!("{i}")), blocks);
    let files: Vec<_> = (0..readers).map(open).collect();
    let before = memory_disk.calls(Call::Read);
    let piece = BLOCK / 4;
    for at in 0..blocks * 4 {
        for file in &files {
            read(file, (at * piece) as u64, piece);
        }
    }
    let calls = memory_disk.calls(Call::Read) - before;
    let needed = (readers * blocks) as u64;
    assert!(
        (needed..needed * 3 / 2).contains(&calls),
        "{calls} of {needed}"
    );
}

#[test]
fn a_log_that_has_fallen_silent_holds_no_memory() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk);
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    let end = log.log_end_offset();
    run(log.delete_old_segments(Timestamp(NOW.0 + 1000), end)).unwrap();
    assert!(disk.memory_bytes() > 0);
    run(log.delete_old_segments(Timestamp(NOW.0 + 100_000), end)).unwrap();
    assert_eq!(disk.memory_bytes(), 0);
    assert_eq!(append(&log, batch(1, 3, NOW.0)), end);
    assert_eq!(read_all(&log, Offset(6), 1000), expected(&[(0, 3), (1, 3)]));
}

#[test]
fn a_batch_of_an_earlier_epoch_ends_the_log() {
    let (memory_disk, data) = memory();
    let disk = direct(memory_disk);
    let log = create(&disk, &data, &settings());
    stage_at(&log, batch(0, 2, NOW.0), LeaderEpoch(3), NOW).unwrap();
    stage_at(&log, batch(1, 2, NOW.0), LeaderEpoch(2), NOW).unwrap();
    run(log.write_staged(NOW)).unwrap();
    drop(log);
    let (log, report) = open(&disk, &data, &settings(), options(false));
    assert_eq!(log.log_end_offset(), Offset(2));
    assert!(report.truncated_bytes > 0);
}

/// A disk that refuses O_DIRECT.
#[derive(Clone)]
struct Refusing(MemoryDisk);

#[test]
fn a_file_system_that_refuses_o_direct_gets_the_page_cache() {
    let (memory_disk, data) = memory();
    let disk = LogDisk::new(Refusing(memory_disk), DirectLimits::default());
    go_direct();
    let log = create(&disk, &data, &settings());
    append(&log, batch(0, 3, NOW.0));
    assert!(!log.write_waits());
    assert_eq!(read_all(&log, Offset(3), 1000), expected(&[(0, 3)]));
}

impl Disk for Refusing {
    type File = MemoryFile;

    async fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<MemoryFile> {
        self.0.open(path, mode).await
    }
    async fn list(&self, dir: &Path) -> std::io::Result<Vec<DirEntry>> {
        self.0.list(dir).await
    }
    async fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.create_dir(path).await
    }
    async fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.rename(from, to).await
    }
    async fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_file(path).await
    }
    async fn remove_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_dir_all(path).await
    }
    async fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.0.sync_dir(dir).await
    }
    async fn read_file(&self, path: &Path, limit_bytes: usize) -> std::io::Result<Vec<u8>> {
        self.0.read_file(path, limit_bytes).await
    }
    async fn replace_file(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        self.0.replace_file(path, content).await
    }
    async fn discard(&self, files: Vec<MemoryFile>) {
        self.0.discard(files).await;
    }
}

impl super::super::direct::DirectDisk for Refusing {
    type Raw = MemoryFile;

    async fn open_raw(&self, _path: &Path, _mode: OpenMode) -> std::io::Result<MemoryFile> {
        Err(std::io::Error::from_raw_os_error(libc::EINVAL))
    }
    fn disk_reads(&self) -> crate::runtime::disk_reads::DiskReads {
        self.0.disk_reads()
    }
    async fn discard_raw(&self, _files: Vec<MemoryFile>) {}
}
