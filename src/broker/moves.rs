//! A partition's log moves from one data directory to another while it is written and read (KIP-113).
//!
//! 1. A log is made beside its later place, in a folder `TOPIC-PARTITION.<unique>-future`, and is given the batches of the
//!    current one as they are, in turns, until little is left. The cleaner keeps off meanwhile: a tombstone that it drops
//!    from what is still to be copied would bring back what was copied before.
//! 2. Appends are refused for some milliseconds, as by a broker that does not lead (clients ask for the leader and send
//!    again). What is staged is written and acknowledged, the rest is copied, the new log is flushed.
//! 3. A mark that the new log is whole is written into its folder; the folder gets its name; the partition serves from it.
//! 4. The old folder is renamed as one of a deleted partition. Only then are appends taken again, and the mark goes.
//!
//! A crash leaves, up to step 3, the current log and a `-future` folder, which is removed at the start and the move begins
//! anew; within it, two logs that are equal, of which that with the mark is kept. Nothing that was acknowledged
//! is in one of them only: nothing was, between the two names.
//!
//! One log at a time is copied on a shard. The folders of those that wait are made when they are asked for, so that a
//! stop or a crash forgets none of them; and of two moves of one log, what was asked for last counts.
//!
//! A disk that fails, or has no room left for more, ends a move and nothing else: the current log goes on. Only where the
//! new one may have got its name and cannot be taken out of the way does the partition go offline, as the next start
//! would take it for the one that is whole.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::base::{Offset, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::lifecycle::deleted_name;
use crate::broker::messages::PartitionSize;
use crate::broker::offload::{ShardLog, bytes_of};
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::records::control::EndTxnMarker;
use crate::records::{BatchHeader, verify_crc};
use crate::replication::LeaderState;
use crate::runtime::executor::yield_now;
use crate::storage::checkpoint::REPLICA_MOVED;
use crate::storage::{Disk as _, Log, LogError, OpenOptions, names};

/// Bytes that are copied before other tasks run.
const TURN_BYTES: u32 = 512 * 1024;

/// How often the copy may meet a log that has grown while it was flushed, before appends have to stand still.
const ROUNDS: usize = 8;

/// How long a move waits before it looks again for its turn.
const TICK: Duration = Duration::from_millis(20);

/// One move, from when it was asked for.
pub(crate) struct Move {
    /// The directory's place in `log.dirs`.
    to: usize,
    cancelled: Cell<bool>,
    /// Where the log is to go after this, which was asked for later.
    next: Cell<Option<usize>>,
    /// What has been copied, once there is something.
    log: RefCell<Option<Rc<ShardLog>>>,
}

impl Move {
    fn new(to: usize) -> Rc<Self> {
        Rc::new(Self {
            to,
            cancelled: Cell::new(false),
            next: Cell::new(None),
            log: RefCell::default(),
        })
    }
}

/// The shard's turn to copy, given back when dropped.
struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Why a move did not come to its end.
enum Ended {
    /// Another was asked for, or the partition goes.
    Cancelled,
    /// The node stops: the next start begins it anew.
    Stopping,
    Failed(String),
}

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        Ended::Failed(error.to_string())
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Ended::Failed(error.to_string())
    }
}

impl Shard {
    /// Begins to move a partition's log to another directory, or, if it lies there, ends a move elsewhere.
    pub(crate) fn move_replica(
        self: &Rc<Self>,
        key: TopicPartition,
        to: usize,
    ) -> Result<(), PartitionError> {
        let partition = self.find(key)?;
        let directory = self.directories.all().get(to);
        let is_failed = directory.is_none_or(|directory| directory.failure().is_some());
        if is_failed || partition.log.failure().is_some() {
            return Err(PartitionError::Storage);
        }
        if let Some(running) = self.moves().get(&key) {
            let goes_on = running.to == to && !running.cancelled.get();
            running.next.set((!goes_on).then_some(to));
            running.cancelled.set(!goes_on);
            return Ok(());
        }
        if partition.directory == to {
            return Ok(());
        }
        let mut running = Move::new(to);
        self.moves().insert(key, running.clone());
        let shard = self.clone();
        spawn("replica move", async move {
            loop {
                shard.run_move(key, &running).await;
                shard.moves().remove(&key);
                let Some(to) = running.next.take() else {
                    return;
                };
                running = Move::new(to);
                shard.moves().insert(key, running.clone());
            }
        });
        Ok(())
    }

    /// Ends the move of a partition, if there is one, and waits until it has.
    pub(crate) async fn end_move(&self, key: TopicPartition) {
        loop {
            let running = self.moves().get(&key).cloned();
            let Some(running) = running else { return };
            running.cancelled.set(true);
            running.next.set(None);
            Timer::new(TICK).await;
        }
    }

