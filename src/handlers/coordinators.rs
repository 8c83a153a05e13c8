//! Where coordinators are: FindCoordinator (KIP-699), and how a request reaches the one of its group.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{
    BrokerId as WireBroker, FindCoordinatorRequest, FindCoordinatorResponse,
};

use crate::base::{PartitionIndex, TopicPartition};
use crate::broker::coordinators::CoordinatorError;
use crate::broker::internal_topics::{self, CONSUMER_OFFSETS, TRANSACTION_STATE};
use crate::broker::messages::{Reply, Request};
use crate::broker::reply::Pending;
use crate::broker::shard::Shard;
use crate::coordinator::group::{self, partition_of};
use crate::handlers::{Begun, Call, Close, advertise};
use crate::metadata::{Image, TopicImage};
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::mailbox::Closed;

/// What a key of FindCoordinator names.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

/// The first version in which many keys are asked for at once.
const KEYS_SINCE: i16 = 4;

/// The first version that knows share groups.
const SHARE_SINCE: i16 = 6;

pub async fn find_coordinator(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: FindCoordinatorRequest = call.decode(body).await?;
    let topic = match request.key_type {
        GROUP => Ok(CONSUMER_OFFSETS),
        TRANSACTION => Ok(TRANSACTION_STATE),
        SHARE if call.version < SHARE_SINCE => Err(ErrorCode::InvalidRequest),
        // There are no share groups.
        SHARE => Err(ErrorCode::CoordinatorNotAvailable),
        _ => Err(ErrorCode::UnknownServerError),
    };
    Ok(Begun::later(async move {
        let topic = match topic {
            Ok(name) => internal_topics::ensure(call.peer.shard(), name)
                .await
                .ok_or(ErrorCode::CoordinatorNotAvailable),
            Err(code) => Err(code),
        };
        let image = call.peer.image();
        let find = |key: &str| match &topic {
            Ok(topic) => coordinator(&image, &call.peer.listener, topic, key),
            Err(code) => Err(*code),
        };
        let response = if call.version >= KEYS_SINCE {
            let found = request.coordinator_keys.iter();
            let found = found.map(|key| found_at(key.clone(), find(key)));
            FindCoordinatorResponse::default().with_coordinators(found.collect())
        } else {
            let found = found_at(StrBytes::default(), find(&request.key));
            FindCoordinatorResponse::default()
                .with_error_code(found.error_code)
                .with_error_message(found.error_message)
                .with_node_id(found.node_id)
                .with_host(found.host)
                .with_port(found.port)
        };
        call.encode(&response)
    }))
}

/// Node id, host and port of the broker that leads the key's partition.
fn coordinator(
    image: &Image,
    listener: &str,
    topic: &TopicImage,
    key: &str,
) -> Result<(i32, String, u16), ErrorCode> {
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let partition = topic.partition(partition_of(key, count));
    let leader = partition.and_then(|partition| partition.leader);
    let endpoint = leader.and_then(|leader| Some((leader, image.endpoint(leader, listener)?)));
    match endpoint {
        Some((leader, at)) => Ok((advertise::node_id(leader), at.host.clone(), at.port)),
        None => Err(ErrorCode::CoordinatorNotAvailable),
    }
}

fn found_at(key: StrBytes, found: Result<(i32, String, u16), ErrorCode>) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    match found {
        Ok((node_id, host, port)) => coordinator
            .with_node_id(WireBroker(node_id))
            .with_host(StrBytes::from_string(host))
            .with_port(port.into()),
        Err(code) => coordinator
            .with_node_id(WireBroker(-1))
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(code.message().map(StrBytes::from_static_str)),
    }
}

/// The topic of groups and the partition of it that a group is in. `None`: there is no such topic, so
/// nobody has asked for a coordinator yet.
pub fn group_partition(image: &Image, group_id: &str) -> Option<(Arc<TopicImage>, PartitionIndex)> {
    let topic = image.topic_by_name(CONSUMER_OFFSETS)?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    Some((topic.clone(), partition_of(group_id, count)))
}

/// A question to a group's coordinator, on its way; or why it cannot be asked.
pub type Asked = Result<Pending, CoordinatorError>;

/// Asks the coordinator of one partition of the topic of groups.
pub async fn ask_partition(
    shard: &Rc<Shard>,
    topic: &TopicImage,
    partition: PartitionIndex,
    ask: group::Ask,
) -> Result<Pending, Closed> {
    let owner = shard.owner(TopicPartition::new(topic.id, partition));
    shard.post(owner, Request::Group(partition, ask)).await
}

/// Asks the coordinator of a group.
pub async fn ask_group(
    shard: &Rc<Shard>,
    group_id: &str,
    ask: group::Ask,
) -> Result<Asked, Closed> {
    match group_partition(&shard.image(), group_id) {
        Some((topic, partition)) => Ok(Ok(ask_partition(shard, &topic, partition, ask).await?)),
        None => Ok(Err(CoordinatorError::NotCoordinator)),
    }
}

/// The coordinator's answer.
pub async fn answer(asked: Asked) -> Result<Result<group::Answer, CoordinatorError>, Closed> {
    let pending = match asked {
        Ok(pending) => pending,
        Err(error) => return Ok(Err(error)),
    };
    match pending.await? {
        Reply::Group(answer) => Ok(answer),
        _ => Ok(Err(CoordinatorError::NotCoordinator)),
    }
}

/// Kafka's code for a coordinator that did not answer.
pub fn code(error: CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::Loading => ErrorCode::CoordinatorLoadInProgress,
        CoordinatorError::NotCoordinator | CoordinatorError::NotAvailable => {
            ErrorCode::NotCoordinator
        }
        CoordinatorError::TooLarge => ErrorCode::UnknownServerError,
        CoordinatorError::Fenced => ErrorCode::InvalidProducerEpoch,
        CoordinatorError::NotInTransaction => ErrorCode::InvalidTxnState,
        CoordinatorError::TimedOut => ErrorCode::CoordinatorNotAvailable,
    }
}
