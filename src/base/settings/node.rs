//! What one node runs with.
//!
//! A [`NodeSettings`] is made of layers of texts: defaults, what was given at the start, what was set at run
//! time for the cluster, what was set at run time for this broker; a later one hides an earlier one. It keeps
//! the layers, because DescribeConfigs shows them all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::consumer_groups::ConsumerGroupSettings;
use super::layers::{Layers, Source};
use super::table::{broker_setting, listener_setting};
use super::{GroupSettings, LogSettings, SettingError};
use crate::base::BrokerId;
use crate::base::listeners::{self, HostPort, Listener, ListenerTexts};

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

/// What an internal topic is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalTopicSettings {
    pub num_partitions: i32,
    pub replication_factor: i16,
    pub segment_bytes: u32,
    pub min_insync_replicas: Option<u32>,
}

/// What holds the connections through one listener, besides what holds those of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    pub max_connections: u32,
    /// New connections a second.
    pub max_connection_creation_rate: u32,
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
    /// Limits of each of `listeners`, in their order.
    pub listener_limits: Vec<ListenerLimits>,
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
    /// Connections the kernel may hold before they are accepted.
    pub socket_listen_backlog_size: i32,
    /// Size of a connection's buffer in the kernel; `None` leaves it to the kernel.
    pub socket_send_buffer_bytes: Option<u32>,
    pub socket_receive_buffer_bytes: Option<u32>,
    pub max_connections: u32,
    /// New connections a second to the node.
    pub max_connection_creation_rate: u32,
    /// For an address without an override.
    pub max_connections_per_ip: u32,
    /// Addresses with a limit of their own; see [`NodeSettings::max_connections_of`].
    pub max_connections_per_ip_overrides: Vec<(IpAddr, u32)>,
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
    /// `log.cleaner.enable`, and `log.cleaner.threads` above 0.
    pub log_cleaner_runs: bool,
    /// Bytes a second that the cleaners of all shards read and write.
    pub log_cleaner_io_max_bytes_per_second: f64,
    /// Bytes for the keys, over all shards.
    pub log_cleaner_dedupe_buffer_size: u64,
    /// Bytes for reads and writes, over all shards.
    pub log_cleaner_io_buffer_size: u64,
    /// Share of the memory for keys that is filled.
    pub log_cleaner_io_buffer_load_factor: f64,
    /// Milliseconds between two looks for logs to clean, when there was none.
    pub log_cleaner_backoff_ms: u64,
    /// Milliseconds from the start to the first of the periodic tasks above.
    pub log_initial_task_delay_ms: u64,
    /// What a topic runs with that sets nothing itself.
    pub log_defaults: LogSettings,
    /// Milliseconds after its last batch that a producer is remembered.
    /// What the internal topics of the coordinators are created with.
    pub offsets_topic: InternalTopicSettings,
    pub transaction_state_log: InternalTopicSettings,
    /// Codec of the coordinators' batches, by its id on the wire.
    pub offsets_topic_compression_codec: i32,
    /// How long a coordinator's record may take to be acknowledged.
    pub offsets_commit_timeout_ms: u64,
    pub producer_id_expiration_ms: u64,
    pub producer_id_expiration_check_interval_ms: u64,
    /// What group coordinators run with.
    pub groups: GroupSettings,
    /// Longest timeout a transaction may ask for.
    pub transaction_max_timeout_ms: u32,
    pub transactional_id_expiration_ms: u32,
    pub transaction_abort_timed_out_transaction_cleanup_interval_ms: u32,
    pub transaction_remove_expired_transaction_cleanup_interval_ms: u32,
    /// Whether a partition takes records only from transactions that include it.
    pub transaction_partition_verification_enable: bool,
    /// Bytes of the log of transaction state that are read at once when it is loaded.
    pub transaction_state_log_load_buffer_size: u32,
    /// How long a produce waits for the transaction before its own to complete.
    pub add_partitions_to_txn_retry_backoff_max_ms: u32,
    pub consumer_groups: ConsumerGroupSettings,

    pub cores: CoreList,
    /// Shards to run; 0 for one a core.
    pub shards: u16,
    /// Budget of the whole process in bytes; 0 for a quarter of the smaller of RAM and cgroup limit.
    pub memory_bytes: u64,
    /// Milliseconds that an incomplete request may stand still while others wait for memory.
    pub request_stall_timeout_ms: u64,
    /// Address of the HTTP server; `None` for no server.
    pub http_listener: Option<HostPort>,
    /// A level, or directives as of `RUST_LOG`.
    pub logging_level: String,
    pub logging_format: LogFormat,
    /// Whether `/metrics` has series a partition.
    pub metrics_partitions: bool,
    /// Microseconds for which a shard looks for more before it sleeps.
    pub idle_poll_us: u64,
    /// Whether the shards measure where time goes.
    pub profile_enable: bool,
    /// Limit of what moves between data directories copy, over all shards.
    pub replica_alter_log_dirs_io_max_bytes_per_second: u64,
    /// Bytes of a data directory's file system that stay free; 0 for no reserve.
    pub log_min_free_bytes: u64,
    /// Partitions this node may hold.
    pub max_partitions: u32,

    pub(super) layers: Layers,
}

