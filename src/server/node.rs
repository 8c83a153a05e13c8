//! A node from its start to its stop: the control thread, and the shards it starts.
//!
//! # The start, in this order
//! 1. The listeners are bound, and what Apache Kafka left there is read, where there is no metadata of ours:
//!    nothing is touched on disk if a port is taken, or if that cannot be taken over.
//! 2. The marks of a clean stop are taken away; the executors of the shards are started; the metadata is
//!    opened; the data directories are looked through.
//! 3. A node without metadata of its own takes over what another broker left there. Only then does it
//!    register, which makes the metadata its own: a crash in between must not turn what it was about to
//!    take over into strays. Afterwards folders of unknown topics are set aside.
//! 4. The shards are told and open their partitions. When all are open, connections are accepted.
//! 5. What deleted topics have left is removed.
//!
//! # The stop
//! Connections take nothing new and finish what is in flight; logs are written, flushed and closed;
//! checkpoints are written, and last the mark of a clean stop, where every log of a node closed
//! cleanly.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::base::BrokerId;
use crate::base::counters::ShardCounters;
use crate::base::listeners::{HostPort, Listener};
use crate::base::profile::ShardProfile;
use crate::base::settings::NodeSettings;
use crate::broker::config_rules::TableRules;
use crate::broker::control::{ControlHost, controller_settings};
use crate::broker::loggers::Loggers;
use crate::broker::messages::{Checkpoint, Holdings, Reply, Request};
use crate::broker::offload::Directory;
use crate::broker::open_files::share_of;
use crate::controller::BrokerStart;
use crate::controller::quorum::{ControllerService, Quorum};
use crate::metadata::{DirectoryId, Endpoint as Advertised, Image};
use crate::runtime::allocator;
use crate::runtime::executor::{ShardOptions, spawn_shards};
use crate::runtime::mailbox::{Bounds, mailbox};
use crate::server::data;
use crate::server::data_dir::DataDirs;
use crate::server::error::StartError;
use crate::server::shard_main::{self, ShardSeed};
use crate::server::startup::{Prepared, ReadyLine};
use crate::server::takeover;
use crate::transport::{Bound, SocketOptions};

/// Requests of one endpoint that may await answers. Each connection of the node is one of the first
/// shard's, and each waiting fetch that crosses shards one of its own shard's.
const OUTSTANDING_MAX: u32 = 1 << 20;

/// How long a port may be in use at the start before that is an error.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// Why a node ended, as one line.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Quorum(#[from] crate::controller::quorum::QuorumError),
    #[error("{0}")]
    Failed(String),
}

impl From<crate::controller::quorum::StartError> for NodeError {
    fn from(error: crate::controller::quorum::StartError) -> Self {
        NodeError::Failed(error.to_string())
    }
}

/// What a node shows of itself to whoever watches it, on the control thread.
#[derive(Clone)]
pub struct NodeView {
    pub counters: Arc<[ShardCounters]>,
    host: Rc<ControlHost>,
}

impl NodeView {
    /// Every partition as it is now: asks the shards.
    pub async fn partitions(&self) -> Vec<Checkpoint> {
        checkpoints(&self.host).await
    }

    /// Where the time went, by shard; empty if the profiler is switched off.
    pub async fn profile(&self) -> Vec<ShardProfile> {
        let replies = self.host.to_all(|| Request::Profile).await;
        let told = replies.into_iter().filter_map(|reply| match reply {
            Reply::Profile(told) => told.map(|told| *told),
            _ => None,
        });
        told.collect()
    }

    /// The metadata as it is now.
    pub fn image(&self) -> Arc<Image> {
        self.host.service().image()
    }

    /// What is on which shard: asks the shards.
    pub async fn holdings(&self) -> Vec<Holdings> {
        let replies = self.host.to_all(|| Request::Holdings).await;
        let held = replies.into_iter().filter_map(|reply| match reply {
            Reply::Holdings(holdings) => Some(holdings),
            _ => None,
        });
        held.collect()
    }
}

/// Something that watches the node and shows it, such as an HTTP server. Runs on the control thread.
pub trait Watcher {
    /// Where it is reached, for the ready line.
    fn address(&self) -> Option<String>;
    /// Runs until `stop` is done; called once, before clients may come.
    fn run(&self, node: NodeView, stop: tokio::sync::oneshot::Receiver<()>) -> LocalFuture;
    /// Clients may come.
    fn ready(&self);
    /// The node begins to stop.
    fn stopping(&self);
}

