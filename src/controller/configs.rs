//! IncrementalAlterConfigs and AlterConfigs.
//!
//! Each resource is changed whole or not at all, and by itself.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError::{
    BrokerIdNotRegistered, InvalidConfig, InvalidRequest, InvalidTopicException,
    UnknownTopicOrPartition,
};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as AlterReply;
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalReply;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use super::refusal::Refusal;
use super::topic_name::check_topic_name;
use super::{ConfigRules, ControllerSettings, Outcome};
use crate::base::BrokerId;
use crate::metadata::{ConfigResource, Configs, Image, MetadataRecord};

/// Kafka's numbers of config resources (`ConfigResource.Type`).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Sets, deletes, appends to and subtracts from overrides (KIP-339).
pub fn incremental_alter_configs(
    image: &Image,
    settings: &ControllerSettings,
    rules: &dyn ConfigRules,
    request: &IncrementalAlterConfigsRequest,
) -> Outcome<IncrementalAlterConfigsResponse> {
    let resources = request.resources.iter();
    let repeated = repeated(
        resources
            .clone()
            .map(|r| (r.resource_type, &*r.resource_name)),
    );
    let mut records = Vec::new();
    let mut replies = Vec::with_capacity(request.resources.len());
    for wanted in resources {
        let result = unrepeated(&repeated, wanted.resource_type, &wanted.resource_name)
            .and_then(|()| {
                check_keys(wanted.configs.iter().map(|config| {
                    let null = config.value.is_none() && config.config_operation != DELETE;
                    (config.name.as_str(), null)
                }))
            })
            .and_then(|()| resource_of(settings, wanted.resource_type, &wanted.resource_name))
            .and_then(|resource| alter(image, rules, resource, &wanted.configs));
        let mut reply = IncrementalReply::default()
            .with_error_message(None)
            .with_resource_type(wanted.resource_type)
            .with_resource_name(wanted.resource_name.clone());
        match result {
            Ok(new) => records.extend(new),
            Err(refusal) => {
                reply.error_code = refusal.code();
                reply.error_message = refusal.into_wire();
            }
        }
        replies.push(reply);
    }
    if request.validate_only {
        records.clear();
    }
    Outcome {
        records,
        response: IncrementalAlterConfigsResponse::default().with_responses(replies),
    }
}

/// Replaces all overrides of resources: what is not named is removed.
pub fn alter_configs(
    image: &Image,
    settings: &ControllerSettings,
    rules: &dyn ConfigRules,
    request: &AlterConfigsRequest,
) -> Outcome<AlterConfigsResponse> {
    let resources = request.resources.iter();
    let repeated = repeated(
        resources
            .clone()
            .map(|r| (r.resource_type, &*r.resource_name)),
    );
    let mut records = Vec::new();
    let mut replies = Vec::with_capacity(request.resources.len());
    for wanted in resources {
        let result = unrepeated(&repeated, wanted.resource_type, &wanted.resource_name)
            .and_then(|()| {
                check_keys(
                    wanted
                        .configs
                        .iter()
                        .map(|config| (config.name.as_str(), config.value.is_none())),
                )
            })
            .and_then(|()| resource_of(settings, wanted.resource_type, &wanted.resource_name))
            .and_then(|resource| {
                let mut changes: BTreeMap<&str, Option<String>> = image
                    .configs(&resource)
                    .keys()
                    .map(|key| (key.as_str(), None))
                    .collect();
                for config in &wanted.configs {
                    let value = config.value.as_ref().map(|v| v.to_string());
                    changes.insert(&config.name, value);
                }
                change(image, rules, &resource, &changes)
            });
        let mut reply = AlterReply::default()
            .with_error_message(None)
            .with_resource_type(wanted.resource_type)
            .with_resource_name(wanted.resource_name.clone());
        match result {
            Ok(new) => records.extend(new),
            Err(refusal) => {
                reply.error_code = refusal.code();
                reply.error_message = refusal.into_wire();
            }
        }
        replies.push(reply);
    }
    if request.validate_only {
        records.clear();
    }
    Outcome {
        records,
        response: AlterConfigsResponse::default().with_responses(replies),
    }
}

fn repeated<'a>(resources: impl Iterator<Item = (i8, &'a str)>) -> BTreeSet<(i8, &'a str)> {
    let mut seen = BTreeSet::new();
    let mut repeated = BTreeSet::new();
    for resource in resources {
        if !seen.insert(resource) {
            repeated.insert(resource);
        }
    }
    repeated
}

fn unrepeated(repeated: &BTreeSet<(i8, &str)>, kind: i8, name: &str) -> Result<(), Refusal> {
    if repeated.contains(&(kind, name)) {
        return Err(Refusal::new(
            InvalidRequest,
            "Each resource must appear at most once.",
        ));
    }
    Ok(())
}

