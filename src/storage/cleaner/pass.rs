//! One pass over a log.

use super::filter::{Cleaned, Filter};
use super::offset_map::OffsetMap;
use super::range::{Bounds, Cleanable, Piece, Source, cleanable, groups};
use super::reader::{BatchReader, ReadError};
use super::records::Records;
use super::staging::Staging;
use super::transactions::Transactions;
use super::{CleanError, Cleaner, Limits, Pace};
use crate::base::{Offset, Timestamp};
use crate::records::BatchHeader;
use crate::storage::disk::{Disk, LogFile, OpenMode};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::log::Log;
use crate::storage::names::FileKind;
use crate::storage::producer_snapshot;
use crate::storage::recovery::SMALL_FILE_BYTES;
use crate::storage::segment::{Segment, Step};
use crate::storage::state::State;

/// A record takes as long as so many bytes, however small its key is.
const RECORD_COST: usize = 128;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// The keys of all records below were looked at.
    pub cleaned_to: Offset,
    /// Keys in the map.
    pub keys: usize,
    /// The map was full: there is more to clean.
    pub map_was_full: bool,
    pub segments_before: usize,
    pub segments_after: usize,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What was gathered of the dirty part.
struct Mapped {
    map: OffsetMap,
    to: i64,
    is_full: bool,
}

impl<D: Disk> Log<D> {
    /// Where the last pass ended; `None` if there was none.
    pub fn cleaned_to(&self) -> Option<Offset> {
        let state = self.state.borrow();
        state.cleaned_to.map(|at| Offset(state.as_lowered(at)))
    }

    /// What is to be cleaned of the log, of which all is decided below `last_stable_offset`.
    pub async fn cleanable(
        &self,
        last_stable_offset: Offset,
        now: Timestamp,
    ) -> Result<Cleanable, LogError> {
        self.generation().await?;
        // What is told as stable is of now.
        let truncations = self.state.borrow().truncations;
        let settings = self.settings();
        if settings.max_compaction_lag_ms < i64::MAX.unsigned_abs() {
            self.look_at_first_batches().await?;
        }
        let state = self.state.borrow();
        state.check()?;
        let pieces: Vec<Piece> = state.segments.iter().map(piece).collect();
        let bounds = Bounds {
            first_offset: state.segments[0].base_offset,
            log_end_offset: state.log_end_offset,
            // An old value must not go for a new one that a power cut may take, nor for one of a transaction whose
            // marker it may take.
            last_stable_offset: last_stable_offset
                .0
                .min(state.recovery_point)
                .min(undecided_from(&state)),
            cleaned_to: state.cleaned_to,
        };
        Ok(Cleanable {
            truncations,
            ..cleanable(&pieces, bounds, &settings, now)
        })
    }

    /// Has the timestamp of the first batch of every closed dirty segment noted.
    async fn look_at_first_batches(&self) -> Result<(), LogError> {
        loop {
            let (base_offset, size) = {
                let state = self.state.borrow();
                state.check()?;
                let dirty = state.cleaned_to.unwrap_or(0);
                let from = state.segment_index(dirty);
                let closed = state.segments.len() - 1;
                let unknown = state.segments.range(from.min(closed)..closed);
                let mut unknown = unknown.filter(|s| s.size > 0 && s.first_timestamp().is_none());
                match unknown.next() {
                    Some(segment) => (segment.base_offset, segment.size),
                    None => return Ok(()),
                }
            };
            let first = async {
                let mut walk = self.walk(base_offset, 0, size).await?;
                self.step(&mut walk, base_offset).await
            };
            let first = first.await;
            let mut state = self.state.borrow_mut();
            // Otherwise retention took it meanwhile, and what was read says nothing.
            if let Some(segment) = state.segment_mut(base_offset) {
                segment.set_first_timestamp(match first? {
                    Step::Batch { header, .. } => header.max_timestamp.0,
                    _ => -1,
                });
            }
        }
    }

