//! One partition that this shard leads: its log, its leader state, and who waits for it.
//!
//! # From append to acknowledgement
//! 1. `append` checks the request, validates the batch and stages it: offsets are given, in the order
//!    of the calls. The partition is marked dirty.
//! 2. At the end of the turn the shard's writer calls `write`: everything staged goes out in one call,
//!    and the log end moves.
//! 3. Where an fsync is due, the flusher calls `flush`. With `flush.messages=1` nothing is
//!    visible before, so that no reader sees what a power cut could take back.
//! 4. Whenever the visible end moved, the leader state says where the high watermark is; waiting
//!    produces whose end it passed are answered, and waiting fetches are told of the new bytes.

mod waiting;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use waiting::{Queues, Waiting};

use crate::base::profile::{Nanos, Stage};
use crate::base::settings::{self, LogSettings};
use crate::base::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::event::Event;
use crate::broker::messages::{
    ActiveProducer, FetchPartition, Fetched, FoundEpochEnd, FoundOffset, Marker, ProduceBatch,
    Produced, TransactionBatch, Verification,
};
use crate::broker::offload::ShardDisk;
use crate::broker::purgatory::{FetchOp, ProduceOp};
use crate::coordinator::Guard;
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{
    BatchBuilder, BatchHeader, Compression, CompressionType, Scratch, TimestampType,
    ValidationRules, validate,
};
use crate::replication::LeaderState;
use crate::runtime::profile;
use crate::storage::producer_state::{Outcome, SequenceError};
use crate::storage::{AppendError, AppendOrigin, Disk, Log, LogError, TimestampOffset};

/// What an append came to.
pub struct Appended {
    pub produced: Produced,
    /// One past the last record, for [`Partition::wait`].
    pub end: Offset,
    /// The fsync has to pass `end` before the acknowledgement.
    pub flush: bool,
    /// Records of the batch.
    pub records: u64,
    /// The batch had been appended before; nothing was staged.
    pub is_duplicate: bool,
}

/// What has to be done by the caller after something moved.
#[derive(Default)]
pub struct Moved {
    /// Fetches that have enough now.
    pub fetches: Vec<Rc<FetchOp>>,
    /// Produces that were answered and may have a timer.
    pub produces: Vec<Rc<ProduceOp>>,
    /// The log went offline just now.
    pub failed: bool,
}

/// One a partition, on the shard that owns it.
pub struct Partition<D: Disk = ShardDisk> {
    pub key: TopicPartition,
    pub topic: Arc<str>,
    /// Index of the data directory in `log.dirs`.
    pub directory: usize,
    pub log: Rc<Log<D>>,
    settings: RefCell<Arc<LogSettings>>,
    rules: Cell<ValidationRules>,
    leader: RefCell<LeaderState>,
    waiting: RefCell<Queues>,
    fetches: RefCell<Vec<Rc<FetchOp>>>,
    /// Bytes that were written and have not been told to the waiting fetches.
    untold_bytes: Cell<u64>,
    /// Bytes of the last call of [`Self::write`].
    pub last_write_bytes: Cell<u64>,
    /// A segment was closed, which is to be flushed in the background.
    pub rolled: Cell<bool>,
    /// The log has work to do ahead of its next appends.
    wants_prepare: Cell<bool>,
    /// A task is at what was wanted before.
    preparing: Cell<bool>,
    /// Whether it stands in the shard's list of partitions with staged batches.
    pub dirty: Cell<bool>,
    /// Whether it stands in the shard's list of partitions that want an fsync.
    pub wants_flush: Cell<bool>,
    /// An fsync is under way.
    pub flushing: Cell<bool>,
    /// When the oldest record that is not flushed, or being flushed, was written; -1 if all are.
    unflushed_since: Cell<Timestamp>,
    /// When the active segment began, if that was by a roll since the start.
    rolled_at: Cell<Timestamp>,
    /// That the log is offline was said.
    failed: Cell<bool>,
    /// The partition is being deleted: everything is refused.
    pub deleted: Cell<bool>,
    /// Nothing is appended while the log is put into another directory.
    pub moving: Cell<bool>,
    /// Told whenever the high watermark moved, the log failed, or the partition goes: its coordinator.
    watcher: RefCell<Option<Rc<Event>>>,
}

