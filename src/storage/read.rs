//! Reading a log by ranges of its files.
//!
//! A read finds the position of its first batch and that of its end, and hands out the range between; the
//! bytes are not touched. Both are mostly known without looking: readers that go on where they stopped
//! and the ends of recent writes are remembered with their positions. Otherwise the index names a batch
//! at most `index.interval.bytes` before, and a walk over headers finds the rest.

use super::disk::{Disk, LogFile, LogSlice, OpenMode};
use super::error::{Failure, LogError, Operation};
use super::index::{OffsetEntry, Search, search_file};
use super::log::Log;
use super::names::FileKind;
use super::segment::{HeaderWalk, Step};
use super::state::{Mark, READERS, State};
use crate::base::Offset;

/// Closed segments whose files are kept open.
const OPEN_SEGMENTS: usize = 4;

/// What a read found.
#[derive(Clone, Debug)]
pub struct ReadOut {
    /// Whole batches, the first of which has the offset that was asked for or, where that is gone, the
    /// next. `None` if there is nothing to read, or the first batch is larger than was asked for.
    pub slice: Option<LogSlice>,
    /// The offset at which the next read goes on: one past the batches here.
    pub next_offset: Offset,
    pub log_start_offset: Offset,
    pub log_end_offset: Offset,
}

impl ReadOut {
    /// Bytes of batches.
    pub fn size_in_bytes(&self) -> usize {
        self.slice.as_ref().map_or(0, LogSlice::len)
    }
}

/// Position of a batch within the segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) base_offset: i64,
    pub(super) position: u32,
    /// Of the segment.
    pub(super) size: u32,
}

impl<D: Disk> Log<D> {
    /// Reads batches from `start` on, as far as `upper_offset` (exclusive; the high watermark or the last
    /// stable offset) and about `max_bytes`.
    ///
    /// The batch that contains `start` comes whole, even if it begins before. At most `max_bytes` are
    /// returned, in whole batches, except that with `min_one_batch` the first batch comes even if larger
    /// (KIP-74). A `start` below the log start or beyond the log end is `OffsetOutOfRange`; between
    /// `upper_offset` and the log end there is nothing to read.
    ///
    /// `upper_offset` must be a batch boundary; within a batch, that batch is left out.
    pub async fn read(
        &self,
        start: Offset,
        max_bytes: u32,
        upper_offset: Offset,
        min_one_batch: bool,
    ) -> Result<ReadOut, LogError> {
        loop {
            let generation = self.generation().await?;
            self.check_range(start)?;
            let out = self
                .try_read(start.0, max_bytes, upper_offset.0, min_one_batch)
                .await;
            // A read that crossed a truncation or deletion may have gone wrong in any way. Where the whole log was
            // deleted, a file may not have been found; what was is as it was.
            let is_sound = {
                let state = self.state.borrow();
                state.generation == generation
                    || out.is_ok() && state.is_deleted && state.generation == generation + 1
            };
            if is_sound {
                return out.map(|(out, mark)| {
                    if let Some(mark) = mark {
                        self.remember_reader(start.0, mark);
                    }
                    out
                });
            }
        }
    }

    fn check_range(&self, offset: Offset) -> Result<(), LogError> {
        let state = self.state.borrow();
        if offset.0 < state.log_start_offset || offset.0 > state.log_end_offset {
            return Err(LogError::OffsetOutOfRange {
                offset,
                log_start_offset: Offset(state.log_start_offset),
                log_end_offset: Offset(state.log_end_offset),
            });
        }
        Ok(())
    }

