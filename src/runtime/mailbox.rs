//! Messages between the shards and the control thread: requests, and one reply to each.
//!
//! Every participant is an endpoint: shards 0..n, the control thread last. Each has a lane for
//! requests and one for replies, so that replies are never stuck behind requests.
//!
//! 1. [`Endpoint::post`] waits for room: at most `queued_max` requests of one sender lie unread at
//!    one receiver, and at most `outstanding_max` requests of one sender await replies. Nothing is
//!    dropped. Waiting is a future, so a sender that waits still serves its own lanes.
//! 2. The request travels in an envelope of the sender's; [`Endpoint::next`] takes it out.
//! 3. [`Endpoint::reply`] puts the reply into the same envelope and sends it home. It needs no room
//!    and never waits. A [`Token`] that is dropped sends home an empty envelope ([`Closed`]).
//! 4. The sender's [`Pending`] gets the reply. If it was dropped meanwhile, the envelope is free
//!    again once it is home: nothing leaks, and no later request can get that reply.
//!
//! Exactly one task of each endpoint loops over [`Endpoint::next`]; it also hands out the replies,
//! so without it nothing arrives. It should spawn what may wait; should it wait itself for a reply of another
//! endpoint, that reply still arrives.
//!
//! A shard's endpoint is looked after by the shard's [lookout](super::lookout), through [`Letters`]: it looks into
//! the lanes itself, so that others need not ring for a shard that is awake, and rings for what this shard has
//! posted once a pass over its tasks, not at every message. Without a lookout the task that loops over `next` has
//! to be woken from another core at each message that finds it waiting: on a shard it belongs into the queue for
//! latency ([`super::executor::latency_queue`]) then.
//!
//! A request whose handler waits for requests of its own holds its
//! sender's envelope: two endpoints whose `outstanding_max` such requests all wait for each other
//! would wait for ever, so handlers of messages from other endpoints do not post and wait.
//!
//! Messages to oneself are allowed and go the same way. No allocation a message, besides growth.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::executor;
use super::lane::{EnvelopeRef, Letter};
use posting::Posting;
use shared::{Post, Shared};

mod posting;
mod shared;
#[cfg(test)]
mod tests;

/// The other endpoint is closed, or let the request fall without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiving endpoint is closed")]
pub struct Closed;

/// How much may be under way.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests of one sender that lie unread at one receiver, at most.
    pub queued_max: u32,
    /// Requests of one sender that await their replies, at most, over all receivers. A fetch that
    /// waits in a purgatory counts.
    pub outstanding_max: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            queued_max: 1024,
            outstanding_max: 65_536,
        }
    }
}

/// After so many messages in a row `next` lets other tasks run.
const BURST_MAX: u32 = 128;

/// Makes the endpoints of a mailbox: seeds to be sent to the threads that bind them, in order.
pub fn mailbox<Q: Send, A: Send>(endpoints: usize, bounds: Bounds) -> Vec<EndpointSeed<Q, A>> {
    assert!(endpoints > 0 && endpoints < usize::from(u16::MAX));
    assert!(bounds.queued_max > 0 && bounds.outstanding_max > 0);
    let shared = Shared::new(endpoints, bounds);
    (0..endpoints)
        .map(|me| EndpointSeed {
            shared: shared.clone(),
            me: me as u16,
        })
        .collect()
}

/// An endpoint on its way to its thread.
pub struct EndpointSeed<Q: Send, A: Send> {
    shared: Arc<Shared<Q, A>>,
    me: u16,
}

impl<Q: Send, A: Send> EndpointSeed<Q, A> {
    /// Binds the endpoint to the calling thread. What was posted before waits in its lanes.
    pub fn bind(self) -> Endpoint<Q, A> {
        let endpoints = self.shared.posts.len();
        Endpoint {
            local: Rc::new(Local {
                me: self.me,
                burst: Cell::new(0),
                is_looked_after: Cell::new(false),
                is_armed: Cell::new(true),
                to_ring: RefCell::default(),
                receiver: Cell::new(None),
                closed: Cell::new(false),
                state: RefCell::new(State {
                    slots: Vec::new(),
                    free: Vec::new(),
                    away: 0,
                    inbox: VecDeque::new(),
                    arrived: VecDeque::new(),
                    sent: vec![0; endpoints],
                    queues: (0..endpoints).map(|_| VecDeque::new()).collect(),
                    next_ticket: 0,
                }),
                shared: self.shared,
            }),
        }
    }
}

