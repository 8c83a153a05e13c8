//! What a log does beside reading and appending: begin segments, flush, prepare ahead, stop.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, LogFile, OpenMode};
use super::epoch_cache::LEADER_EPOCH_CHECKPOINT;
use super::error::{Failure, LogError, Operation};
use super::gate::HeldWrites;
use super::log::{Abandoned, Log, plan_roll};
use super::names::{FileKind, PARTITION_METADATA};
use super::segment::{Identity, Segment};
use super::state::{Mark, RollPlan, State};
use crate::base::settings::LogSettings;
use crate::base::{Offset, Timestamp};

/// What is allocated ahead of a segment that has just begun, in bytes.
const MIN_ALLOCATION: u64 = 64 * 1024;
/// Most that is allocated ahead, in bytes.
const MAX_ALLOCATION: u64 = 64 * 1024 * 1024;

/// Bytes to allocate ahead of a segment of `size` bytes: as much again as it has.
fn allocation_step(size: u32) -> u64 {
    u64::from(size)
        .next_power_of_two()
        .clamp(MIN_ALLOCATION, MAX_ALLOCATION)
}

/// Room is filled for flushes of fewer bytes on average: beside its records, a flush that makes the file longer
/// writes a block of the file's metadata, and waits for both. Every byte is written twice for it, the zeros by
/// nobody who is waited for; what is saved is the less, the larger the flushes are.
const FILL_FOR_FLUSHES_BELOW: u32 = 16 * 1024;
/// Most that is filled at once, in bytes. A flush of records that comes meanwhile waits for the zeros and for what
/// the file system then has to write of itself, which takes 0.7 ms for this much; with less, more of them do.
const FILL_BYTES: u64 = 256 * 1024;
/// How much lies filled ahead, in bytes: as much again as there is, within these.
const MIN_FILLED: u64 = 2 * FILL_BYTES;
const MAX_FILLED: u64 = 8 * 1024 * 1024;
/// Room before a fill for what is written while it runs, in bytes.
const FILL_MARGIN: u64 = 64 * 1024;

/// Whether room ahead is to be filled rather than merely allocated: somebody waits for every flush, and
/// flushes are small.
pub(super) fn wants_fills<F: LogFile>(state: &State<F>, settings: &LogSettings) -> bool {
    settings.flush_messages == 1 && state.flush_bytes < FILL_FOR_FLUSHES_BELOW
}

/// From where and how many bytes to fill ahead of the active segment. One piece at a time, so that flushes get
/// their turn.
fn next_fill<F: LogFile>(state: &State<F>, settings: &LogSettings) -> Option<(u64, u64)> {
    let active = state.active();
    let (size, filled) = (u64::from(active.size), u64::from(active.held().filled));
    let size = state.writing_to.map_or(size, |end| end.max(size));
    let limit = u64::from(settings.segment_bytes);
    let ahead = size.next_power_of_two().clamp(MIN_FILLED, MAX_FILLED);
    if active.held().filled == u32::MAX || filled.saturating_sub(size) + FILL_BYTES > ahead {
        return None;
    }
    let from = filled.max(size + FILL_MARGIN.min(limit / 8));
    let len = FILL_BYTES.min(limit.saturating_sub(from));
    (len > 0).then_some((from, len))
}

/// Whether there is room to be made ahead of the active segment.
pub(super) fn wants_room<F: LogFile>(state: &State<F>, settings: &LogSettings) -> bool {
    match wants_fills(state, settings) {
        true => next_fill(state, settings).is_some(),
        false => wants_allocation(state),
    }
}

fn wants_allocation<F: LogFile>(state: &State<F>) -> bool {
    let active = state.active();
    let ahead = u64::from(active.held().allocated.saturating_sub(active.size));
    active.held().allocated != u32::MAX && ahead < allocation_step(active.size) / 4
}

/// A segment that a flush has to put on the device, as it was when the flush began.
struct Unsynced {
    segment: Identity,
    size: u32,
    is_active: bool,
    with_indexes: bool,
    with_txn_index: bool,
}

