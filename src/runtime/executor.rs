//! Shards: one pinned glommio executor each, and the watchdog that wakes one that stands still.
//!
//! What glommio 0.9.0 does, and what we do about it:
//! - A task that yields with glommio's own means only goes behind the others of its queue; sockets
//!   are not looked at before the queue is empty or the preemption timer fires, which is left at
//!   100 ms (at 1 ms an executor parks with runnable tasks, see below). [`yield_now`] instead waits
//!   for the executor's next turn: everything runnable runs, then the rings are looked at.
//! - A wake from another thread may wait for that timer as well, unless the task lies in a queue for
//!   which latency matters: [`latency_queue`].
//! - An executor that lost its core for longer than the timer may park although tasks are runnable,
//!   and only an event from outside wakes it. Each shard counts its turns ([`count_turn`]); a thread
//!   of its own looks at the counters every [`LOOK_EVERY`] and pokes a shard that stood still, at
//!   once and then less and less often, until it moves again.
//! - A panic in a task ends only its executor. Here it stops the process.
//! - Its blocking helpers run on the shard's core: here they may run anywhere.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::task::Poll;
use std::time::{Duration, Instant};

use glommio::channels::shared_channel::{SharedReceiver, new_bounded};
use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares, Task,
    TaskQueueHandle,
};

use rustix::thread::{CpuSet, MembarrierCommand, membarrier, sched_setaffinity};

use super::lane::Bell;
use super::{allocator, profile};

/// How often the watchdog looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks after which a shard that stands still is poked; then it is taken to be idle.
const POKE_AT: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Helper threads of a shard. Two, so that a short job does not wait for a long one: removing a file of 1 GiB that is
/// in the page cache takes 200 to 300 ms.
const HELPERS: usize = 2;

/// How the executors are made.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Name of the threads, the shard's number is appended. At most 15 characters are shown.
    pub name: String,
    /// Bytes a shard that glommio registers with its rings for direct I/O, resident from the start.
    pub io_memory: usize,
    /// Entries of each ring.
    pub ring_depth: usize,
}

impl Default for ShardOptions {
    fn default() -> ShardOptions {
        ShardOptions {
            name: "shard".into(),
            io_memory: 64 * 1024,
            ring_depth: 128,
        }
    }
}

/// Why the shards could not be started, or how one ended.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("the executor of shard {shard} could not be made: {reason}")]
    Start { shard: usize, reason: String },
    #[error("shard {shard} ended: {reason}")]
    Ended { shard: usize, reason: String },
}

/// Shards that run. Dropping it does not end them.
pub struct Shards<T: Send + 'static> {
    handles: Vec<ExecutorJoinHandle<T>>,
    watchdog: Watchdog,
}

impl<T: Send + 'static> Shards<T> {
    /// Waits until the main future of every shard has ended; their results in order.
    pub fn join(self) -> Result<Vec<T>, ShardError> {
        let mut results = Vec::new();
        for (shard, handle) in self.handles.into_iter().enumerate() {
            results.push(handle.join().map_err(|error| ShardError::Ended {
                shard,
                reason: error.to_string(),
            })?);
        }
        drop(self.watchdog);
        Ok(results)
    }
}

/// To be called while the process has one thread, before [`spawn_shards`].
///
/// Executors register for membarrier(2). The first to do so waits until every core has passed through a
/// quiet state, which takes many milliseconds as soon as there is a second thread, and nothing before. A
/// kernel that refuses is asked again by them.
pub fn prepare_process() {
    let _ = membarrier(MembarrierCommand::RegisterPrivateExpedited);
}