/// One per shard, and one of the control thread; clones are the same endpoint.
///
/// Closed when the last clone and the last [`Pending`] and [`Token`] are gone, or by
/// [`Endpoint::close`].
pub struct Endpoint<Q: Send, A: Send> {
    local: Rc<Local<Q, A>>,
}

impl<Q: Send, A: Send> Clone for Endpoint<Q, A> {
    fn clone(&self) -> Self {
        Endpoint {
            local: self.local.clone(),
        }
    }
}

/// A request that arrived.
pub struct Incoming<Q: Send, A: Send> {
    /// The endpoint that sent it.
    pub from: usize,
    pub request: Q,
    /// For [`Endpoint::reply`], at any later time, once.
    pub token: Token<Q, A>,
}

impl<Q: Send, A: Send> Endpoint<Q, A> {
    /// This endpoint's number.
    pub fn id(&self) -> usize {
        usize::from(self.local.me)
    }

    /// How many endpoints the mailbox has.
    pub fn endpoints(&self) -> usize {
        self.local.shared.posts.len()
    }

    /// Sends `request` to endpoint `to`, in order, as soon as there is room.
    ///
    /// Resolves when it is on its way; the reply comes from what is returned. Dropped before, the
    /// request was not sent. Panics if there is no endpoint `to`.
    pub async fn post(&self, to: usize, request: Q) -> Result<Pending<Q, A>, Closed> {
        assert!(to < self.endpoints(), "no endpoint {to}");
        let mut posting = Posting {
            local: &self.local,
            to,
            ticket: None,
        };
        let mut request = Some(request);
        poll_fn(|cx| posting.poll(cx, &mut request)).await
    }

    /// [`post`](Self::post), and its reply.
    pub async fn call(&self, to: usize, request: Q) -> Result<A, Closed> {
        self.post(to, request).await?.await
    }

    /// Posts of this endpoint so far that found no room and waited.
    pub fn waits(&self) -> u64 {
        self.local.state.borrow().next_ticket
    }

    /// The next request, in the order each sender posted. For one task, see the module.
    ///
    /// Resolves to `Err` only after [`close`](Self::close).
    pub async fn next(&self) -> Result<Incoming<Q, A>, Closed> {
        poll_fn(|cx| self.local.poll_next(&self.local, cx)).await
    }

    /// Answers a request. Never waits.
    pub fn reply(&self, token: Token<Q, A>, reply: A) {
        token.send_home(Some(reply));
    }

    /// Refuses requests from now on; those unread get [`Closed`], and so do our own that wait.
    pub fn close(&self) {
        self.local.close();
    }

    /// For the shard's lookout, which has to look from now on.
    pub fn letters(&self) -> Rc<dyn Letters>
    where
        Q: 'static,
        A: 'static,
    {
        self.local.is_looked_after.set(true);
        self.local.clone()
    }
}

/// An endpoint as the lookout of its shard sees it.
pub trait Letters {
    /// Rings for what was posted since the last look, hands out what has come, and wakes the task that waits for
    /// it. Others need not ring from here on. Returns whether anything had come.
    fn look(&self) -> bool;

    /// Has others ring `bell` from here on, and rings at once for what is posted, and was. Returns `false` if something came
    /// since the last look: then nobody may have rung.
    fn arm(&self, bell: &Waker) -> bool;
}

impl<Q: Send, A: Send> Letters for Local<Q, A> {
    fn look(&self) -> bool {
        let post = self.post();
        if self.is_armed.replace(false) {
            post.bell.disarm();
        }
        self.ring_all();
        let (replies, requests) = (self.serve_replies(), post.requests.has_letters());
        if requests && let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
        replies || requests
    }

    fn arm(&self, bell: &Waker) -> bool {
        let post = self.post();
        self.ring_all();
        self.is_armed.set(true);
        post.bell.arm(bell);
        let room = post.room.load(Ordering::SeqCst);
        !room && !post.requests.has_letters() && !post.replies.has_letters()
    }
}

