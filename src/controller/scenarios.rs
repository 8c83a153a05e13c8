//! Runs `tests/scenarios/controller/*.txt` against the machine. A line is a step; what follows `->` is
//! the answer it must get, of which an error's words may be left out from the end. Topics or resources
//! of one request are separated by ` + `, as are their answers. The rest of a line after ` #` is a
//! comment.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_request as legacy;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId as WireBrokerId, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use crate::metadata::{
    BrokerRegistration, ConfigResource, Configs, Image, LeaderChange, MetadataRecord,
    PartitionChange,
};

/// A table of four settings.
struct FourSettings;

impl ConfigRules for FourSettings {
    fn check(
        &self,
        resource: &ConfigResource,
        _: &Configs,
        after: &Configs,
        changed: &[&str],
    ) -> Result<(), ConfigRefusal> {
        for (key, value) in after {
            let good = match (resource, key.as_str()) {
                (ConfigResource::Topic(_), "retention.ms") => value.parse::<i64>().is_ok(),
                (ConfigResource::Topic(_), "cleanup.policy") => true,
                (ConfigResource::Broker(_) | ConfigResource::BrokerDefault, "log.retention.ms") => {
                    true
                }
                (ConfigResource::Broker(_) | ConfigResource::BrokerDefault, "num.partitions")
                    if changed.contains(&"num.partitions") =>
                {
                    return Err(ConfigRefusal::invalid_request(
                        "Cannot update these configs dynamically: [num.partitions]",
                    ));
                }
                (ConfigResource::Group(_) | ConfigResource::ClientMetrics(_), _) => true,
                _ => {
                    return Err(ConfigRefusal::invalid_config(format!(
                        "Unknown topic config name: {key}"
                    )));
                }
            };
            if !good {
                return Err(ConfigRefusal::invalid_config(format!(
                    "Invalid value {value} for configuration {key}"
                )));
            }
        }
        Ok(())
    }

    fn is_list(&self, _: &ConfigResource, key: &str) -> bool {
        key == "cleanup.policy"
    }

    fn default_value(&self, _: &ConfigResource, key: &str) -> Option<String> {
        (key == "cleanup.policy").then(|| "delete".to_owned())
    }
}

#[derive(Default)]
struct World {
    image: Image,
    settings: ControllerSettings,
    ids: u128,
    /// Ids that topics had, by name, also after they are gone.
    known_ids: BTreeMap<String, TopicId>,
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn name(s: &str) -> TopicName {
    TopicName(text(match s {
        "<empty>" => "",
        "<250>" => return TopicName(text(&"x".repeat(250))),
        other => other,
    }))
}

fn brokers(list: &str) -> Vec<WireBrokerId> {
    let ids = list.split(',').filter(|id| !id.is_empty());
    ids.map(|id| WireBrokerId(id.parse().unwrap())).collect()
}

fn answer(code: i16, message: Option<&StrBytes>) -> String {
    let Some(error) = ResponseError::try_from_code(code) else {
        return "ok".to_owned();
    };
    let mut out = String::new();
    for c in error.to_string().chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    if let Some(message) = message {
        out.push(' ');
        out.push_str(message);
    }
    out
}

fn pair(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or((word, ""))
}

impl World {
    fn commit<R>(&mut self, outcome: Outcome<R>) -> R {
        let version = self.image.version() + 1;
        let (image, _) = self.image.apply(version, &outcome.records).unwrap();
        // A snapshot of any image gives that image back.
        let (again, _) = Image::default()
            .apply(version, &image.to_records())
            .unwrap();
        assert_eq!(again, image);
        for topic in image.topics() {
            self.known_ids.insert(topic.name.to_string(), topic.id);
        }
        self.image = image;
        outcome.response
    }

    fn records(&mut self, records: Vec<MetadataRecord>) -> String {
        self.commit(Outcome {
            records,
            response: (),
        });
        "ok".to_owned()
    }

