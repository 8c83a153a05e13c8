//! Fetch (KIP-74, 227, 320, 392, 516).

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::profile::{About, Stage, Timeline};
use crate::base::{LeaderEpoch, Offset, PartitionIndex, ShardId, TopicId, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::messages::{self, Fetched, Item, Reply, Request};
use crate::broker::reply::Pending;
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::handlers::fetch_session::{
    Context, PartitionName, SessionError, SessionPartition, Told, TopicName,
};
use crate::handlers::{self, Answered, Begun, Call, Close, errors};
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::protocol::StrBytes;
use crate::protocol::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchRequest, FetchResponse,
    FetchTopicResponse, decode_fetch_request, encode_fetch_response,
};
use crate::runtime::profile;
use crate::runtime::yield_budget::YieldBudget;
use crate::storage::LogSlice;
use crate::transport::{Outgoing, Part};

/// First version whose topics are ids.
const TOPIC_IDS: i16 = 13;

/// What is fetched for one partition of the request, in the order in which it is served.
struct Slot {
    name: PartitionName,
    ask: messages::FetchPartition,
    /// Where it is, or why it cannot be served.
    place: Result<TopicPartition, ErrorCode>,
    result: Option<Result<Fetched, PartitionError>>,
}

/// The limits of one request.
struct Limits {
    min_bytes: u32,
    max_bytes: u32,
    read_committed: bool,
    deadline: Option<Instant>,
}

pub async fn begin(call: Call, body: Bytes, timeline: &mut Timeline) -> Result<Begun, Close> {
    let (version, elements) = (call.version, call.walked.elements);
    let request = handlers::run(elements, move || decode_fetch_request(version, &body)).await?;
    profile::mark(timeline, Stage::Decode);
    let shard = call.peer.shard().clone();
    // Followers do not exist yet, and a client that calls itself one could read what is not
    // acknowledged (CVE-2018-1288).
    if request.replica_id >= 0 {
        let response = whole_error(ErrorCode::ClusterAuthorizationFailed);
        return Ok(Begun::Done(encode(&call, response, Vec::new()).await?));
    }
    let settings = shard.settings();
    let may_wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0);
    let limits = Limits {
        min_bytes: u32::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: u32::try_from(request.max_bytes)
            .unwrap_or(0)
            .min(settings.fetch_max_bytes),
        read_committed: request.isolation_level == 1,
        deadline: u64::try_from(request.max_wait_ms)
            .ok()
            .filter(|&ms| ms > 0)
            .map(|ms| Instant::now() + Duration::from_millis(ms)),
    };
    let began = begin_session(&call, request).await;
    let (context, partitions) = match began {
        Ok(began) => began,
        Err(error) => {
            let code = match error {
                SessionError::NotFound => ErrorCode::FetchSessionIdNotFound,
                SessionError::InvalidEpoch => ErrorCode::InvalidFetchSessionEpoch,
                SessionError::TopicIds => ErrorCode::FetchSessionTopicIdError,
            };
            let response = whole_error(code);
            return Ok(Begun::Done(encode(&call, response, Vec::new()).await?));
        }
    };
    let image = shard.image();
    let slots = partitions.into_iter().map(|partition| Slot {
        place: place(&image, &partition.name),
        name: partition.name,
        ask: partition.ask,
        result: None,
    });
    let slots = YieldBudget::of_elements().collect(slots).await;
    let (max_bytes, read_committed) = (limits.max_bytes, limits.read_committed);
    let about = about(&slots, may_wait_ms);
    let fetching = Fetching::post(shard, slots, limits, *timeline).await?;
    *timeline = fetching.timeline;
    Ok(Begun::profiled(async move {
        let (slots, mut timeline) = fetching.finish().await?;
        let outgoing = respond(&call, &context, max_bytes, read_committed, slots).await?;
        profile::mark(&mut timeline, Stage::Encode);
        Ok(Answered {
            outgoing,
            timeline,
            about,
        })
    }))
}

fn about(slots: &[Slot], may_wait_ms: u64) -> About {
    let first = slots.iter().find_map(|slot| slot.place.ok());
    About {
        topic: first.map_or(TopicId::ZERO, |first| first.topic_id),
        partition: first.map_or(-1, |first| first.partition.0),
        partitions: u32::try_from(slots.len()).unwrap_or(u32::MAX),
        may_wait: may_wait_ms.saturating_mul(1_000_000),
    }
}

