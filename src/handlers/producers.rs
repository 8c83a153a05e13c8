//! InitProducerId and DescribeProducers (KIP-98, 360, 664).

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use bytes::Bytes;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest,
    InitProducerIdResponse, ProducerId as WireProducerId,
};

use crate::base::ProducerId;
use crate::broker::control::{ControlReply, ControlRequest};
use crate::broker::event::Event;
use crate::broker::messages::{Item, Reply, Request};
use crate::handlers::scatter::{gather_into, route, scatter};
use crate::handlers::{Begun, Call, Close, errors, topics, transactions};
use crate::protocol::response::decode_request;
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

/// Producer ids that were given to this shard and that it gives to producers. One per shard.
#[derive(Default)]
pub struct ProducerIds {
    next: Cell<i64>,
    end: Cell<i64>,
    asking: Cell<bool>,
    waiting: RefCell<Vec<Rc<Event>>>,
}

impl ProducerIds {
    fn take(&self) -> Option<ProducerId> {
        let next = self.next.get();
        (next < self.end.get()).then(|| {
            self.next.set(next + 1);
            ProducerId(next)
        })
    }

    /// The next id; asks the controller for a block when this one is used up. One asks at a time, so
    /// that a crowd of new producers does not take a block each.
    pub async fn next(&self, call: &Call) -> Result<Option<ProducerId>, Close> {
        loop {
            if let Some(id) = self.take() {
                return Ok(Some(id));
            }
            if self.asking.get() {
                let event = Rc::new(Event::default());
                self.waiting.borrow_mut().push(event.clone());
                event.wait().await;
                continue;
            }
            // Reset on every way out, also when this future is dropped.
            let asking = Asking::begin(self);
            let reply = topics::control(call, ControlRequest::ProducerIds).await?;
            drop(asking);
            match reply {
                ControlReply::ProducerIds { first, len } if len > 0 => {
                    self.next.set(first.0);
                    self.end.set(first.0 + i64::from(len));
                }
                other => {
                    topics::unavailable(other);
                    return Ok(None);
                }
            }
        }
    }
}

struct Asking<'a>(&'a ProducerIds);

impl<'a> Asking<'a> {
    fn begin(ids: &'a ProducerIds) -> Self {
        ids.asking.set(true);
        Asking(ids)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.set(false);
        for event in self.0.waiting.take() {
            event.set();
        }
    }
}

pub fn init_producer_id(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: InitProducerIdRequest = decode_request(call.version, body)?;
    let refused = |code: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(WireProducerId(-1))
            .with_producer_epoch(-1)
    };
    // Both, or neither (KIP-360).
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return Ok(Begun::Done(
            call.encode(&refused(ErrorCode::InvalidRequest))?,
        ));
    }
    Ok(Begun::later(async move {
        if let Some(id) = request.transactional_id.clone() {
            let response = transactions::init_producer_id(&call, &request, &id).await?;
            call.count(response.error_code);
            return call.encode(&response);
        }
        let id = call.peer.handlers.producer_ids.next(&call).await?;
        let response = match id {
            Some(id) => InitProducerIdResponse::default()
                .with_producer_id(WireProducerId(id.0))
                .with_producer_epoch(0),
            None => refused(ErrorCode::CoordinatorNotAvailable),
        };
        call.encode(&response)
    }))
}

pub async fn describe_producers(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeProducersRequest = call.decode(body).await?;
    let mut seen = HashSet::new();
    let routed = route(
        &call.peer.image(),
        &request.topics,
        |topic| (topic.name.as_str(), topic.partition_indexes.as_slice()),
        |index| *index,
        |named| {
            let mut answer = PartitionResponse::default().with_partition_index(*named.asked);
            let item = match named.place {
                // A few bytes that name a partition are answered with all of its producers.
                Some(partition) if !seen.insert(partition) => {
                    answer.error_code = ErrorCode::InvalidRequest.code();
                    None
                }
                Some(partition) => Some(Item {
                    slot: named.slot,
                    partition,
                    ask: (),
                }),
                None => {
                    answer.error_code = ErrorCode::UnknownTopicOrPartition.code();
                    None
                }
            };
            (answer, item)
        },
    )
    .await;
    let mut answers = routed.answers;
    let items = routed.items;
    let shard = call.peer.shard();
    let pending = scatter(
        shard,
        items,
        |item: &Item<()>| item.partition,
        Request::DescribeProducers,
    )
    .await?;
    Ok(Begun::later(async move {
        let unpack = |reply| match reply {
            Reply::DescribeProducers(answers) => Some(answers),
            _ => None,
        };
        let mut elements = routed.partitions;
        gather_into(
            pending,
            unpack,
            &mut answers,
            |answer, result| match result {
                Ok(producers) => {
                    answer.active_producers = producers
                        .into_iter()
                        .map(|p| {
                            ProducerState::default()
                                .with_producer_id(WireProducerId(p.producer_id.0))
                                .with_producer_epoch(p.producer_epoch.0.into())
                                .with_last_sequence(p.last_sequence)
                                .with_last_timestamp(p.last_timestamp.0)
                                .with_coordinator_epoch(p.coordinator_epoch)
                                .with_current_txn_start_offset(p.current_txn_start_offset.0)
                        })
                        .collect();
                    elements += answer.active_producers.len();
                }
                Err(error) => {
                    answer.error_code = errors::code(&error).code();
                    answer.error_message = Some(StrBytes::from_string(error.to_string()));
                }
            },
        )
        .await?;
        let topics = request.topics.iter().zip(answers).map(|(topic, answers)| {
            TopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(answers)
        });
        let topics = YieldBudget::of_elements().collect(topics).await;
        let response = DescribeProducersResponse::default().with_topics(topics);
        call.encode_all(request, response, elements).await
    }))
}
