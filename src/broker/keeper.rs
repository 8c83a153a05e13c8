//! What comes round by the clock: retention, `flush.ms`, forgetting producers, room for the next
//! segment.

use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::base::counters::Purgatory;
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, wall_clock};
use crate::runtime::executor::{self, yield_now};

/// How often the keeper looks what is due.
const TICK: Duration = Duration::from_millis(250);
/// How often it looks for logs that hold files and need none.
const FILES_LOOK: Duration = Duration::from_secs(5);

impl Shard {
    pub(crate) async fn keep_loop(self: Rc<Self>) {
        let settings = self.settings();
        let first = Duration::from_millis(settings.log_initial_task_delay_ms);
        let mut retention = Instant::now() + first;
        let mut expiry = Instant::now() + first;
        let mut files = Instant::now() + FILES_LOOK;
        // Logs have come to rest whose memory has not been given back.
        let mut has_rested = false;
        let mut passed = 0;
        let mut judged = vec![0; self.directories.all().len()];
        self.measure_room().await;
        while !self.is_stopping() {
            Timer::new(TICK).await;
            let settings = self.settings();
            let now = Instant::now();
            self.flush_by_age().await;
            self.sample();
            self.measure_room().await;
            self.judge_directories(&mut judged).await;
            if now >= files {
                files = now + FILES_LOOK;
                let rested = self.close_idle_files().await;
                has_rested |= rested > 0;
                let counters = self.counters();
                let before = passed;
                passed = counters.produced_batches.get() + counters.fetched_bytes.get();
                // Logs that are silent together come to rest a few at a time; and it would hold up whoever sends or
                // reads records.
                if has_rested && rested == 0 && passed == before {
                    has_rested = false;
                    executor::give_back().await;
                }
            }
            if now >= retention {
                retention = now + Duration::from_millis(settings.log_retention_check_interval_ms);
                self.retain().await;
            }
            if now >= expiry {
                expiry =
                    now + Duration::from_millis(settings.producer_id_expiration_check_interval_ms);
                self.forget_producers().await;
            }
        }
    }

    /// What is counted by looking.
    fn sample(&self) {
        let counters = self.counters();
        let partitions = self.all_partitions();
        let offline = partitions.iter().filter(|p| p.log.failure().is_some());
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let offline = offline.count() + self.offline().len();
        counters.offline_partitions.set(count(offline));
        counters.partitions.set(count(partitions.len()));
        let fetches = count(self.purgatory.waiting_fetches());
        counters.waiting(Purgatory::Fetch).set(fetches);
        let produces = count(self.purgatory.waiting_produces());
        counters.waiting(Purgatory::Produce).set(produces);
    }

    /// A log that failed may have failed alone, or its disk has: then everything on that disk goes offline, and
    /// nothing else. `judged` says of how many failed logs of each directory that was asked.
    async fn judge_directories(self: &Rc<Self>, judged: &mut [usize]) {
        let mut failed = vec![0; judged.len()];
        for partition in self.all_partitions() {
            let failure = partition.log.failure();
            if failure.is_some_and(|failure| !failure.is_disk_full()) {
                failed[partition.directory] += 1;
            }
        }
        let suspected = self.suspected.take();
        for (index, directory) in self.directories.all().iter().enumerate() {
            let is_suspected = failed[index] > judged[index] || suspected.contains(&index);
            if directory.failure().is_none() && is_suspected {
                judged[index] = failed[index];
                if let Err(error) = self.directories.probe(index).await {
                    // The first of the shards says it.
                    if directory.fail(error.to_string()) {
                        tracing::error!(
                            "{}: nothing can be written there ({error}); its partitions are offline until a restart",
                            directory.path.display()
                        );
                    }
                }
            }
            if let Some(why) = directory.failure() {
                self.take_offline(index, why);
            }
        }
    }

    /// Takes what still serves from a directory offline.
    fn take_offline(self: &Rc<Self>, directory: usize, why: &str) {
        for partition in self.all_partitions() {
            if partition.directory == directory && partition.log.failure().is_none() {
                let error = partition
                    .log
                    .take_offline(std::io::Error::other(why.to_owned()));
                let moved = partition.fail(&error);
                self.settle(moved);
            }
        }
    }

    /// Flushes partitions whose oldest record that is not flushed has waited for `flush.ms`.
    async fn flush_by_age(self: &Rc<Self>) {
        let now = wall_clock();
        for partition in self.unflushed() {
            if partition.flush_is_due_by_age(now) {
                self.mark_flush(&partition);
            }
        }
    }

    async fn retain(self: &Rc<Self>) {
        for partition in self.all_partitions() {
            self.retain_one(&partition).await;
            yield_now().await;
        }
    }

    async fn retain_one(self: &Rc<Self>, partition: &Rc<Partition>) {
        if partition.deleted.get() || partition.log.failure().is_some() {
            return;
        }
        let high_watermark = partition.high_watermark();
        match partition
            .log
            .delete_old_segments(wall_clock(), high_watermark)
            .await
        {
            Ok(deleted) if deleted.segments > 0 => {
                let counters = self.counters();
                counters.log_segments_deleted.add(deleted.segments as u64);
                tracing::info!(
                    topic = %partition.topic,
                    partition = partition.key.partition.0,
                    "{} segments of {} bytes passed retention; log starts at {}",
                    deleted.segments,
                    deleted.bytes,
                    partition.log.log_start_offset()
                );
            }
            Ok(_) => {}
            Err(error) => {
                let moved = partition.fail(&error);
                self.settle(moved);
            }
        }
    }

    async fn forget_producers(self: &Rc<Self>) {
        let now = wall_clock();
        for partition in self.all_partitions() {
            partition.log.remove_expired_producers(now);
            yield_now().await;
        }
    }
}
