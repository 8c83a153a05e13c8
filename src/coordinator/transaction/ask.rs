//! What the coordinator of transactional ids is asked, what it answers, and what it wants done elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{NamedPartition, State, Transaction};
use crate::base::{ProducerEpoch, ProducerId};
use crate::protocol::ErrorCode;

pub(super) type TransactionalId = Arc<str>;

/// A question to the coordinator of a transactional id.
pub enum Ask {
    InitProducerId {
        transactional_id: TransactionalId,
        timeout_ms: i32,
        /// What the producer has, if it goes on after an error (KIP-360).
        expected: Option<(ProducerId, ProducerEpoch)>,
        /// A producer id nobody has, after [`Answer::NeedsProducerId`].
        fresh: Option<ProducerId>,
    },
    AddPartitions {
        transactional_id: TransactionalId,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        partitions: Vec<NamedPartition>,
        client_version: i16,
        /// How long to wait for the transaction before to complete, rather than to refuse at once.
        patience_ms: u32,
    },
    /// Whether the transaction includes the partitions (KIP-890).
    VerifyPartitions {
        transactional_id: TransactionalId,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        partitions: Vec<NamedPartition>,
    },
    End {
        transactional_id: TransactionalId,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        commit: bool,
        client_version: i16,
        /// As for [`Ask::InitProducerId`].
        fresh: Option<ProducerId>,
    },
    Describe {
        transactional_id: TransactionalId,
    },
    List(Arc<ListFilter>),
    /// What came of [`Effect::WriteMarkers`].
    MarkersWritten {
        transactional_id: TransactionalId,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        partitions: Vec<(NamedPartition, MarkerResult)>,
    },
    /// What [`Effect::ProducerId`] asked for.
    AbortTimedOut {
        transactional_id: TransactionalId,
        fresh: ProducerId,
    },
}

/// The answer to the [`Ask`] of the same name.
pub enum Answer {
    InitProducerId(Result<(ProducerId, ProducerEpoch), ErrorCode>),
    /// Ask again, with a fresh producer id.
    NeedsProducerId,
    AddPartitions(ErrorCode),
    /// In the order of the question; one code for all, if the transaction itself is refused.
    VerifyPartitions(Result<Vec<(NamedPartition, ErrorCode)>, ErrorCode>),
    /// With what the producer goes on (-1 and -1 before transaction version 2).
    End(Result<(ProducerId, ProducerEpoch), ErrorCode>),
    Describe(Result<Box<Transaction>, ErrorCode>),
    List(Vec<Listed>),
    Done,
}

/// What became of one partition's marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerResult {
    Written,
    /// The partition is deleted, or has moved past this producer epoch: no marker is due any more.
    Gone,
    Retry,
}

/// Which transactions ListTransactions wants (KIP-664, 994, 1152). Empty lists want all.
#[derive(Default)]
pub struct ListFilter {
    pub producer_ids: BTreeSet<ProducerId>,
    pub states: Option<BTreeSet<State>>,
    /// Running for longer than this; below 0 wants all.
    pub duration_ms: i64,
    pub id_matches: Option<Box<dyn Fn(&str) -> bool + Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub transactional_id: TransactionalId,
    pub producer_id: ProducerId,
    pub state: State,
}

/// What is to be done outside of the coordinator's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// To be answered with [`Ask::MarkersWritten`], whatever comes of it.
    WriteMarkers(Markers),
    /// A timed-out transaction needs a producer id to be aborted: [`Ask::AbortTimedOut`].
    ProducerId { transactional_id: TransactionalId },
}

/// The markers that end one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    pub transactional_id: TransactionalId,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub commit: bool,
    /// The leader epoch of the coordinator's partition; an older coordinator is fenced by it.
    pub coordinator_epoch: i32,
    pub client_version: i16,
    pub partitions: Vec<NamedPartition>,
    /// Tries before this one.
    pub failures: u32,
}
