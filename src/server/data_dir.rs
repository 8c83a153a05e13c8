//! A data directory as a whole: creating it, proving that it can be written, locking it, and the mark
//! of a clean stop. What is inside a partition's folder is `storage`'s.
//!
//! The mark, `.kafka_cleanshutdown`, is Kafka's: `{"version":0,"brokerEpoch":5}`, the epoch being that of
//! the broker that stopped (KIP-966). Its life:
//! 1. [`LockedDirs`]: the start reads it and leaves it alone. A start that is refused (a port in use) must
//!    not turn a clean stop into an unclean one.
//! 2. [`LockedDirs::begin_loading`]: removed, and the removal synced, before any log is opened, so that a
//!    crash while loading counts as unclean. Only the [`DataDirs`] that come out tell where the logs are.
//! 3. [`DataDirs::mark_clean`]: written when everything in the directory was flushed and closed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::StartError;
use super::meta_properties::{self, DirectoryId, Identity, MetaProperties};
use super::probes::{self, FileSystem};

pub const LOCK_FILE_NAME: &str = ".lock";
pub const CLEAN_SHUTDOWN_FILE_NAME: &str = ".kafka_cleanshutdown";
/// The metadata of a node is one file: Kafka refuses a data directory with a folder that is not a
/// partition.
pub const METADATA_FILE_NAME: &str = "ringspun-metadata.redb";

/// Longer files than this are not what they should be, and are not read.
const SMALL_FILE_BYTES: u64 = 64 << 10;

/// A directory that this process, and no other, may write.
#[derive(Debug)]
pub struct LockedDir {
    /// Absolute, without symbolic links.
    path: PathBuf,
    file_system: FileSystem,
    /// The lock lives as long as this descriptor.
    lock: File,
}

