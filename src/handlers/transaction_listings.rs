//! What operators ask of transactions (KIP-664, 994, 1152): which there are, and what one of them is at.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedState;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    ListTransactionsResponse, ProducerId as WireProducerId, TopicName,
};

use crate::base::{PartitionIndex, ProducerId};
use crate::broker::internal_topics::TRANSACTION_STATE;
use crate::coordinator::transaction::{Answer, Ask, ListFilter, Listed, State, Transaction};
use crate::handlers::transactions::{ask, ask_partition};
use crate::handlers::{Begun, Call, Close};
use crate::protocol::{ErrorCode, StrBytes};

/// Largest pattern of ids that ListTransactions takes, compiled.
const PATTERN_BYTES: usize = 1 << 20;

pub async fn describe_transactions(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeTransactionsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let shard = call.peer.shard();
        let mut response = DescribeTransactionsResponse::default();
        for id in request.transactional_ids {
            let question = Ask::Describe {
                transactional_id: Arc::from(id.as_str()),
            };
            let result = match ask(shard, &id, question).await? {
                Ok(Answer::Describe(result)) => result,
                Ok(_) => Err(ErrorCode::UnknownServerError),
                Err(code) => Err(code),
            };
            let state = match result {
                Ok(txn) => described(&txn),
                Err(code) => {
                    call.count(code.code());
                    TransactionState::default().with_error_code(code.code())
                }
            };
            response
                .transaction_states
                .push(state.with_transactional_id(id));
        }
        call.encode(&response)
    }))
}

fn described(txn: &Transaction) -> TransactionState {
    let mut topics: Vec<TopicData> = Vec::new();
    for partition in &txn.partitions {
        let index = partition.partition.0;
        match topics.last_mut() {
            Some(topic) if topic.topic.as_str() == &*partition.topic => {
                topic.partitions.push(index);
            }
            _ => {
                let name = StrBytes::from_string(partition.topic.to_string());
                topics.push(
                    TopicData::default()
                        .with_topic(TopicName(name))
                        .with_partitions(vec![index]),
                );
            }
        }
    }
    TransactionState::default()
        .with_transaction_state(StrBytes::from_static_str(txn.state.name()))
        .with_transaction_timeout_ms(txn.timeout_ms)
        .with_transaction_start_time_ms(txn.start.0)
        .with_producer_id(WireProducerId(txn.producer_id.0))
        .with_producer_epoch(txn.producer_epoch.0)
        .with_topics(topics)
}

pub async fn list_transactions(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ListTransactionsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let mut response = ListTransactionsResponse::default();
        match filter(&request, &mut response.unknown_state_filters) {
            Ok(filter) => match list_all(&call, Arc::new(filter)).await? {
                Ok(listed) => response.transaction_states = listed,
                Err(code) => response.error_code = code.code(),
            },
            Err(code) => response.error_code = code.code(),
        }
        call.count(response.error_code);
        call.encode(&response)
    }))
}

/// What is asked for. States that are none go into `unknown`.
fn filter(
    request: &ListTransactionsRequest,
    unknown: &mut Vec<StrBytes>,
) -> Result<ListFilter, ErrorCode> {
    let mut states = BTreeSet::new();
    for name in &request.state_filters {
        match State::ALL.into_iter().find(|s| s.name() == name.as_str()) {
            Some(state) => drop(states.insert(state)),
            // Kafka's own, in which nothing stays.
            None if matches!(name.as_str(), "Dead" | "PrepareEpochFence") => {}
            None => unknown.push(name.clone()),
        }
    }
    let pattern = request.transactional_id_pattern.as_deref().unwrap_or("");
    let id_matches = if pattern.is_empty() {
        None
    } else {
        let regex = regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(PATTERN_BYTES)
            .build()
            .map_err(|_| ErrorCode::InvalidRegularExpression)?;
        let matches = move |id: &str| regex.is_match(id);
        Some(Box::new(matches) as Box<dyn Fn(&str) -> bool + Send + Sync>)
    };
    Ok(ListFilter {
        producer_ids: request
            .producer_id_filters
            .iter()
            .map(|id| ProducerId(id.0))
            .collect(),
        states: (!request.state_filters.is_empty()).then_some(states),
        duration_ms: request.duration_filter,
        id_matches,
    })
}

async fn list_all(
    call: &Call,
    filter: Arc<ListFilter>,
) -> Result<Result<Vec<ListedState>, ErrorCode>, Close> {
    let shard = call.peer.shard();
    let found = shard
        .image()
        .topic_by_name(TRANSACTION_STATE)
        .map(|topic| (topic.id, topic.partitions.len()));
    let Some((topic, partitions)) = found else {
        return Ok(Ok(Vec::new()));
    };
    let mut all = Vec::new();
    for partition in 0..partitions {
        let partition = PartitionIndex(i32::try_from(partition).unwrap_or(i32::MAX));
        let question = Ask::List(filter.clone());
        match ask_partition(shard, topic, partition, question).await? {
            Ok(Answer::List(listed)) => all.extend(listed.into_iter().map(listed_state)),
            Ok(_) => return Ok(Err(ErrorCode::UnknownServerError)),
            Err(code) => return Ok(Err(code)),
        }
    }
    Ok(Ok(all))
}

fn listed_state(listed: Listed) -> ListedState {
    ListedState::default()
        .with_transactional_id(StrBytes::from_string(listed.transactional_id.to_string()).into())
        .with_producer_id(WireProducerId(listed.producer_id.0))
        .with_transaction_state(StrBytes::from_static_str(listed.state.name()))
}
