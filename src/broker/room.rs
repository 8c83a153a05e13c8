//! Room on the disks: `ringspun.log.min.free.bytes` of each file system are left free.
//!
//! A file system that is full takes logs offline: a write that falls short cannot be tried again. So clients' records
//! are refused before, while there is room for what makes room and keeps consumers going: compaction, the records of
//! coordinators, transaction markers, checkpoints, metadata.
//!
//! The refusal is KAFKA_STORAGE_ERROR, with a message that says what is wrong. Of the codes that are true it is the one that every
//! client takes for "not stored, try again": the Java client and librdkafka retry until `delivery.timeout.ms`, and go on by
//! themselves when space has returned. POLICY_VIOLATION would end the producer; NOT_ENOUGH_REPLICAS is retried as
//! well, but sends its reader looking for a replica.
//!
//! Each shard asks the file systems every quarter of a second while it appends, and takes what it appends meanwhile from
//! its share of what was free. Nothing is shared between shards.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::broker::shard::Shard;

/// How long what was asked last is good enough for a directory to which nothing is appended.
const IDLE: Duration = Duration::from_secs(1);

/// What one shard knows of the room in one directory.
#[derive(Clone, Debug)]
struct Of {
    /// Bytes that this shard may append before it asks again.
    left: Cell<i64>,
    /// There was not enough for somebody: nobody gets any until there is a good deal more.
    low: Cell<bool>,
    appended: Cell<bool>,
    asked: Cell<Option<Instant>>,
}

/// One per shard.
#[derive(Debug)]
pub struct Room {
    /// In the order of `log.dirs`.
    directories: Vec<Of>,
}

impl Room {
    pub fn new(directories: usize) -> Self {
        let of = Of {
            left: Cell::new(i64::MAX),
            low: Cell::new(false),
            appended: Cell::new(false),
            asked: Cell::new(None),
        };
        Self {
            directories: vec![of; directories],
        }
    }

    /// Takes room for `bytes` of clients' records, unless there is too little.
    pub fn take(&self, directory: usize, bytes: usize) -> bool {
        let of = &self.directories[directory];
        of.appended.set(true);
        let left = of.left.get();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let fits = left >= bytes && !of.low.get();
        if fits {
            of.left.set(left - bytes);
        } else {
            of.low.set(true);
        }
        fits
    }
}

/// Records are taken again when this part of the reserve is free beyond it.
const PART_OF_RESERVE: i128 = 16;

/// What one of `shards` may append where `free` bytes are free and `min_free` have to stay so.
fn share(free: i64, min_free: u64, shards: u16) -> i64 {
    if min_free == 0 {
        return i64::MAX;
    }
    let min_free = i64::try_from(min_free).unwrap_or(i64::MAX);
    free.saturating_sub(min_free) / i64::from(shards.max(1))
}

impl Shard {
    /// Asks how much is free, where that may have changed.
    pub(crate) async fn measure_room(&self) {
        let min_free = self.settings().log_min_free_bytes;
        let directories = self.directories.all().iter();
        for (index, (directory, of)) in directories.zip(&self.room.directories).enumerate() {
            let appended = of.appended.take();
            let is_fresh = of.asked.get().is_some_and(|at| at.elapsed() < IDLE);
            if directory.failure().is_some() || !appended && is_fresh {
                continue;
            }
            of.asked.set(Some(Instant::now()));
            let Some(space) = self.directories.measure(index).await else {
                continue;
            };
            of.left
                .set(share(space.usable_bytes, min_free, self.shards));
            let usable = i128::from(space.usable_bytes) - i128::from(min_free);
            let ahead = u64::try_from(usable.max(0)).unwrap_or(u64::MAX);
            directory.allocation.set_free(ahead);
            let path = directory.path.display();
            let free = space.usable_bytes;
            if !of.low.get() {
                continue;
            }
            // The first of the shards says it for all.
            if !directory.low.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "{path}: {free} bytes are free, ringspun.log.min.free.bytes={min_free}: records of clients are refused until there is more"
                );
            } else if usable > i128::from(min_free) / PART_OF_RESERVE {
                of.low.set(false);
                directory.low.store(false, Ordering::Relaxed);
                tracing::info!("{path}: {free} bytes are free again: records are taken");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_what_is_above_the_reserve() {
        assert_eq!(share(1000, 200, 4), 200);
        assert_eq!(share(100, 200, 4), -25);
        assert_eq!(share(0, 0, 4), i64::MAX, "switched off");
        assert_eq!(share(i64::MAX, u64::MAX, 1), 0);
    }

    #[test]
    fn what_is_appended_between_two_looks_is_taken_off() {
        let room = Room::new(2);
        assert!(room.take(1, 1 << 40), "not asked yet");
        room.directories[1].left.set(100);
        assert!(room.take(1, 60));
        assert!(room.take(1, 40));
        assert!(!room.take(1, 1));
        room.directories[1].left.set(1);
        assert!(!room.take(1, 1), "not by and by");
        assert!(room.take(0, 1), "another directory");
    }
}