impl LockedDir {
    /// Creates the directory if it is missing, locks it, and proves that files can be written there.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        create(path)?;
        let path = path
            .canonicalize()
            .map_err(|error| StartError::directory(path, "cannot be resolved", error))?;
        let lock_path = path.join(LOCK_FILE_NAME);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| StartError::directory(&path, "is not writable", error))?;
        let file_system = probes::file_system(&path)?;
        let locked = |error: Errno| match error {
            Errno::AGAIN | Errno::ACCESS => StartError::Locked {
                path: path.clone(),
                holder: read_pid(&lock),
            },
            error => StartError::directory(&path, "cannot be locked", error.into()),
        };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(locked)?;
        // Java takes the other kind of lock, and the two do not see each other, except over NFS, where
        // they are the same and the second would collide with the first.
        if !file_system.is_nfs() {
            fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(locked)?;
        }
        // Only for the message of the next one who comes; a full disk must not matter here.
        let pid = format!("{}\n", std::process::id());
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.write_all_at(pid.as_bytes(), 0));
        probe_write(&path)?;
        Ok(Self {
            path,
            file_system,
            lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    /// `meta.properties`, or `None` when there is none.
    pub fn read_meta_properties(&self) -> Result<Option<MetaProperties>, StartError> {
        let path = self.path.join(meta_properties::FILE_NAME);
        let Some(text) = read_small(&path)
            .map_err(|error| StartError::directory(&path, "cannot be read", error))?
        else {
            return Ok(None);
        };
        MetaProperties::parse(&text)
            .map(Some)
            .map_err(|why| StartError::MetaProperties { path, why })
    }

    /// Writes `meta.properties` so that a crash leaves the old file or the new one.
    pub fn write_meta_properties(&self, identity: &Identity) -> Result<(), StartError> {
        let name = meta_properties::FILE_NAME;
        write_atomically(&self.path, name, identity.to_string().as_bytes()).map_err(|error| {
            StartError::directory(&self.path, "cannot hold meta.properties", error)
        })
    }

    /// The mark of a clean stop, if there is one.
    fn clean_stop(&self) -> Option<CleanStop> {
        // A mark that cannot be read still says that the stop was clean: Kafka takes its existence.
        match read_small(&self.path.join(CLEAN_SHUTDOWN_FILE_NAME)) {
            Ok(None) => None,
            Ok(Some(text)) => Some(CleanStop {
                broker_epoch: serde_json::from_str::<CleanMark>(&text)
                    .ok()
                    .and_then(|mark| mark.broker_epoch),
            }),
            Err(_) => None,
        }
    }

    fn remove_clean_mark(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(CLEAN_SHUTDOWN_FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Where it is gone, a process that was killed may have taken it, and a power cut could bring it back.
            _ => File::open(&self.path)?.sync_all(),
        }
    }
}

/// That the last stop was clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanStop {
    /// The epoch of the broker that stopped, where the mark says so.
    pub broker_epoch: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct CleanMark {
    version: i32,
    #[serde(rename = "brokerEpoch")]
    broker_epoch: Option<i64>,
}

/// An entry of `log.dirs` that cannot be used; the others are.
#[derive(Clone, Debug)]
pub struct OfflineDir {
    /// Its place in `log.dirs`.
    pub place: usize,
    /// As the setting names it.
    pub path: PathBuf,
    pub why: String,
}

/// Every directory of the node, locked and identified; nothing in them is open yet.
#[derive(Debug)]
pub struct LockedDirs {
    /// Those of `log.dirs` that can be used, in their order, then `metadata.log.dir` if it is not among
    /// them.
    dirs: Vec<(LockedDir, DirectoryId)>,
    /// The others of `log.dirs`, in their order.
    offline: Vec<OfflineDir>,
    /// How many of `dirs` hold logs.
    log_dirs: usize,
    /// The place in `dirs` of the one that holds the metadata.
    metadata: usize,
}

impl LockedDirs {
    /// `dirs` begins with the `log_dirs` directories that hold logs.
    pub(super) fn new(
        dirs: Vec<(LockedDir, DirectoryId)>,
        offline: Vec<OfflineDir>,
        log_dirs: usize,
        metadata: usize,
    ) -> Self {
        assert!(log_dirs > 0 && log_dirs <= dirs.len() && metadata < dirs.len());
        assert!(offline.is_sorted_by_key(|dir| dir.place));
        Self {
            dirs,
            offline,
            log_dirs,
            metadata,
        }
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|(dir, _)| dir.path())
    }

    /// The ids of the directories that hold logs and can be used, in the order of `log.dirs`.
    pub fn directory_ids(&self) -> Vec<DirectoryId> {
        self.dirs[..self.log_dirs]
            .iter()
            .map(|(_, id)| *id)
            .collect()
    }

    /// Whether every directory that holds logs has the mark of a clean stop.
    pub fn stopped_cleanly(&self) -> bool {
        let mut logs = self.dirs[..self.log_dirs].iter();
        logs.all(|(dir, _)| dir.clean_stop().is_some())
    }

    /// The file of the metadata store. It may be opened before `begin_loading`.
    pub fn metadata_file(&self) -> PathBuf {
        self.dirs[self.metadata].0.path.join(METADATA_FILE_NAME)
    }

    /// Takes the marks of a clean stop away. From here on the node has stopped uncleanly until
    /// [`DataDirs::mark_clean`]. To be called when nothing else can refuse the start any more: after the
    /// listeners are bound.
    pub fn begin_loading(self) -> Result<DataDirs, StartError> {
        let mut data = Vec::with_capacity(self.log_dirs);
        for (dir, directory_id) in &self.dirs[..self.log_dirs] {
            let clean_stop = dir.clean_stop();
            dir.remove_clean_mark().map_err(|error| {
                StartError::directory(
                    &dir.path,
                    "does not let go of the clean-shutdown mark",
                    error,
                )
            })?;
            data.push(DataDir {
                path: dir.path.clone(),
                directory_id: *directory_id,
                clean_stop,
                offline: None,
            });
        }
        for OfflineDir { place, path, why } in &self.offline {
            let dir = DataDir {
                path: path.clone(),
                directory_id: DirectoryId::LOST,
                clean_stop: None,
                offline: Some(why.clone()),
            };
            data.insert((*place).min(data.len()), dir);
        }
        Ok(DataDirs {
            metadata_file: self.metadata_file(),
            data,
            _locks: self.dirs.into_iter().map(|(dir, _)| dir.lock).collect(),
        })
    }
}

/// A directory that holds logs, ready to be loaded; or one that cannot be.
#[derive(Clone, Debug)]
pub struct DataDir {
    /// Absolute, without symbolic links, unless it is offline.
    pub path: PathBuf,
    /// [`DirectoryId::LOST`] if it is offline.
    pub directory_id: DirectoryId,
    /// `None`: the last stop was not clean, so its logs are to be recovered.
    pub clean_stop: Option<CleanStop>,
    /// Why nothing in it can be read or written.
    pub offline: Option<String>,
}

/// The directories that hold logs. Keeps the locks: drop it last.
#[derive(Debug)]
pub struct DataDirs {
    pub metadata_file: PathBuf,
    data: Vec<DataDir>,
    _locks: Vec<File>,
}

impl DataDirs {
    /// In the order of `log.dirs`.
    pub fn data(&self) -> &[DataDir] {
        &self.data
    }

    /// Says that everything under `dir` is flushed and closed. Not to be called for a directory in which
    /// a log went offline.
    pub fn mark_clean(&self, dir: &DataDir, broker_epoch: i64) -> io::Result<()> {
        let mark = CleanMark {
            version: 0,
            broker_epoch: Some(broker_epoch),
        };
        let text = serde_json::to_vec(&mark)?;
        write_atomically(&dir.path, CLEAN_SHUTDOWN_FILE_NAME, &text)
    }
}

/// Creates the directory and those above it, so that they survive a crash.
fn create(path: &Path) -> Result<(), StartError> {
    if path.is_dir() {
        return Ok(());
    }
    let existing = path
        .ancestors()
        .find(|a| a.as_os_str().is_empty() || a.exists());
    fs::create_dir_all(path)
        .map_err(|error| StartError::directory(path, "cannot be created", error))?;
    for made_in in path.ancestors().skip(1) {
        let dir = match made_in.as_os_str().is_empty() {
            true => Path::new("."),
            false => made_in,
        };
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| StartError::directory(dir, "cannot be synced", error))?;
        if Some(made_in) == existing {
            break;
        }
    }
    Ok(())
}

