//! Which sockets of a shard can be read and written, learnt through a ring of its own. One per shard.
//!
//! glommio polls a socket anew for each wait, and each answer interrupts the shard's core. Here every socket is
//! polled once, for as long as it lives (multishot), and the kernel keeps what happened until the shard's
//! [lookout](super::lookout) looks.
//!
//! The kernel tells changes, not states (edges): a socket counts as readable until a receive finds or
//! leaves it empty, and as writable until a send finds no room.
//!
//! The lookout waits in this ring, so what is to end its wait is polled here as well: the doorbell that other
//! shards ring, the auxiliary ring, and a timer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::aux_ring::AuxRing;
use super::executor;
use super::lookout::{self, Doorbell};
use super::mailbox::Letters;

/// Entries of the ring: changes of what is polled that are submitted at once.
const ENTRIES: u32 = 64;

/// Completions that the ring keeps. Of more than that the kernel ends some polls, and they are begun anew.
const COMPLETIONS: u32 = 4096;

/// The longest wait in the ring.
static WAIT: types::Timespec = types::Timespec::new().nsec(lookout::TURN as u32);

const EVENTS: i16 = libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP;

/// After one of these nothing more comes in, and an empty socket says so at once.
const ENDED: i16 = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;

/// After one of these a send does not wait for room, but fails. A peer that only sends nothing more
/// ([`libc::POLLRDHUP`]) may still read.
const HUNG_UP: i16 = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;

/// `user_data` of what is no socket: what nobody waits for, the doorbell, the auxiliary ring, the timer.
const NOBODY: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
const AUX: u64 = u64::MAX - 2;
const TIMER: u64 = u64::MAX - 3;

/// The sockets of one shard; clones are the same.
#[derive(Clone)]
pub struct Readiness {
    inner: Rc<Inner>,
}

pub(super) struct Inner {
    pub(super) state: RefCell<State>,
    /// What the lookout looks at beside the sockets.
    pub(super) aux_ring: Option<AuxRing>,
    pub(super) mailbox: Option<Rc<dyn Letters>>,
    pub(super) bell: Waker,
    /// How long the lookout goes on looking when nothing comes, in nanoseconds.
    pub(super) idle_poll: u64,
}

pub(super) struct State {
    ring: IoUring,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// What the kernel had no room for yet.
    unsent: VecDeque<Entry>,
    bell: Doorbell,
    /// The auxiliary ring.
    aux: Option<RawFd>,
    /// The kernel polls it.
    aux_polled: bool,
    /// The timer that ends a wait is under way.
    timed: bool,
}