impl NodeSettings {
    /// The defaults alone, for tests and tools.
    pub fn defaults() -> NodeSettings {
        match NodeSettings::assemble(Layers::default(), "localhost") {
            Ok(settings) => settings,
            Err(errors) => panic!("the defaults are valid: {errors:?}"),
        }
    }

    /// Checks each text and all of them together. Gives every error there is, not only the first.
    pub(super) fn assemble(
        layers: Layers,
        host_name: &str,
    ) -> Result<NodeSettings, Vec<SettingError>> {
        let mut errors = layers.check_each();
        if !errors.is_empty() {
            return Err(errors);
        }
        let listeners = layers.resolve_listeners(host_name);
        let log_defaults = LogSettings::of_node(&layers);
        let cores = parse_cores(layers.at_start("ringspun.cores").unwrap_or(""));
        let http = parse_http(layers.at_start("ringspun.http.listener").unwrap_or(""));
        let overrides = layers.parse_ip_overrides();
        let together = layers.check_together();
        match (listeners, log_defaults, cores, http, overrides, together) {
            (Ok(listeners), Ok(log_defaults), Ok(cores), Ok(http), Ok(overrides), Ok(())) => Ok(
                NodeSettings::typed(layers, listeners, log_defaults, cores, http, overrides),
            ),
            (listeners, log_defaults, cores, http, overrides, together) => {
                errors.extend(listeners.err());
                errors.extend(log_defaults.err());
                errors.extend(cores.err());
                errors.extend(http.err());
                errors.extend(overrides.err());
                errors.extend(together.err());
                Err(errors)
            }
        }
    }

