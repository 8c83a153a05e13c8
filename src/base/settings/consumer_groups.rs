//! What consumer groups of the new protocol run with (KIP-848).

use std::collections::BTreeMap;

use super::layers::Layers;

/// Between which kinds a group may change while it has members: `group.consumer.migration.policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    Disabled,
    Downgrade,
    Upgrade,
    Bidirectional,
}

impl MigrationPolicy {
    /// Of a checked text.
    pub(super) fn of(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "disabled" => Self::Disabled,
            "downgrade" => Self::Downgrade,
            "upgrade" => Self::Upgrade,
            _ => Self::Bidirectional,
        }
    }

    pub fn is_disabled(self) -> bool {
        self == Self::Disabled
    }

    pub fn allows_upgrade(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    pub fn allows_downgrade(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

/// Times in milliseconds; limits as least and greatest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupSettings {
    pub session_timeout_ms: i32,
    pub session_timeout_limits_ms: (i32, i32),
    pub heartbeat_interval_ms: i32,
    pub heartbeat_interval_limits_ms: (i32, i32),
    pub assignment_interval_ms: i32,
    pub assignment_interval_limits_ms: (i32, i32),
    pub max_size: u32,
    /// Names, the first being the default.
    pub assignors: Vec<String>,
    pub migration_policy: MigrationPolicy,
    pub regex_refresh_interval_ms: i32,
}

impl ConsumerGroupSettings {
    pub(super) fn of_node(layers: &Layers) -> Self {
        let text = |name| layers.effective(name).map_or("", |(text, _)| text);
        let assignors = text("group.consumer.assignors").split(',').map(str::trim);
        Self {
            session_timeout_ms: layers.i32("group.consumer.session.timeout.ms"),
            session_timeout_limits_ms: (
                layers.i32("group.consumer.min.session.timeout.ms"),
                layers.i32("group.consumer.max.session.timeout.ms"),
            ),
            heartbeat_interval_ms: layers.i32("group.consumer.heartbeat.interval.ms"),
            heartbeat_interval_limits_ms: (
                layers.i32("group.consumer.min.heartbeat.interval.ms"),
                layers.i32("group.consumer.max.heartbeat.interval.ms"),
            ),
            assignment_interval_ms: layers.i32("group.consumer.assignment.interval.ms"),
            assignment_interval_limits_ms: (
                layers.i32("group.consumer.min.assignment.interval.ms"),
                layers.i32("group.consumer.max.assignment.interval.ms"),
            ),
            max_size: layers.u32("group.consumer.max.size"),
            assignors: assignors.map(str::to_owned).collect(),
            migration_policy: MigrationPolicy::of(text("group.consumer.migration.policy")),
            regex_refresh_interval_ms: layers.i32("group.consumer.regex.refresh.interval.ms"),
        }
    }

    /// Whether a group may have these settings of its own, which are numbers. The text is Kafka's.
    pub fn check_own(&self, own: &BTreeMap<String, String>) -> Result<(), String> {
        let number = |name: &str| own.get(name)?.trim().parse::<i32>().ok();
        let within = |name: &str, value: i32, limits: (i32, i32)| {
            let (least, greatest) = limits;
            let rest = name.trim_start_matches("consumer.");
            if value < least {
                let limit = format!("group.consumer.min.{rest}");
                return Err(format!("{name} must be greater than or equal to {limit}"));
            }
            if value > greatest {
                let limit = format!("group.consumer.max.{rest}");
                return Err(format!("{name} must be less than or equal to {limit}"));
            }
            Ok(())
        };
        let name = "consumer.heartbeat.interval.ms";
        let heartbeat = number(name).unwrap_or(self.heartbeat_interval_ms);
        within(name, heartbeat, self.heartbeat_interval_limits_ms)?;
        let name = "consumer.session.timeout.ms";
        let session = number(name).unwrap_or(self.session_timeout_ms);
        within(name, session, self.session_timeout_limits_ms)?;
        let name = "consumer.assignment.interval.ms";
        if let Some(assignment) = number(name) {
            within(name, assignment, self.assignment_interval_limits_ms)?;
        }
        if session <= heartbeat {
            return Err(
                "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeSettings;
    use super::*;

    #[test]
    fn a_groups_own_settings_lie_within_the_nodes_limits() {
        let settings = NodeSettings::defaults().consumer_groups;
        let check = |pairs: &[(&str, &str)]| {
            let own = pairs
                .iter()
                .map(|(k, v)| (format!("consumer.{k}"), (*v).to_owned()));
            settings.check_own(&own.collect())
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[("session.timeout.ms", "50000")]), Ok(()));
        let refused = |pairs| check(pairs).unwrap_err();
        assert_eq!(
            refused(&[("session.timeout.ms", "1000")]),
            "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"
        );
        assert_eq!(
            refused(&[("heartbeat.interval.ms", "16000")]),
            "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms"
        );
        assert_eq!(
            refused(&[("assignment.interval.ms", "15001")]),
            "consumer.assignment.interval.ms must be less than or equal to group.consumer.max.assignment.interval.ms"
        );
        let mut settings = settings.clone();
        settings.session_timeout_limits_ms.0 = 1;
        let own = BTreeMap::from([("consumer.session.timeout.ms".to_owned(), "5000".to_owned())]);
        assert_eq!(
            settings.check_own(&own).unwrap_err(),
            "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"
        );
    }
}
