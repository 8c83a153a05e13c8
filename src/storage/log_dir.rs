//! A data directory: which partitions are in it, and the files that speak of all of them.
//!
//! The order at a start: [`take_clean_shutdown_mark`] (removed, and its removal synced, before anything
//! is loaded, so that a crash while loading is not taken for a clean stop), [`scan`], then each log is
//! opened. At a stop: every log closed, the checkpoints written, then [`write_clean_shutdown_mark`].

use std::path::{Path, PathBuf};

use super::checkpoint::{
    LOG_START_OFFSET_CHECKPOINT, Offsets, RECOVERY_POINT_CHECKPOINT, REPLICATION_OFFSET_CHECKPOINT,
    decode_offsets, decode_partition_metadata, encode_clean_shutdown, encode_offsets,
    encode_partition_metadata,
};
use super::disk::{Disk, OpenMode};
use super::epoch_cache::{EpochCache, LEADER_EPOCH_CHECKPOINT};
use super::error::{Failure, LogError, Operation};
use super::names::{
    CLEAN_SHUTDOWN, FileKind, Folder, PARTITION_METADATA, parse_file_name, parse_folder,
};
use super::scan::{CheckedScan, Scanned};
use super::segment::{HeaderWalk, Step};
use crate::base::{LeaderEpoch, Offset, PartitionIndex, TopicId};

/// Largest checkpoint that is read: room for a million partitions.
const MAX_CHECKPOINT_BYTES: usize = 256 * 1024 * 1024;
/// Largest `partition.metadata` that is read.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// A partition's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPartition {
    pub topic: String,
    pub partition: PartitionIndex,
    pub dir: PathBuf,
    /// From `partition.metadata`; `None` if that is missing or says nothing.
    pub topic_id: Option<TopicId>,
    /// Why `partition.metadata` could not be read.
    pub metadata_error: Option<String>,
}

/// What is in a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataDir {
    pub partitions: Vec<FoundPartition>,
    /// Folders of deleted partitions, to be removed with [`Disk::remove_dir_all`].
    pub deleted: Vec<PathBuf>,
    /// Folders that are Kafka's, not ours to touch.
    pub left_alone: Vec<PathBuf>,
    /// Other folders.
    pub unknown: Vec<PathBuf>,
    pub recovery_points: Offsets,
    pub log_start_offsets: Offsets,
    pub high_watermarks: Offsets,
    /// Checkpoints that could not be read, and why: they count as empty, which costs time, not records.
    pub bad_checkpoints: Vec<(PathBuf, String)>,
}

impl DataDir {
    /// The entry of a checkpoint for a partition.
    pub fn offset_of(offsets: &Offsets, topic: &str, partition: PartitionIndex) -> Option<Offset> {
        offsets.get(&(topic.to_owned(), partition)).copied()
    }
}

/// Looks through a data directory. Changes nothing.
pub async fn scan<D: Disk>(disk: &D, dir: &Path) -> Result<DataDir, LogError> {
    let entries = disk
        .list(dir)
        .await
        .map_err(|error| LogError::Io(Failure::new(Operation::List, dir, error)))?;
    let mut found = DataDir::default();
    for entry in entries.into_iter().filter(|entry| entry.is_dir) {
        let path = dir.join(&entry.name);
        match parse_folder(&entry.name) {
            Folder::Partition { topic, partition } => {
                let (topic_id, metadata_error) = read_metadata(disk, &path).await;
                found.partitions.push(FoundPartition {
                    topic,
                    partition,
                    dir: path,
                    topic_id,
                    metadata_error,
                });
            }
            Folder::Deleted => found.deleted.push(path),
            Folder::LeftAlone => found.left_alone.push(path),
            Folder::Other => found.unknown.push(path),
        }
    }
    let bad = &mut found.bad_checkpoints;
    found.recovery_points = read_offsets(disk, dir, RECOVERY_POINT_CHECKPOINT, bad).await;
    found.log_start_offsets = read_offsets(disk, dir, LOG_START_OFFSET_CHECKPOINT, bad).await;
    found.high_watermarks = read_offsets(disk, dir, REPLICATION_OFFSET_CHECKPOINT, bad).await;
    Ok(found)
}

