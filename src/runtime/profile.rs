//! The profiler of a shard: what is recorded, and the tasks whose turns are timed.
//!
//! One a thread, reached without an argument, because whoever measures something lies deep below whoever
//! knows the shard. Nothing here is shared: a shard is asked by message, and [`snapshot`] is its answer.
//! On a thread where nobody called [`start`] nothing is recorded and no clock is read.
//!
//! # Turns
//! A task made with [`named`] is timed each time it runs: a turn is from there until it gives the core
//! back. Within a turn each [`stamp`] says what the time since the last one went into; of a turn longer
//! than [`STALL`] the stage with the longest such piece is kept with it. A task that is first run by the
//! one that spawned it is charged for its own time, and that one is not.

use std::cell::{Cell, RefCell};
use std::collections::{BinaryHeap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{clock, executor};
use crate::base::ShardId;
use crate::base::histogram::{Histogram, Recorded};
use crate::base::profile::{
    About, Gauged, Kind, MAX_CLIENT_ID_BYTES, Nanos, ShardProfile, SlowRequest, Stage, Stall,
    TaskTime, Timeline,
};

/// A turn that takes longer is kept, in nanoseconds.
pub const STALL: u64 = 1_000_000;

/// Slowest requests that are told, of the last minute.
pub const SLOWEST: usize = 100;

/// Stalls that are told, of the last hour.
pub const STALLS: usize = 64;

/// Names of tasks that are told apart; there are some twenty.
const TASK_NAMES: usize = 64;

const SECOND: u64 = 1_000_000_000;

thread_local! {
    static TURN: Turn = const { Turn::new() };
    static PROFILER: RefCell<Option<Box<Profiler>>> = const { RefCell::new(None) };
}

/// The turn under way.
struct Turn {
    began: Cell<Nanos>,
    /// The last look at the clock.
    at: Cell<Nanos>,
    /// Time of the tasks that were first run within this turn.
    inner: Cell<u64>,
    /// The longest time between two looks at the clock, and the stage it went into.
    longest: Cell<u64>,
    stage: Cell<Option<Stage>>,
    on: Cell<bool>,
}

impl Turn {
    const fn new() -> Turn {
        Turn {
            began: Cell::new(Nanos(0)),
            at: Cell::new(Nanos(0)),
            inner: Cell::new(0),
            longest: Cell::new(0),
            stage: Cell::new(None),
            on: Cell::new(false),
        }
    }
}

struct Profiler {
    began: Nanos,
    /// By kind, then stage; a stage that a kind has not stays empty, which takes no memory to speak of.
    stages: [[Histogram; Stage::COUNT]; Kind::COUNT],
    totals: [Histogram; Kind::COUNT],
    gauged: [Histogram; Gauged::COUNT],
    tasks: Vec<TaskTime>,
    stalls: Top<Stall>,
    slowest: Top<SlowRequest>,
}

/// Profiles this thread from now on.
pub fn start() {
    let began = clock::now();
    PROFILER.set(Some(Box::new(Profiler {
        began,
        stages: Default::default(),
        totals: Default::default(),
        gauged: Default::default(),
        tasks: Vec::new(),
        stalls: Top::new(300 * SECOND, 12, 16),
        slowest: Top::new(15 * SECOND, 4, SLOWEST),
    })));
    TURN.with(|turn| turn.on.set(true));
}

/// Whether this thread is profiled.
pub fn is_on() -> bool {
    TURN.with(|turn| turn.on.get())
}

pin_project_lite::pin_project! {
    /// A task whose turns are timed. Not an `async fn`: that would hold the task twice.
    struct Timed<F> {
        name: &'static str,
        peer: Option<SocketAddr>,
        // Where its times are kept; found at the first turn.
        index: Option<Option<usize>>,
        #[pin]
        task: F,
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let timed = self.project();
        executor::count_task_turn();
        if !is_on() {
            return timed.task.poll(cx);
        }
        let index = *timed
            .index
            .get_or_insert_with(|| with(|profiler| profiler.task(timed.name)).flatten());
        turn(index, timed.peer.as_ref(), || timed.task.poll(cx))
    }
}

/// A task whose turns are timed under `name`.
pub fn named<T>(name: &'static str, task: impl Future<Output = T>) -> impl Future<Output = T> {
    timed(name, None, task)
}

/// A task that serves the connection to `peer`.
pub fn named_for<T>(
    name: &'static str,
    peer: SocketAddr,
    task: impl Future<Output = T>,
) -> impl Future<Output = T> {
    timed(name, Some(peer), task)
}

fn timed<F: Future>(name: &'static str, peer: Option<SocketAddr>, task: F) -> Timed<F> {
    Timed {
        name,
        peer,
        index: None,
        task,
    }
}

fn turn<T>(
    task: Option<usize>,
    peer: Option<&SocketAddr>,
    run: impl FnOnce() -> Poll<T>,
) -> Poll<T> {
    let began = clock::now();
    let outer = TURN.with(|turn| {
        let outer = (
            turn.began.replace(began),
            turn.inner.replace(0),
            turn.longest.replace(0),
            turn.stage.replace(None),
        );
        turn.at.set(began);
        outer
    });
    let done = run();
    let ended = clock::now();
    let took = ended.since(began);
    let (own, stage) = TURN.with(|turn| {
        let (outer_began, outer_inner, outer_longest, outer_stage) = outer;
        let own = took.saturating_sub(turn.inner.replace(outer_inner));
        let last = ended.since(turn.at.get());
        let longest = turn.longest.replace(outer_longest);
        let stage = turn.stage.replace(outer_stage).filter(|_| longest >= last);
        turn.began.set(outer_began);
        if outer_began == Nanos(0) {
            turn.at.set(Nanos(0));
        } else {
            turn.inner.set(outer_inner + took);
            turn.at.set(ended);
        }
        (own, stage)
    });
    with(|profiler| {
        profiler.gauged[Gauged::Turn as usize].record(own);
        let Some(task) = task.and_then(|task| profiler.tasks.get_mut(task)) else {
            return;
        };
        task.turns += 1;
        task.busy += own;
        task.longest = task.longest.max(own);
        if own >= STALL {
            task.stalls += 1;
            let stall = Stall {
                task: task.name,
                at: ended,
                took: own,
                stage,
                peer: peer.copied(),
            };
            profiler.stalls.offer(ended, own, || stall);
        }
    });
    done
}

/// The time now; what this turn did since the last look at the clock was `stage`. 0 if the thread is not
/// profiled.
#[inline]
pub fn stamp(stage: Stage) -> Nanos {
    TURN.with(|turn| {
        if !turn.on.get() {
            return Nanos(0);
        }
        let now = clock::now();
        let took = now.since(turn.at.get());
        // Outside of a turn there is no last look.
        if took > turn.longest.get() && turn.began.get() != Nanos(0) {
            turn.longest.set(took);
            turn.stage.set(Some(stage));
        }
        turn.at.set(now);
        now
    })
}

/// As [`stamp`], but the time on any thread.
#[inline]
pub fn now(stage: Stage) -> Nanos {
    match stamp(stage) {
        Nanos(0) => clock::now(),
        now => now,
    }
}

/// Marks the end of a stage of a request now.
#[inline]
pub fn mark(timeline: &mut Timeline, stage: Stage) -> Nanos {
    if !timeline.is_on() {
        return Nanos(0);
    }
    let now = stamp(stage);
    timeline.mark(stage, now);
    now
}

/// The last look at the clock in this turn, which costs nothing; 0 outside of turns.
#[inline]
pub fn recent() -> Nanos {
    TURN.with(|turn| turn.at.get())
}

/// A task of this thread that was woken at `woken` has its turn now.
pub fn ran(woken: Nanos) {
    let began = TURN.with(|turn| turn.began.get());
    if woken != Nanos(0) && began != Nanos(0) {
        record(Gauged::RunQueue, began.since(woken));
    }
}

/// Lets the thread sleep within a turn of a task, which is not charged for it.
pub(super) fn asleep<T>(sleep: impl FnOnce() -> T) -> T {
    if !is_on() {
        return sleep();
    }
    let began = clock::now();
    let slept = sleep();
    let ended = clock::now();
    TURN.with(|turn| {
        turn.inner.set(turn.inner.get() + ended.since(began));
        turn.at.set(ended);
    });
    slept
}

/// Counts one value.
pub fn record(gauged: Gauged, value: u64) {
    with(|profiler| profiler.gauged[gauged as usize].record(value));
}

/// Times what is waited for.
pub async fn measure<T>(gauged: Gauged, work: impl Future<Output = T>) -> T {
    if !is_on() {
        return work.await;
    }
    let began = clock::now();
    let done = work.await;
    record(gauged, clock::now().since(began));
    done
}

/// As [`measure`], of what does not wait.
pub fn measure_now<T>(gauged: Gauged, work: impl FnOnce() -> T) -> T {
    if !is_on() {
        return work();
    }
    let began = clock::now();
    let done = work();
    record(gauged, clock::now().since(began));
    done
}

/// A request is answered. `slow` is asked for its client id and peer, and for the bytes of request and
/// reply, if it is among the slowest.
pub fn finish<'a>(
    kind: Kind,
    timeline: &Timeline,
    about: &About,
    slow: impl FnOnce() -> (&'a str, SocketAddr, [u64; 2]),
) {
    if !timeline.is_on() {
        return;
    }
    with(|profiler| {
        let stages = &mut profiler.stages[kind as usize];
        for &stage in kind.stages() {
            stages[stage as usize].record(timeline.spent(stage));
        }
        profiler.totals[kind as usize].record(timeline.total());
        let lateness = about.lateness(timeline);
        profiler.slowest.offer(timeline.at(), lateness, || {
            let (client_id, peer, [request_bytes, response_bytes]) = slow();
            let mut end = client_id.len().min(MAX_CLIENT_ID_BYTES);
            while !client_id.is_char_boundary(end) {
                end -= 1;
            }
            SlowRequest {
                kind,
                timeline: *timeline,
                about: *about,
                client_id: client_id[..end].into(),
                peer,
                request_bytes,
                response_bytes,
            }
        });
    });
}

/// All that was recorded on this thread. `None` if it is not profiled.
pub fn snapshot(shard: ShardId) -> Option<Box<ShardProfile>> {
    with(|profiler| {
        let now = clock::now();
        let all = |histograms: &[Histogram]| -> Vec<Recorded> {
            histograms.iter().map(Histogram::recorded).collect()
        };
        Box::new(ShardProfile {
            shard,
            thread: rustix::thread::gettid().as_raw_nonzero().get(),
            now,
            age: now.since(profiler.began),
            on_core: 0,
            waited_for_core: 0,
            stages: profiler.stages.iter().map(|of| all(of)).collect(),
            totals: all(&profiler.totals),
            gauged: all(&profiler.gauged),
            cold_bytes: 0,
            tasks: profiler.tasks.clone(),
            stalls: profiler.stalls.told(now, 3600 * SECOND, STALLS),
            slowest: profiler.slowest.told(now, 60 * SECOND, SLOWEST),
        })
    })
}

fn with<T>(use_it: impl FnOnce(&mut Profiler) -> T) -> Option<T> {
    // Tasks may be dropped while the thread ends.
    let used = PROFILER.try_with(|profiler| profiler.borrow_mut().as_deref_mut().map(use_it));
    used.ok().flatten()
}

impl Profiler {
    /// The place of a name; `None` when there are too many.
    fn task(&mut self, name: &'static str) -> Option<usize> {
        let same = |task: &TaskTime| std::ptr::eq(task.name, name);
        let equal = |task: &TaskTime| task.name == name;
        let found = self.tasks.iter().position(same);
        if let Some(found) = found.or_else(|| self.tasks.iter().position(equal)) {
            return Some(found);
        }
        if self.tasks.len() == TASK_NAMES {
            return None;
        }
        self.tasks.push(TaskTime {
            name,
            turns: 0,
            busy: 0,
            longest: 0,
            stalls: 0,
        });
        Some(self.tasks.len() - 1)
    }
}

/// The highest ranked of the recent past: the first so many of each of some windows of time.
struct Top<T> {
    width: u64,
    /// Windows that are kept beside the one under way.
    past: usize,
    keep: usize,
    /// By the number of the window.
    windows: VecDeque<(u64, BinaryHeap<Ranked<T>>)>,
}

struct Ranked<T> {
    rank: u64,
    at: Nanos,
    value: T,
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    /// The lowest is the heap's first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.rank.cmp(&self.rank)
    }
}

