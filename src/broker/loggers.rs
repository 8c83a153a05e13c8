//! What is logged, by module, changed while the broker runs (broker loggers, KIP-412).
//!
//! A logger is a module (`ringspun.storage`; in `ringspun.logging.level` it is written `ringspun::storage`, but
//! Kafka's own tools take no colon in a name); `root` is everything that no other names. A logger without a level of its own has that of the nearest module above it. Nothing is
//! kept: a start begins with what `ringspun.logging.level` says.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError::{InvalidConfig, InvalidRequest};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::protocol::StrBytes;

use crate::base::BrokerId;

/// Kafka's number of the config resource.
pub const BROKER_LOGGER: i8 = 8;

/// Kafka's name of what stands above all loggers.
const ROOT: &str = "root";

/// Our modules: each is a logger from the start.
const MODULES: &[&str] = &[
    "admin",
    "base",
    "broker",
    "controller",
    "coordinator",
    "handlers",
    "metadata",
    "protocol",
    "records",
    "replication",
    "runtime",
    "security",
    "server",
    "storage",
    "transport",
];

/// Kafka's levels, and what each is in a directive. Nothing of ours is fatal and logged: a panic is always said.
const LEVELS: &[(&str, &str)] = &[
    ("OFF", "off"),
    ("FATAL", "off"),
    ("ERROR", "error"),
    ("WARN", "warn"),
    ("INFO", "info"),
    ("DEBUG", "debug"),
    ("TRACE", "trace"),
];

type Level = &'static (&'static str, &'static str);

fn level(text: &str) -> Option<Level> {
    LEVELS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text.trim()))
}

/// Puts directives into force.
pub type Apply = Box<dyn Fn(&str) -> Result<(), String>>;

/// The loggers of the process, on the control thread.
pub struct Loggers {
    levels: BTreeMap<String, Level>,
    /// Directives that are more than a module and its level, such as those of spans: kept as they are.
    others: Vec<String>,
    apply: Apply,
}

impl Loggers {
    /// `directives` are in force already.
    pub fn new(directives: &str, apply: Apply) -> Self {
        let mut levels = BTreeMap::new();
        let mut others = Vec::new();
        for directive in directives
            .split(',')
            .map(str::trim)
            .filter(|d| !d.is_empty())
        {
            let (module, text) = directive.split_once('=').unwrap_or((ROOT, directive));
            match level(text) {
                Some(level) if !module.contains(['[', '{', '"']) => {
                    levels.insert(module.to_owned(), level);
                }
                _ => others.push(directive.to_owned()),
            }
        }
        let error = &LEVELS[2];
        // What the filter takes for everything that no directive names.
        levels.entry(ROOT.to_owned()).or_insert(error);
        Self {
            levels,
            others,
            apply,
        }
    }

    /// Every logger with the level that holds for it.
    pub fn describe(&self) -> BTreeMap<String, &'static str> {
        let modules = MODULES.iter().map(|module| format!("ringspun::{module}"));
        modules
            .chain(["ringspun".to_owned()])
            .chain(self.levels.keys().cloned())
            .map(|name| {
                let level = self.effective(&name);
                (name.replace("::", "."), level)
            })
            .collect()
    }

    fn effective(&self, name: &str) -> &'static str {
        let mut at = name;
        loop {
            if let Some(level) = self.levels.get(at) {
                return level.0;
            }
            at = match at.rsplit_once("::") {
                Some((above, _)) => above,
                None if at != ROOT => ROOT,
                None => return LEVELS[2].0,
            };
        }
    }

    fn directives(&self) -> String {
        let levels = self.levels.iter().map(|(name, level)| {
            if name == ROOT {
                level.1.to_owned()
            } else {
                format!("{name}={}", level.1)
            }
        });
        let all: Vec<String> = levels.chain(self.others.iter().cloned()).collect();
        all.join(",")
    }

    /// Changes what one resource of an IncrementalAlterConfigs asks for, whole or not at all.
    pub fn alter(
        &mut self,
        broker: BrokerId,
        resource: &AlterConfigsResource,
        validate_only: bool,
    ) -> AlterConfigsResourceResponse {
        let mut reply = AlterConfigsResourceResponse::default()
            .with_error_message(None)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        match self.changed(broker, resource) {
            Ok(levels) if !validate_only => {
                let before = std::mem::replace(&mut self.levels, levels);
                match (self.apply)(&self.directives()) {
                    Ok(()) => tracing::warn!("levels of loggers are {}", self.directives()),
                    Err(why) => {
                        self.levels = before;
                        reply.error_code = InvalidConfig.code();
                        reply.error_message = Some(StrBytes::from_string(why));
                    }
                }
            }
            Ok(_) => {}
            Err((error, why)) => {
                reply.error_code = error.code();
                reply.error_message = Some(StrBytes::from_string(why));
            }
        }
        reply
    }

    fn changed(
        &self,
        broker: BrokerId,
        resource: &AlterConfigsResource,
    ) -> Result<BTreeMap<String, Level>, (kafka_protocol::ResponseError, String)> {
        let refuse = |why: String| Err((InvalidRequest, why));
        match resource.resource_name.parse::<i32>() {
            Ok(id) if id == broker.0 => {}
            Ok(id) => {
                return refuse(format!(
                    "Unexpected node id. Expected {broker}, but received {id}"
                ));
            }
            Err(_) => {
                return refuse(format!(
                    "Node id must be an integer, but it is: {}",
                    resource.resource_name.as_str()
                ));
            }
        }
        let known = self.describe();
        let mut levels = self.levels.clone();
        let mut seen = std::collections::BTreeSet::new();
        for config in &resource.configs {
            let name = config.name.as_str();
            if !seen.insert(name) {
                return refuse(format!("Error due to duplicate config keys: {name}"));
            }
            change(&known, &mut levels, config)?;
        }
        Ok(levels)
    }
}

