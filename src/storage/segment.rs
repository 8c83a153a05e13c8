//! One segment of a log: a `.log` with its indexes; and a walk over the batch headers in it.

use std::io;
use std::rc::Rc;

use super::disk::LogFile;
use super::index::{OffsetIndex, SparseIndex, TimeIndex};
use super::txn_index::AbortedTxn;
use crate::records::{BATCH_HEADER_SIZE, BatchHeader};

/// What is known of a segment without touching the disk. All of it is about bytes that are written.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) base_offset: i64,
    /// Bytes of batches in the `.log`.
    pub(super) size: u32,
    /// `None` while closed; see `Log::file_of`.
    pub(super) file: Option<F>,
    pub(super) offset_index: OffsetIndex<F>,
    pub(super) time_index: TimeIndex<F>,
    /// Largest timestamp of a batch, -1 if there is none, and the last offset of that batch.
    pub(super) max_timestamp: i64,
    pub(super) max_timestamp_offset: i64,
    /// When it was last written, in milliseconds; stands in for timestamps where there are none.
    pub(super) last_modified: i64,
    /// Bytes that are known to be on the device.
    pub(super) synced_size: u32,
    /// Whether the index files are; asked of closed segments only.
    pub(super) indexes_synced: bool,
    /// It was cut, or found after a crash, and is not on the device yet as it is: neither the end of the `.log` nor
    /// the indexes.
    pub(super) is_cut: bool,
    /// Bytes from the start of the file that are allocated; 0 if unknown or none.
    pub(super) allocated: u32,
    /// Bytes from the start of the file that are filled with zeros as far as nothing is written there; 0 if
    /// none are. Where it is more than `size`, the file is longer than its batches.
    pub(super) filled: u32,
    /// Whether a `.txnindex` exists.
    pub(super) has_txn_index: bool,
    /// Where the first of the transactions begins that a marker here has ended since the log was opened; `i64::MAX`
    /// if there is none.
    pub(super) decides_from: i64,
    /// Largest timestamp of its first batch, once somebody has looked.
    pub(super) first_timestamp: Option<i64>,
    /// While the files of a segment that was written anew get their names: what its `.txnindex` says. Until
    /// then nothing may be opened by name, so the files stay open.
    pub(super) swapped: Option<Rc<[AbortedTxn]>>,
}

impl<F: LogFile> Segment<F> {
    /// An empty one without files.
    pub(super) fn new(base_offset: i64, now: i64) -> Self {
        Self {
            base_offset,
            size: 0,
            file: None,
            offset_index: SparseIndex::closed(0),
            time_index: SparseIndex::closed(0),
            max_timestamp: -1,
            max_timestamp_offset: -1,
            last_modified: now,
            synced_size: 0,
            indexes_synced: false,
            is_cut: false,
            allocated: 0,
            filled: 0,
            has_txn_index: false,
            decides_from: i64::MAX,
            first_timestamp: None,
            swapped: None,
        }
    }

    /// By which retention judges the age.
    pub(super) fn largest_timestamp(&self) -> i64 {
        if self.max_timestamp >= 0 {
            self.max_timestamp
        } else {
            self.last_modified
        }
    }

    /// Closes the files of a segment that is only read now and then. The indexes must be written.
    pub(super) fn close_files(&mut self) {
        self.file = None;
        self.offset_index.file = None;
        self.time_index.file = None;
    }

    /// Whether the file is longer than its batches: it has to be cut before its length is trusted.
    pub(super) fn is_longer(&self) -> bool {
        let is_padded = |file: &F| file.is_padded(u64::from(self.size));
        self.filled > self.size || self.file.as_ref().is_some_and(is_padded)
    }

    /// Its file was cut to the batches that it has, and that is not on the device yet if it `was_longer`.
    pub(super) fn note_cut_to_size(&mut self, was_longer: bool) {
        self.is_cut |= was_longer;
        self.filled = 0;
    }

    /// Whether a closed segment is on the device as it is to be found there: its indexes, and where it ends.
    pub(super) fn is_settled(&self) -> bool {
        self.indexes_synced && !self.is_cut && !self.is_longer()
    }

    pub(super) fn is_fully_synced(&self) -> bool {
        self.synced_size == self.size
            && self.is_settled()
            && self.offset_index.tail.is_empty()
            && self.time_index.tail.is_empty()
    }
}

/// Bytes read at once while walking over headers.
const WALK_BYTES: usize = 4096;

/// Walks over the batches of a `.log` by their headers, from one position to another.
pub(super) struct HeaderWalk<F> {
    file: F,
    /// Of the next batch.
    position: u64,
    /// Bytes from the start of the file that may be looked at.
    end: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

/// What the walk came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A batch; all of it lies below the end of the walk.
    Batch { position: u64, header: BatchHeader },
    /// The end, exactly between two batches.
    End,
    /// No whole batch begins at this position.
    Bad { position: u64 },
}

impl<F: LogFile> HeaderWalk<F> {
    pub(super) fn new(file: F, position: u64, end: u64) -> Self {
        Self {
            file,
            position,
            end,
            buffer: Vec::new(),
            buffer_at: 0,
        }
    }

    /// Goes on with the batch at `position`.
    pub(super) fn rewind(&mut self, position: u64) {
        self.position = position;
    }

    pub(super) async fn next(&mut self) -> io::Result<Step> {
        let position = self.position;
        if position >= self.end {
            return Ok(Step::End);
        }
        let left = self.end - position;
        if left < BATCH_HEADER_SIZE as u64 {
            return Ok(Step::Bad { position });
        }
        let in_buffer = position >= self.buffer_at
            && position + BATCH_HEADER_SIZE as u64 <= self.buffer_at + self.buffer.len() as u64;
        if !in_buffer {
            let want = usize::try_from(left).unwrap_or(WALK_BYTES).min(WALK_BYTES);
            self.buffer.resize(want, 0);
            self.buffer_at = position;
            let read = self.file.read_at(position, &mut self.buffer).await?;
            self.buffer.truncate(read);
        }
        let start = (position - self.buffer_at) as usize;
        let header = self
            .buffer
            .get(start..)
            .and_then(|bytes| BatchHeader::parse(bytes).ok());
        match header {
            Some(header) if header.size_in_bytes() as u64 <= left => {
                self.position = position + header.size_in_bytes() as u64;
                Ok(Step::Batch { position, header })
            }
            _ => Ok(Step::Bad { position }),
        }
    }
}