/// One socket.
#[derive(Default)]
struct Slot {
    fd: RawFd,
    readable: bool,
    writable: bool,
    ended: bool,
    hung_up: bool,
    /// The kernel could not poll it: nobody would be woken.
    failed: bool,
    /// The kernel polls it, or is about to.
    polled: bool,
    /// The socket is dropped; the slot is free when the poll has ended.
    dropped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Readiness {
    /// Makes the ring, and the lookout, on the current shard. From here on the lookout is who looks at
    /// `aux_ring` and `mailbox`; for `idle_poll` after something came it does without sleep.
    pub fn new(
        aux_ring: Option<AuxRing>,
        mailbox: Option<Rc<dyn Letters>>,
        idle_poll: Duration,
    ) -> io::Result<Readiness> {
        Self::with_completions(aux_ring, mailbox, idle_poll, COMPLETIONS)
    }

    fn with_completions(
        aux_ring: Option<AuxRing>,
        mailbox: Option<Rc<dyn Letters>>,
        idle_poll: Duration,
        completions: u32,
    ) -> io::Result<Readiness> {
        let ring = make_ring(completions)?;
        let bell = Doorbell::new()?;
        let mut state = State {
            ring,
            slots: Vec::new(),
            free: Vec::new(),
            unsent: VecDeque::new(),
            aux: aux_ring.as_ref().map(AuxRing::leave_to_poll).transpose()?,
            aux_polled: false,
            timed: false,
            bell,
        };
        let announced = lookout::announce(&state.ring)?;
        state.poll_bell();
        state.flush()?;
        let inner = Rc::new(Inner {
            bell: state.bell.waker(),
            state: RefCell::new(state),
            aux_ring,
            mailbox,
            idle_poll: idle_poll.as_nanos() as u64,
        });
        lookout::start(&inner, announced)?;
        Ok(Readiness { inner })
    }

    /// Watches a socket, which is non-blocking.
    pub fn watch(&self, fd: OwnedFd) -> io::Result<Watch> {
        let slot = self.inner.state.borrow_mut().add(fd.as_raw_fd())?;
        Ok(Watch {
            inner: self.inner.clone(),
            slot,
            fd,
        })
    }
}

/// A ring that interrupts nobody: what happens is kept until it is asked for. Kernels before 6.1, and
/// before 5.19, do it as well as they can.
fn make_ring(completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(completions).setup_clamp();
    let plain = builder.clone();
    builder.setup_taskrun_flag();
    let cooperative = builder.clone().setup_coop_taskrun().clone();
    let deferred = builder.setup_single_issuer().setup_defer_taskrun();
    deferred
        .build(ENTRIES)
        .or_else(|_| cooperative.build(ENTRIES))
        .or_else(|_| plain.build(ENTRIES))
}

impl State {
    fn add(&mut self, fd: RawFd) -> io::Result<usize> {
        let slot = Slot {
            fd,
            // The first look at it tells.
            readable: true,
            writable: true,
            polled: true,
            ..Slot::default()
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.unsent.push_back(poll(fd, index as u64));
        match self.flush() {
            Ok(()) => Ok(index),
            Err(error) => {
                // The kernel may still begin the poll.
                self.remove(index);
                Err(error)
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.polled {
            *slot = Slot::default();
            self.free.push(index);
            return;
        }
        slot.dropped = true;
        (slot.reader, slot.writer) = (None, None);
        // Not a removal of the poll: that fails while an event of it is under way.
        let end = opcode::AsyncCancel::new(index as u64).build();
        self.unsent.push_back(end.user_data(NOBODY));
        // What is not taken over now is at the next look.
        let _ = self.flush();
    }

    /// Submits what is not submitted yet, as far as the kernel takes it now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            self.push();
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts what is not submitted yet into the ring, as far as there is room.
    fn push(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.unsent.front() {
            // SAFETY: polls, and their ends, refer to no memory, and the kernel looks the descriptor up
            // when it takes the entry over: a wrong one is an error. A timer's time is a static.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.unsent.pop_front();
        }
    }

    /// Takes in what happened; `wake` gets whoever waits for it. Returns whether anything did.
    pub(super) fn collect(&mut self, wake: &mut Vec<Waker>) -> bool {
        let queue = self.ring.submission();
        let (must_enter, unsubmitted) = (queue.taskrun() || queue.cq_overflow(), !queue.is_empty());
        drop(queue);
        if must_enter || unsubmitted {
            // What fails is tried again at the next look.
            let _ = self.ring.submit();
        }
        let mut any = false;
        let mut rung = None;
        let State {
            ring,
            slots,
            free,
            unsent,
            aux_polled,
            timed,
            ..
        } = self;
        for completion in ring.completion() {
            let lives_on = cqueue::more(completion.flags());
            match completion.user_data() {
                BELL => rung = Some(lives_on),
                AUX => *aux_polled = lives_on,
                TIMER => *timed = false,
                _ => any = true,
            }
            let index = completion.user_data() as usize;
            let Some(slot) = slots.get_mut(index) else {
                continue;
            };
            if slot.dropped {
                if !lives_on {
                    *slot = Slot::default();
                    free.push(index);
                }
                continue;
            }
            let result = completion.result();
            // A poll that failed is taken for everything.
            slot.failed |= result < 0;
            let events = if result < 0 { EVENTS } else { result as i16 };
            slot.hung_up |= slot.failed || events & HUNG_UP != 0;
            if events & ENDED != 0 {
                slot.ended = true;
            }
            if events & (libc::POLLIN | ENDED) != 0 {
                slot.readable = true;
                wake.extend(slot.reader.take());
            }
            if events & (libc::POLLOUT | ENDED) != 0 {
                slot.writable = true;
                wake.extend(slot.writer.take());
            }
            slot.polled = lives_on;
            if !lives_on && result >= 0 && !slot.ended {
                slot.polled = true;
                unsent.push_back(poll(slot.fd, index as u64));
            }
        }
        if let Some(lives_on) = rung {
            self.bell.hush();
            if !lives_on {
                self.poll_bell();
            }
        }
        let _ = self.flush();
        any
    }

    fn poll_bell(&mut self) {
        let outlet = types::Fd(self.bell.outlet());
        let rings = opcode::PollAdd::new(outlet, libc::POLLIN as u32).multi(true);
        self.unsent.push_back(rings.build().user_data(BELL));
    }

    /// Waits until there is something to collect, for [`lookout::TURN`] at most after the first such wait since
    /// a timer ended one. The shard's other tasks do not run meanwhile.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        if !self.timed {
            self.timed = true;
            let timer = opcode::Timeout::new(&WAIT).build();
            self.unsent.push_back(timer.user_data(TIMER));
        }
        self.poll_aux();
        self.push();
        if !self.unsent.is_empty() {
            // Nothing might end the wait.
            return self.flush();
        }
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a timer is under way that ends a wait.
    pub(super) fn is_timed(&self) -> bool {
        self.timed
    }

    /// Has the auxiliary ring polled. Its polls are for once: a ring that wakes a ring is told so.
    pub(super) fn poll_aux(&mut self) {
        if let (Some(aux), false) = (self.aux, self.aux_polled) {
            self.aux_polled = true;
            let once = opcode::PollAdd::new(types::Fd(aux), libc::POLLIN as u32);
            self.unsent.push_back(once.build().user_data(AUX));
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)
    )
}

fn poll(fd: RawFd, user_data: u64) -> Entry {
    let poll = opcode::PollAdd::new(types::Fd(fd), EVENTS as u32);
    poll.multi(true).build().user_data(user_data)
}

/// A socket whose readiness is known. One task may wait for it to be readable and one for it to be writable.
pub struct Watch {
    inner: Rc<Inner>,
    slot: usize,
    fd: OwnedFd,
}

impl Watch {
    /// Receives into the front of `into`, or waits until there is something; 0 is the end.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, Errno>> {
        let mut state = self.inner.state.borrow_mut();
        let slot = &mut state.slots[self.slot];
        while slot.readable {
            match recv(&self.fd, &mut *into, RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => {
                    // All there was. If more has come since, it is told.
                    slot.readable = bytes == into.len() || bytes == 0 || slot.ended;
                    return Poll::Ready(Ok(bytes));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !slot.failed => slot.readable = false,
                Err(errno) => return Poll::Ready(Err(errno)),
            }
        }
        wait(&mut slot.reader, cx)
    }

    /// Waits until there may be room again, after a send that found none. Others run meanwhile in any case.
    pub async fn room(&self) {
        let mut found_none = true;
        poll_fn(|cx| {
            let mut state = self.inner.state.borrow_mut();
            let slot = &mut state.slots[self.slot];
            if std::mem::replace(&mut found_none, false) {
                slot.writable = false;
            }
            if slot.writable || slot.hung_up {
                return Poll::Ready(());
            }
            wait(&mut slot.writer, cx)
        })
        .await;
        let is_hung_up = self.inner.state.borrow().slots[self.slot].hung_up;
        if is_hung_up {
            executor::yield_now().await;
        }
    }
}

fn wait<T>(place: &mut Option<Waker>, cx: &mut Context<'_>) -> Poll<T> {
    if !place.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
    Poll::Pending
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.state.borrow_mut().remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::profile;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let executor = glommio::LocalExecutorBuilder::default()
            .io_memory(64 * 1024)
            .make();
        executor.unwrap().run(profile::named("test", future))
    }

    fn pair(readiness: &Readiness) -> (UnixStream, Watch) {
        let (peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (peer, readiness.watch(OwnedFd::from(ours)).unwrap())
    }

    async fn receive(watch: &Watch, most: usize) -> Vec<u8> {
        let mut into = vec![0; most];
        let bytes = poll_fn(|cx| watch.poll_receive(cx, &mut into)).await;
        into.truncate(bytes.unwrap());
        into
    }

    #[test]
    fn what_comes_while_nobody_waits_or_somebody_does_is_received() {
        run(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            let (mut peer, watch) = pair(&readiness);
            for round in 0..100u8 {
                if round % 2 == 0 {
                    peer.write_all(&[round; 10]).unwrap();
                    executor::yield_now().await;
                    assert_eq!(receive(&watch, 7).await, [round; 7]);
                    assert_eq!(receive(&watch, 7).await, [round; 3]);
                } else {
                    let mut waits = Box::pin(receive(&watch, 7));
                    assert!(futures_lite::future::poll_once(&mut waits).await.is_none());
                    peer.write_all(&[round; 3]).unwrap();
                    assert_eq!(waits.await, [round; 3]);
                }
            }
        });
    }

    #[test]
    fn an_end_that_came_with_the_last_bytes_is_seen() {
        run(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            for turns in 0..3 {
                let (mut peer, watch) = pair(&readiness);
                peer.write_all(b"last").unwrap();
                drop(peer);
                for _ in 0..turns {
                    executor::yield_now().await;
                }
                assert_eq!(receive(&watch, 100).await, b"last");
                assert_eq!(receive(&watch, 100).await, b"");
            }
        });
    }

