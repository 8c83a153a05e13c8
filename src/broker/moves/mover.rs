//! What a move does to the disks: one log is copied to another directory and takes the place of the first. Over any disk,
//! so that a small poll loop can run a whole move over one that fails where it is told to.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Ended, Move};
use crate::base::{LeaderEpoch, Offset, Timestamp};
use crate::broker::lifecycle::deleted_name;
use crate::broker::offload::bytes_of;
use crate::broker::partition::{Moved, Partition};
use crate::records::control::EndTxnMarker;
use crate::records::{BatchBuilder, BatchHeader, verify_crc};
use crate::replication::LeaderState;
use crate::storage::checkpoint::{
    REPLICA_MOVED, decode_moved, decode_partition_metadata, encode_moved,
};
use crate::storage::names::PARTITION_METADATA;
use crate::storage::{AllocationBudget, Disk, Log, LogError, OpenOptions, names};

/// Bytes that are copied before other tasks run.
const TURN_BYTES: u32 = 512 * 1024;

/// How often the copy may meet a log that has grown meanwhile, before appends have to stand still.
const ROUNDS: usize = 16;

/// Appends stand still for no more than about so much to copy, if the copy comes near enough.
pub(super) const LAST_BYTES: u64 = 4 << 20;

/// How long writes wait at once for a copy that does not come nearer otherwise.
const HOLD: Duration = Duration::from_millis(100);

/// Largest mark, and `partition.metadata`, that are read.
const SMALL_FILE_BYTES: usize = 64 * 1024;

/// What a move needs of the shard on which it is.
pub(super) trait Host<D: Disk> {
    fn is_stopping(&self) -> bool;
    /// Why nothing in the directory to which the log goes is served, if it is not.
    fn place_failure(&self) -> Option<&str>;
    fn now(&self) -> Timestamp;
    fn producer_expiration_ms(&self) -> i64;
    /// A folder is about to be made in the directory to which the log goes.
    fn one_more(&self);
    /// Takes room for `bytes` in that directory, unless there is too little.
    fn take_room(&self, bytes: usize) -> bool;
    /// Whether the rate of the copy has a limit.
    fn is_limited(&self) -> bool;
    /// So many bytes were copied and took so long: lets other tasks run, for as long as the limit says.
    fn copied(&self, bytes: usize, took: Duration) -> impl Future<Output = ()>;
    /// Lets other tasks run. One is the writer, which may have batches of the log that are staged.
    fn written(&self) -> impl Future<Output = ()>;
    /// Lets the flusher run, and has the log flushed by it.
    fn flushed(&self) -> impl Future<Output = ()>;
    /// Nothing of the shard itself is appended to the log from now on.
    fn close_coordinators(&self);
    /// Such appends go to `partition` from now on, unless there are none any more.
    fn open_coordinators(&self, partition: &Rc<Partition<D>>);
    /// Who leads the partition: this node, with a log that ends there.
    fn leader(&self, end: Offset, high_watermark: Offset) -> LeaderState;
    /// Requests are for this one from now on.
    fn serve(&self, moved: &Rc<Partition<D>>);
    /// The disk to which the log goes has failed, and it may be that nothing on it can be served.
    fn suspect_place(&self);
    /// See [`Shard::settle`](crate::broker::shard::Shard::settle).
    fn settle(&self, moved: Moved);
    /// Removes what is left of a log that has lost its name, now or after `file.delete.delay.ms`.
    fn remove_folder(&self, folder: PathBuf) -> impl Future<Output = ()>;
    fn remove_later(&self, folder: PathBuf);
}

/// Where a log goes.
pub(super) struct Place<'a, D> {
    /// The directory's place in `log.dirs`.
    pub(super) directory: usize,
    pub(super) path: &'a Path,
    pub(super) disk: D,
    pub(super) allocation: &'a Arc<AllocationBudget>,
}

/// One move of one log.
pub(super) struct Mover<'a, D: Disk, H> {
    pub(super) host: &'a H,
    /// The log as it is served now.
    pub(super) partition: &'a Rc<Partition<D>>,
    pub(super) running: &'a Move<D>,
    pub(super) place: Place<'a, D>,
    /// The disk of the current log.
    pub(super) source_disk: D,
    /// [`LAST_BYTES`], except in tests.
    pub(super) last_bytes: u64,
}

