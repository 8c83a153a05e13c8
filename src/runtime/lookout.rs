//! The task that sees what comes to a shard from outside: sockets, its auxiliary ring, other shards. One per
//! shard.
//!
//! 1. It looks: whoever waits for what has come is woken, and the shards that were written to since are rung for.
//! 2. It goes behind those, within the same turn of glommio, and looks again. While there is something to do
//!    glommio's rings are not entered at all, but for a real turn every [`TURN`]: timers, jobs of helper threads.
//! 3. When nothing has come and no task can run it goes on looking for as long as its `idle_poll` says, and gives the
//!    core to any thread that wants it in between: a kernel's worker that does an fsync for this shard does.
//! 4. Then it waits in the ring of the [sockets](super::readiness), which takes
//!    one system call, where it takes glommio eight and more to go to sleep and to wake up. What glommio knows of
//!    and the ring does not is late by twice [`TURN`] at most: a timer ends the wait, and a real turn follows.
//! 5. After [`QUIET_TURNS`] of these in which nothing has come it waits through glommio, for as long as it takes.
//!
//! The others of the shard do not run while it waits in the ring, so it must know that none can. A task's turn is
//! counted ([`executor::task_turns`]): who has come to the front of the queue again, and nobody ran in between, is
//! alone in it. Nobody wakes others but tasks, and glommio in a real turn, behind which it goes once more.
//!
//! The kernel does not let one eventfd signal another at once, so shards ring by a pipe, and a ring is polled
//! itself, not its eventfd: the last link, to glommio, is one.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use glommio::io::BufferedFile;
use io_uring::IoUring;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ReadWriteFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::sched_yield;

use super::readiness::Inner;
use super::{clock, executor, profile};
use crate::base::profile::Nanos;

/// How long sockets may keep a shard from a turn of glommio, and how long it may wait in the ring, in nanoseconds.
pub(super) const TURN: u64 = 200_000;

/// Waits in the ring in a row that nothing but their timer ends. To go to sleep costs about as much as they do.
const QUIET_TURNS: u32 = 3;

/// Ends the wait of a shard, from any thread.
pub(super) struct Doorbell {
    wires: Arc<Wires>,
}

struct Wires {
    outlet: OwnedFd,
    inlet: OwnedFd,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Doorbell> {
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Doorbell {
            wires: Arc::new(Wires { outlet, inlet }),
        })
    }

    /// To be woken from any thread.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(self.wires.clone())
    }

    /// Readable once it was rung, until [`hush`](Self::hush).
    pub(super) fn outlet(&self) -> RawFd {
        self.wires.outlet.as_raw_fd()
    }

    /// Takes in rings.
    pub(super) fn hush(&self) {
        // What is left has no end of its own to tell.
        let _ = rustix::io::read(&self.wires.outlet, &mut [0; 64]);
    }
}

impl Wake for Wires {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Without room there are rings that were not taken in yet.
        let _ = rustix::io::write(&self.inlet, &[0]);
    }
}

/// An eventfd that `ring` signals.
pub(super) fn announce(ring: &IoUring) -> io::Result<OwnedFd> {
    let announced = eventfd(0, EventfdFlags::CLOEXEC)?;
    ring.submitter().register_eventfd(announced.as_raw_fd())?;
    Ok(announced)
}

/// Starts the task, which ends when `inner` is gone. `announced` is signalled by its ring.
pub(super) fn start(inner: &Rc<Inner>, announced: OwnedFd) -> io::Result<()> {
    let read = announced.try_clone()?;
    let look = look(Rc::downgrade(inner), announced, read);
    executor::spawn("lookout", look).detach();
    Ok(())
}

/// Why a shard stopped looking.
enum Polled {
    Came,
    TurnIsDue,
    /// It has looked for long enough.
    IsIdle,
}