/// The right and the duty to answer one request. Dropped, the sender gets [`Closed`].
pub struct Token<Q: Send, A: Send> {
    envelope: Option<EnvelopeRef<Q, A>>,
    local: Rc<Local<Q, A>>,
}

impl<Q: Send, A: Send> Token<Q, A> {
    fn send_home(mut self, reply: Option<A>) {
        if let Some(envelope) = self.envelope.take() {
            self.local.send_home(envelope, reply);
        }
    }
}

impl<Q: Send, A: Send> Drop for Token<Q, A> {
    fn drop(&mut self) {
        if let Some(envelope) = self.envelope.take() {
            self.local.send_home(envelope, None);
        }
    }
}

/// The reply to come. Dropped, the reply is thrown away when it arrives.
pub struct Pending<Q: Send, A: Send> {
    local: Rc<Local<Q, A>>,
    slot: u32,
    done: bool,
}

impl<Q: Send, A: Send> Future for Pending<Q, A> {
    type Output = Result<A, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "a reply is taken once");
        let reply = self.local.poll_reply(self.slot, cx);
        self.done = reply.is_ready();
        reply
    }
}

impl<Q: Send, A: Send> Drop for Pending<Q, A> {
    fn drop(&mut self) {
        if !self.done {
            self.local.abandon(self.slot);
        }
    }
}

impl<Q: Send, A: Send> fmt::Debug for Pending<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("slot", &self.slot).finish()
    }
}

/// What only the endpoint's own thread sees.
struct Local<Q: Send, A: Send> {
    shared: Arc<Shared<Q, A>>,
    me: u16,
    burst: Cell<u32>,
    is_looked_after: Cell<bool>,
    /// The lookout sleeps, or is about to: what is posted is rung for at once.
    is_armed: Cell<bool>,
    /// Endpoints that the lookout is to ring for at its next look, each once.
    to_ring: RefCell<Vec<u16>>,
    /// Who waits for requests, if there is a lookout.
    receiver: Cell<Option<Waker>>,
    closed: Cell<bool>,
    state: RefCell<State<Q, A>>,
}

struct State<Q, A> {
    slots: Vec<Slot<Q, A>>,
    free: Vec<u32>,
    /// Envelopes under way.
    away: u32,
    /// Requests taken from the lane and not yet handed out.
    inbox: VecDeque<EnvelopeRef<Q, A>>,
    /// Scratch for replies taken from their lane.
    arrived: VecDeque<EnvelopeRef<Q, A>>,
    /// Requests sent, by receiver, wrapping.
    sent: Vec<u32>,
    /// Who waits for room, by receiver, first come first served.
    queues: Vec<VecDeque<Waiter>>,
    /// Also how many posts have waited so far.
    next_ticket: u64,
}

struct Waiter {
    ticket: u64,
    waker: Waker,
}

/// One request that may be under way; its envelope is here while it is at home.
struct Slot<Q, A> {
    envelope: Option<EnvelopeRef<Q, A>>,
    state: SlotState<A>,
}

enum SlotState<A> {
    Free,
    Waiting(Option<Waker>),
    /// Its `Pending` was dropped; free once the envelope is home.
    Abandoned,
    Ready(Result<A, Closed>),
}

impl<Q, A> State<Q, A> {
    fn wake_first(&self, to: usize) {
        if let Some(waiter) = self.queues[to].front() {
            waiter.waker.wake_by_ref();
        }
    }

    fn wake_first_of_all(&self) {
        for to in 0..self.queues.len() {
            self.wake_first(to);
        }
    }

    /// The envelope of `slot` is home: keeps it, and the reply if somebody waits for it.
    fn settle(&mut self, mut envelope: EnvelopeRef<Q, A>, wake: &mut Vec<Waker>) {
        let index = envelope.slot();
        let reply = match envelope.replace(Letter::Empty) {
            Letter::Reply(reply) => reply.ok_or(Closed),
            Letter::Empty | Letter::Request(_) => Err(Closed),
        };
        // Whoever waits for one of our own envelopes may wait for any receiver.
        self.wake_first_of_all();
        self.away -= 1;
        let slot = &mut self.slots[index as usize];
        slot.envelope = Some(envelope);
        match std::mem::replace(&mut slot.state, SlotState::Free) {
            SlotState::Waiting(waker) => {
                slot.state = SlotState::Ready(reply);
                wake.extend(waker);
            }
            // The endpoint was closed meanwhile, and its own answer stands.
            SlotState::Ready(answer) => slot.state = SlotState::Ready(answer),
            SlotState::Abandoned => self.free_slot(index),
            SlotState::Free => unreachable!("a free slot's envelope is at home"),
        }
    }

