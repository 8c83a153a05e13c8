//! One segment of a log: a `.log` with its indexes; and a walk over the batch headers in it.

use std::io;
use std::rc::Rc;

use super::disk::LogFile;
use super::index::{OffsetIndex, SparseIndex, TimeIndex};
use super::names::FileKind;
use super::txn_index::AbortedTxn;
use crate::records::{BATCH_HEADER_SIZE, BatchHeader};

/// What is known of a segment without touching the disk. All of it is about bytes that are written.
///
/// A node has ten or a hundred of them for each log, most of which nobody uses: what only a used one needs is
/// [`Held`].
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) base_offset: i64,
    /// Largest timestamp of a batch, -1 if there is none, and the last offset of that batch.
    pub(super) max_timestamp: i64,
    pub(super) max_timestamp_offset: i64,
    /// When it was last written, in milliseconds; stands in for timestamps where there are none.
    pub(super) last_modified: i64,
    /// Where the first of the transactions begins that a marker here has ended since the log was opened; `i64::MAX`
    /// if there is none.
    pub(super) decides_from: i64,
    /// Largest timestamp of its first batch, once somebody has looked; otherwise [`UNKNOWN`].
    first_timestamp: i64,
    /// Bytes of batches in the `.log`.
    pub(super) size: u32,
    /// Bytes that are known to be on the device.
    pub(super) synced_size: u32,
    /// Entries in the `.index` and in the `.timeindex`.
    pub(super) index_entries: u32,
    pub(super) time_entries: u32,
    /// The cleaning that wrote it anew, 0 for a segment that has grown: with the base offset it tells which files are
    /// meant.
    pub(super) cleaning: u32,
    /// Whether the index files are on the device; asked of closed segments only.
    pub(super) indexes_synced: bool,
    /// It was cut, or found after a crash, and is not on the device yet as it is: neither the end of the `.log` nor
    /// the indexes.
    pub(super) is_cut: bool,
    /// A flush under way puts it there as it was cut when that began.
    pub(super) is_cut_syncing: bool,
    /// Whether a `.txnindex` exists.
    pub(super) has_txn_index: bool,
    /// `None` while that is nothing.
    held: Option<Box<Held<F>>>,
}

/// Which segment is meant. Across an await, the one at a base offset may have become another, in files of the same
/// names: the cleaner has written it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) base_offset: i64,
    cleaning: u32,
}

/// What a segment holds while it is used.
#[derive(Debug)]
pub(super) struct Held<F> {
    /// `None` while closed; see `Log::file_of`.
    pub(super) file: Option<F>,
    pub(super) offset_index: OffsetIndex<F>,
    pub(super) time_index: TimeIndex<F>,
    /// Bytes from the start of the file that are allocated; 0 if unknown or none.
    pub(super) allocated: u32,
    /// Bytes from the start of the file that are filled with zeros as far as nothing is written there; 0 if
    /// none are. Where it is more than the segment's size, the file is longer than its batches.
    pub(super) filled: u32,
    /// While the files of a segment that was written anew get their names: what its `.txnindex` says. Until
    /// then nothing may be opened by name, so the files stay open.
    pub(super) swapped: Option<Rc<[AbortedTxn]>>,
}

impl<F> Held<F> {
    const NOTHING: Self = Self {
        file: None,
        offset_index: SparseIndex::CLOSED,
        time_index: SparseIndex::CLOSED,
        allocated: 0,
        filled: 0,
        swapped: None,
    };

    fn is_nothing(&self) -> bool {
        self.file.is_none()
            && self.offset_index.is_closed()
            && self.time_index.is_closed()
            && self.allocated == 0
            && self.filled == 0
            && self.swapped.is_none()
    }
}

/// A first timestamp that nobody has looked at: none that a batch may have, as all below -1.
const UNKNOWN: i64 = i64::MIN;

