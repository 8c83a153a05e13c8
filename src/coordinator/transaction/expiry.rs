//! What the clock brings: requests that waited, markers to write once more, transactions that timed out, ids
//! that expired.

use std::ops::Bound;

use super::*;

impl TransactionMachine {
    /// Requests whose transaction is complete are asked once more; those that have no patience left are
    /// refused.
    pub(super) fn serve_waiting(&mut self, context: &mut Context<'_>, outcome: &mut Outcome<Self>) {
        let mut served = 0;
        while served < EXPIRE_AT_ONCE
            && let Some(id) = self.ready.first().cloned()
        {
            if !self.has_room(context, &id, outcome) {
                break;
            }
            self.ready.remove(&id);
            let mut waiting = self.waiting.remove(&id).unwrap_or_default();
            let rest = waiting.split_off(waiting.len().min(1));
            self.waiting_count -= waiting.len();
            if !rest.is_empty() {
                // What the first one changes has to be seen by the second.
                self.waiting.insert(id.clone(), rest);
            }
            for Waiting { token, ask, .. } in waiting {
                let asked = self.add_partitions(context, token, ask);
                outcome.records.extend(asked.records);
                outcome.answers.extend(asked.answers);
                served += 1;
            }
        }
        let now = context.now;
        let count = &mut self.waiting_count;
        self.waiting.retain(|_, waiting| {
            waiting.retain(|waiting| {
                if waiting.until > now {
                    return true;
                }
                let refused = Answer::AddPartitions(ErrorCode::ConcurrentTransactions);
                outcome.answers.push((waiting.token, refused));
                *count -= 1;
                false
            });
            !waiting.is_empty()
        });
        // Whoever is still in line behind one that was served, and not held up by a new end.
        for id in self.waiting.keys() {
            let txn = self.transactions.get(id);
            if txn.is_none_or(|txn| !txn.state.is_prepared()) {
                self.ready.insert(id.clone());
            }
        }
    }

    pub(super) fn retry_markers(&mut self, context: &mut Context<'_>, outcome: &mut Outcome<Self>) {
        let now = context.now;
        let due = |ending: &Ending| ending.retry_at.is_some_and(|at| at <= now);
        let due: Vec<TransactionalId> = self
            .ending
            .iter()
            .filter(|(_, ending)| due(ending))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let (Some(txn), Some(ending)) = (self.transactions.get(&id), self.ending.get(&id))
            else {
                continue;
            };
            let markers = self.markers(context, &id, txn, ending);
            outcome.effects.push(Effect::WriteMarkers(markers));
            if let Some(ending) = self.ending.get_mut(&id) {
                ending.retry_at = None;
            }
        }
    }

    pub(super) fn abort_all_timed_out(
        &mut self,
        context: &mut Context<'_>,
        outcome: &mut Outcome<Self>,
    ) {
        let now = context.now;
        if now < self.timeout_look {
            return;
        }
        // What this call has written of an id is not applied yet, so it must not be decided by what is.
        let busy: BTreeSet<&[u8]> = outcome.records.iter().map(|r| &r.key[..]).collect();
        let is_busy = |id: &TransactionalId| busy.contains(&record::tombstone(id).key[..]);
        let due: Vec<TransactionalId> = self
            .ongoing
            .iter()
            .take_while(|(at, _)| *at < now)
            .take(EXPIRE_AT_ONCE)
            .map(|(_, id)| id.clone())
            .filter(|id| busy.is_empty() || !is_busy(id))
            .collect();
        if due.len() < EXPIRE_AT_ONCE {
            let interval = context
                .settings
                .transaction_abort_timed_out_transaction_cleanup_interval_ms;
            self.timeout_look = after(now, i64::from(interval));
        }
        for id in due {
            if !self.has_room(context, &id, outcome) {
                self.timeout_look = now;
                break;
            }
            self.abort_timed_out(context, &id, None, outcome);
        }
    }

    /// Whether one more record of this transaction fits into the outcome of a call by the clock.
    fn has_room(&self, context: &Context<'_>, id: &str, outcome: &Outcome<Self>) -> bool {
        let size = |record: &CoordinatorRecord| {
            record.key.len() + record.value.as_ref().map_or(0, |value| value.len())
        };
        let taken: usize = outcome.records.iter().map(size).sum();
        let version = finalized_version(context.image);
        let next = self.transactions.get(id);
        let next = next.map_or(0, |txn| size(&record::encode(id, txn, version)));
        taken == 0 || taken + next <= EXPIRE_BYTES
    }

    pub(super) fn abort_timed_out(
        &mut self,
        context: &mut Context<'_>,
        id: &TransactionalId,
        fresh: Option<ProducerId>,
        outcome: &mut Outcome<Self>,
    ) {
        let Some(txn) = self.transactions.get(id) else {
            return;
        };
        if txn.state != State::Ongoing || txn.times_out_at() >= context.now {
            return;
        }
        match self.fence(context, txn, fresh) {
            Some(next) => self.prepare(context, id, &next, outcome),
            None => outcome.effects.push(Effect::ProducerId {
                transactional_id: id.clone(),
            }),
        }
    }

    pub(super) fn forget_expired(
        &mut self,
        context: &mut Context<'_>,
        outcome: &mut Outcome<Self>,
    ) {
        let now = context.now;
        if now < self.expiry_look {
            return;
        }
        let before = Timestamp(now.0.saturating_sub(self.expiration_ms));
        let busy: BTreeSet<&[u8]> = outcome.records.iter().map(|r| &r.key[..]).collect();
        let idle = self.idle.range((
            Bound::Unbounded,
            Bound::Excluded((after(before, 1), "".into())),
        ));
        let (mut due, mut bytes) = (Vec::new(), 0);
        let mut all = true;
        for (_, id) in idle {
            let tombstone = record::tombstone(id);
            if busy.contains(&tombstone.key[..]) {
                continue;
            }
            bytes += tombstone.key.len();
            if due.len() == EXPIRE_AT_ONCE || bytes > EXPIRE_BYTES {
                all = false;
                break;
            }
            due.push(tombstone);
        }
        if all {
            let interval = context
                .settings
                .transaction_remove_expired_transaction_cleanup_interval_ms;
            self.expiry_look = after(now, i64::from(interval));
        }
        outcome.records.extend(due);
    }
}
