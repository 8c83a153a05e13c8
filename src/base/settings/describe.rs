//! What DescribeConfigs says about a topic, a broker, all brokers, or a group.
//!
//! Kafka's habits are kept, odd ones included:
//! 1. A broker setting's synonyms are listed layer by layer (this broker, all brokers, the start, defaults),
//!    and within a layer in the order of the synonyms. Those before the first one of the asked name are left
//!    out: with `log.retention.hours` in the file alone, `log.retention.ms` lists nothing.
//! 2. The value shown is the parsed one (`delete, compact` becomes `delete,compact`), the value of a synonym
//!    the one that was written.
//! 3. A name whose type is unknown counts as a secret.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::{Kind, Setting, UpdateMode};
use super::layers::Source;
use super::node::NodeSettings;
use super::table::{
    GROUP_SETTINGS, SETTINGS, TOPIC_SETTINGS, broker_setting, group_setting, listener_setting,
};

/// Where a value comes from, as the wire has it (KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    DynamicTopicConfig = 1,
    DynamicBrokerConfig = 2,
    DynamicDefaultBrokerConfig = 3,
    StaticBrokerConfig = 4,
    DefaultConfig = 5,
    DynamicBrokerLoggerConfig = 6,
    ClientMetricsConfig = 7,
    GroupConfig = 8,
}

/// One setting of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None`: no value, or a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
    /// [`super::Kind`] as a number; 0 is unknown.
    pub config_type: i8,
    pub read_only: bool,
    pub is_sensitive: bool,
    /// What the value is made of, what counts first.
    pub synonyms: Vec<ConfigSynonym>,
    pub documentation: Option<&'static str>,
}

/// One layer behind a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    pub name: String,
    /// `None` for a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
}

impl ConfigEntry {
    /// Whether nobody set it: `is_default` of old versions of the wire.
    pub fn is_default(&self) -> bool {
        self.source == ConfigSource::DefaultConfig
    }

    fn new(
        name: &str,
        setting: Option<&'static Setting>,
        value: Option<String>,
        synonyms: Vec<ConfigSynonym>,
    ) -> ConfigEntry {
        let is_sensitive = setting.is_none_or(Setting::is_sensitive);
        ConfigEntry {
            name: name.to_owned(),
            value: value.filter(|_| !is_sensitive),
            source: synonyms
                .first()
                .map_or(ConfigSource::DefaultConfig, |first| first.source),
            config_type: setting.map_or(0, |setting| setting.kind as i8),
            read_only: false,
            is_sensitive,
            synonyms,
            documentation: setting.map(|setting| setting.doc),
        }
    }
}