    fn step(&mut self, line: &str) -> String {
        let (line, validate_only) = match line.strip_prefix("validate ") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let parts: Vec<Vec<&str>> = rest
            .split(" + ")
            .map(|part| part.split_whitespace().collect())
            .collect();
        match verb {
            "brokers" => {
                let records = brokers(parts[0][0]).into_iter().map(|id| {
                    MetadataRecord::RegisterBroker(BrokerRegistration {
                        broker_id: BrokerId(id.0),
                        broker_epoch: self.image.version() + 1,
                        listeners: BTreeMap::new(),
                        rack: None,
                        directories: Vec::new(),
                        fenced: parts[0].get(1) == Some(&"fenced"),
                    })
                });
                let records = records.collect();
                self.records(records)
            }
            "setting" => {
                for word in &parts[0] {
                    let (key, value) = pair(word);
                    let settings = &mut self.settings;
                    match key {
                        "num.partitions" => settings.num_partitions = value.parse().unwrap(),
                        "default.replication.factor" => {
                            settings.default_replication_factor = value.parse().unwrap();
                        }
                        "delete.topic.enable" => {
                            settings.delete_topic_enable = value.parse().unwrap();
                        }
                        "partitions-per-node" => {
                            settings.max_partitions_per_node = value.parse().unwrap();
                        }
                        _ => panic!("setting {key}"),
                    }
                }
                "ok".to_owned()
            }
            "create" => self.create(&parts, validate_only),
            "delete" => self.delete(&parts),
            "grow" => self.grow(&parts, validate_only),
            "alter" => self.alter(&parts, validate_only),
            "replace" => self.replace(&parts, validate_only),
            "elect" => self.elect(&parts),
            "leaderless" => {
                let (topic, partition) = parts[0][0].rsplit_once('-').unwrap();
                let change = PartitionChange {
                    topic_id: self.image.topic_id(topic).unwrap(),
                    partition: PartitionIndex(partition.parse().unwrap()),
                    replicas: None,
                    isr: Some(brokers(parts[0][1]).iter().map(|b| BrokerId(b.0)).collect()),
                    leader: Some(LeaderChange::None),
                    directories: None,
                };
                self.records(vec![MetadataRecord::PartitionChange(change)])
            }
            "topic" => match self.image.topic_by_name(parts[0][0]) {
                None => "none".to_owned(),
                Some(topic) => {
                    let partitions = topic.partitions.iter().map(|p| {
                        let replicas: Vec<String> =
                            p.replicas.iter().map(|r| r.to_string()).collect();
                        let leader = p.leader.map_or("none".to_owned(), |l| l.to_string());
                        format!("{}:{leader}:{}", replicas.join(","), p.leader_epoch)
                    });
                    partitions.collect::<Vec<_>>().join(" ")
                }
            },
            "configs" => {
                let resource = match *parts[0] {
                    ["topic", name] => ConfigResource::Topic(name.to_owned()),
                    ["broker"] => ConfigResource::BrokerDefault,
                    ["broker", id] => ConfigResource::Broker(BrokerId(id.parse().unwrap())),
                    ["group", name] => ConfigResource::Group(name.to_owned()),
                    _ => panic!("{rest}"),
                };
                let configs = self.image.configs(&resource);
                let pairs = configs.iter().map(|(key, value)| format!("{key}={value}"));
                match pairs.collect::<Vec<_>>().join(" ") {
                    none if none.is_empty() => "none".to_owned(),
                    pairs => pairs,
                }
            }
            "producer-ids" => {
                let block = self.commit(allocate_producer_ids(&self.image));
                format!("{}..{}", block.first, block.first.0 + i64::from(block.len))
            }
            "adopt" => {
                let found: Vec<FoundTopic> = parts
                    .iter()
                    .map(|words| FoundTopic {
                        name: words[0].to_owned(),
                        topic_id: TopicId(words[1].parse().unwrap()),
                        last_epochs: vec![
                            words
                                .get(3)
                                .map(|epoch| LeaderEpoch(epoch.parse().unwrap()));
                            words[2].parse().unwrap()
                        ],
                    })
                    .collect();
                let first = ProducerId(1_000_000);
                let errors = self.commit(adopt_topics(&self.image, BrokerId(1), &found, first));
                match errors.first() {
                    None => "ok".to_owned(),
                    Some(error) => error.to_string(),
                }
            }
            _ => panic!("no step {verb}"),
        }
    }

