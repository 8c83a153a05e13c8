//! A disk that gives back other bytes than it was given: every file of a log, flipped at every byte and cut at
//! every length.

use super::cleaner::end_txn;
use super::*;
use crate::records::control::TxnOutcome;
use crate::records::{Scratch, verify_crc};

/// A log of several segments with transactions, after a clean stop, and its batches.
fn written() -> (MemoryDisk, PathBuf, Vec<(BatchHeader, Bytes)>) {
    let (disk, data) = memory();
    let log = create(&disk, &data, &settings());
    for tag in 0..14 {
        append(&log, batch(tag, 3, NOW.0 + tag as i64 * 10));
        if tag % 5 == 2 {
            let builder = BatchBuilder::uncompressed().transactional();
            let sequence = tag as i32 / 5 * 2;
            let builder = builder.producer(ProducerId(1), ProducerEpoch(0), sequence);
            append(
                &log,
                batch_of(builder, 100 + tag, 2, NOW.0 + tag as i64 * 10),
            );
            end_txn(&log, 1, TxnOutcome::Abort);
        }
    }
    assert!(log.segment_count() > 1);
    let batches = served(&log, log.log_start_offset(), 700).unwrap();
    run(log.close(NOW)).unwrap();
    (disk, data, batches)
}

/// What a client makes of a log: it reads on until there is an error of the broker, or what it got is no batch
/// with the right CRC.
fn served(
    log: &Log<MemoryDisk>,
    from: Offset,
    max_bytes: u32,
) -> Result<Vec<(BatchHeader, Bytes)>, Vec<(BatchHeader, Bytes)>> {
    let mut batches = Vec::new();
    let end = log.log_end_offset();
    let mut next = from;
    while next < end {
        let Ok(out) = run(log.read(next, max_bytes, end, true)) else {
            return Err(batches);
        };
        let Some(slice) = &out.slice else { break };
        let bytes = bytes_of(slice);
        let mut at = 0;
        while at < bytes.len() {
            let Ok(header) = BatchHeader::parse(&bytes[at..]) else {
                return Err(batches);
            };
            let whole = at + header.size_in_bytes();
            if whole > bytes.len() || !verify_crc(&bytes[at..whole]) {
                return Err(batches);
            }
            batches.push((header, bytes.slice(at..whole)));
            at = whole;
        }
        assert!(out.next_offset > next);
        next = out.next_offset;
    }
    Ok(batches)
}

/// Opens what `change` makes of a disk; `None` if the log says that it cannot be.
fn reopen(
    disk: &MemoryDisk,
    data: &Path,
    is_clean: bool,
    change: impl Fn(&MemoryDisk),
) -> Option<(Log<MemoryDisk>, OpenReport)> {
    let disk = disk.crash(memory::Crash::Kill);
    change(&disk);
    let opened = run(Log::open(
        disk,
        Arc::from(data.join("topic-0")),
        Arc::new(settings()),
        options(is_clean),
    ));
    opened.ok()
}

/// Every file of a kind with its length.
fn files(disk: &MemoryDisk, suffix: &str) -> Vec<(PathBuf, usize)> {
    let files = disk.files().into_iter();
    let files: Vec<_> = files
        .filter(|(path, bytes)| path.to_string_lossy().ends_with(suffix) && !bytes.is_empty())
        .map(|(path, bytes)| (path, bytes.len()))
        .collect();
    assert!(!files.is_empty(), "{suffix}");
    files
}

/// Calls `check` with the log that is opened, cleanly or not, from each flipped and each cut file of a kind.
fn spoil(
    suffix: &str,
    check: impl Fn(&Log<MemoryDisk>, &OpenReport, bool, &[(BatchHeader, Bytes)], &str),
) {
    let (disk, data, batches) = written();
    for (path, len) in files(&disk, suffix) {
        for at in 0..len {
            for is_clean in [true, false] {
                let flipped = reopen(&disk, &data, is_clean, |disk| disk.flip(&path, at as u64));
                if let Some((log, report)) = flipped {
                    let what = format!("{} flipped at {at}, {is_clean}", path.display());
                    check(&log, &report, is_clean, &batches, &what);
                }
                let cut = reopen(&disk, &data, is_clean, |disk| {
                    let file = run(disk.open(&path, OpenMode::Write)).unwrap();
                    run(file.truncate(at as u64)).unwrap();
                });
                if let Some((log, report)) = cut {
                    let what = format!("{} cut at {at}, {is_clean}", path.display());
                    check(&log, &report, is_clean, &batches, &what);
                }
            }
        }
    }
}

/// A batch as a client knows it: its base offset and leader epoch are not among what the CRC is of.
fn content(batch: &(BatchHeader, Bytes)) -> &[u8] {
    &batch.1[crate::records::batch::ATTRIBUTES_AT..]
}

#[test]
fn what_is_not_as_it_was_appended_reaches_no_client_with_a_right_crc() {
    spoil(".log", |log, report, is_clean, batches, what| {
        for max_bytes in [1, 5000] {
            let (Ok(read) | Err(read)) = served(log, log.log_start_offset(), max_bytes);
            let mut known = batches.iter();
            for batch in &read {
                let found = known.find(|known| content(known) == content(batch));
                assert!(found.is_some(), "{what}: {:?}", batch.0);
            }
            if !is_clean {
                // Recovery has left a beginning of the log, and says so.
                let is_whole = read.len() == batches.len();
                let is_told = report.truncated_bytes > 0 || report.damage.is_some();
                assert!(is_whole || is_told || what.contains("cut"), "{what}");
            }
        }
    });
}

