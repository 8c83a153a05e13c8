//! Opening a log, and bringing it into order after a stop that was not clean.
//!
//! 1. Leftovers go: deleted files, staging files of compaction, indexes without a `.log`. A swap of the
//!    cleaner that had been decided is completed.
//! 2. After a clean stop the last index entry of the active segment and the headers behind it give the
//!    log end offset; nothing else is read. If they do not fit, the stop was not clean.
//! 3. Otherwise every batch behind the recovery point is checked (its leader epoch, too, may not fall). In the
//!    segment of the recovery point, the headers have to lead there; what else may be wrong with batches that were
//!    flushed, their readers find. The indexes are made anew from that segment on; it is the one that ends at the
//!    recovery point, if it does not end with a batch. What is not a batch ends the segment there; zeros to the end
//!    of the file are room that was filled ahead, and anything else ends the log. If nothing valid follows it is the
//!    torn tail of a write and is cut. If something does, it is damage: the bytes are kept beside the log
//!    (`<base>.log.cut-<time>`) and reported. Where batches are missing below the recovery point, all of the segment
//!    is checked. Where offsets are missing above it, the log ends: between two segments, or in one of a log that is
//!    not compacted. Between the segments of a compacted log, which are there to have gaps, that can be told from
//!    the checkpoints only: where the directory has none, nothing is missing, and the log is flushed before it is
//!    served, so that the next checkpoint is above every gap.
//! 4. Producers come from the newest snapshot that is not too new, and from the batches behind it.
//! 5. Batches that no flush has covered are synced before anybody can read them, with the names that lead to them;
//!    so is every cut and removal that must not be undone. What can be made anew (indexes, leader epochs) is left
//!    to the first flush. Until then the recovery point that is kept for the next start stays where it was, so
//!    that the next start makes them anew, too; a clean stop flushes.

mod aside;
mod clean;
mod epochs;
mod leftovers;
mod producers;
mod rebuild;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::allocation::AllocationBudget;
use super::checkpoint::{LOG_START_OFFSET_CHECKPOINT, encode_partition_metadata};
use super::disk::{Disk, LogFile, OpenMode};
use super::epoch_cache::{EpochCache, EpochEntry, LEADER_EPOCH_CHECKPOINT};
use super::error::{Failure, LogError, Operation};
use super::head::Head;
use super::log::Log;
use super::maintenance::{write_file_again, write_whole};
use super::names::{FileKind, PARTITION_METADATA, file_name, parse_file_name};
use super::producer_state::ProducerState;
use super::segment::Segment;
use super::state::Opened;
use crate::base::settings::LogSettings;
use crate::base::{Offset, Timestamp, TopicId};

/// Largest producer snapshot and epoch checkpoint that are read.
pub(super) const SMALL_FILE_BYTES: usize = 256 * 1024 * 1024;

/// What the caller knows of a log that is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The process was stopped cleanly.
    pub is_clean: bool,
    /// From the checkpoint; 0 if there is none.
    pub recovery_point: Offset,
    /// From the checkpoint, if it has one.
    pub log_start_offset: Option<Offset>,
    /// Where the last pass of the cleaner ended, from its checkpoint.
    pub cleaned_to: Option<Offset>,
    /// The data directory has a checkpoint of recovery points, whether it tells of this log or not. Where it has none,
    /// as one that was put together from copies, nothing says how far the cleaner has come: what is missing between
    /// two segments of a compacted log was taken by it.
    pub has_checkpoint: bool,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// Of the data directory.
    pub allocation: Option<Arc<AllocationBudget>>,
    pub now: Timestamp,
}

/// Bytes of a log that were neither good nor the torn end of the last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The log ends here now.
    pub offset: Offset,
    /// Bytes that were cut off.
    pub length: u64,
    /// Where they are kept.
    pub kept: Vec<PathBuf>,
}

