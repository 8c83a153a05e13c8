//! What every back end must do.

use super::*;

/// Runs a test on each back end.
macro_rules! on_every_back_end {
    ($($name:ident)*) => {
        mod memory_disk {
            $(#[test] fn $name() {
                let (disk, data) = super::super::memory();
                super::$name(disk, &data);
            })*
        }
        mod page_cache {
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::PageCache::new(super::Inline), dir.path());
            })*
        }
        mod direct_in_memory {
            $(#[test] fn $name() {
                let (disk, data) = super::super::memory();
                super::$name(super::super::direct(disk), &data);
            })*
        }
        mod direct {
            $(#[test] fn $name() {
                let dir = tempfile::tempdir().unwrap();
                if let Some(disk) = super::super::direct_on(dir.path()) {
                    super::$name(disk, dir.path());
                }
            })*
        }
    };
}

on_every_back_end! {
    appended_batches_are_read_back_in_order
    staged_batches_are_invisible_until_written
    a_first_batch_larger_than_asked_for_comes_whole
    responses_end_between_batches
    a_read_from_inside_a_batch_returns_the_whole_batch
    reads_end_at_the_upper_offset
    offsets_outside_the_log_are_out_of_range
    a_clean_stop_needs_no_recovery
    an_unclean_stop_loses_nothing_that_was_written
    a_torn_tail_is_cut
    what_is_cut_before_a_valid_batch_is_kept
    missing_and_wrong_indexes_are_rebuilt
    duplicates_are_answered_with_their_offsets_also_after_reopening
    offsets_are_found_by_timestamp
    segments_roll_by_time_and_by_index
    truncation_forgets_what_it_cuts
    leftovers_of_compaction_are_removed_at_open
    a_swap_of_the_cleaner_is_completed_at_open
    a_deleted_segment_stays_readable_to_those_who_have_it
    batches_of_one_turn_share_a_write
    files_have_kafkas_names
    a_data_directory_is_scanned
    log_append_time_is_written_into_the_batch
    epochs_end_where_the_next_begins
    the_last_epoch_is_found_in_the_log_where_the_checkpoint_lacks_it
}

fn fill<D: Disk>(log: &Log<D>, batches: std::ops::Range<u64>) -> Vec<(u64, usize)> {
    let mut made = Vec::new();
    for tag in batches {
        let count = 1 + (tag as usize % 5);
        append(log, batch(tag, count, NOW.0 + tag as i64 * 10));
        made.push((tag, count));
    }
    made
}

fn appended_batches_are_read_back_in_order<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..100);
    assert!(log.segment_count() > 5);
    for max_bytes in [1, 100, 500, 1999, 100_000] {
        assert_eq!(
            read_all(&log, log.log_end_offset(), max_bytes),
            expected(&made)
        );
    }
}

fn staged_batches_are_invisible_until_written<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    for tag in 0..30 {
        stage(&log, batch(tag, 2, NOW.0)).unwrap();
    }
    assert_eq!(log.log_end_offset(), Offset(0));
    assert_eq!(log.staged_end_offset(), Offset(60));
    assert!(read_all(&log, Offset(60), 1000).is_empty());
    let written = run(log.write_staged(NOW)).unwrap();
    assert_eq!(written.log_end_offset, Offset(60));
    assert!(written.rolled);
    let made: Vec<_> = (0..30).map(|tag| (tag, 2)).collect();
    assert_eq!(read_all(&log, Offset(60), 1000), expected(&made));
}

fn a_first_batch_larger_than_asked_for_comes_whole<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    append(&log, batch(0, 20, NOW.0));
    let end = log.log_end_offset();
    let out = run(log.read(Offset(0), 10, end, true)).unwrap();
    assert_eq!(batches_of(&bytes_of(&out.slice.unwrap())).len(), 1);
    let out = run(log.read(Offset(0), 10, end, false)).unwrap();
    assert!(out.slice.is_none());
}