impl<F: LogFile> Segment<F> {
    /// An empty one without files.
    pub(super) fn new(base_offset: i64, now: i64) -> Self {
        Self {
            base_offset,
            max_timestamp: -1,
            max_timestamp_offset: -1,
            last_modified: now,
            decides_from: i64::MAX,
            first_timestamp: UNKNOWN,
            size: 0,
            synced_size: 0,
            index_entries: 0,
            time_entries: 0,
            cleaning: 0,
            indexes_synced: false,
            is_cut: false,
            is_cut_syncing: false,
            has_txn_index: false,
            held: None,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            base_offset: self.base_offset,
            cleaning: self.cleaning,
        }
    }

    pub(super) fn held(&self) -> &Held<F> {
        match &self.held {
            Some(held) => held,
            None => const { &Held::NOTHING },
        }
    }

    /// To put something into. [`release`](Self::release) comes after what takes something out.
    pub(super) fn held_mut(&mut self) -> &mut Held<F> {
        self.held.get_or_insert_with(|| Box::new(Held::NOTHING))
    }

    /// Gives back the memory of what it held, once it holds nothing.
    pub(super) fn release(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.is_nothing()) {
            self.held = None;
        }
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.is_none()
    }

    pub(super) fn file(&self) -> Option<&F> {
        self.held().file.as_ref()
    }

    pub(super) fn set_file(&mut self, file: F) {
        self.held_mut().file = Some(file);
    }

    pub(super) fn take_file(&mut self) -> Option<F> {
        let file = self.held.as_mut()?.file.take();
        self.release();
        file
    }

    /// `entries` of the tail of one of the indexes have been written.
    pub(super) fn index_written(&mut self, kind: FileKind, entries: usize) {
        match kind {
            FileKind::Index => {
                self.held_mut().offset_index.written(entries);
                self.index_entries += entries as u32;
            }
            _ => {
                self.held_mut().time_index.written(entries);
                self.time_entries += entries as u32;
            }
        }
    }

    pub(super) fn first_timestamp(&self) -> Option<i64> {
        (self.first_timestamp != UNKNOWN).then_some(self.first_timestamp)
    }

    pub(super) fn set_first_timestamp(&mut self, timestamp: i64) {
        self.first_timestamp = timestamp.max(-1);
    }

    /// Whether its index files hold entries that may not be on the device.
    pub(super) fn has_unsynced_entries(&self) -> bool {
        !self.indexes_synced
            && (self.index_entries > 0 || self.time_entries > 0 || self.has_txn_index)
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
        if let Some(held) = &mut self.held {
            held.file = None;
            held.offset_index.file = None;
            held.time_index.file = None;
        }
        self.release();
    }

    /// Whether the file is longer than its batches: it has to be cut before its length is trusted.
    pub(super) fn is_longer(&self) -> bool {
        let is_padded = |file: &F| file.is_padded(u64::from(self.size));
        self.held().filled > self.size || self.file().is_some_and(is_padded)
    }

    /// Its file was cut to the batches that it has, and that is not on the device yet if it `was_longer`.
    pub(super) fn note_cut_to_size(&mut self, was_longer: bool) {
        if was_longer {
            self.is_cut = true;
            self.is_cut_syncing = false;
        }
        if let Some(held) = &mut self.held {
            held.filled = 0;
        }
        self.release();
    }

    /// Whether a closed segment is on the device as it is to be found there: its indexes, and where it ends.
    pub(super) fn is_settled(&self) -> bool {
        self.indexes_synced && !self.is_cut && !self.is_longer()
    }

    pub(super) fn is_fully_synced(&self) -> bool {
        self.synced_size == self.size
            && self.is_settled()
            && self.held().offset_index.tail.is_empty()
            && self.held().time_index.tail.is_empty()
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

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryFile;
    use super::*;

    #[test]
    fn a_segment_that_nobody_uses_takes_eighty_bytes() {
        assert!(size_of::<Segment<MemoryFile>>() <= 80);
        let mut segment = Segment::<MemoryFile>::new(0, 0);
        segment.held_mut().allocated = 1;
        segment.release();
        assert_eq!(segment.held().allocated, 1);
        segment.held_mut().allocated = 0;
        segment.release();
        assert!(segment.holds_nothing());
    }
}
