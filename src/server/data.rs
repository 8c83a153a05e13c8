//! What lies in the data directories when the node starts, and the checkpoints it leaves.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use tokio::sync::Notify;

use crate::base::{LeaderEpoch, Offset, PartitionIndex, Timestamp, TopicId};
use crate::broker::checkpoint_files::CheckpointFiles;
use crate::broker::offload::{Directory, Points};
use crate::controller::FoundTopic;
use crate::metadata::Image;
use crate::server::data_dir::DataDir;
use crate::storage::checkpoint::{
    CLEANER_OFFSET_CHECKPOINT, LOG_START_OFFSET_CHECKPOINT, Offsets, RECOVERY_POINT_CHECKPOINT,
    REPLICA_MOVED, REPLICATION_OFFSET_CHECKPOINT, decode_moved, decode_offsets,
    decode_partition_metadata, encode_partition_metadata,
};
use crate::storage::names::{self, Folder, PARTITION_METADATA};
use crate::storage::{AllocationBudget, Inline, PageCache, log_dir, remove_folder_now};

/// Bytes that the logs of one directory may have allocated ahead of what is written.
const ALLOCATED_AHEAD_BYTES: u64 = 4 << 30;

/// A partition's folder.
#[derive(Debug)]
struct FoundPartition {
    directory: usize,
    folder: String,
    topic: String,
    partition: PartitionIndex,
    /// From `partition.metadata`; none if there is no such file, as before Kafka 2.8, or nothing in it, as
    /// after a power cut.
    topic_id: Option<TopicId>,
}

/// What was found.
pub struct Found {
    pub directories: Vec<Directory>,
    partitions: Vec<FoundPartition>,
    leftovers: Leftovers,
}

/// Folders of which nobody wants anything, and whose names nobody needs: of deleted topics, and of logs that were to
/// move, or have moved. They may hold terabytes.
#[must_use]
#[derive(Debug, Default)]
pub struct Leftovers(Vec<PathBuf>);

impl Leftovers {
    /// Removes them one by one, on a thread of their own, which a stop of the node does not wait for: what is left
    /// then goes after the next start.
    pub fn remove(self) {
        let Leftovers(folders) = self;
        if folders.is_empty() {
            return;
        }
        let remove = move || {
            let mut removed = 0;
            for folder in &folders {
                match remove_folder_now(folder) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!("{} cannot be removed: {error}", folder.display());
                    }
                    _ => removed += 1,
                }
            }
            tracing::info!("{removed} folders of deleted partitions are removed");
        };
        let thread = std::thread::Builder::new().name("removal".to_owned());
        if let Err(error) = thread.spawn(remove) {
            tracing::warn!("folders of deleted partitions are not removed: {error}");
        }
    }
}

/// Looks through the directories: partitions, checkpoints, leftovers.
///
/// `is_known`: the node has metadata, so that it knows what it misses. Then one directory that cannot be
/// read goes offline, while there is another; a new node is refused.
pub fn scan(dirs: &[DataDir], is_known: bool) -> io::Result<Found> {
    let mut directories = Vec::new();
    let mut partitions = Vec::new();
    let mut leftovers = Leftovers::default();
    let changed = Arc::new(Notify::new());
    for (directory, dir) in dirs.iter().enumerate() {
        let (mut here, mut expected) = (Vec::new(), HashSet::new());
        let mut failure = dir.offline.clone();
        if failure.is_none()
            && let Err(error) = scan_one(
                directory,
                &dir.path,
                &mut here,
                &mut expected,
                &mut leftovers,
            )
        {
            if !is_known || dirs.len() == 1 {
                return Err(error);
            }
            tracing::error!(
                "the partitions of a data directory are offline until a restart: {error}"
            );
            here.clear();
            failure = Some(error.to_string());
        }
        let Checkpoints {
            points,
            names,
            has_recovery_points,
        } = match failure {
            None => checkpoints(&dir.path),
            Some(_) => Checkpoints::default(),
        };
        directories.push(Directory {
            path: dir.path.clone(),
            id: crate::metadata::DirectoryId(dir.directory_id.0),
            clean: dir.clean_stop.is_some(),
            has_checkpoint: has_recovery_points,
            points: RwLock::new(points),
            checkpoints: CheckpointFiles::new(dir.path.clone(), names),
            partitions: here.len().into(),
            deleted: AtomicUsize::default(),
            expected,
            low: false.into(),
            failed: failure.map_or_else(OnceLock::new, OnceLock::from),
            changed: changed.clone(),
            allocation: Arc::new(AllocationBudget::new(ALLOCATED_AHEAD_BYTES)),
        });
        partitions.extend(here);
    }
    if directories.iter().all(|dir| dir.failure().is_some()) {
        return Err(io::Error::other("none of log.dirs can be read"));
    }
    Ok(Found {
        directories,
        partitions,
        leftovers,
    })
}