/// Starts a shard for each of `inputs`, on `cores` in turn: there may be more shards than cores.
///
/// `run` is the shard's main future; the shard ends with it. `run` gets the shard's number.
pub fn spawn_shards<I, T, R, F>(
    cores: &[usize],
    inputs: Vec<I>,
    options: &ShardOptions,
    run: R,
) -> Result<Shards<T>, ShardError>
where
    I: Send + 'static,
    T: Send + 'static,
    R: Fn(usize, I) -> F + Clone + Send + 'static,
    F: Future<Output = T> + 'static,
{
    assert!(!cores.is_empty());
    stop_the_process_on_panic();
    let mut handles = Vec::new();
    let mut watched = Vec::new();
    for (shard, input) in inputs.into_iter().enumerate() {
        let heart = Arc::new(Heart::new());
        watched.push(heart.clone());
        let run = run.clone();
        let core = cores[shard % cores.len()];
        // glommio's own pinning reads the description of every CPU, twice for each executor. The thread
        // pins itself instead; its helpers, which are there by then, stay free.
        let handle = LocalExecutorBuilder::new(Placement::Unbound)
            .name(&options.name)
            .io_memory(options.io_memory)
            .ring_depth(options.ring_depth)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(HELPERS))
            .spawn(move || async move {
                IS_SHARD.set(true);
                if let Err(error) = pin_to(core) {
                    tracing::warn!("shard {shard} is not pinned to CPU {core}: {error}");
                }
                let beats = spawn_latency("watchdog", beat(heart.clone()));
                HEART.set(Some(heart));
                let result = profile::named("shard", run(shard, input)).await;
                beats.cancel().await;
                HEART.set(None);
                result
            })
            .map_err(|error| ShardError::Start {
                shard,
                reason: error.to_string(),
            })?;
        handles.push(handle);
    }
    Ok(Shards {
        handles,
        watchdog: Watchdog::start(watched),
    })
}

fn pin_to(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(std::io::Error::other("there is no such CPU"));
    }
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// The time, for machines that take it as an argument.
pub fn now() -> Instant {
    Instant::now()
}

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
    static HEART: Cell<Option<Arc<Heart>>> = const { Cell::new(None) };
    static LATENCY_QUEUE: Cell<Option<(usize, TaskQueueHandle)>> = const { Cell::new(None) };
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
    static AWAITED_TURNS: Cell<usize> = const { Cell::new(0) };
    static TASK_TURNS: Cell<u64> = const { Cell::new(0) };
}

/// The queue of the current executor whose tasks are to run within a millisecond of their wake, also
/// of one from another thread. For tasks that do little: the receiver of a mailbox, timers.
pub fn latency_queue() -> TaskQueueHandle {
    let executor = glommio::executor();
    match LATENCY_QUEUE.get() {
        Some((id, queue)) if id == executor.id() => queue,
        _ => {
            let latency = Latency::Matters(Duration::from_millis(1));
            let queue = executor.create_task_queue(Shares::Static(1000), latency, "latency");
            LATENCY_QUEUE.set(Some((executor.id(), queue)));
            queue
        }
    }
}

/// Starts a task of this shard. Its turns are timed under `name`, and they are counted: by that the shard knows
/// whether it may wait where no task can run. So every task is started by this or one of the next two.
#[expect(clippy::disallowed_methods, reason = "the rule is kept here")]
pub fn spawn<T: 'static>(name: &'static str, task: impl Future<Output = T> + 'static) -> Task<T> {
    glommio::spawn_local(profile::named(name, task))
}

/// Starts a task that serves the connection to `peer`.
#[expect(clippy::disallowed_methods, reason = "the rule is kept here")]
pub fn spawn_for<T: 'static>(
    name: &'static str,
    peer: SocketAddr,
    task: impl Future<Output = T> + 'static,
) -> Task<T> {
    glommio::spawn_local(profile::named_for(name, peer, task))
}

/// Starts a task in [`latency_queue`].
#[expect(clippy::disallowed_methods, reason = "the rule is kept here")]
pub fn spawn_latency<T: 'static>(
    name: &'static str,
    task: impl Future<Output = T> + 'static,
) -> Task<T> {
    glommio::spawn_local_into(profile::named(name, task), latency_queue())
        .expect("the queue was just made or found")
}

/// Runs `job` on the shard's helper thread, which has no core of its own to keep: for work that takes long
/// and cannot be cut into pieces.
pub async fn run_aside<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(job).await
}

/// Gives back the memory that this shard and its helpers have freed and keep; see [`allocator::give_back`]. For the end
/// of what took much of it and is rare.
pub async fn give_back() {
    allocator::give_back();
    let aside = || {
        run_aside(|| {
            allocator::give_back();
            // A helper that were done could take the job of the other one.
            std::thread::sleep(Duration::from_millis(1));
        })
    };
    const { assert!(HELPERS == 2) };
    futures_lite::future::zip(aside(), aside()).await;
}

