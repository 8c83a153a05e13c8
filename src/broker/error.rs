//! Why a partition did not do what it was asked. The handler picks Kafka's code for each.

use crate::base::Offset;
use crate::records::ValidationError;
use crate::replication::NotEnoughReplicas;
use crate::storage::producer_state::SequenceError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum PartitionError {
    /// The image this shard serves has no such partition, or it is being deleted.
    #[error("the partition does not exist here")]
    Unknown,
    /// The asker's leader epoch is older than ours (KIP-320).
    #[error("the leader epoch of the request is older than the leader's")]
    FencedLeaderEpoch,
    /// The asker's leader epoch is newer than ours (KIP-320).
    #[error("the leader epoch of the request is newer than the leader's")]
    UnknownLeaderEpoch,
    #[error("the offset is not between log start {log_start} and log end {log_end}")]
    OffsetOutOfRange {
        log_start: Offset,
        log_end: Offset,
        high_watermark: Offset,
    },
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("the batch is larger than segment.bytes")]
    LargerThanSegment,
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error(transparent)]
    NotEnoughReplicas(#[from] NotEnoughReplicas),
    /// Appended, but not acknowledged by enough replicas within the request's timeout.
    #[error("not acknowledged in time")]
    TimedOut,
    /// The log went offline: a write or an fsync failed. It stays so until a restart.
    #[error("the log is offline")]
    Storage,
    /// Less than `ringspun.log.min.free.bytes` are free.
    #[error(
        "the disk is full up to ringspun.log.min.free.bytes: records are taken again when there is room"
    )]
    DiskFull,
    /// The batches read are damaged.
    #[error("the records are damaged")]
    Corrupt,
    /// The topic's policy forbids it (DeleteRecords on a topic that is only compacted).
    #[error("the topic's cleanup.policy forbids it")]
    Policy,
    /// A batch of a transaction that does not include the partition, or has ended meanwhile (KIP-890).
    #[error("the partition is not part of the producer's transaction")]
    NotInTransaction,
    /// A producer that the partition does not know begins a transaction amid its sequence (KIP-890).
    #[error("a new transaction of an unknown producer begins at sequence {0} and not at 0")]
    BeginsAmidSequence(i32),
    /// The log moves to another data directory: for some milliseconds nothing is appended.
    #[error("the log moves to another directory")]
    Moving,
    /// The shard is stopping.
    #[error("the broker is stopping")]
    Stopping,
}
