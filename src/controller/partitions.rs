//! CreatePartitions and ElectLeaders.

use kafka_protocol::ResponseError::{
    ElectionNotNeeded, EligibleLeadersNotAvailable, InvalidPartitions, InvalidReplicaAssignment,
    InvalidRequest, PolicyViolation, PreferredLeaderNotAvailable, UnknownTopicOrPartition,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, ElectLeadersRequest, ElectLeadersResponse,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::placement::{Room, alive, check_assignment, new_partition, place};
use super::refusal::Refusal;
use super::topics::once_and_repeated;
use super::{ControllerSettings, Outcome};
use crate::base::{PartitionIndex, TopicId};
use crate::metadata::{Image, LeaderChange, MetadataRecord, PartitionChange, PartitionImage};

/// Adds partitions to topics, each topic by itself. `seed` chooses where placement begins.
pub fn create_partitions(
    image: &Image,
    settings: &ControllerSettings,
    seed: u64,
    request: &CreatePartitionsRequest,
) -> Outcome<CreatePartitionsResponse> {
    let mut records = Vec::new();
    let mut results = Vec::with_capacity(request.topics.len());
    let (once, repeated) = once_and_repeated(request.topics.iter().map(|t| t.name.as_str()));
    let mut room = Room::new(image, settings.max_partitions_per_node);
    let mut left = settings.max_partitions_per_request;
    for topic in &request.topics {
        if !once.contains(topic.name.as_str()) {
            continue;
        }
        let result = add_partitions(image, seed, &mut left, &mut room, topic);
        results.push(addition(
            topic.name.clone(),
            result.map(|new| records.extend(new)),
        ));
    }
    for name in repeated {
        results.push(addition(
            TopicName(StrBytes::from_string(name.to_owned())),
            Err(Refusal::new(InvalidRequest, "Duplicate topic name.")),
        ));
    }
    if request.validate_only {
        records.clear();
    }
    Outcome {
        records,
        response: CreatePartitionsResponse::default().with_results(results),
    }
}

fn addition(name: TopicName, result: Result<(), Refusal>) -> CreatePartitionsTopicResult {
    let reply = CreatePartitionsTopicResult::default().with_name(name);
    match result {
        Ok(()) => reply,
        Err(refusal) => reply
            .with_error_code(refusal.code())
            .with_error_message(refusal.into_wire()),
    }
}

fn add_partitions(
    image: &Image,
    seed: u64,
    left: &mut usize,
    room: &mut Room<'_>,
    request: &CreatePartitionsTopic,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let topic = image
        .topic_by_name(&request.name)
        .ok_or_else(|| Refusal::bare(UnknownTopicOrPartition))?;
    let has = topic.partitions.len();
    let count = usize::try_from(request.count).unwrap_or(0);
    if count == has {
        return Err(Refusal::new(
            InvalidPartitions,
            format!("Topic already has {has} partition(s)."),
        ));
    }
    if count < has {
        return Err(Refusal::new(
            InvalidPartitions,
            format!(
                "The topic {} currently has {has} partition(s); {} would not be an increase.",
                topic.name, request.count
            ),
        ));
    }
    let additional = count - has;
    if additional > *left {
        return Err(Refusal::new(
            PolicyViolation,
            "Excessively large number of partitions per request.",
        ));
    }
    let replication_factor = topic.replication_factor().max(1);
    let partitions = match &request.assignments {
        Some(assignments) if assignments.len() != additional => {
            return Err(Refusal::new(
                InvalidReplicaAssignment,
                format!(
                    "Attempted to add {additional} additional partition(s), but only {} assignment(s) \
                     were specified.",
                    assignments.len()
                ),
            ));
        }
        Some(assignments) => (i32::try_from(has).unwrap_or(i32::MAX)..=i32::MAX)
            .zip(assignments)
            .map(|(partition, a)| {
                check_assignment(image, partition, &a.broker_ids, Some(replication_factor))
            })
            .collect::<Result<Vec<_>, _>>()?,
        None => place(image, seed, has, additional, replication_factor)?,
    };
    room.take(&partitions)?;
    *left -= additional;
    Ok(partitions
        .into_iter()
        .zip(has..)
        .map(|(replicas, partition)| new_partition(image, topic.id, partition, replicas))
        .collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Election {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica, where nobody leads.
    Unclean,
}

/// Elects leaders: of the partitions named, or of all. Where all are meant, partitions that need no
/// election are left out of the answer, as in Kafka.
pub fn elect_leaders(
    image: &Image,
    request: &ElectLeadersRequest,
) -> Outcome<ElectLeadersResponse> {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => {
            return Outcome {
                records: Vec::new(),
                response: ElectLeadersResponse::default().with_error_code(InvalidRequest.code()),
            };
        }
    };
    let mut records = Vec::new();
    let mut results = Vec::new();
    match &request.topic_partitions {
        Some(topics) => {
            for wanted in topics {
                let partitions = wanted.partitions.iter().map(|&partition| {
                    let elected = elect(image, election, &wanted.topic, partition);
                    election_result(partition, elected.map(|record| records.push(record)))
                });
                results.push(
                    ReplicaElectionResult::default()
                        .with_topic(wanted.topic.clone())
                        .with_partition_result(partitions.collect()),
                );
            }
        }
        None => {
            for topic in image.topics() {
                let mut partitions = Vec::new();
                for (partition, index) in topic.partitions.iter().zip(0i32..) {
                    match elect_partition(image, election, topic.id, index, partition) {
                        Err(refusal) if refusal.error == ElectionNotNeeded => {}
                        elected => partitions.push(election_result(
                            index,
                            elected.map(|record| records.push(record)),
                        )),
                    }
                }
                results.push(
                    ReplicaElectionResult::default()
                        .with_topic(TopicName(StrBytes::from_string(topic.name.to_string())))
                        .with_partition_result(partitions),
                );
            }
        }
    }
    Outcome {
        records,
        response: ElectLeadersResponse::default().with_replica_election_results(results),
    }
}

fn election_result(partition: i32, result: Result<(), Refusal>) -> PartitionResult {
    let reply = PartitionResult::default()
        .with_error_message(None)
        .with_partition_id(partition);
    match result {
        Ok(()) => reply,
        Err(refusal) => reply
            .with_error_code(refusal.code())
            .with_error_message(refusal.into_wire()),
    }
}

fn elect(
    image: &Image,
    election: Election,
    topic: &str,
    index: i32,
) -> Result<MetadataRecord, Refusal> {
    let topic = image.topic_by_name(topic).ok_or_else(|| {
        Refusal::new(UnknownTopicOrPartition, format!("No such topic as {topic}"))
    })?;
    let partition = topic.partition(PartitionIndex(index)).ok_or_else(|| {
        Refusal::new(
            UnknownTopicOrPartition,
            format!("No such partition as {}-{index}", topic.name),
        )
    })?;
    elect_partition(image, election, topic.id, index, partition)
}

fn elect_partition(
    image: &Image,
    election: Election,
    topic_id: TopicId,
    index: i32,
    partition: &PartitionImage,
) -> Result<MetadataRecord, Refusal> {
    let preferred = partition.replicas.first().copied();
    let needed = match election {
        Election::Preferred => partition.leader != preferred,
        Election::Unclean => partition.leader.is_none(),
    };
    if !needed {
        return Err(Refusal::new(
            ElectionNotNeeded,
            "Leader election not needed for topic partition.",
        ));
    }
    let in_sync = alive(image, &partition.isr);
    let (leader, isr) = match election {
        Election::Preferred => match preferred.filter(|p| in_sync.contains(p)) {
            Some(leader) => (leader, None),
            None => return Err(Refusal::bare(PreferredLeaderNotAvailable)),
        },
        Election::Unclean => match (in_sync.first(), alive(image, &partition.replicas).first()) {
            (Some(&leader), _) => (leader, None),
            (None, Some(&leader)) => (leader, Some(vec![leader])),
            (None, None) => return Err(Refusal::bare(EligibleLeadersNotAvailable)),
        },
    };
    Ok(MetadataRecord::PartitionChange(PartitionChange {
        topic_id,
        partition: PartitionIndex(index),
        replicas: None,
        isr,
        leader: Some(LeaderChange::Broker(leader)),
        directories: None,
    }))
}
