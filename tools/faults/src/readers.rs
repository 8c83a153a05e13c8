//! Who reads and searches a log beside all that is done to it.
//!
//! A read may return what is cut off while it runs. One that begins when the truncation has returned must not.

use std::collections::BTreeMap;

use futures_lite::future::yield_now;
use ringspun::base::{Offset, Timestamp};
use ringspun::records::Scratch;
use ringspun::storage::{LogError, TimestampOffset};

use crate::beside::{Cut, Shared};
use crate::check::{ensure, served};
use crate::history::{Batch, Fate, History};
use crate::reading::{Found, parse};
use crate::world::Stop;

/// When a call to the log began.
#[derive(Clone, Copy)]
struct Moment {
    /// Truncations that had returned by then.
    ended: usize,
    log_end: i64,
}

/// What had been acknowledged to be there when a reader began.
#[derive(Clone, Copy)]
struct Owed {
    since: Moment,
    /// All below.
    acknowledged: i64,
}

impl Shared<'_> {
    fn moment(&self) -> Moment {
        Moment {
            ended: self.cuts.borrow().iter().filter(|c| c.has_ended).count(),
            log_end: self.log.log_end_offset().0,
        }
    }

    fn was_cut_since(&self, moment: Moment) -> bool {
        self.cuts.borrow().len() > moment.ended
    }

    /// Reads all there is, and then holds it against what had been acknowledged before.
    pub async fn look(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..4) {
            let max_bytes = rng.u32(1..2000);
            let owed = Owed {
                since: self.moment(),
                acknowledged: self.world.borrow().sides[self.i].history.end,
            };
            let mut found: Vec<Found> = Vec::new();
            let mut next = self.log.log_start_offset();
            let mut first = next;
            let mut is_whole = true;
            loop {
                let end = self.log.log_end_offset();
                if next >= end {
                    break;
                }
                let upper = match rng.u8(0..3) {
                    0 => self.boundary(next, &mut rng).unwrap_or(end),
                    _ => end,
                };
                let moment = self.moment();
                let read = self.log.read(next, max_bytes, upper, true).await;
                let out = match read {
                    Err(LogError::OffsetOutOfRange { .. })
                        if next < self.log.log_start_offset() =>
                    {
                        found.clear();
                        next = self.log.log_start_offset();
                        first = next;
                        continue;
                    }
                    Err(LogError::OffsetOutOfRange { .. }) if self.was_cut_since(owed.since) => {
                        break;
                    }
                    read => match self.settle(read)? {
                        Some(out) => out,
                        None => return Ok(()),
                    },
                };
                let Some(slice) = &out.slice else {
                    is_whole = upper >= end;
                    break;
                };
                let read = parse(slice).map_err(|error| {
                    Stop::Bug(format!("read of {max_bytes} at {next}: {error}"))
                })?;
                self.were_there(&read, moment, upper.0).map_err(|what| {
                    Stop::Bug(format!("{what}, read of {max_bytes} at {next} to {upper}"))
                })?;
                found.extend(read);
                if out.next_offset <= next {
                    let what = format!("a read at {next} goes on at {}", out.next_offset);
                    return Err(Stop::Bug(what));
                }
                next = out.next_offset;
            }
            let owed = Owed {
                acknowledged: match is_whole {
                    true => owed.acknowledged,
                    false => owed.acknowledged.min(next.0),
                },
                ..owed
            };
            self.hold(&found, first.0, owed)
                .map_err(|what| Stop::Bug(format!("{what}, read from {first} to {next}")))?;
            yield_now().await;
        }
        Ok(())
    }

    /// Where a batch behind `from` begins.
    fn boundary(&self, from: Offset, rng: &mut fastrand::Rng) -> Option<Offset> {
        let world = self.world.borrow();
        let batches = &world.sides[self.i].history.batches;
        let at = batches.partition_point(|b| b.base() <= from.0);
        match at < batches.len() {
            true => Some(Offset(batches[rng.usize(at..batches.len())].base())),
            false => None,
        }
    }

    /// Whether a read that began at that `moment` may return this.
    fn were_there(&self, read: &[Found], moment: Moment, upper: i64) -> Result<(), String> {
        let world = self.world.borrow();
        let history = &world.sides[self.i].history;
        let cuts = self.cuts.borrow();
        let candidates = may_be_there(history, &cuts, moment);
        served(read, upper, history, candidates)
    }

    /// Whether the batches that were found from `first` on are all that a reader is `owed`.
    fn hold(&self, found: &[Found], first: i64, owed: Owed) -> Result<(), String> {
        let world = self.world.borrow();
        let history = &world.sides[self.i].history;
        let cuts = self.cuts.borrow();
        let since = &cuts[owed.since.ended..];
        if since.is_empty() {
            let candidates = may_be_there(history, &cuts, owed.since);
            served(found, self.log.log_end_offset().0, history, candidates)?;
        }
        let lowest = since.iter().map(|cut| cut.to).min();
        let acknowledged = owed.acknowledged.min(lowest.unwrap_or(i64::MAX));
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

    pub async fn search(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        let mut scratch = Scratch::new();
        for _ in 0..rng.u8(1..4) {
            let wanted = self.now().0 - rng.i64(0..2000);
            let moment = self.moment();
            let found = self
                .log
                .offset_for_timestamp(Timestamp(wanted), &mut scratch)
                .await;
            let Some(found) = self.settle(found)? else {
                return Ok(());
            };
            self.is_of_the_log(found, moment)?;
            if let Some(found) = found.filter(|found| found.timestamp.0 < wanted) {
                return Err(Stop::Bug(format!(
                    "timestamp {wanted} is found at {found:?}"
                )));
            }
            let moment = self.moment();
            let largest = self.log.max_timestamp(&mut scratch).await;
            let Some(largest) = self.settle(largest)? else {
                return Ok(());
            };
            self.is_of_the_log(largest, moment)?;
            let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
            let aborted = self.log.aborted_transactions(start, end).await;
            if self.settle(aborted)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there is a record where a search that began at that `moment` found one.
    fn is_of_the_log(&self, found: Option<TimestampOffset>, moment: Moment) -> Result<(), Stop> {
        let Some(found) = found else {
            return Ok(());
        };
        let world = self.world.borrow();
        let cuts = self.cuts.borrow();
        let mut candidates = may_be_there(&world.sides[self.i].history, &cuts, moment);
        let is_it = |batch: &Batch| {
            let holds = batch.base() <= found.offset.0 && found.offset.0 <= batch.last();
            holds && batch.header.partition_leader_epoch == found.leader_epoch
        };
        match candidates.any(is_it) {
            true => Ok(()),
            false => Err(Stop::Bug(format!(
                "{found:?} is found in a log that ended at {}",
                moment.log_end
            ))),
        }
    }
}

/// What a call that began at that `moment` may find: what is there now, and what was cut off since.
fn may_be_there<'a>(
    history: &'a History,
    cuts: &'a [Cut],
    moment: Moment,
) -> impl Iterator<Item = &'a Batch> {
    let cut = cuts[moment.ended..].iter().flat_map(|cut| &cut.batches);
    let there = history.batches.iter().filter(|b| !b.is_gone);
    there.chain(&history.maybe).chain(cut)
}
