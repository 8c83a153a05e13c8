//! The memory a shard may hold for requests and replies under way. One per shard.
//!
//! 1. Who needs bytes waits its turn: first come, first served, and nobody overtakes.
//! 2. More than there is at all is not waited for: `min(need, capacity)` is granted, or one frame
//!    larger than the budget would wedge the shard.
//! 3. Frames that are half read hold what they got, and together they could hold everything so that
//!    none ever completes. So `aside` bytes, as many as the largest frame may have, lie beside the
//!    capacity, and only the oldest incomplete frame may draw on them: it always completes.
//! 4. A frame may belong to a peer that stopped sending. While others wait for memory, a frame that
//!    did not progress for `stalled_after` is given up ([`Stalled`]); [`Budget::sweep`], called about
//!    once a second, finds it.
//!
//! No clock in here: `now` is an argument.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// An incomplete frame stood still for too long while others waited: its connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an incomplete request made no progress while others waited for memory")]
pub struct Stalled;

/// The budget of one shard; clones are the same budget.
#[derive(Clone)]
pub struct Budget {
    inner: Rc<Inner>,
}

struct Inner {
    capacity: u64,
    stalled_after: Duration,
    available: Cell<u64>,
    aside_available: Cell<u64>,
    queue: RefCell<VecDeque<Rc<Waiter>>>,
    /// Incomplete frames, oldest first.
    frames: RefCell<BTreeMap<u64, Frame>>,
    next_frame: Cell<u64>,
    waits: Cell<u64>,
}

struct Waiter {
    need: u64,
    frame: Option<u64>,
    grant: Cell<Option<Grant>>,
    waker: RefCell<Waker>,
}

#[derive(Clone, Copy, Default)]
struct Grant {
    common: u64,
    aside: u64,
}

#[derive(Default)]
struct Frame {
    progressed: bool,
    last_progress: Option<Instant>,
    stalled: bool,
    waker: Option<Waker>,
}

impl Budget {
    /// `capacity` bytes for all, and `aside` bytes for the oldest incomplete frame, as many as a
    /// frame may have (`socket.request.max.bytes`). The memory used may reach the sum of both. While others
    /// wait, an incomplete frame may stand still for `stalled_after`.
    pub fn new(capacity: u64, aside: u64, stalled_after: Duration) -> Budget {
        assert!(capacity > 0);
        Budget {
            inner: Rc::new(Inner {
                capacity,
                stalled_after,
                available: Cell::new(capacity),
                aside_available: Cell::new(aside),
                queue: RefCell::default(),
                frames: RefCell::default(),
                next_frame: Cell::new(0),
                waits: Cell::new(0),
            }),
        }
    }

    /// Bytes for all.
    pub fn capacity(&self) -> u64 {
        self.inner.capacity
    }

    /// How long a request may wait in vain.
    pub fn stalled_after(&self) -> Duration {
        self.inner.stalled_after
    }

    /// Bytes nobody holds, without what lies aside.
    pub fn available(&self) -> u64 {
        self.inner.available.get()
    }

    /// Reservations so far that had to wait.
    pub fn waits(&self) -> u64 {
        self.inner.waits.get()
    }

    /// Whether somebody waits for bytes.
    pub fn is_short(&self) -> bool {
        !self.inner.queue.borrow().is_empty()
    }

    /// `min(bytes, capacity)` bytes, at once or not at all. Does not overtake those who wait.
    pub fn try_reserve(&self, bytes: u64) -> Option<Units> {
        let need = bytes.min(self.inner.capacity);
        if self.is_short() || self.inner.available.get() < need {
            return None;
        }
        self.inner.available.set(self.inner.available.get() - need);
        Some(self.units(Grant {
            common: need,
            aside: 0,
        }))
    }

    /// `bytes` at once or not at all, before those who wait.
    ///
    /// For what a complete request needs on top of its frame: it holds memory that those who wait
    /// wait for, and letting it pass is what frees it.
    pub fn try_reserve_ahead(&self, bytes: u64) -> Option<Units> {
        let available = self.inner.available.get().checked_sub(bytes)?;
        self.inner.available.set(available);
        Some(self.units(Grant {
            common: bytes,
            aside: 0,
        }))
    }

    /// `min(bytes, capacity)` bytes, when the turn comes. May be dropped; a deadline is the caller's.
    pub async fn reserve(&self, bytes: u64) -> Units {
        let grant = self.wait(bytes, None).await;
        self.units(grant)
    }

    /// Registers a frame whose rest has not arrived yet. Its age counts from here.
    pub fn begin_frame(&self) -> FrameClaim {
        let id = self.inner.next_frame.get();
        self.inner.next_frame.set(id + 1);
        self.inner.frames.borrow_mut().insert(id, Frame::default());
        FrameClaim {
            units: Some(self.units(Grant::default())),
            budget: self.clone(),
            id,
        }
    }

