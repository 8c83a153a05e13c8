//! A partition's log moves from one data directory to another while it is written and read (KIP-113).
//!
//! 1. A log is made beside its later place, in a folder `TOPIC-PARTITION.<unique>-future`, and is given the batches of the
//!    current one as they are, in turns, until little is left. The cleaner keeps off meanwhile: a tombstone that it drops
//!    from what is still to be copied would bring back what was copied before.
//! 2. Appends are refused for some milliseconds, as by a broker that does not lead (clients ask for the leader and send
//!    again). What is staged is written and acknowledged, the rest is copied, the new log is flushed.
//! 3. A mark that the new log is whole is written into its folder; the folder gets its name; the partition serves from it.
//! 4. The old folder is renamed as one of a deleted partition. Only then are appends taken again, and the mark goes. Where
//!    the disk refuses that, the old folder or the mark is left, and the mark says which of the two counts. So that there
//!    may be more of them, by later moves, a mark has a time, and the latest counts.
//!
//! A crash leaves, up to step 3, the current log and a `-future` folder, which is removed at the start and the move begins
//! anew; within it, two logs that are equal, of which that with the mark is kept. Nothing that was acknowledged
//! is in one of them only: nothing was, between the two names.
//!
//! One log at a time is copied on a shard. The folders of those that wait are made when they are asked for, so that a
//! stop or a crash forgets none of them; and of two moves of one log, what was asked for last counts.
//!
//! A disk that fails, or has no room left for more, ends a move and nothing else: the current log goes on. Where the new
//! one may have got its name and cannot be taken out of the way, the next start would take it for the one that counts: so
//! the current one gets a later mark, and only where that fails, too, does the partition go offline. Whether the disk has
//! more that cannot be served is looked at, as when a log on it fails that is served.
//!
//! Here is what a move is to its shard: asked for, waited for, ended. What is done to the disks is [`mover`]'s.

mod mover;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use mover::{Host, LAST_BYTES, Mover, Place};

use crate::base::{Offset, Timestamp, TopicPartition};
use crate::broker::error::PartitionError;
use crate::broker::messages::PartitionSize;
use crate::broker::offload::ShardDisk;
use crate::broker::partition::{Moved, Partition};
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::replication::LeaderState;
use crate::runtime::executor::yield_now;
use crate::storage::{Disk, Log, LogError};

/// How long a move waits before it looks again for its turn.
const TICK: Duration = Duration::from_millis(20);

/// `replica.alter.log.dirs.io.max.bytes.per.second` where there is none.
const NO_LIMIT: u64 = i64::MAX as u64;

/// One move, from when it was asked for.
pub(crate) struct Move<D: Disk = ShardDisk> {
    /// The directory's place in `log.dirs`.
    to: usize,
    cancelled: Cell<bool>,
    /// Where the log is to go after this, which was asked for later.
    next: Cell<Option<usize>>,
    /// What has been copied, once there is something.
    log: RefCell<Option<Rc<Log<D>>>>,
}

impl<D: Disk> Move<D> {
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
#[derive(Debug)]
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
        let directory = &self.directories.all()[running.to];
        let host = Moving {
            shard: self,
            partition: &partition,
            running,
        };
        let mover = Mover {
            host: &host,
            partition: &partition,
            running,
            place: Place {
                directory: running.to,
                path: &directory.path,
                disk: self.directories.disk(),
                allocation: &directory.allocation,
            },
            source_disk: self.directories.disk(),
            last_bytes: LAST_BYTES,
        };
        let ended = self.copy_and_swap(&mover).await;
        let to = directory.path.display();
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
            mover.discard(&log).await;
        }
    }

    /// Copies the log and puts the copy in its place, once no other log is copied.
    async fn copy_and_swap(&self, mover: &Mover<'_, ShardDisk, Moving<'_>>) -> Result<(), Ended> {
        mover.check()?;
        // A pass of the cleaner that is under way sees this move and ends.
        while self.cleaning.get() == Some(mover.partition.key) {
            mover.check()?;
            Timer::new(TICK).await;
        }
        let future = mover.make_future().await?;
        *mover.running.log.borrow_mut() = Some(future.clone());
        let _turn = self.turn(mover).await?;
        self.check_room(mover.partition, mover.running).await?;
        mover.fill_and_swap(&future).await
    }

    /// Waits until no other log is copied. Those that are deleted meanwhile, or are to go elsewhere, wait no longer: a
    /// deletion holds up whatever else the metadata says.
    async fn turn(&self, mover: &Mover<'_, ShardDisk, Moving<'_>>) -> Result<Turn<'_>, Ended> {
        while self.move_turn.get() {
            mover.check()?;
            Timer::new(TICK).await;
        }
        self.move_turn.set(true);
        Ok(Turn(&self.move_turn))
    }

    /// Looks before the first byte whether there is room for the log.
    async fn check_room(&self, partition: &Partition, running: &Move) -> Result<(), Ended> {
        let Some(space) = self.directories.measure(running.to).await else {
            return Ok(());
        };
        let free = u64::try_from(space.usable_bytes).unwrap_or(0);
        let room = free.saturating_sub(self.settings().log_min_free_bytes);
        let size = partition.log.size_bytes();
        if size > room {
            return Err(Ended::Failed(format!(
                "it has {size} bytes and there is room for {room} \
                 (free, less ringspun.log.min.free.bytes)"
            )));
        }
        Ok(())
    }
}

