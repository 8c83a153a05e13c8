//! Yielding by work done, not by time.
//!
//! A task whose socket always has data never waits, and its neighbours starve; the preemption timer
//! is too coarse to help (100 ms). So whoever moves bytes counts them here.

use std::cell::Cell;

use super::executor;

thread_local! {
    static SHORT_REQUESTS: Cell<u64> = const { Cell::new(0) };
}

/// Counts a request of this shard that needs little besides its turn: a produce.
pub fn count_short_request() {
    SHORT_REQUESTS.set(SHORT_REQUESTS.get() + 1);
}

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

/// The budget of a task that moves much: long turns, which cost least, as long as it is alone, and short ones while
/// requests come in that need little besides their turn.
#[derive(Debug)]
pub struct BulkBudget {
    long: usize,
    short: usize,
    /// Short requests so far, and bytes moved since the last one came.
    seen: u64,
    quiet: usize,
    moved: usize,
}

/// A task is alone once it has moved so many of its long turns with no short request between them.
const QUIET_TURNS: usize = 4;

impl BulkBudget {
    /// Turns of so many bytes.
    pub fn new(long: usize, short: usize) -> BulkBudget {
        BulkBudget {
            long,
            short,
            seen: SHORT_REQUESTS.get(),
            quiet: QUIET_TURNS * long,
            moved: 0,
        }
    }

    /// Bytes of one turn.
    pub fn turn(&mut self) -> usize {
        let seen = SHORT_REQUESTS.get();
        if std::mem::replace(&mut self.seen, seen) != seen {
            self.quiet = 0;
        }
        match self.quiet < QUIET_TURNS * self.long {
            true => self.short,
            false => self.long,
        }
    }

    /// Counts `bytes` moved, and lets the other tasks of the shard run if a turn is used up.
    pub async fn spend(&mut self, bytes: usize) {
        if self.spend_now(bytes) {
            executor::yield_now().await;
        }
    }

    fn spend_now(&mut self, bytes: usize) -> bool {
        self.moved = self.moved.saturating_add(bytes);
        let is_used_up = self.moved >= self.turn();
        self.quiet = self.quiet.saturating_add(bytes);
        if is_used_up {
            self.moved = 0;
        }
        is_used_up
    }

    /// The task waited for something: others ran, the turn begins anew.
    pub fn refill(&mut self) {
        self.moved = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_moves_much_takes_short_turns_while_short_requests_come_in() {
        let mut budget = BulkBudget::new(400, 100);
        assert_eq!(budget.turn(), 400);
        assert!(!budget.spend_now(399));
        assert!(budget.spend_now(1));
        count_short_request();
        assert_eq!(budget.turn(), 100);
        for _ in 0..4 * QUIET_TURNS {
            assert!(budget.spend_now(100));
        }
        // Nobody came meanwhile.
        assert_eq!(budget.turn(), 400);
        assert!(!budget.spend_now(300));
        count_short_request();
        assert!(budget.spend_now(1));
        assert!(!budget.spend_now(99));
        budget.refill();
        assert!(!budget.spend_now(99));
    }

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
