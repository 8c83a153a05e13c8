//! One at a time: serialises what changes a log. Never crosses threads.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A lock that is awaited. Held across awaits, unlike a borrow.
#[derive(Debug, Default)]
pub(super) struct Gate {
    held: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// Opens the gate again when it is dropped.
#[derive(Debug)]
pub(super) struct GateGuard<'a> {
    gate: &'a Gate,
}

impl Gate {
    pub(super) fn is_held(&self) -> bool {
        self.held.get()
    }

    pub(super) async fn enter(&self) -> GateGuard<'_> {
        poll_fn(|context| {
            if self.held.replace(true) {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        GateGuard { gate: self }
    }
}

impl Drop for GateGuard<'_> {
    fn drop(&mut self) {
        self.gate.held.set(false);
        // All of them: one that was dropped meanwhile must not swallow the only wake.
        let waiting = std::mem::take(&mut *self.gate.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }
}
