//! What a partition knows of its idempotent and transactional producers (KIP-98).
//!
//! A producer numbers its records in each partition. The partition remembers, by producer id, the epoch
//! and the last [`BATCHES_RETAINED`] batches, so that
//! 1. a batch that arrives again is answered with the offset it has, and not appended;
//! 2. a batch that would leave a gap is refused, until the lost one before it has arrived;
//! 3. a producer of an older epoch is fenced, and one of a newer epoch starts at sequence 0;
//! 4. a producer that is not known here may start at any sequence: its records may have been deleted by
//!    retention, and that must not break it.
//!
//! It follows open transactions as well: the first record of the oldest one bounds what readers of
//! committed records may see.
//!
//! The state is a function of the log: [`ProducerState::update`] is called for each batch in the order
//! of the log, when it is appended and again when it is recovered, and [`ProducerState::check`] before
//! the first of these. No input or output here: see [`super::producer_snapshot`] for the file.
//! One per partition.

use std::collections::{BTreeMap, btree_map};
use std::fmt;

use super::producer_snapshot;
use super::txn_index::AbortedTxn;
use crate::base::{Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{BatchHeader, increment_sequence};

/// How many batches of a producer are remembered: as many as it may have in flight.
pub const BATCHES_RETAINED: usize = 5;

/// Who appends: decides what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: everything is checked.
    Client,
    /// A coordinator: its batches and markers have an epoch, but no sequence.
    Coordinator,
    /// A leader's log, or our own read again: was checked when it was first appended.
    Replication,
}

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BatchMetadata {
    pub last_sequence: i32,
    pub last_offset: Offset,
    /// Last offset less first; likewise for the sequences.
    pub offset_delta: i32,
    /// `max_timestamp` of the batch: for LogAppendTime, when it was appended.
    pub timestamp: Timestamp,
}

impl BatchMetadata {
    pub fn first_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.offset_delta))
    }

    pub fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        // Before 0 lies 2^31-1.
        (first & i64::from(i32::MAX)) as i32
    }
}

/// What is known of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    pub producer_id: ProducerId,
    /// -1 is none.
    pub producer_epoch: ProducerEpoch,
    /// Of the last marker; -1 is none.
    pub coordinator_epoch: i32,
    /// Of the last batch or marker.
    pub last_timestamp: Timestamp,
    /// First record of the open transaction.
    pub current_txn_first_offset: Option<Offset>,
    /// Ends noted ([`ProducerState::note_end`]) since the entry was made, or read from a snapshot.
    pub ends: u32,
    batches: [BatchMetadata; BATCHES_RETAINED],
    batch_count: u8,
}

impl ProducerEntry {
    fn empty(producer_id: ProducerId) -> Self {
        Self {
            producer_id,
            producer_epoch: ProducerEpoch::NONE,
            coordinator_epoch: -1,
            last_timestamp: Timestamp::NONE,
            current_txn_first_offset: None,
            ends: 0,
            batches: [BatchMetadata::default(); BATCHES_RETAINED],
            batch_count: 0,
        }
    }

    /// An entry as a snapshot knows it.
    pub fn restored(
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        coordinator_epoch: i32,
        last_timestamp: Timestamp,
        current_txn_first_offset: Option<Offset>,
        batch: Option<BatchMetadata>,
    ) -> Self {
        let mut entry = Self {
            producer_epoch,
            coordinator_epoch,
            last_timestamp,
            current_txn_first_offset,
            ..Self::empty(producer_id)
        };
        if let Some(batch) = batch {
            entry.push(batch);
        }
        entry
    }

    /// The remembered batches, oldest first.
    pub fn batches(&self) -> &[BatchMetadata] {
        &self.batches[..usize::from(self.batch_count)]
    }

    pub fn last_batch(&self) -> Option<&BatchMetadata> {
        self.batches().last()
    }

    /// -1 is none.
    pub fn last_sequence(&self) -> i32 {
        self.last_batch().map_or(-1, |batch| batch.last_sequence)
    }