impl<D: Disk> Log<D> {
    /// Begins a segment. The one before keeps what was allocated behind it until [`prepare`](Self::prepare).
    pub(super) async fn roll(&self, plan: RollPlan, now: Timestamp) -> Result<(), LogError> {
        if let Some(entry) = plan.last_time {
            let mut state = self.state.borrow_mut();
            state
                .active_mut()
                .held_mut()
                .time_index
                .push(entry.encode());
        }
        // Or zeros would follow where the file is cut to what it holds.
        let _fill = self.fill_gate.enter().await;
        self.write_index_tails(1).await?;
        // Nothing of a log lies where its end is: files of these names are left from before a crash, and
        // are replaced or emptied.
        let mut segment = Segment::new(plan.base_offset, now.0);
        let prepared = self.state.borrow_mut().take_next();
        let was_prepared = prepared.is_some();
        let mut reservation = None;
        let [log, index, time_index] = match prepared {
            Some(prepared) => {
                if let Err(error) = self.place_next(plan.base_offset).await {
                    let path = self.path(plan.base_offset, FileKind::Log);
                    return Err(self.fail(Operation::Rename, &path, error));
                }
                let held = segment.held_mut();
                held.allocated = prepared.allocated;
                held.filled = prepared.filled;
                reservation = Some(prepared.reservation);
                prepared.files
            }
            None => [
                self.open_new(plan.base_offset, FileKind::Log).await?,
                self.open_new(plan.base_offset, FileKind::Index).await?,
                self.open_new(plan.base_offset, FileKind::TimeIndex).await?,
            ],
        };
        segment.set_file(log);
        if was_prepared {
            // The log is busy: entries are due soon, and at the next roll at the latest.
            let held = segment.held_mut();
            held.offset_index.file = Some(index);
            held.time_index.file = Some(time_index);
        }
        let mut state = self.state.borrow_mut();
        state.next_done();
        if let Some(reservation) = reservation {
            state.reservation = reservation;
        }
        state.dir_dirty = true;
        state.snapshots.extend(plan.snapshot);
        let ended = state.active_mut();
        ended.held_mut().offset_index.file = None;
        ended.held_mut().time_index.file = None;
        ended.release();
        state.segments.push_back(segment);
        Ok(())
    }

    async fn open_new(&self, base_offset: i64, kind: FileKind) -> Result<D::File, LogError> {
        let path = self.path(base_offset, kind);
        let opened = self.open_file(&path, kind, OpenMode::Truncate).await;
        opened.map_err(|error| self.fail(Operation::Open, &path, error))
    }

    /// Makes everything that is written survive a power cut. Returns the offset below which all does.
    ///
    /// One flush at a time: a second caller waits and then flushes what came meanwhile (group commit).
    /// Writes go on beside it. A sync that fails takes the log offline; one that is dropped half-way
    /// does too, since its failure could not be told any more.
    pub async fn flush(&self) -> Result<Offset, LogError> {
        self.flush_segments(true).await
    }

    /// As [`flush`](Self::flush), for the segments that are closed: to be called in the background after a
    /// roll. What is written goes on to the active segment, which the kernel writes out in its own time.
    pub async fn flush_closed(&self) -> Result<Offset, LogError> {
        self.flush_segments(false).await
    }

    async fn flush_segments(&self, with_active: bool) -> Result<Offset, LogError> {
        loop {
            if let Some(flushed) = self.flush_once(with_active).await? {
                return Ok(flushed);
            }
            // No other gate is held; of a removal under way this is.
            drop(self.segments_gate.enter().await);
        }
    }