    fn typed(
        layers: Layers,
        (listeners, inter_broker_listener_name): (Vec<Listener>, String),
        log_defaults: LogSettings,
        cores: CoreList,
        http_listener: Option<HostPort>,
        max_connections_per_ip_overrides: Vec<(IpAddr, u32)>,
    ) -> NodeSettings {
        let log_dirs = layers.log_dirs();
        let metadata_log_dir = match layers.at_start("metadata.log.dir") {
            Some(dir) => PathBuf::from(dir),
            None => log_dirs.first().cloned().unwrap_or_default(),
        };
        NodeSettings {
            node_id: layers.number("node.id").map(|id| BrokerId(id as i32)),
            broker_rack: layers.at_start("broker.rack").map(str::to_owned),
            listener_limits: layers.listener_limits(&listeners),
            listeners,
            inter_broker_listener_name,
            log_dirs,
            metadata_log_dir,
            num_partitions: layers.i32("num.partitions"),
            default_replication_factor: layers
                .i32("default.replication.factor")
                .clamp(-1, i16::MAX.into()) as i16,
            auto_create_topics_enable: layers.boolean("auto.create.topics.enable"),
            delete_topic_enable: layers.boolean("delete.topic.enable"),
            socket_request_max_bytes: layers.u32("socket.request.max.bytes"),
            socket_listen_backlog_size: layers.i32("socket.listen.backlog.size"),
            socket_send_buffer_bytes: layers.unless_minus_one("socket.send.buffer.bytes"),
            socket_receive_buffer_bytes: layers.unless_minus_one("socket.receive.buffer.bytes"),
            max_connections: layers.u32("max.connections"),
            max_connection_creation_rate: layers.u32("max.connection.creation.rate"),
            max_connections_per_ip: layers.u32("max.connections.per.ip"),
            max_connections_per_ip_overrides,
            connections_max_idle_ms: layers
                .number("connections.max.idle.ms")
                .unwrap_or(-1)
                .max(-1),
            max_request_partition_size_limit: layers.u32("max.request.partition.size.limit"),
            fetch_max_bytes: layers.u32("fetch.max.bytes"),
            max_incremental_fetch_session_cache_slots: layers
                .u32("max.incremental.fetch.session.cache.slots"),
            log_retention_check_interval_ms: layers.u64("log.retention.check.interval.ms"),
            log_flush_scheduler_interval_ms: layers.u64("log.flush.scheduler.interval.ms"),
            log_flush_offset_checkpoint_interval_ms: layers
                .u64("log.flush.offset.checkpoint.interval.ms"),
            log_flush_start_offset_checkpoint_interval_ms: layers
                .u64("log.flush.start.offset.checkpoint.interval.ms"),
            log_initial_task_delay_ms: layers.u64("log.initial.task.delay.ms"),
            log_defaults,
            offsets_topic: InternalTopicSettings {
                num_partitions: layers.i32("offsets.topic.num.partitions"),
                replication_factor: layers
                    .i32("offsets.topic.replication.factor")
                    .clamp(1, i16::MAX.into()) as i16,
                segment_bytes: layers.u32("offsets.topic.segment.bytes"),
                min_insync_replicas: None,
            },
            transaction_state_log: InternalTopicSettings {
                num_partitions: layers.i32("transaction.state.log.num.partitions"),
                replication_factor: layers
                    .i32("transaction.state.log.replication.factor")
                    .clamp(1, i16::MAX.into()) as i16,
                segment_bytes: layers.u32("transaction.state.log.segment.bytes"),
                min_insync_replicas: Some(layers.u32("transaction.state.log.min.isr")),
            },
            offsets_topic_compression_codec: layers.i32("offsets.topic.compression.codec"),
            offsets_commit_timeout_ms: layers.u64("offsets.commit.timeout.ms"),
            log_cleaner_runs: layers.boolean("log.cleaner.enable")
                && layers.u32("log.cleaner.threads") > 0,
            log_cleaner_io_max_bytes_per_second: layers
                .double("log.cleaner.io.max.bytes.per.second"),
            log_cleaner_dedupe_buffer_size: layers.u64("log.cleaner.dedupe.buffer.size"),
            log_cleaner_io_buffer_size: layers.u64("log.cleaner.io.buffer.size"),
            log_cleaner_io_buffer_load_factor: layers.double("log.cleaner.io.buffer.load.factor"),
            log_cleaner_backoff_ms: layers.u64("log.cleaner.backoff.ms"),
            producer_id_expiration_ms: layers.u64("producer.id.expiration.ms"),
            producer_id_expiration_check_interval_ms: layers
                .u64("producer.id.expiration.check.interval.ms"),
            groups: GroupSettings::of_node(&layers),
            transaction_max_timeout_ms: layers.u32("transaction.max.timeout.ms"),
            transactional_id_expiration_ms: layers.u32("transactional.id.expiration.ms"),
            transaction_abort_timed_out_transaction_cleanup_interval_ms: layers
                .u32("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
            transaction_remove_expired_transaction_cleanup_interval_ms: layers
                .u32("transaction.remove.expired.transaction.cleanup.interval.ms"),
            transaction_state_log_load_buffer_size: layers
                .u32("transaction.state.log.load.buffer.size")
                .min(super::groups::LOAD_BUFFER_BYTES_MAX),
            transaction_partition_verification_enable: layers
                .boolean("transaction.partition.verification.enable"),
            add_partitions_to_txn_retry_backoff_max_ms: layers
                .u32("add.partitions.to.txn.retry.backoff.max.ms"),
            consumer_groups: ConsumerGroupSettings::of_node(&layers),
            cores,
            shards: layers.u32("ringspun.shards") as u16,
            memory_bytes: layers.u64("ringspun.memory.bytes"),
            request_stall_timeout_ms: layers.u64("ringspun.request.stall.timeout.ms"),
            http_listener,
            logging_level: layers
                .at_start("ringspun.logging.level")
                .unwrap_or("info")
                .to_owned(),
            logging_format: match layers.at_start("ringspun.logging.format") {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
            metrics_partitions: layers.boolean("ringspun.metrics.partitions"),
            idle_poll_us: layers.u64("ringspun.idle.poll.us"),
            profile_enable: layers.boolean("ringspun.profile.enable"),
            replica_alter_log_dirs_io_max_bytes_per_second: layers
                .u64("replica.alter.log.dirs.io.max.bytes.per.second"),
            log_min_free_bytes: layers.u64("ringspun.log.min.free.bytes"),
            max_partitions: layers.u32("ringspun.max.partitions"),
            layers,
        }
    }

    /// The text that counts for a broker setting, and where it comes from. `None`: no such setting, or no value.
    pub fn value(&self, name: &str) -> Option<(&str, Source)> {
        self.layers.effective(name)
    }

    /// How many connections `address` may have.
    pub fn max_connections_of(&self, address: IpAddr) -> u32 {
        let address = address.to_canonical();
        self.max_connections_per_ip_overrides
            .iter()
            .find(|(known, _)| *known == address)
            .map_or(self.max_connections_per_ip, |(_, limit)| *limit)
    }

    /// The same with the node id that the data directories carry, or that was chosen because none was given.
    #[must_use]
    pub fn with_node_id(&self, id: BrokerId) -> NodeSettings {
        let mut settings = self.clone();
        settings.node_id = Some(id);
        for name in ["node.id", "broker.id"] {
            let text = (id.to_string(), Source::MetaProperties);
            settings.layers.fixed.entry(name.to_owned()).or_insert(text);
        }
        settings
    }
}

impl Layers {
    fn check_each(&self) -> Vec<SettingError> {
        let fixed = self.fixed.iter().map(|(name, (value, _))| (name, value));
        fixed
            .chain(&self.cluster)
            .chain(&self.broker)
            .filter_map(|(name, value)| {
                let setting = broker_setting(name).or_else(|| listener_setting(name))?;
                setting.parse(value).err()
            })
            .collect()
    }

    fn check_together(&self) -> Result<(), SettingError> {
        if self.u32("max.connections.per.ip") == 0
            && self
                .effective("max.connections.per.ip.overrides")
                .is_none_or(|(v, _)| v.is_empty())
        {
            return Err(SettingError::Conflict(
                "max.connections.per.ip can be set to zero only if max.connections.per.ip.overrides property is set."
                    .into(),
            ));
        }
        if !super::groups::rebalance_protocols(self).any(|kind| kind == "classic") {
            return Err(SettingError::Conflict(
                "Disabling the 'classic' protocol is not supported.".into(),
            ));
        }
        Ok(())
    }

    fn resolve_listeners(&self, host_name: &str) -> Result<(Vec<Listener>, String), SettingError> {
        let is_explicit = |name: &str| self.fixed.contains_key(name);
        let text = |name| self.at_start(name).unwrap_or("");
        listeners::resolve(&ListenerTexts {
            process_roles: text("process.roles"),
            listeners: text("listeners"),
            advertised_listeners: self.at_start("advertised.listeners"),
            listener_security_protocol_map: text("listener.security.protocol.map"),
            map_is_explicit: is_explicit("listener.security.protocol.map"),
            inter_broker_listener_name: self.at_start("inter.broker.listener.name"),
            security_inter_broker_protocol: text("security.inter.broker.protocol"),
            security_inter_broker_protocol_is_explicit: is_explicit(
                "security.inter.broker.protocol",
            ),
            controller_listener_names: text("controller.listener.names"),
            host_name,
        })
    }

    fn log_dirs(&self) -> Vec<PathBuf> {
        let name = match self.at_start("log.dirs") {
            Some(_) => "log.dirs",
            None => "log.dir",
        };
        let text = self.at_start(name).unwrap_or("");
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in text.split(',').map(str::trim).map(PathBuf::from) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    fn parse_ip_overrides(&self) -> Result<Vec<(IpAddr, u32)>, SettingError> {
        let name = "max.connections.per.ip.overrides";
        let text = self.effective(name).map_or("", |(text, _)| text);
        let mut overrides = Vec::new();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let parsed = item.rsplit_once(':').and_then(|(host, limit)| {
                let limit: u32 = limit.trim().parse().ok()?;
                let addresses: Vec<IpAddr> = match host.trim() {
                    "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                    host => vec![
                        host.trim_matches(['[', ']'])
                            .parse::<IpAddr>()
                            .ok()?
                            .to_canonical(),
                    ],
                };
                Some(addresses.into_iter().map(move |address| (address, limit)))
            });
            match parsed {
                Some(parsed) => overrides.extend(parsed),
                None => {
                    return Err(SettingError::invalid(
                        name,
                        item,
                        "an override is address:count; names other than localhost are not looked up",
                    ));
                }
            }
        }
        Ok(overrides)
    }

    pub(super) fn i32(&self, name: &str) -> i32 {
        self.number(name).unwrap_or(0) as i32
    }

    fn listener_limits(&self, listeners: &[Listener]) -> Vec<ListenerLimits> {
        let limit = |listener: &Listener, setting: &str| {
            let listener = listener.name.to_ascii_lowercase();
            let own = self.explicit(&format!("listener.name.{listener}.{setting}"));
            own.and_then(|(text, _)| broker_setting(setting)?.parse(text).ok())
                .and_then(|value| u32::try_from(value.integer()).ok())
                .unwrap_or(u32::MAX)
        };
        listeners
            .iter()
            .map(|listener| ListenerLimits {
                max_connections: limit(listener, "max.connections"),
                max_connection_creation_rate: limit(listener, "max.connection.creation.rate"),
            })
            .collect()
    }
}

fn parse_cores(text: &str) -> Result<CoreList, SettingError> {
    let refuse = |why: &str| Err(SettingError::invalid("ringspun.cores", text, why));
    let form = "a count (2) or a list (0,2-3; one CPU alone is 5,) of CPUs below 1024";
    let cpu = |text: &str| text.trim().parse::<u16>().ok().filter(|&cpu| cpu < 1024);
    if text.is_empty() {
        return Ok(CoreList::All);
    }
    if !text.contains([',', '-']) {
        return match cpu(text) {
            Some(count) if count > 0 => Ok(CoreList::Count(count)),
            _ => refuse(form),
        };
    }
    let mut cores = Vec::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        match (cpu(first), cpu(last)) {
            (Some(first), Some(last)) if first <= last => cores.extend(first..=last),
            _ => return refuse(form),
        }
    }
    cores.sort_unstable();
    let named = cores.len();
    cores.dedup();
    if named != cores.len() {
        return refuse("a CPU comes twice");
    }
    if cores.is_empty() {
        return refuse(form);
    }
    Ok(CoreList::These(cores))
}

