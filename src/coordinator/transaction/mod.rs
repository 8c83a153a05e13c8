//! The transaction coordinator: the machine of one partition of `__transaction_state` (KIP-98, 360, 664, 890).
//!
//! # How a transaction ends
//! 1. EndTxn, or the clock, or a newer producer decides: a Prepare record. The answer, and the effect
//!    [`Effect::WriteMarkers`], go out when it is committed. From here the decision stands.
//! 2. The host has a marker appended to every partition of the transaction and tells what came of each
//!    ([`Ask::MarkersWritten`]). Partitions that could not are tried again, for ever; those that are gone
//!    count as done.
//! 3. When none is left: a Complete record, and the producer may begin the next transaction.
//!
//! A crash between 1 and 3 leaves the Prepare record: [`Machine::loaded`] begins again at 2. A partition
//! that has the marker already is written to again or skips it; either way readers see one end.
//!
//! Kafka keeps a "pending" state while a record is on its way. Here the state changes when the record is
//! appended and only the answer waits, so a client that asks early is served and not turned away.
//!
//! What is not on record: the last epoch (for retries), markers under way, requests that wait for a
//! transaction to complete.

mod ask;
mod end;
mod expiry;
mod record;
mod state;

#[cfg(test)]
mod random;
#[cfg(test)]
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};

pub use ask::{Answer, Ask, Effect, ListFilter, Listed, MarkerResult, Markers};
pub use state::{NamedPartition, State, TRANSACTION_VERSION_2, Transaction, is_epoch_exhausted};

use ask::TransactionalId;
use end::End;