    /// Gives up frames that stand still while others wait; returns how many. To be called about once
    /// a second.
    pub fn sweep(&self, now: Instant) -> usize {
        let short = self.is_short();
        let mut given_up = Vec::new();
        // Who waits for memory does not stand still by its peer's doing.
        let queue = self.inner.queue.borrow();
        let waiting: BTreeSet<u64> = queue.iter().filter_map(|waiter| waiter.frame).collect();
        drop(queue);
        for (id, frame) in self.inner.frames.borrow_mut().iter_mut() {
            let since = match frame.last_progress {
                Some(since) if !frame.progressed && short && !waiting.contains(id) => since,
                // Progress, or nobody waits: the time counts from now.
                _ => {
                    frame.progressed = false;
                    frame.last_progress = Some(now);
                    continue;
                }
            };
            if !frame.stalled && now.saturating_duration_since(since) >= self.inner.stalled_after {
                frame.stalled = true;
                given_up.push(frame.waker.take());
            }
        }
        let count = given_up.len();
        given_up.into_iter().flatten().for_each(Waker::wake);
        count
    }

    fn units(&self, grant: Grant) -> Units {
        Units {
            budget: self.clone(),
            grant,
        }
    }

    async fn wait(&self, bytes: u64, frame: Option<u64>) -> Grant {
        let mut waiting = Waiting {
            inner: &self.inner,
            need: bytes.min(self.inner.capacity),
            frame,
            waiter: None,
        };
        poll_fn(|cx| waiting.poll(cx)).await
    }
}

impl Inner {
    fn is_stalled(&self, frame: u64) -> bool {
        self.frames.borrow().get(&frame).is_some_and(|f| f.stalled)
    }

    fn give_back(&self, grant: Grant) {
        self.available.set(self.available.get() + grant.common);
        self.aside_available
            .set(self.aside_available.get() + grant.aside);
        assert!(self.available.get() <= self.capacity);
        self.serve();
    }

    /// Grants what can be granted: those in front, then the oldest incomplete frame.
    fn serve(&self) {
        let mut granted: Vec<Rc<Waiter>> = Vec::new();
        {
            let mut queue = self.queue.borrow_mut();
            while let Some(waiter) = queue.front() {
                if waiter.need > self.available.get() {
                    break;
                }
                self.available.set(self.available.get() - waiter.need);
                waiter.grant.set(Some(Grant {
                    common: waiter.need,
                    aside: 0,
                }));
                granted.extend(queue.pop_front());
            }
            let oldest = self.frames.borrow().keys().next().copied();
            let place = oldest.and_then(|id| queue.iter().position(|w| w.frame == Some(id)));
            if let Some(place) = place {
                let need = queue[place].need;
                if let Some(grant) = self.draw_aside(need) {
                    queue[place].grant.set(Some(grant));
                    granted.extend(queue.remove(place));
                }
            }
        }
        for waiter in granted {
            waiter.waker.borrow().wake_by_ref();
        }
    }

    fn draw_aside(&self, need: u64) -> Option<Grant> {
        let aside = need.min(self.aside_available.get());
        let common = need - aside;
        if common > self.available.get() {
            return None;
        }
        self.aside_available.set(self.aside_available.get() - aside);
        self.available.set(self.available.get() - common);
        Some(Grant { common, aside })
    }
}