impl<D: Disk, H: Host<D>> Mover<'_, D, H> {
    /// Why the move is to end before its end, if it is.
    pub(super) fn check(&self) -> Result<(), Ended> {
        if self.partition.deleted.get() || self.running.cancelled.get() {
            return Err(Ended::Cancelled);
        }
        if self.host.is_stopping() {
            return Err(Ended::Stopping);
        }
        if let Some(failure) = self.partition.log.failure() {
            return Err(Ended::Failed(failure.to_string()));
        }
        // Or it would leave a disk that serves for one that does not.
        match self.host.place_failure() {
            Some(why) => Err(Ended::Failed(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Removes a log that did not come to serve. Returns whether it has lost its name for good.
    pub(super) async fn discard(&self, log: &Log<D>) -> bool {
        let dir = log.dir();
        let Some(parent) = dir.parent() else {
            return false;
        };
        let to = parent.join(deleted_name("moving", self.partition.key));
        let renamed = log.rename_deleted(&to).await;
        if log.failure().is_some_and(|failure| !failure.is_disk_full()) {
            self.host.suspect_place();
        }
        match renamed {
            Ok(()) => {
                self.host.remove_folder(to).await;
                true
            }
            Err(error) => {
                tracing::warn!("{} is left behind: {error}", dir.display());
                false
            }
        }
    }

    /// The mark of the current log, if it has one: then another directory may have a folder of its name.
    async fn mark(&self) -> Result<Option<Timestamp>, Ended> {
        let path = self.partition.log.dir().join(REPLICA_MOVED);
        match self.source_disk.read_file(&path, SMALL_FILE_BYTES).await {
            Ok(bytes) => Ok(Some(decode_moved(&bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder in which the log is going to lie.
    fn folder(&self) -> PathBuf {
        let (topic, index) = (&self.partition.topic, self.partition.key.partition);
        self.place.path.join(names::folder_name(topic, index))
    }

    /// Takes a folder out of the log's place that an earlier move of the same log could not take away. What is another's
    /// stays.
    async fn clear_place(&self) -> Result<(), Ended> {
        let (disk, folder) = (&self.place.disk, self.folder());
        let metadata = folder.join(PARTITION_METADATA);
        let found = match disk.read_file(&metadata, SMALL_FILE_BYTES).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => decode_partition_metadata(&found?),
        };
        if found != Ok(Some(self.partition.key.topic_id)) {
            return Ok(());
        }
        let deleted = deleted_name(&self.partition.topic, self.partition.key);
        let deleted = self.place.path.join(deleted);
        disk.rename(&folder, &deleted).await?;
        self.host.remove_later(deleted);
        Ok(disk.sync_dir(self.place.path).await?)
    }

    /// Makes the log that is to be filled. It begins where the first batch does that is still read.
    pub(super) async fn make_future(&self) -> Result<Rc<Log<D>>, Ended> {
        let partition = self.partition;
        let source = &partition.log;
        let (mut start, first) = loop {
            let start = source.log_start_offset();
            match source.read(start, 1, source.log_end_offset(), true).await {
                Ok(first) => break (start, first),
                // Retention has passed us.
                Err(LogError::OffsetOutOfRange { .. }) => self.check()?,
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(slice) = first.slice {
            let bytes = bytes_of(slice).await?;
            let header = BatchHeader::parse(&bytes).map_err(|e| Ended::Failed(e.to_string()))?;
            start = start.min(header.base_offset);
        }
        let unique = uuid::Uuid::new_v4().as_u128();
        let name = names::future_folder_name(&partition.topic, partition.key.partition, unique);
        let path: Arc<Path> = self.place.path.join(name).into();
        let options = OpenOptions {
            is_clean: true,
            recovery_point: start,
            log_start_offset: None,
            // What was compacted is copied as it is.
            cleaned_to: source.cleaned_to(),
            has_checkpoint: true,
            producer_expiration_ms: self.host.producer_expiration_ms(),
            allocation: Some(self.place.allocation.clone()),
            now: self.host.now(),
        };
        let (disk, settings) = (self.place.disk.clone(), partition.settings());
        let topic_id = partition.key.topic_id;
        self.host.one_more();
        match Log::create(disk, path.clone(), settings, topic_id, start, options).await {
            Ok(log) => Ok(Rc::new(log)),
            Err(error) => {
                self.host.suspect_place();
                self.host.remove_folder(path.to_path_buf()).await;
                Err(error.into())
            }
        }
    }

    /// Copies the log into `future` and has that served in its place.
    pub(super) async fn fill_and_swap(&self, future: &Rc<Log<D>>) -> Result<(), Ended> {
        let (host, partition) = (self.host, self.partition);
        let older = self.mark().await?;
        self.clear_place().await?;
        let mut at = future.log_end_offset();
        let (mut rounds, mut before, mut holds_writes) = (0, u64::MAX, false);
        loop {
            let copied = self.copy(future, &mut at, holds_writes).await?;
            future.flush().await?;
            // What has come meanwhile is hardly more.
            if copied <= self.last_bytes || at == partition.log.log_end_offset() {
                break;
            }
            // Whoever limits the rate to less than what is written wants no end by force, as in Kafka.
            if !host.is_limited() {
                rounds += 1;
                if rounds == ROUNDS {
                    break;
                }
                holds_writes |= copied > before / 4 * 3;
                before = copied;
            }
        }
        host.close_coordinators();
        partition.moving.set(true);
        let swapped = self.swap(future, at, older).await;
        let serves = swapped.as_ref().unwrap_or(partition);
        serves.moving.set(false);
        host.open_coordinators(serves);
        swapped.map(drop)
    }

    /// Copies from `at` to where the log ends now. Returns how many bytes that was. Where it `holds_writes`, those of the
    /// log wait, a short time each.
    async fn copy(
        &self,
        future: &Log<D>,
        at: &mut Offset,
        holds_writes: bool,
    ) -> Result<u64, Ended> {
        let source = &self.partition.log;
        let (mut held, mut held_since) = (None, Instant::now());
        let mut end = source.log_end_offset();
        let mut copied = 0;
        loop {
            self.check()?;
            if holds_writes && (held.is_none() || held_since.elapsed() >= HOLD) {
                // Those that wait come first.
                drop(held.take());
                self.host.written().await;
                held = Some(source.hold_writes().await);
                held_since = Instant::now();
                end = source.log_end_offset();
            }
            // Retention may have passed us.
            let start = source.log_start_offset();
            *at = (*at).max(start);
            if *at >= end {
                return Ok(copied);
            }
            // What was changed meanwhile counts for what comes now.
            future.set_settings(self.partition.settings());
            let read = match source.read(*at, TURN_BYTES, end, true).await {
                Ok(read) => read,
                Err(LogError::OffsetOutOfRange { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(slice) = read.slice else {
                // Compacted away up to there.
                *at = end;
                continue;
            };
            let began = Instant::now();
            let bytes = bytes_of(slice).await?;
            if future.log_end_offset() < start {
                let first = BatchHeader::parse(&bytes).map_err(|e| Ended::Failed(e.to_string()))?;
                self.begin_anew(future, first.base_offset.min(start))
                    .await?;
            }
            let mut position = 0;
            while let Some(rest) = bytes.get(position..).filter(|rest| !rest.is_empty()) {
                let header = BatchHeader::parse(rest).map_err(|e| Ended::Failed(e.to_string()))?;
                let len = header.size_in_bytes();
                if rest.len() < len {
                    break;
                }
                let batch = bytes.slice(position..position + len);
                position += len;
                if !self.host.take_room(len) {
                    return Err(Ended::Failed(
                        "there is no room left but ringspun.log.min.free.bytes".to_owned(),
                    ));
                }
                if !verify_crc(&batch) {
                    return Err(Ended::Failed(format!("damaged records at offset {at}")));
                }
                *at = header.next_offset();
                let marker = match header.is_control() {
                    true => EndTxnMarker::of_batch(&header, &batch).ok().flatten(),
                    false => None,
                };
                let now = self.host.now();
                let staged = future.stage_as_follower(batch, &header, marker.as_ref(), now);
                staged.map_err(|error| Ended::Failed(error.to_string()))?;
            }
            if position == 0 {
                return Err(Ended::Failed(format!("no whole batch at offset {at}")));
            }
            if future.write_staged(self.host.now()).await?.prepare {
                future.prepare().await?;
            }
            copied += position as u64;
            // Nobody who appends is to wait for the limit of the rate, should there be one by now.
            match self.partition.moving.get() || held.is_some() {
                false => self.host.copied(position, began.elapsed()).await,
                true => self.host.written().await,
            }
        }
    }

    /// Empties the copy, of which all has been deleted meanwhile: what comes now would leave a hole behind it.
    async fn begin_anew(&self, future: &Log<D>, start: Offset) -> Result<(), Ended> {
        // No checkpoint speaks of a log that has not got its name.
        let lowered = future.lower_recovery_point(start);
        let emptied = future.truncate_fully_and_start_at(lowered, self.host.now());
        Ok(emptied.await?)
    }

    /// Steps 2 to 4: puts the new log in the place of the current one, which has the mark `older` and to which nothing is
    /// appended any more. Returns the partition that serves then.
    async fn swap(
        &self,
        future: &Rc<Log<D>>,
        mut at: Offset,
        older: Option<Timestamp>,
    ) -> Result<Rc<Partition<D>>, Ended> {
        let (host, partition) = (self.host, self.partition);
        let source = &partition.log;
        while source.staged_end_offset() != source.log_end_offset() {
            self.check()?;
            host.written().await;
        }
        // Who waits for an fsync is answered by the log that has the record.
        while partition.has_waiting() && source.recovery_point() < source.log_end_offset() {
            self.check()?;
            host.flushed().await;
        }
        self.copy(future, &mut at, false).await?;
        let end = source.log_end_offset();
        if future.log_end_offset() < end && source.log_start_offset() < end {
            self.fill_up(future, end).await?;
        }
        if future.log_end_offset() != end {
            // Where nothing is left to be read, the offsets go on all the same.
            if source.log_start_offset() != end {
                return Err(Ended::Failed(format!(
                    "the copy ends at offset {} and the log at {end}",
                    future.log_end_offset()
                )));
            }
            self.begin_anew(future, end).await?;
        }
        future.take_producers_of(source);
        let high_watermark = partition.high_watermark();
        let log_start_offset = source.log_start_offset();
        if log_start_offset > future.log_start_offset() {
            future.delete_records(log_start_offset, high_watermark.max(log_start_offset))?;
        }
        future.flush().await?;
        let mark = host.now().max(older.map_or(Timestamp::NONE, after));
        let path = future.dir().join(REPLICA_MOVED);
        let disk = &self.place.disk;
        disk.replace_file(&path, &encode_moved(mark)).await?;
        self.check()?;
        let place = self.folder();
        let renamed = future.rename_folder(&place).await;
        self.running.log.borrow_mut().take();
        if let Err(error) = renamed {
            // It may have its name, and its mark says that it is whole, which it is not once there is an append.
            let is_named = *future.dir() == *place;
            if !self.discard(future).await && is_named {
                self.stay(after(mark)).await;
            }
            return Err(error.into());
        }
        // As it was made long ago.
        future.set_settings(partition.settings());
        let moved = Rc::new(Partition::new(
            partition.key,
            partition.topic.clone(),
            self.place.directory,
            future.clone(),
            partition.settings(),
            host.leader(end, high_watermark),
        ));
        moved.moving.set(true);
        host.serve(&moved);
        host.settle(partition.close_moved());
        self.leave(&moved, older).await;
        Ok(moved)
    }

    /// The records before `end` were compacted away. Batches without any stand for them, as the offsets go on behind, and
    /// a gap at the end of a log would not be told from a hole by the next start.
    async fn fill_up(&self, future: &Log<D>, end: Offset) -> Result<(), Ended> {
        let (source, now) = (&self.partition.log, self.host.now());
        while future.log_end_offset() < end {
            let from = future.log_end_offset();
            let epoch = source.epoch_for_offset(from);
            let epoch = epoch.unwrap_or(LeaderEpoch::NONE);
            // Each epoch keeps its offsets.
            let to = match source.end_offset_for_epoch(epoch) {
                Some((_, to)) if to > from => to.min(end),
                _ => end,
            };
            let delta = i32::try_from(to.0 - from.0 - 1).unwrap_or(i32::MAX);
            let batch = Bytes::from(BatchBuilder::empty(from, delta, epoch));
            let header = BatchHeader::parse(&batch).map_err(|e| Ended::Failed(e.to_string()))?;
            let staged = future.stage_as_follower(batch, &header, None, now);
            staged.map_err(|error| Ended::Failed(error.to_string()))?;
            future.write_staged(now).await?;
        }
        Ok(())
    }

    /// Says of the current log that it counts, though another directory may have a folder of its name and a mark: or it
    /// goes offline, as the next start would not know.
    async fn stay(&self, mark: Timestamp) {
        let source = &self.partition.log;
        let path = source.dir().join(REPLICA_MOVED);
        let mark = encode_moved(mark);
        if let Err(error) = self.source_disk.replace_file(&path, &mark).await {
            let failure = source.take_offline(error);
            self.host.settle(self.partition.fail(&failure));
        }
    }

    /// Takes the old folder out of the way. If that fails, the mark stays and tells the next start which to keep; so it
    /// does if the old one had a mark, `older`, since there may be a third.
    async fn leave(&self, moved: &Partition<D>, older: Option<Timestamp>) {
        let partition = self.partition;
        let old = partition.log.dir();
        let Some(parent) = old.parent() else { return };
        let to = parent.join(deleted_name(&partition.topic, partition.key));
        if let Err(error) = partition.log.rename_deleted(&to).await {
            tracing::error!("{} is left behind by its move: {error}", old.display());
            return;
        }
        self.host.remove_later(to);
        if older.is_some() {
            return;
        }
        let dir = moved.log.dir();
        let disk = &self.place.disk;
        let unmarked = match disk.remove_file(&dir.join(REPLICA_MOVED)).await {
            Ok(()) => disk.sync_dir(&dir).await,
            Err(error) => Err(error),
        };
        if let Err(error) = unmarked {
            tracing::warn!("{}: {error}", dir.join(REPLICA_MOVED).display());
        }
    }
}

/// The mark that counts where there is `mark`, too.
fn after(mark: Timestamp) -> Timestamp {
    Timestamp(mark.0.saturating_add(1))
}
