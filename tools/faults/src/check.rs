//! Holds a log against its history.
//!
//! 1. Every batch that is read is one that was appended there, byte for byte as far as records go; a cleaned one
//!    may lack records. Offsets ascend. Nothing else is served.
//! 2. Every record that was promised is there, unless the cleaner may have taken it: a later one has its key, its
//!    transaction was aborted, or it is a tombstone whose time has passed; and never so that an older record of
//!    the key comes to light, nor a marker whose transaction still has records.
//! 3. Producers, open transactions and the last stable offset are those of a replay of the history; what readers
//!    of committed records see is what was committed.
//! 4. Epochs, timestamps and indexes say of the log what the log says.

use std::collections::{BTreeMap, BTreeSet};

use ringspun::base::{LeaderEpoch, Offset, ProducerId, Timestamp};
use ringspun::records::Scratch;
use ringspun::storage::producer_state::{ProducerEntry, ProducerState};

use crate::history::{After, Batch, Fate, History};
use crate::reading::{Found, read};
use crate::world::{TestLog, run};

type Outcome<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}
pub(crate) use ensure;

/// Holds `log` against `history`, which `after` says what to expect of, and makes the history that of the log
/// as it is now. `now` is the time, `max_bytes` how much is read at once.
pub fn check(
    log: &TestLog,
    history: &mut History,
    after: After,
    now: i64,
    max_bytes: u32,
) -> Outcome {
    bounds(log, history, after)?;
    let found = read(log, log.log_start_offset(), max_bytes)?;
    let end = log.log_end_offset().0;
    served(&found, end, history, history.candidates(after))?;
    promised(&found, log, history, after, now)?;
    if after != After::Running {
        adopt(&found, log, history, after);
    }
    producers(log, history)?;
    committed(&found, log, history)?;
    epochs(&found, log, history)?;
    times(&found, log)?;
    Ok(())
}

fn bounds(log: &TestLog, history: &History, after: After) -> Outcome {
    let (start, end) = (log.log_start_offset().0, log.log_end_offset().0);
    let may_be_emptied = history.is_half_emptied();
    ensure!(
        end >= history.flushed || may_be_emptied,
        "ends at {end}, flushed to {}",
        history.flushed
    );
    match after {
        After::Running => {
            let expected = (history.start, history.end);
            ensure!((start, end) == expected, "{start}..{end}, not {expected:?}");
        }
        After::Kill => ensure!(
            end >= history.end || may_be_emptied,
            "ends at {end}, not {}",
            history.end
        ),
        After::Power => {}
    }
    ensure!(
        start >= history.start_floor,
        "starts at {start}, below the checkpoint's {}",
        history.start_floor
    );
    let told = history.start.max(history.start_floor);
    // Of records that were never flushed, a power cut may take the first ones with the name of their segment and
    // leave those behind: nothing tells that from what retention leaves.
    let was_flushed = after != After::Power || history.flushed > told;
    ensure!(
        start <= told || !was_flushed || may_be_emptied,
        "starts at {start}, behind {told}"
    );
    let most = history.candidates(after).map(|b| b.last() + 1).max();
    let most = most.unwrap_or(0).max(history.end).max(start);
    ensure!(end <= most, "ends at {end}, behind all of {most}");
    Ok(())
}

/// Whether all that was `found`, of a log that ends at `end`, is of `candidates`.
pub fn served<'a>(
    found: &[Found],
    end: i64,
    history: &History,
    candidates: impl Iterator<Item = &'a Batch>,
) -> Outcome {
    let mut by_base: BTreeMap<i64, Vec<&Batch>> = BTreeMap::new();
    for batch in candidates {
        by_base.entry(batch.base()).or_default().push(batch);
    }
    let mut next = i64::MIN;
    for read in found {
        let base = read.header.base_offset.0;
        ensure!(base >= next, "offset {base} comes after {next}");
        next = read.header.next_offset().0;
        let known = by_base.get(&base).map_or(&[][..], Vec::as_slice);
        let is_cleaned = history.is_compacted && base < history.cleaned_limit;
        let is_it = |batch: &&&Batch| {
            batch.is(&read.header)
                && (is_cleaned || read.records.len() == batch.records.len())
                && (read.marker == batch.marker || is_cleaned && read.marker.is_none())
                && read.records.iter().all(|r| batch.records.contains(r))
        };
        ensure!(
            known.iter().find(is_it).is_some(),
            "offset {base} has {read:?}, which nobody appended there; known: {known:?}"
        );
    }
    ensure!(
        next <= end,
        "offset {next} is read of a log that ends at {end}"
    );
    Ok(())
}