    /// The read, and where its reader will go on.
    async fn try_read(
        &self,
        start: i64,
        max_bytes: u32,
        upper: i64,
        min_one_batch: bool,
    ) -> Result<(ReadOut, Option<Mark>), LogError> {
        let mut out = {
            let state = self.state.borrow();
            ReadOut {
                slice: None,
                next_offset: Offset(start),
                log_start_offset: Offset(state.log_start_offset),
                log_end_offset: Offset(state.log_end_offset),
            }
        };
        let upper = upper.min(out.log_end_offset.0);
        if start >= upper {
            return Ok((out, None));
        }
        let end = self.end_place(upper).await?;
        let mut from = self.batch_place(start).await?;
        // What the cleaner has left may begin in a later segment.
        while from.position >= from.size && from.base_offset < end.base_offset {
            let state = self.state.borrow();
            let next = state.segment_index(from.base_offset) + 1;
            let Some(segment) = state.segments.get(next) else {
                return Ok((out, None));
            };
            from = Place {
                base_offset: segment.base_offset,
                position: 0,
                size: segment.size,
            };
        }
        let is_last = from.base_offset == end.base_offset;
        let limit = if is_last { end.position } else { from.size };
        if from.base_offset > end.base_offset || from.position >= limit {
            return Ok((out, None));
        }
        let file = self.file_of(from.base_offset).await?;
        let loan = file.lend(max_bytes);
        let max_bytes = loan.max_bytes;
        let available = limit - from.position;
        let (len, next) = if available <= max_bytes {
            let next = if is_last {
                upper
            } else {
                self.end_of_segment(from.base_offset)
            };
            (available, next)
        } else {
            let whole = self
                .whole_batches(from, limit, max_bytes, min_one_batch)
                .await?;
            match whole {
                Some(whole) => whole,
                None => return Ok((out, None)),
            }
        };
        let slice = file
            .slice(u64::from(from.position), len, loan)
            .await
            .map_err(|error| self.read_failed(from.base_offset, error))?;
        out.slice = Some(slice);
        out.next_offset = Offset(next);
        let mark = Mark {
            offset: next,
            base_offset: from.base_offset,
            position: from.position + len,
        };
        Ok((out, Some(mark)))
    }

    /// Where the batch is that has `offset`, or the first one after it. At the end of a segment, if that
    /// has none.
    pub(super) async fn batch_place(&self, offset: i64) -> Result<Place, LogError> {
        let (known, base_offset, size) = {
            let state = self.state.borrow();
            let segment = &state.segments[state.segment_index(offset)];
            let known = find_mark(&state, offset);
            (known, segment.base_offset, segment.size)
        };
        if let Some(mark) = known {
            let state = self.state.borrow();
            let at = state.segment_index(mark.base_offset);
            // The end of a segment is the beginning of the next.
            if let Some(segment) = state.segments.get(at)
                && segment.base_offset == mark.base_offset
                && (mark.position < segment.size || at + 1 == state.segments.len())
            {
                return Ok(Place {
                    base_offset: mark.base_offset,
                    position: mark.position,
                    size: segment.size,
                });
            }
        }
        if offset <= base_offset {
            return Ok(Place {
                base_offset,
                position: 0,
                size,
            });
        }
        let relative = u32::try_from(offset - base_offset).unwrap_or(u32::MAX);
        let entry = self
            .search_offset_index(base_offset, |entry| entry.relative_offset <= relative)
            .await?;
        let mut walk = self.walk_from(base_offset, entry, 0, size).await?;
        loop {
            match self.step(&mut walk, base_offset).await? {
                Step::Batch { position, header } if header.last_offset().0 >= offset => {
                    return Ok(Place {
                        base_offset,
                        position: position as u32,
                        size,
                    });
                }
                Step::Batch { .. } => {}
                _ => {
                    return Ok(Place {
                        base_offset,
                        position: size,
                        size,
                    });
                }
            }
        }
    }

    /// Where a read that may go up to `upper` ends.
    async fn end_place(&self, upper: i64) -> Result<Place, LogError> {
        {
            let state = self.state.borrow();
            if upper >= state.log_end_offset {
                let active = state.active();
                return Ok(Place {
                    base_offset: active.base_offset,
                    position: active.size,
                    size: active.size,
                });
            }
        }
        self.batch_place(upper).await
    }

    fn end_of_segment(&self, base_offset: i64) -> i64 {
        let state = self.state.borrow();
        let next = state.segment_index(base_offset) + 1;
        match state.segments.get(next) {
            Some(segment) => segment.base_offset,
            None => state.log_end_offset,
        }
    }

