//! How much is read from disks at once. One per shard.
//!
//! A read that waits behind others in the device loses nothing; a write that does keeps somebody from his
//! acknowledgement. Schedulers make it worse: once more reads wait than the device takes at a time, mq-deadline lets
//! dozens of them go before a write. So no more is asked of the disks at once than keeps them busy, less while somebody
//! waits for writes, and the rest waits here: first what somebody waits for, then what is read ahead, each in the order
//! in which it came, so that readers take turns, piece by piece.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Bytes that are read from disks at once.
const LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// The same while somebody waits for writes.
const CONTENDED_LIMIT_BYTES: u64 = 1024 * 1024;

/// So long after a write that somebody waited for, another one is expected.
const CONTENDED: Duration = Duration::from_secs(1);

/// Calls that wait at most; what is more is not read ahead.
const CALLS_MAX: usize = 1024;

/// The reads of one shard; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct DiskReads(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    under_way_bytes: Cell<u64>,
    /// When somebody began to wait for a write.
    written_at: Cell<Option<Instant>>,
    /// What somebody waits for.
    asked: Queue,
    ahead: Queue,
    /// Somebody lets the next ones go on.
    is_going_on: Cell<bool>,
}

/// In the order in which they came.
type Queue = RefCell<VecDeque<Waiting>>;

struct Waiting {
    bytes: u64,
    turn: Turn,
}

/// What happens when the turn has come.
enum Turn {
    Wake(Rc<Sleeper>),
    Call(Box<dyn FnOnce(DiskRead)>),
}

struct Sleeper {
    granted: Cell<Option<DiskRead>>,
    waker: RefCell<Waker>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

/// A read that may be under way. To be dropped when the disk is done with it, where nothing is borrowed that a read
/// needs: the next one may begin there.
#[derive(Debug)]
pub struct DiskRead {
    reads: DiskReads,
    bytes: u64,
}

impl DiskReads {
    /// Waits until `bytes` may be read that somebody waits for. More than may be under way at once has to wait until
    /// nothing else is.
    pub async fn begin(&self, bytes: u64) -> DiskRead {
        self.wait(bytes, |inner| &inner.asked).await
    }

    /// Waits until `bytes` may be read that nobody waits for yet.
    pub async fn begin_ahead(&self, bytes: u64) -> DiskRead {
        self.wait(bytes, |inner| &inner.ahead).await
    }

    /// As [`begin_ahead`](Self::begin_ahead), for who does not wait: calls `begin` when the turn has come, which may be
    /// at once. False if too many wait, and it will not be called.
    pub fn call_ahead(&self, bytes: u64, begin: impl FnOnce(DiskRead) + 'static) -> bool {
        let mut ahead = self.0.ahead.borrow_mut();
        if ahead.len() >= CALLS_MAX {
            return false;
        }
        let turn = Turn::Call(Box::new(begin));
        ahead.push_back(Waiting { bytes, turn });
        drop(ahead);
        self.go_on();
        true
    }

    /// A small read that a write waits for: it takes no turn.
    pub fn begin_now(&self, bytes: u64) -> DiskRead {
        let under_way = &self.0.under_way_bytes;
        under_way.set(under_way.get() + bytes);
        DiskRead {
            reads: self.clone(),
            bytes,
        }
    }

    /// Somebody waits for a write or a sync, and another is to be expected.
    pub fn on_write(&self) {
        self.0.written_at.set(Some(Instant::now()));
    }

    /// Whether reads keep somebody from what he waits for.
    pub fn are_contended(&self) -> bool {
        let written_at = self.0.written_at.get();
        written_at.is_some_and(|at| at.elapsed() < CONTENDED)
    }

    fn limit_bytes(&self) -> u64 {
        match self.are_contended() {
            true => CONTENDED_LIMIT_BYTES,
            false => LIMIT_BYTES,
        }
    }

