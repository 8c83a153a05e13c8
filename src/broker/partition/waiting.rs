//! Produces that are appended and not yet acknowledged.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::Offset;
use crate::broker::messages::Produced;
use crate::broker::purgatory::ProduceOp;

/// A produce that is appended and not yet acknowledged.
pub(super) struct Waiting {
    /// One past its last record.
    pub(super) end: Offset,
    /// `acks=all`: every in-sync replica, not the leader alone.
    pub(super) all: bool,
    /// Whether the fsync has to have passed `end` as well.
    pub(super) flushed: bool,
    /// It was written, and the request knows.
    pub(super) written: bool,
    pub(super) produced: Produced,
    pub(super) slot: u32,
    pub(super) op: Rc<ProduceOp>,
}

/// Produces that wait for the same thing, in the order of their ends: none is held up by one that waits
/// for more. `None` until something has to wait: most partitions of a node are idle.
#[derive(Default)]
pub(super) struct Queues(Option<Box<[VecDeque<Waiting>; 4]>>);

impl Queues {
    pub(super) fn push(&mut self, waiting: Waiting) {
        let queue = usize::from(waiting.all) * 2 + usize::from(waiting.flushed);
        self.0.get_or_insert_default()[queue].push_back(waiting);
    }

    /// Takes one that `is_acknowledged`.
    pub(super) fn pop(&mut self, is_acknowledged: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        self.each()
            .find(|queue| queue.front().is_some_and(&is_acknowledged))
            .and_then(VecDeque::pop_front)
    }

    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut VecDeque<Waiting>> {
        self.0.iter_mut().flat_map(|queues| queues.iter_mut())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|queues| queues.iter().all(VecDeque::is_empty))
    }

    pub(super) fn into_waiting(self) -> impl Iterator<Item = Waiting> {
        self.0.into_iter().flat_map(|queues| *queues).flatten()
    }
}
