//! Settings that change while the broker runs (KIP-226).

use std::collections::BTreeMap;

use super::SettingError;
use super::kind::{Honoured, Scope, Setting, UpdateMode};
use super::layers::Layers;
use super::node::NodeSettings;
use super::table::{
    HONOURED_PER_LISTENER, broker_setting, group_setting, listener_setting, topic_setting,
};

impl NodeSettings {
    /// The settings after a change at run time: `cluster` is everything set for all brokers, `broker`
    /// everything set for this one. Earlier changes that are not in them are gone.
    ///
    /// Refuses what does not parse, what is out of range, and what contradicts something else. Whether a name
    /// may be set at all is [`validate_dynamic`]'s business: names it refuses are kept here without effect.
    pub fn with_dynamic(
        &self,
        cluster: &BTreeMap<String, String>,
        broker: &BTreeMap<String, String>,
    ) -> Result<NodeSettings, SettingError> {
        let layers = Layers {
            fixed: self.layers.fixed.clone(),
            cluster: cluster.clone(),
            broker: broker.clone(),
        };
        let new = NodeSettings::assemble(layers, "").map_err(|mut errors| errors.swap_remove(0))?;
        Ok(NodeSettings {
            // Sockets and identity stay as they were at the start.
            listeners: self.listeners.clone(),
            inter_broker_listener_name: self.inter_broker_listener_name.clone(),
            node_id: self.node_id,
            ..new
        })
    }
}

/// Whether these can be set at run time, for one broker or (`per_broker` false) for all, as Kafka decides it:
/// read-only names first, then security settings without a listener, then values, then names that need a
/// broker. Unknown names pass, as they do in Kafka (plug-ins have settings of their own).
pub fn validate_dynamic(
    configs: &BTreeMap<String, String>,
    per_broker: bool,
) -> Result<(), SettingError> {
    let named = |refused: &dyn Fn(&str) -> bool| -> Vec<String> {
        configs
            .keys()
            .filter(|name| refused(name))
            .cloned()
            .collect()
    };
    let fixed = named(&|name| {
        broker_setting(name).is_some_and(|s| s.update_mode == UpdateMode::ReadOnly)
            || FIXED_HERE.contains(&name)
    });
    if !fixed.is_empty() {
        return Err(SettingError::NotDynamic(fixed));
    }
    let bare = named(&|name| NEED_LISTENER.contains(&name));
    if !bare.is_empty() {
        return Err(SettingError::NotWithoutListener(bare));
    }
    for (name, value) in configs {
        if let Some(setting) = broker_setting(name).or_else(|| listener_setting(name)) {
            setting.parse(value)?;
            promises_nothing(setting, value)?;
        }
    }
    if !per_broker {
        let single = named(&|name| match listener_setting(name) {
            Some(setting) => !CLUSTER_WIDE_OF_LISTENER.contains(&setting.name),
            None => broker_setting(name).is_some_and(|s| s.update_mode == UpdateMode::PerBroker),
        });
        if !single.is_empty() {
            return Err(SettingError::NotClusterWide(single));
        }
    }
    Ok(())
}

/// Kafka can open and close listeners while it runs; here they are what they were at the start.
const FIXED_HERE: &[&str] = &["listeners", "listener.security.protocol.map"];

const NEED_LISTENER: &[&str] = &[
    "ssl.keystore.type",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.key",
    "ssl.keystore.certificate.chain",
    "ssl.key.password",
    "ssl.truststore.type",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.certificates",
];

const CLUSTER_WIDE_OF_LISTENER: &[&str] = &[
    "max.connections",
    "max.connection.creation.rate",
    "num.network.threads",
];

/// What cannot be stored without promising something that is not done.
fn promises_nothing(setting: &Setting, value: &str) -> Result<(), SettingError> {
    if setting.name == "cordoned.log.dirs" && !value.trim().is_empty() {
        return Err(SettingError::EmptyPromise(
            "cordoned.log.dirs is not honoured yet: new partitions would still be placed there"
                .into(),
        ));
    }
    Ok(())
}

