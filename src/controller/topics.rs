//! CreateTopics and DeleteTopics.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError::{
    InvalidConfig, InvalidPartitions, InvalidReplicaAssignment, InvalidReplicationFactor,
    InvalidRequest, InvalidTopicException, PolicyViolation, TopicAlreadyExists,
    TopicDeletionDisabled, UnknownTopicId, UnknownTopicOrPartition,
};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::placement::{Room, check_assignment, new_partition, place};
use super::refusal::Refusal;
use super::topic_name::{CLUSTER_METADATA_TOPIC, check_topic_name};
use super::{ConfigRules, ControllerSettings, NewTopicIds, Outcome};
use crate::base::{BrokerId, TopicId};
use crate::metadata::{ConfigResource, Configs, Image, MetadataRecord};

/// Creates topics, each by itself: one that is refused does not hold up the others.
///
/// `new_id` gives ids and `seed` chooses where placement begins. The response carries no configs
/// (v5+): what is effective is known where the settings are.
pub fn create_topics(
    image: &Image,
    settings: &ControllerSettings,
    rules: &dyn ConfigRules,
    new_id: &mut NewTopicIds<'_>,
    seed: u64,
    request: &CreateTopicsRequest,
) -> Outcome<CreateTopicsResponse> {
    let mut records = Vec::new();
    let mut results = Vec::with_capacity(request.topics.len());
    let (once, repeated) = once_and_repeated(request.topics.iter().map(|t| t.name.as_str()));
    let too_many = partitions_asked_for(settings, &request.topics, &once)
        > settings.max_partitions_per_request;
    let mut room = Room::new(image, settings.max_partitions_per_node);
    for topic in &request.topics {
        if !once.contains(topic.name.as_str()) {
            continue;
        }
        let result = if too_many {
            Err(Refusal::new(
                PolicyViolation,
                "Excessively large number of partitions per request.",
            ))
        } else {
            create_topic(image, settings, rules, new_id, seed, &mut room, topic)
        };
        results.push(match result {
            Ok((new_records, result)) => {
                records.extend(new_records);
                result
            }
            Err(refusal) => refused(topic.name.clone(), refusal),
        });
    }
    for name in repeated {
        let name = TopicName(StrBytes::from_string(name.to_owned()));
        results.push(refused(
            name,
            Refusal::new(InvalidRequest, "Duplicate topic name."),
        ));
    }
    if request.validate_only {
        records.clear();
    }
    Outcome {
        records,
        response: CreateTopicsResponse::default().with_topics(results),
    }
}

fn refused(name: TopicName, refusal: Refusal) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(refusal.code())
        .with_error_message(refusal.into_wire())
}

/// Names that appear once, and those that appear more often.
pub(super) fn once_and_repeated<'a>(
    names: impl Iterator<Item = &'a str>,
) -> (BTreeSet<&'a str>, BTreeSet<&'a str>) {
    let mut once = BTreeSet::new();
    let mut repeated = BTreeSet::new();
    for name in names {
        if repeated.contains(name) {
            continue;
        }
        if !once.insert(name) {
            once.remove(name);
            repeated.insert(name);
        }
    }
    (once, repeated)
}

fn partitions_asked_for(
    settings: &ControllerSettings,
    topics: &[CreatableTopic],
    once: &BTreeSet<&str>,
) -> usize {
    let asked = topics
        .iter()
        .filter(|t| once.contains(t.name.as_str()))
        .map(|topic| {
            if !topic.assignments.is_empty() {
                return topic.assignments.len();
            }
            let partitions = match topic.num_partitions {
                -1 => settings.num_partitions,
                n => n,
            };
            usize::try_from(partitions).unwrap_or(0)
        });
    asked.fold(0, usize::saturating_add)
}

