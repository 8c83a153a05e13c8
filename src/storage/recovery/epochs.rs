//! The leader epochs of a log that is opened.

use std::collections::VecDeque;

use super::{Loader, Names, SMALL_FILE_BYTES};
use crate::storage::disk::Disk;
use crate::storage::epoch_cache::{EpochCache, LEADER_EPOCH_CHECKPOINT};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::names::FileKind;
use crate::storage::segment::{HeaderWalk, Step};

impl<D: Disk> Loader<'_, D> {
    pub(super) async fn load_epochs(
        &self,
        names: &Names,
        segments: &VecDeque<(i64, u32)>,
    ) -> Result<EpochCache, LogError> {
        if !names.has_epochs {
            return Ok(EpochCache::new());
        }
        let path = self.dir.join(LEADER_EPOCH_CHECKPOINT);
        match self.disk.read_file(&path, SMALL_FILE_BYTES).await {
            Ok(bytes) => match EpochCache::decode(&bytes) {
                Ok(epochs) => Ok(epochs),
                Err(_) => {
                    self.unusable.borrow_mut().push(path);
                    self.epochs_of(segments).await
                }
            },
            Err(error) => Err(LogError::Io(Failure::new(Operation::Read, &path, error))),
        }
    }

    /// The leader epochs by the headers of all batches.
    async fn epochs_of(&self, segments: &VecDeque<(i64, u32)>) -> Result<EpochCache, LogError> {
        let mut epochs = EpochCache::new();
        for &(base_offset, size) in segments.iter().filter(|(_, size)| *size > 0) {
            let file = self.open(base_offset, FileKind::Log).await?;
            let mut walk = HeaderWalk::new(file, 0, u64::from(size));
            loop {
                let step = walk.next().await;
                match self.io(Operation::Read, base_offset, FileKind::Log, step)? {
                    Step::Batch { header, .. } => {
                        epochs.assign(header.partition_leader_epoch, header.base_offset);
                    }
                    Step::End | Step::Bad { .. } => break,
                }
            }
        }
        Ok(epochs)
    }
}
