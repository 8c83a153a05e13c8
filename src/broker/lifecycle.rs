//! Partitions come, change and go as the image says.
//!
//! A shard is given an image only when the one before is served, so what is done here happens in the
//! order of the metadata log. Work that a partition's disk refuses takes that partition offline, never
//! the shard.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;

use crate::base::settings::{LogSettings, NodeSettings};
use crate::base::{Offset, PartitionIndex, TopicPartition};
use crate::broker::messages::Checkpoint;
use crate::broker::offload::ShardLog;
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::metadata::{ConfigResource, Delta, Image, PartitionImage, TopicImage};
use crate::replication::LeaderState;
use crate::storage::{Log, LogError, OpenOptions, OpenReport, names};

/// How a shard's partitions came up.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenSummary {
    pub partitions: usize,
    /// Partitions that had to be scanned after an unclean stop.
    pub recovered: usize,
    pub offline: usize,
}

impl Shard {
    /// Opens every partition that this shard owns, recovering those that were not closed cleanly.
    pub async fn open_partitions(self: &Rc<Self>) -> OpenSummary {
        let image = self.image();
        let mut owned = Vec::new();
        for topic in image.topics() {
            for index in 0..topic.partitions.len() {
                let key = TopicPartition::new(topic.id, PartitionIndex(index as i32));
                if self.owner(key) == self.id {
                    owned.push((topic.clone(), key));
                }
            }
        }
        let mut summary = OpenSummary::default();
        let started = std::time::Instant::now();
        let mut said = started;
        let total = owned.len();
        for (done, (topic, key)) in owned.into_iter().enumerate() {
            if let Some(partition) = self.open(&image, &topic, key, &mut summary).await {
                self.insert_partition(partition);
                summary.partitions += 1;
            }
            if said.elapsed() >= Duration::from_secs(1) {
                said = std::time::Instant::now();
                tracing::info!("shard {}: {} of {total} partitions open", self.id, done + 1);
            }
            crate::runtime::executor::yield_now().await;
        }
        summary
    }