/// What opening a log came upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Segments that were walked over, and bytes of batches that were checked in them: those above the recovery
    /// point.
    pub recovered_segments: usize,
    pub recovered_bytes: u64,
    /// Bytes of a torn write that were cut off.
    pub truncated_bytes: u64,
    /// To be logged as an error.
    pub damage: Option<Damage>,
    /// Segments whose indexes were missing or wrong though they should not have been.
    pub rebuilt_indexes: usize,
    /// Small files that are not what was written, and were made anew or done without: producer snapshots,
    /// `leader-epoch-checkpoint`, a log start offset that the log cannot have. To be logged as a warning.
    pub unusable: Vec<PathBuf>,
}

struct Loader<'a, D: Disk> {
    disk: &'a D,
    dir: &'a Path,
    settings: &'a LogSettings,
    now: Timestamp,
    /// Names were removed or changed in a way that a power cut must not undo once the log is served.
    names_changed: Cell<bool>,
    /// A gap between two segments was taken for the cleaner's, without a checkpoint that says so.
    has_kept_gap: Cell<bool>,
    /// See [`OpenReport::unusable`].
    unusable: RefCell<Vec<PathBuf>>,
    /// Snapshots of producers that are not written yet, by their offset.
    pending: BTreeMap<i64, Vec<u8>>,
}

impl<'a, D: Disk> Loader<'a, D> {
    fn new(disk: &'a D, dir: &'a Path, settings: &'a LogSettings, now: Timestamp) -> Self {
        Self {
            disk,
            dir,
            settings,
            now,
            names_changed: Cell::new(false),
            has_kept_gap: Cell::new(false),
            unusable: RefCell::default(),
            pending: BTreeMap::new(),
        }
    }
}

/// The names in a log's folder.
#[derive(Default)]
struct Names {
    /// Length and modification time.
    logs: BTreeMap<i64, (u64, i64)>,
    indexes: BTreeMap<i64, u64>,
    time_indexes: BTreeMap<i64, u64>,
    txn_indexes: BTreeMap<i64, u64>,
    snapshots: BTreeSet<i64>,
    has_epochs: bool,
}

impl<D: Disk> Log<D> {
    /// Makes the folder of a new partition, with an empty log that starts at `start_offset`.
    ///
    /// Nothing is synced: the first [`flush`](Log::flush) does that, and what a power cut takes before is
    /// made again from the metadata.
    pub async fn create(
        disk: D,
        dir: Arc<Path>,
        settings: Arc<LogSettings>,
        topic_id: TopicId,
        start_offset: Offset,
        options: OpenOptions,
    ) -> Result<Self, LogError> {
        let io = |operation, path: &Path, error| LogError::Io(Failure::new(operation, path, error));
        disk.create_dir(&dir)
            .await
            .map_err(|error| io(Operation::Open, &dir, error))?;
        let path = dir.join(PARTITION_METADATA);
        write_whole(&disk, &path, encode_partition_metadata(topic_id), false)
            .await
            .map_err(|error| io(Operation::Write, &path, error))?;
        let log = Self::from_opened(
            disk,
            dir,
            settings,
            Opened {
                segments: VecDeque::from([Segment::new(start_offset.0, options.now.0)]),
                log_start_offset: start_offset.0,
                log_end_offset: start_offset.0,
                recovery_point: start_offset.0,
                cleaned_to: options.cleaned_to.map(|offset| offset.0),
                producers: ProducerState::new(options.producer_expiration_ms, start_offset),
                producer_expiration_ms: options.producer_expiration_ms,
                epochs: EpochCache::new(),
                epochs_dirty: false,
                checkpoint_limit: None,
                head: Head::new(start_offset.0, options.now.0),
                budget: options.allocation,
            },
        );
        log.open_active().await?;
        {
            let mut state = log.state.borrow_mut();
            state.created_dirty = true;
            state.dir_dirty = true;
            // An idle partition holds no descriptors.
            state.active_mut().close_files();
        }
        Ok(log)
    }

