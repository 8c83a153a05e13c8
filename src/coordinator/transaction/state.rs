//! One transactional id, and how it passes from one state to the next (KIP-98, 360, 890).
//!
//! Every transition makes the next [`Transaction`] from the present one; nothing is changed in place,
//! since the next one counts only when its record is appended.
//!
//! ```text
//! Empty ──────────────► Ongoing ──► PrepareCommit ──► CompleteCommit ─┐
//!   ▲  ▲                 ▲   └────► PrepareAbort ───► CompleteAbort ──┤
//!   │  └ InitProducerId ─┼────────────── ▲ ───────────────────────────┤
//!   └────────────────────┴───────────────┴────────────────────────────┘
//! ```
//! An abort without a transaction (from Empty or Complete) exists since transaction version 2 only: the
//! client may not know whether its last request arrived.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::protocol::ErrorCode;

/// The version of KIP-890's second part: the epoch grows with each end.
pub const TRANSACTION_VERSION_2: i16 = 2;

/// A partition as the log of transactions names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPartition {
    pub topic: Arc<str>,
    pub partition: PartitionIndex,
}

/// Where a transactional id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// A producer is known, and has begun nothing.
    Empty,
    Ongoing,
    /// Decided; the markers are being written.
    PrepareCommit,
    PrepareAbort,
    /// Every partition has its marker.
    CompleteCommit,
    CompleteAbort,
}

impl State {
    /// All, in the order of their numbers.
    pub const ALL: [State; 6] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
    ];

    /// The number on record. Kafka's 6 (Dead) and 7 (PrepareEpochFence) are never written.
    pub fn id(self) -> i8 {
        self as i8
    }

    pub fn from_id(id: i8) -> Option<State> {
        let index = usize::try_from(id).ok()?;
        State::ALL.get(index).copied()
    }

    /// The name that DescribeTransactions and ListTransactions use (KIP-664).
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether markers are being written.
    pub fn is_prepared(self) -> bool {
        match self {
            State::PrepareCommit | State::PrepareAbort => true,
            State::Empty | State::Ongoing | State::CompleteCommit | State::CompleteAbort => false,
        }
    }

    /// Whether nothing is under way, so that the id may be forgotten.
    pub fn is_idle(self) -> bool {
        match self {
            State::Empty | State::CompleteCommit | State::CompleteAbort => true,
            State::Ongoing | State::PrepareCommit | State::PrepareAbort => false,
        }
    }
}

/// What is known of a transactional id. All but `last_producer_epoch` is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: ProducerId,
    /// Before the last transition; differs from `producer_id` where that one changed it.
    pub prev_producer_id: ProducerId,
    /// While prepared with an exhausted epoch: the id the producer goes on with. -1 is none.
    pub next_producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// The epoch that a retry of the last InitProducerId or EndTxn would name. -1 is none.
    pub last_producer_epoch: ProducerEpoch,
    pub timeout_ms: i32,
    pub state: State,
    pub partitions: BTreeSet<NamedPartition>,
    /// When the transaction began; -1 without one.
    pub start: Timestamp,
    pub last_update: Timestamp,
    /// `transaction.version` as the client of the last transition knew it.
    pub client_version: i16,
}

/// Whether this is the last epoch that a producer gets. The one above is kept for fencing it.
pub fn is_epoch_exhausted(epoch: ProducerEpoch) -> bool {
    epoch.0 >= i16::MAX - 1
}

fn bumped(epoch: ProducerEpoch) -> ProducerEpoch {
    ProducerEpoch(epoch.0.saturating_add(1))
}

impl Transaction {
    /// A transactional id that is seen for the first time, before its first transition.
    pub fn created(producer_id: ProducerId, timeout_ms: i32, now: Timestamp) -> Self {
        Self {
            producer_id,
            prev_producer_id: ProducerId::NONE,
            next_producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            last_producer_epoch: ProducerEpoch::NONE,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start: Timestamp::NONE,
            last_update: now,
            client_version: 0,
        }
    }

    /// When the transaction is aborted by the clock.
    pub fn times_out_at(&self) -> Timestamp {
        Timestamp(self.start.0.saturating_add(i64::from(self.timeout_ms)))
    }

    pub fn is_epoch_exhausted(&self) -> bool {
        is_epoch_exhausted(self.producer_epoch)
    }

    fn next(&self, state: State, now: Timestamp) -> Transaction {
        Transaction {
            prev_producer_id: self.producer_id,
            state,
            last_update: now,
            ..self.clone()
        }
    }