struct Waiting<'a> {
    inner: &'a Inner,
    need: u64,
    frame: Option<u64>,
    waiter: Option<Rc<Waiter>>,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Grant> {
        let Some(waiter) = &self.waiter else {
            let waiter = Rc::new(Waiter {
                need: self.need,
                frame: self.frame,
                grant: Cell::new(None),
                waker: RefCell::new(cx.waker().clone()),
            });
            self.inner.queue.borrow_mut().push_back(waiter.clone());
            self.waiter = Some(waiter);
            self.inner.serve();
            let granted = self.take();
            if granted.is_pending() {
                self.inner.waits.set(self.inner.waits.get() + 1);
            }
            return granted;
        };
        waiter.waker.borrow_mut().clone_from(cx.waker());
        self.take()
    }

    fn take(&mut self) -> Poll<Grant> {
        match self.waiter.as_ref().and_then(|w| w.grant.take()) {
            Some(grant) => {
                self.waiter = None;
                Poll::Ready(grant)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        match waiter.grant.take() {
            Some(grant) => self.inner.give_back(grant),
            None => {
                self.inner
                    .queue
                    .borrow_mut()
                    .retain(|w| !Rc::ptr_eq(w, &waiter));
                // Smaller needs may have stood behind it.
                self.inner.serve();
            }
        }
    }
}

/// Bytes that are held; given back when dropped.
pub struct Units {
    budget: Budget,
    grant: Grant,
}

impl Units {
    /// How many bytes these are.
    pub fn bytes(&self) -> u64 {
        self.grant.common + self.grant.aside
    }

    /// Adds `other` to these.
    pub fn merge(&mut self, mut other: Units) {
        assert!(Rc::ptr_eq(&self.budget.inner, &other.budget.inner));
        self.grant.common += other.grant.common;
        self.grant.aside += other.grant.aside;
        other.grant = Grant::default();
    }

    /// Takes `min(bytes, self.bytes())` of these away.
    pub fn split(&mut self, bytes: u64) -> Units {
        // What lies aside leaves last: it is to come back soonest, with the frame it was drawn for.
        let common = bytes.min(self.grant.common);
        let aside = (bytes - common).min(self.grant.aside);
        self.grant.common -= common;
        self.grant.aside -= aside;
        self.budget.units(Grant { common, aside })
    }

    /// Gives back all but `bytes`, those that lie aside first.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes().saturating_sub(bytes);
        let aside = surplus.min(self.grant.aside);
        let common = surplus - aside;
        if surplus > 0 {
            self.grant.aside -= aside;
            self.grant.common -= common;
            self.budget.inner.give_back(Grant { common, aside });
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.budget.inner.give_back(self.grant);
        }
    }
}

impl std::fmt::Debug for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Units({})", self.bytes())
    }
}

/// A frame that is being read, and the bytes it holds so far.
pub struct FrameClaim {
    budget: Budget,
    id: u64,
    /// Always there until [`finish`](Self::finish).
    units: Option<Units>,
}

impl FrameClaim {
    /// Bytes held so far.
    pub fn bytes(&self) -> u64 {
        self.units.as_ref().map_or(0, Units::bytes)
    }

    /// Adds units that were reserved elsewhere.
    pub fn merge(&mut self, units: Units) {
        if let Some(mine) = &mut self.units {
            mine.merge(units);
        }
    }

    /// Holds `bytes` more, when the turn comes; at once for the oldest frame while there is
    /// something aside.
    pub async fn grow(&mut self, bytes: u64) -> Result<(), Stalled> {
        let units = match self.budget.try_reserve(bytes) {
            Some(units) => units,
            None => {
                let mut waiting = std::pin::pin!(self.budget.wait(bytes, Some(self.id)));
                let grant = poll_fn(|cx| {
                    if self.budget.inner.is_stalled(self.id) {
                        return Poll::Ready(Err(Stalled));
                    }
                    waiting.as_mut().poll(cx).map(Ok)
                })
                .await?;
                self.budget.units(grant)
            }
        };
        self.merge(units);
        self.progressed();
        Ok(())
    }

    /// Bytes of the frame arrived.
    pub fn progressed(&self) {
        if let Some(frame) = self.budget.inner.frames.borrow_mut().get_mut(&self.id) {
            frame.progressed = true;
        }
    }