    fn push(&mut self, batch: BatchMetadata) {
        let mut count = usize::from(self.batch_count);
        if count == BATCHES_RETAINED {
            self.batches.copy_within(1.., 0);
            count -= 1;
        }
        self.batches[count] = batch;
        self.batch_count = count as u8 + 1;
    }

    fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.producer_epoch != epoch {
            self.producer_epoch = epoch;
            self.batch_count = 0;
        }
    }

    fn is_expired(&self, now: Timestamp, expiration_ms: i64) -> bool {
        self.current_txn_first_offset.is_none()
            && now.0.saturating_sub(self.last_timestamp.0) >= expiration_ms
    }
}

/// What to do with a batch that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Append,
    /// It is in the log already; the producer is answered as it should have been then.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
        /// The log append time, if the topic has it.
        timestamp: Timestamp,
    },
}

/// Why a batch or marker is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceError {
    /// A newer incarnation of the producer has written: INVALID_PRODUCER_EPOCH.
    InvalidProducerEpoch {
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        current: ProducerEpoch,
    },
    /// Sequences between `last_sequence` and `base_sequence` are missing:
    /// OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfOrderSequence {
        producer_id: ProducerId,
        base_sequence: i32,
        last_sequence: i32,
    },
    /// A new epoch begins at another sequence than 0: OUT_OF_ORDER_SEQUENCE_NUMBER.
    NewEpochNotAtZero {
        producer_id: ProducerId,
        base_sequence: i32,
        epoch: ProducerEpoch,
        current: ProducerEpoch,
    },
    /// A plain batch amid the producer's own transaction: INVALID_TXN_STATE.
    NotTransactional { producer_id: ProducerId },
    /// A marker of a coordinator that has been replaced: TRANSACTION_COORDINATOR_FENCED.
    CoordinatorFenced {
        producer_id: ProducerId,
        coordinator_epoch: i32,
        current: i32,
    },
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidProducerEpoch {
                producer_id,
                epoch,
                current,
            } => write!(
                f,
                "epoch {epoch} of producer {producer_id} is below its last seen epoch {current}"
            ),
            Self::OutOfOrderSequence {
                producer_id,
                base_sequence,
                last_sequence,
            } => write!(
                f,
                "sequence {base_sequence} of producer {producer_id} does not follow {last_sequence}"
            ),
            Self::NewEpochNotAtZero {
                producer_id,
                base_sequence,
                epoch,
                current,
            } => write!(
                f,
                "producer {producer_id} begins epoch {epoch} after {current} at sequence \
                 {base_sequence} and not at 0"
            ),
            Self::NotTransactional { producer_id } => write!(
                f,
                "producer {producer_id} has an open transaction that the batch is not part of"
            ),
            Self::CoordinatorFenced {
                producer_id,
                coordinator_epoch,
                current,
            } => write!(
                f,
                "marker for producer {producer_id} of coordinator epoch {coordinator_epoch}, \
                 below {current}"
            ),
        }
    }
}

impl std::error::Error for SequenceError {}

/// A transaction that the marker just appended has ended. Empty ones are not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedTxn {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Of the marker.
    pub last_offset: Offset,
    pub outcome: TxnOutcome,
    /// Where the next open transaction begins, or one past the marker.
    pub last_stable_offset: Offset,
}

impl CompletedTxn {
    /// The entry for the `.txnindex` of the segment with the marker, if the transaction was aborted.
    pub fn aborted(&self) -> Option<AbortedTxn> {
        match self.outcome {
            TxnOutcome::Commit => None,
            TxnOutcome::Abort => Some(AbortedTxn {
                producer_id: self.producer_id,
                first_offset: self.first_offset,
                last_offset: self.last_offset,
                last_stable_offset: self.last_stable_offset,
            }),
        }
    }
}