/// A move and the shard on which it is.
struct Moving<'a> {
    shard: &'a Rc<Shard>,
    partition: &'a Rc<Partition>,
    running: &'a Move,
}

impl Host<ShardDisk> for Moving<'_> {
    fn is_stopping(&self) -> bool {
        self.shard.is_stopping()
    }

    fn place_failure(&self) -> Option<&str> {
        self.shard.directories.all()[self.running.to].failure()
    }

    fn now(&self) -> Timestamp {
        wall_clock()
    }

    fn producer_expiration_ms(&self) -> i64 {
        let ms = self.shard.settings().producer_id_expiration_ms;
        i64::try_from(ms).unwrap_or(i64::MAX)
    }

    fn one_more(&self) {
        self.shard.directories.one_more(self.running.to);
    }

    fn take_room(&self, bytes: usize) -> bool {
        self.shard.room.take(self.running.to, bytes)
    }

    fn is_limited(&self) -> bool {
        let settings = self.shard.settings();
        settings.replica_alter_log_dirs_io_max_bytes_per_second != NO_LIMIT
    }

    /// Keeps `replica.alter.log.dirs.io.max.bytes.per.second`.
    async fn copied(&self, bytes: usize, took: Duration) {
        let settings = self.shard.settings();
        let node = settings.replica_alter_log_dirs_io_max_bytes_per_second;
        let rate = node as f64 / f64::from(self.shard.shards.max(1));
        match Duration::try_from_secs_f64(bytes as f64 / rate.max(1.0)) {
            Ok(takes) if takes > took + Duration::from_millis(1) => {
                // In pieces, so that a stop is not held up, nor a deletion.
                let until = Instant::now() + (takes - took);
                let goes_on = || !self.shard.is_stopping() && !self.running.cancelled.get();
                while Instant::now() < until && goes_on() {
                    let left = until.saturating_duration_since(Instant::now());
                    Timer::new(left.min(TICK)).await;
                }
            }
            _ => yield_now().await,
        }
    }

    async fn written(&self) {
        yield_now().await;
    }

    async fn flushed(&self) {
        self.shard.mark_flush(self.partition);
        Timer::new(Duration::from_millis(1)).await;
    }

    fn close_coordinators(&self) {
        self.shard.coordinators.close(self.partition);
    }

    fn open_coordinators(&self, partition: &Rc<Partition>) {
        if !partition.deleted.get() && !self.shard.is_stopping() {
            self.shard.coordinators.open(self.shard, partition);
        }
    }

    fn leader(&self, end: Offset, high_watermark: Offset) -> LeaderState {
        let (image, key) = (self.shard.image(), self.partition.key);
        let found = image
            .topic(key.topic_id)
            .and_then(|topic| topic.partition(key.partition));
        let (replicas, isr) = found.map_or((vec![], vec![]), |found| {
            (found.replicas.clone(), found.isr.clone())
        });
        LeaderState::new(
            self.shard.broker_id,
            self.partition.leader_epoch(),
            &replicas,
            &isr,
            end,
            high_watermark,
            wall_clock(),
        )
    }

    fn serve(&self, moved: &Rc<Partition>) {
        self.shard.insert_partition(moved.clone());
        // The checkpoints of the one directory do not know it yet, and those of the other do still.
        let from = &self.shard.directories.all()[self.partition.directory];
        from.deleted.fetch_add(1, Ordering::Relaxed);
    }

    fn settle(&self, moved: Moved) {
        self.shard.settle(moved);
    }

    fn suspect_place(&self) {
        self.shard.suspected.borrow_mut().insert(self.running.to);
    }

    async fn remove_folder(&self, folder: PathBuf) {
        self.shard.directories.remove_folder(&folder).await;
    }

    fn remove_later(&self, folder: PathBuf) {
        let delay = Duration::from_millis(self.partition.settings().file_delete_delay_ms);
        let directories = self.shard.directories.clone();
        spawn("folder removal", async move {
            Timer::new(delay).await;
            directories.remove_folder(&folder).await;
        });
    }
}
