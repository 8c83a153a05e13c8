//! Produce (KIP-98, 467, 516, 890).

use std::borrow::Cow;
use std::cell::Cell;

use bytes::BytesMut;

use crate::base::profile::{About, Stage, Timeline};
use crate::base::{PartitionIndex, TopicId, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::messages::{
    Item, Produce, ProduceBatch, Produced, Reply, Request, TransactionBatch,
};
use crate::handlers::scatter::{gather, scatter};
use crate::handlers::transactions::{self, Joining};
use crate::handlers::{self, Answered, Begun, Call, Close, errors};
use crate::metadata::Image;
use crate::protocol::ErrorCode;
use crate::protocol::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic, ProduceTopicResponse,
    RecordError, decode_produce_request, encode_produce_response,
};
use crate::records::{BatchHeader, CompressionType, peek_compression, peek_transactional};
use crate::runtime::profile;
use crate::runtime::yield_budget::YieldBudget;
use crate::transport::Outgoing;

/// First version whose topics are ids.
const TOPIC_IDS: i16 = 13;
/// First version that adds its partitions to the transaction itself (KIP-890).
const EPOCH_BUMP: i16 = 12;
/// The client id that may write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";
/// First version that may carry zstd.
const ZSTD: i16 = 7;

pub async fn begin(call: Call, body: BytesMut, timeline: &mut Timeline) -> Result<Begun, Close> {
    let (version, elements) = (call.version, call.walked.elements);
    let request = handlers::run(elements, move || decode_produce_request(version, body)).await?;
    profile::mark(timeline, Stage::Decode);
    let acks = request.acks;
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let transactional_id = request.transactional_id.clone();
    let (mut response, mut items) = route(&call, request).await;
    if !matches!(acks, -1..=1) {
        fill(&mut response, ErrorCode::InvalidRequiredAcks);
        return finish(&call, acks, response).await;
    }
    join(
        &call,
        transactional_id.as_deref(),
        &mut response,
        &mut items,
    )
    .await?;
    if items.is_empty() {
        return finish(&call, acks, response).await;
    }
    let about = about(&items);
    let sent = Cell::new(*timeline);
    let pending = scatter(
        call.peer.shard(),
        items,
        |item: &Item<ProduceBatch>| item.partition,
        |partitions| {
            let mut timeline = sent.get();
            profile::mark(&mut timeline, Stage::Post);
            sent.set(timeline);
            Request::Produce(Produce {
                acks,
                timeout_ms,
                timeline,
                partitions,
            })
        },
    )
    .await?;
    let second = async move {
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut pace = YieldBudget::of_elements();
        for (t, topic) in response.topics.iter().enumerate() {
            pace.spend(1 + topic.partitions.len()).await;
            places.extend((0..topic.partitions.len()).map(|p| (t, p)));
        }
        let unpack = |reply| match reply {
            Reply::Produce(answers, answered) => {
                let mut timeline = sent.get();
                timeline.follow(&answered);
                sent.set(timeline);
                Some(answers)
            }
            _ => None,
        };
        gather(pending, unpack, |slot, result| {
            if let Some(&(t, p)) = places.get(slot as usize) {
                answer(&mut response.topics[t].partitions[p], result);
            }
        })
        .await?;
        let mut timeline = sent.get();
        profile::mark(&mut timeline, Stage::Return);
        let outgoing = match finish(&call, acks, response).await? {
            Begun::Done(outgoing) => outgoing,
            Begun::Silent | Begun::Later(_) => Outgoing::default(),
        };
        profile::mark(&mut timeline, Stage::Encode);
        Ok(Answered {
            outgoing,
            timeline,
            about,
        })
    };
    Ok(Begun::profiled(second))
}

fn about(items: &[Item<ProduceBatch>]) -> About {
    let first = items.first().map(|item| item.partition);
    About {
        topic: first.map_or(TopicId::ZERO, |first| first.topic_id),
        partition: first.map_or(-1, |first| first.partition.0),
        partitions: u32::try_from(items.len()).unwrap_or(u32::MAX),
        may_wait: 0,
    }
}

/// Has batches of a transaction join it. Those that may not leave `items`, and are told why.
async fn join(
    call: &Call,
    transactional_id: Option<&str>,
    response: &mut ProduceResponse,
    items: &mut Vec<Item<ProduceBatch>>,
) -> Result<(), Close> {
    // Without an id there is no batch of a transaction left.
    let Some(id) = transactional_id else {
        return Ok(());
    };
    let mut joining = Vec::new();
    for (at, item) in items.iter().enumerate() {
        // What is no batch is refused when it is validated.
        let Ok(header) = BatchHeader::parse(&item.ask.records) else {
            continue;
        };
        if header.is_transactional() && header.has_producer_id() {
            let batch = TransactionBatch {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
                epoch_bump: call.version >= EPOCH_BUMP,
            };
            joining.push(Joining { at, batch });
        }
    }
    let Some(first) = joining.first() else {
        return Ok(());
    };
    let producer = (first.batch.producer_id, first.batch.producer_epoch);
    let is_first = |j: &Joining| (j.batch.producer_id, j.batch.producer_epoch) == producer;
    if !joining.iter().all(is_first) {
        items.clear();
        fill(response, ErrorCode::InvalidProducerIdMapping);
        return Ok(());
    }
    let refused = transactions::join(call, id, joining, items).await?;
    if refused.is_empty() {
        return Ok(());
    }
    items.retain(|item| refused.iter().all(|(slot, ..)| *slot != item.slot));
    let mut partitions: Vec<&mut ProducePartitionResponse> = response
        .topics
        .iter_mut()
        .flat_map(|topic| &mut topic.partitions)
        .collect();
    for (slot, code, why) in refused {
        if let Some(partition) = partitions.get_mut(slot as usize) {
            partition.error_code = code.code();
            partition.error_message = Some(Cow::Owned(why));
        }
    }
    Ok(())
}