    fn free_slot(&mut self, slot: u32) {
        self.slots[slot as usize].state = SlotState::Free;
        self.free.push(slot);
    }
}

impl<Q: Send, A: Send> Local<Q, A> {
    fn send_home(&self, mut envelope: EnvelopeRef<Q, A>, reply: Option<A>) {
        let home = envelope.from();
        envelope.replace(Letter::Reply(reply));
        // A closed home needs no reply; the envelope is freed with the mailbox.
        let lane = &self.shared.posts[usize::from(home)].replies;
        if lane.push(envelope).is_ok() {
            self.ring(home);
        }
    }

    fn tell_room(&self, sender: u16) {
        let room = &self.shared.posts[usize::from(sender)].room;
        room.store(true, Ordering::SeqCst);
        self.ring(sender);
    }

    /// Rings for endpoint `to`, which was given something, now or at the next look.
    fn ring(&self, to: u16) {
        if !self.is_looked_after.get() || self.is_armed.get() {
            self.shared.posts[usize::from(to)].bell.ring();
            return;
        }
        let mut to_ring = self.to_ring.borrow_mut();
        if !to_ring.contains(&to) {
            to_ring.push(to);
        }
    }

    fn ring_all(&self) {
        for to in self.to_ring.borrow_mut().drain(..) {
            self.shared.posts[usize::from(to)].bell.ring();
        }
    }

    fn id(&self) -> usize {
        usize::from(self.me)
    }

    fn post(&self) -> &Post<Q, A> {
        &self.shared.posts[self.id()]
    }

    fn has_room(&self, state: &State<Q, A>, to: usize) -> bool {
        let bounds = &self.shared.bounds;
        let taken = self.shared.posts[to].senders[self.id()]
            .taken
            .load(Ordering::SeqCst);
        let unread = state.sent[to].wrapping_sub(taken);
        unread < bounds.queued_max && state.away < bounds.outstanding_max
    }

    fn take_slot(&self, state: &mut State<Q, A>) -> u32 {
        if let Some(slot) = state.free.pop() {
            return slot;
        }
        let slot = state.slots.len() as u32;
        let envelope = EnvelopeRef::new(self.me, slot);
        let mut all = self.shared.envelopes.lock().expect("nothing panics in it");
        all.0.push(envelope.as_ptr());
        state.slots.push(Slot {
            envelope: Some(envelope),
            state: SlotState::Free,
        });
        slot
    }

    /// Hands out the replies that arrived, and room. Returns whether there were any.
    fn serve_replies(&self) -> bool {
        executor::count_turn();
        let post = self.post();
        let room = post.room.load(Ordering::Relaxed) && post.room.swap(false, Ordering::SeqCst);
        if room {
            self.state.borrow().wake_first_of_all();
        }
        if !post.replies.has_letters() {
            return room;
        }
        let mut wake = Vec::new();
        let mut state = self.state.borrow_mut();
        let mut arrived = std::mem::take(&mut state.arrived);
        post.replies.take_into(&mut arrived);
        for envelope in arrived.drain(..) {
            state.settle(envelope, &mut wake);
        }
        state.arrived = arrived;
        drop(state);
        wake.into_iter().for_each(Waker::wake);
        true
    }