/// A future of the control thread.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The runtime of the control thread.
pub fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("control-helper")
        .build()
}

/// Runs a node until `stop` is done; what `stop` gives is the reason. `ready` is called when clients
/// may come.
///
/// Blocks the calling thread, which becomes the control thread; `runtime` comes from
/// [`control_runtime`]. `started` is when the process began.
pub fn run(
    runtime: &tokio::runtime::Runtime,
    prepared: Prepared,
    watcher: Option<&dyn Watcher>,
    started: Instant,
    stop: impl Future<Output = String>,
    ready: impl FnOnce(ReadyLine),
    loggers: Loggers,
) -> Result<(), NodeError> {
    let local = LocalSet::new();
    let node = node(prepared, watcher, started, stop, ready, loggers);
    let result = local.block_on(runtime, node);
    drop(local);
    result
}

/// A listener with its socket.
struct Open {
    listener: Listener,
    bound: Bound,
}

async fn node(
    prepared: Prepared,
    watcher: Option<&dyn Watcher>,
    started: Instant,
    stop: impl Future<Output = String>,
    ready: impl FnOnce(ReadyLine),
    loggers: Loggers,
) -> Result<(), NodeError> {
    let settings = Arc::new(prepared.settings.with_node_id(prepared.node_id));
    let open = bind(&settings)?;
    let metadata_file = prepared.dirs.metadata_file();
    let Prepared {
        dirs,
        node_id,
        cluster_id,
        cores,
        memory,
        open_files,
        ..
    } = prepared;
    let before = takeover::Before::of(&dirs);
    let mut kafka = match metadata_file.exists() {
        true => None,
        false => takeover::find(&before, node_id)?,
    };
    let dirs = dirs.begin_loading()?;
    // Executors are made beside the loading of the metadata; each waits for its seed, in which it is told.
    let shards = cores.shards();
    let (seed_senders, seed_receivers): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| mpsc::channel::<ShardSeed>()).unzip();
    let running = spawn_shards(
        &cores.cpus,
        seed_receivers,
        &ShardOptions::default(),
        |number, seed: mpsc::Receiver<ShardSeed>| async move {
            // It blocks the shard, which has nothing else to do yet.
            match seed.recv() {
                Ok(seed) => shard_main::run(number, seed).await,
                Err(mpsc::RecvError) => Err("the node did not start".to_owned()),
            }
        },
    )
    .map_err(|e| NodeError::Failed(e.to_string()))?;
    let quorum = Quorum::open(&metadata_file, node_id).await?;
    let is_new = quorum.image().cluster_id().is_none();

    let image = quorum.image();
    // As Kafka does, so that it can be one number for all who may come to lead a partition (KIP-966).
    let min_insync_replicas = settings.log_defaults.min_insync_replicas.to_string();
    let cluster_defaults = vec![("min.insync.replicas", min_insync_replicas)];
    let mut effective = in_force(&settings, &image, node_id, &cluster_defaults);
    let rules = Arc::new(TableRules::new(effective.clone()));
    let service = ControllerService::new(
        quorum,
        controller_settings(&effective, node_id),
        rules.clone(),
    );
    let start = BrokerStart {
        broker_id: node_id,
        cluster_id: cluster_id.to_string(),
        listeners: advertised(&open),
        rack: settings.broker_rack.clone(),
        directories: dirs
            .data()
            .iter()
            .filter(|dir| dir.offline.is_none())
            .map(|dir| DirectoryId(dir.directory_id.0))
            .collect(),
        cluster_defaults,
    };
    let unreadable = |e| NodeError::Failed(format!("data directory: {e}"));
    let mut found = data::scan(dirs.data(), !is_new).map_err(unreadable)?;
    if is_new {
        // Of a start that got no further than to make its own metadata.
        if kafka.is_none() {
            kafka = takeover::find(&before, node_id)?;
        }
        match kafka {
            Some(kafka) => {
                takeover::take_over(&service, node_id, kafka, &before, &found).await?;
                effective = in_force(
                    &settings,
                    &service.image(),
                    node_id,
                    &start.cluster_defaults,
                );
                rules.set(effective.clone());
                service.set_settings(controller_settings(&effective, node_id));
            }
            None => takeover::adopt(&service, node_id, &found).await?,
        }
    }
    let broker_epoch = service.register_broker(&start).await?.into_response();
    found
        .set_strays_aside(&service.image())
        .map_err(unreadable)?;

    let bounds = Bounds {
        outstanding_max: OUTSTANDING_MAX,
        ..Bounds::default()
    };
    let mut endpoints = mailbox::<Request, Reply>(shards + 1, bounds);
    let control = endpoints
        .pop()
        .ok_or_else(|| NodeError::Failed("no endpoint for the control thread".to_owned()))?;
    let counters = ShardCounters::for_shards(shards);
    let (directories, leftovers) = found.into_directories();
    let directories = Arc::new(directories);
    let names: Vec<Arc<str>> = open
        .iter()
        .map(|o| o.listener.name.as_str().into())
        .collect();
    let bound_addresses: Vec<(String, String)> = open
        .iter()
        .map(|o| (o.listener.name.clone(), o.bound.local_addr().to_string()))
        .collect();
    let mut accept = Some(open.into_iter().map(|o| o.bound).collect::<Vec<_>>());
    for (endpoint, sender) in endpoints.into_iter().zip(seed_senders) {
        // A shard that ended already is met below.
        let _ = sender.send(ShardSeed {
            shards: shards as u16,
            broker_id: node_id,
            endpoint,
            counters: counters.clone(),
            directories: directories.clone(),
            image: service.image(),
            settings: effective.clone(),
            files_max: share_of(open_files, shards),
            memory,
            listeners: names.clone(),
            accept: accept.take().unwrap_or_default(),
        });
    }

    let host = ControlHost::new(
        control.bind(),
        service,
        rules,
        shards as u16,
        node_id,
        settings.clone(),
        effective,
        loggers,
    );
    let serving = tokio::task::spawn_local(host.clone().run());
    let (mut partitions, mut recovered, mut offline) = (0, 0, 0);
    let opened = host.to_all(|| Request::Opened).await;
    if opened.len() < shards {
        return Err(ended(running).await);
    }
    for reply in opened {
        if let Reply::Opened(summary) = reply {
            partitions += summary.partitions;
            recovered += summary.recovered;
            offline += summary.offline;
        }
    }
    tracing::info!(partitions, recovered, offline, "partitions are open");
    directories.iter().for_each(Directory::forget_points);
    allocator::give_back();
    let (stop_watching, watching_stops) = tokio::sync::oneshot::channel::<()>();
    let watching = watcher.map(|watcher| {
        let view = NodeView {
            counters: counters.clone(),
            host: host.clone(),
        };
        tokio::task::spawn_local(watcher.run(view, watching_stops))
    });
    // A log may end below what the last checkpoint says. What is appended now must not be trusted by it after
    // another crash. And where there is none, the next start would take every hole in a compacted log for a gap.
    let has_checkpoint = |dir: &Directory| dir.has_checkpoint || dir.failure().is_some();
    let is_written = recovered == 0 && directories.iter().all(has_checkpoint)
        || write_all_checkpoints(&host, directories.clone()).await;
    let checkpointing = tokio::task::spawn_local(checkpoint_loop(
        host.clone(),
        directories.clone(),
        is_written,
    ));
    let _ = host.ask(0, Request::Accept).await;
    if let Some(watcher) = watcher {
        watcher.ready();
    }
    ready(ReadyLine {
        node_id,
        listeners: bound_addresses,
        http: watcher.and_then(Watcher::address),
        shards,
        took: started.elapsed(),
    });
    leftovers.remove();

    let running = tokio::task::spawn_blocking(move || running.join());
    tokio::pin!(running);
    let why = tokio::select! {
        why = stop => why,
        () = all_lost(&directories) => {
            // At once, as Kafka does: nothing that is to be closed in order is left.
            return Err(NodeError::Failed(format!(
                "all data directories have failed: {}; repair one of them, and start again",
                failures(&directories)
            )));
        }
        result = &mut running => {
            return Err(NodeError::Failed(match result {
                Ok(Ok(_)) => "the shards ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }));
        }
    };
    tracing::info!("stopping: {why}");
    if let Some(watcher) = watcher {
        watcher.stopping();
    }
    checkpointing.abort();
    host.to_all(|| Request::Drain).await;
    let mut unclean = BTreeSet::new();
    let mut checkpoints = Vec::new();
    let gatherings = begin_gathering(&directories);
    for reply in host.to_all(|| Request::Stop).await {
        if let Reply::Stopped {
            unclean: of_this,
            checkpoints: of_shard,
        } = reply
        {
            unclean.extend(of_this);
            checkpoints.extend(of_shard);
        }
    }
    let clean = unclean.is_empty();
    finish(
        dirs,
        directories,
        (gatherings, checkpoints),
        unclean,
        broker_epoch,
    )
    .await?;
    drop(stop_watching);
    if let Some(watching) = watching {
        let _ = watching.await;
    }
    serving.abort();
    host.service().close().await;
    // The shards have nothing left to do; those that do not end by themselves end with the process.
    let _ = tokio::time::timeout(Duration::from_secs(5), running).await;
    tracing::info!(clean, "stopped");
    Ok(())
}

/// Waits until no directory is left that serves.
async fn all_lost(directories: &[Directory]) {
    let Some(any) = directories.first() else {
        return std::future::pending().await;
    };
    while directories.iter().any(|dir| dir.failure().is_none()) {
        any.changed.notified().await;
    }
}

fn failures(directories: &[Directory]) -> String {
    let failures = directories.iter().filter_map(|dir| {
        let why = dir.failure()?;
        Some(format!("{}: {why}", dir.path.display()))
    });
    failures.collect::<Vec<_>>().join("; ")
}

/// The settings of the node with those that were made at run time, where `cluster_defaults` are not yet.
fn in_force(
    settings: &Arc<NodeSettings>,
    image: &Image,
    node_id: BrokerId,
    cluster_defaults: &[(&'static str, String)],
) -> Arc<NodeSettings> {
    let mut cluster = (**image.broker_default_configs()).clone();
    for (key, value) in cluster_defaults {
        cluster
            .entry((*key).to_owned())
            .or_insert_with(|| value.clone());
    }
    let dynamic = settings.with_dynamic(&cluster, image.broker_configs(node_id));
    dynamic.map_or_else(
        |error| {
            tracing::error!("settings that were made at run time are left out: {error}");
            settings.clone()
        },
        Arc::new,
    )
}

/// The shards ended while they were starting: what they said.
async fn ended(running: crate::runtime::executor::Shards<Result<(), String>>) -> NodeError {
    let joined = tokio::task::spawn_blocking(move || running.join()).await;
    NodeError::Failed(match joined {
        Ok(Ok(results)) => results
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| "a shard ended while it was starting".to_owned()),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    })
}

/// Binds every listener.
fn bind(settings: &NodeSettings) -> Result<Vec<Open>, StartError> {
    let options = SocketOptions {
        backlog: settings.socket_listen_backlog_size,
        send_buffer_bytes: settings.socket_send_buffer_bytes,
        receive_buffer_bytes: settings.socket_receive_buffer_bytes,
    };
    settings
        .listeners
        .iter()
        .map(|listener| {
            let refused = |error| StartError::bind("listeners", &listener.bind, error);
            let bound = resolve(&listener.bind)
                .and_then(|addresses| {
                    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
                    for address in addresses {
                        match bind_patiently(address, options) {
                            Ok(bound) => return Ok(bound),
                            Err(error) => last = error,
                        }
                    }
                    Err(last)
                })
                .map_err(refused)?;
            Ok(Open {
                listener: listener.clone(),
                bound,
            })
        })
        .collect()
}

/// Binds a port, and waits a moment for one that is in use: the kernel takes the rings of a killed
/// process apart after it is gone, and they hold its sockets until then.
fn bind_patiently(address: SocketAddr, options: SocketOptions) -> std::io::Result<Bound> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match Bound::bind(address, options) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// The addresses of a host, to be tried in order. No host is every interface: IPv6 with IPv4, or IPv4
/// alone on a machine without IPv6.
fn resolve(at: &HostPort) -> std::io::Result<Vec<SocketAddr>> {
    if at.host.is_empty() {
        return Ok(vec![
            (std::net::Ipv6Addr::UNSPECIFIED, at.port).into(),
            (std::net::Ipv4Addr::UNSPECIFIED, at.port).into(),
        ]);
    }
    Ok((at.host.as_str(), at.port).to_socket_addrs()?.collect())
}

/// What clients are told of each listener.
fn advertised(open: &[Open]) -> BTreeMap<String, Advertised> {
    open.iter()
        .filter_map(|open| {
            let told = open.listener.advertised.as_ref()?;
            let port = match told.port {
                0 => open.bound.local_addr().port(),
                port => port,
            };
            let endpoint = Advertised {
                host: told.host.clone(),
                port,
                security_protocol: "PLAINTEXT".to_owned(),
            };
            Some((open.listener.name.clone(), endpoint))
        })
        .collect()
}

/// How soon checkpoints are written after a partition was deleted: what they say of it would have to be taken out
/// before a new one of the same name can be made.
const CHECKPOINT_AFTER_DELETION: Duration = Duration::from_secs(1);

/// How soon a write of the checkpoints that failed is tried again; then twice as long, up to the interval. What is
/// there until then may say of a log that was cut, or of one that was deleted, more than there is on the device of
/// what is appended now.
const CHECKPOINT_AGAIN: Duration = Duration::from_secs(1);

/// Writes the checkpoints at intervals, off this thread. `is_written`: the last write of them did not fail.
async fn checkpoint_loop(
    host: Rc<ControlHost>,
    directories: Arc<Vec<Directory>>,
    mut is_written: bool,
) {
    let deleted = |directories: &[Directory]| -> usize {
        let of_each = directories.iter();
        of_each.map(|d| d.deleted.load(Ordering::Relaxed)).sum()
    };
    let mut seen = deleted(&directories);
    let mut again = CHECKPOINT_AGAIN;
    loop {
        let settings = host.settings();
        let interval = settings
            .log_flush_offset_checkpoint_interval_ms
            .min(settings.log_flush_start_offset_checkpoint_interval_ms)
            .max(1000);
        let mut wait = Duration::from_millis(interval);
        if is_written {
            again = CHECKPOINT_AGAIN;
        } else {
            wait = wait.min(again);
            again *= 2;
        }
        let due = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < due && deleted(&directories) == seen {
            let left = due.saturating_duration_since(tokio::time::Instant::now());
            tokio::time::sleep(left.min(CHECKPOINT_AFTER_DELETION)).await;
        }
        seen = deleted(&directories);
        is_written = write_all_checkpoints(&host, directories.clone()).await;
    }
}

/// Returns whether those of every directory that serves were written.
async fn write_all_checkpoints(host: &ControlHost, directories: Arc<Vec<Directory>>) -> bool {
    let gatherings = begin_gathering(&directories);
    let checkpoints = checkpoints(host).await;
    let written = tokio::task::spawn_blocking(move || {
        let mut written = true;
        for (index, dir) in directories.iter().enumerate() {
            if dir.failure().is_some() {
                continue;
            }
            let of_dir: Vec<&Checkpoint> = checkpoints
                .iter()
                .filter(|c| c.directory == index)
                .collect();
            if let Err(error) = dir.checkpoints.write(gatherings[index], &of_dir) {
                let path = dir.path.display();
                tracing::error!("{path}: checkpoints could not be written: {error}");
                written = false;
            }
        }
        written
    });
    written.await.unwrap_or(false)
}

/// The shards are about to be asked what the checkpoints of each directory should say.
fn begin_gathering(directories: &[Directory]) -> Vec<u64> {
    let of_each = directories.iter();
    of_each.map(|dir| dir.checkpoints.begin()).collect()
}

async fn checkpoints(host: &ControlHost) -> Vec<Checkpoint> {
    let mut all = Vec::new();
    for reply in host.to_all(|| Request::Checkpoints).await {
        if let Reply::Checkpoints(of_shard) = reply {
            all.extend(of_shard);
        }
    }
    all
}

/// Writes what a clean stop leaves behind: in each directory, as one that is full or broken must not cost
/// the others their marks.
async fn finish(
    dirs: DataDirs,
    directories: Arc<Vec<Directory>>,
    (gatherings, checkpoints): (Vec<u64>, Vec<Checkpoint>),
    unclean: BTreeSet<usize>,
    broker_epoch: i64,
) -> Result<(), NodeError> {
    let written = tokio::task::spawn_blocking(move || {
        let mut failed = Vec::new();
        for (index, dir) in dirs.data().iter().enumerate() {
            if directories[index].failure().is_some() {
                continue;
            }
            let of_dir: Vec<&Checkpoint> = checkpoints
                .iter()
                .filter(|c| c.directory == index)
                .collect();
            let files = &directories[index].checkpoints;
            let written = files.write(gatherings[index], &of_dir).and_then(|()| {
                if unclean.contains(&index) {
                    return Ok(());
                }
                dirs.mark_clean(dir, broker_epoch)
            });
            if let Err(error) = written {
                failed.push(format!("{}: {error}", dir.path.display()));
            }
        }
        failed
    })
    .await
    .map_err(|error| NodeError::Failed(error.to_string()))?;
    if written.is_empty() {
        return Ok(());
    }
    Err(NodeError::Failed(format!(
        "the stop is not clean: {}; the next start will recover",
        written.join("; ")
    )))
}