fn create_topic(
    image: &Image,
    settings: &ControllerSettings,
    rules: &dyn ConfigRules,
    new_id: &mut NewTopicIds<'_>,
    seed: u64,
    room: &mut Room<'_>,
    topic: &CreatableTopic,
) -> Result<(Vec<MetadataRecord>, CreatableTopicResult), Refusal> {
    let name = topic.name.as_str();
    if name == CLUSTER_METADATA_TOPIC {
        return Err(Refusal::new(
            InvalidRequest,
            format!("Creation of internal topic {CLUSTER_METADATA_TOPIC} is prohibited."),
        ));
    }
    check_topic_name(name).map_err(|reason| Refusal::new(InvalidTopicException, reason))?;
    if image.topic_id(name).is_some() {
        return Err(Refusal::new(
            TopicAlreadyExists,
            format!("Topic '{name}' already exists."),
        ));
    }
    if let Some(other) = image.colliding_topics(name).next() {
        return Err(Refusal::new(
            InvalidTopicException,
            format!("Topic '{name}' collides with existing topic: {other}"),
        ));
    }
    let configs = creation_configs(rules, topic)?;
    let partitions = if topic.assignments.is_empty() {
        placed_partitions(image, settings, seed, topic)?
    } else {
        assigned_partitions(image, topic)?
    };
    room.take(&partitions)?;
    let topic_id = fresh_id(image, new_id);
    let result = CreatableTopicResult::default()
        .with_error_message(None)
        .with_name(topic.name.clone())
        .with_topic_id(uuid::Uuid::from_u128(topic_id.0))
        .with_num_partitions(i32::try_from(partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(
            partitions
                .first()
                .and_then(|replicas| i16::try_from(replicas.len()).ok())
                .unwrap_or(-1),
        );
    let mut records = Vec::with_capacity(1 + configs.len() + partitions.len());
    records.push(MetadataRecord::Topic {
        name: name.to_owned(),
        topic_id,
    });
    records.extend(
        configs
            .into_iter()
            .map(|(key, value)| MetadataRecord::Config {
                resource: ConfigResource::Topic(name.to_owned()),
                key,
                value: Some(value),
            }),
    );
    records.extend(
        partitions
            .into_iter()
            .enumerate()
            .map(|(partition, replicas)| new_partition(image, topic_id, partition, replicas)),
    );
    Ok((records, result))
}

/// An id that is neither reserved (0 is none, 1 is Kafka's metadata log) nor taken.
fn fresh_id(image: &Image, new_id: &mut NewTopicIds<'_>) -> TopicId {
    loop {
        let id = new_id();
        if id.0 > 1 && image.topic(id).is_none() {
            return id;
        }
    }
}

fn creation_configs(rules: &dyn ConfigRules, topic: &CreatableTopic) -> Result<Configs, Refusal> {
    let mut configs = Configs::new();
    let mut without_value = Vec::new();
    for config in &topic.configs {
        match &config.value {
            Some(value) => {
                configs.insert(config.name.to_string(), value.to_string());
            }
            None => without_value.push(config.name.as_str()),
        }
    }
    if !without_value.is_empty() {
        return Err(Refusal::new(
            InvalidConfig,
            format!(
                "Null value not supported for topic configs: {}",
                without_value.join(",")
            ),
        ));
    }
    if !configs.is_empty() {
        let changed: Vec<&str> = configs.keys().map(String::as_str).collect();
        rules.check(
            &ConfigResource::Topic(topic.name.to_string()),
            &Configs::new(),
            &configs,
            &changed,
        )?;
    }
    Ok(configs)
}

fn placed_partitions(
    image: &Image,
    settings: &ControllerSettings,
    seed: u64,
    topic: &CreatableTopic,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let replication_factor = match topic.replication_factor {
        -1 => settings.default_replication_factor,
        n => n,
    };
    let replication_factor = usize::try_from(replication_factor).unwrap_or(0);
    if replication_factor == 0 {
        return Err(Refusal::new(
            InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ));
    }
    let num_partitions = match topic.num_partitions {
        -1 => settings.num_partitions,
        n => n,
    };
    let num_partitions = usize::try_from(num_partitions).unwrap_or(0);
    if num_partitions == 0 {
        return Err(Refusal::new(
            InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ));
    }
    place(image, seed, 0, num_partitions, replication_factor)
}

fn assigned_partitions(
    image: &Image,
    topic: &CreatableTopic,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    if topic.replication_factor != -1 {
        return Err(Refusal::new(
            InvalidRequest,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ));
    }
    if topic.num_partitions != -1 {
        return Err(Refusal::new(
            InvalidRequest,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ));
    }
    let mut partitions = BTreeMap::new();
    let mut replication_factor = None;
    for assignment in &topic.assignments {
        let partition = assignment.partition_index;
        if partitions.contains_key(&partition) {
            return Err(Refusal::new(
                InvalidReplicaAssignment,
                format!("Found multiple manual partition assignments for partition {partition}"),
            ));
        }
        let replicas =
            check_assignment(image, partition, &assignment.broker_ids, replication_factor)?;
        replication_factor = Some(replicas.len());
        partitions.insert(partition, replicas);
    }
    // Keys are distinct, so only the first and the last need a look.
    let consecutive = partitions.first_key_value().is_some_and(|(&p, _)| p == 0)
        && partitions
            .last_key_value()
            .is_some_and(|(&p, _)| usize::try_from(p) == Ok(partitions.len() - 1));
    if !consecutive {
        return Err(Refusal::new(
            InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ));
    }
    Ok(partitions.into_values().collect())
}

/// Deletes topics by name (all versions) or id (v6), each by itself.
///
/// Below v3 a handler turns TOPIC_DELETION_DISABLED into INVALID_REQUEST, as Kafka does.
pub fn delete_topics(
    image: &Image,
    settings: &ControllerSettings,
    request: &DeleteTopicsRequest,
) -> Outcome<DeleteTopicsResponse> {
    let mut results = Vec::new();
    let mut names: Vec<&str> = request.topic_names.iter().map(|n| n.as_str()).collect();
    let mut ids: Vec<TopicId> = Vec::new();
    for topic in &request.topics {
        let id = TopicId(topic.topic_id.as_u128());
        match &topic.name {
            None if id == TopicId::ZERO => results.push(deletion(
                None,
                id,
                Err(Refusal::new(
                    InvalidRequest,
                    "Neither topic name nor id were specified.",
                )),
            )),
            None => ids.push(id),
            Some(name) if id == TopicId::ZERO => names.push(name.as_str()),
            Some(name) => results.push(deletion(
                Some(name.as_str()),
                id,
                Err(Refusal::new(
                    InvalidRequest,
                    "You may not specify both topic name and topic id.",
                )),
            )),
        }
    }
    let (once, repeated) = once_and_repeated(names.iter().copied());
    let mut repeated_ids = BTreeSet::new();
    let mut once_ids = BTreeSet::new();
    for &id in &ids {
        if !once_ids.insert(id) {
            repeated_ids.insert(id);
        }
    }
    for name in repeated {
        let refusal = Refusal::new(InvalidRequest, "Duplicate topic name.");
        results.push(deletion(Some(name), TopicId::ZERO, Err(refusal)));
    }
    for &id in &repeated_ids {
        let refusal = Refusal::new(InvalidRequest, "Duplicate topic id.");
        results.push(deletion(None, id, Err(refusal)));
    }
    // In the order of the request, each with what the client called it.
    let mut wanted: Vec<(TopicId, &str)> = Vec::new();
    for id in ids {
        if repeated_ids.contains(&id) {
            continue;
        }
        match image.topic(id) {
            Some(topic) => wanted.push((id, &topic.name)),
            None => results.push(deletion(None, id, Err(Refusal::bare(UnknownTopicId)))),
        }
    }
    for name in names {
        if !once.contains(name) {
            continue;
        }
        match image.topic_id(name) {
            None => results.push(deletion(
                Some(name),
                TopicId::ZERO,
                Err(Refusal::bare(UnknownTopicOrPartition)),
            )),
            Some(id) if repeated_ids.contains(&id) || once_ids.contains(&id) => {
                wanted.retain(|(wanted, _)| *wanted != id);
                results.push(deletion(
                    Some(name),
                    id,
                    Err(Refusal::new(
                        InvalidRequest,
                        "The provided topic name maps to an ID that was already supplied.",
                    )),
                ));
            }
            Some(id) => wanted.push((id, name)),
        }
    }
    let mut records = Vec::with_capacity(wanted.len());
    for (topic_id, name) in wanted {
        let result = if settings.delete_topic_enable {
            records.push(MetadataRecord::RemoveTopic { topic_id });
            Ok(())
        } else {
            Err(Refusal::new(
                TopicDeletionDisabled,
                "Topic deletion is disabled.",
            ))
        };
        results.push(deletion(Some(name), topic_id, result));
    }
    Outcome {
        records,
        response: DeleteTopicsResponse::default().with_responses(results),
    }
}

fn deletion(name: Option<&str>, id: TopicId, result: Result<(), Refusal>) -> DeletableTopicResult {
    let name = name.map(|name| TopicName(StrBytes::from_string(name.to_owned())));
    let reply = DeletableTopicResult::default()
        .with_name(name)
        .with_topic_id(uuid::Uuid::from_u128(id.0));
    match result {
        Ok(()) => reply,
        Err(refusal) => reply
            .with_error_code(refusal.code())
            .with_error_message(refusal.into_wire()),
    }
}