    async fn open(
        self: &Rc<Self>,
        image: &Image,
        topic: &TopicImage,
        key: TopicPartition,
        summary: &mut OpenSummary,
    ) -> Option<Rc<Partition>> {
        let partition = topic.partition(key.partition)?;
        if partition.leader != Some(self.broker_id) {
            return None;
        }
        let settings = topic_settings(&self.settings(), image, &topic.name);
        let opened = self.open_log(topic, partition, key, settings.clone()).await;
        let (directory, log, report, high_watermark) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                summary.offline += 1;
                tracing::error!(
                    topic = %topic.name,
                    partition = key.partition.0,
                    "partition is offline: {error}"
                );
                return None;
            }
        };
        if report.recovered_segments > 0 {
            summary.recovered += 1;
        }
        let end = log.log_end_offset();
        let leader = LeaderState::new(
            self.broker_id,
            partition.leader_epoch,
            &partition.replicas,
            &partition.isr,
            end,
            high_watermark.unwrap_or(end),
            wall_clock(),
        );
        Some(Rc::new(Partition::new(
            key,
            topic.name.clone(),
            directory,
            log,
            settings,
            leader,
        )))
    }

    async fn open_log(
        &self,
        topic: &TopicImage,
        partition: &PartitionImage,
        key: TopicPartition,
        settings: Arc<LogSettings>,
    ) -> Result<(usize, Rc<ShardLog>, OpenReport, Option<Offset>), LogError> {
        let name = names::folder_name(&topic.name, key.partition);
        let (index, exists) = self.directories.place(&name, partition);
        let directory = &self.directories.all()[index];
        let path: Arc<Path> = directory.path.join(&name).into();
        let points = directory.points(&name);
        let options = OpenOptions {
            is_clean: directory.clean,
            recovery_point: points.recovery_point.unwrap_or(Offset(0)),
            log_start_offset: points.log_start_offset,
            producer_expiration_ms: i64::try_from(self.settings().producer_id_expiration_ms)
                .unwrap_or(i64::MAX),
            allocation: Some(directory.allocation.clone()),
            now: wall_clock(),
        };
        let disk = self.directories.disk();
        if !exists {
            let log = Log::create(disk, path, settings, topic.id, Offset(0), options).await?;
            return Ok((index, Rc::new(log), OpenReport::default(), None));
        }
        let (log, report) = Log::open(disk, path, settings, options).await?;
        if let Some(damage) = &report.damage {
            tracing::error!(
                topic = %topic.name,
                partition = key.partition.0,
                "damage in the log: it ends at offset {} now; {} bytes were cut off and kept as {:?}",
                damage.offset,
                damage.length,
                damage.kept
            );
        }
        Ok((index, Rc::new(log), report, points.high_watermark))
    }

    /// Makes this shard serve `image`.
    pub(crate) async fn apply_image(self: &Rc<Self>, image: Arc<Image>, delta: &Delta) {
        let mut summary = OpenSummary::default();
        for topic in &delta.topics_deleted {
            for index in 0..topic.partitions.len() {
                self.delete(TopicPartition::new(topic.id, PartitionIndex(index as i32)))
                    .await;
            }
        }
        let created = delta.topics_created.iter().flat_map(|topic| {
            (0..topic.partitions.len())
                .map(|index| TopicPartition::new(topic.id, PartitionIndex(index as i32)))
        });
        let new: Vec<TopicPartition> = created
            .chain(delta.partitions_added.iter().copied())
            .filter(|&key| self.owner(key) == self.id)
            .collect();
        for key in new {
            let Some(topic) = image.topic(key.topic_id).cloned() else {
                continue;
            };
            if let Some(partition) = self.open(&image, &topic, key, &mut summary).await {
                self.insert_partition(partition);
            }
            crate::runtime::executor::yield_now().await;
        }
        let all_changed = delta.configs_changed.iter().any(|resource| {
            matches!(resource, ConfigResource::BrokerDefault)
                || *resource == ConfigResource::Broker(self.broker_id)
        });
        let changed = |topic: &str| {
            all_changed
                || delta
                    .configs_changed
                    .contains(&ConfigResource::Topic(topic.to_owned()))
        };
        self.set_image(image.clone());
        if !delta.configs_changed.is_empty() {
            for partition in self.all_partitions() {
                if changed(&partition.topic) {
                    self.resolve_settings(&image, &partition);
                }
            }
        }
    }

    /// Node settings that changed at run time.
    pub(crate) fn change_settings(self: &Rc<Self>, settings: Arc<NodeSettings>) {
        self.set_settings(settings);
        let image = self.image();
        for partition in self.all_partitions() {
            self.resolve_settings(&image, &partition);
        }
    }

    fn resolve_settings(self: &Rc<Self>, image: &Image, partition: &Rc<Partition>) {
        let settings = topic_settings(&self.settings(), image, &partition.topic);
        partition.log.set_settings(settings.clone());
        partition.set_settings(settings);
        // Appends that nobody flushed may be due by the new settings.
        if partition.wants_flush_now() {
            self.mark_flush(partition);
        }
    }

    /// Takes a partition out of service at once, and its folder out of the way; the bytes go after
    /// `file.delete.delay.ms`.
    async fn delete(self: &Rc<Self>, key: TopicPartition) {
        let Some(partition) = self.remove_partition(key) else {
            return;
        };
        let moved = partition.close();
        self.settle(moved);
        let unique = uuid::Uuid::new_v4().as_u128();
        let name = names::deleted_folder_name(&partition.topic, key.partition, unique);
        let Some(parent) = partition.log.dir().parent().map(PathBuf::from) else {
            return;
        };
        let to = parent.join(name);
        if let Err(error) = partition.log.rename_deleted(&to).await {
            tracing::error!(
                topic = %partition.topic,
                partition = key.partition.0,
                "folder of a deleted partition cannot be renamed: {error}"
            );
            return;
        }
        let delay = Duration::from_millis(partition.settings().file_delete_delay_ms);
        let directories = self.directories.clone();
        spawn(async move {
            Timer::new(delay).await;
            directories.remove_folder(&to).await;
        });
    }

    /// What a checkpoint holds of this shard's partitions.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.all_partitions()
            .iter()
            .map(|partition| Checkpoint {
                directory: partition.directory,
                topic: partition.topic.clone(),
                partition: partition.key.partition,
                recovery_point: partition.log.recovery_point(),
                log_start_offset: partition.log.log_start_offset(),
                high_watermark: partition.high_watermark(),
                log_end_offset: partition.log.log_end_offset(),
                size_bytes: partition.log.size_bytes(),
            })
            .collect()
    }

    /// Writes and flushes everything and closes the logs. Returns whether all of them closed cleanly.
    pub(crate) async fn close_partitions(self: &Rc<Self>) -> bool {
        let mut clean = true;
        for partition in self.all_partitions() {
            if partition.log.failure().is_some() {
                clean = false;
                continue;
            }
            if let Err(error) = partition.log.close(wall_clock()).await {
                clean = false;
                tracing::error!(
                    topic = %partition.topic,
                    partition = partition.key.partition.0,
                    "log could not be closed cleanly: {error}"
                );
            }
            crate::runtime::executor::yield_now().await;
        }
        clean
    }
}

/// The settings of a topic: its own, else the node's. What is stored was checked when it was set; if a
/// later version finds it wrong, the node's settings serve and a line says so.
pub fn topic_settings(node: &NodeSettings, image: &Image, topic: &str) -> Arc<LogSettings> {
    let overrides = image.topic_configs(topic);
    match LogSettings::resolve(node, overrides) {
        Ok(settings) => Arc::new(settings),
        Err(error) => {
            tracing::error!(%topic, "settings of the topic are not valid and are left out: {error}");
            match LogSettings::resolve(node, &Default::default()) {
                Ok(settings) => Arc::new(settings),
                Err(error) => unreachable!("the node's own settings were checked: {error}"),
            }
        }
    }
}