fn responses_end_between_batches<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    fill(&log, 0..60);
    let end = log.log_end_offset();
    for start in 0..end.0 {
        for max_bytes in [90, 333, 700, 1500] {
            let out = run(log.read(Offset(start), max_bytes, end, false)).unwrap();
            let Some(slice) = out.slice else { continue };
            assert!(slice.len() <= max_bytes as usize);
            let batches = batches_of(&bytes_of(&slice));
            let last = batches.last().unwrap().0;
            assert_eq!(last.next_offset(), out.next_offset);
            assert!(batches[0].0.base_offset.0 <= start);
            assert!(batches[0].0.last_offset().0 >= start);
        }
    }
}

fn a_read_from_inside_a_batch_returns_the_whole_batch<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    append(&log, batch(0, 3, NOW.0));
    append(&log, batch(1, 5, NOW.0));
    let out = run(log.read(Offset(6), 1, Offset(8), true)).unwrap();
    let batches = batches_of(&bytes_of(&out.slice.unwrap()));
    assert_eq!(batches[0].0.base_offset, Offset(3));
    assert_eq!(out.next_offset, Offset(8));
}

fn reads_end_at_the_upper_offset<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..80);
    let all = expected(&made);
    let mut upper = 0;
    // Also where the ends of writes are not remembered any more.
    for (_, count) in &made {
        upper += *count as i64;
        let read = read_all(&log, Offset(upper), 10_000);
        assert_eq!(read, all[..upper as usize]);
    }
    assert!(
        run(log.read(Offset(10), 100, Offset(10), true))
            .unwrap()
            .slice
            .is_none()
    );
}

fn offsets_outside_the_log_are_out_of_range<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    append(&log, batch(0, 5, NOW.0));
    let end = log.log_end_offset();
    assert_eq!(log.delete_records(Offset(2), end).unwrap(), Offset(2));
    for offset in [-1, 0, 1, 6] {
        assert!(matches!(
            run(log.read(Offset(offset), 100, end, true)),
            Err(LogError::OffsetOutOfRange {
                log_start_offset: Offset(2),
                log_end_offset: Offset(5),
                ..
            })
        ));
    }
    assert!(run(log.read(end, 100, end, true)).unwrap().slice.is_none());
    assert!(log.delete_records(Offset(6), end).is_err());
    assert_eq!(log.delete_records(Offset(1), end).unwrap(), Offset(2));
}

fn a_clean_stop_needs_no_recovery<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let mut made = fill(&log, 0..40);
    let end = log.log_end_offset();
    run(log.close(NOW)).unwrap();
    assert!(matches!(
        run(log.read(Offset(0), 100, end, true)),
        Err(LogError::Closed)
    ));
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(log.log_end_offset(), end);
    assert_eq!(log.recovery_point(), end);
    assert_eq!(log.latest_epoch(), Some(LeaderEpoch(0)));
    made.extend(fill(&log, 40..80));
    assert_eq!(read_all(&log, log.log_end_offset(), 1000), expected(&made));
    run(log.close(NOW)).unwrap();
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(read_all(&log, log.log_end_offset(), 1000), expected(&made));
}

fn an_unclean_stop_loses_nothing_that_was_written<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..40);
    let end = log.log_end_offset();
    drop(log);
    let (log, report) = open(&disk, data, &settings(), options(false));
    assert!(report.recovered_segments > 2);
    assert_eq!(report.damage, None);
    assert_eq!(report.truncated_bytes, 0);
    assert_eq!(log.log_end_offset(), end);
    assert_eq!(log.recovery_point(), end);
    assert_eq!(read_all(&log, end, 1000), expected(&made));
}

fn log_path(data: &Path, base_offset: i64) -> PathBuf {
    data.join("topic-0")
        .join(names::file_name(Offset(base_offset), names::FileKind::Log))
}

fn write_at<D: Disk>(disk: &D, path: &Path, position: u64, bytes: &[u8]) {
    let file = run(disk.open(path, OpenMode::Write)).unwrap();
    run(file.write_at(position, vec![Bytes::copy_from_slice(bytes)])).unwrap();
}

