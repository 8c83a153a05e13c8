//! Finding offsets by time, and the aborted transactions of a range.

use std::rc::Rc;

use super::disk::{Disk, LogFile};
use super::error::LogError;
use super::index::{Search, TimeEntry, search_file};
use super::log::Log;
use super::names::FileKind;
use super::segment::Step;
use super::txn_index::{self, AbortedTxn};
use super::{Failure, Operation};
use crate::base::{LeaderEpoch, Offset, Timestamp};
use crate::records::{
    BATCH_HEADER_SIZE, BatchHeader, CompressionType, RecordIter, Scratch, decompress,
};

/// Most bytes that the records of one batch may decompress to here.
const MAX_DECOMPRESSED_BYTES: u64 = 512 * 1024 * 1024;
/// Largest transaction index that is read.
const MAX_TXN_INDEX_BYTES: usize = 64 * 1024 * 1024;

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: Timestamp,
    pub offset: Offset,
    /// The epoch that wrote it.
    pub leader_epoch: LeaderEpoch,
}

impl<D: Disk> Log<D> {
    /// The first record, in the order of offsets, whose timestamp is `timestamp` or later; `None` if there
    /// is none. Exact: records are looked at, compressed or not.
    ///
    /// Records at the high watermark and above are not told apart: the caller drops such an answer.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: Timestamp,
        scratch: &mut Scratch,
    ) -> Result<Option<TimestampOffset>, LogError> {
        loop {
            let generation = self.generation().await?;
            let found = self.find_timestamp(timestamp.0, scratch).await;
            if self.state.borrow().generation == generation {
                return found;
            }
        }
    }

    async fn find_timestamp(
        &self,
        timestamp: i64,
        scratch: &mut Scratch,
    ) -> Result<Option<TimestampOffset>, LogError> {
        let (start, candidates) = {
            let state = self.state.borrow();
            let start = state.log_start_offset;
            let candidates: Vec<(i64, u32)> = state
                .segments
                .iter()
                .skip(state.segment_index(start))
                .filter(|segment| segment.max_timestamp >= timestamp)
                .map(|segment| (segment.base_offset, segment.size))
                .collect();
            (start, candidates)
        };
        // Mostly the first has it; but what it has may lie below the log start.
        for (base_offset, size) in candidates {
            // All records up to this entry's are older.
            let entry = self
                .search_time_index(base_offset, |entry| entry.timestamp < timestamp)
                .await?;
            let mut floor = entry.map_or(0, |entry| entry.relative_offset).into();
            if let Some(entry) = entry
                && !self.names_a_batch(base_offset, size, entry).await?
            {
                floor = 0;
            }
            let floor = (base_offset + floor).max(start);
            let place = self.batch_place(floor).await?;
            if place.base_offset != base_offset {
                continue;
            }
            let mut walk = self.walk(base_offset, place.position, size).await?;
            while let Step::Batch { position, header } = self.step(&mut walk, base_offset).await? {
                if header.max_timestamp.0 < timestamp {
                    continue;
                }
                let found = self
                    .find_record(base_offset, position, &header, scratch, |offset, at| {
                        at.0 >= timestamp && offset.0 >= start
                    })
                    .await?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// Whether the entry of a time index says what the log says: one that lies is not used.
    async fn names_a_batch(
        &self,
        base_offset: i64,
        size: u32,
        entry: TimeEntry,
    ) -> Result<bool, LogError> {
        let offset = base_offset + i64::from(entry.relative_offset);
        let place = self.batch_place(offset).await?;
        if place.base_offset != base_offset {
            return Ok(false);
        }
        let mut walk = self.walk(base_offset, place.position, size).await?;
        Ok(match self.step(&mut walk, base_offset).await? {
            Step::Batch { header, .. } => {
                header.last_offset().0 == offset && header.max_timestamp.0 == entry.timestamp
            }
            _ => false,
        })
    }

    /// The record with the largest timestamp, the first of them; `None` in a log without timestamps
    /// (KIP-734).
    ///
    /// As in [`offset_for_timestamp`](Self::offset_for_timestamp), the caller drops an answer at or above
    /// the high watermark.
    pub async fn max_timestamp(
        &self,
        scratch: &mut Scratch,
    ) -> Result<Option<TimestampOffset>, LogError> {
        loop {
            let generation = self.generation().await?;
            let best = {
                let state = self.state.borrow();
                let mut best: Option<(i64, i64, i64)> = None;
                for segment in &state.segments {
                    if segment.max_timestamp >= 0
                        && best.is_none_or(|(max, ..)| segment.max_timestamp > max)
                    {
                        best = Some((
                            segment.max_timestamp,
                            segment.base_offset,
                            segment.max_timestamp_offset,
                        ));
                    }
                }
                best
            };
            let Some((max, base_offset, offset)) = best else {
                return Ok(None);
            };
            let found = self.find_max(max, base_offset, offset, scratch).await;
            if self.state.borrow().generation == generation {
                return found;
            }
        }
    }

    async fn find_max(
        &self,
        max: i64,
        base_offset: i64,
        offset: i64,
        scratch: &mut Scratch,
    ) -> Result<Option<TimestampOffset>, LogError> {
        let place = self.batch_place(offset).await?;
        let mut walk = self.walk(base_offset, place.position, place.size).await?;
        match self.step(&mut walk, base_offset).await? {
            Step::Batch { position, header } => {
                self.find_record(base_offset, position, &header, scratch, |_, at| at.0 == max)
                    .await
            }
            _ => Ok(None),
        }
    }

    /// The first record of a batch that `is_it`.
    async fn find_record(
        &self,
        base_offset: i64,
        position: u64,
        header: &BatchHeader,
        scratch: &mut Scratch,
        is_it: impl Fn(Offset, Timestamp) -> bool,
    ) -> Result<Option<TimestampOffset>, LogError> {
        let corrupt = || LogError::Corrupt {
            path: self
                .path(base_offset, FileKind::Log)
                .to_string_lossy()
                .into(),
            position,
        };
        let file = self.file_of(base_offset).await?;
        let mut batch = vec![0; header.size_in_bytes()];
        let read = file
            .read_at(position, &mut batch)
            .await
            .map_err(|error| self.read_failed(base_offset, error))?;
        if read < batch.len() {
            return Err(corrupt());
        }
        let records = &batch[BATCH_HEADER_SIZE..];
        let decompressed;
        let records = match header.compression() {
            CompressionType::None => records,
            codec => {
                decompressed = decompress(codec, records, scratch, MAX_DECOMPRESSED_BYTES)
                    .map_err(|_| corrupt())?;
                &decompressed
            }
        };
        for record in RecordIter::new(header, records) {
            let record = record.map_err(|_| corrupt())?;
            if is_it(record.offset, record.timestamp) {
                return Ok(Some(TimestampOffset {
                    timestamp: record.timestamp,
                    offset: record.offset,
                    leader_epoch: header.partition_leader_epoch,
                }));
            }
        }
        Ok(None)
    }

    async fn search_time_index(
        &self,
        base_offset: i64,
        holds: impl Fn(TimeEntry) -> bool,
    ) -> Result<Option<TimeEntry>, LogError> {
        let holds = |entry| holds(TimeEntry::decode(entry));
        let (file, persisted) = {
            let mut state = self.state.borrow_mut();
            let Some(segment) = state.segment_mut(base_offset) else {
                return Ok(None);
            };
            let index = &segment.held().time_index;
            if let Search::Found(entry) = index.search_tail(holds) {
                return Ok(Some(TimeEntry::decode(entry)));
            }
            (index.file.clone(), segment.time_entries)
        };
        if persisted == 0 {
            return Ok(None);
        }
        let file = match file {
            Some(file) => file,
            None => self.open_index(base_offset, FileKind::TimeIndex).await?,
        };
        let found = search_file(&file, persisted, holds)
            .await
            .map_err(|error| {
                LogError::Io(Failure::new(
                    Operation::Read,
                    &self.path(base_offset, FileKind::TimeIndex),
                    error,
                ))
            })?;
        Ok(found.map(TimeEntry::decode))
    }

    /// The aborted transactions that touch `from..upper_bound`: consumers of committed records skip them.
    pub async fn aborted_transactions(
        &self,
        from: Offset,
        upper_bound: Offset,
    ) -> Result<Vec<AbortedTxn>, LogError> {
        loop {
            let generation = self.generation().await?;
            let found = self.find_aborted(from, upper_bound).await;
            // What was read while files were replaced may be of either.
            if self.state.borrow().generation == generation {
                return found;
            }
        }
    }

    async fn find_aborted(
        &self,
        from: Offset,
        upper_bound: Offset,
    ) -> Result<Vec<AbortedTxn>, LogError> {
        let segments: Vec<(i64, Option<Rc<[AbortedTxn]>>)> = {
            let state = self.state.borrow();
            state
                .segments
                .iter()
                .skip(state.segment_index(from.0))
                .filter(|segment| segment.has_txn_index)
                .map(|segment| (segment.base_offset, segment.held().swapped.clone()))
                .collect()
        };
        let mut aborted = Vec::new();
        for (base_offset, swapped) in segments {
            if let Some(entries) = swapped {
                let collected = txn_index::collect(&entries, from, upper_bound);
                aborted.extend(collected.aborted);
                if collected.complete {
                    break;
                }
                continue;
            }
            let path = self.path(base_offset, FileKind::TxnIndex);
            let failed = |error| LogError::Io(Failure::new(Operation::Read, &path, error));
            let bytes = match self.disk.read_file(&path, MAX_TXN_INDEX_BYTES).await {
                Ok(bytes) => bytes,
                // Aged out meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let entries =
                txn_index::decode(&bytes, Offset(base_offset)).map_err(|_| LogError::Corrupt {
                    path: path.to_string_lossy().into(),
                    position: 0,
                })?;
            let collected = txn_index::collect(&entries, from, upper_bound);
            aborted.extend(collected.aborted);
            if collected.complete {
                break;
            }
        }
        Ok(aborted)
    }
}
