//! A segment that is being written anew, in files that do not count yet.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::Pace;
use crate::base::{Offset, Timestamp};
use crate::records::BatchHeader;
use crate::storage::disk::{Disk, LogFile, OpenMode};
use crate::storage::head::Head;
use crate::storage::log::Log;
use crate::storage::names::{FileKind, cleaned_file_name};
use crate::storage::segment::Segment;
use crate::storage::txn_index::AbortedTxn;

/// Bytes of one write: a quarter of a millisecond into fresh page cache.
const WRITE_BYTES: usize = 64 * 1024;
/// Bytes of an index that gather before they are written.
const INDEX_BYTES: usize = 16 * 1024;

/// The kinds of files that a new segment may have, the `.log` last: see the swap.
pub(super) const KINDS: [FileKind; 4] = [
    FileKind::Index,
    FileKind::TimeIndex,
    FileKind::TxnIndex,
    FileKind::Log,
];

/// A file that only grows.
struct Out<F> {
    file: F,
    written: u64,
    buffer: Vec<u8>,
}

impl<F: LogFile> Out<F> {
    fn new(file: F) -> Self {
        Self {
            file,
            written: 0,
            buffer: Vec::new(),
        }
    }

    async fn flush(&mut self, pace: &impl Pace) -> io::Result<()> {
        let mut left = Bytes::from(std::mem::take(&mut self.buffer));
        while !left.is_empty() {
            let part = left.split_to(left.len().min(WRITE_BYTES));
            let len = part.len();
            let written = self.file.write_at(self.written, vec![part]).await?;
            if written < len as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written += written;
            pace.moved(len).await;
        }
        Ok(())
    }

    async fn finish(&mut self, pace: &impl Pace) -> io::Result<()> {
        self.flush(pace).await?;
        if self.file.is_padded(self.written) {
            self.file.truncate(self.written).await?;
        }
        self.file.sync_data().await
    }
}

pub(super) struct Staging<F> {
    base_offset: i64,
    pub(super) generation: u64,
    interval: u32,
    head: Head,
    log: Out<F>,
    index: Out<F>,
    time_index: Out<F>,
    pub(super) transactions: Vec<AbortedTxn>,
    /// A batch of a source is not here, or not as it was.
    pub(super) changed: bool,
}

impl<F: LogFile> Staging<F> {
    /// Makes the files.
    pub(super) async fn create<D: Disk<File = F>>(
        log: &Log<D>,
        base_offset: i64,
        now: Timestamp,
    ) -> io::Result<Self> {
        let generation = {
            let mut state = log.state.borrow_mut();
            state.cleanings += 1;
            state.cleanings
        };
        let open = async |kind| {
            let path = path(log, base_offset, kind, generation);
            let file = log.open_file(&path, kind, OpenMode::Truncate).await;
            file.map(Out::new)
        };
        Ok(Self {
            base_offset,
            generation,
            interval: log.settings().index_interval_bytes,
            head: Head::new(base_offset, now.0),
            log: open(FileKind::Log).await?,
            index: open(FileKind::Index).await?,
            time_index: open(FileKind::TimeIndex).await?,
            transactions: Vec::new(),
            changed: false,
        })
    }

    /// Appends a batch.
    pub(super) async fn put(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        pace: &impl Pace,
    ) -> io::Result<()> {
        let size = batch.len() as u64;
        // Records can grow when they are compressed again.
        if self.head.size + size > u64::from(i32::MAX.unsigned_abs()) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (offset, time) = self.head.add(
            self.interval,
            size,
            header.last_offset().0,
            header.max_timestamp.0,
        );
        if let Some(entry) = offset {
            self.index.buffer.extend_from_slice(&entry.encode());
        }
        if let Some(entry) = time {
            self.time_index.buffer.extend_from_slice(&entry.encode());
        }
        self.log.buffer.extend_from_slice(batch);
        if self.log.buffer.len() >= WRITE_BYTES {
            self.log.flush(pace).await?;
        }
        for index in [&mut self.index, &mut self.time_index] {
            if index.buffer.len() >= INDEX_BYTES {
                index.flush(pace).await?;
            }
        }
        Ok(())
    }

    /// Writes and syncs what is left. Returns the segment, with its files open.
    pub(super) async fn finish<D: Disk<File = F>>(
        &mut self,
        log: &Log<D>,
        pace: &impl Pace,
    ) -> io::Result<Segment<F>> {
        if let Some(entry) = self.head.time_entry() {
            self.time_index.buffer.extend_from_slice(&entry.encode());
        }
        for out in [&mut self.log, &mut self.index, &mut self.time_index] {
            out.finish(pace).await?;
        }
        if !self.transactions.is_empty() {
            let path = path(log, self.base_offset, FileKind::TxnIndex, self.generation);
            let mut out = Out::new(log.disk.open(&path, OpenMode::Truncate).await?);
            for entry in &self.transactions {
                out.buffer.extend_from_slice(&entry.encode());
            }
            out.finish(pace).await?;
        }
        let mut segment = Segment::new(self.base_offset, self.head.created);
        // Those of one log that wrap around are far apart.
        segment.cleaning = self.generation as u32;
        // Checked by `put`.
        segment.size = u32::try_from(self.head.size).unwrap_or(u32::MAX);
        segment.synced_size = segment.size;
        segment.indexes_synced = true;
        segment.max_timestamp = self.head.max_timestamp;
        segment.max_timestamp_offset = self.head.max_timestamp_offset;
        segment.has_txn_index = !self.transactions.is_empty();
        let entries = |out: &Out<F>, size: u64| u32::try_from(out.written / size).unwrap_or(0);
        segment.index_entries = entries(&self.index, 8);
        segment.time_entries = entries(&self.time_index, 12);
        let held = segment.held_mut();
        held.file = Some(self.log.file.clone());
        held.offset_index.file = Some(self.index.file.clone());
        held.time_index.file = Some(self.time_index.file.clone());
        Ok(segment)
    }

    /// Bytes of batches so far.
    pub(super) fn size(&self) -> u64 {
        self.head.size
    }

    /// Removes the files. What cannot be removed goes when the log is opened.
    pub(super) async fn remove<D: Disk<File = F>>(self, log: &Log<D>) {
        for kind in KINDS {
            let path = path(log, self.base_offset, kind, self.generation);
            let _ = log.disk.remove_file(&path).await;
        }
        let files = [self.log.file, self.index.file, self.time_index.file];
        log.disk.discard(files.into()).await;
    }
}

/// The path of a staging file.
pub(super) fn path<D: Disk>(
    log: &Log<D>,
    base_offset: i64,
    kind: FileKind,
    generation: u64,
) -> PathBuf {
    let name = cleaned_file_name(Offset(base_offset), kind, generation);
    log.dir().join(name)
}
