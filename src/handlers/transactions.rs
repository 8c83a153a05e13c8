//! Transactions (KIP-98, 360, 447, 664, 890): their coordinator's requests, markers, and what a produce
//! asks of the coordinator first.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ProducerId as WireProducerId, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse, WriteTxnMarkersResponse,
};

use crate::base::{PartitionIndex, ProducerEpoch, ProducerId, TopicPartition};
use crate::broker::coordinators::CoordinatorError;
use crate::broker::internal_topics::{self, CONSUMER_OFFSETS, TRANSACTION_STATE};
use crate::broker::messages::{
    Item, Marker, ProduceBatch, Reply, Request, TransactionBatch, Verification,
};
use crate::broker::shard::Shard;
use crate::broker::transactions::resolve;
use crate::coordinator::group;
use crate::coordinator::transaction::{
    Answer, Ask, NamedPartition, TRANSACTION_VERSION_2, partition_for,
};
use crate::handlers::scatter::{gather, scatter};
use crate::handlers::{Begun, Call, Close, errors};
use crate::protocol::txn_markers::WriteTxnMarkersRequest;
use crate::protocol::{ErrorCode, StrBytes};

fn refusal(error: CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::Loading => ErrorCode::CoordinatorLoadInProgress,
        CoordinatorError::NotCoordinator => ErrorCode::NotCoordinator,
        CoordinatorError::NotAvailable | CoordinatorError::TimedOut => {
            ErrorCode::CoordinatorNotAvailable
        }
        CoordinatorError::Fenced => ErrorCode::InvalidProducerEpoch,
        CoordinatorError::NotInTransaction => ErrorCode::InvalidTxnState,
        CoordinatorError::TooLarge => ErrorCode::UnknownServerError,
    }
}

/// Asks the coordinator in charge of `partition` of the topic of transaction state.
pub(super) async fn ask_partition(
    shard: &Rc<Shard>,
    topic: crate::base::TopicId,
    partition: PartitionIndex,
    ask: Ask,
) -> Result<Result<Answer, ErrorCode>, Close> {
    let owner = shard.owner(TopicPartition::new(topic, partition));
    let pending = shard
        .post(owner, Request::Transaction(partition, ask))
        .await?;
    Ok(match pending.await? {
        Reply::Transaction(Ok(answer)) => Ok(answer),
        Reply::Transaction(Err(error)) => Err(refusal(error)),
        _ => Err(ErrorCode::UnknownServerError),
    })
}

/// Asks the coordinator of a transactional id.
pub(super) async fn ask(
    shard: &Rc<Shard>,
    id: &str,
    ask: Ask,
) -> Result<Result<Answer, ErrorCode>, Close> {
    let found = shard
        .image()
        .topic_by_name(TRANSACTION_STATE)
        .map(|topic| (topic.id, topic.partitions.len()));
    // Nobody has looked for a coordinator yet.
    let Some((topic, partitions)) = found else {
        return Ok(Err(ErrorCode::NotCoordinator));
    };
    let partition = partition_for(id, i32::try_from(partitions).unwrap_or(i32::MAX));
    ask_partition(shard, topic, partition, ask).await
}

/// As [`ask`], and again with a producer id that nobody has, if it takes one.
async fn ask_with_fresh(
    call: &Call,
    id: &str,
    question: impl Fn(Option<ProducerId>) -> Ask,
) -> Result<Result<Answer, ErrorCode>, Close> {
    let shard = call.peer.shard();
    match ask(shard, id, question(None)).await? {
        Ok(Answer::NeedsProducerId) => {}
        other => return Ok(other),
    }
    match call.peer.handlers.producer_ids.next(call).await? {
        Some(fresh) => ask(shard, id, question(Some(fresh))).await,
        None => Ok(Err(ErrorCode::CoordinatorNotAvailable)),
    }
}

/// Clients before `since` know no PRODUCER_FENCED.
fn fenced_since(call: &Call, since: i16, code: ErrorCode) -> ErrorCode {
    if call.version < since && code == ErrorCode::ProducerFenced {
        ErrorCode::InvalidProducerEpoch
    } else {
        code
    }
}