    /// InitProducerId: a higher epoch fences whoever had the id before.
    ///
    /// `expected` is the epoch of a producer that goes on after an error (KIP-360): it gets the next one
    /// only if nobody came between, and the same one again for a retry.
    pub fn epoch_incremented(
        &self,
        timeout_ms: i32,
        expected: Option<ProducerEpoch>,
        now: Timestamp,
    ) -> Result<Transaction, ErrorCode> {
        assert!(!self.is_epoch_exhausted());
        let (epoch, last) = match expected {
            None => (bumped(self.producer_epoch), ProducerEpoch::NONE),
            Some(expected)
                if self.producer_epoch == ProducerEpoch::NONE
                    || expected == self.producer_epoch =>
            {
                (bumped(self.producer_epoch), self.producer_epoch)
            }
            Some(expected) if expected == self.last_producer_epoch => {
                (self.producer_epoch, self.last_producer_epoch)
            }
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(Transaction {
            producer_epoch: epoch,
            last_producer_epoch: last,
            timeout_ms,
            partitions: BTreeSet::new(),
            start: Timestamp::NONE,
            ..self.next(State::Empty, now)
        })
    }

    /// InitProducerId when the epochs of the producer id are used up.
    pub fn producer_id_rotated(
        &self,
        producer_id: ProducerId,
        timeout_ms: i32,
        record_last_epoch: bool,
        now: Timestamp,
    ) -> Transaction {
        Transaction {
            producer_id,
            producer_epoch: ProducerEpoch(0),
            last_producer_epoch: if record_last_epoch {
                self.producer_epoch
            } else {
                ProducerEpoch::NONE
            },
            timeout_ms,
            partitions: BTreeSet::new(),
            start: Timestamp::NONE,
            ..self.next(State::Empty, now)
        }
    }

    /// More partitions; the first begin the transaction.
    pub fn partitions_added(
        &self,
        partitions: impl IntoIterator<Item = NamedPartition>,
        client_version: i16,
        now: Timestamp,
    ) -> Transaction {
        let mut next = self.next(State::Ongoing, now);
        if self.state != State::Ongoing {
            next.start = now;
        }
        next.partitions.extend(partitions);
        next.client_version = client_version;
        next
    }

    /// The end is decided. With transaction version 2 the epoch grows, so that nothing that was sent
    /// before and arrives late can join the next transaction; `next_producer_id` is given when that
    /// uses up the epochs.
    pub fn prepared(
        &self,
        commit: bool,
        client_version: i16,
        next_producer_id: ProducerId,
        now: Timestamp,
    ) -> Transaction {
        let state = if commit {
            State::PrepareCommit
        } else {
            State::PrepareAbort
        };
        let mut next = self.next(state, now);
        if client_version >= TRANSACTION_VERSION_2 {
            next.producer_epoch = bumped(self.producer_epoch);
            next.last_producer_epoch = self.producer_epoch;
        }
        if self.state != State::Ongoing {
            // An abort of nothing: it begins and ends now.
            next.start = now;
        }
        next.next_producer_id = next_producer_id;
        next.client_version = client_version;
        next
    }

    /// Every marker is written.
    pub fn completed(&self, now: Timestamp) -> Transaction {
        let state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            State::PrepareAbort => State::CompleteAbort,
            State::Empty | State::Ongoing | State::CompleteCommit | State::CompleteAbort => {
                unreachable!("only what is prepared completes")
            }
        };
        let mut next = self.next(state, now);
        if self.client_version >= TRANSACTION_VERSION_2 && self.next_producer_id != ProducerId::NONE
        {
            next.producer_id = self.next_producer_id;
            next.producer_epoch = ProducerEpoch(0);
        }
        next.next_producer_id = ProducerId::NONE;
        next.partitions = BTreeSet::new();
        next
    }

    /// An end that fences the producer, by a newer producer or by the clock.
    ///
    /// With the older versions the epoch grows for the fence alone; a bare end keeps it.
    pub fn fenced(
        &self,
        server_version: i16,
        next_producer_id: ProducerId,
        now: Timestamp,
    ) -> Transaction {
        if server_version >= TRANSACTION_VERSION_2 {
            return self.prepared(false, server_version, next_producer_id, now);
        }
        let fenced = Transaction {
            producer_epoch: bumped(self.producer_epoch),
            last_producer_epoch: ProducerEpoch::NONE,
            ..self.clone()
        };
        fenced.prepared(false, 0, ProducerId::NONE, now)
    }
}
