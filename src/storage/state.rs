//! What a log has in memory: its segments, what is staged, and what was found out on the way.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::allocation::{AllocationBudget, Reservation};
use super::disk::LogFile;
use super::epoch_cache::EpochCache;
use super::error::{Failure, LogError};
use super::head::Head;
use super::index::{OffsetEntry, TAIL_ENTRIES, TimeEntry};
use super::next_segment::Next;
use super::producer_state::ProducerState;
use super::segment::{Identity, Segment};
use super::txn_index::AbortedTxn;
use crate::base::Offset;

/// Readers that are remembered with their positions.
pub(super) const READERS: usize = 8;

/// A batch between the two steps.
#[derive(Debug)]
pub(super) struct StagedBatch {
    pub(super) bytes: Bytes,
    pub(super) next_offset: i64,
    pub(super) max_timestamp: i64,
    pub(super) index: Option<OffsetEntry>,
    pub(super) time: Option<TimeEntry>,
    pub(super) aborted: Option<AbortedTxn>,
    /// It ends the transaction that began there.
    pub(super) decides_from: Option<i64>,
    /// Before it, a new segment begins.
    pub(super) roll: Option<Box<RollPlan>>,
}

/// A new segment, decided when its first batch was staged.
#[derive(Debug)]
pub(super) struct RollPlan {
    pub(super) base_offset: i64,
    /// The last entry of the time index of the segment that ends.
    pub(super) last_time: Option<TimeEntry>,
    /// State of the producers at `base_offset`.
    pub(super) snapshot: Option<(Offset, Vec<u8>)>,
}

/// A batch boundary whose position is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) offset: i64,
    pub(super) base_offset: i64,
    pub(super) position: u32,
}

/// At most so much is kept for the next start. In a box of its own, as there is hardly ever anything to limit.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Until the first flush: where the next start has to begin all the same, since indexes and leader epochs that
    /// were made anew are not on the device.
    pub(super) first_flush: Option<i64>,
    /// What cuts that are to come will leave: see [`Lowered`](super::Lowered).
    pub(super) cuts: Vec<i64>,
}

#[derive(Debug)]
pub(super) struct State<F> {
    /// Never empty; the last is the active one.
    pub(super) segments: VecDeque<Segment<F>>,
    pub(super) log_start_offset: i64,
    pub(super) log_end_offset: i64,
    pub(super) recovery_point: i64,
    pub(super) limits: Option<Box<Limits>>,
    /// Where the last pass of the cleaner ended.
    pub(super) cleaned_to: Option<i64>,
    /// Counts the segments that were written anew.
    pub(super) cleanings: u64,
    pub(super) producers: ProducerState,
    /// `producer.id.expiration.ms`
    pub(super) producer_expiration_ms: i64,
    pub(super) epochs: EpochCache,
    pub(super) head: Head,
    pub(super) staged: VecDeque<StagedBatch>,
    pub(super) staged_end_offset: i64,
    /// Ends of recent writes, ascending.
    pub(super) marks: VecDeque<Mark>,
    /// End of the last flush.
    pub(super) flushed: Option<Mark>,
    /// Where recent readers will go on.
    pub(super) readers: Vec<Mark>,
    pub(super) next_reader: u8,
    /// Counts removals of segments and bytes, at either end, and their replacement: what was looked up before
    /// one is void.
    pub(super) generation: u64,
    /// The last of them is that the log was deleted.
    pub(super) is_deleted: bool,
    /// Counts those at the end, and new names of the folder.
    pub(super) truncations: u64,
    /// The log is being cut: what is known of its last segment is not what the files hold.
    pub(super) is_cutting: bool,
    /// The folder gets another name: where its files are is not what is known.
    pub(super) is_renaming: bool,
    /// Names in the folder are not yet on the device.
    pub(super) dir_dirty: bool,
    /// A flush under way is going to sync them.
    pub(super) dir_syncing: bool,
    /// Counts beginnings and ends of removals of segments that were not on the device; odd while one is under way.
    pub(super) unsynced_removals: u32,
    /// The folder's own name, and `partition.metadata`, are not either.
    pub(super) created_dirty: bool,
    pub(super) epochs_dirty: bool,
    pub(super) snapshots: Vec<(Offset, Vec<u8>)>,
    pub(super) reservation: Reservation,
    pub(super) next: Next<F>,
    /// Room is being filled with zeros from here on in the active segment: a write beyond waits.
    pub(super) filling_from: Option<u64>,
    /// A write to the active segment is under way up to here: zeros are filled beyond.
    pub(super) writing_to: Option<u64>,
    /// Bytes that a flush puts on the device, averaged over the latest.
    pub(super) flush_bytes: u32,
    /// Why the log is offline.
    pub(super) failed: Option<Failure>,
    pub(super) closed: bool,
}