/// Whether all that is promised is there.
fn promised(found: &[Found], log: &TestLog, history: &History, after: After, now: i64) -> Outcome {
    let start = log.log_start_offset().0.max(history.start);
    let by_base: BTreeMap<i64, &Found> =
        found.iter().map(|f| (f.header.base_offset.0, f)).collect();
    let superseding = history.superseding();
    let mut expired: Vec<(u8, i64)> = Vec::new();
    for batch in history.batches.iter().filter(|b| b.last() >= start) {
        let is_promised = after != After::Power || batch.last() < history.flushed;
        if !is_promised || batch.is_gone {
            continue;
        }
        let read = by_base.get(&batch.base());
        let is_cleaned = |offset: i64| history.is_compacted && offset < history.cleaned_limit;
        if batch.records.is_empty() {
            let is_there = read.is_some_and(|read| read.marker.is_some());
            ensure!(
                is_there || is_cleaned(batch.base()) && ends_nothing(batch, found, history),
                "the marker at offset {} is lost",
                batch.base()
            );
            continue;
        }
        for record in batch.records.iter().filter(|r| r.offset >= start) {
            if read.is_some_and(|read| read.records.contains(record)) {
                continue;
            }
            let offset = record.offset;
            ensure!(is_cleaned(offset), "the record at offset {offset} is lost");
            let later = superseding
                .get(&record.key)
                .and_then(|of_key| of_key.last());
            let is_superseded = later.is_some_and(|later| *later > offset);
            let has_expired =
                record.value.is_none() && now >= batch.appended_at + history.delete_retention_ms;
            ensure!(
                is_superseded || has_expired || batch.fate == Fate::Aborted,
                "the record at offset {offset}, the last of key {}, was cleaned away; others are {later:?}, cleaned \
                 to {} at most, {:?}",
                record.key,
                history.cleaned_limit,
                history
                    .batches
                    .iter()
                    .map(|b| (b.base(), b.fate, b.is_gone))
                    .collect::<Vec<_>>()
            );
            if !is_superseded && batch.fate == Fate::Visible {
                expired.push((record.key, offset));
            }
        }
    }
    for (key, tombstone) in expired {
        let mut records = found.iter().flat_map(|f| &f.records);
        let old = records.find(|r| r.key == key && r.offset < tombstone && r.offset >= start);
        ensure!(
            old.is_none_or(|old| is_hidden(old.offset, history)),
            "{old:?} came to light when the tombstone at offset {tombstone} went"
        );
    }
    Ok(())
}

fn is_hidden(offset: i64, history: &History) -> bool {
    let mut batches = history.batches.iter();
    let of = batches.find(|b| b.base() <= offset && offset <= b.last());
    of.is_some_and(|b| b.fate != Fate::Visible)
}

/// Whether no record is left of the transaction that `marker` ended.
fn ends_nothing(marker: &Batch, found: &[Found], history: &History) -> bool {
    let producer = marker.header.producer_id;
    let before = history
        .batches
        .iter()
        .filter(|b| b.header.producer_id == producer && b.base() < marker.base());
    let begin = before.filter(|b| b.marker.is_some()).map(Batch::base).max();
    !found.iter().any(|f| {
        let base = f.header.base_offset.0;
        f.header.producer_id == producer
            && f.header.is_transactional()
            && !f.header.is_control()
            && !f.records.is_empty()
            && base < marker.base()
            && begin.is_none_or(|begin| base > begin)
    })
}