/// All settings of a topic that sets `overrides` itself, by name. Overrides that are no topic setting are
/// left out: nothing stores them.
pub fn describe_topic(
    node: &NodeSettings,
    overrides: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    let mut entries: Vec<_> = TOPIC_SETTINGS
        .iter()
        .filter(|setting| !setting.internal || overrides.contains_key(setting.name))
        .map(|setting| describe_topic_setting(node, overrides, setting))
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn describe_topic_setting(
    node: &NodeSettings,
    overrides: &BTreeMap<String, String>,
    setting: &'static Setting,
) -> ConfigEntry {
    let mut synonyms = match setting.synonyms {
        [] => Vec::new(),
        [first, ..] => broker_synonyms(node, first),
    };
    let value = match overrides.get(setting.name) {
        Some(text) => {
            let value = setting.canonical(text);
            let own = ConfigSynonym {
                name: setting.name.to_owned(),
                value: Some(value.clone()),
                source: ConfigSource::DynamicTopicConfig,
            };
            synonyms.insert(0, own);
            Some(value)
        }
        None => value_from_node(node, setting),
    };
    ConfigEntry::new(setting.name, Some(setting), value, synonyms)
}

/// What the node's settings make of a topic setting.
fn value_from_node(node: &NodeSettings, setting: &Setting) -> Option<String> {
    let log = &node.log_defaults;
    let milliseconds = match setting.name {
        "segment.ms" => Some(log.segment_ms as i64),
        "segment.jitter.ms" => Some(log.segment_jitter_ms as i64),
        "flush.ms" => Some(log.flush_ms as i64),
        "retention.ms" => Some(log.retention_ms),
        _ => None,
    };
    if let Some(milliseconds) = milliseconds {
        return Some(milliseconds.to_string());
    }
    let text = match setting.synonyms.first() {
        Some(synonym) => node.value(synonym)?.0,
        None => setting.default?,
    };
    Some(setting.canonical(text))
}

/// All settings of this broker, by name: those of the table and those that were set under a listener's or an
/// unknown name.
pub fn describe_broker(node: &NodeSettings) -> Vec<ConfigEntry> {
    let layers = &node.layers;
    let mut names: BTreeSet<&str> = SETTINGS
        .iter()
        .filter(|setting| !setting.internal)
        .map(|setting| setting.name)
        .collect();
    names.extend(layers.fixed.keys().map(String::as_str));
    names.extend(layers.cluster.keys().map(String::as_str));
    names.extend(layers.broker.keys().map(String::as_str));
    names
        .into_iter()
        .map(|name| broker_entry(node, name, broker_synonyms(node, name)))
        .collect()
}

/// What was set at run time for all brokers, by name.
pub fn describe_cluster_default(node: &NodeSettings) -> Vec<ConfigEntry> {
    let entry = |(name, value): (&String, &String)| {
        let mut synonyms = broker_synonyms(node, name);
        synonyms.retain(|s| s.source == ConfigSource::DynamicDefaultBrokerConfig);
        let mut entry = broker_entry(node, name, synonyms);
        if !entry.is_sensitive {
            entry.value = Some(value.clone());
        }
        entry
    };
    node.layers.cluster.iter().map(entry).collect()
}

fn broker_entry(node: &NodeSettings, name: &str, synonyms: Vec<ConfigSynonym>) -> ConfigEntry {
    let setting = broker_setting(name).or_else(|| listener_setting(name));
    let value = shown_value(node, name).map(|text| match setting {
        Some(setting) => setting.canonical(text),
        None => text.to_owned(),
    });
    let mut entry = ConfigEntry::new(name, setting, value, synonyms);
    // By the name itself: what is set under a listener's name does not count as dynamic, as in Kafka.
    entry.read_only =
        broker_setting(name).is_none_or(|setting| setting.update_mode == UpdateMode::ReadOnly);
    entry
}

/// The value that counts; but of settings that say the same, those given at the start are forgotten as soon as
/// one is set at run time.
fn shown_value<'a>(node: &'a NodeSettings, name: &str) -> Option<&'a str> {
    let (value, source) = node.value(name)?;
    let is_dynamic = |name: &str| {
        node.layers.broker.contains_key(name) || node.layers.cluster.contains_key(name)
    };
    match broker_setting(name) {
        Some(setting)
            if source < Source::DynamicCluster
                && setting.synonyms.iter().any(|synonym| is_dynamic(synonym)) =>
        {
            setting.default
        }
        _ => Some(value),
    }
}

fn broker_synonyms(node: &NodeSettings, name: &str) -> Vec<ConfigSynonym> {
    let layers = &node.layers;
    let own = broker_setting(name);
    let behind_listener = listener_setting(name);
    let mut names: Vec<&str> = match own {
        Some(setting) if !setting.synonyms.is_empty() => setting.synonyms.to_vec(),
        _ => vec![name],
    };
    names.extend(behind_listener.map(|setting| setting.name));
    let is_sensitive = own.or(behind_listener).is_none_or(Setting::is_sensitive);

    let mut synonyms = Vec::new();
    let mut add = |name: &str, value: Option<&str>, source: ConfigSource| {
        if let Some(value) = value {
            synonyms.push(ConfigSynonym {
                name: name.to_owned(),
                value: (!is_sensitive).then(|| value.to_owned()),
                source,
            });
        }
    };
    for name in &names {
        let value = layers.broker.get(*name).map(String::as_str);
        add(name, value, ConfigSource::DynamicBrokerConfig);
    }
    for name in &names {
        let value = layers.cluster.get(*name).map(String::as_str);
        add(name, value, ConfigSource::DynamicDefaultBrokerConfig);
    }
    for name in &names {
        let value = layers.fixed.get(*name).map(|(text, _)| text.as_str());
        add(name, value, ConfigSource::StaticBrokerConfig);
    }
    for name in &names {
        let value = broker_setting(name).and_then(|setting| setting.default);
        add(name, value, ConfigSource::DefaultConfig);
    }
    let first = synonyms.iter().position(|synonym| synonym.name == name);
    synonyms.split_off(first.unwrap_or(synonyms.len()))
}

