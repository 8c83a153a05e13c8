//! Partitions come, change and go as the image says.
//!
//! A shard is given an image only when the one before is served, so what is done here happens in the
//! order of the metadata log. Work that a partition's disk refuses takes that partition offline, never
//! the shard.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::base::settings::{LogSettings, NodeSettings};
use crate::base::{Offset, PartitionIndex, TopicId, TopicPartition};
use crate::broker::messages::Checkpoint;
use crate::broker::offload::{Points, ShardLog};
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::metadata::{ConfigResource, Delta, Image, PartitionImage, TopicImage};
use crate::replication::LeaderState;
use crate::runtime::executor;
use crate::storage::{Disk, Log, LogError, OpenOptions, OpenReport, names};

/// How a shard's partitions came up.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenSummary {
    pub partitions: usize,
    /// Partitions that had to be scanned after an unclean stop.
    pub recovered: usize,
    pub offline: usize,
}

/// Partitions that are opened, made, deleted or closed at once on a shard: each is a few calls to the helper
/// thread, which sleeps between two of one partition, and works between those of many.
const AT_ONCE: usize = 16;

/// The same at the start: after a crash each has syncs to wait for, and the more of them wait together, the fewer
/// commits a file system's journal makes of them.
const AT_ONCE_AT_START: usize = 64;

/// What came of opening a partition.
enum Opened {
    Serves {
        recovered: bool,
    },
    Offline,
    /// Another node leads it.
    NotOurs,
}

/// A partition whose log could not be opened. What the checkpoints say of it is kept.
pub(crate) struct Offline {
    topic: Arc<str>,
    directory: usize,
    points: Points,
}

impl Shard {
    /// Opens every partition that this shard owns, recovering those that were not closed cleanly.
    pub async fn open_partitions(self: &Rc<Self>) -> OpenSummary {
        let image = self.image();
        let owned = image
            .topics()
            .flat_map(partitions_of)
            .filter(|&(_, key)| self.owner(key) == self.id)
            .collect();
        self.open_all(&image, owned, false, AT_ONCE_AT_START).await
    }

    /// Opens or makes these, and serves those that opened. `are_new`: they came to be while the node ran.
    async fn open_all(
        self: &Rc<Self>,
        image: &Arc<Image>,
        keys: Vec<(Arc<TopicImage>, TopicPartition)>,
        are_new: bool,
        limit: usize,
    ) -> OpenSummary {
        let mut summary = OpenSummary::default();
        let mut said = Instant::now();
        let (mut done, total) = (0, keys.len());
        let ours = keys
            .iter()
            .filter(|(topic, key)| self.leads(topic, *key).is_some())
            .map(|(topic, key)| ((topic.name.clone(), key.partition), topic.id))
            .collect();
        let way = self.directories.make_way(ours, are_new).await;
        let stale = way.err().map(|error| -> Arc<str> {
            format!("it may be taken for another of its name: {error}").into()
        });
        let mut resolved = Resolved::default();
        let jobs = keys.into_iter().map(|(topic, key)| {
            let shard = self.clone();
            let settings = resolved.of(&self.settings(), image, key, &topic.name);
            let stale = stale.clone();
            async move { shard.open(&topic, key, settings, are_new, stale).await }
        });
        at_once(limit, jobs, |opened| {
            done += 1;
            match opened {
                Opened::Serves { recovered } => {
                    summary.partitions += 1;
                    summary.recovered += usize::from(recovered);
                }
                Opened::Offline => summary.offline += 1,
                Opened::NotOurs => {}
            }
            if said.elapsed() >= Duration::from_secs(1) {
                said = Instant::now();
                tracing::info!("shard {}: {done} of {total} partitions open", self.id);
            }
        })
        .await;
        summary
    }