/// `keys`: each key, and whether it has no value although it needs one.
fn check_keys<'a>(keys: impl Iterator<Item = (&'a str, bool)> + Clone) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for (key, _) in keys.clone() {
        if !seen.insert(key) {
            return Err(Refusal::new(
                InvalidRequest,
                format!("Error due to duplicate config keys: {key}"),
            ));
        }
    }
    let null: Vec<&str> = keys.filter(|(_, null)| *null).map(|(key, _)| key).collect();
    if !null.is_empty() {
        return Err(Refusal::new(
            InvalidRequest,
            format!("Null value not supported for : {}", null.join(", ")),
        ));
    }
    Ok(())
}

/// The resource that the wire names, if it is one that can be changed here.
fn resource_of(
    settings: &ControllerSettings,
    kind: i8,
    name: &str,
) -> Result<ConfigResource, Refusal> {
    let refuse = |message: String| Err(Refusal::new(InvalidRequest, message));
    match kind {
        TOPIC if name.is_empty() => refuse("Default topic resources are not allowed.".to_owned()),
        TOPIC => match check_topic_name(name) {
            Ok(()) => Ok(ConfigResource::Topic(name.to_owned())),
            Err(reason) => Err(Refusal::new(InvalidTopicException, reason)),
        },
        BROKER if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        BROKER => match name.parse::<i32>() {
            Ok(id) if id == settings.node_id.0 => Ok(ConfigResource::Broker(BrokerId(id))),
            Ok(_) => refuse(format!(
                "Unexpected broker id, expected {}, but received {name}",
                settings.node_id
            )),
            Err(_) => refuse(format!("Node id must be an integer, but it is: {name}")),
        },
        BROKER_LOGGER => refuse("Log levels of loggers cannot be changed.".to_owned()),
        CLIENT_METRICS if name.is_empty() => refuse("Subscription name can't be empty".to_owned()),
        CLIENT_METRICS => Ok(ConfigResource::ClientMetrics(name.to_owned())),
        GROUP if name.is_empty() => refuse("Default group resources are not allowed.".to_owned()),
        GROUP => Ok(ConfigResource::Group(name.to_owned())),
        _ => refuse(format!("Unknown resource type {kind}")),
    }
}

fn alter(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: ConfigResource,
    operations: &[AlterableConfig],
) -> Result<Vec<MetadataRecord>, Refusal> {
    let current = image.configs(&resource);
    let mut changes: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for operation in operations {
        let key = operation.name.as_str();
        let value = operation.value.as_deref().unwrap_or("");
        let new = match operation.config_operation {
            SET => Some(value.to_owned()),
            DELETE => None,
            kind @ (APPEND | SUBTRACT) => {
                if !rules.is_list(&resource, key) {
                    let kind = if kind == APPEND { "APPEND" } else { "SUBTRACT" };
                    return Err(Refusal::new(
                        InvalidConfig,
                        format!("Can't {kind} to key {key} because its type is not LIST."),
                    ));
                }
                let old = current
                    .get(key)
                    .cloned()
                    .or_else(|| rules.default_value(&resource, key))
                    .unwrap_or_default();
                Some(edit_list(&old, kind == APPEND, value))
            }
            unknown => {
                return Err(Refusal::new(
                    InvalidRequest,
                    format!("Unknown operations type {unknown}"),
                ));
            }
        };
        changes.insert(key, new);
    }
    change(image, rules, &resource, &changes)
}

/// A comma-separated list with elements more or fewer; none appears twice by this.
fn edit_list(old: &str, append: bool, elements: &str) -> String {
    let mut list: Vec<&str> = old.split(',').filter(|e| !e.is_empty()).collect();
    for element in elements.split(',') {
        let at = list.iter().position(|e| *e == element);
        match (append, at) {
            (true, None) => list.push(element),
            (false, Some(at)) => {
                list.remove(at);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
    list.join(",")
}

/// `changes`: key to new value, or none to remove it.
fn change(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    changes: &BTreeMap<&str, Option<String>>,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let before = image.configs(resource);
    let mut after: Configs = (**before).clone();
    for (&key, value) in changes {
        match value {
            Some(value) => after.insert(key.to_owned(), value.clone()),
            None => after.remove(key),
        };
    }
    let changed: Vec<&str> = changes.keys().copied().collect();
    rules.check(resource, before, &after, &changed)?;
    match resource {
        ConfigResource::Topic(name) if image.topic_id(name).is_none() => {
            return Err(Refusal::new(
                UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            ));
        }
        ConfigResource::Broker(id) if image.broker(*id).is_none() => {
            return Err(Refusal::new(
                BrokerIdNotRegistered,
                format!("No broker with id {id} found."),
            ));
        }
        _ => {}
    }
    // A broker's setting is written even when it does not change: writing it is how a user has the
    // broker read key stores and the like again (KAFKA-14136).
    let always = matches!(
        resource,
        ConfigResource::Broker(_) | ConfigResource::BrokerDefault
    );
    Ok(changes
        .iter()
        .filter(|(key, value)| always || before.get(**key) != value.as_ref())
        .map(|(&key, value)| MetadataRecord::Config {
            resource: resource.clone(),
            key: key.to_owned(),
            value: value.clone(),
        })
        .collect())
}
