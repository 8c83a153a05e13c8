//! The shard's writer, which writes what was staged at the end of each turn, and its flushers: one keeps one fsync of
//! each partition in flight and puts all that arrived meanwhile into its next, the other flushes what rolls have closed.

use std::rc::Rc;
use std::time::Instant;

use crate::broker::partition::{Moved, Partition};
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::runtime::executor;
use crate::storage::LogError;

/// Partitions whose fsync is under way at once. What waits gathers more: of 64 producers that keep one core
/// busy, each with one record of 1 KiB under way, two at once acknowledge 37,000 to 44,000 records/s over 8
/// partitions, one 21,000 to 24,000, four 35,000 to 38,000, sixteen 30,000, and rounds in which all begin together
/// and the next round waits for the slowest 34,000 to 36,000. At 5,000/s the median is 0.36 to 0.39 ms with two,
/// 0.60 with one and 0.34 with sixteen; with rounds it was 0.59.
const MAX_FLUSHES: usize = 2;

/// Bytes that the writer puts out before it lets other tasks run.
const WRITE_BUDGET_BYTES: u64 = 1 << 20;

impl Shard {
    /// Writes what was staged, at the end of the turn in which it was: all of a partition in one call.
    pub(super) async fn write_loop(self: Rc<Self>) {
        loop {
            self.dirty_event.wait().await;
            // Being woken puts this task behind all that can run now, so that what they stage joins.
            let mut written = 0;
            let dirty = self.dirty.take();
            for partition in dirty {
                if partition.log.write_waits() {
                    // The others do not wait with it. It is still dirty: there is one such task at most
                    // behind the one that writes.
                    let shard = self.clone();
                    spawn("partition writer", async move {
                        partition.log.writable().await;
                        shard.write(&partition).await;
                    });
                    continue;
                }
                self.write(&partition).await;
                written += partition.last_write_bytes.get();
                if written >= WRITE_BUDGET_BYTES {
                    written = 0;
                    executor::yield_now().await;
                }
            }
        }
    }

    async fn write(self: &Rc<Self>, partition: &Rc<Partition>) {
        let opening = self.room_for_files(partition).await;
        partition.dirty.set(false);
        let moved = partition.write(wall_clock()).await;
        drop(opening);
        if moved.failed {
            self.counters().log_append_failures.inc();
        }
        if partition.wants_flush_now() {
            self.mark_flush(partition);
        }
        if partition.rolled.take() {
            self.counters().log_segments_rolled.inc();
            self.rolled.borrow_mut().push(partition.clone());
            self.rolled_event.set();
        }
        self.settle(moved);
        // What is prepared holds up a flush that it meets, so it comes behind the one that is due.
        if !partition.wants_flush.get() && !partition.flushing.get() {
            self.prepare(partition);
        }
    }

    /// Has made ready what the next appends will need, if there is anything and no task is at it: that one looks
    /// again, unless a flush is due, whose end does.
    fn prepare(self: &Rc<Self>, partition: &Rc<Partition>) {
        if !partition.begin_prepare() {
            return;
        }
        let (shard, partition) = (self.clone(), partition.clone());
        spawn("log preparation", async move {
            loop {
                let opening = shard.room_for_files(&partition).await;
                partition.prepare().await;
                drop(opening);
                let flushes = partition.wants_flush.get() || partition.flushing.get();
                if flushes || !partition.begin_prepare() {
                    return;
                }
            }
        });
    }

    /// Keeps one fsync of each partition in flight, and of all of them at most [`MAX_FLUSHES`]: what a
    /// partition is asked for meanwhile shares its next.
    pub(super) async fn flush_loop(self: Rc<Self>) {
        loop {
            self.flush_event.wait().await;
            for partition in self.to_flush.take() {
                while self.flushes.get() >= MAX_FLUSHES {
                    self.flush_ended.wait().await;
                }
                partition.wants_flush.set(false);
                // One under way looks at its end what has come meanwhile.
                if !partition.flushing.replace(true) {
                    self.flushes.set(self.flushes.get() + 1);
                    spawn("flush", self.clone().flush(partition));
                }
            }
        }
    }

    async fn flush(self: Rc<Self>, partition: Rc<Partition>) {
        let began = Instant::now();
        let counters = self.counters();
        self.directories.on_awaited_flush();
        let moved = match partition.flush().await {
            Ok(moved) => {
                counters.log_flushes.inc();
                let took = u64::try_from(began.elapsed().as_micros());
                counters
                    .log_flush_duration
                    .record_us(took.unwrap_or(u64::MAX));
                moved
            }
            Err(error) => self.flush_failed(&partition, &error),
        };
        partition.flushing.set(false);
        self.flushes.set(self.flushes.get() - 1);
        self.flush_ended.set();
        let goes_on = partition.log.failure().is_none() && !partition.deleted.get();
        if goes_on && partition.wants_flush_now() {
            self.mark_flush(&partition);
        }
        self.settle(moved);
        self.prepare(&partition);
    }

    /// Has a log flushed that was recovered, though nobody writes to it: until then every start after a kill checks
    /// the same bytes again.
    pub(crate) fn mark_recovered(&self, partition: &Rc<Partition>) {
        self.rolled.borrow_mut().push(partition.clone());
        self.rolled_event.set();
    }

    /// Flushes what rolls have closed, and logs that were recovered, one partition after the other: there may be
    /// much of it, and nobody waits for it.
    pub(super) async fn flush_closed_loop(self: Rc<Self>) {
        loop {
            self.rolled_event.wait().await;
            for partition in self.rolled.take() {
                if self.is_stopping() || partition.deleted.get() {
                    continue;
                }
                let flushed = match partition.log.awaits_first_flush() {
                    true => partition.flush().await,
                    false => partition.flush_closed().await,
                };
                let moved = match flushed {
                    Ok(moved) => moved,
                    Err(error) => self.flush_failed(&partition, &error),
                };
                self.settle(moved);
            }
        }
    }

    /// Flushes a log that nobody waits for.
    pub(crate) async fn flush_and_settle(self: &Rc<Self>, partition: &Partition) {
        let moved = match partition.flush().await {
            Ok(moved) => moved,
            Err(error) => self.flush_failed(partition, &error),
        };
        self.settle(moved);
    }

    pub(crate) fn flush_failed(&self, partition: &Partition, error: &LogError) -> Moved {
        if partition.deleted.get() {
            return Moved::default();
        }
        let moved = partition.fail(error);
        if moved.failed {
            self.counters().log_flush_failures.inc();
        }
        moved
    }
}