/// One line for each of `configs` that is stored without effect, for the log. Secrets are hidden.
pub fn without_effect(scope: Scope, configs: &BTreeMap<String, String>) -> Vec<String> {
    let line = |(name, value): (&String, &String)| {
        let setting = match scope {
            Scope::Broker => broker_setting(name),
            Scope::Topic => topic_setting(name),
            Scope::Group => group_setting(name),
        };
        if scope == Scope::Broker
            && listener_setting(name).is_some_and(|s| HONOURED_PER_LISTENER.contains(&s.name))
        {
            return None;
        }
        let Some(setting) = setting else {
            return Some(format!(
                "{name} is no setting known here: stored without effect"
            ));
        };
        let value = if setting.is_sensitive() {
            "[hidden]"
        } else {
            value
        };
        match setting.honoured {
            Honoured::Yes => None,
            Honoured::NotYet => Some(format!(
                "{name}={value} is not honoured yet: stored without effect"
            )),
            Honoured::Meaningless => Some(format!(
                "{name}={value} has no meaning here: stored without effect"
            )),
        }
    };
    configs.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> NodeSettings {
        let mut layers = Layers::default();
        for (name, value) in pairs {
            let text = ((*value).to_owned(), Source::File);
            layers.fixed.insert((*name).to_owned(), text);
        }
        NodeSettings::assemble(layers, "machine").unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn the_brokers_own_run_time_value_hides_the_clusters_and_that_the_files() {
        let settings = given(&[("log.segment.bytes", "2000000")]);
        let cluster = map(&[("log.segment.bytes", "3000000"), ("max.connections", "9")]);
        let broker = map(&[("log.segment.bytes", "4000000")]);
        let all = settings.with_dynamic(&cluster, &broker).unwrap();
        assert_eq!(all.log_defaults.segment_bytes, 4_000_000);
        assert_eq!(all.max_connections, 9);
        assert_eq!(
            all.value("log.segment.bytes"),
            Some(("4000000", Source::DynamicBroker))
        );
        let fewer = all.with_dynamic(&cluster, &BTreeMap::new()).unwrap();
        assert_eq!(fewer.log_defaults.segment_bytes, 3_000_000);
        let none = fewer
            .with_dynamic(&BTreeMap::new(), &BTreeMap::new())
            .unwrap();
        assert_eq!(none.log_defaults.segment_bytes, 2_000_000);
        assert_eq!(none.listeners, settings.listeners);
    }

    #[test]
    fn what_is_read_only_keeps_the_value_of_the_start() {
        let settings = given(&[("num.partitions", "2")]);
        let changed = settings
            .with_dynamic(&map(&[("num.partitions", "3")]), &BTreeMap::new())
            .unwrap();
        assert_eq!(changed.num_partitions, 2);
    }

    #[test]
    fn a_run_time_value_that_contradicts_another_is_refused() {
        let lag = map(&[
            ("log.cleaner.min.compaction.lag.ms", "10"),
            ("log.cleaner.max.compaction.lag.ms", "5"),
        ]);
        NodeSettings::defaults()
            .with_dynamic(&lag, &BTreeMap::new())
            .unwrap_err();
    }

    #[test]
    fn read_only_settings_are_refused_at_run_time_in_kafkas_words() {
        let refused = |pairs: &[_], per_broker| {
            validate_dynamic(&map(pairs), per_broker)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&[("broker.id", "1"), ("num.partitions", "x")], true),
            "Cannot update these configs dynamically: [broker.id, num.partitions]"
        );
        assert_eq!(
            refused(&[("ssl.keystore.type", "JKS")], true),
            "These security configs can be dynamically updated only per-listener using the listener prefix: [ssl.keystore.type]"
        );
        assert_eq!(
            refused(&[("log.segment.bytes", "3")], false),
            "Invalid value 3 for configuration log.segment.bytes: Value must be at least 1048576"
        );
        assert_eq!(
            refused(&[("listener.name.a.ssl.keystore.type", "JKS")], false),
            "Cannot update these configs at default cluster level, broker id must be specified: [listener.name.a.ssl.keystore.type]"
        );
        assert_eq!(
            refused(&[("listener.name.a.max.connections", "x")], true),
            "Invalid value x for configuration max.connections: Not a number of type INT"
        );
        for (name, value, per_broker) in [
            ("log.retention.ms", "5", false),
            ("listener.name.a.max.connections", "5", false),
            ("listener.name.a.ssl.keystore.type", "JKS", true),
            ("foo.bar", "anything", false),
        ] {
            validate_dynamic(&map(&[(name, value)]), per_broker).unwrap();
        }
    }

    #[test]
    fn what_would_promise_a_placement_is_refused() {
        let cordon = |dirs| validate_dynamic(&map(&[("cordoned.log.dirs", dirs)]), true);
        assert!(matches!(cordon("/a"), Err(SettingError::EmptyPromise(_))));
        cordon("").unwrap();
    }

    #[test]
    fn what_is_stored_without_effect_is_one_line_each() {
        let broker = map(&[
            ("num.io.threads", "9"),
            ("log.local.retention.ms", "2"),
            ("foo.bar", "s"),
            ("max.connections", "1"),
        ]);
        assert_eq!(
            without_effect(Scope::Broker, &broker),
            [
                "foo.bar is no setting known here: stored without effect",
                "log.local.retention.ms=2 is not honoured yet: stored without effect",
                "num.io.threads=9 has no meaning here: stored without effect",
            ]
        );
        let topic = map(&[("local.retention.ms", "9"), ("retention.ms", "9")]);
        assert_eq!(
            without_effect(Scope::Topic, &topic),
            ["local.retention.ms=9 is not honoured yet: stored without effect"]
        );
    }
}
