//! Where requests wait: produces for their acknowledgement, fetches for their bytes.
//!
//! A waiting request is registered with each of its partitions, which tell it when something moved,
//! and once with the shard's timers for its deadline. Nothing polls. Whoever completes a request first
//! wins; what the others still hold is dropped when they meet it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use crate::base::profile::{Nanos, Stage, Timeline};
use crate::broker::error::PartitionError;
use crate::broker::event::Event;
use crate::broker::messages::{Answer, Fetch, Produced, Reply};
use crate::broker::reply::ReplyTo;
use crate::runtime::profile;

/// A produce over partitions of one shard, of which some still wait.
pub struct ProduceOp {
    open: Cell<usize>,
    answers: RefCell<Vec<Answer<Produced>>>,
    reply: Cell<Option<ReplyTo>>,
    timer: Cell<Option<TimerKey>>,
    waiting: Cell<Option<Counted>>,
    timeline: Cell<Timeline>,
    /// When the last of its batches was written, and when something last came of it.
    written: Cell<Nanos>,
    at: Cell<Nanos>,
}

/// Counts until it is dropped.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl ProduceOp {
    /// Waits for `open` answers.
    pub fn new(open: usize, reply: ReplyTo, timeline: Timeline) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(open),
            answers: RefCell::new(Vec::with_capacity(open)),
            reply: Cell::new(Some(reply)),
            timer: Cell::new(None),
            waiting: Cell::new(None),
            timeline: Cell::new(timeline),
            written: Cell::default(),
            at: Cell::default(),
        })
    }

    /// All its batches are staged, or refused.
    pub fn appended(&self) {
        let mut timeline = self.timeline.get();
        profile::mark(&mut timeline, Stage::Append);
        self.timeline.set(timeline);
    }

    /// A batch of it was written at `at`.
    pub fn wrote(&self, at: Nanos) {
        self.written.set(self.written.get().max(at));
        self.at.set(self.at.get().max(at));
    }

    /// Something was acknowledged at `at`.
    pub fn reached(&self, at: Nanos) {
        self.at.set(self.at.get().max(at));
    }

    /// One partition is done. The last one sends the reply.
    pub fn answer(&self, slot: u32, result: Result<Produced, PartitionError>) {
        if self.open.get() == 0 {
            return;
        }
        self.answers.borrow_mut().push(Answer { slot, result });
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0
            && let Some(reply) = self.reply.take()
        {
            self.waiting.take();
            let mut timeline = self.timeline.get();
            timeline.mark(Stage::Write, self.written.get());
            timeline.mark(Stage::Commit, self.at.get());
            reply.send(Reply::Produce(self.answers.take(), timeline));
        }
    }

    pub fn is_done(&self) -> bool {
        self.open.get() == 0
    }

    /// The deadline came: each of `slots` that has no answer yet timed out.
    pub fn expire(&self, slots: &[u32]) {
        self.timer.set(None);
        self.at.set(profile::stamp(Stage::Commit));
        let answered: Vec<u32> = self.answers.borrow().iter().map(|a| a.slot).collect();
        for &slot in slots.iter().filter(|slot| !answered.contains(slot)) {
            self.answer(slot, Err(PartitionError::TimedOut));
        }
    }
}

/// A fetch over partitions of one shard that waits for bytes.
pub struct FetchOp {
    /// The endpoint that asked.
    pub from: usize,
    pub fetch: Rc<Fetch>,
    available: Cell<u64>,
    done: Cell<bool>,
    timeline: Timeline,
    reply: Cell<Option<ReplyTo>>,
    timer: Cell<Option<TimerKey>>,
}

impl FetchOp {
    /// `available`: bytes that a first read found.
    pub fn new(
        from: usize,
        fetch: Rc<Fetch>,
        available: u64,
        timeline: Timeline,
        reply: ReplyTo,
    ) -> Rc<Self> {
        Rc::new(Self {
            from,
            fetch,
            available: Cell::new(available),
            done: Cell::new(false),
            timeline,
            reply: Cell::new(Some(reply)),
            timer: Cell::new(None),
        })
    }

    /// `bytes` more have become visible in one of the partitions. Returns whether that is enough.
    pub fn more(&self, bytes: u64) -> bool {
        self.available
            .set(self.available.get().saturating_add(bytes));
        self.available.get() >= u64::from(self.fetch.min_bytes.max(1))
    }

    pub fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Its time, with the wait that ends now.
    pub fn woken(&self) -> Timeline {
        let mut timeline = self.timeline;
        profile::mark(&mut timeline, Stage::Purgatory);
        timeline
    }

    /// Takes the way back, if nobody has yet.
    pub fn take_reply(&self) -> Option<ReplyTo> {
        self.done.set(true);
        self.reply.take()
    }
}

/// What happens when a deadline comes.
pub enum Expired {
    Fetch(Rc<FetchOp>),
    /// The slots that have not been answered.
    Produce(Rc<ProduceOp>, Vec<u32>),
}