    /// The partition, if it is this node's.
    fn leads<'a>(&self, topic: &'a TopicImage, key: TopicPartition) -> Option<&'a PartitionImage> {
        let partition: &PartitionImage = topic.partition(key.partition)?;
        (partition.leader == Some(self.broker_id)).then_some(partition)
    }

    /// `stale`: why one that is made now may be taken for another: the checkpoint files may have an entry of it, or a
    /// directory its folder.
    async fn open(
        self: &Rc<Self>,
        topic: &TopicImage,
        key: TopicPartition,
        settings: Arc<LogSettings>,
        is_new: bool,
        stale: Option<Arc<str>>,
    ) -> Opened {
        let Some(partition) = self.leads(topic, key) else {
            return Opened::NotOurs;
        };
        let name = names::folder_name(&topic.name, key.partition);
        let found = self.directories.find(&name);
        // One that is nowhere may lie in a directory that cannot be read: made anew, it would be empty.
        let hidden = match found {
            None if !is_new => self.directories.first_failed(),
            _ => None,
        };
        let place = || self.directories.place(partition);
        let directory = found.or(hidden).unwrap_or_else(place);
        let points = match found.or(hidden) {
            Some(directory) => self.directories.all()[directory].points(&name),
            None => Points::default(),
        };
        let failure = self.directories.all()[directory].failure();
        let stale = stale.as_deref().filter(|_| is_new || found.is_none());
        let opened = match failure.or(stale) {
            Some(why) => Err(why.to_owned()),
            None => self
                .open_log(
                    topic,
                    key,
                    directory,
                    found.is_some(),
                    points,
                    settings.clone(),
                )
                .await
                .map_err(|error| error.to_string()),
        };
        let (log, report) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let topic = topic.name.clone();
                tracing::error!(%topic, partition = key.partition.0, "partition is offline: {error}");
                let offline = Offline {
                    topic,
                    directory,
                    points,
                };
                self.offline().insert(key, offline);
                return Opened::Offline;
            }
        };
        let end = log.log_end_offset();
        let leader = LeaderState::new(
            self.broker_id,
            partition.leader_epoch,
            &partition.replicas,
            &partition.isr,
            end,
            points.high_watermark.unwrap_or(end),
            wall_clock(),
        );
        let topic = topic.name.clone();
        let partition = Partition::new(key, topic, directory, log, settings, leader);
        let partition = Rc::new(partition);
        self.insert_partition(partition.clone());
        self.coordinators.open(self, &partition);
        if let Some(to) = self.directories.expected(&name)
            && !is_new
        {
            // It was asked for before the stop, and a log that is offline stays where it is. A new one of that name is
            // another.
            let _ = self.move_replica(key, to);
        }
        let counters = self.counters();
        if report.recovered_segments > 0 {
            counters.recovered_partitions.inc();
            self.mark_recovered(&partition);
        }
        counters.recovered_bytes.add(report.recovered_bytes);
        counters.recovery_cut_bytes.add(report.truncated_bytes);
        counters.index_rebuilds.add(report.rebuilt_indexes as u64);
        Opened::Serves {
            recovered: report.recovered_segments > 0,
        }
    }

    async fn open_log(
        &self,
        topic: &TopicImage,
        key: TopicPartition,
        directory: usize,
        exists: bool,
        points: Points,
        settings: Arc<LogSettings>,
    ) -> Result<(Rc<ShardLog>, OpenReport), LogError> {
        let name = names::folder_name(&topic.name, key.partition);
        let directory = &self.directories.all()[directory];
        let path: Arc<Path> = directory.path.join(&name).into();
        let options = OpenOptions {
            is_clean: directory.clean,
            recovery_point: points.recovery_point.unwrap_or(Offset(0)),
            log_start_offset: points.log_start_offset,
            cleaned_to: points.cleaned_to,
            has_checkpoint: directory.has_checkpoint,
            producer_expiration_ms: i64::try_from(self.settings().producer_id_expiration_ms)
                .unwrap_or(i64::MAX),
            allocation: Some(directory.allocation.clone()),
            now: wall_clock(),
        };
        let disk = self.directories.disk();
        if !exists {
            let log = Log::create(disk, path, settings, topic.id, Offset(0), options).await?;
            return Ok((Rc::new(log), OpenReport::default()));
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
        for path in &report.unusable {
            let path = path.display();
            // What nobody had synced is seldom whole after a power cut.
            match directory.clean {
                true => tracing::warn!(
                    topic = %topic.name,
                    partition = key.partition.0,
                    "{path} is not what was written: it is made anew, or done without"
                ),
                false => tracing::info!(
                    topic = %topic.name,
                    partition = key.partition.0,
                    "{path} cannot be used: it is made anew, or done without"
                ),
            }
        }
        if report.rebuilt_indexes > 0 {
            tracing::warn!(
                topic = %topic.name,
                partition = key.partition.0,
                "indexes of {} segments were missing or did not fit, and are made anew",
                report.rebuilt_indexes
            );
        }
        if report.truncated_bytes > 0 {
            tracing::warn!(
                topic = %topic.name,
                partition = key.partition.0,
                "{} bytes of a write that was cut off were removed from the end of the log",
                report.truncated_bytes
            );
        }
        Ok((Rc::new(log), report))
    }

    /// Makes this shard serve `image`.
    pub(crate) async fn apply_image(self: &Rc<Self>, image: Arc<Image>, delta: &Delta) {
        let deleted = delta.topics_deleted.iter().flat_map(partitions_of);
        let jobs = deleted.map(|(_, key)| {
            let shard = self.clone();
            async move { shard.delete(key).await }
        });
        at_once(AT_ONCE, jobs.collect::<Vec<_>>(), |()| ()).await;
        let added = delta
            .partitions_added
            .iter()
            .filter_map(|key| Some((image.topic(key.topic_id)?.clone(), *key)));
        let new = delta
            .topics_created
            .iter()
            .flat_map(partitions_of)
            .chain(added)
            .filter(|&(_, key)| self.owner(key) == self.id)
            .collect();
        self.open_all(&image, new, true, AT_ONCE).await;
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
        self.coordinators.image_changed(self, delta);
        if !delta.configs_changed.is_empty() {
            let mut resolved = Resolved::default();
            for partition in self.all_partitions() {
                if changed(&partition.topic) {
                    self.resolve_settings(&image, &partition, &mut resolved);
                }
            }
        }
    }

    /// Node settings that changed at run time.
    pub(crate) fn change_settings(self: &Rc<Self>, settings: Arc<NodeSettings>) {
        self.set_settings(settings);
        let image = self.image();
        let mut resolved = Resolved::default();
        for partition in self.all_partitions() {
            self.resolve_settings(&image, &partition, &mut resolved);
        }
    }

    fn resolve_settings(
        self: &Rc<Self>,
        image: &Image,
        partition: &Rc<Partition>,
        resolved: &mut Resolved,
    ) {
        let settings = resolved.of(&self.settings(), image, partition.key, &partition.topic);
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
        self.end_move(key).await;
        let Some(partition) = self.remove_partition(key) else {
            self.delete_offline(key).await;
            return;
        };
        self.coordinators.close(&partition);
        let moved = partition.close();
        self.settle(moved);
        let Some(parent) = partition.log.dir().parent().map(PathBuf::from) else {
            return;
        };
        let to = parent.join(deleted_name(&partition.topic, key));
        if let Err(error) = partition.log.rename_deleted(&to).await {
            tracing::error!(
                topic = %partition.topic,
                partition = key.partition.0,
                "folder of a deleted partition cannot be renamed: {error}"
            );
            return;
        }
        let directory = &self.directories.all()[partition.directory];
        directory.deleted.fetch_add(1, Ordering::Relaxed);
        let delay = Duration::from_millis(partition.settings().file_delete_delay_ms);
        let directories = self.directories.clone();
        spawn("folder removal", async move {
            Timer::new(delay).await;
            directories.remove_folder(&to).await;
        });
    }

    /// As [`Self::delete`], where the log could not be opened: its folder must not be in the way of a new
    /// topic of the same name.
    async fn delete_offline(&self, key: TopicPartition) {
        let Some(offline) = self.offline().remove(&key) else {
            return;
        };
        let parent = &self.directories.all()[offline.directory].path;
        let from = parent.join(names::folder_name(&offline.topic, key.partition));
        let to = parent.join(deleted_name(&offline.topic, key));
        match self.directories.disk().rename(&from, &to).await {
            Ok(()) => self.directories.remove_folder(&to).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(
                topic = %offline.topic,
                partition = key.partition.0,
                "folder of a deleted partition cannot be renamed: {error}"
            ),
        }
    }

    /// What a checkpoint holds of this shard's partitions. Of those that could not be opened, what it held
    /// before: a later start may open them.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        let offline = self.offline();
        let offline = offline.iter().map(|(key, offline)| Checkpoint {
            directory: offline.directory,
            topic: offline.topic.clone(),
            partition: key.partition,
            recovery_point: offline.points.recovery_point.unwrap_or(Offset(0)),
            log_start_offset: offline.points.log_start_offset.unwrap_or(Offset(0)),
            high_watermark: offline.points.high_watermark.unwrap_or(Offset(0)),
            cleaned_to: offline.points.cleaned_to,
            log_end_offset: Offset(0),
            size_bytes: 0,
        });
        self.all_partitions()
            .iter()
            .map(|partition| Checkpoint {
                directory: partition.directory,
                topic: partition.topic.clone(),
                partition: partition.key.partition,
                recovery_point: partition.log.recovery_checkpoint(),
                log_start_offset: partition.log.log_start_offset(),
                high_watermark: partition.high_watermark(),
                cleaned_to: partition.log.cleaned_to(),
                log_end_offset: partition.log.log_end_offset(),
                size_bytes: partition.log.size_bytes(),
            })
            .chain(offline)
            .collect()
    }

    /// Writes and flushes everything and closes the logs. Returns the directories with a log that did not
    /// close cleanly, or was not open.
    pub(crate) async fn close_partitions(self: &Rc<Self>) -> BTreeSet<usize> {
        self.await_moves().await;
        let mut unclean: BTreeSet<usize> = self.offline().values().map(|o| o.directory).collect();
        let jobs = self
            .all_partitions()
            .into_iter()
            .map(|partition| async move {
                if partition.log.failure().is_some() {
                    return Err(partition.directory);
                }
                partition.log.close(wall_clock()).await.map_err(|error| {
                    tracing::error!(
                        topic = %partition.topic,
                        partition = partition.key.partition.0,
                        "log could not be closed cleanly: {error}"
                    );
                    partition.directory
                })
            });
        at_once(AT_ONCE, jobs, |closed| unclean.extend(closed.err())).await;
        unclean
    }
}

