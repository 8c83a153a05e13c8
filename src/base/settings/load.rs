//! From the command line, the environment and the configuration file to [`NodeSettings`].
//!
//! 1. Defaults, then the file, then the environment, then `-o`: a later one hides an earlier one.
//! 2. The environment is read as Kafka's container images read it: `KAFKA_NUM_PARTITIONS` (apache/kafka) or
//!    `KAFKA_CFG_NUM_PARTITIONS` (bitnami) is `num.partitions`; `__` stands for `_` and `___` for `-`.
//! 3. An unknown name is an error in the file and in `-o`, where somebody meant it, and a warning in the
//!    environment, where orchestrators leave `KAFKA_PORT_9092_TCP` and the like.
//! 4. A known name without effect gets a line: a warning where it would matter, a note where it would not.

use std::collections::BTreeMap;

use super::SettingError;
use super::environment;
use super::kind::{Honoured, Setting};
use super::layers::{Layers, Source};
use super::node::NodeSettings;
use super::table::{HONOURED_PER_LISTENER, broker_setting, listener_setting, nearest};
use crate::base::listeners;
use crate::base::properties;

/// What a process was given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    /// The name of the configuration file, for messages, and its text.
    pub file: Option<(&'a str, &'a str)>,
    /// All environment variables; those that are not ours are passed over.
    pub environment: &'a [(String, String)],
    /// The `key=value` of each `-o`.
    pub command_line: &'a [String],
    /// What clients are told where a listener has no host: see [`listeners::host_name`].
    pub host_name: &'a str,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: NodeSettings,
    /// The cluster id that the environment asks for (`CLUSTER_ID`, `KAFKA_KRAFT_CLUSTER_ID`), for a data
    /// directory that has none yet.
    pub cluster_id: Option<String>,
    /// One line each: what the operator should know before relying on it.
    pub warnings: Vec<String>,
    /// One line each: what was passed over because it is not needed here.
    pub notes: Vec<String>,
}

/// Reads and checks everything. Gives every error there is, so that a file is put right in one go.
pub fn load(inputs: &Inputs<'_>) -> Result<Loaded, Vec<SettingError>> {
    let mut loading = Loading::default();
    if let Some((name, text)) = inputs.file {
        loading.read_file(name, text);
    }
    let cluster_id = loading.read_environment(inputs.environment);
    for option in inputs.command_line {
        loading.read_option(option);
    }
    loading.settle_node_id();
    loading.settle_listeners();
    loading.sort_out();
    loading.check_single_node();
    match NodeSettings::assemble(loading.layers(), inputs.host_name) {
        Ok(settings) if loading.errors.is_empty() => Ok(Loaded {
            settings,
            cluster_id,
            warnings: loading.warnings,
            notes: loading.notes,
        }),
        Ok(_) => Err(loading.errors),
        Err(errors) => {
            loading.errors.extend(errors.into_iter().map(with_range));
            Err(loading.errors)
        }
    }
}

/// Kafka's words say which rule was broken; at the start there is room for all that is allowed.
fn with_range(error: SettingError) -> SettingError {
    match error {
        SettingError::Invalid { name, value, why } => {
            let allowed = broker_setting(&name).and_then(Setting::allowed);
            let why = match allowed {
                Some(allowed) => format!("{why} (allowed: {allowed})"),
                None => why,
            };
            SettingError::Invalid { name, value, why }
        }
        other => other,
    }
}

/// Settings that Kafka once had. They are passed over with a line, since they stand in many files.
const REMOVED: &[&str] = &[
    "advertised.host.name",
    "advertised.port",
    "auto.include.jmx.reporter",
    "broker.id.generation.enable",
    "control.plane.listener.name",
    "group.coordinator.new.enable",
    "host.name",
    "inter.broker.protocol.version",
    "log.message.downconversion.enable",
    "log.message.format.version",
    "log.message.timestamp.difference.max.ms",
    "offsets.commit.required.acks",
    "port",
    "quota.consumer.default",
    "quota.producer.default",
    "reserved.broker.max.id",
    "sasl.mechanism.inter.broker.protocol.enable",
];

