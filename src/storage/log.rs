//! The log of one partition: its state, and appending to it in two steps.
//!
//! # Appending
//! 1. [`Log::stage`] gives a validated batch its offsets, in place, and decides everything that is
//!    decided by order: producer state, epochs, when to roll, which index entries to make. It does not
//!    touch the disk, and what it staged is not visible.
//! 2. [`Log::write_staged`] writes all that was staged meanwhile, in as few calls as possible, and moves
//!    the log end offset. All appends of a turn of the shard so share one call.
//!
//! A write that fails takes the log offline: what was staged is dropped, and nothing is tried again,
//! since what the file then holds is not known. Opening the log anew recovers it.
//!
//! # Who may do what at once
//! Everything that changes files passes one [`Gate`]; readers wait for nobody but who cuts the log. A flush runs
//! beside writes, and so does what is prepared for later ones; only what cuts or ends the log waits for all three.
//! Borrows of the state never live across an await; after one, state is looked at anew.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::allocation::Reservation;
use super::disk::{Disk, LogFile, OpenMode};
use super::error::{Failure, LogError, Operation};
use super::gate::Gate;
use super::head::Head;
use super::index::TAIL_ENTRIES;
use super::names::{FileKind, file_name};
use super::next_segment::Next;
use super::producer_state::{AppendOrigin, Outcome, ProducerState, SequenceError};
use super::state::{Limits, Opened, RollPlan, StagedBatch, State};
use super::txn_index::AbortedTxn;
use crate::base::settings::LogSettings;
use crate::base::{LeaderEpoch, Offset, ProducerId, Timestamp};
use crate::records::control::EndTxnMarker;
use crate::records::{BatchHeader, TimestampType, assign};

/// Bytes after which a call that goes on writing lets other tasks run.
const WRITE_BYTES: u64 = 1024 * 1024;
/// Ends of writes that are remembered with their positions.
const MARKS: usize = 64;

/// Why a batch was not staged.
#[derive(Clone, Debug)]
pub enum AppendError {
    Log(LogError),
    /// The producer's sequence or epoch does not fit.
    Sequence(SequenceError),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Sequence(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AppendError {}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// A batch that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// The batch has been appended before, at these offsets, and was not staged again. It may still be
    /// on its way to the disk: the answer waits for `last_offset` as that of any other.
    pub is_duplicate: bool,
    /// -1 unless the topic has LogAppendTime.
    pub log_append_time: Timestamp,
}

/// What a call of [`Log::write_staged`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// All below is visible to readers, as far as the high watermark allows.
    pub log_end_offset: Offset,
    pub batches: u32,
    pub bytes: u64,
    /// A segment was closed: it should be flushed soon, in the background.
    pub rolled: bool,
    /// There is work for [`Log::prepare`].
    pub prepare: bool,
}

/// The log of one partition. Belongs to one shard, which shares it as `Rc<Log<D>>`.
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) disk: D,
    dir: RefCell<Arc<Path>>,
    settings: RefCell<Arc<LogSettings>>,
    pub(super) state: RefCell<State<D::File>>,
    /// These are entered in the order in which they stand here. The first is for whoever removes or replaces
    /// closed segments; appends do not wait for it.
    pub(super) segments_gate: Gate,
    pub(super) prepare_gate: Gate,
    /// Held while the active segment is made longer ahead, and by a roll, which ends that; nobody enters
    /// another one with it.
    pub(super) fill_gate: Gate,
    pub(super) flush_gate: Gate,
    pub(super) gate: Gate,
    pub(super) epochs_gate: Gate,
}