    fn poll_next(
        &self,
        this: &Rc<Local<Q, A>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Incoming<Q, A>, Closed>> {
        let post = self.post();
        if self.burst.get() >= BURST_MAX {
            self.burst.set(0);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut armed = false;
        loop {
            self.serve_replies();
            if self.closed.get() {
                return Poll::Ready(Err(Closed));
            }
            let mut state = self.state.borrow_mut();
            if state.inbox.is_empty() {
                post.requests.take_into(&mut state.inbox);
            }
            if let Some(envelope) = state.inbox.pop_front() {
                drop(state);
                self.burst.set(self.burst.get() + 1);
                return Poll::Ready(Ok(self.open(this, envelope)));
            }
            drop(state);
            if self.is_looked_after.get() {
                // What comes from here on the next look finds.
                self.receiver.set(Some(cx.waker().clone()));
            }
            if armed || self.is_looked_after.get() {
                self.burst.set(0);
                return Poll::Pending;
            }
            post.bell.arm(cx.waker());
            armed = true;
        }
    }

    fn open(&self, this: &Rc<Local<Q, A>>, mut envelope: EnvelopeRef<Q, A>) -> Incoming<Q, A> {
        let from = usize::from(envelope.from());
        let request = match envelope.replace(Letter::Empty) {
            Letter::Request(request) => request,
            Letter::Empty | Letter::Reply(_) => unreachable!("only requests on this lane"),
        };
        let sender = &self.post().senders[from];
        let taken = sender.taken.load(Ordering::Relaxed).wrapping_add(1);
        sender.taken.store(taken, Ordering::SeqCst);
        // Not at every message: a sender that waits does so behind `queued_max` of them.
        let step = (self.shared.bounds.queued_max / 2).max(1);
        if taken.is_multiple_of(step)
            && sender.waits.load(Ordering::SeqCst)
            && sender.waits.swap(false, Ordering::SeqCst)
        {
            self.tell_room(from as u16);
        }
        Incoming {
            from,
            request,
            token: Token {
                envelope: Some(envelope),
                local: this.clone(),
            },
        }
    }

    fn poll_reply(&self, slot: u32, cx: &mut Context<'_>) -> Poll<Result<A, Closed>> {
        self.serve_replies();
        if !self.is_looked_after.get() {
            // If the task that loops over `next` is the one that waits here, nobody else arms the bell.
            self.post().bell.arm_again();
            self.serve_replies();
        }
        let mut state = self.state.borrow_mut();
        let found = &mut state.slots[slot as usize];
        match &mut found.state {
            SlotState::Waiting(Some(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            SlotState::Waiting(none) => {
                *none = Some(cx.waker().clone());
                Poll::Pending
            }
            SlotState::Ready(_) => {
                let home = found.envelope.is_some();
                let reply = std::mem::replace(&mut found.state, SlotState::Abandoned);
                if home {
                    state.free_slot(slot);
                }
                match reply {
                    SlotState::Ready(reply) => Poll::Ready(reply),
                    _ => unreachable!("matched above"),
                }
            }
            SlotState::Free | SlotState::Abandoned => unreachable!("its Pending is here"),
        }
    }

    fn abandon(&self, slot: u32) {
        let mut state = self.state.borrow_mut();
        let found = &mut state.slots[slot as usize];
        let was = std::mem::replace(&mut found.state, SlotState::Abandoned);
        if found.envelope.is_some() {
            state.free_slot(slot);
        }
        drop(state);
        // The reply may hold anything, even another Pending: dropped outside the borrow.
        drop(was);
    }

    fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        let post = self.post();
        let mut unread = VecDeque::new();
        let mut wake = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            std::mem::swap(&mut unread, &mut state.inbox);
            post.requests.close_into(&mut unread);
            let mut arrived = VecDeque::new();
            post.replies.close_into(&mut arrived);
            for envelope in arrived {
                state.settle(envelope, &mut wake);
            }
            for slot in &mut state.slots {
                if let SlotState::Waiting(waker) = &mut slot.state {
                    wake.extend(waker.take());
                    slot.state = SlotState::Ready(Err(Closed));
                }
            }
            for queue in &state.queues {
                wake.extend(queue.iter().map(|w| w.waker.clone()));
            }
        }
        for envelope in unread {
            self.send_home(envelope, None);
        }
        // Whoever waits for room here is to learn that there will be none.
        for sender in 0..self.shared.posts.len() {
            self.tell_room(sender as u16);
        }
        // There may be no further look.
        self.ring_all();
        wake.extend(self.receiver.take());
        wake.into_iter().for_each(Waker::wake);
    }
}

impl<Q: Send, A: Send> Drop for Local<Q, A> {
    fn drop(&mut self) {
        self.close();
    }
}