/// InitProducerId with a transactional id.
pub async fn init_producer_id(
    call: &Call,
    request: &InitProducerIdRequest,
    id: &str,
) -> Result<InitProducerIdResponse, Close> {
    let given = (request.producer_id.0, request.producer_epoch);
    let expected = match given {
        (-1, -1) => None,
        (producer_id, epoch) => Some((ProducerId(producer_id), ProducerEpoch(epoch))),
    };
    let transactional_id: Arc<str> = Arc::from(id);
    // FindCoordinator made it, unless this client knew the address from before.
    internal_topics::ensure(call.peer.shard(), TRANSACTION_STATE).await;
    let answered = ask_with_fresh(call, id, |fresh| Ask::InitProducerId {
        transactional_id: transactional_id.clone(),
        timeout_ms: request.transaction_timeout_ms,
        expected,
        fresh,
    });
    let result = match answered.await? {
        Ok(Answer::InitProducerId(result)) => result,
        Ok(_) => Err(ErrorCode::UnknownServerError),
        Err(code) => Err(code),
    };
    let (code, producer_id, epoch) = match result {
        Ok((producer_id, epoch)) => (ErrorCode::None, producer_id, epoch),
        Err(code) => (code, ProducerId::NONE, ProducerEpoch::NONE),
    };
    Ok(InitProducerIdResponse::default()
        .with_error_code(fenced_since(call, 4, code).code())
        .with_producer_id(WireProducerId(producer_id.0))
        .with_producer_epoch(epoch.0))
}

/// One transaction of an AddPartitionsToTxn.
struct Added<'a> {
    id: &'a str,
    producer_id: i64,
    producer_epoch: i16,
    verify_only: bool,
    topics: &'a [AddPartitionsToTxnTopic],
}

pub async fn add_partitions_to_txn(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: AddPartitionsToTxnRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let mut response = AddPartitionsToTxnResponse::default();
        if call.version < 4 {
            let added = Added {
                id: &request.v3_and_below_transactional_id,
                producer_id: request.v3_and_below_producer_id.0,
                producer_epoch: request.v3_and_below_producer_epoch,
                verify_only: false,
                topics: &request.v3_and_below_topics,
            };
            response.results_by_topic_v3_and_below = add_partitions(&call, &added).await?;
        } else {
            for transaction in &request.transactions {
                let added = Added {
                    id: &transaction.transactional_id,
                    producer_id: transaction.producer_id.0,
                    producer_epoch: transaction.producer_epoch,
                    verify_only: transaction.verify_only,
                    topics: &transaction.topics,
                };
                let results = add_partitions(&call, &added).await?;
                response.results_by_transaction.push(
                    AddPartitionsToTxnResult::default()
                        .with_transactional_id(transaction.transactional_id.clone())
                        .with_topic_results(results),
                );
            }
        }
        call.encode(&response)
    }))
}

async fn add_partitions(
    call: &Call,
    added: &Added<'_>,
) -> Result<Vec<AddPartitionsToTxnTopicResult>, Close> {
    let shard = call.peer.shard();
    let mut partitions = Vec::new();
    let mut unknown = BTreeSet::new();
    for topic in added.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for &index in &topic.partitions {
            let partition = NamedPartition {
                topic: name.clone(),
                partition: PartitionIndex(index),
            };
            if resolve(shard, &partition).is_none() {
                unknown.insert(partition.clone());
            }
            partitions.push(partition);
        }
    }
    let producer_id = ProducerId(added.producer_id);
    let producer_epoch = ProducerEpoch(added.producer_epoch);
    let mut codes: BTreeMap<NamedPartition, ErrorCode> = BTreeMap::new();
    let all = if !unknown.is_empty() {
        for partition in unknown {
            codes.insert(partition, ErrorCode::UnknownTopicOrPartition);
        }
        // One that cannot be added keeps out the rest.
        ErrorCode::OperationNotAttempted
    } else {
        let transactional_id: Arc<str> = Arc::from(added.id);
        let question = if added.verify_only {
            Ask::VerifyPartitions {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
            }
        } else {
            Ask::AddPartitions {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
                client_version: if call.version >= 4 {
                    TRANSACTION_VERSION_2
                } else {
                    0
                },
                patience_ms: 0,
            }
        };
        match ask(shard, added.id, question).await? {
            Ok(Answer::AddPartitions(code)) => fenced_since(call, 2, code),
            Ok(Answer::VerifyPartitions(Ok(results))) => {
                codes.extend(results);
                ErrorCode::None
            }
            Ok(Answer::VerifyPartitions(Err(code))) | Err(code) => code,
            Ok(_) => ErrorCode::UnknownServerError,
        }
    };
    let mut results = Vec::with_capacity(added.topics.len());
    for topic in added.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        let of = |&index: &i32| {
            let partition = NamedPartition {
                topic: name.clone(),
                partition: PartitionIndex(index),
            };
            let code = codes.get(&partition).copied().unwrap_or(all);
            call.count(code.code());
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(code.code())
        };
        results.push(
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(topic.partitions.iter().map(of).collect()),
        );
    }
    Ok(results)
}

