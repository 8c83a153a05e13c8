//! The log loses records at either end: retention and DeleteRecords at the front, truncation at the back.

use std::path::Path;

use super::disk::{Disk, LogFile};
use super::error::{LogError, Operation};
use super::head::Head;
use super::log::{Abandoned, Log};
use super::names::FileKind;
use super::segment::{Segment, Step};
use super::state::State;
use crate::base::{Offset, Timestamp};

/// Every file that a segment may have. The `.log` goes first: what is left of the others after a crash is
/// recognised by its absence.
pub(super) const FILES: [FileKind; 5] = [
    FileKind::Log,
    FileKind::Index,
    FileKind::TimeIndex,
    FileKind::TxnIndex,
    FileKind::Snapshot,
];

/// What [`Log::delete_old_segments`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    pub segments: usize,
    pub bytes: u64,
    /// The log start offset moved: its checkpoint should be written.
    pub log_start_moved: bool,
}

/// Leave to cut a log: while it lives, what is kept of the log for the next start is at most where the log is going to
/// end. Dropped without a cut, it takes nothing with it.
#[derive(Debug)]
#[must_use = "the log is cut with it"]
pub struct Lowered<'a, D: Disk> {
    log: &'a Log<D>,
    to: Offset,
    /// Where a batch begins at or before `to`, or the log is emptied.
    kept: i64,
}

impl<D: Disk> Drop for Lowered<'_, D> {
    fn drop(&mut self) {
        let state = &mut *self.log.state.borrow_mut();
        if state.failed.is_some() {
            // It may be cut by half, and nobody knows where.
            state.recovery_point = state.recovery_point.min(self.kept);
        }
        state.limit(|limits| {
            if let Some(at) = limits.cuts.iter().position(|kept| *kept == self.kept) {
                limits.cuts.swap_remove(at);
            }
        });
    }
}