/// What recovery has left is the history from now on, and survives a power cut once the checkpoints say so. What a
/// truncation had cut off before the process was killed may come back until something is flushed, as it may without the
/// kill.
fn adopt(found: &[Found], log: &TestLog, history: &mut History, after: After) {
    let (start, end) = (log.log_start_offset().0, log.log_end_offset().0);
    let cleaned = if history.is_compacted {
        history.cleaned_limit
    } else {
        0
    };
    let was_start = history.start;
    let is_emptying = history.is_half_emptied();
    let mut all = std::mem::take(&mut history.batches);
    let acknowledged = all.len();
    all.append(&mut history.maybe);
    // What was cut off last, first: it may stand where something was that was cut off before.
    all.extend(history.ghosts.iter().rev().cloned());
    if after != After::Kill {
        history.ghosts.clear();
    }
    let is_found = |batch: &Batch| {
        let base = Offset(batch.base());
        let at = found.partition_point(|f| f.header.base_offset < base);
        found.get(at).is_some_and(|f| {
            batch.is(&f.header) && f.records.iter().all(|r| batch.records.contains(r))
        })
    };
    let mut kept: Vec<Batch> = Vec::new();
    let (there, others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .enumerate()
        .partition(|(_, batch)| is_found(batch));
    for (i, mut batch) in there.into_iter().chain(others) {
        if batch.last() >= end {
            continue;
        }
        if !is_found(&batch) {
            // Of a log that was being emptied, what was cleaned away is still what its producers wrote.
            let is_acknowledged = i < acknowledged || is_emptying;
            let below = batch.last() < start || batch.last() < cleaned;
            batch.is_gone |= is_acknowledged && !below && batch.last() < was_start;
            if !is_acknowledged || !below && !batch.is_gone {
                continue;
            }
        }
        let is_beside = |k: &Batch| k.last() < batch.base() || batch.last() < k.base();
        if kept.iter().all(is_beside) {
            kept.push(batch);
        }
    }
    kept.sort_by_key(Batch::base);
    history.batches = kept;
    history.start_at(start);
    history.end = end;
    history.flushed = history.flushed.min(end);
    history.is_truncating = false;
    history.is_emptying = false;
    history.cleaned_limit = history.cleaned_limit.min(end);
    history.decide();
}

/// What has to be the same after a restart as before.
fn is_same(
    entry: &ProducerEntry,
    expected: &ProducerEntry,
    start: Offset,
    has_marker: bool,
) -> bool {
    let last = |entry: &ProducerEntry| {
        let last = entry.last_batch();
        last.map(|b| (b.last_sequence, b.last_offset, b.offset_delta))
    };
    // Of one whose last batch lies below the log start the marker may be all that is left.
    let is_below = expected.last_batch().is_some_and(|b| b.last_offset < start);
    entry.producer_epoch == expected.producer_epoch
        && (entry.coordinator_epoch == expected.coordinator_epoch
            || !has_marker && entry.coordinator_epoch == -1)
        && (last(entry) == last(expected) || is_below && last(entry).is_none())
}

fn producers(log: &TestLog, history: &History) -> Outcome {
    let start = log.log_start_offset();
    let replays = [history.producers(true), history.producers(false)];
    let ids: BTreeSet<ProducerId> = replays[0].producers().map(|p| p.producer_id).collect();
    let state = log.producers();
    for id in ids {
        let mut of_producer = history
            .batches
            .iter()
            .filter(|b| b.header.producer_id == id);
        let in_log = |b: &&Batch| b.last() >= start.0 && !b.is_gone;
        let is_in_log = of_producer.any(|b| in_log(&b));
        let of_producer = history
            .batches
            .iter()
            .filter(|b| b.header.producer_id == id);
        let has_marker = of_producer.filter(in_log).any(|b| b.marker.is_some());
        let expected: Vec<_> = replays.iter().filter_map(|r| r.get(id)).collect();
        let Some(entry) = state.get(id) else {
            let is_cleaned =
                history.is_compacted && last_batch_of(history, id) < history.cleaned_limit;
            ensure!(!is_in_log || is_cleaned, "producer {id} is forgotten");
            continue;
        };
        let is_it = |expected: &&ProducerEntry| {
            is_same(entry, expected, start, has_marker) && has_same_txn(entry, expected, start)
        };
        // All that a log knows of one whose records are gone may be a part of them.
        ensure!(
            expected.iter().any(is_it) || !is_in_log,
            "producer {entry:?} is not as after a replay: {expected:?}"
        );
    }
    let known = state
        .producers()
        .find(|p| replays[0].get(p.producer_id).is_none());
    ensure!(known.is_none(), "producer {known:?} never wrote");
    Ok(())
}

fn last_batch_of(history: &History, id: ProducerId) -> i64 {
    let mut batches = history.batches.iter().rev();
    let last = batches.find(|b| b.header.producer_id == id);
    last.map_or(-1, Batch::last)
}

/// A transaction that began below the log start may be known from there on only.
fn has_same_txn(entry: &ProducerEntry, expected: &ProducerEntry, start: Offset) -> bool {
    match (
        entry.current_txn_first_offset,
        expected.current_txn_first_offset,
    ) {
        (Some(is), Some(expected)) => is == expected || expected < start && is >= expected,
        (None, Some(expected)) => expected < start,
        (is, expected) => is == expected,
    }
}

/// What readers of committed records see.
fn committed(found: &[Found], log: &TestLog, history: &History) -> Outcome {
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    let undecided = |state: &ProducerState| state.first_undecided_offset();
    let stable = undecided(&log.producers()).unwrap_or(end).max(start);
    let least = history.first_undecided(i64::MIN).map(|o| o.max(start.0));
    let most = history.first_undecided(start.0);
    ensure!(
        least.is_none_or(|least| stable.0 >= least)
            && (most.is_some() || stable == end || least.is_some()),
        "the last stable offset is {stable}, expected {least:?} or so"
    );
    if let Some(most) = most {
        // All that is known of one that began below the log start may be what came after.
        let most = if most < start.0 { end.0 } else { most };
        ensure!(
            stable.0 <= most,
            "the last stable offset is {stable}, not {most}"
        );
    }
    let aborted = run(log.aborted_transactions(start, stable));
    let aborted = aborted.map_err(|error| format!("aborted transactions: {error}"))?;
    let mut ahead = aborted.clone();
    ahead.sort_by_key(|txn| txn.first_offset);
    let mut active: BTreeMap<ProducerId, Offset> = BTreeMap::new();
    let mut ahead = ahead.into_iter().peekable();
    for read in found.iter().filter(|f| f.header.last_offset() < stable) {
        while let Some(txn) = ahead.next_if(|t| t.first_offset <= read.header.last_offset()) {
            active.insert(txn.producer_id, txn.last_offset);
        }
        let id = read.header.producer_id;
        if read.header.is_control() {
            active.remove(&id);
            continue;
        }
        if !read.header.is_transactional() || read.records.is_empty() {
            continue;
        }
        let base = read.header.base_offset.0;
        let fate = history
            .batches
            .iter()
            .find(|b| b.base() == base)
            .map(|b| b.fate);
        let is_hidden = active.contains_key(&id);
        ensure!(
            fate == Some(if is_hidden {
                Fate::Aborted
            } else {
                Fate::Visible
            }),
            "the batch at offset {base} is {fate:?}, and readers of committed records are told {}; \
             stable {stable}, aborted {aborted:?}, history {:?}",
            if is_hidden {
                "to skip it"
            } else {
                "to read it"
            },
            of_producer(history, id)
        );
    }
    Ok(())
}

fn of_producer(history: &History, id: ProducerId) -> Vec<impl std::fmt::Debug> {
    let batches = history.batches.iter();
    batches
        .filter(|b| b.header.producer_id == id)
        .map(|b| {
            (
                b.base(),
                b.last(),
                b.fate,
                b.marker.as_ref().map(|m| m.outcome),
                b.is_gone,
            )
        })
        .collect()
}

fn epochs(found: &[Found], log: &TestLog, history: &History) -> Outcome {
    for read in found {
        // Epochs below a log start are forgotten, and it may come back lower.
        let offset = read.header.base_offset.max(Offset(history.start_ever));
        if offset > read.header.last_offset() {
            continue;
        }
        let is = log.epoch_for_offset(offset);
        ensure!(
            is == Some(read.header.partition_leader_epoch),
            "offset {offset} is of epoch {}, not {is:?}; end offsets of epochs: {:?}",
            read.header.partition_leader_epoch,
            (0..5)
                .map(|e| log.end_offset_for_epoch(LeaderEpoch(e)))
                .collect::<Vec<_>>()
        );
    }
    let last = found.last().map(|read| &read.header);
    let last = last.filter(|header| header.last_offset().0 >= history.start_ever);
    let least = last.map(|header| header.partition_leader_epoch);
    let latest = log.latest_epoch();
    // One whose batches are gone may be remembered.
    ensure!(
        latest >= least,
        "the latest epoch is {latest:?}, below {least:?}"
    );
    Ok(())
}

fn times(found: &[Found], log: &TestLog) -> Outcome {
    let start = log.log_start_offset().0;
    let mut all: Vec<(i64, i64)> = Vec::new();
    for read in found {
        let header = &read.header;
        if header.is_control() && header.records_count > 0 {
            all.push((header.base_offset.0, header.max_timestamp.0));
        }
        all.extend(read.records.iter().map(|r| (r.offset, r.timestamp)));
    }
    all.retain(|(offset, _)| *offset >= start);
    let mut scratch = Scratch::new();
    for pick in [0, all.len() / 2, all.len().saturating_sub(1)] {
        let Some(&(_, wanted)) = all.get(pick) else {
            continue;
        };
        let expected = all.iter().find(|(_, timestamp)| *timestamp >= wanted);
        let is = run(log.offset_for_timestamp(Timestamp(wanted), &mut scratch));
        let is = is.map_err(|error| format!("timestamp {wanted}: {error}"))?;
        ensure!(
            is.map(|f| (f.offset.0, f.timestamp.0)) == expected.copied(),
            "timestamp {wanted} is found at {is:?}, not at {expected:?}"
        );
    }
    Ok(())
}
