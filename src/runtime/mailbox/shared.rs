//! The part of a mailbox that all its threads see: the lanes of each endpoint, and how far they were read.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use super::Bounds;
use crate::runtime::lane::{Bell, Envelope, Lane, free};

/// What all threads see. One per mailbox.
pub(super) struct Shared<Q, A> {
    pub(super) bounds: Bounds,
    pub(super) posts: Vec<Post<Q, A>>,
    /// Every envelope ever made; locked only to add one and at the end.
    pub(super) envelopes: Mutex<Envelopes<Q, A>>,
}

pub(super) struct Envelopes<Q, A>(pub(super) Vec<*mut Envelope<Q, A>>);

// SAFETY: only an address book until `Shared` is dropped; envelopes hold letters that are Send.
unsafe impl<Q: Send, A: Send> Send for Envelopes<Q, A> {}

impl<Q, A> Drop for Envelopes<Q, A> {
    fn drop(&mut self) {
        for envelope in self.0.drain(..) {
            // SAFETY: `Shared` goes with the last endpoint and the last seed, and every handle lies
            // within an endpoint, a token (which holds an endpoint) or one of these lanes.
            unsafe { free(envelope) };
        }
    }
}

/// One receiver's side.
pub(super) struct Post<Q, A> {
    pub(super) requests: Lane<Q, A>,
    pub(super) replies: Lane<Q, A>,
    pub(super) bell: Bell,
    /// A receiver made room for requests of ours.
    pub(super) room: AtomicBool,
    /// By sender.
    pub(super) senders: Vec<FromSender>,
}

/// Written at every message by the receiver, read by the sender: a line of its own.
#[repr(align(128))]
pub(super) struct FromSender {
    /// Requests taken out so far, wrapping.
    pub(super) taken: AtomicU32,
    /// The sender waits for `taken` to move on.
    pub(super) waits: AtomicBool,
}

impl<Q: Send, A: Send> Shared<Q, A> {
    pub(super) fn new(endpoints: usize, bounds: Bounds) -> Arc<Shared<Q, A>> {
        Arc::new(Shared {
            bounds,
            posts: (0..endpoints).map(|_| Post::new(endpoints)).collect(),
            envelopes: Mutex::new(Envelopes(Vec::new())),
        })
    }
}

impl<Q, A> Post<Q, A> {
    fn new(endpoints: usize) -> Post<Q, A> {
        Post {
            requests: Lane::new(),
            replies: Lane::new(),
            bell: Bell::new(),
            room: AtomicBool::new(false),
            senders: (0..endpoints)
                .map(|_| FromSender {
                    taken: AtomicU32::new(0),
                    waits: AtomicBool::new(false),
                })
                .collect(),
        }
    }
}