/// Prefixes under which plug-ins of Kafka have settings of their own.
const PLUG_IN_PREFIXES: &[&str] = &[
    "config.providers.",
    "password.encoder.",
    "rlmm.config.",
    "rsm.config.",
];

#[derive(Default)]
struct Loading {
    values: BTreeMap<String, (String, Source)>,
    unknown_variables: Vec<String>,
    errors: Vec<SettingError>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl Loading {
    fn read_file(&mut self, name: &str, text: &str) {
        match properties::parse(text) {
            Ok(entries) => {
                for (key, value) in entries {
                    self.values.insert(key, (value, Source::File));
                }
            }
            Err(error) => {
                let text = format!("{name}: {error}");
                self.errors.push(SettingError::Malformed(text));
            }
        }
    }

    fn read_environment(&mut self, variables: &[(String, String)]) -> Option<String> {
        let environment = environment::read(variables, &|name| Known::of(name).is_some());
        for (name, value) in environment.values {
            self.values.insert(name, (value, Source::Environment));
        }
        self.unknown_variables = environment.unknown;
        environment.cluster_id
    }

    fn read_option(&mut self, option: &str) {
        match option.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let value = (value.trim().to_owned(), Source::CommandLine);
                self.values.insert(key.trim().to_owned(), value);
            }
            _ => self.errors.push(SettingError::Malformed(format!(
                "-o {option}: expected key=value"
            ))),
        }
    }

    /// `broker.id` is another name of `node.id`; a negative one asks for none in particular.
    fn settle_node_id(&mut self) {
        let given = |name: &str, values: &BTreeMap<String, (String, Source)>| {
            let (text, source) = values.get(name)?.clone();
            let negative = text.trim().parse::<i64>().is_ok_and(|id| id < 0);
            (!(negative && name == "broker.id")).then_some((text, source))
        };
        let node = given("node.id", &self.values);
        let broker = given("broker.id", &self.values);
        self.values.remove("broker.id");
        let chosen = match (node, broker) {
            (Some(node), Some(broker)) => {
                if node.1 == broker.1 && node.0.trim() != broker.0.trim() {
                    self.errors.push(SettingError::Conflict(format!(
                        "You must set `node.id` to the same value as `broker.id`, but they are {} and {}.",
                        node.0, broker.0
                    )));
                }
                if broker.1 > node.1 { broker } else { node }
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return,
        };
        self.values.insert("node.id".to_owned(), chosen.clone());
        self.values.insert("broker.id".to_owned(), chosen);
    }

    /// As Kafka's image does: whoever gives advertised listeners by environment, and no listeners, wants to be
    /// reached at them.
    fn settle_listeners(&mut self) {
        if self.values.contains_key("listeners") {
            return;
        }
        let Some((advertised, Source::Environment)) = self.values.get("advertised.listeners")
        else {
            return;
        };
        if let Some(text) = listeners::listeners_behind(advertised) {
            self.notes
                .push(format!("listeners={text}, from KAFKA_ADVERTISED_LISTENERS"));
            self.values
                .insert("listeners".to_owned(), (text, Source::Environment));
        }
    }

    /// Takes out what is no setting here, and says so.
    fn sort_out(&mut self) {
        let mut not_needed = Vec::new();
        let mut without_effect = Vec::new();
        let mut removed = Vec::new();
        let mut drop = Vec::new();
        for (name, (value, source)) in &self.values {
            match Known::of(name) {
                Some(Known::Setting(setting)) => {
                    if is_default(setting, value) {
                        continue;
                    }
                    match setting.honoured {
                        Honoured::Yes if name == "controller.listener.names" => {
                            not_needed.push(name.as_str());
                        }
                        Honoured::Yes => {}
                        Honoured::NotYet => {
                            self.warnings
                                .push(not_honoured(setting, name, value, *source));
                        }
                        Honoured::Meaningless if name.starts_with("controller.quorum.") => {
                            not_needed.push(name);
                        }
                        Honoured::Meaningless => without_effect.push(name.as_str()),
                    }
                }
                Some(Known::ForListener(setting))
                    if HONOURED_PER_LISTENER.contains(&setting.name) => {}
                Some(Known::ForListener(setting)) => {
                    self.warnings
                        .push(not_honoured(setting, name, value, *source));
                }
                Some(Known::ZooKeeper) => {
                    not_needed.push(name);
                    drop.push(name.clone());
                }
                Some(Known::PlugIn) => {
                    without_effect.push(name);
                    drop.push(name.clone());
                }
                Some(Known::Removed) => {
                    removed.push(name.as_str());
                    drop.push(name.clone());
                }
                None => {
                    self.errors.push(SettingError::Unknown {
                        name: name.clone(),
                        nearest: nearest(name),
                    });
                    drop.push(name.clone());
                }
            }
        }
        if !not_needed.is_empty() {
            self.notes.push(format!(
                "not needed by a single node: {}",
                not_needed.join(", ")
            ));
        }
        if !without_effect.is_empty() {
            self.notes.push(format!(
                "set, but without effect here: {}",
                without_effect.join(", ")
            ));
        }
        if !removed.is_empty() {
            self.warnings.push(format!(
                "ignored, because Kafka 4 has them no more: {}",
                removed.join(", ")
            ));
        }
        if !self.unknown_variables.is_empty() {
            self.warnings.push(format!(
                "ignored, because they name no setting: {}",
                self.unknown_variables.join(", ")
            ));
        }
        for name in drop {
            self.values.remove(&name);
        }
    }

    /// Several controllers are a cluster, of which each node would quietly become one of its own.
    fn check_single_node(&mut self) {
        for name in [
            "controller.quorum.voters",
            "controller.quorum.bootstrap.servers",
        ] {
            let Some((text, _)) = self.values.get(name) else {
                continue;
            };
            let count = text
                .split(',')
                .filter(|item| !item.trim().is_empty())
                .count();
            if count > 1 {
                self.errors.push(SettingError::invalid(
                    name,
                    text.clone(),
                    format!("these are {count} controllers, and clusters are not supported yet"),
                ));
            }
        }
    }

    fn layers(&self) -> Layers {
        Layers {
            fixed: self.values.clone(),
            ..Layers::default()
        }
    }
}

