//! A log against a list of batches: retention, DeleteRecords, truncation, reopening, reading.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Action {
    /// Appends batches of so many records, this many milliseconds after the last.
    Append(Vec<(usize, i64)>),
    Flush,
    Prepare,
    Reopen {
        is_clean: bool,
    },
    /// Up to this share of the log, in percent.
    DeleteRecords(u8),
    TruncateTo(u8),
    /// With these limits, and so many milliseconds later.
    Retain {
        bytes: i64,
        ms: i64,
        later_ms: i64,
    },
    Read {
        from: u8,
        max_bytes: u32,
        upper: u8,
    },
    Timestamp(i64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => prop::collection::vec((1..6usize, 0..50i64), 1..6).prop_map(Action::Append),
        1 => Just(Action::Flush),
        1 => Just(Action::Prepare),
        1 => any::<bool>().prop_map(|is_clean| Action::Reopen { is_clean }),
        1 => (0..=100u8).prop_map(Action::DeleteRecords),
        1 => (50..=100u8).prop_map(Action::TruncateTo),
        2 => (prop_oneof![Just(-1i64), 0..4000i64], prop_oneof![Just(-1i64), 0..600i64], 0..100i64)
            .prop_map(|(bytes, ms, later_ms)| Action::Retain { bytes, ms, later_ms }),
        6 => (0..=100u8, 1..3000u32, 0..=100u8)
            .prop_map(|(from, max_bytes, upper)| Action::Read { from, max_bytes, upper }),
        2 => (-50..1500i64).prop_map(Action::Timestamp),
    ]
}

struct Entry {
    base: i64,
    records: usize,
    timestamp: i64,
    bytes: usize,
}

impl Entry {
    fn end(&self) -> i64 {
        self.base + self.records as i64
    }
}

#[derive(Default)]
struct Model {
    batches: Vec<Entry>,
    start: i64,
    end: i64,
}

fn share(start: i64, end: i64, percent: u8) -> i64 {
    start + (end - start) * i64::from(percent) / 100
}

fn play<D: Disk>(on: fn(MemoryDisk) -> D, actions: Vec<Action>, settings: &LogSettings) {
    let (memory_disk, data) = memory();
    let disk = on(memory_disk.clone());
    let mut log = create(&disk, &data, settings);
    let mut model = Model::default();
    let mut clock = NOW.0;
    memory_disk.set_time(Timestamp(clock));
    for action in actions {
        match action {
            Action::Append(batches) => {
                for (records, later) in batches {
                    clock += later;
                    let bytes = batch(model.end as u64, records, clock);
                    model.batches.push(Entry {
                        base: model.end,
                        records,
                        timestamp: clock,
                        bytes: bytes.len(),
                    });
                    let staged = stage(&log, bytes).unwrap();
                    assert_eq!(staged.base_offset.0, model.end);
                    model.end += records as i64;
                }
                memory_disk.set_time(Timestamp(clock));
                run(log.write_staged(Timestamp(clock))).unwrap();
            }
            Action::Flush => assert_eq!(run(log.flush()).unwrap().0, model.end),
            Action::Prepare => run(log.prepare()).unwrap(),
            Action::Reopen { is_clean } => {
                let mut options = options(is_clean);
                options.log_start_offset = Some(log.log_start_offset());
                options.recovery_point = log.recovery_point();
                if is_clean {
                    run(log.close(NOW)).unwrap();
                }
                let (opened, report) = open(&disk, &data, settings, options);
                assert_eq!(report.damage, None);
                assert_eq!(report.truncated_bytes, 0);
                assert_eq!(report.rebuilt_indexes, 0);
                log = opened;
            }
            Action::DeleteRecords(percent) => {
                let before = share(model.start, model.end, percent);
                model.start = before;
                let end = log.log_end_offset();
                assert_eq!(log.delete_records(Offset(before), end).unwrap().0, before);
                run(log.delete_old_segments(Timestamp(clock), end)).unwrap();
            }
            Action::TruncateTo(percent) => {
                let to = share(model.start, model.end, percent);
                run(log.truncate_to(log.lower_recovery_point(Offset(to)), Timestamp(clock)))
                    .unwrap();
                model.batches.retain(|entry| entry.end() <= to);
                model.end = log.log_end_offset().0;
                let end = model.batches.last().map(Entry::end);
                assert!(end.is_none_or(|end| end == model.end));
                assert!(model.end <= to.max(model.start));
                model.start = model.start.min(model.end);
            }
            Action::Retain {
                bytes,
                ms,
                later_ms,
            } => {
                clock += later_ms;
                retain(&log, &mut model, settings, (bytes, ms), clock);
            }
            Action::Read {
                from,
                max_bytes,
                upper,
            } => {
                let upper = share(model.start, model.end, upper);
                // A batch boundary.
                let upper = model
                    .batches
                    .iter()
                    .map(Entry::end)
                    .find(|end| *end >= upper)
                    .unwrap_or(model.end);
                let from = share(model.start, upper, from);
                read(&log, &model, from, max_bytes, upper);
            }
            Action::Timestamp(after) => {
                let timestamp = NOW.0 + after;
                let mut scratch = crate::records::Scratch::new();
                let found =
                    run(log.offset_for_timestamp(Timestamp(timestamp), &mut scratch)).unwrap();
                let first = model
                    .batches
                    .iter()
                    .flat_map(|e| (0..e.records as i64).map(|i| (e.base + i, e.timestamp + i)))
                    .find(|(offset, at)| *offset >= model.start && *at >= timestamp);
                assert_eq!(found.map(|f| (f.offset.0, f.timestamp.0)), first);
            }
        }
        assert_eq!(log.log_start_offset().0, model.start);
        assert_eq!(log.log_end_offset().0, model.end);
        assert!(log.recovery_point().0 <= model.end);
    }
    let all: Vec<i64> = read_all(&log, Offset(model.end), 999)
        .into_iter()
        .map(|(offset, _)| offset)
        .collect();
    assert_eq!(all, (model.start..model.end).collect::<Vec<i64>>());
}