/// The producers and transactions of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// `producer.id.expiration.ms`.
    expiration_ms: i64,
    /// Boxed, or a map of one entry would have room for eleven.
    producers: BTreeMap<ProducerId, Box<ProducerEntry>>,
    /// Open transactions by their first offset.
    ongoing: BTreeMap<Offset, ProducerId>,
    /// Ended transactions by their first offset, with the offset of the marker, until the high
    /// watermark has passed it.
    unreplicated: BTreeMap<Offset, Offset>,
    map_end_offset: Offset,
    snapshot_offset: Offset,
}

impl ProducerState {
    /// The state of a log that starts, empty, at `log_start_offset`.
    pub fn new(expiration_ms: i64, log_start_offset: Offset) -> Self {
        Self {
            expiration_ms,
            producers: BTreeMap::new(),
            ongoing: BTreeMap::new(),
            unreplicated: BTreeMap::new(),
            map_end_offset: log_start_offset,
            snapshot_offset: log_start_offset,
        }
    }

    /// The state at `offset`, from a snapshot of it. Producers that have expired by `now` are left out.
    /// The log from `offset` on is to follow through [`update`](Self::update).
    pub fn from_snapshot(
        expiration_ms: i64,
        entries: impl IntoIterator<Item = ProducerEntry>,
        offset: Offset,
        now: Timestamp,
    ) -> Self {
        let mut state = Self::new(expiration_ms, offset);
        for entry in entries {
            if entry.is_expired(now, expiration_ms) {
                continue;
            }
            if let Some(first) = entry.current_txn_first_offset {
                state.ongoing.insert(first, entry.producer_id);
            }
            state.producers.insert(entry.producer_id, Box::new(entry));
        }
        state
    }

    /// Whether a data batch may be appended. Its base offset does not matter yet.
    ///
    /// Batches without a producer id always may. To append several batches by one write, call
    /// [`update`](Self::update) for each before the next is checked, and throw the state away if the
    /// write fails.
    pub fn check(
        &self,
        origin: AppendOrigin,
        batch: &BatchHeader,
    ) -> Result<Outcome, SequenceError> {
        if !batch.has_producer_id() || origin == AppendOrigin::Replication {
            return Ok(Outcome::Append);
        }
        let Some(entry) = self.producers.get(&batch.producer_id) else {
            return Ok(Outcome::Append);
        };
        if origin == AppendOrigin::Client
            && let Some(known) = find_duplicate(entry, batch)
        {
            return Ok(Outcome::Duplicate {
                base_offset: known.first_offset(),
                last_offset: known.last_offset,
                timestamp: known.timestamp,
            });
        }
        check_epoch(entry, batch)?;
        if origin == AppendOrigin::Client {
            check_sequence(entry, batch)?;
        }
        if entry.current_txn_first_offset.is_some() && !batch.is_transactional() {
            return Err(SequenceError::NotTransactional {
                producer_id: batch.producer_id,
            });
        }
        Ok(Outcome::Append)
    }

