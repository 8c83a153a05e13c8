//! What shards, and the control thread, ask of each other. One message a shard a request.
//!
//! Partitions are named by topic id; `slot` is the asker's own number for the item, handed back with
//! its result, so that answers of several shards merge without a table.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::base::profile::{ShardProfile, Timeline};
use crate::base::settings::NodeSettings;
use crate::base::{
    LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, ShardId, Timestamp,
    TopicPartition,
};
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::coordinators::CoordinatorError;
use crate::broker::error::PartitionError;
use crate::broker::lifecycle::OpenSummary;
use crate::coordinator::{Guard, group, transaction};
use crate::metadata::{Delta, Image};
use crate::storage::LogSlice;

/// A request to a shard, or (only [`Request::Control`]) to the control thread.
pub enum Request {
    Produce(Produce),
    Fetch(Fetch),
    /// The asker no longer waits: answer the fetch of this id at once with what there is.
    FetchNow(u64),
    ListOffsets(Vec<ListOffset>),
    DeleteRecords(Vec<DeleteRecords>),
    EpochEnds(Vec<EpochEnd>),
    DescribeProducers(Vec<Item<()>>),
    /// For the coordinator of this partition of `__consumer_offsets`.
    Group(PartitionIndex, group::Ask),
    /// For the coordinator of this partition of `__transaction_state`.
    Transaction(PartitionIndex, transaction::Ask),
    /// Whether batches of transactions may be appended, before they are (KIP-890).
    Verifications(Vec<Item<TransactionBatch>>),
    /// Ends transactions; answered as [`Request::Produce`] is.
    WriteMarkers(Vec<Item<Marker>>),
    /// Sizes of the partitions this shard owns.
    LogDirs,
    /// Move logs to the directory of this place in `log.dirs`.
    MoveReplicas(Vec<Item<usize>>),
    /// Create, delete and change partitions until this shard serves the image.
    Image(Arc<Image>, Arc<Delta>),
    /// Settings changed at run time.
    Settings(Arc<NodeSettings>),
    /// A connection for this shard to serve.
    Connection(Accepted),
    /// What the checkpoint files are to hold of this shard's partitions.
    Checkpoints,
    /// Where the time went on this shard.
    Profile,
    /// Which connections this shard serves, and which partitions it owns.
    Holdings,
    /// Start to accept connections: for the first shard.
    Accept,
    /// Whether the partitions are open: answered once they are.
    Opened,
    /// Take no more requests, and finish those in flight.
    Drain,
    /// Write and flush everything, close the logs.
    Stop,
    Control(ControlRequest),
}

/// The answer to the [`Request`] of the same name.
pub enum Reply {
    Produce(Vec<Answer<Produced>>, Timeline),
    Fetch(Vec<Answer<Fetched>>, Timeline),
    ListOffsets(Vec<Answer<FoundOffset>>),
    /// The new low watermark.
    DeleteRecords(Vec<Answer<Offset>>),
    EpochEnds(Vec<Answer<FoundEpochEnd>>),
    DescribeProducers(Vec<Answer<Vec<ActiveProducer>>>),
    Group(Result<group::Answer, CoordinatorError>),
    Transaction(Result<transaction::Answer, CoordinatorError>),
    Verifications(Vec<Answer<Verification>>),
    LogDirs(Vec<PartitionSize>),
    MoveReplicas(Vec<Answer<()>>),
    Done,
    Opened(OpenSummary),
    Checkpoints(Vec<Checkpoint>),
    /// `None`: the profiler is switched off.
    Profile(Option<Box<ShardProfile>>),
    Holdings(Holdings),
    Stopped {
        /// Directories in which a log could not be closed cleanly, by their index in `log.dirs`.
        unclean: BTreeSet<usize>,
        checkpoints: Vec<Checkpoint>,
    },
    Control(ControlReply),
}

/// A question about one partition.
#[derive(Clone)]
pub struct Item<T> {
    pub slot: u32,
    pub partition: TopicPartition,
    pub ask: T,
}

/// The result for the item of the same slot.
pub struct Answer<T> {
    pub slot: u32,
    pub result: Result<T, PartitionError>,
}

pub struct Produce {
    /// 0, 1 or -1; checked by the handler.
    pub acks: i16,
    /// How long the append may wait for its acknowledgement.
    pub timeout_ms: u32,
    pub timeline: Timeline,
    pub partitions: Vec<Item<ProduceBatch>>,
}

pub struct ProduceBatch {
    pub records: BytesMut,
    /// What [`Verification::Needed`] said, once the coordinator has agreed.
    pub verified: Option<Guard>,
}

/// Whose transaction a batch belongs to.
#[derive(Clone, Copy, Debug)]
pub struct TransactionBatch {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    /// Whether the client's protocol raises the epoch with each end.
    pub epoch_bump: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The transaction is open here already, or the batch was appended before.
    NotNeeded,
    /// The coordinator has to say that the transaction includes the partition. The batch then brings the
    /// guard: it is refused if a transaction of the producer has ended meanwhile, since it would begin
    /// one that nobody ends.
    Needed(Guard),
}