fn parse_http(text: &str) -> Result<Option<HostPort>, SettingError> {
    if text.is_empty() {
        return Ok(None);
    }
    match HostPort::parse(text) {
        Some(address) => Ok(Some(address)),
        None => Err(SettingError::invalid(
            "ringspun.http.listener",
            text,
            "host:port, [ipv6]:port, :port for every interface, or empty for no server",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Result<NodeSettings, Vec<SettingError>> {
        let mut layers = Layers::default();
        for (name, value) in pairs {
            let text = ((*value).to_owned(), Source::File);
            layers.fixed.insert((*name).to_owned(), text);
        }
        NodeSettings::assemble(layers, "machine")
    }

    #[test]
    fn the_defaults_are_safe_without_configuration() {
        let settings = NodeSettings::defaults();
        assert_eq!(settings.node_id, None);
        assert_eq!(settings.listeners.len(), 1);
        assert_eq!(settings.listeners[0].bind.to_string(), "127.0.0.1:9092");
        assert_eq!(settings.log_dirs, [PathBuf::from("./ringspun-data")]);
        assert_eq!(settings.metadata_log_dir, PathBuf::from("./ringspun-data"));
        assert_eq!(
            settings.http_listener.as_ref().unwrap().to_string(),
            "127.0.0.1:9644"
        );
        assert_eq!(
            settings.value("offsets.topic.replication.factor"),
            Some(("1", Source::Default))
        );
        assert_eq!(settings.cores, CoreList::All);
        assert_eq!(settings.socket_request_max_bytes, 104_857_600);
        assert_eq!(settings.max_connections, 2_147_483_647);
        assert_eq!(settings.connections_max_idle_ms, 600_000);
    }

    #[test]
    fn classic_groups_are_always_served() {
        let of = |kinds| given(&[("group.coordinator.rebalance.protocols", kinds)]);
        assert!(NodeSettings::defaults().groups.consumer_protocol);
        assert!(!of("classic").unwrap().groups.consumer_protocol);
        assert!(of("classic, consumer").unwrap().groups.consumer_protocol);
        assert!(matches!(
            &of("consumer,streams").unwrap_err()[..],
            [SettingError::Conflict(_)]
        ));
    }

    #[test]
    fn a_logs_load_buffer_is_bounded() {
        let of = |bytes| given(&[("offsets.load.buffer.size", bytes)]).unwrap();
        assert_eq!(of("4096").groups.offsets_load_buffer_size, 4096);
        assert_eq!(of("2147483647").groups.offsets_load_buffer_size, 64 << 20);
    }

    #[test]
    fn data_directories_are_log_dirs_before_log_dir() {
        let dirs = |pairs: &[_]| given(pairs).unwrap().log_dirs;
        assert_eq!(dirs(&[("log.dir", "/a")]), [PathBuf::from("/a")]);
        assert_eq!(
            dirs(&[("log.dir", "/a"), ("log.dirs", "/b, /c,/b")]),
            [PathBuf::from("/b"), PathBuf::from("/c")]
        );
        let settings = given(&[("log.dirs", "/b"), ("metadata.log.dir", "/m")]).unwrap();
        assert_eq!(settings.metadata_log_dir, PathBuf::from("/m"));
        assert!(given(&[("log.dirs", "/a,,/b")]).is_err());
    }

    #[test]
    fn cores_are_a_count_or_a_list() {
        assert_eq!(parse_cores("2").unwrap(), CoreList::Count(2));
        assert_eq!(
            parse_cores("0,2-3").unwrap(),
            CoreList::These(vec![0, 2, 3])
        );
        assert_eq!(parse_cores("5,").unwrap(), CoreList::These(vec![5]));
        assert_eq!(parse_cores("0-1").unwrap(), CoreList::These(vec![0, 1]));
        for bad in ["0", "x", "3-1", "1,1", "-1", "0-", ",", "70000", "0-65535"] {
            parse_cores(bad).unwrap_err();
        }
    }

    #[test]
    fn the_http_server_can_be_moved_and_switched_off() {
        assert_eq!(
            given(&[("ringspun.http.listener", "")])
                .unwrap()
                .http_listener,
            None
        );
        let any = given(&[("ringspun.http.listener", ":0")])
            .unwrap()
            .http_listener
            .unwrap();
        assert_eq!((any.host.as_str(), any.port), ("", 0));
        assert!(given(&[("ringspun.http.listener", "9644")]).is_err());
    }

    #[test]
    fn every_error_is_told_at_once() {
        let errors = given(&[("num.partitions", "0"), ("log.segment.bytes", "x")]).unwrap_err();
        assert_eq!(errors.len(), 2);
    }

    #[test]
    fn an_address_can_have_a_limit_of_its_own() {
        let settings = given(&[
            ("max.connections.per.ip", "10"),
            (
                "max.connections.per.ip.overrides",
                "10.0.0.1:2, ::1:3,localhost:4",
            ),
        ])
        .unwrap();
        let limit = |ip: &str| settings.max_connections_of(ip.parse().unwrap());
        assert_eq!(limit("10.0.0.1"), 2);
        assert_eq!(limit("::ffff:10.0.0.1"), 2);
        assert_eq!(limit("::1"), 3);
        assert_eq!(limit("127.0.0.1"), 4);
        assert_eq!(limit("10.0.0.2"), 10);
        assert!(given(&[("max.connections.per.ip.overrides", "host:1")]).is_err());
        assert!(given(&[("max.connections.per.ip", "0")]).is_err());
    }

    #[test]
    fn a_node_id_from_the_disk_is_the_nodes_own() {
        let settings = NodeSettings::defaults().with_node_id(BrokerId(7));
        assert_eq!(settings.node_id, Some(BrokerId(7)));
        assert_eq!(
            settings.value("broker.id"),
            Some(("7", Source::MetaProperties))
        );
    }
}
