//! From settings to a node that may start: everything that can refuse is asked here, and a refusal is one
//! line that says what is wrong and what to do.
//!
//! [`prepare`] asks, in this order: cores, memory, limits of the process, io_uring, then each data directory
//! (created, locked, writable, whose it is, whether it takes O_DIRECT where that is wanted). It opens no port and no log. What follows is the node's:
//! 1. bind the listeners (the last that can refuse; [`StartError::bind`] makes the line);
//! 2. [`super::data_dir::LockedDirs::begin_loading`], from where on a crash counts as one;
//! 3. load, serve, and print the [`ReadyLine`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cores::{self, CorePlan};
use super::data_dir::{LockedDir, LockedDirs, METADATA_FILE_NAME, OfflineDir};
use super::error::{StartError, size};
use super::memory::{self, MemoryLimits, MemoryPlan};
use super::meta_properties::{self, Identity, MetaProperties};
use super::probes;
use crate::base::settings::{LogIo, NodeSettings};
use crate::base::{BrokerId, ClusterId, cpu_list};
use crate::storage::probe_direct;

/// A node that may start.
#[derive(Debug)]
pub struct Prepared {
    pub settings: Arc<NodeSettings>,
    pub node_id: BrokerId,
    pub cluster_id: ClusterId,
    /// Locked, with their ids; [`LockedDirs::begin_loading`] opens the way to the logs.
    pub dirs: LockedDirs,
    pub cores: CorePlan,
    pub memory: MemoryPlan,
    /// Files that may be open, after raising; `None` for no limit.
    pub open_files: Option<u64>,
    /// Bytes that may be locked in memory; `None` for no limit.
    pub memlock_bytes: Option<u64>,
}

/// Asks everything that can refuse the start; see the module. Logs what is odd but works.
///
/// `cluster_id` is the id of the cluster that new data directories begin; those that have one keep it.
pub fn prepare(
    settings: Arc<NodeSettings>,
    cluster_id: Option<&str>,
) -> Result<Prepared, StartError> {
    let cores = cores::plan(&settings.cores, settings.shards, &cores::allowed_cpus()?)?;
    if cores.shares_cpus() {
        tracing::warn!(
            shards = cores.shards(),
            "several shards share a CPU: good for tests only"
        );
    }
    let memory = memory::plan(
        settings.memory_bytes,
        MemoryLimits::read()?,
        cores.shards(),
        u64::from(settings.socket_request_max_bytes),
    )?;
    let open_files = probes::open_files()?;
    if let Some(files) = open_files.filter(|&files| files < probes::OPEN_FILES_ADVISED) {
        tracing::warn!(
            "only {files} files may be open, each connection and segment takes one; raise `ulimit -Hn` or LimitNOFILE="
        );
    }
    let memlock_bytes = probes::memlock()?;
    probes::io_uring()?;
    let node = open_dirs(
        &settings.log_dirs,
        &settings.metadata_log_dir,
        settings.node_id,
        cluster_id,
    )?;
    if settings.log_defaults.log_io == LogIo::Direct {
        check_direct(&settings.log_dirs)?;
    }
    if cluster_id.is_some_and(|wanted| wanted != &*node.cluster_id) {
        tracing::warn!(
            cluster = &*node.cluster_id,
            "the environment names another cluster; the one in meta.properties holds"
        );
    }
    tracing::info!(
        node = node.node_id.0,
        cluster = &*node.cluster_id,
        shards = cores.shards(),
        cpus = cpu_list::format(&cores.cpus),
        memory = size(memory.total_bytes),
        shard_memory = size(memory.shard_bytes),
        open_files,
        "starting"
    );
    Ok(Prepared {
        settings,
        node_id: node.node_id,
        cluster_id: node.cluster_id,
        dirs: node.dirs,
        cores,
        memory,
        open_files,
        memlock_bytes,
    })
}