#[test]
fn an_index_that_lies_hides_no_record() {
    spoil(".index", |log, _, _, batches, what| {
        for max_bytes in [1, 300] {
            for (i, (header, _)) in batches.iter().enumerate() {
                let out =
                    run(log.read(header.last_offset(), max_bytes, log.log_end_offset(), true));
                let out = out.unwrap_or_else(|error| panic!("{what}: {error}"));
                let bytes = bytes_of(&out.slice.unwrap());
                assert!(bytes.starts_with(&batches[i].1), "{what}: {i}");
                let last = batches_of(&bytes).pop().unwrap();
                assert_eq!(out.next_offset, last.0.next_offset(), "{what}");
            }
        }
    });
}

#[test]
fn a_time_index_that_lies_within_names_no_later_record() {
    let (disk, data, batches) = written();
    for (path, len) in files(&disk, ".timeindex") {
        // The last entry is the only place that says how old a closed segment is.
        for at in 0..len - 12 {
            let flipped = reopen(&disk, &data, true, |disk| disk.flip(&path, at as u64));
            let (log, _) = flipped.unwrap();
            for wanted in batches.iter().map(|(header, _)| header.max_timestamp) {
                let first = batches
                    .iter()
                    .find(|(h, _)| h.max_timestamp >= wanted)
                    .unwrap();
                let found = run(log.offset_for_timestamp(wanted, &mut Scratch::new())).unwrap();
                let found = found.unwrap().offset;
                let what = format!("{} at {at}", path.display());
                assert!(
                    found <= first.0.last_offset(),
                    "{what}: {found} for {wanted}"
                );
            }
        }
    }
}

#[test]
fn other_files_that_are_spoiled_cost_no_record_and_no_panic() {
    for suffix in [
        ".txnindex",
        ".snapshot",
        "leader-epoch-checkpoint",
        "partition.metadata",
    ] {
        spoil(suffix, |log, _, is_clean, batches, what| {
            let read = served(log, log.log_start_offset(), 700).unwrap();
            assert_eq!(read.len(), batches.len(), "{what}");
            let aborted = run(log.aborted_transactions(Offset(0), log.log_end_offset()));
            if !is_clean || suffix != ".txnindex" {
                assert_eq!(aborted.unwrap().len(), 3, "{what}");
            }
            let producers = log.producers();
            let producer = producers.get(ProducerId(1)).unwrap();
            assert_eq!(producer.last_sequence(), 5, "{what}");
        });
    }
}

#[test]
fn a_transaction_index_that_ends_within_an_entry_is_made_anew() {
    let (disk, data, _) = written();
    for (path, len) in files(&disk, ".txnindex") {
        for at in (0..len).filter(|at| !at.is_multiple_of(txn_index::ABORTED_TXN_SIZE)) {
            let cut = reopen(&disk, &data, true, |disk| {
                let file = run(disk.open(&path, OpenMode::Write)).unwrap();
                run(file.truncate(at as u64)).unwrap();
            });
            let (log, report) = cut.unwrap();
            assert_eq!(report.rebuilt_indexes, 1, "{at}");
            let aborted = run(log.aborted_transactions(Offset(0), log.log_end_offset()));
            assert_eq!(aborted.unwrap().len(), 3, "{at}");
        }
    }
}

#[test]
fn small_files_that_cannot_be_read_are_told_and_leader_epochs_are_gathered_from_the_log() {
    let (disk, data, _) = written();
    let newest = files(&disk, ".snapshot").pop().unwrap().0;
    let (log, report) = reopen(&disk, &data, true, |disk| disk.flip(&newest, 20)).unwrap();
    assert_eq!(report.unusable, [newest]);
    drop(log);
    let epochs = data.join("topic-0").join("leader-epoch-checkpoint");
    for is_clean in [true, false] {
        let flipped = reopen(&disk, &data, is_clean, |disk| disk.flip(&epochs, 0));
        let (log, report) = flipped.unwrap();
        assert_eq!(report.unusable, std::slice::from_ref(&epochs));
        assert_eq!(log.epoch_for_offset(Offset(1)), Some(LeaderEpoch(0)));
    }
}

#[test]
fn a_log_start_that_no_log_has_costs_no_record_after_a_clean_stop() {
    let (disk, data, batches) = written();
    let mut options = options(true);
    options.log_start_offset = Some(Offset(1_000_000));
    let (log, report) = open(&disk, &data, &settings(), options);
    assert_eq!(report.unusable.len(), 1);
    let read = served(&log, log.log_start_offset(), 700).unwrap();
    assert_eq!(read.len(), batches.len());
}

#[test]
fn checkpoints_that_are_spoiled_are_left_aside_or_read() {
    let (disk, data) = memory();
    let name = checkpoint::RECOVERY_POINT_CHECKPOINT;
    let entries = [
        ("topic", 0.into(), Offset(120)),
        ("other", 7.into(), Offset(33)),
    ];
    run(log_dir::write_offsets(&disk, &data, name, entries)).unwrap();
    let len = run(disk.read_file(&data.join(name), 1000)).unwrap().len();
    for at in 0..len as u64 {
        let spoiled = disk.crash(memory::Crash::Kill);
        spoiled.flip(&data.join(name), at);
        let found = run(log_dir::scan(&spoiled, &data)).unwrap();
        assert!(
            found.bad_checkpoints.len() == 1 || found.recovery_points.len() == 2,
            "{at}"
        );
        let cut = disk.crash(memory::Crash::Kill);
        let file = run(cut.open(&data.join(name), OpenMode::Write)).unwrap();
        run(file.truncate(at)).unwrap();
        let found = run(log_dir::scan(&cut, &data)).unwrap();
        assert!(found.bad_checkpoints.len() == 1 || at == 0, "{at}");
    }
}
