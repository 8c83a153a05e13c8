//! What is asked of partitions: looked up, parted by owner into one message a shard, and the answers put
//! where they belong.
//!
//! A request may name a million partitions, so every loop here lets other tasks run.

use std::rc::Rc;

use crate::base::{PartitionIndex, ShardId, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::messages::{Answer, Reply, Request};
use crate::broker::reply::Pending;
use crate::broker::shard::Shard;
use crate::handlers::Close;
use crate::metadata::{Image, TopicImage};
use crate::runtime::mailbox::Closed;
use crate::runtime::yield_budget::YieldBudget;

/// Answers to be, topic by topic as in the request, and what the shards are asked for them.
pub struct Routed<A, I> {
    pub answers: Vec<Vec<A>>,
    pub items: Vec<I>,
    /// How many answers there are.
    pub partitions: usize,
}

/// A partition that a request names.
pub struct Named<'a, P> {
    pub asked: &'a P,
    /// The topic's place in the request.
    pub topic: usize,
    /// The partition's place among all in the request.
    pub slot: u32,
    /// Where it is; `None` if there is no such partition.
    pub place: Option<TopicPartition>,
}

/// Looks up every partition that a request names. `parts` takes a topic of the request apart, `index` is a
/// partition's number, and `begin` gives the answer as far as it is known, and what to ask.
pub async fn route<T, P, A, I>(
    image: &Image,
    topics: &[T],
    parts: impl Fn(&T) -> (&str, &[P]),
    index: impl Fn(&P) -> i32,
    mut begin: impl FnMut(Named<'_, P>) -> (A, Option<I>),
) -> Routed<A, I> {
    let mut pace = YieldBudget::of_elements();
    let mut routed = Routed {
        answers: Vec::with_capacity(topics.len()),
        items: Vec::new(),
        partitions: 0,
    };
    for (number, topic) in topics.iter().enumerate() {
        let (name, partitions) = parts(topic);
        let found: Option<&TopicImage> = image.topic_by_name(name).map(|topic| &**topic);
        let mut answers = Vec::with_capacity(partitions.len());
        for asked in partitions {
            let partition = PartitionIndex(index(asked));
            let known = found.filter(|topic| topic.partition(partition).is_some());
            let (answer, item) = begin(Named {
                asked,
                topic: number,
                slot: routed.partitions as u32,
                place: known.map(|topic| TopicPartition::new(topic.id, partition)),
            });
            answers.push(answer);
            routed.items.extend(item);
            routed.partitions += 1;
            pace.step().await;
        }
        routed.answers.push(answers);
        pace.step().await;
    }
    routed
}

/// Sends each shard its items in one message, in the order of the items.
pub async fn scatter<T>(
    shard: &Rc<Shard>,
    items: Vec<T>,
    name: impl Fn(&T) -> TopicPartition,
    request: impl Fn(Vec<T>) -> Request,
) -> Result<Vec<Pending>, Closed> {
    let mut pace = YieldBudget::of_elements();
    let Some(first) = items.first() else {
        return Ok(Vec::new());
    };
    let first = shard.owner(name(first));
    let mut of_one = true;
    for item in &items {
        of_one = shard.owner(name(item)) == first;
        if !of_one {
            break;
        }
        pace.step().await;
    }
    if of_one {
        return Ok(vec![shard.post(first, request(items)).await?]);
    }
    let mut parts: Vec<Vec<T>> = (0..shard.shards).map(|_| Vec::new()).collect();
    for item in items {
        let owner = shard.owner(name(&item));
        parts[owner.index()].push(item);
        pace.step().await;
    }
    let mut pending = Vec::new();
    for (owner, part) in parts.into_iter().enumerate() {
        if !part.is_empty() {
            let owner = ShardId(owner as u16);
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
    let mut pace = YieldBudget::of_elements();
    for pending in pending {
        for answer in unpack(pending.await?).unwrap_or_default() {
            put(answer.slot, answer.result);
            pace.step().await;
        }
    }
    Ok(())
}

/// As [`gather`], for what [`route`] began.
pub async fn gather_into<A, T>(
    pending: Vec<Pending>,
    unpack: impl Fn(Reply) -> Option<Vec<Answer<T>>>,
    answers: &mut [Vec<A>],
    mut put: impl FnMut(&mut A, Result<T, PartitionError>),
) -> Result<(), Close> {
    // Slots count through all topics: the first of each says in which one a slot lies.
    let mut firsts = Vec::with_capacity(answers.len());
    let mut first = 0;
    let mut pace = YieldBudget::of_elements();
    for topic in answers.iter() {
        firsts.push(first);
        first += topic.len();
        pace.step().await;
    }
    gather(pending, unpack, |slot, result| {
        let slot = slot as usize;
        // Topics without partitions begin where the next one does: the last that begins there has it.
        let topic = firsts
            .partition_point(|first| *first <= slot)
            .checked_sub(1);
        if let Some(topic) = topic
            && let Some(answer) = answers[topic].get_mut(slot - firsts[topic])
        {
            put(answer, result);
        }
    })
    .await
}