    /// Length and next offset of the batches from `from` that fit into `max_bytes`; `None` if not even
    /// the first does and is not wanted whole.
    async fn whole_batches(
        &self,
        from: Place,
        limit: u32,
        max_bytes: u32,
        min_one_batch: bool,
    ) -> Result<Option<(u32, i64)>, LogError> {
        let target = u64::from(from.position) + u64::from(max_bytes);
        // The index spares most of the walk.
        let entry = self
            .search_offset_index(from.base_offset, |entry| {
                u64::from(entry.position) <= target
            })
            .await?;
        let mut walk = self
            .walk_from(from.base_offset, entry, from.position, limit)
            .await?;
        let mut end = None;
        let mut next = 0;
        while let Step::Batch { position, header } = self.step(&mut walk, from.base_offset).await? {
            let batch_end = position + header.size_in_bytes() as u64;
            if batch_end > target {
                // The walk may have begun behind batches that fit.
                if position > u64::from(from.position) {
                    end = Some(position);
                    next = header.base_offset.0;
                } else if min_one_batch {
                    end = Some(batch_end);
                    next = header.next_offset().0;
                }
                break;
            }
            end = Some(batch_end);
            next = header.next_offset().0;
        }
        Ok(end.map(|end| ((end - u64::from(from.position)) as u32, next)))
    }

    /// A reader that came from `start` will go on at `mark`.
    fn remember_reader(&self, start: i64, mark: Mark) {
        let state = &mut *self.state.borrow_mut();
        let same = |reader: &&mut Mark| reader.offset == start || reader.offset == mark.offset;
        if let Some(reader) = state.readers.iter_mut().find(same) {
            *reader = mark;
        } else if state.readers.len() < READERS {
            state.readers.push(mark);
        } else {
            let at = state.next_reader as usize % READERS;
            state.readers[at] = mark;
            state.next_reader = state.next_reader.wrapping_add(1);
        }
    }

    /// The last entry for which `holds` of the offset index of the segment at `base_offset`.
    pub(super) async fn search_offset_index(
        &self,
        base_offset: i64,
        holds: impl Fn(OffsetEntry) -> bool,
    ) -> Result<Option<OffsetEntry>, LogError> {
        let holds = |entry| holds(OffsetEntry::decode(entry));
        let (file, persisted) = {
            let mut state = self.state.borrow_mut();
            let Some(segment) = state.segment_mut(base_offset) else {
                return Ok(None);
            };
            let index = &segment.held().offset_index;
            if let Search::Found(entry) = index.search_tail(holds) {
                return Ok(Some(OffsetEntry::decode(entry)));
            }
            (index.file.clone(), segment.index_entries)
        };
        if persisted == 0 {
            return Ok(None);
        }
        let file = match file {
            Some(file) => file,
            None => self.open_index(base_offset, FileKind::Index).await?,
        };
        let found = search_file(&file, persisted, holds)
            .await
            .map_err(|error| {
                LogError::Io(Failure::new(
                    Operation::Read,
                    &self.path(base_offset, FileKind::Index),
                    error,
                ))
            })?;
        Ok(found.map(OffsetEntry::decode))
    }

    pub(super) async fn open_index(
        &self,
        base_offset: i64,
        kind: FileKind,
    ) -> Result<D::File, LogError> {
        let path = self.path(base_offset, kind);
        let generation = self.state.borrow().generation;
        let file = self
            .disk
            .open(&path, OpenMode::Read)
            .await
            .map_err(|error| LogError::Io(Failure::new(Operation::Open, &path, error)))?;
        let mut state = self.state.borrow_mut();
        if state.generation != generation {
            // It may be the file of a segment that is gone.
            return Ok(file);
        }
        let is_active = state.active().base_offset == base_offset;
        // The active one's are opened for writing, all together.
        if let Some(segment) = state.segment_mut(base_offset).filter(|_| !is_active) {
            match kind {
                FileKind::Index => segment.held_mut().offset_index.file = Some(file.clone()),
                _ => segment.held_mut().time_index.file = Some(file.clone()),
            }
        }
        Ok(file)
    }

