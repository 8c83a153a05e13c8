//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources (KIP-133, 226, 339, 1142).

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::list_config_resources_response::ConfigResource as ListedResource;
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest, ListConfigResourcesResponse,
};

use crate::base::BrokerId;
use crate::base::settings::{
    ConfigEntry, ConfigSource, describe_broker, describe_client_metrics, describe_cluster_default,
    describe_group, describe_topic,
};
use crate::broker::control::{ControlReply, ControlRequest};
use crate::controller::check_topic_name;
use crate::handlers::{Begun, Call, Close, advertise, topics};
use crate::metadata::{ConfigResource, Image};
use crate::protocol::{ErrorCode, StrBytes};
use crate::runtime::yield_budget::YieldBudget;

/// Kafka's numbers of config resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Groups that one request may ask about.
const MAX_GROUPS: usize = 1_000;

pub async fn describe_configs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: DescribeConfigsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        // Loggers are the control thread's.
        let loggers = if asks_for_loggers(&request).await {
            match topics::control(&call, ControlRequest::Loggers).await? {
                ControlReply::Loggers(loggers) => loggers,
                other => {
                    topics::unavailable(other);
                    return Err(Close::Stopping);
                }
            }
        } else {
            Loggers::new()
        };
        let response = describe_all(&call, &request, &loggers).await;
        let entries = response.results.iter().map(|result| result.configs.len());
        let elements = entries.sum();
        call.encode_all(request, response, elements).await
    }))
}

/// Loggers and their levels.
type Loggers = BTreeMap<String, &'static str>;

async fn asks_for_loggers(request: &DescribeConfigsRequest) -> bool {
    let mut pace = YieldBudget::of_elements();
    for resource in &request.resources {
        if resource.resource_type == BROKER_LOGGER {
            return true;
        }
        pace.step().await;
    }
    false
}

async fn describe_all(
    call: &Call,
    request: &DescribeConfigsRequest,
    loggers: &Loggers,
) -> DescribeConfigsResponse {
    let image = call.peer.image();
    // Each resource once: a few bytes that name one are answered with up to 100 KB. Groups need not
    // exist, so their number is bounded.
    let mut seen = HashSet::new();
    let mut groups = 0;
    let mut pace = YieldBudget::of_elements();
    let mut results = Vec::new();
    for resource in &request.resources {
        pace.step().await;
        if !seen.insert((resource.resource_type, described(resource))) {
            continue;
        }
        let mut result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        groups += usize::from(resource.resource_type == GROUP);
        let entries = if groups > MAX_GROUPS {
            let message = format!("More than {MAX_GROUPS} groups in one request");
            Err((ErrorCode::PolicyViolation, message))
        } else {
            entries(call, &image, resource, loggers)
        };
        match entries {
            Ok(mut entries) => {
                // An entry takes as long as some names: it has texts, and synonyms with theirs.
                pace.spend(4 * entries.len()).await;
                if let Some(keys) = &resource.configuration_keys {
                    let mut wanted = HashSet::with_capacity(keys.len());
                    for key in keys {
                        wanted.insert(key.as_str());
                        pace.step().await;
                    }
                    entries.retain(|entry| wanted.contains(entry.name.as_str()));
                }
                let entries = entries.into_iter();
                result.configs = entries.map(|entry| describe(entry, request)).collect();
            }
            Err((code, message)) => {
                result.error_code = code.code();
                result.error_message = Some(StrBytes::from_string(message));
            }
        }
        results.push(result);
    }
    DescribeConfigsResponse::default().with_results(results)
}

/// The name under which a resource is looked up: a broker's has many spellings.
fn described(resource: &DescribeConfigsResource) -> String {
    let name = resource.resource_name.as_str();
    match (resource.resource_type, name.parse::<i32>()) {
        (BROKER | BROKER_LOGGER, Ok(id)) => id.to_string(),
        _ => name.to_owned(),
    }
}