    /// Cleans what [`cleanable`](Self::cleanable) has told. One call at a time.
    pub async fn clean(
        &self,
        cleaner: &mut Cleaner,
        limits: Limits,
        range: &Cleanable,
        now: Timestamp,
        pace: &impl Pace,
    ) -> Result<Pass, CleanError> {
        self.state.borrow().check()?;
        let truncations = range.truncations;
        self.keep_producers(range.first_uncleanable, truncations, now)
            .await?;
        let before = self.first_base_offset();
        // What retention had removed by then does not come back.
        let synced_from = before;
        let mapped = self.map_keys(cleaner, limits, range, pace).await;
        let mut mapped = self.or_aborted(truncations, before, pace, mapped)?;
        let sources = self.sources(range.first_uncleanable.0.min(mapped.to));
        let mut pass = Pass {
            cleaned_to: Offset(mapped.to),
            keys: mapped.map.len(),
            map_was_full: mapped.is_full,
            ..Pass::default()
        };
        let filter = Filter {
            map: &mapped.map,
            mapped_to: mapped.to,
            round_end: range.first_uncleanable.0,
            now,
            delete_retention_ms: self.settings().delete_retention_ms,
        };
        let mut transactions = Transactions::default();
        for group in groups(&sources, &self.settings()) {
            let before = self.first_base_offset();
            let done = self
                .clean_group(
                    cleaner,
                    limits,
                    &group,
                    &filter,
                    &mut transactions,
                    (truncations, synced_from),
                    pace,
                )
                .await;
            let bytes = self.or_aborted(truncations, before, pace, done)?;
            pass.segments_before += group.len();
            pass.segments_after += 1;
            pass.bytes_before += group.iter().map(|s| u64::from(s.size)).sum::<u64>();
            pass.bytes_after += bytes;
        }
        while mapped.map.free_piece() {
            pace.worked(64 * 1024).await;
        }
        let mut state = self.state.borrow_mut();
        state.check()?;
        if state.truncations != truncations {
            return Err(CleanError::Aborted);
        }
        state.cleaned_to = Some(mapped.to);
        Ok(pass)
    }