/// All settings of a group that sets `overrides` itself, by name.
pub fn describe_group(
    node: &NodeSettings,
    overrides: &BTreeMap<String, String>,
) -> Vec<ConfigEntry> {
    let mut names: BTreeSet<&str> = GROUP_SETTINGS.iter().map(|setting| setting.name).collect();
    names.extend(overrides.keys().map(String::as_str));
    let entry = |name: &str| {
        let setting = group_setting(name);
        let overridden = overrides.get(name).map(|text| ConfigSynonym {
            name: name.to_owned(),
            value: setting.map(|setting| setting.canonical(text)),
            source: ConfigSource::GroupConfig,
        });
        let behind = format!("group.{name}");
        let defaults = if broker_setting(&behind).is_some() {
            broker_synonyms(node, &behind)
        } else {
            let default = setting.and_then(|setting| setting.default);
            let synonym = default.map(|default| ConfigSynonym {
                name: name.to_owned(),
                value: Some(default.to_owned()),
                source: ConfigSource::DefaultConfig,
            });
            synonym.into_iter().collect()
        };
        let synonyms: Vec<_> = overridden.into_iter().chain(defaults).collect();
        let text = match overrides.get(name) {
            Some(text) => Some(text.as_str()),
            None => synonyms
                .first()
                .and_then(|synonym| synonym.value.as_deref()),
        };
        let value = text.map(|text| match setting {
            Some(setting) => setting.canonical(text),
            None => text.to_owned(),
        });
        let source = synonyms.first().map(|synonym| synonym.source);
        let mut entry = ConfigEntry::new(name, setting, value, synonyms);
        // Only the group's own setting is its own (what stands behind it is a default to a group).
        if source != Some(ConfigSource::GroupConfig) {
            entry.source = ConfigSource::DefaultConfig;
        }
        entry
    };
    names.into_iter().map(entry).collect()
}

/// The settings of a client metrics subscription (KIP-714): what it sets itself, else Kafka's defaults.
pub fn describe_client_metrics(overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    /// Name, default, documentation.
    const SETTINGS: [(&str, &str, Kind, &str); 3] = [
        (
            "interval.ms",
            "300000",
            Kind::Int,
            "Time between two pushes of a client, in milliseconds.",
        ),
        (
            "match",
            "",
            Kind::List,
            "Which clients are meant: attribute=pattern, comma-separated.",
        ),
        (
            "metrics",
            "",
            Kind::List,
            "Prefixes of the names of the metrics that are asked for, comma-separated.",
        ),
    ];
    let entry = |(name, default, kind, doc): (&str, &str, Kind, &'static str)| {
        let own = overrides.get(name).cloned();
        let synonyms: Vec<_> = own
            .iter()
            .map(|value| ConfigSynonym {
                name: name.to_owned(),
                value: Some(value.clone()),
                source: ConfigSource::ClientMetricsConfig,
            })
            .collect();
        ConfigEntry {
            name: name.to_owned(),
            source: match own {
                Some(_) => ConfigSource::ClientMetricsConfig,
                None => ConfigSource::DefaultConfig,
            },
            value: Some(own.unwrap_or_else(|| default.to_owned())),
            config_type: kind as i8,
            read_only: false,
            is_sensitive: false,
            synonyms,
            documentation: Some(doc),
        }
    };
    SETTINGS.into_iter().map(entry).collect()
}

impl Source {
    /// In words, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::MetaProperties => "meta.properties",
            Source::File => "file",
            Source::Environment => "environment",
            Source::CommandLine => "command line",
            Source::DynamicCluster => "run time, all brokers",
            Source::DynamicBroker => "run time, this broker",
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Layers;
    use super::*;

