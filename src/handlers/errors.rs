//! Kafka's code for every way in which a partition refuses.

use crate::broker::error::PartitionError;
use crate::protocol::ErrorCode;
use crate::records::ValidationError;
use crate::storage::producer_state::SequenceError;

/// The code a client is told.
pub fn code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::Unknown => ErrorCode::UnknownTopicOrPartition,
        PartitionError::FencedLeaderEpoch => ErrorCode::FencedLeaderEpoch,
        PartitionError::UnknownLeaderEpoch => ErrorCode::UnknownLeaderEpoch,
        PartitionError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        PartitionError::Invalid(error) => invalid(error),
        PartitionError::LargerThanSegment => ErrorCode::RecordListTooLarge,
        PartitionError::Sequence(error) => sequence(error),
        PartitionError::NotEnoughReplicas(_) => ErrorCode::NotEnoughReplicas,
        PartitionError::TimedOut => ErrorCode::RequestTimedOut,
        // Why this one for a full disk: see `broker::room`.
        PartitionError::Storage | PartitionError::DiskFull => ErrorCode::KafkaStorageError,
        PartitionError::Corrupt => ErrorCode::CorruptMessage,
        PartitionError::Policy => ErrorCode::PolicyViolation,
        PartitionError::NotInTransaction => ErrorCode::InvalidTxnState,
        PartitionError::BeginsAmidSequence(_) => ErrorCode::OutOfOrderSequenceNumber,
        // Whoever asks for the leader and comes again finds it.
        PartitionError::Moving | PartitionError::Stopping => ErrorCode::NotLeaderOrFollower,
    }
}

fn invalid(error: &ValidationError) -> ErrorCode {
    match error {
        ValidationError::NoBatch
        | ValidationError::OldMagic { .. }
        | ValidationError::MoreThanOneBatch
        | ValidationError::BaseOffset { .. }
        | ValidationError::Header(_)
        | ValidationError::Count { .. }
        | ValidationError::ControlBatch
        | ValidationError::NoSequence { .. }
        | ValidationError::Malformed { .. }
        | ValidationError::OffsetDelta { .. }
        | ValidationError::Decompress(_) => ErrorCode::InvalidRecord,
        ValidationError::UnknownMagic { .. }
        | ValidationError::Length { .. }
        | ValidationError::Crc { .. } => ErrorCode::CorruptMessage,
        ValidationError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        ValidationError::Compress => ErrorCode::UnknownServerError,
        ValidationError::Records {
            invalid_timestamp, ..
        } => {
            if *invalid_timestamp {
                ErrorCode::InvalidTimestamp
            } else {
                ErrorCode::InvalidRecord
            }
        }
    }
}

fn sequence(error: &SequenceError) -> ErrorCode {
    match error {
        SequenceError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        SequenceError::OutOfOrderSequence { .. } | SequenceError::NewEpochNotAtZero { .. } => {
            ErrorCode::OutOfOrderSequenceNumber
        }
        SequenceError::NotTransactional { .. } => ErrorCode::InvalidTxnState,
        SequenceError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
    }
}

/// The records that made a batch be refused, with a message each (KIP-467).
pub fn record_errors(error: &PartitionError) -> Vec<(i32, Option<String>)> {
    match error {
        PartitionError::Invalid(ValidationError::Records { faults, .. }) => faults
            .iter()
            .map(|(index, fault)| (*index, Some(fault.to_string())))
            .collect(),
        _ => Vec::new(),
    }
}
