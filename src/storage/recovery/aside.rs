//! What is taken out of a log and kept beside it.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::{Loader, Names};
use crate::base::Offset;
use crate::storage::disk::{Disk, LogFile, OpenMode};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::names::{FileKind, cut_file_name};

impl<D: Disk> Loader<'_, D> {
    /// Copies what is about to be cut off beside the log.
    pub(super) async fn keep_tail(
        &self,
        base_offset: i64,
        file: &D::File,
        from: u64,
        to: u64,
    ) -> Result<PathBuf, LogError> {
        let path = self.dir.join(cut_file_name(Offset(base_offset), self.now));
        let copy = async {
            let kept = self.disk.open(&path, OpenMode::Truncate).await?;
            let mut at = from;
            while at < to {
                let mut chunk = vec![0; (to - at).min(1024 * 1024) as usize];
                let read = file.read_at(at, &mut chunk).await?;
                if read == 0 {
                    break;
                }
                chunk.truncate(read);
                let written = kept.write_at(at - from, vec![Bytes::from(chunk)]).await?;
                if written < read as u64 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                at += read as u64;
            }
            kept.sync_data().await
        };
        copy.await
            .map_err(|error| LogError::Io(Failure::new(Operation::Write, &path, error)))?;
        // Before the original is cut.
        self.disk
            .sync_dir(self.dir)
            .await
            .map_err(|error| LogError::Io(Failure::new(Operation::Sync, self.dir, error)))?;
        Ok(path)
    }

    /// Takes segments out of the log, and keeps those that have bytes beside it: how many bytes, and where.
    pub(super) async fn set_aside(
        &self,
        bases: &[i64],
        names: &Names,
    ) -> Result<(u64, Vec<PathBuf>), LogError> {
        let (mut bytes, mut kept) = (0, Vec::new());
        for &base_offset in bases {
            let len = names.logs[&base_offset].0;
            bytes += len;
            kept.extend(self.keep_segment(base_offset, len).await?);
        }
        for &base_offset in bases {
            for kind in [
                FileKind::Log,
                FileKind::Index,
                FileKind::TimeIndex,
                FileKind::TxnIndex,
            ] {
                self.remove(base_offset, kind).await?;
            }
        }
        Ok((bytes, kept))
    }

    /// Sets a whole segment behind damage aside.
    async fn keep_segment(&self, base_offset: i64, len: u64) -> Result<Option<PathBuf>, LogError> {
        if len == 0 {
            return Ok(None);
        }
        let to = self.dir.join(cut_file_name(Offset(base_offset), self.now));
        self.rename(&self.path(base_offset, FileKind::Log), &to)
            .await?;
        Ok(Some(to))
    }
}