/// The partition that has the offsets of a group, made first if it is not there.
async fn offsets_partition(shard: &Rc<Shard>, group_id: &str) -> Option<NamedPartition> {
    let topic = internal_topics::ensure(shard, CONSUMER_OFFSETS).await?;
    let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    Some(NamedPartition {
        topic: Arc::from(CONSUMER_OFFSETS),
        partition: group::partition_of(group_id, partitions),
    })
}

pub async fn add_offsets_to_txn(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: AddOffsetsToTxnRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let shard = call.peer.shard();
        let code = match offsets_partition(shard, &request.group_id).await {
            None => ErrorCode::CoordinatorNotAvailable,
            Some(partition) => {
                let question = Ask::AddPartitions {
                    transactional_id: Arc::from(request.transactional_id.as_str()),
                    producer_id: ProducerId(request.producer_id.0),
                    producer_epoch: ProducerEpoch(request.producer_epoch),
                    partitions: vec![partition],
                    // Later clients leave it to TxnOffsetCommit.
                    client_version: 0,
                    patience_ms: 0,
                };
                match ask(shard, &request.transactional_id, question).await? {
                    Ok(Answer::AddPartitions(code)) | Err(code) => code,
                    Ok(_) => ErrorCode::UnknownServerError,
                }
            }
        };
        let code = fenced_since(&call, 2, code);
        call.count(code.code());
        call.encode(&AddOffsetsToTxnResponse::default().with_error_code(code.code()))
    }))
}

pub async fn end_txn(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: EndTxnRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let transactional_id: Arc<str> = Arc::from(request.transactional_id.as_str());
        let client_version = if call.version >= 5 {
            TRANSACTION_VERSION_2
        } else {
            0
        };
        let answered = ask_with_fresh(&call, &transactional_id, |fresh| Ask::End {
            transactional_id: transactional_id.clone(),
            producer_id: ProducerId(request.producer_id.0),
            producer_epoch: ProducerEpoch(request.producer_epoch),
            commit: request.committed,
            client_version,
            fresh,
        });
        let result = match answered.await? {
            Ok(Answer::End(result)) => result,
            Ok(_) => Err(ErrorCode::UnknownServerError),
            Err(code) => Err(code),
        };
        let (code, producer_id, epoch) = match result {
            Ok((producer_id, epoch)) => (ErrorCode::None, producer_id, epoch),
            Err(code) => (code, ProducerId::NONE, ProducerEpoch::NONE),
        };
        let code = fenced_since(&call, 2, code);
        call.count(code.code());
        let mut response = EndTxnResponse::default().with_error_code(code.code());
        if call.version >= 5 {
            response = response
                .with_producer_id(WireProducerId(producer_id.0))
                .with_producer_epoch(epoch.0);
        }
        call.encode(&response)
    }))
}