/// Names the partitions, and prepares the response with what can be said already. Slots count the
/// partitions in the order of the request.
async fn route(call: &Call, request: ProduceRequest) -> (ProduceResponse, Vec<Item<ProduceBatch>>) {
    let image = call.peer.image();
    // A batch that says it belongs to a transaction, of nobody's id, would hold back readers of what is
    // committed for ever.
    let records = |topic: &ProduceTopic| {
        let mut partitions = topic.partitions.iter();
        partitions.any(|p| p.records.as_deref().is_some_and(peek_transactional))
    };
    let nobodys = request.transactional_id.is_none() && request.topics.iter().any(records);
    let mut items = Vec::with_capacity(request.topics.iter().map(|t| t.partitions.len()).sum());
    let mut slot = 0;
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut pace = YieldBudget::of_elements();
    for topic in request.topics {
        pace.step().await;
        let found = find(call, &image, &topic);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            pace.step().await;
            let mut response = ProducePartitionResponse {
                index: partition.index,
                // Stands until a shard has answered.
                error_code: ErrorCode::UnknownServerError.code(),
                base_offset: -1,
                ..ProducePartitionResponse::default()
            };
            let refused = match (&found, &partition.records) {
                _ if nobodys => Some(ErrorCode::TransactionalIdAuthorizationFailed),
                (Err(code), _) => Some(*code),
                (Ok(_), None) => Some(ErrorCode::InvalidRecord),
                (Ok((_, count)), _) if !(0..*count).contains(&partition.index) => {
                    Some(ErrorCode::UnknownTopicOrPartition)
                }
                // Nor may a producer that old expect its consumers to understand it (KIP-110).
                (Ok(_), Some(records))
                    if call.version < ZSTD
                        && peek_compression(records) == Some(CompressionType::Zstd) =>
                {
                    Some(ErrorCode::UnsupportedCompressionType)
                }
                _ => None,
            };
            match (refused, partition.records, &found) {
                (None, Some(records), Ok((topic_id, _))) => items.push(Item {
                    slot,
                    partition: TopicPartition::new(*topic_id, PartitionIndex(partition.index)),
                    ask: ProduceBatch {
                        records,
                        verified: None,
                    },
                }),
                (code, ..) => {
                    let code = code.unwrap_or(ErrorCode::InvalidRecord);
                    response.error_code = code.code();
                    response.error_message = code.message().map(Cow::Borrowed);
                }
            }
            partitions.push(response);
            slot += 1;
        }
        topics.push(ProduceTopicResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions,
        });
    }
    let response = ProduceResponse {
        topics,
        ..ProduceResponse::default()
    };
    (response, items)
}

/// The topic's id and its number of partitions.
fn find(call: &Call, image: &Image, topic: &ProduceTopic) -> Result<(TopicId, i32), ErrorCode> {
    let found = if call.version >= TOPIC_IDS {
        image
            .topic(topic.topic_id)
            .ok_or(ErrorCode::UnknownTopicId)?
    } else {
        image
            .topic_by_name(&topic.name)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?
    };
    // Coordinators keep their state in these; as in Kafka, only a client of this name may meddle with it.
    if found.is_internal() && call.client_id.as_deref() != Some(ADMIN_CLIENT) {
        return Err(ErrorCode::InvalidTopicException);
    }
    Ok((found.id, found.partitions.len() as i32))
}

fn answer(response: &mut ProducePartitionResponse, result: Result<Produced, PartitionError>) {
    match result {
        Ok(produced) => {
            response.error_code = ErrorCode::None.code();
            response.base_offset = produced.base_offset.0;
            response.log_append_time_ms = produced.log_append_time.0;
            response.log_start_offset = produced.log_start_offset.0;
        }
        Err(error) => {
            response.error_code = errors::code(&error).code();
            response.error_message = Some(Cow::Owned(error.to_string()));
            response.record_errors = errors::record_errors(&error)
                .into_iter()
                .map(|(batch_index, message)| RecordError {
                    batch_index,
                    message: message.map(Cow::Owned),
                })
                .collect();
        }
    }
}

/// Answers every partition that has not been refused for a reason of its own.
fn fill(response: &mut ProduceResponse, code: ErrorCode) {
    for topic in &mut response.topics {
        let open = topic
            .partitions
            .iter_mut()
            .filter(|partition| partition.error_code == ErrorCode::UnknownServerError.code());
        for partition in open {
            partition.error_code = code.code();
            partition.error_message = code.message().map(Cow::Borrowed);
        }
    }
}

/// Encodes; or, with acks=0, says nothing, and closes the connection if something failed.
async fn finish(call: &Call, acks: i16, response: ProduceResponse) -> Result<Begun, Close> {
    let mut pace = YieldBudget::of_elements();
    let mut count = response.topics.len();
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        call.count(partition.error_code);
        count += 1;
        pace.step().await;
    }
    if acks == 0 {
        let failed = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .find(|partition| partition.error_code != 0);
        return match failed {
            None => Ok(Begun::Silent),
            Some(partition) => Err(Close::Unanswered(
                ErrorCode::from_code(partition.error_code).unwrap_or(ErrorCode::UnknownServerError),
            )),
        };
    }
    let (version, id) = (call.version, call.correlation_id);
    let encode = move || encode_produce_response(version, id, &response);
    let bytes = handlers::run(count, encode).await?;
    Ok(Begun::Done(Outgoing::from(bytes)))
}