impl<D: Disk> Partition<D> {
    pub fn new(
        key: TopicPartition,
        topic: Arc<str>,
        directory: usize,
        log: Rc<Log<D>>,
        settings: Arc<LogSettings>,
        leader: LeaderState,
    ) -> Self {
        log.on_high_watermark(leader.high_watermark());
        Self {
            key,
            topic,
            directory,
            log,
            rules: Cell::new(rules(&settings)),
            settings: RefCell::new(settings),
            leader: RefCell::new(leader),
            waiting: RefCell::default(),
            fetches: RefCell::default(),
            untold_bytes: Cell::new(0),
            last_write_bytes: Cell::new(0),
            rolled: Cell::new(false),
            wants_prepare: Cell::new(false),
            preparing: Cell::new(false),
            dirty: Cell::new(false),
            wants_flush: Cell::new(false),
            flushing: Cell::new(false),
            unflushed_since: Cell::new(Timestamp::NONE),
            rolled_at: Cell::new(Timestamp::NONE),
            failed: Cell::new(false),
            deleted: Cell::new(false),
            moving: Cell::new(false),
            watcher: RefCell::default(),
        }
    }

    /// Has `event` set whenever the high watermark moved, the log failed, or the partition goes.
    pub fn set_watcher(&self, event: Rc<Event>) {
        *self.watcher.borrow_mut() = Some(event);
    }

    fn tell_watcher(&self) {
        if let Some(event) = &*self.watcher.borrow() {
            event.set();
        }
    }

    pub fn settings(&self) -> Arc<LogSettings> {
        self.settings.borrow().clone()
    }

    pub fn set_settings(&self, settings: Arc<LogSettings>) {
        self.rules.set(rules(&settings));
        *self.settings.borrow_mut() = settings;
    }

    pub fn high_watermark(&self) -> Offset {
        self.leader.borrow().high_watermark()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader.borrow().leader_epoch()
    }

    /// One past the last record whose transaction is decided, at most the high watermark.
    pub fn last_stable_offset(&self) -> Offset {
        let log_start_offset = self.log.log_start_offset();
        let producers = self.log.producers();
        producers.last_stable_offset(log_start_offset, self.high_watermark())
    }

    /// Compares the epoch an asker believes in with ours; -1 believes anything (KIP-320).
    pub fn check_leader_epoch(&self, asked: LeaderEpoch) -> Result<(), PartitionError> {
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        let ours = self.leader_epoch();
        if asked == LeaderEpoch::NONE || asked == ours {
            return Ok(());
        }
        Err(if asked < ours {
            PartitionError::FencedLeaderEpoch
        } else {
            PartitionError::UnknownLeaderEpoch
        })
    }

    /// Whether records are hidden until they are on the device.
    fn sync_before_visible(&self) -> bool {
        self.settings.borrow().flush_messages == 1
    }

    /// Whether a batch of a transaction may be appended without asking the coordinator.
    pub fn verification(&self, batch: TransactionBatch) -> Result<Verification, PartitionError> {
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        let producers = self.log.producers();
        if producers.has_ongoing_transaction(batch.producer_id, batch.producer_epoch) {
            return Ok(Verification::NotNeeded);
        }
        let known = producers.get(batch.producer_id);
        if known.is_none() && batch.epoch_bump && batch.base_sequence != 0 {
            // The one before it was lost, or belongs to a transaction that is over.
            return Err(PartitionError::BeginsAmidSequence(batch.base_sequence));
        }
        Ok(Verification::Needed(Guard(
            known.map_or(0, |known| known.ends),
        )))
    }