fn len<D: Disk>(disk: &D, path: &Path) -> u64 {
    run(disk.open(path, OpenMode::Read)).unwrap().len().unwrap()
}

fn a_torn_tail_is_cut<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..3);
    let (end, size) = (log.log_end_offset(), log.size_bytes());
    drop(log);
    let path = log_path(data, 0);
    let torn = batch(9, 5, NOW.0);
    write_at(&disk, &path, size, &torn[..torn.len() - 1]);
    let (log, report) = open(&disk, data, &settings(), options(false));
    assert_eq!(report.truncated_bytes, torn.len() as u64 - 1);
    assert_eq!(report.damage, None);
    assert_eq!(log.log_end_offset(), end);
    assert_eq!(len(&disk, &path), size);
    assert_eq!(read_all(&log, end, 1000), expected(&made));
}

fn what_is_cut_before_a_valid_batch_is_kept<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    fill(&log, 0..60);
    drop(log);
    // A byte of the second batch of the first segment.
    let path = log_path(data, 0);
    let first = BatchHeader::parse(&batch(0, 1, NOW.0))
        .unwrap()
        .size_in_bytes() as u64;
    let before = len(&disk, &path);
    write_at(&disk, &path, first + 70, b"x");
    let (log, report) = open(&disk, data, &settings(), options(false));
    let damage = report.damage.unwrap();
    assert_eq!(damage.offset, Offset(1));
    assert!(damage.length > before - first);
    assert_eq!(log.log_end_offset(), Offset(1));
    assert_eq!(log.segment_count(), 1);
    assert_eq!(
        damage.kept[0].file_name().unwrap().to_str().unwrap(),
        format!("00000000000000000000.log.cut-{NOW}")
    );
    let kept: u64 = damage.kept.iter().map(|path| len(&disk, path)).sum();
    assert_eq!(kept, damage.length);
    append(&log, batch(70, 2, NOW.0));
    drop(log);
    // They lie there undisturbed.
    let (log, report) = open(&disk, data, &settings(), options(false));
    assert_eq!(report.damage, None);
    assert_eq!(log.log_end_offset(), Offset(3));
    assert_eq!(len(&disk, &damage.kept[0]), before - first);
}

fn missing_and_wrong_indexes_are_rebuilt<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..60);
    let end = log.log_end_offset();
    run(log.close(NOW)).unwrap();
    let dir = data.join("topic-0");
    let names: Vec<String> = run(disk.list(&dir))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let index = |n: usize, suffix: &str| {
        let name = names.iter().filter(|name| name.ends_with(suffix)).nth(n);
        dir.join(name.unwrap())
    };
    run(disk.remove_file(&index(0, ".index"))).unwrap();
    run(disk.remove_file(&index(1, ".timeindex"))).unwrap();
    write_at(&disk, &index(2, ".index"), 0, b"odd");
    let odd = run(disk.open(&index(2, ".index"), OpenMode::Write)).unwrap();
    run(odd.truncate(3)).unwrap();
    let wrong = index(3, ".index");
    let last = len(&disk, &wrong) - 4;
    write_at(&disk, &wrong, last, &[0x7f; 4]);
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report.rebuilt_indexes, 4);
    assert_eq!(report.damage, None);
    assert_eq!(log.log_end_offset(), end);
    assert_eq!(read_all(&log, end, 300), expected(&made));
}

