//! Group and transaction coordinators: pure machines over a log of records.
//!
//! A coordinator is a partition of an internal topic and the machine that its records make. Every
//! request goes the same way:
//! 1. The host asks the [`Machine`], which checks, and returns an [`Outcome`]: records to append,
//!    answers, and effects. Nothing that is on record has changed yet.
//! 2. The host gives the records their offsets, lets [`Machine::apply`] see each, and appends them as
//!    one batch: all of them or none.
//! 3. Answers and effects are let out when the high watermark has passed everything appended before
//!    them, so that nobody is told what a crash could take back. An outcome without records waits for
//!    those before it in the same way: an answer may rest on them.
//!
//! When an append fails the machine is thrown away and made anew from the log, so what is on record
//! changes in `apply` alone, and replaying the log gives the machine. What is not on record (members
//! that wait for a rebalance, sessions) is the machine's own to keep, and gone with it.
//!
//! A request may be answered later, by whatever outcome comes to it: its [`Token`] is kept by the
//! machine until then.

pub mod fields;
pub mod group;
pub mod transaction;

use bytes::Bytes;

use crate::base::settings::NodeSettings;
use crate::base::{Offset, PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::metadata::{Delta, Image};

/// A record of a coordinator's log, as key and value; no value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// Names a request that is to be answered. Given out by the host, once each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a machine may look at beside its own state.
pub struct Context<'a> {
    /// Milliseconds since the epoch; does not go back while the machine lives.
    pub now: Timestamp,
    pub image: &'a Image,
    pub settings: &'a NodeSettings,
    /// Random bits, for ids.
    pub random: &'a mut dyn FnMut() -> u128,
}

/// Where a record stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub offset: Offset,
    pub timestamp: Timestamp,
    /// The transaction that the record belongs to: it counts once that is committed.
    pub producer: Option<(ProducerId, ProducerEpoch)>,
}

/// How many of a producer's transactions had ended in a partition by markers of their own epoch when it
/// was asked. With transaction version 2 the marker is of a higher epoch, which tells late records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(pub u32);

/// What asking a machine came to.
pub struct Outcome<M: Machine> {
    /// Appended as one batch.
    pub records: Vec<CoordinatorRecord>,
    /// Bytes that a batch must hold beside the records: what has to follow them one day takes that much more,
    /// and could not be refused then.
    pub reserve: usize,
    /// The records belong to this producer's transaction.
    pub producer: Option<(ProducerId, ProducerEpoch)>,
    /// What the partition said before the transaction's coordinator agreed to the records: if one of the
    /// producer's transactions has ended since, they would begin one that nobody ends, and are refused.
    /// Without it they are taken only into a transaction that is open here.
    pub guard: Option<Guard>,
    /// To the request itself, or to others that waited.
    pub answers: Vec<(Token, M::Answer)>,
    pub effects: Vec<M::Effect>,
}

impl<M: Machine> Default for Outcome<M> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            reserve: 0,
            producer: None,
            guard: None,
            answers: Vec::new(),
            effects: Vec::new(),
        }
    }
}

impl<M: Machine> Outcome<M> {
    /// An answer and nothing else.
    pub fn answer(token: Token, answer: M::Answer) -> Self {
        Self {
            answers: vec![(token, answer)],
            ..Self::default()
        }
    }
}

/// A record that a machine cannot read. It is skipped, loudly; the rest is loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// One coordinator. One per partition of an internal topic, on the shard that owns the partition.
pub trait Machine: Sized + 'static {
    type Ask: 'static;
    type Answer: 'static;
    /// What the host is to do outside of this partition.
    type Effect: 'static;

    /// Empty, as before the first record.
    fn new(partition: PartitionIndex) -> Self;

    /// Takes in one record: while the log is read, and when the machine's own records are appended.
    fn apply(&mut self, record: &CoordinatorRecord, at: Position) -> Result<(), Unreadable>;

    /// A transaction's marker was appended, or read: what it had in this partition counts, or does not.
    fn apply_marker(&mut self, producer_id: ProducerId, epoch: ProducerEpoch, committed: bool);

    /// The whole log has been read: sessions start, and what a crash left half done goes on. An empty log
    /// has nothing of either: a new machine serves without this call.
    fn loaded(&mut self, context: &mut Context<'_>) -> Outcome<Self>;

    fn ask(&mut self, context: &mut Context<'_>, token: Token, ask: Self::Ask) -> Outcome<Self>;

    /// When [`Self::expire`] wants to be called next.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// Does what is due by the clock. Does a bounded amount of work; what is left stays due.
    fn expire(&mut self, context: &mut Context<'_>) -> Outcome<Self>;

    /// Topics or settings have changed; `context` has the new image.
    fn image_changed(&mut self, context: &mut Context<'_>, delta: &Delta) -> Outcome<Self>;
}