fn partitions_of(
    topic: &Arc<TopicImage>,
) -> impl Iterator<Item = (Arc<TopicImage>, TopicPartition)> {
    (0..topic.partitions.len()).map(|index| {
        let index = PartitionIndex(index as i32);
        (topic.clone(), TopicPartition::new(topic.id, index))
    })
}

/// Runs `jobs` as tasks of this shard, at most `limit` at once, and gives what came of them to `each`, in
/// their order.
async fn at_once<F: Future + 'static>(
    limit: usize,
    jobs: impl IntoIterator<Item = F>,
    mut each: impl FnMut(F::Output),
) where
    F::Output: 'static,
{
    let mut running = VecDeque::with_capacity(limit);
    for job in jobs {
        if running.len() == limit
            && let Some(first) = running.pop_front()
        {
            each(first.await);
            executor::yield_now().await;
        }
        running.push_back(executor::spawn("partition opening", job));
    }
    for task in running {
        each(task.await);
    }
}

pub(crate) fn deleted_name(topic: &str, key: TopicPartition) -> String {
    names::deleted_folder_name(topic, key.partition, uuid::Uuid::new_v4().as_u128())
}

/// Settings of topics, so that the partitions of one share them.
#[derive(Default)]
struct Resolved(HashMap<TopicId, Arc<LogSettings>>);

impl Resolved {
    fn of(
        &mut self,
        node: &NodeSettings,
        image: &Image,
        key: TopicPartition,
        topic: &str,
    ) -> Arc<LogSettings> {
        let settings = self.0.entry(key.topic_id);
        settings
            .or_insert_with(|| topic_settings(node, image, topic))
            .clone()
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
