//! Tests of whole logs: one suite on every back end, crash images, and a model.

mod beside;
mod cleaner;
mod cleaner_cuts;
mod crash;
mod direct;
mod faults;
mod fill;
mod kafka;
mod model;
mod power;
mod producers;
mod restart;
mod retention;
mod rot;
mod suite;

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::base::settings::{CleanupPolicy, LogIo, LogSettings, NodeSettings};
use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId};
use crate::records::{BatchBuilder, BatchHeader, Compression, CompressionType, RecordIter};

/// The whole executor: polls until it is done.
pub(super) fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("waits for something that does not come");
}

pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);

thread_local! {
    /// How the logs of this test are written and read.
    static LOG_IO: Cell<LogIo> = const { Cell::new(LogIo::PageCache) };
}

/// The logs of this test go past the page cache from now on, on a disk that can do that.
pub(super) fn go_direct() {
    LOG_IO.set(LogIo::Direct);
}

/// A disk in memory, past whose page cache the logs of this test go from now on.
pub(super) fn direct(disk: MemoryDisk) -> LogDisk<MemoryDisk> {
    go_direct();
    LogDisk::new(disk, DirectLimits::default())
}

/// A real one; `None`, said, where the file system of the temporary folders refuses O_DIRECT.
pub(super) fn direct_on(dir: &Path) -> Option<LogDisk<PageCache<Inline>>> {
    go_direct();
    if let Err(reason) = probe_direct(dir) {
        let required = std::env::var_os("RINGSPUN_REQUIRE_ALL").is_some();
        assert!(!required, "O_DIRECT is refused here: {reason}");
        println!("skipped: O_DIRECT is refused here: {reason}");
        return None;
    }
    let disk = PageCache::new(Inline);
    Some(LogDisk::new(disk, DirectLimits::default()))
}

/// Small segments, dense indexes, no retention.
pub(super) fn settings() -> LogSettings {
    let mut settings = NodeSettings::defaults().log_defaults.clone();
    settings.log_io = LOG_IO.get();
    settings.segment_bytes = 2000;
    settings.index_interval_bytes = 150;
    settings.segment_ms = 7 * 24 * 3600 * 1000;
    settings.segment_jitter_ms = 0;
    settings.retention_ms = -1;
    settings.retention_bytes = -1;
    settings.cleanup_policy = CleanupPolicy {
        compact: false,
        delete: true,
    };
    settings
}

/// The same, with an fsync before every acknowledgement: room is filled ahead.
pub(super) fn durable_settings() -> LogSettings {
    let mut settings = settings();
    settings.flush_messages = 1;
    settings
}

pub(super) fn options(is_clean: bool) -> OpenOptions {
    OpenOptions {
        is_clean,
        recovery_point: Offset(0),
        log_start_offset: None,
        cleaned_to: None,
        has_checkpoint: true,
        producer_expiration_ms: 86_400_000,
        allocation: None,
        now: NOW,
    }
}

/// A batch of `records` records, timestamps one apart from `timestamp` on, values made of `tag`.
pub(super) fn batch(tag: u64, records: usize, timestamp: i64) -> BytesMut {
    batch_of(BatchBuilder::uncompressed(), tag, records, timestamp)
}

pub(super) fn batch_of(
    mut builder: BatchBuilder,
    tag: u64,
    records: usize,
    timestamp: i64,
) -> BytesMut {
    for i in 0..records {
        let value = format!("value-{tag}-{i}");
        builder.append(
            Timestamp(timestamp + i as i64),
            Some(b"key"),
            Some(value.as_bytes()),
            &[],
        );
    }
    BytesMut::from(&builder.build()[..])
}

pub(super) fn stage<D: Disk>(log: &Log<D>, batch: BytesMut) -> Result<Staged, AppendError> {
    stage_at(log, batch, LeaderEpoch(0), NOW)
}

pub(super) fn stage_at<D: Disk>(
    log: &Log<D>,
    batch: BytesMut,
    epoch: LeaderEpoch,
    now: Timestamp,
) -> Result<Staged, AppendError> {
    let header = BatchHeader::parse(&batch).unwrap();
    log.stage(batch, &header, AppendOrigin::Client, None, epoch, None, now)
}

/// Appends one batch and returns its base offset.
pub(super) fn append<D: Disk>(log: &Log<D>, batch: BytesMut) -> Offset {
    let staged = stage(log, batch).unwrap();
    run(log.write_staged(NOW)).unwrap();
    staged.base_offset
}

pub(super) fn bytes_of(slice: &LogSlice) -> Bytes {
    match slice {
        LogSlice::Bytes(bytes) => bytes.clone(),
        LogSlice::File(slice) => {
            use std::os::unix::fs::FileExt;
            let mut bytes = vec![0; slice.len as usize];
            slice
                .file
                .read_exact_at(&mut bytes, slice.position)
                .unwrap();
            bytes.into()
        }
    }
}

/// The batches of a slice; every one must be whole and right.
pub(super) fn batches_of(bytes: &Bytes) -> Vec<(BatchHeader, Bytes)> {
    let mut at = 0;
    let mut batches = Vec::new();
    while at < bytes.len() {
        let header = BatchHeader::parse(&bytes[at..]).unwrap();
        let batch = bytes.slice(at..at + header.size_in_bytes());
        assert!(crate::records::verify_crc(&batch));
        at += batch.len();
        batches.push((header, batch));
    }
    batches
}

/// Offset and value of every record from the log start to `upper`, by reads of at most `max_bytes`.
pub(super) fn read_all<D: Disk>(log: &Log<D>, upper: Offset, max_bytes: u32) -> Vec<(i64, String)> {
    let mut records = Vec::new();
    let start = log.log_start_offset();
    let mut next = start;
    while next < upper {
        let out = run(log.read(next, max_bytes, upper, true)).unwrap();
        let Some(slice) = &out.slice else { break };
        let bytes = bytes_of(slice);
        for (header, batch) in batches_of(&bytes) {
            for record in RecordIter::of_batch(&header, &batch) {
                let record = record.unwrap();
                if record.offset >= start {
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    records.push((record.offset.0, value));
                }
            }
        }
        assert!(out.next_offset > next);
        next = out.next_offset;
    }
    records
}

/// What [`read_all`] gives for batches of these tags and sizes.
pub(super) fn expected(batches: &[(u64, usize)]) -> Vec<(i64, String)> {
    let mut records = Vec::new();
    for (tag, count) in batches {
        for i in 0..*count {
            records.push((records.len() as i64, format!("value-{tag}-{i}")));
        }
    }
    records
}

pub(super) fn memory() -> (MemoryDisk, PathBuf) {
    let disk = MemoryDisk::new();
    run(disk.create_dir(Path::new("/data"))).unwrap();
    run(disk.sync_dir(Path::new("/data"))).unwrap();
    (disk, PathBuf::from("/data"))
}

pub(super) fn create<D: Disk>(disk: &D, data: &Path, settings: &LogSettings) -> Log<D> {
    run(Log::create(
        disk.clone(),
        Arc::from(data.join("topic-0")),
        Arc::new(settings.clone()),
        TopicId(7),
        Offset(0),
        options(false),
    ))
    .unwrap()
}

pub(super) fn open<D: Disk>(
    disk: &D,
    data: &Path,
    settings: &LogSettings,
    options: OpenOptions,
) -> (Log<D>, OpenReport) {
    run(Log::open(
        disk.clone(),
        Arc::from(data.join("topic-0")),
        Arc::new(settings.clone()),
        options,
    ))
    .unwrap()
}
