//! How much disk logs may have allocated ahead of what is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the logs of one data directory may have allocated ahead. One per directory, shared by all
/// shards.
#[derive(Debug)]
pub struct AllocationBudget {
    left: AtomicU64,
}

impl AllocationBudget {
    pub fn new(bytes: u64) -> Self {
        Self {
            left: AtomicU64::new(bytes),
        }
    }

    fn take(&self, bytes: u64) -> bool {
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
