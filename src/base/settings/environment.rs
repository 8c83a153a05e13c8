//! Settings from environment variables, as Kafka's container images read them.
//!
//! 1. `KAFKA_NUM_PARTITIONS` (apache/kafka) or `KAFKA_CFG_NUM_PARTITIONS` (bitnami) is `num.partitions`; given
//!    both, bitnami's counts.
//! 2. `__` stands for `_` and `___` for `-`.
//! 3. Variables of Kafka's launcher and of the images themselves are passed over by the lists below, unless one
//!    names a setting of the table in full.

use std::collections::BTreeMap;

use super::table::broker_setting;
use crate::base::TopicId;

pub(super) struct Environment {
    /// By name of the setting.
    pub(super) values: BTreeMap<String, String>,
    /// Variables that look like a setting and are none, in order.
    pub(super) unknown: Vec<String>,
    pub(super) cluster_id: Option<String>,
}

/// Finds what is meant for us among all `variables`; `is_known` tells which names are settings in any way.
pub(super) fn read(variables: &[(String, String)], is_known: &dyn Fn(&str) -> bool) -> Environment {
    let mut environment = Environment {
        values: BTreeMap::new(),
        unknown: Vec::new(),
        cluster_id: None,
    };
    // By name, so that the outcome does not depend on the order of the environment.
    let sorted: BTreeMap<_, _> = variables.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let (bitnami, plain): (Vec<_>, Vec<_>) = sorted
        .into_iter()
        .partition(|(variable, _)| variable.starts_with("KAFKA_CFG_"));
    for (variable, value) in plain.into_iter().chain(bitnami) {
        match variable {
            "KAFKA_KRAFT_CLUSTER_ID" | "KAFKA_CLUSTER_ID" if !value.is_empty() => {
                environment.cluster_id = Some(value.clone());
            }
            // The name says too little to take just anything for it.
            "CLUSTER_ID" if TopicId::parse(value).is_some() => {
                environment.cluster_id.get_or_insert_with(|| value.clone());
            }
            _ => environment.take(variable, value, is_known),
        }
    }
    environment
}

impl Environment {
    fn take(&mut self, variable: &str, value: &str, is_known: &dyn Fn(&str) -> bool) {
        let Some(rest) = variable.strip_prefix("KAFKA_") else {
            return;
        };
        let name = name_of_variable(rest.strip_prefix("CFG_").unwrap_or(rest));
        let is_launchers = LAUNCHER.contains(&variable)
            || LAUNCHER_PREFIXES
                .iter()
                .any(|prefix| variable.starts_with(prefix));
        if is_launchers && broker_setting(&name).is_none() {
            return;
        }
        if is_known(&name) {
            self.values.insert(name, value.to_owned());
        } else {
            self.unknown.push(variable.to_owned());
        }
    }
}

/// Kafka's launcher scripts' and the images' own variables, which are no settings.
const LAUNCHER: &[&str] = &[
    "KAFKA_BASE_DIR",
    "KAFKA_CERTIFICATE_PASSWORD",
    "KAFKA_CERTS_DIR",
    "KAFKA_CLASSPATH",
    "KAFKA_CLUSTER_ID",
    "KAFKA_CONF_DIR",
    "KAFKA_CONF_FILE",
    "KAFKA_CREATE_TOPICS",
    "KAFKA_DATA_DIR",
    "KAFKA_DEBUG",
    "KAFKA_EXTRA_FLAGS",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_INITIAL_CONTROLLERS",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_MODE",
    "KAFKA_OPTS",
    "KAFKA_PID_FILE",
    "KAFKA_SKIP_KRAFT_STORAGE_INIT",
    "KAFKA_VERSION",
    "KAFKA_VOLUME_DIR",
];

/// The same, by how they begin.
const LAUNCHER_PREFIXES: &[&str] = &[
    "KAFKA_CLIENT_",
    "KAFKA_CONTROLLER_USER",
    "KAFKA_CONTROLLER_PASSWORD",
    "KAFKA_DAEMON_",
    "KAFKA_DEFAULT_",
    "KAFKA_INITSCRIPTS_",
    "KAFKA_INTER_BROKER_USER",
    "KAFKA_INTER_BROKER_PASSWORD",
    "KAFKA_JMX_",
    "KAFKA_KRAFT_",
    "KAFKA_LOG4J_",
    "KAFKA_MOUNTED_",
    "KAFKA_TLS_",
    "KAFKA_TOOLS_",
    "KAFKA_ZOOKEEPER_PROTOCOL",
    "KAFKA_ZOOKEEPER_TLS_",
    "KAFKA_ZOOKEEPER_BOOTSTRAP_",
];

/// `NUM__X___Y_Z` to `num_x-y.z`. Runs of four and more are read from the left, three at a time.
fn name_of_variable(variable: &str) -> String {
    variable
        .to_lowercase()
        .replace('_', ".")
        .replace("...", "-")
        .replace("..", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables: Vec<_> = variables
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        read(&variables, &|name| broker_setting(name).is_some())
    }

    #[test]
    fn underscores_stand_for_dots_underscores_and_hyphens() {
        assert_eq!(
            name_of_variable("LOG_RETENTION_HOURS"),
            "log.retention.hours"
        );
        assert_eq!(
            name_of_variable("LISTENER_NAME_A__B_SSL_KEY___X"),
            "listener.name.a_b.ssl.key-x"
        );
    }

    #[test]
    fn a_setting_that_begins_like_the_launchers_variables_is_a_setting() {
        let found = environment(&[
            ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@a:1"),
            ("KAFKA_CLIENT_QUOTA_CALLBACK_CLASS", "a.B"),
        ]);
        assert_eq!(found.values.len(), 2);
        assert!(found.unknown.is_empty());
    }

    #[test]
    fn the_cluster_id_comes_from_the_environment() {
        let id = |variables: &[_]| environment(variables).cluster_id;
        let text = "5L6g3nShT-eMCtK--X86sw";
        assert_eq!(
            id(&[("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw")]).as_deref(),
            Some(text)
        );
        assert_eq!(id(&[("CLUSTER_ID", "prod-eu")]), None);
        assert_eq!(
            id(&[("KAFKA_KRAFT_CLUSTER_ID", "mine")]).as_deref(),
            Some("mine")
        );
    }
}