    fn create(&mut self, topics: &[Vec<&str>], validate_only: bool) -> String {
        let topics = topics.iter().map(|words| {
            let mut topic = CreatableTopic::default()
                .with_name(name(words[0]))
                .with_num_partitions(-1)
                .with_replication_factor(-1);
            for word in &words[1..] {
                match pair(word) {
                    ("partitions", n) => topic.num_partitions = n.parse().unwrap(),
                    ("factor", n) => topic.replication_factor = n.parse().unwrap(),
                    ("assign", list) => {
                        topic.assignments = list
                            .split(';')
                            .map(|one| {
                                let (partition, replicas) = one.split_once(':').unwrap();
                                CreatableReplicaAssignment::default()
                                    .with_partition_index(partition.parse().unwrap())
                                    .with_broker_ids(brokers(replicas))
                            })
                            .collect();
                    }
                    (key, value) => topic.configs.push(
                        CreatableTopicConfig::default()
                            .with_name(text(key))
                            .with_value((value != "null").then(|| text(value))),
                    ),
                }
            }
            topic
        });
        let request = CreateTopicsRequest::default()
            .with_topics(topics.collect())
            .with_validate_only(validate_only);
        let mut ids = self.ids;
        let outcome = create_topics(
            &self.image,
            &self.settings,
            &FourSettings,
            &mut || {
                let id = TopicId(ids);
                ids += 1;
                id
            },
            0,
            &request,
        );
        self.ids = ids;
        let response = self.commit(outcome);
        let replies = response.topics.iter().map(|t| {
            let reply = answer(t.error_code, t.error_message.as_ref());
            if t.error_code == 0 {
                format!(
                    "{reply} partitions={} factor={}",
                    t.num_partitions, t.replication_factor
                )
            } else {
                reply
            }
        });
        replies.collect::<Vec<_>>().join(" + ")
    }

    fn delete(&mut self, topics: &[Vec<&str>]) -> String {
        let mut request = DeleteTopicsRequest::default();
        for words in topics {
            let mut state = DeleteTopicState::default();
            for word in words {
                match pair(word) {
                    ("id", of) => {
                        let id = self.known_ids.get(of).map_or(12345, |id| id.0);
                        state.topic_id = uuid::Uuid::from_u128(id);
                    }
                    ("old", of) => request.topic_names.push(name(of)),
                    ("nothing", _) => {}
                    (of, _) => state.name = Some(name(of)),
                }
            }
            if !words[0].starts_with("old=") {
                request.topics.push(state);
            }
        }
        let response = self.commit(delete_topics(&self.image, &self.settings, &request));
        let replies = response
            .responses
            .iter()
            .map(|t| answer(t.error_code, t.error_message.as_ref()));
        replies.collect::<Vec<_>>().join(" + ")
    }

    fn grow(&mut self, topics: &[Vec<&str>], validate_only: bool) -> String {
        let topics = topics.iter().map(|words| {
            let mut topic = CreatePartitionsTopic::default()
                .with_name(name(words[0]))
                .with_count(words[1].parse().unwrap())
                .with_assignments(None);
            if let Some(("assign", list)) = words.get(2).map(|word| pair(word)) {
                let assignments = list.split(';').map(|replicas| {
                    CreatePartitionsAssignment::default().with_broker_ids(brokers(replicas))
                });
                topic.assignments = Some(assignments.collect());
            }
            topic
        });
        let request = CreatePartitionsRequest::default()
            .with_topics(topics.collect())
            .with_validate_only(validate_only);
        let response = self.commit(create_partitions(&self.image, &self.settings, 0, &request));
        let replies = response
            .results
            .iter()
            .map(|t| answer(t.error_code, t.error_message.as_ref()));
        replies.collect::<Vec<_>>().join(" + ")
    }

