//! Settings: one table with everything Kafka 4.3 knows and everything that is ours, and what is made of it.
//!
//! ```text
//! table/   SETTINGS, TOPIC_SETTINGS, GROUP_SETTINGS: name, type, default, range, what it is for, whether it is honoured
//! load     defaults < file < environment < command line  ->  Loaded { settings, warnings, notes }
//! dynamic  what may change while the broker runs, and what it changes
//! layers   the texts, and which of them counts
//! node     NodeSettings: what one node runs with, typed; a new one for each change at run time
//! log      LogSettings: what one topic runs with: its own values over the node's
//! describe entries for DescribeConfigs, `--print-config`, the README's list
//! ```
//!
//! Nothing here prints, reads a file or looks up a name: everything comes in as data and goes out as data.
//! A new setting is a row in a table file and, if it is honoured, a field in [`NodeSettings`] or
//! [`LogSettings`].

mod consumer_groups;
mod describe;
mod dynamic;
mod environment;
mod error;
mod groups;
mod kind;
mod layers;
mod list;
mod load;
mod log;
mod node;
mod render;
mod table;
mod value;

pub use consumer_groups::{ConsumerGroupSettings, MigrationPolicy};
pub use describe::{
    ConfigEntry, ConfigSource, ConfigSynonym, describe_broker, describe_client_metrics,
    describe_cluster_default, describe_group, describe_topic,
};
pub use dynamic::{validate_dynamic, without_effect};
pub use error::SettingError;
pub use groups::GroupSettings;
pub use kind::{Honoured, Importance, Kind, Range, Scope, Setting, Unit, UpdateMode};
pub use layers::Source;
pub use list::{append_to_list, subtract_from_list};
pub use load::{Inputs, Loaded, load};
pub use log::{
    CleanupPolicy, CompressionType, LogIo, LogSettings, TimestampType, validate_topic_config,
};
pub use node::{CoreList, InternalTopicSettings, ListenerLimits, LogFormat, NodeSettings};
pub use render::{markdown, print_config};
pub use table::{
    GROUP_SETTINGS, SETTINGS, TOPIC_SETTINGS, broker_setting, group_setting, listener_setting,
    nearest, topic_setting,
};
pub use value::Value;