/// What a name may be.
enum Known {
    Setting(&'static Setting),
    ForListener(&'static Setting),
    ZooKeeper,
    PlugIn,
    Removed,
}

impl Known {
    fn of(name: &str) -> Option<Known> {
        if let Some(setting) = broker_setting(name) {
            return Some(Known::Setting(setting));
        }
        if let Some(setting) = listener_setting(name) {
            return Some(Known::ForListener(setting));
        }
        if name.starts_with("zookeeper.") {
            return Some(Known::ZooKeeper);
        }
        if PLUG_IN_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            return Some(Known::PlugIn);
        }
        REMOVED.contains(&name).then_some(Known::Removed)
    }
}

fn is_default(setting: &Setting, value: &str) -> bool {
    let value = setting.canonical(value);
    let same = |default: Option<&str>| default.is_some_and(|d| setting.canonical(d) == value);
    same(setting.default) || same(setting.kafka_default.flatten())
}

fn not_honoured(setting: &Setting, name: &str, value: &str, source: Source) -> String {
    let value = if setting.is_sensitive() {
        "[hidden]"
    } else {
        value
    };
    let so = match setting.name {
        "authorizer.class.name" => ": every client may do everything",
        _ => "",
    };
    format!("{name}={value} ({source}) is not honoured yet{so}")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given {
        file: &'static str,
        environment: &'static [(&'static str, &'static str)],
        options: &'static [&'static str],
    }

    const NOTHING: Given = Given {
        file: "",
        environment: &[],
        options: &[],
    };

