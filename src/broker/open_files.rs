//! How many descriptors the logs of a shard hold: half of what the process may have open, over all shards. The
//! rest is for connections.
//!
//! Each log opens what it needs. Before a write that opens files, a shard that holds too many closes
//! those of the logs that were silent longest. What a log has not synced stays open until it is ([`Log`] says
//! why), so logs that would not close are flushed first. A log that was silent for a minute is flushed, and
//! holds none.
//!
//! [`Log`]: crate::storage::Log

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;

use crate::base::Timestamp;
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, wall_clock};
use crate::runtime::executor::yield_now;
use crate::storage::LogError;

/// A log without a write for so long is idle.
const IDLE_MS: i64 = 60_000;
/// Logs looked at before other tasks of the shard may run.
const LOGS_PER_TURN: usize = 256;
/// Logs that are flushed at once because they are idle, and of a look at all.
const FLUSHED_PER_LOOK: usize = 64;

/// The count of a shard.
pub(crate) struct OpenFiles {
    max: Cell<usize>,
    /// As of the last look, with what was opened since.
    open: Cell<usize>,
    /// What those who have room are about to open, or may have opened already.
    pending: Cell<usize>,
    is_closing: Cell<bool>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self {
            max: Cell::new(usize::MAX),
            open: Cell::new(0),
            pending: Cell::new(0),
            is_closing: Cell::new(false),
        }
    }
}

/// Room for some files, while they are opened. They are counted when it is dropped.
#[must_use]
pub(crate) struct Opening {
    shard: Rc<Shard>,
    wanted: usize,
}

impl Drop for Opening {
    fn drop(&mut self) {
        let files = &self.shard.open_files;
        files.pending.set(files.pending.get() - self.wanted);
        files.open.set(files.open.get() + self.wanted);
    }
}

/// What of `files_max`, which the process may open, is for the logs of one of `shards`.
pub fn share_of(files_max: Option<u64>, shards: usize) -> usize {
    let max = files_max.and_then(|max| usize::try_from(max).ok());
    max.map_or(usize::MAX, |max| (max / 2 / shards.max(1)).max(64))
}

impl Shard {
    /// To be said before the first log is opened.
    pub fn limit_open_files(&self, max: usize) {
        self.open_files.max.set(max);
    }

    /// Makes room for the files that a log is about to open; none if it opens none.
    pub(crate) async fn room_for_files(self: &Rc<Self>, partition: &Partition) -> Option<Opening> {
        let wanted = partition.log.wanted_files();
        if wanted == 0 {
            return None;
        }
        let files = &self.open_files;
        // One that wants more than there can be gets what there is.
        let wanted = wanted.min(files.max.get() / 4);
        let is_full = || files.open.get() + files.pending.get() + wanted > files.max.get();
        while is_full() {
            if !files.is_closing.replace(true) {
                self.close_some().await;
                files.is_closing.set(false);
            }
            // Those who have room have to get on.
            if is_full() {
                Timer::new(Duration::from_millis(1)).await;
            }
        }
        files.pending.set(files.pending.get() + wanted);
        let shard = self.clone();
        Some(Opening { shard, wanted })
    }

    /// Closes files of the logs that were silent longest, until half of them may be opened again.
    async fn close_some(self: &Rc<Self>) {
        let files = &self.open_files;
        let (mut open, mut holders) = self.count_open_files().await;
        let enough = files.max.get() / 2;
        holders.sort_unstable_by_key(|(written, _)| *written);
        for (_, partition) in &holders {
            if open <= enough {
                break;
            }
            open = open.saturating_sub(partition.log.close_files().await);
        }
        // What is not synced is left. A few at a time, so that who waits does not wait for all of them.
        let few = files.max.get().saturating_sub(FLUSHED_PER_LOOK).max(enough);
        for (_, partition) in &holders {
            if open <= few {
                break;
            }
            if partition.log.failure().is_none() {
                self.flush_and_settle(partition).await;
            }
            open = open.saturating_sub(partition.log.close_files().await);
        }
        // Where nothing can be closed, the kernel has the last word.
        files.open.set(open.min(files.max.get() / 4 * 3));
    }

    /// Files that are open, and the logs that hold them with the time of their last write.
    async fn count_open_files(&self) -> (usize, Vec<(Timestamp, Rc<Partition>)>) {
        let (mut open, mut holders) = (0, Vec::new());
        for (index, partition) in self.all_partitions().into_iter().enumerate() {
            let held = partition.log.open_files();
            open += held;
            if held > 0 {
                holders.push((partition.log.last_written(), partition));
            }
            if index % LOGS_PER_TURN == LOGS_PER_TURN - 1 {
                yield_now().await;
            }
        }
        (open, holders)
    }

    /// Flushes and closes logs that have been silent, and frees what they do not need. Returns how many came to rest.
    pub(crate) async fn close_idle_files(self: &Rc<Self>) -> usize {
        let (open, holders) = self.count_open_files().await;
        self.open_files.open.set(open);
        let idle_since = wall_clock().0.saturating_sub(IDLE_MS);
        let (mut flushed, mut rested) = (0, 0);
        for (written, partition) in holders {
            if self.is_stopping() || written.0 > idle_since || partition.log.failure().is_some() {
                continue;
            }
            if partition.log.recovery_point() < partition.log.log_end_offset() {
                flushed += 1;
                if flushed > FLUSHED_PER_LOOK {
                    continue;
                }
                self.flush_and_settle(&partition).await;
            }
            match partition.rest().await {
                Ok(closed) => {
                    rested += 1;
                    let open = self.open_files.open.get();
                    self.open_files.open.set(open.saturating_sub(closed));
                }
                // The node is being stopped.
                Err(LogError::Closed) => {}
                Err(error) => self.settle(self.flush_failed(&partition, &error)),
            }
        }
        rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_have_half_of_the_files_and_each_shard_its_share() {
        assert_eq!(share_of(Some(20_000), 4), 2_500);
        assert_eq!(share_of(Some(100), 4), 64);
        assert_eq!(share_of(None, 4), usize::MAX);
    }
}