impl<D: Disk> Log<D> {
    pub(super) fn from_opened(
        disk: D,
        dir: Arc<Path>,
        settings: Arc<LogSettings>,
        mut opened: Opened<D::File>,
    ) -> Self {
        assert!(!opened.segments.is_empty());
        // Most of a node's logs are idle.
        opened.segments.shrink_to_fit();
        opened.epochs.shrink();
        assert!(opened.log_start_offset <= opened.log_end_offset);
        let state = State {
            segments: opened.segments,
            log_start_offset: opened.log_start_offset,
            log_end_offset: opened.log_end_offset,
            recovery_point: opened.recovery_point,
            limits: opened.checkpoint_limit.map(|limit| {
                Box::new(Limits {
                    first_flush: Some(limit),
                    cuts: Vec::new(),
                })
            }),
            cleaned_to: opened.cleaned_to,
            cleanings: 0,
            producers: opened.producers,
            producer_expiration_ms: opened.producer_expiration_ms,
            epochs: opened.epochs,
            head: opened.head,
            staged: VecDeque::new(),
            staged_end_offset: opened.log_end_offset,
            marks: VecDeque::new(),
            flushed: None,
            readers: Vec::new(),
            next_reader: 0,
            generation: 0,
            is_deleted: false,
            truncations: 0,
            is_cutting: false,
            is_renaming: false,
            dir_dirty: false,
            dir_syncing: false,
            unsynced_removals: 0,
            created_dirty: false,
            epochs_dirty: opened.epochs_dirty,
            snapshots: Vec::new(),
            reservation: Reservation::new(opened.budget),
            next: Next::default(),
            filling_from: None,
            writing_to: None,
            flush_bytes: 0,
            failed: None,
            closed: false,
        };
        Self {
            disk,
            dir: RefCell::new(dir),
            settings: RefCell::new(settings),
            state: RefCell::new(state),
            segments_gate: Gate::default(),
            prepare_gate: Gate::default(),
            fill_gate: Gate::default(),
            flush_gate: Gate::default(),
            gate: Gate::default(),
            epochs_gate: Gate::default(),
        }
    }

    /// The partition's folder.
    pub fn dir(&self) -> Arc<Path> {
        self.dir.borrow().clone()
    }

    pub(super) fn set_dir(&self, dir: Arc<Path>) {
        *self.dir.borrow_mut() = dir;
    }

    pub fn settings(&self) -> Arc<LogSettings> {
        self.settings.borrow().clone()
    }

    /// Which segments there are, by a number that changes with them and with the folder's name. Waits while the log is
    /// being cut, or gets another name: its files are not what is known of them.
    pub(super) async fn generation(&self) -> Result<u64, LogError> {
        loop {
            {
                let state = self.state.borrow();
                state.check()?;
                if !state.is_cutting && !state.is_renaming {
                    return Ok(state.generation);
                }
            }
            drop(self.gate.enter().await);
        }
    }

    /// Settings that count from now on.
    pub fn set_settings(&self, settings: Arc<LogSettings>) {
        *self.settings.borrow_mut() = settings;
    }

    /// The first offset that can be read.
    pub fn log_start_offset(&self) -> Offset {
        Offset(self.state.borrow().log_start_offset)
    }

    /// One past the last record that is written.
    pub fn log_end_offset(&self) -> Offset {
        Offset(self.state.borrow().log_end_offset)
    }

    /// One past the last record that is staged: where the next batch will go.
    pub fn staged_end_offset(&self) -> Offset {
        Offset(self.state.borrow().staged_end_offset)
    }

    /// All below is on the device, and is not checked again after a crash.
    pub fn recovery_point(&self) -> Offset {
        Offset(self.state.borrow().recovery_point)
    }

    /// The recovery point as it is to be kept for the next start: that of the start before until there was a flush,
    /// and one less where a segment ends, or may come to
    /// end, whose indexes are not on the device, or not its length. A segment that lies whole below is not looked
    /// at. One that was removed counts until its removal is on the device: a power cut brings it back. While the log
    /// is about to be cut, no more than what will be left: see [`lower_recovery_point`](Self::lower_recovery_point).
    pub fn recovery_checkpoint(&self) -> Offset {
        let state = self.state.borrow();
        let point = state.recovery_point;
        let at = state.segment_index(point);
        let is_settled = match state.segments[at].base_offset < point {
            true => point < state.log_end_offset,
            false if at == 0 => !(state.dir_dirty || state.dir_syncing) || point == 0,
            false => state.segments[at - 1].is_settled(),
        };
        let checkpoint = if is_settled { point } else { point - 1 };
        let checkpoint = checkpoint.min(state.first_flush_limit().unwrap_or(checkpoint));
        Offset(state.as_lowered(checkpoint))
    }