impl<F: LogFile> State<F> {
    pub(super) fn check(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(failure) => Err(LogError::Offline(failure.clone())),
            None if self.closed => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn active(&self) -> &Segment<F> {
        &self.segments[self.segments.len() - 1]
    }

    pub(super) fn active_mut(&mut self) -> &mut Segment<F> {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// The segment that has or would have `offset`; the first one if it lies before all.
    pub(super) fn segment_index(&self, offset: i64) -> usize {
        self.segments
            .partition_point(|segment| segment.base_offset <= offset)
            .saturating_sub(1)
    }

    pub(super) fn segment_mut(&mut self, base_offset: i64) -> Option<&mut Segment<F>> {
        let at = self.segment_index(base_offset);
        self.segments
            .get_mut(at)
            .filter(|segment| segment.base_offset == base_offset)
    }

    /// The segment, if it is there and has not been written anew.
    pub(super) fn segment_of(&mut self, identity: Identity) -> Option<&mut Segment<F>> {
        let segment = self.segment_mut(identity.base_offset);
        segment.filter(|segment| segment.identity() == identity)
    }

    /// Whether entries of the active segment's indexes may be due with what is staged, and their files are
    /// closed.
    pub(super) fn opens_indexes(&self) -> bool {
        let active = self.active().held();
        let (offset, time) = (&active.offset_index, &active.time_index);
        let gathered = offset.tail.len().max(time.tail.len()) + self.staged.len();
        gathered >= TAIL_ENTRIES && (offset.file.is_none() || time.file.is_none())
    }

    /// Segments that begin with what is staged.
    pub(super) fn staged_rolls(&self) -> usize {
        let staged = self.staged.iter();
        staged.filter(|batch| batch.roll.is_some()).count()
    }

    /// Whether a write of `bytes` would meet the zeros that are being written.
    pub(super) fn must_wait_for_fill(&self, bytes: u64) -> bool {
        self.filling_from
            .is_some_and(|from| u64::from(self.active().size) + bytes > from)
    }

    /// Whether a producer snapshot is to be written: see `Log::write_snapshots`.
    pub(super) fn has_due_snapshot(&self) -> bool {
        let mut snapshots = self.snapshots.iter();
        snapshots.any(|(offset, _)| offset.0 <= self.recovery_point)
    }

    /// `offset` as it may be kept for the next start, since the log may be about to be cut.
    pub(super) fn as_lowered(&self, offset: i64) -> i64 {
        let limits = self.limits.as_ref();
        let least = limits.and_then(|limits| limits.cuts.iter().min());
        least.map_or(offset, |least| offset.min(*least))
    }

    /// See [`Limits::first_flush`].
    pub(super) fn first_flush_limit(&self) -> Option<i64> {
        self.limits.as_ref()?.first_flush
    }

    /// Changes the limits.
    pub(super) fn limit(&mut self, change: impl FnOnce(&mut Limits)) {
        let limits = self.limits.get_or_insert_default();
        change(limits);
        if limits.first_flush.is_none() && limits.cuts.is_empty() {
            self.limits = None;
        }
    }

    pub(super) fn end_mark(&self) -> Mark {
        let active = self.active();
        Mark {
            offset: self.log_end_offset,
            base_offset: active.base_offset,
            position: active.size,
        }
    }

    /// Gives back the room of what has passed through, once the log is idle.
    pub(super) fn release_memory(&mut self) {
        if self.staged.is_empty() {
            self.staged = VecDeque::new();
        }
        self.snapshots.shrink_to_fit();
        // Who comes finds the end by the last flush, and anything else by the indexes.
        if self
            .flushed
            .is_some_and(|mark| mark.offset == self.log_end_offset)
        {
            self.marks = VecDeque::new();
        }
        self.readers = Vec::new();
        self.next_reader = 0;
    }

    /// Forgets positions, and what is staged, after the log has been cut.
    pub(super) fn forget_positions(&mut self) {
        self.generation += 1;
        self.truncations += 1;
        self.marks.clear();
        self.readers.clear();
        self.flushed = None;
        self.staged.clear();
        self.staged_end_offset = self.log_end_offset;
    }
}

/// What makes up a [`State`] that was just opened.
pub(super) struct Opened<F> {
    pub(super) segments: VecDeque<Segment<F>>,
    pub(super) log_start_offset: i64,
    pub(super) log_end_offset: i64,
    pub(super) recovery_point: i64,
    pub(super) cleaned_to: Option<i64>,
    pub(super) producers: ProducerState,
    pub(super) producer_expiration_ms: i64,
    pub(super) epochs: EpochCache,
    pub(super) epochs_dirty: bool,
    pub(super) checkpoint_limit: Option<i64>,
    pub(super) head: Head,
    pub(super) budget: Option<Arc<AllocationBudget>>,
}