    /// Opens the log in `dir`, recovering it unless it was stopped cleanly.
    pub async fn open(
        disk: D,
        dir: Arc<Path>,
        settings: Arc<LogSettings>,
        options: OpenOptions,
    ) -> Result<(Self, OpenReport), LogError> {
        let (opened, report, has_kept_gap) = {
            let loader = Loader::new(&disk, &dir, &settings, options.now);
            let (opened, report) = loader.load(&options).await?;
            (opened, report, loader.has_kept_gap.get())
        };
        let log = Self::from_opened(disk, dir, settings, opened);
        if !options.is_clean {
            // It may have been made just before the stop and never flushed.
            let mut state = log.state.borrow_mut();
            state.created_dirty = true;
            state.dir_dirty = true;
        }
        if has_kept_gap {
            // From now on the directory has a checkpoint, and a gap above what it says of this log is a hole.
            log.flush().await?;
        }
        Ok((log, report))
    }

    /// Reads the active segment anew after the log has been cut. Both gates are held.
    pub(super) async fn rebuild_active(&self, now: Timestamp) -> Result<(), LogError> {
        let dir = self.dir();
        let settings = self.settings();
        let mut loader = Loader::new(&self.disk, &dir, &settings, now);
        let (base_offset, first, start, expiration_ms, epochs) = {
            let mut state = self.state.borrow_mut();
            // They are written once they may be, and the next start reads them: it must not know other producers
            // than the log does from now on.
            let pending = state.snapshots.iter();
            loader.pending = pending.map(|(at, bytes)| (at.0, bytes.clone())).collect();
            state.active_mut().close_files();
            (
                state.active().base_offset,
                state.segments[0].base_offset,
                state.log_start_offset,
                state.producer_expiration_ms,
                state.epochs.clone(),
            )
        };
        let result = async {
            let file = loader.open(base_offset, FileKind::Log).await?;
            let len = loader.io(Operation::Read, base_offset, FileKind::Log, file.len())?;
            let rebuilt = loader
                .rebuild(base_offset, file, len, base_offset, 0, i64::MAX, true)
                .await?;
            let names = loader.list().await?;
            let mut segments = VecDeque::new();
            {
                let mut state = self.state.borrow_mut();
                let mut segment = rebuilt.segment;
                // Its markers are no more on the device than they were.
                segment.decides_from = state.active().decides_from;
                state.segments.pop_back();
                state.head = rebuilt.head;
                state.segments.push_back(segment);
                for segment in &state.segments {
                    segments.push_back((segment.base_offset, segment.size));
                }
            }
            for &snapshot in names.snapshots.range(rebuilt.next_offset + 1..) {
                loader.remove(snapshot, FileKind::Snapshot).await?;
            }
            let mut epochs = epochs;
            // Not from the log start offset, which a kill may take back: the next snapshot would not tell of producers
            // whose records are there again.
            let producers = loader
                .load_producers(
                    &segments,
                    &names,
                    first,
                    rebuilt.next_offset,
                    &BTreeSet::from([base_offset]),
                    &mut epochs,
                    expiration_ms,
                )
                .await?;
            let names = loader.list().await?;
            let mut state = self.state.borrow_mut();
            state.active_mut().is_cut = true;
            state.active_mut().has_txn_index = names.txn_indexes.contains_key(&base_offset);
            state.log_end_offset = rebuilt.next_offset;
            state.recovery_point = state.recovery_point.min(rebuilt.next_offset);
            state.log_start_offset = state.log_start_offset.min(rebuilt.next_offset);
            state.producers = producers;
            state.epochs_dirty = true;
            state.epochs = epochs;
            let log_start_offset = Offset(state.log_start_offset);
            if log_start_offset.0 > start {
                // Records were deleted meanwhile.
                state.epochs.truncate_from_start(log_start_offset);
            }
            state
                .producers
                .on_log_start_offset_incremented(log_start_offset);
            state.is_cutting = false;
            state
                .snapshots
                .retain(|(offset, _)| offset.0 <= rebuilt.next_offset);
            state.forget_positions();
            Ok::<(), LogError>(())
        }
        .await;
        match result {
            // The memory no longer says what the files say.
            Err(LogError::Io(failure)) => {
                let error = io::Error::new(failure.error.kind(), failure.error.to_string());
                Err(self.fail(failure.operation, Path::new(&*failure.path), error))
            }
            other => other,
        }
    }
}