/// The marker of one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Marker {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub commit: bool,
    pub coordinator_epoch: i32,
    /// `transaction.version` by which it was decided.
    pub transaction_version: i16,
}

#[derive(Clone, Copy, Debug)]
pub struct Produced {
    pub base_offset: Offset,
    /// -1 unless the topic stamps records itself.
    pub log_append_time: Timestamp,
    pub log_start_offset: Offset,
}

#[derive(Clone)]
pub struct Fetch {
    /// The asker's own number for this fetch, for [`Request::FetchNow`].
    pub id: u64,
    /// Answer at once when this many bytes are there ...
    pub min_bytes: u32,
    /// ... or when this time has come. None: answer at once.
    pub deadline: Option<Instant>,
    /// Over all partitions of the answer; the first batch goes out even if larger (KIP-74).
    pub max_bytes: u32,
    pub read_committed: bool,
    /// As it was when the fetch was sent.
    pub timeline: Timeline,
    pub partitions: Vec<Item<FetchPartition>>,
}

#[derive(Clone, Copy, Debug)]
pub struct FetchPartition {
    pub fetch_offset: Offset,
    pub max_bytes: u32,
    /// The epoch the asker believes in, or -1 (KIP-320).
    pub current_leader_epoch: LeaderEpoch,
    /// The epoch of the last record the asker has, or -1 (KIP-595).
    pub last_fetched_epoch: LeaderEpoch,
}

pub struct Fetched {
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start_offset: Offset,
    /// The asker's log has left ours: it must truncate to this epoch and end offset.
    pub diverging_epoch: Option<(LeaderEpoch, Offset)>,
    /// Producer id and first offset of each aborted transaction in the range (read_committed).
    pub aborted: Vec<(ProducerId, Offset)>,
    pub records: Vec<LogSlice>,
    /// Bytes in `records`.
    pub records_len: u32,
}

impl Fetched {
    /// Those of `records` that were copied out of the log.
    pub fn copied_bytes(&self) -> usize {
        let copied = self.records.iter().filter_map(|slice| match slice {
            LogSlice::Bytes(bytes) => Some(bytes.len()),
            LogSlice::File(_) => None,
        });
        copied.sum()
    }
}

pub struct ListOffset {
    pub slot: u32,
    pub partition: TopicPartition,
    /// A time, or one of Kafka's negative marks (-1 latest, -2 earliest, -3 max timestamp, -4
    /// earliest local, -5 latest tiered).
    pub timestamp: i64,
    pub current_leader_epoch: LeaderEpoch,
    pub read_committed: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct FoundOffset {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub leader_epoch: LeaderEpoch,
}

pub struct DeleteRecords {
    pub slot: u32,
    pub partition: TopicPartition,
    /// Everything before goes; -1 is the high watermark.
    pub before: Offset,
}

pub struct EpochEnd {
    pub slot: u32,
    pub partition: TopicPartition,
    pub current_leader_epoch: LeaderEpoch,
    pub leader_epoch: LeaderEpoch,
}

#[derive(Clone, Copy, Debug)]
pub struct FoundEpochEnd {
    pub leader_epoch: LeaderEpoch,
    pub end_offset: Offset,
}

/// A producer whose state a partition keeps (KIP-664).
#[derive(Clone, Copy, Debug)]
pub struct ActiveProducer {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub last_sequence: i32,
    pub last_timestamp: Timestamp,
    pub coordinator_epoch: i32,
    /// -1 without an open transaction.
    pub current_txn_start_offset: Offset,
}

#[derive(Clone, Debug)]
pub struct PartitionSize {
    pub partition: TopicPartition,
    pub topic: Arc<str>,
    /// Index of the directory in `log.dirs`.
    pub directory: usize,
    pub size_bytes: u64,
    /// Of a log that is to take the place of another: how many offsets it is behind.
    pub future_lag: Option<i64>,
}

/// What the checkpoint files hold of one partition.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Index of the directory in `log.dirs`.
    pub directory: usize,
    pub topic: Arc<str>,
    pub partition: PartitionIndex,
    pub recovery_point: Offset,
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    /// Where the cleaner's last pass ended.
    pub cleaned_to: Option<Offset>,
    /// The rest is for metrics.
    pub log_end_offset: Offset,
    pub size_bytes: u64,
}

/// What is on one shard.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    pub shard: ShardId,
    /// Addresses of clients, with the name of the listener they came by.
    pub connections: Vec<(SocketAddr, Arc<str>)>,
    pub partitions: Vec<(Arc<str>, PartitionIndex)>,
}

/// A socket that was accepted, on its way to the shard that will serve it.
pub struct Accepted {
    pub fd: OwnedFd,
    pub peer: SocketAddr,
    /// Index of the listener in the node's list.
    pub listener: usize,
}
