//! Deadlines of one coordinator, by name: a name has one deadline or none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::Timestamp;

/// What is due when its time has come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A member of a classic group was not heard of, or never came back with the id it was given.
    Session { group: Arc<str>, member: Arc<str> },
    /// The join phase of a classic group's rebalance is over.
    Join { group: Arc<str> },
    /// Members of a classic group should have asked for their assignment by now.
    Sync { group: Arc<str> },
    /// Look for offsets and groups that may be forgotten.
    Expiration,
}

#[derive(Default)]
pub struct Timers {
    by_time: BTreeSet<(Timestamp, Timer)>,
    by_name: BTreeMap<Timer, Timestamp>,
}

impl Timers {
    /// Moves the deadline if the timer has one.
    pub fn schedule(&mut self, timer: Timer, at: Timestamp) {
        if let Some(before) = self.by_name.insert(timer.clone(), at) {
            self.by_time.remove(&(before, timer.clone()));
        }
        self.by_time.insert((at, timer));
    }

    pub fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, at)) = self.by_name.remove_entry(timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out the first one that is due.
    pub fn pop(&mut self, now: Timestamp) -> Option<Timer> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_name.remove(&timer);
        Some(timer)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}