impl Inner {
    /// Wakes whoever waits for what has come. Returns whether anything has.
    fn look(&self, wake: &mut Vec<Waker>) -> bool {
        let mut any = false;
        if let Some(mailbox) = &self.mailbox {
            any |= mailbox.look();
        }
        if let Some(aux_ring) = &self.aux_ring {
            any |= aux_ring.look();
        }
        any |= self.state.borrow_mut().collect(wake);
        wake.drain(..).for_each(Waker::wake);
        any
    }

    /// Looks on, until `idle_poll` after the last that `came` or until [`TURN`] after the last `turn`.
    fn poll(&self, came: Nanos, turn: Nanos, wake: &mut Vec<Waker>) -> Polled {
        let until_idle = || {
            loop {
                let now = clock::now();
                if now.since(came) >= self.idle_poll {
                    return Polled::IsIdle;
                }
                if now.since(turn) >= TURN {
                    return Polled::TurnIsDue;
                }
                if self.look(wake) {
                    return Polled::Came;
                }
                // Without it, workers of the kernel on this core wait for whole time slices.
                sched_yield();
            }
        };
        match self.idle_poll {
            0 => Polled::IsIdle,
            _ => profile::asleep(until_idle),
        }
    }

    /// Has other shards ring from now on. Returns `false` if something came before.
    fn arm(&self) -> bool {
        self.mailbox.as_ref().is_none_or(|m| m.arm(&self.bell))
    }

    fn wait_in_the_ring(&self) -> io::Result<()> {
        if !self.arm() {
            return Ok(());
        }
        #[cfg(test)]
        tests::WAITS.set(tests::WAITS.get() + 1);
        profile::asleep(|| self.state.borrow_mut().wait())
    }

    /// Prepares a wait through glommio. Returns `false` if something has come.
    fn lie_down(&self, announced: &OwnedFd, wake: &mut Vec<Waker>) -> bool {
        // What was announced and has been seen would end the wait at once.
        forget(announced);
        self.state.borrow_mut().poll_aux();
        let any = self.look(wake);
        !any && self.arm()
    }
}

async fn look(inner: Weak<Inner>, announced: OwnedFd, read: OwnedFd) {
    // SAFETY: the descriptor was owned and is given away here, once.
    let read = unsafe { BufferedFile::from_raw_fd(read.into_raw_fd()) };
    let mut wake = Vec::new();
    let mut turn = clock::now();
    let mut came = turn;
    let mut quiet = 0;
    // Turns of tasks when this one went behind the others; `None` if they may not all have been there.
    let mut tasks = None;
    loop {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        // This turn is one of them.
        let alone = tasks.is_some_and(|before| executor::task_turns() == before + 1);
        let now = clock::now();
        let mut turn_due = now.since(turn) >= TURN;
        if inner.look(&mut wake) {
            (quiet, came) = (0, now);
        } else if alone && executor::is_turn_awaited() {
            turn_due = true;
        } else if alone && !turn_due {
            match inner.poll(came, turn, &mut wake) {
                Polled::Came => (quiet, came) = (0, clock::now()),
                Polled::TurnIsDue => turn_due = true,
                Polled::IsIdle if quiet < QUIET_TURNS => {
                    if inner.wait_in_the_ring().is_err() {
                        quiet = QUIET_TURNS;
                    }
                    let any = inner.look(&mut wake);
                    if any {
                        (quiet, came) = (0, clock::now());
                    } else if !inner.state.borrow().is_timed() {
                        quiet += 1;
                        turn_due = true;
                    }
                }
                Polled::IsIdle => {
                    if inner.lie_down(&announced, &mut wake) {
                        drop(inner);
                        // An eventfd has no positions; a read of 8 bytes waits until it is not zero.
                        if read.read_at(0, 8).await.is_err() {
                            executor::yield_now().await;
                        }
                        turn = clock::now();
                        quiet = 0;
                        tasks = None;
                        continue;
                    }
                }
            }
        }
        drop(inner);
        if turn_due {
            executor::yield_now().await;
            turn = clock::now();
            tasks = None;
        } else {
            tasks = Some(executor::task_turns());
            go_behind().await;
        }
    }
}

