//! How much disk logs may have allocated ahead of what is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the logs of one data directory may have allocated ahead. One per directory, shared by all
/// shards.
#[derive(Debug)]
pub struct AllocationBudget {
    left: AtomicU64,
    /// Most that one log may take at once, by what is free on the disk.
    step: AtomicU64,
}

/// What is allocated ahead is lost to the other logs. So one takes at most this part of what is free.
const PART_OF_FREE: u64 = 4;

impl AllocationBudget {
    pub fn new(bytes: u64) -> Self {
        Self {
            left: AtomicU64::new(bytes),
            step: AtomicU64::new(u64::MAX),
        }
    }

    /// `bytes` may be used on the disk.
    pub fn set_free(&self, bytes: u64) {
        self.step.store(bytes / PART_OF_FREE, Ordering::Relaxed);
    }

    fn take(&self, bytes: u64) -> bool {
        if bytes > self.step.load(Ordering::Relaxed) {
            return false;
        }
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .is_ok()
    }

    fn give(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A part of an [`AllocationBudget`], given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    budget: Option<Arc<AllocationBudget>>,
    bytes: u64,
}

impl Reservation {
    pub(super) fn new(budget: Option<Arc<AllocationBudget>>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// One of the same budget that holds nothing.
    pub(super) fn another(&self) -> Self {
        Self::new(self.budget.clone())
    }

    /// Holds `bytes` from now on, if the budget has them; otherwise nothing changes.
    pub(super) fn set(&mut self, bytes: u64) -> bool {
        let Some(budget) = &self.budget else {
            return true;
        };
        if bytes > self.bytes && !budget.take(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            budget.give(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_log_takes_more_ahead_than_the_budget_or_a_part_of_what_is_free() {
        let budget = Arc::new(AllocationBudget::new(100));
        let mut one = Reservation::new(Some(budget.clone()));
        let mut other = one.another();
        assert!(one.set(60) && !other.set(60) && other.set(40));
        assert!(one.set(0));
        budget.set_free(80);
        assert!(!one.set(21) && one.set(20));
        budget.set_free(u64::MAX);
        assert!(one.set(60));
    }
}
