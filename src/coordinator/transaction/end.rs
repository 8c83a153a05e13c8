//! EndTxn: what the state and the epochs of a transaction make of it.

use super::*;

/// What EndTxn says.
pub(super) struct End {
    pub(super) producer_id: ProducerId,
    pub(super) producer_epoch: ProducerEpoch,
    pub(super) commit: bool,
    pub(super) client_version: i16,
    pub(super) fresh: Option<ProducerId>,
}

impl TransactionMachine {
    pub(super) fn end(
        &mut self,
        context: &mut Context<'_>,
        token: Token,
        id: &TransactionalId,
        end: &End,
    ) -> Outcome<Self> {
        let refused = |code| Outcome::answer(token, Answer::End(Err(code)));
        if id.is_empty() {
            return refused(ErrorCode::InvalidRequest);
        }
        let Some(txn) = self.transactions.get(id).cloned() else {
            return refused(ErrorCode::InvalidProducerIdMapping);
        };
        let decided = if end.client_version >= TRANSACTION_VERSION_2 {
            decide_with_epoch_bump(&txn, end)
        } else {
            decide(&txn, end)
        };
        let has_new_epoch = end.client_version >= TRANSACTION_VERSION_2;
        let told = |txn: &Transaction| {
            if has_new_epoch {
                (txn.producer_id, txn.producer_epoch)
            } else {
                (ProducerId::NONE, ProducerEpoch::NONE)
            }
        };
        match decided {
            Err(code) => return refused(code),
            Ok(Decision::IsDone) => return Outcome::answer(token, Answer::End(Ok(told(&txn)))),
            Ok(Decision::Prepare) => {}
        }
        let next_id = match (has_new_epoch && txn.is_epoch_exhausted(), end.fresh) {
            (false, _) => ProducerId::NONE,
            (true, Some(fresh)) => fresh,
            (true, None) => return Outcome::answer(token, Answer::NeedsProducerId),
        };
        let next = txn.prepared(end.commit, end.client_version, next_id, context.now);
        let answer = Answer::End(Ok(told(&next.completed(context.now))));
        let mut outcome = Outcome::answer(token, answer);
        self.prepare(context, id, &next, &mut outcome);
        outcome
    }
}

/// What an end comes to.
enum Decision {
    Prepare,
    /// It was decided so before, and is complete.
    IsDone,
}

/// EndTxn of a client that knows no epoch bump: the state tells a retry.
fn decide(txn: &Transaction, end: &End) -> Result<Decision, ErrorCode> {
    if txn.producer_id != end.producer_id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if txn.producer_epoch != end.producer_epoch {
        return Err(ErrorCode::ProducerFenced);
    }
    match (txn.state, end.commit) {
        (State::Ongoing, _) => Ok(Decision::Prepare),
        (State::PrepareCommit | State::PrepareAbort, _) => Err(ErrorCode::ConcurrentTransactions),
        (State::CompleteCommit, true) | (State::CompleteAbort, false) => Ok(Decision::IsDone),
        (State::CompleteCommit, false) | (State::CompleteAbort, true) | (State::Empty, _) => {
            Err(ErrorCode::InvalidTxnState)
        }
    }
}

/// EndTxn of transaction version 2. The state and the epoch tell a retry: the end before has raised the
/// epoch, or, where they were used up, given a new id.
///
/// | | abort, retry | abort | commit, retry | commit |
/// |---|---|---|---|---|
/// | Empty | fenced | ends nothing | fenced | INVALID_TXN_STATE |
/// | CompleteAbort | is done | ends nothing | INVALID_TXN_STATE | INVALID_TXN_STATE |
/// | CompleteCommit | INVALID_TXN_STATE | ends nothing | is done | INVALID_TXN_STATE |
fn decide_with_epoch_bump(txn: &Transaction, end: &End) -> Result<Decision, ErrorCode> {
    if txn.state.is_prepared() {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    let retry_on_overflow = txn.prev_producer_id == end.producer_id
        && end.producer_epoch.0 == i16::MAX - 1
        && txn.producer_epoch.0 == 0;
    let retry_on_bump = i32::from(txn.producer_epoch.0) == i32::from(end.producer_epoch.0) + 1;
    if txn.producer_id != end.producer_id && !retry_on_overflow {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    let is_current = txn.producer_epoch == end.producer_epoch;
    let is_complete = matches!(txn.state, State::CompleteCommit | State::CompleteAbort);
    let is_retry = retry_on_bump || retry_on_overflow;
    if !(is_current || (is_complete && is_retry)) {
        return Err(ErrorCode::ProducerFenced);
    }
    match (txn.state, end.commit) {
        (State::Ongoing, _) => Ok(Decision::Prepare),
        (State::CompleteCommit, true) | (State::CompleteAbort, false) if is_retry => {
            Ok(Decision::IsDone)
        }
        (State::CompleteCommit | State::CompleteAbort, false) if !is_retry => Ok(Decision::Prepare),
        (State::Empty, false) => Ok(Decision::Prepare),
        (State::CompleteCommit | State::CompleteAbort | State::Empty, _) => {
            Err(ErrorCode::InvalidTxnState)
        }
        (State::PrepareCommit | State::PrepareAbort, _) => Err(ErrorCode::ConcurrentTransactions),
    }
}
