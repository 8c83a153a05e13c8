//! What the process is asked for: one thing after the other, chosen by the seed.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use ringspun::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};
use ringspun::records::control::{EndTxnMarker, TxnOutcome};
use ringspun::records::{BatchBuilder, BatchHeader, Compression, CompressionType};
use ringspun::storage::cleaner::{Cleaner, Limits, Pace};
use ringspun::storage::memory::{Call, Crash, Fault};
use ringspun::storage::{AppendError, AppendOrigin, Staged};

use crate::check::check;
use crate::history::{After, Batch, Fate, Record};
use crate::reading::read;
use crate::switch::{Phase, Switch};
use crate::world::{Stop, World, run};

/// Producers of plain records, and of transactions.
const IDEMPOTENT: [i64; 2] = [1, 2];
const TRANSACTIONAL: [i64; 3] = [11, 12, 13];
const KEYS: u8 = 10;

/// Lets others run at every `every`-th opportunity.
pub struct Halting {
    every: u32,
    count: Cell<u32>,
    /// Whether the pass is to end.
    is_stopped: Rc<Cell<bool>>,
}

impl Halting {
    pub fn every(every: u32) -> Self {
        Self {
            every,
            count: Cell::new(0),
            is_stopped: Rc::default(),
        }
    }

    pub fn until(self, is_stopped: Rc<Cell<bool>>) -> Self {
        Self { is_stopped, ..self }
    }
}

impl Pace for Halting {
    async fn moved(&self, _: usize) {
        self.worked(0).await;
    }

    async fn worked(&self, _: usize) {
        self.count.set(self.count.get() + 1);
        if self.count.get().is_multiple_of(self.every) {
            futures_lite::future::yield_now().await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.get()
    }
}

/// Runs a seed for so many operations.
pub fn play(world: &mut World, operations: u32) -> Result<(), Stop> {
    world.start(After::Running)?;
    for _ in 0..operations {
        let done = world.operation();
        world.disk.clear_fault();
        world.enter(Phase::Other);
        match done {
            Ok(()) => {}
            Err(Stop::Off) => {
                let crash = world.any_crash();
                world.crash(crash)?;
            }
            Err(bug) => return Err(bug),
        }
        world.after_fault()?;
    }
    for i in 0..2 {
        if !world.sides[i].is_offline() {
            world.look(i)?;
        }
    }
    Ok(())
}

impl World {
    fn operation(&mut self) -> Result<(), Stop> {
        self.now += self.rng.i64(0..200);
        self.disk.set_time(Timestamp(self.now));
        let i = usize::from(self.rng.u8(0..4) == 0);
        if self.sides.iter().all(|side| side.is_offline()) || self.rng.u8(0..40) == 0 {
            let crash = self.any_crash();
            return self.crash(crash);
        }
        if self.sides[i].is_offline() {
            return match self.rng.u8(0..4) {
                0 => {
                    let crash = self.any_crash();
                    self.crash(crash)
                }
                _ => self.small(1 - i),
            };
        }
        match self.rng.u8(0..12) {
            // The power goes in the middle of what comes next.
            0 => {
                let at = self.disk.calls(Call::Any) + self.rng.u64(1..12);
                self.disk.set_fault(Call::Any, at, Fault::PowerOff);
                self.tell(|_| format!("the power goes at {at}"));
            }
            1 if self.rng.bool() => self.set_fault(),
            _ => {}
        }
        match self.rng.u8(0..30) {
            0..7 => self.append(i),
            7 => self.end_txn(i),
            8..11 => self.flush(i, true),
            11 => self.flush(i, false),
            12 if self.rng.u8(0..3) == 0 => self.rest(i),
            12 => self.prepare(i),
            13 => self.flush_beside_an_append(i),
            14 => self.delete_records(i),
            15 => self.retain(i),
            16 => self.checkpoint().map(drop),
            17..20 => self.clean(i),
            20 => self.truncate(i),
            21 => self.look(i),
            22 => self.peek(i),
            23..26 => self.beside(i),
            26 => self.restart(),
            27 => self.empty(i),
            28 => self.rename(i),
            _ => self.delete(i),
        }
    }

