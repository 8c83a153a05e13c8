//! A segment that was left in order: its indexes say what there is to know, and of the active one the headers
//! behind their last entries.

use std::collections::BTreeMap;

use super::{Loader, Names};
use crate::storage::disk::Disk;
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::head::Head;
use crate::storage::index::{OffsetEntry, TimeEntry};
use crate::storage::names::FileKind;
use crate::storage::segment::{HeaderWalk, Segment, Step};
use crate::storage::txn_index::ABORTED_TXN_SIZE;

/// The last entries of the indexes of segments, by base offset.
#[derive(Default)]
pub(super) struct IndexEnds {
    offsets: BTreeMap<i64, [u8; 8]>,
    times: BTreeMap<i64, [u8; 12]>,
}

impl<D: Disk> Loader<'_, D> {
    /// Reads the last entries of the indexes of these segments, all in one call to the disk: a log may have
    /// hundreds of segments, and a node thousands of logs.
    pub(super) async fn index_ends(
        &self,
        bases: impl Iterator<Item = i64>,
        names: &Names,
    ) -> Result<IndexEnds, LogError> {
        let (mut places, mut pieces) = (Vec::new(), Vec::new());
        for base in bases {
            for (kind, sizes, size) in [
                (FileKind::Index, &names.indexes, 8),
                (FileKind::TimeIndex, &names.time_indexes, 12),
            ] {
                let entries = sizes.get(&base).map_or(0, |bytes| bytes / size);
                if let Some(last) = entries.checked_sub(1) {
                    places.push((base, kind));
                    pieces.push((self.path(base, kind), last * size, size as usize));
                }
            }
        }
        let mut ends = IndexEnds::default();
        if pieces.is_empty() {
            return Ok(ends);
        }
        let read = self.disk.read_pieces(pieces).await;
        let failed = |error| LogError::Io(Failure::new(Operation::Read, self.dir, error));
        for ((base, kind), bytes) in places.into_iter().zip(read.map_err(failed)?) {
            // One that has become shorter since does not fit its segment, and is made anew.
            match kind {
                FileKind::Index => {
                    let entry = bytes.first_chunk();
                    ends.offsets.extend(entry.map(|entry| (base, *entry)));
                }
                _ => {
                    let entry = bytes.first_chunk();
                    ends.times.extend(entry.map(|entry| (base, *entry)));
                }
            }
        }
        Ok(ends)
    }

    /// A segment by its indexes; `None` if they do not fit its `.log`.
    pub(super) async fn load_clean(
        &self,
        base_offset: i64,
        len: u64,
        modified: i64,
        next_base: Option<i64>,
        names: &Names,
        ends: &IndexEnds,
    ) -> Result<Option<(Segment<D::File>, Head, i64)>, LogError> {
        let (Some(&index_len), Some(&time_len)) = (
            names.indexes.get(&base_offset),
            names.time_indexes.get(&base_offset),
        ) else {
            // A segment without batches needs none.
            if len == 0 {
                let mut segment = Segment::new(base_offset, modified);
                // A closed one, of which the cleaner has left nothing, gets none.
                segment.indexes_synced = next_base.is_some();
                let head = Head::new(base_offset, self.now.0);
                return Ok(Some((segment, head, base_offset)));
            }
            return Ok(None);
        };
        let (Ok(size), true) = (u32::try_from(len), index_len % 8 == 0 && time_len % 12 == 0)
        else {
            return Ok(None);
        };
        let txn_index_len = names.txn_indexes.get(&base_offset).copied();
        if txn_index_len.unwrap_or(0) % ABORTED_TXN_SIZE as u64 != 0 {
            return Ok(None);
        }
        let mut segment = Segment::new(base_offset, modified);
        let (Ok(index_entries), Ok(time_entries)) =
            (u32::try_from(index_len / 8), u32::try_from(time_len / 12))
        else {
            return Ok(None);
        };
        if size == 0 && index_entries + time_entries > 0 {
            // Emptied after a crash, and it was killed again before that was on the device: for what is empty
            // nobody waits, and a power cut brought the entries back.
            return Ok(None);
        }
        segment.size = size;
        segment.synced_size = size;
        segment.indexes_synced = true;
        segment.has_txn_index = txn_index_len.is_some();
        segment.index_entries = index_entries;
        segment.time_entries = time_entries;
        let mut last_position = 0;
        if index_entries > 0 {
            let Some(entry) = ends.offsets.get(&base_offset) else {
                return Ok(None);
            };
            let entry = OffsetEntry::decode(*entry);
            if entry.position >= size || entry.relative_offset > i32::MAX as u32 {
                return Ok(None);
            }
            last_position = entry.position;
        }
        if time_entries > 0 {
            let Some(entry) = ends.times.get(&base_offset) else {
                return Ok(None);
            };
            let entry = TimeEntry::decode(*entry);
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
        ends: &IndexEnds,
    ) -> Result<bool, LogError> {
        let entry = ends.offsets.get(&base_offset);
        let position = entry.map_or(0, |entry| OffsetEntry::decode(*entry).position.into());
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
}

#[cfg(test)]
mod tests {
    use crate::base::Offset;
    use crate::storage::tests::{NOW, append, batch, create, memory, open, options, run, settings};

    #[test]
    fn a_clean_open_reads_the_ends_of_indexes_and_the_last_headers_only() {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        for tag in 0..2000 {
            append(&log, batch(tag, 2, NOW.0 + tag as i64));
            run(log.flush_closed()).unwrap();
            run(log.prepare()).unwrap();
        }
        let (segments, bytes) = (log.segment_count() as u64, log.size_bytes());
        assert!(segments > 100, "{segments}");
        run(log.close(NOW)).unwrap();
        let before = (disk.opens(), disk.read_bytes());
        let (log, report) = open(&disk, &data, &settings(), options(true));
        assert_eq!(report, Default::default());
        let (opens, read) = (disk.opens() - before.0, disk.read_bytes() - before.1);
        // Two indexes of each, and the active one itself.
        assert!(opens <= 2 * segments + 2, "{opens} for {segments}");
        assert!(read <= 20 * segments + 2 * 4096, "{read} of {bytes}");
        assert_eq!(log.open_files(), 0);
    }

    #[test]
    fn a_recovery_reads_the_segments_behind_the_recovery_point_only() {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        for tag in 0..2000 {
            append(&log, batch(tag, 2, NOW.0 + tag as i64));
            run(log.flush_closed()).unwrap();
            run(log.prepare()).unwrap();
        }
        let (segments, bytes) = (log.segment_count() as u64, log.size_bytes());
        let mut options = options(false);
        options.recovery_point = log.recovery_point();
        drop(log);
        let before = (disk.opens(), disk.read_bytes());
        let (log, report) = open(&disk, &data, &settings(), options);
        assert_eq!(report.recovered_segments, 1);
        let (opens, read) = (disk.opens() - before.0, disk.read_bytes() - before.1);
        assert!(opens <= 2 * segments + 20, "{opens} for {segments}");
        assert!(read <= 20 * segments + 8 * 4096, "{read} of {bytes}");
        assert_eq!(log.log_end_offset(), Offset(4000));
        assert_eq!(log.open_files(), 0);
    }
}
