//! What can be wrong with a setting.

use std::fmt;

/// Why a setting, or a set of them, is refused. The text names the key, the value and what is allowed, in
/// Kafka's words where Kafka has some.
///
/// On the wire Kafka answers INVALID_CONFIG for topics and groups and INVALID_REQUEST for brokers, whatever is
/// wrong; [`SettingError::EmptyPromise`] is INVALID_CONFIG for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// No setting of this name exists; `nearest` is the known name that looks most like it.
    Unknown {
        name: String,
        nearest: Option<&'static str>,
    },
    /// A topic has no setting of this name.
    UnknownTopicConfig { name: String },
    /// The value does not parse or is out of range; `why` says what is allowed.
    Invalid {
        name: String,
        value: String,
        why: String,
    },
    /// Each value is fine by itself, but not beside the others.
    Conflict(String),
    /// These can only be set before the start, not while the broker runs.
    NotDynamic(Vec<String>),
    /// These can be set for one broker, not for all of them at once.
    NotClusterWide(Vec<String>),
    /// These can be set at run time only for one listener, under `listener.name.<name>.`.
    NotWithoutListener(Vec<String>),
    /// It would promise something that is not done here, such as a remote copy.
    EmptyPromise(String),
    /// The line of a properties file, or of an `-o`, is not a setting at all.
    Malformed(String),
}

impl SettingError {
    pub(crate) fn invalid(
        name: impl Into<String>,
        value: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        SettingError::Invalid {
            name: name.into(),
            value: value.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingError::Unknown {
                name,
                nearest: Some(nearest),
            } => write!(f, "unknown setting {name}: did you mean {nearest}?"),
            SettingError::Unknown {
                name,
                nearest: None,
            } => write!(f, "unknown setting {name}"),
            SettingError::UnknownTopicConfig { name } => {
                write!(f, "Unknown topic config name: {name}")
            }
            SettingError::Invalid { name, value, why } => {
                write!(f, "Invalid value {value} for configuration {name}: {why}")
            }
            SettingError::Conflict(text)
            | SettingError::EmptyPromise(text)
            | SettingError::Malformed(text) => f.write_str(text),
            SettingError::NotDynamic(names) => write!(
                f,
                "Cannot update these configs dynamically: [{}]",
                names.join(", ")
            ),
            SettingError::NotClusterWide(names) => write!(
                f,
                "Cannot update these configs at default cluster level, broker id must be specified: [{}]",
                names.join(", ")
            ),
            SettingError::NotWithoutListener(names) => write!(
                f,
                "These security configs can be dynamically updated only per-listener using the listener prefix: [{}]",
                names.join(", ")
            ),
        }
    }
}

impl std::error::Error for SettingError {}