impl<T> Top<T> {
    fn new(width: u64, past: usize, keep: usize) -> Self {
        Top {
            width,
            past,
            keep,
            windows: VecDeque::new(),
        }
    }

    /// Keeps `value` if its rank is high enough.
    #[inline]
    fn offer(&mut self, at: Nanos, rank: u64, value: impl FnOnce() -> T) {
        let number = at.0 / self.width;
        match self.windows.back_mut() {
            Some((last, heap)) if *last >= number => {
                if heap.len() >= self.keep {
                    if heap.peek().is_some_and(|least| least.rank >= rank) {
                        return;
                    }
                    heap.pop();
                }
                let value = value();
                heap.push(Ranked { rank, at, value });
            }
            _ => {
                while self.windows.len() > self.past {
                    self.windows.pop_front();
                }
                let value = value();
                let first = BinaryHeap::from([Ranked { rank, at, value }]);
                self.windows.push_back((number, first));
            }
        }
    }
}

impl<T: Clone> Top<T> {
    /// The highest ranked of the last `age`, at most `keep`, highest first.
    fn told(&self, now: Nanos, age: u64, keep: usize) -> Vec<T> {
        let all = self.windows.iter().flat_map(|(_, heap)| heap);
        let mut recent: Vec<&Ranked<T>> = all.filter(|one| now.since(one.at) <= age).collect();
        recent.sort_by_key(|one| std::cmp::Reverse(one.rank));
        recent.truncate(keep);
        recent.into_iter().map(|one| one.value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, yield_now};

    fn spin(nanos: u64) {
        let began = clock::now();
        while clock::now().since(began) < nanos {}
    }

    fn told() -> ShardProfile {
        *snapshot(ShardId(0)).unwrap()
    }

    fn task<'a>(told: &'a ShardProfile, name: &str) -> &'a TaskTime {
        told.tasks.iter().find(|task| task.name == name).unwrap()
    }

    #[test]
    fn a_stall_is_kept_with_its_task_its_connection_and_the_stage_that_took_longest() {
        start();
        let peer: SocketAddr = "127.0.0.1:7".parse().unwrap();
        block_on(named_for("slow", peer, async {
            spin(100_000);
            stamp(Stage::Decode);
            spin(3 * STALL);
            stamp(Stage::Append);
            yield_now().await;
        }));
        let told = told();
        let stall = told.stalls.first().unwrap();
        assert_eq!((stall.task, stall.peer), ("slow", Some(peer)));
        assert_eq!(stall.stage, Some(Stage::Append));
        assert!(stall.took >= 3 * STALL);
        let task = task(&told, "slow");
        assert!(task.turns == 2 && task.stalls >= 1 && task.longest >= stall.took);
        assert_eq!(told.gauged[Gauged::Turn as usize].count(), 2);
    }

    #[test]
    fn a_stall_without_stages_names_none() {
        start();
        block_on(named("plain", async {
            stamp(Stage::Decode);
            spin(2 * STALL);
        }));
        assert_eq!(told().stalls.first().unwrap().stage, None);
    }

    #[test]
    fn a_task_that_another_runs_first_is_charged_for_its_own_time() {
        start();
        block_on(named("outer", async {
            let inner = named("inner", async { spin(5 * STALL) });
            inner.await;
        }));
        let told = told();
        assert!(task(&told, "inner").busy >= 5 * STALL);
        assert!(task(&told, "outer").busy < task(&told, "inner").busy);
    }

    #[test]
    fn a_thread_that_is_not_profiled_records_nothing() {
        block_on(named("nobody", async {
            assert_eq!(stamp(Stage::Decode), Nanos(0));
            record(Gauged::Fsync, 1);
        }));
        assert!(snapshot(ShardId(0)).is_none());
    }

    #[test]
    fn the_slowest_are_kept_by_what_they_did_not_ask_to_wait_and_are_bounded() {
        start();
        let peer: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let long = "é".repeat(MAX_CLIENT_ID_BYTES);
        let now = clock::now();
        for n in 0..1_000u64 {
            let mut timeline = Timeline::begin(now);
            timeline.mark(Stage::Read, Nanos(now.0 + n * 10));
            timeline.mark(Stage::Purgatory, Nanos(now.0 + n * 10 + 10_000_000));
            let about = About {
                may_wait: 10_000_000,
                ..About::default()
            };
            finish(Kind::Fetch, &timeline, &about, || (&long, peer, [n, 2]));
        }
        let told = told();
        assert_eq!(told.slowest.len(), SLOWEST);
        let ranks: Vec<u64> = told.slowest.iter().map(|slow| slow.request_bytes).collect();
        let expected: Vec<u64> = (900..1_000).rev().collect();
        assert_eq!(ranks, expected);
        assert!(told.slowest[0].client_id.len() <= MAX_CLIENT_ID_BYTES);
        let fetches = &told.stages[Kind::Fetch as usize];
        for &stage in Kind::Fetch.stages() {
            assert_eq!(fetches[stage as usize].count(), 1_000, "{stage:?}");
        }
    }

    #[test]
    fn what_is_older_than_the_windows_is_forgotten() {
        let mut top = Top::new(10, 2, 2);
        for at in 0..100u64 {
            top.offer(Nanos(at), at % 7, || at);
        }
        assert!(top.windows.len() <= 3);
        let mut told = top.told(Nanos(99), 20, 10);
        told.sort_unstable();
        assert_eq!(told, [82, 83, 90, 97]);
        assert_eq!(top.told(Nanos(99), 2, 1), [97]);
    }
}