    /// To be asked while waiting for bytes to arrive: `Ready` when the frame was given up.
    pub fn poll_stalled(&self, cx: &mut Context<'_>) -> Poll<Stalled> {
        let mut frames = self.budget.inner.frames.borrow_mut();
        match frames.get_mut(&self.id) {
            Some(frame) if frame.stalled => Poll::Ready(Stalled),
            Some(frame) => {
                frame.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// The frame is complete: what it holds, for as long as its bytes live.
    pub fn finish(mut self) -> Units {
        let units = self.units.take();
        units.unwrap_or_else(|| self.budget.units(Grant::default()))
    }
}

impl Drop for FrameClaim {
    fn drop(&mut self) {
        self.budget.inner.frames.borrow_mut().remove(&self.id);
        self.units = None;
        // Another frame may be the oldest now.
        self.budget.inner.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};
    use std::pin::pin;

    const STALLED_AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn units_are_granted_first_come_first_served_and_nobody_overtakes() {
        let budget = Budget::new(100, 0, STALLED_AFTER);
        let held = budget.try_reserve(90).unwrap();
        block_on(async {
            let mut large = pin!(budget.reserve(50));
            assert!(poll_once(large.as_mut()).await.is_none());
            assert!(budget.try_reserve(5).is_none(), "a small one overtook");
            let mut small = pin!(budget.reserve(5));
            assert!(poll_once(small.as_mut()).await.is_none());
            assert_eq!(budget.waits(), 2);
            drop(held);
            let large = poll_once(large.as_mut()).await.unwrap();
            let small = poll_once(small.as_mut()).await.unwrap();
            assert_eq!(
                (large.bytes(), small.bytes(), budget.available()),
                (50, 5, 45)
            );
        });
        assert_eq!(budget.available(), 100);
    }

    #[test]
    fn a_complete_request_goes_before_those_who_wait() {
        let budget = Budget::new(100, 0, STALLED_AFTER);
        let held = budget.try_reserve(60).unwrap();
        block_on(async {
            let mut large = pin!(budget.reserve(50));
            assert!(poll_once(large.as_mut()).await.is_none());
            let more = budget.try_reserve_ahead(40).unwrap();
            assert!(budget.try_reserve_ahead(1).is_none());
            drop((held, more));
            assert!(poll_once(large.as_mut()).await.is_some());
        });
        assert_eq!(budget.available(), 100);
    }

    #[test]
    fn a_need_beyond_the_capacity_gets_the_capacity() {
        let budget = Budget::new(100, 0, STALLED_AFTER);
        assert_eq!(block_on(budget.reserve(1_000)).bytes(), 100);
        assert_eq!(budget.waits(), 0);
    }

    #[test]
    fn a_dropped_wait_gives_back_its_grant_and_its_place() {
        let budget = Budget::new(100, 0, STALLED_AFTER);
        let held = budget.try_reserve(100).unwrap();
        block_on(async {
            let mut first = Box::pin(budget.reserve(80));
            assert!(poll_once(first.as_mut()).await.is_none());
            let mut second = pin!(budget.reserve(60));
            assert!(poll_once(second.as_mut()).await.is_none());
            drop(held);
            assert!(poll_once(second.as_mut()).await.is_none());
            drop(first);
            assert_eq!(poll_once(second.as_mut()).await.unwrap().bytes(), 60);
        });
        assert_eq!(budget.available(), 100);
    }

    #[test]
    fn only_the_oldest_incomplete_frame_draws_on_what_lies_aside() {
        let budget = Budget::new(100, 50, STALLED_AFTER);
        let mut first = budget.begin_frame();
        let mut second = budget.begin_frame();
        block_on(async {
            first.grow(50).await.unwrap();
            second.grow(50).await.unwrap();
            {
                let mut more = pin!(second.grow(10));
                assert!(poll_once(more.as_mut()).await.is_none());
                poll_once(pin!(first.grow(50))).await.unwrap().unwrap();
                assert!(poll_once(more.as_mut()).await.is_none());
                // The first frame is complete, but its bytes are in use still: none lie aside.
                let units = first.finish();
                assert_eq!(units.bytes(), 100);
                assert!(poll_once(more.as_mut()).await.is_none());
                drop(units);
                poll_once(more.as_mut()).await.unwrap().unwrap();
            }
            assert_eq!(second.finish().bytes(), 60);
        });
        assert_eq!(
            (budget.available(), budget.inner.aside_available.get()),
            (100, 50)
        );
    }

    #[test]
    fn a_frame_without_progress_is_given_up_only_while_others_wait() {
        let budget = Budget::new(100, 10, STALLED_AFTER);
        let start = Instant::now();
        let mut frame = budget.begin_frame();
        block_on(async {
            frame.grow(100).await.unwrap();
            let give_up = || poll_once(poll_fn(|cx| frame.poll_stalled(cx)));
            assert_eq!(budget.sweep(start), 0);
            assert_eq!(budget.sweep(start + 2 * STALLED_AFTER), 0, "nobody waits");
            let mut other = pin!(budget.reserve(1));
            assert!(poll_once(other.as_mut()).await.is_none());
            assert_eq!(
                budget.sweep(start + 2 * STALLED_AFTER + STALLED_AFTER / 2),
                0
            );
            frame.progressed();
            assert_eq!(budget.sweep(start + 3 * STALLED_AFTER), 0, "it progressed");
            assert!(give_up().await.is_none());
            assert_eq!(budget.sweep(start + 4 * STALLED_AFTER), 1);
            assert_eq!(give_up().await, Some(Stalled));
        });
    }

    #[test]
    fn a_frame_that_waits_for_memory_itself_is_not_given_up() {
        let budget = Budget::new(100, 0, STALLED_AFTER);
        let start = Instant::now();
        let mut standing = budget.begin_frame();
        let mut waiting = budget.begin_frame();
        block_on(async {
            standing.grow(100).await.unwrap();
            {
                let mut more = pin!(waiting.grow(10));
                assert!(poll_once(more.as_mut()).await.is_none());
                budget.sweep(start);
                assert_eq!(budget.sweep(start + STALLED_AFTER), 1);
                assert_eq!(budget.sweep(start + 2 * STALLED_AFTER), 0);
                assert!(poll_once(more.as_mut()).await.is_none());
                let given_up = poll_once(poll_fn(|cx| standing.poll_stalled(cx))).await;
                assert_eq!(given_up, Some(Stalled));
                drop(standing);
                poll_once(more.as_mut()).await.unwrap().unwrap();
            }
        });
    }
}
