//! The producers of a log that is opened: from a snapshot and the batches behind it.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use super::{Loader, Names, SMALL_FILE_BYTES};
use crate::base::{Offset, Timestamp};
use crate::records::BatchHeader;
use crate::records::control::EndTxnMarker;
use crate::storage::disk::{Disk, LogFile};
use crate::storage::epoch_cache::EpochCache;
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::log::Log;
use crate::storage::maintenance::write_whole;
use crate::storage::names::FileKind;
use crate::storage::producer_snapshot;
use crate::storage::producer_state::{ProducerEntry, ProducerState};
use crate::storage::segment::{HeaderWalk, Segment, Step};
use crate::storage::txn_index::AbortedTxn;

/// Largest control batch that is looked into; markers have less than 100 bytes.
const MAX_MARKER_BYTES: usize = 4096;

impl<D: Disk> Log<D> {
    /// Writes the snapshot of the producers at `offset`, where a segment begins, from what there is of the log and
    /// of older snapshots, and syncs it. The gates of closed segments and of preparations are held.
    pub(in crate::storage) async fn rebuild_snapshot(
        &self,
        offset: Offset,
        now: Timestamp,
    ) -> Result<(), LogError> {
        let (dir, settings) = (self.dir(), self.settings());
        let loader = Loader::new(&self.disk, &dir, &settings, now);
        let names = loader.list().await?;
        let (segments, start, expiration_ms) = {
            let state = self.state.borrow();
            let below = state.segments.iter().filter(|s| s.base_offset < offset.0);
            let below: VecDeque<(i64, u32)> = below.map(|s| (s.base_offset, s.size)).collect();
            // Not from the log start offset, which a power cut may take back.
            let start = state.segments[0].base_offset;
            (below, start, state.producer_expiration_ms)
        };
        let producers = loader
            .load_producers(
                &segments,
                &names,
                start,
                offset.0,
                &BTreeSet::new(),
                &mut EpochCache::new(),
                expiration_ms,
            )
            .await?;
        let content = producer_snapshot::encode(producers.producers());
        let path = self.path(offset.0, FileKind::Snapshot);
        let written = write_whole(&self.disk, &path, content, true).await;
        loader.io(Operation::Checkpoint, offset.0, FileKind::Snapshot, written)
    }

    /// Removes every snapshot: nothing is left of what they tell of. All gates are held.
    pub(in crate::storage) async fn remove_snapshots(
        &self,
        now: Timestamp,
    ) -> Result<(), LogError> {
        let (dir, settings) = (self.dir(), self.settings());
        let loader = Loader::new(&self.disk, &dir, &settings, now);
        for offset in loader.list().await?.snapshots {
            loader.remove(offset, FileKind::Snapshot).await?;
        }
        Ok(())
    }
}