    /// `None` if segments that are not on the device were removed meanwhile. A power cut may bring back their names
    /// without their bytes, and the next start goes no further: nothing behind them is safe until the removal is.
    async fn flush_once(&self, with_active: bool) -> Result<Option<Offset>, LogError> {
        let _gate = self.flush_gate.enter().await;
        let removals = self.state.borrow().unsynced_removals;
        if removals % 2 == 1 {
            self.state.borrow().check()?;
            return Ok(None);
        }
        let (mark, segments, bytes, dir_dirty, created_dirty, truncations) = {
            let mut state = self.state.borrow_mut();
            state.check()?;
            let last = state.segments.len() - 1;
            let bytes = state.active().size - state.active().synced_size;
            let segments: Vec<Unsynced> = state
                .segments
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| with_active || *i != last)
                .filter(|(i, s)| {
                    s.synced_size < s.size || s.is_cut || (*i != last && !s.is_settled())
                })
                .map(|(i, s)| {
                    s.is_cut_syncing = s.is_cut;
                    Unsynced {
                        segment: s.identity(),
                        size: s.size,
                        is_active: i == last,
                        with_indexes: i != last || s.is_cut,
                        with_txn_index: i != last && s.has_txn_index,
                    }
                })
                .collect();
            let dir_dirty = std::mem::take(&mut state.dir_dirty);
            state.dir_syncing = dir_dirty;
            let created_dirty = std::mem::take(&mut state.created_dirty);
            let mark = if with_active {
                state.end_mark()
            } else {
                Mark {
                    offset: state.active().base_offset,
                    base_offset: state.active().base_offset,
                    position: 0,
                }
            };
            (
                mark,
                segments,
                bytes,
                dir_dirty,
                created_dirty,
                state.truncations,
            )
        };
        let abandoned = AbandonedSync { log: self };
        let result = self.sync_all(&segments, dir_dirty, created_dirty).await;
        std::mem::forget(abandoned);
        result?;
        let mut state = self.state.borrow_mut();
        state.check()?;
        state.dir_syncing = false;
        if state.truncations != truncations {
            // Cut meanwhile: what was synced says nothing about what came after the cut.
            return Ok(Some(Offset(state.recovery_point)));
        }
        if state.unsynced_removals != removals {
            return Ok(None);
        }
        for synced in segments {
            // One that the cleaner has put into its place was on the device before.
            if let Some(segment) = state.segment_of(synced.segment) {
                segment.synced_size = segment.synced_size.max(synced.size);
                segment.indexes_synced |= !synced.is_active;
                // One that was cut meanwhile is there as it was before.
                if std::mem::take(&mut segment.is_cut_syncing) {
                    segment.is_cut = false;
                }
            }
        }
        if state.limits.is_some() {
            state.limit(|limits| limits.first_flush = None);
        }
        if with_active && bytes > 0 {
            let average = u64::from(state.flush_bytes) * 7 / 8 + u64::from(bytes) / 8;
            state.flush_bytes = u32::try_from(average).unwrap_or(u32::MAX);
        }
        if mark.offset >= state.recovery_point {
            state.recovery_point = mark.offset;
            state.flushed = Some(mark);
        }
        Ok(Some(Offset(state.recovery_point)))
    }

    async fn sync_all(
        &self,
        segments: &[Unsynced],
        dir_dirty: bool,
        created_dirty: bool,
    ) -> Result<(), LogError> {
        // The recovery point must not pass an epoch that is not on the disk.
        self.write_epochs().await?;
        for segment in segments {
            let base_offset = segment.segment.base_offset;
            let kinds: &[FileKind] = match segment.with_indexes {
                false => &[FileKind::Log],
                true => &[FileKind::Log, FileKind::Index, FileKind::TimeIndex],
            };
            let txn_index = segment.with_txn_index.then_some(&FileKind::TxnIndex);
            for kind in kinds.iter().chain(txn_index) {
                let Some(file) = self.file_for_sync(segment.segment, *kind).await? else {
                    continue;
                };
                if *kind == FileKind::Log && !segment.is_active {
                    self.cut_fill(segment.segment, segment.size, &file).await?;
                }
                if let Err(error) = file.sync_data().await {
                    return Err(self.fail(Operation::Sync, &self.path(base_offset, *kind), error));
                }
            }
        }
        let dir = self.dir();
        if created_dirty {
            let path = dir.join(PARTITION_METADATA);
            let synced = write_file_again(&self.disk, &path).await;
            synced.map_err(|error| self.fail(Operation::Sync, &path, error))?;
        }
        if dir_dirty || created_dirty {
            self.sync_dir(&dir).await?;
        }
        if created_dirty && let Some(parent) = dir.parent() {
            self.sync_dir(parent).await?;
        }
        Ok(())
    }

    /// Cuts a closed segment to what it holds. Once it lies below the recovery point its length is trusted.
    async fn cut_fill(&self, segment: Identity, size: u32, file: &D::File) -> Result<(), LogError> {
        let is_longer = {
            let mut state = self.state.borrow_mut();
            state.segment_of(segment).is_some_and(|s| s.is_longer())
        };
        if !is_longer {
            return Ok(());
        }
        self.trim(segment.base_offset, size, file).await?;
        if let Some(segment) = self.state.borrow_mut().segment_of(segment) {
            segment.note_cut_to_size(false);
        }
        Ok(())
    }

    pub(super) async fn sync_dir(&self, dir: &Path) -> Result<(), LogError> {
        match self.disk.sync_dir(dir).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(Operation::Sync, dir, error)),
        }
    }

    /// An open file of a segment; `None` if the segment was removed or written anew meanwhile, which is on the device
    /// before it counts.
    async fn file_for_sync(
        &self,
        identity: Identity,
        kind: FileKind,
    ) -> Result<Option<D::File>, LogError> {
        let open = {
            let mut state = self.state.borrow_mut();
            let Some(segment) = state.segment_of(identity) else {
                return Ok(None);
            };
            match kind {
                FileKind::Index => segment.held().offset_index.file.clone(),
                FileKind::TimeIndex => segment.held().time_index.file.clone(),
                FileKind::Log => segment.file().cloned(),
                // Never kept open.
                FileKind::TxnIndex | FileKind::Snapshot => None,
            }
        };
        if open.is_some() {
            return Ok(open);
        }
        let path = self.path(identity.base_offset, kind);
        let opened = self.open_file(&path, kind, OpenMode::Write).await;
        if self.state.borrow_mut().segment_of(identity).is_none() {
            // The name may be gone, or be that of another file by now.
            return Ok(None);
        }
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) => Err(self.fail(Operation::Open, &path, error)),
        }
    }

    /// Does what would hold up an append if it were done there: allocates disk ahead of a busy segment and
    /// makes the one after it, gives back what is allocated behind closed ones, writes producer snapshots
    /// and epochs. Writes go on beside it.
    ///
    /// To be called in the background when [`Written::prepare`](super::log::Written) says so.
    pub async fn prepare(&self) -> Result<(), LogError> {
        let _gate = self.prepare_gate.enter().await;
        self.state.borrow().check()?;
        self.trim_closed().await?;
        if wants_fills(&self.state.borrow(), &self.settings()) {
            self.fill_ahead().await?;
        } else {
            self.allocate_ahead().await;
        }
        self.write_epochs().await?;
        self.write_snapshots(false).await?;
        let next = self.prepare_next().await;
        next.map_err(|error| LogError::Io(Failure::new(Operation::Open, &self.dir(), error)))
    }

    async fn allocate_ahead(&self) {
        let lengthens = |file: &D::File| file.allocation_lengthens();
        let is_longer = self.state.borrow().active().file().is_some_and(lengthens);
        // A roll waits, as for zeros.
        let _gate = match is_longer {
            true => Some(self.fill_gate.enter().await),
            false => None,
        };
        let (base_offset, file, size, step) = {
            let mut state = self.state.borrow_mut();
            if !wants_allocation(&state) {
                return;
            }
            let limit = u64::from(self.settings().segment_bytes);
            let active = state.active();
            let (base_offset, size) = (active.base_offset, active.size);
            let step = allocation_step(size).min(limit.saturating_sub(u64::from(size)));
            let Some(file) = active.file().cloned() else {
                return;
            };
            if lengthens(&file) && !is_longer {
                // It has begun meanwhile: another time.
                return;
            }
            if step == 0 || !state.reservation.set(step) {
                return;
            }
            (base_offset, file, size, step)
        };
        let result = file.allocate(u64::from(size), step).await;
        let mut state = self.state.borrow_mut();
        // A disk without room says so again when it is written to; until then nothing is lost.
        if let Some(segment) = state.segment_mut(base_offset) {
            segment.held_mut().allocated = match result {
                Ok(()) => u32::try_from(u64::from(size) + step).unwrap_or(u32::MAX - 1),
                Err(_) => u32::MAX,
            };
        }
        if result.is_err() {
            state.reservation.set(0);
        }
    }

    /// Fills room ahead of the active segment, if it is due. The gate of preparations is held, so that the
    /// log is not cut meanwhile; a write that would come too near waits, and so does a roll.
    async fn fill_ahead(&self) -> Result<(), LogError> {
        let _gate = self.fill_gate.enter().await;
        let (base_offset, file, from, len) = {
            let state = &mut *self.state.borrow_mut();
            let Some((from, len)) = next_fill(state, &self.settings()) else {
                return Ok(());
            };
            let ahead = from + len - u64::from(state.active().size);
            let Some(file) = state.active().file().cloned() else {
                return Ok(());
            };
            if !state.reservation.set(ahead) {
                return Ok(());
            }
            state.filling_from = Some(from);
            (state.active().base_offset, file, from, len)
        };
        let abandoned = AbandonedSync { log: self };
        let result = file.fill(from, len).await;
        std::mem::forget(abandoned);
        let mut state = self.state.borrow_mut();
        state.filling_from = None;
        assert_eq!(state.active().base_offset, base_offset);
        let active = state.active_mut().held_mut();
        let end = u32::try_from(from + len).unwrap_or(u32::MAX - 1);
        active.allocated = active.allocated.max(end);
        match result {
            Ok(true) => active.filled = end,
            // A disk without room says so again when it is written to; until then nothing is lost.
            Ok(false) => {
                active.filled = u32::MAX;
                state.reservation.set(0);
            }
            Err(error) => {
                active.filled = u32::MAX;
                drop(state);
                return Err(self.fail(
                    Operation::Sync,
                    &self.path(base_offset, FileKind::Log),
                    error,
                ));
            }
        }
        Ok(())
    }

    /// Cuts closed segments to what they hold. The gate of preparations is held.
    async fn trim_closed(&self) -> Result<(), LogError> {
        loop {
            let was_longer;
            let (identity, size, file) = {
                let state = self.state.borrow();
                let last = state.segments.len() - 1;
                let allocated = state
                    .segments
                    .iter()
                    .take(last)
                    .find(|segment| segment.held().allocated != 0 || segment.is_longer());
                let Some(segment) = allocated else {
                    return Ok(());
                };
                was_longer = segment.is_longer();
                (segment.identity(), segment.size, segment.file().cloned())
            };
            if let Some(file) = self.file_to_trim(identity, file).await? {
                self.trim(identity.base_offset, size, &file).await?;
            }
            if let Some(segment) = self.state.borrow_mut().segment_of(identity) {
                segment.held_mut().allocated = 0;
                segment.note_cut_to_size(was_longer);
            }
        }
    }

    /// The `.log` of a segment: as it is open, or opened where it is longer than what it holds.
    async fn file_to_trim(
        &self,
        identity: Identity,
        file: Option<D::File>,
    ) -> Result<Option<D::File>, LogError> {
        let is_longer = {
            let mut state = self.state.borrow_mut();
            let segment = state.segment_of(identity);
            segment.is_some_and(|segment| segment.is_longer())
        };
        match file {
            None if is_longer => self.file_for_sync(identity, FileKind::Log).await,
            file => Ok(file),
        }
    }

    async fn trim(&self, base_offset: i64, size: u32, file: &D::File) -> Result<(), LogError> {
        match file.truncate(u64::from(size)).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(
                Operation::Truncate,
                &self.path(base_offset, FileKind::Log),
                error,
            )),
        }
    }

    /// Writes `leader-epoch-checkpoint` if it has changed.
    pub(super) async fn write_epochs(&self) -> Result<(), LogError> {
        // Whoever finds it unchanged relies on its being written.
        let _gate = self.epochs_gate.enter().await;
        let content = {
            let mut state = self.state.borrow_mut();
            if !std::mem::take(&mut state.epochs_dirty) {
                return Ok(());
            }
            state.epochs.encode()
        };
        let path = self.dir().join(LEADER_EPOCH_CHECKPOINT);
        match self.disk.replace_file(&path, &content).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(Operation::Checkpoint, &path, error)),
        }
    }

    /// Writes the producer snapshots that rolls have left, of what is on the device: one that outlives its batches in
    /// a power cut would tell of producers that wrote nothing, and of transactions that never ended. They can be
    /// rebuilt, so one that cannot be written does no harm but to the next recovery.
    pub(super) async fn write_snapshots(&self, sync: bool) -> Result<(), LogError> {
        loop {
            let due = {
                let state = &mut *self.state.borrow_mut();
                let point = state.recovery_point;
                let newest = state.snapshots.iter().rposition(|(at, _)| at.0 <= point);
                newest.map(|at| state.snapshots.remove(at))
            };
            let Some((offset, content)) = due else {
                return Ok(());
            };
            let path = self.path(offset.0, FileKind::Snapshot);
            let written = write_whole(&self.disk, &path, content, sync).await;
            self.state.borrow_mut().dir_dirty = true;
            if let Err(error) = written {
                // Half a snapshot is recognised by its CRC, but why keep it.
                let _ = self.disk.remove_file(&path).await;
                return Err(LogError::Io(Failure::new(
                    Operation::Checkpoint,
                    &path,
                    error,
                )));
            }
        }
    }

    /// Begins a segment now, unless the active one is empty. The gate is held and nothing is staged.
    pub(super) async fn roll_active(&self, now: Timestamp) -> Result<(), LogError> {
        let plan = {
            let mut state = self.state.borrow_mut();
            if state.active().size == 0 {
                return Ok(());
            }
            let end = state.log_end_offset;
            plan_roll(&mut state, end, now)
        };
        self.roll(plan, now).await
    }

    /// Writes what is staged, flushes everything, leaves indexes and a producer snapshot as a clean stop
    /// asks for, and closes the files. Afterwards every call answers `Closed`.
    ///
    /// After an error the stop was not clean, and the clean-shutdown mark must not be written.
    pub async fn close(&self, now: Timestamp) -> Result<(), LogError> {
        let _segments = self.segments_gate.enter().await;
        let _prepare = self.prepare_gate.enter().await;
        self.write_staged(now).await?;
        self.drop_next().await;
        {
            let _gate = self.gate.enter().await;
            let (size, file) = {
                let mut state = self.state.borrow_mut();
                state.check()?;
                if let Some(entry) = state.head.time_entry() {
                    state
                        .active_mut()
                        .held_mut()
                        .time_index
                        .push(entry.encode());
                }
                let snapshot = state.producers.snapshot();
                if let Some((offset, content)) = snapshot {
                    state.producers.snapshot_taken(offset);
                    state.snapshots.push((offset, content));
                }
                let active = state.active();
                (active.size, active.file().cloned())
            };
            self.write_index_tails(1).await?;
            self.trim_closed().await?;
            let identity = self.state.borrow().active().identity();
            let base_offset = identity.base_offset;
            let was_longer = self.state.borrow().active().is_longer();
            let trimmed = self.file_to_trim(identity, file).await?;
            if let Some(file) = &trimmed {
                self.trim(base_offset, size, file).await?;
                self.state
                    .borrow_mut()
                    .active_mut()
                    .note_cut_to_size(was_longer);
            }
            // A log that rested has no file open, and entries that nobody has synced.
            if trimmed.is_some() || self.state.borrow().active().has_unsynced_entries() {
                // A directory that was taken over may lack them, and Kafka wants both.
                // The index of transactions is made anew after any other stop.
                let kinds = [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex];
                let has_txn_index = self.state.borrow().active().has_txn_index;
                for kind in kinds.into_iter().take(2 + usize::from(has_txn_index)) {
                    if let Some(file) = self.file_for_sync(identity, kind).await?
                        && let Err(error) = file.sync_data().await
                    {
                        return Err(self.fail(
                            Operation::Sync,
                            &self.path(base_offset, kind),
                            error,
                        ));
                    }
                }
            }
        }
        self.flush().await?;
        self.write_snapshots(true).await?;
        // Their names.
        self.flush().await?;
        let files = self.mark_closed();
        self.disk.discard(files).await;
        Ok(())
    }

    /// Ends the log in memory and hands out its files.
    fn mark_closed(&self) -> Vec<D::File> {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.reservation.set(0);
        let mut files = Vec::new();
        for segment in &mut state.segments {
            files.extend(segment.take_file());
            segment.close_files();
        }
        if let Some(prepared) = state.take_next() {
            files.extend(prepared.files);
        }
        files
    }

    /// Lets what is staged wait, while readers and flushes go on.
    pub async fn hold_writes(&self) -> HeldWrites<'_> {
        HeldWrites {
            _gate: self.gate.enter().await,
        }
    }

    /// Gives the folder another name, under which the log goes on; it survives a power cut. Who reads meanwhile waits for
    /// the end, and a pass of the cleaner is aborted. One that is dropped while the disk is asked for the name takes the
    /// log offline.
    pub async fn rename_folder(&self, to: &Path) -> Result<(), LogError> {
        let _segments = self.segments_gate.enter().await;
        let _prepare = self.prepare_gate.enter().await;
        let _flush = self.flush_gate.enter().await;
        let _gate = self.gate.enter().await;
        {
            // Paths that were made before are void.
            let mut state = self.state.borrow_mut();
            state.check()?;
            state.generation += 1;
            state.truncations += 1;
            state.is_renaming = true;
        }
        let from = self.dir();
        let abandoned = Abandoned { log: self };
        let renamed = self.disk.rename(&from, to).await;
        std::mem::forget(abandoned);
        if let Err(error) = renamed {
            return Err(self.fail(Operation::Rename, &from, error));
        }
        self.set_dir(Arc::from(to));
        self.state.borrow_mut().is_renaming = false;
        match to.parent() {
            Some(parent) => self.sync_dir(parent).await,
            None => Ok(()),
        }
    }

    /// Renames the folder of a deleted partition (see
    /// [`deleted_folder_name`](super::names::deleted_folder_name)); the name survives a power cut. The log
    /// is closed; reads under way finish, or end so. The folder is then removed with
    /// [`Disk::remove_dir_all`], after `file.delete.delay.ms`.
    pub async fn rename_deleted(&self, to: &Path) -> Result<(), LogError> {
        let _segments = self.segments_gate.enter().await;
        let _prepare = self.prepare_gate.enter().await;
        let _flush = self.flush_gate.enter().await;
        let _gate = self.gate.enter().await;
        // A log that is offline is deleted like any other. Who looks for a file by its old name is told that it is closed.
        let files = self.mark_closed();
        {
            let mut state = self.state.borrow_mut();
            if !std::mem::replace(&mut state.is_deleted, true) {
                state.generation += 1;
            }
        }
        let from = self.dir();
        if let Err(error) = self.disk.rename(&from, to).await {
            return Err(self.fail(Operation::Rename, &from, error));
        }
        self.set_dir(Arc::from(to));
        if let Some(parent) = to.parent() {
            self.sync_dir(parent).await?;
        }
        self.disk.discard(files).await;
        Ok(())
    }
}

/// Makes a small file survive a power cut, if it is there: see [`LogFile::write_again`].
pub(super) async fn write_file_again<D: Disk>(disk: &D, path: &Path) -> std::io::Result<()> {
    match disk.open(path, OpenMode::Write).await {
        Ok(file) => file.write_again(0, file.len()?).await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a small file as a whole, not atomically.
pub(super) async fn write_whole<D: Disk>(
    disk: &D,
    path: &Path,
    content: Vec<u8>,
    sync: bool,
) -> std::io::Result<()> {
    let file = disk.open(path, OpenMode::Truncate).await?;
    let len = content.len() as u64;
    if file.write_at(0, vec![Bytes::from(content)]).await? < len {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    if sync {
        file.sync_data().await?;
    }
    Ok(())
}

/// Takes the log offline when a sync is dropped half-way.
struct AbandonedSync<'a, D: Disk> {
    log: &'a Log<D>,
}

impl<D: Disk> Drop for AbandonedSync<'_, D> {
    fn drop(&mut self) {
        let dir = self.log.dir();
        let error = std::io::Error::other("the sync was abandoned");
        self.log.fail(Operation::Sync, &dir, error);
    }
}