/// Names a timer; unique, in the order of the deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey(Instant, u64);

/// The deadlines of one shard, and the fetches that wait in it.
#[derive(Default)]
pub struct Purgatory {
    timers: RefCell<BTreeMap<TimerKey, Expired>>,
    fetches: RefCell<BTreeMap<(usize, u64), Rc<FetchOp>>>,
    /// Fetches that read at this moment, and whether they were told to answer at once.
    reading: RefCell<BTreeMap<(usize, u64), bool>>,
    next: Cell<u64>,
    produces: Rc<Cell<usize>>,
    /// Set when the earliest deadline became earlier.
    pub earlier: Event,
}

impl Purgatory {
    fn insert(&self, deadline: Instant, expired: Expired) -> TimerKey {
        let key = TimerKey(deadline, self.next.get());
        self.next.set(key.1 + 1);
        let mut timers = self.timers.borrow_mut();
        let first = timers
            .first_key_value()
            .is_none_or(|(first, _)| key < *first);
        timers.insert(key, expired);
        drop(timers);
        if first {
            self.earlier.set();
        }
        key
    }

    /// Watches a fetch until its deadline. The asker and the fetch's id name it for [`Self::named`].
    pub fn watch_fetch(&self, op: &Rc<FetchOp>) {
        if let Some(deadline) = op.fetch.deadline {
            let key = self.insert(deadline, Expired::Fetch(op.clone()));
            op.timer.set(Some(key));
        }
        self.fetches
            .borrow_mut()
            .insert((op.from, op.fetch.id), op.clone());
    }

    /// Counts a produce as waiting until it is answered.
    pub fn count_produce(&self, op: &ProduceOp) {
        op.waiting.set(Some(Counted::new(&self.produces)));
    }

    /// Watches a produce until its deadline.
    pub fn watch_produce(&self, op: &Rc<ProduceOp>, slots: Vec<u32>, deadline: Instant) {
        let key = self.insert(deadline, Expired::Produce(op.clone(), slots));
        op.timer.set(Some(key));
    }

    /// A fetch begins to read; until [`Self::end_read`] it can be told to answer at once.
    pub fn begin_read(&self, from: usize, id: u64) {
        self.reading.borrow_mut().insert((from, id), false);
    }

    /// A fetch has read. Returns whether it was told to answer at once.
    pub fn end_read(&self, from: usize, id: u64) -> bool {
        self.reading.borrow_mut().remove(&(from, id)) == Some(true)
    }

    /// Tells a fetch that is reading to answer at once.
    pub fn hurry(&self, from: usize, id: u64) {
        if let Some(hurried) = self.reading.borrow_mut().get_mut(&(from, id)) {
            *hurried = true;
        }
    }

    /// The waiting fetch that `from` posted under `id`.
    pub fn named(&self, from: usize, id: u64) -> Option<Rc<FetchOp>> {
        self.fetches.borrow().get(&(from, id)).cloned()
    }

    /// All fetches that wait.
    pub fn all_fetches(&self) -> Vec<Rc<FetchOp>> {
        self.fetches.borrow().values().cloned().collect()
    }

    /// A fetch is no longer waiting.
    pub fn forget_fetch(&self, op: &FetchOp) {
        self.fetches.borrow_mut().remove(&(op.from, op.fetch.id));
        if let Some(key) = op.timer.take() {
            self.timers.borrow_mut().remove(&key);
        }
    }

    /// A produce is no longer waiting.
    pub fn forget_produce(&self, op: &ProduceOp) {
        if let Some(key) = op.timer.take() {
            self.timers.borrow_mut().remove(&key);
        }
    }

    /// Fetches waiting now.
    pub fn waiting_fetches(&self) -> usize {
        self.fetches.borrow().len()
    }

    /// Produces waiting now.
    pub fn waiting_produces(&self) -> usize {
        self.produces.get()
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.borrow().first_key_value().map(|(key, _)| key.0)
    }

    /// Takes one whose deadline has come.
    pub fn expired(&self, now: Instant) -> Option<Expired> {
        let mut timers = self.timers.borrow_mut();
        let first = timers.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::reply;

    #[test]
    fn a_produce_is_counted_until_its_last_partition_has_answered_or_it_is_dropped() {
        let purgatory = Purgatory::default();
        let op = || {
            let (sender, _) = reply::local();
            let op = ProduceOp::new(2, ReplyTo::Local(sender), Timeline::OFF);
            purgatory.count_produce(&op);
            op
        };
        let (answered, dropped) = (op(), op());
        assert_eq!(purgatory.waiting_produces(), 2);
        answered.answer(0, Err(PartitionError::TimedOut));
        assert_eq!(purgatory.waiting_produces(), 2);
        answered.answer(1, Err(PartitionError::TimedOut));
        assert_eq!(purgatory.waiting_produces(), 1);
        drop(dropped);
        assert_eq!(purgatory.waiting_produces(), 0);
    }
}