    /// A walk from the batch that an index entry names, or from `floor`, where a batch begins, if that lies behind.
    ///
    /// An index that lies costs time and no records: where something else is than what the entry names, the
    /// walk begins at `floor`.
    async fn walk_from(
        &self,
        base_offset: i64,
        entry: Option<OffsetEntry>,
        floor: u32,
        end: u32,
    ) -> Result<HeaderWalk<D::File>, LogError> {
        if let Some(entry) = entry.filter(|entry| entry.position > floor) {
            let mut walk = self.walk(base_offset, entry.position, end).await?;
            match walk.next().await {
                Ok(Step::Batch { header, .. })
                    if header.last_offset().0 - base_offset == i64::from(entry.relative_offset) =>
                {
                    walk.rewind(entry.position.into());
                    return Ok(walk);
                }
                Ok(_) => {}
                Err(error) => return Err(self.read_failed(base_offset, error)),
            }
        }
        self.walk(base_offset, floor, end).await
    }

    pub(super) async fn walk(
        &self,
        base_offset: i64,
        position: u32,
        end: u32,
    ) -> Result<HeaderWalk<D::File>, LogError> {
        let file = self.file_of(base_offset).await?;
        Ok(HeaderWalk::new(file, u64::from(position), u64::from(end)))
    }

    /// The next batch of a walk over what was checked when it was written.
    pub(super) async fn step(
        &self,
        walk: &mut HeaderWalk<D::File>,
        base_offset: i64,
    ) -> Result<Step, LogError> {
        match walk.next().await {
            Ok(Step::Bad { position }) => Err(LogError::Corrupt {
                path: self
                    .path(base_offset, FileKind::Log)
                    .to_string_lossy()
                    .into(),
                position,
            }),
            Ok(step) => Ok(step),
            Err(error) => Err(self.read_failed(base_offset, error)),
        }
    }

    pub(super) fn read_failed(&self, base_offset: i64, error: std::io::Error) -> LogError {
        LogError::Io(Failure::new(
            Operation::Read,
            &self.path(base_offset, FileKind::Log),
            error,
        ))
    }

    /// The open `.log` of a segment. Where segments were removed or replaced meanwhile it may be that of another one:
    /// the caller looks at the generation.
    pub(super) async fn file_of(&self, base_offset: i64) -> Result<D::File, LogError> {
        let generation;
        {
            let state = self.state.borrow();
            generation = state.generation;
            let segment = &state.segments[state.segment_index(base_offset)];
            if segment.base_offset == base_offset
                && let Some(file) = segment.file()
            {
                return Ok(file.clone());
            }
        }
        let path = self.path(base_offset, FileKind::Log);
        let file = self
            .open_file(&path, FileKind::Log, OpenMode::Write)
            .await
            .map_err(|error| LogError::Io(Failure::new(Operation::Open, &path, error)))?;
        let mut state = self.state.borrow_mut();
        close_unused(&mut state);
        if state.generation != generation {
            return Ok(file);
        }
        let is_active = state.active().base_offset == base_offset;
        if let Some(segment) = state.segment_mut(base_offset).filter(|_| !is_active) {
            segment.set_file(file.clone());
        } else if is_active && state.active().file().is_none() {
            state.active_mut().set_file(file.clone());
        }
        Ok(file)
    }
}

/// Closes the files of old segments, the oldest first, until few are open. What is not yet synced stays
/// open, so that its sync reports what went wrong with its writes.
fn close_unused<F: LogFile>(state: &mut State<F>) {
    let last = state.segments.len() - 1;
    let mut open = state.segments.iter().filter(|s| s.file().is_some()).count();
    for segment in state.segments.range_mut(..last) {
        if open <= OPEN_SEGMENTS {
            break;
        }
        let is_settled = segment.held().allocated == 0
            && !segment.is_longer()
            && segment.held().swapped.is_none();
        if segment.file().is_some() && segment.is_fully_synced() && is_settled {
            segment.close_files();
            open -= 1;
        }
    }
}

/// A remembered position of the batch at exactly `offset`.
fn find_mark<F: LogFile>(state: &State<F>, offset: i64) -> Option<Mark> {
    if let Some(mark) = state.flushed.filter(|mark| mark.offset == offset) {
        return Some(mark);
    }
    let at = state.marks.partition_point(|mark| mark.offset < offset);
    match state.marks.get(at) {
        Some(mark) if mark.offset == offset => Some(*mark),
        _ => state
            .readers
            .iter()
            .find(|mark| mark.offset == offset)
            .copied(),
    }
}
