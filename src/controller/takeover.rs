//! The metadata of a cluster of Apache Kafka that consisted of one broker, as ours.

use std::collections::BTreeMap;

use super::topic_name::check_topic_name;
use super::{ConfigRules, Outcome};
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, TopicId};
use crate::metadata::kraft::{Cluster, LeftBehind, Partition};
use crate::metadata::{
    ConfigResource, Configs, DirectoryId, Image, MetadataRecord, PartitionRegistration,
};

/// Kafka's numbers of config resources (`ConfigResource.Type`).
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

const TIERED: &str = "remote.storage.enable";
const RETENTION: [&str; 2] = ["retention.ms", "retention.bytes"];

/// Why a cluster cannot be taken over. Nothing is done then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeOverError {
    #[error(
        "partition {topic}-{partition} lies on brokers {replicas:?}, and only a cluster of one broker can be taken over"
    )]
    OtherBrokers {
        topic: String,
        partition: PartitionIndex,
        replicas: Vec<BrokerId>,
    },
    #[error("topic {0} keeps records in a remote tier, which is not read here")]
    Tiered(String),
    #[error("topic {topic} has {count} partitions, and not all of the numbers below that")]
    Numbers { topic: String, count: usize },
    #[error("topic {name:?}: {reason}")]
    Name { name: String, reason: String },
}

/// What was taken over, and what was not: for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    pub topics: usize,
    pub partitions: usize,
    /// Settings of topics, brokers, groups and telemetry.
    pub settings: usize,
    /// Settings that this version has not, or not with that value: `RESOURCE: KEY=VALUE: why`.
    pub refused: Vec<String>,
    /// Topics whose records the node's own `log.retention.*` deletes, by their names.
    pub follow_the_node: Vec<String>,
    /// Kind of thing that stays behind, how many, and whose, each name once.
    pub left_behind: Vec<(&'static str, usize, Vec<String>)>,
}

