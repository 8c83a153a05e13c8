//! Everything that may be done to a log at once, done at once: each call to the disk lets others run before and
//! after what it does.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_lite::future::yield_now;
use ringspun::base::{Offset, Timestamp};
use ringspun::storage::LogError;
use ringspun::storage::cleaner::{CleanError, Cleaner, Limits};
use ringspun::storage::memory::Crash;

use crate::history::{After, Batch};
use crate::switch::Phase;
use crate::workload::Halting;
use crate::world::{Stop, TestLog, World};

type Task<'a> = Pin<Box<dyn Future<Output = Result<(), Stop>> + 'a>>;

/// A truncation, and what it took.
pub struct Cut {
    pub to: i64,
    pub batches: Vec<Batch>,
    /// It has returned.
    pub has_ended: bool,
}

/// What the tasks share. Nobody borrows the world across an await.
pub struct Shared<'a> {
    pub world: RefCell<&'a mut World>,
    /// The log that it is about.
    pub i: usize,
    pub log: Rc<TestLog>,
    /// All of them, one after the other.
    pub cuts: RefCell<Vec<Cut>>,
    /// From before a truncation until it is through: nothing is appended.
    pub is_cutting: Cell<bool>,
    pub is_checkpointing: Cell<bool>,
    /// Nobody goes on with a truncation that met a fault.
    pub is_left: Cell<bool>,
    /// The log is being closed.
    pub is_ending: Rc<Cell<bool>>,
    /// The process has come to the end of an orderly stop.
    pub has_stopped: Cell<bool>,
    /// The log was deleted.
    pub is_deleted: Cell<bool>,
}

impl World {
    /// Appends to, reads, flushes, cleans and cuts the log at the same time. Some of the times the process is
    /// killed in the middle.
    pub fn beside(&mut self, i: usize) -> Result<(), Stop> {
        self.enter(Phase::Other);
        let log = self.sides[i].log();
        let mut rng = self.rng.fork();
        let disk = self.disk.clone();
        disk.pause(Some(rng.u64(..)));
        let crash_at = (rng.u8(0..4) == 0).then(|| rng.u32(1..400));
        self.tell(|world| format!("{}: many things at once", world.sides[i].topic));
        let is_compacted = self.sides[i].history.is_compacted;
        let shared = Shared {
            world: RefCell::new(self),
            i,
            log,
            cuts: RefCell::default(),
            is_cutting: Cell::default(),
            is_checkpointing: Cell::default(),
            is_left: Cell::default(),
            is_ending: Rc::default(),
            has_stopped: Cell::default(),
            is_deleted: Cell::default(),
        };
        let mut tasks: Vec<Task<'_>> = vec![
            Box::pin(shared.append(rng.fork())),
            Box::pin(shared.flush(rng.fork())),
            Box::pin(shared.retain(rng.fork())),
            Box::pin(shared.look(rng.fork())),
            Box::pin(shared.look(rng.fork())),
            Box::pin(shared.prepare(rng.fork())),
            Box::pin(shared.search(rng.fork())),
        ];
        if is_compacted {
            tasks.push(Box::pin(shared.clean(rng.fork())));
        }
        if rng.bool() {
            tasks.push(Box::pin(shared.rest(rng.fork())));
            tasks.push(Box::pin(shared.checkpoint(rng.fork())));
        }
        if rng.bool() {
            tasks.push(Box::pin(shared.truncate(rng.fork())));
        }
        if rng.u8(0..4) == 0 {
            tasks.push(Box::pin(shared.rename(rng.fork())));
        }
        match rng.u8(0..12) {
            0..3 => tasks.push(Box::pin(shared.stop(rng.fork()))),
            3 => tasks.push(Box::pin(shared.delete(rng.fork()))),
            _ => {}
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        let mut ended = Ok(());
        let goes_on =
            |polls| !shared.has_stopped.get() && crash_at.is_none_or(|crash_at| polls < crash_at);
        while !tasks.is_empty() && ended.is_ok() && goes_on(polls) {
            polls += 1;
            if polls > 1_000_000 {
                let what = format!(
                    "{} tasks wait for something that does not come",
                    tasks.len()
                );
                return Err(Stop::Bug(what));
            }
            let at = rng.usize(0..tasks.len());
            if let Poll::Ready(done) = tasks[at].as_mut().poll(&mut context) {
                ended = done;
                drop(tasks.swap_remove(at));
            }
        }
        let has_stopped = shared.has_stopped.get();
        let is_deleted = shared.is_deleted.get();
        let is_killed = !tasks.is_empty() && !has_stopped;
        drop(tasks);
        let is_behind = shared.is_cutting.get();
        if !has_stopped {
            // What a reader may have been told.
            shared.starts();
        }
        let Shared { world, log, .. } = shared;
        let world = world.into_inner();
        disk.pause(None);
        log.set_settings(Arc::new(world.sides[i].settings.clone()));
        ended?;
        if disk.is_off() {
            return Err(Stop::Off);
        }
        if has_stopped {
            let after = match world.sides[i].history.is_truncating {
                // Nobody can tell whether it came before the end.
                true => After::Kill,
                false => After::Running,
            };
            return world.start_again(after);
        }
        if is_killed {
            let crash = world.any_crash();
            return world.crash(crash);
        }
        if is_deleted {
            return world.go_on_without(i);
        }
        if is_behind && !world.sides[i].is_offline() {
            // Where the log begins lower, what is appended would be taken for deleted: nobody goes on without.
            disk.clear_fault();
            return world.crash(Crash::Kill);
        }
        match world.sides[i].is_offline() {
            // Of a fault: whoever met it has told.
            true => Ok(()),
            false => world.look(i),
        }
    }
}