impl<D: Disk> Loader<'_, D> {
    fn path(&self, base_offset: i64, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(Offset(base_offset), kind))
    }

    fn io<T>(
        &self,
        operation: Operation,
        base_offset: i64,
        kind: FileKind,
        result: io::Result<T>,
    ) -> Result<T, LogError> {
        result.map_err(|error| {
            LogError::Io(Failure::new(
                operation,
                &self.path(base_offset, kind),
                error,
            ))
        })
    }

    async fn open(&self, base_offset: i64, kind: FileKind) -> Result<D::File, LogError> {
        let path = self.path(base_offset, kind);
        let file = match kind {
            FileKind::Log => {
                let io = self.settings.log_io;
                self.disk.open_log(&path, OpenMode::Write, io).await
            }
            _ => self.disk.open(&path, OpenMode::Write).await,
        };
        self.io(Operation::Open, base_offset, kind, file)
    }

    /// Removes a file that must not come back.
    async fn remove(&self, base_offset: i64, kind: FileKind) -> Result<(), LogError> {
        self.names_changed.set(true);
        self.remove_path(&self.path(base_offset, kind)).await
    }

    /// Removes a file that does no harm if it comes back in a power cut.
    async fn remove_path(&self, path: &Path) -> Result<(), LogError> {
        match self.disk.remove_file(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LogError::Io(Failure::new(Operation::Remove, path, error)))
            }
            _ => Ok(()),
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), LogError> {
        self.names_changed.set(true);
        let result = self.disk.rename(from, to).await;
        result.map_err(|error| LogError::Io(Failure::new(Operation::Rename, from, error)))
    }

    async fn list(&self) -> Result<Names, LogError> {
        let entries = self
            .disk
            .list(self.dir)
            .await
            .map_err(|error| LogError::Io(Failure::new(Operation::List, self.dir, error)))?;
        let mut names = Names::default();
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            names.has_epochs |= entry.name == LEADER_EPOCH_CHECKPOINT;
            let Some((offset, kind)) = parse_file_name(&entry.name) else {
                continue;
            };
            match kind {
                FileKind::Log => {
                    names.logs.insert(offset.0, (entry.len, entry.modified.0));
                }
                FileKind::Index => {
                    names.indexes.insert(offset.0, entry.len);
                }
                FileKind::TimeIndex => {
                    names.time_indexes.insert(offset.0, entry.len);
                }
                FileKind::TxnIndex => {
                    names.txn_indexes.insert(offset.0, entry.len);
                }
                FileKind::Snapshot => {
                    names.snapshots.insert(offset.0);
                }
            }
        }
        Ok(names)
    }

    async fn load(&self, options: &OpenOptions) -> Result<(Opened<D::File>, OpenReport), LogError> {
        self.tidy().await?;
        let mut names = self.list().await?;
        let mut report = OpenReport::default();
        for (offset, kind) in orphans(&names) {
            self.remove_path(&self.path(offset, kind)).await?;
        }
        let mut segments: VecDeque<Segment<D::File>> = VecDeque::with_capacity(names.logs.len());
        let mut rebuilt_bases = BTreeSet::new();
        // Of these, the ones with batches that may not be on the device, or without ones that may be; and from where
        // to where those lie.
        let mut to_sync = BTreeMap::new();
        // Of each segment, and where it ends.
        let mut heads: Vec<(Head, i64)> = Vec::new();
        let mut next_offset = 0;
        let bases: Vec<i64> = names.logs.keys().copied().collect();
        let trusted = |next: Option<i64>| {
            options.is_clean || next.is_some_and(|next| next <= options.recovery_point.0)
        };
        let durable_to = self.flushed_to(options, &names);
        // A leader appends without gaps; a follower of a compacted log gets those that its leader has.
        let gaps_to = match self.settings.cleanup_policy.compact {
            true => i64::MAX,
            false => durable_to,
        };
        let nexts = bases.iter().skip(1).copied().map(Some).chain([None]);
        let trusted = bases.iter().zip(nexts).filter(|(_, next)| trusted(*next));
        let ends = self
            .index_ends(trusted.map(|(base, _)| *base), &names)
            .await?;
        for (i, &base_offset) in bases.iter().enumerate() {
            let (len, modified) = names.logs[&base_offset];
            let next_base = bases.get(i + 1).copied();
            let recovery_point = options.recovery_point.0;
            let is_gap = i > 0 && base_offset > next_offset.max(durable_to) && !options.is_clean;
            let is_natural = self.settings.cleanup_policy.compact && !options.has_checkpoint;
            if is_gap && is_natural {
                self.has_kept_gap.set(true);
            } else if is_gap {
                // What was written later may survive a power cut that took the end of the segment before: nobody was
                // promised either, but a log has no hole that was not there when it was written. The marker of a
                // transaction could be in it, and readers of committed records wait for ever.
                let (length, kept) = self.set_aside(&bases[i..], &names).await?;
                if length > 0 {
                    report.damage = Some(Damage {
                        offset: Offset(next_offset),
                        length,
                        kept,
                    });
                }
                break;
            }
            let mut is_suspect =
                !options.is_clean && next_base.is_none_or(|next| next > recovery_point);
            if !options.is_clean && next_base == Some(recovery_point) {
                // It was active when its end was flushed, and was closed since: it may not be cut yet.
                is_suspect = !self.ends_with_a_batch(base_offset, len, &ends).await?;
            }
            if !is_suspect
                && let Some((segment, its_head, its_end)) = self
                    .load_clean(base_offset, len, modified, next_base, &names, &ends)
                    .await?
            {
                segments.push_back(segment);
                next_offset = its_end;
                heads.push((its_head, its_end));
                continue;
            }
            let file = self.open(base_offset, FileKind::Log).await?;
            // By a start that comes once it has been cut.
            let is_trusted = next_base.is_some_and(|next| next <= recovery_point);
            let rebuilt = self
                .rebuild(
                    base_offset,
                    file.clone(),
                    len,
                    next_offset.max(base_offset),
                    if is_suspect { recovery_point } else { 0 },
                    if is_suspect { gaps_to } else { i64::MAX },
                    !is_suspect || is_trusted,
                )
                .await?;
            rebuilt_bases.insert(base_offset);
            report.recovered_segments += 1;
            report.recovered_bytes += rebuilt.checked;
            report.rebuilt_indexes += usize::from(!is_suspect);
            let mut segment = rebuilt.segment;
            segment.last_modified = modified;
            next_offset = rebuilt.next_offset;
            // One that was empty stays so, and a node may have thousands of them.
            let indexes = [&names.indexes, &names.time_indexes];
            let had_entries = indexes
                .iter()
                .any(|index| index.get(&base_offset).is_some_and(|len| *len > 0));
            // The first flush puts the indexes there, and the end of the file.
            segment.is_cut = is_suspect && (len > 0 || had_entries || next_offset < recovery_point);
            segment.indexes_synced = !segment.is_cut;
            segment.synced_size = segment.size;
            segments.push_back(segment);
            heads.push((rebuilt.head, next_offset));
            let overlaps = next_base.is_some_and(|next| next < next_offset);
            let is_cut = rebuilt.valid < rebuilt.content || overlaps;
            let is_flushed = match is_suspect {
                // One that ends below was cut, maybe not on the device; room behind the end does no harm.
                true => {
                    let is_empty = rebuilt.valid == 0 && base_offset >= recovery_point;
                    next_offset == recovery_point || is_empty
                }
                false => rebuilt.valid == len,
            };
            if is_cut || !is_flushed {
                let from = rebuilt.valid - rebuilt.checked.min(rebuilt.valid);
                to_sync.insert(base_offset, (from, rebuilt.valid));
            }
            if is_cut {
                let bad = rebuilt.content - rebuilt.valid;
                let later = &bases[i + 1..];
                let is_damage =
                    rebuilt.is_damage || later.iter().any(|base| names.logs[base].0 > 0);
                let mut kept = Vec::new();
                if is_damage && bad > 0 {
                    let (from, to) = (rebuilt.valid, rebuilt.content);
                    kept.push(self.keep_tail(base_offset, &file, from, to).await?);
                }
                let (later_bytes, later) = self.set_aside(later, &names).await?;
                if is_damage {
                    kept.extend(later);
                    report.damage = Some(Damage {
                        offset: Offset(next_offset),
                        length: bad + later_bytes,
                        kept,
                    });
                } else {
                    report.truncated_bytes += bad;
                }
            }
            // Also gives back what was allocated behind the end.
            let cut = file.truncate(rebuilt.valid).await;
            self.io(Operation::Truncate, base_offset, FileKind::Log, cut)?;
            if is_cut {
                break;
            }
        }
        let wanted_start = options.log_start_offset.map_or(0, |offset| offset.0);
        if segments.is_empty() {
            segments.push_back(Segment::new(wanted_start, self.now.0));
            next_offset = wanted_start;
        }
        let first = segments[0].base_offset;
        let mut log_start_offset = wanted_start.max(first);
        let mut begins_anew = log_start_offset > next_offset;
        if begins_anew && options.is_clean && rebuilt_bases.is_empty() {
            // No log stops in order like that: the checkpoint says another number than was written. Nothing is
            // deleted for it.
            begins_anew = false;
            log_start_offset = first;
            let data_dir = self.dir.parent().unwrap_or(self.dir);
            let path = data_dir.join(LOG_START_OFFSET_CHECKPOINT);
            self.unusable.borrow_mut().push(path);
        }
        if begins_anew {
            // All that is left lies below the log start: records that were deleted, while what came after
            // them did not survive. The log begins anew where readers were told that it starts.
            for segment in segments.drain(..) {
                for kind in [
                    FileKind::Log,
                    FileKind::Index,
                    FileKind::TimeIndex,
                    FileKind::TxnIndex,
                ] {
                    self.remove(segment.base_offset, kind).await?;
                }
            }
            segments.push_back(Segment::new(log_start_offset, self.now.0));
            next_offset = log_start_offset;
            rebuilt_bases.clear();
            to_sync.clear();
            heads.clear();
        }
        log_start_offset = log_start_offset.max(segments[0].base_offset);
        let head = heads
            .pop()
            .map_or_else(|| Head::new(next_offset, self.now.0), |(head, _)| head);
        for &snapshot in names.snapshots.clone().range(next_offset + 1..) {
            self.remove(snapshot, FileKind::Snapshot).await?;
            names.snapshots.remove(&snapshot);
        }
        let bounds: VecDeque<(i64, u32)> =
            segments.iter().map(|s| (s.base_offset, s.size)).collect();
        let mut epochs = self.load_epochs(&names, &bounds).await?;
        let known_epochs = epochs.clone();
        let producers = self
            .load_producers(
                &bounds,
                &names,
                log_start_offset,
                next_offset,
                &rebuilt_bases,
                &mut epochs,
                options.producer_expiration_ms,
            )
            .await?;
        epochs.truncate_from_end(Offset(next_offset));
        epochs.truncate_from_start(Offset(log_start_offset));
        self.remove_stray_snapshots(&names, &segments, next_offset)
            .await?;
        let mut recovery_point = options.recovery_point.0.clamp(0, next_offset);
        if options.is_clean {
            recovery_point = next_offset;
        }
        if !rebuilt_bases.is_empty() {
            let names = self.list().await?;
            for segment in &mut segments {
                segment.has_txn_index = names.txn_indexes.contains_key(&segment.base_offset);
            }
            for (&base_offset, &(from, to)) in &to_sync {
                let file = self.open(base_offset, FileKind::Log).await?;
                let synced = file.write_again(from, to).await;
                self.io(Operation::Sync, base_offset, FileKind::Log, synced)?;
            }
            if !options.is_clean {
                recovery_point = next_offset;
            }
        }
        // The first flush syncs the folder of a log that was empty and is.
        let has_records = segments.len() > 1
            || begins_anew
            || !to_sync.is_empty()
            || segments
                .iter()
                .any(|segment| segment.is_cut || segment.size > 0);
        let flushed_to = match options.is_clean {
            true => next_offset,
            false => options.recovery_point.0,
        };
        if !to_sync.is_empty() {
            // A start that was killed before this one may have changed them, too.
            self.names_changed.set(true);
        }
        if has_records {
            self.sync_names(&segments, next_offset, flushed_to).await?;
        }
        // A flush that got past its beginning has put an epoch on the device.
        let is_kept = |entry: &EpochEntry| entry.start_offset.0 < flushed_to;
        let was_unusable = !self.unusable.borrow().is_empty();
        let epochs_dirty = was_unusable
            || !rebuilt_bases.is_empty()
                && (epochs != known_epochs || !epochs.entries().iter().all(is_kept));
        report.unusable = self.unusable.take();
        Ok((
            Opened {
                segments,
                log_start_offset,
                log_end_offset: next_offset,
                recovery_point: recovery_point.max(log_start_offset),
                cleaned_to: options.cleaned_to.map(|offset| offset.0),
                producers,
                producer_expiration_ms: options.producer_expiration_ms,
                epochs,
                epochs_dirty,
                checkpoint_limit: (!rebuilt_bases.is_empty()).then_some(flushed_to),
                head,
                budget: options.allocation.clone(),
            },
            report,
        ))
    }

    /// Syncs the folder if the names in it may be others after a power cut, in a way that would show: they have
    /// changed here, or no flush has passed the beginning of a segment with batches since it was made.
    async fn sync_names(
        &self,
        segments: &VecDeque<Segment<D::File>>,
        end: i64,
        flushed_to: i64,
    ) -> Result<(), LogError> {
        let first = segments[0].base_offset;
        let mut with_batches = segments.iter().filter(|segment| segment.size > 0);
        let is_unsure = end < flushed_to || with_batches.any(|s| s.base_offset >= flushed_to);
        if is_unsure && first >= flushed_to {
            // The folder's own name is no surer.
            let path = self.dir.join(PARTITION_METADATA);
            let synced = write_file_again(self.disk, &path).await;
            synced.map_err(|error| LogError::Io(Failure::new(Operation::Sync, &path, error)))?;
        }
        let parent = self.dir.parent().filter(|_| first >= flushed_to);
        let dirs = [Some(self.dir), parent.filter(|_| is_unsure)];
        for dir in dirs.into_iter().flatten() {
            if is_unsure || self.names_changed.get() {
                let synced = self.disk.sync_dir(dir).await;
                synced.map_err(|error| LogError::Io(Failure::new(Operation::Sync, dir, error)))?;
            }
        }
        Ok(())
    }

    /// Below, all is known to have been on the device, as far as the cleaner has left it: it was the recovery point,
    /// or is the offset of a snapshot of producers, which is written of nothing else.
    fn flushed_to(&self, options: &OpenOptions, names: &Names) -> i64 {
        let cleaned_to = options.cleaned_to.map_or(0, |offset| offset.0);
        let snapshot = names.snapshots.last().copied().unwrap_or(0);
        options.recovery_point.0.max(cleaned_to).max(snapshot)
    }
}

/// Indexes without a `.log`.
fn orphans(names: &Names) -> Vec<(i64, FileKind)> {
    let lists = [
        (
            FileKind::Index,
            names.indexes.keys().copied().collect::<Vec<i64>>(),
        ),
        (
            FileKind::TimeIndex,
            names.time_indexes.keys().copied().collect(),
        ),
        (
            FileKind::TxnIndex,
            names.txn_indexes.keys().copied().collect(),
        ),
    ];
    let mut orphans = Vec::new();
    for (kind, offsets) in lists {
        for offset in offsets {
            if !names.logs.contains_key(&offset) {
                orphans.push((offset, kind));
            }
        }
    }
    orphans
}