/// Markers from outside: of another node's coordinator, or of an operator who ends a hanging transaction
/// (`kafka-transactions abort`).
pub async fn write_txn_markers(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: WriteTxnMarkersRequest = call.decode(body).await?;
    let shard = call.peer.shard();
    let mut response = WriteTxnMarkersResponse::default();
    let mut items = Vec::new();
    let mut places = Vec::new();
    for asked in &request.markers {
        let marker = Marker {
            producer_id: ProducerId(asked.producer_id),
            producer_epoch: ProducerEpoch(asked.producer_epoch),
            commit: asked.transaction_result,
            coordinator_epoch: asked.coordinator_epoch,
            transaction_version: i16::from(asked.transaction_version),
        };
        let mut topics = Vec::with_capacity(asked.topics.len());
        for topic in &asked.topics {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for &index in &topic.partition_indexes {
                let named = NamedPartition {
                    topic: name.clone(),
                    partition: PartitionIndex(index),
                };
                if let Some(partition) = resolve(shard, &named) {
                    items.push(Item {
                        slot: places.len() as u32,
                        partition,
                        ask: marker,
                    });
                    places.push((response.markers.len(), topics.len(), partitions.len()));
                }
                partitions.push(
                    WritableTxnMarkerPartitionResult::default()
                        .with_partition_index(index)
                        .with_error_code(ErrorCode::UnknownTopicOrPartition.code()),
                );
            }
            topics.push(
                WritableTxnMarkerTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        response.markers.push(
            WritableTxnMarkerResult::default()
                .with_producer_id(WireProducerId(asked.producer_id))
                .with_topics(topics),
        );
    }
    let pending = scatter(
        shard,
        items,
        |item: &Item<Marker>| item.partition,
        Request::WriteMarkers,
    )
    .await?;
    Ok(Begun::later(async move {
        let unpack = |reply| match reply {
            Reply::Produce(answers, _) => Some(answers),
            _ => None,
        };
        gather(pending, unpack, |slot, result| {
            let Some(&(m, t, p)) = places.get(slot as usize) else {
                return;
            };
            let code = match result {
                Ok(_) => ErrorCode::None,
                Err(error) => errors::code(&error),
            };
            call.count(code.code());
            response.markers[m].topics[t].partitions[p].error_code = code.code();
        })
        .await?;
        call.encode(&response)
    }))
}

pub async fn txn_offset_commit(call: Call, body: Bytes) -> Result<Begun, Close> {
    let mut request: TxnOffsetCommitRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        let asked = request.topics.clone();
        let image = call.peer.image();
        // What does not exist is told so; the rest is committed.
        for topic in &mut request.topics {
            let found = image.topic_by_name(&topic.name);
            topic.partitions.retain(|partition| {
                let index = PartitionIndex(partition.partition_index);
                found.is_some_and(|topic| topic.partition(index).is_some())
            });
        }
        request.topics.retain(|topic| !topic.partitions.is_empty());
        let committed = if request.topics.is_empty() {
            Ok(TxnOffsetCommitResponse::default())
        } else {
            commit_offsets(&call, request).await?
        };
        let mut codes: BTreeMap<(StrBytes, i32), i16> = BTreeMap::new();
        let mut all = ErrorCode::UnknownTopicOrPartition.code();
        let image_has = |name: &str, index: i32| {
            image
                .topic_by_name(name)
                .is_some_and(|topic| topic.partition(PartitionIndex(index)).is_some())
        };
        match committed {
            Ok(response) => {
                for topic in response.topics {
                    for partition in topic.partitions {
                        let place = (topic.name.0.clone(), partition.partition_index);
                        codes.insert(place, partition.error_code);
                    }
                }
            }
            Err(code) => all = code.code(),
        }
        let answer = |name: &StrBytes, index: i32| {
            let code = if image_has(name, index) {
                codes.get(&(name.clone(), index)).copied().unwrap_or(all)
            } else {
                ErrorCode::UnknownTopicOrPartition.code()
            };
            // The first transactional clients took a coordinator that loads for a fatal error.
            if call.version < 2 && code == ErrorCode::CoordinatorLoadInProgress.code() {
                ErrorCode::CoordinatorNotAvailable.code()
            } else {
                code
            }
        };
        let mut topics = Vec::with_capacity(asked.len());
        for topic in asked {
            let of = |partition_index: i32| {
                let code = answer(&topic.name.0, partition_index);
                call.count(code);
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition_index)
                    .with_error_code(code)
            };
            let partitions = topic.partitions.iter().map(|p| of(p.partition_index));
            topics.push(
                TxnOffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect()),
            );
        }
        call.encode(&TxnOffsetCommitResponse::default().with_topics(topics))
    }))
}