    /// Whether it was recovered and not flushed since: the next start after a kill would recover it again.
    pub fn awaits_first_flush(&self) -> bool {
        self.state.borrow().first_flush_limit().is_some()
    }

    /// Bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        let state = self.state.borrow();
        state.segments.iter().map(|s| u64::from(s.size)).sum()
    }

    pub fn segment_count(&self) -> usize {
        self.state.borrow().segments.len()
    }

    /// Why the log is offline, if it is.
    pub fn failure(&self) -> Option<Failure> {
        self.state.borrow().failed.clone()
    }

    /// The producers and transactions of what is written and staged.
    pub fn producers(&self) -> Ref<'_, ProducerState> {
        Ref::map(self.state.borrow(), |state| &state.producers)
    }

    /// See [`ProducerState::note_end`].
    pub fn note_end(&self, producer_id: ProducerId) {
        self.state.borrow_mut().producers.note_end(producer_id);
    }

    /// Forgets producers that have been silent too long. Returns how many.
    pub fn remove_expired_producers(&self, now: Timestamp) -> usize {
        self.state.borrow_mut().producers.remove_expired(now)
    }

    /// Tells the producers' state how far transactions are replicated.
    pub fn on_high_watermark(&self, high_watermark: Offset) {
        let mut state = self.state.borrow_mut();
        if state.producers.first_unstable_offset().is_some() {
            state.producers.on_high_watermark_updated(high_watermark);
        }
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.latest_epoch()
    }

    /// The largest epoch not above `requested`, and the offset one past its last record (KIP-101).
    pub fn end_offset_for_epoch(&self, requested: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.borrow();
        state
            .epochs
            .end_offset_for(requested, Offset(state.log_end_offset))
    }

    /// The epoch that wrote the record at `offset`.
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.epoch_for_offset(offset)
    }

    /// Gives a validated batch its place: base offset, leader epoch and (LogAppendTime) timestamp are
    /// written into it. It is visible after [`write_staged`](Self::write_staged).
    ///
    /// `header` is that of `batch`, which is exactly one batch. Control batches come with their
    /// `marker`. A log that is offline, and a sequence that does not fit, are refused; a duplicate is
    /// answered with the offsets of the first time.
    #[allow(clippy::too_many_arguments)]
    pub fn stage(
        &self,
        mut batch: BytesMut,
        header: &BatchHeader,
        origin: AppendOrigin,
        marker: Option<&EndTxnMarker>,
        leader_epoch: LeaderEpoch,
        log_append_time: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Staged, AppendError> {
        assert_eq!(batch.len(), header.size_in_bytes());
        let settings = self.settings.borrow();
        let state = &mut *self.state.borrow_mut();
        state.check()?;
        check_size(&settings, batch.len())?;
        if let Some(marker) = marker {
            state
                .producers
                .check_marker(origin, header, marker)
                .map_err(AppendError::Sequence)?;
        } else {
            let outcome = state
                .producers
                .check(origin, header)
                .map_err(AppendError::Sequence)?;
            if let Outcome::Duplicate {
                base_offset,
                last_offset,
                timestamp,
            } = outcome
            {
                return Ok(Staged {
                    base_offset,
                    last_offset,
                    is_duplicate: true,
                    log_append_time: log_append_time.map_or(Timestamp::NONE, |_| timestamp),
                });
            }
        }
        let base_offset = Offset(state.staged_end_offset);
        assign(&mut batch, base_offset, leader_epoch, log_append_time);
        let mut placed = *header;
        placed.base_offset = base_offset;
        placed.partition_leader_epoch = leader_epoch;
        if let Some(time) = log_append_time {
            placed.max_timestamp = time;
            placed.attributes |= 1 << 3;
            debug_assert_eq!(placed.timestamp_type(), TimestampType::LogAppendTime);
        }
        let last_offset = placed.last_offset();
        place(state, &settings, batch.freeze(), &placed, marker, now);
        Ok(Staged {
            base_offset,
            last_offset,
            is_duplicate: false,
            log_append_time: log_append_time.unwrap_or(Timestamp::NONE),
        })
    }

    /// Stages a batch that has its offsets and epoch already: a follower's append. The CRC was checked.
    pub fn stage_as_follower(
        &self,
        batch: Bytes,
        header: &BatchHeader,
        marker: Option<&EndTxnMarker>,
        now: Timestamp,
    ) -> Result<Staged, AppendError> {
        assert_eq!(batch.len(), header.size_in_bytes());
        let settings = self.settings.borrow();
        let state = &mut *self.state.borrow_mut();
        state.check()?;
        check_size(&settings, batch.len())?;
        if header.base_offset.0 < state.staged_end_offset {
            return Err(LogError::OffsetsOutOfOrder {
                base_offset: header.base_offset,
                log_end_offset: Offset(state.staged_end_offset),
            }
            .into());
        }
        place(state, &settings, batch, header, marker, now);
        Ok(Staged {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            is_duplicate: false,
            log_append_time: Timestamp::NONE,
        })
    }

    /// Writes all that is staged, in calls as large as the file takes, and moves the log end offset.
    ///
    /// When it returns, everything that was staged before the call is in the kernel, or on the device: it
    /// survives a killed process. What is staged while it writes may be left for another call, so that nobody
    /// waits for those that came later. A write that fails or falls short takes the log offline. The future must be run
    /// to its end: dropped in the middle of a write, the log goes offline.
    pub async fn write_staged(&self, now: Timestamp) -> Result<Written, LogError> {
        let _gate = self.gate.enter().await;
        let mut written = Written::default();
        let end = self.staged_end_offset().0;
        loop {
            match self.next_step(end)? {
                WriteStep::Done => break,
                WriteStep::Open => self.open_log().await?,
                WriteStep::Filling => drop(self.fill_gate.enter().await),
                WriteStep::Roll(plan) => {
                    self.roll(*plan, now).await?;
                    written.rolled = true;
                    written.prepare = true;
                }
                WriteStep::Write {
                    file,
                    position,
                    buffers,
                    bytes,
                    base_offset,
                } => {
                    if written.bytes >= WRITE_BYTES {
                        // Half a millisecond has gone by.
                        futures_lite::future::yield_now().await;
                    }
                    let batches = buffers.len();
                    let is_durable = self.settings.borrow().flush_messages == 1;
                    let abandoned = Abandoned { log: self };
                    let result = match is_durable {
                        true => file.write_durable_at(position, buffers).await,
                        false => file.write_at(position, buffers).await,
                    };
                    std::mem::forget(abandoned);
                    self.state.borrow_mut().writing_to = None;
                    let path = || self.path(base_offset, FileKind::Log);
                    match result {
                        Ok(n) if n == bytes => {}
                        Ok(n) => {
                            let short = std::io::Error::new(
                                std::io::ErrorKind::StorageFull,
                                format!("wrote {n} bytes of {bytes}"),
                            );
                            return Err(self.fail(Operation::Write, &path(), short));
                        }
                        Err(error) => return Err(self.fail(Operation::Write, &path(), error)),
                    }
                    // Something else may have taken the log offline meanwhile, and what was staged with it.
                    self.state.borrow().check()?;
                    let aborted = self.commit(batches, now);
                    if !aborted.is_empty() {
                        self.append_txn_index(base_offset, &aborted).await?;
                    }
                    written.bytes += bytes;
                    written.batches += batches as u32;
                }
            }
        }
        self.write_index_tails(TAIL_ENTRIES).await?;
        let segment_bytes = self.settings.borrow().segment_bytes;
        let mut state = self.state.borrow_mut();
        written.log_end_offset = Offset(state.log_end_offset);
        written.prepare |= state.note_next_wanted(segment_bytes, now)
            || written.batches > 0 && super::maintenance::wants_room(&state, &self.settings())
            || state.epochs_dirty
            || state.has_due_snapshot();
        Ok(written)
    }

    /// Waits until no other call writes.
    pub async fn writable(&self) {
        drop(self.gate.enter().await);
    }

    /// Whether [`write_staged`](Self::write_staged) would wait for something slower than a copy into the
    /// kernel: a device, files to be opened or named, or another call that is under way.
    pub fn write_waits(&self) -> bool {
        let state = self.state.borrow();
        self.gate.is_held()
            || state.active().file().is_none_or(LogFile::write_waits)
            || state.opens_indexes()
            || state.must_wait_for_fill(state.staged.iter().map(|b| b.bytes.len() as u64).sum())
            || state
                .staged
                .iter()
                .any(|batch| batch.roll.is_some() || batch.aborted.is_some())
    }

    /// What is to be done next to have all written that lies below `end`.
    fn next_step(&self, end: i64) -> Result<WriteStep<D::File>, LogError> {
        let state = &mut *self.state.borrow_mut();
        state.check()?;
        if state.log_end_offset >= end {
            return Ok(WriteStep::Done);
        }
        let Some(first) = state.staged.front_mut() else {
            return Ok(WriteStep::Done);
        };
        if let Some(plan) = first.roll.take() {
            return Ok(WriteStep::Roll(plan));
        }
        let active = &state.segments[state.segments.len() - 1];
        let Some(file) = active.file().cloned() else {
            return Ok(WriteStep::Open);
        };
        let limit = file.write_limit();
        let mut buffers = Vec::with_capacity(state.staged.len().min(limit.buffers));
        let mut bytes = 0u64;
        for batch in &state.staged {
            let len = batch.bytes.len() as u64;
            let is_full = !buffers.is_empty()
                && (bytes + len > limit.bytes || buffers.len() == limit.buffers);
            if is_full || batch.roll.is_some() {
                break;
            }
            buffers.push(batch.bytes.clone());
            bytes += len;
        }
        if state.must_wait_for_fill(bytes) {
            return Ok(WriteStep::Filling);
        }
        state.writing_to = Some(u64::from(active.size) + bytes);
        Ok(WriteStep::Write {
            file,
            position: u64::from(active.size),
            buffers,
            bytes,
            base_offset: active.base_offset,
        })
    }

    /// The first `batches` that are staged have been written. Returns the transactions that they abort.
    fn commit(&self, batches: usize, now: Timestamp) -> Vec<AbortedTxn> {
        let mut aborted = Vec::new();
        let state = &mut *self.state.borrow_mut();
        let last = state.segments.len() - 1;
        let segment = &mut state.segments[last];
        for batch in state.staged.drain(..batches) {
            segment.size += batch.bytes.len() as u32;
            let last_offset = batch.next_offset - 1;
            if batch.max_timestamp > segment.max_timestamp {
                segment.max_timestamp = batch.max_timestamp;
                segment.max_timestamp_offset = last_offset;
            }
            if let Some(entry) = batch.index {
                segment.held_mut().offset_index.push(entry.encode());
            }
            if let Some(entry) = batch.time {
                segment.held_mut().time_index.push(entry.encode());
            }
            aborted.extend(batch.aborted);
            segment.decides_from = segment
                .decides_from
                .min(batch.decides_from.unwrap_or(i64::MAX));
            state.log_end_offset = batch.next_offset;
        }
        if state.staged.is_empty() {
            assert_eq!(state.head.size, u64::from(segment.size));
            state.staged.shrink_to(16);
        }
        segment.last_modified = now.0;
        let mark = state.end_mark();
        if state.marks.len() == MARKS {
            state.marks.pop_front();
        }
        state.marks.push_back(mark);
        aborted
    }

    async fn append_txn_index(
        &self,
        base_offset: i64,
        aborted: &[AbortedTxn],
    ) -> Result<(), LogError> {
        let path = self.path(base_offset, FileKind::TxnIndex);
        let content: Vec<u8> = aborted.iter().flat_map(|txn| txn.encode()).collect();
        let len = content.len() as u64;
        let is_first = !self.state.borrow().active().has_txn_index;
        let append = async {
            // One of this name may be left from before a crash.
            let mode = match is_first {
                true => OpenMode::Truncate,
                false => OpenMode::Create,
            };
            let file = self.disk.open(&path, mode).await?;
            let end = file.len()?;
            match file.write_at(end, vec![Bytes::from(content)]).await? {
                n if n == len => Ok(()),
                _ => Err(std::io::ErrorKind::StorageFull.into()),
            }
        };
        if let Err(error) = append.await {
            return Err(self.fail(Operation::Write, &path, error));
        }
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            segment.has_txn_index = true;
            segment.indexes_synced = false;
        }
        Ok(())
    }

    /// Writes index entries that gathered in memory, once there are `at_least` of them.
    pub(super) async fn write_index_tails(&self, at_least: usize) -> Result<(), LogError> {
        let due = {
            let state = self.state.borrow();
            let active = state.active().held();
            active
                .offset_index
                .tail
                .len()
                .max(active.time_index.tail.len())
                >= at_least.max(1)
        };
        if !due {
            return Ok(());
        }
        self.open_active().await?;
        let (base_offset, offset, time) = {
            let state = self.state.borrow();
            let active = state.active();
            let held = active.held();
            let (offset, time) = (&held.offset_index, &held.time_index);
            let offset = offset
                .file
                .clone()
                .zip(offset.unwritten(active.index_entries));
            let time = time.file.clone().zip(time.unwritten(active.time_entries));
            (active.base_offset, offset, time)
        };
        for (kind, write) in [(FileKind::Index, offset), (FileKind::TimeIndex, time)] {
            let Some((file, (position, bytes))) = write else {
                continue;
            };
            let len = bytes.len() as u64;
            match file.write_at(position, vec![bytes]).await {
                Ok(n) if n == len => {}
                Ok(_) => {
                    let short = std::io::ErrorKind::StorageFull.into();
                    return Err(self.fail(Operation::Write, &self.path(base_offset, kind), short));
                }
                Err(error) => {
                    return Err(self.fail(Operation::Write, &self.path(base_offset, kind), error));
                }
            }
            let mut state = self.state.borrow_mut();
            if let Some(segment) = state.segment_mut(base_offset) {
                segment.indexes_synced = false;
                let size = match kind {
                    FileKind::Index => 8,
                    _ => 12,
                };
                segment.index_written(kind, len as usize / size);
            }
        }
        Ok(())
    }

    /// Opens the active segment's `.log`, if it is closed. Its indexes are opened when entries are due.
    async fn open_log(&self) -> Result<(), LogError> {
        self.open_of_active(&[FileKind::Log]).await
    }

    /// Opens the files of the active segment, as far as they are closed.
    pub(super) async fn open_active(&self) -> Result<(), LogError> {
        self.open_of_active(&[FileKind::Log, FileKind::Index, FileKind::TimeIndex])
            .await
    }

    async fn open_of_active(&self, kinds: &[FileKind]) -> Result<(), LogError> {
        for &kind in kinds {
            let (base_offset, may_be_new) = {
                let state = self.state.borrow();
                let active = state.active();
                let held = active.held();
                let (is_open, size) = match kind {
                    FileKind::Index => (held.offset_index.file.is_some(), active.index_entries),
                    FileKind::TimeIndex => (held.time_index.file.is_some(), active.time_entries),
                    _ => (held.file.is_some(), active.size),
                };
                if is_open {
                    continue;
                }
                (active.base_offset, size == 0)
            };
            let path = self.path(base_offset, kind);
            let opened = self.open_file(&path, kind, OpenMode::Create).await;
            let file = opened.map_err(|error| self.fail(Operation::Open, &path, error))?;
            let mut state = self.state.borrow_mut();
            state.dir_dirty |= may_be_new;
            let held = state.active_mut().held_mut();
            match kind {
                FileKind::Index => held.offset_index.file = Some(file),
                FileKind::TimeIndex => held.time_index.file = Some(file),
                _ => held.file = Some(file),
            }
        }
        Ok(())
    }

    /// Opens a file of a segment; a `.log` as the settings say now.
    pub(super) async fn open_file(
        &self,
        path: &Path,
        kind: FileKind,
        mode: OpenMode,
    ) -> std::io::Result<D::File> {
        match kind {
            FileKind::Log => {
                let io = self.settings().log_io;
                self.disk.open_log(path, mode, io).await
            }
            _ => self.disk.open(path, mode).await,
        }
    }

    /// The path of a file of the segment at `base_offset`.
    pub(super) fn path(&self, base_offset: i64, kind: FileKind) -> PathBuf {
        self.dir.borrow().join(file_name(Offset(base_offset), kind))
    }

    /// Knows the producers that `other`, of the same records, knows. No snapshot here tells of those whose records are all
    /// deleted: a stop writes one, wherever the log begins.
    pub fn take_producers_of(&self, other: &Self) {
        let mut producers = other.state.borrow().producers.clone();
        producers.snapshot_taken(Offset(0));
        self.state.borrow_mut().producers = producers;
    }

    /// Takes the log offline because its disk is gone. Returns the error to answer with.
    pub fn take_offline(&self, error: std::io::Error) -> LogError {
        self.fail(Operation::Write, &self.dir(), error)
    }

    /// Takes the log offline, unless it is, and drops what is staged. Returns the error to answer with.
    pub(super) fn fail(
        &self,
        operation: Operation,
        path: &Path,
        error: std::io::Error,
    ) -> LogError {
        let mut state = self.state.borrow_mut();
        let failure = state
            .failed
            .get_or_insert_with(|| Failure::new(operation, path, error))
            .clone();
        state.staged.clear();
        LogError::Offline(failure)
    }
}

