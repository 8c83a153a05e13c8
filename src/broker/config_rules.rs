//! What the table of settings knows, for the controller that decides about configs.

use std::sync::{Arc, Mutex};

use crate::base::settings::{
    Honoured, Kind, LogSettings, NodeSettings, SettingError, broker_setting, group_setting,
    topic_setting, validate_dynamic,
};
use crate::controller::{ConfigRefusal, ConfigRules};
use crate::metadata::{ConfigResource, Configs};

const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

/// The rules of this node. Shared between the threads of the control thread's runtime.
pub struct TableRules {
    settings: Mutex<Arc<NodeSettings>>,
}

impl TableRules {
    pub fn new(settings: Arc<NodeSettings>) -> Self {
        Self {
            settings: Mutex::new(settings),
        }
    }

    /// Settings that count from now on.
    pub fn set(&self, settings: Arc<NodeSettings>) {
        *self
            .settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = settings;
    }

    fn settings(&self) -> Arc<NodeSettings> {
        self.settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

impl ConfigRules for TableRules {
    fn check(
        &self,
        resource: &ConfigResource,
        _before: &Configs,
        after: &Configs,
        changed: &[&str],
    ) -> Result<(), ConfigRefusal> {
        let node = self.settings();
        let invalid = |error: SettingError| ConfigRefusal::invalid_config(error.to_string());
        match resource {
            ConfigResource::Topic(_) => {
                LogSettings::resolve(&node, after).map_err(invalid)?;
                say_not_honoured(changed, topic_setting);
                Ok(())
            }
            ConfigResource::Broker(_) | ConfigResource::BrokerDefault => {
                let per_broker = matches!(resource, ConfigResource::Broker(_));
                let changed_configs: Configs = after
                    .iter()
                    .filter(|(key, _)| changed.contains(&key.as_str()))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                // Of a broker's settings Kafka calls every mistake an invalid request.
                let invalid =
                    |error: SettingError| ConfigRefusal::invalid_request(error.to_string());
                validate_dynamic(&changed_configs, per_broker).map_err(invalid)?;
                if changed.contains(&MIN_INSYNC_REPLICAS) {
                    // One number for whoever leads, and always one (KIP-966).
                    let refused = if per_broker {
                        "cannot be set for one broker"
                    } else if !after.contains_key(MIN_INSYNC_REPLICAS) {
                        "can be changed for all brokers, and not removed"
                    } else {
                        ""
                    };
                    if !refused.is_empty() {
                        let message = format!("{MIN_INSYNC_REPLICAS} {refused}");
                        return Err(ConfigRefusal::invalid_config(message));
                    }
                }
                let none = Configs::new();
                let (cluster, broker) = if per_broker {
                    (&none, after)
                } else {
                    (after, &none)
                };
                node.with_dynamic(cluster, broker).map_err(invalid)?;
                say_not_honoured(changed, broker_setting);
                Ok(())
            }
            ConfigResource::Group(_) => {
                for key in changed {
                    let Some(setting) = group_setting(key) else {
                        return Err(ConfigRefusal::invalid_config(format!(
                            "Unknown group config name: {key}"
                        )));
                    };
                    if let Some(value) = after.get(*key) {
                        setting.parse(value).map_err(invalid)?;
                    }
                }
                let checked = node.consumer_groups.check_own(after);
                checked.map_err(ConfigRefusal::invalid_config)?;
                say_not_honoured(changed, group_setting);
                Ok(())
            }
            _ => {
                const KEYS: [&str; 3] = ["interval.ms", "metrics", "match"];
                match changed.iter().find(|key| !KEYS.contains(key)) {
                    Some(key) => Err(ConfigRefusal::invalid_request(format!(
                        "Unknown client metrics configuration: {key}"
                    ))),
                    None => Ok(()),
                }
            }
        }
    }

    fn is_list(&self, resource: &ConfigResource, key: &str) -> bool {
        setting(resource, key).is_some_and(|setting| setting.kind == Kind::List)
    }

    fn default_value(&self, resource: &ConfigResource, key: &str) -> Option<String> {
        setting(resource, key)
            .and_then(|setting| setting.default)
            .map(str::to_owned)
    }
}

fn setting(
    resource: &ConfigResource,
    key: &str,
) -> Option<&'static crate::base::settings::Setting> {
    match resource {
        ConfigResource::Topic(_) => topic_setting(key),
        ConfigResource::Broker(_) | ConfigResource::BrokerDefault => broker_setting(key),
        ConfigResource::Group(_) => group_setting(key),
        _ => None,
    }
}

/// A setting that is kept and returned, and changes nothing: said once, where it is set.
fn say_not_honoured(
    changed: &[&str],
    find: impl Fn(&str) -> Option<&'static crate::base::settings::Setting>,
) {
    for key in changed {
        if find(key).is_some_and(|setting| setting.honoured != Honoured::Yes) {
            tracing::warn!("{key} is stored, but has no effect in this version");
        }
    }
}
