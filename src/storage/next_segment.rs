//! The next segment of a busy log, made ahead, so that a roll does not wait for files to be made.
//!
//! 1. A write finds that the active segment will be full within [`AHEAD_MS`] at the rate at which it grew:
//!    the next one is wanted.
//! 2. [`Log::prepare`] makes its files in the background and gives the `.log` some room. Its offset is not
//!    known yet, so they have names that end in `.deleted`: this broker and Apache Kafka remove such files
//!    when they open a log, so what a crash leaves of them is gone then, whoever comes.
//! 3. The roll gives them their names, all in one call to the disk.
//!
//! A log that closes, or that falls silent, removes what it has prepared: an idle partition has no such
//! files. Only [`Log::prepare`] makes them, one call at a time, and only in the state `Wanted`; that state
//! is not reached again before a roll that took the last ones has renamed them.

use std::path::PathBuf;

use super::allocation::Reservation;
use super::disk::{Disk, LogFile, OpenMode};
use super::log::Log;
use super::maintenance::wants_fills;
use super::names::{DELETED_SUFFIX, FileKind, file_name};
use super::state::State;
use crate::base::{Offset, Timestamp};

/// How long before its end a segment is to have a successor, at the rate at which it grew.
const AHEAD_MS: u128 = 60_000;
/// A log without a write for so long is idle.
const IDLE_MS: i64 = 60_000;
/// What is allocated for a segment that has not begun, in bytes: room until its first
/// [`Log::prepare`].
const ALLOCATED_BYTES: u32 = 1024 * 1024;

/// In the order of [`Prepared::files`].
const KINDS: [FileKind; 3] = [FileKind::Log, FileKind::Index, FileKind::TimeIndex];

/// How far the next segment is.
#[derive(Debug, Default)]
pub(super) enum Next<F> {
    #[default]
    Unneeded,
    Wanted,
    /// It is being made or put in its place, or it could not be made: the roll makes its own.
    Busy,
    Ready(Box<Prepared<F>>),
}

/// An empty segment without a place.
#[derive(Debug)]
pub(super) struct Prepared<F> {
    /// `.log`, `.index`, `.timeindex`.
    pub(super) files: [F; 3],
    /// Bytes allocated for the `.log`, and those filled with zeros.
    pub(super) allocated: u32,
    pub(super) filled: u32,
    pub(super) reservation: Reservation,
}

impl<F: LogFile> State<F> {
    /// Notes that a successor is wanted, if the active segment will soon be full. Returns whether it is.
    pub(super) fn note_next_wanted(&mut self, segment_bytes: u32, now: Timestamp) -> bool {
        if matches!(self.next, Next::Unneeded)
            && self.head.base_offset == self.active().base_offset
            && is_near_its_end(
                self.active().size,
                segment_bytes,
                now.0.saturating_sub(self.head.created),
            )
        {
            self.next = Next::Wanted;
        }
        matches!(self.next, Next::Wanted)
    }

    /// The prepared segment, for a roll that calls [`next_done`](Self::next_done) in the end.
    pub(super) fn take_next(&mut self) -> Option<Prepared<F>> {
        match &self.next {
            Next::Ready(_) => match std::mem::replace(&mut self.next, Next::Busy) {
                Next::Ready(prepared) => Some(*prepared),
                _ => None,
            },
            _ => None,
        }
    }

    /// What was taken has its place, or is gone.
    pub(super) fn next_done(&mut self) {
        if matches!(self.next, Next::Busy) {
            self.next = Next::Unneeded;
        }
    }
}

/// Whether a segment that took `age_ms` to grow to `size` has its last quarter and less than
/// [`AHEAD_MS`] before it.
fn is_near_its_end(size: u32, segment_bytes: u32, age_ms: i64) -> bool {
    let left = segment_bytes.saturating_sub(size);
    let age_ms = u128::try_from(age_ms).unwrap_or(0);
    left <= segment_bytes / 4 && u128::from(left) * age_ms <= u128::from(size) * AHEAD_MS
}