fn retain<D: Disk>(
    log: &Log<D>,
    model: &mut Model,
    settings: &LogSettings,
    (bytes, ms): (i64, i64),
    clock: i64,
) {
    let mut limits = settings.clone();
    limits.retention_bytes = bytes;
    limits.retention_ms = ms;
    log.set_settings(Arc::new(limits));
    let end = log.log_end_offset();
    let size = log.size_bytes();
    let deleted = run(log.delete_old_segments(Timestamp(clock), end)).unwrap();
    let start = log.log_start_offset().0;
    assert_eq!(log.size_bytes(), size - deleted.bytes);
    if bytes < 0 && ms < 0 {
        assert_eq!(start, model.start);
    }
    // Nothing goes that neither limit lets go.
    let gone = model
        .batches
        .iter()
        .filter(|e| e.end() <= start && e.base >= model.start);
    let rest: usize = model
        .batches
        .iter()
        .filter(|e| e.base >= start)
        .map(|e| e.bytes)
        .sum();
    if start > model.start {
        let newest = gone.map(|e| e.timestamp + e.records as i64 - 1).max();
        let by_time = ms >= 0 && newest.is_none_or(|newest| clock - newest > ms);
        let by_size = bytes >= 0 && rest as i64 >= bytes;
        assert!(by_time || by_size);
    }
    // And what must go is gone, to the granularity of segments.
    if bytes >= 0 && log.segment_count() > 1 {
        assert!(log.size_bytes() < bytes as u64 + 2000);
    }
    if ms >= 0
        && let Some(newest) = model.batches.last()
        && newest.base >= model.start
        && clock - (newest.timestamp + newest.records as i64 - 1) > ms
        && log.size_bytes() > 0
    {
        // A batch before the newest may have a later timestamp.
        let max = model
            .batches
            .iter()
            .filter(|e| e.base >= start)
            .map(|e| e.timestamp + e.records as i64 - 1)
            .max();
        assert!(max.is_some_and(|max| clock - max <= ms));
    }
    model.start = start;
    let kept = log.size_bytes() as usize;
    // Segments keep whole batches that lie below the start.
    while model.batches.iter().map(|e| e.bytes).sum::<usize>() > kept {
        model.batches.remove(0);
    }
    log.set_settings(Arc::new(settings.clone()));
}

fn read<D: Disk>(log: &Log<D>, model: &Model, from: i64, max_bytes: u32, upper: i64) {
    let out = run(log.read(Offset(from), max_bytes, Offset(upper), true)).unwrap();
    if from >= upper {
        assert!(out.slice.is_none());
        return;
    }
    let batches = batches_of(&bytes_of(&out.slice.unwrap()));
    let first = model.batches.iter().position(|e| e.end() > from).unwrap();
    let mut size = 0;
    for ((header, batch), entry) in batches.iter().zip(&model.batches[first..]) {
        assert_eq!(header.base_offset.0, entry.base);
        assert_eq!(header.records_count as usize, entry.records);
        assert!(entry.end() <= upper);
        size += batch.len();
    }
    assert!(size <= max_bytes as usize || batches.len() == 1);
    assert_eq!(out.next_offset, batches.last().unwrap().0.next_offset());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_does_what_a_list_of_batches_does(actions in prop::collection::vec(action(), 1..40)) {
        play(std::convert::identity, actions, &settings());
    }

    #[test]
    fn and_with_room_that_is_filled_ahead(actions in prop::collection::vec(action(), 1..40)) {
        play(std::convert::identity, actions, &durable_settings());
    }

    #[test]
    fn and_past_the_page_cache(actions in prop::collection::vec(action(), 1..40), durable in any::<bool>()) {
        go_direct();
        let settings = if durable { durable_settings() } else { settings() };
        play(direct, actions, &settings);
    }
}

#[test]
fn a_segment_that_was_flushed_to_its_end_and_then_closed_is_cut_at_open() {
    let append =
        |batches: &[usize]| Action::Append(batches.iter().map(|records| (*records, 0)).collect());
    let actions = vec![
        append(&[3, 5, 2, 2, 4]),
        append(&[4, 5, 2, 3]),
        append(&[2, 5, 3, 2]),
        Action::Prepare,
        append(&[5, 4]),
        Action::Flush,
        append(&[1]),
        Action::Reopen { is_clean: false },
    ];
    play(std::convert::identity, actions.clone(), &durable_settings());
    go_direct();
    play(direct, actions, &durable_settings());
}