    /// What may be asked of a log at any moment.
    fn small(&mut self, i: usize) -> Result<(), Stop> {
        match self.rng.u8(0..6) {
            0..3 => self.append(i),
            3 => self.flush(i, true),
            4 => self.delete_records(i),
            _ => self.retain(i),
        }
    }

    fn set_fault(&mut self) {
        let call = [Call::Any, Call::Write, Call::Sync, Call::Read][self.rng.usize(0..4)];
        let fault = match self.rng.u8(0..3) {
            0 => Fault::Io,
            1 => Fault::DiskFull,
            _ => Fault::Short(self.rng.usize(0..300)),
        };
        let at = self.disk.calls(call) + self.rng.u64(1..6);
        self.tell(|_| format!("{fault:?} at {call:?} {at}"));
        self.disk.set_fault(call, at, fault);
        self.is_faulty = true;
    }

    /// A log that met an error is offline, or it goes on as if nothing were; the other one goes on.
    fn after_fault(&mut self) -> Result<(), Stop> {
        if !std::mem::take(&mut self.is_faulty) {
            return Ok(());
        }
        for i in 0..2 {
            if !self.sides[i].is_offline() {
                self.append(i)?;
                self.look(i)?;
                continue;
            }
            self.tell(|world| format!("{} is offline", world.sides[i].topic));
            let log = self.sides[i].log();
            if run(log.flush()).is_ok()
                || run(log.write_staged(Timestamp(self.now))).is_ok()
                || run(log.read(log.log_start_offset(), 1, log.log_end_offset(), true)).is_ok()
            {
                return Err(Stop::Bug("a log that is offline goes on".into()));
            }
        }
        Ok(())
    }

    fn append(&mut self, i: usize) -> Result<(), Stop> {
        self.stage_some(i)?;
        self.write(i)
    }