    /// Whether a control batch with `marker` may be appended.
    pub fn check_marker(
        &self,
        origin: AppendOrigin,
        batch: &BatchHeader,
        marker: &EndTxnMarker,
    ) -> Result<(), SequenceError> {
        if origin == AppendOrigin::Replication {
            return Ok(());
        }
        let Some(entry) = self.producers.get(&batch.producer_id) else {
            return Ok(());
        };
        check_epoch(entry, batch)?;
        if entry.coordinator_epoch > marker.coordinator_epoch {
            return Err(SequenceError::CoordinatorFenced {
                producer_id: batch.producer_id,
                coordinator_epoch: marker.coordinator_epoch,
                current: entry.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// Notes a batch that is in the log, with its final offsets. Total: whatever the log has, is so.
    ///
    /// `marker` is that of a control batch ([`EndTxnMarker::of_batch`]); without one a control batch
    /// changes nothing but the end. Returns the transaction that it ended, whose
    /// [`aborted`](CompletedTxn::aborted) entry belongs into the transaction index.
    pub fn update(
        &mut self,
        batch: &BatchHeader,
        marker: Option<&EndTxnMarker>,
    ) -> Option<CompletedTxn> {
        self.map_end_offset = batch.next_offset();
        if !batch.has_producer_id() || (batch.is_control() && marker.is_none()) {
            return None;
        }
        let entry = match self.producers.entry(batch.producer_id) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(place) => {
                place.insert(Box::new(ProducerEntry::empty(batch.producer_id)))
            }
        };
        entry.set_epoch(batch.producer_epoch);
        entry.last_timestamp = batch.max_timestamp;
        if batch.is_control() {
            entry.coordinator_epoch = marker?.coordinator_epoch;
            let first_offset = entry.current_txn_first_offset.take()?;
            return Some(self.complete(batch, first_offset, marker?.outcome));
        }
        entry.push(BatchMetadata {
            last_sequence: batch.last_sequence(),
            last_offset: batch.last_offset(),
            offset_delta: batch.last_offset_delta,
            timestamp: batch.max_timestamp,
        });
        if batch.is_transactional() && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(batch.base_offset);
            self.ongoing.insert(batch.base_offset, batch.producer_id);
        }
        None
    }

    fn complete(
        &mut self,
        batch: &BatchHeader,
        first_offset: Offset,
        outcome: TxnOutcome,
    ) -> CompletedTxn {
        self.ongoing.remove(&first_offset);
        self.unreplicated.insert(first_offset, batch.last_offset());
        CompletedTxn {
            producer_id: batch.producer_id,
            first_offset,
            last_offset: batch.last_offset(),
            outcome,
            last_stable_offset: self
                .first_undecided_offset()
                .unwrap_or_else(|| batch.next_offset()),
        }
    }

    /// Ended transactions whose marker lies below `high_watermark` no longer hold readers back.
    pub fn on_high_watermark_updated(&mut self, high_watermark: Offset) {
        self.unreplicated.retain(|_, last| *last >= high_watermark);
    }

    /// The log now starts at `log_start_offset`. Producers stay, even if all their records are gone: the next snapshot
    /// tells of them, and what was there of one below goes with its segment.
    pub fn on_log_start_offset_incremented(&mut self, log_start_offset: Offset) {
        self.unreplicated
            .retain(|_, last| *last >= log_start_offset);
        self.map_end_offset = self.map_end_offset.max(log_start_offset);
    }

    /// First record of the oldest transaction that has no marker yet.
    pub fn first_undecided_offset(&self) -> Option<Offset> {
        self.ongoing.keys().next().copied()
    }

    /// First record of the oldest transaction that has no marker, or whose marker is not yet below the
    /// high watermark.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        let undecided = self.first_undecided_offset();
        let unreplicated = self.unreplicated.keys().next().copied();
        match (undecided, unreplicated) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// One past the last record that readers of committed records may see. Never beyond the high
    /// watermark, never before the start of the log.
    pub fn last_stable_offset(&self, log_start_offset: Offset, high_watermark: Offset) -> Offset {
        match self.first_unstable_offset() {
            Some(first) => first.max(log_start_offset).min(high_watermark),
            None => high_watermark,
        }
    }

    /// Whether the producer has an open transaction here, in this epoch.
    pub fn has_ongoing_transaction(&self, producer_id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.get(producer_id).is_some_and(|entry| {
            entry.current_txn_first_offset.is_some() && entry.producer_epoch == epoch
        })
    }

    /// A transaction has ended by a marker of its own epoch (before transaction version 2). Whoever asked
    /// whether one may begin learns by the entry's `ends` that one has ended since; where the marker is of
    /// a higher epoch, a late batch is told by that.
    pub fn note_end(&mut self, producer_id: ProducerId) {
        if let Some(entry) = self.producers.get_mut(&producer_id) {
            entry.ends = entry.ends.wrapping_add(1);
        }
    }

    /// Forgets producers that wrote nothing for `producer.id.expiration.ms` and have no open
    /// transaction. Returns how many. To be called every `producer.id.expiration.check.interval.ms`.
    pub fn remove_expired(&mut self, now: Timestamp) -> usize {
        let before = self.producers.len();
        let expiration_ms = self.expiration_ms;
        self.producers
            .retain(|_, entry| !entry.is_expired(now, expiration_ms));
        before - self.producers.len()
    }

    /// `producer.id.expiration.ms` has changed.
    pub fn set_expiration_ms(&mut self, expiration_ms: i64) {
        self.expiration_ms = expiration_ms;
    }

    pub fn get(&self, producer_id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&producer_id).map(|entry| &**entry)
    }

    /// All producers by ascending id, as DescribeProducers lists them.
    pub fn producers(&self) -> impl Iterator<Item = &ProducerEntry> {
        self.producers.values().map(|entry| &**entry)
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.unreplicated.is_empty()
    }

    /// One past the last batch that is part of this state.
    pub fn map_end_offset(&self) -> Offset {
        self.map_end_offset
    }

    /// The batches up to `offset` have been seen, though none reached it: a segment was empty, or
    /// ends in a gap left by the cleaner.
    pub fn set_map_end_offset(&mut self, offset: Offset) {
        self.map_end_offset = offset;
    }

    /// Forgets everything; the log now starts, empty, at `offset`.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset) {
        *self = Self::new(self.expiration_ms, offset);
    }

