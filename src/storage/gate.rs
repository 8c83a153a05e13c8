//! One at a time: serialises what changes a log. Never crosses threads.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A lock that is awaited. Held across awaits, unlike a borrow.
#[derive(Default)]
pub(super) struct Gate {
    held: Cell<bool>,
    /// Boxed, since each log has several gates, at which hardly ever anybody waits.
    #[allow(clippy::box_collection)]
    waiting: Cell<Option<Box<Vec<Waker>>>>,
}

/// Opens the gate again when it is dropped.
#[derive(Debug)]
pub(super) struct GateGuard<'a> {
    gate: &'a Gate,
}

/// Nothing that is staged is written while it lives.
#[derive(Debug)]
#[must_use = "writes go on when it is dropped"]
pub struct HeldWrites<'a> {
    pub(super) _gate: GateGuard<'a>,
}

impl Gate {
    pub(super) fn is_held(&self) -> bool {
        self.held.get()
    }

    pub(super) async fn enter(&self) -> GateGuard<'_> {
        poll_fn(|context| {
            if self.held.replace(true) {
                let mut waiting = self.waiting.take().unwrap_or_default();
                waiting.push(context.waker().clone());
                self.waiting.set(Some(waiting));
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        GateGuard { gate: self }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.held.get())
    }
}

impl Drop for GateGuard<'_> {
    fn drop(&mut self) {
        self.gate.held.set(false);
        // All of them: one that was dropped meanwhile must not swallow the only wake.
        for waker in self.gate.waiting.take().into_iter().flat_map(|all| *all) {
            waker.wake();
        }
    }
}