fn entries(
    call: &Call,
    image: &Image,
    resource: &DescribeConfigsResource,
    loggers: &Loggers,
) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
    let name = resource.resource_name.as_str();
    let settings = call.peer.settings();
    match resource.resource_type {
        TOPIC => {
            if let Err(message) = check_topic_name(name) {
                return Err((ErrorCode::InvalidTopicException, message));
            }
            if image.topic_id(name).is_none() {
                let message = format!("topic {name} does not exist");
                return Err((ErrorCode::UnknownTopicOrPartition, message));
            }
            Ok(describe_topic(&settings, image.topic_configs(name)))
        }
        BROKER if name.is_empty() => Ok(describe_cluster_default(&settings)),
        BROKER => {
            let this = call.peer.shard().broker_id;
            match name.parse::<i32>().map(advertise::broker_id) {
                Ok(id) if id == this => Ok(describe_broker(&settings)),
                Ok(BrokerId(id)) => Err((
                    ErrorCode::InvalidRequest,
                    format!(
                        "Unexpected broker id, expected {this} or empty string, but received {id}"
                    ),
                )),
                Err(_) => Err((
                    ErrorCode::InvalidRequest,
                    format!("Broker id must be an integer, but it is: {name}"),
                )),
            }
        }
        GROUP => {
            if name.is_empty() {
                let message = "Group name must not be empty".to_owned();
                return Err((ErrorCode::InvalidRequest, message));
            }
            let overrides = image.configs(&ConfigResource::Group(name.to_owned()));
            Ok(describe_group(&settings, overrides))
        }
        CLIENT_METRICS => {
            if name.is_empty() {
                let message = "Client metrics subscription name must not be empty".to_owned();
                return Err((ErrorCode::InvalidRequest, message));
            }
            // Subscriptions are stored; clients are not asked for telemetry.
            let resource = ConfigResource::ClientMetrics(name.to_owned());
            Ok(describe_client_metrics(image.configs(&resource)))
        }
        BROKER_LOGGER if name.is_empty() => {
            let message = "Broker id must not be empty".to_owned();
            Err((ErrorCode::InvalidRequest, message))
        }
        BROKER_LOGGER => {
            let this = call.peer.shard().broker_id;
            match name.parse::<i32>().map(advertise::broker_id) {
                Ok(id) if id == this => Ok(describe_loggers(loggers)),
                Ok(BrokerId(id)) => Err((
                    ErrorCode::InvalidRequest,
                    format!("Unexpected broker id, expected {this} but received {id}"),
                )),
                Err(_) => Err((
                    ErrorCode::InvalidRequest,
                    format!("Broker id must be an integer, but it is: {name}"),
                )),
            }
        }
        other => Err((
            ErrorCode::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

fn describe_loggers(loggers: &Loggers) -> Vec<ConfigEntry> {
    loggers
        .iter()
        .map(|(name, level)| ConfigEntry {
            name: name.clone(),
            value: Some((*level).to_owned()),
            source: ConfigSource::DynamicBrokerLoggerConfig,
            config_type: 0,
            read_only: false,
            is_sensitive: false,
            synonyms: Vec::new(),
            documentation: None,
        })
        .collect()
}

fn describe(entry: ConfigEntry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = if request.include_synonyms {
        entry
            .synonyms
            .into_iter()
            .map(|synonym| {
                DescribeConfigsSynonym::default()
                    .with_name(StrBytes::from_string(synonym.name))
                    .with_value(synonym.value.map(StrBytes::from_string))
                    .with_source(synonym.source as i8)
            })
            .collect()
    } else {
        Vec::new()
    };
    let documentation = entry
        .documentation
        .filter(|_| request.include_documentation)
        .map(StrBytes::from_static_str);
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_string(entry.name))
        .with_value(entry.value.map(StrBytes::from_string))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.is_sensitive)
        .with_synonyms(synonyms)
        .with_config_type(entry.config_type)
        .with_documentation(documentation)
}

pub async fn alter_configs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: AlterConfigsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        match topics::control(&call, ControlRequest::AlterConfigs(request)).await? {
            ControlReply::AlterConfigs(response) => call.encode_all((), response, 0).await,
            other => {
                topics::unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

pub async fn incremental_alter_configs(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: IncrementalAlterConfigsRequest = call.decode(body).await?;
    Ok(Begun::later(async move {
        match topics::control(&call, ControlRequest::IncrementalAlterConfigs(request)).await? {
            ControlReply::IncrementalAlterConfigs(response) => {
                call.encode_all((), response, 0).await
            }
            other => {
                topics::unavailable(other);
                Err(Close::Stopping)
            }
        }
    }))
}

pub async fn list_config_resources(call: Call, body: Bytes) -> Result<Begun, Close> {
    let request: ListConfigResourcesRequest = call.decode(body).await?;
    let image = call.peer.image();
    // Version 0 knew client metrics alone; an empty list means everything.
    let all = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let types: Vec<i8> = if call.version == 0 {
        vec![CLIENT_METRICS]
    } else if request.resource_types.is_empty() {
        all.to_vec()
    } else {
        request.resource_types.clone()
    };
    let mut response = ListConfigResourcesResponse::default();
    if types.iter().any(|kind| !all.contains(kind)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return Ok(Begun::Done(call.encode(&response)?));
    }
    let mut add = |kind: i8, name: &str| {
        response.config_resources.push(
            ListedResource::default()
                .with_resource_type(kind)
                .with_resource_name(StrBytes::from_string(name.to_owned())),
        );
    };
    // Each kind once, in the order in which they are named.
    let mut seen = HashSet::new();
    for kind in types.into_iter().filter(|kind| seen.insert(*kind)) {
        match kind {
            TOPIC => image.topics().for_each(|topic| add(TOPIC, &topic.name)),
            BROKER | BROKER_LOGGER => image
                .brokers()
                .for_each(|b| add(kind, &advertise::node_id(b.broker_id).to_string())),
            _ => {
                for (resource, _) in image.configured_resources() {
                    match resource {
                        ConfigResource::ClientMetrics(name) if kind == CLIENT_METRICS => {
                            add(kind, name);
                        }
                        ConfigResource::Group(name) if kind == GROUP => add(kind, name),
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(Begun::Done(call.encode(&response)?))
}