    /// A batch that begins a transaction here must be of one that the coordinator knows to include this
    /// partition, and that has not ended since it was asked.
    fn check_verified(
        &self,
        header: &BatchHeader,
        verified: Option<Guard>,
    ) -> Result<(), PartitionError> {
        let producers = self.log.producers();
        if producers.has_ongoing_transaction(header.producer_id, header.producer_epoch) {
            return Ok(());
        }
        let known = producers.get(header.producer_id);
        if verified == Some(Guard(known.map_or(0, |known| known.ends))) {
            return Ok(());
        }
        // A retry of what is in the log begins nothing; what is fenced or out of order is told so.
        match producers.check(AppendOrigin::Client, header)? {
            Outcome::Duplicate { .. } => Ok(()),
            Outcome::Append => Err(PartitionError::NotInTransaction),
        }
    }

    /// Ends a producer's transaction here. Returns the end that has to be acknowledged: of the marker,
    /// or, if it is here already, of what is in the log now.
    ///
    /// With version 2 the marker is of a higher epoch than the records it ends, which tells one that
    /// arrives late or twice (KIP-890).
    pub fn append_marker(
        &self,
        marker: Marker,
        now: Timestamp,
    ) -> Result<Appended, PartitionError> {
        if marker.transaction_version >= 2 {
            let producers = self.log.producers();
            let known = producers.get(marker.producer_id).copied();
            drop(producers);
            if let Some(known) = known
                && known.producer_epoch == marker.producer_epoch
            {
                if known.current_txn_first_offset.is_none() {
                    let end = self.log.staged_end_offset();
                    return Ok(self.marker_appended(end, true));
                }
                // An epoch at its end cannot be raised.
                if marker.producer_epoch.0 != i16::MAX {
                    let error = SequenceError::InvalidProducerEpoch {
                        producer_id: marker.producer_id,
                        epoch: marker.producer_epoch,
                        current: known.producer_epoch,
                    };
                    return Err(PartitionError::Sequence(error));
                }
            }
        }
        let outcome = if marker.commit {
            TxnOutcome::Commit
        } else {
            TxnOutcome::Abort
        };
        let end_marker = EndTxnMarker {
            outcome,
            coordinator_epoch: marker.coordinator_epoch,
        };
        let (key, value) = end_marker.encode();
        let mut batch = BatchBuilder::uncompressed()
            .producer(marker.producer_id, marker.producer_epoch, -1)
            .transactional()
            .control();
        batch.append(now, Some(&key), Some(&value), &[]);
        let bytes = BytesMut::from(&batch.build()[..]);
        let end = self.append_internal(bytes, Some(&end_marker), now)?;
        if marker.transaction_version < 2 {
            self.log.note_end(marker.producer_id);
        }
        Ok(self.marker_appended(end, false))
    }

    fn marker_appended(&self, end: Offset, is_duplicate: bool) -> Appended {
        Appended {
            produced: Produced {
                base_offset: end.plus(-1),
                log_append_time: Timestamp::NONE,
                log_start_offset: self.log.log_start_offset(),
            },
            end,
            flush: self.flush_is_due(end, &self.settings.borrow()),
            records: 0,
            is_duplicate,
        }
    }