    /// Stages a few batches.
    pub fn stage_some(&mut self, i: usize) -> Result<(), Stop> {
        for _ in 0..self.rng.u8(1..4) {
            let count = self.rng.usize(1..4);
            match self.rng.u8(0..8) {
                0..3 => self.stage(i, None, count)?,
                3..6 => {
                    let id = IDEMPOTENT[self.rng.usize(0..2)];
                    self.stage(i, Some(id), count)?;
                }
                _ => {
                    let id = TRANSACTIONAL[self.rng.usize(0..3)];
                    self.stage(i, Some(id), count)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let written = run(log.write_staged(Timestamp(self.now)));
        self.tell_written(i);
        // A fault behind the last write takes nothing back, and is not told.
        let Some(written) = self.settle(written)? else {
            return Ok(());
        };
        let expected = self.sides[i].history.maybe.last().map(Batch::last);
        if expected.is_some_and(|last| written.log_end_offset.0 != last + 1) {
            let what = format!("{} after {expected:?} was written", written.log_end_offset);
            return Err(Stop::Bug(what));
        }
        let side = &mut self.sides[i];
        side.history.acknowledge();
        log.on_high_watermark(side.high_watermark());
        if written.prepare && self.rng.bool() {
            self.prepare(i)?;
        }
        if written.rolled && self.rng.bool() {
            self.flush(i, false)?;
        }
        Ok(())
    }

    pub fn tell_written(&mut self, i: usize) {
        self.tell(|world| {
            let side = &world.sides[i];
            let staged: Vec<_> = side
                .history
                .maybe
                .iter()
                .map(|b| (b.base(), b.last()))
                .collect();
            format!(
                "{}: write {staged:?}, end {}",
                side.topic,
                side.log().log_end_offset()
            )
        });
    }

    /// A batch of `count` records of `producer`, or of nobody.
    fn stage(&mut self, i: usize, producer: Option<i64>, count: usize) -> Result<(), Stop> {
        let is_txn = producer.is_some_and(|id| id > 10);
        let log = self.sides[i].log();
        let mut builder = match self.rng.u8(0..6) {
            0 => BatchBuilder::new(Compression::of(CompressionType::Lz4)),
            _ => BatchBuilder::uncompressed(),
        };
        let mut known = None;
        if let Some(id) = producer {
            let id = ProducerId(id);
            let entry = log.producers().get(id).copied();
            known = entry.and_then(|entry| entry.last_batch().copied());
            // Nobody begins again at sequence 0 without a new epoch: the log may have forgotten what a power cut
            // brings back.
            let history = &self.sides[i].history;
            let all = history.batches.iter().chain(&history.maybe);
            let ever = all.chain(&history.ghosts).map(|b| &b.header);
            let ever = ever.filter(|h| h.producer_id == id);
            let anew = ever.map(|h| h.producer_epoch.0 + 1).max().unwrap_or(0);
            let mut epoch = match entry {
                Some(entry) if known.is_some() || entry.producer_epoch.0 >= anew => {
                    entry.producer_epoch
                }
                _ => ProducerEpoch(anew),
            };
            let last = entry.map_or(-1, |entry| entry.last_sequence());
            let mut sequence = (last + 1) & i32::MAX;
            let is_open = entry.is_some_and(|e| e.current_txn_first_offset.is_some());
            if !is_open && self.rng.u8(0..16) == 0 {
                epoch = ProducerEpoch(epoch.0 + 1);
                sequence = 0;
            }
            builder = builder.producer(id, epoch, sequence);
            if is_txn {
                builder = builder.transactional();
            }
        }
        let mut records = Vec::new();
        let mut noise = self.noise(i);
        for _ in 0..count {
            self.next_value += 1;
            let value = match self.rng.u8(0..5) {
                0 => None,
                _ => Some(self.next_value),
            };
            let record = Record {
                offset: 0,
                key: self.rng.u8(0..KEYS),
                value,
                timestamp: self.now - self.rng.i64(0..50),
            };
            let value = record.value.map(|value| format!("v{value}"));
            builder.append(
                Timestamp(record.timestamp),
                Some(format!("k{}", record.key).as_bytes()),
                value.as_ref().map(String::as_bytes),
                &[(&b"noise"[..], noise.take().as_deref())],
            );
            records.push(record);
        }
        let bytes = builder.build();
        self.place(i, bytes, None, AppendOrigin::Client, records)?;
        // Sent again by a client that has heard nothing.
        let has_epoch = producer.is_some_and(|id| {
            let producers = log.producers();
            let entry = producers.get(ProducerId(id));
            known.is_some() && entry.is_some_and(|entry| entry.batches().len() > 1)
        });
        if has_epoch && self.rng.u8(0..4) == 0 {
            self.send_again(i)?;
        }
        Ok(())
    }

    /// What makes a batch so large that its middle may be torn from both ends, now and then.
    fn noise(&mut self, i: usize) -> Option<Vec<u8>> {
        let room = self.sides[i].settings.segment_bytes.saturating_sub(350);
        match self.rng.u8(0..12) {
            0 => Some(
                (0..self.rng.u32(0..=room))
                    .map(|_| self.rng.u8(..))
                    .collect(),
            ),
            _ => None,
        }
    }

    fn send_again(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let Some(last) = self.sides[i].history.maybe.last().cloned() else {
            return Ok(());
        };
        let mut builder = BatchBuilder::uncompressed().producer(
            last.header.producer_id,
            last.header.producer_epoch,
            last.header.base_sequence,
        );
        if last.header.is_transactional() {
            builder = builder.transactional();
        }
        for _ in &last.records {
            builder.append(Timestamp(self.now), Some(b"k0"), Some(b"v0"), &[]);
        }
        let bytes = BytesMut::from(&builder.build()[..]);
        let header = BatchHeader::parse(&bytes).expect("just built");
        let staged = log.stage(
            bytes,
            &header,
            AppendOrigin::Client,
            None,
            LeaderEpoch(0),
            None,
            Timestamp(self.now),
        );
        match self.settle(staged)? {
            Some(staged) if staged.is_duplicate && staged.base_offset.0 == last.base() => Ok(()),
            None => Ok(()),
            staged => Err(Stop::Bug(format!("sent again: {staged:?} of {last:?}"))),
        }
    }

    fn place(
        &mut self,
        i: usize,
        bytes: Vec<u8>,
        marker: Option<EndTxnMarker>,
        origin: AppendOrigin,
        mut records: Vec<Record>,
    ) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let epoch = LeaderEpoch(self.leader_epoch);
        let bytes = BytesMut::from(&bytes[..]);
        let mut header = BatchHeader::parse(&bytes).expect("just built");
        let now = Timestamp(self.now);
        let staged: Result<Staged, AppendError> =
            log.stage(bytes, &header, origin, marker.as_ref(), epoch, None, now);
        let Some(staged) = self.settle(staged)? else {
            return Ok(());
        };
        header.base_offset = staged.base_offset;
        header.partition_leader_epoch = epoch;
        for (n, record) in records.iter_mut().enumerate() {
            record.offset = staged.base_offset.0 + n as i64;
        }
        self.sides[i].history.maybe.push(Batch {
            header,
            marker,
            records,
            appended_at: self.now,
            fate: Fate::Undecided,
            is_gone: false,
        });
        Ok(())
    }

    fn end_txn(&mut self, i: usize) -> Result<(), Stop> {
        self.stage_end_txn(i)?;
        self.write(i)
    }

    /// Stages markers of some transactions.
    pub fn stage_end_txn(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        for id in TRANSACTIONAL.map(ProducerId) {
            let entry = log.producers().get(id).copied();
            let Some(entry) = entry else { continue };
            let is_open = entry.current_txn_first_offset.is_some();
            if !is_open && self.rng.u8(0..6) > 0 || self.rng.u8(0..4) == 0 {
                continue;
            }
            let marker = EndTxnMarker {
                outcome: match self.rng.bool() {
                    true => TxnOutcome::Commit,
                    false => TxnOutcome::Abort,
                },
                coordinator_epoch: 0,
            };
            // Of the next epoch since transaction version 2 (KIP-890).
            let bump = i16::from(self.rng.bool());
            let epoch = ProducerEpoch(entry.producer_epoch.0 + bump);
            let bytes = BatchBuilder::end_txn(id, epoch, &marker, Timestamp(self.now));
            let origin = AppendOrigin::Coordinator;
            self.place(i, bytes, Some(marker), origin, Vec::new())?;
        }
        Ok(())
    }

    fn flush(&mut self, i: usize, all: bool) -> Result<(), Stop> {
        let phase = self.enter(Phase::Flush);
        let log = self.sides[i].log();
        let flushed = match all {
            true => run(log.flush()),
            false => run(log.flush_closed()),
        };
        self.enter(phase);
        if let Some(flushed) = self.settle(flushed)? {
            self.flushed(i, flushed, all)?;
        }
        Ok(())
    }

    fn flushed(&mut self, i: usize, flushed: Offset, all: bool) -> Result<(), Stop> {
        self.tell(|world| format!("{}: flushed to {flushed}", world.sides[i].topic));
        let side = &mut self.sides[i];
        if flushed.0 > side.history.end {
            return Err(Stop::Bug(format!("flushed to {flushed}, behind the end")));
        }
        side.history.flushed_to(flushed.0, all);
        side.log().on_high_watermark(side.high_watermark());
        Ok(())
    }

    /// A flush covers what was written when it began.
    fn flush_beside_an_append(&mut self, i: usize) -> Result<(), Stop> {
        let phase = self.enter(Phase::Flush);
        let log = self.sides[i].log();
        let end = self.sides[i].history.end;
        self.disk.hold_syncs();
        let mut flush = pin!(log.flush());
        let mut context = Context::from_waker(Waker::noop());
        let mut flushed = None;
        if let Poll::Ready(done) = flush.as_mut().poll(&mut context) {
            flushed = Some(done);
        }
        let appended = match flushed.is_none() && !self.disk.is_off() {
            true => self.append_only(i),
            false => Ok(()),
        };
        if appended.is_ok() && self.rng.u8(0..6) == 0 {
            self.disk.release_syncs();
            let crash = self.any_crash();
            return self.crash(crash);
        }
        self.disk.release_syncs();
        appended?;
        let flushed = flushed.unwrap_or_else(|| run(flush));
        self.enter(phase);
        if let Some(flushed) = self.settle(flushed)? {
            self.flushed(i, flushed.min(Offset(end)), false)?;
        }
        Ok(())
    }

    /// Appends, and does nothing that would wait for a flush.
    fn append_only(&mut self, i: usize) -> Result<(), Stop> {
        self.stage(i, None, 2)?;
        let log = self.sides[i].log();
        let written = run(log.write_staged(Timestamp(self.now)));
        self.tell_written(i);
        if self.settle(written)?.is_some() {
            self.sides[i].history.acknowledge();
        }
        Ok(())
    }

    fn prepare(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let prepared = run(log.prepare());
        self.tell(|world| format!("{}: prepare", world.sides[i].topic));
        self.settle(prepared)?;
        Ok(())
    }

    /// As when it has been silent for long.
    fn rest(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let rested = run(log.rest());
        self.tell(|world| format!("{}: rests", world.sides[i].topic));
        self.settle(rested)?;
        Ok(())
    }

    fn delete_records(&mut self, i: usize) -> Result<(), Stop> {
        let side = &self.sides[i];
        let log = side.log();
        let (start, high_watermark) = (side.history.start, side.high_watermark());
        if high_watermark.0 < start {
            return Ok(());
        }
        let before = start + (high_watermark.0 - start) * self.rng.i64(0..60) / 100;
        let deleted = log.delete_records(Offset(before), high_watermark);
        self.tell(|world| format!("{}: delete records below {before}", world.sides[i].topic));
        if self.settle(deleted)?.is_some() {
            self.sides[i].history.start_at(before);
            self.delete_segments(i)?;
        }
        Ok(())
    }

    fn retain(&mut self, i: usize) -> Result<(), Stop> {
        let log = self.sides[i].log();
        let mut settings = self.sides[i].settings.clone();
        match self.rng.bool() {
            true => settings.retention_bytes = self.rng.i64(400..4000),
            false => settings.retention_ms = self.rng.i64(0..3000),
        }
        log.set_settings(Arc::new(settings));
        let done = self.delete_segments(i);
        log.set_settings(Arc::new(self.sides[i].settings.clone()));
        done
    }

    fn delete_segments(&mut self, i: usize) -> Result<(), Stop> {
        let side = &self.sides[i];
        let log = side.log();
        let high_watermark = side.high_watermark();
        let deleted = run(log.delete_old_segments(Timestamp(self.now), high_watermark));
        // Whatever became of the files, this is what readers are told.
        let start = log.log_start_offset();
        let side = &mut self.sides[i];
        if start > high_watermark.max(Offset(side.history.start)) {
            return Err(Stop::Bug(format!(
                "{start} is the start, above {high_watermark}"
            )));
        }
        if start.0 < side.history.start {
            return Err(Stop::Bug(format!("the start went back to {start}")));
        }
        side.history.start_at(start.0);
        self.tell(|world| format!("{}: starts at {start}", world.sides[i].topic));
        self.settle(deleted)?;
        Ok(())
    }

    /// False if a fault kept it from that.
    fn checkpoint(&mut self) -> Result<bool, Stop> {
        let is_written = self.write_checkpoints()?;
        self.tell(|_| format!("checkpoints: {is_written}"));
        Ok(is_written)
    }

    fn clean(&mut self, i: usize) -> Result<(), Stop> {
        if !self.sides[i].history.is_compacted {
            return self.append(i);
        }
        self.flush(i, false)?;
        let side = &mut self.sides[i];
        let log = side.log();
        if log.failure().is_some() {
            return Ok(());
        }
        let stable = {
            let producers = log.producers();
            producers.last_stable_offset(log.log_start_offset(), side.high_watermark())
        };
        let now = Timestamp(self.now);
        let range = run(log.cleanable(stable, now));
        let Some(range) = self.settle(range)? else {
            return Ok(());
        };
        if range.cleanable_bytes == 0 && self.rng.u8(0..4) > 0 {
            return Ok(());
        }
        let history = &mut self.sides[i].history;
        history.cleaned_limit = history.cleaned_limit.max(range.first_uncleanable.0);
        history.decided_limit = history.end;
        if self.rng.bool() {
            // As if segments had been small before.
            let mut settings = self.sides[i].settings.clone();
            settings.segment_bytes *= 3;
            log.set_settings(Arc::new(settings));
        }
        let limits = Limits {
            map_bytes: (self.rng.u64(3..30) + 1) * 24,
            load_factor: 0.95,
            io_bytes: 4096,
        };
        let pace = Halting::every(self.rng.u32(1..60));
        if !self.is_faulty && self.rng.u8(0..4) == 0 {
            let at = self.disk.calls(Call::Any) + self.rng.u64(1..40);
            self.tell(|_| format!("the power goes at {at}, while cleaning"));
            self.disk.set_fault(Call::Any, at, Fault::PowerOff);
        }
        let is_alone = self.rng.bool();
        let phase = self.enter(Phase::Clean);
        let mut cleaner = Cleaner::default();
        let mut pass = pin!(log.clean(&mut cleaner, limits, &range, now, &pace));
        let mut context = Context::from_waker(Waker::noop());
        let passed = loop {
            match pass.as_mut().poll(&mut context) {
                Poll::Ready(passed) => break passed,
                Poll::Pending if is_alone || self.rng.u8(0..12) > 0 => {}
                Poll::Pending => {
                    self.enter(Phase::Other);
                    let done = match log.failure() {
                        None => self.small(i),
                        Some(_) => Ok(()),
                    };
                    self.enter(Phase::Clean);
                    done?;
                }
            }
        };
        self.enter(phase);
        log.set_settings(Arc::new(self.sides[i].settings.clone()));
        self.tell(|world| format!("{}: clean {range:?}: {passed:?}", world.sides[i].topic));
        match passed {
            Err(ringspun::storage::cleaner::CleanError::Aborted) => Ok(()),
            passed => self.settle(passed).map(|_| ()),
        }
    }

    /// Where a log may be cut: right behind a batch that is there, or somewhere in the next one.
    pub fn cut_point(&mut self, i: usize) -> Option<i64> {
        let history = &self.sides[i].history;
        let least = history.start.max(history.decided_limit);
        let pairs = history.batches.windows(2).filter(|pair| {
            let [before, batch] = pair else { return false };
            let is_there = !history.is_compacted || before.base() >= history.cleaned_limit;
            is_there
                && !before.is_gone
                && before.base() >= least
                && before.last() + 1 == batch.base()
        });
        let next: Vec<(i64, i64)> = pairs.map(|pair| (pair[1].base(), pair[1].last())).collect();
        if next.is_empty() {
            return None;
        }
        // Mostly a little, as a follower does.
        let back = self.rng.usize(0..next.len().min(6));
        let (base, last) = next[next.len() - 1 - back];
        match self.rng.u8(0..4) {
            0 => Some(self.rng.i64(base..=last)),
            _ => Some(base),
        }
    }

    fn truncate(&mut self, i: usize) -> Result<(), Stop> {
        let Some(to) = self.cut_point(i) else {
            return Ok(());
        };
        let log = self.sides[i].log();
        // What is cut is trusted, as it would be by the next start.
        let is_trusted = self.rng.bool();
        if is_trusted {
            self.flush(i, true)?;
            if log.failure().is_some() || !self.checkpoint()? {
                return Ok(());
            }
        }
        let lowered = log.lower_recovery_point(Offset(to));
        self.tell(|world| format!("{}: is to be cut to {to}", world.sides[i].topic));
        if !self.leaves_out(Switch::LoweredCheckpoint) && !self.checkpoint()? {
            return Ok(());
        }
        self.tell(|world| format!("{}: truncate to {to}", world.sides[i].topic));
        self.leader_epoch += 1;
        self.sides[i].history.begin_truncation(to);
        let truncated = run(log.truncate_to(lowered, Timestamp(self.now)));
        if self.settle(truncated)?.is_some() {
            let history = &mut self.sides[i].history;
            let end = log.log_end_offset().0;
            if end > to || end < history.end {
                return Err(Stop::Bug(format!("truncated to {to}, ends at {end}")));
            }
            history.end = end;
            history.is_truncating = false;
            // Where the log begins lower, what is appended would be taken for deleted: nobody goes on without.
            if log.log_start_offset().0 < history.start_floor && !self.checkpoint()? {
                self.disk.clear_fault();
                return self.crash(Crash::Kill);
            }
            if is_trusted && !self.is_faulty && self.rng.bool() {
                for _ in 0..self.rng.u8(1..4) {
                    self.append(i)?;
                }
                let seed = self.rng.u64(..);
                return self.crash(Crash::Power { seed });
            }
        }
        Ok(())
    }

    /// Where a log may begin that is emptied: mostly behind all, as that of a follower whose leader has no more.
    pub fn new_start(&mut self, i: usize) -> i64 {
        let (start, end) = (self.sides[i].history.start, self.sides[i].history.end);
        match self.rng.u8(0..4) {
            0 => self.rng.i64(0..=start),
            1 => self.rng.i64(start..=end),
            _ => end + self.rng.i64(0..10),
        }
    }

    fn empty(&mut self, i: usize) -> Result<(), Stop> {
        let at = self.new_start(i);
        let log = self.sides[i].log();
        let lowered = log.lower_recovery_point(Offset(at));
        self.tell(|world| format!("{}: is to be emptied", world.sides[i].topic));
        if !self.leaves_out(Switch::EmptiedCheckpoint) && !self.checkpoint()? {
            return Ok(());
        }
        self.tell(|world| format!("{}: empty, go on at {at}", world.sides[i].topic));
        self.leader_epoch += 1;
        self.sides[i].history.begin_emptying(at);
        let emptied = run(log.truncate_fully_and_start_at(lowered, Timestamp(self.now)));
        if self.settle(emptied)?.is_some() {
            let (start, end) = (log.log_start_offset().0, log.log_end_offset().0);
            if (start, end) != (at, at) {
                let what = format!("emptied to begin at {at}, goes from {start} to {end}");
                return Err(Stop::Bug(what));
            }
            let history = &mut self.sides[i].history;
            history.end_emptying(at);
            if at < history.start_floor && !self.checkpoint()? {
                self.disk.clear_fault();
                return self.crash(Crash::Kill);
            }
        }
        Ok(())
    }

    /// Holds a log against its history.
    pub fn look(&mut self, i: usize) -> Result<(), Stop> {
        let max_bytes = self.rng.u32(1..2000);
        let side = &mut self.sides[i];
        let log = side.log();
        let name = |what: String| Stop::Bug(format!("{}: {what}", side.topic));
        match check(&log, &mut side.history, After::Running, self.now, max_bytes) {
            Err(_) if self.is_faulty => Ok(()),
            checked => checked.map_err(name),
        }
    }

    /// Reads from somewhere.
    fn peek(&mut self, i: usize) -> Result<(), Stop> {
        let (start, end) = (self.sides[i].history.start, self.sides[i].history.end);
        let from = self.rng.i64(start..=end);
        let log = self.sides[i].log();
        let max_bytes = self.rng.u32(1..1000);
        let found = match read(&log, Offset(from), max_bytes) {
            Err(_) if self.is_faulty => return Ok(()),
            found => found?,
        };
        let history = &self.sides[i].history;
        let first = history.batches.iter().find(|b| b.last() >= from);
        let is_right = match (found.first(), first) {
            (None, None) => true,
            (Some(found), Some(first)) => {
                first.is(&found.header) || history.is_compacted && from < history.cleaned_limit
            }
            (None, Some(first)) => history.is_compacted && first.last() < history.cleaned_limit,
            (Some(_), None) => false,
        };
        if !is_right {
            let what = format!("a read at {from} begins with {:?}", found.first());
            return Err(Stop::Bug(what));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Stop> {
        self.tell(|_| "stop".into());
        self.stop()?;
        self.start_again(After::Running)
    }

    /// Starts what was stopped in order, unless that failed. `after` is how it is held against its history then.
    pub fn start_again(&mut self, after: After) -> Result<(), Stop> {
        if std::mem::take(&mut self.is_faulty) || self.sides.iter().any(|s| s.is_offline()) {
            self.disk.clear_fault();
            return self.crash(Crash::Kill);
        }
        self.leader_epoch += 1;
        match self.rng.u8(0..3) {
            0 => {
                let crash = self.any_crash();
                self.crash(crash)
            }
            _ => {
                for side in &mut self.sides {
                    side.log = None;
                }
                self.start(after)
            }
        }
    }
}