fn duplicates_are_answered_with_their_offsets_also_after_reopening<D: Disk>(disk: D, data: &Path) {
    let from = |sequence: i32, tag: u64| {
        let builder =
            BatchBuilder::uncompressed().producer(ProducerId(5), ProducerEpoch(0), sequence);
        batch_of(builder, tag, 2, NOW.0)
    };
    let log = create(&disk, data, &settings());
    fill(&log, 0..5);
    let base = append(&log, from(0, 100));
    let again = stage(&log, from(0, 100)).unwrap();
    assert!(again.is_duplicate);
    assert_eq!(again.base_offset, base);
    assert!(matches!(
        stage(&log, from(7, 101)),
        Err(AppendError::Sequence(_))
    ));
    // Staged, not yet written: known all the same.
    let staged = stage(&log, from(2, 101)).unwrap();
    let again = stage(&log, from(2, 101)).unwrap();
    assert!(again.is_duplicate);
    assert_eq!(again.base_offset, staged.base_offset);
    run(log.write_staged(NOW)).unwrap();
    fill(&log, 200..230);
    let end = log.log_end_offset();
    let expect = |log: &Log<D>| {
        assert_eq!(log.log_end_offset(), end);
        let again = stage(log, from(2, 101)).unwrap();
        assert!(again.is_duplicate);
        assert_eq!(again.base_offset, staged.base_offset);
    };
    drop(log);
    let (log, _) = open(&disk, data, &settings(), options(false));
    expect(&log);
    run(log.close(NOW)).unwrap();
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    expect(&log);
    append(&log, from(4, 102));
}

fn offsets_are_found_by_timestamp<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let mut scratch = crate::records::Scratch::new();
    assert_eq!(
        run(log.offset_for_timestamp(Timestamp(0), &mut scratch)).unwrap(),
        None
    );
    assert_eq!(run(log.max_timestamp(&mut scratch)).unwrap(), None);
    // Out of order on purpose; some compressed.
    let mut all: Vec<(i64, i64)> = Vec::new();
    for tag in 0..80u64 {
        let timestamp = 1000 + (tag as i64 * 37 % 61) * 10;
        let builder = if tag % 3 == 0 {
            BatchBuilder::new(Compression::of(CompressionType::Gzip))
        } else {
            BatchBuilder::uncompressed()
        };
        let base = append(&log, batch_of(builder, tag, 3, timestamp));
        for i in 0..3 {
            all.push((base.0 + i, timestamp + i));
        }
    }
    let check = |log: &Log<D>, start: i64| {
        let mut scratch = crate::records::Scratch::new();
        for timestamp in (990..1650).step_by(3) {
            let first = all
                .iter()
                .find(|(offset, at)| *at >= timestamp && *offset >= start);
            let found = run(log.offset_for_timestamp(Timestamp(timestamp), &mut scratch)).unwrap();
            assert_eq!(
                found.map(|found| (found.offset.0, found.timestamp.0)),
                first.copied()
            );
        }
    };
    check(&log, 0);
    let max = all.iter().map(|(_, at)| *at).max().unwrap();
    let first_max = all.iter().find(|(_, at)| *at == max).unwrap().0;
    let found = run(log.max_timestamp(&mut scratch)).unwrap().unwrap();
    assert_eq!((found.offset.0, found.timestamp.0), (first_max, max));
    assert_eq!(found.leader_epoch, LeaderEpoch(0));
    log.delete_records(Offset(100), log.log_end_offset())
        .unwrap();
    check(&log, 100);
    run(log.close(NOW)).unwrap();
    let mut reopen = options(true);
    reopen.log_start_offset = Some(Offset(100));
    let (log, report) = open(&disk, data, &settings(), reopen);
    assert_eq!(report, OpenReport::default());
    check(&log, 100);
}

fn segments_roll_by_time_and_by_index<D: Disk>(disk: D, data: &Path) {
    let mut by_time = settings();
    by_time.segment_ms = 1000;
    let log = create(&disk, data, &by_time);
    append(&log, batch(0, 1, 5000));
    append(&log, batch(1, 1, 6000));
    assert_eq!(log.segment_count(), 1);
    append(&log, batch(2, 1, 6001));
    assert_eq!(log.segment_count(), 2);
    let mut by_index = settings();
    by_index.segment_index_bytes = 40;
    log.set_settings(Arc::new(by_index));
    fill(&log, 3..23);
    // Three time entries, or five offset entries, close a segment.
    assert!(log.segment_count() >= 4);
}