    /// Takes one batch of a client: checks, offsets, staging. Nothing is visible yet.
    pub fn append(
        &self,
        batch: ProduceBatch,
        acks: i16,
        verify: bool,
        now: Timestamp,
        scratch: &mut Scratch,
    ) -> Result<Appended, PartitionError> {
        let mut records = batch.records;
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        if self.moving.get() {
            return Err(PartitionError::Moving);
        }
        let settings = self.settings();
        if acks == -1 {
            self.leader
                .borrow()
                .check_min_isr(settings.min_insync_replicas)?;
        }
        let rules = self.rules.get();
        let validated = validate(&mut records, &rules, now, scratch)?;
        if validated.header.is_transactional() && verify {
            self.check_verified(&validated.header, batch.verified)?;
        }
        let log_append_time = (rules.timestamp_type == TimestampType::LogAppendTime).then_some(now);
        let staged = self.log.stage(
            records,
            &validated.header,
            AppendOrigin::Client,
            None,
            self.leader_epoch(),
            log_append_time,
            now,
        )?;
        let end = staged.last_offset.plus(1);
        let flush = self.flush_is_due(end, &settings);
        Ok(Appended {
            produced: Produced {
                base_offset: staged.base_offset,
                log_append_time: staged.log_append_time,
                log_start_offset: self.log.log_start_offset(),
            },
            end,
            flush,
            records: u64::try_from(validated.header.records_count).unwrap_or(0),
            is_duplicate: staged.is_duplicate,
        })
    }

    /// Takes one batch of the broker's own: a coordinator's records, or a transaction's `marker`. Returns
    /// one past its last record. As with `acks=all`, too few in-sync replicas refuse it.
    ///
    /// `batch` is exactly one batch, whole and sealed. Nothing is visible yet.
    pub fn append_internal(
        &self,
        batch: BytesMut,
        marker: Option<&EndTxnMarker>,
        now: Timestamp,
    ) -> Result<Offset, PartitionError> {
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        if self.moving.get() {
            return Err(PartitionError::Moving);
        }
        let min_insync_replicas = self.settings.borrow().min_insync_replicas;
        self.leader.borrow().check_min_isr(min_insync_replicas)?;
        let header = BatchHeader::parse(&batch).map_err(|_| PartitionError::Corrupt)?;
        let staged = self.log.stage(
            batch,
            &header,
            AppendOrigin::Coordinator,
            marker,
            self.leader_epoch(),
            None,
            now,
        )?;
        Ok(staged.last_offset.plus(1))
    }

    /// Whether records up to `end` reach `flush.messages` since the last flush.
    fn flush_is_due(&self, end: Offset, settings: &LogSettings) -> bool {
        let unflushed = end.0.saturating_sub(self.log.recovery_point().0);
        u64::try_from(unflushed).is_ok_and(|n| n >= settings.flush_messages)
    }

    /// Whether what is written and not flushed reaches `flush.messages`.
    pub fn wants_flush_now(&self) -> bool {
        self.flush_is_due(self.log.log_end_offset(), &self.settings.borrow())
            && self.log.recovery_point() < self.log.log_end_offset()
    }

    /// Answers `op` now if the append is acknowledged already, else when it is.
    ///
    /// Returns whether it waits.
    pub fn wait(&self, appended: Appended, acks: i16, slot: u32, op: &Rc<ProduceOp>) -> bool {
        let waiting = Waiting {
            end: appended.end,
            all: acks == -1,
            flushed: appended.flush,
            written: false,
            produced: appended.produced,
            slot,
            op: op.clone(),
        };
        if self.is_acknowledged(&waiting) {
            op.answer(slot, Ok(waiting.produced));
            return false;
        }
        self.waiting.borrow_mut().push(waiting);
        true
    }

    fn is_acknowledged(&self, waiting: &Waiting) -> bool {
        let end = waiting.end;
        if (waiting.flushed || self.sync_before_visible()) && self.log.recovery_point() < end {
            return false;
        }
        if waiting.all {
            self.high_watermark() >= end
        } else {
            self.log.log_end_offset() >= end
        }
    }

