//! What one node runs with.

use std::path::PathBuf;

use super::CleanupPolicy;
use crate::base::BrokerId;
use crate::base::listeners::Listener;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    File,
    Environment,
    CommandLine,
    /// Set at run time for all brokers.
    DynamicCluster,
    /// Set at run time for this broker.
    DynamicBroker,
}

/// `ringspun.cores`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreList {
    /// Every CPU that this process may run on.
    All,
    /// The first so many of the CPUs that this process may run on.
    Count(u16),
    /// Exactly these CPUs, ascending.
    These(Vec<u16>),
}

/// `ringspun.logging.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The settings of a node: a snapshot, shared read-only as `Arc<NodeSettings>`.
///
/// Fields have Kafka's names. Limits that Kafka counts in signed numbers are unsigned here, and "no limit" is
/// the largest value, except where -1 is documented.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// `node.id`, or its alias `broker.id`. `None`: the one in `meta.properties`, else 1.
    pub node_id: Option<BrokerId>,
    /// Rack of this node, told to clients.
    pub broker_rack: Option<String>,
    /// At least one; the controller's are left out.
    pub listeners: Vec<Listener>,
    /// `inter.broker.listener.name`.
    pub inter_broker_listener_name: String,
    /// Data directories, at least one, distinct.
    pub log_dirs: Vec<PathBuf>,
    /// Where the metadata lives: the first of `log_dirs` by default.
    pub metadata_log_dir: PathBuf,

    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics_enable: bool,
    pub delete_topic_enable: bool,

    /// Largest request taken, in bytes.
    pub socket_request_max_bytes: u32,
    /// Bytes of the kernel's buffers of a connection; -1 leaves it to the kernel.
    pub socket_send_buffer_bytes: i32,
    pub socket_receive_buffer_bytes: i32,
    /// Connections the kernel may hold before they are accepted.
    pub socket_listen_backlog_size: i32,
    pub max_connections: u32,
    /// For an address without an override.
    pub max_connections_per_ip: u32,
    /// Milliseconds after which a silent connection is closed; -1 for never.
    pub connections_max_idle_ms: i64,
    /// Partitions one request may name, where the API has such a limit (KIP-966).
    pub max_request_partition_size_limit: u32,

    /// Largest answer to one fetch, in bytes, whatever the client asks for.
    pub fetch_max_bytes: u32,
    /// Fetch sessions kept, over the whole node (KIP-227).
    pub max_incremental_fetch_session_cache_slots: u32,

    /// Milliseconds between two looks for segments that may go.
    pub log_retention_check_interval_ms: u64,
    /// Milliseconds between two looks for records whose `flush.ms` has passed; `i64::MAX` for never.
    pub log_flush_scheduler_interval_ms: u64,
    /// Milliseconds between two writes of the recovery-point checkpoint.
    pub log_flush_offset_checkpoint_interval_ms: u64,
    /// Milliseconds between two writes of the log-start checkpoint.
    pub log_flush_start_offset_checkpoint_interval_ms: u64,
    /// Milliseconds from the start to the first of the periodic tasks above.
    pub log_initial_task_delay_ms: u64,
    pub log_cleanup_policy: CleanupPolicy,
    /// Milliseconds after its last batch that a producer is remembered.
    pub producer_id_expiration_ms: u64,
    pub producer_id_expiration_check_interval_ms: u64,

    pub cores: CoreList,
    /// Shards to run; 0 for one a core.
    pub shards: u16,
    /// Budget of the whole process in bytes; 0 for a quarter of the smaller of RAM and cgroup limit.
    pub memory_bytes: u64,
    /// Address of the HTTP server; `None` for no server.
    pub http_listener: Option<crate::base::listeners::HostPort>,
    /// A level, or directives as of `RUST_LOG`.
    pub logging_level: String,
    pub logging_format: LogFormat,
    /// Whether `/metrics` has series a partition.
    pub metrics_partitions: bool,
    /// Partitions this node may hold.
    pub max_partitions: u32,
}
