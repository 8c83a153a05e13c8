//! What is left of one batch when it is cleaned.
//!
//! 1. A batch of an aborted transaction loses its records. So does a marker that ends nothing any more, once
//!    its delete horizon has passed.
//! 2. Of other records the last of each key stays, and every one behind the part of the log whose keys are
//!    known. A record without a key does not stay: nothing could ever replace it.
//! 3. A batch with a tombstone, or with a marker that ends nothing any more, gets a delete horizon when it is
//!    first cleaned: `delete.retention.ms` from now, in the place of its base timestamp (KIP-534). When that
//!    has passed, the tombstone goes, too.
//! 4. A batch without records goes, unless it is the last of its producer (its sequence, or the epoch of its
//!    marker, must be found again) or the last of the part that is cleaned (readers must get past it): of
//!    these the header stays.
//!
//! Offsets never change, nor do a batch's first and last. A batch that loses nothing stays byte for byte.

use super::Pace;
use super::offset_map::OffsetMap;
use super::records::{BadBatch, Records};
use super::transactions::Transactions;
use crate::base::Timestamp;
use crate::records::batch::{
    ATTRIBUTES_AT, BASE_TIMESTAMP_AT, COMPRESSION_MASK, DELETE_HORIZON_BIT, MAX_TIMESTAMP_AT,
    RECORDS_COUNT_AT,
};
use crate::records::builder::seal;
use crate::records::compression::Compressor;
use crate::records::record::{RawRecord, put_varint, take_varlong, varint_size};
use crate::records::{BATCH_HEADER_SIZE, BatchHeader, Compression, Scratch, TimestampType};

/// Bytes that are compressed at once.
const COMPRESS_BYTES: usize = 16 * 1024;
/// A byte that is compressed takes as long as so many that are looked at.
const COMPRESS_COST: usize = 8;
/// A record takes as long as so many bytes, however small it is.
const RECORD_COST: usize = 128;

/// What a pass has to know of every batch.
pub(super) struct Filter<'a> {
    pub(super) map: &'a OffsetMap,
    /// The keys of all records below are in the map, as far as they are dirty.
    pub(super) mapped_to: i64,
    /// One past the part of the log that may be cleaned.
    pub(super) round_end: i64,
    pub(super) now: Timestamp,
    pub(super) delete_retention_ms: u64,
}

/// What is known of a batch before its records are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    /// None of its records stays.
    drop_records: bool,
    /// Its header stays if no record does.
    keep_empty: bool,
    /// It is a marker of a transaction of which nothing is left.
    ends_nothing: bool,
}

/// What a batch becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cleaned {
    Gone,
    Unchanged,
    Changed(Vec<u8>),
}

/// What looking through the records showed.
#[derive(Default)]
struct Seen {
    kept: i32,
    dropped: i32,
    tombstones: bool,
    max_timestamp: i64,
}