    /// A snapshot of now, and the offset that names its file, unless the last one is of the same offset.
    /// When it is on disk, [`snapshot_taken`](Self::snapshot_taken) is to be called with the offset.
    pub fn snapshot(&self) -> Option<(Offset, Vec<u8>)> {
        (self.map_end_offset > self.snapshot_offset).then(|| {
            (
                self.map_end_offset,
                producer_snapshot::encode(self.producers()),
            )
        })
    }

    /// The snapshot at `offset` is on disk.
    pub fn snapshot_taken(&mut self, offset: Offset) {
        self.snapshot_offset = offset;
    }
}

fn find_duplicate<'a>(entry: &'a ProducerEntry, batch: &BatchHeader) -> Option<&'a BatchMetadata> {
    if entry.producer_epoch != batch.producer_epoch {
        return None;
    }
    let last_sequence = batch.last_sequence();
    entry.batches().iter().find(|known| {
        known.first_sequence() == batch.base_sequence && known.last_sequence == last_sequence
    })
}

fn check_epoch(entry: &ProducerEntry, batch: &BatchHeader) -> Result<(), SequenceError> {
    if batch.producer_epoch < entry.producer_epoch {
        return Err(SequenceError::InvalidProducerEpoch {
            producer_id: batch.producer_id,
            epoch: batch.producer_epoch,
            current: entry.producer_epoch,
        });
    }
    Ok(())
}

fn check_sequence(entry: &ProducerEntry, batch: &BatchHeader) -> Result<(), SequenceError> {
    if entry.producer_epoch == ProducerEpoch::NONE {
        return Ok(());
    }
    if batch.producer_epoch != entry.producer_epoch {
        if batch.base_sequence != 0 {
            return Err(SequenceError::NewEpochNotAtZero {
                producer_id: batch.producer_id,
                base_sequence: batch.base_sequence,
                epoch: batch.producer_epoch,
                current: entry.producer_epoch,
            });
        }
        return Ok(());
    }
    let last_sequence = entry.last_sequence();
    let expected = if last_sequence < 0 {
        // The epoch came with a marker, and its first batch starts it.
        0
    } else {
        increment_sequence(last_sequence, 1)
    };
    if batch.base_sequence != expected {
        return Err(SequenceError::OutOfOrderSequence {
            producer_id: batch.producer_id,
            base_sequence: batch.base_sequence,
            last_sequence,
        });
    }
    Ok(())
}

#[cfg(test)]
mod scenarios;