impl<D: Disk> Log<D> {
    /// The first of three steps that cut the log to end, or to begin anew, at `to`:
    /// 1. This. From now on [`recovery_checkpoint`](Self::recovery_checkpoint) and [`cleaned_to`](Self::cleaned_to) are
    ///    at most what the cut will leave, whatever is flushed meanwhile.
    /// 2. The caller puts checkpoints with these values on the device, begun after this. The next start trusts what lies
    ///    below the recovery point: with the old one it would trust what a power cut leaves of a half of the cut, or of
    ///    what is written anew there.
    /// 3. [`truncate_to`](Self::truncate_to) or
    ///    [`truncate_fully_and_start_at`](Self::truncate_fully_and_start_at).
    ///
    /// Where the log then begins lower than it did, the checkpoint of log start offsets is to be written before anything
    /// is appended: the next start would take what is appended for deleted.
    pub fn lower_recovery_point(&self, to: Offset) -> Lowered<'_, D> {
        let mut state = self.state.borrow_mut();
        // A batch may lie across, and goes as a whole. None lies across the beginning of a segment.
        let base_offset = state.segments[state.segment_index(to.0)].base_offset;
        let kept = base_offset.min(to.0);
        state.limit(|limits| limits.cuts.push(kept));
        Lowered {
            log: self,
            to,
            kept,
        }
    }

    /// Raises the log start offset: everything below is gone for readers at once (KIP-107). Whole segments
    /// below it are removed by the next [`delete_old_segments`](Self::delete_old_segments).
    ///
    /// Returns the log start offset, which never moves back. `OffsetOutOfRange` above `high_watermark`.
    /// The new value survives a crash once the caller has written the checkpoint of log start offsets. As in Kafka
    /// nobody waits for that: it is written every `log.flush.start.offset.checkpoint.interval.ms` and at a clean
    /// stop, and a crash before may bring back records whose deletion was acknowledged. Nothing in the log relies
    /// on their being gone until then.
    pub fn delete_records(
        &self,
        before: Offset,
        high_watermark: Offset,
    ) -> Result<Offset, LogError> {
        let mut state = self.state.borrow_mut();
        state.check()?;
        if before > high_watermark || before.0 < 0 {
            return Err(LogError::OffsetOutOfRange {
                offset: before,
                log_start_offset: Offset(state.log_start_offset),
                log_end_offset: Offset(state.log_end_offset),
            });
        }
        if before.0 > state.log_start_offset {
            raise_log_start(&mut state, before.0);
        }
        Ok(Offset(state.log_start_offset))
    }

    /// Removes the oldest segments as far as retention says, and those below the log start offset.
    ///
    /// As in Kafka: only whole segments below `high_watermark`; by `retention.ms` when a segment's largest
    /// timestamp is older; by `retention.bytes` while the rest still reaches it; -1 is no limit. When all
    /// has expired the active segment is closed and goes too. Without the policy `delete` everything above
    /// the log start offset stays.
    pub async fn delete_old_segments(
        &self,
        now: Timestamp,
        high_watermark: Offset,
    ) -> Result<Deleted, LogError> {
        self.drop_next_if_idle(now).await;
        let _segments = self.segments_gate.enter().await;
        let (named, is_dirty) = {
            let state = self.state.borrow();
            state.check()?;
            if self.count_expired(&state, now, high_watermark) == 0 {
                return Ok(Deleted::default());
            }
            (state.segments.len(), state.dir_dirty || state.dir_syncing)
        };
        if is_dirty {
            // A power cut must not take the name of what comes after them together with theirs: the log would
            // begin anew, at offsets that are taken. Appends go on.
            let dir = self.dir();
            self.sync_dir(&dir).await?;
        }
        // Held no longer than it takes to decide: while files are removed, appends go on.
        let gate = self.gate.enter().await;
        let (count, all) = {
            let state = self.state.borrow();
            state.check()?;
            let count = self.count_expired(&state, now, high_watermark);
            (count, count == state.segments.len())
        };
        if !all {
            drop(gate);
            return self.remove_front(count.min(named - 1)).await;
        }
        if self.staged_end_offset() != self.log_end_offset() {
            drop(gate);
            // The next segment begins where the staged batches have not been placed: another time.
            return self.remove_front(named.min(count) - 1).await;
        }
        self.roll_active(now).await?;
        drop(gate);
        let dir = self.dir();
        self.sync_dir(&dir).await?;
        self.remove_front(count).await
    }

    /// How many of the oldest segments are to go.
    fn count_expired(
        &self,
        state: &State<D::File>,
        now: Timestamp,
        high_watermark: Offset,
    ) -> usize {
        let settings = self.settings();
        let mut count = by_log_start(state, high_watermark);
        if settings.cleanup_policy.delete {
            count = count
                .max(by_size(state, settings.retention_bytes, high_watermark))
                .max(by_time(state, settings.retention_ms, now, high_watermark));
        }
        count
    }

    /// Removes the first `count` segments, of which the active one is none. The gate of segments is held.
    async fn remove_front(&self, count: usize) -> Result<Deleted, LogError> {
        let (removed, is_unsynced, log_start_moved) = {
            let mut state = self.state.borrow_mut();
            if count == 0 {
                return Ok(Deleted::default());
            }
            assert!(count < state.segments.len());
            let removed: Vec<Segment<D::File>> = state.segments.drain(..count).collect();
            let is_unsynced = removed.iter().any(|s| s.synced_size < s.size);
            state.unsynced_removals = state.unsynced_removals.wrapping_add(is_unsynced.into());
            state.generation += 1;
            state.dir_dirty = true;
            let first = state.segments[0].base_offset;
            let moved = first > state.log_start_offset;
            if moved {
                raise_log_start(&mut state, first);
            }
            (removed, is_unsynced, moved)
        };
        let mut deleted = Deleted {
            segments: removed.len(),
            bytes: 0,
            log_start_moved,
        };
        // Who flushes waits for the end.
        let abandoned = Abandoned { log: self };
        // Oldest first, so that a crash leaves a log without a hole.
        for segment in removed {
            deleted.bytes += u64::from(segment.size);
            self.remove_segment(segment).await?;
        }
        std::mem::forget(abandoned);
        // A flush beside it may have come before them.
        let mut state = self.state.borrow_mut();
        state.dir_dirty = true;
        state.unsynced_removals = state.unsynced_removals.wrapping_add(is_unsynced.into());
        Ok(deleted)
    }

    async fn remove_segment(&self, mut segment: Segment<D::File>) -> Result<(), LogError> {
        let file = segment.take_file();
        let paths = FILES.map(|kind| self.path(segment.base_offset, kind));
        drop(segment);
        // Readers under way hold the file open; otherwise its blocks are freed with its name, as nobody else has it
        // open.
        self.disk.discard(file.into_iter().collect()).await;
        let removed = self.disk.remove_files(paths.to_vec()).await;
        removed.map_err(|error| self.fail(Operation::Remove, &paths[0], error))
    }

    /// Cuts the log to end at the offset that the recovery point was
    /// [lowered](Self::lower_recovery_point) for, a batch boundary; inside a batch, the whole batch goes. What is staged
    /// is dropped. The checkpoints have to be on the device.
    ///
    /// A log that begins behind the offset is emptied and starts there. Who reads meanwhile waits for the end. One that
    /// is dropped half-way takes the log offline.
    pub async fn truncate_to(
        &self,
        lowered: Lowered<'_, D>,
        now: Timestamp,
    ) -> Result<(), LogError> {
        assert!(std::ptr::eq(lowered.log, self));
        let offset = lowered.to;
        let _segments = self.segments_gate.enter().await;
        let _prepare = self.prepare_gate.enter().await;
        let _flush = self.flush_gate.enter().await;
        let _gate = self.gate.enter().await;
        // Not before: retention may have been ahead.
        let first = {
            let state = self.state.borrow();
            state.check()?;
            state.segments[0].base_offset
        };
        let abandoned = Abandoned { log: self };
        let cut = match offset.0 < first {
            true => self.empty(offset, now).await,
            false => self.cut(offset, now).await,
        };
        std::mem::forget(abandoned);
        cut.map_err(|error| self.half_cut(error))
    }

    /// What the memory says is not what the files hold.
    fn half_cut(&self, error: LogError) -> LogError {
        let error = match error {
            LogError::Offline(_) => return error,
            LogError::Io(failure) => {
                let error = std::io::Error::new(failure.error.kind(), failure.error.to_string());
                return self.fail(failure.operation, Path::new(&*failure.path), error);
            }
            error => std::io::Error::other(error.to_string()),
        };
        self.fail(Operation::Truncate, &self.dir(), error)
    }

    /// Cuts a log that begins below `offset`. All gates are held.
    async fn cut(&self, offset: Offset, now: Timestamp) -> Result<(), LogError> {
        {
            let mut state = self.state.borrow_mut();
            if offset.0 >= state.log_end_offset {
                // Only what is not written goes, and it never counted.
                let is_staged = state.head.size != u64::from(state.active().size)
                    || state.head.base_offset != state.active().base_offset;
                if !is_staged {
                    return Ok(());
                }
            }
            let end = state.log_end_offset.min(offset.0);
            state.is_cutting = true;
            state.log_end_offset = end;
            state.log_start_offset = state.log_start_offset.min(end);
            state.recovery_point = state.recovery_point.min(end);
            state.cleaned_to = state.cleaned_to.map(|at| at.min(end));
            state.forget_positions();
            state.epochs_dirty |= state.epochs.truncate_from_end(Offset(end));
        }
        let end = self.log_end_offset().0;
        // Later segments go, the newest first. One that begins at the end stays, as in Kafka, with the snapshot of producers
        // there: nothing else tells of what the cleaner has taken before it.
        let mut removed = 0;
        loop {
            let last = {
                let mut state = self.state.borrow_mut();
                let is_behind = state.active().base_offset > end && state.segments.len() > 1;
                if !is_behind {
                    break;
                }
                state.dir_dirty = true;
                state.segments.pop_back()
            };
            if let Some(segment) = last {
                self.remove_segment(segment).await?;
                removed += 1;
            }
        }
        if removed > 0 {
            // A power cut must not bring them back behind a segment that is cut: the log would have a hole, and
            // the recovery point may lie behind it.
            let dir = self.dir();
            self.sync_dir(&dir).await?;
        }
        let (base_offset, size, is_longer) = {
            let state = self.state.borrow();
            let active = state.active();
            (active.base_offset, active.size, active.is_longer())
        };
        let (position, end) = self.last_batch_below(base_offset, size).await?;
        if position < u64::from(size) || is_longer {
            let path = self.path(base_offset, FileKind::Log);
            let file = self.file_of(base_offset).await?;
            if let Err(error) = file.truncate(position).await {
                return Err(self.fail(Operation::Truncate, &path, error));
            }
            // What comes next goes where the old batches were: a torn write must not leave the rest of one of them behind
            // a new leader epoch, which its CRC is not of.
            if let Err(error) = file.sync_data().await {
                return Err(self.fail(Operation::Sync, &path, error));
            }
        }
        self.state.borrow_mut().log_end_offset = end;
        self.rebuild_active(now).await?;
        self.write_epochs().await
    }

    /// Where the last batch ends that lies whole below the log end offset: position and offset.
    async fn last_batch_below(&self, base_offset: i64, size: u32) -> Result<(u64, i64), LogError> {
        let limit = self.log_end_offset();
        let mut walk = self.walk(base_offset, 0, size).await?;
        let (mut position, mut end) = (0, base_offset);
        while let Step::Batch {
            position: at,
            header,
        } = self.step(&mut walk, base_offset).await?
        {
            if header.next_offset() > limit {
                break;
            }
            position = at + header.size_in_bytes() as u64;
            end = header.next_offset().0;
        }
        Ok((position, end))
    }

    /// Empties the log; it goes on at the offset that the recovery point was [lowered](Self::lower_recovery_point) for.
    /// What is staged is dropped, and what was there does not come back in a power cut. The checkpoints have to be on the
    /// device.
    pub async fn truncate_fully_and_start_at(
        &self,
        lowered: Lowered<'_, D>,
        now: Timestamp,
    ) -> Result<(), LogError> {
        assert!(std::ptr::eq(lowered.log, self));
        let offset = lowered.to;
        let _segments = self.segments_gate.enter().await;
        let _prepare = self.prepare_gate.enter().await;
        let _flush = self.flush_gate.enter().await;
        let _gate = self.gate.enter().await;
        self.state.borrow().check()?;
        let abandoned = Abandoned { log: self };
        let emptied = self.empty(offset, now).await;
        std::mem::forget(abandoned);
        emptied.map_err(|error| self.half_cut(error))
    }

    /// Empties the log, which goes on at `offset`. All gates are held.
    async fn empty(&self, offset: Offset, now: Timestamp) -> Result<(), LogError> {
        let removed: Vec<Segment<D::File>> = {
            let mut state = self.state.borrow_mut();
            state.log_start_offset = offset.0;
            state.log_end_offset = offset.0;
            state.recovery_point = offset.0;
            state.cleaned_to = None;
            state.producers.truncate_fully_and_start_at(offset);
            state.epochs.clear();
            state.epochs_dirty = true;
            state.snapshots.clear();
            state.forget_positions();
            state.head = Head::new(offset.0, now.0);
            state.dir_dirty = true;
            let removed = state.segments.drain(..).collect();
            state.segments.push_back(Segment::new(offset.0, now.0));
            removed
        };
        // Oldest first, so that a crash leaves what retention might: the cleaner has taken records, and batches of producers,
        // because of later ones.
        for segment in removed {
            self.remove_segment(segment).await?;
        }
        // A stop leaves one where no segment begins.
        self.remove_snapshots(now).await?;
        {
            // Where it has the name of one that is gone, a reader may have opened that, and left it here.
            let mut state = self.state.borrow_mut();
            state.generation += 1;
            state.active_mut().close_files();
        }
        self.open_active().await?;
        // A power cut must not bring back what was there: its leader epochs are forgotten.
        let dir = self.dir();
        self.sync_dir(&dir).await?;
        self.write_epochs().await
    }
}

