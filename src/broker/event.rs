//! A flag that one task of a shard waits for and others of the same shard set.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::base::profile::Nanos;
use crate::runtime::profile;

/// Set is remembered until it was waited for. One waiter at a time: each event belongs to one task.
#[derive(Default)]
pub struct Event {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// When the waiter was woken, until it runs.
    woken: Cell<Nanos>,
}

impl Event {
    /// Wakes the waiter, or lets the next wait pass at once.
    pub fn set(&self) {
        if self.set.replace(true) {
            return;
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            self.woken.set(profile::recent());
            waker.wake();
        }
    }

    /// Waits until the event is set, and clears it.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.set.replace(false) {
                profile::ran(self.woken.take());
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future;

    #[test]
    fn a_set_event_lets_one_wait_pass() {
        let event = Event::default();
        event.set();
        event.set();
        future::block_on(event.wait());
        assert!(future::block_on(future::poll_once(event.wait())).is_none());
    }
}