/// Lets everything else that can run on this shard run once, and sockets and timers be looked at.
pub async fn yield_now() {
    let _awaited = AwaitedTurn::new();
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        count_turn();
        TURN.with_borrow_mut(|turn| {
            let executor = glommio::executor().id();
            if turn.as_ref().is_none_or(|t| t.executor != executor) {
                *turn = Some(Turn::new(executor));
            }
            if let Some(turn) = turn {
                // Never ready: the other end does not connect.
                let _ = turn.connecting.as_mut().poll(cx);
            }
        });
        Poll::Pending
    })
    .await
}

/// A task that waits for a turn of the executor, as long as it does.
struct AwaitedTurn;

impl AwaitedTurn {
    fn new() -> AwaitedTurn {
        AWAITED_TURNS.set(AWAITED_TURNS.get() + 1);
        AwaitedTurn
    }
}

impl Drop for AwaitedTurn {
    fn drop(&mut self) {
        AWAITED_TURNS.set(AWAITED_TURNS.get() - 1);
    }
}

/// Whether a task waits for a turn ([`yield_now`]).
pub(super) fn is_turn_awaited() -> bool {
    AWAITED_TURNS.get() > 0
}

/// Turns of tasks on this thread so far: of those made with [`super::profile::named`].
pub(super) fn task_turns() -> u64 {
    TASK_TURNS.get()
}

/// Counts one.
pub(super) fn count_task_turn() {
    TASK_TURNS.set(TASK_TURNS.get() + 1);
}

/// The hook for the next turn of an executor: whoever waits for a shared channel's other end to
/// connect is woken by glommio at each turn, to look again. This one never connects.
struct Turn {
    executor: usize,
    connecting: Pin<Box<dyn Future<Output = ()>>>,
    _never_connected: SharedReceiver<()>,
}

impl Turn {
    fn new(executor: usize) -> Turn {
        let (sender, receiver) = new_bounded(1);
        Turn {
            executor,
            connecting: Box::pin(async move {
                sender.connect().await;
            }),
            _never_connected: receiver,
        }
    }
}

/// Tells the watchdog that this shard does something. To be called where work begins.
pub fn count_turn() {
    let heart = HEART.take();
    if let Some(heart) = &heart {
        // The only writer is this thread.
        let turns = heart.turns.load(Ordering::Relaxed);
        heart.turns.store(turns + 1, Ordering::Relaxed);
    }
    HEART.set(heart);
}

/// How often this shard felt the watchdog's poke.
pub fn watchdog_pokes() -> u64 {
    let heart = HEART.take();
    let pokes = heart
        .as_ref()
        .map_or(0, |h| h.pokes.load(Ordering::Relaxed));
    HEART.set(heart);
    pokes
}

struct Heart {
    turns: AtomicU64,
    /// How often the watchdog's poke was felt.
    pokes: AtomicU64,
    bell: Bell,
}

impl Heart {
    fn new() -> Heart {
        Heart {
            turns: AtomicU64::new(0),
            pokes: AtomicU64::new(0),
            bell: Bell::new(),
        }
    }
}

/// Runs on the shard: a poke is an event from outside, and that is all it takes.
async fn beat(heart: Arc<Heart>) {
    let mut first = true;
    poll_fn(|cx| {
        if !std::mem::replace(&mut first, false) {
            heart.pokes.fetch_add(1, Ordering::Relaxed);
            #[cfg(test)]
            tests::STRANDED
                .take()
                .into_iter()
                .for_each(std::task::Waker::wake);
        }
        heart.bell.arm(cx.waker());
        Poll::<()>::Pending
    })
    .await
}