    /// Has the state of the producers at `offset`, where a segment begins, on the device under its name: without the
    /// markers that go, it could not be found again from an older one. Where it was lost, it is made from that now.
    async fn keep_producers(
        &self,
        offset: Offset,
        truncations: u64,
        now: Timestamp,
    ) -> Result<(), CleanError> {
        let _segments = self.segments_gate.enter().await;
        let _gate = self.prepare_gate.enter().await;
        self.state.borrow().check()?;
        if self.state.borrow().truncations != truncations {
            // It would tell of producers behind the end.
            return Err(CleanError::Aborted);
        }
        if self.sources(offset.0).is_empty() {
            return Ok(());
        }
        self.write_snapshots(true).await?;
        let path = self.path(offset.0, FileKind::Snapshot);
        let failed = |error| LogError::Io(Failure::new(Operation::Sync, &path, error));
        let is_there = match self.disk.read_file(&path, SMALL_FILE_BYTES).await {
            Ok(bytes) => producer_snapshot::decode(&bytes).is_ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed(error).into()),
        };
        match is_there {
            true => {
                let file = self.disk.open(&path, OpenMode::Write).await;
                file.map_err(failed)?.sync_data().await.map_err(failed)?;
            }
            false => self.rebuild_snapshot(offset, now).await?,
        }
        let dir = self.dir();
        Ok(self.sync_dir(&dir).await?)
    }

    pub(super) fn first_base_offset(&self) -> i64 {
        self.state.borrow().segments[0].base_offset
    }

    /// What went wrong while the log was cut under the pass, at either end, says nothing about the log.
    fn or_aborted<T>(
        &self,
        truncations: u64,
        first_base_offset: i64,
        pace: &impl Pace,
        result: Result<T, CleanError>,
    ) -> Result<T, CleanError> {
        let state = self.state.borrow();
        state.check()?;
        if state.truncations != truncations || pace.is_stopped() {
            return Err(CleanError::Aborted);
        }
        result.map_err(|error| match error {
            CleanError::Log(LogError::Io(_))
                if state.segments[0].base_offset != first_base_offset =>
            {
                CleanError::Aborted
            }
            error => error,
        })
    }

    /// The closed segments that begin below `end`.
    fn sources(&self, end: i64) -> Vec<Source> {
        let state = self.state.borrow();
        let next = state.segments.iter().skip(1);
        let with_next = state.segments.iter().zip(next);
        with_next
            .filter(|(segment, _)| segment.base_offset < end)
            .map(|(segment, next)| Source {
                base_offset: segment.base_offset,
                end: next.base_offset,
                size: segment.size,
                index_bytes: u64::from(segment.index_entries) * 8,
                time_index_bytes: u64::from(segment.time_entries) * 12,
            })
            .collect()
    }

    /// Gathers the keys of the dirty part.
    async fn map_keys(
        &self,
        cleaner: &mut Cleaner,
        limits: Limits,
        range: &Cleanable,
        pace: &impl Pace,
    ) -> Result<Mapped, CleanError> {
        let (first_dirty, end) = (range.first_dirty.0, range.first_uncleanable.0);
        let records = u64::try_from(end - first_dirty).unwrap_or(0);
        let mut mapped = Mapped {
            map: OffsetMap::new(limits.map_bytes, limits.load_factor, records),
            to: first_dirty,
            is_full: false,
        };
        let mut transactions = Transactions::default();
        let aborted = self.aborted_transactions(range.first_dirty, range.first_uncleanable);
        transactions.add_aborted(&aborted.await?);
        for source in self.sources(end) {
            if source.end <= first_dirty {
                continue;
            }
            let mut position = 0;
            if source.base_offset < first_dirty {
                let place = self.batch_place(first_dirty).await?;
                position = match place.base_offset == source.base_offset {
                    true => place.position,
                    false => source.size,
                };
            }
            let mut reader = self.reader(&source, position, limits).await?;
            loop {
                let at = reader.position();
                let next = reader.next(pace).await;
                let Some((header, batch)) = next.map_err(|e| self.read_error(&source, e))? else {
                    break;
                };
                let bad = || self.corrupt(&source, at);
                let is_hidden = match header.is_control() {
                    true => transactions.on_control(&header, batch).map(|_| true),
                    false => Ok(transactions.on_batch(&header)),
                };
                if is_hidden.map_err(|_| bad())? {
                    continue;
                }
                let records = Records::new(&header, batch, &mut cleaner.scratch);
                let mut records = records.map_err(|_| bad())?;
                while let Some((record, bytes)) = records.next().map_err(|_| bad())? {
                    let offset = header.base_offset.0 + i64::from(record.offset_delta);
                    if let Some(key) = record.key
                        && offset >= first_dirty
                        && !mapped.map.put(key, offset)
                    {
                        mapped.to = offset;
                        mapped.is_full = true;
                        return Ok(mapped);
                    }
                    let cost = bytes.len().max(RECORD_COST);
                    pace.worked(cost).await;
                    if pace.is_stopped() {
                        return Err(CleanError::Aborted);
                    }
                }
            }
            mapped.to = source.end.min(end);
        }
        Ok(mapped)
    }

    /// Writes a group anew and puts it into its place. Returns the bytes of the new segment.
    #[allow(clippy::too_many_arguments)]
    async fn clean_group(
        &self,
        cleaner: &mut Cleaner,
        limits: Limits,
        group: &[Source],
        filter: &Filter<'_>,
        transactions: &mut Transactions,
        (truncations, synced_from): (u64, i64),
        pace: &impl Pace,
    ) -> Result<u64, CleanError> {
        let base_offset = group[0].base_offset;
        let failed = |error| {
            let path = self.path(base_offset, FileKind::Log);
            CleanError::Log(LogError::Io(Failure::new(Operation::Write, &path, error)))
        };
        let created = Staging::create(self, base_offset, filter.now).await;
        let mut staging = created.map_err(failed)?;
        let result = async {
            for source in group {
                self.rewrite(
                    cleaner,
                    limits,
                    source,
                    filter,
                    transactions,
                    &mut staging,
                    pace,
                )
                .await?;
            }
            if group.len() == 1 && !staging.changed {
                return Ok(false);
            }
            let segment: Segment<D::File> = staging.finish(self, pace).await.map_err(failed)?;
            self.swap(group, (truncations, synced_from), &staging, segment)
                .await?;
            Ok(true)
        }
        .await;
        let size = staging.size();
        if !matches!(result, Ok(true)) {
            staging.remove(self).await;
        }
        result.map(|_| size)
    }

    #[allow(clippy::too_many_arguments)]
    async fn rewrite(
        &self,
        cleaner: &mut Cleaner,
        limits: Limits,
        source: &Source,
        filter: &Filter<'_>,
        transactions: &mut Transactions,
        staging: &mut Staging<D::File>,
        pace: &impl Pace,
    ) -> Result<(), CleanError> {
        let failed = |error| {
            let path = self.path(source.base_offset, FileKind::Log);
            CleanError::Log(LogError::Io(Failure::new(Operation::Write, &path, error)))
        };
        let aborted = self.aborted_transactions(Offset(source.base_offset), Offset(source.end));
        transactions.add_aborted(&aborted.await?);
        let mut reader = self.reader(source, 0, limits).await?;
        loop {
            let at = reader.position();
            let next = reader.next(pace).await;
            let Some((header, batch)) = next.map_err(|e| self.read_error(source, e))? else {
                break;
            };
            let bad = || self.corrupt(source, at);
            let is_last = self.is_last_of_producer(&header);
            let fate = filter
                .fate(&header, batch, transactions, is_last)
                .map_err(|_| bad())?;
            let cleaned = filter
                .clean(&header, batch, fate, &mut cleaner.scratch, pace)
                .await
                .map_err(|_| bad())?;
            match cleaned {
                Cleaned::Gone => staging.changed = true,
                Cleaned::Unchanged => staging.put(&header, batch, pace).await.map_err(failed)?,
                Cleaned::Changed(batch) => {
                    staging.changed = true;
                    let header = BatchHeader::parse(&batch).map_err(|_| bad())?;
                    staging.put(&header, &batch, pace).await.map_err(failed)?;
                }
            }
            if pace.is_stopped() {
                return Err(CleanError::Aborted);
            }
        }
        staging.transactions.extend(transactions.take_index());
        Ok(())
    }

    /// Whether the batch is the last that its producer has in the log: its last data, or if there is none
    /// known its marker.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let state = self.state.borrow();
        let Some(producer) = state.producers.get(header.producer_id) else {
            return false;
        };
        match producer.last_batch() {
            Some(batch) => batch.last_offset == header.last_offset(),
            None => header.is_control() && header.producer_epoch == producer.producer_epoch,
        }
    }

    async fn reader(
        &self,
        source: &Source,
        position: u32,
        limits: Limits,
    ) -> Result<BatchReader<D::File>, CleanError> {
        let is_there = {
            let mut state = self.state.borrow_mut();
            state.segment_mut(source.base_offset).is_some()
        };
        if !is_there {
            // Retention took it.
            return Err(CleanError::Aborted);
        }
        let file = self.file_of(source.base_offset).await?;
        let end = u64::from(source.size);
        Ok(BatchReader::new(
            file,
            position.into(),
            end,
            source.base_offset..source.end,
            limits.io_bytes,
        ))
    }

    fn read_error(&self, source: &Source, error: ReadError) -> CleanError {
        match error {
            ReadError::Io(error) => self.read_failed(source.base_offset, error).into(),
            ReadError::Bad { position } => self.corrupt(source, position),
        }
    }

    fn corrupt(&self, source: &Source, position: u64) -> CleanError {
        let path = self.path(source.base_offset, FileKind::Log);
        CleanError::Corrupt {
            path: path.display().to_string(),
            position,
        }
    }
}

/// Where the first transaction begins that is ended by a marker which may not be on the device.
fn undecided_from<F: LogFile>(state: &State<F>) -> i64 {
    let flushed = state
        .segments
        .partition_point(|segment| segment.base_offset <= state.recovery_point);
    let from = match state.recovery_point < state.log_end_offset {
        true => flushed.saturating_sub(1),
        false => flushed,
    };
    let segments = state.segments.iter().skip(from);
    segments.map(|s| s.decides_from).min().unwrap_or(i64::MAX)
}

fn piece<F: LogFile>(segment: &Segment<F>) -> Piece {
    Piece {
        base_offset: segment.base_offset,
        size: segment.size.into(),
        largest_timestamp: segment.largest_timestamp(),
        first_timestamp: segment.first_timestamp(),
    }
}
