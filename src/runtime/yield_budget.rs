//! Yielding by work done, not by time.
//!
//! A task whose socket always has data never waits, and its neighbours starve; the preemption timer
//! is too coarse to help (100 ms). So whoever moves bytes counts them here.

use super::executor;

/// Bytes a task moves before it lets others run: at memory speed well under half a millisecond.
pub const YIELD_BYTES: usize = 256 * 1024;

/// Elements of a request (names looked up, parts of an answer put together) that a task handles before it
/// lets others run: at some hundred nanoseconds each, under half a millisecond.
pub const YIELD_ELEMENTS: usize = 1_000;

/// The budget of one task.
#[derive(Debug)]
pub struct YieldBudget {
    limit: usize,
    left: usize,
}

impl YieldBudget {
    /// Yields every `limit` bytes.
    pub fn new(limit: usize) -> YieldBudget {
        YieldBudget { limit, left: limit }
    }

    /// Yields every [`YIELD_ELEMENTS`] elements.
    pub fn of_elements() -> YieldBudget {
        YieldBudget::new(YIELD_ELEMENTS)
    }

    /// Counts one element, and lets the other tasks of the shard run if the budget is used up.
    pub async fn step(&mut self) {
        self.spend(1).await;
    }

    /// All of `items`, letting other tasks run now and then.
    pub async fn collect<T>(&mut self, items: impl Iterator<Item = T>) -> Vec<T> {
        let mut all = Vec::with_capacity(items.size_hint().0);
        for item in items {
            all.push(item);
            self.step().await;
        }
        all
    }

    /// Counts `bytes` moved, and lets the other tasks of the shard run if the budget is used up.
    pub async fn spend(&mut self, bytes: usize) {
        if self.spend_now(bytes) {
            executor::yield_now().await;
        }
    }

    /// Counts `bytes` moved; `true` if the caller should yield now ([`executor::yield_now`]).
    pub fn spend_now(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes);
        if self.left > 0 {
            return false;
        }
        self.left = self.limit;
        true
    }

    /// The task waited for something: others ran, the budget is full again.
    pub fn refill(&mut self) {
        self.left = self.limit;
    }
}

impl Default for YieldBudget {
    fn default() -> YieldBudget {
        YieldBudget::new(YIELD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_yields_each_time_its_bytes_are_used_up() {
        let mut budget = YieldBudget::new(100);
        assert!(!budget.spend_now(99));
        assert!(budget.spend_now(1));
        assert!(budget.spend_now(1_000));
        assert!(!budget.spend_now(60));
        budget.refill();
        assert!(!budget.spend_now(60));
    }
}
