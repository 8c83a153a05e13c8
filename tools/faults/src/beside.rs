//! Everything that may be done to a log at once, done at once: each call to the disk lets others run before and
//! after what it does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_lite::future::yield_now;
use ringspun::base::{Offset, Timestamp};
use ringspun::records::Scratch;
use ringspun::storage::checkpoint::LOG_START_OFFSET_CHECKPOINT;
use ringspun::storage::cleaner::{CleanError, Cleaner, Limits};
use ringspun::storage::{LogError, log_dir};

use crate::check::{ensure, served};
use crate::history::{After, Fate};
use crate::reading::{Found, parse};
use crate::switch::Phase;
use crate::workload::Halting;
use crate::world::{CHECKPOINTS, DATA, Stop, TestLog, World};

type Task<'a> = Pin<Box<dyn Future<Output = Result<(), Stop>> + 'a>>;

/// What the tasks share. Nobody borrows the world across an await.
struct Shared<'a> {
    world: RefCell<&'a mut World>,
    /// The log that it is about.
    i: usize,
    log: Rc<TestLog>,
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
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        let mut ended = Ok(());
        while !tasks.is_empty() && ended.is_ok() && crash_at.is_none_or(|at| polls < at) {
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
        let is_cut = !tasks.is_empty();
        drop(tasks);
        // What a reader may have been told.
        shared.starts();
        let Shared { world, log, .. } = shared;
        let world = world.into_inner();
        disk.pause(None);
        log.set_settings(Arc::new(world.sides[i].settings.clone()));
        ended?;
        if disk.is_off() {
            return Err(Stop::Off);
        }
        if is_cut {
            let crash = world.any_crash();
            return world.crash(crash);
        }
        match world.sides[i].is_offline() {
            // Of a fault: whoever met it has told.
            true => Ok(()),
            false => world.look(i),
        }
    }
}

impl Shared<'_> {
    fn settle<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<Option<T>, Stop> {
        self.world.borrow().settle(result)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.world.borrow().now)
    }

    fn high_watermark(&self) -> Offset {
        self.world.borrow().sides[self.i].high_watermark()
    }

    fn tell(&self, what: impl FnOnce(&World) -> String) {
        self.world.borrow_mut().tell(what);
    }

    async fn append(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..12) {
            if self.log.failure().is_some() {
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
            if world.settle(written)?.is_some() {
                let side = &mut world.sides[self.i];
                side.history.acknowledge();
                self.log.on_high_watermark(side.high_watermark());
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
            let high_watermark = world.sides[self.i].high_watermark();
            self.log.on_high_watermark(high_watermark);
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
            let pace = Halting::every(rng.u32(1..20));
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

    /// The values are those of one moment, and are on the device at a later one.
    async fn checkpoint(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for (name, value) in CHECKPOINTS {
            for _ in 0..rng.u8(0..6) {
                yield_now().await;
            }
            let (disk, entries) = {
                let world = self.world.borrow();
                (world.disk.clone(), world.entries(value))
            };
            let written: Result<(), LogError> =
                log_dir::write_offsets(&disk, Path::new(DATA), name, entries.clone()).await;
            if self.settle(written)?.is_none() {
                return Ok(());
            }
            if name == LOG_START_OFFSET_CHECKPOINT {
                for side in &mut self.world.borrow_mut().sides {
                    let of = entries.iter().find(|(topic, ..)| *topic == side.topic);
                    if let Some((.., start)) = of {
                        side.history.start_floor = start.0;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads all there is, and then holds it against what had been acknowledged before.
    async fn look(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..4) {
            let max_bytes = rng.u32(1..2000);
            let acknowledged = self.world.borrow().sides[self.i].history.end;
            let mut found: Vec<Found> = Vec::new();
            let mut next = self.log.log_start_offset();
            let mut first = next;
            loop {
                let end = self.log.log_end_offset();
                if next >= end {
                    break;
                }
                let read = self.log.read(next, max_bytes, end, true).await;
                let out = match read {
                    Err(LogError::OffsetOutOfRange { .. })
                        if next < self.log.log_start_offset() =>
                    {
                        found.clear();
                        next = self.log.log_start_offset();
                        first = next;
                        continue;
                    }
                    read => match self.settle(read)? {
                        Some(out) => out,
                        None => return Ok(()),
                    },
                };
                let Some(slice) = &out.slice else { break };
                found.extend(parse(slice).map_err(|error| {
                    Stop::Bug(format!("read of {max_bytes} at {next}: {error}"))
                })?);
                if out.next_offset <= next {
                    let what = format!("a read at {next} goes on at {}", out.next_offset);
                    return Err(Stop::Bug(what));
                }
                next = out.next_offset;
            }
            self.hold(&found, first.0, acknowledged)
                .map_err(|what| Stop::Bug(format!("{what}, read from {first} to {next}")))?;
            yield_now().await;
        }
        Ok(())
    }

    /// Whether the batches that were found from `first` on are all that a reader is owed who began when all below
    /// `acknowledged` was there.
    fn hold(&self, found: &[Found], first: i64, acknowledged: i64) -> Result<(), String> {
        let world = self.world.borrow();
        let history = &world.sides[self.i].history;
        served(found, &self.log, history, After::Kill)?;
        let start = first.max(self.log.log_start_offset().0);
        let superseding = history.superseding();
        let records: BTreeMap<i64, _> = found
            .iter()
            .flat_map(|f| &f.records)
            .map(|r| (r.offset, r))
            .collect();
        let owed = history.batches.iter();
        let owed = owed.filter(|b| b.last() < acknowledged && !b.is_gone);
        for batch in owed {
            for record in batch.records.iter().filter(|r| r.offset >= start) {
                if records.get(&record.offset).is_some_and(|r| *r == record) {
                    continue;
                }
                let offset = record.offset;
                let is_cleaned = history.is_compacted && offset < history.cleaned_limit;
                ensure!(is_cleaned, "the record at offset {offset} is missing");
                let later = superseding.get(&record.key).and_then(|of| of.last());
                let is_superseded = later.is_some_and(|later| *later > offset);
                let has_expired = record.value.is_none()
                    && world.now >= batch.appended_at + history.delete_retention_ms;
                ensure!(
                    is_superseded || has_expired || batch.fate == Fate::Aborted,
                    "the record at offset {offset}, the last of key {}, is missing",
                    record.key
                );
            }
        }
        Ok(())
    }

    async fn search(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        let mut scratch = Scratch::new();
        for _ in 0..rng.u8(1..4) {
            let wanted = self.now().0 - rng.i64(0..2000);
            let found = self
                .log
                .offset_for_timestamp(Timestamp(wanted), &mut scratch)
                .await;
            let Some(found) = self.settle(found)? else {
                return Ok(());
            };
            if let Some(found) = found.filter(|found| found.timestamp.0 < wanted) {
                return Err(Stop::Bug(format!(
                    "timestamp {wanted} is found at {found:?}"
                )));
            }
            let largest = self.log.max_timestamp(&mut scratch).await;
            if self.settle(largest)?.is_none() {
                return Ok(());
            }
            let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
            let aborted = self.log.aborted_transactions(start, end).await;
            if self.settle(aborted)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}