/// The thread that watches. Ends when dropped.
struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    fn start(hearts: Vec<Arc<Heart>>) -> Watchdog {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || {
                let mut watched: Vec<Watched> = hearts.into_iter().map(Watched::new).collect();
                while !stopped.load(Ordering::Relaxed) {
                    // Without activity there is nothing to find: look less often.
                    let idle = watched.iter().all(Watched::is_idle);
                    std::thread::park_timeout(if idle { 4 * LOOK_EVERY } else { LOOK_EVERY });
                    watched.iter_mut().for_each(Watched::look);
                }
            })
            .expect("a thread can be started");
        Watchdog {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Watched {
    heart: Arc<Heart>,
    turns: u64,
    /// Looks since the shard moved.
    still: u32,
}

impl Watched {
    fn new(heart: Arc<Heart>) -> Watched {
        Watched {
            heart,
            turns: 0,
            still: u32::MAX,
        }
    }

    fn is_idle(&self) -> bool {
        self.still > POKE_AT[POKE_AT.len() - 1]
    }

    fn look(&mut self) {
        let turns = self.heart.turns.load(Ordering::Relaxed);
        if turns != self.turns {
            self.turns = turns;
            self.still = 0;
            return;
        }
        self.still = self.still.saturating_add(1);
        if POKE_AT.contains(&self.still) {
            self.heart.bell.ring();
        }
    }
}

/// A shard whose task panicked must not limp on: the partitions it owned would be gone.
fn stop_the_process_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = Mutex::new(std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            if let Ok(hook) = before.lock() {
                hook(info);
            }
            if IS_SHARD.get() {
                eprintln!("a shard panicked: the process stops");
                std::process::abort();
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::task::Waker;

    thread_local! {
        /// Woken when the watchdog's poke is felt.
        pub(super) static STRANDED: Cell<Option<Waker>> = const { Cell::new(None) };
    }

    #[test]
    fn a_task_that_yields_all_the_time_does_not_hold_up_timers() {
        LocalExecutorBuilder::default().make().unwrap().run(async {
            let done = Rc::new(Cell::new(false));
            let told = done.clone();
            let turns = spawn("turns", async move {
                let mut turns = 0u64;
                while !told.get() {
                    yield_now().await;
                    turns += 1;
                }
                turns
            });
            let start = Instant::now();
            for _ in 0..20 {
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
            done.set(true);
            // With glommio's own yield each sleep lasts until the preemption timer: 2 s.
            let elapsed = start.elapsed();
            assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
            assert!(turns.await > 20);
        });
    }

    #[test]
    fn a_short_job_of_a_helper_does_not_wait_for_a_long_one() {
        let run = async |_, ()| {
            let (end, ended) = std::sync::mpsc::channel();
            let wait = move || ended.recv_timeout(Duration::from_secs(20)).is_ok();
            let long = spawn("long job", run_aside(wait));
            glommio::executor().yield_task_queue_now().await;
            run_aside(|| ()).await;
            let _ = end.send(());
            long.await
        };
        let shards = spawn_shards(&[0], vec![()], &ShardOptions::default(), run);
        assert_eq!(shards.unwrap().join().unwrap(), [true]);
    }

    #[test]
    fn there_may_be_more_shards_than_cores() {
        let shards = spawn_shards(
            &[0],
            vec!["a", "b", "c"],
            &ShardOptions::default(),
            |shard, input| async move {
                yield_now().await;
                format!("{input}{shard}")
            },
        );
        assert_eq!(shards.unwrap().join().unwrap(), ["a0", "b1", "c2"]);
    }

    #[test]
    fn a_shard_that_stands_still_after_work_is_poked_until_it_moves() {
        let heart = Arc::new(Heart::new());
        let rung = Arc::new(Count(AtomicU64::new(0)));
        let waker = std::task::Waker::from(rung.clone());
        let mut watched = Watched::new(heart.clone());
        heart.bell.arm(&waker);
        watched.look();
        assert_eq!(rung.0.load(Ordering::Relaxed), 0, "it never worked");
        heart.turns.store(1, Ordering::Relaxed);
        let mut pokes = Vec::new();
        for _ in 0..10 {
            heart.bell.arm(&waker);
            watched.look();
            pokes.push(rung.0.load(Ordering::Relaxed));
        }
        assert_eq!(pokes, [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]);
        assert!(!watched.is_idle());
        for _ in 0..100 {
            heart.bell.arm(&waker);
            watched.look();
        }
        assert_eq!(
            rung.0.load(Ordering::Relaxed),
            7,
            "idle shards are left alone"
        );
        assert!(watched.is_idle());
    }

    struct Count(AtomicU64);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The hazard itself cannot be made at will; this is its end: the shard sleeps in the kernel with
    /// nothing to wake it, and the poke of the watchdog runs it through a turn.
    #[test]
    fn a_sleeping_shard_that_has_worked_runs_when_the_watchdog_pokes_it() {
        let shards = spawn_shards(&[0], vec![()], &ShardOptions::default(), |_, ()| async {
            count_turn();
            let mut first = true;
            poll_fn(|cx| {
                if !std::mem::replace(&mut first, false) {
                    return Poll::Ready(());
                }
                STRANDED.set(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await
        });
        shards.unwrap().join().unwrap();
    }
}
