//! The one table of settings, and how a name is found in it.
//!
//! Facts (names, types, defaults, ranges, update modes) are Apache Kafka 4.3's, except where a row says
//! `instead_of`; the sentences are ours. A row is found in the file of its noun.

mod cluster;
mod coordinator;
mod group;
mod log;
mod metrics;
mod network;
mod remote;
mod replication;
mod ringspun;
mod row;
mod security;
mod topic;
mod transaction;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::kind::Setting;

const BROKER_PARTS: &[&[Setting]] = &[
    ringspun::ROWS,
    cluster::ROWS,
    network::ROWS,
    log::ROWS,
    replication::ROWS,
    coordinator::ROWS,
    transaction::ROWS,
    remote::ROWS,
    security::ROWS,
    metrics::ROWS,
];

const fn total(parts: &[&[Setting]]) -> usize {
    let mut sum = 0;
    let mut part = 0;
    while part < parts.len() {
        sum += parts[part].len();
        part += 1;
    }
    sum
}

const fn concat<const N: usize>(parts: &[&[Setting]]) -> [Setting; N] {
    let mut all = [parts[0][0]; N];
    let (mut part, mut place) = (0, 0);
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() {
            all[place] = parts[part][i];
            place += 1;
            i += 1;
        }
        part += 1;
    }
    assert!(place == N);
    all
}

static BROKER: [Setting; total(BROKER_PARTS)] = concat(BROKER_PARTS);

/// Every setting of a broker.
pub static SETTINGS: &[Setting] = &BROKER;

/// Every setting of a topic.
pub static TOPIC_SETTINGS: &[Setting] = topic::ROWS;

/// Every setting of a group.
pub static GROUP_SETTINGS: &[Setting] = group::ROWS;

type Index = HashMap<&'static str, &'static Setting>;

fn index(settings: &'static [Setting]) -> Index {
    settings.iter().map(|s| (s.name, s)).collect()
}

/// The broker setting of this name.
pub fn broker_setting(name: &str) -> Option<&'static Setting> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| index(SETTINGS));
    INDEX.get(name).copied()
}

/// The topic setting of this name.
pub fn topic_setting(name: &str) -> Option<&'static Setting> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| index(TOPIC_SETTINGS));
    INDEX.get(name).copied()
}

/// The group setting of this name.
pub fn group_setting(name: &str) -> Option<&'static Setting> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| index(GROUP_SETTINGS));
    INDEX.get(name).copied()
}

/// The setting behind `listener.name.<listener>.<setting>` or `listener.name.<listener>.<mechanism>.<setting>`.
pub fn listener_setting(name: &str) -> Option<&'static Setting> {
    let (_, rest) = name.strip_prefix("listener.name.")?.split_once('.')?;
    broker_setting(rest).or_else(|| {
        let (_, rest) = rest.split_once('.')?;
        broker_setting(rest).filter(|setting| PER_MECHANISM.contains(&setting.name))
    })
}

/// What a listener can set for each SASL mechanism.
const PER_MECHANISM: &[&str] = &[
    "sasl.jaas.config",
    "sasl.login.callback.handler.class",
    "sasl.login.class",
    "sasl.server.callback.handler.class",
    "connections.max.reauth.ms",
];

/// What a listener can set for itself here (`listener.name.<listener>.<setting>`).
pub const HONOURED_PER_LISTENER: &[&str] = &["max.connections", "max.connection.creation.rate"];

/// The broker setting whose name looks most like `name`, if any comes near.
pub fn nearest(name: &str) -> Option<&'static str> {
    SETTINGS
        .iter()
        .map(|setting| {
            (
                strsim::normalized_damerau_levenshtein(name, setting.name),
                setting.name,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::super::kind::{Kind, Scope, UpdateMode};
    use super::*;

    #[test]
    fn the_table_has_every_setting_of_kafka_4_3() {
        let ours = ringspun::ROWS.len();
        // KafkaConfig and the three throttles that exist at run time only.
        assert_eq!(SETTINGS.len() - ours, 363);
        // And one of ours.
        assert_eq!(TOPIC_SETTINGS.len(), 34 + 1);
        assert_eq!(GROUP_SETTINGS.len(), 17);
        let kafkas = SETTINGS.iter().filter(|s| !s.name.starts_with("ringspun."));
        let dynamic = kafkas.filter(|s| s.update_mode != UpdateMode::ReadOnly);
        assert_eq!(dynamic.count(), 102);
    }

    #[test]
    fn names_are_unique_and_defaults_are_valid() {
        for (settings, scope) in [
            (SETTINGS, Scope::Broker),
            (TOPIC_SETTINGS, Scope::Topic),
            (GROUP_SETTINGS, Scope::Group),
        ] {
            assert_eq!(index(settings).len(), settings.len());
            for setting in settings {
                assert_eq!(setting.scope, scope, "{}", setting.name);
                assert!(setting.doc.ends_with('.'), "{}", setting.name);
                for default in [setting.default, setting.kafka_default.flatten()] {
                    if let Some(default) = default.filter(|_| setting.name != "broker.id") {
                        setting.parse(default).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn synonyms_name_broker_settings() {
        for setting in SETTINGS.iter().chain(TOPIC_SETTINGS) {
            for synonym in setting.synonyms {
                assert!(broker_setting(synonym).is_some(), "{synonym}");
            }
        }
    }

    #[test]
    fn what_is_marked_honoured_is_read() {
        use super::super::kind::Honoured;
        let node = include_str!("../node.rs");
        let log = include_str!("../log.rs");
        let groups = include_str!("../groups.rs");
        let consumer_groups = include_str!("../consumer_groups.rs");
        let honoured = |s: &&Setting| s.honoured == Honoured::Yes;
        let quoted = |name: &str| format!("\"{name}\"");
        for setting in TOPIC_SETTINGS.iter().filter(honoured) {
            assert!(log.contains(&quoted(setting.name)), "{}", setting.name);
        }
        for setting in SETTINGS.iter().filter(honoured) {
            let name = setting.name;
            let of_topics =
                |topic: &Setting| topic.honoured == Honoured::Yes && topic.synonyms.contains(&name);
            assert!(
                node.contains(&quoted(name))
                    || log.contains(&quoted(name))
                    || groups.contains(&quoted(name))
                    || consumer_groups.contains(&quoted(name))
                    || TOPIC_SETTINGS.iter().any(of_topics),
                "{name}"
            );
        }
    }

    #[test]
    fn only_passwords_are_sensitive() {
        assert!(broker_setting("ssl.key.password").unwrap().is_sensitive());
        let odd = SETTINGS
            .iter()
            .filter(|s| s.is_sensitive() != (s.kind == Kind::Password));
        assert_eq!(odd.count(), 0);
    }

    #[test]
    fn the_nearest_name_is_suggested_only_when_it_is_near() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("log.retention.hour"), Some("log.retention.hours"));
        assert_eq!(nearest("advertised.listner"), Some("advertised.listeners"));
        assert_eq!(nearest("xyzzy"), None);
    }

    #[test]
    fn a_listener_prefix_leads_to_the_setting_behind_it() {
        let found = |name| listener_setting(name).map(|s| s.name);
        assert_eq!(
            found("listener.name.external.max.connections"),
            Some("max.connections")
        );
        assert_eq!(
            found("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config"),
            Some("sasl.jaas.config")
        );
        assert_eq!(found("listener.name.external.nonsense"), None);
        assert_eq!(found("max.connections"), None);
    }
}