fn check_size(settings: &LogSettings, len: usize) -> Result<(), LogError> {
    if len as u64 > u64::from(settings.segment_bytes) {
        return Err(LogError::BatchTooLarge {
            size_bytes: len as u64,
            limit_bytes: u64::from(settings.segment_bytes),
        });
    }
    Ok(())
}

/// Puts a batch with its final offsets behind all that is staged.
fn place<F: LogFile>(
    state: &mut State<F>,
    settings: &LogSettings,
    bytes: Bytes,
    header: &BatchHeader,
    marker: Option<&EndTxnMarker>,
    now: Timestamp,
) {
    let size = bytes.len() as u64;
    let last_offset = header.last_offset().0;
    let max_timestamp = header.max_timestamp.0;
    let mut roll = None;
    if state
        .head
        .must_roll(settings, size, last_offset, max_timestamp, now.0)
    {
        // Where the one before ends, though a leader may have cleaned away what lay between: segments leave no gap
        // but where the cleaner, or a power cut, made one. Offsets within a segment are of 31 bits.
        let base_offset = state
            .staged_end_offset
            .max(last_offset - i64::from(i32::MAX));
        roll = Some(Box::new(plan_roll(state, base_offset, now)));
    }
    let (index, time) = state.head.add(
        settings.index_interval_bytes,
        size,
        last_offset,
        max_timestamp,
    );
    if state
        .epochs
        .assign(header.partition_leader_epoch, header.base_offset)
    {
        state.epochs_dirty = true;
    }
    let completed = state.producers.update(header, marker);
    state.staged_end_offset = header.next_offset().0;
    state.staged.push_back(StagedBatch {
        bytes,
        next_offset: header.next_offset().0,
        max_timestamp,
        index,
        time,
        aborted: completed.and_then(|completed| completed.aborted()),
        decides_from: completed.map(|completed| completed.first_offset.0),
        roll,
    });
}