    /// Waits until no log is on its way any more, which is soon once the node stops. What is left of them is begun anew
    /// by the next start.
    pub(crate) async fn await_moves(&self) {
        assert!(self.is_stopping());
        while !self.moves().is_empty() {
            Timer::new(TICK).await;
        }
    }

    /// Logs that are being filled, for DescribeLogDirs.
    pub(crate) fn moving_sizes(&self) -> Vec<PartitionSize> {
        let moves: Vec<_> = self.moves().iter().map(|(k, m)| (*k, m.clone())).collect();
        let sizes = moves.into_iter().filter_map(|(key, running)| {
            let partition = self.partition(key)?;
            let log = running.log.borrow().clone()?;
            let lag = partition.log.log_end_offset().0 - log.log_end_offset().0;
            Some(PartitionSize {
                partition: key,
                topic: partition.topic.clone(),
                directory: running.to,
                size_bytes: log.size_bytes(),
                future_lag: Some(lag.max(0)),
            })
        });
        sizes.collect()
    }

    async fn run_move(self: &Rc<Self>, key: TopicPartition, running: &Rc<Move>) {
        let Some(partition) = self.partition(key) else {
            return;
        };
        if partition.directory == running.to {
            return;
        }
        let began = Instant::now();
        let ended = self.copy_and_swap(&partition, running).await;
        let to = self.directories.all()[running.to].path.display();
        let (topic, index) = (&partition.topic, key.partition.0);
        match &ended {
            Ok(()) => tracing::info!(
                %topic,
                partition = index,
                "the log moved to {to} in {:.1} s",
                began.elapsed().as_secs_f64()
            ),
            Err(Ended::Failed(why)) => tracing::error!(
                %topic,
                partition = index,
                "the log could not be moved to {to} and stays where it is: {why}"
            ),
            Err(Ended::Cancelled | Ended::Stopping) => {}
        }
        if let (Err(Ended::Cancelled | Ended::Failed(_)), Some(log)) = (&ended, running.log.take())
        {
            self.discard(key, &log).await;
        }
    }