async fn read_metadata<D: Disk>(disk: &D, dir: &Path) -> (Option<TopicId>, Option<String>) {
    let path = dir.join(PARTITION_METADATA);
    match disk.read_file(&path, MAX_METADATA_BYTES).await {
        Ok(bytes) => match decode_partition_metadata(&bytes) {
            Ok(topic_id) => (topic_id, None),
            Err(error) => (None, Some(error.to_string())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, None),
        Err(error) => (None, Some(error.to_string())),
    }
}

async fn read_offsets<D: Disk>(
    disk: &D,
    dir: &Path,
    name: &str,
    bad: &mut Vec<(PathBuf, String)>,
) -> Offsets {
    let path = dir.join(name);
    let problem = match disk.read_file(&path, MAX_CHECKPOINT_BYTES).await {
        Ok(bytes) => match decode_offsets(&bytes) {
            Ok(offsets) => return offsets,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Offsets::new(),
        Err(error) => error.to_string(),
    };
    bad.push((path, problem));
    Offsets::new()
}

/// The greatest leader epoch that a partition's folder knows of: in `leader-epoch-checkpoint`, which a
/// broker that was killed may not have written, or in the batches at the end of the log. `None` if there
/// are none, or nothing can be read.
pub async fn last_epoch<D: Disk>(disk: &D, partition_dir: &Path) -> Option<LeaderEpoch> {
    let path = partition_dir.join(LEADER_EPOCH_CHECKPOINT);
    let checkpoint = match disk.read_file(&path, MAX_CHECKPOINT_BYTES).await {
        Ok(bytes) => EpochCache::decode(&bytes).unwrap_or_default(),
        Err(_) => EpochCache::new(),
    };
    let in_checkpoint = checkpoint.latest_epoch();
    in_checkpoint.max(last_epoch_in_log(disk, partition_dir).await)
}

/// The greatest leader epoch of the batches in the last segment that has one. Epochs ascend along a log.
async fn last_epoch_in_log<D: Disk>(disk: &D, partition_dir: &Path) -> Option<LeaderEpoch> {
    let mut names = disk.list(partition_dir).await.ok()?;
    names.retain(|entry| matches!(parse_file_name(&entry.name), Some((_, FileKind::Log))));
    for entry in names.iter().rev().filter(|entry| entry.len > 0) {
        let path = partition_dir.join(&entry.name);
        let Ok(file) = disk.open(&path, OpenMode::Read).await else {
            continue;
        };
        let mut last = None;
        let mut walk = HeaderWalk::new(file.clone(), 0, entry.len);
        while let Ok(Step::Batch { position, header }) = walk.next().await {
            let epoch = Some(header.partition_leader_epoch).filter(|epoch| epoch.0 >= 0);
            if epoch <= last {
                continue;
            }
            // What looks like a batch behind the end of the log must not set an epoch.
            let end = position + header.size_in_bytes() as u64;
            if !matches!(
                CheckedScan::at(file.clone(), position, end).next().await,
                Ok(Scanned::Batch { .. })
            ) {
                break;
            }
            last = epoch;
        }
        if last.is_some() {
            return last;
        }
    }
    None
}

/// Writes one of the offset checkpoints, atomically and durably.
pub async fn write_offsets<D: Disk>(
    disk: &D,
    dir: &Path,
    name: &str,
    offsets: impl IntoIterator<Item = (&str, PartitionIndex, Offset)>,
) -> Result<(), LogError> {
    replace(disk, &dir.join(name), &encode_offsets(offsets)).await
}

/// Writes a partition's `partition.metadata`, durably: for one that has lost it.
pub async fn write_partition_metadata<D: Disk>(
    disk: &D,
    partition_dir: &Path,
    topic_id: TopicId,
) -> Result<(), LogError> {
    let content = encode_partition_metadata(topic_id);
    replace(disk, &partition_dir.join(PARTITION_METADATA), &content).await
}

/// Removes the clean-shutdown mark; true if it was there. Its removal survives a power cut.
pub async fn take_clean_shutdown_mark<D: Disk>(disk: &D, dir: &Path) -> Result<bool, LogError> {
    let path = dir.join(CLEAN_SHUTDOWN);
    let was_there = match disk.remove_file(&path).await {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(LogError::Io(Failure::new(Operation::Remove, &path, error))),
    };
    // Where it is gone, a process may have taken it that was killed before this: it must not come back when files have
    // been changed.
    match disk.sync_dir(dir).await {
        Ok(()) => Ok(was_there),
        Err(error) => Err(LogError::Io(Failure::new(Operation::Sync, dir, error))),
    }
}

/// Leaves the mark of a clean stop. `broker_epoch` is -1 if there is none.
pub async fn write_clean_shutdown_mark<D: Disk>(
    disk: &D,
    dir: &Path,
    broker_epoch: i64,
) -> Result<(), LogError> {
    let content = encode_clean_shutdown(broker_epoch);
    replace(disk, &dir.join(CLEAN_SHUTDOWN), &content).await
}

async fn replace<D: Disk>(disk: &D, path: &Path, content: &[u8]) -> Result<(), LogError> {
    disk.replace_file(path, content)
        .await
        .map_err(|error| LogError::Io(Failure::new(Operation::Checkpoint, path, error)))
}
