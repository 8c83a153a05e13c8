//! The cleaner of a shard: which log is next, and how fast it may go. One log at a time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::base::TopicPartition;
use crate::base::settings::NodeSettings;
use crate::broker::partition::Partition;
use crate::broker::shard::{Shard, wall_clock};
use crate::runtime::executor::yield_now;
use crate::runtime::yield_budget::YieldBudget;
use crate::storage::cleaner::{CleanError, Cleanable, Cleaner, Limits, Pace};

/// Bytes that are looked at before others run: some tenths of a millisecond.
const TURN_BYTES: usize = 128 * 1024;
/// Least memory for keys: for some ten thousand of them.
const MAP_BYTES_MIN: u64 = 256 * 1024;
/// A stop, or other settings, are noticed within this time.
const TICK: Duration = Duration::from_millis(250);
/// The share of the node's memory that keys may take.
const MAP_SHARE: u64 = 8;

impl Shard {
    pub(crate) async fn clean_loop(self: Rc<Self>) {
        let mut cleaner = Cleaner::default();
        // Logs whose content the cleaner does not understand.
        let mut uncleanable = BTreeSet::new();
        while !self.is_stopping() {
            if self.settings().log_cleaner_runs {
                self.clean_due(&mut cleaner, &mut uncleanable).await;
            }
            let began = Instant::now();
            while !self.is_stopping()
                && began.elapsed() < Duration::from_millis(self.settings().log_cleaner_backoff_ms)
            {
                Timer::new(TICK).await;
            }
        }
    }

    /// Cleans the logs that are due, the filthiest first, until none is left.
    async fn clean_due(
        self: &Rc<Self>,
        cleaner: &mut Cleaner,
        uncleanable: &mut BTreeSet<TopicPartition>,
    ) {
        // One that failed is not tried again in this round.
        let mut failed = BTreeSet::new();
        while !self.is_stopping() && self.settings().log_cleaner_runs {
            let except = |key| uncleanable.contains(&key) || failed.contains(&key);
            let Some((partition, range)) = self.filthiest(except).await else {
                break;
            };
            self.cleaning.set(Some(partition.key));
            let cleaned = self.clean_one(cleaner, &partition, &range).await;
            self.cleaning.set(None);
            match cleaned {
                Ok(()) => {}
                Err(CleanError::Aborted) => {
                    failed.insert(partition.key);
                }
                Err(error) => {
                    failed.insert(partition.key);
                    self.counters().cleaner_failures.inc();
                    tracing::error!(
                        topic = %partition.topic,
                        partition = partition.key.partition.0,
                        "log could not be cleaned: {error}"
                    );
                    if matches!(error, CleanError::Corrupt { .. }) {
                        uncleanable.insert(partition.key);
                    }
                    if let CleanError::Log(error) = &error
                        && partition.log.failure().is_some()
                    {
                        let moved = partition.fail(error);
                        self.settle(moved);
                    }
                }
            }
        }
        uncleanable.retain(|key| self.find(*key).is_ok());
        let count = i64::try_from(uncleanable.len()).unwrap_or(i64::MAX);
        self.counters().cleaner_uncleanable.set(count);
    }

    /// The log with the greatest share of dirty bytes, of those that are due.
    async fn filthiest(
        &self,
        except: impl Fn(TopicPartition) -> bool,
    ) -> Option<(Rc<Partition>, Cleanable)> {
        let mut filthiest: Option<(Rc<Partition>, Cleanable)> = None;
        for partition in self.all_partitions() {
            let settings = partition.settings();
            if !settings.cleanup_policy.compact
                || partition.deleted.get()
                || partition.log.failure().is_some()
                || self.moves().contains_key(&partition.key)
                || except(partition.key)
            {
                continue;
            }
            let stable = partition.last_stable_offset();
            let Ok(range) = partition.log.cleanable(stable, wall_clock()).await else {
                continue;
            };
            let is_more = |(_, than): &(_, Cleanable)| range.ratio() > than.ratio();
            if range.is_due(&settings) && filthiest.as_ref().is_none_or(is_more) {
                filthiest = Some((partition, range));
            }
            yield_now().await;
        }
        filthiest
    }

    async fn clean_one(
        self: &Rc<Self>,
        cleaner: &mut Cleaner,
        partition: &Rc<Partition>,
        range: &Cleanable,
    ) -> Result<(), CleanError> {
        let pace = ShardPace {
            shard: self,
            partition,
            budget: RefCell::new(YieldBudget::new(TURN_BYTES)),
            free_at: Cell::new(Instant::now()),
        };
        let limits = limits(&self.settings(), self.shards);
        let pass = partition
            .log
            .clean(cleaner, limits, range, wall_clock(), &pace)
            .await?;
        let counters = self.counters();
        counters.cleaner_passes.inc();
        counters.cleaner_input_bytes.add(pass.bytes_before);
        counters.cleaner_output_bytes.add(pass.bytes_after);
        tracing::debug!(
            topic = %partition.topic,
            partition = partition.key.partition.0,
            "log cleaned up to offset {}: {} keys, {} bytes of {} segments are {} of {}{}",
            pass.cleaned_to,
            pass.keys,
            pass.bytes_before,
            pass.segments_before,
            pass.bytes_after,
            pass.segments_after,
            if pass.map_was_full { ", more to come" } else { "" }
        );
        Ok(())
    }
}

/// A shard's part of the node's memory for cleaning.
fn limits(settings: &NodeSettings, shards: u16) -> Limits {
    let shards = u64::from(shards.max(1));
    let map_bytes = settings
        .log_cleaner_dedupe_buffer_size
        .min(settings.memory_bytes / MAP_SHARE)
        / shards;
    let io_bytes = settings.log_cleaner_io_buffer_size / shards / 2;
    Limits {
        map_bytes: map_bytes.max(MAP_BYTES_MIN),
        load_factor: settings.log_cleaner_io_buffer_load_factor,
        io_bytes: usize::try_from(io_bytes)
            .unwrap_or(usize::MAX)
            .clamp(16 * 1024, 1024 * 1024),
    }
}

/// Lets the shard's other tasks run, and keeps the limit of I/O.
struct ShardPace<'a> {
    shard: &'a Shard,
    partition: &'a Partition,
    budget: RefCell<YieldBudget>,
    /// When the bytes so far may have been moved.
    free_at: Cell<Instant>,
}

impl Pace for ShardPace<'_> {
    async fn moved(&self, bytes: usize) {
        self.worked(bytes).await;
        let node = self.shard.settings().log_cleaner_io_max_bytes_per_second;
        let rate = node / f64::from(self.shard.shards.max(1));
        let Ok(takes) = Duration::try_from_secs_f64(bytes as f64 / rate.max(1.0)) else {
            return;
        };
        let now = Instant::now();
        let free_at = self.free_at.get().max(now) + takes;
        self.free_at.set(free_at);
        // What is shorter than this is gathered.
        if free_at - now > Duration::from_millis(5) {
            Timer::new(free_at - now).await;
        }
    }

    async fn worked(&self, bytes: usize) {
        let yields = self.budget.borrow_mut().spend_now(bytes);
        if yields {
            yield_now().await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.shard.is_stopping()
            || self.partition.deleted.get()
            || self.shard.moves().contains_key(&self.partition.key)
            || !self.shard.settings().log_cleaner_runs
    }
}
