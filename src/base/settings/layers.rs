//! The texts behind settings, in the order in which one hides another.

use std::collections::BTreeMap;

use super::kind::UpdateMode;
use super::table::broker_setting;
use super::value::Value;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    /// The identity that the data directories carry.
    MetaProperties,
    File,
    Environment,
    CommandLine,
    /// Set at run time for all brokers.
    DynamicCluster,
    /// Set at run time for this broker.
    DynamicBroker,
}

/// The texts behind the settings, by name.
#[derive(Clone, Default)]
pub(super) struct Layers {
    /// Given at the start.
    pub(super) fixed: BTreeMap<String, (String, Source)>,
    /// Set at run time for all brokers.
    pub(super) cluster: BTreeMap<String, String>,
    /// Set at run time for this broker.
    pub(super) broker: BTreeMap<String, String>,
}

impl std::fmt::Debug for Layers {
    /// The names alone: among the values are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers")
            .field("fixed", &self.fixed.keys())
            .field("cluster", &self.cluster.keys())
            .field("broker", &self.broker.keys())
            .finish()
    }
}

impl Layers {
    /// What somebody set, if anybody did. What is read-only has no value of the run time.
    pub(super) fn explicit(&self, name: &str) -> Option<(&str, Source)> {
        let may_change = broker_setting(name).is_none_or(|s| s.update_mode != UpdateMode::ReadOnly);
        if may_change {
            if let Some(value) = self.broker.get(name) {
                return Some((value, Source::DynamicBroker));
            }
            if let Some(value) = self.cluster.get(name) {
                return Some((value, Source::DynamicCluster));
            }
        }
        let (value, source) = self.fixed.get(name)?;
        Some((value, *source))
    }

    /// What counts.
    pub(super) fn effective(&self, name: &str) -> Option<(&str, Source)> {
        self.explicit(name)
            .or_else(|| Some((broker_setting(name)?.default?, Source::Default)))
    }

    /// What counted at the start: for settings that do not change while the broker runs.
    pub(super) fn at_start(&self, name: &str) -> Option<&str> {
        match self.fixed.get(name) {
            Some((value, _)) => Some(value.trim()),
            None => broker_setting(name)?.default,
        }
    }

    /// The number that counts for `name`, checked before; `None` without a value.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        let (text, _) = self.effective(name)?;
        broker_setting(name)?
            .parse(text)
            .ok()
            .map(|value| value.integer())
    }

    pub(super) fn u32(&self, name: &str) -> u32 {
        self.number(name).unwrap_or(0).max(0) as u32
    }

    pub(super) fn u64(&self, name: &str) -> u64 {
        self.number(name).unwrap_or(0).max(0) as u64
    }

    pub(super) fn double(&self, name: &str) -> f64 {
        let value = self
            .effective(name)
            .and_then(|(text, _)| broker_setting(name)?.parse(text).ok());
        match value {
            Some(Value::Double(value)) => value,
            _ => 0.0,
        }
    }

    pub(super) fn unless_minus_one(&self, name: &str) -> Option<u32> {
        self.number(name)
            .and_then(|number| u32::try_from(number).ok())
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        self.effective(name)
            .is_some_and(|(text, _)| text.trim().eq_ignore_ascii_case("true"))
    }
}