/// Refuses directories past whose page cache nothing can be written, where the operator wants that.
fn check_direct(log_dirs: &[PathBuf]) -> Result<(), StartError> {
    for dir in log_dirs {
        probe_direct(dir).map_err(|error| StartError::Setting {
            name: "ringspun.log.io",
            why: format!(
                "it is direct, but files in {} cannot be written and read with O_DIRECT: {error}",
                dir.display()
            ),
            remedy: "set it to page-cache, or name a directory on another file system in log.dirs"
                .into(),
        })?;
    }
    Ok(())
}

/// The data directories and what they say about the node.
struct OpenedDirs {
    node_id: BrokerId,
    cluster_id: ClusterId,
    dirs: LockedDirs,
}

fn open_dirs(
    log_dirs: &[PathBuf],
    metadata_log_dir: &Path,
    node_id: Option<BrokerId>,
    cluster_id: Option<&str>,
) -> Result<OpenedDirs, StartError> {
    let mut locked: Vec<(LockedDir, Option<MetaProperties>)> =
        Vec::with_capacity(log_dirs.len() + 1);
    let mut failed: Vec<(usize, StartError)> = Vec::new();
    for (place, path) in log_dirs.iter().enumerate() {
        // Asked before locking, or the message would be that we are in our own way.
        if let Ok(resolved) = path.canonicalize()
            && let Some((same, _)) = locked.iter().find(|(dir, _)| dir.path() == resolved)
        {
            return Err(StartError::SameDirectory {
                first: same.path().into(),
                second: path.clone(),
            });
        }
        match open_dir(path) {
            Ok(opened) => locked.push(opened),
            Err(error) if error.is_of_one_directory() => failed.push((place, error)),
            Err(error) => return Err(error),
        }
    }
    let log_dirs_open = locked.len();
    let resolved = metadata_log_dir.canonicalize().ok();
    let metadata = match locked
        .iter()
        .position(|(dir, _)| Some(dir.path()) == resolved.as_deref())
    {
        Some(place) => place,
        None => {
            // If it is one of those that failed, it fails again.
            locked.push(open_dir(metadata_log_dir)?);
            locked.len() - 1
        }
    };
    // Only a node that has been here before knows what it misses; a new one is not set up by halves.
    let is_known = locked[metadata].0.path().join(METADATA_FILE_NAME).exists();
    let offline = match failed {
        failed if failed.is_empty() => Vec::new(),
        failed if is_known && log_dirs_open > 0 => failed
            .into_iter()
            .map(|(place, error)| set_aside(&log_dirs[place], place, &error))
            .collect(),
        failed => {
            let first = failed.into_iter().next().map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| StartError::Other("no data directory".into())));
        }
    };
    for (dir, _) in &locked {
        for warning in dir.file_system().warnings() {
            tracing::warn!("data directory {}: {warning}", dir.path().display());
        }
    }
    let (locked, found): (Vec<LockedDir>, Vec<_>) = locked
        .into_iter()
        .map(|(dir, meta)| {
            let path = dir.path().to_path_buf();
            (dir, (path, meta))
        })
        .unzip();
    let agreed = meta_properties::agree(&found, node_id, cluster_id, &mut || {
        uuid::Uuid::new_v4().as_u128()
    })?;
    let mut dirs = Vec::with_capacity(locked.len());
    for (dir, place) in locked.into_iter().zip(agreed.directories) {
        if place.write {
            dir.write_meta_properties(&Identity {
                cluster_id: agreed.cluster_id.clone(),
                node_id: agreed.node_id,
                directory_id: place.directory_id,
            })?;
        }
        dirs.push((dir, place.directory_id));
    }
    Ok(OpenedDirs {
        node_id: agreed.node_id,
        cluster_id: agreed.cluster_id,
        dirs: LockedDirs::new(dirs, offline, log_dirs_open, metadata),
    })
}

fn open_dir(path: &Path) -> Result<(LockedDir, Option<MetaProperties>), StartError> {
    let dir = LockedDir::open(path)?;
    let meta = dir.read_meta_properties()?;
    Ok((dir, meta))
}

/// Says that the node starts without a directory.
fn set_aside(path: &Path, place: usize, error: &StartError) -> OfflineDir {
    let why = error.line();
    tracing::error!("the partitions of a data directory are offline until a restart: {why}");
    OfflineDir {
        place,
        path: path.into(),
        why,
    }
}