    async fn wait(&self, bytes: u64, queue: fn(&Inner) -> &Queue) -> DiskRead {
        let sleeper = Rc::new(Sleeper {
            granted: Cell::new(None),
            waker: RefCell::new(Waker::noop().clone()),
        });
        let turn = Turn::Wake(sleeper.clone());
        queue(&self.0)
            .borrow_mut()
            .push_back(Waiting { bytes, turn });
        let sleep = Sleep {
            reads: self,
            queue,
            sleeper,
        };
        self.go_on();
        poll_fn(|context| match sleep.sleeper.granted.take() {
            Some(read) => Poll::Ready(read),
            None => {
                sleep.sleeper.waker.borrow_mut().clone_from(context.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Lets those go on who have room.
    fn go_on(&self) {
        let inner = &*self.0;
        let is_idle = inner.asked.borrow().is_empty() && inner.ahead.borrow().is_empty();
        // Who is called may end a read at once.
        if is_idle || inner.is_going_on.replace(true) {
            return;
        }
        let limit = self.limit_bytes();
        while let Some(next) = inner.next(limit) {
            let read = self.begin_now(next.bytes);
            match next.turn {
                Turn::Wake(sleeper) => {
                    sleeper.granted.set(Some(read));
                    sleeper.waker.replace(Waker::noop().clone()).wake();
                }
                Turn::Call(begin) => begin(read),
            }
        }
        inner.is_going_on.set(false);
    }
}

impl Inner {
    fn has_room(&self, bytes: u64, limit: u64) -> bool {
        let under_way = self.under_way_bytes.get();
        under_way == 0 || under_way.saturating_add(bytes) <= limit
    }

    /// Who has room now, if it is the first of its queue; of what is read ahead if nobody waits.
    fn next(&self, limit: u64) -> Option<Waiting> {
        let mut asked = self.asked.borrow_mut();
        let mut ahead = self.ahead.borrow_mut();
        let queue = match asked.is_empty() {
            true => &mut *ahead,
            false => &mut *asked,
        };
        match queue.front() {
            Some(first) if self.has_room(first.bytes, limit) => queue.pop_front(),
            _ => None,
        }
    }
}

impl Drop for DiskRead {
    fn drop(&mut self) {
        let under_way = &self.reads.0.under_way_bytes;
        under_way.set(under_way.get() - self.bytes);
        self.reads.go_on();
    }
}

/// Who goes leaves the queue; what it was granted just before ends with it.
struct Sleep<'a> {
    reads: &'a DiskReads,
    queue: fn(&Inner) -> &Queue,
    sleeper: Rc<Sleeper>,
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        // The queue has the other one.
        if Rc::strong_count(&self.sleeper) == 1 {
            return;
        }
        let is_it =
            |turn: &Turn| matches!(turn, Turn::Wake(other) if Rc::ptr_eq(other, &self.sleeper));
        let mut queue = (self.queue)(&self.reads.0).borrow_mut();
        queue.retain(|waiting| !is_it(&waiting.turn));
        drop(queue);
        // Those behind may fit where this one did not.
        self.reads.go_on();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::Context;

    use super::*;

    const QUARTER: u64 = LIMIT_BYTES / 4;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn begun(future: Pin<&mut impl Future<Output = DiskRead>>) -> DiskRead {
        match poll(future) {
            Poll::Ready(read) => read,
            Poll::Pending => panic!("there is room"),
        }
    }

    fn begin(reads: &DiskReads, bytes: u64) -> DiskRead {
        begun(pin!(reads.begin(bytes)))
    }

    #[test]
    fn no_more_is_read_at_once_than_the_limit_and_who_came_first_is_next() {
        let reads = DiskReads::default();
        let mut full: Vec<DiskRead> = (0..4).map(|_| begin(&reads, QUARTER)).collect();
        let (mut first, mut second) = (pin!(reads.begin(QUARTER)), pin!(reads.begin(QUARTER)));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        full.pop();
        assert!(poll(second.as_mut()).is_pending());
        full.push(begun(first));
        full.pop();
        full.push(begun(second));
        assert_eq!(reads.0.under_way_bytes.get(), LIMIT_BYTES);
        drop(full);
        assert_eq!(reads.0.under_way_bytes.get(), 0);
    }

    #[test]
    fn less_is_read_at_once_while_somebody_waits_for_writes() {
        let reads = DiskReads::default();
        let part = begin(&reads, CONTENDED_LIMIT_BYTES);
        let other = begin(&reads, CONTENDED_LIMIT_BYTES);
        reads.on_write();
        assert!(reads.are_contended());
        let mut next = pin!(reads.begin(CONTENDED_LIMIT_BYTES));
        assert!(poll(next.as_mut()).is_pending());
        drop(part);
        assert!(poll(next.as_mut()).is_pending());
        drop(other);
        begun(next);
    }

    #[test]
    fn what_is_read_ahead_waits_for_what_somebody_waits_for() {
        let reads = DiskReads::default();
        let full = begin(&reads, LIMIT_BYTES);
        let ahead = Rc::new(Cell::new(None));
        let called = ahead.clone();
        assert!(reads.call_ahead(QUARTER, move |read| called.set(Some(read))));
        let mut other = pin!(reads.begin_ahead(QUARTER));
        let mut asked = pin!(reads.begin(LIMIT_BYTES));
        assert!(poll(other.as_mut()).is_pending());
        assert!(poll(asked.as_mut()).is_pending());
        drop(full);
        let asked = begun(asked);
        assert!(ahead.take().is_none() && poll(other.as_mut()).is_pending());
        drop(asked);
        assert!(ahead.take().is_some());
        begun(other);
    }

    #[test]
    fn more_than_the_limit_goes_alone_and_what_a_write_needs_at_once() {
        let reads = DiskReads::default();
        let small = begin(&reads, 1);
        let mut large = pin!(reads.begin(2 * LIMIT_BYTES));
        assert!(poll(large.as_mut()).is_pending());
        drop(small);
        let large = begun(large);
        let mut small = pin!(reads.begin(1));
        assert!(poll(small.as_mut()).is_pending());
        drop(reads.begin_now(1));
        assert!(poll(small.as_mut()).is_pending());
        drop(large);
        begun(small);
    }

    #[test]
    fn who_goes_while_waiting_or_just_granted_keeps_nobody() {
        let reads = DiskReads::default();
        let full = begin(&reads, LIMIT_BYTES);
        let mut granted = Box::pin(reads.begin(QUARTER));
        let mut gone = Box::pin(reads.begin(LIMIT_BYTES));
        let mut last = pin!(reads.begin(QUARTER));
        assert!(poll(granted.as_mut()).is_pending());
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(last.as_mut()).is_pending());
        drop(full);
        assert!(poll(last.as_mut()).is_pending());
        drop(gone);
        drop(granted);
        begun(last);
        assert_eq!(reads.0.under_way_bytes.get(), 0);
    }

    #[test]
    fn many_calls_that_read_nothing_end_one_after_the_other_and_too_many_are_refused() {
        let reads = DiskReads::default();
        let full = begin(&reads, LIMIT_BYTES);
        for _ in 0..CALLS_MAX {
            assert!(reads.call_ahead(QUARTER, drop));
        }
        assert!(!reads.call_ahead(QUARTER, drop));
        drop(full);
        assert!(reads.call_ahead(QUARTER, drop));
        assert_eq!(reads.0.under_way_bytes.get(), 0);
    }
}