/// Lets those run that are runnable already.
async fn go_behind() {
    let mut gone = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Takes what an eventfd counted, without waiting for more.
fn forget(eventfd: &OwnedFd) {
    let mut count = [0; 8];
    let into = &mut [io::IoSliceMut::new(&mut count)];
    // At no position. EAGAIN says that it is zero; where that is not known the wait ends at once, and once.
    let _ = rustix::io::preadv2(eventfd, into, u64::MAX, ReadWriteFlags::NOWAIT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::aux_ring::AuxRing;
    use crate::runtime::executor::{ShardOptions, spawn_shards};
    use crate::runtime::mailbox::{Bounds, Endpoint, EndpointSeed, mailbox};
    use crate::runtime::readiness::Readiness;
    use std::cell::Cell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    thread_local! {
        /// Waits in the ring.
        pub(super) static WAITS: Cell<u32> = const { Cell::new(0) };
    }

    /// Runs a shard for each endpoint, with its lookout, until all are done.
    fn run<F: Future<Output = ()> + 'static>(
        endpoints: usize,
        bounds: Bounds,
        idle_poll: Duration,
        run: impl Fn(usize, Endpoint<u64, u64>) -> F + Clone + Send + 'static,
    ) {
        let shard = move |number, seed: EndpointSeed<u64, u64>| {
            let run = run.clone();
            async move {
                let endpoint = seed.bind();
                let _readiness = Readiness::new(None, Some(endpoint.letters()), idle_poll).unwrap();
                let server = executor::spawn("server", serve(endpoint.clone()));
                run(number, endpoint.clone()).await;
                // Others may not be done; an endpoint that closes refuses them.
                for other in 0..endpoint.endpoints() {
                    let _ = endpoint.call(other, DONE).await;
                }
                server.await;
                endpoint.close();
            }
        };
        let seeds = mailbox(endpoints, bounds);
        let shards = spawn_shards(&[0, 1], seeds, &ShardOptions::default(), shard);
        shards.unwrap().join().unwrap();
    }

    const DONE: u64 = u64::MAX;

    /// Answers until every shard has said that it is done.
    async fn serve(endpoint: Endpoint<u64, u64>) {
        let mut left = endpoint.endpoints();
        while left > 0
            && let Ok(incoming) = endpoint.next().await
        {
            left -= usize::from(incoming.request == DONE);
            endpoint.reply(incoming.token, incoming.request.wrapping_mul(3));
        }
    }

    #[test]
    fn letters_reach_a_shard_that_is_awake_waits_or_sleeps() {
        letters_reach_the_other(Duration::ZERO);
    }

    #[test]
    fn letters_reach_a_shard_that_polls() {
        letters_reach_the_other(Duration::from_nanos(TURN) * 2);
        letters_reach_the_other(Duration::from_secs(1));
    }

    fn letters_reach_the_other(idle_poll: Duration) {
        run(
            2,
            Bounds::default(),
            idle_poll,
            |number, endpoint| async move {
                for count in 0..2_000u64 {
                    // Now and then long enough for the other shard to wait, and to fall asleep.
                    if count % 100 == 0 {
                        let turns = u32::try_from(count / 100 % 8).unwrap();
                        glommio::timer::sleep(Duration::from_nanos(TURN) * turns).await;
                    }
                    let answer = endpoint.call(1 - number, count).await;
                    assert_eq!(answer, Ok(count.wrapping_mul(3)));
                }
            },
        );
    }

    #[test]
    fn shards_that_flood_each_other_under_a_small_bound_finish() {
        let small = Bounds {
            queued_max: 2,
            outstanding_max: 3,
        };
        run(4, small, Duration::ZERO, |_, endpoint| async move {
            let senders: Vec<_> = (0..8)
                .map(|n| {
                    let endpoint = endpoint.clone();
                    let sender = async move {
                        for count in 0..200 {
                            let answer = endpoint.call(n % 4, count).await;
                            assert_eq!(answer, Ok(count.wrapping_mul(3)));
                        }
                    };
                    executor::spawn("sender", sender)
                })
                .collect();
            for sender in senders {
                sender.await;
            }
        });
    }

    fn alone<T>(future: impl Future<Output = T>) -> T {
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(profile::named("test", future))
    }

    #[test]
    fn what_the_auxiliary_ring_has_done_ends_the_wait_and_the_sleep() {
        what_the_auxiliary_ring_has_done_is_seen(Duration::ZERO);
    }

    #[test]
    fn what_the_auxiliary_ring_has_done_is_seen_by_a_shard_that_polls() {
        what_the_auxiliary_ring_has_done_is_seen(Duration::from_nanos(TURN) * 2);
        what_the_auxiliary_ring_has_done_is_seen(Duration::from_secs(1));
    }

    fn what_the_auxiliary_ring_has_done_is_seen(idle_poll: Duration) {
        let file = tempfile::tempfile().unwrap();
        alone(async {
            let ring = AuxRing::new().unwrap();
            let _readiness = Readiness::new(Some(ring.clone()), None, idle_poll).unwrap();
            let file = Arc::new(file);
            for count in 0..200u64 {
                if count % 50 == 49 {
                    glommio::timer::sleep(Duration::from_nanos(TURN * 8)).await;
                }
                ring.fallocate(file.clone(), 0, 0, 4096 * (1 + count))
                    .await
                    .unwrap();
                ring.fdatasync(file.clone()).await.unwrap();
            }
        });
    }

    #[test]
    fn it_does_not_wait_while_a_task_can_run_or_wants_a_turn() {
        alone(async {
            let readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            let (mut peer, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let watch = readiness.watch(OwnedFd::from(ours)).unwrap();
            let task = executor::spawn("task", async move {
                let mut waits = 0;
                for _ in 0..1_000 {
                    // It is awake behind this.
                    peer.write_all(&[1]).unwrap();
                    let mut into = [0; 8];
                    poll_fn(|cx| watch.poll_receive(cx, &mut into))
                        .await
                        .unwrap();
                    let before = WAITS.get();
                    go_behind().await;
                    go_behind().await;
                    executor::yield_now().await;
                    waits += WAITS.get() - before;
                }
                waits
            });
            assert_eq!(task.await, 0);
        });
    }

    #[test]
    fn it_polls_sockets_and_timers_for_as_long_as_it_may_and_then_sleeps() {
        alone(async {
            let readiness = Readiness::new(None, None, Duration::from_secs(3600)).unwrap();
            let (mut peer, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let watch = readiness.watch(OwnedFd::from(ours)).unwrap();
            let writer = std::thread::spawn(move || {
                for _ in 0..10 {
                    std::thread::sleep(Duration::from_nanos(TURN * 5));
                    peer.write_all(&[1]).unwrap();
                }
                peer
            });
            for _ in 0..10 {
                let mut into = [0; 1];
                let received = poll_fn(|cx| watch.poll_receive(cx, &mut into)).await;
                assert_eq!(received, Ok(1));
                glommio::timer::sleep(Duration::from_nanos(TURN * 3)).await;
            }
            assert_eq!(WAITS.get(), 0);
            drop(writer.join());
        });
        alone(async {
            let poll = Duration::from_nanos(TURN * 5);
            let _readiness = Readiness::new(None, None, poll).unwrap();
            glommio::timer::sleep(Duration::from_nanos(TURN) * 100).await;
            let waits = WAITS.get();
            assert!((1..=QUIET_TURNS).contains(&waits), "{waits}");
        });
    }

    #[test]
    fn it_waits_in_the_ring_for_a_while_and_then_sleeps() {
        alone(async {
            let _readiness = Readiness::new(None, None, Duration::ZERO).unwrap();
            glommio::timer::sleep(Duration::from_nanos(TURN) * 50).await;
            let waits = WAITS.get();
            assert!((1..=QUIET_TURNS).contains(&waits), "{waits}");
        });
    }
}