    /// Writes everything staged. Afterwards the log end has moved, or the log is offline and whoever
    /// waits was told.
    pub async fn write(&self, now: Timestamp) -> Moved {
        match self.log.write_staged(now).await {
            Ok(written) => {
                self.untold_bytes
                    .set(self.untold_bytes.get() + written.bytes);
                self.last_write_bytes.set(written.bytes);
                if written.prepare {
                    self.wants_prepare.set(true);
                }
                if written.rolled {
                    self.rolled.set(true);
                    self.rolled_at.set(now);
                }
                if self.unflushed_since.get() == Timestamp::NONE {
                    self.unflushed_since.set(now);
                }
                profile::stamp(Stage::Write);
                self.moved()
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Whether there are records that no flush covers.
    pub fn has_unflushed(&self) -> bool {
        self.unflushed_since.get() != Timestamp::NONE
    }

    /// Whether the oldest of them has waited for `flush.ms`.
    pub fn flush_is_due_by_age(&self, now: Timestamp) -> bool {
        let since = self.unflushed_since.get();
        let age = u64::try_from(now.0.saturating_sub(since.0)).unwrap_or(0);
        since != Timestamp::NONE && age >= self.settings.borrow().flush_ms
    }

    /// Puts all that is written on the device, and answers those who waited for that.
    pub async fn flush(&self) -> Result<Moved, LogError> {
        // What is written meanwhile has its own age.
        self.unflushed_since.set(Timestamp::NONE);
        self.log.flush().await?;
        if self.log.recovery_point() >= self.log.log_end_offset() {
            self.unflushed_since.set(Timestamp::NONE);
        }
        profile::stamp(Stage::Commit);
        Ok(self.moved())
    }

    /// Puts the closed segments on the device.
    pub async fn flush_closed(&self) -> Result<Moved, LogError> {
        let rolled_at = self.rolled_at.get();
        self.log.flush_closed().await?;
        // What is left was written after the roll.
        let since = self.unflushed_since.get();
        if since != Timestamp::NONE {
            self.unflushed_since.set(since.max(rolled_at));
        }
        profile::stamp(Stage::Commit);
        Ok(self.moved())
    }

    /// The log is offline: everyone who waits is told. One that was closed, as the node stops, is well, but takes no more:
    /// who waits is to ask again.
    pub fn fail(&self, error: &LogError) -> Moved {
        if matches!(error, LogError::Closed) {
            return self.leave(&PartitionError::Stopping);
        }
        let mut moved = Moved {
            failed: !self.failed.replace(true),
            ..Moved::default()
        };
        if moved.failed {
            tracing::error!(
                topic = %self.topic,
                partition = self.key.partition.0,
                "log is offline and stays so until a restart: {error}"
            );
        }
        self.tell_watcher();
        for waiting in self.waiting.take().into_waiting() {
            waiting
                .op
                .answer(waiting.slot, Err(PartitionError::Storage));
            moved.produces.push(waiting.op);
        }
        moved.fetches = self.fetches.take();
        moved
    }

    /// The partition goes away: everyone who waits is told.
    pub fn close(&self) -> Moved {
        self.leave(&PartitionError::Unknown)
    }

    /// Another log serves the partition from now on: everyone who waits is told to ask again.
    pub fn close_moved(&self) -> Moved {
        self.leave(&PartitionError::Moving)
    }

    fn leave(&self, why: &PartitionError) -> Moved {
        self.deleted.set(true);
        self.tell_watcher();
        let mut moved = Moved::default();
        for waiting in self.waiting.take().into_waiting() {
            waiting.op.answer(waiting.slot, Err(why.clone()));
            moved.produces.push(waiting.op);
        }
        moved.fetches = self.fetches.take();
        moved
    }

    /// Gives back files and memory of a partition that has fallen silent. Returns how many files were closed.
    pub async fn rest(&self) -> Result<usize, LogError> {
        let closed = self.log.rest().await?;
        if !self.has_waiting() {
            self.waiting.take();
        }
        let mut fetches = self.fetches.borrow_mut();
        fetches.retain(|op| !op.is_done());
        fetches.shrink_to_fit();
        Ok(closed)
    }

    /// Whether some append is not acknowledged yet.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    fn moved(&self) -> Moved {
        let end = if self.sync_before_visible() {
            self.log.recovery_point()
        } else {
            self.log.log_end_offset()
        };
        // Turning flush.messages to 1 at run time may put the counted end behind what was visible.
        let advanced = {
            let mut leader = self.leader.borrow_mut();
            let end = end.max(leader.local_end());
            leader.local_end_advanced(end)
        };
        if advanced.is_some() {
            // Markers below it let readers of committed records pass.
            self.log.on_high_watermark(self.high_watermark());
        }
        let mut moved = Moved::default();
        self.answer_acknowledged(&mut moved, profile::recent());
        if advanced.is_some() {
            self.tell_watcher();
            let bytes = self.untold_bytes.take();
            self.fetches.borrow_mut().retain(|op| {
                if op.is_done() {
                    return false;
                }
                let enough = op.more(bytes);
                if enough {
                    moved.fetches.push(op.clone());
                }
                !enough
            });
        }
        moved
    }

    fn answer_acknowledged(&self, moved: &mut Moved, at: Nanos) {
        loop {
            let next = self
                .waiting
                .borrow_mut()
                .pop(|waiting| self.is_acknowledged(waiting));
            let Some(waiting) = next else { break };
            if !waiting.written {
                waiting.op.wrote(at);
            }
            waiting.op.reached(at);
            waiting.op.answer(waiting.slot, Ok(waiting.produced));
            if waiting.op.is_done() {
                moved.produces.push(waiting.op);
            }
        }
        // Those that wait for more than the write, an fsync or a replica.
        let end = self.log.log_end_offset();
        for queue in self.waiting.borrow_mut().each() {
            let unwritten = queue.iter_mut().rev().take_while(|w| !w.written);
            for waiting in unwritten.filter(|w| w.end <= end) {
                waiting.written = true;
                waiting.op.wrote(at);
            }
        }
    }

    /// Registers a fetch to be told of new bytes.
    pub fn watch(&self, op: &Rc<FetchOp>) {
        let mut fetches = self.fetches.borrow_mut();
        // Those that were answered by another partition, or gave up, leave with the next to come.
        if fetches.len() >= 16 {
            fetches.retain(|op| !op.is_done());
        }
        fetches.push(op.clone());
    }

    /// Reads for a client: up to the high watermark, or the last stable offset.
    pub async fn fetch(
        &self,
        ask: FetchPartition,
        max_bytes: u32,
        min_one_batch: bool,
        read_committed: bool,
    ) -> Result<Fetched, PartitionError> {
        self.check_leader_epoch(ask.current_leader_epoch)?;
        let high_watermark = self.high_watermark();
        let last_stable_offset = self.last_stable_offset();
        let log_start_offset = self.log.log_start_offset();
        let mut fetched = Fetched {
            high_watermark,
            last_stable_offset,
            log_start_offset,
            diverging_epoch: None,
            aborted: Vec::new(),
            records: Vec::new(),
            records_len: 0,
        };
        if let Some(diverging) = self.diverges(ask) {
            fetched.diverging_epoch = Some(diverging);
            return Ok(fetched);
        }
        let upper = if read_committed {
            last_stable_offset
        } else {
            high_watermark
        };
        let out_of_range = || PartitionError::OffsetOutOfRange {
            log_start: log_start_offset,
            log_end: self.log.log_end_offset(),
            high_watermark,
        };
        if ask.fetch_offset < log_start_offset || ask.fetch_offset > self.log.log_end_offset() {
            return Err(out_of_range());
        }
        if ask.fetch_offset >= upper {
            return Ok(fetched);
        }
        let read = self
            .log
            .read(ask.fetch_offset, max_bytes, upper, min_one_batch)
            .await
            .map_err(|error| match error {
                LogError::OffsetOutOfRange { .. } => out_of_range(),
                other => self.read_error(&other),
            })?;
        if let Some(slice) = read.slice {
            fetched.records_len = u32::try_from(slice.len()).unwrap_or(u32::MAX);
            fetched.records.push(slice);
        }
        if read_committed && fetched.records_len > 0 {
            fetched.aborted = self
                .log
                .aborted_transactions(ask.fetch_offset, read.next_offset)
                .await
                .map_err(|error| self.read_error(&error))?
                .into_iter()
                .map(|txn| (txn.producer_id, txn.first_offset))
                .collect();
        }
        Ok(fetched)
    }

    /// Where the asker's log leaves ours, if the epoch of its last record says so (KIP-595).
    fn diverges(&self, ask: FetchPartition) -> Option<(LeaderEpoch, Offset)> {
        if ask.last_fetched_epoch == LeaderEpoch::NONE {
            return None;
        }
        let (epoch, end) = self.log.end_offset_for_epoch(ask.last_fetched_epoch)?;
        (epoch < ask.last_fetched_epoch || end < ask.fetch_offset).then_some((epoch, end))
    }

    fn read_error(&self, error: &LogError) -> PartitionError {
        tracing::error!(
            topic = %self.topic,
            partition = self.key.partition.0,
            "read failed: {error}"
        );
        match error {
            LogError::Corrupt { .. } => PartitionError::Corrupt,
            LogError::Closed => PartitionError::Unknown,
            _ => PartitionError::Storage,
        }
    }

    /// ListOffsets. What it says agrees with what a fetch at the same moment reports.
    pub async fn list_offset(
        &self,
        timestamp: i64,
        current_leader_epoch: LeaderEpoch,
        read_committed: bool,
    ) -> Result<FoundOffset, PartitionError> {
        self.check_leader_epoch(current_leader_epoch)?;
        let visible = if read_committed {
            self.last_stable_offset()
        } else {
            self.high_watermark()
        };
        let none = FoundOffset {
            offset: Offset::NONE,
            timestamp: Timestamp::NONE,
            leader_epoch: LeaderEpoch::NONE,
        };
        let found = match timestamp {
            LATEST => FoundOffset {
                offset: visible,
                timestamp: Timestamp::NONE,
                leader_epoch: self.leader_epoch(),
            },
            EARLIEST | EARLIEST_LOCAL => {
                let offset = self.log.log_start_offset();
                FoundOffset {
                    offset,
                    timestamp: Timestamp::NONE,
                    leader_epoch: self
                        .log
                        .epoch_for_offset(offset)
                        .unwrap_or(LeaderEpoch::NONE),
                }
            }
            // Nothing is tiered.
            LATEST_TIERED => none,
            MAX_TIMESTAMP => self
                .log
                .max_timestamp(&mut Scratch::default())
                .await
                .map_err(|e| self.read_error(&e))?
                .filter(|found| found.offset < visible)
                .map_or(none, FoundOffset::from),
            _ => self
                .log
                .offset_for_timestamp(Timestamp(timestamp), &mut Scratch::default())
                .await
                .map_err(|e| self.read_error(&e))?
                .filter(|found| found.offset < visible)
                .map_or(none, FoundOffset::from),
        };
        Ok(found)
    }

    /// OffsetForLeaderEpoch (KIP-101): the largest epoch not above the asked one, and where it ends.
    pub fn epoch_end(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<FoundEpochEnd, PartitionError> {
        self.check_leader_epoch(current_leader_epoch)?;
        let (leader_epoch, end_offset) = if epoch == self.leader_epoch() {
            (epoch, self.high_watermark())
        } else {
            self.log
                .end_offset_for_epoch(epoch)
                .unwrap_or((LeaderEpoch::NONE, Offset::NONE))
        };
        Ok(FoundEpochEnd {
            leader_epoch,
            end_offset,
        })
    }

    /// DeleteRecords (KIP-107): everything before `before` goes; -1 is the high watermark.
    pub fn delete_records(&self, before: Offset) -> Result<Offset, PartitionError> {
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        if self.moving.get() {
            return Err(PartitionError::Moving);
        }
        if !self.settings.borrow().cleanup_policy.delete {
            return Err(PartitionError::Policy);
        }
        let high_watermark = self.high_watermark();
        let before = if before == Offset::NONE {
            high_watermark
        } else {
            before
        };
        let out_of_range = PartitionError::OffsetOutOfRange {
            log_start: self.log.log_start_offset(),
            log_end: self.log.log_end_offset(),
            high_watermark,
        };
        if before < Offset(0) {
            return Err(out_of_range);
        }
        match self.log.delete_records(before, high_watermark) {
            Ok(low_watermark) => Ok(low_watermark),
            Err(LogError::OffsetOutOfRange { .. }) => Err(out_of_range),
            Err(error) => Err(self.read_error(&error)),
        }
    }

    pub fn producers(&self) -> Result<Vec<ActiveProducer>, PartitionError> {
        if self.deleted.get() {
            return Err(PartitionError::Unknown);
        }
        let producers = self.log.producers();
        Ok(producers
            .producers()
            .map(|p| ActiveProducer {
                producer_id: p.producer_id,
                producer_epoch: p.producer_epoch,
                last_sequence: p.last_sequence(),
                last_timestamp: p.last_timestamp,
                coordinator_epoch: p.coordinator_epoch,
                current_txn_start_offset: p.current_txn_first_offset.unwrap_or(Offset::NONE),
            })
            .collect())
    }

    /// Whether the caller is to [prepare](Self::prepare) now: there is something to do, and nobody is at it.
    pub fn begin_prepare(&self) -> bool {
        self.wants_prepare.get() && !self.preparing.replace(true)
    }

    /// Makes ready what the next appends will need: the next segment, room on the disk. One call at a time, after
    /// [`begin_prepare`](Self::begin_prepare); what is wanted meanwhile is left.
    pub async fn prepare(&self) {
        self.wants_prepare.set(false);
        let prepared = self.log.prepare().await;
        self.preparing.set(false);
        if let Err(error) = prepared {
            tracing::debug!(
                topic = %self.topic,
                partition = self.key.partition.0,
                "nothing could be prepared: {error}"
            );
        }
    }
}

/// What a topic's settings ask of the batches it is sent.
fn rules(settings: &LogSettings) -> ValidationRules {
    let compression = match settings.compression_type {
        settings::CompressionType::Producer => None,
        settings::CompressionType::Uncompressed => Some((CompressionType::None, 0)),
        settings::CompressionType::Gzip => {
            Some((CompressionType::Gzip, settings.compression_gzip_level))
        }
        settings::CompressionType::Snappy => Some((CompressionType::Snappy, 0)),
        settings::CompressionType::Lz4 => {
            Some((CompressionType::Lz4, settings.compression_lz4_level))
        }
        settings::CompressionType::Zstd => {
            Some((CompressionType::Zstd, settings.compression_zstd_level))
        }
    };
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    ValidationRules {
        max_message_bytes: settings.max_message_bytes,
        compacted: settings.cleanup_policy.compact,
        timestamp_type: match settings.message_timestamp_type {
            settings::TimestampType::CreateTime => TimestampType::CreateTime,
            settings::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: signed(settings.message_timestamp_before_max_ms),
        timestamp_after_max_ms: signed(settings.message_timestamp_after_max_ms),
        compression: compression.map(|(kind, level)| Compression { kind, level }),
        ..ValidationRules::default()
    }
}

impl From<TimestampOffset> for FoundOffset {
    fn from(found: TimestampOffset) -> Self {
        FoundOffset {
            offset: found.offset,
            timestamp: found.timestamp,
            leader_epoch: found.leader_epoch,
        }
    }
}

impl From<AppendError> for PartitionError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Sequence(error) => PartitionError::Sequence(error),
            AppendError::Log(LogError::BatchTooLarge { .. }) => PartitionError::LargerThanSegment,
            AppendError::Log(LogError::Closed) => PartitionError::Unknown,
            AppendError::Log(_) => PartitionError::Storage,
        }
    }
}

/// Marks that ListOffsets takes in place of a time (KIP-79, 734, 405, 1005).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

#[cfg(test)]
mod tests;