impl Filter<'_> {
    /// Takes `batch` in. `is_last_of_producer` says that its producer has nothing later in the log.
    pub(super) fn fate(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        transactions: &mut Transactions,
        is_last_of_producer: bool,
    ) -> Result<Fate, BadBatch> {
        let keep_empty = is_last_of_producer || header.next_offset().0 == self.round_end;
        if !header.is_control() {
            return Ok(Fate {
                drop_records: transactions.on_batch(header),
                keep_empty,
                ends_nothing: false,
            });
        }
        let ends_nothing = transactions
            .on_control(header, batch)
            .map_err(|_| BadBatch)?;
        Ok(Fate {
            drop_records: ends_nothing && self.horizon_passed(header) == Some(true),
            keep_empty,
            ends_nothing,
        })
    }

    fn horizon_passed(&self, header: &BatchHeader) -> Option<bool> {
        header.delete_horizon().map(|horizon| horizon <= self.now)
    }

    /// What `batch`, which is whole and right, becomes.
    pub(super) async fn clean(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        fate: Fate,
        scratch: &mut Scratch,
        pace: &impl Pace,
    ) -> Result<Cleaned, BadBatch> {
        if fate.drop_records || header.records_count == 0 {
            return Ok(match fate.keep_empty {
                true => Cleaned::Changed(emptied(header, batch)),
                false => Cleaned::Gone,
            });
        }
        let seen = self.look(header, batch, scratch, pace).await?;
        if seen.kept == 0 {
            return Ok(match fate.keep_empty {
                true => Cleaned::Changed(emptied(header, batch)),
                false => Cleaned::Gone,
            });
        }
        let wants_horizon =
            (seen.tombstones || fate.ends_nothing) && header.delete_horizon().is_none();
        if seen.dropped == 0 && !wants_horizon {
            return Ok(Cleaned::Unchanged);
        }
        let horizon = wants_horizon.then(|| {
            let retention_ms = i64::try_from(self.delete_retention_ms).unwrap_or(i64::MAX);
            self.now.0.saturating_add(retention_ms)
        });
        self.rewrite(header, batch, &seen, horizon, scratch, pace)
            .await
            .map(Cleaned::Changed)
    }

    fn keeps(&self, header: &BatchHeader, record: &RawRecord<'_>) -> bool {
        let offset = header.base_offset.0 + i64::from(record.offset_delta);
        if header.is_control() || offset >= self.mapped_to {
            return true;
        }
        let Some(key) = record.key else { return false };
        let is_last = self.map.get(key).is_none_or(|last| offset >= last);
        is_last && (record.value.is_some() || self.horizon_passed(header) != Some(true))
    }

    async fn look(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        scratch: &mut Scratch,
        pace: &impl Pace,
    ) -> Result<Seen, BadBatch> {
        let mut seen = Seen {
            max_timestamp: -1,
            ..Seen::default()
        };
        let mut records = Records::new(header, batch, scratch)?;
        while let Some((record, bytes)) = records.next()? {
            let cost = bytes.len().max(RECORD_COST);
            if self.keeps(header, &record) {
                seen.kept += 1;
                seen.tombstones |= record.value.is_none();
                let timestamp = timestamp_of(header, record.timestamp_delta);
                seen.max_timestamp = seen.max_timestamp.max(timestamp);
            } else {
                seen.dropped += 1;
            }
            pace.worked(cost).await;
        }
        Ok(seen)
    }

    async fn rewrite(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        seen: &Seen,
        horizon: Option<i64>,
        scratch: &mut Scratch,
        pace: &impl Pace,
    ) -> Result<Vec<u8>, BadBatch> {
        let head = batch.get(..BATCH_HEADER_SIZE).ok_or(BadBatch)?.to_vec();
        let compression = Compression::of(header.compression());
        let mut out = Compressor::new(compression, head).map_err(|_| BadBatch)?;
        let mut plain = Vec::with_capacity(COMPRESS_BYTES);
        let mut records = Records::new(header, batch, scratch)?;
        loop {
            let next = records.next()?;
            let is_end = next.is_none();
            let mut cost = 0;
            if let Some((record, bytes)) = next {
                cost = bytes.len().max(RECORD_COST);
                if self.keeps(header, &record) {
                    match horizon {
                        None => plain.extend_from_slice(bytes),
                        Some(base) => put_rebased(&mut plain, header, &record, bytes, base)?,
                    }
                }
            }
            pace.worked(cost).await;
            if plain.len() >= COMPRESS_BYTES || is_end {
                for part in plain.chunks(COMPRESS_BYTES) {
                    out.write(part).map_err(|_| BadBatch)?;
                    pace.worked(part.len() * COMPRESS_COST).await;
                }
                plain.clear();
            }
            if is_end {
                break;
            }
        }
        drop(records);
        let mut batch = out.finish().map_err(|_| BadBatch)?;
        if i32::try_from(batch.len()).is_err() {
            return Err(BadBatch);
        }
        let mut attributes = header.attributes;
        if let Some(horizon) = horizon {
            attributes |= DELETE_HORIZON_BIT;
            put(&mut batch, BASE_TIMESTAMP_AT, &horizon.to_be_bytes());
        }
        put(&mut batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
        put(&mut batch, RECORDS_COUNT_AT, &seen.kept.to_be_bytes());
        if header.timestamp_type() == TimestampType::CreateTime {
            put(
                &mut batch,
                MAX_TIMESTAMP_AT,
                &seen.max_timestamp.to_be_bytes(),
            );
        }
        seal(&mut batch);
        Ok(batch)
    }
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
}

fn timestamp_of(header: &BatchHeader, delta: i64) -> i64 {
    match header.timestamp_type() {
        TimestampType::CreateTime => header.base_timestamp.0.wrapping_add(delta),
        TimestampType::LogAppendTime => header.max_timestamp.0,
    }
}

/// Writes a record again whose batch gets another base timestamp. `bytes` are the record with its length.
fn put_rebased(
    out: &mut Vec<u8>,
    header: &BatchHeader,
    record: &RawRecord<'_>,
    bytes: &[u8],
    base: i64,
) -> Result<(), BadBatch> {
    let mut body = bytes;
    let length = crate::records::record::take_varint(&mut body).map_err(|_| BadBatch)?;
    debug_assert_eq!(usize::try_from(length), Ok(body.len()));
    let (&attributes, mut rest) = body.split_first().ok_or(BadBatch)?;
    take_varlong(&mut rest).map_err(|_| BadBatch)?;
    let delta = timestamp_of(header, record.timestamp_delta).wrapping_sub(base);
    put_varint(out, (1 + varint_size(delta) + rest.len()) as i64);
    out.push(attributes);
    put_varint(out, delta);
    out.extend_from_slice(rest);
    Ok(())
}

/// The header alone of a batch whose records are gone.
fn emptied(header: &BatchHeader, batch: &[u8]) -> Vec<u8> {
    let mut head = batch[..BATCH_HEADER_SIZE].to_vec();
    let attributes = header.attributes & !(COMPRESSION_MASK | DELETE_HORIZON_BIT);
    put(&mut head, ATTRIBUTES_AT, &attributes.to_be_bytes());
    put(&mut head, BASE_TIMESTAMP_AT, &(-1i64).to_be_bytes());
    put(&mut head, RECORDS_COUNT_AT, &0i32.to_be_bytes());
    seal(&mut head);
    head
}
