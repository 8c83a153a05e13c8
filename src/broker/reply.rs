//! Where the answer to a request of a shard goes: to a task of the same shard, or back over the
//! mailbox. Whoever answers does not see the difference.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::broker::messages::{Reply, Request};
use crate::runtime::mailbox::{self, Closed, Endpoint, Token};

struct Slot {
    reply: Option<Reply>,
    waker: Option<Waker>,
    abandoned: bool,
}

/// The way back for one answer. Dropped unused, the asker is told that the shard is gone.
pub enum ReplyTo {
    Local(LocalReply),
    Remote(Endpoint<Request, Reply>, Token<Request, Reply>),
}

impl ReplyTo {
    /// Never blocks; an asker who has given up is not an error.
    pub fn send(self, reply: Reply) {
        match self {
            ReplyTo::Local(local) => local.send(reply),
            ReplyTo::Remote(endpoint, token) => endpoint.reply(token, reply),
        }
    }
}

/// The sending half of an answer within the shard.
pub struct LocalReply(Option<Rc<RefCell<Slot>>>);

impl LocalReply {
    fn send(mut self, reply: Reply) {
        let slot = self.0.take().expect("sent once: send takes self");
        let waker = {
            let mut slot = slot.borrow_mut();
            slot.reply = Some(reply);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for LocalReply {
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        let waker = {
            let mut slot = slot.borrow_mut();
            slot.abandoned = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The answer to a request that was posted, once it is there.
pub enum Pending {
    Local(LocalPending),
    Remote(mailbox::Pending<Request, Reply>),
}

impl Future for Pending {
    type Output = Result<Reply, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Pending::Local(local) => Pin::new(local).poll(cx),
            Pending::Remote(remote) => Pin::new(remote).poll(cx),
        }
    }
}

/// The receiving half of an answer within the shard.
pub struct LocalPending(Rc<RefCell<Slot>>);

impl Future for LocalPending {
    type Output = Result<Reply, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.borrow_mut();
        if let Some(reply) = slot.reply.take() {
            return Poll::Ready(Ok(reply));
        }
        if slot.abandoned {
            return Poll::Ready(Err(Closed));
        }
        match &mut slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Two ends of one answer within the shard.
pub fn local() -> (LocalReply, LocalPending) {
    let slot = Rc::new(RefCell::new(Slot {
        reply: None,
        waker: None,
        abandoned: false,
    }));
    (LocalReply(Some(slot.clone())), LocalPending(slot))
}