/// Looks through one directory; what is to be moved here comes out in `expected`.
fn scan_one(
    directory: usize,
    dir: &Path,
    partitions: &mut Vec<FoundPartition>,
    expected: &mut HashSet<String>,
    leftovers: &mut Leftovers,
) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| named(dir, e))? {
        let entry = entry.map_err(|e| named(dir, e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !entry.file_type().map_err(|e| named(dir, e))?.is_dir() {
            continue;
        }
        match names::parse_folder(&name) {
            Folder::Partition { topic, partition } => {
                partitions.push(FoundPartition {
                    directory,
                    topic_id: topic_id(&entry.path())?,
                    folder: name,
                    topic,
                    partition,
                });
            }
            // What another broker deleted is not ours to remove.
            Folder::Deleted if !names::is_ours(&name) => {}
            Folder::Deleted => leftovers.0.push(entry.path()),
            // A move that was under way begins anew, in a folder of another name.
            Folder::LeftAlone => {
                if let Some(folder) = names::future_of(&name) {
                    expected.insert(folder.to_owned());
                    let deleted = name.strip_suffix("-future").unwrap_or(&name);
                    let deleted = dir.join(format!("{deleted}-delete"));
                    // Or the next start would take it for a move that was under way.
                    match fs::rename(entry.path(), &deleted) {
                        Ok(()) => leftovers.0.push(deleted),
                        Err(error) => {
                            tracing::warn!("{} cannot be renamed: {error}", entry.path().display());
                        }
                    }
                }
            }
            Folder::Other => {}
        }
    }
    Ok(())
}

/// When a folder was marked as that of a whole log that has moved, if it was.
fn moved_at(folder: &Path) -> io::Result<Option<Timestamp>> {
    let path = folder.join(REPLICA_MOVED);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(decode_moved(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&path, error)),
    }
}

/// Of several folders of one partition, keeps that which has moved, or stayed, last and is whole; the others are what
/// moves had not taken away yet. Without such a mark the first is kept, and the others are set aside.
fn settle_moves(
    directories: &[Directory],
    partitions: &mut Vec<FoundPartition>,
    leftovers: &mut Leftovers,
) -> io::Result<()> {
    let path = |found: &FoundPartition| directories[found.directory].path.join(&found.folder);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for found in partitions.iter() {
        *counts.entry(&found.folder).or_default() += 1;
    }
    // Of those that have several: where the one is that is kept, and its mark.
    let mut kept: HashMap<String, (usize, Option<Timestamp>)> = HashMap::new();
    for found in partitions.iter().filter(|found| counts[&*found.folder] > 1) {
        let mark = moved_at(&path(found))?;
        let place = kept
            .entry(found.folder.clone())
            .or_insert((found.directory, mark));
        if mark > place.1 {
            *place = (found.directory, mark);
        }
    }
    let mut left = Vec::with_capacity(partitions.len());
    for found in partitions.drain(..) {
        let others = kept.get(&found.folder);
        let Some((_, mark)) = others.filter(|(directory, _)| *directory != found.directory) else {
            left.push(found);
            continue;
        };
        let at = path(&found);
        directories[found.directory]
            .partitions
            .fetch_sub(1, Ordering::Relaxed);
        if mark.is_some() {
            tracing::info!("{} was moved away and is removed", at.display());
            let unique = uuid::Uuid::new_v4().as_u128();
            let deleted = names::deleted_folder_name(&found.topic, found.partition, unique);
            let deleted = directories[found.directory].path.join(deleted);
            fs::rename(&at, &deleted).map_err(|e| named(&at, e))?;
            leftovers.0.push(deleted);
        } else {
            let stray = format!("{}.{}-stray", found.folder, uuid::Uuid::new_v4().simple());
            tracing::error!(
                "{} lies in another directory, too; it is kept as {stray}",
                at.display()
            );
            let parent = &directories[found.directory].path;
            fs::rename(&at, parent.join(stray)).map_err(|e| named(&at, e))?;
        }
        File::open(&directories[found.directory].path)?.sync_all()?;
    }
    *partitions = left;
    // The mark may go once the others have lost their names for good. In a directory that cannot be read they may have
    // them still.
    if directories.iter().any(|dir| dir.failure().is_some()) {
        return Ok(());
    }
    for found in partitions.iter() {
        let at = path(found);
        match fs::remove_file(at.join(REPLICA_MOVED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&at).and_then(|at| at.sync_all()),
        }
        .map_err(|e| named(&at, e))?;
    }
    Ok(())
}

fn topic_id(folder: &Path) -> io::Result<Option<TopicId>> {
    let path = folder.join(PARTITION_METADATA);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(&path, error)),
    };
    Ok(decode_partition_metadata(&bytes).unwrap_or_else(|error| {
        tracing::warn!("{} is left aside: {error}", path.display());
        None
    }))
}

/// The error with the path that it is about.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The last leader epoch that a log has records of.
fn last_epoch(folder: &Path) -> Option<LeaderEpoch> {
    let disk = PageCache::new(Inline);
    futures_lite::future::block_on(log_dir::last_epoch(&disk, folder))
}