/// Makes the topics, settings and producer ids of `cluster` those of an empty `image`.
///
/// - `broker` leads every partition, in an epoch after that of the metadata and of `last_epoch`, the last
///   one in a partition's log.
/// - `directories` are those of this node: a partition that Kafka had placed in one of them stays assigned
///   to it.
/// - A setting that `rules` refuse, alone or together with those of its resource before it, is left out and
///   named. Settings of other brokers are none of ours.
/// - Finalized features are not taken: they say what the brokers of a cluster speak to each other.
pub fn take_over(
    image: &Image,
    rules: &dyn ConfigRules,
    broker: BrokerId,
    directories: &[DirectoryId],
    cluster: &Cluster,
    last_epoch: &dyn Fn(TopicId, PartitionIndex) -> Option<LeaderEpoch>,
) -> Result<Outcome<TakenOver>, TakeOverError> {
    let mut records = Vec::new();
    let mut taken = TakenOver::default();
    let configs: BTreeMap<(i8, &str), &Configs> = cluster
        .configs()
        .map(|(kind, name, configs)| ((kind, name), configs))
        .collect();
    for (topic_id, topic) in cluster.topics() {
        let name = &topic.name;
        check_topic_name(name).map_err(|reason| TakeOverError::Name {
            name: name.clone(),
            reason,
        })?;
        let own = configs.get(&(TOPIC, name.as_str()));
        let set = |key: &str| own.and_then(|own| own.get(key)).map(String::as_str);
        if set(TIERED) == Some("true") {
            return Err(TakeOverError::Tiered(name.clone()));
        }
        records.push(MetadataRecord::Topic {
            name: name.clone(),
            topic_id,
        });
        for (index, (number, partition)) in (0..).zip(&topic.partitions) {
            if number.0 != index {
                return Err(TakeOverError::Numbers {
                    topic: name.clone(),
                    count: topic.partitions.len(),
                });
            }
            if partition.replicas != [broker] {
                return Err(TakeOverError::OtherBrokers {
                    topic: name.clone(),
                    partition: *number,
                    replicas: partition.replicas.clone(),
                });
            }
            let last_epoch = last_epoch(topic_id, *number);
            let led = led_by(broker, directories, partition, last_epoch);
            records.push(MetadataRecord::Partition(led));
        }
        taken.topics += 1;
        taken.partitions += topic.partitions.len();
        let deletes = set("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
        if deletes && RETENTION.iter().all(|key| set(key).is_none()) {
            taken.follow_the_node.push(name.clone());
        }
    }
    for ((kind, name), own) in configs {
        let resource = match (kind, name) {
            (TOPIC, name) => ConfigResource::Topic(name.to_owned()),
            (BROKER, "") => ConfigResource::BrokerDefault,
            (BROKER, id) if *id == *broker.to_string() => ConfigResource::Broker(broker),
            (BROKER, _) => continue,
            (CLIENT_METRICS, name) => ConfigResource::ClientMetrics(name.to_owned()),
            (GROUP, name) => ConfigResource::Group(name.to_owned()),
            (kind, name) => {
                let all = own.iter().map(|(key, value)| {
                    format!("resource {name:?} of kind {kind}: {key}={value}: not known here")
                });
                taken.refused.extend(all);
                continue;
            }
        };
        if let ConfigResource::Topic(name) = &resource
            && cluster.topic_id(name).is_none()
        {
            continue;
        }
        let mut accepted = Configs::new();
        for (key, value) in own {
            let mut with = accepted.clone();
            with.insert(key.clone(), value.clone());
            match rules.check(&resource, &accepted, &with, &[key]) {
                Ok(()) => accepted = with,
                Err(refusal) => {
                    let why = refusal.message;
                    taken
                        .refused
                        .push(format!("{}: {key}={value}: {why}", shown(&resource)));
                }
            }
        }
        taken.settings += accepted.len();
        records.extend(
            accepted
                .into_iter()
                .map(|(key, value)| MetadataRecord::Config {
                    resource: resource.clone(),
                    key,
                    value: Some(value),
                }),
        );
    }
    if cluster.next_producer_id() > image.next_producer_id() {
        records.push(MetadataRecord::ProducerIds {
            next_producer_id: cluster.next_producer_id(),
        });
    }
    taken.left_behind = left_behind(cluster);
    Ok(Outcome {
        records,
        response: taken,
    })
}

fn led_by(
    broker: BrokerId,
    directories: &[DirectoryId],
    partition: &Partition,
    last_epoch: Option<LeaderEpoch>,
) -> PartitionRegistration {
    let last_epoch = last_epoch.unwrap_or_default().max(partition.leader_epoch);
    let assigned = partition
        .directories
        .first()
        .filter(|id| directories.contains(id));
    PartitionRegistration {
        topic_id: partition.topic_id,
        partition: partition.partition,
        replicas: vec![broker],
        isr: vec![broker],
        leader: Some(broker),
        leader_epoch: LeaderEpoch(last_epoch.0.max(-1).saturating_add(1)),
        partition_epoch: partition.partition_epoch.max(-1).saturating_add(1),
        directories: assigned.copied().into_iter().collect(),
    }
}

fn shown(resource: &ConfigResource) -> String {
    match resource {
        ConfigResource::Topic(name) => format!("topic {name}"),
        ConfigResource::Broker(id) => format!("broker {id}"),
        ConfigResource::BrokerDefault => "all brokers".to_owned(),
        ConfigResource::ClientMetrics(name) => format!("client metrics {name}"),
        ConfigResource::Group(name) => format!("group {name}"),
    }
}

fn left_behind(cluster: &Cluster) -> Vec<(&'static str, usize, Vec<String>)> {
    let mut kinds: BTreeMap<&'static str, (usize, Vec<String>)> = BTreeMap::new();
    for (what, whose) in cluster.left_behind() {
        let kind = match what {
            LeftBehind::Acl(_) => "ACLs",
            LeftBehind::Quota(_) => "client quotas",
            LeftBehind::Scram(..) => "SCRAM credentials",
            LeftBehind::DelegationToken(_) => "delegation tokens",
        };
        let (count, names) = kinds.entry(kind).or_default();
        *count += 1;
        if !names.contains(whose) {
            names.push(whose.clone());
        }
    }
    let kinds = kinds.into_iter();
    kinds
        .map(|(kind, (count, names))| (kind, count, names))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::ConfigRefusal;
    use crate::metadata::kraft::tests::{
        acl, config, partition, producer_ids, read, replicas, topic,
    };
    use kafka_protocol::ResponseError;

    const ID: u128 = 7 << 100;
    /// Where the partitions of the log lie that is read here.
    const DIRECTORY: DirectoryId = DirectoryId(77);

    /// Knows no setting that begins with `x`, and no two with the same value.
    struct Rules;

    impl ConfigRules for Rules {
        fn check(
            &self,
            _: &ConfigResource,
            before: &Configs,
            after: &Configs,
            changed: &[&str],
        ) -> Result<(), ConfigRefusal> {
            let key = changed[0];
            let refuse = |message| {
                let error = ResponseError::InvalidConfig;
                Err(ConfigRefusal { error, message })
            };
            if key.starts_with('x') {
                return refuse(format!("Unknown topic config name: {key}"));
            }
            match before.values().any(|value| *value == after[key]) {
                true => refuse("twice".into()),
                false => Ok(()),
            }
        }

        fn is_list(&self, _: &ConfigResource, _: &str) -> bool {
            false
        }

        fn default_value(&self, _: &ConfigResource, _: &str) -> Option<String> {
            None
        }
    }

    fn taken(records: &[Vec<u8>]) -> Result<(Image, TakenOver), TakeOverError> {
        let cluster = read(&[records]).unwrap();
        let image = Image::default();
        let last = |_, index: PartitionIndex| (index.0 == 1).then_some(LeaderEpoch(4));
        let broker = BrokerId(1);
        let outcome = take_over(&image, &Rules, broker, &[DIRECTORY], &cluster, &last)?;
        let (image, _) = image.apply(0, &outcome.records).unwrap();
        Ok((image, outcome.response))
    }

    #[test]
    fn topics_settings_and_producer_ids_become_ours() {
        let (image, taken) = taken(&[
            topic("orders", ID),
            partition(0, ID),
            partition(1, ID),
            config(2, "orders", "retention.ms", Some("5")),
            topic("plain", ID + 1),
            partition(0, ID + 1),
            config(4, "", "log.retention.ms", Some("6")),
            config(4, "1", "message.max.bytes", Some("7")),
            config(4, "2", "message.max.bytes", Some("8")),
            config(32, "g", "consumer.session.timeout.ms", Some("9")),
            producer_ids(3000),
        ])
        .unwrap();
        let orders = image.topic_by_name("orders").unwrap();
        assert_eq!(orders.id, TopicId(ID));
        let epochs: Vec<_> = orders.partitions.iter().map(|p| p.leader_epoch.0).collect();
        assert_eq!(epochs, [1, 5], "after those of the metadata and of the log");
        for partition in &orders.partitions {
            assert_eq!(partition.leader, Some(BrokerId(1)));
            assert_eq!(partition.directories, [DIRECTORY]);
        }
        assert_eq!(image.topic_configs("orders")["retention.ms"], "5");
        assert_eq!(image.broker_default_configs()["log.retention.ms"], "6");
        assert_eq!(image.broker_configs(BrokerId(1))["message.max.bytes"], "7");
        assert!(image.broker_configs(BrokerId(2)).is_empty());
        let group = image.configs(&ConfigResource::Group("g".into()));
        assert_eq!(group["consumer.session.timeout.ms"], "9");
        assert_eq!(image.next_producer_id().0, 3000);
        assert_eq!((taken.topics, taken.partitions, taken.settings), (2, 3, 4));
        assert_eq!(taken.follow_the_node, ["plain"]);
        assert!(taken.refused.is_empty() && taken.left_behind.is_empty());
    }

    #[test]
    fn what_is_not_known_here_is_left_out_and_named() {
        let (image, taken) = taken(&[
            topic("orders", ID),
            config(2, "orders", "a", Some("1")),
            config(2, "orders", "b", Some("1")),
            config(2, "orders", "x", Some("2")),
            config(8, "1", "kafka", Some("INFO")),
            acl(1),
            acl(2),
        ])
        .unwrap();
        assert_eq!(
            **image.topic_configs("orders"),
            [("a".into(), "1".into())].into()
        );
        let refused = taken.refused.join("; ");
        for text in [
            "orders: b=1: twice",
            "orders: x=2: Unknown",
            "kind 8: kafka=INFO",
        ] {
            assert!(refused.contains(text), "{refused}");
        }
        let alice = vec!["User:alice".to_owned()];
        assert_eq!(taken.left_behind, [("ACLs", 2, alice)]);
    }

    #[test]
    fn a_cluster_that_is_not_whole_here_is_refused() {
        let tiered = config(2, "t", TIERED, Some("true"));
        let made = [topic("t", ID), partition(0, ID)];
        let refused = |more: Vec<u8>| taken(&[&made[..], &[more]].concat()).unwrap_err();
        assert_eq!(refused(tiered), TakeOverError::Tiered("t".into()));
        assert!(matches!(
            refused(replicas(0, ID, &[1, 2])),
            TakeOverError::OtherBrokers { .. }
        ));
        assert!(matches!(
            refused(replicas(0, ID, &[2])),
            TakeOverError::OtherBrokers { .. }
        ));
        assert!(matches!(
            refused(partition(2, ID)),
            TakeOverError::Numbers { count: 2, .. }
        ));
        assert!(matches!(
            refused(topic("a/b", ID + 1)),
            TakeOverError::Name { .. }
        ));
    }
}