async fn begin_session(
    call: &Call,
    request: FetchRequest,
) -> Result<(Context, Vec<SessionPartition>), SessionError> {
    let with_ids = call.version >= TOPIC_IDS;
    let topic_name = |name: &StrBytes, id: TopicId| {
        if with_ids {
            TopicName::Id(id)
        } else {
            TopicName::Name(name.as_str().into())
        }
    };
    let mut pace = YieldBudget::of_elements();
    let mut asked = Vec::new();
    // Each partition once, as Kafka does: naming one a million times is not a million reads.
    let mut seen = HashSet::new();
    for topic in &request.topics {
        let name = topic_name(&topic.topic, topic.topic_id);
        asked.reserve(topic.partitions.len());
        pace.step().await;
        for partition in &topic.partitions {
            pace.step().await;
            let number = PartitionIndex(partition.partition);
            if call.walked.elements > 2 && !seen.insert((name.clone(), number)) {
                continue;
            }
            asked.push(SessionPartition::new(
                PartitionName {
                    topic: name.clone(),
                    partition: PartitionIndex(partition.partition),
                },
                messages::FetchPartition {
                    fetch_offset: Offset(partition.fetch_offset),
                    max_bytes: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
                    current_leader_epoch: LeaderEpoch(partition.current_leader_epoch),
                    last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
                },
            ));
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics {
        let name = topic_name(&topic.topic, topic.topic_id);
        pace.step().await;
        let named = topic.partitions.iter().map(|&partition| PartitionName {
            topic: name.clone(),
            partition: PartitionIndex(partition),
        });
        forgotten.extend(pace.collect(named).await);
    }
    let (session_id, session_epoch) = (request.session_id, request.session_epoch);
    // Many names take long to free.
    handlers::run(call.walked.elements, move || drop(request)).await;
    call.peer.handlers.sessions.borrow_mut().begin(
        session_id,
        session_epoch,
        with_ids,
        asked,
        &forgotten,
        wall_clock(),
        fastrand::u32(..),
    )
}

fn place(image: &Image, name: &PartitionName) -> Result<TopicPartition, ErrorCode> {
    let topic = match &name.topic {
        TopicName::Id(id) => image.topic(*id).ok_or(ErrorCode::UnknownTopicId)?,
        TopicName::Name(name) => image
            .topic_by_name(name)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?,
    };
    if topic.partition(name.partition).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    Ok(TopicPartition::new(topic.id, name.partition))
}

/// A fetch that has been sent to its shards.
///
/// Where one shard owns all partitions it waits there, and answers once. Where several do, each waits
/// for its share of `min_bytes`; the first to answer makes the others answer at once. If all together
/// are still short of `min_bytes`, the shards are asked again, each for its share of what is missing
/// on top of what it has: some shard has to reach its share before the sum can reach the whole, so
/// nothing is waited for in vain, and nothing spins.
struct Fetching {
    shard: Rc<Shard>,
    slots: Vec<Slot>,
    limits: Limits,
    parts: Vec<ShardPart>,
    id: u64,
    timeline: Timeline,
}

struct ShardPart {
    shard: ShardId,
    slots: Vec<u32>,
    bytes: u64,
    pending: Option<Pending>,
}

impl Fetching {
    async fn post(
        shard: Rc<Shard>,
        slots: Vec<Slot>,
        limits: Limits,
        timeline: Timeline,
    ) -> Result<Self, Close> {
        let mut parts: Vec<ShardPart> = Vec::new();
        let mut pace = YieldBudget::of_elements();
        for (slot, asked) in slots.iter().enumerate() {
            pace.step().await;
            // What has no place is told when the others are answered: a consumer of a topic that is gone
            // would else ask again at once, without end.
            let Ok(place) = asked.place else { continue };
            let owner = shard.owner(place);
            let slot = slot as u32;
            match parts.iter_mut().find(|part| part.shard == owner) {
                Some(part) => part.slots.push(slot),
                None => parts.push(ShardPart {
                    shard: owner,
                    slots: vec![slot],
                    bytes: 0,
                    pending: None,
                }),
            }
        }
        let id = shard.fetch_id();
        let mut fetching = Self {
            shard,
            slots,
            limits,
            parts,
            id,
            timeline,
        };
        let min_bytes = u64::from(fetching.limits.min_bytes);
        fetching.ask(min_bytes).await?;
        Ok(fetching)
    }

    /// Sends every shard its part; together they are to find `missing` bytes more than they have.
    async fn ask(&mut self, missing: u64) -> Result<(), Close> {
        let share = missing.div_ceil(self.parts.len().max(1) as u64);
        for part in &mut self.parts {
            let partitions = part
                .slots
                .iter()
                .filter_map(|&slot| {
                    let asked = self.slots.get(slot as usize)?;
                    Some(Item {
                        slot,
                        partition: asked.place.ok()?,
                        ask: asked.ask,
                    })
                })
                .collect();
            profile::mark(&mut self.timeline, Stage::Post);
            let fetch = messages::Fetch {
                id: self.id,
                min_bytes: u32::try_from(part.bytes + share).unwrap_or(u32::MAX),
                deadline: self.limits.deadline,
                max_bytes: self.limits.max_bytes,
                read_committed: self.limits.read_committed,
                timeline: self.timeline,
                partitions,
            };
            let pending = self.shard.post(part.shard, Request::Fetch(fetch)).await?;
            part.pending = Some(pending);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Vec<Slot>, Timeline), Close> {
        loop {
            self.round().await?;
            profile::mark(&mut self.timeline, Stage::Return);
            let bytes: u64 = self.parts.iter().map(|part| part.bytes).sum();
            let min_bytes = u64::from(self.limits.min_bytes);
            let over = self.limits.deadline.is_none_or(|d| d <= Instant::now());
            let failed = self.slots.iter().any(|slot| match &slot.result {
                Some(Ok(fetched)) => fetched.diverging_epoch.is_some(),
                Some(Err(_)) => true,
                None => false,
            });
            if bytes >= min_bytes || over || failed || self.parts.len() < 2 {
                return Ok((std::mem::take(&mut self.slots), self.timeline));
            }
            self.id = self.shard.fetch_id();
            self.ask(min_bytes - bytes).await?;
        }
    }

    /// Waits for the first shard, hurries the others, and takes all answers in.
    async fn round(&mut self) -> Result<(), Close> {
        if self.parts.len() > 1 {
            std::future::poll_fn(|cx| {
                let any = self.parts.iter_mut().any(|part| {
                    let Some(pending) = part.pending.as_mut() else {
                        return true;
                    };
                    match std::pin::Pin::new(pending).poll(cx) {
                        std::task::Poll::Ready(reply) => {
                            part.pending = None;
                            part.take(reply, &mut self.slots, &mut self.timeline);
                            true
                        }
                        std::task::Poll::Pending => false,
                    }
                });
                if any {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
            for part in &self.parts {
                if part.pending.is_some() {
                    // The answer that counts is the fetch's own.
                    drop(
                        self.shard
                            .post(part.shard, Request::FetchNow(self.id))
                            .await?,
                    );
                }
            }
        }
        for part in &mut self.parts {
            if let Some(pending) = part.pending.take() {
                let reply = pending.await;
                part.take(reply, &mut self.slots, &mut self.timeline);
            }
        }
        Ok(())
    }
}

impl Drop for Fetching {
    /// Who gives up, because its client has gone, leaves nothing waiting until a deadline that the client
    /// chose.
    fn drop(&mut self) {
        for part in self.parts.iter().filter(|part| part.pending.is_some()) {
            let (shard, owner, id) = (self.shard.clone(), part.shard, self.id);
            if owner == shard.id {
                shard.hurry_fetch(owner.index(), id);
            } else {
                spawn("fetch end", async move {
                    // A shard that is gone waits for nothing.
                    let _ = shard.post(owner, Request::FetchNow(id)).await;
                });
            }
        }
    }
}

impl ShardPart {
    fn take(
        &mut self,
        reply: Result<Reply, crate::runtime::mailbox::Closed>,
        slots: &mut [Slot],
        timeline: &mut Timeline,
    ) {
        self.bytes = 0;
        let Ok(Reply::Fetch(answers, answered)) = reply else {
            for &slot in &self.slots {
                if let Some(slot) = slots.get_mut(slot as usize) {
                    slot.result = Some(Err(PartitionError::Stopping));
                }
            }
            return;
        };
        timeline.follow(&answered);
        for answer in answers {
            if let Ok(fetched) = &answer.result {
                self.bytes += u64::from(fetched.records_len);
            }
            if let Some(slot) = slots.get_mut(answer.slot as usize) {
                slot.result = Some(answer.result);
            }
        }
    }
}

/// Merges: applies the limit of the whole response, leaves out what a session has been told, encodes.
///
/// Each shard kept to the limit on its own; here it counts over all. Records go out whole or not at
/// all: a client that got nothing but a part of a batch would take it for a batch too large to read.
async fn respond(
    call: &Call,
    context: &Context,
    max_bytes: u32,
    read_committed: bool,
    slots: Vec<Slot>,
) -> Result<Outgoing, Close> {
    let mut left = max_bytes;
    let mut first = true;
    let sessions = &call.peer.handlers.sessions;
    let mut pace = YieldBudget::of_elements();
    let mut topics: Vec<(TopicName, FetchTopicResponse)> = Vec::new();
    let mut places: HashMap<TopicName, usize> = HashMap::new();
    let mut by_topic: Vec<Vec<Vec<LogSlice>>> = Vec::new();
    for slot in slots {
        pace.step().await;
        let (mut response, mut records) = answer(&slot, read_committed);
        if let Some(len) = response.records_len.filter(|&len| len > 0) {
            // Each shard sends a first batch however large; here only one of them may be.
            if first || (len <= left && len <= slot.ask.max_bytes) {
                first = false;
                left = left.saturating_sub(len);
            } else {
                records = Vec::new();
            }
        }
        let told = Told {
            high_watermark: Offset(response.high_watermark),
            log_start_offset: Offset(response.log_start_offset),
            has_records: !records.is_empty(),
            has_error: response.error_code != 0,
            diverging: response.diverging_epoch != EpochEndOffset::default(),
        };
        if !sessions.borrow_mut().tell(context, &slot.name, told) {
            continue;
        }
        if records.is_empty() {
            // Empty, not null: that is what Kafka sends.
            response.records_len = Some(0);
        }
        let at = match topics.last() {
            Some((name, _)) if *name == slot.name.topic => topics.len() - 1,
            _ => match places.get(&slot.name.topic) {
                Some(&at) => at,
                None => {
                    let (topic, topic_id) = match &slot.name.topic {
                        TopicName::Name(name) => {
                            (StrBytes::from_string(name.to_string()), TopicId::ZERO)
                        }
                        TopicName::Id(id) => (StrBytes::default(), *id),
                    };
                    topics.push((
                        slot.name.topic.clone(),
                        FetchTopicResponse {
                            topic,
                            topic_id,
                            partitions: Vec::new(),
                        },
                    ));
                    by_topic.push(Vec::new());
                    places.insert(slot.name.topic, topics.len() - 1);
                    topics.len() - 1
                }
            },
        };
        topics[at].1.partitions.push(response);
        if !records.is_empty() {
            by_topic[at].push(records);
        }
    }
    let response = FetchResponse {
        session_id: context.session_id(),
        topics: topics.into_iter().map(|(_, topic)| topic).collect(),
        ..FetchResponse::default()
    };
    encode(call, response, by_topic.into_iter().flatten().collect()).await
}

fn answer(slot: &Slot, read_committed: bool) -> (FetchPartitionResponse, Vec<LogSlice>) {
    let mut response = FetchPartitionResponse {
        partition_index: slot.name.partition.0,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        ..FetchPartitionResponse::default()
    };
    let error = match (&slot.place, &slot.result) {
        (Err(code), _) => *code,
        (Ok(_), None) => ErrorCode::UnknownServerError,
        (Ok(_), Some(Err(error))) => {
            if let PartitionError::OffsetOutOfRange {
                log_start,
                high_watermark,
                ..
            } = error
            {
                response.high_watermark = high_watermark.0;
                response.last_stable_offset = high_watermark.0;
                response.log_start_offset = log_start.0;
            }
            errors::code(error)
        }
        (Ok(_), Some(Ok(fetched))) => {
            response.high_watermark = fetched.high_watermark.0;
            response.last_stable_offset = fetched.last_stable_offset.0;
            response.log_start_offset = fetched.log_start_offset.0;
            if let Some((epoch, end)) = fetched.diverging_epoch {
                response.diverging_epoch = EpochEndOffset {
                    epoch: epoch.0,
                    end_offset: end.0,
                };
            }
            let aborted = fetched.aborted.iter();
            response.aborted_transactions = read_committed.then(|| {
                aborted
                    .map(|(producer_id, first_offset)| AbortedTransaction {
                        producer_id: producer_id.0,
                        first_offset: first_offset.0,
                    })
                    .collect()
            });
            response.records_len = Some(fetched.records_len);
            return (response, fetched.records.clone());
        }
    };
    response.error_code = error.code();
    (response, Vec::new())
}

fn whole_error(code: ErrorCode) -> FetchResponse {
    FetchResponse {
        error_code: code.code(),
        ..FetchResponse::default()
    }
}

/// The pieces of the response with the record sets between them.
async fn encode(
    call: &Call,
    response: FetchResponse,
    records: Vec<Vec<LogSlice>>,
) -> Result<Outgoing, Close> {
    call.count(response.error_code);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    let mut bytes = 0;
    let mut count = 0;
    let mut pace = YieldBudget::of_elements();
    for partition in partitions {
        count += 1;
        pace.step().await;
        call.count(partition.error_code);
        bytes += u64::from(partition.records_len.unwrap_or(0));
    }
    call.peer.shard().counters().fetched_bytes.add(bytes);
    let (version, id) = (call.version, call.correlation_id);
    let encode = move || encode_fetch_response(version, id, &response);
    let pieces = handlers::run(count, encode).await?;
    let mut outgoing = Outgoing::default();
    let mut records = records.into_iter();
    for piece in pieces {
        outgoing.parts.push(Part::Bytes(piece));
        for slice in records.next().into_iter().flatten() {
            outgoing.parts.push(match slice {
                LogSlice::File(file) => Part::File(file),
                LogSlice::Bytes(bytes) => Part::Bytes(bytes),
            });
        }
    }
    Ok(outgoing)
}