impl Shared<'_> {
    /// An error that is to be expected is `None`, and so is that of a log that was closed.
    pub fn settle<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<Option<T>, Stop> {
        match result {
            Err(error)
                if self.is_ending.get() && error.to_string() == LogError::Closed.to_string() =>
            {
                Ok(None)
            }
            result => self.world.borrow().settle(result),
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(self.world.borrow().now)
    }

    fn high_watermark(&self) -> Offset {
        let high_watermark = self.world.borrow().sides[self.i].high_watermark();
        high_watermark.min(self.log.log_end_offset())
    }

    pub fn tell(&self, what: impl FnOnce(&World) -> String) {
        self.world.borrow_mut().tell(what);
    }

    /// Nothing is appended any more.
    fn has_given_up(&self) -> bool {
        let is_left = self.is_cutting.get() && self.is_left.get();
        is_left || self.is_ending.get() || self.log.failure().is_some()
    }

    async fn append(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..12) {
            while self.is_cutting.get() {
                if self.has_given_up() {
                    return Ok(());
                }
                yield_now().await;
            }
            if self.has_given_up() {
                return Ok(());
            }
            {
                let mut world = self.world.borrow_mut();
                match rng.u8(0..4) {
                    0 => world.stage_end_txn(self.i)?,
                    _ => world.stage_some(self.i)?,
                }
            }
            let written = self.log.write_staged(self.now()).await;
            let mut world = self.world.borrow_mut();
            world.tell_written(self.i);
            drop(world);
            if self.settle(written)?.is_some() {
                self.world.borrow_mut().sides[self.i].history.acknowledge();
                self.log.on_high_watermark(self.high_watermark());
            }
        }
        Ok(())
    }

    async fn flush(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..6) {
            let all = rng.bool();
            let flushed = match all {
                true => self.log.flush().await,
                false => self.log.flush_closed().await,
            };
            let Some(flushed) = self.settle(flushed)? else {
                return Ok(());
            };
            let mut world = self.world.borrow_mut();
            world.tell(|_| format!("flushed to {flushed}, {all}"));
            let history = &mut world.sides[self.i].history;
            history.flushed_to(flushed.0, all);
            drop(world);
            self.log.on_high_watermark(self.high_watermark());
        }
        Ok(())
    }

    async fn prepare(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..6) {
            let prepared = self.log.prepare().await;
            if self.settle(prepared)?.is_none() {
                return Ok(());
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn rest(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..4) {
            match rng.bool() {
                true => drop(self.log.close_files().await),
                false => {
                    let rested = self.log.rest().await;
                    if self.settle(rested)?.is_none() {
                        return Ok(());
                    }
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn retain(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(0..3) {
            if rng.bool() {
                let high_watermark = self.high_watermark();
                let start = self.log.log_start_offset();
                let before = start.0 + (high_watermark.0 - start.0).max(0) * rng.i64(0..60) / 100;
                if before <= high_watermark.0 {
                    let deleted = self.log.delete_records(Offset(before), high_watermark);
                    if self.settle(deleted)?.is_none() {
                        return Ok(());
                    }
                    self.starts();
                }
            } else {
                let mut settings = self.world.borrow().sides[self.i].settings.clone();
                match rng.bool() {
                    true => settings.retention_bytes = rng.i64(400..4000),
                    false => settings.retention_ms = rng.i64(0..3000),
                }
                self.log.set_settings(Arc::new(settings));
            }
            let high_watermark = self.high_watermark();
            let deleted = self
                .log
                .delete_old_segments(self.now(), high_watermark)
                .await;
            self.starts();
            if self.settle(deleted)?.is_none() {
                return Ok(());
            }
            yield_now().await;
        }
        Ok(())
    }

    /// The log starts where it says.
    fn starts(&self) {
        let start = self.log.log_start_offset();
        let mut world = self.world.borrow_mut();
        world.tell(|_| format!("starts at {start}"));
        world.sides[self.i].history.start_at(start.0);
    }

    async fn clean(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..4) {
            // What is decided below the high watermark stays so. A log that is cut lower than that, which it is here
            // now and then, is not to be cleaned by what it said before.
            while self.is_cutting.get() && !self.has_given_up() {
                yield_now().await;
            }
            if self.is_cutting.get() {
                return Ok(());
            }
            let now = self.now();
            let stable = {
                let producers = self.log.producers();
                producers.last_stable_offset(self.log.log_start_offset(), self.high_watermark())
            };
            let range = self.log.cleanable(stable, now).await;
            let Some(range) = self.settle(range)? else {
                return Ok(());
            };
            {
                let mut world = self.world.borrow_mut();
                let history = &mut world.sides[self.i].history;
                history.cleaned_limit = history.cleaned_limit.max(range.first_uncleanable.0);
                history.decided_limit = history.decided_limit.max(history.end);
            }
            let limits = Limits {
                map_bytes: (rng.u64(3..30) + 1) * 24,
                load_factor: 0.95,
                io_bytes: 4096,
            };
            let pace = Halting::every(rng.u32(1..20)).until(self.is_ending.clone());
            let mut cleaner = Cleaner::default();
            let passed = self
                .log
                .clean(&mut cleaner, limits, &range, now, &pace)
                .await;
            self.tell(|_| format!("clean {range:?}: {passed:?}"));
            match passed {
                Err(CleanError::Aborted) => {}
                passed => {
                    if self.settle(passed)?.is_none() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn checkpoint(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(0..3) {
            for _ in 0..rng.u8(0..20) {
                yield_now().await;
            }
            if self.is_ending.get() || !self.write_checkpoints().await? {
                return Ok(());
            }
        }
        Ok(())
    }
}