/// Commits offsets in a transaction, which is first made to include the group's partition, or asked
/// whether it does.
async fn commit_offsets(
    call: &Call,
    request: TxnOffsetCommitRequest,
) -> Result<Result<TxnOffsetCommitResponse, ErrorCode>, Close> {
    let shard = call.peer.shard();
    if request.group_id.is_empty() {
        return Ok(Err(ErrorCode::InvalidGroupId));
    }
    let Some(partition) = offsets_partition(shard, &request.group_id).await else {
        return Ok(Err(ErrorCode::CoordinatorNotAvailable));
    };
    let Some(place) = resolve(shard, &partition) else {
        return Ok(Err(ErrorCode::CoordinatorNotAvailable));
    };
    let joins = Joins {
        id: &request.transactional_id,
        producer_id: ProducerId(request.producer_id.0),
        producer_epoch: ProducerEpoch(request.producer_epoch),
        adds: call.version >= 5,
        knows_abortable: call.version >= 4,
    };
    let guard = match verification(shard, place, &joins).await? {
        Ok(Verification::NotNeeded) => None,
        Ok(Verification::Needed(guard)) => Some(guard),
        Err(code) => return Ok(Err(code)),
    };
    let joined = match guard {
        Some(_) => joins.ask(call, vec![partition.clone()]).await?,
        None => Vec::new(),
    };
    if let Some((_, code)) = joined.into_iter().find(|(_, code)| !code.is_none()) {
        let code = match code {
            // To be tried again, which old clients do for this one.
            ErrorCode::NetworkException | ErrorCode::NotEnoughReplicas => {
                ErrorCode::CoordinatorNotAvailable
            }
            other => other,
        };
        return Ok(Err(code));
    }
    let question = group::Ask::CommitInTransaction {
        version: call.version,
        request,
        guard,
    };
    let owner = shard.owner(place);
    let pending = shard
        .post(owner, Request::Group(place.partition, question))
        .await?;
    Ok(match pending.await? {
        Reply::Group(Ok(group::Answer::CommitInTransaction(response))) => Ok(response),
        Reply::Group(Err(error)) => Err(refusal(error)),
        _ => Err(ErrorCode::UnknownServerError),
    })
}

/// Whether the partition of a group's offsets has the transaction open already.
async fn verification(
    shard: &Rc<Shard>,
    partition: TopicPartition,
    joins: &Joins<'_>,
) -> Result<Result<Verification, ErrorCode>, Close> {
    let item = Item {
        slot: 0,
        partition,
        ask: TransactionBatch {
            producer_id: joins.producer_id,
            producer_epoch: joins.producer_epoch,
            // Offsets have no sequence.
            base_sequence: 0,
            epoch_bump: joins.adds,
        },
    };
    let owner = shard.owner(partition);
    let pending = shard
        .post(owner, Request::Verifications(vec![item]))
        .await?;
    let Reply::Verifications(answers) = pending.await? else {
        return Ok(Err(ErrorCode::UnknownServerError));
    };
    Ok(match answers.into_iter().next() {
        Some(answer) => answer.result.map_err(|error| errors::code(&error)),
        None => Err(ErrorCode::UnknownServerError),
    })
}

/// Partitions that records are about to join a transaction in.
struct Joins<'a> {
    id: &'a str,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    /// The request itself adds them; before transaction version 2 they must have been added.
    adds: bool,
    /// Whether the client knows TRANSACTION_ABORTABLE.
    knows_abortable: bool,
}