fn truncation_forgets_what_it_cuts<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..60);
    let from = BatchBuilder::uncompressed().producer(ProducerId(5), ProducerEpoch(0), 0);
    append(&log, batch_of(from, 100, 1, NOW.0));
    assert!(log.producers().get(ProducerId(5)).is_some());
    stage(&log, batch(101, 3, NOW.0)).unwrap();
    let keep: i64 = made[..20].iter().map(|(_, count)| *count as i64).sum();
    // Inside a batch: it goes whole.
    run(log.truncate_to(log.lower_recovery_point(Offset(keep)), NOW)).unwrap();
    assert_eq!(log.log_end_offset(), Offset(keep));
    assert_eq!(log.staged_end_offset(), Offset(keep));
    assert!(log.producers().get(ProducerId(5)).is_none());
    assert_eq!(read_all(&log, Offset(keep), 500), expected(&made[..20]));
    let mut kept = made[..20].to_vec();
    kept.extend(fill(&log, 300..340));
    let end = log.log_end_offset();
    assert_eq!(read_all(&log, end, 500), expected(&kept));
    run(log.close(NOW)).unwrap();
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(read_all(&log, end, 500), expected(&kept));
    run(log.truncate_fully_and_start_at(log.lower_recovery_point(Offset(1000)), NOW)).unwrap();
    assert_eq!(log.log_start_offset(), Offset(1000));
    assert_eq!(append(&log, batch(1, 1, NOW.0)), Offset(1000));
    run(log.close(NOW)).unwrap();
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(log.log_start_offset(), Offset(1000));
    assert_eq!(log.log_end_offset(), Offset(1001));
}

fn leftovers_of_compaction_are_removed_at_open<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..10);
    run(log.close(NOW)).unwrap();
    let dir = data.join("topic-0");
    let stray = [
        "00000000000000000000.log.cleaned",
        "00000000000000000000.index.cleaned",
        "00000000000000000000.log.deleted",
        "00000000000000000500.index",
        "00000000000000000500.timeindex.swap",
        "leader-epoch-checkpoint.tmp",
    ];
    for name in stray {
        run(disk.open(&dir.join(name), OpenMode::Create)).unwrap();
    }
    let (log, _) = open(&disk, data, &settings(), options(true));
    assert_eq!(read_all(&log, log.log_end_offset(), 500), expected(&made));
    let names = run(disk.list(&dir)).unwrap();
    for name in stray {
        assert!(!names.iter().any(|entry| entry.name == name), "{name}");
    }
}

fn a_swap_of_the_cleaner_is_completed_at_open<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let made = fill(&log, 0..30);
    run(log.close(NOW)).unwrap();
    // What the cleaner has left of the first segment: its second batch.
    let first = expected(&made[..1]).len() as i64;
    let mut kept = batch(1, 2, NOW.0 + 10);
    crate::records::assign(&mut kept, Offset(first), LeaderEpoch(0), None);
    let swap = data.join("topic-0/00000000000000000000.log.swap");
    run(disk.open(&swap, OpenMode::Create)).unwrap();
    write_at(&disk, &swap, 0, &kept);
    // The segment that it replaces may be gone already, or not.
    let (log, report) = open(&disk, data, &settings(), options(true));
    assert_eq!(report.rebuilt_indexes, 1);
    assert_eq!(report.damage, None);
    let end = log.log_end_offset();
    assert_eq!(end.0 as usize, expected(&made).len());
    let all = read_all(&log, end, 500);
    assert_eq!(all[..2], expected(&made[..2])[first as usize..]);
    assert_eq!(all.last(), expected(&made).last());
}

fn a_deleted_segment_stays_readable_to_those_who_have_it<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    fill(&log, 0..60);
    let end = log.log_end_offset();
    let out = run(log.read(Offset(0), 1000, end, true)).unwrap();
    log.delete_records(end, end).unwrap();
    let deleted = run(log.delete_old_segments(NOW, end)).unwrap();
    assert!(deleted.segments > 2);
    assert_eq!(log.segment_count(), 1);
    assert!(!batches_of(&bytes_of(&out.slice.unwrap())).is_empty());
    assert!(run(disk.open(&log_path(data, 0), OpenMode::Read)).is_err());
}

