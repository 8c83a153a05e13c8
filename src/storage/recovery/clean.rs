//! A segment that was left in order: its indexes say what there is to know, and of the active one the headers
//! behind their last entries.

use super::{Loader, Names};
use crate::storage::disk::{Disk, OpenMode};
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::head::Head;
use crate::storage::index::{OffsetEntry, SparseIndex, TimeEntry, read_entry};
use crate::storage::names::FileKind;
use crate::storage::segment::{HeaderWalk, Segment, Step};

impl<D: Disk> Loader<'_, D> {
    /// A segment by its indexes; `None` if they do not fit its `.log`.
    pub(super) async fn load_clean(
        &self,
        base_offset: i64,
        len: u64,
        modified: i64,
        next_base: Option<i64>,
        names: &Names,
    ) -> Result<Option<(Segment<D::File>, Head, i64)>, LogError> {
        let (Some(&index_len), Some(&time_len)) = (
            names.indexes.get(&base_offset),
            names.time_indexes.get(&base_offset),
        ) else {
            // A segment without batches needs none.
            if len == 0 {
                let segment = Segment::new(base_offset, modified);
                let head = Head::new(base_offset, self.now.0);
                return Ok(Some((segment, head, base_offset)));
            }
            return Ok(None);
        };
        let (Ok(size), true) = (u32::try_from(len), index_len % 8 == 0 && time_len % 12 == 0)
        else {
            return Ok(None);
        };
        let mut segment = Segment::new(base_offset, modified);
        let (Ok(index_entries), Ok(time_entries)) =
            (u32::try_from(index_len / 8), u32::try_from(time_len / 12))
        else {
            return Ok(None);
        };
        segment.size = size;
        segment.synced_size = size;
        segment.indexes_synced = true;
        segment.has_txn_index = names.txn_indexes.contains(&base_offset);
        segment.offset_index = SparseIndex::closed(index_entries);
        segment.time_index = SparseIndex::closed(time_entries);
        let mut last_position = 0;
        if index_entries > 0 {
            let entry = self
                .last_entry::<8>(base_offset, FileKind::Index, index_entries)
                .await?;
            let entry = OffsetEntry::decode(entry);
            if entry.position >= size || entry.relative_offset > i32::MAX as u32 {
                return Ok(None);
            }
            last_position = entry.position;
        }
        if time_entries > 0 {
            let entry = self
                .last_entry::<12>(base_offset, FileKind::TimeIndex, time_entries)
                .await?;
            let entry = TimeEntry::decode(entry);
            if entry.relative_offset > i32::MAX as u32 || entry.timestamp < 0 {
                return Ok(None);
            }
            segment.max_timestamp = entry.timestamp;
            segment.max_timestamp_offset = base_offset + i64::from(entry.relative_offset);
        }
        let mut head = Head::new(base_offset, self.now.0);
        if let Some(next_base) = next_base {
            return Ok(Some((segment, head, next_base)));
        }
        // The active segment: where does it end?
        head.size = u64::from(size);
        head.index_entries = index_entries;
        head.time_entries = time_entries;
        head.last_time_entry = segment.max_timestamp;
        let mut next_offset = base_offset;
        if size > 0 {
            let file = self.open(base_offset, FileKind::Log).await?;
            let read = |error| {
                LogError::Io(Failure::new(
                    Operation::Read,
                    &self.path(base_offset, FileKind::Log),
                    error,
                ))
            };
            let mut first = HeaderWalk::new(file.clone(), 0, len);
            match first.next().await.map_err(read)? {
                Step::Batch { header, .. } if header.base_offset.0 >= base_offset => {
                    head.first_timestamp = Some(header.max_timestamp.0);
                }
                _ => return Ok(None),
            }
            let mut walk = HeaderWalk::new(file, u64::from(last_position), len);
            loop {
                match walk.next().await.map_err(read)? {
                    Step::Batch { header, .. } => {
                        if header.base_offset.0 < next_offset {
                            return Ok(None);
                        }
                        next_offset = header.next_offset().0;
                        if header.max_timestamp.0 > segment.max_timestamp {
                            segment.max_timestamp = header.max_timestamp.0;
                            segment.max_timestamp_offset = header.last_offset().0;
                        }
                    }
                    Step::End => break,
                    Step::Bad { .. } => return Ok(None),
                }
            }
        }
        head.bytes_since_index = u64::from(size - last_position);
        head.max_timestamp = segment.max_timestamp;
        head.max_timestamp_offset = segment.max_timestamp_offset;
        Ok(Some((segment, head, next_offset)))
    }

    /// Whether the headers behind the last index entry lead to the end of the file.
    pub(super) async fn ends_with_a_batch(
        &self,
        base_offset: i64,
        len: u64,
        names: &Names,
    ) -> Result<bool, LogError> {
        let entries = names.indexes.get(&base_offset).map_or(0, |bytes| bytes / 8);
        let mut position = 0;
        if let Ok(entries @ 1..) = u32::try_from(entries) {
            let entry = self
                .last_entry::<8>(base_offset, FileKind::Index, entries)
                .await?;
            position = u64::from(OffsetEntry::decode(entry).position);
        }
        if position > len {
            return Ok(false);
        }
        let file = self.open(base_offset, FileKind::Log).await?;
        let mut walk = HeaderWalk::new(file, position, len);
        loop {
            let step = walk.next().await;
            match self.io(Operation::Read, base_offset, FileKind::Log, step)? {
                Step::Batch { .. } => {}
                Step::End => return Ok(true),
                Step::Bad { .. } => return Ok(false),
            }
        }
    }

    async fn last_entry<const N: usize>(
        &self,
        base_offset: i64,
        kind: FileKind,
        entries: u32,
    ) -> Result<[u8; N], LogError> {
        let path = self.path(base_offset, kind);
        let file = self.disk.open(&path, OpenMode::Read).await;
        let file = self.io(Operation::Open, base_offset, kind, file)?;
        let entry = read_entry(&file, entries - 1).await;
        self.io(Operation::Read, base_offset, kind, entry)
    }
}
