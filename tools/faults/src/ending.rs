//! The log is cut, and stopped in order, beside all that is done to it.

use std::path::Path;

use futures_lite::future::yield_now;
use ringspun::base::Offset;
use ringspun::storage::checkpoint::LOG_START_OFFSET_CHECKPOINT;
use ringspun::storage::{LogError, log_dir};

use crate::beside::{Cut, Shared};
use crate::switch::Switch;
use crate::world::{CHECKPOINTS, DATA, Stop};

impl Shared<'_> {
    /// Cuts the log, as a replica does that finds that another leads, or led: the recovery point is lowered, on the
    /// device, too, before. Nobody stages batches meanwhile; all else goes on.
    pub async fn truncate(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..4) {
            for _ in 0..rng.u16(0..150) {
                yield_now().await;
            }
            if self.is_ending.get() || self.log.failure().is_some() {
                return Ok(());
            }
            let empties = rng.u8(0..3) == 0;
            let (step, to) = {
                let mut world = self.world.borrow_mut();
                match empties {
                    true => {
                        let at = world.new_start(self.i);
                        (Switch::EmptiedCheckpoint, Some(at))
                    }
                    false => (Switch::LoweredCheckpoint, world.cut_point(self.i)),
                }
            };
            let Some(to) = to else { continue };
            self.is_cutting.set(true);
            let lowered = self.log.lower_recovery_point(Offset(to));
            self.tell(|_| format!("is to be cut to {to}, or emptied: {empties}"));
            let is_left_out = self.world.borrow().leaves_out(step);
            if !is_left_out && !self.write_checkpoints().await? {
                self.is_cutting.set(false);
                return Ok(());
            }
            // Nobody cuts what a cleaning has relied upon meanwhile, nor a log that is being closed.
            let decided = self.world.borrow().sides[self.i].history.decided_limit;
            if to < decided && !empties || self.is_ending.get() {
                self.is_cutting.set(false);
                continue;
            }
            self.begin_cut(to, empties);
            let now = self.now();
            let truncated = match empties {
                true => self.log.truncate_fully_and_start_at(lowered, now).await,
                false => self.log.truncate_to(lowered, now).await,
            };
            if self.settle(truncated)?.is_none() {
                self.is_left.set(true);
                return match self.log.failure().is_none() && !self.is_ending.get() {
                    true => Err(Stop::Bug("a log that is cut by half is not offline".into())),
                    false => Ok(()),
                };
            }
            self.end_cut(to, empties)?;
            let floor = self.world.borrow().sides[self.i].history.start_floor;
            if self.log.log_start_offset().0 < floor && !self.write_checkpoints().await? {
                self.is_left.set(true);
                return Ok(());
            }
            self.is_cutting.set(false);
        }
        Ok(())
    }

    fn begin_cut(&self, to: i64, empties: bool) {
        let mut world = self.world.borrow_mut();
        world.tell(|world| format!("{}: truncate to {to}", world.sides[self.i].topic));
        world.leader_epoch += 1;
        let history = &mut world.sides[self.i].history;
        let batches = match empties {
            true => history.begin_emptying(to),
            false => history.begin_truncation(to),
        };
        self.cuts.borrow_mut().push(Cut {
            // A batch across the cut goes as a whole.
            to: if empties { i64::MIN } else { history.end },
            batches,
            has_ended: false,
        });
    }

    fn end_cut(&self, to: i64, empties: bool) -> Result<(), Stop> {
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        let mut world = self.world.borrow_mut();
        world.tell(|_| format!("truncated to {to}: {start} to {end}"));
        let history = &mut world.sides[self.i].history;
        if end.0 > to || end.0 < history.end || start > end || empties && start.0 != to {
            return Err(Stop::Bug(format!(
                "truncated to {to}, goes from {start} to {end}"
            )));
        }
        match empties {
            true => history.end_emptying(to),
            false => {
                history.end = end.0;
                history.flushed = history.flushed.min(end.0);
                history.is_truncating = false;
                history.start_at(start.0);
            }
        }
        for cut in self.cuts.borrow_mut().iter_mut() {
            cut.has_ended = true;
        }
        Ok(())
    }

    /// Writes the checkpoints of the data directory, one call at a time: the values are those of one moment, and are
    /// on the device at a later one. False if a fault kept it from that.
    pub async fn write_checkpoints(&self) -> Result<bool, Stop> {
        while self.is_checkpointing.replace(true) {
            yield_now().await;
        }
        let written = self.write_each_checkpoint().await;
        self.is_checkpointing.set(false);
        written
    }

    async fn write_each_checkpoint(&self) -> Result<bool, Stop> {
        for (name, value) in CHECKPOINTS {
            let (disk, entries) = {
                let world = self.world.borrow();
                (world.disk.clone(), world.entries(value))
            };
            let written: Result<(), LogError> =
                log_dir::write_offsets(&disk, Path::new(DATA), name, entries.clone()).await;
            if self.settle(written)?.is_none() {
                return Ok(false);
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
        Ok(true)
    }

    /// Stops the process in order: nothing is staged from here on, all is written and flushed, and who is at something
    /// gets as far as it gets.
    pub async fn stop(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u16(0..200) {
            yield_now().await;
        }
        self.is_ending.set(true);
        self.tell(|_| "stop".into());
        let mut is_clean = true;
        let order = [self.i, 1 - self.i];
        for i in order {
            let log = self.world.borrow().sides[i].log();
            if log.failure().is_some() {
                is_clean = false;
                continue;
            }
            let closed = log.close(self.now()).await;
            self.tell(|world| format!("{}: closed {closed:?}", world.sides[i].topic));
            match self.settle(closed)? {
                Some(()) => {
                    let mut world = self.world.borrow_mut();
                    let history = &mut world.sides[i].history;
                    history.acknowledge();
                    history.flushed_to(i64::MAX, true);
                    history.start_at(log.log_start_offset().0);
                }
                None => is_clean = false,
            }
        }
        is_clean &= self.write_checkpoints().await?;
        if is_clean {
            let disk = self.world.borrow().disk.clone();
            let mark = log_dir::write_clean_shutdown_mark(&disk, Path::new(DATA), -1).await;
            self.settle(mark)?;
        }
        self.has_stopped.set(true);
        Ok(())
    }
}