fn batches_of_one_turn_share_a_write<D: Disk>(disk: D, data: &Path) {
    let mut large = settings();
    large.segment_bytes = 1 << 30;
    let log = create(&disk, data, &large);
    for tag in 0..5000 {
        stage(&log, batch(tag, 1, NOW.0)).unwrap();
    }
    let written = run(log.write_staged(NOW)).unwrap();
    assert_eq!(written.batches, 5000);
    let made: Vec<_> = (0..5000).map(|tag| (tag, 1)).collect();
    assert_eq!(read_all(&log, Offset(5000), 10_000), expected(&made));
}

fn files_have_kafkas_names<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let mut offset = 0;
    while log.segment_count() < 2 {
        offset = append(&log, batch(1, 3, NOW.0)).0;
    }
    run(log.close(NOW)).unwrap();
    let entries = run(disk.list(&data.join("topic-0"))).unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let base = format!("{offset:020}");
    let end = format!("{:020}", offset + 3);
    assert_eq!(
        names,
        [
            "00000000000000000000.index".to_owned(),
            "00000000000000000000.log".to_owned(),
            "00000000000000000000.timeindex".to_owned(),
            format!("{base}.index"),
            format!("{base}.log"),
            format!("{base}.snapshot"),
            format!("{base}.timeindex"),
            format!("{end}.snapshot"),
            "leader-epoch-checkpoint".to_owned(),
            "partition.metadata".to_owned(),
        ]
    );
}

fn a_data_directory_is_scanned<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    fill(&log, 0..3);
    let gone = data.join(names::deleted_folder_name("old", 3.into(), 1));
    run(disk.create_dir(&gone)).unwrap();
    run(disk.create_dir(&data.join("__cluster_metadata-0"))).unwrap();
    run(disk.create_dir(&data.join("a-b-12"))).unwrap();
    let points = [("topic", 0.into(), log.log_end_offset())];
    run(log_dir::write_offsets(
        &disk,
        data,
        checkpoint::RECOVERY_POINT_CHECKPOINT,
        points,
    ))
    .unwrap();
    assert!(!run(log_dir::take_clean_shutdown_mark(&disk, data)).unwrap());
    run(log_dir::write_clean_shutdown_mark(&disk, data, -1)).unwrap();
    assert!(run(log_dir::take_clean_shutdown_mark(&disk, data)).unwrap());
    assert!(!run(log_dir::take_clean_shutdown_mark(&disk, data)).unwrap());
    let found = run(log_dir::scan(&disk, data)).unwrap();
    let names: Vec<(&str, i32, Option<TopicId>)> = found
        .partitions
        .iter()
        .map(|p| (p.topic.as_str(), p.partition.0, p.topic_id))
        .collect();
    assert_eq!(names, [("a-b", 12, None), ("topic", 0, Some(TopicId(7)))]);
    assert_eq!(found.deleted, [gone]);
    assert_eq!(found.left_alone.len(), 1);
    assert_eq!(
        log_dir::DataDir::offset_of(&found.recovery_points, "topic", 0.into()),
        Some(log.log_end_offset())
    );
    let to = data.join(names::deleted_folder_name("topic", 0.into(), 2));
    run(log.rename_deleted(&to)).unwrap();
    let found = run(log_dir::scan(&disk, data)).unwrap();
    assert_eq!(found.deleted.len(), 2);
    run(disk.remove_dir_all(&to)).unwrap();
}