fn raise_log_start<F: LogFile>(state: &mut State<F>, offset: i64) {
    state.log_start_offset = offset;
    state.epochs_dirty |= state.epochs.truncate_from_start(Offset(offset));
    state
        .producers
        .on_log_start_offset_incremented(Offset(offset));
}

/// How many of the oldest segments `goes` says go, of those that lie whole below the high watermark. An
/// empty active segment never goes.
fn count_while<F: LogFile>(
    state: &State<F>,
    high_watermark: Offset,
    mut goes: impl FnMut(&Segment<F>, Option<i64>) -> bool,
) -> usize {
    let mut count = 0;
    for (i, segment) in state.segments.iter().enumerate() {
        let next = state.segments.get(i + 1).map(|next| next.base_offset);
        let end = next.unwrap_or(state.log_end_offset);
        let is_empty_last = next.is_none() && segment.size == 0;
        if high_watermark.0 < end || is_empty_last || !goes(segment, next) {
            break;
        }
        count += 1;
    }
    count
}

fn by_log_start<F: LogFile>(state: &State<F>, high_watermark: Offset) -> usize {
    let start = state.log_start_offset;
    count_while(state, high_watermark, |_, next| {
        next.is_some_and(|next| next <= start)
    })
}

fn by_time<F: LogFile>(
    state: &State<F>,
    retention_ms: i64,
    now: Timestamp,
    high_watermark: Offset,
) -> usize {
    if retention_ms < 0 {
        return 0;
    }
    count_while(state, high_watermark, |segment, _| {
        now.0.saturating_sub(segment.largest_timestamp()) > retention_ms
    })
}

fn by_size<F: LogFile>(state: &State<F>, retention_bytes: i64, high_watermark: Offset) -> usize {
    let Ok(limit) = u64::try_from(retention_bytes) else {
        return 0;
    };
    let size: u64 = state.segments.iter().map(|s| u64::from(s.size)).sum();
    let Some(mut excess) = size.checked_sub(limit) else {
        return 0;
    };
    count_while(state, high_watermark, |segment, _| {
        match excess.checked_sub(u64::from(segment.size)) {
            Some(left) => {
                excess = left;
                true
            }
            None => false,
        }
    })
}