fn change(
    known: &BTreeMap<String, &'static str>,
    levels: &mut BTreeMap<String, Level>,
    config: &AlterableConfig,
) -> Result<(), (kafka_protocol::ResponseError, String)> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let name = config.name.as_str();
    // Any module of ours is a logger, deeper ones too: they have no list.
    let exists = known.contains_key(name)
        || name.strip_prefix("ringspun.").is_some_and(|rest| {
            let path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let first = rest.split('.').next().unwrap_or_default();
            MODULES.contains(&first) && rest.chars().all(path)
        });
    let module = name.replace('.', "::");
    let operation = match config.config_operation {
        SET | DELETE if !exists => {
            return Err((InvalidConfig, format!("Logger {name} does not exist!")));
        }
        SET | DELETE => config.config_operation,
        2 | 3 => {
            let operation = ["APPEND", "SUBTRACT"][usize::from(config.config_operation == 3)];
            let why =
                format!("{operation} operation is not allowed for the BROKER_LOGGER resource");
            return Err((InvalidRequest, why));
        }
        other => {
            let why = format!(
                "Unknown operation type {other} is not allowed for the BROKER_LOGGER resource"
            );
            return Err((InvalidRequest, why));
        }
    };
    if operation == DELETE {
        if name == ROOT {
            let why = "Removing the log level of the root logger is not allowed".to_owned();
            return Err((InvalidRequest, why));
        }
        levels.remove(&module);
        return Ok(());
    }
    let Some(text) = &config.value else {
        return Err((
            InvalidRequest,
            format!("Null value not supported for : {name}"),
        ));
    };
    // Kafka takes these in capitals only, and no OFF.
    let wanted = LEVELS[1..]
        .iter()
        .find(|(level, _)| *level == text.as_str());
    let Some(wanted) = wanted else {
        return Err((
            InvalidConfig,
            format!(
                "Cannot set the log level of {name} to {} as it is not a supported log level. Valid log levels are DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
                text.as_str()
            ),
        ));
    };
    levels.insert(module, wanted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn loggers(directives: &str) -> (Loggers, Rc<RefCell<String>>) {
        let applied = Rc::new(RefCell::new(String::new()));
        let into = applied.clone();
        let apply = move |directives: &str| {
            *into.borrow_mut() = directives.to_owned();
            Ok(())
        };
        (Loggers::new(directives, Box::new(apply)), applied)
    }

    fn alter(loggers: &mut Loggers, node: &str, changes: &[(&str, i8, Option<&str>)]) -> i16 {
        let configs = changes.iter().map(|(name, operation, value)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_config_operation(*operation)
                .with_value(value.map(|v| StrBytes::from_string(v.to_owned())))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(BROKER_LOGGER)
            .with_resource_name(StrBytes::from_string(node.to_owned()))
            .with_configs(configs.collect());
        loggers.alter(BrokerId(1), &resource, false).error_code
    }

    #[test]
    fn a_logger_without_a_level_has_that_of_the_module_above() {
        let (mut loggers, applied) = loggers("warn,ringspun=info,ringspun::storage[append]=trace");
        let level = |loggers: &Loggers, name: &str| loggers.describe()[name];
        assert_eq!(level(&loggers, "root"), "WARN");
        assert_eq!(level(&loggers, "ringspun.storage"), "INFO");
        let set = [
            ("ringspun.storage", 0, Some("DEBUG")),
            ("ringspun.storage.log", 0, Some("TRACE")),
            ("root", 0, Some("ERROR")),
        ];
        assert_eq!(alter(&mut loggers, "1", &set), 0);
        assert_eq!(level(&loggers, "ringspun.storage"), "DEBUG");
        assert_eq!(level(&loggers, "ringspun.broker"), "INFO");
        assert_eq!(
            *applied.borrow(),
            "ringspun=info,ringspun::storage=debug,ringspun::storage::log=trace,error,ringspun::storage[append]=trace"
        );
        let unset = [("ringspun", 1, None), ("ringspun.storage.log", 1, None)];
        assert_eq!(alter(&mut loggers, "1", &unset), 0);
        assert_eq!(level(&loggers, "ringspun.broker"), "ERROR");
    }

    #[test]
    fn a_resource_is_changed_whole_or_not_at_all() {
        let (mut loggers, applied) = loggers("info");
        let good = ("ringspun", 0, Some("DEBUG"));
        for (bad, code) in [
            (("ringspun.nothing", 0, Some("DEBUG")), 40),
            (("ringspun.storage", 0, Some("debug")), 40),
            (("ringspun.storage", 0, Some("LOUD")), 40),
            (("ringspun.storage", 2, Some("DEBUG")), 42),
            (("ringspun.storage", 9, Some("DEBUG")), 42),
            (("ringspun.storage", 0, None), 42),
            (("ringspun", 0, Some("INFO")), 42),
            (("root", 1, None), 42),
        ] {
            assert_eq!(alter(&mut loggers, "1", &[good, bad]), code, "{bad:?}");
        }
        assert_eq!(alter(&mut loggers, "2", &[good]), 42);
        assert_eq!(alter(&mut loggers, "", &[good]), 42);
        assert_eq!(*applied.borrow(), "");
        assert_eq!(loggers.describe()["ringspun"], "INFO");
    }

    #[test]
    fn every_module_is_a_logger() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut found: Vec<String> = std::fs::read_dir(source)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, MODULES);
    }
}