/// Ends the segment that is being filled: the next batch begins one at `base_offset`.
pub(super) fn plan_roll<F: LogFile>(
    state: &mut State<F>,
    base_offset: i64,
    now: Timestamp,
) -> RollPlan {
    let last_time = state.head.time_entry();
    let snapshot = state.producers.snapshot();
    if let Some((offset, _)) = &snapshot {
        state.producers.snapshot_taken(*offset);
    }
    state.head = Head::new(base_offset, now.0);
    RollPlan {
        base_offset,
        last_time,
        snapshot,
    }
}

enum WriteStep<F> {
    Done,
    /// The active segment's files are closed.
    Open,
    /// Where the next write goes, zeros are being written.
    Filling,
    Roll(Box<RollPlan>),
    Write {
        file: F,
        position: u64,
        buffers: Vec<Bytes>,
        bytes: u64,
        base_offset: i64,
    },
}

/// Takes the log offline when a write, or what must not end half-way, is dropped in its middle.
pub(super) struct Abandoned<'a, D: Disk> {
    pub(super) log: &'a Log<D>,
}

impl<D: Disk> Drop for Abandoned<'_, D> {
    fn drop(&mut self) {
        let dir = self.log.dir();
        let error = std::io::Error::other("the change was abandoned half-way");
        self.log.fail(Operation::Write, &dir, error);
    }
}
