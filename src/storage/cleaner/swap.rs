//! Puts a segment that was written anew into the place of its sources. The steps are in the module's
//! description.

use std::path::PathBuf;
use std::rc::Rc;

use super::CleanError;
use super::range::Source;
use super::staging::{KINDS, Staging, path};
use crate::base::Offset;
use crate::storage::disk::{Disk, LogFile};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::log::{Abandoned, Log};
use crate::storage::names::{FileKind, SWAP_SUFFIX, file_name};
use crate::storage::segment::Segment;
use crate::storage::state::State;

impl<D: Disk> Log<D> {
    /// Replaces `group` by `segment`, whose files are those of `staging`. `Aborted` if the sources are not
    /// what they were when the log had been truncated `truncations` times. No segment that was removed before the one
    /// at `synced_from` comes back.
    pub(super) async fn swap(
        &self,
        group: &[Source],
        (truncations, synced_from): (u64, i64),
        staging: &Staging<D::File>,
        mut segment: Segment<D::File>,
    ) -> Result<(), CleanError> {
        let _gate = self.segments_gate.enter().await;
        let base_offset = segment.base_offset;
        let kinds: Vec<FileKind> = KINDS
            .into_iter()
            .filter(|kind| *kind != FileKind::TxnIndex || segment.has_txn_index)
            .collect();
        {
            let state = self.state.borrow();
            state.check()?;
            if state.truncations != truncations || !are_there(&state, group) {
                return Err(CleanError::Aborted);
            }
        }
        let dir = self.dir();
        if self.first_base_offset() != synced_from {
            // Retention has taken segments meanwhile. Brought back by a power cut, they may have older values of keys
            // whose tombstones go now.
            self.sync_dir(&dir).await?;
        }
        let failed = |operation, error| {
            let failure = Failure::new(operation, &self.path(base_offset, FileKind::Log), error);
            CleanError::Log(LogError::Io(failure))
        };
        for kind in &kinds[..kinds.len() - 1] {
            let from = path(self, base_offset, *kind, staging.generation);
            let to = self.swap_path(base_offset, *kind);
            if let Err(error) = self.disk.rename(&from, &to).await {
                return Err(failed(Operation::Rename, error));
            }
        }
        // From here on a log that is opened has the new segment, or may have it: what goes wrong takes
        // this one offline.
        let abandoned = Abandoned { log: self };
        let from = path(self, base_offset, FileKind::Log, staging.generation);
        let to = self.swap_path(base_offset, FileKind::Log);
        if let Err(error) = self.disk.rename(&from, &to).await {
            return Err(self.fail(Operation::Rename, &from, error).into());
        }
        self.sync_dir(&dir).await?;
        let removed = {
            let mut state = self.state.borrow_mut();
            state.check()?;
            segment.held_mut().swapped = Some(Rc::from(&*staging.transactions));
            state.replace(group, segment)
        };
        let mut files: Vec<D::File> = Vec::new();
        for mut old in removed {
            files.extend(old.take_file());
            let of_new = old.base_offset == base_offset;
            let kinds: &[FileKind] = match of_new {
                true => &[FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex],
                false => &super::super::retention::FILES,
            };
            for kind in kinds {
                let path = self.path(old.base_offset, *kind);
                match self.disk.remove_file(&path).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(self.fail(Operation::Remove, &path, error).into());
                    }
                    _ => {}
                }
            }
        }
        // The new segment must not be there under its name together with what it replaces.
        self.sync_dir(&dir).await?;
        // The `.log` first: an index without it is made anew, one that is of another is not noticed.
        let renames = kinds.iter().rev().map(|kind| {
            (
                self.swap_path(base_offset, *kind),
                self.path(base_offset, *kind),
            )
        });
        if let Err(error) = self.disk.rename_all(renames.collect()).await {
            return Err(self.fail(Operation::Rename, &to, error).into());
        }
        self.sync_dir(&dir).await?;
        std::mem::forget(abandoned);
        if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {
            segment.held_mut().swapped = None;
        }
        self.disk.discard(files).await;
        Ok(())
    }

    fn swap_path(&self, base_offset: i64, kind: FileKind) -> PathBuf {
        let name = file_name(Offset(base_offset), kind);
        self.dir().join(name + SWAP_SUFFIX)
    }
}

/// Whether the segments of `group` are in the log as they were.
fn are_there<F: LogFile>(state: &State<F>, group: &[Source]) -> bool {
    let at = state.segment_index(group[0].base_offset);
    let there = state.segments.iter().skip(at);
    let pairs = group.iter().zip(there);
    at + group.len() < state.segments.len()
        && pairs
            .filter(|(source, segment)| {
                source.base_offset == segment.base_offset && source.size == segment.size
            })
            .count()
            == group.len()
}

impl<F: LogFile> State<F> {
    /// Puts `segment` into the place of `group`, which is in the log, and returns what was there.
    fn replace(&mut self, group: &[Source], mut segment: Segment<F>) -> Vec<Segment<F>> {
        let at = self.segment_index(group[0].base_offset);
        let removed: Vec<Segment<F>> = self.segments.drain(at..at + group.len()).collect();
        if let Some(last) = removed.last() {
            segment.last_modified = last.last_modified;
        }
        self.segments.insert(at, segment);
        self.generation += 1;
        let is_gone = |base_offset: i64| removed.iter().any(|old| old.base_offset == base_offset);
        self.marks.retain(|mark| !is_gone(mark.base_offset));
        self.readers.retain(|mark| !is_gone(mark.base_offset));
        self.flushed = self.flushed.filter(|mark| !is_gone(mark.base_offset));
        removed
    }
}
