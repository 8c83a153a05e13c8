//! What lies in the data directories when the node starts, and the checkpoints it leaves.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Offset, PartitionIndex, TopicId};
use crate::broker::messages::Checkpoint;
use crate::broker::offload::{Directory, Points};
use crate::controller::FoundTopic;
use crate::metadata::Image;
use crate::server::data_dir::{DataDir, DataDirs};
use crate::storage::AllocationBudget;
use crate::storage::checkpoint::{
    LOG_START_OFFSET_CHECKPOINT, Offsets, RECOVERY_POINT_CHECKPOINT, REPLICATION_OFFSET_CHECKPOINT,
    decode_offsets, decode_partition_metadata, encode_offsets,
};
use crate::storage::names::{self, Folder};

/// Bytes that the logs of one directory may have allocated ahead of what is written.
const ALLOCATED_AHEAD_BYTES: u64 = 4 << 30;

/// A `partition.metadata` is two short lines.
const PARTITION_METADATA: &str = "partition.metadata";

/// A partition's folder.
#[derive(Debug)]
struct FoundPartition {
    directory: usize,
    folder: String,
    topic: String,
    partition: PartitionIndex,
    /// From `partition.metadata`; none if there is no such file, as before Kafka 2.8.
    topic_id: Option<TopicId>,
}

/// What was found.
pub struct Found {
    pub directories: Vec<Directory>,
    partitions: Vec<FoundPartition>,
}

/// Looks through the directories: partitions, checkpoints, leftovers of deleted topics, which go.
pub fn scan(dirs: &DataDirs) -> io::Result<Found> {
    let mut directories = Vec::new();
    let mut partitions = Vec::new();
    for (directory, dir) in dirs.data().iter().enumerate() {
        for entry in fs::read_dir(&dir.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !entry.file_type()?.is_dir() {
                continue;
            }
            match names::parse_folder(&name) {
                Folder::Partition { topic, partition } => partitions.push(FoundPartition {
                    directory,
                    topic_id: topic_id(&entry.path())?,
                    folder: name,
                    topic,
                    partition,
                }),
                Folder::Deleted => {
                    if let Err(error) = fs::remove_dir_all(entry.path()) {
                        tracing::warn!("{} cannot be removed: {error}", entry.path().display());
                    }
                }
                Folder::LeftAlone | Folder::Other => {}
            }
        }
        directories.push(Directory {
            path: dir.path.clone(),
            id: crate::metadata::DirectoryId(dir.directory_id.0),
            clean: dir.clean_stop.is_some(),
            points: points(&dir.path),
            allocation: Arc::new(AllocationBudget::new(ALLOCATED_AHEAD_BYTES)),
        });
    }
    Ok(Found {
        directories,
        partitions,
    })
}

fn topic_id(folder: &Path) -> io::Result<Option<TopicId>> {
    let path = folder.join(PARTITION_METADATA);
    match fs::read(&path) {
        Ok(bytes) => decode_partition_metadata(&bytes).map_err(|error| {
            let text = format!("{}: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the checkpoint files say, by folder name. One that cannot be read is as if it were not there:
/// more is recovered than needed, and nothing is lost.
fn points(dir: &Path) -> HashMap<String, Points> {
    let mut points: HashMap<String, Points> = HashMap::new();
    let mut read = |file: &str, put: fn(&mut Points, Offset)| {
        for ((topic, partition), offset) in offsets(&dir.join(file)) {
            let folder = names::folder_name(&topic, partition);
            put(points.entry(folder).or_default(), offset);
        }
    };
    read(RECOVERY_POINT_CHECKPOINT, |p, o| p.recovery_point = Some(o));
    read(LOG_START_OFFSET_CHECKPOINT, |p, o| {
        p.log_start_offset = Some(o)
    });
    read(REPLICATION_OFFSET_CHECKPOINT, |p, o| {
        p.high_watermark = Some(o)
    });
    points
}

fn offsets(path: &Path) -> Offsets {
    let decoded = match fs::read(path) {
        Ok(bytes) => decode_offsets(&bytes).map_err(|e| e.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Offsets::new(),
        Err(error) => Err(error.to_string()),
    };
    decoded.unwrap_or_else(|error| {
        tracing::warn!("{} is left aside: {error}", path.display());
        Offsets::new()
    })
}

impl Found {
    /// The topics that lie in the directories, for a node that has no metadata of its own yet: another
    /// broker wrote them. Folders without a topic id are left alone, with a line each.
    pub fn topics(&self) -> Vec<FoundTopic> {
        let mut topics: BTreeMap<(&str, TopicId), usize> = BTreeMap::new();
        for found in &self.partitions {
            let Some(topic_id) = found.topic_id else {
                tracing::warn!("{} has no topic id and is left alone", found.folder);
                continue;
            };
            let count = usize::try_from(found.partition.0).map_or(0, |index| index + 1);
            let most = topics.entry((&found.topic, topic_id)).or_default();
            *most = count.max(*most);
        }
        topics
            .into_iter()
            .map(|((name, topic_id), partitions)| FoundTopic {
                name: name.to_owned(),
                topic_id,
                partitions,
            })
            .collect()
    }

    /// Moves folders aside that the metadata knows nothing of, or under another topic id: the topic was
    /// deleted while the folder was not reached. Nothing is removed.
    pub fn set_strays_aside(&self, image: &Image) -> io::Result<()> {
        for found in &self.partitions {
            let known = image.topic_by_name(&found.topic).is_some_and(|topic| {
                topic.partition(found.partition).is_some()
                    && found.topic_id.is_none_or(|id| id == topic.id)
            });
            if known {
                continue;
            }
            let Some(directory) = self.directories.get(found.directory) else {
                continue;
            };
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
        }
        Ok(())
    }
}

/// Writes the checkpoint files of every directory.
pub fn write_checkpoints(dirs: &[DataDir], checkpoints: &[Checkpoint]) -> io::Result<()> {
    for (index, dir) in dirs.iter().enumerate() {
        let write = |file: &str, of: fn(&Checkpoint) -> Option<Offset>| {
            let entries = checkpoints
                .iter()
                .filter(|c| c.directory == index)
                .filter_map(|c| Some((&*c.topic, c.partition, of(c)?)));
            crate::server::data_dir::write_atomically(&dir.path, file, &encode_offsets(entries))
        };
        write(RECOVERY_POINT_CHECKPOINT, |c| Some(c.recovery_point))?;
        // A log that starts at its first segment's start needs no line.
        write(LOG_START_OFFSET_CHECKPOINT, |c| {
            (c.log_start_offset > Offset(0)).then_some(c.log_start_offset)
        })?;
        write(REPLICATION_OFFSET_CHECKPOINT, |c| Some(c.high_watermark))?;
    }
    Ok(())
}