    fn overriding(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    /// The layers of a broker that Apache Kafka 4.3.1 was asked about; the expectations are its answers.
    fn node() -> NodeSettings {
        let mut layers = Layers::default();
        for (name, value) in [
            ("node.id", "1"),
            ("broker.id", "1"),
            ("log.retention.hours", "100"),
            ("ssl.key.password", "hunter2"),
            ("listener.name.plaintext.max.connections", "5"),
        ] {
            let text = (value.to_owned(), Source::File);
            layers.fixed.insert(name.to_owned(), text);
        }
        NodeSettings::assemble(layers, "machine").unwrap()
    }

    fn changed(node: &NodeSettings) -> NodeSettings {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        node.with_dynamic(
            &map(&[
                ("log.segment.bytes", "2000000"),
                ("log.retention.ms", "777"),
            ]),
            &map(&[("log.retention.ms", "888"), ("foo.bar", "3")]),
        )
        .unwrap()
    }

    /// As `kafka-configs --describe --all` prints it.
    fn line(entries: &[ConfigEntry], name: &str) -> String {
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        let source = |source| match source {
            ConfigSource::DynamicTopicConfig => "DYNAMIC_TOPIC_CONFIG",
            ConfigSource::DynamicBrokerConfig => "DYNAMIC_BROKER_CONFIG",
            ConfigSource::DynamicDefaultBrokerConfig => "DYNAMIC_DEFAULT_BROKER_CONFIG",
            ConfigSource::StaticBrokerConfig => "STATIC_BROKER_CONFIG",
            ConfigSource::DefaultConfig => "DEFAULT_CONFIG",
            ConfigSource::ClientMetricsConfig => "CLIENT_METRICS_CONFIG",
            ConfigSource::DynamicBrokerLoggerConfig => "DYNAMIC_BROKER_LOGGER_CONFIG",
            ConfigSource::GroupConfig => "GROUP_CONFIG",
        };
        let text = |value: &Option<String>| value.clone().unwrap_or("null".to_owned());
        let synonyms: Vec<_> = entry
            .synonyms
            .iter()
            .map(|s| format!("{}:{}={}", source(s.source), s.name, text(&s.value)))
            .collect();
        format!(
            "{name}={} sensitive={} synonyms={{{}}}",
            text(&entry.value),
            entry.is_sensitive,
            synonyms.join(", ")
        )
    }

    #[test]
    fn a_topics_value_is_listed_before_the_brokers_layers() {
        let topic = describe_topic(&changed(&node()), &overriding("retention.ms", "5000"));
        assert_eq!(
            line(&topic, "retention.ms"),
            "retention.ms=5000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=5000, \
             DYNAMIC_BROKER_CONFIG:log.retention.ms=888, DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=777, \
             STATIC_BROKER_CONFIG:log.retention.hours=100, DEFAULT_CONFIG:log.retention.hours=168}"
        );
        assert_eq!(
            line(&topic, "segment.bytes"),
            "segment.bytes=2000000 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:log.segment.bytes=2000000, \
             DEFAULT_CONFIG:log.segment.bytes=1073741824}"
        );
        let first = &topic.iter().find(|e| e.name == "retention.ms").unwrap();
        assert_eq!(
            (first.source, first.is_default()),
            (ConfigSource::DynamicTopicConfig, false)
        );
    }

    #[test]
    fn synonyms_before_the_asked_name_are_left_out() {
        let topic = describe_topic(&node(), &BTreeMap::new());
        assert_eq!(
            line(&topic, "retention.ms"),
            "retention.ms=360000000 sensitive=false synonyms={}"
        );
        assert_eq!(
            line(&topic, "segment.ms"),
            "segment.ms=604800000 sensitive=false synonyms={}"
        );
        assert_eq!(
            line(&topic, "flush.ms"),
            "flush.ms=9223372036854775807 sensitive=false synonyms={}"
        );
        let broker = describe_broker(&node());
        assert_eq!(
            line(&broker, "log.retention.hours"),
            "log.retention.hours=100 sensitive=false synonyms={STATIC_BROKER_CONFIG:log.retention.hours=100, \
             DEFAULT_CONFIG:log.retention.hours=168}"
        );
        assert_eq!(
            line(&broker, "log.roll.ms"),
            "log.roll.ms=null sensitive=false synonyms={}"
        );
    }

    #[test]
    fn a_topic_shows_every_setting_but_the_internal_one() {
        let topic = describe_topic(
            &node(),
            &overriding("cleanup.policy", "delete, compact ,delete"),
        );
        assert_eq!(topic.len(), 34);
        assert_eq!(
            line(&topic, "cleanup.policy"),
            "cleanup.policy=delete,compact sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=delete,compact, \
             DEFAULT_CONFIG:log.cleanup.policy=delete}"
        );
        assert_eq!(
            line(&topic, "leader.replication.throttled.replicas"),
            "leader.replication.throttled.replicas= sensitive=false synonyms={}"
        );
        assert_eq!(
            line(&topic, "min.cleanable.dirty.ratio"),
            "min.cleanable.dirty.ratio=0.5 sensitive=false synonyms={DEFAULT_CONFIG:log.cleaner.min.cleanable.ratio=0.5}"
        );
        assert!(
            topic
                .iter()
                .any(|entry| entry.name == "min.insync.replicas")
        );
        assert!(topic.iter().all(|entry| !entry.read_only));
        let small = describe_topic(&node(), &overriding("internal.segment.bytes", "9"));
        assert_eq!(small.len(), 35);
    }

    #[test]
    fn a_broker_shows_its_layers_and_what_cannot_change() {
        let broker = describe_broker(&changed(&node()));
        assert_eq!(
            line(&broker, "log.retention.ms"),
            "log.retention.ms=888 sensitive=false synonyms={DYNAMIC_BROKER_CONFIG:log.retention.ms=888, \
             DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=777, STATIC_BROKER_CONFIG:log.retention.hours=100, \
             DEFAULT_CONFIG:log.retention.hours=168}"
        );
        assert_eq!(
            line(&broker, "log.retention.hours"),
            "log.retention.hours=168 sensitive=false synonyms={STATIC_BROKER_CONFIG:log.retention.hours=100, \
             DEFAULT_CONFIG:log.retention.hours=168}"
        );
        assert_eq!(
            line(&broker, "broker.id"),
            "broker.id=1 sensitive=false synonyms={STATIC_BROKER_CONFIG:broker.id=1, DEFAULT_CONFIG:broker.id=-1}"
        );
        assert_eq!(
            line(&broker, "node.id"),
            "node.id=1 sensitive=false synonyms={STATIC_BROKER_CONFIG:node.id=1}"
        );
        assert_eq!(
            line(&broker, "broker.rack"),
            "broker.rack=null sensitive=false synonyms={}"
        );
        let read_only = |name: &str| broker.iter().find(|e| e.name == name).unwrap().read_only;
        assert!(read_only("node.id") && !read_only("log.retention.ms"));
        assert!(broker.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn secrets_and_unknown_names_have_no_value() {
        let broker = describe_broker(&changed(&node()));
        assert_eq!(
            line(&broker, "ssl.key.password"),
            "ssl.key.password=null sensitive=true synonyms={STATIC_BROKER_CONFIG:ssl.key.password=null}"
        );
        assert_eq!(
            line(&broker, "foo.bar"),
            "foo.bar=null sensitive=true synonyms={DYNAMIC_BROKER_CONFIG:foo.bar=null}"
        );
        assert_eq!(
            broker
                .iter()
                .find(|e| e.name == "foo.bar")
                .unwrap()
                .config_type,
            0
        );
    }

    #[test]
    fn a_listeners_setting_falls_back_to_the_plain_one() {
        let broker = describe_broker(&node());
        assert_eq!(
            line(&broker, "listener.name.plaintext.max.connections"),
            "listener.name.plaintext.max.connections=5 sensitive=false \
             synonyms={STATIC_BROKER_CONFIG:listener.name.plaintext.max.connections=5, \
             DEFAULT_CONFIG:max.connections=2147483647}"
        );
    }

    #[test]
    fn the_cluster_default_shows_only_what_was_set_for_all() {
        let all = describe_cluster_default(&changed(&node()));
        assert_eq!(all.len(), 2);
        assert_eq!(
            line(&all, "log.retention.ms"),
            "log.retention.ms=777 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=777}"
        );
        assert_eq!(describe_cluster_default(&node()).len(), 0);
    }

    #[test]
    fn a_group_falls_back_to_the_brokers_setting() {
        let own = BTreeMap::from([(
            "share.isolation.level".to_owned(),
            "read_committed".to_owned(),
        )]);
        let group = describe_group(&node(), &own);
        assert_eq!(group.len(), 17);
        assert_eq!(
            line(&group, "share.isolation.level"),
            "share.isolation.level=read_committed sensitive=false synonyms={GROUP_CONFIG:share.isolation.level=read_committed, DEFAULT_CONFIG:share.isolation.level=read_uncommitted}"
        );
        assert_eq!(
            line(&group, "consumer.session.timeout.ms"),
            "consumer.session.timeout.ms=45000 sensitive=false synonyms={DEFAULT_CONFIG:group.consumer.session.timeout.ms=45000}"
        );
    }
}
