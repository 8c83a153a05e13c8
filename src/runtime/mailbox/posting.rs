//! A request on its way into a lane: it waits for room, first come first served.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{Closed, Local, Pending, SlotState, State, Waiter};
use crate::runtime::lane::Letter;

/// One [`post`](super::Endpoint::post). Dropped, those behind it go on.
pub(super) struct Posting<'a, Q: Send, A: Send> {
    pub(super) local: &'a Rc<Local<Q, A>>,
    pub(super) to: usize,
    /// Its place among those who wait for room, if it does.
    pub(super) ticket: Option<u64>,
}

impl<Q: Send, A: Send> Posting<'_, Q, A> {
    /// Takes `request` and sends it, or waits for room.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Option<Q>,
    ) -> Poll<Result<Pending<Q, A>, Closed>> {
        let local = self.local;
        let post = &local.shared.posts[self.to];
        local.serve_replies();
        if local.closed.get() || post.requests.is_closed() {
            return Poll::Ready(Err(Closed));
        }
        let mut state = local.state.borrow_mut();
        let first = match (state.queues[self.to].front(), self.ticket) {
            (None, _) => true,
            (Some(waiter), Some(ticket)) => waiter.ticket == ticket,
            (Some(_), None) => false,
        };
        if !first || !local.has_room(&state, self.to) {
            // Now the receiver knows that we wait; look once more, it may have missed that.
            post.senders[local.id()].waits.store(true, Ordering::SeqCst);
            if !first || !local.has_room(&state, self.to) {
                self.wait(&mut state, cx.waker());
                return Poll::Pending;
            }
        }
        if self.ticket.take().is_some() {
            state.queues[self.to].pop_front();
        }
        let slot = local.take_slot(&mut state);
        let mut envelope = state.slots[slot as usize]
            .envelope
            .take()
            .expect("a free slot has its envelope");
        envelope.replace(Letter::Request(
            request.take().expect("polled after completion"),
        ));
        if let Err(mut envelope) = post.requests.push(envelope) {
            envelope.replace(Letter::Empty);
            state.slots[slot as usize].envelope = Some(envelope);
            state.free.push(slot);
            return Poll::Ready(Err(Closed));
        }
        state.slots[slot as usize].state = SlotState::Waiting(None);
        state.sent[self.to] = state.sent[self.to].wrapping_add(1);
        state.away += 1;
        if local.has_room(&state, self.to) {
            state.wake_first(self.to);
        } else if !state.queues[self.to].is_empty() {
            post.senders[local.id()].waits.store(true, Ordering::SeqCst);
            if local.has_room(&state, self.to) {
                state.wake_first(self.to);
            }
        }
        drop(state);
        local.ring(self.to as u16);
        Poll::Ready(Ok(Pending {
            local: local.clone(),
            slot,
            done: false,
        }))
    }

    fn wait(&mut self, state: &mut State<Q, A>, waker: &Waker) {
        match self.ticket {
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.queues[self.to].push_back(Waiter {
                    ticket,
                    waker: waker.clone(),
                });
                self.ticket = Some(ticket);
            }
            Some(ticket) => {
                let waiter = state.queues[self.to]
                    .iter_mut()
                    .find(|w| w.ticket == ticket)
                    .expect("a ticket is in the queue");
                waiter.waker.clone_from(waker);
            }
        }
    }
}

impl<Q: Send, A: Send> Drop for Posting<'_, Q, A> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut state = self.local.state.borrow_mut();
            state.queues[self.to].retain(|w| w.ticket != ticket);
            // Perhaps we were woken for room that we do not use.
            state.wake_first(self.to);
        }
    }
}
