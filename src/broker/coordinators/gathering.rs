//! What one turn of a coordinator appends: records on their way into batches, and what waits for their end.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::{Committing, CoordinatorError, Host, Seat};
use crate::base::{Offset, ProducerEpoch, ProducerId, Timestamp};
use crate::broker::shard::Shard;
use crate::coordinator::{CoordinatorRecord, Guard, Machine, Outcome, Position, Token};
use crate::records::{BATCH_HEADER_SIZE, BatchBuilder, Compression, CompressionType};

/// A batch is closed when its records reach this, so that many requests of a turn share one, and none
/// grows beyond what the topic takes.
const BATCH_BYTES: usize = 256 * 1024;

/// Records on their way into one batch.
struct Gathered<M: Machine> {
    builder: BatchBuilder,
    base: Offset,
    producer: Option<(ProducerId, ProducerEpoch)>,
    answers: Vec<(Token, M::Answer)>,
    effects: Vec<M::Effect>,
}

/// Gathers what one turn of a seat appends.
pub(super) struct Gathering<'a, M: Machine> {
    host: &'a Host<M>,
    shard: &'a Rc<Shard>,
    seat: &'a Seat<M>,
    batch: Option<Gathered<M>>,
    deadline: Timestamp,
    failed: Option<CoordinatorError>,
}

impl<'a, M: Machine> Gathering<'a, M> {
    pub(super) fn new(host: &'a Host<M>, shard: &'a Rc<Shard>, seat: &'a Seat<M>) -> Self {
        let timeout = shard.settings().offsets_commit_timeout_ms;
        let timeout = i64::try_from(timeout).unwrap_or(i64::MAX);
        Self {
            host,
            shard,
            seat,
            batch: None,
            deadline: Timestamp(host.clock.now().0.saturating_add(timeout)),
            failed: None,
        }
    }

    /// Applies and gathers one outcome.
    pub(super) fn take(&mut self, machine: &mut M, now: Timestamp, outcome: Outcome<M>) {
        if self.failed.is_some() {
            return;
        }
        if outcome.records.is_empty() {
            match &mut self.batch {
                // It may rest on what is in the batch.
                Some(batch) => {
                    batch.answers.extend(outcome.answers);
                    batch.effects.extend(outcome.effects);
                }
                None => self.wait(outcome.answers, outcome.effects),
            }
            return;
        }
        let bytes: usize = outcome.records.iter().map(size).sum();
        let other = self.batch.as_ref().is_some_and(|batch| {
            batch.producer != outcome.producer
                || batch.builder.size_in_bytes() + bytes > BATCH_BYTES
        });
        if other {
            self.append(now);
        }
        let largest = self.seat.partition.settings().max_message_bytes as usize;
        if bytes + outcome.reserve + BATCH_HEADER_SIZE > largest {
            // It alone is refused: nothing of it was applied.
            if outcome.answers.is_empty() {
                tracing::error!(
                    topic = %self.seat.partition.topic,
                    partition = self.seat.partition.key.partition.0,
                    bytes,
                    "what a coordinator has to do by itself does not fit into a batch, and is not done"
                );
            }
            for (token, _) in outcome.answers {
                self.host
                    .refuse(self.seat, token, CoordinatorError::TooLarge);
            }
            return;
        }
        let producer = outcome.producer;
        if let Some(producer) = producer
            && let Err(error) = self.check_transaction(producer, outcome.guard)
        {
            // It alone is refused, as the partition would refuse it.
            for (token, _) in outcome.answers {
                self.host.refuse(self.seat, token, error);
            }
            return;
        }
        let batch = self.batch.get_or_insert_with(|| Gathered {
            builder: builder((self.host.habits.codec)(&self.shard.settings()), producer),
            base: self.seat.partition.log.staged_end_offset(),
            producer,
            answers: Vec::new(),
            effects: Vec::new(),
        });
        for record in &outcome.records {
            let at = Position {
                offset: batch.base.plus(i64::from(batch.builder.count())),
                timestamp: now,
                producer,
            };
            if let Err(error) = machine.apply(record, at) {
                // Its own record: a mistake of ours, which a reload would meet again.
                tracing::error!("a coordinator cannot read what it writes: {error}");
            }
            batch
                .builder
                .append(now, Some(&record.key), record.value.as_deref(), &[]);
        }
        batch.answers.extend(outcome.answers);
        batch.effects.extend(outcome.effects);
    }

    /// Whether records of a producer's transaction may be appended now.
    fn check_transaction(
        &self,
        (producer_id, epoch): (ProducerId, ProducerEpoch),
        guard: Option<Guard>,
    ) -> Result<(), CoordinatorError> {
        let producers = self.seat.partition.log.producers();
        let known = producers.get(producer_id);
        if known.is_some_and(|known| epoch < known.producer_epoch) {
            return Err(CoordinatorError::Fenced);
        }
        let settings = self.shard.settings();
        let ends = Guard(known.map_or(0, |known| known.ends));
        if !settings.transaction_partition_verification_enable
            || producers.has_ongoing_transaction(producer_id, epoch)
            || guard == Some(ends)
        {
            return Ok(());
        }
        Err(CoordinatorError::NotInTransaction)
    }

    /// Stages the batch; what hangs on it waits for its end.
    fn append(&mut self, now: Timestamp) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let bytes = BytesMut::from(&batch.builder.build()[..]);
        match self.seat.partition.append_internal(bytes, None, now) {
            Ok(end) => {
                assert!(
                    end == batch.base.plus(i64::from(batch.builder.count())),
                    "nobody else appends to a coordinator's partition in its turn"
                );
                self.shard.mark_dirty(&self.seat.partition);
                self.wait(batch.answers, batch.effects);
            }
            Err(error) => {
                tracing::error!(
                    topic = %self.seat.partition.topic,
                    partition = self.seat.partition.key.partition.0,
                    "append of a coordinator failed: {error}"
                );
                self.failed = Some(CoordinatorError::NotAvailable);
            }
        }
    }

    fn wait(&mut self, answers: Vec<(Token, M::Answer)>, effects: Vec<M::Effect>) {
        if answers.is_empty() && effects.is_empty() {
            return;
        }
        self.seat.committing.borrow_mut().push_back(Committing {
            end: self.seat.partition.log.staged_end_offset(),
            deadline: self.deadline,
            answers,
            effects,
        });
    }

    pub(super) fn finish(mut self, now: Timestamp) -> Result<(), CoordinatorError> {
        self.append(now);
        self.failed.map_or(Ok(()), Err)
    }
}

/// Bytes of a record in a batch, at most.
fn size(record: &CoordinatorRecord) -> usize {
    const LENGTHS: usize = 32;
    LENGTHS + record.key.len() + record.value.as_ref().map_or(0, Bytes::len)
}

fn builder(kind: CompressionType, producer: Option<(ProducerId, ProducerEpoch)>) -> BatchBuilder {
    let builder = BatchBuilder::new(Compression::of(kind));
    match producer {
        Some((id, epoch)) => builder.producer(id, epoch, -1).transactional(),
        None => builder,
    }
}