impl<D: Disk> Loader<'_, D> {
    /// The producers at `end`: from a snapshot and the batches behind it. Writes the transaction indexes
    /// of the segments in `rebuilt`.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn load_producers(
        &self,
        segments: &VecDeque<(i64, u32)>,
        names: &Names,
        start: i64,
        end: i64,
        rebuilt: &BTreeSet<i64>,
        epochs: &mut EpochCache,
        expiration_ms: i64,
    ) -> Result<ProducerState, LogError> {
        // Transactions that end in a rebuilt segment must be seen from their beginning.
        let newest = rebuilt.first().copied().unwrap_or(end).min(end);
        let mut state = ProducerState::new(expiration_ms, Offset(start));
        let mut from = start;
        let pending = self.pending.keys().copied();
        let snapshots: BTreeSet<i64> = names.snapshots.iter().copied().chain(pending).collect();
        for &offset in snapshots.range(start..=newest.max(start)).rev() {
            if let Some(entries) = self.snapshot(offset).await? {
                let offset = Offset(offset);
                state = ProducerState::from_snapshot(expiration_ms, entries, offset, self.now);
                from = offset.0;
                break;
            }
        }
        for (i, &(base_offset, size)) in segments.iter().enumerate() {
            let next_base = segments.get(i + 1).map_or(end, |next| next.0);
            let is_rebuilt = rebuilt.contains(&base_offset);
            // The marker of a transaction that is open in an older snapshot may have been cleaned away.
            if base_offset > from
                && base_offset <= end
                && snapshots.contains(&base_offset)
                && let Some(entries) = self.snapshot(base_offset).await?
            {
                let offset = Offset(base_offset);
                state = ProducerState::from_snapshot(expiration_ms, entries, offset, self.now);
                from = base_offset;
            }
            if size == 0 && is_rebuilt {
                // What it had may be left.
                self.write_txn_index(base_offset, names, &[]).await?;
            }
            if next_base <= from && !is_rebuilt || size == 0 {
                continue;
            }
            let file = self.open(base_offset, FileKind::Log).await?;
            let mut walk = HeaderWalk::new(file.clone(), 0, u64::from(size));
            let mut aborted: Vec<AbortedTxn> = Vec::new();
            let mut of_segment = EpochCache::new();
            let mut of_segment_end = Offset(base_offset);
            let read = |error| {
                LogError::Io(Failure::new(
                    Operation::Read,
                    &self.path(base_offset, FileKind::Log),
                    error,
                ))
            };
            while let Step::Batch { position, header } = walk.next().await.map_err(read)? {
                if is_rebuilt {
                    of_segment.assign(header.partition_leader_epoch, header.base_offset);
                    of_segment_end = header.next_offset();
                }
                // The log may start within a batch.
                if header.last_offset().0 < from || header.base_offset.0 >= end {
                    continue;
                }
                let marker = self.marker(&file, position, &header).await.map_err(read)?;
                let completed = state.update(&header, marker.as_ref());
                aborted.extend(completed.and_then(|completed| completed.aborted()));
            }
            if is_rebuilt {
                // The cleaner may have taken the first batches of an epoch, behind the last one here.
                epochs.replace_range(Offset(base_offset), of_segment_end, &of_segment);
                self.write_txn_index(base_offset, names, &aborted).await?;
            }
        }
        if state.map_end_offset().0 < end {
            state.set_map_end_offset(Offset(end));
        }
        Ok(state)
    }

    /// The producers of a snapshot, written or not; `None` if there is none. What is spoiled is removed.
    async fn snapshot(&self, offset: i64) -> Result<Option<Vec<ProducerEntry>>, LogError> {
        if let Some(bytes) = self.pending.get(&offset) {
            return Ok(producer_snapshot::decode(bytes).ok());
        }
        let path = self.path(offset, FileKind::Snapshot);
        let read = self.disk.read_file(&path, SMALL_FILE_BYTES).await;
        let entries = match read {
            Ok(bytes) => producer_snapshot::decode(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Too large to be one.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            // It may well be right, and what the cleaner has taken stands nowhere else.
            Err(error) => {
                return Err(LogError::Io(Failure::new(Operation::Read, &path, error)));
            }
        };
        match entries {
            Some(entries) => Ok(Some(entries)),
            None => {
                self.remove_path(&path).await?;
                self.unusable.borrow_mut().push(path);
                Ok(None)
            }
        }
    }

    async fn write_txn_index(
        &self,
        base_offset: i64,
        names: &Names,
        aborted: &[AbortedTxn],
    ) -> Result<(), LogError> {
        if aborted.is_empty() && !names.txn_indexes.contains_key(&base_offset) {
            return Ok(());
        }
        let content: Vec<u8> = aborted.iter().flat_map(|txn| txn.encode()).collect();
        let path = self.path(base_offset, FileKind::TxnIndex);
        let written = write_whole(self.disk, &path, content, true).await;
        self.io(Operation::Write, base_offset, FileKind::TxnIndex, written)
    }

    async fn marker(
        &self,
        file: &D::File,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<Option<EndTxnMarker>> {
        if !header.is_control() || header.size_in_bytes() > MAX_MARKER_BYTES {
            return Ok(None);
        }
        let mut batch = vec![0; header.size_in_bytes()];
        let read = file.read_at(position, &mut batch).await?;
        batch.truncate(read);
        Ok(EndTxnMarker::of_batch(header, &batch).unwrap_or(None))
    }

    /// Removes snapshots that belong to no segment, except the newest.
    pub(super) async fn remove_stray_snapshots(
        &self,
        names: &Names,
        segments: &VecDeque<Segment<D::File>>,
        end: i64,
    ) -> Result<(), LogError> {
        let newest = names.snapshots.last().copied();
        for &offset in &names.snapshots {
            let is_base = segments.iter().any(|s| s.base_offset == offset);
            if !is_base && Some(offset) != newest && offset != end {
                self.remove_path(&self.path(offset, FileKind::Snapshot))
                    .await?;
            }
        }
        Ok(())
    }
}
