//! What transaction coordinators want done outside of their partition: markers in the partitions of a
//! transaction, wherever they are, and producer ids.

use std::rc::Rc;

use crate::base::{PartitionIndex, ShardId, TopicPartition};
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::error::PartitionError;
use crate::broker::messages::{Item, Marker, Reply, Request};
use crate::broker::shard::{Shard, spawn};
use crate::coordinator::transaction::{Ask, Effect, MarkerResult, Markers, NamedPartition};
use crate::storage::producer_state::SequenceError;

/// Carries out what the coordinator of `partition` wants, and tells it what came of it. Should the
/// coordinator be loading or gone by then, it begins anew by itself.
pub fn carry_out(shard: &Rc<Shard>, partition: PartitionIndex, effect: Effect) {
    let shard = shard.clone();
    spawn("transaction effects", async move {
        let ask = match effect {
            Effect::WriteMarkers(markers) => write_markers(&shard, markers).await,
            Effect::ProducerId { transactional_id } => {
                let request = Request::Control(ControlRequest::ProducerIds);
                match shard.ask_control(request).await {
                    Ok(Reply::Control(ControlReply::ProducerIds { first, len })) if len > 0 => {
                        Ask::AbortTimedOut {
                            transactional_id,
                            fresh: first,
                        }
                    }
                    // The transaction is found again when the clock is next looked at.
                    _ => return,
                }
            }
        };
        let posted = shard.post(shard.id, Request::Transaction(partition, ask));
        if let Ok(pending) = posted.await {
            let _ = pending.await;
        }
    });
}

/// Where a partition is, if the image has it.
pub fn resolve(shard: &Shard, partition: &NamedPartition) -> Option<TopicPartition> {
    let image = shard.image();
    let topic = image.topic_by_name(&partition.topic)?;
    topic.partition(partition.partition)?;
    Some(TopicPartition::new(topic.id, partition.partition))
}

/// Has every partition append its marker, and waits until all are acknowledged or have failed.
async fn write_markers(shard: &Rc<Shard>, markers: Markers) -> Ask {
    let marker = Marker {
        producer_id: markers.producer_id,
        producer_epoch: markers.producer_epoch,
        commit: markers.commit,
        coordinator_epoch: markers.coordinator_epoch,
        transaction_version: markers.client_version,
    };
    let mut results: Vec<(NamedPartition, MarkerResult)> = Vec::new();
    let mut parts: Vec<Vec<Item<Marker>>> = (0..shard.shards).map(|_| Vec::new()).collect();
    for (slot, partition) in markers.partitions.into_iter().enumerate() {
        let found = resolve(shard, &partition);
        let result = match found {
            Some(key) => {
                parts[shard.owner(key).index()].push(Item {
                    slot: slot as u32,
                    partition: key,
                    ask: marker,
                });
                // Stands until its shard has answered.
                MarkerResult::Retry
            }
            // It may be so new that this shard has not heard of it.
            None if markers.failures == 0 => MarkerResult::Retry,
            None => MarkerResult::Gone,
        };
        results.push((partition, result));
    }
    let mut pending = Vec::new();
    for (owner, part) in parts.into_iter().enumerate() {
        if part.is_empty() {
            continue;
        }
        let owner = ShardId(owner as u16);
        if let Ok(posted) = shard.post(owner, Request::WriteMarkers(part)).await {
            pending.push(posted);
        }
    }
    for pending in pending {
        let Ok(Reply::Produce(answers, _)) = pending.await else {
            continue;
        };
        for answer in answers {
            let Some((partition, result)) = results.get_mut(answer.slot as usize) else {
                continue;
            };
            *result = match answer.result {
                Ok(_) => MarkerResult::Written,
                Err(error) => judge(shard, partition, &error),
            };
        }
    }
    Ask::MarkersWritten {
        transactional_id: markers.transactional_id,
        producer_id: markers.producer_id,
        producer_epoch: markers.producer_epoch,
        partitions: results,
    }
}

fn judge(shard: &Shard, partition: &NamedPartition, error: &PartitionError) -> MarkerResult {
    match error {
        // Deleted meanwhile.
        PartitionError::Unknown if resolve(shard, partition).is_none() => MarkerResult::Gone,
        // The partition has moved past this end: somebody else has decided it, and it must not wait for
        // a marker that can never be written.
        PartitionError::Sequence(
            SequenceError::InvalidProducerEpoch { .. } | SequenceError::CoordinatorFenced { .. },
        ) => {
            tracing::warn!(
                topic = %partition.topic,
                partition = partition.partition.0,
                "a transaction's marker is refused for good: {error}"
            );
            MarkerResult::Gone
        }
        error => {
            tracing::debug!(
                topic = %partition.topic,
                partition = partition.partition.0,
                "a transaction's marker is to be written again: {error}"
            );
            MarkerResult::Retry
        }
    }
}