    /// Waits until no other log is copied. Those that are deleted meanwhile, or are to go elsewhere, wait no longer: a
    /// deletion holds up whatever else the metadata says.
    async fn turn(&self, partition: &Partition, running: &Move) -> Result<Turn<'_>, Ended> {
        while self.move_turn.get() {
            self.check_move(partition, running)?;
            Timer::new(TICK).await;
        }
        self.move_turn.set(true);
        Ok(Turn(&self.move_turn))
    }

    /// Removes a log that did not come to serve. Returns whether it has lost its name for good.
    async fn discard(&self, key: TopicPartition, log: &ShardLog) -> bool {
        let dir = log.dir();
        let Some(parent) = dir.parent() else {
            return false;
        };
        let to = parent.join(deleted_name("moving", key));
        match log.rename_deleted(&to).await {
            Ok(()) => {
                self.directories.remove_folder(&to).await;
                true
            }
            Err(error) => {
                tracing::warn!("{} is left behind: {error}", dir.display());
                false
            }
        }
    }

    fn check_move(&self, partition: &Partition, running: &Move) -> Result<(), Ended> {
        if partition.deleted.get() || running.cancelled.get() {
            return Err(Ended::Cancelled);
        }
        if self.is_stopping() {
            return Err(Ended::Stopping);
        }
        if let Some(failure) = partition.log.failure() {
            return Err(Ended::Failed(failure.to_string()));
        }
        // Or it would leave a disk that serves for one that does not.
        match self.directories.all()[running.to].failure() {
            Some(why) => Err(Ended::Failed(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Looks before the first byte whether the log can go where it is to go.
    async fn check_place(&self, partition: &Partition, running: &Move) -> Result<(), Ended> {
        let (source, disk) = (&partition.log, self.directories.disk());
        // The mark says of this log that it is the one to keep. With another on the next disk, a start could not tell
        // them apart.
        match disk.read_file(&source.dir().join(REPLICA_MOVED), 0).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Err(Ended::Failed(
                    "what its last move left behind is taken away by a restart, not before"
                        .to_owned(),
                ));
            }
        }
        let Some(space) = self.directories.measure(running.to).await else {
            return Ok(());
        };
        let free = u64::try_from(space.usable_bytes).unwrap_or(0);
        let room = free.saturating_sub(self.settings().log_min_free_bytes);
        let size = source.size_bytes();
        if size > room {
            return Err(Ended::Failed(format!(
                "it has {size} bytes and there is room for {room} \
                 (free, less ringspun.log.min.free.bytes)"
            )));
        }
        Ok(())
    }

    async fn copy_and_swap(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        running: &Move,
    ) -> Result<(), Ended> {
        self.check_move(partition, running)?;
        // A pass of the cleaner that is under way sees this move and ends.
        while self.cleaning.get() == Some(partition.key) {
            self.check_move(partition, running)?;
            Timer::new(TICK).await;
        }
        let future = self.make_future(partition, running).await?;
        *running.log.borrow_mut() = Some(future.clone());
        let _turn = self.turn(partition, running).await?;
        self.check_place(partition, running).await?;
        let mut at = future.log_end_offset();
        for _ in 0..ROUNDS {
            self.copy(partition, running, &future, &mut at).await?;
            future.flush().await?;
            if at == partition.log.log_end_offset() {
                break;
            }
        }
        self.coordinators.close(partition);
        partition.moving.set(true);
        let swapped = self.swap(partition, running, &future, at).await;
        match &swapped {
            Ok(moved) => {
                moved.moving.set(false);
                if !moved.deleted.get() {
                    self.coordinators.open(self, moved);
                }
            }
            Err(_) => {
                partition.moving.set(false);
                if !partition.deleted.get() && !self.is_stopping() {
                    self.coordinators.open(self, partition);
                }
            }
        }
        swapped.map(drop)
    }

    /// Makes the log that is to be filled. It begins where the first batch does that is still read.
    async fn make_future(
        &self,
        partition: &Partition,
        running: &Move,
    ) -> Result<Rc<ShardLog>, Ended> {
        let source = &partition.log;
        let (mut start, first) = loop {
            let start = source.log_start_offset();
            match source.read(start, 1, source.log_end_offset(), true).await {
                Ok(first) => break (start, first),
                // Retention has passed us.
                Err(LogError::OffsetOutOfRange { .. }) => self.check_move(partition, running)?,
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(slice) = first.slice {
            let bytes = bytes_of(slice).await?;
            let header = BatchHeader::parse(&bytes).map_err(|e| Ended::Failed(e.to_string()))?;
            start = start.min(header.base_offset);
        }
        let directory = &self.directories.all()[running.to];
        let unique = uuid::Uuid::new_v4().as_u128();
        let name = names::future_folder_name(&partition.topic, partition.key.partition, unique);
        let path: Arc<Path> = directory.path.join(name).into();
        let options = OpenOptions {
            is_clean: true,
            recovery_point: start,
            log_start_offset: None,
            // What was compacted is copied as it is.
            cleaned_to: source.cleaned_to(),
            has_checkpoint: true,
            producer_expiration_ms: i64::try_from(self.settings().producer_id_expiration_ms)
                .unwrap_or(i64::MAX),
            allocation: Some(directory.allocation.clone()),
            now: wall_clock(),
        };
        let (disk, settings) = (self.directories.disk(), partition.settings());
        let topic_id = partition.key.topic_id;
        self.directories.one_more(running.to);
        match Log::create(disk, path.clone(), settings, topic_id, start, options).await {
            Ok(log) => Ok(Rc::new(log)),
            Err(error) => {
                self.directories.remove_folder(&path).await;
                Err(error.into())
            }
        }
    }

    /// Copies from `at` to where the log ends by then.
    async fn copy(
        &self,
        partition: &Partition,
        running: &Move,
        future: &ShardLog,
        at: &mut Offset,
    ) -> Result<(), Ended> {
        let source = &partition.log;
        loop {
            self.check_move(partition, running)?;
            // Retention may have passed us.
            *at = (*at).max(source.log_start_offset());
            let end = source.log_end_offset();
            if *at >= end {
                return Ok(());
            }
            // What was changed meanwhile counts for what comes now.
            future.set_settings(partition.settings());
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
            let mut position = 0;
            while let Some(rest) = bytes.get(position..).filter(|rest| !rest.is_empty()) {
                let header = BatchHeader::parse(rest).map_err(|e| Ended::Failed(e.to_string()))?;
                let len = header.size_in_bytes();
                if rest.len() < len {
                    break;
                }
                let batch = bytes.slice(position..position + len);
                position += len;
                if !self.room.take(running.to, len) {
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
                let staged =
                    future.stage_as_follower(batch, &header, marker.as_ref(), wall_clock());
                staged.map_err(|error| Ended::Failed(error.to_string()))?;
            }
            if position == 0 {
                return Err(Ended::Failed(format!("no whole batch at offset {at}")));
            }
            if future.write_staged(wall_clock()).await?.prepare {
                future.prepare().await?;
            }
            self.keep_rate(running, position, began.elapsed()).await;
        }
    }

    /// Keeps `replica.alter.log.dirs.io.max.bytes.per.second` after `bytes` that took `took`.
    async fn keep_rate(&self, running: &Move, bytes: usize, took: Duration) {
        let node = self
            .settings()
            .replica_alter_log_dirs_io_max_bytes_per_second;
        let rate = node as f64 / f64::from(self.shards.max(1));
        match Duration::try_from_secs_f64(bytes as f64 / rate.max(1.0)) {
            Ok(takes) if takes > took + Duration::from_millis(1) => {
                // In pieces, so that a stop is not held up, nor a deletion.
                let until = Instant::now() + (takes - took);
                let goes_on = || !self.is_stopping() && !running.cancelled.get();
                while Instant::now() < until && goes_on() {
                    let left = until.saturating_duration_since(Instant::now());
                    Timer::new(left.min(TICK)).await;
                }
            }
            _ => yield_now().await,
        }
    }

    /// Steps 2 to 4: puts the new log in the place of the current one, to which nothing is appended any more. Returns the
    /// partition that serves then.
    async fn swap(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        running: &Move,
        future: &Rc<ShardLog>,
        mut at: Offset,
    ) -> Result<Rc<Partition>, Ended> {
        let source = &partition.log;
        while source.staged_end_offset() != source.log_end_offset() {
            self.check_move(partition, running)?;
            yield_now().await;
        }
        // Who waits for an fsync is answered by the log that has the record.
        while partition.has_waiting() && source.recovery_point() < source.log_end_offset() {
            self.check_move(partition, running)?;
            self.mark_flush(partition);
            Timer::new(Duration::from_millis(1)).await;
        }
        self.copy(partition, running, future, &mut at).await?;
        let end = source.log_end_offset();
        if future.log_end_offset() != end {
            // Where nothing is left to be read, the offsets go on all the same.
            if source.log_start_offset() != end {
                return Err(Ended::Failed(format!(
                    "the copy ends at offset {} and the log at {end}",
                    future.log_end_offset()
                )));
            }
            // No checkpoint speaks of a log that has not got its name.
            let lowered = future.lower_recovery_point(end);
            future
                .truncate_fully_and_start_at(lowered, wall_clock())
                .await?;
        }
        future.take_producers_of(source);
        let high_watermark = partition.high_watermark();
        let log_start_offset = source.log_start_offset();
        if log_start_offset > future.log_start_offset() {
            future.delete_records(log_start_offset, high_watermark.max(log_start_offset))?;
        }
        future.flush().await?;
        let disk = self.directories.disk();
        disk.replace_file(&future.dir().join(REPLICA_MOVED), b"")
            .await?;
        self.check_move(partition, running)?;
        let name = names::folder_name(&partition.topic, partition.key.partition);
        let place = self.directories.all()[running.to].path.join(name);
        let renamed = future.rename_folder(&place).await;
        running.log.borrow_mut().take();
        if let Err(error) = renamed {
            // It may have its name, and its mark says that it is whole, which it is not once there is an append.
            let is_named = *future.dir() == *place;
            if !self.discard(partition.key, future).await && is_named {
                let failure = source.take_offline(std::io::Error::other(error.to_string()));
                self.settle(partition.fail(&failure));
            }
            return Err(error.into());
        }
        // As it was made long ago.
        future.set_settings(partition.settings());
        let image = self.image();
        let found = image
            .topic(partition.key.topic_id)
            .and_then(|topic| topic.partition(partition.key.partition));
        let (replicas, isr) = found.map_or((vec![], vec![]), |found| {
            (found.replicas.clone(), found.isr.clone())
        });
        let leader = LeaderState::new(
            self.broker_id,
            partition.leader_epoch(),
            &replicas,
            &isr,
            end,
            high_watermark,
            wall_clock(),
        );
        let moved = Rc::new(Partition::new(
            partition.key,
            partition.topic.clone(),
            running.to,
            future.clone(),
            partition.settings(),
            leader,
        ));
        moved.moving.set(true);
        self.insert_partition(moved.clone());
        let waiting = partition.close_moved();
        self.settle(waiting);
        self.leave(partition, &moved).await;
        Ok(moved)
    }

    /// Takes the old folder out of the way. If that fails, the mark stays and tells the next start which to keep.
    async fn leave(&self, partition: &Rc<Partition>, moved: &Partition) {
        let old = partition.log.dir();
        let Some(parent) = old.parent() else { return };
        let to = parent.join(deleted_name(&partition.topic, partition.key));
        if let Err(error) = partition.log.rename_deleted(&to).await {
            tracing::error!("{} is left behind by its move: {error}", old.display());
            return;
        }
        let disk = self.directories.disk();
        let dir = moved.log.dir();
        let unmarked = match disk.remove_file(&dir.join(REPLICA_MOVED)).await {
            Ok(()) => disk.sync_dir(&dir).await,
            Err(error) => Err(error),
        };
        if let Err(error) = unmarked {
            tracing::warn!("{}: {error}", dir.join(REPLICA_MOVED).display());
        }
        let delay = Duration::from_millis(partition.settings().file_delete_delay_ms);
        let directories = self.directories.clone();
        spawn("folder removal", async move {
            Timer::new(delay).await;
            directories.remove_folder(&to).await;
        });
    }
}