use crate::base::{PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::coordinator::{
    Context, CoordinatorRecord, Machine, Outcome, Position, Token, Unreadable,
};
use crate::metadata::{Delta, Image};
use crate::protocol::ErrorCode;

/// The topic of transaction state.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";
/// The feature that says which protocol of transactions clients use.
pub const TRANSACTION_VERSION_FEATURE: &str = "transaction.version";

/// Transactions that one call of [`Machine::expire`] aborts, and ids that it forgets.
const EXPIRE_AT_ONCE: usize = 500;
/// Bytes of records that one call of [`Machine::expire`] comes to, but for a single larger one: what does not
/// fit into a batch would not be done at all.
const EXPIRE_BYTES: usize = 256 * 1024;
/// Requests that may wait for transactions of this partition to complete.
const MAX_WAITING: usize = 10_000;
/// Pauses before markers are written once more: the first, doubled up to the longest.
const MARKER_RETRY_MS: i64 = 20;
const MARKER_RETRY_MAX_MS: i64 = 1_000;

/// A transaction whose markers are being written. Not on record.
struct Ending {
    left: BTreeSet<NamedPartition>,
    /// `None` while they are on their way.
    retry_at: Option<Timestamp>,
    failures: u32,
}

/// A request that waits for a transaction to complete. Not on record.
struct Waiting {
    token: Token,
    ask: Ask,
    until: Timestamp,
}

/// One per partition of `__transaction_state`.
pub struct TransactionMachine {
    partition: PartitionIndex,
    transactions: BTreeMap<TransactionalId, Transaction>,
    /// Ongoing transactions by when they time out.
    ongoing: BTreeSet<(Timestamp, TransactionalId)>,
    /// Ids with nothing under way by their last use.
    idle: BTreeSet<(Timestamp, TransactionalId)>,
    ending: BTreeMap<TransactionalId, Ending>,
    waiting: BTreeMap<TransactionalId, Vec<Waiting>>,
    waiting_count: usize,
    /// Ids with requests that waited and can go on.
    ready: BTreeSet<TransactionalId>,
    /// When to look next for transactions that timed out, and for ids that expired.
    timeout_look: Timestamp,
    expiry_look: Timestamp,
    expiration_ms: i64,
}

/// The finalized `transaction.version`; what a new cluster has, where none is finalized.
pub fn finalized_version(image: &Image) -> i16 {
    let features = image.features();
    let level = features.get(TRANSACTION_VERSION_FEATURE);
    level.copied().unwrap_or(TRANSACTION_VERSION_2)
}

/// The partition of `__transaction_state` that a transactional id belongs to: the absolute value of Java's
/// hash of the string (0 for the one number that has none).
pub fn partition_for(transactional_id: &str, partitions: i32) -> PartitionIndex {
    let mut hash: i32 = 0;
    for unit in transactional_id.encode_utf16() {
        hash = hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    }
    PartitionIndex(hash.checked_abs().unwrap_or(0) % partitions.max(1))
}

fn after(at: Timestamp, ms: i64) -> Timestamp {
    Timestamp(at.0.saturating_add(ms))
}

impl Machine for TransactionMachine {
    type Ask = Ask;
    type Answer = Answer;
    type Effect = Effect;

    fn new(partition: PartitionIndex) -> Self {
        Self {
            partition,
            transactions: BTreeMap::new(),
            ongoing: BTreeSet::new(),
            idle: BTreeSet::new(),
            ending: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            ready: BTreeSet::new(),
            timeout_look: Timestamp::NONE,
            expiry_look: Timestamp::NONE,
            expiration_ms: i64::MAX,
        }
    }

    fn apply(&mut self, record: &CoordinatorRecord, _: Position) -> Result<(), Unreadable> {
        let id = record::decode_key(&record.key)?;
        let next = match &record.value {
            Some(value) => Some(record::decode_value(value)?),
            None => None,
        };
        let id = match self.transactions.get_key_value(&id) {
            Some((known, _)) => known.clone(),
            None => id,
        };
        let last_epoch = match self.transactions.remove(&id) {
            Some(old) => {
                if let Some((index, at)) = self.index_of(&old) {
                    index.remove(&(at, id.clone()));
                }
                old.last_producer_epoch
            }
            None => ProducerEpoch::NONE,
        };
        match next {
            Some(mut next) => {
                next.last_producer_epoch = last_epoch;
                if let Some((index, at)) = self.index_of(&next) {
                    index.insert((at, id.clone()));
                }
                if !next.state.is_prepared() {
                    self.ending.remove(&id);
                    if self.waiting.contains_key(&id) {
                        self.ready.insert(id.clone());
                    }
                }
                self.transactions.insert(id, next);
            }
            None => {
                self.ending.remove(&id);
                if self.waiting.contains_key(&id) {
                    self.ready.insert(id);
                }
            }
        }
        Ok(())
    }

    fn apply_marker(&mut self, _: ProducerId, _: ProducerEpoch, _: bool) {
        // Nothing in this log belongs to a transaction.
    }

    fn loaded(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        let settings = context.settings;
        self.timeout_look = after(
            context.now,
            i64::from(settings.transaction_abort_timed_out_transaction_cleanup_interval_ms),
        );
        self.expiry_look = after(
            context.now,
            i64::from(settings.transaction_remove_expired_transaction_cleanup_interval_ms),
        );
        self.expiration_ms = i64::from(settings.transactional_id_expiration_ms);
        let prepared: Vec<TransactionalId> = self
            .transactions
            .iter()
            .filter(|(_, txn)| txn.state.is_prepared())
            .map(|(id, _)| id.clone())
            .collect();
        let mut outcome = Outcome::default();
        for id in prepared {
            let txn = self.transactions[&id].clone();
            self.write_markers(context, &id, &txn, &mut outcome);
        }
        outcome
    }

    fn ask(&mut self, context: &mut Context<'_>, token: Token, ask: Ask) -> Outcome<Self> {
        match ask {
            Ask::InitProducerId {
                transactional_id,
                timeout_ms,
                expected,
                fresh,
            } => self.init_producer_id(
                context,
                token,
                &transactional_id,
                timeout_ms,
                expected,
                fresh,
            ),
            Ask::AddPartitions { .. } => self.add_partitions(context, token, ask),
            Ask::VerifyPartitions {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
            } => {
                let result =
                    self.verify(&transactional_id, producer_id, producer_epoch, partitions);
                Outcome::answer(token, Answer::VerifyPartitions(result))
            }
            Ask::End {
                transactional_id,
                producer_id,
                producer_epoch,
                commit,
                client_version,
                fresh,
            } => {
                let end = End {
                    producer_id,
                    producer_epoch,
                    commit,
                    client_version,
                    fresh,
                };
                self.end(context, token, &transactional_id, &end)
            }
            Ask::Describe { transactional_id } => {
                Outcome::answer(token, Answer::Describe(self.describe(&transactional_id)))
            }
            Ask::List(filter) => {
                let listed = self.list(&filter, context.now);
                Outcome::answer(token, Answer::List(listed))
            }
            Ask::MarkersWritten {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
            } => {
                let of = (producer_id, producer_epoch);
                let mut outcome = self.markers_written(context, &transactional_id, of, &partitions);
                outcome.answers.push((token, Answer::Done));
                outcome
            }
            Ask::AbortTimedOut {
                transactional_id,
                fresh,
            } => {
                let mut outcome = Outcome::answer(token, Answer::Done);
                self.abort_timed_out(context, &transactional_id, Some(fresh), &mut outcome);
                outcome
            }
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        if !self.ready.is_empty() {
            return Some(Timestamp(0));
        }
        let retries = self.ending.values().filter_map(|ending| ending.retry_at);
        let waits = self.waiting.values().flatten().map(|waiting| waiting.until);
        let timeouts = self.ongoing.first().map(|(at, _)| *at);
        let timeouts = timeouts.map(|at| after(at, 1).max(self.timeout_look));
        let expiry = self.idle.first().map(|(used, _)| *used);
        let expiry = expiry.map(|used| after(used, self.expiration_ms).max(self.expiry_look));
        let soonest = retries.chain(waits).min();
        [soonest, timeouts, expiry].into_iter().flatten().min()
    }

    fn expire(&mut self, context: &mut Context<'_>) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        self.serve_waiting(context, &mut outcome);
        self.retry_markers(context, &mut outcome);
        self.abort_all_timed_out(context, &mut outcome);
        self.forget_expired(context, &mut outcome);
        outcome
    }

    fn image_changed(&mut self, _: &mut Context<'_>, _: &Delta) -> Outcome<Self> {
        // Markers for partitions that are gone are told of when they are next tried.
        Outcome::default()
    }
}

impl TransactionMachine {
    fn index_of(
        &mut self,
        txn: &Transaction,
    ) -> Option<(&mut BTreeSet<(Timestamp, TransactionalId)>, Timestamp)> {
        if txn.state == State::Ongoing {
            Some((&mut self.ongoing, txn.times_out_at()))
        } else if txn.state.is_idle() {
            Some((&mut self.idle, txn.last_update))
        } else {
            None
        }
    }

    /// Puts a transition into the outcome.
    fn transition(
        &mut self,
        context: &Context<'_>,
        id: &TransactionalId,
        next: &Transaction,
        outcome: &mut Outcome<Self>,
    ) {
        if let Some(known) = self.transactions.get_mut(id) {
            // Not on record, so `apply` keeps what it finds here.
            known.last_producer_epoch = next.last_producer_epoch;
        }
        // An empty log is not loaded: the settings come with what is first written.
        self.expiration_ms = i64::from(context.settings.transactional_id_expiration_ms);
        let version = finalized_version(context.image);
        outcome.records.push(record::encode(id, next, version));
    }

    /// The Prepare record, and what follows from it.
    fn prepare(
        &mut self,
        context: &Context<'_>,
        id: &TransactionalId,
        next: &Transaction,
        outcome: &mut Outcome<Self>,
    ) {
        self.transition(context, id, next, outcome);
        self.write_markers(context, id, next, outcome);
    }

    /// Has the markers of a prepared transaction written; one without partitions is complete.
    fn write_markers(
        &mut self,
        context: &Context<'_>,
        id: &TransactionalId,
        prepared: &Transaction,
        outcome: &mut Outcome<Self>,
    ) {
        if prepared.partitions.is_empty() {
            let complete = prepared.completed(context.now);
            self.transition(context, id, &complete, outcome);
            return;
        }
        let ending = Ending {
            left: prepared.partitions.clone(),
            retry_at: None,
            failures: 0,
        };
        let markers = self.markers(context, id, prepared, &ending);
        outcome.effects.push(Effect::WriteMarkers(markers));
        self.ending.insert(id.clone(), ending);
    }

    fn markers(
        &self,
        context: &Context<'_>,
        id: &TransactionalId,
        prepared: &Transaction,
        ending: &Ending,
    ) -> Markers {
        let topic = context.image.topic_by_name(TRANSACTION_STATE_TOPIC);
        let partition = topic.and_then(|topic| topic.partition(self.partition));
        Markers {
            transactional_id: id.clone(),
            producer_id: prepared.producer_id,
            producer_epoch: prepared.producer_epoch,
            commit: prepared.state == State::PrepareCommit,
            coordinator_epoch: partition.map_or(0, |partition| partition.leader_epoch.0),
            client_version: prepared.client_version,
            partitions: ending.left.iter().cloned().collect(),
            failures: ending.failures,
        }
    }

    fn init_producer_id(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        id: &TransactionalId,
        timeout_ms: i32,
        expected: Option<(ProducerId, ProducerEpoch)>,
        fresh: Option<ProducerId>,
    ) -> Outcome<Self> {
        let refused = |code| Outcome::answer(token, Answer::InitProducerId(Err(code)));
        if id.is_empty() {
            return refused(ErrorCode::InvalidRequest);
        }
        let most = i32::try_from(context.settings.transaction_max_timeout_ms).unwrap_or(i32::MAX);
        if timeout_ms <= 0 || timeout_ms > most {
            return refused(ErrorCode::InvalidTransactionTimeout);
        }
        let now = context.now;
        let txn = match (self.transactions.get(id), fresh) {
            (Some(txn), _) => txn.clone(),
            (None, Some(fresh)) => Transaction::created(fresh, timeout_ms, now),
            (None, None) => return Outcome::answer(token, Answer::NeedsProducerId),
        };
        if txn.state.is_prepared() {
            return refused(ErrorCode::ConcurrentTransactions);
        }
        if let Some((producer_id, epoch)) = expected {
            // With the previous id and its last epoch it is a retry whose answer was lost.
            let is_known = txn.producer_epoch == ProducerEpoch::NONE
                || producer_id == txn.producer_id
                || (producer_id == txn.prev_producer_id && is_epoch_exhausted(epoch));
            if !is_known {
                return refused(ErrorCode::ProducerFenced);
            }
        }
        let expected_epoch = expected.map(|(_, epoch)| epoch);
        if txn.state == State::Ongoing {
            // The producer before is fenced and its transaction aborted; the client comes again, and
            // gets an epoch then.
            let Some(next) = self.fence(context, &txn, fresh) else {
                return Outcome::answer(token, Answer::NeedsProducerId);
            };
            let mut outcome = refused(ErrorCode::ConcurrentTransactions);
            self.prepare(context, id, &next, &mut outcome);
            return outcome;
        }
        let exhausted = txn.is_epoch_exhausted()
            && expected_epoch.is_none_or(|epoch| epoch == txn.producer_epoch);
        let next = if exhausted {
            let Some(fresh) = fresh else {
                return Outcome::answer(token, Answer::NeedsProducerId);
            };
            txn.producer_id_rotated(fresh, timeout_ms, expected.is_some(), now)
        } else if txn.is_epoch_exhausted() {
            // Somebody with another epoch than the last one that there is.
            return refused(ErrorCode::ProducerFenced);
        } else {
            match txn.epoch_incremented(timeout_ms, expected_epoch, now) {
                Ok(next) => next,
                Err(code) => return refused(code),
            }
        };
        let answer = Answer::InitProducerId(Ok((next.producer_id, next.producer_epoch)));
        let mut outcome = Outcome::answer(token, answer);
        self.transition(context, id, &next, &mut outcome);
        outcome
    }

    /// The abort that fences, or `None` if it needs a fresh producer id.
    fn fence(
        &self,
        context: &Context<'_>,
        txn: &Transaction,
        fresh: Option<ProducerId>,
    ) -> Option<Transaction> {
        let version = finalized_version(context.image);
        let next_id = if version >= TRANSACTION_VERSION_2 && txn.is_epoch_exhausted() {
            fresh?
        } else {
            ProducerId::NONE
        };
        Some(txn.fenced(version, next_id, context.now))
    }

    fn add_partitions(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        ask: Ask,
    ) -> Outcome<Self> {
        let Ask::AddPartitions {
            transactional_id: ref id,
            producer_id,
            producer_epoch,
            ref partitions,
            client_version,
            patience_ms,
        } = ask
        else {
            unreachable!("called for this question only")
        };
        let say = |code| Outcome::answer(token, Answer::AddPartitions(code));
        if id.is_empty() {
            return say(ErrorCode::InvalidRequest);
        }
        let Some(txn) = self.transactions.get(id) else {
            return say(ErrorCode::InvalidProducerIdMapping);
        };
        // First, since an end may be about to change the producer's id.
        if txn.state.is_prepared() {
            if patience_ms == 0 || self.waiting_count >= MAX_WAITING {
                return say(ErrorCode::ConcurrentTransactions);
            }
            let id = id.clone();
            let until = after(context.now, i64::from(patience_ms));
            let waiting = Waiting { token, ask, until };
            self.waiting.entry(id).or_default().push(waiting);
            self.waiting_count += 1;
            return Outcome::default();
        }
        if txn.producer_id != producer_id {
            return say(ErrorCode::InvalidProducerIdMapping);
        }
        if txn.producer_epoch != producer_epoch {
            return say(ErrorCode::ProducerFenced);
        }
        let known = |partition| txn.partitions.contains(partition);
        if txn.state == State::Ongoing && partitions.iter().all(known) {
            return say(ErrorCode::None);
        }
        let next = txn.partitions_added(partitions.iter().cloned(), client_version, context.now);
        let id = id.clone();
        let mut outcome = say(ErrorCode::None);
        outcome.reserve = record::END_BYTES;
        self.transition(context, &id, &next, &mut outcome);
        outcome
    }

    fn verify(
        &self,
        id: &str,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        partitions: Vec<NamedPartition>,
    ) -> Result<Vec<(NamedPartition, ErrorCode)>, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let txn = self
            .transactions
            .get(id)
            .ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if txn.producer_id != producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if txn.producer_epoch != producer_epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if txn.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let judge = |partition: NamedPartition| {
            let code = if txn.partitions.contains(&partition) {
                ErrorCode::None
            } else {
                ErrorCode::TransactionAbortable
            };
            (partition, code)
        };
        Ok(partitions.into_iter().map(judge).collect())
    }

    fn describe(&self, id: &str) -> Result<Box<Transaction>, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let txn = self.transactions.get(id);
        let mut txn = txn.cloned().ok_or(ErrorCode::TransactionalIdNotFound)?;
        if let Some(ending) = self.ending.get(id) {
            // Those that still wait for their marker.
            txn.partitions = ending.left.clone();
        }
        Ok(Box::new(txn))
    }

    fn list(&self, filter: &ListFilter, now: Timestamp) -> Vec<Listed> {
        let wanted = |id: &str, txn: &Transaction| {
            let running_ms = now.0.saturating_sub(txn.start.0);
            (filter.producer_ids.is_empty() || filter.producer_ids.contains(&txn.producer_id))
                && filter
                    .states
                    .as_ref()
                    .is_none_or(|states| states.contains(&txn.state))
                && (filter.duration_ms < 0 || running_ms > filter.duration_ms)
                && filter.id_matches.as_ref().is_none_or(|matches| matches(id))
        };
        let found = self.transactions.iter().filter(|(id, txn)| wanted(id, txn));
        found
            .map(|(id, txn)| Listed {
                transactional_id: id.clone(),
                producer_id: txn.producer_id,
                state: txn.state,
            })
            .collect()
    }

    fn markers_written(
        &mut self,
        context: &mut Context<'_>,
        id: &TransactionalId,
        of: (ProducerId, ProducerEpoch),
        partitions: &[(NamedPartition, MarkerResult)],
    ) -> Outcome<Self> {
        let mut outcome = Outcome::default();
        let (Some(txn), Some(ending)) = (self.transactions.get(id), self.ending.get_mut(id)) else {
            return outcome;
        };
        if of != (txn.producer_id, txn.producer_epoch) {
            // Of an end before this one.
            return outcome;
        }
        for (partition, result) in partitions {
            match result {
                MarkerResult::Written | MarkerResult::Gone => drop(ending.left.remove(partition)),
                MarkerResult::Retry => {}
            }
        }
        if ending.left.is_empty() {
            let complete = txn.completed(context.now);
            self.transition(context, id, &complete, &mut outcome);
            return outcome;
        }
        let pause = MARKER_RETRY_MS << ending.failures.min(16);
        ending.failures += 1;
        ending.retry_at = Some(after(context.now, pause.min(MARKER_RETRY_MAX_MS)));
        outcome
    }
}