    fn alter(&mut self, resources: &[Vec<&str>], validate_only: bool) -> String {
        let resources = resources.iter().map(|words| {
            let (kind, name, operations) = resource(words);
            let operations = operations.iter().map(|word| {
                let (operation, rest) = word.split_once(':').unwrap();
                let (key, value) = pair(rest);
                let operation = match operation {
                    "set" => 0,
                    "delete" => 1,
                    "append" => 2,
                    "subtract" => 3,
                    _ => 9,
                };
                incremental::AlterableConfig::default()
                    .with_name(text(key))
                    .with_config_operation(operation)
                    .with_value((value != "null" && operation != 1).then(|| text(value)))
            });
            incremental::AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(operations.collect())
        });
        let request = IncrementalAlterConfigsRequest::default()
            .with_resources(resources.collect())
            .with_validate_only(validate_only);
        let outcome =
            incremental_alter_configs(&self.image, &self.settings, &FourSettings, &request);
        let response = self.commit(outcome);
        let replies = response
            .responses
            .iter()
            .map(|r| answer(r.error_code, r.error_message.as_ref()));
        replies.collect::<Vec<_>>().join(" + ")
    }

    fn replace(&mut self, resources: &[Vec<&str>], validate_only: bool) -> String {
        let resources = resources.iter().map(|words| {
            let (kind, name, pairs) = resource(words);
            let configs = pairs.iter().map(|word| {
                let (key, value) = pair(word);
                legacy::AlterableConfig::default()
                    .with_name(text(key))
                    .with_value((value != "null").then(|| text(value)))
            });
            legacy::AlterConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(text(name))
                .with_configs(configs.collect())
        });
        let request = AlterConfigsRequest::default()
            .with_resources(resources.collect())
            .with_validate_only(validate_only);
        let outcome = alter_configs(&self.image, &self.settings, &FourSettings, &request);
        let response = self.commit(outcome);
        let replies = response
            .responses
            .iter()
            .map(|r| answer(r.error_code, r.error_message.as_ref()));
        replies.collect::<Vec<_>>().join(" + ")
    }

    fn elect(&mut self, words: &[Vec<&str>]) -> String {
        let kind = match words[0][0] {
            "preferred" => 0,
            "unclean" => 1,
            _ => 5,
        };
        let topics = words[0].get(1).map(|partition| {
            let (topic, partition) = partition.rsplit_once('-').unwrap();
            vec![
                TopicPartitions::default()
                    .with_topic(name(topic))
                    .with_partitions(vec![partition.parse().unwrap()]),
            ]
        });
        let request = ElectLeadersRequest::default()
            .with_election_type(kind)
            .with_topic_partitions(topics);
        let response = self.commit(elect_leaders(&self.image, &request));
        if response.error_code != 0 {
            return answer(response.error_code, None);
        }
        let results = response.replica_election_results.iter();
        let replies = results.flat_map(|t| &t.partition_result).map(|p| {
            let reply = answer(p.error_code, p.error_message.as_ref());
            format!("{}:{reply}", p.partition_id)
        });
        match replies.collect::<Vec<_>>().join(" + ") {
            none if none.is_empty() => "none".to_owned(),
            replies => replies,
        }
    }
}

/// Kind, name and the words after them.
fn resource<'a, 'b>(words: &'b [&'a str]) -> (i8, &'a str, &'b [&'a str]) {
    let kind = match words[0] {
        "topic" => 2,
        "broker" => 4,
        "broker-logger" => 8,
        "client-metrics" => 16,
        "group" => 32,
        _ => 77,
    };
    match words[1] {
        "<default>" => (kind, "", &words[2..]),
        name => (kind, name, &words[2..]),
    }
}

#[test]
fn scenarios() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/controller");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let mut world = World::default();
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let line = line.split(" #").next().unwrap_or("").trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (step, expected) = line.split_once("->").unwrap_or((line, "ok"));
            let got = world.step(step.trim());
            let expected: Vec<&str> = expected.trim().split(" + ").collect();
            let got: Vec<&str> = got.split(" + ").collect();
            let same = expected.len() == got.len()
                && expected
                    .iter()
                    .zip(&got)
                    .all(|(expected, got)| got.starts_with(expected));
            assert!(
                same,
                "{}:{}: {step}\n  got      {got:?}\n  expected {expected:?}",
                path.display(),
                number + 1
            );
        }
    }
}