    #[test]
    fn a_sender_waits_for_room_and_for_no_longer() {
        run(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            let (mut peer, watch) = pair(&readiness);
            // The first event says that there is room, and may be told late.
            executor::yield_now().await;
            executor::yield_now().await;
            let none = rustix::net::SendFlags::DONTWAIT;
            while rustix::net::send(&watch, &[1; 10_000], none).is_ok() {}
            let mut room = Box::pin(watch.room());
            for _ in 0..10 {
                assert!(futures_lite::future::poll_once(&mut room).await.is_none());
                executor::yield_now().await;
            }
            let mut all = vec![0; 1_000_000];
            let _ = peer.read(&mut all).unwrap();
            peer.set_nonblocking(true).unwrap();
            while peer.read(&mut all).is_ok() {}
            room.await;
            drop(peer);
            // A peer that has gone leaves room for an error.
            watch.room().await;
        });
    }

    #[test]
    fn a_peer_that_sends_no_more_and_does_not_read_holds_up_nobody() {
        run(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            let (peer, watch) = pair(&readiness);
            executor::yield_now().await;
            executor::yield_now().await;
            let none = rustix::net::SendFlags::DONTWAIT;
            while rustix::net::send(&watch, &[1; 10_000], none).is_ok() {}
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(receive(&watch, 100).await, b"");
            // What was announced may be taken for room once, but not again and again.
            let mut rooms = 0;
            for _ in 0..10 {
                let mut room = Box::pin(watch.room());
                for _ in 0..3 {
                    if futures_lite::future::poll_once(&mut room).await.is_some() {
                        rooms += 1;
                        break;
                    }
                    executor::yield_now().await;
                }
            }
            assert!(rooms < 3, "{rooms} times");
        });
    }

    #[test]
    fn a_dropped_socket_is_closed_and_its_place_used_again() {
        run(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            for _ in 0..1_000 {
                let (mut peer, watch) = pair(&readiness);
                drop(watch);
                while !readiness
                    .inner
                    .state
                    .borrow()
                    .slots
                    .iter()
                    .any(|s| s.fd == 0)
                {
                    executor::yield_now().await;
                }
                assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            }
            assert_eq!(readiness.inner.state.borrow().slots.len(), 1);
        });
    }

    #[test]
    fn more_sockets_than_the_ring_keeps_completions_of_lose_nothing() {
        run(async {
            let readiness = Readiness::with_completions(None, None, Duration::ZERO, 64).unwrap();
            let mut pairs: Vec<_> = (0..400).map(|_| pair(&readiness)).collect();
            for round in 0..20u8 {
                for (peer, _) in &mut pairs {
                    peer.write_all(&[round; 5]).unwrap();
                }
                for (_, watch) in &pairs {
                    assert_eq!(receive(watch, 100).await, [round; 5]);
                }
            }
        });
    }
}