impl Joins<'_> {
    /// Asks the coordinator. A code for each partition, as the client of a produce understands it.
    async fn ask(
        &self,
        call: &Call,
        partitions: Vec<NamedPartition>,
    ) -> Result<Vec<(NamedPartition, ErrorCode)>, Close> {
        let settings = call.peer.settings();
        let (producer_id, producer_epoch) = (self.producer_id, self.producer_epoch);
        let transactional_id: Arc<str> = Arc::from(self.id);
        let question = if self.adds {
            Ask::AddPartitions {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions: partitions.clone(),
                client_version: TRANSACTION_VERSION_2,
                patience_ms: settings.add_partitions_to_txn_retry_backoff_max_ms,
            }
        } else if settings.transaction_partition_verification_enable {
            Ask::VerifyPartitions {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions: partitions.clone(),
            }
        } else {
            let agreed = |partition| (partition, ErrorCode::None);
            return Ok(partitions.into_iter().map(agreed).collect());
        };
        let all = |code| partitions.iter().cloned().map(|p| (p, code)).collect();
        let results: Vec<(NamedPartition, ErrorCode)> =
            match ask(call.peer.shard(), self.id, question).await? {
                Ok(Answer::VerifyPartitions(Ok(results))) => results,
                Ok(Answer::AddPartitions(code) | Answer::VerifyPartitions(Err(code)))
                | Err(code) => all(code),
                Ok(_) => all(ErrorCode::UnknownServerError),
            };
        let told = |(partition, code)| (partition, self.told(code));
        Ok(results.into_iter().map(told).collect())
    }

    fn told(&self, code: ErrorCode) -> ErrorCode {
        match code {
            ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
            ErrorCode::TransactionAbortable if !self.knows_abortable => ErrorCode::InvalidTxnState,
            other => other,
        }
    }
}

/// A batch of a transaction, in a produce.
pub struct Joining {
    /// Of the item, in the list of the request's.
    pub at: usize,
    pub batch: TransactionBatch,
}

/// Lets the coordinator agree to every batch that begins a transaction in its partition, and gives it
/// the guard with which the partition takes it. Returns what was refused, by the items' slots.
///
/// A produce waits for this in the order of its connection, so that a producer's next batch does not
/// overtake it. Only the first batch of a transaction in a partition asks the coordinator.
pub async fn join(
    call: &Call,
    id: &str,
    joining: Vec<Joining>,
    items: &mut [Item<ProduceBatch>],
) -> Result<Vec<(u32, ErrorCode, String)>, Close> {
    let shard = call.peer.shard();
    let Some(first) = joining.first() else {
        return Ok(Vec::new());
    };
    let joins = Joins {
        id,
        producer_id: first.batch.producer_id,
        producer_epoch: first.batch.producer_epoch,
        adds: call.version >= 12,
        knows_abortable: call.version >= 11,
    };
    let asked: Vec<Item<TransactionBatch>> = joining
        .iter()
        .map(|joining| Item {
            slot: joining.at as u32,
            partition: items[joining.at].partition,
            ask: joining.batch,
        })
        .collect();
    let pending = scatter(
        shard,
        asked,
        |item: &Item<TransactionBatch>| item.partition,
        Request::Verifications,
    )
    .await?;
    let unpack = |reply| match reply {
        Reply::Verifications(answers) => Some(answers),
        _ => None,
    };
    let mut refused = Vec::new();
    let mut needed: BTreeMap<NamedPartition, usize> = BTreeMap::new();
    let image = call.peer.image();
    gather(pending, unpack, |at, result| {
        let at = at as usize;
        let Some(item) = items.get_mut(at) else {
            return;
        };
        match result {
            Ok(Verification::NotNeeded) => {}
            Ok(Verification::Needed(guard)) => {
                item.ask.verified = Some(guard);
                if let Some(topic) = image.topic(item.partition.topic_id) {
                    let partition = NamedPartition {
                        topic: topic.name.clone(),
                        partition: item.partition.partition,
                    };
                    needed.insert(partition, at);
                }
            }
            Err(error) => refused.push((item.slot, errors::code(&error), error.to_string())),
        }
    })
    .await?;
    if needed.is_empty() {
        return Ok(refused);
    }
    let results = joins.ask(call, needed.keys().cloned().collect()).await?;
    for (partition, code) in results {
        let Some(&at) = needed.get(&partition) else {
            continue;
        };
        let told = match code {
            ErrorCode::None => continue,
            // Older clients do not try these again, but that one they do, without new metadata.
            ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
            ErrorCode::ConcurrentTransactions if !joins.adds => ErrorCode::NotEnoughReplicas,
            other => other,
        };
        let why = format!("the partition could not join the transaction: {code:?}");
        refused.push((items[at].slot, told, why));
    }
    Ok(refused)
}
