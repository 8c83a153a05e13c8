//! One message a shard: parting a request's items by owner, and merging the answers.

use std::rc::Rc;

use crate::base::TopicPartition;
use crate::broker::error::PartitionError;
use crate::broker::messages::{Answer, Reply, Request};
use crate::broker::reply::Pending;
use crate::broker::shard::Shard;
use crate::handlers::Close;
use crate::runtime::mailbox::Closed;

/// Sends each shard its items in one message, in the order of the items.
pub async fn scatter<T>(
    shard: &Rc<Shard>,
    items: Vec<T>,
    name: impl Fn(&T) -> TopicPartition,
    request: impl Fn(Vec<T>) -> Request,
) -> Result<Vec<Pending>, Closed> {
    let Some(first) = items.first() else {
        return Ok(Vec::new());
    };
    let first = shard.owner(name(first));
    if items.iter().all(|item| shard.owner(name(item)) == first) {
        return Ok(vec![shard.post(first, request(items)).await?]);
    }
    let mut parts: Vec<Vec<T>> = (0..shard.shards).map(|_| Vec::new()).collect();
    for item in items {
        let owner = shard.owner(name(&item));
        parts[owner.index()].push(item);
    }
    let mut pending = Vec::new();
    for (owner, part) in parts.into_iter().enumerate() {
        if !part.is_empty() {
            let owner = crate::base::ShardId(owner as u16);
            pending.push(shard.post(owner, request(part)).await?);
        }
    }
    Ok(pending)
}

/// Waits for all shards and calls `put` with each answer.
pub async fn gather<T>(
    pending: Vec<Pending>,
    unpack: impl Fn(Reply) -> Option<Vec<Answer<T>>>,
    mut put: impl FnMut(u32, Result<T, PartitionError>),
) -> Result<(), Close> {
    for pending in pending {
        for answer in unpack(pending.await?).unwrap_or_default() {
            put(answer.slot, answer.result);
        }
    }
    Ok(())
}