impl<D: Disk> Log<D> {
    fn next_path(&self, kind: FileKind) -> PathBuf {
        let mut name = file_name(Offset(0), kind);
        if let Some(dot) = name.find('.') {
            name.replace_range(..dot, "next");
        }
        self.dir().join(name + DELETED_SUFFIX)
    }

    /// Makes the next segment if it is wanted. One call at a time.
    pub(super) async fn prepare_next(&self) -> std::io::Result<()> {
        let mut reservation = {
            let mut state = self.state.borrow_mut();
            if !matches!(state.next, Next::Wanted) {
                return Ok(());
            }
            state.next = Next::Busy;
            state.reservation.another()
        };
        let [log, index, time_index] = KINDS.map(|kind| self.next_path(kind));
        let files = [
            self.open_file(&log, FileKind::Log, OpenMode::Truncate)
                .await?,
            self.disk.open(&index, OpenMode::Truncate).await?,
            self.disk.open(&time_index, OpenMode::Truncate).await?,
        ];
        let mut allocated = ALLOCATED_BYTES.min(self.settings().segment_bytes);
        let mut filled = 0;
        if !reservation.set(allocated.into()) {
            allocated = 0;
        } else if wants_fills(&self.state.borrow(), &self.settings()) {
            // Where there is no room for it, what there is has still to be given back one day.
            filled = match files[0].fill(0, allocated.into()).await? {
                true => allocated,
                false => u32::MAX,
            };
        } else if files[0].allocate(0, allocated.into()).await.is_err() {
            reservation.set(0);
            allocated = 0;
        }
        self.state.borrow_mut().next = Next::Ready(Box::new(Prepared {
            files,
            allocated,
            filled,
            reservation,
        }));
        Ok(())
    }

    /// Gives a prepared segment its names.
    pub(super) async fn place_next(&self, base_offset: i64) -> std::io::Result<()> {
        let renames = KINDS
            .iter()
            .map(|&kind| (self.next_path(kind), self.path(base_offset, kind)));
        self.disk.rename_all(renames.collect()).await
    }

    /// Removes what was prepared for a log that has fallen silent, and gives back what its files have in
    /// memory.
    pub(super) async fn drop_next_if_idle(&self, now: Timestamp) {
        let is_silent = |state: &State<D::File>| {
            let silent_ms = now.0.saturating_sub(state.active().last_modified);
            silent_ms >= IDLE_MS
        };
        let is_idle =
            |state: &State<D::File>| matches!(state.next, Next::Ready(_)) && is_silent(state);
        {
            let state = self.state.borrow();
            let open = state.segments.iter().filter_map(|s| s.file());
            if is_silent(&state) {
                open.for_each(LogFile::idle);
            }
        }
        if !is_idle(&self.state.borrow()) {
            return;
        }
        let _gate = self.prepare_gate.enter().await;
        if is_idle(&self.state.borrow()) {
            self.drop_next().await;
        }
    }

    /// Removes what was prepared. What cannot be removed goes when the log is opened. The gate of
    /// preparations is held.
    pub(super) async fn drop_next(&self) {
        let Some(prepared) = self.state.borrow_mut().take_next() else {
            return;
        };
        for kind in KINDS {
            let _ = self.disk.remove_file(&self.next_path(kind)).await;
        }
        self.disk.discard(prepared.files.into()).await;
        self.state.borrow_mut().next_done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_segment_that_fills_soon_has_a_successor() {
        let gib = 1 << 30;
        let minutes = |n: i64| n * 60_000;
        assert!(is_near_its_end(gib / 10 * 9, gib, minutes(1)));
        assert!(!is_near_its_end(gib / 2, gib, minutes(1)));
        // A tenth is left: as long as a ninth of the time until now.
        assert!(is_near_its_end(gib / 10 * 9, gib, minutes(8)));
        assert!(!is_near_its_end(gib / 10 * 9, gib, minutes(10)));
        assert!(is_near_its_end(gib, gib, minutes(1_000_000)));
        assert!(!is_near_its_end(0, gib, 0));
    }
}
