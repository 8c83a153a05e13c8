//! What a crash has left half done in a log's folder: deleted files, staging files, swaps of the cleaner.

use super::Loader;
use crate::storage::disk::{Disk, OpenMode};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::names::{
    CLEANED_SUFFIX, DELETED_SUFFIX, FileKind, SWAP_SUFFIX, parse_file_name,
};
use crate::storage::scan::{CheckedScan, Scanned};

impl<D: Disk> Loader<'_, D> {
    /// Removes what a crash has left half done.
    pub(super) async fn tidy(&self) -> Result<(), LogError> {
        let entries = self
            .disk
            .list(self.dir)
            .await
            .map_err(|error| LogError::Io(Failure::new(Operation::List, self.dir, error)))?;
        let mut swaps = Vec::new();
        let mut first_cleaned = i64::MAX;
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            let path = self.dir.join(&entry.name);
            let name = entry.name.as_str();
            if let Some(stem) = name.strip_suffix(CLEANED_SUFFIX) {
                if let Some((offset, FileKind::Log)) = parse_file_name(stem) {
                    first_cleaned = first_cleaned.min(offset.0);
                }
                self.remove_path(&path).await?;
            } else if name.ends_with(DELETED_SUFFIX) || name.ends_with(".tmp") {
                self.remove_path(&path).await?;
            } else if let Some(stem) = name.strip_suffix(SWAP_SUFFIX) {
                match parse_file_name(stem) {
                    Some((offset, FileKind::Log)) => swaps.push((offset.0, path, entry.len)),
                    // Indexes are made anew.
                    _ => self.remove_path(&path).await?,
                }
            }
        }
        // A swap that was taken back must not come back without the files that tell so.
        self.names_changed.set(!swaps.is_empty());
        for (base_offset, path, len) in swaps {
            if base_offset >= first_cleaned {
                // Part of a split that was not finished: the originals are still there.
                self.remove_path(&path).await?;
                continue;
            }
            let file = self
                .disk
                .open(&path, OpenMode::Read)
                .await
                .map_err(|error| LogError::Io(Failure::new(Operation::Open, &path, error)))?;
            let mut scan = CheckedScan::new(file, len, base_offset);
            while let Scanned::Batch { .. } = scan
                .next()
                .await
                .map_err(|error| LogError::Io(Failure::new(Operation::Read, &path, error)))?
            {
            }
            // The segments that it replaces.
            let names = self.list().await?;
            let end = scan.next_offset.max(base_offset + 1);
            for &old in names.logs.range(base_offset..end).map(|(old, _)| old) {
                for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex] {
                    self.remove(old, kind).await?;
                }
                if old != base_offset {
                    self.remove(old, FileKind::Log).await?;
                }
            }
            // It must not be there under its name together with one of them, whoever has removed that: a power cut could
            // bring it back.
            let synced = self.disk.sync_dir(self.dir).await;
            synced.map_err(|error| LogError::Io(Failure::new(Operation::Sync, self.dir, error)))?;
            self.rename(&path, &self.path(base_offset, FileKind::Log))
                .await?;
        }
        Ok(())
    }
}