    fn loaded(given: Given) -> Result<Loaded, Vec<String>> {
        let environment: Vec<_> = given
            .environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let options: Vec<_> = given.options.iter().map(|o| (*o).to_owned()).collect();
        load(&Inputs {
            file: Some(("server.properties", given.file)),
            environment: &environment,
            command_line: &options,
            host_name: "machine",
        })
        .map_err(|errors| errors.iter().map(SettingError::to_string).collect())
    }

    fn file(text: &'static str) -> Result<Loaded, Vec<String>> {
        loaded(Given {
            file: text,
            ..NOTHING
        })
    }

    fn environment(
        variables: &'static [(&'static str, &'static str)],
    ) -> Result<Loaded, Vec<String>> {
        loaded(Given {
            environment: variables,
            ..NOTHING
        })
    }

    fn options(options: &'static [&'static str]) -> Result<Loaded, Vec<String>> {
        loaded(Given { options, ..NOTHING })
    }

    #[test]
    fn nothing_at_all_is_fine_and_silent() {
        let loaded = file("").unwrap();
        assert_eq!((loaded.warnings.len(), loaded.notes.len()), (0, 0));
        assert_eq!(loaded.cluster_id, None);
    }

    #[test]
    fn the_command_line_hides_the_environment_and_that_the_file() {
        let all = loaded(Given {
            file: "num.partitions=2\nlog.segment.bytes=2000000\nfetch.max.bytes=5000",
            environment: &[
                ("KAFKA_NUM_PARTITIONS", "3"),
                ("KAFKA_LOG_SEGMENT_BYTES", "3000000"),
            ],
            options: &["num.partitions = 4"],
        })
        .unwrap()
        .settings;
        assert_eq!(
            all.value("num.partitions"),
            Some(("4", Source::CommandLine))
        );
        assert_eq!(
            all.value("log.segment.bytes"),
            Some(("3000000", Source::Environment))
        );
        assert_eq!(all.value("fetch.max.bytes"), Some(("5000", Source::File)));
        assert_eq!(
            all.value("log.dir"),
            Some(("./ringspun-data", Source::Default))
        );
        assert_eq!(all.num_partitions, 4);
    }

    #[test]
    fn kafkas_stock_server_properties_is_accepted() {
        let loaded = file(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
             listeners=PLAINTEXT://:9092,CONTROLLER://:9093\ninter.broker.listener.name=PLAINTEXT\n\
             advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,\
             SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL\n\
             num.network.threads=3\nnum.io.threads=8\nsocket.send.buffer.bytes=102400\n\
             socket.receive.buffer.bytes=102400\nsocket.request.max.bytes=104857600\n\
             log.dirs=/tmp/kraft-combined-logs\nnum.partitions=1\nnum.recovery.threads.per.data.dir=2\n\
             offsets.topic.replication.factor=1\nshare.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\nlog.retention.hours=168\nlog.segment.bytes=1073741824\n\
             log.retention.check.interval.ms=300000\n",
        )
        .unwrap();
        let listeners = &loaded.settings.listeners;
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].bind.to_string(), ":9092");
        assert_eq!(
            listeners[0].advertised.as_ref().unwrap().to_string(),
            "localhost:9092"
        );
        assert_eq!(loaded.settings.node_id.unwrap().0, 1);
        assert_eq!(
            loaded.notes,
            [
                "not needed by a single node: controller.listener.names, controller.quorum.bootstrap.servers"
            ]
        );
        assert_eq!(
            loaded.warnings,
            ["share.coordinator.state.topic.min.isr=1 (file) is not honoured yet"]
        );
    }

    #[test]
    fn variables_are_named_as_in_the_container_images() {
        let set = |variables| environment(variables).unwrap().settings.num_partitions;
        assert_eq!(set(&[("KAFKA_NUM_PARTITIONS", "5")]), 5);
        assert_eq!(set(&[("KAFKA_CFG_NUM_PARTITIONS", "6")]), 6);
        assert_eq!(
            set(&[
                ("KAFKA_CFG_NUM_PARTITIONS", "6"),
                ("KAFKA_NUM_PARTITIONS", "5")
            ]),
            6
        );
        assert_eq!(set(&[("NUM_PARTITIONS", "5"), ("PATH", "/bin")]), 1);
        let ours = environment(&[("KAFKA_RINGSPUN_SHARDS", "4")])
            .unwrap()
            .settings;
        assert_eq!(ours.shards, 4);
    }

    #[test]
    fn the_launchers_variables_are_passed_over_in_silence() {
        let loaded = environment(&[
            ("KAFKA_HOME", "/opt/kafka"),
            ("KAFKA_OPTS", "-Dx=y"),
            ("KAFKA_HEAP_OPTS", "-Xmx1G"),
            ("KAFKA_JVM_PERFORMANCE_OPTS", ""),
            ("KAFKA_LOG4J_OPTS", ""),
            ("KAFKA_LOG4J_ROOT_LOGLEVEL", "WARN"),
            ("KAFKA_JMX_PORT", "9999"),
            ("KAFKA_VERSION", "4.3.1"),
            ("KAFKA_ZOOKEEPER_PROTOCOL", "PLAINTEXT"),
            ("ALLOW_PLAINTEXT_LISTENER", "yes"),
        ])
        .unwrap();
        assert_eq!(
            (loaded.warnings.len(), loaded.notes.len()),
            (0, 0),
            "{loaded:?}"
        );
    }

    #[test]
    fn unknown_variables_are_one_warning_and_no_refusal() {
        let loaded = environment(&[
            ("KAFKA_SERVICE_HOST", "10.0.0.1"),
            ("KAFKA_NUM_PARTITION", "3"),
        ])
        .unwrap();
        assert_eq!(
            loaded.warnings,
            ["ignored, because they name no setting: KAFKA_NUM_PARTITION, KAFKA_SERVICE_HOST"]
        );
    }

    #[test]
    fn a_bad_value_in_the_environment_is_refused_as_anywhere() {
        let errors = environment(&[("KAFKA_NUM_PARTITIONS", "many")]).unwrap_err();
        assert_eq!(
            errors,
            [
                "Invalid value many for configuration num.partitions: Not a number of type INT (allowed: a whole number, at least 1)"
            ]
        );
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest_one() {
        let errors = loaded(Given {
            file: "num.partition=1",
            environment: &[],
            options: &["log.retention.hour=1", "xyzzy=1", "nonsense"],
        })
        .unwrap_err();
        assert_eq!(
            errors,
            [
                "-o nonsense: expected key=value",
                "unknown setting log.retention.hour: did you mean log.retention.hours?",
                "unknown setting num.partition: did you mean num.partitions?",
                "unknown setting xyzzy",
            ]
        );
    }

    #[test]
    fn what_is_not_honoured_yet_is_one_warning_each_unless_it_is_the_default() {
        let loaded = file(
            "group.share.max.size=5\nlog.cleaner.enable=true\nssl.key.password=hunter2\nauthorizer.class.name=A\n\
             listener.name.plaintext.max.connections=3\nlistener.name.plaintext.num.network.threads=3\n",
        )
        .unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "authorizer.class.name=A (file) is not honoured yet: every client may do everything",
                "group.share.max.size=5 (file) is not honoured yet",
                "listener.name.plaintext.num.network.threads=3 (file) is not honoured yet",
                "ssl.key.password=[hidden] (file) is not honoured yet",
            ]
        );
    }

    #[test]
    fn what_has_no_meaning_here_is_one_note() {
        let loaded =
            file("num.io.threads=16\nmetric.reporters=a.B\nconfig.providers.x.class=Y").unwrap();
        assert_eq!(
            loaded.notes,
            [
                "set, but without effect here: config.providers.x.class, metric.reporters, num.io.threads"
            ]
        );
        assert_eq!(loaded.warnings.len(), 0);
    }

    #[test]
    fn zookeeper_and_a_quorum_of_one_are_not_needed() {
        let loaded =
            file("zookeeper.connect=zk:2181\ncontroller.quorum.voters=1@localhost:9093").unwrap();
        assert_eq!(
            loaded.notes,
            ["not needed by a single node: controller.quorum.voters, zookeeper.connect"]
        );
        let errors = options(&["controller.quorum.voters=1@a:1,2@b:1,3@c:1"]).unwrap_err();
        assert!(errors[0].contains("these are 3 controllers, and clusters are not supported yet"));
    }

    #[test]
    fn settings_that_kafka_had_once_are_passed_over_with_a_line() {
        let loaded =
            file("inter.broker.protocol.version=2.8\nlog.message.format.version=2.8").unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "ignored, because Kafka 4 has them no more: inter.broker.protocol.version, log.message.format.version"
            ]
        );
    }

    #[test]
    fn broker_id_is_another_name_of_node_id() {
        let id = |loaded: Result<Loaded, _>| loaded.unwrap().settings.node_id.map(|id| id.0);
        assert_eq!(id(file("broker.id=3")), Some(3));
        assert_eq!(id(environment(&[("KAFKA_BROKER_ID", "4")])), Some(4));
        assert_eq!(id(file("broker.id=-1")), None);
        assert_eq!(id(file("broker.id=3\nnode.id=3")), Some(3));
        let settings = file("broker.id=3").unwrap().settings;
        assert_eq!(settings.value("node.id"), Some(("3", Source::File)));
        assert!(
            file("broker.id=3\nnode.id=4").unwrap_err()[0].contains("same value as `broker.id`")
        );
        let later = loaded(Given {
            file: "node.id=3",
            environment: &[],
            options: &["broker.id=4"],
        });
        assert_eq!(id(later), Some(4));
        assert!(file("node.id=-1").unwrap_err()[0].contains("Value must be at least 0"));
    }

    #[test]
    fn advertised_listeners_in_the_environment_open_listeners_as_in_the_image() {
        let advertised = &[("KAFKA_ADVERTISED_LISTENERS", "PLAINTEXT://kafka:9092")];
        let settings = environment(advertised).unwrap().settings;
        assert_eq!(settings.listeners[0].bind.to_string(), "0.0.0.0:9092");
        assert_eq!(
            settings.listeners[0]
                .advertised
                .as_ref()
                .unwrap()
                .to_string(),
            "kafka:9092"
        );
        let both = loaded(Given {
            file: "listeners=PLAINTEXT://127.0.0.1:7",
            environment: advertised,
            options: &[],
        });
        assert_eq!(
            both.unwrap().settings.listeners[0].bind.to_string(),
            "127.0.0.1:7"
        );
    }

    #[test]
    fn a_compose_file_with_inner_and_outer_listeners_carries_over() {
        let settings = environment(&[
            ("KAFKA_BROKER_ID", "1"),
            ("KAFKA_ZOOKEEPER_CONNECT", "zookeeper:2181"),
            ("KAFKA_LISTENERS", "INNER://:29092,OUTER://:9092"),
            (
                "KAFKA_ADVERTISED_LISTENERS",
                "INNER://kafka:29092,OUTER://localhost:9092",
            ),
            (
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
                "INNER:PLAINTEXT,OUTER:PLAINTEXT",
            ),
            ("KAFKA_INTER_BROKER_LISTENER_NAME", "INNER"),
            ("KAFKA_CFG_LOG_FLUSH_INTERVAL_MESSAGES", "1"),
        ])
        .unwrap()
        .settings;
        assert_eq!(settings.listeners.len(), 2);
        assert_eq!(settings.inter_broker_listener_name, "INNER");
        assert_eq!(settings.log_defaults.flush_messages, 1);
    }

    #[test]
    fn a_broken_file_is_refused_with_its_name_and_line() {
        assert_eq!(
            file("a=\\u12").unwrap_err(),
            ["server.properties: line 1: \\u12 is not a character"]
        );
    }
}