/// What the checkpoint files of a directory say.
#[derive(Default)]
struct Checkpoints {
    /// By folder name.
    points: HashMap<String, Points>,
    /// Of whom they say it.
    names: BTreeSet<(String, PartitionIndex)>,
    has_recovery_points: bool,
}

/// Reads the checkpoint files. One that cannot be read is as if it were not there: more is recovered than needed, and
/// nothing is lost.
fn checkpoints(dir: &Path) -> Checkpoints {
    let mut found = Checkpoints::default();
    let mut read = |file: &str, put: fn(&mut Points, Offset)| {
        let offsets = offsets(&dir.join(file));
        let is_there = offsets.is_some();
        for (name, offset) in offsets.unwrap_or_default() {
            let folder = names::folder_name(&name.0, name.1);
            put(found.points.entry(folder).or_default(), offset);
            found.names.insert(name);
        }
        is_there
    };
    let has_recovery_points = read(RECOVERY_POINT_CHECKPOINT, |p, o| p.recovery_point = Some(o));
    read(LOG_START_OFFSET_CHECKPOINT, |p, o| {
        p.log_start_offset = Some(o)
    });
    read(REPLICATION_OFFSET_CHECKPOINT, |p, o| {
        p.high_watermark = Some(o)
    });
    read(CLEANER_OFFSET_CHECKPOINT, |p, o| p.cleaned_to = Some(o));
    found.has_recovery_points = has_recovery_points;
    found
}

/// What a checkpoint file says; `None` if there is none, or nothing in it, or it cannot be read.
fn offsets(path: &Path) -> Option<Offsets> {
    let decoded = match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => return None,
        Ok(bytes) => decode_offsets(&bytes).map_err(|e| e.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
    };
    decoded
        .inspect_err(|error| tracing::warn!("{} is left aside: {error}", path.display()))
        .ok()
}

impl Found {
    /// The topics that lie in the directories, for a node that has no metadata of its own yet: another
    /// broker wrote them. Folders without a topic id are no topic's, with a line each.
    pub fn topics(&self) -> Vec<FoundTopic> {
        let mut topics: BTreeMap<(&str, TopicId), Vec<Option<LeaderEpoch>>> = BTreeMap::new();
        for found in &self.partitions {
            let Some(topic_id) = found.topic_id else {
                tracing::warn!("{} has no topic id", found.folder);
                continue;
            };
            let Ok(index) = usize::try_from(found.partition.0) else {
                continue;
            };
            let epochs = topics.entry((&found.topic, topic_id)).or_default();
            if epochs.len() <= index {
                epochs.resize(index + 1, None);
            }
            epochs[index] = self
                .directories
                .get(found.directory)
                .and_then(|dir| last_epoch(&dir.path.join(&found.folder)));
        }
        topics
            .into_iter()
            .map(|((name, topic_id), last_epochs)| FoundTopic {
                name: name.to_owned(),
                topic_id,
                last_epochs,
            })
            .collect()
    }

    /// The directories, and what is to be removed: of the partitions the metadata tells from now on.
    pub fn into_directories(self) -> (Vec<Directory>, Leftovers) {
        (self.directories, self.leftovers)
    }

    /// The names of the partitions' folders.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.partitions.iter().map(|found| found.folder.as_str())
    }

    /// Moves folders aside that the metadata knows nothing of, or under another topic id: the topic was
    /// deleted while the folder was not reached. Nothing is removed. A folder that lost its topic id in a
    /// power cut gets it again.
    ///
    /// Of what is left, each partition has one folder then: see [`settle_moves`].
    pub fn set_strays_aside(&mut self, image: &Image) -> io::Result<()> {
        let mut known = Vec::with_capacity(self.partitions.len());
        for found in self.partitions.drain(..) {
            let directory = &self.directories[found.directory];
            let topic = image.topic_by_name(&found.topic).filter(|topic| {
                topic.partition(found.partition).is_some()
                    && found.topic_id.is_none_or(|id| id == topic.id)
            });
            if let Some(topic) = topic {
                if found.topic_id.is_none() {
                    let text = encode_partition_metadata(topic.id);
                    let folder = directory.path.join(&found.folder);
                    crate::server::data_dir::write_atomically(&folder, PARTITION_METADATA, &text)?;
                }
                known.push(found);
                continue;
            }
            let unique = uuid::Uuid::new_v4().simple();
            let stray = format!("{}.{unique}-stray", found.folder);
            tracing::warn!(
                "{} belongs to no topic of this cluster; it is kept as {stray}",
                found.folder
            );
            fs::rename(
                directory.path.join(&found.folder),
                directory.path.join(stray),
            )?;
            directory.partitions.fetch_sub(1, Ordering::Relaxed);
        }
        self.partitions = known;
        self.settle_moves()
    }

    /// Of two folders of one partition, keeps one: see [`settle_moves`].
    pub(crate) fn settle_moves(&mut self) -> io::Result<()> {
        settle_moves(&self.directories, &mut self.partitions, &mut self.leftovers)
    }
}