fn log_append_time_is_written_into_the_batch<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    let bytes = batch(0, 3, 17);
    let header = BatchHeader::parse(&bytes).unwrap();
    let time = Timestamp(123_456);
    let staged = log
        .stage(
            bytes,
            &header,
            AppendOrigin::Client,
            None,
            LeaderEpoch(3),
            Some(time),
            NOW,
        )
        .unwrap();
    assert_eq!(staged.log_append_time, time);
    run(log.write_staged(NOW)).unwrap();
    let out = run(log.read(Offset(0), 1000, Offset(3), true)).unwrap();
    let (header, batch) = batches_of(&bytes_of(&out.slice.unwrap())).remove(0);
    assert_eq!(header.max_timestamp, time);
    assert_eq!(header.partition_leader_epoch, LeaderEpoch(3));
    for record in RecordIter::of_batch(&header, &batch) {
        assert_eq!(record.unwrap().timestamp, time);
    }
    let mut scratch = crate::records::Scratch::new();
    let found = run(log.max_timestamp(&mut scratch)).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset(0), time));
}

fn epochs_end_where_the_next_begins<D: Disk>(disk: D, data: &Path) {
    let log = create(&disk, data, &settings());
    for epoch in [1, 1, 4, 4, 4, 9] {
        stage_at(&log, batch(0, 2, NOW.0), LeaderEpoch(epoch), NOW).unwrap();
        run(log.write_staged(NOW)).unwrap();
    }
    let check = |log: &Log<D>| {
        let end = |epoch| log.end_offset_for_epoch(LeaderEpoch(epoch));
        assert_eq!(end(1), Some((LeaderEpoch(1), Offset(4))));
        assert_eq!(end(5), Some((LeaderEpoch(4), Offset(10))));
        assert_eq!(end(9), Some((LeaderEpoch(9), Offset(12))));
        assert_eq!(end(10), None);
        assert_eq!(log.epoch_for_offset(Offset(5)), Some(LeaderEpoch(4)));
    };
    check(&log);
    // Nothing but the log itself is left of them.
    drop(log);
    let (log, _) = open(&disk, data, &settings(), options(false));
    check(&log);
    run(log.close(NOW)).unwrap();
    let (log, _) = open(&disk, data, &settings(), options(true));
    check(&log);
}

fn the_last_epoch_is_found_in_the_log_where_the_checkpoint_lacks_it<D: Disk>(disk: D, data: &Path) {
    let dir = data.join("topic-0");
    let last = |disk: &D| run(log_dir::last_epoch(disk, &dir));
    let checkpoint = dir.join(epoch_cache::LEADER_EPOCH_CHECKPOINT);
    let log = create(&disk, data, &settings());
    assert_eq!(last(&disk), None);
    for epoch in [2, 2, 5] {
        stage_at(&log, batch(0, 3, NOW.0), LeaderEpoch(epoch), NOW).unwrap();
    }
    run(log.write_staged(NOW)).unwrap();
    let end = log.size_bytes();
    run(log.close(NOW)).unwrap();
    assert_eq!(last(&disk), Some(LeaderEpoch(5)));
    // As whoever was killed before it wrote the checkpoint leaves it.
    run(disk.replace_file(&checkpoint, b"0\n1\n2 0\n")).unwrap();
    assert_eq!(last(&disk), Some(LeaderEpoch(5)));
    run(disk.remove_file(&checkpoint)).unwrap();
    assert_eq!(last(&disk), Some(LeaderEpoch(5)));
    // A leader that was elected and has written nothing.
    run(disk.replace_file(&checkpoint, b"0\n2\n2 0\n7 9\n")).unwrap();
    assert_eq!(last(&disk), Some(LeaderEpoch(7)));
    run(disk.replace_file(&checkpoint, b"0\n1\n2 0\n")).unwrap();
    // What only looks like a batch.
    let mut torn = batch(0, 3, NOW.0);
    torn[..8].copy_from_slice(&9i64.to_be_bytes());
    torn[12..16].copy_from_slice(&1000i32.to_be_bytes());
    let last_byte = torn.len() - 1;
    torn[last_byte] ^= 1;
    write_at(&disk, &log_path(data, 0), end, &torn);
    assert_eq!(last(&disk), Some(LeaderEpoch(5)));
    // The active segment may be empty.
    let next = dir.join(names::file_name(Offset(9), names::FileKind::Log));
    run(disk.open(&next, OpenMode::Create)).unwrap();
    assert_eq!(last(&disk), Some(LeaderEpoch(5)));
}