/// The one line on standard output, when clients may come.
#[derive(Clone, Debug)]
pub struct ReadyLine {
    pub node_id: BrokerId,
    /// Name and bound address of each listener, with the port that was bound.
    pub listeners: Vec<(String, String)>,
    /// `None` when there is no HTTP server.
    pub http: Option<String>,
    pub shards: usize,
    /// Since the process started.
    pub took: Duration,
}

impl fmt::Display for ReadyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners: Vec<String> = self
            .listeners
            .iter()
            .map(|(name, address)| format!("{name}://{address}"))
            .collect();
        write!(
            f,
            "ringspun ready node={} listeners={} http={} shards={} ms={}",
            self.node_id,
            listeners.join(","),
            self.http.as_deref().unwrap_or("off"),
            self.shards,
            self.took.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_ready_line_is_the_documented_one() {
        let line = ReadyLine {
            node_id: BrokerId(1),
            listeners: vec![
                ("PLAINTEXT".into(), "127.0.0.1:41234".into()),
                ("EXTERNAL".into(), "10.0.0.1:9092".into()),
            ],
            http: Some("127.0.0.1:9644".into()),
            shards: 2,
            took: Duration::from_micros(12_900),
        };
        assert_eq!(
            line.to_string(),
            "ringspun ready node=1 listeners=PLAINTEXT://127.0.0.1:41234,EXTERNAL://10.0.0.1:9092 \
             http=127.0.0.1:9644 shards=2 ms=12"
        );
    }

    #[test]
    fn ids_are_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let dirs = [root.path().join("a"), root.path().join("b")];
        let first = open_dirs(&dirs, &dirs[0], None, None).unwrap();
        let (cluster_id, ids) = (first.cluster_id.clone(), first.dirs.directory_ids());
        assert_eq!(first.node_id, BrokerId(1));
        assert_eq!(
            first.dirs.metadata_file(),
            dirs[0]
                .canonicalize()
                .unwrap()
                .join("ringspun-metadata.redb")
        );
        drop(first);
        let second = open_dirs(&dirs, &dirs[1], None, None).unwrap();
        assert_eq!(
            (second.cluster_id, second.dirs.directory_ids()),
            (cluster_id, ids)
        );
    }

    #[test]
    fn metadata_may_have_a_directory_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let (data, metadata) = (root.path().join("data"), root.path().join("metadata"));
        let opened = open_dirs(std::slice::from_ref(&data), &metadata, None, None).unwrap();
        assert_eq!(opened.dirs.directory_ids().len(), 1);
        assert!(metadata.join("meta.properties").exists());
        assert!(
            opened
                .dirs
                .metadata_file()
                .ends_with("metadata/ringspun-metadata.redb")
        );
        assert_eq!(opened.dirs.begin_loading().unwrap().data().len(), 1);
    }

    #[test]
    fn one_directory_named_twice_is_refused_as_such() {
        let root = tempfile::tempdir().unwrap();
        let dirs = [root.path().join("a"), root.path().join("./a")];
        let Err(error) = open_dirs(&dirs, &dirs[0], None, None) else {
            panic!("must be refused");
        };
        assert!(error.to_string().contains("the same directory"), "{error}");
    }

    #[test]
    fn a_full_disk_and_a_read_only_one_have_their_own_remedies() {
        let full = StartError::directory(
            Path::new("/"),
            "is not writable",
            io::Error::from_raw_os_error(libc::ENOSPC),
        );
        assert!(full.line().contains("the disk is full"), "{}", full.line());
        let read_only = StartError::directory(
            Path::new("/x"),
            "is not writable",
            io::Error::from_raw_os_error(libc::EROFS),
        );
        assert!(
            read_only.line().contains("mount it for writing"),
            "{}",
            read_only.line()
        );
        let port = StartError::bind(
            "listeners",
            "127.0.0.1:1",
            io::Error::from_raw_os_error(libc::EADDRINUSE),
        );
        assert!(
            port.line().contains("another program listens there"),
            "{}",
            port.line()
        );
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(StartError::Other("a\n  b\n\nc".into()).line(), "a b c");
    }
}
