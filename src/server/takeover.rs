//! A node without metadata of its own takes over what another broker left in its data directories.
//!
//! With a metadata log of Apache Kafka beside the partitions, it takes topics, ids, settings and producer
//! ids from that: [`find`], before anything is changed, and [`take_over`]. Without one it takes the folders
//! for what they are, and keeps everything in them: [`adopt`].
//!
//! Either is one-way: Kafka's metadata log is left as it is, and learns nothing of what changes here.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use crate::broker::shard::wall_clock;
use crate::controller::quorum::ControllerService;
use crate::controller::{self, AnySetting, TakenOver};
use crate::metadata::kraft::Cluster;
use crate::metadata::{DirectoryId, Image};
use crate::server::data::Found;
use crate::server::data_dir::LockedDirs;
use crate::server::error::StartError;
use crate::server::kraft_log;
use crate::server::node::NodeError;

/// 2^20 producer ids for each second between two times that directories are taken over.
const PRODUCER_IDS_PER_SECOND_LOG2: u32 = 20;

/// Names in one line of the log.
const NAMES_SHOWN: usize = 10;
/// Lines about settings that are left out.
const REFUSED_SHOWN: usize = 100;

/// The data directories as they were before loading began.
#[derive(Clone, Debug)]
pub struct Before {
    paths: Vec<PathBuf>,
    directories: Vec<DirectoryId>,
    /// Whoever wrote there last stopped cleanly.
    clean: bool,
}

impl Before {
    pub fn of(dirs: &LockedDirs) -> Before {
        let directories = dirs.directory_ids().into_iter();
        Before {
            paths: dirs.paths().map(PathBuf::from).collect(),
            directories: directories.map(|id| DirectoryId(id.0)).collect(),
            clean: dirs.stopped_cleanly(),
        }
    }
}

/// A cluster that can be taken over.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    cluster: Cluster,
}

/// The cluster whose metadata lies in the directories; none where there is no metadata of Apache Kafka.
/// That it can be taken over is asked here, so that nothing is changed where it cannot.
pub fn find(before: &Before, node_id: BrokerId) -> Result<Option<Kafka>, StartError> {
    let paths = before.paths.iter().map(PathBuf::as_path);
    let Some((folder, cluster)) = kraft_log::read(paths, before.clean)? else {
        return Ok(None);
    };
    let (image, none) = (Image::default(), |_: TopicId, _: PartitionIndex| None);
    let directories = &before.directories;
    match controller::take_over(&image, &AnySetting, node_id, directories, &cluster, &none) {
        Ok(_) => Ok(Some(Kafka { folder, cluster })),
        Err(error) => Err(StartError::TakeOver {
            path: folder,
            why: error.to_string(),
        }),
    }
}

/// Takes a cluster of Apache Kafka over, and says so.
pub async fn take_over(
    service: &ControllerService,
    node_id: BrokerId,
    kafka: Kafka,
    before: &Before,
    found: &Found,
) -> Result<(), NodeError> {
    let Kafka { folder, cluster } = kafka;
    let (mut last_epochs, mut folders) = (HashMap::new(), BTreeSet::new());
    for topic in found.topics() {
        for (index, epoch) in (0..).map(PartitionIndex).zip(topic.last_epochs) {
            if let Some(epoch) = epoch {
                last_epochs.insert((topic.topic_id, index), epoch);
            }
        }
    }
    folders.extend(found.folders());
    let last_epoch = |topic: TopicId, partition: PartitionIndex| -> Option<LeaderEpoch> {
        last_epochs.get(&(topic, partition)).copied()
    };
    let committed = service
        .take_over(node_id, &before.directories, &cluster, &last_epoch)
        .await?;
    let taken = committed.into_response();
    let taken = taken.map_err(|error| {
        NodeError::Start(StartError::TakeOver {
            path: folder.clone(),
            why: error.to_string(),
        })
    })?;
    tracing::warn!(
        "the cluster of Apache Kafka in {} was taken over: {} topics with {} partitions, {} settings; this is \
         one-way, its metadata does not learn what changes from now on",
        folder.display(),
        taken.topics,
        taken.partitions,
        taken.settings
    );
    say_what_differs(&taken);
    let empty: Vec<String> = cluster
        .topics()
        .flat_map(|(_, topic)| {
            let name = &topic.name;
            let numbers = topic.partitions.keys();
            numbers.map(move |number| crate::storage::names::folder_name(name, *number))
        })
        .filter(|folder| !folders.contains(folder.as_str()))
        .collect();
    if !empty.is_empty() {
        tracing::warn!(
            "{} partitions have no folder and begin empty: {}",
            empty.len(),
            some(&empty)
        );
    }
    Ok(())
}

fn say_what_differs(taken: &TakenOver) {
    for refused in taken.refused.iter().take(REFUSED_SHOWN) {
        tracing::warn!("a setting was not taken over: {refused}");
    }
    if let Some(more) = taken.refused.len().checked_sub(REFUSED_SHOWN + 1) {
        tracing::warn!("{} more settings were not taken over", more + 1);
    }
    for (what, count, whose) in &taken.left_behind {
        tracing::warn!("{count} {what} were not taken over: of {}", some(whose));
    }
    if !taken.follow_the_node.is_empty() {
        tracing::warn!(
            "{} topics have no retention of their own, and follow log.retention.* of this node's settings, \
             not of Kafka's server.properties: {}",
            taken.follow_the_node.len(),
            some(&taken.follow_the_node)
        );
    }
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).cloned();
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// Takes over topics of which there is nothing but folders.
pub async fn adopt(
    service: &ControllerService,
    node_id: BrokerId,
    found: &Found,
) -> Result<(), NodeError> {
    let topics = found.topics();
    if topics.is_empty() {
        return Ok(());
    }
    // Theirs began at 0; ours begin where no cluster comes to by counting, and later at each taking over.
    let seconds = wall_clock().0 / 1000;
    let first_producer_id = ProducerId(seconds << PRODUCER_IDS_PER_SECOND_LOG2);
    let committed = service
        .adopt_topics(node_id, &topics, first_producer_id)
        .await?;
    let refused = committed.into_response();
    for error in &refused {
        tracing::error!("{error}; its folders are set aside as -stray, with all that is in them");
    }
    tracing::warn!(
        "{} topics of another broker were taken over; their settings are not known, so they keep \
         everything (retention.ms=-1, retention.bytes=-1) until you set them",
        topics.len().saturating_sub(refused.len())
    );
    Ok(())
}