/// Writes one block and takes it away again. File systems that allocate late still reserve the space at
/// the write, so a full disk shows here.
fn probe_write(path: &Path) -> Result<(), StartError> {
    let probe = path.join(".ringspun-probe.tmp");
    let written = File::create(&probe).and_then(|mut file| file.write_all(&[0; 4096]));
    let removed = fs::remove_file(&probe);
    written
        .and(removed)
        .map_err(|error| StartError::directory(path, "is not writable", error))
}

/// Writes a small file beside its place, syncs it, moves it there and syncs the directory.
pub(super) fn write_atomically(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    File::open(dir)?.sync_all()
}

/// The text of a small file; `None` when there is none.
fn read_small(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, SMALL_FILE_BYTES + 1), &mut bytes)?;
    if bytes.len() as u64 > SMALL_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too large",
        ));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The process that a lock file names.
fn read_pid(lock: &File) -> Option<u32> {
    let mut bytes = [0; 16];
    let read = lock.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(bytes.get(..read)?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BrokerId;

    fn locked(path: &Path) -> LockedDirs {
        let dir = LockedDir::open(path).unwrap();
        LockedDirs::new(vec![(dir, DirectoryId(1000))], Vec::new(), 1, 0)
    }

    #[test]
    fn a_missing_directory_is_created_with_those_above_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = LockedDir::open(&root.path().join("a/b/c")).unwrap();
        assert!(dir.path().ends_with("a/b/c") && dir.path().is_dir());
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [LOCK_FILE_NAME]);
    }

    #[test]
    fn a_directory_is_locked_once_and_the_refusal_names_the_holder() {
        let root = tempfile::tempdir().unwrap();
        let first = LockedDir::open(root.path()).unwrap();
        let text = LockedDir::open(root.path()).unwrap_err().to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        drop(first);
        LockedDir::open(root.path()).unwrap();
    }

    #[test]
    fn a_file_where_the_directory_should_be_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), "").unwrap();
        for path in ["f", "f/below"] {
            let text = LockedDir::open(&root.path().join(path))
                .unwrap_err()
                .to_string();
            assert!(
                text.contains("cannot be created") && text.contains("log.dirs"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_mark_survives_a_refused_start_and_not_a_load() {
        let root = tempfile::tempdir().unwrap();
        let mark = root.path().join(CLEAN_SHUTDOWN_FILE_NAME);
        fs::write(&mark, r#"{"version":0,"brokerEpoch":5}"#).unwrap();
        drop(locked(root.path()));
        assert!(mark.exists());
        let dirs = locked(root.path()).begin_loading().unwrap();
        assert_eq!(
            dirs.data()[0].clean_stop,
            Some(CleanStop {
                broker_epoch: Some(5)
            })
        );
        assert!(!mark.exists());
        dirs.mark_clean(&dirs.data()[0], 7).unwrap();
        assert_eq!(
            fs::read_to_string(&mark).unwrap(),
            r#"{"version":0,"brokerEpoch":7}"#
        );
        drop(dirs);
        let dirs = locked(root.path()).begin_loading().unwrap();
        assert_eq!(
            dirs.data()[0].clean_stop,
            Some(CleanStop {
                broker_epoch: Some(7)
            })
        );
        drop(dirs);
        let dirs = locked(root.path()).begin_loading().unwrap();
        assert_eq!(dirs.data()[0].clean_stop, None);
    }

    #[test]
    fn a_mark_counts_whatever_it_says() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(CLEAN_SHUTDOWN_FILE_NAME), "").unwrap();
        let dirs = locked(root.path()).begin_loading().unwrap();
        assert_eq!(
            dirs.data()[0].clean_stop,
            Some(CleanStop { broker_epoch: None })
        );
    }

    #[test]
    fn meta_properties_read_back_and_leave_no_temporary_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = LockedDir::open(root.path()).unwrap();
        assert_eq!(dir.read_meta_properties().unwrap(), None);
        let identity = Identity {
            cluster_id: "c".into(),
            node_id: BrokerId(4),
            directory_id: DirectoryId(1 << 90),
        };
        dir.write_meta_properties(&identity).unwrap();
        let read = dir.read_meta_properties().unwrap().unwrap();
        assert_eq!(read.directory_id, Some(DirectoryId(1 << 90)));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
        fs::write(root.path().join("meta.properties"), "version=9").unwrap();
        let text = dir.read_meta_properties().unwrap_err().to_string();
        assert!(
            text.contains("meta.properties") && text.contains("version=9"),
            "{text}"
        );
        fs::write(root.path().join("meta.properties"), vec![b'#'; 1 << 20]).unwrap();
        assert!(dir.read_meta_properties().is_err());
    }
}
